//! Decodes zstd frames. This module reads each frame's header before the library does, because the header says how much memory
//! the library will take.
//!
//! Source: RFC 8878, 3.1.1.1 (frame headers) and 3.1.2 (skippable frames).

use std::{fmt, io};

use zstd::stream::raw::{DParameter, Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

use super::{DecodeError, Decoded};

/// Largest window that every frame may use: 8 MiB, the size that RFC 8878 recommends every decoder to support.
pub const ORDINARY_WINDOW: u64 = 8 << 20;
/// Largest window that any frame may use: 128 MiB, the size that `zstd --ultra` and streaming encoders at their highest
/// levels use.
pub const MAX_WINDOW: u64 = 128 << 20;
/// The library's own limit, as a power of two. It is set to its maximum, because this module refuses windows that are too large
/// before the library sees them.
const LIBRARY_WINDOW_LOG: u32 = 31;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes 2 to 4 of a skippable frame's magic number. The first byte is any of 0x50 to 0x5f.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Whether an object begins with a zstd frame or a skippable frame. `head` has at least four bytes.
pub(super) fn is_zstd(head: &[u8]) -> bool {
    head.starts_with(&MAGIC) || is_skippable(head)
}

fn is_skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, rest @ ..] if rest.starts_with(&SKIPPABLE))
}

/// Decodes the frames of one object, one after another.
pub(super) struct Frames {
    /// `None` before the first frame, and after a large window was freed.
    decoder: Option<ZstdDecoder<'static>>,
    state: FrameState,
    /// Window size of the open frame, in bytes.
    window: u64,
    /// Decompressed bytes of the open frame. The frame uses as many bytes of its window, and at most the whole window.
    used: u64,
    /// Largest window that may be used now.
    allowed: u64,
    /// Largest window that may be asked for.
    limit: u64,
}

#[derive(Debug)]
enum FrameState {
    /// Between frames, or inside an incomplete header.
    Header(Vec<u8>),
    /// Inside a skippable frame; the number of its remaining bytes.
    Skippable(u64),
    /// After a complete header, which the library has not seen yet.
    Beginning(Vec<u8>),
    Frame,
}

#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// More bytes are needed.
    Incomplete,
    Skippable {
        len: u64,
    },
    Frame {
        window: u64,
        dictionary: Option<u32>,
    },
    Unknown,
}

impl fmt::Debug for Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Frames {
    pub(super) fn new(limit: u64) -> Self {
        let state = FrameState::Header(Vec::new());
        Self { decoder: None, state, window: 0, used: 0, allowed: ORDINARY_WINDOW, limit }
    }

    /// Whether the object may end here: no frame is open.
    pub(super) fn is_complete(&self) -> bool {
        matches!(&self.state, FrameState::Header(header) if header.is_empty())
    }

    /// Allows windows of up to `window` bytes.
    pub(super) fn allow(&mut self, window: u64) {
        self.allowed = window;
    }

