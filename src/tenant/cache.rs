//! Remembers tenants in front of the directory that knows them, and goes on with what it remembers while that one is down.
//!
//! An entry is believed for a time, then looked up anew, one lookup at a time per tenant. If the lookup fails, what was
//! found before serves on. That there is no such tenant is remembered for a shorter time and never serves on: the tenant may
//! have been added since. A final verdict needs more than a remembered entry: see [`Directory::confirm`].

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::{future::Cache, policy::EvictionPolicy};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::time::{Instant, timeout};

use super::{Directory, LookupError, Tenant};
use crate::metrics::{Lookup, add};

/// While the directory is down it is asked once per this time, whoever is looked for: an outage must not cost every
/// message a time-out.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// A lookup that need not succeed, because there is an older entry or because the directory is known to be down, is given
/// up after this time. DynamoDB answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// No segment of a key can be this: it has a slash.
const NOBODY: &str = "logferry/readiness";

/// Metrics of a cache.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_tenant_lookups_total{result}`: lookups that no fresh entry answered. `found` and `none` are the table's answers,
    /// `stale` is an older entry in place of an answer, `failed` is neither.
    pub tenant_lookups: Family<Lookup, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "tenant_lookups",
            "Lookups of tenants that no fresh entry answered, by result",
            &self.tenant_lookups,
        );
    }
}

/// How much is remembered, and for how long.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// The table's name, for what is said of it.
    pub table: String,
    /// Most tenants remembered.
    pub capacity: u64,
    /// After this time a tenant is looked up anew.
    pub ttl: Duration,
    /// After this time "there is no such tenant" is looked up anew.
    pub negative_ttl: Duration,
    /// How long after that it serves on while it cannot be.
    pub max_stale: Duration,
}

/// A directory behind a cache; cheap to clone, clones remember together.
#[derive(Clone, Debug)]
pub struct TenantCache<D> {
    shared: Arc<Shared<D>>,
}

#[derive(Debug)]
struct Shared<D> {
    directory: D,
    settings: CacheSettings,
    slots: Cache<String, Arc<Slot>>,
    outage: Mutex<Option<Outage>>,
    metrics: Metrics,
}

/// One tenant's place.
#[derive(Debug, Default)]
struct Slot {
    known: Mutex<Option<Known>>,
    /// Held while the directory is asked.
    flight: tokio::sync::Mutex<()>,
}

type Found = Option<Arc<Tenant>>;

/// What the directory said.
#[derive(Clone, Debug)]
struct Known {
    found: Found,
    /// When it was asked: the answer holds what was in the table then, or later.
    asked_at: Instant,
}

/// Which entry answers without a lookup.
#[derive(Clone, Copy, Debug)]
enum Need {
    /// One that is not older than its time to live.
    Fresh,
    /// One that was asked for at this moment or later.
    AskedSince(Instant),
}

/// The directory does not answer.
#[derive(Debug)]
struct Outage {
    began: Instant,
    error: LookupError,
    probe_at: Instant,
    /// Lookups that an older entry answered.
    stale: AtomicU64,
}

impl<D: Directory> TenantCache<D> {
    /// Remembers what `directory` says.
    pub fn new(directory: D, settings: CacheSettings, metrics: Metrics) -> Self {
        let slots = Cache::builder()
            .max_capacity(settings.capacity)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(settings.ttl.saturating_add(settings.max_stale))
            .build();
        let outage = Mutex::new(None);
        Self { shared: Arc::new(Shared { directory, settings, slots, outage, metrics }) }
    }

    /// Asks the directory for a tenant that cannot exist: is it there, and may we read it? What comes of it is what
    /// lookups learn too: during an outage they need not find out themselves.
    ///
    /// # Errors
    /// As [`Directory::find`].
    pub async fn probe(&self) -> Result<(), LookupError> {
        match self.shared.directory.find(NOBODY).await {
            Ok(_) => {
                self.shared.recovered();
                Ok(())
            }
            Err(error) => {
                self.shared.failed(&error);
                Err(error)
            }
        }
    }
}

impl<D: Directory> Directory for TenantCache<D> {
    /// As in the trait.
    ///
    /// # Cancel safety
    /// Safe: a lookup that was dropped is begun anew by the next caller.
    async fn find(&self, tenant_id: &str) -> Result<Found, LookupError> {
        let slot = self.shared.slot(tenant_id).await;
        self.shared.answer(&slot, tenant_id, Need::Fresh).await
    }

    /// As in the trait. Those who wait for a lookup share the next one: a flood of messages of one tenant costs one lookup
    /// after the other, never two at once.
    ///
    /// # Cancel safety
    /// As [`Self::find`].
    async fn confirm(&self, tenant_id: &str, since: Instant) -> Result<Found, LookupError> {
        let slot = self.shared.slot(tenant_id).await;
        self.shared.answer(&slot, tenant_id, Need::AskedSince(since)).await
    }
}

impl<D: Directory> Shared<D> {
    async fn slot(&self, tenant_id: &str) -> Arc<Slot> {
        self.slots.get_with_by_ref(tenant_id, async { Arc::default() }).await
    }

