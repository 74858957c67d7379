//! Selects the entries for a command. No I/O.

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use crate::{
    cli::moment::{Moment, moment},
    event::ObjectRef,
    ledger::{EntryKey, dynamodb::entries::Entry},
};

#[derive(Debug, Args)]
pub(super) struct SelectionArgs {
    /// The object: s3://BUCKET/KEY.
    #[arg(value_name = "OBJECT", value_parser = object, required_unless_present = "prefix", conflicts_with = "prefix")]
    object: Option<String>,
    /// Only this version of the object [default: all versions].
    #[arg(long, value_name = "ID", conflicts_with = "prefix")]
    version: Option<String>,
    /// All objects whose keys begin with this prefix: s3://BUCKET/TENANT/
    #[arg(long, value_name = "PREFIX", value_parser = place)]
    prefix: Option<String>,
    /// Only this delivery, by its row's type; may be given several times.
    #[arg(long = "delivery", value_name = "TYPE")]
    deliveries: Vec<String>,
    /// Only entries changed at this time or later: 2026-11-27T08:00:00Z, or an age such as 90s, 2h, 3d.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Only entries changed before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,
}

#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// How the entries are found.
    pub(super) reach: Reach,
    /// BUCKET/KEY.
    object: Option<String>,
    deliveries: Vec<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// Time from an entry's last change to its expiry.
    retention: SignedDuration,
}

/// How the entries are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// By a Query for one version of an object.
    Pinned(String),
    /// By a Scan for one object.
    Object(String),
    /// By a Scan for a prefix.
    Prefix(String),
}

impl SelectionArgs {
    pub(super) fn at(self, now: Timestamp, retention: SignedDuration) -> Selection {
        let reach = match (&self.object, self.version, self.prefix) {
            (Some(object), version @ Some(_), _) => {
                let (bucket, key) = object.split_once('/').expect("there is a slash behind the bucket");
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                let object = ObjectRef { bucket, key, version_id: version, ..ObjectRef::default() };
                Reach::Pinned(EntryKey::of(&object, "").expect("the object has a version").object)
            }
            (Some(object), None, _) => Reach::Object(format!("{object}?")),
            (None, _, Some(prefix)) => Reach::Prefix(prefix),
            (None, _, None) => unreachable!("clap requires one of them"),
        };
        Selection {
            reach,
            object: self.object,
            deliveries: self.deliveries,
            since: self.since.map(|since| since.before(now)),
            until: self.until.map(|until| until.before(now)),
            retention,
        }
    }
}

impl Selection {
    /// Whether an entry that was found is selected.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        let changed = self.changed_at(entry);
        (self.deliveries.is_empty() || self.deliveries.contains(&entry.key.delivery))
            && self.object.as_ref().is_none_or(|object| object == parts(&entry.key.object).0)
            && self.since.is_none_or(|since| changed.is_some_and(|changed| changed >= since))
            && self.until.is_none_or(|until| changed.is_some_and(|changed| changed < until))
    }

    /// When the entry was changed last. Each change sets its expiry.
    pub(super) fn changed_at(&self, entry: &Entry) -> Option<Timestamp> {
        entry.expires_at?.checked_sub(self.retention).ok()
    }
}

/// Splits an entry's object into bucket and key, and the version or eTag. Neither a version nor an eTag contains a question
/// mark.
pub(super) fn parts(object: &str) -> (&str, &str) {
    object.rsplit_once('?').unwrap_or((object, ""))
}

fn object(text: &str) -> Result<String, String> {
    match place(text)?.split_once('/') {
        Some((_, "")) => Err("it has no key; use --prefix for all objects of a bucket".to_owned()),
        _ => place(text),
    }
}

