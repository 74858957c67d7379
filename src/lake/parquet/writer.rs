//! Writes Parquet files.

use std::{
    fmt,
    io::{self, Write},
    mem,
};

use ::parquet::{
    basic,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
};
use bytes::Bytes;

use super::{SCHEMA, VERSION_KEY};
use crate::{lake::record::LakeRecord, tenant::Compression};

/// Rows that the encoder of a column gets at once.
const BATCH: usize = 256;

/// Size of a page and of a dictionary, before compression. With pages of 1 MiB, [`ParquetWriter::end_group`] would need three
/// times as much memory, and files would be 1 % smaller.
const PAGE_BYTES: usize = 256 << 10;

/// A column's first block in memory, and its later ones. Each is twice as large as the one before.
const FIRST_BLOCK: usize = 4 << 10;
const BLOCK: usize = 64 << 10;

/// zstd's level. On logs level 1 saves 6 % of the CPU time, and makes files 6 % larger.
const ZSTD_LEVEL: i32 = 3;

/// Why a file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the Parquet file cannot be written")]
pub struct WriteError(#[from] ParquetError);

/// Writes a file. The caller ends each row group, and takes encoded bytes out when it wants to.
///
/// # Memory
///
/// The writer holds the values of the open row group ([`ParquetWriter::pending_bytes`]), the encoded bytes that were not taken
/// ([`ParquetWriter::encoded`], and a quarter more as room to grow), and, for the footer, 12 KiB for each row group that has
/// ended; 16 KiB if it had 64 MiB of values.
///
/// [`ParquetWriter::end_group`] frees the values while it encodes them. Beside the values and the encoded bytes it needs 3 MiB,
/// and three times the largest value: a page and a dictionary, the compressed page, and zstd's own memory. With row groups of
/// 4 MiB of any values, the resident memory of a process that did nothing else grew by at most 14 MiB, 4 MiB of them for the
/// program's code and 64 footers.
pub struct ParquetWriter {
    file: SerializedFileWriter<Encoded>,
    timestamps: Vec<i64>,
    /// The string columns, in the schema's order.
    strings: [Strings; 11],
    pending: usize,
}

impl fmt::Debug for ParquetWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetWriter").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl ParquetWriter {
    /// Begins a file. The file's metadata has this program's version as [`VERSION_KEY`].
    ///
    /// # Errors
    /// None is known.
    pub fn new(compression: Compression) -> Result<Self, WriteError> {
        let codec = match compression {
            Compression::Zstd => basic::Compression::ZSTD(basic::ZstdLevel::try_new(ZSTD_LEVEL)?),
            Compression::Snappy => basic::Compression::SNAPPY,
        };
        let version = KeyValue::new(VERSION_KEY.to_owned(), env!("CARGO_PKG_VERSION").to_owned());
        let path = |index: usize| SCHEMA.column(index).path().clone();
        let (timestamp, message) = (path(0), path(1));
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_write_batch_size(BATCH)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_dictionary_page_size_limit(PAGE_BYTES)
            .set_key_value_metadata(Some(vec![version]))
            .set_column_dictionary_enabled(timestamp, false)
            .set_column_dictionary_enabled(message.clone(), false)
            .set_column_statistics_enabled(message, EnabledStatistics::Chunk)
            .build();
        Ok(Self {
            file: SerializedFileWriter::new(Encoded::default(), SCHEMA.root_schema_ptr(), properties.into())?,
            timestamps: Vec::new(),
            strings: Default::default(),
            pending: 0,
        })
    }

    /// Adds a row to the open row group.
    pub fn push(&mut self, row: &LakeRecord<'_>) {
        let required = [row.message, row.tenant, row.cluster, row.application, row.pod].map(Some);
        let optional = [row.stream, row.namespace, row.container, row.node, row.level, row.rest];
        self.pending += grow(&mut self.timestamps, 1);
        self.timestamps.push(row.timestamp);
        for (column, value) in self.strings.iter_mut().zip(required.into_iter().chain(optional)) {
            self.pending += column.push(value);
        }
    }

    /// Memory of the open row group's values. A value that equals the column's value in the row before needs none.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending
    }

    /// Encoded bytes that were not taken.
    #[must_use]
    pub fn encoded(&self) -> usize {
        self.file.inner().0.len()
    }

    /// Takes the encoded bytes: the next part of the file.
    pub fn take_encoded(&mut self) -> Vec<u8> {
        mem::take(&mut self.file.inner_mut().0)
    }

    /// Ends the open row group: encodes its values, and frees their memory. Does nothing if the group is empty.
    ///
    /// # Errors
    /// None is known for values of less than 1 GiB. The file cannot be continued after an error.
    pub fn end_group(&mut self) -> Result<(), WriteError> {
        if self.timestamps.is_empty() {
            return Ok(());
        }
        self.pending = 0;
        let mut group = self.file.next_row_group()?;
        if let Some(mut column) = group.next_column()? {
            column.typed::<Int64Type>().write_batch(&mem::take(&mut self.timestamps), None, None)?;
            column.close()?;
        }
        for strings in &mut self.strings {
            if let Some(column) = group.next_column()? {
                mem::take(strings).write(column)?;
            }
        }
        group.close()?;
        self.file.flush().map_err(ParquetError::from)?;
        Ok(())
    }

    /// Ends the file, and gives the encoded bytes that were not taken. The last of them are the footer.
    ///
    /// # Errors
    /// See [`ParquetWriter::end_group`].
    pub fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        self.end_group()?;
        Ok(self.file.into_inner()?.0)
    }
}

