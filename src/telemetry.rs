//! logferry's own log lines.

use std::io::IsTerminal;

use tracing_subscriber::{
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// Starts logging to standard error, once per process.
///
/// # Errors
/// `log.filter` is not a filter.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let filter: Targets = log.filter.parse()?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call, as in a test, leaves the first in place.
    let _ = match log.format {
        LogFormat::Json => {
            registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
        }
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    Ok(())
}
