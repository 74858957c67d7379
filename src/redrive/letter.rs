//! Reads what a dead letter is about, and selects letters for an operator. No I/O.

use jiff::Timestamp;

use crate::{
    event::{self, ObjectRef},
    queue::dead_letters::StoredLetter,
    route::Rules,
};

/// Reason of letters that SQS's redrive policy moved, because SQS writes no reason.
pub const UNKNOWN: &str = "unknown";

/// A dead letter without its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter {
    /// The letter's id in the dead-letter queue.
    pub id: String,
    /// The id that the message had in the source queue, if the worker sent the letter. All copies of a letter have the same
    /// id.
    pub message_id: Option<String>,
    /// The reason that the worker wrote, or [`UNKNOWN`].
    pub reason: String,
    /// The tenants that failed, as the worker wrote them. If the worker did not write all, also the tenants of the keys in
    /// the text.
    pub tenants: Vec<String>,
    /// Bucket of the object that the worker named on the letter, or else of the first object in the text.
    pub bucket: Option<String>,
    /// The object's key, decoded.
    pub key: Option<String>,
    /// The object's version.
    pub version: Option<String>,
    /// Position of the first record that could not be read.
    pub record_offset: Option<String>,
    /// The error that the worker wrote.
    pub error: Option<String>,
    /// Number of objects in the text; 0 if the text is not an event.
    pub objects: usize,
    /// When the worker sent the letter; if SQS moved the message, when the message was first received.
    pub since: Option<Timestamp>,
}

impl Letter {
    /// Reads a letter's attributes. What they lack is read from the letter's text.
    pub fn read(stored: &StoredLetter, key_rules: &Rules) -> Self {
        let attribute = |name: &str| stored.attributes.get(name).cloned();
        let objects = event::decode(&stored.body).map(|event| event.objects).unwrap_or_default();
        let first = objects.first();
        let of_first = |part: fn(&ObjectRef) -> Option<String>| {
            first.filter(|_| !stored.attributes.contains_key("key")).and_then(part)
        };
        let reason = attribute("reason");
        Self {
            id: stored.id.clone(),
            message_id: attribute("message_id"),
            since: match reason {
                Some(_) => stored.sent_at,
                None => stored.first_received_at.or(stored.sent_at),
            },
            reason: reason.unwrap_or_else(|| UNKNOWN.to_owned()),
            tenants: match (attribute("tenants"), attribute("tenant"), attribute("failures").as_deref()) {
                (Some(tenants), _, _) => tenants.split('/').map(str::to_owned).collect(),
                (None, Some(tenant), Some("1")) => vec![tenant],
                // The list of all tenants was too long for an attribute.
                (None, tenant, _) => tenants(&objects, key_rules, tenant),
            },
            bucket: attribute("bucket").or_else(|| of_first(|object| Some(object.bucket.clone()))),
            key: attribute("key").or_else(|| of_first(|object| Some(object.key.clone()))),
            version: attribute("version").or_else(|| of_first(|object| object.version_id.clone())),
            record_offset: attribute("record_offset"),
            error: attribute("error"),
            objects: objects.len(),
        }
    }
}

fn tenants(objects: &[ObjectRef], key_rules: &Rules, other: Option<String>) -> Vec<String> {
    let routes = objects.iter().filter_map(|object| key_rules.route(&object.key).ok());
    let mut tenants: Vec<_> = routes.map(|route| route.tenant).chain(other).collect();
    tenants.sort();
    tenants.dedup();
    tenants
}

/// Selects letters. An empty field selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these tenants failed.
    pub tenants: Vec<String>,
    /// The reason is one of these.
    pub reasons: Vec<String>,
    /// [`Letter::since`] is this time or earlier.
    pub until: Option<Timestamp>,
    /// [`Letter::since`] is this time or later.
    pub from: Option<Timestamp>,
}

impl Filter {
    /// Whether the letter is selected. A letter of unknown age is not selected if a time is given.
    pub fn matches(&self, letter: &Letter) -> bool {
        let tenant = self.tenants.is_empty() || letter.tenants.iter().any(|id| self.tenants.contains(id));
        let reason = self.reasons.is_empty() || self.reasons.contains(&letter.reason);
        let until = self.until.is_none_or(|until| letter.since.is_some_and(|since| since <= until));
        let from = self.from.is_none_or(|from| letter.since.is_some_and(|since| since >= from));
        tenant && reason && until && from
    }
}

