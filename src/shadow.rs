//! Shadow mode: a delivery does everything except putting, and counts what it would have put. `logferry shadow compare` holds
//! the counts against what the customer's CloudWatch Logs has.
//!
//! [`sinks`] and [`copier`] stand in front of the real ports. A delivery in shadow mode gets a sink that has no way to put.
//! [`sheet`] gathers an object's counts; they are written when every event was counted or the sheet is full, and before the
//! ledger counts the object as done. Writing them again replaces them, so redeliveries and kills leave the counts exact. [`dynamodb`] keeps
//! the counts in the ledger's table; `cloudwatch` reads a customer's events, and `comparison` compares. Only
//! `logferry shadow compare` uses the last two.

#[cfg(feature = "tools")]
pub mod cloudwatch;
#[cfg(feature = "tools")]
pub mod comparison;
pub mod copier;
pub mod dynamodb;
pub mod memory;
pub mod sheet;
pub mod sinks;

use std::{collections::BTreeMap, fmt, future::Future, iter::Sum, ops::AddAssign};

use jiff::Timestamp;

use crate::{
    event::ObjectRef,
    ledger::{EntryKey, LedgerError},
};

/// Length of a window in milliseconds: five minutes.
pub const WINDOW: i64 = 300_000;

/// Five minutes of event time, by the start, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window(i64);

impl Window {
    /// The window of a time in milliseconds.
    pub fn of(timestamp: i64) -> Self {
        Self(timestamp.div_euclid(WINDOW) * WINDOW)
    }

    /// Start of the window in milliseconds since 1970.
    pub fn start(self) -> i64 {
        self.0
    }
}

/// Writes the start as `2026-11-28T08:05:00Z`, in whose order the windows are. A start that no calendar has, which only a
/// rejected event can have, is written as a number.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_millisecond(self.0) {
            Ok(start) => write!(f, "{}", start.strftime("%Y-%m-%dT%H:%M:%SZ")),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// Events, and their bytes as CloudWatch Logs bills them; or objects, and their stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of events.
    pub events: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.bytes += more.bytes;
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, count| {
            sum += count;
            sum
        })
    }
}

/// What is counted: one object of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The tenant.
    pub tenant_id: String,
    /// The `type` of the delivery's row.
    pub delivery: String,
    /// The exact object: bucket, key, and version or eTag if the event names one.
    pub object: String,
}

impl Subject {
    /// The subject of an object that a delivery takes.
    pub fn of(tenant_id: &str, delivery: &str, object: &ObjectRef) -> Self {
        let key = EntryKey::of(object, delivery).map(|key| key.object);
        Self {
            tenant_id: tenant_id.to_owned(),
            delivery: delivery.to_owned(),
            object: key.unwrap_or_else(|| format!("{}/{}", object.bucket, object.key)),
        }
    }
}

/// What one object, or a part of a large one, adds to one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowCounts {
    /// The window.
    pub window: Window,
    /// Position of the part in the object; 0 for all but very large objects.
    pub part: u32,
    /// The log group, or `s3://BUCKET`.
    pub place: String,
    /// Counts by stream. A copy into a bucket has no stream: its name is empty.
    pub streams: BTreeMap<String, Count>,
    /// Events that CloudWatch Logs rejects as too old or too new. They are not among `streams`.
    pub rejected: u64,
}

/// Keeps counts. Clones share them.
pub trait CountStore: Clone + fmt::Debug + Send + Sync + 'static {
    /// Writes counts of an object. Counts with the same subject, window and part are replaced.
    ///
    /// # Errors
    /// Some counts may be written. Writing all of them again completes them.
    fn write(
        &self,
        subject: &Subject,
        counts: &[WindowCounts],
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;
}

/// The error of a delivery in shadow mode in a worker that cannot keep counts.
fn no_store() -> LedgerError {
    LedgerError::Unavailable(
        "ledger.table is not set, and shadow mode keeps its counts there; set it".to_owned(),
    )
}
