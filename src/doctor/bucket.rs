//! Checks the way to a customer's bucket, with a copy or a lake file of 0 bytes.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Doctor, Finding, Findings, OurSide};
use crate::{
    copy::{CopyError, CopyJob, CopyWay, ObjectCopier, s3::session},
    credentials::scope::Scope,
    event::ObjectRef,
    lake::{FileSpec, LakeAccount, LakeStore, LakeWay},
    name::ObjectKeyTemplate,
    object::ObjectHead,
    route::Route,
    tenant::{Bucket, Contents, Delivery, Lake, Lock},
    wiring::s3::ProbeObject,
};

/// Name of the probe's folder in both buckets.
const PROBE: &str = "logferry-doctor";
/// Longest write of 0 bytes. The limit of the copier's calls is for 5 GB.
const LONGEST_WRITE: Duration = Duration::from_secs(30);

impl Doctor {
    /// Checks the role that writes, and makes a copy or writes a file.
    pub(super) async fn bucket(&self, delivery: &Delivery, to: &Bucket, our_side: &OurSide) -> Findings {
        let route = Route {
            tenant: delivery.tenant_id.clone(),
            cluster: if self.cluster.is_empty() { PROBE.to_owned() } else { self.cluster.clone() },
            application: PROBE.to_owned(),
            pod: PROBE.to_owned(),
            file: "probe".to_owned(),
        };
        let role = match &to.role {
            _ if our_side.no_central => Finding::skipped("it can only be assumed through the central role"),
            None => Finding::skipped("the row names no role, so the central role writes"),
            Some(role) => {
                let below = |prefix: &str| to.bucket_prefix.clone() + prefix;
                let bucket = to.bucket_name.clone();
                // STS checks only the size of this policy. The copy has a session of its own.
                let scope = match &to.contents {
                    Contents::Lake(lake) => {
                        let prefix = below(&lake.layout.tenant_prefix(&route));
                        Scope::Lake { bucket, prefix, lock: lake.lock.is_some() }
                    }
                    Contents::Copies(bucket_key) => {
                        let source = self.source.first().map_or(&to.bucket_name, |bucket| &bucket.name);
                        Scope::Copy {
                            source_bucket: source.clone(),
                            source_prefix: format!("{}/", delivery.tenant_id),
                            bucket,
                            prefix: below(&bucket_key.tenant_prefix(&route)),
                        }
                    }
                };
                let entry = session(delivery, to, role, &self.cluster, scope);
                match self.instruments.customers.enter(entry.clone()).await {
                    Ok(_) => self.entered(&entry, our_side),
                    Err(error) => self.refused(&entry, our_side, &error),
                }
            }
        };
        let (what, closed) = match &to.contents {
            Contents::Lake(_) => ("lake file", "the role that writes was not entered"),
            Contents::Copies(_) => ("copy", "the role that copies was not entered"),
        };
        let written = match &to.contents {
            _ if our_side.no_central || role.is_failure() => Finding::skipped(closed),
            Contents::Lake(lake) => self.lake(delivery, to, lake, &route).await,
            Contents::Copies(bucket_key) => self.copy(delivery, to, bucket_key, &route).await,
        };
        vec![("customer role", role), (what, written)]
    }

    /// Writes a file of 0 bytes, with the row's Object Lock, beside the folders of the lake. Query engines skip its name.
    async fn lake(&self, delivery: &Delivery, to: &Bucket, lake: &Lake, route: &Route) -> Finding {
        let object = ObjectRef::default();
        let way = LakeWay { delivery, destination: to, lake, route, object: &object };
        let key = format!("{}_{PROBE}", way.prefix());
        let spec = FileSpec {
            content_type: "application/octet-stream",
            metadata: HashMap::new(),
            // A day is enough to see that the bucket takes the lock.
            lock: lake.lock.map(|lock| Lock { days: 1, ..lock }.until(Timestamp::now())),
            key: key.clone(),
        };
        let written = async {
            let account = self.instruments.copier.enter_lake(&way).await?;
            account.put(&spec, Bytes::new()).await
        };
        let place = format!("s3://{}/{key}", to.bucket_name);
        match within_time(written).await {
            Ok(()) => Finding::Ok(format!("{place}, of 0 bytes, was written; it stays")),
            Err(error @ CopyError::Denied(_)) => {
                let role = writer(to);
                let retention = if lake.lock.is_some() { ", s3:PutObjectRetention" } else { "" };
                let fix = format!(
                    "allow s3:PutObject{retention} and s3:AbortMultipartUpload on arn:aws:s3:::{}/* to {role} in the role's policy \
                     or the bucket's, and kms:GenerateDataKey and kms:Decrypt on the bucket's KMS key",
                    to.bucket_name
                );
                Finding::failed(format!("{place}: {error}"), fix)
            }
            Err(error) => Finding::failed(format!("{place}: {error}"), fix(&error, to, "")),
        }
    }

    /// Writes a folder marker into the staging bucket, which the worker acknowledges without work, copies it as the worker copies
    /// objects, and deletes it again.
    async fn copy(
        &self,
        delivery: &Delivery,
        to: &Bucket,
        bucket_key: &ObjectKeyTemplate,
        route: &Route,
    ) -> Finding {
        let Some(source) = self.source.first() else {
            return Finding::skipped(
                "not checked: source.buckets is empty, so there is no bucket to copy from",
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
        let (bucket, size) = (source.name.clone(), Some(0));
        let object = ObjectRef { bucket, key: key.clone(), size, ..ObjectRef::default() };
        let source_prefix = &source_prefix;
        let way = CopyWay { delivery, destination: to, bucket_key, route, object: &object, source_prefix };
        let head = ObjectHead { size: Some(0), ..ObjectHead::default() };
        let job = CopyJob { way, owner: source.owner.as_deref(), head: &head };
        let copier = &self.instruments.copier;
        let copied = async {
            let session = copier.enter(&way).await?;
            copier.copy(&session, &job).await
        };
        let copied = within_time(copied).await;
        let marker = match self.instruments.wiring.delete(source, &key).await {
            ProbeObject::Removed => String::new(),
            ProbeObject::Left(why) => {
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

/// Waits for a write into a customer's bucket.
async fn within_time<T>(write: impl Future<Output = Result<T, CopyError>>) -> Result<T, CopyError> {
    let timed_out =
        || CopyError::Unavailable(format!("S3 did not answer within {} s", LONGEST_WRITE.as_secs()));
    tokio::time::timeout(LONGEST_WRITE, write).await.unwrap_or_else(|_| Err(timed_out()))
}

fn writer(to: &Bucket) -> String {
    to.role.as_ref().map_or_else(|| "the central role".to_owned(), ToString::to_string)
}

fn fix(error: &CopyError, to: &Bucket, source: &str) -> String {
    match error {
        CopyError::Denied(_) => format!(
            "allow s3:PutObject and s3:PutObjectAcl on arn:aws:s3:::{}/* to {} in the bucket's policy or the role's, and \
             s3:GetObject on arn:aws:s3:::{source}/* in the policy of the staging bucket; and both for their KMS keys",
            to.bucket_name,
            writer(to),
        ),
        CopyError::Throttled(_) | CopyError::Unavailable(_) => "try again".to_owned(),
        _ => {
            "the message above says what to correct; the row is changed with `logferry tenant put`".to_owned()
        }
    }
}
