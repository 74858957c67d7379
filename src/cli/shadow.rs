//! `logferry shadow`: compares what shadow mode counted with what customers' CloudWatch Logs holds.
//!
//! The result goes to standard output, as text or as JSON. Progress and errors go to standard error.

mod report;
mod targets;

use std::{collections::BTreeMap, num::NonZeroU16, ops::Range, process::ExitCode};

use clap::{Args, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use self::targets::{Destined, Target};
use super::{
    Refusal,
    moment::{Moment, age, moment},
    show::Show,
};
use crate::{
    app::{self, tools::ShadowSources},
    config::Config,
    shadow::{
        WINDOW, Window, WindowCounts,
        comparison::{By, Cells, Comparison, compare},
        dynamodb::Object,
    },
    tell::tell,
};

/// A log group differs from the counts.
const EXIT_DIFFERENT: u8 = 1;
/// Nothing differs, but something could not be compared.
pub(super) const EXIT_NOT_COMPARED: u8 = 3;

const MORE: &str = "\
A delivery in shadow mode (`deliver = \"shadow\"` in its row, or delivery.mode = \"shadow\" in the worker's configuration)
does everything except putting, and counts the events and bytes that it would have put: for each log group, stream and five
minutes of event time. This command reads the log groups through the customers' roles, as another program filled them, and
compares. A difference in either direction is found: events that are missing in CloudWatch Logs, and events that logferry
would not have delivered.

Only whole windows of five minutes are compared. Give a time after the start of shadow mode as --since. Windows that end
less than --settle ago are left out, because their events may still be on the way. If the two programs name streams
differently, use --by group. All of a group is read, so name all tenants that share a log group.

Each call reads at most 1 MB. CloudWatch Logs limits the calls per account and Region, and the customer shares the limit; use
--rate.

Needs dynamodb:Query on the tenant table and the ledger's table, dynamodb:Scan on the tenant table without --tenant, the
central role, and logs:FilterLogEvents in the customer's role. A customer's role need not allow it: then the counts are shown,
and the group is not compared.

Exit codes: 0 all are equal; 1 some are different; 2 wrong usage; 3 none is different, but some could not be compared; 64 the
configuration cannot be used; 66 no such tenant or delivery, or nothing is in shadow mode.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct ShadowArgs {
    #[command(subcommand)]
    command: ShadowCommand,
}

#[derive(Debug, Subcommand)]
enum ShadowCommand {
    /// Compare counts with the events in CloudWatch Logs. Changes nothing.
    #[command(after_help = MORE)]
    Compare(CompareArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Only this tenant, whether or not it is in shadow mode; may be given several times [default: all deliveries in shadow
    /// mode].
    #[arg(long = "tenant", value_name = "ID")]
    tenants: Vec<String>,
    /// Only this delivery, by its row's type; may be given several times.
    #[arg(long = "delivery", value_name = "TYPE")]
    deliveries: Vec<String>,
    /// Only events at this time or later: 2026-11-27T08:00:00Z, or an age such as 90m, 2h, 3d.
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "1h")]
    since: Moment,
    /// Only events before this time [default: now].
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
    /// Leave out windows that ended less than this ago.
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "10m")]
    settle: SignedDuration,
    /// Compare each stream, or the sums of each log group.
    #[arg(long, value_enum, default_value_t = ByArg::Stream)]
    by: ByArg,
    /// Most calls of FilterLogEvents per second.
    #[arg(long, value_name = "COUNT", default_value = "5")]
    rate: NonZeroU16,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByArg {
    Stream,
    Group,
}

/// The comparison of one target.
#[derive(Debug)]
struct Compared {
    target: Target,
    finding: Finding,
    /// Events that shadow mode counted as rejected for their age.
    rejected: u64,
    /// The counted objects of each window and stream, with their events.
    objects: BTreeMap<(Window, String), Vec<(Object, u64)>>,
}

#[derive(Debug)]
enum Finding {
    /// Both sides were read, and at least one has events.
    Both(Comparison),
    /// Neither side has an event.
    Empty,
    /// The other side was not read.
    Counted { counted: Cells, why: String },
}

impl Compared {
    fn state(&self) -> &'static str {
        match &self.finding {
            Finding::Both(comparison) if comparison.differences.is_empty() => "equal",
            Finding::Both(_) => "different",
            Finding::Empty => "empty",
            Finding::Counted { .. } => "not compared",
        }
    }
}

/// Runs the command and prints its result.
pub(super) async fn execute(args: ShadowArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let ShadowCommand::Compare(args) = args.command;
    let windows = args.windows(Timestamp::now())?;
    let by = match args.by {
        ByArg::Stream => By::Stream,
        ByArg::Group => By::Group,
    };
    let mut sources = app::tools::shadow_sources(config, args.rate.get()).await?;
    let targets = targets::find(&sources.rows, &args.tenants, &args.deliveries).await?;
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let mut compared = Vec::new();
    for target in targets {
        tokio::select! {
            found = look(&mut sources, target, windows.clone(), by) => compared.extend(found?),
            () = stop.cancelled() => anyhow::bail!("interrupted; the remaining log groups were not compared"),
        }
    }
    let show = if args.json { Show::Json } else { Show::Text };
    show.result(|| report::text(&compared), || report::json(&compared, &windows, by))?;
    let count = |state| compared.iter().filter(|compared| compared.state() == state).count();
    let (different, equal) = (count("different"), count("equal"));
    tell!(
        "logferry: {} to {}, {}: {equal} equal, {different} different, {} without events, {} not compared",
        windows.start,
        windows.end,
        if compared.len() == 1 { "1 place".to_owned() } else { format!("{} places", compared.len()) },
        count("empty"),
        count("not compared"),
    );
    Ok(match (different, equal == compared.len()) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(EXIT_NOT_COMPARED),
        _ => ExitCode::from(EXIT_DIFFERENT),
    })
}

