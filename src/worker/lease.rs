//! Keeps received messages hidden for as long as somebody works on them.
//!
//! Each lease has a task and calls of its own: a call that hangs harms no other message.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::metrics::Metrics;
use crate::{
    metrics::Call,
    queue::{MAX_VISIBILITY, Queue, QueueError, Receipt},
};

/// How long one extension may take. With the shortest `queue.visibility_timeout`, 10 s, the message is still hidden then.
const LONGEST_EXTENSION: Duration = Duration::from_secs(4);

/// Makes leases.
#[derive(Debug)]
pub struct Leases<Q> {
    queue: Arc<Q>,
    visibility_timeout: Duration,
    metrics: Metrics,
}

/// One message's lease: at half of the visibility timeout it is extended, again and again, until this drops.
#[derive(Debug)]
pub struct Lease {
    _ended: DropGuard,
    extending: JoinHandle<()>,
}

impl Lease {
    /// Ends the lease and waits until no extension of it is on its way any more, 4 s at most: what is asked of the queue
    /// after that is not overtaken.
    pub async fn end(self) {
        let Self { _ended, extending } = self;
        drop(_ended);
        // A panic in it would have been told, and nothing is on its way after one.
        let _ = extending.await;
    }
}

impl<Q: Queue> Leases<Q> {
    /// For messages that arrive hidden for `visibility_timeout` and are to be extended by as much.
    pub fn new(queue: Arc<Q>, visibility_timeout: Duration, metrics: Metrics) -> Self {
        Self { queue, visibility_timeout, metrics }
    }

    /// Takes charge of a message that was just received.
    pub fn hold(&self, receipt: Receipt) -> Lease {
        let ended = CancellationToken::new();
        let extending = tokio::spawn(extend(
            Arc::clone(&self.queue),
            receipt,
            self.visibility_timeout,
            ended.clone(),
            self.metrics.clone(),
        ));
        Lease { _ended: ended.drop_guard(), extending }
    }
}

/// Extends one lease until it ends. An extension that fails is tried again after a sixteenth of the timeout: even where the
/// first attempt took its longest there is one more before the message is visible.
async fn extend<Q: Queue>(
    queue: Arc<Q>,
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
        // SQS counts its twelve hours from the receive; beyond them the message comes again whatever we do.
        let left = left(received);
        let entry = [(receipt.clone(), visibility_timeout.min(left))];
        let answer = tokio::time::timeout(LONGEST_EXTENSION, queue.change_visibility(&entry)).await;
        match answer.map(|mut results| results.pop()) {
            Ok(Some(Ok(()))) if left > visibility_timeout => next += visibility_timeout / 2,
            Ok(Some(Ok(()))) => return,
            // Deleted or given back while the call was on its way.
            Ok(Some(Err(QueueError::Gone(_)))) if ended.is_cancelled() => return,
            Ok(Some(Err(QueueError::Gone(problem)))) => {
                tracing::warn!(
                    error = problem,
                    "a message is no longer ours while we work on it; it may be delivered twice"
                );
                return;
            }
            failed => {
                let error = match failed {
                    Ok(Some(Err(error))) => error.to_string(),
                    _ => format!("no answer within {LONGEST_EXTENSION:?}"),
                };
                metrics.queue_errors.get_or_create(&Call::new("change_visibility")).inc();
                tracing::warn!(error, "a message's visibility could not be extended");
                next = Instant::now() + visibility_timeout / 16;
            }
        }
    }
}

fn left(received: Instant) -> Duration {
    // A second less than SQS's own limit: its clock started a little before ours.
    (MAX_VISIBILITY - Duration::from_secs(1)).saturating_sub(received.elapsed())
}
