//! The staging bucket on S3.

use std::{fmt, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{self, ResponseChecksumValidation, StalledStreamProtectionConfig, http::HttpResponse},
    error::{ProvideErrorMetadata, SdkError},
    operation::{
        get_object::{GetObjectInput, GetObjectOutput},
        head_object::HeadObjectError,
    },
    primitives::{ByteStream, DateTime, DateTimeFormat as Format, SdkBody},
};
use aws_smithy_checksums::{ChecksumAlgorithm, http::HttpChecksum};
use aws_smithy_runtime_api::client::{interceptors::context::Input, orchestrator::Metadata};
use aws_smithy_types::config_bag::ConfigBag;
use bytes::Bytes;
use jiff::Timestamp;

use super::{ObjectBody, ObjectError, ObjectHead, ObjectStore};
use crate::{
    aws::{
        Calls, S3Refusal, chain, describe,
        direct::{DirectCalls, DirectRequest, Final, LeftToSdk, Place, Unusual, UnusualKind},
    },
    credentials::identity::IdentityError,
    event::{ObjectRef, percent_encoded},
};

/// Most resumes in a row, if fewer than [`PROGRESS`] bytes were read between the breaks. After the last one the message
/// returns to the queue. The SDK's own retries cover a request only until the headers of its response have arrived.
const MAX_RESUMES: u32 = 3;
/// After so many bytes without a break, the resumes are counted from zero again: the connection of a large object may break
/// many times while the object waits for a slow customer.
const PROGRESS: u64 = 8 << 20;

/// Longest time without a byte of a response. After that the connection counts as broken. The SDK's own default, which is switched
/// off, is the same.
const LONGEST_STALL: Duration = Duration::from_secs(5);

/// Reads objects from S3.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    /// First attempts of GetObject for whole objects.
    direct: DirectCalls,
    longest_stall: Duration,
}

impl S3Store {
    /// Reads with a client of this configuration. `calls` counts the calls of `config`'s client; those that are made without the
    /// client count there too.
    pub fn new(config: config::Builder, calls: &Calls) -> Self {
        let place = |input: &Input, _: &ConfigBag| {
            let input = input.downcast_ref::<GetObjectInput>()?;
            Some(Place { route: input.bucket()?.to_owned(), path: encoded(input.key()?) })
        };
        let direct = DirectCalls::new(calls, Metadata::new("GetObject", "S3"), place, true);
        let config = config
            // `S3Body` checks checksums and stalled connections itself, because it resumes broken connections.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .interceptor(direct.clone());
        Self { client: Client::from_conf(config.build()), direct, longest_stall: LONGEST_STALL }
    }
}

/// An object that is being read. If the connection breaks, reading continues from the same byte.
#[derive(Debug)]
pub struct S3Body {
    client: Client,
    longest_stall: Duration,
    request: Request,
    stream: ByteStream,
    read: u64,
    len: Option<u64>,
    resumes: u32,
    resumed_at: u64,
    /// `None` if S3 sent no checksum, and after the check.
    checksum: Option<ChecksumSoFar>,
}

/// Checksum of everything that was read, over all responses. The SDK can check one response only, and S3 sends no
/// checksum with a range of an object. The SDK's own check is switched off, so that no byte is hashed twice: see
/// [`S3Store::new`].
struct ChecksumSoFar {
    algorithm: Box<dyn HttpChecksum>,
    expected: String,
}

