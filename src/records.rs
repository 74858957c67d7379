//! From an object's text to its records, one at a time, in place.
//!
//! The framing is told by the content: a JSON array on one line (what Vector writes), an array over many lines, one
//! record a line, or arrays one after another. The reader borrows from the caller's window and keeps its position, and
//! of the record before what stood around its message. Pure: no I/O; the time comes in as an argument.
//!
//! The scan finds `message` and `timestamp` without building values and hands out the message as it stands. Whatever is
//! unusual (a repeated or escaped name, a message that is no string, none at all, text that is not what JSON allows) is read by
//! `unusual`, which mends text. So a record's defect stays the record's; only where the structure is broken does an object end, because
//! where its next record begins would be a guess.

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
    /// Position in the object, from 0.
    pub index: u64,
    /// Milliseconds since 1970; `None` when the record has none that can be read and believed.
    pub timestamp: Option<i64>,
    /// What becomes the event.
    pub message: Message<'a>,
    /// The message is not quite what was written: that was not what JSON and UTF-8 allow.
    pub mended: bool,
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
    /// What stands in a record's place and cannot be read. It counts as one, and reading goes on behind it.
    Unreadable {
        /// What is known of it.
        unreadable: Unreadable<'a>,
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

impl Step<'_> {
    /// Bytes of the window that are done with.
    pub fn consumed(&self) -> usize {
        match self {
            Self::Record { consumed, .. } | Self::Unreadable { consumed, .. } | Self::More { consumed } => {
                *consumed
            }
            Self::End => 0,
        }
    }
}

/// A record that cannot be read, in an object that can.
#[derive(Debug)]
pub struct Unreadable<'a> {
    /// Its position in the object, and what is wrong with it: a line that is no record, from
    /// [`RecordReader::stepping_over_bad_lines`] alone, or a record longer than any may be.
    pub error: RecordError,
    /// What is to be kept: the line, or what is left of it behind the records that it began with; of a record that is too long, the
    /// place where it stands.
    pub text: Cow<'a, str>,
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index}: {problem}")]
pub struct RecordError {
    /// Position of the record in the object, from 0: how many were read before.
    pub index: u64,
    /// What is wrong with it.
    pub problem: RecordProblem,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// Not JSON, or no object where one belongs.
    #[error("{0}")]
    Malformed(String),
    /// The object ends inside it, or inside the array around it.
    #[error("the object ends before the {0} does")]
    Truncated(&'static str),
    /// Longer than `source.max_record`.
    #[error(
        "it is longer than source.max_record, {limit} bytes: {bytes} bytes from byte {start} of the decompressed object on"
    )]
    TooLong {
        /// The configured ceiling.
        limit: usize,
        /// Where it begins in the object's text.
        start: u64,
        /// How long it is.
        bytes: u64,
    },
    /// An attempt before found it too long, and went on without it.
    #[error("it was longer than source.max_record when the object's other records were delivered")]
    SteppedOver,
    /// The record can be read, and CloudWatch Logs refuses it.
    #[error("CloudWatch Logs refuses it by itself, and takes others")]
    Refused,
    /// The object is a document of a format that is not supported, and no list of records.
    #[error("the object holds no records of a logger's but {0}, which is not supported")]
    Unsupported(String),
}

/// U+FEFF in UTF-8, which some put in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

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
    timestamps: Timestamps,
    /// Bytes of the text in front of the window.
    offset: u64,
    framing: Framing,
    /// A line that is no record may be stepped over.
    steps_over_bad_lines: bool,
    /// What is being stepped over.
    skip: Option<Skip>,
}

/// Whether each record stands on a line of its own, so that the end of a line is the end of what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// No record was read yet.
    Unknown,
    /// It does; or each array does.
    Lines,
    /// Records, or arrays of them, go over several lines.
    Spread,
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
            timestamps: Timestamps::new(now),
            offset: 0,
            framing: Framing::Unknown,
            steps_over_bad_lines: false,
            skip: None,
        }
    }

    /// Goes on behind a line that is no record, where it is certain where the line ends: between records, not within an array,
    /// and once a record, or an array of them, stood on one line.
    pub fn stepping_over_bad_lines(self) -> Self {
        Self { steps_over_bad_lines: true, ..self }
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
                // Objects that were joined have theirs in the middle.
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

    /// What is found first counts.
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
        // What lies beyond the longest record is not looked at: whether it has arrived yet must make no difference.
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
                let problem = format!("byte {position} of it is not JSON: {wanted} expected");
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
                // The rest of the array will show.
                (false, _) => {}
            }
        }
        let timestamp = timestamp.and_then(|value| self.timestamps.parse(value));
        let record = Record { index: self.index, timestamp, message, mended };
        let consumed = at + found.len;
        self.counted();
        Ok(Step::Record { record, consumed })
    }

    /// A record, or something in its place, was read.
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
        if !self.steps_over_bad_lines || self.framing == Framing::Spread || self.place != Place::Top {
            return Err(error);
        }
        let text = &window[at..];
        if text.len() < self.retry_at && more == More::Coming {
            return Ok(Step::More { consumed: at });
        }
        let text = &text[..text.len().min(self.max_record + 1)];
        let (end, is_known) = (text.iter().position(|byte| *byte == b'\n'), self.framing == Framing::Lines);
        // A record that goes on behind the line would be cut in two; but no string of JSON's does.
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
        let line = String::from_utf8_lossy(&text[..end]);
        let text = match line {
            Cow::Borrowed(line) => Cow::Borrowed(line.trim_end_matches('\r')),
            Cow::Owned(line) => Cow::Owned(line.trim_end_matches('\r').to_owned()),
        };
        self.counted();
        Ok(Step::Unreadable { unreadable: Unreadable { error, text }, consumed: at + end })
    }

    /// Begins to step over what is too long, at `at`.
    fn step_over<'a>(
        &mut self,
        window: &'a [u8],
        at: usize,
        ends: Ends,
        more: More,
    ) -> Result<Step<'a>, RecordError> {
        // Only between records does a line end what is on it.
        let ends = match (ends, self.place, self.framing) {
            (Ends::Record, Place::Top, Framing::Lines) => Ends::RecordOrLine,
            (Ends::Record, Place::Top, _) => Ends::RecordOrBrokenLine,
            (ends, ..) => ends,
        };
        self.skip = Some(Skip::new(ends, self.offset + at as u64));
        self.skip(window, at, more)
    }

    /// Goes on to the end of what is too long.
    fn skip<'a>(&mut self, window: &'a [u8], at: usize, more: More) -> Result<Step<'a>, RecordError> {
        let mut skip = self.skip.take().expect("the caller saw one, or began it");
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

/// Whether, behind a line that is no record, there is a record that stands on one line, alone or as an array's first.
fn shows_lines(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_start();
        let line = line.strip_prefix(b"[").map_or(line, <[u8]>::trim_ascii_start);
        line.starts_with(b"{") && scan(line, &mut Around::default()).is_ok()
    })
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
