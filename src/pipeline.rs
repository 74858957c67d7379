//! One message's way: event -> object -> records -> batches -> delivery -> verdict.
//!
//! Reads straight down: [`Pipeline::handle`] judges a message, its `deliver` carries one object to all who want
//! it. It knows the ports alone, no adapter, and neither receives messages nor deletes them.

mod copies;

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    batch::BufferPool,
    config::UnknownTenant,
    copy::ObjectCopier,
    decode::{DecodeError, Decoder, Window},
    delivery::{Lane, LaneError, StreamKey, Streams, Tally},
    event::{self, Event, Ignored, ObjectRef},
    fairness::{Shares, book::Limits},
    ledger::{
        Ledger,
        claim::{Claim, Claimed, Claims},
    },
    metrics::{Form, Metrics, Reason},
    object::{ObjectBody, ObjectError, ObjectStore},
    quarantine::Quarantine,
    queue::Message,
    records::{More, RecordReader, Step},
    route::{KeyLayout, Route},
    sink::LogSinks,
    tenant::{Bucket, CloudWatch, Delivery, Destination, Directory, OwnBuckets},
    verdict::{self, Backoff, Failed, Failure, Notice, Verdict},
};

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
    /// Delays of retries.
    pub backoff: Backoff,
    /// Most buffers of batches that are kept for the next ones.
    pub most_buffers: usize,
    /// What one tenant may hold of the worker.
    pub shares: Limits,
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
    streams: Streams,
    buffers: BufferPool,
    shares: Shares,
    settings: PipelineSettings,
    metrics: Metrics,
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
    /// Every delivery of the object is done, says the ledger.
    AlreadyDelivered,
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
            Self::AlreadyDelivered => "already_delivered",
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
    /// Joins the ports.
    pub fn new(ports: Ports<O, D, S, C, L>, settings: PipelineSettings, metrics: Metrics) -> Self {
        let buffers = BufferPool::new(settings.most_buffers);
        let (streams, shares) = (Streams::new(), Shares::new(settings.shares));
        Self { ports, streams, buffers, shares, settings, metrics }
    }

    /// Works a message off and judges it. Cancelling `stop` breaks it off: what is on its way is waited for, the ledger is
    /// told how far it came, and the message goes back at once.
    ///
    /// # Cancel safety
    /// Safe in the sense of the queue: a message whose handling is dropped was not acknowledged and comes again; up to two
    /// batches of it arrive twice, and everything that was put if there is no ledger.
    pub async fn handle(&self, message: &Message, stop: &CancellationToken) -> Verdict {
        let report = self.process(&message.body, stop).await;
        for skipped in &report.skipped {
            self.metrics.skipped.get_or_create(&Reason::new(skipped.reason())).inc();
        }
        let verdict =
            verdict::decide(&report.failures, message.receive_count, &self.settings.backoff, fastrand::f64());
        for failed in &report.failures {
            match failed.failure {
                Failure::OverShare { .. } => self.metrics.fairness_deferrals.inc(),
                _ => self.metrics.failures.get_or_create(&Reason::new(failed.failure.reason())).inc(),
            };
            let object = failed.object.as_ref();
            macro_rules! tell {
                ($level:ident, $what:literal) => {
                    tracing::$level!(
                        message.id, message.receive_count,
                        object.bucket = object.map(|object| object.bucket.as_str()),
                        object.key = object.map(|object| object.key.as_str()),
                        tenant.id = failed.tenant_id, delivery.name = failed.delivery,
                        reason = failed.failure.reason(), error = %failed, verdict = ?verdict,
                        $what
                    )
                };
            }
            match failed.failure.notice() {
                Notice::Expected => tell!(debug, "a message waits"),
                Notice::Unexpected => tell!(warn, "a message could not be done"),
                Notice::Defect => tell!(error, "a message could not be done"),
            }
        }
        verdict
    }

    /// Works a message's body off, object by object; one that fails does not stop the next.
    pub async fn process(&self, body: &str, stop: &CancellationToken) -> Report {
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
                    self.object(object, stop, &mut report).await;
                }
            }
        }
        report
    }

    /// Finds out who wants the object, then delivers it.
    async fn object(&self, object: &ObjectRef, stop: &CancellationToken, report: &mut Report) {
        let fail = |tenant_id: Option<&str>, delivery: Option<&str>, failure| Failed {
            object: Some(object.clone()),
            tenant_id: tenant_id.map(str::to_owned),
            delivery: delivery.map(str::to_owned),
            failure,
        };
        let buckets = &self.settings.buckets;
        if !buckets.is_empty() && !buckets.contains_key(&object.bucket) {
            report.failures.push(fail(None, None, Failure::ForeignBucket));
            return;
        }
        let route = match self.settings.key_layout.route(&object.key) {
            Ok(route) => route,
            Err(error) => return report.failures.push(fail(None, None, Failure::Key(error))),
        };
        let tenant_id = Some(route.tenant.as_str());
        let tenant = match self.ports.directory.find(&route.tenant).await {
            Ok(Some(tenant)) if tenant.paused => {
                return report.failures.push(fail(tenant_id, None, Failure::TenantPaused));
            }
            Ok(Some(tenant)) => tenant,
            Ok(None) => {
                match self.settings.unknown_tenant {
                    UnknownTenant::DeadLetter => {
                        report.failures.push(fail(tenant_id, None, Failure::UnknownTenant))
                    }
                    UnknownTenant::Discard => report.skipped.push(Skipped::UnknownTenant),
                }
                return;
            }
            Err(error) => return report.failures.push(fail(tenant_id, None, Failure::Lookup(error))),
        };

        if let Some(bad) = &tenant.bad_settings {
            // Were it a pause, what is delivered could not be taken back.
            return report.failures.push(fail(tenant_id, Some(&bad.name), Failure::Row(bad.clone())));
        }
        let (mut wanted, mut filtered, failed_before) = (Vec::new(), false, report.failures.len());
        for row in &tenant.deliveries {
            match row {
                Ok(delivery) if !delivery.enabled => {}
                Ok(delivery) if !delivery.wants(&route.application) => filtered = true,
                Ok(delivery) => match self.settings.own_buckets.check_for(delivery, &object.bucket) {
                    Ok(()) => wanted.push(delivery),
                    Err(bad) => {
                        report.failures.push(fail(tenant_id, Some(&delivery.name), Failure::Row(bad)))
                    }
                },
                // A row that asks for nothing can be as broken as it likes.
                Err(bad) if !bad.enabled => {}
                Err(bad) => report.failures.push(fail(tenant_id, Some(&bad.name), Failure::Row(bad.clone()))),
            }
        }
        if wanted.is_empty() {
            if report.failures.len() == failed_before {
                report.skipped.push(if filtered { Skipped::Filtered } else { Skipped::Disabled });
            }
            return;
        }
        let bytes = object.size.unwrap_or_default();
        let pass = match report.delivered.is_empty() {
            true => self.shares.enter(&route.tenant, bytes),
            // Back in the queue, the message would bring those again.
            false => Ok(self.shares.enter_anyway(&route.tenant, bytes)),
        };
        match pass {
            Ok(_pass) => self.deliver(object, &route, &wanted, stop, report).await,
            Err(wait) => report.failures.push(fail(tenant_id, None, Failure::OverShare { wait })),
        }
    }

    /// Delivers one object to all who want it: its records to CloudWatch Logs, and itself to buckets beside that. Neither
    /// waits for the other, and each delivery has its own entry in the ledger: what went well is not repeated.
    async fn deliver(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &[&Arc<Delivery>],
        stop: &CancellationToken,
        report: &mut Report,
    ) {
        let mut logs = Vec::new();
        let mut buckets = Vec::new();
        for delivery in wanted {
            match &delivery.destination {
                Destination::CloudWatch(destination) => logs.push((delivery.as_ref(), destination)),
                Destination::S3(destination) => buckets.push((delivery.as_ref(), destination)),
            }
        }
        let (mut logged, mut copied) = (Report::default(), Report::default());
        let (logs_done, copies_done) = tokio::join!(
            self.log(object, route, &logs, stop, &mut logged),
            self.copy(object, route, &buckets, stop, &mut copied),
        );
        if logs_done + copies_done == wanted.len() {
            report.skipped.push(Skipped::AlreadyDelivered);
        }
        // What is wrong with the object is told once.
        if logged.failures.iter().any(|failed| matches!(failed.failure, Failure::Object(_))) {
            copied.failures.retain(|failed| !matches!(failed.failure, Failure::Object(_)));
        }
        for part in [logged, copied] {
            report.skipped.extend(part.skipped);
            report.delivered.extend(part.delivered);
            report.failures.extend(part.failures);
        }
    }

    /// Reads the object once and gives every record to every delivery that wants it. A delivery that fails is left
    /// behind; the others go on. Answers with how many were done already.
    async fn log(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &[(&Delivery, &CloudWatch)],
        stop: &CancellationToken,
        report: &mut Report,
    ) -> usize {
        let fail = |delivery: Option<&str>, failure| Failed {
            object: Some(object.clone()),
            tenant_id: Some(route.tenant.clone()),
            delivery: delivery.map(str::to_owned),
            failure,
        };
        let (mut ready, mut done) = (Vec::new(), 0);
        for &(delivery, destination) in wanted {
            // The ledger first: what is done needs no way into the account.
            let claim = match self.ports.claims.claim(object, &delivery.name).await {
                Claimed::Ours(claim) => claim,
                Claimed::Done => {
                    done += 1;
                    continue;
                }
                Claimed::Busy(left) => {
                    report.failures.push(fail(Some(&delivery.name), Failure::Busy(left)));
                    continue;
                }
            };
            // And the accounts before the object: without a way in, it need not be read.
            let sink = tokio::select! {
                sink = self.ports.sinks.open(delivery, destination, &route.cluster) => sink.map_err(Failure::Sink),
                () = stop.cancelled() => Err(Failure::Stopping),
            };
            match sink {
                Ok(sink) => ready.push(Ready { delivery, destination, sink, claim }),
                Err(failure) => {
                    claim.release(claim.from()).await;
                    report.failures.push(fail(Some(&delivery.name), failure));
                }
            }
        }
        if ready.is_empty() {
            return done;
        }
        let owner = self.owner(object);
        let opened = tokio::select! {
            opened = self.ports.store.open(object, owner) => opened.map_err(Failure::Object),
            () = stop.cancelled() => Err(Failure::Stopping),
        };
        let (modified, body) = match opened {
            Ok(open) => open,
            Err(failure) => {
                for ready in ready {
                    ready.claim.release(ready.claim.from()).await;
                }
                report.failures.push(fail(None, failure));
                return done;
            }
        };
        let mut lanes: Lanes<'_, S::Sink, L> = Vec::new();
        for Ready { delivery, destination, sink, claim } in ready {
            let key = StreamKey {
                account: destination.role.account().to_owned(),
                region: delivery.target_region.clone(),
                log_group_name: destination.log_group_name.clone(),
                log_stream_name: destination.log_stream_name.render(route, modified),
            };
            let shelf = self.ports.quarantine.as_ref();
            let shelf = shelf.map(|quarantine| quarantine.shelf(object, &route.tenant, &delivery.name));
            let lane = Lane::new(sink, claim, destination, key, shelf, &self.streams, &self.buffers);
            lanes.push((delivery, lane));
        }

        let mut broken = Vec::new();
        let read = tokio::select! {
            read = self.read(body, modified, &mut lanes, &mut broken) => read,
            () = stop.cancelled() => Err(Failure::Stopping),
        };
        let mut given_up = Vec::new();
        for (delivery, lane, error) in broken {
            report.failures.push(fail(Some(&delivery.name), error.into()));
            given_up.push(lane);
        }
        for (delivery, mut lane) in lanes {
            match self.end(&mut lane, &read, stop).await {
                Ok(()) => report.delivered.push(self.delivered(object, delivery, lane.tally())),
                Err(failure) => {
                    // What is wrong with the object is told once, not by each delivery.
                    report.failures.extend(failure.map(|failure| fail(Some(&delivery.name), failure)));
                    given_up.push(lane);
                }
            }
        }
        self.give_up(given_up, &read, stop).await;
        match read {
            Ok(0) => report.skipped.push(Skipped::NoRecords),
            Ok(_) => {}
            Err(failure) => report.failures.push(fail(None, failure)),
        }
        done
    }

    /// The account that must own the object's bucket, where that is known.
    fn owner(&self, object: &ObjectRef) -> Option<&str> {
        self.settings.buckets.get(&object.bucket).and_then(Option::as_deref)
    }

    /// Ends a lane as far as the object was read. On an error the lane is still to be abandoned; none is told where the
    /// object is to blame.
    async fn end(
        &self,
        lane: &mut Lane<S::Sink, L>,
        read: &Result<u64, Failure>,
        stop: &CancellationToken,
    ) -> Result<(), Option<Failure>> {
        if read.as_ref().is_err_and(Failure::comes_again) {
            // What brings the message back brings every record back: what is not on its way yet need not go now.
            return Err(None);
        }
        // Broken content stays broken, so what came before it is delivered now.
        tokio::select! {
            flushed = lane.flush() => flushed.map_err(|error| Some(error.into()))?,
            () = stop.cancelled() => return Err(Some(Failure::Stopping)),
        }
        if read.is_err() {
            return Err(None);
        }
        // An object that is shorter than it was does not add up either.
        let (read, accounted) = (lane.tally().read, lane.tally().accounted().max(lane.from().records));
        if read != accounted {
            self.metrics.records_unaccounted.inc_by(read.abs_diff(accounted));
            return Err(Some(Failure::Unaccounted { read, accounted }));
        }
        lane.complete().await.map_err(|error| Some(error.into()))
    }

    /// Gives lanes up, all at once: what they account for counts, the rest comes again or is told of.
    async fn give_up(
        &self,
        lanes: Vec<Lane<S::Sink, L>>,
        read: &Result<u64, Failure>,
        stop: &CancellationToken,
    ) {
        let altered = matches!(read, Err(Failure::Object(ObjectError::ChecksumMismatch(_))));
        let mut running = JoinSet::new();
        for mut lane in lanes {
            let stop = stop.clone();
            running.spawn(async move {
                if altered {
                    lane.distrust(&stop).await
                } else {
                    lane.abandon(&stop).await
                }
                *lane.tally()
            });
        }
        while let Some(ended) = running.join_next().await {
            match ended {
                Ok(tally) => self.metrics.count(&Tally { read: tally.accounted(), ..tally }),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // Only a runtime that is shutting down cancels it.
                Err(_) => {}
            }
        }
    }

    /// Reads all records, giving each to every lane, and tells how many there were. A lane that fails moves to `broken`;
    /// without any left there is nothing more to read for.
    async fn read<'a>(
        &self,
        mut body: O::Body,
        modified: Timestamp,
        lanes: &mut Lanes<'a, S::Sink, L>,
        broken: &mut BrokenLanes<'a, S::Sink, L>,
    ) -> Result<u64, Failure> {
        let read = self.read_records(&mut body, modified, lanes, broken).await;
        if matches!(
            &read,
            Err(Failure::Record(_) | Failure::Decode { error: DecodeError::Corrupt { .. }, .. })
        ) {
            // Was it stored like that, or did it break on its way? The checksum tells, and it comes last.
            while body.chunk().await.map_err(Failure::Object)?.is_some() {}
        }
        read
    }

    async fn read_records<'a>(
        &self,
        body: &mut O::Body,
        modified: Timestamp,
        lanes: &mut Lanes<'a, S::Sink, L>,
        broken: &mut BrokenLanes<'a, S::Sink, L>,
    ) -> Result<u64, Failure> {
        let object_time = modified.as_millisecond().max(0);
        let mut decoder = Decoder::new(self.settings.max_object);
        let mut window = Window::default();
        let mut reader = RecordReader::new(self.settings.max_record);
        if self.ports.quarantine.is_some() {
            reader = reader.stepping_over_bad_lines();
        }
        loop {
            let chunk = body.chunk().await.map_err(Failure::Object)?;
            let (mut input, ended) = (chunk.as_deref().unwrap_or_default(), chunk.is_none());
            self.metrics.object_bytes.get_or_create(&Form::new("stored")).inc_by(input.len() as u64);
            loop {
                let unread = window.unread().len();
                let decoded = match ended {
                    false => decoder.decode(&mut input, &mut window),
                    true => decoder.finish(&mut window),
                };
                let decompressed = (window.unread().len() - unread) as u64;
                self.metrics.object_bytes.get_or_create(&Form::new("decompressed")).inc_by(decompressed);
                // What came out before a break is good; a record that is cut by it is not read.
                let more = match (&decoded, ended) {
                    (Err(_), _) => More::Never,
                    (Ok(()), true) => More::Ended,
                    (Ok(()), false) => More::Coming,
                };
                loop {
                    let step = reader.next(window.unread(), more).map_err(Failure::Record)?;
                    let consumed = match &step {
                        Step::Record { consumed, .. } | Step::BadLine { consumed, .. } => *consumed,
                        Step::More { consumed } => {
                            window.consume(*consumed);
                            break;
                        }
                        Step::End => return Ok(reader.count()),
                    };
                    let mut index = 0;
                    while let Some((_, lane)) = lanes.get_mut(index) {
                        let pushed = match &step {
                            Step::Record { record, .. } => lane.push(record, object_time).await,
                            Step::BadLine { text, .. } => lane.push_bad_line(text).await,
                            Step::More { .. } | Step::End => Ok(()),
                        };
                        match pushed {
                            Ok(()) => index += 1,
                            Err(error) => {
                                let (delivery, lane) = lanes.remove(index);
                                broken.push((delivery, lane, error));
                            }
                        }
                    }
                    window.consume(consumed);
                    if lanes.is_empty() {
                        return Ok(reader.count());
                    }
                }
                decoded.map_err(|error| Failure::Decode { records: reader.count(), error })?;
                if input.is_empty() {
                    break;
                }
            }
        }
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

/// A delivery that can begin: its account is open and the object is ours.
struct Ready<'a, S, L> {
    delivery: &'a Delivery,
    destination: &'a CloudWatch,
    sink: S,
    claim: Arc<Claim<L>>,
}

/// The open lanes of one object, each with its delivery.
type Lanes<'a, S, L> = Vec<(&'a Delivery, Lane<S, L>)>;

/// Lanes that cannot go on, and why.
type BrokenLanes<'a, S, L> = Vec<(&'a Delivery, Lane<S, L>, LaneError)>;

#[cfg(test)]
mod tests;
