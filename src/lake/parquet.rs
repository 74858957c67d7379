//! Parquet files of a lake: [`ParquetWriter`] writes them, and [`ParquetReader`] reads them back for compaction. No I/O: the
//! caller takes the encoded bytes, or gives them.
//!
//! A file has the columns of [`Row`](super::row::Row), in its order. `timestamp` is a number of milliseconds, UTC; all others are
//! strings. All strings but `message` have a dictionary, because they repeat: a file has the records of one pod, or of a few.
//! The format is the oldest that has all of this (version 1.0, data pages v1, timestamps in `PLAIN` encoding), so that all
//! programs read it.
//!
//! Statistics let a query skip files, row groups and pages. All columns have them for each row group, and all but `message`
//! for each page too. The smallest and the largest message of a page say nothing about the messages between them: no query can
//! skip a page by them.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::{Arc, LazyLock};

use ::parquet::schema::{parser, types::SchemaDescriptor};

pub use self::{
    reader::{ParquetReader, ReadError},
    writer::{Compression, ParquetWriter, WriteError},
};

/// The key of the file's metadata that holds the version of the program that wrote the file.
pub const VERSION_KEY: &str = "logferry.version";

/// The columns, in the order of [`Row`](super::row::Row).
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
