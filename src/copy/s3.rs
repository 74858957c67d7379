//! Customers' buckets through the AWS SDK, in the customer's role, or in the central one where the bucket's own policy lets
//! that in.

use std::{collections::HashMap, time::Duration};

use aws_config::{SdkConfig, timeout::TimeoutConfig};
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

use super::{Copied, CopyError, CopyJob, ObjectCopier, Way, origin::Standing};
use crate::{
    aws::{S3Refusal, describe, find_cause},
    credentials::{
        AssumeError, RoleArn, assumed::AssumedRole, customers::Customers, identity::IdentityError,
        request::SessionSpec, scope::Scope,
    },
};

/// Copies within S3.
#[derive(Clone, Debug)]
pub struct S3Copier {
    /// One for all: Region, credentials and retries are each call's.
    client: Client,
    /// Those of all calls but copies.
    timeouts: TimeoutConfig,
    customers: Customers,
    central: AssumedRole,
}

/// What lies under a copy's key.
#[derive(Debug)]
enum There {
    Nothing,
    Object {
        /// With its quotes.
        etag: Option<String>,
        metadata: HashMap<String, String>,
    },
    /// Nobody tells: the role may not read it, or, where it may not list the bucket, there is nothing. Or the call could not
    /// be made, and a copy cannot either: its error says why, which HeadObject's does not.
    Hidden,
}

/// What must be true of a copy's key for the copy to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// Nothing lies there.
    Absent,
    /// That is what lies there.
    Unchanged(String),
    None,
}

/// How S3's requests name a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// In the host's name, as AWS wants it.
    VirtualHost,
    /// In the path, for S3-compatible services.
    Path,
}

/// Has no credentials.
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

/// How long one attempt may take. S3 answers when the copy is done, and 5 GB take minutes; the lease on the object is renewed
/// meanwhile. Longer than any copy was seen to take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(600);
/// How often what lies under a copy's key is looked at, if others write there meanwhile. One look is the rule, and two where the
/// role may write and not read.
const LOOKS: u32 = 3;

