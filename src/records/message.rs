//! A record's message, escaped as a request contains it.

use std::borrow::Cow;

use memchr::memchr;

use super::strings::{escape, unescape};

/// A message as the inside of a JSON string: escaped, legal and ready to be copied into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EscapedMessage<'a> {
    /// Always UTF-8. Stored as bytes, because a `str` would need a second check of text that the reader has already checked.
    pub(super) escaped: Cow<'a, [u8]>,
    pub(super) len: usize,
}

impl<'a> EscapedMessage<'a> {
    /// The escaped text in UTF-8, without the quotation marks.
    pub fn escaped(&self) -> &[u8] {
        &self.escaped
    }

    /// Length of the unescaped text in UTF-8 bytes, as CloudWatch Logs counts it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the message is empty. CloudWatch Logs refuses an empty event.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The unescaped text, in `buffer` if it differs from the escaped text.
    pub fn text<'b>(&'b self, buffer: &'b mut String) -> &'b str {
        let escaped = std::str::from_utf8(&self.escaped).expect("a message is UTF-8 by construction");
        if escaped.len() == self.len {
            return escaped;
        }
        buffer.clear();
        buffer.reserve(self.len);
        let mut rest = escaped;
        while let Some(at) = memchr(b'\\', rest.as_bytes()) {
            buffer.push_str(&rest[..at]);
            let (character, len) =
                unescape(&rest.as_bytes()[at..]).expect("a message is legal by construction");
            buffer.push(character);
            rest = &rest[at + len..];
        }
        buffer.push_str(rest);
        buffer
    }

    /// Cuts the message into pieces of at most `max_bytes` unescaped bytes, between characters.
    ///
    /// # Panics
    /// If `max_bytes` is below 4, because a character has up to 4 bytes.
    pub fn pieces(&self, max_bytes: usize) -> impl Iterator<Item = EscapedMessage<'_>> {
        assert!(max_bytes >= 4, "a character has up to 4 bytes");
        let mut rest = self.escaped.as_ref();
        std::iter::from_fn(move || {
            let (mut at, mut len) = (0, 0);
            while let Some(first) = rest.get(at) {
                let (escaped, plain) = match first {
                    b'\\' => escape(&rest[at..]).expect("a message is legal by construction"),
                    // The first byte of a character tells its length.
                    0xf0.. => (4, 4),
                    0xe0.. => (3, 3),
                    0xc0.. => (2, 2),
                    _ => (1, 1),
                };
                if len + plain > max_bytes {
                    break;
                }
                (at, len) = (at + escaped, len + plain);
            }
            let (piece, tail) = rest.split_at(at);
            rest = tail;
            (!piece.is_empty()).then_some(EscapedMessage { escaped: Cow::Borrowed(piece), len })
        })
    }

    /// Builds a message from plain text.
    #[cfg(test)]
    pub fn escape(text: &str) -> EscapedMessage<'static> {
        let quoted = serde_json::to_string(text).expect("a string is always JSON");
        let escaped = quoted.as_bytes()[1..quoted.len() - 1].to_vec();
        EscapedMessage { escaped: Cow::Owned(escaped), len: text.len() }
    }

    /// The unescaped text.
    #[cfg(test)]
    pub fn unescape(&self) -> String {
        let quoted = [b"\"", self.escaped(), b"\""].concat();
        serde_json::from_slice(&quoted).expect("a message is legal by construction")
    }
}

/// Length of the text of an escaped message once unescaped, in UTF-8 bytes.
pub fn unescaped_len(escaped: &[u8]) -> usize {
    let (mut rest, mut len) = (escaped, 0);
    while let Some(at) = memchr(b'\\', rest) {
        let (of_escape, plain) = escape(&rest[at..]).expect("a message is legal by construction");
        len += at + plain;
        rest = &rest[at + of_escape..];
    }
    len + rest.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_cut_at_characters() {
        let check = |escaped: &str, expected: &[&str]| {
            let text: String = serde_json::from_str(&format!("\"{escaped}\"")).expect("a legal message");
            let message = EscapedMessage { escaped: Cow::Borrowed(escaped.as_bytes()), len: text.len() };
            let pieces: Vec<_> = message
                .pieces(4)
                .map(|piece| String::from_utf8(piece.escaped().to_vec()).expect("UTF-8"))
                .collect();
            assert_eq!(pieces, expected);
        };
        check("", &[]);
        check("abcd", &["abcd"]);
        check("abcde", &["abcd", "e"]);
        check("abcé", &["abc", "é"]);
        check("😀😀", &["😀", "😀"]);
        check(r"ab\n\u0001\ud83d\ude00", &[r"ab\n\u0001", r"\ud83d\ude00"]);
    }

    proptest! {
        #[test]
        fn pieces_joined_give_the_message(text in ".{0,80}", max in 4_usize..20) {
            let message = EscapedMessage::escape(&text);
            let pieces: Vec<_> = message.pieces(max).map(|piece| (piece.unescape(), piece.len())).collect();
            prop_assert!(pieces.iter().all(|(text, len)| text.len() == *len && (1..=max).contains(len)));
            prop_assert_eq!(pieces.into_iter().map(|(text, _)| text).collect::<String>(), text);
        }

        #[test]
        fn escapes_are_read(text in prop::collection::vec(prop_oneof![
            Just(r#"\""#), Just(r"\\"), Just(r"\/"), Just(r"\b\f\n\r\t"), Just(r"\u0000\u001B\u00e9\u20AC\uFFFF"),
            Just(r"\ud83d\ude00"), Just(r"\uDBFF\uDFFF"), Just("a"), Just("é😀"),
        ], 0..20)) {
            let text = text.concat();
            let plain: String = serde_json::from_str(&format!("\"{text}\"")).expect("a legal message");
            let message = EscapedMessage { escaped: Cow::Borrowed(text.as_bytes()), len: plain.len() };
            let mut buffer = "what was there before".to_owned();
            prop_assert_eq!(message.text(&mut buffer), plain);
        }
    }
}
