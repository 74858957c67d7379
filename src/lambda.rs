//! Handles the batches of messages that Lambda receives from the queue: the worker's pipeline without its loop.
//!
//! Lambda's event source mapping receives messages, hides them, and deletes those that the function does not report as
//! failed. So there is no lease and no delete here. A message that must wait is reported, and hidden for the delay of its
//! verdict if the queue is known ([`Waits`]). Poison goes to the dead-letter queue, and counts as handled.
//!
//! Time is short. Before the invocation's deadline the work on unfinished messages ends with a checkpoint in the ledger, and
//! the next invocation goes on from there. When [`Function::invoke`] returns, no work on a message is left running, because
//! Lambda freezes the process between invocations. (The early renewal of a session may be frozen half-way. It is harmless: the
//! next message that needs the session asks again.)

pub mod serve;

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use crate::{
    queue::{MAX_BATCH, Message, Queue},
    trace::{self, Messages},
    verdict::{Cause, Verdict},
    worker::settle::letter,
};

/// Most time before the deadline at which unfinished work is told to end: for the answer to the put on its way, the
/// checkpoint, letters and the last spans.
const LAST_CALLS: Duration = Duration::from_secs(5);

/// Last part of an invocation's time, in which Lambda takes the response.
const RESPONSE: Duration = Duration::from_millis(100);

/// Handles batches of messages.
#[derive(Debug)]
pub struct Function<Q, H> {
    /// Takes the dead letters, and hides messages that must wait. Nothing is received from it.
    pub queue: Arc<Q>,
    /// Judges one message. The token that it gets is cancelled before the deadline.
    pub handle: H,
    /// Most messages that are handled at once.
    pub concurrency: usize,
    /// When a reported message comes again.
    pub waits: Waits,
    /// Creates the spans of messages.
    pub spans: Messages,
}

/// When a message that the function reports as failed comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// After the delay of its verdict; at once if the time was up.
    OfVerdict,
    /// When the queue's visibility timeout ends.
    OfQueue,
}

/// The times of one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Unfinished work is told to end.
    pub stop: Instant,
    /// Work that has not ended is dropped.
    pub abort: Instant,
    /// Messages that must wait are no longer hidden. The time after that is for the last spans.
    pub hide: Instant,
    /// The response is sent at the latest.
    pub respond: Instant,
}

impl Times {
    /// For an invocation that begins now. A quarter of a short invocation's time is reserved for its end.
    pub fn until(deadline: Instant) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let reserve = LAST_CALLS.min(left / 4);
        Self {
            stop: deadline - reserve,
            abort: deadline - reserve / 2,
            hide: deadline - reserve / 4,
            respond: deadline - RESPONSE.min(reserve / 4),
        }
    }
}

/// What became of a message.
enum End {
    /// Lambda may delete the message.
    Handled,
    /// The message must come again after this delay.
    Again(Duration),
}

