//! Finds the deliveries that want an object.

use tokio::time::Instant;

use super::*;
use crate::tenant::{LookupError, Tenant};

/// Deliveries of one object, by its tenant's rows.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// Deliveries that want the object.
    pub(super) deliveries: Vec<Arc<Delivery>>,
    /// Why no delivery wants the object, if there is no failure.
    pub(super) skipped: Option<Skipped>,
    /// Names of the other enabled rows: bad ones, and those that filter the object out. `None` if the rows were not judged.
    pub(super) unused: Option<Vec<String>>,
    /// Whether the tenant has enabled deliveries, and all of them are in shadow mode.
    pub(super) all_in_shadow: bool,
    /// Failures of the tenant or its rows.
    pub(super) failures: Vec<Failed>,
}

impl Wanted {
    /// Whether the rows would cost the customer records: a failure makes a dead letter, and an object of an unknown tenant
    /// is discarded. A row that is disabled, or that filters the object out, does not count as a loss: it is used although
    /// it may be `tenants.cache_ttl` old.
    fn is_loss(&self) -> bool {
        !self.failures.is_empty() || self.skipped == Some(Skipped::UnknownTenant)
    }

    /// Whether the tenant is known to have rows that are not all switched off.
    pub(super) fn has_rows(&self) -> bool {
        let unknown = |failed: &Failed| matches!(failed.failure, Failure::UnknownTenant | Failure::Lookup(_));
        !self.deliveries.is_empty() || self.failures.iter().any(|failed| !unknown(failed))
    }

    /// Whether the table could not be read.
    pub(super) fn is_out_of_reach(&self) -> bool {
        self.failures.iter().any(|failed| matches!(failed.failure, Failure::Lookup(_)))
    }

    /// Keeps the deliveries of the good rows when the table cannot be read. The lookup's failure replaces all other results, so
    /// that the message is retried until the table answers.
    fn unconfirmed(self, object: &ObjectRef, tenant_id: &str, error: LookupError) -> Self {
        let failures = vec![Failed::of(object, Some(tenant_id), None, Failure::Lookup(error))];
        Self { deliveries: self.deliveries, failures, ..Self::default() }
    }
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Finds the deliveries that want the object. If the remembered rows would cost records, the table is read again: a row may
    /// have been added, corrected or resumed meanwhile.
    pub(super) async fn wanted(&self, object: &ObjectRef, route: &Route) -> Wanted {
        let (directory, began) = (&self.ports.directory, Instant::now());
        let remembered = match directory.find(&route.tenant).await {
            Ok(found) => self.judge(object, route, found.as_deref()),
            Err(error) => return Wanted::default().unconfirmed(object, &route.tenant, error),
        };
        if !remembered.is_loss() {
            return remembered;
        }
        match directory.confirm(&route.tenant, began).await {
            Ok(found) => self.judge(object, route, found.as_deref()),
            Err(error) => remembered.unconfirmed(object, &route.tenant, error),
        }
    }

    fn judge(&self, object: &ObjectRef, route: &Route, tenant: Option<&Tenant>) -> Wanted {
        let mut wanted = Wanted::default();
        let fail = |delivery, failure| Failed::of(object, Some(&route.tenant), delivery, failure);
        let Some(tenant) = tenant else {
            match self.settings.unknown_tenant {
                UnknownTenant::DeadLetter => wanted.failures.push(fail(None, Failure::UnknownTenant)),
                UnknownTenant::Discard => wanted.skipped = Some(Skipped::UnknownTenant),
            }
            return wanted;
        };
        if tenant.paused {
            wanted.failures.push(fail(None, Failure::TenantPaused));
            return wanted;
        }
        if let Some(bad) = &tenant.bad_settings {
            // The unreadable settings may pause the tenant, and a delivery cannot be taken back.
            wanted.failures.push(fail(Some(&bad.name), Failure::Row(bad.clone())));
            return wanted;
        }
        let (mut filtered, mut unused) = (false, Vec::new());
        for row in &tenant.deliveries {
            match row {
                Ok(delivery) if !delivery.enabled => {}
                Ok(delivery) if !delivery.wants(&route.application) => {
                    filtered = true;
                    unused.push(delivery.name.clone());
                }
                Ok(delivery) => match self.settings.own_buckets.check_for(delivery, &object.bucket) {
                    Ok(()) => wanted.deliveries.push(Arc::clone(delivery)),
                    Err(bad) => {
                        unused.push(bad.name.clone());
                        wanted.failures.push(fail(Some(&delivery.name), Failure::Row(bad)));
                    }
                },
                // A disabled row may be broken.
                Err(bad) if !bad.enabled => {}
                Err(bad) => {
                    unused.push(bad.name.clone());
                    wanted.failures.push(fail(Some(&bad.name), Failure::Row(bad.clone())));
                }
            }
        }
        wanted.unused = Some(unused);
        let modes = tenant.deliveries.iter().filter_map(|row| match row {
            Ok(delivery) => delivery.enabled.then_some(delivery.mode),
            // Nobody knows the mode of a bad row.
            Err(bad) => bad.enabled.then_some(Mode::Live),
        });
        let mut modes = modes.peekable();
        wanted.all_in_shadow = modes.peek().is_some() && modes.all(|mode| mode == Mode::Shadow);
        if wanted.deliveries.is_empty() && wanted.failures.is_empty() {
            wanted.skipped = Some(if filtered { Skipped::Filtered } else { Skipped::Disabled });
        }
        wanted
    }
}
