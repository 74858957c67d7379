//! Entries of several objects that share a call to the ledger (src/batcher.rs and src/ledger/dynamodb/together.rs of the worker).

use std::collections::VecDeque;

use crate::{
    clock::Time,
    settings::{BUSY_ENTRIES, BUSY_FOR, MAX_STATEMENTS},
};

/// Entries of one kind that wait for the next call of their worker.
#[derive(Debug)]
pub(crate) struct Together {
    /// Shortest time between two calls while many entries come.
    pace: Time,
    waiting: Vec<u32>,
    /// When the next call is made.
    due: Time,
    last_call: Time,
    /// When the latest entries were sent.
    sent: VecDeque<Time>,
}

/// When an entry's call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// At once: the call is full.
    Now,
    /// At this time. Other entries may join until then.
    At(Time),
    /// With an entry that came before.
    Joined,
}

impl Together {
    pub(crate) fn new(pace: Time) -> Self {
        Self { pace, waiting: Vec::new(), due: 0, last_call: 0, sent: VecDeque::new() }
    }

    pub(crate) fn add(&mut self, entry: u32, now: Time) -> Call {
        self.waiting.push(entry);
        match self.waiting.len() {
            MAX_STATEMENTS => Call::Now,
            1 => {
                let busy = self.sent.len() == BUSY_ENTRIES && now - self.sent[0] <= BUSY_FOR;
                self.due = if busy { now.max(self.last_call + self.pace) } else { now };
                Call::At(self.due)
            }
            _ => Call::Joined,
        }
    }

    /// Whether the call that was planned for this time is still to be made.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        !self.waiting.is_empty() && self.due == now
    }

    /// Makes the call: returns its entries.
    pub(crate) fn call(&mut self, now: Time) -> Vec<u32> {
        self.last_call = now;
        let more = self.waiting.len().min(BUSY_ENTRIES);
        self.sent.extend(std::iter::repeat_n(now, more));
        self.sent.drain(..self.sent.len().saturating_sub(BUSY_ENTRIES));
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chance::Chance,
        clock::{Clock, MILLISECOND, SECOND, seconds},
    };

    const PACE: Time = 10 * MILLISECOND;

    /// Times in milliseconds and lengths of the calls for entries at these times.
    fn calls(arrivals: &[Time]) -> Vec<(Time, usize)> {
        let (mut clock, mut together, mut calls) = (Clock::new(), Together::new(PACE), Vec::new());
        arrivals.iter().for_each(|at| clock.at(*at, true));
        while let Some(arrives) = clock.next_before(Time::MAX) {
            let now = clock.now();
            let made = match arrives {
                true => match together.add(0, now) {
                    Call::Now => true,
                    Call::At(at) => {
                        clock.at(at, false);
                        false
                    }
                    Call::Joined => false,
                },
                false => together.is_due(now),
            };
            if made {
                calls.push((now / MILLISECOND, together.call(now).len()));
            }
        }
        calls
    }

    #[test]
    fn entries_wait_for_others_only_while_many_come() {
        let at =
            |milliseconds: &[u64]| calls(&milliseconds.iter().map(|at| at * MILLISECOND).collect::<Vec<_>>());
        assert_eq!(at(&[0, 0, 1, 2, 3]), [(0, 2), (1, 1), (2, 1), (3, 1)], "few come");
        // Eight entries came within 20 ms, so the ninth waits until 10 ms after the last call.
        assert_eq!(at(&[100, 100, 100, 100, 105, 105, 105, 105, 106, 109]), [(100, 4), (105, 4), (115, 2)]);
        assert_eq!(at(&[100, 100, 100, 100, 105, 105, 105, 105, 121]), [(100, 4), (105, 4), (121, 1)]);
    }

    #[test]
    fn a_full_call_does_not_wait() {
        let mut arrivals = vec![SECOND; 8];
        arrivals.extend([SECOND + MILLISECOND; 26]);
        assert_eq!(calls(&arrivals), [(1000, 8), (1001, 25), (1011, 1)]);
    }

    #[test]
    fn a_busy_batcher_makes_a_call_per_pace() {
        let mut chance = Chance::new(1);
        let (mut at, mut arrivals) = (0, Vec::new());
        while at < seconds(20.0) {
            at += chance.interval(1500.0);
            arrivals.push(at);
        }
        // A call per 10 ms, with 15 entries on average.
        let calls = calls(&arrivals).len();
        assert!((1980..2040).contains(&calls), "{calls}");
    }
}
