//! Deletes objects and versions.
//!
//! A delete may have the condition that the current object has an ETag, as in general purpose buckets. Conditions of a delete of a
//! version are not implemented, and deletes cause no events.

use http::StatusCode;
use roxmltree::{Document, Node};

use super::{
    NAMESPACE, S3, XML_HEAD, authorize, body_text,
    bucket::Bucket,
    check_owner,
    checksum::{self, Checksum},
    conditions,
    notification::malformed,
    object::{check_content_md5, check_key, check_version_id, object_arn},
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::element,
};

/// Most objects in one DeleteObjects.
const MAX_OBJECTS: usize = 1_000;

/// An object or version as DeleteObjects names it.
struct Named {
    key: String,
    version_id: Option<String>,
    /// The object is deleted only if it has this ETag; `*`: only if there is one.
    etag: Option<String>,
}

/// What a deletion did.
struct Deleted {
    /// The new delete marker, or the version that is gone.
    version_id: Option<String>,
    /// Whether that version is a delete marker.
    is_marker: bool,
}

impl S3 {
    pub(super) fn delete_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        let condition = call.headers.keys().find(|name| name.as_str().contains("if-match-"));
        if let Some(condition) = condition {
            return Err(AwsError::not_implemented("s3", &format!("DeleteObject with {condition}")));
        }
        let (name, key) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        let version_id = call.query_value("versionId").map(str::to_owned);
        let etag = call.header("if-match").map(str::to_owned);
        let deleted = delete(cloud, call, bucket, &Named { key, version_id, etag })?;
        let mut reply = Reply { status: StatusCode::NO_CONTENT, ..Reply::empty() };
        if deleted.is_marker {
            reply = reply.with_header("x-amz-delete-marker", "true");
        }
        if let Some(id) = &deleted.version_id {
            reply = reply.with_header("x-amz-version-id", id);
        }
        Ok(reply)
    }

    /// Deletes several objects. Each one succeeds or fails by itself.
    pub(super) fn delete_objects(&self, cloud: &Cloud, call: &Call) -> Answer {
        check_content_md5(call)?;
        if Checksum::sent(&call.headers, &call.body)?.is_none() && call.header("content-md5").is_none() {
            return Err(checksum::request(
                "Missing required header for this request: Content-MD5 OR x-amz-checksum-*",
            ));
        }
        let (named, quiet) = named_objects(body_text(call)?)?;
        let (name, _) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        let mut out = format!("{XML_HEAD}<DeleteResult xmlns=\"{NAMESPACE}\">");
        for named in &named {
            let Named { key, version_id, .. } = named;
            let done = check_key(key).and_then(|()| delete(cloud, call, bucket, named));
            let mut about = element("Key", key);
            about.extend(version_id.iter().map(|id| element("VersionId", id)));
            match done {
                Ok(_) if quiet => {}
                Ok(deleted) => {
                    if let (true, Some(id)) = (deleted.is_marker, &deleted.version_id) {
                        about += &(element("DeleteMarker", "true") + &element("DeleteMarkerVersionId", id));
                    }
                    out.push_str(&format!("<Deleted>{about}</Deleted>"));
                }
                Err(error) => {
                    about += &(element("Code", &error.code) + &element("Message", &error.message));
                    out.push_str(&format!("<Error>{about}</Error>"));
                }
            }
        }
        out.push_str("</DeleteResult>");
        Ok(Reply::xml(out))
    }
}

/// Reads the body of DeleteObjects: the objects, and whether the answer leaves out those that are deleted.
fn named_objects(body: &str) -> Result<(Vec<Named>, bool), AwsError> {
    let document = Document::parse(body).map_err(|_| malformed())?;
    let root = document.root_element();
    if root.tag_name().name() != "Delete" {
        return Err(malformed());
    }
    let (mut named, mut quiet) = (Vec::new(), false);
    for node in root.children().filter(Node::is_element) {
        match node.tag_name().name() {
            "Quiet" => quiet = node.text() == Some("true"),
            "Object" => named.push(named_object(node)?),
            _ => return Err(malformed()),
        }
    }
    let count = 1..=MAX_OBJECTS;
    if count.contains(&named.len()) { Ok((named, quiet)) } else { Err(malformed()) }
}

fn named_object(node: Node<'_, '_>) -> Result<Named, AwsError> {
    let (mut key, mut version_id, mut etag) = (None, None, None);
    for child in node.children().filter(Node::is_element) {
        let text = child.text().unwrap_or_default().to_owned();
        match child.tag_name().name() {
            "Key" => key = Some(text).filter(|key| !key.is_empty()),
            "VersionId" => version_id = Some(text),
            "ETag" => etag = Some(text),
            other => return Err(AwsError::not_implemented("s3", &format!("DeleteObjects with {other}"))),
        }
    }
    Ok(Named { key: key.ok_or_else(malformed)?, version_id, etag })
}

/// Deletes a version, or without a version id the object: in a bucket with versions a delete marker then hides them.
///
/// A delete of what does not exist succeeds, as in S3, unless it has a condition.
fn delete(
    cloud: &Cloud,
    call: &Call,
    bucket: &mut Bucket,
    Named { key, version_id, etag }: &Named,
) -> Result<Deleted, AwsError> {
    let arn = object_arn(bucket, key);
    let Some(id) = version_id else {
        authorize(cloud, call, bucket, "s3:DeleteObject", &arn, &[])?;
        if let Some(etag) = etag {
            if etag != "*" {
                authorize(cloud, call, bucket, "s3:GetObject", &arn, &[])?;
            }
            conditions::check_match(etag, bucket.current_etag(key))?;
        }
        if bucket.versioned {
            let marker = bucket.add(key, None);
            return Ok(Deleted { version_id: Some(marker.id), is_marker: true });
        }
        bucket.keys.remove(key);
        return Ok(Deleted { version_id: None, is_marker: false });
    };
    if etag.is_some() {
        return Err(AwsError::not_implemented("s3", "a conditional delete of a version"));
    }
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
