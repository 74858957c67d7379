//! Puts one batch after another, and writes the records that cannot be delivered into quarantine.

use std::{sync::OnceLock, time::Duration};

use tokio::time::Instant;

use super::{
    LaneError, RejectedSample,
    blame::{Blame, History, RefusalMeaning},
    protocol::Target,
    streams::{StreamKey, Streams},
};
use crate::{
    batch::{BatchTally, Buffers, ClosedBatch, Rejection, Rejections},
    ledger::{Ledger, Position, ahead::EventPosition, owed::Owed},
    quarantine::{FileName, QuarantineError, QuarantineFile, QuarantineReason, Shelf},
    sink::{LogSink, SinkError},
};

/// Writes one lane's batches and quarantine files.
#[derive(Debug)]
pub(super) struct Writer<S, L> {
    pub(super) target: Target<S, L>,
    streams: Streams,
    /// None: there is no quarantine.
    pub(super) shelf: Option<Shelf>,
    /// Why a quarantine file could not be written. After that, this attempt writes no other.
    pub(super) unshelved: OnceLock<QuarantineError>,
    history: History,
}

/// Outcome of a batch whose requests were accepted: all of them, or only the first ones.
#[derive(Debug)]
pub(super) struct Done {
    /// The last event that was put, and why the rest was not put. `None` if the whole batch was put.
    pub(super) stopped: Option<(EventPosition, LaneError)>,
    pub(super) tally: BatchTally,
    /// Records that were set aside with the batch and are in quarantine.
    pub(super) quarantined: u64,
    /// Records that must go into quarantine and are not there yet.
    pub(super) owed: Owed,
    /// Requests that were accepted.
    pub(super) batches: u64,
    /// Bytes as CloudWatch Logs bills them, up to the last event that was put.
    pub(super) bytes: usize,
    /// Timestamp of the newest event that was stored.
    pub(super) newest: Option<i64>,
    /// The first event that was not stored.
    pub(super) rejected: Option<RejectedSample>,
    /// How long the puts took.
    pub(super) took: Duration,
    pub(super) buffers: Buffers,
}

/// Result of putting a batch.
#[derive(Debug, Default)]
struct PutResult {
    /// Requests that were accepted.
    requests: u64,
    /// Number of events whose outcome is known: up to the end of the last accepted request, or all events of the batch.
    answered: usize,
    /// The answered events that were not stored.
    rejections: Rejections,
    /// AWS's words about a refused event.
    refusal: Option<String>,
    /// Why the other events were not put.
    error: Option<LaneError>,
}

impl<S: LogSink, L: Ledger> Writer<S, L> {
    pub(super) fn new(target: Target<S, L>, streams: Streams, shelf: Option<Shelf>) -> Self {
        Self { target, streams, shelf, unshelved: OnceLock::new(), history: History::default() }
    }

