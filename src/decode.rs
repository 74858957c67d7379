//! Decompresses an object's stored bytes into a window of bounded size.
//!
//! The compression is recognised by the first bytes, not by the object's name: gzip (any number of members), zstd (any number of
//! frames) or none. The decoder does no I/O: the caller passes in the bytes that arrived and takes the text out of the window. It
//! passes in bytes only when it needs more text, so nothing is read from the socket before that.

mod frames;

use self::frames::{Frames, is_zstd};
pub use self::frames::{MAX_WINDOW, ORDINARY_WINDOW};
use flate2::{Decompress, FlushDecompress, Status};

/// Size of one decompression step in bytes: large enough to make the cost of a call negligible, small enough for a core's
/// cache.
const STEP: usize = 256 * 1024;
/// Bytes of the first step.
const FIRST_STEP: usize = 32 * 1024;
/// Most free room in the window before a step, and so most bytes that one step writes. A long record leaves the window with a
/// large capacity. Without this limit, one step could fill all of it and block its thread meanwhile.
const MOST_ROOM: usize = 8 * STEP;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Number of bytes needed to recognise the compression.
const HEAD: usize = 4;

/// Decompressed text that the caller has not consumed yet.
#[derive(Debug, Default)]
pub struct Window {
    buffer: Vec<u8>,
    start: usize,
}

impl Window {
    /// The decompressed bytes that are not consumed yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Marks the first `count` unread bytes as consumed.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.buffer.len(), "consumed more than the window has");
    }

    /// Makes room for one step: moves the unread bytes (part of one record) to the front of the buffer.
    fn make_room(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        let room = self.buffer.capacity() - self.buffer.len();
        if self.buffer.capacity() == 0 {
            // Many objects are smaller than a step.
            self.buffer.reserve_exact(FIRST_STEP);
        } else if room > MOST_ROOM {
            self.buffer.shrink_to(self.buffer.len() + STEP);
        } else {
            self.buffer.reserve_exact(STEP);
        }
    }
}

/// Decompresses one object.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    produced: u64,
    limit: u64,
    max_window: u64,
}

/// Outcome of one decompression step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a zstd frame may wait for permission to use its window"]
pub enum Decoded {
    /// The step succeeded.
    Step,
    /// A zstd frame has filled [`ORDINARY_WINDOW`], and now needs the window that its header announced, which has this many
    /// bytes. The library has reserved the addresses, but has not used the memory beyond [`ORDINARY_WINDOW`]. The caller must
    /// get the memory, call [`Decoder::allow`], and call [`Decoder::decode`] again, even without further input.
    NeedsWindow(u64),
}

#[derive(Debug)]
enum State {
    /// Too few bytes have arrived to recognise the compression.
    Detecting(Vec<u8>),
    Gzip(Decompress),
    /// After a gzip member: another member, zero padding or the end of the object follows.
    BetweenMembers,
    Zstd(Frames),
    Plain,
}

/// Why the decompression of an object stopped. The text decompressed before the error can be used.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed data is broken: a bad block, a wrong CRC, garbage after the last member.
    #[error("the {format} data is broken after {produced} decompressed bytes: {problem}")]
    Corrupt {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Decompressed bytes so far.
        produced: u64,
        /// The library's error text.
        problem: String,
    },
    /// The object ends inside compressed data.
    #[error("the {format} data ends too early, after {produced} decompressed bytes")]
    Truncated {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Decompressed bytes so far.
        produced: u64,
    },
    /// A zstd frame needs a larger window than is allowed.
    #[error(
        "the zstd frame after {produced} decompressed bytes needs a window of {window} bytes, the limit is {limit} bytes; \
         raise source.zstd_windows (128 MiB at most) or compress the object with a smaller window (zstd --long=27 or less)"
    )]
    WindowTooLarge {
        /// Size of the window that the frame needs, in bytes.
        window: u64,
        /// Size of the largest allowed window, in bytes.
        limit: u64,
        /// Decompressed bytes so far.
        produced: u64,
    },
    /// A zstd frame was compressed with a dictionary.
    #[error(
        "the zstd frame after {produced} decompressed bytes needs dictionary {id}, but dictionaries are not supported; \
         compress the object without a dictionary"
    )]
    Dictionary {
        /// The dictionary's ID.
        id: u32,
        /// Decompressed bytes so far.
        produced: u64,
    },
    /// The object decompresses to more than `source.max_object` bytes.
    #[error(
        "the object decompresses to more than source.max_object ({limit} bytes); raise the limit, or write smaller objects"
    )]
    TooLarge {
        /// `source.max_object`.
        limit: u64,
    },
}

