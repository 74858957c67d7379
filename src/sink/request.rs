//! The body of PutLogEvents, read back by sinks that do not put.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// One request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    /// The group, as a JSON string.
    #[serde(borrow)]
    pub log_group_name: &'a RawValue,
    /// The stream, as a JSON string.
    #[serde(borrow)]
    pub log_stream_name: &'a RawValue,
    /// The events, in chronological order.
    #[serde(borrow)]
    pub log_events: Vec<RequestEvent<'a>>,
}

/// One event of a request.
#[derive(Debug, Deserialize)]
pub struct RequestEvent<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// The message, as a JSON string.
    #[serde(borrow)]
    pub message: &'a RawValue,
}

impl<'a> Request<'a> {
    /// Reads the body of a batch that [`crate::batch`] has built.
    pub fn read(body: &'a [u8]) -> Self {
        serde_json::from_slice(body).expect("a batch's body is JSON of its own")
    }
}

/// The text of a JSON string of a request.
pub fn text(json: &RawValue) -> Cow<'_, str> {
    // Without an escape, the text is the string's inside.
    match json.get().trim_matches('"') {
        inside if !inside.contains('\\') => Cow::Borrowed(inside),
        _ => Cow::Owned(serde_json::from_str(json.get()).expect("a batch's strings are JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_with_and_without_escapes() {
        let check = |json: &str, expected: &str| {
            let raw: &RawValue = serde_json::from_str(json).expect("JSON");
            assert_eq!(text(raw), expected, "{json}");
        };
        check(r#""plain ü""#, "plain ü");
        check(r#""""#, "");
        check(r#""a\"""#, "a\"");
        check(r#""\"a\" \u00e9\\""#, "\"a\" é\\");
    }
}
