//! Handles one message: event -> object -> records -> batches -> delivery -> verdict.
//!
//! `app` passes [`Pipeline::handle`] to the worker's loop, which calls it for each message. Each step has a module with the
//! methods of [`Pipeline`] for it: `wanted` finds the deliveries that want an object; `logs` opens the object and a lane for
//! each delivery; `reading` gives each record that `object_reader` finds to the lanes; `copies` copies the whole object;
//! `waiting` tells `status` what becomes of the object. `told` writes the log lines. The pipeline knows the ports, but no
//! adapter. It neither receives nor deletes messages.

mod copies;
mod direct;
mod grown;
mod lanes;
mod logs;
mod metrics;
mod object_reader;
mod reading;
mod refusals;
mod report;
mod seen;
mod told;
mod waiting;
mod wanted;
mod windows;

use std::{collections::HashMap, future::Future, num::NonZeroUsize, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{
    batch::BufferPool,
    copy::ObjectCopier,
    delivery::{self, Streams, Tally},
    event::{self, Event, Ignored, ObjectRef},
    fairness::{Pass, Shares, book::Limits},
    lake::{self, LakeStore},
    ledger::{
        Ledger,
        claim::{Claim, Claimed, Claims},
    },
    metrics::Reason,
    object::{ObjectBody, ObjectError, ObjectStore},
    quarantine::Quarantine,
    queue::Message,
    room::Place,
    route::{Route, Rules},
    sampler::LineSampler,
    sink::{LogSink, LogSinks},
    status::{self, Status},
    tenant::{
        Bucket, CloudWatch, Contents, Delivery, Destination, Directory, Mode, OwnBuckets, UnknownTenant,
    },
    trace::{self, semconv},
    verdict::{self, Backoff, Failed, Failure, Tries, Verdict},
};

use self::{grown::Grown, lanes::Reads, refusals::Refusals, seen::SeenMembers, windows::Windows};
pub use self::{
    metrics::{Metrics, Trace},
    report::{Delivered, MessageReport, Skipped},
};

/// Settings for objects and verdicts.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// What the keys of objects mean, and which formats the objects have.
    pub key_rules: Rules,
    /// Buckets that may be read, and their owners. Empty: any bucket.
    pub buckets: HashMap<String, Option<String>>,
    /// Buckets that rows must not name, and whether there is a quarantine.
    pub own_buckets: OwnBuckets,
    /// Treatment of objects of unknown tenants.
    pub unknown_tenant: UnknownTenant,
    /// Longest record in bytes.
    pub max_record: usize,
    /// Most decompressed bytes of one object.
    pub max_object: u64,
    /// Bytes of memory for zstd windows larger than 8 MiB, for all objects together.
    pub zstd_windows: u64,
    /// Most stored bytes of one object whose records are read.
    pub max_stored: u64,
    /// Retry delays.
    pub backoff: Backoff,
    /// Most events of one batch, at most the service's limit.
    pub max_batch_events: usize,
    /// Most batch buffers that are kept for later batches.
    pub most_buffers: usize,
    /// Limits of one tenant's share of the worker.
    pub shares: Limits,
    /// Number of the runtime's threads. No more objects than that are decoded at the same time.
    pub threads: usize,
}

/// Customers' buckets: copies of objects, and lakes.
pub trait Buckets: ObjectCopier + LakeStore {}

impl<T: ObjectCopier + LakeStore> Buckets for T {}

/// The ports of a pipeline.
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
    /// The quarantine for records that cannot be delivered. `None`: rejected records are only counted, and records that are
    /// unreadable or refused make a dead letter.
    pub quarantine: Option<Quarantine>,
}

/// Delivers the objects of messages.
#[derive(Debug)]
pub struct Pipeline<O, D, S, C, L> {
    ports: Ports<O, D, S, C, L>,
    lanes: delivery::Shared,
    /// For objects that share a slot.
    small_lanes: delivery::Shared,
    lakes: lake::LakeShares,
    shares: Shares,
    windows: Windows,
    grown: Grown,
    refusals: Refusals,
    /// Samples the log lines of rejected events, by tenant, and of fields that records do not have, by row.
    sampler: LineSampler,
    seen: SeenMembers,
    settings: PipelineSettings,
    metrics: Metrics,
    status: Arc<Status>,
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Creates a pipeline on the ports. The pipeline tells `status` what becomes of each tenant's objects.
    pub fn new(
        ports: Ports<O, D, S, C, L>,
        settings: PipelineSettings,
        metrics: Metrics,
        status: Arc<Status>,
    ) -> Self {
        let buffers = BufferPool::new(settings.most_buffers);
        let max_batch_events = settings.max_batch_events;
        let lanes = delivery::Shared {
            streams: Streams::new(),
            buffers,
            max_batch_events,
            metrics: metrics.delivery.clone(),
        };
        // Buffers of small objects are not kept, and those of large objects are not for small ones.
        let small_lanes = delivery::Shared { buffers: BufferPool::new(0), ..lanes.clone() };
        let shares = Shares::new(settings.shares, settings.threads);
        let windows = Windows::new(settings.zstd_windows);
        let grown = Grown::new(settings.shares.slots);
        Self {
            ports,
            lanes,
            small_lanes,
            lakes: lake::LakeShares::default(),
            shares,
            windows,
            grown,
            refusals: Refusals::default(),
            sampler: LineSampler::default(),
            seen: SeenMembers::default(),
            settings,
            metrics,
            status,
        }
    }

