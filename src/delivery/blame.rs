//! Which events of a refused request are to blame. Pure.
//!
//! CloudWatch Logs refuses a request whole and does not say for which event. The request is put again in halves, the first half
//! first, down to single events: so the others arrive, in their order. Where both halves of a half are refused, the fault lies
//! with the group, and the search ends.

use crate::batch::Part;

/// Most requests of one search: one event among 10,000 takes 29.
const MAX_REQUESTS: u32 = 32;

/// A search within one batch.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Halves that are not put yet, the next one last.
    waiting: Vec<Half>,
    /// The half that is being put; none: a part that was not refused before.
    current: Option<Half>,
    requests: u32,
}

#[derive(Clone, Debug)]
struct Half {
    part: Part,
    /// It is a half of a half.
    is_quarter: bool,
    side: Side,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    First,
    Second { first_was_refused: bool },
}

/// What a refusal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Unknown yet: halves of the part come next.
    Halved,
    /// The part is one event, and the event is to blame.
    Event,
    /// No event is to blame, or too many are.
    Group,
}

impl Blame {
    /// The half to put next; none: the search is over, or has not begun.
    pub(super) fn next(&mut self) -> Option<Part> {
        self.current = self.waiting.pop();
        self.requests += u32::from(self.current.is_some());
        self.current.as_ref().map(|half| half.part.clone())
    }

    /// The part that was put last was refused.
    pub(super) fn refused(&mut self, part: Part) -> Refusal {
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
                if half.as_ref().is_some_and(|half| half.is_quarter) =>
            {
                return Refusal::Group;
            }
            Some(Side::Second { first_was_refused: true }) => {}
        }
        if self.requests >= MAX_REQUESTS {
            return Refusal::Group;
        }
        if part.len() <= 1 {
            return Refusal::Event;
        }
        let middle = part.start + part.len() / 2;
        let is_quarter = half.is_some();
        let second = Side::Second { first_was_refused: false };
        self.waiting.push(Half { part: middle..part.end, is_quarter, side: second });
        self.waiting.push(Half { part: part.start..middle, is_quarter, side: Side::First });
        Refusal::Halved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts so many events of which CloudWatch Logs refuses some, or all; says which are blamed and how many requests it took.
    fn search(events: usize, is_bad: impl Fn(usize) -> bool) -> (Option<Vec<usize>>, u32) {
        let (mut blame, mut blamed, mut requests, mut from) = (Blame::default(), Vec::new(), 0, 0);
        let mut arrived = Vec::new();
        while from < events {
            let part = blame.next().unwrap_or(from..events);
            assert_eq!(part.start, from, "in order, and nothing left out");
            requests += 1;
            if !part.clone().any(&is_bad) {
                arrived.extend(part.clone());
                from = part.end;
                continue;
            }
            match blame.refused(part.clone()) {
                Refusal::Halved => {}
                Refusal::Event => {
                    blamed.push(part.start);
                    from = part.end;
                }
                Refusal::Group => return (None, requests),
            }
        }
        let good: Vec<_> = (0..events).filter(|event| !is_bad(*event)).collect();
        assert_eq!(arrived, good, "each once, in order");
        (Some(blamed), requests)
    }

    #[test]
    fn one_event_is_found_wherever_it_is() {
        for events in [2, 3, 5, 100, 9_999, 10_000] {
            for bad in [0, 1, events / 3, events / 2, events - 1] {
                let (blamed, requests) = search(events, |event| event == bad);
                assert_eq!(blamed, Some(vec![bad]), "of {events}");
                assert!(requests <= 29, "{requests} requests for {bad} of {events}");
            }
        }
    }

    #[test]
    fn one_in_each_half_is_found() {
        let (blamed, requests) = search(64, |event| matches!(event, 3 | 40));
        assert_eq!(blamed, Some(vec![3, 40]));
        assert!(requests <= MAX_REQUESTS, "{requests}");
    }

    #[test]
    fn where_all_is_refused_no_event_is_to_blame() {
        for events in [4, 100, 10_000] {
            let (blamed, requests) = search(events, |_| true);
            assert_eq!(blamed, None, "of {events}");
            assert!(requests <= 16, "{requests}");
        }
    }

    #[test]
    fn a_search_has_an_end() {
        // One in each sixteenth: too many.
        let (blamed, requests) = search(10_000, |event| event % 5_000 == 17);
        assert!(blamed.is_none() && requests <= MAX_REQUESTS, "{blamed:?} by {requests}");
    }
}
