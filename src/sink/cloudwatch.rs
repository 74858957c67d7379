//! Customers' CloudWatch Logs through the AWS SDK, each in the customer's own role.

use std::{
    fmt,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_cloudwatchlogs::{
    Client,
    config::{
        ConfigBag, Intercept, Region, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeTransmitInterceptorContextMut, retry::RetryPartition,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    operation::put_log_events::{PutLogEventsError, PutLogEventsOutput},
    types::RejectedLogEventsInfo,
};
use aws_smithy_runtime::client::identity::IdentityCache;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use moka::{Expiry, future::Cache};
use tokio::sync::OnceCell;

use super::{LogSink, LogSinks, PutAnswer, SinkError};
use crate::{
    aws::{describe, find_cause},
    batch::RejectedEvents,
    config::RequestCompression,
    credentials::{
        AssumeError, RoleArn,
        assumed::{AssumeRequest, AssumedRole, session_name},
        breaker::ProbeIntervals,
        role_breaker::RoleBreaker,
    },
    metrics::Metrics,
    tenant::{CloudWatch, Delivery},
};

/// What every customer's session has in common.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// Life of a session.
    pub session_duration: Duration,
    /// How long before its end it is renewed.
    pub refresh_before: Duration,
    /// Most sessions remembered.
    pub cache_capacity: u64,
    /// How bodies travel.
    pub request_compression: RequestCompression,
    /// How long a refused role is left alone.
    pub probe_intervals: ProbeIntervals,
}

/// Opens customers' CloudWatch Logs and remembers the open ones.
#[derive(Clone, Debug)]
pub struct CloudWatchSinks {
    base: SdkConfig,
    settings: SinkSettings,
    /// Signs with the central role: hop 1 is its credentials provider.
    sts: aws_sdk_sts::Client,
    central: AssumedRole,
    /// Signs with our own credentials; asked once for our account id.
    own_sts: aws_sdk_sts::Client,
    own_account: Arc<OnceCell<String>>,
    open: Cache<SinkKey, CloudWatchSink>,
    /// Apart from the open ones: a role that is refused needs no client.
    breakers: Cache<RoleKey, Arc<RoleBreaker>>,
    metrics: Metrics,
}

/// Everything that decides whether a role lets us in, and nothing that differs between the sessions in it: its clusters,
/// groups and Regions are refused together, and one probe does for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleKey {
    tenant_id: String,
    role: RoleArn,
    external_id: String,
    session_tags: bool,
    source_identity: bool,
}

/// How long a breaker that nobody looks up is remembered. An open one is looked up by every message that waits for it; if
/// none does, the tenant is gone or its row names another role, and it must not be shown as refused.
#[derive(Clone, Copy, Debug)]
struct BreakerLife {
    open: Duration,
    closed: Duration,
}

impl BreakerLife {
    fn of(self, breaker: &RoleBreaker) -> Duration {
        if breaker.open().is_some() { self.open } else { self.closed }
    }
}

impl Expiry<RoleKey, Arc<RoleBreaker>> for BreakerLife {
    fn expire_after_create(&self, _: &RoleKey, breaker: &Arc<RoleBreaker>, _: Instant) -> Option<Duration> {
        Some(self.of(breaker))
    }

    fn expire_after_read(
        &self,
        _: &RoleKey,
        breaker: &Arc<RoleBreaker>,
        _: Instant,
        _: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        Some(self.of(breaker))
    }
}

/// Everything that a session depends on: what differs in any of it must not share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SinkKey {
    role: RoleKey,
    region: String,
    log_group_name: String,
    /// The cluster, where it becomes a session tag.
    tagged_cluster: Option<String>,
}

/// One customer's CloudWatch Logs.
#[derive(Clone, Debug)]
pub struct CloudWatchSink {
    client: Client,
    role: AssumedRole,
    account: Arc<str>,
    compression: RequestCompression,
}

