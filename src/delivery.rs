//! Carries one object's records into one log stream: batches in order, one on its way while the next one fills.
//!
//! Knows what each of CloudWatch Logs' answers asks for; does not know where the records come from, nor what becomes of
//! the message when a delivery fails.

mod blame;
mod due;
mod streams;
mod writer;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::streams::{MAX_STREAMS, StreamKey, Streams};
use self::{
    due::Due,
    writer::{Done, Writer},
};
use crate::{
    batch::{Batch, BatchHead, BatchTally, BufferPool, Buffers, MAX_MESSAGE_BYTES, Rejection},
    fairness::cpu::without_pause,
    ledger::{Ledger, LedgerError, Position, Progress, ahead::Ahead, claim::Claim, owed::Owed},
    object::trail::{Fingerprint, Trail},
    quarantine::{FileName, QuarantineError, QuarantineFile, QuarantineReason, Shelf},
    records::{Message, Record, RecordError, RecordProblem, Unreadable},
    sink::{LogSink, SinkError},
    tenant::{CloudWatch, Oversize},
};

/// How long a worker that stops waits for an answer of CloudWatch Logs: what is taken without one is put again.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// A lane that owes that much, in bytes of its ledger entry, puts no further batch. The last one adds 10,000 events and 10,000
/// records that were set aside at most, of two to four bytes each: with 104 KiB an entry stays far from the 400 KiB that
/// DynamoDB allows an item.
const MOST_OWED: usize = 24 << 10;

/// What became of the records that one delivery was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records given to it.
    pub read: u64,
    /// Stored by CloudWatch Logs, too old, too new, expired.
    pub put: BatchTally,
    /// Skipped because their message is empty.
    pub empty: u64,
    /// Put into quarantine: too long and not to be cut, or not to be read.
    pub quarantined: u64,
    /// Passed over: an attempt of before accounted for them. What it owed to the quarantine counts here too if CloudWatch Logs
    /// had rejected it then; else it counts as quarantined once it is there.
    pub resumed: u64,
    /// Of those read: had no timestamp of their own and got the object's.
    pub undated: u64,
    /// Of those read: their message was not what JSON and UTF-8 allow, and arrived mended.
    pub mended: u64,
    /// Of those read: cut into several events, short of their end, or in quarantine, as the tenant's policy says.
    pub oversize: u64,
    /// PutLogEvents calls that were answered.
    pub batches: u64,
    /// Bytes as CloudWatch Logs bills them.
    pub bytes: u64,
}

impl Tally {
    /// Records whose fate is known; after a delivery that ended well, as many as were read.
    pub fn accounted(&self) -> u64 {
        let BatchTally { accepted, too_old, too_new, expired, refused } = self.put;
        accepted + too_old + too_new + expired + refused + self.empty + self.quarantined + self.resumed
    }
}

/// What all lanes of a worker share.
#[derive(Debug)]
pub struct Shared {
    /// What is known of streams.
    pub streams: Streams,
    /// Buffers for batches.
    pub buffers: BufferPool,
    /// Most events of one batch.
    pub max_batch_events: usize,
}

/// One object's way into one stream.
///
/// Its place in the ledger follows it: the position behind a batch is recorded once the batch was answered, while the next
/// one is being put; and that one is answered only after the record was made. A worker that dies repeats two batches of it at most.
#[derive(Debug)]
pub struct Lane<S, L> {
    writer: Arc<Writer<S, L>>,
    open: Batch,
    spare: Option<Buffers>,
    pool: BufferPool,
    on_its_way: Option<OnItsWay>,
    oversize: Oversize,
    /// What goes into quarantine with the open batch.
    aside: QuarantineFile,
    due: Due,
    /// What would go there with the open batch, and there is none.
    unkept: Owed,
    /// The first such record that this attempt met.
    first_unkept: Option<RecordError>,
    tally: Tally,
    claim: Arc<Claim<L>>,
    /// Where the open batch begins.
    begin: Position,
    /// Of the event that is added next: where the open batch ends.
    next: Position,
    trail: Trail,
    /// Up to the end of the last batch that was answered.
    progress: Progress,
    /// `progress` is not in the ledger yet, nor on its way there.
    unrecorded: bool,
    recording: Option<AbortOnDropHandle<Result<(), LedgerError>>>,
}