impl Decoder {
    /// Creates the decoder of one object: at most `limit` decompressed bytes, and zstd windows of at most `max_window` bytes.
    pub fn new(limit: u64, max_window: u64) -> Self {
        Self { state: State::Detecting(Vec::new()), produced: 0, limit, max_window }
    }

    /// Allows zstd windows of up to `window` bytes, until [`Decoded::NeedsWindow`] asks for a larger one.
    pub fn allow(&mut self, window: u64) {
        if let State::Zstd(frames) = &mut self.state {
            frames.allow(window);
        }
    }

    /// Decodes at most one step from `input` into the window, and advances `input` past the bytes that were used. Call it
    /// until `input` is empty, and consume the window between the calls.
    ///
    /// # Errors
    /// See [`DecodeError`]. The text that is already in the window can be used.
    pub fn decode(&mut self, input: &mut &[u8], window: &mut Window) -> Result<Decoded, DecodeError> {
        if let State::Detecting(head) = &mut self.state {
            let wanted = HEAD - head.len();
            let (more, rest) = input.split_at(wanted.min(input.len()));
            head.extend_from_slice(more);
            *input = rest;
            if head.len() < HEAD {
                return Ok(Decoded::Step);
            }
            let head = std::mem::take(head);
            self.detect(&head, window)?;
            return Ok(Decoded::Step);
        }
        self.step(input, window)
    }

    /// Finishes the object: no more bytes will come.
    ///
    /// # Errors
    /// The object ended inside compressed data.
    pub fn finish(&mut self, window: &mut Window) -> Result<(), DecodeError> {
        if let State::Detecting(head) = &mut self.state {
            let head = std::mem::take(head);
            self.detect(&head, window)?;
        }
        match &self.state {
            State::Gzip(_) => Err(DecodeError::Truncated { format: "gzip", produced: self.produced }),
            State::Zstd(frames) if !frames.is_complete() => {
                Err(DecodeError::Truncated { format: "zstd", produced: self.produced })
            }
            State::Zstd(_) | State::BetweenMembers | State::Plain | State::Detecting(_) => Ok(()),
        }
    }

    fn detect(&mut self, head: &[u8], window: &mut Window) -> Result<(), DecodeError> {
        self.state = if head.starts_with(&GZIP_MAGIC) {
            State::Gzip(gzip_member())
        } else if is_zstd(head) {
            State::Zstd(Frames::new(self.max_window))
        } else {
            State::Plain
        };
        let mut head = head;
        while !head.is_empty() {
            // Four bytes are shorter than the header of a zstd frame, so no window is asked for here.
            let _ = self.step(&mut head, window)?;
        }
        Ok(())
    }

    fn step(&mut self, input: &mut &[u8], window: &mut Window) -> Result<Decoded, DecodeError> {
        window.make_room();
        let before = window.buffer.len();
        let mut decoded = Decoded::Step;
        match &mut self.state {
            State::Gzip(member) => {
                let consumed = member.total_in();
                let status = member
                    .decompress_vec(input, &mut window.buffer, FlushDecompress::None)
                    .map_err(|error| DecodeError::Corrupt {
                        format: "gzip",
                        produced: self.produced + (window.buffer.len() - before) as u64,
                        problem: error.to_string(),
                    })?;
                let used =
                    usize::try_from(member.total_in() - consumed).expect("no more than the input's length");
                *input = &input[used..];
                if status == Status::StreamEnd {
                    self.state = State::BetweenMembers;
                }
            }
            State::BetweenMembers => match input.iter().position(|byte| *byte != 0) {
                // Zero padding after the last member is common: tapes and tools that align files write it.
                None => *input = &[],
                Some(zeros) if input[zeros] == GZIP_MAGIC[0] => {
                    *input = &input[zeros..];
                    self.state = State::Gzip(gzip_member());
                }
                Some(_) => {
                    return Err(DecodeError::Corrupt {
                        format: "gzip",
                        produced: self.produced,
                        problem: "the bytes after the last member are not gzip".to_owned(),
                    });
                }
            },
            State::Zstd(frames) => decoded = frames.step(input, &mut window.buffer, self.produced)?,
            State::Plain => {
                let (now, rest) = input.split_at(STEP.min(input.len()));
                window.buffer.extend_from_slice(now);
                *input = rest;
            }
            State::Detecting(_) => unreachable!("detect replaced this state"),
        }
        self.produced += (window.buffer.len() - before) as u64;
        if self.produced > self.limit {
            return Err(DecodeError::TooLarge { limit: self.limit });
        }
        Ok(decoded)
    }
}

/// Creates the decoder of one gzip member. 15 selects the format's largest window, 32 KiB. flate2 checks the member's CRC and
/// length.
fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

#[cfg(test)]
pub(crate) mod tests;
