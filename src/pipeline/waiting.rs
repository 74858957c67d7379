//! Tells `status` what becomes of each tenant's objects.

use super::{wanted::Wanted, *};
use crate::batch::BatchTally;

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Records that an object waits, if its tenant has rows. A stranger may name any tenant in a key, and a tenant without
    /// rows must not get a place in the status or in the metrics.
    pub(super) fn waiting(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &Wanted,
        age: Duration,
    ) -> Option<status::Waiting> {
        let waiting = self.begin(object, route, wanted, age);
        if let Some(unused) = &wanted.unused {
            let used: Vec<_> = wanted.deliveries.iter().map(|delivery| delivery.name.as_str()).collect();
            let unused: Vec<_> = unused.iter().map(String::as_str).collect();
            let rows = status::Rows { used: &used, unused: &unused, all_in_shadow: wanted.all_in_shadow };
            self.status.judged(&route.tenant, rows);
        }
        waiting
    }

    fn begin(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &Wanted,
        age: Duration,
    ) -> Option<status::Waiting> {
        let name = name(object);
        match wanted.skipped {
            Some(Skipped::Filtered) => self.status.unwanted(&route.tenant, name),
            // Nothing of the tenant is wanted any more, so nothing of it can fail.
            Some(_) => self.status.switched_off(&route.tenant),
            None => {}
        }
        if wanted.has_rows() {
            return Some(self.status.begin(&route.tenant, name, age));
        }
        // The table cannot be read. The object gets a place only if the status knows the tenant already: then the tenant had
        // rows before.
        let out_of_reach = wanted.is_out_of_reach();
        out_of_reach.then(|| self.status.begin_if_known(&route.tenant, name, age)).flatten()
    }

    /// Records that an attempt stored nothing of an object, because every event that it put was rejected.
    pub(super) fn tell_rejected(&self, object: &ObjectRef, delivery: &Delivery, tally: &Tally) {
        let BatchTally { accepted: _, too_old, too_new, expired, refused } = tally.put;
        let scope = if tally.resumed == 0 { "" } else { " in this attempt" };
        self.status.failed(&status::ObjectFailure {
            tenant_id: Some(&delivery.tenant_id),
            delivery: Some(&delivery.name),
            key: Some(&object.key),
            reason: status::REJECTED,
            text: &format!(
                "CloudWatch Logs stored no event of the object{scope}: {too_old} too old, {too_new} too new, {expired} expired, \
                 {refused} refused"
            ),
            again_in: None,
        });
    }

    /// Records a failure.
    pub(super) fn tell_status(&self, failed: &Failed, again_in: Option<Duration>) {
        self.status.failed(&status::ObjectFailure {
            tenant_id: failed.tenant_id.as_deref(),
            delivery: failed.delivery.as_deref(),
            key: failed.object.as_ref().map(|object| object.key.as_str()),
            reason: failed.failure.reason(),
            text: &failed.to_string(),
            again_in,
        });
    }
}

fn name(object: &ObjectRef) -> status::ObjectName<'_> {
    let ObjectRef { bucket, key, version_id, etag, sequencer, .. } = object;
    let version = version_id.as_deref().or(etag.as_deref()).or(sequencer.as_deref());
    status::ObjectName { bucket, key, version }
}
