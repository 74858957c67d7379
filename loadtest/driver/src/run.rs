//! One run: generates and uploads objects, lets the worker warm up, then measures until every object has arrived.

use std::{
    env, iter,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use logferry_sandbox::Totals;
use logferry_testbed::worker::WorkerProcess;

use crate::{
    generate::{Compression, Framing, Object, Shape, Size},
    https::Https,
    mix,
    observed::Observers,
    plan::{Plan, Shipment},
    report::Report,
    sandbox::{Calls, SandboxProcess},
    stage::{LOOK_AGAIN, Parcel, Stage},
    usage::Usage,
    worker, yardstick,
};

/// Added to [`LOOK_AGAIN`] for each account: reading the totals of many accounts costs CPU time on the measured machine.
const LOOK_AGAIN_PER_ACCOUNT: Duration = Duration::from_micros(50);
/// Defaults of the options without `--mix`.
const OBJECTS: u64 = 20;
const CONCURRENCY: u32 = 8;
/// Number of objects of the mix. They have 0.5 GB of gzip, which the sandbox keeps.
pub(crate) const MIX_OBJECTS: u64 = 20_000;
/// Default of `worker.concurrency`.
const WORKERS_CONCURRENCY: u32 = 16;
/// Bytes in the MB of the options.
const MEGABYTE: f64 = 1e6;
/// Size of the JSON of a warm-up object.
const WARM_PLAIN: usize = 100_000;
/// Warm-up objects per object in flight, so that every connection is open.
const WARM_ROUNDS: u64 = 4;
/// Number of the first warm-up object. It is so large that keys of warm-up objects differ from those of measured ones.
const WARM_NUMBERS: u64 = 1 << 40;

/// Options of `loadtest run`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Send the everyday load: sizes from 1 kB to 20 MB of JSON with a median of 40 kB, 20 applications per tenant, most objects
    /// from few tenants and applications. See loadtest/README.md.
    #[arg(long, conflicts_with_all = ["gzip_mb", "plain_mb", "distinct"])]
    mix: bool,
    /// Number of objects. The sandbox keeps all of them in memory. Default: 20, with --mix 20,000.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    objects: Option<u64>,
    /// Stored size of an object, compressed with gzip by default, in MB of 10^6 bytes.
    #[arg(long, default_value_t = 10.0)]
    gzip_mb: f64,
    /// Size of an object's JSON in MB, instead of --gzip-mb.
    #[arg(long, conflicts_with = "gzip_mb")]
    plain_mb: Option<f64>,
    /// Number of different objects; the others are copies of them under other keys.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    distinct: u64,
    /// Messages that the worker works on at once. Default: 8, with --mix the worker's own default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Run without the ledger.
    #[arg(long)]
    no_ledger: bool,
    /// Number of tenants, each with an account of its own. They get the objects in turn, except with --mix. Default: 1, with
    /// --mix 500.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tenants: Option<u64>,
    /// Arrangement of the records in an object.
    #[arg(long, value_enum, default_value_t)]
    framing: Framing,
    /// Compression of the objects.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    /// Number of gzip members or zstd frames in an object. They may end in the middle of a record.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// Number of pods whose records take turns in an object. The staging bucket's layout has 1, which is the default with --mix;
    /// 200, the default otherwise, give the reference's proportions.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pods: Option<u32>,
    /// Measure from the worker's start, without a warm-up.
    #[arg(long)]
    cold: bool,
    /// Observe the worker: export this fraction of its traces, read its /metrics and keep its status page open.
    #[arg(long, value_name = "FRACTION")]
    observed: Option<f64>,
    /// Let the worker call the sandbox by HTTPS, as it calls AWS.
    #[arg(long)]
    https: bool,
    /// Write the records into a lake of each tenant too.
    #[arg(long, value_enum)]
    lake: Option<LakeFormat>,
    /// Seed of the objects.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    through: Through,
}

/// Options of every command that runs a worker.
#[derive(Clone, Debug, Args)]
pub(crate) struct Through {
    /// Seconds without a new event after which a run fails.
    #[arg(long, default_value_t = 60)]
    stall: u64,
    /// Program of the worker. Default: `logferry` beside this program.
    #[arg(long)]
    worker: Option<PathBuf>,
}

