//! The simulated time and the events to come.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Nanoseconds since the simulation's start, or a length of time in nanoseconds.
pub(crate) type Time = u64;

pub(crate) const MILLISECOND: Time = 1_000_000;
pub(crate) const SECOND: Time = 1_000_000_000;

/// Converts seconds to nanoseconds.
pub(crate) fn seconds(seconds: f64) -> Time {
    (seconds * SECOND as f64) as Time
}

/// Converts nanoseconds to seconds.
pub(crate) fn in_seconds(time: Time) -> f64 {
    time as f64 / SECOND as f64
}

/// The events to come, and the time of the latest one that was taken.
#[derive(Debug)]
pub(crate) struct Clock<E> {
    now: Time,
    scheduled: u64,
    events: BinaryHeap<Scheduled<E>>,
}

#[derive(Debug)]
struct Scheduled<E> {
    at: Time,
    /// Events of the same time come in the order in which they were scheduled, so that a run can be repeated.
    number: u64,
    event: E,
}

impl<E> Clock<E> {
    pub(crate) fn new() -> Self {
        Self { now: 0, scheduled: 0, events: BinaryHeap::new() }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Schedules an event. A time in the past counts as now.
    pub(crate) fn at(&mut self, at: Time, event: E) {
        self.scheduled += 1;
        self.events.push(Scheduled { at: at.max(self.now), number: self.scheduled, event });
    }

    /// Schedules an event after a length of time.
    pub(crate) fn after(&mut self, wait: Time, event: E) {
        self.at(self.now + wait, event);
    }

    /// Takes the next event before `end`. If there is none, advances to `end`.
    pub(crate) fn next_before(&mut self, end: Time) -> Option<E> {
        if self.events.peek().is_none_or(|next| next.at >= end) {
            self.now = end;
            return None;
        }
        let Scheduled { at, event, .. } = self.events.pop()?;
        self.now = at;
        Some(event)
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    /// Reversed: `BinaryHeap` takes the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_scheduling() {
        let mut clock = Clock::new();
        for (at, event) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c'), (9, 'z')] {
            clock.at(at, event);
        }
        let mut taken = Vec::new();
        while let Some(event) = clock.next_before(5) {
            taken.push((clock.now(), event));
        }
        assert_eq!(taken, [(1, 'a'), (2, 'b'), (2, 'c'), (3, 'd')]);
        assert_eq!(clock.now(), 5, "the clock advances to the end");
        clock.at(2, 'p');
        assert_eq!((clock.next_before(6), clock.now()), (Some('p'), 5), "the past is now");
        let mut clock = Clock::new();
        (0..100).for_each(|number| clock.at(7, number));
        let taken: Vec<u32> = std::iter::from_fn(|| clock.next_before(8)).collect();
        assert!(taken.is_sorted(), "{taken:?}");
    }
}
