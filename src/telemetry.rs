//! logferry's own log. A separate thread writes the lines, so that a slow reader of the log delays no delivery.

use std::{fmt, io::IsTerminal, sync::OnceLock};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

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

/// Starts logging to standard error, once per process. When the guard drops, it writes the waiting lines, for at most a second.
///
/// # Errors
/// `log.filter` is not a valid filter.
pub fn start(log: &Log) -> Result<WorkerGuard, ParseError> {
    let filter: Targets = log.filter.parse()?;
    let registry = tracing_subscriber::registry().with(filter);
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING);
    let (writer, guard) = writer.thread_name("log").finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    // Fails if a logger is set already, as in tests. That logger stays.
    let _ = match log.format {
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
        }
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    Ok(guard)
}
