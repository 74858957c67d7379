//! The port to the dead-letter queue. The command `redrive` lists letters and moves them back through this port.
//! `sqs::dead_letters` is the adapter.

use std::{collections::BTreeMap, future::Future, time::Duration};

use jiff::Timestamp;

use super::{QueueError, Receipt};

/// A received dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLetter {
    /// The dead-letter queue's id of the letter, the same for every receive.
    pub id: String,
    /// Names this receive of the letter.
    pub receipt: Receipt,
    /// Text of the message, as it was in the source queue.
    pub body: String,
    /// Message attributes of type string. A letter that the worker sent has its reason and identifiers there.
    pub attributes: BTreeMap<String, String>,
    /// `SentTimestamp`: when the letter was sent to this queue or, if SQS moved it, when the message was sent to the
    /// source queue.
    pub sent_at: Option<Timestamp>,
    /// `ApproximateFirstReceiveTimestamp` of the letter.
    pub first_received_at: Option<Timestamp>,
    /// `DeadLetterQueueSourceArn`: the queue whose redrive policy moved the letter here.
    pub source_arn: Option<String>,
}

/// A dead-letter queue and the source queue of its letters. Methods with several entries take up to
/// [`MAX_BATCH`](super::MAX_BATCH) and answer entry by entry, in order.
pub trait DeadLetters: Send + Sync + 'static {
    /// Receives letters with one call, and hides them for `hidden_for`.
    fn receive(
        &self,
        hidden_for: Duration,
    ) -> impl Future<Output = Result<Vec<StoredLetter>, QueueError>> + Send;

    /// Hides each letter for `hidden_for` from now. Zero makes the letter visible at once.
    fn hide(
        &self,
        receipts: &[Receipt],
        hidden_for: Duration,
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends texts to the source queue, without attributes. The letters stay here until they are deleted.
    fn send_back(&self, bodies: &[&str]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Deletes letters. To delete a letter twice is no error.
    fn delete(&self, receipts: &[Receipt]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}
