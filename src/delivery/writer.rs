//! Puts one batch after another into one stream, and what cannot be delivered into quarantine.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    LaneError,
    blame::{self, Blame, Refusal},
    streams::{Stream, StreamKey, Streams},
};
use crate::{
    batch::{BatchTally, Buffers, ClosedBatch, Part, RejectedEvents, Rejection, Rejections},
    ledger::{Ledger, Position, ahead::EventPlace, claim::Claim, owed::Owed},
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
    pub(super) record: blame::Record,
}

/// A batch that was answered, or its first requests were.
#[derive(Debug)]
pub(super) struct Done {
    /// Where it stopped before its end, and why.
    pub(super) stopped: Option<(EventPlace, LaneError)>,
    pub(super) tally: BatchTally,
    /// Set aside with it, and in quarantine.
    pub(super) quarantined: u64,
    /// Not in quarantine, and to go there.
    pub(super) owed: Owed,
    pub(super) batches: u64,
    /// As CloudWatch Logs bills them; 0 if it stopped.
    pub(super) bytes: usize,
    pub(super) buffers: Buffers,
}

/// What came of a batch.
#[derive(Debug, Default)]
struct Put {
    /// Requests that were accepted.
    requests: u64,
    /// Events up to the end of the last request that was accepted, or of the batch.
    answered: usize,
    /// Of those events.
    rejections: Rejections,
    /// Why the others were not put.
    error: Option<LaneError>,
}

impl<S: LogSink, L: Ledger> Writer<S, L> {
    /// Puts one batch, then into quarantine what of it was rejected, with what the file holds already. If the quarantine does
    /// not take the file, the batch has been put all the same: its records are then owed. Without a quarantine, an event that is
    /// refused by itself is owed too. Where only the first requests were accepted, what they rejected is owed, and the file is
    /// not written: the next attempt finds its records again.
    ///
    /// # Errors
    /// Nothing of the batch was put; or a part of it, and nobody would remember.
    pub(super) async fn deliver(
        &self,
        mut batch: ClosedBatch,
        mut file: QuarantineFile,
        begin: Position,
    ) -> Result<Done, LaneError> {
        // What is set aside alone need not wait for the stream.
        let put = if batch.is_empty() { Put::default() } else { self.put(&mut batch).await };
        let Put { requests, answered, rejections, error } = put;
        let (mut quarantined, mut owed, mut stopped) = (0, Owed::default(), None);
        if let Some(error) = error {
            if answered == 0 || !self.claim.is_recorded() {
                return Err(error);
            }
            let (timestamp, record, before) = batch.place(answered - 1);
            let piece = before + if record == begin.records { begin.events } else { 0 };
            stopped = Some((EventPlace { timestamp, record, piece }, error));
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
                // Without a ledger nobody would remember it: the message brings the whole batch again.
                Err(error @ LaneError::Quarantine(_)) if !self.claim.is_recorded() => return Err(error),
                Err(LaneError::Quarantine(_)) => owed = Owed::of(records),
                Err(error) => return Err(error),
            }
        } else {
            owed = self.owed(&batch, &rejections);
        }
        let bytes = if stopped.is_some() { 0 } else { batch.bytes() };
        Ok(Done {
            tally: batch.tally(answered, &rejections),
            stopped,
            quarantined,
            owed,
            batches: requests,
            bytes,
            buffers: batch.into_buffers(),
        })
    }

    /// Those of the rejected records that are owed: without a quarantine, the ones that CloudWatch Logs refuses for no known reason.
    fn owed(&self, batch: &ClosedBatch, rejections: &Rejections) -> Owed {
        let owed = batch
            .rejected(rejections)
            .filter(|event| self.shelf.is_some() || event.reason == Rejection::Refused)
            .map(|event| (event.record, QuarantineReason::Rejected(event.reason)));
        Owed::of(owed.collect())
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
    async fn put(&self, batch: &mut ClosedBatch) -> Put {
        let (mut put, mut refusal) = (Put::default(), None);
        let stream = self.streams.get(&self.key);
        let mut stream = stream.lock().await;
        let mut blame = Blame::default();
        let took_lately = stream.took_lately();
        let mut from = 0;
        while from < batch.len() && put.error.is_none() {
            let part = blame.next().unwrap_or_else(|| batch.part(from));
            match self.put_part(batch, &part, &mut stream).await {
                Ok(rejected) => {
                    self.record.taken();
                    stream.took_at = Some(Instant::now());
                    put.requests += 1;
                    put.rejections.add(&part, &rejected);
                    from = part.end;
                    put.answered = from;
                }
                Err(error @ LaneError::Sink(SinkError::Refused(_))) => {
                    match blame.refused(part.clone(), took_lately || self.record.took_some()) {
                        Refusal::Event if self.record.refused() => {
                            put.rejections.refuse(part.start);
                            from = part.end;
                            refusal = Some(error);
                        }
                        Refusal::Again => {}
                        Refusal::Event | Refusal::Group => put.error = Some(error),
                    }
                }
                Err(error) => put.error = Some(error),
            }
        }
        if put.error.is_none() {
            // A group that took nothing may be to blame as well.
            if took_lately || self.record.took_some() {
                put.answered = from;
            } else {
                put.error = refusal.take();
            }
        }
        // What was refused behind the last acceptance may have been the group's fault.
        put.rejections.truncate(put.answered);
        let refused = put.rejections.count(Rejection::Refused);
        if let Some(error) = refusal
            && refused > 0
        {
            tracing::warn!(
                log.group = self.key.log_group_name,
                log.stream = self.key.log_stream_name,
                aws.account = self.key.account,
                batch.events = batch.len(),
                refused,
                error = %error,
                "CloudWatch Logs refuses events by themselves; they are not retried"
            );
        }
        put
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
