//! Tracks how deep a value is nested, without recursion.

/// The open brackets, one bit each. A record that consists of brackets takes an eighth of its length in memory.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    /// A set bit stands for an object's bracket.
    objects: Vec<u64>,
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    Array,
    Object,
}

impl Bracket {
    pub(super) fn close(self) -> u8 {
        match self {
            Self::Array => b']',
            Self::Object => b'}',
        }
    }
}

impl Nesting {
    pub(super) fn clear(&mut self) {
        self.depth = 0;
    }

    pub(super) fn enter(&mut self, bracket: Bracket) {
        let (word, bit) = (self.depth / 64, 1 << (self.depth % 64));
        if word == self.objects.len() {
            self.objects.push(0);
        }
        match bracket {
            Bracket::Array => self.objects[word] &= !bit,
            Bracket::Object => self.objects[word] |= bit,
        }
        self.depth += 1;
    }

    /// Closes the innermost bracket, which must exist.
    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    pub(super) fn innermost(&self) -> Option<Bracket> {
        let at = self.depth.checked_sub(1)?;
        let is_object = self.objects[at / 64] >> (at % 64) & 1 == 1;
        Some(if is_object { Bracket::Object } else { Bracket::Array })
    }
}
