//! Notification configuration of a bucket: the events that each topic or queue gets.

use roxmltree::{Document, Node};

use crate::call::AwsError;
use crate::encoding::{element, uuid};

/// S3's event types. Types that the sandbox never sends are accepted too, because a real bucket may have them.
const EVENTS: [&str; 10] = [
    "s3:ObjectCreated:*",
    "s3:ObjectCreated:Put",
    "s3:ObjectCreated:Post",
    "s3:ObjectCreated:Copy",
    "s3:ObjectCreated:CompleteMultipartUpload",
    "s3:ObjectRemoved:*",
    "s3:ObjectRemoved:Delete",
    "s3:ObjectRemoved:DeleteMarkerCreated",
    "s3:ObjectTagging:*",
    "s3:LifecycleExpiration:*",
];

/// Where S3 sends the events of a rule, by ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    Topic(String),
    Queue(String),
}

impl Destination {
    pub(super) fn arn(&self) -> &str {
        match self {
            Self::Topic(arn) | Self::Queue(arn) => arn,
        }
    }
}

/// A destination, its event types, and the keys that it gets events of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) destination: Destination,
    events: Vec<String>,
    /// Empty: any.
    prefix: String,
    /// Empty: any.
    suffix: String,
}

impl Rule {
    /// Parses the body of PutBucketNotificationConfiguration.
    pub(super) fn parse_all(body: &str) -> Result<Vec<Self>, AwsError> {
        let document = Document::parse(body).map_err(|_| malformed())?;
        let root = document.root_element();
        if root.tag_name().name() != "NotificationConfiguration" {
            return Err(malformed());
        }
        let mut rules = Vec::<Self>::new();
        for node in root.children().filter(Node::is_element) {
            let rule = match node.tag_name().name() {
                "TopicConfiguration" => Self::parse(node, "Topic", Destination::Topic)?,
                "QueueConfiguration" => Self::parse(node, "Queue", Destination::Queue)?,
                other => return Err(AwsError::not_implemented("s3", &format!("notifications by {other}"))),
            };
            if rules.iter().any(|earlier| earlier.id == rule.id) {
                return Err(invalid("Same ID used for multiple configurations. IDs must be unique"));
            }
            if rules.iter().any(|earlier| earlier.overlaps(&rule)) {
                return Err(invalid(
                    "Configurations overlap. Configurations on the same bucket cannot share a common event type.",
                ));
            }
            rules.push(rule);
        }
        Ok(rules)
    }

    fn parse(
        node: Node<'_, '_>,
        kind: &str,
        destination: fn(String) -> Destination,
    ) -> Result<Self, AwsError> {
        let (mut id, mut arn, mut events) = (None, None, Vec::new());
        let (mut prefix, mut suffix) = (String::new(), String::new());
        for child in node.children().filter(Node::is_element) {
            let text = child.text().unwrap_or_default().trim().to_owned();
            match child.tag_name().name() {
                "Id" => id = Some(text),
                name if name == kind => arn = Some(text),
                "Event" if EVENTS.contains(&text.as_str()) => events.push(text),
                "Event" => return Err(invalid("The event is not supported for notifications")),
                "Filter" => (prefix, suffix) = parse_filter(child)?,
                other => return Err(AwsError::not_implemented("s3", &format!("notifications with {other}"))),
            }
        }
        match arn {
            Some(arn) if !events.is_empty() => {
                let id = id.unwrap_or_else(uuid);
                Ok(Self { id, destination: destination(arn), events, prefix, suffix })
            }
            _ => Err(malformed()),
        }
    }

    /// Returns whether the rule covers an event of this key. The event's name is given without `s3:`.
    pub(super) fn wants(&self, event: &str, key: &str) -> bool {
        self.events.iter().any(|pattern| covers(pattern, &format!("s3:{event}")))
            && key.starts_with(&self.prefix)
            && key.ends_with(&self.suffix)
    }

    /// Returns whether both rules may cover the same event.
    fn overlaps(&self, other: &Self) -> bool {
        let theirs =
            |mine: &String| other.events.iter().any(|theirs| covers(mine, theirs) || covers(theirs, mine));
        let either = |test: fn(&str, &str) -> bool, a: &str, b: &str| test(a, b) || test(b, a);
        self.events.iter().any(theirs)
            && either(|a, b| a.starts_with(b), &self.prefix, &other.prefix)
            && either(|a, b| a.ends_with(b), &self.suffix, &other.suffix)
    }

    /// The rule's element in the answer of GetBucketNotificationConfiguration.
    pub(super) fn xml(&self) -> String {
        let kind = match self.destination {
            Destination::Topic(_) => "Topic",
            Destination::Queue(_) => "Queue",
        };
        let mut body = element("Id", &self.id) + &element(kind, self.destination.arn());
        body.extend(self.events.iter().map(|event| element("Event", event)));
        let parts = [("Prefix", &self.prefix), ("Suffix", &self.suffix)];
        let parts = parts.into_iter().filter(|(_, value)| !value.is_empty());
        let filter: String = parts
            .map(|(name, value)| {
                format!("<FilterRule>{}{}</FilterRule>", element("Name", name), element("Value", value))
            })
            .collect();
        if !filter.is_empty() {
            body.push_str(&format!("<Filter><S3Key>{filter}</S3Key></Filter>"));
        }
        format!("<{kind}Configuration>{body}</{kind}Configuration>")
    }
}

