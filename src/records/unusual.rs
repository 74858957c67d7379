//! Reads the records that cannot be handed out as they are: with a repeated or escaped name, with a message that is missing
//! or not a plain string, or with text that JSON or UTF-8 does not allow. The scan has already checked their structure; this
//! module mends their text.
//!
//! Such a record may have `source.max_record` bytes. The message that is built here may have three times as many, which the
//! memory formula includes: a byte that is not UTF-8 becomes the three bytes of U+FFFD.

use std::borrow::Cow;

use super::{
    EscapedMessage,
    scan::each_member,
    strings::{escape, hex, plain},
};

/// Fields that Vector's `kubernetes_logs` source adds to every record. They are left out if a whole record becomes the
/// message.
const VECTOR_METADATA: [&[u8]; 6] =
    [b"file", b"kubernetes", b"source_type", b"stream", b"timestamp", b"timestamp_end"];
/// Replaces text that is not Unicode.
const REPLACEMENT: &str = "\u{fffd}";

pub(super) struct Unusual<'a> {
    pub(super) message: EscapedMessage<'static>,
    /// The timestamp's value, as it is in the record.
    pub(super) timestamp: Option<&'a [u8]>,
    /// Whether the message differs from the record's text.
    pub(super) mended: bool,
}

/// Reads a record that was scanned to its end. If a name is repeated, its last value counts, as in most JSON parsers.
pub(super) fn read(text: &[u8]) -> Unusual<'_> {
    let (mut message, mut timestamp) = (None, None);
    let scanned = each_member(text, |name, value| match plain(name).as_ref() {
        b"message" => message = Some(value),
        b"timestamp" => timestamp = Some(value),
        _ => {}
    });
    debug_assert_eq!(scanned, Ok(text.len()), "the record was scanned before");
    // The operating system provides memory only when it is written to, so a large capacity costs nothing.
    let mut escaper = Escaper::with_capacity(3 * message.unwrap_or(text).len());
    match message {
        Some([b'"', inside @ .., b'"']) => escaper.string(inside),
        Some(value) => escaper.text(value),
        None => whole(text, &mut escaper),
    }
    Unusual { message: escaper.message, timestamp, mended: escaper.mended }
}

/// Mends the inside of a JSON string, and appends it to `to`.
pub(super) fn string(inside: &[u8], to: &mut Vec<u8>) {
    let escaped = Cow::Owned(std::mem::take(to));
    let mut escaper = Escaper { message: EscapedMessage { escaped, len: 0 }, mended: false };
    escaper.string(inside);
    *to = escaper.message.escaped.into_owned();
}

/// Makes JSON the message as it stands. Returns also whether the message differs from the text.
pub(super) fn json(text: &[u8]) -> (EscapedMessage<'static>, bool) {
    let mut escaper = Escaper::with_capacity(3 * text.len());
    escaper.text(text);
    (escaper.message, escaper.mended)
}

/// Makes a line of text the message. Returns also whether the message differs from the text.
///
/// An escaped control character takes six bytes in the request. If a line would take more than three times its length, which is
/// what the memory formula counts, its control characters become U+FFFD.
pub(super) fn line(text: &[u8]) -> (EscapedMessage<'_>, bool) {
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    if std::str::from_utf8(text).is_ok() && !text.iter().any(is_special) {
        return (EscapedMessage { escaped: Cow::Borrowed(text), len: text.len() }, false);
    }
    let added = |byte: &u8| match byte {
        b'"' | b'\\' | 8..=10 | 12..=13 => 1,
        0..0x20 => 5,
        _ => 0,
    };
    let fits = text.iter().map(added).sum::<usize>() <= 2 * text.len();
    let mut escaper = Escaper::with_capacity(3 * text.len());
    escaper.text_by(text, if fits { Escaper::escaped_control } else { Escaper::control });
    (escaper.message, escaper.mended)
}

/// Makes the whole record the message, without Vector's metadata. Does not collect the members: a record may have millions.
fn whole(text: &[u8], escaper: &mut Escaper) {
    let mut before: &[u8] = b"{\"";
    let scanned = each_member(text, |name, value| {
        if !VECTOR_METADATA.contains(&plain(name).as_ref()) {
            for part in [before, name, b"\":", value] {
                escaper.text(part);
            }
            before = b",\"";
        }
    });
    debug_assert_eq!(scanned, Ok(text.len()), "the record was scanned before");
    escaper.text(if escaper.message.is_empty() { b"{}" } else { b"}" });
}

