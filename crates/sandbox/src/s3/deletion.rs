//! Deletes objects and versions.
//!
//! Conditional deletes are not implemented, and deletes cause no events.

use http::StatusCode;

use super::{
    S3, authorize,
    bucket::Bucket,
    check_owner,
    object::{check_version_id, object_arn},
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
};

/// What a deletion did.
struct Deleted {
    /// The new delete marker, or the version that is gone.
    version_id: Option<String>,
    /// Whether that version is a delete marker.
    is_marker: bool,
}

impl S3 {
    pub(super) fn delete_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        let condition = call.headers.keys().find(|name| name.as_str().contains("if-match"));
        if let Some(condition) = condition {
            return Err(AwsError::not_implemented("s3", &format!("DeleteObject with {condition}")));
        }
        let (name, key) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        let deleted = delete(cloud, call, bucket, &key, call.query_value("versionId"))?;
        let mut reply = Reply { status: StatusCode::NO_CONTENT, ..Reply::empty() };
        if deleted.is_marker {
            reply = reply.with_header("x-amz-delete-marker", "true");
        }
        if let Some(id) = &deleted.version_id {
            reply = reply.with_header("x-amz-version-id", id);
        }
        Ok(reply)
    }
}

/// Deletes a version, or without a version id the object: in a bucket with versions a delete marker then hides them.
///
/// A delete of what does not exist succeeds, as in S3.
fn delete(
    cloud: &Cloud,
    call: &Call,
    bucket: &mut Bucket,
    key: &str,
    version_id: Option<&str>,
) -> Result<Deleted, AwsError> {
    let arn = object_arn(bucket, key);
    let Some(id) = version_id else {
        authorize(cloud, call, bucket, "s3:DeleteObject", &arn, &[])?;
        if bucket.versioned {
            let marker = bucket.add(key, None);
            return Ok(Deleted { version_id: Some(marker.id), is_marker: true });
        }
        bucket.keys.remove(key);
        return Ok(Deleted { version_id: None, is_marker: false });
    };
    authorize(cloud, call, bucket, "s3:DeleteObjectVersion", &arn, &[])?;
    check_version_id(id)?;
    let version = bucket.version(key, id);
    let retention = version.and_then(|version| version.object.as_ref()?.retention);
    let is_marker = version.is_some_and(|version| version.object.is_none());
    if let Some(retention) = retention {
        retention.check_delete(cloud, call, bucket, &arn)?;
    }
    bucket.remove_version(key, id);
    Ok(Deleted { version_id: Some(id.to_owned()), is_marker })
}
