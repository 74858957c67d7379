//! Memory for zstd windows larger than the one that each slot has, shared by all slots.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::decode::{MAX_WINDOW, ORDINARY_WINDOW};

/// How long a share is waited for. The slot that waits is another tenant's loss.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many bytes, and who has which share of them. Shares are given in the order in which they were asked for.
#[derive(Debug)]
pub(super) struct Windows {
    free: Semaphore,
    largest: u64,
}

impl Windows {
    pub(super) fn new(bytes: u64) -> Self {
        let all = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { free: Semaphore::new(all), largest: bytes.clamp(ORDINARY_WINDOW, MAX_WINDOW) }
    }

    /// The largest window that there can be memory for.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// Waits for the memory of a window that is not larger than the largest; it comes back when the share drops. Whoever waits
    /// must have no other share: two that wait for each other's would wait for ever. None: others kept all of the memory for ten
    /// seconds.
    ///
    /// # Cancel safety
    /// Safe: dropped while it waits, it holds nothing.
    pub(super) async fn share(&self, window: u64) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(window.min(self.largest)).expect("the largest window is far below 4 GiB");
        let share = timeout(PATIENCE, self.free.acquire_many(bytes)).await.ok()?;
        Some(share.expect("nobody closes it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_largest_fits_into_the_memory() {
        let largest = |bytes| Windows::new(bytes).largest();
        assert_eq!(
            [0, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, u64::MAX].map(largest),
            [8 * MIB, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, 128 * MIB]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_given_while_they_last_and_in_turn() {
        let windows = Windows::new(160 * MIB);
        let moment = Duration::from_secs(1);
        let first = windows.share(128 * MIB).await.expect("all is free");
        let small = windows.share(32 * MIB).await.expect("as much is left");
        assert!(timeout(moment, windows.share(16 * MIB)).await.is_err(), "all is given away");
        drop(small);
        let mut large = std::pin::pin!(windows.share(64 * MIB));
        assert!(timeout(moment, &mut large).await.is_err(), "32 MiB are too few");
        assert!(timeout(moment, windows.share(16 * MIB)).await.is_err(), "another is before");
        drop(first);
        assert!(timeout(moment, large).await.is_ok(), "there is enough by now");
        let all = windows.share(128 * MIB).await.expect("what was given came back");
        assert!(windows.share(64 * MIB).await.is_none(), "patience has an end");
        drop(all);
    }
}
