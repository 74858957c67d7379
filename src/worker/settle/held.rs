//! Counts the verdicts that wait for the queue, and the bytes of their messages' bodies.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;

use crate::queue::Message;

/// A message whose body counts as held until this value drops.
pub(super) struct Held {
    bytes: Arc<AtomicUsize>,
    pub(super) message: Arc<Message>,
}

impl Held {
    pub(super) fn new(bytes: &Arc<AtomicUsize>, message: Arc<Message>) -> Self {
        bytes.fetch_add(message.body.len(), Ordering::Relaxed);
        Self { bytes: Arc::clone(bytes), message }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.message.body.len(), Ordering::Relaxed);
    }
}

/// A verdict that counts as backlog until this value drops.
pub(super) struct Counted(Gauge);

impl Counted {
    pub(super) fn new(backlog: &Gauge) -> Self {
        backlog.inc();
        Self(backlog.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
