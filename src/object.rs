//! The port to the staging bucket: an object's bytes, as they arrive. `s3` is the adapter.

pub mod bucket;
pub mod memory;
pub mod s3;
pub mod trail;

use std::future::Future;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{credentials::identity::IdentityError, event::ObjectRef};

/// Reads objects. The staging bucket is ours to read only: nothing here writes.
pub trait ObjectStore: Send + Sync + 'static {
    /// An open object.
    type Body: ObjectBody;

    /// Opens the object that the event pinned: that version, else that eTag, else whatever is there. `owner` is the
    /// account that must own the bucket.
    ///
    /// # Errors
    /// See [`ObjectError`].
    fn open(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> impl Future<Output = Result<(Timestamp, Self::Body), ObjectError>> + Send;

    /// Tells what is known of that same object without reading it.
    ///
    /// # Errors
    /// See [`ObjectError`].
    fn head(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> impl Future<Output = Result<ObjectHead, ObjectError>> + Send;
}

/// What S3 says of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectHead {
    /// Bytes as stored.
    pub size: Option<u64>,
    /// With its quotes.
    pub etag: Option<String>,
    /// Of this version, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// What the object is said to be.
    pub content_type: Option<String>,
    /// How it is packed.
    pub content_encoding: Option<String>,
}

/// The bytes of an open object, in order.
pub trait ObjectBody: Send {
    /// How many there are, if the store says.
    fn content_length(&self) -> Option<u64>;

    /// Whether reading on can still tell that what was read is not what was stored: by the whole object's checksum, which is
    /// checked at the end, or by what an attempt before read.
    fn has_check_ahead(&self) -> bool;

    /// The next bytes; `None` at the end, once the store has checked that all came as they were stored.
    ///
    /// # Errors
    /// See [`ObjectError`]; what came before is good unless the checksum says otherwise.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, ObjectError>> + Send;
}

/// Why an object, or the rest of it, cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object, or not that version of it any more.
    #[error("the object is not there: {0}")]
    Missing(String),
    /// There is no such bucket: the wiring is wrong, or the bucket was deleted.
    #[error(
        "the staging bucket is not there: {0}; create it, or correct what sends its notifications to the queue"
    )]
    NoBucket(String),
    /// There is no such bucket, and the configuration does not name it: nothing of ours is wrong with what others deleted.
    #[error(
        "the bucket of the object is not there, and is none of source.buckets: {0}; create it and redrive"
    )]
    BucketGone(String),
    /// S3 refuses the request itself, and is not known to change its mind: a version id of a form that it has not, a delete
    /// marker, a bucket in another Region.
    #[error(
        "S3 refuses the request: {0}; see whether the bucket is in aws.region and the version in the message is one of the object's, \
         then redrive"
    )]
    Refused(String),
    /// It is archived, and cannot be read before somebody restores it.
    #[error("the object is archived: {0}; restore it and redrive")]
    Archived(String),
    /// We are refused, and not the object.
    #[error(transparent)]
    Ours(IdentityError),
    /// We may not read it; without ListBucket that is also how S3 answers for an object that is not there.
    #[error("reading the object is denied: {0}")]
    Denied(String),
    /// What came is not what was stored.
    #[error("the object's checksum does not match: {0}")]
    ChecksumMismatch(String),
    /// More than `source.max_stored`.
    #[error(
        "the object has {stored} stored bytes or more, and source.max_stored is {limit} bytes; raise it and redrive"
    )]
    TooLarge {
        /// Bytes that it has at least.
        stored: u64,
        /// The configured ceiling.
        limit: u64,
    },
    /// The store cannot be reached, or the connection broke.
    #[error("the object cannot be read now: {0}")]
    Unavailable(String),
}
