//! Reads the tenant, cluster, application, pod and file from an object's key.
//!
//! Pure. A key that does not match the layout exactly is an error, never a guess: a wrong guess would deliver one
//! customer's lines to another customer's account.

mod rules;

pub use self::rules::{Rule, RuleError, RuleValues, Rules};

/// Longest key of an object. Source: S3 User Guide, "Naming Amazon S3 objects".
const MAX_KEY_BYTES: usize = 1024;

/// Meaning of each segment of a key. Parsed once, at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    /// `None`: any segment.
    segments: Vec<Option<Segment>>,
}

/// A segment of a layout that may be anything and has no meaning.
const ANY: &str = "*";

/// A segment of a layout or of a key template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(String),
    Name(Name),
}

/// Meaning of a segment: a field of [`Route`].
#[expect(missing_docs, reason = "the fields of a route say it")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Tenant,
    Cluster,
    Application,
    Pod,
    File,
}

const NAMES: [(&str, Name); 5] = [
    ("{tenant}", Name::Tenant),
    ("{cluster}", Name::Cluster),
    ("{application}", Name::Application),
    ("{pod}", Name::Pod),
    ("{file}", Name::File),
];

impl Name {
    /// Reads a name in braces.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        NAMES.iter().find(|(spelling, _)| *spelling == text).map(|(_, name)| *name)
    }

    /// The name's value in a route.
    pub(crate) fn value(self, route: &Route) -> &str {
        match self {
            Self::Tenant => &route.tenant,
            Self::Cluster => &route.cluster,
            Self::Application => &route.application,
            Self::Pod => &route.pod,
            Self::File => &route.file,
        }
    }
}

/// Names in an object's key. A name that the layout does not have is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The tenant: `tenant_id` in the tenant table.
    pub tenant: String,
    /// The cluster.
    pub cluster: String,
    /// The application, which a delivery's `desired_logs` selects.
    pub application: String,
    /// The pod.
    pub pod: String,
    /// The file: the last segment of the key.
    pub file: String,
}

/// Reason why a layout cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A segment has braces, but is none of the known names.
    #[error(
        "{0} is not a known name; the names are {{tenant}}, {{cluster}}, {{application}}, {{pod}} and {{file}}"
    )]
    UnknownName(String),
    /// A name occurs twice.
    #[error("{0} occurs twice")]
    Twice(String),
    /// `{tenant}` is missing.
    #[error("{{tenant}} is missing")]
    NoTenant,
    /// `{file}` is not the last segment.
    #[error("{{file}} must be the last segment")]
    FileNotLast,
    /// A literal segment that no key can have.
    #[error("no key can have the segment {0:?}: it has a control character, or is \".\" or \"..\"")]
    IllegalLiteral(String),
    /// A segment is empty, as in `a//b` or `/a`.
    #[error("a segment is empty")]
    EmptySegment,
}

/// Reason why a key does not match the layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key has more or fewer segments than the layout.
    #[error("the key has {found} segments, and the layout has {expected}")]
    SegmentCount {
        /// Number of segments of the key.
        found: usize,
        /// Number of segments of the layout.
        expected: usize,
    },
    /// A segment is empty. Positions count from 1.
    #[error("segment {0} of the key is empty")]
    EmptySegment(usize),
    /// The key is longer than S3 allows.
    #[error("the key has {0} bytes, and S3 allows {MAX_KEY_BYTES}")]
    TooLong(usize),
    /// A segment is `.` or `..`.
    #[error("segment {0} of the key is \".\" or \"..\"")]
    Traversal(usize),
    /// A segment has a control character.
    #[error("segment {0} of the key has a control character")]
    ControlCharacter(usize),
    /// A segment differs from the literal in the layout.
    #[error("segment {at} of the key is not {expected:?}")]
    NotLiteral {
        /// Position of the segment, from 1.
        at: usize,
        /// The literal.
        expected: String,
    },
}

impl KeyLayout {
    /// Layout of the keys that Vector writes with logferry's configuration.
    pub const DEFAULT: &'static str = "{tenant}/{cluster}/{application}/{pod}/{file}";

    /// Reads a layout such as `logs/{cluster}/{tenant}/{application}/{pod}/{file}`. A segment `*` may be anything.
    ///
    /// # Errors
    /// The layout cannot be used.
    pub fn parse(text: &str) -> Result<Self, LayoutError> {
        let layout = Self::parse_without_tenant(text)?;
        if !layout.segments.contains(&Some(Segment::Name(Name::Tenant))) {
            return Err(LayoutError::NoTenant);
        }
        Ok(layout)
    }

