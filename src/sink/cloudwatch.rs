//! Customers' CloudWatch Logs through the AWS SDK, each in the customer's own role.

use std::{io::Write, sync::Arc};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_cloudwatchlogs::{
    Client,
    client::customize::CustomizableOperation,
    config::{
        self, ConfigBag, Intercept, Region, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeTransmitInterceptorContextMut, retry::RetryPartition,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    operation::put_log_events::{PutLogEventsError, PutLogEventsOutput},
    types::RejectedLogEventsInfo,
};
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::client::{
    interceptors::{context::Input, dyn_dispatch_hint},
    orchestrator::Metadata,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};

use super::{
    LogSink, LogSinks, PutAnswer, SinkError,
    group_breaker::{Action, GroupBreakers, GroupKey, GroupPermit},
};
use crate::{
    aws::{
        Base, describe,
        direct::{
            DirectCalls, DirectRequest, Final, LeftToSdk, Place, Unusual, UnusualKind,
            json::{Answer, Refusal},
        },
        find_cause, refuses_session,
    },
    batch::RejectedEvents,
    credentials::{
        AssumeError, assumed::AssumedRole, customers::Customers, identity::IdentityError,
        request::SessionSpec, scope::Scope,
    },
    digest,
    event::ObjectRef,
    json::{self, JsonObject},
    ledger::lease::{Lease, LeaseEnded},
    tenant::{CloudWatch, Delivery},
};

/// Compression of request bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestCompression {
    /// Not compressed.
    None,
    /// gzip, level 1.
    Gzip,
}

/// Opens customers' CloudWatch Logs.
#[derive(Clone, Debug)]
pub struct CloudWatchSinks {
    /// One client for all customers: a client takes some 20 KiB.
    client: Client,
    /// First attempts of PutLogEvents.
    direct: DirectCalls,
    customers: Customers,
    groups: Arc<GroupBreakers>,
    compression: RequestCompression,
}

/// One customer's CloudWatch Logs.
#[derive(Clone, Debug)]
pub struct CloudWatchSink {
    client: Client,
    direct: DirectCalls,
    region: String,
    role: AssumedRole,
    group: GroupPermit,
    account: Arc<str>,
    compression: RequestCompression,
}

impl CloudWatchSinks {
    /// Enters accounts with `customers`; `base` has the HTTP client, retries and endpoints of all calls.
    pub fn new(
        base: &Base,
        customers: Customers,
        groups: GroupBreakers,
        compression: RequestCompression,
    ) -> Self {
        // The shared client has no credentials, so that a call without a customer's credentials fails instead of writing
        // into our own account.
        let operation = Metadata::new("PutLogEvents", "CloudWatch Logs");
        let place = |_: &Input, config: &ConfigBag| {
            Some(Place { route: config.load::<Region>()?.to_string(), path: String::new() })
        };
        let direct = DirectCalls::new(base.calls(), operation, place, false);
        let client = base.without_credentials().logs().interceptor(direct.clone()).build();
        let (client, groups) = (Client::from_conf(client), Arc::new(groups));
        Self { client, direct, customers, groups, compression }
    }
}

fn entry(delivery: &Delivery, destination: &CloudWatch, cluster: &str) -> SessionSpec {
    SessionSpec {
        tenant_id: delivery.tenant_id.clone(),
        role: destination.role.clone(),
        external_id: destination.external_id.clone(),
        session_tags: destination.session_tags,
        source_identity: destination.source_identity,
        cluster: cluster.to_owned(),
        scope: Scope::LogGroup {
            region: delivery.target_region.clone(),
            log_group_name: destination.log_group_name.clone(),
        },
    }
}

fn group_key(delivery: &Delivery, destination: &CloudWatch) -> GroupKey {
    GroupKey {
        tenant_id: delivery.tenant_id.clone(),
        role: destination.role.clone(),
        region: delivery.target_region.clone(),
        log_group_name: destination.log_group_name.clone(),
    }
}

impl LogSinks for CloudWatchSinks {
    type Sink = CloudWatchSink;

    async fn closed(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> Option<SinkError> {
        match self.customers.closed(entry(delivery, destination, cluster)) {
            Some(refused) => Some(SinkError::Session(refused)),
            None => self.groups.held(&group_key(delivery, destination)),
        }
    }

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
        _object: &ObjectRef,
    ) -> Result<CloudWatchSink, SinkError> {
        let region = &delivery.target_region;
        let role = self.customers.enter(entry(delivery, destination, cluster));
        let role = role.await.map_err(SinkError::Session)?;
        let group = self.groups.permit(group_key(delivery, destination))?;
        if group.is_probe() {
            // The role may have been deleted and created again, or the cached session revoked. A new session has the role's
            // current permissions.
            role.enter_anew().await.map_err(SinkError::Session)?;
        }
        let account = destination.role.account();
        Ok(CloudWatchSink {
            client: self.client.clone(),
            direct: self.direct.clone(),
            region: region.clone(),
            role,
            group,
            account: account.into(),
            compression: self.compression,
        })
    }
}

