//! Totals of accepted events, as numbers that do not depend on the order of arrival.

use std::ops::AddAssign;

/// Counts and hash of accepted events. Except for hash collisions, equal `events`, `bytes` and `hash` mean that the same
/// events were accepted equally often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of accepted events.
    pub events: u64,
    /// Bytes of their messages, without the overhead of 26 bytes per event.
    pub bytes: u64,
    /// Wrapping sum of a 64-bit hash of (timestamp, message) over all events.
    pub hash: u64,
    /// Number of successful PutLogEvents calls.
    pub puts: u64,
}

impl Totals {
    /// Adds one event. `puts` does not change.
    pub fn add_event(&mut self, timestamp: i64, message: &str) {
        self.events += 1;
        self.bytes += message.len() as u64;
        self.hash = self.hash.wrapping_add(event_hash(timestamp, message));
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.hash = self.hash.wrapping_add(other.hash);
        self.puts += other.puts;
    }
}

/// Odd constants with about half of their bits set: binary digits of the square roots of 2 and 3.
const MIX: [u64; 2] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];

/// Hashes eight bytes per step with a folded multiplication, so that hashing does not slow load runs down.
fn event_hash(timestamp: i64, message: &str) -> u64 {
    let (words, tail) = message.as_bytes().as_chunks::<8>();
    let mut hash = fold(timestamp.cast_unsigned() ^ MIX[1], MIX[0]);
    for word in words {
        hash = fold(hash ^ u64::from_le_bytes(*word), MIX[0]);
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    hash = fold(hash ^ u64::from_le_bytes(last), MIX[1]);
    fold(hash ^ message.len() as u64, MIX[1])
}

/// Multiplies to 128 bits and folds the halves, so that every input bit affects every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(events: &[(i64, &str)]) -> Totals {
        let mut totals = Totals::default();
        for (timestamp, message) in events {
            totals.add_event(*timestamp, message);
        }
        totals
    }

    #[test]
    fn order_does_not_matter_but_everything_else_does() {
        let base = of(&[(1, "first line"), (2, "second"), (2, "")]);
        assert_eq!(base, of(&[(2, ""), (2, "second"), (1, "first line")]));
        for other in [
            of(&[(2, "first line"), (1, "second"), (2, "")]),
            of(&[(1, "first linf"), (2, "second"), (2, "")]),
            of(&[(1, "first line"), (2, "seconc"), (2, "")]),
            of(&[(1, "first line"), (2, "second"), (2, "second"), (2, "")]),
            of(&[(1, "first line"), (2, "second"), (2, "\0")]),
        ] {
            assert_ne!(base.hash, other.hash);
        }
    }

    #[test]
    fn totals_add_up() {
        let mut sum = of(&[(1, "a")]);
        sum += of(&[(2, "bc")]);
        assert_eq!(sum, of(&[(2, "bc"), (1, "a")]));
        assert_eq!((sum.events, sum.bytes), (2, 3));
    }
}