impl fmt::Debug for ChecksumSoFar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl ChecksumSoFar {
    /// Takes the checksum of the whole object from the response. If there are several, takes the one that is cheapest to
    /// compute. Ignores a composite checksum (a checksum of the checksums of an object's parts), because it cannot be
    /// computed from the bytes alone.
    fn of(output: &GetObjectOutput) -> Option<Self> {
        let (algorithm, expected) = [
            (ChecksumAlgorithm::Crc64Nvme, output.checksum_crc64_nvme()),
            (ChecksumAlgorithm::Crc32, output.checksum_crc32()),
            (ChecksumAlgorithm::Crc32c, output.checksum_crc32_c()),
            (ChecksumAlgorithm::Sha1, output.checksum_sha1()),
            (ChecksumAlgorithm::Sha256, output.checksum_sha256()),
        ]
        .into_iter()
        .find_map(|(algorithm, expected)| Some((algorithm, expected.filter(|text| !text.contains('-'))?)))?;
        Some(Self { algorithm: algorithm.into_impl(), expected: expected.to_owned() })
    }

    fn check(self) -> Result<(), ObjectError> {
        let Self { algorithm, expected } = self;
        let (name, found) = (algorithm.header_name(), algorithm.header_value());
        if found.as_bytes() == expected.as_bytes() {
            return Ok(());
        }
        let found = String::from_utf8_lossy(found.as_bytes());
        Err(ObjectError::ChecksumMismatch(format!("{name} is {expected}, and the bytes read have {found}")))
    }
}

/// Request for an object, always in the same version, so that a resumed read continues with the same bytes.
#[derive(Clone, Debug)]
struct Request {
    bucket: String,
    key: String,
    version_id: Option<String>,
    if_match: Option<String>,
    owner: Option<String>,
}

impl Request {
    fn of(object: &ObjectRef, owner: Option<&str>) -> Self {
        Self {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            version_id: object.version_id.clone(),
            if_match: match object.version_id {
                Some(_) => None,
                None => object.etag.as_ref().map(|etag| format!("\"{etag}\"")),
            },
            owner: owner.map(str::to_owned),
        }
    }

    async fn send(
        &self,
        client: &Client,
        from: u64,
        left: LeftToSdk,
    ) -> Result<GetObjectOutput, ObjectError> {
        let call = client
            .get_object()
            .bucket(&self.bucket)
            .key(&self.key)
            .set_version_id(self.version_id.clone())
            .set_if_match(self.if_match.clone())
            .set_expected_bucket_owner(self.owner.clone())
            .set_range((from > 0).then(|| format!("bytes={from}-")))
            .customize()
            // The header asks S3 for the checksum; the SDK does not check it.
            .mutate_request(|request| {
                request.headers_mut().insert("x-amz-checksum-mode", "ENABLED");
            });
        call.interceptor(left).send().await.map_err(refused)
    }
}

impl S3Store {
    /// Sends a request for a whole object in an attempt without the SDK's orchestrator.
    async fn open_directly(&self, request: &Request) -> Result<GetObjectOutput, LeftToSdk> {
        let attempt = self.direct.begin(&request.bucket, &request.bucket)?;
        let credentials = attempt.credentials().await?;
        let Request { key, version_id, if_match, owner, .. } = request;
        let mut headers = vec![("x-amz-checksum-mode", "ENABLED".to_owned())];
        headers.extend(if_match.clone().map(|etag| ("if-match", etag)));
        headers.extend(owner.clone().map(|owner| ("x-amz-expected-bucket-owner", owner)));
        let version = version_id.as_ref().map(|id| format!("versionId={}&", percent_encoded(id, b"-._~")));
        let request = DirectRequest {
            method: "GET",
            path: &encoded(key),
            query: &format!("{}x-id=GetObject", version.unwrap_or_default()),
            headers,
            payload_sha256: SHA256_OF_NOTHING,
            body: SdkBody::empty(),
        };
        attempt.send(request, &credentials, async |answer| output(answer)).await
    }
}

