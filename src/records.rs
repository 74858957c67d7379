//! From an object's text to its records, one at a time, in place.
//!
//! The framing is told by the content: a JSON array on one line (what Vector writes), an array over many lines, one
//! record a line, or arrays one after another. The reader borrows from the caller's window and keeps its position, and
//! of the record before what stood around its message. Pure: no I/O.
//!
//! Two paths lead to a record. The scan finds `message` and `timestamp` without building values and hands out the
//! message as it stands. Whatever is unusual (a repeated or escaped name, a message that is no string, none at all)
//! takes the strict path through serde_json.

mod familiar;
mod scan;
mod strict;
mod timestamp;

use std::{borrow::Cow, ops::RangeInclusive};

use jiff::Timestamp;

use self::scan::{Around, Scan, ScanError, escape, scan};

/// One record, borrowed from the window.
#[derive(Debug)]
pub struct Record<'a> {
    /// Position in the object, from 0.
    pub index: u64,
    /// Milliseconds since 1970; `None` when the record has none that can be read and believed.
    pub timestamp: Option<i64>,
    /// What becomes the event.
    pub message: Message<'a>,
}

/// A message as the inside of a JSON string: escaped, legal, and ready to be copied into a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// UTF-8 by construction. As bytes: most messages are known to be ASCII, and need not be looked at again for a `str`.
    escaped: Cow<'a, [u8]>,
    len: usize,
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

    /// The unescaped text.
    #[cfg(test)]
    pub fn unescape(&self) -> String {
        let quoted = [b"\"", self.escaped(), b"\""].concat();
        serde_json::from_slice(&quoted).expect("a message is legal by construction")
    }
}

/// What the reader found at the window's start.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record; the caller consumes `consumed` bytes once done with it.
    Record {
        /// The record.
        record: Record<'a>,
        /// Bytes of the window up to its end.
        consumed: usize,
    },
    /// A line that is no record, where one is expected; only from [`RecordReader::stepping_over_bad_lines`]. It counts as one.
    BadLine {
        /// Position in the object, from 0, among the records.
        index: u64,
        /// The line, or what is left of it behind the records that it began with.
        text: &'a str,
        /// Bytes of the window up to its end.
        consumed: usize,
    },
    /// Nothing whole: consume this many bytes and come back with a longer window.
    More {
        /// Bytes of the window that are done with.
        consumed: usize,
    },
    /// The object is over, and complete.
    End,
}

/// What comes behind the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// More text may come.
    Coming,
    /// The object is broken off here: whole records are read, and what is not whole is nobody's error of the text.
    Never,
    /// Nothing: the object ends here, and must end well.
    Ended,
}

