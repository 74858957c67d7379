//! logferry's own log, and the export of traces.
//!
//! A separate thread writes the lines of the log, so that a slow reader of the log delays no delivery. The standard variables of
//! OpenTelemetry switch traces on (`environment`); `export` sends the spans to a `collector`, and `lines` adds the trace id to
//! log lines. The spans themselves are those of [`trace`](crate::trace).

#[cfg(feature = "otlp")]
mod collector;
mod environment;
#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
#[path = "telemetry/no_export.rs"]
mod export;
pub mod level;
mod lines;

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    iter,
    panic::PanicHookInfo,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::counter::{ConstCounter, Counter},
    registry::Registry,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer, Registry as Spans, filter::Targets, fmt::writer::BoxMakeWriter, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use self::{
    export::Export,
    level::LogFilter,
    lines::{JsonLine, TextFields},
};
use crate::{
    config::{Log, LogFormat, Problem},
    metrics::add,
    trace::milliseconds,
};

/// Most lines that wait to be written, a few hundred bytes each. Further lines are dropped and counted.
const MAX_WAITING: usize = 4096;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();
/// Lines that standard error did not take.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Pause of the log's thread after it has written all lines that wait. Without the pause each line would wake the thread.
const LOG_PAUSE: Duration = Duration::from_millis(10);

/// Standard error. Counts the lines that it does not take, for example because the disk behind it is full.
#[derive(Debug)]
struct CountedLines<W>(W);

/// Gathers lines for the log's thread, which flushes whenever no line waits, and writes them together.
#[derive(Debug)]
struct GatheredLines<W> {
    to: W,
    lines: Vec<u8>,
    count: u64,
}

impl<W: Write> GatheredLines<W> {
    /// Number of bytes after which lines are written before the next flush.
    const MOST: usize = 64 << 10;

    fn new(to: W) -> Self {
        Self { to, lines: Vec::new(), count: 0 }
    }

    fn write_lines(&mut self) -> io::Result<()> {
        let (lines, count) = (&mut self.lines, std::mem::take(&mut self.count));
        let written = self.to.write_all(lines);
        lines.clear();
        written.inspect_err(|_| {
            UNWRITTEN.fetch_add(count, Ordering::Relaxed);
        })
    }
}

impl<W: Write> Write for GatheredLines<W> {
    /// The log's thread calls this method once for each line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(line);
        self.count += 1;
        if self.lines.len() > Self::MOST {
            self.write_lines()?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_lines()?;
        std::thread::sleep(LOG_PAUSE);
        Ok(())
    }
}

impl<W: Write> Write for CountedLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// Is called once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.write_all(line).inspect_err(|_| {
            UNWRITTEN.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Counts the lines that were lost: the reader of the log was too slow, or they could not be written.
#[derive(Debug)]
struct DroppedLines;

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let dropped = DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64);
        let counter = ConstCounter::new(dropped + UNWRITTEN.load(Ordering::Relaxed));
        let help = "Lines of the log that are lost: its reader was too slow, or they could not be written.";
        let metric = encoder.encode_descriptor("log_lines_dropped", help, None, counter.metric_type())?;
        counter.encode(metric)
    }
}

/// Registers `logferry_log_lines_dropped_total`: lines that are lost because the reader of the log was too slow, or because they
/// could not be written.
pub fn register_dropped_lines(registry: &mut Registry) {
    registry.register_collector(Box::new(DroppedLines));
}

/// Longest time for the last export of spans.
const LONGEST_FLUSH: Duration = Duration::from_secs(3);

/// Metrics of the export of traces. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// `logferry_spans_exported_total`: spans that the collector took.
    pub(super) spans_exported: Counter,
    /// `logferry_spans_dropped_total`: spans that were dropped because the collector was slow or did not answer.
    pub(super) spans_dropped: Counter,
}

impl Metrics {
    /// Registers both metrics.
    pub(super) fn register(&self, registry: &mut Registry) {
        add(registry, "spans_exported", "Spans that the collector took", &self.spans_exported);
        add(
            registry,
            "spans_dropped",
            "Spans that were dropped because the collector was slow or did not answer",
            &self.spans_dropped,
        );
    }
}

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
    filter: Arc<LogFilter>,
    /// `None`: lines are written at once.
    _lines: Option<WorkerGuard>,
    /// `None`: traces are off.
    export: Option<Export>,
}

/// Who writes the lines of the log to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A thread of its own, so that a slow reader of the log delays no delivery.
    Thread,
    /// Whoever logs, at once: no line waits when the process is frozen.
    Caller,
}

/// Checks the variables that switch traces on, and reads the certificates that they name.
///
/// # Errors
/// These variables have bad values. While traces are off, only `OTEL_TRACES_EXPORTER` is checked.
pub fn check(variable: impl Fn(&str) -> Option<String>) -> Result<(), Vec<Problem>> {
    match environment::read(variable)? {
        Some(settings) => export::check(&settings).map_err(|problem| vec![problem]),
        None => Ok(()),
    }
}

/// Logs where the code panicked. The panic's own text is left out, because it may quote a record.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    // `lambda::serve` reports these.
    if panic.location().is_some_and(|location| location.file().contains("lambda_runtime")) {
        return;
    }
    let location = panic.location().map(tracing::field::display);
    tracing::error!(panic.location = location, "logferry panicked; please report this defect");
}

