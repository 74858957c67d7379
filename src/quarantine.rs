//! The port to the quarantine: where records are kept that CloudWatch Logs does not take. [`s3`] is the adapter.
//!
//! What one batch leaves behind is one file: gzip over one JSON object a line, each with the reason, where the record came
//! from, and its message as it was. A file's name is that of its object, its delivery and its first record, so that a repeated
//! attempt replaces what the one before wrote. The lines have `message` and `timestamp`, as the records of the staging
//! bucket do.

pub mod memory;
pub mod s3;

use std::{collections::BTreeMap, fmt, future::Future, io::Write, pin::Pin, sync::Arc};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use crate::{
    batch::Rejection,
    digest,
    event::ObjectRef,
    ledger::{EntryKey, Position},
    metrics::{Metrics, Reason},
};

/// A file goes out with its batch, but not later than when it has grown to that many bytes ...
const FULL_FILE: usize = 1 << 20;
/// ... or to that many lines, each of which the ledger may have to remember.
const FULL_FILE_RECORDS: usize = 10_000;
/// Longest key that S3 takes, in bytes. Source: S3 user guide, "Naming Amazon S3 objects".
const MAX_KEY_BYTES: usize = 1024;
/// Longest prefix, its place for the tenant included.
const MAX_PREFIX_BYTES: usize = 256;
/// Most bytes of the tenant's id that stand in a key; the hash in it tells the rest apart, as it does for [`MAX_NAME_BYTES`].
const MAX_TENANT_BYTES: usize = 256;
/// Most bytes of the object's and of the delivery's name that stand in a key.
const MAX_NAME_BYTES: usize = 128;
/// What else stands in one: the hash, a number of 20 digits, dashes and an extension.
const MAX_REST_BYTES: usize = 64;
const _: () =
    assert!(MAX_PREFIX_BYTES + MAX_TENANT_BYTES + 2 * MAX_NAME_BYTES + MAX_REST_BYTES <= MAX_KEY_BYTES);

/// Keeps files. Writing a key again replaces what it held.
pub trait QuarantineStore: fmt::Debug + Send + Sync + 'static {
    /// Writes one file, whole or not at all.
    ///
    /// # Errors
    /// See [`QuarantineError`]; nobody knows then whether the file is there.
    fn put<'a>(&'a self, key: &'a str, body: Bytes) -> Putting<'a>;
}

/// A file on its way; boxed, because the store is chosen when the program starts and files are rare.
pub type Putting<'a> = Pin<Box<dyn Future<Output = Result<(), QuarantineError>> + Send + 'a>>;

/// A file that could not be written: its records are not accounted for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quarantine file {key:?} cannot be written: {problem}")]
pub struct QuarantineError {
    /// The file's key.
    pub key: String,
    /// What happened, and what mends it.
    pub problem: String,
}

/// Why a record is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuarantineReason {
    /// CloudWatch Logs refused it.
    Rejected(Rejection),
    /// Longer than one event may be, and the tenant wants no pieces of it.
    Oversize,
    /// No record at all.
    Malformed,
    /// Longer than `source.max_record`: its line says where it stands in the object.
    TooLong,
}

impl QuarantineReason {
    /// Whether such a record counts as quarantined, once it is there. What was rejected counted as that when CloudWatch Logs
    /// answered.
    pub fn counts_in_quarantine(self) -> bool {
        match self {
            Self::Rejected(_) => false,
            Self::Oversize | Self::Malformed | Self::TooLong => true,
        }
    }

    /// The word that lines and metrics use.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected(Rejection::Refused) => "refused",
            Self::Rejected(Rejection::TooOld) => "too_old",
            Self::Rejected(Rejection::TooNew) => "too_new",
            Self::Rejected(Rejection::Expired) => "expired",
            Self::Oversize => "oversize",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }
}

/// Where keys of quarantine files begin: a text with a place for the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantinePrefix {
    before: String,
    after: String,
}

