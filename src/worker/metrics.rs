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
    /// `logferry_failures_total{reason}`, registered by the pipeline: the worker counts panics there.
    pub failures: Family<Reason, Counter>,
    /// `logferry_dead_letters_total{reason}`: messages sent to the dead-letter queue.
    pub dead_letters: Family<Reason, Counter>,
    /// `logferry_dead_letters_overdue_total{reason}`: dead letters whose retries were ended by `queue.max_age` or by the queue's
    /// retention; `logferry_dead_letters_total` counts them too.
    pub dead_letters_overdue: Family<Reason, Counter>,
    /// `logferry_messages_sent_anew_total{reason}`: messages sent again with a delay, because hidden messages count as in flight;
    /// by the reason of the wait.
    pub messages_sent_anew: Family<Reason, Counter>,
    /// `logferry_queue_errors_total{call}`: failed calls to SQS, and failed entries of batch calls.
    pub queue_errors: Family<Call, Counter>,
}

impl Metrics {
    /// Registers all of them but `failures`.
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
            "Dead letters whose retries were ended by their age",
            &self.dead_letters_overdue,
        );
        add(
            registry,
            "messages_sent_anew",
            "Messages that wait in the queue's delay, by reason",
            &self.messages_sent_anew,
        );
        add(registry, "queue_errors", "Calls or entries that SQS did not take", &self.queue_errors);
    }
}
