//! Rates that a service or the worker itself allows, and how much of them is asked for.

use crate::clock::{SECOND, Time, in_seconds};

/// A token bucket: on average `rate` units per second, and up to `burst` units at once.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Time,
}

impl Bucket {
    /// A full bucket. With an infinite rate, the bucket refuses nothing.
    pub(crate) fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst, tokens: burst, filled: 0 }
    }

    /// Takes `units`, or returns false if the bucket has fewer.
    pub(crate) fn take(&mut self, units: f64, now: Time) -> bool {
        if self.rate.is_infinite() {
            return true;
        }
        self.tokens = (self.tokens + self.rate * in_seconds(now - self.filled)).min(self.burst);
        self.filled = now;
        let enough = self.tokens >= units;
        if enough {
            self.tokens -= units;
        }
        enough
    }
}

/// The worker's own limit of its calls to one account (`Pace` in src/budget.rs): one call per interval, with a burst.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    done: Time,
}

impl Pace {
    /// Takes the next turn. Returns the time until that turn.
    pub(crate) fn take(&mut self, interval: Time, burst: Time, now: Time) -> Time {
        let start = self.done.max(now);
        self.done = start + interval;
        (start - now).saturating_sub(burst)
    }
}

/// Counts what is asked of a limit in one phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meter {
    second: Time,
    in_second: f64,
    /// Most units that were asked for in one second.
    pub(crate) peak: f64,
    /// Units that were asked for.
    pub(crate) asked: f64,
    /// Calls that were refused.
    pub(crate) refused: u64,
}

impl Meter {
    pub(crate) fn ask(&mut self, units: f64, now: Time) {
        let second = now / SECOND;
        if second != self.second {
            (self.second, self.in_second) = (second, 0.0);
        }
        self.in_second += units;
        self.peak = self.peak.max(self.in_second);
        self.asked += units;
    }

    /// Adds what was asked for in the next phase.
    pub(crate) fn add(&mut self, next: &Self) {
        self.peak = self.peak.max(next.peak);
        self.asked += next.asked;
        self.refused += next.refused;
    }

    /// Records a level, such as the number of messages in flight.
    pub(crate) fn level(&mut self, level: f64) {
        self.peak = self.peak.max(level);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(50.0, 20.0);
        // 100 calls a second for 10 s: the burst, and 50 a second.
        let allowed = (0..1000).filter(|turn| bucket.take(1.0, turn * 10 * MILLISECOND)).count();
        assert!((519..=521).contains(&allowed), "{allowed}");
        // Below the rate nothing is refused.
        assert!((0..400).all(|turn| bucket.take(1.0, 20 * SECOND + turn * 25 * MILLISECOND)));
        // After a long pause, the bucket has no more than the burst.
        let allowed = (0..100).filter(|_| bucket.take(1.0, 1000 * SECOND)).count();
        assert_eq!(allowed, 20);
        assert!(Bucket::new(f64::INFINITY, 0.0).take(1e9, 0));
        let mut halves = Bucket::new(10.0, 10.0);
        assert_eq!((0..30).filter(|_| halves.take(0.5, 0)).count(), 20, "units may be fractions");
    }

    #[test]
    fn a_pace_spreads_calls() {
        let (mut pace, interval, burst) = (Pace::default(), SECOND / 50, SECOND / 10);
        let waits: Vec<Time> = (0..9).map(|_| pace.take(interval, burst, SECOND) / MILLISECOND).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 20, 40, 60], "the burst is a tenth of a second");
        assert_eq!(pace.take(interval, burst, 10 * SECOND), 0);
    }

    #[test]
    fn a_meter_finds_the_busiest_second() {
        let mut meter = Meter::default();
        for (at, units) in [(0, 1.0), (SECOND - 1, 2.0), (SECOND, 2.0), (5 * SECOND, 0.5)] {
            meter.ask(units, at);
        }
        assert_eq!((meter.peak, meter.asked), (3.0, 5.5));
    }
}
