//! Carries verdicts out on the queue.
//!
//! Each message has a task, in no slot, which makes one call after another; what several ask of the queue at once goes out
//! in one call (`batcher`). A message is sent, anew or as a letter, before it is deleted: whoever kills the worker in between
//! has it twice, and never not at all.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    batcher::{Batcher, MAX_BATCHES},
    lease::Lease,
    metrics::Metrics,
    places::Places,
    terms::{Terms, ends_within},
};
use crate::{
    metrics::{Call, Reason, Verdict as VerdictLabel},
    queue::{DeadLetter, MAX_MESSAGE_BYTES, Message, Queue, QueueError, Receipt, SentAnew},
    verdict::{Cause, Verdict},
};

/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(50);
/// Longest wait that hides a message; what waits longer is sent anew and takes no place in flight.
pub const LONGEST_HIDING: Duration = Duration::from_secs(60);
/// Dead letters on their way at once.
const MAX_LETTERS: usize = 8;
/// How long a letter waits for its turn to be sent; a slow dead-letter queue must not hold up what others receive.
const LETTER_WAIT: Duration = Duration::from_secs(1);
/// How long a dead-letter queue that is slow or does not answer is left alone: receiving waits for verdicts once many are
/// under way, and letters must not be those.
const LETTERS_PAUSE: Duration = Duration::from_secs(5);
/// What a failure to send a letter means.
const LETTER_UNSENT: &str = "a dead letter could not be sent; the message comes again";
/// How long a delete that the queue does not take is tried again, with the message still leased.
const DELETE_FOR: Duration = Duration::from_secs(300);
/// Longest pause between such attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Most messages that are known to be done with and could not be deleted; an id has 36 bytes.
const MAX_OWED: usize = 10_000;
/// Bytes of bodies that wait here for the queue; while there are more, nothing is received.
pub(super) const MAX_HELD_BYTES: usize = 32 << 20;

/// Most bytes that bodies of messages take, of a worker with that many slots: those that wait for the queue, those that are
/// worked on, and the requests and the answer that they are copied from and to.
pub const fn bodies_bound(concurrency: usize) -> usize {
    // SQS's JSON doubles a text of nothing but quotes, and the SDK holds text and request, or answer and text.
    let requests = (MAX_LETTERS + MAX_BATCHES) * 3 * MAX_MESSAGE_BYTES;
    let answer = 10 * 3 * MAX_MESSAGE_BYTES;
    MAX_HELD_BYTES + concurrency * MAX_MESSAGE_BYTES + requests + answer
}

/// A message with its verdict, still leased until the verdict is carried out.
#[derive(Debug)]
pub struct Settlement {
    /// The message.
    pub message: Arc<Message>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Keeps it hidden.
    pub lease: Lease,
}

/// Takes verdicts; tasks in the background carry them out.
#[derive(Debug)]
pub struct Settler<Q> {
    calls: Arc<Calls<Q>>,
    tasks: TaskTracker,
}

/// What the tasks share.
#[derive(Debug)]
struct Calls<Q> {
    queue: Arc<Q>,
    deletes: Batcher<Receipt>,
    /// For messages that were sent anew or buried. They go out at once: a worker that is killed before its delete leaves two.
    deletes_at_once: Batcher<Receipt>,
    hides: Batcher<(Receipt, Duration)>,
    sends: Batcher<SentAnew>,
    letters: Semaphore,
    /// Until then the dead-letter queue is left alone: it was slow, or did not answer.
    no_letters_before: Mutex<Option<Instant>>,
    places: Places,
    terms: Terms,
    /// Ids of messages that are done with and not deleted yet.
    owed: Mutex<HashSet<String>>,
    backlog: Arc<AtomicUsize>,
    held_bytes: Arc<AtomicUsize>,
    finishing: CancellationToken,
    metrics: Metrics,
}

