//! Measures how one tenant's trouble changes the latency of others: the time from an object's event to its acceptance,
//! for ordinary tenants that send small objects at a steady rate.
//!
//! One phase has only the ordinary tenants. The other adds a tenant with a backlog whose account throttles every put. The
//! phases alternate, each with a worker and a sandbox of its own, so that changes of the machine's speed affect both.

use std::fmt;

use anyhow::{Context, ensure};
use clap::Args;

use crate::{
    comparison::{Comparison, Phase},
    ordinary::{Options, Ordinary, RECORDS, parcel, wait},
    run::Through,
    sandbox::SandboxProcess,
    scale::{Part, results},
    stage::{Parcel, Stage},
    worker,
};

/// Bound of the ordinary tenants' p95, as a multiple of their p95 without the noisy tenant.
const ALLOWED: f64 = 1.25;

/// What the tenants send.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    pub(crate) ordinary: Ordinary,
    /// Duration of a phase in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Objects of the noisy tenant that are in the queue when its phase begins.
    #[arg(long, default_value_t = 1000)]
    pub(crate) backlog: u64,
    /// Messages that the worker works on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: u32,
    /// Number of repetitions of both phases.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self { ordinary: Ordinary::default(), seconds: 30, backlog: 1000, concurrency: 16, rounds: 3 }
    }
}

/// The latencies of the ordinary tenants.
#[derive(Debug)]
pub(crate) struct Latencies {
    load: Load,
    found: Comparison,
}

/// Measures, prints the table, writes it to the file, and checks the p95.
///
/// # Errors
/// The measurement failed, the file cannot be written, or the p95 with the noisy tenant is at least [`ALLOWED`] times the
/// p95 without it.
pub(crate) async fn noisy(options: Options<Load>) -> anyhow::Result<()> {
    let latencies = measure(&options.load, &options.through).await?;
    let text = format!("{}\n\n{latencies}", results::conditions(1.0));
    eprintln!("{text}");
    results::replace(&options.results, Part::Noisy, &text)?;
    let ratio = latencies.found.ratio(95);
    ensure!(
        ratio < ALLOWED,
        "the ordinary tenants' p95 rose by the factor {ratio:.2}; it must stay below {ALLOWED}"
    );
    Ok(())
}

/// Runs both phases alternately.
///
/// # Errors
/// An event of an ordinary tenant did not arrive, or one of the noisy tenant did.
pub(crate) async fn measure(load: &Load, through: &Through) -> anyhow::Result<Latencies> {
    let mut found = Comparison::new("the noisy tenant", usize::try_from(load.ordinary.tenants)?);
    for round in 1..=load.rounds {
        for phase in [Phase::Calm, Phase::Beside] {
            let latencies = load.phase(phase, through).await;
            found.add(phase, round, latencies.with_context(|| format!("{phase:?}, round {round}"))?);
        }
    }
    Ok(Latencies { load: load.clone(), found })
}

impl Load {
    /// Runs a phase and returns the latencies by ordinary tenant.
    async fn phase(&self, phase: Phase, through: &Through) -> anyhow::Result<Vec<Vec<i64>>> {
        let mut sandbox = SandboxProcess::start_keeping().await?;
        let Ordinary { tenants, rate } = self.ordinary;
        // The last tenant is the noisy one.
        let stage = Stage::set_up(sandbox.endpoint(), tenants + 1).await?;
        let noisy = usize::try_from(tenants)?;
        let (warm_up, measured) = (self.ordinary.warm_up(), rate * self.seconds);
        let parcels = self.ordinary.parcels(warm_up + measured)?;
        let backlog: Vec<Parcel> = (0..self.backlog)
            .map(|turn| parcel(noisy, turn, warm_up + measured + turn, RECORDS))
            .collect::<anyhow::Result<_>>()?;
        stage.create_streams(&parcels).await?;
        stage.create_streams(&backlog).await?;
        let mut events = stage.upload(&parcels).await?;
        let backlog = stage.upload(&backlog).await?;
        let accounts = stage.accounts();
        let (noisy_account, ordinary_accounts) = accounts.split_last().context("there are no tenants")?;
        sandbox.throttle(noisy_account).await?;

        let mut environment = stage.worker_environment(self.concurrency).await?;
        environment.push(stage.ledger());
        let mut worker = worker::start(&through.program()?, &environment)?;
        let made = async {
            let measured_events = events.split_off(usize::try_from(warm_up)?);
            self.ordinary.send(&stage, &events).await?;
            wait(&mut sandbox, ordinary_accounts, warm_up * RECORDS, through.stall()).await?;
            worker::pause(&worker).await?;
            if phase == Phase::Beside {
                stage.announce(&backlog).await?;
            }
            worker.signal("CONT")?;
            let sent = self.ordinary.send(&stage, &measured_events).await?;
            wait(&mut sandbox, ordinary_accounts, (warm_up + measured) * RECORDS, through.stall()).await?;
            worker::usage(&mut worker)?;
            let refused = sandbox.totals(std::slice::from_ref(noisy_account)).await?;
            ensure!(
                refused.iter().all(|totals| totals.events == 0),
                "the noisy tenant's puts were not throttled"
            );
            let (waiting, dead) = stage.backlog().await?;
            ensure!(dead == 0, "{dead} dead letters");
            if phase == Phase::Beside {
                ensure!(
                    waiting >= self.backlog,
                    "only {waiting} of the backlog's {} messages are left",
                    self.backlog
                );
            }
            self.ordinary.latencies(&stage, &sent).await
        };
        let latencies = made.await.map_err(|error| worker::explain(&worker, error))?;
        worker::stop(&mut worker).await?;
        Ok(latencies)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { ordinary: Ordinary { tenants, rate }, seconds, backlog, concurrency, rounds } = &self.load;
        writeln!(
            f,
            "{tenants} ordinary tenants together send {rate} objects of {RECORDS} records a second for {seconds} s: {rounds} times \
             alone, and {rounds} times beside a tenant with {backlog} objects in the queue and an account that throttles every put. \
             The worker has {concurrency} slots. Figures are milliseconds from an object's event to its \
             acceptance. The p95 of all ordinary tenants is **{:.2}** times the p95 without the noisy tenant.\n",
            self.found.ratio(95)
        )?;
        self.found.fmt(f)
    }
}
