//! The port to the dead-letter queue, for operators who look into it and move letters back. `sqs::dead_letters` is the
//! adapter.

use std::{collections::BTreeMap, future::Future, time::Duration};

use jiff::Timestamp;

use super::{QueueError, Receipt};

/// A received dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredLetter {
    /// The dead-letter queue's id of it, the same at every receive.
    pub id: String,
    /// What names this receive of it.
    pub receipt: Receipt,
    /// The message's text, as it was in the source queue.
    pub body: String,
    /// The message attributes that are strings: what the worker says of a letter that it sent.
    pub attributes: BTreeMap<String, String>,
    /// `SentTimestamp`: to this queue, or, if SQS moved it, to the source queue.
    pub sent_at: Option<Timestamp>,
    /// `ApproximateFirstReceiveTimestamp`.
    pub first_received_at: Option<Timestamp>,
    /// `DeadLetterQueueSourceArn`: the queue whose redrive policy moved it.
    pub source_arn: Option<String>,
}

/// A dead-letter queue and the queue that its letters came from. Methods with entries take up to
/// [`MAX_BATCH`](super::MAX_BATCH) and answer entry by entry, in order.
pub trait DeadLetters: Send + Sync + 'static {
    /// Takes as many letters as one call gives and hides them for that long.
    fn receive(
        &self,
        hidden_for: Duration,
    ) -> impl Future<Output = Result<Vec<StoredLetter>, QueueError>> + Send;

    /// Hides each letter for that long from now; zero gives it back at once.
    fn hide(
        &self,
        receipts: &[Receipt],
        hidden_for: Duration,
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends texts to the source queue, without any attribute; the letters themselves stay until they are deleted.
    fn send_back(&self, bodies: &[&str]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Deletes letters for good. Deleting one twice is no error.
    fn delete(&self, receipts: &[Receipt]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}