/// What a run sends, and through which worker.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) objects: u64,
    pub(crate) content: Content,
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    pub(crate) tenants: u64,
    /// Messages that the worker works on at once; `None`: the worker's default.
    pub(crate) concurrency: Option<u32>,
    /// Whether the worker has a ledger.
    pub(crate) ledger: bool,
    /// Whether measuring begins with the worker's start instead of after a warm-up.
    pub(crate) cold: bool,
    /// Fraction of the traces that the worker exports while its endpoint is read; `None`: nobody observes the worker.
    pub(crate) observed: Option<f64>,
    /// Whether the worker calls the sandbox by HTTPS.
    pub(crate) https: bool,
    /// Format of the tenants' lakes; `None`: they have none.
    pub(crate) lake: Option<LakeFormat>,
}

/// Format of a lake's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LakeFormat {
    /// gzip.
    Ndjson,
    /// zstd.
    Parquet,
}

impl LakeFormat {
    /// The format as rows name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Parquet => "parquet",
        }
    }
}

/// Sizes of the objects, and how the tenants share them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// Objects of one size for the tenants in turn.
    Alike {
        size: Size,
        /// Number of different bodies.
        distinct: u64,
    },
    /// The everyday load of `mix`.
    Mix,
}

impl Load {
    /// Chooses the objects.
    fn plan(&self) -> anyhow::Result<Plan> {
        match self.content {
            Content::Alike { size, distinct } => Plan::in_turn(self.objects, size, distinct, self.tenants),
            Content::Mix => Ok(mix::plan(self.objects, self.tenants, self.seed)),
        }
    }

    /// The mix, from collectors with one pod per object, for a worker with its default number of messages at once.
    pub(crate) fn mix(objects: u64, tenants: u64) -> Self {
        Self {
            objects,
            content: Content::Mix,
            shape: Shape { pods: 1, ..Shape::default() },
            seed: 1,
            tenants,
            concurrency: None,
            ledger: true,
            cold: false,
            observed: None,
            https: false,
            lake: None,
        }
    }
}

/// Makes a run and prints its table.
///
/// # Errors
/// Other events arrived than were sent, or the run could not be finished.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    measure(&options.load()?, &options.through).await?.print()
}

impl Options {
    fn load(&self) -> anyhow::Result<Load> {
        let bytes = |megabytes: f64| {
            ensure!(
                (0.0..=100_000.0).contains(&megabytes),
                "{megabytes} MB is not a possible size of an object"
            );
            Ok((megabytes * MEGABYTE) as usize)
        };
        let size = match self.plain_mb {
            Some(megabytes) => Size::Plain(bytes(megabytes)?),
            None => Size::Stored(bytes(self.gzip_mb)?),
        };
        let Self { framing, compression, members, seed, .. } = *self;
        ensure!(
            self.observed.is_none_or(|fraction| (0.0..=1.0).contains(&fraction)),
            "--observed must be from 0 to 1"
        );
        ensure!(
            members == 1 || compression != Compression::None,
            "objects without compression have no members"
        );
        let usual = if self.mix {
            Load::mix(MIX_OBJECTS, mix::TENANTS)
        } else {
            Load {
                content: Content::Alike { size, distinct: self.distinct },
                shape: Shape::default(),
                concurrency: Some(CONCURRENCY),
                ..Load::mix(OBJECTS, 1)
            }
        };
        let pods = self.pods.unwrap_or(usual.shape.pods);
        Ok(Load {
            objects: self.objects.unwrap_or(usual.objects),
            shape: Shape { framing, compression, members, pods, ..usual.shape },
            seed,
            tenants: self.tenants.unwrap_or(usual.tenants),
            concurrency: self.concurrency.or(usual.concurrency),
            ledger: !self.no_ledger,
            cold: self.cold,
            observed: self.observed,
            https: self.https,
            lake: self.lake,
            ..usual
        })
    }
}

impl Through {
    /// Path of the worker's program.
    ///
    /// # Errors
    /// The file does not exist.
    pub(crate) fn program(&self) -> anyhow::Result<PathBuf> {
        Self::program_at(self.worker.as_ref())
    }

    /// Longest time without a new event.
    pub(crate) fn stall(&self) -> Duration {
        Duration::from_secs(self.stall)
    }

    /// Path of the worker's program: `given`, or `logferry` beside this program.
    ///
    /// # Errors
    /// The file does not exist.
    pub(crate) fn program_at(given: Option<&PathBuf>) -> anyhow::Result<PathBuf> {
        let program = match given {
            Some(program) => program.clone(),
            None => env::current_exe()?.with_file_name("logferry"),
        };
        ensure!(program.is_file(), "there is no worker at {}", program.display());
        Ok(program)
    }
}

