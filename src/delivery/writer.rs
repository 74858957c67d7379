//! Puts one batch after another into one stream, and what cannot be delivered into quarantine.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{
    LaneError,
    blame::{Blame, Refusal},
    streams::{Stream, StreamKey, Streams},
};
use crate::{
    batch::{BatchTally, Buffers, ClosedBatch, Part, RejectedEvents, Rejection, Rejections},
    ledger::{Ledger, Position, claim::Claim, owed::Owed},
    quarantine::{FileName, QuarantineError, QuarantineFile, QuarantineReason, Shelf},
    sink::{LogSink, SinkError},
};

/// How often one batch is put while its stream is created, its token corrected or its lease renewed. None takes more than two
/// rounds; the rest is for a group that the service does not see yet although it exists.
pub(super) const MAX_ROUNDS: u32 = 6;
/// First pause when a group or stream was just created and is still not found; doubles each round.
pub(super) const CREATION_PAUSE: Duration = Duration::from_millis(50);
#[derive(Debug)]
pub(super) struct Writer<S, L> {
    pub(super) sink: S,
    pub(super) key: StreamKey,
    pub(super) retention_days: Option<i32>,
    pub(super) streams: Streams,
    pub(super) claim: Arc<Claim<L>>,
    /// None: there is no quarantine.
    pub(super) shelf: Option<Shelf>,
    /// Why the quarantine could not be written: after that, this attempt leaves it alone.
    pub(super) unshelved: OnceLock<QuarantineError>,
}

/// A batch that was answered.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) tally: BatchTally,
    /// Set aside with it, and in quarantine.
    pub(super) quarantined: u64,
    /// Not in quarantine, and to go there.
    pub(super) owed: Owed,
    pub(super) batches: u64,
    pub(super) bytes: usize,
    pub(super) buffers: Buffers,
}

/// What came of a batch.
#[derive(Debug, Default)]
struct Put {
    /// Requests that were accepted.
    requests: u64,
    rejections: Rejections,
}

impl<S: LogSink, L: Ledger> Writer<S, L> {
    /// Puts one batch, then into quarantine what of it was rejected, with what the file holds already. If the quarantine does
    /// not take the file, the batch has been put all the same: its records are then owed.
    ///
    /// # Errors
    /// A part of the batch was not put. Other parts may have been, and the next attempt puts them again.
    pub(super) async fn deliver(
        &self,
        mut batch: ClosedBatch,
        mut file: QuarantineFile,
        begin: Position,
    ) -> Result<Done, LaneError> {
        // What is set aside alone need not wait for the stream.
        let Put { requests, rejections } =
            if batch.is_empty() { Put::default() } else { self.put(&mut batch).await? };
        let mut quarantined = 0;
        let mut owed = Owed::default();
        if let Some(shelf) = &self.shelf {
            let set_aside = file.records().len() as u64;
            for event in batch.rejected(&rejections) {
                let reason = QuarantineReason::Rejected(event.reason);
                shelf.add(&mut file, reason, event.record, Some(event.timestamp), event.escaped);
            }
            let records = file.records().to_vec();
            match self.shelve(file, FileName::Batch(begin)).await {
                Ok(()) => quarantined = set_aside,
                // Without a ledger nobody would remember it: the message brings the whole batch again.
                Err(error @ LaneError::Quarantine(_)) if !self.claim.is_recorded() => return Err(error),
                Err(LaneError::Quarantine(_)) => owed = Owed::of(records),
                Err(error) => return Err(error),
            }
        }
        Ok(Done {
            tally: batch.tally(&rejections),
            quarantined,
            owed,
            batches: requests,
            bytes: batch.bytes(),
            buffers: batch.into_buffers(),
        })
    }