impl<Q, H, F> Function<Q, H>
where
    Q: Queue,
    H: Fn(Arc<Message>, CancellationToken) -> F,
    F: Future<Output = Verdict> + Send + 'static,
{
    /// Handles the messages, and returns the ids of those that must come again, in the messages' order.
    ///
    /// # Cancel safety
    /// All messages must come again. Those that were delivered are acknowledged then without a put, if there is a ledger.
    pub async fn invoke(&self, messages: Vec<Message>, times: Times) -> Vec<String> {
        let messages: Vec<_> = messages.into_iter().map(Arc::new).collect();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let mut waiting = messages.iter().enumerate();
        let mut ends: Vec<_> = messages.iter().map(|_| None).collect();
        // The future of a message takes about 100 KB, so it is made only when the message begins.
        while Instant::now() < times.stop {
            for (index, message) in waiting.by_ref().take(self.concurrency.saturating_sub(tasks.len())) {
                let span = self.spans.process(&message.id, message.attempts, message.trace_header.as_deref());
                let handled = (self.handle)(Arc::clone(message), stop.clone());
                let ended = end(handled, Arc::clone(message), Arc::clone(&self.queue));
                tasks.spawn(async move { (index, ended.await) }.instrument(span));
            }
            if !collect_one(&mut tasks, times.stop, &mut ends).await {
                break;
            }
        }
        // A message that has not begun need not begin any more.
        waiting.for_each(|(index, _)| ends[index] = Some(End::Again(Duration::ZERO)));
        stop.cancel();
        while collect_one(&mut tasks, times.abort, &mut ends).await {}
        // Work that is dropped here has not answered for the time that a checkpoint takes.
        tasks.shutdown().await;
        if self.waits == Waits::OfVerdict {
            self.hide(&messages, &ends, times.hide).await;
        }
        let failed = messages.iter().zip(&ends).filter(|(_, end)| !matches!(end, Some(End::Handled)));
        failed.map(|(message, _)| message.id.clone()).collect()
    }

    /// Hides messages until their retries. The others are hidden until the queue's visibility timeout ends.
    async fn hide(&self, messages: &[Arc<Message>], ends: &[Option<End>], until: Instant) {
        let again = messages.iter().zip(ends).filter_map(|(message, end)| match end {
            Some(End::Again(delay)) => Some((message.receipt.clone(), *delay)),
            Some(End::Handled) | None => None,
        });
        let again: Vec<_> = again.collect();
        let calls = again.chunks(MAX_BATCH).map(|entries| self.queue.change_visibility(entries));
        let answers = tokio::time::timeout_at(until, join_all(calls)).await;
        let failed = answers.map(|answers| answers.into_iter().flatten().find_map(Result::err));
        let error = match failed {
            Ok(None) => return,
            Ok(Some(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        tracing::warn!(
            error,
            "messages that must be retried could not be hidden for their own delays; they come again when the queue's \
             visibility timeout ends"
        );
    }
}

/// Collects what became of a message. Returns false if no task is left, or none ends before `until`. Work that panicked has no
/// end.
async fn collect_one(tasks: &mut JoinSet<(usize, End)>, until: Instant, ends: &mut [Option<End>]) -> bool {
    match tokio::time::timeout_at(until, tasks.join_next()).await {
        Ok(Some(Ok((index, end)))) => ends[index] = Some(end),
        Ok(Some(Err(error))) => {
            tracing::error!(%error, "the work on a message panicked; the message comes again")
        }
        Ok(None) | Err(_) => return false,
    }
    true
}

/// Waits for the verdict on a message, and carries it out.
async fn end<Q: Queue>(handled: impl Future<Output = Verdict>, message: Arc<Message>, queue: Arc<Q>) -> End {
    match handled.await {
        Verdict::Ack => End::Handled,
        Verdict::Retry(cause) => End::Again(cause.delay),
        Verdict::Poison(cause) | Verdict::Overdue(cause) => {
            if bury(&*queue, &message, &cause).await {
                End::Handled
            } else {
                End::Again(cause.delay)
            }
        }
    }
}

/// Sends a dead letter. Returns whether the message may be deleted: without a dead-letter queue, the queue's own redrive policy
/// moves the message after enough receives.
async fn bury<Q: Queue>(queue: &Q, message: &Message, cause: &Cause) -> bool {
    if !queue.has_dead_letters() {
        tracing::warn!(
            message.id,
            reason = cause.reason,
            "a message cannot be delivered, and queue.dead_letter_url is not set: the message is reported as failed until the \
             queue's redrive policy moves it"
        );
        return false;
    }
    match queue.send_dead_letter(&letter(message, cause)).await {
        Ok(()) => true,
        Err(error) => {
            trace::fail(&Span::current(), error.kind(), &error);
            tracing::warn!(
                message.id,
                error = %error,
                "a dead letter could not be sent; its message is reported as failed and tried again"
            );
            false
        }
    }
}

#[cfg(test)]
mod tests;
