//! The command line.

#[cfg(feature = "tools")]
mod compact;
#[cfg(feature = "tools")]
mod cost;
mod doctor;
mod healthcheck;
#[cfg(feature = "tools")]
mod lake;
#[cfg(feature = "tools")]
mod ledger;
#[cfg(feature = "tools")]
mod manual;
mod moment;
mod redrive;
#[cfg(feature = "tools")]
mod replay;
#[cfg(feature = "tools")]
mod shadow;
mod show;
mod tenant;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand, error::ContextKind};
use tokio::runtime::Runtime;
use tracing::{info, warn};

use self::show::Show;
use crate::{
    app::{self, App},
    config::{
        Config, Problem,
        layers::{self, Loaded},
    },
    telemetry::{self, Writer},
    tell::tell,
};

/// Anything else.
const EXIT_FAILURE: u8 = 1;
/// The configuration is wrong. Source: sysexits.h, `EX_USAGE`.
const EXIT_CONFIG: u8 = 64;
/// Fields that only the worker's loop and its endpoint use.
#[cfg(feature = "lambda")]
const OF_LOOP: [&str; 8] = [
    "http.admin_listen",
    "http.listen",
    "queue.max_hidden",
    "queue.max_messages",
    "queue.url",
    "queue.visibility_timeout",
    "queue.wait_time",
    "worker.grace_period",
];
/// The command line is wrong. clap uses the same code.
const EXIT_USAGE: u8 = 2;
/// Rows or an event cannot be used. Source: sysexits.h, `EX_DATAERR`.
const EXIT_INVALID: u8 = 65;
/// A named tenant, row, file or object does not exist. Source: sysexits.h, `EX_NOINPUT`.
const EXIT_NOT_FOUND: u8 = 66;

/// The configuration's fields that the tenant table and the customers' accounts need.
#[cfg(feature = "tools")]
const OF_CUSTOMERS: [&str; 9] = [
    "aws.region",
    "credentials.central_role_arn",
    "credentials.refresh_before",
    "credentials.session_duration",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "delivery.mode",
    "tenants.default_region",
    "tenants.table",
];
/// Tables of fields that only a worker uses.
#[cfg(feature = "tools")]
const OF_WORKERS: [&str; 4] = ["http.", "metrics.", "queue.", "worker."];
/// Longest time for the last export of a command's traces.
#[cfg(feature = "tools")]
const LAST_EXPORT: std::time::Duration = std::time::Duration::from_secs(3);

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
    /// Set one field; overrides file and environment: --set worker.concurrency=4
    #[arg(long, global = true, value_name = "FIELD=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service. EXECUTION_MODE=sqs without a command does the same.
    Worker,
    /// Handle the batches that Lambda receives from the queue. On Lambda this is the command without a command.
    #[cfg(feature = "lambda")]
    Lambda,
    /// Deliver the objects of one event, or named objects, or show what would be delivered. EXECUTION_MODE=manual without a
    /// command does the same.
    #[cfg(feature = "tools")]
    Manual(manual::ManualArgs),
    /// Show and change the tenant table.
    Tenant(tenant::TenantArgs),
    /// Check that messages can be received and delivered; show each failed condition with its fix.
    Doctor(doctor::DoctorArgs),
    /// Ask /healthz of the worker on this host, for the health checks of Docker and ECS; exit with 1 if it does not answer
    /// or its receive loop stands still.
    Healthcheck,
    /// Show dead letters and move them back to the queue.
    Redrive(redrive::RedriveArgs),
    /// Deliver the objects that the bucket has: after an outage, for a new tenant, or without notifications.
    #[cfg(feature = "tools")]
    Replay(replay::ReplayArgs),
    /// Merge the small files of customers' lakes.
    #[cfg(feature = "tools")]
    Compact(compact::CompactArgs),
    /// Show the ledger's entries of delivered objects, or delete entries to deliver the objects again.
    #[cfg(feature = "tools")]
    Ledger(ledger::LedgerArgs),
    /// Compare what shadow mode counted with what customers' CloudWatch Logs holds.
    #[cfg(feature = "tools")]
    Shadow(shadow::ShadowArgs),
    /// Print the tables of a customer's lake, for Athena.
    #[cfg(feature = "tools")]
    Lake(lake::LakeArgs),
    /// Calculate what a month costs the provider and the customers, and what other ways would cost.
    #[cfg(feature = "tools")]
    Cost(cost::CostArgs),
    /// Check or show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Deliver sample logs on an embedded AWS; needs neither an AWS account nor a network.
    #[cfg(feature = "demo")]
    Demo(crate::demo::DemoOptions),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem of the configuration; exit with 64 if there is one.
    Check,
    /// Print each value and its origin.
    Print,
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (field, value) = text.split_once('=').ok_or("must be FIELD=VALUE")?;
    Ok((field.to_owned(), value.to_owned()))
}

