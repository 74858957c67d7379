//! Counts in memory, for tests. Tests can make writing fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Count, CountStore, Subject, Window, WindowCounts};
use crate::ledger::LedgerError;

/// Tenant and delivery, window, object, part.
type Key = ((String, String), Window, String, u32);

/// The counts. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryCounts {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    counts: BTreeMap<Key, WindowCounts>,
    failing: usize,
}

impl MemoryCounts {
    /// Makes the next `writes` writes fail, after they have taken effect in part.
    pub fn fail(&self, writes: usize) {
        self.state().failing = writes;
    }

    /// All counts of a delivery by place and stream, and its rejected events.
    pub fn of(&self, tenant_id: &str, delivery: &str) -> (BTreeMap<(String, String), Count>, u64) {
        let (mut found, mut rejected) = (BTreeMap::new(), 0);
        for ((owner, ..), counts) in &self.state().counts {
            if (owner.0.as_str(), owner.1.as_str()) != (tenant_id, delivery) {
                continue;
            }
            rejected += counts.rejected;
            for (stream, count) in &counts.streams {
                *found.entry((counts.place.clone(), stream.clone())).or_insert_with(Count::default) += *count;
            }
        }
        (found, rejected)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountStore for MemoryCounts {
    async fn write(&self, subject: &Subject, counts: &[WindowCounts]) -> Result<(), LedgerError> {
        let mut state = self.state();
        let fails = state.failing > 0;
        state.failing = state.failing.saturating_sub(1);
        let written = if fails { counts.len() / 2 } else { counts.len() };
        for counts in &counts[..written] {
            let owner = (subject.tenant_id.clone(), subject.delivery.clone());
            let key = (owner, counts.window, subject.object.clone(), counts.part);
            state.counts.insert(key, counts.clone());
        }
        if fails { Err(LedgerError::Unavailable("the table is down".to_owned())) } else { Ok(()) }
    }
}