/// Reads s3://BUCKET/KEY as BUCKET/KEY.
fn place(text: &str) -> Result<String, String> {
    let place = text.strip_prefix("s3://").filter(|place| place.find('/').is_some_and(|slash| slash > 0));
    place.map(str::to_owned).ok_or_else(|| "it does not have the form s3://BUCKET/KEY".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{cli::parsed, ledger::Position};

    const NOW: &str = "2026-11-27T08:00:00Z";

    fn selection(arguments: &[&str]) -> Result<Selection, String> {
        let selection: SelectionArgs = parsed(arguments).map_err(|error| error.to_string())?;
        Ok(selection.at(NOW.parse().expect("a time"), SignedDuration::from_hours(1)))
    }

    fn entry(object: &str, delivery: &str, expires_at: Option<&str>) -> Entry {
        Entry {
            key: EntryKey { object: object.to_owned(), delivery: delivery.to_owned() },
            done: true,
            lease: None,
            position: Position::default(),
            expires_at: expires_at.map(|at| at.parse().expect("a time")),
            others: BTreeMap::new(),
        }
    }

    #[test]
    fn entries_are_reached_by_version_by_key_or_by_prefix() {
        let check = |arguments: &[&str], expected: Reach| {
            assert_eq!(selection(arguments).map(|selection| selection.reach), Ok(expected), "{arguments:?}");
        };
        check(&["s3://b/a/k", "--version", "v"], Reach::Pinned("b/a/k?versionId=v".to_owned()));
        check(&["s3://b/a/k"], Reach::Object("b/a/k?".to_owned()));
        check(&["--prefix", "s3://b/a/"], Reach::Prefix("b/a/".to_owned()));
        check(&["--prefix", "s3://b/"], Reach::Prefix("b/".to_owned()));
        for (arguments, words) in [
            (&[][..], "OBJECT"),
            (&["s3://b/k", "--prefix", "s3://b/"], "--prefix"),
            (&["--prefix", "s3://b/", "--version", "v"], "--version"),
            (&["s3://b/"], "no key"),
            (&["b/k"], "s3://BUCKET/KEY"),
            (&["s3:///k"], "s3://BUCKET/KEY"),
            (&["--prefix", "s3://b"], "s3://BUCKET/KEY"),
            (&["s3://b/k", "--since", "yesterday"], "neither a time"),
            (&["s3://b/k", "--since=-2h"], "neither a time"),
        ] {
            let error = selection(arguments).expect_err("no selection");
            assert!(error.contains(words), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn filters_select_among_the_entries_found() {
        let check = |arguments: &[&str], entry: &Entry, taken: bool| {
            let selection = selection(arguments).expect("a selection");
            assert_eq!(selection.has(entry), taken, "{arguments:?} {entry:?}");
        };
        // An entry that expires in an hour was changed now.
        let of = |object| entry(object, "cloudwatch", Some("2026-11-27T09:00:00Z"));
        check(&["s3://b/k"], &of("b/k?versionId=v"), true);
        check(&["s3://b/k"], &of("b/k?eTag=e"), true);
        check(&["s3://b/k"], &of("b/k?x?eTag=e"), false);
        check(&["s3://b/k?x"], &of("b/k?x?eTag=e"), true);
        let all = ["--prefix", "s3://b/"];
        let and = |more: &[&'static str]| [&all[..], more].concat();
        check(&and(&["--delivery", "s3"]), &of("b/k?eTag=e"), false);
        check(&and(&["--delivery", "s3", "--delivery", "cloudwatch"]), &of("b/k?eTag=e"), true);
        check(&and(&["--since", NOW]), &of("b/k?eTag=e"), true);
        check(&and(&["--until", NOW]), &of("b/k?eTag=e"), false);
        let older = entry("b/k?eTag=e", "s3", Some("2026-11-27T07:00:00Z"));
        check(&and(&["--since", "2h"]), &older, true);
        check(&and(&["--since", "1h 59m"]), &older, false);
        check(&and(&["--since", "3h", "--until", "119m"]), &older, true);
        check(&and(&["--until", "2026-11-27T06:00:00Z"]), &older, false);
        // The time of the change is unknown.
        check(&all, &entry("b/k?eTag=e", "s3", None), true);
        check(&and(&["--until", NOW]), &entry("b/k?eTag=e", "s3", None), false);
    }
}
