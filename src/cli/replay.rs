//! `logferry replay`: delivers the objects that the bucket has, by [`crate::replay`].
//!
//! The outcome goes to standard output, as one document of JSON; progress and the log go to standard error.

mod shown;

use std::{
    io::{self, IsTerminal},
    num::{NonZeroU32, NonZeroUsize},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    LAST_EXPORT, OF_WORKERS, Refusal,
    moment::{duration, moment},
    show::Show,
    variable,
};
use crate::{
    app::{self, manual::Mode, replay::Supplier},
    config::{Config, Log, Problem},
    name::bucket::OwnBucket,
    replay::{
        Destination, Order,
        estimate::estimate,
        pacer::Caps,
        progress::Progress,
        run,
        selection::Selection,
        watch::{WatchError, Watching, watch},
    },
    telemetry,
    tell::tell,
};

/// The configuration's fields that every run uses.
const COMMON: [&str; 7] = [
    "aws.region",
    "delivery.attempt_timeout",
    "delivery.attempts",
    "log.filter",
    "source.buckets",
    "source.key_layout",
    "source.rules",
];
/// Shortest time between two scans, in seconds: S3 bills a request for each 1,000 objects of each scan.
const SHORTEST_INTERVAL: u64 = 1;
/// AWS's list price of a GB of ingested logs in us-east-1, in USD, for the class Standard. Source: "Amazon CloudWatch pricing".
const LIST_PRICE: f64 = 0.50;
/// Vector's uploads take seconds. A quarter of an hour also covers the upload of a large object over a slow line.
const OVERLAP: Duration = Duration::from_mins(15);

const MORE: &str = "\
The objects are those that the bucket has now; of a bucket with versions, the current ones. The ledger is used as a worker uses
it: objects that are delivered already are passed over with one HeadObject and one call to the ledger for each delivery, so an
interrupted run goes on where it stopped when it is started again. --force delivers everything again, without the ledger. Objects
whose failure may pass, or that a worker is delivering, are tried a second time at the end of the run.

The default caps stay far below live traffic: 50 objects a second are at most 50 small PutLogEvents requests, and 5 MiB a second of
gzip are about 50 full ones, a sixteenth of the lowest quota that AWS has published for an account and Region (800). An object that
was delivered before costs a tenth of a turn.

--watch keeps its place in the ledger's table. Each scan lists everything below the prefix: S3 bills a request for each 1,000
objects. --since counts for the first run only. Ctrl-C or SIGTERM ends it.

Needs s3:ListBucket and s3:GetObject, and what a worker needs to deliver; --to-queue needs sqs:SendMessage instead.

Exit codes: 0 done, busy objects included; 1 an object failed, the bucket cannot be listed, no object of the sample of
--dry-run could be read, or the run was interrupted; 2 wrong usage; 64 the configuration cannot be used. After 2 and above, nothing was delivered.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct ReplayArgs {
    /// The bucket [default: the only one of source.buckets].
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Only objects whose keys begin with this.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PREFIX")]
    prefix: String,
    /// Only objects whose LastModified is not before this time: 2026-11-28T08:00:00Z, or back from now: 2h.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only objects whose LastModified is before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only objects of this tenant; may be given several times.
    #[arg(long = "tenant", value_name = "ID", id = "tenants", value_parser = segment)]
    tenants: Vec<String>,
    /// Only objects of this application; may be given several times.
    #[arg(long = "application", value_name = "NAME", id = "applications", value_parser = segment)]
    applications: Vec<String>,
    /// Objects in work at once, 1 to 1024 [default: worker.concurrency]. Memory grows with it as a worker's.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: Option<u32>,
    /// Begin with at most this many objects per second.
    #[arg(long, value_name = "COUNT", default_value = "50")]
    max_objects_per_second: NonZeroU32,
    /// Begin with at most this many stored bytes per second: 5MiB, 800kB.
    #[arg(long, value_name = "BYTES", default_value = "5MiB", value_parser = bytes)]
    max_bytes_per_second: ByteSize,
    /// Deliver everything again, without the ledger.
    #[arg(long, conflicts_with_all = ["to_queue", "dry_run", "watch"])]
    force: bool,
    /// Send a message for each object to the worker's queue, with the tenant as MessageGroupId, instead of delivering.
    #[arg(long, conflicts_with = "dry_run")]
    to_queue: bool,
    /// Count objects and stored bytes by tenant, and estimate the cost from a sample of up to 20 objects. Delivers nothing.
    #[arg(long)]
    dry_run: bool,
    /// Price of a GB (2^30 bytes) of ingested logs [default: 0.50, AWS's list price in us-east-1, in USD].
    #[arg(long, value_name = "PRICE", requires = "dry_run", value_parser = price)]
    price_per_gb: Option<f64>,
    /// Look for new objects on this interval, for installations without notifications: 60s. Runs until SIGTERM.
    #[arg(long, value_name = "INTERVAL", value_parser = interval, conflicts_with_all = ["dry_run", "until"])]
    watch: Option<Duration>,
    /// How long the upload of an object may take: a scan goes back by this time, so that no object is missed [default: 15m].
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = duration)]
    overlap: Option<Duration>,
}

