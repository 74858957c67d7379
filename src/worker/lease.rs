//! Keeps received messages hidden while the worker works on them.
//!
//! Each lease has its own task and its own calls, so a call that hangs delays no other message.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::metrics::Metrics;
use crate::{
    metrics::Call,
    queue::{MAX_VISIBILITY, Message, Queue, QueueError, Receipt},
    trace::milliseconds,
};

/// Longest time for one extension call. Even with the shortest `queue.visibility_timeout` (10 s), the message is still hidden
/// when this time ends.
const LONGEST_EXTENSION: Duration = Duration::from_secs(4);

/// Creates leases.
#[derive(Debug)]
pub struct MessageLeases<Q> {
    queue: Arc<Q>,
    visibility_timeout: Duration,
    metrics: Metrics,
}

/// Lease of one message. Until the lease drops, a task extends the message's visibility after each half of the visibility
/// timeout.
#[derive(Debug)]
pub struct MessageLease {
    _ended: DropGuard,
    extending: JoinHandle<()>,
}

impl MessageLease {
    /// Ends the lease, and waits up to 4 s for an extension that is in flight, so that the extension cannot overtake a
    /// later call for the same message.
    pub async fn end(self) {
        let Self { _ended, extending } = self;
        drop(_ended);
        // An error means that the task panicked, so no extension is in flight.
        let _ = extending.await;
    }
}

impl<Q: Queue> MessageLeases<Q> {
    /// `visibility_timeout` is how long a receive and each extension hide a message.
    pub fn new(queue: Arc<Q>, visibility_timeout: Duration, metrics: Metrics) -> Self {
        Self { queue, visibility_timeout, metrics }
    }

    /// Starts the lease of a message that was just received, in the current span.
    pub fn hold(&self, message: &Message) -> MessageLease {
        let ended = CancellationToken::new();
        let extending = extend(
            Arc::clone(&self.queue),
            message.id.clone(),
            message.receipt.clone(),
            self.visibility_timeout,
            ended.clone(),
            self.metrics.clone(),
        );
        let extending = tokio::spawn(extending.in_current_span());
        MessageLease { _ended: ended.drop_guard(), extending }
    }
}

/// Extends a message's visibility until its lease ends. A failed extension is tried again after a sixteenth of the
/// timeout, so that a second attempt starts before the message becomes visible, even if the first one took
/// [`LONGEST_EXTENSION`].
async fn extend<Q: Queue>(
    queue: Arc<Q>,
    id: String,
    receipt: Receipt,
    visibility_timeout: Duration,
    ended: CancellationToken,
    metrics: Metrics,
) {
    let received = Instant::now();
    let mut next = received + visibility_timeout / 2;
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        // SQS hides a message for at most 12 hours after its receive. After that SQS delivers the message again.
        let left = left(received);
        let entry = [(receipt.clone(), visibility_timeout.min(left))];
        let answer = tokio::time::timeout(LONGEST_EXTENSION, queue.change_visibility(&entry)).await;
        match answer.map(|mut results| results.pop()) {
            Ok(Some(Ok(()))) => {
                metrics.extension("extended");
                if left <= visibility_timeout {
                    return;
                }
                next += visibility_timeout / 2;
            }
            // The message was deleted or returned to the queue while the call was in flight.
            Ok(Some(Err(QueueError::Gone(_)))) if ended.is_cancelled() => return,
            Ok(Some(Err(QueueError::Gone(problem)))) => {
                metrics.extension("gone");
                tracing::warn!(
                    message.id = id,
                    error = problem,
                    "the queue took a message back while the worker was working on it; another worker may handle it as well"
                );
                return;
            }
            failed => {
                let error = match failed {
                    Ok(Some(Err(error))) => error.to_string(),
                    _ => format!("no answer within {LONGEST_EXTENSION:?}"),
                };
                metrics.extension("failed");
                metrics.queue_errors.get_or_create(&Call::new("change_visibility")).inc();
                let retry_in = visibility_timeout / 16;
                tracing::warn!(
                    message.id = id,
                    error,
                    retry_in_ms = milliseconds(retry_in),
                    "a message's visibility could not be extended"
                );
                next = Instant::now() + retry_in;
            }
        }
    }
}

/// Time that is left of the 12 hours for which SQS can hide a message.
fn left(received: Instant) -> Duration {
    // One second less than SQS's limit, because SQS started to count before the worker got the message.
    (MAX_VISIBILITY - Duration::from_secs(1)).saturating_sub(received.elapsed())
}
