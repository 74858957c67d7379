use super::super::RecordReader;
use crate::records::RecordFormat;

use jiff::Timestamp;

/// Calls `check` with the only record of the text.
fn with_record(text: &str, format: &RecordFormat, check: impl Fn(&super::super::Record<'_>)) {
    let now = Timestamp::constant(1_795_262_400, 0);
    let mut reader = RecordReader::new(1 << 20, now).of_format(format, 0);
    reader.each_of(text.as_bytes(), check);
    assert_eq!(reader.count(), 1);
}

fn check(text: &str, expected: Option<([&str; 3], bool)>) {
    with_record(text, &RecordFormat::Json, |record| {
        let found = record.text.expect("JSON");
        assert_eq!(found.bytes(), text.as_bytes());
        assert!(!found.is_message());
        let pieces = found.pieces();
        let around =
            pieces.map(|pieces| pieces.around.map(|piece| std::str::from_utf8(piece).expect("UTF-8")));
        assert_eq!(around, expected.map(|(around, _)| around), "{text}");
        if let (Some(pieces), Some((_, timestamp_first))) = (pieces, expected) {
            assert_eq!(pieces.timestamp_first, timestamp_first);
            let values = [pieces.message, pieces.timestamp.unwrap_or_default()];
            let [first, second] = if timestamp_first { [values[1], values[0]] } else { values };
            let [a, b, c] = pieces.around;
            assert_eq!([a, first, b, second, c].concat(), text.as_bytes());
        }
    });
}

#[test]
fn a_record_is_cut_at_its_message_and_its_time() {
    check(
        r#"{"a":1,"message":"m","b":2,"timestamp":5,"c":3}"#,
        Some(([r#"{"a":1,"message":"#, r#","b":2,"timestamp":"#, r#","c":3}"#], false)),
    );
    check(
        r#"{"timestamp":"t" , "message": "m" }"#,
        Some(([r#"{"timestamp":"#, r#" , "message": "#, " }"], true)),
    );
    check(r#"{"message":"m"}"#, Some(([r#"{"message":"#, "}", ""], false)));
}

#[test]
fn unusual_records_have_no_pieces() {
    for text in [
        r#"{"message":"a","message":"b"}"#,
        r#"{"m\u0065ssage":"a"}"#,
        r#"{"message":5}"#,
        r#"{"message":"\q"}"#,
        r#"{"a":1}"#,
        r#"{"message":"a","timestamp":1,"timestamp":2}"#,
    ] {
        check(text, None);
    }
}

#[test]
fn a_record_inside_a_document_has_its_own_text() {
    let text = r#"{"messageType":"DATA_MESSAGE","logEvents":[{"id":"1","timestamp":5,"message":"m"}]}"#;
    with_record(text, &RecordFormat::Subscription, |record| {
        assert_eq!(record.text.expect("JSON").bytes(), br#"{"id":"1","timestamp":5,"message":"m"}"#);
    });
    let text = r#"{"Records":[{"eventTime":"t","message":"m"}]}"#;
    with_record(text, &RecordFormat::CloudTrail, |record| {
        let found = record.text.expect("JSON");
        assert_eq!(found.bytes(), br#"{"eventTime":"t","message":"m"}"#);
        assert!(found.is_message() && found.pieces().is_none());
    });
    with_record("a line\n", &RecordFormat::Lines(None), |record| assert!(record.text.is_none()));
}
