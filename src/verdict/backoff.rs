//! Delays of retries.

use std::time::Duration;

/// Delays and limits of retries. The delay doubles with each attempt up to a maximum; a random part is taken off.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Delay after the first attempt.
    pub first: Duration,
    /// Longest delay.
    pub longest: Duration,
    /// Longest time from a message's first receive to its last retry.
    pub max_age: Duration,
    /// Number of attempts (at least 1) that may end with a permanent refusal by AWS before the message is poison.
    pub max_refusals: u32,
}

impl Backoff {
    /// Delay after `attempts` attempts. `chance` (0 to 1) takes off at most a quarter.
    pub(super) fn delay(&self, attempts: u32, chance: f64) -> Duration {
        self.full(attempts).mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
    }

    /// Delay after `attempts` attempts. A retry before `earliest` would fail, so the delay is at least `earliest`, as far as
    /// [`Backoff::longest`] allows that. `chance` then adds at most a quarter of the delay, so that messages with the same
    /// `earliest` do not come back all at once.
    pub(super) fn delay_until(&self, earliest: Duration, attempts: u32, chance: f64) -> Duration {
        let delay = self.delay(attempts, chance);
        if earliest <= delay {
            return delay;
        }
        match self.longest.checked_sub(earliest) {
            Some(room) => earliest + room.min(self.full(attempts) / 4).mul_f64(chance.clamp(0.0, 1.0)),
            None => self.delay(u32::MAX, chance),
        }
    }

    /// Delay after `attempts` attempts without the random part.
    fn full(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        self.first.saturating_mul(1 << doublings).min(self.longest)
    }
}
