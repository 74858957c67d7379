//! Finds the events for which a request is refused. Pure.
//!
//! CloudWatch Logs refuses a whole request and does not name the event. So the request is put again in halves, the first half
//! first, down to single events; the other events still arrive in order. A request that is a single event from the start is put a
//! second time. If both halves of a half are refused and the group accepted nothing before, the group is to blame, and the search
//! ends.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::batch::Part;

/// Most requests from one blamed event to the next. One refused event among 10,000 is found with 30 requests; before them,
/// at most 13 halves are put that have no refused event.
const MAX_REQUESTS: u32 = 43;
/// Most events of one batch that are blamed.
const MAX_EVENTS: u32 = 16;
/// Most events in a row that are blamed. More refusals in a row have a common cause.
const MAX_IN_A_ROW: u32 = 8;

/// How the group answered the requests of one object's delivery so far.
#[derive(Debug, Default)]
pub(super) struct History {
    took_some: AtomicBool,
    refused_in_a_row: AtomicU32,
}

impl History {
    /// Notes that the group took a request.
    pub(super) fn taken(&self) {
        self.took_some.store(true, Ordering::Relaxed);
        self.refused_in_a_row.store(0, Ordering::Relaxed);
    }

    /// Notes that the group refused a single event. Returns whether the event is to blame.
    pub(super) fn refused(&self) -> bool {
        self.refused_in_a_row.fetch_add(1, Ordering::Relaxed) < MAX_IN_A_ROW
    }

    /// Whether the group took any request.
    pub(super) fn took_some(&self) -> bool {
        self.took_some.load(Ordering::Relaxed)
    }
}

/// Search for the refused events of one batch.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Halves to put, the next one last.
    waiting: Vec<Half>,
    /// The half that is being put. `None` if the part is put for the first time.
    current: Option<Half>,
    /// Requests since the last event was found.
    requests: u32,
    events: u32,
}

#[derive(Clone, Debug)]
struct Half {
    part: Part,
    /// Whether this is a half of a half.
    is_quarter: bool,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second { first_was_refused: bool },
}

/// Meaning of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalMeaning {
    /// Not known yet: the halves of the part are put next, or a single event is put again.
    Again,
    /// The part is one event, and the event is to blame.
    Event,
    /// No event is to blame, or too many are.
    Group,
}

impl Blame {
    /// Takes the half to put next. `None` if no search is running.
    pub(super) fn next(&mut self) -> Option<Part> {
        self.current = self.waiting.pop();
        self.requests += u32::from(self.current.is_some());
        self.current.as_ref().map(|half| half.part.clone())
    }

