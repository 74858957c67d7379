//! Reads an object's text as records, one at a time, without copying them.
//!
//! The reader recognises the framing by the text: a JSON array on one line (as Vector writes it), an array over several lines,
//! one record per line, or several arrays in a row. Records borrow from the caller's window. The reader keeps only its position
//! and the text around the previous message. It does no I/O, and takes the time as an argument.
//!
//! `scan` finds `message` and `timestamp` without building values, and the message is handed out as it is. `unusual` reads the
//! records for which this is not possible (a repeated or escaped name, a message that is missing or not a string, text that
//! JSON or UTF-8 does not allow) and mends their text. So a defect in one record does not harm the others. Only a broken
//! structure ends the object, because the reader would have to guess where the next record begins.

mod document;
mod familiar;
mod message;
mod nesting;
mod scan;
mod skip;
mod strings;
mod timestamp;
mod unusual;

use std::borrow::Cow;

use jiff::Timestamp;

pub use self::message::Message;
use self::{
    document::{Document, LONGEST_EVENT, SPACE_BEHIND, recognise},
    scan::{Around, Scan, ScanError, scan},
    skip::{Ends, Skip},
    timestamp::Timestamps,
};

/// One record, borrowed from the window.
#[derive(Debug)]
pub struct Record<'a> {
    /// Position in the object, counted from 0.
    pub index: u64,
    /// Milliseconds since 1970. `None` if the record has no readable and plausible timestamp.
    pub timestamp: Option<i64>,
    /// The text that becomes the event, or several events.
    pub message: Message<'a>,
    /// Whether the message differs from the object's text, because JSON or UTF-8 does not allow that text.
    pub mended: bool,
}

/// What the reader found at the start of the window.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record. The caller consumes `consumed` bytes when it no longer needs the record.
    Record {
        /// The record.
        record: Record<'a>,
        /// Length in the window, up to the record's end.
        consumed: usize,
    },
    /// Text that cannot be read, in a record's place. It counts as one record, and reading goes on after it.
    Unreadable {
        /// The error, and the text to keep.
        unreadable: Unreadable<'a>,
        /// Length in the window, up to the end of the text.
        consumed: usize,
    },
    /// The window has no complete record: consume this many bytes, and call again with a longer window.
    More {
        /// Bytes of the window that are no longer needed.
        consumed: usize,
    },
    /// The object is complete: no record is left.
    End,
}

impl Step<'_> {
    /// Bytes of the window that are no longer needed.
    pub fn consumed(&self) -> usize {
        match self {
            Self::Record { consumed, .. } | Self::Unreadable { consumed, .. } | Self::More { consumed } => {
                *consumed
            }
            Self::End => 0,
        }
    }
}

/// Unreadable text in a record's place, in an object whose other records can be read.
#[derive(Debug)]
pub struct Unreadable<'a> {
    /// The position, and what is wrong: a line that is not a record (only with [`RecordReader::stepping_over_bad_lines`]), or a
    /// record that is too long.
    pub error: RecordError,
    /// The text to quarantine: the bad line, without the records at its beginning. For a record that is too long, a text that
    /// says where in the object the record is.
    pub text: Cow<'a, str>,
}

/// What follows the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// More text may follow.
    Coming,
    /// No text follows, because the rest of the object cannot be decoded. The reader returns the complete records, and does not
    /// report the incomplete last one as an error.
    Never,
    /// No text follows: the object ends here. An incomplete record is an error.
    Ended,
}

/// An error in a record. All records before it are good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index}: {problem}")]
pub struct RecordError {
    /// Position of the record in the object, counted from 0.
    pub index: u64,
    /// What is wrong with the record.
    pub problem: RecordProblem,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// The text is not JSON, or something else is in the place of a JSON object.
    #[error("{0}")]
    Malformed(String),
    /// The object ends inside a record or an array.
    #[error("the object ends before the {0} does")]
    Truncated(&'static str),
    /// The record is longer than `source.max_record`.
    #[error(
        "the record is longer than source.max_record ({limit} bytes): it takes {bytes} bytes from byte {start} of the decompressed object"
    )]
    TooLong {
        /// `source.max_record`.
        limit: usize,
        /// Position of the record's first byte in the decompressed object.
        start: u64,
        /// Length of the record in bytes.
        bytes: u64,
    },
    /// An earlier attempt left the record out, because the record was too long.
    #[error("an earlier attempt left the record out, because the record was longer than source.max_record")]
    SteppedOver,
    /// The record can be read, but CloudWatch Logs refuses its event.
    #[error("CloudWatch Logs refuses the record's event, but accepts other events of the object")]
    Refused,
    /// The object is one document of an unsupported format, not a list of records.
    #[error("the object contains {0} instead of log records; this format is not supported")]
    Unsupported(String),
}

