//! Records: the result does not depend on the chunks, and agrees with a plain JSON reader.

use std::collections::BTreeMap;

use jiff::Timestamp;
use logferry::records::{EscapedMessage, More, RecordReader, Step, Unreadable};
use serde_json::{Deserializer, value::RawValue};

use super::{choices::Choices, lake};

/// 2026-11-21T12:00:00Z.
pub(super) const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);
/// Longest record in most cases: longer than any text of this test.
const UNLIMITED: usize = 1 << 20;
/// Prefix of the description of a record that cannot be read.
pub(super) const NO_RECORD: &str = "no record: ";
const METADATA: [&str; 6] = ["file", "kubernetes", "source_type", "stream", "timestamp", "timestamp_end"];

/// The first byte chooses the chunks, the second the longest record. `=` starts choices for generated records; any
/// other input is the text itself.
pub(crate) fn check(data: &[u8]) {
    let [chunks, longest, rest @ ..] = data else { return };
    let max_record =
        [UNLIMITED, UNLIMITED, UNLIMITED, 64, 256, 1000, UNLIMITED, 20][usize::from(longest % 8)];
    match rest {
        [b'=', choices @ ..] => any_text(*chunks, max_record, &made_up(&mut Choices::new(choices))),
        text => any_text(*chunks, max_record, text),
    }
}

pub(super) type Record = (String, Option<i64>);

/// Result of reading a text: its records, and the message of the error that ended it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) records: Vec<Record>,
    pub(super) error: Option<String>,
}

fn any_text(chunks: u8, max_record: usize, text: &[u8]) {
    let (whole, slices) = read(text, [text.len()], More::Ended, max_record);
    // A linear congruential generator, seeded by the first byte, so that a file always gives the same chunks.
    let mut state = u32::from(chunks);
    let largest = 1_usize << (chunks & 7);
    let pieces = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + usize::try_from(state >> 16).expect("16 bits fit into usize") % largest
    });
    assert_eq!(read(text, pieces, More::Ended, max_record).0, whole);
    assert_eq!(read(text, std::iter::repeat(1 + text.len() / 512), More::Ended, max_record).0, whole);
    // An object that broke off gives the same records. Errors about its end do not count.
    let (broken_off, _) = read(text, [text.len()], More::Never, max_record);
    let at_its_end = |error: &String| error.contains("the object ends before");
    assert_eq!(broken_off.records, whole.records);
    assert_eq!(broken_off.error, whole.error.clone().filter(|error| !at_its_end(error)));
    // The same holds when bad lines are skipped. Records that are read without skipping are read with it too.
    let by_lines = || RecordReader::new(max_record, NOW).stepping_over_bad_lines();
    let (lines, _) = read_by(by_lines(), text, [text.len()], More::Ended);
    let chunked = read_by(by_lines(), text, std::iter::repeat(1 + usize::from(chunks >> 4)), More::Ended);
    assert_eq!(chunked.0, lines);
    assert!(lines.records.starts_with(&whole.records), "{lines:?} {whole:?}");
    assert!(whole.error.is_some() || lines == whole);
    // No record depends on the one before.
    for (slice, record) in slices.into_iter().zip(&whole.records).filter(|(slice, _)| !slice.is_empty()) {
        let (alone, _) = read(slice, [slice.len()], More::Ended, max_record);
        if is_document(&alone) {
            continue;
        }
        assert_eq!(alone, Read { records: vec![record.clone()], error: None }, "{}", slice.escape_ascii());
    }
    as_a_plain_reader(text, max_record, &whole);
    lake::check(RecordReader::new(max_record, NOW), NOW, text);
}

/// A text that is read by itself may be a document of another format.
fn is_document(read: &Read) -> bool {
    read.error.as_ref().is_some_and(|error| error.contains("not supported"))
}

/// Reads `text` in these chunks. Also returns each record's slice of the text.
fn read(
    text: &[u8],
    chunks: impl IntoIterator<Item = usize>,
    behind: More,
    max_record: usize,
) -> (Read, Vec<&[u8]>) {
    read_by(RecordReader::new(max_record, NOW), text, chunks, behind)
}