/// Makes a run and returns its figures.
///
/// # Errors
/// Other events arrived than were sent, or the run could not be finished.
pub(crate) async fn measure(load: &Load, through: &Through) -> anyhow::Result<Report> {
    let program = through.program()?;
    let (plan, compression) = (load.plan()?, load.shape.compression);
    let made = plan.generate(load.shape, load.seed).await?;
    let main = Shipment::new(&plan, &made, load.tenants, 0, compression)?;
    let warm_up = match load.cold {
        true => Shipment::empty(load.tenants)?,
        false => {
            let concurrency = load.concurrency.unwrap_or(WORKERS_CONCURRENCY);
            let objects = load.tenants.max(WARM_ROUNDS * u64::from(concurrency));
            let plan = Plan::in_turn(objects, Size::Plain(WARM_PLAIN), 1, load.tenants)?;
            let made = plan.generate(load.shape, !load.seed).await?;
            Shipment::new(&plan, &made, load.tenants, WARM_NUMBERS, compression)?
        }
    };

    let yardstick_before = yardstick(&made, &main.copies, compression).await?;
    let mut sandbox = SandboxProcess::start().await?;
    let stage = Stage::set_up(sandbox.endpoint(), load.tenants).await?;
    let all: Vec<Parcel> = warm_up.parcels.iter().chain(&main.parcels).cloned().collect();
    stage.create_streams(&all).await?;
    if let Some(format) = load.lake {
        stage.create_lakes(format).await?;
    }
    let mut warm_up_events = stage.upload(&all).await?;
    drop(all);
    let events = warm_up_events.split_off(warm_up.parcels.len());

    let mut environment = stage.worker_environment(load.concurrency).await?;
    if load.ledger {
        environment.push(stage.ledger());
    }
    let https = match load.https {
        true => Some(Https::start(sandbox.endpoint()).await?),
        false => None,
    };
    environment.extend(https.iter().flat_map(Https::environment));
    let mut observers = match load.observed {
        Some(fraction) => Some(Observers::start(fraction).await?),
        None => None,
    };
    environment.extend(observers.iter().flat_map(Observers::environment));
    let mut watch =
        Watch { accounts: stage.accounts(), stall: through.stall(), sandbox: &mut sandbox, stage: &stage };
    let mut expected = warm_up.expected;
    let (measured, mut worker) = if load.cold {
        stage.announce(&events).await?;
        expected.clone_from(&main.expected);
        let before = Before { usage: Usage::default(), calls: watch.sandbox.calls().await? };
        let mut worker = worker::start(&program, &environment)?;
        observe(observers.as_mut(), &mut worker).await?;
        (
            watch
                .measure(&mut worker, &expected, before)
                .await
                .map_err(|error| worker::explain(&worker, error))?,
            worker,
        )
    } else {
        let mut worker = worker::start(&program, &environment)?;
        let measured = async {
            observe(observers.as_mut(), &mut worker).await?;
            stage.announce(&warm_up_events).await?;
            watch.wait(&mut worker, &expected).await.context("in the warm-up")?;
            // The worker is paused while the messages are sent, so that it finds all of them in the queue, as in a backlog.
            worker::pause(&worker).await?;
            stage.announce(&events).await?;
            for (expected, more) in expected.iter_mut().zip(&main.expected) {
                *expected += *more;
            }
            let before = Before { usage: worker::usage(&mut worker)?, calls: watch.sandbox.calls().await? };
            worker.signal("CONT")?;
            watch.measure(&mut worker, &expected, before).await
        };
        (measured.await.map_err(|error| worker::explain(&worker, error))?, worker)
    };
    worker::stop(&mut worker).await?;
    if let Some(observers) = observers {
        observers.check()?;
    }
    // The check is repeated after the worker's end, because no further event may have arrived.
    watch.check(&expected).await?;

    let yardstick_after = yardstick(&made, &main.copies, compression).await?;
    let sum = |of: fn(&Object) -> u64| {
        iter::zip(&made, &main.copies).map(|((object, _), count)| of(object) * count).sum()
    };
    let (events, message_bytes) = (sum(|object| object.totals.events), sum(|object| object.totals.bytes));
    Ok(Report {
        load: load.clone(),
        streams: plan.streams(),
        records: sum(|object| object.records),
        events,
        message_bytes,
        stored_bytes: sum(|object| object.stored),
        plain_bytes: sum(|object| object.plain),
        wall: measured.wall,
        cpu: measured.cpu,
        peak_rss: measured.peak_rss,
        calls: measured.calls,
        // The mean of before and after, because the speed of a shared machine changes.
        yardstick: yardstick_before.zip(yardstick_after).map(|(before, after)| (before + after) / 2),
    })
}

