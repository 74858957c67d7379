//! Our own identity before any role is assumed, and refusals by AWS that are caused by us, so that no customer can fix them.

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{Intercept, context::BeforeDeserializationInterceptorContextRef, dyn_dispatch_hint},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::config_bag::ConfigBag;
use jiff::{SignedDuration, Timestamp, civil::DateTime, fmt::rfc2822::DateTimeParser, tz::TimeZone};

use crate::aws::{describe, find_cause, refuses_session};

/// Our identity, as STS names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Account id, twelve digits.
    pub account: String,
    /// ARN of a user, or of a role's session.
    pub arn: String,
}

/// AWS refuses us because of our clock, our credentials or our role. The refused call may have been made in any role. No
/// customer can fix the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Requests are refused because of the time in their signatures.
    #[error("this host's clock is {}, and AWS refuses its signatures: {problem}; {}", skewed(*.skew), self.remedy())]
    Clock {
        /// How far the clock is ahead of AWS's, if the answer shows it; negative if the clock is behind.
        skew: Option<SignedDuration>,
        /// AWS's words.
        problem: String,
    },
    /// There are no credentials, they have expired, or AWS does not know them.
    #[error("our own credentials are missing, expired or not valid: {problem}; {}", self.remedy())]
    Credentials {
        /// Words of AWS or of the SDK.
        problem: String,
    },
    /// STS refuses the first hop.
    #[error("our own role {role} cannot be assumed: {code}: {message}; {}", self.remedy())]
    CentralRole {
        /// The role's ARN.
        role: String,
        /// STS's error code.
        code: String,
        /// STS's words.
        message: String,
    },
}

/// Why our identity is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WhoAmIError {
    /// STS refuses us.
    #[error(transparent)]
    Refused(IdentityError),
    /// STS does not answer.
    #[error("STS does not answer who we are: {0}")]
    Unanswered(String),
}

/// A smaller difference between the clocks is not the cause of a refusal: AWS allows at least five minutes.
const TOLERATED: SignedDuration = SignedDuration::from_secs(60);

impl IdentityError {
    /// Tells whether a call in any role failed because of our clock, our signature or our credentials. `None` if the error
    /// does not say so.
    pub fn of<E>(error: &SdkError<E, HttpResponse>) -> Option<Self>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let date = error.raw_response().and_then(|response| response.headers().get("date"));
        Self::of_code(error.code(), describe(error), date, Timestamp::now())
    }

    /// Like [`IdentityError::of`], for a call that our own credentials sign, without a role. If AWS refuses the session or
    /// the SDK finds no credentials, that is our fault too.
    pub fn of_own<E>(error: &SdkError<E, HttpResponse>) -> Option<Self>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let problem = || describe(error);
        let refused = refuses_session(error.code()) || find_cause::<CredentialsError>(error).is_some();
        Self::of(error).or_else(|| refused.then(|| Self::Credentials { problem: problem() }))
    }

    /// `date` is the `Date` header of AWS's answer, `now` our own time.
    fn of_code(code: Option<&str>, problem: String, date: Option<&str>, now: Timestamp) -> Option<Self> {
        // Sources: the services' lists of common errors; S3 API reference, "Error responses".
        let is_of_time = match code? {
            "RequestTimeTooSkewed" | "RequestExpired" => true,
            "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "IncompleteSignature"
            | "IncompleteSignatureException"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException" => false,
            _ => return None,
        };
        let by_header = || {
            let date = DateTimeParser::new().parse_timestamp(date?).ok()?;
            Some(now.duration_since(date)).filter(|skew| skew.abs() >= TOLERATED)
        };
        let skew = skew_told(&problem).or_else(by_header);
        Some(match is_of_time || skew.is_some() {
            true => Self::Clock { skew, problem },
            false => Self::Credentials { problem },
        })
    }

    /// What an operator can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Clock { .. } => "set the host's clock, preferably by NTP".to_owned(),
            Self::Credentials { .. } => {
                "give this process valid credentials of the provider's account (task role, IRSA, profile or environment)"
                    .to_owned()
            }
            Self::CentralRole { role, .. } => format!(
                "one of these is the cause: {role} does not exist (credentials.central_role_arn); its trust policy does not allow \
                 sts:AssumeRole to us; our own policy does not allow sts:AssumeRole on it"
            ),
        }
    }
}

fn skewed(skew: Option<SignedDuration>) -> String {
    match skew.map(|skew| skew.as_secs()) {
        Some(seconds) if seconds < 0 => format!("{} s behind AWS's", -seconds),
        Some(seconds) => format!("{seconds} s ahead of AWS's"),
        None => "not AWS's".to_owned(),
    }
}

/// How far our clock is ahead, computed from the times in AWS's message. Source: IAM User Guide, "Troubleshoot Signature
/// Version 4 signing": "Signature expired: 20110909T233600Z is now earlier than 20110909T234000Z (20110909T234500Z - 5
/// min.)". The first time is the request's, the time in brackets is AWS's.
fn skew_told(problem: &str) -> Option<SignedDuration> {
    let words = problem.split(|c: char| !c.is_ascii_alphanumeric());
    let times: Vec<_> = words
        .filter(|word| word.len() == 16)
        .filter_map(|word| DateTime::strptime("%Y%m%dT%H%M%SZ", word).ok()?.to_zoned(TimeZone::UTC).ok())
        .map(|time| time.timestamp())
        .collect();
    match times[..] {
        [ours, theirs] | [ours, _, theirs] => Some(ours.duration_since(theirs)),
        _ => None,
    }
}

