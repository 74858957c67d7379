//! Runs the worker as a process: this program again, configured only by its environment.

use std::{env, fs, time::Duration};

use anyhow::Context;
use logferry_testbed::worker::WorkerProcess;

/// Longest time from SIGTERM to the end of the process. An idle worker waits for its open poll, about a second.
const DRAIN: Duration = Duration::from_secs(15);
/// Number of log lines that are shown after a failure.
const LAST_LINES: usize = 20;

/// Starts the worker, with its log in a new temporary directory. The worker does not get the demo's Ctrl-C: the demo stops it
/// with SIGTERM, as an orchestrator does.
pub(super) fn start(environment: &[(&'static str, String)]) -> anyhow::Result<WorkerProcess> {
    let directory = env::temp_dir().join(format!("logferry-demo-{:08x}", fastrand::u32(..)));
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    Ok(WorkerProcess::start_apart(&program, environment, directory.join("worker.log"))?)
}

/// Sends SIGTERM and waits until the worker has drained. Returns how long that took.
///
/// # Errors
/// The worker ended before, did not end in time, or did not exit with 0.
pub(super) async fn stop(worker: &mut WorkerProcess) -> anyhow::Result<Duration> {
    Ok(worker.stop(DRAIN).await?)
}

/// The end of the worker's log.
pub(super) fn last_words(worker: &WorkerProcess) -> String {
    format!("The last lines of {}:\n{}", worker.log().display(), worker.last_lines(LAST_LINES))
}
