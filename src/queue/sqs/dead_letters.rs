//! The dead-letter queue on SQS.

use std::time::Duration;

use aws_sdk_sqs::{Client, types::MessageSystemAttributeName};
use jiff::Timestamp;

use super::{Clients, SqsQueue, sending, whole_seconds};
use crate::{
    aws::describe,
    queue::{
        MAX_BATCH, Queue, QueueError, Receipt,
        dead_letters::{DeadLetters, StoredLetter},
    },
};

/// Wait time of a receive. Any wait makes it a long poll, and only a long poll asks all of SQS's servers.
const WAIT: Duration = Duration::from_secs(1);

/// An SQS dead-letter queue and the source queue of its letters.
#[derive(Clone, Debug)]
pub struct SqsDeadLetters {
    client: Client,
    url: String,
    source_url: String,
    /// The dead-letter queue again, for deletes and visibility changes.
    queue: SqsQueue,
}

impl SqsDeadLetters {
    /// Receives letters from `url` and sends them back to `source_url`.
    pub fn new(client: Client, url: String, source_url: String) -> Self {
        // The visibility timeout is for receives only, and `queue` never receives.
        let queue = SqsQueue::new(Clients::all(client.clone()), url.clone(), None, Duration::ZERO);
        Self { client, url, source_url, queue }
    }
}

impl DeadLetters for SqsDeadLetters {
    async fn receive(&self, hidden_for: Duration) -> Result<Vec<StoredLetter>, QueueError> {
        use MessageSystemAttributeName::{
            ApproximateFirstReceiveTimestamp, DeadLetterQueueSourceArn, SentTimestamp,
        };
        let output = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(MAX_BATCH).expect("ten is below 2^31"))
            .wait_time_seconds(whole_seconds(WAIT))
            .visibility_timeout(whole_seconds(hidden_for))
            .message_attribute_names("All")
            .message_system_attribute_names(SentTimestamp)
            .message_system_attribute_names(ApproximateFirstReceiveTimestamp)
            .message_system_attribute_names(DeadLetterQueueSourceArn)
            .send()
            .await
            .map_err(|error| QueueError::Unavailable(describe(&error)))?;
        Ok(output.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
    }

    async fn hide(&self, receipts: &[Receipt], hidden_for: Duration) -> Vec<Result<(), QueueError>> {
        let entries: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), hidden_for)).collect();
        self.queue.change_visibility(&entries).await
    }

    async fn send_back(&self, bodies: &[&str]) -> Vec<Result<(), QueueError>> {
        let entries = bodies.iter().map(|body| sending::plain(body));
        sending::send(&self.client, &self.source_url, entries.collect()).await
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        self.queue.delete(receipts).await
    }
}

fn letter(message: aws_sdk_sqs::types::Message) -> Option<StoredLetter> {
    use MessageSystemAttributeName::{
        ApproximateFirstReceiveTimestamp, DeadLetterQueueSourceArn, SentTimestamp,
    };
    let system = message.attributes.unwrap_or_default();
    let time = |name| {
        let millis = system.get(&name)?.parse().ok()?;
        Timestamp::from_millisecond(millis).ok()
    };
    let attributes = message.message_attributes.unwrap_or_default().into_iter();
    Some(StoredLetter {
        sent_at: time(SentTimestamp),
        first_received_at: time(ApproximateFirstReceiveTimestamp),
        source_arn: system.get(&DeadLetterQueueSourceArn).cloned(),
        attributes: attributes.filter_map(|(name, value)| Some((name, value.string_value?))).collect(),
        id: message.message_id?,
        // A message without a receipt could not be deleted, so it is ignored. SQS never sends one.
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
    })
}
