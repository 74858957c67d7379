//! What S3 tells others: event records, EventBridge events and test events, and their delivery.
//!
//! Delivery happens within the call that caused it, so that a test sees the message when its put returns; AWS takes
//! seconds.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    bucket::Bucket,
    notification::{Destination, Notifications},
    xml::encode_key,
};
use crate::{
    call::{Call, Principal},
    cloud::Cloud,
    sqs::{
        Sender,
        message::{Attributes, hex, uuid},
    },
};

/// The subject of S3's messages on a topic.
const SUBJECT: &str = "Amazon S3 Notification";
const SERVICE: &str = "s3.amazonaws.com";

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    Put,
    Copy,
    Deleted,
    MarkerCreated,
}

impl Happening {
    fn event_name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Copy => "ObjectCreated:Copy",
            Self::Deleted => "ObjectRemoved:Delete",
            Self::MarkerCreated => "ObjectRemoved:DeleteMarkerCreated",
        }
    }
}

/// The object an event tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) key: String,
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    /// `None` in a bucket without versioning.
    pub(super) version_id: Option<String>,
    pub(super) sequencer: u64,
}

/// The bucket an event tells of, copied out so that no lock is held while it is delivered.
#[derive(Debug, Clone)]
pub(super) struct Source {
    bucket: String,
    account: String,
    region: String,
    notifications: Arc<Notifications>,
    eventbridge_targets: Vec<String>,
}

#[derive(Serialize)]
struct Records<'a> {
    #[serde(rename = "Records")]
    records: [Record<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    event_version: &'a str,
    event_source: &'a str,
    aws_region: &'a str,
    event_time: String,
    event_name: &'a str,
    user_identity: Identity,
    request_parameters: RequestParameters,
    response_elements: ResponseElements,
    s3: Entity<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    principal_id: String,
}

#[derive(Serialize)]
struct RequestParameters {
    #[serde(rename = "sourceIPAddress")]
    source_ip_address: &'static str,
}

#[derive(Serialize)]
struct ResponseElements {
    #[serde(rename = "x-amz-request-id")]
    request_id: String,
    #[serde(rename = "x-amz-id-2")]
    host_id: String,
}

#[derive(Serialize)]
struct Entity<'a> {
    #[serde(rename = "s3SchemaVersion")]
    schema_version: &'a str,
    #[serde(rename = "configurationId")]
    configuration_id: &'a str,
    bucket: BucketEntity<'a>,
    object: ObjectEntity<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BucketEntity<'a> {
    name: &'a str,
    owner_identity: Identity,
    arn: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectEntity<'a> {
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e_tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    sequencer: String,
}

impl Source {
    /// Copies what delivery needs of a bucket.
    pub(super) fn of(bucket: &Bucket) -> Self {
        Self {
            bucket: bucket.name.clone(),
            account: bucket.account.clone(),
            region: bucket.region.clone(),
            notifications: bucket.notifications.clone(),
            eventbridge_targets: bucket.eventbridge_targets.clone(),
        }
    }

    /// The same with another configuration.
    pub(super) fn with(self, notifications: Arc<Notifications>) -> Self {
        Self { notifications, ..self }
    }

