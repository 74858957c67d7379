//! Protects the worker's task from ECS's scale-in while messages are in work.
//!
//! Without protection, ECS ends any task of the service when fewer are wanted. A protected task is not ended by scale-in and
//! not replaced by a deployment. A background task asks ECS's agent; no message waits for an answer. What is protected, and
//! when the agent is asked again, is decided by `ProtectionPlan`, without I/O.
//!
//! The protection always has an end: should this worker hang, or ECS refuse to renew the protection because it blocks a
//! deployment, the task can be ended after ten minutes.

pub mod agent;

use std::{future::Future, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::metrics::{Ended, KnownGauge, add};

/// How long a protection lasts. ECS counts in minutes.
const LIFE: Duration = Duration::from_secs(600);
/// A protection of a busy worker is renewed this long after it began.
const RENEW_AFTER: Duration = Duration::from_secs(300);
/// How long a worker must be idle before its protection is cleared. ECS throttles these calls for all tasks of the account
/// together, so a worker that gets a message now and then must not call for each of them.
const IDLE: Duration = Duration::from_secs(30);
/// Pause after the first failed call. Each further failure in a row doubles the pause, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What ECS's agent is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtectionState {
    /// The task is protected for this long from now on, whether or not it is protected already.
    Protected(Duration),
    /// The task is not protected.
    Unprotected,
}

/// The task's protection is not as wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// ECS refuses, and the protection is what it was before.
    #[error("ECS refuses to change the task's protection: {0}")]
    Refused(String),
    /// There is no answer that says what became of the protection: ECS may have changed it.
    #[error("ECS's agent does not answer: {0}")]
    NoAnswer(String),
}

/// The agent of ECS beside this task.
pub trait Agent: Send + Sync + 'static {
    /// Protects the task, or ends its protection. A repeated call is harmless. Returns within seconds.
    ///
    /// # Errors
    /// ECS refuses, or nobody knows what became of the call.
    fn set(&self, wanted: ProtectionState) -> impl Future<Output = Result<(), AgentError>> + Send;
}

/// Metrics of the protection. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_task_protection_calls_total{result}`: `protected`, `renewed`, `cleared`, `failed`.
    pub calls: Family<Ended, Counter>,
    /// `logferry_task_protected`: 1 while ECS protects the task, else 0; absent outside of ECS.
    pub is_protected: KnownGauge,
}

impl Metrics {
    /// Registers both metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "task_protection_calls",
            "Calls that protect this task from ECS's scale-in or end its protection",
            &self.calls,
        );
        add(registry, "task_protected", "Whether ECS protects this task from scale-in", &self.is_protected);
    }
}

/// Counts the messages in work.
#[derive(Clone, Debug, Default)]
pub struct Protection(watch::Sender<usize>);

/// A message in work; until this value is dropped, the task should be protected.
#[derive(Debug)]
pub struct InWork(watch::Sender<usize>);

impl Protection {
    /// Notes that the work on a message begins.
    pub fn hold(&self) -> InWork {
        change(&self.0, |count| count + 1);
        InWork(self.0.clone())
    }

    /// Protects the task while messages are in work. Runs for ever.
    pub fn keep(&self, agent: impl Agent, metrics: Metrics) -> impl Future<Output = ()> + Send + 'static {
        keep(agent, self.0.subscribe(), metrics)
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        change(&self.0, |count| count - 1);
    }
}

/// Tells the background task only about the first message and the last, because each notice costs the switch to it.
fn change(count: &watch::Sender<usize>, next: impl FnOnce(usize) -> usize) {
    count.send_if_modified(|count| {
        let before = std::mem::replace(count, next(*count));
        (before == 0) != (*count == 0)
    });
}

