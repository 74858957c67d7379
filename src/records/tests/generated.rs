//! Generated texts, in chunks of any size: the reader finds the same records as a plain whole-text reader.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The reference: serde_json's values of the whole text.
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
    fn any_chunking_gives_the_records_of_a_whole_text_reader(records in records(), chunk in 1_usize..200, framing in 0..4) {
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
    fn random_text_reads_the_same_in_any_chunks(
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

    /// Each record is built together with its expected message.
    #[test]
    fn a_defect_does_not_change_other_records(
        kinds in proptest::collection::vec((0_usize..6, 0..DEFECTS.len(), ".{0,12}"), 0..12),
        framing in 0..5, mark in any::<bool>(), chunk in 1_usize..300,
    ) {
        const MAX: usize = 400;
        let (mut parts, mut expected, mut long) = (Vec::new(), Vec::new(), Vec::new());
        for (kind, defect, text) in &kinds {
            let quoted = serde_json::to_string(text).expect("a string is always JSON");
            let (wrong, right) = DEFECTS[*defect];
            let deep = 50 + 3 * defect;
            let (part, message) = match kind {
                0 => (format!(r#"{{"message":{quoted}}}"#).into_bytes(), text.clone()),
                1 => ([b"{\"message\":\"-", wrong, b"-\"}"].concat(), format!("-{right}-")),
                2 => ([b"{\"a\":\"", wrong, b"\",\"message\":", quoted.as_bytes(), b"}"].concat(), text.clone()),
                3 => {
                    let nested = ["[".repeat(deep), "]".repeat(deep)].concat();
                    (format!(r#"{{"message":{quoted},"a":{nested}}}"#).into_bytes(), text.clone())
                }
                _ => {
                    long.push(expected.len());
                    (format!(r#"{{"a":{quoted},"message":"{}"}}"#, "}\\\"".repeat(140 + defect)).into_bytes(), String::new())
                }
            };
            parts.push(part);
            expected.push((message, None));
        }
        let join = |between: &[u8]| parts.join(between);
        let body = match framing {
            0 => [b"[", &join(b",")[..], b"]"].concat(),
            1 => [b"[\n", &join(b",\n ")[..], b"\n]\n"].concat(),
            2 => [&join(b"\n")[..], b"\n"].concat(),
            3 => join(b""),
            _ => parts.iter().map(|part| [b"[", &part[..], b"]\n"].concat()).collect::<Vec<_>>().concat(),
        };
        let text = [if mark { BYTE_ORDER_MARK } else { b"" }, &body].concat();
        // The reader takes a line break inside a string for the end of a record that was cut.
        prop_assume!(long.is_empty() || !kinds.iter().any(|(kind, defect, _)| *kind < 4 && DEFECTS[*defect].0.contains(&b'\n')));
        for stepping in [false, true] {
            let reader = RecordReader::new(MAX, NOW);
            let reader = if stepping { reader.stepping_over_bad_lines() } else { reader };
            let (mut found, error) = read_by(reader, &text, chunk);
            prop_assert!(error.is_none(), "{:?}", error);
            for at in &long {
                let place = std::mem::take(&mut found[*at].0);
                prop_assert!(place.starts_with("<the record is longer than source.max_record (400 bytes)"), "{}", place);
                // The text at that place is the record.
                let numbers: Vec<usize> = place.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
                let [_, bytes, start] = numbers[..] else { panic!("{place}") };
                prop_assert_eq!(&text[start..start + bytes], &parts[*at][..]);
            }
            prop_assert_eq!(&found, &expected);
        }
    }

    #[test]
    fn every_record_between_bad_lines_is_read(
        records in records(),
        bad in proptest::collection::vec((0_usize..9, "[^\\[{\\s\"\u{feff}][^\n\r\"]{0,30}"), 0..5),
        chunk in 1_usize..200,
    ) {
        prop_assume!(!records.is_empty());
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
