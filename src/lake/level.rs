//! Finds a record's level in its members or its message.
//!
//! A wrong level is worse than none, because a query for errors must not find lines that are no errors. So a word counts as a
//! level only where loggers write the level, and not inside a sentence.

use crate::records::each_member;

/// Names of the member that has the level, in a record or in a message that is JSON.
const NAMES: [&str; 4] = ["level", "severity", "log.level", "lvl"];
/// Bytes at a message's beginning in which a level is looked for.
const LOOKED_AT: usize = 4096;

/// How serious a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `trace`
    Trace,
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `warn`
    Warn,
    /// `error`
    Error,
    /// `fatal`
    Fatal,
}

/// Words for levels, in lower case. The first six are also the values of the column.
const WORDS: [(&str, Level); 22] = [
    ("trace", Level::Trace),
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("warn", Level::Warn),
    ("error", Level::Error),
    ("fatal", Level::Fatal),
    ("verbose", Level::Trace),
    ("information", Level::Info),
    ("informational", Level::Info),
    ("notice", Level::Info),
    ("warning", Level::Warn),
    ("err", Level::Error),
    ("severe", Level::Error),
    ("critical", Level::Fatal),
    // Syslog's short forms, and those of zap and Go's standard library.
    ("crit", Level::Fatal),
    ("alert", Level::Fatal),
    ("emerg", Level::Fatal),
    ("emergency", Level::Fatal),
    ("panic", Level::Fatal),
    ("dpanic", Level::Fatal),
    ("dbg", Level::Debug),
    ("inf", Level::Info),
];
/// Those of the words that count as a level at the beginning of a line of text.
const WORDS_IN_TEXT: usize = 14;

impl Level {
    /// The value of the column.
    pub fn as_str(self) -> &'static str {
        WORDS[self as usize].0
    }

    /// Reads a member of a record, or of a message that is JSON: the JSON text of its name, without quotes, and of its value.
    pub fn of_member(name: &str, value: &str) -> Option<Self> {
        if !NAMES.contains(&name) {
            return None;
        }
        match value.strip_prefix('"') {
            Some(rest) => of_word(rest.strip_suffix('"')?, &WORDS),
            // The numbers of bunyan and pino.
            None => {
                let numbers = ["10", "20", "30", "40", "50", "60"];
                numbers.iter().position(|number| *number == value).map(|at| WORDS[at].1)
            }
        }
    }

    /// Reads a message: JSON, klog, logfmt, or text with the level at its beginning.
    pub fn of_message(message: &str) -> Option<Self> {
        let start = &message.as_bytes()[..message.len().min(LOOKED_AT)];
        let text = start.trim_ascii_start();
        match text.first()? {
            b'{' => of_json(text),
            _ => of_klog(text).or_else(|| of_text(text)),
        }
    }
}

fn of_word(word: &str, words: &[(&str, Level)]) -> Option<Level> {
    words.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, level)| *level)
}

/// Reads JSON, whose end may be missing.
fn of_json(text: &[u8]) -> Option<Level> {
    let mut found = None;
    let _ = each_member(text, |name, value| {
        if found.is_none() && NAMES.iter().any(|known| known.as_bytes() == name) {
            let value = String::from_utf8_lossy(value);
            found = std::str::from_utf8(name).ok().and_then(|name| Level::of_member(name, &value));
        }
    });
    found
}