    /// Decodes one step. `produced`, the number of decompressed bytes so far, appears in errors.
    pub(super) fn step(
        &mut self,
        input: &mut &[u8],
        buffer: &mut Vec<u8>,
        produced: u64,
    ) -> Result<Decoded, DecodeError> {
        let corrupt = |problem: String| DecodeError::Corrupt { format: "zstd", produced, problem };
        let library = |error: io::Error| corrupt(error.to_string());
        match &mut self.state {
            FrameState::Header(header) => {
                while let (Header::Incomplete, Some((byte, rest))) = (read(header), input.split_first()) {
                    header.push(*byte);
                    *input = rest;
                }
                match read(header) {
                    Header::Incomplete => {}
                    Header::Unknown => {
                        return Err(corrupt(
                            "a zstd frame is expected, and these bytes are not one".to_owned(),
                        ));
                    }
                    Header::Skippable { len } => {
                        self.state = if len == 0 {
                            FrameState::Header(Vec::new())
                        } else {
                            FrameState::Skippable(len)
                        };
                    }
                    Header::Frame { dictionary: Some(id), .. } => {
                        return Err(DecodeError::Dictionary { id, produced });
                    }
                    Header::Frame { window, .. } if window > self.limit => {
                        return Err(DecodeError::WindowTooLarge { window, limit: self.limit, produced });
                    }
                    Header::Frame { window, .. } => {
                        if window > self.allowed && self.allowed > ORDINARY_WINDOW {
                            // The frame will ask for its larger window later. The current window is freed now, because a frame
                            // that waits for memory must not hold any.
                            (self.decoder, self.allowed) = (None, ORDINARY_WINDOW);
                        }
                        (self.window, self.used) = (window, 0);
                        self.state = FrameState::Beginning(std::mem::take(header));
                    }
                }
            }
            FrameState::Skippable(left) => {
                let now = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *input = &input[now..];
                *left -= now as u64;
                if *left == 0 {
                    self.state = FrameState::Header(Vec::new());
                }
            }
            FrameState::Beginning(header) => {
                let decoder = match &mut self.decoder {
                    Some(decoder) => decoder,
                    none => {
                        let mut decoder = ZstdDecoder::new().map_err(library)?;
                        decoder
                            .set_parameter(DParameter::WindowLogMax(LIBRARY_WINDOW_LOG))
                            .map_err(library)?;
                        none.insert(decoder)
                    }
                };
                let mut source = InBuffer::around(header);
                let nowhere: &mut [u8] = &mut [];
                let mut nowhere = OutBuffer::around(nowhere);
                while source.pos() < header.len() {
                    decoder.run(&mut source, &mut nowhere).map_err(library)?;
                }
                self.state = FrameState::Frame;
            }
            FrameState::Frame => {
                let room = (buffer.capacity() - buffer.len()) as u64;
                if self.window > self.allowed && self.used + room > ORDINARY_WINDOW {
                    return Ok(Decoded::NeedsWindow(self.window));
                }
                let decoder = self.decoder.as_mut().expect("the decoder has read the header");
                let at = buffer.len();
                let mut source = InBuffer::around(input);
                let mut target = OutBuffer::around_pos(buffer, at);
                let hint = decoder.run(&mut source, &mut target);
                *input = &input[source.pos()..];
                if hint.map_err(library)? == 0 {
                    self.state = FrameState::Header(Vec::new());
                }
                self.used += (buffer.len() - at) as u64;
            }
        }
        Ok(Decoded::Step)
    }
}

/// Parses a frame's header, which has 18 bytes at most.
fn read(bytes: &[u8]) -> Header {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Header::Incomplete };
    if is_skippable(magic) {
        return rest
            .first_chunk()
            .map_or(Header::Incomplete, |len| Header::Skippable { len: u32::from_le_bytes(*len).into() });
    }
    if *magic != MAGIC {
        return Header::Unknown;
    }
    let Some((descriptor, mut rest)) = rest.split_first() else { return Header::Incomplete };
    let is_single_segment = descriptor >> 5 & 1 == 1;
    let content_bytes = match (descriptor >> 6, is_single_segment) {
        (0, false) => 0,
        (0, true) => 1,
        (1, _) => 2,
        (2, _) => 4,
        _ => 8,
    };
    let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let mut number = |bytes: usize| {
        let (value, behind) = rest.split_at_checked(bytes)?;
        rest = behind;
        let mut number = [0; 8];
        number[..bytes].copy_from_slice(value);
        Some(u64::from_le_bytes(number))
    };
    let window = if is_single_segment { Some(u64::MAX) } else { number(1).map(window_size) };
    let (dictionary, content) = (number(dictionary_bytes), number(content_bytes));
    let (Some(window), Some(dictionary), Some(content)) = (window, dictionary, content) else {
        return Header::Incomplete;
    };
    // If the window is larger than the content, the library allocates only the content's size. A size field of two bytes
    // holds the size minus 256.
    let window = match content_bytes {
        0 => window,
        2 => window.min(content + 256),
        _ => window.min(content),
    };
    let dictionary = u32::try_from(dictionary).ok().filter(|id| *id > 0);
    Header::Frame { window, dictionary }
}

/// Converts the window descriptor into bytes.
fn window_size(descriptor: u64) -> u64 {
    let base = 1 << (10 + (descriptor >> 3));
    base + base / 8 * (descriptor & 7)
}

#[cfg(test)]
mod tests;
