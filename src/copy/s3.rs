//! Customers' buckets through the AWS SDK. The customer's role copies, or the central role if the row names no role and the
//! bucket's policy lets the central role write.

use std::{collections::HashMap, time::Duration};

use aws_config::timeout::TimeoutConfig;
use aws_credential_types::provider::{
    ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future,
};
use aws_sdk_s3::{
    Client,
    config::{self, Region, http::HttpResponse, retry::RetryPartition},
    error::{ProvideErrorMetadata, SdkError},
    operation::{copy_object::CopyObjectError, head_object::HeadObjectError},
    types::{MetadataDirective, ObjectCannedAcl, TaggingDirective},
};
use aws_smithy_runtime::client::identity::IdentityCache;

use super::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier, origin::Standing};
use crate::{
    aws::{Base, S3Refusal, describe, find_cause},
    credentials::{
        AssumeError, RoleArn, assumed::AssumedRole, customers::Customers, identity::IdentityError,
        request::SessionSpec, scope::Scope,
    },
    tenant::{Bucket, Delivery},
};

/// Copies objects inside S3.
#[derive(Clone, Debug)]
pub struct S3Copier {
    /// One client for all customers. Region, credentials and retry partition are set for each call.
    client: Client,
    /// Timeouts of all calls except copies.
    timeouts: TimeoutConfig,
    customers: Customers,
    central: AssumedRole,
}

/// The object at the copy's key.
#[derive(Debug)]
enum There {
    Nothing,
    Object {
        /// With its quotation marks.
        etag: Option<String>,
        metadata: HashMap<String, String>,
    },
    /// S3 does not say whether an object exists. Either the role may not read the object, or no object exists and the role
    /// may not list the bucket, or the bucket refuses the call. HeadObject's answer names no reason; the copy's error does.
    Hidden,
}

/// What must be true of the copy's key when S3 writes the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WriteCondition {
    /// No object exists there.
    Absent,
    /// The object at the key still has this eTag.
    Unchanged(String),
    None,
}

/// How requests to S3 name a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// In the host name, as AWS recommends.
    VirtualHost,
    /// In the path, for S3-compatible services.
    Path,
}

/// A provider without credentials.
#[derive(Debug)]
struct Nobody;

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let error =
            CredentialsError::not_loaded("a copy needs the customer's credentials or the central role's");
        future::ProvideCredentials::ready(Err(error))
    }
}

/// Time limit of one attempt to copy. S3 answers when the copy is done, which takes minutes for 5 GB. No copy that we have
/// seen took this long. The lease on the object is renewed meanwhile.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);
/// Number of attempts to look at the copy's key and then to write the copy. One is enough unless others write to the key
/// meanwhile; two are needed if the role may write but not read.
const LOOKS: u32 = 3;

