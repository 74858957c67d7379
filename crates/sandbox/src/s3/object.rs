//! Writes objects, and finds the object of a request.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue};
use md5::{Digest, Md5};

use super::{
    NAMESPACE, S3, XML_HEAD, authorize,
    bucket::{Bucket, NULL_VERSION, Object, Version},
    check_owner,
    checksum::Checksum,
    conditions,
    event::{Happening, Source, Subject},
    lock::{self, Retention},
    notification::invalid,
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::{decode_form, element, hex},
};

/// Longest key in bytes.
const MAX_KEY: usize = 1_024;
/// Largest total size of the names and values of user metadata, in bytes.
const MAX_METADATA: usize = 2_048;

/// Headers that are stored with an object and returned, besides `x-amz-meta-*`.
const KEPT: [&str; 8] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-bucket-key-enabled",
];

/// Prefixes of headers for features that are not implemented.
const REFUSED: [&str; 9] = [
    "x-amz-grant-",
    "x-amz-object-lock-event-hold",
    "x-amz-object-lock-legal-hold",
    "x-amz-server-side-encryption-context",
    "x-amz-server-side-encryption-customer-",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
    "x-amz-write-offset-bytes",
];

impl S3 {
    pub(super) fn put_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        check_key(&key)?;
        let headers = complete(object_headers(call)?, call);
        let retention = Retention::of(call)?;
        lock::check_digest(retention, call, "Put Object")?;
        check_content_md5(call)?;
        let checksum = Checksum::of_put(&call.headers, &call.body)?;
        let etag = etag_of(&call.body, &headers);
        let object = Object { body: call.body.clone(), etag, checksum, headers, retention };

        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        authorize_write(cloud, call, bucket, &key)?;
        lock::check_bucket(retention, bucket)?;
        conditions::check_put(&call.headers, bucket.current_etag(&key))?;
        let mut reply = Reply::empty().with_header("etag", &format!("\"{}\"", object.etag));
        reply.headers.extend(encryption_headers(&object.headers).cloned());
        add_checksum(&mut reply, &object.checksum);
        let written = self.write(bucket, &key, object);
        drop(buckets);
        written.tell(cloud, call, Happening::Put);
        Ok(written.name_version(reply))
    }

    pub(super) fn copy_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        check_key(&key)?;
        let (from_name, from_key, from_version) = copy_source(call)?;
        let given = object_headers(call)?;
        let retention = Retention::of(call)?;
        let replace = match call.header("x-amz-metadata-directive") {
            None | Some("COPY") => false,
            Some("REPLACE") => true,
            Some(_) => return Err(invalid("Unknown metadata directive.")),
        };
        // Objects of the sandbox have no tags, so both directives have the same effect.
        if !matches!(call.header("x-amz-tagging-directive"), None | Some("COPY" | "REPLACE")) {
            return Err(invalid("Unknown tagging directive."));
        }
        let mut buckets = self.buckets();
        let from = buckets
            .get(&from_name)
            .ok_or_else(|| AwsError::new(404, "NoSuchBucket", "The specified bucket does not exist"))?;
        check_owner(call, "x-amz-source-expected-bucket-owner", from)?;
        let (source_version, source) = find(cloud, call, from, &from_key, from_version.as_deref())?;
        let source_version = source_version.clone();
        let from_versioned = from.versioned;
        conditions::check_read(call, "x-amz-copy-source-", &source.etag)?;
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        authorize_write(cloud, call, bucket, &key)?;
        lock::check_bucket(retention, bucket)?;
        conditions::check_put(&call.headers, bucket.current_etag(&key))?;
        let changed = replace || given.iter().any(|(name, _)| is_encryption_header(name.as_str()));
        if (&from_name, &from_key) == (&name, &key) && from_version.is_none() && !changed {
            return Err(AwsError::new(
                400,
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself without changing the \
                 object's metadata, storage class, website redirect location or encryption attributes.",
            ));
        }
        let headers = copied_headers(call, &source, given, replace);
        let etag = etag_of(&source.body, &headers);
        let checksum = source.checksum.of_copy(&source.body);
        let object = Object { body: source.body.clone(), etag, checksum, headers, retention };
        let checksum = object.checksum.xml();
        let etag = element("ETag", &format!("\"{}\"", object.etag));
        let encryption: Vec<_> = encryption_headers(&object.headers).cloned().collect();
        let written = self.write(bucket, &key, object);
        drop(buckets);
        written.tell(cloud, call, Happening::Copy);
        let modified = element("LastModified", &format!("{:.3}", written.version.modified));
        let mut reply = Reply::xml(format!(
            "{XML_HEAD}<CopyObjectResult xmlns=\"{NAMESPACE}\">{modified}{etag}{checksum}\
             </CopyObjectResult>"
        ));
        reply.headers.extend(encryption);
        if from_versioned {
            reply = reply.with_header("x-amz-copy-source-version-id", &source_version.id);
        }
        Ok(written.name_version(reply))
    }

    /// Stores an object and collects the data for its event.
    pub(super) fn write(&self, bucket: &mut Bucket, key: &str, object: Object) -> Written {
        let (size, etag) = (object.body.len() as u64, object.etag.clone());
        let version = bucket.add(key, Some(object));
        let version_id = bucket.versioned.then(|| version.id.clone());
        let subject =
            Subject { key: key.to_owned(), size, etag, version_id, sequencer: self.next_sequencer() };
        Written { version, source: Source::of(bucket), subject }
    }
}