async fn observe(observers: Option<&mut Observers>, worker: &mut WorkerProcess) -> anyhow::Result<()> {
    match observers {
        Some(observers) => observers.watch(worker).await,
        None => Ok(()),
    }
}

/// CPU time of decompressing all objects; `None` if they are not compressed.
async fn yardstick(
    made: &[(Object, Bytes)],
    copies: &[u64],
    compression: Compression,
) -> anyhow::Result<Option<Duration>> {
    let inputs: Vec<(Bytes, u64)> =
        iter::zip(made, copies).map(|((_, body), count)| (body.clone(), *count)).collect();
    let measured = tokio::task::spawn_blocking(move || {
        let inputs: Vec<(&[u8], u64)> = inputs.iter().map(|(body, count)| (&body[..], *count)).collect();
        yardstick::decompress(&inputs, compression)
    });
    measured.await?
}

/// Figures at the beginning of the measurement.
struct Before {
    usage: Usage,
    calls: Calls,
}

/// Figures of the measurement.
struct Measured {
    wall: Duration,
    cpu: Duration,
    peak_rss: u64,
    calls: Calls,
}

/// Watches the accounts and the queue.
struct Watch<'a> {
    accounts: Vec<String>,
    stall: Duration,
    sandbox: &'a mut SandboxProcess,
    stage: &'a Arc<Stage>,
}

impl Watch<'_> {
    async fn measure(
        &mut self,
        worker: &mut WorkerProcess,
        expected: &[Totals],
        before: Before,
    ) -> anyhow::Result<Measured> {
        let wall = self.wait(worker, expected).await?;
        let Usage { cpu, peak_rss } = worker::usage(worker)?;
        let mut calls = self.sandbox.calls().await?;
        for (name, count) in before.calls {
            *calls.entry(name).or_default() -= count;
        }
        // The instrument itself makes most of these calls.
        calls.remove("sqs:GetQueueAttributes");
        calls.retain(|_, count| *count > 0);
        Ok(Measured { wall, cpu: cpu.saturating_sub(before.usage.cpu), peak_rss, calls })
    }

    /// Waits until every account has its expected events and every message is acknowledged. Returns the time until the
    /// last event arrived.
    async fn wait(&mut self, worker: &mut WorkerProcess, expected: &[Totals]) -> anyhow::Result<Duration> {
        let look_again = LOOK_AGAIN + LOOK_AGAIN_PER_ACCOUNT * u32::try_from(self.accounts.len())?;
        let complete: u64 = expected.iter().map(|totals| totals.events).sum();
        let started = Instant::now();
        let (mut seen, mut news) = (0, started);
        let wall = loop {
            tokio::time::sleep(look_again).await;
            worker::usage(worker)?;
            let arrived = self.sandbox.totals(&self.accounts).await?;
            let state = check(&self.accounts, &arrived, expected);
            if state.is_ok() {
                break started.elapsed();
            }
            let events = arrived.iter().map(|totals| totals.events).sum();
            if events > complete {
                return Err(state.expect_err("the check failed").context("too many events arrived"));
            }
            if events > seen {
                (seen, news) = (events, Instant::now());
            }
            if news.elapsed() > self.stall {
                state.context(format!("no new event for {:?}", self.stall))?;
            }
        };
        // The CPU time of the acknowledgements counts too, so the measurement waits for them.
        self.stage.acknowledged(self.stall).await?;
        Ok(wall)
    }

    async fn check(&mut self, expected: &[Totals]) -> anyhow::Result<()> {
        check(&self.accounts, &self.sandbox.totals(&self.accounts).await?, expected)
    }
}

/// Compares what arrived with what was expected, except for the number of puts, which the worker may choose.
fn check(accounts: &[String], arrived: &[Totals], expected: &[Totals]) -> anyhow::Result<()> {
    for ((account, arrived), expected) in accounts.iter().zip(arrived).zip(expected) {
        let expected = Totals { puts: arrived.puts, ..*expected };
        if *arrived != expected {
            bail!("account {account} has\n  {arrived:?}, and should have\n  {expected:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_account_fails_the_run() {
        let accounts = ["1".to_owned(), "2".to_owned()];
        let mut one = Totals::default();
        one.add_event(1, "a");
        let with_puts = Totals { puts: 3, ..one };
        check(&accounts, &[with_puts, one], &[one, one]).expect("the number of puts is free");
        let mut other = Totals::default();
        other.add_event(2, "a");
        check(&accounts, &[one, other], &[one, one]).expect_err("another hash");
        check(&accounts, &[one, Totals::default()], &[one, one]).expect_err("too few");
    }
}
