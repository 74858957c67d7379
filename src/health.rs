//! Is the service alive, and can it work? Written by the loop and the probes, read by `/healthz` and `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The state of the service as an orchestrator sees it.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// A loop that has not moved for that long hangs.
    patience: Duration,
}

#[derive(Debug)]
struct State {
    last_move: Instant,
    draining: bool,
    /// What is wrong with each dependency; one that is fine has `None`, one never asked is absent.
    dependencies: BTreeMap<&'static str, Option<String>>,
    /// What messages failed for, though none of them is to blame, and when they last did.
    complaints: BTreeMap<&'static str, (Instant, String)>,
}

/// Who we are for AWS: credentials, clock, central role.
pub const IDENTITY: &str = "identity";
/// The buckets that objects are read from.
pub const SOURCE_BUCKET: &str = "source_bucket";
/// How long a complaint counts: if it is not over, further messages have it meanwhile.
const COMPLAINT_LASTS: Duration = Duration::from_secs(60);

const QUEUE: &str = "queue";

impl Health {
    /// `longest_receive` is what one receive may take, retries included: an outage of the queue is no reason to be
    /// restarted. `dependencies` count as unreachable until the first word of them; the queue is always one.
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
            // A pause after a failed receive may come on top.
            patience: longest_receive + Duration::from_secs(60),
        }
    }

    /// The receive loop began another turn.
    pub fn loop_moved(&self) {
        self.lock().last_move = Instant::now();
    }

    /// The queue answered a receive.
    pub fn queue_answered(&self) {
        self.dependency(QUEUE, None);
    }

    /// The queue did not.
    pub fn queue_failed(&self, problem: String) {
        self.dependency(QUEUE, Some(problem));
    }

    /// What is wrong with a dependency now, if anything.
    pub fn dependency(&self, name: &'static str, problem: Option<String>) {
        self.lock().dependencies.insert(name, problem);
    }

    /// A message failed for what is wrong with that dependency, which counts for a minute.
    pub fn complain(&self, name: &'static str, problem: String) {
        self.lock().complaints.insert(name, (Instant::now(), problem));
    }

    /// No more messages will be received.
    pub fn drain(&self) {
        self.lock().draining = true;
    }

    /// Whether the loop moves; a draining one need not.
    ///
    /// # Errors
    /// Says for how long it has not.
    pub fn alive(&self) -> Result<(), String> {
        let state = self.lock();
        let still = state.last_move.elapsed();
        if !state.draining && still > self.patience {
            return Err(format!("the receive loop has not moved for {} s", still.as_secs()));
        }
        Ok(())
    }

    /// Whether new work would go well.
    ///
    /// # Errors
    /// Says what is in the way, a line each.
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
        // Every statement leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_dependency_answered_and_until_draining() {
        let health = Health::new(Duration::from_secs(20), &["tenant_table"]);
        let problems = health.ready().expect_err("nobody answered yet");
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
