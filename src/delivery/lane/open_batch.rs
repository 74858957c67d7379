//! The batch that a lane fills.

use crate::{
    batch::{Batch, BatchHead, BufferPool, Buffers, ClosedBatch},
    delivery::Shared,
    ledger::owed::Owed,
    quarantine::QuarantineFile,
};

/// A batch that takes events, with the records that are set aside for the quarantine while it fills.
#[derive(Debug)]
pub(super) struct OpenBatch {
    pub(super) events: Batch,
    /// Records set aside for the quarantine.
    pub(super) aside: QuarantineFile,
    /// Records that belong in the quarantine, if none is configured.
    pub(super) unkept: Owed,
    max_events: usize,
    spare: Option<Buffers>,
    pool: BufferPool,
}

impl OpenBatch {
    pub(super) fn new(head: &BatchHead, shared: &Shared) -> Self {
        Self {
            events: Batch::in_buffers(head, shared.buffers.take()).of_at_most(shared.max_batch_events),
            aside: QuarantineFile::default(),
            unkept: Owed::default(),
            max_events: shared.max_batch_events,
            spare: None,
            pool: shared.buffers.clone(),
        }
    }

    /// Starts a batch for another stream. Events of the batch before are lost.
    pub(super) fn turn_to(&mut self, head: &BatchHead) {
        let buffers = self.events.take_buffers();
        self.events = Batch::in_buffers(head, buffers).of_at_most(self.max_events);
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.aside.is_empty() && self.unkept.is_empty()
    }

    /// Takes out the batch and the records, and starts the next batch in the spare buffers.
    pub(super) fn close(&mut self) -> (ClosedBatch, QuarantineFile, Owed) {
        let spare = self.spare.take().unwrap_or_else(|| self.pool.take());
        (self.events.close(spare), std::mem::take(&mut self.aside), std::mem::take(&mut self.unkept))
    }

    /// Keeps the buffers of a finished batch for the next one.
    pub(super) fn reuse(&mut self, buffers: Buffers) {
        self.spare = Some(buffers);
    }

    /// Gives all buffers back to the pool. Events in them are lost.
    pub(super) fn give_back(&mut self) {
        self.pool.give(self.events.take_buffers());
        self.spare.take().into_iter().for_each(|buffers| self.pool.give(buffers));
    }
}
