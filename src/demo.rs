//! `logferry demo`: delivers objects that a real Vector wrote, on an AWS that runs in this process.
//!
//! The demo creates the accounts of the provider and of three customers, and runs the real worker as a process of its own.
//! Then it compares, record by record, what every account received with what was uploaded. The worker does not know that it
//! runs in a demo.

mod broken;
mod comparison;
mod progress;
mod report;
mod samples;
mod sights;
mod stage;

use std::{
    env,
    fmt::Display,
    fs,
    io::{self, Write},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use jiff::Timestamp;
use logferry_testbed::worker::WorkerProcess;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{comparison::compare, stage::Stage};
use crate::tell::tell;

/// Longest time from SIGTERM to the end of the worker. An idle worker waits for its open poll, about a second.
const DRAIN: Duration = Duration::from_secs(15);
/// Number of log lines that are shown after a failure.
const LAST_LINES: usize = 20;

/// Arguments of the demo.
#[derive(Debug, clap::Args)]
pub struct DemoOptions {
    /// Keep everything running after the summary, to look around with the aws command, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Break one customer's role and one object, show where an operator sees it, and mend both.
    #[arg(long = "break")]
    broken: bool,
}

/// Delivers Vector's objects, and shows the outcome for every record.
///
/// # Errors
/// Something cannot be set up, the worker fails, or a record is missing, misplaced, altered, out of order or delivered
/// twice.
pub async fn run(options: DemoOptions) -> anyhow::Result<()> {
    let stop = stop_on_signals().context("cannot listen for signals")?;
    let stage = Stage::set_up().await.context("cannot set up the demo's AWS")?;
    say(report::accounts(&stage))?;

    let mut environment = stage.worker_environment().await?;
    if options.broken {
        environment.extend(broken::VARIABLES.map(|(name, value)| (name, value.to_owned())));
    }
    let mut worker = start(&environment)?;
    let mut outcome = tokio::select! {
        outcome = deliver_and_compare(&stage, &mut worker, &options) => outcome,
        () = stop.cancelled() => Err(anyhow!("interrupted")),
    };
    if options.keep && outcome.is_ok() {
        say(report::commands(&stage, worker.listening().await?))?;
        outcome = tokio::select! {
            ended = worker.ended() => ended.map_err(Into::into),
            () = stop.cancelled() => Ok(()),
        };
    }
    let drained = worker.stop(DRAIN).await;
    match outcome.and(drained.map_err(Into::into)) {
        Ok(took) => {
            say(format!("The worker drained on SIGTERM and exited 0 after {}.", report::seconds(took)))
        }
        Err(error) => {
            if !stop.is_cancelled() {
                let log = worker.log().display();
                tell!("The last lines of {log}:\n{}", worker.last_lines(LAST_LINES));
            }
            Err(error)
        }
    }
}

/// Starts this program again as the worker, configured only by its environment, with its log in a new temporary directory. The
/// worker does not get the demo's Ctrl-C: the demo stops it with SIGTERM, as an orchestrator does.
fn start(environment: &[(&'static str, String)]) -> anyhow::Result<WorkerProcess> {
    let directory = env::temp_dir().join(format!("logferry-demo-{:08x}", fastrand::u32(..)));
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    Ok(WorkerProcess::start_apart(&program, environment, directory.join("worker.log"))?)
}

/// Uploads the objects, waits until they are delivered, reads every account and prints the outcome.
async fn deliver_and_compare(
    stage: &Stage,
    worker: &mut WorkerProcess,
    options: &DemoOptions,
) -> anyhow::Result<()> {
    let address = worker.listening().await?;
    say(report::worker(worker, address))?;

    let uploads = samples::uploads(Timestamp::now())?;
    say(report::uploads(&uploads))?;
    if options.broken {
        broken::break_role(stage).await?;
    }
    let (mut expected, mut started) = (Vec::new(), Vec::new());
    for upload in &uploads {
        let group = stage.group(upload.tenant()).context("every sample belongs to a customer")?;
        expected.push((group, upload.records.clone()));
        started.push((upload.tenant(), Timestamp::now()));
        let body = match options.broken {
            true => broken::body(upload),
            false => upload.body.clone(),
        };
        stage.provider.upload(&stage.aws, upload.key, body).await?;
    }
    if options.broken {
        broken::show_and_mend(stage, worker, &uploads).await?;
    }
    let records: usize = expected.iter().map(|(_, records)| records.len()).sum();
    progress::until_delivered(stage, worker, records as u64).await?;
    if options.broken {
        broken::show_clear(stage, worker).await?;
    }
    let received = stage.read_back().await.context("cannot read the delivered events")?;
    say(report::table(stage, &received, &started))?;
    say(report::lines(stage, &received))?;
    let comparison = compare(&expected, &received);
    say(report::verdict(&comparison, uploads.iter().map(|upload| upload.empty).sum()))?;
    if !comparison.faults.is_empty() {
        say(report::faults(&comparison))?;
        bail!("the delivered records differ from the uploaded ones");
    }
    Ok(())
}

/// Cancelled by the first signal that would end the program. Ending at once would leave the worker running.
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

/// Writes the text and an empty line to standard output. Fails instead of panicking if standard output is closed.
fn say(text: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}\n").context("cannot write to standard output")
}
