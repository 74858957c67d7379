//! Compares the files in customers' lakes with the records that should be there: each exactly once, in its hour's folder.
//!
//! No kill and no fault excuses a repetition, with a ledger or without one: a file that is written again replaces itself.

use std::{
    collections::{BTreeMap, HashMap},
    io::Read,
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use jiff::Timestamp;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row as ParquetRow},
};
use serde_json::{Value, json};

use crate::{
    comparison::{SHOWN, TOLD},
    content::Row,
    plan::LakeFormat,
};

/// Default of the row's `bucket_prefix`.
const PREFIX: &str = "ROSA/cluster-logs/";
/// Length of the hash of the exact object in a file's name.
const HASH: usize = 16;

/// A lake at the end of a run.
#[derive(Debug)]
pub(crate) struct Lake<'a> {
    pub(crate) bucket: String,
    pub(crate) format: LakeFormat,
    /// The objects whose records should be in the lake.
    pub(crate) ways: Vec<Way<'a>>,
    /// All objects of the bucket, by key.
    pub(crate) files: BTreeMap<String, Bytes>,
    /// Uploads that were neither completed nor given up.
    pub(crate) left: u64,
}

/// One object on its way into a lake.
#[derive(Debug)]
pub(crate) struct Way<'a> {
    /// The object's key.
    pub(crate) key: String,
    /// When S3 stored the object, in milliseconds since 1970.
    pub(crate) object_time: i64,
    /// Records that should be in the lake.
    pub(crate) rows: Vec<&'a Row>,
}

/// Result of the comparison, of one run or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Laked {
    pub(crate) lakes: u64,
    pub(crate) files: u64,
    pub(crate) left: u64,
    /// Records that should be there.
    pub(crate) expected: u64,
    /// Expected records that are not there.
    pub(crate) lost: u64,
    /// Repetitions of expected records.
    pub(crate) again: u64,
    /// Records that are altered, in a wrong place or not expected, and files that cannot be read.
    pub(crate) foreign: u64,
    /// The first few flaws.
    pub(crate) told: Vec<String>,
}

/// Compares the files of all lakes with the expected records.
pub(crate) fn compare(lakes: &[Lake<'_>]) -> Laked {
    let mut laked = Laked { lakes: lakes.len() as u64, ..Laked::default() };
    for lake in lakes {
        laked.files += lake.files.len() as u64;
        laked.left += lake.left;
        // How often each record should be at its place, less how often it is there. Records with an empty message may be equal.
        let mut missing: HashMap<(String, String), i64> = HashMap::new();
        for way in &lake.ways {
            for row in &way.rows {
                *missing.entry((way.place(row), way.content(row, lake.format))).or_default() += 1;
                laked.expected += 1;
            }
        }
        for (key, bytes) in &lake.files {
            match read(lake.format, key, bytes) {
                Ok((place, contents)) => {
                    for content in contents {
                        let at = (place.clone(), content);
                        match missing.get_mut(&at) {
                            Some(count) => *count -= 1,
                            None => {
                                laked.foreign += 1;
                                laked.tell(lake, "should not be in the lake", key, &at.1);
                            }
                        }
                    }
                }
                Err(error) => {
                    laked.foreign += 1;
                    laked.tell(lake, "is no file of a lake", key, &format!("{error:#}"));
                }
            }
        }
        for ((place, content), count) in missing {
            let (flaw, total) = match count {
                0 => continue,
                1.. => ("is not in the lake", &mut laked.lost),
                _ => ("is in the lake again", &mut laked.again),
            };
            *total += count.unsigned_abs();
            laked.tell(lake, flaw, &place, &content);
        }
    }
    laked
}

impl Way<'_> {
    /// Folder and beginning of the names of the files that a record may be in.
    fn place(&self, row: &Row) -> String {
        let [_, _, application, _, file] = self.names();
        let at = Timestamp::from_millisecond(row.timestamp.unwrap_or(self.object_time));
        let at = at.expect("a time within days of now").strftime("year=%Y/month=%m/day=%d/hour=%H");
        format!("{PREFIX}source={application}/{at}/{}", file.strip_suffix(".json").unwrap_or(file))
    }

    /// The record as a file has it.
    fn content(&self, row: &Row, format: LakeFormat) -> String {
        let mut record: Value = serde_json::from_str(&row.json).expect("every record is JSON");
        if format == LakeFormat::Parquet {
            let members = record.as_object_mut().expect("every record is an object");
            members.remove("message");
            if row.timestamp.is_some() {
                members.remove("timestamp");
            }
            let timestamp = row.timestamp.unwrap_or(self.object_time);
            let [tenant, cluster, application, pod, _] = self.names();
            record = in_columns(timestamp, &row.message, [tenant, cluster, application, pod], record);
        }
        record.to_string()
    }

    /// The names in the object's key.
    fn names(&self) -> [&str; 5] {
        let names: Vec<_> = self.key.split('/').collect();
        names.try_into().expect("a key of the run has five names")
    }
}

