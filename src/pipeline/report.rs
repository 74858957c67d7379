//! What became of a message's objects.

use crate::{delivery::Tally, status, tenant::Mode, verdict::Failed};

/// Results of a message's objects.
#[derive(Debug, Default)]
pub struct MessageReport {
    /// Skipped parts, in order.
    pub skipped: Vec<Skipped>,
    /// Successful deliveries, one for each object and delivery.
    pub delivered: Vec<Delivered>,
    /// Failures.
    pub failures: Vec<Failed>,
    /// Objects with failures, which wait for the verdict.
    pub(super) unfinished: Vec<status::Waiting>,
}

impl From<Failed> for MessageReport {
    /// The results of one object that failed before a delivery began.
    fn from(failed: Failed) -> Self {
        Self { failures: vec![failed], ..Self::default() }
    }
}

/// Why a part of a message was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The event is S3's test event.
    TestEvent,
    /// The event is not an `ObjectCreated` event.
    NotObjectCreated,
    /// The tenant is unknown and `tenants.unknown` is `discard`.
    UnknownTenant,
    /// No delivery of the tenant is enabled.
    Disabled,
    /// No enabled delivery of the tenant wants the application.
    Filtered,
    /// The object or the event has no records.
    NoRecords,
    /// The object is an empty folder marker.
    FolderMarker,
    /// According to the ledger, every delivery of the object is done.
    AlreadyDelivered,
    /// The customer's bucket already has a later version of the object.
    Superseded,
}

impl Skipped {
    /// Name of the reason in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TestEvent => "test_event",
            Self::NotObjectCreated => "not_object_created",
            Self::UnknownTenant => "unknown_tenant",
            Self::Disabled => "disabled",
            Self::Filtered => "filtered",
            Self::NoRecords => "no_records",
            Self::FolderMarker => "folder_marker",
            Self::AlreadyDelivered => "already_delivered",
            Self::Superseded => "superseded",
        }
    }
}

/// One object that was delivered by one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The tenant.
    pub tenant_id: String,
    /// The delivery: the `type` of its row.
    pub delivery: String,
    /// Whether the object was delivered, or only counted.
    pub mode: Mode,
    /// Key of the object.
    pub key: String,
    /// Its records, by outcome.
    pub tally: Tally,
}
