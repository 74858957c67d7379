//! Multipart uploads: an object that arrives in parts and exists once the upload is completed.
//!
//! Listing uploads and parts, copying parts and reading single parts are not implemented. A completed or aborted upload is
//! forgotten at once, so a repeated completion gets `NoSuchUpload`. AWS documents that error, but is known to repeat its first
//! answer for a while; clients must not rely on either.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, HeaderValue, StatusCode};
use md5::{Digest, Md5};
use roxmltree::{Document, Node};

use super::{
    NAMESPACE, S3, XML_HEAD, authorize, body_text,
    bucket::{Bucket, Object},
    check_owner,
    checksum::{self, Algorithm, Checksum, Kind, Plan},
    conditions,
    event::Happening,
    lock::{self, Retention},
    notification::{invalid, malformed},
    object::{
        add_checksum, authorize_write, check_content_md5, check_key, complete, digest_of, encryption_headers,
        object_arn, object_headers,
    },
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::{element, hex},
};

/// Smallest part, except the last. This limit and the next: S3 User Guide, "Amazon S3 multipart upload limits".
const MIN_PART: usize = 5 << 20;
const MAX_PARTS: u16 = 10_000;

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) key: String,
    /// Headers of the object.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// `x-amz-acl` of the creation.
    acl: Option<String>,
    checksum: Option<Plan>,
    retention: Option<Retention>,
    parts: BTreeMap<u16, Part>,
}

#[derive(Debug, Clone)]
struct Part {
    body: bytes::Bytes,
    /// The part's ETag before it is written in hexadecimal digits.
    digest: [u8; 16],
    /// Checksum that came with the part.
    checksum: Option<Checksum>,
}

impl Part {
    fn etag(&self) -> String {
        hex(&self.digest)
    }
}

/// A part as CompleteMultipartUpload names it.
struct Named {
    number: u16,
    etag: String,
    checksums: Vec<(Algorithm, String)>,
}

impl S3 {
    pub(super) fn create_multipart_upload(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        check_key(&key)?;
        let headers = complete(object_headers(call)?, call);
        let checksum = Plan::of(call)?;
        let retention = Retention::of(call)?;
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        authorize_write(cloud, call, bucket, &key)?;
        lock::check_bucket(retention, bucket)?;
        let id: String = std::iter::repeat_with(fastrand::alphanumeric).take(64).collect();
        let mut reply = Reply::xml(format!(
            "{XML_HEAD}<InitiateMultipartUploadResult xmlns=\"{NAMESPACE}\">{}{}{}</InitiateMultipartUploadResult>",
            element("Bucket", &name),
            element("Key", &key),
            element("UploadId", &id)
        ));
        reply.headers.extend(encryption_headers(&headers).cloned());
        if let Some(plan) = checksum {
            reply = reply
                .with_header("x-amz-checksum-algorithm", plan.algorithm.name())
                .with_header("x-amz-checksum-type", plan.kind.name());
        }
        let acl = call.header("x-amz-acl").map(str::to_owned);
        bucket.uploads.insert(id, Upload { key, headers, acl, checksum, retention, parts: BTreeMap::new() });
        Ok(reply)
    }

    pub(super) fn upload_part(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        let number = part_number(call)?;
        let customer_keys = "x-amz-server-side-encryption-customer-";
        if call.headers.keys().any(|name| name.as_str().starts_with(customer_keys)) {
            return Err(AwsError::not_implemented("s3", "customer-provided keys"));
        }
        check_content_md5(call)?;
        let sent = Checksum::sent(&call.headers, &call.body)?;
        let plain = Md5::new_with_prefix(&call.body);

        let mut buckets = self.buckets();
        let upload = find_upload(cloud, call, &mut buckets, &name, &key)?;
        lock::check_digest(upload.retention, call, "Put Part")?;
        check_algorithm(upload.checksum, sent.as_ref())?;
        let part =
            Part { body: call.body.clone(), digest: digest_of(plain, &upload.headers), checksum: sent };
        let mut reply = Reply::empty().with_header("etag", &format!("\"{}\"", part.etag()));
        reply.headers.extend(encryption_headers(&upload.headers).cloned());
        if let Some(checksum) = &part.checksum {
            add_checksum(&mut reply, checksum);
            reply.headers.remove("x-amz-checksum-type");
        }
        upload.parts.insert(number, part);
        Ok(reply)
    }

