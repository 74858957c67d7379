//! Generates objects whose events all have different messages. A message begins with the numbers of its object and record,
//! and a message that must be split repeats them, so that the pieces differ too.

use std::{
    io::{Read, Write},
    ops::Range,
    sync::Arc,
};

use fastrand::Rng;
use flate2::{Compression as Level, read::GzDecoder, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use crate::{comparison::Event, quarantine::Aside};

/// Longest message in bytes: the limit of PutLogEvents less 26 bytes of overhead per event. Source: CloudWatch Logs API
/// reference, PutLogEvents.
const MAX_MESSAGE: usize = 1_048_576 - 26;
/// Text that makes the record after it unreadable.
const NONSENSE: &str = "nonsense";
/// Number of records in an object of [`Size::Noise`], and the length of each. They take about 6.6 MB in gzip.
pub(crate) const NOISY: usize = 110;
pub(crate) const NOISE: usize = 80_000;
/// Lengths of the messages in an object of [`Size::Long`].
pub(crate) const LONG: Range<usize> = 40_000..90_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Properties of an object. Times are relative to the start of the run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) size: Size,
    pub(crate) framing: Framing,
    pub(crate) compression: Compression,
    /// Number of gzip members or zstd frames; they may end in the middle of a record.
    pub(crate) members: usize,
    pub(crate) damage: Damage,
}

/// Number and kind of an object's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Nothing,
    /// This many short records; some messages are empty, one in ten is late by minutes, and some have no usable timestamp.
    Short(usize),
    /// This many records of 40 to 90 kB; about twenty fill a batch.
    Long(usize),
    /// This many records, each two to five hours after the one before. A batch spans 24 hours at most, so a few records
    /// fill it.
    Days(usize),
    /// This many records that are about 14 days old. CloudWatch Logs refuses some of them as too old, often in the same
    /// batch as events that it accepts.
    Old(usize),
    /// A few short records around one that must be split.
    Oversize,
    /// [`NOISY`] records of random letters, which no compression makes shorter than a part of an upload.
    Noise,
}

/// Arrangement of the records in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Array,
    /// One array, one record per line.
    ArrayLines,
    /// One record per line.
    Ndjson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Whole,
    /// [`NONSENSE`] in front of the record with this number. Neither this record nor a later one can be read.
    Nonsense(usize),
    /// [`NONSENSE`] in front of the record with this number, in an object with one record per line. The line goes to
    /// the quarantine, and later records can be read.
    BadLine(usize),
    /// The last two fifths of the stored bytes are missing.
    Truncated,
}

/// An object as it is stored, and the expected results.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: usize,
    /// Number of records before the damage, if the damage ends the object; otherwise the number of all records.
    pub(crate) readable: usize,
    /// All events that CloudWatch Logs should accept, in the object's order, as if there were no damage.
    pub(crate) events: Arc<[Event]>,
    /// All records that a lake should have, in the object's order, as if the object did not end early.
    pub(crate) rows: Vec<Row>,
    /// Records that every delivery to CloudWatch Logs should put into the quarantine. A lake puts only the unreadable ones
    /// there, which have no timestamp here.
    pub(crate) aside: Vec<Aside>,
    /// Records that are too long for one event. The delivery's row decides whether they are split or put into the
    /// quarantine.
    pub(crate) oversize: Vec<Aside>,
}

/// A record in a lake.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Position in the object.
    pub(crate) record: usize,
    /// Milliseconds since 1970; `None` if the record has no usable timestamp.
    pub(crate) timestamp: Option<i64>,
    pub(crate) message: String,
    /// The record's JSON.
    pub(crate) json: String,
}

impl Made {
    /// Events of a delivery that puts long records into the quarantine.
    pub(crate) fn events_without_pieces(&self) -> Arc<[Event]> {
        let whole = |event: &&Event| self.oversize.iter().all(|aside| aside.record != event.record);
        self.events.iter().filter(whole).cloned().collect()
    }
}

