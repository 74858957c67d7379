//! Objects to deliver, and the events that must arrive. serde_json reads the expected events, independently of the worker.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::Path,
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use logferry_testbed::{
    provision::{Aws, Customer},
    samples::shift,
};
use serde_json::{Deserializer, Value, json};

/// An event: timestamp in milliseconds, and text.
pub(crate) type Event = (i64, String);

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) key: String,
    /// Body as stored.
    pub(crate) bytes: Vec<u8>,
    /// Decompressed body.
    pub(crate) text: String,
}

/// All objects of a folder of `tests/fixtures`, with timestamps shifted to now, in their own compression.
pub(crate) fn fixtures(folder: &str) -> Vec<Object> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let latest = Timestamp::now() - SignedDuration::from_secs(60);
    let mut objects = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder exists") {
            let path = entry.expect("the folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let key = path
                .strip_prefix(&root)
                .expect("the file is in the folder")
                .to_str()
                .expect("UTF-8")
                .to_owned();
            let stored = fs::read(&path).expect("the file can be read");
            let compression = key.rsplit('.').next().expect("a name has a last part").to_owned();
            let text = match compression.as_str() {
                "gz" => {
                    let mut text = String::new();
                    MultiGzDecoder::new(&stored[..]).read_to_string(&mut text).expect("gzip of UTF-8");
                    text
                }
                "zst" => String::from_utf8(zstd::decode_all(&stored[..]).expect("zstd")).expect("UTF-8"),
                _ => String::from_utf8(stored).expect("UTF-8"),
            };
            let text = shift(&text, latest);
            let bytes = match compression.as_str() {
                "gz" => gzip(text.as_bytes()),
                "zst" => zstd::encode_all(text.as_bytes(), 3).expect("memory takes every byte"),
                _ => text.clone().into_bytes(),
            };
            objects.push(Object { key, bytes, text });
        }
    }
    objects
}

/// An object in Vector's default form, one JSON array on one line in gzip: `count` records with messages of `size`
/// bytes, one millisecond apart.
pub(crate) fn generated(key: &str, count: usize, size: usize) -> Object {
    let first = Timestamp::now() - SignedDuration::from_mins(10);
    let records: Vec<_> = (0..count)
        .map(|index| {
            let at = first + SignedDuration::from_millis(index as i64);
            let filler = "x".repeat(size.saturating_sub(key.len() + 9));
            json!({
                "application": "app",
                "kubernetes": { "pod_name": "pod", "pod_labels": { "timestamp": "none" } },
                "message": format!("{index:08} {key}{filler}"),
                "timestamp": format!("{at:.9}"),
            })
        })
        .collect();
    let text = serde_json::to_string(&records).expect("JSON");
    Object { key: key.to_owned(), bytes: gzip(text.as_bytes()), text }
}

/// Compresses the bytes as one gzip member.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// Events that must arrive for an object's text, in CloudWatch's order: by timestamp, and within a millisecond in the
/// object's order. Records with an empty message are left out.
pub(crate) fn expected(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for value in Deserializer::from_str(text).into_iter::<Value>() {
        match value.expect("the object is JSON") {
            Value::Array(records) => events.extend(records.iter().map(event)),
            record => events.push(event(&record)),
        }
    }
    events.retain(|(_, message)| !message.is_empty());
    events.sort_by_key(|(timestamp, _)| *timestamp);
    events
}

fn event(record: &Value) -> Event {
    let timestamp = record["timestamp"].as_str().expect("RFC 3339");
    let timestamp: Timestamp = timestamp.parse().expect("RFC 3339");
    let message = record["message"].as_str().expect("a string");
    let milliseconds = timestamp.as_nanosecond().div_euclid(1_000_000);
    (i64::try_from(milliseconds).expect("the time fits into i64 as milliseconds"), message.to_owned())
}

/// All events that a customer received, by stream, in CloudWatch's order.
pub(crate) async fn received(aws: &Aws, customer: &Customer) -> BTreeMap<String, Vec<Event>> {
    let mut streams = BTreeMap::<String, Vec<Event>>::new();
    for event in customer.events(aws).await.expect("the customer's group can be read") {
        streams.entry(event.stream).or_default().push((event.timestamp, event.message));
    }
    streams
}

/// All events that a customer received, in one list.
pub(crate) async fn received_events(aws: &Aws, customer: &Customer) -> Vec<Event> {
    received(aws, customer).await.into_values().flatten().collect()
}

/// Compares event by event, and shows the first difference.
#[track_caller]
pub(crate) fn assert_same_events(what: &str, found: &[Event], expected: &[Event]) {
    let different = found.iter().zip(expected).position(|(found, expected)| found != expected);
    if let Some(at) = different {
        panic!("{what}: event {at} is {:?} instead of {:?}", found[at], expected[at]);
    }
    assert_eq!(found.len(), expected.len(), "{what}: number of events");
}

/// Checks that every expected event arrived at least once, and no other. Returns the number of repeated events.
#[track_caller]
pub(crate) fn assert_at_least_once(what: &str, found: &[Event], expected: &[Event]) -> usize {
    let mut unique = found.to_vec();
    unique.sort();
    unique.dedup();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_same_events(what, &unique, &expected);
    found.len() - expected.len()
}

/// Tests that the comparisons above notice differences.
mod judges {
    use super::{Event, assert_at_least_once, assert_same_events, expected};

    fn events(messages: &[&str]) -> Vec<Event> {
        messages.iter().map(|message| (1, (*message).to_owned())).collect()
    }

    #[test]
    fn expected_events_are_sorted_and_without_empty_messages() {
        let record = |message: &str, time: &str| {
            format!(r#"{{"message":"{message}","timestamp":"1970-01-01T00:00:{time}Z"}}"#)
        };
        let (late, early) = (record("late", "02.0019"), record("early", "01"));
        let text = format!("[{late},{}]\n{early}\n{}", record("", "01"), record("same", "01.0009"));
        let found = expected(&text);
        let told: Vec<_> = found.iter().map(|(at, message)| (*at, message.as_str())).collect();
        assert_eq!(told, [(1000, "early"), (1000, "same"), (2001, "late")]);
    }

    #[test]
    #[should_panic(expected = "event 1 is")]
    fn a_wrong_event_is_noticed() {
        assert_same_events("x", &events(&["a", "c"]), &events(&["a", "b"]));
    }

    #[test]
    #[should_panic(expected = "number of events")]
    fn a_missing_event_is_noticed() {
        assert_same_events("x", &events(&["a"]), &events(&["a", "b"]));
    }

    #[test]
    #[should_panic(expected = "number of events")]
    fn an_unexpected_event_is_noticed_among_duplicates() {
        assert_eq!(assert_at_least_once("x", &events(&["b", "a", "b"]), &events(&["a", "b"])), 1);
        assert_at_least_once("x", &events(&["a", "a", "b", "z"]), &events(&["a", "b"]));
    }
}
