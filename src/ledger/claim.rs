//! A delivery's claim on an object: its entry in the ledger and the lease on that entry.
//!
//! No event is put without a running lease. If the ledger throttles or does not answer, the call is repeated while the lease
//! runs; then the delivery stops, and its message waits. Deliveries go on without the ledger only while it is out of reach
//! (`Reach`). Meanwhile, a repeated attempt may deliver records twice, and the metric `logferry_ledger_out_of_reach` is 1.

mod reach;
mod renewal;

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::reach::Metrics;
use self::{
    reach::Reach,
    renewal::{Membership, Renewals},
};
use super::{
    Begun, DeliveryProgress, EntryKey, Ledger, LedgerError, Position,
    lease::{Lease, Moment},
};
use crate::{
    event::ObjectRef,
    metrics::Ended,
    trace::{self, semconv},
};

/// For how long a failed call that begins or ends a claim is repeated. Meanwhile, a slot waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a call is repeated. The SDK has already made several attempts by then, with backoff.
const PAUSE: Duration = Duration::from_millis(500);

/// The configuration of claims.
#[derive(Clone, Copy, Debug)]
pub struct ClaimSettings {
    /// How long a lease lasts unless it is renewed.
    pub lease: Duration,
    /// How long the ledger must be silent before deliveries go on without it.
    pub out_of_reach_after: Duration,
}

/// Creates claims. Clones share the ledger, and what is known about whether it answers.
#[derive(Debug)]
pub struct Claims<L> {
    /// `None` if the ledger is off.
    ledger: Option<Arc<Guarded<L>>>,
    lease: Duration,
    renewals: Arc<Renewals<L>>,
    metrics: Metrics,
}

impl<L> Clone for Claims<L> {
    fn clone(&self) -> Self {
        let Self { ledger, lease, renewals, metrics } = self;
        let (ledger, renewals) = (ledger.clone(), Arc::clone(renewals));
        Self { ledger, lease: *lease, renewals, metrics: metrics.clone() }
    }
}

/// Answer to a request for a claim.
#[derive(Debug)]
pub enum Claimed<L> {
    /// The claim is granted. The delivery goes on from [`Claim::from`].
    Ours(Arc<Claim<L>>),
    /// Every record is accounted for.
    Done,
    /// Another attempt has the object. It can be claimed after this time, unless the lease is renewed.
    Busy(Duration),
}

/// One delivery's claim on one object. The lease is renewed while the claim exists. If the claim is dropped without being
/// ended, the lease runs out.
#[derive(Debug)]
pub struct Claim<L> {
    from: DeliveryProgress,
    keeping: Keeping,
    lease: Lease,
    /// `None` if the ledger is off, or the event names neither the object's version nor its eTag.
    entry: Option<Arc<OwnEntry<L>>>,
    /// `None` if there is no entry.
    _membership: Option<Membership<L>>,
    /// Renews the lease. `None` while the claim is young, if there is no entry, or after the claim has ended.
    renewal: std::sync::Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What a claim records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    /// The progress, so that the next attempt goes on from there.
    Progress,
    /// Only the lease and the end, so that each attempt begins at the object's start.
    Nothing,
}

#[derive(Debug)]
struct OwnEntry<L> {
    ledger: Arc<Guarded<L>>,
    key: EntryKey,
    owner: String,
    lease: Lease,
    /// Locked during a call: one call at a time.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The progress that was recorded last. A renewal records it again.
    progress: DeliveryProgress,
    /// Whether the lease was given back. A renewal must not take it again.
    ended: bool,
}

/// The ledger, and what is known about whether it answers.
#[derive(Debug)]
struct Guarded<L> {
    ledger: L,
    reach: Reach,
}

