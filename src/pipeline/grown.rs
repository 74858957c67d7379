//! Lets objects grow that turn out larger than their events said, and remembers whose objects did.

use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::Semaphore;

use super::*;
use crate::room;

/// For how long all objects of a tenant get whole slots after one of them had to grow. Objects of one tenant are alike, and
/// each that grows may wait for a slot.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Most tenants that are remembered.
const MAX_TENANTS: NonZeroUsize = NonZeroUsize::new(1000).expect("not zero");

/// The tenants whose objects had to grow lately.
#[derive(Debug)]
pub(super) struct Grown {
    tenants: Mutex<LruCache<Arc<str>, Larger>>,
    /// Most objects of one tenant that may have grown at once.
    turns: usize,
}

/// A tenant whose objects turned out larger than their events said.
#[derive(Debug)]
struct Larger {
    at: Instant,
    turns: Arc<Semaphore>,
}

impl Grown {
    /// For a worker of so many slots. Half of them at most are for one tenant's objects that grow.
    pub(super) fn new(slots: usize) -> Self {
        let turns = (slots / 2).clamp(1, Semaphore::MAX_PERMITS);
        Self { tenants: Mutex::new(LruCache::new(MAX_TENANTS)), turns }
    }

    fn has(&self, tenant_id: &str) -> bool {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.peek(tenant_id).is_some_and(|larger| larger.at.elapsed() < REMEMBERED)
    }

    /// Remembers the tenant, and returns its turns.
    fn remember(&self, tenant_id: &Arc<str>) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Larger { at: Instant::now(), turns: Arc::new(Semaphore::new(self.turns)) };
        let larger = tenants.get_or_insert_mut(Arc::clone(tenant_id), new);
        larger.at = Instant::now();
        Arc::clone(&larger.turns)
    }
}

/// The place of an object that is being read.
#[derive(Clone, Copy)]
pub(super) struct Growing<'a> {
    /// Units of the object by its event.
    pub(super) announced: u32,
    pub(super) place: &'a Place,
    pub(super) pass: &'a Pass,
    pub(super) grown: &'a Grown,
}

impl Growing<'_> {
    /// Waits for a whole slot if an object of `stored` bytes does not fit.
    pub(super) async fn fit_stored(&self, stored: Option<u64>) {
        if room::units(stored, 0) > self.place.units() {
            self.grow().await;
        }
    }

    /// Waits for a whole slot if an object of which `decompressed` bytes were read does not fit.
    pub(super) async fn fit_decompressed(&self, decompressed: u64) {
        if decompressed > self.place.most_decompressed() {
            self.grow().await;
        } else if decompressed > room::most_decompressed(self.announced) {
            // It has a slot, because the tenant is remembered, and this object is larger than announced too.
            self.grown.remember(self.pass.tenant_id());
        }
    }

    /// Waits for a whole slot.
    pub(super) async fn fit_whole(&self) {
        if self.place.units() < room::UNITS {
            self.grow().await;
        }
    }

    async fn grow(&self) {
        let turns = self.grown.remember(self.pass.tenant_id());
        self.place.grow(&turns).await;
        self.pass.grow_to(self.place.units());
    }
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Number of units that a message needs in the worker's memory, by the sizes in its body: see [`room::units`].
    pub fn units(&self, message: &Message) -> u32 {
        let objects = event::decode(&message.body).map(|event| event.objects).unwrap_or_default();
        let grew = |object: &ObjectRef| {
            let route = self.settings.key_rules.route(&object.key);
            route.is_ok_and(|route| self.grown.has(&route.tenant))
        };
        let sizes = objects.iter().map(|object| object.size.filter(|_| !grew(object)));
        let largest = sizes.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).unwrap_or(Some(0));
        room::units(largest, message.body.len())
    }
}