pub(super) fn read_by(
    mut reader: RecordReader,
    text: &[u8],
    chunks: impl IntoIterator<Item = usize>,
    behind: More,
) -> (Read, Vec<&[u8]>) {
    let (mut chunks, mut slices) = (chunks.into_iter(), Vec::new());
    let mut found = Read { records: Vec::new(), error: None };
    let (mut start, mut end) = (0, chunks.next().unwrap_or_default().min(text.len()));
    loop {
        assert_eq!(reader.count(), found.records.len() as u64);
        let more = if end == text.len() { behind } else { More::Coming };
        let window = &text[start..end];
        match reader.next(window, more) {
            Ok(Step::Record { record, consumed }) => {
                assert_eq!(record.index, found.records.len() as u64);
                found.records.push((unescape(&record.message), record.timestamp));
                // A line of text has none.
                let opening = window[..consumed].iter().position(|byte| *byte == b'{').unwrap_or_default();
                slices.push(&window[opening..consumed]);
                start += consumed;
            }
            Ok(Step::Unreadable { unreadable: Unreadable { error, text }, consumed }) => {
                assert_eq!(error.index, found.records.len() as u64);
                found.records.push((format!("{NO_RECORD}{text}"), None));
                slices.push(&[]);
                start += consumed;
            }
            Ok(Step::Skipped { consumed }) => {
                found.records.push((format!("{NO_RECORD}skipped"), None));
                slices.push(&[]);
                start += consumed;
            }
            Ok(Step::More { consumed }) => {
                start += consumed;
                assert!(start <= end);
                if end == text.len() {
                    assert_eq!(behind, More::Never);
                    return (found, slices);
                }
                end = (end + chunks.next().expect("chunks for the whole text")).min(text.len());
            }
            Ok(Step::End) => {
                assert_eq!((more, end), (More::Ended, text.len()));
                return (found, slices);
            }
            Err(error) => {
                assert_eq!(error.index, found.records.len() as u64);
                found.error = Some(error.to_string());
                return (found, slices);
            }
        }
    }
}

/// The message's text, after checks that it is legal JSON, has the reported length, and equals the sum of its pieces.
fn unescape(message: &EscapedMessage<'_>) -> String {
    let plain = |message: &EscapedMessage<'_>| -> String {
        let text: String = serde_json::from_slice(&[b"\"", message.escaped(), b"\""].concat())
            .expect("a message is legal JSON");
        assert_eq!((text.len(), text.is_empty()), (message.len(), message.is_empty()));
        text
    };
    let text = plain(message);
    for max_bytes in [4, 5 + text.len() / 3] {
        let pieces: Vec<_> = message.pieces(max_bytes).map(|piece| plain(&piece)).collect();
        assert!(pieces.iter().all(|piece| (1..=max_bytes).contains(&piece.len())));
        assert_eq!(pieces.concat(), text);
    }
    text
}

/// Result of a plain JSON reader for one record.
#[derive(Debug)]
enum Expected<'a> {
    /// The record's message, and the value of its timestamp.
    Message(String, Option<&'a str>),
    /// No message: these members are sent, as JSON.
    Members(BTreeMap<String, &'a RawValue>, Option<&'a str>),
    /// The record is longer than allowed.
    TooLong,
    /// The record can be read, but this reader cannot predict the result.
    Anything,
}

fn as_a_plain_reader(text: &[u8], max_record: usize, found: &Read) {
    let (records, complete) = plain_records(text);
    for (index, record) in records.iter().enumerate() {
        let read = found.records.get(index);
        let (timestamp, read_timestamp) = match (expected(record, max_record), read) {
            (Expected::Message(message, timestamp), Some(read)) => {
                assert_eq!(read.0, message, "{record}");
                (timestamp, read.1)
            }
            (Expected::Members(members, timestamp), Some(read)) => {
                let sent: BTreeMap<String, &RawValue> = serde_json::from_str(&read.0).expect("an object");
                let texts = |members: &BTreeMap<String, &RawValue>| -> Vec<(String, String)> {
                    members.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect()
                };
                assert_eq!(texts(&sent), texts(&members), "{record}");
                (timestamp, read.1)
            }
            (Expected::TooLong, Some(read)) => {
                assert!(
                    read.0.starts_with(NO_RECORD) && read.0.contains("longer than source.max_record"),
                    "{read:?}"
                );
                continue;
            }
            (Expected::Anything, Some(_)) => continue,
            (_, None) if index == 0 && is_document(found) => return,
            (expected, read) => panic!("{expected:?} expected, not {read:?} or {:?}: {record}", found.error),
        };
        check_timestamp(timestamp, read_timestamp);
    }
    // The reader does not check skipped text for UTF-8, escapes and control characters, so both readers must agree only on texts
    // without any of these. Line breaks and tabs are white space between tokens; within a string only serde_json may refuse them.
    let control = |byte: &u8| *byte < 0x20 && !matches!(byte, b'\n' | b'\r' | b'\t');
    let broken_string =
        text.split(|byte| *byte == b'"').skip(1).step_by(2).flatten().any(|byte| *byte < 0x20);
    // In skipped lines the reader counts only brackets. And serde_json does not know byte order marks.
    let stepped_over = found.records.iter().any(|(text, _)| text.starts_with(NO_RECORD));
    let marked = text.windows(3).any(|window| window == b"\xef\xbb\xbf");
    let simple = std::str::from_utf8(text).is_ok()
        && !stepped_over
        && !marked
        && !text.iter().any(|byte| control(byte) || *byte == b'\\')
        && !broken_string;
    if complete {
        assert_eq!((found.records.len(), found.error.as_ref()), (records.len(), None));
    } else if simple {
        assert!(found.error.is_some(), "no JSON reader reads it all: {}", text.escape_ascii());
    }
}

