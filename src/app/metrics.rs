//! The metrics of all parts of a worker, registered.

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{MemoryBound, depth};
use crate::{
    aws::Calls,
    breaker, budget, config,
    credentials::customers,
    health::Health,
    ledger,
    metrics::{Bound, add, ours, register_process},
    pipeline, protection, quarantine, sink,
    status::{self, Status},
    telemetry, tenant, worker,
};

/// The metrics into which each part counts.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) worker: worker::Metrics,
    pub(super) queues: depth::Metrics,
    pub(super) protection: protection::Metrics,
    pub(super) pipeline: pipeline::Metrics,
    pub(super) tenants: tenant::cache::Metrics,
    pub(super) ledger: ledger::claim::Metrics,
    pub(super) quarantine: quarantine::Metrics,
    pub(super) budgets: budget::Metrics,
    pub(super) customers: customers::Metrics,
    pub(super) groups: breaker::Metrics,
    pub(super) status: Arc<Status>,
    calls: Calls,
    bound: MemoryBound,
}

/// Labels of `logferry_build_info`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    revision: &'static str,
}

/// Registers the metrics that are known when the worker starts: `logferry_build_info{version, revision}`, always 1, and
/// `logferry_memory_bound_bytes{bound}` for `ordinary` and `worst`.
fn register_program(bound: MemoryBound, registry: &mut Registry) {
    // The image's build sets the revision.
    let revision = option_env!("LOGFERRY_REVISION").unwrap_or("unknown");
    let build_info = Family::<Build, Gauge>::default();
    build_info.get_or_create(&Build { version: env!("CARGO_PKG_VERSION"), revision }).set(1);
    add(registry, "build_info", "The version of the program; always 1", &build_info);
    let memory_bound = Family::<Bound, Gauge>::default();
    for (name, bytes) in [("ordinary", bound.ordinary), ("worst", bound.worst)] {
        memory_bound.get_or_create(&Bound::new(name)).set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
    let help = "Memory that the buffers can take, with ordinary records and with the worst";
    registry.register_with_unit("memory_bound", help, Unit::Bytes, memory_bound);
}

impl Metrics {
    /// Starts with all metrics at zero. `calls` counts the calls of all clients. `tenants` bounds the tenants that get series
    /// of their own, and names the heartbeat's.
    pub(super) fn new(calls: Calls, bound: MemoryBound, tenants: &config::Metrics) -> Self {
        let pipeline = pipeline::Metrics::default();
        Self {
            worker: worker::Metrics { failures: pipeline.failures.clone(), ..worker::Metrics::default() },
            queues: depth::Metrics::default(),
            protection: protection::Metrics::default(),
            pipeline,
            tenants: tenant::cache::Metrics::default(),
            ledger: ledger::claim::Metrics::default(),
            quarantine: quarantine::Metrics::default(),
            budgets: budget::Metrics::default(),
            customers: customers::Metrics::default(),
            groups: breaker::Metrics::default(),
            status: Arc::new(
                Status::new(tenants.max_tenants).with_heartbeat(tenants.heartbeat_tenant.clone()),
            ),
            calls,
            bound,
        }
    }

    /// A registry of all metrics, with those of the process, the conditions of readiness, the log and the export of spans.
    pub(super) fn registry(&self, health: &Arc<Health>) -> Registry {
        let mut registry = Registry::default();
        let ours = ours(&mut registry);
        register_program(self.bound, ours);
        self.worker.register(ours);
        self.queues.register(ours);
        self.protection.register(ours);
        self.pipeline.register(ours);
        self.tenants.register(ours);
        self.ledger.register(ours);
        self.quarantine.register(ours);
        self.budgets.register(ours);
        self.customers.register(ours);
        sink::group_breaker::register(&self.groups, ours);
        self.calls.register(ours);
        health.register(ours);
        status::register(&self.status, ours);
        telemetry::register_dropped_lines(ours);
        telemetry::register_spans(ours);
        register_process(&mut registry);
        registry
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use logferry_sandbox::{
        Sandbox,
        faults::{Effect, ErrorAnswer, Fault},
    };
    use logferry_testbed::provision::Aws;

    use super::*;
    use crate::{
        aws::Base,
        breaker::Change,
        ledger::{
            EntryKey, Ledger,
            dynamodb::{DynamoDbLedger, LedgerSettings},
        },
        metrics::{Call, Ended, Form, Outcome, Reason, TextFormat, Verdict},
        queue::sqs::attributes::QueueAttributes,
    };

    /// `name{label,...} type` of each metric on the page.
    fn documented() -> BTreeSet<String> {
        let page = include_str!("../../docs/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        // `logferry doctor --watch` has metrics of its own, which its module compares with the page.
        let rows = rows.filter(|(metric, _)| metric.contains('_') && !metric.starts_with("logferry_doctor_"));
        rows.map(|(metric, rest)| format!("{metric} {}", rest.split(' ').next().unwrap_or_default()))
            .collect()
    }

    /// `name{label,...} type` of each metric in a text for Prometheus.
    fn written(text: &str) -> BTreeSet<String> {
        let mut metrics = BTreeSet::new();
        let (mut typed, mut kind) = ("", "");
        for line in text.lines() {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                (typed, kind) = of.split_once(' ').expect("a name and a type");
            } else if !line.starts_with('#') {
                let (_, labels) = line.split_once('{').unwrap_or_default();
                // Values of labels have neither a comma nor an equals sign here.
                let labels = labels.split('}').next().unwrap_or_default().split(',');
                let names = labels.filter_map(|label| Some(label.split_once('=')?.0));
                let names: Vec<_> = names.filter(|name| *name != "le").collect();
                let labels =
                    if names.is_empty() { String::new() } else { format!("{{{}}}", names.join(",")) };
                metrics.insert(format!("{typed}{labels} {kind}"));
            }
        }
        metrics
    }

    /// A metric with labels is written only when it has a value, so the test gives each of them a value.
    #[tokio::test]
    async fn the_page_names_every_metric_with_its_labels_and_type_and_no_other() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let base: Base =
            Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config().into();
        let settings = LedgerSettings {
            table: "t".to_owned(),
            lease: Duration::ZERO,
            max_clock_skew: Duration::ZERO,
            retention: Duration::ZERO,
            pace: Duration::from_millis(10),
        };
        let ledger = DynamoDbLedger::new(&base, settings);
        let key = EntryKey { object: "o".to_owned(), delivery: "d".to_owned() };
        ledger.begin(&key, "x").await.expect_err("there is no table");
        // The second call begins with a direct attempt.
        let denied = Effect::Error(ErrorAnswer::new(400, "AccessDeniedException"));
        sandbox.faults().add(Fault::new("dynamodb", "BatchExecuteStatement", denied));
        ledger.begin(&key, "x").await.expect_err("there is no table");
        let settings = config::Metrics { max_tenants: 1, heartbeat_tenant: Some("x".to_owned()) };
        let metrics = Metrics::new(base.calls().clone(), MemoryBound { ordinary: 1, worst: 2 }, &settings);
        let Metrics {
            worker,
            queues,
            protection,
            pipeline,
            tenants,
            ledger,
            quarantine,
            budgets,
            customers,
            groups,
            status: known,
            calls: _,
            bound: _,
        } = &metrics;
        let dead_letters = [&worker.dead_letters, &worker.dead_letters_overdue, &worker.messages_sent_anew];
        let others = [&pipeline.skipped, &worker.failures, &quarantine.quarantined];
        for by_reason in dead_letters.into_iter().chain(others) {
            by_reason.get_or_create(&Reason::new("x")).inc();
        }
        for by_call in [&worker.queue_errors, &ledger.ledger_errors, &budgets.budget_waits] {
            by_call.get_or_create(&Call::new("x")).inc();
        }
        let sessions = [&customers.session_lookups, &customers.session_renewals];
        let others = [
            &worker.visibility_extensions,
            &ledger.ledger_claims,
            &tenants.tenant_lookups,
            &protection.calls,
        ];
        for by_result in sessions.into_iter().chain(others) {
            by_result.get_or_create(&Ended::new("x")).inc();
        }
        queues.show_queue(Some(QueueAttributes::default()));
        queues.show_dead_letters(Some(QueueAttributes::default()));
        protection.is_protected.set(Some(1));
        worker.messages.get_or_create(&Verdict::new("x")).inc();
        pipeline.object_bytes.get_or_create(&Form::new("x")).inc();
        pipeline.records.get_or_create(&Outcome::new("x")).inc();
        customers.roles.count(Change::Opened, "x");
        groups.count(Change::Opened, "x");
        let object = status::ObjectName { bucket: "b", key: "k", version: None };
        drop(known.begin("x", object, Duration::ZERO));
        known.delivered("x", "x", None);
        known.accepted_record_of("x", 0);
        let (tenant_id, delivery, key, again_in) = (Some("x"), None, None, None);
        known.failed(&status::ObjectFailure { tenant_id, delivery, key, reason: "x", text: "", again_in });
        let health = Arc::new(Health::new(Duration::ZERO, &[]));
        let text =
            TextFormat::Prometheus.render(&metrics.registry(&health)).expect("memory takes every byte");
        assert_eq!(written(&text), documented());
        assert!(text.contains("\nlogferry_log_lines_dropped_total 0\n"), "{text}");
    }
}
