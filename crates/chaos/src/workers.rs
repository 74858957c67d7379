//! The workers of a run: starts, kills and replaces them, and reads what they counted and logged.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use logferry_sandbox::Sandbox;
use logferry_testbed::worker::{Samples, WorkerProcess, http_get};
use serde_json::Value;

use crate::plan::{Blow, Outage, Stroke};

/// Interval at which a blow's condition is checked.
const TICK: Duration = Duration::from_millis(1);
/// Longest time from SIGTERM to a worker's end.
const DRAIN: Duration = Duration::from_secs(60);
/// Interval at which a worker's endpoints are read during an outage.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Longest time until a worker is ready again. It checks its dependencies every 15 s.
const RECOVER: Duration = Duration::from_secs(60);
const UNACCOUNTED: &str = "logferry_records_unaccounted_total";

/// Log message of a worker that goes on without the ledger.
const WITHOUT_LEDGER: &str = "the ledger is out of reach";

/// Findings in the workers' logs.
#[derive(Debug, Default)]
pub(crate) struct LogFindings {
    /// Log lines that show a defect.
    pub(crate) defects: Vec<String>,
    /// How often a worker went on without the ledger.
    pub(crate) without_ledger: u64,
}

/// All workers of a run. Dropping it kills them; their logs stay in a folder of their own.
#[derive(Debug)]
pub(crate) struct Workers {
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    folder: PathBuf,
    slots: Vec<Slot>,
    started: usize,
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
}

#[derive(Debug)]
enum Slot {
    Running(WorkerProcess),
    /// Stopped until this time.
    Paused(WorkerProcess, Instant),
    /// Killed; a new worker starts at this time.
    Dead(Instant),
}

