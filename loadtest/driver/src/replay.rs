//! Measures how a replay beside the worker changes the latency of live traffic: the time from an object's event to its acceptance,
//! for ordinary tenants that send small objects at a steady rate.
//!
//! In one phase, the worker is alone. In the other, `logferry replay` delivers old objects of a further tenant meanwhile, at its
//! default caps. The phases alternate, each with a worker and a sandbox of its own, so that changes of the machine's speed affect
//! both. Worker, replay, sandbox and instrument share the machine: what the replay costs in CPU shows too.

use std::{fmt, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use logferry_testbed::provision::ProviderSpec;
use tokio::process::{Child, Command};

use crate::{
    comparison::{Comparison, Phase},
    ordinary::{Options, Ordinary, RECORDS, parcel, wait},
    run::Through,
    sandbox::SandboxProcess,
    scale::{Part, results},
    stage::{Parcel, Stage},
    worker,
};

/// Bound of the ordinary tenants' p95, as a multiple of their p95 without the replay.
const ALLOWED: f64 = 1.10;
/// Default of `--max-objects-per-second` of `logferry replay`.
const RATE: u64 = 50;
/// The replay has objects for this much longer than a phase, so that it runs until the end.
const SPARE: u64 = 15;
/// Longest time from SIGINT to the replay's end.
const LAST: Duration = Duration::from_secs(30);

/// What the tenants send, and what is replayed.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) ordinary: Ordinary,
    /// Duration of a phase in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Objects per second that the replay may begin with.
    #[arg(long, default_value_t = RATE, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) replayed: u64,
    /// Messages that the worker works on at once, and objects that the replay works on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Number of repetitions of both phases.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

/// The latencies of the ordinary tenants.
#[derive(Debug)]
struct Latencies {
    load: Load,
    found: Comparison,
    /// Objects that the replays delivered.
    replayed: u64,
}

/// Measures, prints the table, writes it to the file, and checks the p95.
///
/// # Errors
/// The measurement failed, the file cannot be written, or the p95 with the replay is at least [`ALLOWED`] times the p95 without
/// it.
pub(crate) async fn replay(options: Options<Load>) -> anyhow::Result<()> {
    let latencies = measure(&options.load, &options.through).await?;
    let text = format!("{}\n\n{latencies}", results::conditions(1.0));
    eprintln!("{text}");
    results::replace(&options.results, Part::Replay, &text)?;
    let ratio = latencies.found.ratio(95);
    ensure!(
        ratio < ALLOWED,
        "the p95 of live traffic rose by the factor {ratio:.2}; it must stay below {ALLOWED}"
    );
    Ok(())
}

async fn measure(load: &Load, through: &Through) -> anyhow::Result<Latencies> {
    let found = Comparison::new("the replay", usize::try_from(load.ordinary.tenants)?);
    let mut latencies = Latencies { load: load.clone(), found, replayed: 0 };
    for round in 1..=load.rounds {
        for phase in [Phase::Calm, Phase::Beside] {
            let measured = load.phase(phase, through).await;
            let (found, replayed) = measured.with_context(|| format!("{phase:?}, round {round}"))?;
            latencies.found.add(phase, round, found);
            latencies.replayed += replayed;
        }
    }
    Ok(latencies)
}

impl Load {
    /// Runs a phase. Returns the latencies by ordinary tenant, and the number of replayed objects.
    async fn phase(&self, phase: Phase, through: &Through) -> anyhow::Result<(Vec<Vec<i64>>, u64)> {
        let mut sandbox = SandboxProcess::start_keeping().await?;
        let Ordinary { tenants, rate } = self.ordinary;
        // The last tenant is the one whose objects are replayed.
        let stage = Stage::set_up_as(&ProviderSpec::new("load"), sandbox.endpoint(), tenants + 1).await?;
        let replayed = usize::try_from(tenants)?;
        let (warm_up, measured) = (self.ordinary.warm_up(), rate * self.seconds);
        let parcels = self.ordinary.parcels(warm_up + measured)?;
        let old: Vec<Parcel> = (0..self.replayed * (self.seconds + SPARE))
            .map(|turn| parcel(replayed, turn, warm_up + measured + turn, RECORDS))
            .collect::<anyhow::Result<_>>()?;
        stage.create_streams(&parcels).await?;
        stage.create_streams(&old).await?;
        let mut events = stage.upload(&parcels).await?;
        stage.upload(&old).await?;
        let accounts = stage.accounts();
        let (_, ordinary_accounts) = accounts.split_last().context("there are no tenants")?;

        let mut environment = stage.worker_environment(self.concurrency).await?;
        environment.push(stage.ledger());
        let program = through.program()?;
        let mut worker = worker::start(&program, &environment)?;
        let made = async {
            let measured_events = events.split_off(usize::try_from(warm_up)?);
            self.ordinary.send(&stage, &events).await?;
            wait(&mut sandbox, ordinary_accounts, warm_up * RECORDS, through.stall()).await?;
            let beside = match phase {
                Phase::Calm => None,
                Phase::Beside => Some(self.start(&program, &environment, replayed)?),
            };
            let sent = self.ordinary.send(&stage, &measured_events).await?;
            wait(&mut sandbox, ordinary_accounts, (warm_up + measured) * RECORDS, through.stall()).await?;
            let replayed = match beside {
                None => 0,
                Some(child) => interrupt(child).await?,
            };
            stage.acknowledged(through.stall()).await?;
            worker::usage(&mut worker)?;
            if phase == Phase::Beside {
                let least = self.replayed * self.seconds * 8 / 10;
                ensure!(
                    replayed >= least,
                    "only {replayed} objects were replayed, and the cap allows {least} and more"
                );
            }
            Ok((self.ordinary.latencies(&stage, &sent).await?, replayed))
        };
        let latencies = made.await.map_err(|error| worker::explain(&worker, error))?;
        worker::stop(&mut worker).await?;
        Ok(latencies)
    }

    fn start(
        &self,
        program: &Path,
        environment: &[(&'static str, String)],
        tenant: usize,
    ) -> anyhow::Result<Child> {
        let child = Command::new(program)
            .args(["replay", "--tenant", &format!("tenant-{tenant}")])
            .args(["--max-objects-per-second", &self.replayed.to_string()])
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        child.context("the replay cannot be started")
    }
}

/// Stops the replay. Returns the number of objects that it delivered.
async fn interrupt(child: Child) -> anyhow::Result<u64> {
    let id = child.id().context("the replay has ended before the phase")?.to_string();
    let status = std::process::Command::new("kill").args(["-INT", &id]).status()?;
    ensure!(status.success(), "kill -INT: {status}");
    let output = tokio::time::timeout(LAST, child.wait_with_output());
    let output =
        output.await.with_context(|| format!("the replay did not end within {LAST:?} of SIGINT"))??;
    let outcome: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the replay printed no outcome")?;
    ensure!(
        outcome["interrupted"] == true && outcome["failed"] == serde_json::json!({}),
        "the replay ended early or failed: {outcome:#}"
    );
    outcome["delivered"].as_u64().context("the outcome has no number of delivered objects")
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { ordinary: Ordinary { tenants, rate }, seconds, replayed, concurrency, rounds } =
            &self.load;
        writeln!(
            f,
            "{tenants} ordinary tenants together send {rate} objects of {RECORDS} records a second for {seconds} s: {rounds} times \
             alone, and {rounds} times beside a replay of a further tenant's objects of the same size, with a cap of {replayed} objects a \
             second. The replays delivered {} objects. Worker and replay work on {concurrency} objects at once. Figures are milliseconds \
             from an object's event to its acceptance. The p95 of live traffic is **{:.2}** times the p95 without the replay.\n",
            self.replayed,
            self.found.ratio(95)
        )?;
        self.found.fmt(f)
    }
}
