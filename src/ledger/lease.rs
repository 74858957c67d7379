//! Tells whether a lease still runs, by this worker's own clocks.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The lease's length divided by this number is the margin at its end. No call is sent within the margin, so that every call
/// arrives before the lease ends.
const MARGIN: u32 = 10;

/// A lease as its holder sees it. Clones share the lease: renewing one renews all.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// `None` without a ledger: the lease never ends.
    running: Option<Arc<RunningLease>>,
}

#[derive(Debug)]
struct RunningLease {
    /// The lease's length without the margin.
    length: Duration,
    /// When the call that took or renewed the lease was sent. `None` before the first call, and after the lease was lost.
    taken: Mutex<Option<Moment>>,
}

/// A moment on two clocks: the monotonic clock, which may stop while the machine is suspended, and the wall clock, which goes on.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// The current moment.
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// Time since the moment, by the clock that shows more.
    fn elapsed(self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// A call was not sent, because the lease that it needs had ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease on the object ended before the call was sent")]
pub struct LeaseEnded;

impl Lease {
    /// A lease that never ends, because no other worker can take the object.
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// A lease that is not taken yet, and lasts for `length` after each renewal.
    pub fn of(length: Duration) -> Self {
        let running = RunningLease { length: length - length / MARGIN, taken: Mutex::new(None) };
        Self { running: Some(Arc::new(running)) }
    }

    /// Whether the lease runs long enough for a call that is sent now.
    ///
    /// # Errors
    /// The lease has ended or is about to end.
    pub fn check(&self) -> Result<(), LeaseEnded> {
        let Some(running) = &self.running else { return Ok(()) };
        let taken = *running.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_some_and(|taken| taken.elapsed() < running.length) { Ok(()) } else { Err(LeaseEnded) }
    }

    /// Records that a call took or renewed the lease. `asked` is a moment before the call was sent.
    pub fn renewed(&self, asked: Moment) {
        self.set(Some(asked));
    }

    /// Records that the lease is lost.
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
    async fn a_lease_runs_from_the_moment_before_its_call() {
        let lease = Lease::of(LENGTH);
        let other = lease.clone();
        assert_eq!(lease.check(), Err(LeaseEnded), "not taken yet");
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
    fn the_time_of_a_suspended_machine_counts() {
        let lease = Lease::of(LENGTH);
        let hour = Duration::from_secs(3600);
        // The machine was suspended for an hour, and only the wall clock advanced.
        lease.renewed(Moment { wall: SystemTime::now() - hour, ..Moment::now() });
        assert_eq!(lease.check(), Err(LeaseEnded));
        // Setting the wall clock back does not lengthen the lease.
        lease.renewed(Moment { wall: SystemTime::now() + hour, ..Moment::now() });
        assert_eq!(lease.check(), Ok(()));
        assert_eq!(Lease::unlimited().check(), Ok(()));
    }
}
