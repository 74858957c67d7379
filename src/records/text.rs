//! A record's own JSON, for deliveries that need more of a record than its message and its time.

use super::Legal;

/// A record's own JSON, as it is in the object. Its structure is checked. Outside of the message, its strings may have text that
/// JSON or UTF-8 does not allow; [`Text::legal`] mends them.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    json: &'a [u8],
    shape: Shape<'a>,
}

/// What is known about a record's members.
#[derive(Clone, Copy, Debug)]
enum Shape<'a> {
    /// The message is a legal string, and the names `message` and `timestamp` come at most once and are not escaped. With the
    /// JSON text of both values.
    Plain { message: &'a [u8], timestamp: Option<&'a [u8]> },
    /// Anything else.
    Unusual,
    /// The whole record is its message.
    Whole,
}

/// The text of a record without the values of `message` and `timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pieces<'a> {
    /// Before the first of both values, between them, and after the second. The last is empty if the record has no `timestamp`.
    pub around: [&'a [u8]; 3],
    /// The JSON text of the message: a legal string with its quotes.
    pub message: &'a [u8],
    /// The JSON text of the timestamp.
    pub timestamp: Option<&'a [u8]>,
    /// Whether the timestamp comes before the message.
    pub timestamp_first: bool,
}

impl<'a> Text<'a> {
    pub(super) fn around(json: &'a [u8], message: Option<&'a [u8]>, timestamp: Option<&'a [u8]>) -> Self {
        let shape = match message {
            Some(message) => Shape::Plain { message, timestamp },
            None => Shape::Unusual,
        };
        Self { json, shape }
    }

    pub(super) fn of(json: &'a [u8]) -> Self {
        Self { json, shape: Shape::Unusual }
    }

    pub(super) fn whole(json: &'a [u8]) -> Self {
        Self { json, shape: Shape::Whole }
    }

    /// The bytes from the opening to the closing brace.
    pub fn bytes(&self) -> &'a [u8] {
        self.json
    }

    /// Whether the whole record is its message, as for events of CloudTrail.
    pub fn is_message(&self) -> bool {
        matches!(self.shape, Shape::Whole)
    }

    /// The record as legal JSON. Borrowed if nothing has to be mended.
    pub fn legal(&self) -> Legal<'a> {
        Legal::of(self.json)
    }

    /// The record's pieces. `None` if the message is not a legal string, or a name of both members is repeated or escaped.
    ///
    /// If two records have the same pieces around their values, all their other members are the same.
    pub fn pieces(&self) -> Option<Pieces<'a>> {
        let Shape::Plain { message, timestamp } = self.shape else { return None };
        let (message_start, message_end) = self.place(message)?;
        let (json, timestamp_first) = (self.json, false);
        let Some(value) = timestamp else {
            let around = [&json[..message_start], &json[message_end..], &[]];
            return Some(Pieces { around, message, timestamp, timestamp_first });
        };
        let (start, end) = self.place(value)?;
        let timestamp_first = start < message_start;
        let around = match timestamp_first {
            true => [&json[..start], &json[end..message_start], &json[message_end..]],
            false => [&json[..message_start], &json[message_end..start], &json[end..]],
        };
        Some(Pieces { around, message, timestamp, timestamp_first })
    }

    /// Where a value is.
    fn place(&self, value: &[u8]) -> Option<(usize, usize)> {
        let start = self.json.element_offset(value.first()?)?;
        Some((start, start + value.len()))
    }
}

#[cfg(test)]
mod tests;
