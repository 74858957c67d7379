//! Ports whose calls are evidence for [`crate::health`]. Failures that one tenant can cause are left out, or count by tenant or
//! account.

use std::{collections::HashSet, fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    credentials::identity::IdentityError,
    event::ObjectRef,
    health::{Check, CheckCall, CheckFailure, Health},
    ledger::{Begun, DeliveryProgress, EntryKey, Ledger, LedgerError, Position, lease::Lease},
    object::{ObjectError, ObjectHead, ObjectStore},
    quarantine::{QuarantineStore, WriteFuture},
    queue::{DeadLetter, Message, Queue, QueueError, Receipt, SentAnew},
    route::Rules,
    sink::{LogSink, LogSinks, PutAnswer, SinkError},
    tenant::{CloudWatch, Delivery, Directory, LookupError, Tenant},
};

/// A port that reports the outcome of its calls.
#[derive(Clone, Debug)]
pub(super) struct Watched<P> {
    port: P,
    health: Arc<Health>,
}

impl<P> Watched<P> {
    pub(super) fn new(port: P, health: &Arc<Health>) -> Self {
        Self { port, health: Arc::clone(health) }
    }

    fn tell<'a, T, E: Display>(
        &self,
        call: impl Into<CheckCall<'a>>,
        outcome: &Result<T, E>,
        cause: impl FnOnce(&E) -> Evidence,
    ) {
        match outcome {
            Ok(_) => self.health.succeeded(call),
            Err(error) => match cause(error) {
                Evidence::Answer => self.health.succeeded(call),
                Evidence::Failure(cause) => self.health.failed(call, cause, error),
                Evidence::Nothing => {}
            },
        }
    }

    /// Reports the outcome of a call, and returns it.
    fn told<T, E: Display>(
        &self,
        check: Check,
        outcome: Result<T, E>,
        cause: impl FnOnce(&E) -> Evidence,
    ) -> Result<T, E> {
        self.tell(check, &outcome, cause);
        outcome
    }
}

/// What an error says about the dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// The dependency works: the error is about one message, object or tenant.
    Answer,
    Failure(CheckFailure),
    Nothing,
}

pub(super) fn cause_of_identity(error: &IdentityError) -> CheckFailure {
    match error {
        IdentityError::Clock { .. } => CheckFailure::Clock,
        IdentityError::Credentials { .. } => CheckFailure::Credentials,
        IdentityError::CentralRole { .. } => CheckFailure::Denied,
    }
}

pub(super) fn cause_of_queue(error: &QueueError) -> CheckFailure {
    match error {
        QueueError::Denied(_) => CheckFailure::Denied,
        QueueError::Missing(_) => CheckFailure::Missing,
        QueueError::Gone(_) | QueueError::Refused(_) | QueueError::Unavailable(_) => CheckFailure::Unanswered,
    }
}

fn of_queue(error: &QueueError) -> Evidence {
    match error {
        QueueError::Gone(_) | QueueError::Refused(_) => Evidence::Answer,
        QueueError::Denied(_) | QueueError::Missing(_) | QueueError::Unavailable(_) => {
            Evidence::Failure(cause_of_queue(error))
        }
    }
}

fn of_ledger(error: &LedgerError) -> Evidence {
    match error {
        LedgerError::Lost(_) | LedgerError::Unreadable(_) => Evidence::Answer,
        LedgerError::Throttled(_) => Evidence::Failure(CheckFailure::Throttled),
        LedgerError::Unavailable(_) => Evidence::Failure(CheckFailure::Unanswered),
    }
}

