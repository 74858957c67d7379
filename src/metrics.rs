//! Labels of metrics, and the text that Prometheus reads. Each part of the worker defines and counts its own metrics;
//! `app` registers them all.

mod format;
mod process;

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::MetricType,
    registry::{Metric, Registry},
};

pub use self::{format::TextFormat, process::register as register_process};

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $field:ident }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            /// The label's value.
            pub $field: &'static str,
        }

        impl $name {
            /// Creates the label with this value.
            pub fn new($field: &'static str) -> Self {
                Self { $field }
            }
        }
    };
}

label!(
    /// Verdict on a message.
    Verdict { verdict }
);
label!(
    /// Reason of a failure, a skip, a dead letter or a quarantine line.
    Reason { reason }
);
label!(
    /// A call to AWS.
    Call { call }
);
label!(
    /// Form of an object's bytes: stored or decompressed.
    Form { form }
);
label!(
    /// Outcome of a record.
    Outcome { outcome }
);
label!(
    /// Result of a lookup, a call or another action.
    Ended { result }
);
label!(
    /// Where a message in a queue is: visible, in flight or delayed.
    State { state }
);
label!(
    /// A condition that `logferry doctor` checks.
    Named { condition }
);
label!(
    /// One of the two bounds of the worker's memory.
    Bound { bound }
);

/// Adds a metric to a registry.
pub fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

/// A gauge without labels that is absent while its value is not known. Clones share the value.
#[derive(Clone, Debug, Default)]
pub struct KnownGauge(Arc<Mutex<Option<u64>>>);

impl KnownGauge {
    /// Sets the value. With `None`, the metric is absent.
    pub fn set(&self, value: Option<u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for KnownGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

/// Adds a registry for the metrics of the worker's parts. It puts `logferry_` before the name of each metric.
pub fn ours(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix("logferry")
}

/// Returns the metrics of one part as OpenMetrics text.
#[cfg(test)]
pub fn rendered(register: impl FnOnce(&mut Registry)) -> String {
    let mut registry = Registry::default();
    register(ours(&mut registry));
    TextFormat::OpenMetrics.render(&registry).expect("writing to a string does not fail")
}
