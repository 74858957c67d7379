//! Computes fingerprints of the bytes read from an object, so that a later attempt can check that it reads the same bytes.
//!
//! S3's checksum covers the whole object and is checked only at its end. An attempt that stops earlier has recorded a
//! position that no checksum confirms. The next attempt reads the object from its start, and compares fingerprints up
//! to that position.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::{ObjectBody, ObjectError};

/// Fingerprint of an object's stored bytes before an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// Number of bytes.
    pub offset: u64,
    /// CRC-32 of these bytes. It always detects a single altered burst of up to 32 bits.
    pub crc32: u32,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:08x}", self.offset, self.crc32)
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (offset, crc32) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { offset: offset.parse()?, crc32: u32::from_str_radix(crc32, 16)? })
    }
}

/// Fingerprint of the bytes read so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    read: Arc<Mutex<Fingerprint>>,
}

impl Trail {
    /// Fingerprint of the bytes read so far.
    pub fn read(&self) -> Fingerprint {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Fingerprint> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that updates a trail and compares what it reads with the fingerprints of earlier attempts.
#[derive(Debug)]
pub struct TrailedBody<B> {
    body: B,
    trail: Trail,
    crc: Digest,
    read: u64,
    /// Fingerprints of earlier attempts that are still ahead. The nearest one comes last.
    expected: Vec<Fingerprint>,
}

impl<B> TrailedBody<B> {
    /// Reads `body`, updates `trail`, and checks the fingerprints `expected`.
    pub fn new(body: B, trail: Trail, mut expected: Vec<Fingerprint>) -> Self {
        expected.sort_unstable_by(|one, other| other.cmp(one));
        Self { body, trail, crc: Digest::new(CrcAlgorithm::Crc32IsoHdlc), read: 0, expected }
    }

    /// Adds bytes to the CRC-32, and compares it at each expected offset.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), ObjectError> {
        while let Some(expected) = self.expected.last()
            && expected.offset <= self.read + bytes.len() as u64
        {
            let expected = *expected;
            // Cannot underflow: a fingerprint is removed when its offset is reached.
            let (before, rest) = bytes.split_at((expected.offset - self.read) as usize);
            self.sum(before);
            bytes = rest;
            if self.crc32() != expected.crc32 {
                return Err(altered(expected, &format!("now their CRC-32 is {:08x}", self.crc32())));
            }
            self.expected.pop();
        }
        self.sum(bytes);
        *self.trail.lock() = Fingerprint { offset: self.read, crc32: self.crc32() };
        Ok(())
    }

    fn crc32(&self) -> u32 {
        // The library returns a CRC of any width as u64; this one has 32 bits.
        self.crc.finalize() as u32
    }

    fn sum(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.read += bytes.len() as u64;
    }
}

impl<B: ObjectBody> ObjectBody for TrailedBody<B> {
    fn content_length(&self) -> Option<u64> {
        self.body.content_length()
    }

    fn has_check_ahead(&self) -> bool {
        !self.expected.is_empty() || self.body.has_check_ahead()
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ObjectError> {
        let chunk = self.body.chunk().await?;
        match (&chunk, self.expected.last()) {
            (Some(bytes), _) => self.follow(bytes)?,
            (None, Some(expected)) => {
                return Err(altered(*expected, &format!("now the object ends after {}", self.read)));
            }
            (None, None) => {}
        }
        Ok(chunk)
    }
}

fn altered(expected: Fingerprint, found: &str) -> ObjectError {
    let Fingerprint { offset, crc32 } = expected;
    ObjectError::ChecksumMismatch(format!(
        "an earlier attempt read {offset} bytes with CRC-32 {crc32:08x}, and {found}; one of the two attempts read \
         altered bytes, so the object is delivered from its start"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A body with the given chunks.
    struct Chunks(std::vec::IntoIter<Bytes>);

    impl ObjectBody for Chunks {
        fn content_length(&self) -> Option<u64> {
            None
        }

        fn has_check_ahead(&self) -> bool {
            false
        }

        async fn chunk(&mut self) -> Result<Option<Bytes>, ObjectError> {
            Ok(self.0.next())
        }
    }

    /// Reads to the end, and returns the trail after each chunk.
    fn read(
        bytes: &[u8],
        chunk: usize,
        expected: Vec<Fingerprint>,
    ) -> Result<Vec<Fingerprint>, (ObjectError, Fingerprint)> {
        let chunks: Vec<_> = bytes.chunks(chunk).map(Bytes::copy_from_slice).collect();
        let trail = Trail::default();
        let mut body = TrailedBody::new(Chunks(chunks.into_iter()), trail.clone(), expected);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut trails = Vec::new();
            while body.chunk().await.map_err(|error| (error, trail.read()))?.is_some() {
                trails.push(trail.read());
            }
            Ok(trails)
        })
    }

    #[test]
    fn fingerprints_have_a_text_form() {
        let one = Fingerprint { offset: 9, crc32: 0xcbf4_3926 };
        assert_eq!(read(b"123456789", 9, Vec::new()).expect("nothing is expected"), [one]);
        assert_eq!(one.to_string(), "9:cbf43926");
        assert_eq!("9:cbf43926".parse(), Ok(one));
        for bad in ["", "9", ":", "x:1", "9:", "9:1:1", "9:123456789"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// For any sizes of chunks: the same bytes pass, and an altered bit is detected at the next fingerprint.
        #[test]
        fn the_same_bytes_pass_and_altered_ones_fail(
            bytes in prop::collection::vec(any::<u8>(), 1..200),
            chunks in [1_usize..60, 1_usize..60],
            flip in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let before = read(&bytes, chunks[0], Vec::new()).expect("nothing is expected");
            prop_assert!(read(&bytes, chunks[1], before.clone()).is_ok());
            let at = flip.index(bytes.len());
            let mut altered = bytes.clone();
            altered[at] ^= 1 << bit;
            let (error, reached) = read(&altered, chunks[1], before.clone()).expect_err("a bit is altered");
            prop_assert!(matches!(error, ObjectError::ChecksumMismatch(_)), "{error:?}");
            let first = before.iter().find(|fingerprint| fingerprint.offset > at as u64).expect("the byte was read");
            prop_assert!(reached.offset < first.offset, "the trail ends before the altered fingerprint");
            let shorter = read(&bytes[..at], chunks[1], before);
            prop_assert!(shorter.is_err(), "the object ends too early");
        }
    }
}
