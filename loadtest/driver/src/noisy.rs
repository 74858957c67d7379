//! What one tenant's trouble does to the others: the time from an object's event to its acceptance, of ordinary tenants that
//! send small objects at a steady rate, without and with a tenant that has a backlog and an account that throttles every put.
//!
//! Both phases are made in turns, each with a worker and a sandbox of its own, so that the machine's moods hit both.

use std::{
    collections::BTreeMap,
    fmt, iter,
    path::PathBuf,
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
    run::Through,
    sandbox::SandboxProcess,
    scale::{Part, results},
    stage::{Parcel, Stage},
    worker::WorkerProcess,
};

/// Records of an object.
const RECORDS: u64 = 20;
/// What comes before the measured objects, so that sessions are cached and connections open.
const WARM_UP: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// By how much the ordinary tenants' p95 may rise.
const ALLOWED: f64 = 1.25;

/// What to measure, and where the table goes.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    load: Load,
    /// The file with the tables.
    #[arg(long, default_value = "loadtest/RESULTS.md")]
    results: PathBuf,
    #[command(flatten)]
    through: Through,
}

/// What is sent.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Ordinary tenants.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) tenants: u64,
    /// Objects per second of all ordinary tenants together.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) rate: u64,
    /// Seconds of a phase.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Objects of the noisy tenant that are in the queue when its phase begins.
    #[arg(long, default_value_t = 1000)]
    pub(crate) backlog: u64,
    /// Messages that the worker takes on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// How often both phases are made.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { tenants: 20, rate: 60, seconds: 30, backlog: 1000, concurrency: 16, rounds: 3 }
    }
}

/// What came of it: milliseconds from event to acceptance, of each object of each ordinary tenant.
#[derive(Debug)]
pub(crate) struct Latencies {
    load: Load,
    calm: Vec<Vec<i64>>,
    noisy: Vec<Vec<i64>>,
}

/// Which phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Calm,
    Noisy,
}

/// Measures, prints the table, writes it, and judges.
///
/// # Errors
/// Something did not arrive, or the p95 with the noisy tenant is [`ALLOWED`] times the one without, or more.
pub(crate) async fn noisy(options: Options) -> anyhow::Result<()> {
    let latencies = measure(&options.load, &options.through).await?;
    let text = format!("{}\n\n{latencies}", results::conditions(1.0));
    eprintln!("{text}");
    results::replace(&options.results, Part::Noisy, &text)?;
    let ratio = latencies.ratio(95);
    ensure!(
        ratio < ALLOWED,
        "the ordinary tenants' p95 rose by the factor {ratio:.2}; {ALLOWED} is too much"
    );
    Ok(())
}

/// Makes both phases in turns.
///
/// # Errors
/// Something did not arrive, or what must not did.
pub(crate) async fn measure(load: &Load, through: &Through) -> anyhow::Result<Latencies> {
    let tenants = usize::try_from(load.tenants)?;
    let mut latencies =
        Latencies { load: load.clone(), calm: vec![Vec::new(); tenants], noisy: vec![Vec::new(); tenants] };
    for round in 1..=load.rounds {
        for phase in [Phase::Calm, Phase::Noisy] {
            let found =
                load.phase(phase, through).await.with_context(|| format!("{phase:?}, round {round}"))?;
            let all: Vec<i64> = found.iter().flatten().copied().collect();
            eprintln!(
                "{phase:?}, round {round}: p50 {} ms, p95 {} ms, p99 {} ms",
                percentile(&all, 50),
                percentile(&all, 95),
                percentile(&all, 99)
            );
            let kept = if phase == Phase::Calm { &mut latencies.calm } else { &mut latencies.noisy };
            iter::zip(kept, found).for_each(|(kept, found)| kept.extend(found));
        }
    }
    Ok(latencies)
}

