//! What the queue allows: how long it keeps a message, and whether this worker may send to it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::queue::{Message, Queue, QueueError};

/// The shortest that SQS takes. Source: SQS API reference, SetQueueAttributes.
const SHORTEST_RETENTION: Duration = Duration::from_secs(60);
/// At most that much of its retention is left when a message is sent anew or buried to save it.
const LARGEST_MARGIN: Duration = Duration::from_secs(3600);
/// How often the retention is read again: operators change it while workers run.
const READ_EVERY: Duration = Duration::from_secs(900);
/// Pauses after a read that failed; they double.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long sending is not tried after it was denied, or failed.
const NO_SENDING: Duration = Duration::from_secs(60);

/// What is known by now; a background task reads the retention, until this drops.
#[derive(Debug)]
pub(super) struct Terms {
    known: Arc<Mutex<Known>>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// None: not yet.
    retention: Option<Duration>,
    /// Until then it is of no use to send.
    denied_until: Option<Instant>,
    /// Until then sending may leave copies: SQS keeps what it took and did not answer.
    failed_until: Option<Instant>,
}

impl Terms {
    /// Starts reading. A retention that is shorter than `needed`, the longest that a message is retried, gets a warning.
    pub(super) fn start<Q: Queue>(queue: Arc<Q>, needed: Duration) -> Self {
        let known = Arc::<Mutex<Known>>::default();
        let reader = tokio::spawn({
            let known = Arc::clone(&known);
            async move { tokio::join!(probe_sending(&*queue), read(&*queue, &known, needed)).1 }
        });
        Self { known, _reader: AbortOnDropHandle::new(reader) }
    }

    /// How long the queue keeps a message; `None` while that could not be read.
    pub(super) fn retention(&self) -> Option<Duration> {
        lock(&self.known).retention
    }

    /// The longest delay that a message survives, whether it is sent anew or hides.
    pub(super) fn longest_delay(&self) -> Duration {
        self.retention().unwrap_or(SHORTEST_RETENTION) / 2
    }

    /// Whether it is worth trying to send to the queue.
    pub(super) fn may_send(&self) -> bool {
        lock(&self.known).denied_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether a send failed lately: SQS may have taken the message all the same.
    pub(super) fn sending_fails(&self) -> bool {
        lock(&self.known).failed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Remembers for a minute that sending failed.
    pub(super) fn sending_failed(&self) {
        lock(&self.known).failed_until = Some(Instant::now() + NO_SENDING);
    }

    /// Remembers for a minute that sending was denied.
    pub(super) fn sending_was_denied(&self) {
        lock(&self.known).denied_until = Some(Instant::now() + NO_SENDING);
    }
}

/// Whether a queue that keeps messages for `retention` may have lost this one when its `delay` is over and somebody should
/// receive it.
pub(super) fn ends_within(retention: Duration, message: &Message, delay: Duration) -> bool {
    let margin = LARGEST_MARGIN.min(retention / 4);
    message.kept_for() + delay + margin > retention
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    // Two values that are right after every statement: a panic elsewhere leaves nothing half done.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_sending<Q: Queue>(queue: &Q) {
    match queue.probe_sending().await {
        Ok(()) => {}
        Err(QueueError::Denied(problem)) => tracing::warn!(
            error = problem,
            "the worker may not send to its queue, so messages that wait for long stay in flight, of which SQS has 120,000 \
             for all tenants together; allow the worker's role sqs:SendMessage on the queue"
        ),
        // The first message that is to be sent will tell.
        Err(error) => {
            tracing::info!(error = %error, "whether the worker may send to its queue is not known yet")
        }
    }
}

async fn read<Q: Queue>(queue: &Q, known: &Mutex<Known>, needed: Duration) {
    let (mut pause, mut told, mut denied) = (FIRST_PAUSE, None, false);
    loop {
        match queue.retention().await {
            Ok(retention) => {
                (pause, denied) = (FIRST_PAUSE, false);
                if told != Some(retention) && retention < needed {
                    tracing::warn!(
                        ?retention,
                        ?needed,
                        "the queue keeps messages for less than queue.max_age plus queue.max_retry_delay: raise its \
                         MessageRetentionPeriod, or lower queue.max_age"
                    );
                }
                (lock(known).retention, told) = (Some(retention), Some(retention));
                tokio::time::sleep(READ_EVERY).await;
            }
            // Not known, then: what waits is sent anew and comes back soon, as long as nobody can say how short the retention is.
            Err(QueueError::Denied(problem)) => {
                if !denied {
                    tracing::warn!(
                        error = problem,
                        longest_wait = ?(SHORTEST_RETENTION / 2),
                        "the queue's MessageRetentionPeriod cannot be read, and it may be short: no message waits for longer than \
                         that; allow the worker's role sqs:GetQueueAttributes on the queue"
                    );
                }
                denied = true;
                lock(known).retention = None;
                tokio::time::sleep(READ_EVERY).await;
            }
            Err(error) => {
                tracing::warn!(error = %error, retry_in = ?pause, "the queue's MessageRetentionPeriod could not be read");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
