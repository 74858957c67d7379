//! Times in which all calls for an owner are the SDK's, after direct attempts that failed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Length of a pause after one failure. A pause lasts at least as long as the failed attempt took, and twice as long after each
/// further failure without a success between them.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// The pauses by owner. Some have ended.
#[derive(Debug, Default)]
pub(crate) struct Pauses(Mutex<HashMap<String, Pause>>);

#[derive(Clone, Copy, Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Pauses {
    /// Begins a pause, or a longer one than the last, after an attempt that took `took`. Returns its length.
    pub(crate) fn begin(&self, owner: &str, took: Duration) -> Duration {
        let (mut pauses, now) = (self.all(), Instant::now());
        pauses.retain(|_, pause| now < pause.until + LONGEST);
        let longer = pauses.get(owner).map_or(FIRST, |pause| match now < pause.until {
            // The attempt began before the pause did.
            true => pause.length,
            false => 2 * pause.length,
        });
        let length = longer.max(took).min(LONGEST);
        pauses.insert(owner.to_owned(), Pause { until: now + length, length });
        length
    }

    /// Whether a pause for `owner` lasts now.
    pub(crate) fn holds(&self, owner: &str) -> bool {
        self.all().get(owner).is_some_and(|pause| Instant::now() < pause.until)
    }

    /// Forgets the failures of `owner` after a success of an attempt that began at `began`. A success of an attempt that began
    /// before a pause does not end the pause.
    pub(crate) fn end_before(&self, owner: &str, began: Instant) {
        let mut pauses = self.all();
        if pauses.get(owner).is_some_and(|pause| pause.until <= began) {
            pauses.remove(owner);
        }
    }

    /// Ends all pauses.
    #[cfg(test)]
    pub(crate) fn clear(&self) {
        self.all().clear();
    }

    /// As if a longest pause had just ended.
    #[cfg(test)]
    pub(crate) fn end_longest(&self, owner: &str) {
        let pause = Pause { until: Instant::now(), length: LONGEST };
        self.all().insert(owner.to_owned(), pause);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_a_success() {
        let pauses = Pauses::default();
        let seconds = |owner: &str| {
            let pause = pauses.all().get(owner).copied();
            pause.map(|pause| pause.until.saturating_duration_since(Instant::now()).as_secs())
        };
        let moment = Duration::from_millis(1);
        pauses.begin("a", moment);
        pauses.begin("a", moment);
        assert_eq!((seconds("a"), seconds("b")), (Some(1), None), "attempts that fail together count once");
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            tokio::time::advance(Duration::from_secs(seconds("a").expect("a pause") + 1)).await;
            pauses.begin("a", moment);
            assert_eq!(seconds("a"), Some(expected));
        }
        pauses.begin("b", Duration::from_secs(30));
        assert_eq!(seconds("b"), Some(30), "as long as the attempt took");
        tokio::time::advance(Duration::from_secs(200)).await;
        pauses.begin("a", moment);
        assert_eq!((seconds("a"), seconds("b")), (Some(1), None), "old pauses are forgotten");
        // Attempts that were on their way when another failed say nothing about what came after.
        pauses.end_before("a", Instant::now());
        assert_eq!(seconds("a"), Some(1));
        tokio::time::advance(Duration::from_secs(2)).await;
        pauses.end_before("a", Instant::now());
        pauses.begin("a", moment);
        assert_eq!(seconds("a"), Some(1), "the failures in a row have ended");
    }
}
