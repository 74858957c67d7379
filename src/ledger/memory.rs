//! A ledger in memory, for tests: leases by tokio's clock, and down when it is told to be.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Begun, EntryKey, Ledger, LedgerError, Position};

/// All entries; clones share them.
#[derive(Clone, Debug)]
pub struct MemoryLedger {
    lease: Duration,
    call_time: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<EntryKey, Entry>,
    checkpoints: Vec<Position>,
    calls: usize,
    down: bool,
}

#[derive(Debug, Default)]
struct Entry {
    lease: Option<(String, Instant)>,
    position: Position,
    done: bool,
}

impl Entry {
    /// Whether `owner` may have the lease, or for how long another's still holds.
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
    /// An empty one.
    pub fn new(lease: Duration) -> Self {
        Self { lease, call_time: Duration::ZERO, state: Arc::default() }
    }

    /// Takes effect after that long, and answers after as much again.
    pub fn with_call_time(self, call_time: Duration) -> Self {
        Self { call_time, ..self }
    }

    /// From now on every call fails, or none does.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// The positions of all checkpoints so far that moved an entry on, in order.
    pub fn checkpoints(&self) -> Vec<Position> {
        self.state().checkpoints.clone()
    }

    /// Takes everybody's lease away, as if another worker had waited for its end.
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
        if state.down { Err(LedgerError::Unavailable("down".to_owned())) } else { Ok(state) }
    }

    /// Changes the entry of somebody who has the lease, or may take it.
    fn change(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
        change: impl FnOnce(&mut Entry),
    ) -> Result<(), LedgerError> {
        let mut state = self.called()?;
        let entry = state.entries.entry(key.clone()).or_default();
        if entry.done || entry.free_for(owner).is_err() {
            return Err(LedgerError::Lost(key.object.clone()));
        }
        let moved = position > entry.position;
        entry.position = entry.position.max(position);
        change(entry);
        if moved {
            state.checkpoints.push(position);
        }
        Ok(())
    }
}

impl MemoryLedger {
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
        Ok(Begun::Ours(entry.position))
    }
}

impl Ledger for MemoryLedger {
    async fn begin(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        self.slowly(|| self.take(key, owner)).await
    }

    async fn renew(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        let renew = |entry: &mut Entry| entry.lease = Some((owner.to_owned(), Instant::now() + self.lease));
        self.slowly(|| self.change(key, owner, Position::default(), renew)).await
    }

    async fn checkpoint(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        let renew = |entry: &mut Entry| entry.lease = Some((owner.to_owned(), Instant::now() + self.lease));
        let ahead = || self.state().entries.get(key).is_some_and(|entry| entry.position > position);
        self.slowly(|| match ahead() {
            true => Err(LedgerError::Lost(key.object.clone())),
            false => self.change(key, owner, position, renew),
        })
        .await
    }

    async fn restart(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        let restart = |entry: &mut Entry| (entry.lease, entry.position) = (None, Position::default());
        self.slowly(|| self.change(key, owner, Position::default(), restart)).await
    }

    async fn release(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        self.slowly(|| self.change(key, owner, position, |entry| entry.lease = None)).await
    }

    async fn finish(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        let end = |entry: &mut Entry| (entry.lease, entry.done) = (None, true);
        self.slowly(|| self.change(key, owner, position, end)).await
    }
}
