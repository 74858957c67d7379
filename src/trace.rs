//! Spans of the work on messages.
//!
//! Each message has one trace: the span `process`, and below it a span for each step and for each call to AWS. `telemetry`
//! switches traces on and exports the spans. While traces are off, no span is created. If a trace is not sampled, its `process`
//! is the only span, and no attribute is formatted: [`step`] and [`call`] give no span of their own. Builds without the feature
//! `otlp` have no traces.
//!
//! The spans are those of the crate `tracing`, with the target [`TARGET`]; the log's filter leaves this target out. A spawned
//! task must carry the span of its message ([`tracing::Instrument`]); otherwise its log lines have no trace id.

pub mod semconv;
#[cfg(feature = "otlp")]
mod spans;
#[cfg(not(feature = "otlp"))]
#[path = "trace/no_spans.rs"]
mod spans;

use std::{fmt, future::Future, time::Duration};

use tracing::{Instrument, Span};

pub use self::spans::*;

/// Target of all spans.
pub const TARGET: &str = "logferry::spans";

/// What becomes of the trace header of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SenderSpan {
    /// A link: the message has a trace of its own.
    #[default]
    Linked,
    /// The parent: the message continues its sender's trace, and the sender's decision about sampling.
    Parent,
}

/// A duration as it stands in the log, in fields whose names end with `_ms`.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Does `work` in a span, and marks the span as failed if the work fails. `kind` names the failure.
///
/// The work is on the heap: an async block that holds a future takes twice the size of that future, and the work on a message
/// is nested deeply.
pub fn within<T, E: fmt::Display>(
    span: Span,
    work: impl Future<Output = Result<T, E>>,
    kind: impl FnOnce(&E) -> &'static str,
) -> impl Future<Output = Result<T, E>> {
    let work = Box::pin(work);
    async move {
        let result = work.instrument(span.clone()).await;
        if let Err(error) = &result {
            fail(&span, kind(error), error);
        }
        result
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