/// Reads the answer to a GetObject for a whole object.
fn output(response: HttpResponse) -> Result<Final<GetObjectOutput>, Unusual> {
    let status = response.status().as_u16();
    if status != 200 {
        let refusal = S3Refusal::of(None, Some(status));
        let kind = match refusal {
            S3Refusal::NoObject | S3Refusal::Changed => UnusualKind::OfObject,
            S3Refusal::Throttled => UnusualKind::Throttled,
            S3Refusal::Unavailable => UnusualKind::Failed,
            _ => UnusualKind::Refused,
        };
        return Err(Unusual { problem: format!("HTTP status {status}"), kind });
    }
    let header = |name| response.headers().get(name).map(str::to_owned);
    let modified = header("last-modified").and_then(|at| DateTime::from_str(&at, Format::HttpDate).ok());
    let output = GetObjectOutput::builder()
        .set_content_length(header("content-length").and_then(|length| length.parse().ok()))
        .set_last_modified(modified)
        .set_e_tag(header("etag"))
        .set_version_id(header("x-amz-version-id"))
        .set_checksum_crc64_nvme(header("x-amz-checksum-crc64nvme"))
        .set_checksum_crc32(header("x-amz-checksum-crc32"))
        .set_checksum_crc32_c(header("x-amz-checksum-crc32c"))
        .set_checksum_sha1(header("x-amz-checksum-sha1"))
        .set_checksum_sha256(header("x-amz-checksum-sha256"));
    Ok(Final::Success(output.body(ByteStream::new(response.into_body())).build()))
}

/// Percent-encodes a key, as S3's signatures require.
fn encoded(key: &str) -> String {
    percent_encoded(key, b"-._~/")
}

/// Source: FIPS 180-4; the SHA-256 of no bytes.
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

impl ObjectStore for S3Store {
    type Body = S3Body;

    async fn open(
        &self,
        object: &ObjectRef,
        owner: Option<&str>,
    ) -> Result<(Timestamp, S3Body), ObjectError> {
        let mut request = Request::of(object, owner);
        let output = match self.open_directly(&request).await {
            Ok(output) => output,
            Err(left) => request.send(&self.client, 0, left).await?,
        };
        let checksum = ChecksumSoFar::of(&output);
        let modified = output.last_modified.and_then(|at| Timestamp::from_second(at.secs()).ok());
        request.if_match = output.e_tag.clone().or(request.if_match);
        request.version_id = real(output.version_id.clone()).or(request.version_id);
        let body = S3Body {
            client: self.client.clone(),
            longest_stall: self.longest_stall,
            request,
            stream: output.body,
            read: 0,
            len: output.content_length.and_then(|len| len.try_into().ok()),
            resumes: 0,
            resumed_at: 0,
            checksum,
        };
        // S3 always sends LastModified. For other stores, the event's time or the current time is used.
        let modified = modified.or(object.event_time).unwrap_or_else(Timestamp::now);
        Ok((modified, body))
    }

    async fn head(&self, object: &ObjectRef, owner: Option<&str>) -> Result<ObjectHead, ObjectError> {
        let asked = Request::of(object, owner);
        let Request { bucket, key, version_id, if_match, owner } = asked.clone();
        let head = self.client.head_object().bucket(bucket).key(key).set_version_id(version_id);
        let head = match head.set_if_match(if_match).set_expected_bucket_owner(owner).send().await {
            Ok(head) => head,
            Err(error) if is_silent(&error) => {
                asked.send(&self.client, 0, LeftToSdk::default()).await?;
                return Err(ObjectError::Unavailable(describe(&error)));
            }
            Err(error) => return Err(refused(error)),
        };
        Ok(ObjectHead {
            size: head.content_length.and_then(|len| len.try_into().ok()),
            etag: head.e_tag,
            version_id: real(head.version_id),
            content_type: head.content_type,
            content_encoding: head.content_encoding,
        })
    }
}

/// Drops `null`, which S3 sends for an object without a version.
fn real(version_id: Option<String>) -> Option<String> {
    version_id.filter(|id| id != "null")
}

impl S3Body {
    fn ended(&mut self) -> Result<Option<Bytes>, ObjectError> {
        self.checksum.take().map_or(Ok(None), |checksum| checksum.check().map(|()| None))
    }
}

