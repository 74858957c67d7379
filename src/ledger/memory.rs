//! A ledger in memory, for tests. Its leases follow tokio's clock, and tests can make its calls fail or throttle.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Begun, DeliveryProgress, EntryKey, Ledger, LedgerError, Position};

/// The ledger. Clones share its entries.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    lease: Duration,
    call_time: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<EntryKey, MemoryEntry>,
    checkpoints: Vec<Position>,
    calls: usize,
    down: bool,
    throttled: usize,
}

#[derive(Debug, Default)]
struct MemoryEntry {
    lease: Option<(String, Instant)>,
    progress: DeliveryProgress,
    done: bool,
}

impl MemoryEntry {
    /// Whether `owner` may take the lease. If not, how long another owner's lease still runs.
    fn free_for(&self, owner: &str) -> Result<(), Duration> {
        match &self.lease {
            Some((other, until)) if other != owner => match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => Ok(()),
                left => Err(left),
            },
            _ => Ok(()),
        }
    }
}

impl MemoryLedger {
    /// An empty ledger whose leases last for `lease`.
    pub fn new(lease: Duration) -> Self {
        Self { lease, call_time: Duration::ZERO, state: Arc::default() }
    }

    /// Makes each call take effect after `call_time`, and answer after the same time again.
    pub fn with_call_time(self, call_time: Duration) -> Self {
        Self { call_time, ..self }
    }

    /// Makes all later calls fail, or succeed again.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Throttles the next `calls` calls.
    pub fn throttle(&self, calls: usize) {
        self.state().throttled = calls;
    }

    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The positions that calls so far have moved an entry to, in order.
    pub fn checkpoints(&self) -> Vec<Position> {
        self.state().checkpoints.clone()
    }

    /// Removes the fingerprints from all entries, as if an old version without fingerprints had written them.
    pub fn forget_fingerprints(&self) {
        for entry in self.state().entries.values_mut() {
            entry.progress.fingerprints.clear();
        }
    }

    /// Ends every lease, as if its time had run out.
    pub fn let_leases_end(&self) {
        for entry in self.state().entries.values_mut() {
            entry.lease = None;
        }
    }

    /// Gives every lease to another owner, as if another worker had waited for its end.
    pub fn steal(&self) {
        let until = Instant::now() + self.lease;
        for entry in self.state().entries.values_mut() {
            entry.lease = Some(("a thief".to_owned(), until));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self) -> Result<MutexGuard<'_, State>, LedgerError> {
        let mut state = self.state();
        state.calls += 1;
        if state.down {
            return Err(LedgerError::Unavailable("down".to_owned()));
        }
        match state.throttled.checked_sub(1) {
            None => Ok(state),
            Some(left) => {
                state.throttled = left;
                Err(LedgerError::Throttled("slow down".to_owned()))
            }
        }
    }

    /// Changes an entry if `owner` has its lease or may take it.
    fn change(
        &self,
        key: &EntryKey,
        owner: &str,
        change: impl FnOnce(&mut MemoryEntry) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut state = self.called()?;
        let entry = state.entries.entry(key.clone()).or_default();
        if entry.done || entry.free_for(owner).is_err() {
            return Err(LedgerError::Lost(key.object.clone()));
        }
        let before = entry.progress.position;
        change(entry)?;
        let after = entry.progress.position;
        if after > before {
            state.checkpoints.push(after);
        }
        Ok(())
    }

    async fn slowly<T>(&self, effect: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        tokio::time::sleep(self.call_time).await;
        let answer = effect();
        tokio::time::sleep(self.call_time).await;
        answer
    }

    fn take(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        let until = Instant::now() + self.lease;
        let mut state = self.called()?;
        let entry = state.entries.entry(key.clone()).or_default();
        if entry.done {
            return Ok(Begun::Done);
        }
        if let Err(left) = entry.free_for(owner) {
            return Ok(Begun::Busy(left));
        }
        entry.lease = Some((owner.to_owned(), until));
        Ok(Begun::Ours(entry.progress.clone()))
    }
}

impl Ledger for MemoryLedger {
    async fn begin(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        self.slowly(|| self.take(key, owner)).await
    }

    async fn checkpoint(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        let record = |entry: &mut MemoryEntry| {
            if entry.progress.position > progress.position {
                return Err(LedgerError::Lost(key.object.clone()));
            }
            entry.progress = progress.clone();
            entry.lease = Some((owner.to_owned(), Instant::now() + self.lease));
            Ok(())
        };
        self.slowly(|| self.change(key, owner, record)).await
    }

    async fn restart(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        let restart = |entry: &mut MemoryEntry| {
            *entry = MemoryEntry::default();
            Ok(())
        };
        self.slowly(|| self.change(key, owner, restart)).await
    }

    async fn release(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        let release = |entry: &mut MemoryEntry| {
            if entry.progress.position <= progress.position {
                entry.progress = progress.clone();
            }
            entry.lease = None;
            Ok(())
        };
        self.slowly(|| self.change(key, owner, release)).await
    }

    async fn finish(
        &self,
        key: &EntryKey,
        owner: &str,
        _recorded: &DeliveryProgress,
        position: Position,
    ) -> Result<(), LedgerError> {
        let end = |entry: &mut MemoryEntry| {
            let progress = DeliveryProgress { position, ..DeliveryProgress::default() };
            *entry = MemoryEntry { progress, done: true, lease: None };
            Ok(())
        };
        self.slowly(|| self.change(key, owner, end)).await
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.slowly(|| self.called().map(drop)).await
    }
}
