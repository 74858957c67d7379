//! Events that CloudWatch Logs did not store, and why.

use super::{MAX_AGE, MAX_AHEAD, Part};

/// Events of a request that AWS rejected: `RejectedLogEventsInfo` as the service defines it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectedEvents {
    /// Index of the first event that is too new; AWS rejects this event and all after it.
    pub too_new_start: Option<usize>,
    /// Index after the last event that is too old.
    pub too_old_end: Option<usize>,
    /// Index after the last event that is older than the group's retention.
    pub expired_end: Option<usize>,
}

/// Why AWS did not store an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// AWS refuses a request that consists of this event, and accepts the other events without it.
    Refused,
    /// More than 14 days old.
    TooOld,
    /// More than 2 hours in the future.
    TooNew,
    /// Older than the group's retention.
    Expired,
}

impl RejectedEvents {
    /// The events that CloudWatch Logs rejects at `now` for their age. `timestamps` are those of a request, in order. The
    /// retention of a group, which may reject more, is unknown.
    pub fn by_age(timestamps: &[i64], now: i64) -> Self {
        let too_old = timestamps.partition_point(|at| *at < now - MAX_AGE);
        let in_time = timestamps.partition_point(|at| *at <= now + MAX_AHEAD);
        Self {
            too_new_start: (in_time < timestamps.len()).then_some(in_time),
            too_old_end: (too_old > 0).then_some(too_old),
            expired_end: None,
        }
    }

    /// Why the event at `index` was rejected. If several bounds apply, too old comes before expired, and expired before too new.
    pub fn reason(&self, index: usize) -> Option<Rejection> {
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

/// Events of a batch that AWS did not store, by their index in the batch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections(pub(super) Vec<(usize, Rejection)>);

impl Rejections {
    /// Adds the rejected events of the answer to one part. Parts must be added in order.
    pub fn add(&mut self, part: &Part, rejected: &RejectedEvents) {
        if *rejected != RejectedEvents::default() {
            let reasons = part.clone().map(|index| (index, rejected.reason(index - part.start)));
            self.0.extend(reasons.filter_map(|(index, reason)| Some((index, reason?))));
        }
    }

    /// Forgets the events from `index` on.
    pub fn truncate(&mut self, index: usize) {
        self.0.retain(|(of, _)| *of < index);
    }

    /// Adds an event that AWS refuses by itself. Events and parts must be added in order.
    pub fn refuse(&mut self, index: usize) {
        self.0.push((index, Rejection::Refused));
    }

    /// Number of events with this reason.
    pub fn count(&self, reason: Rejection) -> usize {
        self.0.iter().filter(|(_, of)| *of == reason).count()
    }

    /// Whether AWS stored all events.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An event that AWS did not store, as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RejectedEvent<'a> {
    /// Why AWS did not store it.
    pub reason: Rejection,
    /// Position of its record in the object. A split record has several events.
    pub record: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The message as the inside of a JSON string, in UTF-8.
    pub escaped: &'a [u8],
}

/// Number of records that a batch completed, by the outcome of their last event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchTally {
    /// Records whose last event was stored.
    pub accepted: u64,
    /// More than 14 days old.
    pub too_old: u64,
    /// More than 2 hours in the future.
    pub too_new: u64,
    /// Older than the group's retention.
    pub expired: u64,
    /// Records whose last event AWS refuses.
    pub refused: u64,
}

impl BatchTally {
    /// Records whose last event was not stored.
    pub fn rejected(&self) -> u64 {
        let Self { accepted: _, too_old, too_new, expired, refused } = self;
        too_old + too_new + expired + refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_14_days_and_of_the_next_two_hours_are_stored() {
        let now = 2_000_000_000_000;
        let (oldest, newest) = (now - 14 * 86_400_000, now + 2 * 3_600_000);
        let check = |timestamps: &[i64], too_old_end: Option<usize>, too_new_start: Option<usize>| {
            let expected = RejectedEvents { too_new_start, too_old_end, expired_end: None };
            assert_eq!(RejectedEvents::by_age(timestamps, now), expected, "{timestamps:?}");
        };
        check(&[oldest, now, newest], None, None);
        check(&[oldest - 1, oldest, newest, newest + 1], Some(1), Some(3));
        check(&[0, 1], Some(2), None);
        check(&[newest + 1], None, Some(0));
    }
}
