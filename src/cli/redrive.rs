//! `logferry redrive`: what operators do with dead letters. Looking and moving is [`crate::redrive`]'s.
//!
//! Results go to standard output, as a table or as JSON; progress and what went wrong go to standard error.

mod report;

use std::{
    num::NonZeroU32,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{EXIT_CONFIG, run_async, show::Show};
use crate::{
    app,
    config::{Config, Problem},
    redrive::{Action, HOLD, Order, Outcome, Progress, letter::Filter, sweep},
    route::KeyLayout,
};

/// The fields of the configuration that these commands use.
pub(super) const CONCERNS: [&str; 7] = [
    "aws.region",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "queue.dead_letter_url",
    "queue.url",
    "queue.wait_time",
    "source.key_layout",
];
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Shown with the help of every command.
const MORE: &str = "\
A letter's reason, tenant and object are those that the worker wrote on it. Letters that SQS moved by itself, after
maxReceiveCount receives, have the reason `unknown`; whose they are is read from the text where that can be. A letter's age
counts from when the worker sent it here; for those that SQS moved, from when they were first received.

SQS shows a message only to whoever receives it: all letters are hidden from others while the command runs, and are given
back at its end or at Ctrl-C. Killed otherwise, it leaves them hidden for up to five minutes. Letters that arrive after it
began, or that another queue's redrive policy moved here, are left alone. A letter is sent to the source queue first and
deleted then: killed in between, `move` has the message in both queues.

Exit codes: 0 done; 1 something could not be read or moved; 2 wrong usage; 64 the configuration cannot be used.";

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
    /// Show dead letters by reason and tenant; changes nothing.
    #[command(after_help = MORE)]
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Stop at so many.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// A line for each letter.
        #[arg(long)]
        each: bool,
    },
    /// Move dead letters back to the source queue, where the worker finds them as new messages.
    #[command(after_help = MORE)]
    Move {
        #[command(flatten)]
        filter: FilterArgs,
        /// All of them; needed where nothing else says which.
        #[arg(
            long,
            required_unless_present_any = ["tenants", "reasons", "older_than", "newer_than"],
            conflicts_with_all = ["tenants", "reasons", "older_than", "newer_than"],
        )]
        all: bool,
        /// Stop at so many.
        #[arg(long, value_name = "COUNT")]
        limit: Option<usize>,
        /// At most so many per second.
        #[arg(long, value_name = "COUNT")]
        rate: Option<NonZeroU32>,
        /// Say which would be moved.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Of this tenant; may be given several times.
    #[arg(long = "tenant", value_name = "ID", id = "tenants")]
    tenants: Vec<String>,
    /// With this reason, for example unknown_tenant; may be given several times.
    #[arg(long = "reason", value_name = "REASON", id = "reasons")]
    reasons: Vec<String>,
    /// At least that old: 90s, 2h, 3d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<SignedDuration>,
    /// At most that old.
    #[arg(long, value_name = "AGE", value_parser = age)]
    newer_than: Option<SignedDuration>,
}

fn age(text: &str) -> Result<SignedDuration, String> {
    let bad = || format!("{text:?} is no age such as 90s, 2h or 3d");
    let span: Span = text.parse().map_err(|_| bad())?;
    let age = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    if age.is_negative() { Err(bad()) } else { Ok(age) }
}

impl FilterArgs {
    fn at(self, now: Timestamp) -> Filter {
        // An age that reaches back before all time is as good as none.
        let before = |age| now.checked_sub(age).unwrap_or(Timestamp::MIN);
        Filter {
            tenants: self.tenants,
            reasons: self.reasons,
            until: self.older_than.map(before),
            from: self.newer_than.map(before),
        }
    }
}

/// What a command does with what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    List,
    ListEach,
    DryRun,
    Move(Option<NonZeroU32>),
}

