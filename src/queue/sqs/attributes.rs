//! What SQS says of a queue itself.

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{Client, error::ProvideErrorMetadata, types::QueueAttributeName};
use serde::Deserialize;

use super::is_missing;
use crate::aws::describe;

/// A queue's attributes, as far as operators' commands look at them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueAttributes {
    /// Its ARN.
    pub arn: String,
    /// About how many messages can be received.
    pub visible: u64,
    /// About how many messages somebody has received and not deleted.
    pub hidden: u64,
    /// `MessageRetentionPeriod`: what is older is gone.
    pub retention: Duration,
    /// `VisibilityTimeout`, for receives that do not say their own.
    pub visibility_timeout: Duration,
    /// Where it moves what was received too often; `None` if nowhere.
    pub redrive: Option<RedrivePolicy>,
}

/// A queue's redrive policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedrivePolicy {
    /// ARN of the dead-letter queue.
    pub target_arn: String,
    /// Receives after which a message moves there.
    pub max_receive_count: u32,
}

/// Why a queue's attributes are not to be had; each holds AWS's words.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AttributesError {
    /// There is no such queue.
    #[error("the queue does not exist: {0}")]
    Missing(String),
    /// We may not ask.
    #[error("its attributes may not be read: {0}")]
    Denied(String),
    /// The attributes cannot be understood, or nothing answers.
    #[error("its attributes cannot be read: {0}")]
    Unavailable(String),
}

/// Asks SQS for a queue's attributes.
///
/// # Errors
/// The queue is missing, or hidden from us, or SQS does not answer.
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
    /// AWS keeps what was set: tools write the count as a number or as a string.
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
        .map(|policy| policy.ok_or_else(|| "its RedrivePolicy is no JSON of the known form".to_owned()))
        .transpose()?;
    let arn = text(QueueAttributeName::QueueArn).ok_or("SQS did not say its ARN")?;
    let mut number = |name: QueueAttributeName| {
        let found = text(name.clone()).and_then(|text| text.parse::<u64>().ok());
        found.ok_or_else(|| format!("SQS did not say its {name}"))
    };
    Ok(QueueAttributes {
        arn,
        visible: number(QueueAttributeName::ApproximateNumberOfMessages)?,
        hidden: number(QueueAttributeName::ApproximateNumberOfMessagesNotVisible)?,
        retention: Duration::from_secs(number(QueueAttributeName::MessageRetentionPeriod)?),
        visibility_timeout: Duration::from_secs(number(QueueAttributeName::VisibilityTimeout)?),
        redrive,
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
                (Name::MessageRetentionPeriod, "345600"),
                (Name::VisibilityTimeout, "30"),
            ]
            .map(|(name, text)| (name, text.to_owned())),
        );
        all.extend(policy.map(|policy| (Name::RedrivePolicy, policy.to_owned())));
        let found = read(all).map(|attributes| {
            assert_eq!((attributes.visible, attributes.hidden), (3, 2));
            assert_eq!(attributes.retention, Duration::from_secs(4 * 86_400));
            attributes.redrive.map(|policy| (policy.target_arn, policy.max_receive_count))
        });
        let expected = expected.map(|policy| policy.map(|(arn, count)| (arn.to_owned(), count)));
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn redrive_policies_of_all_tools_are_read() {
        check(None, Ok(None));
        check(Some(""), Ok(None));
        check(Some(r#"{"deadLetterTargetArn":"a","maxReceiveCount":5}"#), Ok(Some(("a", 5))));
        check(Some(r#"{"maxReceiveCount":"100","deadLetterTargetArn":"a"}"#), Ok(Some(("a", 100))));
        check(Some("{}"), Err("its RedrivePolicy is no JSON of the known form"));
    }

    #[test]
    fn what_is_not_said_is_an_error() {
        assert_eq!(read(HashMap::new()), Err("SQS did not say its ARN".to_owned()));
    }
}