/// Generates the object with this number.
pub(crate) fn make(content: &Content, number: usize, start: Timestamp) -> Made {
    let mut rng = Rng::with_seed(content.seed);
    let (mut records, mut events) = (Vec::new(), Vec::new());
    let (mut aside, mut oversize, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (at, message)) in messages(content.size, number, &mut rng).into_iter().enumerate() {
        // Times lie between two milliseconds, so that the comparison notices a timestamp that was rounded up.
        let time = start + SignedDuration::from_millis(at) + SignedDuration::from_nanos(123_456);
        let mut record = json!({
            "application": "app",
            "kubernetes": { "pod_name": "pod", "pod_labels": { "message": "none", "timestamp": "none" } },
            "message": message,
        });
        let undated = matches!(content.size, Size::Short(_)) && rng.u8(..15) == 0;
        let timestamp = (!undated).then(|| {
            i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).expect("a time within days of now")
        });
        if let Some(text) = match undated {
            true => UNUSABLE[rng.usize(..UNUSABLE.len())].map(str::to_owned),
            false => Some(format!("{time:.9}")),
        } {
            record["timestamp"] = text.into();
        }
        records.push(record.to_string());
        if content.damage != Damage::BadLine(index) {
            rows.push(Row {
                record: index,
                timestamp,
                message: message.clone(),
                json: records[index].clone(),
            });
        }
        let set_aside = |reason, message| Aside { reason, record: index, timestamp, message };
        if content.damage == Damage::BadLine(index) {
            let line = format!("{NONSENSE}{}", records[index]);
            aside.push(Aside { timestamp: None, ..set_aside("malformed", line) });
        } else if at < -14 * DAY {
            aside.push(set_aside("too_old", message));
        } else {
            let pieces =
                pieces(&message).map(|text| Event { record: index, timestamp, message: text.to_owned() });
            events.extend(pieces);
            if message.len() > MAX_MESSAGE {
                oversize.push(set_aside("oversize", message));
            }
        }
    }
    let text = content.framing.join(&records, content.damage);
    let mut bytes = content.compression.encode(text.as_bytes(), content.members, &mut rng);
    let readable = match content.damage {
        Damage::Whole | Damage::BadLine(_) => records.len(),
        Damage::Nonsense(at) => at,
        Damage::Truncated => {
            bytes.truncate(bytes.len() * 3 / 5);
            whole_in(&records, &text, inflated(&bytes))
        }
    };
    Made { bytes, records: records.len(), readable, events: events.into(), rows, aside, oversize }
}

/// Number of bytes that truncated gzip data decompresses to.
fn inflated(bytes: &[u8]) -> usize {
    let (mut decoder, mut room, mut count) = (GzDecoder::new(bytes), [0; 4096], 0);
    while let Ok(more @ 1..) = decoder.read(&mut room) {
        count += more;
    }
    count
}

/// Number of records that are complete within the first `bytes` of `text`. The text contains all records in order.
fn whole_in(records: &[String], text: &str, bytes: usize) -> usize {
    let mut end = 0;
    let ends = records.iter().map(|record| {
        end += text[end..].find(record).expect("the text was made of them") + record.len();
        end
    });
    ends.take_while(|end| *end <= bytes).count()
}

/// Generates the time and the message of every record. Times are milliseconds after the start of the run.
fn messages(size: Size, number: usize, rng: &mut Rng) -> Vec<(i64, String)> {
    let name = |index: usize| format!("object {number} record {index}: ");
    let short = |index: usize, rng: &mut Rng| name(index) + ENDINGS[rng.usize(..ENDINGS.len())];
    let steady = |index: usize| index as i64 - 10 * 60_000;
    match size {
        Size::Nothing => Vec::new(),
        Size::Short(count) => (0..count)
            .map(|index| {
                let late = if rng.u8(..10) == 0 { rng.i64(0..300_000) } else { 0 };
                let text = if rng.u8(..30) == 0 { String::new() } else { short(index, rng) };
                (steady(index) - late, text)
            })
            .collect(),
        Size::Long(count) => {
            (0..count).map(|index| (steady(index), long(&name(index), rng.usize(LONG)))).collect()
        }
        Size::Days(count) => {
            // 40 steps of less than five hours take less than nine days, so no record lies in the future.
            let mut at = -9 * DAY;
            let step = |rng: &mut Rng| rng.i64(2 * HOUR..5 * HOUR);
            (0..count.min(40))
                .map(|index| {
                    at += step(rng);
                    (at, short(index, rng))
                })
                .collect()
        }
        Size::Old(count) => {
            // Each event is an hour younger or older than 14 days. A run takes less than an hour, so no event becomes too old
            // during it.
            (0..count)
                .map(|index| {
                    let side = if rng.bool() { -HOUR } else { HOUR };
                    (side - 14 * DAY + index as i64, short(index, rng))
                })
                .collect()
        }
        Size::Noise => (0..NOISY)
            .map(|index| {
                let noise: String = std::iter::repeat_with(|| rng.alphanumeric()).take(NOISE).collect();
                (steady(index), name(index) + &noise)
            })
            .collect(),
        Size::Oversize => (0..7)
            .map(|index| match index {
                3 => (steady(index), long(&name(index), rng.usize(1_100_000..2_400_000))),
                _ => (steady(index), short(index, rng)),
            })
            .collect(),
    }
}

