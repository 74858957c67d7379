//! Documents: JSON objects that contain a list of records, and what tells them from records.

use std::sync::Arc;

use super::{
    scan::{ScanError, each_member},
    strings::plain,
};

/// The list of a CloudTrail document. Source: CloudTrail User Guide, "CloudTrail log file examples".
pub(super) const TRAIL_LIST: &[u8] = b"Records";
/// The list of a subscription's document. Source: CloudWatch Logs User Guide, "Real-time processing of log data with
/// subscriptions".
pub(super) const SUBSCRIPTION_LIST: &[u8] = b"logEvents";
/// The message type of documents that only check whether the destination can be reached. Same source.
const CONTROL: &[u8] = b"\"CONTROL_MESSAGE\"";
/// Longest JSON text of a log stream's name that is used. A stream's name has at most 512 characters, and an escaped character
/// at most twelve bytes.
const LONGEST_STREAM: usize = 8 * 1024;
/// Largest event in bytes. A longer JSON object without a message is a document and not a logger's record. Source: CloudWatch
/// Logs API reference, PutLogEvents.
pub(super) const LONGEST_EVENT: usize = 1 << 20;
/// Most bytes that the reader looks at after such a document. If they are all white space, the document counts as the whole
/// object.
pub(super) const SPACE_BEHIND: usize = 64 * 1024;

/// What the members of the current document say about its records.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Whether the document has the list of records.
    pub(super) has_list: bool,
    /// Whether the records only check the connection.
    pub(super) is_control: bool,
    /// The log stream that the records come from.
    pub(super) log_stream: Option<Arc<str>>,
}

impl Document {
    /// Takes a member: the JSON text of its name, without quotes, and of its value.
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) {
        match plain(name).as_ref() {
            b"messageType" => self.is_control = value == CONTROL,
            b"logStream" if value.len() <= LONGEST_STREAM => {
                let stream: Option<String> = serde_json::from_slice(value).ok();
                self.log_stream = stream.map(Arc::from);
            }
            _ => {}
        }
    }
}

/// What the first JSON object of a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A record: it has a message, or a name that Vector adds.
    Record,
    /// A document of CloudTrail.
    Trail,
    /// A document of a CloudWatch Logs subscription.
    Subscription,
    /// An event of EventBridge.
    Event,
    /// Perhaps a record without a message.
    Unknown,
}

/// Looks at the names of a JSON object, whose end may be missing.
pub(super) fn recognise(text: &[u8]) -> Kind {
    recognise_beginning(text).unwrap_or_else(|beginning| beginning)
}

/// Does the same. Returns the result as an error if the text after these bytes can change it.
pub(super) fn recognise_beginning(text: &[u8]) -> Result<Kind, Kind> {
    let (mut found, mut of_event) = (Kind::Unknown, [false; EVENT.len()]);
    // The names before broken text count.
    let end = each_member(text, |name, value| {
        let name = plain(name);
        match (name.as_ref(), value) {
            // An application may log a document, and Vector's parser may merge its members into the record.
            (b"message" | b"kubernetes" | b"source_type", _) => found = Kind::Record,
            (TRAIL_LIST, [b'[', ..]) if found == Kind::Unknown => found = Kind::Trail,
            (SUBSCRIPTION_LIST, [b'[', ..]) if found == Kind::Unknown => found = Kind::Subscription,
            _ => {}
        }
        if let Some(at) = EVENT.iter().position(|wanted| *wanted == name.as_ref()) {
            of_event[at] = true;
        }
    });
    if found == Kind::Unknown && of_event.iter().all(|found| *found) {
        found = Kind::Event;
    }
    if end == Err(ScanError::Incomplete) && found != Kind::Record { Err(found) } else { Ok(found) }
}

/// The names that every event of EventBridge has, of those that few other JSON objects have together. Source: EventBridge User
/// Guide, "AWS service event metadata".
const EVENT: [&[u8]; 5] = [b"detail", b"detail-type", b"id", b"source", b"time"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_s_name_has_up_to_8_kib() {
        for (len, is_taken) in [(0, true), ((8 << 10) - 2, true), ((8 << 10) - 1, false)] {
            let (mut document, name) = (Document::default(), "s".repeat(len));
            document.take(b"logStream", format!("\"{name}\"").as_bytes());
            assert_eq!(document.log_stream.as_deref(), is_taken.then_some(&*name));
        }
    }

    #[test]
    fn the_names_of_a_json_object_tell_what_it_is() {
        let check = |text: &str, expected| assert_eq!(recognise(text.as_bytes()), expected, "{text}");
        check(r#"{"Records":[{"eventName":"E"}]}"#, Kind::Trail);
        check(r#"{ "Records" : [] }"#, Kind::Trail);
        check(r#"{"R\u0065cords":[{"eventName""#, Kind::Trail);
        check(r#"{"Records":[{"eventName":"E"},nonsense"#, Kind::Trail);
        check(r#"{"owner":"1","logGroup":"g","logEvents":[{"message":"m"}]}"#, Kind::Subscription);
        check(r#"{"owner":"1","logEvents":["#, Kind::Subscription);
        check(r#"{"Records":[],"message":"m"}"#, Kind::Record);
        check(r#"{"message":"m","logEvents":[]}"#, Kind::Record);
        check(r#"{"message":"m","Records":[]}"#, Kind::Record);
        check(r#"{"logEvents":[],"Records":[]}"#, Kind::Subscription);
        check(r#"{"message":"m"#, Kind::Record);
        check(r#"{"Records":[{}],"kubernetes":{"pod_name":"p"}}"#, Kind::Record);
        check(r#"{"logEvents":[],"source_type":"kubernetes_logs"}"#, Kind::Record);
        check(r#"{"Records":7,"a":{"logEvents":[],"message":"m"}}"#, Kind::Unknown);
        check("{}", Kind::Unknown);
        check("{", Kind::Unknown);
        let event =
            r#"{"version":"0","id":"1","detail-type":"d","source":"aws.config","time":"t","detail":{}"#;
        check(&format!("{event}}}"), Kind::Event);
        check(event, Kind::Event);
        check(&format!(r#"{event},"message":"m"}}"#), Kind::Record);
        check(r#"{"time":"2026-11-27T04:27:52Z","level":"info"}"#, Kind::Unknown);
        check(r#"{"id":1,"detail":{"detail-type":1,"source":1},"time":1}"#, Kind::Unknown);
    }

    #[test]
    fn a_document_s_members_are_kept_if_they_matter() {
        let document = |members: &[(&str, &str)]| {
            let mut document = Document::default();
            members.iter().for_each(|(name, value)| document.take(name.as_bytes(), value.as_bytes()));
            (document.is_control, document.log_stream.as_deref().map(str::to_owned))
        };
        let stream = r#""2026/11/27/[$LATEST]\u0061""#;
        let members = [("messageType", r#""DATA_MESSAGE""#), ("logStream", stream), ("owner", "1")];
        assert_eq!(document(&members), (false, Some("2026/11/27/[$LATEST]a".to_owned())));
        assert_eq!(document(&[("messageType", r#""CONTROL_MESSAGE""#), ("logStream", "5")]), (true, None));
    }
}
