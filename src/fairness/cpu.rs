//! Shares the processor among tenants, and keeps it free for what must not wait.
//!
//! The runtime's threads do everything: they read objects, and they renew leases, write the ledger, answer health checks and
//! notice SIGTERM. Reading what never waits for anything, such as gigabytes of empty messages, would keep a thread for as
//! long as it lasts. So reading runs in slices: [`Pace`] ends one after some work, and a slice begins when `Slices` says so.
//! Between two slices a thread does whatever else is due, because who waited for a slice stands behind that.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use super::slices::{Slices, Waiting};

/// Bytes of work after which reading pauses: well under a millisecond of inflating and scanning in the usual case, some
/// milliseconds in the worst.
const SLICE: usize = 256 << 10;
/// Work on more bytes than that is not done beside a thread's other tasks.
const LONG: usize = 1 << 20;

/// The processor's slices; clones share them.
#[derive(Clone, Debug)]
pub struct Cpu {
    slices: Arc<Mutex<Slices<oneshot::Sender<Slice>>>>,
}

impl Cpu {
    /// `at_once` slices run side by side: as many as the runtime has threads.
    pub fn new(at_once: usize) -> Self {
        Self { slices: Arc::new(Mutex::new(Slices::new(at_once))) }
    }

    /// Does a tenant's work in slices of the tenant's: one lasts until the work waits for something, or until its [`Pace`] ends
    /// it. While the work waits for something it holds none.
    ///
    /// # Cancel safety
    /// As safe as `work`. A slice that was given to what is dropped goes to the next one.
    pub async fn share<F: Future>(&self, tenant_id: &Arc<str>, work: impl FnOnce(Pace) -> F) -> F::Output {
        let goes_on: Arc<AtomicBool> = Arc::default();
        let mut work = pin!(work(Pace { goes_on: Arc::clone(&goes_on), done: 0 }));
        let mut slice = self.begin(tenant_id).await;
        loop {
            let polled = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            if let Poll::Ready(output) = polled {
                return output;
            }
            slice = if goes_on.swap(false, Ordering::Relaxed) {
                slice.then_another().await
            } else {
                drop(slice);
                next_poll().await;
                self.begin(tenant_id).await
            };
        }
    }

    async fn begin(&self, tenant_id: &Arc<str>) -> Slice {
        let (sender, waits) = oneshot::channel();
        let begun = self.lock().begin(tenant_id, sender);
        match begun {
            Ok(()) => {
                Slice { cpu: self.clone(), tenant_id: Arc::clone(tenant_id), since: Some(Instant::now()) }
            }
            Err(Waiting) => given(waits).await,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slices<oneshot::Sender<Slice>>> {
        // Its counts are right again after each of its methods, and none of them calls out.
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run; it ends when it drops.
#[derive(Debug)]
struct Slice {
    cpu: Cpu,
    tenant_id: Arc<str>,
    /// The processor's own time, not Tokio's: what it is for is what it costs. None: not begun yet.
    since: Option<Instant>,
}

/// Waits for a slice.
async fn given(slice: oneshot::Receiver<Slice>) -> Slice {
    let mut slice = slice.await.expect("whoever has a slice passes it on");
    // Everything else that is due goes first, what has arrived from the network included.
    tokio::task::yield_now().await;
    slice.since = Some(Instant::now());
    slice
}

impl Slice {
    /// Ends it and waits for the next one.
    async fn then_another(self) -> Self {
        // Queued before this one ends, or whoever happens to come first would be the next.
        let (sender, waits) = oneshot::channel();
        self.cpu.lock().queue(&self.tenant_id, sender);
        drop(self);
        given(waits).await
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let took = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let mut next = self.cpu.lock().end(&self.tenant_id, took);
        while let Some((tenant_id, waiter)) = next.take() {
            if waiter.is_closed() {
                next = self.cpu.lock().end(&tenant_id, Duration::ZERO);
            } else {
                // If it is gone by now, the slice comes back, and passes on as it drops.
                drop(waiter.send(Slice { cpu: self.cpu.clone(), tenant_id, since: None }));
            }
        }
    }
}

/// Waits until it is polled again, for which somebody else has to see.
async fn next_poll() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Ends the slices of work that does not wait for anything. An order to stop is seen in between.
#[derive(Debug)]
pub struct Pace {
    /// The work paused by itself, and would go on.
    goes_on: Arc<AtomicBool>,
    done: usize,
}

impl Pace {
    /// Tells that about so many bytes were worked on.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn did(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes);
        if self.done >= SLICE {
            self.done = 0;
            self.goes_on.store(true, Ordering::Relaxed);
            next_poll().await;
        }
    }
}

/// Does work on so many bytes that cannot pause, such as parsing one record. If they are many, the thread's other tasks go on
/// in another thread meanwhile.
pub fn without_pause<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LONG && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::task::JoinSet;

    use super::*;

    /// Keeps the thread for a moment, `slices` times.
    async fn burn(mut pace: Pace, slices: usize, did: Arc<AtomicUsize>) {
        for _ in 0..slices {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(200) {}
            did.fetch_add(1, Ordering::Relaxed);
            pace.did(SLICE).await;
        }
    }

    #[tokio::test]
    async fn a_tenant_with_many_tasks_does_not_hold_up_one_with_few() {
        let cpu = Cpu::new(1);
        let (greedy, modest): (Arc<str>, Arc<str>) = ("greedy".into(), "modest".into());
        let did: Arc<AtomicUsize> = Arc::default();
        let mut tasks = JoinSet::new();
        for _ in 0..96 {
            let (cpu, greedy, did) = (cpu.clone(), Arc::clone(&greedy), Arc::clone(&did));
            tasks.spawn(async move { cpu.share(&greedy, |pace| burn(pace, 100, did)).await });
        }
        while did.load(Ordering::Relaxed) < 50 {
            tokio::task::yield_now().await;
        }
        let before = did.load(Ordering::Relaxed);
        cpu.share(&modest, |pace| burn(pace, 20, Arc::default())).await;
        let meanwhile = did.load(Ordering::Relaxed) - before;
        // In turns by task it would be 1,920. Where the system takes the processor away in a slice, that slice counts as long.
        assert!(meanwhile <= 480, "{meanwhile} slices of the others beside 20");
        tasks.shutdown().await;
    }

    #[tokio::test]
    async fn what_is_dropped_gives_its_slice_back() {
        let cpu = Cpu::new(2);
        let tenant_id: Arc<str> = "acme".into();
        for round in 0..200 {
            let mut tasks = JoinSet::new();
            for _ in 0..20 {
                let (cpu, tenant_id) = (cpu.clone(), Arc::clone(&tenant_id));
                tasks.spawn(async move { cpu.share(&tenant_id, |pace| burn(pace, 3, Arc::default())).await });
            }
            for _ in 0..round % 20 {
                tokio::task::yield_now().await;
            }
            tasks.shutdown().await;
        }
        let both = (cpu.begin(&tenant_id).await, cpu.begin(&tenant_id).await);
        assert!(cpu.lock().begin(&tenant_id, oneshot::channel().0).is_err(), "two there are, {both:?}");
    }

    #[tokio::test]
    async fn who_waits_holds_none() {
        let cpu = Cpu::new(1);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (sender, receiver) = oneshot::channel::<()>();
        let waits = tokio::spawn({
            let cpu = cpu.clone();
            async move { cpu.share(&one, |_| receiver).await }
        });
        tokio::task::yield_now().await;
        cpu.share(&other, |_| async {}).await;
        sender.send(()).expect("it waits");
        waits.await.expect("no panic").expect("sent");
    }
}
