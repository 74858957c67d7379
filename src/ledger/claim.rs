//! What a delivery holds while it works on an object: its entry in the ledger, and the lease on it.
//!
//! Nothing is put without a lease that runs. A ledger that throttles, or does not answer for a moment, is asked again for as
//! long as the lease runs; then the delivery stops, and its message waits. Only while the ledger is out of reach (`Reach`)
//! do deliveries go on without it, at least once, and a metric says so.

mod reach;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

pub use self::reach::Metrics;
use self::reach::Reach;
use super::{
    Begun, EntryKey, Ledger, LedgerError, Position, Progress,
    lease::{Lease, Moment},
};
use crate::event::ObjectRef;

/// How long a question outside of a lease's end is asked again, while a slot waits for the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a question is asked again; the SDK's own attempts, with their backoff, are behind each.
const PAUSE: Duration = Duration::from_millis(500);

/// What a claim needs to know of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct ClaimSettings {
    /// How long a lease lasts unless it is renewed.
    pub lease: Duration,
    /// How long the ledger must not have answered before deliveries go on without it.
    pub out_of_reach_after: Duration,
}

/// Hands out claims. Clones share the ledger, and what is known of it.
#[derive(Debug)]
pub struct Claims<L> {
    /// None: the ledger is off.
    ledger: Option<Arc<Guarded<L>>>,
    lease: Duration,
}

impl<L> Clone for Claims<L> {
    fn clone(&self) -> Self {
        Self { ledger: self.ledger.clone(), lease: self.lease }
    }
}

/// What came of asking for a claim.
#[derive(Debug)]
pub enum Claimed<L> {
    /// Go on from [`Claim::from`].
    Ours(Arc<Claim<L>>),
    /// Every record is accounted for.
    Done,
    /// Another is at it: it may be taken after that long, unless the other renews its lease.
    Busy(Duration),
}

/// One delivery's hold on one object. While it lives, its lease is renewed; dropped without an end, its lease runs out.
#[derive(Debug)]
pub struct Claim<L> {
    from: Progress,
    lease: Lease,
    /// None: the ledger is off, or the object cannot be told from another under its key.
    entry: Option<Arc<OwnEntry<L>>>,
    _renewal: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct OwnEntry<L> {
    ledger: Arc<Guarded<L>>,
    key: EntryKey,
    owner: String,
    lease: Lease,
    /// One call at a time.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What the entry says, as far as we told it: a renewal says it again.
    progress: Progress,
    /// The lease was given back: a renewal must not take it again.
    ended: bool,
}

/// The ledger, and whether it answers.
#[derive(Debug)]
struct Guarded<L> {
    ledger: L,
    reach: Reach,
}

impl<L: Ledger> Claims<L> {
    /// Claims in `ledger`; without a ledger, every claim is granted from the start.
    pub fn new(ledger: Option<L>, settings: ClaimSettings, metrics: Metrics) -> Self {
        let ClaimSettings { lease, out_of_reach_after } = settings;
        let guarded = |ledger| Arc::new(Guarded { ledger, reach: Reach::new(out_of_reach_after, metrics) });
        Self { ledger: ledger.map(guarded), lease }
    }

    /// Claims an object for a delivery. A ledger that does not answer is asked again for some seconds, unless others found a
    /// moment ago that it does not.
    ///
    /// # Errors
    /// The ledger did not answer, and is not out of reach yet; or the entry cannot be read. The message must wait: to begin at
    /// the start could repeat everything.
    ///
    /// # Cancel safety
    /// Dropped half-way, it may leave a lease that runs out by itself.
    pub async fn claim(&self, object: &ObjectRef, delivery: &str) -> Result<Claimed<L>, LedgerError> {
        let unguarded = || {
            Ok(Claimed::Ours(Arc::new(Claim {
                from: Progress::default(),
                lease: Lease::unlimited(),
                entry: None,
                _renewal: None,
            })))
        };
        let Some(ledger) = &self.ledger else { return unguarded() };
        let Some(key) = EntryKey::of(object, delivery) else { return unguarded() };
        let owner = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let lease = Lease::of(self.lease);
        let from = match ledger.begin_patiently(&key, &owner, &lease).await? {
            Some(Begun::Done) => return Ok(Claimed::Done),
            Some(Begun::Busy(left)) => return Ok(Claimed::Busy(left)),
            Some(Begun::Ours(from)) => from,
            // Out of reach: from the start, then. A later checkpoint may find the ledger again.
            None => Progress::default(),
        };
        let state = tokio::sync::Mutex::new(State { progress: from.clone(), ended: false });
        let ledger = Arc::clone(ledger);
        let entry = Arc::new(OwnEntry { ledger, key, owner, lease: lease.clone(), state });
        let renewal = tokio::spawn(renew(Arc::clone(&entry), self.lease / 3));
        let _renewal = Some(AbortOnDropHandle::new(renewal));
        Ok(Claimed::Ours(Arc::new(Claim { from, lease, entry: Some(entry), _renewal })))
    }

