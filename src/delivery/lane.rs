//! Takes one object's records and sends them into one stream after another, batch by batch.

mod due;
mod open_batch;
mod progress;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

use self::{
    due::Due,
    open_batch::OpenBatch,
    progress::{LaneProgress, Stretch},
};
use super::{
    LAST_ANSWER, LaneError, MOST_OWED, RejectedSample, Shared, StreamKey, Tally,
    protocol::Target,
    writer::{Done, Writer},
};
use crate::{
    batch::{MAX_MESSAGE_BYTES, Rejection},
    fairness::cpu::without_pause,
    ledger::{Ledger, Position, claim::Claim, owed::Owed},
    name::StreamNames,
    object::trail::Trail,
    quarantine::{FileName, QuarantineError, QuarantineReason, Shelf},
    records::{EscapedMessage, Record, RecordError, RecordProblem, Unreadable},
    sink::{LogSink, SinkError},
    tenant::{CloudWatch, Oversize},
    trace::{self, semconv},
};

/// Puts one object's records into one stream, or into one stream after another: fills a batch while the previous one is being
/// put.
///
/// The position after a batch is recorded in the ledger while the next batch is being put. The batch after that is put only
/// once the position is recorded. So a worker that dies repeats at most two batches.
#[derive(Debug)]
pub struct Lane<S, L> {
    pub(super) writer: Arc<Writer<S, L>>,
    open: OpenBatch,
    /// `None`: all records go into one stream.
    names: Option<StreamNames>,
    /// The stream of the open batch.
    key: Arc<StreamKey>,
    on_its_way: Option<OnItsWay>,
    oversize: Oversize,
    due: Due,
    /// The first unreadable record of this attempt, if no quarantine is configured.
    first_unkept: Option<RecordError>,
    tally: Tally,
    rejected: Option<RejectedSample>,
    putting: Duration,
    /// Whether a defect left records without an outcome.
    is_doubted: bool,
    progress: LaneProgress<L>,
    /// The span of the message. The spans of puts and checkpoints are its children.
    span: tracing::Span,
}

/// A batch that is being put.
#[derive(Debug)]
struct OnItsWay {
    stretch: Stretch,
    /// Records that belong in the quarantine, if none is configured.
    unkept: Owed,
    put: Putting,
}

type PutFuture = BoxFuture<'static, Result<Done, LaneError>>;

/// Who drives the put of a batch.
enum Putting {
    /// A task, so that the lane can fill the next batch meanwhile.
    Task(AbortOnDropHandle<Result<Done, LaneError>>),
    /// The lane itself, which waits for the object's last batch. It saves a task for each small object.
    /// It is never locked: the mutex makes the future `Sync`.
    Lane(Mutex<PutFuture>),
}

impl fmt::Debug for Putting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task(_) => "Task",
            Self::Lane(_) => "Lane",
        })
    }
}

impl Putting {
    fn task(put: PutFuture) -> Self {
        Self::Task(AbortOnDropHandle::new(tokio::spawn(put)))
    }

    /// Waits for the answer.
    ///
    /// # Cancel safety
    /// Safe: the next call continues the wait.
    async fn answer(&mut self) -> Result<Done, LaneError> {
        match self {
            Self::Lane(put) => put.get_mut().unwrap_or_else(PoisonError::into_inner).await,
            Self::Task(put) => joined(put.await)?,
        }
    }
}

impl<S: LogSink, L: Ledger> Lane<S, L> {
    /// Opens a lane into the stream `key`, in the current span. The lane goes on where the earlier attempts stopped, as
    /// `claim` says. Records that cannot be delivered go onto `shelf`. Without a shelf, events that CloudWatch Logs rejects
    /// are only counted, and a message too long for one event is split. `trail` has the fingerprints of the object's bytes,
    /// from the first byte on.
    pub fn new(
        sink: S,
        claim: Arc<Claim<L>>,
        destination: &CloudWatch,
        key: StreamKey,
        shelf: Option<Shelf>,
        trail: Trail,
        shared: &Shared,
    ) -> Self {
        let target = Target {
            sink,
            retention_days: destination.retention_days,
            claim: Arc::clone(&claim),
            metrics: shared.metrics.clone(),
        };
        Self {
            writer: Arc::new(Writer::new(target, shared.streams.clone(), shelf)),
            open: OpenBatch::new(&key.batch_head(), shared),
            names: None,
            key: Arc::new(key),
            on_its_way: None,
            oversize: destination.oversize,
            due: Due::of(claim.from().owed.clone()),
            first_unkept: None,
            tally: Tally::default(),
            rejected: None,
            putting: Duration::ZERO,
            is_doubted: false,
            progress: LaneProgress::new(claim, trail),
            span: tracing::Span::current(),
        }
    }