/// Timestamps that no reader takes: a member that is missing, a text that is no time, and a time that is too far ahead.
const UNUSABLE: [Option<&str>; 3] = [None, Some("soon"), Some("2999-12-31T23:59:59Z")];

/// Ends of messages: characters that JSON escapes, and characters of several bytes.
const ENDINGS: [&str; 6] = [
    "done",
    "said \"no\"\tand left",
    "Exception\n\tat Main.java:1\r\n",
    "größer ☃ 𝄞 ende",
    "{\"level\":\"info\",\"nested\":[1,{\"message\":\"x\"}]}",
    "\u{1}\u{7f} \\ / control",
];

/// Text of this many bytes or a few more: `name`, then marks that contain the digits of `name` and their own position.
fn long(name: &str, bytes: usize) -> String {
    let mark: String = name.chars().filter(char::is_ascii_digit).collect();
    let mut text = name.to_owned();
    while text.len() < bytes {
        text.push_str(&format!("«{mark}:{}»", text.len()));
    }
    text
}

/// Splits a message into pieces of the longest length that an event may have. No piece ends within a character.
fn pieces(message: &str) -> impl Iterator<Item = &str> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let (piece, tail) = rest.split_at(rest.floor_char_boundary(MAX_MESSAGE));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Framing {
    fn join(self, records: &[String], damage: Damage) -> String {
        let [before, between, after] = match self {
            Self::Array => ["[", ",", "]"],
            Self::ArrayLines => ["[\n  ", ",\n  ", "\n]\n"],
            Self::Ndjson => ["", "\n", "\n"],
        };
        let mut text = before.to_owned();
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                text.push_str(between);
            }
            if [Damage::Nonsense(index), Damage::BadLine(index)].contains(&damage) {
                text.push_str(NONSENSE);
            }
            text.push_str(record);
        }
        text + after
    }
}

impl Compression {
    fn encode(self, text: &[u8], members: usize, rng: &mut Rng) -> Vec<u8> {
        let mut cuts: Vec<_> = (1..members).map(|_| rng.usize(..=text.len())).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]);
        match self {
            Self::None => text.to_vec(),
            Self::Gzip => parts.flat_map(gzip).collect(),
            Self::Zstd => {
                parts.flat_map(|part| zstd::encode_all(part, 1).expect("memory takes every byte")).collect()
            }
        }
    }
}

