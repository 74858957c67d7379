//! The load instrument: sends generated objects through the real worker into the sandbox in its counting mode, and
//! compares the CPU time of the worker with that of only decompressing the same bytes.
//!
//! Worker and sandbox are processes of their own. `loadtest/run` builds and starts the instrument. It needs Linux, for `/proc`.

mod burst;
mod chaos;
mod comparison;
mod curve;
mod generate;
mod https;
mod latency;
mod mix;
mod noisy;
mod observed;
mod ordinary;
mod parallel;
mod plan;
mod point;
mod replay;
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
    /// Send objects through the worker, check what arrives, and print what that cost.
    Run(run::Options),
    /// Make the series of runs behind the tables in loadtest/RESULTS.md.
    Scale(scale::Options),
    /// Make seeded runs with faults, kills and duplicate notifications, and compare what arrived record by record.
    Chaos(chaos::Options),
    /// Measure how long a worker with an empty queue takes for many small objects whose events come all at once.
    Burst(ordinary::Options<burst::Load>),
    /// Measure the latency at several shares of what the worker can deliver. Fails if the p95 at 50 % is 100 ms or more.
    Latency(ordinary::Options<latency::Load>),
    /// Measure how a throttled tenant's backlog changes the other tenants' latency. Fails if their p95 rises too much.
    Noisy(ordinary::Options<noisy::Load>),
    /// Measure how waiting messages (for a denied role, and in a long backlog) change the other tenants' latency. Fails
    /// if a bound is broken.
    Waiting(ordinary::Options<waiting::Load>),
    /// Measure how a replay beside the worker changes the latency of live traffic. Fails if the p95 rises by 10 % or more.
    Replay(ordinary::Options<replay::Load>),
    /// Measure one worker on this machine, for the comparison with `loadtest/run simulate point`.
    Point(point::Options),
    /// Run the sandbox in its counting mode. Other commands start it themselves. Ends when its standard input ends.
    Sandbox {
        /// Keep the events, so that they can be read back.
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
            Command::Burst(options) => burst::burst(options).await,
            Command::Latency(options) => latency::latency(options).await,
            Command::Noisy(options) => noisy::noisy(options).await,
            Command::Waiting(options) => waiting::waiting(options).await,
            Command::Replay(options) => replay::replay(options).await,
            Command::Point(options) => point::point(options).await,
            Command::Sandbox { keep: false } => sandbox::serve_counting().await,
            Command::Sandbox { keep: true } => sandbox::serve_keeping().await,
        }
    })
}
