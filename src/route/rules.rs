//! Rules that choose an object's layout, tenant and format by its key.

use super::{KeyError, KeyLayout, LayoutError, Route, legal_segments};
use crate::records::RecordFormat;

/// The rules for all keys. The first rule that matches a key counts; a key that no rule matches has the default layout, and a
/// format that is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    rules: Vec<Rule>,
    layout: KeyLayout,
    format: RecordFormat,
}

/// A rule for some keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A glob.
    keys: String,
    source: NameSource,
    application: Option<String>,
    format: RecordFormat,
}

/// Where the names of a route come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NameSource {
    /// From the key by the default layout.
    Default,
    /// From the key by this layout.
    Layout(KeyLayout),
    /// The tenant is fixed, and the other names come from the key by the layout. Without a layout, the file is the key's last
    /// segment, and the key may have any number of segments.
    Tenant(String, Option<KeyLayout>),
}

/// Values of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleValues<'a> {
    /// A glob, or a prefix that ends with `/`.
    pub keys: &'a str,
    /// Layout of the keys. `None`: the default layout, or any keys if the tenant is given.
    pub layout: Option<&'a str>,
    /// The tenant of all objects.
    pub tenant: Option<&'a str>,
    /// The application of all objects.
    pub application: Option<&'a str>,
    /// The format of all objects.
    pub format: RecordFormat,
}

/// Reason why a rule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern cannot be used.
    #[error("keys: {0:?} is no pattern of keys: {1}")]
    Keys(String, String),
    /// The layout cannot be used.
    #[error("key_layout: {0}")]
    Layout(LayoutError),
    /// A name is given by the rule and by the layout.
    #[error("{0}: key_layout has {{{0}}} too; one of them must go")]
    Twice(&'static str),
    /// A value that no segment of a key can have.
    #[error("{0}: {1:?} is empty, \".\" or \"..\", or has a slash or a control character")]
    Value(&'static str, String),
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// The rule cannot be used.
    pub fn new(values: RuleValues<'_>) -> Result<Self, RuleError> {
        let RuleValues { keys, layout, tenant, application, format } = values;
        let invalid = |problem: String| RuleError::Keys(keys.to_owned(), problem);
        if keys.is_empty() {
            return Err(invalid("it is empty".to_owned()));
        }
        fast_glob::validate(keys).map_err(|error| invalid(error.to_string()))?;
        for (name, value) in [("tenant", tenant), ("application", application)] {
            let is_segment = |value: &str| !value.contains('/') && legal_segments(value).is_ok();
            if let Some(value) = value.filter(|value| !is_segment(value)) {
                return Err(RuleError::Value(name, value.to_owned()));
            }
        }
        let source = match (tenant, layout) {
            (None, None) => NameSource::Default,
            (None, Some(layout)) => NameSource::Layout(KeyLayout::parse(layout).map_err(RuleError::Layout)?),
            (Some(_), Some(layout)) if layout.split('/').any(|segment| segment == "{tenant}") => {
                return Err(RuleError::Twice("tenant"));
            }
            (Some(tenant), layout) => {
                let layout = layout.map(KeyLayout::parse_without_tenant).transpose();
                NameSource::Tenant(tenant.to_owned(), layout.map_err(RuleError::Layout)?)
            }
        };
        if application.is_some() && layout.is_some_and(|layout| layout.contains("{application}")) {
            return Err(RuleError::Twice("application"));
        }
        let keys = if keys.ends_with('/') { format!("{keys}**") } else { keys.to_owned() };
        Ok(Self { keys, source, application: application.map(str::to_owned), format })
    }
}

impl Rules {
    /// The rules, in order, and the layout of all other keys.
    pub fn new(rules: Vec<Rule>, layout: KeyLayout) -> Self {
        Self { rules, layout, format: RecordFormat::Auto }
    }

    /// The format of the object with this decoded key.
    pub fn format(&self, key: &str) -> &RecordFormat {
        self.rule(key).map_or(&self.format, |rule| &rule.format)
    }

    /// Reads a decoded key.
    ///
    /// # Errors
    /// The key does not match the layout; see [`KeyError`].
    pub fn route(&self, key: &str) -> Result<Route, KeyError> {
        let Some(rule) = self.rule(key) else { return self.layout.route(key) };
        let mut route = match &rule.source {
            NameSource::Default => self.layout.route(key)?,
            NameSource::Layout(layout) => layout.route(key)?,
            NameSource::Tenant(tenant, Some(layout)) => {
                Route { tenant: tenant.clone(), ..layout.route(key)? }
            }
            NameSource::Tenant(tenant, None) => {
                legal_segments(key)?;
                let file = key.rsplit('/').next().unwrap_or_default();
                Route { tenant: tenant.clone(), file: file.to_owned(), ..Route::default() }
            }
        };
        if let Some(application) = &rule.application {
            route.application.clone_from(application);
        }
        Ok(route)
    }

    /// Literal starts of the keys of the layout, first, and of each rule. Empty for any key.
    pub fn literal_starts(&self) -> Vec<String> {
        let literal = |rule: &Rule| match rule.keys.split_once(['*', '?', '[', '{', '\\', '!']) {
            Some((start, _)) => start.to_owned(),
            None => rule.keys.clone(),
        };
        std::iter::once(self.layout.literal_start()).chain(self.rules.iter().map(literal)).collect()
    }

    /// A prefix of keys that the layout gives to this tenant, with `filler` for other names before the tenant.
    pub fn sample_prefix(&self, tenant: &str, filler: &str) -> String {
        self.layout.sample_prefix(tenant, Some(filler)).expect("the layout of all keys has the tenant")
    }

    /// Returns the beginning that all keys of a tenant have. `None` if there is none, or if rules may give other keys to the
    /// tenant.
    pub fn prefix_of(&self, tenant: &str) -> Option<String> {
        if self.rules.is_empty() { self.layout.prefix_of(tenant) } else { None }
    }

    /// Returns the part of a key up to the slash after the tenant, or the whole key if it does not name the tenant. No key of
    /// another tenant has this prefix, unless a rule gives other keys with the prefix to another tenant. The key must have a
    /// route.
    pub fn tenant_prefix<'a>(&self, key: &'a str) -> &'a str {
        match self.rule(key).map(|rule| &rule.source) {
            None | Some(NameSource::Default) => self.layout.tenant_prefix(key),
            Some(NameSource::Layout(layout)) => layout.tenant_prefix(key),
            Some(NameSource::Tenant(..)) => key,
        }
    }

    fn rule(&self, key: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| fast_glob::glob_match(&rule.keys, key))
    }
}

