//! Format and names of quarantine files.
//!
//! A file has the undeliverable records of one batch, as lines of JSON in gzip. Each line has the reason, the record's
//! source, and the record's `message` and `timestamp` in the form that records of the staging bucket have. The key names the
//! object, the delivery and the batch's start (or the first owed record), so that a repeated attempt replaces the file of
//! the attempt before.

use std::{collections::BTreeMap, io::Write};

use flate2::{Compression, write::GzEncoder};

use super::{Quarantine, QuarantineError, QuarantineReason};
use crate::{
    digest,
    event::ObjectRef,
    ledger::{EntryKey, Position},
    metrics::Reason,
};

/// Compressed bytes at which a file is full. A full file ends its batch early: the batch is put even if it is not full, and
/// then the file is written.
const FULL_FILE: usize = 1 << 20;
/// Lines at which a file is full. The ledger may have to remember the record of each line.
const FULL_FILE_RECORDS: usize = 10_000;
/// Longest key that S3 takes, in bytes. Source: S3 user guide, "Naming Amazon S3 objects".
pub(super) const MAX_KEY_BYTES: usize = 1024;
/// Longest prefix, including the place for the tenant.
pub(super) const MAX_PREFIX_BYTES: usize = 256;
/// Most bytes of the tenant's id in a key. Longer ids are cut, and the hash in the key tells them apart.
pub(super) const MAX_TENANT_BYTES: usize = 256;
/// Most bytes of the object's file name, and of the delivery's name, in a key. Longer names are cut in the same way.
const MAX_NAME_BYTES: usize = 128;
/// Most bytes of the rest of a key: the hash, a number of 20 digits, dashes and an extension.
const MAX_REST_BYTES: usize = 64;
const _: () =
    assert!(MAX_PREFIX_BYTES + MAX_TENANT_BYTES + 2 * MAX_NAME_BYTES + MAX_REST_BYTES <= MAX_KEY_BYTES);

/// Writes the quarantine files of one object and one delivery.
#[derive(Clone, Debug)]
pub struct Shelf {
    quarantine: Quarantine,
    tenant_id: String,
    /// Key of a file up to its [`FileName`].
    stem: String,
    /// The part of every line that names the source.
    source: String,
}

/// Records on their way to the quarantine, compressed as they come.
#[derive(Debug, Default)]
pub struct QuarantineFile {
    /// Created with the first record, because a compressor takes a quarter of a megabyte and nearly every batch needs none.
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Lines by reason.
    lines: BTreeMap<&'static str, u64>,
    /// Record and reason of each line.
    records: Vec<(u64, QuarantineReason)>,
}

/// Last part of a file's key. Files with different records have different names. A file that is written again keeps its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// Records of one batch: the position at which the batch begins.
    Batch(Position),
    /// Records that earlier attempts owed: the first record of the file.
    Owed(u64),
}

impl Shelf {
    pub(super) fn new(quarantine: Quarantine, object: &ObjectRef, tenant_id: &str, delivery: &str) -> Self {
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
        let stem = format!("{}{file}/{}-{hash}", quarantine.prefix.render(tenant_id), legal(delivery));
        Self { quarantine, tenant_id: tenant_id.to_owned(), stem, source }
    }

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
        self.start_line(file, reason, record, timestamp);
        for part in [b"\"", escaped, b"\"}\n"] {
            file.gzip().write_all(part).expect("memory takes every byte");
        }
    }

    /// Adds a text of the object that is not a record, usually a line.
    pub fn add_line(&self, file: &mut QuarantineFile, reason: QuarantineReason, record: u64, line: &str) {
        self.start_line(file, reason, record, None);
        // The line is written without a copy in between, because escapes could make the copy six times as long.
        serde_json::to_writer(file.gzip(), line)
            .expect("memory takes every byte, and a string is always JSON");
        file.gzip().write_all(b"}\n").expect("memory takes every byte");
    }

    /// Writes a line up to the value of its message.
    fn start_line(
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

    /// Writes a file to the store and counts its lines by reason. An empty file is not written.
    ///
    /// # Errors
    /// The store cannot write the file: its records are not in the quarantine.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped leaves either the whole file or none.
    pub async fn put(&self, file: QuarantineFile, name: FileName) -> Result<(), QuarantineError> {
        let Some(gzip) = file.gzip else { return Ok(()) };
        let name = match name {
            FileName::Batch(Position { records, events }) => format!("{records:010}-{events:04}"),
            FileName::Owed(record) => format!("{record:010}-owed"),
        };
        let key = format!("{}-{name}.ndjson.gz", self.stem);
        let body = gzip.finish().expect("memory takes every byte");
        let Quarantine { store, metrics, sampler, .. } = &self.quarantine;
        store.put(&key, body.into()).await?;
        for (reason, count) in &file.lines {
            metrics.quarantined.get_or_create(&Reason::new(reason)).inc_by(*count);
        }
        if let Some(left_out) = sampler.admit(&self.tenant_id) {
            let lines = file.lines.iter().map(|(reason, count)| format!("{reason}: {count}"));
            tracing::warn!(
                tenant.id = self.tenant_id,
                quarantine.key = key,
                quarantine.lines = lines.collect::<Vec<_>>().join(", "),
                left_out.files = left_out,
                "records were put into quarantine"
            );
        }
        Ok(())
    }
}

/// Replaces characters that file systems and tools may not take, and cuts the name to [`MAX_NAME_BYTES`].
fn legal(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    name.chars().map(legal).take(MAX_NAME_BYTES).collect()
}

impl QuarantineFile {
    /// Whether the file has no lines.
    pub fn is_empty(&self) -> bool {
        self.gzip.is_none()
    }

    /// Whether the file must be written before the next record is added.
    pub fn is_full(&self) -> bool {
        self.bytes() >= FULL_FILE || self.records.len() >= FULL_FILE_RECORDS
    }

    /// Record and reason of each line, in the order of the lines.
    pub fn records(&self) -> &[(u64, QuarantineReason)] {
        &self.records
    }

    /// Length of the compressed output so far, which is roughly the file's memory.
    fn bytes(&self) -> usize {
        self.gzip.as_ref().map_or(0, |gzip| gzip.get_ref().len())
    }

    fn gzip(&mut self) -> &mut GzEncoder<Vec<u8>> {
        // Level 3 is the lowest one that builds its own Huffman codes. With a lower level, text hardly shrinks.
        self.gzip.get_or_insert_with(|| GzEncoder::new(Vec::new(), Compression::new(3)))
    }
}
