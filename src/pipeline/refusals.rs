//! Counts how often AWS refused a part of each message.
//!
//! The number of receives cannot serve as this count: a message is also received again after other waits, for example for
//! its tenant's turn. A message that is sent anew carries its count. A hidden message cannot be changed, so the worker
//! remembers its count. Another worker, or this worker after a restart, does not know the remembered count: it starts from
//! the count that the message carries, and retries a few times more.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::queue::Message;

/// Most messages whose count is remembered. An id has 36 bytes.
const MAX_REMEMBERED: usize = 10_000;

/// Remembers counts by message id.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, u32>>);

impl Refusals {
    /// Number of refusals before this receive.
    pub(super) fn before(&self, message: &Message) -> u32 {
        self.with(|counts| counts.get(&message.id).copied().unwrap_or_default().max(message.refusals))
    }

    /// Remembers the number of refusals so far.
    pub(super) fn remember(&self, message: &Message, refusals: u32) {
        self.with(|counts| {
            if counts.len() >= MAX_REMEMBERED && !counts.contains_key(&message.id) {
                // Any count may be forgotten: its message is then retried a few times more.
                let other = counts.keys().next().cloned();
                other.map(|other| counts.remove(&other));
            }
            counts.insert(message.id.clone(), refusals);
        });
    }

    /// Forgets a message that will not come again.
    pub(super) fn forget(&self, message: &Message) {
        self.with(|counts| counts.remove(&message.id));
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, u32>) -> T) -> T {
        // The map is consistent after every statement, so a poisoned lock can be used.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_counts_is_bounded_and_the_higher_count_holds() {
        let refusals = Refusals::default();
        let message = |number: usize| Message::sample(&number.to_string());
        for number in 0..2 * MAX_REMEMBERED {
            refusals.remember(&message(number), 2);
        }
        assert_eq!(refusals.with(|counts| counts.len()), MAX_REMEMBERED);
        let last = message(2 * MAX_REMEMBERED - 1);
        assert_eq!(refusals.before(&last), 2);
        assert_eq!(refusals.before(&Message { refusals: 5, ..last.clone() }), 5);
        refusals.forget(&last);
        assert_eq!(refusals.before(&last), 0);
    }
}