/// The layers of the log and, if there is one, of the export. Without an export there must be no layer for it: with
/// `Option::None` as a layer, all spans would be created.
fn layers(
    format: LogFormat,
    part: reload::Layer<Targets, Spans>,
    writer: BoxMakeWriter,
    export: Option<&Export>,
) -> Vec<Box<dyn Layer<Spans> + Send + Sync>> {
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            lines.map_event_format(JsonLine).with_filter(part).boxed()
        }
        LogFormat::Text => {
            let lines = lines.with_ansi(io::stderr().is_terminal());
            lines.fmt_fields(TextFields::default()).with_filter(part).boxed()
        }
    };
    iter::once(lines).chain(export.map(Export::layer)).collect()
}

/// Starts logging to standard error, and the export of traces if the environment asks for it. Panics are logged too. Works once
/// per process. Must be called on the worker's runtime.
///
/// # Errors
/// See [`StartError`].
pub fn start(
    log: &Log,
    writer: Writer,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Telemetry, StartError> {
    let (part, filter) = LogFilter::new(&log.filter).map_err(StartError::Filter)?;
    let settings = environment::read(variable).map_err(StartError::Environment)?;
    let metrics = EXPORT.get_or_init(Metrics::default).clone();
    let collector = settings.as_ref().map(|settings| settings.endpoint.host().unwrap_or_default().to_owned());
    let export = settings.map(|settings| Export::new(settings, metrics)).transpose();
    let export = export.map_err(StartError::Export)?;
    let (writer, guard) = match writer {
        Writer::Thread => {
            let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING);
            let (writer, guard) = writer.thread_name("log").finish(GatheredLines::new(io::stderr()));
            DROPPED.get_or_init(|| writer.error_counter());
            (BoxMakeWriter::new(writer), Some(guard))
        }
        Writer::Caller => (BoxMakeWriter::new(|| CountedLines(io::stderr())), None),
    };
    let layers = layers(log.format, part, writer, export.as_ref());
    // Fails if a logger is set already, as in tests. That logger stays.
    let _ = tracing_subscriber::registry().with(layers).try_init();
    std::panic::set_hook(Box::new(tell_panic));
    if let Some(collector) = collector {
        tracing::info!(collector, "traces are exported, as the environment asks");
    }
    Ok(Telemetry { filter: Arc::new(filter), _lines: guard, export })
}

impl Telemetry {
    /// The filter of the log, which can be changed.
    pub fn filter(&self) -> Arc<LogFilter> {
        Arc::clone(&self.filter)
    }

    /// Exports the spans that wait, for at most three seconds, and for no longer than `left`. Later spans are dropped.
    pub async fn finish(&self, left: Duration) {
        let Some(export) = self.export.clone() else { return };
        let limit = left.min(LONGEST_FLUSH);
        exported(limit, move || export.shut_down(limit)).await;
    }

    /// Exports the spans that wait, for at most three seconds, and for no longer than `left`.
    pub async fn flush(&self, left: Duration) {
        let Some(export) = self.export.clone() else { return };
        exported(left.min(LONGEST_FLUSH), move || export.flush()).await;
    }
}

/// Waits for an export, which blocks a thread, for no longer than `limit`.
async fn exported(limit: Duration, export: impl FnOnce() -> bool + Send + 'static) {
    let export = tokio::time::timeout(limit, tokio::task::spawn_blocking(export));
    // An error means that time is up, or that the task panicked; `false`, that the collector did not take the spans.
    if !matches!(export.await, Ok(Ok(true))) {
        tracing::warn!(limit_ms = milliseconds(limit), "the last spans could not be exported");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::Level;

    use super::*;
    use crate::trace::{TARGET, testing};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic while it is locked").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_an_export_no_span_is_created() {
        for format in [LogFormat::Json, LogFormat::Text] {
            testing::alone("telemetry::tests::without_an_export_no_span_is_created", || {
                let (part, _filter) = LogFilter::new("trace").expect("a filter");
                let layers = layers(format, part, BoxMakeWriter::new(io::sink), None);
                tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), || {
                    assert!(tracing::info_span!(target: TARGET, "span").is_disabled());
                    assert!(tracing::enabled!(Level::TRACE), "lines are written");
                });
            });
        }
    }

    #[test]
    fn a_panic_is_logged_with_its_place_and_without_its_text() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(tell_panic));
        let panicked = crate::trace::testing::with_subscriber(subscriber, || {
            std::panic::catch_unwind(|| panic!("byte index 3 is inside {:?}", "a record"))
        });
        std::panic::set_hook(before);
        assert!(panicked.is_err());
        let written = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("UTF-8");
        assert!(written.contains("src/telemetry.rs:"), "{written}");
        assert!(!written.contains("a record") && written.lines().count() == 1, "{written}");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let lost = || UNWRITTEN.load(Ordering::Relaxed);
        let before = lost();
        let mut no_space: [u8; 4] = [0; 4];
        let mut lines = CountedLines(&mut no_space[..]);
        lines.write_all(b"{}\n").expect("there is space");
        assert_eq!(lost(), before);
        lines.write_all(b"{}\n").expect_err("there is no space left");
        assert_eq!(lost(), before + 1);
    }
}
