//! Compresses an object while it is generated, in the requested number of members.

use std::io::{self, Write};

use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use super::Compression;

/// Vector's default. Source: Vector's reference, `aws_s3` sink, `compression`.
const GZIP_LEVEL: u32 = 6;
/// Vector's default. Source: Vector's reference, `aws_s3` sink, `compression`.
const ZSTD_LEVEL: i32 = 3;

/// Encoder of the open member. Its output follows the finished members.
pub(super) enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(ZstdEncoder<'static, Vec<u8>>),
    Plain(Vec<u8>),
}

impl Encoder {
    pub(super) fn new(compression: Compression) -> io::Result<Self> {
        Self::behind(Vec::new(), compression)
    }

    fn behind(done: Vec<u8>, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Gzip => Self::Gzip(GzEncoder::new(done, flate2::Compression::new(GZIP_LEVEL))),
            Compression::Zstd => Self::Zstd(ZstdEncoder::new(done, ZSTD_LEVEL)?),
            Compression::None => Self::Plain(done),
        })
    }

    /// Adds bytes to the open member.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Plain(done) => done.write_all(bytes),
        }
    }

    /// Bytes written so far; the encoder may hold some more.
    pub(super) fn stored(&self) -> usize {
        match self {
            Self::Gzip(encoder) => encoder.get_ref().len(),
            Self::Zstd(encoder) => encoder.get_ref().len(),
            Self::Plain(done) => done.len(),
        }
    }

    /// Ends the open member and starts another.
    pub(super) fn next_member(self) -> io::Result<Self> {
        let compression = match &self {
            Self::Gzip(_) => Compression::Gzip,
            Self::Zstd(_) => Compression::Zstd,
            Self::Plain(_) => Compression::None,
        };
        Self::behind(self.finish()?, compression)
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
            Self::Plain(done) => Ok(done),
        }
    }
}
