//! Whether the ledger answers, learnt from every call.

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
    metrics::{Call, add},
};

/// Calls in a row that failed before a ledger is left alone for [`REST`]: each further object would wait for the same.
const FAILURES: u32 = 3;
/// How long no new object asks a ledger that fails; those that are being delivered ask on.
const REST: Duration = Duration::from_secs(5);
/// Of the time between two calls without an answer at most this part of `out_of_reach_after` counts: who slept in between heard
/// nothing, and that is not the ledger's doing.
const GAPS: u32 = 4;

/// Metrics of the ledger.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_ledger_errors_total{call}`: calls that the ledger did not answer, or throttled. Deliveries that need them wait.
    pub ledger_errors: Family<Call, Counter>,
    /// `logferry_ledger_out_of_reach`: 1 while the ledger has not answered for `ledger.out_of_reach_after`. Deliveries go on
    /// without it then, and a retried message may deliver records twice.
    pub ledger_out_of_reach: Gauge,
}

impl Metrics {
    /// Registers both.
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
    }
}

/// What is known of the ledger's being there.
#[derive(Debug)]
pub(super) struct Reach {
    out_of_reach_after: Duration,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// Calls in a row that failed.
    failures: u32,
    /// The last one's error.
    trouble: Option<LedgerError>,
    /// When new objects ask again.
    ask_again: Option<Instant>,
    /// How long there has been no sign of life.
    silence: Duration,
    /// The last call without a sign of life.
    last_silent: Option<Instant>,
}

/// What a call changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Fails,
    OutOfReach,
    Answers,
}

impl Reach {
    pub(super) fn new(out_of_reach_after: Duration, metrics: Metrics) -> Self {
        Self { out_of_reach_after, state: Mutex::default(), metrics }
    }

    /// Whether it has not answered for so long that deliveries go on without it.
    pub(super) fn is_out(&self) -> bool {
        self.lock().silence >= self.out_of_reach_after
    }

    /// What was wrong a moment ago, if the ledger is left alone because of it. It counts as an error of that call.
    pub(super) fn resting(&self, call: &'static str) -> Option<LedgerError> {
        let state = self.lock();
        let resting = state.ask_again.is_some_and(|at| Instant::now() < at);
        let trouble = state.trouble.clone().filter(|_| resting)?;
        self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
        Some(trouble)
    }

    /// Notes how a call went, and tells once when that changes. An answer that a call is refused or throttled is a sign of
    /// life; only the absence of an answer, or a ledger that cannot be used at all, is silence.
    pub(super) fn learn<T>(&self, call: &'static str, answer: &Result<T, LedgerError>) {
        let trouble = match answer {
            Ok(_) | Err(LedgerError::Lost(_)) => None,
            Err(error) => Some(error),
        };
        if let Some(error) = trouble {
            self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
            if let LedgerError::Unreadable(_) = error {
                tracing::warn!(call, %error, "an entry of the ledger cannot be read: its message waits");
                return;
            }
        }
        let change = self.note(trouble);
        match (change, trouble) {
            (Change::Fails, Some(error)) => {
                tracing::warn!(call, %error, "the ledger does not answer as it should: what needs it waits")
            }
            (Change::OutOfReach, Some(error)) => tracing::error!(
                call,
                %error,
                "the ledger is out of reach: deliveries go on without it, and what is tried again may arrive twice"
            ),
            (Change::Answers, _) => tracing::info!("the ledger answers again"),
            _ => {}
        }
    }

    fn note(&self, trouble: Option<&LedgerError>) -> Change {
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
            (_, false, true) => Change::OutOfReach,
            (Some(_), ..) if failures == 0 => Change::Fails,
            (None, ..) if failures > 0 => Change::Answers,
            _ => Change::None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
