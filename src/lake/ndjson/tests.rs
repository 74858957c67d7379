use std::io::Read;

use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::{super::samples::samples, *};
use crate::records::{More, RecordFormat, RecordReader, Step};

/// 2026-11-21T08:00:00.373Z.
const AT: i64 = 1_795_248_000_373;

fn named(names: &[&str]) -> Fields {
    Fields::Named(names.iter().map(|name| (*name).to_owned()).collect())
}

fn reader(format: &RecordFormat) -> RecordReader {
    RecordReader::new(1 << 20, Timestamp::UNIX_EPOCH).of_format(format, AT)
}

/// Writes the records of a text, and returns the file's text.
fn write(text: &[u8], format: &RecordFormat, fields: &Fields) -> String {
    let (mut writer, mut file) = (NdjsonWriter::new(fields), Vec::new());
    reader(format).each_of(text, |record| {
        writer.push(record, AT);
        if writer.encoded() > 1000 {
            file.extend(writer.take_encoded());
            assert_eq!(writer.encoded(), 0);
        }
        assert!(writer.lines.pending.len() <= BLOCK);
    });
    file.extend(writer.finish());
    let mut text = String::new();
    GzDecoder::new(&file[..]).read_to_string(&mut text).expect("the file is gzip");
    text
}

fn check(text: impl AsRef<[u8]>, fields: &Fields, expected: &str) {
    let text = text.as_ref();
    assert_eq!(write(text, &RecordFormat::Json, fields), expected, "{}", text.escape_ascii());
}

#[test]
fn a_record_keeps_its_own_text() {
    let text = r#"{"a":1,"kubernetes":{"b":[ 2]},"message":"x\n\"é","n":1e999,"timestamp":"t"}"#;
    let lines = format!("{text}\n{}\n", text.replace('é', "y"));
    check(&lines, &Fields::All, &lines);
    check(
        r#"[{"timestamp":1,"message":"m"},{"message":5}, {}]"#,
        &Fields::All,
        "{\"timestamp\":1,\"message\":\"m\"}\n{\"message\":5}\n{}\n",
    );
}

#[test]
fn a_record_over_several_lines_becomes_one_line() {
    let text =
        "[\n  {\n    \"a\": [\r\n      1\n    ],\n    \"message\": \"m\"\n  },\n  {\n    \"a\":\n 2}\n]";
    check(text, &Fields::All, "{\"a\":[      1    ],\"message\":\"m\"}\n{    \"a\": 2}\n");
}

#[test]
fn text_that_is_not_legal_is_mended() {
    check(
        b"{\"a\":\"\xe9\",\"message\":\"\xe9\",\"timestamp\":\"\xe9\"}",
        &Fields::All,
        "{\"a\":\"\u{fffd}\",\"message\":\"\u{fffd}\",\"timestamp\":\"\u{fffd}\"}\n",
    );
    check(
        r#"{"a":"\ud800","message":"m","timestamp":"\q"}"#,
        &Fields::All,
        "{\"a\":\"\u{fffd}\",\"message\":\"m\",\"timestamp\":\"\\\\q\"}\n",
    );
    check(
        r#"{"message":"m","timestamp":{"a":1,"a":2}}"#,
        &Fields::All,
        "{\"message\":\"m\",\"timestamp\":{\"a\":2}}\n",
    );
    check(
        r#"{"message":"m","timestamp":[{"a":1,"a":2}]}"#,
        &named(&["timestamp"]),
        "{\"timestamp\":[{\"a\":2}]}\n",
    );
}

