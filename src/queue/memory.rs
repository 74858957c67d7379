//! A queue in memory, for tests: strict about receipts, redelivering in tokio's time, failing where it is told to.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    DeadLetter, MAX_BATCH, MAX_DELAY, MAX_MESSAGE_BYTES, MAX_VISIBILITY, Message, Queue, QueueError, Receipt,
    SentAnew,
};

/// What a test sees of a call, messages by their bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCall {
    /// With its `max`.
    Receive(usize),
    /// The messages that were to go.
    Delete(Vec<String>),
    /// The messages that were to be hidden, and for how long.
    ChangeVisibility(Vec<(String, Duration)>),
    /// The messages that were to be sent anew, and their delays.
    SendAnew(Vec<(String, Duration)>),
    /// The letter's body.
    SendDeadLetter(String),
}

/// Names a method of the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
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
    /// A message that was just received for the first time, for those who need one without a queue; its id is its body too.
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

/// A queue in memory. A message's first id is its body; one that is sent anew gets `BODY+1`, `BODY+2` and so on.
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
    /// Every receipt ever given, and id and body of the message it was for.
    receipts: HashMap<Receipt, (String, String)>,
    /// Messages sent anew so far.
    sent_anew: Vec<SentAnew>,
    highest_in_flight: usize,
    dead_letters: Vec<DeadLetter>,
    calls: Vec<(Instant, QueueCall)>,
    counts: HashMap<Operation, usize>,
    failing_calls: Vec<(Operation, RangeInclusive<usize>)>,
    lost_answers: Vec<(Operation, RangeInclusive<usize>)>,
    slow_calls: Vec<(Operation, RangeInclusive<usize>, Duration)>,
    failing_entries: Vec<(Operation, String, usize)>,
}

#[derive(Debug)]
struct Stored {
    id: String,
    body: String,
    receive_count: u32,
    sent_at: Instant,
    /// Of this message or of those that it was sent anew for.
    first_received: Option<Instant>,
    /// Of those that it was sent anew for.
    attempts: u32,
    refusals: u32,
    trace_header: Option<String>,
    visible_at: Instant,
    /// Of the last receive, and when that was.
    receipt: Option<(Receipt, Instant)>,
}

impl MemoryQueue {
    /// An empty queue with a dead-letter queue; received messages stay hidden for `visibility_timeout`.
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

    /// Keeps messages for that long.
    pub fn with_retention(self, retention: Duration) -> Self {
        Self { retention, ..self }
    }

    /// Takes the permission to send to it away.
    pub fn without_sending(self) -> Self {
        Self { may_send: false, ..self }
    }

    /// Has its dead-letter queue refuse texts that are longer.
    pub fn with_letters_up_to(self, longest_letter: usize) -> Self {
        Self { longest_letter, ..self }
    }

    /// Takes its dead-letter queue away.
    pub fn without_dead_letters(self) -> Self {
        Self { has_dead_letters: false, ..self }
    }

    /// Puts a message in; its body is its id too, so it must be new.
    pub fn send(&self, body: &str) {
        self.send_traced(body, None);
    }

    /// Puts a message in that carries a trace header.
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

