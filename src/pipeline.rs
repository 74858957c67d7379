//! One message's way: event -> object -> records -> batches -> delivery -> verdict.
//!
//! Reads straight down: [`Pipeline::handle`] judges a message, its `deliver` carries one object to all who want
//! it, by `logs` or `copies`. It knows the ports alone, no adapter, and neither receives messages nor deletes them.

mod copies;
mod logs;
mod object_reader;
mod reading;
mod refusals;
mod wanted;
mod windows;

use std::{collections::HashMap, future::Future, sync::Arc};

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::BufferPool,
    config::UnknownTenant,
    copy::ObjectCopier,
    delivery::{self, Streams, Tally},
    event::{self, Event, Ignored, ObjectRef},
    fairness::{Pass, Shares, book::Limits},
    health::Health,
    ledger::{
        Ledger,
        claim::{Claim, Claimed, Claims},
    },
    metrics::{Metrics, Reason},
    object::{ObjectBody, ObjectError, ObjectStore},
    quarantine::Quarantine,
    queue::Message,
    route::{KeyLayout, Route},
    sink::{LogSink, LogSinks},
    tenant::{Bucket, CloudWatch, Delivery, Destination, Directory, OwnBuckets},
    verdict::{self, Backoff, Failed, Failure, Notice, Tries, Verdict},
};

use self::{refusals::Refusals, windows::Windows};

/// What the configuration says of objects and verdicts.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// What keys mean.
    pub key_layout: KeyLayout,
    /// Buckets that may be read and their owners; empty: any.
    pub buckets: HashMap<String, Option<String>>,
    /// What rows may not name, and whether there is a quarantine for those that need one.
    pub own_buckets: OwnBuckets,
    /// What becomes of objects of unknown tenants.
    pub unknown_tenant: UnknownTenant,
    /// Longest record in bytes.
    pub max_record: usize,
    /// Most decompressed bytes of one object.
    pub max_object: u64,
    /// Bytes of memory for zstd windows larger than 8 MiB, of all objects together.
    pub zstd_windows: u64,
    /// Most stored bytes of one object whose records are read.
    pub max_stored: u64,
    /// Delays of retries.
    pub backoff: Backoff,
    /// Most events of one batch: the service's limit, or less.
    pub max_batch_events: usize,
    /// Most buffers of batches that are kept for the next ones.
    pub most_buffers: usize,
    /// What one tenant may hold of the worker.
    pub shares: Limits,
    /// Threads of the runtime: as many objects are decoded at the same moment.
    pub threads: usize,
}

/// What a pipeline stands between.
#[derive(Debug)]
pub struct Ports<O, D, S, C, L> {
    /// The staging bucket.
    pub store: O,
    /// The tenants.
    pub directory: D,
    /// The customers' CloudWatch Logs.
    pub sinks: S,
    /// The customers' buckets.
    pub copier: C,
    /// The ledger.
    pub claims: Claims<L>,
    /// Where records go that cannot be delivered; none: they are counted and no more.
    pub quarantine: Option<Quarantine>,
}

/// Everything that a message's way needs.
#[derive(Debug)]
pub struct Pipeline<O, D, S, C, L> {
    ports: Ports<O, D, S, C, L>,
    lanes: delivery::Shared,
    shares: Shares,
    windows: Windows,
    refusals: Refusals,
    settings: PipelineSettings,
    metrics: Metrics,
    health: Arc<Health>,
}

/// What came of a message's objects.
#[derive(Debug, Default)]
pub struct Report {
    /// What was no work, in order.
    pub skipped: Vec<Skipped>,
    /// What went well, one entry per object and delivery.
    pub delivered: Vec<Delivered>,
    /// What did not.
    pub failures: Vec<Failed>,
}

