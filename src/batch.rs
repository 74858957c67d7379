//! Gathers events into PutLogEvents requests that break no limit.
//!
//! A batch is written as the request's JSON from the start: a message is copied once, escaped as it was, and the body
//! goes out as it lies here. Pure: no I/O, no clock.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::records::Message;

/// Most bytes of one batch, messages in UTF-8 plus [`EVENT_OVERHEAD`] each. Source: CloudWatch Logs API reference,
/// PutLogEvents.
pub const MAX_BATCH_BYTES: usize = 1_048_576;
/// What each event counts beyond its message. Same source.
pub const EVENT_OVERHEAD: usize = 26;
/// Most events of one batch. Same source.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// Longest message of one event: with its overhead it fills a batch. Source: the service's 1 MB per event, of April 2025.
pub const MAX_MESSAGE_BYTES: usize = MAX_BATCH_BYTES - EVENT_OVERHEAD;
/// Longest time between the first and the last event of one request, in milliseconds. Source as for [`MAX_BATCH_BYTES`].
const MAX_SPAN: i64 = DAY;
const DAY: i64 = 24 * 60 * 60 * 1000;
/// Most days (UTC) of one batch, and so most requests that it takes. CloudWatch Logs stores events of the last 14 days and the
/// next two hours, which lie on 16 days at most. Source as for [`MAX_BATCH_BYTES`].
pub const MAX_BATCH_DAYS: usize = 16;
/// Room kept behind the events for their end and a sequence token.
const TAIL: usize = 128;
/// Most bytes of an event in the body besides its message: its JSON, a timestamp of 20 digits, a comma.
const EVENT_FRAME: usize = 64;
/// An event in the body: its timestamp stands behind the first, its message between the other two.
const EVENT_START: &[u8] = b"{\"timestamp\":";
const EVENT_MESSAGE: &[u8] = b",\"message\":\"";
const EVENT_END: &[u8] = b"\"}";
/// Room for the batch of a small object.
const SMALL_BODY: usize = 64 * 1024;
/// Room for a full batch of messages of 100 bytes and more with few escapes.
const FULL_BODY: usize = 1280 * 1024;

/// The head of every request to one stream: everything before its events.
#[derive(Clone, Debug)]
pub struct BatchHead(Bytes);

impl BatchHead {
    /// For the stream of that group.
    pub fn new(log_group_name: &str, log_stream_name: &str) -> Self {
        let quote = |text: &str| serde_json::to_string(text).expect("a string is always JSON");
        let (group, stream) = (quote(log_group_name), quote(log_stream_name));
        Self(format!(r#"{{"logGroupName":{group},"logStreamName":{stream},"logEvents":["#).into())
    }
}

/// Buffers of a batch that is done with, for the next one: growing a megabyte anew for each costs more than filling it.
#[derive(Debug, Default)]
pub struct Buffers {
    body: Vec<u8>,
    events: Vec<Event>,
}

/// Buffers that nobody uses, for batches to come. Clones share them.
///
/// Kept rather than freed: handed back and forth with the allocator, buffers of this size leave holes among everything
/// else that it holds, a quarter more memory in all.
#[derive(Clone, Debug)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Buffers>>>,
    most: usize,
}

impl BufferPool {
    /// Keeps at most so many.
    pub fn new(most: usize) -> Self {
        Self { free: Arc::default(), most }
    }

    /// Some that were used before, or new ones.
    pub fn take(&self) -> Buffers {
        self.lock().pop().unwrap_or_default()
    }

