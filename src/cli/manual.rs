//! `logferry manual`: delivers the objects of one event, or named objects, by [`crate::manual`].
//!
//! The outcome goes to standard output, as one document of JSON; the log goes to standard error.

mod items;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::items::{from_arguments, is_file};
use super::{LAST_EXPORT, OF_WORKERS, Refusal, show::Show, tenant::given_rows, variable};
use crate::{
    app::{
        self,
        manual::{Mode, pipelines},
    },
    config::Config,
    event::{Event, decode_enclosed},
    manual::{
        Item, Origin, Outcome, deliver,
        dry_run::{GivenTenants, Lines},
    },
    telemetry,
    tell::tell,
};

/// The configuration's fields that showing local files uses.
const LOCAL: [&str; 8] = [
    "log.filter",
    "source.key_layout",
    "source.max_object",
    "source.max_record",
    "source.max_stored",
    "source.rules",
    "source.zstd_windows",
    "tenants.default_region",
];
/// The further fields that showing objects in S3 uses.
const STORED: [&str; 4] = ["aws.region", "delivery.attempt_timeout", "delivery.attempts", "source.buckets"];

const MORE: &str = "\
Without objects, an event is read from standard input: of S3, SNS or EventBridge, a message of SQS as the AWS CLI prints it,
or an event of Lambda.
  echo '{\"Message\": \"{\\\"Records\\\": [...]}\"}' | logferry manual

An object in S3 is named as s3://BUCKET/KEY, or s3://BUCKET/KEY?versionId=ID. A local file stands for an object: --key names
the object's key, which says whose logs they are; without --key, the path as it is given must match source.key_layout.

The ledger is used as a worker uses it: what is delivered already is not delivered again, unless --force is given. A local file
has no entry in the ledger. --dry-run prints each event that would be put as one line of JSON (batch, group, stream, timestamp,
message) on standard output, and the outcome on standard error. For local files it needs no access to AWS: without --rows,
every tenant has one delivery to the log group \"dry-run\".

Exit codes: 0 every object is delivered, was delivered before, or is not wanted; 1 an object failed; 2 wrong usage; 64 the
configuration cannot be used; 65 the input is no event, or the rows cannot be used; 66 a file does not exist. After 2 and
above, nothing was delivered.";

#[derive(Debug, Default, Args)]
#[command(after_help = MORE)]
pub(super) struct ManualArgs {
    /// Objects, as s3://BUCKET/KEY or as paths of local files [default: an event on standard input].
    #[arg(value_name = "OBJECT")]
    objects: Vec<String>,
    /// Key of a local file; given once for each file, in order.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Show what would be put. Delivers nothing and does not use the ledger.
    #[arg(long)]
    dry_run: bool,
    /// Take the tenants' rows from this file, in the form that `logferry tenant put` reads, instead of the tenant table.
    #[arg(long, value_name = "FILE", requires = "dry_run")]
    rows: Option<PathBuf>,
    /// Deliver everything again, without the ledger.
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
}

impl ManualArgs {
    /// Whether this command uses the configuration's field.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        if !self.dry_run {
            return OF_WORKERS.iter().all(|table| !field.starts_with(table));
        }
        let stored = self.objects.is_empty() || !self.objects.iter().all(|object| is_file(object));
        LOCAL.contains(&field)
            || stored && (STORED.contains(&field) || self.rows.is_none() && field == "tenants.table")
    }
}

/// Runs the command and prints the outcome.
pub(super) async fn execute(args: ManualArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let key_rules = config.source.key_rules()?;
    let event = match args.objects.is_empty() {
        true if args.keys.is_empty() => read_event()?,
        true => return Err(Refusal::Usage("--key belongs to a local file".to_owned()).into()),
        false => Event::default(),
    };
    let items = match args.objects.is_empty() {
        true => event
            .objects
            .iter()
            .map(|object| Item { object: object.clone(), origin: Origin::Event })
            .collect(),
        false => from_arguments(&args.objects, &args.keys, &key_rules)?,
    };
    let rows = args.rows.as_deref().map(|file| given_rows(file, config)).transpose();
    let rows = rows.map_err(|refusal| Refusal::Invalid(refusal.to_string()))?;
    let mode = match (args.dry_run, args.force) {
        (true, _) => {
            let default_region = config.tenants.default_region.clone();
            let tenants = GivenTenants { rows: rows.unwrap_or_default(), default_region };
            Mode::Show { lines: Lines::new(io::stdout()), tenants }
        }
        (false, true) => Mode::DeliverAgain,
        (false, false) => Mode::Deliver,
    };
    let telemetry = telemetry::start(&config.log, telemetry::Writer::Thread, variable)?;
    let pipelines = pipelines(config, &mode, &items).await?;
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let mut outcome = Outcome { dry_run: args.dry_run, ..Outcome::of(&event) };
    for item in &items {
        let report = deliver(item, &pipelines, &stop).await;
        outcome.add(item, report, &key_rules);
    }
    telemetry.finish(LAST_EXPORT).await;
    // Writes the log lines that wait.
    drop(telemetry);
    match mode {
        Mode::Show { .. } => tell!("{:#}", json!(outcome)),
        Mode::Deliver | Mode::DeliverAgain => Show::Json.result(String::new, || json!(outcome))?,
    }
    Ok(if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads the event on standard input.
fn read_event() -> Result<Event, Refusal> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let problem = "no object is named, and standard input is a terminal; name objects, or pipe an event into the command";
        return Err(Refusal::Usage(problem.to_owned()));
    }
    let text = io::read_to_string(stdin)
        .map_err(|error| Refusal::Invalid(format!("standard input cannot be read: {error}")))?;
    if text.trim().is_empty() {
        return Err(Refusal::Invalid("standard input is empty; it must be one event".to_owned()));
    }
    decode_enclosed(&text).map_err(|error| Refusal::Invalid(format!("standard input: {error}")))
}