impl ObjectBody for S3Body {
    fn exact(&self) -> (Option<&str>, Option<&str>) {
        let etag = self.request.if_match.as_deref();
        (self.request.version_id.as_deref(), etag.map(|etag| etag.trim_matches('"')))
    }

    fn content_length(&self) -> Option<u64> {
        self.len
    }

    fn has_check_ahead(&self) -> bool {
        self.checksum.is_some()
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, ObjectError> {
        loop {
            let next = match tokio::time::timeout(self.longest_stall, self.stream.next()).await {
                Ok(None) if self.len.is_some_and(|len| self.read < len) => {
                    Some(Err(format!("the body ended after {} bytes", self.read)))
                }
                Ok(next) => next.map(|read| read.map_err(|error| chain(&error))),
                Err(_) => Some(Err(format!("no byte came within {} ms", self.longest_stall.as_millis()))),
            };
            match next {
                Some(Ok(bytes)) => {
                    self.read += bytes.len() as u64;
                    if let Some(checksum) = &mut self.checksum {
                        checksum.algorithm.update(&bytes);
                    }
                    return Ok(Some(bytes));
                }
                None => return self.ended(),
                // An error after the last byte does not matter.
                Some(Err(_)) if self.len.is_some_and(|len| self.read >= len) => return self.ended(),
                Some(Err(problem)) => {
                    if self.read - self.resumed_at >= PROGRESS {
                        self.resumes = 0;
                    }
                    if self.resumes == MAX_RESUMES {
                        return Err(ObjectError::Unavailable(problem));
                    }
                    self.resumes += 1;
                    self.resumed_at = self.read;
                    tracing::debug!(
                        object.key = self.request.key,
                        object.offset = self.read,
                        error = problem,
                        "the connection to S3 broke; reading continues from the same byte"
                    );
                    let output = self.request.send(&self.client, self.read, LeftToSdk::default()).await?;
                    let range = output.content_range.unwrap_or_default();
                    if self.read > 0 && !range.starts_with(&format!("bytes {}-", self.read)) {
                        let problem = format!(
                            "the request asked for bytes from {} on, and S3 sent {range:?}",
                            self.read
                        );
                        return Err(ObjectError::Unavailable(problem));
                    }
                    self.stream = output.body;
                }
            }
        }
    }
}

/// Whether the error does not tell its cause: an answer to HEAD has no body, and so no error code. A GetObject of the same
/// object returns the code. Source: S3 API reference, HeadObject.
fn is_silent(error: &SdkError<HeadObjectError, HttpResponse>) -> bool {
    let status = error.raw_response().map(|response| response.status().as_u16());
    // 404 is included: its code is "NotFound" both for a missing object and for a missing bucket.
    matches!(status, Some(301 | 307 | 400..500)) && status != Some(412)
}

fn refused<E>(error: SdkError<E, HttpResponse>) -> ObjectError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(ours) = IdentityError::of_own(&error) {
        return ObjectError::Ours(ours);
    }
    let status = error.raw_response().map(|response| response.status().as_u16());
    classify(error.code(), status, describe(&error))
}

fn classify(code: Option<&str>, status: Option<u16>, problem: String) -> ObjectError {
    match S3Refusal::of(code, status) {
        S3Refusal::NoObject => ObjectError::Missing(problem),
        S3Refusal::Changed => ObjectError::Missing(format!("it was overwritten after the event: {problem}")),
        S3Refusal::NoBucket => ObjectError::NoBucket(problem),
        S3Refusal::Archived => ObjectError::Archived(problem),
        S3Refusal::Denied => ObjectError::Denied(problem),
        S3Refusal::Elsewhere | S3Refusal::Refused => ObjectError::Refused(problem),
        S3Refusal::Throttled | S3Refusal::Unavailable => ObjectError::Unavailable(problem),
    }
}

#[cfg(test)]
mod tests;
