//! Tracks a lane's positions in its object, and records them in the ledger.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::joined;
use crate::{
    delivery::LaneError,
    ledger::{
        DeliveryProgress, Ledger, LedgerError, Position,
        ahead::{Ahead, EventPosition},
        claim::Claim,
        owed::Owed,
    },
    object::trail::{Fingerprint, Trail},
};

/// How far a lane came: read, accounted for, and recorded in the ledger.
///
/// The position after a batch is recorded after the batch was answered, while the next batch is being put.
#[derive(Debug)]
pub(super) struct LaneProgress<L> {
    pub(super) claim: Arc<Claim<L>>,
    trail: Trail,
    /// Start of the open batch.
    begin: Position,
    /// Position of the next event to add.
    pub(super) next: Position,
    /// Progress up to the end of the last batch that was answered.
    accounted: DeliveryProgress,
    /// Whether `accounted` has changed since it was last sent to the ledger.
    unrecorded: bool,
    pub(super) recording: Option<AbortOnDropHandle<Result<(), LedgerError>>>,
}

/// The part of an object that one batch covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) begin: Position,
    pub(super) end: Position,
    /// Fingerprint of the stored bytes that were read when the batch was closed.
    read: Fingerprint,
}

impl<L: Ledger> LaneProgress<L> {
    /// Goes on where `claim` says. `trail` has the fingerprints of the object's bytes, from the first byte on.
    pub(super) fn new(claim: Arc<Claim<L>>, trail: Trail) -> Self {
        let accounted = claim.from().clone();
        Self {
            claim,
            trail,
            begin: accounted.position,
            next: Position::default(),
            accounted,
            unrecorded: false,
            recording: None,
        }
    }

    /// Records that must go into quarantine and are not there yet.
    pub(super) fn owed(&self) -> &Owed {
        &self.accounted.owed
    }

    /// Starts the record `index`. Returns the number of its events that were put before, or `None` if an earlier attempt
    /// accounted for the record. `timestamp` is the time of its events; an unreadable record has no events.
    pub(super) fn start_record(&mut self, index: u64, timestamp: Option<i64>) -> Option<u64> {
        let DeliveryProgress { position: from, ahead, .. } = self.claim.from();
        self.next = Position { records: index, events: 0 };
        if index < from.records {
            self.end_record();
            return None;
        }
        let put = if index == from.records { from.events } else { 0 };
        let put_ahead =
            ahead.zip(timestamp).map_or(0, |(ahead, timestamp)| ahead.events_put(index, timestamp));
        Some(put.max(put_ahead))
    }

    /// Ends the current record.
    pub(super) fn end_record(&mut self) {
        self.next = Position { records: self.next.records + 1, events: 0 };
    }

    /// Whether the open batch holds the complete rest of a batch that an earlier attempt put in part. The rest is sent by itself,
    /// so that it ends where that batch ended.
    pub(super) fn completes_ahead(&self) -> bool {
        self.claim.from().ahead.is_some_and(|ahead| self.begin < ahead.end && ahead.end <= self.next)
    }

    /// Ends the open batch before the next event.
    pub(super) fn end_batch(&mut self) -> Stretch {
        let begin = std::mem::replace(&mut self.begin, self.next);
        Stretch { begin, end: self.next, read: self.trail.read() }
    }

    /// Accounts for a batch that was answered: for all of it, or for its events up to `last` in chronological order.
    pub(super) fn account(&mut self, stretch: Stretch, last: Option<EventPosition>) {
        let Stretch { end, read, .. } = stretch;
        let DeliveryProgress { position, ahead, fingerprints, .. } = &mut self.accounted;
        match last {
            None => {
                *position = end;
                *ahead = ahead.filter(|ahead| ahead.end > end);
            }
            Some(last) if ahead.is_none_or(|ahead| ahead.end <= end) => *ahead = Some(Ahead { end, last }),
            // A batch that an earlier attempt put in part ends after this one. Its `ahead` reaches further, so it stays.
            Some(_) => {}
        }
        // The new fingerprint covers the bytes of all fingerprints before it, so it replaces them.
        fingerprints.retain(|fingerprint| fingerprint.offset > read.offset);
        fingerprints.push(read);
        self.unrecorded = true;
    }

    /// Adds records that must go into quarantine later.
    pub(super) fn owe(&mut self, owed: Owed) {
        self.accounted.owed.add(owed);
    }

    /// Removes the owed records before `record`, because the quarantine has them now.
    pub(super) fn paid_before(&mut self, record: u64) {
        self.accounted.owed.paid_before(record);
        self.unrecorded = true;
    }

    /// Starts to record the progress in the ledger, if it has changed. `span` is the span of the message. Call
    /// [`LaneProgress::recorded`] first.
    pub(super) fn record(&mut self, span: &tracing::Span) {
        if std::mem::take(&mut self.unrecorded) {
            let (claim, progress) = (Arc::clone(&self.claim), self.accounted.clone());
            let checkpoint = async move { claim.checkpoint(&progress).await };
            self.recording = Some(AbortOnDropHandle::new(tokio::spawn(checkpoint.instrument(span.clone()))));
        }
    }

    /// Waits until the ledger has the progress that [`LaneProgress::record`] sent.
    ///
    /// # Cancel safety
    /// Safe: the next call continues the wait.
    pub(super) async fn recorded(&mut self) -> Result<(), LaneError> {
        let Some(checkpoint) = &mut self.recording else { return Ok(()) };
        let answer = checkpoint.await;
        self.recording = None;
        Ok(joined(answer)??)
    }

    /// Records the progress and gives the object's lease back to the ledger.
    pub(super) async fn release(&self) {
        self.claim.release(&self.accounted).await;
    }

    /// Gives the object's lease back after altered bytes were read. The progress is recorded if neither an earlier attempt nor
    /// this one can have put altered bytes. Otherwise the progress is forgotten, and the next attempt begins at the object's
    /// start.
    pub(super) async fn release_or_restart(&self) {
        let from = self.claim.from();
        let read = self.trail.read().offset;
        let confirmed = from.fingerprints.iter().all(|fingerprint| fingerprint.offset <= read);
        if confirmed && self.accounted.position == from.position && self.accounted.ahead == from.ahead {
            self.release().await;
        } else {
            self.claim.restart().await;
        }
    }
}