impl<Q: Queue> Settler<Q> {
    /// Starts with nothing to do. At most `max_hidden` messages wait hidden at once; `longest_retry` is how long after its first
    /// receive a message may be received for the last time.
    pub fn start(queue: Arc<Q>, max_hidden: usize, longest_retry: Duration, metrics: Metrics) -> Self {
        let deletes = |linger| {
            let queue = Arc::clone(&queue);
            Batcher::start(linger, move |entries: Vec<_>| {
                let queue = Arc::clone(&queue);
                async move { queue.delete(&entries).await }
            })
        };
        let hides = Batcher::start(LINGER, {
            let queue = Arc::clone(&queue);
            move |entries: Vec<_>| {
                let queue = Arc::clone(&queue);
                async move { queue.change_visibility(&entries).await }
            }
        });
        let sends = Batcher::start(LINGER, {
            let queue = Arc::clone(&queue);
            move |entries: Vec<_>| {
                let queue = Arc::clone(&queue);
                async move { queue.send_anew(&entries).await }
            }
        });
        let calls = Calls {
            deletes: deletes(LINGER),
            deletes_at_once: deletes(Duration::ZERO),
            hides,
            sends,
            letters: Semaphore::new(MAX_LETTERS),
            no_letters_before: Mutex::default(),
            places: Places::new(max_hidden),
            terms: Terms::start(Arc::clone(&queue), longest_retry),
            queue,
            owed: Mutex::default(),
            backlog: Arc::default(),
            held_bytes: Arc::default(),
            finishing: CancellationToken::new(),
            metrics,
        };
        Self { calls: Arc::new(calls), tasks: TaskTracker::new() }
    }

    /// Hands a verdict over.
    pub fn settle(&self, Settlement { message, verdict, lease }: Settlement) {
        self.calls.metrics.messages.get_or_create(&VerdictLabel::new(verdict.word())).inc();
        self.carry_out(message, verdict, lease);
    }

    /// Deletes a message that is known to be done with.
    pub fn delete(&self, message: Arc<Message>, lease: Lease) {
        self.carry_out(message, Verdict::Ack, lease);
    }

    fn carry_out(&self, message: Arc<Message>, verdict: Verdict, lease: Lease) {
        let (calls, held) = (Arc::clone(&self.calls), Held::new(&self.calls.held_bytes, message));
        let counted = Counted::new(&self.calls.backlog);
        self.tasks.spawn(async move { calls.carry_out(&held.message, verdict, lease, counted).await });
    }

    /// Makes a message visible at once; waits before for the last call of its lease, if it has one.
    pub fn give_back(&self, receipt: Receipt, lease: Option<Lease>) {
        let calls = Arc::clone(&self.calls);
        self.tasks.spawn(async move {
            if let Some(lease) = lease {
                lease.end().await;
            }
            if let Err(error) = calls.hides.call((receipt, Duration::ZERO)).await {
                tracing::warn!(error = %error, "a message could not be given back; it returns when its visibility ends");
            }
        });
    }

    /// Whether the message was done with before, and only its delete is missing.
    pub fn owes_delete(&self, id: &str) -> bool {
        self.calls.owed().contains(id)
    }

    /// Verdicts that the queue has not taken yet.
    pub fn backlog(&self) -> usize {
        self.calls.backlog.load(Ordering::Relaxed)
    }

    /// Bytes of the messages that wait for the queue.
    pub fn held_bytes(&self) -> usize {
        self.calls.held_bytes.load(Ordering::Relaxed)
    }

