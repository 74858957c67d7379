//! Shares the processor among tenants, and keeps it free for tasks that must not wait.
//!
//! The same threads read objects, renew leases, write the ledger, answer health checks and notice SIGTERM. An object that
//! can be read without waiting for the network, such as gigabytes of empty messages, would keep a thread busy until its end.
//! So reading runs in slices: [`Pace`] ends a slice after a millisecond, and `Slices` decides whose slice is next. Between
//! two slices, a thread runs its other tasks.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use super::slices::Slices;

/// Bytes of work between two looks at the clock. Inflating and scanning so many bytes usually takes a tenth of a millisecond,
/// and some milliseconds in the worst case.
const LOOK: usize = 256 << 10;
/// Length of a slice. A pause costs some microseconds.
const SLICE: Duration = Duration::from_millis(1);
/// How long one object goes on, slice after slice, while other objects of the same tenant wait. A change of objects costs
/// time, because the processor's caches have to load the other object's buffers.
const TURN: Duration = Duration::from_millis(10);
/// Work without a pause on more bytes than this moves the thread's other tasks to another thread.
const LONG: usize = 1 << 20;

/// The processor's slices. Clones share them.
#[derive(Clone, Debug)]
pub struct Cpu {
    slices: Arc<Mutex<Slices<oneshot::Sender<Slice>>>>,
}

impl Cpu {
    /// Lets `at_once` slices run at once: as many as the runtime has threads.
    pub fn new(at_once: usize) -> Self {
        Self { slices: Arc::new(Mutex::new(Slices::new(at_once))) }
    }

    /// Runs a tenant's work in slices, which the work's [`Pace`] ends. While the work waits for something else, it holds no
    /// slice; it goes on with the rest of its slice afterwards.
    ///
    /// # Cancel safety
    /// As safe as `work`. A slice that is given to a dropped call goes to the next one that waits.
    pub async fn share<F: Future>(&self, tenant_id: &Arc<str>, work: impl FnOnce(Pace) -> F) -> F::Output {
        let watch: Arc<SliceState> = Arc::default();
        let mut work = pin!(work(Pace { watch: Arc::clone(&watch), done: 0 }));
        let mut slice = self.next_slice(tenant_id).await;
        let (mut slice_took, mut turn_took) = (Duration::ZERO, Duration::ZERO);
        loop {
            let began = watch.start(SLICE.saturating_sub(slice_took));
            let polled = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await;
            let took = began.elapsed();
            slice.took += took;
            if let Poll::Ready(output) = polled {
                return output;
            }
            slice_took += took;
            turn_took += took;
            if watch.rang() {
                slice_took = Duration::ZERO;
                let waits = slice.make_way(turn_took >= TURN);
                if let Some(waits) = waits {
                    turn_took = Duration::ZERO;
                    drop(slice);
                    slice = given(waits).await;
                }
                // The thread's other tasks run first, including those for which data has arrived from the network.
                tokio::task::yield_now().await;
            } else {
                drop(slice);
                next_poll().await;
                slice = if slice_took < SLICE {
                    self.resume(tenant_id)
                } else {
                    (slice_took, turn_took) = (Duration::ZERO, Duration::ZERO);
                    self.next_slice(tenant_id).await
                };
            }
        }
    }

    async fn next_slice(&self, tenant_id: &Arc<str>) -> Slice {
        let waits = {
            let mut slices = self.lock();
            if slices.try_start(tenant_id) {
                return self.slice(tenant_id);
            }
            queue(&mut slices, tenant_id)
        };
        given(waits).await
    }

    fn resume(&self, tenant_id: &Arc<str>) -> Slice {
        self.lock().resume(tenant_id);
        self.slice(tenant_id)
    }

    fn slice(&self, tenant_id: &Arc<str>) -> Slice {
        Slice { cpu: self.clone(), tenant_id: Arc::clone(tenant_id), took: Duration::ZERO }
    }

