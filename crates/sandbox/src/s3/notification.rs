//! Notification configuration of a bucket: the events that each topic gets.

use roxmltree::{Document, Node};

use crate::call::AwsError;
use crate::encoding::uuid;

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

/// A topic and its event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) topic: String,
    events: Vec<String>,
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
                "TopicConfiguration" => Self::parse(node)?,
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

    fn parse(node: Node<'_, '_>) -> Result<Self, AwsError> {
        let (mut id, mut topic, mut events) = (None, None, Vec::new());
        for child in node.children().filter(Node::is_element) {
            let text = child.text().unwrap_or_default().trim().to_owned();
            match child.tag_name().name() {
                "Id" => id = Some(text),
                "Topic" => topic = Some(text),
                "Event" if EVENTS.contains(&text.as_str()) => events.push(text),
                "Event" => return Err(invalid("The event is not supported for notifications")),
                other => return Err(AwsError::not_implemented("s3", &format!("notifications with {other}"))),
            }
        }
        match topic {
            Some(topic) if !events.is_empty() => Ok(Self { id: id.unwrap_or_else(uuid), topic, events }),
            _ => Err(malformed()),
        }
    }

    /// Returns whether the rule covers an event. The event's name is given without `s3:`.
    pub(super) fn wants(&self, event: &str) -> bool {
        self.events.iter().any(|pattern| covers(pattern, &format!("s3:{event}")))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let theirs =
            |mine: &String| other.events.iter().any(|theirs| covers(mine, theirs) || covers(theirs, mine));
        self.events.iter().any(theirs)
    }
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

    #[test]
    fn a_rule_covers_its_event_types() {
        let rules = parse(&(rule("a", "s3:ObjectCreated:*") + &rule("b", "s3:ObjectRemoved:Delete")));
        let rules = rules.expect("valid");
        let wanting =
            |event| rules.iter().filter(|rule| rule.wants(event)).map(|rule| &*rule.id).collect::<Vec<_>>();
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
        check("<QueueConfiguration/>", "NotImplemented");
        check(&rule("q", "s3:ObjectCreated:*").replace("</Id>", "</Id><Filter/>"), "NotImplemented");
        let wide = rule("a", "s3:ObjectCreated:*");
        check(&(wide.clone() + &rule("b", "s3:ObjectCreated:Put")), "InvalidArgument");
        check(&(wide + &rule("a", "s3:ObjectRemoved:*")), "InvalidArgument");
    }
}
