//! The ordinary tenants of `noisy`, `waiting` and `replay`: they send small objects at a steady rate, and the latency of each
//! object is measured.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    run::Through,
    sandbox::SandboxProcess,
    stage::{self, Parcel, Stage},
};

/// Records per object.
pub(crate) const RECORDS: u64 = 20;
/// Duration of the warm-up, in which sessions are cached and connections opened.
const WARM_UP: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Options of the commands that write one section of the file with the tables.
#[derive(Debug, Args)]
pub(crate) struct Options<L: Args> {
    #[command(flatten)]
    pub(crate) load: L,
    /// File with the tables.
    #[arg(long, default_value = "loadtest/RESULTS.md")]
    pub(crate) results: PathBuf,
    #[command(flatten)]
    pub(crate) through: Through,
}

/// Number and rate of the ordinary tenants.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ordinary {
    /// Number of ordinary tenants.
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
    /// Number of objects in the warm-up.
    pub(crate) fn warm_up(&self) -> u64 {
        self.rate * WARM_UP.as_secs()
    }

    /// Generates `count` objects, with numbers from 0, for the tenants in turn.
    ///
    /// # Errors
    /// A number is too large for its type, which does not happen in a run.
    pub(crate) fn parcels(&self, count: u64) -> anyhow::Result<Vec<Parcel>> {
        let parcel = |number| {
            let tenant = usize::try_from(number % self.tenants)?;
            parcel(tenant, number / self.tenants, number, RECORDS)
        };
        (0..count).map(parcel).collect()
    }

    /// Publishes the events at a steady rate. Returns the time of each, in microseconds since 1970.
    ///
    /// # Errors
    /// An event cannot be published.
    pub(crate) async fn send(&self, stage: &Arc<Stage>, events: &[String]) -> anyhow::Result<Vec<i64>> {
        let between = Duration::from_secs(1) / u32::try_from(self.rate)?;
        publish(stage, events, (0..).map(|number| between * number)).await
    }

    /// Latencies by tenant, in microseconds from event to acceptance, of the objects after the warm-up. `sent` has the
    /// times of their events.
    ///
    /// # Errors
    /// An object has not arrived.
    pub(crate) async fn latencies(&self, stage: &Stage, sent: &[i64]) -> anyhow::Result<Vec<Vec<i64>>> {
        let tenants = usize::try_from(self.tenants)?;
        let sent = (self.warm_up()..).zip(sent).map(|(number, at)| {
            let tenant = usize::try_from(number % self.tenants).expect("there are fewer tenants than memory");
            Sent { tenant, number, at: *at }
        });
        latencies(stage, tenants, sent, None).await
    }
}

/// One object's event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) tenant: usize,
    /// Number in the object's mark.
    pub(crate) number: u64,
    /// Time of the event, in microseconds since 1970.
    pub(crate) at: i64,
}

/// Publishes each event at its moment, counted from now, whether or not earlier ones have arrived. Returns the time of each, in
/// microseconds since 1970.
///
/// # Errors
/// An event cannot be published.
pub(crate) async fn publish(
    stage: &Arc<Stage>,
    events: &[String],
    moments: impl Iterator<Item = Duration>,
) -> anyhow::Result<Vec<i64>> {
    let mut publishing = tokio::task::JoinSet::new();
    let begun = tokio::time::Instant::now();
    let mut sent = Vec::new();
    for (event, moment) in events.iter().zip(moments) {
        tokio::time::sleep_until(begun + moment).await;
        sent.push(Timestamp::now().as_microsecond());
        let (stage, event) = (Arc::clone(stage), event.clone());
        publishing.spawn(async move { stage.announce(&[event]).await });
    }
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    Ok(sent)
}

/// Latencies by tenant, in microseconds from event to acceptance. With `until`, the marks are not newer than that.
///
/// # Errors
/// An object has not arrived.
pub(crate) async fn latencies(
    stage: &Stage,
    tenants: usize,
    sent: impl Iterator<Item = Sent>,
    until: Option<Timestamp>,
) -> anyhow::Result<Vec<Vec<i64>>> {
    let mut by_tenant = vec![Vec::new(); tenants];
    sent.for_each(|Sent { tenant, number, at }| by_tenant[tenant].push((number, at)));
    let mut latencies = Vec::new();
    for (tenant, sent) in by_tenant.into_iter().enumerate() {
        let arrivals = match sent.is_empty() {
            true => BTreeMap::new(),
            false => stage.arrivals(tenant, until).await?,
        };
        latencies.push(latencies_of(&arrivals, sent.into_iter())?);
    }
    Ok(latencies)
}

