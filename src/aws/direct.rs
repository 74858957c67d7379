//! First attempts of the calls that nearly every object needs, GetObject and PutLogEvents, without the SDK's orchestrator.
//!
//! For each call the SDK builds a configuration, chooses a way to sign, resolves the endpoint, and runs two dozen hooks for each
//! interceptor. For a small object this takes about as much CPU as everything else together. None of it differs from one call to
//! the next, so a direct attempt takes endpoint, connections, and time limits from an earlier call of the SDK: its [`Route`]. It
//! signs a request, sends it, and reads the answer.
//!
//! Everything beyond the usual answer stays with the SDK. A direct attempt then gives `None`, and its caller makes the whole call
//! by the SDK, with retries. For [`REST`] after that, all calls for the same owner (a bucket, or a customer's account) are the
//! SDK's: its retries limit the load on a service that throttles or fails. Calls in sampled traces are always the SDK's.

mod signature;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::HashMap,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use aws_config::timeout::TimeoutConfig;
use aws_credential_types::Credentials;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        auth::AuthScheme,
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
};
use axum::http::Uri;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Calls, calls::USER_AGENTS};
use crate::trace;

/// How long all calls are the SDK's after a direct attempt without the usual answer.
pub const REST: Duration = Duration::from_secs(1);
/// Most routes: Regions of customers, or staging buckets. Calls to further ones are always the SDK's.
const MOST_ROUTES: usize = 64;

/// Where the SDK's calls of one operation go. As an interceptor of a client it learns that from the client's own calls.
#[derive(Clone, Debug)]
pub struct Direct {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    operation: Metadata,
    place: fn(&Input, &ConfigBag) -> Option<Place>,
    calls: Calls,
    routes: RwLock<HashMap<String, Arc<Route>>>,
    /// When the rest of an owner ends. Rests that have ended may be left.
    rests: Mutex<HashMap<String, Instant>>,
}

/// What a call is about: the name of its route, and the end of its URI's path, which differs from call to call.
#[derive(Clone, Debug)]
pub struct Place {
    /// A Region, or a bucket.
    pub route: String,
    /// The key of an object, percent-encoded, or nothing.
    pub path: String,
}

impl Storable for Place {
    type Storer = StoreReplace<Self>;
}

/// How to send calls to one endpoint.
#[derive(Debug)]
pub struct Route {
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
    /// Those of the client that made the first call.
    components: RuntimeComponents,
    longest_attempt: Option<Duration>,
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

impl Direct {
    /// Learns the routes of `operation`. `place` says where a call goes, by the SDK's input and the configuration of the call.
    pub fn new(calls: &Calls, operation: Metadata, place: fn(&Input, &ConfigBag) -> Option<Place>) -> Self {
        let (routes, rests) = (RwLock::default(), Mutex::default());
        Self { shared: Arc::new(Shared { operation, place, calls: calls.clone(), routes, rests }) }
    }

    /// The route to a Region or a bucket, for a call into what `owner` has. `None` if the SDK must make the call: it has made none
    /// to that place yet, a direct attempt for this owner failed within [`REST`], or the call is part of a sampled trace.
    pub fn route(&self, name: &str, owner: &str) -> Option<Arc<Route>> {
        let rests = self.rests().get(owner).is_some_and(|end| Instant::now() < *end);
        if rests || trace::is_sampled_now() {
            return None;
        }
        self.shared.routes.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Signs and sends a request. `read` reads the answer; it gives `None` for an answer that the SDK must judge. The time limit
    /// of the SDK's attempts covers both.
    ///
    /// # Cancel safety
    /// As with the SDK: if the future is dropped, the call may still take effect.
    pub async fn send<T>(
        &self,
        (route, owner): (&Route, &str),
        request: DirectRequest<'_>,
        credentials: &Credentials,
        read: impl AsyncFnOnce(HttpResponse) -> Option<Final<T>>,
    ) -> Option<T> {
        let request = route.signed(request, credentials, Timestamp::now())?;
        let call = self.shared.calls.direct(&self.shared.operation);
        let attempt = async { read(route.connector.call(request).await.ok()?).await };
        let answer = match route.longest_attempt {
            Some(limit) => tokio::time::timeout(limit, attempt).await.ok().flatten(),
            None => attempt.await,
        };
        let (outcome, answer) = match answer {
            Some(Final::Success(answer)) => ("ok", answer),
            Some(Final::Refusal(answer)) => ("refused", answer),
            None => {
                call.is_the_sdk_s();
                self.rest(owner);
                return None;
            }
        };
        call.end(outcome);
        Some(answer)
    }

    fn rest(&self, owner: &str) {
        let (mut rests, now) = (self.rests(), Instant::now());
        rests.retain(|_, end| now < *end);
        rests.insert(owner.to_owned(), now + REST);
    }

    fn rests(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.shared.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns the route of a request that the SDK has signed. `None` if the request is signed in a way that is not known here, for
    /// example for S3 Express.
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
        let timeouts = config.load::<TimeoutConfig>()?;
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
            // Without the interceptors, to which `self` belongs.
            components: components.to_builder().with_interceptors(iter::empty()).build().ok()?,
            longest_attempt: timeouts.operation_attempt_timeout(),
        })
    }
}

#[dyn_dispatch_hint]
impl Intercept for Direct {
    fn name(&self) -> &'static str {
        "Direct"
    }

    /// Notes where the call goes, if that is not known yet. Later hooks do not have the input.
    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let ours = config.load::<Metadata>().is_some_and(|call| call.name() == self.shared.operation.name());
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

impl Route {
    /// The credentials of the client that made the first call on this route, from the SDK's cache. `None`: there are none now.
    pub async fn credentials(&self) -> Option<Credentials> {
        let scheme = self.components.auth_scheme(aws_runtime::auth::sigv4::SCHEME_ID)?;
        let resolver = scheme.identity_resolver(&self.components)?;
        let (cache, config) = (self.components.identity_cache(), ConfigBag::base());
        let identity = cache.resolve_cached_identity(resolver, &self.components, &config).await.ok()?;
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
