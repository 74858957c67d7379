//! `logferry ledger`: what operators do with the entries of delivered objects.
//!
//! Results go to standard output, as a table or as JSON; progress and what went wrong go to standard error.

mod report;
mod selection;

use std::{num::NonZeroU16, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use self::selection::{Reach, Selection, SelectionArgs};
use super::{EXIT_CONFIG, EXIT_NOT_FOUND, EXIT_USAGE, run_async, show::Show};
use crate::{
    app,
    config::{Config, Problem},
    ledger::dynamodb::entries::{EntriesError, Entry, Forgotten, Guard, LedgerEntries, Page},
};

/// The fields of the configuration that these commands use.
pub(super) const CONCERNS: [&str; 6] = [
    "aws.region",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "ledger.max_clock_skew",
    "ledger.retention",
    "ledger.table",
];
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Entries that are deleted at once.
const DELETIONS: usize = 16;

/// Shown with the help of every command.
const MORE: &str = "\
The ledger remembers for each object and delivery how many records are accounted for. An object whose entry is done is not
delivered again. Once its entry is forgotten, it is delivered anew, from its first record, when it is told of again: by a
letter that `logferry redrive move` sends back, or by another message about it. Forget what was delivered to a wrong place
after the tenant's row is mended, and older than tenants.cache_ttl.

One version of an object is read by a Query. Everything else, an object without its version or a prefix, reads the whole
table by a Scan: some 128 kB of entries per read capacity of 16 units. --rate spares the workers that share the table.
The ledger does not keep times of change: they are the end of an entry's life less ledger.retention, and wrong for entries
that were written with another one.

An entry under a lease is one that a worker is busy with; `forget` leaves it alone, until ledger.max_clock_skew after the
lease's end: the worker's clock may be behind. With --force it is forgotten too: its
worker goes on and writes the entry anew, and what it put before may arrive again.

Needs dynamodb:Query, Scan and DeleteItem on the table, as far as you use them.

Exit codes: 0 done; 1 something could not be read or forgotten; 2 wrong usage; 64 the configuration cannot be used; 66 the
object has no entry.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Show entries: how far each delivery of an object is; changes nothing.
    #[command(after_help = MORE)]
    Show {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Read at most so many of the table's entries per second.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU16>,
    },
    /// Delete entries, so that their objects are delivered anew when they are told of again.
    #[command(after_help = MORE)]
    Forget {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Read, and so delete, at most so many of the table's entries per second.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU16>,
        /// Say which would be forgotten.
        #[arg(long)]
        dry_run: bool,
        /// Those too that a worker is busy with.
        #[arg(long)]
        force: bool,
        /// Really; needed with --prefix.
        #[arg(long)]
        yes: bool,
    },
}

/// What a command does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Show,
    DryRun(Leases),
    Forget(Leases),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leases {
    Respected,
    Overridden,
}

/// An entry, and what became of it.
#[derive(Debug)]
struct Found {
    entry: Entry,
    /// When it was last changed.
    changed_at: Option<Timestamp>,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Shown,
    WouldBeForgotten,
    Forgotten,
    /// It is under a lease.
    Leased,
    Failed(EntriesError),
}

/// Everything that was found, in the order in which it was.
#[derive(Debug, Default)]
struct Outcome {
    found: Vec<Found>,
    /// What ended it before the whole table was read.
    broken_off: Option<String>,
}

