//! Finds the two fields that matter in a record without building any value.
//!
//! Structure is checked in full: brackets, commas, colons, literals, nesting. Text that is skipped is not checked for
//! UTF-8 or legal escapes, because nobody will see it; text that is delivered is, by [`clean_len`].

use memchr::{memchr, memchr2};

/// Deepest nesting of a record; serde_json's own limit, so that the strict path can follow.
const MAX_DEPTH: u32 = 127;

/// Where the parts of a record are, as positions from its opening brace.
#[derive(Debug, Default)]
pub(super) struct Scan<'a> {
    /// Bytes from the opening to the closing brace, both included.
    pub(super) len: usize,
    /// The value of `message`, as it stands.
    pub(super) message: Option<&'a [u8]>,
    /// The value of `timestamp`, as it stands.
    pub(super) timestamp: Option<&'a [u8]>,
    /// A name was escaped or stood twice: what was found may not be what a JSON reader would find.
    pub(super) ambiguous: bool,
}

/// Why the scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanError {
    /// The record goes on beyond the bytes at hand.
    Incomplete,
    /// Not JSON at this position from the opening brace: what should stand there.
    Malformed(usize, &'static str),
    /// Nested deeper than any reader of ours follows.
    TooDeep,
}

/// Scans one record; `bytes` begins with its opening brace and may go on after its end.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan<'_>, ScanError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut found = Scan::default();
    cursor.expect(b'{', "an object")?;
    cursor.skip_space();
    if cursor.peek()? == b'}' {
        found.len = cursor.at + 1;
        return Ok(found);
    }
    loop {
        let name = cursor.string()?;
        cursor.skip_space();
        cursor.expect(b':', "a colon")?;
        cursor.skip_space();
        let start = cursor.at;
        cursor.value(1)?;
        let value = &bytes[start..cursor.at];
        match name {
            b"message" => found.ambiguous |= found.message.replace(value).is_some(),
            b"timestamp" => found.ambiguous |= found.timestamp.replace(value).is_some(),
            _ => found.ambiguous |= memchr(b'\\', name).is_some(),
        }
        cursor.skip_space();
        match cursor.peek()? {
            b',' => cursor.at += 1,
            b'}' => {
                found.len = cursor.at + 1;
                return Ok(found);
            }
            _ => return Err(ScanError::Malformed(cursor.at, "a comma or the end of the object")),
        }
        cursor.skip_space();
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Result<u8, ScanError> {
        self.bytes.get(self.at).copied().ok_or(ScanError::Incomplete)
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        if self.peek()? != byte {
            return Err(ScanError::Malformed(self.at, what));
        }
        self.at += 1;
        Ok(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// A string, without its quotes; whatever is escaped stays so.
    fn string(&mut self) -> Result<&'a [u8], ScanError> {
        self.expect(b'"', "a string")?;
        let start = self.at;
        loop {
            let rest = &self.bytes[self.at..];
            let next = memchr2(b'"', b'\\', rest).ok_or(ScanError::Incomplete)?;
            self.at += next;
            if rest[next] == b'"' {
                let text = &self.bytes[start..self.at];
                self.at += 1;
                return Ok(text);
            }
            // The byte after a backslash is never a quote that ends the string.
            self.at += 2;
            if self.at > self.bytes.len() {
                return Err(ScanError::Incomplete);
            }
        }
    }

    fn value(&mut self, depth: u32) -> Result<(), ScanError> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' => self.members(b'}', depth, |cursor| {
                cursor.string()?;
                cursor.skip_space();
                cursor.expect(b':', "a colon")?;
                cursor.skip_space();
                cursor.value(depth + 1)
            }),
            b'[' => self.members(b']', depth, |cursor| cursor.value(depth + 1)),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Err(ScanError::Malformed(self.at, "a value")),
        }
    }

    fn members(
        &mut self,
        close: u8,
        depth: u32,
        mut member: impl FnMut(&mut Self) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        if depth >= MAX_DEPTH {
            return Err(ScanError::TooDeep);
        }
        self.at += 1;
        self.skip_space();
        if self.peek()? == close {
            self.at += 1;
            return Ok(());
        }
        loop {
            member(self)?;
            self.skip_space();
            let byte = self.peek()?;
            if byte != b',' && byte != close {
                return Err(ScanError::Malformed(self.at, "a comma or a closing bracket"));
            }
            self.at += 1;
            if byte == close {
                return Ok(());
            }
            self.skip_space();
        }
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), ScanError> {
        let rest = &self.bytes[self.at..];
        if rest.len() < word.len() && word.starts_with(rest) {
            return Err(ScanError::Incomplete);
        }
        if !rest.starts_with(word) {
            return Err(ScanError::Malformed(self.at, "true, false or null"));
        }
        self.at += word.len();
        Ok(())
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek()? == b'-' {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek()? == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if let b'e' | b'E' = self.peek()? {
            self.at += 1;
            if let b'+' | b'-' = self.peek()? {
                self.at += 1;
            }
            self.digits()?;
        }
        // Inside an object a number never ends the input: the peeks above told whether it is whole.
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        while self.peek()?.is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { Err(ScanError::Malformed(self.at, "a digit")) } else { Ok(()) }
    }
}