    /// Keeps them for somebody else, unless there are enough, or they have grown beyond what others need: what one
    /// customer's escapes made large must not stay so.
    pub fn give(&self, buffers: Buffers) {
        let mut free = self.lock();
        if free.len() < self.most && buffers.body.capacity() <= FULL_BODY + TAIL {
            free.push(buffers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Buffers>> {
        // Nothing that could panic happens while it is held.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events gathered so far, within the limits of one request in bytes and number.
///
/// They lie within a day, until the first event comes that is more than a day older than another one of the batch. From then on
/// events of several days are gathered together, and go out as one request for each day: a batch for each event would be the
/// price of records that alternate between days.
#[derive(Debug)]
pub struct Batch {
    head: BatchHead,
    max_events: usize,
    body: Vec<u8>,
    events: Vec<Event>,
    bytes: usize,
    earliest: i64,
    latest: i64,
    chronological: bool,
    gathers_days: bool,
    /// Days since 1970 on which events lie, the latest event's last.
    days: Vec<i64>,
    /// Position of the first event's record in the object.
    first_record: u64,
}

/// Where an event stands in the body.
#[derive(Clone, Copy, Debug)]
struct Event {
    timestamp: i64,
    start: usize,
    end: usize,
    /// Its record, counted from the batch's first.
    record: u32,
    /// The last event of its record: the record's fate is this event's.
    completes_record: bool,
}

/// Ten thousand of them lie beside each batch.
const _: () = assert!(size_of::<Event>() == 32);

impl Batch {
    /// Starts an empty batch.
    pub fn new(head: &BatchHead) -> Self {
        Self::in_buffers(head, Buffers::default())
    }

    /// Starts an empty batch in buffers of another.
    pub fn in_buffers(head: &BatchHead, buffers: Buffers) -> Self {
        let Buffers { mut body, mut events } = buffers;
        body.clear();
        body.extend_from_slice(&head.0);
        events.clear();
        Self {
            head: head.clone(),
            max_events: MAX_BATCH_EVENTS,
            body,
            events,
            bytes: 0,
            earliest: i64::MAX,
            latest: i64::MIN,
            chronological: true,
            gathers_days: false,
            days: Vec::new(),
            first_record: 0,
        }
    }

    /// Lets it gather no more than so many events, of [`MAX_BATCH_EVENTS`].
    pub fn of_at_most(self, max_events: usize) -> Self {
        Self { max_events: max_events.min(MAX_BATCH_EVENTS), ..self }
    }

    /// Its buffers; what was gathered in them is lost.
    pub fn take_buffers(&mut self) -> Buffers {
        let fresh = Self::new(&self.head);
        let Self { body, events, .. } = std::mem::replace(self, fresh);
        Buffers { body, events }
    }

    /// Nothing in it yet.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether an event with a message of `len` bytes (unescaped) can join. An empty batch takes every event that
    /// [`MAX_MESSAGE_BYTES`] allows.
    pub fn takes(&self, timestamp: i64, len: usize) -> bool {
        self.events.len() < self.max_events
            && self.bytes + len + EVENT_OVERHEAD <= MAX_BATCH_BYTES
            && (self.is_empty() || self.spans_a_day(timestamp) || self.takes_day(timestamp))
    }

    fn spans_a_day(&self, timestamp: i64) -> bool {
        self.latest.max(timestamp).saturating_sub(self.earliest.min(timestamp)) <= MAX_SPAN
    }

    fn takes_day(&self, timestamp: i64) -> bool {
        (self.gathers_days || timestamp < self.latest)
            && (self.days.len() < MAX_BATCH_DAYS || self.days.contains(&day(timestamp)))
    }

    /// Adds an event that [`Batch::takes`] allowed. `record` is its record's position in the object, which only grows;
    /// `completes_record` is false for all but the last part of a record that had to be split.
    pub fn push(&mut self, record: u64, timestamp: i64, message: &Message<'_>, completes_record: bool) {
        debug_assert!(self.takes(timestamp, message.len()), "the caller asked first");
        self.make_room(message.escaped().len() + EVENT_FRAME);
        if !self.is_empty() {
            self.body.push(b',');
        }
        self.gathers_days |= !self.is_empty() && !self.spans_a_day(timestamp);
        let start = self.body.len();
        self.body.extend_from_slice(EVENT_START);
        self.body.extend_from_slice(itoa::Buffer::new().format(timestamp).as_bytes());
        self.body.extend_from_slice(EVENT_MESSAGE);
        self.body.extend_from_slice(message.escaped());
        self.body.extend_from_slice(EVENT_END);
        if self.events.is_empty() {
            self.first_record = record;
        }
        // A batch would have to lie between four thousand million records with empty messages.
        let record = u32::try_from(record - self.first_record).unwrap_or(u32::MAX);
        self.events.push(Event { timestamp, start, end: self.body.len(), record, completes_record });
        self.bytes += message.len() + EVENT_OVERHEAD;
        self.chronological &= timestamp >= self.latest;
        self.earliest = self.earliest.min(timestamp);
        let day = day(timestamp);
        if self.days.last() != Some(&day) {
            self.days.retain(|known| *known != day);
            self.days.push(day);
        }
        self.latest = self.latest.max(timestamp);
    }

    /// Grows the body at once to what a full batch of ordinary messages takes, and from there in steps: doubling would
    /// leave half of every buffer unused.
    fn make_room(&mut self, more: usize) {
        let needed = self.body.len() + more;
        if needed > self.body.capacity() {
            let steps = [SMALL_BODY, FULL_BODY];
            let capacity = steps.into_iter().find(|step| needed <= *step).unwrap_or(needed + needed / 4);
            self.body.reserve_exact(capacity - self.body.len());
        }
    }

    /// Closes what was gathered, in chronological order, equal timestamps in the order they came, and begins the next
    /// batch in what is left of `spare`.
    pub fn close(&mut self, spare: Buffers) -> ClosedBatch {
        let Buffers { body: mut other, events } = spare;
        other.clear();
        other.extend_from_slice(&self.head.0);
        if self.chronological {
            std::mem::swap(&mut self.body, &mut other);
        } else {
            sort(&mut self.events);
            other.reserve_exact(self.body.len() - other.len() + TAIL);
            // Most events still follow the one that they followed: such runs are copied whole, commas included.
            for run in self.events.chunk_by_mut(|one, next| one.end + 1 == next.start) {
                if other.len() > self.head.0.len() {
                    other.push(b',');
                }
                let (from, to) = (run[0].start, run[run.len() - 1].end);
                let at = other.len();
                other.extend_from_slice(&self.body[from..to]);
                for event in run {
                    (event.start, event.end) = (event.start - from + at, event.end - from + at);
                }
            }
            self.body.truncate(self.head.0.len());
        }
        other.reserve_exact(TAIL);
        let closed = ClosedBatch {
            head_len: self.head.0.len(),
            open_len: other.len(),
            body: other.into(),
            events: std::mem::replace(&mut self.events, events),
            bytes: self.bytes,
            first_record: self.first_record,
        };
        self.events.clear();
        self.days.clear();
        (self.bytes, self.earliest, self.latest, self.chronological) = (0, i64::MAX, i64::MIN, true);
        closed
    }
}

fn day(timestamp: i64) -> i64 {
    timestamp.div_euclid(DAY)
}

/// Puts events in chronological order, equal timestamps in the order they came. A few among thousands come late: only they
/// are sorted, and then merged with the others, which are in order.
fn sort(events: &mut Vec<Event>) {
    let mut latest = i64::MIN;
    let is_late = |event: &mut Event| {
        latest = latest.max(event.timestamp);
        event.timestamp < latest
    };
    let mut late: Vec<Event> = events.extract_if(.., is_late).collect();
    late.sort_by_key(|event| event.timestamp);
    // From the back: what is moved is moved once, into room that is free.
    let mut left = events.len();
    events.extend_from_slice(&late);
    for to in (0..events.len()).rev() {
        let Some(last) = late.last() else { break };
        // Those of the same time came before: what came behind is later than what was too late by then.
        if left > 0 && events[left - 1].timestamp > last.timestamp {
            left -= 1;
            events[to] = events[left];
        } else {
            events[to] = *last;
            late.pop();
        }
    }
}

/// A batch that is ready to go out, in one or more [`Part`]s.
#[derive(Debug)]
pub struct ClosedBatch {
    head_len: usize,
    body: Bytes,
    /// The body without its end.
    open_len: usize,
    events: Vec<Event>,
    bytes: usize,
    first_record: u64,
}

/// Neighbouring events of a batch that go out as one request, by their index.
pub type Part = Range<usize>;

/// Which events of a request AWS rejected: `RejectedLogEventsInfo` as the service defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedEvents {
    /// Index of the first event that is too new; it and all after it are refused.
    pub too_new_start: Option<usize>,
    /// Index behind the last event that is too old.
    pub too_old_end: Option<usize>,
    /// Index behind the last event that the group's retention has expired.
    pub expired_end: Option<usize>,
}

/// Why AWS did not store an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// A request with this event alone is refused, and one without it is not.
    Refused,
    /// More than 14 days old.
    TooOld,
    /// More than 2 hours in the future.
    TooNew,
    /// Older than the group's retention.
    Expired,
}

impl RejectedEvents {
    /// What they say of one event; where two bounds name it, the first of too old, expired, too new.
    fn reason(&self, index: usize) -> Option<Rejection> {
        if self.too_old_end.is_some_and(|end| index < end) {
            Some(Rejection::TooOld)
        } else if self.expired_end.is_some_and(|end| index < end) {
            Some(Rejection::Expired)
        } else if self.too_new_start.is_some_and(|start| index >= start) {
            Some(Rejection::TooNew)
        } else {
            None
        }
    }
}

/// The events of a batch that were not stored, by their index in it, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections(Vec<(usize, Rejection)>);

impl Rejections {
    /// Adds what the answer to one part says; the parts come in order.
    pub fn add(&mut self, part: &Part, rejected: &RejectedEvents) {
        if *rejected != RejectedEvents::default() {
            let reasons = part.clone().map(|index| (index, rejected.reason(index - part.start)));
            self.0.extend(reasons.filter_map(|(index, reason)| Some((index, reason?))));
        }
    }

    /// Forgets what was found of the events from that index on.
    pub fn truncate(&mut self, index: usize) {
        self.0.retain(|(of, _)| *of < index);
    }

    /// Adds an event that is refused by itself; in order with what is added before and after.
    pub fn refuse(&mut self, index: usize) {
        self.0.push((index, Rejection::Refused));
    }

    /// How many there are with that reason.
    pub fn count(&self, reason: Rejection) -> usize {
        self.0.iter().filter(|(_, of)| *of == reason).count()
    }

    /// All events are stored.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An event that AWS did not store, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedEvent<'a> {
    /// Why.
    pub reason: Rejection,
    /// Its record's position in the object; a record that was split has several events.
    pub record: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The message as the inside of a JSON string, in UTF-8.
    pub escaped: &'a [u8],
}

/// The records that a batch completed, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTally {
    /// Stored.
    pub accepted: u64,
    /// More than 14 days old.
    pub too_old: u64,
    /// More than 2 hours in the future.
    pub too_new: u64,
    /// Older than the group's retention.
    pub expired: u64,
    /// Refused by themselves.
    pub refused: u64,
}

impl ClosedBatch {
    /// The first part of the events from that index on: as many as may go out in one request. Empty at the batch's end.
    pub fn part(&self, from: usize) -> Part {
        let rest = &self.events[from..];
        let Some(first) = rest.first() else { return from..from };
        from..from + rest.partition_point(|event| event.timestamp.saturating_sub(first.timestamp) <= MAX_SPAN)
    }

    /// The request's body for a part. A second call with another token is for a part that has to be sent again.
    pub fn seal(&mut self, part: &Part, sequence_token: Option<&str>) -> Bytes {
        if *part != (0..self.events.len()) {
            let (from, to) = (self.events[part.start].start, self.events[part.end - 1].end);
            let mut body = BytesMut::with_capacity(self.head_len + to - from + TAIL);
            body.put_slice(&self.body[..self.head_len]);
            body.put_slice(&self.body[from..to]);
            end_body(&mut body, sequence_token);
            return body.freeze();
        }
        let taken = std::mem::take(&mut self.body);
        // Nobody else holds it, unless an attempt of before is still on its way.
        let mut body = taken.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        body.truncate(self.open_len);
        end_body(&mut body, sequence_token);
        self.body = body.freeze();
        self.body.clone()
    }

    /// Its buffers, for a batch to come. Empty ones if the body is still on its way somewhere.
    pub fn into_buffers(self) -> Buffers {
        let body = self.body.try_into_mut().map_or_else(
            |_| Vec::new(),
            |mut body| {
                // An empty one changes its type without a copy.
                body.clear();
                body.into()
            },
        );
        Buffers { body, events: self.events }
    }

    /// Events in it.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// A closed batch may be empty, but nobody sends it then.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes as CloudWatch Logs counts and bills them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What became of the records that the first `answered` events complete. An event that two bounds name is counted once.
    pub fn tally(&self, answered: usize, rejections: &Rejections) -> BatchTally {
        let complete = self.events[..answered].iter().filter(|event| event.completes_record).count();
        let mut tally = BatchTally { accepted: complete as u64, ..BatchTally::default() };
        for (index, reason) in &rejections.0 {
            if self.events[*index].completes_record {
                tally.accepted -= 1;
                *match reason {
                    Rejection::Refused => &mut tally.refused,
                    Rejection::TooOld => &mut tally.too_old,
                    Rejection::Expired => &mut tally.expired,
                    Rejection::TooNew => &mut tally.too_new,
                } += 1;
            }
        }
        tally
    }

    /// An event's timestamp, its record, and how many events of the same record lie before it in the batch.
    pub fn place(&self, index: usize) -> (i64, u64, u64) {
        let Event { timestamp, record, .. } = self.events[index];
        // The events of a record are neighbours, because they have one timestamp.
        let before = self.events[..index].iter().rev().take_while(|event| event.record == record).count();
        (timestamp, self.first_record + u64::from(record), before as u64)
    }

    /// The events that were not stored, in the batch's order.
    pub fn rejected(&self, rejections: &Rejections) -> impl Iterator<Item = RejectedEvent<'_>> {
        rejections.0.iter().map(|(index, reason)| {
            let event = &self.events[*index];
            let digits = itoa::Buffer::new().format(event.timestamp).len();
            let start = event.start + EVENT_START.len() + digits + EVENT_MESSAGE.len();
            RejectedEvent {
                reason: *reason,
                record: self.first_record + u64::from(event.record),
                timestamp: event.timestamp,
                escaped: &self.body[start..event.end - EVENT_END.len()],
            }
        })
    }
}

/// Ends a request's body behind its events.
fn end_body(body: &mut BytesMut, sequence_token: Option<&str>) {
    match sequence_token {
        None => body.put_slice(b"]}"),
        Some(token) => {
            let token = serde_json::to_string(token).expect("a string is always JSON");
            body.put_slice(format!("],\"sequenceToken\":{token}}}").as_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
