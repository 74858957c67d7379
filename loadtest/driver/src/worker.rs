//! The worker as a process of its own, told nothing but its environment.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::process::{Child, Command};

use crate::usage::{self, Usage};

/// How long it may take from SIGTERM to its end. With nothing left to do it waits for one open poll, about a second.
const DRAIN: Duration = Duration::from_secs(60);
/// Lines of its log that are shown when something fails.
const LAST_LINES: usize = 20;
/// What a program needs from the environment to run at all; any real AWS credentials are kept from it.
const INHERITED: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The running worker; dropping it kills it.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    child: Child,
    log: PathBuf,
}

impl WorkerProcess {
    /// Starts `program worker`, with its log in the system's temporary directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(program: &Path, environment: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        let log = env::temp_dir().join(format!("logferry-loadtest-{:016x}.log", fastrand::u64(..)));
        let file = fs::File::create_new(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let inherited = INHERITED.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
        let child = Command::new(program)
            .arg("worker")
            .env_clear()
            .envs(inherited)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// It has ended, which nobody asked for.
    pub(crate) fn usage(&mut self) -> anyhow::Result<Usage> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the worker ended by itself: {status}");
        }
        usage::of_process(self.id()?)
    }

    /// Stops it where it stands, until [`WorkerProcess::resume`]; returns when it stands.
    ///
    /// # Errors
    /// It has ended, or does not stop.
    pub(crate) async fn pause(&mut self) -> anyhow::Result<()> {
        self.signal("STOP").await?;
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
        self.signal("CONT").await
    }

    fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the worker has ended")
    }

    async fn signal(&self, name: &str) -> anyhow::Result<()> {
        // Not yet waited for, so the id is still the worker's. The shell's own kill needs no other program.
        let id = self.id()?.to_string();
        let kill = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &id]).status().await;
        ensure!(kill.context("cannot run sh")?.success(), "cannot send SIG{name} to the worker");
        Ok(())
    }

    /// Says on the standard error what its log ends with, and passes the error on.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        eprintln!("{}", self.last_lines());
        error
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<_> = text.lines().rev().take(LAST_LINES).collect();
        lines.reverse();
        format!("-- the worker's log, {}, ends\n{}\n--", self.log.display(), lines.join("\n"))
    }

    /// Sends SIGTERM, waits until it has drained, and removes its log.
    ///
    /// # Errors
    /// It has ended before, or did not end in time, or not with 0.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.signal("TERM").await?;
        let Ok(status) = tokio::time::timeout(DRAIN, self.child.wait()).await else {
            bail!("the worker did not drain within {DRAIN:?} of SIGTERM");
        };
        let status = status?;
        ensure!(status.success(), "the worker did not exit 0 on SIGTERM: {status}");
        fs::remove_file(&self.log).with_context(|| format!("cannot remove {}", self.log.display()))
    }
}
