//! The fields of an S3 row that say what is written into the bucket. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{Attribute, row::RowFields};
use crate::name::{LakeLayout, ObjectKeyTemplate};

/// What is written into a customer's bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Copies of the objects as they are. The template makes a copy's key after the prefix.
    Copies(ObjectKeyTemplate),
    /// Files of records, partitioned by time: a lake.
    Lake(Lake),
}

/// The files of a lake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lake {
    /// The files' format.
    pub format: Format,
    /// Template of a file's key after the prefix.
    pub layout: LakeLayout,
    /// Object Lock of every file. `None`: the bucket's default retention, if it has one.
    pub lock: Option<Lock>,
}

/// Format of lake files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON record a line, in gzip.
    Ndjson(Fields),
    /// Parquet with the columns of `lake::record`.
    Parquet(Compression),
}

impl Format {
    /// Name of the format in rows.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ndjson(_) => "ndjson",
            Self::Parquet(_) => "parquet",
        }
    }
}

/// Members of a record that a line of NDJSON has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    /// All of them.
    All,
    /// Those with these names.
    Named(Vec<String>),
}

/// Compression inside of Parquet files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Smaller files.
    Zstd,
    /// Less CPU, for programs that do not read zstd.
    Snappy,
}

/// Object Lock of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who may delete the file before the retention ends.
    pub mode: LockMode,
    /// Days from the moment at which the file is written.
    pub days: u32,
}

impl Lock {
    /// The mode, and the end of the retention of a file that is written at `now`.
    pub fn until(self, now: Timestamp) -> (LockMode, Timestamp) {
        let retention = SignedDuration::from_hours(24 * i64::from(self.days));
        // A date that no calendar has is thousands of years away.
        (self.mode, now.checked_add(retention).unwrap_or(Timestamp::MAX))
    }
}

/// Mode of a retention. Source: S3 User Guide, "Locking objects with Object Lock".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Only a principal with `s3:BypassGovernanceRetention`.
    Governance,
    /// Nobody.
    Compliance,
}

/// Longest retention in days: 100 years. Source: S3 User Guide, "Object Lock considerations".
const MAX_LOCK_DAYS: u32 = 36_500;

/// Fields of rows whose format is not `copy`.
const LAKE_FIELDS: [&str; 5] = ["layout", "fields", "compression", "object_lock_mode", "object_lock_days"];

impl RowFields<'_> {
    /// Reads what an S3 row writes.
    pub(super) fn contents(&mut self) -> Contents {
        let words = ["copy", "ndjson", "parquet"].map(|word| (word, word));
        let format = self.word("format", &words).unwrap_or("copy");
        if format == "copy" {
            for field in LAKE_FIELDS {
                self.has_no(field, "needs format = \"ndjson\" or \"parquet\"");
            }
            return Contents::Copies(
                self.optional("bucket_key", ObjectKeyTemplate::parse).unwrap_or_default(),
            );
        }
        self.has_no("bucket_key", "is for copies; a lake's keys follow its layout");
        let layout = self.optional("layout", LakeLayout::parse).unwrap_or_default();
        let format = if format == "ndjson" {
            self.has_no("compression", "is for format = \"parquet\"; NDJSON is always gzip");
            Format::Ndjson(self.optional("fields", fields).unwrap_or(Fields::All))
        } else {
            self.has_no("fields", "is for format = \"ndjson\"; a query reads only the columns that it names");
            if cfg!(not(feature = "parquet")) {
                self.problem("format", "\"parquet\" needs a build with the feature parquet");
            }
            Format::Parquet(self.word("compression", COMPRESSIONS).unwrap_or(Compression::Zstd))
        };
        Contents::Lake(Lake { format, layout, lock: self.lock() })
    }

    fn lock(&mut self) -> Option<Lock> {
        let mode = self.word("object_lock_mode", LOCK_MODES);
        let has = |field| self.row.contains_key(field);
        match (has("object_lock_mode"), has("object_lock_days")) {
            (false, false) => return None,
            (true, true) => {}
            (true, false) => self.problem("object_lock_days", "is missing, and the row has object_lock_mode"),
            (false, true) => self.problem("object_lock_mode", "is missing, and the row has object_lock_days"),
        }
        let given = self.row.get("object_lock_days")?;
        let days = match given {
            Attribute::Number(number) => {
                number.parse().ok().filter(|days| (1..=MAX_LOCK_DAYS).contains(days))
            }
            _ => None,
        };
        if days.is_none() {
            let problem = format!("must be a number from 1 to {MAX_LOCK_DAYS}, not {}", given.describe());
            self.problem("object_lock_days", problem);
        }
        Some(Lock { mode: mode?, days: days? })
    }

    fn has_no(&mut self, field: &str, problem: &str) {
        if self.row.contains_key(field) {
            self.problem(field, problem);
        }
    }
}

/// Reads names of members, separated by commas.
fn fields(text: &str) -> Result<Fields, String> {
    if text == "all" {
        return Ok(Fields::All);
    }
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| {
        name.is_empty()
            || name.eq_ignore_ascii_case("all")
            || name.contains(|c: char| c.is_control() || c == '"')
    }) {
        None => Ok(Fields::Named(names)),
        Some(bad) => Err(format!("{text:?} is neither \"all\" nor names separated by commas: {bad:?}")),
    }
}

const COMPRESSIONS: &[(&str, Compression)] = &[("zstd", Compression::Zstd), ("snappy", Compression::Snappy)];
const LOCK_MODES: &[(&str, LockMode)] =
    &[("governance", LockMode::Governance), ("compliance", LockMode::Compliance)];
