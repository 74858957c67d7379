//! Memory for zstd windows that are larger than the 8 MiB of each slot. All slots share this memory.

use std::time::Duration;

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::decode::{MAX_WINDOW, ORDINARY_WINDOW};

/// Longest wait for a share. Meanwhile, the object's slot is not free for other tenants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Memory that is given out in shares. Requests are served in their order.
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

    /// Size of the largest window that a share can have.
    pub(super) fn largest(&self) -> u64 {
        self.largest
    }

    /// Waits for the memory of a window, at most of the largest one. The memory is free again when the share drops. Returns
    /// `None` if there is not enough memory within ten seconds. The caller must hold no other share: two callers, each with a
    /// share that the other needs, would both wait in vain.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped while it waits holds nothing.
    pub(super) async fn share(&self, window: u64) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(window.min(self.largest)).expect("the largest window is far below 4 GiB");
        let share = timeout(PATIENCE, self.free.acquire_many(bytes)).await.ok()?;
        Some(share.expect("the semaphore is never closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_largest_window_fits_into_the_memory() {
        let largest = |bytes| Windows::new(bytes).largest();
        assert_eq!(
            [0, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, u64::MAX].map(largest),
            [8 * MIB, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, 128 * MIB]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_given_in_order_while_memory_is_free() {
        let windows = Windows::new(160 * MIB);
        let moment = Duration::from_secs(1);
        let first = windows.share(128 * MIB).await.expect("all is free");
        let small = windows.share(32 * MIB).await.expect("as much is left");
        assert!(timeout(moment, windows.share(16 * MIB)).await.is_err(), "no memory is free");
        drop(small);
        let mut large = std::pin::pin!(windows.share(64 * MIB));
        assert!(timeout(moment, &mut large).await.is_err(), "32 MiB are too few");
        assert!(timeout(moment, windows.share(16 * MIB)).await.is_err(), "another request comes first");
        drop(first);
        assert!(timeout(moment, large).await.is_ok(), "there is enough memory now");
        let all = windows.share(128 * MIB).await.expect("all memory came back");
        assert!(windows.share(64 * MIB).await.is_none(), "the wait has a limit");
        drop(all);
    }
}
