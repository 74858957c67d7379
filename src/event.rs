//! Reads the body of a queue message: which objects does it tell of?
//!
//! Knows every shape in which S3's notifications reach an SQS queue: inside an SNS envelope, the same with raw message
//! delivery, from S3 directly, and from EventBridge. Pure: no I/O, no clock. What an object's key means is `route`'s
//! business.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

/// What a message's body says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Objects that were created, in the message's order.
    pub objects: Vec<ObjectRef>,
    /// What is in the message but no work, in its order.
    pub ignored: Vec<Ignored>,
}

/// One created object, pinned as far as the event allows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// The bucket's name.
    pub bucket: String,
    /// The key, decoded.
    pub key: String,
    /// Present when the bucket keeps versions.
    pub version_id: Option<String>,
    /// Without the quotes that the HTTP header has.
    pub etag: Option<String>,
    /// Bytes as stored.
    pub size: Option<u64>,
    /// Orders events of one key: hexadecimal, compared after left-padding.
    pub sequencer: Option<String>,
    /// When S3 finished the request.
    pub event_time: Option<Timestamp>,
}

impl ObjectRef {
    /// Whether it is what the S3 console makes of a folder: an object of no bytes whose key ends in a slash.
    pub fn is_folder_marker(&self) -> bool {
        self.size == Some(0) && self.key.ends_with('/')
    }
}

/// Why a part of a message is no work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// What S3 sends when a notification is configured.
    TestEvent,
    /// Another event than `ObjectCreated`; its name.
    NotObjectCreated(String),
}

/// A body that is not an event of S3.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON at all, or not of any known shape.
    #[error("the body is no S3 event: {0}")]
    Unknown(String),
    /// A known shape with a part that cannot be right.
    #[error("record {index} of the event has a bad {field}: {problem}")]
    BadRecord {
        /// Position in `Records`; 0 for EventBridge.
        index: usize,
        /// AWS's name of the member.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Reads a message's body.
///
/// # Errors
/// The body is none of the known shapes, or one of its records names no object. Nothing of such a message is work: it
/// belongs in the dead-letter queue, whole.
pub fn decode(body: &str) -> Result<Event, EventError> {
    let outer: Outer<'_> = parse(body)?;
    match outer.message {
        // An SNS envelope: the event is text inside it.
        Some(message) if outer.kind.as_deref() == Some("Notification") => decode_inner(parse(&message)?),
        Some(_) => Err(EventError::Unknown(format!(
            "an SNS envelope of Type {:?}, not \"Notification\"",
            outer.kind.as_deref().unwrap_or_default()
        ))),
        None => decode_inner(outer),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, EventError> {
    // In our own words: serde_json's quote the body, which belongs in no log.
    serde_json::from_str(body).map_err(|error| {
        let what = match error.classify() {
            Category::Data => "a member is missing or of another type than S3 sends",
            Category::Eof => "it ends too early",
            Category::Syntax | Category::Io => "it is not JSON",
        };
        EventError::Unknown(format!("{what}, at line {} column {}", error.line(), error.column()))
    })
}

fn decode_inner(outer: Outer<'_>) -> Result<Event, EventError> {
    if let Some(records) = outer.records {
        return from_records(records.get());
    }
    if outer.event.as_deref() == Some("s3:TestEvent") {
        return Ok(Event { ignored: vec![Ignored::TestEvent], ..Event::default() });
    }
    match (outer.source.as_deref(), outer.detail_type, outer.detail) {
        (Some("aws.s3"), Some(detail_type), Some(detail)) => {
            if detail_type != "Object Created" {
                let ignored = vec![Ignored::NotObjectCreated(detail_type.into_owned())];
                return Ok(Event { ignored, ..Event::default() });
            }
            let object = from_detail(parse(detail.get())?, outer.time.as_deref())?;
            Ok(Event { objects: vec![object], ..Event::default() })
        }
        _ => Err(EventError::Unknown(
            "neither Records nor an EventBridge event of aws.s3 nor s3:TestEvent".to_owned(),
        )),
    }
}

fn from_records(records: &str) -> Result<Event, EventError> {
    let Records { event, bad } = parse(records)?;
    match bad {
        Some(bad) => Err(bad),
        None => Ok(event),
    }
}

/// The records' objects, taken as they are read: a list of tens of thousands of small records would take many times the
/// message's own length.
#[derive(Default)]
struct Records {
    event: Event,
    /// The first record that cannot be right.
    bad: Option<EventError>,
}

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneByOne;
        impl<'de> Visitor<'de> for OneByOne {
            type Value = Records;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of records")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Records, A::Error> {
                let (mut all, mut index) = (Records::default(), 0);
                while let Some(record) = records.next_element()? {
                    if all.bad.is_none() {
                        all.bad = all.event.add(record, index).err();
                    }
                    index += 1;
                }
                Ok(all)
            }
        }
        deserializer.deserialize_seq(OneByOne)
    }
}

