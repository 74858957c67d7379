//! The port to the staging bucket: reads the bytes of objects. `s3` is the adapter.

pub mod bucket;
pub mod file;
pub mod listing;
pub mod memory;
pub mod s3;
pub mod trail;

use std::future::Future;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{credentials::identity::IdentityError, event::ObjectRef};

/// Reads objects. A store never writes to the staging bucket.
pub trait ObjectStore: Send + Sync + 'static {
    /// An open object.
    type Body: ObjectBody;

    /// Opens the version of an object that the event names. If the event names no version, opens the current object; if the
    /// event names an eTag, the current object must have this eTag. Returns the object's LastModified and its body. `owner`
    /// is the account that must own the bucket.
    ///
    /// # Errors
    /// See [`ObjectError`].
    fn open(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> impl Future<Output = Result<(Timestamp, Self::Body), ObjectError>> + Send;

    /// Reads the metadata of the object that [`open`](Self::open) would open.
    ///
    /// # Errors
    /// See [`ObjectError`].
    fn head(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> impl Future<Output = Result<ObjectHead, ObjectError>> + Send;
}

/// Metadata of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHead {
    /// Stored bytes.
    pub size: Option<u64>,
    /// ETag, with its quotes.
    pub etag: Option<String>,
    /// Version, if the bucket keeps versions.
    pub version_id: Option<String>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`.
    pub content_encoding: Option<String>,
}

impl ObjectHead {
    /// Names the exact object as an event of S3 names it: adds version or eTag, and the size. So the object has the same entry in
    /// the ledger as after an event.
    pub fn pin(self, object: &ObjectRef) -> ObjectRef {
        ObjectRef {
            // A bucket without versions calls its only version "null".
            version_id: self.version_id.filter(|id| id != "null").or_else(|| object.version_id.clone()),
            etag: self.etag.map(|etag| etag.trim_matches('"').to_owned()),
            size: self.size,
            ..object.clone()
        }
    }
}

/// The bytes of an open object, in order.
pub trait ObjectBody: Send {
    /// Version and eTag of the object as it was opened, as far as the store tells them.
    fn exact(&self) -> (Option<&str>, Option<&str>) {
        (None, None)
    }

    /// Number of bytes, if the store tells it.
    fn content_length(&self) -> Option<u64>;

    /// Whether a check that is still to come can show that the bytes read so far were altered: the checksum of the whole
    /// object at its end, or a fingerprint of an earlier attempt at its offset.
    fn has_check_ahead(&self) -> bool;

    /// Returns the next bytes, or `None` at the end, after the checksum was checked.
    ///
    /// # Errors
    /// See [`ObjectError`]. Bytes returned before the error stay valid, except after [`ObjectError::ChecksumMismatch`].
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, ObjectError>> + Send;
}

/// Reason why an object, or the rest of it, cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// The object does not exist, or this version of it no longer exists.
    #[error("the object does not exist: {0}")]
    Missing(String),
    /// A bucket of `source.buckets` does not exist: it was deleted, or the configuration is wrong.
    #[error(
        "the staging bucket does not exist: {0}; create it, or correct source.buckets and the notifications to the queue"
    )]
    NoBucket(String),
    /// A bucket outside `source.buckets` does not exist. The worker's own set-up is not at fault.
    #[error(
        "the object's bucket does not exist, and source.buckets does not name it: {0}; create the bucket and redrive"
    )]
    BucketGone(String),
    /// S3 refuses the request permanently: for example the version id has an unknown form or names a delete marker, or
    /// the bucket is in another Region.
    #[error(
        "S3 refuses the request: {0}; check that the bucket is in aws.region and that the object has the version in the message, \
         then redrive"
    )]
    Refused(String),
    /// The object is archived, and must be restored before it can be read.
    #[error("the object is archived: {0}; restore it and redrive")]
    Archived(String),
    /// AWS refuses the worker's own credentials, not this object.
    #[error(transparent)]
    Ours(IdentityError),
    /// The worker may not read the object. Without `s3:ListBucket`, S3 gives the same answer for an object that does not exist.
    #[error("S3 denies access to the object: {0}")]
    Denied(String),
    /// The bytes that were read differ from those that were stored.
    #[error("the object's checksum does not match: {0}")]
    ChecksumMismatch(String),
    /// The object is larger than `source.max_stored`.
    #[error(
        "the object has {stored} stored bytes or more, and source.max_stored is {limit} bytes; raise source.max_stored \
         and redrive"
    )]
    TooLarge {
        /// Stored bytes, at least.
        stored: u64,
        /// `source.max_stored`.
        limit: u64,
    },
    /// S3 cannot be reached, or the connection broke. A later attempt may succeed.
    #[error("the object cannot be read now: {0}")]
    Unavailable(String),
}
