//! Simulates a fleet of workers within AWS's quotas, event by event: which limit is reached first as the number of clusters
//! grows, and what moves it. `loadtest/run simulate` builds and starts it.

#![expect(clippy::print_stdout, reason = "the program's results")]

mod autoscaler;
mod aws;
mod chance;
mod clock;
mod collector;
mod cpu;
mod limit;
mod model;
mod outcome;
mod point;
mod queue;
mod room;
mod scaling;
mod settings;
mod tables;
mod together;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

/// Simulates a fleet of workers.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
enum Command {
    /// Print the tables of docs/scaling.md: what is asked of each limit at 1, 10 and 100 times 1,000 clusters, and what helps.
    Scaling {
        /// Seed of all random numbers.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Factor for the latencies of AWS's services, to see how much the results depend on them.
        #[arg(long, default_value_t = 1.0)]
        latencies: f64,
    },
    /// Compare the model with a measurement of one worker. Fails if they differ by more than 20 %.
    Point {
        /// File that `loadtest/run point` has written.
        #[arg(long, default_value = "loadtest/simulate/point.json")]
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Scaling { seed, latencies } => {
            print!("{}\n{}", tables::limits(seed), tables::cases(seed, latencies));
            ExitCode::SUCCESS
        }
        Command::Point { file } => compare(&file),
    }
}

fn compare(file: &std::path::Path) -> ExitCode {
    let (conditions, figures) = match point::compare(file) {
        Ok(compared) => compared,
        Err(problem) => {
            eprintln!("simulate: {problem}");
            return ExitCode::FAILURE;
        }
    };
    println!("{conditions}");
    for figure in &figures {
        let point::Compared { name, measured, computed } = figure;
        println!(
            "{name}: measured {measured:.1}, computed {computed:.1} ({:+.0} %)",
            100.0 * figure.difference()
        );
    }
    match figures.iter().all(|figure| figure.difference().abs() <= point::TOLERANCE) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
