//! Signature Version 4: parses the Authorization header of a request and verifies its signature.
//!
//! Presigned URLs are not supported. Chunk signatures within a streamed payload are not verified.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use sha2::{Digest, Sha256};

use crate::encoding::{decode_percent, encode_percent, form_pairs, hex};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const DATE_FORMAT: &str = "%Y%m%dT%H%M%SZ";
/// Characters that a canonical query keeps, besides letters and digits. A canonical path keeps slashes too.
const UNRESERVED: &[u8] = b"-._~";
const UNRESERVED_AND_SLASH: &[u8] = b"-._~/";
/// Largest difference between a client's clock and the sandbox's.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Largest difference for S3, which allows more.
const MAX_SKEW_S3: SignedDuration = SignedDuration::from_mins(15);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authorization {
    pub(crate) access_key_id: String,
    pub(crate) region: String,
    /// Signing name of the service, for example `logs`.
    pub(crate) service: String,
    date: String,
    signed_headers: String,
    signature: String,
}

/// A request as it arrived, without any decoding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

/// Reason for refusing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureError {
    /// The request has no signature, or one that does not parse.
    Missing,
    /// The access key does not exist, or the session token does not belong to it.
    UnknownKey,
    /// The signature is wrong.
    Mismatch,
    /// The body's hash differs from the signed one.
    PayloadMismatch,
    /// The header `x-amz-content-sha256`, which S3 requires, is missing.
    NoPayloadHash,
    /// The session has ended.
    Expired,
    /// The date of the request is too far from now.
    Skewed,
}

impl Authorization {
    /// Parses the header; `None` if it is missing or not of Signature Version 4.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let fields = text.strip_prefix(ALGORITHM)?;
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for field in fields.split(',') {
            match field.trim().split_once('=')? {
                ("Credential", value) => credential = Some(value),
                ("SignedHeaders", value) => signed_headers = Some(value),
                ("Signature", value) => signature = Some(value),
                _ => return None,
            }
        }
        let mut scope = credential?.splitn(5, '/').map(str::to_owned);
        let (access_key_id, date, region, service) =
            (scope.next()?, scope.next()?, scope.next()?, scope.next()?);
        (scope.next()? == "aws4_request").then_some(Self {
            access_key_id,
            region,
            service,
            date,
            signed_headers: signed_headers?.to_owned(),
            signature: signature?.to_owned(),
        })
    }

    /// Checks that `secret` signed this request, including its body, and that the date is about now.
    pub(crate) fn verify(
        &self,
        request: Signed<'_>,
        secret: &str,
        now: Timestamp,
    ) -> Result<(), SignatureError> {
        let date = text_of(request.headers, "x-amz-date").ok_or(SignatureError::Missing)?;
        let sent = DateTime::strptime(DATE_FORMAT, date)
            .and_then(|civil| civil.to_zoned(TimeZone::UTC))
            .map_err(|_| SignatureError::Missing)?
            .timestamp();
        let patience = if self.service == "s3" { MAX_SKEW_S3 } else { MAX_SKEW };
        if now.duration_since(sent).abs() > patience {
            return Err(SignatureError::Skewed);
        }
        let payload_hash = self.payload_hash(request)?;
        let canonical = self.canonical_request(request, &payload_hash)?;
        let scope = format!("{}/{}/{}/aws4_request", self.date, self.region, self.service);
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let key = [self.date.as_str(), &self.region, &self.service, "aws4_request"]
            .into_iter()
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
        let same_day = date.starts_with(&self.date) && self.date.len() == 8;
        match same_day && hex(&hmac(&key, &to_sign)) == self.signature {
            true => Ok(()),
            false => Err(SignatureError::Mismatch),
        }
    }

    /// Signed hash: the body's hash, or the constant that stands for an unsigned body.
    fn payload_hash(&self, request: Signed<'_>) -> Result<String, SignatureError> {
        let announced = text_of(request.headers, "x-amz-content-sha256");
        match announced {
            None if self.service == "s3" => Err(SignatureError::NoPayloadHash),
            Some(name) if name == "UNSIGNED-PAYLOAD" || name.starts_with("STREAMING-") => Ok(name.to_owned()),
            _ => {
                let hash = sha256_hex(request.body);
                match announced.is_none_or(|announced| announced == hash) {
                    true => Ok(hash),
                    false => Err(SignatureError::PayloadMismatch),
                }
            }
        }
    }

    fn canonical_request(&self, request: Signed<'_>, payload_hash: &str) -> Result<String, SignatureError> {
        let path = match self.service.as_str() {
            // S3 encodes the key's bytes once.
            "s3" => encode_percent(&decode_percent(request.path), UNRESERVED_AND_SLASH),
            // Every other service encodes the sent path again.
            _ => encode_percent(&normalized(request.path), UNRESERVED_AND_SLASH),
        };
        let mut canonical = format!("{}\n{path}\n{}\n", request.method, canonical_query(request.query));
        let mut signed = self.signed_headers.split(';');
        if !signed.clone().any(|name| name == "host") {
            return Err(SignatureError::Mismatch);
        }
        signed.try_for_each(|name| {
            let mut values = request.headers.get_all(name).iter().peekable();
            values.peek().ok_or(SignatureError::Mismatch)?;
            let values: Vec<_> =
                values.map(|value| squeezed(&String::from_utf8_lossy(value.as_bytes()))).collect();
            writeln!(canonical, "{name}:{}", values.join(",")).map_err(|_| SignatureError::Mismatch)
        })?;
        canonical.push('\n');
        canonical.push_str(&self.signed_headers);
        canonical.push('\n');
        canonical.push_str(payload_hash);
        Ok(canonical)
    }
}

