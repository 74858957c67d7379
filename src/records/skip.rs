//! Steps over a record that is too long to be kept: looks for its end in the text as it arrives.

/// Where the record or line to step over ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// At the record's closing bracket.
    Record,
    /// At the closing bracket, or at a line break inside a string. JSON does not allow such a line break: the record was cut
    /// there.
    RecordOrBrokenLine,
    /// At the closing bracket or at any line break, because each record has a line of its own.
    RecordOrLine,
    /// At a line break. The text is not JSON.
    Line,
}

/// State of stepping over one record or line. Brackets are counted, but their kinds are not compared, because nothing reads the
/// text.
#[derive(Debug)]
pub(super) struct Skip {
    ends: Ends,
    start: u64,
    depth: u64,
    in_string: bool,
    escaped: bool,
    spread: bool,
}

impl Skip {
    /// Begins at byte `start` of the decompressed object.
    pub(super) fn new(ends: Ends, start: u64) -> Self {
        Self { ends, start, depth: 0, in_string: false, escaped: false, spread: false }
    }

    /// Position of the first byte in the decompressed object.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Whether the record spans several lines.
    pub(super) fn is_spread(&self) -> bool {
        self.spread
    }

    /// Whether the end of the object is a valid end of the record or line.
    pub(super) fn ends_with_the_object(&self) -> bool {
        self.ends == Ends::Line
    }

    /// Looks for the end in `text`, which follows the text of the previous call. Returns the end's position in `text`.
    pub(super) fn end(&mut self, text: &[u8]) -> Option<usize> {
        for (at, byte) in text.iter().enumerate() {
            if *byte == b'\n' {
                match self.ends {
                    Ends::Line | Ends::RecordOrLine => return Some(at),
                    Ends::RecordOrBrokenLine if self.in_string => return Some(at),
                    Ends::RecordOrBrokenLine | Ends::Record => self.spread = true,
                }
            }
            match byte {
                _ if self.ends == Ends::Line => {}
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_string,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}
