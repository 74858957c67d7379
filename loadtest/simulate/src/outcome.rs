//! What a simulation finds out.

use crate::{
    clock::{Time, in_seconds},
    limit::Meter,
};

/// Steps per factor of two of a histogram: each is 4.4 % wide.
const STEPS: f64 = 16.0;

/// Lengths of time, by logarithmic classes.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: f64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; 64 * STEPS as usize], total: 0, sum: 0.0 }
    }

    pub(crate) fn add(&mut self, time: Time) {
        self.counts[((time.max(1) as f64).log2() * STEPS) as usize] += 1;
        self.total += 1;
        self.sum += in_seconds(time);
    }

    fn add_all(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.total += other.total;
        self.sum += other.sum;
    }

    #[cfg(test)]
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Mean in seconds.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.total.max(1) as f64
    }

    /// The percentile in seconds: the middle of its class.
    pub(crate) fn percentile(&self, per_cent: u64) -> f64 {
        let rank = (self.total * per_cent).div_ceil(100);
        let mut below = 0;
        for (class, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank.max(1) {
                return ((class as f64 + 0.5) / STEPS).exp2() / 1e9;
            }
        }
        0.0
    }
}

/// Something that can become scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scarce {
    Workers,
    /// Slots of all workers together.
    Slots,
    S3Puts,
    S3Gets,
    SnsPublishes,
    InFlight,
    LedgerWrites,
    TenantReads,
    AssumeRoles,
    /// PutLogEvents into the largest tenant's account.
    Puts,
    /// CreateLogStream in the largest tenant's account.
    StreamCreations,
}

impl Scarce {
    pub(crate) const ALL: [Self; 11] = [
        Self::Workers,
        Self::Slots,
        Self::S3Puts,
        Self::S3Gets,
        Self::SnsPublishes,
        Self::InFlight,
        Self::LedgerWrites,
        Self::TenantReads,
        Self::AssumeRoles,
        Self::Puts,
        Self::StreamCreations,
    ];

    /// Who refuses when there is too little.
    pub(crate) fn refuser(self) -> &'static str {
        match self {
            Self::Workers => "KEDA",
            Self::Slots => "workers",
            Self::S3Puts => "PutObject",
            Self::S3Gets => "GetObject",
            Self::SnsPublishes => "SNS",
            Self::InFlight => "SQS",
            Self::LedgerWrites => "ledger",
            Self::TenantReads => "table of tenants",
            Self::AssumeRoles => "AssumeRole",
            Self::Puts => "PutLogEvents",
            Self::StreamCreations => "CreateLogStream",
        }
    }
}

/// What happened in one phase.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Length in seconds.
    pub(crate) seconds: f64,
    /// Objects that the collectors closed.
    pub(crate) written: u64,
    /// Time from the moment at which an object was closed until CloudWatch Logs had all of it, of the objects that ended in the
    /// phase.
    pub(crate) latency: Histogram,
    /// The same of the largest tenant's objects.
    pub(crate) latency_of_largest: Histogram,
    /// Time in a slot.
    pub(crate) slot_time: Histogram,
    /// Messages that wait or are in flight at the phase's end, and in the delays of retries.
    pub(crate) left: usize,
    pub(crate) most_replicas: usize,
    pub(crate) least_replicas: usize,
    /// Messages that went back to the queue because an object failed.
    pub(crate) retried: u64,
    /// Messages that went back because their tenant's share of a worker was used up.
    pub(crate) deferred: u64,
    pub(crate) meters: Vec<Meter>,
}

impl Outcome {
    pub(crate) fn new() -> Self {
        Self {
            seconds: 0.0,
            written: 0,
            latency: Histogram::new(),
            latency_of_largest: Histogram::new(),
            slot_time: Histogram::new(),
            left: 0,
            most_replicas: 0,
            least_replicas: usize::MAX,
            retried: 0,
            deferred: 0,
            meters: vec![Meter::default(); Scarce::ALL.len()],
        }
    }

    /// Adds the outcome of the next phase.
    pub(crate) fn add(&mut self, next: &Self) {
        self.seconds += next.seconds;
        self.written += next.written;
        self.latency.add_all(&next.latency);
        self.latency_of_largest.add_all(&next.latency_of_largest);
        self.slot_time.add_all(&next.slot_time);
        self.left = next.left;
        self.most_replicas = self.most_replicas.max(next.most_replicas);
        self.least_replicas = self.least_replicas.min(next.least_replicas);
        self.retried += next.retried;
        self.deferred += next.deferred;
        for (meter, next) in self.meters.iter_mut().zip(&next.meters) {
            meter.add(next);
        }
    }

    pub(crate) fn meter(&self, scarce: Scarce) -> &Meter {
        &self.meters[scarce as usize]
    }

    pub(crate) fn ask(&mut self, scarce: Scarce) -> &mut Meter {
        &mut self.meters[scarce as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn percentiles_are_within_the_width_of_a_class() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|time| histogram.add(time * MILLISECOND));
        for (per_cent, expected) in [(50, 0.5), (95, 0.95), (99, 0.99)] {
            let found = histogram.percentile(per_cent);
            assert!((found / expected - 1.0).abs() < 0.04, "{found} instead of {expected}");
        }
        assert!((histogram.mean() - 0.5005).abs() < 1e-9);
        assert_eq!(histogram.total(), 1000);
    }

    #[test]
    fn each_scarce_thing_has_its_meter() {
        assert!(Scarce::ALL.iter().enumerate().all(|(index, scarce)| *scarce as usize == index));
    }
}