/// The values of one column in the open row group.
#[derive(Default)]
struct Strings {
    /// The values, one after another. Each stands in one block: a value that has no room in the last block begins the next.
    /// Blocks need no more memory than they hold, and are never copied; one growing buffer needs twice as much.
    blocks: Vec<Vec<u8>>,
    /// Start of the last value in the last block.
    last: usize,
    runs: Vec<Run>,
}

/// Rows that have the same value, one after another.
struct Run {
    length: usize,
    rows: u32,
    some: bool,
}

impl Strings {
    /// Adds a row's value. Returns the memory that it took.
    fn push(&mut self, value: Option<&str>) -> usize {
        let some = value.is_some();
        let text = value.unwrap_or_default().as_bytes();
        let last = self.blocks.last().map_or(&[][..], |block| &block[self.last..]);
        if let Some(run) = self.runs.last_mut()
            && run.some == some
            && run.rows < u32::MAX
            && last == text
        {
            run.rows += 1;
            return 0;
        }
        let mut taken = grow(&mut self.runs, 1);
        self.runs.push(Run { length: text.len(), rows: 1, some });
        match self.blocks.last_mut() {
            Some(block) if text.len() <= block.capacity() - block.len() => {
                self.last = block.len();
                block.extend_from_slice(text);
            }
            None if text.is_empty() => {}
            before => {
                let double = before.map_or(0, |before| 2 * before.capacity());
                let capacity = double.clamp(FIRST_BLOCK, BLOCK).max(text.len());
                let mut block = Vec::with_capacity(capacity);
                block.extend_from_slice(text);
                taken += block.capacity();
                self.last = 0;
                self.blocks.push(block);
            }
        }
        taken
    }

    /// Encodes all values.
    fn write(self, mut column: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let encoder = column.typed::<ByteArrayType>();
        let required = encoder.get_descriptor().max_def_level() == 0;
        let mut write = |values: &[ByteArray], levels: &[i16]| {
            encoder.write_batch(values, (!required).then_some(levels), None).map(|_| ())
        };
        // A level of 0 means that the row has no value.
        let (mut values, mut levels) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut blocks = self.blocks.into_iter();
        let (mut block, mut at) = (Bytes::new(), 0);
        for run in self.runs {
            if block.len() - at < run.length {
                block = blocks.next().map(Bytes::from).unwrap_or_default();
                at = 0;
            }
            let value = ByteArray::from(block.slice(at..at + run.length));
            at += run.length;
            let mut rows = run.rows as usize;
            while rows > 0 {
                let more = rows.min(BATCH - levels.len());
                levels.resize(levels.len() + more, i16::from(run.some));
                if run.some {
                    values.resize(values.len() + more, value.clone());
                }
                rows -= more;
                if levels.len() < BATCH {
                    break;
                }
                write(&values, &levels)?;
                // A batch of this run alone serves again for the rest of the run.
                while more == BATCH && rows >= BATCH {
                    write(&values, &levels)?;
                    rows -= BATCH;
                }
                values.clear();
                levels.clear();
            }
        }
        if !levels.is_empty() {
            write(&values, &levels)?;
        }
        column.close()
    }
}

/// Encoded bytes.
#[derive(Default)]
struct Encoded(Vec<u8>);

impl Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        grow(&mut self.0, bytes.len());
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes room for `more` items. `Vec` itself would double its memory; here it grows by a quarter. Returns the memory that it
/// took.
fn grow<T>(items: &mut Vec<T>, more: usize) -> usize {
    let before = items.capacity();
    if before - items.len() < more {
        items.reserve_exact(more.max(before / 4).max(64));
    }
    (items.capacity() - before) * size_of::<T>()
}
