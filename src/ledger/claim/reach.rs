//! Tracks whether the ledger answers, from the outcome of every call.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::time::Instant;

use crate::{
    ledger::LedgerError,
    metrics::{Call, Ended, add},
};

/// After this many failed calls in a row, no new object calls the ledger for [`REST`]. Without this, each object would wait for
/// the same failure.
const FAILURES: u32 = 3;
/// For how long no new object calls a failing ledger. Deliveries that have begun still call it.
const REST: Duration = Duration::from_secs(5);
/// The time between two unanswered calls counts as silence, up to `out_of_reach_after` divided by this number. Without this
/// limit, a pause of the worker itself between the calls would count as silence of the ledger.
const GAPS: u32 = 4;

/// Metrics of the ledger.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_ledger_errors_total{call}`: calls that the ledger did not answer, or throttled. Deliveries that need them wait.
    pub ledger_errors: Family<Call, Counter>,
    /// `logferry_ledger_out_of_reach`: 1 if the ledger has not answered for `ledger.out_of_reach_after`. Deliveries then go on
    /// without it, and a retried message may deliver records twice.
    pub ledger_out_of_reach: Gauge,
    /// `logferry_ledger_claims_total{result}`: `new`; `resumed`: the delivery goes on where an earlier attempt stopped; `done`:
    /// a duplicate was avoided; `busy`: another attempt has the lease, and the message waits; `unguarded`: the delivery goes on
    /// without the ledger.
    pub ledger_claims: Family<Ended, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "ledger_errors",
            "Calls that the ledger did not answer, or throttled",
            &self.ledger_errors,
        );
        add(
            registry,
            "ledger_out_of_reach",
            "Whether deliveries go on without the ledger because it does not answer",
            &self.ledger_out_of_reach,
        );
        add(registry, "ledger_claims", "Claims of deliveries on objects, by result", &self.ledger_claims);
    }
}

/// What is known about whether the ledger answers.
#[derive(Debug)]
pub(super) struct Reach {
    out_of_reach_after: Duration,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// Number of failed calls in a row.
    failures: u32,
    trouble: Option<LedgerError>,
    /// When new objects may call the ledger again.
    ask_again: Option<Instant>,
    /// How long the ledger has been silent.
    silence: Duration,
    /// When the last unanswered call ended.
    last_silent: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReachChange {
    None,
    Fails,
    OutOfReach,
    Answers,
}

impl Reach {
    pub(super) fn new(out_of_reach_after: Duration, metrics: Metrics) -> Self {
        Self { out_of_reach_after, state: Mutex::default(), metrics }
    }

    /// Whether the ledger has been silent for so long that deliveries go on without it.
    pub(super) fn is_out(&self) -> bool {
        self.lock().silence >= self.out_of_reach_after
    }

    /// Returns the last error, if no new object may call the ledger because of it. Counts the error as one of `call`.
    pub(super) fn resting(&self, call: &'static str) -> Option<LedgerError> {
        let state = self.lock();
        let resting = state.ask_again.is_some_and(|at| Instant::now() < at);
        let trouble = state.trouble.clone().filter(|_| resting)?;
        self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
        Some(trouble)
    }

    /// Records the outcome of a call, and logs once when the state changes. An answer that throttles or refuses the call
    /// shows that the ledger is alive. A call without an answer, and a ledger that cannot be used at all, count as silence.
    pub(super) fn learn<T>(&self, call: &'static str, answer: &Result<T, LedgerError>) {
        let trouble = match answer {
            Ok(_) | Err(LedgerError::Lost(_)) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = trouble {
            self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
            if let LedgerError::Unreadable(_) = error {
                tracing::warn!(call, %error, "an entry of the ledger cannot be read: the object's message waits and is tried again");
                return;
            }
        }
        let change = self.note(trouble);
        match (change, trouble) {
            (ReachChange::Fails, Some(error)) => {
                tracing::warn!(call, %error, "calls to the ledger fail: messages that need it wait")
            }
            (ReachChange::OutOfReach, Some(error)) => tracing::error!(
                call,
                %error,
                "the ledger is out of reach: deliveries go on without it, and repeated attempts may deliver records twice"
            ),
            (ReachChange::Answers, _) => tracing::info!("calls to the ledger succeed again"),
            _ => {}
        }
    }

    fn note(&self, trouble: Option<&LedgerError>) -> ReachChange {
        let mut state = self.lock();
        let (now, was_out) = (Instant::now(), state.silence >= self.out_of_reach_after);
        let failures = state.failures;
        match trouble {
            None => *state = State::default(),
            Some(error) => {
                state.failures = failures.saturating_add(1);
                state.ask_again = (state.failures >= FAILURES).then(|| now + REST);
                state.trouble = Some(error.clone());
                if let LedgerError::Unavailable(_) = error {
                    let gap = state.last_silent.map(|last| now - last).unwrap_or_default();
                    state.silence += gap.min(self.out_of_reach_after / GAPS);
                    state.last_silent = Some(now);
                } else {
                    (state.silence, state.last_silent) = (Duration::ZERO, None);
                }
            }
        }
        let is_out = state.silence >= self.out_of_reach_after;
        self.metrics.ledger_out_of_reach.set(i64::from(is_out));
        match (trouble, was_out, is_out) {
            (_, false, true) => ReachChange::OutOfReach,
            (Some(_), ..) if failures == 0 => ReachChange::Fails,
            (None, ..) if failures > 0 => ReachChange::Answers,
            _ => ReachChange::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn each_change_is_told_once() {
        let reach = Reach::new(AFTER, Metrics::default());
        let down = LedgerError::Unavailable("down".into());
        let note = async |trouble, expected| {
            assert_eq!(reach.note(trouble), expected);
            tokio::time::advance(AFTER / GAPS).await;
        };
        note(None, ReachChange::None).await;
        note(Some(&down), ReachChange::Fails).await;
        note(Some(&down), ReachChange::None).await;
        note(None, ReachChange::Answers).await;
        note(None, ReachChange::None).await;
        for change in [
            ReachChange::Fails,
            ReachChange::None,
            ReachChange::None,
            ReachChange::None,
            ReachChange::OutOfReach,
            ReachChange::None,
        ] {
            note(Some(&down), change).await;
        }
        note(None, ReachChange::Answers).await;
        note(None, ReachChange::None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_ledger_rests_for_five_seconds() {
        let reach = Reach::new(AFTER, Metrics::default());
        let down = LedgerError::Unavailable("down".into());
        for _ in 0..FAILURES {
            assert_eq!(reach.resting("begin"), None);
            reach.note(Some(&down));
        }
        tokio::time::advance(REST - Duration::from_nanos(1)).await;
        assert_eq!(reach.resting("begin"), Some(down));
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert_eq!(reach.resting("begin"), None);
    }
}
