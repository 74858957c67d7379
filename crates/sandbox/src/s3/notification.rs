//! A bucket's notification configuration: reading, checking, printing, and which rules an event meets.

use roxmltree::{Document, Node};

use super::xml::element;
use crate::call::AwsError;

/// Events that S3 knows; those the sandbox never raises are accepted, as a real bucket may ask for them.
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

/// The configuration of one bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Notifications {
    pub(super) rules: Vec<Rule>,
    /// Whether events go to EventBridge, all of them.
    pub(super) eventbridge: bool,
}

/// One topic or queue, and what it is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) destination: Destination,
    events: Vec<String>,
    prefix: Option<String>,
    suffix: Option<String>,
}

/// Where a rule sends, by ARN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    Topic(String),
    Queue(String),
}

impl Notifications {
    /// Reads the body of PutBucketNotificationConfiguration.
    pub(super) fn parse(body: &str) -> Result<Self, AwsError> {
        let document = Document::parse(body).map_err(|_| malformed())?;
        let root = document.root_element();
        if root.tag_name().name() != "NotificationConfiguration" {
            return Err(malformed());
        }
        let mut read = Self::default();
        for node in root.children().filter(Node::is_element) {
            match node.tag_name().name() {
                "TopicConfiguration" => {
                    let topic = Destination::Topic(text(node, "Topic")?.to_owned());
                    read.rules.push(Rule::parse(node, topic)?);
                }
                "QueueConfiguration" => {
                    let queue = Destination::Queue(text(node, "Queue")?.to_owned());
                    read.rules.push(Rule::parse(node, queue)?);
                }
                "EventBridgeConfiguration" => read.eventbridge = true,
                "CloudFunctionConfiguration" => {
                    return Err(AwsError::not_implemented("s3", "notifications to Lambda"));
                }
                _ => return Err(malformed()),
            }
        }
        for (at, rule) in read.rules.iter().enumerate() {
            if read.rules[..at].iter().any(|earlier| earlier.id == rule.id) {
                return Err(invalid("Same ID used for multiple configurations. IDs must be unique"));
            }
            if read.rules[..at].iter().any(|earlier| earlier.overlaps(rule)) {
                return Err(invalid(
                    "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the \
                     prefixes are overlapping for the same event type.",
                ));
            }
        }
        Ok(read)
    }

    /// Writes the body of GetBucketNotificationConfiguration.
    pub(super) fn print(&self) -> String {
        let mut out = String::from(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">",
        );
        for rule in &self.rules {
            let (kind, member, arn) = match &rule.destination {
                Destination::Topic(arn) => ("TopicConfiguration", "Topic", arn),
                Destination::Queue(arn) => ("QueueConfiguration", "Queue", arn),
            };
            let events: String = rule.events.iter().map(|event| element("Event", event)).collect();
            let filters: String = [("Prefix", &rule.prefix), ("Suffix", &rule.suffix)]
                .into_iter()
                .filter_map(|(name, value)| {
                    let value = element("Value", value.as_deref()?);
                    Some(format!("<FilterRule>{}{value}</FilterRule>", element("Name", name)))
                })
                .collect();
            let filter = match filters.as_str() {
                "" => String::new(),
                rules => format!("<Filter><S3Key>{rules}</S3Key></Filter>"),
            };
            let (id, arn) = (element("Id", &rule.id), element(member, arn));
            out.push_str(&format!("<{kind}>{id}{arn}{events}{filter}</{kind}>"));
        }
        if self.eventbridge {
            out.push_str("<EventBridgeConfiguration></EventBridgeConfiguration>");
        }
        out.push_str("</NotificationConfiguration>");
        out
    }
}

impl Rule {
    fn parse(node: Node<'_, '_>, destination: Destination) -> Result<Self, AwsError> {
        let id = child(node, "Id").and_then(|id| id.text()).map(str::to_owned);
        let mut rule = Self {
            id: id.unwrap_or_else(crate::sqs::message::uuid),
            destination,
            events: Vec::new(),
            prefix: None,
            suffix: None,
        };
        for event in node.children().filter(|child| is_named(*child, "Event")) {
            let event = event.text().unwrap_or_default().trim();
            if !EVENTS.contains(&event) {
                return Err(invalid("The event is not supported for notifications"));
            }
            rule.events.push(event.to_owned());
        }
        if rule.events.is_empty() {
            return Err(malformed());
        }
        let filters = child(node, "Filter").and_then(|filter| child(filter, "S3Key"));
        for filter in filters.iter().flat_map(|key| key.children().filter(Node::is_element)) {
            let value = child(filter, "Value").and_then(|value| value.text()).unwrap_or_default().to_owned();
            let slot = match text(filter, "Name")?.to_ascii_lowercase().as_str() {
                "prefix" => &mut rule.prefix,
                "suffix" => &mut rule.suffix,
                _ => return Err(invalid("filter rule name must be either prefix or suffix")),
            };
            if slot.replace(value).is_some() {
                return Err(invalid("Cannot specify more than one prefix rule or suffix rule in a filter."));
            }
        }
        Ok(rule)
    }