async fn keep(agent: impl Agent, mut in_work: watch::Receiver<usize>, metrics: Metrics) {
    let mut plan = ProtectionPlan::new(Instant::now());
    loop {
        let was_protected = plan.is_protected(Instant::now());
        metrics.is_protected.set(Some(u64::from(was_protected)));
        let load = if *in_work.borrow_and_update() > 0 { Load::Busy } else { Load::Idle };
        plan.observe(load, Instant::now());
        let call = plan.next();
        let Some(NextCall { wanted, .. }) = call.filter(|call| call.at <= Instant::now()) else {
            // At the protection's end the metric changes.
            let end = plan.protected_until.filter(|_| was_protected);
            let wake = call.map(|call| call.at).into_iter().chain(end).min();
            tokio::select! {
                changed = in_work.changed() => if changed.is_err() { return },
                () = sleep_until_if_any(wake) => {}
            }
            continue;
        };
        let answer = agent.set(wanted).await;
        let result = match (&answer, wanted, was_protected) {
            (Err(_), _, _) => "failed",
            (Ok(()), ProtectionState::Unprotected, _) => "cleared",
            (Ok(()), ProtectionState::Protected(_), true) => "renewed",
            (Ok(()), ProtectionState::Protected(_), false) => "protected",
        };
        metrics.calls.get_or_create(&Ended::new(result)).inc();
        match (&answer, plan.fails()) {
            (Err(error), false) => tracing::warn!(
                %error,
                "the task's protection from scale-in cannot be changed; trying again"
            ),
            (Ok(()), true) => tracing::info!("the task's protection from scale-in can be changed again"),
            _ => {}
        }
        plan.answered(wanted, &answer, Instant::now());
    }
}

async fn sleep_until_if_any(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Busy,
    Idle,
}

/// The next call, and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NextCall {
    at: Instant,
    wanted: ProtectionState,
}

/// What is known about the protection.
#[derive(Debug)]
struct ProtectionPlan {
    /// Time of the last change between idle and busy.
    since: Instant,
    load: Load,
    /// End of the protection that ECS has confirmed.
    protected_until: Option<Instant>,
    /// Time at which a protection of a busy worker should be renewed.
    renew_at: Instant,
    /// End of a protection that may be there: ECS may have acted on a call without an answer.
    may_last_until: Option<Instant>,
    /// No call before this time, because the last one failed.
    not_before: Instant,
    /// Pause after the last failure; `None` if the last call succeeded.
    pause: Option<Duration>,
}

impl ProtectionPlan {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            load: Load::Idle,
            protected_until: None,
            renew_at: now,
            may_last_until: None,
            not_before: now,
            pause: None,
        }
    }

    fn is_protected(&self, now: Instant) -> bool {
        self.protected_until.is_some_and(|until| until > now)
    }

    /// Whether the last call failed.
    fn fails(&self) -> bool {
        self.pause.is_some()
    }

    fn observe(&mut self, load: Load, now: Instant) {
        if self.load != load {
            (self.load, self.since) = (load, now);
        }
    }

    fn next(&self) -> Option<NextCall> {
        let (at, wanted) = match self.load {
            Load::Busy => (self.renew_at.max(self.since), ProtectionState::Protected(LIFE)),
            Load::Idle => {
                let at = self.since + IDLE;
                // What ends by itself need not be cleared.
                self.may_last_until.filter(|until| *until > at.max(self.not_before))?;
                (at, ProtectionState::Unprotected)
            }
        };
        Some(NextCall { at: at.max(self.not_before), wanted })
    }

    fn answered(&mut self, wanted: ProtectionState, answer: &Result<(), AgentError>, now: Instant) {
        match (answer, wanted) {
            (Ok(()), ProtectionState::Protected(life)) => {
                self.protected_until = Some(now + life);
                self.may_last_until = self.protected_until;
                self.renew_at = now + RENEW_AFTER;
            }
            (Ok(()), ProtectionState::Unprotected) => {
                (self.protected_until, self.may_last_until, self.renew_at) = (None, None, now);
            }
            (Err(AgentError::NoAnswer(_)), ProtectionState::Protected(life)) => {
                self.may_last_until = self.may_last_until.max(Some(now + life));
            }
            (Err(AgentError::NoAnswer(_)), ProtectionState::Unprotected) => {
                (self.protected_until, self.renew_at) = (None, now);
            }
            (Err(AgentError::Refused(_)), _) => {}
        }
        self.pause = match answer {
            Ok(()) => None,
            Err(_) => Some(self.pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE))),
        };
        self.not_before = now + self.pause.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests;
