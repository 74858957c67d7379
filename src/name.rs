//! Builds names inside a customer's account from what a key says.
//!
//! Pure. A value from a key can never leave its place in the template: what the name may not hold is replaced, and
//! whenever something was replaced or cut, a hash of the original follows, so that two such inputs do not become one name.
//!
//! Names that have nothing replaced are as the template says, and two inputs become one name where the template joins their values
//! to the same text: in `{application}-{pod}-{date}`, the default and the customers' format, `web` + `a-b` and `web-a` + `b` both
//! are `web-a-b-DATE`, and their records share a stream of that tenant's own group. A template that separates its places by a slash,
//! which no value has, keeps all of them apart (`{application}/{pod}/{date}`).

pub mod bucket;
mod object_key;

use jiff::Timestamp;

pub use self::object_key::ObjectKeyTemplate;
use crate::route::Route;

/// Longest name of a log stream. Source: CloudWatch Logs API reference, CreateLogStream.
const MAX_STREAM_NAME: usize = 512;

/// A log stream's name with places for what a key says, checked once when the tenant's row is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Place(Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tenant,
    Cluster,
    Application,
    Pod,
    Date,
}

impl Place {
    /// What the route says; the date is not the route's.
    fn value(self, route: &Route) -> Option<&str> {
        match self {
            Self::Tenant => Some(&route.tenant),
            Self::Cluster => Some(&route.cluster),
            Self::Application => Some(&route.application),
            Self::Pod => Some(&route.pod),
            Self::Date => None,
        }
    }
}

const PLACES: [(&str, Place); 5] = [
    ("tenant", Place::Tenant),
    ("cluster", Place::Cluster),
    ("application", Place::Application),
    ("pod", Place::Pod),
    ("date", Place::Date),
];

impl StreamTemplate {
    /// One stream per pod and day.
    pub const DEFAULT: &'static str = "{application}-{pod}-{date}";

    /// Reads a template such as `{cluster}/{application}-{pod}-{date}`.
    ///
    /// # Errors
    /// Says what a log stream's name, or this template, cannot have.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_STREAM_NAME {
            return Err(format!("a template has 1 to {MAX_STREAM_NAME} characters, not {}", text.len()));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(open);
            let close = tail.find('}').filter(|_| tail.starts_with('{'));
            let close = close.ok_or_else(|| format!("{text:?} has a brace without its partner"))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let name = &tail[1..close];
            let place = PLACES.iter().find(|(known, _)| *known == name).map(|(_, place)| *place).ok_or_else(|| {
                format!("{{{name}}} is unknown; known are {{tenant}}, {{cluster}}, {{application}}, {{pod}} and {{date}}")
            })?;
            parts.push(Part::Place(place));
            rest = &tail[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if let Some(Part::Literal(bad)) =
            parts.iter().find(|part| matches!(part, Part::Literal(l) if !l.chars().all(legal)))
        {
            return Err(format!(
                "{bad:?} has a character that no log stream's name may have (':', '*', control)"
            ));
        }
        Ok(Self { parts })
    }

    /// The name for an object's records; `at` is the object's time, whose UTC date is used.
    pub fn render(&self, route: &Route, at: Timestamp) -> String {
        let mut name = String::new();
        let mut altered = false;
        for part in &self.parts {
            match part {
                Part::Literal(literal) => name.push_str(literal),
                Part::Place(place) => {
                    let Some(value) = place.value(route) else {
                        name.push_str(&at.strftime("%Y-%m-%d").to_string());
                        continue;
                    };
                    for character in value.chars() {
                        let kept = legal(character) && character != '/';
                        altered |= !kept;
                        name.push(if kept { character } else { '_' });
                    }
                }
            }
        }
        if name.is_empty() {
            name.push('_');
        }
        if altered || name.chars().count() > MAX_STREAM_NAME {
            let suffix = format!("-{:016x}", self.fingerprint(route));
            name = name.chars().take(MAX_STREAM_NAME - suffix.len()).collect();
            name.push_str(&suffix);
        }
        name
    }

    /// A short name that begins with `base`, which has no slash, and that no object's name in this template can be: a name has
    /// as many slashes as the template itself, since values bring none.
    pub fn never_rendered(&self, base: &str) -> String {
        let slash = |part: &Part| matches!(part, Part::Literal(literal) if literal.contains('/'));
        if self.parts.iter().any(slash) { base.to_owned() } else { format!("{base}/probe") }
    }

