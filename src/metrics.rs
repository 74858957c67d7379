//! Labels of metrics, and the text that Prometheus reads. Each part of the worker defines and counts its own metrics;
//! `app` registers them all.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    registry::{Metric, Registry},
};

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
    /// Result of looking up a tenant.
    Lookup { result }
);

/// Adds a metric to a registry.
pub fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

/// Creates a registry that puts `logferry_` before the name of each metric.
pub fn registry() -> Registry {
    Registry::with_prefix("logferry")
}

/// Returns the metrics as OpenMetrics text, which Prometheus scrapes.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Returns the metrics of one part as text.
#[cfg(test)]
pub fn rendered(register: impl FnOnce(&mut Registry)) -> String {
    let mut registry = registry();
    register(&mut registry);
    render(&registry).expect("writing to a string does not fail")
}
