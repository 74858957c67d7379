//! What this worker knows about each tenant's deliveries: the last success, the objects that wait, the state with its reason
//! and remedy, and the last failures.
//!
//! The pipeline writes it; the metrics and the status page read it. `book` contains the rules, without I/O; this module adds
//! the clocks and a lock. Each recorded event holds the lock for less than 1 µs, or for 2 µs if a thousand objects of the
//! tenant wait.
//!
//! It contains only what this worker has seen. Another worker may deliver an object that waits here, and this worker does not
//! learn of it. So a waiting object is forgotten two minutes after its retry was due. An entry names the object and not its
//! message, because a message that is sent anew has a new id.
//!
//! # Memory
//! 10,000 tenants with 65,536 waiting objects take less than 8 MiB; a test counts. The bounds are 20,000 tenants, 1,000 waiting
//! objects per tenant, 50 lines of failures, and 65,536 waiting objects in all (the first four of each tenant are kept even
//! beyond this bound). With all bounds reached, the status takes [`MOST_BYTES`] at most.

mod advice;
mod book;
mod failures;
mod heartbeat;
mod metrics;
mod named;
mod rate;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub use self::{
    advice::{Advice, REJECTED},
    book::{Snapshot, TenantLine},
    failures::FailureLine,
    metrics::register,
    rate::Throughput,
};
use self::{
    book::{Now, StatusBook},
    heartbeat::Heartbeat,
};
use crate::breaker::now;

/// Longest time until the retry of a message whose work panicked: SQS delays no retry for longer.
const PANIC_RETRY: Duration = Duration::from_secs(900);
/// The reason, and the text, of an object whose work panicked. The log has the place.
const PANIC: &str = "panic";
const PANIC_TEXT: &str = "the work on an object panicked; the log names the place";

/// Most memory of a worker's status.
pub const MOST_BYTES: u64 = 16 << 20;

/// State of a tenant, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TenantState {
    /// Its objects are delivered, or it has none.
    Ok,
    /// Its objects are counted and not delivered: all its deliveries are in shadow mode.
    Shadow,
    /// Its objects wait for something that may pass by itself, or for the provider.
    Waiting,
    /// Its settings row pauses it.
    Paused,
    /// Its objects cannot be delivered until the customer, the row or the object is changed.
    Refused,
}

impl TenantState {
    /// All states, in order.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Shadow, Self::Waiting, Self::Paused, Self::Refused];

    /// Name of the state on the page.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Shadow => "shadow",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Refused => "refused",
        }
    }
}

/// What this worker knows about tenants.
#[derive(Debug)]
pub struct Status {
    book: Mutex<StatusBook>,
    heartbeat: Heartbeat,
    start: Instant,
    /// Hashes objects with a secret. Strangers choose the keys of objects, and must not be able to choose two keys with the
    /// same hash.
    hash: RandomState,
}

/// Names an object.
#[derive(Clone, Copy, Debug, Hash)]
pub struct ObjectName<'a> {
    /// Its bucket.
    pub bucket: &'a str,
    /// Its key.
    pub key: &'a str,
    /// Its version, its eTag, or another value that differs between objects of the same key.
    pub version: Option<&'a str>,
}

/// The enabled rows of a tenant, as an object found them.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Names of the deliveries that take the object.
    pub used: &'a [&'a str],
    /// Names of the other rows: bad ones, and those that filter the object out.
    pub unused: &'a [&'a str],
    /// Whether the tenant has enabled deliveries, and all of them are in shadow mode.
    pub all_in_shadow: bool,
}

/// A failure of an object, or of one delivery of it.
#[derive(Clone, Copy, Debug)]
pub struct ObjectFailure<'a> {
    /// The tenant, if known.
    pub tenant_id: Option<&'a str>,
    /// The delivery, if the failure concerns one.
    pub delivery: Option<&'a str>,
    /// Key of the object, if known.
    pub key: Option<&'a str>,
    /// The reason.
    pub reason: &'static str,
    /// The failure's text. It must hold no body and no credential.
    pub text: &'a str,
    /// Delay of the retry; `None` if there is none.
    pub again_in: Option<Duration>,
}

impl Status {
    /// Creates a status that knows no tenant. At most `max_named` tenants get series of their own in the metrics.
    pub fn new(max_named: usize) -> Self {
        Self {
            book: Mutex::new(StatusBook::new(max_named)),
            heartbeat: Heartbeat::of(None),
            start: now(),
            hash: RandomState::new(),
        }
    }

    /// Shows the age of this tenant's newest record as the heartbeat.
    pub fn with_heartbeat(self, tenant_id: Option<String>) -> Self {
        Self { heartbeat: Heartbeat::of(tenant_id), ..self }
    }

    /// Records that an object of a tenant is being worked on. The tenant must have rows, because it may get series in the
    /// metrics. `age` is the time since the first receipt of the object's message.
    pub fn begin(self: &Arc<Self>, tenant_id: &str, object: ObjectName<'_>, age: Duration) -> Waiting {
        let object = self.hash.hash_one(object);
        let tenant = self.book().begin(tenant_id, object, age, self.now().ms);
        Waiting { status: Arc::clone(self), tenant, object, advice: None }
    }

