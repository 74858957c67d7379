//! Shows comparisons as text or as JSON. No I/O.

use std::ops::Range;

use serde_json::{Value, json};

use super::{Compared, Finding};
use crate::{
    cli::show::{or_dash, printable, table},
    shadow::{Count, Window, comparison::By},
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

/// What is shown of windows and streams: the differences, or everything that was counted.
fn cells(finding: &Finding) -> Vec<(Window, &str, Count, Option<Count>)> {
    match finding {
        Finding::Empty => Vec::new(),
        Finding::Both(comparison) => {
            let differences = comparison.differences.iter();
            differences.map(|of| (of.window, of.stream.as_str(), of.counted, Some(of.held))).collect()
        }
        Finding::Counted { counted, .. } => counted
            .iter()
            .map(|((window, stream), counted)| (*window, stream.as_str(), *counted, None))
            .collect(),
    }
}

fn details(compared: &Compared) -> String {
    let cells = cells(&compared.finding);
    let title = match &compared.finding {
        Finding::Counted { why, .. } => printable(why),
        Finding::Both(comparison) if !cells.is_empty() => {
            format!("{} of {} windows and streams differ", cells.len(), comparison.cells)
        }
        Finding::Both(_) | Finding::Empty => return String::new(),
    };
    let heads = ["WINDOW", "STREAM", "COUNTED", "HELD", "DIFFERENCE", "BYTES COUNTED", "BYTES HELD"];
    let more = cells.len().saturating_sub(MOST_LINES);
    let lines = cells.into_iter().take(MOST_LINES).map(|(window, stream, counted, held)| {
        let shown = |none: &str, of: &dyn Fn(Count) -> String| held.map_or(none.to_owned(), of);
        [
            window.to_string(),
            or_dash(stream),
            counted.events.to_string(),
            shown("not readable", &|held| held.events.to_string()),
            shown("-", &|held| format!("{:+}", i128::from(held.events) - i128::from(counted.events))),
            counted.bytes.to_string(),
            shown("-", &|held| held.bytes.to_string()),
        ]
    });
    let mut text = format!("\n{}: {title}\n{}", printable(&compared.target.place), table(heads, lines));
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
    let windows = cells(finding).into_iter().map(|(window, stream, counted, held)| {
        let objects = compared.objects.get(&(window, stream.to_owned())).into_iter().flatten();
        let objects: Vec<_> =
            objects.map(|(object, events)| json!({ "object": url(object), "events": events })).collect();
        json!({
            "window": window.to_string(),
            "stream": Some(stream).filter(|stream| !stream.is_empty()),
            "counted": number(&counted),
            "held": held.as_ref().map(number),
            "objects": objects,
        })
    });
    let deliveries = target.deliveries.iter();
    let deliveries = deliveries.map(|(tenant_id, name)| json!({ "tenant_id": tenant_id, "type": name }));
    let (counted, held) = sums(finding);
    let why = match finding {
        Finding::Counted { why, .. } => Some(why),
        Finding::Both(_) | Finding::Empty => None,
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
        "windows": windows.collect::<Vec<_>>(),
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
