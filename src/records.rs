//! Reads an object's text as records, one at a time, without copying them.
//!
//! [`RecordFormat`] says what the records are. `detect` recognises the format by the text's first bytes; then `json` or `lines`
//! reads the records. Records borrow from the caller's window. The reader keeps only its position and the text around the
//! previous message. It does no I/O, and takes the time as an argument.
//!
//! `json` recognises the framing by the text: a JSON array on one line (as Vector writes it), an array over several lines, one
//! record per line, several arrays in a row, or documents that contain a list of records. `scan` finds `message` and `timestamp`
//! without building values, and the message is handed out as it is. `unusual` reads the records for which this is not possible (a
//! repeated or escaped name, a message that is missing or not a string, text that JSON or UTF-8 does not allow) and mends their
//! text. So a defect in one record does not harm the others. Only a broken structure ends the object, because the reader would
//! have to guess where the next record begins.

mod detect;
mod document;
mod familiar;
mod flow_logs;
mod foreign;
mod format;
mod json;
mod legal;
mod line_time;
mod lines;
mod message;
mod nesting;
mod scan;
mod skip;
mod strings;
mod text;
mod timestamp;
mod unusual;

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;

use self::{
    detect::{Detector, Found},
    json::{BadLines, JsonReader},
    lines::LineReader,
};
pub use self::{
    format::RecordFormat,
    legal::Legal,
    line_time::TimestampFormat,
    message::{EscapedMessage, unescaped_len},
    text::{Pieces, Text},
};
pub(crate) use self::{legal::each_member_of, scan::each_member};

/// One record, borrowed from the window.
#[derive(Debug)]
pub struct Record<'a> {
    /// Position in the object, counted from 0.
    pub index: u64,
    /// Milliseconds since 1970. `None` if the record has no readable and plausible timestamp.
    pub timestamp: Option<i64>,
    /// The text that becomes the event, or several events.
    pub message: EscapedMessage<'a>,
    /// Whether the message differs from the object's text, because JSON or UTF-8 does not allow that text.
    pub mended: bool,
    /// The log stream that the record comes from, if the object names one.
    pub log_stream: Option<Arc<str>>,
    /// The record's own JSON. `None` for a line of text.
    pub text: Option<Text<'a>>,
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
    /// Text in a record's place that makes no event: the header of a log file, or an event of a control message. It counts as one
    /// record.
    Skipped {
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
            Self::Record { consumed, .. }
            | Self::Unreadable { consumed, .. }
            | Self::Skipped { consumed }
            | Self::More { consumed } => *consumed,
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
    /// The object has an unsupported format.
    #[error("the object contains {0} instead of log records; this format is not supported")]
    Unsupported(String),
}

/// U+FEFF in UTF-8. Some programs write it at the beginning of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads the records of one object.
#[derive(Debug)]
pub struct RecordReader {
    reader: Reader,
    limits: Limits,
    bad_lines: BadLines,
}

/// What all readers of one object are given.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Longest record in bytes.
    max_record: usize,
    /// The worker's time.
    now: Timestamp,
    /// The object's time in milliseconds since 1970, for lines that are not expected to have one.
    object_time: Option<i64>,
}

#[derive(Debug)]
enum Reader {
    /// Too few bytes have arrived to recognise the format.
    Detecting(Detector),
    Json(JsonReader),
    Lines(LineReader),
}

impl RecordReader {
    /// Creates the reader of one object of [`RecordFormat::Json`] whose records have at most `max_record` bytes. A timestamp
    /// before 2000, or more than a day after `now`, is ignored.
    pub fn new(max_record: usize, now: Timestamp) -> Self {
        let limits = Limits { max_record, now, object_time: None };
        Self { reader: Reader::Json(JsonReader::new(limits)), limits, bad_lines: BadLines::Break }
    }

    /// Sets the format. `object_time`, in milliseconds since 1970, is the time of lines for which no format of a time is
    /// configured. Call it before the first text is read.
    pub fn of_format(self, format: &RecordFormat, object_time: i64) -> Self {
        let limits = Limits { object_time: Some(object_time), ..self.limits };
        Self { reader: Reader::Detecting(Detector::new(format)), limits, ..self }
    }

    /// Makes the reader step over lines that are not records. It does so only where the defect certainly ends with its line:
    /// outside arrays, and only if some record or array has a line of its own. Text formats have no such lines.
    pub fn stepping_over_bad_lines(mut self) -> Self {
        self.bad_lines = BadLines::StepOver;
        if let Reader::Json(reader) = &mut self.reader {
            reader.bad_lines(self.bad_lines);
        }
        self
    }

    /// Number of records read so far, including unreadable and skipped ones.
    pub fn count(&self) -> u64 {
        match &self.reader {
            Reader::Detecting(_) => 0,
            Reader::Json(reader) => reader.count(),
            Reader::Lines(reader) => reader.count(),
        }
    }

    /// Looks for the next record at the start of `window`, which holds the text after the bytes consumed so far.
    ///
    /// # Errors
    /// See [`RecordError`]. The reader cannot be used after an error, because it would have to guess where the next record
    /// begins.
    pub fn next<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        loop {
            match &mut self.reader {
                Reader::Json(reader) => return reader.next(window, more),
                Reader::Lines(reader) => return reader.next(window, more),
                Reader::Detecting(detector) => match detector.detect(window, more) {
                    Found::Undecided => return Ok(Step::More { consumed: 0 }),
                    Found::Unsupported(what) => {
                        return Err(RecordError { index: 0, problem: RecordProblem::Unsupported(what) });
                    }
                    Found::Format(format) => self.reader = self.of(&format),
                },
            }
        }
    }

    /// The reader of a recognised format.
    fn of(&self, format: &RecordFormat) -> Reader {
        match format {
            RecordFormat::FlowLogs => Reader::Lines(LineReader::flow_logs(self.limits)),
            RecordFormat::Lines(time) => Reader::Lines(LineReader::lines(self.limits, time.as_ref())),
            RecordFormat::Auto
            | RecordFormat::Json
            | RecordFormat::CloudTrail
            | RecordFormat::Subscription
            | RecordFormat::EventBridge => {
                let mut reader = JsonReader::new(self.limits).of(format);
                reader.bad_lines(self.bad_lines);
                Reader::Json(reader)
            }
        }
    }
}

#[cfg(test)]
impl RecordReader {
    /// Gives each record of a good text to `take`.
    pub(crate) fn each_of(&mut self, text: &[u8], mut take: impl FnMut(&Record<'_>)) {
        let mut window = text;
        loop {
            let step = self.next(window, More::Ended).expect("the text is good");
            match &step {
                Step::Record { record, .. } => take(record),
                Step::End => return,
                _ => {}
            }
            window = &window[step.consumed()..];
        }
    }
}

#[cfg(test)]
mod tests;
