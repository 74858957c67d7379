//! Compares the lines in the quarantine with those that should be there.

use std::{collections::HashMap, io::Read};

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use crate::comparison::{SHOWN, TOLD};

/// A record that should be in the quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aside {
    /// Reason, in the spelling of the quarantine's files.
    pub(crate) reason: &'static str,
    /// Position in the object.
    pub(crate) record: usize,
    /// Milliseconds since 1970; `None` for a line that is not a record.
    pub(crate) timestamp: Option<i64>,
    /// Unique within the run.
    pub(crate) message: String,
}

/// The records that one delivery of an object should put into the quarantine.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    pub(crate) tenant_id: String,
    /// `type` of the delivery's row.
    pub(crate) delivery: &'static str,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) records: Vec<Aside>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Line {
    pub(crate) reason: String,
    pub(crate) tenant_id: String,
    pub(crate) delivery: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) record: usize,
    #[serde(default)]
    pub(crate) timestamp: Option<i64>,
    pub(crate) message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Lines that should be there.
    pub(crate) expected: u64,
    /// Expected lines that are missing.
    pub(crate) missing: u64,
    /// Lines that are not expected, or whose content is wrong.
    pub(crate) foreign: u64,
    /// Repetitions of expected lines.
    pub(crate) again: u64,
    /// The first few missing and foreign lines.
    pub(crate) told: Vec<String>,
}

/// Reads the lines of one file.
///
/// # Errors
/// The file is not gzip, or a line does not parse.
pub(crate) fn read(file: &[u8]) -> anyhow::Result<Vec<Line>> {
    let mut text = String::new();
    MultiGzDecoder::new(file).read_to_string(&mut text).context("a quarantine file is not gzip of UTF-8")?;
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().context("a line of a quarantine file does not parse")
}

/// Compares the lines of all files with the expected ones.
pub(crate) fn compare(shelves: &[Shelf], lines: impl IntoIterator<Item = Line>) -> Kept {
    let mut kept = Kept::default();
    let mut seen: HashMap<Line, u64> = HashMap::new();
    for shelf in shelves {
        for aside in &shelf.records {
            seen.insert(shelf.line(aside), 0);
            kept.expected += 1;
        }
    }
    for line in lines {
        match seen.get_mut(&line) {
            Some(times) => {
                kept.again += u64::from(*times > 0);
                *times += 1;
            }
            None => {
                kept.foreign += 1;
                kept.tell("should not be in quarantine", &line);
            }
        }
    }
    for (line, _) in seen.iter().filter(|(_, times)| **times == 0) {
        kept.missing += 1;
        kept.tell("is not in quarantine", line);
    }
    kept
}

impl Shelf {
    fn line(&self, aside: &Aside) -> Line {
        let Aside { reason, record, timestamp, message } = aside;
        Line {
            reason: (*reason).to_owned(),
            tenant_id: self.tenant_id.clone(),
            delivery: self.delivery.to_owned(),
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            record: *record,
            timestamp: *timestamp,
            message: message.clone(),
        }
    }
}

impl Kept {
    fn tell(&mut self, flaw: &str, line: &Line) {
        if self.told.len() < TOLD {
            let Line { reason, tenant_id, delivery, key, record, message, .. } = line;
            let shown: String = message.chars().take(SHOWN).collect();
            self.told.push(format!(
                "{flaw}: {reason} record {record} of {key}, {tenant_id} {delivery}: {shown:?}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn shelf() -> Shelf {
        let aside = |record: usize| Aside {
            reason: "too_old",
            record,
            timestamp: Some(7),
            message: format!("record {record}"),
        };
        Shelf {
            tenant_id: "acme".to_owned(),
            delivery: "cloudwatch",
            bucket: "b".to_owned(),
            key: "k".to_owned(),
            records: vec![aside(1), aside(4)],
        }
    }

    fn whole() -> Vec<Line> {
        let shelf = shelf();
        shelf.records.iter().map(|aside| shelf.line(aside)).collect()
    }

    #[track_caller]
    fn check(lines: Vec<Line>, missing: u64, foreign: u64, again: u64) {
        let found = compare(&[shelf()], lines);
        assert_eq!((found.expected, found.missing, found.foreign, found.again), (2, missing, foreign, again));
        assert_eq!(found.told.len() as u64, missing + foreign, "{:?}", found.told);
    }

    #[test]
    fn every_flaw_is_counted() {
        check(whole(), 0, 0, 0);
        check(whole()[1..].to_vec(), 1, 0, 0);
        check([whole(), whole()].concat(), 0, 0, 2);
        let changes: [fn(&mut Line); 8] = [
            |line| line.reason = "expired".to_owned(),
            |line| line.tenant_id = "other".to_owned(),
            |line| line.delivery = "cloudwatch#second".to_owned(),
            |line| line.bucket = "c".to_owned(),
            |line| line.key = "l".to_owned(),
            |line| line.record = 2,
            |line| line.timestamp = None,
            |line| line.message.push('x'),
        ];
        for change in changes {
            let mut lines = whole();
            change(&mut lines[0]);
            check(lines, 1, 1, 0);
        }
    }

    #[test]
    fn files_are_gzip_of_lines() {
        let mut file = GzEncoder::new(Vec::new(), Compression::fast());
        let line = r#"{"reason":"malformed","tenant_id":"t","delivery":"d","bucket":"b","key":"k","etag":"e","record":3,"message":"x\ty"}"#;
        writeln!(file, "{line}").expect("memory takes every byte");
        let lines = read(&file.finish().expect("memory takes every byte")).expect("the file parses");
        assert_eq!((lines[0].record, lines[0].timestamp, lines[0].message.as_str()), (3, None, "x\ty"));
        read(b"no gzip").expect_err("the text is not gzip");
    }
}
