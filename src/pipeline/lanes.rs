//! The lanes of one object: one for each delivery that reads its records.

use super::{grown::Growing, *};
use crate::{
    delivery::{Lane, LaneError},
    lake::{self, LakeAccount},
    records::{Record, Unreadable},
    tenant::Lake,
};

/// Where the records of an object go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reads<'a> {
    /// Into CloudWatch Logs.
    Logs(&'a CloudWatch),
    /// Into a lake.
    Lake(&'a Bucket, &'a Lake),
}

/// An entered account, and the lane's settings.
pub(super) enum Entered<'a, S, A> {
    Logs(&'a CloudWatch, S),
    Lake(&'a Bucket, &'a Lake, A),
}

/// A lane of one delivery.
#[expect(clippy::large_enum_variant, reason = "there are only as many as the object has deliveries")]
pub(super) enum AnyLane<S, A, L> {
    Logs(Lane<S, L>),
    Lake(lake::LakeLane<A, L>),
}

/// Open lanes of one object, each with its delivery.
pub(super) type Lanes<'a, S, A, L> = Vec<(&'a Delivery, AnyLane<S, A, L>)>;

/// Lanes that cannot go on, and why.
pub(super) type BrokenLanes<'a, S, A, L> = Vec<(&'a Delivery, AnyLane<S, A, L>, LaneError)>;

impl<S: LogSink, A: LakeAccount, L: Ledger> AnyLane<S, A, L> {
    /// Takes a record. `object_time`, in milliseconds, is the timestamp of a record without one. A lake that becomes large makes
    /// the object wait for a whole slot.
    ///
    /// # Errors
    /// The lane cannot go on.
    pub(super) async fn push(
        &mut self,
        record: &Record<'_>,
        object_time: i64,
        growing: Growing<'_>,
    ) -> Result<(), LaneError> {
        match self {
            Self::Logs(lane) => lane.push(record, object_time).await,
            Self::Lake(lane) => {
                if lane.becomes_large(record) {
                    // The slot comes first. If an object waited for a slot while it has a share, and another one for a share while
                    // it has a slot, both would wait in vain.
                    growing.fit_whole().await;
                    Box::pin(lane.enlarge()).await?;
                }
                lane.push(record).await
            }
        }
    }

    /// Takes an unreadable record.
    ///
    /// # Errors
    /// The lane cannot go on.
    pub(super) async fn push_unreadable(&mut self, unreadable: &Unreadable<'_>) -> Result<(), LaneError> {
        match self {
            Self::Logs(lane) => lane.push_unreadable(unreadable).await,
            Self::Lake(lane) => lane.push_unreadable(unreadable).await,
        }
    }

    /// Takes a record that makes no event.
    ///
    /// # Errors
    /// The lane cannot go on.
    pub(super) async fn push_skipped(&mut self) -> Result<(), LaneError> {
        match self {
            Self::Logs(lane) => lane.push_skipped().await,
            Self::Lake(lane) => {
                lane.push_skipped();
                Ok(())
            }
        }
    }

    /// Delivers the rest. The work is on the heap, so that the future of a message, which holds this one, stays small.
    ///
    /// # Errors
    /// The rest could not be delivered.
    pub(super) async fn flush(&mut self) -> Result<(), LaneError> {
        match self {
            Self::Logs(lane) => Box::pin(lane.flush()).await,
            Self::Lake(lane) => Box::pin(lane.flush()).await,
        }
    }

    /// Says that a defect left records without an outcome, before the lane is given up.
    pub(super) fn doubt(&mut self) {
        match self {
            Self::Logs(lane) => lane.doubt(),
            // The lane finds out by itself, and its next attempt replaces the files.
            Self::Lake(_) => {}
        }
    }

    /// Records that the object is done.
    ///
    /// # Errors
    /// Another worker has the object.
    pub(super) async fn complete(&self) -> Result<(), LaneError> {
        match self {
            Self::Logs(lane) => lane.complete().await,
            Self::Lake(lane) => lane.complete().await,
        }
    }

    /// Gives the lane up. `altered`: this attempt or an earlier one read altered bytes.
    pub(super) async fn give_up(&mut self, altered: bool, stop: &CancellationToken) {
        match self {
            Self::Logs(lane) if altered => lane.distrust(stop).await,
            Self::Logs(lane) => lane.abandon(stop).await,
            // The next attempt begins at the object's start in any case, and replaces the files.
            Self::Lake(lane) => lane.abandon(stop).await,
        }
    }

    /// Records read, and records whose outcome is known.
    pub(super) fn accounts(&self) -> (u64, u64) {
        match self {
            // `from` counts too: it is larger than `read` if the object has become shorter since an earlier attempt.
            Self::Logs(lane) => (lane.tally().read, lane.tally().accounted().max(lane.from().records)),
            Self::Lake(lane) => (lane.tally().read, lane.tally().accounted()),
        }
    }
}
