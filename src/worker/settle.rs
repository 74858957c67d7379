//! Carries out verdicts on the queue.
//!
//! Each message has a task of its own, which takes no slot and makes one call after another. Entries of several tasks
//! share a batch call ([`Batcher`]).
//!
//! A message with a long delay is sent anew: the worker sends a new message with the delay, and deletes the old one.
//! Poison is buried: the worker sends a dead letter, and deletes the message. The send always comes before the delete.
//! So a worker that is killed between the two leaves the message twice, but never loses it.

mod held;

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
use tracing::{Instrument, Span};

use self::held::{Counted, Held};
use super::{
    hidden::HiddenMessages,
    lease::MessageLease,
    metrics::Metrics,
    terms::{Terms, ends_within},
};
use crate::{
    batcher::{Batcher, MAX_BATCHES, Wait},
    metrics::{Call, Reason, Verdict as VerdictLabel},
    queue::{DeadLetter, MAX_BATCH, MAX_MESSAGE_BYTES, Message, Queue, QueueError, Receipt, SentAnew},
    trace::{self, Messages, milliseconds},
    verdict::{Cause, Verdict},
};

/// How long the first entry of a batch call waits for others.
const LINGER: Duration = Duration::from_millis(50);
/// Longest delay for which a message is hidden. A message with a longer delay is sent anew, so that it does not count as in
/// flight. `Unburied::longest_hiding` has the exception.
pub const LONGEST_HIDING: Duration = Duration::from_secs(60);
/// Most dead letters that are sent at once.
const MAX_LETTERS: usize = 8;
/// Longest wait of a letter while [`MAX_LETTERS`] other letters are being sent. The wait is short, because the receive
/// loop stops while many verdicts wait.
const LETTER_WAIT: Duration = Duration::from_secs(1);
/// Pause of all letters after the dead-letter queue was slow or did not answer. Without this pause, letters would
/// fill the backlog of verdicts, and the receive loop stops while the backlog is full.
const LETTERS_PAUSE: Duration = Duration::from_secs(5);
/// Log text for a letter that could not be sent.
const LETTER_UNSENT: &str =
    "a dead letter could not be sent; its message stays in the queue and is tried again";
/// How long a failed delete is repeated. The message's lease continues meanwhile.
const DELETE_FOR: Duration = Duration::from_secs(300);
/// Longest pause between attempts to delete a message.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Most messages that are finished but not deleted and whose ids are remembered. An id has 36 bytes.
const MAX_OWED: usize = 10_000;
/// Most bytes of message bodies whose verdicts may wait for the queue. While more wait, the worker receives nothing.
pub(super) const MAX_HELD_BYTES: usize = 32 << 20;

/// Most bytes of memory for the bodies of messages in a worker with `concurrency` slots: bodies that wait for the queue, bodies
/// in work, and their copies in requests and in the answer to a receive.
pub const fn bodies_bound(concurrency: usize) -> usize {
    // Factor 3: the SDK holds a text and, at the same time, the text as JSON. The JSON is at most twice as long as the text,
    // because at worst every character is a quotation mark with a backslash before it.
    let requests = (MAX_LETTERS + MAX_BATCHES) * 3 * MAX_MESSAGE_BYTES;
    let answer = 10 * 3 * MAX_MESSAGE_BYTES;
    // Small messages share a slot only if their bodies together are smaller than one of the largest. The rest of a receive
    // may wait for room.
    MAX_HELD_BYTES + (concurrency + MAX_BATCH) * MAX_MESSAGE_BYTES + requests + answer
}

/// The dead letter of a message.
pub fn letter(message: &Message, cause: &Cause) -> DeadLetter {
    let mut attributes = vec![("reason", cause.reason.to_owned()), ("message_id", message.id.clone())];
    attributes.extend(cause.attributes.iter().cloned());
    DeadLetter { body: message.body.clone(), attributes }
}

/// A message with its verdict. The lease lasts until the verdict is carried out.
#[derive(Debug)]
pub struct Settlement {
    /// The message.
    pub message: Arc<Message>,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its lease, which keeps it hidden.
    pub lease: MessageLease,
    /// The span of the work on the message.
    pub span: Span,
}

/// Takes verdicts. Background tasks carry them out.
#[derive(Debug)]
pub struct Settler<Q> {
    calls: Arc<Calls<Q>>,
    tasks: TaskTracker,
}

/// Batch calls to the queue.
type Entries<E> = Batcher<E, Result<(), QueueError>>;

/// Sends an entry in the next batch call and waits for its answer.
async fn answer<E: Send + 'static>(entries: &Entries<E>, entry: E) -> Result<(), QueueError> {
    let unanswered = || Err(QueueError::Unavailable("the batch call ended without an answer".to_owned()));
    entries.call(entry).await.unwrap_or_else(unanswered)
}

