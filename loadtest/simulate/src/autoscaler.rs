//! The number of replicas: KEDA's trigger on the queue, and the HorizontalPodAutoscaler that KEDA creates.

use std::collections::VecDeque;

use crate::{
    clock::Time,
    settings::{Fleet, MOST_MORE_PODS, SCALE_DOWN_PERIOD, STABILIZATION, TOLERANCE},
};

/// Decides how many replicas there should be.
#[derive(Debug)]
pub(crate) struct Autoscaler {
    queue_length: usize,
    most: usize,
    /// Recommendations of the stabilization window.
    recommended: VecDeque<(Time, usize)>,
    /// Numbers of replicas of the last minute.
    replicas: VecDeque<(Time, usize)>,
}

impl Autoscaler {
    /// Begins with `replicas`, which were recommended until now.
    pub(crate) fn new(fleet: &Fleet, replicas: usize) -> Self {
        Self {
            queue_length: fleet.queue_length,
            most: fleet.most_replicas,
            recommended: VecDeque::from([(0, replicas)]),
            replicas: VecDeque::new(),
        }
    }

    /// Number of replicas from now on, given the current number and the messages that wait or are in flight
    /// (`scaleOnInFlight`). Called once per sync period.
    pub(crate) fn decide(&mut self, current: usize, messages: usize, now: Time) -> usize {
        let ratio = messages as f64 / (self.queue_length * current.max(1)) as f64;
        let wanted = match (ratio - 1.0).abs() <= TOLERANCE {
            true => current,
            false => messages.div_ceil(self.queue_length),
        };
        let wanted = wanted.clamp(1, self.most.max(1));
        self.recommended.push_back((now, wanted));
        self.recommended.retain(|(at, _)| now - at <= STABILIZATION);
        self.replicas.push_back((now, current));
        self.replicas.retain(|(at, _)| now - at <= SCALE_DOWN_PERIOD);
        if wanted > current {
            return wanted.min((2 * current).max(current + MOST_MORE_PODS));
        }
        // At most half of the replicas that there were a minute ago may go.
        let before = self.replicas.iter().map(|(_, count)| *count).max().unwrap_or(current);
        let stable = self.recommended.iter().map(|(_, count)| *count).max().unwrap_or(wanted);
        stable.min(current).max(before / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    fn decisions(messages: &[usize], mut current: usize) -> Vec<usize> {
        let mut scaler = Autoscaler::new(&Fleet { queue_length: 64, ..Fleet::shipped() }, current);
        (0..)
            .zip(messages)
            .map(|(turn, messages)| {
                current = scaler.decide(current, *messages, turn * 15 * SECOND);
                current
            })
            .collect()
    }

    #[test]
    fn replicas_double_in_each_period_up_to_the_maximum() {
        assert_eq!(decisions(&[100_000; 6], 1), [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn there_is_a_replica_for_each_64_messages() {
        assert_eq!(decisions(&[640, 640], 6), [10, 10]);
        assert_eq!(decisions(&[690, 710], 10), [10, 12], "within the tolerance of a tenth nothing changes");
        assert_eq!(decisions(&[0], 1), [1], "at least one");
    }

    #[test]
    fn replicas_go_after_five_minutes_and_at_most_half_in_a_minute() {
        let mut messages = vec![640];
        messages.extend([64; 60]);
        let decided = decisions(&messages, 10);
        let first = decided.iter().position(|count| *count < 10).expect("the replicas go");
        assert_eq!(first, 21, "after five minutes");
        assert_eq!(decided[first..first + 10], [5, 5, 5, 5, 5, 2, 2, 2, 2, 2]);
    }
}
