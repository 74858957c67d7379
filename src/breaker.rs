//! A circuit breaker: closed until a refusal, then open, with one probe per interval until a probe succeeds. Each refused
//! role, each denied log group, and each account or Region that throttles or does not answer has one. [`Breaker`] is pure:
//! time and chance are arguments.

use std::time::{Duration, Instant};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

/// The time for calls of [`Breaker`], by Tokio's clock, which tests can pause.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time between two probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeIntervals {
    /// After the first refusal; it doubles with every probe that is refused.
    pub first: Duration,
    /// Longest interval.
    pub longest: Duration,
}

impl ProbeIntervals {
    /// The interval plus up to a quarter, chosen by `chance` (0 to 1), so that breakers that open together are not probed
    /// together.
    fn jittered(&self, interval: Duration, chance: f64) -> Duration {
        interval.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0).min(self.longest)
    }
}

/// Closed until a refusal; then open, with one probe per interval, until a probe succeeds.
///
/// Call [`Breaker::admit`] before a call, and [`Breaker::refuse`] or [`Breaker::succeed`] after its answer. If a probe gets no
/// answer or is dropped, the breaker stays open, and the next probe is due an interval after this one.
#[derive(Clone, Debug)]
pub struct Breaker {
    intervals: ProbeIntervals,
    open: Option<Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    interval: Duration,
    probe_at: Instant,
}

/// Whether a call may be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes: the breaker is closed.
    Closed,
    /// Yes, as a probe; the next probe is due an interval from now.
    Probe,
    /// No; the next probe is due after this time.
    Held(Duration),
}

/// Change of a breaker by an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The breaker opened.
    Opened,
    /// The breaker stays open, for a longer interval.
    ProbeRefused,
    /// The breaker closed.
    Closed,
}

impl Change {
    /// The value of the metrics' label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::ProbeRefused => "probe_refused",
            Self::Closed => "closed",
        }
    }
}

/// Change of a breaker, and the cause of the refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    /// `opened`, `probe_refused` or `closed`.
    pub change: &'static str,
    /// Cause of the last refusal.
    pub cause: &'static str,
}

/// What an open breaker stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The tenant.
    pub tenant_id: String,
    /// ARN of the role or of the log group.
    pub subject: String,
    /// Cause of the last refusal.
    pub cause: &'static str,
    /// Time until the next probe.
    pub probe_in: Duration,
}

/// Metrics that all breakers of a kind count into.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Breakers that are open.
    pub open: Gauge,
    /// Changes by cause.
    pub changes: Family<ChangeLabels, Counter>,
}

impl Metrics {
    /// Counts a change, and adjusts the number of open breakers.
    pub fn count(&self, change: Change, cause: &'static str) {
        self.changes.get_or_create(&ChangeLabels { change: change.word(), cause }).inc();
        match change {
            Change::Opened => self.open.inc(),
            Change::Closed => self.open.dec(),
            Change::ProbeRefused => 0,
        };
    }
}

impl Breaker {
    /// A closed breaker.
    pub fn new(intervals: ProbeIntervals) -> Self {
        Self { intervals, open: None }
    }

    /// Time until the next probe, zero if one is due; `None` while the breaker is closed.
    pub fn probe_in(&self, now: Instant) -> Option<Duration> {
        self.open.map(|open| open.probe_at.saturating_duration_since(now))
    }

    /// Asks whether a call may be made now, and takes the probe if one is due.
    pub fn admit(&mut self, now: Instant, chance: f64) -> Admission {
        let Some(open) = &mut self.open else { return Admission::Closed };
        match open.probe_at.saturating_duration_since(now) {
            Duration::ZERO => {
                open.probe_at = now + self.intervals.jittered(open.interval, chance);
                Admission::Probe
            }
            wait => Admission::Held(wait),
        }
    }

    /// Records that the call was refused.
    pub fn refuse(&mut self, now: Instant, chance: f64) -> Change {
        let (change, interval) = match self.open {
            None => (Change::Opened, self.intervals.first),
            Some(open) => (Change::ProbeRefused, open.interval.saturating_mul(2).min(self.intervals.longest)),
        };
        let probe_at = now + self.intervals.jittered(interval, chance);
        self.open = Some(Open { interval, probe_at });
        change
    }

