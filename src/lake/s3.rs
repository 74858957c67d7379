//! Customers' lakes through the AWS SDK, with the client and the roles that copy objects.

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

/// Calls S3 as the row's role, for the row's bucket: `call!(self.upload_part().key(..))`.
macro_rules! call {
    ($lake:ident.$operation:ident()$(.$method:ident($($value:expr),*))*) => {
        $lake.role.call(|| {
            let call = $lake.client.$operation().bucket(&$lake.bucket);
            let call = call.set_expected_bucket_owner($lake.owner.clone())$(.$method($($value),*))*;
            call.customize().config_override($lake.customer()).send()
        })
    };
}

/// The same for a call that writes a file.
macro_rules! put {
    ($lake:ident.$operation:ident($file:ident)$(.$method:ident($($value:expr),*))*) => {
        call!($lake
            .$operation()
            .key(&$file.key)
            .set_acl($lake.acl.clone())
            .content_type($file.content_type)
            .set_metadata(Some($file.metadata.clone()))
            .set_object_lock_mode(lock_mode($file))
            .set_object_lock_retain_until_date(lock_end($file))
            $(.$method($($value),*))*)
    };
}

#[cfg(feature = "tools")]
mod compact;

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

fn lock_mode(file: &FileSpec) -> Option<ObjectLockMode> {
    file.lock.map(|(mode, _)| match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    })
}

fn lock_end(file: &FileSpec) -> Option<DateTime> {
    file.lock.map(|(_, until)| DateTime::from_millis(until.as_millisecond()))
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
        put!(self.put_object(file).body(body.clone().into())).await.map(drop).map_err(unwritten)
    }

    async fn begin(&self, file: &FileSpec) -> Result<String, CopyError> {
        let begun = put!(self.create_multipart_upload(file)).await.map_err(unwritten)?;
        begun.upload_id.ok_or_else(|| CopyError::Unavailable("the answer has no id of an upload".to_owned()))
    }

    async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part, CopyError> {
        let Upload { key, id } = upload;
        let part =
            call!(self.upload_part().key(key).upload_id(id).part_number(number).body(body.clone().into()));
        Ok(Part { number, etag: part.await.map_err(unwritten)?.e_tag })
    }

    async fn complete(&self, upload: &Upload, parts: Vec<Part>) -> Result<(), CopyError> {
        let Upload { key, id } = upload;
        let parts = parts.into_iter().map(|part| {
            // S3 has checked the part's checksum already. It takes none here, unless the upload was begun with its algorithm.
            CompletedPart::builder().part_number(part.number).set_e_tag(part.etag).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let complete =
            call!(self.complete_multipart_upload().key(key).upload_id(id).multipart_upload(parts.clone()));
        complete.await.map(drop).map_err(unwritten)
    }

    async fn abort(&self, upload: &Upload) {
        let Upload { key, id } = upload;
        // The bucket's lifecycle rule removes the parts if this call fails.
        let _ = call!(self.abort_multipart_upload().key(key).upload_id(id)).await;
    }
}
