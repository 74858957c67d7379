//! First attempts without the SDK's orchestrator, for the calls of nearly every object: GetObject, PutLogEvents, and the calls
//! that objects share (ReceiveMessage, DeleteMessageBatch, BatchExecuteStatement: [`json`]).
//!
//! For each call the SDK builds a configuration, chooses a way to sign, resolves the endpoint, and runs two dozen hooks for
//! each interceptor. That was two fifths of a small object's CPU. None of it differs from one call to the next, so a direct
//! attempt takes endpoint, connections, and time limits from an earlier call of the SDK: the call's route. It signs a request,
//! sends it, and reads the answer.
//!
//! Everything beyond the usual answers stays with the SDK: the caller of a direct attempt that fails makes the call by the
//! SDK, with one attempt less. For some time after that, all calls for the same owner (a bucket, a customer's account, a queue,
//! or a table) are the SDK's: its retries limit the load on a service that throttles or fails. Calls in sampled traces are always
//! the SDK's.

pub mod json;
mod pauses;
mod signature;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::HashMap,
    iter,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        auth::AuthScheme,
        connection::CaptureSmithyConnection,
        http::{HttpClient, HttpConnector, HttpConnectorSettings, SharedHttpConnector},
        identity::ResolveCachedIdentity,
        interceptors::{
            Intercept,
            context::{BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef, Input},
            dyn_dispatch_hint,
        },
        orchestrator::{HttpRequest, HttpResponse, Metadata},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{
    body::SdkBody,
    config_bag::{ConfigBag, Storable, StoreReplace},
    date_time::{DateTime, Format},
};
use axum::http::Uri;
use jiff::Timestamp;
use tokio::time::Instant;

use self::pauses::Pauses;
use super::{Calls, calls::USER_AGENTS, chain};
use crate::trace;

/// Longest wait for credentials. The SDK's own call waits longer.
const CREDENTIALS: Duration = Duration::from_secs(1);
/// Most routes: Regions of customers, or staging buckets. Calls to further ones are always the SDK's.
const MOST_ROUTES: usize = 64;
/// If the service's clock and ours differ by more, the SDK judges an error, and corrects its signatures. The SDK's own bound.
const LARGEST_SKEW_SECONDS: u64 = 240;

/// Where the SDK's calls of one operation go. As an interceptor of a client it learns that from the client's own calls.
#[derive(Clone, Debug)]
pub struct DirectCalls {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    operation: Metadata,
    place: fn(&Input, &ConfigBag) -> Option<Place>,
    calls: Calls,
    routes: RwLock<HashMap<String, Arc<Route>>>,
    pauses: Pauses,
    /// Whether routes keep the credentials of the client.
    keeps_credentials: bool,
}

/// What a call is about: the name of its route, and the end of its URI's path, which differs from call to call.
#[derive(Clone, Debug)]
pub struct Place {
    /// A Region, or a bucket; empty if all calls go to one endpoint.
    pub route: String,
    /// The key of an object, percent-encoded, or nothing.
    pub path: String,
}

impl Storable for Place {
    type Storer = StoreReplace<Self>;
}

/// How to send calls to one endpoint.
#[derive(Debug)]
struct Route {
    /// Scheme and host.
    origin: String,
    host: String,
    /// The path up to what differs from call to call.
    path: String,
    region: String,
    /// The service's name in signatures.
    service: String,
    agents: [String; 2],
    connector: SharedHttpConnector,
    /// For the client's own credentials.
    components: Option<RuntimeComponents>,
    timeouts: TimeoutConfig,
    /// Of the SDK's call after a direct attempt.
    retries: RetryConfig,
}

/// A request to be signed.
#[derive(Debug)]
pub struct DirectRequest<'a> {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// See [`Place::path`].
    pub path: &'a str,
    /// Percent-encoded, sorted by name; without the question mark.
    pub query: &'a str,
    /// Names in lower case. Those of the host, the user agent and the signature are added.
    pub headers: Vec<(&'static str, String)>,
    /// The SHA-256 of the body, in hexadecimal digits.
    pub payload_sha256: &'a str,
    /// The body.
    pub body: SdkBody,
}

/// An answer that the SDK need not judge.
#[derive(Debug)]
pub enum Final<T> {
    /// The call succeeded.
    Success(T),
    /// AWS refused the call, and a retry would not change that.
    Refusal(T),
}

/// Another answer, or none.
#[derive(Debug)]
pub struct Unusual {
    /// What happened. Quotes no body.
    pub problem: String,
    /// What follows from it.
    pub kind: UnusualKind,
}

