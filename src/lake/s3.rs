//! Customers' lakes through the AWS SDK, with the client and the roles that copy objects.

#[cfg(feature = "tools")]
mod compact;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::{
    Client,
    config::Builder,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    primitives::DateTime,
    types::{CompletedMultipartUpload, CompletedPart, ObjectCannedAcl, ObjectLockMode},
};
use bytes::Bytes;

use super::{FileSpec, LakeAccount, LakeStore, LakeWay, Part, Upload};
use crate::{
    copy::{
        CopyError,
        s3::{S3Copier, refused, session},
    },
    credentials::{assumed::AssumedRole, request::SessionSpec, scope::Scope},
    tenant::{Bucket, Delivery, LockMode},
};

/// Access to one customer's bucket.
#[derive(Clone, Debug)]
pub struct S3Lake {
    client: Client,
    role: AssumedRole,
    bucket: String,
    owner: Option<String>,
    region: String,
    timeouts: TimeoutConfig,
    /// The ACL of each file. `None` if the bucket's own account writes. If another account writes, a bucket that still uses ACLs
    /// needs an ACL that lets its owner read the file.
    acl: Option<ObjectCannedAcl>,
}

fn entry(way: &LakeWay<'_>) -> Option<SessionSpec> {
    let role = way.destination.role.as_ref()?;
    let bucket = way.destination.bucket_name.clone();
    let scope = Scope::Lake { bucket, prefix: way.prefix(), lock: way.lake.lock.is_some() };
    Some(session(way.delivery, way.destination, role, &way.route.cluster, scope))
}

impl LakeStore for S3Copier {
    type Account = S3Lake;

    async fn lake_closed(&self, way: &LakeWay<'_>) -> Option<CopyError> {
        let (_, customers, _) = self.parts();
        customers.closed(entry(way)?).map(CopyError::Session)
    }

    async fn enter_lake(&self, way: &LakeWay<'_>) -> Result<S3Lake, CopyError> {
        S3Lake::enter(self, entry(way), way.delivery, way.destination).await
    }
}

impl S3Lake {
    /// Enters the role of `entry`, or the central role without one.
    async fn enter(
        copier: &S3Copier,
        entry: Option<SessionSpec>,
        delivery: &Delivery,
        destination: &Bucket,
    ) -> Result<Self, CopyError> {
        let (client, customers, central) = copier.parts();
        let acl = entry.is_none().then_some(ObjectCannedAcl::BucketOwnerFullControl);
        let role = match entry {
            Some(entry) => customers.enter(entry).await,
            None => central.credentials().await.map(|_| central.clone()),
        };
        Ok(Self {
            client: client.clone(),
            role: role.map_err(CopyError::Session)?,
            bucket: destination.bucket_name.clone(),
            owner: destination.bucket_owner.clone(),
            region: delivery.target_region.clone(),
            timeouts: copier.timeouts().clone(),
            acl,
        })
    }

    fn customer(&self) -> Builder {
        // The client's own timeout is for copies, which S3 makes for minutes.
        S3Copier::customer(&self.bucket, &self.region, &self.role).timeout_config(self.timeouts.clone())
    }
}

fn lock(file: &FileSpec) -> Option<(ObjectLockMode, DateTime)> {
    let (mode, until) = file.lock?;
    let mode = match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    };
    Some((mode, DateTime::from_millis(until.as_millisecond())))
}

/// Evaluates an error of a write. Where a copy's source would be missing, a lake's upload is missing: a call whose answer was
/// lost has completed it, or a lifecycle rule has removed it. The next attempt writes the file again.
fn unwritten<E>(error: SdkError<E, HttpResponse>) -> CopyError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    match refused(error) {
        CopyError::SourceMissing(problem) | CopyError::SourceArchived(problem) => {
            CopyError::Unavailable(problem)
        }
        other => other,
    }
}

impl LakeAccount for S3Lake {
    async fn put(&self, file: &FileSpec, body: Bytes) -> Result<(), CopyError> {
        let (mode, until) = lock(file).unzip();
        let put = || {
            self.client
                .put_object()
                .bucket(&self.bucket)
                .key(&file.key)
                .set_expected_bucket_owner(self.owner.clone())
                .set_acl(self.acl.clone())
                .content_type(file.content_type)
                .set_metadata(Some(file.metadata.clone()))
                .set_object_lock_mode(mode.clone())
                .set_object_lock_retain_until_date(until)
                .body(body.clone().into())
                .customize()
                .config_override(self.customer())
                .send()
        };
        self.role.call(put).await.map(drop).map_err(unwritten)
    }

    async fn begin(&self, file: &FileSpec) -> Result<String, CopyError> {
        let (mode, until) = lock(file).unzip();
        let begin = || {
            self.client
                .create_multipart_upload()
                .bucket(&self.bucket)
                .key(&file.key)
                .set_expected_bucket_owner(self.owner.clone())
                .set_acl(self.acl.clone())
                .content_type(file.content_type)
                .set_metadata(Some(file.metadata.clone()))
                .set_object_lock_mode(mode.clone())
                .set_object_lock_retain_until_date(until)
                .customize()
                .config_override(self.customer())
                .send()
        };
        let begun = self.role.call(begin).await.map_err(unwritten)?;
        begun.upload_id.ok_or_else(|| CopyError::Unavailable("the answer has no id of an upload".to_owned()))
    }

    async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part, CopyError> {
        let part = || {
            self.client
                .upload_part()
                .bucket(&self.bucket)
                .key(&upload.key)
                .upload_id(&upload.id)
                .part_number(number)
                .set_expected_bucket_owner(self.owner.clone())
                .body(body.clone().into())
                .customize()
                .config_override(self.customer())
                .send()
        };
        let part = self.role.call(part).await.map_err(unwritten)?;
        Ok(Part { number, etag: part.e_tag })
    }

    async fn complete(&self, upload: &Upload, parts: Vec<Part>) -> Result<(), CopyError> {
        let parts = parts.into_iter().map(|part| {
            // S3 has checked the part's checksum already. It takes none here, unless the upload was begun with its algorithm.
            CompletedPart::builder().part_number(part.number).set_e_tag(part.etag).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let complete = || {
            self.client
                .complete_multipart_upload()
                .bucket(&self.bucket)
                .key(&upload.key)
                .upload_id(&upload.id)
                .set_expected_bucket_owner(self.owner.clone())
                .multipart_upload(parts.clone())
                .customize()
                .config_override(self.customer())
                .send()
        };
        self.role.call(complete).await.map(drop).map_err(unwritten)
    }

    async fn abort(&self, upload: &Upload) {
        let abort = || {
            self.client
                .abort_multipart_upload()
                .bucket(&self.bucket)
                .key(&upload.key)
                .upload_id(&upload.id)
                .set_expected_bucket_owner(self.owner.clone())
                .customize()
                .config_override(self.customer())
                .send()
        };
        // The bucket's lifecycle rule removes the parts if this call fails.
        let _ = self.role.call(abort).await;
    }
}
