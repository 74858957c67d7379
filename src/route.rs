//! From an object's key to whose logs it holds.
//!
//! Pure. A key that does not fit the layout exactly is an error, never a guess: a wrong guess would put one customer's
//! lines into another's account.

use std::fmt;

/// Longest key of an object. Source: Amazon S3 user guide, "Naming Amazon S3 objects".
const MAX_KEY_BYTES: usize = 1024;

/// Which segment of a key names what. Parsed once, at start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLayout {
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Name(Name),
}

/// What a segment can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
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

/// Whose logs an object holds, as its key says. What the layout does not name is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Key of the tenant table.
    pub tenant: String,
    /// The cluster that the logs are from.
    pub cluster: String,
    /// The application, held against a delivery's `desired_logs`.
    pub application: String,
    /// The pod.
    pub pod: String,
    /// The object's own name.
    pub file: String,
}

/// A layout that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A segment in braces that is not one of the names.
    #[error("unknown name {0}; known are {{tenant}}, {{cluster}}, {{application}}, {{pod}} and {{file}}")]
    UnknownName(String),
    /// The same name twice.
    #[error("{0} stands in it twice")]
    Twice(String),
    /// No tenant: nobody to deliver to.
    #[error("{{tenant}} is missing")]
    NoTenant,
    /// `{file}` is not the last segment.
    #[error("{{file}} must be the last segment")]
    FileNotLast,
    /// A literal that no key can have.
    #[error("its segment {0:?} can stand in no key: it has a control character, or is \".\" or \"..\"")]
    IllegalLiteral(String),
    /// `a//b`, or a slash at an end.
    #[error("it has an empty segment")]
    EmptySegment,
}

/// A key that does not fit the layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// More or fewer segments than the layout has.
    #[error("the key has {found} segments, the layout {expected}")]
    SegmentCount {
        /// Segments of the key.
        found: usize,
        /// Segments of the layout.
        expected: usize,
    },
    /// Nothing between two slashes.
    #[error("segment {0} of the key is empty")]
    EmptySegment(usize),
    /// Longer than any key of S3: no object can have it, and no table either.
    #[error("the key has {0} bytes; S3 has none of more than {MAX_KEY_BYTES}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("segment {0} of the key is a relative path")]
    Traversal(usize),
    /// A control character.
    #[error("segment {0} of the key has a control character")]
    ControlCharacter(usize),
    /// Another text where the layout has a literal.
    #[error("segment {at} of the key is not {expected:?}")]
    NotLiteral {
        /// Position from 1.
        at: usize,
        /// The layout's text.
        expected: String,
    },
}

impl KeyLayout {
    /// What the collector's configuration that ships with logferry writes.
    pub const DEFAULT: &'static str = "{tenant}/{cluster}/{application}/{pod}/{file}";

    /// Reads a layout such as `logs/{cluster}/{tenant}/{application}/{pod}/{file}`.
    ///
    /// # Errors
    /// Says which segment cannot be used.
    pub fn parse(text: &str) -> Result<Self, LayoutError> {
        let mut segments = Vec::new();
        for segment in text.split('/') {
            let name = NAMES.iter().find(|(spelling, _)| *spelling == segment);
            segments.push(match name {
                Some((_, name)) if segments.contains(&Segment::Name(*name)) => {
                    return Err(LayoutError::Twice(segment.to_owned()));
                }
                Some((_, name)) => Segment::Name(*name),
                None if segment.is_empty() => return Err(LayoutError::EmptySegment),
                None if segment.contains(['{', '}']) => {
                    return Err(LayoutError::UnknownName(segment.to_owned()));
                }
                None if segment.contains(char::is_control) || matches!(segment, "." | "..") => {
                    return Err(LayoutError::IllegalLiteral(segment.to_owned()));
                }
                None => Segment::Literal(segment.to_owned()),
            });
        }
        if !segments.contains(&Segment::Name(Name::Tenant)) {
            return Err(LayoutError::NoTenant);
        }
        if segments.last() != Some(&Segment::Name(Name::File)) {
            return Err(LayoutError::FileNotLast);
        }
        Ok(Self { segments })
    }

