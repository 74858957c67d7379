//! The port to the queue: the worker receives messages from it and carries out verdicts on it. `sqs` is the adapter.
//!
//! A receive hides a message for its visibility timeout. The queue delivers the message again after that, until the
//! worker deletes it or the queue's retention ends.

pub mod dead_letters;
pub mod memory;
pub mod sqs;

use std::{future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;

/// A received message. The worker can replace a message by a new one with the same text, and delete the old one. The old
/// messages, back to the first, are the predecessors of the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The queue's id of the message, the same for every receive.
    pub id: String,
    /// Names this receive of the message.
    pub receipt: Receipt,
    /// Text of the message.
    pub body: String,
    /// Number of receives, this one included: `ApproximateReceiveCount`, plus the receives of the predecessors from an
    /// attribute of the message.
    pub attempts: u32,
    /// Number of attempts at the predecessors in which AWS refused a part of the message with a permanent error.
    pub refusals: u32,
    /// `AWSTraceHeader`: the trace of the sender, which the worker continues.
    pub trace_header: Option<String>,
    /// Time of this receive by the worker's clock.
    pub received_at: Instant,
    /// Time from the first receive of the message or its first predecessor to this receive.
    pub age_when_received: Duration,
    /// Time from the message's `SentTimestamp` to this receive.
    pub kept_when_received: Duration,
}

impl Message {
    /// Time since the first receive of the message or its first predecessor.
    pub fn age(&self) -> Duration {
        self.age_when_received + self.received_at.elapsed()
    }

    /// How long the queue has kept the message. The message is lost when this reaches the queue's retention.
    pub fn kept_for(&self) -> Duration {
        self.kept_when_received + self.received_at.elapsed()
    }
}

/// Names one receive of one message. A later receive of the message makes the receipt invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Receipt(pub String);

/// A new message that replaces an old one. It carries the text, age, attempts, refusals and trace header of the old one.
#[derive(Clone, Debug)]
pub struct SentAnew {
    /// The old message. The caller deletes it after the new one was sent.
    pub message: Arc<Message>,
    /// Number of attempts in which AWS refused a part of the message with a permanent error.
    pub refusals: u32,
    /// Delay until the new message can be received, at most [`MAX_DELAY`].
    pub delay: Duration,
    /// The tenant, if known. SQS's fair queues share the queue among tenants by this id.
    pub tenant_id: Option<String>,
}

/// A message about an object that no notification of S3 announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Text: an event of S3.
    pub body: String,
    /// The tenant: see [`SentAnew::tenant_id`].
    pub tenant_id: String,
}

/// A letter for the dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Unchanged text of the message.
    pub body: String,
    /// Name and value of each message attribute.
    pub attributes: Vec<(&'static str, String)>,
}

/// Reason why a call to the queue failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueueError {
    /// The worker no longer holds the message: it was deleted, or its visibility timeout ended.
    #[error("the worker no longer holds the message: {0}")]
    Gone(String),
    /// IAM denies the call. Another attempt would fail as well.
    #[error("IAM denies the call to the queue: {0}")]
    Denied(String),
    /// There is no such queue.
    #[error("the queue does not exist: {0}")]
    Missing(String),
    /// The queue refuses this message, for example because it is too long. Another attempt would fail as well. Other
    /// messages are not affected.
    #[error("the queue refuses the message: {0}")]
    Refused(String),
    /// The queue cannot be reached, or it refuses the call for another reason. A later call may succeed.
    #[error("the call to the queue failed: {0}")]
    Unavailable(String),
}

impl QueueError {
    /// Name of the kind of error, for spans.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::Denied(_) => "denied",
            Self::Missing(_) => "missing",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// A queue with visibility timeouts. Methods take up to [`MAX_BATCH`] entries and answer entry by entry, in order.
pub trait Queue: Send + Sync + 'static {
    /// Receives at most `max` messages (1 to [`MAX_BATCH`]), and waits up to `wait` for the first one.
    fn receive(
        &self,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Vec<Message>, QueueError>> + Send;

    /// Deletes messages. To delete a message twice is no error.
    fn delete(&self, receipts: &[Receipt]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Hides each message for the given time from now. Zero makes the message visible at once.
    fn change_visibility(
        &self,
        entries: &[(Receipt, Duration)],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends each message anew: as a new message with a delay. During the delay the new message does not count as in flight.
    /// The old message stays until it is deleted.
    ///
    /// If an entry failed, its message may still have been sent: SQS's answer can be lost.
    fn send_anew(&self, entries: &[SentAnew]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Checks the permission to send messages anew, without sending one.
    ///
    /// # Errors
    /// [`QueueError::Denied`]: the permission is missing. Other errors: the permission is not known.
    fn probe_sending(&self) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Reads how long the queue keeps a message after it was sent (`MessageRetentionPeriod`).
    ///
    /// # Errors
    /// [`QueueError::Denied`]: the permission to read the attribute is missing. Other errors: the queue did not answer.
    fn retention(&self) -> impl Future<Output = Result<Duration, QueueError>> + Send;

    /// Whether a dead-letter queue is configured.
    fn has_dead_letters(&self) -> bool;

    /// Sends a letter to the dead-letter queue. The message stays in the source queue until it is deleted.
    fn send_dead_letter(&self, letter: &DeadLetter) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// Sends messages about objects to the worker's queue.
pub trait Outbox: Send + Sync + 'static {
    /// Sends up to [`MAX_BATCH`] messages, and answers message by message, in order.
    ///
    /// If an entry failed, its message may still have been sent: SQS's answer can be lost.
    fn send(&self, messages: &[Outgoing]) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// Most entries of one call. Source: SQS API reference, ReceiveMessage and the batch calls.
pub const MAX_BATCH: usize = 10;

/// Longest time that a message can stay hidden, counted from its receive. Source: SQS API reference, ChangeMessageVisibility.
pub const MAX_VISIBILITY: Duration = Duration::from_secs(43_200);
/// Longest `DelaySeconds`. Source: SQS API reference, SendMessage.
pub const MAX_DELAY: Duration = Duration::from_secs(900);
/// Most bytes of a message, its text and attributes together, and of all messages of one batch. Source: SQS API reference,
/// SendMessageBatch.
pub const MAX_MESSAGE_BYTES: usize = 1_048_576;
