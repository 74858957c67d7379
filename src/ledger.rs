//! The port to the ledger. The ledger records which attempt works on an object, and how many of the object's records are
//! accounted for. [`dynamodb`] is the adapter. A delivery uses the ledger through its [`claim`].
//!
//! Each delivery of an object has an entry of its own, so that the deliveries advance independently.

pub mod ahead;
pub mod claim;
pub mod dynamodb;
pub mod lease;
pub mod memory;
pub mod owed;
pub mod watch;

use std::{future::Future, time::Duration};

use self::{ahead::Ahead, owed::Owed};
use crate::{digest, event::ObjectRef, object::trail::Fingerprint};

/// Key of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryKey {
    /// The exact object: bucket, key, and version or eTag.
    pub object: String,
    /// The delivery: its row's `type`.
    pub delivery: String,
}

/// Progress of a delivery in an object. Everything before the position is accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of records accounted for.
    pub records: u64,
    /// Number of events of the next record that were put already. Above 0 only if that record was split.
    pub events: u64,
}

/// What an entry records about a delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryProgress {
    /// Every record before this position is in CloudWatch Logs, rejected, skipped, in the quarantine, or owed to the quarantine.
    pub position: Position,
    /// Events after the position that were put already.
    pub ahead: Option<Ahead>,
    /// Records that still have to be written to the quarantine. Each lies before the position or among the events of `ahead`.
    pub owed: Owed,
    /// Fingerprints of the stored bytes that the attempts had read when they recorded their positions, at most one for each
    /// attempt. An attempt that reads the same bytes again confirms the earlier fingerprints, and replaces them by its own.
    pub fingerprints: Vec<Fingerprint>,
}

/// Answer to an attempt that wants to work on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The attempt has the lease, and goes on from this progress.
    Ours(DeliveryProgress),
    /// Every record is accounted for.
    Done,
    /// Another attempt has the lease. The lease can be taken after this time, unless it is renewed.
    Busy(Duration),
}

/// Why a call to the ledger failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Another attempt has the lease, so what this attempt knows of the object's progress is out of date.
    #[error("another attempt has taken the lease of {0}")]
    Lost(String),
    /// The ledger answers that there are too many requests. The same call may succeed soon.
    #[error("the ledger throttles: {0}")]
    Throttled(String),
    /// The ledger cannot be reached, or refuses the call.
    #[error("the ledger cannot be used: {0}")]
    Unavailable(String),
    /// This entry cannot be read. Other entries are not affected.
    #[error("an entry of the ledger cannot be read: {0}")]
    Unreadable(String),
}

/// Keeps entries. The SDK repeats a call whose answer was lost, so a repeated call must be harmless: with the same `owner`,
/// and without another call in between, it changes nothing and gives the same answer.
///
/// `owner` is new for each attempt at an object, and never reused.
pub trait Ledger: Send + Sync + 'static {
    /// Takes the lease, unless the entry is done or another attempt's lease still runs.
    ///
    /// # Errors
    /// Any except [`LedgerError::Lost`].
    fn begin(&self, key: &EntryKey, owner: &str) -> impl Future<Output = Result<Begun, LedgerError>> + Send;

    /// Records progress and renews the lease. Also takes a lease that is free: the owner's lease may have run out, or the
    /// ledger may not have answered `begin`. An owner's positions only grow. So if the entry's position is beyond the given
    /// one, another attempt has worked on the object, and the lease counts as lost. To renew only the lease, record the same
    /// progress again.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn checkpoint(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Records progress and gives the lease back, so that the next attempt can begin at once. If the entry's position is
    /// beyond the given one, only the lease is given back.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn release(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Forgets all progress and gives the lease back, because the delivered records may differ from the object's content.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn restart(&self, key: &EntryKey, owner: &str) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Records that the object is done, with `position.records` records. `recorded` is the progress that this owner recorded
    /// last, or began with.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn finish(
        &self,
        key: &EntryKey,
        owner: &str,
        recorded: &DeliveryProgress,
        position: Position,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Checks that the ledger can be used, without changing anything.
    ///
    /// # Errors
    /// [`LedgerError::Throttled`] or [`LedgerError::Unavailable`].
    fn probe(&self) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

impl EntryKey {
    /// Key of one delivery of an object. `None` if the event names neither version nor eTag, because a later object under the
    /// same key would have the same entry.
    pub fn of(object: &ObjectRef, delivery: &str) -> Option<Self> {
        let ObjectRef { bucket, key, version_id, etag, .. } = object;
        let pin = match (version_id, etag) {
            (Some(version), _) => format!("versionId={version}"),
            (None, Some(etag)) => format!("eTag={etag}"),
            (None, None) => return None,
        };
        // The longest bucket, key and version that S3 allows have 2,113 bytes together. A name of more than 2,048 is cut, and
        // its hash keeps it unique.
        let mut object = format!("{bucket}/{key}?{pin}");
        if object.len() > MAX_OBJECT_BYTES {
            let hash = digest::sha256(object.as_bytes());
            object.truncate(object.floor_char_boundary(MAX_OBJECT_BYTES - hash.len() - 1));
            object.push('#');
            object.push_str(&hash);
        }
        Some(Self { object, delivery: delivery.to_owned() })
    }
}

/// Longest partition key in bytes. Source: DynamoDB developer guide, "Constraints".
const MAX_OBJECT_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_exact_object_and_fit_into_dynamodb() {
        let object = |key: &str, version: Option<&str>, etag: Option<&str>| ObjectRef {
            bucket: "staging".into(),
            key: key.into(),
            version_id: version.map(Into::into),
            etag: etag.map(Into::into),
            ..ObjectRef::default()
        };
        let of = |object: &ObjectRef| EntryKey::of(object, "cloudwatch").map(|key| key.object);
        assert_eq!(of(&object("a/b", Some("v"), Some("e"))).as_deref(), Some("staging/a/b?versionId=v"));
        assert_eq!(of(&object("a/b", None, Some("e"))).as_deref(), Some("staging/a/b?eTag=e"));
        assert_eq!(of(&object("a/b", None, None)), None);
        let long =
            |last: &str| of(&object(&"ü".repeat(512), Some(&format!("{}{last}", "v".repeat(1023))), None));
        let (one, other) =
            (long("1").expect("the object has a version"), long("2").expect("the object has a version"));
        assert!(one.len() <= MAX_OBJECT_BYTES && one != other);
        assert!(one.len() > MAX_OBJECT_BYTES - 'ü'.len_utf8(), "cut no more than necessary: {}", one.len());
        let longest = format!("staging/{}?versionId=v", "k".repeat(MAX_OBJECT_BYTES - 20));
        assert_eq!(longest.len(), MAX_OBJECT_BYTES);
        assert_eq!(of(&object(&longest[8..longest.len() - 12], Some("v"), None)), Some(longest));
    }
}