/// Parses a time, or a duration back from now.
fn time(text: &str) -> Result<Timestamp, String> {
    Ok(moment(text)?.before(Timestamp::now()))
}

/// Parses a name that is a segment of keys.
fn segment(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('/') {
        return Err("no key has such a segment: it is empty or has a slash".to_owned());
    }
    Ok(text.to_owned())
}

fn bytes(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>() {
        Ok(bytes) if bytes.as_u64() > 0 => Ok(bytes),
        _ => Err(format!("{text:?} is not a number of bytes such as 5MiB, above 0")),
    }
}

fn price(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(price) if price.is_finite() && price >= 0.0 => Ok(price),
        _ => Err(format!("{text:?} is not a price such as 0.50")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval.as_secs() < SHORTEST_INTERVAL {
        return Err(format!("{text:?} is too short; the shortest interval is {SHORTEST_INTERVAL} s"));
    }
    Ok(interval)
}

impl ReplayArgs {
    /// Whether this command uses the configuration's field.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        let of_queue = self.to_queue && field == "queue.url";
        let of_watch = self.watch.is_some() && (field.starts_with("ledger.") || field == "queue.max_age");
        if self.to_queue {
            return COMMON.contains(&field) || of_queue || of_watch;
        }
        if self.dry_run {
            let read = ["source.", "tenants."];
            return COMMON.contains(&field) || read.iter().any(|table| field.starts_with(table));
        }
        field == "worker.concurrency" || of_watch || OF_WORKERS.iter().all(|table| !field.starts_with(table))
    }

    /// The bucket, with its owner if `source.buckets` names one.
    fn bucket(&self, config: &Config) -> anyhow::Result<OwnBucket> {
        let known = config.source.buckets.iter().filter_map(|bucket| bucket.parse::<OwnBucket>().ok());
        let known: Vec<_> = known.collect();
        let usage = |problem: String| Err(Refusal::Usage(problem).into());
        match (&self.bucket, known.as_slice()) {
            (None, [only]) => Ok(only.clone()),
            (None, []) => usage("source.buckets names no bucket; name one with --bucket".to_owned()),
            (None, _) => usage("source.buckets names several buckets; choose one with --bucket".to_owned()),
            (Some(name), []) => match name.parse() {
                Ok(bucket) => Ok(bucket),
                Err(problem) => usage(format!("--bucket: {problem}")),
            },
            (Some(name), known) => match known.iter().find(|bucket| bucket.name == *name) {
                Some(bucket) => Ok(bucket.clone()),
                None => usage(format!("--bucket: {name:?} is not one of source.buckets")),
            },
        }
    }

    fn order(&self, config: &Config, bucket: &OwnBucket) -> anyhow::Result<Order> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            let problem =
                format!("--since ({since}) is not before --until ({until}), so no object is selected");
            return Err(Refusal::Usage(problem).into());
        }
        let concurrency = self.concurrency.map_or(config.worker.concurrency, |count| count as usize);
        Ok(Order {
            bucket: bucket.name.clone(),
            selection: Selection {
                prefix: self.prefix.clone(),
                since: self.since,
                until: self.until,
                tenants: self.tenants.clone(),
                applications: self.applications.clone(),
                key_rules: config.source.key_rules()?,
            },
            concurrency: NonZeroUsize::new(concurrency).unwrap_or(NonZeroUsize::MIN),
            caps: Caps {
                objects_per_second: f64::from(self.max_objects_per_second.get()),
                bytes_per_second: self.max_bytes_per_second.as_u64() as f64,
            },
        })
    }

    /// The configuration's fields with the names of resources that the run uses.
    fn resources(&self) -> &'static [&'static str] {
        match (self.to_queue, self.dry_run) {
            (true, _) => &["queue.url", "ledger.table"],
            (false, true) => &["tenants.table"],
            (false, false) => &["tenants.table", "ledger.table"],
        }
    }
}

