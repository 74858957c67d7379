//! Parquet files of a lake: [`ParquetWriter`] encodes them, and [`ParquetReader`] decodes them for the compaction. No I/O.
//!
//! A file has the columns of [`LakeRecord`](super::record::LakeRecord), in the same order. `timestamp` is a number of
//! milliseconds, UTC; the other columns are strings. Their values repeat, because a file has the records of one pod or of a few,
//! so all of them but `message` have a dictionary. The format is version 1.0 with data pages v1 and timestamps in `PLAIN`
//! encoding, because all programs read that.
//!
//! Statistics (the smallest and the largest value) let a query skip files, row groups and pages. All columns have statistics for
//! each row group, and all but `message` for each page too. No query can skip pages by their messages.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::{Arc, LazyLock};

use ::parquet::schema::{parser, types::SchemaDescriptor};

pub use self::{
    reader::{ParquetReader, ReadError},
    writer::{ParquetWriter, WriteError},
};

/// The key of the file's metadata that holds the version of the program that wrote the file.
pub const VERSION_KEY: &str = "logferry.version";

/// The columns, in the order of [`LakeRecord`](super::record::LakeRecord).
static SCHEMA: LazyLock<Arc<SchemaDescriptor>> = LazyLock::new(|| {
    let text = "message logferry {
        required int64 timestamp (TIMESTAMP(MILLIS, true));
        required binary message (STRING);
        required binary tenant (STRING);
        required binary cluster (STRING);
        required binary application (STRING);
        required binary pod (STRING);
        optional binary stream (STRING);
        optional binary namespace (STRING);
        optional binary container (STRING);
        optional binary node (STRING);
        optional binary level (STRING);
        optional binary rest (STRING);
    }";
    let schema = parser::parse_message_type(text).expect("the schema is constant, and tests parse it");
    Arc::new(SchemaDescriptor::new(Arc::new(schema)))
});

/// Names of the columns.
#[cfg(test)]
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    SCHEMA.columns().iter().map(|column| column.name())
}
