//! Gathers calls for one message each into calls for several.

use std::{future::Future, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use crate::queue::{MAX_BATCH, QueueError};

/// Batches on their way at once.
pub(super) const MAX_BATCHES: usize = 8;

/// Takes entries; a background task makes calls of them, until this drops.
#[derive(Debug)]
pub(super) struct Batcher<E> {
    sender: mpsc::UnboundedSender<Pending<E>>,
}

#[derive(Debug)]
struct Pending<E> {
    entry: E,
    answer: oneshot::Sender<Result<(), QueueError>>,
}

impl<E: Send + 'static> Batcher<E> {
    /// Starts with a call that answers entry by entry, in order; the first entry of a batch waits that long for others.
    pub(super) fn start<F>(linger: Duration, call: impl Fn(Vec<E>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<Result<(), QueueError>>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(gather(receiver, linger, call));
        Self { sender }
    }

    /// Has an entry called for, together with others that come within a moment.
    ///
    /// # Errors
    /// The call's, for this entry.
    ///
    /// # Cancel safety
    /// Safe in that nothing is left half done: the call goes out all the same.
    pub(super) async fn call(&self, entry: E) -> Result<(), QueueError> {
        let (answer, answered) = oneshot::channel();
        // If the task is gone, so is the sender in what comes back, and nothing is answered.
        let _ = self.sender.send(Pending { entry, answer });
        let unanswered = |_| Err(QueueError::Unavailable("the call ended without an answer".to_owned()));
        answered.await.unwrap_or_else(unanswered)
    }
}

async fn gather<E: Send + 'static, F>(
    mut receiver: mpsc::UnboundedReceiver<Pending<E>>,
    linger: Duration,
    call: impl Fn(Vec<E>) -> F,
) where
    F: Future<Output = Vec<Result<(), QueueError>>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    while let Some(first) = receiver.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + linger;
        while batch.len() < MAX_BATCH {
            match tokio::time::timeout_at(deadline, receiver.recv()).await {
                Ok(Some(pending)) => batch.push(pending),
                Ok(None) | Err(_) => break,
            }
        }
        // A panic in a call is told to those who wait for it.
        while calls.len() >= MAX_BATCHES {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        let (entries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Pending { entry, answer }| (entry, answer)).unzip();
        let results = call(entries);
        calls.spawn(async move {
            for (answer, result) in answers.into_iter().zip(results.await) {
                // Whoever asked may be gone.
                let _ = answer.send(result);
            }
        });
    }
    while calls.join_next().await.is_some() {}
}
