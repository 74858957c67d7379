//! Samples log lines: a few for each subject and minute. A broken customer could otherwise fill the log.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lru::LruCache;
use tokio::time::Instant;

/// Most lines of one subject in a [`PERIOD`].
const LINES: u32 = 3;
const PERIOD: Duration = Duration::from_secs(60);
/// Most subjects that are remembered. The subject asked about least recently is forgotten first; its next line is then
/// written.
const SUBJECTS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Decides for each line whether it is written.
#[derive(Debug)]
pub struct LineSampler {
    subjects: Mutex<LruCache<String, Period>>,
}

#[derive(Debug)]
struct Period {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl Default for LineSampler {
    fn default() -> Self {
        Self { subjects: Mutex::new(LruCache::new(SUBJECTS)) }
    }
}

impl LineSampler {
    /// Admits a line about `subject`, or leaves it out (`None`). For an admitted line, returns the number of lines about the
    /// subject that were left out since the last admitted one. The line must show this number.
    pub fn admit(&self, subject: &str) -> Option<u64> {
        let now = Instant::now();
        // The cache is consistent after every statement, so a poisoned lock can be used.
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let period = subjects.get_or_insert_mut_ref(subject, || Period { began: now, lines: 0, left_out: 0 });
        if now - period.began >= PERIOD {
            (period.began, period.lines) = (now, 0);
        }
        if period.lines == LINES {
            period.left_out += 1;
            return None;
        }
        period.lines += 1;
        Some(std::mem::take(&mut period.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subject_has_a_few_lines_each_minute_and_the_next_one_tells_what_was_left_out() {
        let sampler = LineSampler::default();
        let admitted = |subject: &str| (0..10).map(|_| sampler.admit(subject)).collect::<Vec<_>>();
        let first = [&[Some(0); 3][..], &[None; 7]].concat();
        assert_eq!(admitted("acme"), first);
        assert_eq!(admitted("globex"), first, "another subject has lines of its own");
        tokio::time::advance(PERIOD - Duration::from_millis(1)).await;
        assert_eq!(sampler.admit("acme"), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!([sampler.admit("acme"), sampler.admit("acme")], [Some(8), Some(0)]);
        assert_eq!(sampler.admit("globex"), Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_subjects_is_bounded() {
        let sampler = LineSampler::default();
        for number in 0..2 * SUBJECTS.get() {
            assert_eq!(sampler.admit(&number.to_string()), Some(0));
        }
        let subjects = sampler.subjects.lock().expect("nothing panicked");
        assert_eq!(subjects.len(), SUBJECTS.get());
    }
}
