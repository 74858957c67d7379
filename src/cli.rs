//! The command line.

mod doctor;
mod ledger;
mod redrive;
mod show;
mod tenant;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing::{info, warn};

use crate::{
    app::{self, App},
    config::{
        Problem,
        layers::{self, Loaded},
    },
    telemetry,
};

/// The configuration cannot be used. Source: sysexits.h, `EX_USAGE`.
const EXIT_CONFIG: u8 = 64;
/// The command line itself is wrong; what clap ends with by custom.
const EXIT_USAGE: u8 = 2;
/// What was named is not there. Source: sysexits.h, `EX_NOINPUT`.
const EXIT_NOT_FOUND: u8 = 66;

/// Delivers customers' Kubernetes logs from an S3 staging bucket to CloudWatch Logs in their own AWS accounts.
#[derive(Debug, Parser)]
#[command(name = "logferry", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// The configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE", env = "LOGFERRY_CONFIG")]
    config: Option<PathBuf>,
    /// Set one field, over file and environment: --set worker.concurrency=4
    #[arg(long, global = true, value_name = "FIELD=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (also by EXECUTION_MODE=sqs without a command).
    Worker,
    /// Look at and change the tenant table.
    Tenant(tenant::TenantArgs),
    /// Check the wiring, and the way to tenants, for real; say what fails and what mends it.
    Doctor(doctor::DoctorArgs),
    /// Look into the dead-letter queue and move messages back.
    Redrive(redrive::RedriveArgs),
    /// Look into the ledger of delivered objects, and make it forget some.
    Ledger(ledger::LedgerArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the whole path on an embedded AWS: no account, no network.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoOptions),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say what is wrong with it; exit 64 if anything is.
    Check,
    /// Print each value and where it came from.
    Print,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("must be FIELD=VALUE")?;
    Ok((field.to_owned(), value.to_owned()))
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let Cli { command, options } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; if they cannot be printed, nobody reads them.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let command = match command {
        Some(command) => command,
        None => match std::env::var("EXECUTION_MODE").as_deref() {
            Ok("sqs") => Command::Worker,
            Ok(other) => {
                return usage(&format!(
                    "EXECUTION_MODE is {other:?}; without a command only \"sqs\" is known"
                ));
            }
            Err(_) => return usage("no command, and EXECUTION_MODE is not set; try `logferry --help`"),
        },
    };
    match command {
        Command::Worker => with_config(options, |loaded| {
            if problems_found(&loaded, |_| true) {
                return ExitCode::from(EXIT_CONFIG);
            }
            worker(loaded)
        }),
        Command::Tenant(args) => with_config(options, |loaded| {
            if problems_found(&loaded, |field| args.concerned_by(field)) {
                return ExitCode::from(EXIT_CONFIG);
            }
            tenant::run(args, &loaded.config)
        }),
        Command::Doctor(args) => with_config(options, |loaded| {
            if problems_found(&loaded, |field| args.concerned_by(field)) {
                return ExitCode::from(EXIT_CONFIG);
            }
            doctor::run(args, &loaded.config)
        }),
        Command::Redrive(args) => with_config(options, |loaded| {
            if problems_found(&loaded, |field| redrive::CONCERNS.contains(&field)) {
                return ExitCode::from(EXIT_CONFIG);
            }
            redrive::run(args, &loaded.config)
        }),
        Command::Ledger(args) => with_config(options, |loaded| {
            if problems_found(&loaded, |field| ledger::CONCERNS.contains(&field)) {
                return ExitCode::from(EXIT_CONFIG);
            }
            ledger::run(args, &loaded.config)
        }),
        Command::Config(ConfigCommand::Check) => with_config(options, |loaded| {
            if problems_found(&loaded, |_| true) { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS }
        }),
        Command::Config(ConfigCommand::Print) => with_config(options, |loaded| print(&loaded)),
        #[cfg(feature = "demo")]
        Command::Demo(demo) => ended(run_async(crate::demo::run(demo))),
    }
}

fn with_config(options: Options, run: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    // Names that are not UTF-8 are nobody's configuration.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match layers::load(options.config, environment, &options.set) {
        Ok(loaded) => run(loaded),
        Err(error) => usage(&error.to_string()),
    }
}

fn usage(problem: &str) -> ExitCode {
    for line in problem.lines() {
        eprintln!("logferry: {line}");
    }
    ExitCode::from(EXIT_CONFIG)
}

/// Says every problem of those fields and where the bad value came from; false if there is none.
fn problems_found(loaded: &Loaded, concerns: impl Fn(&str) -> bool) -> bool {
    let mut problems = loaded.config.validate();
    problems.retain(|problem| concerns(&problem.field));
    for problem in &problems {
        eprintln!("logferry: {problem} ({})", loaded.origin(&problem.field));
    }
    !problems.is_empty()
}

#[expect(clippy::print_stdout, reason = "the values are the command's result")]
fn print(loaded: &Loaded) -> ExitCode {
    for (field, value) in loaded.fields() {
        println!("{field} = {value}  # {}", loaded.origin(&field));
    }
    ExitCode::SUCCESS
}

fn worker(loaded: Loaded) -> ExitCode {
    let config = loaded.config;
    // Until the end: what waits is written then.
    let _log = match telemetry::start(&config.log) {
        Ok(log) => log,
        Err(error) => return usage(&format!("log.filter: {error}")),
    };
    ended(run_async(async {
        let app = App::build(config.clone()).await?;
        // Before anybody can know that we run: a signal drains from here on.
        app::stop_on_signals(app.stop_token())?;
        info!(
            version = env!("CARGO_PKG_VERSION"), http.listen = %app.listen_address()?, queue.url = config.queue.url,
            worker.concurrency = config.worker.concurrency, "logferry worker starts"
        );
        let (bound, limit) = (app::memory_bound(&config), app::memory_limit());
        info!(
            memory.ordinary_bytes = bound.ordinary,
            memory.worst_bytes = bound.worst,
            memory.limit_bytes = limit,
            "memory that the buffers take"
        );
        if limit.is_some_and(|limit| bound.ordinary > limit / 4 * 3) {
            warn!(
                "the buffers take more than three quarters of the container's memory; lower worker.concurrency"
            );
        }
        let drained = app.run().await?;
        info!(messages.given_back = drained.given_back, "drained");
        Ok(())
    }))
}

fn run_async<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("logferry: {error:#}");
            if error.is::<Problem>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}
