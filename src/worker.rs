//! The service's main loop: collects finished tasks, waits for free slots, receives no more messages than there are free
//! slots, and drains at shutdown.
//!
//! The loop knows the queue and a function that judges one message. In the service this function is `Pipeline::handle`,
//! which `app` passes in. Only the pipeline knows what a message means.

mod batcher;
pub mod lease;
mod metrics;
mod places;
pub mod settle;
mod terms;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

pub use self::metrics::Metrics;
use self::{
    lease::{Lease, Leases},
    settle::{MAX_HELD_BYTES, Settlement, Settler},
};
use crate::{
    health::Health,
    metrics::{Call, Reason},
    queue::{MAX_BATCH, Message, Queue, QueueError},
    trace::{self, Messages},
    verdict::{Backoff, Failed, Failure, Tries, Verdict, decide},
};

/// Pause after the first failed receive. Each further failure in a row doubles the pause, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long after the order to stop the drain waits for the answer to an open receive, if no work is left. The answer can
/// hold messages that the queue has already handed out. If the receive were dropped, these messages would stay hidden until
/// their visibility timeout ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Last part of the grace period, reserved for cancelling unfinished work, returning its messages to the queue, and sending
/// the last acknowledgements.
const LAST_CALLS: Duration = Duration::from_secs(4);
/// Longest wait for more free slots when few are free. With small objects a slot comes free every millisecond, and without
/// this wait each object would cost a receive of its own.
const GATHER: Duration = Duration::from_millis(20);
/// If the work on a message has taken longer than this, it is unlikely to end within [`GATHER`], so the loop does not wait
/// for the message's slot.
const SLOW: Duration = Duration::from_millis(200);
/// How often the loop reports that it is alive while no slot is free.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Most verdicts per slot that may wait for the queue. While more wait, the worker receives nothing.
const MAX_BACKLOG: usize = 8;

/// Settings of the loop.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Number of slots: messages that are worked on at once.
    pub concurrency: usize,
    /// Most messages of one receive.
    pub max_messages: usize,
    /// Wait time of a long poll.
    pub wait_time: Duration,
    /// How long each receive or extension hides a message.
    pub visibility_timeout: Duration,
    /// Longest time from the order to stop until [`run`] returns.
    pub grace_period: Duration,
    /// Most messages that the worker hides at the same time until their retries.
    pub max_hidden: usize,
    /// Delays of retries.
    pub backoff: Backoff,
    /// Creates the spans of receives and messages.
    pub spans: Messages,
}

/// Result of [`run`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Number of messages that were still in work when the drain cancelled their work. Work that ended at that moment has
    /// its own verdict; all other messages were returned to the queue.
    pub given_back: usize,
}

