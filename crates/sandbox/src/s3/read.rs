//! Reads objects: get and head.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use jiff::fmt::rfc2822::DateTimePrinter;

use super::{
    S3, check_owner, conditions, is_allowed,
    object::{add_checksum, find, object_arn},
    open, target,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
};

/// Bytes of a body that are sent at a time.
const CHUNK: usize = 64 * 1024;

impl S3 {
    pub(super) fn get_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (reply, body) = self.read(cloud, call)?;
        Ok(Reply { body: axum::body::Body::new(Chunks(body)), ..reply })
    }

    pub(super) fn head_object(&self, cloud: &Cloud, call: &Call) -> Answer {
        self.read(cloud, call).map(|(reply, _)| reply)
    }

    /// Headers of the answer, and the bytes that a get sends.
    fn read(&self, cloud: &Cloud, call: &Call) -> Result<(Reply, Bytes), AwsError> {
        let known = ["versionId", "x-id"];
        if let Some((name, _)) = call.query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(AwsError::not_implemented("s3", &format!("{} with {name}", call.operation)));
        }
        if call.headers.keys().any(|name| name.as_str().starts_with("x-amz-server-side-encryption-customer-"))
        {
            return Err(AwsError::not_implemented("s3", "customer-provided keys"));
        }
        let (name, key) = target(call);
        let mut buckets = self.buckets();
        let bucket = open(&mut buckets, call, &name)?;
        check_owner(call, "x-amz-expected-bucket-owner", bucket)?;
        let (version, object) = find(cloud, call, bucket, &key, call.query_value("versionId"))?;
        let (version, versioned) = (version.clone(), bucket.versioned);
        // Only callers with the permission learn of the retention.
        let arn = object_arn(bucket, &key);
        let retention =
            object.retention.filter(|_| is_allowed(cloud, call, bucket, "s3:GetObjectRetention", &arn));
        drop(buckets);

        let modified = DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&version.modified)
            .expect("the clock shows a year that HTTP can write");
        let mut reply = Reply::empty()
            .with_header("etag", &format!("\"{}\"", object.etag))
            .with_header("last-modified", &modified);
        if versioned {
            reply = reply.with_header("x-amz-version-id", &version.id);
        }
        if let Some(retention) = retention {
            reply = retention.add_to(reply);
        }
        conditions::check_read(call, "", &object.etag)?;
        let length = object.body.len();
        let range = conditions::range(call.header("range"), length as u64)?;
        reply.headers.extend(object.headers.iter().cloned());
        reply.headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let body = match range {
            Some(range) => {
                reply.status = StatusCode::PARTIAL_CONTENT;
                let text = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                reply = reply.with_header("content-range", &text);
                object.body.slice(range.start as usize..range.end as usize)
            }
            None => {
                if call.header("x-amz-checksum-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("enabled"))
                {
                    add_checksum(&mut reply, &object.checksum);
                }
                object.body.clone()
            }
        };
        Ok((reply.with_header("content-length", &body.len().to_string()), body))
    }
}

/// A body that is sent in small pieces, so that a reader has to handle several.
#[derive(Debug)]
struct Chunks(Bytes);

impl Body for Chunks {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let size = self.0.len().min(CHUNK);
        Poll::Ready((size > 0).then(|| Ok(Frame::data(self.0.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}