/// What an unusual answer says about further calls for the same owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusualKind {
    /// Nothing: it is about this object alone.
    OfObject,
    /// They may be refused too.
    Refused,
    /// They may have such an answer too. The call took effect, and the SDK makes it once more.
    Unreadable,
    /// They should be fewer.
    Throttled,
    /// They may fail too: the service fails or does not answer, or the connection is broken.
    Failed,
}

/// The SDK must make the call. As an interceptor of this call, it leaves the SDK one attempt less after a direct attempt, and
/// the rest of the time if the time of whole calls is limited.
#[derive(Clone, Debug, Default)]
pub struct LeftToSdk(Option<Arc<Rest>>);

/// Settings of a call that follows a direct attempt. `None`: those of the client.
#[derive(Debug)]
struct Rest {
    retries: Option<RetryConfig>,
    timeouts: Option<TimeoutConfig>,
}

impl Storable for LeftToSdk {
    type Storer = StoreReplace<Self>;
}

/// A direct attempt, before its request is sent.
#[derive(Debug)]
pub struct Attempt<'a> {
    direct: &'a DirectCalls,
    name: &'a str,
    owner: &'a str,
    route: Arc<Route>,
    began: Instant,
}

impl DirectCalls {
    /// Learns the routes of `operation`. `place` says where a call goes, by the SDK's input and the configuration of the call.
    /// `keeps_credentials`: the client has credentials of its own, which [`Attempt::credentials`] gives.
    pub fn new(
        calls: &Calls,
        operation: Metadata,
        place: fn(&Input, &ConfigBag) -> Option<Place>,
        keeps_credentials: bool,
    ) -> Self {
        let (calls, routes, pauses) = (calls.clone(), RwLock::default(), Pauses::default());
        let shared = Shared { operation, place, calls, routes, pauses, keeps_credentials };
        Self { shared: Arc::new(shared) }
    }

    /// Begins an attempt on the route to a Region or a bucket, for a call to a resource of `owner`.
    ///
    /// # Errors
    /// The SDK must make the call: it has made none on that route yet, it makes one attempt only, direct attempts for this owner
    /// pause, or the call is part of a sampled trace.
    pub fn begin<'a>(&'a self, route: &'a str, owner: &'a str) -> Result<Attempt<'a>, LeftToSdk> {
        let (name, began) = (route, Instant::now());
        if self.shared.pauses.holds(owner) || trace::is_sampled_now() {
            return Err(LeftToSdk::default());
        }
        let routes = self.shared.routes.read().unwrap_or_else(PoisonError::into_inner);
        let route = routes.get(name).cloned().ok_or_else(LeftToSdk::default)?;
        Ok(Attempt { direct: self, name, owner, route, began })
    }

    #[cfg(test)]
    pub(crate) fn pauses(&self) -> &Pauses {
        &self.shared.pauses
    }

    /// Learns the route of a request that the SDK has signed. `None` if the request is signed in a way that is not known here, for
    /// example for S3 Express, or if the SDK makes one attempt only.
    fn learn(
        &self,
        place: &Place,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Option<Route> {
        let request = context.request();
        let uri: Uri = request.uri().parse().ok()?;
        let (scheme, authority) = (uri.scheme()?, uri.authority()?);
        let (region, service) = signature::scope(request.headers().get("authorization")?)?;
        let (timeouts, retries) = (config.load::<TimeoutConfig>()?, config.load::<RetryConfig>()?);
        let further = retries.max_attempts().checked_sub(1).filter(|further| *further > 0)?;
        // Without the interceptors, to which `self` belongs.
        let components_alone = || components.to_builder().with_interceptors(iter::empty()).build().ok();
        let mut settings = HttpConnectorSettings::builder();
        settings.set_connect_timeout(timeouts.connect_timeout()).set_read_timeout(timeouts.read_timeout());
        let agent = |name| request.headers().get(name).map(str::to_owned);
        Some(Route {
            origin: format!("{scheme}://{authority}"),
            host: signature::host(scheme.as_str(), authority),
            path: uri.path().strip_suffix(&place.path)?.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            agents: [agent(USER_AGENTS[0])?, agent(USER_AGENTS[1])?],
            connector: components.http_client()?.http_connector(&settings.build(), components),
            components: if self.shared.keeps_credentials { Some(components_alone()?) } else { None },
            timeouts: timeouts.clone(),
            retries: retries.clone().with_max_attempts(further),
        })
    }
}

