//! What a delivery holds while it works on an object: its entry in the ledger, and the lease on it.
//!
//! The ledger spares repetitions; it is not worth a stop. While it cannot be used, deliveries go on without it, at least
//! once, and a metric says so. A lease that another took is another matter: whoever lost it stops.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{Begun, EntryKey, Ledger, LedgerError, Position};
use crate::{
    event::ObjectRef,
    metrics::{Call, Metrics},
};

/// How long a ledger that does not answer is not asked about further objects: each would wait for the time-out.
const PAUSE: Duration = Duration::from_secs(5);
/// Calls in a row without an answer that make it so: an object that goes on without the ledger may arrive twice.
const FAILURES: u32 = 3;

/// Hands out claims.
#[derive(Debug)]
pub struct Claims<L> {
    /// None: the ledger is off.
    ledger: Option<Arc<Guarded<L>>>,
    /// How often a lease is renewed.
    renew_every: Duration,
}

/// What came of asking for a claim.
#[derive(Debug)]
pub enum Claimed<L> {
    /// Go on from [`Claim::from`].
    Ours(Arc<Claim<L>>),
    /// Every record is accounted for.
    Done,
    /// Another is at it, for that long at most unless it renews its lease.
    Busy(Duration),
}

/// A lease that was lost: another works on the object now, or has done it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease of {0} was lost to another worker")]
pub struct Lost(pub String);

/// One delivery's hold on one object. While it lives, its lease is renewed; dropped without an end, its lease runs out.
#[derive(Debug)]
pub struct Claim<L> {
    from: Position,
    /// None: the ledger is off, or the object cannot be told from another under its key.
    entry: Option<Arc<Entry<L>>>,
    _renewal: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Entry<L> {
    ledger: Arc<Guarded<L>>,
    key: EntryKey,
    owner: String,
    /// One call at a time; true once the lease was given back: a renewal must not take it again.
    ended: tokio::sync::Mutex<bool>,
}

/// The ledger, and whether it can be used.
#[derive(Debug)]
struct Guarded<L> {
    ledger: L,
    outage: Mutex<Outage>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Outage {
    /// Calls in a row that were not answered.
    failures: u32,
    /// When it is asked again.
    ask_again: Option<Instant>,
}

impl<L: Ledger> Claims<L> {
    /// Claims in `ledger`, whose leases last for `lease`; without a ledger, every claim is granted from the start.
    pub fn new(ledger: Option<L>, lease: Duration, metrics: Metrics) -> Self {
        let guarded = |ledger| Arc::new(Guarded { ledger, outage: Mutex::default(), metrics });
        Self { ledger: ledger.map(guarded), renew_every: lease / 3 }
    }

    /// Claims an object for a delivery.
    pub async fn claim(&self, object: &ObjectRef, delivery: &str) -> Claimed<L> {
        let unguarded =
            || Claimed::Ours(Arc::new(Claim { from: Position::default(), entry: None, _renewal: None }));
        let Some(ledger) = &self.ledger else { return unguarded() };
        let Some(key) = EntryKey::of(object, delivery) else { return unguarded() };
        let owner = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let from = match ledger.begin(&key, &owner).await {
            Some(Begun::Done) => return Claimed::Done,
            Some(Begun::Busy(left)) => return Claimed::Busy(left),
            Some(Begun::Ours(from)) => from,
            // From the start, then; a later checkpoint may find the ledger again.
            None => Position::default(),
        };
        let ended = tokio::sync::Mutex::new(false);
        let entry = Arc::new(Entry { ledger: Arc::clone(ledger), key, owner, ended });
        let renewal = tokio::spawn(renew(Arc::clone(&entry), self.renew_every));
        let _renewal = Some(AbortOnDropHandle::new(renewal));
        Claimed::Ours(Arc::new(Claim { from, entry: Some(entry), _renewal }))
    }
}

/// Keeps the lease while a batch takes longer than it: until it is given back or lost.
async fn renew<L: Ledger>(entry: Arc<Entry<L>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let ended = entry.ended.lock().await;
        if *ended {
            return;
        }
        let answer = entry.ledger.ledger.renew(&entry.key, &entry.owner).await;
        if entry.ledger.learn("renew", answer).is_err() {
            return;
        }
    }
}

impl<L: Ledger> Claim<L> {
    /// Where to go on: what comes before is accounted for.
    pub fn from(&self) -> Position {
        self.from
    }

