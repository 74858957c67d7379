//! Shows dead letters as text or as JSON. No I/O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Doing;
use crate::{
    cli::show::{or_dash, printable, table},
    redrive::{Outcome, letter::Letter},
};

struct Group<'a> {
    reason: &'a str,
    tenant: String,
    letters: Vec<&'a Letter>,
}

impl Group<'_> {
    fn oldest(&self) -> Option<Timestamp> {
        self.letters.iter().filter_map(|letter| letter.since).min()
    }

    fn newest(&self) -> Option<Timestamp> {
        self.letters.iter().filter_map(|letter| letter.since).max()
    }

    /// The most informative letter; among equals, the oldest.
    fn example(&self) -> &Letter {
        let says_least = |letter: &&&Letter| (letter.error.is_none(), letter.key.is_none(), letter.since);
        self.letters.iter().min_by_key(says_least).expect("a group has at least one letter")
    }
}

/// Groups the letters by reason and tenants, largest group first.
fn groups(letters: &[Letter]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for letter in letters {
        groups.entry((letter.reason.as_str(), letter.tenants.join(", "))).or_default().push(letter);
    }
    let mut groups: Vec<_> =
        groups.into_iter().map(|((reason, tenant), letters)| Group { reason, tenant, letters }).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.letters.len()));
    groups
}

/// Letters for people: a summary, or one line each.
pub(super) fn text(letters: &[Letter], each: bool, now: Timestamp) -> String {
    if letters.is_empty() {
        String::new()
    } else if each {
        lines(letters, now)
    } else {
        summary(letters, now)
    }
}

fn summary(letters: &[Letter], now: Timestamp) -> String {
    let groups = groups(letters);
    let heads = ["REASON", "TENANT", "MESSAGES", "OLDEST", "NEWEST"];
    let rows = groups.iter().map(|group| {
        [
            printable(group.reason),
            or_dash(&group.tenant),
            group.letters.len().to_string(),
            age(group.oldest(), now),
            age(group.newest(), now),
        ]
    });
    let table = table(heads, rows);
    let mut lines = table.lines();
    let mut text = format!("{}\n", lines.next().unwrap_or_default());
    for (line, group) in lines.zip(&groups) {
        let letter = group.example();
        text.push_str(&format!("{line}\n"));
        let parts: Vec<_> = [object(letter), letter.error.clone()].into_iter().flatten().collect();
        if !parts.is_empty() {
            text.push_str(&format!("  for example {}\n", printable(&parts.join(": "))));
        }
    }
    text
}

fn lines(letters: &[Letter], now: Timestamp) -> String {
    let mut letters: Vec<_> = letters.iter().collect();
    letters.sort_by_key(|letter| letter.since);
    let heads = ["AGE", "REASON", "TENANT", "MESSAGE", "OBJECT", "ERROR"];
    let rows = letters.into_iter().map(|letter| {
        [
            age(letter.since, now),
            printable(&letter.reason),
            or_dash(&letter.tenants.join(", ")),
            printable(&letter.id),
            or_dash(&object(letter).unwrap_or_default()),
            or_dash(letter.error.as_deref().unwrap_or_default()),
        ]
    });
    table(heads, rows)
}

