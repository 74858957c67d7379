//! Gathers single entries into batch calls, for the queue and the ledger.

use std::{collections::VecDeque, future::Future, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};
use tracing::{Instrument, Span};

use crate::trace;

/// Most batch calls that one batcher has in flight at once.
pub const MAX_BATCHES: usize = 8;

/// With [`Wait::Pace`], a batcher is busy if it has sent this many entries within [`BUSY_FOR`]. The number is a third of the
/// largest call to the ledger. With fewer entries, a wait would fill no call, and only delay messages.
const BUSY_ENTRIES: usize = 8;
/// See [`BUSY_ENTRIES`].
const BUSY_FOR: Duration = Duration::from_millis(20);

/// How long entries wait for others.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// The first entry of each call waits for others, up to this time.
    Linger(Duration),
    /// While the batcher is busy, entries wait until this time has passed since the last call, so that calls are full. Entries do
    /// not wait if that time has passed already, or if the batcher is not busy.
    Pace(Duration),
}

/// Takes entries, each with an answer of type `A`. A background task sends them in batch calls until the batcher drops.
#[derive(Debug)]
pub struct Batcher<E, A> {
    sender: mpsc::UnboundedSender<Pending<E, A>>,
}

#[derive(Debug)]
struct Pending<E, A> {
    entry: E,
    /// The span of the caller.
    span: Span,
    answer: oneshot::Sender<A>,
}

