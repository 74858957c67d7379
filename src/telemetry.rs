//! logferry's own log, and the export of traces.
//!
//! A separate thread writes the lines of the log, so that a slow reader of the log delays no delivery. The standard variables of
//! OpenTelemetry switch traces on (`environment`); `export` sends the spans to a `collector`, and `lines` adds the trace id to
//! log lines. The spans themselves are those of [`trace`](crate::trace).

mod collector;
mod environment;
mod export;
pub mod level;
mod lines;

use std::{
    fmt,
    io::IsTerminal,
    sync::{Arc, OnceLock},
    time::Duration,
};

use opentelemetry::{InstrumentationScope, trace::TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry as Spans,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::{
    export::Metrics,
    level::Filter,
    lines::{JsonLine, TextFields},
};
use crate::{
    config::{Log, LogFormat, Problem},
    trace::{TARGET, semconv::SCHEMA_URL},
};

/// Most lines that wait to be written, a few hundred bytes each. Further lines are dropped and counted.
const MAX_WAITING: usize = 4096;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Counts the lines that were dropped because the reader of the log was too slow.
#[derive(Debug)]
struct DroppedLines;

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64);
        let counter = ConstCounter::new(dropped);
        let help = "Lines of the log that were dropped because its reader was too slow.";
        let metric = encoder.encode_descriptor("log_lines_dropped", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

/// Registers `logferry_log_lines_dropped_total`: lines that were dropped because the reader of the log was too slow.
pub fn register_dropped_lines(registry: &mut Registry) {
    registry.register_collector(Box::new(DroppedLines));
}

/// Longest time for the last export of spans.
const LONGEST_FLUSH: Duration = Duration::from_secs(3);

static EXPORT: OnceLock<Metrics> = OnceLock::new();

/// Registers `logferry_spans_exported_total` and `logferry_spans_dropped_total`.
pub fn register_spans(registry: &mut Registry) {
    EXPORT.get_or_init(Metrics::default).register(registry);
}

/// Why logging or traces cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log's filter is not valid.
    #[error("log.filter: {0}")]
    Filter(String),
    /// Variables have bad values.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Environment(Vec<Problem>),
    /// The export of traces cannot be prepared.
    #[error("{0:#}")]
    Export(anyhow::Error),
}

/// The log and the export of traces, which run until this value is dropped. The drop writes the waiting lines, and takes a
/// second at most.
#[derive(Debug)]
pub struct Telemetry {
    filter: Arc<Filter>,
    _lines: WorkerGuard,
    /// `None`: traces are off.
    provider: Option<SdkTracerProvider>,
}

/// Checks the variables that switch traces on.
///
/// # Errors
/// These variables have bad values. While traces are off, only `OTEL_TRACES_EXPORTER` is checked.
pub fn check(variable: impl Fn(&str) -> Option<String>) -> Result<(), Vec<Problem>> {
    environment::read(variable).map(drop)
}

/// Starts logging to standard error, and the export of traces if the environment asks for it. Works once per process. Must be
/// called on the worker's runtime.
///
/// # Errors
/// See [`StartError`].
pub fn start(log: &Log, variable: impl Fn(&str) -> Option<String>) -> Result<Telemetry, StartError> {
    let (part, filter) = Filter::new(&log.filter).map_err(StartError::Filter)?;
    let settings = environment::read(variable).map_err(StartError::Environment)?;
    let metrics = EXPORT.get_or_init(Metrics::default).clone();
    let collector = settings.as_ref().map(|settings| settings.endpoint.host().unwrap_or_default().to_owned());
    let provider = settings.map(|settings| export::provider(settings, metrics)).transpose();
    let provider = provider.map_err(StartError::Export)?;
    let registry = tracing_subscriber::registry().with(provider.as_ref().map(spans));
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING);
    let (writer, guard) = writer.thread_name("log").finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    // Fails if a logger is set already, as in tests. That logger stays.
    let _ = match log.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            registry.with(lines.map_event_format(JsonLine).with_filter(part)).try_init()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal());
            registry.with(lines.fmt_fields(TextFields::default()).with_filter(part)).try_init()
        }
    };
    if let Some(collector) = collector {
        tracing::info!(collector, "traces are exported, as the environment asks");
    }
    Ok(Telemetry { filter: Arc::new(filter), _lines: guard, provider })
}

/// Turns the spans of [`trace`](crate::trace), and no others, into OpenTelemetry's.
fn spans(provider: &SdkTracerProvider) -> Box<dyn Layer<Spans> + Send + Sync> {
    let scope = InstrumentationScope::builder("logferry")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA_URL)
        .build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer_with_scope(scope))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(TARGET, LevelFilter::INFO))
        .boxed()
}

impl Telemetry {
    /// The filter of the log, which can be changed.
    pub fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.filter)
    }

    /// Exports the spans that wait, for at most three seconds, and for no longer than `left`. Later spans are dropped.
    pub async fn finish(&self, left: Duration) {
        let Some(provider) = self.provider.clone() else { return };
        let limit = left.min(LONGEST_FLUSH);
        let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit));
        // An error means that the task panicked.
        if !matches!(flush.await, Ok(Ok(()))) {
            tracing::warn!(?limit, "the last spans could not be exported");
        }
    }
}