/// Runs the command that the command line names.
pub fn main() -> ExitCode {
    let Cli { command, options } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let unknown =
                error.get(ContextKind::InvalidSubcommand).and_then(|name| left_out(&name.to_string()));
            if let Some(problem) = unknown {
                tell!("logferry: {problem}");
                return ExitCode::from(EXIT_USAGE);
            }
            // Help and version come as errors too. If printing fails, standard output is closed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let command = match command {
        Some(command) => command,
        None => match by_environment() {
            Ok(command) => command,
            Err(problem) => return misconfigured(&problem),
        },
    };
    execute(command, options).unwrap_or_else(|code| code)
}

/// Why this program does not have a command that other builds have.
fn left_out(command: &str) -> Option<String> {
    let feature = match command {
        "lambda" if !cfg!(feature = "lambda") => "lambda",
        "compact" | "cost" | "lake" | "ledger" | "manual" | "replay" | "shadow"
            if !cfg!(feature = "tools") =>
        {
            "tools"
        }
        "demo" if !cfg!(feature = "demo") => "demo",
        _ => return None,
    };
    Some(format!(
        "this program was built without the command `{command}`; build it with `cargo build --features {feature}`"
    ))
}

/// The command that the environment names. On Lambda, no other command could run.
fn by_environment() -> Result<Command, String> {
    #[cfg(feature = "lambda")]
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_some() {
        return Ok(Command::Lambda);
    }
    match std::env::var("EXECUTION_MODE").as_deref() {
        Ok("sqs") => Ok(Command::Worker),
        #[cfg(feature = "tools")]
        Ok("manual") => Ok(Command::Manual(manual::ManualArgs::default())),
        #[cfg(feature = "lambda")]
        Ok("lambda") => Ok(Command::Lambda),
        Ok(mode) => Err(match left_out(mode).filter(|_| matches!(mode, "lambda" | "manual")) {
            Some(problem) => format!("EXECUTION_MODE is {mode:?}, but {problem}"),
            None => format!(
                "EXECUTION_MODE is {mode:?}; without a command, it must be \"sqs\", \"lambda\" or \"manual\""
            ),
        }),
        Err(_) => Err("no command, and EXECUTION_MODE is not set; try `logferry --help`".to_owned()),
    }
}

fn execute(command: Command, options: Options) -> Result<ExitCode, ExitCode> {
    Ok(match command {
        Command::Worker => worker(valid(options, |_| true)?.config),
        #[cfg(feature = "lambda")]
        Command::Lambda => lambda(&valid(options, |field| !OF_LOOP.contains(&field))?.config),
        #[cfg(feature = "tools")]
        Command::Manual(args) => {
            let loaded = valid(options, |field| args.concerned_by(field))?;
            ended(run_async(manual::execute(args, &loaded.config)))
        }
        #[cfg(feature = "tools")]
        Command::Replay(args) => {
            let loaded = valid(options, |field| args.concerned_by(field))?;
            ended(run_async(replay::execute(args, &loaded.config)))
        }
        Command::Tenant(args) => {
            let loaded = valid(options, |field| args.concerned_by(field))?;
            ended(run_async(tenant::execute(args, &loaded.config)).map(|()| ExitCode::SUCCESS))
        }
        Command::Doctor(args) => {
            let loaded = valid(options, |field| args.concerned_by(field))?;
            ended(run_async(doctor::execute(args, &loaded.config)))
        }
        Command::Healthcheck => {
            let loaded = valid(options, |field| field == healthcheck::CONCERNS)?;
            ended(run_async(healthcheck::execute(&loaded.config)))
        }
        Command::Redrive(args) => {
            let loaded = valid(options, |field| redrive::CONCERNS.contains(&field))?;
            ended(run_async(redrive::execute(args, &loaded.config)))
        }
        #[cfg(feature = "tools")]
        Command::Compact(args) => {
            let loaded = valid(options, |field| OF_CUSTOMERS.contains(&field))?;
            ended(run_async(compact::execute(args, &loaded.config)))
        }
        #[cfg(feature = "tools")]
        Command::Ledger(args) => {
            let loaded = valid(options, |field| ledger::CONCERNS.contains(&field))?;
            ended(run_async(ledger::execute(args, &loaded.config)))
        }
        #[cfg(feature = "tools")]
        Command::Shadow(args) => {
            let loaded = valid(options, |field| field == "ledger.table" || OF_CUSTOMERS.contains(&field))?;
            // 1 would mean a difference.
            ended_or(run_async(shadow::execute(args, &loaded.config)), shadow::EXIT_NOT_COMPARED)
        }
        #[cfg(feature = "tools")]
        Command::Lake(args) => {
            let loaded = valid(options, |field| args.concerned_by(field))?;
            ended(run_async(lake::execute(args, &loaded.config)))
        }
        #[cfg(feature = "tools")]
        Command::Cost(args) => ended(cost::execute(args)),
        Command::Config(ConfigCommand::Check) => {
            valid(options, |_| true)?;
            match telemetry::check(variable) {
                Ok(()) => ExitCode::SUCCESS,
                Err(problems) => {
                    problems.iter().for_each(|problem| tell!("logferry: {problem}"));
                    ExitCode::from(EXIT_CONFIG)
                }
            }
        }
        Command::Config(ConfigCommand::Print) => ended(print(&load(options)?)),
        #[cfg(feature = "demo")]
        Command::Demo(demo) => ended(run_async(crate::demo::run(demo)).map(|()| ExitCode::SUCCESS)),
    })
}