    /// Whether an event, named without `s3:`, on a key is one for this rule.
    pub(super) fn wants(&self, event: &str, key: &str) -> bool {
        let named = self.events.iter().filter_map(|pattern| pattern.strip_prefix("s3:")).any(|pattern| {
            pattern.strip_suffix('*').map_or(pattern == event, |family| event.starts_with(family))
        });
        named
            && key.starts_with(self.prefix.as_deref().unwrap_or_default())
            && key.ends_with(self.suffix.as_deref().unwrap_or_default())
    }

    fn overlaps(&self, other: &Self) -> bool {
        let covers =
            |a: &str, b: &str| a == b || a.strip_suffix('*').is_some_and(|family| b.starts_with(family));
        let events = self
            .events
            .iter()
            .any(|mine| other.events.iter().any(|theirs| covers(mine, theirs) || covers(theirs, mine)));
        let (prefix, suffix) = (self.prefix.as_deref(), self.suffix.as_deref());
        let (prefix, suffix) = (prefix.unwrap_or_default(), suffix.unwrap_or_default());
        let (other_prefix, other_suffix) = (other.prefix.as_deref(), other.suffix.as_deref());
        let (other_prefix, other_suffix) =
            (other_prefix.unwrap_or_default(), other_suffix.unwrap_or_default());
        events
            && (prefix.starts_with(other_prefix) || other_prefix.starts_with(prefix))
            && (suffix.ends_with(other_suffix) || other_suffix.ends_with(suffix))
    }
}

fn is_named(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| is_named(*child, name))
}

fn text<'a>(node: Node<'a, '_>, name: &str) -> Result<&'a str, AwsError> {
    let text = child(node, name).and_then(|child| child.text()).map(str::trim);
    text.filter(|text| !text.is_empty()).ok_or_else(malformed)
}

/// `MalformedXML`.
pub(super) fn malformed() -> AwsError {
    AwsError::new(
        400,
        "MalformedXML",
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

/// `InvalidArgument`.
pub(super) fn invalid(message: &str) -> AwsError {
    AwsError::new(400, "InvalidArgument", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: &str, id: &str, event: &str, filter: &str) -> String {
        format!(
            "<{kind}Configuration><Id>{id}</Id><{kind}>arn:aws:x:us-east-1:1:{id}</{kind}><Event>{event}</Event>\
             {filter}</{kind}Configuration>"
        )
    }

    fn parse(rules: &str) -> Result<Notifications, AwsError> {
        Notifications::parse(&format!(
            "<NotificationConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{rules}\
             </NotificationConfiguration>"
        ))
    }

    fn key_filter(prefix: &str, suffix: &str) -> String {
        format!(
            "<Filter><S3Key><FilterRule><Name>prefix</Name><Value>{prefix}</Value></FilterRule>\
             <FilterRule><Name>Suffix</Name><Value>{suffix}</Value></FilterRule></S3Key></Filter>"
        )
    }

    #[test]
    fn a_rule_wants_what_its_events_and_filters_say() {
        let read = parse(&rule("Queue", "q", "s3:ObjectCreated:*", &key_filter("a/", ".gz"))).expect("valid");
        let rule = &read.rules[0];
        assert!(rule.wants("ObjectCreated:Put", "a/b.gz"));
        assert!(rule.wants("ObjectCreated:Copy", "a/b.gz"));
        assert!(!rule.wants("ObjectRemoved:Delete", "a/b.gz"));
        assert!(!rule.wants("ObjectCreated:Put", "b/b.gz"));
        assert!(!rule.wants("ObjectCreated:Put", "a/b"));
        assert!(!read.eventbridge);
    }

    #[test]
    fn what_is_read_prints_the_same() {
        let rules = rule("Topic", "t", "s3:ObjectCreated:Put", &key_filter("x&amp;/", ""))
            + &rule("Queue", "q", "s3:ObjectRemoved:*", "")
            + "<EventBridgeConfiguration/>";
        let read = parse(&rules).expect("valid");
        assert_eq!(Notifications::parse(&read.print()).expect("valid"), read);
        assert!(read.eventbridge && read.rules.len() == 2);
    }

    #[test]
    fn bad_configurations_are_refused() {
        let check =
            |rules: &str, code: &str| assert_eq!(parse(rules).expect_err("refused").code, code, "{rules}");
        check(&rule("Queue", "q", "s3:ObjectMade:*", ""), "InvalidArgument");
        check("<QueueConfiguration><Queue>arn</Queue></QueueConfiguration>", "MalformedXML");
        check("<Other/>", "MalformedXML");
        check("<CloudFunctionConfiguration/>", "NotImplemented");
        let (wide, narrow) = (rule("Queue", "a", "s3:ObjectCreated:*", ""), key_filter("p", ".gz"));
        check(&(wide.clone() + &rule("Topic", "b", "s3:ObjectCreated:Put", &narrow)), "InvalidArgument");
        check(&(wide.clone() + &rule("Queue", "a", "s3:ObjectRemoved:*", "")), "InvalidArgument");
        let apart = key_filter("p", ".gz").replace(">p<", ">q<");
        let two = rule("Queue", "a", "s3:ObjectCreated:*", &narrow)
            + &rule("Queue", "b", "s3:ObjectCreated:*", &apart);
        assert!(parse(&two).is_ok());
    }
}
