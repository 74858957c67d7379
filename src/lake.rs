//! A customer's lake: files of records in the customer's bucket, partitioned by hour, for SQL.
//!
//! A [`LakeLane`] takes one object's records. The object is downloaded once for all of its lanes, these and those of
//! `delivery::Lane`. A lane keeps one file open for each hour (`file`). Small files are written by one PutObject, large ones part
//! by part. A file appears whole or not at all.
//!
//! A file's key depends only on the object, the row and the hour (`stem` and the row's layout). So a repeated attempt replaces
//! the files of the attempt before it, and a reader never sees a record twice.
//!
//! With the feature `tools`, `compact` merges the small files of an hour, and the folder's `manifest` says which files count.
//! `bucket` is the port of the compaction. [`s3`] implements all ports of lakes.

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

/// One object on its way into one lake.
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

/// The port to customers' lakes. The SDK retries failed calls, so callers do not.
pub trait LakeStore: Send + Sync + 'static {
    /// Access to one customer's bucket.
    type Account: LakeAccount;

    /// The error that [`LakeStore::enter_lake`] returns without making a call, if it would: the role was refused before, and no
    /// probe is due.
    fn lake_closed(&self, way: &LakeWay<'_>) -> impl Future<Output = Option<CopyError>> + Send;

    /// Assumes the customer's role, or the central role if the row names none. Makes no call if there is a session already.
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

    /// Called at the end of an object. In shadow mode, stores the object's counts.
    ///
    /// # Errors
    /// [`CopyError::Uncounted`].
    fn count(&self, records: u64, bytes: u64) -> impl Future<Output = Result<(), CopyError>> + Send {
        let _ = (records, bytes);
        async { Ok(()) }
    }
}

/// Everything about a file but its bytes.
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
