//! The port to the ledger: who is on an object, and how many of its records are accounted for. [`dynamodb`] is the adapter;
//! [`claim`] is what a delivery holds while it works.
//!
//! One entry per object and delivery, so that the deliveries of one object advance independently.

pub mod ahead;
pub mod claim;
pub mod dynamodb;
pub mod lease;
pub mod memory;
pub mod owed;

use std::{future::Future, time::Duration};

use self::{ahead::Ahead, owed::Owed};
use crate::{digest, event::ObjectRef, object::trail::Fingerprint};

/// Names an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EntryKey {
    /// The object, pinned: bucket, key, and version or eTag.
    pub object: String,
    /// The delivery, by its row's `type`.
    pub delivery: String,
}

/// How far a delivery is in an object. Everything before it is accounted for, nothing behind it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Records accounted for.
    pub records: u64,
    /// Events of the record behind them that were put already, where it had to be split.
    pub events: u64,
}

/// What was done of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What comes before it is in CloudWatch Logs, rejected, skipped, in the quarantine, or owed to the quarantine.
    pub position: Position,
    /// Events behind the position that were put too.
    pub ahead: Option<Ahead>,
    /// Records before the position, or with an event ahead of it, that the quarantine has not taken yet.
    pub owed: Owed,
    /// What the attempts that came to this position had read of the stored bytes. An attempt that reads the same bytes again
    /// confirms a fingerprint, and its own takes the place of those that it confirmed; so there is one at most for each attempt.
    pub fingerprints: Vec<Fingerprint>,
}

/// What the ledger says to somebody who wants to work on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The lease is ours; go on from here.
    Ours(Progress),
    /// Every record is accounted for.
    Done,
    /// Another has the lease: it may be taken after that long, unless it is renewed.
    Busy(Duration),
}

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The lease is another's by now: what we know of the object is out of date.
    #[error("the lease of {0} was lost to another worker")]
    Lost(String),
    /// It answers that there are too many requests: it lives, and the same call may go well soon.
    #[error("the ledger throttles: {0}")]
    Throttled(String),
    /// It cannot be reached, or refuses.
    #[error("the ledger cannot be used: {0}")]
    Unavailable(String),
    /// This entry cannot be read; others can.
    #[error("the ledger's entry cannot be used: {0}")]
    Unreadable(String),
}

/// Keeps entries. A call that is repeated, with the same `owner` and nothing in between, changes nothing and answers
/// alike: the SDK repeats calls whose answer was lost.
///
/// `owner` is new for each attempt at an object, never reused.
pub trait Ledger: Send + Sync + 'static {
    /// Takes the lease, unless the entry is done or another's lease still runs.
    ///
    /// # Errors
    /// Any but [`LedgerError::Lost`].
    fn begin(&self, key: &EntryKey, owner: &str) -> impl Future<Output = Result<Begun, LedgerError>> + Send;

    /// Records progress and renews the lease, or takes one that nobody has: it may have run out, or the ledger may not have
    /// answered when we began. An owner's positions only grow, so an entry that is further already shows another's work: the
    /// lease counts as lost. To renew the lease alone, record the same progress again.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn checkpoint(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &Progress,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Records progress and gives the lease back, so that the next attempt need not wait for its end. A position before the
    /// one in the ledger changes nothing but the lease.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn release(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &Progress,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Forgets all progress and gives the lease back: what was delivered may not be what is in the object.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn restart(&self, key: &EntryKey, owner: &str) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Records that every record is accounted for, `position.records` of them.
    ///
    /// # Errors
    /// See [`LedgerError`].
    fn finish(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Asks whether the ledger can be used, and changes nothing.
    ///
    /// # Errors
    /// [`LedgerError::Throttled`] or [`LedgerError::Unavailable`].
    fn probe(&self) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

impl EntryKey {
    /// The entry of one delivery of an object; `None` for an object that the event pins to neither a version nor an eTag:
    /// another under the same key could not be told from it.
    pub fn of(object: &ObjectRef, delivery: &str) -> Option<Self> {
        let ObjectRef { bucket, key, version_id, etag, .. } = object;
        let pin = match (version_id, etag) {
            (Some(version), _) => format!("versionId={version}"),
            (None, Some(etag)) => format!("eTag={etag}"),
            (None, None) => return None,
        };
        // The longest bucket, key and version that S3 allows make 2,113 bytes, more than DynamoDB's 2,048 for a partition
        // key; such a name is cut and told apart by its hash.
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

/// Source: DynamoDB developer guide, "Constraints": a partition key value of at most 2,048 bytes.
const MAX_OBJECT_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_pinned_and_fit() {
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
        let (one, other) = (long("1").expect("pinned"), long("2").expect("pinned"));
        assert!(one.len() <= MAX_OBJECT_BYTES && one != other);
    }
}
