//! Tests the reader on small cases. `generated` compares it with a plain whole-text reader on generated texts.

mod formats;
mod generated;
use super::{document::LONGEST_EVENT, *};

/// White space behind a document after which nothing can make the document a record.
const SPACE_BEHIND: usize = 64 << 10;

/// 2026-11-21T12:00:00Z.
const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);

type Read = (Vec<(String, Option<i64>)>, Option<RecordError>);

/// Reads `text` as if it arrived in pieces of `chunk` bytes.
fn read(text: &[u8], chunk: usize, max_record: usize) -> Read {
    read_by(RecordReader::new(max_record, NOW), text, chunk)
}

/// Does the same with `reader`. Unreadable text is shown between angle brackets.
fn read_by(mut reader: RecordReader, text: &[u8], chunk: usize) -> Read {
    let (mut records, mut window) = (Vec::new(), Vec::new());
    let mut chunks = text.chunks(chunk.max(1));
    let mut more = More::Coming;
    loop {
        assert_eq!(reader.count(), records.len() as u64);
        match reader.next(&window, more) {
            Ok(Step::Record { record, consumed }) => {
                assert_eq!(record.index, records.len() as u64);
                let message = record.message.unescape();
                assert_eq!(message.len(), record.message.len(), "{message:?}");
                records.push((message, record.timestamp));
                window.drain(..consumed);
            }
            Ok(Step::Unreadable { unreadable: Unreadable { error, text }, consumed }) => {
                assert_eq!(error.index, records.len() as u64);
                records.push((format!("<{text}>"), None));
                window.drain(..consumed);
            }
            Ok(Step::Skipped { consumed }) => {
                records.push(("<skipped>".to_owned(), None));
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

/// The text that stands for a record of more than `limit` bytes.
fn too_long(limit: usize, bytes: usize, start: usize) -> String {
    format!(
        "<the record is longer than source.max_record ({limit} bytes): it takes {bytes} bytes from byte {start} of the \
         decompressed object>"
    )
}

fn json() -> RecordReader {
    RecordReader::new(1 << 20, NOW)
}

/// Checks the records of a good text, in pieces of several lengths.
fn check_by(reader: impl Fn() -> RecordReader, text: &str, expected: &[(&str, Option<i64>)]) {
    for chunk in [1, 2, 5, 7, text.len()] {
        let (records, error) = read_by(reader(), text.as_bytes(), chunk);
        assert!(error.is_none(), "{text}: {error:?}");
        let records: Vec<_> =
            records.iter().map(|(message, timestamp)| (message.as_str(), *timestamp)).collect();
        assert_eq!(records, expected, "{text} in pieces of {chunk}");
    }
}

/// Checks a text that has an error after `good` records.
fn check_error_by(reader: impl Fn() -> RecordReader, text: &[u8], good: usize, part: &str) {
    for chunk in [1, 3, 7, text.len()] {
        let (records, error) = read_by(reader(), text, chunk);
        let error = error.unwrap_or_else(|| panic!("{} is read", text.escape_ascii())).to_string();
        assert!(error.contains(part), "{}: {error}", text.escape_ascii());
        assert_eq!(records.len(), good, "{}", text.escape_ascii());
    }
}

fn check(text: &str, expected: &[(&str, Option<i64>)]) {
    check_by(json, text, expected);
}

fn check_error(text: &str, good: usize, part: &str) {
    check_error_by(json, text.as_bytes(), good, part);
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
fn only_the_message_becomes_the_event() {
    check(r#"[{"kubernetes":{"message":"no"},"message":"yes"}]"#, &[("yes", None)]);
    check(r#"[{"message":"tab\t \u00e9 \ud83d\ude00 \u0000"}]"#, &[("tab\t é 😀 \0", None)]);
    check(r#"[{"message":""}]"#, &[("", None)]);
}

#[test]
fn a_message_that_is_not_a_string_becomes_its_json() {
    check(r#"[{"message":{"a": [1,2]}}]"#, &[(r#"{"a": [1,2]}"#, None)]);
    check(
        r#"[{"message":12.50},{"message":null},{"message":true}]"#,
        &[("12.50", None), ("null", None), ("true", None)],
    );
}

#[test]
fn a_record_without_message_becomes_its_json_without_vectors_metadata() {
    check(
        r#"[{"level":"info","file":"/var/log/x","kubernetes":{"a":1},"n": 1.0,"timestamp":1795248005,"stream":"stdout"}]"#,
        &[(r#"{"level":"info","n":1.0}"#, Some(1_795_248_005_000))],
    );
    check("{}", &[("{}", None)]);
}

#[test]
fn repeated_and_escaped_names_mean_the_same_as_to_other_json_readers() {
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
fn records_before_a_bad_record_are_read() {
    let good = r#"{"message":"good"}"#;
    check_error(&format!("[{good},{{\"message\":}}]"), 1, "byte 11 of the record is not JSON");
    check_error(&format!("[{good},{good}"), 2, "before the array does");
    check_error(&format!("[{good},{{\"mess"), 1, "before the record does");
    check_error(&format!("[{good},]"), 1, "a JSON object expected, not ']'");
    check_error(&format!("[{good}{good}]"), 1, "a comma or the end of the array expected");
    check_error(&format!("{good}\nplain text"), 1, "expected, not 'p'");
    check_error(&format!("[{good},\"text\"]"), 1, "a JSON object expected");
    check_error(&format!("[{good},[{good}]]"), 1, "a JSON object expected");
    check_error(&format!("{good}]"), 1, "a JSON object or array expected, not ']'");
    check_error("\0\0", 0, r"not '\u{0}'");
    check_error(
        &format!("{good}{{\"message\":\"x\",\"a\":{}", "[".repeat(10_000)),
        1,
        "before the record does",
    );
    check_error("\u{feff}\u{feff}[\u{feff}]", 0, "the end of the array expected");
    check_error(&format!("[{good},\u{feff}{good}]"), 1, "a JSON object expected");
}

#[test]
fn byte_order_marks_are_skipped() {
    let (a, b) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#);
    for text in [
        format!("\u{feff}[{a},{b}]"),
        format!("\u{feff}\n[\n{a},\n{b}]\n"),
        format!("\u{feff}{a}\n{b}\n"),
        format!("\u{feff}{a}\n\u{feff}{b}\n\u{feff}"),
        format!(" \u{feff}[{a}]\u{feff}[{b}]"),
        format!("\u{feff}[{a}]\n\u{feff}\u{feff}{b}"),
    ] {
        check(&text, &[("a", None), ("b", None)]);
    }
    check("\u{feff}", &[]);
    check_lines(format!("{a}\n\u{feff}oops\n\u{feff}{b}\n").as_bytes(), &["a", "<oops>", "b"], None);
    // Half of a byte order mark.
    let (records, error) = read(b"{\"message\":\"a\"}\xef\xbb", 1, 100);
    assert_eq!(records.len(), 1);
    assert!(error.expect("half of a mark is not a record").to_string().contains("expected, not"));
}

/// Defects in a string's text, as bytes, and the text that is delivered instead.
const DEFECTS: [(&[u8], &str); 17] = [
    (br"\ud83d", "\u{fffd}"),
    (br"\uDE00", "\u{fffd}"),
    (br"\ud83d\u0041", "\u{fffd}A"),
    (br"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
    (br"\ude00\ud83d", "\u{fffd}\u{fffd}"),
    (b"\xff", "\u{fffd}"),
    (b"\xe2\x82", "\u{fffd}"),
    (b"caf\xe9", "caf\u{fffd}"),
    (b"\xed\xa0\xbd", "\u{fffd}\u{fffd}\u{fffd}"),
    (b"\0", "\u{fffd}"),
    (b"\x1b[31m", "\u{fffd}[31m"),
    (b"a\tb\nc\rd", "a\tb\nc\rd"),
    (br"\x41", r"\x41"),
    (br"C:\Users", r"C:\Users"),
    (br"\u12", r"\u12"),
    (br"\u12g4\n", "\\u12g4\n"),
    (b"\\\xff", "\\\u{fffd}"),
];

/// Reads a single record. Returns its message, and whether the message was mended.
fn alone(text: &[u8]) -> (String, bool) {
    let mut reader = RecordReader::new(1 << 20, NOW);
    match reader.next(text, More::Ended) {
        Ok(Step::Record { record, .. }) => (record.message.unescape(), record.mended),
        other => panic!("{}: {other:?}", text.escape_ascii()),
    }
}

#[test]
fn a_defect_in_the_message_s_text_is_mended() {
    for (wrong, right) in DEFECTS {
        for (before, behind) in [("", ""), ("x\\n\u{e9}", "\\\"y"), (&"z".repeat(40), &"z".repeat(40))] {
            let string = [b"\"", before.as_bytes(), wrong, behind.as_bytes(), b"\""].concat();
            let plain = |text: &str| text.replace("\\n", "\n").replace("\\\"", "\"");
            let expected = [&plain(before), right, &plain(behind)].concat();
            let about = string.escape_ascii();
            for record in [
                [b"{\"message\":", &string[..], b"}"].concat(),
                [b"{\"message\":1,\"m\\u0065ssage\":", &string[..], b"}"].concat(),
            ] {
                assert_eq!(alone(&record), (expected.clone(), true), "{about}");
            }
            // A defect outside of the message has no effect.
            let record = [b"{\"message\":\"m\",\"a\":{", &string[..], b":", &string, b"}}"].concat();
            assert_eq!(alone(&record), ("m".to_owned(), false), "{about}");
        }
    }
    assert!(!alone(br#"{"message":"\ud83d\ude00 \u0000","message":"\ud83d\ude00 \u0000 \/"}"#).1);
}

#[test]
fn json_that_becomes_the_message_is_mended_as_text() {
    let check = |record: &[u8], message: &str, mended| {
        assert_eq!(alone(record), (message.to_owned(), mended), "{}", record.escape_ascii());
    };
    // Half of a surrogate pair is legal in JSON, so it stays as it is.
    check(br#"{"message":{"a":"\ud83d\n"}}"#, r#"{"a":"\ud83d\n"}"#, false);
    check(b"{\"message\":[\n1,\t2]}", "[\n1,\t2]", false);
    check(b"{\"message\":[\"\xff\"]}", "[\"\u{fffd}\"]", true);
    check(b"{\"level\":\"\xff\",\"file\":\"\xfe\"}", "{\"level\":\"\u{fffd}\"}", true);
    check(b"{\"a\xff\":\"\0\",\"b\":1}", "{\"a\u{fffd}\":\"\u{fffd}\",\"b\":1}", true);
    check(b"{\"level\":1,\"file\":\"\xfe\"}", "{\"level\":1}", false);
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
fn a_line_that_is_not_a_record_is_stepped_over() {
    let check = |text: &str, expected: &[&str]| check_lines(text.as_bytes(), expected, None);
    let (a, b) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#);
    check(&format!("{a}\nplain text\n{b}\n"), &["a", "<plain text>", "b"]);
    check(&format!("oops é\r\n{a}\n\n42 \n{b}\nend"), &["<oops é>", "a", "<42 >", "b", "<end>"]);
    check(&format!("{a}\n{{\"message\":}}\n{b}\n"), &["a", r#"<{"message":}>"#, "b"]);
    check(&format!("{a}\n{{\"message\":1.\n{b}\n"), &["a", r#"<{"message":1.>"#, "b"]);
    check(&format!("{a} more {b}\n{b}\n"), &["a", r#"<more {"message":"b"}>"#, "b"]);
    check(&format!("{a}\n]\n{b}\n"), &["a", "<]>", "b"]);
    check(&format!("[{a}]\nx\n[{b}]\n"), &["a", "<x>", "b"]);
    // A line that was cut inside a string.
    check(&format!("{a}\n{{\"message\":\"ab\\\"c\n{b}\n"), &["a", r#"<{"message":"ab\"c>"#, "b"]);
    // A line that is not UTF-8.
    check_lines(&[a.as_bytes(), b"\n\xff\n", b.as_bytes()].concat(), &["a", "<\u{fffd}>", "b"], None);
    // Before the first record, if a record or an array follows.
    check(&format!("cut\"}}\n\n{{\"message\":}}\n{a}\n"), &["<cut\"}>", r#"<{"message":}>"#, "a"]);
    check(&format!("x\n[ {a}]\n{b}"), &["<x>", "a", "b"]);
    check(&format!("[]\nx\n{b}"), &["<x>", "b"]);
    // The framing that is found first counts, here that of an array.
    check(&format!("[]\n{{\n\"message\":\"a\"}}\nx\n{b}"), &["a", "<x>", "b"]);
}

#[test]
fn a_line_is_stepped_over_only_where_its_end_is_certain() {
    let (a, b) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#);
    let check = |text: &str, expected: &[&str], error| check_lines(text.as_bytes(), expected, Some(error));
    // Inside an array.
    check(&format!("[{a},\nx\n{b}]"), &["a"], "a JSON object expected");
    check(&format!("{a}\n[x]\n{b}\n"), &["a"], "end of the array expected");
    // A bad record that spans several lines, and an object whose records span several lines.
    check(&format!("{a}\n{{\"message\"\n{b}\n"), &["a"], "is not JSON");
    check(&format!("{{\n\"message\":\"a\"}}\nx\n{b}\n"), &["a"], "not 'x'");
    // A record that is cut off by the end of the object.
    check(&format!("{a}\n{{\"message\":\"b"), &["a"], "before the record does");
    // No record on a line of its own, or none within the 60 bytes that are looked at.
    check("plain text\nand more\n", &[], "not 'p'");
    check("\0\n", &[], "not");
    check(&format!("{}\n{a}\n", "plain text\n".repeat(6)), &[], "not 'p'");
    check(&format!("[\n{a}]\nx\n{b}"), &["a"], "not 'x'");
    check(&format!("[{a},\n{a}]\nx\n{b}"), &["a", "a"], "not 'x'");
    check("x\n{\"message\":\"a\n", &[], "not 'x'");
}

#[test]
fn a_line_that_is_too_long_is_stepped_over_too() {
    let (a, b, long) = (r#"{"message":"a"}"#, r#"{"message":"b"}"#, "x".repeat(60));
    check_lines(format!("{a}\n{long}\n{b}\n").as_bytes(), &["a", &format!("<{long}>"), "b"], None);
    let place = |bytes: usize| too_long(60, bytes, 16);
    check_lines(format!("{a}\n{long}{{\"\n{b}\n").as_bytes(), &["a", &place(62), "b"], None);
    check_lines(format!("{a}\n{long}}} ]\n{b}\n").as_bytes(), &["a", &place(63), "b"], None);
    check_lines(format!("{a}\n{long}x").as_bytes(), &["a", &place(61)], None);
    // A record that is cut inside a string, one that is cut outside, and one at the end of the object.
    check_lines(format!("{a}\n{{\"message\":\"{long}\n{b}\n").as_bytes(), &["a", &place(72), "b"], None);
    check_lines(format!("{a}\n{{\"message\":\"{long}\",\n{b}\n").as_bytes(), &["a", &place(74), "b"], None);
    check_lines(format!("{a}\n{{\"message\":\"{long}").as_bytes(), &["a"], Some("before the record does"));
    // A first record that is too long also shows the framing, and so whether a bad line after it is stepped over.
    let first = |bytes: usize| too_long(60, bytes, 0);
    check_lines(format!("{{\"message\":\"{long}\"}}\nx\n").as_bytes(), &[&first(74), "<x>"], None);
    check_lines(format!("{{\"message\":\n\"{long}\"}}\nx\n{b}").as_bytes(), &[&first(75)], Some("not 'x'"));
}

#[test]
fn a_record_beyond_the_configured_length_is_stepped_over() {
    let record = |len: usize| {
        format!(
            r#"{{"message":"{}"}}"#,
            "\\\"]}{[,".repeat(len / 7).get(..len - 14).expect("the text is ASCII")
        )
    };
    const NESTED: &str = r#""a":[{"b":[]},{}],"#;
    for len in [1000, 1001, 5000] {
        // Cutting the text may leave half of an escape at its end.
        let mut long = record(len - NESTED.len()).replace("\\\"}", "x\"}");
        long.insert_str(1, NESTED);
        let len = long.len();
        for (text, start) in [
            (format!("[{},{long},{}]", record(20), record(21)), 22),
            (format!("[\n{},\n{long}\n,{}\n]", record(20), record(21)), 24),
            (format!("{}\n{long}\n{}\n", record(20), record(21)), 21),
            (format!("{}{long}{}", record(20), record(21)), 20),
            (format!("[{}][{long}]\n[{}]", record(20), record(21)), 23),
        ] {
            for chunk in [1, 64, 10_000] {
                let (records, error) = read(text.as_bytes(), chunk, 1000);
                assert!(error.is_none(), "{text}: {error:?}");
                let [_, (found, _), _] = &records[..] else { panic!("{text}: {records:?}") };
                let place = too_long(1000, len, start);
                assert_eq!(*found == place, len > 1000, "{text} in {chunk}: {found}");
            }
        }
    }
    // A first record over several lines, and one that is cut inside a string.
    let long = format!("{{\n\"message\":\n\"{}\"\n}}", "x".repeat(1000));
    let (records, error) = read(format!("{long}\n{}", record(20)).as_bytes(), 7, 1000);
    assert_eq!((records.len(), error), (2, None));
    let cut = format!("{{\"message\":\"{}\n{}\n", "x".repeat(1000), record(20));
    let (records, error) = read(cut.as_bytes(), 7, 1000);
    assert_eq!((records.len(), error), (2, None));
    // A record that is cut off by the end of the object.
    let (records, error) = read(&long.as_bytes()[..long.len() - 1], 64, 1000);
    assert_eq!(records.len(), 0);
    assert!(
        matches!(error, Some(RecordError { index: 0, problem: RecordProblem::Truncated("record") })),
        "{error:?}"
    );
}

#[test]
fn an_object_that_is_one_document_is_refused() {
    const MAX: usize = 2 * LONGEST_EVENT;
    let check = |text: &str, what: &str| {
        for chunk in [1000, LONGEST_EVENT + 1, text.len()] {
            let (records, error) = read(text.as_bytes(), chunk, MAX);
            assert_eq!(records, []);
            let error = error.unwrap_or_else(|| panic!("{text:.100} is read"));
            assert!(
                matches!(&error.problem, RecordProblem::Unsupported(found) if found.contains(what)),
                "{error}"
            );
        }
    };
    let trail = |len| format!(r#"{{"Records":[{{"eventName":"{}"}},{{}}]}}"#, "E".repeat(len));
    check(&trail(2), "CloudTrail");
    check(&trail(MAX), "CloudTrail");
    check("\u{feff}{\n \"Records\" : [\n]\n}\n", "CloudTrail");
    let subscription = r#"{"messageType":"DATA_MESSAGE","logGroup":"g","logEvents":[{"message":"m"}]}"#;
    check(subscription, "subscription");
    check(&format!("{subscription}{subscription}"), "subscription");
    let document = |len: usize| format!(r#"{{"rows":"{}"}}"#, "x".repeat(len - 11));
    let long = document(LONGEST_EVENT + 1);
    check(&long, "one JSON document of 1048577 bytes");
    check(&format!("{long}\n \n"), "one JSON document");
    check(&format!("{long}{}", " ".repeat(SPACE_BEHIND - 1)), "one JSON document");
    let record = r#"{"message":"m"}"#;
    check(&format!("{long}{}{record}", " ".repeat(SPACE_BEHIND)), "one JSON document");
    // These texts are read as records.
    let count = |text: &str| {
        let counts = [50_000, LONGEST_EVENT + 1].map(|chunk| {
            let (records, error) = read(text.as_bytes(), chunk, MAX);
            assert!(error.is_none(), "{text:.100}: {error:?}");
            records.len()
        });
        assert_eq!(counts[0], counts[1]);
        counts[0]
    };
    assert_eq!(count(&document(LONGEST_EVENT)), 1);
    assert_eq!(count(&format!("{long}{}{record}", " ".repeat(SPACE_BEHIND - 1))), 2);
    assert_eq!(count(&format!("{record}\n{long}")), 2);
    assert_eq!(count(&format!("[{long}]")), 1);
    assert_eq!(count(&format!("[{}]", trail(2))), 1);
    assert_eq!(count(&format!("{record}\n{}\n", trail(2))), 2);
    assert_eq!(count(&format!(r#"{{"Records":[],"message":"{}"}}"#, "m".repeat(LONGEST_EVENT))), 1);
}

/// A document may be the whole object. The reader knows after the white space behind it, and waits for this much.
#[test]
fn the_reader_waits_for_what_follows_a_document() {
    let document = format!(r#"{{"rows":"{}"}}"#, "x".repeat(LONGEST_EVENT));
    let len = document.len();
    let reader = || RecordReader::new(2 * LONGEST_EVENT, NOW);
    for (behind, is_record) in [(" ".repeat(SPACE_BEHIND), false), ("{}".repeat(SPACE_BEHIND), true)] {
        let (text, mut reader) = ([&*document, &behind].concat(), reader());
        let mut next = |len: usize| reader.next(&text.as_bytes()[..len], More::Coming);
        assert!(matches!(next(len), Ok(Step::More { consumed: 0 })));
        assert!(matches!(next(len + SPACE_BEHIND - 1), Ok(Step::More { consumed: 0 })));
        match next(len + SPACE_BEHIND) {
            Ok(Step::Record { consumed, .. }) => assert_eq!((consumed, is_record), (len, true)),
            other => assert!(!is_record && other.is_err()),
        }
    }
    let more = format!("{document} ");
    assert!(matches!(reader().next(more.as_bytes(), More::Coming), Ok(Step::More { consumed: 0 })));
    // The rest of the object cannot be decoded, so nobody knows what follows.
    assert!(matches!(reader().next(document.as_bytes(), More::Never), Ok(Step::More { consumed: 0 })));
}

/// Texts with records, lines and a document's members of just the longest length, and of one byte more.
#[test]
fn the_longest_record_does_not_depend_on_the_window() {
    const MAX: usize = 30;
    let record = |len: usize| format!(r#"{{"message":"{}"}}"#, "m".repeat(len - 14));
    let (small, bad) = (record(15), |len: usize| "x".repeat(len));
    let number = |len: usize| format!(r#"{{"a":1{},"Records":[]}}"#, "0".repeat(len - 5));
    let string = |len: usize| format!(r#"{{"a":"{}","Records":[]}}"#, "x".repeat(len - 6));
    let too_long = |start| too_long(MAX, MAX + 1, start);
    let is_too_long = "has more than 30 bytes";
    let json = || RecordReader::new(MAX, NOW);
    let lines = || json().stepping_over_bad_lines();
    let trail = || json().of_format(&RecordFormat::CloudTrail, 0);
    type Case<'a> = (&'a dyn Fn() -> RecordReader, String, &'a [&'a str], Option<&'a str>);
    let cases: [Case<'_>; 13] = [
        (&json, record(MAX), &["mmmmmmmmmmmmmmmm"], None),
        (&json, record(MAX + 1), &[&too_long(0)], None),
        (&json, format!("{small}{}{small}", record(MAX + 1)), &["m", &too_long(15), "m"], None),
        (
            &json,
            format!("{{\"a\":[1{}x", "0".repeat(MAX - 7)),
            &[],
            Some("byte 30 of the record is not JSON"),
        ),
        (&json, record(MAX + 1)[..MAX].to_owned(), &[], Some("before the record does")),
        (&lines, format!("{small}\n{}\n{small}\n", bad(MAX)), &["m", &format!("<{}>", bad(MAX)), "m"], None),
        (&lines, format!("{small}\n{}\n{small}\n", bad(MAX + 1)), &["m", &too_long(16), "m"], None),
        (&lines, format!("{small}\n{}", bad(MAX)), &["m", &format!("<{}>", bad(MAX))], None),
        (&lines, format!("{small}\n{}", bad(MAX + 1)), &["m", &too_long(16)], None),
        (&trail, number(MAX), &[], None),
        (&trail, number(MAX + 1), &[], Some(is_too_long)),
        (&trail, string(MAX), &[], None),
        (&trail, string(MAX + 1), &[], Some(is_too_long)),
    ];
    for (reader, text, expected, problem) in &cases {
        for chunk in 1..=text.len() {
            let (records, error) = read_by(reader(), text.as_bytes(), chunk);
            let records: Vec<_> = records.iter().map(|(message, _)| message.as_str()).collect();
            assert_eq!(&records, expected, "{text} in pieces of {chunk}");
            let error = error.map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(problem.unwrap_or_default()), "{text} in pieces of {chunk}: {error}");
            assert_eq!(error.is_empty(), problem.is_none(), "{text} in pieces of {chunk}: {error}");
        }
    }
}

/// The first length of the window, after a window of `first` bytes, at which the reader does more than wait.
fn next_look(reader: &mut RecordReader, text: &str, first: usize) -> usize {
    let mut waits =
        |len| matches!(reader.next(&text.as_bytes()[..len], More::Coming), Ok(Step::More { consumed: 0 }));
    assert!(waits(first), "the window is too short");
    (first + 1..).find(|len| !waits(*len)).expect("the text suffices")
}

/// A record may arrive in many pieces, but it is looked at only a few times.
#[test]
fn the_next_look_waits_until_twice_as_much_has_arrived() {
    const MAX: usize = 100;
    let reader = || RecordReader::new(MAX, NOW);
    let space = " ".repeat(2 * MAX);
    for first in [20, 40, 50, 51, 70, 99, 100] {
        let text = "x".repeat(first);
        // Each text is complete with the byte after the first window.
        let record = format!("{{\"message\":\"{}\"}}{space}", &text[..first - 13]);
        let member = format!("\"a\":\"{}\",{space}", &text[..first - 5]);
        let line = format!("{text}\n{space}");
        let mut trail = reader().of_format(&RecordFormat::CloudTrail, 0);
        assert!(matches!(trail.next(b"{", More::Coming), Ok(Step::More { consumed: 1 })));
        let mut lines = reader().stepping_over_bad_lines();
        assert!(matches!(lines.next(b"{}", More::Coming), Ok(Step::Record { .. })));
        for (mut reader, text) in [(reader(), record), (trail, member), (lines, line)] {
            assert_eq!(next_look(&mut reader, &text, first), (2 * first).min(MAX + 1), "{text}");
        }
    }
    // Recognising a format has a limit of its own.
    for first in [20, 40, detect::LOOK_AHEAD - 1000] {
        let text = format!("{{\"a\":\"{}\"}}{}", "x".repeat(first - 7), " ".repeat(first));
        let mut reader = RecordReader::new(1 << 20, NOW).of_format(&RecordFormat::Auto, 0);
        assert_eq!(next_look(&mut reader, &text, first), (2 * first).min(detect::LOOK_AHEAD));
    }
}

/// Positions at which the records of a text end.
fn ends(mut reader: RecordReader, text: &[u8], more: More) -> Vec<usize> {
    let (mut ends, mut at) = (Vec::new(), 0);
    loop {
        match reader.next(&text[at..], more).expect("an incomplete record is no error") {
            Step::End => return ends,
            Step::More { .. } => {
                assert_eq!(more, More::Never);
                return ends;
            }
            step => at += step.consumed(),
        }
        ends.push(at);
    }
}

#[test]
fn a_text_that_breaks_off_gives_its_complete_records() {
    let (a, long) = (r#"{"message":"a"}"#, format!(r#"{{"message":"{}"}}"#, "x".repeat(60)));
    let trail = format!(r#"{{"a":"b","Records":[{a},{a}],"c":[1]}}{{"Records":[{a}]}}"#);
    for (format, text, count) in [
        (RecordFormat::Json, format!("[{a},\n{long},{a}]\n"), 3),
        (RecordFormat::Json, format!("{a}\nbad\n{a}\n{long}\n{a}\n"), 5),
        (RecordFormat::CloudTrail, trail, 3),
        (RecordFormat::Lines(None), format!("a\nb\n{long}\nc\n"), 4),
        (RecordFormat::FlowLogs, "version end\n2 1795248001\n".to_owned(), 2),
    ] {
        let reader = || RecordReader::new(60, NOW).stepping_over_bad_lines().of_format(&format, 0);
        let all = ends(reader(), text.as_bytes(), More::Ended);
        assert_eq!(all.len(), count, "{text}");
        for cut in 0..=text.len() {
            let found = ends(reader(), &text.as_bytes()[..cut], More::Never);
            assert!(all.starts_with(&found), "{}", &text[..cut]);
            // Only the text behind a line shows that the line is complete.
            let complete = all.iter().filter(|end| **end < cut).count();
            assert!(found.len() >= complete, "{}", &text[..cut]);
        }
    }
}
