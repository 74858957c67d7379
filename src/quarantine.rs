//! The port to the quarantine: a bucket for records that CloudWatch Logs does not take. [`s3`] is the adapter.
//!
//! `file` has the format of the files and their keys, `prefix` the configured start of the keys.

mod file;
#[cfg(test)]
pub mod memory;
mod prefix;
pub mod s3;

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

pub use self::{
    file::{FileName, QuarantineFile, Shelf},
    prefix::QuarantinePrefix,
};
use crate::{batch::Rejection, event::ObjectRef, metrics::Metrics};

/// Keeps files. Writing a key again replaces its file.
pub trait QuarantineStore: fmt::Debug + Send + Sync + 'static {
    /// Writes one file, completely or not at all.
    ///
    /// # Errors
    /// See [`QuarantineError`]. The file may be there all the same.
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> Putting<'a>;
}

/// Result of [`QuarantineStore::put`]. Boxed, because the store is chosen at start-up and files are rare.
pub type Putting<'a> = Pin<Box<dyn Future<Output = Result<(), QuarantineError>> + Send + 'a>>;

/// A file that could not be written. Its records are not accounted for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quarantine file {key:?} cannot be written: {problem}")]
pub struct QuarantineError {
    /// Key of the file.
    pub key: String,
    /// Cause and remedy.
    pub problem: String,
}

/// Why a record is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuarantineReason {
    /// CloudWatch Logs rejected the record.
    Rejected(Rejection),
    /// Longer than the limit of one event, and the tenant does not want it split.
    Oversize,
    /// Not a record.
    Malformed,
    /// Longer than `source.max_record`. The line has the record's place in the object instead of its text.
    TooLong,
}

impl QuarantineReason {
    /// Whether the record counts as quarantined once its file is written. Rejected records counted as rejected when CloudWatch
    /// Logs answered.
    pub fn counts_in_quarantine(self) -> bool {
        match self {
            Self::Rejected(_) => false,
            Self::Oversize | Self::Malformed | Self::TooLong => true,
        }
    }

    /// Name of the reason in lines and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected(Rejection::Refused) => "refused",
            Self::Rejected(Rejection::TooOld) => "too_old",
            Self::Rejected(Rejection::TooNew) => "too_new",
            Self::Rejected(Rejection::Expired) => "expired",
            Self::Oversize => "oversize",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }
}

/// The quarantine of a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Quarantine {
    store: Arc<dyn QuarantineStore>,
    prefix: QuarantinePrefix,
    metrics: Metrics,
}

impl Quarantine {
    /// Keeps files in `store` under `prefix`.
    pub fn new(store: Arc<dyn QuarantineStore>, prefix: QuarantinePrefix, metrics: Metrics) -> Self {
        Self { store, prefix, metrics }
    }

    /// Opens the shelf for the records of one object that one delivery cannot deliver.
    pub fn shelf(&self, object: &ObjectRef, tenant_id: &str, delivery: &str) -> Shelf {
        Shelf::new(self.clone(), object, tenant_id, delivery)
    }
}

#[cfg(test)]
mod tests;
