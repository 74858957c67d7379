//! The port to the queue: messages come out, verdicts go back.
//!
//! The queue keeps every message until it is deleted and hands it out again once its visibility ends; whoever received
//! it owes it a verdict. `sqs` is the adapter.

pub mod dead_letters;
#[cfg(test)]
pub mod memory;
pub mod sqs;

use std::{future::Future, time::Duration};

use jiff::Timestamp;

/// A received message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The queue's id of it, the same at every receive.
    pub id: String,
    /// What names this receive of it.
    pub receipt: Receipt,
    /// Its text.
    pub body: String,
    /// `ApproximateReceiveCount`, from 1.
    pub receive_count: u32,
    /// When it was sent to the queue.
    pub sent_at: Option<Timestamp>,
}

/// Names one receive of one message; later receives make it invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A message on its way to the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's text, unchanged.
    pub body: String,
    /// Name and value of each message attribute.
    pub attributes: Vec<(&'static str, String)>,
}

/// Why the queue did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The message is no longer ours: deleted, or its visibility ended.
    #[error("the message is no longer ours: {0}")]
    Gone(String),
    /// The queue cannot be reached or refuses.
    #[error("the queue does not take the call: {0}")]
    Unavailable(String),
}

/// A queue with visibility timeouts. Methods take up to [`MAX_BATCH`] entries and answer entry by entry, in order.
pub trait Queue: Send + Sync + 'static {
    /// Waits up to `wait` for messages and takes at most `max`, 1 to [`MAX_BATCH`].
    fn receive(
        &self,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Message>, QueueError>> + Send;

    /// Deletes messages for good. Deleting one twice is no error.
    fn delete(&self, receipts: &[Receipt]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Hides each message for that long from now; zero gives it back at once.
    fn change_visibility(
        &self,
        entries: &[(Receipt, Duration)],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Whether there is a dead-letter queue to send to.
    fn has_dead_letters(&self) -> bool;

    /// Sends to the dead-letter queue; the message itself stays until it is deleted.
    fn send_dead_letter(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// Most entries of one call. Source: SQS API reference, ReceiveMessage and the batch calls.
pub const MAX_BATCH: usize = 10;