    /// Puts several messages in, in order.
    pub fn send_all<'a>(&self, bodies: impl IntoIterator<Item = &'a str>) {
        bodies.into_iter().for_each(|body| self.send(body));
    }

    /// Fails those calls of an operation whole, counted from 1.
    pub fn fail_calls(&self, operation: Operation, calls: RangeInclusive<usize>) {
        self.lock().failing_calls.push((operation, calls));
    }

    /// Loses the answers to those batch calls, which take effect.
    pub fn lose_answers(&self, operation: Operation, calls: RangeInclusive<usize>) {
        self.lock().lost_answers.push((operation, calls));
    }

    /// Makes those calls take that long: a receive's answer travels once messages were taken, the other calls take
    /// effect only when they answer.
    pub fn slow_calls(&self, operation: Operation, calls: RangeInclusive<usize>, time: Duration) {
        self.lock().slow_calls.push((operation, calls, time));
    }

    /// Takes a message away behind everybody's back.
    pub fn remove(&self, body: &str) {
        self.lock().messages.retain(|message| message.body != body);
    }

    /// Fails the entry of one message the next `times` times, while the call's other entries go well.
    pub fn fail_entry(&self, operation: Operation, body: &str, times: usize) {
        self.lock().failing_entries.push((operation, body.to_owned(), times));
    }

    /// Every call so far and when it took effect.
    pub fn calls(&self) -> Vec<(Instant, QueueCall)> {
        self.lock().calls.clone()
    }

    /// Bodies of the messages that were not deleted.
    pub fn left(&self) -> Vec<String> {
        self.lock().messages.iter().map(|message| message.body.clone()).collect()
    }

    /// How long until the message can be received; zero if it can be now.
    pub fn hidden_for(&self, body: &str) -> Duration {
        let state = self.lock();
        let message = state.find(body).expect("the test asks for a message that is there");
        message.visible_at.saturating_duration_since(Instant::now())
    }

    /// Messages that were received and neither deleted nor given out of hand: SQS's quota counts them.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight()
    }

    /// The most that there were at once.
    pub fn highest_in_flight(&self) -> usize {
        self.lock().highest_in_flight
    }

    /// What was sent anew so far.
    pub fn sent_anew(&self) -> Vec<SentAnew> {
        self.lock().sent_anew.clone()
    }

    /// What was sent to the dead-letter queue.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.lock().dead_letters.clone()
    }

    /// Waits until the condition holds, asking after each call; gives up after a day of tokio's time.
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
        tokio::time::timeout(day, wait).await.expect("what the test waits for happens within a day");
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call; tells how long it takes and whether it fails whole.
    fn enter(&self, operation: Operation) -> (Duration, Result<(), QueueError>) {
        let mut state = self.lock();
        let count = state.counts.entry(operation).or_default();
        *count += 1;
        let count = *count;
        let slow =
            state.slow_calls.iter().find(|(which, calls, _)| *which == operation && calls.contains(&count));
        let time = slow.map_or(Duration::ZERO, |(_, _, time)| *time);
        let fails =
            state.failing_calls.iter().any(|(which, calls)| *which == operation && calls.contains(&count));
        let result =
            if fails { Err(QueueError::Unavailable("this call was told to fail".into())) } else { Ok(()) };
        (time, result)
    }

    fn record(&self, call: QueueCall) {
        self.lock().calls.push((Instant::now(), call));
        self.changed.notify_waiters();
    }

    /// Does a batch call: as a whole, then entry by entry.
    async fn batch<E>(
        &self,
        operation: Operation,
        entries: &[E],
        receipt: impl Fn(&E) -> &Receipt,
        call: impl FnOnce(Vec<String>) -> QueueCall,
        mut apply: impl FnMut(&mut State, &E) -> Result<(), QueueError>,
    ) -> Vec<Result<(), QueueError>> {
        assert!((1..=MAX_BATCH).contains(&entries.len()), "{} entries", entries.len());
        let (time, entered) = self.enter(operation);
        travel(time).await;
        let results = {
            let mut state = self.lock();
            let body = |state: &State, entry| {
                let (_, body) = state.receipts.get(receipt(entry)).expect("receipts come from receives");
                body.clone()
            };
            let bodies = entries.iter().map(|entry| body(&state, entry)).collect();
            let call_number = state.counts[&operation];
            let lost = state
                .lost_answers
                .iter()
                .any(|(which, calls)| *which == operation && calls.contains(&call_number));
            state.calls.push((Instant::now(), call(bodies)));
            let mut one = |entry| {
                entered.clone()?;
                let body = body(&state, entry);
                state.entry_fails(operation, &body)?;
                let answer = apply(&mut state, entry);
                if lost {
                    Err(QueueError::Unavailable("this answer was told to be lost".into()))
                } else {
                    answer
                }
            };
            entries.iter().map(&mut one).collect()
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

    fn entry_fails(&mut self, operation: Operation, body: &str) -> Result<(), QueueError> {
        let fault = self
            .failing_entries
            .iter_mut()
            .find(|(which, whose, times)| *which == operation && whose == body && *times > 0);
        match fault {
            None => Ok(()),
            Some((_, _, times)) => {
                *times -= 1;
                Err(QueueError::Unavailable("this entry was told to fail".into()))
            }
        }
    }

    /// Where the message of this receipt lies; `None` if it was deleted.
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
        let (time, entered) = self.enter(Operation::Receive);
        entered?;
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
        self.batch(Operation::Delete, receipts, |receipt| receipt, QueueCall::Delete, apply).await
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
        self.batch(Operation::ChangeVisibility, entries, |(receipt, _)| receipt, call, apply).await
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
        self.batch(Operation::SendAnew, entries, |entry| &entry.message.receipt, call, apply).await
    }

    async fn probe_sending(&self) -> Result<(), QueueError> {
        if self.may_send { Ok(()) } else { Err(QueueError::Denied("sqs:SendMessage".into())) }
    }

    async fn retention(&self) -> Result<Duration, QueueError> {
        let (time, entered) = self.enter(Operation::Retention);
        travel(time).await;
        entered.map(|()| self.retention)
    }

    fn has_dead_letters(&self) -> bool {
        self.has_dead_letters
    }

    async fn send_dead_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        assert!(self.has_dead_letters, "there is no dead-letter queue to send to");
        let (time, entered) = self.enter(Operation::SendDeadLetter);
        travel(time).await;
        let answer = match letter.body.len() > self.longest_letter {
            true => entered.and(Err(QueueError::Refused("longer than MaximumMessageSize".into()))),
            false => entered,
        };
        if answer.is_ok() {
            self.lock().dead_letters.push(letter.clone());
        }
        self.record(QueueCall::SendDeadLetter(letter.body.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const WAIT: Duration = Duration::from_secs(20);
    const SECOND: Duration = Duration::from_secs(1);

    async fn receive(queue: &MemoryQueue) -> Vec<Message> {
        queue.receive(MAX_BATCH, WAIT).await.expect("this receive goes well")
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_nobody_deletes_comes_again_with_a_new_receipt() {
        let queue = MemoryQueue::new(TIMEOUT);
        queue.send("m");
        let start = Instant::now();
        let first = receive(&queue).await.remove(0);
        // The first poll ends empty after its 20 s, the second gets the message when its 30 s are over.
        assert_eq!(receive(&queue).await, []);
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        let second = receive(&queue).await.remove(0);
        assert_eq!(start.elapsed(), TIMEOUT);
        assert_eq!((first.attempts, second.attempts), (1, 2));
        assert_eq!((first.age(), second.age(), second.kept_for()), (TIMEOUT, TIMEOUT, TIMEOUT));
        assert_ne!(first.receipt, second.receipt);

        let delete = |receipt: &Receipt| std::slice::from_ref(receipt).to_vec();
        assert!(matches!(queue.delete(&delete(&first.receipt)).await[0], Err(QueueError::Gone(_))));
        let late = queue.change_visibility(&[(first.receipt, TIMEOUT)]).await;
        assert!(matches!(late[0], Err(QueueError::Gone(_))));
        assert_eq!(queue.left(), ["m"]);
        for _ in 0..2 {
            assert!(queue.delete(&delete(&second.receipt)).await[0].is_ok(), "deleting twice is no error");
        }
        assert_eq!(queue.left(), [""; 0]);
        let deleted = queue.change_visibility(&[(second.receipt, TIMEOUT)]).await;
        assert!(matches!(deleted[0], Err(QueueError::Gone(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn visibility_is_extended_given_back_and_limited() {
        let queue = MemoryQueue::new(TIMEOUT);
        queue.send("m");
        let message = receive(&queue).await.remove(0);
        tokio::time::advance(TIMEOUT / 2).await;
        assert!(queue.change_visibility(&[(message.receipt.clone(), TIMEOUT)]).await[0].is_ok());
        assert_eq!(queue.hidden_for("m"), TIMEOUT);
        let too_long = queue.change_visibility(&[(message.receipt.clone(), MAX_VISIBILITY)]).await;
        assert!(matches!(too_long[0], Err(QueueError::Unavailable(_))), "12 hours count from the receive");
        assert!(queue.change_visibility(&[(message.receipt.clone(), Duration::ZERO)]).await[0].is_ok());
        assert_eq!(queue.hidden_for("m"), Duration::ZERO);
        let not_in_flight = queue.change_visibility(&[(message.receipt, TIMEOUT)]).await;
        assert!(matches!(not_in_flight[0], Err(QueueError::Gone(_))));
        assert_eq!(receive(&queue).await[0].attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_waits_for_what_is_sent_and_takes_no_more_than_asked() {
        let queue = MemoryQueue::new(TIMEOUT);
        let start = Instant::now();
        let (received, ()) = tokio::join!(receive(&queue), async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            queue.send("m");
        });
        assert_eq!((received.len(), start.elapsed()), (1, Duration::from_secs(7)));
        queue.send_all(["a", "b", "c"]);
        assert_eq!(queue.receive(2, WAIT).await.expect("goes well").len(), 2);
        assert_eq!(receive(&queue).await.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_sent_anew_is_another_that_is_as_old() {
        let queue = MemoryQueue::new(TIMEOUT);
        queue.send_traced("m", Some("Root=1"));
        let begin = Instant::now();
        tokio::time::advance(TIMEOUT).await;
        let first = Arc::new(receive(&queue).await.remove(0));
        tokio::time::advance(TIMEOUT / 3).await;
        assert_eq!(queue.in_flight(), 1);
        let delay = Duration::from_secs(100);
        let tenant_id = Some("acme".into());
        let entry = SentAnew { message: Arc::clone(&first), refusals: 2, delay, tenant_id };
        assert!(queue.send_anew(&[entry]).await[0].is_ok());
        assert_eq!((queue.left(), queue.in_flight()), (vec!["m".to_owned(), "m".to_owned()], 1));
        assert!(queue.delete(std::slice::from_ref(&first.receipt)).await[0].is_ok());
        assert_eq!((queue.left(), queue.in_flight()), (vec!["m".to_owned()], 0), "delayed, not in flight");
        while begin.elapsed() < TIMEOUT * 4 / 3 + delay {
            assert_eq!(queue.in_flight(), 0);
            assert!(queue.receive(1, SECOND).await.expect("goes well").len() <= 1);
        }
        tokio::time::advance(TIMEOUT).await;
        let second = receive(&queue).await.remove(0);
        assert_eq!((second.id.as_str(), second.body.as_str()), ("m+1", "m"));
        assert_eq!(second.attempts, 3, "one of the first, and two of its own");
        assert_eq!(second.trace_header.as_deref(), Some("Root=1"));
        assert_eq!(second.age() - second.kept_for(), TIMEOUT / 3);
        assert_eq!(queue.highest_in_flight(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_the_retention_is_gone() {
        let queue = MemoryQueue::new(TIMEOUT).with_retention(TIMEOUT * 3);
        queue.send("m");
        for left in [1, 1, 1, 0] {
            assert_eq!(queue.receive(1, Duration::ZERO).await.expect("goes well").len(), left);
            tokio::time::advance(TIMEOUT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_permission_nothing_is_sent() {
        let queue = MemoryQueue::new(TIMEOUT).without_sending();
        queue.send("m");
        assert!(matches!(queue.probe_sending().await, Err(QueueError::Denied(_))));
        let message = Arc::new(receive(&queue).await.remove(0));
        let entry = SentAnew { message, refusals: 0, delay: SECOND, tenant_id: None };
        assert!(matches!(queue.send_anew(&[entry]).await[0], Err(QueueError::Denied(_))));
        assert_eq!(queue.left(), ["m"]);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_and_entries_fail_as_told() {
        let queue = MemoryQueue::new(TIMEOUT);
        queue.fail_calls(Operation::Receive, 1..=2);
        queue.fail_entry(Operation::Delete, "b", 1);
        queue.send_all(["a", "b"]);
        for _ in 0..2 {
            assert!(queue.receive(1, WAIT).await.is_err());
        }
        let receipts: Vec<_> = receive(&queue).await.into_iter().map(|message| message.receipt).collect();
        let results = queue.delete(&receipts).await;
        assert!(results[0].is_ok() && matches!(results[1], Err(QueueError::Unavailable(_))), "{results:?}");
        assert_eq!(queue.left(), ["b"]);
        assert!(queue.delete(&receipts).await.iter().all(Result::is_ok));
        let letter = DeadLetter { body: "a".into(), attributes: vec![("reason", "test".into())] };
        queue.send_dead_letter(&letter).await.expect("goes well");
        assert_eq!(queue.dead_letters(), [letter]);
    }
}
