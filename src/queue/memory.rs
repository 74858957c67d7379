//! An in-memory queue for tests. It checks receipts strictly, redelivers in tokio's time, and fails calls on request
//! (`faults`).

mod faults;

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::faults::{Faults, Plan};
use super::{
    DeadLetter, MAX_BATCH, MAX_DELAY, MAX_MESSAGE_BYTES, MAX_VISIBILITY, Message, Queue, QueueError, Receipt,
    SentAnew,
};

/// A call that the queue recorded. Messages are named by their bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCall {
    /// `max`.
    Receive(usize),
    /// The messages.
    Delete(Vec<String>),
    /// The messages and their timeouts.
    ChangeVisibility(Vec<(String, Duration)>),
    /// The messages and their delays.
    SendAnew(Vec<(String, Duration)>),
    /// The body of the letter.
    SendDeadLetter(String),
}

/// A method of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueueOperation {
    /// [`Queue::receive`].
    Receive,
    /// [`Queue::delete`].
    Delete,
    /// [`Queue::change_visibility`].
    ChangeVisibility,
    /// [`Queue::send_anew`].
    SendAnew,
    /// [`Queue::send_dead_letter`].
    SendDeadLetter,
    /// [`Queue::retention`].
    Retention,
}

impl Message {
    /// Creates a message that was just received for the first time, for tests without a queue. `id` is also the body.
    pub fn sample(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            receipt: Receipt(format!("{id}#1")),
            body: id.to_owned(),
            attempts: 1,
            refusals: 0,
            trace_header: None,
            received_at: Instant::now(),
            age_when_received: Duration::ZERO,
            kept_when_received: Duration::ZERO,
        }
    }
}

/// In-memory queue. The id of a message is its body; a message that was sent anew gets the id `BODY+1`, `BODY+2` and so on.
#[derive(Debug)]
pub struct MemoryQueue {
    visibility_timeout: Duration,
    retention: Duration,
    has_dead_letters: bool,
    longest_letter: usize,
    may_send: bool,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Stored>,
    /// Id and body of the message of every receipt.
    receipts: HashMap<Receipt, (String, String)>,
    sent_anew: Vec<SentAnew>,
    highest_in_flight: usize,
    dead_letters: Vec<DeadLetter>,
    calls: Vec<(Instant, QueueCall)>,
    faults: Faults,
}

#[derive(Debug)]
struct Stored {
    id: String,
    body: String,
    receive_count: u32,
    sent_at: Instant,
    /// First receive of this message or of its predecessors: see [`Message`].
    first_received: Option<Instant>,
    /// Number of receives of the predecessors.
    attempts: u32,
    refusals: u32,
    trace_header: Option<String>,
    visible_at: Instant,
    /// Receipt and time of the last receive.
    receipt: Option<(Receipt, Instant)>,
}

impl MemoryQueue {
    /// Creates an empty queue with a dead-letter queue. A receive hides messages for `visibility_timeout`.
    pub fn new(visibility_timeout: Duration) -> Self {
        Self {
            visibility_timeout,
            retention: Duration::from_secs(4 * 86_400),
            has_dead_letters: true,
            longest_letter: MAX_MESSAGE_BYTES,
            may_send: true,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Sets the retention.
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Denies sends to the queue.
    pub fn without_sending(self) -> Self {
        Self { may_send: false, ..self }
    }

    /// Makes the dead-letter queue refuse texts of more than `longest_letter` bytes.
    pub fn with_letters_up_to(self, longest_letter: usize) -> Self {
        Self { longest_letter, ..self }
    }

    /// Removes the dead-letter queue.
    pub fn without_dead_letters(self) -> Self {
        Self { has_dead_letters: false, ..self }
    }

    /// Puts a message into the queue. The body is also the id, so the queue must not already have a message with this body.
    pub fn send(&self, body: &str) {
        self.send_traced(body, None);
    }

    /// Puts a message with a trace header into the queue.
    pub fn send_traced(&self, body: &str, trace_header: Option<&str>) {
        let mut state = self.lock();
        assert!(state.find(body).is_none(), "the test sends {body:?} twice");
        let now = Instant::now();
        state.messages.push(Stored {
            id: body.to_owned(),
            body: body.to_owned(),
            receive_count: 0,
            sent_at: now,
            first_received: None,
            attempts: 0,
            refusals: 0,
            trace_header: trace_header.map(str::to_owned),
            visible_at: now,
            receipt: None,
        });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Puts several messages into the queue, in order.
    pub fn send_all<B: AsRef<str>>(&self, bodies: impl IntoIterator<Item = B>) {
        bodies.into_iter().for_each(|body| self.send(body.as_ref()));
    }

    /// Removes a message without a call of the port.
    pub fn remove(&self, body: &str) {
        self.lock().messages.retain(|message| message.body != body);
    }

    /// Every call so far, with the time at which it took effect.
    pub fn calls(&self) -> Vec<(Instant, QueueCall)> {
        self.lock().calls.clone()
    }

    /// Bodies of the messages that were not deleted.
    pub fn left(&self) -> Vec<String> {
        self.lock().messages.iter().map(|message| message.body.clone()).collect()
    }

    /// Time until the message can be received; zero if it can be received now.
    pub fn hidden_for(&self, body: &str) -> Duration {
        let state = self.lock();
        let message = state.find(body).expect("the message is in the queue");
        message.visible_at.saturating_duration_since(Instant::now())
    }

    /// Number of messages in flight: received, not deleted, and still hidden. SQS limits this number.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }

    /// Highest number of messages in flight so far.
    pub fn highest_in_flight(&self) -> usize {
        self.lock().highest_in_flight
    }

    /// Messages sent anew so far.
    pub fn sent_anew(&self) -> Vec<SentAnew> {
        self.lock().sent_anew.clone()
    }

    /// Letters sent to the dead-letter queue so far.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.lock().dead_letters.clone()
    }

    /// Waits until the condition holds, and checks it after each call. Panics after a day of tokio's time.
    pub async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if condition(self) {
                    return;
                }
                changed.await;
            }
        };
        let day = Duration::from_secs(24 * 3600);
        tokio::time::timeout(day, wait).await.expect("the condition holds within a day");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and returns its faults.
    fn enter(&self, operation: QueueOperation) -> Plan {
        self.lock().faults.next(operation)
    }