    /// Records a position and renews the lease.
    ///
    /// # Errors
    /// The lease is another's by now.
    ///
    /// # Cancel safety
    /// Safe: a position is recorded or not.
    pub async fn checkpoint(&self, position: Position) -> Result<(), Lost> {
        let Some(entry) = &self.entry else { return Ok(()) };
        let _turn = entry.ended.lock().await;
        let answer = entry.ledger.ledger.checkpoint(&entry.key, &entry.owner, position).await;
        entry.ledger.learn("checkpoint", answer).map(drop)
    }

    /// Records a position and gives the lease back.
    pub async fn release(&self, position: Position) {
        let Some(entry) = &self.entry else { return };
        let mut ended = entry.ended.lock().await;
        *ended = true;
        let answer = entry.ledger.ledger.release(&entry.key, &entry.owner, position).await;
        // Lost or not, it is not ours any more.
        let _ = entry.ledger.learn("release", answer);
    }

    /// Forgets the position and gives the lease back: the next attempt begins at the start.
    pub async fn restart(&self) {
        let Some(entry) = &self.entry else { return };
        let mut ended = entry.ended.lock().await;
        *ended = true;
        let answer = entry.ledger.ledger.restart(&entry.key, &entry.owner).await;
        let _ = entry.ledger.learn("restart", answer);
    }

    /// Records that every record is accounted for.
    ///
    /// # Errors
    /// The lease was another's by then, who may have put the same records.
    pub async fn finish(&self, position: Position) -> Result<(), Lost> {
        let Some(entry) = &self.entry else { return Ok(()) };
        let mut ended = entry.ended.lock().await;
        *ended = true;
        let answer = entry.ledger.ledger.finish(&entry.key, &entry.owner, position).await;
        entry.ledger.learn("finish", answer).map(drop)
    }
}

impl<L: Ledger> Guarded<L> {
    /// None: nobody knows.
    async fn begin(&self, key: &EntryKey, owner: &str) -> Option<Begun> {
        let resting = self.outage().ask_again.is_some_and(|at| Instant::now() < at);
        if resting {
            self.metrics.ledger_errors.get_or_create(&Call::new("begin")).inc();
            return None;
        }
        let answer = self.ledger.begin(key, owner).await;
        self.learn("begin", answer).ok().flatten()
    }