/// A stored object, with the data for the event that is sent when no lock is held.
pub(super) struct Written {
    version: Version,
    source: Source,
    subject: Subject,
}

impl Written {
    pub(super) fn tell(&self, cloud: &Cloud, call: &Call, happening: Happening) {
        self.source.tell(cloud, call, happening, &self.subject);
    }

    /// Adds the new version's id to the reply, if the bucket is versioned.
    pub(super) fn name_version(&self, reply: Reply) -> Reply {
        match &self.subject.version_id {
            Some(id) => reply.with_header("x-amz-version-id", id),
            None => reply,
        }
    }
}

/// Finds the given version, or the latest one if none is given. The caller must be allowed to read it.
///
/// Only callers that may list the bucket learn that a key does not exist.
pub(super) fn find<'a>(
    cloud: &Cloud,
    call: &Call,
    bucket: &'a Bucket,
    key: &str,
    version_id: Option<&str>,
) -> Result<(&'a Version, Arc<Object>), AwsError> {
    let action = if version_id.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
    authorize(cloud, call, bucket, action, &object_arn(bucket, key), &[])?;
    let (version, missing) = match version_id {
        Some(id) => {
            check_version_id(id)?;
            let missing = ("NoSuchVersion", "The specified version does not exist.");
            (bucket.version(key, id), missing)
        }
        None => (bucket.latest(key), ("NoSuchKey", "The specified key does not exist.")),
    };
    match version.map(|version| (version, version.object.clone())) {
        Some((version, Some(object))) => Ok((version, object)),
        Some((_, None)) if version_id.is_some() => {
            let message = "The specified method is not allowed against this resource.";
            Err(AwsError::new(405, "MethodNotAllowed", message))
        }
        Some((_, None)) | None => {
            authorize(cloud, call, bucket, "s3:ListBucket", &bucket.arn(), &[("s3:prefix", key)])?;
            Err(AwsError::new(404, missing.0, missing.1))
        }
    }
}

pub(super) fn check_version_id(id: &str) -> Result<(), AwsError> {
    let legal = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if legal || id == NULL_VERSION { Ok(()) } else { Err(invalid("Invalid version id specified")) }
}

pub(super) fn add_checksum(reply: &mut Reply, checksum: &Checksum) {
    if let Ok(value) = HeaderValue::from_str(&checksum.value) {
        reply.headers.insert(HeaderName::from_static(checksum.algorithm.header()), value);
        reply.headers.insert("x-amz-checksum-type", HeaderValue::from_static(checksum.kind.name()));
    }
}

pub(super) fn object_arn(bucket: &Bucket, key: &str) -> String {
    format!("{}/{key}", bucket.arn())
}

/// Checks the permissions of a write: PutObject, with an ACL also PutObjectAcl, with a retention also PutObjectRetention, and with a
/// condition on an ETag also GetObject.
/// Source: S3 User Guide, "How to prevent object overwrites with conditional writes", and API Reference, "PutObject".
pub(super) fn authorize_write(
    cloud: &Cloud,
    call: &Call,
    bucket: &Bucket,
    key: &str,
) -> Result<(), AwsError> {
    let arn = object_arn(bucket, key);
    if call.headers.contains_key("if-match") {
        authorize(cloud, call, bucket, "s3:GetObject", &arn, &[])?;
    }
    let (acl, mode) = (call.header("x-amz-acl"), call.header("x-amz-object-lock-mode"));
    let context = [("s3:x-amz-acl", acl), ("s3:object-lock-mode", mode)];
    let context: Vec<_> = context.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let acl_action = acl.map(|_| "s3:PutObjectAcl");
    let retention_action = mode.map(|_| "s3:PutObjectRetention");
    for action in ["s3:PutObject"].into_iter().chain(acl_action).chain(retention_action) {
        authorize(cloud, call, bucket, action, &arn, &context)?;
    }
    // Default of S3 since 2023: the bucket's owner owns the objects, and ACLs are disabled.
    match acl {
        None | Some("bucket-owner-full-control") => Ok(()),
        Some(_) => Err(AwsError::new(400, "AccessControlListNotSupported", "The bucket does not allow ACLs")),
    }
}

pub(super) fn check_key(key: &str) -> Result<(), AwsError> {
    if key.len() > MAX_KEY {
        return Err(AwsError::new(400, "KeyTooLongError", "Your key is too long"));
    }
    Ok(())
}

