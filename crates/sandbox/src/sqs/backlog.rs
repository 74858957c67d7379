//! The messages of one queue: which are visible, in flight or expired. The time is an argument.
//!
//! Every operation takes a few tree operations, however many messages the queue has.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::message::Message;

/// Quota of messages in flight, unless a test sets another (SQS: "about 120,000").
const MAX_IN_FLIGHT: usize = 120_000;
/// Longest time that one receive may hide a message, including extensions.
pub(crate) const MAX_VISIBILITY: Duration = Duration::from_secs(43_200);

#[derive(Debug)]
pub(crate) struct Backlog {
    key: u64,
    next: u64,
    entries: HashMap<u64, Entry>,
    ready: BTreeSet<(Instant, u64)>,
    delayed: BTreeSet<(Instant, u64)>,
    in_flight: BTreeSet<(Instant, u64)>,
    ages: BTreeSet<(Instant, u64)>,
    quota: usize,
    most_in_flight: usize,
    expired: u64,
}

/// A message, with the records of the queues that it was in.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub(crate) message: Arc<Message>,
    /// Number of receives in all queues: `ApproximateReceiveCount`.
    pub(crate) receives: u32,
    /// Time of the first receive, in milliseconds since 1970.
    pub(crate) first_received_millis: Option<i64>,
    /// ARN of the queue that moved the message to its dead-letter queue.
    pub(crate) dead_letter_source: Option<String>,
}

impl Tracked {
    /// Creates a message that has not been received.
    pub(crate) fn new(message: Message) -> Self {
        Self {
            message: Arc::new(message),
            receives: 0,
            first_received_millis: None,
            dead_letter_source: None,
        }
    }
}

#[derive(Debug)]
struct Entry {
    tracked: Tracked,
    state: MessageState,
    received_at: Instant,
    generation: u32,
    receives_here: u32,
}

#[derive(Debug, Clone, Copy)]
enum MessageState {
    Ready(Instant),
    Delayed(Instant),
    InFlight(Instant),
}

#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Messages for the receiver, with their new handles.
    pub(crate) received: Vec<(Tracked, String)>,
    /// Messages that were received too often. They have left this queue, for the dead-letter queue.
    pub(crate) dead: Vec<Tracked>,
    /// The quota of messages in flight is reached, so nothing could be received.
    pub(crate) over_limit: bool,
    /// A received message becomes visible again before all messages that were in flight already. Long polls must then
    /// shorten their wait.
    pub(crate) earlier_timer: bool,
}

/// Counts of a queue's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCounts {
    /// Messages that the next receive can return: `ApproximateNumberOfMessages`.
    pub visible: usize,
    /// Messages that were received and are hidden: `ApproximateNumberOfMessagesNotVisible`.
    pub in_flight: usize,
    /// Messages whose delay has not passed: `ApproximateNumberOfMessagesDelayed`.
    pub delayed: usize,
    /// Largest number of messages that were in flight at the same time.
    pub most_in_flight: usize,
    /// Messages that the retention period deleted.
    pub expired: u64,
}

/// Reason why a message's visibility was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotChanged {
    /// The queue never returned this handle.
    BadHandle,
    /// The message was deleted, expired or moved.
    Gone,
    /// The message is visible, or in flight with a later handle.
    NotInFlight,
    /// The total time since the receive would exceed [`MAX_VISIBILITY`].
    TooLong,
}

impl Backlog {
    /// Creates an empty backlog. `key` makes its handles different from other queues'.
    pub(crate) fn new(key: u64) -> Self {
        Self {
            key,
            next: 0,
            entries: HashMap::new(),
            ready: BTreeSet::new(),
            delayed: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            ages: BTreeSet::new(),
            quota: MAX_IN_FLIGHT,
            most_in_flight: 0,
            expired: 0,
        }
    }

    /// Sets the quota of messages in flight. Messages beyond it stay in flight.
    pub(crate) fn set_quota(&mut self, messages: usize) {
        self.quota = messages;
    }

    /// Returns whether the quota is reached, so that no message can be received.
    pub(crate) fn is_at_quota(&self) -> bool {
        self.in_flight.len() >= self.quota
    }

    /// Adds a message that becomes visible after `delay`.
    pub(crate) fn push(&mut self, now: Instant, tracked: Tracked, delay: Duration) {
        let number = self.next;
        self.next += 1;
        self.ages.insert((tracked.message.sent_at, number));
        let state =
            if delay.is_zero() { MessageState::Ready(now) } else { MessageState::Delayed(now + delay) };
        let entry = Entry { tracked, state, received_at: now, generation: 0, receives_here: 0 };
        self.entries.insert(number, entry);
        self.index(state, number, true);
    }