fn gzip(part: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(part).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, io::Read};

    use flate2::read::MultiGzDecoder;
    use serde_json::{Deserializer, Value};

    use super::*;

    fn content(size: Size) -> Content {
        Content {
            seed: 7,
            size,
            framing: Framing::Ndjson,
            compression: Compression::Gzip,
            members: 3,
            damage: Damage::Whole,
        }
    }

    fn start() -> Timestamp {
        "2026-11-22T08:00:00Z".parse().expect("a time")
    }

    #[test]
    fn every_event_is_unique() {
        let mut seen = HashSet::new();
        let sizes = [Size::Short(300), Size::Long(20), Size::Days(40), Size::Old(50), Size::Oversize];
        for (number, size) in sizes.into_iter().enumerate() {
            let made = make(&content(size), number, start());
            assert!(
                !made.events.is_empty()
                    && made.records >= made.events.iter().map(|e| e.record).max().unwrap_or(0)
            );
            for event in made.events.iter() {
                assert!(event.message.len() <= MAX_MESSAGE);
                assert!(seen.insert(event.message.clone()), "{}", &event.message[..40]);
            }
        }
        let oversize = make(&content(Size::Oversize), 9, start());
        assert!(oversize.events.len() > 7, "one record is split");
    }

    #[test]
    fn the_expected_events_are_those_in_the_stored_bytes() {
        for size in [Size::Short(200), Size::Old(60), Size::Days(30), Size::Nothing] {
            let made = make(&content(size), 1, start());
            let mut text = String::new();
            MultiGzDecoder::new(&made.bytes[..]).read_to_string(&mut text).expect("gzip of UTF-8");
            let oldest = start().as_millisecond() - 14 * DAY;
            let (mut expected, mut old, mut rows, mut undated) = (Vec::new(), Vec::new(), Vec::new(), 0);
            for value in Deserializer::from_str(&text).into_iter::<Value>() {
                let value = value.expect("JSON");
                let time: Option<Timestamp> = value["timestamp"].as_str().and_then(|at| at.parse().ok());
                let time = time.map(Timestamp::as_millisecond).filter(|at| *at < start().as_millisecond());
                undated += u32::from(time.is_none());
                let message = value["message"].as_str().expect("a string").to_owned();
                rows.push((time, message.clone(), value.to_string()));
                if time.is_some_and(|time| time < oldest) {
                    old.push((time, message));
                } else if !message.is_empty() {
                    expected.push((time, message));
                }
            }
            assert_eq!(undated > 0, matches!(size, Size::Short(_)));
            let lake: Vec<_> =
                made.rows.into_iter().map(|row| (row.timestamp, row.message, row.json)).collect();
            assert_eq!(lake, rows, "{size:?}");
            let events: Vec<_> = made.events.iter().map(|e| (e.timestamp, e.message.clone())).collect();
            assert_eq!(events, expected, "{size:?}");
            let aside: Vec<_> = made.aside.iter().map(|a| (a.timestamp, a.message.clone())).collect();
            assert_eq!(aside, old, "{size:?}");
        }
    }

    #[test]
    fn a_long_record_is_split_or_put_into_the_quarantine() {
        let made = make(&content(Size::Oversize), 1, start());
        let [long] = &made.oversize[..] else { panic!("one record is too long") };
        let pieces = made.events.iter().filter(|event| event.record == long.record);
        assert_eq!(pieces.map(|event| event.message.as_str()).collect::<String>(), long.message);
        let others = made.events_without_pieces();
        assert_eq!(others.len(), made.records - 1);
        assert!(others.iter().all(|event| event.record != long.record));
    }

    #[test]
    fn a_bad_line_is_one_of_the_objects_lines() {
        let damaged = Content { damage: Damage::BadLine(3), ..content(Size::Short(9)) };
        let made = make(&damaged, 1, start());
        let mut text = String::new();
        MultiGzDecoder::new(&made.bytes[..]).read_to_string(&mut text).expect("gzip of UTF-8");
        let [bad] = &made.aside[..] else { panic!("one line is bad") };
        assert_eq!(
            (bad.reason, bad.record, text.lines().nth(3)),
            ("malformed", 3, Some(bad.message.as_str()))
        );
        assert_eq!(made.readable, 9);
        assert!(made.events.iter().all(|event| event.record != 3));
        assert!(made.rows.len() == 8 && made.rows.iter().all(|row| row.record != 3));
    }

    #[test]
    fn noise_stays_longer_than_a_part_of_an_upload() {
        let made = make(&content(Size::Noise), 1, start());
        assert!(made.bytes.len() > 6 << 20, "{} bytes", made.bytes.len());
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let one = make(&content(Size::Short(50)), 1, start());
        assert_eq!(one.bytes, make(&content(Size::Short(50)), 1, start()).bytes);
        let other = Content { seed: 8, ..content(Size::Short(50)) };
        assert_ne!(one.bytes, make(&other, 1, start()).bytes);
    }
}
