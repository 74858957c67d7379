//! Carries one object's records into one log stream: batches in order, one on its way while the next one fills.
//!
//! Knows what each of CloudWatch Logs' answers asks for; does not know where the records come from, nor what becomes of
//! the message when a delivery fails.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::Mutex;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    batch::{
        Batch, BatchHead, BatchTally, BufferPool, Buffers, ClosedBatch, MAX_MESSAGE_BYTES, RejectedEvents,
    },
    ledger::{
        Ledger, Position,
        claim::{Claim, Lost},
    },
    quarantine::{QuarantineError, QuarantineFile, QuarantineReason, Shelf},
    records::{Message, Record},
    sink::{LogSink, SinkError},
    tenant::{CloudWatch, Oversize},
};

/// How often one batch is put while its stream is created or its token corrected. Neither takes more than two rounds;
/// the rest is for a group that the service does not see yet although it exists.
const MAX_ROUNDS: u32 = 6;
/// First pause when a group or stream was just created and is still not found; doubles each round.
const CREATION_PAUSE: Duration = Duration::from_millis(50);
/// How long a worker that stops waits for an answer of CloudWatch Logs: what is taken without one is put again.
const LAST_ANSWER: Duration = Duration::from_secs(1);
/// A file for the quarantine goes out with the open batch, but not later than when it has grown to that many bytes.
const FULL_FILE: usize = 1 << 20;
/// Most streams whose sequence token is remembered, at most 1 KiB each.
pub const MAX_STREAMS: u64 = 20_000;

/// What is known of streams, shared by all deliveries of a worker.
#[derive(Clone, Debug)]
pub struct Streams {
    known: Cache<StreamKey, Arc<Mutex<Stream>>>,
}

/// Names a stream among all accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The customer's account.
    pub account: String,
    /// Region of the group.
    pub region: String,
    /// The group.
    pub log_group_name: String,
    /// The stream.
    pub log_stream_name: String,
}

/// One stream; whoever puts into it holds its lock, so that its batches go out one after another.
#[derive(Debug, Default)]
struct Stream {
    sequence_token: Option<String>,
}

impl Streams {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            known: Cache::builder().max_capacity(MAX_STREAMS).time_to_idle(Duration::from_secs(3600)).build(),
        }
    }

    async fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        self.known.get_with_by_ref(key, async { Arc::default() }).await
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of the records that one delivery was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records given to it.
    pub read: u64,
    /// Stored by CloudWatch Logs, too old, too new, expired.
    pub put: BatchTally,
    /// Skipped because their message is empty.
    pub empty: u64,
    /// Put into quarantine: too long and not to be cut, or no record at all.
    pub quarantined: u64,
    /// Passed over: an attempt of before accounted for them.
    pub resumed: u64,
    /// Of those read: had no timestamp of their own and got the object's.
    pub undated: u64,
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
        let BatchTally { accepted, too_old, too_new, expired } = self.put;
        accepted + too_old + too_new + expired + self.empty + self.quarantined + self.resumed
    }
}

