//! A cache of results that depend only on the text around a record's message and time.
//!
//! Nearly all records of an object differ only in these two values, and in a few members that alternate, such as `stream`. So a
//! result that depends on the other members is computed once. For later records, a comparison of the text finds the result.

use crate::records::Pieces;

/// Most cached texts: a pod writes to two streams, and may have two containers.
const MOST: usize = 4;
/// Longest cached text. The metadata of a Kubernetes record takes about 1 KiB.
const LONGEST: usize = 16 * 1024;

/// The texts around the values of earlier records, with the result for each.
#[derive(Debug)]
pub(super) struct Known<T> {
    entries: Vec<KnownText<T>>,
    /// The entry that was found last.
    last: usize,
    /// The result for the current record, if its text is too long for the cache.
    other: Option<T>,
}

#[derive(Debug)]
struct KnownText<T> {
    around: Vec<u8>,
    lens: [usize; 3],
    made: T,
}

impl<T> KnownText<T> {
    fn is_of(&self, pieces: &Pieces<'_>) -> bool {
        let [first, second, third] = pieces.around;
        let (one, rest) = self.around.split_at(self.lens[0]);
        let (two, three) = rest.split_at(self.lens[1]);
        one == first && two == second && three == third
    }
}

impl<T> Known<T> {
    /// Returns the cached result for the text around the record's values. If there is none, `make` computes the result.
    pub(super) fn find(&mut self, pieces: &Pieces<'_>, make: impl FnOnce() -> T) -> &T {
        let found = match self.entries.get(self.last) {
            Some(last) if last.is_of(pieces) => Some(self.last),
            _ => self.entries.iter().position(|entry| entry.is_of(pieces)),
        };
        if let Some(found) = found {
            self.last = found;
            return &self.entries[found].made;
        }
        let lens = pieces.around.map(<[u8]>::len);
        if lens.iter().sum::<usize>() > LONGEST {
            return self.other(make());
        }
        let entry = KnownText { around: pieces.around.concat(), lens, made: make() };
        if self.entries.len() < MOST {
            self.last = self.entries.len();
            self.entries.push(entry);
        } else {
            self.last = (self.last + 1) % MOST;
            self.entries[self.last] = entry;
        }
        &self.entries[self.last].made
    }

    /// Keeps a result until the next record.
    pub(super) fn other(&mut self, made: T) -> &T {
        self.other.insert(made)
    }
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), last: 0, other: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The record `{"a":A,"message":"m"}`.
    fn find(known: &mut Known<String>, a: &str, make: Option<&str>) -> String {
        let (before, behind) = (format!(r#"{{"a":{a},"message":"#), "}");
        let pieces = Pieces {
            around: [before.as_bytes(), behind.as_bytes(), b""],
            message: b"\"m\"",
            timestamp: None,
            timestamp_first: false,
        };
        known.find(&pieces, || make.expect("the text is known").to_owned()).clone()
    }

    #[test]
    fn texts_are_found_again() {
        let mut known = Known::default();
        for (number, a) in ["1", "2", "3", "4"].into_iter().enumerate() {
            assert_eq!(find(&mut known, a, Some(&number.to_string())), number.to_string());
        }
        for (number, a) in [(0, "1"), (2, "3"), (1, "2"), (3, "4"), (3, "4")] {
            assert_eq!(find(&mut known, a, None), number.to_string());
        }
        find(&mut known, "2", None);
        // The texts that were found last stay.
        find(&mut known, "5", Some("new"));
        for a in ["5", "2", "1"] {
            find(&mut known, a, None);
        }
        assert_eq!(known.entries.len(), MOST);
    }

    #[test]
    fn the_same_bytes_in_other_pieces_are_another_text() {
        let mut known = Known::default();
        let mut count = 0;
        let mut made = |around: [&[u8]; 3]| {
            let pieces = Pieces { around, message: b"\"m\"", timestamp: None, timestamp_first: false };
            let make = || {
                count += 1;
                count - 1
            };
            known.find(&pieces, make).to_owned()
        };
        assert_eq!([made([b"ab", b"c", b""]), made([b"a", b"bc", b""]), made([b"ab", b"c", b""])], [0, 1, 0]);
        assert_eq!(
            [made([b"ab", b"c", b"d"]), made([b"ab", b"", b"c"]), made([b"a", b"bc", b""])],
            [2, 3, 1]
        );
    }

    #[test]
    fn a_long_text_is_not_remembered() {
        let mut known = Known::default();
        let long = format!("\"{}\"", "x".repeat(LONGEST));
        assert_eq!(find(&mut known, &long, Some("one")), "one");
        assert_eq!(find(&mut known, &long, Some("two")), "two");
    }
}