    fn record(&self, call: QueueCall) {
        self.lock().calls.push((Instant::now(), call));
        self.changed.notify_waiters();
    }

    /// Makes a batch call: `apply` answers entry by entry, unless a fault comes first.
    async fn batch<E>(
        &self,
        operation: QueueOperation,
        entries: &[E],
        receipt: impl Fn(&E) -> &Receipt,
        call: impl FnOnce(Vec<String>) -> QueueCall,
        mut apply: impl FnMut(&mut State, &E) -> Result<(), QueueError>,
    ) -> Vec<Result<(), QueueError>> {
        assert!((1..=MAX_BATCH).contains(&entries.len()), "{} entries", entries.len());
        let Plan { time, result, answer } = self.enter(operation);
        travel(time).await;
        let results = {
            let mut state = self.lock();
            let body = |entry| {
                let (_, body) = state.receipts.get(receipt(entry)).expect("receipts come from receives");
                body.clone()
            };
            let bodies: Vec<_> = entries.iter().map(body).collect();
            state.calls.push((Instant::now(), call(bodies.clone())));
            let mut one = |(entry, body): (&E, String)| {
                result.clone()?;
                state.faults.entry(operation, &body)?;
                let applied = apply(&mut state, entry);
                answer.clone().and(applied)
            };
            entries.iter().zip(bodies).map(&mut one).collect()
        };
        self.changed.notify_waiters();
        results
    }

    fn take(&self, max: usize) -> Vec<Message> {
        let mut state = self.lock();
        let (now, timeout) = (Instant::now(), self.visibility_timeout);
        state.messages.retain(|message| now - message.sent_at < self.retention);
        let mut taken = Vec::new();
        for message in state.messages.iter_mut().filter(|message| message.visible_at <= now).take(max) {
            message.receive_count += 1;
            message.visible_at = now + timeout;
            let receipt = Receipt(format!("{}#{}", message.id, message.receive_count));
            message.receipt = Some((receipt.clone(), now));
            let first_received = *message.first_received.get_or_insert(now);
            taken.push(Message {
                id: message.id.clone(),
                receipt,
                body: message.body.clone(),
                attempts: message.attempts + message.receive_count,
                refusals: message.refusals,
                trace_header: message.trace_header.clone(),
                received_at: now,
                age_when_received: now - first_received,
                kept_when_received: now - message.sent_at,
            });
        }
        for message in &taken {
            state.receipts.insert(message.receipt.clone(), (message.id.clone(), message.body.clone()));
        }
        state.highest_in_flight = state.highest_in_flight.max(state.in_flight());
        taken
    }
}

