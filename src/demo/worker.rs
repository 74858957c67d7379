//! The worker as a process of its own: this same program, told nothing but its environment.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::{Child, Command};

/// How long the worker may take until it listens.
const START: Duration = Duration::from_secs(30);
/// How long it may take from SIGTERM to its end. With nothing left to do it waits for one open poll, about a second.
const DRAIN: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines of its log that are shown when something fails.
const LAST_LINES: usize = 20;
/// What a program needs from the environment to run at all; the rest, any real AWS credentials first, is kept from it.
const INHERITED: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// The running worker; dropping it kills it.
#[derive(Debug)]
pub(super) struct WorkerProcess {
    child: Child,
    log: PathBuf,
}

/// The line by which a worker says where it listens.
#[derive(Deserialize)]
struct Listening {
    #[serde(rename = "http.listen")]
    address: SocketAddr,
}

impl WorkerProcess {
    /// Starts it, with its log in a new directory of the system's temporary one.
    pub(super) fn start(environment: Vec<(&'static str, String)>) -> anyhow::Result<Self> {
        let directory = env::temp_dir().join(format!("logferry-demo-{:08x}", fastrand::u32(..)));
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let log = directory.join("worker.log");
        let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let program = env::current_exe().context("cannot find this program's own file")?;
        let inherited = INHERITED.into_iter().filter_map(|name| Some((name, env::var_os(name)?)));
        let child = Command::new(&program)
            .arg("worker")
            .env_clear()
            .envs(inherited)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the demo alone, which then stops the worker as an orchestrator would.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log })
    }

    /// Waits until it has logged where it listens.
    ///
    /// # Errors
    /// It ended, or it took too long.
    pub(super) async fn listening(&mut self) -> anyhow::Result<SocketAddr> {
        let started = Instant::now();
        loop {
            let log = fs::read_to_string(&self.log).context("cannot read the worker's log")?;
            if let Some(line) = log.lines().find_map(|line| serde_json::from_str::<Listening>(line).ok()) {
                return Ok(line.address);
            }
            self.check_runs()?;
            ensure!(started.elapsed() < START, "the worker did not say where it listens within {START:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Its process id, as long as it has not been seen to end.
    pub(super) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The file of its log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub(super) fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines: Vec<_> = text.lines().rev().take(LAST_LINES).collect();
        lines.reverse();
        lines.join("\n")
    }

    /// Says so if it has ended, which nobody asked for.
    pub(super) fn check_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the worker ended by itself: {status}"),
            None => Ok(()),
        }
    }

    /// Waits for an end that nobody asked for.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        let status = self.child.wait().await?;
        bail!("the worker ended by itself: {status}")
    }

    /// Sends SIGTERM and waits until it has drained; says how long that took.
    ///
    /// # Errors
    /// It has ended before, or did not end in time, or not with 0.
    pub(super) async fn stop(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let id = self.id().context("the worker has ended already")?;
        // Not yet waited for, so the id is still the worker's. The shell's own kill needs no other program.
        let kill = Command::new("sh").args(["-c", "kill -TERM \"$0\"", &id.to_string()]).status().await;
        ensure!(kill.context("cannot run sh")?.success(), "cannot send SIGTERM to the worker");
        let Ok(status) = tokio::time::timeout(DRAIN, self.child.wait()).await else {
            bail!("the worker did not drain within {DRAIN:?} of SIGTERM");
        };
        let status = status?;
        ensure!(status.success(), "the worker did not exit 0 on SIGTERM: {status}");
        Ok(started.elapsed())
    }
}
