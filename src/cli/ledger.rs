//! `logferry ledger`: shows and deletes the ledger's entries.
//!
//! Results go to standard output, as a table or as JSON. Progress and errors go to standard error.

mod report;
mod selection;

use std::{num::NonZeroU16, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use futures_util::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::selection::{Reach, Selection, SelectionArgs};
use super::{EXIT_NOT_FOUND, EXIT_USAGE, show::Show};
use crate::{
    app,
    config::Config,
    ledger::dynamodb::entries::{EntriesError, Entry, Forgotten, Guard, LedgerEntries, Page},
    tell::tell,
};

/// The configuration's fields that these commands use.
pub(super) const CONCERNS: [&str; 6] = [
    "aws.region",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "ledger.max_clock_skew",
    "ledger.retention",
    "ledger.table",
];
/// Time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Number of entries that are deleted at the same time.
const DELETIONS: usize = 16;

const MORE: &str = "\
The ledger records, for each object and delivery, how many records are accounted for. An object whose entry is done is not
delivered again. If its entry is deleted, the next message about the object delivers it again, from its first record.
`logferry redrive move` sends such a message if the object has a dead letter. After objects were delivered to a wrong place:
correct the tenant's row, wait for tenants.cache_ttl, then delete the entries with `forget`.

A version of an object is read by a Query. An object without version, or a prefix, needs a Scan of the whole table, with one
read capacity unit for 4 kB of entries. Use --rate to leave capacity to the workers.
The table does not store when an entry was changed. That time is computed from the entry's expiry and ledger.retention, so
it is wrong for entries that were written with another ledger.retention.

A worker works on an entry while it has a lease. `forget` keeps such an entry until ledger.max_clock_skew after the end of
the lease, because the worker's clock may be behind. With --force the entry is deleted nevertheless: its worker goes on and
writes the entry again, and records that it put before may be delivered twice.

Needs dynamodb:Query, Scan and DeleteItem on the table, depending on the command.

Exit codes: 0 done; 1 an entry could not be read or deleted, or was kept because of its lease; 2 wrong usage; 64 the
configuration cannot be used; 66 the object has no entry.";

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
    /// Show entries with the progress of each delivery. Changes nothing.
    #[command(after_help = MORE)]
    Show {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Read at most this many of the table's entries per second.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU16>,
    },
    /// Delete entries, so that the next message about their objects delivers them again.
    #[command(after_help = MORE)]
    Forget {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Read at most this many of the table's entries per second, and delete at most as many.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU16>,
        /// Show the entries without deleting them.
        #[arg(long)]
        dry_run: bool,
        /// Delete entries with a lease too.
        #[arg(long)]
        force: bool,
        /// Confirm the deletion; needed with --prefix.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Show,
    DryRun(Guard),
    Forget(Guard),
}

#[derive(Debug)]
struct Found {
    entry: Entry,
    changed_at: Option<Timestamp>,
    fate: Fate,
}

#[derive(Debug)]
enum Fate {
    Shown,
    WouldBeForgotten,
    Forgotten,
    /// Kept, because the entry has a lease.
    Leased,
    Failed(EntriesError),
}

/// All selected entries, ordered by key.
#[derive(Debug, Default)]
struct Outcome {
    found: Vec<Found>,
    /// Why the table was not read to its end.
    broken_off: Option<String>,
}

/// Runs the command and prints its result.
pub(super) async fn execute(args: LedgerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let LedgerArgs { command, json } = args;
    let show = if json { Show::Json } else { Show::Text };
    let now = Timestamp::now();
    let retention = SignedDuration::try_from(config.ledger.retention).unwrap_or(SignedDuration::MAX);
    // A lease that ended before this time has ended by every worker's clock.
    let skew = SignedDuration::try_from(config.ledger.max_clock_skew).unwrap_or(SignedDuration::MAX);
    let ended_at = now.checked_sub(skew).unwrap_or(Timestamp::MIN);
    let (selection, rate, doing) = match command {
        LedgerCommand::Show { selection, rate } => (selection.at(now, retention), rate, Doing::Show),
        LedgerCommand::Forget { selection, rate, dry_run, force, yes } => {
            let selection = selection.at(now, retention);
            if let (Reach::Prefix(prefix), false, false) = (&selection.reach, dry_run, yes) {
                tell!(
                    "logferry: this deletes every selected entry whose object begins with {prefix:?}; give --yes to confirm, \
                     or --dry-run to see the entries"
                );
                return Ok(ExitCode::from(EXIT_USAGE));
            }
            let guard = if force { Guard::None } else { Guard::Unleased(ended_at) };
            (selection, rate, if dry_run { Doing::DryRun(guard) } else { Doing::Forget(guard) })
        }
    };
    let entries = app::tools::ledger_entries(config).await?;
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let outcome = sweep(&entries, &selection, rate, doing, &stop).await;
    show.result(|| report::text(&outcome.found, ended_at), || report::json(&outcome.found, ended_at))?;
    Ok(told(&outcome, &selection, doing))
}

/// Reads the table page by page, and shows or deletes each selected entry.
async fn sweep(
    entries: &LedgerEntries,
    selection: &Selection,
    rate: Option<NonZeroU16>,
    doing: Doing,
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
                // A page has as many entries as the rate allows in one second.
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
        let selected = page.entries.into_iter().filter(|entry| selection.has(entry));
        let carried_out = stream::iter(selected.map(async |entry| {
            let (changed_at, fate) = (selection.changed_at(&entry), carry_out(entries, &entry, doing).await);
            Found { entry, changed_at, fate }
        }));
        outcome.found.extend(carried_out.buffer_unordered(DELETIONS).collect::<Vec<_>>().await);
        from = page.next;
        if from.is_none() {
            break;
        }
        if told_at.elapsed() >= TELL_EVERY {
            told_at = Instant::now();
            tell!("logferry: {} read, {} selected", count(seen), outcome.found.len());
        }
    }
    outcome.found.sort_by(|a, b| {
        (&a.entry.key.object, &a.entry.key.delivery).cmp(&(&b.entry.key.object, &b.entry.key.delivery))
    });
    outcome
}

