//! Recognises an object's format by the first bytes of its text.
//!
//! The result depends on the first [`LOOK_AHEAD`] bytes alone, whatever the pieces in which they arrive. In doubt the text is
//! [`RecordFormat::Json`], whose reader finds the error: text that begins with a bracket is never read line by line, nor text
//! with a line that begins like a record.

use super::{
    BYTE_ORDER_MARK, More, RecordFormat,
    document::{Kind, recognise_beginning},
    foreign, lines,
};

/// Most bytes that are looked at. Objects whose first record or document is longer are recognised by the names in these bytes.
pub(super) const LOOK_AHEAD: usize = 256 * 1024;

/// Waits for enough bytes to recognise the format.
#[derive(Debug)]
pub(super) struct Detector {
    configured: RecordFormat,
    /// Shortest window that is worth the next look.
    retry_at: usize,
}

/// What the first bytes show.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// More text is needed.
    Undecided,
    /// The format, never [`RecordFormat::Auto`].
    Format(RecordFormat),
    /// Content that cannot be read: its name.
    Unsupported(String),
}

impl Detector {
    /// Recognises the format, if `configured` is [`RecordFormat::Auto`], and content that cannot be read.
    pub(super) fn new(configured: &RecordFormat) -> Self {
        Self { configured: configured.clone(), retry_at: 0 }
    }

    /// Looks at the text's beginning.
    pub(super) fn detect(&mut self, window: &[u8], more: More) -> Found {
        if window.len() < self.retry_at && more == More::Coming {
            return Found::Undecided;
        }
        let head = &window[..window.len().min(LOOK_AHEAD)];
        let is_all = head.len() == LOOK_AHEAD || more != More::Coming;
        let found = detect(head, is_all, &self.configured);
        if found == Found::Undecided {
            self.retry_at = (2 * window.len()).min(LOOK_AHEAD);
        }
        found
    }
}

/// Recognises the text that begins with `head`. `is_all`: no more bytes will be looked at.
fn detect(head: &[u8], is_all: bool, configured: &RecordFormat) -> Found {
    let format =
        |format| Found::Format(if configured == &RecordFormat::Auto { format } else { configured.clone() });
    let text = without_mark(head);
    match text.first() {
        None if is_all => return format(RecordFormat::Json),
        Some(b'{') if configured == &RecordFormat::Auto => {
            return match recognise_beginning(text) {
                Err(_) if !is_all => Found::Undecided,
                Ok(kind) | Err(kind) => format(match kind {
                    Kind::Trail => RecordFormat::CloudTrail,
                    Kind::Subscription => RecordFormat::Subscription,
                    Kind::Event => RecordFormat::EventBridge,
                    Kind::Record | Kind::Unknown => RecordFormat::Json,
                }),
            };
        }
        Some(b'{' | b'[') if !matches!(configured, RecordFormat::Lines(_) | RecordFormat::FlowLogs) => {
            return format(RecordFormat::Json);
        }
        _ if !is_all => return Found::Undecided,
        _ => {}
    }
    if let Some(name) = foreign::name(head) {
        return Found::Unsupported(name.to_owned());
    }
    match configured {
        RecordFormat::Auto if !foreign::is_text(text) => Found::Unsupported(BINARY.to_owned()),
        RecordFormat::Auto if lines::is_plain_text(text) => Found::Format(lines::recognise(text)),
        RecordFormat::Lines(_) | RecordFormat::FlowLogs if head.contains(&0) => {
            Found::Unsupported(BINARY.to_owned())
        }
        _ => format(RecordFormat::Json),
    }
}

const BINARY: &str = "binary data";

/// The text without white space and byte order marks at its beginning.
fn without_mark(mut head: &[u8]) -> &[u8] {
    loop {
        head = head.trim_ascii_start();
        match head.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) => head = rest,
            None => return head,
        }
    }
}
