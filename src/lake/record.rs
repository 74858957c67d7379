//! Turns a record into the columns of the lake's table.
//!
//! | Column | Value |
//! |---|---|
//! | `timestamp` | The record's time, or else the object's. Milliseconds: further digits are dropped. |
//! | `message` | The text that CloudWatch Logs would get. |
//! | `stream` | The member `stream`. |
//! | `namespace` | `kubernetes.pod_namespace`, `kubernetes.namespace_name` or `namespace`. |
//! | `container` | `kubernetes.container_name`, `container_name` or `container`. |
//! | `node` | `kubernetes.pod_node_name`, `kubernetes.host`, `node` or `host`. |
//! | `level` | See [`Level`]. |
//! | `rest` | A JSON object with all members of the record that no other column has exactly. |
//!
//! No member of a record is lost. Every member is in `rest`, except these:
//!
//! - `message`, if it is a string;
//! - `timestamp`, if it is the time in the column (further digits and the form of the text are dropped);
//! - `stream`, if it is a string;
//! - `customer_id`, `cluster_id`, `application` and `pod_name`, if they are as in the object's key, whose names have columns.
//!
//! A member of an unusual type is no error: the member stays in `rest`, and its column is null. If `message` is not a string, its
//! column has its JSON text. If there is no `message`, the whole record stays in `rest`. A record that is its own message (of
//! CloudTrail, for example) is in `message` alone.
//!
//! The members of `rest` are in the record's order. As in messages for CloudWatch Logs, illegal JSON and UTF-8 is mended, and the
//! last value of a repeated name counts.

use std::borrow::Cow;

use super::{known::Known, level::Level};
use crate::{
    records::{Legal, Record, each_member_of},
    route::Route,
};

/// Longest time in milliseconds that a record may be younger than its object. Wrong clocks and time zones make a difference of
/// one day at most.
const AHEAD: i64 = 24 * 3600 * 1000;
/// Longest message in bytes for which a buffer is kept.
const KEPT_BUFFER: usize = 1 << 20;

/// A record of a lake: a row of its table. The labels come from the object's key; the other columns come from the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LakeRecord<'a> {
    /// Milliseconds since 1970, UTC.
    pub timestamp: i64,
    /// The record's message, unescaped.
    pub message: &'a str,
    /// The tenant of the object's key.
    pub tenant: &'a str,
    /// The cluster of the object's key.
    pub cluster: &'a str,
    /// The application of the object's key.
    pub application: &'a str,
    /// The pod of the object's key.
    pub pod: &'a str,
    /// `stdout` or `stderr`.
    pub stream: Option<&'a str>,
    /// Namespace of the pod.
    pub namespace: Option<&'a str>,
    /// Container that wrote the message.
    pub container: Option<&'a str>,
    /// Node that the pod ran on.
    pub node: Option<&'a str>,
    /// Level of the message, in lower case.
    pub level: Option<&'a str>,
    /// A JSON object with all other members of the record.
    pub rest: Option<&'a str>,
}

/// The record's time in milliseconds since 1970. A record without a time, or with one that lies more than a day after the
/// object's LastModified, has the object's time, `modified`. The reader of records compares times with the worker's clock; this
/// comparison gives the same result in every attempt.
pub fn timestamp(record: &Record<'_>, modified: i64) -> i64 {
    own_timestamp(record, modified).unwrap_or(modified)
}

/// Whether the record gets the object's time.
pub fn is_undated(record: &Record<'_>, modified: i64) -> bool {
    own_timestamp(record, modified).is_none()
}

fn own_timestamp(record: &Record<'_>, modified: i64) -> Option<i64> {
    record.timestamp.filter(|timestamp| *timestamp <= modified.saturating_add(AHEAD))
}

