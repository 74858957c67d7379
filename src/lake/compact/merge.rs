//! Writes one merged file.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use tokio_util::sync::CancellationToken;

use super::CompactError;
#[cfg(feature = "parquet")]
use crate::lake::{
    file::{codec, unwritable},
    parquet::{ParquetReader, ParquetWriter, ReadError},
};
use crate::{
    copy::CopyError,
    fairness::cpu::without_pause,
    lake::{
        FileSpec,
        bucket::{CompactAccount, ListedFile},
        manifest::url,
        parts::{MIN_PART, Parts},
    },
    tenant::Format,
};

/// Level of gzip: a merged file is written once and read often.
const GZIP_LEVEL: u32 = 6;
/// Bytes that are decoded and encoded at once.
const CHUNK: usize = 1 << 20;
/// Bytes of a part: at least this many, and less than twice as many.
const PART: usize = 2 * MIN_PART;
/// Bytes of the rows of a row group.
#[cfg(feature = "parquet")]
const ROW_GROUP: usize = super::ROW_GROUP;

/// A merged file.
#[derive(Debug)]
pub(super) struct Merged {
    /// The files that it has the records of. With fewer than two, nothing was written.
    pub(super) sources: Vec<ListedFile>,
    pub(super) bytes: u64,
    /// Sources that are not readable, with the problem.
    pub(super) bad: Vec<(ListedFile, String)>,
}

/// How an attempt ended.
enum Attempt {
    Written(u64),
    /// The source with this index.
    Unreadable(usize, String),
    /// Sources have disappeared, and fewer than two are left.
    TooFew,
}

/// Writes `spec` with the records of all `sources` that exist and are readable.
pub(super) async fn merge<A: CompactAccount>(
    account: &A,
    bucket: &str,
    spec: &FileSpec,
    format: &Format,
    sources: Vec<ListedFile>,
    stop: &CancellationToken,
) -> Result<Merged, CompactError> {
    let mut merged = Merged { sources, bytes: 0, bad: Vec::new() };
    while merged.sources.len() > 1 {
        let mut parts = Parts::new(spec.clone());
        let attempt = attempt(account, bucket, &mut parts, format, &mut merged.sources, stop).await;
        if let Ok(Attempt::Written(bytes)) = attempt {
            merged.bytes = bytes;
            return Ok(merged);
        }
        parts.abort(account).await;
        // Some of the bad source's records may be in the file, so the file begins again without the source.
        if let Attempt::Unreadable(index, problem) = attempt? {
            merged.bad.push((merged.sources.remove(index), problem));
        }
    }
    Ok(merged)
}

/// Writes the file, unless a source is bad. Removes sources that do not exist.
async fn attempt<A: CompactAccount>(
    account: &A,
    bucket: &str,
    parts: &mut Parts,
    format: &Format,
    sources: &mut Vec<ListedFile>,
    stop: &CancellationToken,
) -> Result<Attempt, CompactError> {
    let place = url(bucket, parts.key());
    let unwritten = |source| CompactError::of("write", place.clone())(source);
    let mut encoder = Encoder::new(format).map_err(unwritten)?;
    let mut index = 0;
    while let Some(source) = sources.get(index) {
        let from = url(bucket, &source.key);
        if stop.is_cancelled() {
            return Err(CompactError::Interrupted(from));
        }
        let found = account.get(&source.key, Some(&source.etag)).await;
        let Some((_, body)) = found.map_err(CompactError::of("read", from))? else {
            // It was deleted or written anew since it was listed.
            sources.remove(index);
            continue;
        };
        let mut reader = match Reader::new(format, body) {
            Ok(reader) => reader,
            Err(problem) => return Ok(Attempt::Unreadable(index, problem)),
        };
        loop {
            match without_pause(CHUNK, || encoder.take_from(&mut reader)).map_err(unwritten)? {
                Step::More => {}
                Step::End => break,
                Step::Unreadable(problem) => return Ok(Attempt::Unreadable(index, problem)),
            }
            if encoder.encoded() >= PART {
                let mut encoded = encoder.take_encoded();
                write_parts(account, parts, &mut encoded).await.map_err(unwritten)?;
                parts.write(account, encoded).await.map_err(unwritten)?;
            }
        }
        index += 1;
    }
    if sources.len() < 2 {
        return Ok(Attempt::TooFew);
    }
    let mut rest = without_pause(CHUNK, || encoder.finish()).map_err(unwritten)?;
    write_parts(account, parts, &mut rest).await.map_err(unwritten)?;
    let written: Result<u64, CopyError> = parts.finish(account, rest, std::future::ready(Ok(()))).await;
    written.map(Attempt::Written).map_err(unwritten)
}

