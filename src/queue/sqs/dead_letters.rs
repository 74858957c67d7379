//! The dead-letter queue as SQS.

use std::{ops::Range, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{MessageSystemAttributeName, SendMessageBatchRequestEntry},
};
use jiff::Timestamp;

use super::{SqsQueue, by_entry, unavailable, whole_seconds};
use crate::{
    aws::describe,
    queue::{
        MAX_BATCH, Queue, QueueError, Receipt,
        dead_letters::{DeadLetters, StoredLetter},
    },
};

/// Longest body of one SendMessageBatch, all entries together, in bytes. Source: SQS API reference, SendMessageBatch.
const MAX_BATCH_BYTES: usize = 1_048_576;
/// Long enough for SQS to ask all its servers, which a receive without a wait does not.
const WAIT: Duration = Duration::from_secs(1);

/// An SQS queue of dead letters, and the one they came from.
#[derive(Clone, Debug)]
pub struct SqsDeadLetters {
    client: Client,
    url: String,
    source_url: String,
    /// The dead-letter queue too: deletes and hides.
    queue: SqsQueue,
}

impl SqsDeadLetters {
    /// Takes letters out of `url`, and sends them to `source_url`.
    pub fn new(client: Client, url: String, source_url: String) -> Self {
        // Its visibility timeout is that of its receives, and it does not receive.
        let queue = SqsQueue::new(client.clone(), url.clone(), None, Duration::ZERO);
        Self { client, url, source_url, queue }
    }

    async fn send_batch(&self, bodies: &[&str]) -> Vec<Result<(), QueueError>> {
        let entries = bodies.iter().enumerate().map(|(index, body)| {
            let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(*body);
            entry.build().expect("id and body are set")
        });
        let call = self.client.send_message_batch().queue_url(&self.source_url);
        match call.set_entries(Some(entries.collect())).send().await {
            Ok(output) => by_entry(bodies.len(), output.failed),
            Err(error) => unavailable(bodies.len(), &describe(&error)),
        }
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
            .max_number_of_messages(i32::try_from(MAX_BATCH).expect("10"))
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
        let mut results = Vec::new();
        let lengths: Vec<_> = bodies.iter().map(|body| body.len()).collect();
        for range in batches(&lengths) {
            results.extend(self.send_batch(&bodies[range]).await);
        }
        results
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        self.queue.delete(receipts).await
    }
}

/// Cuts entries of these lengths, in order, into as few calls as their bytes allow.
fn batches(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, length) in lengths.iter().enumerate() {
        bytes += length;
        match batches.last_mut() {
            Some(batch) if bytes <= MAX_BATCH_BYTES && batch.len() < MAX_BATCH => batch.end = index + 1,
            _ => {
                batches.push(index..index + 1);
                bytes = *length;
            }
        }
    }
    batches
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
        // A message without a receipt could not be answered for; SQS never sends one.
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_both_limits() {
        let check = |lengths: &[usize], expected: &[Range<usize>]| assert_eq!(batches(lengths), expected);
        check(&[], &[]);
        check(&[5; 3], std::slice::from_ref(&(0..3)));
        check(&[5; 21], &[0..10, 10..20, 20..21]);
        check(&[MAX_BATCH_BYTES; 2], &[0..1, 1..2]);
        check(&[MAX_BATCH_BYTES - 1, 1, 1], &[0..2, 2..3]);
    }
}
