//! Measures one worker, so that loadtest/simulate can be compared with it: processor time by size of object, and the
//! throughput and latency of one point.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    ordinary::{self, Ordinary, json as json_of, parcel, percentile},
    run::Through,
    sandbox::SandboxProcess,
    scale::results,
    stage::{Parcel, Stage},
    usage, worker,
};

/// Messages that the worker works on at once: the default of `worker.concurrency`.
const CONCURRENCY: u32 = 16;
/// Objects before a measurement: connections open, and the session is cached.
const WARM_UP: u64 = 100;
/// `delivery.put_rate`: the default. The measurement has one account, so this rate bounds the throughput of small objects.
const PUT_RATE: u32 = 800;
const ROUNDS: usize = 3;
/// Seconds at a steady rate in each round.
const SECONDS: u64 = 8;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Options of `loadtest point`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// File for the figures. `loadtest/run simulate point` reads it.
    #[arg(long, default_value = "loadtest/simulate/point.json")]
    file: PathBuf,
    /// Events per second while latencies are measured.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rate: u64,
    #[command(flatten)]
    through: Through,
}

/// A number of objects of one size.
#[derive(Clone, Copy)]
struct Load {
    objects: u64,
    /// Records of an object, about 185 bytes of JSON each.
    records: u64,
}

/// The sizes from which the simulation's processor times come, and the size of the point, which lies between.
const SMALL: Load = Load { objects: 4000, records: 20 };
const LARGE: Load = Load { objects: 500, records: 4000 };
const POINT: Load = Load { objects: 2000, records: 420 };

