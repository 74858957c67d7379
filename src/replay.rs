//! Delivers the objects that a bucket has, or sends messages about them to the worker's queue.
//!
//! A bucket's listing takes the place of the queue: [`run`] lists the objects, selects some of them ([`selection`]), and gives
//! them, at a limited rate ([`pacer`]), to a [`Destination`]: the worker's own pipeline ([`Direct`]) or the queue ([`sending`]).
//! [`watch`] does so again and again. [`estimate`] only counts. A run keeps neither the listing nor its results in memory, apart
//! from one page and a bounded number of objects for a second try.

pub mod estimate;
pub mod outcome;
pub mod pacer;
pub mod progress;
pub mod selection;
pub mod sending;
pub mod watch;

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::outcome::Outcome;
use self::{
    pacer::{Caps, Pacer},
    progress::Progress,
    selection::Selection,
    watch::Scan,
};
use crate::{
    event::ObjectRef,
    manual::{AnyPipeline, State},
    object::listing::{ListingError, ObjectListing, Walk},
    pipeline::{MessageReport, Skipped},
    queue::QueueError,
    tenant::Mode,
    verdict::{Failed, Failure, Notice},
};

/// Most objects that are kept for a second try. Further ones count as failed at once.
const MOST_AGAIN: usize = 1000;
/// Longest wait before the second try: a little more than the defaults of `ledger.lease` and `ledger.max_clock_skew` together,
/// after which the objects of a killed run or worker are free.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Wait before the second try of an object whose failure names no time.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);

/// What to replay, and how fast.
#[derive(Clone, Debug)]
pub struct Order {
    /// Name of the bucket.
    pub bucket: String,
    /// The bucket's objects.
    pub selection: Selection,
    /// Calls of the destination that run at the same time.
    pub concurrency: NonZeroUsize,
    /// Limits of the rate.
    pub caps: Caps,
}

/// A selected object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Bucket, key and size, as the listing names them. Version and ETag are not pinned yet.
    pub object: ObjectRef,
    /// ETag in the listing.
    pub etag: Option<String>,
    /// The tenant.
    pub tenant_id: String,
    /// LastModified in the listing.
    pub modified: Timestamp,
}

/// What became of an object.
#[derive(Debug)]
pub enum Fate {
    /// Every delivery that wants the object has it, or has counted it in shadow mode.
    Delivered,
    /// The queue has a message about it.
    Sent,
    /// Every delivery had it before, as the ledger says.
    AlreadyDelivered,
    /// No delivery wants it.
    Skipped(Skipped),
    /// A worker or another replay is delivering it. After this time the object is free, unless the lease is renewed.
    Busy(Duration),
    /// The run was stopped before the object was finished.
    Interrupted,
    /// A delivery failed.
    Failed(Box<Failed>),
    /// The message about it could not be sent.
    Unsent(QueueError),
}

/// What a destination did with an object.
#[derive(Debug)]
pub struct Taken {
    /// What became of the object.
    pub fate: Fate,
    /// Whether the object counts in the caps of the run: it was read, or a message about it was sent.
    pub counts: bool,
    /// Bytes that CloudWatch Logs bills, of all deliveries but those in shadow mode. Other deliveries may have failed.
    pub billed_bytes: u64,
}

/// Where the selected objects go.
#[async_trait::async_trait]
pub trait Destination: Send + Sync + 'static {
    /// Most items of one call, at least 1.
    fn batch(&self) -> usize;

    /// Returns what was done with each item, in order. Ends early once `stop` is cancelled.
    async fn take(&self, items: &[Item], stop: &CancellationToken) -> Vec<Taken>;
}

/// Delivers each object by the worker's own pipeline.
pub struct Direct(pub Box<dyn AnyPipeline>);

#[async_trait::async_trait]
impl Destination for Direct {
    fn batch(&self) -> usize {
        1
    }

    async fn take(&self, items: &[Item], stop: &CancellationToken) -> Vec<Taken> {
        let mut taken = Vec::new();
        for item in items {
            taken.push(Taken::from(self.0.process_current(&item.object, stop).await));
        }
        taken
    }
}

impl From<MessageReport> for Taken {
    /// What a report says about its only object.
    fn from(report: MessageReport) -> Self {
        let live = report.delivered.iter().filter(|delivered| delivered.mode == Mode::Live);
        let billed_bytes = live.map(|delivered| delivered.tally.bytes).sum();
        // One of several deliveries may have read the object before another one failed.
        let was_read = !report.delivered.is_empty();
        let taken = Self::from(Fate::of(report));
        Self { counts: taken.counts || was_read, billed_bytes, ..taken }
    }
}

