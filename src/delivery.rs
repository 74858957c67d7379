//! Carries one object's records into one log stream: batches in order, one on its way while the next one fills.
//!
//! Knows what each of CloudWatch Logs' answers asks for; does not know where the records come from, nor what becomes of
//! the message when a delivery fails.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    batch::{
        Batch, BatchHead, BatchTally, BufferPool, Buffers, ClosedBatch, MAX_MESSAGE_BYTES, RejectedEvents,
    },
    budget::Ticket,
    records::{Message, Record},
    sink::{LogSink, SinkError},
    tenant::{CloudWatch, Oversize},
};

/// How often one batch is put while its stream is created or its token corrected. Neither takes more than two rounds;
/// the rest is for a group that the service does not see yet although it exists.
const MAX_ROUNDS: u32 = 6;
/// First pause when a group or stream was just created and is still not found; doubles each round.
const CREATION_PAUSE: Duration = Duration::from_millis(50);
/// Most streams whose sequence token is remembered.
const MAX_STREAMS: u64 = 20_000;

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
    /// Of those read: had no timestamp of their own and got the object's.
    pub undated: u64,
    /// Of those read: cut into several events, or short of their end, as the tenant's policy says.
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
        accepted + too_old + too_new + expired + self.empty
    }
}

/// One object's way into one stream.
#[derive(Debug)]
pub struct Lane<S> {
    writer: Arc<Writer<S>>,
    open: Batch,
    spare: Option<Buffers>,
    pool: BufferPool,
    on_its_way: Option<AbortOnDropHandle<Result<Done, SinkError>>>,
    oversize: Oversize,
    tally: Tally,
}

#[derive(Debug)]
struct Writer<S> {
    sink: S,
    key: StreamKey,
    budget: Ticket,
    retention_days: Option<i32>,
    streams: Streams,
}

#[derive(Debug)]
struct Done {
    tally: BatchTally,
    bytes: usize,
    buffers: Buffers,
}

impl<S: LogSink> Lane<S> {
    /// Opens a lane into the stream that `key` names.
    pub fn new(
        sink: S,
        destination: &CloudWatch,
        key: StreamKey,
        budget: Ticket,
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
                budget,
                retention_days: destination.retention_days,
                streams: streams.clone(),
            }),
            on_its_way: None,
            oversize: destination.oversize,
            tally: Tally::default(),
        }
    }

    /// Takes a record; `object_time` in milliseconds stands in for a timestamp that it has not.
    ///
    /// # Errors
    /// A batch of before could not be delivered. The lane is of no further use then.
    pub async fn push(&mut self, record: &Record<'_>, object_time: i64) -> Result<(), SinkError> {
        self.tally.read += 1;
        self.tally.undated += u64::from(record.timestamp.is_none());
        let timestamp = record.timestamp.unwrap_or(object_time);
        if record.message.is_empty() {
            self.tally.empty += 1;
            return Ok(());
        }
        if record.message.len() <= MAX_MESSAGE_BYTES {
            return self.add(timestamp, &record.message, true).await;
        }
        self.tally.oversize += 1;
        let mut pieces = record.message.pieces(MAX_MESSAGE_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let last = self.oversize == Oversize::Truncate || pieces.peek().is_none();
            self.add(timestamp, &piece, last).await?;
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn add(
        &mut self,
        timestamp: i64,
        message: &Message<'_>,
        completes_record: bool,
    ) -> Result<(), SinkError> {
        if !self.open.takes(timestamp, message.len()) {
            self.send().await?;
        }
        self.open.push(timestamp, message, completes_record);
        Ok(())
    }

    /// Delivers what is left and waits for the last answer.
    ///
    /// # Errors
    /// A batch could not be delivered.
    pub async fn finish(&mut self) -> Result<(), SinkError> {
        if !self.open.is_empty() {
            self.send().await?;
        }
        self.arrived().await?;
        self.pool.give(self.open.take_buffers());
        self.spare.take().into_iter().for_each(|buffers| self.pool.give(buffers));
        Ok(())
    }

    /// What became of the records so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Sends the open batch off, once the one before has arrived.
    async fn send(&mut self) -> Result<(), SinkError> {
        self.arrived().await?;
        let spare = self.spare.take().unwrap_or_else(|| self.pool.take());
        let mut batch = self.open.close(spare);
        let writer = Arc::clone(&self.writer);
        self.on_its_way = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let tally = writer.put(&mut batch).await?;
            Ok(Done { tally, bytes: batch.bytes(), buffers: batch.into_buffers() })
        })));
        Ok(())
    }

    async fn arrived(&mut self) -> Result<(), SinkError> {
        let Some(handle) = self.on_its_way.take() else { return Ok(()) };
        let done = match handle.await {
            Ok(done) => done?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Only a runtime that is shutting down cancels it.
            Err(_) => return Err(SinkError::Unavailable("the worker is shutting down".to_owned())),
        };
        let BatchTally { accepted, too_old, too_new, expired } = done.tally;
        self.tally.put.accepted += accepted;
        self.tally.put.too_old += too_old;
        self.tally.put.too_new += too_new;
        self.tally.put.expired += expired;
        self.tally.batches += 1;
        self.tally.bytes += done.bytes as u64;
        self.spare = Some(done.buffers);
        Ok(())
    }
}

impl<S: LogSink> Writer<S> {
    /// Puts one batch: put first, create what is missing, obey what the sequence errors say.
    async fn put(&self, batch: &mut ClosedBatch) -> Result<BatchTally, SinkError> {
        // Looked up for each batch, so that a stream in use is never forgotten.
        let stream = self.streams.get(&self.key).await;
        let mut stream = stream.lock().await;
        let mut pause = CREATION_PAUSE;
        let mut created = false;
        for rounds_left in (0..MAX_ROUNDS).rev() {
            let body = batch.seal(stream.sequence_token.as_deref());
            self.budget.put_turn().await;
            let answer = self.sink.put_log_events(body).await;
            self.budget.heed(&answer);
            match answer {
                Ok(answer) => {
                    stream.sequence_token = answer.next_sequence_token;
                    if answer.rejected != RejectedEvents::default() {
                        tracing::warn!(
                            log.group = self.key.log_group_name, log.stream = self.key.log_stream_name,
                            aws.account = self.key.account, batch.events = batch.len(), rejected = ?answer.rejected,
                            "CloudWatch Logs rejected events of a batch; they are not retried"
                        );
                    }
                    return Ok(batch.tally(&answer.rejected));
                }
                Err(SinkError::DataAlreadyAccepted { expected }) => {
                    stream.sequence_token = expected;
                    return Ok(batch.tally(&RejectedEvents::default()));
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
        let group = &self.key.log_group_name;
        match self.create_stream().await {
            Err(SinkError::NotFound(_)) => {
                self.sink.create_log_group(group, self.retention_days).await?;
                match self.create_stream().await {
                    // Not visible yet; the next round tries again.
                    Err(SinkError::NotFound(_)) => Ok(()),
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn create_stream(&self) -> Result<(), SinkError> {
        self.budget.create_stream_turn().await;
        let answer = self.sink.create_log_stream(&self.key.log_group_name, &self.key.log_stream_name).await;
        self.budget.heed(&answer);
        answer
    }
}

#[cfg(test)]
mod tests;
