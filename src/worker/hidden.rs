//! Counts the messages that this worker has hidden until their retry. SQS counts hidden messages as in flight, and allows about
//! 120,000 messages in flight for all consumers of a queue together.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Counts hidden messages, up to a limit.
#[derive(Debug)]
pub(super) struct HiddenMessages {
    limit: usize,
    /// When each of them becomes visible.
    until: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl HiddenMessages {
    /// Allows `limit` hidden messages. There are none yet.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, until: Mutex::default() }
    }

    /// Counts a message as hidden for `time` and returns true. Returns false if the limit is reached.
    pub(super) fn add(&self, time: Duration) -> bool {
        // The heap is valid after every statement, so the lock is usable after a panic.
        let mut ends = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        while ends.peek().is_some_and(|Reverse(end)| *end <= now) {
            ends.pop();
        }
        let allowed = ends.len() < self.limit;
        if allowed {
            ends.push(Reverse(now + time));
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_counts_until_it_is_visible() {
        let second = Duration::from_secs(1);
        let hidden = HiddenMessages::new(2);
        assert!(hidden.add(3 * second) && hidden.add(second));
        assert!(!hidden.add(second));
        tokio::time::advance(second).await;
        assert!(hidden.add(second), "the message that was hidden for one second is visible again");
        assert!(!hidden.add(second));
        tokio::time::advance(2 * second).await;
        assert!(hidden.add(second) && hidden.add(second));
        assert!(!HiddenMessages::new(0).add(second));
    }
}