/// Asks STS whose credentials `sts` signs with, which needs no permission.
///
/// # Errors
/// There are no credentials, they are not valid, or STS does not answer.
pub async fn identity(sts: &Client) -> Result<Identity, WhoAmIError> {
    let answer = sts.get_caller_identity().send().await.map_err(|error| {
        IdentityError::of_own(&error)
            .map_or_else(|| WhoAmIError::Unanswered(describe(&error)), WhoAmIError::Refused)
    })?;
    match (answer.account, answer.arn) {
        (Some(account), Some(arn)) => Ok(Identity { account, arn }),
        _ => Err(WhoAmIError::Unanswered("the answer has no account".to_owned())),
    }
}

/// Remembers the `Date` header of an answer.
#[derive(Clone, Debug, Default)]
struct DateOfAnswer(Arc<Mutex<Option<Timestamp>>>);

#[dyn_dispatch_hint]
impl Intercept for DateOfAnswer {
    fn name(&self) -> &'static str {
        "DateOfAnswer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = date;
        Ok(())
    }
}

/// How far this host's clock is ahead of AWS's at least, by the `Date` header of an answer of STS; negative if it is behind.
/// `None` if the answer has no such header.
///
/// # Errors
/// There are no credentials, they are not valid, or STS does not answer.
pub async fn clock_skew(sts: &Client) -> Result<Option<SignedDuration>, WhoAmIError> {
    let date = DateOfAnswer::default();
    let sent = Timestamp::now();
    let answer = sts.get_caller_identity().customize().interceptor(date.clone()).send().await;
    answer.map_err(|error| {
        IdentityError::of_own(&error)
            .map_or_else(|| WhoAmIError::Unanswered(describe(&error)), WhoAmIError::Refused)
    })?;
    let date = *date.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(date.map(|date| skew_between(sent, date, Timestamp::now())))
}

/// The least difference between two clocks, if the answer with this date was made between `sent` and `received`. A date
/// has no fraction of a second.
fn skew_between(sent: Timestamp, date: Timestamp, received: Timestamp) -> SignedDuration {
    let end = date + SignedDuration::from_secs(1);
    if end < sent {
        sent.duration_since(end)
    } else if date > received {
        received.duration_since(date)
    } else {
        SignedDuration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_reported_in_seconds() {
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().expect("a time");
        let check = |code: &str, message: &str, date: Option<&str>, expected: Option<&str>| {
            let told = IdentityError::of_code(Some(code), format!("{code}: {message}"), date, now);
            let told = told.map(|told| told.to_string());
            match (&told, expected) {
                (Some(told), Some(words)) => assert!(told.contains(words), "{words}: {told}"),
                _ => assert_eq!(told.is_none(), expected.is_none(), "{code}: {told:?}"),
            }
        };
        let expired = "Signature expired: 20110909T233600Z is now earlier than 20110909T234000Z (20110909T234500Z - 5 min.)";
        let early = "Signature not yet current: 20110909T234600Z is still later than 20110909T234500Z (20110909T234000Z + 5 min.)";
        for code in ["SignatureDoesNotMatch", "InvalidSignatureException"] {
            check(code, expired, None, Some("clock is 540 s behind AWS's"));
            check(code, early, None, Some("clock is 360 s ahead of AWS's"));
            check(code, "20261127T110000Z is earlier than 20261127T120000Z", None, Some("3600 s behind"));
            check(code, "it does not match", None, Some("our own credentials"));
            let hour_ago = Some("Fri, 27 Nov 2026 11:00:00 GMT");
            check(code, "it does not match", hour_ago, Some("clock is 3600 s ahead"));
            check(
                code,
                "it does not match",
                Some("Fri, 27 Nov 2026 12:00:59 GMT"),
                Some("our own credentials"),
            );
            check(code, "it does not match", Some("yesterday"), Some("our own credentials"));
        }
        check("RequestTimeTooSkewed", "too large", None, Some("clock is not AWS's"));
        let later = Some("Fri, 27 Nov 2026 12:20:00 GMT");
        check("RequestTimeTooSkewed", "too large", later, Some("clock is 1200 s behind AWS's"));
        check("IncompleteSignature", "no", None, Some("our own credentials"));
        for code in ["AccessDenied", "ExpiredToken", "ThrottlingException"] {
            check(code, expired, later, None);
        }
        assert_eq!(IdentityError::of_code(None, expired.to_owned(), later, now), None);
    }

    #[test]
    fn a_clock_differs_only_if_the_answer_cannot_be_of_this_moment() {
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).expect("a time");
        for (sent, date, received, skew) in
            [(0, 0, 0, 0), (1, 0, 2, 0), (0, 5, 5, 0), (0, 6, 5, -1), (2, 0, 9, 1), (100, 0, 101, 99)]
        {
            let found = skew_between(at(sent), at(date), at(received));
            assert_eq!(found.as_secs(), skew, "{sent} {date} {received}");
        }
    }

    #[test]
    fn every_error_names_its_remedy() {
        let (problem, text) = (|| "AWS's words".to_owned(), |error: IdentityError| error.to_string());
        let told = text(IdentityError::Clock { skew: None, problem: problem() });
        assert!(told.contains("AWS's words") && told.contains("NTP"), "{told}");
        let told = text(IdentityError::Credentials { problem: problem() });
        assert!(told.contains("AWS's words") && told.contains("task role"), "{told}");
        let (role, code) = ("arn:aws:iam::1:role/c".to_owned(), "AccessDenied".to_owned());
        let told = text(IdentityError::CentralRole { role, code, message: problem() });
        assert!(told.contains("AccessDenied: AWS's words") && told.contains("central_role_arn"), "{told}");
    }
}
