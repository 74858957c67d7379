//! Gathers events into PutLogEvents requests within the service's limits.
//!
//! A batch is built as the request's JSON from the first event on. Each message is copied into it once, with its escapes, and the
//! body is sent without another copy. Pure: no I/O, no clock.

mod buffers;
mod closed;
mod rejections;

use bytes::Bytes;

pub use self::{
    buffers::{BufferPool, Buffers},
    closed::{ClosedBatch, Part},
    rejections::{BatchTally, RejectedEvent, RejectedEvents, Rejection, Rejections},
};
use crate::records::EscapedMessage;

/// Most bytes of one batch: its messages in UTF-8, and [`EVENT_OVERHEAD`] for each. Source: CloudWatch Logs API reference,
/// PutLogEvents.
pub const MAX_BATCH_BYTES: usize = 1_048_576;
/// Bytes that the service counts for each event besides its message. Same source.
pub const EVENT_OVERHEAD: usize = 26;
/// Most events of one batch. Same source.
pub const MAX_BATCH_EVENTS: usize = 10_000;
/// Longest message of one event, which together with its overhead fills a batch. Source: the service's limit of 1 MB per event
/// since April 2025.
pub const MAX_MESSAGE_BYTES: usize = MAX_BATCH_BYTES - EVENT_OVERHEAD;
/// Longest time between the first and the last event of one request, in milliseconds. Source as for [`MAX_BATCH_BYTES`].
const MAX_SPAN: i64 = DAY;
const DAY: i64 = 24 * 60 * 60 * 1000;
/// Greatest age of an event that CloudWatch Logs stores, in milliseconds. Source as for [`MAX_BATCH_BYTES`].
pub const MAX_AGE: i64 = 14 * DAY;
/// How far an event that CloudWatch Logs stores may lie in the future, in milliseconds. Same source.
pub const MAX_AHEAD: i64 = 2 * 60 * 60 * 1000;
/// Most days (UTC) of one batch, and so most requests of one batch. CloudWatch Logs stores events of the last 14 days and the
/// next two hours, which lie on 16 days at most. Source as for [`MAX_BATCH_BYTES`].
pub const MAX_BATCH_DAYS: usize = 16;
/// Room after the events for the end of the body and a sequence token.
const TAIL: usize = 128;
/// Most bytes of an event in the body besides its message: JSON, a timestamp of 20 digits, a comma.
const EVENT_FRAME: usize = 64;
/// The JSON of an event is `EVENT_START`, timestamp, `EVENT_MESSAGE`, message, `EVENT_END`.
const EVENT_START: &[u8] = b"{\"timestamp\":";
const EVENT_MESSAGE: &[u8] = b",\"message\":\"";
const EVENT_END: &[u8] = b"\"}";
/// Body capacity for the batch of a small object.
const SMALL_BODY: usize = 64 * 1024;
/// Body capacity for a full batch of messages that have at least 100 bytes and few escapes.
const FULL_BODY: usize = 1280 * 1024;

/// Start of every request to one stream: everything before the events.
#[derive(Clone, Debug)]
pub struct BatchHead(Bytes);