#[dyn_dispatch_hint]
impl Intercept for DirectCalls {
    fn name(&self) -> &'static str {
        "DirectCalls"
    }

    /// Notes where the call goes, if that is not known yet. Later hooks do not have the input.
    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let ours = config.load::<Metadata>().is_some_and(|call| call.name() == self.shared.operation.name());
        // A call after a direct attempt has settings of its own.
        let ours = ours && config.load::<LeftToSdk>().is_none();
        let Some(place) = (self.shared.place)(context.input(), config).filter(|_| ours) else {
            return Ok(());
        };
        let routes = self.shared.routes.read().unwrap_or_else(PoisonError::into_inner);
        if routes.len() < MOST_ROUTES && !routes.contains_key(&place.route) {
            config.interceptor_state().store_put(place);
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(place) = config.load::<Place>()
            && let Some(route) = self.learn(place, context, components, config)
        {
            let mut routes = self.shared.routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.insert(place.route.clone(), Arc::new(route));
        }
        Ok(())
    }
}

/// Changes the settings of the call.
#[dyn_dispatch_hint]
impl Intercept for LeftToSdk {
    fn name(&self) -> &'static str {
        "LeftToSdk"
    }

    fn read_before_execution(
        &self,
        _context: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(rest) = &self.0 {
            config.interceptor_state().store_put(self.clone());
            if let Some(retries) = rest.retries.clone() {
                config.interceptor_state().store_put(retries);
            }
            if let Some(timeouts) = rest.timeouts.clone() {
                config.interceptor_state().store_put(timeouts);
            }
        }
        Ok(())
    }
}

impl Attempt<'_> {
    /// The client's credentials, from the SDK's cache.
    ///
    /// # Errors
    /// The SDK must make the call: there are no credentials now.
    pub async fn credentials(&self) -> Result<Credentials, LeftToSdk> {
        match tokio::time::timeout(CREDENTIALS, self.route.credentials()).await {
            Ok(Some(credentials)) => Ok(credentials),
            Ok(None) | Err(_) => {
                self.direct.shared.pauses.begin(self.owner, self.began.elapsed());
                Err(self.left(None))
            }
        }
    }

    /// Signs and sends a request. `read` reads the answer; the time limit of the SDK's attempts covers both. If the service
    /// throttles, fails or does not answer, waits as the SDK does before its second attempt.
    ///
    /// # Errors
    /// The SDK must make the call.
    ///
    /// # Cancel safety
    /// As with the SDK: if the future is dropped, the call may still take effect.
    pub async fn send<T>(
        self,
        request: DirectRequest<'_>,
        credentials: &Credentials,
        read: impl AsyncFnOnce(HttpResponse) -> Result<Final<T>, Unusual>,
    ) -> Result<T, LeftToSdk> {
        let Self { direct, owner, route, .. } = &self;
        // Credentials may have taken seconds.
        if direct.shared.pauses.holds(owner) {
            return Err(self.left(None));
        }
        let signed = route.signed(request, credentials, Timestamp::now());
        let mut request = signed.ok_or_else(|| self.left(None))?;
        let connection = CaptureSmithyConnection::new();
        request.add_extension(connection.clone());
        let (call, sent) = (direct.shared.calls.direct(&direct.shared.operation), Instant::now());
        let attempt = async {
            let answer = route.connector.call(request).await;
            let answer = answer.map_err(|error| Unusual::no_answer(chain(&error)))?;
            let (status, clock_differs) = (answer.status(), is_by_another_clock(&answer));
            match read(answer).await? {
                // The SDK corrects the time of its signatures.
                Final::Refusal(_) if clock_differs => {
                    let problem = format!("HTTP status {status}, and the service's clock differs");
                    Err(Unusual { problem, kind: UnusualKind::Refused })
                }
                answer => Ok(answer),
            }
        };
        let answer = match route.timeouts.operation_attempt_timeout() {
            Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
                Err(Unusual::no_answer(format!("no answer within {} ms", limit.as_millis())))
            }),
            None => attempt.await,
        };
        let (outcome, answer) = match answer {
            Ok(Final::Success(answer)) => ("ok", answer),
            Ok(Final::Refusal(answer)) => ("refused", answer),
            Err(unusual) => {
                call.leave_to_sdk();
                if unusual.kind == UnusualKind::Failed
                    && let Some(connection) = connection.get()
                {
                    // The next attempt takes another one.
                    connection.poison();
                }
                self.failed(&unusual, sent.elapsed()).await;
                return Err(self.left(Some(route.retries.clone())));
            }
        };
        call.end(outcome);
        direct.shared.pauses.end_before(owner, self.began);
        Ok(answer)
    }

    /// Begins a pause, and waits before the SDK's attempt, where that is of use.
    async fn failed(&self, Unusual { problem, kind }: &Unusual, took: Duration) {
        let (shared, owner) = (&self.direct.shared, self.owner);
        let operation = shared.operation.name();
        if *kind == UnusualKind::Unreadable {
            tracing::warn!(
                operation,
                owner,
                error = problem,
                "an answer cannot be read; the call is repeated"
            );
        } else {
            tracing::debug!(
                operation,
                owner,
                error = problem,
                "a direct attempt failed; the SDK makes the call"
            );
        }
        if *kind != UnusualKind::OfObject && shared.pauses.begin(owner, took) == pauses::LONGEST {
            // The SDK may find another way, which its next call shows.
            let mut routes = shared.routes.write().unwrap_or_else(PoisonError::into_inner);
            if routes.get(self.name).is_some_and(|route| Arc::ptr_eq(route, &self.route)) {
                routes.remove(self.name);
            }
        }
        if matches!(kind, UnusualKind::Throttled | UnusualKind::Failed) {
            tokio::time::sleep(self.route.retries.initial_backoff().mul_f64(fastrand::f64())).await;
        }
    }

    /// What is left to the SDK, with these retries.
    fn left(&self, retries: Option<RetryConfig>) -> LeftToSdk {
        let timeouts = &self.route.timeouts;
        let timeouts = timeouts.operation_timeout().map(|limit| {
            let left = limit.saturating_sub(self.began.elapsed()).max(Duration::from_millis(1));
            timeouts.to_builder().operation_timeout(left).build()
        });
        LeftToSdk(Some(Arc::new(Rest { retries, timeouts })))
    }
}

