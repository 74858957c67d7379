//! One file of a lake while it is written: encoded rows, and the upload that they go to once they are too many for one request.

use bytes::Bytes;
use tracing::Instrument;

use super::{FileSpec, LakeAccount, Part, Upload, ndjson::NdjsonWriter, record::Columns};
use crate::{
    copy::CopyError,
    ledger::{Ledger, LedgerError, claim::Claim},
    records::Record,
    tenant::Format,
    trace,
};

/// Smallest part of an upload besides the last one. Source: S3 User Guide, "Amazon S3 multipart upload limits".
pub(super) const MIN_PART: usize = 5 << 20;

/// Encodes rows in a file's format.
#[cfg_attr(
    feature = "parquet",
    expect(clippy::large_enum_variant, reason = "a lane has few of them, and each has megabytes of buffers")
)]
#[derive(Debug)]
pub(super) enum Encoder {
    Ndjson(NdjsonWriter),
    #[cfg(feature = "parquet")]
    Parquet(super::parquet::ParquetWriter),
}

/// Why a file cannot be written.
#[derive(Debug)]
pub(super) enum FileError {
    Bucket(CopyError),
    Ledger(LedgerError),
}

impl Encoder {
    pub(super) fn new(format: &Format) -> Result<Self, CopyError> {
        match format {
            Format::Ndjson(fields) => Ok(Self::Ndjson(NdjsonWriter::new(fields.clone()))),
            #[cfg(feature = "parquet")]
            Format::Parquet(compression) => super::parquet::ParquetWriter::new(codec(*compression), &[])
                .map(Self::Parquet)
                .map_err(unwritable),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet(_) => {
                Err(CopyError::Unwritable("Parquet needs a build with the feature parquet".to_owned()))
            }
        }
    }

    /// Adds a record: its own text, or its columns.
    fn push(&mut self, record: &Record<'_>, timestamp: i64, columns: &mut Columns) {
        match self {
            Self::Ndjson(writer) => writer.push(record, timestamp),
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.push(&columns.of(record)),
        }
        #[cfg(not(feature = "parquet"))]
        let _ = columns;
    }

    fn finish(self) -> Result<Vec<u8>, CopyError> {
        match self {
            Self::Ndjson(writer) => Ok(writer.finish()),
            #[cfg(feature = "parquet")]
            Self::Parquet(writer) => writer.finish().map_err(unwritable),
        }
    }
}

/// Ending of the files of a format.
pub(super) fn ending(format: &Format) -> &'static str {
    match format {
        Format::Ndjson(_) => ".ndjson.gz",
        Format::Parquet(_) => ".parquet",
    }
}

/// `Content-Type` of the files of a format.
pub(super) fn content_type(format: &Format) -> &'static str {
    match format {
        // Without `Content-Encoding`, because some clients would decompress a file whose name says that it is compressed.
        Format::Ndjson(_) => "application/gzip",
        Format::Parquet(_) => "application/vnd.apache.parquet",
    }
}

#[cfg(feature = "parquet")]
fn codec(compression: crate::tenant::Compression) -> super::parquet::Compression {
    use super::parquet::Compression;
    match compression {
        crate::tenant::Compression::Zstd => Compression::Zstd,
        crate::tenant::Compression::Snappy => Compression::Snappy,
    }
}

#[cfg(feature = "parquet")]
fn unwritable(error: super::parquet::WriteError) -> CopyError {
    CopyError::Unwritable(error.to_string())
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct LakeFile {
    /// Start of the file's hour in milliseconds since 1970.
    pub(super) hour: i64,
    spec: FileSpec,
    encoder: Encoder,
    /// `None`: all bytes are still here.
    upload: Option<(Upload, Vec<Part>)>,
    /// Bytes that were written.
    written: u64,
}

impl LakeFile {
    pub(super) fn new(hour: i64, spec: FileSpec, encoder: Encoder) -> Self {
        Self { hour, spec, encoder, upload: None, written: 0 }
    }

    pub(super) fn push(&mut self, record: &Record<'_>, timestamp: i64, columns: &mut Columns) {
        self.encoder.push(record, timestamp, columns);
    }

    /// Bytes of rows that are not encoded yet.
    pub(super) fn pending(&self) -> usize {
        match &self.encoder {
            Encoder::Ndjson(_) => 0,
            #[cfg(feature = "parquet")]
            Encoder::Parquet(writer) => writer.pending_bytes(),
        }
    }

    /// Bytes that are encoded and not written.
    pub(super) fn encoded(&self) -> usize {
        match &self.encoder {
            Encoder::Ndjson(writer) => writer.encoded(),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(writer) => writer.encoded(),
        }
    }

    /// Ends the open row group.
    pub(super) fn end_group(&mut self) -> Result<(), CopyError> {
        match &mut self.encoder {
            Encoder::Ndjson(_) => Ok(()),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(writer) => writer.end_group().map_err(unwritable),
        }
    }

    fn take(&mut self) -> Bytes {
        match &mut self.encoder {
            Encoder::Ndjson(writer) => writer.take_encoded().into(),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(writer) => writer.take_encoded().into(),
        }
    }

    /// Writes the encoded bytes as the next part. They must be at least [`MIN_PART`].
    pub(super) async fn write_part<A: LakeAccount>(&mut self, account: &A) -> Result<(), CopyError> {
        if self.upload.is_none() {
            let id = account.begin(&self.spec).await?;
            self.upload = Some((Upload { key: self.spec.key.clone(), id }, Vec::new()));
        }
        let body = self.take();
        self.written += body.len() as u64;
        let (upload, parts) = self.upload.as_mut().expect("the upload has begun");
        parts.push(account.part(upload, parts.len() as i32 + 1, body).await?);
        Ok(())
    }

    /// Writes the rest, and lets the file appear if `claim` still holds its object. Returns the file's length.
    pub(super) async fn finish<A: LakeAccount, L: Ledger>(
        self,
        account: &A,
        claim: &Claim<L>,
    ) -> Result<u64, FileError> {
        let span = trace::step("put", &[(crate::trace::semconv::AWS_S3_KEY, &self.spec.key)]);
        self.finish_in_span(account, claim).instrument(span).await
    }

    async fn finish_in_span<A: LakeAccount, L: Ledger>(
        self,
        account: &A,
        claim: &Claim<L>,
    ) -> Result<u64, FileError> {
        let Self { spec, encoder, mut upload, written, .. } = self;
        let finished = async {
            let rest: Bytes = encoder.finish().map_err(FileError::Bucket)?.into();
            let length = written + rest.len() as u64;
            match &mut upload {
                None => {
                    claim.hold().await.map_err(FileError::Ledger)?;
                    account.put(&spec, rest).await.map_err(FileError::Bucket)?;
                }
                Some((upload, parts)) => {
                    let number = parts.len() as i32 + 1;
                    parts.push(account.part(upload, number, rest).await.map_err(FileError::Bucket)?);
                    claim.hold().await.map_err(FileError::Ledger)?;
                    let parts = std::mem::take(parts);
                    account.complete(upload, parts).await.map_err(FileError::Bucket)?;
                }
            }
            Ok(length)
        };
        let finished = finished.await;
        if let (Err(_), Some((upload, _))) = (&finished, &upload) {
            account.abort(upload).await;
        }
        finished
    }

    /// Gives the file up.
    pub(super) async fn abort<A: LakeAccount>(self, account: &A) {
        if let Some((upload, _)) = &self.upload {
            account.abort(upload).await;
        }
    }
}
