//! Metrics of PutLogEvents requests.

use prometheus_client::{metrics::histogram::Histogram, registry::Registry};

use crate::metrics::add;

/// Upper bounds of the histogram.
const FILL: [f64; 7] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0];

/// Metrics of all lanes. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `logferry_batch_fill_ratio`: how full an accepted request was, by bytes or by events, whichever is more.
    pub batch_fill: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { batch_fill: Histogram::new(FILL) }
    }
}

impl Metrics {
    /// Registers the metric.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "batch_fill_ratio",
            "Share of the limit for bytes or events, whichever is more, that a PutLogEvents request used",
            &self.batch_fill,
        );
    }
}