/// Records up to the place where the text stops being arrays or objects; `true` if there is no such place.
fn plain_records(text: &[u8]) -> (Vec<&str>, bool) {
    let mut records = Vec::new();
    for value in Deserializer::from_slice(text).into_iter::<&RawValue>() {
        let values: Vec<&RawValue> = match value {
            Ok(value) if value.get().starts_with('{') => vec![value],
            Ok(value) if value.get().starts_with('[') => {
                serde_json::from_str(value.get()).expect("an array was read")
            }
            _ => return (records, false),
        };
        for value in values {
            if !value.get().starts_with('{') {
                return (records, false);
            }
            records.push(value.get());
        }
    }
    (records, true)
}

fn expected(record: &str, max_record: usize) -> Expected<'_> {
    if record.len() > max_record {
        return Expected::TooLong;
    }
    // Lone surrogates are legal in JSON, but serde_json refuses to decode a name with one.
    let Ok(mut members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(record) else {
        return Expected::Anything;
    };
    let timestamp = members.get("timestamp").map(|value| value.get());
    match members.get("message").map(|value| value.get()) {
        Some(value) if value.starts_with('"') => {
            let message =
                serde_json::from_str(&without_lone_surrogates(value)).expect("the text is legal JSON now");
            Expected::Message(message, timestamp)
        }
        Some(value) => Expected::Message(value.to_owned(), timestamp),
        None => {
            members.retain(|name, _| !METADATA.contains(&name.as_str()));
            Expected::Members(members, timestamp)
        }
    }
}

/// A JSON string in which U+FFFD replaces each lone surrogate.
fn without_lone_surrogates(string: &str) -> String {
    let unit = |at: usize| {
        let digits = string.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut text, mut at) = (String::new(), 0);
    while at < string.len() {
        let len = match (unit(at), unit(at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                text.push('\u{fffd}');
                at += 6;
                continue;
            }
            _ if string[at..].starts_with('\\') => 2,
            _ => string[at..].chars().next().map_or(1, char::len_utf8),
        };
        text.push_str(&string[at..at + len]);
        at += len;
    }
    text
}

/// Compares timestamps in plain forms: whole numbers, and texts that the library reads.
fn check_timestamp(value: Option<&str>, read: Option<i64>) {
    const FIRST: i128 = 946_684_800_000_000_000;
    const LAST: i128 = 1_795_348_800_000_999_999;
    let milliseconds = |at: i128| {
        (FIRST..=LAST)
            .contains(&at)
            .then(|| i64::try_from(at / 1_000_000).expect("the time fits into i64 as milliseconds"))
    };
    assert_eq!(
        read.and_then(|read| milliseconds(i128::from(read) * 1_000_000)),
        read,
        "the time is plausible"
    );
    let Some(value) = value else {
        assert_eq!(read, None);
        return;
    };
    let text = if value.starts_with('"') { serde_json::from_str::<String>(value).ok() } else { None };
    let number = text.as_deref().unwrap_or(value);
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if let (true, Ok(number)) = (digits, number.parse::<i128>()) {
        // The unit that gives a plausible time; at most one does.
        let nanoseconds = [1_000_000_000, 1_000_000, 1000, 1].map(|unit| number.checked_mul(unit));
        let believed = nanoseconds.into_iter().flatten().find_map(milliseconds);
        assert_eq!(read, believed, "{value}");
        return;
    }
    match text {
        // The table of tests in `timestamp` covers other numbers.
        Some(text)
            if text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-' | b'+' | b'e' | b'E')) => {}
        Some(text) => {
            // The library reads at most nine digits of a fraction.
            let mut fraction = None;
            let cut: String = text
                .chars()
                .filter(|c| {
                    fraction = match (fraction, c) {
                        (None, '.' | ',') => Some(0),
                        (Some(digits), '0'..='9') => Some(digits + 1),
                        (Some(_), _) => Some(0),
                        (None, _) => None,
                    };
                    fraction.is_none_or(|digits| digits <= 9)
                })
                .collect();
            let expected = cut.parse::<Timestamp>().ok().and_then(|at| milliseconds(at.as_nanosecond()));
            assert_eq!(read, expected, "{value}");
        }
        None if value.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {}
        None => assert_eq!(read, None, "{value}"),
    }
}