async fn travel(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

impl State {
    fn in_flight(&self) -> usize {
        let now = Instant::now();
        let received = |message: &&Stored| message.receipt.is_some() && message.visible_at > now;
        self.messages.iter().filter(received).count()
    }

    fn find(&self, body: &str) -> Option<&Stored> {
        self.messages.iter().find(|message| message.body == body)
    }

    /// Index of the message of a receipt, or `None` if the message was deleted. Errors if the receipt is not the latest one.
    fn held(&self, receipt: &Receipt) -> Result<Option<usize>, QueueError> {
        let (id, _) = self.receipts.get(receipt).expect("receipts come from receives");
        let Some(at) = self.messages.iter().position(|message| message.id == *id) else {
            return Ok(None);
        };
        match &self.messages[at].receipt {
            Some((last, _)) if last == receipt => Ok(Some(at)),
            _ => Err(QueueError::Gone(format!("{} is the receipt of an earlier receive", receipt.0))),
        }
    }
}

impl Queue for MemoryQueue {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        assert!((1..=MAX_BATCH).contains(&max), "asked for {max} messages");
        let deadline = Instant::now() + wait;
        self.record(QueueCall::Receive(max));
        let Plan { time, result, .. } = self.enter(QueueOperation::Receive);
        result?;
        loop {
            let changed = self.changed.notified();
            let taken = self.take(max);
            if !taken.is_empty() || Instant::now() >= deadline {
                self.changed.notify_waiters();
                travel(time).await;
                return Ok(taken);
            }
            let next = self.lock().messages.iter().map(|message| message.visible_at).min();
            let wake = next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let apply = |state: &mut State, receipt: &Receipt| {
            if let Some(at) = state.held(receipt)? {
                state.messages.remove(at);
            }
            Ok(())
        };
        self.batch(QueueOperation::Delete, receipts, |receipt| receipt, QueueCall::Delete, apply).await
    }

    async fn change_visibility(&self, entries: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let call = |bodies: Vec<String>| {
            let timeouts = entries.iter().map(|(_, timeout)| *timeout);
            QueueCall::ChangeVisibility(bodies.into_iter().zip(timeouts).collect())
        };
        let apply = |state: &mut State, (receipt, timeout): &(Receipt, Duration)| {
            let now = Instant::now();
            let at =
                state.held(receipt)?.ok_or_else(|| QueueError::Gone("the message was deleted".into()))?;
            let message = &mut state.messages[at];
            if message.visible_at <= now {
                return Err(QueueError::Gone("the message is not in flight".into()));
            }
            let received = message.receipt.as_ref().map_or(now, |(_, received)| *received);
            if now + *timeout > received + MAX_VISIBILITY {
                return Err(QueueError::Unavailable("InvalidParameterValue: beyond 12 hours in all".into()));
            }
            message.visible_at = now + *timeout;
            Ok(())
        };
        self.batch(QueueOperation::ChangeVisibility, entries, |(receipt, _)| receipt, call, apply).await
    }

    async fn send_anew(&self, entries: &[SentAnew]) -> Vec<Result<(), QueueError>> {
        let call = |bodies: Vec<String>| {
            QueueCall::SendAnew(bodies.into_iter().zip(entries.iter().map(|entry| entry.delay)).collect())
        };
        let apply = |state: &mut State, entry: &SentAnew| {
            let SentAnew { message, refusals, delay, .. } = entry;
            assert!(*delay <= MAX_DELAY, "{delay:?} is more than SQS's DelaySeconds may be");
            if !self.may_send {
                return Err(QueueError::Denied("sqs:SendMessage".into()));
            }
            if message.body.len() >= MAX_MESSAGE_BYTES {
                return Err(QueueError::Refused("no room for attributes".into()));
            }
            let now = Instant::now();
            state.sent_anew.push(entry.clone());
            let number = state.sent_anew.iter().filter(|sent| sent.message.body == message.body).count();
            state.messages.push(Stored {
                id: format!("{}+{number}", message.body),
                body: message.body.clone(),
                receive_count: 0,
                sent_at: now,
                first_received: Some(now - message.age()),
                attempts: message.attempts,
                refusals: *refusals,
                trace_header: message.trace_header.clone(),
                visible_at: now + *delay,
                receipt: None,
            });
            Ok(())
        };
        self.batch(QueueOperation::SendAnew, entries, |entry| &entry.message.receipt, call, apply).await
    }

    async fn probe_sending(&self) -> Result<(), QueueError> {
        if self.may_send { Ok(()) } else { Err(QueueError::Denied("sqs:SendMessage".into())) }
    }

    async fn retention(&self) -> Result<Duration, QueueError> {
        let Plan { time, result, .. } = self.enter(QueueOperation::Retention);
        travel(time).await;
        result.map(|()| self.retention)
    }

    fn has_dead_letters(&self) -> bool {
        self.has_dead_letters
    }

    async fn send_dead_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        assert!(self.has_dead_letters, "there is no dead-letter queue to send to");
        let Plan { time, result, .. } = self.enter(QueueOperation::SendDeadLetter);
        travel(time).await;
        let answer = match letter.body.len() > self.longest_letter {
            true => result.and(Err(QueueError::Refused("longer than MaximumMessageSize".into()))),
            false => result,
        };
        if answer.is_ok() {
            self.lock().dead_letters.push(letter.clone());
        }
        self.record(QueueCall::SendDeadLetter(letter.body.clone()));
        answer
    }
}

#[cfg(test)]
mod tests;