impl QuarantinePrefix {
    /// A folder for each tenant.
    pub const DEFAULT: &'static str = "quarantine/{tenant}/";

    /// Reads a prefix such as `quarantine/{tenant}/`.
    ///
    /// # Errors
    /// It has not one place for the tenant, or cannot begin a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts = text.split_once("{tenant}").filter(|(before, after)| {
            let literal = |text: &str| !text.contains(['{', '}']);
            literal(before) && literal(after)
        });
        let Some((before, after)) = parts else {
            return Err(format!("{text:?} must have the place {{tenant}}, once, and no other"));
        };
        if text.starts_with('/') || !text.ends_with('/') {
            return Err(format!("{text:?} must end with a slash and not begin with one"));
        }
        if text.chars().any(char::is_control) || text.split('/').any(|part| part == "..") {
            return Err(format!("{text:?} has a control character or a part \"..\""));
        }
        if text.len() > MAX_PREFIX_BYTES {
            return Err(format!("{text:?} is longer than {MAX_PREFIX_BYTES} bytes"));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    fn render(&self, tenant_id: &str) -> String {
        let tenant_id = &tenant_id[..tenant_id.floor_char_boundary(MAX_TENANT_BYTES)];
        [&self.before, tenant_id, &self.after].concat()
    }
}

/// The quarantine of a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Quarantine {
    store: Arc<dyn QuarantineStore>,
    prefix: QuarantinePrefix,
    metrics: Metrics,
}

impl Quarantine {
    /// Keeps files in `store` under `prefix`.
    pub fn new(store: Arc<dyn QuarantineStore>, prefix: QuarantinePrefix, metrics: Metrics) -> Self {
        Self { store, prefix, metrics }
    }

    /// Where one delivery of an object leaves what it cannot deliver.
    pub fn shelf(&self, object: &ObjectRef, tenant_id: &str, delivery: &str) -> Shelf {
        let quoted = |text: &str| serde_json::to_string(text).expect("a string is always JSON");
        let mut source = format!("\"tenant_id\":{},\"delivery\":{}", quoted(tenant_id), quoted(delivery));
        let ObjectRef { bucket, key, version_id, etag, .. } = object;
        source.push_str(&format!(",\"bucket\":{},\"key\":{}", quoted(bucket), quoted(key)));
        for (name, value) in [("version_id", version_id), ("etag", etag)] {
            if let Some(value) = value {
                source.push_str(&format!(",\"{name}\":{}", quoted(value)));
            }
        }
        let entry = EntryKey::of(object, delivery);
        let identity = entry.map_or_else(|| format!("{bucket}/{key}"), |entry| entry.object);
        let digest = digest::sha256(format!("{identity}\n{delivery}").as_bytes());
        let hash = &digest[..16];
        let file = legal(key.rsplit('/').next().unwrap_or_default());
        let stem = format!("{}{file}/{}-{hash}", self.prefix.render(tenant_id), legal(delivery));
        Shelf { quarantine: self.clone(), stem, source }
    }
}

/// What everybody's tools take as a file's name, and not too much of it.
fn legal(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(legal).take(MAX_NAME_BYTES).collect()
}

/// The place in the quarantine of one object's delivery.
#[derive(Clone, Debug)]
pub struct Shelf {
    quarantine: Quarantine,
    /// The key of a file up to the position where its batch begins.
    stem: String,
    /// The part of every line that says where it comes from.
    source: String,
}

impl Shelf {
    /// Adds a record to a file: its position in the object, its time in milliseconds if it has one, and its message as the
    /// inside of a JSON string.
    pub fn add(
        &self,
        file: &mut QuarantineFile,
        reason: QuarantineReason,
        record: u64,
        timestamp: Option<i64>,
        escaped: &[u8],
    ) {
        self.begin(file, reason, record, timestamp);
        for part in [b"\"", escaped, b"\"}\n"] {
            file.gzip().write_all(part).expect("memory takes every byte");
        }
    }