impl S3Copier {
    /// Enters accounts through `customers`, or uses `central` if a row names no role. `base` has the HTTP client, the retries
    /// and the endpoints.
    pub fn new(base: &Base, addressing: Addressing, customers: Customers, central: AssumedRole) -> Self {
        let timeouts =
            base.sdk().timeout_config().map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder);
        let config = base
            .s3()
            // A call without credentials of its own must fail, and must not act as the worker. Without any provider, the
            // client would send the call unsigned, which a public bucket accepts.
            .credentials_provider(SharedCredentialsProvider::new(Nobody))
            .timeout_config(timeouts.clone().operation_attempt_timeout(ATTEMPT_TIMEOUT).build())
            .force_path_style(addressing == Addressing::Path)
            .build();
        Self { client: Client::from_conf(config), timeouts: timeouts.build(), customers, central }
    }

    async fn role(&self, way: &CopyWay<'_>) -> Result<AssumedRole, AssumeError> {
        // Credentials are resolved here, so that a refusal is reported before other calls are made.
        let Some(role) = &way.destination.role else {
            return self.central.credentials().await.map(|_| self.central.clone());
        };
        self.customers.enter(entry(way, role)).await
    }

    /// The client of all customers' buckets, and the roles that it uses.
    pub(crate) fn parts(&self) -> (&Client, &Customers, &AssumedRole) {
        (&self.client, &self.customers, &self.central)
    }

    /// The timeouts of calls other than copies.
    pub(crate) fn timeouts(&self) -> &TimeoutConfig {
        &self.timeouts
    }

    /// The settings that are specific to the customer.
    pub(crate) fn customer(bucket: &str, region: &str, role: &AssumedRole) -> config::Builder {
        config::Builder::default()
            .region(Region::new(region.to_owned()))
            .credentials_provider(SharedCredentialsProvider::new(role.clone()))
            // The role caches its session itself. A second cache would hide the renewed one.
            .identity_cache(IdentityCache::no_cache())
            // Each destination has retry tokens of its own, so that a throttled customer does not use up the tokens of
            // others.
            .retry_partition(RetryPartition::new(format!("{bucket}/{region}")))
    }

    fn for_copies(way: &CopyWay<'_>, role: &AssumedRole) -> config::Builder {
        Self::customer(&way.destination.bucket_name, &way.delivery.target_region, role)
    }

    async fn look(&self, way: &CopyWay<'_>, key: &str, role: &AssumedRole) -> Result<There, CopyError> {
        let head = self
            .client
            .head_object()
            .bucket(&way.destination.bucket_name)
            .key(key)
            .set_expected_bucket_owner(way.destination.bucket_owner.clone())
            .customize()
            .config_override(Self::for_copies(way, role).timeout_config(self.timeouts.clone()))
            .send()
            .await;
        match head {
            Ok(head) => Ok(There::Object { etag: head.e_tag, metadata: head.metadata.unwrap_or_default() }),
            Err(error) => there(error),
        }
    }

    async fn copy_once(
        &self,
        job: &CopyJob<'_>,
        key: &str,
        role: &AssumedRole,
        condition: &WriteCondition,
    ) -> Result<(), FailedCopy> {
        let destination = job.way.destination;
        let (if_none_match, if_match) = match condition {
            WriteCondition::Absent => (Some("*".to_owned()), None),
            WriteCondition::Unchanged(etag) => (None, Some(etag.clone())),
            WriteCondition::None => (None, None),
        };
        let metadata: HashMap<_, _> =
            job.metadata().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.client
            .copy_object()
            .bucket(&destination.bucket_name)
            .key(key)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .copy_source(job.source())
            .set_copy_source_if_match(job.if_match())
            .set_expected_source_bucket_owner(job.owner.map(str::to_owned))
            // A bucket's name does not prove who owns it: after a bucket is deleted, anyone can take its name, and let
            // everybody write.
            .set_expected_bucket_owner(destination.bucket_owner.clone())
            // If the bucket still uses ACLs, the copy would otherwise belong to us.
            .acl(ObjectCannedAcl::BucketOwnerFullControl)
            // S3 copies either all metadata or none. We add our own, so the headers that readers need are set again: without
            // the encoding, a reader would not know that the object is gzip.
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(metadata))
            .set_content_type(job.head.content_type.clone())
            .set_content_encoding(job.head.content_encoding.clone())
            // Tags in the staging bucket belong to the provider. Copying them would need more permissions on both sides.
            .tagging_directive(TaggingDirective::Replace)
            .customize()
            .config_override(Self::for_copies(&job.way, role))
            .send()
            .await
            .map(drop)
    }
}

fn entry(way: &CopyWay<'_>, role: &RoleArn) -> SessionSpec {
    let scope = Scope::Copy {
        source_bucket: way.object.bucket.clone(),
        source_prefix: way.source_prefix.to_owned(),
        bucket: way.destination.bucket_name.clone(),
        prefix: way.destination_prefix(),
    };
    session(way.delivery, way.destination, role, &way.route.cluster, scope)
}

/// A session in the role of a row, limited to `scope`.
pub(crate) fn session(
    delivery: &Delivery,
    destination: &Bucket,
    role: &RoleArn,
    cluster: &str,
    scope: Scope,
) -> SessionSpec {
    SessionSpec {
        tenant_id: delivery.tenant_id.clone(),
        role: role.clone(),
        external_id: destination.external_id.clone(),
        session_tags: destination.session_tags,
        source_identity: destination.source_identity,
        cluster: cluster.to_owned(),
        scope,
    }
}

impl ObjectCopier for S3Copier {
    type Session = AssumedRole;