/// One object's way into one stream.
///
/// Its place in the ledger follows it: the position behind a batch is recorded once the batch was answered, while the next
/// one is being put; and that one is answered only after the record was made. A worker that dies repeats two batches of it at most.
#[derive(Debug)]
pub struct Lane<S, L> {
    writer: Arc<Writer<S>>,
    open: Batch,
    spare: Option<Buffers>,
    pool: BufferPool,
    on_its_way: Option<(Position, AbortOnDropHandle<Result<Done, LaneError>>)>,
    oversize: Oversize,
    /// What goes into quarantine with the open batch, and how many records that is.
    aside: (QuarantineFile, u64),
    tally: Tally,
    claim: Arc<Claim<L>>,
    /// Where the open batch begins.
    begin: Position,
    /// Of the event that is added next: where the open batch ends.
    next: Position,
    /// Behind the last batch that was answered.
    accounted: Position,
    /// `accounted` is not in the ledger yet, nor on its way there.
    unrecorded: bool,
    recording: Option<AbortOnDropHandle<Result<(), Lost>>>,
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
    /// Another worker has the object.
    #[error(transparent)]
    Lost(#[from] Lost),
}

#[derive(Debug)]
struct Writer<S> {
    sink: S,
    key: StreamKey,
    retention_days: Option<i32>,
    streams: Streams,
    /// None: there is no quarantine.
    shelf: Option<Shelf>,
}

#[derive(Debug)]
struct Done {
    tally: BatchTally,
    quarantined: u64,
    batches: u64,
    bytes: usize,
    buffers: Buffers,
}

impl<S: LogSink, L: Ledger> Lane<S, L> {
    /// Opens a lane into the stream that `key` names, from where `claim` goes on. What cannot be delivered goes onto
    /// `shelf`; without one, events that CloudWatch Logs rejects are counted, and a message too long for one event is cut.
    pub fn new(
        sink: S,
        claim: Arc<Claim<L>>,
        destination: &CloudWatch,
        key: StreamKey,
        shelf: Option<Shelf>,
        streams: &Streams,
        pool: &BufferPool,
    ) -> Self {
        let head = BatchHead::new(&key.log_group_name, &key.log_stream_name);
        Self {
            open: Batch::in_buffers(&head, pool.take()),
            spare: None,
            pool: pool.clone(),
            writer: Arc::new(Writer {
                sink,
                key,
                retention_days: destination.retention_days,
                streams: streams.clone(),
                shelf,
            }),
            on_its_way: None,
            oversize: destination.oversize,
            aside: (QuarantineFile::default(), 0),
            tally: Tally::default(),
            begin: claim.from(),
            next: Position::default(),
            accounted: claim.from(),
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
        let Some(put_before) = self.count() else { return Ok(()) };
        self.tally.undated += u64::from(record.timestamp.is_none());
        let timestamp = record.timestamp.unwrap_or(object_time);
        if record.message.is_empty() {
            self.tally.empty += 1;
        } else if record.message.len() <= MAX_MESSAGE_BYTES {
            self.add(timestamp, &record.message, true).await?;
        } else {
            self.tally.oversize += 1;
            let shelved = self.oversize == Oversize::Quarantine
                && self.set_aside(QuarantineReason::Oversize, Some(timestamp), &record.message);
            if !shelved {
                self.add_pieces(timestamp, &record.message, put_before).await?;
            }
        }
        self.counted().await
    }

    /// Takes a line that is no record, for the quarantine.
    ///
    /// # Errors
    /// As [`Lane::push`].
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn push_bad_line(&mut self, text: &str) -> Result<(), LaneError> {
        if self.count().is_none() {
            return Ok(());
        }
        // Nobody reads on behind a bad line without a quarantine; it would be found as unaccounted for.
        if let Some(shelf) = &self.writer.shelf {
            let (file, records) = &mut self.aside;
            shelf.add_line(file, QuarantineReason::Malformed, self.next.records, text);
            *records += 1;
        }
        self.counted().await
    }

    /// Counts the next record; tells how many of its events were put before, or none if it is accounted for.
    fn count(&mut self) -> Option<u64> {
        let (index, from) = (self.tally.read, self.claim.from());
        self.tally.read += 1;
        self.next = Position { records: index, events: 0 };
        if index < from.records {
            self.tally.resumed += 1;
            self.next.records += 1;
            return None;
        }
        Some(if index == from.records { from.events } else { 0 })
    }

    /// The record is in the open batch, or beside it.
    async fn counted(&mut self) -> Result<(), LaneError> {
        self.next = Position { records: self.tally.read, events: 0 };
        if self.aside.0.bytes() >= FULL_FILE { self.send().await } else { Ok(()) }
    }

    /// Keeps a record for the quarantine; false if there is none.
    fn set_aside(&mut self, reason: QuarantineReason, timestamp: Option<i64>, message: &Message<'_>) -> bool {
        let Some(shelf) = &self.writer.shelf else { return false };
        let (file, records) = &mut self.aside;
        shelf.add(file, reason, self.next.records, timestamp, message.escaped());
        *records += 1;
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
                self.add(timestamp, &piece, completed).await?;
            } else if completed {
                // The last of them was put before its record counted: the tenant's policy has changed since.
                self.tally.resumed += 1;
            }
            self.next.events += 1;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        timestamp: i64,
        message: &Message<'_>,
        completes_record: bool,
    ) -> Result<(), LaneError> {
        if !self.open.takes(timestamp, message.len()) {
            self.send().await?;
        }
        self.open.push(self.next.records, timestamp, message, completes_record);
        Ok(())
    }

    /// Delivers what is left and waits for the last answer.
    ///
    /// # Errors
    /// As [`Lane::push`].
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        if !self.open.is_empty() || !self.aside.0.is_empty() {
            self.send().await?;
        }
        self.arrived().await?;
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

    /// Gives the object back to the ledger. What is on its way has perhaps been taken already: its answer is waited for, but
    /// not for long once we have to `stop`, and what it accounts for is recorded.
    pub async fn abandon(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        self.claim.release(self.accounted).await;
    }

