//! The spans, as OpenTelemetry's.

use std::{fmt, sync::Arc};

use opentelemetry::{
    Array, Context, StringValue, Value,
    trace::{SpanContext, Status, TraceContextExt, TraceFlags, TraceId},
};
use opentelemetry_aws::trace::xray_propagator::span_context_from_str;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{SenderSpan, TARGET, semconv::*};

/// Flag of a trace whose sender leaves the decision about sampling to the receiver: `Sampled=?` in X-Ray's header, or no
/// `Sampled`.
pub const UNDECIDED: TraceFlags = TraceFlags::new(0x02);

/// Creates the spans that name the queue. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    names: Arc<Names>,
    sender: SenderSpan,
}

#[derive(Debug, Default)]
struct Names {
    queue: String,
    url: String,
    receive: String,
    process: String,
    settle: String,
}

/// One span, with name and kind.
macro_rules! span {
    ($name:expr, $kind:literal $(, parent: $parent:expr)?) => {
        tracing::info_span!(target: TARGET, $(parent: $parent,)? "span", otel.name = $name, otel.kind = $kind)
    };
}

impl Messages {
    /// Creates the spans' names for the queue with this URL.
    pub fn new(url: &str, sender: SenderSpan) -> Self {
        let queue = url.rsplit('/').next().unwrap_or_default().to_owned();
        let named = |operation: &str| format!("{operation} {queue}");
        let (receive, process, settle) = (named("receive"), named("process"), named("settle"));
        Self { names: Arc::new(Names { queue, url: url.to_owned(), receive, process, settle }), sender }
    }

    /// One receive.
    pub fn receive(&self) -> Span {
        let span = span!(self.names.receive.as_str(), "client", parent: None);
        if is_sampled(&span) {
            self.describe(&span, "receive");
        }
        span
    }

    /// Adds to the span of a receive what it brought: the number of messages, and links to their senders.
    pub fn received<'a>(span: &Span, headers: impl ExactSizeIterator<Item = Option<&'a str>>) {
        if is_sampled(span) {
            span.set_attribute(MESSAGING_BATCH_MESSAGE_COUNT, headers.len() as i64);
            headers.filter_map(sender).for_each(|sender| span.add_link(sender));
        }
    }

    /// The work on one message, from its receive until its verdict is carried out.
    pub fn process(&self, id: &str, attempts: u32, header: Option<&str>) -> Span {
        let span = span!(self.names.process.as_str(), "consumer", parent: None);
        if span.is_disabled() {
            return span;
        }
        let sender = sender(header);
        match (self.sender, sender.clone()) {
            (SenderSpan::Parent, Some(sender)) => {
                // Fails only if the span has begun.
                let _ = span.set_parent(Context::new().with_remote_span_context(sender));
            }
            (SenderSpan::Linked, Some(sender)) => span.add_link(sender),
            (_, None) => {}
        }
        if is_sampled(&span) {
            self.describe(&span, "process");
            span.set_attribute(MESSAGING_MESSAGE_ID, id.to_owned());
            span.set_attribute(MESSAGE_ATTEMPTS, i64::from(attempts));
        }
        span
    }

    /// Carrying out the verdict on the current message.
    pub fn settle(&self, verdict: &'static str) -> Span {
        let span = child(|| span!(self.names.settle.as_str(), "client"));
        if is_sampled_now() {
            self.describe(&span, "settle");
            span.set_attribute(VERDICT, verdict);
        }
        span
    }

    fn describe(&self, span: &Span, operation: &'static str) {
        span.set_attribute(MESSAGING_SYSTEM, AWS_SQS);
        span.set_attribute(MESSAGING_OPERATION_NAME, operation);
        span.set_attribute(MESSAGING_OPERATION_TYPE, operation);
        span.set_attribute(MESSAGING_DESTINATION_NAME, self.names.queue.clone());
        span.set_attribute(AWS_SQS_QUEUE_URL, self.names.url.clone());
    }
}

/// A step of the work on the current message, with texts as attributes. If the message's trace is not sampled, this is the
/// message's own span.
pub fn step(name: &'static str, attributes: &[(&'static str, &str)]) -> Span {
    let span = child(|| span!(name, "internal"));
    if is_sampled_now() {
        for (key, value) in attributes {
            span.set_attribute(*key, (*value).to_owned());
        }
    }
    span
}

/// A call to AWS, for the current message. `None`: there is no message, or its trace is not sampled.
pub fn call(service: &str, operation: &str) -> Option<Span> {
    if !is_sampled_now() {
        return None;
    }
    let span = span!(format!("{service}.{operation}"), "client");
    span.set_attribute(RPC_SYSTEM, AWS_API);
    span.set_attribute(RPC_SERVICE, service.to_owned());
    span.set_attribute(RPC_METHOD, operation.to_owned());
    Some(span)
}

/// Returns the span for a call that several messages share. If several of them are sampled, this is a new child of the first
/// one's span, with links to the others. If one is sampled, it is that message's span; if none is, there is no span.
pub fn shared<'a>(spans: impl Iterator<Item = &'a Span>) -> Span {
    let mut sampled = spans.filter(|span| is_sampled(span)).peekable();
    let Some(first) = sampled.next() else { return Span::none() };
    if sampled.peek().is_none() {
        return first.clone();
    }
    let span = first.in_scope(|| span!("batch", "internal"));
    sampled.for_each(|other| span.add_link(context(other)));
    span
}

/// Adds a text to a span.
pub fn set(span: &Span, key: &'static str, value: &str) {
    if is_sampled(span) {
        span.set_attribute(key, value.to_owned());
    }
}

/// Adds a list of one text to a span: some attributes are lists.
pub fn set_list(span: &Span, key: &'static str, value: &str) {
    if is_sampled(span) {
        span.set_attribute(key, Value::Array(Array::String(vec![StringValue::from(value.to_owned())])));
    }
}

/// Adds a number to a span.
pub fn count(span: &Span, key: &'static str, number: u64) {
    if is_sampled(span) {
        span.set_attribute(key, i64::try_from(number).unwrap_or(i64::MAX));
    }
}

/// Marks a span as failed.
pub fn fail(span: &Span, kind: &'static str, error: &dyn fmt::Display) {
    if is_sampled(span) {
        span.set_attribute(ERROR_TYPE, kind);
        span.set_status(Status::error(error.to_string()));
    }
}

/// Id of the current trace, sampled or not.
pub fn trace_id() -> Option<TraceId> {
    Context::map_current(|context| Some(context.span().span_context().trace_id()))
        .filter(|id| *id != TraceId::INVALID)
}

/// Id of the current trace, if it is sampled, so that a collector has the trace.
pub fn sampled_trace_id() -> Option<TraceId> {
    trace_id().filter(|_| is_sampled_now())
}

/// A child of the current span, or the current span itself if its trace is not sampled.
fn child(new: impl FnOnce() -> Span) -> Span {
    if is_sampled_now() { new() } else { Span::current() }
}

/// Whether the current message's trace is sampled.
pub fn is_sampled_now() -> bool {
    Context::map_current(|context| context.span().span_context().is_sampled())
}

/// Whether the trace of a span is sampled. This begins the span, so its parent cannot be set afterwards.
fn is_sampled(span: &Span) -> bool {
    !span.is_disabled() && context(span).is_sampled()
}

fn context(span: &Span) -> SpanContext {
    span.context().span().span_context().clone()
}

/// The sender's span, by the header `AWSTraceHeader`.
pub(super) fn sender(header: Option<&str>) -> Option<SpanContext> {
    span_context_from_str(header?.trim()).filter(SpanContext::is_valid)
}
