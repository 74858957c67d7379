//! The port to the places of watches: how far `logferry replay --watch` has come, kept in the ledger's table.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

use super::LedgerError;

/// Names a watch by the objects that it watches. Watches of the same objects share their place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Watch(pub String);

/// Stores the place of each watch. A place is a LastModified: every object that is older has been dealt with.
pub trait WatchPlaces: Send + Sync + 'static {
    /// Reads the place. `None` if the watch never had one.
    ///
    /// # Errors
    /// The table cannot be used, or the place cannot be read.
    fn place(&self, watch: &Watch) -> impl Future<Output = Result<Option<Timestamp>, LedgerError>> + Send;

    /// Moves the place forward. If the place is already there or further, nothing changes, so a repeated call is harmless.
    ///
    /// # Errors
    /// The table cannot be used.
    fn advance(&self, watch: &Watch, to: Timestamp) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// The places of watches in memory, for tests. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryWatchPlaces(Arc<Mutex<HashMap<Watch, Timestamp>>>);

impl WatchPlaces for MemoryWatchPlaces {
    async fn place(&self, watch: &Watch) -> Result<Option<Timestamp>, LedgerError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(watch).copied())
    }

    async fn advance(&self, watch: &Watch, to: Timestamp) -> Result<(), LedgerError> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(watch.clone()).or_insert(to);
        *place = to.max(*place);
        Ok(())
    }
}
