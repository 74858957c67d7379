//! Checks the way to a customer's bucket, with a copy of an object of 0 bytes.

use std::time::Duration;

use super::{Doctor, Finding, Findings, OurSide};
use crate::{
    copy::{CopyError, CopyJob, ObjectCopier, Way},
    credentials::{request::SessionSpec, scope::Scope},
    event::ObjectRef,
    object::ObjectHead,
    route::Route,
    tenant::{Bucket, Delivery},
    wiring::s3::Probe,
};

/// Name of the probe's folder in both buckets.
const PROBE: &str = "logferry-doctor";
/// Longest copy of 0 bytes. The limit of the copier's calls is for 5 GB.
const LONGEST_COPY: Duration = Duration::from_secs(30);

impl Doctor {
    /// Checks the role that copies, and makes a copy.
    pub(super) async fn bucket(&self, delivery: &Delivery, to: &Bucket, our_side: &OurSide) -> Findings {
        let route = Route {
            tenant: delivery.tenant_id.clone(),
            cluster: if self.cluster.is_empty() { PROBE.to_owned() } else { self.cluster.clone() },
            application: PROBE.to_owned(),
            pod: PROBE.to_owned(),
            file: "probe".to_owned(),
        };
        let role = match &to.role {
            _ if our_side.no_central => {
                Finding::Skipped("it can only be assumed through the central role".to_owned())
            }
            None => Finding::Skipped("the row names no role, so the central role writes".to_owned()),
            Some(role) => {
                let entry = SessionSpec {
                    tenant_id: delivery.tenant_id.clone(),
                    role: role.clone(),
                    external_id: to.external_id.clone(),
                    session_tags: to.session_tags,
                    source_identity: to.source_identity,
                    cluster: self.cluster.clone(),
                    // STS checks only the size of this policy. The copy has a session of its own.
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
        let copy = if our_side.no_central || role.is_failure() {
            Finding::Skipped("the role that copies was not entered".to_owned())
        } else {
            self.copy(delivery, to, &route).await
        };
        vec![("customer role", role), ("copy", copy)]
    }

    /// Writes a folder marker into the staging bucket, which the worker acknowledges without work, copies it as the worker copies
    /// objects, and deletes it again.
    async fn copy(&self, delivery: &Delivery, to: &Bucket, route: &Route) -> Finding {
        let Some(source) = self.source.first() else {
            return Finding::Skipped(
                "not checked: source.buckets is empty, so there is no bucket to copy from".to_owned(),
            );
        };
        let source_prefix = match self.config.source.key_rules() {
            Ok(rules) => rules.sample_prefix(&route.tenant, &route.cluster),
            Err(problem) => return Finding::failed(problem.to_string(), "correct the configuration"),
        };
        let key = format!("{source_prefix}{PROBE}/");
        if let Err(error) = self.instruments.wiring.put(source, &key).await {
            return Finding::Skipped(format!("a copy needs the probe s3://{}/{key}: {error}", source.name));
        }
        let object = ObjectRef {
            bucket: source.name.clone(),
            key: key.clone(),
            version_id: None,
            etag: None,
            size: Some(0),
            sequencer: None,
            event_time: None,
        };
        let way = Way { delivery, destination: to, route, object: &object, source_prefix: &source_prefix };
        let head = ObjectHead { size: Some(0), ..ObjectHead::default() };
        let job = CopyJob { way, owner: source.owner.as_deref(), head: &head };
        let copier = &self.instruments.copier;
        let copied = async {
            let session = copier.enter(&way).await?;
            copier.copy(&session, &job).await
        };
        let copied = tokio::time::timeout(LONGEST_COPY, copied).await.unwrap_or_else(|_| {
            Err(CopyError::Unavailable(format!("S3 did not answer within {} s", LONGEST_COPY.as_secs())))
        });
        let marker = match self.instruments.wiring.delete(source, &key).await {
            Probe::Removed => String::new(),
            Probe::Left(why) => {
                format!("; s3://{}/{key} stays, because it cannot be deleted ({why})", source.name)
            }
        };
        let place = format!("s3://{}/{}", to.bucket_name, way.key().unwrap_or_default());
        match copied {
            // The session of a copy may not delete anything, whatever the role allows.
            Ok(_) => Finding::Ok(format!(
                "{place}, of 0 bytes, was written; it stays, as copies may not delete{marker}"
            )),
            Err(error) => Finding::failed(format!("{place}: {error}{marker}"), fix(&error, to, &source.name)),
        }
    }
}

fn fix(error: &CopyError, to: &Bucket, source: &str) -> String {
    match error {
        CopyError::Denied(_) => format!(
            "allow s3:PutObject and s3:PutObjectAcl on arn:aws:s3:::{}/* to {} in the bucket's policy or the role's, and \
             s3:GetObject on arn:aws:s3:::{source}/* in the policy of the staging bucket; and both for their KMS keys",
            to.bucket_name,
            to.role.as_ref().map_or_else(|| "the central role".to_owned(), ToString::to_string),
        ),
        CopyError::Throttled(_) | CopyError::Unavailable(_) => "try again".to_owned(),
        _ => {
            "the message above says what to correct; the row is changed with `logferry tenant put`".to_owned()
        }
    }
}
