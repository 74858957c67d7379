//! The reader against small cases, and against a plain whole-text reader on generated ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// 2026-11-21T12:00:00Z.
const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);

type Read = (Vec<(String, Option<i64>)>, Option<RecordError>);

/// Reads `text` as it would arrive in pieces of `chunk` bytes.
fn read(text: &[u8], chunk: usize, max_record: usize) -> Read {
    read_by(RecordReader::new(max_record, NOW), text, chunk)
}

/// The same by that reader; a bad line is shown between angle brackets.
fn read_by(mut reader: RecordReader, text: &[u8], chunk: usize) -> Read {
    let (mut records, mut window) = (Vec::new(), Vec::new());
    let mut chunks = text.chunks(chunk.max(1));
    let mut more = More::Coming;
    loop {
        match reader.next(&window, more) {
            Ok(Step::Record { record, consumed }) => {
                assert_eq!(record.index, records.len() as u64);
                let message = record.message.unescape();
                assert_eq!(message.len(), record.message.len(), "{message:?}");
                records.push((message, record.timestamp));
                window.drain(..consumed);
            }
            Ok(Step::BadLine { index, text, consumed }) => {
                assert_eq!(index, records.len() as u64);
                records.push((format!("<{text}>"), None));
                window.drain(..consumed);
            }
            Ok(Step::More { consumed }) => {
                assert_eq!(more, More::Coming);
                window.drain(..consumed);
                match chunks.next() {
                    Some(chunk) => window.extend_from_slice(chunk),
                    None => more = More::Ended,
                }
            }
            Ok(Step::End) => return (records, None),
            Err(error) => {
                assert_eq!(error.index, records.len() as u64);
                return (records, Some(error));
            }
        }
    }
}

fn check(text: &str, expected: &[(&str, Option<i64>)]) {
    for chunk in [1, 2, 5, text.len()] {
        let (records, error) = read(text.as_bytes(), chunk, 1 << 20);
        assert!(error.is_none(), "{text}: {error:?}");
        let records: Vec<_> =
            records.iter().map(|(message, timestamp)| (message.as_str(), *timestamp)).collect();
        assert_eq!(records, expected, "{text} in pieces of {chunk}");
    }
}

fn check_error(text: &str, good: usize, part: &str) {
    for chunk in [1, 3, text.len()] {
        let (records, error) = read(text.as_bytes(), chunk, 1 << 20);
        let error = error.unwrap_or_else(|| panic!("{text} is read")).to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert_eq!(records.len(), good, "{text}");
    }
}

