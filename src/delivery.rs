//! Delivers one object's records into one log stream: batches in order, one being put while the next one fills.
//!
//! A [`Lane`] takes the records. Its `writer` puts batches and quarantine files; `protocol` makes the calls of one stream, and
//! `blame` finds the events for which a request is refused. This module does not know where records come from, nor what becomes
//! of the message when a delivery fails.

mod blame;
mod lane;
mod metrics;
mod protocol;
mod streams;
mod writer;

use std::time::Duration;

use self::writer::Done;
pub use self::{
    lane::Lane,
    metrics::Metrics,
    streams::{MAX_STREAMS, StreamKey, Streams},
};
use crate::{
    batch::{BatchTally, BufferPool, Rejection},
    copy::CopyError,
    ledger::LedgerError,
    quarantine::QuarantineError,
    records::RecordError,
    sink::SinkError,
};

/// How long a worker that stops waits for an answer of CloudWatch Logs. A batch whose answer does not arrive is put again, even
/// if it was stored.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// Bytes of owed records in a lane's ledger entry at which the lane puts no further batch. The last batch can add 10,000 events
/// and 10,000 records that were set aside, at two to four bytes each. The entry then has up to 104 KiB, far from DynamoDB's
/// limit of 400 KiB for an item.
const MOST_OWED: usize = 24 << 10;

/// Number of records that one delivery was given, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records given to the delivery.
    pub read: u64,
    /// Records that were put: stored, or rejected as too old, too new or expired, or refused.
    pub put: BatchTally,
    /// Skipped because the message is empty.
    pub empty: u64,
    /// Skipped because the format gives it no event: the header of a log file, or an event of a control message.
    pub skipped: u64,
    /// Put into quarantine: unreadable, or longer than one event where the tenant's policy is to quarantine such records.
    pub quarantined: u64,
    /// Passed over because an earlier attempt accounted for them. A record that the earlier attempt owed to the quarantine counts
    /// here if CloudWatch Logs had rejected it. Otherwise it counts as quarantined, once its file is written.
    pub resumed: u64,
    /// Records read without a usable timestamp; they get the object's time.
    pub undated: u64,
    /// Records read whose message was not legal JSON or UTF-8, and was mended.
    pub mended: u64,
    /// Records read that are longer than one event: split, truncated or quarantined, as the tenant's policy says.
    pub oversize: u64,
    /// PutLogEvents calls that were answered.
    pub batches: u64,
    /// Bytes as CloudWatch Logs bills them.
    pub bytes: u64,
    /// Timestamp of the newest event that was stored, in milliseconds since 1970.
    pub newest: Option<i64>,
}

impl Tally {
    /// Records whose outcome is known. After a successful delivery, these are all records read.
    pub fn accounted(&self) -> u64 {
        self.put.accepted + self.put.rejected() + self.empty + self.skipped + self.quarantined + self.resumed
    }

    /// Adds a batch that was answered.
    fn add(&mut self, done: &Done) {
        let BatchTally { accepted, too_old, too_new, expired, refused } = done.tally;
        self.put.accepted += accepted;
        self.put.too_old += too_old;
        self.put.too_new += too_new;
        self.put.expired += expired;
        self.put.refused += refused;
        self.quarantined += done.quarantined;
        self.batches += done.batches;
        self.bytes += done.bytes as u64;
        self.newest = self.newest.max(done.newest);
    }
}

/// The first event of an object that CloudWatch Logs did not store, as a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSample {
    /// Why it was not stored.
    pub reason: Rejection,
    /// Position of its record in the object.
    pub record: u64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// AWS's words, if AWS refuses the event.
    pub error: Option<String>,
}

/// State that all lanes of a worker share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Known streams.
    pub streams: Streams,
    /// Buffers for batches.
    pub buffers: BufferPool,
    /// Most events of one batch.
    pub max_batch_events: usize,
    /// Metrics of requests.
    pub metrics: Metrics,
}

/// Why a lane, of this module or of a lake, cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// A batch could not be delivered.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Records that could not be delivered could not be put into quarantine either.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// A record cannot be read, or CloudWatch Logs refuses it, and there is no quarantine. All other records were delivered.
    #[error(
        "{0}; the object's other records were delivered; set quarantine.bucket and redrive the message, so that the quarantine keeps \
         the record or its place"
    )]
    Unkept(RecordError),
    /// Another worker has the object, or the ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Other objects use all memory for large lake files.
    #[error(
        "other objects use all of the worker's memory for long lake files, or the tenant's other objects use half; the message is retried"
    )]
    NoShare,
    /// A file could not be written into the customer's bucket.
    #[error(transparent)]
    Bucket(#[from] CopyError),
}

impl LaneError {
    /// Name of the kind of error, for spans.
    fn kind(&self) -> &'static str {
        match self {
            Self::Sink(error) => error.kind(),
            Self::Quarantine(_) => "quarantine",
            Self::Unkept(_) => "unkept",
            Self::Ledger(error) => error.kind(),
            Self::Bucket(_) => "bucket",
            Self::NoShare => "no_share",
        }
    }
}

#[cfg(test)]
mod tests;
