//! Shows results of commands: as aligned text for people, or as JSON.

use std::io::{self, Write};

use anyhow::Context;
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Text,
    Json,
}

impl Show {
    /// Writes the result to standard output, as text or as JSON.
    ///
    /// # Errors
    /// Standard output cannot be written, for example because the program that reads it has ended.
    pub(super) fn result(
        self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> anyhow::Result<()> {
        let mut out = match self {
            Self::Text => text(),
            Self::Json => format!("{:#}\n", json()),
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        io::stdout().write_all(out.as_bytes()).context("cannot write to standard output")
    }
}

/// Aligns a table with a line of heads.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    columns(std::iter::once(heads.map(str::to_owned)).chain(rows))
}

/// Aligns the columns of lines, two spaces apart.
pub(super) fn columns<const N: usize>(lines: impl IntoIterator<Item = [String; N]>) -> String {
    let lines: Vec<_> = lines.into_iter().collect();
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Escapes control characters, so that text from a row cannot move the terminal's cursor.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

/// The same, or a dash if there is no text.
pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { printable(text) }
}