/// Place and records of one file.
fn read(format: LakeFormat, key: &str, bytes: &Bytes) -> anyhow::Result<(String, Vec<String>)> {
    let ending = match format {
        LakeFormat::Ndjson => ".ndjson.gz",
        LakeFormat::Parquet => ".parquet",
    };
    let name = key.strip_suffix(ending).context("the name has another ending")?;
    let mut parts = name.rsplit_once('-').context("the name has no hash")?;
    // An hour's second file has a number after the hash.
    if parts.1.len() < HASH && parts.1.parse::<u32>().is_ok() {
        parts = parts.0.rsplit_once('-').context("the name has no hash")?;
    }
    let (place, hash) = parts;
    ensure!(hash.len() == HASH && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "the name has no hash");
    let contents = match format {
        LakeFormat::Ndjson => lines(bytes)?,
        LakeFormat::Parquet => rows(bytes)?,
    };
    Ok((place.to_owned(), contents))
}

fn lines(file: &Bytes) -> anyhow::Result<Vec<String>> {
    let mut text = String::new();
    MultiGzDecoder::new(&file[..]).read_to_string(&mut text).context("not gzip of UTF-8")?;
    text.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?.to_string())).collect()
}

fn rows(file: &Bytes) -> anyhow::Result<Vec<String>> {
    let reader = SerializedFileReader::new(file.clone())?;
    let rows = reader.get_row_iter(None)?.map(|row| {
        let row = row?;
        let text = |name| match column(&row, name)? {
            Field::Str(text) => Ok(text.as_str()),
            other => anyhow::bail!("{name} is {other:?}"),
        };
        let timestamp = match column(&row, "timestamp")? {
            Field::TimestampMillis(at) => *at,
            other => anyhow::bail!("timestamp is {other:?}"),
        };
        let labels = [text("tenant")?, text("cluster")?, text("application")?, text("pod")?];
        let rest = serde_json::from_str(text("rest")?)?;
        Ok(in_columns(timestamp, text("message")?, labels, rest).to_string())
    });
    rows.collect()
}

fn column<'a>(row: &'a ParquetRow, name: &str) -> anyhow::Result<&'a Field> {
    let mut columns = row.get_column_iter();
    let found = columns.find(|(column, _)| *column == name);
    Ok(found.with_context(|| format!("there is no column {name}"))?.1)
}

/// The columns of a record that depend on nothing but the record and its object's key.
fn in_columns(timestamp: i64, message: &str, labels: [&str; 4], rest: Value) -> Value {
    let [tenant, cluster, application, pod] = labels;
    json!({
        "message": message, "timestamp": timestamp, "tenant": tenant, "cluster": cluster,
        "application": application, "pod": pod, "rest": rest,
    })
}

