//! A role that is assumed when needed, and again before its session ends.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
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
use prometheus_client::metrics::{counter::Counter, family::Family};

use super::{
    AssumeError,
    flight::Flight,
    identity::IdentityError,
    refusal::RefusalCause,
    request::{AssumeRequest, SessionLife},
    role_breaker::RoleBreaker,
};
use crate::{
    aws::{describe, find_cause, refuses_session},
    metrics::Ended,
    recent::Handle,
};

/// Time between two early renewals of the same session.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// A role and its session. Clones share both.
#[derive(Clone, Debug)]
pub struct AssumedRole {
    shared: Arc<Shared>,
}

/// Provides the credentials of a role while another handle on it exists. So a client that is kept does not keep the role.
#[derive(Debug)]
pub struct WeakRole(Weak<Shared>);

impl Handle for AssumedRole {
    fn is_in_use(&self) -> bool {
        self.shared.is_in_use()
    }
}

#[derive(Debug)]
struct Shared {
    number: u64,
    sts: Client,
    /// The role of the previous hop, which signs the calls of `sts`.
    via: Option<AssumedRole>,
    request: AssumeRequest,
    life: SessionLife,
    session: Mutex<Option<Session>>,
    /// Held during a call to STS; all sessions in a customer's role share it.
    flight: Arc<Flight>,
    /// `None` for a role of our own.
    breakers: Option<Breakers>,
}

/// A breaker for refusals of the role, and one for refusals of this session's request.
#[derive(Debug)]
struct Breakers {
    role: Arc<RoleBreaker>,
    session: RoleBreaker,
    /// Counts the answers of STS.
    renewals: Family<Ended, Counter>,
}

#[derive(Clone, Debug)]
struct Session {
    credentials: Credentials,
    refresh_at: SystemTime,
    expires_at: SystemTime,
}

impl AssumedRole {
    /// A role of our own, not assumed yet. `sts` signs with the credentials of the previous hop; `via` is that hop, if it is an
    /// assumed role too.
    pub fn new(sts: Client, via: Option<AssumedRole>, request: AssumeRequest, life: SessionLife) -> Self {
        Self::with(sts, via, request, life, Arc::default(), None)
    }

    /// A customer's role, not assumed yet, entered from `via`, which signs the calls of `sts`. All sessions in the role share
    /// `breaker`; while it is open, only its probes ask STS. `renewals` counts STS's answers.
    pub fn of_customer(
        sts: Client,
        via: AssumedRole,
        request: AssumeRequest,
        life: SessionLife,
        breaker: Arc<RoleBreaker>,
        renewals: Family<Ended, Counter>,
    ) -> Self {
        let (flight, session) = (breaker.flight(), breaker.of_session());
        Self::with(sts, Some(via), request, life, flight, Some(Breakers { role: breaker, session, renewals }))
    }

