//! Writes one merged file.

use std::io::{Read, Write};

use bytes::{Buf, Bytes};
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use tokio_util::sync::CancellationToken;

use super::{CompactError, get};
#[cfg(feature = "parquet")]
use crate::lake::{
    file::unwritable,
    parquet::{ParquetReader, ParquetWriter, ReadError},
};
use crate::{
    copy::CopyError,
    fairness::cpu::without_pause,
    lake::{
        FileSpec,
        bucket::{CompactAccount, ListedFile, ReadObject},
        manifest::url,
        parts::{MIN_PART, Parts},
    },
    tenant::Format,
};

/// Level of gzip: a merged file is written once and read often.
const GZIP_LEVEL: u32 = 6;
/// Bytes that are decoded and encoded at once.
const CHUNK: usize = 1 << 20;
/// Longest line of NDJSON. The lines of a chunk are in memory as a whole.
const LONGEST_LINE: usize = 64 << 20;
/// Bytes of a part: at least this many, and less than twice as many.
const PART: usize = 2 * MIN_PART;
/// Bytes of the rows of a row group.
#[cfg(feature = "parquet")]
const ROW_GROUP: usize = super::ROW_GROUP;

/// A merged file.
#[derive(Debug)]
pub(super) struct Merged {
    /// The files that it has the records of, and how many of each. With fewer than two, nothing was written.
    pub(super) sources: Vec<(ListedFile, u64)>,
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
    let sources = sources.into_iter().map(|source| (source, 0)).collect();
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
            merged.bad.push((merged.sources.remove(index).0, problem));
        }
    }
    Ok(merged)
}

