//! The workers of a run: started, killed, replaced, and asked at the end what they counted.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use logferry_sandbox::{
    Sandbox,
    worker::{WorkerProcess, http_get},
};
use serde_json::Value;

use crate::plan::Kill;

/// How closely a kill follows what it waits for.
const TICK: Duration = Duration::from_millis(1);
/// How long a worker may take from SIGTERM to its end.
const DRAIN: Duration = Duration::from_secs(60);
const UNACCOUNTED: &str = "logferry_records_unaccounted_total";

/// How a worker says that it goes on without the ledger.
const WITHOUT_LEDGER: &str = "the ledger cannot be used";

/// What workers say of themselves.
#[derive(Debug, Default)]
pub(crate) struct Confessions {
    /// Lines that tell of a defect.
    pub(crate) defects: Vec<String>,
    /// How often one went on without the ledger.
    pub(crate) without_ledger: u64,
}

/// All workers of a run; dropping it kills them. Their logs are in a folder of their own.
#[derive(Debug)]
pub(crate) struct Workers {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    folder: PathBuf,
    slots: Vec<Slot>,
    started: usize,
    /// SIGKILLs so far.
    pub(crate) kills: u64,
}

#[derive(Debug)]
enum Slot {
    Running(WorkerProcess),
    /// Until then nobody takes its place.
    Dead(Instant),
}

impl Workers {
    /// Starts so many.
    pub(crate) fn start(
        program: &Path,
        environment: Vec<(&'static str, String)>,
        folder: PathBuf,
        count: usize,
    ) -> anyhow::Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (program, slots) = (program.to_owned(), Vec::new());
        let mut workers = Self { program, environment, folder, slots, started: 0, kills: 0 };
        for _ in 0..count {
            let worker = workers.another()?;
            workers.slots.push(Slot::Running(worker));
        }
        Ok(workers)
    }

    fn another(&mut self) -> anyhow::Result<WorkerProcess> {
        let log = self.folder.join(format!("worker-{}.log", self.started));
        self.started += 1;
        Ok(WorkerProcess::start(&self.program, &self.environment, log)?)
    }

    /// Kills as planned and starts the next ones; returns when all of that has happened and every worker runs.
    pub(crate) async fn kill(
        &mut self,
        plan: &[Kill],
        sandbox: &Sandbox,
        started: Instant,
    ) -> anyhow::Result<()> {
        let mut plan = plan.iter();
        let mut next = plan.next();
        let mut reached: Option<Instant> = None;
        loop {
            let now = Instant::now();
            for at in 0..self.slots.len() {
                if matches!(self.slots[at], Slot::Dead(until) if until <= now) {
                    self.slots[at] = Slot::Running(self.another()?);
                }
            }
            match next {
                Some(kill) => {
                    let (service, operation, count) = kill.after;
                    if reached.is_none() && sandbox.calls(service, operation) >= count {
                        reached = Some(now);
                    }
                    let due =
                        reached.is_some_and(|at| now >= at + kill.delay) || now >= started + kill.latest;
                    if due {
                        if let Slot::Running(worker) = &mut self.slots[kill.worker] {
                            worker.kill().await?;
                            self.kills += 1;
                            self.slots[kill.worker] = Slot::Dead(now + kill.restart);
                        }
                        (next, reached) = (plan.next(), None);
                    }
                }
                None if self.running().count() == self.slots.len() => return Ok(()),
                None => {}
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn running(&mut self) -> impl Iterator<Item = &mut WorkerProcess> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Running(worker) => Some(worker),
            Slot::Dead(_) => None,
        })
    }

    /// Says so if one has ended by itself.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        for worker in self.running() {
            worker.check_runs().with_context(|| format!("see {}", worker.log().display()))?;
        }
        Ok(())
    }

    /// What the workers that are left have counted as unaccounted.
    pub(crate) async fn unaccounted(&mut self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for worker in self.running() {
            let address = worker.listening().await?;
            let (status, text) = http_get(address, "/metrics").await.context("a worker has no metrics")?;
            ensure!(status == 200, "/metrics answers {status}");
            let value =
                text.lines().find_map(|line| line.strip_prefix(UNACCOUNTED)?.trim().parse::<u64>().ok());
            sum += value.with_context(|| format!("{UNACCOUNTED} is not among the metrics"))?;
        }
        Ok(sum)
    }

    /// Reads what all of them have logged, the killed too.
    pub(crate) fn confessions(&self) -> anyhow::Result<Confessions> {
        let mut confessions = Confessions::default();
        for number in 0..self.started {
            let path = self.folder.join(format!("worker-{number}.log"));
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for line in String::from_utf8_lossy(&text).lines() {
                let read: Value = serde_json::from_str(line).unwrap_or_default();
                let defect = matches!(read["reason"].as_str(), Some("unaccounted" | "panic"));
                if defect || line.contains("panicked at") {
                    confessions.defects.push(line.to_owned());
                }
                let message = read["message"].as_str().unwrap_or_default();
                confessions.without_ledger += u64::from(message.starts_with(WITHOUT_LEDGER));
            }
        }
        Ok(confessions)
    }

    /// Sends SIGTERM to all and waits until they have drained.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        for worker in self.running() {
            worker.signal("TERM").await?;
        }
        for worker in self.running() {
            worker.drained(DRAIN).await.with_context(|| format!("see {}", worker.log().display()))?;
        }
        Ok(())
    }

    /// Where the logs are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
