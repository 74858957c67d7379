//! Remembers tenants, so that most lookups need no read of the table, and deliveries of known tenants continue while the
//! table is down.
//!
//! An entry is fresh for [`CacheSettings::ttl`]. After that the tenant is looked up again; each tenant has at most one
//! lookup at a time. If the lookup fails, a tenant that was found before is still served (a stale entry). An absence is
//! fresh for a shorter time and is never served stale, because the tenant may have been added meanwhile. A verdict that
//! ends the work on a message needs a confirmed entry: see [`Directory::confirm`].

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
use crate::{
    metrics::{Ended, add},
    trace::milliseconds,
};

/// Interval between lookups (of any tenant) while the directory is down. If each message made a lookup, each would wait for a
/// timeout.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Time limit of a lookup in three cases: a stale entry can be served, the directory is known to be down, or the lookup
/// only confirms an entry. DynamoDB answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Id of a tenant that cannot exist: a tenant id is a segment of a key, so it has no slash.
const NOBODY: &str = "logferry/readiness";

/// Metrics of a cache.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// `logferry_tenant_lookups_total{result}`: lookups that no fresh entry answered. `found` and `none` are answers of the
    /// table. `stale`: the table did not answer, and an older entry was served. `failed`: there was no such entry.
    pub tenant_lookups: Family<Ended, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        add(
            registry,
            "tenant_lookups",
            "Lookups of tenants that no fresh entry answered, by result",
            &self.tenant_lookups,
        );
    }
}

/// Settings of the cache.
#[derive(Clone, Debug)]
pub struct CacheSettings {
    /// Name of the table, for error texts.
    pub table: String,
    /// Most tenants that are remembered.
    pub capacity: u64,
    /// How long a tenant is fresh.
    pub ttl: Duration,
    /// How long an absence is fresh.
    pub negative_ttl: Duration,
    /// How much longer than `ttl` a tenant is served while the table does not answer.
    pub max_stale: Duration,
}

/// A directory with a cache. Clones share the cache.
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

/// Entry of one tenant.
#[derive(Debug, Default)]
struct Slot {
    known: Mutex<Option<Known>>,
    /// Held during a lookup of the tenant.
    flight: tokio::sync::Mutex<()>,
}

type Found = Option<Arc<Tenant>>;

/// An answer of the directory.
#[derive(Clone, Debug)]
struct Known {
    found: Found,
    /// Start of the lookup. The answer has the table's content at that time or later.
    asked_at: Instant,
}

/// Entries that may answer without a lookup.
#[derive(Clone, Copy, Debug)]
enum Need {
    /// Fresh entries.
    Fresh,
    /// Entries whose lookup began at this time or later.
    AskedSince(Instant),
}

/// An outage of the directory.
#[derive(Debug)]
struct Outage {
    began: Instant,
    error: LookupError,
    probe_at: Instant,
    /// Number of lookups that a stale entry answered.
    stale: AtomicU64,
}

impl<D: Directory> TenantCache<D> {
    /// Creates an empty cache for `directory`.
    pub fn new(directory: D, settings: CacheSettings, metrics: Metrics) -> Self {
        let slots = Cache::builder()
            .max_capacity(settings.capacity)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(settings.ttl.saturating_add(settings.max_stale))
            .build();
        let outage = Mutex::new(None);
        Self { shared: Arc::new(Shared { directory, settings, slots, outage, metrics }) }
    }

    /// Checks that the directory answers, by a lookup of a tenant that cannot exist. The result also begins or ends an
    /// outage for all lookups.
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
    /// See [`Directory::find`].
    ///
    /// # Cancel safety
    /// Safe: if a lookup is dropped, the next caller starts another lookup.
    async fn find(&self, tenant_id: &str) -> Result<Found, LookupError> {
        let slot = self.shared.slot(tenant_id).await;
        self.shared.answer(&slot, tenant_id, Need::Fresh).await
    }

    /// See [`Directory::confirm`]. Callers that arrive during a lookup share the next one: many messages of one tenant
    /// cause one lookup after another, never two at once.
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

    /// Answers with an entry that fulfils the need, or else by a lookup. If the lookup fails and the need was a fresh
    /// entry, answers with a stale one.
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
            // A lookup with an alternative is cut short, so that its message does not hold a slot for long: a stale
            // entry is served, or the message is retried later.
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

    /// Looks the tenant up in the directory. A caller that waited for another caller's lookup gets the answer of that
    /// lookup, or the error of the outage that it found.
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

    /// Answers with the stale entry, or else with the error.
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

    /// Checks that a lookup may be made: no outage is known, or a probe is due.
    fn check(&self, tenant_id: &str) -> Result<(), LookupError> {
        match &*self.outage() {
            Some(outage) if Instant::now() < outage.probe_at => Err(outage.error_for(tenant_id)),
            _ => Ok(()),
        }
    }

    /// Checks the same as [`check`](Self::check). If a probe is due, this lookup becomes the probe.
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
                    tenants.max_stale_ms = milliseconds(self.settings.max_stale),
                    "the tenant table does not answer: tenants found before are served from memory, and messages of other \
                     tenants are retried; check the table and the worker's permission dynamodb:Query on it"
                );
            }
        }
    }

    fn recovered(&self) {
        if let Some(outage) = self.outage().take() {
            tracing::info!(
                outage.duration_ms = milliseconds(outage.began.elapsed()),
                outage.stale = outage.stale.into_inner(),
                "the tenant table answers again"
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
        self.metrics.tenant_lookups.get_or_create(&Ended::new(result)).inc();
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        // The value is valid after every statement, so the lock is usable after a panic.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    /// The outage's error, with this tenant's id.
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
