//! The service's loop: reap what is done, wait for room, receive only what can start; at the end, drain.
//!
//! Knows the queue and a function that judges one message; what a message means is the pipeline's business.

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

pub use self::metrics::Metrics;
use self::{
    lease::{Lease, Leases},
    settle::{MAX_HELD_BYTES, Settlement, Settler},
};
use crate::{
    health::Health,
    metrics::{Call, Reason},
    queue::{MAX_BATCH, Message, Queue, QueueError},
    verdict::{Backoff, Failed, Failure, Tries, Verdict, decide},
};

/// First pause after a receive that failed; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long a poll that is open when we are told to stop is waited for once nothing else is. Messages that the queue has
/// already handed out are in its answer; without it they would stay hidden until their visibility ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Kept out of the grace period for breaking work off in order, giving messages back and sending the last acknowledgements.
const LAST_CALLS: Duration = Duration::from_secs(4);
/// How long free slots wait for more of them, where there are too few for a receive that is worth its price: with small
/// objects slots come free every millisecond, and a receive for each would be one more call per object.
const GATHER: Duration = Duration::from_millis(20);
/// A message that has been worked on for longer will hardly end within [`GATHER`]: its slot is not waited for.
const SLOW: Duration = Duration::from_millis(200);
/// How often a loop that has no room says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Most verdicts per slot that may wait for the queue.
const MAX_BACKLOG: usize = 8;

/// How the loop behaves.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// Messages worked on at once.
    pub concurrency: usize,
    /// Most messages of one receive.
    pub max_messages: usize,
    /// Long poll.
    pub wait_time: Duration,
    /// How long a received message stays hidden before it is extended.
    pub visibility_timeout: Duration,
    /// From the order to stop to the end of [`run`].
    pub grace_period: Duration,
    /// Most messages that wait hidden at once.
    pub max_hidden: usize,
    /// Delays of retries.
    pub backoff: Backoff,
}

/// How [`run`] ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Messages whose work had to be broken off; they were given back, but for those that ended at that moment.
    pub given_back: usize,
}

/// Receives and works until told to stop, then lets what is running finish within the grace period and gives the rest
/// back to the queue.
///
/// `handle` judges one message. Its token is cancelled when the grace period is nearly over, so that it can break its work
/// off in order; what has not returned soon after that is dropped.
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
            metrics.clone(),
        ),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        break_off: CancellationToken::new(),
        handle,
        backoff: settings.backoff,
        metrics,
    };
    let mut pause = FIRST_PAUSE;
    // A queue that has not answered lately is asked without a long poll: readiness should not wait for one to end.
    let mut wait = Duration::ZERO;
    let mut gathering = None;
    let open_poll = loop {
        if stop.is_cancelled() {
            break None;
        }
        health.loop_moved();
        // Where the queue takes no verdicts, what we received now would only wait for its own.
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
        // Worth a receive: half of the slots that come free in quick succession.
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
        let mut receive = Box::pin(queue.receive(room.min(settings.max_messages).min(MAX_BATCH), wait));
        let unless_stopped = async {
            tokio::select! {
                received = &mut receive => Some(received),
                () = stop.cancelled() => None,
            }
        };
        match work.reap_while(unless_stopped).await {
            Some(Ok(messages)) => {
                health.queue_answered();
                (pause, wait) = (FIRST_PAUSE, settings.wait_time);
                messages.into_iter().for_each(|message| work.take_on(message));
            }
            Some(Err(error)) => {
                health.queue_failed(error.to_string());
                work.metrics.queue_errors.get_or_create(&Call::new("receive")).inc();
                tracing::error!(error = %error, retry_in = ?pause, "receiving messages failed");
                let unless_stopped = async {
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = stop.cancelled() => {}
                    }
                };
                work.reap_while(unless_stopped).await;
                (pause, wait) = ((pause * 2).min(LONGEST_PAUSE), Duration::ZERO);
            }
            None => break Some(receive),
        }
    };
    health.drain();
    work.drain(open_poll, settings.grace_period).await
}

/// Waits for a poll's answer; for ever, if there is no poll any more.
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
}

struct Work<Q, H> {
    leases: Leases<Q>,
    settler: Settler<Q>,
    tasks: JoinSet<Verdict>,
    /// What each task works on.
    running: HashMap<Id, Running>,
    /// Tells messages that their time is over.
    break_off: CancellationToken,
    handle: H,
    backoff: Backoff,
    metrics: Metrics,
}

impl<Q, H, F> Work<Q, H>
where
    Q: Queue,
    H: Fn(Arc<Message>, CancellationToken) -> F,
    F: Future<Output = Verdict> + Send + 'static,
{
    fn take_on(&mut self, message: Message) {
        self.metrics.messages_received.inc();
        let message = Arc::new(message);
        let lease = self.leases.hold(message.receipt.clone());
        if self.settler.owes_delete(&message.id) {
            return self.settler.delete(message, lease);
        }
        let task = self.tasks.spawn((self.handle)(Arc::clone(&message), self.break_off.clone()));
        self.running.insert(task.id(), Running { message, lease, since: Instant::now() });
        self.count_running();
    }

    /// Waits for `future`, passing on meanwhile what tasks that end have to say.
    async fn reap_while<T>(&mut self, future: impl Future<Output = T>) -> T {
        tokio::pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return value,
                Some(ended) = self.tasks.join_next_with_id() => self.reap(ended),
            }
        }
    }

    /// Passes on what a task that ended has to say.
    fn reap(&mut self, ended: Result<(Id, Verdict), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Running { message, lease, .. } = self.running.remove(&id).expect("each task has one");
        self.count_running();
        match ended {
            Ok((_, verdict)) => self.settler.settle(Settlement { message, verdict, lease }),
            Err(error) if error.is_panic() => {
                let verdict = self.panicked(&message, error);
                self.settler.settle(Settlement { message, verdict, lease });
            }
            Err(_) => self.settler.give_back(message.receipt.clone(), Some(lease)),
        }
    }

    /// A panic is one message's misfortune: counted, logged, tried again.
    fn panicked(&self, message: &Message, error: JoinError) -> Verdict {
        let panic = error.into_panic();
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text =
            text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned());
        let failed = Failed { object: None, tenant_id: None, delivery: None, failure: Failure::Panic(text) };
        self.metrics.failures.get_or_create(&Reason::new(failed.failure.reason())).inc();
        tracing::error!(message.id, message.attempts, error = %failed, "a message could not be done");
        let tries = Tries { attempts: message.attempts, refusals: message.refusals, age: message.age() };
        decide(&[failed], tries, &self.backoff, fastrand::f64())
    }

    /// Lets work finish, gives the rest back, and has every verdict carried out, all within the grace period.
    ///
    /// A poll that is still open may be handed what we give back, and would take it along: it is waited for.
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
                        self.settler.give_back(message.receipt, None);
                    }
                }
                () = tokio::time::sleep_until(patience) => break,
            }
        }
        // Whatever is left is broken off first and given back then: two workers must not have it at once.
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
            tracing::warn!("the queue did not take every verdict in time; what it did not take comes again");
        }
        Drained { given_back }
    }

    /// Messages that have been worked on for long.
    fn slow(&self) -> usize {
        self.running.values().filter(|running| running.since.elapsed() > SLOW).count()
    }

    fn count_running(&self) {
        self.metrics.messages_in_flight.set(i64::try_from(self.tasks.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