/// Writes parts until less than two of them are left. The SDK copies each part that it sends.
async fn write_parts<A: CompactAccount>(
    account: &A,
    parts: &mut Parts,
    encoded: &mut Bytes,
) -> Result<(), CopyError> {
    while encoded.len() >= 2 * PART {
        parts.write(account, encoded.split_to(PART)).await?;
    }
    Ok(())
}

/// A source while it is read.
#[cfg_attr(feature = "parquet", expect(clippy::large_enum_variant, reason = "a merge has one"))]
enum Reader {
    /// Whether the last line is open, and a buffer.
    Ndjson(MultiGzDecoder<bytes::buf::Reader<Bytes>>, bool, Vec<u8>),
    #[cfg(feature = "parquet")]
    Parquet(ParquetReader<Bytes>),
}

enum Step {
    More,
    End,
    Unreadable(String),
}

impl Reader {
    fn new(format: &Format, body: Bytes) -> Result<Self, String> {
        match format {
            Format::Ndjson(_) => Ok(Self::Ndjson(MultiGzDecoder::new(body.reader()), false, vec![0; CHUNK])),
            #[cfg(feature = "parquet")]
            Format::Parquet(_) => {
                ParquetReader::new(body).map(Self::Parquet).map_err(|error| unreadable(&error))
            }
            #[cfg(not(feature = "parquet"))]
            Format::Parquet(_) => {
                Err(format!("Parquet needs a build with the feature parquet, {} bytes", body.len()))
            }
        }
    }
}

#[cfg(feature = "parquet")]
fn unreadable(error: &ReadError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The merged file's encoder.
#[cfg_attr(feature = "parquet", expect(clippy::large_enum_variant, reason = "a merge has one"))]
enum Encoder {
    Ndjson(GzEncoder<Vec<u8>>),
    #[cfg(feature = "parquet")]
    Parquet(ParquetWriter),
}

impl Encoder {
    fn new(format: &Format) -> Result<Self, CopyError> {
        match format {
            Format::Ndjson(_) => Ok(Self::Ndjson(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL)))),
            #[cfg(feature = "parquet")]
            Format::Parquet(compression) => {
                ParquetWriter::new(codec(*compression), &[]).map(Self::Parquet).map_err(unwritable)
            }
            #[cfg(not(feature = "parquet"))]
            Format::Parquet(_) => {
                Err(CopyError::Unwritable("Parquet needs a build with the feature parquet".to_owned()))
            }
        }
    }

    /// Takes the next records of a source: about [`CHUNK`] bytes.
    fn take_from(&mut self, reader: &mut Reader) -> Result<Step, CopyError> {
        match (self, reader) {
            (Self::Ndjson(encoder), Reader::Ndjson(decoder, open, buffer)) => {
                let read = match decoder.read(buffer) {
                    Ok(read) => read,
                    Err(error) => return Ok(Step::Unreadable(error.to_string())),
                };
                let lines = match (read, *open) {
                    (0, true) => b"\n",
                    _ => &buffer[..read],
                };
                encoder.write_all(lines).expect("a vector takes all bytes");
                *open = lines.last().is_some_and(|byte| *byte != b'\n');
                Ok(if read == 0 { Step::End } else { Step::More })
            }
            #[cfg(feature = "parquet")]
            (Self::Parquet(writer), Reader::Parquet(reader)) => {
                let mut taken = 0;
                while taken < CHUNK {
                    match reader.next_row() {
                        Ok(Some(row)) => {
                            taken += row.message.len() + row.rest.map_or(0, str::len) + 64;
                            writer.push(&row);
                        }
                        Ok(None) => return Ok(Step::End),
                        Err(error) => return Ok(Step::Unreadable(unreadable(&error))),
                    }
                }
                if writer.pending_bytes() >= ROW_GROUP {
                    writer.end_group().map_err(unwritable)?;
                }
                Ok(Step::More)
            }
            #[cfg(feature = "parquet")]
            _ => unreachable!("both are of one format"),
        }
    }

    /// Bytes that are encoded and not written.
    fn encoded(&self) -> usize {
        match self {
            Self::Ndjson(encoder) => encoder.get_ref().len(),
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.encoded(),
        }
    }

    fn take_encoded(&mut self) -> Bytes {
        match self {
            Self::Ndjson(encoder) => std::mem::take(encoder.get_mut()).into(),
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.take_encoded().into(),
        }
    }

    fn finish(self) -> Result<Bytes, CopyError> {
        match self {
            Self::Ndjson(encoder) => Ok(encoder.finish().expect("a vector takes all bytes").into()),
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.finish().map(Bytes::from).map_err(unwritable),
        }
    }
}
