//! A closed batch: the bodies of its requests, and the outcome of its events.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    BatchTally, Buffers, EVENT_END, EVENT_MESSAGE, EVENT_OVERHEAD, EVENT_START, EventSpan, MAX_BATCH_BYTES,
    MAX_BATCH_EVENTS, MAX_SPAN, RejectedEvent, Rejection, Rejections, TAIL,
};
use crate::records::unescaped_len;

/// A batch that is ready to be put, in one or more [`Part`]s.
#[derive(Debug)]
pub struct ClosedBatch {
    pub(super) head_len: usize,
    pub(super) body: Bytes,
    /// Length of the body without the text that [`end_body`] adds.
    pub(super) open_len: usize,
    pub(super) events: Vec<EventSpan>,
    pub(super) bytes: usize,
    pub(super) first_record: u64,
}

/// Neighbouring events of a batch that make one request, by their index.
pub type Part = Range<usize>;

impl ClosedBatch {
    /// Returns the longest part that starts at `from` and is legal as one request. It is empty at the end of the batch.
    pub fn part(&self, from: usize) -> Part {
        let rest = &self.events[from..];
        let Some(first) = rest.first() else { return from..from };
        from..from + rest.partition_point(|event| event.timestamp.saturating_sub(first.timestamp) <= MAX_SPAN)
    }

    /// Makes the request body of a part. To put the same part again, call it again with the new token.
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
        // The body is copied only while an earlier attempt to send it is still running.
        let mut body = taken.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        body.truncate(self.open_len);
        end_body(&mut body, sequence_token);
        self.body = body.freeze();
        self.body.clone()
    }

    /// Takes the buffers for a later batch. If the body is still being sent, its buffer is replaced by an empty one.
    pub fn into_buffers(self) -> Buffers {
        let body = self.body.try_into_mut().map_or_else(
            |_| Vec::new(),
            |mut body| {
                // An empty body becomes a `Vec` without a copy.
                body.clear();
                body.into()
            },
        );
        Buffers { body, events: self.events }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether the batch has no events. An empty batch is not put.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Number of bytes as CloudWatch Logs counts and bills them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of bytes of the first `answered` events. Reads the messages again unless these are all events.
    pub fn bytes_of(&self, answered: usize) -> usize {
        if answered == self.len() {
            return self.bytes;
        }
        let events = self.events[..answered].iter();
        events.map(|event| unescaped_len(self.escaped(event)) + EVENT_OVERHEAD).sum()
    }

    /// How full the request of a part is, from 0 to 1: by bytes or by events, whichever is more. If the batch has several
    /// parts, the bytes of a part are estimated from its length in the body.
    pub fn fill(&self, part: &Part) -> f64 {
        let length = |part: &Part| match part.is_empty() {
            true => 0,
            false => self.events[part.end - 1].end - self.events[part.start].start,
        };
        let share = length(part) as f64 / length(&(0..self.events.len())).max(1) as f64;
        let bytes = self.bytes as f64 * share / MAX_BATCH_BYTES as f64;
        bytes.max(part.len() as f64 / MAX_BATCH_EVENTS as f64)
    }

    /// Counts the records that the first `answered` events complete, by outcome.
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

    /// Timestamp of the newest event that AWS stored, among the first `answered` events.
    pub fn newest(&self, answered: usize, rejections: &Rejections) -> Option<i64> {
        let mut rejected = rejections.0.iter().rev().map(|(index, _)| *index).peekable();
        let newest = (0..answered).rev().find(|index| rejected.next_if_eq(index).is_none())?;
        Some(self.events[newest].timestamp)
    }

    /// Returns an event's timestamp, the position of its record, and the number of earlier events of that record in the batch.
    pub fn position(&self, index: usize) -> (i64, u64, u64) {
        let EventSpan { timestamp, record, .. } = self.events[index];
        // The events of a record have one timestamp, so they are neighbours.
        let before = self.events[..index].iter().rev().take_while(|event| event.record == record).count();
        (timestamp, self.first_record + u64::from(record), before as u64)
    }

    /// Returns the events that AWS did not store, in the batch's order.
    pub fn rejected(&self, rejections: &Rejections) -> impl Iterator<Item = RejectedEvent<'_>> {
        rejections.0.iter().map(|(index, reason)| {
            let event = &self.events[*index];
            RejectedEvent {
                reason: *reason,
                record: self.first_record + u64::from(event.record),
                timestamp: event.timestamp,
                escaped: self.escaped(event),
            }
        })
    }

    /// The event's message as it stands in the body.
    fn escaped(&self, event: &EventSpan) -> &[u8] {
        let digits = itoa::Buffer::new().format(event.timestamp).len();
        let start = event.start + EVENT_START.len() + digits + EVENT_MESSAGE.len();
        &self.body[start..event.end - EVENT_END.len()]
    }
}

/// Writes the end of a request body, after the events.
fn end_body(body: &mut BytesMut, sequence_token: Option<&str>) {
    match sequence_token {
        None => body.put_slice(b"]}"),
        Some(token) => {
            let token = serde_json::to_string(token).expect("a string is always JSON");
            body.put_slice(format!("],\"sequenceToken\":{token}}}").as_bytes());
        }
    }
}