/// Measures, and writes the file.
///
/// # Errors
/// Not every event arrived, or the file cannot be written.
pub(crate) async fn point(options: Options) -> anyhow::Result<()> {
    let Options { file, rate, through } = options;
    let measured = json!({
        "conditions": results::conditions(1.0),
        "cores": std::thread::available_parallelism()?,
        "concurrency": CONCURRENCY,
        "put_rate": PUT_RATE,
        "costs": [SMALL.backlogs(&through).await?, LARGE.backlogs(&through).await?],
        "point": POINT.backlogs(&through).await?,
        "rate": rate,
        "latency_of_small": SMALL.latency(rate, &through).await?,
        "latency": POINT.latency(rate, &through).await?,
    });
    let text = serde_json::to_string_pretty(&measured)? + "\n";
    eprint!("{text}");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// What emptying a full queue took. Times are milliseconds for each object.
#[derive(Clone, Copy)]
struct Backlog {
    objects_per_second: f64,
    worker_cpu: f64,
    sandbox_cpu: f64,
    publish_cpu: f64,
}

impl Load {
    fn parcels(self, count: u64) -> anyhow::Result<Vec<Parcel>> {
        (0..count).map(|number| parcel(0, number, number, self.records)).collect()
    }

    /// Empties a full queue several times. The figures are medians.
    async fn backlogs(self, through: &Through) -> anyhow::Result<Value> {
        let mut backlogs = Vec::new();
        for _ in 0..ROUNDS {
            let emptied = self.backlog(through).await;
            backlogs.push(emptied.with_context(|| format!("{} records", self.records))?);
        }
        let median = |of: fn(&Backlog) -> f64| {
            let mut figures: Vec<f64> = backlogs.iter().map(of).collect();
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        };
        Ok(json!({
            "json_bytes": json_of(0, self.records)?.len(),
            "objects": self.objects,
            "objects_per_second": median(|backlog| backlog.objects_per_second),
            "worker_cpu_ms": median(|backlog| backlog.worker_cpu),
            "sandbox_cpu_ms": median(|backlog| backlog.sandbox_cpu),
            "publish_cpu_ms": median(|backlog| backlog.publish_cpu),
        }))
    }

    /// Latencies at a steady rate, of several rounds together.
    async fn latency(self, rate: u64, through: &Through) -> anyhow::Result<Value> {
        let mut latencies = Vec::new();
        for _ in 0..ROUNDS {
            let measured = self.steadily(rate, through).await;
            latencies.extend(measured.with_context(|| format!("{} records", self.records))?);
        }
        let milliseconds = |per_cent| percentile(&latencies, per_cent) as f64 / 1e3;
        Ok(json!({ "objects": latencies.len(), "p50_ms": milliseconds(50), "p95_ms": milliseconds(95) }))
    }

    /// Lets the worker empty a full queue.
    async fn backlog(self, through: &Through) -> anyhow::Result<Backlog> {
        let mut sandbox = SandboxProcess::start_keeping().await?;
        let stage = Stage::set_up(sandbox.endpoint(), 1).await?;
        let parcels = self.parcels(WARM_UP + self.objects)?;
        stage.create_streams(&parcels).await?;
        let mut warm_up = stage.upload(&parcels).await?;
        let events = warm_up.split_off(usize::try_from(WARM_UP)?);
        let accounts = stage.accounts();
        let environment = environment(&stage).await?;
        let mut worker = worker::start(&through.program()?, &environment)?;
        let made = async {
            stage.announce(&warm_up).await?;
            ordinary::wait(&mut sandbox, &accounts, WARM_UP * self.records, through.stall()).await?;
            empty(&stage, through.stall()).await?;
            worker::pause(&worker).await?;
            let instrument = || usage::of_process(std::process::id());
            let before = sandbox.usage()?.cpu + instrument()?.cpu;
            stage.announce(&events).await?;
            let publish = (sandbox.usage()?.cpu + instrument()?.cpu).saturating_sub(before);
            let (worker_before, sandbox_before) = (worker::usage(&mut worker)?.cpu, sandbox.usage()?.cpu);
            worker.signal("CONT")?;
            let begun = Instant::now();
            empty(&stage, through.stall()).await?;
            let wall = begun.elapsed();
            let worker_cpu = worker::usage(&mut worker)?.cpu.saturating_sub(worker_before);
            let sandbox_cpu = sandbox.usage()?.cpu.saturating_sub(sandbox_before);
            let arrived = sandbox.totals(&accounts).await?.iter().map(|totals| totals.events).sum::<u64>();
            let sent = (WARM_UP + self.objects) * self.records;
            ensure!(arrived == sent, "{arrived} events instead of {sent}");
            let each = |time: Duration| time.as_secs_f64() * 1e3 / self.objects as f64;
            Ok(Backlog {
                objects_per_second: self.objects as f64 / wall.as_secs_f64(),
                worker_cpu: each(worker_cpu),
                sandbox_cpu: each(sandbox_cpu),
                publish_cpu: each(publish),
            })
        };
        let measured = made.await.map_err(|error| worker::explain(&worker, error))?;
        worker::stop(&mut worker).await?;
        Ok(measured)
    }

    /// Publishes events at a steady rate. Returns the microseconds from each event to its acceptance.
    async fn steadily(self, rate: u64, through: &Through) -> anyhow::Result<Vec<i64>> {
        let mut sandbox = SandboxProcess::start_keeping().await?;
        let stage = Stage::set_up(sandbox.endpoint(), 1).await?;
        let ordinary = Ordinary { tenants: 1, rate };
        let measured = rate * SECONDS;
        let parcels = self.parcels(ordinary.warm_up() + measured)?;
        stage.create_streams(&parcels).await?;
        let mut warm_up = stage.upload(&parcels).await?;
        let events = warm_up.split_off(usize::try_from(ordinary.warm_up())?);
        let environment = environment(&stage).await?;
        let mut worker = worker::start(&through.program()?, &environment)?;
        let made = async {
            let accounts = stage.accounts();
            ordinary.send(&stage, &warm_up).await?;
            let expected = ordinary.warm_up() * self.records;
            ordinary::wait(&mut sandbox, &accounts, expected, through.stall()).await?;
            let sent = ordinary.send(&stage, &events).await?;
            let expected = expected + measured * self.records;
            ordinary::wait(&mut sandbox, &accounts, expected, through.stall()).await?;
            Ok(ordinary.latencies(&stage, &sent).await?.concat())
        };
        let latencies = made.await.map_err(|error| worker::explain(&worker, error))?;
        worker::stop(&mut worker).await?;
        Ok(latencies)
    }
}

/// Environment of the worker, which has a ledger.
async fn environment(stage: &Stage) -> anyhow::Result<Vec<(&'static str, String)>> {
    let mut environment = stage.worker_environment(CONCURRENCY).await?;
    environment.push(stage.ledger());
    environment.push(("LOGFERRY_DELIVERY__PUT_RATE", PUT_RATE.to_string()));
    Ok(environment)
}

/// Waits until every message is acknowledged.
async fn empty(stage: &Stage, stall: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let (waiting, dead) = stage.backlog().await?;
        ensure!(dead == 0, "{dead} dead letters");
        if waiting == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < stall, "{waiting} messages are not acknowledged");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
