//! Until when a lease runs, by this worker's own clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The part of a lease at its end in which nothing is begun any more: what was sent must have arrived by then.
const MARGIN: u32 = 10;

/// A lease as its holder sees it. Clones share it: who renews it renews it for all.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// None: there is no ledger, so nobody waits for its end.
    running: Option<Arc<Running>>,
}

#[derive(Debug)]
struct Running {
    /// Without the margin.
    length: Duration,
    /// When it was last asked for; none before the first time, and once it was lost.
    taken: Mutex<Option<Moment>>,
}

/// A moment by two clocks: one that nobody sets, which may stand still while the machine is suspended, and one that goes on.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// What has passed since, by the clock that saw more of it.
    fn elapsed(self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// A call that was not made, because the lease that allows it had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease on the object ended before the call was sent")]
pub struct LeaseEnded;

impl Lease {
    /// One that never ends: nobody else can take the object.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// One that has not begun, and lasts for `length` each time that it is taken.
    pub fn of(length: Duration) -> Self {
        let running = Running { length: length - length / MARGIN, taken: Mutex::new(None) };
        Self { running: Some(Arc::new(running)) }
    }

    /// Whether it runs, and goes on for longer than what is sent now takes to arrive.
    ///
    /// # Errors
    /// It has ended, or is about to.
    pub fn check(&self) -> Result<(), LeaseEnded> {
        let Some(running) = &self.running else { return Ok(()) };
        let taken = *running.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_some_and(|taken| taken.elapsed() < running.length) { Ok(()) } else { Err(LeaseEnded) }
    }

    /// It was taken or renewed by a call that was sent at `asked` or later.
    pub fn renewed(&self, asked: Moment) {
        self.set(Some(asked));
    }

    /// It is another's, or nobody's.
    pub fn lost(&self) {
        self.set(None);
    }

    fn set(&self, taken: Option<Moment>) {
        if let Some(running) = &self.running {
            *running.taken.lock().unwrap_or_else(PoisonError::into_inner) = taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_lease_runs_from_the_moment_it_was_asked_for() {
        let lease = Lease::of(LENGTH);
        let other = lease.clone();
        assert_eq!(lease.check(), Err(LeaseEnded), "nobody asked yet");
        let asked = Moment::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        other.renewed(asked);
        assert_eq!(lease.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(43)).await;
        assert_eq!(lease.check(), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(lease.check(), Err(LeaseEnded), "six seconds before its end");
        other.renewed(Moment::now());
        assert_eq!(lease.check(), Ok(()));
        other.lost();
        assert_eq!(lease.check(), Err(LeaseEnded));
    }

    #[test]
    fn a_suspended_machine_s_time_counts() {
        let lease = Lease::of(LENGTH);
        let hour = Duration::from_secs(3600);
        // As when the machine slept for an hour: only the wall clock saw it.
        lease.renewed(Moment { wall: SystemTime::now() - hour, ..Moment::now() });
        assert_eq!(lease.check(), Err(LeaseEnded));
        // A wall clock that was set back adds nothing.
        lease.renewed(Moment { wall: SystemTime::now() + hour, ..Moment::now() });
        assert_eq!(lease.check(), Ok(()));
        assert_eq!(Lease::unlimited().check(), Ok(()));
    }
}
