//! Random numbers of the distributions that the model needs. Everything follows from one seed.

use crate::clock::{Time, seconds};

/// A source of random numbers.
#[derive(Debug)]
pub(crate) struct Chance(fastrand::Rng);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Uniform from 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// Uniform from 0 to `n` - 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0.usize(0..n)
    }

    /// Time to the next event of a Poisson process with this rate per second.
    pub(crate) fn interval(&mut self, rate: f64) -> Time {
        seconds(-(1.0 - self.0.f64()).ln() / rate)
    }

    /// Log-normal with this median; `spread` is the standard deviation of the logarithm.
    pub(crate) fn around(&mut self, median: Time, spread: f64) -> Time {
        if spread == 0.0 {
            return median;
        }
        (median as f64 * (spread * self.normal()).exp()) as Time
    }

    /// Standard normal, by the sum of four uniform numbers: the tails end at 3.5, which is enough for latencies.
    fn normal(&mut self) -> f64 {
        let sum: f64 = (0..4).map(|_| self.0.f64()).sum();
        (sum - 2.0) * 3.0_f64.sqrt()
    }
}

/// Quantile of the standard normal distribution: the inverse of its distribution function at `p`, by bisection.
pub(crate) fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-9.0, 9.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if normal_distribution(middle) < p {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Distribution function of the standard normal distribution. Its error is below 1e-7. Source: Abramowitz and Stegun,
/// Handbook of Mathematical Functions, 26.2.17.
pub(crate) fn normal_distribution(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    let polynomial = terms.iter().rev().fold(0.0, |sum, term| (sum + term) * t);
    let tail = polynomial * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Chooses an index with a probability proportional to its weight, in constant time (Walker's alias method).
#[derive(Clone, Debug)]
pub(crate) struct Weighted {
    /// For each column: the probability of the column's own index, and the index that is chosen otherwise.
    columns: Vec<(f64, u32)>,
}

impl Weighted {
    pub(crate) fn new(weights: &[f64]) -> Self {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let mut columns: Vec<(f64, u32)> =
            (0..).zip(weights).map(|(index, weight)| (weight / mean, index)).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..columns.len()).partition(|index| columns[*index].0 < 1.0);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            columns[poor].1 = rich as u32;
            columns[rich].0 -= 1.0 - columns[poor].0;
            if columns[rich].0 < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns }
    }

    pub(crate) fn choose(&self, chance: &mut Chance) -> usize {
        let own = chance.below(self.columns.len());
        let (probability, other) = self.columns[own];
        if chance.fraction() < probability { own } else { other as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::in_seconds;

    const DRAWS: usize = 200_000;

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found / expected - 1.0).abs() < tolerance, "{found} instead of {expected}");
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, expected) in [(0.5, 0.0), (0.84134, 1.0), (0.99, 2.32635), (0.025, -1.95996)] {
            let found = normal_quantile(p);
            assert!((found - expected).abs() < 1e-4, "{p}: {found} instead of {expected}");
        }
    }

    #[test]
    fn intervals_have_the_mean_and_the_variance_of_a_poisson_process() {
        let mut chance = Chance::new(1);
        let drawn: Vec<f64> = (0..DRAWS).map(|_| in_seconds(chance.interval(50.0))).collect();
        let mean = drawn.iter().sum::<f64>() / DRAWS as f64;
        near(mean, 1.0 / 50.0, 0.01);
        near(drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / DRAWS as f64, 1.0 / 2500.0, 0.03);
    }

    #[test]
    fn latencies_have_the_median_and_the_mean_of_a_log_normal_distribution() {
        let mut chance = Chance::new(1);
        let mut drawn: Vec<Time> = (0..DRAWS).map(|_| chance.around(1_000_000, 0.5)).collect();
        drawn.sort_unstable();
        near(drawn[DRAWS / 2] as f64, 1e6, 0.01);
        near(drawn.iter().sum::<Time>() as f64 / DRAWS as f64, 1e6 * (0.5_f64.powi(2) / 2.0).exp(), 0.01);
        near(drawn[DRAWS * 95 / 100] as f64, 1e6 * (0.5 * 1.645_f64).exp(), 0.02);
        assert_eq!(chance.around(7, 0.0), 7);
    }

    #[test]
    fn indices_are_chosen_by_their_weights() {
        let mut chance = Chance::new(1);
        let weights = [1.0, 0.0, 5.0, 2.0, 2.0];
        let weighted = Weighted::new(&weights);
        let mut counts = [0.0; 5];
        (0..DRAWS).for_each(|_| counts[weighted.choose(&mut chance)] += 1.0);
        for (count, weight) in counts.iter().zip(weights) {
            assert!((count / DRAWS as f64 - weight / 10.0).abs() < 0.005, "{counts:?}");
        }
    }
}