/// Receives and handles messages until `stop` is cancelled, then drains: running work may finish within the grace period,
/// and all other messages return to the queue.
///
/// `handle` judges one message. The token that it gets is cancelled when the grace period is nearly over, so that `handle` can
/// stop its work cleanly. If `handle` still runs a short time later, its future is dropped.
pub async fn run<Q, H, F>(
    queue: Arc<Q>,
    handle: H,
    settings: WorkerSettings,
    stop: CancellationToken,
    health: Arc<Health>,
    metrics: Metrics,
) -> Drained
where
    Q: Queue,
    H: Fn(Arc<Message>, CancellationToken) -> F,
    F: Future<Output = Verdict> + Send + 'static,
{
    let mut work = Work {
        leases: Leases::new(Arc::clone(&queue), settings.visibility_timeout, metrics.clone()),
        settler: Settler::start(
            Arc::clone(&queue),
            settings.max_hidden,
            settings.backoff.max_age + settings.backoff.longest,
            settings.spans.clone(),
            metrics.clone(),
        ),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        break_off: CancellationToken::new(),
        handle,
        backoff: settings.backoff,
        spans: settings.spans.clone(),
        metrics,
    };
    work.metrics.slots.set(i64::try_from(settings.concurrency).unwrap_or(i64::MAX));
    let mut pause = FIRST_PAUSE;
    // Until the queue has answered, receives do not long-poll: readiness should not wait for the end of a long poll.
    let mut wait = Duration::ZERO;
    let mut gathering = None;
    let open_poll = loop {
        if stop.is_cancelled() {
            break None;
        }
        health.loop_moved();
        work.metrics.turned();
        // While many verdicts wait for the queue, new messages would only add more.
        let is_behind = work.settler.backlog() > MAX_BACKLOG * settings.concurrency
            || work.settler.held_bytes() > MAX_HELD_BYTES;
        let room = if is_behind { 0 } else { settings.concurrency.saturating_sub(work.tasks.len()) };
        if room == 0 {
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = work.tasks.join_next_with_id() => work.reap(ended),
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
            continue;
        }
        // If fewer slots are free than a receive can fill, and fewer than half of all slots, waits up to `GATHER` for more.
        // Slots with slow messages are not counted.
        if room < settings.max_messages.min((settings.concurrency - work.slow()) / 2) {
            let until = *gathering.get_or_insert_with(|| Instant::now() + GATHER);
            if Instant::now() < until {
                tokio::select! {
                    () = stop.cancelled() => {}
                    Some(ended) = work.tasks.join_next_with_id() => work.reap(ended),
                    () = tokio::time::sleep_until(until) => {}
                }
                continue;
            }
        }
        gathering = None;
        let receive = queue.receive(room.min(settings.max_messages).min(MAX_BATCH), wait);
        let mut receive = Box::pin(received(receive, settings.spans.receive()));
        match work.reap_while(stop.run_until_cancelled(&mut receive)).await {
            Some(Ok(messages)) => {
                (pause, wait) = (FIRST_PAUSE, settings.wait_time);
                messages.into_iter().for_each(|message| work.take_on(message));
            }
            Some(Err(error)) => {
                work.metrics.queue_errors.get_or_create(&Call::new("receive")).inc();
                tracing::error!(error = %error, retry_in = ?pause, "receiving messages failed");
                work.reap_while(stop.run_until_cancelled(tokio::time::sleep(pause))).await;
                (pause, wait) = ((pause * 2).min(LONGEST_PAUSE), Duration::ZERO);
            }
            None => break Some(receive),
        }
    };
    health.drain();
    work.drain(open_poll, settings.grace_period).await
}

/// Waits for a receive in its span.
async fn received(
    receive: impl Future<Output = Result<Vec<Message>, QueueError>>,
    span: Span,
) -> Result<Vec<Message>, QueueError> {
    let answer = trace::within(span.clone(), receive, QueueError::kind).await;
    if let Ok(messages) = &answer {
        Messages::received(&span, messages.iter().map(|message| message.trace_header.as_deref()));
    }
    answer
}

/// Waits for the answer to an open receive. Waits for ever if no receive is open.
async fn answer<F: Future + Unpin>(poll: &mut Option<F>) -> F::Output {
    match poll {
        Some(open) => {
            let answer = open.await;
            *poll = None;
            answer
        }
        None => std::future::pending().await,
    }
}

struct Running {
    message: Arc<Message>,
    lease: Lease,
    since: Instant,
    span: Span,
}

struct Work<Q, H> {
    leases: Leases<Q>,
    settler: Settler<Q>,
    tasks: JoinSet<Verdict>,
    /// The message, lease, start and span of each task.
    running: HashMap<Id, Running>,
    /// Tells running tasks to stop, because the grace period is nearly over.
    break_off: CancellationToken,
    handle: H,
    backoff: Backoff,
    spans: Messages,
    metrics: Metrics,
}

