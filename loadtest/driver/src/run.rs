//! One run: generates and uploads objects, lets the worker warm up, then measures until every object has arrived.

use std::{
    env, iter,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::Totals;
use logferry_testbed::worker::WorkerProcess;

use crate::{
    generate::{self, Compression, Framing, Object, Shape, Size},
    observed::Observers,
    report::Report,
    sandbox::{Calls, SandboxProcess},
    stage::{LOOK_AGAIN, Parcel, Stage},
    usage::Usage,
    worker, yardstick,
};

/// Added to [`LOOK_AGAIN`] for each account: reading the totals of many accounts costs CPU time on the measured machine.
const LOOK_AGAIN_PER_ACCOUNT: Duration = Duration::from_micros(50);
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
    /// Number of objects. The sandbox keeps all of them in memory.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    objects: u64,
    /// Stored size of an object, compressed with gzip by default, in MB of 10^6 bytes.
    #[arg(long, default_value_t = 10.0)]
    gzip_mb: f64,
    /// Size of an object's JSON in MB, instead of --gzip-mb.
    #[arg(long, conflicts_with = "gzip_mb")]
    plain_mb: Option<f64>,
    /// Number of different objects; the others are copies of them under other keys.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    distinct: u64,
    /// Messages that the worker works on at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// Run without the ledger.
    #[arg(long)]
    no_ledger: bool,
    /// Number of tenants, each with an account of its own. They get the objects in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tenants: u64,
    /// Arrangement of the records in an object.
    #[arg(long, value_enum, default_value_t)]
    framing: Framing,
    /// Compression of the objects.
    #[arg(long, value_enum, default_value_t)]
    compression: Compression,
    /// Number of gzip members or zstd frames in an object. They may end in the middle of a record.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    members: u32,
    /// Number of pods whose records take turns in an object. The staging bucket's layout has 1; 200 give the
    /// reference's proportions.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pods: u32,
    /// Measure from the worker's start, without a warm-up.
    #[arg(long)]
    cold: bool,
    /// Observe the worker: export this fraction of its traces, read its /metrics and keep its status page open.
    #[arg(long, value_name = "FRACTION")]
    observed: Option<f64>,
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
    pub(crate) size: Size,
    /// Number of different objects.
    pub(crate) distinct: u64,
    pub(crate) shape: Shape,
    pub(crate) seed: u64,
    /// Number of tenants, which get the objects in turn.
    pub(crate) tenants: u64,
    /// Messages that the worker works on at once.
    pub(crate) concurrency: u32,
    /// Whether the worker has a ledger.
    pub(crate) ledger: bool,
    /// Whether measuring begins with the worker's start instead of after a warm-up.
    pub(crate) cold: bool,
    /// Fraction of the traces that the worker exports while its endpoint is read; `None`: nobody observes the worker.
    pub(crate) observed: Option<f64>,
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
        let Self { framing, compression, members, pods, .. } = *self;
        ensure!(
            self.observed.is_none_or(|fraction| (0.0..=1.0).contains(&fraction)),
            "--observed must be from 0 to 1"
        );
        ensure!(
            members == 1 || compression != Compression::None,
            "objects without compression have no members"
        );
        Ok(Load {
            objects: self.objects,
            size,
            distinct: self.distinct,
            shape: Shape { framing, compression, members, pods, ..Shape::default() },
            seed: self.seed,
            tenants: self.tenants,
            concurrency: self.concurrency,
            ledger: !self.no_ledger,
            cold: self.cold,
            observed: self.observed,
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

/// Objects for the tenants in turn, and the totals that must arrive.
#[derive(Default)]
struct Plan {
    parcels: Vec<Parcel>,
    /// Totals that each tenant should receive.
    expected: Vec<Totals>,
    /// Number of copies of each different object.
    copies: Vec<u64>,
}

impl Plan {
    fn new(
        made: &[(Object, Bytes)],
        objects: u64,
        tenants: u64,
        first_number: u64,
        compression: Compression,
    ) -> anyhow::Result<Self> {
        let extension = match compression {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            Compression::None => "",
        };
        let mut plan = Self {
            parcels: Vec::new(),
            expected: vec![Totals::default(); usize::try_from(tenants)?],
            copies: vec![0; made.len()],
        };
        for number in 0..objects {
            let (tenant, turn) = (usize::try_from(number % tenants)?, number / tenants);
            // Without the turn, a tenant could get the same object every time.
            let chosen = usize::try_from((number + turn) % made.len() as u64)?;
            let (object, body) = &made[chosen];
            plan.copies[chosen] += 1;
            plan.expected[tenant] += object.totals;
            let (number, body) = (first_number + number, body.clone());
            plan.parcels.push(Parcel { tenant, turn, number, extension, body });
        }
        Ok(plan)
    }
}

/// Makes a run and returns its figures.
///
/// # Errors
/// Other events arrived than were sent, or the run could not be finished.
pub(crate) async fn measure(load: &Load, through: &Through) -> anyhow::Result<Report> {
    let program = through.program()?;
    let made = generated(load).await?;
    let plan = Plan::new(&made, load.objects, load.tenants, 0, load.shape.compression)?;
    let warm_up = match load.cold {
        true => Plan { expected: vec![Totals::default(); plan.expected.len()], ..Plan::default() },
        false => {
            let size = Size::Plain(WARM_PLAIN);
            let one = generated(&Load { size, distinct: 1, seed: !load.seed, ..load.clone() }).await?;
            let objects = load.tenants.max(WARM_ROUNDS * u64::from(load.concurrency));
            Plan::new(&one, objects, load.tenants, WARM_NUMBERS, load.shape.compression)?
        }
    };

    let yardstick_before = yardstick(&made, &plan.copies, load.shape.compression).await?;
    let mut sandbox = SandboxProcess::start().await?;
    let stage = Stage::set_up(sandbox.endpoint(), load.tenants).await?;
    let all: Vec<Parcel> = warm_up.parcels.iter().chain(&plan.parcels).cloned().collect();
    stage.create_streams(&all).await?;
    let mut warm_up_events = stage.upload(&all).await?;
    drop(all);
    let events = warm_up_events.split_off(warm_up.parcels.len());

    let mut environment = stage.worker_environment(load.concurrency).await?;
    if load.ledger {
        environment.push(stage.ledger());
    }
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
        expected.clone_from(&plan.expected);
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
            for (expected, more) in expected.iter_mut().zip(&plan.expected) {
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

    let yardstick_after = yardstick(&made, &plan.copies, load.shape.compression).await?;
    let sum = |of: fn(&Object) -> u64| {
        iter::zip(&made, &plan.copies).map(|((object, _), count)| of(object) * count).sum()
    };
    let (events, message_bytes) = (sum(|object| object.totals.events), sum(|object| object.totals.bytes));
    Ok(Report {
        load: load.clone(),
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

/// Generates the different objects, as many at once as there are processors. Their first records are half an hour old, and a
/// gigabyte covers about a quarter of an hour, so CloudWatch Logs, which accepts two hours ahead, refuses none as too new.
async fn generated(load: &Load) -> anyhow::Result<Vec<(Object, Bytes)>> {
    let start = Timestamp::now() - SignedDuration::from_mins(30);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Load { size, shape, seed, .. } = *load;
    crate::parallel::for_each(processors, 0..load.distinct.min(load.objects), |number| async move {
        let make = move || generate::object(seed.wrapping_add(number), size, &shape, start);
        let (object, bytes) = tokio::task::spawn_blocking(make).await??;
        Ok((object, Bytes::from(bytes)))
    })
    .await
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

    #[test]
    fn the_tenants_get_the_objects_in_turn() {
        let made: Vec<_> = (1..=3_u64)
            .map(|events| {
                let totals = Totals { events, ..Totals::default() };
                let body = Bytes::from(vec![b'x'; usize::try_from(events).expect("few")]);
                (Object { stored: events, plain: events, records: events, totals }, body)
            })
            .collect();
        let plan = Plan::new(&made, 8, 3, 100, Compression::Zstd).expect("the number is small");
        let tenants: Vec<_> = plan.parcels.iter().map(|parcel| parcel.tenant).collect();
        assert_eq!(tenants, [0, 1, 2, 0, 1, 2, 0, 1]);
        // Three objects and three tenants: without the turn each tenant would get the same object every time.
        let sizes: Vec<_> = plan.parcels.iter().map(|parcel| parcel.body.len()).collect();
        assert_eq!(sizes, [1, 2, 3, 2, 3, 1, 3, 1]);
        let events: Vec<_> = plan.expected.iter().map(|totals| totals.events).collect();
        assert_eq!(events, [6, 6, 4]);
        assert_eq!(plan.copies, [3, 2, 3]);
        assert!(plan.parcels.iter().zip(100..).all(|(parcel, number)| parcel.number == number));
        assert_eq!((plan.parcels[7].turn, plan.parcels[7].extension), (2, ".zst"));
    }
}
