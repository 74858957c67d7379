//! The partitions of a layout, and how Athena projects them.

use super::{DdlError, Kind, Wishes};
use crate::name::{LakeLayout, LakePart, LakeSegment, TimePart};

/// Number of years of a partition that is a year.
const YEARS: i16 = 20;

/// A partition.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    pub(super) name: String,
    /// Text in the folder's name around the value of the column.
    around: (String, String),
    pub(super) projection: Projection,
    /// Whether the value has a part of the time.
    pub(super) is_time: bool,
    /// The part of the object's key that the value is.
    pub(super) label: Option<LakePart>,
}

/// How Athena finds the values of a partition. Source: Athena User Guide, "Supported types for partition projection".
#[derive(Clone, Debug)]
pub(super) enum Projection {
    /// All numbers of a range, with leading zeros.
    Integer { first: i16, last: i16, digits: usize },
    /// All dates from the first until tomorrow.
    Date { format: String, first: String, unit: &'static str },
    /// A list.
    Values(Vec<String>),
    /// Those that the query names.
    Injected,
}

impl Partition {
    pub(super) fn kind(&self) -> Kind {
        match self.projection {
            Projection::Integer { .. } => Kind::Integer,
            _ => Kind::Text,
        }
    }

    /// The partition's folder, with `${name}` for the value.
    pub(super) fn folder(&self) -> String {
        let Self { name, around: (before, after), .. } = self;
        format!("{name}={before}${{{name}}}{after}/")
    }
}

impl Projection {
    pub(super) fn properties(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Integer { first, last, digits } => vec![
                ("type", "integer".to_owned()),
                ("range", format!("{first},{last}")),
                ("digits", digits.to_string()),
            ],
            Self::Date { format, first, unit } => vec![
                ("type", "date".to_owned()),
                ("format", format.clone()),
                // A record can be a day younger than its object.
                ("range", format!("{first},NOW+1{}", if *unit == "HOURS" { "DAYS" } else { unit })),
                ("interval", "1".to_owned()),
                ("interval.unit", (*unit).to_owned()),
            ],
            Self::Values(values) => vec![("type", "enum".to_owned()), ("values", values.join(","))],
            Self::Injected => vec![("type", "injected".to_owned())],
        }
    }
}

/// The partitions of a layout, in order.
///
/// # Errors
/// [`DdlError::NoSuchPartition`].
pub(super) fn of(layout: &LakeLayout, tenant_id: &str, wishes: &Wishes) -> Result<Vec<Partition>, DdlError> {
    let segments = layout.segments().iter();
    let mut partitions: Vec<_> =
        segments.filter_map(|segment| partition(segment, tenant_id, wishes.since)).collect();
    let unknown = partitions.iter().filter(|found| matches!(found.projection, Projection::Injected));
    let unknown: Vec<_> = unknown.map(|partition| partition.name.clone()).collect();
    for (name, values) in &wishes.values {
        let found = partitions
            .iter_mut()
            .find(|found| found.name == *name && matches!(found.projection, Projection::Injected));
        match found {
            Some(found) => found.projection = Projection::Values(values.clone()),
            None => {
                let known = if unknown.is_empty() { "none".to_owned() } else { unknown.join(", ") };
                return Err(DdlError::NoSuchPartition(name.clone(), known));
            }
        }
    }
    Ok(partitions)
}

/// The folders of a file below the prefix, with `${name}` for values.
pub(super) fn folders(layout: &LakeLayout) -> String {
    let folder = |segment: &LakeSegment| match partition(segment, "", 0) {
        Some(partition) => partition.folder(),
        None => segment.parts.iter().map(text).collect::<String>() + "/",
    };
    layout.segments().iter().map(folder).collect()
}

fn text(part: &LakePart) -> &str {
    match part {
        LakePart::Text(text) => text,
        _ => "",
    }
}

fn partition(segment: &LakeSegment, tenant_id: &str, since: i16) -> Option<Partition> {
    let name = segment.partition.clone()?;
    let is_time = |part: &LakePart| matches!(part, LakePart::Time(_));
    let parts = segment.parts.as_slice();
    let plain = |around: (&str, &str), projection| Partition {
        name: name.clone(),
        around: (around.0.to_owned(), around.1.to_owned()),
        projection,
        is_time: parts.iter().any(is_time),
        label: (parts.len() == 1).then(|| parts[0].clone()),
    };
    // The value may have a text before and after its times.
    let (before, inner) = match parts {
        [LakePart::Text(text), inner @ ..] if !inner.is_empty() => (text.as_str(), inner),
        inner => ("", inner),
    };
    let (inner, after) = match inner {
        [inner @ .., LakePart::Text(text)] if !inner.is_empty() => (inner, text.as_str()),
        inner => (inner, ""),
    };
    Some(match inner {
        [LakePart::Time(part)] => plain((before, after), integer(*part, since)),
        [LakePart::Time(TimePart::Year), .., LakePart::Time(last)]
            if inner.iter().all(|part| is_time(part) || matches!(part, LakePart::Text(_))) =>
        {
            plain((before, after), date(inner, *last, since))
        }
        _ => match segment.of_tenant(tenant_id) {
            // A comma would end the value.
            Some(value) if !value.contains(',') => plain(("", ""), Projection::Values(vec![value])),
            _ => plain(("", ""), Projection::Injected),
        },
    })
}

fn integer(part: TimePart, since: i16) -> Projection {
    let (first, last) = match part {
        TimePart::Year => (since, since + YEARS - 1),
        TimePart::Month => (1, 12),
        TimePart::Day => (1, 31),
        TimePart::Hour => (0, 23),
    };
    Projection::Integer { first, last, digits: part.letters().len() }
}

/// A date that begins with the year and ends with `last`.
fn date(parts: &[LakePart], last: TimePart, since: i16) -> Projection {
    let (mut format, mut first) = (String::new(), String::new());
    for part in parts {
        match part {
            LakePart::Time(part) => {
                let (letters, value) = match part {
                    TimePart::Year => ("yyyy", since),
                    TimePart::Month => ("MM", 1),
                    TimePart::Day => ("dd", 1),
                    TimePart::Hour => ("HH", 0),
                };
                format += letters;
                first += &format!("{value:0width$}", width = letters.len());
            }
            other => {
                let text = text(other);
                // Letters outside of quotes are parts of the date.
                match text.contains(|c: char| c.is_ascii_alphabetic()) {
                    true => format += &format!("'{text}'"),
                    false => format += text,
                }
                first += text;
            }
        }
    }
    let unit = match last {
        TimePart::Year => "YEARS",
        TimePart::Month => "MONTHS",
        TimePart::Day => "DAYS",
        TimePart::Hour => "HOURS",
    };
    Projection::Date { format, first, unit }
}
