//! Reads records that are JSON objects: by themselves, in arrays, or in lists inside of documents.

use std::borrow::Cow;

use super::{
    BYTE_ORDER_MARK, EscapedMessage, Limits, More, Record, RecordError, RecordFormat, RecordProblem, Step,
    Unreadable,
    document::{self, Document, Kind, LONGEST_EVENT, SPACE_BEHIND, recognise},
    scan::{Around, Member, Scan, ScanError, member, scan, whole},
    skip::{Ends, Skip},
    text::Text,
    timestamp::Timestamps,
    unusual,
};

/// Reads the records of one object.
#[derive(Debug)]
pub(super) struct JsonReader {
    state: ParserState,
    index: u64,
    max_record: usize,
    /// Shortest window that is worth the next look.
    retry_at: usize,
    /// The text around the previous message.
    around: Around,
    timestamps: Timestamps,
    /// Position of the window's first byte in the decompressed object.
    offset: u64,
    framing: Framing,
    bad_lines: BadLines,
    /// The record or line that the reader is stepping over.
    skip: Option<Skip>,
    shape: Shape,
    /// The member of each document that has the records. `None`: the records are not inside of documents.
    list: Option<&'static [u8]>,
    document: Document,
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

/// What to do with lines that are not records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadLines {
    /// They end the object.
    Break,
    /// They are stepped over where the defect certainly ends with its line.
    StepOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// Between top-level values.
    Top,
    /// After `[`: a record or `]` follows.
    ArrayStart,
    /// After a comma: a record follows.
    ArrayComma,
    /// After a record: a comma or `]` follows.
    ArrayRecord,
    /// In a document with a list of records, after `{`: a member or `}` follows.
    DocumentStart,
    /// After a comma of the document: a member follows.
    DocumentComma,
    /// After a member of the document: a comma or `}` follows.
    DocumentMember,
}

impl ParserState {
    /// What the object ends inside of, if it ends here.
    fn container(self) -> Option<&'static str> {
        match self {
            Self::Top => None,
            Self::ArrayStart | Self::ArrayComma | Self::ArrayRecord => Some("array"),
            Self::DocumentStart | Self::DocumentComma | Self::DocumentMember => Some("document"),
        }
    }
}

/// What becomes an object's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Its `message`.
    Message,
    /// The whole object. This member has its time.
    Whole(&'static [u8]),
}

impl JsonReader {
    pub(super) fn new(Limits { max_record, now, .. }: Limits) -> Self {
        Self {
            state: ParserState::Top,
            index: 0,
            max_record,
            retry_at: 0,
            around: Around::default(),
            timestamps: Timestamps::new(now),
            offset: 0,
            framing: Framing::Unknown,
            bad_lines: BadLines::Break,
            skip: None,
            shape: Shape::Message,
            list: None,
            document: Document::default(),
        }
    }

    pub(super) fn of(self, format: &RecordFormat) -> Self {
        let (shape, list) = match format {
            RecordFormat::CloudTrail => (Shape::Whole(b"eventTime"), Some(document::TRAIL_LIST)),
            RecordFormat::Subscription => (Shape::Message, Some(document::SUBSCRIPTION_LIST)),
            RecordFormat::EventBridge => (Shape::Whole(b"time"), None),
            RecordFormat::Auto | RecordFormat::Json | RecordFormat::FlowLogs | RecordFormat::Lines(_) => {
                (Shape::Message, None)
            }
        };
        Self { shape, list, ..self }
    }

    pub(super) fn bad_lines(&mut self, bad_lines: BadLines) {
        self.bad_lines = bad_lines;
    }

    pub(super) fn count(&self) -> u64 {
        self.index
    }