    /// Puts a file into quarantine, unless that failed before.
    ///
    /// # Errors
    /// [`LaneError::Quarantine`] if it is not there, or the lease cannot be kept.
    pub(super) async fn shelve(&self, file: QuarantineFile, name: FileName) -> Result<(), LaneError> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        if file.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.unshelved.get() {
            return Err(error.clone().into());
        }
        self.claim.hold().await?;
        shelf.put(file, name).await.map_err(|error| {
            // The first one is as good as any.
            let _ = self.unshelved.set(error.clone());
            error.into()
        })
    }

    /// Puts a batch, part by part in its order. A part that is refused is put again in halves, until the events to blame are
    /// alone.
    async fn put(&self, batch: &mut ClosedBatch) -> Result<Put, LaneError> {
        let (mut put, mut refusal) = (Put::default(), None);
        let stream = self.streams.get(&self.key);
        let mut stream = stream.lock().await;
        let mut blame = Blame::default();
        let mut from = 0;
        while from < batch.len() {
            let part = blame.next().unwrap_or_else(|| batch.part(from));
            match self.put_part(batch, &part, &mut stream).await {
                Ok(rejected) => {
                    put.requests += 1;
                    put.rejections.add(&part, &rejected);
                    from = part.end;
                }
                Err(error @ LaneError::Sink(SinkError::Refused(_))) => {
                    match blame.refused(part.clone()) {
                        Refusal::Halved => {}
                        Refusal::Event => {
                            put.rejections.refuse(part.start);
                            from = part.end;
                        }
                        Refusal::Group => return Err(error),
                    }
                    refusal = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refusal {
            // Nothing of the batch was taken: then the group may be to blame as well.
            Some(error) if put.requests == 0 => return Err(error),
            Some(error) => tracing::warn!(
                log.group = self.key.log_group_name,
                log.stream = self.key.log_stream_name,
                aws.account = self.key.account,
                batch.events = batch.len(),
                refused = put.rejections.count(Rejection::Refused),
                error = %error,
                "CloudWatch Logs refuses events by themselves; they are not retried"
            ),
            None => {}
        }
        Ok(put)
    }

    /// Puts one part of a batch: put first, create what is missing, obey what the sequence errors say.
    async fn put_part(
        &self,
        batch: &mut ClosedBatch,
        part: &Part,
        stream: &mut Stream,
    ) -> Result<RejectedEvents, LaneError> {
        let mut pause = CREATION_PAUSE;
        let mut created = false;
        for rounds_left in (0..MAX_ROUNDS).rev() {
            let body = batch.seal(part, stream.sequence_token.as_deref());
            let lease = self.claim.hold().await?;
            match self.sink.put_log_events(body, lease).await {
                Ok(answer) => {
                    stream.sequence_token = answer.next_sequence_token;
                    self.tell_of(&answer.rejected, part);
                    return Ok(answer.rejected);
                }
                Err(SinkError::DataAlreadyAccepted { expected }) => {
                    stream.sequence_token = expected;
                    return Ok(RejectedEvents::default());
                }
                Err(SinkError::InvalidSequenceToken { expected }) if rounds_left > 0 => {
                    stream.sequence_token = expected;
                }
                // The process slept, or was starved: the next round asks the ledger whether the object is still ours.
                Err(SinkError::LeaseEnded(_)) if rounds_left > 0 => {}
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
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last round returns")
    }

    fn tell_of(&self, rejected: &RejectedEvents, part: &Part) {
        if *rejected == RejectedEvents::default() {
            return;
        }
        let mut rejections = Rejections::default();
        rejections.add(part, rejected);
        tracing::warn!(
            log.group = self.key.log_group_name,
            log.stream = self.key.log_stream_name,
            aws.account = self.key.account,
            batch.events = part.len(),
            too_old = rejections.count(Rejection::TooOld),
            too_new = rejections.count(Rejection::TooNew),
            expired = rejections.count(Rejection::Expired),
            "CloudWatch Logs rejected events of a batch; they are not retried"
        );
    }

    /// Creates the stream, and the group if need be.
    async fn create(&self) -> Result<(), LaneError> {
        let (group, stream) = (&self.key.log_group_name, &self.key.log_stream_name);
        let lease = self.claim.hold().await?;
        let mut created = self.sink.create_log_stream(group, stream, lease).await;
        if let Err(SinkError::NotFound(_)) = created {
            created = self.sink.create_log_group(group, self.retention_days, lease).await;
            if created.is_ok() {
                created = self.sink.create_log_stream(group, stream, lease).await;
            }
        }
        match created {
            // Not visible yet, or the lease ended: the next round tries again.
            Err(SinkError::NotFound(_) | SinkError::LeaseEnded(_)) => Ok(()),
            other => Ok(other?),
        }
    }
}
