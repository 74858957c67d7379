//! Metrics of objects and their records.

use std::time::SystemTime;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter, exemplar::HistogramWithExemplars, family::Family, histogram::exponential_buckets,
    },
    registry::{Registry, Unit},
};

use crate::{
    delivery::{self, Tally},
    lake,
    metrics::{Form, Outcome, Reason, add},
};

/// Metrics of a pipeline. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `logferry_skipped_total{reason}`: parts of messages that need no work.
    pub skipped: Family<Reason, Counter>,
    /// `logferry_failures_total{reason}`: failures of messages, with the reasons that dead letters have.
    pub failures: Family<Reason, Counter>,
    /// `logferry_fairness_deferrals_total`: objects that went back to the queue because their tenant's share was used up. They do
    /// not count as failures.
    pub fairness_deferrals: Counter,
    /// `logferry_object_bytes_total{form}`: `stored` and `decompressed`.
    pub object_bytes: Family<Form, Counter>,
    /// `logferry_objects_copied_total`: objects that arrived in customers' buckets.
    pub objects_copied: Counter,
    /// `logferry_records_read_total`: records given to deliveries; a record that goes to two deliveries counts twice.
    pub records_read: Counter,
    /// `logferry_records_total{outcome}`: `accepted`, `too_old`, `too_new`, `expired`, `refused`, `empty`, `skipped`,
    /// `quarantined`, `resumed` for records that an earlier attempt accounted for, `lake` for records in files of a lake, and
    /// `shadow` for all records of deliveries in shadow mode.
    pub records: Family<Outcome, Counter>,
    /// `logferry_records_unaccounted_total`: records of deliveries without an error that have no outcome. Always 0.
    pub records_unaccounted: Counter,
    /// `logferry_records_undated_total`: records without a usable timestamp; they get the object's.
    pub records_undated: Counter,
    /// `logferry_records_mended_total`: records whose message broke the rules of JSON or UTF-8; U+FFFD replaces what is not
    /// Unicode.
    pub records_mended: Counter,
    /// `logferry_records_oversize_total`: records longer than one event may be.
    pub records_oversize: Counter,
    /// `logferry_batches_total`: PutLogEvents calls that were answered.
    pub batches: Counter,
    /// `logferry_event_bytes_total`: bytes as CloudWatch Logs bills them.
    pub event_bytes: Counter,
    /// `logferry_lake_files_total`: files that were written into customers' lakes.
    pub lake_files: Counter,
    /// `logferry_lake_bytes_total`: bytes of these files.
    pub lake_bytes: Counter,
    /// `logferry_freshness_seconds`: from the S3 event to the acceptance of the object's last record. An exemplar names the
    /// trace of such an object.
    pub freshness: HistogramWithExemplars<Trace>,
    /// Metrics of requests.
    pub delivery: delivery::Metrics,
}

