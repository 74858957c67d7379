//! The port to the queue: messages come out, verdicts go back.
//!
//! The queue keeps every message until it is deleted and hands it out again once its visibility ends; whoever received
//! it owes it a verdict. `sqs` is the adapter.

pub mod dead_letters;
pub mod memory;
pub mod sqs;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The queue's id of it, the same at every receive.
    pub id: String,
    /// What names this receive of it.
    pub receipt: Receipt,
    /// Its text.
    pub body: String,
    /// How often it was received, this time included, from 1: `ApproximateReceiveCount`, and what it carries from the messages
    /// that it was sent anew for.
    pub attempts: u32,
    /// How often AWS refused something of it for what it is, as far as it carries that from the messages that it was sent anew for.
    pub refusals: u32,
    /// `AWSTraceHeader`: where whoever sent it wants its trace to go on.
    pub trace_header: Option<String>,
    /// When this receive was, by our clock.
    pub received_at: Instant,
    /// Time from its first receive, or that of the message it was first sent anew for, to this one.
    pub age_when_received: Duration,
    /// Time that the queue had kept it when it was received: `SentTimestamp`.
    pub kept_when_received: Duration,
}

impl Message {
    /// Time since its first receive.
    pub fn age(&self) -> Duration {
        self.age_when_received + self.received_at.elapsed()
    }

    /// How long the queue has kept it by now; its retention counts from there.
    pub fn kept_for(&self) -> Duration {
        self.kept_when_received + self.received_at.elapsed()
    }
}

/// Names one receive of one message; later receives make it invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A message that takes another's place in the queue: its text, its age, its attempts, its refusals and its trace go along.
#[derive(Clone, Debug)]
pub struct SentAnew {
    /// The other, which is to be deleted once this was sent.
    pub message: Arc<Message>,
    /// How often AWS refused something of it by now.
    pub refusals: u32,
    /// Nobody receives the new one before that, at most [`MAX_DELAY`].
    pub delay: Duration,
    /// The tenant, if it is known: SQS's fair queues tell messages apart by it.
    pub tenant_id: Option<String>,
}

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
    /// IAM does not allow the call: another attempt would end alike.
    #[error("the worker may not do that: {0}")]
    Denied(String),
    /// There is no such queue.
    #[error("the queue does not exist: {0}")]
    Missing(String),
    /// The queue refuses what it was given, for what that is: another attempt would end alike, and others are not concerned.
    #[error("the queue refuses the message: {0}")]
    Refused(String),
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

    /// Sends each message anew, out of flight until its delay ends; the one that it replaces stays until it is deleted.
    ///
    /// An entry whose answer is lost may have been sent all the same.
    fn send_anew(&self, entries: &[SentAnew]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Asks whether messages may be sent anew, without sending one.
    ///
    /// # Errors
    /// [`QueueError::Denied`] says that they may not; [`QueueError::Unavailable`], that there is no answer.
    fn probe_sending(&self) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// How long the queue keeps a message from when it was sent (`MessageRetentionPeriod`); what is older is gone.
    ///
    /// # Errors
    /// We may not ask, or there is no answer.
    fn retention(&self) -> impl Future<Output = Result<Duration, QueueError>> + Send;

    /// Whether there is a dead-letter queue to send to.
    fn has_dead_letters(&self) -> bool;

    /// Sends to the dead-letter queue; the message itself stays until it is deleted.
    fn send_dead_letter(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// Most entries of one call. Source: SQS API reference, ReceiveMessage and the batch calls.
pub const MAX_BATCH: usize = 10;

/// Longest `DelaySeconds`. Source: SQS API reference, SendMessage.
pub const MAX_DELAY: Duration = Duration::from_secs(900);
/// Longest text of a message and its attributes together, in bytes; also of a batch that is sent. Source: SQS API reference,
/// SendMessageBatch.
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;
