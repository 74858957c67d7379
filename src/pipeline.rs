//! One message's way: event -> object -> records -> batches -> delivery -> verdict.
//!
//! Reads straight down: [`Pipeline::handle`] judges a message, its `deliver` carries one object to all who want
//! it. It knows the ports alone, no adapter, and neither receives messages nor deletes them.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    batch::BufferPool,
    budget::{Budgets, Rates},
    config::UnknownTenant,
    decode::{DecodeError, Decoder, Window},
    delivery::{Lane, StreamKey, Streams, Tally},
    event::{self, Event, Ignored, ObjectRef},
    fairness::{Shares, book::Limits},
    metrics::{Form, Metrics, Reason},
    object::{ObjectBody, ObjectStore},
    queue::Message,
    records::{More, RecordReader, Step},
    route::{KeyLayout, Route},
    sink::{LogSinks, SinkError},
    tenant::{Delivery, Destination, Directory},
    verdict::{self, Backoff, Failed, Failure, Verdict},
};

/// What the configuration says of objects and verdicts.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// What keys mean.
    pub key_layout: KeyLayout,
    /// Buckets that may be read and their owners; empty: any.
    pub buckets: HashMap<String, Option<String>>,
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
    /// What one account and Region is asked.
    pub rates: Rates,
}

/// Everything that a message's way needs.
#[derive(Debug)]
pub struct Pipeline<O, D, S> {
    store: O,
    directory: D,
    sinks: S,
    streams: Streams,
    buffers: BufferPool,
    shares: Shares,
    budgets: Budgets,
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

impl<O: ObjectStore, D: Directory, S: LogSinks> Pipeline<O, D, S> {
    /// Joins the ports.
    pub fn new(store: O, directory: D, sinks: S, settings: PipelineSettings, metrics: Metrics) -> Self {
        let buffers = BufferPool::new(settings.most_buffers);
        let shares = Shares::new(settings.shares);
        let budgets = Budgets::new(settings.rates, metrics.clone());
        Self { store, directory, sinks, streams: Streams::new(), buffers, shares, budgets, settings, metrics }
    }

    /// Works a message off and judges it.
    ///
    /// # Cancel safety
    /// Safe in the sense of the queue: a message whose handling is dropped was not acknowledged and comes again; what
    /// was put by then arrives twice.
    pub async fn handle(&self, message: &Message) -> Verdict {
        let report = self.process(&message.body).await;
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
            match failed.failure.held_for() {
                // The breaker of the role or account has said so, once for all of them; and a turn is nothing wrong.
                Some(_) => tell!(debug, "a message waits"),
                None => tell!(warn, "a message could not be done"),
            }
        }
        verdict
    }

