//! Starts, pauses and stops a worker process, and measures its costs.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use logferry_testbed::worker::WorkerProcess;

use crate::usage::{self, Usage};

/// Longest time from SIGTERM to the worker's end. A worker without work only waits for its open poll, about a second.
const DRAIN: Duration = Duration::from_secs(60);
/// Lines of the log that are shown when something fails.
const LAST_LINES: usize = 20;

/// Starts `program worker`, with its log in the system's temporary directory.
///
/// # Errors
/// The worker cannot be started.
pub(crate) fn start(program: &Path, environment: &[(&'static str, String)]) -> anyhow::Result<WorkerProcess> {
    let log = env::temp_dir().join(format!("logferry-loadtest-{:016x}.log", fastrand::u64(..)));
    Ok(WorkerProcess::start(program, environment, log)?)
}

/// CPU time and memory of the worker so far.
///
/// # Errors
/// The worker ended by itself.
pub(crate) fn usage(worker: &mut WorkerProcess) -> anyhow::Result<Usage> {
    worker.check_runs()?;
    usage::of_process(id(worker)?)
}

/// Stops the worker with SIGSTOP, until SIGCONT. Returns when it has stopped.
///
/// # Errors
/// The worker has ended, or does not stop.
pub(crate) async fn pause(worker: &WorkerProcess) -> anyhow::Result<()> {
    worker.signal("STOP")?;
    let (id, asked) = (id(worker)?, Instant::now());
    while !usage::is_stopped(id)? {
        ensure!(asked.elapsed() < DRAIN, "the worker did not stop within {DRAIN:?} of SIGSTOP");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Sends SIGTERM, waits until the worker has drained, and removes its log.
///
/// # Errors
/// The worker had ended before, did not end in time, or exited with another status than 0.
pub(crate) async fn stop(worker: &mut WorkerProcess) -> anyhow::Result<()> {
    worker.stop(DRAIN).await?;
    remove_log(worker)
}

/// Sends SIGKILL, waits for the end, and removes the log.
///
/// # Errors
/// The worker had ended before.
pub(crate) async fn kill(mut worker: WorkerProcess) -> anyhow::Result<()> {
    worker.kill().await?;
    remove_log(&worker)
}

/// Prints the last lines of the worker's log to standard error, and returns the error.
pub(crate) fn explain(worker: &WorkerProcess, error: anyhow::Error) -> anyhow::Error {
    let (log, lines) = (worker.log().display(), worker.last_lines(LAST_LINES));
    eprintln!("-- the last lines of the worker's log, {log}\n{lines}\n--");
    error
}

fn remove_log(worker: &WorkerProcess) -> anyhow::Result<()> {
    let log = worker.log();
    fs::remove_file(log).with_context(|| format!("cannot remove {}", log.display()))
}

fn id(worker: &WorkerProcess) -> anyhow::Result<u32> {
    worker.id().context("the worker has ended")
}
