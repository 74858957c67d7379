//! The columns of a lake's files, and what the view makes of them.

use std::collections::BTreeSet;

use super::{DdlError, Kind, partitions::Partition};
use crate::{
    name::LakePart,
    route::Name,
    tenant::{Fields, Format},
};

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Name of the JSON member, if it cannot be the column's name.
    pub(super) member: Option<String>,
}

impl Column {
    pub(super) fn text(name: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::Text, member: None }
    }
}

/// A column of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// SQL of its value; the table of files is `f`.
    pub(super) value: String,
}

/// Columns of Parquet files, in the order of `lake::record`.
pub(super) const PARQUET: [(&str, Kind); 12] = [
    ("timestamp", Kind::Timestamp),
    ("message", Kind::Text),
    ("tenant", Kind::Text),
    ("cluster", Kind::Text),
    ("application", Kind::Text),
    ("pod", Kind::Text),
    ("stream", Kind::Text),
    ("namespace", Kind::Text),
    ("container", Kind::Text),
    ("node", Kind::Text),
    ("level", Kind::Text),
    ("rest", Kind::Text),
];

/// Members of records that the table of NDJSON files has: those of the collector in `k8s/`, and the usual ones of Vector.
const MEMBERS: [&str; 15] = [
    "timestamp",
    "message",
    "customer_id",
    "cluster_id",
    "application",
    "pod_name",
    "stream",
    "namespace",
    "container_name",
    "container",
    "node",
    "host",
    "level",
    "severity",
    "kubernetes",
];

/// Where the view finds the columns of Parquet in NDJSON: the part of the key that a partition may be, and the members, the best
/// first. `lake::record` has the same order.
const SOURCES: [(&str, Option<Name>, &[&str]); 9] = [
    ("tenant", Some(Name::Tenant), &["customer_id"]),
    ("cluster", Some(Name::Cluster), &["cluster_id"]),
    ("application", Some(Name::Application), &["application"]),
    ("pod", Some(Name::Pod), &["pod_name", "kubernetes.pod_name"]),
    ("stream", None, &["stream"]),
    ("namespace", None, &["kubernetes.pod_namespace", "kubernetes.namespace_name", "namespace"]),
    ("container", None, &["kubernetes.container_name", "container_name", "container"]),
    ("node", None, &["kubernetes.pod_node_name", "kubernetes.host", "node", "host"]),
    ("level", None, &["level", "severity"]),
];

/// The columns of the files. A column that is the same as a partition is left out, because a table has each name once.
///
/// # Errors
/// [`DdlError::Hidden`].
pub(super) fn of(format: &Format, partitions: &[Partition]) -> Result<Vec<Column>, DdlError> {
    let columns = match format {
        Format::Parquet(_) => PARQUET.map(|(name, kind)| Column { kind, ..Column::text(name) }).into(),
        Format::Ndjson(Fields::All) => members(&MEMBERS),
        Format::Ndjson(Fields::Named(names)) => members(names),
    };
    let mut kept = Vec::new();
    for column in columns {
        let label = SOURCES.iter().find_map(|(name, label, _)| label.filter(|_| *name == column.name));
        match partitions.iter().find(|partition| partition.name == column.name) {
            None => kept.push(column),
            Some(partition) if label.is_some() && partition.label == label.map(LakePart::Name) => {}
            Some(_) => return Err(DdlError::Hidden(column.name)),
        }
    }
    Ok(kept)
}

/// Columns of JSON members. A column's name is a lower-case word. The SerDe does not distinguish upper and lower case, so members
/// that differ in it have one column.
fn members<S: AsRef<str>>(names: &[S]) -> Vec<Column> {
    let lower: Vec<_> = names.iter().map(|name| name.as_ref().to_lowercase()).collect();
    let mut columns: Vec<Column> = Vec::new();
    for (index, member) in lower.iter().enumerate() {
        if lower[..index].contains(member) {
            continue;
        }
        let legal = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
        let word: String = member.chars().map(legal).collect();
        let word = if word.starts_with(|c: char| c.is_ascii_lowercase()) { word } else { format!("m{word}") };
        let mut column = Column::text(&word);
        if word == "kubernetes" {
            column.kind = Kind::Kubernetes;
        }
        if word != *member {
            column.member = Some(names[index].as_ref().to_owned());
            let mut number = 2;
            while lower.contains(&column.name) || columns.iter().any(|other| other.name == column.name) {
                column.name = format!("{word}_{number}");
                number += 1;
            }
        }
        columns.push(column);
    }
    columns
}

/// The columns of the view: those of Parquet as far as the files have them, further members, and the partitions.
pub(super) fn shown(format: &Format, columns: &[Column], partitions: &[Partition]) -> Vec<Shown> {
    let mut shown = match format {
        Format::Parquet(_) => PARQUET.into_iter().map(|(name, kind)| plain(name, kind)).collect::<Vec<_>>(),
        Format::Ndjson(_) => of_members(columns, partitions),
    };
    for partition in partitions {
        if shown.iter().all(|column| column.name != partition.name) {
            shown.push(plain(&partition.name, partition.kind()));
        }
    }
    shown
}

fn plain(name: &str, kind: Kind) -> Shown {
    Shown { name: name.to_owned(), kind, value: format!("f.\"{name}\"") }
}

fn of_members(columns: &[Column], partitions: &[Partition]) -> Vec<Shown> {
    let has = |name: &str| columns.iter().any(|column| column.name == name && column.member.is_none());
    let mut used = BTreeSet::from(["timestamp", "message", "kubernetes"]);
    let mut shown = Vec::new();
    if has("timestamp") {
        // A view cannot have a time with a time zone. A text that is no time is NULL, and does not end the query.
        let value = "CAST(TRY(from_iso8601_timestamp(f.\"timestamp\")) AT TIME ZONE 'UTC' AS timestamp(3))";
        shown.push(Shown { value: value.to_owned(), ..plain("timestamp", Kind::Timestamp) });
    }
    if has("message") {
        shown.push(plain("message", Kind::Text));
    }
    for (name, label, members) in SOURCES {
        let label = label.map(LakePart::Name);
        let partition = partitions.iter().find(|partition| label.is_some() && partition.label == label);
        let mut values: Vec<_> =
            partition.iter().map(|partition| format!("f.\"{}\"", partition.name)).collect();
        for member in members {
            let (top, below) =
                member.split_once('.').map_or((*member, None), |(top, below)| (top, Some(below)));
            used.insert(top);
            if partition.is_none() && has(top) {
                values.push(
                    format!("f.\"{top}\"") + &below.map_or_else(String::new, |name| format!(".\"{name}\"")),
                );
            }
        }
        let value = match values.as_slice() {
            [] => continue,
            [value] => value.clone(),
            values => format!("coalesce({})", values.join(", ")),
        };
        let value = if name == "level" { format!("lower({value})") } else { value };
        shown.push(Shown { value, ..plain(name, Kind::Text) });
    }
    for column in columns.iter().filter(|column| !used.contains(column.name.as_str())) {
        if shown.iter().all(|other| other.name != column.name) {
            shown.push(plain(&column.name, column.kind));
        }
    }
    shown
}
