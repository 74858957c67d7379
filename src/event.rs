//! Reads the body of a queue message and finds the objects that it names.
//!
//! S3's notifications reach an SQS queue in four shapes, all of which are read: in an SNS envelope, from SNS with raw
//! message delivery, from S3 directly, and from EventBridge. Pure: no I/O, no clock. `route` reads the keys of the
//! objects.

mod created;
mod enclosed;

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::json::{self, JsonObject};

pub use self::{created::created_event, enclosed::decode_enclosed};

/// Content of a message's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Objects that were created, in the message's order.
    pub objects: Vec<ObjectRef>,
    /// Parts of the message that name no created object, in the message's order.
    pub ignored: Vec<Ignored>,
}

/// A created object, with the version and eTag that the event names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// Name of the bucket.
    pub bucket: String,
    /// Decoded key.
    pub key: String,
    /// Version, if the bucket keeps versions.
    pub version_id: Option<String>,
    /// ETag, without the quotes of the HTTP header.
    pub etag: Option<String>,
    /// Stored bytes.
    pub size: Option<u64>,
    /// Hexadecimal number that orders the events of one key. To compare two, pad the shorter one with zeros on the left.
    pub sequencer: Option<String>,
    /// Time at which S3 finished the request.
    pub event_time: Option<Timestamp>,
}

impl ObjectRef {
    /// Whether the object is a folder marker of the S3 console: it has no bytes, and its key ends with a slash.
    pub fn is_folder_marker(&self) -> bool {
        self.size == Some(0) && self.key.ends_with('/')
    }
}

/// Reason why a part of a message names no created object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// S3 sends a test event when a notification is configured.
    TestEvent,
    /// Name of an event other than `ObjectCreated`.
    NotObjectCreated(String),
}

/// Reason why a body is not an S3 event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The body is not JSON, or has no known shape.
    #[error("the message's body is not an S3 event: {0}")]
    Unknown(String),
    /// The body has a known shape, but a record is invalid.
    #[error("record {index} of the S3 event has an invalid {field}: {problem}")]
    BadRecord {
        /// Index in `Records`; 0 for EventBridge.
        index: usize,
        /// AWS's name of the invalid member.
        field: &'static str,
        /// The problem, for example `is empty`.
        problem: String,
    },
}