fn canonical_query(query: &str) -> String {
    let encoded = |text: &String| encode_percent(text, UNRESERVED);
    let mut pairs: Vec<_> =
        form_pairs(query).iter().map(|(key, value)| (encoded(key), encoded(value))).collect();
    pairs.sort();
    pairs.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&")
}

/// Path without empty and dot segments.
fn normalized(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let ends_in_slash = ["/", "/.", "/.."].iter().any(|end| path.ends_with(end)) && !segments.is_empty();
    format!("/{}{}", segments.join("/"), if ends_in_slash { "/" } else { "" })
}

/// Value without spaces at its ends, and with single spaces within.
fn squeezed(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use aws_credential_types::Credentials;
    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;

    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    fn signed_request(service: &str, uri: &str, body: &[u8], token: Option<&str>) -> http::Request<Vec<u8>> {
        let mut settings = SigningSettings::default();
        if service == "s3" {
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        }
        let identity = Credentials::new("AKID", SECRET, token.map(str::to_owned), None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name(service)
            .time(SystemTime::now())
            .settings(settings)
            .build()
            .expect("every parameter is given")
            .into();
        let mut request = http::Request::builder()
            .method("POST")
            .uri(uri)
            .header("host", "127.0.0.1:4566")
            .header("x-spaced", "  a   b  ")
            .body(body.to_vec())
            .expect("the request is well formed");
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().expect("plain text").to_owned()))
            .collect();
        let signable = SignableRequest::new(
            "POST",
            uri,
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            SignableBody::Bytes(body),
        )
        .expect("the request can be signed");
        let (instructions, _) = sign(signable, &params).expect("the request can be signed").into_parts();
        instructions.apply_to_request_http1x(&mut request);
        request
    }

    fn verify(request: &http::Request<Vec<u8>>, secret: &str, now: Timestamp) -> Result<(), SignatureError> {
        let signed = Signed {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            headers: request.headers(),
            body: request.body(),
        };
        Authorization::read(request.headers()).ok_or(SignatureError::Missing)?.verify(signed, secret, now)
    }

    #[test]
    fn signatures_of_the_sdk_are_accepted() {
        let mut random = fastrand::Rng::with_seed(7);
        let symbols = [
            "a", "Z", "0", " ", "+", "/", "é", "日", "😀", "%", "=", "&", "~", "*", "'", "(", "!", "@", ":",
            ".",
        ];
        for round in 0..500 {
            let mut text = || -> String {
                (0..random.usize(1..20)).map(|_| symbols[random.usize(..symbols.len())]).collect()
            };
            let (key, name, value) = (text(), text(), text());
            let uri = format!(
                "http://127.0.0.1:4566/bucket/{}?{}={}&list-type=2&empty&b={name_again}",
                encode_percent(&key, UNRESERVED_AND_SLASH),
                encode_percent(&name, UNRESERVED),
                encode_percent(&value, UNRESERVED),
                name_again = encode_percent(&name, UNRESERVED),
            );
            for service in ["s3", "logs"] {
                let token = (round % 2 == 0).then_some("a token");
                let request = signed_request(service, &uri, key.as_bytes(), token);
                assert_eq!(verify(&request, SECRET, Timestamp::now()), Ok(()), "{service} {uri}");
                assert_eq!(
                    verify(&request, "other", Timestamp::now()),
                    Err(SignatureError::Mismatch),
                    "{service} {uri}"
                );
            }
        }
    }

    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        let request = signed_request("s3", "http://127.0.0.1:4566/bucket/a%2Bb", b"", None);
        assert_eq!(verify(&request, SECRET, Timestamp::now()), Ok(()));
        let mut moved = request.clone();
        *moved.uri_mut() = "http://127.0.0.1:4566/bucket/a%20b".parse().expect("a legal address");
        assert_eq!(verify(&moved, SECRET, Timestamp::now()), Err(SignatureError::Mismatch));
    }

    #[test]
    fn changed_requests_are_refused() {
        let now = Timestamp::now();
        let request = || signed_request("logs", "http://127.0.0.1:4566/", b"body", None);
        let change = |change: &dyn Fn(&mut http::Request<Vec<u8>>)| {
            let mut request = request();
            change(&mut request);
            verify(&request, SECRET, now)
        };
        assert_eq!(change(&|_| {}), Ok(()));
        assert_eq!(change(&|request| request.body_mut()[0] = b'B'), Err(SignatureError::Mismatch));
        assert_eq!(change(&|request| *request.method_mut() = Method::PUT), Err(SignatureError::Mismatch));
        let header = |name: &'static str, value: &'static str| {
            change(&|request| {
                request.headers_mut().insert(name, http::HeaderValue::from_static(value));
            })
        };
        assert_eq!(header("x-spaced", "a c"), Err(SignatureError::Mismatch));
        assert_eq!(header("host", "elsewhere"), Err(SignatureError::Mismatch));
        assert_eq!(header("x-amz-date", "yesterday"), Err(SignatureError::Missing));
        assert_eq!(header("authorization", "Bearer x"), Err(SignatureError::Missing));
        let late = now + SignedDuration::from_mins(6);
        assert_eq!(verify(&request(), SECRET, late), Err(SignatureError::Skewed));
        let object = || signed_request("s3", "http://127.0.0.1:4566/b/k", b"body", None);
        assert_eq!(verify(&object(), SECRET, late), Ok(()));
        let mut other_body = object();
        other_body.body_mut().push(b'!');
        assert_eq!(verify(&other_body, SECRET, now), Err(SignatureError::PayloadMismatch));
        let mut no_hash = object();
        no_hash.headers_mut().remove("x-amz-content-sha256");
        assert_eq!(verify(&no_hash, SECRET, now), Err(SignatureError::NoPayloadHash));
    }
}
