//! Metrics of `logferry doctor --watch`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Condition, Finding};
use crate::metrics::{Named, add};

/// Results of the last run.
#[derive(Debug, Default)]
pub struct Metrics {
    /// `logferry_doctor_condition_holds{condition}`: 1, or 0 if the condition fails for at least one bucket, tenant or delivery. Absent if it
    /// was not checked.
    holds: Family<Named, Gauge>,
    /// `logferry_doctor_last_run_timestamp_seconds`: the end of the last run.
    last_run: Gauge,
    shown: Mutex<BTreeMap<&'static str, i64>>,
}

impl Metrics {
    /// Registers both metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "doctor_condition_holds", "Whether a condition of delivery holds", &self.holds);
        registry.register_with_unit(
            "doctor_last_run_timestamp",
            "Unix time of the end of the last run of the checks",
            Unit::Seconds,
            self.last_run.clone(),
        );
    }

    /// Replaces the results by those of a run that ended at `now`.
    pub fn show(&self, conditions: &[Condition], now: Timestamp) {
        let mut results = BTreeMap::new();
        for condition in conditions {
            let holds = match &condition.finding {
                Finding::Ok(_) | Finding::Warning { .. } => 1,
                Finding::Failed { .. } => 0,
                Finding::Skipped(_) => continue,
            };
            let result = results.entry(condition.name).or_insert(holds);
            *result = holds.min(*result);
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in shown.keys().filter(|name| !results.contains_key(*name)) {
            self.holds.remove(&Named::new(gone));
        }
        for (name, holds) in &results {
            self.holds.get_or_create(&Named::new(name)).set(*holds);
        }
        *shown = results;
        self.last_run.set(now.as_second());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::rendered;

    #[test]
    fn the_page_has_both_metrics_and_results_are_replaced() {
        let condition = |name, finding| Condition { tenant_id: None, delivery: None, name, finding };
        let ok = || Finding::Ok(String::new());
        let metrics = Metrics::default();
        let at = Timestamp::from_second(1_000_000).expect("a time");
        let skipped = || Finding::Skipped(String::new());
        metrics.show(
            &[
                condition("queue", ok()),
                condition("put", Finding::failed("", "")),
                condition("put", ok()),
                condition("ledger capacity", Finding::warning("", "")),
                condition("clock", skipped()),
            ],
            at,
        );
        let text = rendered(|registry| metrics.register(registry));
        for line in [
            "logferry_doctor_condition_holds{condition=\"queue\"} 1",
            "logferry_doctor_condition_holds{condition=\"put\"} 0",
            "logferry_doctor_condition_holds{condition=\"ledger capacity\"} 1",
            "logferry_doctor_last_run_timestamp_seconds 1000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
        assert!(!text.contains("clock"), "{text}");
        metrics.show(&[condition("put", ok()), condition("queue", skipped())], at);
        let text = rendered(|registry| metrics.register(registry));
        assert!(text.contains("{condition=\"put\"} 1") && !text.contains("queue"), "{text}");
        let page = include_str!("../../docs/metrics.md");
        for row in [
            "| `logferry_doctor_condition_holds{condition}` | gauge |",
            "| `logferry_doctor_last_run_timestamp_seconds` | gauge |",
        ] {
            assert!(page.contains(row), "docs/metrics.md does not have {row}");
        }
    }
}
