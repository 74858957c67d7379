//! One run: generate, upload, then start the worker, wait until everything has arrived, and measure.

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::Totals;

use crate::{
    generate::{self, Object, Shape, Size},
    report::Report,
    sandbox::{Calls, SandboxProcess},
    stage::Stage,
    worker::WorkerProcess,
    yardstick,
};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
const MEGABYTE: f64 = 1e6;

/// What to send, and through which worker.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Objects in all. The sandbox keeps every one in memory.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    objects: u64,
    /// Size of an object's gzip in MB (10^6 bytes).
    #[arg(long, default_value_t = 10.0)]
    gzip_mb: f64,
    /// Size of an object's JSON in MB, instead of --gzip-mb.
    #[arg(long, conflicts_with = "gzip_mb")]
    plain_mb: Option<f64>,
    /// Different objects; the others are copies of them under other keys.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    distinct: u64,
    /// Messages that the worker takes on at once.
    #[arg(long, default_value_t = 8)]
    concurrency: u32,
    /// Tenants, each with an account of its own; the objects are theirs in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tenants: u64,
    /// What the objects are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds without a new event after which the run has failed.
    #[arg(long, default_value_t = 60)]
    stall: u64,
    /// The worker's program. Default: `logferry` beside this program.
    #[arg(long)]
    worker: Option<PathBuf>,
}

/// What the worker did to everything that was there when it started.
struct Measured {
    wall: Duration,
    usage: crate::usage::Usage,
    calls: Calls,
}

/// Runs it all and prints the table.
///
/// # Errors
/// What arrived is not what was sent, or the run could not be done.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let program = match &options.worker {
        Some(program) => program.clone(),
        None => env::current_exe()?.with_file_name("logferry"),
    };
    ensure!(program.is_file(), "there is no worker at {}", program.display());

    let mut sandbox = SandboxProcess::start().await?;
    let stage = Stage::set_up(sandbox.endpoint(), options.tenants).await?;
    let objects = tokio::task::spawn_blocking({
        let (size, distinct, seed) = (options.size()?, options.distinct.min(options.objects), options.seed);
        move || generated(size, distinct, seed)
    })
    .await??;

    // Object `number` goes to the tenants in turn; what each is to receive adds up on the way.
    let accounts = stage.accounts();
    let mut expected = vec![Totals::default(); accounts.len()];
    let mut copies: Vec<(&(Object, Bytes), u64)> = objects.iter().map(|object| (object, 0)).collect();
    for number in 0..options.objects {
        // The tenants must not each get the same object over and over: the turn moves it on.
        let turn = number / options.tenants;
        let chosen = usize::try_from((number + turn) % objects.len() as u64)?;
        let ((object, gzip), count) = &mut copies[chosen];
        *count += 1;
        expected[usize::try_from(number % options.tenants)?] += object.totals;
        stage.upload(number, gzip.clone()).await?;
    }

    let environment = stage.worker_environment(options.concurrency).await?;
    let mut worker = WorkerProcess::start(&program, environment)?;
    let stall = Duration::from_secs(options.stall);
    let measured = measure(&mut sandbox, &stage, &mut worker, &accounts, &expected, stall).await;
    let measured = measured.inspect_err(|_| eprintln!("{}", worker.last_lines()))?;
    worker.stop().await?;
    // Once more, after the end: nothing may have come on top.
    let arrived = sandbox.totals(&accounts).await?;
    check(&accounts, &arrived, &expected)?;

    let inputs: Vec<(Bytes, u64)> = copies.iter().map(|((_, gzip), count)| (gzip.clone(), *count)).collect();
    let inflate = tokio::task::spawn_blocking(move || {
        let inputs: Vec<(&[u8], u64)> = inputs.iter().map(|(gzip, count)| (&gzip[..], *count)).collect();
        yardstick::inflate(&inputs)
    })
    .await??;
    let sum = |of: fn(&Object) -> u64| copies.iter().map(|((object, _), count)| of(object) * count).sum();
    let report = Report {
        objects: options.objects,
        tenants: options.tenants,
        concurrency: options.concurrency,
        records: sum(|object| object.records),
        events: arrived.iter().map(|totals| totals.events).sum(),
        message_bytes: arrived.iter().map(|totals| totals.bytes).sum(),
        gzip_bytes: sum(|object| object.gzip_len),
        plain_bytes: sum(|object| object.plain),
        wall: measured.wall,
        usage: measured.usage,
        calls: measured.calls,
        inflate,
    };
    report.print()
}

