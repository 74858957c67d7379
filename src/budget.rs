//! Limits calls per account and Region. PutLogEvents and CreateLogStream have a rate each. Calls pause if an account still
//! throttles, or still does not answer, after the SDK's retries.
//!
//! CloudWatch Logs counts requests per account and Region, so all streams and tenants that deliver there share a budget.
//! `sink::budgeted` takes a [`Ticket`] when it opens a sink, waits for a turn before each call, and reports the answer. The SDK's
//! retries are not counted.
//!
//! A Region that accepts connections and never answers would hold a slot for each of its tenants, until the last retry times
//! out. So only one delivery at a time probes an account that does not answer; if several accounts of a Region do not
//! answer, only one delivery probes the Region.

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
    metrics::{Call, add},
};

/// Pauses of an account that throttles or does not answer. Quotas are per second, so a second may be enough. If it is not,
/// the account is busy with requests of others, or its quota was lowered.
const PAUSES: ProbeIntervals =
    ProbeIntervals { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// Size of a burst: as many calls may come at once as the rate allows in this time. AWS counts calls per second; a burst
/// adds a tenth to a second's calls.
const BURST: Duration = Duration::from_millis(100);
/// A Region counts as silent if this many of its accounts do not answer. Fewer accounts may have problems of their own.
const SILENT_ACCOUNTS: usize = 3;
/// A budget is forgotten after this time without use. The budget of a paused account is kept for twice the longest delay of a
/// message, but at least this long.
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
    /// `logferry_throttled_accounts`: accounts and Regions that are not called for a moment, because they throttle.
    pub throttled_accounts: Gauge,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(registry, "budget_waits", "Calls that waited because of the rate limit", &self.budget_waits);
        add(
            registry,
            "throttled_accounts",
            "Accounts and Regions left alone for a moment because they throttle",
            &self.throttled_accounts,
        );
    }
}

/// Why an account is not called now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pausing {
    /// The account throttled a moment ago.
    Throttled {
        /// Time until the account is called again.
        retry_in: Duration,
    },
    /// The account, or several accounts of its Region, did not answer a moment ago.
    Unanswered {
        /// Time until the account is called again.
        retry_in: Duration,
    },
}

/// Answer of an account to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Any answer but throttling.
    Answered,
    /// The account still throttles after the SDK's retries.
    Throttled,
    /// There was no answer, or a 5xx answer.
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
    budgets: HashMap<AccountRegion, Budget>,
    /// Regions with an account that did not answer, if no account of the Region has answered since.
    silent: HashMap<String, Silence>,
    swept: Option<Instant>,
}

/// An account and a Region.
type AccountRegion = (String, String);

#[derive(Debug)]
struct Budget {
    puts: Pace,
    stream_creations: Pace,
    pause: Pause,
    /// The answer because of which the account was paused last.
    cause: Answer,
    used: Instant,
}

impl Budget {
    fn throttles(&self) -> bool {
        self.pause.breaker.probe_in(self.used).is_some() && self.cause == Answer::Throttled
    }
}

/// The accounts of a Region that do not answer.
#[derive(Debug)]
struct Silence {
    accounts: HashSet<String>,
    pause: Pause,
    used: Instant,
}

/// A breaker and its running probe.
#[derive(Debug)]
struct Pause {
    breaker: Breaker,
    /// Alive until the probe has an answer or is dropped.
    probe: Weak<()>,
}

impl Pause {
    fn new() -> Self {
        Self { breaker: Breaker::new(PAUSES), probe: Weak::new() }
    }

    /// Time until a call may be made; `None` if a call, or a probe, may be made now.
    fn held(&self, now: Instant) -> Option<Duration> {
        let wait = self.breaker.probe_in(now)?;
        // A probe may take much longer than the interval. Only one probe runs at a time, because each holds a slot.
        let under_way = self.probe.strong_count() > 0;
        let wait = if under_way { wait.max(PAUSES.first) } else { wait };
        (!wait.is_zero()).then_some(wait)
    }

    /// Takes the probe, if one is due.
    fn admit(&mut self, now: Instant) -> Option<Arc<()>> {
        if self.breaker.admit(now, fastrand::f64()) != Admission::Probe {
            return None;
        }
        let probe = Arc::new(());
        self.probe = Arc::downgrade(&probe);
        Some(probe)
    }

    /// Records a refusal. While the breaker is open, only its probes count: other calls began before it opened.
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
    account_region: AccountRegion,
    /// Present if this delivery probes the account.
    probe: Option<Arc<()>>,
    /// Present if this delivery probes the Region.
    region_probe: Option<Arc<()>>,
}

/// The generic cell rate algorithm: on average one call per interval, with a burst of [`BURST`].
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval: Duration,
    /// Time at which the calls so far would be over at one call per interval.
    done: Option<Instant>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), done: None }
    }

    /// Takes the next turn. Returns the time until that turn.
    fn take(&mut self, now: Instant) -> Duration {
        let start = self.done.map_or(now, |done| done.max(now));
        self.done = Some(start + self.interval);
        (start - now).saturating_sub(BURST)
    }
}