/// Whether the `date` of the answer is far from our time.
fn is_by_another_clock(answer: &HttpResponse) -> bool {
    let date = answer.headers().get("date").and_then(|at| DateTime::from_str(at, Format::HttpDate).ok());
    date.is_some_and(|at| at.secs().abs_diff(Timestamp::now().as_second()) > LARGEST_SKEW_SECONDS)
}

impl<'a> DirectRequest<'a> {
    /// A request in one of AWS's JSON protocols: `content_type` says which. `target` names the operation.
    pub fn json(content_type: &str, target: &str, payload_sha256: &'a str, body: impl Into<SdkBody>) -> Self {
        let headers = vec![("content-type", content_type.to_owned()), ("x-amz-target", target.to_owned())];
        Self { method: "POST", path: "", query: "", headers, payload_sha256, body: body.into() }
    }
}

impl Unusual {
    fn no_answer(problem: String) -> Self {
        Self { problem, kind: UnusualKind::Failed }
    }
}

impl Route {
    async fn credentials(&self) -> Option<Credentials> {
        let components = self.components.as_ref()?;
        let scheme = components.auth_scheme(aws_runtime::auth::sigv4::SCHEME_ID)?;
        let resolver = scheme.identity_resolver(components)?;
        let (cache, config) = (components.identity_cache(), ConfigBag::base());
        let identity = cache.resolve_cached_identity(resolver, components, &config).await.ok()?;
        identity.data::<Credentials>().cloned()
    }

    /// The request, with its signature. `None` if it cannot be made, because a text in it has characters that HTTP forbids.
    fn signed(
        &self,
        request: DirectRequest<'_>,
        credentials: &Credentials,
        now: Timestamp,
    ) -> Option<HttpRequest> {
        let DirectRequest { method, path, query, mut headers, payload_sha256, body } = request;
        let path = format!("{}{path}", self.path);
        headers.push(("host", self.host.clone()));
        headers.push((USER_AGENTS[1], self.agents[1].clone()));
        let scope = signature::Scope { region: &self.region, service: &self.service, at: now };
        signature::sign(&scope, credentials, method, &path, query, &mut headers, payload_sha256);
        let length = body.content_length().filter(|length| *length > 0);
        let mut signed = HttpRequest::new(body);
        let question = if query.is_empty() { "" } else { "?" };
        signed.set_method(method).ok()?;
        signed.set_uri(format!("{}{path}{question}{query}", self.origin)).ok()?;
        let fields = signed.headers_mut();
        fields.try_insert(USER_AGENTS[0], self.agents[0].clone()).ok()?;
        if let Some(length) = length {
            fields.try_insert("content-length", length.to_string()).ok()?;
        }
        for (name, value) in headers.into_iter().filter(|(name, _)| *name != "host") {
            fields.try_insert(name, value).ok()?;
        }
        Some(signed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_answer_shows_another_clock() {
        let now = Timestamp::now().as_second();
        for (seconds, differs) in [(0, false), (200, false), (-200, false), (300, true), (-300, true)] {
            let date = DateTime::from_secs(now + seconds).fmt(Format::HttpDate).expect("a date");
            let mut answer = HttpResponse::new(403.try_into().expect("a status"), SdkBody::empty());
            answer.headers_mut().insert("date", date);
            assert_eq!(is_by_another_clock(&answer), differs, "{seconds}");
        }
        assert!(!is_by_another_clock(&HttpResponse::new(
            403.try_into().expect("a status"),
            SdkBody::empty()
        )));
    }
}
