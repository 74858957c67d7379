//! Messages of S3 to topics and queues: event records and test events, and their delivery.
//!
//! An event is delivered within the call that caused it, so that a test sees the message when its put returns. AWS
//! takes seconds.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    bucket::Bucket,
    notification::{Destination, Rule},
};
use crate::{
    call::Call,
    cloud::Cloud,
    encoding::{encode_key, hex},
    sqs::{Sender, message::Attributes},
};

/// Subject of S3's messages on a topic.
const SUBJECT: &str = "Amazon S3 Notification";
const SERVICE: &str = "s3.amazonaws.com";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    Put,
    Copy,
    CompleteMultipartUpload,
}

impl Happening {
    fn event_name(self) -> &'static str {
        match self {
            Self::Put => "ObjectCreated:Put",
            Self::Copy => "ObjectCreated:Copy",
            Self::CompleteMultipartUpload => "ObjectCreated:CompleteMultipartUpload",
        }
    }
}

/// Object of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: String,
    /// `None` in a bucket without versioning.
    pub(super) version_id: Option<String>,
    pub(super) sequencer: u64,
}

/// Bucket of an event, copied so that no lock is held during delivery.
#[derive(Debug, Clone)]
pub(super) struct Source {
    bucket: String,
    account: String,
    region: String,
    rules: Arc<Vec<Rule>>,
}

impl Source {
    /// Copies what the delivery needs of a bucket.
    pub(super) fn of(bucket: &Bucket) -> Self {
        Self {
            bucket: bucket.name.clone(),
            account: bucket.account.clone(),
            region: bucket.region.clone(),
            rules: bucket.rules.clone(),
        }
    }

    pub(super) fn with(self, rules: Arc<Vec<Rule>>) -> Self {
        Self { rules, ..self }
    }

    fn arn(&self) -> String {
        format!("arn:aws:s3:::{}", self.bucket)
    }

    /// Sends the event to every destination whose rule covers it.
    pub(super) fn tell(&self, cloud: &Cloud, call: &Call, happening: Happening, subject: &Subject) {
        let now = Timestamp::now();
        for rule in self.rules.iter().filter(|rule| rule.wants(happening.event_name(), &subject.key)) {
            let record = self.record(cloud, call, happening, subject, &rule.id, now);
            self.deliver(cloud, rule, &record);
        }
    }

    /// Returns whether every destination exists, is in the bucket's Region, and lets S3 send.
    pub(super) fn destinations_accept(&self, cloud: &Cloud) -> bool {
        let arn = self.arn();
        let sender = Sender { service: SERVICE, source_arn: &arn, source_account: &self.account };
        self.rules.iter().all(|Rule { destination, .. }| {
            destination.arn().split(':').nth(3) == Some(&self.region)
                && match destination {
                    Destination::Topic(arn) => cloud.sns.accepts(arn, &sender),
                    Destination::Queue(arn) => cloud.sqs.accepts(arn, &sender),
                }
        })
    }

    /// Sends `s3:TestEvent` to every destination.
    pub(super) fn send_test_events(&self, cloud: &Cloud) {
        for rule in self.rules.iter() {
            let event = format!(
                "{{\"Service\":\"Amazon S3\",\"Event\":\"s3:TestEvent\",\"Time\":\"{:.3}\",\"Bucket\":\"{}\",\
                 \"RequestId\":\"{}\",\"HostId\":\"{}\"}}",
                Timestamp::now(),
                self.bucket,
                request_id(),
                host_id()
            );
            self.deliver(cloud, rule, &event);
        }
    }

    /// Sends a message. A message that the destination refuses is lost, as in AWS; SNS or SQS counts it.
    fn deliver(&self, cloud: &Cloud, rule: &Rule, message: &str) {
        let arn = self.arn();
        let sender = Sender { service: SERVICE, source_arn: &arn, source_account: &self.account };
        match &rule.destination {
            Destination::Topic(arn) => {
                cloud.sns.publish_for(cloud, arn, &sender, SUBJECT, message);
            }
            Destination::Queue(arn) => {
                let _ = cloud.sqs.deliver(arn, &sender, message.to_owned(), Attributes::new());
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
        let mut object = json!({
            "key": encode_key(&subject.key),
            "size": subject.size,
            "eTag": subject.etag,
            "sequencer": sequencer(subject.sequencer),
        });
        if let Some(version_id) = &subject.version_id {
            object["versionId"] = json!(version_id);
        }
        let record = json!({
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": self.region,
            "eventTime": format!("{now:.3}"),
            "eventName": happening.event_name(),
            "userIdentity": { "principalId": format!("AWS:{}", cloud.iam.id_of_caller(call)) },
            "requestParameters": { "sourceIPAddress": "127.0.0.1" },
            "responseElements": { "x-amz-request-id": request_id(), "x-amz-id-2": host_id() },
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": configuration_id,
                "bucket": {
                    "name": self.bucket,
                    "ownerIdentity": { "principalId": owner_id(&self.account) },
                    "arn": self.arn(),
                },
                "object": object,
            },
        });
        json!({ "Records": [record] }).to_string()
    }
}

/// Sequencer in S3's form: hexadecimal digits, an even number of them.
fn sequencer(number: u64) -> String {
    format!("00{number:016X}")
}

/// Request id in S3's form.
fn request_id() -> String {
    format!("{:016X}", fastrand::u64(..))
}

fn host_id() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(76).collect()
}

/// Canonical user id of an account, always the same for the same account.
fn owner_id(account: &str) -> String {
    let digest = Sha256::digest(account.as_bytes());
    format!("A{}", hex(&digest[..7]).to_ascii_uppercase())
}