/// Parses the arguments of a command.
#[cfg(test)]
fn parsed<A: Args>(arguments: &[&str]) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("test"));
    A::from_arg_matches(&command.try_get_matches_from([&["test"], arguments].concat())?)
}

/// A command cannot be carried out as given: nothing was delivered, and nothing changed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
}

impl Refusal {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Invalid(_) => EXIT_INVALID,
            Self::NotFound(_) => EXIT_NOT_FOUND,
        }
    }
}

fn load(options: Options) -> Result<Loaded, ExitCode> {
    // The configuration's variables and their values are UTF-8, so other variables are ignored.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    layers::load(options.config, environment, &options.set).map_err(|error| misconfigured(&error.to_string()))
}

/// Loads the configuration. Reports every problem of the fields that `concerns` selects, with the bad value's origin.
fn valid(options: Options, concerns: impl Fn(&str) -> bool) -> Result<Loaded, ExitCode> {
    let loaded = load(options)?;
    let mut problems = loaded.config.validate();
    problems.retain(|problem| concerns(&problem.field));
    for problem in &problems {
        tell!("logferry: {problem} ({})", loaded.origin(&problem.field));
    }
    if problems.is_empty() { Ok(loaded) } else { Err(ExitCode::from(EXIT_CONFIG)) }
}

fn misconfigured(problem: &str) -> ExitCode {
    for line in problem.lines() {
        tell!("logferry: {line}");
    }
    ExitCode::from(EXIT_CONFIG)
}

fn print(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let line = |(field, value): (String, String)| format!("{field} = {value}  # {}\n", loaded.origin(&field));
    Show::Text.result(|| loaded.fields().into_iter().map(line).collect(), Default::default)?;
    Ok(ExitCode::SUCCESS)
}

fn worker(config: Config) -> ExitCode {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(error.into())),
    };
    // Kept until the end, because dropping it writes the log lines that wait.
    let started = runtime.block_on(async { telemetry::start(&config.log, Writer::Thread, variable) });
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(error) => return misconfigured(&error.to_string()),
    };
    let exit = ended(runtime.block_on(async {
        let app = App::build(config.clone(), telemetry.filter()).await?;
        // This comes before the readiness probe can succeed, so that a signal always drains a worker that was ready.
        app::stop_on_signals(app.stop_token())?;
        info!(
            version = env!("CARGO_PKG_VERSION"), http.listen = %app.listen_address()?,
            http.admin_listen = app.admin_address()?.map(tracing::field::display), queue.url = config.queue.url,
            worker.concurrency = config.worker.concurrency, "logferry worker starts"
        );
        tell_memory(&config);
        let (stop, grace_period) = (app.stop_token(), config.worker.grace_period);
        let end = tokio::spawn(async move {
            stop.cancelled().await;
            Instant::now() + grace_period
        });
        let drained = app.run().await?;
        info!(messages.given_back = drained.given_back, "logferry worker has drained");
        telemetry.finish(end.await?.saturating_duration_since(Instant::now())).await;
        Ok(ExitCode::SUCCESS)
    }));
    // Does not wait for threads that wait for a name server or a disk.
    runtime.shutdown_background();
    exit
}

#[cfg(feature = "lambda")]
fn lambda(config: &Config) -> ExitCode {
    ended(run_async(async {
        let telemetry = match telemetry::start(&config.log, Writer::Caller, variable) {
            Ok(telemetry) => telemetry,
            Err(error) => return Ok(misconfigured(&error.to_string())),
        };
        tell_memory(config);
        app::lambda(config, &telemetry).await?;
        Ok(ExitCode::FAILURE)
    }))
}

fn tell_memory(config: &Config) {
    let (bound, limit) = (app::memory_bound(config), app::memory_limit(variable));
    info!(
        memory.ordinary_bytes = bound.ordinary,
        memory.worst_bytes = bound.worst,
        memory.limit_bytes = limit,
        "memory that the buffers can take"
    );
    if limit.is_some_and(|limit| bound.ordinary > limit / 4 * 3) {
        warn!(
            "the buffers can take more than three quarters of the memory limit; lower worker.concurrency or raise the limit"
        );
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn run_async<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime()?.block_on(work)
}

/// Stack of the runtime's threads in bytes. The work on a message is nested deeply, and its frames are large without optimisation:
/// 2 MiB, tokio's default, overflowed in the profile `dev`. A thread uses only as much memory as it has touched.
const STACK: usize = 8 << 20;

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK).build()
}

/// The exit code of a command. Prints its error.
fn ended(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    ended_or(outcome, EXIT_FAILURE)
}

/// The same, with the exit code of other errors than those of usage and configuration.
fn ended_or(outcome: anyhow::Result<ExitCode>, other: u8) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        tell!("logferry: {error:#}");
        ExitCode::from(match error.downcast_ref::<Refusal>() {
            Some(refusal) => refusal.exit_code(),
            None if error.is::<Problem>() || error.is::<telemetry::StartError>() => EXIT_CONFIG,
            None => other,
        })
    })
}
