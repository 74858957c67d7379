//! The metrics of all parts of a worker, registered.

use prometheus_client::registry::Registry;

use crate::{
    aws::Calls, breaker, budget, credentials, ledger, metrics::registry, pipeline, quarantine, sink,
    telemetry, tenant, worker,
};

/// Handles for each part.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) worker: worker::Metrics,
    pub(super) pipeline: pipeline::Metrics,
    pub(super) tenants: tenant::cache::Metrics,
    pub(super) ledger: ledger::claim::Metrics,
    pub(super) quarantine: quarantine::Metrics,
    pub(super) budgets: budget::Metrics,
    pub(super) roles: breaker::Metrics,
    pub(super) groups: breaker::Metrics,
    calls: Calls,
}

impl Metrics {
    /// Starts with all metrics at zero. `calls` counts the calls of all clients.
    pub(super) fn new(calls: Calls) -> Self {
        let pipeline = pipeline::Metrics::default();
        Self {
            worker: worker::Metrics { failures: pipeline.failures.clone(), ..worker::Metrics::default() },
            pipeline,
            tenants: tenant::cache::Metrics::default(),
            ledger: ledger::claim::Metrics::default(),
            quarantine: quarantine::Metrics::default(),
            budgets: budget::Metrics::default(),
            roles: breaker::Metrics::default(),
            groups: breaker::Metrics::default(),
            calls,
        }
    }

    /// A registry of all metrics, and of the count of dropped log lines.
    pub(super) fn registry(&self) -> Registry {
        let mut registry = registry();
        self.worker.register(&mut registry);
        self.pipeline.register(&mut registry);
        self.tenants.register(&mut registry);
        self.ledger.register(&mut registry);
        self.quarantine.register(&mut registry);
        self.budgets.register(&mut registry);
        credentials::role_breaker::register(&self.roles, &mut registry);
        sink::group_breaker::register(&self.groups, &mut registry);
        self.calls.register(&mut registry);
        telemetry::register_dropped_lines(&mut registry);
        telemetry::register_spans(&mut registry);
        registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        breaker::Change,
        metrics::{Call, Form, Lookup, Outcome, Reason, Verdict, render},
    };

    #[test]
    fn every_metric_keeps_its_name_and_type() {
        let metrics = Metrics::new(Calls::default());
        let Metrics { worker, pipeline, tenants, ledger, quarantine, budgets, roles, groups, .. } = &metrics;
        // A metric with labels shows once it has a value.
        let dead_letters = [&worker.dead_letters, &worker.dead_letters_overdue, &worker.messages_sent_anew];
        let others = [&pipeline.skipped, &worker.failures, &quarantine.quarantined];
        for by_reason in dead_letters.into_iter().chain(others) {
            by_reason.get_or_create(&Reason::new("x")).inc();
        }
        for by_call in [&worker.queue_errors, &ledger.ledger_errors, &budgets.budget_waits] {
            by_call.get_or_create(&Call::new("x")).inc();
        }
        worker.messages.get_or_create(&Verdict::new("x")).inc();
        pipeline.object_bytes.get_or_create(&Form::new("x")).inc();
        pipeline.records.get_or_create(&Outcome::new("x")).inc();
        tenants.tenant_lookups.get_or_create(&Lookup::new("x")).inc();
        roles.count(Change::Opened, "x");
        groups.count(Change::Opened, "x");
        let text = render(&metrics.registry()).expect("memory takes every byte");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE logferry_"));
        let mut types: Vec<_> = types.collect();
        types.sort();
        let expected = [
            "batches counter",
            "budget_waits counter",
            "dead_letters counter",
            "dead_letters_overdue counter",
            "event_bytes counter",
            "failures counter",
            "fairness_deferrals counter",
            "freshness_seconds histogram",
            "group_breaker_changes counter",
            "group_breakers_open gauge",
            "ledger_errors counter",
            "ledger_out_of_reach gauge",
            "log_lines_dropped counter",
            "messages counter",
            "messages_in_flight gauge",
            "messages_received counter",
            "messages_sent_anew counter",
            "object_bytes counter",
            "objects_copied counter",
            "quarantined counter",
            "queue_errors counter",
            "records counter",
            "records_mended counter",
            "records_oversize counter",
            "records_read counter",
            "records_unaccounted counter",
            "records_undated counter",
            "role_breaker_changes counter",
            "role_breakers_open gauge",
            "skipped counter",
            "spans_dropped counter",
            "spans_exported counter",
            "tenant_lookups counter",
            "throttled_accounts gauge",
        ];
        assert_eq!(types, expected);
        assert!(text.contains("\nlogferry_log_lines_dropped_total 0\n"), "{text}");
    }
}