/// Label of an exemplar.
#[derive(Clone, Debug, EncodeLabelSet)]
pub struct Trace {
    /// The trace's id, 32 hexadecimal digits.
    pub trace_id: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            skipped: Family::default(),
            failures: Family::default(),
            fairness_deferrals: Counter::default(),
            object_bytes: Family::default(),
            objects_copied: Counter::default(),
            records_read: Counter::default(),
            records: Family::default(),
            records_unaccounted: Counter::default(),
            records_undated: Counter::default(),
            records_mended: Counter::default(),
            records_oversize: Counter::default(),
            batches: Counter::default(),
            event_bytes: Counter::default(),
            lake_files: Counter::default(),
            lake_bytes: Counter::default(),
            // 0.1 s to about 55 min.
            freshness: HistogramWithExemplars::new(exponential_buckets(0.1, 2.0, 16)),
            delivery: delivery::Metrics::default(),
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "skipped", "Parts of messages that need no work", &self.skipped);
        add(registry, "failures", "Failures of messages, by reason", &self.failures);
        add(
            registry,
            "fairness_deferrals",
            "Objects that went back because their tenant's share was used up",
            &self.fairness_deferrals,
        );
        add(registry, "object_bytes", "Bytes of objects", &self.object_bytes);
        add(registry, "objects_copied", "Objects that arrived in customers' buckets", &self.objects_copied);
        add(registry, "records_read", "Records given to deliveries", &self.records_read);
        add(registry, "records", "Records by outcome", &self.records);
        add(
            registry,
            "records_unaccounted",
            "Records without an outcome; always 0",
            &self.records_unaccounted,
        );
        add(
            registry,
            "records_undated",
            "Records without a timestamp that can be read and believed",
            &self.records_undated,
        );
        add(
            registry,
            "records_mended",
            "Records whose message was mended: lone surrogates, bytes that are no UTF-8, illegal escapes and control characters",
            &self.records_mended,
        );
        add(registry, "records_oversize", "Records longer than one event may be", &self.records_oversize);
        add(registry, "batches", "PutLogEvents calls that were answered", &self.batches);
        add(registry, "event_bytes", "Bytes as CloudWatch Logs bills them", &self.event_bytes);
        add(registry, "lake_files", "Files that were written into customers' lakes", &self.lake_files);
        add(
            registry,
            "lake_bytes",
            "Bytes of the files that were written into customers' lakes",
            &self.lake_bytes,
        );
        registry.register_with_unit(
            "freshness",
            "From the S3 event to the acceptance of the object's last record",
            Unit::Seconds,
            self.freshness.clone(),
        );
        self.delivery.register(registry);
    }

    /// Counts an object whose last record was accepted `seconds` after its S3 event. `trace` is the trace of its message, if
    /// the trace is recorded.
    pub fn arrived_after(&self, seconds: f64, trace: Option<Trace>) {
        let now = trace.is_some().then(SystemTime::now);
        self.freshness.observe(seconds, trace, now);
    }

    /// Adds the tally of one object that a delivery in shadow mode has counted. Whatever would have become of its records,
    /// nothing was put.
    pub fn count_shadow(&self, tally: &Tally) {
        self.records_read.inc_by(tally.read);
        if tally.read > 0 {
            self.records.get_or_create(&Outcome::new("shadow")).inc_by(tally.accounted());
        }
    }

    fn count_outcomes(&self, outcomes: &[(&'static str, u64)]) {
        for &(outcome, count) in outcomes.iter().filter(|(_, count)| *count > 0) {
            self.records.get_or_create(&Outcome::new(outcome)).inc_by(count);
        }
    }

    /// Adds the tally of one object that was written into a lake.
    pub fn count_lake(&self, tally: &lake::LakeTally) {
        self.records_read.inc_by(tally.read);
        let outcomes = [
            ("lake", tally.written),
            ("skipped", tally.skipped),
            ("quarantined", tally.quarantined),
            ("resumed", tally.resumed),
        ];
        self.count_outcomes(&outcomes);
        self.records_undated.inc_by(tally.undated);
        self.records_mended.inc_by(tally.mended);
        self.lake_files.inc_by(tally.files);
        self.lake_bytes.inc_by(tally.bytes);
    }

    /// Adds the tally of one delivery of one object.
    pub fn count(&self, tally: &Tally) {
        self.records_read.inc_by(tally.read);
        let outcomes = [
            ("accepted", tally.put.accepted),
            ("too_old", tally.put.too_old),
            ("too_new", tally.put.too_new),
            ("expired", tally.put.expired),
            ("refused", tally.put.refused),
            ("empty", tally.empty),
            ("skipped", tally.skipped),
            ("quarantined", tally.quarantined),
            ("resumed", tally.resumed),
        ];
        self.count_outcomes(&outcomes);
        self.records_undated.inc_by(tally.undated);
        self.records_mended.inc_by(tally.mended);
        self.records_oversize.inc_by(tally.oversize);
        self.batches.inc_by(tally.batches);
        self.event_bytes.inc_by(tally.bytes);
    }
}