impl<Q: Queue> Queue for Watched<Q> {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        self.told(Check::Receive, self.port.receive(max, wait).await, |error| {
            Evidence::Failure(cause_of_queue(error))
        })
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let deleted = self.port.delete(receipts).await;
        // A call with several entries counts once: as a success if any entry shows that the queue works.
        let works = |entry: &&Result<(), QueueError>| {
            entry.as_ref().err().is_none_or(|error| of_queue(error) == Evidence::Answer)
        };
        if let Some(entry) = deleted.iter().find(works).or(deleted.first()) {
            self.tell(Check::Delete, entry, of_queue);
        }
        deleted
    }

    async fn change_visibility(&self, entries: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        self.port.change_visibility(entries).await
    }

    async fn send_anew(&self, entries: &[SentAnew]) -> Vec<Result<(), QueueError>> {
        self.port.send_anew(entries).await
    }

    async fn probe_sending(&self) -> Result<(), QueueError> {
        self.port.probe_sending().await
    }

    async fn retention(&self) -> Result<Duration, QueueError> {
        self.port.retention().await
    }

    fn has_dead_letters(&self) -> bool {
        self.port.has_dead_letters()
    }

    async fn send_dead_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        self.told(Check::DeadLetters, self.port.send_dead_letter(letter).await, of_queue)
    }
}

impl<D: Directory> Directory for Watched<D> {
    async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        self.told(Check::Lookup, self.port.find(tenant_id).await, |_| {
            Evidence::Failure(CheckFailure::Unanswered)
        })
    }
}

impl<L: Ledger> Ledger for Watched<L> {
    async fn begin(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        self.told(Check::Ledger, self.port.begin(key, owner).await, of_ledger)
    }

    async fn checkpoint(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        self.told(Check::Ledger, self.port.checkpoint(key, owner, progress).await, of_ledger)
    }

    async fn release(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        self.told(Check::Ledger, self.port.release(key, owner, progress).await, of_ledger)
    }

    async fn restart(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        self.told(Check::Ledger, self.port.restart(key, owner).await, of_ledger)
    }

    async fn finish(
        &self,
        key: &EntryKey,
        owner: &str,
        recorded: &DeliveryProgress,
        position: Position,
    ) -> Result<(), LedgerError> {
        self.told(Check::Ledger, self.port.finish(key, owner, recorded, position).await, of_ledger)
    }

    async fn probe(&self) -> Result<(), LedgerError> {
        self.told(Check::Ledger, self.port.probe().await, of_ledger)
    }
}

/// The staging buckets. A missing bucket counts as a failure only if `source.buckets` names it, because a message may name any
/// bucket. Failed reads count by tenant.
#[derive(Debug)]
pub(super) struct WatchedStore<S> {
    store: Watched<S>,
    buckets: HashSet<String>,
    key_rules: Rules,
}

impl<S> WatchedStore<S> {
    pub(super) fn new(
        store: S,
        buckets: impl IntoIterator<Item = String>,
        key_rules: Rules,
        health: &Arc<Health>,
    ) -> Self {
        Self { store: Watched::new(store, health), buckets: buckets.into_iter().collect(), key_rules }
    }

    fn tell<T>(&self, object: &ObjectRef, outcome: &Result<T, ObjectError>) {
        let configured = self.buckets.contains(&object.bucket);
        let call = if configured { Check::Read.on(&object.bucket) } else { Check::Read.into() };
        let tenant = match outcome {
            // These count by tenant: one tenant's objects may be unreadable.
            Err(ObjectError::Denied(_) | ObjectError::Unavailable(_)) => {
                self.key_rules.route(&object.key).ok().map(|route| route.tenant)
            }
            _ => None,
        };
        let call = tenant.as_deref().map_or(call, |tenant| call.by(tenant));
        self.store.tell(call, outcome, |error| match error {
            ObjectError::NoBucket(_) if configured => Evidence::Failure(CheckFailure::Missing),
            ObjectError::Ours(ours) => Evidence::Failure(cause_of_identity(ours)),
            ObjectError::Denied(_) if tenant.is_some() => Evidence::Failure(CheckFailure::Denied),
            ObjectError::Unavailable(_) if tenant.is_some() => Evidence::Failure(CheckFailure::Unanswered),
            // An error of one object says nothing about the others.
            ObjectError::NoBucket(_)
            | ObjectError::BucketGone(_)
            | ObjectError::Missing(_)
            | ObjectError::Refused(_)
            | ObjectError::Archived(_)
            | ObjectError::Denied(_)
            | ObjectError::ChecksumMismatch(_)
            | ObjectError::TooLarge { .. }
            | ObjectError::Unavailable(_) => Evidence::Nothing,
        });
    }
}