/// Does what the arguments ask for and says what became of it.
pub(super) fn run(args: LedgerArgs, config: &Config) -> ExitCode {
    match run_async(execute(args, config)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("logferry: {error:#}");
            if error.is::<Problem>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

async fn execute(args: LedgerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let LedgerArgs { command, json } = args;
    let show = if json { Show::Json } else { Show::Text };
    let now = Timestamp::now();
    let retention = SignedDuration::try_from(config.ledger.retention).unwrap_or(SignedDuration::MAX);
    let (selection, rate, doing) = match command {
        LedgerCommand::Show { selection, rate } => (selection.at(now, retention), rate, Doing::Show),
        LedgerCommand::Forget { selection, rate, dry_run, force, yes } => {
            let selection = selection.at(now, retention);
            if let (Reach::Prefix(prefix), false, false) = (&selection.reach, dry_run, yes) {
                eprintln!(
                    "logferry: this forgets every entry asked for whose object begins with {prefix:?}; give --yes to do \
                     it, or --dry-run to see which"
                );
                return Ok(ExitCode::from(EXIT_USAGE));
            }
            let leases = if force { Leases::Overridden } else { Leases::Respected };
            (selection, rate, if dry_run { Doing::DryRun(leases) } else { Doing::Forget(leases) })
        }
    };
    let entries = app::commands::ledger_entries(config).await?;
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    // What ended before that has ended by every worker's clock.
    let skew = SignedDuration::try_from(config.ledger.max_clock_skew).unwrap_or(SignedDuration::MAX);
    let ended_at = now.checked_sub(skew).unwrap_or(Timestamp::MIN);
    let outcome = sweep(&entries, &selection, rate, doing, ended_at, &stop).await;
    show.result(|| report::text(&outcome.found, ended_at), || report::json(&outcome.found, ended_at))?;
    Ok(told(&outcome, &selection, doing))
}

/// Finds entries, page by page, and does with each what is asked for.
async fn sweep(
    entries: &LedgerEntries,
    selection: &Selection,
    rate: Option<NonZeroU16>,
    doing: Doing,
    ended_at: Timestamp,
    stop: &CancellationToken,
) -> Outcome {
    let (mut outcome, mut seen) = (Outcome::default(), 0);
    let (mut from, mut told_at, mut next_at) = (None, Instant::now(), Instant::now());
    loop {
        let read = async {
            tokio::time::sleep_until(next_at).await;
            match &selection.reach {
                Reach::Pinned(object) => entries.of(object).await.map(|found| Page {
                    seen: found.len(),
                    entries: found,
                    next: None,
                }),
                // A second's worth.
                Reach::Object(prefix) | Reach::Prefix(prefix) => {
                    entries.page(prefix, from.take(), rate.map(|rate| rate.get().into())).await
                }
            }
        };
        let page = tokio::select! {
            page = read => page.map_err(|error| error.to_string()),
            () = stop.cancelled() => Err("interrupted".to_owned()),
        };
        let page = match page {
            Ok(page) => page,
            Err(problem) => {
                outcome.broken_off = Some(problem);
                return outcome;
            }
        };
        if let Some(rate) = rate {
            next_at =
                next_at.max(Instant::now()) + Duration::from_secs(page.seen as u64) / u32::from(rate.get());
        }
        seen += page.seen;
        let asked_for: Vec<_> = page.entries.into_iter().filter(|entry| selection.has(entry)).collect();
        for some in asked_for.chunks(DELETIONS) {
            let mut running = JoinSet::new();
            for entry in some {
                running.spawn(carry_out(entries.clone(), entry.clone(), doing, ended_at));
            }
            let carried_out = running.join_all().await.into_iter();
            outcome.found.extend(carried_out.map(|(entry, fate)| {
                let changed_at = selection.changed_at(&entry);
                Found { entry, changed_at, fate }
            }));
        }
        from = page.next;
        if from.is_none() {
            break;
        }
        if told_at.elapsed() >= TELL_EVERY {
            told_at = Instant::now();
            eprintln!("logferry: {} read, {} found", count(seen), outcome.found.len());
        }
    }
    outcome.found.sort_by(|a, b| {
        (&a.entry.key.object, &a.entry.key.delivery).cmp(&(&b.entry.key.object, &b.entry.key.delivery))
    });
    outcome
}

async fn carry_out(entries: LedgerEntries, entry: Entry, doing: Doing, ended_at: Timestamp) -> (Entry, Fate) {
    let leased = entry.lease.as_ref().is_some_and(|lease| lease.until > ended_at);
    let fate = match doing {
        Doing::Show => Fate::Shown,
        Doing::DryRun(Leases::Respected) if leased => Fate::Leased,
        Doing::DryRun(_) => Fate::WouldBeForgotten,
        Doing::Forget(leases) => {
            // On a condition: a worker may have begun since the entry was read.
            let guard = match leases {
                Leases::Respected => Guard::Unleased(ended_at),
                Leases::Overridden => Guard::None,
            };
            match entries.forget(&entry.key, guard).await {
                Ok(Forgotten::Gone) => Fate::Forgotten,
                Ok(Forgotten::Leased) => Fate::Leased,
                Err(error) => Fate::Failed(error),
            }
        }
    };
    (entry, fate)
}

/// Says what was done and what was not.
fn told(outcome: &Outcome, selection: &Selection, doing: Doing) -> ExitCode {
    let of = |wanted: fn(&Fate) -> bool| outcome.found.iter().filter(|found| wanted(&found.fate)).count();
    let leased = of(|fate| matches!(fate, Fate::Leased));
    match doing {
        Doing::Show => eprintln!("logferry: {}", count(outcome.found.len())),
        Doing::DryRun(_) => {
            let would = of(|fate| matches!(fate, Fate::WouldBeForgotten));
            eprintln!("logferry: {} would be forgotten", count(would));
        }
        Doing::Forget(_) => {
            let forgotten = of(|fate| matches!(fate, Fate::Forgotten));
            eprintln!("logferry: {} forgotten", count(forgotten));
            if forgotten > 0 {
                eprintln!(
                    "logferry: their objects are delivered anew when they are told of again: by `logferry redrive move`, \
                     or by another message about them"
                );
            }
        }
    }
    if leased > 0 {
        eprintln!(
            "logferry: {} left alone: a worker is busy with them; wait for the end of their leases, or give --force",
            count(leased)
        );
    }
    let failures: Vec<_> = outcome
        .found
        .iter()
        .filter_map(|found| match &found.fate {
            Fate::Failed(error) => Some((&found.entry.key, error)),
            Fate::Shown | Fate::WouldBeForgotten | Fate::Forgotten | Fate::Leased => None,
        })
        .collect();
    if let [(key, error), ..] = failures.as_slice() {
        let (object, delivery) = (&key.object, &key.delivery);
        eprintln!(
            "logferry: {} not forgotten; the first is {object:?}, delivery {delivery:?}: {error}",
            count(failures.len())
        );
    }
    if let Some(problem) = &outcome.broken_off {
        eprintln!("logferry: not all of the table was read: {problem}");
    }
    let undone = !failures.is_empty() || outcome.broken_off.is_some();
    match &selection.reach {
        _ if undone || (leased > 0 && matches!(doing, Doing::Forget(_))) => ExitCode::FAILURE,
        Reach::Pinned(_) | Reach::Object(_) if outcome.found.is_empty() => ExitCode::from(EXIT_NOT_FOUND),
        Reach::Pinned(_) | Reach::Object(_) | Reach::Prefix(_) => ExitCode::SUCCESS,
    }
}

fn count(entries: usize) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}
