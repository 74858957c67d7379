//! Counts the messages that this worker has hidden: each takes a place in flight, of which SQS has some 120,000 for all of a
//! queue's consumers.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Places that hidden messages may take, and those that are taken, by when each comes free.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    taken: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl Places {
    /// So many, all free.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, taken: Mutex::default() }
    }

    /// Takes one for that long, if one is free.
    pub(super) fn take(&self, time: Duration) -> bool {
        // A heap of times is right after every statement, so a panic elsewhere leaves nothing half done.
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
        assert!(places.take(second), "the second one's");
        assert!(!places.take(second));
        tokio::time::advance(2 * second).await;
        assert!(places.take(second) && places.take(second));
        assert!(!Places::new(0).take(second));
    }
}
