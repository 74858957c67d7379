//! From an object's stored bytes to its text, in a window of bounded size.
//!
//! The compression is told by the first bytes, never by the name: gzip (any number of members), zstd (any number of
//! frames), or none. Pure and push-style: the caller feeds what arrived and takes what came out, so backpressure
//! reaches the socket by itself.

use std::io;

use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// Bytes decompressed at a time. Large enough that the calls cost nothing, small enough for a core's cache.
const STEP: usize = 256 * 1024;
/// Room beyond which a step must not write, whatever room an earlier, longer record has left: what a step writes keeps a
/// thread.
const MOST_ROOM: usize = 8 * STEP;
/// Largest zstd window that is accepted, as a power of two: 8 MiB, what the format's specification (RFC 8878, 3.1.1.1.2)
/// asks every decoder to support. More would be memory that no formula of ours counts.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

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
}

enum State {
    /// Too few bytes to tell the compression.
    Detecting(Vec<u8>),
    Gzip(Decompress),
    /// After a gzip member: another one, zero padding, or the end.
    BetweenMembers,
    Zstd {
        decoder: ZstdDecoder<'static>,
        /// No frame is open.
        complete: bool,
    },
    Plain,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Detecting(_) => "Detecting",
            Self::Gzip(_) => "Gzip",
            Self::BetweenMembers => "BetweenMembers",
            Self::Zstd { .. } => "Zstd",
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
    /// More than `source.max_object`.
    #[error("the object decompresses to more than source.max_object, {limit} bytes")]
    TooLarge {
        /// The configured ceiling.
        limit: u64,
    },
}

impl Decoder {
    /// Starts on an object that may decompress to at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { state: State::Detecting(Vec::new()), produced: 0, limit }
    }

    /// Decodes from `input` into the window, at most one step, and moves `input` past what it used up. Call it until
    /// `input` is empty, reading the window in between.
    ///
    /// # Errors
    /// See [`DecodeError`]; what is in the window by then is good.
    pub fn decode(&mut self, input: &mut &[u8], window: &mut Window) -> Result<(), DecodeError> {
        if let State::Detecting(head) = &mut self.state {
            let wanted = ZSTD_MAGIC.len() - head.len();
            let (more, rest) = input.split_at(wanted.min(input.len()));
            head.extend_from_slice(more);
            *input = rest;
            if head.len() < ZSTD_MAGIC.len() {
                return Ok(());
            }
            let head = std::mem::take(head);
            return self.begin(&head, window);
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
            self.begin(&head, window)?;
        }
        match &self.state {
            State::Gzip(_) => Err(DecodeError::Truncated { format: "gzip", produced: self.produced }),
            State::Zstd { complete: false, .. } => {
                Err(DecodeError::Truncated { format: "zstd", produced: self.produced })
            }
            State::Zstd { .. } | State::BetweenMembers | State::Plain | State::Detecting(_) => Ok(()),
        }
    }

    fn begin(&mut self, head: &[u8], window: &mut Window) -> Result<(), DecodeError> {
        self.state = if head.starts_with(&GZIP_MAGIC) {
            State::Gzip(gzip_member())
        } else if head.starts_with(&ZSTD_MAGIC) {
            let mut decoder = ZstdDecoder::new().map_err(|error| self.corrupt("zstd", &error))?;
            decoder
                .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))
                .map_err(|error| self.corrupt("zstd", &error))?;
            State::Zstd { decoder, complete: false }
        } else {
            State::Plain
        };
        let mut head = head;
        while !head.is_empty() {
            self.step(&mut head, window)?;
        }
        Ok(())
    }

    fn step(&mut self, input: &mut &[u8], window: &mut Window) -> Result<(), DecodeError> {
        window.make_room();
        let before = window.buffer.len();
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
            State::Zstd { decoder, complete } => {
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around_pos(&mut window.buffer, before);
                let hint = decoder.run(&mut source, &mut target);
                let used = source.pos();
                match hint {
                    Ok(hint) => *complete = hint == 0,
                    Err(error) => return Err(self.corrupt("zstd", &error)),
                }
                *input = &input[used..];
            }
            State::Plain => {
                let (now, rest) = input.split_at(STEP.min(input.len()));
                window.buffer.extend_from_slice(now);
                *input = rest;
            }
            State::Detecting(_) => unreachable!("begin chose another state"),
        }
        self.produced += (window.buffer.len() - before) as u64;
        if self.produced > self.limit {
            return Err(DecodeError::TooLarge { limit: self.limit });
        }
        Ok(())
    }

    fn corrupt(&self, format: &'static str, error: &io::Error) -> DecodeError {
        DecodeError::Corrupt { format, produced: self.produced, problem: error.to_string() }
    }
}