impl Budgets {
    /// Starts without any account. Remembers pauses for longer than `longest_delay`, the longest time until a message comes
    /// again.
    pub fn new(rates: Rates, longest_delay: Duration, metrics: Metrics) -> Self {
        Self { rates, longest_delay, metrics, state: Arc::default() }
    }

    /// Checks that an account is not paused. Takes no probe.
    ///
    /// # Errors
    /// See [`Pausing`].
    pub fn check(&self, account: &str, region: &str) -> Result<(), Pausing> {
        let account_region = (account.to_owned(), region.to_owned());
        self.with(&account_region, |budget, silent, now| held(budget, silent.get(region), now))
    }

    /// Asks to call an account, and takes its probe if one is due.
    ///
    /// # Errors
    /// See [`Pausing`].
    pub fn enter(&self, account: &str, region: &str) -> Result<Ticket, Pausing> {
        let account_region = (account.to_owned(), region.to_owned());
        let (probe, region_probe) = self.with(&account_region, |budget, silent, now| {
            held(budget, silent.get(region), now)?;
            let of_region = silent.get_mut(region).and_then(|silence| {
                silence.used = now;
                silence.pause.admit(now)
            });
            Ok((budget.pause.admit(now), of_region))
        })?;
        Ok(Ticket { budgets: self.clone(), account_region, probe, region_probe })
    }

    fn with<T>(
        &self,
        account_region: &AccountRegion,
        act: impl FnOnce(&mut Budget, &mut HashMap<String, Silence>, Instant) -> T,
    ) -> T {
        let now = now();
        let mut state = self.lock();
        if state.swept.is_none_or(|swept| now.duration_since(swept) >= IDLE) {
            state.swept = Some(now);
            self.sweep(&mut state, now);
        }
        if !state.budgets.contains_key(account_region) {
            let fresh = Budget {
                puts: Pace::new(self.rates.puts),
                stream_creations: Pace::new(self.rates.stream_creations),
                pause: Pause::new(),
                cause: Answer::Answered,
                used: now,
            };
            state.budgets.insert(account_region.clone(), fresh);
        }
        let State { budgets, silent, .. } = &mut *state;
        let budget =
            budgets.get_mut(account_region).expect("the budget was there, or has just been inserted");
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
        // Every statement leaves the budgets consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that neither the account nor its Region is paused.
fn held(budget: &Budget, silence: Option<&Silence>, now: Instant) -> Result<(), Pausing> {
    let of_place = budget.pause.held(now);
    let of_region = silence.and_then(|silence| silence.pause.held(now));
    let Some(retry_in) = of_place.max(of_region) else { return Ok(()) };
    match budget.cause {
        Answer::Throttled if of_region.is_none() => Err(Pausing::Throttled { retry_in }),
        _ => Err(Pausing::Unanswered { retry_in }),
    }
}

impl Ticket {
    /// Waits until PutLogEvents may be called. An unused turn is lost.
    pub async fn put_turn(&self) {
        self.turn("put_log_events", |budget| &mut budget.puts).await;
    }

    /// Waits until CreateLogStream may be called. An unused turn is lost.
    pub async fn create_stream_turn(&self) {
        self.turn("create_log_stream", |budget| &mut budget.stream_creations).await;
    }

    async fn turn(&self, call: &'static str, pace: impl FnOnce(&mut Budget) -> &mut Pace) {
        let wait = self.budgets.with(&self.account_region, |budget, _, now| pace(budget).take(now));
        if !wait.is_zero() {
            self.budgets.metrics.budget_waits.get_or_create(&Call::new(call)).inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// Pauses the account, or ends its pause, after an answer.
    pub fn heed(&self, answer: Answer) {
        let (account, region) = &self.account_region;
        let (change, of_region) = self.budgets.with(&self.account_region, |budget, silent, now| {
            let change = match answer {
                Answer::Answered => budget.pause.succeed(),
                Answer::Throttled | Answer::Unanswered => {
                    let change = budget.pause.refuse(now, self.probe.as_ref());
                    if change.is_some() {
                        budget.cause = answer;
                    }
                    change
                }
            };
            if answer != Answer::Unanswered {
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
                "an account throttles or does not answer: it is not called for a moment, and its messages wait"
            ),
            Some(Change::Closed) => {
                tracing::info!(aws.account = account, aws.region = region, "an account takes requests again");
            }
            Some(Change::ProbeRefused) | None => {}
        }
        match of_region {
            Some(Change::Opened) => tracing::warn!(
                aws.region = region,
                "several accounts of a Region do not answer: one delivery at a time probes the Region, and other messages for it wait"
            ),
            Some(Change::Closed) => tracing::info!(aws.region = region, "a Region answers again"),
            Some(Change::ProbeRefused) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
