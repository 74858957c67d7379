//! The ordinary tenants of `noisy` and of `waiting`: small objects at a steady rate, and how long each takes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{
    sandbox::SandboxProcess,
    stage::{Parcel, Stage},
};

/// Records of an object.
pub(crate) const RECORDS: u64 = 20;
/// What comes before the measured objects, so that sessions are cached and connections open.
const WARM_UP: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How many there are, and what they send.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ordinary {
    /// Ordinary tenants.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) tenants: u64,
    /// Objects per second of all ordinary tenants together.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) rate: u64,
}

impl Default for Ordinary {
    fn default() -> Self {
        Self { tenants: 20, rate: 60 }
    }
}

impl Ordinary {
    /// How many objects come before the measured ones.
    pub(crate) fn warm_up(&self) -> u64 {
        self.rate * WARM_UP.as_secs()
    }

    /// So many objects, the tenants' in turn. Their numbers begin with 0.
    ///
    /// # Errors
    /// None that can happen to numbers of a run's size.
    pub(crate) fn parcels(&self, count: u64) -> anyhow::Result<Vec<Parcel>> {
        let parcel = |number| {
            let tenant = usize::try_from(number % self.tenants)?;
            parcel(tenant, number / self.tenants, number, RECORDS)
        };
        (0..count).map(parcel).collect()
    }

    /// Publishes the events at a steady rate, and returns when each was, in microseconds since 1970.
    ///
    /// # Errors
    /// One of them cannot be published.
    pub(crate) async fn send(&self, stage: &Arc<Stage>, events: &[String]) -> anyhow::Result<Vec<i64>> {
        let mut publishing = tokio::task::JoinSet::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(self.rate)?);
        let mut sent = Vec::new();
        for event in events {
            ticks.tick().await;
            sent.push(Timestamp::now().as_microsecond());
            let (stage, event) = (Arc::clone(stage), event.clone());
            publishing.spawn(async move { stage.announce(&[event]).await });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        Ok(sent)
    }

    /// Microseconds from event to acceptance, tenant by tenant, of the objects behind the warm-up, which were sent then.
    ///
    /// # Errors
    /// An object has not arrived.
    pub(crate) async fn latencies(&self, stage: &Stage, sent: &[i64]) -> anyhow::Result<Vec<Vec<i64>>> {
        let mut latencies = Vec::new();
        for tenant in 0..self.tenants {
            let arrivals = stage.arrivals(usize::try_from(tenant)?).await?;
            let numbered = (self.warm_up()..).zip(sent).filter(|(number, _)| number % self.tenants == tenant);
            latencies.push(latencies_of(&arrivals, numbered.map(|(number, at)| (number, *at)))?);
        }
        Ok(latencies)
    }
}

/// A small object as Vector writes it.
///
/// # Errors
/// None that can happen to numbers of a run's size.
pub(crate) fn parcel(tenant: usize, turn: u64, number: u64, records: u64) -> anyhow::Result<Parcel> {
    Ok(Parcel { tenant, turn, number, extension: ".gz", body: body(number, records)? })
}

/// Waits until those accounts have so many events.
///
/// # Errors
/// There are more, or none has come for that long.
pub(crate) async fn wait(
    sandbox: &mut SandboxProcess,
    accounts: &[String],
    events: u64,
    stall: Duration,
) -> anyhow::Result<()> {
    let (mut seen, mut news) = (0, Instant::now());
    loop {
        let arrived = sandbox.totals(accounts).await?.iter().map(|totals| totals.events).sum();
        if arrived == events {
            return Ok(());
        }
        ensure!(arrived < events, "{arrived} events instead of {events}");
        if arrived > seen {
            (seen, news) = (arrived, Instant::now());
        }
        ensure!(news.elapsed() < stall, "{arrived} events of {events}, and nothing new for {stall:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Microseconds that each object took, by its number and when its event was. CloudWatch Logs tells a time of acceptance in whole
/// milliseconds, rounded down; half of one is added.
fn latencies_of(
    arrivals: &BTreeMap<String, Vec<i64>>,
    sent: impl Iterator<Item = (u64, i64)>,
) -> anyhow::Result<Vec<i64>> {
    sent.map(|(number, at)| {
        let arrivals = arrivals.get(&first_message(number));
        let first =
            arrivals.and_then(|times| times.iter().min()).with_context(|| format!("object {number}"))?;
        Ok(1000 * first + 500 - at)
    })
    .collect()
}

/// What the first message of every object begins with.
pub(crate) const FIRST_MESSAGE: &str = "first of object ";

/// The first message of the object with that number.
pub(crate) fn first_message(number: u64) -> String {
    format!("{FIRST_MESSAGE}{number}")
}

fn body(number: u64, records: u64) -> anyhow::Result<Bytes> {
    let start = Timestamp::now() - SignedDuration::from_mins(5);
    let records: Vec<_> = (0..records)
        .map(|record| {
            let message = match record {
                0 => first_message(number),
                _ => format!("GET /api/v1/items/{number} 200 record {record} of an ordinary object"),
            };
            let at = start + SignedDuration::from_millis(i64::try_from(record)?);
            Ok(json!({ "application": "app", "kubernetes": { "pod_name": "app" }, "message": message,
                "stream": "stdout", "timestamp": format!("{at:.9}") }))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    serde_json::to_writer(&mut encoder, &records)?;
    Ok(encoder.finish()?.into())
}

/// The least figure that so many per cent of all do not exceed.
pub(crate) fn percentile(figures: &[i64], per_cent: usize) -> i64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Microseconds as milliseconds with one decimal place.
pub(crate) fn milliseconds(microseconds: i64) -> String {
    format!("{:.1}", microseconds as f64 / 1e3)
}

/// What that percentile is beside others' trouble, in units of what it is without.
pub(crate) fn ratio(calm: &[i64], beside: &[i64], per_cent: usize) -> f64 {
    percentile(beside, per_cent) as f64 / percentile(calm, per_cent).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_figures_that_were_measured() {
        let hundred: Vec<i64> = (1..=100).rev().collect();
        for (per_cent, expected) in [(50, 50), (95, 95), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, per_cent), expected);
        }
        assert_eq!((percentile(&[7], 95), percentile(&[], 95)), (7, 0));
    }

    #[test]
    fn a_lost_object_is_no_latency() {
        let arrivals = BTreeMap::from([(first_message(1), vec![17, 15])]);
        assert_eq!(latencies_of(&arrivals, [(1, 10_200)].into_iter()).expect("it arrived"), [5_300]);
        latencies_of(&arrivals, [(2, 10)].into_iter()).expect_err("it did not");
    }
}
