//! Writes the event of S3 about an object, for messages that logferry itself sends.

use serde_json::json;

use super::{ObjectRef, percent_encoded};

/// `configurationId` of the events, which tells them from those of the bucket's own notifications.
const CONFIGURATION: &str = "logferry-replay";

/// S3's event about a created object, as [`decode`](super::decode) reads it. `region` is the bucket's.
///
/// The event has no `eventTime`: the worker would measure freshness from it, and an old object would look like a late delivery.
pub fn created_event(object: &ObjectRef, region: &str) -> String {
    let ObjectRef { bucket, key, version_id, etag, size, .. } = object;
    let mut named = json!({ "key": encode_key(key) });
    if let Some(size) = size {
        named["size"] = json!(size);
    }
    for (name, value) in [("eTag", etag), ("versionId", version_id)] {
        if let Some(value) = value {
            named[name] = json!(value);
        }
    }
    let record = json!({
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": region,
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": CONFIGURATION,
            "bucket": { "name": bucket, "arn": format!("arn:aws:s3:::{bucket}") },
            "object": named,
        },
    });
    json!({ "Records": [record] }).to_string()
}

/// Encodes a key as S3 does in its events.
fn encode_key(key: &str) -> String {
    percent_encoded(key, b"-_.*/ ").replace(' ', "+")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, decode};

    proptest! {
        #[test]
        fn an_event_is_read_as_it_was_written(
            key in ".{1,80}",
            version_id in proptest::option::of("[A-Za-z0-9._-]{1,32}"),
            etag in proptest::option::of("[0-9a-f]{32}(-[0-9]{1,3})?"),
            size in proptest::option::of(any::<u64>()),
        ) {
            prop_assume!(version_id.as_deref() != Some("null"));
            let object = ObjectRef { bucket: "staging".to_owned(), key, version_id, etag, size, ..ObjectRef::default() };
            let event = decode(&created_event(&object, "us-east-1")).expect("the event is right");
            prop_assert_eq!(event, Event { objects: vec![object], ignored: Vec::new() });
        }
    }
}