impl<S: ObjectStore> ObjectStore for WatchedStore<S> {
    type Body = S::Body;

    async fn open(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> Result<(Timestamp, S::Body), ObjectError> {
        let opened = self.store.port.open(object, owner).await;
        self.tell(object, &opened);
        opened
    }

    async fn head(&self, object: &ObjectRef, owner: Option<&str>) -> Result<ObjectHead, ObjectError> {
        let head = self.store.port.head(object, owner).await;
        self.tell(object, &head);
        head
    }
}

/// One customer's CloudWatch Logs, whose answers are evidence about the Region.
#[derive(Clone, Debug)]
pub(super) struct WatchedSink<S> {
    sink: Watched<S>,
    region: Arc<str>,
    account: Arc<str>,
}

impl<S: LogSinks> LogSinks for Watched<S> {
    type Sink = WatchedSink<S::Sink>;

    async fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> Option<SinkError> {
        self.port.closed(delivery, destination, cluster).await
    }

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        object: &ObjectRef,
    ) -> Result<Self::Sink, SinkError> {
        let sink = self.port.open(delivery, destination, cluster, object).await?;
        Ok(WatchedSink {
            sink: Watched::new(sink, &self.health),
            region: delivery.target_region.as_str().into(),
            account: destination.role.account().into(),
        })
    }
}

impl<S: LogSink> LogSink for WatchedSink<S> {
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        let answer = self.sink.port.put_log_events(body, lease).await;
        let call = Check::Put.on(&self.region);
        let call = match &answer {
            // A refused signature is the worker's own fault, not the account's.
            Err(SinkError::Ours(_)) => call,
            _ => call.by(&self.account),
        };
        self.sink.tell(call, &answer, of_sink);
        answer
    }

    async fn create_log_stream(&self, group: &str, stream: &str, lease: &Lease) -> Result<(), SinkError> {
        self.sink.port.create_log_stream(group, stream, lease).await
    }

    async fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> Result<(), SinkError> {
        self.sink.port.create_log_group(group, retention_days, lease).await
    }

    async fn finish(&self) -> Result<(), SinkError> {
        self.sink.port.finish().await
    }
}

fn of_sink(error: &SinkError) -> Evidence {
    match error {
        SinkError::Unavailable(_) => Evidence::Failure(CheckFailure::Unanswered),
        SinkError::Ours(ours) => Evidence::Failure(cause_of_identity(ours)),
        SinkError::NotFound(_)
        | SinkError::InvalidSequenceToken { .. }
        | SinkError::DataAlreadyAccepted { .. }
        | SinkError::Denied(_)
        | SinkError::GroupQuota(_)
        | SinkError::Throttled(_)
        | SinkError::Refused(_) => Evidence::Answer,
        // No call was made.
        SinkError::Held { .. }
        | SinkError::Session(_)
        | SinkError::LeaseEnded(_)
        | SinkError::Paused { .. }
        | SinkError::Unreached { .. }
        | SinkError::Uncounted(_) => Evidence::Nothing,
    }
}

impl<S: QuarantineStore> QuarantineStore for Watched<S> {
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> WriteFuture<'a> {
        let unanswered = |_: &_| Evidence::Failure(CheckFailure::Unanswered);
        Box::pin(async move { self.told(Check::QuarantineFile, self.port.put(key, body).await, unanswered) })
    }
}

#[cfg(test)]
mod tests;