/// State that the tasks share.
#[derive(Debug)]
struct Calls<Q> {
    queue: Arc<Q>,
    deletes: Entries<Receipt>,
    /// For messages that were sent anew or buried. Their deletes do not wait for others, because a worker that is
    /// killed before the delete leaves the message twice.
    deletes_at_once: Entries<Receipt>,
    hides: Entries<(Receipt, Duration)>,
    sends: Entries<SentAnew>,
    letters: Semaphore,
    /// No letter is sent before this time, because the dead-letter queue was slow or did not answer.
    no_letters_before: Mutex<Option<Instant>>,
    hidden: HiddenMessages,
    terms: Terms,
    /// Ids of messages that are finished but not deleted yet.
    owed: Mutex<HashSet<String>>,
    held_bytes: Arc<AtomicUsize>,
    finishing: CancellationToken,
    spans: Messages,
    metrics: Metrics,
}

impl<Q: Queue> Settler<Q> {
    /// Starts the background tasks of the calls. At most `max_hidden` messages are hidden at the same time. `longest_retry`
    /// is the longest time from a message's first receive to its last one.
    pub fn start(
        queue: Arc<Q>,
        max_hidden: usize,
        longest_retry: Duration,
        spans: Messages,
        metrics: Metrics,
    ) -> Self {
        let deletes = |linger| {
            let queue = Arc::clone(&queue);
            Batcher::start(MAX_BATCH, Wait::Linger(linger), move |entries: Vec<_>| {
                let queue = Arc::clone(&queue);
                async move { queue.delete(&entries).await }
            })
        };
        let hides = Batcher::start(MAX_BATCH, Wait::Linger(LINGER), {
            let queue = Arc::clone(&queue);
            move |entries: Vec<_>| {
                let queue = Arc::clone(&queue);
                async move { queue.change_visibility(&entries).await }
            }
        });
        let sends = Batcher::start(MAX_BATCH, Wait::Linger(LINGER), {
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
            hidden: HiddenMessages::new(max_hidden),
            terms: Terms::start(Arc::clone(&queue), longest_retry),
            queue,
            owed: Mutex::default(),
            held_bytes: Arc::default(),
            finishing: CancellationToken::new(),
            spans,
            metrics,
        };
        Self { calls: Arc::new(calls), tasks: TaskTracker::new() }
    }

    /// Carries out a verdict in the background.
    pub fn settle(&self, Settlement { message, verdict, lease, span }: Settlement) {
        self.calls.metrics.messages.get_or_create(&VerdictLabel::new(verdict.word())).inc();
        self.carry_out(message, verdict, lease, span);
    }

    /// Deletes a message for which [`Settler::owes_delete`] is true.
    pub fn delete(&self, message: Arc<Message>, lease: MessageLease, span: Span) {
        self.carry_out(message, Verdict::Ack, lease, span);
    }

    fn carry_out(&self, message: Arc<Message>, verdict: Verdict, lease: MessageLease, span: Span) {
        let (calls, held) = (Arc::clone(&self.calls), Held::new(&self.calls.held_bytes, message));
        let counted = Counted::new(&self.calls.metrics.verdicts_waiting);
        let settle = span.in_scope(|| calls.spans.settle(verdict.word()));
        let carried_out = async move { calls.carry_out(&held.message, verdict, lease, counted).await };
        // Both spans end when the verdict is carried out.
        self.tasks.spawn(carried_out.instrument(settle).instrument(span));
    }

    /// Returns a message to the queue, visible at once. If the message has a lease, the lease ends first.
    pub fn give_back(&self, message: Arc<Message>, lease: Option<MessageLease>, span: Span) {
        let calls = Arc::clone(&self.calls);
        let given_back = async move {
            if let Some(lease) = lease {
                lease.end().await;
            }
            if let Err(error) = answer(&calls.hides, (message.receipt.clone(), Duration::ZERO)).await {
                tracing::warn!(
                    message.id,
                    error = %error,
                    "a message could not be returned to the queue; it is delivered again when its visibility timeout ends"
                );
            }
        };
        self.tasks.spawn(given_back.instrument(span));
    }

    /// Whether this worker has already finished the message, and only the delete is missing.
    pub fn owes_delete(&self, id: &str) -> bool {
        self.calls.owed().contains(id)
    }

    /// Number of verdicts that the queue has not taken yet.
    pub fn backlog(&self) -> usize {
        usize::try_from(self.calls.metrics.verdicts_waiting.get()).unwrap_or_default()
    }

    /// Bytes of the bodies of messages whose verdicts wait for the queue.
    pub fn held_bytes(&self) -> usize {
        self.calls.held_bytes.load(Ordering::Relaxed)
    }

    /// Waits until every verdict is carried out.
    pub async fn finish(&self) {
        self.calls.finishing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl<Q: Queue> Calls<Q> {
    /// Carries out one verdict. In the end the message is deleted (after an ack, a dead letter or a new message), or hidden until
    /// its retry.
    async fn carry_out(
        &self,
        message: &Arc<Message>,
        verdict: Verdict,
        lease: MessageLease,
        counted: Counted,
    ) {
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
        // A message whose retention ends soon is sent anew even for a short delay. If the send fails, the message is buried.
        let retention = self.terms.retention();
        let ends = retention.is_some_and(|retention| ends_within(retention, message, delay));
        // Poison that only the redrive policy can move is hidden for any delay: see `Unburied::ForGood`.
        let must_hide = !ends && longest_hiding == Duration::MAX;
        // Other messages are not hidden while the retention is unknown, because the retention may be short.
        let may_hide = !ends && retention.is_some() && delay <= longest_hiding;
        // A message that may be hidden counts against `queue.max_hidden`, unless its delay is zero. Beyond that number, the message is sent anew.
        if !(delay.is_zero() && !ends || must_hide || may_hide && self.hidden.add(delay)) {
            // A failed send may leave a copy in the queue. So for a minute after a failure, only messages whose retention
            // ends soon are sent.
            let sent = match ends || !self.terms.sending_fails() {
                true => self.send_anew(message, &cause).await,
                false => Err(Unsent::ForNow),
            };
            match sent {
                Ok(()) => return self.delete(message, lease, &self.deletes_at_once).await,
                Err(Unsent::ForNow) => delay = delay.min(LONGEST_HIDING),
                Err(Unsent::ForGood) => {}
            }
            if ends && self.bury_overdue(message, &cause).await.is_ok() {
                return self.delete(message, lease, &self.deletes_at_once).await;
            }
        }
        self.hide(message, delay, lease, counted).await;
    }

    /// Hides a message for its delay. SQS counts delays in whole seconds, so the task first waits for the fraction of a
    /// second; this wait takes no slot. If delays were rounded up instead, messages that were refused in the same second
    /// would come back together.
    async fn hide(&self, message: &Message, mut delay: Duration, lease: MessageLease, mut counted: Counted) {
        let odd_part = Duration::from_nanos(delay.subsec_nanos().into());
        if !odd_part.is_zero() {
            drop(counted);
            if self.finishing.run_until_cancelled(tokio::time::sleep(odd_part)).await.is_some() {
                delay -= odd_part;
            }
            counted = Counted::new(&self.metrics.verdicts_waiting);
        }
        // The lease ends first: a later extension would overwrite the delay.
        lease.end().await;
        if let Err(error) = answer(&self.hides, (message.receipt.clone(), delay)).await {
            self.failed(
                "change_visibility",
                message,
                &error,
                "a message could not be hidden until its retry; it is delivered again when its visibility timeout ends",
            );
        }
        drop(counted);
    }

    async fn send_anew(&self, message: &Arc<Message>, cause: &Cause) -> Result<(), Unsent> {
        if !self.terms.may_send() {
            return Err(Unsent::ForGood);
        }
        let entry = SentAnew {
            message: Arc::clone(message),
            refusals: cause.refusals,
            delay: cause.delay.min(self.terms.longest_delay()),
            tenant_id: cause.tenant_id().map(str::to_owned),
        };
        match answer(&self.sends, entry).await {
            Ok(()) => {
                self.metrics.messages_sent_anew.get_or_create(&Reason::new(cause.reason)).inc();
                Ok(())
            }
            Err(error) => {
                let unsent = match &error {
                    QueueError::Denied(_) => {
                        self.terms.sending_was_denied();
                        Unsent::ForGood
                    }
                    // SQS refuses only this message, and stores no copy of it.
                    QueueError::Refused(_) => Unsent::ForGood,
                    QueueError::Gone(_) | QueueError::Missing(_) | QueueError::Unavailable(_) => {
                        self.terms.sending_failed();
                        Unsent::ForNow
                    }
                };
                self.failed(
                    "send_anew",
                    message,
                    &error,
                    "a message that waits for its retry could not be sent anew; the message is hidden, or becomes a dead \
                     letter if its retention ends soon",
                );
                Err(unsent)
            }
        }
    }

    /// Buries a message that is not retried any more, because it reached its maximum age or its retention ends soon.
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
                "a message cannot be delivered, and no dead-letter queue is configured: the message stays in the queue \
                 until the queue's redrive policy moves it; set queue.dead_letter_url to have it moved at once"
            );
            return Err(Unburied::ForGood);
        }
        let letter = letter(message, cause);
        let pausing = || self.letters_pause(None).is_some_and(|until| Instant::now() < until);
        if pausing() {
            return Err(Unburied::ForNow);
        }
        let Ok(turn) = tokio::time::timeout(LETTER_WAIT, self.letters.acquire()).await else {
            self.letters_pause(Some(Instant::now() + LETTERS_PAUSE));
            tracing::warn!(
                message.id,
                retry_in_ms = milliseconds(LETTERS_PAUSE),
                "the dead-letter queue is slow; messages that belong there stay in the source queue meanwhile"
            );
            return Err(Unburied::ForNow);
        };
        let _turn = turn.expect("nobody closes the semaphore");
        // The dead-letter queue may have failed while this letter waited.
        if pausing() {
            return Err(Unburied::ForNow);
        }
        match self.queue.send_dead_letter(&letter).await {
            Ok(()) => {
                self.metrics.dead_letters.get_or_create(&Reason::new(cause.reason)).inc();
                Ok(())
            }
            Err(error) => {
                let (unburied, consequence) = match &error {
                    QueueError::Refused(_) => (
                        Unburied::ForGood,
                        "the dead-letter queue refuses a letter: the message stays in the source queue until its redrive \
                         policy moves it; set MaximumMessageSize of the dead-letter queue to 1 MiB",
                    ),
                    QueueError::Unavailable(_) => {
                        self.letters_pause(Some(Instant::now() + LETTERS_PAUSE));
                        (Unburied::ForNow, LETTER_UNSENT)
                    }
                    QueueError::Gone(_) | QueueError::Denied(_) | QueueError::Missing(_) => {
                        (Unburied::ForNow, LETTER_UNSENT)
                    }
                };
                self.failed("send_dead_letter", message, &error, consequence);
                Err(unburied)
            }
        }
    }

