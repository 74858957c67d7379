//! ListObjectsV2.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    NAMESPACE, S3, XML_HEAD, authorize,
    bucket::{Bucket, Object, Version},
    check_owner,
    notification::invalid,
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::{element, encode_key},
};

const MAX_KEYS: usize = 1_000;

struct Request<'a> {
    prefix: &'a str,
    delimiter: &'a str,
    /// Last key or common prefix of the previous page.
    after: String,
    max_keys: usize,
}

struct Page<'a> {
    contents: Vec<(&'a str, &'a Version, &'a Object)>,
    common_prefixes: Vec<String>,
    /// Last key or common prefix, if the listing goes on.
    next: Option<String>,
}

impl S3 {
    pub(super) fn list_objects(&self, cloud: &Cloud, call: &Call) -> Answer {
        let known = [
            "list-type",
            "prefix",
            "delimiter",
            "continuation-token",
            "start-after",
            "max-keys",
            "encoding-type",
            "x-id",
        ];
        if let Some((name, _)) = call.query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(AwsError::not_implemented("s3", &format!("ListObjectsV2 with {name}")));
        }
        let given = |name: &str| call.query_value(name).unwrap_or_default();
        let max_keys = match call.query_value("max-keys") {
            Some(text) => text
                .parse::<u32>()
                .map_err(|_| invalid("Provided max-keys not an integer or within integer range"))?
                as usize,
            None => MAX_KEYS,
        };
        let after = match call.query_value("continuation-token") {
            Some(token) => read_token(token)?,
            None => given("start-after").to_owned(),
        };
        let request = Request {
            prefix: given("prefix"),
            delimiter: given("delimiter"),
            after,
            max_keys: max_keys.min(MAX_KEYS),
        };
        let encoded = match call.query_value("encoding-type") {
            Some("url") => true,
            Some(_) => return Err(invalid("Invalid Encoding Method specified in Request")),
            None => false,
        };
        let (name, _) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        authorize(cloud, call, bucket, "s3:ListBucket", &bucket.arn(), &[("s3:prefix", request.prefix)])?;
        let page = list(bucket, &request);
        Ok(Reply::xml(print(call, bucket, &request, &page, encoded)))
    }
}

/// Collects a page: the keys and common prefixes after `after`.
fn list<'a>(bucket: &'a Bucket, request: &Request<'_>) -> Page<'a> {
    let Request { prefix, delimiter, after, max_keys } = request;
    let mut page = Page { contents: Vec::new(), common_prefixes: Vec::new(), next: None };
    let mut last = String::new();
    let start = if after.as_str() > *prefix { after.as_str() } else { prefix };
    for (key, version, object) in bucket.objects_from(start) {
        let Some(rest) = key.strip_prefix(prefix) else { break };
        let rolled = (!delimiter.is_empty())
            .then(|| rest.find(delimiter))
            .flatten()
            .map(|at| &key[..prefix.len() + at + delimiter.len()]);
        if key <= after.as_str() || rolled.is_some_and(|common| common == last || common == after) {
            continue;
        }
        if page.contents.len() + page.common_prefixes.len() == *max_keys {
            page.next = (*max_keys > 0).then_some(last);
            break;
        }
        match rolled {
            Some(common) => {
                common.clone_into(&mut last);
                page.common_prefixes.push(last.clone());
            }
            None => {
                key.clone_into(&mut last);
                page.contents.push((key, version, object));
            }
        }
    }
    page
}

fn print(call: &Call, bucket: &Bucket, request: &Request<'_>, page: &Page<'_>, encoded: bool) -> String {
    let text = |name: &str, text: &str| {
        if encoded { element(name, &encode_key(text)) } else { element(name, text) }
    };
    let mut out = format!("{XML_HEAD}<ListBucketResult xmlns=\"{NAMESPACE}\">");
    out.push_str(&element("Name", &bucket.name));
    out.push_str(&text("Prefix", request.prefix));
    if !request.delimiter.is_empty() {
        out.push_str(&text("Delimiter", request.delimiter));
    }
    if let Some(start) = call.query_value("start-after") {
        out.push_str(&text("StartAfter", start));
    }
    if let Some(token) = call.query_value("continuation-token") {
        out.push_str(&element("ContinuationToken", token));
    }
    if encoded {
        out.push_str(&element("EncodingType", "url"));
    }
    out.push_str(&element("MaxKeys", &request.max_keys.to_string()));
    let count = page.contents.len() + page.common_prefixes.len();
    out.push_str(&element("KeyCount", &count.to_string()));
    out.push_str(&element("IsTruncated", if page.next.is_some() { "true" } else { "false" }));
    if let Some(next) = &page.next {
        out.push_str(&element("NextContinuationToken", &STANDARD.encode(next)));
    }
    for (key, version, object) in &page.contents {
        out.push_str("<Contents>");
        out.push_str(&text("Key", key));
        out.push_str(&element("LastModified", &format!("{:.3}", version.modified)));
        out.push_str(&element("ETag", &format!("\"{}\"", object.etag)));
        out.push_str(&element("ChecksumAlgorithm", object.checksum.algorithm.name()));
        out.push_str(&element("ChecksumType", object.checksum.kind.name()));
        out.push_str(&element("Size", &object.body.len().to_string()));
        out.push_str(&element("StorageClass", "STANDARD"));
        out.push_str("</Contents>");
    }
    for common in &page.common_prefixes {
        out.push_str(&format!("<CommonPrefixes>{}</CommonPrefixes>", text("Prefix", common)));
    }
    out.push_str("</ListBucketResult>");
    out
}

fn read_token(token: &str) -> Result<String, AwsError> {
    let bytes = STANDARD.decode(token).ok().filter(|bytes| !bytes.is_empty());
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| invalid("The continuation token provided is incorrect"))
}