    /// Notes whether the ledger can be used, and tells once when that changes.
    fn learn<T>(&self, call: &'static str, answer: Result<T, LedgerError>) -> Result<Option<T>, Lost> {
        let (answer, problem) = match answer {
            Ok(answer) => (Ok(Some(answer)), None),
            Err(LedgerError::Lost(object)) => (Err(Lost(object)), None),
            Err(LedgerError::Unavailable(problem)) => (Ok(None), Some(problem)),
            Err(LedgerError::Unreadable(problem)) => {
                self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
                tracing::warn!(
                    call,
                    error = problem,
                    "an entry of the ledger cannot be used: its object goes on without it"
                );
                return Ok(None);
            }
        };
        let failures = {
            let mut outage = self.outage();
            let failures = std::mem::replace(&mut outage.failures, 0);
            if problem.is_some() {
                outage.failures = failures.saturating_add(1);
            }
            let down = outage.failures >= FAILURES;
            outage.ask_again = down.then(|| Instant::now() + PAUSE);
            failures
        };
        match problem {
            Some(problem) => {
                self.metrics.ledger_errors.get_or_create(&Call::new(call)).inc();
                if failures == 0 {
                    tracing::error!(
                        call,
                        error = problem,
                        "the ledger cannot be used: deliveries go on without it, and what is tried again may arrive twice"
                    );
                }
            }
            None if failures > 0 => tracing::info!("the ledger can be used again"),
            None => {}
        }
        answer
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::memory::MemoryLedger;

    const LEASE: Duration = Duration::from_secs(60);

    fn object() -> ObjectRef {
        ObjectRef {
            bucket: "staging".into(),
            key: "k".into(),
            version_id: Some("v".into()),
            ..ObjectRef::default()
        }
    }

    fn claims(ledger: &MemoryLedger, metrics: &Metrics) -> Claims<MemoryLedger> {
        Claims::new(Some(ledger.clone()), LEASE, metrics.clone())
    }

    async fn ours(claims: &Claims<MemoryLedger>) -> Arc<Claim<MemoryLedger>> {
        match claims.claim(&object(), "cloudwatch").await {
            Claimed::Ours(claim) => claim,
            other => panic!("ours, not {other:?}"),
        }
    }

    fn at(records: u64) -> Position {
        Position { records, events: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_worker_waits_and_goes_on_where_the_first_stopped() {
        let (ledger, metrics) = (MemoryLedger::new(LEASE), Metrics::new());
        let (one, other) = (claims(&ledger, &metrics), claims(&ledger, &metrics));
        let claim = ours(&one).await;
        assert_eq!(claim.from(), at(0));
        claim.checkpoint(at(7)).await.expect("it is ours");
        let busy = other.claim(&object(), "cloudwatch").await;
        assert!(matches!(busy, Claimed::Busy(left) if left == LEASE), "{busy:?}");
        assert!(matches!(other.claim(&object(), "cloudwatch#2").await, Claimed::Ours(_)), "another delivery");
        claim.release(at(9)).await;
        let claim = ours(&other).await;
        assert_eq!(claim.from(), at(9));
        claim.finish(at(12)).await.expect("it is ours");
        assert!(matches!(one.claim(&object(), "cloudwatch").await, Claimed::Done));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_as_long_as_its_claim() {
        let (ledger, metrics) = (MemoryLedger::new(LEASE), Metrics::new());
        let (one, other) = (claims(&ledger, &metrics), claims(&ledger, &metrics));
        let claim = ours(&one).await;
        tokio::time::sleep(10 * LEASE).await;
        assert!(matches!(other.claim(&object(), "cloudwatch").await, Claimed::Busy(_)));
        // As when its worker dies.
        drop(claim);
        tokio::time::sleep(LEASE).await;
        assert_eq!(ours(&other).await.from(), at(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_not_renewed() {
        let (ledger, metrics) = (MemoryLedger::new(LEASE), Metrics::new());
        let claims = claims(&ledger, &metrics);
        let claim = ours(&claims).await;
        claim.release(at(0)).await;
        tokio::time::sleep(2 * LEASE).await;
        ours(&claims).await;
        assert_eq!(claim.checkpoint(at(1)).await, Err(Lost("staging/k?versionId=v".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_ledger_deliveries_go_on() {
        let (ledger, metrics) = (MemoryLedger::new(LEASE), Metrics::new());
        let claims = claims(&ledger, &metrics);
        ledger.set_down(true);
        let claim = ours(&claims).await;
        claim.checkpoint(at(3)).await.expect("nobody else has it");
        drop(ours(&claims).await);
        assert_eq!(ledger.calls(), 3);
        drop(ours(&claims).await);
        assert_eq!(ledger.calls(), 3, "it is left alone for a while");
        ledger.set_down(false);
        // The claim of before finds it again.
        claim.finish(at(5)).await.expect("nobody else has it");
        assert!(matches!(claims.claim(&object(), "cloudwatch").await, Claimed::Done));
        let text = metrics.render().expect("metrics are text");
        assert!(text.contains("logferry_ledger_errors_total{call=\"begin\"} 3"), "{text}");
        assert!(text.contains("logferry_ledger_errors_total{call=\"checkpoint\"} 1"), "{text}");
    }

    #[tokio::test]
    async fn off_or_unpinned_everything_is_granted() {
        let off = Claims::<MemoryLedger>::new(None, LEASE, Metrics::new());
        let claim = ours(&off).await;
        claim.finish(at(1)).await.expect("nobody minds");
        assert_eq!(ours(&off).await.from(), at(0));
        let unpinned = ObjectRef { version_id: None, ..object() };
        let ledger = MemoryLedger::new(LEASE);
        let claims = claims(&ledger, &Metrics::new());
        assert!(matches!(claims.claim(&unpinned, "cloudwatch").await, Claimed::Ours(_)));
        assert_eq!(ledger.calls(), 0);
    }
}
