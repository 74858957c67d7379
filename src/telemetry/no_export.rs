//! Stands in for the export of traces in builds without the feature `otlp`.

use std::time::Duration;

use tracing_subscriber::{Layer, Registry};

use super::{Metrics, environment::Settings};
use crate::config::Problem;

/// There is none.
#[derive(Clone, Debug)]
pub(super) enum Export {}

impl Export {
    /// Always fails.
    pub(super) fn new(_: Settings, _: Metrics) -> anyhow::Result<Self> {
        Err(left_out().into())
    }

    pub(super) fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        match *self {}
    }

    pub(super) fn flush(&self) -> bool {
        match *self {}
    }

    pub(super) fn shut_down(&self, _: Duration) -> bool {
        match *self {}
    }
}

/// Always fails.
pub(super) fn check(_: &Settings) -> Result<(), Problem> {
    Err(left_out())
}

fn left_out() -> Problem {
    Problem {
        field: "OTEL_TRACES_EXPORTER".to_owned(),
        problem: "this program was built without the export of traces; build it with `--features otlp`, or set the variable \
                  to \"none\""
            .to_owned(),
    }
}
