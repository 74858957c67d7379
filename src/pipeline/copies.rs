//! Objects that go to customers' buckets as they are.

use super::*;
use crate::copy::CopyJob;

/// A copy that can begin: the object is ours.
struct Ready<'a, L> {
    delivery: &'a Delivery,
    destination: &'a Bucket,
    claim: Arc<Claim<L>>,
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: ObjectCopier, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Copies the object into every bucket that wants it, one after another; one that fails does not stop the next. Answers
    /// with how many were done already.
    pub(super) async fn copy(
        &self,
        object: &ObjectRef,
        route: &Route,
        wanted: &[(&Delivery, &Bucket)],
        stop: &CancellationToken,
        report: &mut Report,
    ) -> usize {
        let fail = |delivery: Option<&str>, failure| Failed {
            object: Some(object.clone()),
            tenant_id: Some(route.tenant.clone()),
            delivery: delivery.map(str::to_owned),
            failure,
        };
        let (mut ready, mut done) = (Vec::new(), 0);
        for &(delivery, destination) in wanted {
            match self.ports.claims.claim(object, &delivery.name).await {
                Claimed::Ours(claim) => ready.push(Ready { delivery, destination, claim }),
                Claimed::Done => done += 1,
                Claimed::Busy(left) => report.failures.push(fail(Some(&delivery.name), Failure::Busy(left))),
            }
        }
        if ready.is_empty() {
            return done;
        }
        let owner = self.owner(object);
        // With our own eyes: in the customer's role, S3 does not tell a missing object from a forbidden one.
        let head = tokio::select! {
            head = self.ports.store.head(object, owner) => head.map_err(Failure::Object),
            () = stop.cancelled() => Err(Failure::Stopping),
        };
        let head = match head {
            Ok(head) => head,
            Err(failure) => {
                for Ready { claim, .. } in ready {
                    claim.release(claim.from()).await;
                }
                report.failures.push(fail(None, failure));
                return done;
            }
        };
        let source_prefix = self.settings.key_layout.tenant_prefix(&object.key);
        for Ready { delivery, destination, claim } in ready {
            let job = CopyJob { delivery, destination, route, object, owner, head: &head, source_prefix };
            let copied = tokio::select! {
                copied = self.ports.copier.copy(&job) => copied.map_err(Failure::Copy),
                () = stop.cancelled() => Err(Failure::Stopping),
            };
            if copied.is_err() {
                claim.release(claim.from()).await;
            }
            let finished = match copied {
                Ok(()) => claim.finish(claim.from()).await.map_err(Failure::Lost),
                Err(failure) => Err(failure),
            };
            match finished {
                Ok(()) => {
                    self.metrics.objects_copied.inc();
                    // It has no records to account for: they all are where the object is.
                    report.delivered.push(self.delivered(object, delivery, &Tally::default()));
                }
                Err(failure) => report.failures.push(fail(Some(&delivery.name), failure)),
            }
        }
        done
    }
}