async fn carry_out(entries: &LedgerEntries, entry: &Entry, doing: Doing) -> Fate {
    match doing {
        Doing::Show => Fate::Shown,
        Doing::DryRun(Guard::Unleased(ended_at))
            if entry.lease.as_ref().is_some_and(|lease| lease.until > ended_at) =>
        {
            Fate::Leased
        }
        Doing::DryRun(_) => Fate::WouldBeForgotten,
        // The table checks the lease again, because a worker may have begun after the entry was read.
        Doing::Forget(guard) => match entries.forget(&entry.key, guard).await {
            Ok(Forgotten::Gone) => Fate::Forgotten,
            Ok(Forgotten::Leased) => Fate::Leased,
            Err(error) => Fate::Failed(error),
        },
    }
}

/// Prints what was done and what was not, and returns the exit code.
fn told(outcome: &Outcome, selection: &Selection, doing: Doing) -> ExitCode {
    let of = |wanted: fn(&Fate) -> bool| outcome.found.iter().filter(|found| wanted(&found.fate)).count();
    let leased = of(|fate| matches!(fate, Fate::Leased));
    match doing {
        Doing::Show => tell!("logferry: {}", count(outcome.found.len())),
        Doing::DryRun(_) => {
            let would = of(|fate| matches!(fate, Fate::WouldBeForgotten));
            tell!("logferry: {} would be forgotten", count(would));
        }
        Doing::Forget(_) => {
            let forgotten = of(|fate| matches!(fate, Fate::Forgotten));
            tell!("logferry: {} forgotten", count(forgotten));
            if forgotten > 0 {
                tell!(
                    "logferry: the next message about their objects delivers them again; `logferry redrive move` sends one for a \
                     dead letter"
                );
            }
        }
    }
    if leased > 0 {
        tell!(
            "logferry: {} kept: a worker is busy with them; wait for the end of their leases, or give --force",
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
        tell!(
            "logferry: {} not forgotten; the first is of object {object:?}, delivery {delivery:?}: {error}",
            count(failures.len())
        );
    }
    if let Some(problem) = &outcome.broken_off {
        tell!("logferry: the table was not read to its end: {problem}");
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
