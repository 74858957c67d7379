//! Finds the end of a JSON string, its unescaped length and its escapes. Looks at many bytes at a time. Pure.

use std::borrow::Cow;

use fearless_simd::{prelude::*, u8x32};

/// Length of the longest name that is looked for.
const LONGEST_NAME: usize = b"timestamp_end".len();

/// Facts about a string's text that breaks no rule of JSON. Whether the text is UTF-8 is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Length in UTF-8 once unescaped.
    pub(super) len: usize,
    /// Whether all bytes of the JSON text are ASCII, which makes the text UTF-8.
    pub(super) ascii: bool,
}

/// Finds the closing quote of the string whose text begins at `start`.
#[inline(always)]
pub(super) fn string_end<S: Simd>(simd: S, bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        at = special(simd, bytes, at)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        // A quote after a backslash does not end the string.
        at += 2;
    }
}

/// Finds the next quote or backslash. Inlined, because strings are short and many: a call would cost more than the search.
#[inline(always)]
fn special<S: Simd>(simd: S, bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut rest = bytes.get(at..)?;
    while let Some((block, more)) = rest.split_first_chunk::<BLOCK>() {
        let found = specials((*block).simd_into(simd));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        (at, rest) = (at + BLOCK, more);
    }
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\')).map(|found| at + found)
}

/// Number of bytes that are compared at once.
const BLOCK: usize = 32;

/// Returns one bit for each byte, set for quotes and backslashes. The lowest bit is the first byte's.
#[inline(always)]
fn specials<S: Simd>(block: u8x32<S>) -> u64 {
    (block.simd_eq(b'"') | block.simd_eq(b'\\')).to_bitmask()
}

/// Returns one bit for each byte, set for control characters. The lowest bit is the first byte's.
#[inline(always)]
fn controls<S: Simd>(block: u8x32<S>) -> u64 {
    block.min(0x1f).simd_eq(block).to_bitmask()
}

/// Returns one bit for each byte, set for bytes that are not ASCII. The lowest bit is the first byte's.
#[inline(always)]
fn highs<S: Simd>(block: u8x32<S>) -> u64 {
    block.max(0x80).simd_eq(block).to_bitmask()
}

/// Finds the closing quote of the string whose text begins at `start`, and checks its text: no control character, every escape
/// legal, every surrogate in a pair. UTF-8 is not checked. If the text breaks a rule, the [`Reading`] is `None`.
#[inline(always)]
pub(super) fn delivered_end<S: Simd>(
    simd: S,
    bytes: &[u8],
    start: usize,
) -> Option<(usize, Option<Reading>)> {
    let (mut at, mut shorter, mut clean, mut ascii) = (start, 0, true, true);
    loop {
        let rest = bytes.get(at..)?;
        let (mut specials, controls, highs, len) = match rest.first_chunk::<BLOCK>() {
            Some(block) => {
                let block = (*block).simd_into(simd);
                (specials(block), controls(block), highs(block), BLOCK)
            }
            None if rest.is_empty() => return None,
            None => {
                let bits = |wanted: fn(u8) -> bool| {
                    rest.iter().rev().fold(0, |bits, byte| bits << 1 | u64::from(wanted(*byte)))
                };
                let specials = bits(|byte| matches!(byte, b'"' | b'\\'));
                (specials, bits(|byte| byte < 0x20), bits(|byte| !byte.is_ascii()), rest.len())
            }
        };
        let mut next = len;
        while specials != 0 {
            let here = specials.trailing_zeros() as usize;
            if rest[here] == b'"' {
                let before = (1 << here) - 1;
                (clean, ascii) = (clean && controls & before == 0, ascii && highs & before == 0);
                return Some((
                    at + here,
                    clean.then_some(Reading { len: at + here - start - shorter, ascii }),
                ));
            }
            // Most escapes are quotes, because many messages are JSON themselves.
            let escape = if *rest.get(here + 1)? == b'"' { Some((2, 1)) } else { escape(&rest[here..]) };
            clean &= escape.is_some();
            let (escaped, plain) = escape.unwrap_or((2, 1));
            shorter += escaped - plain;
            next = here + escaped;
            if next >= len {
                break;
            }
            specials &= u64::MAX << next;
        }
        (clean, ascii) = (clean && controls == 0, ascii && highs == 0);
        at += next.max(len);
    }
}

/// Returns the length of the escape at the start of `text`, and the length of its character in UTF-8. `None` if the escape is not
/// legal.
pub(super) fn escape(text: &[u8]) -> Option<(usize, usize)> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some((2, 1)),
        b'u' => match hex(text.get(2..6)?)? {
            0x0000..=0x007f => Some((6, 1)),
            0x0080..=0x07ff => Some((6, 2)),
            // Two escapes of six bytes make one character of four.
            0xd800..=0xdbff => {
                let low = text[6..].strip_prefix(b"\\u").and_then(|rest| hex(rest.get(..4)?))?;
                (0xdc00..=0xdfff).contains(&low).then_some((12, 4))
            }
            0xdc00..=0xdfff => None,
            _ => Some((6, 3)),
        },
        _ => None,
    }
}

/// Returns the character of the escape at the start of `text`, and the escape's length. `None` if the escape is not legal.
pub(super) fn unescape(text: &[u8]) -> Option<(char, usize)> {
    let character = match text.get(1)? {
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| hex(text.get(at + 2..at + 6)?);
            let (len, _) = escape(text)?;
            let units = [unit(0), (len == 12).then(|| unit(6)).flatten()];
            let character = char::decode_utf16(units.into_iter().flatten()).next()?.ok()?;
            return Some((character, len));
        }
        _ => return None,
    };
    Some((character, 2))
}

/// Reads four hexadecimal digits as a number.
pub(super) fn hex(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0_u16, |value, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(value << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16"))
    })
}

/// Unescapes a name if it can be one of the names that are looked for. Returns other names as they are.
pub(super) fn plain(name: &[u8]) -> Cow<'_, [u8]> {
    // An escaped character has at most six bytes.
    if name.len() > 6 * LONGEST_NAME || !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    let quoted = [b"\"", name, b"\""].concat();
    serde_json::from_slice(&quoted).map_or(Cow::Borrowed(name), |name: String| Cow::Owned(name.into_bytes()))
}

#[cfg(test)]
mod tests;
