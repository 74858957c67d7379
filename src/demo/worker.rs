//! The worker as a process of its own: this same program, told nothing but its environment.

use std::{env, fs, time::Duration};

use anyhow::Context;
use logferry_testbed::worker::WorkerProcess;

/// How long it may take from SIGTERM to its end. With nothing left to do it waits for one open poll, about a second.
const DRAIN: Duration = Duration::from_secs(15);
/// Lines of its log that are shown when something fails.
const LAST_LINES: usize = 20;

/// Starts it, with its log in a new directory of the system's temporary one. Ctrl-C is for the demo alone, which then stops
/// the worker as an orchestrator would.
pub(super) fn start(environment: &[(&'static str, String)]) -> anyhow::Result<WorkerProcess> {
    let directory = env::temp_dir().join(format!("logferry-demo-{:08x}", fastrand::u32(..)));
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let program = env::current_exe().context("cannot find this program's own file")?;
    Ok(WorkerProcess::start_apart(&program, environment, directory.join("worker.log"))?)
}

/// Sends SIGTERM and waits until it has drained; says how long that took.
///
/// # Errors
/// It has ended before, or did not end in time, or not with 0.
pub(super) async fn stop(worker: &mut WorkerProcess) -> anyhow::Result<Duration> {
    Ok(worker.stop(DRAIN).await?)
}

/// What its log ends with.
pub(super) fn last_words(worker: &WorkerProcess) -> String {
    format!("The last lines of {}:\n{}", worker.log().display(), worker.last_lines(LAST_LINES))
}