impl BatchHead {
    /// Writes the start for a group and a stream.
    pub fn new(log_group_name: &str, log_stream_name: &str) -> Self {
        let quote = |text: &str| serde_json::to_string(text).expect("a string is always JSON");
        let (group, stream) = (quote(log_group_name), quote(log_stream_name));
        Self(format!(r#"{{"logGroupName":{group},"logStreamName":{stream},"logEvents":["#).into())
    }
}

/// Events gathered so far, within one request's limits of bytes and events.
///
/// At first, all events lie within 24 hours of each other. Once an event comes that is more than 24 hours older than the
/// latest one, the batch gathers events of several days, and so do all batches that [`Batch::close`] starts after it. Such a
/// batch is sent as one request for each 24 hours. Without this, records that alternate between days would make a batch for
/// each event.
#[derive(Debug)]
pub struct Batch {
    head: BatchHead,
    max_events: usize,
    body: Vec<u8>,
    events: Vec<EventSpan>,
    bytes: usize,
    earliest: i64,
    latest: i64,
    chronological: bool,
    gathers_days: bool,
    /// Days of the events, counted from 1970. The day of the event added last comes last.
    days: Vec<i64>,
    /// Position of the first event's record in the object.
    first_record: u64,
}

/// Position of an event in the body.
#[derive(Clone, Copy, Debug)]
struct EventSpan {
    timestamp: i64,
    start: usize,
    end: usize,
    /// Position of its record, counted from the batch's first record.
    record: u32,
    /// Whether this is the last event of its record. The outcome of this event is the record's outcome.
    completes_record: bool,
}

/// A batch keeps up to 10,000 events besides its body, so their size counts.
const _: () = assert!(size_of::<EventSpan>() == 32);

impl Batch {
    /// Starts an empty batch.
    pub fn new(head: &BatchHead) -> Self {
        Self::in_buffers(head, Buffers::default())
    }

    /// Starts an empty batch in the buffers of another batch.
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

    /// Limits the batch to `max_events` events. The service's limit, [`MAX_BATCH_EVENTS`], holds as well.
    pub fn of_at_most(self, max_events: usize) -> Self {
        Self { max_events: max_events.min(MAX_BATCH_EVENTS), ..self }
    }

    /// Takes the buffers. Events in them are lost.
    pub fn take_buffers(&mut self) -> Buffers {
        let fresh = Self::new(&self.head);
        let Self { body, events, .. } = std::mem::replace(self, fresh);
        Buffers { body, events }
    }

    /// Whether the batch has no events.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether an event with a message of `len` bytes (unescaped) fits. An empty batch takes every event up to
    /// [`MAX_MESSAGE_BYTES`].
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

    /// Adds an event that [`Batch::takes`] allowed. `record` is the position of its record in the object and never
    /// decreases. `completes_record` is false for every piece of a split record but the last.
    pub fn push(
        &mut self,
        record: u64,
        timestamp: i64,
        message: &EscapedMessage<'_>,
        completes_record: bool,
    ) {
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
        // The number exceeds 32 bits only if more than four thousand million records with empty messages lie in between.
        let record = u32::try_from(record - self.first_record).unwrap_or(u32::MAX);
        self.events.push(EventSpan { timestamp, start, end: self.body.len(), record, completes_record });
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

    /// Grows the body to the capacity for a small object, then for a full batch of ordinary messages, then by a quarter each
    /// time. Doubling would leave up to half of every buffer unused.
    fn make_room(&mut self, more: usize) {
        let needed = self.body.len() + more;
        if needed > self.body.capacity() {
            let steps = [SMALL_BODY, FULL_BODY];
            let capacity = steps.into_iter().find(|step| needed <= *step).unwrap_or(needed + needed / 4);
            self.body.reserve_exact(capacity - self.body.len());
        }
    }

    /// Closes the batch and starts the next one in `spare`. Events are put in chronological order; events with equal timestamps
    /// keep their order.
    pub fn close(&mut self, spare: Buffers) -> ClosedBatch {
        let Buffers { body: mut other, events } = spare;
        other.clear();
        other.extend_from_slice(&self.head.0);
        if self.chronological {
            std::mem::swap(&mut self.body, &mut other);
        } else {
            sort(&mut self.events);
            other.reserve_exact(self.body.len() - other.len() + TAIL);
            // Events that are neighbours in the body are copied together, with the commas between them.
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

/// Puts events in chronological order; events with equal timestamps keep their order. Few events come late, so only the late ones
/// are sorted, and then merged with the others, which are already in order.
fn sort(events: &mut Vec<EventSpan>) {
    let mut latest = i64::MIN;
    let is_late = |event: &mut EventSpan| {
        latest = latest.max(event.timestamp);
        event.timestamp < latest
    };
    let mut late: Vec<EventSpan> = events.extract_if(.., is_late).collect();
    late.sort_by_key(|event| event.timestamp);
    // Merging from the back moves each event once, into free room.
    let mut left = events.len();
    events.extend_from_slice(&late);
    for to in (0..events.len()).rev() {
        let Some(last) = late.last() else { break };
        // Of two events with equal timestamps, the one that is not late came first: any event with this timestamp that
        // follows a late one is late too.
        if left > 0 && events[left - 1].timestamp > last.timestamp {
            left -= 1;
            events[to] = events[left];
        } else {
            events[to] = *last;
            late.pop();
        }
    }
}

#[cfg(test)]
mod tests;
