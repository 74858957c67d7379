//! Checks the provider's side, from the staging bucket's notifications to the ledger. Each file judges one kind of resource; the
//! judgements are pure.

mod bucket;
mod identity;
mod queue;
pub(super) mod tables;
mod topic;

use std::time::Duration;

use super::Finding;
use crate::wiring::Unread;

/// The result for something that cannot be read. `fix` is for a resource that does not exist.
fn unread(what: &str, error: &Unread, fix: &str) -> Finding {
    match error {
        Unread::Missing(problem) => Finding::failed(format!("{what} does not exist: {problem}"), fix),
        Unread::Denied { .. } | Unread::Unavailable(_) | Unread::NotBuilt => {
            Finding::Skipped(format!("{what}: {error}"))
        }
    }
}

/// A time in whole seconds for people: `3 days 15 min`.
fn readable(time: Duration) -> String {
    let units = [(86_400, "days"), (3_600, "h"), (60, "min"), (1, "s")];
    let mut left = time.as_secs();
    let mut parts = Vec::new();
    for (unit, name) in units {
        let number = left / unit;
        left %= unit;
        match (number, name) {
            (0, _) => {}
            (1, "days") => parts.push("1 day".to_owned()),
            _ => parts.push(format!("{number} {name}")),
        }
    }
    if parts.is_empty() { "0 s".to_owned() } else { parts.join(" ") }
}

/// About how long a time is.
fn about(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3_600 => format!("{} min", seconds / 60),
        seconds @ 3_600..172_800 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}
