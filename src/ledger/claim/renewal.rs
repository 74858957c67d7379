//! Renews the leases of claims that last. Most claims end within milliseconds, so a claim gets a task of its own only after
//! a sixth of its lease.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, Span};

use super::{Claim, OwnEntry, PAUSE};
use crate::ledger::{Ledger, LedgerError};

/// The young claims, and the task that looks after them.
#[derive(Debug)]
pub(super) struct Renewals<L> {
    /// How often a lease is renewed.
    every: Duration,
    young: Arc<Mutex<Young<L>>>,
    next: AtomicU64,
    /// Started with the first claim.
    keeper: OnceLock<AbortOnDropHandle<()>>,
}

type Young<L> = HashMap<u64, Member<L>>;

#[derive(Debug)]
struct Member<L> {
    claim: Weak<Claim<L>>,
    since: Instant,
    /// The span of the claim's caller.
    span: Span,
}

/// The place of a claim among the young ones, until it drops.
#[derive(Debug)]
pub(super) struct Membership<L> {
    young: Arc<Mutex<Young<L>>>,
    number: u64,
}

impl<L: Ledger> Renewals<L> {
    /// Renews every lease after each `every`.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, young: Arc::default(), next: AtomicU64::new(0), keeper: OnceLock::new() }
    }

    /// Renews the lease of a claim while the claim exists. `since` is the time at which the lease was taken.
    pub(super) fn add(&self, claim: &Weak<Claim<L>>, since: Instant) -> Membership<L> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let member = Member { claim: Weak::clone(claim), since, span: Span::current() };
        lock(&self.young).insert(number, member);
        self.keeper.get_or_init(|| {
            let keep = keep(Arc::clone(&self.young), self.every);
            AbortOnDropHandle::new(tokio::spawn(keep))
        });
        Membership { young: Arc::clone(&self.young), number }
    }
}

impl<L> Drop for Membership<L> {
    fn drop(&mut self) {
        lock(&self.young).remove(&self.number);
    }
}

fn lock<L>(young: &Mutex<Young<L>>) -> std::sync::MutexGuard<'_, Young<L>> {
    // No holder of the lock panics halfway.
    young.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each claim a task of its own before its first renewal is due.
async fn keep<L: Ledger>(young: Arc<Mutex<Young<L>>>, every: Duration) {
    loop {
        tokio::time::sleep(every / 4).await;
        let grown: Vec<_> =
            lock(&young).extract_if(|_, member| member.since.elapsed() >= every / 2).collect();
        for (_, Member { claim, since, span }) in grown {
            let Some(claim) = claim.upgrade() else { continue };
            let Some(entry) = &claim.entry else { continue };
            let renewal = renew(Arc::clone(entry), since + every, every);
            let renewal = AbortOnDropHandle::new(tokio::spawn(renewal.instrument(span)));
            *claim.renewal.lock().unwrap_or_else(PoisonError::into_inner) = Some(renewal);
        }
    }
}

/// Renews the lease until it is given back or lost, because a batch can take longer than the lease lasts.
async fn renew<L: Ledger>(entry: Arc<OwnEntry<L>>, first: Instant, every: Duration) {
    let mut next = first;
    loop {
        tokio::time::sleep_until(next).await;
        let pause = match entry.renew().await {
            Ok(()) => every,
            Err(LedgerError::Lost(_)) => return,
            Err(_) => PAUSE,
        };
        next = Instant::now() + pause;
    }
}