    fn arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.bucket)
    }

    /// Tells every rule that wants it, and EventBridge's targets.
    pub(super) fn tell(&self, cloud: &Cloud, call: &Call, happening: Happening, subject: &Subject) {
        let now = Timestamp::now();
        for rule in &self.notifications.rules {
            if rule.wants(happening.event_name(), &subject.key) {
                let record = self.record(cloud, call, happening, subject, &rule.id, now);
                self.deliver(cloud, &rule.destination, record);
            }
        }
        if self.notifications.eventbridge {
            for queue in &self.eventbridge_targets {
                let rule_arn =
                    format!("arn:aws:events:{}:{}:rule/{}", self.region, self.account, self.bucket);
                let sender = Sender {
                    service: "events.amazonaws.com",
                    source_arn: &rule_arn,
                    source_account: &self.account,
                };
                let event = self.eventbridge_event(call, happening, subject, now);
                // The queue counts what it drops; S3 never learns of it.
                let _ = cloud.sqs.deliver(queue, &sender, event, Attributes::new());
            }
        }
    }

    /// Whether every destination exists, is in the bucket's Region, and lets S3 send.
    pub(super) fn destinations_accept(&self, cloud: &Cloud) -> bool {
        let arn = self.arn();
        let sender = Sender { service: SERVICE, source_arn: &arn, source_account: &self.account };
        self.notifications.rules.iter().all(|rule| {
            let (Destination::Topic(target) | Destination::Queue(target)) = &rule.destination;
            target.split(':').nth(3) == Some(&self.region)
                && match &rule.destination {
                    Destination::Topic(topic) => cloud.sns.accepts(topic, &sender),
                    Destination::Queue(queue) => cloud.sqs.accepts(queue, &sender).is_ok(),
                }
        })
    }

    /// Sends `s3:TestEvent` to every destination.
    pub(super) fn send_test_events(&self, cloud: &Cloud) {
        for rule in &self.notifications.rules {
            let event = format!(
                "{{\"Service\":\"Amazon S3\",\"Event\":\"s3:TestEvent\",\"Time\":\"{:.3}\",\"Bucket\":\"{}\",\
                 \"RequestId\":\"{}\",\"HostId\":\"{}\"}}",
                Timestamp::now(),
                self.bucket,
                request_id(),
                host_id()
            );
            self.deliver(cloud, &rule.destination, event);
        }
    }

    fn deliver(&self, cloud: &Cloud, destination: &Destination, message: String) {
        let arn = self.arn();
        let sender = Sender { service: SERVICE, source_arn: &arn, source_account: &self.account };
        // Topics and queues count what they drop; S3 never learns of it.
        match destination {
            Destination::Topic(topic) => {
                cloud.sns.publish_for(cloud, topic, &sender, SUBJECT, &message);
            }
            Destination::Queue(queue) => {
                let _ = cloud.sqs.deliver(queue, &sender, message, Attributes::new());
            }
        }
    }

    fn record(
        &self,
        cloud: &Cloud,
        call: &Call,
        happening: Happening,
        subject: &Subject,
        configuration_id: &str,
        now: Timestamp,
    ) -> String {
        let record = Record {
            event_version: "2.1",
            event_source: "aws:s3",
            aws_region: &self.region,
            event_time: format!("{now:.3}"),
            event_name: happening.event_name(),
            user_identity: Identity { principal_id: principal_id(cloud, call) },
            request_parameters: RequestParameters { source_ip_address: "127.0.0.1" },
            response_elements: ResponseElements { request_id: request_id(), host_id: host_id() },
            s3: Entity {
                schema_version: "1.0",
                configuration_id,
                bucket: BucketEntity {
                    name: &self.bucket,
                    owner_identity: Identity { principal_id: owner_id(&self.account) },
                    arn: self.arn(),
                },
                object: ObjectEntity {
                    key: encode_key(&subject.key),
                    size: subject.size,
                    e_tag: subject.etag.as_deref(),
                    version_id: subject.version_id.as_deref(),
                    sequencer: sequencer(subject.sequencer),
                },
            },
        };
        serde_json::to_string(&Records { records: [record] }).expect("strings and numbers serialize")
    }

    fn eventbridge_event(
        &self,
        call: &Call,
        happening: Happening,
        subject: &Subject,
        now: Timestamp,
    ) -> String {
        let created = matches!(happening, Happening::Put | Happening::Copy);
        let mut object = json!({"key": subject.key, "sequencer": sequencer(subject.sequencer)});
        let members = [
            ("size", subject.size.map(|size| json!(size))),
            ("etag", subject.etag.as_ref().map(|etag| json!(etag))),
            ("version-id", subject.version_id.as_ref().map(|id| json!(id))),
        ];
        for (name, value) in members {
            if let Some(value) = value {
                object[name] = value;
            }
        }
        let reason = match happening {
            Happening::Put => "PutObject",
            Happening::Copy => "CopyObject",
            Happening::Deleted | Happening::MarkerCreated => "DeleteObject",
        };
        let mut detail = json!({
            "version": "0",
            "bucket": {"name": self.bucket},
            "object": object,
            "request-id": request_id(),
            "requester": call.account,
            "source-ip-address": "127.0.0.1",
            "reason": reason,
        });
        match happening {
            Happening::Deleted => detail["deletion-type"] = json!("Permanently Deleted"),
            Happening::MarkerCreated => detail["deletion-type"] = json!("Delete Marker Created"),
            Happening::Put | Happening::Copy => {}
        }
        json!({
            "version": "0",
            "id": uuid(),
            "detail-type": if created { "Object Created" } else { "Object Deleted" },
            "source": "aws.s3",
            "account": self.account,
            "time": format!("{now:.0}"),
            "region": self.region,
            "resources": [self.arn()],
            "detail": detail,
        })
        .to_string()
    }
}

/// A sequencer as S3 writes it: hex, of even length.
fn sequencer(number: u64) -> String {
    format!("00{number:016X}")
}

/// A request id in S3's form.
fn request_id() -> String {
    format!("{:016X}", fastrand::u64(..))
}

fn host_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(76).collect()
}

/// A stable identifier for an account as a bucket's owner.
pub(super) fn owner_id(account: &str) -> String {
    let digest = Sha256::digest(account.as_bytes());
    format!("A{}", hex(&digest[..7]).to_ascii_uppercase())
}

fn principal_id(cloud: &Cloud, call: &Call) -> String {
    match &call.principal {
        Principal::Root => format!("AWS:{}", call.account),
        Principal::Session { role_arn, session_name, .. } => {
            let role = cloud.iam.role(role_arn).map_or_else(|| "AROA".to_owned(), |role| role.id);
            format!("AWS:{role}:{session_name}")
        }
    }
}