/// Makes the columns of the records of one object.
///
/// Besides the record and its message, this needs memory of up to six times the record's length: three times for the mended text
/// or the unescaped message, and three times for `rest`.
#[derive(Debug)]
pub struct Columns {
    modified: i64,
    /// Members that repeat a name of the object's key, each with the name in the key.
    labels: [(&'static str, String); 4],
    known: Known<Others>,
    message: String,
}

/// The columns that come from a record's members, without its message and its time.
#[derive(Debug, Default)]
struct Others {
    stream: Option<String>,
    namespace: Option<String>,
    container: Option<String>,
    node: Option<String>,
    level: Option<Level>,
    rest: Option<String>,
}

impl Columns {
    /// `route` has the names in the object's key; `modified` is the object's LastModified in milliseconds since 1970.
    pub fn new(route: &Route, modified: i64) -> Self {
        let labels = [
            ("customer_id", route.tenant.clone()),
            ("cluster_id", route.cluster.clone()),
            ("application", route.application.clone()),
            ("pod_name", route.pod.clone()),
        ];
        Self { modified, labels, known: Known::default(), message: String::new() }
    }

    /// Frees the memory of the last record's columns.
    pub fn free(&mut self) {
        (self.known, self.message) = (Known::default(), String::new());
    }

    /// The columns of the next record.
    pub fn of<'a>(&'a mut self, record: &'a Record<'_>) -> LakeRecord<'a> {
        let Self { modified, labels, known, message } = self;
        let own = own_timestamp(record, *modified);
        let others = match record.text.filter(|text| !text.is_message()) {
            None => known.other(Others::default()),
            Some(text) => {
                let make = || Others::of(&text.legal(), labels, own);
                // A timestamp that is not in the column is in `rest`, so `rest` differs from record to record.
                match text.pieces().filter(|pieces| own.is_some() || pieces.timestamp.is_none()) {
                    Some(pieces) => known.find(&pieces, make),
                    None => known.other(make()),
                }
            }
        };
        if message.capacity() > KEPT_BUFFER {
            *message = String::new();
        }
        let message = record.message.text(message);
        let [tenant, cluster, application, pod] = labels.each_ref().map(|(_, value)| value.as_str());
        LakeRecord {
            timestamp: own.unwrap_or(*modified),
            message,
            tenant,
            cluster,
            application,
            pod,
            stream: others.stream.as_deref(),
            namespace: others.namespace.as_deref(),
            container: others.container.as_deref(),
            node: others.node.as_deref(),
            level: others.level.or_else(|| Level::of_message(message)).map(Level::as_str),
            rest: others.rest.as_deref(),
        }
    }
}

impl Others {
    /// Reads a record. `own` is its own time, if the column has it.
    fn of(record: &Legal<'_>, labels: &[(&str, String)], own: Option<i64>) -> Self {
        let mut others = Self::default();
        // The operating system provides memory only when it is written to, so a large capacity costs nothing.
        let mut rest = String::with_capacity(record.as_str().len());
        // Where a value for a column was found: the lower, the better.
        let (mut namespace, mut container, mut node) = (Best::default(), Best::default(), Best::default());
        record.each_member(|name, value| {
            let is_label = |(label, expected): &(&str, String)| {
                *label == name && string(value).is_some_and(|value| value == *expected)
            };
            match name {
                "message" if value.starts_with('"') => return,
                "timestamp" if own.is_some() => return,
                "stream" if value.starts_with('"') => {
                    others.stream = string(value).map(Cow::into_owned);
                    return;
                }
                _ if labels.iter().any(is_label) => return,
                "kubernetes" if value.starts_with('{') => each_member_of(value, |name, value| match name {
                    "pod_namespace" => namespace.take(0, value),
                    "namespace_name" => namespace.take(1, value),
                    "container_name" => container.take(0, value),
                    "pod_node_name" => node.take(0, value),
                    "host" => node.take(1, value),
                    _ => {}
                }),
                "namespace" => namespace.take(2, value),
                "container_name" => container.take(1, value),
                "container" => container.take(2, value),
                "node" => node.take(2, value),
                "host" => node.take(3, value),
                _ => others.level = others.level.or_else(|| Level::of_member(name, value)),
            }
            for part in [if rest.is_empty() { "{\"" } else { ",\"" }, name, "\":", value] {
                rest.push_str(part);
            }
        });
        if !rest.is_empty() {
            rest.push('}');
            // Most of a long record is its message.
            if rest.len() < rest.capacity() / 2 {
                rest.shrink_to_fit();
            }
            others.rest = Some(rest);
        }
        (others.namespace, others.container, others.node) = (namespace.value, container.value, node.value);
        others
    }
}

/// The value of a column that may have one of several members.
#[derive(Default)]
struct Best {
    value: Option<String>,
    place: usize,
}

impl Best {
    /// Takes a member's value if the value is a string, and no member that comes earlier in the list has a string.
    fn take(&mut self, place: usize, value: &str) {
        if let Some(text) = string(value).filter(|text| !text.is_empty())
            && (self.value.is_none() || place < self.place)
        {
            (self.value, self.place) = (Some(text.into_owned()), place);
        }
    }
}

/// The text of a value that is a string.
fn string(value: &str) -> Option<Cow<'_, str>> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    match text.contains('\\') {
        false => Some(Cow::Borrowed(text)),
        true => serde_json::from_str(value).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests;