    async fn closed(&self, way: &CopyWay<'_>) -> Option<CopyError> {
        let role = way.destination.role.as_ref()?;
        self.customers.closed(entry(way, role)).map(CopyError::Session)
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<AssumedRole, CopyError> {
        way.key()?;
        self.role(way).await.map_err(CopyError::Session)
    }

    async fn copy(&self, role: &AssumedRole, job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        job.check_size()?;
        let key = job.way.key()?;
        // Whether S3 has hidden the key once already. The next copy is then written without a condition.
        let mut blind = false;
        for _ in 0..LOOKS {
            let condition = match self.look(&job.way, &key, role).await? {
                There::Nothing => WriteCondition::Absent,
                There::Object { etag, metadata } => match job.standing(&key, &metadata)? {
                    Standing::Newer => return Ok(Copied::Superseded),
                    Standing::Replaced => etag.map_or(WriteCondition::None, WriteCondition::Unchanged),
                },
                There::Hidden if blind => WriteCondition::None,
                There::Hidden => {
                    blind = true;
                    WriteCondition::Absent
                }
            };
            match role.call(|| self.copy_once(job, &key, role, &condition)).await {
                Ok(()) => return Ok(Copied::Written),
                Err(error) if condition.is_refused(&error) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Err(CopyError::Unavailable(format!(
            "the object at {key:?} in the customer's bucket changed during each of {LOOKS} attempts to copy"
        )))
    }
}

type FailedCopy = SdkError<CopyObjectError, HttpResponse>;

impl WriteCondition {
    /// Whether the condition may be the reason why the copy was refused. S3 gives the same error if the condition on the
    /// source fails; then the message's next attempt finds that the source is missing.
    fn is_refused(&self, error: &FailedCopy) -> bool {
        *self != Self::None
            && match error.code() {
                // The missing object may be the one at the copy's key, not the source.
                Some("NoSuchKey") => matches!(self, Self::Unchanged(_)),
                code => matches!(code, Some("PreconditionFailed" | "ConditionalRequestConflict")),
            }
    }
}

/// Evaluates an error of HeadObject, which has no body and so no code. Source: S3 API reference, HeadObject.
fn there(error: SdkError<HeadObjectError, HttpResponse>) -> Result<There, CopyError> {
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(404) => Ok(There::Nothing),
        Some(301 | 400 | 401 | 403) => Ok(There::Hidden),
        _ => Err(refused(error)),
    }
}

/// Evaluates an error of a call to a customer's bucket.
pub(crate) fn refused<E>(error: SdkError<E, HttpResponse>) -> CopyError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(session) = find_cause::<AssumeError>(&error) {
        return CopyError::Session(session.clone());
    }
    if let Some(ours) = IdentityError::of(&error) {
        return CopyError::Ours(ours);
    }
    let status = error.raw_response().map(|response| response.status().as_u16());
    classify(error.code(), status, describe(&error))
}

fn classify(code: Option<&str>, status: Option<u16>, problem: String) -> CopyError {
    match code {
        Some("EntityTooLarge") => return CopyError::TooLarge(problem),
        // S3 uses this code for many errors. The text of this one: "The specified copy source is larger than the maximum
        // allowable size for a copy source".
        Some("InvalidRequest") if problem.contains("maximum allowable size") => {
            return CopyError::TooLarge(problem);
        }
        _ => {}
    }
    match S3Refusal::of(code, status) {
        S3Refusal::NoObject => CopyError::SourceMissing(problem),
        S3Refusal::Changed => {
            CopyError::SourceMissing(format!("the object was overwritten after the event: {problem}"))
        }
        S3Refusal::NoBucket => CopyError::NoSuchBucket(problem),
        S3Refusal::Archived => CopyError::SourceArchived(problem),
        S3Refusal::Elsewhere => CopyError::WrongRegion(problem),
        S3Refusal::Throttled => CopyError::Throttled(problem),
        S3Refusal::Denied => CopyError::Denied(problem),
        S3Refusal::Refused => CopyError::Refused(problem),
        S3Refusal::Unavailable => CopyError::Unavailable(problem),
    }
}

#[cfg(test)]
mod tests;
