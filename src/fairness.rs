//! Shares the worker's slots among tenants, so that a tenant with a backlog, or with a slow or throttled account, does not
//! take all of them.
//!
//! [`book`] contains the rule, without I/O; this module adds the clock, randomness and a lock. The pipeline asks for a
//! [`Pass`] before it reads an object. A refused message goes back to the queue with a delay, and holds no slot meanwhile.
//! The objects with a pass share the processor ([`cpu`]), because one object can take more processor time than a thousand
//! others.

pub mod book;
pub mod cpu;
mod slices;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use self::{
    book::{Book, Limits},
    cpu::{Cpu, Pace},
};

/// The shares of one worker. Clones share them.
#[derive(Clone, Debug)]
pub struct Shares {
    book: Arc<Mutex<Book>>,
    cpu: Cpu,
}

/// Permission to work on an object. Its units of a slot count as the tenant's until it is dropped.
#[derive(Debug)]
pub struct Pass {
    book: Arc<Mutex<Book>>,
    cpu: Cpu,
    tenant_id: Arc<str>,
    bytes: u64,
    units: AtomicU32,
    since: Instant,
}

impl Shares {
    /// Starts with no object in flight. `threads` slices of the processor run at once.
    pub fn new(limits: Limits, threads: usize) -> Self {
        Self { book: Arc::new(Mutex::new(Book::new(limits))), cpu: Cpu::new(threads) }
    }

    /// Admits an object of `bytes` stored bytes that takes `units` units of a slot, if its tenant's share allows it.
    ///
    /// # Errors
    /// The tenant's share is used up. The error is the time until the object's turn.
    pub fn enter(&self, tenant_id: &str, bytes: u64, units: u32) -> Result<Pass, Duration> {
        let since = now();
        lock(&self.book).enter(tenant_id, bytes, units, since, fastrand::f64())?;
        Ok(self.pass(tenant_id, bytes, units, since))
    }

    /// Admits an object regardless of its tenant's share. Meant for a message of which another object is delivered already:
    /// if the message went back to the queue, that object might be delivered again.
    pub fn enter_anyway(&self, tenant_id: &str, bytes: u64, units: u32) -> Pass {
        let since = now();
        lock(&self.book).enter_anyway(tenant_id, bytes, units, since);
        self.pass(tenant_id, bytes, units, since)
    }

    fn pass(&self, tenant_id: &str, bytes: u64, units: u32, since: Instant) -> Pass {
        let (book, cpu) = (Arc::clone(&self.book), self.cpu.clone());
        Pass { book, cpu, tenant_id: tenant_id.into(), bytes, units: AtomicU32::new(units), since }
    }
}

impl Pass {
    /// The tenant that holds the slot.
    pub fn tenant_id(&self) -> &Arc<str> {
        &self.tenant_id
    }

    /// Counts the object with `units` units from now on, because it needs more than it was admitted with.
    pub fn grow_to(&self, units: u32) {
        let before = self.units.swap(units, Ordering::Relaxed);
        lock(&self.book).grow(&self.tenant_id, units.saturating_sub(before));
    }

    /// Runs work that keeps a thread busy, in the tenant's share of the processor. See [`Cpu::share`].
    ///
    /// # Cancel safety
    /// As safe as `work`.
    pub async fn in_slices<F: Future>(&self, work: impl FnOnce(Pace) -> F) -> F::Output {
        self.cpu.share(&self.tenant_id, work).await
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let units = *self.units.get_mut();
        lock(&self.book).leave(&self.tenant_id, self.bytes, units, self.since, now());
    }
}

/// Tokio's clock, so that tests can advance it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // No method of the book panics halfway, so its counts are right even after a panic elsewhere.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::UNITS;

    #[tokio::test(start_paused = true)]
    async fn a_pass_counts_until_it_drops() {
        let limits =
            Limits { slots: 4, max_objects: Some(2), max_bytes: None, longest_wait: Duration::from_secs(60) };
        let shares = Shares::new(limits, 1);
        let first = shares.enter("acme", 1, UNITS).expect("nothing is in flight");
        let second = shares.enter("acme", 1, UNITS).expect("two are allowed");
        shares.enter("acme", 1, UNITS).expect_err("three are not");
        let third = shares.enter_anyway("acme", 1, UNITS);
        drop(first);
        shares.enter("acme", 1, UNITS).expect_err("two are in flight");
        tokio::time::advance(Duration::from_secs(2)).await;
        drop((second, third));
        drop(shares.enter("acme", 1, UNITS).expect("none is in flight"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_grows_counts_with_its_new_size() {
        let longest_wait = Duration::from_secs(60);
        let shares = Shares::new(Limits { slots: 2, max_objects: None, max_bytes: None, longest_wait }, 1);
        drop(shares.enter("other", 1, 1).expect("nothing is in flight"));
        let small = shares.enter("acme", 1, 1).expect("nothing is in flight");
        drop(shares.enter("acme", 1, 1).expect("14 units are free, and the tenant holds one"));
        small.grow_to(UNITS);
        shares.enter("acme", 1, 1).expect_err("the tenant holds half of the units");
        drop(small);
        drop(shares.enter("acme", 1, 1).expect("nothing is in flight"));
    }
}
