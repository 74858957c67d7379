//! From an object's stored bytes to its text, in a window of bounded size.
//!
//! The compression is told by the first bytes, never by the name: gzip (any number of members), zstd (any number of
//! frames), or none. Pure and push-style: the caller feeds what arrived and takes what came out, so backpressure
//! reaches the socket by itself.

mod frames;

use self::frames::{Frames, is_zstd};
pub use self::frames::{MAX_WINDOW, ORDINARY_WINDOW};
use flate2::{Decompress, FlushDecompress, Status};

/// Bytes decompressed at a time. Large enough that the calls cost nothing, small enough for a core's cache.
const STEP: usize = 256 * 1024;
/// Room beyond which a step must not write, whatever room an earlier, longer record has left: what a step writes keeps a
/// thread.
const MOST_ROOM: usize = 8 * STEP;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// As many bytes tell the compression.
const HEAD: usize = 4;

/// Decompressed text that nobody has read yet.
#[derive(Debug, Default)]
pub struct Window {
    buffer: Vec<u8>,
    start: usize,
}

impl Window {
    /// What was decoded and not yet consumed.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Marks the first `count` unread bytes as read.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.buffer.len(), "consumed more than there is");
    }

    /// Makes room for one step, moving the unread rest (part of one record) to the front.
    fn make_room(&mut self) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let room = self.buffer.capacity() - self.buffer.len();
        if room < STEP {
            self.buffer.reserve_exact(STEP);
        } else if room > MOST_ROOM {
            self.buffer.shrink_to(self.buffer.len() + STEP);
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

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a frame may wait for its window"]
pub enum Decoded {
    /// It went well.
    Step,
    /// A zstd frame has filled [`ORDINARY_WINDOW`], and needs the window of so many bytes that its header announced. The library has
    /// reserved the addresses, but the memory beyond is not in use yet. Go on, also without further input, once there is memory and
    /// [`Decoder::allow`] has said so.
    NeedsWindow(u64),
}

enum State {
    /// Too few bytes to tell the compression.
    Detecting(Vec<u8>),
    Gzip(Decompress),
    /// After a gzip member: another one, zero padding, or the end.
    BetweenMembers,
    Zstd(Frames),
    Plain,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Detecting(_) => "Detecting",
            Self::Gzip(_) => "Gzip",
            Self::BetweenMembers => "BetweenMembers",
            Self::Zstd(_) => "Zstd",
            Self::Plain => "Plain",
        })
    }
}

/// Why an object cannot be decompressed any further. What came out before is good.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The compressed data is broken: a bad block, a wrong CRC, garbage after the last member.
    #[error("the {format} data is broken after {produced} decompressed bytes: {problem}")]
    Corrupt {
        /// `gzip` or `zstd`.
        format: &'static str,
        /// Decompressed bytes so far.
        produced: u64,
        /// The library's words.
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
    /// A zstd frame asks for more memory than it may have.
    #[error(
        "the zstd frame behind {produced} decompressed bytes needs a window of {window} bytes, and the largest is {limit} bytes; \
         source.zstd_windows raises it up to 128 MiB, beyond that compress with a smaller window (zstd --long=27, or less)"
    )]
    WindowTooLarge {
        /// What it asks for, in bytes.
        window: u64,
        /// What it may have, in bytes.
        limit: u64,
        /// Decompressed bytes so far.
        produced: u64,
    },
    /// A zstd frame was compressed with a dictionary.
    #[error(
        "the zstd frame behind {produced} decompressed bytes was compressed with dictionary {id}; dictionaries are not supported"
    )]
    Dictionary {
        /// The dictionary's number.
        id: u32,
        /// Decompressed bytes so far.
        produced: u64,
    },
    /// More than `source.max_object`.
    #[error("the object decompresses to more than source.max_object, {limit} bytes")]
    TooLarge {
        /// The configured ceiling.
        limit: u64,
    },
}

impl Decoder {
    /// Starts on an object that may decompress to at most `limit` bytes, with zstd windows of at most `max_window` bytes.
    pub fn new(limit: u64, max_window: u64) -> Self {
        Self { state: State::Detecting(Vec::new()), produced: 0, limit, max_window }
    }

    /// A window of so many bytes may be used, from now on and until [`Decoded::NeedsWindow`] asks for another.
    pub fn allow(&mut self, window: u64) {
        if let State::Zstd(frames) = &mut self.state {
            frames.allow(window);
        }
    }

    /// Decodes from `input` into the window, at most one step, and moves `input` past what it used up. Call it until
    /// `input` is empty, reading the window in between.
    ///
    /// # Errors
    /// See [`DecodeError`]; what is in the window by then is good.
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

    /// Ends the object: nothing more will come.
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
            // No window is asked for: nothing came out yet.
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
                // Padding with zeros after the last member is legal in the field: tapes, and tools that align.
                None => *input = &[],
                Some(zeros) if input[zeros] == GZIP_MAGIC[0] => {
                    *input = &input[zeros..];
                    self.state = State::Gzip(gzip_member());
                }
                Some(_) => {
                    return Err(DecodeError::Corrupt {
                        format: "gzip",
                        produced: self.produced,
                        problem: "what follows the last member is no gzip".to_owned(),
                    });
                }
            },
            State::Zstd(frames) => decoded = frames.step(input, &mut window.buffer, self.produced)?,
            State::Plain => {
                let (now, rest) = input.split_at(STEP.min(input.len()));
                window.buffer.extend_from_slice(now);
                *input = rest;
            }
            State::Detecting(_) => unreachable!("detect chose another state"),
        }
        self.produced += (window.buffer.len() - before) as u64;
        if self.produced > self.limit {
            return Err(DecodeError::TooLarge { limit: self.limit });
        }
        Ok(decoded)
    }
}

/// 15 is the largest window of the format, 32 KiB; flate2 checks the member's CRC and length.
fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

#[cfg(test)]
pub(crate) mod tests;
