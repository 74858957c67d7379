//! Reads the attributes of an SQS queue.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{Client, error::ProvideErrorMetadata, types::QueueAttributeName};
use serde::Deserialize;

use super::is_missing;
use crate::aws::describe;

/// Attributes of a queue that the worker and the operators' commands need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueAttributes {
    /// ARN of the queue.
    pub arn: String,
    /// Approximate number of messages that can be received.
    pub visible: u64,
    /// Approximate number of messages in flight: received, and not deleted.
    pub hidden: u64,
    /// Approximate number of messages whose delay has not passed.
    pub delayed: u64,
    /// `MessageRetentionPeriod`: SQS drops older messages.
    pub retention: Duration,
    /// `VisibilityTimeout`: the default for receives without a timeout of their own.
    pub visibility_timeout: Duration,
    /// Where SQS moves messages that were received too often, if the queue has a redrive policy.
    pub redrive: Option<RedrivePolicy>,
    /// `RedriveAllowPolicy`, as JSON: which queues may use this one as their dead-letter queue.
    pub redrive_allow: Option<String>,
    /// `Policy`, as JSON: who may send.
    pub policy: Option<String>,
    /// `KmsMasterKeyId`: the KMS key that encrypts messages. `None`: SQS encrypts with keys of its own, or not at all.
    pub key: Option<String>,
}

/// A queue's redrive policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedrivePolicy {
    /// ARN of the dead-letter queue.
    pub target_arn: String,
    /// Number of receives after which SQS moves a message there.
    pub max_receive_count: u32,
}

/// Reason why a queue's attributes could not be read, with AWS's error text.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttributesError {
    /// There is no such queue.
    #[error("the queue does not exist: {0}")]
    Missing(String),
    /// IAM denies the call.
    #[error("IAM denies access to the queue's attributes: {0}")]
    Denied(String),
    /// SQS does not answer, or the answer has an unknown form.
    #[error("the queue's attributes cannot be read: {0}")]
    Unavailable(String),
}

/// Reads a queue's attributes from SQS.
///
/// # Errors
/// The queue does not exist, IAM denies the call, or SQS does not answer.
pub async fn attributes(client: &Client, url: &str) -> Result<QueueAttributes, AttributesError> {
    let answer = client.get_queue_attributes().queue_url(url);
    let answer = answer.attribute_names(QueueAttributeName::All).send().await;
    match answer {
        Ok(output) => read(output.attributes.unwrap_or_default()).map_err(AttributesError::Unavailable),
        Err(error) => Err(match error.code() {
            code if is_missing(code) => AttributesError::Missing(describe(&error)),
            Some(code) if code.contains("AccessDenied") => AttributesError::Denied(describe(&error)),
            _ => AttributesError::Unavailable(describe(&error)),
        }),
    }
}

fn read(mut all: HashMap<QueueAttributeName, String>) -> Result<QueueAttributes, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Policy {
        dead_letter_target_arn: String,
        max_receive_count: Count,
    }
    /// SQS returns the count as it was set. Some tools set a number, others a string.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Number(u32),
        Text(String),
    }
    let mut text = |name: QueueAttributeName| all.remove(&name).filter(|text| !text.is_empty());
    let policy = text(QueueAttributeName::RedrivePolicy);
    let redrive = policy
        .map(|policy| {
            let Policy { dead_letter_target_arn, max_receive_count } = serde_json::from_str(&policy).ok()?;
            let max_receive_count = match max_receive_count {
                Count::Number(count) => count,
                Count::Text(text) => text.parse().ok()?,
            };
            Some(RedrivePolicy { target_arn: dead_letter_target_arn, max_receive_count })
        })
        .map(|policy| {
            policy.ok_or_else(|| {
                "the RedrivePolicy is not JSON with deadLetterTargetArn and maxReceiveCount".to_owned()
            })
        })
        .transpose()?;
    let redrive_allow = text(QueueAttributeName::RedriveAllowPolicy);
    let (who, key) = (text(QueueAttributeName::Policy), text(QueueAttributeName::KmsMasterKeyId));
    let arn = text(QueueAttributeName::QueueArn).ok_or("SQS did not return the ARN")?;
    let mut number = |name: QueueAttributeName| {
        let found = text(name.clone()).and_then(|text| text.parse::<u64>().ok());
        found.ok_or_else(|| format!("SQS did not return {name}"))
    };
    Ok(QueueAttributes {
        arn,
        visible: number(QueueAttributeName::ApproximateNumberOfMessages)?,
        hidden: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)?,
        delayed: number(QueueAttributeName::ApproximateNumberOfMessagesDelayed)?,
        retention: Duration::from_secs(number(QueueAttributeName::MessageRetentionPeriod)?),
        visibility_timeout: Duration::from_secs(number(QueueAttributeName::VisibilityTimeout)?),
        redrive,
        redrive_allow,
        policy: who,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: Option<&str>, expected: Result<Option<(&str, u32)>, &str>) {
        use QueueAttributeName as Name;
        let mut all = HashMap::from(
            [
                (Name::QueueArn, "arn:aws:sqs:eu-central-1:111111111111:logs"),
                (Name::ApproximateNumberOfMessages, "3"),
                (Name::ApproximateNumberOfMessagesNotVisible, "2"),
                (Name::ApproximateNumberOfMessagesDelayed, "1"),
                (Name::MessageRetentionPeriod, "345600"),
                (Name::VisibilityTimeout, "30"),
            ]
            .map(|(name, text)| (name, text.to_owned())),
        );
        all.extend(policy.map(|policy| (Name::RedrivePolicy, policy.to_owned())));
        let found = read(all).map(|attributes| {
            assert_eq!((attributes.visible, attributes.hidden, attributes.delayed), (3, 2, 1));
            assert_eq!(attributes.retention, Duration::from_secs(4 * 86_400));
            attributes.redrive.map(|policy| (policy.target_arn, policy.max_receive_count))
        });
        let expected = expected.map(|policy| policy.map(|(arn, count)| (arn.to_owned(), count)));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_redrive_policy_may_have_a_number_or_a_string() {
        check(None, Ok(None));
        check(Some(""), Ok(None));
        check(Some(r#"{"deadLetterTargetArn":"a","maxReceiveCount":5}"#), Ok(Some(("a", 5))));
        check(Some(r#"{"maxReceiveCount":"100","deadLetterTargetArn":"a"}"#), Ok(Some(("a", 100))));
        check(Some("{}"), Err("the RedrivePolicy is not JSON with deadLetterTargetArn and maxReceiveCount"));
    }

    #[test]
    fn a_missing_attribute_is_an_error() {
        assert_eq!(read(HashMap::new()), Err("SQS did not return the ARN".to_owned()));
    }
}