    /// Records that the call succeeded. `None` if the breaker was closed before.
    pub fn succeed(&mut self) -> Option<Change> {
        self.open.take().map(|_| Change::Closed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVALS: ProbeIntervals =
        ProbeIntervals { first: Duration::from_secs(30), longest: Duration::from_secs(900) };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_breaker_opens_at_the_first_refusal_and_its_intervals_grow() {
        let mut breaker = Breaker::new(INTERVALS);
        let mut now = Instant::now();
        assert_eq!((breaker.admit(now, 0.0), breaker.probe_in(now)), (Admission::Closed, None));
        assert_eq!(breaker.refuse(now, 0.0), Change::Opened);
        for interval in [30, 60, 120, 240, 480, 900, 900] {
            let early = now + seconds(interval) - Duration::from_millis(1);
            assert_eq!(breaker.admit(early, 0.0), Admission::Held(Duration::from_millis(1)), "{interval}");
            now += seconds(interval);
            assert_eq!(breaker.probe_in(now), Some(Duration::ZERO), "{interval}");
            assert_eq!(breaker.admit(now, 0.0), Admission::Probe, "{interval}");
            assert_eq!(breaker.refuse(now, 0.0), Change::ProbeRefused, "{interval}");
        }
    }

    #[test]
    fn one_probe_runs_at_a_time_and_its_success_closes_the_breaker() {
        let mut breaker = Breaker::new(INTERVALS);
        let now = Instant::now();
        breaker.refuse(now, 0.0);
        let due = now + seconds(30);
        assert_eq!(breaker.admit(due, 0.0), Admission::Probe);
        assert_eq!(breaker.admit(due, 0.0), Admission::Held(seconds(30)), "a probe is running already");
        assert_eq!(breaker.succeed(), Some(Change::Closed));
        assert_eq!(breaker.succeed(), None);
        assert_eq!(breaker.admit(due, 0.0), Admission::Closed);
        assert_eq!(breaker.refuse(due, 0.0), Change::Opened);
        assert_eq!(breaker.probe_in(due), Some(seconds(30)), "from the beginning again");
    }

    #[test]
    fn a_probe_without_an_answer_keeps_the_breaker_open() {
        let mut breaker = Breaker::new(INTERVALS);
        let now = Instant::now();
        breaker.refuse(now, 0.0);
        for round in 1..4 {
            assert_eq!(breaker.admit(now + round * seconds(30), 0.0), Admission::Probe, "{round}");
        }
    }

    #[test]
    fn chance_adds_up_to_a_quarter_within_the_longest_interval() {
        let now = Instant::now();
        let mut breaker = Breaker::new(INTERVALS);
        breaker.refuse(now, 1.0);
        assert_eq!(breaker.probe_in(now), Some(Duration::from_millis(37_500)));
        for _ in 0..10 {
            breaker.refuse(now, 1.0);
        }
        assert_eq!(breaker.probe_in(now), Some(seconds(900)));
    }

    proptest! {
        /// For any sequence of calls: two admitted calls are closer together than the first interval only if the breaker closed
        /// between them, and a held call is told the right time.
        #[test]
        fn at_most_one_probe_per_interval(
            steps in prop::collection::vec((0_u64..40_000, 0.0..1.0, 0_u8..4), 1..200),
        ) {
            let mut breaker = Breaker::new(INTERVALS);
            let mut now = Instant::now();
            let (mut last_call, mut promised) = (None::<Instant>, None::<Instant>);
            for (millis, chance, answer) in steps {
                now += Duration::from_millis(millis);
                match breaker.admit(now, chance) {
                    Admission::Held(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= INTERVALS.longest);
                        promised = Some(now + wait);
                        continue;
                    }
                    Admission::Probe => {
                        let since = now - last_call.expect("a call opened the breaker");
                        prop_assert!(since >= INTERVALS.first, "{since:?}");
                        prop_assert!(promised.is_none_or(|promised| now >= promised));
                    }
                    Admission::Closed => {}
                }
                (last_call, promised) = (Some(now), None);
                match answer {
                    // No answer.
                    0 => {}
                    1 => {
                        breaker.succeed();
                    }
                    _ => {
                        breaker.refuse(now, chance);
                    }
                }
            }
        }
    }
}