/// Writes the file, unless a source is bad. Removes sources that do not exist, and counts the records of the others.
async fn attempt<A: CompactAccount>(
    account: &A,
    bucket: &str,
    parts: &mut Parts,
    format: &Format,
    sources: &mut Vec<(ListedFile, u64)>,
    stop: &CancellationToken,
) -> Result<Attempt, CompactError> {
    let place = url(bucket, parts.key());
    let unwritten = |source| CompactError::of("write", place.clone())(source);
    let mut encoder = Encoder::new(format).map_err(unwritten)?;
    let mut index = 0;
    while let Some((source, records)) = sources.get_mut(index) {
        if stop.is_cancelled() {
            return Err(CompactError::Interrupted(url(bucket, &source.key)));
        }
        let Some(ReadObject { body, .. }) = get(account, bucket, &source.key, Some(&source.etag)).await?
        else {
            // It was deleted or written anew since it was listed.
            sources.remove(index);
            continue;
        };
        let mut reader = match Reader::new(format, body) {
            Ok(reader) => reader,
            Err(problem) => return Ok(Attempt::Unreadable(index, problem)),
        };
        *records = 0;
        loop {
            match without_pause(encoder.work(), || encoder.take_from(&mut reader, records))
                .map_err(unwritten)?
            {
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
    let mut rest = without_pause(encoder.work(), || encoder.finish()).map_err(unwritten)?;
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
    Ndjson(Lines),
    #[cfg(feature = "parquet")]
    Parquet(ParquetReader),
}

/// Lines of JSON in gzip.
struct Lines {
    decoder: MultiGzDecoder<bytes::buf::Reader<Bytes>>,
    /// Lines that [`Lines::next`] returned, and what was read behind them.
    buffer: Vec<u8>,
    /// Length of the lines that were returned last.
    returned: usize,
    /// Number of lines so far.
    count: u64,
}

impl Lines {
    fn new(body: Bytes) -> Self {
        Self { decoder: MultiGzDecoder::new(body.reader()), buffer: Vec::new(), returned: 0, count: 0 }
    }

    /// The next lines, of about [`CHUNK`] bytes. Each is a JSON object with a line's end. Empty: this is the end of the text.
    fn next(&mut self) -> Result<&[u8], String> {
        self.buffer.drain(..self.returned);
        self.returned = 0;
        while self.returned == 0 {
            let before = self.buffer.len();
            if before > LONGEST_LINE {
                return Err(format!("line {} has more than {} MiB", self.count + 1, LONGEST_LINE >> 20));
            }
            self.buffer.resize(before + CHUNK, 0);
            let read = self.decoder.read(&mut self.buffer[before..]).map_err(|error| error.to_string())?;
            self.buffer.truncate(before + read);
            if read == 0 {
                if before > 0 {
                    self.buffer.push(b'\n');
                }
                self.returned = self.buffer.len();
                break;
            }
            let end = self.buffer[before..].iter().rposition(|byte| *byte == b'\n');
            self.returned = end.map_or(0, |end| before + end + 1);
        }
        let lines = &self.buffer[..self.returned];
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.count += 1;
            check_line(line).map_err(|problem| format!("line {} {problem}", self.count))?;
        }
        Ok(lines)
    }
}

/// Checks that a line is a JSON object.
fn check_line(line: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?;
    // This type reads values of any depth without recursion.
    let read = serde_json::from_str::<serde::de::IgnoredAny>(text);
    match read.map_err(|error| error.to_string()) {
        Ok(_) if text.trim_start().starts_with('{') => Ok(()),
        Ok(_) => Err("is not a JSON object".to_owned()),
        Err(problem) => Err(format!("is not JSON: {problem}")),
    }
}

/// The number of records of a file.
pub(super) fn records(format: &Format, body: Bytes) -> Result<u64, String> {
    match Reader::new(format, body)? {
        Reader::Ndjson(mut lines) => {
            while !without_pause(lines.buffer.len() + 2 * CHUNK, || lines.next())?.is_empty() {}
            Ok(lines.count)
        }
        #[cfg(feature = "parquet")]
        Reader::Parquet(reader) => Ok(reader.rows()),
    }
}

enum Step {
    More,
    End,
    Unreadable(String),
}

impl Reader {
    fn new(format: &Format, body: Bytes) -> Result<Self, String> {
        match format {
            Format::Ndjson(_) => Ok(Self::Ndjson(Lines::new(body))),
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
                ParquetWriter::new(*compression).map(Self::Parquet).map_err(unwritable)
            }
            #[cfg(not(feature = "parquet"))]
            Format::Parquet(_) => {
                Err(CopyError::Unwritable("Parquet needs a build with the feature parquet".to_owned()))
            }
        }
    }

    /// Takes the next records of a source: about [`CHUNK`] bytes. Adds their number to `records`.
    fn take_from(&mut self, reader: &mut Reader, records: &mut u64) -> Result<Step, CopyError> {
        match (self, reader) {
            (Self::Ndjson(encoder), Reader::Ndjson(lines)) => {
                let text = match lines.next() {
                    Ok(text) => text,
                    Err(problem) => return Ok(Step::Unreadable(problem)),
                };
                encoder.write_all(text).expect("a vector takes all bytes");
                let step = if text.is_empty() { Step::End } else { Step::More };
                *records = lines.count;
                Ok(step)
            }
            #[cfg(feature = "parquet")]
            (Self::Parquet(writer), Reader::Parquet(reader)) => {
                let mut taken = 0;
                while taken < CHUNK {
                    match reader.next_row() {
                        Ok(Some(row)) => {
                            taken += row.message.len() + row.rest.map_or(0, str::len) + 64;
                            writer.push(&row);
                            *records += 1;
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

    /// Bytes that one call may work on.
    fn work(&self) -> usize {
        match self {
            // One chunk is inflated and deflated.
            Self::Ndjson(_) => 2 * CHUNK,
            // The call may end the row group.
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.pending_bytes() + CHUNK,
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

#[cfg(all(test, feature = "parquet"))]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::{
        lake::record::LakeRecord,
        tenant::{Compression, Fields},
    };

    /// Whether another task runs while the only thread does work of this encoder.
    async fn others_run(encoder: Encoder) -> bool {
        let (here, there) = mpsc::channel();
        let work = tokio::spawn(async move {
            tokio::spawn(async move { here.send(()) });
            without_pause(encoder.work(), || there.recv_timeout(Duration::from_secs(2)).is_ok())
        });
        work.await.expect("it ends")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_run_while_a_row_group_is_compressed() {
        let mut large = ParquetWriter::new(Compression::Zstd).expect("a file");
        large.push(&LakeRecord { message: &"x".repeat(2 * CHUNK), ..LakeRecord::default() });
        assert!(others_run(Encoder::Parquet(large)).await);
        assert!(others_run(Encoder::new(&Format::Ndjson(Fields::All)).expect("a file")).await);
        // Small work stays on its thread.
        let small = Encoder::new(&Format::Parquet(Compression::Zstd)).expect("a file");
        assert!(!others_run(small).await);
    }
}
