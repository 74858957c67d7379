//! `logferry redrive`: shows dead letters and moves them back, by [`crate::redrive`].
//!
//! Results go to standard output, as a table or as JSON. Progress and errors go to standard error.

mod report;

use std::{
    num::NonZeroU32,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{moment::age, show::Show};
use crate::{
    app,
    config::Config,
    redrive::{Action, HOLD, Order, Outcome, Progress, letter::Filter, sweep},
    tell::tell,
};

/// The configuration's fields that these commands use.
pub(super) const CONCERNS: [&str; 8] = [
    "aws.region",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "queue.dead_letter_url",
    "queue.url",
    "queue.wait_time",
    "source.key_layout",
    "source.rules",
];
/// Time between two lines of progress.
const TELL_EVERY: Duration = Duration::from_secs(5);

const MORE: &str = "\
The worker writes the reason, the tenant and the object on a dead letter. Letters that SQS itself moved, after
maxReceiveCount receives, have the reason `unknown`; their tenant is read from the message, if possible. The age of a letter
counts from when the worker sent it, or, if SQS moved it, from its first receive.

SQS shows a message to one receiver at a time. So all letters are hidden from others while the command runs, and visible
again at its end or after Ctrl-C. If the command is killed, they stay hidden for up to five minutes. The command leaves
alone the letters that arrive after its start, and those that another queue's redrive policy moved here. `move` sends a letter
to the source queue first and then deletes it: if it is killed in between, both queues have the message.

Exit codes: 0 done; 1 a letter could not be read or moved; 2 wrong usage; 64 the configuration cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct RedriveArgs {
    #[command(subcommand)]
    command: RedriveCommand,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum RedriveCommand {
    /// Show dead letters by reason and tenant. Changes nothing.
    #[command(after_help = MORE)]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Stop after this many letters.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// Show one line for each letter.
        #[arg(long)]
        each: bool,
    },
    /// Move dead letters back to the source queue. To the worker they are new messages.
    #[command(after_help = MORE)]
    Move {
        #[command(flatten)]
        filter: FilterArgs,
        /// Move all letters; needed if no filter is given.
        #[arg(
            long,
            required_unless_present_any = ["tenants", "reasons", "older_than", "newer_than"],
            conflicts_with_all = ["tenants", "reasons", "older_than", "newer_than"],
        )]
        all: bool,
        /// Stop after this many letters.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// Move at most this many letters per second.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU32>,
        /// Show the letters without moving them.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only letters of this tenant; may be given several times.
    #[arg(long = "tenant", value_name = "ID", id = "tenants")]
    tenants: Vec<String>,
    /// Only letters with this reason, for example unknown_tenant; may be given several times.
    #[arg(long = "reason", value_name = "REASON", id = "reasons")]
    reasons: Vec<String>,
    /// Only letters at least this old: 90s, 2h, 3d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<SignedDuration>,
    /// Only letters at most this old.
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<SignedDuration>,
}

impl FilterArgs {
    fn at(self, now: Timestamp) -> Filter {
        // An age that reaches back before the earliest timestamp selects everything.
        let before = |age| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        Filter {
            tenants: self.tenants,
            reasons: self.reasons,
            until: self.older_than.map(before),
            from: self.newer_than.map(before),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    List,
    ListEach,
    DryRun,
    Move(Option<NonZeroU32>),
}

/// Runs the command and prints its result. Fails if some letters could not be read or moved.
pub(super) async fn execute(args: RedriveArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let RedriveArgs { command, json } = args;
    let show = if json { Show::Json } else { Show::Text };
    let (filter, limit, doing) = match command {
        RedriveCommand::List { filter, limit, each: false } => (filter, limit, Doing::List),
        RedriveCommand::List { filter, limit, each: true } => (filter, limit, Doing::ListEach),
        RedriveCommand::Move { filter, limit, dry_run: true, .. } => (filter, limit, Doing::DryRun),
        RedriveCommand::Move { filter, limit, rate, .. } => (filter, limit, Doing::Move(rate)),
    };
    let queues = app::commands::redrive_queues(config).await?;
    let total = match queues.dead_letters.attributes().await {
        Ok(attributes) => {
            if attributes.hidden > 0 {
                let hidden = attributes.hidden;
                tell!(
                    "logferry: another receiver hides about {hidden} more letters; run the command again later to see them"
                );
            }
            Some(attributes.visible)
        }
        // The total is only needed for the progress lines.
        Err(_) => None,
    };
    let now = Timestamp::now();
    let order = Order {
        filter: filter.at(now),
        limit,
        action: if let Doing::Move(rate) = doing { Action::Move(rate) } else { Action::Look },
        source_url: queues.source_url.clone(),
        key_rules: config.source.key_rules()?,
        now,
    };
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let outcome = sweep(&queues.letters, order, stop, teller(doing, total)).await;
    show.result(
        || report::text(&outcome.letters, doing == Doing::ListEach, now),
        || report::json(&outcome, doing),
    )?;
    Ok(told(&outcome, doing, &queues.source_url))
}

/// Prints progress every [`TELL_EVERY`].
fn teller(doing: Doing, total: Option<u64>) -> impl FnMut(Progress) {
    let mut told_at = Instant::now();
    move |progress| {
        if told_at.elapsed() < TELL_EVERY {
            return;
        }
        told_at = Instant::now();
        let Progress { seen, done } = progress;
        let of = total.map(|total| format!(" of about {total}")).unwrap_or_default();
        let what = if matches!(doing, Doing::Move(_)) { "moved" } else { "found" };
        tell!("logferry: {seen}{of} seen, {done} {what}");
    }
}

/// Prints what was done and what was not.
fn told(outcome: &Outcome, doing: Doing, source_url: &str) -> ExitCode {
    let what = match doing {
        Doing::List | Doing::ListEach => String::new(),
        Doing::DryRun => " would be moved".to_owned(),
        Doing::Move(_) => format!(" moved to {source_url}"),
    };
    tell!("logferry: {}{what}", report::count(outcome.letters.len()));
    if outcome.copies > 0 {
        let copies = report::count(outcome.copies);
        tell!(
            "logferry: {copies} not counted, because they are copies of others: the worker sent them again when an answer was lost"
        );
    }
    let left = [
        (outcome.others, "not selected"),
        (outcome.newcomers, "left alone: they arrived after the start"),
        (
            outcome.came_back,
            "left alone: the same message was just moved (the letter came back at once, or existed twice)",
        ),
        (outcome.of_other_queues, "left alone: another queue's redrive policy moved them here"),
    ];
    for (count, what) in left.into_iter().filter(|(count, _)| *count > 0) {
        tell!("logferry: {} {what}", report::count(count));
    }
    if outcome.unreturned > 0 {
        tell!(
            "logferry: {} could not be made visible again; they can be received within {HOLD:?}",
            report::count(outcome.unreturned)
        );
    }
    for (consequence, failures) in [
        ("could not be moved and stay in the dead-letter queue", &outcome.unsent),
        ("moved but not deleted: delete them by hand, or the next move sends them again", &outcome.undeleted),
    ] {
        if let [(letter, error), ..] = failures.as_slice() {
            let count = report::count(failures.len());
            tell!("logferry: {count} {consequence}; the first is message {}: {error}", letter.id);
        }
    }
    if let Some(broken_off) = &outcome.broken_off {
        tell!(
            "logferry: the dead-letter queue was not read to its end: {broken_off}; received letters are visible again"
        );
    }
    let complete = outcome.unsent.is_empty() && outcome.undeleted.is_empty() && outcome.broken_off.is_none();
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
