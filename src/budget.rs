//! What one account and Region may be asked: PutLogEvents and CreateLogStream each at a rate, and nothing for a moment once it
//! throttled and the SDK's retries did not cure it.
//!
//! CloudWatch Logs counts requests per account and Region, so all streams and tenants that deliver there share a budget.
//! `sink::budgeted` takes a [`Ticket`] when it opens a sink, waits for a turn before each call, and tells what came of it. Calls
//! that the SDK repeats by itself are not counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    credentials::breaker::{Admission, Breaker, Change, ProbeIntervals},
    metrics::{Call, Metrics},
    sink::SinkError,
};

/// How long an account that throttles is left alone. A quota is per second, so a second may do; where it does not, the account
/// is too busy with others' requests, or its quota was lowered.
const PAUSES: ProbeIntervals =
    ProbeIntervals { first: Duration::from_secs(1), longest: Duration::from_secs(30) };
/// The length of time within which calls may come all at once: a tenth of the second that AWS counts in.
const BURST: Duration = Duration::from_millis(100);
/// What nobody asked for in that time is forgotten; everything in it is over by then.
const IDLE: Duration = Duration::from_secs(120);

/// Requests per second into one account and Region.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// PutLogEvents.
    pub puts: u32,
    /// CreateLogStream.
    pub stream_creations: u32,
}

/// The budgets of all accounts and Regions; clones share them.
#[derive(Clone, Debug)]
pub struct Budgets {
    rates: Rates,
    metrics: Metrics,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    budgets: HashMap<Place, Budget>,
    swept: Option<Instant>,
}

/// An account and a Region.
type Place = (String, String);

#[derive(Debug)]
struct Budget {
    puts: Pace,
    stream_creations: Pace,
    pause: Breaker,
    used: Instant,
}

/// One delivery's part in a budget.
#[derive(Debug)]
pub struct Ticket {
    budgets: Budgets,
    place: Place,
    /// Whether it was let through to see if the account still throttles.
    probe: bool,
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
    /// Nobody was asked anything yet.
    pub fn new(rates: Rates, metrics: Metrics) -> Self {
        Self { rates, metrics, state: Arc::default() }
    }

    /// Asks whether an account may be asked.
    ///
    /// # Errors
    /// It throttled a moment ago: [`SinkError::Paused`].
    pub fn enter(&self, account: &str, region: &str) -> Result<Ticket, SinkError> {
        let place = (account.to_owned(), region.to_owned());
        let admission = self.with(&place, |budget, now| budget.pause.admit(now, fastrand::f64()));
        match admission {
            Admission::Held(retry_in) => {
                Err(SinkError::Paused { account: place.0, region: place.1, retry_in })
            }
            admitted => Ok(Ticket { budgets: self.clone(), place, probe: admitted == Admission::Probe }),
        }
    }

