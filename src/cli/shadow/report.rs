//! Shows comparisons as text or as JSON. No I/O.

use std::ops::Range;

use serde_json::{Value, json};

use super::{Compared, Finding};
use crate::{
    cli::show::{or_dash, printable, table},
    shadow::{
        Count, Window,
        comparison::{By, Difference},
    },
};

/// Most lines below one target in the text. JSON has all.
const MOST_LINES: usize = 100;

/// One table of all places, then, for each place that is not equal, what differs, or what was counted.
pub(super) fn text(compared: &[Compared]) -> String {
    let heads = ["TENANTS", "PLACE", "STATE", "COUNTED", "HELD", "BYTES COUNTED", "BYTES HELD", "REJECTED"];
    let rows = compared.iter().map(|compared| {
        let Compared { target, finding, rejected, .. } = compared;
        let (counted, held) = sums(finding);
        let held = |of: fn(&Count) -> u64| held.as_ref().map_or("-".to_owned(), |held| of(held).to_string());
        let state = compared.state();
        [
            printable(&tenants(compared)),
            printable(&target.place),
            if state == "different" { state.to_uppercase() } else { state.to_owned() },
            counted.events.to_string(),
            held(|held| held.events),
            counted.bytes.to_string(),
            held(|held| held.bytes),
            rejected.to_string(),
        ]
    });
    let mut text = table(heads, rows);
    for compared in compared {
        text.push_str(&details(compared));
    }
    text
}

fn tenants(Compared { target, .. }: &Compared) -> String {
    let named = target.deliveries.iter().map(|(tenant_id, name)| format!("{tenant_id} {name}"));
    named.collect::<Vec<_>>().join(", ")
}

/// Everything that was counted, and everything that the customer has, if it was read.
fn sums(finding: &Finding) -> (Count, Option<Count>) {
    match finding {
        Finding::Both(comparison) => (comparison.counted, Some(comparison.held)),
        Finding::Empty => (Count::default(), Some(Count::default())),
        Finding::Counted { counted, .. } => (counted.values().copied().sum(), None),
    }
}

fn details(compared: &Compared) -> String {
    let place = printable(&compared.target.place);
    let (title, lines): (String, Vec<[String; 7]>) = match &compared.finding {
        Finding::Empty => return String::new(),
        Finding::Both(comparison) if comparison.differences.is_empty() => return String::new(),
        Finding::Both(comparison) => {
            let parts = format!("{} of {}", comparison.differences.len(), comparison.cells);
            let lines = comparison.differences.iter().map(|difference| {
                let Difference { window, stream, counted, held } = difference;
                [
                    window.to_string(),
                    or_dash(stream),
                    counted.events.to_string(),
                    held.events.to_string(),
                    format!("{:+}", i128::from(held.events) - i128::from(counted.events)),
                    counted.bytes.to_string(),
                    held.bytes.to_string(),
                ]
            });
            (format!("{place}: {parts} windows and streams differ"), lines.collect())
        }
        Finding::Counted { counted, why } => {
            let lines = counted.iter().map(|((window, stream), count)| {
                let [held, difference, bytes_held] = ["not readable", "-", "-"].map(str::to_owned);
                let bytes = count.bytes.to_string();
                let events = count.events.to_string();
                [window.to_string(), or_dash(stream), events, held, difference, bytes, bytes_held]
            });
            (format!("{place}: {}", printable(why)), lines.collect())
        }
    };
    let heads = ["WINDOW", "STREAM", "COUNTED", "HELD", "DIFFERENCE", "BYTES COUNTED", "BYTES HELD"];
    let more = lines.len().saturating_sub(MOST_LINES);
    let shown = lines.into_iter().take(MOST_LINES);
    let mut text = format!("\n{title}\n");
    text.push_str(&table(heads, shown));
    if more > 0 {
        text.push_str(&format!("and {more} more; --json shows all\n"));
    }
    text
}

/// The whole result.
pub(super) fn json(compared: &[Compared], windows: &Range<Window>, by: By) -> Value {
    let different = compared.iter().any(|compared| compared.state() == "different");
    let equal = compared.iter().all(|compared| compared.state() == "equal");
    let result = match (different, equal) {
        (true, _) => "different",
        (false, true) => "equal",
        (false, false) => "not compared",
    };
    json!({
        "from": windows.start.to_string(),
        "until": windows.end.to_string(),
        "by": match by { By::Stream => "stream", By::Group => "group" },
        "result": result,
        "places": compared.iter().map(place).collect::<Vec<_>>(),
    })
}

fn place(compared: &Compared) -> Value {
    let Compared { target, finding, rejected, .. } = compared;
    let cell = |window: &Window, stream: &String, counted: &Count, held: Option<&Count>| {
        let objects = compared.objects.get(&(*window, stream.clone())).into_iter().flatten();
        let objects: Vec<_> =
            objects.map(|(object, events)| json!({ "object": url(object), "events": events })).collect();
        json!({
            "window": window.to_string(),
            "stream": Some(stream).filter(|stream| !stream.is_empty()),
            "counted": number(counted),
            "held": held.map(number),
            "objects": objects,
        })
    };
    let deliveries = target.deliveries.iter();
    let deliveries = deliveries.map(|(tenant_id, name)| json!({ "tenant_id": tenant_id, "type": name }));
    let (counted, held) = sums(finding);
    let why = match finding {
        Finding::Counted { why, .. } => Some(why),
        Finding::Both(_) | Finding::Empty => None,
    };
    let windows: Vec<_> = match finding {
        Finding::Empty => Vec::new(),
        Finding::Both(comparison) => comparison
            .differences
            .iter()
            .map(|Difference { window, stream, counted, held }| cell(window, stream, counted, Some(held)))
            .collect(),
        Finding::Counted { counted, .. } => {
            counted.iter().map(|((window, stream), counted)| cell(window, stream, counted, None)).collect()
        }
    };
    json!({
        "deliveries": deliveries.collect::<Vec<_>>(),
        "account": target.account,
        "region": target.region,
        "place": target.place,
        "state": compared.state(),
        "why": why,
        "counted": number(&counted),
        "held": held.as_ref().map(number),
        "rejected": rejected,
        "windows": windows,
    })
}

/// The object as `logferry manual` takes it. An eTag is left out: the command finds the current one.
fn url(object: &str) -> String {
    match object.rsplit_once('?') {
        Some((name, pin)) if pin.starts_with("eTag=") => format!("s3://{name}"),
        _ => format!("s3://{object}"),
    }
}

fn number(count: &Count) -> Value {
    json!({ "events": count.events, "bytes": count.bytes })
}