    /// Works a message's body off, object by object; one that fails does not stop the next.
    pub async fn process(&self, body: &str) -> Report {
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
                    self.object(object, &mut report).await;
                }
            }
        }
        report
    }

    /// Finds out who wants the object, then delivers it.
    async fn object(&self, object: &ObjectRef, report: &mut Report) {
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
        let tenant = match self.directory.find(&route.tenant).await {
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

        let (mut wanted, mut filtered, failed_before) = (Vec::new(), false, report.failures.len());
        for row in &tenant.deliveries {
            match row {
                Ok(delivery) if !delivery.enabled => {}
                Ok(delivery) if !delivery.wants(&route.application) => filtered = true,
                Ok(delivery) => wanted.push(delivery),
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
            // Back in the queue, the message would deliver those again.
            false => Ok(self.shares.enter_anyway(&route.tenant, bytes)),
        };
        match pass {
            Ok(_pass) => self.deliver(object, &route, &wanted, report).await,
            Err(wait) => report.failures.push(fail(tenant_id, None, Failure::OverShare { wait })),
        }
    }

    /// Reads the object once and gives every record to every delivery that wants it. A delivery that fails is left
    /// behind; the others go on.
    async fn deliver(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &[&Arc<Delivery>],
        report: &mut Report,
    ) {
        let fail = |delivery: Option<&str>, failure| Failed {
            object: Some(object.clone()),
            tenant_id: Some(route.tenant.clone()),
            delivery: delivery.map(str::to_owned),
            failure,
        };
        // Into the accounts first: without a way in, the object need not be read.
        let mut sinks = Vec::new();
        for delivery in wanted {
            let Destination::CloudWatch(destination) = &delivery.destination;
            let (account, region) = (destination.role.account(), &delivery.target_region);
            let budget = match self.budgets.enter(account, region) {
                Ok(budget) => budget,
                Err(retry_in) => {
                    let (account, region) = (account.to_owned(), region.clone());
                    let paused = Failure::Sink(SinkError::Paused { account, region, retry_in });
                    report.failures.push(fail(Some(&delivery.name), paused));
                    continue;
                }
            };
            match self.sinks.open(delivery, destination, &route.cluster).await {
                Ok(sink) => sinks.push((*delivery, destination, sink, budget)),
                Err(error) => report.failures.push(fail(Some(&delivery.name), Failure::Role(error))),
            }
        }
        if sinks.is_empty() {
            return;
        }
        let owner = self.settings.buckets.get(&object.bucket).and_then(Option::as_deref);
        let (modified, body) = match self.store.open(object, owner).await {
            Ok(open) => open,
            Err(error) => return report.failures.push(fail(None, Failure::Object(error))),
        };
        let mut lanes: Lanes<'_, S::Sink> = Vec::new();
        for (delivery, destination, sink, budget) in sinks {
            let key = StreamKey {
                account: destination.role.account().to_owned(),
                region: delivery.target_region.clone(),
                log_group_name: destination.log_group_name.clone(),
                log_stream_name: destination.log_stream_name.render(route, modified),
            };
            let lane = Lane::new(sink, destination, key, budget, &self.streams, &self.buffers);
            lanes.push((delivery.as_ref(), lane));
        }

        let read = self.read(body, modified, &mut lanes, |name, error| {
            report.failures.push(fail(Some(name), Failure::Sink(error)));
        });
        let read = read.await;
        // What brings the message back brings every record back: what is not on its way yet need not go twice. Broken
        // content stays broken, so what came before it is delivered now.
        let comes_again = read.as_ref().is_err_and(Failure::comes_again);
        for (delivery, mut lane) in lanes {
            if comes_again {
                self.metrics.count(&unfinished(lane.tally()));
                continue;
            }
            match lane.finish().await {
                Ok(()) => match self.delivered(object, delivery, lane.tally()) {
                    Ok(delivered) => report.delivered.push(delivered),
                    Err(failure) => report.failures.push(fail(Some(&delivery.name), failure)),
                },
                Err(error) => {
                    self.metrics.count(&unfinished(lane.tally()));
                    report.failures.push(fail(Some(&delivery.name), Failure::Sink(error)));
                }
            }
        }
        match read {
            Ok(0) => report.skipped.push(Skipped::NoRecords),
            Ok(_) => {}
            Err(failure) => report.failures.push(fail(None, failure)),
        }
    }

    /// Reads all records, giving each to every lane, and tells how many there were. A lane that fails is taken out and
    /// `failed` told; without any left there is nothing more to read for.
    async fn read(
        &self,
        mut body: O::Body,
        modified: Timestamp,
        lanes: &mut Lanes<'_, S::Sink>,
        failed: impl FnMut(&str, SinkError),
    ) -> Result<u64, Failure> {
        let read = self.read_records(&mut body, modified, lanes, failed).await;
        if matches!(
            &read,
            Err(Failure::Record(_) | Failure::Decode { error: DecodeError::Corrupt { .. }, .. })
        ) {
            // Was it stored like that, or did it break on its way? The checksum tells, and it comes last.
            while body.chunk().await.map_err(Failure::Object)?.is_some() {}
        }
        read
    }

    async fn read_records(
        &self,
        body: &mut O::Body,
        modified: Timestamp,
        lanes: &mut Lanes<'_, S::Sink>,
        mut failed: impl FnMut(&str, SinkError),
    ) -> Result<u64, Failure> {
        let object_time = modified.as_millisecond().max(0);
        let mut decoder = Decoder::new(self.settings.max_object);
        let mut window = Window::default();
        let mut reader = RecordReader::new(self.settings.max_record);
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
                    match reader.next(window.unread(), more).map_err(Failure::Record)? {
                        Step::Record { record, consumed } => {
                            let mut index = 0;
                            while let Some((delivery, lane)) = lanes.get_mut(index) {
                                match lane.push(&record, object_time).await {
                                    Ok(()) => index += 1,
                                    Err(error) => {
                                        failed(&delivery.name, error);
                                        let (_, lane) = lanes.remove(index);
                                        self.metrics.count(&unfinished(lane.tally()));
                                    }
                                }
                            }
                            window.consume(consumed);
                            if lanes.is_empty() {
                                return Ok(reader.count());
                            }
                        }
                        Step::More { consumed } => {
                            window.consume(consumed);
                            break;
                        }
                        Step::End => return Ok(reader.count()),
                    }
                }
                decoded.map_err(|error| Failure::Decode { records: reader.count(), error })?;
                if input.is_empty() {
                    break;
                }
            }
        }
    }

    /// Counts a delivery that ended well, and checks that it adds up.
    fn delivered(
        &self,
        object: &ObjectRef,
        delivery: &Delivery,
        tally: &Tally,
    ) -> Result<Delivered, Failure> {
        self.metrics.count(tally);
        let (read, accounted) = (tally.read, tally.accounted());
        if read != accounted {
            self.metrics.records_unaccounted.inc_by(read.abs_diff(accounted));
            return Err(Failure::Unaccounted { read, accounted });
        }
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
            batches = tally.batches,
            "delivered"
        );
        Ok(Delivered {
            tenant_id: delivery.tenant_id.clone(),
            delivery: delivery.name.clone(),
            key: object.key.clone(),
            tally: *tally,
        })
    }
}

/// The open lanes of one object, each with its delivery.
type Lanes<'a, S> = Vec<(&'a Delivery, Lane<S>)>;

/// What a delivery that did not end well may count: the records whose fate is known.
fn unfinished(tally: &Tally) -> Tally {
    Tally { read: tally.accounted(), ..*tally }
}

#[cfg(test)]
mod tests;
