//! Recognises objects that are one JSON document instead of a list of records. If such a document were read as a record, it
//! would become one event that is cut into pieces.

use super::{scan::each_member, unusual::plain};

/// Largest event in bytes. A longer JSON object without a message is a document and not a logger's record. Source: CloudWatch
/// Logs API reference, PutLogEvents.
pub(super) const LONGEST_EVENT: usize = 1 << 20;
/// Most bytes that the reader looks at after such a document. If they are all white space, the document counts as the whole
/// object.
pub(super) const SPACE_BEHIND: usize = 64 * 1024;

/// What the first JSON object of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// A record: it has a message, or a name that Vector adds.
    Record,
    /// A document of an unsupported format; the text describes it.
    Envelope(&'static str),
    /// Perhaps a record without a message.
    Unknown,
}

/// Looks at the names of a JSON object, whose end may be missing.
pub(super) fn recognise(text: &[u8]) -> Document {
    let mut found = Document::Unknown;
    // An error means that the text ends early. The names before that count.
    let _ = each_member(text, |name, value| match (plain(name).as_ref(), value) {
        // An application may log an envelope, and Vector's parser may merge its members into the record.
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
    fn the_names_of_a_json_object_tell_what_it_is() {
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
