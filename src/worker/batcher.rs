//! Gathers entries for single messages into batch calls.

use std::{future::Future, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::Instant,
};

use tracing::{Instrument, Span};

use crate::{
    queue::{MAX_BATCH, QueueError},
    trace,
};

/// Most batch calls that one batcher has in flight at once.
pub(super) const MAX_BATCHES: usize = 8;

/// Takes entries. A background task sends them in batch calls until the batcher drops.
#[derive(Debug)]
pub(super) struct Batcher<E> {
    sender: mpsc::UnboundedSender<Pending<E>>,
}

#[derive(Debug)]
struct Pending<E> {
    entry: E,
    /// The span of the caller.
    span: Span,
    answer: oneshot::Sender<Result<(), QueueError>>,
}

impl<E: Send + 'static> Batcher<E> {
    /// Starts the background task. `call` makes one batch call and answers entry by entry, in order. The first entry of a batch
    /// waits up to `linger` for others.
    pub(super) fn start<F>(linger: Duration, call: impl Fn(Vec<E>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Vec<Result<(), QueueError>>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(gather(receiver, linger, call));
        Self { sender }
    }

    /// Sends an entry in the next batch call and waits for its answer.
    ///
    /// # Errors
    /// The batch call's error for this entry.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the call: the entry is sent all the same.
    pub(super) async fn call(&self, entry: E) -> Result<(), QueueError> {
        let (answer, answered) = oneshot::channel();
        // If the background task has ended, `send` fails and drops `answer`, and the wait below ends with `unanswered`.
        let _ = self.sender.send(Pending { entry, span: Span::current(), answer });
        let unanswered =
            |_| Err(QueueError::Unavailable("the batch call ended without an answer".to_owned()));
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
        // The results are ignored: a call that panicked has dropped its senders, so each waiting caller gets an error.
        while calls.len() >= MAX_BATCHES {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        let span = trace::shared(batch.iter().map(|pending| &pending.span));
        let (entries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|Pending { entry, answer, .. }| (entry, answer)).unzip();
        let results = call(entries);
        let answered = async move {
            for (answer, result) in answers.into_iter().zip(results.await) {
                // Fails if the caller no longer waits.
                let _ = answer.send(result);
            }
        };
        calls.spawn(answered.instrument(span));
    }
    while calls.join_next().await.is_some() {}
}
