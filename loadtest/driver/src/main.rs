//! The load instrument: objects made up from a seed, through the real worker as a process of its own, into the sandbox
//! in its counting mode as another, and the CPU that this cost in units of merely inflating the same bytes.
//!
//! `loadtest/run` builds and starts it. It needs Linux, for `/proc`.

mod chaos;
mod generate;
mod noisy;
mod ordinary;
mod parallel;
mod report;
mod run;
mod sandbox;
mod scale;
mod stage;
mod usage;
mod waiting;
mod worker;
mod yardstick;

use std::process::ExitCode;

use clap::Parser;

/// Measures the worker.
#[derive(Debug, Parser)]
#[command(name = "loadtest")]
enum Command {
    /// Send objects through the worker, check what arrives, and print what it cost.
    Run(run::Options),
    /// Make the series of runs whose tables are in loadtest/RESULTS.md.
    Scale(scale::Options),
    /// Make seeded runs of faults, kills and duplicate notifications, and compare what arrived record by record.
    Chaos(chaos::Options),
    /// Measure what a throttled tenant's backlog does to the other tenants' latency; fails if their p95 rises too much.
    Noisy(noisy::Options),
    /// Measure what messages that wait, for a denied role or for their turn, do to the other tenants; fails if a bound is broken.
    Waiting(waiting::Options),
    /// Run the sandbox, in its counting mode unless told otherwise; a run starts it by itself. Ends with its input.
    Sandbox {
        /// Keep the events.
        #[arg(long)]
        keep: bool,
    },
}

fn main() -> ExitCode {
    match run_async(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_async(command: Command) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match command {
            Command::Run(options) => run::run(options).await,
            Command::Scale(options) => scale::scale(options).await,
            Command::Chaos(options) => chaos::chaos(options).await,
            Command::Noisy(options) => noisy::noisy(options).await,
            Command::Waiting(options) => waiting::waiting(options).await,
            Command::Sandbox { keep: false } => sandbox::serve_counting().await,
            Command::Sandbox { keep: true } => sandbox::serve_keeping().await,
        }
    })
}
