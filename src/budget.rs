//! What one account and Region may be asked: PutLogEvents and CreateLogStream each at a rate, and nothing for a moment once it
//! throttled or did not answer and the SDK's retries did not cure it.
//!
//! CloudWatch Logs counts requests per account and Region, so all streams and tenants that deliver there share a budget.
//! `sink::budgeted` takes a [`Ticket`] when it opens a sink, waits for a turn before each call, and tells what came of it. Calls
//! that the SDK repeats by itself are not counted.
//!
//! A Region that takes connections and never answers would hold a slot for each of its tenants, for as long as an attempt and its
//! repetitions may take. So one delivery at a time sees whether a place answers again, however long it takes; and where several
//! accounts of a Region had no answer, one for the whole Region.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    breaker::{Admission, Breaker, Change, ProbeIntervals, now},
    metrics::Call,
};

/// How long an account that throttles, or has no answer, is left alone. A quota is per second, so a second may do; where it does not, the account
/// is too busy with others' requests, or its quota was lowered.
const PAUSES: ProbeIntervals =
    ProbeIntervals { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// The length of time within which calls may come all at once: a tenth of the second that AWS counts in.
const BURST: Duration = Duration::from_millis(100);
/// Accounts of a Region without an answer that speak for the Region: fewer may be their own affair.
const SILENT_ACCOUNTS: usize = 3;
/// What nobody asked for in that time is forgotten, unless it is left alone; everything in it is over by then.
const IDLE: Duration = Duration::from_secs(120);

/// Requests per second into one account and Region.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// PutLogEvents.
    pub puts: u32,
    /// CreateLogStream.
    pub stream_creations: u32,
}

/// Metrics of all budgets.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_budget_waits_total{call}`: calls that waited for `delivery.put_rate` or `delivery.create_stream_rate`.
    pub budget_waits: Family<Call, Counter>,
    /// `logferry_throttled_accounts`: accounts and Regions that throttle, and are left alone for a moment.
    pub throttled_accounts: Gauge,
}

impl Metrics {
    /// Registers both.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("budget_waits", "Calls that waited for their rate", self.budget_waits.clone());
        registry.register(
            "throttled_accounts",
            "Accounts and Regions left alone for a moment because they throttle",
            self.throttled_accounts.clone(),
        );
    }
}

/// Why an account is not asked now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pausing {
    /// The account throttled a moment ago.
    Throttled {
        /// How long until it is asked again.
        retry_in: Duration,
    },
    /// The account, or several accounts of its Region, did not answer a moment ago.
    Unanswered {
        /// How long until it is asked again.
        retry_in: Duration,
    },
}

/// Answer of an account to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any answer but throttling.
    Answered,
    /// The account throttles, after the SDK's retries too.
    Throttled,
    /// There was no answer, or one of 5xx.
    Unanswered,
}

/// The budgets of all accounts and Regions; clones share them.
#[derive(Clone, Debug)]
pub struct Budgets {
    rates: Rates,
    longest_delay: Duration,
    metrics: Metrics,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    budgets: HashMap<Place, Budget>,
    /// Regions of which some account had no answer, and no account one since.
    silent: HashMap<String, Silence>,
    swept: Option<Instant>,
}

/// An account and a Region.
type Place = (String, String);

#[derive(Debug)]
struct Budget {
    puts: Pace,
    stream_creations: Pace,
    pause: Pause,
    cause: Cause,
    used: Instant,
}

impl Budget {
    fn throttles(&self) -> bool {
        self.pause.breaker.probe_in(self.used).is_some() && self.cause == Cause::Throttled
    }
}

/// What nobody in a Region has answered to.
#[derive(Debug)]
struct Silence {
    accounts: HashSet<String>,
    pause: Pause,
    used: Instant,
}

/// Why an account is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Throttled,
    Unanswered,
}

/// Open or closed, and the probe that is under way.
#[derive(Debug)]
struct Pause {
    breaker: Breaker,
    /// Alive until the probe is answered or dropped.
    probe: Weak<()>,
}

impl Pause {
    fn new() -> Self {
        Self { breaker: Breaker::new(PAUSES), probe: Weak::new() }
    }