impl CloudWatchSinks {
    /// Enters accounts by way of `central`; `base` has the HTTP client, retries and endpoints that all share.
    pub fn new(base: SdkConfig, central: &AssumedRole, settings: SinkSettings, metrics: Metrics) -> Self {
        let sts = aws_sdk_sts::config::Builder::from(&base)
            .credentials_provider(SharedCredentialsProvider::new(central.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        Self {
            sts: aws_sdk_sts::Client::from_conf(sts),
            central: central.clone(),
            own_sts: aws_sdk_sts::Client::new(&base),
            own_account: Arc::default(),
            open: Cache::builder()
                .max_capacity(settings.cache_capacity)
                // Longer than a session lives: an idle customer's client is not worth its memory.
                .time_to_idle(settings.session_duration * 2)
                .build(),
            breakers: Cache::builder()
                .max_capacity(settings.cache_capacity)
                .expire_after(BreakerLife {
                    open: settings.probe_intervals.longest * 2,
                    // Longer than any session in the role is remembered, so that all of them share one.
                    closed: settings.session_duration * 3,
                })
                .eviction_listener(|_, breaker: Arc<RoleBreaker>, _| breaker.retire())
                .build(),
            base,
            settings,
            metrics,
        }
    }

    /// Our own account id, the external id of tenants whose row has none.
    async fn own_account(&self) -> Result<String, AssumeError> {
        let ask = || async {
            let identity = self.own_sts.get_caller_identity().send().await;
            let identity = identity.map_err(|error| describe(&error))?;
            identity.account.ok_or_else(|| "STS did not say which account we are".to_owned())
        };
        self.own_account.get_or_try_init(ask).await.cloned().map_err(|problem: String| {
            AssumeError::Unavailable { role: "of a tenant without external_id".to_owned(), problem }
        })
    }

    async fn breaker(&self, key: &RoleKey) -> Arc<RoleBreaker> {
        let closed = async {
            let (role, intervals) = (key.role.clone(), self.settings.probe_intervals);
            Arc::new(RoleBreaker::new(&key.tenant_id, role, intervals, self.metrics.clone()))
        };
        self.breakers.get_with_by_ref(key, closed).await
    }

    fn build(&self, key: &SinkKey, breaker: Arc<RoleBreaker>) -> CloudWatchSink {
        let SinkKey { role: RoleKey { tenant_id, role, external_id, source_identity, .. }, .. } = key;
        let mut tags = Vec::new();
        if let Some(cluster) = &key.tagged_cluster {
            tags.push(("tenant_id", tenant_id.clone()));
            if !cluster.is_empty() {
                tags.push(("cluster_id", cluster.clone()));
            }
        }
        let session_name = session_name(tenant_id);
        let assumed = AssumedRole::of_customer(
            self.sts.clone(),
            self.central.clone(),
            AssumeRequest {
                role: role.clone(),
                external_id: Some(external_id.clone()),
                policy: Some(session_policy(role, &key.region, &key.log_group_name)),
                tags,
                source_identity: source_identity.then(|| session_name.clone()),
                session_name,
                duration: self.settings.session_duration,
                refresh_before: self.settings.refresh_before,
            },
            breaker,
        );
        // A bucket of retry tokens per account and Region: one throttled customer must not spend everyone's.
        let partition = format!("{}/{}", role.account(), key.region);
        let config = aws_sdk_cloudwatchlogs::config::Builder::from(&self.base)
            .region(Region::new(key.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(assumed.clone()))
            // The role keeps its session itself; a second cache would hide its renewal.
            .identity_cache(IdentityCache::no_cache())
            .retry_partition(RetryPartition::new(partition))
            .build();
        CloudWatchSink {
            client: Client::from_conf(config),
            account: role.account().into(),
            role: assumed,
            compression: self.settings.request_compression,
        }
    }
}

impl LogSinks for CloudWatchSinks {
    type Sink = CloudWatchSink;

    async fn open(
        &self,
        delivery: &Delivery,
        destination: &CloudWatch,
        cluster: &str,
    ) -> Result<CloudWatchSink, AssumeError> {
        let external_id = match &destination.external_id {
            Some(id) => id.clone(),
            None => self.own_account().await?,
        };
        let key = SinkKey {
            role: RoleKey {
                tenant_id: delivery.tenant_id.clone(),
                role: destination.role.clone(),
                external_id,
                session_tags: destination.session_tags,
                source_identity: destination.source_identity,
            },
            region: delivery.target_region.clone(),
            log_group_name: destination.log_group_name.clone(),
            tagged_cluster: destination.session_tags.then(|| cluster.to_owned()),
        };
        let breaker = self.breaker(&key.role).await;
        let sink = match self.open.get(&key).await {
            Some(sink) => sink,
            None => {
                breaker.check()?;
                self.open.get_with_by_ref(&key, async { self.build(&key, Arc::clone(&breaker)) }).await
            }
        };
        // Asked for here, so that a refusal is the role's error and not some call's.
        let entered = sink.role.credentials().await;
        if entered.is_err() && breaker.open().is_some() {
            self.open.invalidate(&key).await;
            // Looked up again, so that it is remembered as an open one.
            self.breaker(&key.role).await;
        }
        entered.map(|_| sink)
    }
}

/// Narrows a session to one log group, whatever else the customer's role allows.
fn session_policy(role: &RoleArn, region: &str, log_group_name: &str) -> String {
    let group =
        format!("arn:{}:logs:{region}:{}:log-group:{log_group_name}", role.partition(), role.account());
    serde_json::json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Action": ["logs:PutLogEvents", "logs:CreateLogStream", "logs:CreateLogGroup", "logs:PutRetentionPolicy"],
            "Resource": [&group, format!("{group}:*")],
        }],
    })
    .to_string()
}

