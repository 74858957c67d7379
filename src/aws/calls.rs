//! Times and counts the calls of all clients, and gives them their user agent. Every client that is built on a
//! [`Base`](super::Base) has this interceptor.
//!
//! The SDK makes the user agent anew for each call, which takes about 3 % of a small object's time. So the first call to a
//! service keeps the SDK's headers, and the later calls get the same.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use aws_config::Region;
use aws_runtime::user_agent::UserAgentInterceptor;
use aws_smithy_runtime::client::retries::classifiers::run_classifiers_on_ctx;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        interceptors::{
            DisableInterceptor, Intercept,
            context::{
                BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
                BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
            },
            disable_interceptor, dyn_dispatch_hint,
        },
        orchestrator::Metadata,
        retries::classifiers::{RetryAction, RetryReason},
        runtime_components::RuntimeComponents,
    },
};
use aws_smithy_types::{
    config_bag::{ConfigBag, Storable, StoreReplace},
    retry::ErrorKind,
};
use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tracing::Span;

use super::subject;
use crate::{
    metrics::add,
    trace::{self, semconv},
};

/// Upper bounds of the histogram, in seconds. Most calls take milliseconds; the longest are copies in S3, which take minutes.
const SECONDS: [f64; 9] = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// Headers that name the SDK and this program. The first one is not signed.
pub(super) const USER_AGENTS: [&str; 2] = ["user-agent", "x-amz-user-agent"];

/// Outcome of a call that its caller dropped before its end.
const DROPPED: &str = "dropped";

/// The interceptor, with its metrics. Clones count together.
#[derive(Clone, Debug)]
pub struct Calls {
    /// `logferry_aws_call_duration_seconds{service, operation, outcome}`: whole calls, with their retries. A call that was
    /// never sent, for example because there are no credentials, does not count.
    durations: Family<Ended, Histogram, fn() -> Histogram>,
    /// `logferry_aws_attempts_total{service, operation}`: requests that were sent.
    attempts: Family<Operation, Counter>,
    /// `logferry_aws_direct_failures_total{service, operation}`: direct attempts that were left to the SDK.
    direct_failures: Family<Operation, Counter>,
    agents: Arc<RwLock<Vec<Agent>>>,
}

/// Headers that name the SDK and this program to a service.
#[derive(Clone, Debug)]
struct Agent {
    service: String,
    headers: [(&'static str, String); 2],
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            durations: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            attempts: Family::default(),
            direct_failures: Family::default(),
            agents: Arc::default(),
        }
    }
}

impl Calls {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "aws_call_duration",
            "Duration of whole calls to AWS, with their retries",
            Unit::Seconds,
            self.durations.clone(),
        );
        add(registry, "aws_attempts", "Requests sent to AWS, retries included", &self.attempts);
        let help = "Direct first attempts of calls to AWS that failed, so that the SDK made the call";
        add(registry, "aws_direct_failures", help, &self.direct_failures);
    }

    /// Begins a call that is sent without the SDK.
    pub(super) fn direct(&self, operation: &Metadata) -> OngoingCall {
        let call = OngoingCall::new(self, operation.clone(), None);
        call.sent();
        call
    }

    /// Calls `give` with the headers for a service. Returns false if there are none yet.
    fn with_agent(&self, service: &str, give: impl FnOnce(&Agent)) -> bool {
        let agents = self.agents.read().unwrap_or_else(PoisonError::into_inner);
        let agent = agents.iter().find(|agent| agent.service == service);
        agent.map(give).is_some()
    }

    /// Keeps the headers of the first call to a service.
    fn keep_agent(&self, service: &str, context: &BeforeTransmitInterceptorContextRef<'_>) {
        let header = |name| Some((name, context.request().headers().get(name)?.to_owned()));
        if let (Some(one), Some(other)) = (header(USER_AGENTS[0]), header(USER_AGENTS[1])) {
            let agent = Agent { service: service.to_owned(), headers: [one, other] };
            let mut agents = self.agents.write().unwrap_or_else(PoisonError::into_inner);
            // Several first calls may be on their way.
            if agents.iter().all(|known| known.service != service) {
                agents.push(agent);
            }
        }
    }
}

/// Service and operation, by the names that AWS gives them. The SDK has them as static texts, so a clone allocates nothing.
#[derive(Clone, Debug)]
struct Operation(Metadata);

impl Operation {
    fn names(&self) -> (&str, &str) {
        (self.0.service(), self.0.name())
    }
}

impl PartialEq for Operation {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names()
    }
}

impl Eq for Operation {}

