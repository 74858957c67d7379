//! Files are read back with [`ParquetReader`]. tests/lake/read_back.py reads files with other programs.

use ::parquet::{
    basic::{Encoding, Repetition, Type},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader},
        properties::WriterProperties,
        writer::SerializedFileWriter,
    },
};
use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{lake::record::LakeRecord, tenant::Compression};

/// A row that owns its values.
#[derive(Clone, Debug)]
struct Owned {
    timestamp: i64,
    required: [String; 5],
    optional: [Option<String>; 6],
}

impl Owned {
    fn row(&self) -> LakeRecord<'_> {
        let [message, tenant, cluster, application, pod] = self.required.each_ref().map(String::as_str);
        let [stream, namespace, container, node, level, rest] =
            self.optional.each_ref().map(Option::as_deref);
        LakeRecord {
            timestamp: self.timestamp,
            message,
            tenant,
            cluster,
            application,
            pod,
            stream,
            namespace,
            container,
            node,
            level,
            rest,
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => Just(String::new()),
        16 => "[a-c]{1,3}",
        8 => any::<String>(),
        4 => "[\0\u{1}\n\"\\\\\u{7f}\u{fffd}\u{10ffff}]{1,4}",
        1 => (select(vec!["x", "é", "\0"]), 1..300_000_usize).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn owned() -> impl Strategy<Value = Owned> {
    let timestamp =
        prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX), 1_795_000_000_000..1_795_000_000_009_i64];
    let required = [text(), text(), text(), text(), text()];
    let optional = [text(), text(), text(), text(), text(), text()].map(proptest::option::of);
    (timestamp, required, optional).prop_map(|(timestamp, required, optional)| Owned {
        timestamp,
        required,
        optional,
    })
}

/// Writes rows in groups, and takes the encoded bytes after each group.
fn write(compression: Compression, groups: &[Vec<Owned>]) -> Bytes {
    let mut writer = ParquetWriter::new(compression).expect("a writer");
    let mut file = Vec::new();
    for group in groups {
        for row in group {
            writer.push(&row.row());
        }
        writer.end_group().expect("the group is encoded");
        assert_eq!(writer.pending_bytes(), 0);
        let encoded = writer.encoded();
        let part = writer.take_encoded();
        assert_eq!((part.len(), writer.encoded()), (encoded, 0));
        file.extend(part);
    }
    file.extend(writer.finish().expect("the footer is written"));
    file.into()
}