    /// Like [`Status::begin`], while the tenant's rows cannot be looked up. Returns `None` if this worker has begun no object
    /// of the tenant before.
    pub fn begin_if_known(
        self: &Arc<Self>,
        tenant_id: &str,
        object: ObjectName<'_>,
        age: Duration,
    ) -> Option<Waiting> {
        let is_known = self.book().knows(tenant_id);
        is_known.then(|| self.begin(tenant_id, object, age))
    }

    /// Counts events of a tenant that were accepted.
    pub fn accepted(&self, tenant_id: &str, events: u64, bytes: u64) {
        self.book().accepted(tenant_id, events, bytes, self.now().ms);
    }

    /// Records that CloudWatch Logs accepted a record of a tenant. `timestamp` is the record's own, in milliseconds since 1970.
    pub fn accepted_record_of(&self, tenant_id: &str, timestamp: i64) {
        self.heartbeat.accepted(tenant_id, timestamp);
    }

    /// Counts events of a tenant that a delivery in shadow mode has counted, and ends the delivery's trouble.
    pub fn shadowed(&self, tenant_id: &str, delivery: &str, events: u64, bytes: u64) {
        self.book().shadowed(tenant_id, delivery, events, bytes);
    }

    /// Records that a delivery of an object succeeded, and that at least a part of the object is now with the customer.
    /// `freshness` is the time since the S3 event, if the event has a time.
    pub fn delivered(&self, tenant_id: &str, delivery: &str, freshness: Option<Duration>) {
        self.book().delivered(tenant_id, delivery, freshness, self.now());
    }

    /// Records that no row of the tenant wants an object.
    pub fn unwanted(&self, tenant_id: &str, object: ObjectName<'_>) {
        let object = self.hash.hash_one(object);
        self.book().unwanted(tenant_id, object);
    }

    /// Records that nothing of the tenant is to be delivered: its rows are disabled or gone.
    pub fn switched_off(&self, tenant_id: &str) {
        self.book().switched_off(tenant_id);
    }

    /// Records what the enabled rows of a tenant are. What was wrong with its rows before, and is not any more, ends.
    pub fn judged(&self, tenant_id: &str, rows: Rows<'_>) {
        self.book().judged(tenant_id, rows);
    }

    /// Records a failure. A failure of a tenant without rows (no object of it has begun) appears among the last failures, and
    /// nowhere else.
    pub fn failed(&self, failure: &ObjectFailure<'_>) {
        self.book().failed(failure, self.now());
    }

    /// Forgets what has expired, and decides anew which tenants have series of their own. Meant to be called every half
    /// minute.
    pub fn tidy(&self) {
        self.book().tidy(self.now().ms);
    }

    /// What the status page shows, with at most `most` tenants.
    pub fn snapshot(&self, most: usize) -> Snapshot {
        self.book().snapshot(most, self.now().ms)
    }

    fn now(&self) -> Now {
        let since = now().saturating_duration_since(self.start);
        Now { ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX), wall: Timestamp::now() }
    }

    fn book(&self) -> MutexGuard<'_, StatusBook> {
        // The book is valid after every statement, so the lock is usable after a panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object in work. If this value is dropped, the work ended without a result, and the object waits until its message comes
/// again.
#[derive(Debug)]
pub struct Waiting {
    status: Arc<Status>,
    /// `None` if the object was not recorded, or once its work has ended.
    tenant: Option<Arc<str>>,
    object: u64,
    advice: Option<&'static Advice>,
}

impl Waiting {
    /// Remembers why the attempt failed.
    pub fn failed_for(&mut self, reason: &'static str) {
        self.advice = Some(Advice::on(reason));
    }

    /// The object waits for nothing any more: it was delivered, skipped, or made a dead letter.
    pub fn end(mut self) {
        if let Some(tenant) = self.tenant.take() {
            self.status.book().end(&tenant, self.object);
        }
    }

    /// The object comes again after `again_in`.
    pub fn comes_again(mut self, again_in: Duration) {
        self.leave(again_in);
    }

    fn leave(&mut self, again_in: Duration) {
        if let Some(tenant) = self.tenant.take() {
            let now = self.status.now().ms;
            self.status.book().leave(&tenant, self.object, self.advice, again_in, now);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match (&self.tenant, std::thread::panicking()) {
            (Some(tenant), true) => {
                let (tenant_id, again_in) = (Some(&**tenant), Some(PANIC_RETRY));
                let (reason, text) = (PANIC, PANIC_TEXT);
                self.status.failed(&ObjectFailure {
                    tenant_id,
                    delivery: None,
                    key: None,
                    reason,
                    text,
                    again_in,
                });
                self.failed_for(PANIC);
                self.leave(PANIC_RETRY);
            }
            _ => self.leave(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests;