impl Load {
    /// Makes a phase: the ordinary tenants' latencies, tenant by tenant.
    async fn phase(&self, phase: Phase, through: &Through) -> anyhow::Result<Vec<Vec<i64>>> {
        let mut sandbox = SandboxProcess::start_keeping().await?;
        // The last one is the noisy one.
        let stage = Stage::set_up(sandbox.endpoint(), self.tenants + 1).await?;
        let noisy = usize::try_from(self.tenants)?;
        let (warm_up, measured) = (self.rate * WARM_UP.as_secs(), self.rate * self.seconds);
        let parcel = |number: u64, tenant: usize, turn: u64| {
            anyhow::Ok(Parcel { tenant, turn, number, extension: ".gz", body: body(number)? })
        };
        let ordinary: Vec<Parcel> = (0..warm_up + measured)
            .map(|number| parcel(number, usize::try_from(number % self.tenants)?, number / self.tenants))
            .collect::<anyhow::Result<_>>()?;
        let backlog: Vec<Parcel> = (0..self.backlog)
            .map(|turn| parcel(warm_up + measured + turn, noisy, turn))
            .collect::<anyhow::Result<_>>()?;
        stage.create_streams(&ordinary).await?;
        stage.create_streams(&backlog).await?;
        let mut events = stage.upload(&ordinary).await?;
        let backlog = stage.upload(&backlog).await?;
        let accounts = stage.accounts();
        let (noisy_account, ordinary_accounts) = accounts.split_last().context("there is one")?;
        sandbox.throttle(noisy_account).await?;

        let mut environment = stage.worker_environment(self.concurrency).await?;
        environment.push(stage.ledger());
        let mut worker = WorkerProcess::start(&through.program()?, &environment)?;
        let made = async {
            let measured_events = events.split_off(usize::try_from(warm_up)?);
            self.send(&stage, &events).await?;
            wait(&mut sandbox, ordinary_accounts, warm_up * RECORDS, through.stall()).await?;
            worker.pause().await?;
            if phase == Phase::Noisy {
                stage.announce(&backlog).await?;
            }
            worker.resume().await?;
            let sent = self.send(&stage, &measured_events).await?;
            wait(&mut sandbox, ordinary_accounts, (warm_up + measured) * RECORDS, through.stall()).await?;
            worker.usage()?;
            let refused = sandbox.totals(std::slice::from_ref(noisy_account)).await?;
            ensure!(refused.iter().all(|totals| totals.events == 0), "the throttle does not hold");
            let (waiting, dead) = stage.backlog().await?;
            ensure!(dead == 0, "{dead} dead letters");
            if phase == Phase::Noisy {
                ensure!(waiting >= self.backlog, "of {} of the backlog {waiting} are left", self.backlog);
            }
            let mut latencies = Vec::new();
            for tenant in 0..noisy {
                let arrivals = stage.arrivals(tenant, "first of ").await?;
                let of_tenant =
                    (0..).zip(&sent).filter(|(index, _)| (warm_up + index) % self.tenants == tenant as u64);
                latencies.push(latencies_of(&arrivals, of_tenant.map(|(index, at)| (warm_up + index, *at)))?);
            }
            anyhow::Ok(latencies)
        };
        let latencies = made.await.map_err(|error| worker.explain(error))?;
        worker.stop().await?;
        Ok(latencies)
    }

    /// Publishes the events at a steady rate, and says when each was, in milliseconds since 1970.
    async fn send(&self, stage: &Arc<Stage>, events: &[String]) -> anyhow::Result<Vec<i64>> {
        let mut publishing = tokio::task::JoinSet::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(self.rate)?);
        let mut sent = Vec::new();
        for event in events {
            ticks.tick().await;
            sent.push(Timestamp::now().as_millisecond());
            let (stage, event) = (Arc::clone(stage), event.clone());
            publishing.spawn(async move { stage.announce(&[event]).await });
        }
        while let Some(published) = publishing.join_next().await {
            published??;
        }
        Ok(sent)
    }
}

