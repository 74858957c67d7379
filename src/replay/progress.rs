//! How far a replay has come, and how long it will still take.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::selection::{Choice, Selection};
use crate::object::listing::{ListingError, ObjectListing, Walk};

/// Counts the objects that are finished. Shared by the run and by those who show it.
#[derive(Debug, Default)]
pub struct Progress {
    objects: AtomicU64,
    bytes: AtomicU64,
    total: OnceLock<Amount>,
}

/// A number of objects and their stored bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Objects.
    pub objects: u64,
    /// Stored bytes.
    pub bytes: u64,
}

impl Progress {
    /// Counts an object of `bytes` stored bytes.
    pub(super) fn ended(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What is finished.
    pub fn finished(&self) -> Amount {
        Amount { objects: self.objects.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }

    /// All selected objects, once they are counted.
    pub fn total(&self) -> Option<Amount> {
        self.total.get().copied()
    }

    /// Counts all selected objects, by a listing of its own: the run's own listing is only as far as its objects.
    ///
    /// # Errors
    /// The bucket cannot be listed. The total stays unknown.
    pub async fn count<L: ObjectListing>(
        &self,
        listing: &L,
        selection: &Selection,
    ) -> Result<(), ListingError> {
        let (mut walk, mut total) = (Walk::new(listing, selection.prefixes()), Amount::default());
        while let Some(listed) = walk.next().await? {
            if matches!(selection.choose(&listed), Choice::Selected { .. }) {
                total.objects += 1;
                total.bytes += listed.size;
            }
        }
        // A second count would give the same.
        let _ = self.total.set(total);
        Ok(())
    }

    /// Expected time until the end, after `elapsed`: objects and bytes go on at their average rates so far, and the slower of
    /// both counts. `None` without a total, or before the first object is finished.
    pub fn remaining(&self, elapsed: Duration) -> Option<Duration> {
        let (finished, total) = (self.finished(), self.total()?);
        if finished.objects == 0 {
            return None;
        }
        let left = |done: u64, all: u64| all.saturating_sub(done) as f64 / done.max(1) as f64;
        let objects = left(finished.objects, total.objects);
        let bytes = left(finished.bytes, total.bytes);
        Some(elapsed.mul_f64(if finished.bytes == 0 { objects } else { objects.max(bytes) }))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{object::listing::memory::MemoryListing, replay::selection::tests::selection};

    #[tokio::test]
    async fn the_rest_takes_as_long_as_objects_and_bytes_did_so_far() {
        let objects = ["a/c/p/1", "a/c/p/2", "a/c/p/3", "b/c/p/4", "no-key"];
        let listing = MemoryListing::of(2, objects.map(|key| (key, 10, Timestamp::UNIX_EPOCH)));
        let selection = selection("{tenant}/{cluster}/{pod}/{file}");
        let (progress, minute) = (Progress::default(), Duration::from_secs(60));
        progress.ended(10);
        assert_eq!(progress.remaining(minute), None, "the total is unknown");
        progress.count(&listing, &selection).await.expect("memory answers");
        assert_eq!(progress.total(), Some(Amount { objects: 4, bytes: 40 }));
        assert_eq!(progress.remaining(minute), Some(3 * minute));
        progress.ended(0);
        assert_eq!(
            progress.remaining(minute),
            Some(3 * minute),
            "two of four objects, but a quarter of the bytes"
        );
        for _ in 0..2 {
            progress.ended(15);
        }
        assert_eq!(progress.remaining(minute), Some(Duration::ZERO));
    }
}
