//! Shares the worker's slots among tenants, so that one with a backlog, or with a slow or throttled account, does not
//! take them all.
//!
//! The rule is in [`book`], which is pure; here it gets a clock, chance and a lock. The pipeline asks for a [`Pass`] before it
//! reads an object; what is refused goes back to the queue with a delay and holds no slot meanwhile. What passes shares the
//! processor ([`cpu`]), which slots say nothing of: one object can take more of it than a thousand others.

pub mod book;
pub mod cpu;
mod slices;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use self::{
    book::{Book, Limits},
    cpu::{Cpu, Pace},
};

/// The shares of one worker; clones share them.
#[derive(Clone, Debug)]
pub struct Shares {
    book: Arc<Mutex<Book>>,
    cpu: Cpu,
}

/// An object's right to be worked on; counts until it drops.
#[derive(Debug)]
pub struct Pass {
    book: Arc<Mutex<Book>>,
    cpu: Cpu,
    tenant_id: Arc<str>,
    bytes: u64,
    since: Instant,
}

impl Shares {
    /// Nothing is in flight yet; `threads` slices of the processor's run at once.
    pub fn new(limits: Limits, threads: usize) -> Self {
        Self { book: Arc::new(Mutex::new(Book::new(limits))), cpu: Cpu::new(threads) }
    }

    /// Lets an object of `bytes` stored bytes in, if its tenant's share allows it.
    ///
    /// # Errors
    /// The tenant holds what it may: the object's turn comes after that time.
    pub fn enter(&self, tenant_id: &str, bytes: u64) -> Result<Pass, Duration> {
        let since = now();
        lock(&self.book).enter(tenant_id, bytes, since, fastrand::f64())?;
        Ok(self.pass(tenant_id, bytes, since))
    }

    /// Lets an object in whatever its tenant holds: for a message that has had another object delivered already, and would
    /// deliver that again if it went back.
    pub fn enter_anyway(&self, tenant_id: &str, bytes: u64) -> Pass {
        let since = now();
        lock(&self.book).enter_anyway(tenant_id, bytes, since);
        self.pass(tenant_id, bytes, since)
    }

    fn pass(&self, tenant_id: &str, bytes: u64, since: Instant) -> Pass {
        let (book, cpu) = (Arc::clone(&self.book), self.cpu.clone());
        Pass { book, cpu, tenant_id: tenant_id.into(), bytes, since }
    }
}

impl Pass {
    /// Does what keeps a thread busy in the tenant's share of the processor. See [`Cpu::share`].
    ///
    /// # Cancel safety
    /// As safe as `work`.
    pub async fn in_slices<F: Future>(&self, work: impl FnOnce(Pace) -> F) -> F::Output {
        self.cpu.share(&self.tenant_id, work).await
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        lock(&self.book).leave(&self.tenant_id, self.bytes, self.since, now());
    }
}

/// Tokio's clock, so that tests can turn it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // Its counts are right again after each of its methods, and none of them calls out.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pass_counts_until_it_drops() {
        let limits =
            Limits { slots: 4, max_objects: Some(2), max_bytes: None, longest_wait: Duration::from_secs(60) };
        let shares = Shares::new(limits, 1);
        let first = shares.enter("acme", 1).expect("nothing is in flight");
        let second = shares.enter("acme", 1).expect("two may be");
        shares.enter("acme", 1).expect_err("three may not");
        let third = shares.enter_anyway("acme", 1);
        drop(first);
        shares.enter("acme", 1).expect_err("two are left");
        tokio::time::advance(Duration::from_secs(2)).await;
        drop((second, third));
        drop(shares.enter("acme", 1).expect("none is left"));
    }
}