impl LogSink for CloudWatchSink {
    async fn put_log_events(&self, body: Bytes, lease: &Lease) -> Result<PutAnswer, SinkError> {
        let body = SealedBody::new(body, self.compression);
        let left = match self.put_directly(&body, lease).await {
            Ok(outcome) => {
                match &outcome {
                    Ok(_) => self.group.succeeded(),
                    Err(SinkError::Denied(problem)) => self.group.denied(Action::PutLogEvents, problem),
                    Err(_) => {}
                }
                return outcome;
            }
            Err(left) => left,
        };
        let outcome = self.role.call(|| self.put_once(body.clone(), lease, left.clone())).await;
        match &outcome {
            Ok(_) => self.group.succeeded(),
            Err(error) => self.tell(Action::PutLogEvents, error).await,
        }
        outcome.map(answer).map_err(put_refused)
    }

    async fn create_log_stream(&self, group: &str, stream: &str, lease: &Lease) -> Result<(), SinkError> {
        let call = self.client.create_log_stream().log_group_name(group).log_stream_name(stream);
        let send = || {
            let call = self.own(call.clone().customize());
            call.interceptor(Fence(lease.clone())).send()
        };
        let outcome = self.role.call(send).await;
        if let Err(error) = &outcome {
            self.tell(Action::CreateLogStream, error).await;
        }
        created(outcome.map(drop))
    }

    async fn create_log_group(
        &self,
        group: &str,
        retention_days: Option<i32>,
        lease: &Lease,
    ) -> Result<(), SinkError> {
        let call = self.client.create_log_group().log_group_name(group);
        let send = || {
            let call = self.own(call.clone().customize());
            call.interceptor(Fence(lease.clone())).send()
        };
        let outcome = self.role.call(send).await;
        if let Err(error) = &outcome {
            self.tell(Action::CreateLogGroup, error).await;
        }
        let ours = outcome.is_ok();
        if let Err(error) = &outcome
            && error.code() == Some("LimitExceededException")
        {
            return Err(SinkError::GroupQuota(describe(error)));
        }
        created(outcome.map(drop))?;
        if let Some(days) = retention_days.filter(|_| ours) {
            let call = self.client.put_retention_policy().log_group_name(group).retention_in_days(days);
            let call = self.own(call.customize());
            if let Err(error) = call.send().await {
                // Delivering the logs matters more than their retention, which only the customer can set now.
                tracing::warn!(
                    log.group = group,
                    retention.days = days,
                    aws.account = %self.account,
                    error = describe(&error),
                    "a group was created, but its retention could not be set; the group keeps events for ever"
                );
            }
        }
        Ok(())
    }
}

type PutError = SdkError<PutLogEventsError, HttpResponse>;

impl CloudWatchSink {
    /// Makes a call one of the customer's: adds the customer's Region, credentials and retry tokens.
    fn own<T, E, B>(&self, call: CustomizableOperation<T, E, B>) -> CustomizableOperation<T, E, B> {
        // Each account and Region has retry tokens of its own, so that a throttled customer does not use up the tokens of
        // others.
        let partition = RetryPartition::new(format!("{}/{}", self.account, self.region));
        let customer = config::Builder::default()
            .region(Region::new(self.region.clone()))
            // The sink has a handle on the role while calls are made.
            .credentials_provider(SharedCredentialsProvider::new(self.role.downgrade()))
            // `AssumedRole` caches its session; a second cache would hide a renewal.
            .identity_cache(IdentityCache::no_cache())
            .retry_partition(partition);
        call.config_override(customer)
    }

