//! One queue: its attributes, its messages, and its long polls.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{
    backlog::{Backlog, NotChanged, QueueCounts, Taken, Tracked},
    settings::Settings,
};

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) arn: String,
    state: Mutex<State>,
    /// Wakes long polls: one for a new message, all of them if a timer moved.
    arrivals: Notify,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    backlog: Backlog,
    created: i64,
    modified: i64,
}

/// Limits of a queue that tests need to change. AWS fixes the first and restricts the second.
///
/// As JSON, for `POST /_sandbox/queues/ARN`: `{"in_flight": 500, "retention_milliseconds": 2000}`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueLimits {
    /// Messages that may be in flight at the same time. Default: 120,000.
    #[serde(default)]
    pub in_flight: Option<usize>,
    /// Time for which a message is kept after its send. SQS itself requires at least a minute.
    #[serde(default)]
    pub retention_milliseconds: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Received {
    /// Messages with their handles; empty if the wait timed out.
    Messages(Vec<(Tracked, String)>),
    /// The quota of messages in flight is reached.
    OverLimit,
}

impl Queue {
    pub(crate) fn new(arn: String, settings: Settings) -> Self {
        let now = jiff::Timestamp::now().as_second();
        let state = State { settings, backlog: Backlog::new(fastrand::u64(..)), created: now, modified: now };
        Self { arn, state: Mutex::new(state), arrivals: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn settings(&self) -> Settings {
        self.state().settings.clone()
    }

    pub(crate) fn set(&self, settings: Settings) {
        let mut state = self.state();
        state.settings = settings;
        state.modified = jiff::Timestamp::now().as_second();
    }

    pub(crate) fn counts(&self) -> QueueCounts {
        let mut state = self.state();
        let retention = state.settings.retention;
        state.backlog.settle(Instant::now(), retention);
        state.backlog.counts()
    }

    /// Sets the limits that are given.
    pub(crate) fn limit(&self, limits: QueueLimits) {
        let QueueLimits { in_flight, retention_milliseconds } = limits;
        let mut state = self.state();
        if let Some(messages) = in_flight {
            state.backlog.set_quota(messages);
        }
        if let Some(milliseconds) = retention_milliseconds {
            state.settings.retention = Duration::from_millis(milliseconds);
        }
        drop(state);
        self.arrivals.notify_waiters();
    }

    /// All attributes by name, settable or not.
    pub(crate) fn attributes(&self) -> Map<String, Value> {
        let QueueCounts { visible, in_flight, delayed, .. } = self.counts();
        let state = self.state();
        let mut all = state.settings.print();
        all.insert("QueueArn".to_owned(), json!(self.arn));
        for (name, value) in [
            ("ApproximateNumberOfMessages", visible as i64),
            ("ApproximateNumberOfMessagesNotVisible", in_flight as i64),
            ("ApproximateNumberOfMessagesDelayed", delayed as i64),
            ("CreatedTimestamp", state.created),
            ("LastModifiedTimestamp", state.modified),
        ] {
            all.insert(name.to_owned(), json!(value.to_string()));
        }
        all
    }

    /// Adds a message. `delay` defaults to the queue's delay.
    pub(crate) fn push(&self, tracked: Tracked, delay: Option<Duration>) {
        let mut state = self.state();
        let delay = delay.unwrap_or(state.settings.delay);
        state.backlog.push(Instant::now(), tracked, delay);
        drop(state);
        if delay.is_zero() {
            self.arrivals.notify_one();
        } else {
            self.arrivals.notify_waiters();
        }
    }

    /// Receives up to `max` messages. Waits up to `wait` for the first.
    ///
    /// `dead_letters` is the dead-letter queue with the maximum receive count, if the queue has a redrive policy.
    ///
    /// # Cancel safety
    ///
    /// The call awaits nothing between taking messages and returning them, so a cancelled call has taken none.
    pub(crate) async fn receive(
        &self,
        max: usize,
        visibility: Option<Duration>,
        wait: Duration,
        dead_letters: Option<(Arc<Queue>, u32)>,
    ) -> Received {
        let deadline = Instant::now() + wait;
        loop {
            let mut arrival = std::pin::pin!(self.arrivals.notified());
            arrival.as_mut().enable();
            let now = Instant::now();
            let (taken, next) = {
                let mut state = self.state();
                let (retention, default) = (state.settings.retention, state.settings.visibility);
                state.backlog.settle(now, retention);
                let taken = state.backlog.receive(
                    now,
                    max,
                    visibility.unwrap_or(default),
                    dead_letters.as_ref().map(|(_, receives)| *receives),
                    jiff::Timestamp::now().as_millisecond(),
                );
                (taken, state.backlog.next_visible())
            };
            let Taken { received, dead, over_limit, earlier_timer } = taken;
            if let Some((queue, _)) = &dead_letters {
                for mut tracked in dead {
                    tracked.dead_letter_source = Some(self.arn.clone());
                    queue.push(tracked, Some(Duration::ZERO));
                }
            }
            if earlier_timer {
                self.arrivals.notify_waiters();
            }
            if over_limit && wait.is_zero() {
                return Received::OverLimit;
            }
            if !received.is_empty() || now >= deadline {
                return Received::Messages(received);
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                () = arrival => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Deletes a message by its handle. Returns `false` if the queue never returned the handle.
    pub(crate) fn delete_message(&self, handle: &str) -> bool {
        let mut state = self.state();
        let was_at_quota = state.backlog.is_at_quota();
        let known = state.backlog.delete(handle);
        drop(state);
        if was_at_quota {
            // The delete makes room in the quota, so a long poll may now receive a visible message.
            self.arrivals.notify_one();
        }
        known
    }

    /// Changes the time at which a message in flight becomes visible.
    pub(crate) fn change_visibility(&self, handle: &str, visibility: Duration) -> Result<(), NotChanged> {
        let now = Instant::now();
        let mut state = self.state();
        let retention = state.settings.retention;
        state.backlog.settle(now, retention);
        state.backlog.change_visibility(now, handle, visibility)?;
        drop(state);
        if visibility.is_zero() {
            self.arrivals.notify_one();
        } else {
            self.arrivals.notify_waiters();
        }
        Ok(())
    }
}
