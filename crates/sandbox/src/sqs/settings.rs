//! Attributes of a queue: parses, checks and prints them.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Map, Value, json};

use super::errors::{invalid_value, refuse};
use crate::{call::AwsError, policy::Policy};

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) visibility: Duration,
    pub(crate) delay: Duration,
    pub(crate) wait: Duration,
    pub(crate) retention: Duration,
    pub(crate) max_bytes: usize,
    pub(crate) redrive: Option<Redrive>,
    pub(crate) policy: Option<Policy>,
    /// Texts of `Policy`, `RedrivePolicy` and of attributes without an effect here, as they were set.
    texts: BTreeMap<String, String>,
}

/// Destination of messages that were received too often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redrive {
    pub(crate) target_arn: String,
    pub(crate) max_receives: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            delay: Duration::ZERO,
            wait: Duration::ZERO,
            retention: Duration::from_secs(345_600),
            max_bytes: super::message::MAX_MESSAGE_BYTES,
            redrive: None,
            policy: None,
            texts: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Applies `changes`. If one of them is refused, none is applied.
    pub(crate) fn with(&self, changes: &Map<String, Value>) -> Result<Self, AwsError> {
        let mut next = self.clone();
        for (name, value) in changes {
            let value = value.as_str().ok_or_else(|| {
                refuse("SerializationException", format!("the attribute {name} is not a string"))
            })?;
            next.set(name, value)?;
        }
        Ok(next)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), AwsError> {
        let number = |range: std::ops::RangeInclusive<u64>| {
            value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| bad(name))
        };
        let seconds = |range| number(range).map(Duration::from_secs);
        match name {
            "VisibilityTimeout" => self.visibility = seconds(0..=43_200)?,
            "DelaySeconds" => self.delay = seconds(0..=900)?,
            "ReceiveMessageWaitTimeSeconds" => self.wait = seconds(0..=20)?,
            "MessageRetentionPeriod" => self.retention = seconds(60..=1_209_600)?,
            "MaximumMessageSize" => {
                self.max_bytes = usize::try_from(number(1_024..=1_048_576)?).map_err(|_| bad(name))?;
            }
            "RedrivePolicy" => {
                self.redrive = if value.is_empty() { None } else { Some(Redrive::parse(value)?) };
                self.keep(name, value);
            }
            "Policy" => {
                self.policy = match value {
                    "" => None,
                    text => {
                        Some(Policy::resource(text).map_err(|reason| invalid_value(name, text, &reason))?)
                    }
                };
                self.keep(name, value);
            }
            "KmsMasterKeyId"
            | "KmsDataKeyReusePeriodSeconds"
            | "SqsManagedSseEnabled"
            | "RedriveAllowPolicy" => {
                self.keep(name, value);
            }
            "FifoQueue" | "ContentBasedDeduplication" | "DeduplicationScope" | "FifoThroughputLimit" => {
                return Err(AwsError::not_implemented("sqs", &format!("FIFO queues ({name})")));
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// The KMS key, unless SQS encrypts with keys of its own.
    pub(crate) fn key(&self) -> Option<&str> {
        self.texts.get("KmsMasterKeyId").map(String::as_str)
    }

    fn keep(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.texts.remove(name);
        } else {
            self.texts.insert(name.to_owned(), value.to_owned());
        }
    }

    /// All attributes by name, as GetQueueAttributes returns them.
    pub(crate) fn print(&self) -> Map<String, Value> {
        let mut all: Map<String, Value> =
            self.texts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        for (name, value) in [
            ("VisibilityTimeout", self.visibility.as_secs()),
            ("DelaySeconds", self.delay.as_secs()),
            ("ReceiveMessageWaitTimeSeconds", self.wait.as_secs()),
            ("MessageRetentionPeriod", self.retention.as_secs()),
            ("MaximumMessageSize", self.max_bytes as u64),
        ] {
            all.insert(name.to_owned(), json!(value.to_string()));
        }
        all.entry("SqsManagedSseEnabled").or_insert_with(|| json!("true"));
        all
    }
}

impl Redrive {
    fn parse(text: &str) -> Result<Self, AwsError> {
        let wrong = |reason: &str| invalid_value("RedrivePolicy", text, reason);
        let value: Value =
            serde_json::from_str(text).map_err(|_| wrong("Redrive policy is not a valid JSON map."))?;
        let target_arn = value["deadLetterTargetArn"].as_str().ok_or_else(|| {
            wrong("Redrive policy does not contain mandatory attribute: deadLetterTargetArn.")
        })?;
        let count = match &value["maxReceiveCount"] {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            Value::Null => {
                return Err(wrong("Redrive policy does not contain mandatory attribute: maxReceiveCount."));
            }
            _ => None,
        };
        let max_receives = count
            .and_then(|count| u32::try_from(count).ok())
            .filter(|count| (1..=1_000).contains(count))
            .ok_or_else(|| wrong("Invalid value for maxReceiveCount, valid values are from 1 to 1000."))?;
        Ok(Self { target_arn: target_arn.to_owned(), max_receives })
    }
}

fn bad(name: &str) -> AwsError {
    refuse("InvalidAttributeValue", format!("Invalid value for the parameter {name}."))
}

/// Returns whether a queue may lack this attribute, so that asking for it is not an error.
pub(crate) fn may_be_absent(name: &str) -> bool {
    matches!(
        name,
        "Policy" | "RedrivePolicy" | "RedriveAllowPolicy" | "KmsMasterKeyId" | "KmsDataKeyReusePeriodSeconds"
    )
}

pub(crate) fn unknown(name: &str) -> AwsError {
    refuse("InvalidAttributeName", format!("Unknown Attribute {name}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(changes: Value) -> Result<Settings, AwsError> {
        Settings::default().with(changes.as_object().expect("an object"))
    }

    #[test]
    fn attributes_are_checked() {
        let check = |changes: Value, expected: Result<(), &str>| {
            let got = apply(changes.clone()).map(|_| ()).map_err(|error| error.code);
            assert_eq!(got, expected.map_err(str::to_owned), "{changes}");
        };
        check(json!({"VisibilityTimeout": "43200", "MessageRetentionPeriod": "60"}), Ok(()));
        check(json!({"VisibilityTimeout": "43201"}), Err("InvalidAttributeValue"));
        check(json!({"VisibilityTimeout": "-1"}), Err("InvalidAttributeValue"));
        check(json!({"DelaySeconds": "901"}), Err("InvalidAttributeValue"));
        check(json!({"Colour": "red"}), Err("InvalidAttributeName"));
        check(json!({"FifoQueue": "true"}), Err("NotImplemented"));
        check(json!({"Policy": "{"}), Err("InvalidParameterValue"));
        check(json!({"RedrivePolicy": "{}"}), Err("InvalidParameterValue"));
        check(
            json!({"RedrivePolicy": r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":"1001"}"#}),
            Err("InvalidParameterValue"),
        );
    }

    #[test]
    fn a_redrive_policy_is_stored_unchanged_and_can_be_removed() {
        let text = r#"{"deadLetterTargetArn":"arn:x","maxReceiveCount":5}"#;
        let settings = apply(json!({"RedrivePolicy": text})).expect("valid");
        assert_eq!(settings.redrive, Some(Redrive { target_arn: "arn:x".to_owned(), max_receives: 5 }));
        assert_eq!(settings.print()["RedrivePolicy"], text);
        let gone =
            settings.with(json!({"RedrivePolicy": ""}).as_object().expect("an object")).expect("valid");
        assert_eq!(gone.redrive, None);
        assert!(!gone.print().contains_key("RedrivePolicy"));
    }
}
