//! Builds the names of log streams and copies in a customer's account from an object's key.
//!
//! Pure. A value from a key stays within its place in the template: characters that the name must not have are
//! replaced. If characters were replaced or the name was cut, a hash of the original values is appended, so that
//! different values give different names.
//!
//! A name without a hash can be the same for different values, if the template joins them to the same text. With the
//! default template `{application}-{pod}-{date}`, both `web` + `a-b` and `web-a` + `b` give `web-a-b-DATE`, and their
//! records share a stream of the tenant's own log group. A template with slashes between its places, such as
//! `{application}/{pod}/{date}`, always gives different names, because values have no slashes.

pub mod bucket;
mod lake;
mod object_key;

use std::sync::Arc;

use jiff::Timestamp;

pub use self::{
    lake::{FolderTime, LakeLayout, LakePart, LakeSegment, MANIFESTS, TimePart},
    object_key::ObjectKeyTemplate,
};
use crate::route::{Name, Route};

/// Longest name of a log stream. Source: CloudWatch Logs API reference, CreateLogStream.
const MAX_STREAM_NAME: usize = 512;

/// Template of a log stream's name, with places for values of an object's key. Parsed once, when the tenant's row is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Name(Name),
    Date,
    LogStream,
}

impl StreamTemplate {
    /// Default template: a stream for each pod and day.
    pub const DEFAULT: &'static str = "{application}-{pod}-{date}";

    /// Reads a template such as `{cluster}/{application}-{pod}-{date}`.
    ///
    /// # Errors
    /// The text is not a template, or no log stream can have such a name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > MAX_STREAM_NAME {
            return Err(format!(
                "a template of a log stream's name has 1 to {MAX_STREAM_NAME} bytes, not {}",
                text.len()
            ));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(open);
            let close = tail.find('}').filter(|_| tail.starts_with('{'));
            let close = close
                .ok_or_else(|| format!("{text:?} has an opening or closing brace without the other one"))?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let name = &tail[..=close];
            parts.push(match Name::parse(name) {
                Some(name) if name != Name::File => Part::Name(name),
                None if name == "{date}" => Part::Date,
                None if name == "{log_stream}" => Part::LogStream,
                _ => {
                    let names = "{tenant}, {cluster}, {application}, {pod}, {date} and {log_stream}";
                    return Err(format!("{name} is unknown; the names are {names}"));
                }
            });
            rest = &tail[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if let Some(Part::Literal(bad)) =
            parts.iter().find(|part| matches!(part, Part::Literal(l) if !l.chars().all(legal)))
        {
            return Err(format!(
                "{bad:?} has a character that no log stream's name may have (':', '*' or a control character)"
            ));
        }
        Ok(Self { parts })
    }

    /// Builds the log stream's name for the records of an object. The date is the UTC date of `at`, the object's time.
    /// `log_stream` is the stream that the records come from; empty if the object names none.
    pub fn render(&self, route: &Route, at: Timestamp, log_stream: &str) -> String {
        let mut name = String::new();
        let mut altered = false;
        let mut confine = |name: &mut String, value: &str| {
            for character in value.chars() {
                let kept = legal(character) && character != '/';
                altered |= !kept;
                name.push(if kept { character } else { '_' });
            }
        };
        for part in &self.parts {
            match part {
                Part::Literal(literal) => name.push_str(literal),
                Part::Date => name.push_str(&at.strftime("%Y-%m-%d").to_string()),
                Part::Name(part) => confine(&mut name, part.value(route)),
                Part::LogStream => confine(&mut name, log_stream),
            }
        }
        if name.is_empty() {
            name.push('_');
        }
        if altered || name.chars().count() > MAX_STREAM_NAME {
            let suffix = format!("-{:016x}", self.fingerprint(route, log_stream));
            name = name.chars().take(MAX_STREAM_NAME - suffix.len()).collect();
            name.push_str(&suffix);
        }
        name
    }

    /// Returns a short name that begins with `base` and that [`render`](Self::render) never returns. `base` must have
    /// no slash. Every rendered name has as many slashes as the template, because values have none; the returned name has
    /// another number of slashes.
    pub fn never_rendered(&self, base: &str) -> String {
        let slash = |part: &Part| matches!(part, Part::Literal(literal) if literal.contains('/'));
        if self.parts.iter().any(slash) { base.to_owned() } else { format!("{base}/probe") }
    }

    /// Hashes the original values with 64-bit FNV-1a. Unlike the standard library's hasher, FNV-1a gives the same hash
    /// in all versions and on all machines.
    fn fingerprint(&self, route: &Route, log_stream: &str) -> u64 {
        let values = self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.value(route)),
            Part::LogStream => Some(log_stream),
            Part::Literal(_) | Part::Date => None,
        });
        // UTF-8 never has the byte 0xff, so the hashes of "ab" + "c" and "a" + "bc" differ.
        let bytes = values.flat_map(|value| value.bytes().chain([0xff]));
        bytes
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// Names of the log streams of one object's records.
#[derive(Clone, Debug)]
pub struct StreamNames {
    template: StreamTemplate,
    route: Route,
    at: Timestamp,
    /// The log stream that the previous record comes from.
    from: Option<Arc<str>>,
}

impl StreamNames {
    /// Names that follow `template` for the records of an object with this route and time. `None` if all records have the same
    /// name.
    pub fn new(template: &StreamTemplate, route: &Route, at: Timestamp) -> Option<Self> {
        let varies = template.parts.contains(&Part::LogStream);
        varies.then(|| Self { template: template.clone(), route: route.clone(), at, from: None })
    }