impl<E: Send + 'static, A: Send + 'static> Batcher<E, A> {
    /// Starts the background task. `call` makes one batch call with up to `most` entries. It returns one answer for each entry,
    /// in the order of the entries.
    pub fn start<F>(most: usize, wait: Wait, call: impl Fn(Vec<E>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(gather(receiver, most, wait, call));
        Self { sender }
    }

    /// Sends an entry in the next batch call and waits for its answer. `None` if there is no answer, because the call panicked or
    /// the runtime shuts down.
    ///
    /// # Cancel safety
    /// If the future is dropped before the batch call begins, the entry is not sent. If it is dropped later, the call goes on.
    pub async fn call(&self, entry: E) -> Option<A> {
        let (answer, answered) = oneshot::channel();
        // If the background task has ended, `send` fails and drops `answer`, and the wait below ends.
        let _ = self.sender.send(Pending { entry, span: Span::current(), answer });
        answered.await.ok()
    }
}

async fn gather<E: Send + 'static, A: Send + 'static, F>(
    mut receiver: mpsc::UnboundedReceiver<Pending<E, A>>,
    most: usize,
    wait: Wait,
    call: impl Fn(Vec<E>) -> F,
) where
    F: Future<Output = Vec<A>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    let mut last_call: Option<Instant> = None;
    let mut arrivals = Arrivals::default();
    while let Some(first) = receiver.recv().await {
        let deadline = match (wait, last_call) {
            (Wait::Linger(linger), _) => Instant::now() + linger,
            (Wait::Pace(pace), Some(last)) if arrivals.are_many() => last + pace,
            (Wait::Pace(_), _) => Instant::now(),
        };
        let mut batch = vec![first];
        if let Wait::Pace(_) = wait {
            // Tasks that are about to send an entry, such as those of messages received together, run first.
            tokio::task::yield_now().await;
        }
        while batch.len() < most {
            // An entry that is there already is taken even after the deadline. A timer would end up to a millisecond after it.
            let next = match receiver.try_recv() {
                Ok(pending) => Some(pending),
                Err(_) if deadline <= Instant::now() => None,
                Err(_) => tokio::time::timeout_at(deadline, receiver.recv()).await.ok().flatten(),
            };
            let Some(pending) = next else { break };
            batch.push(pending);
        }
        // The results are ignored: a call that panicked has dropped its senders, so each waiting caller gets no answer.
        while calls.len() >= MAX_BATCHES {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        batch.retain(|pending| !pending.answer.is_closed());
        if batch.is_empty() {
            continue;
        }
        last_call = Some(Instant::now());
        arrivals.add(batch.len());
        let span = trace::shared(batch.iter().map(|pending| &pending.span));
        let (entries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Pending { entry, answer, .. }| (entry, answer)).unzip();
        let results = call(entries).instrument(span);
        calls.spawn(async move {
            // The span ends before the callers go on: Lambda stops the process soon after the last of them.
            for (answer, result) in answers.into_iter().zip(results.await) {
                // Fails if the caller no longer waits.
                let _ = answer.send(result);
            }
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Times at which the last [`BUSY_ENTRIES`] entries were sent.
#[derive(Debug, Default)]
struct Arrivals(VecDeque<Instant>);

impl Arrivals {
    fn add(&mut self, entries: usize) {
        self.0.extend(std::iter::repeat_n(Instant::now(), entries.min(BUSY_ENTRIES)));
        while self.0.len() > BUSY_ENTRIES {
            self.0.pop_front();
        }
    }

    /// Whether the batcher is busy.
    fn are_many(&self) -> bool {
        self.0.len() == BUSY_ENTRIES && self.0.front().is_some_and(|first| first.elapsed() <= BUSY_FOR)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const PACE: Duration = Duration::from_millis(10);

    /// For each call its time in milliseconds, and the number of its entries.
    type Calls = Arc<Mutex<Vec<(u128, usize)>>>;

    /// A batcher that answers each entry by itself, and its calls.
    fn batcher(wait: Wait) -> (Arc<Batcher<u32, u32>>, Calls) {
        let calls = Calls::default();
        let (seen, began) = (Arc::clone(&calls), Instant::now());
        let batcher = Batcher::start(3, wait, move |entries: Vec<u32>| {
            seen.lock().expect("nobody panics").push((began.elapsed().as_millis(), entries.len()));
            async move { entries }
        });
        (Arc::new(batcher), calls)
    }

    async fn send(batcher: &Arc<Batcher<u32, u32>>, entries: std::ops::Range<u32>) {
        let calls = entries.map(|entry| {
            let batcher = Arc::clone(batcher);
            tokio::spawn(async move { assert_eq!(batcher.call(entry).await, Some(entry)) })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("the answer is the entry");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_call_lingers() {
        let (batcher, calls) = batcher(Wait::Linger(PACE));
        send(&batcher, 0..2).await;
        send(&batcher, 0..4).await;
        assert_eq!(*calls.lock().expect("nobody panics"), [(10, 2), (10, 3), (20, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_batcher_calls_at_once_and_a_busy_one_keeps_its_pace() {
        let (batcher, calls) = batcher(Wait::Pace(PACE));
        // Few entries do not wait, although they come soon after the last call.
        send(&batcher, 0..2).await;
        send(&batcher, 0..2).await;
        send(&batcher, 0..2).await;
        tokio::time::advance(PACE).await;
        send(&batcher, 0..2).await;
        // The batcher is busy now, and a full call need not wait.
        send(&batcher, 0..4).await;
        tokio::time::advance(PACE).await;
        send(&batcher, 0..1).await;
        tokio::time::advance(BUSY_FOR).await;
        send(&batcher, 0..1).await;
        send(&batcher, 0..1).await;
        let calls = calls.lock().expect("nobody panics");
        assert_eq!(*calls, [(0, 2), (0, 2), (0, 2), (10, 2), (10, 3), (20, 1), (30, 1), (50, 1), (50, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_nobody_waits_for_is_not_sent() {
        let (batcher, calls) = batcher(Wait::Linger(PACE));
        tokio::time::timeout(PACE / 2, batcher.call(1)).await.expect_err("the call lingers");
        tokio::time::advance(PACE).await;
        send(&batcher, 2..3).await;
        assert_eq!(calls.lock().expect("nobody panics").iter().map(|(_, len)| len).sum::<usize>(), 1);
    }
}
