//! Topics and subscriptions. The client is built only with the feature `wiring`.

use super::Unread;
use crate::aws::Base;

/// Reads topics and subscriptions.
#[derive(Debug)]
pub struct Topics {
    #[cfg(feature = "wiring")]
    client: aws_sdk_sns::Client,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its policy, as JSON.
    pub policy: String,
    /// The KMS key that encrypts its messages, if there is one.
    pub key: Option<String>,
}

/// A queue's subscription to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Its ARN.
    pub arn: String,
    /// Whether the queue's owner has not confirmed it.
    pub pending: bool,
    /// Whether messages come without the envelope of SNS.
    pub raw: bool,
    /// The filter policy, as JSON.
    pub filter: Option<String>,
    /// Whether the filter policy looks into messages, rather than at their attributes.
    pub filters_bodies: bool,
    /// The redrive policy, as JSON.
    pub redrive: Option<String>,
}

/// ARN of a subscription that its owner has not confirmed. Source: SNS API reference, ListSubscriptionsByTopic.
#[cfg(feature = "wiring")]
const PENDING: &str = "PendingConfirmation";

#[cfg(feature = "wiring")]
impl Topics {
    /// Builds the client.
    pub(super) fn new(base: &Base) -> Self {
        Self { client: aws_sdk_sns::Client::from_conf(base.sns().build()) }
    }

    /// Reads a topic.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn topic(&self, arn: &str) -> Result<Topic, Unread> {
        let answer = self.client.get_topic_attributes().topic_arn(arn).send().await;
        let mut all = answer
            .map_err(|error| Unread::of("sns:GetTopicAttributes", &error))?
            .attributes
            .unwrap_or_default();
        let key = all.remove("KmsMasterKeyId").filter(|key| !key.is_empty());
        Ok(Topic { policy: all.remove("Policy").unwrap_or_default(), key })
    }

    /// Finds the subscription of a queue.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn subscription(&self, topic: &str, queue: &str) -> Result<Option<Subscription>, Unread> {
        let list = self.client.list_subscriptions_by_topic().topic_arn(topic);
        let mut all = list.into_paginator().items().send();
        let mut found = None;
        while let Some(subscription) = all.next().await {
            let subscription =
                subscription.map_err(|error| Unread::of("sns:ListSubscriptionsByTopic", &error))?;
            if subscription.protocol() == Some("sqs") && subscription.endpoint() == Some(queue) {
                found = subscription.subscription_arn;
            }
        }
        let Some(arn) = found else { return Ok(None) };
        if arn == PENDING {
            return Ok(Some(Subscription { arn, pending: true, ..Subscription::default() }));
        }
        let answer = self.client.get_subscription_attributes().subscription_arn(&arn).send().await;
        let mut all = answer
            .map_err(|error| Unread::of("sns:GetSubscriptionAttributes", &error))?
            .attributes
            .unwrap_or_default();
        let mut text = |name: &str| all.remove(name).filter(|text| !text.is_empty());
        Ok(Some(Subscription {
            pending: text("PendingConfirmation").is_some_and(|pending| pending == "true"),
            raw: text("RawMessageDelivery").is_some_and(|raw| raw == "true"),
            filter: text("FilterPolicy"),
            filters_bodies: text("FilterPolicyScope").is_some_and(|scope| scope == "MessageBody"),
            redrive: text("RedrivePolicy"),
            arn,
        }))
    }
}

#[cfg(not(feature = "wiring"))]
impl Topics {
    pub(super) fn new(_base: &Base) -> Self {
        Self {}
    }

    /// Reads no topic.
    ///
    /// # Errors
    /// [`Unread::NotBuilt`].
    pub async fn topic(&self, _arn: &str) -> Result<Topic, Unread> {
        Err(Unread::NotBuilt)
    }

    /// Finds no subscription.
    ///
    /// # Errors
    /// [`Unread::NotBuilt`].
    pub async fn subscription(&self, _topic: &str, _queue: &str) -> Result<Option<Subscription>, Unread> {
        Err(Unread::NotBuilt)
    }
}
