//! `logferry demo`: the whole path, on an AWS that lives in this process, with objects that a real Vector wrote.
//!
//! It sets the provider's and three customers' accounts up, runs the real worker on them as a process of its own, and
//! compares what every account received with what was uploaded, record by record. The worker knows nothing of it.

mod comparison;
mod progress;
mod report;
mod samples;
mod stage;
mod worker;

use std::{
    fmt::Display,
    io::{self, Write},
};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use logferry_testbed::worker::WorkerProcess;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{comparison::compare, stage::Stage};

/// What the demo can be asked for.
#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// Leave everything up after the summary, to look around with the aws command, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Delivers what Vector wrote, and shows what became of every record.
///
/// # Errors
/// Something cannot be set up, the worker fails, or a record is missing, misplaced, altered or there twice.
pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    let stop = stop_on_signals().context("cannot listen for signals")?;
    let stage = Stage::set_up().await.context("cannot set up the demo's AWS")?;
    say(report::accounts(&stage))?;

    let mut worker = worker::start(&stage.worker_environment().await?)?;
    let mut outcome = tokio::select! {
        outcome = deliver_and_compare(&stage, &mut worker) => outcome,
        () = stop.cancelled() => Err(anyhow!("interrupted")),
    };
    if options.keep && outcome.is_ok() {
        say(report::commands(&stage, worker.listening().await?))?;
        outcome = tokio::select! {
            ended = worker.ended() => ended.map_err(Into::into),
            () = stop.cancelled() => Ok(()),
        };
    }
    let drained = worker::stop(&mut worker).await;
    match outcome.and(drained) {
        Ok(took) => {
            say(format!("The worker drained on SIGTERM and exited 0 after {}.", report::seconds(took)))
        }
        Err(error) => {
            if !stop.is_cancelled() {
                eprintln!("{}", worker::last_words(&worker));
            }
            Err(error)
        }
    }
}

/// Uploads, waits until everything has arrived, reads every account, and tells what it finds.
async fn deliver_and_compare(stage: &Stage, worker: &mut WorkerProcess) -> anyhow::Result<()> {
    let address = worker.listening().await?;
    say(report::worker(worker, address))?;

    let uploads = samples::uploads(Timestamp::now())?;
    say(report::uploads(&uploads))?;
    let (mut expected, mut started) = (Vec::new(), Vec::new());
    for upload in &uploads {
        let place = stage.place(upload.tenant()).context("every sample is of a customer")?;
        expected.push((place, upload.records.clone()));
        started.push((upload.tenant(), Timestamp::now()));
        stage.provider.upload(&stage.aws, upload.key, upload.body.clone()).await?;
    }
    let records: usize = expected.iter().map(|(_, records)| records.len()).sum();
    progress::until_delivered(stage, worker, records as u64).await?;

    let received = stage.read_back().await.context("cannot read back what arrived")?;
    say(report::table(stage, &received, &started))?;
    say(report::lines(stage, &received))?;
    let comparison = compare(&expected, &received);
    say(report::verdict(&comparison, uploads.iter().map(|upload| upload.empty).sum()))?;
    if !comparison.faults.is_empty() {
        say(report::faults(&comparison))?;
        bail!("what arrived is not what was uploaded");
    }
    Ok(())
}

/// Cancelled at the first signal that ends a program; so that the worker is not left behind, none ends this one at once.
fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

/// Writes to standard output and an empty line after it; fails, rather than panics, if nobody reads any more.
fn say(text: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}\n").context("cannot write to standard output")
}
