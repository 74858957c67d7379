//! Reads Parquet files that [`ParquetWriter`](super::ParquetWriter) wrote.

use std::{
    fmt,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ::parquet::{
    column::reader::ColumnReaderImpl,
    data_type::{ByteArray, ByteArrayType, DataType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};
use bytes::Bytes;

use super::SCHEMA;
use crate::lake::record::LakeRecord;

/// Rows that are decoded at once. Their values keep their pages in memory, and a large value has a page of its own.
const BATCH: usize = 8;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The footer is broken, or the file is not a Parquet file.
    #[error("the footer of the Parquet file cannot be read")]
    Footer(#[source] ParquetError),
    /// The file has other columns than [`ParquetWriter`](super::ParquetWriter) writes.
    #[error("the Parquet file has other columns than a file of the lake, first {0:?}")]
    Columns(String),
    /// The pages of a column are broken.
    #[error("column {column:?} of row group {group} cannot be read")]
    Column {
        /// Name of the column.
        column: &'static str,
        /// Number of the row group, from 0.
        group: usize,
        /// The cause.
        #[source]
        source: ParquetError,
    },
}

/// Gives the rows of a file, one after another.
///
/// # Memory
///
/// The reader holds the footer, and, of each column, the dictionary and the page that is being read: at most 512 KiB each, but
/// of large values up to 8, each with a page of its own. The size of a row group does not matter.
pub struct ParquetReader {
    file: Bytes,
    footer: ParquetMetaData,
    /// Row groups that were opened.
    groups: usize,
    open: Option<Group>,
}

impl fmt::Debug for ParquetReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetReader").field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl ParquetReader {
    /// Reads the footer of `file`.
    ///
    /// # Errors
    /// [`ReadError::Footer`], [`ReadError::Columns`].
    pub fn new(file: Bytes) -> Result<Self, ReadError> {
        let parsed = caught(|| ParquetMetaDataReader::new().parse_and_finish(&file));
        let footer = parsed.map_err(ReadError::Footer)?;
        let columns = footer.file_metadata().schema_descr().columns();
        for index in 0..columns.len().max(SCHEMA.num_columns()) {
            let (found, expected) = (columns.get(index), SCHEMA.columns().get(index));
            if found.map(|column| column.self_type()) != expected.map(|column| column.self_type()) {
                let first = found.or(expected).map(|column| column.path().string());
                return Err(ReadError::Columns(first.unwrap_or_default()));
            }
        }
        let mut rows = footer.file_metadata().num_rows();
        for group in footer.row_groups() {
            rows = rows.saturating_sub(group.num_rows());
        }
        if rows != 0 {
            let wrong = "the numbers of rows of the file and of its row groups differ";
            return Err(ReadError::Footer(ParquetError::General(wrong.to_owned())));
        }
        Ok(Self { file, footer, groups: 0, open: None })
    }

    /// Rows in the file, by its footer.
    #[must_use]
    pub fn rows(&self) -> u64 {
        u64::try_from(self.footer.file_metadata().num_rows()).unwrap_or(0)
    }

    /// The next row, or `None` at the end of the file. After an error the reader is of no more use.
    ///
    /// # Errors
    /// [`ReadError::Column`]. Rows that were given before are correct, as far as the format can tell: it has no checksums.
    pub fn next_row(&mut self) -> Result<Option<LakeRecord<'_>>, ReadError> {
        loop {
            if let Some(group) = &mut self.open
                && group.decode()?
            {
                break;
            }
            if self.groups == self.footer.num_row_groups() {
                return Ok(None);
            }
            self.open = Some(Group::open(&self.file, self.footer.row_group(self.groups), self.groups)?);
            self.groups += 1;
        }
        self.open.as_mut().map(Group::take).transpose()
    }
}

/// An open row group.
struct Group {
    number: usize,
    /// Rows that were not decoded.
    left: usize,
    timestamps: Timestamps,
    /// The string columns, in the schema's order.
    strings: Vec<Strings>,
    /// Rows that are decoded.
    decoded: usize,
    /// The next of them.
    next: usize,
}

impl Group {
    fn open(file: &Bytes, footer: &RowGroupMetaData, number: usize) -> Result<Self, ReadError> {
        let left =
            usize::try_from(footer.num_rows()).map_err(ParquetError::from).map_err(column(0, number))?;
        let reader = open_column(file, footer, 0).map_err(column(0, number))?;
        let timestamps = Timestamps { reader, rows: Vec::new() };
        let strings = (1..SCHEMA.num_columns()).map(|index| {
            let reader = open_column(file, footer, index).map_err(column(index, number))?;
            Ok(Strings { reader, values: Vec::new(), levels: Vec::new(), rows: Vec::new() })
        });
        let strings = strings.collect::<Result<_, ReadError>>()?;
        Ok(Self { number, left, timestamps, strings, decoded: 0, next: 0 })
    }

    /// Decodes rows, unless some are. Returns `false` at the end of the row group.
    fn decode(&mut self) -> Result<bool, ReadError> {
        if self.next < self.decoded {
            return Ok(true);
        }
        let rows = self.left.min(BATCH);
        // At the end each column is asked for one row more, and must have none.
        self.timestamps.decode(rows).map_err(column(0, self.number))?;
        for (index, strings) in self.strings.iter_mut().enumerate() {
            strings.decode(rows).map_err(column(index + 1, self.number))?;
        }
        self.left -= rows;
        self.decoded = rows;
        self.next = 0;
        Ok(rows > 0)
    }

