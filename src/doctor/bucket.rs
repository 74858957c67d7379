//! Checks the way to a customer's bucket. Makes no copy, because a copy would leave an object there.

use super::{Doctor, Finding, Findings, OurSide};
use crate::{
    credentials::{request::SessionSpec, scope::Scope},
    route::Route,
    tenant::{Bucket, Delivery},
};

impl Doctor {
    /// Checks the role that copies, and says why no copy was made.
    pub(super) async fn bucket(&self, delivery: &Delivery, to: &Bucket, our_side: &OurSide) -> Findings {
        let role = match &to.role {
            _ if our_side.no_central => {
                Finding::Skipped("it can only be assumed through the central role".to_owned())
            }
            None => Finding::Skipped(format!(
                "the row names no role, so the central role writes; whether the policy of bucket {} allows that was not checked",
                to.bucket_name
            )),
            Some(role) => {
                let cluster = self.cluster.clone();
                let route = Route { tenant: delivery.tenant_id.clone(), cluster, ..Route::default() };
                let entry = SessionSpec {
                    tenant_id: delivery.tenant_id.clone(),
                    role: role.clone(),
                    external_id: to.external_id.clone(),
                    session_tags: to.session_tags,
                    source_identity: to.source_identity,
                    cluster: self.cluster.clone(),
                    // STS checks only the size of this policy, and the doctor copies nothing. So the source's names need not
                    // be those of an object.
                    scope: Scope::Copy {
                        source_bucket: self
                            .source
                            .first()
                            .map_or(&to.bucket_name, |bucket| &bucket.name)
                            .clone(),
                        source_prefix: format!("{}/", delivery.tenant_id),
                        bucket: to.bucket_name.clone(),
                        prefix: to.bucket_prefix.clone() + &to.bucket_key.tenant_prefix(&route),
                    },
                };
                match self.instruments.customers.enter(entry.clone()).await {
                    Ok(_) => self.entered(&entry, our_side),
                    Err(error) => self.refused(&entry, our_side, &error),
                }
            }
        };
        let copy = format!(
            "a copy would leave an object in s3://{}/{}; a worker's log and metrics show whether its copies succeed",
            to.bucket_name, to.bucket_prefix
        );
        vec![("customer role", role), ("copy", Finding::Skipped(copy))]
    }
}
