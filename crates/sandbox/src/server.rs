//! The HTTP front: one listener for all services. It verifies signatures, injects faults, routes requests, and writes errors.

mod connection;
mod control;
mod payload;
mod protocol;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering},
};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::connection::{CuttableListener, Switch};
use self::protocol::{Protocol, Service};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;
use crate::encoding::uuid;
use crate::faults::{Effect, Faults};
use crate::iam::Needed;
use crate::logs::{Put, Totals};
use crate::sigv4::{Authorization, SignatureError, Signed};
use crate::sqs::{QueueCounts, QueueLimits, UnknownQueue};
use crate::sts::Key;

/// Largest body of an S3 request. The largest object of a load run, 1 GB of records, has about 170 MB of gzip.
const MAX_OBJECT: usize = 512 << 20;
/// Largest body of any other request, before and after decoding.
const MAX_BODY: usize = 8 << 20;

/// A running sandbox. Dropping it stops the server and resets its connections.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    front: Arc<Front>,
    closing: watch::Sender<bool>,
}

/// State that a request handler needs.
#[derive(Debug)]
struct Front {
    cloud: Arc<Cloud>,
    calls: Mutex<BTreeMap<String, u64>>,
    gzip_bodies: AtomicU64,
    /// How far the sandbox's clock is ahead, in seconds.
    clock_ahead: AtomicI64,
    closing: watch::Receiver<bool>,
}

impl Sandbox {
    /// Starts an empty sandbox on a free port of the loopback address.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start() -> io::Result<Self> {
        Self::bind((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// Starts an empty sandbox on this address.
    ///
    /// # Errors
    /// The sandbox cannot listen on the address.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (closing, closed) = watch::channel(false);
        let front = Arc::new(Front {
            cloud: Arc::default(),
            calls: Mutex::default(),
            gzip_bodies: AtomicU64::default(),
            clock_ahead: AtomicI64::default(),
            closing: closed.clone(),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&front));
        let service = router.into_make_service_with_connect_info::<Switch>();
        let server =
            axum::serve(CuttableListener(listener), service).with_graceful_shutdown(until_true(closed));
        tokio::spawn(async { server.await });
        Ok(Self { address, front, closing })
    }

    /// Endpoint of the sandbox, `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The active faults.
    pub fn faults(&self) -> &Faults {
        &self.front.cloud.faults
    }

    /// Sets the clock of the answers' `Date` headers and of the check of signatures ahead by so many seconds. A negative number
    /// sets it behind.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.front.clock_ahead.store(seconds, Ordering::Relaxed);
    }

    /// Number of calls of an operation so far, for example `("logs", "PutLogEvents")`, including failed ones.
    pub fn calls(&self, service: &str, operation: &str) -> u64 {
        let calls = self.front.calls.lock().expect("no code panics while it holds the counts");
        calls.get(&format!("{service}:{operation}")).copied().unwrap_or_default()
    }

    /// Records the permissions that calls need from now on. Off at first, because every object of S3 is one more resource.
    pub fn record_permissions(&self) {
        self.front.cloud.iam.record();
    }

    /// The recorded permissions, each once.
    pub fn permissions(&self) -> BTreeSet<Needed> {
        self.front.cloud.iam.recorded()
    }

    /// Keys of the bucket's multipart uploads that are neither completed nor aborted.
    pub fn open_uploads(&self, bucket: &str) -> Vec<String> {
        self.front.cloud.s3.open_uploads(bucket)
    }

    /// Number of requests with a gzip body.
    pub fn gzip_bodies(&self) -> u64 {
        self.front.gzip_bodies.load(Ordering::Relaxed)
    }

    /// Number of AssumeRole calls that named this role, whether it exists or not.
    pub fn times_asked(&self, role_arn: &str) -> u64 {
        self.front.cloud.sts.times_asked(role_arn)
    }

    /// Access key ids, secret keys and tokens of all sessions so far, so that a test can look for them where they must not be.
    pub fn session_secrets(&self) -> Vec<String> {
        self.front.cloud.sts.secrets()
    }

    /// Ends all sessions of the account's roles. Their next call is refused with `ExpiredToken`.
    pub fn expire_sessions(&self, account: &str) {
        self.front.cloud.sts.expire_sessions(account);
    }