    /// How long nothing may be asked; `None` if something may, at least a probe.
    fn held(&self, now: Instant) -> Option<Duration> {
        let wait = self.breaker.probe_in(now)?;
        // The probe may take much longer than the interval: one at a time, or each would hold a slot.
        let under_way = self.probe.strong_count() > 0;
        let wait = if under_way { wait.max(PAUSES.first) } else { wait };
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes the probe, if there is something to find out.
    fn admit(&mut self, now: Instant) -> Option<Arc<()>> {
        if self.breaker.admit(now, fastrand::f64()) != Admission::Probe {
            return None;
        }
        let probe = Arc::new(());
        self.probe = Arc::downgrade(&probe);
        Some(probe)
    }

    /// Those that were let in before it opened say nothing new: it is the probes that tell.
    fn refuse(&mut self, now: Instant, probe: Option<&Arc<()>>) -> Option<Change> {
        if probe.is_none() && self.breaker.probe_in(now).is_some() {
            return None;
        }
        self.probe = Weak::new();
        Some(self.breaker.refuse(now, fastrand::f64()))
    }

    fn succeed(&mut self) -> Option<Change> {
        self.probe = Weak::new();
        self.breaker.succeed()
    }
}

/// One delivery's part in a budget.
#[derive(Debug)]
pub struct Ticket {
    budgets: Budgets,
    place: Place,
    /// Whether it was let through to see how the account does now.
    probe: Option<Arc<()>>,
    /// The same for its Region.
    region_probe: Option<Arc<()>>,
}

/// The generic cell rate algorithm: calls an interval apart in the long run, with a burst of them at once.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    /// When the calls so far would be done at an interval each.
    done: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), done: None }
    }

    /// Takes the next turn, and says how far away it is.
    fn take(&mut self, now: Instant) -> Duration {
        let start = self.done.map_or(now, |done| done.max(now));
        self.done = Some(start + self.interval);
        (start - now).saturating_sub(BURST)
    }
}

impl Budgets {
    /// Nobody was asked anything yet. That an account is left alone is remembered for longer than `longest_delay`, the longest
    /// that a message waits before it comes again.
    pub fn new(rates: Rates, longest_delay: Duration, metrics: Metrics) -> Self {
        Self { rates, longest_delay, metrics, state: Arc::default() }
    }

    /// Tells whether an account is left alone now, and takes nothing.
    ///
    /// # Errors
    /// As [`Budgets::enter`] has them.
    pub fn check(&self, account: &str, region: &str) -> Result<(), Pausing> {
        let place = (account.to_owned(), region.to_owned());
        self.with(&place, |budget, silent, now| held(budget, silent.get(region), now))
    }

    /// Asks whether an account may be asked; takes its probe if one is due.
    ///
    /// # Errors
    /// See [`Pausing`].
    pub fn enter(&self, account: &str, region: &str) -> Result<Ticket, Pausing> {
        let place = (account.to_owned(), region.to_owned());
        let (probe, region_probe) = self.with(&place, |budget, silent, now| {
            held(budget, silent.get(region), now)?;
            let of_region = silent.get_mut(region).and_then(|silence| {
                silence.used = now;
                silence.pause.admit(now)
            });
            Ok((budget.pause.admit(now), of_region))
        })?;
        Ok(Ticket { budgets: self.clone(), place, probe, region_probe })
    }

    fn with<T>(
        &self,
        place: &Place,
        act: impl FnOnce(&mut Budget, &mut HashMap<String, Silence>, Instant) -> T,
    ) -> T {
        let now = now();
        let mut state = self.lock();
        if state.swept.is_none_or(|swept| now.duration_since(swept) >= IDLE) {
            state.swept = Some(now);
            self.sweep(&mut state, now);
        }
        if !state.budgets.contains_key(place) {
            let fresh = Budget {
                puts: Pace::new(self.rates.puts),
                stream_creations: Pace::new(self.rates.stream_creations),
                pause: Pause::new(),
                cause: Cause::Throttled,
                used: now,
            };
            state.budgets.insert(place.clone(), fresh);
        }
        let State { budgets, silent, .. } = &mut *state;
        let budget = budgets.get_mut(place).expect("it was there, or has just been inserted");
        budget.used = now;
        let before = budget.throttles();
        let done = act(budget, silent, now);
        match (before, budget.throttles()) {
            (false, true) => self.metrics.throttled_accounts.inc(),
            (true, false) => self.metrics.throttled_accounts.dec(),
            _ => 0,
        };
        done
    }

