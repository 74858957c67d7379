//! `logferry compact`: merges the small files of customers' lakes, by [`crate::lake::compact`].
//!
//! The result goes to standard output, as text or as JSON. Progress and errors go to standard error.

mod rows;

use std::{
    num::NonZeroU8,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytesize::ByteSize;
use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use self::rows::LakeOfRow;
use super::{
    Refusal,
    moment::{Moment, age, duration, moment},
    show::{Show, printable, table},
};
use crate::{
    app,
    config::Config,
    lake::{
        bucket::CompactStore,
        compact::{Report, Setup, compact, memory_bound},
    },
    tell::tell,
};

/// Most rows that are compacted at once. Most of them wait for --settle.
const ROWS: usize = 256;
/// Smallest and largest target. A source is in memory as a whole, and has up to half of the target.
const TARGETS: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
/// Longest --settle. A turn must end well before others may take it over.
const MAX_SETTLE: Duration = Duration::from_mins(10);
/// Time between two lines of progress, without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

const MORE: &str = "\
A worker writes a file or two for each object, and queries of many small files are slow. This command merges the files of each
closed hour of a lake (a row of type s3 with format = \"ndjson\" or \"parquet\") into files named compacted-*. A run that looks at the
hour at least --remove-after later deletes the small files, so run this command every hour. A file of half of --target-size or more
stays as it is. Rows keep their columns and their contents; their order is that of the files' keys.

Queries must follow the manifests, as the view of `logferry lake ddl` does: a file counts if a line of its folder's manifest
says that it is merged; it does not count if a line says that it is replaced by a merged file; without such a line, it counts if
its name does not begin with compacted-. Then they see every record exactly once, also if a run is killed, unless they are
slower than --settle and --remove-after allow. The next run finishes what a killed run left. Runs at the same time are harmless:
one leaves the folders of the other alone. A file that a message brings back later is known, and deleted by the next run that
looks at its hour. If it has another number of records then, it stays and does not count, and the result names it.

A merged file gets the row's Object Lock, from the moment of the merge on. In a bucket with versions, deleted files stay as
older versions, until their lock ends and a lifecycle rule removes them. Parts of files that a killed run left need a lifecycle rule
with AbortIncompleteMultipartUpload.

A file that cannot be read, has other columns, or has a line that is no JSON object, stays where it is; the result names it. Files
of other programs, which have other names than logferry's, stay too, and count.

A run lists each folder of the wanted hours, and S3 bills the customer for it: about 0.005 USD for 1,000 folders. With an hourly run,
a shorter --since is cheaper.

Memory, by an estimate: for each of --concurrency folders half of --target-size and 288 MiB, so 704 MiB by default.

Needs dynamodb:Scan on the tenant table (dynamodb:Query with --tenant), the central role, and in the customer's role s3:ListBucket on
the bucket, and s3:GetObject, s3:PutObject, s3:PutObjectRetention (with Object Lock), s3:AbortMultipartUpload and s3:DeleteObject below
bucket_prefix.

Exit codes: 0 done, folders of another run included; 1 something failed, or the run was interrupted; the rest is done; 2 wrong usage; 64
the configuration cannot be used; 66 no such tenant or lake.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct CompactArgs {
    /// Only this tenant; may be given several times [default: all tenants with a lake].
    #[arg(long = "tenant", value_name = "ID")]
    tenants: Vec<String>,
    /// Only this delivery, by its row's type; may be given several times.
    #[arg(long = "delivery", value_name = "TYPE")]
    deliveries: Vec<String>,
    /// Only hours from this time on: 2026-11-27T08:00:00Z, or an age such as 2h or 3d.
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "2d")]
    since: Moment,
    /// Only hours that ended this long ago. Files that come later are merged by the next run.
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "2h")]
    closed_after: SignedDuration,
    /// Size of merged files.
    #[arg(long, value_name = "BYTES", value_parser = target, default_value = "128MiB")]
    target_size: u64,
    /// Folders in which files are merged at once. Memory grows with it.
    #[arg(long, value_name = "COUNT", default_value = "2")]
    concurrency: NonZeroU8,
    /// Time before a merged file counts. A query that lists a folder before it reads the manifest must need less between the two.
    #[arg(long, value_name = "DURATION", value_parser = settle, default_value = "1m")]
    settle: Duration,
    /// Time before a run deletes a file that does not count any more. A query that reads the manifest before it lists the folder must
    /// need less between the two.
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "1h")]
    remove_after: Duration,
    /// Take a folder over if another run began to merge it, or renewed its claim, this long ago.
    #[arg(long, value_name = "AGE", value_parser = duration, default_value = "1h")]
    takeover_after: Duration,
    /// Show what would be merged. Changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn settle(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        settle if settle <= MAX_SETTLE => Ok(settle),
        _ => Err(format!("{text:?} is longer than {} minutes", MAX_SETTLE.as_secs() / 60)),
    }
}

fn target(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(bytes) if TARGETS.contains(&bytes.as_u64()) => Ok(bytes.as_u64()),
        _ => Err(format!("{text:?} is not a number of bytes from 1MiB to 1GiB")),
    }
}

