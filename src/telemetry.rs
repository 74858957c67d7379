//! logferry's own log lines. A thread of its own writes them, so that whoever does not read them holds up no delivery.

use std::{io::IsTerminal, sync::OnceLock};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Most lines that wait to be written, a few hundred bytes each; what comes beyond them is dropped, and counted.
const MAX_WAITING: usize = 4096;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// How many lines were dropped because nobody read those before them.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Starts logging to standard error, once per process. Dropping what comes back writes the lines that still wait; it gives up after
/// a second.
///
/// # Errors
/// `log.filter` is not a filter.
pub fn start(log: &Log) -> Result<WorkerGuard, ParseError> {
    let filter: Targets = log.filter.parse()?;
    let registry = tracing_subscriber::registry().with(filter);
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_WAITING);
    let (writer, guard) = writer.thread_name("log").finish(std::io::stderr());
    DROPPED.get_or_init(|| writer.error_counter());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    // A second call, as in a test, leaves the first in place.
    let _ = match log.format {
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
        }
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    Ok(guard)
}