    fn sweep(&self, state: &mut State, now: Instant) {
        let paused = IDLE.max(self.longest_delay.saturating_mul(2));
        state.silent.retain(|_, silence| now.duration_since(silence.used) < paused);
        state.budgets.retain(|_, budget| {
            let open = budget.pause.breaker.probe_in(now).is_some();
            let stays = now.duration_since(budget.used) < if open { paused } else { IDLE };
            if !stays && budget.throttles() {
                self.metrics.throttled_accounts.dec();
            }
            stays
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every budget is right after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error that says why nothing may be asked now, if so.
fn held(budget: &Budget, silence: Option<&Silence>, now: Instant) -> Result<(), Pausing> {
    let of_place = budget.pause.held(now);
    let of_region = silence.and_then(|silence| silence.pause.held(now));
    let Some(retry_in) = of_place.max(of_region) else { return Ok(()) };
    match budget.cause {
        Cause::Throttled if of_region.is_none() => Err(Pausing::Throttled { retry_in }),
        _ => Err(Pausing::Unanswered { retry_in }),
    }
}

impl Ticket {
    /// Waits until PutLogEvents may be called. A turn that is not used is lost.
    pub async fn put_turn(&self) {
        self.turn("put_log_events", |budget| &mut budget.puts).await;
    }

    /// Waits until CreateLogStream may be called. A turn that is not used is lost.
    pub async fn create_stream_turn(&self) {
        self.turn("create_log_stream", |budget| &mut budget.stream_creations).await;
    }

    async fn turn(&self, call: &'static str, pace: impl FnOnce(&mut Budget) -> &mut Pace) {
        let wait = self.budgets.with(&self.place, |budget, _, now| pace(budget).take(now));
        if !wait.is_zero() {
            self.budgets.metrics.budget_waits.get_or_create(&Call::new(call)).inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// Pauses the account, or ends its pause, after an answer.
    pub fn heed(&self, answer: Answer) {
        let trouble = match answer {
            Answer::Answered => None,
            Answer::Throttled => Some(Cause::Throttled),
            Answer::Unanswered => Some(Cause::Unanswered),
        };
        let (account, region) = &self.place;
        let (change, of_region) = self.budgets.with(&self.place, |budget, silent, now| {
            let change = match trouble {
                None => budget.pause.succeed(),
                Some(cause) => {
                    let change = budget.pause.refuse(now, self.probe.as_ref());
                    if change.is_some() {
                        budget.cause = cause;
                    }
                    change
                }
            };
            if trouble != Some(Cause::Unanswered) {
                return (change, silent.remove(region).and_then(|mut silence| silence.pause.succeed()));
            }
            let fresh = || Silence { accounts: HashSet::new(), pause: Pause::new(), used: now };
            let silence = silent.entry(region.clone()).or_insert_with(fresh);
            silence.used = now;
            silence.accounts.insert(account.clone());
            let all = silence.accounts.len() >= SILENT_ACCOUNTS;
            (change, all.then(|| silence.pause.refuse(now, self.region_probe.as_ref())).flatten())
        });
        match change {
            Some(Change::Opened) => tracing::info!(
                aws.account = account,
                aws.region = region,
                "an account throttles or does not answer: it is left alone for a moment, and its messages wait"
            ),
            Some(Change::Closed) => {
                tracing::info!(aws.account = account, aws.region = region, "an account takes requests again");
            }
            Some(Change::ProbeRefused) | None => {}
        }
        match of_region {
            Some(Change::Opened) => tracing::warn!(
                aws.region = region,
                "several accounts of a Region have no answer: one delivery at a time tries it, and its messages wait"
            ),
            Some(Change::Closed) => tracing::info!(aws.region = region, "a Region answers again"),
            Some(Change::ProbeRefused) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