impl<L: Ledger> Claims<L> {
    /// Creates claims in `ledger`. Without a ledger, every claim is granted, and its delivery begins at the object's start.
    pub fn new(ledger: Option<L>, settings: ClaimSettings, metrics: Metrics) -> Self {
        let ClaimSettings { lease, out_of_reach_after } = settings;
        let reach = Reach::new(out_of_reach_after, metrics.clone());
        let ledger = ledger.map(|ledger| Arc::new(Guarded { ledger, reach }));
        Self { ledger, lease, renewals: Arc::new(Renewals::new(lease / 3)), metrics }
    }

    /// Claims an object for a delivery. If the ledger does not answer, the call is repeated for ten seconds. If several calls
    /// have just failed, no call is made.
    ///
    /// # Errors
    /// The ledger does not answer but does not count as out of reach yet, or the entry cannot be read. The message must wait,
    /// because a delivery from the start could repeat everything.
    ///
    /// # Cancel safety
    /// A call that is dropped before the answer may leave a lease, which runs out by itself.
    pub async fn claim(&self, object: &ObjectRef, delivery: &str) -> Result<Claimed<L>, LedgerError> {
        self.claim_keeping(object, delivery, Keeping::Progress).await
    }

    /// Like [`Claims::claim`], for a delivery that has no use for a part of an object: each attempt begins at the object's
    /// start.
    ///
    /// # Errors
    /// As [`Claims::claim`].
    ///
    /// # Cancel safety
    /// As [`Claims::claim`].
    pub async fn claim_whole(&self, object: &ObjectRef, delivery: &str) -> Result<Claimed<L>, LedgerError> {
        self.claim_keeping(object, delivery, Keeping::Nothing).await
    }

    async fn claim_keeping(
        &self,
        object: &ObjectRef,
        delivery: &str,
        keeping: Keeping,
    ) -> Result<Claimed<L>, LedgerError> {
        let count = |result| self.metrics.ledger_claims.get_or_create(&Ended::new(result)).inc();
        let unguarded = || {
            count("unguarded");
            Ok(Claimed::Ours(Arc::new(Claim {
                from: DeliveryProgress::default(),
                keeping,
                lease: Lease::unlimited(),
                entry: None,
                _membership: None,
                renewal: std::sync::Mutex::default(),
            })))
        };
        let Some(ledger) = &self.ledger else { return unguarded() };
        let Some(key) = EntryKey::of(object, delivery) else { return unguarded() };
        let owner = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let lease = Lease::of(self.lease);
        let span = trace::step("ledger claim", &[(semconv::DELIVERY_NAME, delivery)]);
        let begin = ledger.begin_patiently(&key, &owner, &lease);
        let begun = trace::within(span.clone(), begin, LedgerError::kind).await?;
        let result = word(begun.as_ref());
        count(result);
        trace::set(&span, semconv::CLAIM, result);
        drop(span);
        let from = match begun {
            Some(Begun::Done) => return Ok(Claimed::Done),
            Some(Begun::Busy(left)) => return Ok(Claimed::Busy(left)),
            Some(Begun::Ours(from)) => from,
            // The ledger is out of reach, so the delivery begins at the start. A later checkpoint may reach the ledger again.
            None => DeliveryProgress::default(),
        };
        let state = tokio::sync::Mutex::new(State { progress: from.clone(), ended: false });
        let ledger = Arc::clone(ledger);
        let entry = Arc::new(OwnEntry { ledger, key, owner, lease: lease.clone(), state });
        Ok(Claimed::Ours(Arc::new_cyclic(|claim| {
            let membership = Some(self.renewals.add(claim, Instant::now()));
            let renewal = std::sync::Mutex::default();
            Claim { from, keeping, lease, entry: Some(entry), _membership: membership, renewal }
        })))
    }

    /// Checks that the ledger can be used. Succeeds if the ledger is off.
    ///
    /// # Errors
    /// Why the ledger cannot be used.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let answer = ledger.ledger.probe().await;
        ledger.reach.learn("probe", &answer);
        answer
    }
}

