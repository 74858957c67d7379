//! A role that is assumed when needed and again before its session ends.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_sts::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::assume_role::AssumeRoleError,
    types::Tag,
};
use tokio::sync::Mutex;

use super::{AssumeError, RoleArn};
use crate::aws::{describe, find_cause};

/// How long a renewal that failed is put off while the session at hand still holds.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// What to ask AssumeRole for.
#[derive(Clone, Debug)]
pub struct AssumeRequest {
    /// The role.
    pub role: RoleArn,
    /// 2 to 64 of `[\w+=,.@-]`; see [`session_name`].
    pub session_name: String,
    /// What the role's trust policy asks for.
    pub external_id: Option<String>,
    /// Narrows what the role allows; at most 2,048 characters.
    pub policy: Option<String>,
    /// Name and value; the trust policy must allow `sts:TagSession` if there are any.
    pub tags: Vec<(&'static str, String)>,
    /// The trust policy must allow `sts:SetSourceIdentity` if there is one.
    pub source_identity: Option<String>,
    /// Life of the session, 15 min to 1 h.
    pub duration: Duration,
    /// How long before its end it is renewed; up to a quarter more by chance.
    pub refresh_before: Duration,
}

/// A role and its session, shared by everyone who acts in it.
#[derive(Clone, Debug)]
pub struct AssumedRole {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sts: Client,
    /// The hop before, in whose role `sts` signs.
    via: Option<AssumedRole>,
    request: AssumeRequest,
    session: Mutex<Option<Session>>,
}

#[derive(Clone, Debug)]
struct Session {
    credentials: Credentials,
    refresh_at: SystemTime,
    expires_at: SystemTime,
}

impl AssumedRole {
    /// A role that nobody has assumed yet; `sts` signs with the credentials of the hop before, `via` if that is an
    /// assumed role too.
    pub fn new(sts: Client, via: Option<AssumedRole>, request: AssumeRequest) -> Self {
        Self { shared: Arc::new(Shared { sts, via, request, session: Mutex::new(None) }) }
    }

    /// The role's credentials, from memory or from STS; one call at a time however many ask.
    ///
    /// # Errors
    /// STS refuses or does not answer, and no session is left that still holds.
    ///
    /// # Cancel safety
    /// Safe: the next caller asks STS anew.
    pub async fn credentials(&self) -> Result<Credentials, AssumeError> {
        let mut session = self.shared.session.lock().await;
        let now = SystemTime::now();
        if let Some(session) = session.as_ref().filter(|session| now < session.refresh_at) {
            return Ok(session.credentials.clone());
        }
        match self.assume().await {
            Ok(new) => {
                let credentials = new.credentials.clone();
                *session = Some(new);
                Ok(credentials)
            }
            Err(error) => match session.as_mut().filter(|session| now < session.expires_at) {
                // Early renewal is a convenience: the session at hand still holds. Not every call must ask again.
                Some(session) if matches!(error, AssumeError::Unavailable { .. }) => {
                    session.refresh_at = now + RENEWAL_PAUSE;
                    tracing::warn!(role.arn = %self.shared.request.role, error = %error, "renewing a session failed; the old one still holds");
                    Ok(session.credentials.clone())
                }
                _ => Err(error),
            },
        }
    }

    /// Drops the session: the next caller asks STS. For credentials that AWS calls expired.
    pub async fn forget(&self) {
        *self.shared.session.lock().await = None;
    }

    /// Asks STS; if it calls the hop before expired, once more with a new session of that.
    async fn assume(&self) -> Result<Session, AssumeError> {
        match (self.ask().await, &self.shared.via) {
            (Err(AssumeError::Denied { code, .. }), Some(via)) if code.starts_with("ExpiredToken") => {
                via.forget().await;
                self.ask().await
            }
            (answer, _) => answer,
        }
    }

    async fn ask(&self) -> Result<Session, AssumeError> {
        let request = &self.shared.request;
        let seconds = i32::try_from(request.duration.as_secs()).expect("validated to be an hour at most");
        let tags = request.tags.iter().map(|(key, value)| Tag::builder().key(*key).value(value).build());
        let tags: Vec<_> =
            tags.collect::<Result<_, _>>().map_err(|error| self.unavailable(error.to_string()))?;
        let output = self
            .shared
            .sts
            .assume_role()
            .role_arn(request.role.as_str())
            .role_session_name(&request.session_name)
            .set_external_id(request.external_id.clone())
            .set_policy(request.policy.clone())
            .set_tags((!tags.is_empty()).then_some(tags))
            .set_source_identity(request.source_identity.clone())
            .duration_seconds(seconds)
            .send()
            .await
            .map_err(|error| self.refused(error))?;
        let answer = output
            .credentials
            .ok_or_else(|| self.unavailable("STS answered without credentials".to_owned()))?;
        let expires_at =
            SystemTime::try_from(answer.expiration).map_err(|error| self.unavailable(error.to_string()))?;
        let early = request.refresh_before.mul_f64(1.0 + fastrand::f64() / 4.0);
        Ok(Session {
            credentials: Credentials::new(
                answer.access_key_id,
                answer.secret_access_key,
                Some(answer.session_token),
                Some(expires_at),
                "AssumedRole",
            ),
            refresh_at: expires_at - early,
            expires_at,
        })
    }

    fn refused(&self, error: SdkError<AssumeRoleError, HttpResponse>) -> AssumeError {
        let status = error.raw_response().map(|response| response.status().as_u16());
        match error.as_service_error() {
            // 4xx other than throttling: asking again will not help until somebody changes something.
            Some(service) if status.is_some_and(|status| status < 500) && !is_throttle(service.code()) => {
                AssumeError::Denied {
                    role: self.shared.request.role.to_string(),
                    external_id: self.shared.request.external_id.clone(),
                    code: service.code().unwrap_or("unknown").to_owned(),
                    message: service.message().unwrap_or("no message").to_owned(),
                }
            }
            // The hop before ours failed: its own error says more than the SDK's wrapping of it.
            _ => find_cause::<AssumeError>(&error)
                .cloned()
                .unwrap_or_else(|| self.unavailable(describe(&error))),
        }
    }

    fn unavailable(&self, problem: String) -> AssumeError {
        AssumeError::Unavailable { role: self.shared.request.role.to_string(), problem }
    }
}

fn is_throttle(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.contains("Throttl") || code == "RequestLimitExceeded")
}

impl ProvideCredentials for AssumedRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let result: provider::Result = self.credentials().await.map_err(CredentialsError::provider_error);
            result
        })
    }
}

/// A session name that tells the customer why we are there, made legal: `logferry-acme-corp`.
pub fn session_name(tenant_id: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "_+=,.@-".contains(c) { c } else { '-' };
    // 64 is STS's limit. Source: STS API reference, AssumeRole.
    "logferry-".chars().chain(tenant_id.chars().map(legal)).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names_are_legal() {
        assert_eq!(session_name("acme-corp"), "logferry-acme-corp");
        assert_eq!(session_name("a b/ü"), "logferry-a-b--");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
    }
}