/// Does what the arguments ask for and says what became of it.
pub(super) fn run(args: RedriveArgs, config: &Config) -> ExitCode {
    match run_async(execute(args, config)) {
        Ok(done) if done => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("logferry: {error:#}");
            if error.is::<Problem>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// True if all was done; what was not is said.
async fn execute(args: RedriveArgs, config: &Config) -> anyhow::Result<bool> {
    let RedriveArgs { command, json } = args;
    let show = if json { Show::Json } else { Show::Text };
    let (filter, limit, doing) = match command {
        RedriveCommand::List { filter, limit, each: false } => (filter, limit, Doing::List),
        RedriveCommand::List { filter, limit, each: true } => (filter, limit, Doing::ListEach),
        RedriveCommand::Move { filter, limit, dry_run: true, .. } => (filter, limit, Doing::DryRun),
        RedriveCommand::Move { filter, limit, rate, .. } => (filter, limit, Doing::Move(rate)),
    };
    let queues = app::commands::redrive_queues(config).await?;
    let total = match queues.attributes().await {
        Ok(attributes) => {
            if attributes.hidden > 0 {
                let hidden = attributes.hidden;
                eprintln!(
                    "logferry: about {hidden} more are hidden by another receiver and cannot be seen until it gives them back"
                );
            }
            Some(attributes.visible)
        }
        // It only makes progress easier to read.
        Err(_) => None,
    };
    let now = Timestamp::now();
    let order = Order {
        filter: filter.at(now),
        limit,
        action: if let Doing::Move(rate) = doing { Action::Move(rate) } else { Action::Look },
        source_url: queues.source_url.clone(),
        layout: KeyLayout::parse(&config.source.key_layout).context("source.key_layout")?,
        now,
    };
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let outcome = sweep(Arc::new(queues.letters), order, stop, teller(doing, total)).await;
    show.result(
        || report::text(&outcome.letters, doing == Doing::ListEach, now),
        || report::json(&outcome, doing),
    )?;
    Ok(told(&outcome, doing, &queues.source_url))
}

/// Tells progress now and then.
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
        eprintln!("logferry: {seen}{of} seen, {done} {what}");
    }
}

/// Says what was done and what was not; true if nothing went wrong.
fn told(outcome: &Outcome, doing: Doing, source_url: &str) -> bool {
    let what = match doing {
        Doing::List | Doing::ListEach => String::new(),
        Doing::DryRun => " would be moved".to_owned(),
        Doing::Move(_) => format!(" moved to {source_url}"),
    };
    eprintln!("logferry: {}{what}", report::count(outcome.letters.len()));
    if outcome.copies > 0 {
        let copies = report::count(outcome.copies);
        eprintln!(
            "logferry: beside {copies} with the same messages: the answer was lost when the worker sent the first"
        );
    }
    let left = [
        (outcome.others, "not asked for"),
        (outcome.newcomers, "arrived meanwhile and left alone"),
        (
            outcome.came_back,
            "left alone: their text was just moved (it came back at once, or was here twice)",
        ),
        (outcome.of_other_queues, "left alone: another queue's redrive policy moved them here"),
    ];
    for (count, what) in left.into_iter().filter(|(count, _)| *count > 0) {
        eprintln!("logferry: {} {what}", report::count(count));
    }
    if outcome.unreturned > 0 {
        eprintln!(
            "logferry: {} could not be given back; they can be received again within {HOLD:?}",
            report::count(outcome.unreturned)
        );
    }
    for (consequence, failures) in [
        ("could not be moved and stay here", &outcome.unsent),
        (
            "moved, but not deleted here: delete them by hand, or a later move has them there twice",
            &outcome.undeleted,
        ),
    ] {
        if let [(letter, error), ..] = failures.as_slice() {
            let count = report::count(failures.len());
            eprintln!("logferry: {count} {consequence}; the first is message {}: {error}", letter.id);
        }
    }
    if let Some(broken_off) = &outcome.broken_off {
        eprintln!("logferry: not all was seen: {broken_off}; what was received is given back");
    }
    outcome.unsent.is_empty() && outcome.undeleted.is_empty() && outcome.broken_off.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_as_people_write_them() {
        let check = |text: &str, seconds: Option<i64>| {
            assert_eq!(age(text).ok().map(|age| age.as_secs()), seconds, "{text}");
        };
        check("90s", Some(90));
        check("2h", Some(7200));
        check("3d", Some(3 * 86_400));
        check("1d 12h", Some(36 * 3600));
        check("0s", Some(0));
        check("-2h", None);
        check("2h ago", None);
        check("5", None);
        check("1 month", None);
        check("", None);
    }
}