    pub(super) fn complete_multipart_upload(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        let mut buckets = self.buckets();
        let upload = find_upload(cloud, call, &mut buckets, &name, &key)?.clone();
        if call.headers.contains_key("if-match") {
            let bucket = open(&mut buckets, call, &name)?;
            authorize(cloud, call, bucket, "s3:GetObject", &object_arn(bucket, &key), &[])?;
        }
        drop(buckets);
        // Other calls go on while the parts are put together.
        let object = upload.assemble(call, &named_parts(body_text(call)?)?)?;

        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        conditions::check_put(&call.headers, bucket.current_etag(&key))?;
        bucket.uploads.remove(upload_id(call)).ok_or_else(no_such_upload)?;
        let mut reply = Reply::xml(format!(
            "{XML_HEAD}<CompleteMultipartUploadResult xmlns=\"{NAMESPACE}\">{}{}{}{}{}</CompleteMultipartUploadResult>",
            element("Location", &format!("{}{}", call.endpoint, call.path)),
            element("Bucket", &name),
            element("Key", &key),
            element("ETag", &format!("\"{}\"", object.etag)),
            object.checksum.xml()
        ));
        reply.headers.extend(encryption_headers(&object.headers).cloned());
        let written = self.write(bucket, &key, object);
        drop(buckets);
        written.tell(cloud, call, Happening::CompleteMultipartUpload);
        Ok(written.name_version(reply))
    }

    pub(super) fn abort_multipart_upload(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, key) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        authorize(cloud, call, bucket, "s3:AbortMultipartUpload", &object_arn(bucket, &key), &[])?;
        let id = upload_id(call);
        if bucket.uploads.get(id).is_none_or(|upload| upload.key != key) {
            return Err(no_such_upload());
        }
        bucket.uploads.remove(id);
        Ok(Reply { status: StatusCode::NO_CONTENT, ..Reply::empty() })
    }

    /// Keys of the bucket's uploads that are neither completed nor aborted.
    pub(crate) fn open_uploads(&self, bucket: &str) -> Vec<String> {
        let buckets = self.buckets();
        let uploads = buckets.get(bucket).into_iter().flat_map(|bucket| bucket.uploads.values());
        uploads.map(|upload| upload.key.clone()).collect()
    }
}

/// Finds the upload that the call names, if the caller may write the object.
///
/// UploadPart and CompleteMultipartUpload cannot name an ACL, so S3 judges them by the ACL of the creation: policies that require
/// `bucket-owner-full-control` allow multipart uploads. S3 does so since 2018; source: issue 1674 of aws/aws-cli.
fn find_upload<'a>(
    cloud: &Cloud,
    call: &Call,
    buckets: &'a mut BTreeMap<String, Bucket>,
    name: &str,
    key: &str,
) -> Result<&'a mut Upload, AwsError> {
    let bucket = open(buckets, call, name)?;
    check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
    let upload = bucket.uploads.get(upload_id(call)).filter(|upload| upload.key == key);
    let acl = upload.and_then(|upload| upload.acl.as_deref());
    let context: Vec<_> = acl.into_iter().map(|acl| ("s3:x-amz-acl", acl)).collect();
    authorize(cloud, call, bucket, "s3:PutObject", &object_arn(bucket, key), &context)?;
    bucket.uploads.get_mut(upload_id(call)).filter(|upload| upload.key == key).ok_or_else(no_such_upload)
}

fn upload_id(call: &Call) -> &str {
    call.query_value("uploadId").unwrap_or_default()
}