/// Name of the answer to a claim. `None`: the ledger is out of reach.
fn word(begun: Option<&Begun>) -> &'static str {
    match begun {
        Some(Begun::Done) => "done",
        Some(Begun::Busy(_)) => "busy",
        Some(Begun::Ours(from)) if *from == DeliveryProgress::default() => "new",
        Some(Begun::Ours(_)) => "resumed",
        None => "unguarded",
    }
}

impl<L: Ledger> Claim<L> {
    /// Progress of the earlier attempts. This attempt goes on from there.
    pub fn from(&self) -> &DeliveryProgress {
        &self.from
    }

    /// Whether a ledger keeps the recorded progress.
    pub fn is_recorded(&self) -> bool {
        self.entry.is_some()
    }

    /// Makes sure that the lease runs, before a step that only its holder may take. Calls the ledger only if the lease has
    /// ended or is about to end, for example after the process was paused.
    ///
    /// # Errors
    /// Another attempt has the object, or the lease cannot be renewed: the step must not be taken.
    ///
    /// # Cancel safety
    /// Safe: the lease is renewed or not.
    pub async fn hold(&self) -> Result<&Lease, LedgerError> {
        if let Some(entry) = &self.entry
            && self.lease.check().is_err()
        {
            entry.renew().await?;
        }
        Ok(&self.lease)
    }

    /// Records progress and renews the lease. Repeats a failed call while the lease runs.
    ///
    /// # Errors
    /// Another attempt has the object, or no call succeeded before the lease ended.
    ///
    /// # Cancel safety
    /// Safe: the progress is recorded or not.
    pub async fn checkpoint(&self, progress: &DeliveryProgress) -> Result<(), LedgerError> {
        let Some(entry) = &self.entry else { return Ok(()) };
        let record = async {
            loop {
                match entry.record("checkpoint", self.kept(progress)).await {
                    Err(error) if error.may_pass() && self.lease.check().is_ok() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    answer => return answer,
                }
            }
        };
        trace::within(trace::step("ledger checkpoint", &[]), record, LedgerError::kind).await
    }

    /// Records progress and gives the lease back.
    pub async fn release(&self, progress: &DeliveryProgress) {
        let progress = self.kept(progress);
        // If the call fails, the lease runs out by itself.
        let _ = self.end("release", |ledger, key, owner| ledger.release(key, owner, &progress)).await;
    }

    /// Forgets all progress and gives the lease back, so that the next attempt begins at the start.
    pub async fn restart(&self) {
        let _ = self.end("restart", |ledger, key, owner| ledger.restart(key, owner)).await;
    }

