//! The labels that metrics have, and the text that Prometheus reads. Each part of the worker defines and counts its own metrics;
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
            /// The label with this value.
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
    /// Bytes as stored, or decompressed.
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

/// A registry whose metrics are all called `logferry_...`.
pub fn registry() -> Registry {
    Registry::with_prefix("logferry")
}

/// The text that Prometheus scrapes (OpenMetrics).
///
/// # Errors
/// Never in practice: memory takes every byte.
pub fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// The text of one part's metrics.
#[cfg(test)]
pub fn rendered(register: impl FnOnce(&mut Registry)) -> String {
    let mut registry = registry();
    register(&mut registry);
    render(&registry).expect("memory takes every byte")
}
