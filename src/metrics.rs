//! Every metric and its name, in one place.

use std::{fmt, sync::atomic::Ordering};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{
    credentials::{breaker::Change, refusal::Cause},
    delivery::Tally,
    telemetry,
};

/// All metrics of a process; cheap to clone, clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: std::sync::Arc<Registry>,
    /// `logferry_messages_received_total`: receives, redeliveries included.
    pub messages_received: Counter,
    /// `logferry_messages_total{verdict}`: `ack`, `retry`, `poison`, `overdue`.
    pub messages: Family<Verdict, Counter>,
    /// `logferry_messages_in_flight`: being worked on now.
    pub messages_in_flight: Gauge,
    /// `logferry_skipped_total{reason}`: parts of messages that were no work.
    pub skipped: Family<Reason, Counter>,
    /// `logferry_failures_total{reason}`: what kept a message from being done; reasons as on dead letters.
    pub failures: Family<Reason, Counter>,
    /// `logferry_dead_letters_total{reason}`: messages sent to the dead-letter queue.
    pub dead_letters: Family<Reason, Counter>,
    /// `logferry_dead_letters_overdue_total{reason}`: those of them whose retries were ended by `queue.max_age`, or by the end of the
    /// queue's retention.
    pub dead_letters_overdue: Family<Reason, Counter>,
    /// `logferry_messages_sent_anew_total{reason}`: messages that wait in the queue's delay, not in flight, by what they wait for.
    pub messages_sent_anew: Family<Reason, Counter>,
    /// `logferry_queue_errors_total{call}`: calls, or entries of calls, that SQS did not take.
    pub queue_errors: Family<Call, Counter>,
    /// `logferry_ledger_errors_total{call}`: calls that the ledger did not answer, or throttled; what needs them waits.
    pub ledger_errors: Family<Call, Counter>,
    /// `logferry_ledger_out_of_reach`: 1 while the ledger has not answered for `ledger.out_of_reach_after`, so that deliveries go on
    /// without it and what is tried again may arrive twice.
    pub ledger_out_of_reach: Gauge,
    /// `logferry_object_bytes_total{form}`: `stored` and `decompressed`.
    pub object_bytes: Family<Form, Counter>,
    /// `logferry_records_read_total`: records given to deliveries; one that goes to two counts twice.
    pub records_read: Counter,
    /// `logferry_records_total{outcome}`: `accepted`, `too_old`, `too_new`, `expired`, `refused`, `empty`, `quarantined`; `resumed`: accounted for by an
    /// attempt of before.
    pub records: Family<Outcome, Counter>,
    /// `logferry_records_unaccounted_total`: read, delivered without an error, and in no outcome. Always 0.
    pub records_unaccounted: Counter,
    /// `logferry_records_undated_total`: had no timestamp that can be read and believed, and got the object's.
    pub records_undated: Counter,
    /// `logferry_records_mended_total`: their message was not what JSON and UTF-8 allow; U+FFFD stands for what is no Unicode.
    pub records_mended: Counter,
    /// `logferry_log_lines_dropped_total`: lines of the log that nobody read in time.
    pub log_lines_dropped: Counter,
    /// `logferry_records_oversize_total`: longer than one event may be.
    pub records_oversize: Counter,
    /// `logferry_quarantined_total{reason}`: lines written to the quarantine; a record that was split may make several, and
    /// one whose delivery is repeated counts again.
    pub quarantined: Family<Reason, Counter>,
    /// `logferry_batches_total`: PutLogEvents calls that were answered.
    pub batches: Counter,
    /// `logferry_event_bytes_total`: bytes as CloudWatch Logs bills them.
    pub event_bytes: Counter,
    /// `logferry_fairness_deferrals_total`: objects that went back to the queue because their tenant held its share; no failures.
    pub fairness_deferrals: Counter,
    /// `logferry_budget_waits_total{call}`: calls that waited for `delivery.put_rate` or `delivery.create_stream_rate`.
    pub budget_waits: Family<Call, Counter>,
    /// `logferry_throttled_accounts`: accounts and Regions that are left alone for a moment because they throttle.
    pub throttled_accounts: Gauge,
    /// `logferry_role_breakers_open`: customers' roles that STS refuses, asked for again by probes alone.
    pub role_breakers_open: Gauge,
    /// `logferry_role_breaker_changes_total{change, cause}`: `opened`, `probe_refused`, `closed`, by what the refusal was.
    pub role_breaker_changes: Family<BreakerChange, Counter>,
    /// `logferry_tenant_lookups_total{result}`: lookups that no fresh entry answered: `found` and `none` are the table's word,
    /// `stale` an older entry in its place, `failed` neither.
    pub tenant_lookups: Family<Lookup, Counter>,
    /// `logferry_objects_copied_total`: objects that arrived in customers' buckets.
    pub objects_copied: Counter,
    /// `logferry_group_breakers_open`: customers' log groups that may not be written, tried again by probes alone.
    pub group_breakers_open: Gauge,
    /// `logferry_group_breaker_changes_total{change, cause}`: `opened`, `probe_refused`, `closed`, by the call that was denied.
    pub group_breaker_changes: Family<BreakerChange, Counter>,
    /// `logferry_freshness_seconds`: from the S3 event to the acceptance of the object's last record.
    pub freshness: Histogram,
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $field:ident }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            /// The label's value.
            pub $field: &'static str,
        }

        impl $name {
            /// The label with this value.
            pub fn new($field: &'static str) -> Self {
                Self { $field }
            }
        }
    };
}

