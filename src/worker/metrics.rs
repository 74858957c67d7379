//! Metrics of messages, and of the calls to their queue.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::metrics::{Call, Reason, Verdict, add};

/// Handles on a worker's metrics; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_messages_received_total`: messages received, redeliveries included.
    pub messages_received: Counter,
    /// `logferry_messages_total{verdict}`: `ack`, `retry`, `poison`, `overdue`.
    pub messages: Family<Verdict, Counter>,
    /// `logferry_messages_in_flight`: messages being worked on.
    pub messages_in_flight: Gauge,
    /// `logferry_failures_total{reason}`. The pipeline registers it, and the worker counts panics in it.
    pub failures: Family<Reason, Counter>,
    /// `logferry_dead_letters_total{reason}`: messages sent to the dead-letter queue.
    pub dead_letters: Family<Reason, Counter>,
    /// `logferry_dead_letters_overdue_total{reason}`: dead letters of messages that were retried until `queue.max_age`, or until
    /// the queue's retention was about to end. `logferry_dead_letters_total` counts them too.
    pub dead_letters_overdue: Family<Reason, Counter>,
    /// `logferry_messages_sent_anew_total{reason}`: messages sent again with a delay, by the reason of the retry. Unlike hidden
    /// messages, delayed ones do not count as in flight.
    pub messages_sent_anew: Family<Reason, Counter>,
    /// `logferry_queue_errors_total{call}`: failed calls to SQS, and failed entries of batch calls.
    pub queue_errors: Family<Call, Counter>,
}

impl Metrics {
    /// Registers all metrics except `failures`.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "messages_received",
            "Messages received, redeliveries included",
            &self.messages_received,
        );
        add(registry, "messages", "Messages by verdict", &self.messages);
        add(registry, "messages_in_flight", "Messages being worked on", &self.messages_in_flight);
        add(registry, "dead_letters", "Messages sent to the dead-letter queue", &self.dead_letters);
        add(
            registry,
            "dead_letters_overdue",
            "Dead letters of messages that were retried until their age limit",
            &self.dead_letters_overdue,
        );
        add(
            registry,
            "messages_sent_anew",
            "Messages sent again with a delay, by reason of the retry",
            &self.messages_sent_anew,
        );
        add(registry, "queue_errors", "Failed calls to SQS, and failed entries", &self.queue_errors);
    }
}
