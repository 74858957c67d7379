//! Metrics of messages, and of the calls to their queue.

use std::{
    sync::atomic::AtomicU64,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    metrics::{Call, Ended, Reason, Verdict, add},
    queue::Message,
};

/// Upper bounds of the ages of messages, in seconds: from 0.1 s to a day. The alert LogferryLagging needs 600.
const AGES: [f64; 11] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 600.0, 900.0, 3600.0, 14_400.0, 86_400.0];
/// Upper bounds of the numbers of receives.
const RECEIVES: [f64; 8] = [1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];

/// Handles on a worker's metrics; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `logferry_slots`: memory for messages in work; each slot has room for one object of any size.
    pub slots: Gauge,
    /// `logferry_slots_busy`: slots that are taken; a small object takes an eighth or more.
    pub slots_busy: Gauge<f64, AtomicU64>,
    /// `logferry_receive_loop_last_turn_timestamp_seconds`: Unix time at which the receive loop began its last turn.
    pub last_turn: Gauge<f64, AtomicU64>,
    /// `logferry_messages_received_total`: messages received, redeliveries included.
    pub messages_received: Counter,
    /// `logferry_message_age_seconds`: from a message's `SentTimestamp` to its first receive.
    pub message_age: Histogram,
    /// `logferry_message_receives`: the number of receives of a message so far, at each receive.
    pub message_receives: Histogram,
    /// `logferry_visibility_extensions_total{result}`: `extended`, `failed`, and `gone`: the queue had taken the message back.
    pub visibility_extensions: Family<Ended, Counter>,
    /// `logferry_verdicts_waiting`: verdicts that the queue has not taken yet.
    pub verdicts_waiting: Gauge,
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

impl Default for Metrics {
    fn default() -> Self {
        Self {
            slots: Gauge::default(),
            slots_busy: Gauge::default(),
            last_turn: Gauge::default(),
            messages_received: Counter::default(),
            message_age: Histogram::new(AGES),
            message_receives: Histogram::new(RECEIVES),
            visibility_extensions: Family::default(),
            verdicts_waiting: Gauge::default(),
            messages: Family::default(),
            messages_in_flight: Gauge::default(),
            failures: Family::default(),
            dead_letters: Family::default(),
            dead_letters_overdue: Family::default(),
            messages_sent_anew: Family::default(),
            queue_errors: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a turn of the receive loop.
    pub(super) fn turned(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_turn.set(now.as_secs_f64());
    }

    /// Counts a message that was just received.
    pub(super) fn received(&self, message: &Message) {
        self.messages_received.inc();
        self.message_receives.observe(f64::from(message.attempts));
        if message.attempts == 1 {
            self.message_age.observe(message.kept_when_received.as_secs_f64());
        }
    }

    /// Counts an extension of a message's visibility.
    pub(super) fn extension(&self, result: &'static str) {
        self.visibility_extensions.get_or_create(&Ended::new(result)).inc();
    }

    /// Registers all metrics except `failures`.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "slots", "Messages that may be worked on at once", &self.slots);
        registry.register_with_unit(
            "receive_loop_last_turn_timestamp",
            "Unix time at which the receive loop began its last turn",
            Unit::Seconds,
            self.last_turn.clone(),
        );
        registry.register_with_unit(
            "message_age",
            "From the message's SentTimestamp to its first receive",
            Unit::Seconds,
            self.message_age.clone(),
        );
        add(
            registry,
            "message_receives",
            "Receives of a message so far, at each receive",
            &self.message_receives,
        );
        add(
            registry,
            "visibility_extensions",
            "Extensions of messages' visibility, by result",
            &self.visibility_extensions,
        );
        add(
            registry,
            "verdicts_waiting",
            "Verdicts that the queue has not taken yet",
            &self.verdicts_waiting,
        );
        add(
            registry,
            "messages_received",
            "Messages received, redeliveries included",
            &self.messages_received,
        );
        add(registry, "messages", "Messages by verdict", &self.messages);
        add(registry, "messages_in_flight", "Messages being worked on", &self.messages_in_flight);
        add(
            registry,
            "slots_busy",
            "Slots that are taken; a small object takes a part of one",
            &self.slots_busy,
        );
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::rendered;

    #[test]
    fn the_age_is_observed_at_the_first_receive_and_the_number_of_receives_at_each() {
        let metrics = Metrics::default();
        let message = Message { kept_when_received: Duration::from_secs(7), ..Message::sample("m") };
        metrics.received(&message);
        metrics.received(&Message { attempts: 12, ..message });
        metrics.turned();
        let text = rendered(|registry| metrics.register(registry));
        for line in [
            "logferry_messages_received_total 2",
            "logferry_message_age_seconds_sum 7.0",
            "logferry_message_age_seconds_count 1",
            "logferry_message_receives_bucket{le=\"1.0\"} 1",
            "logferry_message_receives_bucket{le=\"10.0\"} 1",
            "logferry_message_receives_bucket{le=\"20.0\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let turned = Duration::from_secs_f64(metrics.last_turn.get());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        assert!(now.abs_diff(turned) < Duration::from_secs(60), "{turned:?}");
    }
}