impl Laked {
    /// Adds the counts of another run.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { lakes, files, left, expected, lost, again, foreign, told: _ } = other;
        self.lakes += lakes;
        self.files += files;
        self.left += left;
        self.expected += expected;
        self.lost += lost;
        self.again += again;
        self.foreign += foreign;
    }

    fn tell(&mut self, lake: &Lake<'_>, flaw: &str, place: &str, content: &str) {
        if self.told.len() < TOLD {
            let record: Value = serde_json::from_str(content).unwrap_or_default();
            let told = record["message"].as_str().unwrap_or(content);
            let shown: String = told.chars().take(SHOWN).collect();
            self.told.push(format!("{flaw}: {place} of {}: {shown:?}", lake.bucket));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const HOUR: &str = "ROSA/cluster-logs/source=web/year=2026/month=11/day=22/hour=08";
    const NEXT_HOUR: &str = "ROSA/cluster-logs/source=web/year=2026/month=11/day=22/hour=09";

    fn row(record: usize, timestamp: Option<&str>, message: &str) -> Row {
        let mut json = json!({ "message": message });
        if let Some(timestamp) = timestamp {
            json["timestamp"] = timestamp.into();
        }
        let timestamp = timestamp.map(|at| at.parse::<Timestamp>().expect("a time").as_millisecond());
        Row { record, timestamp, message: message.to_owned(), json: json.to_string() }
    }

    /// Two records of one hour, one of the next, and one without a time, whose object is of the first hour.
    fn records() -> [Row; 4] {
        [
            row(0, Some("2026-11-22T08:00:00.000123Z"), "a"),
            row(1, Some("2026-11-22T08:59:59.999999Z"), ""),
            row(2, Some("2026-11-22T09:00:00Z"), "c"),
            row(3, None, "d"),
        ]
    }

    fn lines_of(rows: &[&Row]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for row in rows {
            writeln!(encoder, "{}", row.json).expect("memory takes every byte");
        }
        encoder.finish().expect("memory takes every byte").into()
    }

    fn name(folder: &str, rest: &str) -> String {
        format!("{folder}/000001-0123456789abcdef{rest}")
    }

    #[track_caller]
    fn check(change: impl FnOnce(&[Row; 4], &mut BTreeMap<String, Bytes>), [lost, again, foreign]: [u64; 3]) {
        let rows = records();
        let mut files = BTreeMap::from([
            (name(HOUR, ".ndjson.gz"), lines_of(&[&rows[0], &rows[1]])),
            (name(HOUR, "-1.ndjson.gz"), lines_of(&[&rows[3]])),
            (name(NEXT_HOUR, ".ndjson.gz"), lines_of(&[&rows[2]])),
        ]);
        change(&rows, &mut files);
        let object_time = "2026-11-22T08:30:00Z".parse::<Timestamp>().expect("a time").as_millisecond();
        let key = "acme/chaos-1/web/pod-0/000001.json".to_owned();
        let ways = vec![Way { key, object_time, rows: rows.iter().collect() }];
        let lake = Lake { bucket: "b".to_owned(), format: LakeFormat::Ndjson, ways, files, left: 2 };
        let found = compare(&[lake]);
        assert_eq!((found.lakes, found.expected, found.left), (1, 4, 2));
        assert_eq!([found.lost, found.again, found.foreign], [lost, again, foreign], "{:?}", found.told);
        assert_eq!(found.told.is_empty(), lost + again + foreign == 0);
    }

    #[test]
    fn every_flaw_is_counted() {
        let elsewhere = |other: String| {
            move |_: &[Row; 4], files: &mut BTreeMap<String, Bytes>| {
                let file = files.remove(&name(NEXT_HOUR, ".ndjson.gz")).expect("the file is there");
                files.insert(other, file);
            }
        };
        check(|_, _| (), [0; 3]);
        check(|_, files| drop(files.pop_first()), [1, 0, 0]);
        check(|rows, files| drop(files.insert(name(HOUR, "-2.ndjson.gz"), lines_of(&[&rows[0]]))), [0, 1, 0]);
        check(
            |rows, files| drop(files.insert(name(HOUR, "-2.ndjson.gz"), lines_of(&[&rows[1], &rows[1]]))),
            [0, 2, 0],
        );
        check(elsewhere(name(HOUR, "-2.ndjson.gz")), [1, 0, 1]);
        check(elsewhere(format!("{NEXT_HOUR}/000002-0123456789abcdef.ndjson.gz")), [1, 0, 1]);
        check(elsewhere(format!("{NEXT_HOUR}/000001-0123456789abcdeg.ndjson.gz")), [1, 0, 1]);
        check(elsewhere(name(NEXT_HOUR, ".parquet")), [1, 0, 1]);
        let other = row(2, Some("2026-11-22T09:00:00Z"), "C");
        check(|_, files| drop(files.insert(name(NEXT_HOUR, ".ndjson.gz"), lines_of(&[&other]))), [1, 0, 1]);
        check(
            |_, files| drop(files.insert(name(NEXT_HOUR, ".ndjson.gz"), Bytes::from_static(b"x"))),
            [1, 0, 1],
        );
    }

    #[test]
    fn a_row_of_parquet_has_everything_of_its_record() {
        let way = |key: &str| Way { key: key.to_owned(), object_time: 7, rows: Vec::new() };
        let [dated, .., undated] = records();
        let found = way("t/c/a/p/1.json").content(&dated, LakeFormat::Parquet);
        let at = dated.timestamp.expect("the record has a time");
        assert_eq!(found, in_columns(at, "a", ["t", "c", "a", "p"], json!({})).to_string());
        let unusable = Row { json: json!({"message": "d", "timestamp": "soon"}).to_string(), ..undated };
        let found = way("t/c/a/p/1.json").content(&unusable, LakeFormat::Parquet);
        assert_eq!(found, in_columns(7, "d", ["t", "c", "a", "p"], json!({"timestamp": "soon"})).to_string());
    }
}
