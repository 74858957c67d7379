//! What all adapters share: the [`Base`] of their clients, whose calls [`Calls`] counts; [`direct`] calls without the SDK's
//! orchestrator; texts for the SDK's errors; and the meaning of errors that several calls or services share.

mod base;
mod calls;
pub mod direct;
mod subject;

use std::error::Error;

use aws_sdk_sts::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

pub use self::{base::Base, calls::Calls};

/// Describes an error by AWS's code and message or, without a code, by the chain of causes.
pub fn describe<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => match error.raw_response() {
            Some(response) => format!("HTTP status {}: {}", response.status(), chain(error)),
            None => chain(error),
        },
    }
}

/// Joins the texts of an error and its causes, without repetitions.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for error in causes(error) {
        let words = error.to_string();
        // A wrapper often repeats its cause.
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
    }
    said.join(": ")
}

/// Finds the first error of type `E` among an error and its causes. The SDK wraps the errors of credentials providers several
/// times.
pub fn find_cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|error| error.downcast_ref::<E>())
}

/// Whether AWS's error code says that the session is no longer valid: it ended early, or its role was deleted and created
/// again. A new session may work. Sources: the services' lists of common errors; S3 API reference, "Error responses".
pub fn refuses_session(code: Option<&str>) -> bool {
    matches!(
        code,
        Some(
            "ExpiredToken"
                | "ExpiredTokenException"
                | "InvalidAccessKeyId"
                | "InvalidClientTokenId"
                | "InvalidToken"
                | "TokenRefreshRequired"
                | "UnrecognizedClientException"
        )
    )
}

/// Meaning of an S3 error, the same for all of S3's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3Refusal {
    /// The object, or this version of it, does not exist.
    NoObject,
    /// A condition of the call does not hold.
    Changed,
    /// The bucket does not exist.
    NoBucket,
    /// The object is archived.
    Archived,
    /// The bucket is in another Region.
    Elsewhere,
    /// Too many requests.
    Throttled,
    /// A policy, or a KMS key, does not allow the call.
    Denied,
    /// The request is refused; a retry would be refused too.
    Refused,
    /// A temporary problem: the same request may succeed soon.
    Unavailable,
}

impl S3Refusal {
    /// Classifies an error by its code and its HTTP status, if it has them. An error of CopyObject may come with status 200.
    /// Sources: S3 API reference, "Error responses" and CopyObject.
    pub fn of(code: Option<&str>, status: Option<u16>) -> Self {
        match (code, status) {
            (Some("NoSuchBucket"), _) => Self::NoBucket,
            (Some("InvalidObjectState" | "ObjectNotInActiveTierError"), _) => Self::Archived,
            (Some("NoSuchKey" | "NoSuchVersion"), _) | (_, Some(404)) => Self::NoObject,
            (Some("PreconditionFailed"), _) | (_, Some(412)) => Self::Changed,
            // The bucket was just created or moved, and its name resolves to another Region for some time.
            (Some("TemporaryRedirect"), _) | (_, Some(307)) => Self::Unavailable,
            (Some("PermanentRedirect" | "AuthorizationHeaderMalformed"), _) | (_, Some(301)) => {
                Self::Elsewhere
            }
            (Some("SlowDown" | "Throttling" | "ThrottlingException" | "RequestLimitExceeded"), _)
            | (_, Some(429)) => Self::Throttled,
            (Some("AccessDenied" | "InvalidAccessKeyId" | "ExpiredToken" | "InvalidToken"), _)
            | (_, Some(401 | 403)) => Self::Denied,
            // The request came too slowly, or conflicts with another request.
            (Some("RequestTimeout" | "OperationAborted" | "ConditionalRequestConflict"), _)
            | (_, Some(408 | 409)) => Self::Unavailable,
            // The KMS key is disabled, or KMS throttles. The owner of the key can fix both.
            (Some(code), _) if code.starts_with("KMS.") => Self::Denied,
            (_, Some(400..500)) => Self::Refused,
            _ => Self::Unavailable,
        }
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        error.source()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_session_differs_from_a_denied_call() {
        for (code, expected) in [
            ("ExpiredToken", true),
            ("ExpiredTokenException", true),
            ("UnrecognizedClientException", true),
            ("InvalidClientTokenId", true),
            ("InvalidAccessKeyId", true),
            ("AccessDeniedException", false),
            ("InvalidSignatureException", false),
        ] {
            assert_eq!(refuses_session(Some(code)), expected, "{code}");
        }
        assert!(!refuses_session(None));
    }

    #[test]
    fn each_s3_error_has_its_meaning() {
        use S3Refusal::*;
        for (code, status, expected) in [
            (Some("NoSuchKey"), Some(404), NoObject),
            (Some("NoSuchVersion"), Some(404), NoObject),
            (None, Some(404), NoObject),
            (Some("NoSuchBucket"), Some(404), NoBucket),
            (Some("PreconditionFailed"), Some(412), Changed),
            (None, Some(412), Changed),
            (Some("InvalidObjectState"), Some(403), Archived),
            (Some("ObjectNotInActiveTierError"), Some(403), Archived),
            (Some("PermanentRedirect"), Some(301), Elsewhere),
            (Some("AuthorizationHeaderMalformed"), Some(400), Elsewhere),
            (Some("TemporaryRedirect"), Some(307), Unavailable),
            (None, Some(307), Unavailable),
            (Some("SlowDown"), Some(503), Throttled),
            (None, Some(429), Throttled),
            (Some("AccessDenied"), Some(403), Denied),
            (Some("AccessDenied"), Some(200), Denied),
            (None, Some(403), Denied),
            (Some("KMS.DisabledException"), Some(400), Denied),
            (Some("KMS.KMSInvalidStateException"), Some(400), Denied),
            (Some("RequestTimeout"), Some(400), Unavailable),
            (None, Some(408), Unavailable),
            (Some("OperationAborted"), Some(409), Unavailable),
            (Some("ConditionalRequestConflict"), Some(409), Unavailable),
            (Some("InvalidRequest"), Some(400), Refused),
            (Some("MethodNotAllowed"), Some(405), Refused),
            (None, Some(400), Refused),
            (Some("InternalError"), Some(500), Unavailable),
            (Some("InternalError"), Some(200), Unavailable),
            (Some("ServiceUnavailable"), Some(503), Unavailable),
            (None, None, Unavailable),
        ] {
            assert_eq!(S3Refusal::of(code, status), expected, "{code:?} {status:?}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_has_no_repetitions_and_can_be_searched() {
        let error = Outer(std::io::Error::other("no route to host"));
        assert_eq!(chain(&error), "cannot connect: no route to host");
        assert!(find_cause::<std::io::Error>(&error).is_some());
        assert!(find_cause::<std::fmt::Error>(&error).is_none());
    }
}
