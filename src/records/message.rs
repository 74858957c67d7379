//! A record's message on its way into a request.

use std::borrow::Cow;

use super::strings::escape;

/// A message as the inside of a JSON string: escaped, legal, and ready to be copied into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// UTF-8 by construction. As bytes: most messages are known to be ASCII, and need not be looked at again for a `str`.
    pub(super) escaped: Cow<'a, [u8]>,
    pub(super) len: usize,
}

impl<'a> Message<'a> {
    /// The escaped text in UTF-8, without quotes.
    pub fn escaped(&self) -> &[u8] {
        &self.escaped
    }

    /// Bytes of the unescaped text in UTF-8: what CloudWatch Logs counts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing in it; CloudWatch Logs refuses such an event.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts it into messages of at most `max_bytes` each, at the boundaries of characters.
    ///
    /// # Panics
    /// `max_bytes` is below 4: a character may not fit.
    pub fn pieces(&self, max_bytes: usize) -> impl Iterator<Item = Message<'_>> {
        assert!(max_bytes >= 4, "a character has up to 4 bytes");
        let mut rest = self.escaped.as_ref();
        std::iter::from_fn(move || {
            let (mut at, mut len) = (0, 0);
            while let Some(first) = rest.get(at) {
                let (escaped, plain) = match first {
                    b'\\' => escape(&rest[at..]).expect("a message is legal by construction"),
                    // The first byte of a character tells how many it has.
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
            (!piece.is_empty()).then_some(Message { escaped: Cow::Borrowed(piece), len })
        })
    }

    /// Escapes plain text.
    #[cfg(test)]
    pub fn escape(text: &str) -> Message<'static> {
        let quoted = serde_json::to_string(text).expect("a string is always JSON");
        let escaped = quoted.as_bytes()[1..quoted.len() - 1].to_vec();
        Message { escaped: Cow::Owned(escaped), len: text.len() }
    }

    /// The unescaped text.
    #[cfg(test)]
    pub fn unescape(&self) -> String {
        let quoted = [b"\"", self.escaped(), b"\""].concat();
        serde_json::from_slice(&quoted).expect("a message is legal by construction")
    }
}