    pub(super) fn next<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let step = if self.skip.is_some() { self.skip(window, 0, more) } else { self.find(window, more) }?;
        self.offset += step.consumed() as u64;
        Ok(step)
    }

    fn find<'a>(&mut self, window: &'a [u8], more: More) -> Result<Step<'a>, RecordError> {
        let mut at = 0;
        loop {
            let Some(&byte) = window.get(at) else {
                return match (more, self.state.container()) {
                    (More::Coming | More::Never, _) => Ok(Step::More { consumed: at }),
                    (More::Ended, None) => Ok(Step::End),
                    (More::Ended, Some(container)) => Err(self.error(RecordProblem::Truncated(container))),
                };
            };
            match (self.state, byte) {
                (_, b' ' | b'\t' | b'\r') | (ParserState::Top, b'\n') => {}
                (_, b'\n') => self.has_framing(Framing::Spread),
                (ParserState::Top, b'[') if self.list.is_none() => self.state = ParserState::ArrayStart,
                (ParserState::ArrayStart | ParserState::ArrayRecord, b']') => match self.list {
                    Some(_) => self.state = ParserState::DocumentMember,
                    None => self.ends_on_top(),
                },
                (ParserState::ArrayRecord, b',') => self.state = ParserState::ArrayComma,
                (ParserState::Top, b'{') if self.list.is_some() => {
                    (self.state, self.document) = (ParserState::DocumentStart, Document::default());
                }
                (ParserState::Top | ParserState::ArrayStart | ParserState::ArrayComma, b'{') => {
                    return self.record(window, at, more);
                }
                (ParserState::DocumentStart | ParserState::DocumentComma, b'"') => {
                    match self.member(&window[at..], more)? {
                        Some(len) => at += len - 1,
                        None => return Ok(Step::More { consumed: at }),
                    }
                }
                (ParserState::DocumentMember, b',') => self.state = ParserState::DocumentComma,
                (ParserState::DocumentStart | ParserState::DocumentMember, b'}') => {
                    self.has_list()?;
                    self.ends_on_top();
                }
                // If several texts were joined, there are byte order marks in the middle.
                (ParserState::Top, _) if window[at..].starts_with(BYTE_ORDER_MARK) => {
                    at += BYTE_ORDER_MARK.len() - 1;
                }
                (ParserState::Top, _)
                    if more == More::Coming && BYTE_ORDER_MARK.starts_with(&window[at..]) =>
                {
                    return Ok(Step::More { consumed: at });
                }
                (state, byte) => {
                    let wanted = match state {
                        ParserState::Top if self.list.is_some() => "a JSON object",
                        ParserState::Top => "a JSON object or array",
                        ParserState::ArrayStart => "a JSON object or the end of the array",
                        ParserState::ArrayComma => "a JSON object",
                        ParserState::ArrayRecord => "a comma or the end of the array",
                        ParserState::DocumentStart => "a name or the end of the document",
                        ParserState::DocumentComma => "a name",
                        ParserState::DocumentMember => "a comma or the end of the document",
                    };
                    let found = char::from(byte).escape_default();
                    let problem = format!("{wanted} expected, not '{found}'");
                    return self.malformed(window, at, 0, more, problem);
                }
            }
            at += 1;
        }
    }

    /// Refuses a document that ends without its list: a rule's format is wrong, or the list's name is.
    fn has_list(&self) -> Result<(), RecordError> {
        match self.list {
            Some(list) if !self.document.has_list => {
                let list = String::from_utf8_lossy(list);
                Err(self
                    .error(RecordProblem::Unsupported(format!("a JSON document without the array {list:?}"))))
            }
            _ => Ok(()),
        }
    }

    /// An array or a document ends here, and nothing is around it.
    fn ends_on_top(&mut self) {
        self.state = ParserState::Top;
        self.has_framing(Framing::Lines);
    }

    /// Reads a member of a document, whose name is at the start of `text`, or the beginning of the list of records. Returns its
    /// length, or `None` if more text is needed.
    fn member(&mut self, text: &[u8], more: More) -> Result<Option<usize>, RecordError> {
        let list = self.list.expect("only documents have members");
        let Some(text) = self.worth_a_look(text, more) else { return Ok(None) };
        match member(text, list) {
            Ok(Member::ListStarts { len }) => {
                (self.state, self.retry_at, self.document.has_list) = (ParserState::ArrayStart, 0, true);
                Ok(Some(len))
            }
            Ok(Member::Complete { name, value, len }) if len <= self.max_record => {
                self.document.take(name, value);
                (self.state, self.retry_at) = (ParserState::DocumentMember, 0);
                Ok(Some(len))
            }
            Ok(Member::Complete { .. }) | Err(ScanError::Incomplete) if text.len() > self.max_record => {
                let limit = self.max_record;
                let problem = format!(
                    "a member of the document, besides its list of records, has more than {limit} bytes"
                );
                Err(self.error(RecordProblem::Malformed(problem)))
            }
            Ok(Member::Complete { .. }) | Err(ScanError::Incomplete) if more == More::Ended => {
                Err(self.error(RecordProblem::Truncated("document")))
            }
            Ok(Member::Complete { .. }) | Err(ScanError::Incomplete) => {
                self.put_off(text);
                Ok(None)
            }
            Err(ScanError::Malformed(position, wanted)) => {
                let problem =
                    format!("byte {position} of the document's member is not JSON: {wanted} expected");
                Err(self.error(RecordProblem::Malformed(problem)))
            }
        }
    }

    /// The part of `text` to look at: one byte more than the longest record may have, so that the result does not depend on how
    /// much text has arrived. `None` if too little has arrived since the last look.
    fn worth_a_look<'a>(&self, text: &'a [u8], more: More) -> Option<&'a [u8]> {
        if text.len() < self.retry_at && more == More::Coming {
            return None;
        }
        Some(&text[..text.len().min(self.max_record + 1)])
    }

    /// Puts the next look off until twice as much text has arrived, so that a long record is scanned only a few times.
    fn put_off(&mut self, looked_at: &[u8]) {
        self.retry_at = (looked_at.len() * 2).min(self.max_record + 1);
    }

    /// Remembers the framing that is found first.
    fn has_framing(&mut self, framing: Framing) {
        if self.framing == Framing::Unknown {
            self.framing = framing;
        }
    }

    fn record<'a>(&mut self, window: &'a [u8], at: usize, more: More) -> Result<Step<'a>, RecordError> {
        let behind = &window[at..];
        let Some(text) = self.worth_a_look(behind, more) else { return Ok(Step::More { consumed: at }) };
        let scanned = match self.shape {
            Shape::Message => scan(text, &mut self.around),
            Shape::Whole(time) => whole(text, time),
        };
        let found = match scanned {
            Ok(found) if found.len <= self.max_record => found,
            Ok(_) | Err(ScanError::Incomplete) if text.len() > self.max_record => {
                self.is_no_document(|| recognise(text))?;
                return self.step_over(window, at, Ends::Record, more);
            }
            Ok(_) | Err(ScanError::Incomplete) if more == More::Ended => {
                return Err(self.error(RecordProblem::Truncated("record")));
            }
            Ok(_) | Err(ScanError::Incomplete) => {
                self.put_off(text);
                return Ok(Step::More { consumed: at });
            }
            Err(ScanError::Malformed(position, wanted)) => {
                let problem = format!("byte {position} of the record is not JSON: {wanted} expected");
                return self.malformed(window, at, position, more, problem);
            }
        };
        if self.may_be_document() && found.message.is_none() {
            let kind = recognise(&text[..found.len]);
            self.is_no_document(|| kind)?;
            if kind == Kind::Unknown && found.len > LONGEST_EVENT {
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
        if self.document.is_control {
            let consumed = at + found.len;
            self.counted();
            return Ok(Step::Skipped { consumed });
        }
        let json = &text[..found.len];
        let (message, timestamp, mended, own) = match (self.shape, as_it_stands(&found)) {
            (Shape::Message, Some((message, timestamp))) => {
                (message, timestamp, false, Text::around(json, found.message, timestamp))
            }
            (Shape::Message, None) => {
                let unusual = unusual::read(json);
                (unusual.message, unusual.timestamp, unusual.mended, Text::of(json))
            }
            (Shape::Whole(_), _) => {
                let (message, mended) = unusual::json(json);
                (message, found.timestamp, mended, Text::whole(json))
            }
        };
        if self.framing == Framing::Unknown && self.index == 0 {
            let spread = json.contains(&b'\n');
            match (spread, self.state) {
                (true, _) => self.framing = Framing::Spread,
                (false, ParserState::Top) => self.framing = Framing::Lines,
                // The rest of the array shows the framing.
                (false, _) => {}
            }
        }
        let timestamp = timestamp.and_then(|value| self.timestamps.parse(value));
        let log_stream = self.document.log_stream.clone();
        let record = Record { index: self.index, timestamp, message, mended, log_stream, text: Some(own) };
        let consumed = at + found.len;
        self.counted();
        Ok(Step::Record { record, consumed })
    }

    /// Counts a record, or unreadable text in a record's place.
    fn counted(&mut self) {
        self.index += 1;
        self.retry_at = 0;
        if self.state != ParserState::Top {
            self.state = ParserState::ArrayRecord;
        }
    }

    /// Whether the first JSON object of the text may be a document instead of a record.
    fn may_be_document(&self) -> bool {
        self.index == 0 && self.state == ParserState::Top && self.shape == Shape::Message
    }

    /// Checks that the text's first JSON object is not a document with a list of records, which would become one event.
    fn is_no_document(&self, kind: impl FnOnce() -> Kind) -> Result<(), RecordError> {
        if !self.may_be_document() {
            return Ok(());
        }
        let what = match kind() {
            Kind::Trail => {
                "AWS events in \"Records\", as CloudTrail writes them, too late in its first JSON object"
            }
            Kind::Subscription => {
                "a CloudWatch Logs subscription's \"logEvents\", too late in its first JSON object"
            }
            Kind::Record | Kind::Event | Kind::Unknown => return Ok(()),
        };
        Err(self.error(RecordProblem::Unsupported(what.to_owned())))
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
        // Documents follow each other without line breaks.
        let may_have_lines = self.list.is_none() && self.framing != Framing::Spread;
        if self.bad_lines == BadLines::Break || !may_have_lines || self.state != ParserState::Top {
            return Err(error);
        }
        let Some(text) = self.worth_a_look(&window[at..], more) else {
            return Ok(Step::More { consumed: at });
        };
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
                self.put_off(text);
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
        let ends = match (ends, self.state, self.framing) {
            (Ends::Record, ParserState::Top, Framing::Lines) => Ends::RecordOrLine,
            (Ends::Record, ParserState::Top, _) => Ends::RecordOrBrokenLine,
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
        } else if self.state == ParserState::Top {
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
        scan(line, &mut Around::default()).is_ok()
    })
}

/// Whether the text ends inside a JSON string. Up to its end, the text is JSON.
fn ends_in_string(text: &[u8]) -> bool {
    let (mut inside, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => inside = !inside,
            _ => {}
        }
    }
    inside
}

/// Returns the message and the timestamp's value if both can be used without a copy: the message is a legal string, and no
/// name is ambiguous.
fn as_it_stands<'a>(found: &Scan<'a>) -> Option<(EscapedMessage<'a>, Option<&'a [u8]>)> {
    let (token, reading) = (found.message?, found.reading?);
    if found.ambiguous {
        return None;
    }
    let text = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !reading.ascii {
        std::str::from_utf8(text).ok()?;
    }
    Some((EscapedMessage { escaped: Cow::Borrowed(text), len: reading.len }, found.timestamp))
}