/// U+FEFF in UTF-8. Some programs write it at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the records of one object.
#[derive(Debug)]
pub struct RecordReader {
    place: Place,
    index: u64,
    max_record: usize,
    /// Shortest window that is worth the next scan. It doubles each time the record is incomplete, so that a long record is
    /// scanned only a few times.
    retry_at: usize,
    /// The text around the previous message.
    around: Around,
    timestamps: Timestamps,
    /// Position of the window's first byte in the decompressed object.
    offset: u64,
    framing: Framing,
    /// Whether to step over lines that are not records.
    steps_over_bad_lines: bool,
    /// The record or line that the reader is stepping over.
    skip: Option<Skip>,
}

/// Whether each record has a line of its own. If so, a defect reaches no further than the end of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No record has been read yet.
    Unknown,
    /// Each record, or each array, has a line of its own.
    Lines,
    /// Records or arrays span several lines.
    Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Between top-level values.
    Top,
    /// After `[`: a record or `]` follows.
    ArrayStart,
    /// After a comma: a record follows.
    ArrayComma,
    /// After a record: a comma or `]` follows.
    ArrayRecord,
}

impl RecordReader {
    /// Creates the reader of one object whose records have at most `max_record` bytes. A timestamp before 2000, or more than
    /// a day after `now`, is ignored.
    pub fn new(max_record: usize, now: Timestamp) -> Self {
        Self {
            place: Place::Top,
            index: 0,
            max_record,
            retry_at: 0,
            around: Around::default(),
            timestamps: Timestamps::new(now),
            offset: 0,
            framing: Framing::Unknown,
            steps_over_bad_lines: false,
            skip: None,
        }
    }

    /// Makes the reader step over lines that are not records. It does so only where the defect certainly ends with its line:
    /// outside arrays, and only if some record or array has a line of its own.
    pub fn stepping_over_bad_lines(self) -> Self {
        Self { steps_over_bad_lines: true, ..self }
    }

    /// Number of records read so far, unreadable ones included.
    pub fn count(&self) -> u64 {
        self.index
    }

