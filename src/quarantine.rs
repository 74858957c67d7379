//! The port to the quarantine: a bucket for records that cannot be delivered. [`s3`] is the adapter.
//!
//! `file` defines the format of the files and of their keys; `prefix` is the configured start of the keys.

mod file;
pub mod memory;
mod prefix;
pub mod s3;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

pub use self::{
    file::{FileName, QuarantineFile, Shelf},
    prefix::QuarantinePrefix,
};
pub use crate::ledger::owed::QuarantineReason;
use crate::{
    event::ObjectRef,
    metrics::{Reason, add},
    sampler::LineSampler,
};

/// Keeps files. A file that is written again under the same key replaces the old one.
pub trait QuarantineStore: fmt::Debug + Send + Sync + 'static {
    /// Writes one file, completely or not at all.
    ///
    /// # Errors
    /// See [`QuarantineError`]. The file may have been written nevertheless.
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> WriteFuture<'a>;
}

/// Future of [`QuarantineStore::put`]. It is boxed, because the store is chosen at start-up; files are rare, so the cost does not
/// matter.
pub type WriteFuture<'a> = Pin<Box<dyn Future<Output = Result<(), QuarantineError>> + Send + 'a>>;

/// A file that could not be written. Its records are not in the quarantine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quarantine file {key:?} cannot be written: {problem}")]
pub struct QuarantineError {
    /// Key of the file.
    pub key: String,
    /// Cause and remedy.
    pub problem: String,
}

/// Metrics of the quarantine.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_quarantined_total{reason}`: lines written to the quarantine. A record that was split may have several lines,
    /// and a repeated delivery counts its lines again.
    pub quarantined: Family<Reason, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "quarantined", "Lines written to the quarantine", &self.quarantined);
    }
}

/// The quarantine of a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Quarantine {
    store: Arc<dyn QuarantineStore>,
    prefix: QuarantinePrefix,
    metrics: Metrics,
    /// Samples the log lines of files, by tenant.
    sampler: Arc<LineSampler>,
}

/// A store that keeps nothing.
#[derive(Clone, Copy, Debug)]
struct NoFiles;

impl QuarantineStore for NoFiles {
    fn put<'a>(&'a self, _key: &'a str, _body: Bytes) -> WriteFuture<'a> {
        Box::pin(async { Ok(()) })
    }
}

impl Quarantine {
    /// A quarantine that takes every file and keeps nothing, for deliveries that only count or show what they would deliver.
    pub fn without_files() -> Self {
        let prefix = QuarantinePrefix::parse(QuarantinePrefix::DEFAULT).expect("the default is right");
        Self::new(Arc::new(NoFiles), prefix, Metrics::default())
    }

    /// Keeps files in `store` under `prefix`.
    pub fn new(store: Arc<dyn QuarantineStore>, prefix: QuarantinePrefix, metrics: Metrics) -> Self {
        Self { store, prefix, metrics, sampler: Arc::default() }
    }

    /// Opens the shelf for the records of one object that one delivery cannot deliver.
    pub fn shelf(&self, object: &ObjectRef, tenant_id: &str, delivery: &str) -> Shelf {
        Shelf::new(self.clone(), object, tenant_id, delivery)
    }
}

#[cfg(test)]
mod tests;