    /// The next row, which is decoded.
    fn take(&mut self) -> Result<LakeRecord<'_>, ReadError> {
        let row = self.next;
        self.next += 1;
        let optional = |index: usize| {
            let value = self.strings[index - 1].rows[row].as_ref();
            value.map(ByteArray::as_utf8).transpose().map_err(column(index, self.number))
        };
        let required = |index| {
            let missing = || ParquetError::General("a value is missing".to_owned());
            optional(index)?.ok_or_else(missing).map_err(column(index, self.number))
        };
        Ok(LakeRecord {
            timestamp: self.timestamps.rows[row],
            message: required(1)?,
            tenant: required(2)?,
            cluster: required(3)?,
            application: required(4)?,
            pod: required(5)?,
            stream: optional(6)?,
            namespace: optional(7)?,
            container: optional(8)?,
            node: optional(9)?,
            level: optional(10)?,
            rest: optional(11)?,
        })
    }
}

struct Timestamps {
    reader: ColumnReaderImpl<Int64Type>,
    rows: Vec<i64>,
}

impl Timestamps {
    /// Decodes the next rows. With 0 it checks that there are none.
    fn decode(&mut self, rows: usize) -> Result<(), ParquetError> {
        self.rows.clear();
        let read = caught(|| self.reader.read_records(rows.max(1), None, None, &mut self.rows));
        expect(rows, read?.0)
    }
}

struct Strings {
    reader: ColumnReaderImpl<ByteArrayType>,
    /// Values of the decoded rows that have one.
    values: Vec<ByteArray>,
    /// For each decoded row of an optional column, 1 if the row has a value, else 0.
    levels: Vec<i16>,
    rows: Vec<Option<ByteArray>>,
}

impl Strings {
    /// Decodes the next rows. With 0 it checks that there are none.
    fn decode(&mut self, rows: usize) -> Result<(), ParquetError> {
        self.rows.clear();
        self.levels.clear();
        let (reader, levels, values) = (&mut self.reader, &mut self.levels, &mut self.values);
        let read = caught(|| reader.read_records(rows.max(1), Some(levels), None, values));
        expect(rows, read?.0)?;
        let mut values = self.values.drain(..);
        if self.levels.is_empty() {
            self.rows.extend(values.map(Some));
        } else {
            self.rows.extend(self.levels.iter().map(|level| if *level == 1 { values.next() } else { None }));
        }
        expect(rows, self.rows.len())
    }
}

fn expect(rows: usize, found: usize) -> Result<(), ParquetError> {
    let wrong = || ParquetError::General("the numbers of values and rows differ".to_owned());
    (rows == found).then_some(()).ok_or_else(wrong)
}

/// The error of a column.
fn column(index: usize, group: usize) -> impl FnOnce(ParquetError) -> ReadError {
    move |source| ReadError::Column { column: SCHEMA.columns()[index].name(), group, source }
}

fn open_column<T: DataType>(
    file: &Bytes,
    footer: &RowGroupMetaData,
    index: usize,
) -> Result<ColumnReaderImpl<T>, ParquetError> {
    caught(|| {
        let column = footer.column(index);
        let file = PageSizes { file: file.clone(), limit: column.uncompressed_size() };
        let pages = SerializedPageReader::new(Arc::new(file), column, 0, None)?;
        Ok(ColumnReaderImpl::new(SCHEMA.column(index), Box::new(pages)))
    })
}

/// Calls into the crate `parquet`, which panics on some broken files.
fn caught<T>(call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        Err(ParquetError::General(format!("the decoder panicked: {text}")))
    })
}

/// A file whose pages are not larger than their column. Without the check, a broken header of a page makes the decoder allocate
/// up to 2 GiB.
struct PageSizes {
    file: Bytes,
    /// Size of the column, decompressed.
    limit: i64,
}

impl Length for PageSizes {
    fn len(&self) -> u64 {
        self.file.len() as u64
    }
}

impl ChunkReader for PageSizes {
    type T = <Bytes as ChunkReader>::T;

    /// The decoder calls this for the headers of pages.
    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let mut head = Vec::with_capacity(16);
        self.file.get_read(start)?.take(16).read_to_end(&mut head)?;
        match page_size(&head) {
            Some(size) if size <= self.limit => self.file.get_read(start),
            _ => Err(ParquetError::General(format!("the header of the page at {start} is wrong"))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.file.get_bytes(start, length)
    }
}

/// Reads the size of a page, decompressed, from the beginning of its header: a Thrift structure in the compact protocol, whose
/// first two fields are numbers, the page's type and this size.
fn page_size(head: &[u8]) -> Option<i64> {
    /// The next field, of 32 bits: the difference of the fields' numbers (1), and the type (5).
    const NEXT_I32: u8 = 0x15;
    let mut head = head.iter();
    let mut next = || {
        (*head.next()? == NEXT_I32).then_some(())?;
        let mut zigzag = 0_i64;
        for shift in (0..35).step_by(7) {
            let byte = *head.next()?;
            zigzag |= i64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some((zigzag >> 1) ^ -(zigzag & 1));
            }
        }
        None
    };
    next()?;
    next()
}
