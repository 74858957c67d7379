//! logferry's own log. A separate thread writes the lines, so that a slow reader of the log delays no delivery.

pub mod level;

use std::{
    fmt,
    io::IsTerminal,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::ConstCounter,
    registry::Registry,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use self::level::Filter;
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

/// The running log. When it drops, it writes the waiting lines, for at most a second.
#[derive(Debug)]
pub struct Logging {
    filter: Arc<Filter>,
    _writer: WorkerGuard,
}

impl Logging {
    /// The filter, which can be changed.
    pub fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.filter)
    }
}

/// Starts logging to standard error, once per process.
///
/// # Errors
/// `log.filter` is not a valid filter.
pub fn start(log: &Log) -> Result<Logging, String> {
    let (part, filter) = Filter::new(&log.filter)?;
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING);
    let (writer, guard) = writer.thread_name("log").finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    // Fails if a logger is set already, as in tests. That logger stays.
    let _ = tracing_subscriber::registry().with(lines.with_filter(part)).try_init();
    Ok(Logging { filter: Arc::new(filter), _writer: guard })
}
