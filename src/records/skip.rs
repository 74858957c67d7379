//! The way over a record that is too long to be kept: its end is found in the text as it passes by.

/// What ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Its closing bracket.
    Record,
    /// That, or a line break within a string, which JSON does not allow: the record was cut there.
    RecordOrBrokenLine,
    /// That, or any line break: records stand on lines of their own.
    RecordOrLine,
    /// A line break; it is no JSON anyway.
    Line,
}

/// How far the way is gone. Brackets are counted, and not compared: nobody will see what is between them.
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
    /// Begins with the record that stands at `start` in the object's text.
    pub(super) fn new(ends: Ends, start: u64) -> Self {
        Self { ends, start, depth: 0, in_string: false, escaped: false, spread: false }
    }

    /// Where it begins.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// It went over several lines.
    pub(super) fn is_spread(&self) -> bool {
        self.spread
    }

    /// The object's end is its end, too.
    pub(super) fn ends_with_the_object(&self) -> bool {
        self.ends == Ends::Line
    }

    /// Looks for the end in the text that follows what was looked at before.
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
