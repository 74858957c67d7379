//! Compares the latencies of ordinary tenants in two kinds of phases: alone, and beside something else.

use std::{fmt, iter};

use crate::ordinary::{milliseconds, percentile, ratio};

/// Microseconds from event to acceptance of each object, by ordinary tenant.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// What the tenants had beside them, for the table: "the noisy tenant".
    beside_what: &'static str,
    calm: Vec<Vec<i64>>,
    beside: Vec<Vec<i64>>,
}

/// Which phases the latencies are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The ordinary tenants are alone.
    Calm,
    /// Something else runs beside them.
    Beside,
}

impl Comparison {
    pub(crate) fn new(beside_what: &'static str, tenants: usize) -> Self {
        Self { beside_what, calm: vec![Vec::new(); tenants], beside: vec![Vec::new(); tenants] }
    }

    /// Adds the latencies of a phase, and prints their percentiles.
    pub(crate) fn add(&mut self, phase: Phase, round: u32, found: Vec<Vec<i64>>) {
        let [p50, p95, p99] = [50, 95, 99].map(|p| milliseconds(percentile(&all(&found), p)));
        eprintln!("{phase:?}, round {round}: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms");
        let kept = if phase == Phase::Calm { &mut self.calm } else { &mut self.beside };
        iter::zip(kept, found).for_each(|(kept, found)| kept.extend(found));
    }

    /// Percentile over all tenants with the other thing beside them, divided by the same percentile without it.
    pub(crate) fn ratio(&self, per_cent: usize) -> f64 {
        ratio(&all(&self.calm), &all(&self.beside), per_cent)
    }
}

fn all(tenants: &[Vec<i64>]) -> Vec<i64> {
    tenants.iter().flatten().copied().collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.beside_what;
        writeln!(
            f,
            "| ordinary tenant | objects | p50 | p95 | p99 | p50 with {what} | p95 | p99 | ratio of p95 |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let mut row = |name: &str, calm: &[i64], beside: &[i64]| {
            let figures = |of: &[i64]| [50, 95, 99].map(|p| milliseconds(percentile(of, p))).join(" | ");
            let ratio = ratio(calm, beside, 95);
            writeln!(
                f,
                "| {name} | {} | {} | {} | {ratio:.2} |",
                beside.len(),
                figures(calm),
                figures(beside)
            )
        };
        row("all", &all(&self.calm), &all(&self.beside))?;
        for (number, (calm, beside)) in iter::zip(&self.calm, &self.beside).enumerate() {
            row(&format!("tenant-{number}"), calm, beside)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_over_all_ordinary_tenants() {
        let mut comparison = Comparison::new("the noisy tenant", 2);
        comparison.add(Phase::Calm, 1, vec![vec![10_000; 100], vec![20_000; 100]]);
        comparison.add(Phase::Beside, 1, vec![vec![10_000; 60], vec![30_000; 100]]);
        comparison.add(Phase::Beside, 2, vec![vec![10_000; 40], Vec::new()]);
        assert!((comparison.ratio(95) - 1.5).abs() < 1e-9 && (comparison.ratio(50) - 1.0).abs() < 1e-9);
        let text = comparison.to_string();
        assert!(text.contains("| p50 with the noisy tenant |"), "{text}");
        assert!(text.contains("| all | 200 | 10.0 | 20.0 | 20.0 | 10.0 | 30.0 | 30.0 | 1.50 |"), "{text}");
        assert!(
            text.contains("| tenant-0 | 100 | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 10.0 | 1.00 |"),
            "{text}"
        );
    }
}