fn part_number(call: &Call) -> Result<u16, AwsError> {
    let number = call.query_value("partNumber").and_then(|text| text.parse().ok());
    number
        .filter(|number| (1..=MAX_PARTS).contains(number))
        .ok_or_else(|| invalid("Part number must be an integer between 1 and 10000, inclusive"))
}

fn no_such_upload() -> AwsError {
    AwsError::new(
        404,
        "NoSuchUpload",
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or \
         completed.",
    )
}

/// Checks a part's algorithm against that of the upload. A part needs a checksum only if the object's is made of the parts'.
fn check_algorithm(plan: Option<Plan>, sent: Option<&Checksum>) -> Result<(), AwsError> {
    let Some(plan) = plan else { return Ok(()) };
    let actual = match sent {
        Some(sent) if sent.algorithm == plan.algorithm => return Ok(()),
        Some(sent) => sent.algorithm.name().to_ascii_lowercase(),
        None if plan.kind == Kind::FullObject => return Ok(()),
        None => "null".to_owned(),
    };
    Err(checksum::request(&format!(
        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {actual}",
        plan.algorithm.name().to_ascii_lowercase()
    )))
}

/// Reads the body of CompleteMultipartUpload.
fn named_parts(body: &str) -> Result<Vec<Named>, AwsError> {
    let document = Document::parse(body).map_err(|_| malformed())?;
    let root = document.root_element();
    if root.tag_name().name() != "CompleteMultipartUpload" {
        return Err(malformed());
    }
    let parts = root.children().filter(Node::is_element).map(|part| {
        let mut named = Named { number: 0, etag: String::new(), checksums: Vec::new() };
        for member in part.children().filter(Node::is_element) {
            let text = member.text().unwrap_or_default();
            match member.tag_name().name() {
                "PartNumber" => named.number = text.parse().map_err(|_| malformed())?,
                "ETag" => text.trim_matches('"').clone_into(&mut named.etag),
                other => {
                    let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.element() == other);
                    named.checksums.push((algorithm.ok_or_else(malformed)?, text.to_owned()));
                }
            }
        }
        match part.tag_name().name() == "Part" && named.number > 0 && !named.etag.is_empty() {
            true => Ok(named),
            false => Err(malformed()),
        }
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    if parts.is_empty() { Err(malformed()) } else { Ok(parts) }
}

impl Upload {
    /// Makes the object of the named parts.
    fn assemble(&self, call: &Call, named: &[Named]) -> Result<Object, AwsError> {
        if !named.is_sorted_by(|earlier, later| earlier.number < later.number) {
            let message =
                "The list of parts was not in ascending order. Parts must be ordered by part number.";
            return Err(AwsError::new(400, "InvalidPartOrder", message));
        }
        let parts = named.iter().map(|named| self.part(upload_id(call), named));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        for (named, part) in named.iter().zip(&parts[..parts.len() - 1]) {
            if part.body.len() < MIN_PART {
                let message = "Your proposed upload is smaller than the minimum allowed size";
                return Err(AwsError::new(400, "EntityTooSmall", message)
                    .with_member("ETag", part.etag().into())
                    .with_member("MinSizeAllowed", MIN_PART.into())
                    .with_member("PartNumber", named.number.into())
                    .with_member("ProposedSize", part.body.len().into()));
            }
        }
        let size: usize = parts.iter().map(|part| part.body.len()).sum();
        if let Some(expected) = call.header("x-amz-mp-object-size")
            && expected != size.to_string()
        {
            return Err(checksum::request(&format!(
                "The provided 'x-amz-mp-object-size' header value {expected} does not match what was computed: {size}"
            )));
        }
        let mut body = Vec::with_capacity(size);
        parts.iter().for_each(|part| body.extend_from_slice(&part.body));
        let checksum = self.checksum(call, named, &parts, &body)?;
        let digests: Vec<u8> = parts.iter().flat_map(|part| part.digest).collect();
        let etag = format!("{}-{}", hex(&Md5::digest(digests)), parts.len());
        Ok(Object {
            body: body.into(),
            etag,
            checksum,
            headers: self.headers.clone(),
            retention: self.retention,
        })
    }

    /// The part that was uploaded as the caller names it.
    fn part(&self, upload_id: &str, named: &Named) -> Result<&Part, AwsError> {
        let Named { number, etag, checksums } = named;
        let invalid_part = || {
            let message = "One or more of the specified parts could not be found.  The part may not have been \
                           uploaded, or the specified entity tag may not match the part's entity tag.";
            AwsError::new(400, "InvalidPart", message)
                .with_member("UploadId", upload_id.into())
                .with_member("PartNumber", (*number).into())
                .with_member("ETag", etag.as_str().into())
        };
        let part = self.parts.get(number).filter(|part| part.etag() == *etag).ok_or_else(invalid_part)?;
        match (self.checksum, checksums.as_slice()) {
            (_, [_, _, ..]) => Err(invalid("Invalid Base64 or multiple checksums present in request")),
            (_, [(algorithm, sum)]) if algorithm.decode(sum).is_none() => {
                Err(invalid("Invalid Base64 or multiple checksums present in request"))
            }
            (Some(plan), [(algorithm, sum)]) => {
                let own = part.checksum.clone().unwrap_or_else(|| plan.algorithm.of(&part.body));
                if (own.algorithm, &own.value) == (*algorithm, sum) { Ok(part) } else { Err(invalid_part()) }
            }
            // An upload that names no algorithm has no checksums of parts, so that no part is found by one.
            (None, [_]) => Err(invalid_part()),
            (Some(Plan { algorithm, kind: Kind::Composite }), []) => Err(checksum::request(&format!(
                "The upload was created using a {} checksum. The complete request must include the checksum for each \
                 part. It was missing for part {number} in the request.",
                algorithm.name().to_ascii_lowercase()
            ))),
            (_, []) => Ok(part),
        }
    }

    /// Checksum of the object: of the kind that the creation asked for, or else CRC-64/NVME. Checks what the call says of it.
    fn checksum(
        &self,
        call: &Call,
        named: &[Named],
        parts: &[&Part],
        body: &[u8],
    ) -> Result<Checksum, AwsError> {
        let plan = self.checksum.unwrap_or(Plan { algorithm: Algorithm::Crc64Nvme, kind: Kind::FullObject });
        if call.header("x-amz-checksum-type").is_some_and(|kind| kind != plan.kind.name()) {
            return Err(checksum::request(&format!(
                "The upload was created using the {} checksum mode. The complete request must use the same checksum mode.",
                plan.kind.name()
            )));
        }
        let checksum = match plan.kind {
            Kind::FullObject => plan.algorithm.of(body),
            Kind::Composite => {
                // S3 fails here with a server's error. Source: S3 User Guide, "Checking object integrity in Amazon S3".
                if named.iter().zip(1..).any(|(named, number)| named.number != number) {
                    let message = "We encountered an internal error. Please try again.";
                    return Err(AwsError::new(500, "InternalError", message));
                }
                let sums = parts.iter().filter_map(|part| part.checksum.as_ref());
                let sums: Vec<u8> =
                    sums.filter_map(|sum| STANDARD.decode(&sum.value).ok()).flatten().collect();
                let sum = plan.algorithm.of(&sums);
                Checksum { kind: Kind::Composite, value: format!("{}-{}", sum.value, parts.len()), ..sum }
            }
        };
        match checksum::header_of(&call.headers)? {
            None => Ok(checksum),
            Some((algorithm, _)) if algorithm != plan.algorithm => Err(AwsError::not_implemented(
                "s3",
                "CompleteMultipartUpload with another checksum than the upload's",
            )),
            // A composite checksum may come without the number of parts.
            Some((_, sum)) if sum == checksum.value || checksum.value.split('-').next() == Some(sum) => {
                Ok(checksum)
            }
            Some((algorithm, _)) => Err(checksum::bad_digest(&algorithm.name().to_ascii_lowercase())),
        }
    }
}
