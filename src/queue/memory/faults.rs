//! Faults of the in-memory queue: calls that fail, are slow, or lose their answers, and entries that fail.

use std::{collections::HashMap, ops::RangeInclusive, time::Duration};

use super::{MemoryQueue, QueueError, QueueOperation};

/// The faults that a test asked for. Calls are counted from 1 for each operation.
#[derive(Debug, Default)]
pub(super) struct Faults {
    counts: HashMap<QueueOperation, usize>,
    failing_calls: Vec<(QueueOperation, RangeInclusive<usize>)>,
    lost_answers: Vec<(QueueOperation, RangeInclusive<usize>)>,
    slow_calls: Vec<(QueueOperation, RangeInclusive<usize>, Duration)>,
    failing_entries: Vec<(QueueOperation, String, usize)>,
}

/// Faults of one call.
#[derive(Debug)]
pub(super) struct Plan {
    /// How long the call takes.
    pub(super) time: Duration,
    /// An error if the whole call fails.
    pub(super) result: Result<(), QueueError>,
    /// An error if the answer is lost, though the call takes effect.
    pub(super) answer: Result<(), QueueError>,
}

impl Faults {
    /// Counts a call and returns its faults.
    pub(super) fn next(&mut self, operation: QueueOperation) -> Plan {
        let count = self.counts.entry(operation).or_default();
        *count += 1;
        let count = *count;
        let hits = |faults: &[(QueueOperation, RangeInclusive<usize>)], problem: &str| {
            let hit = faults.iter().any(|(which, calls)| *which == operation && calls.contains(&count));
            if hit { Err(QueueError::Unavailable(problem.to_owned())) } else { Ok(()) }
        };
        let slow =
            self.slow_calls.iter().find(|(which, calls, _)| *which == operation && calls.contains(&count));
        Plan {
            time: slow.map_or(Duration::ZERO, |(_, _, time)| *time),
            result: hits(&self.failing_calls, "the test makes this call fail"),
            answer: hits(&self.lost_answers, "the test loses this answer"),
        }
    }

    /// Counts an entry.
    ///
    /// # Errors
    /// The test asked for this entry to fail.
    pub(super) fn entry(&mut self, operation: QueueOperation, body: &str) -> Result<(), QueueError> {
        let fault = self
            .failing_entries
            .iter_mut()
            .find(|(which, whose, times)| *which == operation && whose == body && *times > 0);
        match fault {
            None => Ok(()),
            Some((_, _, times)) => {
                *times -= 1;
                Err(QueueError::Unavailable("the test makes this entry fail".into()))
            }
        }
    }
}

impl MemoryQueue {
    /// Makes whole calls of an operation fail.
    pub fn fail_calls(&self, operation: QueueOperation, calls: RangeInclusive<usize>) {
        self.lock().faults.failing_calls.push((operation, calls));
    }

    /// Loses the answers to batch calls, which still take effect.
    pub fn lose_answers(&self, operation: QueueOperation, calls: RangeInclusive<usize>) {
        self.lock().faults.lost_answers.push((operation, calls));
    }

    /// Makes calls take `time`. A slow receive takes messages at its beginning and returns them at its end; every other
    /// slow call takes effect at its end.
    pub fn slow_calls(&self, operation: QueueOperation, calls: RangeInclusive<usize>, time: Duration) {
        self.lock().faults.slow_calls.push((operation, calls, time));
    }

    /// Makes the next `times` entries for one message fail. The other entries of these calls succeed.
    pub fn fail_entry(&self, operation: QueueOperation, body: &str, times: usize) {
        self.lock().faults.failing_entries.push((operation, body.to_owned(), times));
    }
}