/// Reads a file to its end or to an error. Returns the number of rows.
fn read(file: Bytes, mut check: impl FnMut(usize, LakeRecord<'_>)) -> Result<usize, ReadError> {
    let mut reader = ParquetReader::new(file)?;
    let mut rows = 0;
    while let Some(row) = reader.next_row()? {
        check(rows, row);
        rows += 1;
    }
    assert!(reader.next_row()?.is_none(), "the end stays the end");
    assert_eq!(reader.rows(), rows as u64);
    Ok(rows)
}

fn check_round_trip(compression: Compression, groups: &[Vec<Owned>]) {
    let all: Vec<_> = groups.iter().flatten().collect();
    let rows =
        read(write(compression, groups), |at, row| assert_eq!(row, all[at].row())).expect("a sound file");
    assert_eq!(rows, all.len());
}

fn footer(file: &Bytes) -> ParquetMetaData {
    ParquetMetaDataReader::new().parse_and_finish(file).expect("a footer")
}

/// Rows of one pod, each with its own message.
fn sample(rows: usize) -> Vec<Owned> {
    let levels = [None, Some("info".to_owned()), Some("error".to_owned())];
    let row = |index: usize| Owned {
        timestamp: 1_795_000_000_000 + index as i64,
        required: [&format!("message {index}"), "acme", "c1", "web", "web-1"].map(str::to_owned),
        optional: [
            Some("stdout".to_owned()),
            Some("shop".to_owned()),
            None,
            Some(String::new()),
            levels[index % 3].clone(),
            Some(format!(r#"{{"file":"/var/log/{}.log"}}"#, index / 1000)),
        ],
    };
    (0..rows).map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn all_rows_come_back(
        runs in vec((owned(), prop_oneof![4 => Just(1_usize), 1 => 1..700_usize], any::<bool>()), 0..12),
        compression in select(vec![Compression::Zstd, Compression::Snappy]),
    ) {
        let mut groups = vec![Vec::new()];
        for (row, times, ends) in runs {
            let group = groups.last_mut().expect("at least one");
            // A large value may repeat; its copies are compared, and take time.
            let times = if row.required[0].len() > 10_000 { times.min(3) } else { times };
            group.extend(std::iter::repeat_n(row, times));
            if ends {
                groups.push(Vec::new());
            }
        }
        check_round_trip(compression, &groups);
    }

    /// Few values, so that a value often is a part of the memory around it.
    #[test]
    fn short_values_come_back(
        values in vec(prop::option::of(select(vec!["", "a", "aa", "b"])), 0..60),
    ) {
        let mut template = sample(1).swap_remove(0);
        let rows = values.into_iter().map(|value| {
            template.required[0] = value.unwrap_or("none").to_owned();
            template.optional[5] = value.map(str::to_owned);
            template.clone()
        });
        check_round_trip(Compression::Snappy, &[rows.collect()]);
    }

    #[test]
    fn a_broken_file_is_an_error_and_no_panic(
        changes in vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
        length in prop::option::of(any::<prop::sample::Index>()),
        compression in select(vec![Compression::Zstd, Compression::Snappy]),
    ) {
        let mut file = write(compression, &[sample(50), sample(30)]).to_vec();
        for (at, bits) in changes {
            let at = at.index(file.len());
            file[at] ^= bits;
        }
        if let Some(length) = length {
            file.truncate(length.index(file.len()));
        }
        // The format has no checksums, so some changes of values are not noticed.
        let _ = read(file.into(), |_, _| {});
    }
}

/// Runs of equal values that end before, at and after the end of a batch.
#[test]
fn runs_of_all_lengths_come_back() {
    let [first, second, third] = [0, 1, 2].map(|index| sample(3).swap_remove(index));
    for length in [1, 2, 255, 256, 257, 511, 512, 513, 1100, 20_001] {
        for before in [0, 1, 255, 256] {
            let runs = [(&first, before), (&second, length), (&third, length), (&first, 1)];
            let rows = runs.iter().flat_map(|(row, times)| std::iter::repeat_n((*row).clone(), *times));
            check_round_trip(Compression::Snappy, &[rows.collect()]);
        }
    }
}

#[test]
fn a_file_without_rows_is_a_file() {
    check_round_trip(Compression::Zstd, &[]);
    check_round_trip(Compression::Zstd, &[vec![], vec![]]);
}

#[test]
fn values_that_repeat_need_no_memory() {
    let mut writer = ParquetWriter::new(Compression::Zstd).expect("a writer");
    let rest = "x".repeat(10_000);
    let row = LakeRecord { message: "message", rest: Some(&rest), ..LakeRecord::default() };
    writer.push(&row);
    let first = writer.pending_bytes();
    for _ in 0..1000 {
        writer.push(&row);
    }
    // Timestamps alone.
    assert!(writer.pending_bytes() - first < 1000 * 8 * 5 / 4, "{first} and {}", writer.pending_bytes());
    let message = "y".repeat(5000);
    let before = writer.pending_bytes();
    for message in [message.as_str(), "z", &message, "z", &message] {
        writer.push(&LakeRecord { message, ..row });
    }
    assert!(writer.pending_bytes() - before >= 3 * message.len(), "values that change do");
}

#[test]
fn the_file_has_the_layout_that_queries_expect() {
    let file = write(Compression::Zstd, &[sample(3000), sample(10)]);
    let footer = footer(&file);
    assert_eq!(footer.file_metadata().version(), 1);
    assert_eq!(footer.num_row_groups(), 2);
    for group in footer.row_groups() {
        for (index, column) in group.columns().iter().enumerate() {
            let name = column.column_descr().name();
            let dictionary = column.encodings().any(|encoding| encoding == Encoding::RLE_DICTIONARY);
            assert_eq!(dictionary, !["timestamp", "message"].contains(&name), "{name}");
            assert!(matches!(column.compression(), ::parquet::basic::Compression::ZSTD(_)), "{name}");
            let statistics = column.statistics().expect("statistics");
            let empty = statistics.null_count_opt() == Some(group.num_rows() as u64);
            assert!(statistics.min_bytes_opt().is_some() != empty, "{name}");
            assert!(statistics.max_bytes_opt().is_some() != empty, "{name}");
            let optional =
                column.column_descr().self_type().get_basic_info().repetition() == Repetition::OPTIONAL;
            assert_eq!(optional, index > 5, "{name}");
            let physical = if index == 0 { Type::INT64 } else { Type::BYTE_ARRAY };
            assert_eq!(column.column_type(), physical, "{name}");
        }
    }
    let statistics = footer.row_group(0).column(0).statistics().expect("statistics");
    assert_eq!(statistics.min_bytes_opt(), Some(&1_795_000_000_000_i64.to_le_bytes()[..]));
    assert_eq!(statistics.max_bytes_opt(), Some(&1_795_000_002_999_i64.to_le_bytes()[..]));
    let pairs = footer.file_metadata().key_value_metadata().expect("metadata");
    let version = pairs.iter().find(|pair| pair.key == VERSION_KEY).and_then(|pair| pair.value.as_deref());
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
}

/// A long value must not make the footer long.
#[test]
fn statistics_are_cut() {
    let long = "é".repeat(100_000);
    let mut row = sample(1).swap_remove(0);
    row.required = [(); 5].map(|()| long.clone());
    row.optional = [(); 6].map(|()| Some(long.clone()));
    let footer = footer(&write(Compression::Zstd, &[vec![row]]));
    for column in &footer.row_group(0).columns()[1..] {
        let statistics = column.statistics().expect("statistics");
        let (smallest, largest) = (statistics.min_bytes_opt(), statistics.max_bytes_opt());
        let (smallest, largest) = (smallest.expect("a smallest"), largest.expect("a largest"));
        assert!(smallest.len() <= 64 && largest.len() <= 64);
        assert!(smallest <= long.as_bytes() && long.as_bytes() <= largest);
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let file = write(Compression::Snappy, &[sample(50)]);
    let error = |file: Vec<u8>| read(file.into(), |_, _| {}).expect_err("a broken file");

    assert!(matches!(error(Vec::new()), ReadError::Footer(_)));
    assert!(matches!(error(file[..file.len() - 1].to_vec()), ReadError::Footer(_)));

    // The page of a column of optional strings: behind its header stand its levels and its values.
    let footer = footer(&file);
    let level = footer.row_group(0).column(10);
    let (start, length) = level.byte_range();
    let mut broken = file.to_vec();
    broken[start as usize + 20..(start + length) as usize].fill(0xff);
    assert!(matches!(error(broken), ReadError::Column { column: "level", group: 0, .. }));

    let mut other = Vec::new();
    let schema = parser::parse_message_type("message other { required int64 timestamp; }").expect("a schema");
    let properties = WriterProperties::builder().build();
    let writer = SerializedFileWriter::new(&mut other, schema.into(), properties.into()).expect("a writer");
    writer.close().expect("a file");
    assert!(matches!(error(other), ReadError::Columns(first) if first == "timestamp"));
}

/// Positions in a file's footer.
fn in_footer(file: &[u8], bytes: &[u8]) -> Vec<usize> {
    let length = u32::from_le_bytes(file[file.len() - 8..][..4].try_into().expect("four bytes")) as usize;
    let places = file.len() - 8 - length..file.len() - 8;
    places.filter(|at| file[*at..].starts_with(bytes)).collect()
}

/// Rows are neither lost nor invented if the footer has a wrong number of rows.
#[test]
fn a_wrong_number_of_rows_is_an_error() {
    let file = write(Compression::Zstd, &[sample(50)]);
    // 50 as a Thrift number of 64 bits, behind the header of its field: the rows of the file and of the row group, and the
    // values of each column.
    let places = in_footer(&file, &[0x16, 100]);
    assert_eq!(places.len(), 14);
    let error = |places: &[usize], rows: u8| {
        let mut broken = file.to_vec();
        for at in places {
            broken[at + 1] = 2 * rows;
        }
        read(broken.into(), |_, _| {}).expect_err("a wrong number of rows")
    };
    for rows in [0, 49, 51] {
        let one = error(&places[..1], rows);
        assert!(matches!(one, ReadError::Footer(_)), "{one:?}");
        let all = error(&places, rows);
        assert!(matches!(all, ReadError::Column { column: "timestamp", group: 0, .. }), "{all:?}");
    }
}

/// The crate panics if a column begins before the file.
#[test]
fn a_panic_of_the_decoder_is_an_error() {
    let mut file = write(Compression::Zstd, &[sample(50)]).to_vec();
    // The first column begins at 4.
    let places = in_footer(&file, &[0x26, 8]);
    file[places[0] + 1] = 7;
    let error = read(file.into(), |_, _| {}).expect_err("a broken footer");
    let ReadError::Column { column: "timestamp", group: 0, source } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("the decoder panicked: column start"), "{source}");
}

/// Both move between threads.
#[test]
fn writer_and_reader_are_send() {
    fn check<T: Send>() {}
    check::<ParquetWriter>();
    check::<ParquetReader>();
}

/// A page that claims to be larger than its column is refused before the decoder makes room for it.
#[test]
fn a_page_cannot_be_larger_than_its_column() {
    let file = write(Compression::Snappy, &[sample(50)]);
    // The first page begins behind the file's first four bytes: its type, and its size in two bytes.
    assert_eq!((file[4], file[6], file[7] & 0x80, file[8] & 0x80), (0x15, 0x15, 0x80, 0));
    let mut broken = file.to_vec();
    broken[7..9].copy_from_slice(&[0xfe, 0x7f]);
    let error = read(broken.into(), |_, _| {}).expect_err("a broken page");
    let ReadError::Column { column: "timestamp", group: 0, source } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("the page at 4"), "{source}");
}
