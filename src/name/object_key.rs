//! Builds the keys of copies in a customer's bucket.

use crate::route::{Name, Route, Segment};

/// Most bytes of a template. The rest of a key's 1,024 bytes is left for the prefix and the names.
const MAX_TEMPLATE: usize = 256;

/// Template for the part of a copy's key after `bucket_prefix`, with places for names of the object's own key. Parsed
/// once, when the tenant's row is read.
///
/// Each segment is a name or plain text, and values of names have no slash. So two objects get copies with the same key only
/// if they have the same value for every name in the template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectKeyTemplate {
    segments: Vec<Segment>,
}

impl ObjectKeyTemplate {
    /// Default template. It does not use the cluster.
    pub const DEFAULT: &'static str = "{tenant}/{application}/{pod}/{file}";

    /// Reads a template such as `{cluster}/{tenant}/{application}/{pod}/{file}`.
    ///
    /// # Errors
    /// The text is not a usable template.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("a template of a key has at most {MAX_TEMPLATE} bytes, not {}", text.len()));
        }
        let mut segments = Vec::new();
        for part in text.split('/') {
            let segment = segment(part).map_err(|problem| format!("{text:?} {problem}"))?;
            if matches!(segment, Segment::Name(_)) && segments.contains(&segment) {
                return Err(format!("{text:?} has {part} twice"));
            }
            segments.push(segment);
        }
        if segments.last() != Some(&Segment::Name(Name::File)) {
            return Err(format!("{text:?} does not end with the segment {{file}}"));
        }
        let tenant = segments.iter().position(|segment| *segment == Segment::Name(Name::Tenant));
        let before = &segments[..tenant.ok_or_else(|| format!("{text:?} has no segment {{tenant}}"))?];
        // The worker's session in the customer's account is restricted to the prefix that ends with the tenant. If a name
        // before the tenant varied from object to object, each of its values would need a session of its own.
        if before.iter().any(|segment| !matches!(segment, Segment::Literal(_) | Segment::Name(Name::Cluster)))
        {
            return Err(format!("{text:?} has a name other than {{cluster}} before {{tenant}}"));
        }
        Ok(Self { segments })
    }

    /// Builds the key of an object's copy, without the prefix. A name that the key layout does not have is left out.
    pub fn render(&self, route: &Route) -> String {
        self.joined(self.segments.len(), route)
    }

    /// Returns the common prefix of the keys of a tenant's copies, with a slash at its end. If the template has the
    /// cluster before the tenant, only the copies of the route's cluster have this prefix.
    pub fn tenant_prefix(&self, route: &Route) -> String {
        let tenant = self.segments.iter().position(|segment| *segment == Segment::Name(Name::Tenant));
        self.joined(tenant.map_or(0, |at| at + 1), route) + "/"
    }

    fn joined(&self, segments: usize, route: &Route) -> String {
        let texts = self.segments[..segments].iter().map(|segment| match segment {
            Segment::Literal(literal) => literal.as_str(),
            Segment::Name(name) => name.value(route),
        });
        texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("/")
    }
}

impl Default for ObjectKeyTemplate {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default is valid")
    }
}

fn segment(text: &str) -> Result<Segment, String> {
    if let Some(name) = Name::parse(text) {
        return Ok(Segment::Name(name));
    }
    let problem = if text.is_empty() {
        "has an empty segment".to_owned()
    } else if matches!(text, "." | "..") {
        format!("has a segment {text:?}")
    } else if text.contains(char::is_control) {
        "has a control character".to_owned()
    } else if text.contains(['{', '}']) {
        let names = "{tenant}, {cluster}, {application}, {pod} and {file}";
        format!("has the segment {text:?}, which is neither plain text nor one of {names}")
    } else {
        return Ok(Segment::Literal(text.to_owned()));
    };
    Err(problem)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> ObjectKeyTemplate {
        ObjectKeyTemplate::parse(text).expect("the template is valid")
    }

    #[test]
    fn keys_follow_the_template() {
        let check = |text: &str, names: [&str; 5], key: &str, prefix: &str| {
            let (template, route) = (template(text), Route::of(names));
            assert_eq!(
                (template.render(&route).as_str(), template.tenant_prefix(&route).as_str()),
                (key, prefix)
            );
        };
        let names = ["acme", "c1", "web", "web-0", "1.gz"];
        check(ObjectKeyTemplate::DEFAULT, names, "acme/web/web-0/1.gz", "acme/");
        check("{cluster}/{tenant}/x y/{pod}/{file}", names, "c1/acme/x y/web-0/1.gz", "c1/acme/");
        check("logs/{tenant}/{cluster}/{file}", names, "logs/acme/c1/1.gz", "logs/acme/");
        check("{tenant}/{file}", names, "acme/1.gz", "acme/");
        // The key layout has no pod, or no cluster.
        check(ObjectKeyTemplate::DEFAULT, ["acme", "c1", "web", "", "1.gz"], "acme/web/1.gz", "acme/");
        check("{cluster}/{tenant}/{file}", ["acme", "", "web", "", "1.gz"], "acme/1.gz", "acme/");
        // Braces in values have no meaning.
        check("{tenant}/{pod}/{file}", ["{pod}", "", "", "{file}", "f"], "{pod}/{file}/f", "{pod}/");
    }

    #[test]
    fn bad_templates_are_errors() {
        let long = |bytes| format!("{}/{{tenant}}/{{file}}", "x".repeat(bytes - 16));
        assert!(ObjectKeyTemplate::parse(&long(MAX_TEMPLATE)).is_ok());
        let long = long(MAX_TEMPLATE + 1);
        for (text, part) in [
            ("", "empty segment"),
            ("/{tenant}/{file}", "empty segment"),
            ("{tenant}//{file}", "empty segment"),
            ("{tenant}/{file}/", "empty segment"),
            ("{tenant}/../{file}", "\"..\""),
            ("./{tenant}/{file}", "\".\""),
            ("{tenant}/a\tb/{file}", "control character"),
            ("{tenant}/{namespace}/{file}", "\"{namespace}\""),
            ("{tenant}/{application}-{pod}/{file}", "\"{application}-{pod}\""),
            ("{tenant}/{pod/{file}", "\"{pod\""),
            ("{tenant}/{file}.gz", "neither plain text nor one of"),
            ("{tenant}/{pod}/{pod}/{file}", "{pod} twice"),
            ("{tenant}/{pod}", "does not end"),
            ("{tenant}/{file}/{pod}", "does not end"),
            ("{application}/{file}", "no segment {tenant}"),
            ("{application}/{tenant}/{file}", "before {tenant}"),
            ("{cluster}/{pod}/{tenant}/{file}", "before {tenant}"),
            (&long, "at most 256 bytes, not 257"),
        ] {
            let error = ObjectKeyTemplate::parse(text).expect_err("not a template");
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_template_with_every_name_gives_each_object_a_key_of_its_own(
            one in prop::array::uniform5("[a-b./{}]{0,3}[a-b]"),
            other in prop::array::uniform5("[a-b./{}]{0,3}[a-b]"),
        ) {
            let names = |names: &[String; 5]| names.clone().map(|name| name.replace('/', ""));
            let (one, other) = (names(&one), names(&other));
            let template = template("x/{cluster}/{tenant}/{application}/{pod}/{file}");
            let key = |names: &[String; 5]| template.render(&Route::of(names.each_ref().map(String::as_str)));
            prop_assert_eq!(key(&one) == key(&other), one == other);
            prop_assert!(key(&one).starts_with(&template.tenant_prefix(&Route::of(one.each_ref().map(String::as_str)))));
        }
    }
}