    /// Reads a decoded key.
    ///
    /// # Errors
    /// The key does not fit: too long, too few or too many segments, an empty one, `.` or `..`, a control character,
    /// another text where the layout has a literal.
    pub fn route(&self, key: &str) -> Result<Route, KeyError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(KeyError::TooLong(key.len()));
        }
        let found = key.split('/').count();
        let expected = self.segments.len();
        // The emptiness of a segment says more than the count that follows from it.
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
        if found != expected {
            return Err(KeyError::SegmentCount { found, expected });
        }
        let mut route = Route::default();
        for (index, (segment, part)) in self.segments.iter().zip(key.split('/')).enumerate() {
            let field = match segment {
                Segment::Literal(literal) if literal == part => continue,
                Segment::Literal(literal) => {
                    return Err(KeyError::NotLiteral { at: index + 1, expected: literal.clone() });
                }
                Segment::Name(Name::Tenant) => &mut route.tenant,
                Segment::Name(Name::Cluster) => &mut route.cluster,
                Segment::Name(Name::Application) => &mut route.application,
                Segment::Name(Name::Pod) => &mut route.pod,
                Segment::Name(Name::File) => &mut route.file,
            };
            part.clone_into(field);
        }
        Ok(route)
    }
}

impl KeyLayout {
    /// The key up to and with the slash behind its tenant: no other tenant's object begins so. The key fits the layout.
    pub fn tenant_prefix<'a>(&self, key: &'a str) -> &'a str {
        let tenant = self.segments.iter().position(|segment| *segment == Segment::Name(Name::Tenant));
        let slashes = key.match_indices('/').map(|(at, _)| at);
        tenant.and_then(|tenant| slashes.into_iter().nth(tenant)).map_or(key, |slash| &key[..=slash])
    }
}

impl fmt::Display for KeyLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            match segment {
                Segment::Literal(literal) => f.write_str(literal)?,
                Segment::Name(name) => {
                    let (spelling, _) =
                        NAMES.iter().find(|(_, known)| known == name).expect("every name is in NAMES");
                    f.write_str(spelling)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(layout: &str, key: &str, expected: Result<[&str; 5], KeyError>) {
        let layout = KeyLayout::parse(layout).expect("the layout is right");
        let route = layout
            .route(key)
            .map(|route| [route.tenant, route.cluster, route.application, route.pod, route.file]);
        assert_eq!(route, expected.map(|names| names.map(str::to_owned)));
    }

    #[test]
    fn keys_of_the_field_are_read() {
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
    }

    #[test]
    fn a_tenant_s_keys_have_a_prefix_of_their_own() {
        for (layout, prefix) in [
            (KeyLayout::DEFAULT, "a/"),
            ("{cluster}/{tenant}/{application}/{pod}/{file}", "a/b/"),
            ("{application}/{cluster}/{pod}/{tenant}/{file}", "a/b/c/d/"),
        ] {
            let layout = KeyLayout::parse(layout).expect("the layout is right");
            assert_eq!(layout.tenant_prefix("a/b/c/d/e"), prefix);
        }
    }

    #[test]
    fn other_keys_are_errors() {
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
    }

    #[test]
    fn layouts_that_cannot_work_are_errors() {
        for (layout, expected) in [
            ("{cluster}/{file}", LayoutError::NoTenant),
            ("{file}/{tenant}", LayoutError::FileNotLast),
            ("{tenant}", LayoutError::FileNotLast),
            ("", LayoutError::EmptySegment),
            ("{tenant}//{file}", LayoutError::EmptySegment),
            ("{tenant}/{tenant}/{file}", LayoutError::Twice("{tenant}".into())),
            ("{tenant}/{namespace}/{file}", LayoutError::UnknownName("{namespace}".into())),
            ("logs\n/{tenant}/{file}", LayoutError::IllegalLiteral("logs\n".into())),
            ("../{tenant}/{file}", LayoutError::IllegalLiteral("..".into())),
            ("x{tenant}/{file}", LayoutError::UnknownName("x{tenant}".into())),
        ] {
            assert_eq!(KeyLayout::parse(layout), Err(expected), "{layout}");
        }
    }

    proptest! {
        #[test]
        fn what_is_routed_spells_the_key(key in ".{0,60}") {
            let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
            if let Ok(route) = layout.route(&key) {
                let spelt = [route.tenant, route.cluster, route.application, route.pod, route.file].join("/");
                prop_assert_eq!(spelt, key);
            }
        }
    }
}