impl Event {
    fn add(&mut self, record: Record<'_>, index: usize) -> Result<(), EventError> {
        let bad = |field, problem: String| EventError::BadRecord { index, field, problem };
        // Buckets' own notifications say "ObjectCreated:Put", a test client may say "s3:ObjectCreated:Put".
        let name = record.event_name.strip_prefix("s3:").unwrap_or(&record.event_name);
        if !name.starts_with("ObjectCreated") {
            self.ignored.push(Ignored::NotObjectCreated(record.event_name.into_owned()));
            return Ok(());
        }
        if let Some(version) = &record.event_version
            && !version.starts_with("2.")
        {
            return Err(bad("eventVersion", format!("{version:?} is not 2.x")));
        }
        let s3 = record.s3.ok_or_else(|| bad("s3", "is missing".to_owned()))?;
        let key = decode_form(&s3.object.key).map_err(|problem| bad("s3.object.key", problem))?;
        let object = object(s3.bucket, s3.object, key, record.event_time.as_deref());
        self.objects.push(object.map_err(|(field, problem)| bad(field, problem))?);
        Ok(())
    }
}

/// EventBridge does not encode keys.
fn from_detail(detail: S3<'_>, time: Option<&str>) -> Result<ObjectRef, EventError> {
    let key = detail.object.key.clone().into_owned();
    object(detail.bucket, detail.object, key, time).map_err(|(field, problem)| EventError::BadRecord {
        index: 0,
        field,
        problem,
    })
}

fn object(
    bucket: Bucket<'_>,
    object: Object<'_>,
    key: String,
    time: Option<&str>,
) -> Result<ObjectRef, (&'static str, String)> {
    if bucket.name.is_empty() {
        return Err(("s3.bucket.name", "is empty".to_owned()));
    }
    if key.is_empty() {
        return Err(("s3.object.key", "is empty".to_owned()));
    }
    Ok(ObjectRef {
        bucket: bucket.name.into_owned(),
        key,
        version_id: object.version_id.map(Cow::into_owned).filter(|id| id != "null"),
        etag: object.etag.map(|etag| etag.trim_matches('"').to_owned()).filter(|etag| !etag.is_empty()),
        size: object.size,
        sequencer: object.sequencer.map(Cow::into_owned),
        event_time: time.and_then(|time| time.parse().ok()),
    })
}

/// Undoes S3's form encoding of keys: `+` is a space, `%XX` a byte, the whole UTF-8.
fn decode_form(encoded: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex = tail.first_chunk::<2>().filter(|pair| pair.iter().all(u8::is_ascii_hexdigit));
                let byte = hex
                    .and_then(|pair| std::str::from_utf8(pair).ok())
                    .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                    .ok_or_else(|| format!("{encoded:?} has a % without two hexadecimal digits"))?;
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{encoded:?} is not UTF-8 once decoded"))
}

/// The members by which the shapes are told apart; whatever else is there is skipped.
#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, rename = "Type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Message")]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Records")]
    records: Option<&'a RawValue>,
    #[serde(borrow, rename = "Event")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "detail-type")]
    detail_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    #[serde(borrow)]
    event_name: Cow<'a, str>,
    #[serde(borrow)]
    event_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    event_time: Option<Cow<'a, str>>,
    #[serde(borrow)]
    s3: Option<S3<'a>>,
}

#[derive(Deserialize)]
struct S3<'a> {
    #[serde(borrow)]
    bucket: Bucket<'a>,
    #[serde(borrow)]
    object: Object<'a>,
}

