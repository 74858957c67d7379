//! Keys and names: a routed key can be rebuilt from its route, and every name is legal in CloudWatch Logs.

use jiff::Timestamp;
use logferry::{
    name::StreamTemplate,
    route::{KeyLayout, Route},
};

/// `data` is a layout, a template and a key: one line each, and the key takes the rest. An empty line selects the default.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\n');
    let mut part = |default| parts.next().filter(|part| !part.is_empty()).unwrap_or(default);
    let (layout, template, key) = (part(KeyLayout::DEFAULT), part(StreamTemplate::DEFAULT), part(""));
    let pieces: Vec<_> = key.split(['/', '|']).collect();
    if let Ok(parsed) = KeyLayout::parse(layout) {
        routes(&parsed, layout, key);
        routes(&parsed, layout, &fitting(layout, &pieces));
    }
    let piece = |index: usize| pieces.get(index).copied().unwrap_or_default().to_owned();
    let mut route =
        Route { tenant: piece(0), cluster: piece(1), application: piece(2), pod: piece(3), file: piece(4) };
    if let Ok(parsed) = StreamTemplate::parse(template) {
        names(&parsed, template, &route);
    }
    // Two pods must not get the same name because characters were replaced or cut.
    let pod = StreamTemplate::parse("{pod}").expect("a legal template");
    let name = pod.render(&route, Timestamp::UNIX_EPOCH, "");
    for other in [piece(1), piece(2), piece(3) + ":", piece(3).replace('_', "*"), piece(3).replace(':', "*")]
    {
        let differs = other != route.pod && !other.is_empty() && !route.pod.is_empty();
        let before = std::mem::replace(&mut route.pod, other);
        if differs {
            assert_ne!(pod.render(&route, Timestamp::UNIX_EPOCH, ""), name, "{:?} and {before:?}", route.pod);
        }
        route.pod = before;
    }
}

fn is_legal(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(char::is_control)
}

/// A key that fits the layout, made of these pieces where they are legal.
fn fitting(layout: &str, pieces: &[&str]) -> String {
    let mut legal = pieces.iter().copied().filter(|piece| is_legal(piece));
    let parts: Vec<_> = layout
        .split('/')
        .map(|part| if part.starts_with('{') { legal.next().unwrap_or("x") } else { part })
        .collect();
    parts.join("/")
}

fn routes(parsed: &KeyLayout, layout: &str, key: &str) {
    let segments: Vec<String> = layout.split('/').map(str::to_owned).collect();
    let parts: Vec<_> = key.split('/').collect();
    let fits = key.len() <= 1024
        && parts.len() == segments.len()
        && parts.iter().all(|part| is_legal(part))
        && segments.iter().zip(&parts).all(|(segment, part)| segment.starts_with('{') || segment == part);
    match parsed.route(key) {
        Ok(route) => {
            assert!(fits, "{key:?} does not fit {layout}, but is routed to {route:?}");
            let Route { tenant, cluster, application, pod, file } = &route;
            let named = [
                ("{tenant}", tenant),
                ("{cluster}", cluster),
                ("{application}", application),
                ("{pod}", pod),
                ("{file}", file),
            ];
            for (name, value) in named {
                assert_eq!(
                    is_legal(value) && !value.contains('/'),
                    segments.iter().any(|s| s == name),
                    "{route:?}"
                );
            }
            let value = |segment: &String| {
                named
                    .iter()
                    .find(|(name, _)| name == segment)
                    .map_or(segment.clone(), |(_, value)| (*value).clone())
            };
            assert_eq!(segments.iter().map(value).collect::<Vec<_>>().join("/"), key);
        }
        Err(error) => assert!(!fits, "{key:?} fits {layout}: {error}"),
    }
}

fn names(parsed: &StreamTemplate, template: &str, route: &Route) {
    // The length of the route selects the day.
    let days = route.pod.len() + 1000 * route.tenant.len();
    let at = Timestamp::from_second(86_400 * i64::try_from(days % 2_900_000).expect("the number is small"))
        .expect("a day before the year 9999");
    let log_stream = &route.file;
    let name = parsed.render(route, at, log_stream);
    assert!((1..=512).contains(&name.chars().count()), "{name:?}");
    assert!(!name.contains([':', '*']) && !name.contains(char::is_control), "{name:?}");
    // If no character must be replaced, the name is the template with the values inserted.
    let values = [&route.tenant, &route.cluster, &route.application, &route.pod, log_stream];
    if values
        .iter()
        .any(|value| value.contains(['{', '}', ':', '*', '/']) || value.contains(char::is_control))
    {
        return;
    }
    let plain = template
        .replace("{tenant}", &route.tenant)
        .replace("{cluster}", &route.cluster)
        .replace("{application}", &route.application)
        .replace("{pod}", &route.pod)
        .replace("{log_stream}", log_stream)
        .replace("{date}", &at.strftime("%Y-%m-%d").to_string());
    if plain.chars().count() <= 512 {
        assert_eq!(name, if plain.is_empty() { "_" } else { &plain });
    }
}
