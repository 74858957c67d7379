//! Buckets: their notifications, and real reads and writes.

use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    types::{Event, FilterRuleName, NotificationConfigurationFilter, Object, ObjectStorageClass},
};

use super::{Unread, Wiring};
use crate::{aws::describe, name::bucket::OwnBucket};

/// Most keys that are looked at: one page of ListObjectsV2.
pub const PAGE: usize = 1000;

/// What a bucket's events are sent to, by ARN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An SNS topic.
    Topic(String),
    /// An SQS queue.
    Queue(String),
    /// A Lambda function.
    Function(String),
    /// EventBridge, which gets every event and has rules of its own.
    EventBridge,
}

/// One entry of a bucket's notification configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where the events go.
    pub to: Target,
    /// Event types, such as `s3:ObjectCreated:*`.
    pub events: Vec<String>,
    /// Start of the keys; empty for any.
    pub prefix: String,
    /// End of the keys; empty for any.
    pub suffix: String,
}

/// An object of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// LastModified, in epoch seconds.
    pub modified: i64,
    /// Whether the object must be restored before it can be read.
    pub archived: bool,
}

/// What became of an object that was only written to see whether that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeObject {
    /// It was deleted.
    Removed,
    /// It is still there, because of this error.
    Left(String),
}

impl Wiring {
    /// Reads the notification configuration of a bucket.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn notifications(&self, bucket: &OwnBucket) -> Result<Vec<Notification>, Unread> {
        let get = self.s3.get_bucket_notification_configuration().bucket(&bucket.name);
        let answer = get.set_expected_bucket_owner(bucket.owner.clone()).send().await;
        let found = answer.map_err(|error| Unread::of("s3:GetBucketNotification", &error))?;
        let mut all = Vec::new();
        for of in found.topic_configurations.unwrap_or_default() {
            all.push(notification(Target::Topic(of.topic_arn), &of.events, of.filter));
        }
        for of in found.queue_configurations.unwrap_or_default() {
            all.push(notification(Target::Queue(of.queue_arn), &of.events, of.filter));
        }
        for of in found.lambda_function_configurations.unwrap_or_default() {
            all.push(notification(Target::Function(of.lambda_function_arn), &of.events, of.filter));
        }
        if found.event_bridge_configuration.is_some() {
            all.push(notification(Target::EventBridge, &[Event::from("s3:ObjectCreated:*")], None));
        }
        Ok(all)
    }

    /// Lists the first [`PAGE`] objects below a prefix.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn objects(&self, bucket: &OwnBucket, prefix: &str) -> Result<Vec<Listed>, Unread> {
        let list = self.s3.list_objects_v2().bucket(&bucket.name).prefix(prefix);
        let answer = list.set_expected_bucket_owner(bucket.owner.clone()).send().await;
        let found = answer.map_err(|error| Unread::of("s3:ListBucket", &error))?;
        Ok(found.contents.unwrap_or_default().into_iter().filter_map(listed).collect())
    }

    /// Reads the first byte of an object, which shows that the object's KMS key can be used too.
    ///
    /// # Errors
    /// Text of the error.
    pub async fn read_byte(&self, bucket: &OwnBucket, key: &str) -> Result<(), String> {
        let get = self.s3.get_object().bucket(&bucket.name).key(key).range("bytes=0-0");
        let answer = get.set_expected_bucket_owner(bucket.owner.clone()).send().await;
        let got = answer.map_err(|error| describe(&error))?;
        got.body.collect().await.map(drop).map_err(|error| error.to_string())
    }

    /// Writes an object of 0 bytes and deletes it again, if that is allowed.
    ///
    /// # Errors
    /// The object cannot be written.
    pub async fn write(&self, bucket: &OwnBucket, key: &str) -> Result<ProbeObject, Unread> {
        self.put(bucket, key).await?;
        Ok(self.delete(bucket, key).await)
    }

    /// Writes an object of 0 bytes, and leaves it there.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn put(&self, bucket: &OwnBucket, key: &str) -> Result<(), Unread> {
        let put = self.s3.put_object().bucket(&bucket.name).key(key);
        let put = put.set_expected_bucket_owner(bucket.owner.clone()).send().await;
        put.map(drop).map_err(|error| Unread::of("s3:PutObject", &error))
    }

    /// Deletes an object, if that is allowed.
    pub async fn delete(&self, bucket: &OwnBucket, key: &str) -> ProbeObject {
        let delete = self.s3.delete_object().bucket(&bucket.name).key(key);
        match delete.set_expected_bucket_owner(bucket.owner.clone()).send().await {
            Ok(_) => ProbeObject::Removed,
            Err(error) => ProbeObject::Left(error.code().map_or_else(|| describe(&error), str::to_owned)),
        }
    }
}

fn notification(
    to: Target,
    events: &[Event],
    filter: Option<NotificationConfigurationFilter>,
) -> Notification {
    let rules = filter.and_then(|filter| filter.key?.filter_rules).unwrap_or_default();
    // S3 accepts the names in any case, and returns them as they were written or with a capital.
    let value = |wanted: &FilterRuleName| {
        let rule = rules
            .iter()
            .find(|rule| rule.name().is_some_and(|name| name.as_str().eq_ignore_ascii_case(wanted.as_str())));
        rule.and_then(|rule| rule.value()).unwrap_or_default().to_owned()
    };
    Notification {
        to,
        events: events.iter().map(|event| event.as_str().to_owned()).collect(),
        prefix: value(&FilterRuleName::Prefix),
        suffix: value(&FilterRuleName::Suffix),
    }
}

fn listed(object: Object) -> Option<Listed> {
    let archived =
        matches!(object.storage_class, Some(ObjectStorageClass::Glacier | ObjectStorageClass::DeepArchive));
    Some(Listed {
        size: object.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
        modified: object.last_modified.map(|at| at.secs()).unwrap_or_default(),
        archived,
        key: object.key?,
    })
}