/// Length in UTF-8 of a JSON string's text once unescaped, if the text may be copied as it stands: legal UTF-8, no
/// control character, every escape legal, every surrogate in its pair. `None`: leave it to the strict path.
pub(super) fn clean_len(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?;
    if text.iter().any(|byte| *byte < 0x20) {
        return None;
    }
    let mut len = text.len();
    let mut rest = text;
    while let Some(backslash) = memchr(b'\\', rest) {
        let (escaped, plain) = escape(&rest[backslash..])?;
        len -= escaped - plain;
        rest = &rest[backslash + escaped..];
    }
    Some(len)
}

/// Lengths of the escape that `text` begins with, as it stands and unescaped in UTF-8; `None` if it is not legal.
pub(super) fn escape(text: &[u8]) -> Option<(usize, usize)> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some((2, 1)),
        b'u' => match hex(text.get(2..6)?)? {
            0x0000..=0x007f => Some((6, 1)),
            0x0080..=0x07ff => Some((6, 2)),
            // Two escapes of six bytes make one character of four.
            0xd800..=0xdbff => {
                let low = text[6..].strip_prefix(b"\\u").and_then(|rest| hex(rest.get(..4)?))?;
                (0xdc00..=0xdfff).contains(&low).then_some((12, 4))
            }
            0xdc00..=0xdfff => None,
            _ => Some((6, 3)),
        },
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16"))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_found_where_they_are() {
        let text = br#"{"a":{"message":"no"},"message":"yes","n":[1,-2.5e+3,{"x":[]}],"timestamp":"t","z":null}, more"#;
        let found = scan(text).expect("a record");
        assert_eq!(found.message, Some(&br#""yes""#[..]));
        assert_eq!(found.timestamp, Some(&br#""t""#[..]));
        assert_eq!(&text[found.len..], b", more");
        assert!(!found.ambiguous);
    }

    #[test]
    fn doubtful_names_are_told() {
        for text in [
            r#"{"message":"a","message":"b"}"#,
            r#"{"m\u0065ssage":"a"}"#,
            r#"{"timestamp":1,"timestamp":2}"#,
        ] {
            assert!(scan(text.as_bytes()).expect("a record").ambiguous, "{text}");
        }
    }

    #[test]
    fn every_cut_is_incomplete_and_nothing_else() {
        let text =
            r#" {"a" : [true, false,null ,{"b":-0.5E-7}], "message":"x\"\\\u00e9 é", "e":{}, "f":[] } "#
                .trim();
        for cut in 0..text.len() {
            assert_eq!(
                scan(&text.as_bytes()[..cut]).expect_err("cut"),
                ScanError::Incomplete,
                "{}",
                &text[..cut]
            );
        }
        assert_eq!(scan(text.as_bytes()).expect("whole").len, text.len());
    }

    #[test]
    fn broken_structure_is_malformed() {
        for text in [
            "[",
            "{,",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":[1,]}",
            "{\"a\":[}",
            "{\"a\":{]}",
            "{\"a\":tru,",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":-}",
            "{\"a\":1e}",
            "{a:1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":+1}",
        ] {
            assert!(matches!(scan(text.as_bytes()), Err(ScanError::Malformed(..))), "{text}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(10_000));
        assert_eq!(scan(deep.as_bytes()).expect_err("deep"), ScanError::TooDeep);
    }

    #[test]
    fn lengths_are_those_of_the_unescaped_text() {
        for token in [
            r"",
            r"abc",
            r"\n\t",
            r"é日😀",
            r"\u0000",
            r"\u00e9",
            r"\u65e5",
            r"\ud83d\ude00",
            r"\/\\",
            r#"\""#,
        ] {
            let text: String = serde_json::from_str(&format!("\"{token}\"")).expect("a JSON string");
            assert_eq!(clean_len(token.as_bytes()), Some(text.len()), "{token}");
        }
        for token in [
            &br"\x"[..],
            br"\u12",
            br"\ud800",
            br"\ud800\u0041",
            br"\ude00",
            b"a\nb",
            b"\xff",
            br"\",
            br"\ud83d\u",
        ] {
            assert_eq!(clean_len(token), None, "{}", String::from_utf8_lossy(token));
        }
    }

    proptest! {
        #[test]
        fn what_is_clean_is_what_serde_json_reads(token in proptest::collection::vec(
            prop_oneof![Just(b"\\".to_vec()), Just(b"u".to_vec()), Just(b"d83d".to_vec()), Just(b"de00".to_vec()),
                Just(b"n".to_vec()), Just("é".into()), Just(b"\x01".to_vec()), Just(b"\xff".to_vec()), "[a-f0-9]{1,4}".prop_map(Into::into)], 0..8)
        ) {
            let token = token.concat();
            let quoted = [b"\"", token.as_slice(), b"\""].concat();
            let read = serde_json::from_slice::<String>(&quoted).ok().map(|text| text.len());
            prop_assert_eq!(clean_len(&token), read);
        }

        #[test]
        fn what_serde_json_writes_is_scanned_to_its_end(pairs in proptest::collection::vec((".{0,6}", ".{0,12}", any::<f64>()), 0..6)) {
            let object: serde_json::Map<_, _> = pairs.iter().flat_map(|(name, text, number)| {
                [(name.clone(), serde_json::json!({"t": text, "n": [number]})), (format!("{name}2"), serde_json::json!(number))]
            }).collect();
            let text = serde_json::to_string(&object).expect("JSON");
            prop_assert_eq!(scan(text.as_bytes()).expect("a record").len, text.len());
        }
    }
}
