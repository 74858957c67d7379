//! Objects that are one JSON document, and no list of records. Read as a record, such a document would be one event, cut into
//! pieces.

use super::{scan::each_member, unusual::plain};

/// A document longer than that is none of a logger's records: it is more than one event may have. Source: CloudWatch Logs API
/// reference, PutLogEvents.
pub(super) const LONGEST_EVENT: usize = 1 << 20;
/// How much white space is looked at behind such a document before it counts as the only one of its object.
pub(super) const SPACE_BEHIND: usize = 64 * 1024;

/// What the first object of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// It has a message, or what Vector adds to a record.
    Record,
    /// A format that is not supported: its name.
    Envelope(&'static str),
    /// It may be a record without a message.
    Unknown,
}

/// Looks at the names of an object, or of as much of it as there is.
pub(super) fn recognise(text: &[u8]) -> Document {
    let mut found = Document::Unknown;
    // Where the text breaks off, what was seen by then counts.
    let _ = each_member(text, |name, value| match (plain(name).as_ref(), value) {
        // An application may log an envelope, whose members Vector's parser makes the record's.
        (b"message" | b"kubernetes" | b"source_type", _) => found = Document::Record,
        (b"Records", [b'[', ..]) if found == Document::Unknown => {
            found = Document::Envelope("AWS events in \"Records\", as CloudTrail writes them");
        }
        (b"logEvents", [b'[', ..]) if found == Document::Unknown => {
            found = Document::Envelope("a CloudWatch Logs subscription's \"logEvents\"");
        }
        _ => {}
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell() {
        let check = |text: &str, expected| assert_eq!(recognise(text.as_bytes()), expected, "{text}");
        let (aws, logs) = (
            Document::Envelope("AWS events in \"Records\", as CloudTrail writes them"),
            Document::Envelope("a CloudWatch Logs subscription's \"logEvents\""),
        );
        check(r#"{"Records":[{"eventName":"E"}]}"#, aws);
        check(r#"{ "Records" : [] }"#, aws);
        check(r#"{"R\u0065cords":[{"eventName""#, aws);
        check(r#"{"owner":"1","logGroup":"g","logEvents":[{"message":"m"}]}"#, logs);
        check(r#"{"owner":"1","logEvents":["#, logs);
        check(r#"{"Records":[],"message":"m"}"#, Document::Record);
        check(r#"{"message":"m","logEvents":[]}"#, Document::Record);
        check(r#"{"message":"m"#, Document::Record);
        check(r#"{"Records":[{}],"kubernetes":{"pod_name":"p"}}"#, Document::Record);
        check(r#"{"logEvents":[],"source_type":"kubernetes_logs"}"#, Document::Record);
        check(r#"{"Records":7,"a":{"logEvents":[],"message":"m"}}"#, Document::Unknown);
        check("{}", Document::Unknown);
        check("{", Document::Unknown);
    }
}
