//! What became of the objects of a run, as the document that `logferry replay` prints.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Fate, Item,
    selection::{Choice, Selection},
};
use crate::{event::ObjectRef, manual::FailureOutcome, object::listing::ListedObject, route::KeyError};

/// Most keys without a meaning that are named.
const MOST_BAD_KEYS: usize = 5;

/// The outcome of a run. Every listed object counts once: `listed` is the sum of `not_selected`, `folder_markers`, `bad_keys` and
/// `selected`, and of the objects that a watch knew already; `selected` is the sum of the fields after it up to `failed`.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Whether the run was stopped before its end.
    pub interrupted: bool,
    /// Why the bucket was not listed to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listing_error: Option<String>,
    /// The listing.
    #[serde(flatten)]
    pub counts: Counts,
    /// Objects that every delivery that wants them has got.
    pub delivered: u64,
    /// Objects about which the queue has got a message.
    pub sent: u64,
    /// Objects that were delivered before.
    pub already_delivered: u64,
    /// Objects that no delivery wants, by reason.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Objects that a worker or another replay is delivering.
    pub busy: u64,
    /// Objects that were not finished when the run was stopped.
    pub unfinished: u64,
    /// Objects that failed, by reason.
    pub failed: BTreeMap<&'static str, Failures>,
    /// Stored bytes of the objects that were delivered or sent.
    pub stored_bytes: u64,
    /// Bytes that CloudWatch Logs bills, also of objects for which another delivery failed.
    pub billed_bytes: u64,
    /// Duration.
    pub seconds: f64,
}

/// The objects of a listing.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    /// Objects that the listing has.
    pub listed: u64,
    /// Objects of another time, tenant or application.
    pub not_selected: u64,
    /// Folder markers.
    pub folder_markers: u64,
    /// Objects whose keys match no layout.
    pub bad_keys: BadKeys,
    /// Selected objects.
    pub selected: u64,
}

impl Counts {
    /// Counts a listed object, and returns it if it is selected. The caller counts it as selected.
    pub(super) fn add(&mut self, bucket: &str, selection: &Selection, listed: ListedObject) -> Option<Item> {
        self.listed += 1;
        match selection.choose(&listed) {
            Choice::Unselected => self.not_selected += 1,
            Choice::FolderMarker => self.folder_markers += 1,
            Choice::BadKey(error) => self.bad_keys.add(&listed.key, &error),
            Choice::Selected { tenant_id } => {
                let ListedObject { key, size, etag, modified } = listed;
                let object =
                    ObjectRef { bucket: bucket.to_owned(), key, size: Some(size), ..ObjectRef::default() };
                return Some(Item { object, etag, tenant_id, modified });
            }
        }
        None
    }
}

/// Keys without a meaning.
#[derive(Debug, Default, Serialize)]
pub struct BadKeys {
    /// Number of objects.
    pub objects: u64,
    /// The first keys, with their errors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<BadKey>,
}

/// A key without a meaning.
#[derive(Debug, Serialize)]
pub struct BadKey {
    /// The key.
    pub key: String,
    error: String,
}

impl BadKeys {
    /// Adds an object.
    pub fn add(&mut self, key: &str, error: &KeyError) {
        self.objects += 1;
        if self.first.len() < MOST_BAD_KEYS {
            self.first.push(BadKey { key: key.to_owned(), error: error.to_string() });
        }
    }
}

/// Objects that failed for one reason.
#[derive(Debug, Serialize)]
pub struct Failures {
    /// Number of objects.
    pub objects: u64,
    /// The first of them.
    pub first: FirstFailure,
}

/// The first object that failed for a reason.
#[derive(Debug, Serialize)]
pub struct FirstFailure {
    key: String,
    tenant: String,
    /// The failure.
    #[serde(flatten)]
    pub failure: FailureOutcome,
}

/// Adds an object to the failures by reason.
pub(super) fn add_failure(
    failed: &mut BTreeMap<&'static str, Failures>,
    item: &Item,
    failure: impl Into<FailureOutcome>,
) {
    let failure = failure.into();
    let reason = failure.reason;
    let (key, tenant) = (item.object.key.clone(), item.tenant_id.clone());
    failed
        .entry(reason)
        .and_modify(|failures| failures.objects += 1)
        .or_insert_with(|| Failures { objects: 1, first: FirstFailure { key, tenant, failure } });
}

impl Outcome {
    /// Number of objects that failed.
    pub fn failures(&self) -> u64 {
        self.failed.values().map(|failures| failures.objects).sum()
    }

    /// Whether the run reached its end, and nothing failed.
    pub fn is_success(&self) -> bool {
        self.failures() == 0 && self.listing_error.is_none() && !self.interrupted
    }

    /// Adds the fate of a selected object.
    pub(super) fn add(&mut self, item: &Item, fate: Fate) {
        let stored = item.object.size.unwrap_or_default();
        match fate {
            Fate::Delivered => {
                self.delivered += 1;
                self.stored_bytes += stored;
            }
            Fate::Sent => {
                self.sent += 1;
                self.stored_bytes += stored;
            }
            Fate::AlreadyDelivered => self.already_delivered += 1,
            Fate::Skipped(skipped) => *self.skipped.entry(skipped.reason()).or_default() += 1,
            Fate::Busy(_) => self.busy += 1,
            Fate::Interrupted => self.unfinished += 1,
            Fate::Failed(failed) => add_failure(&mut self.failed, item, &*failed),
            Fate::Unsent(error) => add_failure(&mut self.failed, item, &error),
        }
    }
}