    /// Handles a message in its place in the worker's memory and judges it. When `stop` is cancelled, handling ends early: it
    /// waits for the batches on their way, records the position in the ledger, and returns a retry without a delay.
    ///
    /// # Cancel safety
    /// Safe for the queue: a message whose handling is dropped is not acknowledged and comes again. Up to two batches of each
    /// delivery then arrive twice. Without a ledger, everything that was put arrives twice.
    pub async fn handle(&self, message: &Message, place: &Place, stop: &CancellationToken) -> Verdict {
        let attempt = match message.age() > self.settings.backoff.max_age {
            true => Attempt::Last,
            false => Attempt::Ordinary,
        };
        let mut report = self.attempt(&message.body, Some(message), attempt, place, stop).await;
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
        if let Verdict::Retry(cause) | Verdict::Poison(cause) | Verdict::Overdue(cause) = &verdict
            && let Some(failed) =
                report.failures.iter().find(|failed| failed.failure.reason() == cause.reason)
        {
            trace::fail(&Span::current(), cause.reason, failed);
        }
        for waiting in report.unfinished.drain(..) {
            match verdict.retry_after() {
                Some(delay) => waiting.comes_again(delay),
                None => waiting.end(),
            }
        }
        for failed in &report.failures {
            match failed.failure {
                Failure::OverShare { .. } => self.metrics.fairness_deferrals.inc(),
                _ => {
                    self.tell_status(failed, verdict.retry_after());
                    self.metrics.failures.get_or_create(&Reason::new(failed.failure.reason())).inc()
                }
            };
            told::failed(message, failed, &verdict);
        }
        verdict
    }

    /// Handles a message's body, object by object. An object that fails does not stop the next one.
    pub async fn process(&self, body: &str, stop: &CancellationToken) -> MessageReport {
        self.attempt(body, None, Attempt::Ordinary, &Place::whole(), stop).await
    }

