//! `[[source.rules]]`: rules for objects with other keys or formats than Vector's.

use serde::{Deserialize, Serialize};

use super::{Problem, Source};
use crate::{
    records::{RecordFormat, TimestampFormat},
    route::{KeyLayout, Rule, RuleValues, Rules},
};

/// A rule for the objects with some keys.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRule {
    /// Pattern of the keys: a prefix that ends with `/`, or a glob. `*` is any text without a slash, `**` any number of segments,
    /// `?` one character, `[ab]` one of these, `{a,b}` one of these texts.
    pub keys: String,
    /// Meaning of the segments of these keys, as for `source.key_layout`; a segment `*` has no meaning. Default:
    /// `source.key_layout`, or any keys if `tenant` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_layout: Option<String>,
    /// The tenant of all these objects, if their keys do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The application of all these objects, if their keys do not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The format of all these objects.
    #[serde(default)]
    pub format: SourceFormat,
    /// Format of the time in a line, as for `strptime`, for the format `lines`. Without one, a line has the object's time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_format: Option<String>,
}

/// Format of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceFormat {
    /// Recognised by the object's first bytes.
    #[default]
    Auto,
    /// JSON records, by themselves or in arrays, as Vector writes them.
    Json,
    /// CloudTrail's documents.
    #[serde(rename = "cloudtrail")]
    CloudTrail,
    /// Documents of a CloudWatch Logs subscription, as Firehose writes them.
    #[serde(rename = "cloudwatch-logs")]
    CloudWatchLogs,
    /// Events of EventBridge, as Firehose writes them.
    #[serde(rename = "eventbridge")]
    EventBridge,
    /// Flow logs of VPCs and transit gateways, as text.
    VpcFlowLogs,
    /// Lines of text.
    Lines,
}

impl Source {
    /// The meaning of the objects' keys, and the formats of the objects.
    ///
    /// # Errors
    /// A layout or a rule cannot be used.
    pub fn key_rules(&self) -> Result<Rules, Problem> {
        let problem = |field: &str, problem: String| Problem { field: field.to_owned(), problem };
        let layout = KeyLayout::parse(&self.key_layout);
        let layout = layout.map_err(|error| problem("source.key_layout", error.to_string()))?;
        let rules = self.rules.iter().enumerate().map(|(index, rule)| {
            rule.read().map_err(|error| problem("source.rules", format!("rule {}: {error}", index + 1)))
        });
        Ok(Rules::new(rules.collect::<Result<_, _>>()?, layout))
    }
}

impl SourceRule {
    fn read(&self) -> Result<Rule, String> {
        let time = self.timestamp_format.as_deref().map(str::parse).transpose();
        let time: Option<TimestampFormat> = time.map_err(|problem| format!("timestamp_format: {problem}"))?;
        if time.is_some() && self.format != SourceFormat::Lines {
            return Err("timestamp_format: only the format \"lines\" needs it".to_owned());
        }
        let format = match self.format {
            SourceFormat::Auto => RecordFormat::Auto,
            SourceFormat::Json => RecordFormat::Json,
            SourceFormat::CloudTrail => RecordFormat::CloudTrail,
            SourceFormat::CloudWatchLogs => RecordFormat::Subscription,
            SourceFormat::EventBridge => RecordFormat::EventBridge,
            SourceFormat::VpcFlowLogs => RecordFormat::FlowLogs,
            SourceFormat::Lines => RecordFormat::Lines(time),
        };
        let values = RuleValues {
            keys: &self.keys,
            layout: self.key_layout.as_deref(),
            tenant: self.tenant.as_deref(),
            application: self.application.as_deref(),
            format,
        };
        Rule::new(values).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Rules, String> {
        let source: Source = toml::from_str(text).map_err(|error| error.to_string())?;
        source.key_rules().map_err(|problem| problem.to_string())
    }

    #[test]
    fn rules_are_read_in_order() {
        let rules = rules(
            r#"
            [[rules]]
            keys = "trails/"
            key_layout = "trails/AWSLogs/{tenant}/*/{cluster}/{file}"
            format = "cloudtrail"
            application = "cloudtrail"
            [[rules]]
            keys = "web/**/*.log"
            tenant = "acme"
            format = "lines"
            timestamp_format = "%Y-%m-%d %H:%M:%S"
            "#,
        )
        .expect("the rules are right");
        let route = rules.route("trails/AWSLogs/1/CloudTrail/eu-west-1/f").expect("it fits");
        assert_eq!((route.tenant.as_str(), route.application.as_str()), ("1", "cloudtrail"));
        assert_eq!(rules.format("trails/x"), &RecordFormat::CloudTrail);
        let time = "%Y-%m-%d %H:%M:%S".parse().expect("a format");
        assert_eq!(rules.format("web/a/b.log"), &RecordFormat::Lines(Some(time)));
        assert_eq!(rules.format("acme/c/web/p/f"), &RecordFormat::Auto);
    }

    #[test]
    fn a_rule_that_cannot_be_used_is_named() {
        let check = |text: &str, part: &str| {
            let problem = rules(text).expect_err("it cannot be used");
            assert!(problem.contains(part), "{problem}");
        };
        check("[[rules]]\nformat = \"json\"", "missing field `keys`");
        check("[[rules]]\nkeys = \"a/\"\nformat = \"xml\"", "unknown variant `xml`");
        check("[[rules]]\nkeys = \"a/\"\nlayout = \"x\"", "unknown field `layout`");
        check("[[rules]]\nkeys = \"a/\"\n[[rules]]\nkeys = \"[\"", "source.rules: rule 2: keys: \"[\"");
        let time = |format: &str| {
            format!("[[rules]]\nkeys = \"a/\"\nformat = \"{format}\"\ntimestamp_format = \"%H\"")
        };
        check(&time("lines"), "rule 1: timestamp_format: \"%H\" is no format");
        check("[[rules]]\nkeys = \"a/\"\ntimestamp_format = \"%s\"", "only the format \"lines\"");
    }
}