    /// Reads a layout that need not have `{tenant}`.
    fn parse_without_tenant(text: &str) -> Result<Self, LayoutError> {
        let mut segments = Vec::new();
        for segment in text.split('/') {
            segments.push(match Name::parse(segment) {
                _ if segment == ANY => None,
                Some(name) if segments.contains(&Some(Segment::Name(name))) => {
                    return Err(LayoutError::Twice(segment.to_owned()));
                }
                Some(name) => Some(Segment::Name(name)),
                None if segment.is_empty() => return Err(LayoutError::EmptySegment),
                None if segment.contains(['{', '}']) => {
                    return Err(LayoutError::UnknownName(segment.to_owned()));
                }
                None if segment.contains(char::is_control) || matches!(segment, "." | "..") => {
                    return Err(LayoutError::IllegalLiteral(segment.to_owned()));
                }
                None => Some(Segment::Literal(segment.to_owned())),
            });
        }
        if segments.last() != Some(&Some(Segment::Name(Name::File))) {
            return Err(LayoutError::FileNotLast);
        }
        Ok(Self { segments })
    }

    /// Reads a decoded key.
    ///
    /// # Errors
    /// The key does not match the layout; see [`KeyError`].
    pub fn route(&self, key: &str) -> Result<Route, KeyError> {
        // These checks come before the check of the number of segments, because their errors are more precise.
        legal_segments(key)?;
        let (found, expected) = (key.split('/').count(), self.segments.len());
        if found != expected {
            return Err(KeyError::SegmentCount { found, expected });
        }
        let mut route = Route::default();
        for (index, (segment, part)) in self.segments.iter().zip(key.split('/')).enumerate() {
            let name = match segment {
                None => continue,
                Some(Segment::Literal(literal)) if literal == part => continue,
                Some(Segment::Literal(literal)) => {
                    return Err(KeyError::NotLiteral { at: index + 1, expected: literal.clone() });
                }
                Some(Segment::Name(name)) => name,
            };
            let field = match name {
                Name::Tenant => &mut route.tenant,
                Name::Cluster => &mut route.cluster,
                Name::Application => &mut route.application,
                Name::Pod => &mut route.pod,
                Name::File => &mut route.file,
            };
            part.clone_into(field);
        }
        Ok(route)
    }

    /// The start that all keys have: the literal segments before the first name.
    fn literal_start(&self) -> String {
        let literals = self.segments.iter().map_while(|segment| match segment {
            Some(Segment::Literal(literal)) => Some(format!("{literal}/")),
            _ => None,
        });
        literals.collect()
    }

    /// A prefix of keys of this tenant, with `filler` for other names before the tenant. `None` if there are such names, and no
    /// filler.
    fn sample_prefix(&self, tenant: &str, filler: Option<&str>) -> Option<String> {
        let mut prefix = String::new();
        for segment in &self.segments {
            prefix += match segment {
                Some(Segment::Literal(literal)) => literal,
                Some(Segment::Name(Name::Tenant)) => return Some(prefix + tenant + "/"),
                Some(Segment::Name(_)) | None => filler?,
            };
            prefix.push('/');
        }
        None
    }

    /// Returns the beginning that all keys of a tenant have, and no key of another tenant: the literals before `{tenant}`, and the
    /// tenant. `None` if the layout has other names before `{tenant}`.
    pub fn prefix_of(&self, tenant: &str) -> Option<String> {
        self.sample_prefix(tenant, None)
    }

    /// Returns the part of a key up to the slash after the tenant. No key of another tenant has this prefix. The key must
    /// match the layout.
    pub fn tenant_prefix<'a>(&self, key: &'a str) -> &'a str {
        let tenant = self.segments.iter().position(|segment| *segment == Some(Segment::Name(Name::Tenant)));
        let slashes = key.match_indices('/').map(|(at, _)| at);
        tenant.and_then(|tenant| slashes.into_iter().nth(tenant)).map_or(key, |slash| &key[..=slash])
    }
}

/// Checks that a key's length and segments are legal.
fn legal_segments(key: &str) -> Result<(), KeyError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(KeyError::TooLong(key.len()));
    }
    for (at, part) in key.split('/').enumerate().map(|(index, part)| (index + 1, part)) {
        if part.is_empty() {
            return Err(KeyError::EmptySegment(at));
        }
        if part == "." || part == ".." {
            return Err(KeyError::Traversal(at));
        }
        if part.chars().any(char::is_control) {
            return Err(KeyError::ControlCharacter(at));
        }
    }
    Ok(())
}