impl<Q, H, F> Work<Q, H>
where
    Q: Queue,
    H: Fn(Arc<Message>, CancellationToken) -> F,
    F: Future<Output = Verdict> + Send + 'static,
{
    fn take_on(&mut self, message: Message) {
        self.metrics.received(&message);
        let message = Arc::new(message);
        let span = self.spans.process(&message.id, message.attempts, message.trace_header.as_deref());
        let lease = span.in_scope(|| self.leases.hold(&message));
        if self.settler.owes_delete(&message.id) {
            return self.settler.delete(message, lease, span);
        }
        let handled = (self.handle)(Arc::clone(&message), self.break_off.clone());
        let task = self.tasks.spawn(handled.instrument(span.clone()));
        self.running.insert(task.id(), Running { message, lease, since: Instant::now(), span });
        self.count_running();
    }

    /// Waits for `future`, and passes on the verdicts of tasks that end meanwhile.
    async fn reap_while<T>(&mut self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return value,
                Some(ended) = self.tasks.join_next_with_id() => self.reap(ended),
            }
        }
    }

    /// Passes on the verdict of a task that ended.
    fn reap(&mut self, ended: Result<(Id, Verdict), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Running { message, lease, span, .. } =
            self.running.remove(&id).expect("each task has its message");
        self.count_running();
        match ended {
            Ok((_, verdict)) => self.settler.settle(Settlement { message, verdict, lease, span }),
            Err(error) if error.is_panic() => {
                let verdict = span.in_scope(|| self.panicked(&message, error));
                self.settler.settle(Settlement { message, verdict, lease, span });
            }
            Err(_) => self.settler.give_back(message, Some(lease), span),
        }
    }

    /// Counts and logs the panic of a task, and decides the verdict on the task's message.
    fn panicked(&self, message: &Message, error: JoinError) -> Verdict {
        let panic = error.into_panic();
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text =
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned());
        let failed = Failed { object: None, tenant_id: None, delivery: None, failure: Failure::Panic(text) };
        self.metrics.failures.get_or_create(&Reason::new(failed.failure.reason())).inc();
        trace::fail(&Span::current(), failed.failure.reason(), &failed);
        tracing::error!(message.id, message.attempts, error = %failed, "the work on a message panicked");
        let tries = Tries { attempts: message.attempts, refusals: message.refusals, age: message.age() };
        decide(&[failed], tries, &self.backoff, fastrand::f64())
    }

    /// Lets work finish, returns all other messages to the queue, and carries out every verdict, all within the grace period.
    ///
    /// An open receive stays open while work finishes. The answer of SQS may hold messages, even messages that this worker has
    /// just returned. If the receive were dropped, those messages would stay hidden until their visibility timeout ends.
    async fn drain(
        mut self,
        mut open_poll: Option<impl Future<Output = Result<Vec<Message>, QueueError>> + Unpin>,
        grace_period: Duration,
    ) -> Drained {
        tracing::info!(messages = self.tasks.len(), ?grace_period, "draining");
        let stopped = Instant::now();
        let deadline = stopped + grace_period;
        let finish_by = deadline - LAST_CALLS.min(grace_period / 2);
        while !self.tasks.is_empty() || open_poll.is_some() {
            let patience =
                if self.tasks.is_empty() { finish_by.min(stopped + LAST_ANSWER) } else { finish_by };
            tokio::select! {
                Some(ended) = self.tasks.join_next_with_id() => self.reap(ended),
                received = answer(&mut open_poll) => {
                    for message in received.unwrap_or_default() {
                        self.settler.give_back(Arc::new(message), None, Span::none());
                    }
                }
                () = tokio::time::sleep_until(patience) => break,
            }
        }
        // Unfinished work is cancelled before its message returns to the queue: two workers must not have a message at once.
        let given_back = self.tasks.len();
        self.break_off.cancel();
        let abort_at = finish_by + (deadline - finish_by) / 2;
        while let Ok(Some(ended)) = tokio::time::timeout_at(abort_at, self.tasks.join_next_with_id()).await {
            self.reap(ended);
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.reap(ended);
        }
        if tokio::time::timeout_at(deadline, self.settler.finish()).await.is_err() {
            tracing::warn!(
                verdicts = self.settler.backlog(),
                "the grace period ended before every verdict was carried out; the messages whose verdicts were not carried out \
                 are delivered again"
            );
        }
        Drained { given_back }
    }

    /// Number of messages that have been worked on for longer than [`SLOW`].
    fn slow(&self) -> usize {
        self.running.values().filter(|running| running.since.elapsed() > SLOW).count()
    }

    fn count_running(&self) {
        self.metrics.messages_in_flight.set(i64::try_from(self.tasks.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