/// Why a part of a message was no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// S3's test event.
    TestEvent,
    /// Another event than `ObjectCreated`.
    NotObjectCreated,
    /// The tenant is unknown and `tenants.unknown` is `discard`.
    UnknownTenant,
    /// No delivery of the tenant is enabled.
    Disabled,
    /// No enabled delivery of the tenant wants the application.
    Filtered,
    /// The object, or the event itself, holds no records.
    NoRecords,
    /// The object stands for a folder, and holds nothing.
    FolderMarker,
    /// Every delivery of the object is done, says the ledger.
    AlreadyDelivered,
    /// A later version of the object is in the customer's bucket already.
    Superseded,
}

impl Skipped {
    /// The word that metrics use.
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

/// One object that one delivery took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The tenant.
    pub tenant_id: String,
    /// The delivery, by its row's `type`.
    pub delivery: String,
    /// The object's key.
    pub key: String,
    /// Its records.
    pub tally: Tally,
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: ObjectCopier, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Joins the ports. What AWS refuses us ourselves is told to `health`.
    pub fn new(
        ports: Ports<O, D, S, C, L>,
        settings: PipelineSettings,
        metrics: Metrics,
        health: Arc<Health>,
    ) -> Self {
        let buffers = BufferPool::new(settings.most_buffers);
        let max_batch_events = settings.max_batch_events;
        let lanes = delivery::Shared { streams: Streams::new(), buffers, max_batch_events };
        let shares = Shares::new(settings.shares, settings.threads);
        let windows = Windows::new(settings.zstd_windows);
        Self { ports, lanes, shares, windows, refusals: Refusals::default(), settings, metrics, health }
    }

    /// Works a message off and judges it. Cancelling `stop` breaks it off: what is on its way is waited for, the ledger is
    /// told how far it came, and the message goes back at once.
    ///
    /// # Cancel safety
    /// Safe in the sense of the queue: a message whose handling is dropped was not acknowledged and comes again; up to two
    /// batches of it arrive twice, and everything that was put if there is no ledger.
    pub async fn handle(&self, message: &Message, stop: &CancellationToken) -> Verdict {
        let attempt = match message.age() > self.settings.backoff.max_age {
            true => Attempt::Last,
            false => Attempt::Ordinary,
        };
        let report = self.attempt(&message.body, attempt, stop).await;
        for skipped in &report.skipped {
            self.metrics.skipped.get_or_create(&Reason::new(skipped.reason())).inc();
        }
        let refused = report.failures.iter().any(|failed| failed.failure.is_refusal());
        let tries = Tries {
            attempts: message.attempts,
            refusals: self.refusals.before(message).saturating_add(u32::from(refused)),
            age: message.age(),
        };
        let verdict = verdict::decide(&report.failures, tries, &self.settings.backoff, fastrand::f64());
        match verdict {
            Verdict::Retry(_) if refused => self.refusals.remember(message, tries.refusals),
            Verdict::Retry(_) => {}
            Verdict::Ack | Verdict::Poison(_) | Verdict::Overdue(_) => self.refusals.forget(message),
        }
        let retry_in = verdict.retry_after().map(tracing::field::debug);
        for failed in &report.failures {
            match failed.failure {
                Failure::OverShare { .. } => self.metrics.fairness_deferrals.inc(),
                _ => self.metrics.failures.get_or_create(&Reason::new(failed.failure.reason())).inc(),
            };
            if let Some(name) = failed.failure.blames_us() {
                self.health.complain(name, failed.to_string());
            }
            let object = failed.object.as_ref();
            macro_rules! tell {
                ($level:ident, $what:literal) => {
                    tracing::$level!(
                        message.id, message.attempts, message.age = ?message.age(),
                        object.bucket = object.map(|object| object.bucket.as_str()),
                        object.key = object.map(|object| object.key.as_str()),
                        tenant.id = failed.tenant_id, delivery.name = failed.delivery,
                        reason = failed.failure.reason(), error = %failed, verdict = verdict.word(), retry_in,
                        $what
                    )
                };
            }
            match failed.failure.notice() {
                Notice::Expected if matches!(verdict, Verdict::Overdue(_)) => {
                    tell!(warn, "a message was retried for longer than queue.max_age")
                }
                Notice::Expected => tell!(debug, "a message waits"),
                Notice::Unexpected => tell!(warn, "a message could not be done"),
                Notice::Defect => tell!(error, "a message could not be done"),
            }
        }
        verdict
    }