    fn with<T>(&self, place: &Place, act: impl FnOnce(&mut Budget, Instant) -> T) -> T {
        let now = tokio::time::Instant::now().into_std();
        let mut state = self.lock();
        if state.swept.is_none_or(|swept| now.duration_since(swept) >= IDLE) {
            state.swept = Some(now);
            state.budgets.retain(|_, budget| {
                let stays = now.duration_since(budget.used) < IDLE;
                if !stays && budget.pause.probe_in(now).is_some() {
                    self.metrics.throttled_accounts.dec();
                }
                stays
            });
        }
        if !state.budgets.contains_key(place) {
            let fresh = Budget {
                puts: Pace::new(self.rates.puts),
                stream_creations: Pace::new(self.rates.stream_creations),
                pause: Breaker::new(PAUSES),
                used: now,
            };
            state.budgets.insert(place.clone(), fresh);
        }
        let budget = state.budgets.get_mut(place).expect("it was there, or has just been inserted");
        budget.used = now;
        act(budget, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every budget is right after each statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let wait = self.budgets.with(&self.place, |budget, now| pace(budget).take(now));
        if !wait.is_zero() {
            self.budgets.metrics.budget_waits.get_or_create(&Call::new(call)).inc();
            tokio::time::sleep(wait).await;
        }
    }

    /// Heeds what the account answered.
    pub fn heed<T>(&self, answer: &Result<T, SinkError>) {
        let change = match answer {
            Err(SinkError::Throttled(_)) => self.budgets.with(&self.place, |budget, now| {
                // Those that were let in before it throttled say nothing new: it is the probes that tell.
                let news = self.probe || budget.pause.probe_in(now).is_none();
                news.then(|| budget.pause.refuse(now, fastrand::f64()))
            }),
            // No answer of the account's.
            Err(
                SinkError::Unavailable(_)
                | SinkError::Session(_)
                | SinkError::Held { .. }
                | SinkError::Paused { .. },
            ) => None,
            Ok(_) | Err(_) => self.budgets.with(&self.place, |budget, _| budget.pause.succeed()),
        };
        let (account, region) = &self.place;
        match change {
            Some(Change::Opened) => {
                self.budgets.metrics.throttled_accounts.inc();
                tracing::info!(
                    aws.account = account,
                    aws.region = region,
                    "an account throttles: it is left alone for a moment, and its messages wait"
                );
            }
            Some(Change::Closed) => {
                self.budgets.metrics.throttled_accounts.dec();
                tracing::info!(aws.account = account, aws.region = region, "an account takes requests again");
            }
            Some(Change::ProbeRefused) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { puts: 800, stream_creations: 50 };

    fn budgets() -> Budgets {
        Budgets::new(RATES, Metrics::new())
    }

    fn throttled() -> Result<(), SinkError> {
        Err(SinkError::Throttled("slow down".to_owned()))
    }

    /// Takes turns as fast as they come; how many fit into the time, the first of all included.
    fn check(per_second: u32, time: Duration, expected: u32) {
        let (mut pace, start) = (Pace::new(per_second), Instant::now());
        let (mut now, mut calls) = (start, 0);
        loop {
            now += pace.take(now);
            if now - start >= time {
                break;
            }
            calls += 1;
        }
        assert_eq!(calls, expected, "{per_second} a second for {time:?}");
    }

    #[test]
    fn calls_keep_their_pace_and_a_tenth_of_a_second_may_come_at_once() {
        let burst = |seconds: u64| Duration::from_secs(seconds);
        check(800, Duration::from_nanos(1), 81);
        check(800, burst(10), 8080);
        check(50, Duration::from_nanos(1), 6);
        check(50, burst(10), 505);
        check(1, burst(10), 11);
        check(3, burst(10), 31);
    }

    #[test]
    fn a_rest_brings_the_burst_back_and_no_more() {
        let (mut pace, now) = (Pace::new(50), Instant::now());
        (0..6).for_each(|_| assert_eq!(pace.take(now), Duration::ZERO));
        assert_eq!(pace.take(now), Duration::from_millis(20));
        let later = now + Duration::from_secs(3600);
        (0..6).for_each(|_| assert_eq!(pace.take(later), Duration::ZERO));
        assert_eq!(pace.take(later), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_an_account_and_region_share_a_budget_and_nobody_else() {
        let budgets = budgets();
        let start = tokio::time::Instant::now();
        let one = budgets.enter("1", "r").expect("nothing is wrong");
        let two = budgets.enter("1", "r").expect("nothing is wrong");
        for _ in 0..28 {
            one.create_stream_turn().await;
            two.create_stream_turn().await;
        }
        assert_eq!(start.elapsed(), Duration::from_secs(1), "56 at 50 a second with 6 at once");
        assert_eq!(budgets.metrics.budget_waits.get_or_create(&Call::new("create_log_stream")).get(), 50);
        for (account, region) in [("1", "s"), ("2", "r")] {
            let other = budgets.enter(account, region).expect("nothing is wrong");
            other.create_stream_turn().await;
        }
        one.put_turn().await;
        assert_eq!(start.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_throttles_is_left_alone_longer_and_longer() {
        let budgets = budgets();
        let gauge = || budgets.metrics.throttled_accounts.get();
        let first: Vec<_> = (0..8).map(|_| budgets.enter("1", "r").expect("nothing is wrong yet")).collect();
        // All of them are told the same.
        first.iter().for_each(|ticket| ticket.heed(&throttled()));
        assert_eq!(gauge(), 1);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let Err(SinkError::Paused { retry_in: wait, .. }) = budgets.enter("1", "r") else {
                panic!("it is left alone")
            };
            let pause = Duration::from_secs(pause);
            assert!(wait >= pause && wait <= pause * 5 / 4, "{wait:?} instead of {pause:?}");
            budgets.enter("1", "s").expect("another Region has its own quota");
            tokio::time::advance(wait).await;
            let probe = budgets.enter("1", "r").expect("one may see");
            budgets.enter("1", "r").expect_err("one alone");
            probe.heed(&Err::<(), _>(SinkError::Unavailable("no answer".to_owned())));
            probe.heed(&throttled());
        }
        assert_eq!(gauge(), 1);
        first[0].heed(&Ok(()));
        assert_eq!(gauge(), 0);
        let after = budgets.enter("1", "r").expect("it takes requests again");
        after.heed(&throttled());
        after.heed(&Err::<(), _>(SinkError::NotFound("a stream".to_owned())));
        budgets.enter("1", "r").expect("that was an answer too");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_is_forgotten() {
        let budgets = budgets();
        budgets.enter("0", "r").expect("nothing is wrong").heed(&throttled());
        for account in 1..1000 {
            budgets.enter(&account.to_string(), "r").expect("nothing is wrong");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(budgets.lock().budgets.len() <= 2 * IDLE.as_secs() as usize + 1);
        assert_eq!(budgets.metrics.throttled_accounts.get(), 0);
    }
}