    /// Returns the time before which no letter is sent. If `until` is given, sets that time first.
    fn letters_pause(&self, until: Option<Instant>) -> Option<Instant> {
        // The value is valid after every statement, so the lock is usable after a panic.
        let mut pause = self.no_letters_before.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = until.or(*pause);
        *pause
    }

    /// Deletes a finished message, and keeps its lease until then. If the delete fails for too long, the message is
    /// delivered again, and [`Settler::owes_delete`] recognises it.
    async fn delete(&self, message: &Message, lease: MessageLease, deletes: &Entries<Receipt>) {
        self.owe_delete(&message.id);
        let (begun, mut pause) = (Instant::now(), LINGER);
        while let Err(error) = answer(deletes, message.receipt.clone()).await {
            let again = matches!(error, QueueError::Unavailable(_))
                && begun.elapsed() < DELETE_FOR
                && !self.finishing.is_cancelled();
            if !again {
                let consequence = "a finished message could not be deleted; the queue delivers it again";
                return self.failed("delete", message, &error, consequence);
            }
            self.failed(
                "delete",
                message,
                &error,
                "a finished message could not be deleted yet; the worker tries again",
            );
            self.finishing.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.owed().remove(&message.id);
        drop(lease);
    }

    fn owe_delete(&self, id: &str) {
        let mut owed = self.owed();
        if owed.len() >= MAX_OWED {
            // Forgets an arbitrary id. If its message is delivered again, the worker handles the message again.
            let other = owed.iter().next().cloned();
            other.map(|other| owed.remove(&other));
        }
        owed.insert(id.to_owned());
    }

    fn owed(&self) -> MutexGuard<'_, HashSet<String>> {
        // The set is valid after every statement, so the lock is usable after a panic.
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, call: &'static str, message: &Message, error: &QueueError, consequence: &str) {
        self.metrics.queue_errors.get_or_create(&Call::new(call)).inc();
        trace::fail(&Span::current(), error.kind(), error);
        tracing::warn!(call, message.id, error = %error, "{consequence}");
    }
}

/// Reason why a message was not sent anew.
enum Unsent {
    /// The send failed or was not tried. A later send may succeed.
    ForNow,
    /// SQS refuses this message or denies the call: another attempt would fail as well.
    ForGood,
}

/// Reason why a message was not buried.
enum Unburied {
    /// The dead-letter queue does not take the letter now. It may take it later.
    ForNow,
    /// No dead-letter queue is configured, or it refuses the letter. Only the queue's redrive policy can move the message.
    ForGood,
}

impl Unburied {
    /// Longest delay for which the message is hidden. With `ForGood` there is no limit, because the message must not be sent
    /// anew before its retention ends: the queue's redrive policy counts receives, and a new message starts at zero, so the
    /// policy would never move it.
    fn longest_hiding(&self) -> Duration {
        match self {
            Self::ForNow => LONGEST_HIDING,
            Self::ForGood => Duration::MAX,
        }
    }
}
