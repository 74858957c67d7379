//! Messages of queues.

use std::collections::BTreeMap;

use aws_sdk_sqs::types::{Message, QueueAttributeName};

use super::{Account, ProvisionError, failed};

/// A message of a dead-letter queue.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Id that SQS gave to the message.
    pub message_id: String,
    /// Body of the original message.
    pub body: String,
    /// Attributes that the worker added; none if SQS moved the message.
    pub attributes: BTreeMap<String, String>,
}

impl DeadLetter {
    /// Value of an attribute; empty if it is missing. SQS allows no empty attributes.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }

    /// The worker's reason.
    pub fn reason(&self) -> &str {
        self.attributes.get("reason").map_or("none, because SQS moved the message", String::as_str)
    }
}

impl From<Message> for DeadLetter {
    fn from(message: Message) -> Self {
        let attributes = message.message_attributes.unwrap_or_default().into_iter();
        let attributes = attributes.map(|(name, value)| (name, value.string_value.unwrap_or_default()));
        Self {
            message_id: message.message_id.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            attributes: attributes.collect(),
        }
    }
}

impl Account {
    /// Number of messages in a queue: visible or delayed, and in flight.
    ///
    /// # Errors
    /// SQS refused, or did not return a number.
    pub async fn queue_depth(&self, url: &str) -> Result<(u64, u64), ProvisionError> {
        let names = ["", "Delayed", "NotVisible"]
            .map(|state| QueueAttributeName::from(format!("ApproximateNumberOfMessages{state}").as_str()));
        let get = self.sqs().get_queue_attributes().queue_url(url);
        let got = get.set_attribute_names(Some(names.to_vec())).send().await;
        let attributes = got.map_err(failed("read the queue's attributes"))?.attributes.unwrap_or_default();
        let count = |name| attributes.get(name).map(String::as_str).unwrap_or_default().parse::<u64>();
        let [visible, delayed, hidden] = names.each_ref().map(count);
        let length = failed("read the queue's length");
        match (visible, delayed, hidden) {
            (Ok(visible), Ok(delayed), Ok(hidden)) => Ok((visible + delayed, hidden)),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => Err(length(error)),
        }
    }

    /// Receives all visible messages of a dead-letter queue, and hides them for `seconds`. The default is the queue's
    /// visibility timeout.
    ///
    /// # Errors
    /// SQS refused.
    pub async fn dead_letters(
        &self,
        url: &str,
        seconds: Option<i32>,
    ) -> Result<Vec<DeadLetter>, ProvisionError> {
        let (sqs, mut letters) = (self.sqs(), Vec::new());
        loop {
            let receive = sqs.receive_message().queue_url(url).set_visibility_timeout(seconds);
            let receive = receive.max_number_of_messages(10).message_attribute_names("All");
            let got = receive.send().await.map_err(failed("read the dead-letter queue"))?;
            let messages = got.messages.unwrap_or_default();
            if messages.is_empty() {
                return Ok(letters);
            }
            letters.extend(messages.into_iter().map(DeadLetter::from));
        }
    }
}