/// 15 is the largest window of the format, 32 KiB; flate2 checks the member's CRC and length.
fn gzip_member() -> Decompress {
    Decompress::new_gzip(15)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(text, 3).expect("memory takes it")
    }

    /// Feeds `object` in chunks, reading the window whole each time.
    fn run(object: &[u8], chunk: usize, limit: u64) -> (Vec<u8>, Result<(), DecodeError>) {
        let (mut decoder, mut window, mut text) = (Decoder::new(limit), Window::default(), Vec::new());
        let mut take = |window: &mut Window| {
            text.extend_from_slice(window.unread());
            window.consume(window.unread().len());
        };
        let mut result = Ok(());
        'object: for mut input in object.chunks(chunk.max(1)) {
            while !input.is_empty() {
                result = decoder.decode(&mut input, &mut window);
                take(&mut window);
                if result.is_err() {
                    break 'object;
                }
            }
        }
        if result.is_ok() {
            result = decoder.finish(&mut window);
            take(&mut window);
        }
        (text, result)
    }

    fn check(object: &[u8], expected: &[u8]) {
        for chunk in [1, 3, 7, 1000, usize::MAX] {
            let (text, result) = run(object, chunk.min(object.len().max(1)), u64::MAX);
            result.expect("the object is whole");
            assert!(text == expected, "in chunks of {chunk}");
        }
    }

    #[test]
    fn the_compression_is_told_by_content() {
        for text in [b"".as_slice(), b"[", b"{}", b"[{\"message\":\"x\"}]", &b"abc ".repeat(200_000)] {
            check(text, text);
            check(&gzip(text), text);
            if !text.is_empty() {
                check(&zstd(text), text);
            }
        }
    }

    #[test]
    fn members_and_frames_are_joined() {
        let text = b"one line\n".repeat(5000);
        let (head, tail) = text.split_at(12_345);
        check(&[gzip(head), gzip(b""), gzip(tail)].concat(), &text);
        check(&[gzip(head), gzip(tail), vec![0; 512]].concat(), &text);
        check(&[zstd(head), zstd(tail)].concat(), &text);
    }

    #[test]
    fn what_came_before_the_break_is_good() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
        for (name, whole) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
            let (good, result) = run(&whole[..whole.len() * 2 / 3], 4096, u64::MAX);
            assert!(text.starts_with(&good) && good.len() > 100_000, "{name}");
            assert!(
                matches!(result, Err(DecodeError::Truncated { format, .. }) if format == name),
                "{result:?}"
            );
        }
        let mut wrong_crc = gzip(&text);
        let at = wrong_crc.len() - 8;
        wrong_crc[at] ^= 1;
        let (good, result) = run(&wrong_crc, 4096, u64::MAX);
        assert!(matches!(result, Err(DecodeError::Corrupt { format: "gzip", .. })), "{result:?}");
        assert!(text.starts_with(&good), "the text itself was right");
        let (good, result) = run(&[gzip(b"good"), b"garbage".to_vec()].concat(), 4096, u64::MAX);
        assert!(matches!(result, Err(DecodeError::Corrupt { .. })), "{result:?}");
        assert_eq!(good, b"good");
    }

    #[test]
    fn a_bomb_meets_the_ceiling_in_bounded_memory() {
        let bomb = gzip(&vec![0; 64 << 20]);
        let (mut decoder, mut window) = (Decoder::new(8 << 20), Window::default());
        let mut input = bomb.as_slice();
        let error = loop {
            if let Err(error) = decoder.decode(&mut input, &mut window) {
                break error;
            }
            window.consume(window.unread().len());
            assert!(window.buffer.capacity() <= 2 * STEP, "the window grows");
        };
        assert!(matches!(error, DecodeError::TooLarge { limit } if limit == 8 << 20), "{error:?}");
    }

    #[test]
    fn a_step_stays_small_behind_a_long_record() {
        for (name, bomb) in [("gzip", gzip(&vec![0; 64 << 20])), ("zstd", zstd(&vec![0; 64 << 20]))] {
            let (mut decoder, mut window) = (Decoder::new(u64::MAX), Window::default());
            let mut input = bomb.as_slice();
            // One that takes 16 MiB before anything is consumed.
            while window.unread().len() < 16 << 20 {
                decoder.decode(&mut input, &mut window).expect("it is whole");
            }
            while !input.is_empty() {
                window.consume(window.unread().len());
                decoder.decode(&mut input, &mut window).expect("it is whole");
                assert!(window.unread().len() <= MOST_ROOM, "{name}: {}", window.unread().len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_end_the_same_way(
            mut object in proptest::collection::vec(any::<u8>(), 0..400),
            magic in prop_oneof![Just(&[][..]), Just(&GZIP_MAGIC[..]), Just(&ZSTD_MAGIC[..])],
            chunk in 1_usize..50,
        ) {
            object.splice(0..0, magic.iter().copied());
            let (whole, first) = run(&object, object.len().max(1), 1 << 20);
            let (pieces, second) = run(&object, chunk, 1 << 20);
            prop_assert_eq!(first.is_ok(), second.is_ok());
            prop_assert!(first.is_err() || whole == pieces);
        }
    }
}