    /// Puts one batch into the stream `key`, then adds the rejected events to `file` and writes the file into quarantine.
    ///
    /// If the file cannot be written, its records are owed, because the batch itself was put. Without a quarantine, refused
    /// events are owed. If only the first requests were accepted, the events rejected by these are owed, and the file is not
    /// written: the next attempt sets its records aside again.
    ///
    /// # Errors
    /// Nothing of the batch was put, or the lease could not be kept. Without a ledger to remember the rest, also: a part was not
    /// put, or the file was not written.
    pub(super) async fn deliver(
        &self,
        mut batch: ClosedBatch,
        mut file: QuarantineFile,
        key: &StreamKey,
        begin: Position,
    ) -> Result<Done, LaneError> {
        let began = Instant::now();
        // A batch without events need not wait for the stream's lock.
        let put = if batch.is_empty() { PutResult::default() } else { self.put(&mut batch, key).await };
        let PutResult { requests, answered, rejections, refusal, error } = put;
        let took = began.elapsed();
        let (mut quarantined, mut owed, mut stopped) = (0, Owed::default(), None);
        if let Some(error) = error {
            if answered == 0 || !self.target.claim.is_recorded() {
                return Err(error);
            }
            let (timestamp, record, before) = batch.position(answered - 1);
            let piece = before + if record == begin.records { begin.events } else { 0 };
            stopped = Some((EventPosition { timestamp, record, piece }, error));
            owed = self.owed(&batch, &rejections);
        } else if let Some(shelf) = &self.shelf {
            let set_aside = file.records().len() as u64;
            for event in batch.rejected(&rejections) {
                let reason = QuarantineReason::Rejected(event.reason);
                shelf.add(&mut file, reason, event.record, Some(event.timestamp), event.escaped);
            }
            let records = file.records().to_vec();
            match self.shelve(file, FileName::Batch(begin)).await {
                Ok(()) => quarantined = set_aside,
                // Without a ledger to remember the records, the message must bring the whole batch again.
                Err(error @ LaneError::Quarantine(_)) if !self.target.claim.is_recorded() => {
                    return Err(error);
                }
                Err(LaneError::Quarantine(_)) => owed = Owed::of(records),
                Err(error) => return Err(error),
            }
        } else {
            owed = self.owed(&batch, &rejections);
        }
        let rejected = batch.rejected(&rejections).next().map(|event| RejectedSample {
            reason: event.reason,
            record: event.record,
            timestamp: event.timestamp,
            error: refusal.filter(|_| event.reason == Rejection::Refused),
        });
        Ok(Done {
            tally: batch.tally(answered, &rejections),
            stopped,
            quarantined,
            owed,
            batches: requests,
            bytes: batch.bytes_of(answered),
            newest: batch.newest(answered, &rejections),
            rejected,
            took,
            buffers: batch.into_buffers(),
        })
    }

    /// Returns the rejected records that are owed. Without a quarantine, only refused records are owed.
    fn owed(&self, batch: &ClosedBatch, rejections: &Rejections) -> Owed {
        let owed = batch
            .rejected(rejections)
            .filter(|event| self.shelf.is_some() || event.reason == Rejection::Refused)
            .map(|event| (event.record, QuarantineReason::Rejected(event.reason)));
        Owed::of(owed.collect())
    }

    /// Writes a file into quarantine, unless an earlier file failed.
    ///
    /// # Errors
    /// [`LaneError::Quarantine`]: the file could not be written. Another error: the lease could not be kept.
    pub(super) async fn shelve(&self, file: QuarantineFile, name: FileName) -> Result<(), LaneError> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        if file.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.unshelved.get() {
            return Err(error.clone().into());
        }
        self.target.claim.hold().await?;
        shelf.put(file, name).await.map_err(|error| {
            // The first error is kept.
            let _ = self.unshelved.set(error.clone());
            error.into()
        })
    }

    /// Puts a batch, part by part in order. A refused part is put again in halves until single events are refused.
    async fn put(&self, batch: &mut ClosedBatch, key: &StreamKey) -> PutResult {
        let (mut put, mut refusal) = (PutResult::default(), None);
        let stream = self.streams.get(key);
        let mut stream = stream.lock().await;
        let mut blame = Blame::default();
        let took_lately = stream.took_lately();
        let mut from = 0;
        while from < batch.len() && put.error.is_none() {
            let part = blame.next().unwrap_or_else(|| batch.part(from));
            match self.target.put_part(batch, &part, key, &mut stream).await {
                Ok(rejected) => {
                    self.history.taken();
                    stream.took_at = Some(Instant::now());
                    put.requests += 1;
                    put.rejections.add(&part, &rejected);
                    from = part.end;
                    put.answered = from;
                }
                Err(error @ LaneError::Sink(SinkError::Refused(_))) => {
                    match blame.refused(part.clone(), took_lately || self.history.took_some()) {
                        RefusalMeaning::Event if self.history.refused() => {
                            put.rejections.refuse(part.start);
                            from = part.end;
                            refusal = Some(error);
                        }
                        RefusalMeaning::Again => {}
                        RefusalMeaning::Event | RefusalMeaning::Group => put.error = Some(error),
                    }
                }
                Err(error) => put.error = Some(error),
            }
        }
        if put.error.is_none() {
            // If the group took nothing, the refusal may be the group's fault.
            if took_lately || self.history.took_some() {
                put.answered = from;
            } else {
                put.error = refusal.take();
            }
        }
        // Refusals after the last accepted request may be the group's fault.
        put.rejections.truncate(put.answered);
        put.refusal = refusal.map(|error| error.to_string());
        put
    }
}