    /// Reports a denial by the customer's policies to the group's breaker. Refused signatures and sessions do not count.
    async fn tell<E>(&self, action: Action, error: &SdkError<E, HttpResponse>)
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        if matches!(error.code(), Some("AccessDeniedException" | "AccessDenied")) {
            self.group.denied(action, &describe(error));
        }
    }

    /// Sends the body unchanged, in an attempt without the SDK's orchestrator.
    async fn put_directly(
        &self,
        body: &SealedBody,
        lease: &Lease,
    ) -> Result<Result<PutAnswer, SinkError>, LeftToSdk> {
        let attempt = self.direct.begin(&self.region, &self.account)?;
        let credentials = match self.role.credentials().await {
            Ok(credentials) => credentials,
            Err(refused) => return Ok(Err(SinkError::Session(refused))),
        };
        if let Err(ended) = lease.check() {
            return Ok(Err(SinkError::LeaseEnded(ended)));
        }
        let (protocol, target) = ("application/x-amz-json-1.1", "Logs_20140328.PutLogEvents");
        let mut request = DirectRequest::json(protocol, target, &body.sha256, body.body.clone());
        if self.compression == RequestCompression::Gzip {
            request.headers.push(("content-encoding", "gzip".to_owned()));
        }
        attempt.send(request, &credentials, final_answer).await
    }

    /// Sends the body unchanged.
    async fn put_once(
        &self,
        body: SealedBody,
        lease: &Lease,
        left: LeftToSdk,
    ) -> Result<PutLogEventsOutput, PutError> {
        let put = self.client.put_log_events();
        // The SDK's builder requires these. The body replaces them; a span shows the group.
        let put = put.log_group_name(self.group.log_group_name()).log_stream_name("-");
        self.own(put.set_log_events(Some(Vec::new())).customize())
            .interceptor(left)
            .interceptor(body)
            .interceptor(Fence(lease.clone()))
            .send()
            .await
    }
}

/// A request's body, which replaces the SDK's before each attempt is signed. The SDK's serialiser escapes messages byte by
/// byte and grows its strings, which costs several times as much as everything else that happens to a batch. The SDK's
/// SHA-256 is much slower than [`digest::sha256`] on processors without SHA instructions.
#[derive(Clone, Debug)]
struct SealedBody {
    body: Bytes,
    compression: RequestCompression,
    sha256: String,
}

impl SealedBody {
    fn new(body: Bytes, compression: RequestCompression) -> Self {
        let body = match compression {
            RequestCompression::None => body,
            RequestCompression::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
                encoder.write_all(&body).expect("a vector takes every byte");
                encoder.finish().expect("a vector takes every byte").into()
            }
        };
        let sha256 = digest::sha256(&body);
        Self { body, compression, sha256 }
    }
}

#[dyn_dispatch_hint]
impl Intercept for SealedBody {
    fn name(&self) -> &'static str {
        "SealedBody"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        *request.body_mut() = SdkBody::from(self.body.clone());
        request.headers_mut().insert("content-length", self.body.len().to_string());
        if self.compression == RequestCompression::Gzip {
            request.headers_mut().insert("content-encoding", "gzip");
        }
        config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.sha256.clone()));
        Ok(())
    }
}

/// Stops attempts after the end of the lease. The SDK retries an attempt that timed out. After a pause of the process, the
/// SDK retries at once, although another worker may have the object by then. The SDK does not retry an error of an
/// interceptor.
///
/// The hook is the last one before `read_before_transmit`, which counts attempts. All interceptors of a hook run even if one
/// fails, so an error in the same hook would not stop the count.
#[derive(Clone, Debug)]
struct Fence(Lease);

#[dyn_dispatch_hint]
impl Intercept for Fence {
    fn name(&self) -> &'static str {
        "Fence"
    }

    fn modify_before_transmit(
        &self,
        _context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        Ok(self.0.check()?)
    }
}

/// Codes of refusals that no retry and no new session changes.
const FINAL: [&str; 5] = [
    "AccessDeniedException",
    "DataAlreadyAcceptedException",
    "InvalidParameterException",
    "InvalidSequenceTokenException",
    "ResourceNotFoundException",
];

/// Reads an answer to PutLogEvents: the batch is accepted, or the refusal is one of [`FINAL`].
async fn final_answer(response: HttpResponse) -> Result<Final<Result<PutAnswer, SinkError>>, Unusual> {
    let (status, Refusal { code, message, expected_sequence_token: expected }) =
        match Answer::read(response).await? {
            Answer::Success(status, body) => {
                // The batch is accepted, whatever the body is.
                let accepted = match body.is_empty() {
                    true => Ok(JsonObject::default()),
                    false => serde_json::from_slice::<JsonObject<Accepted>>(&body),
                };
                return Ok(Final::Success(accepted.map(|accepted| accepted.0.into()).map_err(|error| {
                    let problem = json::problem(&error);
                    SinkError::Unavailable(format!(
                        "HTTP status {status}, but the answer cannot be read: {problem}"
                    ))
                })));
            }
            Answer::Refusal(status, refusal) => (status, refusal),
        };
    let problem = format!("{code}: {message}");
    let judged = |problem| classify(Some(&code), Some(status.as_u16()), problem);
    if !FINAL.contains(&code.as_str()) {
        let kind = match judged(String::new()) {
            SinkError::Throttled(_) => UnusualKind::Throttled,
            SinkError::Unavailable(_) => UnusualKind::Failed,
            _ => UnusualKind::Refused,
        };
        return Err(Unusual { problem: format!("HTTP status {status}: {problem}"), kind });
    }
    Ok(Final::Refusal(Err(match code.as_str() {
        "DataAlreadyAcceptedException" => SinkError::DataAlreadyAccepted { expected },
        "InvalidSequenceTokenException" => SinkError::InvalidSequenceToken { expected },
        _ => judged(problem),
    })))
}