    /// Adds a line of an object that is no record.
    pub fn add_line(&self, file: &mut QuarantineFile, reason: QuarantineReason, record: u64, line: &str) {
        self.begin(file, reason, record, None);
        // Straight into the file: a long line of control characters would take six times its length.
        serde_json::to_writer(file.gzip(), line)
            .expect("memory takes every byte, and a string is always JSON");
        file.gzip().write_all(b"}\n").expect("memory takes every byte");
    }

    fn begin(
        &self,
        file: &mut QuarantineFile,
        reason: QuarantineReason,
        record: u64,
        timestamp: Option<i64>,
    ) {
        let mut head = format!("{{\"reason\":\"{}\",{},\"record\":{record}", reason.word(), self.source);
        if let Some(timestamp) = timestamp {
            head.push_str(&format!(",\"timestamp\":{timestamp}"));
        }
        head.push_str(",\"message\":");
        file.gzip().write_all(head.as_bytes()).expect("memory takes every byte");
        *file.lines.entry(reason.word()).or_default() += 1;
        file.records.push((record, reason));
    }

    /// Writes a file, unless nothing is in it, and counts its lines by reason.
    ///
    /// # Errors
    /// The store does not take it: its records are not accounted for.
    ///
    /// # Cancel safety
    /// Safe: dropped half-way, the file is there or not.
    pub async fn put(&self, file: QuarantineFile, name: FileName) -> Result<(), QuarantineError> {
        let Some(gzip) = file.gzip else { return Ok(()) };
        let name = match name {
            FileName::Batch(Position { records, events }) => format!("{records:010}-{events:04}"),
            FileName::Owed(record) => format!("{record:010}-owed"),
        };
        let key = format!("{}-{name}.ndjson.gz", self.stem);
        let body = gzip.finish().expect("memory takes every byte");
        let Quarantine { store, metrics, .. } = &self.quarantine;
        store.put(&key, body.into()).await?;
        for (reason, count) in &file.lines {
            metrics.quarantined.get_or_create(&Reason::new(reason)).inc_by(*count);
        }
        let lines: Vec<_> = file.lines.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
        tracing::warn!(
            quarantine.key = key,
            quarantine.lines = lines.join(", "),
            "records were put into quarantine"
        );
        Ok(())
    }
}

/// Records on their way to the quarantine, compressed as they come.
#[derive(Debug, Default)]
pub struct QuarantineFile {
    /// Made for the first record: a compressor is a quarter of a megabyte, and nearly every batch does without.
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Lines by reason.
    lines: BTreeMap<&'static str, u64>,
    /// The record of each line, and why it is here.
    records: Vec<(u64, QuarantineReason)>,
}

/// What a file is named after, beside its object and its delivery: no two files that hold different records have one name, and a
/// file that is written again replaces what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// What one batch left behind: the position where the batch begins.
    Batch(Position),
    /// What attempts before owed: the first record in it.
    Owed(u64),
}

impl QuarantineFile {
    /// Nothing in it yet.
    pub fn is_empty(&self) -> bool {
        self.gzip.is_none()
    }

    /// Whether it is to go out before more comes in.
    pub fn is_full(&self) -> bool {
        self.bytes() >= FULL_FILE || self.records.len() >= FULL_FILE_RECORDS
    }

    /// The record of each line and why it is here, in the order in which they were added.
    pub fn records(&self) -> &[(u64, QuarantineReason)] {
        &self.records
    }

    /// Bytes of memory that it takes, roughly: what is compressed so far.
    fn bytes(&self) -> usize {
        self.gzip.as_ref().map_or(0, |gzip| gzip.get_ref().len())
    }

    fn gzip(&mut self) -> &mut GzEncoder<Vec<u8>> {
        // The lowest level with Huffman codes of its own: below it, text hardly shrinks.
        self.gzip.get_or_insert_with(|| GzEncoder::new(Vec::new(), Compression::new(3)))
    }
}

#[cfg(test)]
mod tests;