impl Hash for Operation {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

impl EncodeLabelSet for Operation {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (service, operation) = self.names();
        ("service", service).encode(encoder.encode_label())?;
        ("operation", operation).encode(encoder.encode_label())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    #[prometheus(flatten)]
    operation: Operation,
    outcome: &'static str,
}

/// A call in progress. Its span ends with it.
#[derive(Debug)]
pub(super) struct OngoingCall {
    calls: Calls,
    operation: Operation,
    began: Instant,
    was_sent: AtomicBool,
    has_ended: AtomicBool,
    /// `None`: the call belongs to no message, or the message's trace is not sampled.
    span: Option<Span>,
}

impl Storable for OngoingCall {
    type Storer = StoreReplace<Self>;
}

impl OngoingCall {
    fn new(calls: &Calls, operation: Metadata, span: Option<Span>) -> Self {
        Self {
            calls: calls.clone(),
            operation: Operation(operation),
            began: Instant::now(),
            was_sent: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            span,
        }
    }

    /// Counts an attempt.
    fn sent(&self) {
        self.was_sent.store(true, Ordering::Relaxed);
        self.calls.attempts.get_or_create(&self.operation).inc();
    }

    /// Ends the call as one that the SDK makes, and counts.
    pub(super) fn leave_to_sdk(&self) {
        self.calls.direct_failures.get_or_create(&self.operation).inc();
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Ends the call and counts it.
    pub(super) fn end(&self, outcome: &'static str) {
        self.has_ended.store(true, Ordering::Relaxed);
        let ended = Ended { operation: self.operation.clone(), outcome };
        self.calls.durations.get_or_create(&ended).observe(self.began.elapsed().as_secs_f64());
    }
}

/// Counts a call that its caller dropped, for example at a time limit: the SDK runs no hook for it.
impl Drop for OngoingCall {
    fn drop(&mut self) {
        if *self.was_sent.get_mut() && !*self.has_ended.get_mut() {
            if let Some(span) = &self.span {
                trace::fail(span, DROPPED, &DROPPED);
            }
            self.end(DROPPED);
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "Calls"
    }

    /// Begins the call. In earlier hooks, the SDK does not give a client's interceptor the operation.
    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(operation) = config.load::<Metadata>().cloned() else { return Ok(()) };
        let span = trace::call(operation.service(), operation.name());
        if let Some(span) = &span {
            subject::name(span, context.input());
            if let Some(region) = config.load::<Region>() {
                trace::set(span, semconv::CLOUD_REGION, region.as_ref());
            }
        }
        if self.with_agent(operation.service(), |_| ()) {
            let disabled = disable_interceptor::<UserAgentInterceptor>("the headers are known");
            config.interceptor_state().store_put(disabled);
        }
        config.interceptor_state().store_put(OngoingCall::new(self, operation, span));
        Ok(())
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<DisableInterceptor<UserAgentInterceptor>>().is_some()
            && let Some(call) = config.load::<OngoingCall>()
        {
            let headers = context.request_mut().headers_mut();
            self.with_agent(call.operation.0.service(), |agent| {
                for (name, value) in &agent.headers {
                    headers.insert(*name, value.clone());
                }
            });
        }
        Ok(())
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(call) = config.load::<OngoingCall>() {
            let service = call.operation.0.service();
            if !self.with_agent(service, |_| ()) {
                self.keep_agent(service, context);
            }
            call.sent();
        }
        Ok(())
    }

