//! The worker as a process of its own, told nothing but its environment.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
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
        usage::of_process(self.child.id().context("the worker has ended")?)
    }

    /// The last lines of its log.
    pub(crate) fn last_lines(&self) -> String {
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
        let id = self.child.id().context("the worker has ended already")?;
        // Not yet waited for, so the id is still the worker's. The shell's own kill needs no other program.
        let kill = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()]).status().await;
        ensure!(kill.context("cannot run sh")?.success(), "cannot send SIGTERM to the worker");
        let Ok(status) = tokio::time::timeout(DRAIN, self.child.wait()).await else {
            bail!("the worker did not drain within {DRAIN:?} of SIGTERM");
        };
        let status = status?;
        ensure!(status.success(), "the worker did not exit 0 on SIGTERM: {status}");
        fs::remove_file(&self.log).with_context(|| format!("cannot remove {}", self.log.display()))
    }
}