    /// Works a message's body off, object by object; one that fails does not stop the next.
    pub async fn process(&self, body: &str, stop: &CancellationToken) -> Report {
        self.attempt(body, Attempt::Ordinary, stop).await
    }

    async fn attempt(&self, body: &str, attempt: Attempt, stop: &CancellationToken) -> Report {
        let mut report = Report::default();
        match event::decode(body) {
            Err(error) => {
                let failure = Failure::Event(error);
                report.failures.push(Failed { object: None, tenant_id: None, delivery: None, failure });
            }
            Ok(event) => {
                report.skipped.extend(event.ignored.iter().map(|ignored| match ignored {
                    Ignored::TestEvent => Skipped::TestEvent,
                    Ignored::NotObjectCreated(_) => Skipped::NotObjectCreated,
                }));
                if event == Event::default() {
                    report.skipped.push(Skipped::NoRecords);
                }
                for object in &event.objects {
                    self.object(object, attempt, stop, &mut report).await;
                }
            }
        }
        report
    }

    /// Finds out who wants the object, then delivers it.
    async fn object(
        &self,
        object: &ObjectRef,
        attempt: Attempt,
        stop: &CancellationToken,
        report: &mut Report,
    ) {
        let fail = |tenant_id, delivery, failure| Failed::of(object, tenant_id, delivery, failure);
        let buckets = &self.settings.buckets;
        if !buckets.is_empty() && !buckets.contains_key(&object.bucket) {
            report.failures.push(fail(None, None, Failure::ForeignBucket));
            return;
        }
        if object.is_folder_marker() {
            return report.skipped.push(Skipped::FolderMarker);
        }
        let route = match self.settings.key_layout.route(&object.key) {
            Ok(route) => route,
            Err(error) => return report.failures.push(fail(None, None, Failure::Key(error))),
        };
        let wanted = self.wanted(object, &route).await;
        report.skipped.extend(wanted.skipped);
        report.failures.extend(wanted.failures);
        if wanted.deliveries.is_empty() {
            return;
        }
        let bytes = object.size.unwrap_or_default();
        let pass = match report.delivered.is_empty() {
            true => self.shares.enter(&route.tenant, bytes),
            // Back in the queue, the message would bring those again.
            false => Ok(self.shares.enter_anyway(&route.tenant, bytes)),
        };
        match pass {
            Ok(pass) => {
                let task = Task { object, route: &route, pass: &pass, attempt, stop };
                self.deliver(task, &wanted.deliveries, report).await
            }
            Err(wait) => report.failures.push(fail(Some(&route.tenant), None, Failure::OverShare { wait })),
        }
    }

    /// Delivers one object to all who want it: its records to CloudWatch Logs, and itself to buckets beside that. Neither
    /// waits for the other, and each delivery has its own entry in the ledger: what went well is not repeated.
    async fn deliver(&self, task: Task<'_>, wanted: &[Arc<Delivery>], report: &mut Report) {
        let mut logs = Vec::new();
        let mut buckets = Vec::new();
        for delivery in wanted {
            match &delivery.destination {
                Destination::CloudWatch(destination) => logs.push((delivery.as_ref(), destination)),
                Destination::S3(destination) => buckets.push((delivery.as_ref(), destination)),
            }
        }
        let (mut logged, mut copied) = (Report::default(), Report::default());
        let (logs_done, copies_done) =
            tokio::join!(self.log(task, &logs, &mut logged), self.copy(task, &buckets, &mut copied),);
        if logs_done + copies_done == wanted.len() {
            report.skipped.push(Skipped::AlreadyDelivered);
        }
        // What is wrong with the object is told once; but to be too large to be read is nothing to a copy.
        let of_object = |failed: &Failed| match &failed.failure {
            Failure::Object(error) => !matches!(error, ObjectError::TooLarge { .. }),
            _ => false,
        };
        if logged.failures.iter().any(of_object) {
            copied.failures.retain(|failed| !matches!(failed.failure, Failure::Object(_)));
        }
        for part in [logged, copied] {
            report.skipped.extend(part.skipped);
            report.delivered.extend(part.delivered);
            report.failures.extend(part.failures);
        }
    }