/// Generates a small object in Vector's format.
///
/// # Errors
/// A number is too large for its type, which does not happen in a run.
pub(crate) fn parcel(tenant: usize, turn: u64, number: u64, records: u64) -> anyhow::Result<Parcel> {
    let (pod, body) = (stage::pod(turn), body(number, records)?);
    Ok(Parcel { tenant, application: 0, pod, number, extension: ".gz", body })
}

/// Waits until the accounts together have `events` events.
///
/// # Errors
/// There are more events, or no new one came for `stall`.
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
        ensure!(news.elapsed() < stall, "{arrived} of {events} events arrived, and no new one for {stall:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Latencies of the objects in microseconds, from the numbers and event times in `sent`. CloudWatch Logs reports the
/// time of acceptance in whole milliseconds, rounded down, so half a millisecond is added.
fn latencies_of(
    arrivals: &BTreeMap<String, Vec<i64>>,
    sent: impl Iterator<Item = (u64, i64)>,
) -> anyhow::Result<Vec<i64>> {
    sent.map(|(number, at)| {
        let arrivals = arrivals.get(&mark(number));
        let first = arrivals
            .and_then(|times| times.iter().min())
            .with_context(|| format!("object {number} did not arrive"))?;
        Ok(1000 * first + 500 - at)
    })
    .collect()
}

/// Beginning of every mark: the one message of each object by which its arrival is found. Here it is the object's first message.
pub(crate) const MARK: &str = "mark of object ";

/// Mark of the object with this number.
pub(crate) fn mark(number: u64) -> String {
    format!("{MARK}{number}")
}

fn body(number: u64, records: u64) -> anyhow::Result<Bytes> {
    Ok(gzip(&json(number, records)?)?.into())
}

/// Compresses with gzip.
///
/// # Errors
/// Only the encoder's errors, which do not happen because it writes to memory.
pub(crate) fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// A record in Vector's format.
pub(crate) fn record(message: &str, at: Timestamp) -> Value {
    json!({
        "application": "app", "kubernetes": { "pod_name": "app" }, "message": message, "stream": "stdout",
        "timestamp": format!("{at:.9}"),
    })
}

/// The JSON of an object.
///
/// # Errors
/// A number is too large for its type, which does not happen in a run.
pub(crate) fn json(number: u64, records: u64) -> anyhow::Result<Vec<u8>> {
    let start = Timestamp::now() - SignedDuration::from_mins(5);
    let records: Vec<_> = (0..records)
        .map(|place| {
            let message = match place {
                0 => mark(number),
                _ => format!("GET /api/v1/items/{number} 200 record {place} of an ordinary object"),
            };
            Ok(record(&message, start + SignedDuration::from_millis(i64::try_from(place)?)))
        })
        .collect::<anyhow::Result<_>>()?;
    Ok(serde_json::to_vec(&records)?)
}

/// Smallest of the figures that is at least as large as this percentage of all figures.
pub(crate) fn percentile(figures: &[i64], per_cent: usize) -> i64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// Formats microseconds as milliseconds with one decimal place.
pub(crate) fn milliseconds(microseconds: i64) -> String {
    format!("{:.1}", microseconds as f64 / 1e3)
}

/// Percentile of `beside`, divided by the same percentile of `calm`.
pub(crate) fn ratio(calm: &[i64], beside: &[i64], per_cent: usize) -> f64 {
    percentile(beside, per_cent) as f64 / percentile(calm, per_cent).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_figures() {
        let hundred: Vec<i64> = (1..=100).rev().collect();
        for (per_cent, expected) in [(50, 50), (95, 95), (99, 99), (100, 100)] {
            assert_eq!(percentile(&hundred, per_cent), expected);
        }
        assert_eq!((percentile(&[7], 95), percentile(&[], 95)), (7, 0));
    }

    #[test]
    fn a_lost_object_is_an_error() {
        let arrivals = BTreeMap::from([(mark(1), vec![17, 15])]);
        assert_eq!(latencies_of(&arrivals, [(1, 10_200)].into_iter()).expect("the object arrived"), [5_300]);
        latencies_of(&arrivals, [(2, 10)].into_iter()).expect_err("the object did not arrive");
    }
}