    fn with(
        sts: Client,
        via: Option<AssumedRole>,
        request: AssumeRequest,
        life: SessionLife,
        flight: Arc<Flight>,
        breakers: Option<Breakers>,
    ) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (number, session) = (NUMBER.fetch_add(1, Ordering::Relaxed), Mutex::new(None));
        Self { shared: Arc::new(Shared { number, sts, via, request, life, session, flight, breakers }) }
    }

    /// Number of this role in the process, which no other role ever has.
    pub fn number(&self) -> u64 {
        self.shared.number
    }

    /// A provider that does not keep the role.
    pub fn downgrade(&self) -> WeakRole {
        WeakRole(Arc::downgrade(&self.shared))
    }

    /// The role's credentials, from memory or from STS, with one call to STS at a time. While a customer's role is refused,
    /// callers other than the probe fail at once. If STS does not answer a call, the callers that waited for it share the
    /// failure. A renewal runs in the background as long as the old session is valid.
    ///
    /// # Errors
    /// There is no valid session, and STS refuses or does not answer; or STS refused before, and no probe is due.
    ///
    /// # Cancel safety
    /// Safe: the next caller asks STS again. If a probe is dropped, the next one is due an interval after it.
    pub async fn credentials(&self) -> Result<Credentials, AssumeError> {
        if let Some(credentials) = self.holding() {
            return Ok(credentials);
        }
        let _turn = self.turn().await?;
        // The caller that had the turn before may have renewed the session, or been refused.
        if let Some(credentials) = self.holding() {
            return Ok(credentials);
        }
        self.renew().await
    }

    /// Makes a call in the role. If AWS answers that the session is no longer valid, repeats the call once in a new session.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call<T, E, F>(&self, call: impl Fn() -> F) -> Result<T, SdkError<E, HttpResponse>>
    where
        E: ProvideErrorMetadata,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let session = self.at_hand();
        match (call().await, session) {
            (Err(error), Some(session)) if refuses_session(error.code()) => {
                self.forget(&session);
                call().await
            }
            (outcome, _) => outcome,
        }
    }

    /// Replaces the session by a new one, because an old session may not have the role's new permissions.
    ///
    /// # Errors
    /// See [`AssumedRole::credentials`].
    pub async fn enter_anew(&self) -> Result<Credentials, AssumeError> {
        if let Some(session) = self.at_hand() {
            self.forget(&session);
        }
        self.credentials().await
    }

    /// Drops the session, unless another caller has replaced it.
    fn forget(&self, failed: &Credentials) {
        self.session().take_if(|session| session.credentials == *failed);
    }

    /// The credentials of the current session, valid or not.
    fn at_hand(&self) -> Option<Credentials> {
        self.session().as_ref().map(|session| session.credentials.clone())
    }

    /// The credentials of the current session, if it is valid. Starts its renewal in the background when that is due.
    fn holding(&self) -> Option<Credentials> {
        let now = SystemTime::now();
        let mut session = self.session();
        let session = session.as_mut().filter(|session| now < session.expires_at)?;
        if session.refresh_at <= now {
            // Postponed, so that other callers do not start a second renewal.
            session.refresh_at = now + RENEWAL_PAUSE;
            tokio::spawn(self.clone().renew_early(session.credentials.clone()));
        }
        Some(session.credentials.clone())
    }

    /// Renews a session that is still valid.
    async fn renew_early(self, old: Credentials) {
        let renewed = async {
            let _turn = self.turn().await?;
            match self.at_hand() {
                Some(session) if session == old => self.renew().await.map(drop),
                _ => Ok(()),
            }
        };
        match renewed.await {
            // The breaker has logged it.
            Ok(()) | Err(AssumeError::Held { .. }) => {}
            Err(error) => tracing::warn!(
                role.arn = %self.shared.request.role,
                error = %error,
                "renewing a session failed; the old session is still valid"
            ),
        }
    }

    /// Gets a session from STS. The caller must have the turn.
    async fn renew(&self) -> Result<Credentials, AssumeError> {
        for breaker in self.breakers() {
            breaker.check()?;
        }
        self.breakers().for_each(RoleBreaker::take_probe);
        let answer = self.assume().await;
        if let Some(Breakers { renewals, .. }) = &self.shared.breakers {
            renewals.get_or_create(&Ended::new(if answer.is_ok() { "renewed" } else { "failed" })).inc();
        }
        match &answer {
            Err(error @ (AssumeError::Unavailable { .. } | AssumeError::Ours(_))) => {
                self.shared.flight.fail(error)
            }
            _ => self.shared.flight.answer(),
        }
        let session = answer.map_err(|error| self.opens_breaker(error))?;
        self.breakers().for_each(RoleBreaker::succeed);
        let credentials = session.credentials.clone();
        *self.session() = Some(session);
        Ok(credentials)
    }

    /// Waits for the right to ask STS.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, AssumeError> {
        for breaker in self.breakers() {
            breaker.check()?;
        }
        match self.breakers().find_map(RoleBreaker::held) {
            None => self.shared.flight.turn().await,
            // If a probe is running, fail fast instead of holding a slot.
            Some(held) => self.shared.flight.turn_or(held),
        }
    }

    /// Opens the breaker for a refusal of this role that lasts until somebody changes something. Returns the error for the
    /// caller.
    fn opens_breaker(&self, refusal: AssumeError) -> AssumeError {
        let (Some(breakers), AssumeError::Denied { role, code, message, .. }) =
            (&self.shared.breakers, &refusal)
        else {
            return refusal;
        };
        let request = &self.shared.request;
        // A refusal of the previous hop is not the customer's fault.
        let Some(cause) = RefusalCause::of(code, message).filter(|_| *role == request.role.as_str()) else {
            return refusal;
        };
        let breaker = if cause == RefusalCause::Request { &breakers.session } else { &*breakers.role };
        let central = self.shared.via.as_ref().map_or("", |via| via.shared.request.role.as_str());
        let remedy = cause.remedy(request, central, message);
        breaker.refuse(refusal, cause, &remedy)
    }

    /// Whether the breaker of the customer's role is open, for all sessions in the role.
    pub fn is_refused(&self) -> bool {
        self.shared.breakers.as_ref().is_some_and(|breakers| breakers.role.held().is_some())
    }

    fn breakers(&self) -> impl Iterator<Item = &RoleBreaker> {
        self.shared.breakers.iter().flat_map(|breakers| [&*breakers.role, &breakers.session])
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.shared.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks STS. If STS answers that the session of the previous hop is no longer valid, asks once more with a new session.
    async fn assume(&self) -> Result<Session, AssumeError> {
        let via = self.shared.via.as_ref().and_then(|via| Some((via, via.at_hand()?)));
        let answer = match (self.ask().await, via) {
            (Err(AssumeError::Denied { code, .. }), Some((via, session)))
                if refuses_session(Some(code.as_str())) =>
            {
                via.forget(&session);
                self.ask().await
            }
            (answer, _) => answer,
        };
        answer.map_err(|error| self.blamed(error))
    }

    /// Turns a refusal into [`AssumeError::Ours`] if we are at fault: the session that signed is not valid, or the role is
    /// our own.
    fn blamed(&self, error: AssumeError) -> AssumeError {
        match error {
            AssumeError::Denied { code, message, .. } if refuses_session(Some(code.as_str())) => {
                AssumeError::Ours(IdentityError::Credentials { problem: format!("{code}: {message}") })
            }
            AssumeError::Denied { role, code, message, .. } if self.shared.breakers.is_none() => {
                AssumeError::Ours(IdentityError::CentralRole { role, code, message })
            }
            other => other,
        }
    }

    async fn ask(&self) -> Result<Session, AssumeError> {
        let Shared { request, life, .. } = &*self.shared;
        let seconds = i32::try_from(life.duration.as_secs()).expect("validated to be an hour at most");
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
        let early = life.refresh_before.mul_f64(1.0 + fastrand::f64() / 4.0);
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
        if let Some(ours) = IdentityError::of(&error) {
            return AssumeError::Ours(ours);
        }
        match error.as_service_error() {
            // A retry after a 4xx other than throttling does not help until somebody changes something.
            Some(service) if status.is_some_and(|status| status < 500) && !is_throttle(service.code()) => {
                AssumeError::Denied {
                    role: self.shared.request.role.to_string(),
                    external_id: self.shared.request.external_id.clone(),
                    code: service.code().unwrap_or("unknown").to_owned(),
                    message: service.message().unwrap_or("no message").to_owned(),
                }
            }
            // If the previous hop failed, its own error says more than the SDK's wrapper.
            _ => find_cause::<AssumeError>(&error)
                .cloned()
                .or_else(|| IdentityError::of_own(&error).map(AssumeError::Ours))
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

impl ProvideCredentials for WeakRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let gone = || CredentialsError::not_loaded("the role is no longer in use");
            AssumedRole { shared: self.0.upgrade().ok_or_else(gone)? }.provide_credentials().await
        })
    }
}

#[cfg(test)]
mod tests;