    async fn attempt(
        &self,
        body: &str,
        message: Option<&Message>,
        attempt: Attempt,
        place: &Place,
        stop: &CancellationToken,
    ) -> MessageReport {
        let mut report = MessageReport::default();
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
                    let before = report.skipped.len();
                    self.object(object, Handling { message, attempt, place, stop }, &mut report).await;
                    for skipped in &report.skipped[before..] {
                        let message = message.map(|message| message.id.as_str());
                        let reason = skipped.reason();
                        tracing::debug!(
                            message.id = message,
                            object.bucket,
                            object.key,
                            reason,
                            "nothing to deliver"
                        );
                    }
                }
            }
        }
        report
    }

    /// Finds the deliveries that want the object, then delivers it.
    async fn object(&self, object: &ObjectRef, handling: Handling<'_>, report: &mut MessageReport) {
        let began = Instant::now();
        let fail = |tenant_id, delivery, failure| Failed::of(object, tenant_id, delivery, failure);
        let buckets = &self.settings.buckets;
        if !buckets.is_empty() && !buckets.contains_key(&object.bucket) {
            report.failures.push(fail(None, None, Failure::ForeignBucket));
            return;
        }
        if object.is_folder_marker() {
            return report.skipped.push(Skipped::FolderMarker);
        }
        let span = trace::step("route", &object_attributes(object));
        let route = match span.in_scope(|| self.settings.key_rules.route(&object.key)) {
            Ok(route) => route,
            Err(error) => {
                let failed = fail(None, None, Failure::Key(error));
                trace::fail(&span, failed.failure.reason(), &failed);
                return report.failures.push(failed);
            }
        };
        drop(span);
        let span = trace::step("lookup", &[(semconv::TENANT_ID, &route.tenant)]);
        let wanted = self.wanted(object, &route).instrument(span.clone()).await;
        if let Some(failed) = wanted.failures.first() {
            trace::fail(&span, failed.failure.reason(), failed);
        }
        drop(span);
        let age = handling.message.map(Message::age).unwrap_or_default();
        let waiting = self.waiting(object, &route, &wanted, age);
        let failed_before = report.failures.len();
        report.skipped.extend(wanted.skipped);
        report.failures.extend(wanted.failures);
        if !wanted.deliveries.is_empty() {
            self.enter(object, &route, &wanted.deliveries, handling, began, report).await;
        }
        match (waiting, report.failures.get(failed_before)) {
            (Some(waiting), None) => waiting.end(),
            (Some(mut waiting), Some(failed)) => {
                waiting.failed_for(failed.failure.reason());
                report.unfinished.push(waiting);
            }
            (None, _) => {}
        }
    }

    /// Delivers the object if its tenant's share of the slots allows it.
    async fn enter(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &[Arc<Delivery>],
        handling: Handling<'_>,
        began: Instant,
        report: &mut MessageReport,
    ) {
        let (bytes, units) = (object.size.unwrap_or_default(), handling.place.units());
        let pass = match report.delivered.is_empty() {
            true => self.shares.enter(&route.tenant, bytes, units),
            // If the message went back to the queue now, its objects that are already delivered would come again.
            false => Ok(self.shares.enter_anyway(&route.tenant, bytes, units)),
        };
        match pass {
            Ok(pass) => {
                let Handling { message, attempt, place, stop } = handling;
                let admitted = Admitted { object, message, route, pass: &pass, attempt, began, place, stop };
                self.deliver(admitted, wanted, report).await
            }
            Err(wait) => {
                let failure = Failure::OverShare { wait };
                report.failures.push(Failed::of(object, Some(&route.tenant), None, failure));
            }
        }
    }

    /// Delivers one object: its records to CloudWatch Logs and to lakes and, at the same time, the object itself to buckets. Each
    /// delivery has its own entry in the ledger, so a successful one is not repeated.
    async fn deliver(&self, admitted: Admitted<'_>, wanted: &[Arc<Delivery>], report: &mut MessageReport) {
        let mut read = Vec::new();
        let mut copies = Vec::new();
        for delivery in wanted {
            match &delivery.destination {
                Destination::CloudWatch(to) => read.push((delivery.as_ref(), Reads::Logs(to))),
                Destination::S3(to) => match &to.contents {
                    Contents::Lake(lake) => read.push((delivery.as_ref(), Reads::Lake(to, lake))),
                    Contents::Copies(bucket_key) => copies.push((delivery.as_ref(), to, bucket_key)),
                },
            }
        }
        let (mut logged, mut copied) = (MessageReport::default(), MessageReport::default());
        let copying = async {
            if copies.is_empty() { 0 } else { Box::pin(self.copy(admitted, &copies, &mut copied)).await }
        };
        let (logs_done, copies_done) = tokio::join!(self.log(admitted, &read, &mut logged), copying);
        if logs_done + copies_done == wanted.len() {
            report.skipped.push(Skipped::AlreadyDelivered);
        }
        // An error of the object that both parts found is reported once. `TooLarge` is kept apart: an object that is too
        // large to be read can still be copied, so a failure of its copy is reported too.
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

    /// Turns an error of reading an object into a failure. A missing bucket is a configuration error only if the configuration
    /// names the bucket.
    fn unread(&self, object: &ObjectRef, error: ObjectError) -> Failure {
        Failure::Object(match error {
            ObjectError::NoBucket(problem) if !self.settings.buckets.contains_key(&object.bucket) => {
                ObjectError::BucketGone(problem)
            }
            other => other,
        })
    }

    /// Claims the object for a delivery and enters the customer's account. Returns `None` if the delivery is already done.
    /// `closed` returns the failure of `enter` if it is known without a call to AWS, for example while a breaker is open.
    async fn claim_and_enter<T>(
        &self,
        admitted: Admitted<'_>,
        delivery: &Delivery,
        closed: impl Future<Output = Option<Failure>>,
        enter: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<(T, Arc<Claim<L>>)>, Failure> {
        // Thousands of messages may wait for a refused role, and each attempt would cost two ledger calls. The last attempt
        // asks the ledger anyway, because a delivery that is done needs no dead letter.
        if admitted.attempt == Attempt::Ordinary
            && let Some(failure) = closed.await
        {
            return Err(failure);
        }
        // The ledger is asked first, because a delivery that is done need not enter the account.
        let (claims, name) = (&self.ports.claims, delivery.ledger_name());
        let claimed = match delivery.mode {
            Mode::Live => claims.claim(admitted.object, &name).await,
            // Counts of a part of an object are not kept.
            Mode::Shadow => claims.claim_whole(admitted.object, &name).await,
        };
        let claim = match claimed.map_err(Failure::Ledger)? {
            Claimed::Ours(claim) => claim,
            Claimed::Done => return Ok(None),
            Claimed::Busy(left) => return Err(Failure::Busy(left)),
        };
        // The account is entered before the object is read: if the account refuses, the object need not be read.
        let tenant = [(semconv::TENANT_ID, &*delivery.tenant_id), (semconv::DELIVERY_NAME, &*delivery.name)];
        let enter = admitted.unless_stopped(enter);
        match trace::within(trace::step("assume", &tenant), enter, Failure::reason).await {
            Ok(entered) => Ok(Some((entered, claim))),
            Err(failure) => {
                claim.release(claim.from()).await;
                Err(failure)
            }
        }
    }

    /// Returns the account that must own the object's bucket, if one is configured.
    fn owner(&self, object: &ObjectRef) -> Option<&str> {
        self.settings.buckets.get(&object.bucket).and_then(Option::as_deref)
    }

    /// Counts a successful delivery.
    fn delivered(&self, object: &ObjectRef, delivery: &Delivery, tally: &Tally) -> Delivered {
        self.count(delivery, tally);
        Delivered {
            tenant_id: delivery.tenant_id.clone(),
            delivery: delivery.name.clone(),
            mode: delivery.mode,
            key: object.key.clone(),
            tally: *tally,
        }
    }

    fn count(&self, delivery: &Delivery, tally: &Tally) {
        let (tenant_id, events, bytes) = (&delivery.tenant_id, tally.put.accepted, tally.bytes);
        match delivery.mode {
            Mode::Live => {
                self.metrics.count(tally);
                self.status.accepted(tenant_id, events, bytes);
                // A record without a timestamp of its own has the object's.
                if let (0, Some(newest)) = (tally.undated, tally.newest) {
                    self.status.accepted_record_of(tenant_id, newest);
                }
            }
            Mode::Shadow => {
                self.metrics.count_shadow(tally);
                self.status.shadowed(tenant_id, &delivery.name, events, bytes);
            }
        }
    }

    /// The quarantine for records that a delivery in this mode cannot deliver.
    fn quarantine(&self, mode: Mode) -> Option<Quarantine> {
        let quarantine = self.ports.quarantine.as_ref()?;
        Some(match mode {
            Mode::Live => quarantine.clone(),
            Mode::Shadow => Quarantine::without_files(),
        })
    }

    /// Records that at least a part of the object has reached the customer by a successful delivery.
    fn arrived(&self, object: &ObjectRef, delivery: &Delivery) {
        let since_event = |at| Timestamp::now().duration_since(at).try_into().unwrap_or_default();
        let freshness: Option<Duration> = object.event_time.map(since_event);
        if let Some(freshness) = freshness {
            let trace = trace::sampled_trace_id().map(|id| Trace { trace_id: id.to_string() });
            self.metrics.arrived_after(freshness.as_secs_f64(), trace);
        }
        self.status.delivered(&delivery.tenant_id, &delivery.name, freshness);
    }
}

/// Bucket and key of the object, as attributes of spans.
fn object_attributes(object: &ObjectRef) -> [(&'static str, &str); 2] {
    [(semconv::AWS_S3_BUCKET, &object.bucket), (semconv::AWS_S3_KEY, &object.key)]
}

/// How the objects of a message are handled.
#[derive(Clone, Copy)]
struct Handling<'a> {
    /// `None` for a body without a message.
    message: Option<&'a Message>,
    attempt: Attempt,
    place: &'a Place,
    stop: &'a CancellationToken,
}

/// An object that may be delivered now, because its tenant's share allows it: `pass`.
#[derive(Clone, Copy)]
struct Admitted<'a> {
    object: &'a ObjectRef,
    /// The message that names the object. `None` for a body without a message.
    message: Option<&'a Message>,
    route: &'a Route,
    pass: &'a Pass,
    attempt: Attempt,
    began: Instant,
    place: &'a Place,
    stop: &'a CancellationToken,
}

/// Whether a failed message may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The message is retried after a failure that may pass.
    Ordinary,
    /// The message is older than `queue.max_age`: a failure makes it a dead letter.
    Last,
}

impl Admitted<'_> {
    fn failed(&self, delivery: Option<&str>, failure: Failure) -> Failed {
        Failed::of(self.object, Some(&self.route.tenant), delivery, failure)
    }

    /// Waits for `work`. Drops it when `stop` is cancelled.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            () = self.stop.cancelled() => Err(Failure::Stopping),
        }
    }
}

#[cfg(test)]
mod tests;
