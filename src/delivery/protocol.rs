//! The calls that put a batch into one stream: put first, or create first where most streams are missing; create what is
//! missing, correct the sequence token.

use std::{sync::Arc, time::Duration};

use super::{
    LaneError, Metrics,
    streams::{Stream, StreamKey},
};
use crate::{
    batch::{ClosedBatch, Part, RejectedEvents},
    ledger::{Ledger, claim::Claim},
    sink::{LogSink, SinkError},
};

/// Most rounds of one part; each round puts the part once. A missing stream, a wrong token and an ended lease cost one round
/// each. The other rounds are for a new stream or group that the service does not find yet.
pub(super) const MAX_ROUNDS: u32 = 6;
/// First pause after a group or stream was created but is still not found. The pause doubles each round.
pub(super) const CREATION_PAUSE: Duration = Duration::from_millis(50);

/// The group that one lane writes.
#[derive(Debug)]
pub(super) struct Target<S, L> {
    pub(super) sink: S,
    pub(super) retention_days: Option<i32>,
    pub(super) claim: Arc<Claim<L>>,
    pub(super) metrics: Metrics,
}

impl<S: LogSink, L: Ledger> Target<S, L> {
    /// Puts one part of a batch into the stream `key`. Creates the stream and the group if they are missing.
    ///
    /// # Errors
    /// The part was not put.
    pub(super) async fn put_part(
        &self,
        batch: &mut ClosedBatch,
        part: &Part,
        key: &StreamKey,
        stream: &mut Stream,
    ) -> Result<RejectedEvents, LaneError> {
        let mut pause = CREATION_PAUSE;
        let mut created = false;
        if !stream.is_known && stream.newcomers.creates_first() {
            match self.create(key).await {
                Ok(()) => (stream.is_known, created) = (true, true),
                // The stream may exist, so the put comes first again.
                Err(_) => stream.newcomers.forget(),
            }
        }
        for rounds_left in (0..MAX_ROUNDS).rev() {
            let body = batch.seal(part, stream.sequence_token.as_deref());
            let lease = self.claim.hold().await?;
            match self.sink.put_log_events(body, lease).await {
                Ok(answer) => {
                    if !std::mem::replace(&mut stream.is_known, true) {
                        stream.newcomers.note(false);
                    }
                    stream.sequence_token = answer.next_sequence_token;
                    self.metrics.batch_fill.observe(batch.fill(part));
                    return Ok(answer.rejected);
                }
                Err(SinkError::DataAlreadyAccepted { expected }) => {
                    stream.sequence_token = expected;
                    return Ok(RejectedEvents::default());
                }
                Err(SinkError::InvalidSequenceToken { expected }) if rounds_left > 0 => {
                    stream.sequence_token = expected;
                }
                // The process was paused or got no CPU time. In the next round, `hold` asks the ledger for the lease.
                Err(SinkError::LeaseEnded(_)) if rounds_left > 0 => {}
                Err(SinkError::NotFound(_)) if rounds_left > 0 => {
                    stream.sequence_token = None;
                    if created {
                        // CloudWatch Logs is eventually consistent: the new stream is not visible everywhere yet.
                        tokio::time::sleep(pause).await;
                        pause *= 2;
                    }
                    self.create(key).await?;
                    created = true;
                    if !std::mem::replace(&mut stream.is_known, true) {
                        stream.newcomers.note(true);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last round returns")
    }

    /// Creates the stream, and the group if it is missing.
    async fn create(&self, key: &StreamKey) -> Result<(), LaneError> {
        let (group, stream) = (&key.log_group_name, &key.log_stream_name);
        let lease = self.claim.hold().await?;
        let mut created = self.sink.create_log_stream(group, stream, lease).await;
        if let Err(SinkError::NotFound(_)) = created {
            created = self.sink.create_log_group(group, self.retention_days, lease).await;
            if created.is_ok() {
                created = self.sink.create_log_stream(group, stream, lease).await;
            }
        }
        match created {
            // The new group is not visible yet, or the lease ended: the next round tries again.
            Err(SinkError::NotFound(_) | SinkError::LeaseEnded(_)) => Ok(()),
            other => Ok(other?),
        }
    }
}
