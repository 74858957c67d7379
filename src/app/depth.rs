//! Asks once a minute how many messages are in the queue and in the dead-letter queue.

use std::time::Duration;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    metrics::{KnownGauge, State, add},
    queue::sqs::{
        SqsQueue,
        attributes::{AttributesError, QueueAttributes},
    },
};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(60);
/// Time between two questions while IAM denies the answer.
const WHILE_DENIED: Duration = Duration::from_secs(900);

/// Metrics of the queues. They are absent while the answer is not known, so that nobody takes an unknown depth for an empty
/// queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    /// `logferry_queue_messages{state}`: `visible`, `in_flight`, `delayed`.
    queue_messages: Family<State, Gauge>,
    /// `logferry_dead_letter_queue_messages`: all messages of the dead-letter queue.
    dead_letters: KnownGauge,
}

impl Metrics {
    /// Registers both metrics.
    pub(super) fn register(&self, registry: &mut Registry) {
        add(registry, "queue_messages", "Messages in the queue", &self.queue_messages);
        add(registry, "dead_letter_queue_messages", "Messages in the dead-letter queue", &self.dead_letters);
    }

    /// Shows the depth of the queue.
    pub(super) fn show_queue(&self, depth: Option<QueueAttributes>) {
        let Some(QueueAttributes { visible, hidden, delayed, .. }) = depth else {
            return self.queue_messages.clear();
        };
        for (state, count) in [("visible", visible), ("in_flight", hidden), ("delayed", delayed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.queue_messages.get_or_create(&State::new(state)).set(count);
        }
    }

    /// Shows the depth of the dead-letter queue.
    pub(super) fn show_dead_letters(&self, depth: Option<QueueAttributes>) {
        self.dead_letters.set(depth.map(|depth| depth.visible + depth.hidden + depth.delayed));
    }
}

/// Asks for ever, about both queues at the same time.
pub(super) async fn keep_asking(queue: SqsQueue, letters: Option<SqsQueue>, metrics: Metrics) {
    let letters = async {
        if let Some(letters) = &letters {
            ask_again("dead_letter_queue", || letters.attributes(), |depth| metrics.show_dead_letters(depth))
                .await;
        }
    };
    tokio::join!(ask_again("queue", || queue.attributes(), |depth| metrics.show_queue(depth)), letters);
}

/// Asks for ever, and shows each answer. Says in the log, once, that the permission is missing.
async fn ask_again<F>(name: &str, ask: impl Fn() -> F, show: impl Fn(Option<QueueAttributes>))
where
    F: Future<Output = Result<QueueAttributes, AttributesError>>,
{
    let mut told = false;
    loop {
        let answer = ask().await;
        let denied = matches!(answer, Err(AttributesError::Denied(_)));
        match &answer {
            Ok(_) => told = false,
            Err(error) if denied && !told => {
                told = true;
                tracing::info!(
                    queue = name,
                    error = %error,
                    "the metrics of a queue's messages are absent, because IAM denies the count; allow the worker's role sqs:GetQueueAttributes on the queue"
                );
            }
            Err(error) => {
                tracing::debug!(queue = name, error = %error, "a queue's messages could not be counted")
            }
        }
        show(answer.ok());
        tokio::time::sleep(if denied { WHILE_DENIED } else { INTERVAL }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use tokio::time::Instant;

    use super::*;

    fn samples(metrics: &Metrics) -> Vec<String> {
        let text = crate::metrics::rendered(|registry| metrics.register(registry));
        let mut samples: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        samples.sort();
        samples
    }

    #[test]
    fn unknown_depths_are_absent() {
        let metrics = Metrics::default();
        assert_eq!(samples(&metrics), [""; 0]);
        let depth = QueueAttributes { visible: 5, hidden: 4, delayed: 3, ..QueueAttributes::default() };
        metrics.show_queue(Some(depth.clone()));
        metrics.show_dead_letters(Some(depth));
        let expected = [
            "logferry_dead_letter_queue_messages 12",
            "logferry_queue_messages{state=\"delayed\"} 3",
            "logferry_queue_messages{state=\"in_flight\"} 4",
            "logferry_queue_messages{state=\"visible\"} 5",
        ];
        assert_eq!(samples(&metrics), expected);
        metrics.show_queue(None);
        metrics.show_dead_letters(None);
        assert_eq!(samples(&metrics), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_depth_is_asked_for_rarely() {
        let depth = || Ok(QueueAttributes { visible: 1, ..QueueAttributes::default() });
        let failed = || Err(AttributesError::Unavailable("503".into()));
        let denied = || Err(AttributesError::Denied("AccessDenied".into()));
        let answers = RefCell::new(VecDeque::from([depth(), failed(), denied(), denied(), depth(), depth()]));
        let (begun, shown) = (Instant::now(), RefCell::new(Vec::new()));
        let ask = || {
            let answer = answers.borrow_mut().pop_front();
            async { answer.unwrap_or_else(failed) }
        };
        let show = |depth: Option<QueueAttributes>| {
            shown.borrow_mut().push((begun.elapsed().as_secs(), depth.is_some()))
        };
        let _ = tokio::time::timeout(Duration::from_secs(2000), ask_again("queue", ask, show)).await;
        let expected = [(0, true), (60, false), (120, false), (1020, false), (1920, true), (1980, true)];
        assert_eq!(shown.into_inner(), expected);
    }
}
