//! Carries verdicts out on the queue, gathered into batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::lease::Lease;
use crate::{
    metrics::{Call, Metrics, Reason, Verdict as VerdictLabel},
    queue::{DeadLetter, MAX_BATCH, Message, Queue, QueueError, Receipt},
    verdict::{Poison, Verdict},
};

/// How long the first of a batch waits for others.
const LINGER: Duration = Duration::from_millis(50);
/// Times that an entry which SQS did not take is sent again, a [`LINGER`] apart. The SDK retries whole calls, not entries.
const ENTRY_ATTEMPTS: u32 = 3;
/// Batches on their way at once: a dead letter that the queue is slow to take must not hold up everybody's acknowledgements.
const MAX_BATCHES: usize = 8;

/// A message with its verdict, still leased until the verdict is carried out.
#[derive(Debug)]
pub struct Settlement {
    /// The message.
    pub message: Arc<Message>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Keeps it hidden.
    pub lease: Lease,
}

/// Takes verdicts; a background task carries them out.
#[derive(Debug)]
pub struct Settler {
    sender: mpsc::UnboundedSender<Settlement>,
    backlog: Arc<AtomicUsize>,
    /// SQS counts delays in seconds: what is odd about one is waited for here, in no slot. Rounded up, messages that were
    /// refused together would come again together.
    odd: TaskTracker,
    finishing: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts carrying out verdicts on `queue`.
pub fn start<Q: Queue>(queue: Arc<Q>, metrics: Metrics) -> Settler {
    let (sender, receiver) = mpsc::unbounded_channel();
    let backlog = Arc::<AtomicUsize>::default();
    let task = tokio::spawn(settle_all(queue, receiver, Arc::clone(&backlog), metrics));
    Settler { sender, backlog, odd: TaskTracker::new(), finishing: CancellationToken::new(), task }
}

impl Settler {
    /// Hands a verdict over.
    pub fn settle(&self, settlement: Settlement) {
        let (backlog, sender) = (Arc::clone(&self.backlog), self.sender.clone());
        let send = move |settlement| {
            backlog.fetch_add(1, Ordering::Relaxed);
            // It only fails when the task is gone, and the task only goes when this is dropped.
            let _ = sender.send(settlement);
        };
        match settlement.verdict {
            Verdict::RetryAfter(delay) if delay.subsec_nanos() > 0 => {
                let seconds = Duration::from_secs(delay.as_secs());
                let finishing = self.finishing.clone();
                self.odd.spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(delay - seconds) => {
                            send(Settlement { verdict: Verdict::RetryAfter(seconds), ..settlement });
                        }
                        () = finishing.cancelled() => send(settlement),
                    }
                });
            }
            _ => send(settlement),
        }
    }

    /// Verdicts that the queue has not taken yet.
    pub fn backlog(&self) -> usize {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Waits until every verdict is carried out.
    pub async fn finish(self) {
        self.finishing.cancel();
        self.odd.close();
        self.odd.wait().await;
        drop(self.sender);
        if let Err(error) = self.task.await {
            tracing::error!(error = %error, "verdicts were lost; their messages come again");
        }
    }
}

async fn settle_all<Q: Queue>(
    queue: Arc<Q>,
    mut receiver: mpsc::UnboundedReceiver<Settlement>,
    backlog: Arc<AtomicUsize>,
    metrics: Metrics,
) {
    let mut batches = JoinSet::new();
    while let Some(first) = receiver.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + LINGER;
        while batch.len() < MAX_BATCH {
            match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(settlement)) => batch.push(settlement),
                Ok(None) | Err(_) => break,
            }
        }
        while batches.len() >= MAX_BATCHES {
            ended(batches.join_next().await);
        }
        while let Some(batch) = batches.try_join_next() {
            ended(Some(batch));
        }
        let (queue, backlog, metrics) = (Arc::clone(&queue), Arc::clone(&backlog), metrics.clone());
        batches.spawn(async move {
            let count = batch.len();
            settle(&*queue, batch, &metrics).await;
            backlog.fetch_sub(count, Ordering::Relaxed);
        });
    }
    while let Some(batch) = batches.join_next().await {
        ended(Some(batch));
    }
}