/// Whether a queue's URL and a queue's ARN name the same account and queue.
pub fn names_the_same_queue(url: &str, arn: &str) -> bool {
    let mut of_url = url.trim_end_matches('/').rsplit('/');
    let mut of_arn = arn.rsplit(':');
    (of_url.next(), of_url.next()) == (of_arn.next(), of_arn.next())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::route::KeyLayout;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn body(keys: &[&str]) -> String {
        let record = |key: &&str| {
            json!({ "eventVersion": "2.1", "eventName": "ObjectCreated:Put",
                "s3": { "bucket": { "name": "staging" }, "object": { "key": key, "versionId": "v7" } } })
        };
        json!({ "Records": keys.iter().map(record).collect::<Vec<_>>() }).to_string()
    }

    fn check(attributes: &[(&str, &str)], body: &str, expected: Letter) {
        let stored = StoredLetter {
            id: "1".into(),
            body: body.into(),
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            sent_at: Some(at(100)),
            first_received_at: Some(at(50)),
            ..StoredLetter::default()
        };
        let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
        assert_eq!(Letter::read(&stored, &layout.into()), expected);
    }

    #[test]
    fn attributes_are_preferred_to_the_text() {
        let attributes = [
            ("reason", "corrupt_object"),
            ("tenant", "acme"),
            ("bucket", "b"),
            ("key", "acme/c/a/p/2"),
            ("record_offset", "7"),
            ("error", "not JSON"),
            ("failures", "1"),
        ];
        check(
            &attributes,
            &body(&["acme/c/a/p/1", "globex/c/a/p/2"]),
            Letter {
                id: "1".into(),
                message_id: None,
                reason: "corrupt_object".into(),
                tenants: vec!["acme".into()],
                bucket: Some("b".into()),
                key: Some("acme/c/a/p/2".into()),
                // The text's first object is another one, so its version does not count.
                version: None,
                record_offset: Some("7".into()),
                error: Some("not JSON".into()),
                objects: 2,
                since: Some(at(100)),
            },
        );
    }

    #[test]
    fn a_letter_of_two_tenants_is_found_under_both() {
        let attributes = [
            ("reason", "unknown_tenant"),
            ("tenant", "acme"),
            ("tenants", "acme/globex"),
            ("message_id", "7"),
            ("key", "acme/c/a/p/1"),
        ];
        let expected = Letter {
            id: "1".into(),
            message_id: Some("7".into()),
            reason: "unknown_tenant".into(),
            tenants: vec!["acme".into(), "globex".into()],
            key: Some("acme/c/a/p/1".into()),
            objects: 3,
            since: Some(at(100)),
            ..Letter::default()
        };
        check(&attributes, &body(&["acme/c/a/p/1", "globex/c/a/p/2", "fine/c/a/p/3"]), expected.clone());
        for (tenant, matches) in [("acme", true), ("globex", true), ("fine", false)] {
            let filter = Filter { tenants: vec![tenant.into()], ..Filter::default() };
            assert_eq!(filter.matches(&expected), matches, "{tenant}");
        }
    }

    /// The list of all tenants was too long for an attribute. The letter is found under each of them.
    #[test]
    fn a_letter_of_very_many_tenants_is_found_under_all() {
        let keys: Vec<_> = (0..100).map(|number| format!("tenant-{number:02}/c/a/p/1")).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let attributes = [("reason", "unknown_tenant"), ("tenant", "tenant-07"), ("failures", "100")];
        let expected = Letter {
            id: "1".into(),
            reason: "unknown_tenant".into(),
            tenants: (0..100).map(|number| format!("tenant-{number:02}")).collect(),
            bucket: Some("staging".into()),
            key: Some("tenant-00/c/a/p/1".into()),
            version: Some("v7".into()),
            objects: 100,
            since: Some(at(100)),
            ..Letter::default()
        };
        check(&attributes, &body(&keys), expected);
    }

    #[test]
    fn without_attributes_the_text_is_read() {
        let expected = Letter {
            id: "1".into(),
            reason: UNKNOWN.into(),
            tenants: vec!["acme".into(), "globex".into()],
            bucket: Some("staging".into()),
            key: Some("globex/c/a/p/1 2".into()),
            version: Some("v7".into()),
            objects: 3,
            since: Some(at(50)),
            ..Letter::default()
        };
        check(&[], &body(&["globex/c/a/p/1+2", "acme/c/a/p/2", "acme/c/a/p/3"]), expected);
        let nothing =
            Letter { id: "1".into(), reason: "bad_event".into(), since: Some(at(100)), ..Letter::default() };
        check(&[("reason", "bad_event")], "hello", nothing);
        let bad_key = Letter {
            id: "1".into(),
            reason: UNKNOWN.into(),
            bucket: Some("staging".into()),
            key: Some("acme".into()),
            version: Some("v7".into()),
            objects: 1,
            since: Some(at(50)),
            ..Letter::default()
        };
        check(&[], &body(&["acme"]), bad_key);
    }

    #[test]
    fn a_letter_must_match_all_filters() {
        let letter = Letter {
            reason: "unknown_tenant".into(),
            tenants: vec!["acme".into(), "globex".into()],
            since: Some(at(100)),
            ..Letter::default()
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let check = |tenants: &[&str], reasons: &[&str], until: Option<i64>, from: Option<i64>, expected| {
            let filter = Filter {
                tenants: words(tenants),
                reasons: words(reasons),
                until: until.map(at),
                from: from.map(at),
            };
            assert_eq!(filter.matches(&letter), expected, "{filter:?}");
        };
        check(&[], &[], None, None, true);
        check(&["globex"], &[], None, None, true);
        check(&["initech"], &[], None, None, false);
        check(&["initech", "acme"], &["unknown_tenant"], Some(100), Some(100), true);
        check(&["acme"], &["bad_key"], None, None, false);
        check(&[], &[], Some(99), None, false);
        check(&[], &[], None, Some(101), false);
        let undated = Letter { since: None, ..letter.clone() };
        assert!(!Filter { from: Some(at(0)), ..Filter::default() }.matches(&undated));
        assert!(Filter::default().matches(&undated));
    }

    #[test]
    fn queues_are_compared_by_account_and_name() {
        let url = "https://sqs.eu-central-1.amazonaws.com/111111111111/logs";
        assert!(names_the_same_queue(url, "arn:aws:sqs:eu-central-1:111111111111:logs"));
        assert!(names_the_same_queue(
            "http://localhost:4566/111111111111/logs/",
            "arn:aws:sqs:x:111111111111:logs"
        ));
        assert!(!names_the_same_queue(url, "arn:aws:sqs:eu-central-1:111111111111:other"));
        assert!(!names_the_same_queue(url, "arn:aws:sqs:eu-central-1:222222222222:logs"));
    }
}