    /// The entry that will do, else what the directory says, else, where an entry need only be fresh, a stale one.
    async fn answer(&self, slot: &Slot, tenant_id: &str, need: Need) -> Result<Found, LookupError> {
        if let Some(found) = slot.found(need, &self.settings) {
            return Ok(found);
        }
        let stale = match need {
            Need::Fresh => slot.stale(&self.settings),
            Need::AskedSince(_) => None,
        };
        let down = self.outage().is_some();
        let answer = match self.check(tenant_id) {
            Err(error) => Err(error),
            // A lookup that only confirms a loss may not hold its slot: the message can wait.
            Ok(()) if stale.is_some() || down || matches!(need, Need::AskedSince(_)) => {
                timeout(PATIENCE, self.look_up(slot, tenant_id, need)).await.unwrap_or_else(|_| {
                    let error = self.no_answer(tenant_id);
                    self.failed(&error);
                    Err(error)
                })
            }
            Ok(()) => self.look_up(slot, tenant_id, need).await,
        };
        answer.or_else(|error| self.instead(stale, error))
    }

    /// Asks the directory, unless somebody just did: those who waited find its answer, or the outage that it found.
    async fn look_up(&self, slot: &Slot, tenant_id: &str, need: Need) -> Result<Found, LookupError> {
        let _flight = slot.flight.lock().await;
        if let Some(found) = slot.found(need, &self.settings) {
            return Ok(found);
        }
        self.admit(tenant_id)?;
        let asked_at = Instant::now();
        match self.directory.find(tenant_id).await {
            Ok(found) => {
                *slot.known() = Some(Known { found: found.clone(), asked_at });
                self.recovered();
                self.count(if found.is_some() { "found" } else { "none" });
                Ok(found)
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// What was found before, or the error.
    fn instead(&self, stale: Option<Arc<Tenant>>, error: LookupError) -> Result<Found, LookupError> {
        let Some(tenant) = stale else {
            self.count("failed");
            return Err(error);
        };
        self.count("stale");
        if let Some(outage) = &*self.outage() {
            outage.stale.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Some(tenant))
    }

    /// Tells at once whether the directory is to be left alone.
    fn check(&self, tenant_id: &str) -> Result<(), LookupError> {
        match &*self.outage() {
            Some(outage) if Instant::now() < outage.probe_at => Err(outage.error_for(tenant_id)),
            _ => Ok(()),
        }
    }

    /// The same, and takes the probe if there is one to take.
    fn admit(&self, tenant_id: &str) -> Result<(), LookupError> {
        let now = Instant::now();
        match &mut *self.outage() {
            Some(outage) if now < outage.probe_at => Err(outage.error_for(tenant_id)),
            Some(outage) => {
                outage.probe_at = now + PROBE_INTERVAL;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn failed(&self, error: &LookupError) {
        let now = Instant::now();
        let probe_at = now + PROBE_INTERVAL;
        let mut outage = self.outage();
        match &mut *outage {
            Some(outage) => (outage.error, outage.probe_at) = (error.clone(), probe_at),
            None => {
                *outage =
                    Some(Outage { began: now, error: error.clone(), probe_at, stale: AtomicU64::default() });
                tracing::warn!(
                    error = %error,
                    tenants.max_stale = ?self.settings.max_stale,
                    "tenants cannot be looked up: those found before are served from memory, messages of others wait"
                );
            }
        }
    }

    fn recovered(&self) {
        if let Some(outage) = self.outage().take() {
            tracing::info!(
                outage.duration = ?outage.began.elapsed(),
                outage.stale = outage.stale.into_inner(),
                "tenants can be looked up again"
            );
        }
    }

    fn no_answer(&self, tenant_id: &str) -> LookupError {
        LookupError {
            tenant_id: tenant_id.to_owned(),
            table: self.settings.table.clone(),
            problem: format!("no answer within {PATIENCE:?}"),
        }
    }

    fn count(&self, result: &'static str) {
        self.metrics.tenant_lookups.get_or_create(&Lookup::new(result)).inc();
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        // Every statement leaves it whole.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    /// Somebody else's error, as this tenant's.
    fn error_for(&self, tenant_id: &str) -> LookupError {
        LookupError { tenant_id: tenant_id.to_owned(), ..self.error.clone() }
    }
}

impl Slot {
    fn found(&self, need: Need, settings: &CacheSettings) -> Option<Found> {
        let known = self.known();
        let Known { found, asked_at } = known.as_ref()?;
        let will_do = match need {
            Need::Fresh => {
                let ttl = if found.is_some() { settings.ttl } else { settings.negative_ttl };
                asked_at.elapsed() < ttl
            }
            Need::AskedSince(since) => *asked_at >= since,
        };
        will_do.then(|| found.clone())
    }

    fn stale(&self, settings: &CacheSettings) -> Option<Arc<Tenant>> {
        let longest = settings.ttl.saturating_add(settings.max_stale);
        let known = self.known();
        known.as_ref().filter(|known| known.asked_at.elapsed() < longest)?.found.clone()
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
