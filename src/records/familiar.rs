//! Compares a record with the one before, apart from the text of its strings.
//!
//! The result of a scan does not depend on the text of the strings that it skips. So if a record differs from a scanned record
//! only inside such strings, its scan would come to the same place in the same state. The comparison finds that place faster:
//! it compares many bytes at a time, and looks for the end of each string that differs.

use std::{iter, ops::Range};

use fearless_simd::{prelude::*, u8x32};

use super::strings::string_end;

/// Longest text that is remembered. The metadata of a Kubernetes record takes about 1 KiB. A longer text would not fit into the
/// processor's first-level cache, and would take noticeable memory.
const MAX_TEXT: usize = 16 * 1024;

/// A piece of a scanned record, and the positions of the strings in it whose text does not matter.
#[derive(Debug, Default)]
pub(super) struct Familiar {
    text: Vec<u8>,
    strings: Vec<Range<usize>>,
    /// For each byte of the text, the index of the string that the byte belongs to; [`NO_STRING`] outside strings. A closing
    /// quote belongs to its string.
    string_at: Vec<u16>,
}

const NO_STRING: u16 = u16::MAX;

impl Familiar {
    /// Remembers a piece of the record, with the strings in it (without quotes, in order, as positions in the record). A piece
    /// that is too long is not remembered, and [`Familiar::follow`] then finds nothing.
    pub(super) fn remember(&mut self, record: &[u8], piece: Range<usize>, strings: &[Range<usize>]) {
        self.forget();
        if piece.len() <= MAX_TEXT {
            self.text.extend_from_slice(&record[piece.clone()]);
            let here = strings.iter().map(|string| string.start - piece.start..string.end - piece.start);
            self.strings.extend(here);
            self.string_at.resize(piece.len(), NO_STRING);
            for (number, string) in (0..NO_STRING).zip(&self.strings) {
                self.string_at[string.start..=string.end].fill(number);
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.text.clear();
        self.strings.clear();
        self.string_at.clear();
    }

    /// Returns the length of the piece at the start of `bytes` that differs from the remembered piece only in the text of its
    /// strings. `None` if `bytes` begin with something else, or end within the piece.
    #[inline(always)]
    pub(super) fn follow<S: Simd>(&self, simd: S, bytes: &[u8]) -> Option<usize> {
        if self.text.is_empty() {
            return None;
        }
        let (mut here, mut there) = (0, 0);
        loop {
            let same = common_prefix(simd, &self.text[here..], &bytes[there..]);
            (here, there) = (here + same, there + same);
            if here == self.text.len() {
                return Some(there);
            }
            let string = self.strings.get(usize::from(self.string_at[here]))?;
            there = string_end(simd, bytes, there - (here - string.start))?;
            here = string.end;
        }
    }
}

/// Length of the common prefix.
#[inline(always)]
fn common_prefix<S: Simd>(simd: S, one: &[u8], other: &[u8]) -> usize {
    const WIDE: usize = 32;
    const WORD: usize = 8;
    let mut same = 0;
    while let (Some(wide), Some(other_wide)) =
        (one[same..].first_chunk::<WIDE>(), other[same..].first_chunk::<WIDE>())
    {
        let (wide, other_wide): (u8x32<S>, u8x32<S>) =
            ((*wide).simd_into(simd), (*other_wide).simd_into(simd));
        let alike = wide.simd_eq(other_wide).to_bitmask();
        if alike.trailing_ones() < WIDE as u32 {
            return same + alike.trailing_ones() as usize;
        }
        // The step is constant, so that the processor can start the next comparison before this one ends.
        same += WIDE;
    }
    while let (Some(word), Some(other_word)) =
        (one[same..].first_chunk::<WORD>(), other[same..].first_chunk::<WORD>())
    {
        let different = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other_word);
        if different != 0 {
            return same + different.trailing_zeros() as usize / 8;
        }
        same += WORD;
    }
    same + iter::zip(&one[same..], &other[same..]).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};
    use proptest::prelude::*;

    use super::*;

    fn follow(familiar: &Familiar, bytes: &[u8]) -> Option<usize> {
        dispatch!(Level::new(), simd => familiar.follow(simd, bytes))
    }

    #[test]
    fn strings_may_differ_and_nothing_else() {
        let record = br#"{"a":"text","n":5,"b":["x"],"message":"m"}"#;
        let strings = [6..10, 24..25];
        for string in strings.clone() {
            assert_eq!(record[string.end], b'"', "the test's positions are right");
        }
        let mut familiar = Familiar::default();
        assert_eq!(follow(&familiar, record), None, "nothing is remembered");
        familiar.remember(record, 0..38, &strings);
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(follow(&familiar, text.as_bytes()).map(|at| &text[at..]), expected, "{text}");
        };
        check(r#"{"a":"text","n":5,"b":["x"],"message":"m"}"#, Some(r#""m"}"#));
        check(r#"{"a":"","n":5,"b":["longer \" than before"],"message":1"#, Some("1"));
        check(r#"{"a":"te\"","n":5,"b":["x\\"],"message":"#, Some(""));
        check(r#"{"a":"text","n":6,"b":["x"],"message":"m"}"#, None);
        check(r#"{"c":"text","n":5,"b":["x"],"message":"m"}"#, None);
        check(r#"{"a":"text","n":5,"b":["x","y"],"message":"m"}"#, None);
        check(r#"{"a":"text","n":5,"b":["x"#, None);
        check("", None);
    }

    #[test]
    fn a_piece_of_up_to_16_kib_is_remembered() {
        let mut familiar = Familiar::default();
        for (len, remembered) in [(16 << 10, true), ((16 << 10) + 1, false)] {
            let piece = vec![b'1'; len];
            familiar.remember(&piece, 0..len, &[]);
            assert_eq!(follow(&familiar, &piece), remembered.then_some(len));
        }
    }

    proptest! {
        #[test]
        fn prefixes_are_measured(one in "[ab]{0,100}", other in "[ab]{0,100}", start in "[ab]{0,100}") {
            let (one, other) = (format!("{start}{one}"), format!("{start}{other}"));
            let same = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
            let (one, other) = (one.as_bytes(), other.as_bytes());
            prop_assert_eq!(dispatch!(Level::new(), simd => common_prefix(simd, one, other)), same);
        }
    }
}
