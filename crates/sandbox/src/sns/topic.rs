//! A topic: its attributes and subscriptions.

use serde_json::json;

use super::{invalid, subscription::Subscription};
use crate::{
    call::{AwsError, Call},
    policy::Policy,
    sqs::Sender,
};

/// The key that AWS manages for SNS. Other services have no access to it. Source: SNS Developer Guide, "Enable
/// compatibility between event sources from AWS services and encrypted topics".
const AWS_KEY: &str = "alias/aws/sns";

#[derive(Debug, Clone)]
pub(super) struct Topic {
    pub(super) arn: String,
    pub(super) account: String,
    pub(super) region: String,
    pub(super) subscriptions: Vec<Subscription>,
    policy: Policy,
    policy_text: String,
    /// Empty: the topic is not encrypted.
    key: String,
}

impl Topic {
    pub(super) fn new(call: &Call, arn: String) -> Result<Self, AwsError> {
        let actions = ["Publish", "Subscribe", "GetTopicAttributes", "SetTopicAttributes", "DeleteTopic"];
        let policy = json!({
            "Version": "2008-10-17",
            "Id": "__default_policy_ID",
            "Statement": [{
                "Sid": "__default_statement_ID",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": actions.map(|action| format!("SNS:{action}")),
                "Resource": arn,
                "Condition": {"StringEquals": {"AWS:SourceOwner": call.account}},
            }],
        });
        let policy_text = policy.to_string();
        Ok(Self {
            arn,
            account: call.account.clone(),
            region: call.region.clone(),
            subscriptions: Vec::new(),
            policy: parse_policy(&policy_text)?,
            policy_text,
            key: String::new(),
        })
    }

    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), AwsError> {
        match name {
            "Policy" => {
                self.policy = parse_policy(value)?;
                value.clone_into(&mut self.policy_text);
            }
            "KmsMasterKeyId" => value.clone_into(&mut self.key),
            "DisplayName" | "DeliveryPolicy" | "TracingConfig" | "SignatureVersion" | "FifoTopic" => {
                return Err(AwsError::not_implemented("sns", &format!("topic attribute {name}")));
            }
            _ => return Err(invalid("AttributeName")),
        }
        Ok(())
    }

    /// Attributes with values, as GetTopicAttributes returns them.
    pub(super) fn attributes(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("TopicArn", self.arn.clone()),
            ("Owner", self.account.clone()),
            ("Policy", self.policy_text.clone()),
            ("DisplayName", String::new()),
            ("SubscriptionsConfirmed", self.subscriptions.len().to_string()),
            ("SubscriptionsPending", "0".to_owned()),
            ("SubscriptionsDeleted", "0".to_owned()),
        ];
        if !self.key.is_empty() {
            all.push(("KmsMasterKeyId", self.key.clone()));
        }
        all
    }

    /// Returns whether the topic lets a service publish.
    pub(super) fn accepts(&self, sender: &Sender<'_>) -> bool {
        self.key != AWS_KEY && sender.is_allowed(&self.policy, "sns:Publish", &self.arn)
    }
}

fn parse_policy(text: &str) -> Result<Policy, AwsError> {
    Policy::resource(text).map_err(|reason| invalid(&format!("Policy Error: {reason}")))
}