impl LogSink for CloudWatchSink {
    async fn put_log_events(&self, body: Bytes) -> Result<PutAnswer, SinkError> {
        let body = SealedBody::new(body, self.compression);
        match self.put_once(body.clone()).await {
            // The customer's clock, or an administrator, ended the session before its time: a new one, once.
            Err(error) if is_expired(&error) => {
                self.role.forget();
                self.put_once(body).await.map_err(put_refused)
            }
            other => other.map_err(put_refused),
        }
        .map(answer)
    }

    async fn create_log_stream(&self, group: &str, stream: &str) -> Result<(), SinkError> {
        let call = self.client.create_log_stream().log_group_name(group).log_stream_name(stream);
        created(call.send().await.map(drop))
    }

    async fn create_log_group(&self, group: &str, retention_days: Option<i32>) -> Result<(), SinkError> {
        let outcome = self.client.create_log_group().log_group_name(group).send().await;
        let ours = outcome.is_ok();
        created(outcome.map(drop))?;
        if let Some(days) = retention_days.filter(|_| ours) {
            let call = self.client.put_retention_policy().log_group_name(group).retention_in_days(days);
            if let Err(error) = call.send().await {
                // The logs matter more than how long they are kept, and only the customer can mend it.
                tracing::warn!(
                    log.group = group,
                    retention.days = days,
                    aws.account = %self.account,
                    error = describe(&error),
                    "a group was created, but its retention could not be set; it keeps events for ever"
                );
            }
        }
        Ok(())
    }
}

type PutError = SdkError<PutLogEventsError, HttpResponse>;

impl CloudWatchSink {
    /// Sends the body as it is.
    async fn put_once(&self, body: SealedBody) -> Result<PutLogEventsOutput, PutError> {
        self.client
            .put_log_events()
            // Required by the SDK's builder; the real ones are in the body.
            .log_group_name("-")
            .log_stream_name("-")
            .set_log_events(Some(Vec::new()))
            .customize()
            .interceptor(body)
            .send()
            .await
    }
}

