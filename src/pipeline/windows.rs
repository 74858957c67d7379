//! Memory for zstd windows that are larger than the 8 MiB of each slot. All slots share this memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::decode::{MAX_WINDOW, ORDINARY_WINDOW};

/// Longest wait for a share. Meanwhile, the object's slot is not free for other tenants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Memory that is given out in shares. Requests are served in their order. A tenant gets at most half of the memory, or one share
/// that is larger, because objects of a tenant whose CloudWatch Logs hangs keep their shares for minutes.
#[derive(Debug)]
pub(super) struct Windows {
    free: Semaphore,
    largest: u64,
    half: u32,
    /// What each tenant may still take. Tenants without a share are forgotten.
    tenants: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
}

/// Memory for the windows of one tenant's object.
#[derive(Debug)]
pub(super) struct TenantWindows<'w> {
    windows: &'w Windows,
    free: Arc<Semaphore>,
}

/// Memory for one window. It is free again when the share drops.
#[derive(Debug)]
pub(super) struct WindowShare<'w> {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'w>,
}

impl Windows {
    pub(super) fn new(bytes: u64) -> Self {
        let all = usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            free: Semaphore::new(all),
            largest: bytes.clamp(ORDINARY_WINDOW, MAX_WINDOW),
            half: u32::try_from(bytes / 2).unwrap_or(u32::MAX).max(1),
            tenants: Mutex::default(),
        }
    }

    /// The windows of one tenant.
    pub(super) fn of(&self, tenant_id: &Arc<str>) -> TenantWindows<'_> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|_, free| Arc::strong_count(free) > 1);
        let new = || Arc::new(Semaphore::new(self.half as usize));
        let free = tenants.entry(Arc::clone(tenant_id)).or_insert_with(new);
        TenantWindows { windows: self, free: Arc::clone(free) }
    }
}

impl<'w> TenantWindows<'w> {
    /// Size of the largest window that a share can have.
    pub(super) fn largest(&self) -> u64 {
        self.windows.largest
    }

    /// Waits for the memory of a window of `window` bytes, or of [`TenantWindows::largest`] bytes if that is less. Returns
    /// `None` if there is not enough memory within ten seconds. The caller must hold no other share: two callers, each with
    /// a share that the other needs, would both wait in vain.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped while it waits holds nothing.
    pub(super) async fn share(&self, window: u64) -> Option<WindowShare<'w>> {
        let bytes = u32::try_from(window.min(self.largest())).expect("the largest window is far below 4 GiB");
        let both = async {
            // Waiting for the tenant's own objects takes nothing from other tenants.
            let of_tenant = Arc::clone(&self.free).acquire_many_owned(bytes.min(self.windows.half)).await;
            (of_tenant, self.windows.free.acquire_many(bytes).await)
        };
        let (of_tenant, of_all) = timeout(PATIENCE, both).await.ok()?;
        const OPEN: &str = "the semaphore is never closed";
        Some(WindowShare { _of_tenant: of_tenant.expect(OPEN), _of_all: of_all.expect(OPEN) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_largest_window_fits_into_the_memory() {
        let largest = |bytes| Windows::new(bytes).of(&"acme".into()).largest();
        assert_eq!(
            [0, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, u64::MAX].map(largest),
            [8 * MIB, 8 * MIB, 8 * MIB + 1, 64 * MIB, 128 * MIB, 128 * MIB]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_given_in_order_while_memory_is_free() {
        let windows = Windows::new(160 * MIB);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|tenant| windows.of(&tenant.into()));
        let moment = Duration::from_secs(1);
        let first = a.share(128 * MIB).await.expect("all memory is free");
        let small = b.share(32 * MIB).await.expect("32 MiB are left");
        assert!(timeout(moment, c.share(16 * MIB)).await.is_err(), "no memory is free");
        drop(small);
        let mut large = std::pin::pin!(b.share(64 * MIB));
        assert!(timeout(moment, &mut large).await.is_err(), "32 MiB are too few");
        assert!(timeout(moment, d.share(16 * MIB)).await.is_err(), "another request comes first");
        drop(first);
        assert!(timeout(moment, large).await.is_ok(), "there is enough memory now");
        let all = c.share(128 * MIB).await.expect("all memory came back");
        assert!(d.share(64 * MIB).await.is_none(), "the wait has a limit");
        drop(all);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_takes_at_most_half_or_one_share() {
        let windows = Windows::new(128 * MIB);
        let [hanging, other] = ["hanging", "other"].map(Arc::from);
        let held = windows.of(&hanging).share(64 * MIB).await.expect("all memory is free");
        {
            let (more, moment) = (windows.of(&hanging), Duration::from_secs(1));
            let mut waiting = std::pin::pin!(more.share(16 * MIB));
            assert!(timeout(moment, &mut waiting).await.is_err(), "the tenant has its half");
            // The request that waits does not come before another tenant's.
            let others = timeout(moment, windows.of(&other).share(64 * MIB))
                .await
                .expect("half of the memory is left");
            assert!(others.is_some() && waiting.await.is_none(), "the tenant still has its half");
        }
        drop(held);
        let largest = windows.of(&hanging).share(128 * MIB).await.expect("a single share may exceed half");
        assert!(windows.of(&hanging).share(16 * MIB).await.is_none(), "no memory is free");
        drop(largest);
        windows.of(&other).share(16 * MIB).await.expect("the memory came back");
        assert_eq!(
            windows.tenants.lock().expect("no test panics with it").len(),
            1,
            "idle tenants are forgotten"
        );
    }
}