#[derive(Deserialize)]
struct Bucket<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    size: Option<u64>,
    #[serde(borrow, alias = "eTag")]
    etag: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "versionId", alias = "version-id")]
    version_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sequencer: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(key: &str, name: &str) -> serde_json::Value {
        json!({
            "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "us-east-1",
            "eventTime": "2026-11-21T08:00:00.000Z", "eventName": name,
            "s3": {
                "s3SchemaVersion": "1.0", "configurationId": "x",
                "bucket": {"name": "staging", "ownerIdentity": {"principalId": "A"}, "arn": "arn:aws:s3:::staging"},
                "object": {"key": key, "size": 42, "eTag": "abc", "versionId": "v1", "sequencer": "0055AED6DCD90281E5"}
            }
        })
    }

    fn object(key: &str) -> ObjectRef {
        ObjectRef {
            bucket: "staging".into(),
            key: key.into(),
            version_id: Some("v1".into()),
            etag: Some("abc".into()),
            size: Some(42),
            sequencer: Some("0055AED6DCD90281E5".into()),
            event_time: Some("2026-11-21T08:00:00Z".parse().expect("a timestamp")),
        }
    }

    fn check(body: &serde_json::Value, expected: &Event) {
        assert_eq!(&decode(&body.to_string()).expect("the body is an event"), expected);
        // The same inside an SNS envelope.
        let envelope = json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-east-1:1:t",
            "Subject": "Amazon S3 Notification", "Message": body.to_string(), "Timestamp": "2026-11-21T08:00:00.000Z"});
        assert_eq!(&decode(&envelope.to_string()).expect("the envelope is an event"), expected);
    }

    fn objects(keys: &[&str]) -> Event {
        Event { objects: keys.iter().map(|key| object(key)).collect(), ignored: Vec::new() }
    }

    #[test]
    fn records_are_all_read() {
        let body = json!({"Records": [record("a/b", "ObjectCreated:Put"), record("c", "ObjectCreated:CompleteMultipartUpload")]});
        check(&body, &objects(&["a/b", "c"]));
    }

    #[test]
    fn keys_are_form_encoded() {
        for (encoded, key) in [
            ("a+b/c%2Bd.gz", "a b/c+d.gz"),
            ("caf%C3%A9/%E6%97%A5", "café/日"),
            ("100%25", "100%"),
            ("a%2Fb", "a/b"),
        ] {
            check(&json!({"Records": [record(encoded, "ObjectCreated:Put")]}), &objects(&[key]));
        }
    }

    #[test]
    fn eventbridge_keys_are_not() {
        let body = json!({"version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3",
            "account": "111111111111", "time": "2026-11-21T08:00:00Z", "region": "us-east-1", "resources": [],
            "detail": {"version": "0", "bucket": {"name": "staging"}, "object": {"key": "a+b%2B", "size": 42,
                "etag": "abc", "version-id": "v1", "sequencer": "0055AED6DCD90281E5"}, "reason": "PutObject"}});
        check(&body, &objects(&["a+b%2B"]));
    }

    #[test]
    fn what_is_no_work_is_named() {
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-11-21T08:00:00.000Z", "Bucket": "staging"});
        check(&test, &Event { ignored: vec![Ignored::TestEvent], ..Event::default() });
        let mixed =
            json!({"Records": [record("a", "ObjectRemoved:Delete"), record("b", "ObjectCreated:Copy")]});
        let ignored = vec![Ignored::NotObjectCreated("ObjectRemoved:Delete".into())];
        check(&mixed, &Event { ignored, ..objects(&["b"]) });
        let deleted = json!({"detail-type": "Object Deleted", "source": "aws.s3", "detail": {}});
        check(
            &deleted,
            &Event { ignored: vec![Ignored::NotObjectCreated("Object Deleted".into())], ..Event::default() },
        );
        check(&json!({"Records": []}), &Event::default());
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        let bad_key = json!({"Records": [record("a%zz", "ObjectCreated:Put")]}).to_string();
        let not_utf8 = json!({"Records": [record("a%ff", "ObjectCreated:Put")]}).to_string();
        let empty_key = json!({"Records": [record("", "ObjectCreated:Put")]}).to_string();
        let cut = json!({"Records": [record("a%2", "ObjectCreated:Put")]}).to_string();
        let old = json!({"Records": [{"eventName": "ObjectCreated:Put", "eventVersion": "3.0"}]}).to_string();
        for (body, part) in [
            ("", "ends too early"),
            ("hello", "not JSON"),
            ("[]", "no S3 event"),
            ("{}", "neither Records"),
            ("{\"Records\": 5}", "another type"),
            ("\"secret\"", "another type"),
            ("{\"Type\":\"SubscriptionConfirmation\",\"Message\":\"x\"}", "SubscriptionConfirmation"),
            ("{\"source\":\"aws.ec2\",\"detail-type\":\"Object Created\",\"detail\":{}}", "neither Records"),
            (bad_key.as_str(), "two hexadecimal digits"),
            (cut.as_str(), "two hexadecimal digits"),
            (not_utf8.as_str(), "not UTF-8"),
            (empty_key.as_str(), "is empty"),
            (old.as_str(), "eventVersion"),
        ] {
            let error = decode(body).expect_err("not an event").to_string();
            assert!(!error.contains("secret"), "the body is in the error");
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