/// The answer to an accepted request.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    next_sequence_token: Option<String>,
    rejected_log_events_info: Option<JsonObject<Rejected>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rejected {
    too_new_log_event_start_index: Option<i32>,
    too_old_log_event_end_index: Option<i32>,
    expired_log_event_end_index: Option<i32>,
}

impl From<Accepted> for PutAnswer {
    fn from(Accepted { next_sequence_token, rejected_log_events_info }: Accepted) -> Self {
        let info = rejected_log_events_info.map(|JsonObject(info)| {
            RejectedLogEventsInfo::builder()
                .set_too_new_log_event_start_index(info.too_new_log_event_start_index)
                .set_too_old_log_event_end_index(info.too_old_log_event_end_index)
                .set_expired_log_event_end_index(info.expired_log_event_end_index)
                .build()
        });
        Self { rejected: info.as_ref().map(rejected).unwrap_or_default(), next_sequence_token }
    }
}

fn answer(output: PutLogEventsOutput) -> PutAnswer {
    PutAnswer {
        rejected: output.rejected_log_events_info.as_ref().map(rejected).unwrap_or_default(),
        next_sequence_token: output.next_sequence_token,
    }
}

fn rejected(info: &RejectedLogEventsInfo) -> RejectedEvents {
    let index = |value: Option<i32>| value.and_then(|value| usize::try_from(value).ok());
    RejectedEvents {
        too_new_start: index(info.too_new_log_event_start_index),
        too_old_end: index(info.too_old_log_event_end_index),
        expired_end: index(info.expired_log_event_end_index),
    }
}

fn put_refused(error: PutError) -> SinkError {
    match error.as_service_error() {
        Some(PutLogEventsError::InvalidSequenceTokenException(detail)) => {
            SinkError::InvalidSequenceToken { expected: detail.expected_sequence_token.clone() }
        }
        Some(PutLogEventsError::DataAlreadyAcceptedException(detail)) => {
            SinkError::DataAlreadyAccepted { expected: detail.expected_sequence_token.clone() }
        }
        _ => refused(error),
    }
}

/// Treats "already exists" as success.
fn created<E>(outcome: Result<(), SdkError<E, HttpResponse>>) -> Result<(), SinkError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match outcome {
        // `OperationAbortedException`: another call is creating the same thing. The next put shows whether that call
        // succeeded.
        Err(error)
            if matches!(
                error.code(),
                Some("ResourceAlreadyExistsException" | "OperationAbortedException")
            ) =>
        {
            Ok(())
        }
        other => other.map_err(refused),
    }
}

fn refused<E>(error: SdkError<E, HttpResponse>) -> SinkError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().map(str::to_owned);
    if let Some(session) = find_cause::<AssumeError>(&error) {
        return SinkError::Session(session.clone());
    }
    if let Some(ended) = find_cause::<LeaseEnded>(&error) {
        return SinkError::LeaseEnded(*ended);
    }
    if let Some(ours) = IdentityError::of(&error) {
        return SinkError::Ours(ours);
    }
    classify(code.as_deref(), status, describe(&error))
}

fn classify(code: Option<&str>, status: Option<u16>, problem: String) -> SinkError {
    match (code, status) {
        (Some("ResourceNotFoundException"), _) => SinkError::NotFound(problem),
        (
            Some("ThrottlingException" | "Throttling" | "LimitExceededException" | "RequestLimitExceeded"),
            _,
        )
        | (_, Some(429)) => SinkError::Throttled(problem),
        (Some("AccessDeniedException" | "AccessDenied"), _) | (_, Some(401 | 403)) => {
            SinkError::Denied(problem)
        }
        (code, _) if refuses_session(code) => SinkError::Denied(problem),
        // Such a status may come from a proxy, and says nothing about the request.
        (_, Some(408 | 409 | 425)) => SinkError::Unavailable(problem),
        (_, Some(400..500)) => SinkError::Refused(problem),
        _ => SinkError::Unavailable(problem),
    }
}

#[cfg(test)]
mod tests;