    /// Looks for the next record at the start of `window`, which holds the text after the bytes consumed so far.
    ///
    /// # Errors
    /// See [`RecordError`]. The reader cannot be used after an error, because it would have to guess where the next record
    /// begins.
    pub fn next<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let step = if self.skip.is_some() { self.skip(window, 0, more) } else { self.find(window, more) }?;
        self.offset += step.consumed() as u64;
        Ok(step)
    }

    fn find<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let mut at = 0;
        loop {
            let Some(&byte) = window.get(at) else {
                return match (more, self.place) {
                    (More::Coming | More::Never, _) => Ok(Step::More { consumed: at }),
                    (More::Ended, Place::Top) => Ok(Step::End),
                    (More::Ended, _) => Err(self.error(RecordProblem::Truncated("array"))),
                };
            };
            match (self.place, byte) {
                (_, b' ' | b'\t' | b'\r') | (Place::Top, b'\n') => {}
                (_, b'\n') => self.has_framing(Framing::Spread),
                (Place::Top, b'[') => self.place = Place::ArrayStart,
                (Place::ArrayStart | Place::ArrayRecord, b']') => {
                    self.place = Place::Top;
                    self.has_framing(Framing::Lines);
                }
                (Place::ArrayRecord, b',') => self.place = Place::ArrayComma,
                (Place::Top | Place::ArrayStart | Place::ArrayComma, b'{') => {
                    return self.record(window, at, more);
                }
                // If several texts were joined, there are byte order marks in the middle.
                (Place::Top, _) if window[at..].starts_with(BYTE_ORDER_MARK) => {
                    at += BYTE_ORDER_MARK.len() - 1;
                }
                (Place::Top, _) if more == More::Coming && BYTE_ORDER_MARK.starts_with(&window[at..]) => {
                    return Ok(Step::More { consumed: at });
                }
                (place, byte) => {
                    let wanted = match place {
                        Place::Top => "a JSON object or array",
                        Place::ArrayStart => "a JSON object or the end of the array",
                        Place::ArrayComma => "a JSON object",
                        Place::ArrayRecord => "a comma or the end of the array",
                    };
                    let found = char::from(byte).escape_default();
                    let problem = format!("{wanted} expected, not '{found}'");
                    return self.malformed(window, at, 0, more, problem);
                }
            }
            at += 1;
        }
    }

    /// Remembers the framing that is found first.
    fn has_framing(&mut self, framing: Framing) {
        if self.framing == Framing::Unknown {
            self.framing = framing;
        }
    }

    fn record<'a>(&mut self, window: &'a [u8], at: usize, more: More) -> Result<Step<'a>, RecordError> {
        let behind = &window[at..];
        if behind.len() < self.retry_at && more == More::Coming {
            return Ok(Step::More { consumed: at });
        }
        // The scan gets at most one byte more than the longest record may have, so that the result does not depend on how much
        // text has arrived.
        let text = &behind[..behind.len().min(self.max_record + 1)];
        let found = match scan(text, &mut self.around) {
            Ok(found) if found.len <= self.max_record => found,
            Ok(_) | Err(ScanError::Incomplete) if text.len() > self.max_record => {
                self.is_no_document(recognise(text))?;
                return self.step_over(window, at, Ends::Record, more);
            }
            Ok(_) | Err(ScanError::Incomplete) if more == More::Ended => {
                return Err(self.error(RecordProblem::Truncated("record")));
            }
            Ok(_) | Err(ScanError::Incomplete) => {
                self.retry_at = (text.len() * 2).min(self.max_record + 1);
                return Ok(Step::More { consumed: at });
            }
            Err(ScanError::Malformed(position, wanted)) => {
                let problem = format!("byte {position} of the record is not JSON: {wanted} expected");
                return self.malformed(window, at, position, more, problem);
            }
        };
        if self.index == 0 && self.place == Place::Top && found.message.is_none() {
            let document = recognise(&text[..found.len]);
            self.is_no_document(document)?;
            if document == Document::Unknown && found.len > LONGEST_EVENT {
                let space = behind[found.len..].iter().take(SPACE_BEHIND);
                let space = space.take_while(|byte| byte.is_ascii_whitespace()).count();
                if found.len + space == behind.len() && space < SPACE_BEHIND && more != More::Ended {
                    self.retry_at = found.len + SPACE_BEHIND;
                    return Ok(Step::More { consumed: at });
                }
                if found.len + space == behind.len() || space == SPACE_BEHIND {
                    let what = format!("one JSON document of {} bytes without a message", found.len);
                    return Err(self.error(RecordProblem::Unsupported(what)));
                }
            }
        }
        let (message, timestamp, mended) = match as_it_stands(&found) {
            Some((message, timestamp)) => (message, timestamp, false),
            None => {
                let unusual = unusual::read(&text[..found.len]);
                (unusual.message, unusual.timestamp, unusual.mended)
            }
        };
        if self.framing == Framing::Unknown && self.index == 0 {
            let spread = text[..found.len].contains(&b'\n');
            match (spread, self.place) {
                (true, _) => self.framing = Framing::Spread,
                (false, Place::Top) => self.framing = Framing::Lines,
                // The rest of the array shows the framing.
                (false, _) => {}
            }
        }
        let timestamp = timestamp.and_then(|value| self.timestamps.parse(value));
        let record = Record { index: self.index, timestamp, message, mended };
        let consumed = at + found.len;
        self.counted();
        Ok(Step::Record { record, consumed })
    }

    /// Counts a record, or unreadable text in a record's place.
    fn counted(&mut self) {
        self.index += 1;
        self.retry_at = 0;
        if self.place != Place::Top {
            self.place = Place::ArrayRecord;
        }
    }

    fn is_no_document(&self, document: Document) -> Result<(), RecordError> {
        match document {
            Document::Envelope(what) if self.index == 0 && self.place == Place::Top => {
                Err(self.error(RecordProblem::Unsupported(what.to_owned())))
            }
            Document::Envelope(_) | Document::Record | Document::Unknown => Ok(()),
        }
    }

    /// Handles text that begins at `at` and is malformed `reach` bytes later: steps over its line, or returns the error that
    /// ends the object.
    fn malformed<'a>(
        &mut self,
        window: &'a [u8],
        at: usize,
        reach: usize,
        more: More,
        problem: String,
    ) -> Result<Step<'a>, RecordError> {
        let error = self.error(RecordProblem::Malformed(problem));
        if !self.steps_over_bad_lines || self.framing == Framing::Spread || self.place != Place::Top {
            return Err(error);
        }
        let text = &window[at..];
        if text.len() < self.retry_at && more == More::Coming {
            return Ok(Step::More { consumed: at });
        }
        let text = &text[..text.len().min(self.max_record + 1)];
        let (end, is_known) = (text.iter().position(|byte| *byte == b'\n'), self.framing == Framing::Lines);
        // If the defect lies behind the first line, the text may be a record over several lines, which must not be cut in two.
        // But a JSON string cannot contain a line break: if the first line ends inside a string, it is a record that was cut.
        let cuts = |end: usize| reach > end && !ends_in_string(&text[..end]);
        let end = match end {
            Some(end) if cuts(end) => return Err(error),
            Some(end) if is_known || shows_lines(&text[end..]) => end,
            None if is_known && text.len() > self.max_record => {
                return self.step_over(window, at, Ends::Line, more);
            }
            None if is_known && more == More::Ended => text.len(),
            None if is_known && more == More::Never => return Ok(Step::More { consumed: at }),
            Some(_) | None if more == More::Coming && text.len() <= self.max_record => {
                self.retry_at = (text.len() * 2).min(self.max_record + 1);
                return Ok(Step::More { consumed: at });
            }
            Some(_) | None => return Err(error),
        };
        self.framing = Framing::Lines;
        let kept = text[..end].iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
        let text = String::from_utf8_lossy(&text[..kept]);
        self.counted();
        Ok(Step::Unreadable { unreadable: Unreadable { error, text }, consumed: at + end })
    }

    /// Begins to step over the record or line at `at`, which is too long.
    fn step_over<'a>(
        &mut self,
        window: &'a [u8],
        at: usize,
        ends: Ends,
        more: More,
    ) -> Result<Step<'a>, RecordError> {
        // Inside an array, a record may span several lines. Outside, a line break can be its end.
        let ends = match (ends, self.place, self.framing) {
            (Ends::Record, Place::Top, Framing::Lines) => Ends::RecordOrLine,
            (Ends::Record, Place::Top, _) => Ends::RecordOrBrokenLine,
            (ends, ..) => ends,
        };
        self.skip = Some(Skip::new(ends, self.offset + at as u64));
        self.skip(window, at, more)
    }

    /// Looks for the end of the record or line that is too long.
    fn skip<'a>(&mut self, window: &'a [u8], at: usize, more: More) -> Result<Step<'a>, RecordError> {
        let mut skip = self.skip.take().expect("the callers make sure that a skip is open");
        let end = match skip.end(&window[at..]) {
            Some(end) => at + end,
            None if more == More::Ended && skip.ends_with_the_object() => window.len(),
            None if more == More::Ended => return Err(self.error(RecordProblem::Truncated("record"))),
            None => {
                self.skip = Some(skip);
                return Ok(Step::More { consumed: window.len() });
            }
        };
        if skip.is_spread() {
            self.has_framing(Framing::Spread);
        } else if self.place == Place::Top {
            self.has_framing(Framing::Lines);
        }
        let bytes = self.offset + end as u64 - skip.start();
        let error = self.error(RecordProblem::TooLong { limit: self.max_record, start: skip.start(), bytes });
        let text = Cow::Owned(error.problem.to_string());
        self.counted();
        Ok(Step::Unreadable { unreadable: Unreadable { error, text }, consumed: end })
    }

    fn error(&self, problem: RecordProblem) -> RecordError {
        RecordError { index: self.index, problem }
    }
}

/// Whether one of the lines after a bad line begins with a complete record, alone or as the first of an array.
fn shows_lines(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        let line = line.strip_prefix(b"[").map_or(line, <[u8]>::trim_ascii_start);
        line.starts_with(b"{") && scan(line, &mut Around::default()).is_ok()
    })
}

/// Whether the text ends inside a JSON string.
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

/// Returns the message and the timestamp's value if both can be used without a copy: the message is a legal string, and no
/// name is ambiguous.
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