pub(super) fn json(outcome: &Outcome, doing: Doing) -> Value {
    let example = |letter: &Letter| json!({ "message_id": letter.id, "bucket": letter.bucket, "key": letter.key, "error": letter.error });
    let group = |group: &Group<'_>| {
        json!({
            "reason": group.reason,
            "tenants": group.letters[0].tenants,
            "messages": group.letters.len(),
            "oldest": group.oldest().map(|time| time.to_string()),
            "newest": group.newest().map(|time| time.to_string()),
            "example": example(group.example()),
        })
    };
    let failures = |failures: &[(Letter, crate::queue::QueueError)]| -> Value {
        failures
            .iter()
            .map(|(letter, error)| json!({ "message_id": letter.id, "problem": error.to_string() }))
            .collect()
    };
    let mut report = json!({
        "messages": outcome.letters.len(),
        "groups": groups(&outcome.letters).iter().map(group).collect::<Vec<_>>(),
        "copies": outcome.copies,
        "left": {
            "not_asked_for": outcome.others,
            "arrived_meanwhile": outcome.newcomers,
            "just_moved": outcome.came_back,
            "of_other_queues": outcome.of_other_queues,
        },
        "complete": outcome.broken_off.is_none(),
    });
    match doing {
        Doing::List => {}
        Doing::ListEach => report["letters"] = outcome.letters.iter().map(letter).collect(),
        Doing::DryRun => report["dry_run"] = true.into(),
        Doing::Move(_) => {
            report["not_moved"] = failures(&outcome.unsent);
            report["not_deleted"] = failures(&outcome.undeleted);
        }
    }
    report
}

fn letter(letter: &Letter) -> Value {
    json!({
        "message_id": letter.id,
        "reason": letter.reason,
        "tenants": letter.tenants,
        "bucket": letter.bucket,
        "key": letter.key,
        "version": letter.version,
        "record_offset": letter.record_offset,
        "objects": letter.objects,
        "error": letter.error,
        "since": letter.since.map(|time| time.to_string()),
    })
}

pub(super) fn count(letters: usize) -> String {
    if letters == 1 { "1 dead letter".to_owned() } else { format!("{letters} dead letters") }
}

fn object(letter: &Letter) -> Option<String> {
    let (bucket, key) = (letter.bucket.as_ref()?, letter.key.as_ref()?);
    let more = letter.objects.saturating_sub(1);
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Some(format!("s3://{bucket}/{key}{more}"))
}

/// An age in its two largest units.
fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    let Some(since) = since else { return "-".to_owned() };
    let seconds = now.duration_since(since).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60 % 60, seconds / 3600 % 24, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(reason: &str, tenant: &str, since: i64) -> Letter {
        Letter {
            id: format!("{reason}-{tenant}-{since}"),
            reason: reason.to_owned(),
            tenants: [tenant].iter().filter(|id| !id.is_empty()).map(|id| (*id).to_owned()).collect(),
            since: Timestamp::from_second(since).ok(),
            ..Letter::default()
        }
    }

    fn letters() -> Vec<Letter> {
        let about = Letter {
            bucket: Some("b".into()),
            key: Some("acme/1\u{1b}[2J".into()),
            error: Some("no row".into()),
            objects: 3,
            ..letter("unknown_tenant", "acme", 7_000)
        };
        vec![letter("bad_event", "", 9_990), about, letter("unknown_tenant", "acme", 100)]
    }

    fn check(each: bool, expected: &str) {
        let now = Timestamp::from_second(10_000).expect("a time");
        assert_eq!(text(&letters(), each, now), expected);
    }

    #[test]
    fn the_summary_shows_the_largest_group_first_with_an_informative_example() {
        check(
            false,
            "REASON          TENANT  MESSAGES  OLDEST  NEWEST\n\
             unknown_tenant  acme    2         2h 45m  50m 0s\n\
             \x20 for example s3://b/acme/1\\u{1b}[2J (and 2 more): no row\n\
             bad_event       -       1         10s     10s\n",
        );
    }

    #[test]
    fn lines_show_the_oldest_letter_first() {
        check(
            true,
            "AGE     REASON          TENANT  MESSAGE                   OBJECT                               ERROR\n\
             2h 45m  unknown_tenant  acme    unknown_tenant-acme-100   -                                    -\n\
             50m 0s  unknown_tenant  acme    unknown_tenant-acme-7000  s3://b/acme/1\\u{1b}[2J (and 2 more)  no row\n\
             10s     bad_event       -       bad_event--9990           -                                    -\n",
        );
    }

    #[test]
    fn without_letters_nothing_is_shown() {
        assert_eq!(text(&[], false, Timestamp::now()), "");
    }
}
