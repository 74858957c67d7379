//! Keeps received messages hidden for as long as somebody works on them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::MAX_VISIBILITY,
    metrics::{Call, Metrics},
    queue::{MAX_BATCH, Queue, QueueError, Receipt},
};

/// All leases of a worker. A background task extends each one at half of the visibility timeout, in batches; dropping
/// this stops it.
#[derive(Debug)]
pub struct Leases {
    held: Held,
    extending: Arc<tokio::sync::Mutex<()>>,
    visibility_timeout: Duration,
    _extender: AbortOnDropHandle<()>,
}

type Held = Arc<Mutex<HashMap<Receipt, Term>>>;

#[derive(Clone, Copy, Debug)]
struct Term {
    received: Instant,
    extend_at: Instant,
}

/// One message's lease: it is extended until this drops.
#[derive(Debug)]
pub struct Lease {
    receipt: Receipt,
    held: Held,
    /// Held by the extender while its calls are on their way.
    extending: Arc<tokio::sync::Mutex<()>>,
}

impl Lease {
    /// Ends the lease and waits until no extension of it is on its way any more: what is asked of the queue after that
    /// is not overtaken.
    pub async fn end(self) {
        let extending = Arc::clone(&self.extending);
        drop(self);
        drop(extending.lock().await);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.held).remove(&self.receipt);
    }
}

fn lock(held: &Held) -> std::sync::MutexGuard<'_, HashMap<Receipt, Term>> {
    // A map of terms is right after every statement, so a panic elsewhere leaves nothing half done.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// Starts with no leases. Messages arrive hidden for `visibility_timeout` and are extended by as much.
    pub fn start<Q: Queue>(queue: Arc<Q>, visibility_timeout: Duration, metrics: Metrics) -> Self {
        let held = Held::default();
        let extending = Arc::<tokio::sync::Mutex<()>>::default();
        let extender = tokio::spawn({
            let (held, extending) = (Arc::clone(&held), Arc::clone(&extending));
            async move {
                // An eighth of the timeout late is still well before it ends.
                let mut ticks =
                    tokio::time::interval((visibility_timeout / 8).max(Duration::from_millis(100)));
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    let now = ticks.tick().await;
                    let _extending = extending.lock().await;
                    extend_due(&*queue, &held, visibility_timeout, now, &metrics).await;
                }
            }
        });
        Self { held, extending, visibility_timeout, _extender: AbortOnDropHandle::new(extender) }
    }

    /// Waits until no extension is on its way.
    pub async fn at_rest(&self) {
        drop(self.extending.lock().await);
    }

    /// Takes charge of a message that was just received.
    pub fn hold(&self, receipt: Receipt) -> Lease {
        let received = Instant::now();
        let term = Term { received, extend_at: received + self.visibility_timeout / 2 };
        lock(&self.held).insert(receipt.clone(), term);
        Lease { receipt, held: Arc::clone(&self.held), extending: Arc::clone(&self.extending) }
    }
}

async fn extend_due<Q: Queue>(
    queue: &Q,
    held: &Held,
    visibility_timeout: Duration,
    now: Instant,
    metrics: &Metrics,
) {
    let due: Vec<(Receipt, Duration)> = lock(held)
        .iter()
        .filter(|(_, term)| term.extend_at <= now)
        // SQS counts its twelve hours from the receive; beyond them the message comes again whatever we do.
        .map(|(receipt, term)| (receipt.clone(), visibility_timeout.min(left(term, now))))
        .collect();
    for batch in due.chunks(MAX_BATCH) {
        let results = queue.change_visibility(batch).await;
        let mut held = lock(held);
        for ((receipt, _), result) in batch.iter().zip(results) {
            let Some(term) = held.get_mut(receipt) else { continue };
            match result {
                Ok(()) if left(term, now) > visibility_timeout => {
                    term.extend_at = now + visibility_timeout / 2
                }
                Ok(()) => drop(held.remove(receipt)),
                Err(QueueError::Gone(problem)) => {
                    held.remove(receipt);
                    tracing::warn!(
                        error = problem,
                        "a message is no longer ours while we work on it; it may be delivered twice"
                    );
                }
                // Still due: the next tick tries again.
                Err(error) => {
                    metrics.queue_errors.get_or_create(&Call::new("change_visibility")).inc();
                    tracing::warn!(error = %error, "a message's visibility could not be extended");
                }
            }
        }
    }
}

fn left(term: &Term, now: Instant) -> Duration {
    // A second less than SQS's own limit: its clock started a little before ours.
    (MAX_VISIBILITY - Duration::from_secs(1)).saturating_sub(now - term.received)
}