impl From<KeyLayout> for Rules {
    /// All keys have this layout.
    fn from(layout: KeyLayout) -> Self {
        Self::new(Vec::new(), layout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[RuleValues<'_>]) -> Rules {
        let rules =
            rules.iter().map(|values| Rule::new(values.clone()).expect("the rule is right")).collect();
        Rules::new(rules, KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right"))
    }

    #[test]
    fn starts_of_keys_are_literal() {
        let rules = |layout: &str, keys: &[&str]| {
            let rules =
                keys.iter().map(|keys| RuleValues { keys, tenant: Some("t"), ..RuleValues::default() });
            let rules = rules.map(|values| Rule::new(values).expect("the rule is right")).collect();
            Rules::new(rules, KeyLayout::parse(layout).expect("the layout is right"))
        };
        let all = rules("logs/v1/{cluster}/{tenant}/{file}", &["trail/", "a*/b", "exact", "x{1,2}/**"]);
        assert_eq!(all.literal_starts(), ["logs/v1/", "trail/", "a", "exact", "x"]);
        assert_eq!(all.sample_prefix("acme", "c"), "logs/v1/c/acme/");
        let plain = rules(KeyLayout::DEFAULT, &[]);
        assert_eq!(
            (plain.literal_starts(), plain.sample_prefix("acme", "c")),
            (vec![String::new()], "acme/".to_owned())
        );
    }

    fn check(rules: &Rules, key: &str, expected: Result<([&str; 5], RecordFormat), KeyError>) {
        let found = rules.route(key).map(|route| {
            let names = [route.tenant, route.cluster, route.application, route.pod, route.file];
            (names, rules.format(key).clone())
        });
        assert_eq!(found, expected.map(|(names, format)| (names.map(str::to_owned), format)), "{key}");
    }

    const TRAIL: &str = "trails/AWSLogs/111111111111/CloudTrail/eu-central-1/2026/11/27/1.json.gz";

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = rules(&[
            RuleValues {
                keys: "trails/**/CloudTrail/**",
                layout: Some("trails/AWSLogs/{tenant}/CloudTrail/{cluster}/*/*/*/{file}"),
                application: Some("cloudtrail"),
                format: RecordFormat::CloudTrail,
                ..RuleValues::default()
            },
            RuleValues { keys: "trails/", tenant: Some("audit"), ..RuleValues::default() },
            RuleValues { keys: "acme/*/web/**", format: RecordFormat::Lines(None), ..RuleValues::default() },
            RuleValues {
                keys: "fleet/*.log",
                layout: Some("fleet/{file}"),
                tenant: Some("acme"),
                format: RecordFormat::FlowLogs,
                ..RuleValues::default()
            },
        ]);
        let trail = ["111111111111", "eu-central-1", "cloudtrail", "", "1.json.gz"];
        check(&rules, TRAIL, Ok((trail, RecordFormat::CloudTrail)));
        check(&rules, "trails/a/b", Ok((["audit", "", "", "", "b"], RecordFormat::Auto)));
        check(&rules, "trails/a//b", Err(KeyError::EmptySegment(3)));
        check(&rules, "acme/c/web/p/f", Ok((["acme", "c", "web", "p", "f"], RecordFormat::Lines(None))));
        check(&rules, "acme/c/api/p/f", Ok((["acme", "c", "api", "p", "f"], RecordFormat::Auto)));
        check(&rules, "fleet/1.log", Ok((["acme", "", "", "", "1.log"], RecordFormat::FlowLogs)));
        check(&rules, "fleet/1.txt", Err(KeyError::SegmentCount { found: 2, expected: 5 }));
        // The pattern matches and the layout does not: an error, and not the next rule.
        let other = "trails/b/CloudTrail/c/d/e/f/g/h";
        check(&rules, other, Err(KeyError::NotLiteral { at: 2, expected: "AWSLogs".into() }));
    }

    #[test]
    fn a_prefix_belongs_to_one_tenant() {
        let layout = "trails/AWSLogs/{tenant}/CloudTrail/{cluster}/*/*/*/{file}";
        let rules = rules(&[
            RuleValues { keys: "trails/", layout: Some(layout), ..RuleValues::default() },
            RuleValues { keys: "fixed/", tenant: Some("acme"), ..RuleValues::default() },
        ]);
        assert_eq!(rules.tenant_prefix(TRAIL), "trails/AWSLogs/111111111111/");
        assert_eq!(rules.tenant_prefix("fixed/a/b"), "fixed/a/b");
        assert_eq!(rules.tenant_prefix("acme/c/web/p/f"), "acme/");
    }

    #[test]
    fn unusable_rules_are_errors() {
        let check = |values: RuleValues<'_>, part: &str| {
            let error = Rule::new(values.clone()).expect_err("it cannot be used").to_string();
            assert!(error.contains(part), "{values:?}: {error}");
        };
        let good = RuleValues { keys: "a/**", ..RuleValues::default() };
        check(RuleValues::default(), "it is empty");
        check(RuleValues { keys: "a/{b", ..good.clone() }, "keys: \"a/{b\" is no pattern");
        check(RuleValues { layout: Some("{file}"), ..good.clone() }, "{tenant} is missing");
        let tenant = RuleValues { tenant: Some("acme"), ..good.clone() };
        check(
            RuleValues { layout: Some("{tenant}/{file}"), ..tenant.clone() },
            "tenant: key_layout has {tenant} too",
        );
        check(RuleValues { layout: Some("{cluster}"), ..tenant }, "last segment");
        check(RuleValues { tenant: Some("a/b"), ..good.clone() }, "tenant: \"a/b\"");
        check(RuleValues { tenant: Some(""), ..good.clone() }, "tenant: \"\"");
        check(RuleValues { application: Some(".."), ..good.clone() }, "application: \"..\"");
        let layout = Some("{tenant}/{application}/{file}");
        check(RuleValues { layout, application: Some("x"), ..good }, "application: key_layout has");
    }
}