    /// Sets limits of the queue with this ARN. In AWS a customer cannot choose these limits.
    ///
    /// # Errors
    /// There is no such queue.
    pub fn limit_queue(&self, queue_arn: &str, limits: QueueLimits) -> Result<(), UnknownQueue> {
        self.front.cloud.sqs.limit(queue_arn, limits)
    }

    /// Counts of the messages in the queue with this ARN.
    ///
    /// # Errors
    /// There is no such queue.
    pub fn queue_counts(&self, queue_arn: &str) -> Result<QueueCounts, UnknownQueue> {
        self.front.cloud.sqs.counts(queue_arn)
    }

    /// Makes PutLogEvents count and hash events from now on instead of storing them. Load runs use this: they read no events
    /// back.
    pub fn set_count_only(&self) {
        self.front.cloud.logs.set_count_only();
    }

    /// All batches that PutLogEvents accepted, of all accounts; empty while events are only counted. The batches of one
    /// group are in the order of their acceptance.
    pub fn puts(&self) -> Vec<Put> {
        self.front.cloud.logs.puts()
    }

    /// Totals of what PutLogEvents has accepted in the account so far.
    pub fn totals(&self, account: &str) -> Totals {
        self.front.cloud.logs.totals(account)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

async fn until_true(mut flag: watch::Receiver<bool>) {
    // An error means that the sender was dropped, which ends the wait too.
    let _ = flag.wait_for(|set| *set).await;
}

async fn answer(
    State(front): State<Arc<Front>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    request: Request,
) -> Response {
    tokio::select! {
        response = front.respond(&switch, request) => response,
        () = until_true(front.closing.clone()) => {
            switch.cut();
            Response::default()
        }
    }
}

impl Front {
    async fn respond(&self, switch: &Switch, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if let Some(control) = parts.uri.path().strip_prefix("/_sandbox/") {
            return self.control(&parts.method, control, body).await;
        }
        let request_id = uuid();
        let authorization = Authorization::read(&parts.headers);
        let service = authorization.as_ref().and_then(|header| Service::of_scope(&header.service));
        let protocol = service.map_or_else(|| guess_protocol(&parts), Service::protocol);
        let method = parts.method.clone();
        let answer = match (authorization, service) {
            (Some(authorization), Some(service)) => {
                self.call(switch, service, &authorization, parts, body).await
            }
            (Some(authorization), None) => Err(AwsError::not_implemented(&authorization.service, "*")),
            (None, _) => Err(protocol::refusal(protocol, SignatureError::Missing)),
        };
        let mut response = match answer {
            Ok(reply) => {
                let mut response = Response::new(reply.body);
                *response.status_mut() = reply.status;
                *response.headers_mut() = reply.headers;
                response
            }
            Err(error) => protocol::write_error(protocol, &error, &request_id, &method),
        };
        let names: &[_] = match protocol {
            Protocol::Rest => &["x-amz-request-id", "x-amz-id-2"],
            _ => &["x-amzn-requestid"],
        };
        let id = HeaderValue::from_str(&request_id).expect("an id is plain text");
        for name in names {
            response.headers_mut().insert(*name, id.clone());
        }
        let date = self.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        response
            .headers_mut()
            .insert(header::DATE, HeaderValue::from_str(&date).expect("a date is plain text"));
        response
    }

    async fn call(
        &self,
        switch: &Switch,
        service: Service,
        authorization: &Authorization,
        parts: http::request::Parts,
        body: Body,
    ) -> Answer {
        let limit = if service == Service::S3 { MAX_OBJECT } else { MAX_BODY };
        let body = axum::body::to_bytes(body, limit).await.map_err(|_| payload::too_large())?;
        let operation = service.operation(&parts, &body);
        self.count(service, &operation);
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding == "gzip") {
            self.gzip_bodies.fetch_add(1, Ordering::Relaxed);
        }
        let key = self
            .admit(authorization, &parts, &body)
            .map_err(|refusal| protocol::refusal(service.protocol(), refusal))?;
        let call = into_call(service, authorization, key, operation, parts, body)?;
        match self.cloud.faults.strike(service.name(), &call) {
            Some(effect) => self.serve_faulty(switch, service, &call, effect).await,
            None => self.serve(service, &call).await,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::now() + jiff::SignedDuration::from_secs(self.clock_ahead.load(Ordering::Relaxed))
    }

    fn count(&self, service: Service, operation: &str) {
        let mut calls = self.calls.lock().expect("no code panics while it holds the counts");
        *calls.entry(format!("{}:{operation}", service.name())).or_default() += 1;
    }

    /// Finds the key that the request names, and checks the request's signature.
    fn admit(
        &self,
        authorization: &Authorization,
        request: &http::request::Parts,
        body: &[u8],
    ) -> Result<Key, SignatureError> {
        let key = self.cloud.sts.key(&authorization.access_key_id).ok_or(SignatureError::UnknownKey)?;
        let token = request.headers.get("x-amz-security-token").and_then(|value| value.to_str().ok());
        if token != key.token.as_deref() {
            return Err(SignatureError::UnknownKey);
        }
        let signed = Signed {
            method: &request.method,
            path: request.uri.path(),
            query: request.uri.query().unwrap_or_default(),
            headers: &request.headers,
            body,
        };
        let now = self.now();
        authorization.verify(signed, &key.secret, now)?;
        match key.expires_at.is_some_and(|end| end <= now) {
            true => Err(SignatureError::Expired),
            false => Ok(key),
        }
    }

    async fn serve(&self, service: Service, call: &Call) -> Answer {
        let cloud = &self.cloud;
        match service {
            Service::DynamoDb => cloud.dynamodb.handle(cloud, call).await,
            Service::Iam => cloud.iam.handle(cloud, call).await,
            Service::Logs => cloud.logs.handle(cloud, call).await,
            Service::S3 => cloud.s3.handle(cloud, call).await,
            Service::Sns => cloud.sns.handle(cloud, call).await,
            Service::Sqs => cloud.sqs.handle(cloud, call).await,
            Service::Sts => cloud.sts.handle(cloud, call).await,
        }
    }

    async fn serve_faulty(&self, switch: &Switch, service: Service, call: &Call, effect: Effect) -> Answer {
        match effect {
            Effect::Error(error) => Err(error.into()),
            Effect::Reset => {
                switch.cut();
                Ok(Reply::empty())
            }
            Effect::Latency { milliseconds } => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                self.serve(service, call).await
            }
            Effect::SlowBody { bytes_per_second } => {
                Ok(payload::slowed(self.serve(service, call).await?, bytes_per_second).await)
            }
            Effect::HalfBody => Ok(payload::halved(self.serve(service, call).await?).await),
            Effect::WrongChecksum => Ok(payload::flipped(self.serve(service, call).await?).await),
            Effect::After { error } => {
                let answer = self.serve(service, call).await;
                match error {
                    Some(error) => Err(error.into()),
                    None => {
                        switch.cut();
                        answer
                    }
                }
            }
        }
    }
}

fn into_call(
    service: Service,
    authorization: &Authorization,
    key: Key,
    operation: String,
    mut parts: http::request::Parts,
    body: Bytes,
) -> Result<Call, AwsError> {
    let body = match service {
        // An object keeps its content encoding; only the chunked framing is removed.
        Service::S3 => payload::undo_aws_chunked(&mut parts.headers, body)?,
        _ => payload::undo_gzip(&mut parts.headers, body, MAX_BODY)?,
    };
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
    Ok(Call {
        account: key.account,
        principal: key.principal,
        region: authorization.region.clone(),
        operation,
        endpoint: format!("http://{host}"),
        query: protocol::query_of(&parts),
        path: parts.uri.path().to_owned(),
        method: parts.method,
        headers: parts.headers,
        body,
    })
}

/// Protocol for refusing a request whose signature does not name the service.
fn guess_protocol(request: &http::request::Parts) -> Protocol {
    let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let in_query = request.uri.query().is_some_and(|query| query.contains("Action="));
    if request.headers.contains_key("x-amz-target") {
        Service::Logs.protocol()
    } else if in_query
        || content_type.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
    {
        Service::Sts.protocol()
    } else {
        Protocol::Rest
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;

    use super::*;
    use crate::{faults::Fault, requests::sandbox};
    use logferry_testbed::provision::QueryError;

    pub(super) async fn request(sandbox: &Sandbox, method: &str, path: &str, body: &str) -> (u16, String) {
        send(http::Request::builder().method(method).uri(format!("{}{path}", sandbox.endpoint())), body).await
    }

    async fn send(builder: http::request::Builder, body: &str) -> (u16, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = builder.body(Full::<Bytes>::from(body.to_owned())).expect("a legal request");
        let response = client.request(request).await.expect("the sandbox answers");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("the answer is whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn unknown_keys_are_refused_in_each_protocol() {
        let (sandbox, aws) = sandbox().await;
        let unsigned = |name: &'static str, value: &'static str| {
            send(http::Request::post(sandbox.endpoint()).header(name, value), "Action=GetCallerIdentity")
        };
        let (status, body) = unsigned("content-type", "application/x-www-form-urlencoded").await;
        assert!(status == 403 && body.contains("<Code>MissingAuthenticationToken</Code>"), "{body}");
        let (status, body) = unsigned("x-amz-target", "Logs_20140328.PutLogEvents").await;
        assert!(status == 403 && body.contains(r#""__type":"MissingAuthenticationToken""#), "{body}");
        let (status, body) = request(&sandbox, "GET", "/bucket/key", "").await;
        assert!(status == 403 && body.contains("<Error><Code>AccessDenied</Code>"), "{body}");

        let stranger = aws.account("nobody");
        match stranger.sts_query(&[("Action", "GetCallerIdentity")]).await {
            Err(QueryError::Refused { code, .. }) => assert_eq!(code, "InvalidClientTokenId"),
            other => panic!("not refused: {other:?}"),
        }
        use aws_sdk_s3::error::ProvideErrorMetadata;
        let error = stranger.logs().describe_log_groups().send().await.expect_err("the key is unknown");
        assert_eq!(error.code(), Some("UnrecognizedClientException"));
        let error = stranger.s3().list_objects_v2().bucket("b").send().await.expect_err("the key is unknown");
        assert_eq!(error.code(), Some("InvalidAccessKeyId"));

        let forged = Credentials::new("111111111111", "wrong", None, None, "test");
        let config = aws_sdk_cloudwatchlogs::config::Builder::from(&aws.account("x").sdk_config())
            .credentials_provider(forged)
            .build();
        let logs = aws_sdk_cloudwatchlogs::Client::from_conf(config);
        let error = logs.describe_log_groups().send().await.expect_err("the secret is wrong");
        assert_eq!(error.code(), Some("InvalidSignatureException"));
    }

    #[tokio::test]
    async fn unimplemented_calls_are_named() {
        let (_sandbox, aws) = sandbox().await;
        let account = aws.account("111111111111");
        use aws_sdk_s3::error::ProvideErrorMetadata;
        let error =
            account.logs().describe_destinations().send().await.expect_err("the call is not implemented");
        assert_eq!(error.code(), Some("NotImplemented"));
        assert_eq!(error.message(), Some("the sandbox does not implement logs:DescribeDestinations"));
        let error = account.s3().get_object_tagging().bucket("b").key("k").send().await;
        let error = error.expect_err("the call is not implemented");
        assert_eq!(error.message(), Some("the sandbox does not implement s3:GET object tagging"));
    }

    #[tokio::test]
    async fn dropping_the_sandbox_ends_calls_in_progress() {
        let (sandbox, aws) = sandbox().await;
        let account = aws.account("111111111111");
        let forever = Effect::Latency { milliseconds: 3_600_000 };
        sandbox.faults().add(Fault::new("sts", "*", forever));
        let caller = [("Action", "GetCallerIdentity")];
        let call = tokio::spawn({
            let account = account.clone();
            async move { account.sts_query(&caller).await }
        });
        while sandbox.calls("sts", "GetCallerIdentity") == 0 {
            tokio::task::yield_now().await;
        }
        drop(sandbox);
        let under_way = call.await.expect("the task does not panic");
        assert!(matches!(under_way, Err(QueryError::Unanswered(_))), "{under_way:?}");
        let later = account.sts_query(&caller).await;
        assert!(matches!(later, Err(QueryError::Unanswered(_))), "{later:?}");
    }
}