/// Builds a message piece by piece, without a second copy of a long text.
struct Escaper {
    message: EscapedMessage<'static>,
    mended: bool,
}

impl Escaper {
    fn with_capacity(bytes: usize) -> Self {
        let escaped = Cow::Owned(Vec::with_capacity(bytes));
        Self { message: EscapedMessage { escaped, len: 0 }, mended: false }
    }

    /// Appends the inside of a JSON string and mends it: text that is not Unicode and control characters other than white
    /// space become U+FFFD, and a backslash that begins no legal escape becomes a plain backslash.
    fn string(&mut self, inside: &[u8]) {
        for chunk in inside.utf8_chunks() {
            let mut rest = chunk.valid().as_bytes();
            while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | 0..0x20)) {
                self.push(&rest[..at], at);
                rest = &rest[at..];
                let used = match rest[0] {
                    b'\\' => self.escape(rest),
                    control => {
                        self.control(control);
                        self.mended = true;
                        1
                    }
                };
                rest = &rest[used..];
            }
            self.push(rest, rest.len());
            if !chunk.invalid().is_empty() {
                self.replace();
            }
        }
    }

    /// Appends the escape at the start of `text`, and returns how many bytes it has.
    fn escape(&mut self, text: &[u8]) -> usize {
        if let Some((escaped, plain)) = escape(text) {
            self.push(&text[..escaped], plain);
            return escaped;
        }
        let unit = text.strip_prefix(b"\\u").and_then(|digits| hex(digits.get(..4)?));
        if unit.is_some() {
            // `escape` refuses a `\u` with four digits only if it is half of a surrogate pair.
            self.replace();
            return 6;
        }
        self.push(b"\\\\", 1);
        self.mended = true;
        1
    }

    /// Appends JSON as plain text.
    fn text(&mut self, json: &[u8]) {
        self.text_by(json, Self::control);
    }

    /// Appends plain text, and its control characters by `control`.
    fn text_by(&mut self, text: &[u8], control: fn(&mut Self, u8)) {
        for chunk in text.utf8_chunks() {
            let mut rest = chunk.valid().as_bytes();
            while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
                self.push(&rest[..at], at);
                match rest[at] {
                    byte @ (b'"' | b'\\') => self.push(&[b'\\', byte], 1),
                    byte => control(self, byte),
                }
                rest = &rest[at + 1..];
            }
            self.push(rest, rest.len());
            if !chunk.invalid().is_empty() {
                self.replace();
            }
        }
    }

    fn control(&mut self, byte: u8) {
        match byte {
            b'\n' => self.push(b"\\n", 1),
            b'\r' => self.push(b"\\r", 1),
            b'\t' => self.push(b"\\t", 1),
            // Escaped, the character would take six bytes: more than the three that the memory formula counts for a byte.
            _ => self.replace(),
        }
    }

    fn escaped_control(&mut self, byte: u8) {
        match byte {
            8 => self.push(b"\\b", 1),
            12 => self.push(b"\\f", 1),
            b'\n' | b'\r' | b'\t' => self.control(byte),
            _ => self.push(format!("\\u{byte:04x}").as_bytes(), 1),
        }
    }

    fn replace(&mut self) {
        self.push(REPLACEMENT.as_bytes(), REPLACEMENT.len());
        self.mended = true;
    }

    /// Appends `escaped`, which stands for `len` bytes of plain text.
    fn push(&mut self, escaped: &[u8], len: usize) {
        self.message.escaped.to_mut().extend_from_slice(escaped);
        self.message.len += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory formula counts three times the record's bytes. Text that is not UTF-8 takes them.
    #[test]
    fn a_mended_message_takes_three_times_the_memory_of_its_text() {
        let text = [0xff; 1000];
        let string = [b"\"", &text[..], b"\""].concat();
        let record = [b"{\"message\":", &string[..], b"}"].concat();
        for (message, bytes) in
            [(json(&text).0, 1000), (line(&text).0, 1000), (read(&record).message, string.len())]
        {
            let Cow::Owned(escaped) = message.escaped else { panic!("it was mended") };
            assert_eq!((escaped.len(), escaped.capacity()), (3000, 3 * bytes));
        }
    }
}
