//! Liveness and readiness. The receive loop and the probes record them; `/healthz` and `/readyz` report them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Health of the service, for an orchestrator.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// A receive loop that makes no turn for this long counts as hung.
    patience: Duration,
}

#[derive(Debug)]
struct State {
    last_move: Instant,
    draining: bool,
    /// Problem of each dependency; `None` if the dependency works.
    dependencies: BTreeMap<&'static str, Option<String>>,
    /// Problems on the worker's side that made messages fail, each with the time of its last failure.
    complaints: BTreeMap<&'static str, (Instant, String)>,
}

/// The worker's own identity for AWS: credentials, clock, central role.
pub const IDENTITY: &str = "identity";
/// The buckets that objects are read from.
pub const SOURCE_BUCKET: &str = "source_bucket";
/// How long a complaint counts. If the problem lasts, further messages renew it.
const COMPLAINT_LASTS: Duration = Duration::from_secs(60);

const QUEUE: &str = "queue";

impl Health {
    /// Creates the health of a worker that has started. `longest_receive` is the longest time of one receive, retries
    /// included: an outage of the queue must not cause a restart. `dependencies` and the queue count as unreachable until
    /// their first answer.
    pub fn new(longest_receive: Duration, dependencies: &[&'static str]) -> Self {
        let unknown =
            dependencies.iter().copied().chain([QUEUE]).map(|name| (name, Some("not asked yet".to_owned())));
        Self {
            state: Mutex::new(State {
                last_move: Instant::now(),
                draining: false,
                dependencies: unknown.collect(),
                complaints: BTreeMap::new(),
            }),
            // The 60 s allow for the pause after a failed receive.
            patience: longest_receive + Duration::from_secs(60),
        }
    }

    /// Records that the receive loop began another turn.
    pub fn loop_moved(&self) {
        self.lock().last_move = Instant::now();
    }

    /// Records that the queue answered a receive.
    pub fn queue_answered(&self) {
        self.dependency(QUEUE, None);
    }

    /// Records that a receive failed.
    pub fn queue_failed(&self, problem: String) {
        self.dependency(QUEUE, Some(problem));
    }

    /// Records the problem of a dependency; `None` if the dependency works.
    pub fn dependency(&self, name: &'static str, problem: Option<String>) {
        self.lock().dependencies.insert(name, problem);
    }

    /// Records that a message failed because of a dependency's problem. The complaint counts for a minute.
    pub fn complain(&self, name: &'static str, problem: String) {
        self.lock().complaints.insert(name, (Instant::now(), problem));
    }

    /// Records that no more messages are received.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Checks that the receive loop runs. Always succeeds while the worker drains.
    ///
    /// # Errors
    /// The loop has made no turn for too long. The text names the time since its last turn.
    pub fn alive(&self) -> Result<(), String> {
        let state = self.lock();
        let still = state.last_move.elapsed();
        if !state.draining && still > self.patience {
            return Err(format!("the receive loop has not moved for {} s", still.as_secs()));
        }
        Ok(())
    }

    /// Checks that the worker can take messages.
    ///
    /// # Errors
    /// The problems, one per line.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.lock();
        let draining = state.draining.then(|| "draining".to_owned());
        let broken = state
            .dependencies
            .iter()
            .filter_map(|(name, problem)| problem.as_ref().map(|problem| format!("{name}: {problem}")));
        let complaints = state.complaints.iter().filter(|(_, (at, _))| at.elapsed() < COMPLAINT_LASTS);
        let complaints = complaints.map(|(name, (_, problem))| format!("{name}: {problem}"));
        let problems: Vec<_> = draining.into_iter().chain(complaints).chain(broken).collect();
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid after every statement, so the lock is usable after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_while_every_dependency_works_and_the_worker_does_not_drain() {
        let health = Health::new(Duration::from_secs(20), &["tenant_table"]);
        let problems = health.ready().expect_err("no dependency has answered yet");
        assert!(problems.contains("queue: ") && problems.contains("tenant_table: "), "{problems}");
        health.queue_answered();
        health.dependency("tenant_table", None);
        assert_eq!(health.ready(), Ok(()));
        health.queue_failed("no route to host".into());
        assert_eq!(health.ready(), Err("queue: no route to host".into()));
        health.queue_answered();
        health.complain(IDENTITY, "the clock is wrong".into());
        assert_eq!(health.ready(), Err("identity: the clock is wrong".into()));
        health.lock().complaints.values_mut().for_each(|(at, _)| *at -= COMPLAINT_LASTS);
        assert_eq!(health.ready(), Ok(()));
        health.drain();
        assert_eq!(health.ready(), Err("draining".into()));
        assert_eq!(health.alive(), Ok(()));
    }

    #[test]
    fn a_loop_that_hangs_is_not_alive() {
        let health = Health { patience: Duration::ZERO, ..Health::new(Duration::ZERO, &[]) };
        std::iter::repeat_with(|| health.alive()).find(Result::is_err);
        health.drain();
        assert_eq!(health.alive(), Ok(()));
    }
}