impl S3Copier {
    /// Enters accounts as `customers` does, and acts as `central` where a row names no role; `base` has the HTTP client,
    /// retries and endpoints that all share.
    pub fn new(base: &SdkConfig, addressing: Addressing, customers: Customers, central: AssumedRole) -> Self {
        let timeouts = base.timeout_config().map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder);
        let config = config::Builder::from(base)
            // A call that is given nobody's credentials must fail, not act as the worker. With no provider at all, S3's
            // client would send it unsigned, which an open bucket takes.
            .credentials_provider(SharedCredentialsProvider::new(Nobody))
            .timeout_config(timeouts.clone().operation_attempt_timeout(ATTEMPT_TIMEOUT).build())
            .force_path_style(addressing == Addressing::Path)
            .build();
        Self { client: Client::from_conf(config), timeouts: timeouts.build(), customers, central }
    }

    async fn role(&self, way: &Way<'_>) -> Result<AssumedRole, AssumeError> {
        // Asked for here, so that a refusal is told before anything is spent.
        let Some(role) = &way.destination.role else {
            return self.central.credentials().await.map(|_| self.central.clone());
        };
        self.customers.enter(entry(way, role)).await
    }

    /// What makes a call the customer's own.
    fn customer(way: &Way<'_>, role: &AssumedRole) -> config::Builder {
        let (bucket, region) = (&way.destination.bucket_name, &way.delivery.target_region);
        config::Builder::default()
            .region(Region::new(region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(role.clone()))
            // The role keeps its session itself; a second cache would hide its renewal.
            .identity_cache(IdentityCache::no_cache())
            // A bucket of retry tokens per destination: one throttled customer must not spend everyone's.
            .retry_partition(RetryPartition::new(format!("{bucket}/{region}")))
    }

    async fn look(&self, way: &Way<'_>, key: &str, role: &AssumedRole) -> Result<There, CopyError> {
        let head = self
            .client
            .head_object()
            .bucket(&way.destination.bucket_name)
            .key(key)
            .set_expected_bucket_owner(way.destination.bucket_owner.clone())
            .customize()
            .config_override(Self::customer(way, role).timeout_config(self.timeouts.clone()))
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
        condition: &Condition,
    ) -> Result<(), Refusal> {
        let destination = job.way.destination;
        let (if_none_match, if_match) = match condition {
            Condition::Absent => (Some("*".to_owned()), None),
            Condition::Unchanged(etag) => (None, Some(etag.clone())),
            Condition::None => (None, None),
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
            // A bucket's name is free again once it is deleted, and whoever takes it may let everybody write.
            .set_expected_bucket_owner(destination.bucket_owner.clone())
            // Where ACLs are still on, the object would else be ours, in the customer's bucket.
            .acl(ObjectCannedAcl::BucketOwnerFullControl)
            // S3 copies either all of an object's metadata or none. Ours must go with it, so what readers need of the
            // original's is set anew: without the encoding, they would not know that it is gzip.
            .metadata_directive(MetadataDirective::Replace)
            .set_metadata(Some(metadata))
            .set_content_type(job.head.content_type.clone())
            .set_content_encoding(job.head.content_encoding.clone())
            // Tags in the staging bucket are the provider's own; to copy them would need further permissions of everyone.
            .tagging_directive(TaggingDirective::Replace)
            .customize()
            .config_override(Self::customer(&job.way, role))
            .send()
            .await
            .map(drop)
    }
}

fn entry(way: &Way<'_>, role: &RoleArn) -> SessionSpec {
    SessionSpec {
        tenant_id: way.delivery.tenant_id.clone(),
        role: role.clone(),
        external_id: way.destination.external_id.clone(),
        session_tags: way.destination.session_tags,
        source_identity: way.destination.source_identity,
        cluster: way.route.cluster.clone(),
        scope: Scope::Copy {
            source_bucket: way.object.bucket.clone(),
            source_prefix: way.source_prefix.to_owned(),
            bucket: way.destination.bucket_name.clone(),
            prefix: way.destination_prefix(),
        },
    }
}

impl ObjectCopier for S3Copier {
    type Session = AssumedRole;

    async fn closed(&self, way: &Way<'_>) -> Option<CopyError> {
        let role = way.destination.role.as_ref()?;
        self.customers.closed(entry(way, role)).map(CopyError::Session)
    }

    async fn enter(&self, way: &Way<'_>) -> Result<AssumedRole, CopyError> {
        way.key()?;
        self.role(way).await.map_err(CopyError::Session)
    }

    async fn copy(&self, role: &AssumedRole, job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        job.check_size()?;
        let key = job.way.key()?;
        // Something lies there that the role may not look at.
        let mut blind = false;
        for _ in 0..LOOKS {
            let condition = match self.look(&job.way, &key, role).await? {
                There::Nothing => Condition::Absent,
                There::Object { etag, metadata } => match job.standing(&key, &metadata)? {
                    Standing::Newer => return Ok(Copied::Superseded),
                    Standing::Replaced => etag.map_or(Condition::None, Condition::Unchanged),
                },
                There::Hidden if blind => Condition::None,
                There::Hidden => {
                    blind = true;
                    Condition::Absent
                }
            };
            match role.call(|| self.copy_once(job, &key, role, &condition)).await {
                Ok(()) => return Ok(Copied::Written),
                Err(error) if condition.is_refused(&error) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Err(CopyError::Unavailable(format!(
            "what lies under {key:?} changed at each of {LOOKS} attempts to copy"
        )))
    }
}

type Refusal = SdkError<CopyObjectError, HttpResponse>;

impl Condition {
    /// The condition may be why the copy was refused. What pins the copy's source is refused alike: the next attempt, whose
    /// first step is to look at the source, finds out.
    fn is_refused(&self, error: &Refusal) -> bool {
        *self != Self::None
            && match error.code() {
                // With a condition on what is there, a missing object may be that one.
                Some("NoSuchKey") => matches!(self, Self::Unchanged(_)),
                code => matches!(code, Some("PreconditionFailed" | "ConditionalRequestConflict")),
            }
    }
}

/// Source: S3 API reference, HeadObject: an error has no body, and so no code.
fn there(error: SdkError<HeadObjectError, HttpResponse>) -> Result<There, CopyError> {
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(404) => Ok(There::Nothing),
        Some(301 | 400 | 401 | 403) => Ok(There::Hidden),
        _ => Err(refused(error)),
    }
}

fn refused<E>(error: SdkError<E, HttpResponse>) -> CopyError
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
        // One code for many things. What S3 says of this one: "The specified copy source is larger than the maximum
        // allowable size for a copy source".
        Some("InvalidRequest") if problem.contains("maximum allowable size") => {
            return CopyError::TooLarge(problem);
        }
        _ => {}
    }
    match S3Refusal::of(code, status) {
        S3Refusal::NoObject => CopyError::SourceMissing(problem),
        S3Refusal::Changed => {
            CopyError::SourceMissing(format!("it was overwritten since the event: {problem}"))
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
