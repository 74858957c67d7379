//! Copies objects to customers' buckets.

use super::*;
use crate::{
    copy::{Copied, CopyJob, CopyWay},
    name::ObjectKeyTemplate,
};

/// A copy that can begin: the object is claimed and the customer's account is entered.
struct ReadyCopy<'a, S, L> {
    way: CopyWay<'a>,
    session: S,
    claim: Arc<Claim<L>>,
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Copies the object into every bucket in `wanted`, one after another. A copy that fails does not stop the next. Returns the
    /// number of deliveries that were already done.
    pub(super) async fn copy(
        &self,
        admitted: Admitted<'_>,
        wanted: &[(&Delivery, &Bucket, &ObjectKeyTemplate)],
        report: &mut MessageReport,
    ) -> usize {
        let Admitted { object, route, .. } = admitted;
        let source_prefix = self.settings.key_rules.tenant_prefix(&object.key);
        let (mut ready, mut done) = (Vec::new(), 0);
        for &(delivery, destination, bucket_key) in wanted {
            let way = CopyWay { delivery, destination, bucket_key, route, object, source_prefix };
            let closed = async { self.ports.copier.closed(&way).await.map(Failure::Copy) };
            let enter = async { self.ports.copier.enter(&way).await.map_err(Failure::Copy) };
            match self.claim_and_enter(admitted, delivery, closed, enter).await {
                Ok(Some((session, claim))) => ready.push(ReadyCopy { way, session, claim }),
                Ok(None) => done += 1,
                Err(failure) => report.failures.push(admitted.failed(Some(&delivery.name), failure)),
            }
        }
        if ready.is_empty() {
            return done;
        }
        let owner = self.owner(object);
        // The worker's own role makes this call: to the customer's role, S3 gives the same answer for a missing object and for
        // a forbidden one.
        let head = self.ports.store.head(object, owner);
        let head = async { head.await.map_err(|error| self.unread(object, error)) };
        let head = admitted.unless_stopped(head);
        let head = match trace::within(trace::step("head", &object_attributes(object)), head, Failure::reason)
            .await
        {
            Ok(head) => head,
            Err(failure) => {
                for ReadyCopy { claim, .. } in ready {
                    claim.release(claim.from()).await;
                }
                report.failures.push(admitted.failed(None, failure));
                return done;
            }
        };
        for ReadyCopy { way, session, claim } in ready {
            let (delivery, copying) = (way.delivery, Instant::now());
            let job = CopyJob { way, owner, head: &head };
            let copy = async {
                claim.hold().await.map_err(Failure::Ledger)?;
                self.ports.copier.copy(&session, &job).await.map_err(Failure::Copy)
            };
            let copy = admitted.unless_stopped(copy);
            let finished =
                match trace::within(trace::step("copy", &object_attributes(object)), copy, Failure::reason)
                    .await
                {
                    Ok(copied) => {
                        claim.finish(claim.from().position).await.map(|()| copied).map_err(Failure::Ledger)
                    }
                    Err(failure) => {
                        claim.release(claim.from()).await;
                        Err(failure)
                    }
                };
            match finished {
                Ok(Copied::Superseded) => report.skipped.push(Skipped::Superseded),
                Ok(Copied::Counted) => {
                    let size = head.size.or(object.size).unwrap_or_default();
                    let tally = Tally { bytes: size, ..Tally::default() };
                    report.delivered.push(self.delivered(object, delivery, &tally));
                    told::copied(&admitted, delivery, copying.elapsed());
                }
                Ok(Copied::Written) => {
                    self.metrics.objects_copied.inc();
                    // A copy has no records to account for.
                    self.arrived(object, delivery);
                    report.delivered.push(self.delivered(object, delivery, &Tally::default()));
                    told::copied(&admitted, delivery, copying.elapsed());
                }
                Err(failure) => report.failures.push(admitted.failed(Some(&delivery.name), failure)),
            }
        }
        done
    }
}