    /// Deletes messages older than `retention`, and makes messages visible whose time has come.
    pub(crate) fn settle(&mut self, now: Instant, retention: Duration) {
        while let Some(&(sent, number)) = self.ages.first()
            && now.saturating_duration_since(sent) >= retention
        {
            self.remove(number);
            self.expired += 1;
        }
        for due in [&self.delayed, &self.in_flight].map(|timers| first_due(timers, now)).concat() {
            self.set_state(due.1, MessageState::Ready(due.0));
        }
    }

    /// Receives up to `max` visible messages, those visible for longest first, and hides them for `visibility`.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        max: usize,
        visibility: Duration,
        max_receives: Option<u32>,
        now_millis: i64,
    ) -> Taken {
        let timer_before = self.in_flight.first().copied();
        let mut taken = Taken::default();
        let mut again = Vec::new();
        while taken.received.len() < max
            && let Some(&(_, number)) = self.ready.first()
        {
            if self.is_at_quota() {
                taken.over_limit = taken.received.is_empty();
                break;
            }
            let entry = self.entries.get_mut(&number).expect("indexed messages exist");
            if max_receives.is_some_and(|max| entry.receives_here >= max) {
                taken.dead.extend(self.remove(number));
                continue;
            }
            entry.receives_here += 1;
            entry.generation += 1;
            entry.received_at = now;
            entry.tracked.receives += 1;
            entry.tracked.first_received_millis.get_or_insert(now_millis);
            let (tracked, generation) = (entry.tracked.clone(), entry.generation);
            taken.received.push((tracked, self.handle(number, generation)));
            self.set_state(number, MessageState::InFlight(now + visibility));
            again.push(number);
        }
        self.most_in_flight = self.most_in_flight.max(self.in_flight.len());
        if visibility.is_zero() {
            for number in again {
                self.set_state(number, MessageState::Ready(now));
            }
        }
        taken.earlier_timer = match (timer_before, self.in_flight.first()) {
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after.0 < before.0,
            (_, None) => false,
        };
        taken
    }

    /// Deletes a message by its latest handle. Returns `false` if the queue never returned the handle. For an older handle,
    /// or a handle of a message that is gone, returns `true` and deletes nothing.
    pub(crate) fn delete(&mut self, handle: &str) -> bool {
        let Some((number, generation)) = self.read_handle(handle) else { return false };
        if self.entries.get(&number).is_some_and(|entry| entry.generation == generation) {
            self.remove(number);
        }
        true
    }

    /// Makes a message in flight visible after `visibility`.
    pub(crate) fn change_visibility(
        &mut self,
        now: Instant,
        handle: &str,
        visibility: Duration,
    ) -> Result<(), NotChanged> {
        let (number, generation) = self.read_handle(handle).ok_or(NotChanged::BadHandle)?;
        let entry = self.entries.get(&number).ok_or(NotChanged::Gone)?;
        if entry.generation != generation || !matches!(entry.state, MessageState::InFlight(_)) {
            return Err(NotChanged::NotInFlight);
        }
        if now + visibility > entry.received_at + MAX_VISIBILITY {
            return Err(NotChanged::TooLong);
        }
        let state = if visibility.is_zero() {
            MessageState::Ready(now)
        } else {
            MessageState::InFlight(now + visibility)
        };
        self.set_state(number, state);
        Ok(())
    }

    /// Time at which the next hidden message becomes visible.
    pub(crate) fn next_visible(&self) -> Option<Instant> {
        let firsts = [self.delayed.first(), self.in_flight.first()];
        firsts.into_iter().flatten().map(|&(at, _)| at).min()
    }

    pub(crate) fn counts(&self) -> QueueCounts {
        QueueCounts {
            visible: self.ready.len(),
            in_flight: self.in_flight.len(),
            delayed: self.delayed.len(),
            most_in_flight: self.most_in_flight,
            expired: self.expired,
        }
    }

    fn remove(&mut self, number: u64) -> Option<Tracked> {
        let entry = self.entries.remove(&number)?;
        self.index(entry.state, number, false);
        self.ages.remove(&(entry.tracked.message.sent_at, number));
        Some(entry.tracked)
    }

    fn set_state(&mut self, number: u64, state: MessageState) {
        let entry = self.entries.get_mut(&number).expect("indexed messages exist");
        let before = std::mem::replace(&mut entry.state, state);
        self.index(before, number, false);
        self.index(state, number, true);
    }

    fn index(&mut self, state: MessageState, number: u64, present: bool) {
        let (index, at) = match state {
            MessageState::Ready(at) => (&mut self.ready, at),
            MessageState::Delayed(at) => (&mut self.delayed, at),
            MessageState::InFlight(at) => (&mut self.in_flight, at),
        };
        if present {
            index.insert((at, number));
        } else {
            index.remove(&(at, number));
        }
    }

    fn handle(&self, number: u64, generation: u32) -> String {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend(number.to_be_bytes());
        bytes.extend(generation.to_be_bytes());
        bytes.extend(self.tag(&bytes));
        format!("AQEB{}", STANDARD.encode(bytes))
    }

    fn read_handle(&self, handle: &str) -> Option<(u64, u32)> {
        let bytes = STANDARD.decode(handle.strip_prefix("AQEB")?).ok()?;
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (generation, tag) = rest.split_first_chunk::<4>()?;
        (tag == self.tag(&bytes[..12]))
            .then(|| (u64::from_be_bytes(*number), u32::from_be_bytes(*generation)))
    }

    fn tag(&self, bytes: &[u8]) -> [u8; 12] {
        let digest = Sha256::new().chain_update(self.key.to_be_bytes()).chain_update(bytes).finalize();
        *digest.first_chunk().expect("SHA-256 has 32 bytes")
    }
}

