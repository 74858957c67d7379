//! Shows entries as text or as JSON. No I/O.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Fate, Found, selection::parts};
use crate::{
    cli::show::{or_dash, printable, table},
    ledger::dynamodb::entries::Entry,
};

/// An entry's state in one word. A lease counts if it ends after `ended_at`.
fn state(entry: &Entry, ended_at: Timestamp) -> &'static str {
    match &entry.lease {
        _ if entry.done => "done",
        Some(lease) if lease.until > ended_at => "leased",
        _ => "unfinished",
    }
}

/// A table with one line per entry.
pub(super) fn text(found: &[Found], ended_at: Timestamp) -> String {
    if found.is_empty() {
        return String::new();
    }
    let heads = ["OBJECT", "DELIVERY", "STATE", "RECORDS", "CHANGED", "EXPIRES", "OTHERS"];
    let time = |at: Option<Timestamp>| or_dash(&at.map(second).unwrap_or_default());
    let rows = found.iter().map(|Found { entry, changed_at, .. }| {
        let state = match (state(entry, ended_at), &entry.lease) {
            ("leased", Some(lease)) => format!("leased until {}", second(lease.until)),
            (state, _) => state.to_owned(),
        };
        let records = match entry.position.events {
            0 => entry.position.records.to_string(),
            events => format!("{} and {events} events of the next", entry.position.records),
        };
        let others: Vec<_> = entry.others.iter().map(|(name, value)| format!("{name}={value}")).collect();
        [
            printable(&entry.key.object),
            printable(&entry.key.delivery),
            state,
            records,
            time(*changed_at),
            time(entry.expires_at),
            or_dash(&others.join(" ")),
        ]
    });
    table(heads, rows)
}

fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An array of all entries.
pub(super) fn json(found: &[Found], ended_at: Timestamp) -> Value {
    found.iter().map(|found| object(found, ended_at)).collect()
}

fn object(Found { entry, changed_at, fate }: &Found, ended_at: Timestamp) -> Value {
    let (object, pin) = parts(&entry.key.object);
    let (bucket, key) = object.split_once('/').unwrap_or((object, ""));
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let lease = entry.lease.as_ref();
    let mut shown = json!({
        "object": entry.key.object,
        "bucket": bucket,
        "key": key,
        "version_id": pin.strip_prefix("versionId="),
        "etag": pin.strip_prefix("eTag="),
        "delivery": entry.key.delivery,
        "state": state(entry, ended_at),
        "lease_until": time(lease.map(|lease| lease.until)),
        "lease_owner": lease.map(|lease| &lease.owner),
        "records": entry.position.records,
        "events": entry.position.events,
        "changed_at": time(*changed_at),
        "expires_at": time(entry.expires_at),
        "others": entry.others,
    });
    let fate = match fate {
        Fate::Shown => return shown,
        Fate::WouldBeForgotten => json!("would be forgotten"),
        Fate::Forgotten => json!("forgotten"),
        Fate::Leased => json!("left: leased"),
        Fate::Failed(error) => json!(format!("left: {error}")),
    };
    shown["fate"] = fate;
    shown
}
