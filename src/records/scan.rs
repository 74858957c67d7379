//! Finds the two fields that matter in a record without building any value.
//!
//! Structure is checked in full: brackets, commas, colons, literals, nesting. Text that is skipped is not checked for
//! UTF-8 or legal escapes, because nobody will see it; text that is delivered is, by [`clean`].
//!
//! An object holds the records of one pod, and what stands around their messages is mostly the same from one to the
//! next: where it is, comparing it takes the place of scanning it ([`Around`]).

use memchr::{memchr, memchr2};

/// Deepest nesting of a record; serde_json's own limit, so that the strict path can follow.
const MAX_DEPTH: u32 = 127;
/// Longest text that [`Around`] remembers. The metadata of a Kubernetes record are about 1 KiB; beyond this, comparing
/// would leave the processor's nearest cache, and the memory would count.
const MAX_AROUND: usize = 16 * 1024;

/// Where the parts of a record are, as positions from its opening brace.
#[derive(Debug, Default, PartialEq, Eq)]
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

/// What stood around the two values in the last record whose names left no doubt. Scanning is blind to what comes
/// behind: the same text always leads to the same place, so a record that repeats it is scanned from there.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// From the opening brace to the value of `message`.
    before_message: Vec<u8>,
    /// From the end of that value to the value of `timestamp`.
    before_timestamp: Vec<u8>,
}

impl Around {
    fn remember(place: &mut Vec<u8>, text: &[u8]) {
        place.clear();
        if text.len() <= MAX_AROUND {
            place.extend_from_slice(text);
        }
    }
}

/// Scans one record; `bytes` begins with its opening brace and may go on after its end.
pub(super) fn scan<'a>(bytes: &'a [u8], around: &mut Around) -> Result<Scan<'a>, ScanError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut found = Scan::default();
    let mut message_end = 0;
    if cursor.skip(&around.before_message) {
        found.message = Some(cursor.value_text()?);
        message_end = cursor.at;
        if cursor.skip(&around.before_timestamp) {
            found.timestamp = Some(cursor.value_text()?);
        }
        if cursor.ends_object()? {
            found.len = cursor.at;
            return Ok(found);
        }
    } else {
        cursor.expect(b'{', "an object")?;
        cursor.skip_space();
        if cursor.peek()? == b'}' {
            found.len = cursor.at + 1;
            return Ok(found);
        }
    }
    loop {
        let name = cursor.string()?;
        cursor.skip_space();
        cursor.expect(b':', "a colon")?;
        cursor.skip_space();
        let start = cursor.at;
        let value = cursor.value_text()?;
        let doubtless = !found.ambiguous && found.timestamp.is_none();
        match name {
            b"message" => {
                if doubtless && found.message.is_none() {
                    Around::remember(&mut around.before_message, &bytes[..start]);
                    around.before_timestamp.clear();
                    message_end = cursor.at;
                }
                found.ambiguous |= found.message.replace(value).is_some();
            }
            b"timestamp" => {
                if doubtless && found.message.is_some() {
                    Around::remember(&mut around.before_timestamp, &bytes[message_end..start]);
                }
                found.ambiguous |= found.timestamp.replace(value).is_some();
            }
            _ => found.ambiguous |= memchr(b'\\', name).is_some(),
        }
        if cursor.ends_object()? {
            found.len = cursor.at;
            return Ok(found);
        }
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

    /// Moves past `text`, and space behind it, if it stands here; an empty one stands nowhere.
    fn skip(&mut self, text: &[u8]) -> bool {
        let here = !text.is_empty() && self.bytes[self.at..].starts_with(text);
        if here {
            self.at += text.len();
            self.skip_space();
        }
        here
    }

    /// Behind a member: moves past the closing brace, or past a comma to the next name.
    fn ends_object(&mut self) -> Result<bool, ScanError> {
        self.skip_space();
        match self.peek()? {
            b',' => {
                self.at += 1;
                self.skip_space();
                Ok(false)
            }
            b'}' => {
                self.at += 1;
                Ok(true)
            }
            _ => Err(ScanError::Malformed(self.at, "a comma or the end of the object")),
        }
    }

    /// A member's value, as it stands.
    fn value_text(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        self.value(1)?;
        Ok(&self.bytes[start..self.at])
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

/// A JSON string's text and its length in UTF-8 once unescaped, if it may be copied as it stands: legal UTF-8, no
/// control character, every escape legal, every surrogate in its pair. `None`: leave it to the strict path.
pub(super) fn clean(token: &[u8]) -> Option<(&str, usize)> {
    let text = std::str::from_utf8(token).ok()?;
    // The least of all rather than the first below: without a way out, the compiler takes many bytes at a time.
    if token.iter().copied().fold(u8::MAX, u8::min) < 0x20 {
        return None;
    }
    let mut len = token.len();
    let mut rest = token;
    while let Some(backslash) = memchr(b'\\', rest) {
        let (escaped, plain) = escape(&rest[backslash..])?;
        len -= escaped - plain;
        rest = &rest[backslash + escaped..];
    }
    Some((text, len))
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

    fn scan(bytes: &[u8]) -> Result<Scan<'_>, ScanError> {
        super::scan(bytes, &mut Around::default())
    }

    fn clean_len(token: &[u8]) -> Option<usize> {
        clean(token).map(|(_, len)| len)
    }

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

    /// Few different members, so that records share long beginnings and names come twice.
    fn members() -> impl Strategy<Value = Vec<&'static str>> {
        let member = prop_oneof![
            Just(r#""a":"message""#),
            Just(r#""a":{"message":"no","timestamp":"no"}"#),
            Just(r#""b":1"#),
            Just(r#""m\u0065ssage":"escaped""#),
            Just(r#""message":"one""#),
            Just(r#""message" : "two\"""#),
            Just(r#""message":{"x":[3]}"#),
            Just(r#""stream":"stdout""#),
            Just(r#""stream":"stderr""#),
            Just(r#""timestamp":"2026-11-21T08:00:00Z""#),
            Just(r#""timestamp": 5"#),
        ];
        proptest::collection::vec(member, 0..6)
    }

    proptest! {
        /// The memory of one record must not show in the next, whatever stands there.
        #[test]
        fn a_familiar_record_is_scanned_like_any_other(records in proptest::collection::vec(members(), 1..12), cut in any::<u16>()) {
            let mut around = Around::default();
            for record in &records {
                let text = format!("{{{}}}", record.join(",")).into_bytes();
                let cut = &text[..usize::from(cut) % text.len()];
                prop_assert_eq!(super::scan(cut, &mut around), scan(cut));
                prop_assert_eq!(super::scan(&text, &mut around), scan(&text));
                let followed = [&text, &b",{"[..]].concat();
                prop_assert_eq!(super::scan(&followed, &mut around), scan(&text));
            }
        }

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