#[test]
fn every_framing_gives_the_same_records() {
    let (a, b) = (r#"{"message":"a","timestamp":1795248001}"#, r#"{"timestamp":1795248002,"message":"b"}"#);
    let expected = [("a", Some(1_795_248_001_000)), ("b", Some(1_795_248_002_000))];
    for text in [
        format!("[{a},{b}]"),
        format!("[\n{a},\r\n  {b}\n]\n"),
        format!("{a}\n{b}\n"),
        format!("{a}\n{b}"),
        format!("{a}{b}"),
        format!("[{a}]\n[{b}]\n"),
        format!("[{a}]{b}\n[]"),
    ] {
        check(&text, &expected);
    }
    for nothing in ["", " \n", "[]", "[ ]\n", "[]\n[]"] {
        check(nothing, &[]);
    }
}

#[test]
fn the_event_is_the_message_alone() {
    check(r#"[{"kubernetes":{"message":"no"},"message":"yes"}]"#, &[("yes", None)]);
    check(r#"[{"message":"tab\t \u00e9 \ud83d\ude00 \u0000"}]"#, &[("tab\t é 😀 \0", None)]);
    check(r#"[{"message":""}]"#, &[("", None)]);
}

#[test]
fn other_messages_go_as_their_json() {
    check(r#"[{"message":{"a": [1,2]}}]"#, &[(r#"{"a": [1,2]}"#, None)]);
    check(
        r#"[{"message":12.50},{"message":null},{"message":true}]"#,
        &[("12.50", None), ("null", None), ("true", None)],
    );
}

#[test]
fn a_record_without_message_goes_as_its_json_without_vectors_metadata() {
    check(
        r#"[{"level":"info","file":"/var/log/x","kubernetes":{"a":1},"n": 1.0,"timestamp":1795248005,"stream":"stdout"}]"#,
        &[(r#"{"level":"info","n":1.0}"#, Some(1_795_248_005_000))],
    );
    check("{}", &[("{}", None)]);
}

#[test]
fn doubtful_names_mean_what_every_json_reader_takes_them_for() {
    check(r#"{"message":"first","message":"last"}"#, &[("last", None)]);
    check(r#"{"m\u0065ssage":"escaped"}"#, &[("escaped", None)]);
    check(
        r#"{"timestamp":1,"message":"x","t\u0069mestamp":"1795248002"}"#,
        &[("x", Some(1_795_248_002_000))],
    );
}

#[test]
fn unreadable_timestamps_are_none() {
    check(r#"{"message":"x","timestamp":"yesterday"}"#, &[("x", None)]);
    check(
        r#"{"message":"x","timestamp":5}{"message":"y","timestamp":"2026-11-23T00:00:00Z"}"#,
        &[("x", None), ("y", None)],
    );
}

#[test]
fn what_came_before_a_bad_record_is_read() {
    let good = r#"{"message":"good"}"#;
    check_error(&format!("[{good},{{\"message\":}}]"), 1, "byte 11 of it is not JSON");
    check_error(&format!("[{good},{good}"), 2, "before the array does");
    check_error(&format!("[{good},{{\"mess"), 1, "before the record does");
    check_error(&format!("[{good},]"), 1, "a JSON object expected, not ']'");
    check_error(&format!("[{good}{good}]"), 1, "a comma or the end of the array expected");
    check_error(&format!("{good}\nplain text"), 1, "expected, not 'p'");
    check_error(&format!("[{good},\"text\"]"), 1, "a JSON object expected");
    check_error(&format!("[{good},[{good}]]"), 1, "a JSON object expected");
    check_error(&format!("{good}]"), 1, "a JSON object or array expected, not ']'");
    check_error("\0\0", 0, r"not '\u{0}'");
    check_error(&format!("{good}{{\"message\":\"\\ud800\"}}"), 1, "it is not JSON");
    check_error(&format!("{good}{{\"message\":\"a\nb\"}}"), 1, "it is not JSON");
    check_error(&format!("{good}{{\"message\":\"x\",\"a\":{}", "[".repeat(10_000)), 1, "nested too deeply");
    let (records, error) = read(b"[{\"message\":\"ok\"},{\"message\":\"\xff\"}]", 4, 1 << 20);
    assert_eq!(records.len(), 1);
    assert!(error.expect("not UTF-8").to_string().contains("it is not JSON"));
}

fn check_lines(text: &[u8], expected: &[&str], error: Option<&str>) {
    for chunk in [1, 2, 7, text.len()] {
        let (records, found) = read_by(RecordReader::new(60, NOW).stepping_over_bad_lines(), text, chunk);
        let records: Vec<_> = records.iter().map(|(message, _)| message.as_str()).collect();
        let text = text.escape_ascii();
        assert_eq!(records, expected, "{text} in pieces of {chunk}");
        let found = found.map(|error| error.to_string());
        let as_expected = match (&found, error) {
            (Some(found), Some(part)) => found.contains(part),
            (found, error) => found.is_none() && error.is_none(),
        };
        assert!(as_expected, "{text} in pieces of {chunk}: {found:?} instead of {error:?}");
    }
}

#[test]
fn a_line_that_is_no_record_is_stepped_over() {
    let check = |text: &str, expected: &[&str]| check_lines(text.as_bytes(), expected, None);
    let (a, b) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#);
    check(&format!("{a}\nplain text\n{b}\n"), &["a", "<plain text>", "b"]);
    check(&format!("oops é\r\n{a}\n\n42 \n{b}\nend"), &["<oops é>", "a", "<42 >", "b", "<end>"]);
    check(&format!("{a}\n{{\"message\":}}\n{b}\n"), &["a", r#"<{"message":}>"#, "b"]);
    check(&format!("{a} more {b}\n{b}\n"), &["a", r#"<more {"message":"b"}>"#, "b"]);
    check(&format!("{a}\n]\n{b}\n"), &["a", "<]>", "b"]);
    check(&format!("[{a}]\nx\n[{b}]\n"), &["a", "<x>", "b"]);
    // A line that was cut within a string, and one that has a lone surrogate.
    check(&format!("{a}\n{{\"message\":\"ab\\\"c\n{b}\n"), &["a", r#"<{"message":"ab\"c>"#, "b"]);
    check(&format!("{a}\n{{\"message\":\"\\ud800\"}}\n{b}\n"), &["a", r#"<{"message":"\ud800"}>"#, "b"]);
    check("\0\n", &["<\0>"]);
}

#[test]
fn a_line_is_stepped_over_only_where_its_end_is_certain() {
    let (a, b) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#);
    let check = |text: &str, expected: &[&str], error| check_lines(text.as_bytes(), expected, Some(error));
    // Within an array.
    check(&format!("[{a},\nx\n{b}]"), &["a"], "a JSON object expected");
    check(&format!("{a}\n[x]\n{b}\n"), &["a"], "end of the array expected");
    // What goes on behind its line, and an object of such records.
    check(&format!("{a}\n{{\"message\"\n{b}\n"), &["a"], "is not JSON");
    check(&format!("{{\n\"message\":\"a\"}}\nx\n{b}\n"), &["a"], "not 'x'");
    // What breaks off with its object, and what is too long.
    check(&format!("{a}\n{{\"message\":\"b"), &["a"], "before the record does");
    let long = "x".repeat(60);
    check(&format!("{a}\n{long}x\n{b}\n"), &["a"], "not 'x'");
    check_lines(format!("{a}\n{long}\n{b}\n").as_bytes(), &["a", &format!("<{long}>"), "b"], None);
    // What could not be kept as it was.
    check_lines(&[a.as_bytes(), b"\n\xff\n", b.as_bytes()].concat(), &["a"], Some("expected, not"));
}

#[test]
fn a_record_may_be_as_long_as_configured_and_no_longer() {
    let record = |len: usize| format!(r#"{{"message":"{}"}}"#, "x".repeat(len - 14));
    for (len, fits) in [(1000, true), (1001, false), (5000, false)] {
        let text = format!("[{},{}]", record(20), record(len));
        for chunk in [1, 64, 10_000] {
            let (records, error) = read(text.as_bytes(), chunk, 1000);
            assert_eq!(
                (records.len(), error.is_none()),
                if fits { (2, true) } else { (1, false) },
                "{len} in {chunk}"
            );
            assert!(error.is_none_or(|error| matches!(error.problem, RecordProblem::TooLong(1000))));
        }
    }
}

#[test]
fn a_message_is_cut_at_characters() {
    let check = |escaped: &str, expected: &[&str]| {
        let text: String = serde_json::from_str(&format!("\"{escaped}\"")).expect("a legal message");
        let message = Message { escaped: Cow::Borrowed(escaped.as_bytes()), len: text.len() };
        let pieces: Vec<_> = message
            .pieces(4)
            .map(|piece| String::from_utf8(piece.escaped().to_vec()).expect("UTF-8"))
            .collect();
        assert_eq!(pieces, expected);
    };
    check("", &[]);
    check("abcd", &["abcd"]);
    check("abcde", &["abcd", "e"]);
    check("abcé", &["abc", "é"]);
    check("😀😀", &["😀", "😀"]);
    check(r"ab\n\u0001\ud83d\ude00", &[r"ab\n\u0001", r"\ud83d\ude00"]);
}

/// The plain reader: whole text, serde_json's values.
fn reference(records: &[Value]) -> Vec<(String, Option<i64>)> {
    records
        .iter()
        .map(|record| {
            let message = match &record["message"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (message, record["timestamp"].as_i64().map(|seconds| seconds * 1000))
        })
        .collect()
}

fn records() -> impl Strategy<Value = Vec<Value>> {
    let record = (".{0,20}", any::<bool>(), 946_684_800_i64..1_795_300_000, ".{0,8}").prop_map(
        |(text, is_text, at, extra)| {
            let message = if is_text { json!(text) } else { json!({ "inner": [text] }) };
            json!({ "a": {"message": extra}, "message": message, "timestamp": at })
        },
    );
    proptest::collection::vec(record, 0..8)
}

proptest! {
    #[test]
    fn any_chunking_gives_what_a_whole_text_reader_gives(records in records(), chunk in 1_usize..200, framing in 0..4) {
        let lines: Vec<_> = records.iter().map(Value::to_string).collect();
        let text = match framing {
            0 => format!("[{}]", lines.join(",")),
            1 => format!("[\n{}\n]\n", lines.join(",\n")),
            2 => lines.iter().map(|line| format!("{line}\n")).collect(),
            _ => lines.iter().map(|line| format!("[{line}]\n")).collect(),
        };
        let (found, error) = read(text.as_bytes(), chunk, 1 << 20);
        prop_assert!(error.is_none(), "{:?}", error);
        prop_assert_eq!(found, reference(&records));
    }

    #[test]
    fn pieces_make_the_message(text in ".{0,80}", max in 4_usize..20) {
        let message = Message::escape(&text);
        let pieces: Vec<_> = message.pieces(max).map(|piece| (piece.unescape(), piece.len())).collect();
        prop_assert!(pieces.iter().all(|(text, len)| text.len() == *len && (1..=max).contains(len)));
        prop_assert_eq!(pieces.into_iter().map(|(text, _)| text).collect::<String>(), text);
    }

    #[test]
    fn any_bytes_in_any_chunks_end_the_same_way(
        text in proptest::collection::vec(proptest::sample::select(vec![
            "{\"message\":\"", "\"}", "[", "]", ",", "\\u", "\n", "é", "{}", ":", "1", "\"",
        ]), 0..20),
        chunk in 1_usize..20,
    ) {
        let text = text.concat();
        let (whole, first) = read(text.as_bytes(), text.len(), 64);
        let (pieces, second) = read(text.as_bytes(), chunk, 64);
        prop_assert_eq!(whole, pieces);
        prop_assert_eq!(first.map(|error| error.to_string()), second.map(|error| error.to_string()));
        let by_lines = |chunk| read_by(RecordReader::new(64, NOW).stepping_over_bad_lines(), text.as_bytes(), chunk);
        let ((whole, first), (pieces, second)) = (by_lines(text.len()), by_lines(chunk));
        prop_assert_eq!(whole, pieces);
        prop_assert_eq!(first.map(|error| error.to_string()), second.map(|error| error.to_string()));
    }

    #[test]
    fn bad_lines_cost_no_record(
        records in records(),
        bad in proptest::collection::vec((0_usize..9, "[^\\[{\\s\"][^\n\r\"]{0,30}"), 0..5),
        chunk in 1_usize..200,
    ) {
        let mut lines: Vec<_> = records.iter().map(Value::to_string).collect();
        let mut expected = reference(&records);
        for (at, text) in bad {
            let at = at.min(lines.len());
            expected.insert(at, (format!("<{text}>"), None));
            lines.insert(at, text);
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let reader = RecordReader::new(1 << 20, NOW).stepping_over_bad_lines();
        let (found, error) = read_by(reader, text.as_bytes(), chunk);
        prop_assert!(error.is_none(), "{:?}", error);
        prop_assert_eq!(found, expected);
    }
}