/// Reads the header of klog and glog: `I1121 08:00:00.373359`, `I20261121 08:00:00.373359`.
fn of_klog(text: &[u8]) -> Option<Level> {
    let (letter, rest) = text.split_first()?;
    let level = match letter {
        b'I' => Level::Info,
        b'W' => Level::Warn,
        b'E' => Level::Error,
        b'F' => Level::Fatal,
        b'D' => Level::Debug,
        _ => return None,
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let behind = rest[digits..].strip_prefix(b" ")?;
    (matches!(digits, 4 | 8) && time_of_day(behind).is_some()).then_some(level)
}

/// Reads text that begins with the level, perhaps after a time.
fn of_text(text: &[u8]) -> Option<Level> {
    let (is_timed, in_bracket, rest) = match time(text) {
        Some(rest) => (true, false, rest),
        None => match text.strip_prefix(b"[").and_then(time) {
            Some(rest) => match rest.strip_prefix(b"]") {
                Some(rest) => (true, false, rest),
                None => (true, true, rest),
            },
            None => (false, false, text),
        },
    };
    let mut rest = if is_timed { rest.trim_ascii_start() } else { rest };
    if in_bracket {
        // env_logger: `[2026-11-21T08:00:00Z WARN  module] text`
        return upper_word(rest).map(|(level, _)| level);
    }
    // Python's usual format: `2026-11-21 08:00:00,250 - module - WARNING - text`.
    if is_timed && let Some(named) = rest.strip_prefix(b"- ") {
        rest = match upper_word(named) {
            Some(_) => named,
            None => {
                let at = named.windows(3).position(|part| part == b" - ")?;
                let (level, behind) = upper_word(&named[at + 3..])?;
                return behind.starts_with(b" - ").then_some(level);
            }
        };
    }
    if let Some(level) = of_logfmt(rest) {
        return Some(level);
    }
    // The process or the thread may come first: `[1] [INFO]`, `[main] INFO`.
    for _ in 0..3 {
        let Some(inside) = rest.strip_prefix(b"[") else { break };
        let end = inside.iter().take(128).position(|byte| *byte == b']')?;
        let word = std::str::from_utf8(inside[..end].trim_ascii()).ok()?;
        if let Some(level) = of_word(word, &WORDS[..WORDS_IN_TEXT]) {
            return Some(level);
        }
        rest = inside[end + 1..].trim_ascii_start();
    }
    let (word, behind) = word(rest)?;
    let level = of_word(word, &WORDS[..WORDS_IN_TEXT])?;
    let is_upper = word.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_certain = match behind {
        // `ERROR: text`; but `info:8080` may be anything.
        [b':'] | [b':', b' ' | b'\t' | b'\n' | b'\r', ..] => true,
        // Python's `logging.basicConfig`: `INFO:root:text`
        [b':', ..] => is_upper,
        // zap's console: `2026-11-21T08:00:00.123Z  info  text`, with tabs.
        [b'\t', ..] => is_timed || is_upper,
        [] | [b' ' | b'\n' | b'\r' | b'|' | b']', ..] => is_timed && is_upper,
        _ => false,
    };
    is_certain.then_some(level)
}

/// A word for a level in capitals, and the text behind it.
fn upper_word(text: &[u8]) -> Option<(Level, &[u8])> {
    let (word, behind) = word(text)?;
    let is_upper = word.bytes().all(|byte| byte.is_ascii_uppercase());
    is_upper.then_some((of_word(word, &WORDS[..WORDS_IN_TEXT])?, behind))
}

/// The letters at the beginning, and the text behind them.
fn word(text: &[u8]) -> Option<(&str, &[u8])> {
    let len = text.iter().take(16).take_while(|byte| byte.is_ascii_alphabetic()).count();
    let (word, behind) = text.split_at(len);
    std::str::from_utf8(word).ok().filter(|word| !word.is_empty()).map(|word| (word, behind))
}

/// Reads logfmt, up to the level: `time="..." level=warn`.
fn of_logfmt(mut text: &[u8]) -> Option<Level> {
    loop {
        let is_name = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'@');
        let (name, rest) = text.split_at(text.iter().take_while(is_name).count());
        let rest = rest.strip_prefix(b"=").filter(|_| !name.is_empty())?;
        let (value, behind) = match rest.strip_prefix(b"\"") {
            Some(inside) => {
                let end = quoted_end(inside)?;
                (&inside[..end], &inside[end + 1..])
            }
            None => rest.split_at(rest.iter().take_while(|byte| !byte.is_ascii_whitespace()).count()),
        };
        if NAMES.iter().any(|known| known.as_bytes() == name) {
            return of_word(std::str::from_utf8(value).ok()?, &WORDS);
        }
        if !behind.first()?.is_ascii_whitespace() {
            return None;
        }
        text = behind.trim_ascii_start();
    }
}

/// The position of the quote that ends a text with backslashes.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })
}

/// Returns the text behind a date, a time of day, and an offset if there is one.
fn time(text: &[u8]) -> Option<&[u8]> {
    let date = text.first_chunk::<10>()?;
    let is_digit = |at: usize| date[at].is_ascii_digit();
    let is_date = [0, 1, 2, 3, 5, 6, 8, 9].into_iter().all(is_digit)
        && matches!(date[4], b'-' | b'/')
        && date[4] == date[7]
        && matches!(text.get(10)?, b'T' | b' ');
    if !is_date {
        return None;
    }
    let rest = time_of_day(&text[11..])?;
    let unspaced = rest.strip_prefix(b" ").unwrap_or(rest);
    Some(zone(unspaced).unwrap_or(rest))
}

/// Returns the text behind an offset from UTC, or behind the name of UTC.
fn zone(text: &[u8]) -> Option<&[u8]> {
    let named = [&b"Z"[..], b"UTC", b"GMT"].into_iter().find_map(|name| text.strip_prefix(name));
    named.or_else(|| {
        let offset = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-"))?;
        let digits = offset.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b':').count();
        matches!(digits, 4 | 5).then_some(&offset[digits..])
    })
}

/// Returns the text behind `08:00:00`, with any fraction.
fn time_of_day(text: &[u8]) -> Option<&[u8]> {
    let (time, rest) = text.split_first_chunk::<8>()?;
    let is_time = time.iter().enumerate().all(|(at, byte)| match at {
        2 | 5 => *byte == b':',
        _ => byte.is_ascii_digit(),
    });
    if !is_time {
        return None;
    }
    let fraction = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b","));
    let digits = fraction.map_or(0, |text| text.iter().take_while(|byte| byte.is_ascii_digit()).count());
    Some(if digits == 0 { rest } else { &rest[1 + digits..] })
}

#[cfg(test)]
mod tests;