    /// Asks whether the ledger can be used; without a ledger there is nothing to ask.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let answer = ledger.ledger.probe().await;
        ledger.reach.learn("probe", &answer);
        answer
    }
}

/// Keeps the lease while a batch takes longer than it: until it is given back or lost.
async fn renew<L: Ledger>(entry: Arc<OwnEntry<L>>, every: Duration) {
    let mut pause = every;
    loop {
        tokio::time::sleep(pause).await;
        pause = match entry.renew().await {
            Ok(()) => every,
            Err(LedgerError::Lost(_)) => return,
            Err(_) => PAUSE,
        };
    }
}

impl<L: Ledger> Claim<L> {
    /// Where to go on.
    pub fn from(&self) -> &Progress {
        &self.from
    }

    /// Whether there is a ledger that remembers what is recorded.
    pub fn is_recorded(&self) -> bool {
        self.entry.is_some()
    }

    /// Sees to it that the lease runs, before something is done that only its holder may do. Asks the ledger only if the lease
    /// is about to end, or has ended: after a pause of the process.
    ///
    /// # Errors
    /// Another has the object, or the lease cannot be renewed: nothing may be done.
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

    /// Records progress and renews the lease; asks again for as long as the lease runs.
    ///
    /// # Errors
    /// Another has the object, or nothing could be recorded before the lease ended.
    ///
    /// # Cancel safety
    /// Safe: the progress is recorded or not.
    pub async fn checkpoint(&self, progress: &Progress) -> Result<(), LedgerError> {
        let Some(entry) = &self.entry else { return Ok(()) };
        loop {
            match entry.record("checkpoint", progress.clone()).await {
                Err(error) if error.may_pass() && self.lease.check().is_ok() => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Records progress and gives the lease back.
    pub async fn release(&self, progress: &Progress) {
        // Recorded or not, the lease is not ours any more.
        let _ = self.end("release", |ledger, key, owner| ledger.release(key, owner, progress)).await;
    }

    /// Forgets all progress and gives the lease back: the next attempt begins at the start.
    pub async fn restart(&self) {
        let _ = self.end("restart", |ledger, key, owner| ledger.restart(key, owner)).await;
    }

    /// Records that every record is accounted for. If the ledger does not answer, it learns nothing: there is nothing left
    /// to be done, and only a second notification of the object could repeat what was not recorded.
    ///
    /// # Errors
    /// The lease was another's by then, who may have put the same records.
    pub async fn finish(&self, position: Position) -> Result<(), LedgerError> {
        match self.end("finish", |ledger, key, owner| ledger.finish(key, owner, position)).await {
            Err(error @ LedgerError::Lost(_)) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The last call of a claim; asks again for some seconds.
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
        ledger.patiently(call, || ask(&ledger.ledger, key, owner)).await.map(drop)
    }
}

impl<L: Ledger> OwnEntry<L> {
    async fn renew(&self) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        let progress = state.progress.clone();
        self.tell("renew", &mut state, progress).await
    }

    async fn record(&self, call: &'static str, progress: Progress) -> Result<(), LedgerError> {
        let mut state = self.state.lock().await;
        self.tell(call, &mut state, progress).await
    }

    /// One call. Without the ledger, while it is out of reach, the lease counts as renewed.
    async fn tell(
        &self,
        call: &'static str,
        state: &mut State,
        progress: Progress,
    ) -> Result<(), LedgerError> {
        if state.ended {
            return Err(LedgerError::Lost(self.key.object.clone()));
        }
        // Before the call is sent: the ledger counts from when it arrives.
        let asked = Moment::now();
        let answer = self.ledger.ledger.checkpoint(&self.key, &self.owner, &progress).await;
        self.ledger.reach.learn(call, &answer);
        // Recorded perhaps although no answer came; to say the same again is harmless.
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
    /// None: it is out of reach.
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

    /// Asks until there is an answer, for some seconds. None: it is out of reach.
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
    /// Whether the same call may go well soon.
    fn may_pass(&self) -> bool {
        match self {
            Self::Throttled(_) | Self::Unavailable(_) => true,
            Self::Lost(_) | Self::Unreadable(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