    fn lock(&self) -> MutexGuard<'_, Slices<oneshot::Sender<Slice>>> {
        // No method of `Slices` panics halfway, so its counts are right even after a panic elsewhere.
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permission to run, until it is dropped.
#[derive(Debug)]
struct Slice {
    cpu: Cpu,
    tenant_id: Arc<str>,
    /// Time that is not charged to the tenant yet. Measured by the real clock instead of Tokio's, which tests can stop.
    took: Duration,
}

fn queue(slices: &mut Slices<oneshot::Sender<Slice>>, tenant_id: &Arc<str>) -> oneshot::Receiver<Slice> {
    let (sender, waits) = oneshot::channel();
    slices.queue(tenant_id, sender);
    waits
}

/// Waits for a slice.
async fn given(slice: oneshot::Receiver<Slice>) -> Slice {
    slice.await.expect("a running slice calls the next one that waits")
}

impl Slice {
    /// Charges the tenant for the time so far, and queues if another task is next. The work queues before its slice ends;
    /// otherwise a task that arrives in between would be next.
    fn make_way(&mut self, turn_is_over: bool) -> Option<oneshot::Receiver<Self>> {
        let mut slices = self.cpu.lock();
        slices.took(&self.tenant_id, std::mem::take(&mut self.took));
        let goes_on = slices.goes_on(&self.tenant_id, turn_is_over);
        (!goes_on).then(|| queue(&mut slices, &self.tenant_id))
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let mut next = {
            let mut slices = self.cpu.lock();
            slices.took(&self.tenant_id, self.took);
            slices.end(&self.tenant_id)
        };
        while let Some((tenant_id, waiter)) = next.take() {
            if waiter.is_closed() {
                next = self.cpu.lock().end(&tenant_id);
            } else {
                // If the waiter has gone meanwhile, `send` returns the slice, and dropping the slice gives it to the next
                // waiter.
                drop(waiter.send(self.cpu.slice(&tenant_id)));
            }
        }
    }
}

/// Returns at the second poll. The caller must make sure that there is one.
async fn next_poll() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// Ends the slices of work that does not wait for anything else.
#[derive(Debug)]
pub struct Pace {
    watch: Arc<SliceState>,
    /// Bytes since the last look at the clock.
    done: usize,
}

impl Pace {
    /// Counts `bytes` as done. If it returns true, the slice is over, and the caller must call [`Pace::pause`].
    #[must_use]
    pub fn is_over(&mut self, bytes: usize) -> bool {
        self.done = self.done.saturating_add(bytes);
        if self.done < LOOK {
            return false;
        }
        self.done = 0;
        self.watch.rings()
    }

    /// Ends the slice and waits for the next one.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost.
    pub async fn pause(&mut self) {
        next_poll().await;
    }
}

/// State of the running slice, shared by [`Cpu::share`] and the work's [`Pace`].
#[derive(Debug, Default)]
struct SliceState(Mutex<Alarm>);

#[derive(Debug, Default)]
enum Alarm {
    #[default]
    Off,
    At(Instant),
    /// The slice is over, and the work waits for the next one.
    Rang,
}

impl SliceState {
    /// Starts a slice of this length. Returns when it began.
    fn start(&self, lasts: Duration) -> Instant {
        let now = Instant::now();
        *self.lock() = Alarm::At(now + lasts);
        now
    }

    /// Whether the slice is over.
    fn rings(&self) -> bool {
        let mut alarm = self.lock();
        let rings = matches!(*alarm, Alarm::At(at) if Instant::now() >= at);
        if rings {
            *alarm = Alarm::Rang;
        }
        rings
    }

    /// Whether the work paused because the slice was over.
    fn rang(&self) -> bool {
        matches!(std::mem::take(&mut *self.lock()), Alarm::Rang)
    }

    fn lock(&self) -> MutexGuard<'_, Alarm> {
        // Each statement leaves the alarm in a valid state, so it is right even after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does work on `bytes` bytes that cannot pause, such as parsing one record. If they are many, the thread's other tasks move
/// to another thread meanwhile.
pub fn without_pause<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes > LONG && Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::JoinSet;

    use super::*;

    /// Keeps the thread busy for `slices` slices.
    async fn burn(mut pace: Pace, slices: usize, did: Arc<AtomicUsize>) {
        for _ in 0..slices {
            let began = Instant::now();
            while began.elapsed() < SLICE {}
            did.fetch_add(1, Ordering::Relaxed);
            if pace.is_over(LOOK) {
                pace.pause().await;
            }
        }
    }

    #[tokio::test]
    async fn a_tenant_with_many_tasks_does_not_delay_a_tenant_with_one() {
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
        // It would be 1,920 if tasks took turns regardless of their tenant. If the system takes the processor away during a
        // slice, that slice counts as a long one.
        assert!(meanwhile <= 480, "the other tenant had {meanwhile} slices, this one 20");
        tasks.shutdown().await;
    }

    #[tokio::test]
    async fn dropped_work_gives_its_slice_back() {
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
        let both = (cpu.next_slice(&tenant_id).await, cpu.next_slice(&tenant_id).await);
        assert!(!cpu.lock().try_start(&tenant_id), "there are only two, {both:?}");
    }

    #[tokio::test]
    async fn waiting_work_holds_no_slice() {
        let cpu = Cpu::new(1);
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (sender, receiver) = oneshot::channel::<()>();
        let waits = tokio::spawn({
            let cpu = cpu.clone();
            async move { cpu.share(&one, |_| receiver).await }
        });
        tokio::task::yield_now().await;
        cpu.share(&other, |_| async {}).await;
        sender.send(()).expect("the receiver waits");
        waits.await.expect("the task does not panic").expect("the value was sent");
    }
}
