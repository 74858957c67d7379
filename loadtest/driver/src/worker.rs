//! The worker as a process of its own, and what it costs.

use std::{
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use logferry_testbed::worker;

use crate::usage::{self, Usage};

/// How long it may take from SIGTERM to its end. With nothing left to do it waits for one open poll, about a second.
const DRAIN: Duration = Duration::from_secs(60);
/// Lines of its log that are shown when something fails.
const LAST_LINES: usize = 20;

/// The running worker; dropping it kills it.
#[derive(Debug)]
pub(crate) struct WorkerProcess(worker::WorkerProcess);

impl WorkerProcess {
    /// Starts `program worker`, with its log in the system's temporary directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(program: &Path, environment: &[(&'static str, String)]) -> anyhow::Result<Self> {
        let log = env::temp_dir().join(format!("logferry-loadtest-{:016x}.log", fastrand::u64(..)));
        Ok(Self(worker::WorkerProcess::start(program, environment, log)?))
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// It has ended, which nobody asked for.
    pub(crate) fn usage(&mut self) -> anyhow::Result<Usage> {
        self.0.check_runs()?;
        usage::of_process(self.id()?)
    }

    /// Stops it where it stands, until [`WorkerProcess::resume`]; returns when it stands.
    ///
    /// # Errors
    /// It has ended, or does not stop.
    pub(crate) async fn pause(&mut self) -> anyhow::Result<()> {
        self.0.signal("STOP")?;
        let (id, asked) = (self.id()?, Instant::now());
        while !usage::is_stopped(id)? {
            ensure!(asked.elapsed() < DRAIN, "the worker did not stop within {DRAIN:?} of SIGSTOP");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) async fn resume(&mut self) -> anyhow::Result<()> {
        Ok(self.0.signal("CONT")?)
    }

    /// Sends SIGKILL, waits for the end, and removes its log.
    ///
    /// # Errors
    /// It has ended before.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill().await?;
        self.remove_log()
    }

    fn remove_log(&self) -> anyhow::Result<()> {
        let log = self.0.log();
        fs::remove_file(log).with_context(|| format!("cannot remove {}", log.display()))
    }

    fn id(&self) -> anyhow::Result<u32> {
        self.0.id().context("the worker has ended")
    }

    /// Says on the standard error what its log ends with, and passes the error on.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let (log, lines) = (self.0.log().display(), self.0.last_lines(LAST_LINES));
        eprintln!("-- the worker's log, {log}, ends\n{lines}\n--");
        error
    }

    /// Sends SIGTERM, waits until it has drained, and removes its log.
    ///
    /// # Errors
    /// It has ended before, or did not end in time, or not with 0.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.0.stop(DRAIN).await?;
        self.remove_log()
    }
}