/// Short templates: a record of Vector, and unusual records of every kind.
const TEMPLATES: [&str; 8] = [
    concat!(
        r#"{"application":"etcd","cluster_id":"hcp-eu-1","customer_id":"globex","file":"/var/log/pods/etcd_etcd-0/0.log","#,
        r#""kubernetes":{"container_name":"etcd","pod_labels":{"app":"etcd"},"pod_name":"etcd-0"},"message":"I1121 ok","#,
        r#""pod_name":"etcd-0","source_type":"kubernetes_logs","stream":"stderr","timestamp":"2026-11-21T08:00:00.373359129Z"}"#
    ),
    r#"{"message":"m","timestamp":"2026-11-21T08:00:00Z"}"#,
    r#"{"timestamp":1795248000.5,"stream":"stdout","message":"m","z":null}"#,
    r#"{"a":{"message":"no","timestamp":"no"},"message":{"x":[1,2]},"timestamp":5}"#,
    r#"{"level":"info","file":"/f","n":1.0,"stream":"stdout"}"#,
    r#"{"message":"first","timestamp":1,"message":"last","timestamp":2}"#,
    r#"{"m\u0065ssage":"escaped","t\u0069mestamp":"2"}"#,
    r#"{ "message" : "caf\u00e9 \ud83d\ude00 \"x\"" , "timestamp" : 1795248000123 }"#,
];
const TOKENS: [&[u8]; 26] = [
    b"\"",
    b"\\",
    b"\\\"",
    b"\\\\",
    b",",
    b":",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\\ud800",
    b"\\u00E9",
    "é".as_bytes(),
    b"\n",
    b" ",
    b"0",
    b"-",
    b"\"message\":\"again\",",
    b"\"timestamp\":7,",
    b"\"m\\u0065ssage\":1,",
    b"\xff",
    b"\0",
    b"\xef\xbb\xbf",
    b"\"Records\":[",
];

/// Records from the templates with few changes each. Often a record is the one before with one more change, so that a
/// reader which remembers the last record must notice the exact byte.
fn made_up(choices: &mut Choices<'_>) -> Vec<u8> {
    let (open, between, close) =
        choices.one_of(&[("[", ",", "]"), ("", "\n", "\n"), ("[\n", ",\n ", "\n]\n"), ("[", "][", "]")]);
    let mut text = open.as_bytes().to_vec();
    let mut record = Vec::new();
    let mut count = 0;
    while !choices.is_empty() && count < 16 {
        let plan = choices.byte();
        if count == 0 || plan & 0x80 > 0 {
            record = TEMPLATES[usize::from(plan & 7)].as_bytes().to_vec();
        }
        for _ in 0..(plan >> 3) & 3 {
            edit(choices, &mut record);
        }
        if count > 0 {
            text.extend_from_slice(between.as_bytes());
        }
        text.extend_from_slice(&record);
        count += 1;
    }
    text.extend_from_slice(close.as_bytes());
    text
}

/// Makes one change near an important position.
fn edit(choices: &mut Choices<'_>, record: &mut Vec<u8>) {
    let landmark = choices
        .one_of(&["\"message\"", "\"message\":\"", "\"timestamp\"", "\"stream\":\"", "{", "}"])
        .as_bytes();
    let from = record
        .windows(landmark.len())
        .rposition(|window| window == landmark)
        .map_or(0, |at| at + landmark.len());
    let place = choices.byte();
    let at = if place == 255 {
        choices.below(65_536) % (record.len() + 1)
    } else {
        from + usize::from(place & 15)
    };
    let at = at.min(record.len());
    match choices.byte() % 6 {
        0 => record.splice(at..at, choices.one_of(&TOKENS).iter().copied()).for_each(drop),
        1 => record.splice(at..at, choices.bytes(24).iter().copied()).for_each(drop),
        2 => drop(record.drain(at..(at + 1 + choices.below(4)).min(record.len()))),
        3 if at < record.len() => record[at] = choices.byte(),
        4 => {
            let again = record[at..(at + choices.below(40)).min(record.len())].to_vec();
            record.splice(at..at, again);
        }
        _ => {
            let depth = choices.below(300);
            let nested = ["[".repeat(depth), "]".repeat(depth), ",".to_owned()].concat();
            record.splice(at..at, [b"\"deep\":", nested.as_bytes()].concat());
        }
    }
}