/// Prefix and suffix of a `Filter`. S3 takes their names in any case.
fn parse_filter(filter: Node<'_, '_>) -> Result<(String, String), AwsError> {
    let (mut prefix, mut suffix) = (None, None);
    for rule in filter.descendants().filter(|node| node.tag_name().name() == "FilterRule") {
        let text = |name: &str| {
            let node = rule.children().find(|node| node.tag_name().name() == name);
            node.and_then(|node| node.text()).unwrap_or_default().to_owned()
        };
        let place = match text("Name").to_ascii_lowercase().as_str() {
            "prefix" => &mut prefix,
            "suffix" => &mut suffix,
            _ => return Err(invalid("filter rule name must be either prefix or suffix")),
        };
        if place.replace(text("Value")).is_some() {
            return Err(invalid("Cannot specify more than one prefix or suffix rule in a filter."));
        }
    }
    Ok((prefix.unwrap_or_default(), suffix.unwrap_or_default()))
}

fn covers(pattern: &str, event: &str) -> bool {
    pattern == event || pattern.strip_suffix('*').is_some_and(|family| event.starts_with(family))
}

pub(super) fn malformed() -> AwsError {
    AwsError::new(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

pub(super) fn invalid(message: &str) -> AwsError {
    AwsError::new(400, "InvalidArgument", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: &str, event: &str) -> String {
        format!(
            "<TopicConfiguration><Id>{id}</Id><Topic>arn:aws:sns:us-east-1:1:{id}</Topic><Event>{event}</Event>\
             </TopicConfiguration>"
        )
    }

    fn parse(rules: &str) -> Result<Vec<Rule>, AwsError> {
        Rule::parse_all(&format!(
            "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}\
             </NotificationConfiguration>"
        ))
    }

    fn filtered(id: &str, filter: &[(&str, &str)]) -> String {
        let filter: String = filter
            .iter()
            .map(|(name, value)| {
                format!("<FilterRule><Name>{name}</Name><Value>{value}</Value></FilterRule>")
            })
            .collect();
        rule(id, "s3:ObjectCreated:*")
            .replace("</Event>", &format!("</Event><Filter><S3Key>{filter}</S3Key></Filter>"))
    }

    #[test]
    fn a_rule_covers_the_keys_of_its_filter_and_is_written_as_it_was_read() {
        let body =
            filtered("a", &[("Prefix", "logs/"), ("Suffix", ".gz")]) + &filtered("b", &[("prefix", "x/")]);
        let rules = parse(&body).expect("the filters do not overlap");
        let wanting = |key| rules.iter().filter(|rule| rule.wants("ObjectCreated:Put", key)).count();
        assert_eq!(
            (wanting("logs/1.gz"), wanting("logs/1.zst"), wanting("x/1"), wanting("y/1.gz")),
            (1, 0, 1, 0)
        );
        let written: String = rules.iter().map(Rule::xml).collect();
        assert_eq!(parse(&written).expect("the sandbox reads its own answer"), rules);
        let both =
            filtered("a", &[("prefix", "logs/")]) + &filtered("b", &[("prefix", "logs/a"), ("suffix", "z")]);
        assert_eq!(parse(&both).expect_err("they overlap").code, "InvalidArgument");
    }

    #[test]
    fn a_rule_covers_its_event_types() {
        let rules = parse(&(rule("a", "s3:ObjectCreated:*") + &rule("b", "s3:ObjectRemoved:Delete")));
        let rules = rules.expect("valid");
        let wanting = |event| {
            rules.iter().filter(|rule| rule.wants(event, "a/b.gz")).map(|rule| &*rule.id).collect::<Vec<_>>()
        };
        assert_eq!(wanting("ObjectCreated:Put"), ["a"]);
        assert_eq!(wanting("ObjectCreated:Copy"), ["a"]);
        assert_eq!(wanting("ObjectRemoved:Delete"), ["b"]);
        assert_eq!(parse("").expect("an empty configuration is legal"), []);
    }

    #[test]
    fn bad_configurations_are_refused() {
        let check =
            |rules: &str, code: &str| assert_eq!(parse(rules).expect_err("refused").code, code, "{rules}");
        check(&rule("q", "s3:ObjectMade:*"), "InvalidArgument");
        check("<TopicConfiguration><Topic>arn</Topic></TopicConfiguration>", "MalformedXML");
        check("<QueueConfiguration/>", "MalformedXML");
        check("<EventBridgeConfiguration/>", "NotImplemented");
        let colour = filtered("q", &[("colour", "red")]);
        check(&colour, "InvalidArgument");
        check(&filtered("q", &[("prefix", "a"), ("Prefix", "b")]), "InvalidArgument");
        let wide = rule("a", "s3:ObjectCreated:*");
        check(&(wide.clone() + &rule("b", "s3:ObjectCreated:Put")), "InvalidArgument");
        check(&(wide + &rule("a", "s3:ObjectRemoved:*")), "InvalidArgument");
    }
}