impl CompareArgs {
    /// The whole windows between `since` and `until` that have settled.
    fn windows(&self, now: Timestamp) -> Result<Range<Window>, Refusal> {
        let settled = now.checked_sub(self.settle).unwrap_or(Timestamp::MIN);
        let until = self.until.map_or(settled, |until| until.before(now).min(settled));
        let since = self.since.before(now);
        let start = Window::of(since.as_millisecond().saturating_add(WINDOW - 1));
        let end = Window::of(until.as_millisecond());
        if start < end {
            return Ok(start..end);
        }
        Err(Refusal::Usage(format!(
            "from {since:.0} to {until:.0} there is no whole window of five minutes; windows that ended less than --settle ago \
             are left out"
        )))
    }
}

/// Compares one target. Counts of a log group that the rows do not name any more are shown by themselves.
async fn look(
    sources: &mut ShadowSources,
    target: Target,
    windows: Range<Window>,
    by: By,
) -> anyhow::Result<Vec<Compared>> {
    let mut found = Vec::new();
    for (tenant_id, delivery) in &target.deliveries {
        found.extend(sources.counts.read(tenant_id, delivery, windows.clone()).await?);
    }
    let mut places = BTreeMap::<String, Vec<(Object, WindowCounts)>>::new();
    for (object, counts) in found {
        places.entry(counts.place.clone()).or_default().push((object, counts));
    }
    let here = places.remove(&target.place).unwrap_or_default();
    let (counted, rejected) = cells(&here, by);
    let objects = objects_by(here, by);
    let finding = match &target.destined {
        Destined::CloudWatch(delivery, destination) => {
            match sources.groups.count(delivery, destination, windows).await {
                Ok(held) if counted.is_empty() && held.is_empty() => Finding::Empty,
                Ok(held) => Finding::Both(compare(&counted, &held, by)),
                Err(error) => Finding::Counted { counted, why: format!("not readable: {error}") },
            }
        }
        Destined::Nowhere(problem) => Finding::Counted { counted, why: problem.clone() },
        Destined::Bucket => {
            let why =
                "objects in buckets are counted by the time of their events, and not compared".to_owned();
            Finding::Counted { counted, why }
        }
    };
    let mut compared = vec![Compared { target: target.clone(), finding, rejected, objects }];
    for (place, there) in places {
        let (counted, rejected) = cells(&there, by);
        let why = "the row does not name this place any more".to_owned();
        let (target, objects) = (Target { place, ..target.clone() }, objects_by(there, by));
        compared.push(Compared { target, finding: Finding::Counted { counted, why }, rejected, objects });
    }
    Ok(compared)
}

/// The objects of each cell that is compared.
fn objects_by(counts: Vec<(Object, WindowCounts)>, by: By) -> BTreeMap<(Window, String), Vec<(Object, u64)>> {
    let mut objects = BTreeMap::<_, Vec<_>>::new();
    for (object, WindowCounts { window, streams, .. }) in counts {
        let mut sums = BTreeMap::<String, u64>::new();
        for (stream, count) in streams {
            *sums.entry(by.name(stream)).or_default() += count.events;
        }
        for (stream, events) in sums {
            objects.entry((window, stream)).or_default().push((object.clone(), events));
        }
    }
    objects
}

/// Adds the counts of all objects, and their rejected events.
fn cells(counts: &[(Object, WindowCounts)], by: By) -> (Cells, u64) {
    let (mut cells, mut rejected) = (Cells::new(), 0);
    for (_, counts) in counts {
        rejected += counts.rejected;
        for (stream, count) in &counts.streams {
            *cells.entry((counts.window, by.name(stream.clone()))).or_default() += *count;
        }
    }
    (cells, rejected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parsed;

    #[test]
    fn only_whole_windows_that_have_settled_are_compared() {
        let check = |arguments: &[&str], expected: Option<(&str, &str)>| {
            let compare: CompareArgs = parsed(arguments).expect("right usage");
            let found = compare.windows("2026-11-28T12:03:20Z".parse().expect("a time"));
            let found = found.map(|found| (found.start.to_string(), found.end.to_string())).ok();
            let expected = expected.map(|(from, until)| (from.to_owned(), until.to_owned()));
            assert_eq!(found, expected, "{arguments:?}");
        };
        check(&[], Some(("2026-11-28T11:05:00Z", "2026-11-28T11:50:00Z")));
        check(&["--settle", "0s"], Some(("2026-11-28T11:05:00Z", "2026-11-28T12:00:00Z")));
        let from = "2026-11-28T10:00:00Z";
        check(&["--since", from, "--until", "2026-11-28T10:15:00Z"], Some((from, "2026-11-28T10:15:00Z")));
        check(&["--since", from, "--until", "2026-11-28T10:14:59Z"], Some((from, "2026-11-28T10:10:00Z")));
        check(&["--since", "2026-11-28T10:00:01Z", "--until", "2026-11-28T10:09:00Z"], None);
        check(&["--since", "12m"], None);
    }
}
