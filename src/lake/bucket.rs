//! The port through which the compaction uses a customer's bucket. [`LakeAccount`] is the port that writes files.

use std::future::Future;

use bytes::Bytes;
use jiff::Timestamp;

use super::{FileSpec, LakeAccount, LakeStore};
use crate::{
    copy::CopyError,
    tenant::{Bucket, Delivery, Lake},
};

/// A row whose lake is compacted.
#[derive(Clone, Copy, Debug)]
pub struct LakeRow<'a> {
    /// The delivery.
    pub delivery: &'a Delivery,
    /// The customer's bucket.
    pub destination: &'a Bucket,
    /// The lake's settings.
    pub lake: &'a Lake,
}

/// Enters customers' accounts for the compaction.
pub trait CompactStore: LakeStore<Account: CompactAccount> {
    /// Assumes the customer's role, or the central role if the row names none, with a session policy for the compaction.
    ///
    /// # Errors
    /// [`CopyError::Session`].
    fn enter_compaction(
        &self,
        row: &LakeRow<'_>,
    ) -> impl Future<Output = Result<Self::Account, CopyError>> + Send;
}

/// One customer's bucket, as the compaction uses it.
pub trait CompactAccount: LakeAccount {
    /// Lists what is directly below `prefix`. `token` is the last page's [`Listing::next`].
    ///
    /// # Errors
    /// See [`CopyError`].
    fn list(
        &self,
        prefix: &str,
        token: Option<String>,
    ) -> impl Future<Output = Result<Listing, CopyError>> + Send;

    /// Reads a whole object. If `etag` is given, only an object that still has it. `None` if there is no such object.
    ///
    /// # Errors
    /// See [`CopyError`]. Without permission to list, S3 denies the read of a missing object.
    fn get(
        &self,
        key: &str,
        etag: Option<&str>,
    ) -> impl Future<Output = Result<Option<ReadObject>, CopyError>> + Send;

    /// Writes an object on a condition: the object at the key has `etag`, or without `etag`, there is no object. Returns the new
    /// eTag, or `None` if the condition does not hold. The condition also fails if an earlier call has written the object and its
    /// answer was lost, so compare the object that is there.
    ///
    /// # Errors
    /// See [`CopyError`]. The object may be there nevertheless.
    fn put_if(
        &self,
        file: &FileSpec,
        body: Bytes,
        etag: Option<&str>,
    ) -> impl Future<Output = Result<Option<String>, CopyError>> + Send;

    /// Deletes objects. An object that does not exist is no error. In a bucket with versions, delete markers hide the objects.
    /// Returns the keys of the objects that stay, because they have another eTag.
    ///
    /// # Errors
    /// See [`CopyError`]. Some may be deleted nevertheless.
    fn delete(&self, files: &[Unwanted]) -> impl Future<Output = Result<Vec<String>, CopyError>> + Send;
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadObject {
    /// ETag, as S3 gives it.
    pub etag: String,
    /// When it was written, by S3's clock.
    pub modified: Option<Timestamp>,
    /// Its bytes.
    pub body: Bytes,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Objects, by key.
    pub files: Vec<ListedFile>,
    /// Keys of folders, each with its slash.
    pub folders: Vec<String>,
    /// `None`: this is the last page.
    pub next: Option<String>,
}

/// An object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwanted {
    /// Key.
    pub key: String,
    /// The object is deleted only if it still has this eTag. `None`: in any case.
    pub etag: Option<String>,
}

impl From<&ListedFile> for Unwanted {
    fn from(file: &ListedFile) -> Self {
        Self { key: file.key.clone(), etag: Some(file.etag.clone()) }
    }
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Key.
    pub key: String,
    /// Stored bytes.
    pub size: u64,
    /// ETag, as S3 gives it.
    pub etag: String,
}
