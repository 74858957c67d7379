//! Runs many seeded plans of `logferry-chaos`, several at a time, each in a sandbox of its own.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use logferry_chaos::{Kind, Outage, Outcome, Plan, Setting, Summary};
use tokio::task::JoinSet;

use crate::run::Through;

/// Options of `loadtest chaos`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Number of runs in which workers are killed. In addition there are a quarter as many runs each with paused
    /// workers and with faults alone, and a tenth as many each with lost answers and with the ledger out of reach. With
    /// --kind: number of runs of that kind, and no others.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Kind of all runs.
    #[arg(long, value_enum)]
    kind: Option<KindName>,
    /// Make one run each with SQS, DynamoDB and STS out of reach for a minute, instead of the other runs.
    #[arg(long, conflicts_with_all = ["runs", "kind"])]
    outages: bool,
    /// Seed of the first run; every further run has the next seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of workers that share a queue.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10))]
    workers: u64,
    /// Number of runs at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    parallel: u64,
    /// Duration of the ledger's lease in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(10..=600))]
    lease: u64,
    /// Run without a ledger. Repeated batches are then counted, but do not fail a run.
    #[arg(long)]
    no_ledger: bool,
    /// Program of the worker. Default: `logferry` beside this program.
    #[arg(long)]
    worker: Option<PathBuf>,
}

/// [`Kind`] as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindName {
    /// SIGKILL, and faults. A fault hits a call before the call takes effect; it hits a call that has taken effect only where
    /// nothing can be lost by that.
    Kills,
    /// The same faults, and SIGSTOP.
    Pauses,
    /// The same faults alone.
    Faults,
    /// The same faults, and answers of PutLogEvents that are lost after the call took effect.
    LostAnswers,
    /// The same faults, and a ledger that is out of reach for seconds.
    NoLedger,
}

impl From<KindName> for Kind {
    fn from(name: KindName) -> Self {
        match name {
            KindName::Kills => Self::Kills,
            KindName::Pauses => Self::Pauses,
            KindName::Faults => Self::Faults,
            KindName::LostAnswers => Self::LostAnswers,
            KindName::NoLedger => Self::NoLedger,
        }
    }
}

/// A run to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    seed: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Chaos(Kind),
    Outage(Outage),
}

impl Job {
    fn plan(self, workers: usize) -> Plan {
        match self.what {
            What::Chaos(kind) => Plan::new(self.seed, kind, workers),
            What::Outage(outage) => Plan::outage(self.seed, outage, workers),
        }
    }

    /// Name of the run, and the command that repeats it. The command for an outage repeats all three outages.
    fn told(self, first_seed: u64, workers: usize) -> (String, String) {
        let (seed, command) = (self.seed, "loadtest/run chaos");
        match self.what {
            What::Chaos(kind) => {
                let kind = kind.word();
                let again = format!("{command} --runs 1 --seed {seed} --kind {kind} --workers {workers}");
                (format!("seed {seed}"), again)
            }
            What::Outage(outage) => {
                let again = format!("{command} --outages --seed {first_seed} --workers {workers}");
                (format!("a minute without {}", outage.service()), again)
            }
        }
    }
}

/// Makes the runs, prints the command that repeats each failed one, and prints the sums.
///
/// # Errors
/// A run failed.
pub(crate) async fn chaos(options: Options) -> anyhow::Result<()> {
    let program: Arc<_> = Through::program_at(options.worker.as_ref())?.into();
    let lease = (!options.no_ledger).then(|| Duration::from_secs(options.lease));
    let jobs = match options.outages {
        true => outages(options.seed),
        false => jobs(options.seed, options.runs, options.kind.map(Kind::from)),
    };
    let (count, mut summary, mut running) = (jobs.len(), Summary::default(), JoinSet::new());
    let workers = usize::try_from(options.workers)?;
    let mut jobs = jobs.into_iter();
    let mut done = 0;
    loop {
        while running.len() < usize::try_from(options.parallel)?
            && let Some(job) = jobs.next()
        {
            let program = Arc::clone(&program);
            running.spawn(async move {
                let plan = job.plan(workers);
                (job, logferry_chaos::run(&plan, Setting { program: &program, lease }).await)
            });
        }
        let Some(ended) = running.join_next().await else { break };
        let (job, outcome) = ended?;
        done += 1;
        let complaints = note(&mut summary, outcome);
        if !complaints.is_empty() {
            let (name, again) = job.told(options.seed, workers);
            eprintln!("{name} failed (repeat it with {again}):\n  {}", complaints.join("\n  "));
        }
        if done % 10 == 0 {
            eprintln!("{done} of {count} runs");
        }
    }
    print(&summary);
    ensure!(summary.is_good(), "some runs failed, see above");
    Ok(())
}

/// Adds a run to the summary and returns its complaints.
fn note(summary: &mut Summary, outcome: anyhow::Result<Outcome>) -> Vec<String> {
    match outcome {
        Ok(outcome) => {
            summary.add(&outcome);
            outcome.complaints()
        }
        Err(error) => {
            summary.add_failure();
            vec![format!("the run could not be finished: {error:#}")]
        }
    }
}

fn jobs(first: u64, runs: u64, kind: Option<Kind>) -> Vec<Job> {
    let counts = match kind {
        Some(kind) => vec![(kind, runs)],
        None => vec![
            (Kind::Kills, runs),
            (Kind::Pauses, runs.div_ceil(4)),
            (Kind::Faults, runs.div_ceil(4)),
            (Kind::LostAnswers, runs.div_ceil(10)),
            (Kind::NoLedger, runs.div_ceil(10)),
        ],
    };
    let kinds = counts.into_iter().flat_map(|(kind, count)| (0..count).map(move |_| kind));
    kinds.zip(first..).map(|(kind, seed)| Job { seed, what: What::Chaos(kind) }).collect()
}

fn outages(first: u64) -> Vec<Job> {
    Outage::ALL
        .into_iter()
        .zip(first..)
        .map(|(outage, seed)| Job { seed, what: What::Outage(outage) })
        .collect()
}

#[expect(clippy::print_stdout, reason = "the sums are the output")]
fn print(summary: &Summary) {
    println!("{summary}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_can_be_repeated_alone_by_its_seed() {
        let all = jobs(5, 8, None);
        let of = |kind| all.iter().filter(|job| job.what == What::Chaos(kind)).count();
        assert_eq!(Kind::ALL.map(of), [8, 2, 2, 1, 1]);
        let seeds: Vec<_> = all.iter().map(|job| job.seed).collect();
        assert_eq!(seeds, (5..19).collect::<Vec<_>>());
        for job in all {
            let What::Chaos(kind) = job.what else { panic!("no outage was asked for") };
            assert_eq!(jobs(job.seed, 1, Some(kind)), [job]);
        }
    }
}
