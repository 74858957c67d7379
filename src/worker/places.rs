//! Counts the messages that this worker has hidden until their retry. SQS counts hidden messages as in flight, and allows about
//! 120,000 messages in flight for all consumers of a queue together.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Limited number of places for hidden messages.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    /// When each taken place comes free.
    taken: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl Places {
    /// Creates `limit` places, all free.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: Mutex::default() }
    }

    /// Takes a place for `time` and returns true, or returns false if no place is free.
    pub(super) fn take(&self, time: Duration) -> bool {
        // The heap is valid after every statement, so the lock is usable after a panic.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while taken.peek().is_some_and(|Reverse(until)| *until <= now) {
            taken.pop();
        }
        let free = taken.len() < self.limit;
        if free {
            taken.push(Reverse(now + time));
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn places_come_free_when_their_time_is_over() {
        let second = Duration::from_secs(1);
        let places = Places::new(2);
        assert!(places.take(3 * second) && places.take(second));
        assert!(!places.take(second));
        tokio::time::advance(second).await;
        assert!(places.take(second), "the place that was taken for one second is free again");
        assert!(!places.take(second));
        tokio::time::advance(2 * second).await;
        assert!(places.take(second) && places.take(second));
        assert!(!Places::new(0).take(second));
    }
}