/// Reads the body of a message.
///
/// # Errors
/// The body has no known shape, or one of its records is invalid. In both cases the whole message belongs in the
/// dead-letter queue, and none of its objects is read.
pub fn decode(body: &str) -> Result<Event, EventError> {
    let JsonObject(outer): JsonObject<Outer<'_>> = parse(body)?;
    match outer.message {
        // An SNS envelope, with the event as a string.
        Some(message) if outer.kind.as_deref() == Some("Notification") => {
            decode_inner(parse::<JsonObject<_>>(&message)?.0)
        }
        Some(_) => Err(EventError::Unknown(format!(
            "it is an SNS envelope of Type {:?}, not \"Notification\"",
            outer.kind.as_deref().unwrap_or_default()
        ))),
        None => decode_inner(outer),
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a str) -> Result<T, EventError> {
    serde_json::from_str(body).map_err(|error| EventError::Unknown(json::problem(&error)))
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
            // EventBridge does not encode keys.
            let JsonObject(detail): JsonObject<S3<'_>> = parse(detail.get())?;
            let key = detail.object.0.key.clone().into_owned();
            let object = object(0, detail, key, outer.time.as_deref())?;
            Ok(Event { objects: vec![object], ..Event::default() })
        }
        _ => Err(EventError::Unknown(
            "it has no Records, and is neither an EventBridge event of aws.s3 nor an s3:TestEvent".to_owned(),
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

/// Reads `Records` one by one. A list of tens of thousands of parsed records would take many times the memory of the message.
#[derive(Default)]
struct Records {
    event: Event,
    /// Error of the first invalid record.
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
                while let Some(JsonObject(record)) = records.next_element()? {
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
        // S3 sends "ObjectCreated:Put". Test clients may send "s3:ObjectCreated:Put".
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
        let JsonObject(s3) = record.s3.ok_or_else(|| bad("s3", "is missing".to_owned()))?;
        let key = decode_key(&s3.object.0.key).map_err(|problem| bad("s3.object.key", problem))?;
        self.objects.push(object(index, s3, key, record.event_time.as_deref())?);
        Ok(())
    }
}

fn object(index: usize, s3: S3<'_>, key: String, time: Option<&str>) -> Result<ObjectRef, EventError> {
    let S3 { bucket: JsonObject(bucket), object: JsonObject(object) } = s3;
    for (field, text) in [("s3.bucket.name", &*bucket.name), ("s3.object.key", &key)] {
        if text.is_empty() {
            return Err(EventError::BadRecord { index, field, problem: "is empty".to_owned() });
        }
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

/// Percent-encodes all bytes of a text but letters, digits and those of `plain`.
pub(crate) fn percent_encoded(text: &str, plain: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Decodes a key of an S3 event, or of a listing with `encoding-type=url`: `+` is a space, `%XX` is a byte, and the result is
/// UTF-8.
///
/// # Errors
/// The text is not encoded in this way.
pub fn decode_key(encoded: &str) -> Result<String, String> {
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

/// Members that tell the shapes apart. Other members are skipped.
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
    s3: Option<JsonObject<S3<'a>>>,
}

#[derive(Deserialize)]
struct S3<'a> {
    #[serde(borrow)]
    bucket: JsonObject<Bucket<'a>>,
    #[serde(borrow)]
    object: JsonObject<Object<'a>>,
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
        // The same event in an SNS envelope.
        let envelope = json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-east-1:1:t",
            "Subject": "Amazon S3 Notification", "Message": body.to_string(), "Timestamp": "2026-11-21T08:00:00.000Z"});
        assert_eq!(&decode(&envelope.to_string()).expect("the envelope is an event"), expected);
    }

    fn objects(keys: &[&str]) -> Event {
        Event { objects: keys.iter().map(|key| object(key)).collect(), ignored: Vec::new() }
    }

    #[test]
    fn all_records_are_read() {
        let body = json!({"Records": [record("a/b", "ObjectCreated:Put"), record("c", "ObjectCreated:CompleteMultipartUpload")]});
        check(&body, &objects(&["a/b", "c"]));
    }

    #[test]
    fn keys_of_s3_events_are_decoded() {
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
    fn keys_of_eventbridge_events_are_not_decoded() {
        let body = json!({"version": "0", "id": "1", "detail-type": "Object Created", "source": "aws.s3",
            "account": "111111111111", "time": "2026-11-21T08:00:00Z", "region": "us-east-1", "resources": [],
            "detail": {"version": "0", "bucket": {"name": "staging"}, "object": {"key": "a+b%2B", "size": 42,
                "etag": "abc", "version-id": "v1", "sequencer": "0055AED6DCD90281E5"}, "reason": "PutObject"}});
        check(&body, &objects(&["a+b%2B"]));
    }

    #[test]
    fn a_missing_version_or_etag_is_not_made_up() {
        let mut record = record("a", "s3:ObjectCreated:Put");
        record["s3"]["object"] = json!({"key": "a", "eTag": "\"abc\"", "versionId": "null"});
        let expected = ObjectRef { version_id: None, size: None, sequencer: None, ..object("a") };
        check(&json!({"Records": [record]}), &Event { objects: vec![expected.clone()], ..Event::default() });
        record["s3"]["object"] = json!({"key": "a", "eTag": "\"\""});
        record["eventTime"] = json!("yesterday");
        let expected = ObjectRef { etag: None, event_time: None, ..expected };
        check(&json!({"Records": [record]}), &Event { objects: vec![expected], ..Event::default() });
    }

    #[test]
    fn a_folder_marker_has_no_bytes_and_a_slash_at_its_end() {
        let of = |key: &str, size| ObjectRef { size, ..object(key) }.is_folder_marker();
        assert!(of("a/", Some(0)));
        assert!(!of("a/", Some(1)) && !of("a/", None) && !of("a", Some(0)));
    }

    #[test]
    fn events_other_than_object_created_are_ignored() {
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
    fn bodies_that_are_no_s3_event_are_errors() {
        let bad_key = json!({"Records": [record("a%zz", "ObjectCreated:Put")]}).to_string();
        let not_utf8 = json!({"Records": [record("a%ff", "ObjectCreated:Put")]}).to_string();
        let empty_key = json!({"Records": [record("", "ObjectCreated:Put")]}).to_string();
        let mut unnamed = record("a", "ObjectCreated:Put");
        unnamed["s3"]["bucket"]["name"] = json!("");
        let second = json!({"Records": [record("a", "ObjectCreated:Put"), unnamed]}).to_string();
        let cut = json!({"Records": [record("a%2", "ObjectCreated:Put")]}).to_string();
        let old = json!({"Records": [{"eventName": "ObjectCreated:Put", "eventVersion": "3.0"}]}).to_string();
        for (body, part) in [
            ("", "ends too early"),
            ("hello", "not JSON"),
            ("[]", "another type"),
            ("[\"Notification\",\"{}\"]", "another type"),
            ("{\"Records\":[[\"ObjectCreated:Put\",\"2.1\",null,[[\"b\"],[\"k\"]]]]}", "another type"),
            ("{}", "no Records"),
            ("{\"Records\": 5}", "another type"),
            ("\"secret\"", "another type"),
            ("{\"Type\":\"SubscriptionConfirmation\",\"Message\":\"x\"}", "SubscriptionConfirmation"),
            ("{\"source\":\"aws.ec2\",\"detail-type\":\"Object Created\",\"detail\":{}}", "no Records"),
            (bad_key.as_str(), "two hexadecimal digits"),
            (cut.as_str(), "two hexadecimal digits"),
            (not_utf8.as_str(), "not UTF-8"),
            (empty_key.as_str(), "record 0 of the S3 event has an invalid s3.object.key: is empty"),
            (second.as_str(), "record 1 of the S3 event has an invalid s3.bucket.name: is empty"),
            ("{\"source\":\"aws.s3\",\"detail-type\":\"Object Created\"}", "no Records"),
            (old.as_str(), "eventVersion"),
        ] {
            let error = decode(body).expect_err("not an event").to_string();
            assert!(!error.contains("secret"), "the body is in the error");
            assert!(error.contains(part), "{body}: {error}");
        }
    }
}