pub(super) fn check_content_md5(call: &Call) -> Result<(), AwsError> {
    let Some(sent) = call.header("content-md5") else { return Ok(()) };
    let sent =
        STANDARD.decode(sent).ok().filter(|sum| sum.len() == 16).ok_or_else(|| {
            AwsError::new(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        })?;
    if sent == Md5::digest(&call.body).as_slice() {
        Ok(())
    } else {
        let message = "The Content-MD5 you specified did not match what we received.";
        Err(AwsError::new(400, "BadDigest", message))
    }
}

fn is_encryption_header(name: &str) -> bool {
    name.starts_with("x-amz-server-side-encryption")
}

pub(super) fn encryption_headers(
    headers: &[(HeaderName, HeaderValue)],
) -> impl Iterator<Item = &(HeaderName, HeaderValue)> {
    headers.iter().filter(|(name, _)| is_encryption_header(name.as_str()))
}

/// Checks the headers of a write and returns those that are stored with the object. Refuses headers of features that are not
/// implemented.
pub(super) fn object_headers(call: &Call) -> Result<Vec<(HeaderName, HeaderValue)>, AwsError> {
    let mut kept = Vec::new();
    let mut metadata = 0;
    for (name, value) in &call.headers {
        let text = name.as_str();
        if REFUSED.iter().any(|refused| text.starts_with(refused)) && text != "x-amz-tagging-directive" {
            return Err(AwsError::not_implemented("s3", &format!("{} with {text}", call.operation)));
        }
        if let Some(meta) = text.strip_prefix("x-amz-meta-") {
            metadata += meta.len() + value.len();
            kept.push((name.clone(), value.clone()));
        } else if KEPT.contains(&text) {
            kept.push((name.clone(), value.clone()));
        }
    }
    if metadata > MAX_METADATA {
        let message = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(AwsError::new(400, "MetadataTooLarge", message));
    }
    match call.header("x-amz-server-side-encryption") {
        None | Some("AES256" | "aws:kms" | "aws:kms:dsse") => Ok(kept),
        Some(_) => Err(invalid("The encryption method specified is not supported")),
    }
}

/// Adds S3's defaults: a content type, and S3's own encryption.
pub(super) fn complete(
    mut headers: Vec<(HeaderName, HeaderValue)>,
    call: &Call,
) -> Vec<(HeaderName, HeaderValue)> {
    let has =
        |headers: &[(HeaderName, HeaderValue)], wanted: &str| headers.iter().any(|(name, _)| name == wanted);
    if !has(&headers, "content-type") {
        let given = call.headers.get("content-type").cloned();
        let value = given.unwrap_or_else(|| HeaderValue::from_static("binary/octet-stream"));
        headers.push((HeaderName::from_static("content-type"), value));
    }
    if !has(&headers, "x-amz-server-side-encryption") {
        let name = HeaderName::from_static("x-amz-server-side-encryption");
        headers.push((name, HeaderValue::from_static("AES256")));
    }
    headers
}

fn copied_headers(
    call: &Call,
    source: &Object,
    given: Vec<(HeaderName, HeaderValue)>,
    replace: bool,
) -> Vec<(HeaderName, HeaderValue)> {
    if replace {
        return complete(given, call);
    }
    let content = source.headers.iter().filter(|(name, _)| !is_encryption_header(name.as_str())).cloned();
    let storage = given.into_iter().filter(|(name, _)| is_encryption_header(name.as_str()));
    complete(content.chain(storage).collect(), call)
}

/// ETag of an object.
fn etag_of(body: &[u8], headers: &[(HeaderName, HeaderValue)]) -> String {
    hex(&digest_of(Md5::new_with_prefix(body), headers))
}

/// ETag of an object or a part as bytes: the MD5 of the body, or with KMS, as in S3, another value.
pub(super) fn digest_of(mut sum: Md5, headers: &[(HeaderName, HeaderValue)]) -> [u8; 16] {
    let kms = headers.iter().any(|(name, value)| {
        name == "x-amz-server-side-encryption" && value.as_bytes().starts_with(b"aws:kms")
    });
    if kms {
        sum.update(fastrand::u64(..).to_be_bytes());
    }
    sum.finalize().into()
}

/// Bucket, key and version in `x-amz-copy-source`, which is URL-encoded with a plus for a space.
fn copy_source(call: &Call) -> Result<(String, String, Option<String>), AwsError> {
    let wrong = || invalid("Copy Source must mention the source bucket and key: sourcebucket/sourcekey");
    let source = call.header("x-amz-copy-source").ok_or_else(wrong)?;
    if source.starts_with("arn:") {
        return Err(AwsError::not_implemented("s3", "CopyObject from an access point"));
    }
    let (path, version) = match source.split_once("?versionId=") {
        Some((path, version)) => (path, Some(decode_form(version))),
        None => (source, None),
    };
    let path = decode_form(path);
    let (bucket, key) = path.trim_start_matches('/').split_once('/').ok_or_else(wrong)?;
    if bucket.is_empty() || key.is_empty() {
        return Err(wrong());
    }
    Ok((bucket.to_owned(), key.to_owned(), version))
}
