//! Finds `message` and `timestamp` in a record, without building values.
//!
//! The scan checks the whole structure: brackets, commas, colons, literals, nesting. It does not check skipped text for UTF-8
//! and legal escapes, because that text is not delivered.
//!
//! Most records of an object differ from the record before only in the message and in the text of some strings. Such records are
//! compared instead of scanned ([`Familiar`]).

use std::ops::Range;

use fearless_simd::{Level, dispatch, prelude::*};

use super::{
    familiar::Familiar,
    nesting::{Bracket, Nesting},
    strings::{Reading, delivered_end, plain, string_end},
};

/// Most strings of a record whose positions are kept. A record with more strings is scanned, not compared.
const MAX_STRINGS: usize = 1024;

/// The parts of a record.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan<'a> {
    /// Length from the opening to the closing brace, both included.
    pub(super) len: usize,
    /// The JSON text of the value of `message`.
    pub(super) message: Option<&'a [u8]>,
    /// Present if the message is a string that breaks no rule of JSON. Whether the string is UTF-8 is not checked.
    pub(super) reading: Option<Reading>,
    /// The JSON text of the value of `timestamp`.
    pub(super) timestamp: Option<&'a [u8]>,
    /// Whether a name was escaped or came twice, so that a JSON parser may find other values.
    pub(super) ambiguous: bool,
}

/// Why the scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanError {
    /// The record continues after the given bytes.
    Incomplete,
    /// The text is not JSON at this position, counted from the opening brace. The string says what JSON needs there.
    Malformed(usize, &'static str),
}

/// The text before the values of `message` and `timestamp`, from the last record whose names are not ambiguous.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// From the opening brace to the value of `message`.
    before_message: Familiar,
    /// From the end of that value to the value of `timestamp`.
    before_timestamp: Familiar,
    /// Positions of the strings whose text does not matter, without quotes, in the record that is being scanned.
    strings: Vec<Range<usize>>,
    nesting: Nesting,
}

/// Calls `take` with each member of an object: the JSON text of its name, without quotes, and of its value. `bytes` begins with
/// the opening brace. If the bytes end within a value, or the value is not JSON, `take` gets the rest of the bytes, which begin
/// with the value, before the error is returned. Returns the object's length.
pub(crate) fn each_member<'a>(
    bytes: &'a [u8],
    mut take: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<usize, ScanError> {
    let (mut strings, mut nesting) = (Vec::new(), Nesting::default());
    let take: &mut dyn FnMut(&'a [u8], &'a [u8]) = &mut take;
    dispatch!(Level::new(), simd => {
        let cursor = Cursor { simd, bytes, at: 0, strings: &mut strings, nesting: &mut nesting };
        members_by(cursor, take)
    })
}

fn members_by<'a, S: Simd>(
    mut cursor: Cursor<'a, '_, S>,
    take: &mut dyn FnMut(&'a [u8], &'a [u8]),
) -> Result<usize, ScanError> {
    cursor.expect(b'{', "an object")?;
    cursor.skip_space();
    if cursor.peek()? == b'}' {
        return Ok(cursor.at + 1);
    }
    loop {
        let name = cursor.name()?;
        let start = cursor.at;
        let value = cursor.value();
        let end = if value.is_ok() { cursor.at } else { cursor.bytes.len() };
        take(name, &cursor.bytes[start..end]);
        cursor.strings.clear();
        value?;
        if cursor.ends_object()? {
            return Ok(cursor.at);
        }
    }
}

/// Scans a record that is its own message, and finds the value of the member `time`. If the member is repeated, its last value
/// counts.
pub(super) fn whole<'a>(bytes: &'a [u8], time: &[u8]) -> Result<Scan<'a>, ScanError> {
    let mut timestamp = None;
    let len = each_member(bytes, |name, value| {
        if plain(name).as_ref() == time {
            timestamp = Some(value);
        }
    })?;
    Ok(Scan { len, timestamp, ..Scan::default() })
}

