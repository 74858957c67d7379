//! A customer's lake: files of records in the customer's bucket, partitioned by hour, for SQL.
//!
//! A [`LakeLane`] takes one object's records, like `delivery::Lane` does, so that one download serves both. It keeps one file
//! open for each hour (`file`), and writes small files by one PutObject and large ones part by part. A file's key depends only on
//! the object and the hour (`stem` and the row's layout), and a file appears whole or not at all. So an attempt that comes again
//! replaces the files of the attempt before, and a reader never sees a record twice. [`compact`] merges the small files of an
//! hour; the folder's [`manifest`] says which files count. [`bucket`] is the compaction's port, and [`s3`] the adapter of all.

#[cfg(feature = "tools")]
pub mod bucket;
#[cfg(feature = "tools")]
pub mod compact;
#[cfg(feature = "tools")]
pub mod ddl;
mod file;
mod known;
mod lane;
pub mod level;
#[cfg(feature = "tools")]
pub mod manifest;
pub mod memory;
pub mod ndjson;
#[cfg(feature = "parquet")]
pub mod parquet;
mod parts;
pub mod record;
pub mod row;
pub mod s3;
#[cfg(test)]
mod samples;
mod shares;
mod stem;

use std::{collections::HashMap, future::Future};

use bytes::Bytes;
use jiff::Timestamp;

pub use self::{
    lane::{LakeLane, LakeTally},
    shares::{LakeShares, ObjectShare, memory as memory_bound},
    stem::{COMPACTED, stem},
};
use crate::{
    copy::CopyError,
    event::ObjectRef,
    route::Route,
    tenant::{Bucket, Delivery, Lake, LockMode},
};

/// The way of one object into one lake.
#[derive(Clone, Copy, Debug)]
pub struct LakeWay<'a> {
    /// The delivery that the lake belongs to.
    pub delivery: &'a Delivery,
    /// The customer's bucket.
    pub destination: &'a Bucket,
    /// The lake's settings.
    pub lake: &'a Lake,
    /// The parts of the object's key.
    pub route: &'a Route,
    /// The object as the event names it.
    pub object: &'a ObjectRef,
}

impl LakeWay<'_> {
    /// Common prefix of the keys of all the tenant's files.
    pub fn prefix(&self) -> String {
        self.destination.bucket_prefix.clone() + &self.lake.layout.tenant_prefix(self.route)
    }
}

/// The port to customers' lakes. Callers do not repeat failed calls: the SDK retries them.
pub trait LakeStore: Send + Sync + 'static {
    /// Access to one customer's bucket.
    type Account: LakeAccount;

    /// The error that [`LakeStore::enter_lake`] would return without a call: the role was refused before, and no probe is due.
    fn lake_closed(&self, way: &LakeWay<'_>) -> impl Future<Output = Option<CopyError>> + Send;

    /// Enters the customer's role, or the central role if the row names none. Makes no call if a session exists.
    ///
    /// # Errors
    /// [`CopyError::Session`].
    fn enter_lake(&self, way: &LakeWay<'_>) -> impl Future<Output = Result<Self::Account, CopyError>> + Send;
}

/// One customer's bucket.
pub trait LakeAccount: Send + Sync + 'static {
    /// Writes a whole file. It replaces the file at the key.
    ///
    /// # Errors
    /// See [`CopyError`]. The file may be there nevertheless.
    fn put(&self, file: &FileSpec, body: Bytes) -> impl Future<Output = Result<(), CopyError>> + Send;

    /// Begins a file that is written in parts, and returns the id of its upload. Until [`LakeAccount::complete`] no reader sees
    /// it.
    ///
    /// # Errors
    /// See [`CopyError`].
    fn begin(&self, file: &FileSpec) -> impl Future<Output = Result<String, CopyError>> + Send;

    /// Writes the next part, of at least 5 MiB unless it is the last one.
    ///
    /// # Errors
    /// See [`CopyError`].
    fn part(
        &self,
        upload: &Upload,
        number: i32,
        body: Bytes,
    ) -> impl Future<Output = Result<Part, CopyError>> + Send;

    /// Makes the file appear. It replaces the file at the key.
    ///
    /// # Errors
    /// See [`CopyError`]. The file may be there nevertheless.
    fn complete(
        &self,
        upload: &Upload,
        parts: Vec<Part>,
    ) -> impl Future<Output = Result<(), CopyError>> + Send;

    /// Gives an upload up. If the call fails, the parts stay until a lifecycle rule of the bucket removes them.
    fn abort(&self, upload: &Upload) -> impl Future<Output = ()> + Send;

    /// Ends an object: keeps its counts, in shadow mode.
    ///
    /// # Errors
    /// [`CopyError::Uncounted`].
    fn count(&self, records: u64, bytes: u64) -> impl Future<Output = Result<(), CopyError>> + Send {
        let _ = (records, bytes);
        async { Ok(()) }
    }
}

/// A file as its bucket gets it, apart from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// The key.
    pub key: String,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// `x-amz-meta-*`.
    pub metadata: HashMap<String, String>,
    /// Object Lock: the mode, and the end of the retention.
    pub lock: Option<(LockMode, Timestamp)>,
}

/// A file that is being written in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// The file's key.
    pub key: String,
    /// S3's id of the upload.
    pub id: String,
}

/// A part that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Position, from 1.
    pub number: i32,
    /// The part's eTag.
    pub etag: Option<String>,
}