    /// FNV-1a, 64 bits, over the values as they are: stable between versions and machines, which the hasher of the
    /// standard library is not.
    fn fingerprint(&self, route: &Route) -> u64 {
        let values = self.parts.iter().filter_map(|part| match part {
            Part::Place(place) => place.value(route),
            Part::Literal(_) => None,
        });
        // A byte that no UTF-8 has keeps "ab" + "c" and "a" + "bc" apart.
        let bytes = values.flat_map(|value| value.bytes().chain([0xff]));
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl Default for StreamTemplate {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default is right")
    }
}

/// What a log stream's name may hold. Source: CloudWatch Logs API reference, `[^:*]*`; control characters are our own
/// exception, nobody can read them.
fn legal(character: char) -> bool {
    !matches!(character, ':' | '*') && !character.is_control()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(application: &str, pod: &str) -> Route {
        Route {
            tenant: "acme".into(),
            cluster: "c1".into(),
            application: application.into(),
            pod: pod.into(),
            file: "f".into(),
        }
    }

    fn render(template: &str, route: &Route) -> String {
        let at = "2026-11-21T23:59:59.999Z".parse().expect("a timestamp");
        StreamTemplate::parse(template).expect("the template is right").render(route, at)
    }

    #[test]
    fn names_follow_the_template() {
        assert_eq!(render(StreamTemplate::DEFAULT, &route("web", "web-1")), "web-web-1-2026-11-21");
        assert_eq!(render("{tenant}/{cluster}/x", &route("", "")), "acme/c1/x");
        assert_eq!(render("{application}", &route("", "")), "_");
    }

    #[test]
    fn values_meet_where_the_template_joins_them() {
        let meet =
            |template| render(template, &route("web", "a-b")) == render(template, &route("web-a", "b"));
        assert!(meet(StreamTemplate::DEFAULT), "as the module's documentation says");
        assert!(!meet("{application}/{pod}/{date}"));
        // One whose slash was replaced has a hash behind it, and does not meet one that has the same text as it is.
        assert_ne!(render("{pod}", &route("", "a/b")), render("{pod}", &route("", "a_b")));
    }

    #[test]
    fn a_value_cannot_leave_its_place() {
        let name = render("logs/{pod}", &route("", "../../other"));
        assert!(name.starts_with("logs/.._.._other-"), "{name}");
        let colon = render("{pod}", &route("", "a:b*c"));
        assert!(colon.starts_with("a_b_c-"), "{colon}");
        assert_ne!(colon, render("{pod}", &route("", "a*b:c")));
        assert_eq!(render("{pod}", &route("", "{application}")), "{application}");
    }

    #[test]
    fn long_names_are_cut_and_stay_apart() {
        let (a, b) =
            (render("{pod}", &route("", &"é".repeat(600))), render("{pod}", &route("", &"é".repeat(601))));
        assert_eq!(a.chars().count(), 512);
        assert_ne!(a, b);
    }

    #[test]
    fn bad_templates_are_errors() {
        for (template, part) in [
            ("", "1 to 512"),
            ("{pod", "without its partner"),
            ("pod}", "without its partner"),
            ("{namespace}", "{namespace} is unknown"),
            ("a:{pod}", "may have"),
            ("*", "may have"),
        ] {
            let error = StreamTemplate::parse(template).expect_err("not a template");
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_never_rendered_is_not(values in prop::collection::vec("[a-z/-]{0,20}|doctor|doctor/probe", 2)) {
            for template in ["{application}", "{application}-{pod}", "{application}/{pod}", "x/{application}", "logferry-{pod}"] {
                let parsed = StreamTemplate::parse(template).expect("the template is right");
                let never = parsed.never_rendered("logferry-doctor");
                prop_assert!(never.chars().all(legal));
                prop_assert_ne!(render(template, &route(&values[0], &values[1])), never);
            }
        }

        #[test]
        fn every_name_is_legal(application in ".{0,300}", pod in ".{0,300}") {
            let name = render(StreamTemplate::DEFAULT, &route(&application, &pod));
            prop_assert!((1..=512).contains(&name.chars().count()));
            prop_assert!(name.chars().all(legal));
        }
    }
}