impl Options {
    fn size(&self) -> anyhow::Result<Size> {
        let bytes = |megabytes: f64| {
            ensure!((0.0..=100_000.0).contains(&megabytes), "{megabytes} MB is no size of an object");
            Ok((megabytes * MEGABYTE) as usize)
        };
        Ok(match self.plain_mb {
            Some(megabytes) => Size::Plain(bytes(megabytes)?),
            None => Size::Gzip(bytes(self.gzip_mb)?),
        })
    }
}

/// Makes the different objects. They begin half an hour ago: CloudWatch Logs takes what is up to two hours ahead, and a
/// gigabyte covers about a quarter of an hour.
fn generated(size: Size, distinct: u64, seed: u64) -> anyhow::Result<Vec<(Object, Bytes)>> {
    let start = Timestamp::now() - SignedDuration::from_mins(30);
    let made = (0..distinct).map(|number| {
        let (object, gzip) = generate::object(seed.wrapping_add(number), size, &Shape::default(), start)?;
        Ok((object, gzip.into()))
    });
    made.collect()
}

/// Waits until every account has what it is to receive and every message is acknowledged.
async fn measure(
    sandbox: &mut SandboxProcess,
    stage: &Stage,
    worker: &mut WorkerProcess,
    accounts: &[String],
    expected: &[Totals],
    stall: Duration,
) -> anyhow::Result<Measured> {
    let before = sandbox.calls().await?;
    let started = Instant::now();
    let (mut seen, mut news) = (0, started);
    let wall = loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        worker.usage()?;
        let arrived = sandbox.totals(accounts).await?;
        if check(accounts, &arrived, expected).is_ok() {
            break started.elapsed();
        }
        let events = arrived.iter().map(|totals| totals.events).sum();
        let complete = |totals: &[Totals]| totals.iter().map(|totals| totals.events).sum::<u64>();
        if events > complete(expected) {
            check(accounts, &arrived, expected)?;
        }
        if events > seen {
            (seen, news) = (events, Instant::now());
        }
        if news.elapsed() > stall {
            check(accounts, &arrived, expected).context(format!("nothing new for {stall:?}"))?;
        }
    };
    // The acknowledgements are part of the work.
    let ended = Instant::now();
    loop {
        let (waiting, dead) = stage.backlog().await?;
        ensure!(dead == 0, "{dead} dead letters");
        if waiting == 0 {
            break;
        }
        ensure!(ended.elapsed() < stall, "{waiting} messages are not acknowledged");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let usage = worker.usage()?;
    let mut calls = sandbox.calls().await?;
    for (name, count) in before {
        *calls.entry(name).or_default() -= count;
    }
    // That was us, just now.
    calls.remove("sqs:GetQueueAttributes");
    calls.retain(|_, count| *count > 0);
    Ok(Measured { wall, usage, calls })
}

/// Holds what arrived against what is expected, all but the number of puts, which is the worker's own affair.
fn check(accounts: &[String], arrived: &[Totals], expected: &[Totals]) -> anyhow::Result<()> {
    for ((account, arrived), expected) in accounts.iter().zip(arrived).zip(expected) {
        let expected = Totals { puts: arrived.puts, ..*expected };
        if *arrived != expected {
            bail!("account {account} has\n  {arrived:?}, not\n  {expected:?}");
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