/// Waits until those accounts have so many events.
async fn wait(
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

/// How long each object took, by its number and when its event was.
fn latencies_of(
    arrivals: &BTreeMap<String, i64>,
    sent: impl Iterator<Item = (u64, i64)>,
) -> anyhow::Result<Vec<i64>> {
    sent.map(|(number, at)| {
        let arrival = arrivals.get(&first_message(number)).with_context(|| format!("object {number}"))?;
        Ok(arrival - at)
    })
    .collect()
}

fn first_message(number: u64) -> String {
    format!("first of object {number}")
}

/// An object as Vector writes it, small.
fn body(number: u64) -> anyhow::Result<Bytes> {
    let start = Timestamp::now() - SignedDuration::from_mins(5);
    let records: Vec<_> = (0..RECORDS)
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
fn percentile(figures: &[i64], per_cent: usize) -> i64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * per_cent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

impl Latencies {
    /// What the noisy tenant makes of the ordinary ones' percentile, all of them together.
    fn ratio(&self, per_cent: usize) -> f64 {
        let all = |tenants: &[Vec<i64>]| tenants.iter().flatten().copied().collect::<Vec<_>>();
        ratio(&all(&self.calm), &all(&self.noisy), per_cent)
    }
}

fn ratio(calm: &[i64], noisy: &[i64], per_cent: usize) -> f64 {
    percentile(noisy, per_cent) as f64 / percentile(calm, per_cent).max(1) as f64
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { tenants, rate, seconds, backlog, concurrency, rounds } = &self.load;
        writeln!(
            f,
            "{tenants} ordinary tenants send {rate} objects a second together, {RECORDS} records each, for {seconds} s; {rounds} \
             times without and {rounds} times with a tenant that has {backlog} objects in the queue and whose account throttles \
             every put; {concurrency} at once. Milliseconds from an object's event to its acceptance. p95 of all of them: **{:.2}** \
             times what it is without the noisy tenant.\n",
            self.ratio(95)
        )?;
        writeln!(
            f,
            "| ordinary tenant | objects | p50 | p95 | p99 | p50 beside the noisy one | p95 | p99 | ratio of p95 |"
        )?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
        let mut row = |name: &str, calm: &[i64], noisy: &[i64]| {
            let figures = |of: &[i64]| [50, 95, 99].map(|p| percentile(of, p).to_string()).join(" | ");
            let ratio = ratio(calm, noisy, 95);
            writeln!(f, "| {name} | {} | {} | {} | {ratio:.2} |", noisy.len(), figures(calm), figures(noisy))
        };
        let all = |tenants: &[Vec<i64>]| tenants.iter().flatten().copied().collect::<Vec<_>>();
        row("all", &all(&self.calm), &all(&self.noisy))?;
        for (number, (calm, noisy)) in iter::zip(&self.calm, &self.noisy).enumerate() {
            row(&format!("tenant-{number}"), calm, noisy)?;
        }
        Ok(())
    }
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
    fn the_ratio_is_of_all_together() {
        let load = Load { tenants: 2, ..Load::default() };
        let calm = vec![vec![10; 100], vec![20; 100]];
        let noisy = vec![vec![10; 100], vec![30; 100]];
        let latencies = Latencies { load, calm, noisy };
        assert!((latencies.ratio(95) - 1.5).abs() < 1e-9 && (latencies.ratio(50) - 1.0).abs() < 1e-9);
        let text = latencies.to_string();
        assert!(text.contains("| all | 200 | 10 | 20 | 20 | 10 | 30 | 30 | 1.50 |"), "{text}");
        assert!(text.contains("| tenant-0 | 100 | 10 | 10 | 10 | 10 | 10 | 10 | 1.00 |"), "{text}");
    }

    #[test]
    fn a_lost_object_is_no_latency() {
        let arrivals = BTreeMap::from([(first_message(1), 15)]);
        assert_eq!(latencies_of(&arrivals, [(1, 10)].into_iter()).expect("it arrived"), [5]);
        latencies_of(&arrivals, [(2, 10)].into_iter()).expect_err("it did not");
    }
}