/// Runs the command and prints the outcome.
pub(super) async fn execute(args: ReplayArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let bucket = args.bucket(config)?;
    let order = args.order(config, &bucket)?;
    if config.ledger.table.is_none() && !(args.force || args.dry_run || args.to_queue && args.watch.is_none())
    {
        let problem = "is required: without a ledger, nothing records what is delivered, and a run that is started again would \
                       deliver everything again; set it, or accept that with --force"
            .to_owned();
        return Err(Problem { field: "ledger.table".to_owned(), problem }.into());
    }
    let supplier = Supplier::new(config, &bucket, args.resources()).await?;
    let listing = supplier.listing();
    let destination: Arc<dyn Destination> = match (args.to_queue, args.force) {
        _ if args.dry_run => Arc::new(supplier.showing()?),
        (true, _) => supplier.sending()?,
        (false, true) => Arc::new(supplier.delivering(&Mode::DeliverAgain, order.concurrency)?),
        (false, false) => Arc::new(supplier.delivering(&Mode::Deliver, order.concurrency)?),
    };
    let telemetry = telemetry::start(&log_beside_bar(&config.log), telemetry::Writer::Thread, variable)?;
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let (outcome, success) = if args.dry_run {
        let price = args.price_per_gb.unwrap_or(LIST_PRICE);
        let estimate =
            estimate(&bucket.name, &order.selection, &listing, &*destination, price, &stop).await?;
        let problem = estimate.problem();
        if let Some(problem) = &problem {
            tell!("logferry: {problem}");
        }
        (json!(estimate), problem.is_none() && !estimate.interrupted)
    } else if let Some(every) = args.watch {
        let watching = Watching {
            every,
            overlap: args.overlap.unwrap_or(OVERLAP),
            max_age: config.queue.max_age,
            since: args.since,
        };
        let places = supplier.places()?;
        let watched = watch(&order, &watching, &listing, &destination, &places, &stop).await;
        let watched = watched.map_err(|error| match error {
            WatchError::NoPlace => Refusal::Usage(error.to_string()).into(),
            other => anyhow::Error::from(other),
        })?;
        (json!(watched), true)
    } else {
        let progress = Arc::new(Progress::default());
        let shown = shown::show(Arc::clone(&progress), listing.clone(), order.selection.clone());
        let shown = AbortOnDropHandle::new(tokio::spawn(shown));
        let outcome = run(&order, &listing, &destination, None, &progress, &stop).await;
        drop(shown);
        if let (Some(error), 0) = (&outcome.listing_error, outcome.counts.listed) {
            anyhow::bail!("{error}");
        }
        (json!(outcome), outcome.is_success())
    };
    telemetry.finish(LAST_EXPORT).await;
    // Writes the log lines that wait.
    drop(telemetry);
    Show::Json.result(String::new, || outcome)?;
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// On a terminal, the bar shows the progress, and the log has only warnings unless `log.filter` is set.
fn log_beside_bar(log: &Log) -> Log {
    let mut log = log.clone();
    if io::stderr().is_terminal() && log.filter == Log::default().filter {
        log.filter = "warn".to_owned();
    }
    log
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn times_are_absolute_or_back_from_now() {
        let at = |text: &str| time(text).map_err(|_| ());
        assert_eq!(
            at("2026-11-28T08:00:00+01:00").map(|at| at.to_string()),
            Ok("2026-11-28T07:00:00Z".into())
        );
        let back = at("2h").map(|at| Timestamp::now().duration_since(at));
        assert!(back.is_ok_and(|back| (back - SignedDuration::from_hours(2)).abs().as_secs() < 5));
        for bad in ["", "yesterday", "2026-11-28", "-2h", "2h ago"] {
            assert_eq!(at(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        assert_eq!(bytes("5MiB").map(|bytes| bytes.as_u64()), Ok(5 << 20));
        assert_eq!(interval("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(price("0"), Ok(0.0));
        for (text, refused) in [
            ("0", bytes("0").is_err()),
            ("five", bytes("five").is_err()),
            ("500ms", interval("500ms").is_err()),
            ("-1", price("-1").is_err()),
            ("inf", price("inf").is_err()),
            ("a/b", segment("a/b").is_err()),
            ("", segment("").is_err()),
        ] {
            assert!(refused, "{text:?}");
        }
    }
}