/// Runs the command and prints its result.
pub(super) async fn execute(args: CompactArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let setup = args.setup(Timestamp::now())?;
    let (rows, store) = app::tools::compaction(config).await?;
    let lakes = rows::find(&rows, &args.tenants, &args.deliveries).await?;
    app::stop_on_signals(setup.stop.clone())?;
    tell!(
        "logferry: merging the files of {:.0} to {:.0}; memory for buffers: up to {}",
        setup.since,
        setup.until,
        HumanBytes(u64::from(args.concurrency.get()) * memory_bound(setup.target))
    );
    let shown = AbortOnDropHandle::new(tokio::spawn(show(Arc::clone(&setup))));
    let results = all(&setup, &store, lakes).await;
    drop(shown);
    let show = if args.json { Show::Json } else { Show::Text };
    let interrupted = setup.stop.is_cancelled();
    show.result(|| text(&results), || as_json(&setup, &results, interrupted))?;
    let failures: usize = results.iter().map(|(_, report)| report.failures.len()).sum();
    tell!("logferry: {}", summary(&setup, &results));
    if interrupted {
        tell!("logferry: interrupted; the next run goes on");
    }
    Ok(if failures == 0 && !interrupted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl CompactArgs {
    fn setup(&self, now: Timestamp) -> Result<Arc<Setup>, Refusal> {
        let until = now.checked_sub(self.closed_after).unwrap_or(Timestamp::MIN);
        let since = self.since.before(now);
        if until.duration_since(since) < SignedDuration::from_hours(1) {
            return Err(Refusal::Usage(format!(
                "from {since:.0} to {until:.0} there is no whole hour; hours that ended less than --closed-after ago are left out"
            )));
        }
        let mut setup = Setup::new(self.target_size, since, until, self.concurrency.get().into());
        setup.settle = self.settle;
        setup.remove_after = self.remove_after;
        setup.takeover = self.takeover_after;
        setup.dry_run = self.dry_run;
        Ok(Arc::new(setup))
    }
}

/// Compacts all rows, several at once.
async fn all<S: CompactStore>(
    setup: &Arc<Setup>,
    store: &S,
    lakes: Vec<LakeOfRow>,
) -> Vec<(LakeOfRow, Report)> {
    let runs = lakes.into_iter().map(async |lake| {
        let report = one(setup, store, &lake).await;
        (lake, report.unwrap_or_else(|problem| Report { failures: vec![problem], ..Report::default() }))
    });
    let mut results: Vec<_> = stream::iter(runs).buffer_unordered(ROWS).collect().await;
    results.sort_by(|(one, _), (other, _)| one.cmp(other));
    results
}

async fn one<S: CompactStore>(setup: &Arc<Setup>, store: &S, lake: &LakeOfRow) -> Result<Report, String> {
    let row = lake.row()?;
    if setup.stop.is_cancelled() {
        return Ok(Report::default());
    }
    let account = store.enter_compaction(&row).await.map_err(|error| error.to_string())?;
    Ok(compact(setup, account, &row).await)
}

fn progress(setup: &Setup) -> String {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let progress = &setup.progress;
    format!(
        "{} folders, {} files merged into {}",
        of(&progress.folders),
        of(&progress.merged),
        of(&progress.written)
    )
}

/// Shows the progress until it is dropped.
async fn show(setup: Arc<Setup>) {
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("the template is right");
    let bar = ProgressBar::new_spinner().with_style(style);
    let every = if bar.is_hidden() { LINE_EVERY } else { Duration::from_millis(200) };
    loop {
        tokio::time::sleep(every).await;
        match bar.is_hidden() {
            true => tell!("logferry: {}", progress(&setup)),
            false => {
                bar.set_message(progress(&setup));
                bar.tick();
            }
        }
    }
}

fn summary(setup: &Setup, results: &[(LakeOfRow, Report)]) -> String {
    let sum = |of: fn(&Report) -> u64| results.iter().map(|(_, report)| of(report)).sum::<u64>();
    let number = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let verb = if setup.dry_run { "would be merged" } else { "merged" };
    let mut text = format!(
        "{}, {}: {} ({}) {verb} into {}",
        number(results.len() as u64, "lake"),
        number(sum(|report| report.folders), "folder"),
        number(sum(|report| report.merged), "file"),
        HumanBytes(sum(|report| report.bytes_before)),
        sum(|report| report.written),
    );
    if !setup.dry_run {
        text.push_str(&format!(" ({})", HumanBytes(sum(|report| report.bytes_after))));
    }
    let removed = if setup.dry_run { "would be deleted" } else { "deleted" };
    for (count, what) in [
        (sum(|report| report.removed), format!("that did not count {removed}")),
        (sum(|report| report.busy), "of another run left alone".to_owned()),
        (sum(|report| report.failures.len() as u64), "failed".to_owned()),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    text
}

fn text(results: &[(LakeOfRow, Report)]) -> String {
    let heads = [
        "TENANT", "TYPE", "LAKE", "FOLDERS", "FILES", "INTO", "BEFORE", "AFTER", "DELETED", "BUSY", "FAILED",
    ];
    let rows = results.iter().map(|(lake, report)| {
        [
            printable(&lake.tenant_id),
            printable(&lake.name),
            printable(&lake.place),
            report.folders.to_string(),
            report.merged.to_string(),
            report.written.to_string(),
            HumanBytes(report.bytes_before).to_string(),
            HumanBytes(report.bytes_after).to_string(),
            report.removed.to_string(),
            report.busy.to_string(),
            report.failures.len().to_string(),
        ]
    });
    let mut text = table(heads, rows);
    for (lake, report) in results.iter().filter(|(_, report)| !report.failures.is_empty()) {
        text.push_str(&format!("\n{} of {}:\n", printable(&lake.name), printable(&lake.tenant_id)));
        report.failures.iter().for_each(|failure| text.push_str(&format!("  {}\n", printable(failure))));
    }
    text
}

fn as_json(setup: &Setup, results: &[(LakeOfRow, Report)], interrupted: bool) -> Value {
    let lakes = results.iter().map(|(lake, report)| {
        json!({
            "tenant_id": lake.tenant_id,
            "type": lake.name,
            "lake": lake.place,
            "folders": report.folders,
            "merged_folders": report.merged_folders,
            "merged_files": report.merged,
            "written_files": report.written,
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "deleted_files": report.removed,
            "busy_folders": report.busy,
            "failures": report.failures,
        })
    });
    json!({
        "from": setup.since.to_string(),
        "until": setup.until.to_string(),
        "dry_run": setup.dry_run,
        "interrupted": interrupted,
        "lakes": lakes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parsed;

    #[test]
    fn only_closed_hours_are_selected() {
        let now: Timestamp = "2026-11-28T12:03:20Z".parse().expect("a time");
        let check = |arguments: &[&str], expected: Option<(&str, &str)>| {
            let setup = parsed::<CompactArgs>(arguments).expect("right usage").setup(now).ok();
            let found = setup.map(|setup| (setup.since.to_string(), setup.until.to_string()));
            let expected = expected.map(|(from, until)| (from.to_owned(), until.to_owned()));
            assert_eq!(found, expected, "{arguments:?}");
        };
        check(&[], Some(("2026-11-26T12:03:20Z", "2026-11-28T10:03:20Z")));
        let since = "2026-11-27T00:00:00Z";
        check(&["--since", since, "--closed-after", "0s"], Some((since, "2026-11-28T12:03:20Z")));
        check(&["--since", "2h"], None);
    }

    #[test]
    fn the_help_quotes_the_memory_of_the_defaults() {
        let defaults = parsed::<CompactArgs>(&[]).expect("right usage");
        let bound = u64::from(defaults.concurrency.get()) * memory_bound(defaults.target_size);
        assert!(MORE.contains(&format!("so {} MiB by default", bound >> 20)), "{} MiB", bound >> 20);
        let rest = memory_bound(defaults.target_size) - defaults.target_size / 2;
        assert!(
            MORE.contains(&format!("half of --target-size and {} MiB", rest >> 20)),
            "{} MiB",
            rest >> 20
        );
    }

    #[test]
    fn the_shipped_schedules_have_enough_memory() {
        let yaml = |file: &str| -> serde_yaml_ng::Value {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            serde_yaml_ng::from_str(&std::fs::read_to_string(path).expect("the file exists")).expect("YAML")
        };
        let job = yaml("k8s/worker/components/compaction/cron-job.yaml");
        let container = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0];
        let task = &yaml("cloudformation/ecs.yaml")["Resources"]["CompactionTask"]["Properties"];
        let limit: ByteSize =
            container["resources"]["limits"]["memory"].as_str().expect("text").parse().expect("a size");
        let task_memory = ByteSize::mib(task["Memory"].as_str().expect("text").parse().expect("a number"));
        let arguments = |list: &serde_yaml_ng::Value| -> Vec<String> {
            let list = list.as_sequence().expect("a list").iter();
            list.map(|argument| argument.as_str().expect("text").to_owned()).collect()
        };
        let of_task = arguments(&task["ContainerDefinitions"][0]["Command"]);
        for (given, limit) in [(arguments(&container["args"]), limit), (of_task, task_memory)] {
            assert_eq!(given[0], "compact");
            let given: Vec<_> = given[1..].iter().map(String::as_str).collect();
            let given = parsed::<CompactArgs>(&given).expect("right usage");
            let bound = u64::from(given.concurrency.get()) * memory_bound(given.target_size);
            let rest = limit.as_u64().saturating_sub(bound);
            assert!(rest > 256 << 20, "{limit} for {}", ByteSize::b(bound));
        }
    }

    #[test]
    fn values_without_a_meaning_are_refused() {
        for arguments in [
            ["--target-size", "1kB"],
            ["--target-size", "2GiB"],
            ["--concurrency", "0"],
            ["--settle", "11m"],
            ["--since", "yesterday"],
        ] {
            assert!(parsed::<CompactArgs>(&arguments).is_err(), "{arguments:?}");
        }
    }
}