/// A member of a document, from its name on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Member<'a> {
    /// The list of records begins.
    ListStarts {
        /// Length up to the opening bracket, which is included.
        len: usize,
    },
    /// Another member, which is complete.
    Complete {
        /// The JSON text of its name, without quotes.
        name: &'a [u8],
        /// The JSON text of its value.
        value: &'a [u8],
        /// Its length.
        len: usize,
    },
}

/// Scans a member of a document whose records are in the array `list`. `bytes` begins with the member's name.
pub(super) fn member<'a>(bytes: &'a [u8], list: &[u8]) -> Result<Member<'a>, ScanError> {
    let (mut strings, mut nesting) = (Vec::new(), Nesting::default());
    dispatch!(Level::new(), simd => {
        let cursor = Cursor { simd, bytes, at: 0, strings: &mut strings, nesting: &mut nesting };
        member_by(cursor, list)
    })
}

fn member_by<'a, S: Simd>(mut cursor: Cursor<'a, '_, S>, list: &[u8]) -> Result<Member<'a>, ScanError> {
    let name = cursor.name()?;
    if cursor.peek()? == b'[' && plain(name).as_ref() == list {
        return Ok(Member::ListStarts { len: cursor.at + 1 });
    }
    let value = cursor.value_text()?;
    Ok(Member::Complete { name, value, len: cursor.at })
}

/// Scans a record. `bytes` begins with its opening brace, and may continue after its end.
pub(super) fn scan<'a>(bytes: &'a [u8], around: &mut Around) -> Result<Scan<'a>, ScanError> {
    dispatch!(Level::new(), simd => scan_by(simd, bytes, around))
}

/// The functions that every record needs are inlined here, so that they too are compiled for the processor's vector instructions.
#[inline(always)]
fn scan_by<'a, S: Simd>(simd: S, bytes: &'a [u8], around: &mut Around) -> Result<Scan<'a>, ScanError> {
    let Around { before_message, before_timestamp, strings, nesting } = around;
    strings.clear();
    let mut cursor = Cursor { simd, bytes, at: 0, strings, nesting };
    let mut found = Scan::default();
    let mut message_end = 0;
    if cursor.follow(before_message) {
        let (message, reading) = cursor.message()?;
        (found.message, found.reading) = (Some(message), reading);
        message_end = cursor.at;
        cursor.strings.clear();
        if cursor.follow(before_timestamp) {
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
        let strings = cursor.strings.len();
        let name = cursor.name()?;
        // Names at this level matter, unlike other strings.
        cursor.strings.truncate(strings);
        let start = cursor.at;
        let doubtless = !found.ambiguous && found.timestamp.is_none();
        match name {
            b"message" => {
                let first = doubtless && found.message.is_none();
                if first {
                    before_message.remember(bytes, 0..start, cursor.strings);
                    before_timestamp.forget();
                }
                let (message, reading) = cursor.message()?;
                found.ambiguous |= found.message.replace(message).is_some();
                found.reading = reading;
                if first {
                    message_end = cursor.at;
                    cursor.strings.clear();
                }
            }
            b"timestamp" => {
                if doubtless && found.message.is_some() {
                    before_timestamp.remember(bytes, message_end..start, cursor.strings);
                }
                found.ambiguous |= found.timestamp.replace(cursor.value_text()?).is_some();
            }
            _ => {
                found.ambiguous |= name.contains(&b'\\');
                cursor.value()?;
            }
        }
        if cursor.ends_object()? {
            found.len = cursor.at;
            return Ok(found);
        }
    }
}

struct Cursor<'a, 's, S> {
    simd: S,
    bytes: &'a [u8],
    at: usize,
    strings: &'s mut Vec<Range<usize>>,
    nesting: &'s mut Nesting,
}

