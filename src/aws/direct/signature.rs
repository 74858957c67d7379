//! Signature Version 4, for requests with headers. Source: IAM User Guide, "Create a signed AWS API request".

use std::fmt::Write;

use aws_credential_types::Credentials;
use axum::http::uri::Authority;
use jiff::Timestamp;
use ring::hmac;

use crate::digest;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";

/// What a signature is valid for.
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) at: Timestamp,
}

/// Region and service for which the SDK signed a request, by its header `authorization`. `None` if it signed by another algorithm,
/// for several Regions, or with the session of a directory bucket.
pub(super) fn scope(authorization: &str) -> Option<(&str, &str)> {
    let credential = authorization.strip_prefix(ALGORITHM)?.trim_start().strip_prefix("Credential=")?;
    let (credential, _) = credential.split_once(',')?;
    let mut parts = credential.rsplit('/');
    let (terminator, service, region) = (parts.next()?, parts.next()?, parts.next()?);
    (terminator == TERMINATOR && service != "s3express").then_some((region, service))
}

/// The header `host` that the HTTP client sends: without the scheme's own port.
pub(super) fn host(scheme: &str, authority: &Authority) -> String {
    match (scheme, authority.port_u16()) {
        ("https", Some(443)) | ("http", Some(80)) => authority.host().to_owned(),
        _ => authority.as_str().to_owned(),
    }
}

/// Signs a request: sorts its headers, which must include `host`, and adds those of the signature.
pub(super) fn sign(
    scope: &Scope<'_>,
    credentials: &Credentials,
    method: &str,
    path: &str,
    query: &str,
    headers: &mut Vec<(&'static str, String)>,
    payload_sha256: &str,
) {
    let time = scope.at.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = &time[..8];
    if scope.service == "s3" {
        headers.push(("x-amz-content-sha256", payload_sha256.to_owned()));
    }
    if let Some(token) = credentials.session_token() {
        headers.push(("x-amz-security-token", token.to_owned()));
    }
    headers.push(("x-amz-date", time.clone()));
    headers.sort_unstable_by_key(|(name, _)| *name);
    let mut canonical = format!("{method}\n{path}\n{query}\n");
    for (name, value) in &*headers {
        canonical.extend([name, ":", value.trim(), "\n"]);
    }
    canonical.push('\n');
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    canonical.extend([&names, "\n", payload_sha256]);

    let Scope { region, service, .. } = scope;
    let scope = format!("{date}/{region}/{service}/{TERMINATOR}");
    let to_sign = format!("{ALGORITHM}\n{time}\n{scope}\n{}", digest::sha256(canonical.as_bytes()));
    let key = format!("AWS4{}", credentials.secret_access_key());
    let key = [date, region, service, TERMINATOR]
        .into_iter()
        .fold(hmac_key(key.as_bytes()), |key, part| hmac_key(hmac::sign(&key, part.as_bytes()).as_ref()));
    let signature = digest::hex(hmac::sign(&key, to_sign.as_bytes()).as_ref());
    let mut authorization = format!("{ALGORITHM} Credential={}/{scope}", credentials.access_key_id());
    write!(authorization, ", SignedHeaders={names}, Signature={signature}")
        .expect("writing to a string does not fail");
    headers.push(("authorization", authorization));
}

fn hmac_key(key: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_request_has_its_signature() {
        // Source: Amazon S3 API reference, "Authenticating Requests: Using the Authorization Header", GET Object.
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", secret, None, None, "test");
        let at = "2013-05-24T00:00:00Z".parse().expect("a time");
        let scope = Scope { region: "us-east-1", service: "s3", at };
        let mut headers =
            vec![("range", "bytes=0-9".to_owned()), ("host", "examplebucket.s3.amazonaws.com".to_owned())];
        let nothing = digest::sha256(b"");
        sign(&scope, &credentials, "GET", "/test.txt", "", &mut headers, &nothing);
        let (_, authorization) =
            headers.iter().find(|(name, _)| *name == "authorization").expect("it is signed");
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(super::scope(authorization), Some(("us-east-1", "s3")));
    }

    #[test]
    fn other_signatures_are_not_imitated() {
        for authorization in [
            "",
            "Bearer token",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=AKID/20130524/us-east-1/s3express/aws4_request, SignedHeaders=host",
            "AWS4-HMAC-SHA256 Credential=AKID/20130524/us-east-1/s3/aws5_request, SignedHeaders=host",
            "AWS4-ECDSA-P256-SHA256 Credential=AKID/20130524/s3/aws4_request, SignedHeaders=host",
        ] {
            assert_eq!(scope(authorization), None, "{authorization}");
        }
    }

    #[test]
    fn the_host_has_no_port_that_its_scheme_implies() {
        for (scheme, authority, expected) in [
            ("https", "s3.eu-central-1.amazonaws.com", "s3.eu-central-1.amazonaws.com"),
            ("https", "localhost:443", "localhost"),
            ("https", "localhost:80", "localhost:80"),
            ("http", "127.0.0.1:80", "127.0.0.1"),
            ("http", "[::1]:4566", "[::1]:4566"),
        ] {
            assert_eq!(host(scheme, &authority.parse().expect("an authority")), expected);
        }
    }
}