    /// What reading an object failed for. A bucket that is missing is the wiring's fault only if the configuration names it.
    fn unread(&self, object: &ObjectRef, error: ObjectError) -> Failure {
        Failure::Object(match error {
            ObjectError::NoBucket(problem) if !self.settings.buckets.contains_key(&object.bucket) => {
                ObjectError::BucketGone(problem)
            }
            other => other,
        })
    }

    /// Claims the object for a delivery and enters its account; nothing if the delivery is done. `closed` is why the account
    /// is known to let nobody in.
    async fn begin<T>(
        &self,
        task: Task<'_>,
        delivery: &Delivery,
        closed: impl Future<Output = Option<Failure>>,
        enter: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<(T, Arc<Claim<L>>)>, Failure> {
        // Thousands of messages may wait for a refused role: each attempt of each would be two calls of the ledger. The last one asks
        // all the same: what is done needs no letter.
        if task.attempt == Attempt::Ordinary
            && let Some(failure) = closed.await
        {
            return Err(failure);
        }
        // The ledger before the account: what is done needs no way in.
        let claimed = self.ports.claims.claim(task.object, &delivery.name).await;
        let claim = match claimed.map_err(Failure::Ledger)? {
            Claimed::Ours(claim) => claim,
            Claimed::Done => return Ok(None),
            Claimed::Busy(left) => return Err(Failure::Busy(left)),
        };
        // And the account before the object: without a way in, it need not be read.
        match task.unless_stopped(enter).await {
            Ok(entered) => Ok(Some((entered, claim))),
            Err(failure) => {
                claim.release(claim.from()).await;
                Err(failure)
            }
        }
    }

    /// The account that must own the object's bucket, where that is known.
    fn owner(&self, object: &ObjectRef) -> Option<&str> {
        self.settings.buckets.get(&object.bucket).and_then(Option::as_deref)
    }

    /// Counts a delivery that ended well.
    fn delivered(&self, object: &ObjectRef, delivery: &Delivery, tally: &Tally) -> Delivered {
        self.metrics.count(tally);
        if let Some(at) = object.event_time {
            self.metrics.freshness.observe(Timestamp::now().duration_since(at).as_secs_f64().max(0.0));
        }
        tracing::debug!(
            object.bucket,
            object.key,
            tenant.id = delivery.tenant_id,
            delivery.name,
            records.read = tally.read,
            records.accepted = tally.put.accepted,
            records.resumed = tally.resumed,
            batches = tally.batches,
            "delivered"
        );
        Delivered {
            tenant_id: delivery.tenant_id.clone(),
            delivery: delivery.name.clone(),
            key: object.key.clone(),
            tally: *tally,
        }
    }
}

/// An object on its way, its right to be, and the order to stop.
#[derive(Clone, Copy)]
struct Task<'a> {
    object: &'a ObjectRef,
    route: &'a Route,
    pass: &'a Pass,
    attempt: Attempt,
    stop: &'a CancellationToken,
}

/// What becomes of a message that has to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// It waits.
    Ordinary,
    /// It is a letter: it is older than `queue.max_age`.
    Last,
}

impl Task<'_> {
    fn failed(&self, delivery: Option<&str>, failure: Failure) -> Failed {
        Failed::of(self.object, Some(&self.route.tenant), delivery, failure)
    }

    /// Does something, or drops it when we have to stop.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Failure::Stopping),
        }
    }
}

#[cfg(test)]
mod tests;
