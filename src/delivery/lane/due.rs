//! Finds the records that earlier attempts owed to the quarantine, while the object is read again.

use crate::{
    ledger::owed::Owed,
    quarantine::{QuarantineFile, QuarantineReason},
};

/// The records that are owed when an attempt begins.
#[derive(Debug)]
pub(super) struct Due {
    owed: Owed,
    /// The next owed record; [`u64::MAX`] if none is left.
    next: u64,
    reason: QuarantineReason,
    /// Owed records that were found, but are not in quarantine yet.
    pub(super) file: QuarantineFile,
}

impl Due {
    /// Prepares to find the records of `owed`.
    pub(super) fn of(owed: Owed) -> Self {
        let (next, reason) = owed.next(0).unwrap_or((u64::MAX, QuarantineReason::Malformed));
        Self { owed, next, reason, file: QuarantineFile::default() }
    }

    /// Returns why the record is owed, or `None` if it is not. Call it once for each record, in order.
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
