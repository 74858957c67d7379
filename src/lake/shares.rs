//! Memory for lanes that need more than their object's place in the `room`: for long files, many hours, or long records.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};

/// Most objects of a worker whose lanes are large at once. More would not be faster, because encoding needs the processor.
const LARGE_OBJECTS: usize = 4;
/// Most of these objects that belong to one tenant. An object whose bucket hangs keeps its share until the write times out.
const OF_ONE_TENANT: usize = 2;
/// Most of these objects that belong to tenants whose buckets failed lately. The other shares are for the other tenants, however
/// many buckets hang.
const OF_FAILING_TENANTS: usize = 2;
/// How long a failure of a bucket counts. Longer than the time between two attempts at objects whose bucket hangs.
const FAILURE_COUNTS: Duration = Duration::from_secs(300);

/// Memory of a lane that is not large, in bytes: two files with the buffers of their encoders, and 1 MiB of rows or encoded
/// bytes.
const SMALL_LANE: u64 = 5 << 19;
/// Memory of a large lane in bytes, besides one encoded record of `source.max_record` and the footers of row groups: row groups
/// (4 MiB), the encoder's own buffers, less than a part (5 MiB) of each of four files, and a part that is being written.
const LARGE_LANE: u64 = 48 << 20;
/// Bytes of an object's text for each byte of the footers of its files. A row group takes 12 KiB in the footer. It ends at 4 MiB,
/// or with a record of more than 1 MiB.
const TEXT_OF_A_FOOTER: u64 = 64;
/// Memory for encoding a record, as a multiple of the record's length: 3 for its mended text, 2 for its columns, and 1 each for
/// the row group, a page, and the compressed page.
const COPIES_OF_A_RECORD: u64 = 8;

/// Most memory of all lanes of a worker, in bytes, if each object goes into one lake. The worker has `slots` slots, each for one
/// object or for `sharing` small ones. `max_record` and `max_object` are the settings of `source`.
pub fn memory(slots: u64, sharing: u64, max_record: u64, max_object: u64) -> u64 {
    // Small objects have at most an eighth of a slot of text each.
    let small = slots * sharing * (SMALL_LANE / 2);
    let large = LARGE_LANE + max_record + max_object / TEXT_OF_A_FOOTER;
    small + LARGE_OBJECTS as u64 * large + COPIES_OF_A_RECORD * max_record
}

/// The memory for large lanes. Clones share it.
#[derive(Clone, Debug)]
pub struct LakeShares {
    lanes: Arc<Semaphore>,
    /// The shares that each tenant may still take. Tenants without a share are removed.
    tenants: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
    /// Tenants whose bucket failed when a large lane wrote to it, and the time of the latest failure.
    failing: Arc<Mutex<HashMap<String, Instant>>>,
    /// The shares that these tenants may still take together.
    of_failing: Arc<Semaphore>,
    long_record: Arc<Semaphore>,
}

/// Permission for an object's lanes to be large. All lanes of the object share one permission. If each lane waited for its own,
/// two objects with two lanes each could wait for each other for ever.
#[derive(Clone, Debug)]
pub struct ObjectShare {
    shares: LakeShares,
    tenant_id: Arc<str>,
    share: Arc<OnceCell<Share>>,
}

impl ObjectShare {
    /// Waits until the object's lanes may be large. They may until all of them have dropped the share, so a further call does not
    /// wait.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped while it waits holds nothing.
    pub(super) async fn enlarge(&self) {
        self.share.get_or_init(|| self.shares.share(&self.tenant_id)).await;
    }

    /// Says that the tenant's bucket failed. Does nothing if no lane of the object is large.
    pub(super) fn failed(&self) {
        if self.share.initialized() {
            self.shares.failing().insert(self.tenant_id.to_string(), Instant::now());
        }
    }

    /// Waits for the memory to encode one long record. The caller waits for nothing else while it holds the permit.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped while it waits holds nothing.
    pub(super) async fn long_record(&self) -> SemaphorePermit<'_> {
        self.shares.long_record.acquire().await.expect(OPEN)
    }
}

