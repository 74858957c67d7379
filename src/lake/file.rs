//! One file of a lake while it is written: its encoded rows, and its upload if they do not fit into one request.

use bytes::Bytes;
use tracing::Instrument;

use super::{
    FileSpec, LakeAccount,
    ndjson::{Members, NdjsonWriter},
    parts::Parts,
    record::Columns,
};
use crate::{
    copy::CopyError,
    delivery::LaneError,
    ledger::{Ledger, claim::Claim},
    records::Record,
    tenant::Format,
    trace,
};

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

impl Encoder {
    pub(super) fn new(format: &Format) -> Result<Self, CopyError> {
        match format {
            Format::Ndjson(fields) => Ok(Self::Ndjson(NdjsonWriter::new(fields))),
            #[cfg(feature = "parquet")]
            Format::Parquet(compression) => {
                super::parquet::ParquetWriter::new(*compression).map(Self::Parquet).map_err(unwritable)
            }
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
pub(super) fn unwritable(error: super::parquet::WriteError) -> CopyError {
    CopyError::Unwritable(error.to_string())
}

/// A file that is being written.
#[derive(Debug)]
pub(super) struct LakeFile {
    /// Start of the file's hour in milliseconds since 1970.
    pub(super) hour: i64,
    encoder: Encoder,
    parts: Parts,
    records: u64,
}

impl LakeFile {
    pub(super) fn new(hour: i64, spec: FileSpec, encoder: Encoder) -> Self {
        Self { hour, encoder, parts: Parts::new(spec), records: 0 }
    }

    pub(super) fn push(&mut self, record: &Record<'_>, timestamp: i64, columns: &mut Columns) {
        self.records += 1;
        self.encoder.push(record, timestamp, columns);
    }

    /// Number of records so far.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// The members of the records so far, for NDJSON.
    pub(super) fn members(&self) -> Option<&Members> {
        match &self.encoder {
            Encoder::Ndjson(writer) => Some(writer.members()),
            #[cfg(feature = "parquet")]
            Encoder::Parquet(_) => None,
        }
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

    /// Writes the encoded bytes as the next part. They must be at least [`MIN_PART`](super::parts::MIN_PART).
    pub(super) async fn write_part<A: LakeAccount>(&mut self, account: &A) -> Result<(), CopyError> {
        let body = self.take();
        self.parts.write(account, body).await
    }

    /// Writes the remaining bytes. The file then appears, if `claim` still holds the object. Returns the file's length.
    pub(super) async fn finish<A: LakeAccount, L: Ledger>(
        self,
        account: &A,
        claim: &Claim<L>,
    ) -> Result<u64, LaneError> {
        let Self { encoder, mut parts, .. } = self;
        let key = parts.key().to_owned();
        let span = trace::step("put", &[(crate::trace::semconv::AWS_S3_KEY, &key)]);
        let finished = async {
            let rest = encoder.finish()?.into();
            let hold = async { Ok(claim.hold().await.map(drop)?) };
            parts.finish(account, rest, hold).await
        };
        let finished = finished.instrument(span).await;
        if finished.is_err() {
            parts.abort(account).await;
        }
        finished
    }

    /// Gives the file up.
    pub(super) async fn abort<A: LakeAccount>(self, account: &A) {
        self.parts.abort(account).await;
    }
}
