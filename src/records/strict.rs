//! Records that the scan leaves to a JSON reader: names in doubt, a message that is no plain string, or none at all.
//!
//! Such a record may be as long as `source.max_record`, and what is made of it here is counted in the worker's memory: it is at
//! most three times as long again.

use std::{borrow::Cow, fmt, io};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Message;

/// Fields that Vector's `kubernetes_logs` source adds to every record: not part of a record that goes out whole.
const VECTOR_METADATA: [&str; 6] =
    ["file", "kubernetes", "source_type", "stream", "timestamp", "timestamp_end"];

/// Reads a record's message, and its timestamp's value as it stands: the last of several equal names counts, as it does for every
/// JSON reader.
pub(super) fn read(text: &[u8]) -> Result<(Message<'static>, Option<&[u8]>), serde_json::Error> {
    let mut members = Members::default();
    members.read(text)?;
    let message = match members.message {
        Some(value) if value.starts_with('"') => Message::escape(&serde_json::from_str::<String>(value)?),
        Some(value) => Message::escape(value),
        None => whole(text)?,
    };
    Ok((message, members.timestamp.map(str::as_bytes)))
}

/// The record itself, without Vector's metadata.
fn whole(text: &[u8]) -> Result<Message<'static>, serde_json::Error> {
    // Quotes and backslashes alone would double its length; memory that is not written costs nothing.
    let mut rest = Escaper::with_capacity(2 * text.len());
    Members { rest: Some(&mut rest), ..Members::default() }.read(text)?;
    rest.push(if rest.message.len == 0 { b"{}" } else { b"}" });
    Ok(rest.message)
}

/// What matters of an object's members, as it stands. No list of them is made: millions fit into one record.
#[derive(Default)]
struct Members<'a, 'r> {
    message: Option<&'a str>,
    timestamp: Option<&'a str>,
    /// Takes every member in its order, repeated names included, but for Vector's metadata.
    rest: Option<&'r mut Escaper>,
}

impl<'a> Members<'a, '_> {
    fn read(&mut self, text: &'a [u8]) -> Result<(), serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        deserializer.deserialize_map(self)?;
        deserializer.end()
    }
}

impl<'de> Visitor<'de> for &mut Members<'de, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value::<&RawValue>()?.get();
            match key.as_ref() {
                "message" => self.message = Some(value),
                "timestamp" => self.timestamp = Some(value),
                _ => {}
            }
            if let Some(rest) = self.rest.as_deref_mut().filter(|_| !VECTOR_METADATA.contains(&key.as_ref()))
            {
                rest.push(if rest.message.len == 0 { b"{" } else { b"," });
                serde_json::to_writer(&mut *rest, &key)
                    .expect("memory takes it, and a string is always JSON");
                rest.push(b":");
                rest.push(value.as_bytes());
            }
        }
        Ok(())
    }
}

/// A borrowed name where it has no escapes; a bare `Cow` would always be owned.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl Message<'_> {
    /// Escapes plain text, in no more memory than the result takes.
    pub fn escape(text: &str) -> Message<'static> {
        let mut escaper = Escaper::with_capacity(text.bytes().map(escaped_len).sum());
        escaper.push(text.as_bytes());
        escaper.message
    }
}

/// Writes a message: escapes as text comes, so that there is no second copy of a long one.
struct Escaper {
    message: Message<'static>,
}

impl Escaper {
    fn with_capacity(bytes: usize) -> Self {
        Self { message: Message { escaped: Cow::Owned(Vec::with_capacity(bytes)), len: 0 } }
    }

    /// Takes a piece of UTF-8.
    fn push(&mut self, piece: &[u8]) {
        let escaped = self.message.escaped.to_mut();
        self.message.len += piece.len();
        let mut rest = piece;
        while let Some(at) = rest.iter().position(|byte| escaped_len(*byte) > 1) {
            escaped.extend_from_slice(&rest[..at]);
            match rest[at] {
                byte @ (b'"' | b'\\') => escaped.extend([b'\\', byte]),
                b'\n' => escaped.extend(b"\\n"),
                b'\r' => escaped.extend(b"\\r"),
                b'\t' => escaped.extend(b"\\t"),
                byte => escaped.extend(format!("\\u{byte:04x}").bytes()),
            }
            rest = &rest[at + 1..];
        }
        escaped.extend_from_slice(rest);
    }
}

impl io::Write for Escaper {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.push(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that a byte of text takes within a JSON string.
fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    }
}
