//! What attempts before owed to the quarantine, as it is found again.

use crate::{
    ledger::owed::Owed,
    quarantine::{QuarantineFile, QuarantineReason},
};

/// The records that are owed when an attempt begins.
#[derive(Debug)]
pub(super) struct Due {
    owed: Owed,
    /// The next of them; none comes at [`u64::MAX`].
    next: u64,
    reason: QuarantineReason,
    /// Those that were found, and are not in quarantine yet.
    pub(super) file: QuarantineFile,
}

impl Due {
    /// All of these.
    pub(super) fn of(owed: Owed) -> Self {
        let (next, reason) = owed.next(0).unwrap_or((u64::MAX, QuarantineReason::Malformed));
        Self { owed, next, reason, file: QuarantineFile::default() }
    }

    /// Why that record is owed, if it is. Records are asked for in order, each once.
    pub(super) fn find(&mut self, record: u64) -> Option<QuarantineReason> {
        if record != self.next {
            return None;
        }
        let reason = self.reason;
        match self.owed.next(record + 1) {
            Some((next, reason)) => (self.next, self.reason) = (next, reason),
            None => self.next = u64::MAX,
        }
        Some(reason)
    }
}