impl Workers {
    pub(crate) fn start(
        program: &Path,
        environment: Vec<(&'static str, String)>,
        folder: PathBuf,
        count: usize,
    ) -> anyhow::Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let (program, slots) = (program.to_owned(), Vec::new());
        let mut workers = Self { program, environment, folder, slots, started: 0, kills: 0, pauses: 0 };
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

    /// Carries out the planned blows, starts replacements and resumes paused workers. Returns after the last blow, as soon as
    /// every worker runs.
    pub(crate) async fn strike(
        &mut self,
        plan: &[Stroke],
        sandbox: &Sandbox,
        started: Instant,
    ) -> anyhow::Result<()> {
        let mut plan = plan.iter();
        let mut next = plan.next();
        let mut reached: Option<Instant> = None;
        loop {
            let now = Instant::now();
            self.bring_back(now).await?;
            match next {
                Some(stroke) => {
                    let (service, operation, count) = stroke.after;
                    if reached.is_none() && sandbox.calls(service, operation) >= count {
                        reached = Some(now);
                    }
                    let due =
                        reached.is_some_and(|at| now >= at + stroke.delay) || now >= started + stroke.latest;
                    if due {
                        self.hit(stroke, now).await?;
                        (next, reached) = (plan.next(), None);
                    }
                }
                None if self.running().count() == self.slots.len() => return Ok(()),
                None => {}
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Kills or pauses the worker that `stroke` names, if it runs.
    async fn hit(&mut self, stroke: &Stroke, now: Instant) -> anyhow::Result<()> {
        let slot = &mut self.slots[stroke.worker];
        let Slot::Running(worker) = slot else { return Ok(()) };
        match stroke.blow {
            Blow::Kill { restart } => {
                worker.kill().await?;
                self.kills += 1;
                *slot = Slot::Dead(now + restart);
            }
            Blow::Pause { lasts } => {
                worker.signal("STOP")?;
                self.pauses += 1;
                let running = std::mem::replace(slot, Slot::Dead(now));
                if let Slot::Running(worker) = running {
                    *slot = Slot::Paused(worker, now + lasts);
                }
            }
        }
        Ok(())
    }

    /// Replaces killed workers and resumes paused ones whose time has come.
    async fn bring_back(&mut self, now: Instant) -> anyhow::Result<()> {
        for at in 0..self.slots.len() {
            match std::mem::replace(&mut self.slots[at], Slot::Dead(now)) {
                Slot::Dead(until) if until <= now => self.slots[at] = Slot::Running(self.another()?),
                Slot::Paused(worker, until) if until <= now => {
                    worker.signal("CONT")?;
                    self.slots[at] = Slot::Running(worker);
                }
                as_before => self.slots[at] = as_before,
            }
        }
        Ok(())
    }

    fn running(&mut self) -> impl Iterator<Item = &mut WorkerProcess> {
        self.slots.iter_mut().filter_map(|slot| match slot {
            Slot::Running(worker) => Some(worker),
            Slot::Paused(..) | Slot::Dead(_) => None,
        })
    }

    /// Checks that no worker has ended by itself.
    pub(crate) fn check_run(&mut self) -> anyhow::Result<()> {
        for worker in self.running() {
            worker.check_runs().with_context(|| format!("see {}", worker.log().display()))?;
        }
        Ok(())
    }

    /// Number of records that the running workers counted as unaccounted.
    pub(crate) async fn unaccounted(&mut self) -> anyhow::Result<u64> {
        let samples = self.samples().await?;
        ensure!(samples.iter().all(|of| of.contains(UNACCOUNTED)), "{UNACCOUNTED} is not among the metrics");
        Ok(samples.iter().map(|of| of.get(UNACCOUNTED) as u64).sum())
    }

    /// Samples of each running worker.
    async fn samples(&mut self) -> anyhow::Result<Vec<Samples>> {
        let mut samples = Vec::new();
        for worker in self.running() {
            let address = worker.listening().await?;
            samples.push(Samples::read(address).await.context("a worker has no metrics")?);
        }
        Ok(samples)
    }

    /// Reads the workers' endpoints until the outage ends. Returns one line for each worker or metric that did not report
    /// the outage.
    ///
    /// # Errors
    /// A worker does not answer, or its `/healthz` fails.
    pub(crate) async fn watch(&mut self, outage: Outage, begun: Instant) -> anyhow::Result<Vec<String>> {
        let mut silent: Vec<_> = (0..self.slots.len()).collect();
        let degraded = format!("\"condition\":\"{}\",\"status\":\"degraded\"", outage.condition());
        while begun.elapsed() < Outage::TO {
            tokio::time::sleep(ASK_AGAIN).await;
            let mut said = Vec::new();
            for worker in self.running() {
                let address = worker.listening().await?;
                let (status, text) =
                    http_get(address, "/readyz").await.context("a worker does not answer")?;
                let named = status == 503 && text.contains(&degraded);
                said.push(named && begun.elapsed() > Outage::FROM);
                let (status, text) =
                    http_get(address, "/healthz").await.context("a worker does not answer")?;
                ensure!(status == 200, "/healthz failed during an outage: {text}");
            }
            silent.retain(|worker| !said[*worker]);
        }
        let metric = outage.metric();
        let mut missing: Vec<_> =
            silent.iter().map(|at| format!("/readyz of worker {at} did not name the condition")).collect();
        if self.samples().await?.iter().all(|of| of.sum(metric) == 0.0) {
            missing.push(format!("no worker counted {metric}"));
        }
        Ok(missing)
    }

    /// Waits until every worker is ready.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let asked = Instant::now();
        for worker in self.running() {
            let address = worker.listening().await?;
            loop {
                match http_get(address, "/readyz").await.context("a worker does not answer")? {
                    (200, _) => break,
                    (_, text) => ensure!(asked.elapsed() < RECOVER, "not ready within {RECOVER:?}: {text}"),
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
        Ok(())
    }

    /// Reads the logs of all workers, killed ones included.
    pub(crate) fn findings(&self) -> anyhow::Result<LogFindings> {
        let mut findings = LogFindings::default();
        for number in 0..self.started {
            let path = self.folder.join(format!("worker-{number}.log"));
            let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            for line in String::from_utf8_lossy(&text).lines() {
                let read: Value = serde_json::from_str(line).unwrap_or_default();
                let defect = matches!(read["reason"].as_str(), Some("unaccounted" | "panic"));
                if defect || line.contains("panicked at") {
                    findings.defects.push(line.to_owned());
                }
                let message = read["message"].as_str().unwrap_or_default();
                findings.without_ledger += u64::from(message.starts_with(WITHOUT_LEDGER));
            }
        }
        Ok(findings)
    }

    /// Sends SIGTERM to all workers and waits until they have drained.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        for worker in self.running() {
            worker.signal("TERM")?;
        }
        for worker in self.running() {
            worker.drained(DRAIN).await.with_context(|| format!("see {}", worker.log().display()))?;
        }
        Ok(())
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