/// A request's body, to take the place of the SDK's before each attempt is signed. The SDK's own writer escapes every
/// message byte by byte and grows its strings as it goes, several times the cost of everything else we do with a batch;
/// and its SHA-256 is half as fast as `ring`'s where the processor has no instructions for it.
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
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let mut sha256 = String::with_capacity(2 * digest.as_ref().len());
        for byte in digest.as_ref() {
            fmt::Write::write_fmt(&mut sha256, format_args!("{byte:02x}"))
                .expect("a string takes every byte");
        }
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

/// That something exists already is what we wanted.
fn created<E>(outcome: Result<(), SdkError<E, HttpResponse>>) -> Result<(), SinkError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match outcome {
        // Aborted: somebody else is creating it at this moment; the next put tells.
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

fn is_expired<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error.code(), Some("ExpiredTokenException" | "ExpiredToken"))
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
        (
            Some(
                "AccessDeniedException"
                | "AccessDenied"
                | "UnrecognizedClientException"
                | "InvalidClientTokenId"
                | "ExpiredTokenException"
                | "ExpiredToken"
                | "InvalidSignatureException",
            ),
            _,
        )
        | (_, Some(401 | 403)) => SinkError::Denied(problem),
        (_, Some(400..500)) => SinkError::Refused(problem),
        _ => SinkError::Unavailable(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_narrowed_to_its_group() {
        let role: RoleArn = "arn:aws-cn:iam::222222222222:role/x".parse().expect("a role");
        let policy = session_policy(&role, "cn-north-1", &"g".repeat(512));
        assert!(policy.len() <= 2048, "STS takes no more");
        let policy: serde_json::Value = serde_json::from_str(&policy).expect("JSON");
        let group = format!("arn:aws-cn:logs:cn-north-1:222222222222:log-group:{}", "g".repeat(512));
        assert_eq!(policy["Statement"][0]["Resource"], serde_json::json!([group, format!("{group}:*")]));
    }

    #[test]
    fn a_body_is_hashed_as_it_travels() {
        let text = Bytes::from_static(br#"{"logEvents":[]}"#);
        let plain = SealedBody::new(text.clone(), RequestCompression::None);
        assert_eq!(plain.body, text);
        // By coreutils' sha256sum.
        assert_eq!(plain.sha256, "c1469a7abc3f1f38eed12d612a6e6d681ed6b19287f8c5a2b4dec20edd2e06a5");
        let gzip = SealedBody::new(text.clone(), RequestCompression::Gzip);
        let mut back = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip.body[..]), &mut back)
            .expect("gzip");
        assert_eq!(back, text);
        assert_eq!(gzip.sha256, SealedBody::new(gzip.body.clone(), RequestCompression::None).sha256);
    }

    #[test]
    fn aws_errors_are_told_apart() {
        let check = |code, status, expected: fn(String) -> SinkError| {
            assert_eq!(classify(code, status, "p".into()), expected("p".into()), "{code:?} {status:?}");
        };
        check(Some("ResourceNotFoundException"), Some(400), SinkError::NotFound);
        check(Some("ThrottlingException"), Some(400), SinkError::Throttled);
        check(None, Some(429), SinkError::Throttled);
        check(Some("AccessDeniedException"), Some(400), SinkError::Denied);
        check(Some("UnrecognizedClientException"), Some(400), SinkError::Denied);
        check(Some("InvalidParameterException"), Some(400), SinkError::Refused);
        check(Some("ServiceUnavailableException"), Some(500), SinkError::Unavailable);
        check(None, None, SinkError::Unavailable);
    }

    #[test]
    fn rejected_indices_come_over_one_by_one() {
        let info = RejectedLogEventsInfo::builder().too_old_log_event_end_index(3).build();
        assert_eq!(rejected(&info), RejectedEvents { too_old_end: Some(3), ..RejectedEvents::default() });
        let info = RejectedLogEventsInfo::builder()
            .too_new_log_event_start_index(0)
            .expired_log_event_end_index(2)
            .build();
        let expected = RejectedEvents { too_new_start: Some(0), expired_end: Some(2), too_old_end: None };
        assert_eq!(rejected(&info), expected);
    }
}