    /// Notes that the part was refused, and decides what that means. `took_some`: the group accepted a request before.
    pub(super) fn refused(&mut self, part: Part, took_some: bool) -> RefusalMeaning {
        let half = self.current.take();
        match half.as_ref().map(|half| half.side) {
            None => self.requests += 1,
            Some(Side::First) => {
                if let Some(Half { side: Side::Second { first_was_refused }, .. }) = self.waiting.last_mut() {
                    *first_was_refused = true;
                }
            }
            Some(Side::Second { first_was_refused: false }) => {}
            Some(Side::Second { first_was_refused: true })
                if !took_some && half.as_ref().is_some_and(|half| half.is_quarter) =>
            {
                return RefusalMeaning::Group;
            }
            Some(Side::Second { first_was_refused: true }) => {}
        }
        if self.requests >= MAX_REQUESTS {
            return RefusalMeaning::Group;
        }
        if part.len() <= 1 {
            if half.is_some() {
                self.requests = 0;
                self.events += 1;
                return if self.events > MAX_EVENTS { RefusalMeaning::Group } else { RefusalMeaning::Event };
            }
            self.waiting.push(Half { part, is_quarter: false, side: Side::First });
            return RefusalMeaning::Again;
        }
        let middle = part.start + part.len() / 2;
        let is_quarter = half.is_some();
        let second = Side::Second { first_was_refused: false };
        self.waiting.push(Half { part: middle..part.end, is_quarter, side: second });
        self.waiting.push(Half { part: part.start..middle, is_quarter, side: Side::First });
        RefusalMeaning::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts events, some of which are refused. Returns the blamed events and the number of requests.
    fn search(events: usize, is_bad: impl Fn(usize) -> bool) -> (Option<Vec<usize>>, u32) {
        let (mut blame, mut blamed, mut requests, mut from) = (Blame::default(), Vec::new(), 0, 0);
        let mut arrived = Vec::new();
        while from < events {
            let part = blame.next().unwrap_or(from..events);
            assert_eq!(part.start, from, "events are put in order, and none is left out");
            requests += 1;
            if !part.clone().any(&is_bad) {
                arrived.extend(part.clone());
                from = part.end;
                continue;
            }
            match blame.refused(part.clone(), !arrived.is_empty()) {
                RefusalMeaning::Again => {}
                RefusalMeaning::Event => {
                    blamed.push(part.start);
                    from = part.end;
                }
                RefusalMeaning::Group => return (None, requests),
            }
        }
        let good: Vec<_> = (0..events).filter(|event| !is_bad(*event)).collect();
        assert_eq!(arrived, good, "the others arrive once and in order");
        (Some(blamed), requests)
    }

    #[test]
    fn one_event_is_found_wherever_it_is() {
        for events in [2, 3, 5, 100, 9_999, 10_000] {
            for bad in [0, 1, events / 3, events / 2, events - 1] {
                let (blamed, requests) = search(events, |event| event == bad);
                assert_eq!(blamed, Some(vec![bad]), "of {events}");
                assert!(requests <= 30, "{requests} requests for {bad} of {events}");
            }
        }
    }

    #[test]
    fn one_event_in_each_half_is_found() {
        let (blamed, requests) = search(64, |event| matches!(event, 3 | 40));
        assert_eq!(blamed, Some(vec![3, 40]));
        assert!(requests <= MAX_REQUESTS, "{requests}");
    }

    #[test]
    fn neighbours_are_found_if_the_group_has_accepted_something() {
        for bad in [[4, 5], [6, 7]] {
            let (blamed, requests) = search(8, |event| bad.contains(&event));
            assert_eq!(blamed, Some(bad.to_vec()));
            assert!(requests <= MAX_REQUESTS, "{requests}");
        }
        assert_eq!(search(8, |event| event < 2).0, None, "the group took nothing before");
    }

    #[test]
    fn a_single_event_is_put_twice() {
        assert_eq!(search(1, |_| true), (Some(vec![0]), 2));
    }

    #[test]
    fn events_in_a_row_are_blamed_up_to_a_limit() {
        let history = History::default();
        assert!(!history.took_some());
        history.taken();
        assert!(history.took_some());
        assert!((0..MAX_IN_A_ROW).all(|_| history.refused()));
        assert!(!history.refused());
        history.taken();
        assert!(history.refused());
    }

    #[test]
    fn no_event_is_blamed_if_all_are_refused() {
        for events in [4, 100, 10_000] {
            let (blamed, requests) = search(events, |_| true);
            assert_eq!(blamed, None, "of {events}");
            assert!(requests <= 16, "{requests}");
        }
    }

    #[test]
    fn events_far_apart_are_found_up_to_a_limit() {
        for events in [4, 16, 17] {
            let (blamed, requests) = search(10_000, |event| event % (10_000 / events) == 17);
            let found = blamed.map(|blamed| blamed.len());
            assert_eq!(found, (events <= 16).then_some(events), "by {requests} requests");
            assert!(requests <= 360, "{requests}");
        }
        // The first event is found at once; the search for the last one begins with halves that are taken.
        let (blamed, requests) = search(10_000, |event| [0, 9_999].contains(&event));
        assert_eq!(blamed, Some(vec![0, 9_999]), "by {requests} requests");
    }
}
