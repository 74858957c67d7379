//! Reads text line by line: a line is a record.

use memchr::memchr;

use super::{
    BYTE_ORDER_MARK, Limits, More, Record, RecordError, RecordFormat, RecordProblem, Step, Unreadable,
    flow_logs::{self, EndField},
    line_time::TimestampFormat,
    timestamp::Timestamps,
    unusual,
};

/// Reads the lines of one object.
#[derive(Debug)]
pub(super) struct LineReader {
    index: u64,
    max_record: usize,
    head: Head,
    times: Times,
    /// Time of the object.
    object_time: Option<i64>,
    timestamps: Timestamps,
    /// Position of the window's first byte in the decompressed object.
    offset: u64,
    /// Bytes at the window's beginning that have no line break.
    searched: usize,
    /// The position of the line that the reader is stepping over, because it is too long.
    too_long: Option<u64>,
}

/// Which lines at the object's beginning are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    /// The first line that is not empty has the names of the fields. Otherwise the object is no flow log, or its head is missing.
    FieldNames,
    /// The first line shows whether there are directives.
    Unknown,
    /// Directives, which begin with `#`: W3C's Extended Log File Format, as CloudFront writes it.
    Directives,
    /// All lines from here on are records.
    Over,
}

/// Where a line's time comes from, in milliseconds since 1970.
#[derive(Debug)]
enum Times {
    /// All lines have this time, that of the object.
    Object(Option<i64>),
    /// The first text in the line that has this format. A line without one has the time of the line before.
    Found(TimestampFormat, Option<i64>),
    /// The end field of a flow log.
    End(Option<EndField>),
}

impl LineReader {
    pub(super) fn flow_logs(limits: Limits) -> Self {
        Self::new(limits, Head::FieldNames, Times::End(None))
    }

    /// Lines whose time is found by `format`; without one, the object's.
    pub(super) fn lines(limits: Limits, format: Option<&TimestampFormat>) -> Self {
        let times = match format {
            Some(format) => Times::Found(format.clone(), None),
            None => Times::Object(limits.object_time),
        };
        Self::new(limits, Head::Unknown, times)
    }

    fn new(limits: Limits, head: Head, times: Times) -> Self {
        Self {
            index: 0,
            max_record: limits.max_record,
            head,
            times,
            object_time: limits.object_time,
            timestamps: Timestamps::new(limits.now),
            offset: 0,
            searched: 0,
            too_long: None,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.index
    }

    pub(super) fn next<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let step = self.line(window, more);
        self.offset += step.consumed() as u64;
        Ok(step)
    }

    fn line<'a>(&mut self, window: &'a [u8], more: More) -> Step<'a> {
        let has_mark = self.offset == 0 && window.starts_with(BYTE_ORDER_MARK);
        let start = if has_mark { BYTE_ORDER_MARK.len() } else { 0 };
        let from = self.searched.max(start);
        let (end, consumed) = match memchr(b'\n', &window[from..]) {
            Some(at) => (from + at, from + at + 1),
            None if self.too_long.is_some() && more != More::Ended => {
                return Step::More { consumed: window.len() };
            }
            None if more == More::Ended && window.len() == start && self.too_long.is_none() => {
                return Step::End;
            }
            None if more == More::Ended => (window.len(), window.len()),
            None if window.len() - start > self.max_record => {
                self.too_long = Some(self.offset + start as u64);
                self.searched = 0;
                return Step::More { consumed: window.len() };
            }
            None => {
                self.searched = window.len();
                return Step::More { consumed: 0 };
            }
        };
        self.searched = 0;
        let index = self.index;
        self.index += 1;
        let begun = self.too_long.take().unwrap_or(self.offset + start as u64);
        let bytes = self.offset + end as u64 - begun;
        if bytes > self.max_record as u64 {
            self.head = Head::Over;
            let problem = RecordProblem::TooLong { limit: self.max_record, start: begun, bytes };
            let text = problem.to_string().into();
            let unreadable = Unreadable { error: RecordError { index, problem }, text };
            return Step::Unreadable { unreadable, consumed };
        }
        let line = &window[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if self.is_of_head(line) {
            return Step::Skipped { consumed };
        }
        let timestamp = self.time(line);
        let (message, mended) = unusual::line(line);
        let record = Record { index, timestamp, message, mended, log_stream: None, text: None };
        Step::Record { record, consumed }
    }

    /// Whether the line is no record, but part of the head.
    fn is_of_head(&mut self, line: &[u8]) -> bool {
        match self.head {
            Head::Over => false,
            Head::FieldNames if line.is_empty() => false,
            Head::FieldNames => {
                self.head = Head::Over;
                let is_head = flow_logs::may_be_head(line);
                self.times = match is_head {
                    true => Times::End(flow_logs::end_field(line)),
                    false => Times::Object(self.object_time),
                };
                is_head
            }
            Head::Unknown => {
                let first = DIRECTIVES.iter().any(|directive| line.starts_with(directive));
                self.head = if first { Head::Directives } else { Head::Over };
                first
            }
            Head::Directives if line.starts_with(b"#") => true,
            Head::Directives => {
                self.head = Head::Over;
                false
            }
        }
    }

    fn time(&mut self, line: &[u8]) -> Option<i64> {
        match &mut self.times {
            Times::Object(time) => *time,
            Times::Found(format, last) => {
                let found = format.find(line).and_then(|time| self.timestamps.plausible(time));
                *last = found.or(*last);
                *last
            }
            Times::End(end) => self.timestamps.parse(end.as_ref()?.value(line)?),
        }
    }
}

/// The directives with which a file of the Extended Log File Format begins.
const DIRECTIVES: [&[u8]; 2] = [b"#Version:", b"#Fields:"];

/// Whether text that is not JSON is read line by line: `head` is text, and nothing in it looks like a part of JSON records.
pub(super) fn is_plain_text(head: &[u8]) -> bool {
    let is_record = |line: &[u8]| {
        let line = line.trim_ascii_start();
        let inside = line.strip_prefix(b"[").map_or(line, <[u8]>::trim_ascii_start);
        inside.starts_with(b"{")
    };
    let is_fragment = matches!(head.first(), Some(b'"' | b'}' | b']' | b',' | b':'));
    !is_fragment && !head.split(|byte| *byte == b'\n').any(is_record)
}

/// The format of text that is not JSON.
pub(super) fn recognise(head: &[u8]) -> RecordFormat {
    let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match flow_logs::is_head(first) {
        true => RecordFormat::FlowLogs,
        false => RecordFormat::Lines(None),
    }
}