/// A batch that is being put.
#[derive(Debug)]
struct OnItsWay {
    /// Where it ends.
    end: Position,
    /// What was read of the object by then.
    read: Fingerprint,
    /// What should go into a quarantine with it.
    unkept: Owed,
    put: AbortOnDropHandle<Result<Done, LaneError>>,
}

/// Why a lane cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// A batch could not be delivered.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// What could not be delivered could not be put into quarantine either.
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    /// A record cannot be read, or is refused by itself, and there is no quarantine to say so; all others were delivered.
    #[error(
        "{0}; the object's other records were delivered. With quarantine.bucket set, redrive the message: the record, or the place \
         where it stands, goes there"
    )]
    Unkept(RecordError),
    /// Another worker has the object, or the ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl<S: LogSink, L: Ledger> Lane<S, L> {
    /// Opens a lane into the stream that `key` names, from where `claim` goes on. What cannot be delivered goes onto
    /// `shelf`; without one, events that CloudWatch Logs rejects are counted, and a message too long for one event is cut.
    /// `trail` is the object's, from its start.
    pub fn new(
        sink: S,
        claim: Arc<Claim<L>>,
        destination: &CloudWatch,
        key: StreamKey,
        shelf: Option<Shelf>,
        trail: Trail,
        shared: &Shared,
    ) -> Self {
        let head = BatchHead::new(&key.log_group_name, &key.log_stream_name);
        let progress = claim.from().clone();
        let due = Due::of(progress.owed.clone());
        Self {
            open: Batch::in_buffers(&head, shared.buffers.take()).of_at_most(shared.max_batch_events),
            spare: None,
            pool: shared.buffers.clone(),
            writer: Arc::new(Writer {
                sink,
                key,
                retention_days: destination.retention_days,
                streams: shared.streams.clone(),
                claim: Arc::clone(&claim),
                shelf,
                unshelved: OnceLock::new(),
                record: blame::Record::default(),
            }),
            on_its_way: None,
            oversize: destination.oversize,
            aside: QuarantineFile::default(),
            due,
            unkept: Owed::default(),
            first_unkept: None,
            tally: Tally::default(),
            begin: progress.position,
            next: Position::default(),
            trail,
            progress,
            unrecorded: false,
            recording: None,
            claim,
        }
    }

    /// Takes a record; `object_time` in milliseconds stands in for a timestamp that it has not. All records of the object
    /// are given, also those that are accounted for.
    ///
    /// # Errors
    /// A batch of before could not be delivered, or the object is another worker's. The lane can only be abandoned then.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it leaves a lane that can only be abandoned.
    pub async fn push(&mut self, record: &Record<'_>, object_time: i64) -> Result<(), LaneError> {
        let timestamp = record.timestamp.unwrap_or(object_time);
        let owed = self.due.find(self.tally.read);
        if let (Some(reason), Some(shelf)) = (owed, &self.writer.shelf) {
            let message = record.message.escaped();
            let (file, record) = (&mut self.due.file, self.tally.read);
            without_pause(message.len(), || shelf.add(file, reason, record, Some(timestamp), message));
        }
        let Some(put_before) = self.count(owed, Some(timestamp)) else {
            return self.write_full_files().await;
        };
        self.tally.undated += u64::from(record.timestamp.is_none());
        self.tally.mended += u64::from(record.mended);
        if record.message.is_empty() {
            self.tally.empty += 1;
        } else if record.message.len() <= MAX_MESSAGE_BYTES {
            if put_before > 0 {
                self.tally.resumed += 1;
            } else {
                if self.must_send(timestamp, &record.message) {
                    self.send().await?;
                }
                self.open.push(self.next.records, timestamp, &record.message, true);
            }
        } else {
            self.tally.oversize += 1;
            let shelved = self.oversize == Oversize::Quarantine
                && self.set_aside(QuarantineReason::Oversize, Some(timestamp), &record.message);
            if !shelved {
                self.add_pieces(timestamp, &record.message, put_before).await?;
            }
        }
        self.next = Position { records: self.tally.read, events: 0 };
        // A future for each record would be felt.
        if self.has_full_file() { self.write_full_files().await } else { Ok(()) }
    }

    /// Takes a record that cannot be read, for the quarantine. Without one, it is remembered until [`Lane::flush`].
    ///
    /// # Errors
    /// As [`Lane::push`].
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn push_unreadable(&mut self, unreadable: &Unreadable<'_>) -> Result<(), LaneError> {
        let text = unreadable.text.as_ref();
        let reason = match unreadable.error.problem {
            RecordProblem::TooLong { .. } => QuarantineReason::TooLong,
            _ => QuarantineReason::Malformed,
        };
        let owed = self.due.find(self.tally.read);
        if let (Some(reason), Some(shelf)) = (owed, &self.writer.shelf) {
            let (file, record) = (&mut self.due.file, self.tally.read);
            without_pause(text.len(), || shelf.add_line(file, reason, record, text));
        }
        if self.writer.shelf.is_none() {
            self.first_unkept.get_or_insert_with(|| unreadable.error.clone());
        }
        if self.count(owed, None).is_none() {
            return self.write_full_files().await;
        }
        match &self.writer.shelf {
            Some(shelf) => {
                let (file, record) = (&mut self.aside, self.next.records);
                without_pause(text.len(), || shelf.add_line(file, reason, record, text));
            }
            None => self.unkept.add(Owed::of(vec![(self.next.records, reason)])),
        }
        self.next = Position { records: self.tally.read, events: 0 };
        self.write_full_files().await
    }

    /// Counts the next record; tells how many of its events were put before, or none if it is accounted for. `timestamp` is its
    /// events'; a record that cannot be read has no events.
    fn count(&mut self, owed: Option<QuarantineReason>, timestamp: Option<i64>) -> Option<u64> {
        let (index, Progress { position: from, ahead, .. }) = (self.tally.read, self.claim.from());
        self.tally.read += 1;
        self.next = Position { records: index, events: 0 };
        if index < from.records {
            if !owed.is_some_and(QuarantineReason::counts_in_quarantine) {
                self.tally.resumed += 1;
            }
            self.next.records += 1;
            return None;
        }
        let put = if index == from.records { from.events } else { 0 };
        let put_ahead =
            ahead.zip(timestamp).map_or(0, |(ahead, timestamp)| ahead.events_put(index, timestamp));
        Some(put.max(put_ahead))
    }

    /// Whether the open batch has to go before this event: it is full, or holds what is left of a batch that was put in part.
    /// What is left goes alone, so that its end stays the end of what was put.
    fn must_send(&self, timestamp: i64, message: &Message<'_>) -> bool {
        !self.open.takes(timestamp, message.len())
            || self.claim.from().ahead.is_some_and(|ahead| self.begin < ahead.end && ahead.end <= self.next)
    }

    fn has_full_file(&self) -> bool {
        self.aside.is_full() || self.due.file.is_full()
    }

    /// Writes what goes into quarantine once it fills a file.
    async fn write_full_files(&mut self) -> Result<(), LaneError> {
        if self.aside.is_full() {
            self.send().await?;
        }
        if self.due.file.is_full() {
            self.pay().await?;
        }
        Ok(())
    }

    /// Puts into quarantine what was owed and found again. What is not taken stays owed.
    async fn pay(&mut self) -> Result<(), LaneError> {
        let file = std::mem::take(&mut self.due.file);
        let Some(&(first, _)) = file.records().first() else { return Ok(()) };
        let counted = file.records().iter().filter(|(_, reason)| reason.counts_in_quarantine()).count();
        match self.writer.shelve(file, FileName::Owed(first)).await {
            Ok(()) => {}
            Err(LaneError::Quarantine(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        // All that comes before is in this file, or in one before.
        self.progress.owed.paid_before(self.tally.read);
        self.tally.quarantined += counted as u64;
        self.unrecorded = true;
        Ok(())
    }

    /// Keeps a record for the quarantine; false if there is none.
    fn set_aside(&mut self, reason: QuarantineReason, timestamp: Option<i64>, message: &Message<'_>) -> bool {
        let Some(shelf) = &self.writer.shelf else { return false };
        let (file, record, text) = (&mut self.aside, self.next.records, message.escaped());
        without_pause(text.len(), || shelf.add(file, reason, record, timestamp, text));
        true
    }

    /// Adds a message longer than one event may be, but for the first pieces that were put before.
    async fn add_pieces(
        &mut self,
        timestamp: i64,
        message: &Message<'_>,
        put_before: u64,
    ) -> Result<(), LaneError> {
        let mut pieces = message.pieces(MAX_MESSAGE_BYTES).peekable();
        let mut completed = false;
        while let Some(piece) = pieces.next().filter(|_| !completed) {
            completed = self.oversize == Oversize::Truncate || pieces.peek().is_none();
            if self.next.events >= put_before {
                if self.must_send(timestamp, &piece) {
                    self.send().await?;
                }
                self.open.push(self.next.records, timestamp, &piece, completed);
            } else if completed {
                // The last of them was put before its record counted: the tenant's policy has changed since.
                self.tally.resumed += 1;
            }
            self.next.events += 1;
        }
        Ok(())
    }

    /// Delivers what is left and waits for the last answer.
    ///
    /// # Errors
    /// As [`Lane::push`]; or records are owed to the quarantine.
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        if !self.open.is_empty() || !self.aside.is_empty() || !self.unkept.is_empty() {
            self.send().await?;
        }
        self.arrived().await?;
        self.pay().await?;
        self.is_owing()?;
        self.recorded().await?;
        self.pool.give(self.open.take_buffers());
        self.spare.take().into_iter().for_each(|buffers| self.pool.give(buffers));
        Ok(())
    }

    /// Records in the ledger that the object is done. Flush it first.
    ///
    /// # Errors
    /// Another worker has the object.
    pub async fn complete(&self) -> Result<(), LaneError> {
        Ok(self.claim.finish(self.next).await?)
    }

    /// # Errors
    /// The quarantine could not be written or is not there, so that records are owed to it.
    fn is_owing(&self) -> Result<(), LaneError> {
        match self.writer.unshelved.get() {
            Some(error) if !self.progress.owed.is_empty() => Err(error.clone().into()),
            None if self.writer.shelf.is_none()
                && let Some(index) = self.progress.owed.first(QuarantineReason::TooLong) =>
            {
                let stepped_over = || RecordError { index, problem: RecordProblem::SteppedOver };
                Err(LaneError::Unkept(self.first_unkept.clone().unwrap_or_else(stepped_over)))
            }
            None if self.writer.shelf.is_none()
                && let Some(index) =
                    self.progress.owed.first(QuarantineReason::Rejected(Rejection::Refused)) =>
            {
                Err(LaneError::Unkept(RecordError { index, problem: RecordProblem::Refused }))
            }
            // The quarantine was switched off since. What CloudWatch Logs rejected was counted, and no more is asked; the rest is
            // nowhere yet.
            None if self.writer.shelf.is_none() && self.progress.owed.counts_in_quarantine() => {
                let problem =
                    "an attempt before owes records to it, and quarantine.bucket is not set; set it again"
                        .to_owned();
                Err(QuarantineError { key: "of owed records".to_owned(), problem }.into())
            }
            _ => Ok(()),
        }
    }

    /// Gives the object back to the ledger. What is on its way has perhaps been taken already: its answer is waited for, but
    /// not for long once we have to `stop`, and what it accounts for is recorded.
    pub async fn abandon(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        self.claim.release(&self.progress).await;
    }

    /// As [`Lane::abandon`] where what came was not what is stored, or not what an attempt before had read: if any of it was
    /// put, or may have been then, the next attempt begins at the start. To have records twice is better than to have them
    /// altered.
    pub async fn distrust(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        let from = self.claim.from();
        let read = self.trail.read().offset;
        let confirmed = from.fingerprints.iter().all(|fingerprint| fingerprint.offset <= read);
        if confirmed && self.progress.position == from.position && self.progress.ahead == from.ahead {
            self.claim.release(&self.progress).await;
        } else {
            self.claim.restart().await;
        }
    }

    async fn come_to_rest(&mut self, stop: &CancellationToken) {
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        // Why it cannot go on was told; a batch that fails now was not accounted for, that is all.
        let rest = async {
            let _ = self.arrived().await;
            let _ = self.recorded().await;
        };
        tokio::select! {
            () = rest => {}
            // What gives the lease back records the position too.
            () = patience => (self.on_its_way, self.recording) = (None, None),
        }
    }

    /// Where it went on from.
    pub fn from(&self) -> Position {
        self.claim.from().position
    }

    /// What became of the records so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sends the open batch off with what was set aside, once the one before has arrived.
    async fn send(&mut self) -> Result<(), LaneError> {
        self.arrived().await?;
        // Before the first batch: whether the quarantine can be written is known then.
        self.pay().await?;
        if !self.progress.owed.is_empty() && self.progress.owed.encode().len() >= MOST_OWED {
            self.is_owing()?;
        }
        self.recorded().await?;
        if std::mem::take(&mut self.unrecorded) {
            let (claim, progress) = (Arc::clone(&self.claim), self.progress.clone());
            let checkpoint = async move { claim.checkpoint(&progress).await };
            self.recording = Some(AbortOnDropHandle::new(tokio::spawn(checkpoint)));
        }
        let spare = self.spare.take().unwrap_or_else(|| self.pool.take());
        let batch = self.open.close(spare);
        let file = std::mem::take(&mut self.aside);
        let writer = Arc::clone(&self.writer);
        let begin = std::mem::replace(&mut self.begin, self.next);
        let put = tokio::spawn(async move { writer.deliver(batch, file, begin).await });
        let put = AbortOnDropHandle::new(put);
        let unkept = std::mem::take(&mut self.unkept);
        self.on_its_way = Some(OnItsWay { end: self.next, read: self.trail.read(), unkept, put });
        Ok(())
    }

    /// Waits for the answer to the batch on its way. Safe to drop: the next call waits on.
    async fn arrived(&mut self) -> Result<(), LaneError> {
        let Some(OnItsWay { end, read, unkept, put }) = &mut self.on_its_way else { return Ok(()) };
        let answer = put.await;
        let (end, read, unkept) = (*end, *read, std::mem::take(unkept));
        self.on_its_way = None;
        let done = match answer {
            Ok(done) => done?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that is shutting down cancels it.
            Err(_) => return Err(SinkError::Unavailable("the worker is shutting down".to_owned()).into()),
        };
        let BatchTally { accepted, too_old, too_new, expired, refused } = done.tally;
        self.tally.put.accepted += accepted;
        self.tally.put.too_old += too_old;
        self.tally.put.too_new += too_new;
        self.tally.put.expired += expired;
        self.tally.put.refused += refused;
        self.tally.quarantined += done.quarantined;
        self.tally.batches += done.batches;
        self.tally.bytes += done.bytes as u64;
        self.spare = Some(done.buffers);
        self.progress.owed.add(done.owed);
        let stopped = match done.stopped {
            Some((last, error)) => {
                // Of a batch that ends before what was put ahead, less is known by it than by what stands there.
                if self.progress.ahead.is_none_or(|ahead| ahead.end <= end) {
                    self.progress.ahead = Some(Ahead { end, last });
                }
                Err(error)
            }
            None => {
                self.progress.position = end;
                self.progress.ahead = self.progress.ahead.filter(|ahead| ahead.end > end);
                self.progress.owed.add(unkept);
                Ok(())
            }
        };
        // It stands for those that it confirms.
        self.progress.fingerprints.retain(|fingerprint| fingerprint.offset > read.offset);
        self.progress.fingerprints.push(read);
        self.unrecorded = true;
        stopped
    }

    /// Waits until the position on its way to the ledger is there. Safe to drop: the next call waits on.
    async fn recorded(&mut self) -> Result<(), LaneError> {
        let Some(checkpoint) = &mut self.recording else { return Ok(()) };
        let answer = checkpoint.await;
        self.recording = None;
        match answer {
            Ok(answer) => Ok(answer?),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(SinkError::Unavailable("the worker is shutting down".to_owned()).into()),
        }
    }
}

#[cfg(test)]
mod tests;
