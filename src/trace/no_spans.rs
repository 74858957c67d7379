//! Stands in for the spans in builds without the feature `otlp`: there are none.

use std::{convert::Infallible, fmt};

use tracing::Span;

use super::SenderSpan;

/// Creates no spans.
#[derive(Clone, Debug, Default)]
pub struct Messages(());

impl Messages {
    /// Takes the queue's URL.
    pub fn new(_url: &str, _sender: SenderSpan) -> Self {
        Self(())
    }

    /// No span.
    pub fn receive(&self) -> Span {
        Span::none()
    }

    /// Does nothing.
    pub fn received<'a>(_span: &Span, _headers: impl ExactSizeIterator<Item = Option<&'a str>>) {}

    /// No span.
    pub fn process(&self, _id: &str, _attempts: u32, _header: Option<&str>) -> Span {
        Span::none()
    }

    /// No span.
    pub fn settle(&self, _verdict: &'static str) -> Span {
        Span::none()
    }
}

/// No span.
pub fn step(_name: &'static str, _attributes: &[(&'static str, &str)]) -> Span {
    Span::none()
}

/// No span.
pub fn call(_service: &str, _operation: &str) -> Option<Span> {
    None
}

/// No.
pub fn is_sampled_now() -> bool {
    false
}

/// No span.
pub fn shared<'a>(_spans: impl Iterator<Item = &'a Span>) -> Span {
    Span::none()
}

/// Does nothing.
pub fn set(_span: &Span, _key: &'static str, _value: &str) {}

/// Does nothing.
pub fn set_list(_span: &Span, _key: &'static str, _value: &str) {}

/// Does nothing.
pub fn count(_span: &Span, _key: &'static str, _number: u64) {}

/// Does nothing.
pub fn fail(_span: &Span, _kind: &'static str, _error: &dyn fmt::Display) {}

/// There is no trace.
pub fn trace_id() -> Option<Infallible> {
    None
}

/// There is no trace.
pub fn sampled_trace_id() -> Option<Infallible> {
    None
}