#[test]
fn a_repeated_name_comes_once() {
    check(
        r#"{"a":1,"message":"x","a":2}{"a":3,"message":"y","a":4}"#,
        &Fields::All,
        "{\"message\":\"x\",\"a\":2}\n{\"message\":\"y\",\"a\":4}\n",
    );
    check(r#"{"message":"x","message":"y"}"#, &named(&["message"]), "{\"message\":\"y\"}\n");
    check(r#"{"m\u0065ssage":"x"}"#, &named(&["message"]), "{\"message\":\"x\"}\n");
}

#[test]
fn named_members_have_the_record_s_order() {
    let fields = named(&["timestamp", "message"]);
    check(r#"{"a":1,"message":"m","timestamp":5,"z":1}"#, &fields, "{\"message\":\"m\",\"timestamp\":5}\n");
    check(r#"{"a":1,"timestamp":5,"message":"m","z":1}"#, &fields, "{\"timestamp\":5,\"message\":\"m\"}\n");
    check(r#"{"a":1,"message":{"b":2}}"#, &fields, "{\"message\":{\"b\":2}}\n");
    check(r#"{"a":1}{"message":"m","a":1}"#, &named(&["b"]), "{}\n{}\n");
    check(r#"{"a \"é":1,"message":"m","x":2}"#, &named(&["a \"é", "x"]), "{\"a \\\"é\":1,\"x\":2}\n");
}

#[test]
fn a_line_of_text_becomes_an_object() {
    let check = |fields: &Fields, expected: &str| {
        let text = b"a \"line\" \\ \x1b[31m\xe9\t\n";
        assert_eq!(write(text, &RecordFormat::Lines(None), fields), expected);
    };
    let message = "\"message\":\"a \\\"line\\\" \\\\ \\u001b[31m\u{fffd}\\t\"";
    check(&Fields::All, &format!("{{\"timestamp\":\"2026-11-21T08:00:00.373Z\",{message}}}\n"));
    check(&named(&["message", "x"]), &format!("{{{message}}}\n"));
    check(&named(&["timestamp"]), "{\"timestamp\":\"2026-11-21T08:00:00.373Z\"}\n");
    check(&named(&["x"]), "{}\n");
}

#[test]
fn records_inside_documents_have_lines_of_their_own() {
    let text =
        br#"{"logStream":"s","logEvents":[{"id":"1","timestamp":5,"message":"m"},{"id":"2","message":"n"}]}"#;
    assert_eq!(
        write(text, &RecordFormat::Subscription, &Fields::All),
        "{\"id\":\"1\",\"timestamp\":5,\"message\":\"m\"}\n{\"id\":\"2\",\"message\":\"n\"}\n"
    );
    let text = br#"{"Records":[{"message":"m","eventTime":"t"},{"eventTime":"t","eventTime":"u"}]}"#;
    assert_eq!(
        write(text, &RecordFormat::CloudTrail, &Fields::All),
        "{\"message\":\"m\",\"eventTime\":\"t\"}\n{\"eventTime\":\"u\"}\n"
    );
}

#[test]
fn samples_are_written_as_they_are() {
    for (route, text) in samples() {
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(write(text.as_bytes(), &RecordFormat::Json, &Fields::All) == text, "{}", route.application);
        let fields = named(&["message", "stream"]);
        let written = write(text.as_bytes(), &RecordFormat::Json, &fields);
        for (line, original) in written.lines().zip(text.lines()) {
            let mut original: Map<String, Value> = serde_json::from_str(original).expect("a record");
            original.retain(|name, _| name == "message" || name == "stream");
            assert_eq!(serde_json::from_str::<Map<String, Value>>(line).expect("a line"), original);
        }
        assert_eq!(written.lines().count(), text.lines().count());
    }
}

#[test]
fn times_outside_of_the_calendar_do_no_harm() {
    let mut reader = RecordReader::new(100, Timestamp::UNIX_EPOCH).of_format(&RecordFormat::Lines(None), 0);
    let Ok(Step::Record { record, .. }) = reader.next(b"m", More::Ended) else { panic!("a line") };
    for timestamp in [i64::MIN, i64::MAX, -1, 0] {
        let mut writer = NdjsonWriter::new(&Fields::All);
        writer.push(&record, timestamp);
        let file = writer.finish();
        let line: Value = serde_json::from_reader(GzDecoder::new(&file[..])).expect("a line");
        line["timestamp"].as_str().expect("text").parse::<Timestamp>().expect("a time");
    }
}

proptest! {
    #[test]
    fn lines_have_the_values_of_the_records(
        records in prop::collection::vec((prop::collection::vec((
            prop::sample::select(vec!["message", "timestamp", "a", "b", "stream", "a\\u0062", "m\\u0065ssage"]),
            prop::sample::select(vec!["\"x\"", "\"\\u00e9 \\\"\"", "5", "{\"a\":1,\"a\":\n2}", "[]", "null", "\"2026-11-21T08:00:00Z\""]),
        ), 0..6), 1_usize..3), 1..8),
        names in prop::option::of(prop::sample::subsequence(vec!["message", "timestamp", "a", "ab"], 0..4)),
    ) {
        let texts: Vec<String> = records.iter().flat_map(|(members, times)| {
            let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            vec![format!("{{{}}}", members.join(",")); *times]
        }).collect();
        let fields = names.as_ref().map_or(Fields::All, |names| named(names));
        let written = write(texts.join("\n").as_bytes(), &RecordFormat::Json, &fields);
        let lines: Vec<_> = written.lines().collect();
        prop_assert_eq!(lines.len(), texts.len());
        for (line, text) in lines.iter().zip(&texts) {
            let mut expected: Map<String, Value> = serde_json::from_str(text).expect("a record");
            if let Some(names) = &names {
                expected.retain(|name, _| names.contains(&name.as_str()));
            }
            prop_assert_eq!(&serde_json::from_str::<Map<String, Value>>(line).expect("a line"), &expected);
        }
    }
}

#[test]
fn names_that_no_record_has_are_known() {
    let check = |text: &str, format: &RecordFormat, names: &[&str], expected: &[(&str, Sight)]| {
        let mut members = Members::new(&named(names));
        reader(format).each_of(text.as_bytes(), |record| {
            let mut writer = NdjsonWriter::new(&named(names));
            writer.push(record, AT);
            members.add(writer.members());
        });
        let expected: Vec<_> = expected.iter().map(|(name, sight)| (*name, sight)).collect();
        assert_eq!(members.named().collect::<Vec<_>>(), expected, "{names:?} of {text}");
    };
    let (found, missing) = (Sight::Found, Sight::Missing);
    let similar = |name: &str| Sight::Similar(name.to_owned());
    let records =
        r#"{"a":1,"message":"m","timestamp":5}{"LEVEL":1,"message":{"b":2}}{"x\"É":1,"message":"m"}"#;
    let named = ["message", "Message", "Level", "a", "b", "x\"é"];
    check(
        records,
        &RecordFormat::Json,
        &named,
        &[
            ("Level", similar("LEVEL")),
            ("Message", similar("message")),
            ("a", found.clone()),
            ("b", missing.clone()),
            ("message", found.clone()),
            ("x\"é", similar("x\"É")),
        ],
    );
    check("", &RecordFormat::Json, &["a"], &[("a", missing.clone())]);
    check(
        "a line\n",
        &RecordFormat::Lines(None),
        &["timestamp", "Message", "level"],
        &[("Message", similar("message")), ("level", missing), ("timestamp", found)],
    );
    assert_eq!(Members::new(&Fields::All).named().count(), 0);
}