impl From<Fate> for Taken {
    fn from(fate: Fate) -> Self {
        let counts = !fate.needed_no_reading();
        Self { fate, counts, billed_bytes: 0 }
    }
}

impl Fate {
    /// The fate of a report's only object. As in a verdict, a failure for which another try may succeed counts before one for
    /// which none can: once the try has succeeded, only the other failure is left.
    fn of(mut report: MessageReport) -> Self {
        report.failures.sort_by_key(|failed| match &failed.failure {
            Failure::Stopping => 0,
            Failure::Busy(_) => 2,
            failure if failure.comes_again() => 1,
            _ => 3,
        });
        match State::of(&report) {
            State::Failed => Self::from(report.failures.swap_remove(0)),
            State::Delivered => Self::Delivered,
            State::AlreadyDelivered => Self::AlreadyDelivered,
            State::Skipped => Self::Skipped(report.skipped.first().copied().unwrap_or(Skipped::NoRecords)),
        }
    }

    /// The time after which a second try may succeed; `None` if it would not.
    fn again_in(&self) -> Option<Duration> {
        match self {
            Self::Busy(left) => Some(*left),
            Self::Failed(failed) if failed.failure.comes_again() => {
                Some(failed.failure.held_for().unwrap_or_default())
            }
            Self::Unsent(QueueError::Unavailable(_)) => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Whether no delivery had to read the object for this fate.
    fn needed_no_reading(&self) -> bool {
        match self {
            Self::AlreadyDelivered | Self::Skipped(_) | Self::Busy(_) => true,
            Self::Failed(failed) => failed.failure.held_for().is_some(),
            Self::Delivered | Self::Sent | Self::Unsent(_) | Self::Interrupted => false,
        }
    }
}

impl From<Failed> for Fate {
    fn from(failed: Failed) -> Self {
        match failed.failure {
            Failure::Busy(left) => Self::Busy(left),
            Failure::Stopping => Self::Interrupted,
            _ => Self::Failed(Box::new(failed)),
        }
    }
}

/// Gives every selected object to the destination once, and those whose failures may pass a second time at the end. Ends early
/// once `stop` is cancelled, or if the bucket cannot be listed; the objects in work are finished or checkpointed then. A `scan`
/// passes over objects whose fate it knows, sees the fate of the others, and has no second try: the next scan follows.
///
/// # Cancel safety
/// As [`Pipeline::handle`](crate::pipeline::Pipeline::handle), for each object in work.
pub async fn run<L: ObjectListing>(
    order: &Order,
    listing: &L,
    destination: &Arc<dyn Destination>,
    scan: Option<&mut Scan<'_>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Outcome {
    let began = Instant::now();
    let mut run = Run {
        order,
        destination,
        scan,
        progress,
        stop,
        pacer: Pacer::new(order.caps),
        running: JoinSet::new(),
        batch: Vec::new(),
        is_second: false,
        again: VecDeque::new(),
        again_at: began,
        outcome: Outcome::default(),
    };
    let listed = run.list(listing).await;
    run.finish().await;
    run.second_try().await;
    let Run { mut outcome, .. } = run;
    outcome.listing_error = listed.err().map(|error| error.to_string());
    outcome.interrupted = stop.is_cancelled();
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome
}

/// A run in progress.
struct Run<'a, 'k> {
    order: &'a Order,
    destination: &'a Arc<dyn Destination>,
    scan: Option<&'a mut Scan<'k>>,
    progress: &'a Progress,
    stop: &'a CancellationToken,
    pacer: Pacer,
    running: JoinSet<Vec<(Item, Taken)>>,
    /// Items of the next call.
    batch: Vec<Item>,
    /// Whether the second try has begun.
    is_second: bool,
    /// Items for the second try, and when it may begin.
    again: VecDeque<Item>,
    again_at: Instant,
    outcome: Outcome,
}

impl Run<'_, '_> {
    /// Lists the bucket, and begins with every selected object.
    async fn list<L: ObjectListing>(&mut self, listing: &L) -> Result<(), ListingError> {
        let order = self.order;
        let mut walk = Walk::new(listing, order.selection.prefixes());
        loop {
            let listed = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                listed = walk.next() => listed?,
            };
            let Some(listed) = listed else { return Ok(()) };
            let selected = self.outcome.counts.add(&order.bucket, &order.selection, listed);
            if let Some(item) = selected
                && !self.scan.as_mut().is_some_and(|scan| scan.knows(&item))
            {
                self.outcome.counts.selected += 1;
                self.begin(item).await;
            }
        }
    }

    /// Waits for the item's turn, and begins with it. Once the run is stopped, the item counts as interrupted.
    async fn begin(&mut self, item: Item) {
        let bytes = item.object.size.unwrap_or_default();
        loop {
            let now = Instant::now();
            let turn = self.pacer.next(now);
            let free = self.running.len() < self.order.concurrency.get();
            if self.stop.is_cancelled() {
                return self.ended(item, Fate::Interrupted);
            }
            if free && turn <= now {
                break;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep_until(turn), if free => {}
                Some(done) = self.running.join_next() => self.done(done),
            }
        }
        self.pacer.take(bytes, Instant::now());
        self.batch.push(item);
        if self.batch.len() >= self.destination.batch() {
            self.call();
        }
    }

    /// Gives the batch to the destination.
    fn call(&mut self) {
        let items = std::mem::take(&mut self.batch);
        if items.is_empty() {
            return;
        }
        let (destination, stop) = (Arc::clone(self.destination), self.stop.clone());
        self.running.spawn(async move {
            // A panic must not take the items with it.
            let given: Arc<[Item]> = items.into();
            let taken = Arc::clone(&given);
            let take = async move { destination.take(&taken, &stop).await };
            let taken = AbortOnDropHandle::new(tokio::spawn(take)).await.unwrap_or_else(|_| {
                let panic = |item: &Item| {
                    let failed = Failed::of(&item.object, Some(&item.tenant_id), None, Failure::Panic);
                    Taken::from(Fate::from(failed))
                };
                given.iter().map(panic).collect()
            });
            given.iter().cloned().zip(taken).collect()
        });
    }

    /// Waits for the end of everything that has begun.
    async fn finish(&mut self) {
        self.call();
        while let Some(done) = self.running.join_next().await {
            self.done(done);
        }
    }

    async fn second_try(&mut self) {
        self.is_second = true;
        if !self.again.is_empty() && !self.stop.is_cancelled() {
            let wait = self.again_at.saturating_duration_since(Instant::now());
            tracing::info!(
                replay.objects = self.again.len(),
                replay.wait_seconds = wait.as_secs(),
                "objects that failed, or that a worker had, are tried a second time after a pause"
            );
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        while let Some(item) = self.again.pop_front() {
            self.begin(item).await;
        }
        self.finish().await;
    }

    fn done(&mut self, done: Result<Vec<(Item, Taken)>, JoinError>) {
        // The tasks are neither cancelled nor do they panic.
        for (item, taken) in done.into_iter().flatten() {
            let Taken { fate, counts, billed_bytes } = taken;
            self.outcome.billed_bytes += billed_bytes;
            if !counts {
                self.pacer.give_back(item.object.size.unwrap_or_default());
            }
            let wait = fate.again_in().filter(|_| !self.is_second && self.scan.is_none());
            match wait {
                Some(wait) if self.again.len() < MOST_AGAIN && !self.stop.is_cancelled() => {
                    let wait = wait.clamp(SHORTEST_WAIT, LONGEST_WAIT);
                    self.again_at = self.again_at.max(Instant::now() + wait);
                    self.again.push_back(item);
                }
                _ => self.ended(item, fate),
            }
        }
    }

    fn ended(&mut self, item: Item, fate: Fate) {
        match &fate {
            Fate::Failed(failed) => tell(&item, failed),
            Fate::Unsent(error) => tracing::warn!(
                object.bucket = item.object.bucket, object.key = item.object.key, tenant.id = item.tenant_id, error = %error,
                "no message about an object could be sent"
            ),
            _ => {}
        }
        self.progress.ended(item.object.size.unwrap_or_default());
        if let Some(scan) = &mut self.scan {
            scan.ended(&item, &fate);
        }
        self.outcome.add(&item, fate);
    }
}

/// Logs a failure.
fn tell(item: &Item, failed: &Failed) {
    let (object, tenant_id, reason) = (&item.object, &item.tenant_id, failed.failure.reason());
    match failed.failure.notice() {
        // A breaker has logged its own failure once.
        Notice::Expected => tracing::debug!(
            object.bucket, object.key, tenant.id = tenant_id, delivery.name = failed.delivery, reason, error = %failed,
            "an object cannot be delivered now"
        ),
        Notice::Unexpected => tracing::warn!(
            object.bucket, object.key, tenant.id = tenant_id, delivery.name = failed.delivery, reason, error = %failed,
            "an object cannot be delivered"
        ),
        Notice::Defect => tracing::error!(
            object.bucket, object.key, tenant.id = tenant_id, delivery.name = failed.delivery, reason, error = %failed,
            "an object cannot be delivered, because of a defect"
        ),
    }
}

#[cfg(test)]
mod tests;
