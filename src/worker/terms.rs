//! Limits of the queue: how long it keeps a message, and whether this worker may send to it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::queue::{Message, Queue, QueueError};

/// Shortest `MessageRetentionPeriod` that SQS accepts. Source: SQS API reference, SetQueueAttributes.
const SHORTEST_RETENTION: Duration = Duration::from_secs(60);
/// A message is sent anew or buried this long before its retention ends, or a quarter of the retention before if that is
/// shorter.
const LARGEST_MARGIN: Duration = Duration::from_secs(3600);
/// Interval between reads of the retention, which operators may change while workers run.
const READ_EVERY: Duration = Duration::from_secs(900);
/// Pause after the first failed read of the retention. Each further failure in a row doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the worker avoids sends after a send was denied or failed.
const NO_SENDING: Duration = Duration::from_secs(60);

/// Limits of the queue, as far as they are known. A background task reads the retention until this value drops.
#[derive(Debug)]
pub(super) struct Terms {
    known: Arc<Mutex<Known>>,
    _reader: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// `None` before the first successful read, and while IAM denies the read.
    retention: Option<Duration>,
    /// The worker does not send before this time, because a send was denied.
    denied_until: Option<Instant>,
    /// The worker avoids sends before this time, because a send failed. SQS may keep a message although its answer is lost,
    /// so each further failed send could leave another copy.
    failed_until: Option<Instant>,
}

impl Terms {
    /// Starts the background task. The task logs a warning if the retention is shorter than `needed`, the longest time for
    /// which a message is retried.
    pub(super) fn start<Q: Queue>(queue: Arc<Q>, needed: Duration) -> Self {
        let known = Arc::<Mutex<Known>>::default();
        let reader = tokio::spawn({
            let known = Arc::clone(&known);
            async move { tokio::join!(probe_sending(&*queue), read(&*queue, &known, needed)).1 }
        });
        Self { known, _reader: AbortOnDropHandle::new(reader) }
    }

    /// How long the queue keeps a message; `None` if it is not known.
    pub(super) fn retention(&self) -> Option<Duration> {
        lock(&self.known).retention
    }

    /// Longest delay of a message: half of the retention, so that the queue still has the message when the delay ends.
    pub(super) fn longest_delay(&self) -> Duration {
        self.retention().unwrap_or(SHORTEST_RETENTION) / 2
    }

    /// Whether the worker should try to send to the queue: no send was denied in the last minute.
    pub(super) fn may_send(&self) -> bool {
        lock(&self.known).denied_until.is_none_or(|until| until <= Instant::now())
    }

    /// Whether a send failed in the last minute.
    pub(super) fn sending_fails(&self) -> bool {
        lock(&self.known).failed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Remembers for a minute that a send failed.
    pub(super) fn sending_failed(&self) {
        lock(&self.known).failed_until = Some(Instant::now() + NO_SENDING);
    }

    /// Remembers for a minute that a send was denied.
    pub(super) fn sending_was_denied(&self) {
        lock(&self.known).denied_until = Some(Instant::now() + NO_SENDING);
    }
}

/// Whether the message's retention may end before a worker receives the message again after `delay`. The receive itself may
/// take a quarter of the retention, an hour at most.
pub(super) fn ends_within(retention: Duration, message: &Message, delay: Duration) -> bool {
    let margin = LARGEST_MARGIN.min(retention / 4);
    message.kept_for() + delay + margin > retention
}

fn lock(known: &Mutex<Known>) -> std::sync::MutexGuard<'_, Known> {
    // The value is valid after every statement, so the lock is usable after a panic.
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn probe_sending<Q: Queue>(queue: &Q) {
    match queue.probe_sending().await {
        Ok(()) => {}
        Err(QueueError::Denied(problem)) => tracing::warn!(
            error = problem,
            "the worker may not send to its queue: messages with long delays stay in flight, and SQS allows only 120,000 \
             messages in flight for all tenants together; allow the worker's role sqs:SendMessage on the queue"
        ),
        // The first real send shows whether the worker may send.
        Err(error) => {
            tracing::info!(error = %error, "the worker could not check whether it may send to its queue")
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
                        "the queue keeps messages for less than queue.max_age plus queue.max_retry_delay; raise the queue's \
                         MessageRetentionPeriod, or lower queue.max_age"
                    );
                }
                (lock(known).retention, told) = (Some(retention), Some(retention));
                tokio::time::sleep(READ_EVERY).await;
            }
            // An unknown retention counts as the shortest one: messages that wait are sent anew and come back soon.
            Err(QueueError::Denied(problem)) => {
                if !denied {
                    tracing::warn!(
                        error = problem,
                        longest_wait = ?(SHORTEST_RETENTION / 2),
                        "the worker may not read the queue's MessageRetentionPeriod, which may be short: no message waits \
                         longer than longest_wait; allow the worker's role sqs:GetQueueAttributes on the queue"
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
