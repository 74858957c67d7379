//! Formats: the result does not depend on the chunks, a recognised format gives what the same format gives when it is configured,
//! and lines are those of a plain reader.

use jiff::Timestamp;
use logferry::records::{More, RecordFormat, RecordReader};

use super::records::{NO_RECORD, NOW, Read, read_by};

/// The time of the object.
const OBJECT: i64 = 1_795_255_555_000;
/// Longest record in most cases: longer than any text of this test.
const UNLIMITED: usize = 1 << 20;

/// The first byte chooses the chunks, the second the format and the longest record. The rest is the text.
pub(crate) fn check(data: &[u8]) {
    let [chunks, choice, text @ ..] = data else { return };
    let formats = [
        RecordFormat::Auto,
        RecordFormat::Json,
        RecordFormat::CloudTrail,
        RecordFormat::Subscription,
        RecordFormat::EventBridge,
        RecordFormat::FlowLogs,
        RecordFormat::Lines(None),
        RecordFormat::Lines(Some("%Y-%m-%dT%H:%M:%S".parse().expect("a format"))),
    ];
    let max_record = [UNLIMITED, UNLIMITED, 64, 20][usize::from(choice >> 3) % 4];
    let read = |format: &RecordFormat, chunk: usize, behind: More| {
        let reader = RecordReader::new(max_record, NOW).of_format(format, OBJECT);
        read_by(reader, text, std::iter::repeat(chunk), behind).0
    };
    let format = &formats[usize::from(choice % 8)];
    let whole = read(format, text.len().max(1), More::Ended);
    assert_eq!(read(format, 1 + usize::from(*chunks), More::Ended), whole);
    assert_eq!(read(format, 1 + text.len() / 512, More::Ended), whole);
    // An object that broke off gives the same records, but for a last line that may not be complete.
    let broken_off = read(format, text.len().max(1), More::Never);
    assert!(whole.records.starts_with(&broken_off.records), "{whole:?} {broken_off:?}");
    assert!(whole.records.len() - broken_off.records.len() <= 1, "{whole:?} {broken_off:?}");
    match format {
        RecordFormat::Auto => {
            is_one_of(&whole, formats[1..].iter().map(|format| read(format, text.len().max(1), More::Ended)))
        }
        RecordFormat::Lines(time) => as_plain_lines(text, max_record, time.is_some(), &whole),
        // The events of these are parts of the text.
        RecordFormat::CloudTrail | RecordFormat::EventBridge => {
            let text = String::from_utf8_lossy(text);
            for (event, _) in whole.records.iter().filter(|(event, _)| !event.starts_with(NO_RECORD)) {
                assert!(event.contains('\u{fffd}') || text.contains(event.as_str()), "{event}");
            }
        }
        RecordFormat::Json | RecordFormat::Subscription | RecordFormat::FlowLogs => {}
    }
}

/// A text that cannot be read is in no format's result.
fn is_one_of(recognised: &Read, mut configured: impl Iterator<Item = Read>) {
    let unsupported = recognised.error.as_ref().is_some_and(|error| error.contains("not supported"));
    assert!(unsupported || configured.any(|read| read == *recognised), "{recognised:?}");
}

fn as_plain_lines(text: &[u8], max_record: usize, has_times: bool, found: &Read) {
    if found.error.is_some() {
        assert_eq!(found.records, []);
        return;
    }
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let mut lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    assert_eq!(found.records.len(), lines.len());
    for (line, (read, time)) in lines.into_iter().zip(&found.records) {
        if line.len() > max_record {
            assert!(read.starts_with(NO_RECORD), "{read}");
        } else if !read.starts_with(NO_RECORD) && !read.contains('\u{fffd}') {
            assert_eq!(read.as_bytes(), line.strip_suffix(b"\r").unwrap_or(line));
        }
        let is_object = *time == Some(OBJECT);
        assert!(is_object != has_times || read.starts_with(NO_RECORD), "{read}: {time:?}");
        assert!(time.is_none_or(|time| Timestamp::from_millisecond(time).is_ok()));
    }
}