/// A record that cannot be read. Everything before it is good.
#[derive(Debug, thiserror::Error)]
#[error("record {index}: {problem}")]
pub struct RecordError {
    /// Position of the record in the object, from 0: how many were read before.
    pub index: u64,
    /// What is wrong with it.
    pub problem: RecordProblem,
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordProblem {
    /// Not JSON, or no object where one belongs.
    #[error("{0}")]
    Malformed(String),
    /// The object ends inside it, or inside the array around it.
    #[error("the object ends before the {0} does")]
    Truncated(&'static str),
    /// Longer than `source.max_record`.
    #[error("it is longer than source.max_record, {0} bytes")]
    TooLong(usize),
    /// Nested deeper than any reader of ours follows.
    #[error("it is nested too deeply")]
    TooDeep,
}

/// Reads the records of one object.
#[derive(Debug)]
pub struct RecordReader {
    place: Place,
    index: u64,
    max_record: usize,
    /// Length of the unread window at which a record was last found incomplete: the next attempt waits for twice as
    /// much, so that a record of many windows is scanned a bounded number of times.
    retry_at: usize,
    /// What stood around the message of the record before.
    around: Around,
    /// What a record's timestamp may be, in milliseconds since 1970.
    believable: RangeInclusive<i64>,
    /// A line that is no record may be stepped over: each record stands on a line of its own, as far as we know.
    by_lines: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Between top-level values.
    Top,
    /// After `[`: a record or `]`.
    ArrayStart,
    /// After a comma: a record.
    ArrayComma,
    /// After a record: a comma or `]`.
    ArrayRecord,
}

impl RecordReader {
    /// Starts on an object whose records may be `max_record` bytes long. A timestamp before 2000, or more than a day after `now`,
    /// counts as none.
    pub fn new(max_record: usize, now: Timestamp) -> Self {
        Self {
            place: Place::Top,
            index: 0,
            max_record,
            retry_at: 0,
            around: Around::default(),
            believable: timestamp::believable(now),
            by_lines: false,
        }
    }

    /// Goes on behind a line that is no record, where it is certain where the line ends: between records, not within an array,
    /// in an object whose first record, if it was one, stood on one line.
    pub fn stepping_over_bad_lines(self) -> Self {
        Self { by_lines: true, ..self }
    }

    /// How many records were read so far.
    pub fn count(&self) -> u64 {
        self.index
    }

    /// Looks for the next record at the start of `window`, which holds what follows the bytes consumed so far.
    ///
    /// # Errors
    /// See [`RecordError`]. The reader is of no further use then: where the next record would begin is a guess.
    pub fn next<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let mut at = 0;
        loop {
            at += window[at..].iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
            let Some(byte) = window.get(at) else {
                return match (more, self.place) {
                    (More::Coming | More::Never, _) => Ok(Step::More { consumed: at }),
                    (More::Ended, Place::Top) => Ok(Step::End),
                    (More::Ended, _) => Err(self.error(RecordProblem::Truncated("array"))),
                };
            };
            match (self.place, byte) {
                (Place::Top, b'[') => self.place = Place::ArrayStart,
                (Place::ArrayStart | Place::ArrayRecord, b']') => self.place = Place::Top,
                (Place::ArrayRecord, b',') => self.place = Place::ArrayComma,
                (Place::Top | Place::ArrayStart | Place::ArrayComma, b'{') => {
                    return self.record(window, at, more);
                }
                (place, byte) => {
                    let wanted = match place {
                        Place::Top => "a JSON object or array",
                        Place::ArrayStart => "a JSON object or the end of the array",
                        Place::ArrayComma => "a JSON object",
                        Place::ArrayRecord => "a comma or the end of the array",
                    };
                    let found = char::from(*byte).escape_default();
                    let problem = format!("{wanted} expected, not '{found}'");
                    return self.malformed(window, at, 0, more, problem);
                }
            }
            at += 1;
        }
    }

    fn record<'a>(&mut self, window: &'a [u8], at: usize, more: More) -> Result<Step<'a>, RecordError> {
        let text = &window[at..];
        if text.len() < self.retry_at && more == More::Coming {
            return Ok(Step::More { consumed: at });
        }
        // What lies beyond the longest record is not looked at: whether it has arrived yet must make no difference.
        let text = &text[..text.len().min(self.max_record + 1)];
        let found = match scan(text, &mut self.around) {
            Ok(found) => found,
            Err(ScanError::Incomplete) if text.len() > self.max_record => {
                return Err(self.error(RecordProblem::TooLong(self.max_record)));
            }
            Err(ScanError::Incomplete) if more == More::Ended => {
                return Err(self.error(RecordProblem::Truncated("record")));
            }
            Err(ScanError::Incomplete) => {
                self.retry_at = (text.len() * 2).min(self.max_record + 1);
                return Ok(Step::More { consumed: at });
            }
            Err(ScanError::TooDeep) => return Err(self.error(RecordProblem::TooDeep)),
            Err(ScanError::Malformed(position, wanted)) => {
                let problem = format!("byte {position} of it is not JSON: {wanted} expected");
                return self.malformed(window, at, position, more, problem);
            }
        };
        if found.len > self.max_record {
            return Err(self.error(RecordProblem::TooLong(self.max_record)));
        }
        let (message, timestamp) = match as_it_stands(&found) {
            Some(parts) => parts,
            None => match strict::read(&text[..found.len]) {
                Ok(parts) => parts,
                Err(error) => {
                    let problem = format!("it is not JSON: {error}");
                    return self.malformed(window, at, found.len, more, problem);
                }
            },
        };
        if self.by_lines && self.index == 0 && self.place == Place::Top {
            self.by_lines = !text[..found.len].contains(&b'\n');
        }
        let timestamp = timestamp.and_then(|value| timestamp::parse(value, &self.believable));
        let record = Record { index: self.index, timestamp, message };
        let consumed = at + found.len;
        self.index += 1;
        self.retry_at = 0;
        if self.place != Place::Top {
            self.place = Place::ArrayRecord;
        }
        Ok(Step::Record { record, consumed })
    }

    /// What begins at `at` and is bad `reach` bytes later: a line to be stepped over, or the end of the object's records.
    fn malformed<'a>(
        &mut self,
        window: &'a [u8],
        at: usize,
        reach: usize,
        more: More,
        problem: String,
    ) -> Result<Step<'a>, RecordError> {
        let error = self.error(RecordProblem::Malformed(problem));
        if !self.by_lines || self.place != Place::Top {
            return Err(error);
        }
        let text = &window[at..];
        if text.len() < self.retry_at && more == More::Coming {
            return Ok(Step::More { consumed: at });
        }
        let text = &text[..text.len().min(self.max_record + 1)];
        let end = match (text.iter().position(|byte| *byte == b'\n'), more) {
            (Some(end), _) => end,
            (None, _) if text.len() > self.max_record => return Err(error),
            (None, More::Ended) => text.len(),
            (None, More::Never) => return Ok(Step::More { consumed: at }),
            (None, More::Coming) => {
                self.retry_at = (text.len() * 2).min(self.max_record + 1);
                return Ok(Step::More { consumed: at });
            }
        };
        // A record that goes on behind the line would be cut in two; but no string of JSON's does.
        if reach > end && !ends_in_string(&text[..end]) {
            return Err(error);
        }
        let Ok(line) = std::str::from_utf8(&text[..end]) else { return Err(error) };
        let step = Step::BadLine { index: self.index, text: line.trim_end_matches('\r'), consumed: at + end };
        self.index += 1;
        self.retry_at = 0;
        Ok(step)
    }

    fn error(&self, problem: RecordProblem) -> RecordError {
        RecordError { index: self.index, problem }
    }
}

/// Whether the text breaks off within a string.
fn ends_in_string(text: &[u8]) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// The common case: a plain string that may be copied as it stands. The second part is the timestamp's value.
fn as_it_stands<'a>(found: &Scan<'a>) -> Option<(Message<'a>, Option<&'a [u8]>)> {
    let (token, reading) = (found.message?, found.reading?);
    if found.ambiguous {
        return None;
    }
    let text = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !reading.ascii {
        std::str::from_utf8(text).ok()?;
    }
    Some((Message { escaped: Cow::Borrowed(text), len: reading.len }, found.timestamp))
}

#[cfg(test)]
mod tests;