/// The share of one object. It is free again when this value drops.
#[derive(Debug)]
struct Share {
    _of_tenant: OwnedSemaphorePermit,
    _of_failing: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl Default for LakeShares {
    fn default() -> Self {
        Self {
            lanes: Arc::new(Semaphore::new(LARGE_OBJECTS)),
            tenants: Arc::default(),
            failing: Arc::default(),
            of_failing: Arc::new(Semaphore::new(OF_FAILING_TENANTS)),
            long_record: Arc::new(Semaphore::new(1)),
        }
    }
}

const OPEN: &str = "the semaphore is never closed";

impl LakeShares {
    /// The share of one object of a tenant. Its lanes take it when the first of them becomes large.
    pub fn of_object(&self, tenant_id: &Arc<str>) -> ObjectShare {
        ObjectShare { shares: self.clone(), tenant_id: Arc::clone(tenant_id), share: Arc::default() }
    }

    /// Waits until an object of the tenant may be large. The object must have a whole slot already. So an object with a share
    /// waits for no slot, and other objects can wait for its share.
    async fn share(&self, tenant_id: &str) -> Share {
        let of_tenant = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.retain(|_, free| Arc::strong_count(free) > 1);
            let new = || Arc::new(Semaphore::new(OF_ONE_TENANT));
            Arc::clone(tenants.entry(tenant_id.to_owned()).or_insert_with(new))
        };
        // Waiting for the tenant's own objects takes nothing from other tenants.
        let of_tenant = of_tenant.acquire_owned().await.expect(OPEN);
        let is_failing = self.failing().contains_key(tenant_id);
        let of_failing = match is_failing {
            true => Some(Arc::clone(&self.of_failing).acquire_owned().await.expect(OPEN)),
            false => None,
        };
        let of_all = Arc::clone(&self.lanes).acquire_owned().await.expect(OPEN);
        Share { _of_tenant: of_tenant, _of_failing: of_failing, _of_all: of_all }
    }

    /// The tenants whose buckets failed lately.
    fn failing(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.retain(|_, failed| failed.elapsed() < FAILURE_COUNTS);
        failing
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_that_hangs_leaves_shares_for_others() {
        let (shares, moment) = (LakeShares::default(), Duration::from_secs(60));
        let [one, two] = [shares.share("hangs").await, shares.share("hangs").await];
        let mut third = std::pin::pin!(shares.share("hangs"));
        assert!(timeout(moment, &mut third).await.is_err(), "the tenant has its half");
        let others = [shares.share("b").await, shares.share("c").await];
        assert!(timeout(moment, shares.share("d")).await.is_err(), "all are taken");
        drop(others);
        let _others = [shares.share("d").await, shares.share("d").await];
        assert!(timeout(moment, &mut third).await.is_err());
        drop(one);
        timeout(moment, third).await.expect("the tenant's own share came back");
        drop((two, _others));
        let _other = shares.share("e").await;
        let object = shares.of_object(&"f".into());
        for lane in [object.clone(), object.clone(), object] {
            timeout(moment, lane.enlarge()).await.expect("an object's lanes have one share");
        }
        let _last = shares.share("g").await;
        let tenants: BTreeSet<_> =
            shares.tenants.lock().expect("no test panics with it").keys().cloned().collect();
        assert_eq!(tenants, ["e", "g"].map(str::to_owned).into(), "idle tenants are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_whose_buckets_fail_leave_shares_for_others() {
        let (shares, moment) = (LakeShares::default(), Duration::from_secs(60));
        let object = |tenant: &str| shares.of_object(&tenant.into());
        let unused = object("unused");
        unused.failed();
        let fail = ["a", "b", "c"].map(object);
        for object in &fail {
            timeout(moment, object.enlarge()).await.expect("no bucket has failed yet");
            object.failed();
        }
        drop(fail);
        let [a, b, c, healthy, second] = ["a", "b", "c", "unused", "healthy"].map(object);
        for object in [&a, &b] {
            timeout(moment, object.enlarge()).await.expect("failing tenants have a part");
        }
        assert!(timeout(moment, c.enlarge()).await.is_err(), "their part is taken");
        for object in [&healthy, &second] {
            timeout(moment, object.enlarge()).await.expect("the rest is for others");
        }
        drop((a, b, c, healthy));
        tokio::time::advance(FAILURE_COUNTS).await;
        let later = ["a", "b", "c"].map(object);
        for object in &later {
            timeout(moment, object.enlarge()).await.expect("the failures are long ago");
        }
    }
}