fn ended(batch: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = batch {
        tracing::error!(error = %error, "verdicts were lost; their messages come again");
    }
}

async fn settle<Q: Queue>(queue: &Q, batch: Vec<Settlement>, metrics: &Metrics) {
    let count = |verdict| metrics.messages.get_or_create(&VerdictLabel::new(verdict)).inc();
    let (mut deletions, mut delays) = (Vec::new(), Vec::new());
    for Settlement { message, verdict, lease } in batch {
        match verdict {
            Verdict::Ack => {
                count("ack");
                deletions.push((message.receipt.clone(), lease));
            }
            Verdict::RetryAfter(delay) => {
                count("retry");
                // Not extended any more, or an extension could overtake the delay.
                lease.end().await;
                delays.push((message.receipt.clone(), delay));
            }
            Verdict::Poison(poison) => {
                count("poison");
                let otherwise = poison.otherwise;
                if bury(queue, &message, poison, metrics).await {
                    deletions.push((message.receipt.clone(), lease));
                } else {
                    lease.end().await;
                    delays.push((message.receipt.clone(), otherwise));
                }
            }
        }
    }
    delete(queue, deletions, metrics).await;
    hide(queue, delays, metrics).await;
}

/// Sends a dead letter. True when the message itself can go: the letter is safe.
async fn bury<Q: Queue>(queue: &Q, message: &Message, poison: Poison, metrics: &Metrics) -> bool {
    if !queue.has_dead_letters() {
        // The queue's redrive policy takes it after its receives are used up; until then it comes again.
        tracing::warn!(
            message.id,
            reason = poison.reason,
            "poison, and no dead-letter queue configured: left to the queue's redrive policy"
        );
        return false;
    }
    let mut attributes = vec![("reason", poison.reason.to_owned())];
    attributes.extend(poison.attributes);
    let letter = DeadLetter { body: message.body.clone(), attributes };
    match queue.send_dead_letter(&letter).await {
        Ok(()) => {
            metrics.dead_letters.get_or_create(&Reason::new(poison.reason)).inc();
            true
        }
        Err(error) => {
            failed(
                metrics,
                "send_dead_letter",
                &error,
                "a dead letter could not be sent; the message comes again",
            );
            false
        }
    }
}

async fn delete<Q: Queue>(queue: &Q, mut entries: Vec<(Receipt, Lease)>, metrics: &Metrics) {
    for attempt in 1..=ENTRY_ATTEMPTS {
        if entries.is_empty() {
            return;
        }
        let receipts: Vec<_> = entries.iter().map(|(receipt, _)| receipt.clone()).collect();
        let results = queue.delete(&receipts).await;
        let mut left = Vec::new();
        for (entry, result) in entries.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                Err(QueueError::Unavailable(_)) if attempt < ENTRY_ATTEMPTS => left.push(entry),
                Err(error) => failed(
                    metrics,
                    "delete",
                    &error,
                    "a finished message could not be deleted; it comes again",
                ),
            }
        }
        entries = left;
        if !entries.is_empty() {
            tokio::time::sleep(LINGER).await;
        }
    }
}

async fn hide<Q: Queue>(queue: &Q, entries: Vec<(Receipt, Duration)>, metrics: &Metrics) {
    if entries.is_empty() {
        return;
    }
    for error in queue.change_visibility(&entries).await.into_iter().filter_map(Result::err) {
        failed(
            metrics,
            "change_visibility",
            &error,
            "a message's retry could not be delayed; it returns when its visibility ends",
        );
    }
}

fn failed(metrics: &Metrics, call: &'static str, error: &QueueError, consequence: &str) {
    metrics.queue_errors.get_or_create(&Call::new(call)).inc();
    tracing::warn!(call, error = %error, "{consequence}");
}
