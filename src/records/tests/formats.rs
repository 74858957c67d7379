//! Formats: each is recognised by its first bytes, in any chunks, and read as a plain whole-text reader reads it.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A reader of records of up to 1000 bytes.
fn of(format: &RecordFormat) -> RecordReader {
    RecordReader::new(1000, NOW).of_format(format, OBJECT)
}

/// A reader of a format that is to be recognised.
fn auto() -> RecordReader {
    RecordReader::new(1 << 20, NOW).of_format(&RecordFormat::Auto, OBJECT)
}

fn recognised(text: &[u8], chunk: usize) -> Read {
    read_by(auto(), text, chunk)
}

fn check(text: &str, expected: &[(&str, Option<i64>)]) {
    check_by(auto, text, expected);
}

fn check_error(text: &[u8], good: usize, part: &str) {
    check_error_by(auto, text, good, part);
}

/// The time of the object.
const OBJECT: i64 = 1_795_255_555_000;
const AT: (&str, Option<i64>) = ("2026-11-21T08:00:01Z", Some(1_795_248_001_000));

#[test]
fn records_of_cloudtrail_are_events_as_they_stand() {
    let (a, b) = (
        format!(r#"{{"eventVersion":"1.11","eventTime":"{}","message":"no","kubernetes":1}}"#, AT.0),
        r#"{ "eventName" : "E\n\u00e9", "eventTime":"yesterday","timestamp":1795248002}"#,
    );
    for text in [
        format!(r#"{{"Records":[{a},{b}]}}"#),
        format!("\u{feff}{{\n \"Records\" : [\n{a}\n,\n{b} ]\n}}\n"),
        format!(r#"{{"Records":[{a}]}}{{"Records":[{b}]}}"#),
        format!("{{\"Records\":[{a}]}}\n{{\"Records\":[]}}\n{{\"Records\":[{b}]}}\n"),
        format!(r#"{{"a":{{"Records":[1]}},"b":null,"Records":[{a},{b}],"c":-1.5e3,"d":"]"}}"#),
        format!(r#"{{"Rec\u006frds":[{a},{b}]}}"#),
    ] {
        check(&text, &[(&a, AT.1), (b, None)]);
    }
    check(r#"{"Records":[]}"#, &[]);
}

#[test]
fn documents_of_subscriptions_are_read_one_after_another() {
    let document = |kind: &str, stream: &str, messages: &[&str]| {
        let events: Vec<_> = messages
            .iter()
            .map(|message| json!({ "id": "1", "timestamp": 1_795_248_001_000_i64, "message": message }))
            .collect();
        let events = Value::from(events);
        format!(
            r#"{{"messageType":"{kind}","owner":"1","logGroup":"g","logStream":"{stream}","subscriptionFilters":["f"],"logEvents":{events}}}"#
        )
    };
    let [a, b, control] = [
        document("DATA_MESSAGE", "s1", &["a", "{\"b\":\"]\"}"]),
        document("DATA_MESSAGE", "s2", &["c"]),
        document("CONTROL_MESSAGE", "", &["CWL CONTROL MESSAGE: Checking health of destination Firehose."]),
    ];
    let events = [("a", AT.1), ("{\"b\":\"]\"}", AT.1), ("<skipped>", None), ("c", AT.1)];
    for text in
        [format!("{a}{control}{b}"), format!("{a}\n{control}\r\n{b}\n"), format!("{a} {control}\u{feff}{b}")]
    {
        check(&text, &events);
    }
    check(&format!("{control}{b}"), &[("<skipped>", None), ("c", AT.1)]);
    // Each record knows its stream.
    let mut streams = Vec::new();
    auto().each_of([a, b].concat().as_bytes(), |record| {
        streams.push(record.log_stream.as_deref().expect("a name").to_owned());
    });
    assert_eq!(streams, ["s1", "s1", "s2"]);
}

#[test]
fn events_of_eventbridge_are_events_as_they_stand() {
    let event = |source: &str| {
        format!(
            r#"{{"version":"0","id":"7","detail-type":"GuardDuty Finding","source":"{source}","account":"1","time":"{}","region":"r","resources":[],"detail":{{"a":1}}}}"#,
            AT.0
        )
    };
    let (a, b) = (event("aws.guardduty"), event("aws.config"));
    for text in [format!("{a}{b}"), format!("{a}\n{b}\n"), format!("[{a},{b}]")] {
        match text.starts_with('[') {
            // An array is not how Firehose writes events: its records are as before.
            true => check(&text, &[(&a, None), (&b, None)]),
            false => check(&text, &[(&a, AT.1), (&b, AT.1)]),
        }
    }
}

/// Records of Vector that have names of other formats stay records.
#[test]
fn in_doubt_a_text_has_records() {
    let list = r#"[{"eventName":"E"}]"#;
    for record in [
        format!(r#"{{"Records":{list},"message":"m"}}"#),
        format!(r#"{{"logEvents":{list},"message":"m","source_type":"kubernetes_logs"}}"#),
        r#"{"detail":1,"detail-type":"d","id":1,"message":"m","source":"s","time":"2026-11-21T08:00:01Z"}"#
            .to_owned(),
        r#"{"message":"m","time":"2026-11-21T08:00:01Z"}"#.to_owned(),
    ] {
        check(&record, &[("m", None)]);
        check(&format!("{record}\n{{\"Records\":{list},\"message\":\"n\"}}\n"), &[("m", None), ("n", None)]);
        check(&format!("[{record}]"), &[("m", None)]);
    }
    check(
        r#"{"Records":[1],"kubernetes":{},"level":"info"}"#,
        &[(r#"{"Records":[1],"level":"info"}"#, None)],
    );
    check(r#"{"time":"2026-11-21T08:00:01Z"}"#, &[(r#"{"time":"2026-11-21T08:00:01Z"}"#, None)]);
    check(r#"{"Records":7}"#, &[(r#"{"Records":7}"#, None)]);
    check(&format!(r#"[{{"Records":{list}}}]"#), &[(&format!(r#"{{"Records":{list}}}"#), None)]);
    check("", &[]);
    check(" \n\u{feff}", &[]);
    // A name behind the first 256 KiB comes too late.
    let late = |len: usize| format!(r#"{{"Records":[{{"a":"{}"}}],"message":"m"}}"#, "x".repeat(len));
    let count = |text: &str| {
        let (records, error) = recognised(text.as_bytes(), 1 << 16);
        assert!(error.is_none(), "{error:?}");
        records[0].0.len()
    };
    assert_eq!((count(&late(200_000)), count(&late(300_000))), (1, 300_000 + r#"{"a":""}"#.len()));
}

#[test]
fn documents_that_break_off_give_the_records_before() {
    let record = r#"{"eventTime":"2026-11-21T08:00:01Z"}"#;
    let good = format!(r#"{{"Records":[{record},{record}"#);
    for (rest, part) in [
        ("", "before the array does"),
        (",", "before the array does"),
        (",{\"a\":", "before the record does"),
        (",7]}", "a JSON object expected"),
        ("]", "before the document does"),
        ("],", "before the document does"),
        ("],\"a\":[1", "before the document does"),
        ("],\"a\":tru}", "the document's member is not JSON"),
        ("],5:1}", "a name expected"),
        ("]]", "a comma or the end of the document expected"),
        ("]}x", "a JSON object expected"),
        ("]}[]", "a JSON object expected, not '['"),
    ] {
        check_error(format!("{good}{rest}").as_bytes(), 2, part);
    }
    let long = format!(r#"{good}],"a":"{}"}}"#, "x".repeat(1 << 20));
    let (records, error) = recognised(long.as_bytes(), 1 << 16);
    assert_eq!(records.len(), 2);
    assert!(error.expect("it is too long").to_string().contains("has more than 1048576 bytes"));
}

#[test]
fn a_record_of_a_document_that_is_too_long_is_stepped_over() {
    let text = format!(r#"{{"Records":[{{"a":1}},{{"a":"{}"}},{{"b":2}}]}}"#, "]}\\\"".repeat(300));
    let place = too_long(1000, 1208, 20);
    let expected = [r#"{"a":1}"#, &place, r#"{"b":2}"#].map(|text| (text, None));
    check_by(|| of(&RecordFormat::CloudTrail), &text, &expected);
}

#[test]
fn content_that_cannot_be_read_is_named() {
    for (bytes, name) in [
        (&b"PAR1\x15\x04\x15\x10"[..], "a Parquet file"),
        (b"ORC\x0a\x1c\x0a", "an ORC file"),
        (b"Obj\x01\x04\x16avro.schema", "an Avro file"),
        (b"PK\x03\x04\x14\0\0\0", "a zip archive"),
        (b"BZh91AY&SY\x9b", "bzip2 data"),
        (b"\xfd7zXZ\0\0\x04", "xz data"),
        (b"\x1f\x8b\x08\0\0", "gzip data inside of compressed data"),
        (b"\xff\xfe{\0", "UTF-16 text"),
    ] {
        check_error(bytes, 0, name);
        for format in [RecordFormat::Json, RecordFormat::CloudTrail] {
            let (_, error) = read_by(of(&format), bytes, 3);
            assert!(
                matches!(error, Some(RecordError { problem: RecordProblem::Unsupported(_), .. })),
                "{error:?}"
            );
        }
    }
    for text in ["ORC started", "BZhou"] {
        check(text, &[(text, Some(OBJECT))]);
    }
}

#[test]
fn a_configured_format_takes_the_place_of_recognition() {
    let trail = r#"{"Records":[{"message":"m","time":"2026-11-21T08:00:01Z"}]}"#;
    check_by(|| of(&RecordFormat::EventBridge), trail, &[(trail, None)]);
    let record = r#"{"message":"m","time":"2026-11-21T08:00:01Z"}"#;
    check_by(|| of(&RecordFormat::CloudTrail), trail, &[(record, None)]);
}

#[test]
fn text_is_read_line_by_line() {
    let at = Some(OBJECT);
    check("one line", &[("one line", at)]);
    check("a\n\nb \"c\" \\\r\n \u{e9}\tx", &[("a", at), ("", at), ("b \"c\" \\", at), (" \u{e9}\tx", at)]);
    check("\u{feff}a\nb\n", &[("a", at), ("b", at)]);
    check("2026-11-21 INFO {\"a\":1}\nx {", &[("2026-11-21 INFO {\"a\":1}", at), ("x {", at)]);
}

#[test]
fn lines_of_text_are_mended() {
    let one = |text: &[u8]| match of(&RecordFormat::Lines(None)).next(text, More::Ended) {
        Ok(Step::Record { record, .. }) => {
            assert_eq!(record.message.len(), record.message.unescape().len());
            assert!(record.message.escaped().len() <= 3 * text.len(), "the memory formula's limit");
            (record.message.unescape(), record.mended)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(one(b"caf\xe9 \xff"), ("caf\u{fffd} \u{fffd}".to_owned(), true));
    assert_eq!(
        one(b"\x1b[31mred\x1b[0m \x08\x0c\x01"),
        ("\u{1b}[31mred\u{1b}[0m \u{8}\u{c}\u{1}".to_owned(), false)
    );
    // Escaped, a control character takes five bytes more, or one byte more if JSON has a short form. If a line would take more
    // than three times its length, its control characters are replaced.
    for (line, fits) in [
        ("\u{1}\u{2}", false),
        ("\u{1}\u{2}xx", false),
        ("\u{1}\u{2}xxx", true),
        ("\u{1}\u{2}\"\"\\\\", false),
        ("\u{1}\u{8}\t\u{c}\rx", true),
    ] {
        let replaced = line.replace(['\u{1}', '\u{2}'], "\u{fffd}");
        assert_eq!(one(line.as_bytes()), if fits { (line.to_owned(), false) } else { (replaced, true) });
    }
}

#[test]
fn lines_that_look_like_records_are_not_read_as_text() {
    for text in
        ["oops\n{\"message\":\"a\"}\n", "oops\n [ {\"message\":\"a\"}]\n", "\"a\":1}]", "},{\"message\":1}]"]
    {
        check_error(text.as_bytes(), 0, "a JSON object or array expected");
    }
    check_error(b"[2026-11-21 08:00:00] text\n", 0, "a JSON object or the end of the array expected");
    for binary in [&b"\x7fELF\x02\x01"[..], b"text\0text", b"\xcf\xf0\xe8\xe2\xe5\xf2"] {
        check_error(binary, 0, "binary data");
    }
    let read = |text: &[u8]| read_by(of(&RecordFormat::Lines(None)), text, 3);
    assert_eq!(read(b"{\"message\":\n[x]").0.len(), 2);
    assert_eq!(read(b"\xcf\xf0\n").1, None);
    for binary in [&b"a\0"[..], b"{\"a\":1}\0"] {
        assert!(read(binary).1.expect("an error").to_string().contains("binary data"));
    }
}

#[test]
fn the_lines_of_flow_logs_have_the_time_of_their_end() {
    let head = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status";
    let [a, b] = ["1795248001", "-"].map(|end| {
        format!("2 111111111111 eni-1 192.0.2.1 192.0.2.2 49152 443 6 10 840 1795247941 {end} ACCEPT OK")
    });
    let expected = [("<skipped>", None), (a.as_str(), AT.1), (b.as_str(), None)];
    check(&format!("{head}\n{a}\n{b}\n"), &expected);
    check(&format!("{head}\r\n{a}\r\n{b}"), &expected);
    check(&format!("{head}\n"), &expected[..1]);
    // A configured format needs no known names.
    let expected = [("", None), ("<skipped>", None), ("1795248001 x", AT.1)];
    check_by(|| of(&RecordFormat::FlowLogs), "\nend new-field\n1795248001 x\n", &expected);
}

/// A rule may name the wrong format, and a flow log may have lost its head.
#[test]
fn the_first_line_is_a_record_unless_it_has_names_of_fields() {
    let flow = "2 111111111111 eni-1 192.0.2.1 192.0.2.2 49152 443 6 10 840 1795247941 1795248001 ACCEPT OK";
    for lines in
        [[flow, flow], [r#"{"message":"end"}"#, "b"], ["Hello end", "end"], ["eni-1 vpc-1", "end start"]]
    {
        let expected = lines.map(|line| (line, Some(OBJECT)));
        check_by(|| of(&RecordFormat::FlowLogs), &lines.join("\n"), &expected);
    }
}

/// Without the list there is no record, so a wrong format of a rule would lose the whole object.
#[test]
fn a_document_without_its_list_is_an_error() {
    let check = |format: &RecordFormat, text: &str, records: usize, list: &str| {
        for chunk in [1, 5, 1000] {
            let (found, error) = read_by(of(format), text.as_bytes(), chunk);
            let error = error.unwrap_or_else(|| panic!("{text} is read"));
            assert!(matches!(error.problem, RecordProblem::Unsupported(_)), "{text}: {error}");
            assert!(error.to_string().contains(&format!("without the array {list:?}")), "{text}: {error}");
            assert_eq!((found.len(), error.index), (records, records as u64), "{text}");
        }
    };
    let lists = [
        (RecordFormat::CloudTrail, "Records", "logEvents"),
        (RecordFormat::Subscription, "logEvents", "Records"),
    ];
    for (format, list, other) in lists {
        for text in ["{}", r#"{"message":"m"}"#, "{\"message\":\"m\"}\n{\"message\":\"n\"}\n"] {
            check(&format, text, 0, list);
        }
        for value in ["null", "\"x\"", "{}", "7"] {
            check(&format, &format!("{{\"{list}\":{value}}}"), 0, list);
        }
        check(&format, &format!("{{\"{}\":[{{}}]}}", list.to_uppercase()), 0, list);
        check(&format, &format!("{{\"{other}\":[{{\"message\":\"m\"}}]}}"), 0, list);
        // Documents before it are read.
        let good = format!("{{\"{list}\":[{{\"message\":\"m\"}}]}}");
        check(&format, &format!("{good}{{\"a\":1}}{good}"), 1, list);
        check(&RecordFormat::Auto, &format!("{good}\n{{}}\n"), 1, list);
    }
}

#[test]
fn directives_at_the_beginning_are_no_lines() {
    let line = "2026-11-21\t08:00:01\tFRA2\t1045619\t192.0.2.10\tGET";
    let at = Some(OBJECT);
    let expected = [("<skipped>", None), ("<skipped>", None), (line, at), ("# text", at)];
    check(&format!("#Version: 1.0\n#Fields: date time x-edge-location\n{line}\n# text\n"), &expected);
    check(&format!("# text\n#Fields: a\n{line}\n"), &[("# text", at), ("#Fields: a", at), (line, at)]);
}

#[test]
fn the_time_of_a_line_is_found_by_its_format() {
    let format = RecordFormat::Lines(Some("%Y-%m-%dT%H:%M:%S".parse().expect("a format")));
    let text = "head\nERROR 2026-11-21T08:00:01 failed\n\tat Main\n2036-11-21T08:00:01 not credible\n2026-11-21T08:00:02 on\n";
    let lines: Vec<_> = text.lines().collect();
    let times = [None, AT.1, AT.1, AT.1, AT.1.map(|at| at + 1000)];
    check_by(|| of(&format), text, &std::array::from_fn::<_, 5, _>(|at| (lines[at], times[at])));
}

/// A reader that has recognised lines of text. Recognising them takes 256 KiB or the whole text, so no other reader gets a short
/// text in pieces.
fn of_lines(max_record: usize) -> RecordReader {
    let limits = Limits { max_record, now: NOW, object_time: Some(OBJECT) };
    let reader = Reader::Lines(LineReader::lines(limits, None));
    RecordReader { reader, limits, bad_lines: BadLines::Break }
}

#[test]
fn a_line_of_text_that_is_too_long_is_stepped_over() {
    const MAX: usize = 20;
    let line = |len: usize| "x".repeat(len);
    let longest = line(MAX);
    let place = |bytes, start| too_long(MAX, bytes, start);
    let check = |text: &str, expected: &[&str]| {
        for chunk in 1..=text.len() {
            for reader in
                [of_lines(MAX), RecordReader::new(MAX, NOW).of_format(&RecordFormat::Lines(None), OBJECT)]
            {
                let (records, error) = read_by(reader, text.as_bytes(), chunk);
                let records: Vec<_> = records.iter().map(|(message, _)| message.as_str()).collect();
                assert_eq!((&records[..], error), (expected, None), "{text} in pieces of {chunk}");
            }
        }
    };
    let (longer, much_longer) = (line(MAX + 1), line(5 * MAX));
    // The window holds no more than the longest line.
    for (text, expected) in [(&longest, 0), (&longer, MAX + 1)] {
        match of_lines(MAX).next(text.as_bytes(), More::Coming) {
            Ok(Step::More { consumed }) => assert_eq!(consumed, expected),
            other => panic!("{other:?}"),
        }
    }
    check(&format!("\u{feff}{longest}\n{longest}\na"), &[&longest, &longest, "a"]);
    check(&format!("\u{feff}{longer}\na\n{longer}\n"), &[&place(21, 3), "a", &place(21, 27)]);
    check(&format!("a\n{longest}\r\nb\n{much_longer}"), &["a", &place(21, 2), "b", &place(100, 26)]);
}

/// Any JSON object, with names that matter and others.
fn object() -> impl Strategy<Value = Value> {
    let name = prop_oneof![Just("eventTime".to_owned()), Just("message".to_owned()), "[a-zé\"\\\\]{0,6}"];
    let value = prop_oneof![
        Just(json!(AT.0)),
        Just(json!(1_795_248_001)),
        ".{0,20}".prop_map(Value::from),
        (0..1000).prop_map(Value::from),
        Just(json!({ "Records": [{ "logEvents": [] }] })),
        Just(Value::Null),
    ];
    proptest::collection::btree_map(name, value, 0..5).prop_map(|members| json!(members))
}

fn time(value: &Value) -> Option<i64> {
    let is_at = [json!(AT.0), json!(1_795_248_001)].contains(value);
    if is_at { AT.1 } else { None }
}

proptest! {
    #[test]
    fn documents_of_cloudtrail_are_read_in_any_chunks(
        documents in proptest::collection::vec((proptest::collection::vec(object(), 0..6), any::<bool>()), 1..4),
        space in "[ \n]{0,2}", chunk in 1_usize..300,
    ) {
        let (mut text, mut expected) = (String::new(), Vec::new());
        for (records, spread) in &documents {
            let document = json!({ "Records": records });
            text += &if *spread { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.expect("JSON");
            text += &space;
            // serde_json's own parser gives each record's text as it stands.
            expected.extend(records.iter().map(|record| (record.clone(), time(&record["eventTime"]))));
        }
        let (found, error) = recognised(text.as_bytes(), chunk);
        prop_assert!(error.is_none(), "{:?}", error);
        let as_values: Vec<(Value, Option<i64>)> = found.iter().map(|(event, at)| (serde_json::from_str(event).expect("JSON"), *at)).collect();
        prop_assert_eq!(as_values, expected);
        prop_assert!(found.iter().all(|(event, _)| text.contains(event.as_str())), "an event is a part of the text");
    }

    #[test]
    fn documents_of_subscriptions_are_read_in_any_chunks(
        documents in proptest::collection::vec((proptest::collection::vec(".{0,20}", 0..6), 0..4), 1..6),
        chunk in 1_usize..300,
    ) {
        let (mut text, mut expected) = (String::new(), Vec::new());
        for (messages, kind) in &documents {
            let events: Vec<_> = messages.iter().map(|message| json!({ "id": "", "message": message, "timestamp": 1_795_248_001_000_i64 })).collect();
            let kind = if *kind == 0 { "CONTROL_MESSAGE" } else { "DATA_MESSAGE" };
            // serde_json's map has its names in alphabetical order, and AWS's documents in this one.
            text += &format!(r#"{{"messageType":"{kind}","logGroup":"g","logStream":"s","logEvents":{}}}"#, json!(events));
            expected.extend(messages.iter().map(|message| match kind {
                "CONTROL_MESSAGE" => ("<skipped>".to_owned(), None),
                _ => (message.clone(), AT.1),
            }));
        }
        let (found, error) = recognised(text.as_bytes(), chunk);
        prop_assert!(error.is_none(), "{:?}", error);
        prop_assert_eq!(found, expected);
    }

    /// The lines are without control characters that JSON writes with six bytes: many of them in a line become U+FFFD.
    #[test]
    fn lines_are_read_in_any_chunks(
        lines in proptest::collection::vec("[a-zé\\\\\"#][^\n\u{0}-\u{8}\u{b}\u{e}-\u{1f}{\\[]{0,60}", 1..12),
        crlf in any::<bool>(), chunk in 1_usize..100, last in any::<bool>(),
    ) {
        prop_assume!(!lines[0].starts_with('"'));
        let end = if crlf { "\r\n" } else { "\n" };
        let mut text = lines.join(end);
        if last {
            text += end;
        }
        // The reference: the standard library's lines.
        let expected: Vec<_> = text.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
        for (found, error) in [recognised(text.as_bytes(), chunk), read_by(of_lines(1 << 20), text.as_bytes(), chunk)] {
            prop_assert!(error.is_none(), "{:?}", error);
            prop_assert_eq!(found.iter().map(|(line, _)| line.as_str()).collect::<Vec<_>>(), &expected[..]);
            prop_assert!(found.iter().all(|(_, at)| *at == Some(OBJECT)));
        }
    }
}