    /// Marks the object as done: every record is accounted for. Succeeds even if the ledger does not answer, because no work
    /// is left: only a second notification of the object would repeat the records that the ledger does not know of.
    ///
    /// # Errors
    /// Another attempt had the lease by then, and may have put the same records.
    pub async fn finish(&self, position: Position) -> Result<(), LedgerError> {
        let Some(entry) = &self.entry else { return Ok(()) };
        let recorded = entry.state.lock().await.progress.clone();
        match self.end("finish", |ledger, key, owner| ledger.finish(key, owner, &recorded, position)).await {
            Err(error @ LedgerError::Lost(_)) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// What the ledger keeps of this progress.
    fn kept(&self, progress: &DeliveryProgress) -> DeliveryProgress {
        match self.keeping {
            Keeping::Progress => progress.clone(),
            Keeping::Nothing => DeliveryProgress::default(),
        }
    }

    /// Makes the last call of a claim. Repeats a failed call for ten seconds.
    async fn end<'a, F>(
        &'a self,
        call: &'static str,
        ask: impl Fn(&'a L, &'a EntryKey, &'a str) -> F,
    ) -> Result<(), LedgerError>
    where
        F: Future<Output = Result<(), LedgerError>>,
    {
        let Some(entry) = &self.entry else { return Ok(()) };
        let OwnEntry { ledger, key, owner, .. } = entry.as_ref();
        let mut state = entry.state.lock().await;
        state.ended = true;
        let span = match call {
            "finish" => trace::step("ledger finish", &[]),
            "restart" => trace::step("ledger restart", &[]),
            _ => trace::step("ledger release", &[]),
        };
        let asked = ledger.patiently(call, || ask(&ledger.ledger, key, owner));
        let answer = trace::within(span, asked, LedgerError::kind).await.map(drop);
        let renewal = self.renewal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(renewal) = renewal {
            renewal.abort();
            // Waits until the task is gone: it holds the message's span, and Lambda freezes the process soon.
            let _ = renewal.await;
        }
        answer
    }
}

impl<L: Ledger> OwnEntry<L> {
    async fn renew(&self) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        let progress = state.progress.clone();
        self.tell("renew", &mut state, progress).await
    }

    async fn record(&self, call: &'static str, progress: DeliveryProgress) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        self.tell(call, &mut state, progress).await
    }

    /// Makes one checkpoint, which metrics and logs name `call`. If the ledger is out of reach, the lease counts as renewed.
    async fn tell(
        &self,
        call: &'static str,
        state: &mut State,
        progress: DeliveryProgress,
    ) -> Result<(), LedgerError> {
        if state.ended {
            return Err(LedgerError::Lost(self.key.object.clone()));
        }
        // The moment is before the call is sent, because the ledger's lease begins when the call arrives.
        let asked = Moment::now();
        let answer = self.ledger.ledger.checkpoint(&self.key, &self.owner, &progress).await;
        self.ledger.reach.learn(call, &answer);
        // The call may have taken effect even without an answer. Recording the same progress again is harmless.
        state.progress = progress;
        let answer = match answer {
            Err(error) if error.may_pass() && self.ledger.reach.is_out() => Ok(()),
            answer => answer,
        };
        match &answer {
            Ok(()) => self.lease.renewed(asked),
            Err(LedgerError::Lost(_)) => self.lease.lost(),
            Err(_) => {}
        }
        answer
    }
}

impl<L: Ledger> Guarded<L> {
    /// Takes the lease. Returns `None` if the ledger is out of reach.
    async fn begin_patiently(
        &self,
        key: &EntryKey,
        owner: &str,
        lease: &Lease,
    ) -> Result<Option<Begun>, LedgerError> {
        if let Some(trouble) = self.reach.resting("begin") {
            lease.renewed(Moment::now());
            return if self.reach.is_out() { Ok(None) } else { Err(trouble) };
        }
        let begin = || async {
            let asked = Moment::now();
            let begun = self.ledger.begin(key, owner).await;
            lease.renewed(asked);
            begun
        };
        self.patiently("begin", begin).await
    }

    /// Repeats a call until it is answered, for ten seconds at most. Returns `None` if the ledger is out of reach.
    async fn patiently<T, F>(&self, call: &'static str, ask: impl Fn() -> F) -> Result<Option<T>, LedgerError>
    where
        F: Future<Output = Result<T, LedgerError>>,
    {
        let begun = Instant::now();
        loop {
            let answer = ask().await;
            self.reach.learn(call, &answer);
            match answer {
                Err(error) if error.may_pass() => {
                    if self.reach.is_out() {
                        return Ok(None);
                    }
                    if begun.elapsed() >= PATIENCE {
                        return Err(error);
                    }
                }
                answer => return answer.map(Some),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl LedgerError {
    /// Name of the kind of error, for spans.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lease_lost",
            Self::Throttled(_) => "throttled",
            Self::Unreadable(_) => "unreadable",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// Whether the same call may succeed soon.
    fn may_pass(&self) -> bool {
        match self {
            Self::Throttled(_) | Self::Unavailable(_) => true,
            Self::Lost(_) | Self::Unreadable(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
