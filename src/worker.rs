//! The service's main loop: collects finished tasks, waits for free slots, receives no more messages than there is room for,
//! and drains at shutdown.
//!
//! The loop knows the queue, and two functions: one tells how much of the worker's memory a message needs, one judges the
//! message. In the service these are `Pipeline::units` and `Pipeline::handle`, which `app` passes in. Only the pipeline knows
//! what a message means.

mod hidden;
pub mod lease;
mod metrics;
pub mod settle;
mod terms;

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

pub use self::metrics::Metrics;
use self::{
    lease::{MessageLease, MessageLeases},
    settle::{MAX_HELD_BYTES, Settlement, Settler},
};
use crate::{
    health::Health,
    metrics::{Call, Reason},
    queue::{MAX_BATCH, Message, Queue, QueueError},
    room::{Place, Room, UNITS},
    trace::{self, Messages, milliseconds},
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
/// Shortest time from one receive to the next if the first brings nothing. An endpoint that does not long-poll would be asked
/// thousands of times a second.
const SHORTEST_POLL: Duration = Duration::from_millis(100);
/// Longest wait for more free slots when few are free. With small objects a slot comes free every millisecond, and without
/// this wait each object would cost a receive of its own.
const GATHER: Duration = Duration::from_millis(20);
/// If the work on a message has taken longer than this, it is unlikely to end within [`GATHER`], so the loop does not wait
/// for the message's slot.
const SLOW: Duration = Duration::from_millis(200);
/// Longest wait of a message for room. Then it returns to the queue, where another worker may have room for it.
const LONGEST_AHEAD: Duration = Duration::from_secs(5);
/// How often the loop reports that it is alive while no slot is free.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Weight of the mean need of messages so far in the new mean. The latest message has the weight 1.
const INERTIA: f64 = 7.0;
/// Most verdicts per slot that may wait for the queue. While more wait, the worker receives nothing.
const MAX_BACKLOG: usize = 8;

/// Settings of the loop.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Number of slots. A slot has room for one message with an object of any size, or for several with small objects.
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
/// `units` tells how many units of a slot a message needs, and `handle` judges one message in its place. The token that it gets
/// is cancelled when the grace period is nearly over, so that `handle` can stop its work cleanly. If `handle` still runs a short
/// time later, its future is dropped.
pub async fn run<Q, U, H, F>(
    queue: Arc<Q>,
    units: U,
    handle: H,
    settings: WorkerSettings,
    stop: CancellationToken,
    health: Arc<Health>,
    metrics: Metrics,
) -> Drained
where
    Q: Queue,
    U: Fn(&Message) -> u32,
    H: Fn(Arc<Message>, Arc<Place>, CancellationToken) -> F,
    F: Future<Output = Verdict> + Send + 'static,
{
    let mut work = Work {
        room: Room::new(settings.concurrency),
        typical: f64::from(UNITS),
        ahead: VecDeque::new(),
        leases: MessageLeases::new(Arc::clone(&queue), settings.visibility_timeout, metrics.clone()),
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
        units,
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
        let room = if is_behind { 0 } else { work.expected() };
        if room == 0 {
            work.return_those_that_waited();
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = work.tasks.join_next_with_id() => work.reap(ended),
                // Nothing wakes the loop when the queue has taken verdicts.
                () = tokio::time::sleep(if is_behind { GATHER } else { HEARTBEAT }) => {}
            }
            continue;
        }
        // If there is room for fewer messages than a receive can bring, and for fewer than half of those that fit in all, waits
        // up to `GATHER` for more. The room of slow messages is not counted.
        if room < settings.max_messages.min(work.expected_of(work.room.total() - work.slow()) / 2) {
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
        let next = Instant::now() + SHORTEST_POLL;
        let receive = queue.receive(room.min(settings.max_messages).min(MAX_BATCH), wait);
        let mut receive = Box::pin(received(receive, settings.spans.receive()));
        match work.reap_while(stop.run_until_cancelled(&mut receive)).await {
            Some(Ok(messages)) => {
                let was_long = wait == settings.wait_time;
                (pause, wait) = (FIRST_PAUSE, settings.wait_time);
                if messages.is_empty() && was_long {
                    work.reap_while(stop.run_until_cancelled(tokio::time::sleep_until(next))).await;
                }
                messages.into_iter().for_each(|message| work.take_on(message));
                work.admit();
            }
            Some(Err(error)) => {
                work.metrics.queue_errors.get_or_create(&Call::new("receive")).inc();
                tracing::error!(error = %error, retry_in_ms = milliseconds(pause), "receiving messages failed");
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

struct MessageInWork {
    message: Arc<Message>,
    lease: MessageLease,
    place: Arc<Place>,
    since: Instant,
    span: Span,
}

/// A message that was received and does not fit into the room yet.
struct MessageAhead {
    message: Arc<Message>,
    lease: MessageLease,
    units: u32,
    since: Instant,
    span: Span,
}

struct Work<Q, U, H> {
    room: Room,
    /// Mean number of units of the latest messages.
    typical: f64,
    /// Messages that wait for room, in the order of their receipt. They are fewer than a receive brings, because nothing is
    /// received meanwhile.
    ahead: VecDeque<MessageAhead>,
    leases: MessageLeases<Q>,
    settler: Settler<Q>,
    tasks: JoinSet<Verdict>,
    /// The message, lease, place, start and span of each task.
    running: HashMap<Id, MessageInWork>,
    /// Tells running tasks to stop, because the grace period is nearly over.
    break_off: CancellationToken,
    units: U,
    handle: H,
    backoff: Backoff,
    spans: Messages,
    metrics: Metrics,
}

impl<Q, U, H, F> Work<Q, U, H>
where
    Q: Queue,
    U: Fn(&Message) -> u32,
    H: Fn(Arc<Message>, Arc<Place>, CancellationToken) -> F,
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
        let units = (self.units)(&message);
        self.typical = (self.typical * INERTIA + f64::from(units)) / (INERTIA + 1.0);
        self.ahead.push_back(MessageAhead { message, lease, units, since: Instant::now(), span });
    }

    /// Begins the work on messages that were received, as far as there is room.
    fn admit(&mut self) {
        while let Some(first) = self.ahead.front()
            && self.tasks.len() < self.room.most_at_once()
            && let Some(place) = self.room.take(first.units)
            && let Some(MessageAhead { message, lease, span, .. }) = self.ahead.pop_front()
        {
            let place = Arc::new(place);
            let handled = (self.handle)(Arc::clone(&message), Arc::clone(&place), self.break_off.clone());
            let task = self.tasks.spawn(Box::pin(handled).instrument(span.clone()));
            self.running
                .insert(task.id(), MessageInWork { message, lease, place, since: Instant::now(), span });
        }
        self.count_running();
    }

    /// Returns the messages that have waited for room for long to the queue.
    fn return_those_that_waited(&mut self) {
        while let Some(MessageAhead { message, lease, span, .. }) =
            self.ahead.pop_front_if(|first| first.since.elapsed() >= LONGEST_AHEAD)
        {
            self.settler.give_back(message, Some(lease), span);
        }
    }

    /// Number of further messages that there is probably room for.
    fn expected(&self) -> usize {
        match self.ahead.is_empty() {
            true => self.expected_of(self.room.free()).min(self.room.most_at_once() - self.tasks.len()),
            false => 0,
        }
    }

    /// Number of messages that `units` units probably have room for.
    fn expected_of(&self, units: usize) -> usize {
        self.room.fits(units, self.typical)
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
        let MessageInWork { message, lease, place, span, .. } =
            self.running.remove(&id).expect("each task has its message");
        drop(place);
        match ended {
            Ok((_, verdict)) => self.settler.settle(Settlement { message, verdict, lease, span }),
            Err(error) if error.is_panic() => {
                let verdict = span.in_scope(|| self.panicked(&message));
                self.settler.settle(Settlement { message, verdict, lease, span });
            }
            Err(_) => self.settler.give_back(message, Some(lease), span),
        }
        self.admit();
    }

    /// Counts and logs the panic of a task, and decides the verdict on the task's message.
    fn panicked(&self, message: &Message) -> Verdict {
        let failed = Failed { object: None, tenant_id: None, delivery: None, failure: Failure::Panic };
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
        // Messages whose work has not begun return to the queue at once.
        for MessageAhead { message, lease, span, .. } in self.ahead.drain(..) {
            self.settler.give_back(message, Some(lease), span);
        }
        tracing::info!(messages = self.tasks.len(), grace_period_ms = milliseconds(grace_period), "draining");
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

    /// Number of units of the messages that have been worked on for longer than [`SLOW`].
    fn slow(&self) -> usize {
        let slow = self.running.values().filter(|running| running.since.elapsed() > SLOW);
        slow.map(|running| running.place.units() as usize).sum()
    }

    fn count_running(&self) {
        let busy = self.room.total() - self.room.free();
        self.metrics.slots_busy.set(busy as f64 / f64::from(UNITS));
        self.metrics.messages_in_flight.set(i64::try_from(self.tasks.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
