//! Builds event messages as S3 and EventBridge write them. The run sends them about objects in the bucket without
//! notifications, and to repeat notifications.

use jiff::Timestamp;
use serde_json::{Value, json};

/// Path of an event message to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// From S3 to the queue; may name several objects.
    Direct,
    /// From EventBridge; names one object.
    EventBridge,
    /// Through the topic, with or without the SNS envelope; may name several objects.
    Topic,
}

/// Properties of an object that its events contain.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) size: usize,
    pub(crate) etag: String,
    pub(crate) version_id: Option<String>,
    /// Hexadecimal. Of two objects with the same key, the newer one has the larger sequencer.
    pub(crate) sequencer: String,
    /// LastModified in milliseconds since 1970. No event contains it.
    pub(crate) modified: i64,
}

/// S3's event about these objects. Source: Amazon S3 user guide, "Event message structure".
pub(crate) fn s3_event(objects: &[&Stored], region: &str) -> Value {
    let records = objects.iter().map(|stored| {
        let Stored { bucket, key, size, etag, version_id, sequencer, .. } = stored;
        let mut object = json!({ "key": key, "size": size, "eTag": etag, "sequencer": sequencer });
        if let Some(version_id) = version_id {
            object["versionId"] = json!(version_id);
        }
        json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": region,
            "eventTime": format!("{:.3}", Timestamp::now()),
            "eventName": "ObjectCreated:Put",
            "s3": {
                "s3SchemaVersion": "1.0",
                "bucket": { "name": bucket, "arn": format!("arn:aws:s3:::{bucket}") },
                "object": object,
            },
        })
    });
    json!({ "Records": records.collect::<Vec<_>>() })
}

/// EventBridge's event about the object. Source: Amazon S3 user guide, "EventBridge event message structure".
pub(crate) fn eventbridge_event(stored: &Stored, account: &str, region: &str) -> Value {
    let Stored { bucket, key, size, etag, version_id, sequencer, .. } = stored;
    let mut object = json!({ "key": key, "size": size, "etag": etag, "sequencer": sequencer });
    if let Some(version_id) = version_id {
        object["version-id"] = json!(version_id);
    }
    json!({
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": "Object Created",
        "source": "aws.s3",
        "account": account,
        "time": format!("{:.0}", Timestamp::now()),
        "region": region,
        "resources": [format!("arn:aws:s3:::{bucket}")],
        "detail": { "version": "0", "bucket": { "name": bucket }, "object": object, "reason": "PutObject" },
    })
}