fn first_due(timers: &BTreeSet<(Instant, u64)>, now: Instant) -> Vec<(Instant, u64)> {
    timers.iter().take_while(|&&(at, _)| at <= now).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqs::message::{Attributes, body_md5};

    const RETENTION: Duration = Duration::from_secs(345_600);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn tracked(now: Instant, body: &str) -> Tracked {
        let message = Message {
            id: body.to_owned(),
            body: body.to_owned(),
            body_md5: body_md5(body),
            attributes: Attributes::new(),
            trace_header: None,
            group_id: None,
            sender_id: "111111111111".to_owned(),
            sent_at: now,
            sent_millis: 0,
        };
        Tracked::new(message)
    }

    fn filled(now: Instant, bodies: &[&str]) -> Backlog {
        let mut backlog = Backlog::new(7);
        for body in bodies {
            backlog.push(now, tracked(now, body), Duration::ZERO);
        }
        backlog
    }

    fn take(backlog: &mut Backlog, now: Instant, max: usize, visibility: u64) -> Vec<(String, String)> {
        backlog.settle(now, RETENTION);
        let taken = backlog.receive(now, max, seconds(visibility), None, 0);
        taken.received.into_iter().map(|(tracked, handle)| (tracked.message.id.clone(), handle)).collect()
    }

    fn ids(taken: &[(String, String)]) -> Vec<&str> {
        taken.iter().map(|(id, _)| id.as_str()).collect()
    }

    /// Number of messages visible, in flight and delayed.
    fn held(backlog: &Backlog) -> [usize; 3] {
        let QueueCounts { visible, in_flight, delayed, .. } = backlog.counts();
        [visible, in_flight, delayed]
    }

    #[test]
    fn a_message_becomes_visible_when_its_timeout_ends() {
        let start = Instant::now();
        let mut backlog = filled(start, &["a", "b"]);
        assert_eq!(ids(&take(&mut backlog, start, 1, 30)), ["a"]);
        assert_eq!(ids(&take(&mut backlog, start + seconds(1), 10, 30)), ["b"]);
        assert!(take(&mut backlog, start + seconds(29), 10, 30).is_empty());
        assert_eq!(backlog.next_visible(), Some(start + seconds(30)));
        let again = take(&mut backlog, start + seconds(31), 10, 30);
        assert_eq!(ids(&again), ["a", "b"]);
        assert_eq!(held(&backlog), [0, 2, 0]);
        assert_eq!(backlog.counts().most_in_flight, 2);
    }

    #[test]
    fn only_the_latest_handle_deletes() {
        let start = Instant::now();
        let mut backlog = filled(start, &["a"]);
        let old = take(&mut backlog, start, 1, 5).remove(0).1;
        let new = take(&mut backlog, start + seconds(5), 1, 5).remove(0).1;
        assert_ne!(old, new);
        assert!(backlog.delete(&old));
        assert_eq!(backlog.counts().in_flight, 1, "an old handle deletes nothing");
        assert!(backlog.delete(&new));
        assert!(backlog.delete(&new), "deleting again is not an error");
        assert_eq!(backlog.counts().in_flight, 0);
        let mut other = Backlog::new(8);
        assert!(!other.delete(&new), "a handle of another queue is unknown");
        assert!(!backlog.delete("nonsense"));
    }

    #[test]
    fn visibility_changes_within_twelve_hours_of_the_receive_and_only_in_flight() {
        let start = Instant::now();
        let mut backlog = filled(start, &["a"]);
        let handle = take(&mut backlog, start, 1, 30).remove(0).1;
        let hour = start + seconds(20);
        assert_eq!(backlog.change_visibility(hour, &handle, seconds(43_180)), Ok(()));
        assert_eq!(backlog.change_visibility(hour, &handle, seconds(43_181)), Err(NotChanged::TooLong));
        assert_eq!(backlog.change_visibility(hour, &handle, Duration::ZERO), Ok(()));
        assert_eq!(backlog.change_visibility(hour, &handle, seconds(5)), Err(NotChanged::NotInFlight));
        let newer = take(&mut backlog, hour, 1, 30).remove(0).1;
        assert_eq!(backlog.change_visibility(hour, &handle, seconds(5)), Err(NotChanged::NotInFlight));
        assert_eq!(backlog.change_visibility(hour, &newer, seconds(5)), Ok(()));
        assert_eq!(backlog.next_visible(), Some(hour + seconds(5)));
        assert!(backlog.delete(&newer));
        assert_eq!(backlog.change_visibility(hour, &newer, seconds(5)), Err(NotChanged::Gone));
        assert_eq!(backlog.change_visibility(hour, "x", seconds(5)), Err(NotChanged::BadHandle));
    }

    #[test]
    fn messages_can_be_delayed_received_without_hiding_and_expired() {
        let start = Instant::now();
        let mut backlog = Backlog::new(1);
        backlog.push(start, tracked(start, "late"), seconds(10));
        assert_eq!(held(&backlog), [0, 0, 1], "a delayed message is not in flight");
        assert!(take(&mut backlog, start, 1, 30).is_empty());
        assert_eq!(ids(&take(&mut backlog, start + seconds(10), 10, 0)), ["late"], "once per receive");
        assert_eq!(ids(&take(&mut backlog, start + seconds(10), 10, 30)), ["late"]);
        backlog.settle(start + RETENTION, RETENTION);
        assert_eq!(held(&backlog), [0, 0, 0]);
        assert_eq!(backlog.counts().expired, 1);
    }

    #[test]
    fn messages_received_too_often_move_with_their_receive_count() {
        let start = Instant::now();
        let mut backlog = filled(start, &["a"]);
        for round in 1..=2 {
            let now = start + seconds(round * 10);
            backlog.settle(now, RETENTION);
            let taken = backlog.receive(now, 1, seconds(1), Some(2), 5);
            assert_eq!((taken.received.len(), taken.dead.len()), (1, 0));
        }
        let now = start + seconds(30);
        backlog.settle(now, RETENTION);
        let mut taken = backlog.receive(now, 1, seconds(1), Some(2), 9);
        assert!(taken.received.is_empty());
        let dead = taken.dead.pop().expect("a message was moved");
        assert_eq!((dead.receives, dead.first_received_millis), (2, Some(5)));
        assert_eq!(held(&backlog), [0, 0, 0]);
        assert_eq!(backlog.counts().expired, 0, "a moved message is not expired");

        let mut letters = Backlog::new(9);
        letters.push(now, dead, Duration::ZERO);
        let taken = letters.receive(now, 1, seconds(1), Some(1), 11);
        assert_eq!(
            taken.received[0].0.receives, 3,
            "the dead-letter queue counts its own receives for redrive"
        );
    }

    #[test]
    fn in_flight_messages_have_a_quota() {
        let check = |quota: Option<usize>, most: usize| {
            let now = Instant::now();
            let mut backlog = Backlog::new(1);
            quota.into_iter().for_each(|quota| backlog.set_quota(quota));
            let one = tracked(now, "a");
            for _ in 0..=most {
                backlog.push(now, one.clone(), Duration::ZERO);
            }
            let first = backlog.receive(now, most + 1, seconds(9), None, 0).received;
            assert_eq!(first.len(), most, "a receive stops at the quota");
            let taken = backlog.receive(now, 1, seconds(9), None, 0);
            assert!(taken.over_limit && taken.received.is_empty());
            assert!(backlog.delete(&first[0].1));
            let taken = backlog.receive(now, 10, seconds(9), None, 0);
            assert_eq!((taken.received.len(), taken.over_limit), (1, false), "a delete makes room");
            assert_eq!(backlog.counts().most_in_flight, most);
        };
        check(None, 120_000);
        check(Some(3), 3);
    }
}
