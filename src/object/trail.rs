//! Fingerprints of what was read of an object, by which a later attempt finds out whether it reads the same bytes.
//!
//! S3's checksum of the whole object is checked at its end. An attempt that dies before has recorded a position that no
//! checksum confirms; the attempt that goes on from there reads the object from its start, and compares.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::{ObjectBody, ObjectError};

/// What the stored bytes before an offset are, in few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint {
    /// How many bytes.
    pub offset: u64,
    /// Their CRC-32: one that differs in a burst of up to 32 bits is always found.
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

/// How much of an object was read so far; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    read: Arc<Mutex<Fingerprint>>,
}

impl Trail {
    /// What was read.
    pub fn read(&self) -> Fingerprint {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Fingerprint> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that leaves a trail, and is compared with the trails of attempts before.
#[derive(Debug)]
pub struct TrailedBody<B> {
    body: B,
    trail: Trail,
    crc: Digest,
    read: u64,
    /// Of attempts before, behind what was read; the nearest comes last.
    expected: Vec<Fingerprint>,
}

impl<B> TrailedBody<B> {
    /// Reads `body` and tells `trail` how far it came; what is read must have the fingerprints `expected`.
    pub fn new(body: B, trail: Trail, mut expected: Vec<Fingerprint>) -> Self {
        expected.sort_unstable_by(|one, other| other.cmp(one));
        Self { body, trail, crc: Digest::new(CrcAlgorithm::Crc32IsoHdlc), read: 0, expected }
    }

    /// Sums up what came, and compares on the way.
    fn follow(&mut self, mut bytes: &[u8]) -> Result<(), ObjectError> {
        while let Some(expected) = self.expected.last()
            && expected.offset <= self.read + bytes.len() as u64
        {
            let expected = *expected;
            // None lies before what was read: each is taken off when it is reached.
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
        // Of 32 bits, in the library's type for all widths.
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
        "an attempt before read {offset} bytes with CRC-32 {crc32:08x}, and {found}: one of the two was altered on its way, \
         so the object is delivered from its start"
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands its chunks out.
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

    /// Reads to the end; the trail after each chunk.
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
    fn fingerprints_are_words_and_back() {
        let one = Fingerprint { offset: 9, crc32: 0xcbf4_3926 };
        assert_eq!(read(b"123456789", 9, Vec::new()).expect("nothing is expected"), [one]);
        assert_eq!(one.to_string(), "9:cbf43926");
        assert_eq!("9:cbf43926".parse(), Ok(one));
        for bad in ["", "9", ":", "x:1", "9:", "9:1:1", "9:123456789"] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// However the bytes come: the same ones pass, and one other bit before a fingerprint's offset is told there.
        #[test]
        fn the_same_bytes_pass_and_no_others(
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
            let (error, reached) = read(&altered, chunks[1], before.clone()).expect_err("a bit is another");
            prop_assert!(matches!(error, ObjectError::ChecksumMismatch(_)), "{error:?}");
            let first = before.iter().find(|fingerprint| fingerprint.offset > at as u64).expect("it was read");
            prop_assert!(reached.offset < first.offset, "what is not confirmed is behind");
            let shorter = read(&bytes[..at], chunks[1], before);
            prop_assert!(shorter.is_err(), "it ends too early");
        }
    }
}