#[cfg(test)]
impl Route {
    /// Tenant, cluster, application, pod and file.
    pub(crate) fn of(names: [&str; 5]) -> Self {
        let [tenant, cluster, application, pod, file] = names.map(str::to_owned);
        Self { tenant, cluster, application, pod, file }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(layout: &str, key: &str, expected: Result<[&str; 5], KeyError>) {
        let layout = KeyLayout::parse(layout).expect("the layout is valid");
        let route = layout
            .route(key)
            .map(|route| [route.tenant, route.cluster, route.application, route.pod, route.file]);
        assert_eq!(route, expected.map(|names| names.map(str::to_owned)));
    }

    #[test]
    fn keys_that_match_the_layout_are_read() {
        let file = "1672531200-a1b2c3d4.json.gz";
        let names = ["acme-corp", "prod-cluster-1", "payment-app", "pod-xyz-123", file];
        check(
            KeyLayout::DEFAULT,
            &format!("acme-corp/prod-cluster-1/payment-app/pod-xyz-123/{file}"),
            Ok(names),
        );
        let other = "{cluster}/{tenant}/{application}/{pod}/{file}";
        check(other, &format!("prod-cluster-1/acme-corp/payment-app/pod-xyz-123/{file}"), Ok(names));
        check("logs/{tenant}/{file}", "logs/acme-corp/x", Ok(["acme-corp", "", "", "", "x"]));
        check(KeyLayout::DEFAULT, "a b/c+d/日本/p/f", Ok(["a b", "c+d", "日本", "p", "f"]));
        check("{tenant}/*/*/{file}", "acme/2026/11/x", Ok(["acme", "", "", "", "x"]));
        check("{tenant}/*/{file}", "acme//x", Err(KeyError::EmptySegment(2)));
    }

    #[test]
    fn the_keys_of_a_tenant_have_a_common_prefix() {
        for (layout, prefix) in [
            (KeyLayout::DEFAULT, "a/"),
            ("{cluster}/{tenant}/{application}/{pod}/{file}", "a/b/"),
            ("{application}/{cluster}/{pod}/{tenant}/{file}", "a/b/c/d/"),
        ] {
            let layout = KeyLayout::parse(layout).expect("the layout is valid");
            assert_eq!(layout.tenant_prefix("a/b/c/d/e"), prefix);
        }
    }

    #[test]
    fn a_tenants_keys_can_be_listed_by_prefix_if_the_tenant_comes_first() {
        for (layout, prefix) in [
            (KeyLayout::DEFAULT, Some("acme/")),
            ("logs/v1/{tenant}/{file}", Some("logs/v1/acme/")),
            ("{cluster}/{tenant}/{file}", None),
            ("*/{tenant}/{file}", None),
        ] {
            let layout = KeyLayout::parse(layout).expect("the layout is valid");
            assert_eq!(layout.prefix_of("acme").as_deref(), prefix);
        }
    }

    #[test]
    fn keys_that_do_not_match_the_layout_are_errors() {
        let count = |found| Err(KeyError::SegmentCount { found, expected: 5 });
        check(KeyLayout::DEFAULT, "a/b/c/d", count(4));
        check(KeyLayout::DEFAULT, "a/b/c/d/e/f", count(6));
        check(KeyLayout::DEFAULT, "", Err(KeyError::EmptySegment(1)));
        check(KeyLayout::DEFAULT, "/b/c/d/e", Err(KeyError::EmptySegment(1)));
        check(KeyLayout::DEFAULT, "a//c/d/e", Err(KeyError::EmptySegment(2)));
        check(KeyLayout::DEFAULT, "a/b/c/d/", Err(KeyError::EmptySegment(5)));
        let long = |bytes: usize| format!("a/b/c/d/{}", "x".repeat(bytes - 8));
        check(KeyLayout::DEFAULT, &long(1024), Ok(["a", "b", "c", "d", &long(1024)[8..]]));
        check(KeyLayout::DEFAULT, &long(1025), Err(KeyError::TooLong(1025)));
        check(KeyLayout::DEFAULT, "a/../c/d/e", Err(KeyError::Traversal(2)));
        check(KeyLayout::DEFAULT, "a/./c/d/e", Err(KeyError::Traversal(2)));
        check(KeyLayout::DEFAULT, "a\0/b/c/d/e", Err(KeyError::ControlCharacter(1)));
        check(
            "logs/{tenant}/{file}",
            "log/a/f",
            Err(KeyError::NotLiteral { at: 1, expected: "logs".into() }),
        );
        check(
            "{tenant}/logs/{file}",
            "a/log/f",
            Err(KeyError::NotLiteral { at: 2, expected: "logs".into() }),
        );
    }

    #[test]
    fn unusable_layouts_are_errors() {
        for (layout, expected) in [
            ("{cluster}/{file}", LayoutError::NoTenant),
            ("{file}/{tenant}", LayoutError::FileNotLast),
            ("{tenant}", LayoutError::FileNotLast),
            ("", LayoutError::EmptySegment),
            ("{tenant}//{file}", LayoutError::EmptySegment),
            ("{tenant}/{tenant}/{file}", LayoutError::Twice("{tenant}".into())),
            ("{tenant}/{namespace}/{file}", LayoutError::UnknownName("{namespace}".into())),
            ("logs\n/{tenant}/{file}", LayoutError::IllegalLiteral("logs\n".into())),
            ("./{tenant}/{file}", LayoutError::IllegalLiteral(".".into())),
            ("../{tenant}/{file}", LayoutError::IllegalLiteral("..".into())),
            ("tenant}/{file}", LayoutError::UnknownName("tenant}".into())),
            ("x{tenant}/{file}", LayoutError::UnknownName("x{tenant}".into())),
        ] {
            assert_eq!(KeyLayout::parse(layout), Err(expected), "{layout}");
        }
    }

    proptest! {
        #[test]
        fn the_names_of_a_route_join_to_the_key(key in "[ab.{}]{1,3}(/[ab.{}]{1,3}){4}|.{0,60}") {
            let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is valid");
            if let Ok(route) = layout.route(&key) {
                prop_assert_eq!(NAMES.map(|(_, name)| name.value(&route)).join("/"), key);
            }
        }
    }
}