    /// Puts each record into the stream that `names` gives it, instead of the lane's own. A batch has records of one stream, and
    /// batches are put in the object's order.
    pub fn following(self, names: StreamNames) -> Self {
        Self { names: Some(names), ..self }
    }

    /// Takes a record. `object_time`, in milliseconds, is the timestamp of a record without one. Every record of the object
    /// must be pushed, including those that an earlier attempt accounted for.
    ///
    /// # Errors
    /// An earlier batch could not be delivered, or another worker has the object. After an error the lane can only be abandoned.
    ///
    /// # Cancel safety
    /// A call that is dropped while it waits leaves a lane that can only be abandoned.
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
                if let Some(name) = self.next_stream(record) {
                    self.turn_to(name).await?;
                }
                if self.must_send(timestamp, &record.message) {
                    self.send().await?;
                }
                self.open.events.push(self.progress.next.records, timestamp, &record.message, true);
            }
        } else {
            self.tally.oversize += 1;
            let shelved = self.oversize == Oversize::Quarantine
                && self.set_aside(QuarantineReason::Oversize, Some(timestamp), &record.message);
            if !shelved {
                if let Some(name) = self.next_stream(record) {
                    self.turn_to(name).await?;
                }
                self.add_pieces(timestamp, &record.message, put_before).await?;
            }
        }
        self.progress.end_record();
        // The check saves the cost of a future for each record.
        if self.has_full_file() { self.write_full_files().await } else { Ok(()) }
    }

    /// Takes an unreadable record, for the quarantine. Without a quarantine, the final [`Lane::flush`] fails.
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
        let record = self.progress.next.records;
        match &self.writer.shelf {
            Some(shelf) => {
                let file = &mut self.open.aside;
                without_pause(text.len(), || shelf.add_line(file, reason, record, text));
            }
            None => self.open.unkept.add(Owed::of(vec![(record, reason)])),
        }
        self.progress.end_record();
        self.write_full_files().await
    }

    /// Takes a record that makes no event.
    ///
    /// # Errors
    /// As [`Lane::push`].
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn push_skipped(&mut self) -> Result<(), LaneError> {
        let owed = self.due.find(self.tally.read);
        if self.count(owed, None).is_some() {
            self.tally.skipped += 1;
            self.progress.end_record();
        }
        Ok(())
    }

    /// Counts the next record. Returns the number of its events that were put before, or `None` if an earlier attempt accounted
    /// for the record.
    fn count(&mut self, owed: Option<QuarantineReason>, timestamp: Option<i64>) -> Option<u64> {
        let put_before = self.progress.start_record(self.tally.read, timestamp);
        self.tally.read += 1;
        if put_before.is_none() && !owed.is_some_and(QuarantineReason::counts_in_quarantine) {
            self.tally.resumed += 1;
        }
        put_before
    }

    /// The name of the record's stream, if it is another one than that of the record before.
    fn next_stream(&mut self, record: &Record<'_>) -> Option<String> {
        self.names.as_mut()?.next(record.log_stream.as_ref())
    }

    /// Sends the open batch, and starts one for another stream.
    async fn turn_to(&mut self, log_stream_name: String) -> Result<(), LaneError> {
        if !self.open.is_empty() {
            self.send().await?;
        }
        self.key = Arc::new(StreamKey { log_stream_name, ..(*self.key).clone() });
        self.open.turn_to(&self.key.batch_head());
        Ok(())
    }

    /// Whether the open batch must be sent before this event is added.
    fn must_send(&self, timestamp: i64, message: &EscapedMessage<'_>) -> bool {
        !self.open.events.takes(timestamp, message.len()) || self.progress.completes_ahead()
    }

    fn has_full_file(&self) -> bool {
        self.open.aside.is_full() || self.due.file.is_full()
    }

    /// Writes the quarantine files that are full.
    async fn write_full_files(&mut self) -> Result<(), LaneError> {
        if self.open.aside.is_full() {
            self.send().await?;
        }
        if self.due.file.is_full() {
            self.pay().await?;
        }
        Ok(())
    }

    /// Puts the owed records found so far into quarantine. If their file cannot be written, they stay owed.
    async fn pay(&mut self) -> Result<(), LaneError> {
        let file = std::mem::take(&mut self.due.file);
        let Some(&(first, _)) = file.records().first() else { return Ok(()) };
        let counted = file.records().iter().filter(|(_, reason)| reason.counts_in_quarantine()).count();
        let span = self.span.in_scope(|| trace::step("quarantine", &[]));
        match self.writer.shelve(file, FileName::Owed(first)).instrument(span).await {
            Ok(()) => {}
            Err(LaneError::Quarantine(_)) => return Ok(()),
            Err(error) => return Err(error),
        }
        // All owed records read so far are in this file or an earlier one.
        self.progress.paid_before(self.tally.read);
        self.tally.quarantined += counted as u64;
        Ok(())
    }

    /// Sets a record aside for the quarantine. Returns false if there is no quarantine.
    fn set_aside(
        &mut self,
        reason: QuarantineReason,
        timestamp: Option<i64>,
        message: &EscapedMessage<'_>,
    ) -> bool {
        let Some(shelf) = &self.writer.shelf else { return false };
        let (file, record, text) = (&mut self.open.aside, self.progress.next.records, message.escaped());
        without_pause(text.len(), || shelf.add(file, reason, record, timestamp, text));
        true
    }

    /// Adds a message longer than one event, except for its first `put_before` pieces.
    async fn add_pieces(
        &mut self,
        timestamp: i64,
        message: &EscapedMessage<'_>,
        put_before: u64,
    ) -> Result<(), LaneError> {
        let mut pieces = message.pieces(MAX_MESSAGE_BYTES).peekable();
        let mut completed = false;
        while let Some(piece) = pieces.next().filter(|_| !completed) {
            completed = self.oversize == Oversize::Truncate || pieces.peek().is_none();
            if self.progress.next.events >= put_before {
                if self.must_send(timestamp, &piece) {
                    self.send().await?;
                }
                self.open.events.push(self.progress.next.records, timestamp, &piece, completed);
            } else if completed {
                // The record's last piece was put before: in a batch of which only a part was put, or before the tenant's policy
                // was changed to truncate.
                self.tally.resumed += 1;
            }
            self.progress.next.events += 1;
        }
        Ok(())
    }

    /// Delivers the rest and waits for the last answer.
    ///
    /// # Errors
    /// As [`Lane::push`]; also if records are owed to the quarantine.
    ///
    /// # Cancel safety
    /// As [`Lane::push`].
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        if !self.open.is_empty() {
            self.send_by(|put| Putting::Lane(Mutex::new(put))).await?;
        }
        self.arrived().await?;
        self.pay().await?;
        self.writer.target.sink.finish().await.map_err(LaneError::Sink)?;
        self.owes_nothing()?;
        self.progress.recorded().await?;
        self.open.give_back();
        Ok(())
    }

    /// Records in the ledger that the object is done. Call [`Lane::flush`] first.
    ///
    /// # Errors
    /// Another worker has the object.
    pub async fn complete(&self) -> Result<(), LaneError> {
        Ok(self.progress.claim.finish(self.progress.next).await?)
    }

    /// Checks that no record is owed to the quarantine.
    ///
    /// # Errors
    /// Records are owed, because the quarantine could not be written or because there is none.
    fn owes_nothing(&self) -> Result<(), LaneError> {
        let owed = self.progress.owed();
        if let Some(error) = self.writer.unshelved.get() {
            return if owed.is_empty() { Ok(()) } else { Err(error.clone().into()) };
        }
        if self.writer.shelf.is_some() {
            return Ok(());
        }
        if let Some(index) = owed.first(QuarantineReason::TooLong) {
            let stepped_over = || RecordError { index, problem: RecordProblem::SteppedOver };
            return Err(LaneError::Unkept(self.first_unkept.clone().unwrap_or_else(stepped_over)));
        }
        if let Some(index) = owed.first(QuarantineReason::Rejected(Rejection::Refused)) {
            return Err(LaneError::Unkept(RecordError { index, problem: RecordProblem::Refused }));
        }
        // The quarantine was switched off after an earlier attempt. That attempt counted the rejected records; the other owed
        // records are not accounted for yet.
        if owed.counts_in_quarantine() {
            let problem = "an earlier attempt left records for the quarantine, and quarantine.bucket is not set; set it again";
            let (key, problem) = ("of owed records".to_owned(), problem.to_owned());
            return Err(QuarantineError { key, problem }.into());
        }
        Ok(())
    }

    /// Gives the object's lease back to the ledger. The batch on its way may already be stored, so this first waits for the
    /// batch's answer and records it. Once `stop` is cancelled, the wait lasts for one second more at most.
    pub async fn abandon(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        match self.is_doubted {
            false => self.progress.release().await,
            true => self.progress.claim.restart().await,
        }
    }

    /// Says that a defect left records without an outcome. Nobody knows which, so [`Lane::abandon`] then forgets the progress, and
    /// the next attempt puts all records: duplicates are better than records that are passed over.
    pub fn doubt(&mut self) {
        self.is_doubted = true;
    }

    /// Like [`Lane::abandon`], for an object of which this attempt or an earlier one read altered bytes. If altered bytes may
    /// have been put, the next attempt begins at the object's start: duplicates are better than altered records.
    pub async fn distrust(&mut self, stop: &CancellationToken) {
        self.come_to_rest(stop).await;
        self.progress.release_or_restart().await;
    }

    async fn come_to_rest(&mut self, stop: &CancellationToken) {
        let patience = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        // Errors are ignored: the reason for giving up is already reported, and a batch that fails now stays unaccounted for.
        let rest = async {
            let _ = self.arrived().await;
            let _ = self.progress.recorded().await;
        };
        tokio::select! {
            () = rest => {}
            () = patience => {
                self.on_its_way = None;
                // The call that gives the lease back also records the position.
                self.progress.recording = None;
            }
        }
    }

    /// Position at which this attempt began.
    pub fn from(&self) -> Position {
        self.progress.claim.from().position
    }

    /// Number of records so far, by outcome.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The first event of this attempt that CloudWatch Logs did not store.
    pub fn rejected(&self) -> Option<&RejectedSample> {
        self.rejected.as_ref()
    }

    /// How long the answered puts of this attempt took.
    pub fn putting(&self) -> Duration {
        self.putting
    }

    /// The stream; the last one, if there are several.
    pub fn stream(&self) -> &StreamKey {
        &self.key
    }

    /// Sends the open batch, after the previous batch was answered.
    async fn send(&mut self) -> Result<(), LaneError> {
        self.send_by(Putting::task).await
    }

    async fn send_by(&mut self, drive: impl FnOnce(PutFuture) -> Putting) -> Result<(), LaneError> {
        self.arrived().await?;
        // Owed records are written before a batch is put, so that the lane knows by then whether the quarantine can be written.
        self.pay().await?;
        if !self.progress.owed().is_empty() && self.progress.owed().encode().len() >= MOST_OWED {
            self.owes_nothing()?;
        }
        self.progress.recorded().await?;
        self.progress.record(&self.span);
        let (batch, file, unkept) = self.open.close();
        let stretch = self.progress.end_batch();
        let (writer, key) = (Arc::clone(&self.writer), Arc::clone(&self.key));
        let span = self.span.in_scope(|| trace::step("put", &[]));
        trace::set_list(&span, semconv::AWS_LOG_GROUP_NAMES, &key.log_group_name);
        trace::set_list(&span, semconv::AWS_LOG_STREAM_NAMES, &key.log_stream_name);
        trace::count(&span, semconv::EVENTS, batch.len() as u64);
        trace::count(&span, semconv::BYTES, batch.bytes() as u64);
        let put = async move {
            let put = writer.deliver(batch, file, &key, stretch.begin);
            trace::within(span, put, LaneError::kind).await
        };
        self.on_its_way = Some(OnItsWay { stretch, unkept, put: drive(Box::pin(put)) });
        Ok(())
    }

    /// Waits for the answer to the batch on its way.
    ///
    /// # Cancel safety
    /// Safe: the next call continues the wait.
    async fn arrived(&mut self) -> Result<(), LaneError> {
        let Some(OnItsWay { stretch, unkept, put }) = &mut self.on_its_way else { return Ok(()) };
        let answer = put.answer().await;
        let (stretch, unkept) = (*stretch, std::mem::take(unkept));
        self.on_its_way = None;
        let done = answer?;
        self.tally.add(&done);
        self.putting += done.took;
        self.rejected = self.rejected.take().or(done.rejected);
        self.open.reuse(done.buffers);
        self.progress.owe(done.owed);
        match done.stopped {
            Some((last, error)) => {
                self.progress.account(stretch, Some(last));
                Err(error)
            }
            None => {
                self.progress.owe(unkept);
                self.progress.account(stretch, None);
                Ok(())
            }
        }
    }
}

/// Passes a task's panic on. A task that is waited for is cancelled only if the runtime shuts down.
fn joined<T>(answer: Result<T, JoinError>) -> Result<T, LaneError> {
    answer.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => SinkError::Unavailable("the worker is shutting down".to_owned()).into(),
    })
}