impl<'a, S: Simd> Cursor<'a, '_, S> {
    #[inline(always)]
    fn peek(&self) -> Result<u8, ScanError> {
        self.bytes.get(self.at).copied().ok_or(ScanError::Incomplete)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), ScanError> {
        if self.peek()? != byte {
            return Err(ScanError::Malformed(self.at, what));
        }
        self.at += 1;
        Ok(())
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// Moves past a familiar piece and the space after it, if there is one here.
    #[inline(always)]
    fn follow(&mut self, familiar: &Familiar) -> bool {
        let Some(end) = familiar.follow(self.simd, &self.bytes[self.at..]) else { return false };
        self.at += end;
        self.skip_space();
        true
    }

    /// After a member, moves past the closing brace, or past a comma to the next name.
    #[inline(always)]
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

    /// The JSON text of the value of `message`, and its [`Reading`].
    #[inline(always)]
    fn message(&mut self) -> Result<(&'a [u8], Option<Reading>), ScanError> {
        if self.peek()? != b'"' {
            return Ok((self.value_text()?, None));
        }
        let (end, reading) =
            delivered_end(self.simd, self.bytes, self.at + 1).ok_or(ScanError::Incomplete)?;
        let text = &self.bytes[self.at..=end];
        self.at = end + 1;
        Ok((text, reading))
    }

    /// The JSON text of a member's value.
    fn value_text(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        self.value()?;
        Ok(&self.bytes[start..self.at])
    }

    /// The JSON text of a string, without quotes.
    fn string(&mut self) -> Result<&'a [u8], ScanError> {
        self.expect(b'"', "a string")?;
        let (simd, bytes, start) = (self.simd, self.bytes, self.at);
        let end = simd.vectorize(
            #[inline(always)]
            || string_end(simd, bytes, start),
        );
        let text = start..end.ok_or(ScanError::Incomplete)?;
        self.at = text.end + 1;
        if self.strings.len() < MAX_STRINGS {
            self.strings.push(text.clone());
        }
        Ok(&self.bytes[text])
    }

    /// A name; also moves past the colon after it.
    #[inline(always)]
    fn name(&mut self) -> Result<&'a [u8], ScanError> {
        let name = self.string()?;
        self.skip_space();
        self.expect(b':', "a colon")?;
        self.skip_space();
        Ok(name)
    }

    /// Moves past any value, without recursion.
    fn value(&mut self) -> Result<(), ScanError> {
        self.nesting.clear();
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                b'{' => {
                    if self.enters(Bracket::Object)? {
                        self.name()?;
                        continue;
                    }
                }
                b'[' => {
                    if self.enters(Bracket::Array)? {
                        continue;
                    }
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return Err(ScanError::Malformed(self.at, "a value")),
            }
            // Leaves the brackets that end here, and moves to the next value.
            loop {
                let Some(bracket) = self.nesting.innermost() else { return Ok(()) };
                self.skip_space();
                let byte = self.peek()?;
                if byte == b',' {
                    self.at += 1;
                    self.skip_space();
                    if bracket == Bracket::Object {
                        self.name()?;
                    }
                    break;
                }
                if byte != bracket.close() {
                    return Err(ScanError::Malformed(self.at, "a comma or a closing bracket"));
                }
                self.at += 1;
                self.nesting.leave();
            }
        }
    }

    /// Moves past an opening bracket, and past the closing one if it follows. Returns whether there is something between them.
    fn enters(&mut self, bracket: Bracket) -> Result<bool, ScanError> {
        self.at += 1;
        self.skip_space();
        if self.peek()? == bracket.close() {
            self.at += 1;
            return Ok(false);
        }
        self.nesting.enter(bracket);
        Ok(true)
    }

    fn literal(&mut self, word: &'static [u8]) -> Result<(), ScanError> {
        let rest = &self.bytes[self.at..];
        if word.starts_with(rest) {
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
        // A number inside an object never ends the input, so on an incomplete number one of the peeks above has failed.
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

#[cfg(test)]
mod tests;
