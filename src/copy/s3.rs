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
    operation::copy_object::CopyObjectError,
    types::{MetadataDirective, ObjectCannedAcl, TaggingDirective},
};
use aws_smithy_runtime::client::identity::IdentityCache;

use super::{CopyError, CopyJob, ObjectCopier, Way};
use crate::{
    aws::{describe, find_cause},
    credentials::{
        AssumeError,
        assumed::AssumedRole,
        customers::{Customers, Entry},
        scope::Scope,
    },
};

/// Copies within S3.
#[derive(Clone, Debug)]
pub struct S3Copier {
    /// One for all: Region, credentials and retries are each call's.
    client: Client,
    customers: Customers,
    central: AssumedRole,
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

impl S3Copier {
    /// Enters accounts as `customers` does, and acts as `central` where a row names no role; `base` has the HTTP client,
    /// retries and endpoints that all share.
    pub fn new(base: &SdkConfig, addressing: Addressing, customers: Customers, central: AssumedRole) -> Self {
        let timeouts = base.timeout_config().map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder);
        let config = config::Builder::from(base)
            // A call that is given nobody's credentials must fail, not act as the worker. With no provider at all, S3's
            // client would send it unsigned, which an open bucket takes.
            .credentials_provider(SharedCredentialsProvider::new(Nobody))
            .timeout_config(timeouts.operation_attempt_timeout(ATTEMPT_TIMEOUT).build())
            .force_path_style(addressing == Addressing::Path)
            .build();
        Self { client: Client::from_conf(config), customers, central }
    }

    async fn role(&self, way: &Way<'_>) -> Result<AssumedRole, AssumeError> {
        // Asked for here, so that a refusal is told before anything is spent.
        let Some(role) = &way.destination.role else {
            return self.central.credentials().await.map(|_| self.central.clone());
        };
        let entry = Entry {
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
        };
        self.customers.enter(entry).await
    }

    async fn copy_once(&self, job: &CopyJob<'_>, key: &str, role: &AssumedRole) -> Result<(), Refusal> {
        let Way { destination, delivery, .. } = &job.way;
        let (bucket, region) = (&destination.bucket_name, &delivery.target_region);
        let customer = config::Builder::default()
            .region(Region::new(region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(role.clone()))
            // The role keeps its session itself; a second cache would hide its renewal.
            .identity_cache(IdentityCache::no_cache())
            // A bucket of retry tokens per destination: one throttled customer must not spend everyone's.
            .retry_partition(RetryPartition::new(format!("{bucket}/{region}")));
        let metadata: HashMap<_, _> =
            job.metadata().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.client
            .copy_object()
            .bucket(bucket)
            .key(key)
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
            .config_override(customer)
            .send()
            .await
            .map(drop)
    }
}

impl ObjectCopier for S3Copier {
    type Session = AssumedRole;

    async fn enter(&self, way: &Way<'_>) -> Result<AssumedRole, CopyError> {
        way.key()?;
        self.role(way).await.map_err(CopyError::Session)
    }

    async fn copy(&self, role: &AssumedRole, job: &CopyJob<'_>) -> Result<(), CopyError> {
        job.check_size()?;
        let key = job.way.key()?;
        role.call(|| self.copy_once(job, &key, role)).await.map_err(refused)
    }
}

type Refusal = SdkError<CopyObjectError, HttpResponse>;

fn refused(error: Refusal) -> CopyError {
    if let Some(session) = find_cause::<AssumeError>(&error) {
        return CopyError::Session(session.clone());
    }
    let status = error.raw_response().map(|response| response.status().as_u16());
    classify(error.code(), status, describe(&error))
}

/// Source: S3 API reference, "Error responses". An error may come with status 200, once the copy has begun.
fn classify(code: Option<&str>, status: Option<u16>, problem: String) -> CopyError {
    match (code, status) {
        (Some("NoSuchKey" | "NoSuchVersion"), _) => CopyError::SourceMissing(problem),
        (Some("PreconditionFailed"), _) | (_, Some(412)) => {
            CopyError::SourceMissing(format!("it was overwritten since the event: {problem}"))
        }
        (Some("EntityTooLarge"), _) => CopyError::TooLarge(problem),
        // One code for many things. What S3 says of this one: "The specified copy source is larger than the maximum
        // allowable size for a copy source".
        (Some("InvalidRequest"), _) if problem.contains("maximum allowable size") => {
            CopyError::TooLarge(problem)
        }
        (Some("NoSuchBucket"), _) => CopyError::NoSuchBucket(problem),
        (Some("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed"), _)
        | (_, Some(301 | 307)) => CopyError::WrongRegion(problem),
        (Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded"), _)
        | (_, Some(429)) => CopyError::Throttled(problem),
        (Some("InvalidObjectState"), _) => CopyError::Refused(problem),
        (Some("AccessDenied" | "InvalidAccessKeyId" | "ExpiredToken" | "InvalidToken"), _)
        | (_, Some(401 | 403)) => CopyError::Denied(problem),
        (_, Some(400..500)) => CopyError::Refused(problem),
        _ => CopyError::Unavailable(problem),
    }
}

#[cfg(test)]
mod tests;
