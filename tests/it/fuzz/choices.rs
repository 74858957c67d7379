//! Turns bytes into decisions, so that a mutated byte changes one decision and not the meaning of all later bytes.

use std::borrow::Cow;

/// The remaining decisions. When the bytes are used up, every decision is the first alternative.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `bound`; `bound` is at most 65,536.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let high = if bound > 256 { usize::from(self.byte()) << 8 } else { 0 };
        (high | usize::from(self.byte())) % bound
    }

    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Up to `longest` bytes of the input.
    pub(crate) fn bytes(&mut self, longest: usize) -> &'a [u8] {
        let len = self.below(longest + 1).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    pub(crate) fn text(&mut self, longest: usize) -> Cow<'a, str> {
        String::from_utf8_lossy(self.bytes(longest))
    }
}
