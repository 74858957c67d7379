//! What the SDK's errors say, in words for a log line.

use std::error::Error;

use aws_sdk_sts::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

/// AWS's code and message where AWS answered, else the chain of causes.
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

/// The error and its causes, each said once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    for error in causes(error) {
        let words = error.to_string();
        // A wrapper often repeats what it wraps.
        if !said.iter().any(|before| before.contains(&words)) {
            said.push(words);
        }
    }
    said.join(": ")
}

/// The first cause of that type; the SDK wraps what a credentials provider says several times.
pub fn find_cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).find_map(|error| error.downcast_ref::<E>())
}

/// Whether AWS's error code says that the session itself is no good any more: it ended before its time, or its role was deleted
/// and made anew. Another session may do. Sources: the services' lists of common errors; S3 API reference, "Error responses".
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
    fn a_session_that_is_no_good_is_told_from_one_that_may_not() {
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

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn the_chain_is_said_once_and_searched() {
        let error = Outer(std::io::Error::other("no route to host"));
        assert_eq!(chain(&error), "cannot connect: no route to host");
        assert!(find_cause::<std::io::Error>(&error).is_some());
        assert!(find_cause::<std::fmt::Error>(&error).is_none());
    }
}
