//! The SQS queue: messages that wait, messages in flight, and long polls.

use std::collections::VecDeque;

/// A standard queue. Delayed messages are events of the simulation, and come here when their delay ends.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: VecDeque<u32>,
    in_flight: usize,
    quota: usize,
    /// Workers whose long poll is open, the oldest first.
    polls: VecDeque<u32>,
}

impl Queue {
    pub(crate) fn new(quota: usize) -> Self {
        Self { waiting: VecDeque::new(), in_flight: 0, quota, polls: VecDeque::new() }
    }

    /// Adds a message that can be received.
    pub(crate) fn add(&mut self, message: u32) {
        self.waiting.push_back(message);
    }

    /// Opens a long poll, which gets messages by [`Queue::answer`].
    pub(crate) fn poll(&mut self, worker: u32) {
        self.polls.push_back(worker);
    }

    /// Closes a worker's long poll. Returns whether it was open.
    pub(crate) fn close(&mut self, worker: u32) -> bool {
        let open = self.polls.iter().position(|poll| *poll == worker);
        open.is_some_and(|at| self.polls.remove(at).is_some())
    }

    /// The oldest long poll that can be answered now. While the quota of messages in flight is reached, none can.
    pub(crate) fn answer(&mut self) -> Option<u32> {
        if self.waiting.is_empty() || self.in_flight >= self.quota { None } else { self.polls.pop_front() }
    }

    /// Receives up to `most` messages. They are in flight until [`Queue::leave`].
    pub(crate) fn receive(&mut self, most: usize, into: &mut Vec<u32>) {
        let count = most.min(self.waiting.len()).min(self.quota.saturating_sub(self.in_flight));
        into.extend(self.waiting.drain(..count));
        self.in_flight += count;
    }

    /// Ends the flight of messages: they were deleted, or their visibility timeout ended.
    pub(crate) fn leave(&mut self, count: usize) {
        self.in_flight -= count;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_in_flight_until_they_leave() {
        let mut queue = Queue::new(5);
        (0..8).for_each(|message| queue.add(message));
        let mut received = Vec::new();
        queue.receive(3, &mut received);
        assert_eq!((received.as_slice(), queue.waiting(), queue.in_flight()), ([0, 1, 2].as_slice(), 5, 3));
        queue.receive(10, &mut received);
        assert_eq!((received.len(), queue.in_flight()), (5, 5), "the quota");
        queue.poll(7);
        assert_eq!(queue.answer(), None, "the quota is reached");
        queue.leave(1);
        assert_eq!(queue.answer(), Some(7));
        queue.receive(10, &mut received);
        assert_eq!((received.last(), queue.in_flight()), (Some(&5), 5));
    }

    #[test]
    fn the_oldest_poll_is_answered_first() {
        let mut queue = Queue::new(5);
        (1..=3).for_each(|worker| queue.poll(worker));
        assert_eq!(queue.answer(), None, "no message waits");
        assert!(queue.close(1) && !queue.close(1));
        queue.add(0);
        assert_eq!((queue.answer(), queue.answer()), (Some(2), Some(3)));
    }
}