    /// Waits until every verdict is carried out.
    pub async fn finish(self) {
        self.calls.finishing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A message whose body counts as held until this drops.
struct Held {
    bytes: Arc<AtomicUsize>,
    message: Arc<Message>,
}

impl Held {
    fn new(bytes: &Arc<AtomicUsize>, message: Arc<Message>) -> Self {
        bytes.fetch_add(message.body.len(), Ordering::Relaxed);
        Self { bytes: Arc::clone(bytes), message }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.message.body.len(), Ordering::Relaxed);
    }
}

/// A verdict that counts as backlog until this drops.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(backlog: &Arc<AtomicUsize>) -> Self {
        backlog.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(backlog))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<Q: Queue> Calls<Q> {
    async fn carry_out(&self, message: &Arc<Message>, verdict: Verdict, lease: Lease, counted: Counted) {
        let (cause, longest_hiding) = match verdict {
            Verdict::Ack => return self.delete(message, lease, &self.deletes).await,
            Verdict::Retry(cause) => (cause, LONGEST_HIDING),
            Verdict::Poison(cause) => match self.bury(message, &cause).await {
                Ok(()) => return self.delete(message, lease, &self.deletes_at_once).await,
                Err(unburied) => (cause, unburied.longest_hiding()),
            },
            Verdict::Overdue(cause) => match self.bury_overdue(message, &cause).await {
                Ok(()) => return self.delete(message, lease, &self.deletes_at_once).await,
                Err(unburied) => (cause, unburied.longest_hiding()),
            },
        };
        let mut delay = cause.delay.min(self.terms.longest_delay());
        // Before the queue's retention ends it, a message is sent anew, however short its delay, or else buried.
        let retention = self.terms.retention();
        let ends = retention.is_some_and(|retention| ends_within(retention, message, delay));
        // Poison that only the redrive policy can take hides whatever is known: see `Unburied::Ever`.
        let must_hide = !ends && longest_hiding == Duration::MAX;
        // While the retention is not known nothing else is hidden: it may be short.
        let may_hide = !ends && retention.is_some() && delay <= longest_hiding;
        if !(delay.is_zero() && !ends || must_hide || may_hide && self.places.take(delay)) {
            // Where a send failed, the message may be there twice. Each further one would be sent twice as well, so for a while
            // only those are sent that the queue would lose.
            let sent = match ends || !self.terms.sending_fails() {
                true => self.send_anew(message, &cause).await,
                false => Err(Unsent::Now),
            };
            match sent {
                Ok(()) => return self.delete(message, lease, &self.deletes_at_once).await,
                Err(Unsent::Now) => delay = delay.min(LONGEST_HIDING),
                Err(Unsent::Ever) => {}
            }
            if ends && self.bury_overdue(message, &cause).await.is_ok() {
                return self.delete(message, lease, &self.deletes_at_once).await;
            }
        }
        self.hide(message, delay, lease, counted).await;
    }

    /// Hides a message for its delay. SQS counts delays in seconds, and the odd part of one is waited for here first, in no slot:
    /// rounded up, messages that were refused together would come again together.
    async fn hide(&self, message: &Message, mut delay: Duration, lease: Lease, mut counted: Counted) {
        let odd_part = Duration::from_nanos(delay.subsec_nanos().into());
        if !odd_part.is_zero() {
            drop(counted);
            tokio::select! {
                () = tokio::time::sleep(odd_part) => delay -= odd_part,
                () = self.finishing.cancelled() => {}
            }
            counted = Counted::new(&self.backlog);
        }
        // Not extended any more, or an extension could overtake the delay.
        lease.end().await;
        if let Err(error) = self.hides.call((message.receipt.clone(), delay)).await {
            self.failed(
                "change_visibility",
                &error,
                "a message's retry could not be delayed; it returns when its visibility ends",
            );
        }
        drop(counted);
    }

    async fn send_anew(&self, message: &Arc<Message>, cause: &Cause) -> Result<(), Unsent> {
        if !self.terms.may_send() {
            return Err(Unsent::Ever);
        }
        let entry = SentAnew {
            message: Arc::clone(message),
            refusals: cause.refusals,
            delay: cause.delay.min(self.terms.longest_delay()),
            tenant_id: cause.tenant_id().map(str::to_owned),
        };
        match self.sends.call(entry).await {
            Ok(()) => {
                self.metrics.messages_sent_anew.get_or_create(&Reason::new(cause.reason)).inc();
                Ok(())
            }
            Err(error) => {
                let unsent = match &error {
                    QueueError::Denied(_) => {
                        self.terms.sending_was_denied();
                        Unsent::Ever
                    }
                    // Of this message alone, and SQS has no copy of it.
                    QueueError::Refused(_) => Unsent::Ever,
                    QueueError::Gone(_) | QueueError::Missing(_) | QueueError::Unavailable(_) => {
                        self.terms.sending_failed();
                        Unsent::Now
                    }
                };
                self.failed(
                    "send_anew",
                    &error,
                    "a message that waits for long could not be sent anew; it is hidden instead",
                );
                Err(unsent)
            }
        }
    }

    /// Buries a message whose retries end here, by its age or by the queue's.
    async fn bury_overdue(&self, message: &Message, cause: &Cause) -> Result<(), Unburied> {
        self.bury(message, cause).await?;
        self.metrics.dead_letters_overdue.get_or_create(&Reason::new(cause.reason)).inc();
        Ok(())
    }

    /// Sends a dead letter.
    async fn bury(&self, message: &Message, cause: &Cause) -> Result<(), Unburied> {
        if !self.queue.has_dead_letters() {
            tracing::warn!(
                message.id,
                reason = cause.reason,
                "poison, and no dead-letter queue configured: left to the queue's redrive policy"
            );
            return Err(Unburied::Ever);
        }
        let mut attributes = vec![("reason", cause.reason.to_owned()), ("message_id", message.id.clone())];
        attributes.extend(cause.attributes.iter().cloned());
        let letter = DeadLetter { body: message.body.clone(), attributes };
        let pausing = || self.letters_pause(None).is_some_and(|until| Instant::now() < until);
        if pausing() {
            return Err(Unburied::Now);
        }
        let Ok(turn) = tokio::time::timeout(LETTER_WAIT, self.letters.acquire()).await else {
            self.letters_pause(Some(Instant::now() + LETTERS_PAUSE));
            tracing::warn!(
                message.id,
                retry_in = ?LETTERS_PAUSE,
                "the dead-letter queue is slow; messages that belong there wait in the queue"
            );
            return Err(Unburied::Now);
        };
        let _turn = turn.expect("nobody closes it");
        // It may have failed while this letter waited for its turn.
        if pausing() {
            return Err(Unburied::Now);
        }
        match self.queue.send_dead_letter(&letter).await {
            Ok(()) => {
                self.metrics.dead_letters.get_or_create(&Reason::new(cause.reason)).inc();
                Ok(())
            }
            Err(error) => {
                let (unburied, consequence) = match &error {
                    QueueError::Refused(_) => (
                        Unburied::Ever,
                        "the dead-letter queue refuses a letter, and the message is left to the queue's redrive policy; its \
                         MaximumMessageSize should be 1 MiB",
                    ),
                    QueueError::Unavailable(_) => {
                        self.letters_pause(Some(Instant::now() + LETTERS_PAUSE));
                        (Unburied::Now, LETTER_UNSENT)
                    }
                    QueueError::Gone(_) | QueueError::Denied(_) | QueueError::Missing(_) => {
                        (Unburied::Now, LETTER_UNSENT)
                    }
                };
                self.failed("send_dead_letter", &error, consequence);
                Err(unburied)
            }
        }
    }

    /// Until when the dead-letter queue is left alone, after setting it where there is something to set.
    fn letters_pause(&self, until: Option<Instant>) -> Option<Instant> {
        // One value, right after every statement: a panic elsewhere leaves nothing half done.
        let mut pause = self.no_letters_before.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = until.or(*pause);
        *pause
    }

    /// Deletes a message that is done with, leased until then. If that cannot be done the message comes again, and
    /// [`Settler::owes_delete`] knows it.
    async fn delete(&self, message: &Message, lease: Lease, deletes: &Batcher<Receipt>) {
        self.owe_delete(&message.id);
        let (begun, mut pause) = (Instant::now(), LINGER);
        while let Err(error) = deletes.call(message.receipt.clone()).await {
            let again = matches!(error, QueueError::Unavailable(_))
                && begun.elapsed() < DELETE_FOR
                && !self.finishing.is_cancelled();
            if !again {
                self.failed("delete", &error, "a finished message could not be deleted; it comes again");
                return;
            }
            self.failed("delete", &error, "a finished message could not be deleted yet");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.finishing.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.owed().remove(&message.id);
        drop(lease);
    }

    fn owe_delete(&self, id: &str) {
        let mut owed = self.owed();
        if owed.len() >= MAX_OWED {
            // Which of them is forgotten does not matter.
            let other = owed.iter().next().cloned();
            other.map(|other| owed.remove(&other));
        }
        owed.insert(id.to_owned());
    }

    fn owed(&self) -> MutexGuard<'_, HashSet<String>> {
        // A set is right after every statement, so a panic elsewhere leaves nothing half done.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, call: &'static str, error: &QueueError, consequence: &str) {
        self.metrics.queue_errors.get_or_create(&Call::new(call)).inc();
        tracing::warn!(call, error = %error, "{consequence}");
    }
}

/// Why a message was not sent anew.
enum Unsent {
    /// It may be sent soon.
    Now,
    /// It may not be sent, or not be sent by us: another attempt would end alike.
    Ever,
}

/// Why a message is no dead letter.
enum Unburied {
    /// The letter may be sent soon.
    Now,
    /// No dead-letter queue takes it from us.
    Ever,
}

impl Unburied {
    /// The longest wait that hides the message. The queue's redrive policy counts receives, and a message that is sent anew begins
    /// at none: where that policy is the only way to a letter, the message hides.
    fn longest_hiding(&self) -> Duration {
        match self {
            Self::Now => LONGEST_HIDING,
            Self::Ever => Duration::MAX,
        }
    }
}