    /// As [`Lane::abandon`] where what came was not what is stored: if any of it was put, the next attempt begins at the
    /// start. To have records twice is better than to have them altered.
    pub async fn distrust(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        if self.accounted == self.claim.from() {
            self.claim.release(self.accounted).await;
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
        tokio::select! {
            _ = self.arrived() => {}
            () = patience => self.on_its_way = None,
        }
        let _ = self.recorded().await;
    }

    /// Where it went on from.
    pub fn from(&self) -> Position {
        self.claim.from()
    }

    /// What became of the records so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sends the open batch off with what was set aside, once the one before has arrived.
    async fn send(&mut self) -> Result<(), LaneError> {
        self.arrived().await?;
        self.recorded().await?;
        if std::mem::take(&mut self.unrecorded) {
            let (claim, position) = (Arc::clone(&self.claim), self.accounted);
            let checkpoint = async move { claim.checkpoint(position).await };
            self.recording = Some(AbortOnDropHandle::new(tokio::spawn(checkpoint)));
        }
        let spare = self.spare.take().unwrap_or_else(|| self.pool.take());
        let batch = self.open.close(spare);
        let (file, quarantined) = std::mem::take(&mut self.aside);
        let writer = Arc::clone(&self.writer);
        let begin = std::mem::replace(&mut self.begin, self.next);
        let put = tokio::spawn(async move { writer.deliver(batch, file, quarantined, begin).await });
        self.on_its_way = Some((self.next, AbortOnDropHandle::new(put)));
        Ok(())
    }

    /// Waits for the answer to the batch on its way. Safe to drop: the next call waits on.
    async fn arrived(&mut self) -> Result<(), LaneError> {
        let Some((position, put)) = &mut self.on_its_way else { return Ok(()) };
        let (position, answer) = (*position, put.await);
        self.on_its_way = None;
        let done = match answer {
            Ok(done) => done?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that is shutting down cancels it.
            Err(_) => return Err(SinkError::Unavailable("the worker is shutting down".to_owned()).into()),
        };
        let BatchTally { accepted, too_old, too_new, expired } = done.tally;
        self.tally.put.accepted += accepted;
        self.tally.put.too_old += too_old;
        self.tally.put.too_new += too_new;
        self.tally.put.expired += expired;
        self.tally.quarantined += done.quarantined;
        self.tally.batches += done.batches;
        self.tally.bytes += done.bytes as u64;
        self.spare = Some(done.buffers);
        (self.accounted, self.unrecorded) = (position, true);
        Ok(())
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

impl<S: LogSink> Writer<S> {
    /// Puts one batch, then into quarantine what of it was rejected, with what the file holds already.
    async fn deliver(
        &self,
        mut batch: ClosedBatch,
        mut file: QuarantineFile,
        quarantined: u64,
        begin: Position,
    ) -> Result<Done, LaneError> {
        let mut rejected = RejectedEvents::default();
        if !batch.is_empty() {
            rejected = self.put(&mut batch).await?;
        }
        if let Some(shelf) = &self.shelf {
            for event in batch.rejected(&rejected) {
                let reason = QuarantineReason::Rejected(event.reason);
                shelf.add(&mut file, reason, event.record, Some(event.timestamp), event.escaped);
            }
            shelf.put(file, begin).await?;
        }
        Ok(Done {
            tally: batch.tally(&rejected),
            quarantined,
            batches: u64::from(!batch.is_empty()),
            bytes: batch.bytes(),
            buffers: batch.into_buffers(),
        })
    }

    /// Puts one batch: put first, create what is missing, obey what the sequence errors say. Tells what was rejected.
    async fn put(&self, batch: &mut ClosedBatch) -> Result<RejectedEvents, SinkError> {
        // Looked up for each batch, so that a stream in use is never forgotten.
        let stream = self.streams.get(&self.key).await;
        let mut stream = stream.lock().await;
        let mut pause = CREATION_PAUSE;
        let mut created = false;
        for rounds_left in (0..MAX_ROUNDS).rev() {
            let body = batch.seal(stream.sequence_token.as_deref());
            match self.sink.put_log_events(body).await {
                Ok(answer) => {
                    stream.sequence_token = answer.next_sequence_token;
                    if answer.rejected != RejectedEvents::default() {
                        tracing::warn!(
                            log.group = self.key.log_group_name, log.stream = self.key.log_stream_name,
                            aws.account = self.key.account, batch.events = batch.len(), rejected = ?answer.rejected,
                            "CloudWatch Logs rejected events of a batch; they are not retried"
                        );
                    }
                    return Ok(answer.rejected);
                }
                Err(SinkError::DataAlreadyAccepted { expected }) => {
                    stream.sequence_token = expected;
                    return Ok(RejectedEvents::default());
                }
                Err(SinkError::InvalidSequenceToken { expected }) if rounds_left > 0 => {
                    stream.sequence_token = expected;
                }
                Err(SinkError::NotFound(_)) if rounds_left > 0 => {
                    stream.sequence_token = None;
                    if created {
                        // It exists, says the service, and is not found: eventual consistency.
                        tokio::time::sleep(pause).await;
                        pause *= 2;
                    }
                    self.create().await?;
                    created = true;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last round returns")
    }

    async fn create(&self) -> Result<(), SinkError> {
        let (group, stream) = (&self.key.log_group_name, &self.key.log_stream_name);
        match self.sink.create_log_stream(group, stream).await {
            Err(SinkError::NotFound(_)) => {
                self.sink.create_log_group(group, self.retention_days).await?;
                match self.sink.create_log_stream(group, stream).await {
                    // Not visible yet; the next round tries again.
                    Err(SinkError::NotFound(_)) => Ok(()),
                    other => other,
                }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
