//! Records that cannot be handed out as they stand: names in doubt, a message that is no plain string, or none at all, and text
//! that is not what JSON allows. Their structure has been scanned; what is wrong with their text is mended here.
//!
//! Such a record may be as long as `source.max_record`, and what is made of it here is counted in the worker's memory: it is at
//! most three times as long again, because a byte that is no UTF-8 becomes the three bytes of U+FFFD.

use std::borrow::Cow;

use super::{
    Message,
    scan::each_member,
    strings::{escape, hex},
};

/// Fields that Vector's `kubernetes_logs` source adds to every record: not part of a record that goes out whole.
const VECTOR_METADATA: [&[u8]; 6] =
    [b"file", b"kubernetes", b"source_type", b"stream", b"timestamp", b"timestamp_end"];
/// Longest name that matters here.
const LONGEST_NAME: usize = b"timestamp_end".len();
/// What stands for text that is no Unicode.
const REPLACEMENT: &str = "\u{fffd}";

/// What such a record says.
pub(super) struct Unusual<'a> {
    pub(super) message: Message<'static>,
    /// The timestamp's value, as it stands.
    pub(super) timestamp: Option<&'a [u8]>,
    /// The message is not quite what was written.
    pub(super) mended: bool,
}

/// Reads a record that was scanned to its end. The last of several equal names counts, as it does for every JSON reader.
pub(super) fn read(text: &[u8]) -> Unusual<'_> {
    let (mut message, mut timestamp) = (None, None);
    let scanned = each_member(text, |name, value| match plain(name).as_ref() {
        b"message" => message = Some(value),
        b"timestamp" => timestamp = Some(value),
        _ => {}
    });
    debug_assert_eq!(scanned, Ok(()), "the record was scanned before");
    // Memory that is not written costs nothing.
    let mut escaper = Escaper::with_capacity(3 * message.unwrap_or(text).len());
    match message {
        Some([b'"', inside @ .., b'"']) => escaper.string(inside),
        Some(value) => escaper.text(value),
        None => whole(text, &mut escaper),
    }
    Unusual { message: escaper.message, timestamp, mended: escaper.mended }
}

/// The record itself, without Vector's metadata. No list of its members is made: millions fit into one record.
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
    debug_assert_eq!(scanned, Ok(()), "the record was scanned before");
    escaper.text(if escaper.message.is_empty() { b"{}" } else { b"}" });
}

/// A name without its escapes, if it can be one that matters here; others as they stand.
pub(super) fn plain(name: &[u8]) -> Cow<'_, [u8]> {
    // An escape takes six bytes at most.
    if name.len() > 6 * LONGEST_NAME || !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    let quoted = [b"\"", name, b"\""].concat();
    serde_json::from_slice(&quoted).map_or(Cow::Borrowed(name), |name: String| Cow::Owned(name.into_bytes()))
}

/// Writes a message as text comes, so that there is no second copy of a long one.
struct Escaper {
    message: Message<'static>,
    mended: bool,
}

impl Escaper {
    fn with_capacity(bytes: usize) -> Self {
        let escaped = Cow::Owned(Vec::with_capacity(bytes));
        Self { message: Message { escaped, len: 0 }, mended: false }
    }

    /// Takes the inside of a JSON string, escapes and all, with whatever is wrong with it. What is no Unicode becomes U+FFFD, and so
    /// do control characters that are not white space; a backslash that begins no escape stands for itself.
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

    /// Takes what begins with a backslash; tells how many bytes of it were used.
    fn escape(&mut self, text: &[u8]) -> usize {
        if let Some((escaped, plain)) = escape(text) {
            self.push(&text[..escaped], plain);
            return escaped;
        }
        let unit = text.strip_prefix(b"\\u").and_then(|digits| hex(digits.get(..4)?));
        if unit.is_some() {
            // Any other than half of a pair would be legal.
            self.replace();
            return 6;
        }
        self.push(b"\\\\", 1);
        self.mended = true;
        1
    }

    /// Takes JSON that becomes text.
    fn text(&mut self, json: &[u8]) {
        for chunk in json.utf8_chunks() {
            let mut rest = chunk.valid().as_bytes();
            while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
                self.push(&rest[..at], at);
                match rest[at] {
                    byte @ (b'"' | b'\\') => self.push(&[b'\\', byte], 1),
                    control => self.control(control),
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
            // Its escape would take six bytes: more than the memory of the worst record has room for.
            _ => self.replace(),
        }
    }

    fn replace(&mut self) {
        self.push(REPLACEMENT.as_bytes(), REPLACEMENT.len());
        self.mended = true;
    }

    /// Adds what stands in the message for that many bytes of text.
    fn push(&mut self, escaped: &[u8], len: usize) {
        self.message.escaped.to_mut().extend_from_slice(escaped);
        self.message.len += len;
    }
}
