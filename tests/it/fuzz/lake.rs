//! The lake: columns and lines of any records are legal, and do not depend on the records before.

use std::io::Read;

use flate2::read::GzDecoder;
use jiff::Timestamp;
use logferry::{
    lake::{ndjson::NdjsonWriter, record::Columns},
    records::{More, RecordReader, Step},
    route::Route,
    tenant::Fields,
};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Checks the records of a text.
pub(super) fn check(mut reader: RecordReader, now: Timestamp, text: &[u8]) {
    let route = Route { tenant: "a".to_owned(), ..Route::default() };
    let modified = now.as_millisecond();
    let mut columns = Columns::new(&route, modified);
    let message = Fields::Named(vec!["message".to_owned()]);
    let mut files = [NdjsonWriter::new(&Fields::All), NdjsonWriter::new(&message)];
    let (mut window, mut alone, mut count) = (text, [Vec::new(), Vec::new()], 0);
    while let Ok(step) = reader.next(window, More::Ended) {
        if let Step::Record { record, .. } = &step {
            count += 1;
            let found = columns.of(record);
            assert_eq!(
                found,
                Columns::new(&route, modified).of(record),
                "no record depends on the one before"
            );
            if let Some(rest) = found.rest {
                let _: Object = serde_json::from_str(rest).unwrap_or_else(|error| deep(&error));
            }
            let timestamp = found.timestamp;
            for (number, fields) in [Fields::All, message.clone()].into_iter().enumerate() {
                files[number].push(record, timestamp);
                let mut file = NdjsonWriter::new(&fields);
                file.push(record, timestamp);
                alone[number].extend(unzip(&file.finish()));
            }
        }
        if matches!(step, Step::End | Step::More { .. }) {
            break;
        }
        window = &window[step.consumed()..];
    }
    for (file, alone) in files.into_iter().zip(alone) {
        let lines = unzip(&file.finish());
        assert_eq!(lines.escape_ascii().to_string(), alone.escape_ascii().to_string());
        let lines = std::str::from_utf8(&lines).expect("lines are UTF-8");
        assert_eq!(lines.lines().count(), count);
        for line in lines.lines() {
            let _: Object = serde_json::from_str(line).unwrap_or_else(|error| deep(&error));
        }
    }
}

/// serde_json refuses deep nesting and numbers beyond binary floating point, which are legal.
fn deep(error: &serde_json::Error) -> Object {
    let text = error.to_string();
    assert!(text.contains("recursion limit") || text.contains("number out of range"), "{text}");
    Object::new()
}

fn unzip(file: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    GzDecoder::new(file).read_to_end(&mut text).expect("the file is gzip");
    text
}