    fn read_after_execution(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(call) = config.load::<OngoingCall>().filter(|call| call.was_sent.load(Ordering::Relaxed))
        {
            let outcome = outcome(context, components);
            if let Some(span) = &call.span {
                describe(span, context, outcome);
            }
            call.end(outcome);
        }
        Ok(())
    }
}

/// Adds the answer to a call's span: AWS's id of the request, the status, and what failed.
fn describe(span: &Span, context: &FinalizerInterceptorContextRef<'_>, outcome: &'static str) {
    if let Some(response) = context.response() {
        let id =
            ["x-amzn-requestid", "x-amz-request-id"].iter().find_map(|name| response.headers().get(*name));
        if let Some(id) = id {
            trace::set(span, semconv::AWS_REQUEST_ID, id);
        }
        trace::count(span, semconv::HTTP_RESPONSE_STATUS_CODE, response.status().as_u16().into());
    }
    if outcome != "ok" {
        trace::fail(span, outcome, &outcome);
    }
}

/// The outcome of a call, by the SDK's own rules for retries: they know each service's codes.
fn outcome(context: &FinalizerInterceptorContextRef<'_>, components: &RuntimeComponents) -> &'static str {
    if let Some(Ok(_)) = context.output_or_error() {
        return "ok";
    }
    match run_classifiers_on_ctx(components.retry_classifiers(), context.inner()) {
        RetryAction::RetryIndicated(RetryReason::RetryableError {
            kind: ErrorKind::ThrottlingError, ..
        }) => "throttled",
        RetryAction::RetryIndicated(_) => "unavailable",
        _ if context.response().is_some() => "refused",
        _ => "unavailable",
    }
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::{
        Sandbox,
        faults::{Effect, ErrorAnswer, Fault},
    };
    use std::sync::{Arc, Mutex};

    use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
    use logferry_testbed::provision::Aws;

    use crate::{aws::Base, metrics::rendered};

    #[tokio::test]
    async fn all_calls_to_a_service_have_the_kept_user_agent() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let base: Base =
            Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config().into();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let noting = || {
            let seen = Arc::clone(&seen);
            move |request: &mut HttpRequest| {
                let agents = request.headers().get_all("x-amz-user-agent");
                seen.lock().expect("nobody panics").push(agents.collect::<Vec<_>>().join("|"));
            }
        };
        // The answers do not matter.
        let ask_sqs = async || {
            let sqs = aws_sdk_sqs::Client::from_conf(base.sqs().build());
            let _ = sqs.list_queues().customize().mutate_request(noting()).send().await;
        };
        ask_sqs().await;
        {
            let mut agents = base.calls().agents.write().expect("nobody panics");
            assert_eq!((agents.len(), agents[0].service.as_str()), (1, "SQS"));
            agents[0].headers[1].1.push_str(" kept");
        }
        ask_sqs().await;
        let dynamodb = aws_sdk_dynamodb::Client::from_conf(base.dynamodb().build());
        let _ =
            dynamodb.describe_table().table_name("none").customize().mutate_request(noting()).send().await;
        let seen = seen.lock().expect("nobody panics");
        assert!(seen[0].contains("api/sqs/"), "{seen:?}");
        assert_eq!(seen[1], format!("{} kept", seen[0]));
        assert!(seen[2].contains("api/dynamodb/") && !seen[2].contains("kept"), "{seen:?}");
    }

    #[tokio::test]
    async fn calls_count_by_outcome_and_attempts_count_too() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let base: Base =
            Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config().into();
        let sqs = aws_sdk_sqs::Client::from_conf(base.sqs().build());
        let written = |line: &str| {
            let text = rendered(|registry| base.calls().register(registry));
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        };
        let count = |operation: &str, outcome: &str, calls: u32| {
            let labels = format!("service=\"SQS\",operation=\"{operation}\",outcome=\"{outcome}\"");
            written(&format!("logferry_aws_call_duration_seconds_count{{{labels}}} {calls}"));
        };
        let attempts = |operation: &str, attempts: u32| {
            let labels = format!("service=\"SQS\",operation=\"{operation}\"");
            written(&format!("logferry_aws_attempts_total{{{labels}}} {attempts}"));
        };
        let fails = |operation, times, effect| {
            sandbox.faults().add(Fault { times: Some(times), ..Fault::new("sqs", operation, effect) });
        };

        let queue = sqs.create_queue().queue_name("q").send().await.expect("it can be created").queue_url;
        let queue = queue.expect("a queue has a URL");
        let poll = || sqs.receive_message().queue_url(&queue).send();
        fails("ReceiveMessage", 1, Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable")));
        poll().await.expect("the second attempt succeeds");
        poll().await.expect("it succeeds");
        count("ReceiveMessage", "ok", 2);
        attempts("ReceiveMessage", 3);
        fails("ReceiveMessage", 3, Effect::Reset);
        poll().await.expect_err("nobody answers");
        count("ReceiveMessage", "unavailable", 1);
        attempts("ReceiveMessage", 6);
        fails("DeleteMessage", 3, Effect::Error(ErrorAnswer::new(400, "ThrottlingException")));
        let delete = || sqs.delete_message().queue_url(&queue).receipt_handle("no receipt").send();
        delete().await.expect_err("it is throttled");
        count("DeleteMessage", "throttled", 1);
        delete().await.expect_err("it is no receipt");
        count("DeleteMessage", "refused", 1);
        attempts("DeleteMessage", 4);

        sandbox.faults().add(Fault::new("sqs", "SendMessage", Effect::Latency { milliseconds: 3_600_000 }));
        let send = sqs.send_message().queue_url(&queue).message_body("b").send();
        let patience = std::time::Duration::from_millis(500);
        tokio::time::timeout(patience, send).await.expect_err("the call takes an hour");
        count("SendMessage", "dropped", 1);
        attempts("SendMessage", 1);
        let text = rendered(|registry| base.calls().register(registry));
        let dropped = text.lines().filter(|line| line.contains("_count") && line.contains("\"dropped\""));
        assert_eq!(dropped.count(), 1, "the other calls ended: {text}");

        let nobody = aws_sdk_sqs::Client::from_conf(base.without_credentials().sqs().build());
        nobody.list_queues().send().await.expect_err("it has no credentials");
        let text = rendered(|registry| base.calls().register(registry));
        assert!(!text.contains("ListQueues"), "nothing was sent: {text}");
    }
}