label!(
    /// A message's fate.
    Verdict { verdict }
);
label!(
    /// Why something did not go the usual way.
    Reason { reason }
);
label!(
    /// A call to AWS.
    Call { call }
);
label!(
    /// Stored or decompressed.
    Form { form }
);
label!(
    /// What became of a record.
    Outcome { outcome }
);
label!(
    /// What came of looking a tenant up.
    Lookup { result }
);

/// What became of a role's or a group's breaker, and the cause of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BreakerChange {
    /// `opened`, `probe_refused` or `closed`.
    pub change: &'static str,
    /// What the last refusal was.
    pub cause: &'static str,
}

impl BreakerChange {
    /// The labels of that change.
    pub fn new(change: Change, cause: Cause) -> Self {
        Self { change: change.word(), cause: cause.word() }
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("logferry");
        let mut metrics = Self {
            registry: std::sync::Arc::default(),
            messages_received: Counter::default(),
            messages: Family::default(),
            messages_in_flight: Gauge::default(),
            skipped: Family::default(),
            failures: Family::default(),
            dead_letters: Family::default(),
            dead_letters_overdue: Family::default(),
            messages_sent_anew: Family::default(),
            queue_errors: Family::default(),
            ledger_errors: Family::default(),
            ledger_out_of_reach: Gauge::default(),
            object_bytes: Family::default(),
            records_read: Counter::default(),
            records: Family::default(),
            records_unaccounted: Counter::default(),
            records_undated: Counter::default(),
            records_mended: Counter::default(),
            log_lines_dropped: Counter::default(),
            records_oversize: Counter::default(),
            quarantined: Family::default(),
            batches: Counter::default(),
            event_bytes: Counter::default(),
            fairness_deferrals: Counter::default(),
            budget_waits: Family::default(),
            throttled_accounts: Gauge::default(),
            role_breakers_open: Gauge::default(),
            role_breaker_changes: Family::default(),
            tenant_lookups: Family::default(),
            objects_copied: Counter::default(),
            group_breakers_open: Gauge::default(),
            group_breaker_changes: Family::default(),
            // 0.1 s to about 55 min.
            freshness: Histogram::new(exponential_buckets(0.1, 2.0, 16)),
        };
        let m = &metrics;
        registry.register(
            "messages_received",
            "Messages received, redeliveries included",
            m.messages_received.clone(),
        );
        registry.register("messages", "Messages by verdict", m.messages.clone());
        registry.register("messages_in_flight", "Messages being worked on", m.messages_in_flight.clone());
        registry.register("skipped", "Parts of messages that were no work", m.skipped.clone());
        registry.register("failures", "What kept messages from being done", m.failures.clone());
        registry.register("dead_letters", "Messages sent to the dead-letter queue", m.dead_letters.clone());
        registry.register(
            "dead_letters_overdue",
            "Dead letters whose retries were ended by their age",
            m.dead_letters_overdue.clone(),
        );
        registry.register(
            "messages_sent_anew",
            "Messages that wait in the queue's delay, by reason",
            m.messages_sent_anew.clone(),
        );
        registry.register("queue_errors", "Calls or entries that SQS did not take", m.queue_errors.clone());
        registry.register(
            "ledger_errors",
            "Calls that the ledger did not answer, or throttled",
            m.ledger_errors.clone(),
        );
        registry.register(
            "ledger_out_of_reach",
            "Whether deliveries go on without the ledger because it does not answer",
            m.ledger_out_of_reach.clone(),
        );
        registry.register("object_bytes", "Bytes of objects", m.object_bytes.clone());
        registry.register("records_read", "Records given to deliveries", m.records_read.clone());
        registry.register("records", "Records by outcome", m.records.clone());
        registry.register(
            "records_unaccounted",
            "Records without an outcome; always 0",
            m.records_unaccounted.clone(),
        );
        registry.register(
            "records_undated",
            "Records without a timestamp that can be read and believed",
            m.records_undated.clone(),
        );
        registry.register(
            "records_mended",
            "Records whose message was mended: lone surrogates, bytes that are no UTF-8, illegal escapes and control characters",
            m.records_mended.clone(),
        );
        registry.register(
            "records_oversize",
            "Records longer than one event may be",
            m.records_oversize.clone(),
        );
        registry.register("quarantined", "Lines written to the quarantine", m.quarantined.clone());
        registry.register("batches", "PutLogEvents calls that were answered", m.batches.clone());
        registry.register("event_bytes", "Bytes as CloudWatch Logs bills them", m.event_bytes.clone());
        registry.register(
            "fairness_deferrals",
            "Objects that went back because their tenant held its share",
            m.fairness_deferrals.clone(),
        );
        registry.register(
            "log_lines_dropped",
            "Lines of the log that nobody read in time",
            m.log_lines_dropped.clone(),
        );
        registry.register("budget_waits", "Calls that waited for their rate", m.budget_waits.clone());
        registry.register(
            "throttled_accounts",
            "Accounts and Regions left alone for a moment because they throttle",
            m.throttled_accounts.clone(),
        );
        registry.register(
            "role_breakers_open",
            "Customers' roles that STS refuses",
            m.role_breakers_open.clone(),
        );
        registry.register(
            "role_breaker_changes",
            "Changes of roles' breakers by cause of the refusal",
            m.role_breaker_changes.clone(),
        );
        registry.register(
            "tenant_lookups",
            "Lookups of tenants that no fresh entry answered, by result",
            m.tenant_lookups.clone(),
        );
        registry.register(
            "objects_copied",
            "Objects that arrived in customers' buckets",
            m.objects_copied.clone(),
        );
        registry.register(
            "group_breakers_open",
            "Customers' log groups that may not be written",
            m.group_breakers_open.clone(),
        );
        registry.register(
            "group_breaker_changes",
            "Changes of groups' breakers by the call that was denied",
            m.group_breaker_changes.clone(),
        );
        registry.register_with_unit(
            "freshness",
            "From the S3 event to the acceptance of the object's last record",
            Unit::Seconds,
            m.freshness.clone(),
        );
        metrics.registry = registry.into();
        metrics
    }

    /// Adds what one delivery of one object came to.
    pub fn count(&self, tally: &Tally) {
        self.records_read.inc_by(tally.read);
        let outcomes = [
            ("accepted", tally.put.accepted),
            ("too_old", tally.put.too_old),
            ("too_new", tally.put.too_new),
            ("expired", tally.put.expired),
            ("refused", tally.put.refused),
            ("empty", tally.empty),
            ("quarantined", tally.quarantined),
            ("resumed", tally.resumed),
        ];
        for (outcome, count) in outcomes.into_iter().filter(|(_, count)| *count > 0) {
            self.records.get_or_create(&Outcome::new(outcome)).inc_by(count);
        }
        self.records_undated.inc_by(tally.undated);
        self.records_mended.inc_by(tally.mended);
        self.records_oversize.inc_by(tally.oversize);
        self.batches.inc_by(tally.batches);
        self.event_bytes.inc_by(tally.bytes);
    }

    /// The text that Prometheus scrapes (OpenMetrics).
    ///
    /// # Errors
    /// Never in practice: memory takes every byte.
    pub fn render(&self) -> Result<String, fmt::Error> {
        self.log_lines_dropped.inner().store(telemetry::dropped_lines(), Ordering::Relaxed);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