    /// Returns the name for a record that comes from the log stream `from`, or `None` if it is the name of the record before. The
    /// record before the first one counts as one that comes from no log stream.
    pub fn next(&mut self, from: Option<&Arc<str>>) -> Option<String> {
        if self.from.as_ref() == from {
            return None;
        }
        self.from = from.cloned();
        Some(self.template.render(&self.route, self.at, from.map_or("", |from| &**from)))
    }
}

impl Default for StreamTemplate {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default is valid")
    }
}

/// Whether a log stream's name may have the character. CloudWatch Logs allows `[^:*]*` (source: its API reference);
/// logferry also replaces control characters, because they are invisible.
fn legal(character: char) -> bool {
    !matches!(character, ':' | '*') && !character.is_control()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(application: &str, pod: &str) -> Route {
        Route::of(["acme", "c1", application, pod, "f"])
    }

    fn render(template: &str, route: &Route) -> String {
        render_from("", template, route)
    }

    fn render_from(log_stream: &str, template: &str, route: &Route) -> String {
        let at = "2026-11-21T23:59:59.999Z".parse().expect("a timestamp");
        StreamTemplate::parse(template).expect("the template is valid").render(route, at, log_stream)
    }

    #[test]
    fn the_stream_that_records_come_from_has_a_place_too() {
        let route = route("web", "web-0");
        assert_eq!(render_from("i-0123", "{application}/{log_stream}", &route), "web/i-0123");
        assert_eq!(render_from("", "{log_stream}", &route), "_");
        let [one, two] = ["2026/11/27/[$LATEST]a", "2026/11_27/[$LATEST]a"]
            .map(|from| render_from(from, "{log_stream}", &route));
        assert!(one.starts_with("2026_11_27_[$LATEST]a-") && one != two, "{one} {two}");
        let names = |template| {
            StreamNames::new(&StreamTemplate::parse(template).expect("valid"), &route, Timestamp::MAX)
        };
        assert!(names("{pod}").is_none());
        let mut names = names("{log_stream}").expect("it has the place");
        let [a, b]: [Arc<str>; 2] = ["a".into(), "b".into()];
        let found: Vec<_> = [Some(&a), Some(&a), Some(&b), Some(&Arc::from("b")), None, None, Some(&a)]
            .map(|from| names.next(from))
            .into();
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(found, [name("a"), None, name("b"), None, name("_"), None, name("a")]);
    }

    #[test]
    fn names_follow_the_template() {
        assert_eq!(render(StreamTemplate::DEFAULT, &route("web", "web-1")), "web-web-1-2026-11-21");
        assert_eq!(render("{tenant}/{cluster}/x", &route("", "")), "acme/c1/x");
        assert_eq!(render("{application}", &route("", "")), "_");
    }

    #[test]
    fn a_template_without_slashes_can_give_different_values_the_same_name() {
        let same =
            |template| render(template, &route("web", "a-b")) == render(template, &route("web-a", "b"));
        assert!(same(StreamTemplate::DEFAULT), "as the module's documentation says");
        assert!(!same("{application}/{pod}/{date}"));
        // A name with a replaced slash ends with a hash, so it differs from the same name without a replacement.
        assert_ne!(render("{pod}", &route("", "a/b")), render("{pod}", &route("", "a_b")));
    }

    #[test]
    fn a_value_stays_within_its_place() {
        let name = render("logs/{pod}", &route("", "../../other"));
        assert!(name.starts_with("logs/.._.._other-"), "{name}");
        let colon = render("{pod}", &route("", "a:b*c"));
        assert!(colon.starts_with("a_b_c-"), "{colon}");
        assert_ne!(colon, render("{pod}", &route("", "a*b:c")));
        assert_eq!(render("{pod}", &route("", "{application}")), "{application}");
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) =
            (render("{pod}", &route("", &"é".repeat(600))), render("{pod}", &route("", &"é".repeat(601))));
        assert_eq!(a.chars().count(), 512);
        assert_ne!(a, b);
    }

    #[test]
    fn a_name_is_cut_only_if_it_is_longer_than_512_characters() {
        let pods = [511, 512, 513].map(|length| render("{pod}", &route("", &"x".repeat(length))));
        assert_eq!(pods.each_ref().map(String::len), [511, 512, 512]);
        assert!(pods[1].ends_with("xx") && !pods[2].ends_with("xx"));
    }

    #[test]
    fn the_hash_is_the_same_in_all_versions() {
        // FNV-1a of "a:" and a byte 0xff, computed by another implementation.
        assert_eq!(render("{pod}", &route("", "a:")), "a_-e6622e1904a11c27");
        // The end of each value counts.
        let joined = |application, pod| render("{application}{pod}", &route(application, pod));
        assert_ne!(joined("a:", "b"), joined("a", ":b"));
    }

    #[test]
    fn bad_templates_are_errors() {
        assert!(StreamTemplate::parse(&"x".repeat(512)).is_ok());
        assert!(StreamTemplate::parse(&"x".repeat(513)).is_err_and(|error| error.contains("not 513")));
        for (template, part) in [
            ("", "1 to 512"),
            ("{file}", "{file} is unknown"),
            ("{pod", "without the other"),
            ("pod}", "without the other"),
            ("{namespace}", "{namespace} is unknown"),
            ("a:{pod}", "may have"),
            ("{pod}:x", "\":x\""),
            ("*", "may have"),
        ] {
            let error = StreamTemplate::parse(template).expect_err("not a template");
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_rendered_returns_a_name_that_no_object_has(values in prop::collection::vec("[a-z/-]{0,20}|doctor|doctor/probe", 2)) {
            for template in ["{application}", "{application}-{pod}", "{application}/{pod}", "x/{application}", "logferry-{pod}"] {
                let parsed = StreamTemplate::parse(template).expect("the template is valid");
                let never = parsed.never_rendered("logferry-doctor");
                prop_assert!(never.starts_with("logferry-doctor") && never.chars().all(legal));
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
