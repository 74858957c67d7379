//! Stands in for the connection to a collector in builds without the feature `otlp`.

use opentelemetry_sdk::{error::OTelSdkResult, trace::SpanData};

use super::environment::Settings;
use crate::config::Problem;

/// There is none.
#[derive(Debug)]
pub(super) enum SpanExporter {}

impl opentelemetry_sdk::trace::SpanExporter for SpanExporter {
    async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
        match *self {}
    }
}

/// Always fails.
pub(super) fn exporter(_: &Settings) -> anyhow::Result<SpanExporter> {
    Err(left_out().into())
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
