//! A queue's subscription to a topic: its attributes, and the messages that it wants.

use serde_json::{Map, Value};

use super::invalid;
use crate::{
    call::AwsError,
    sqs::message::{AttributeValue, Attributes},
};

#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub(super) arn: String,
    /// ARN of the queue.
    pub(super) endpoint: String,
    pub(super) raw: bool,
    /// Names of message attributes with their accepted values. `None`: every message is wanted.
    filter: Option<Map<String, Value>>,
    /// Text of the redrive policy.
    redrive: Option<String>,
}

impl Subscription {
    pub(super) fn new(arn: String, endpoint: &str) -> Self {
        Self { arn, endpoint: endpoint.to_owned(), raw: false, filter: None, redrive: None }
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), AwsError> {
        match (name, value.to_ascii_lowercase().as_str()) {
            ("RawMessageDelivery", "true") => self.raw = true,
            ("RawMessageDelivery", "false") => self.raw = false,
            ("RawMessageDelivery", _) => return Err(invalid("Attributes Reason: RawMessageDelivery")),
            ("FilterPolicy", "") => self.filter = None,
            ("FilterPolicy", _) => self.filter = Some(parse_filter(value)?),
            ("FilterPolicyScope", "messageattributes") => {}
            ("RedrivePolicy", "") => self.redrive = None,
            ("RedrivePolicy", _) => {
                target(value)
                    .ok_or_else(|| invalid("RedrivePolicy: must be a JSON with deadLetterTargetArn"))?;
                self.redrive = Some(value.to_owned());
            }
            ("FilterPolicyScope" | "DeliveryPolicy", _) => {
                return Err(AwsError::not_implemented("sns", &format!("subscription attribute {name}")));
            }
            _ => return Err(invalid("AttributeName")),
        }
        Ok(())
    }

    /// Whether both subscriptions have the same attributes.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.raw, &self.filter, &self.redrive) == (other.raw, &other.filter, &other.redrive)
    }

    /// Attributes with values, as GetSubscriptionAttributes returns them.
    pub(super) fn attributes(&self, account: &str) -> Vec<(&'static str, String)> {
        let text = str::to_owned;
        let mut all = vec![
            ("SubscriptionArn", self.arn.clone()),
            ("TopicArn", text(topic_of(&self.arn))),
            ("Owner", text(account)),
            ("Protocol", text("sqs")),
            ("Endpoint", self.endpoint.clone()),
            ("PendingConfirmation", text("false")),
            ("ConfirmationWasAuthenticated", text("true")),
            ("RawMessageDelivery", self.raw.to_string()),
        ];
        if let Some(filter) = &self.filter {
            all.push(("FilterPolicy", Value::Object(filter.clone()).to_string()));
            all.push(("FilterPolicyScope", text("MessageAttributes")));
        }
        all.extend(self.redrive.clone().map(|policy| ("RedrivePolicy", policy)));
        all
    }

    /// Returns whether the filter policy accepts a message with these attributes.
    pub(super) fn wants(&self, attributes: &Attributes) -> bool {
        let mut rules = self.filter.iter().flatten();
        rules.all(|(name, accepted)| {
            let value = attributes.get(name).and_then(|attribute| match &attribute.value {
                AttributeValue::Text(text) => Some(text.as_str()),
                AttributeValue::Binary(_) => None,
            });
            let accepted = accepted.as_array().into_iter().flatten();
            value.is_some_and(|value| accepted.into_iter().any(|accepted| accepted.as_str() == Some(value)))
        })
    }

    /// Queue for messages that the subscribed queue refuses.
    pub(super) fn dead_letters(&self) -> Option<String> {
        target(self.redrive.as_deref()?)
    }
}

/// Topic of a subscription's ARN.
pub(super) fn topic_of(subscription: &str) -> &str {
    subscription.rsplit_once(':').map_or(subscription, |(topic, _)| topic)
}

fn target(redrive: &str) -> Option<String> {
    let policy: Value = serde_json::from_str(redrive).ok()?;
    policy["deadLetterTargetArn"].as_str().map(str::to_owned)
}

/// Parses a policy that compares attributes with texts. Other comparisons are not implemented.
fn parse_filter(text: &str) -> Result<Map<String, Value>, AwsError> {
    let policy: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| invalid(&format!("FilterPolicy: failed to parse JSON. {error}")))?;
    for accepted in policy.values() {
        let values = accepted.as_array().ok_or_else(|| {
            invalid(
                "FilterPolicy: Filter policy scope MessageAttributes does not support nested filter policy",
            )
        })?;
        if !values.iter().all(Value::is_string) {
            return Err(AwsError::not_implemented("sns", "filter policies that compare other than texts"));
        }
    }
    Ok(policy)
}
