//! How often AWS refused something of a message for what it is.
//!
//! Other waits (a tenant's turn, a role that lets nobody in) do not bring a message nearer to its last refusal, so the number of
//! receives cannot tell. A message that is sent anew carries the count. One that hides cannot be written to: the worker remembers
//! its count. Another worker, or this one after a restart, begins at what the message carries, and so asks a few times more.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::queue::Message;

/// Most messages whose count is remembered; an id has 36 bytes.
const MAX_REMEMBERED: usize = 10_000;

/// Remembers counts by message id.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, u32>>);

impl Refusals {
    /// How often the message was refused before this receive.
    pub(super) fn before(&self, message: &Message) -> u32 {
        self.with(|counts| counts.get(&message.id).copied().unwrap_or_default().max(message.refusals))
    }

    /// Remembers how often the message was refused by now.
    pub(super) fn remember(&self, message: &Message, refusals: u32) {
        self.with(|counts| {
            if counts.len() >= MAX_REMEMBERED && !counts.contains_key(&message.id) {
                // Which of them is forgotten does not matter.
                let other = counts.keys().next().cloned();
                other.map(|other| counts.remove(&other));
            }
            counts.insert(message.id.clone(), refusals);
        });
    }

    /// Forgets a message that does not come again.
    pub(super) fn forget(&self, message: &Message) {
        self.with(|counts| counts.remove(&message.id));
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<String, u32>) -> T) -> T {
        // A map is right after every statement, so a panic elsewhere leaves nothing half done.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_bounded_and_those_that_messages_carry_hold_too() {
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
