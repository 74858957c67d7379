use std::time::Duration;

use aws_config::SdkConfig;
use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec};

use super::*;
use crate::{
    aws::direct::testing::{Recording, Sent},
    breaker::{self, ProbeIntervals},
    credentials::{
        customers::{self, SessionSettings},
        request::{AssumeRequest, SessionLife},
    },
    ledger::lease::Moment,
    metrics::rendered,
    name::StreamTemplate,
    tenant::{Destination, Mode, Oversize},
};

/// Sinks that probe refused groups at this interval.
fn sinks(base: &Base, central_role: &str, probe_interval: Duration) -> CloudWatchSinks {
    let hour = Duration::from_secs(3600);
    let life = SessionLife { duration: hour, refresh_before: hour / 4 };
    let request = AssumeRequest::central(central_role.parse().expect("a role"));
    let central = AssumedRole::new(aws_sdk_sts::Client::from_conf(base.sts().build()), None, request, life);
    let settings = SessionSettings {
        life,
        cache_capacity: 10,
        probe_intervals: ProbeIntervals { first: probe_interval, longest: probe_interval },
    };
    let customers = Customers::new(base, &central, settings, customers::Metrics::default());
    let groups = GroupBreakers::new(settings.probe_intervals, 10, breaker::Metrics::default());
    CloudWatchSinks::new(base, customers, groups, RequestCompression::None)
}

#[tokio::test]
async fn a_call_without_a_customer_s_credentials_fails() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let base = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config().into();
    let sinks = sinks(&base, "arn:aws:iam::111111111111:role/central", Duration::from_secs(3600));
    let call = sinks.client.create_log_group().log_group_name("g").send().await;
    assert!(call.is_err_and(|error| error.as_service_error().is_none()));
    assert_eq!(sandbox.calls("logs", "CreateLogGroup"), 0);
}

/// A customer's account behind both hops, with a group and no stream.
struct World {
    sandbox: Sandbox,
    customer: Customer,
    /// The worker's configuration.
    sdk: SdkConfig,
    central_role: String,
    delivery: Delivery,
    destination: CloudWatch,
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("x")).await.expect("the accounts can be set up");
        let customer = Customer::create(&aws, "222222222222", &provider, CustomerSpec::new("acme")).await;
        let customer = customer.expect("the accounts can be set up");
        let root = aws.account(&provider.account);
        let worker =
            root.assume_role(&provider.worker_role_arn, "worker", &[]).await.expect("the role may do this");
        let destination = CloudWatch {
            role: customer.role_arn.parse().expect("a role"),
            external_id: Some(customer.external_id.clone()),
            session_tags: false,
            source_identity: false,
            log_group_name: customer.log_group.clone(),
            log_stream_name: StreamTemplate::default(),
            retention_days: None,
            oversize: Oversize::Split,
        };
        let delivery = Delivery {
            tenant_id: "acme".into(),
            name: "cloudwatch".into(),
            enabled: true,
            desired_logs: None,
            mode: Mode::Live,
            target_region: "us-east-1".into(),
            destination: Destination::CloudWatch(destination.clone()),
        };
        let (sdk, central_role) = (worker.sdk_config(), provider.central_role_arn);
        Self { sandbox, customer, sdk, central_role, delivery, destination }
    }

    /// The customer's sink.
    async fn open(&self, sinks: &CloudWatchSinks) -> CloudWatchSink {
        let sink = sinks.open(&self.delivery, &self.destination, "c", &ObjectRef::default()).await;
        sink.expect("the role lets us in")
    }

    /// A batch of one event.
    fn body(&self) -> Bytes {
        let at = jiff::Timestamp::now().as_millisecond();
        let events = [serde_json::json!({"timestamp": at, "message": "m"})];
        let group = &self.customer.log_group;
        let body = serde_json::json!({"logGroupName": group, "logStreamName": "s", "logEvents": events});
        Bytes::from(body.to_string())
    }
}

#[tokio::test]
async fn no_attempt_is_sent_after_the_end_of_the_lease() {
    let world = World::new().await;
    let timeouts = aws_config::timeout::TimeoutConfig::builder();
    let timeouts = timeouts.operation_attempt_timeout(Duration::from_secs(2)).build();
    let sdk = world.sdk.to_builder().timeout_config(timeouts).build();
    let base = Base::from(sdk);
    let sinks = sinks(&base, &world.central_role, Duration::from_secs(1));
    let sink = sinks
        .open(&world.delivery, &world.destination, "c", &ObjectRef::default())
        .await
        .expect("the role lets us in");
    sink.create_log_stream(&world.customer.log_group, "s", &Lease::unlimited())
        .await
        .expect("the role may do this");
    let slow = Effect::Latency { milliseconds: 3_600_000 };
    world.sandbox.faults().add(Fault::new("logs", "PutLogEvents", slow));
    // The lease ends before the first attempt does.
    let lease = Lease::of(Duration::from_secs(1));
    lease.renewed(Moment::now());
    let ended = Err(SinkError::LeaseEnded(LeaseEnded));
    assert_eq!(sink.put_log_events(world.body(), &lease).await, ended);
    let calls = || {
        ["PutLogEvents", "CreateLogStream", "CreateLogGroup"]
            .map(|operation| world.sandbox.calls("logs", operation))
    };
    let before = calls();
    assert_eq!(before[0], 1, "the SDK tries again, and is stopped");
    // The lease has ended before the call.
    assert_eq!(sink.put_log_events(world.body(), &lease).await, ended);
    let ended = Err(SinkError::LeaseEnded(LeaseEnded));
    assert_eq!(sink.create_log_stream("g", "other", &lease).await, ended);
    assert_eq!(sink.create_log_group("g", None, &lease).await, ended);
    assert_eq!(calls(), before);
    let text = rendered(|registry| base.calls().register(registry));
    let counted = |line: &str| assert!(text.lines().any(|found| found == line), "{line} in {text}");
    for operation in ["PutLogEvents", "CreateLogStream"] {
        let labels = format!("service=\"CloudWatch Logs\",operation=\"{operation}\"");
        counted(&format!("logferry_aws_attempts_total{{{labels}}} 1"));
    }
    assert!(!text.contains("CreateLogGroup"), "a call that was stopped is no call: {text}");
}

#[tokio::test]
async fn a_probe_uses_a_new_session() {
    let world = World::new().await;
    let World { sandbox, customer, destination, delivery, .. } = &world;
    let moment = Duration::from_millis(20);
    let sinks = sinks(&world.sdk.clone().into(), &world.central_role, moment);
    let fail_once = |operation, code| {
        let effect = Effect::Error(ErrorAnswer::new(400, code));
        sandbox.faults().add(Fault { times: Some(1), ..Fault::new("logs", operation, effect) });
    };
    let sessions = || sandbox.times_asked(&customer.role_arn);

    // A session of a role that was deleted and created again.
    let sink =
        sinks.open(delivery, destination, "c", &ObjectRef::default()).await.expect("the role lets us in");
    fail_once("CreateLogStream", "UnrecognizedClientException");
    sink.create_log_stream(&customer.log_group, "s", &Lease::unlimited()).await.expect("another session may");
    assert_eq!(sessions(), 2);
    fail_once("PutLogEvents", "UnrecognizedClientException");
    sink.put_log_events(world.body(), &Lease::unlimited()).await.expect("another session may");
    assert_eq!(sessions(), 3);

    // A session that was revoked.
    fail_once("PutLogEvents", "AccessDeniedException");
    let denied = sink.put_log_events(world.body(), &Lease::unlimited()).await;
    assert!(matches!(denied, Err(SinkError::Denied(_))), "{denied:?}");
    assert_eq!(sessions(), 3);
    let probe = loop {
        match sinks.open(delivery, destination, "c", &ObjectRef::default()).await {
            Err(SinkError::Held { probe_in, .. }) => tokio::time::sleep(probe_in).await,
            probe => break probe.expect("the role lets us in"),
        }
    };
    assert_eq!(sessions(), 4, "the probe uses a new session");
    probe.put_log_events(world.body(), &Lease::unlimited()).await.expect("the role may do this");
    sinks.open(delivery, destination, "c", &ObjectRef::default()).await.expect("the group may be written");
    assert_eq!(sessions(), 4);
}

fn are_direct(sent: &[Sent]) -> Vec<bool> {
    sent.iter().map(|sent| sent.is_direct).collect()
}

#[tokio::test]
async fn a_direct_request_is_the_sdk_s() {
    for compression in [RequestCompression::None, RequestCompression::Gzip] {
        let world = World::new().await;
        let (recording, base) = Recording::of(&world.sdk);
        let sinks =
            CloudWatchSinks { compression, ..sinks(&base, &world.central_role, Duration::from_secs(1)) };
        let sink = world.open(&sinks).await;
        let put = async |body: &Bytes| {
            recording.take("");
            let answer = sink.put_log_events(body.clone(), &Lease::unlimited()).await;
            (answer, recording.take("PutLogEvents"))
        };
        let body = world.body();
        let (answer, by_the_sdk) = put(&body).await;
        assert!(matches!(answer, Err(SinkError::NotFound(_))), "there is no stream yet: {answer:?}");
        let (again, direct) = put(&body).await;
        assert_eq!(again, answer);
        assert_eq!((are_direct(&by_the_sdk), are_direct(&direct)), (vec![false], vec![true]));
        assert_eq!(direct[0].clone().by_the_sdk(), by_the_sdk[0]);

        let (group, lease) = (&world.customer.log_group, Lease::unlimited());
        sink.create_log_stream(group, "s", &lease).await.expect("the role may do this");
        let (answer, sent) = put(&body).await;
        assert!(answer.is_ok_and(|answer| answer.next_sequence_token.is_some()));
        assert_eq!(are_direct(&sent), [true]);
    }
}

#[tokio::test]
async fn direct_answers_mean_what_the_sdk_s_mean() {
    let world = World::new().await;
    let (recording, base) = Recording::of(&world.sdk);
    let sinks = sinks(&base, &world.central_role, Duration::from_secs(3600));
    let sink = world.open(&sinks).await;
    let (group, lease) = (&world.customer.log_group, Lease::unlimited());
    sink.create_log_stream(group, "s", &lease).await.expect("the role may do this");
    let put = async |body: &Bytes| {
        recording.take("");
        let answer = sink.put_log_events(body.clone(), &Lease::unlimited()).await;
        (answer, are_direct(&recording.take("PutLogEvents")))
    };
    let fail = |effect| {
        world.sandbox.faults().add(Fault { times: Some(1), ..Fault::new("logs", "PutLogEvents", effect) });
    };
    let body = world.body();
    assert_eq!(put(&body).await.1, [false], "only the SDK knows the way");

    // Refusals that are final.
    for code in FINAL {
        let mut answers = Vec::new();
        for is_direct in [true, false] {
            sink.direct.pauses().clear();
            if !is_direct {
                sink.direct.pauses().begin(&sink.account, Duration::ZERO);
            }
            fail(Effect::Error(ErrorAnswer::new(400, code)));
            let (answer, sent) = put(&body).await;
            assert_eq!(sent, [is_direct], "{code}");
            answers.push(answer.expect_err("it is refused"));
        }
        assert_eq!(answers[0], answers[1], "{code}");
    }
    // Events that are too old.
    let now = jiff::Timestamp::now().as_millisecond();
    let old = now - 15 * 86_400_000;
    let events = [old, now].map(|at| serde_json::json!({"timestamp": at, "message": "m"}));
    let mixed = serde_json::json!({"logGroupName": group, "logStreamName": "s", "logEvents": events});
    let mixed = Bytes::from(mixed.to_string());
    let mut rejected = Vec::new();
    for is_direct in [true, false] {
        sink.direct.pauses().clear();
        if !is_direct {
            sink.direct.pauses().begin(&sink.account, Duration::ZERO);
        }
        let (answer, sent) = put(&mixed).await;
        assert_eq!(sent, [is_direct]);
        rejected.push(answer.expect("one event is accepted").rejected);
    }
    assert_eq!(rejected[0], rejected[1]);
    assert_ne!(rejected[0], RejectedEvents::default());
    // Answers that a retry may change.
    for effect in [
        Effect::Error(ErrorAnswer::new(400, "ThrottlingException")),
        Effect::Error(ErrorAnswer::new(400, "ExpiredTokenException")),
        Effect::Error(ErrorAnswer::new(500, "ServiceUnavailableException")),
        Effect::Reset,
        Effect::After { error: None },
    ] {
        sink.direct.pauses().clear();
        fail(effect);
        let (answer, sent) = put(&body).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(sent, [true, false]);
        assert_eq!(put(&body).await.1, [false], "direct attempts pause");
    }
}

#[tokio::test]
async fn answers_are_read_whatever_their_form() {
    let read = async |status: u16, body: &'static str| {
        let status = status.try_into().expect("a status");
        final_answer(HttpResponse::new(status, SdkBody::from(body))).await
    };
    for (status, body) in [(200, ""), (200, "{}"), (202, ""), (200, r#"{"rejectedLogEventsInfo":null}"#)] {
        let answer = read(status, body).await;
        assert!(matches!(answer, Ok(Final::Success(Ok(_)))), "{status} {body}: {answer:?}");
    }
    let rejected = r#"{"nextSequenceToken":"t","rejectedLogEventsInfo":
        {"tooNewLogEventStartIndex":7,"tooOldLogEventEndIndex":1,"expiredLogEventEndIndex":2}}"#;
    let Ok(Final::Success(Ok(answer))) = read(200, rejected).await else { panic!("it is accepted") };
    let expected = RejectedEvents { too_new_start: Some(7), too_old_end: Some(1), expired_end: Some(2) };
    assert_eq!((answer.rejected, answer.next_sequence_token.as_deref()), (expected, Some("t")));
    // The batch is accepted, so the SDK must not put it again.
    for body in ["<html>", "[null,null]", r#"{"rejectedLogEventsInfo":[1,2,3]}"#] {
        let lie = read(200, body).await;
        assert!(matches!(lie, Ok(Final::Success(Err(SinkError::Unavailable(_))))), "{body}: {lie:?}");
    }
    for body in [
        r#"{"__type":"ResourceNotFoundException","message":"gone"}"#,
        r#"{"__type":"com.amazonaws.logs#ResourceNotFoundException","Message":"gone"}"#,
    ] {
        let Ok(Final::Refusal(Err(refusal))) = read(400, body).await else { panic!("{body} is final") };
        assert_eq!(refusal, SinkError::NotFound("ResourceNotFoundException: gone".into()));
    }
    for (status, body, kind) in [
        (400, "", UnusualKind::Refused),
        (403, "<html>", UnusualKind::Refused),
        (400, r#"["AccessDeniedException","x",null]"#, UnusualKind::Refused),
        (400, r#"{"__type":"ExpiredTokenException"}"#, UnusualKind::Refused),
        (400, r#"{"__type":"ThrottlingException"}"#, UnusualKind::Throttled),
        (429, "", UnusualKind::Throttled),
        (503, "slow", UnusualKind::Failed),
    ] {
        let Err(unusual) = read(status, body).await else { panic!("the SDK judges {status} {body}") };
        assert_eq!(unusual.kind, kind, "{status} {body}");
    }
}

/// The SDK corrects its clock, and tries again.
#[tokio::test]
async fn a_denial_by_another_clock_is_the_sdk_s_to_judge() {
    let world = World::new().await;
    let (recording, base) = Recording::of(&world.sdk);
    let sinks = sinks(&base, &world.central_role, Duration::from_secs(3600));
    let sink = world.open(&sinks).await;
    let put = async || {
        recording.take("");
        let answer = sink.put_log_events(world.body(), &Lease::unlimited()).await;
        (answer, are_direct(&recording.take("PutLogEvents")))
    };
    assert_eq!(put().await.1, [false], "only the SDK knows the way");
    let denied = Effect::Error(ErrorAnswer::new(400, "AccessDeniedException"));
    let denied = || Fault { times: Some(1), ..Fault::new("logs", "PutLogEvents", denied.clone()) };
    world.sandbox.faults().add(denied());
    assert_eq!(put().await.1, [true], "a denial is final");
    recording.date_all("Thu, 01 Jan 2026 00:00:00 GMT");
    world.sandbox.faults().add(denied());
    let (answer, sent) = put().await;
    assert!(
        matches!(answer, Err(SinkError::NotFound(_))),
        "the second attempt reaches the group: {answer:?}"
    );
    assert_eq!(sent, [true, false]);
}

/// The first customer's call teaches the route.
#[tokio::test]
async fn a_direct_request_has_the_credentials_of_its_own_customer() {
    let world = World::new().await;
    let (recording, base) = Recording::of(&world.sdk);
    let sinks = sinks(&base, &world.central_role, Duration::from_secs(1));
    let mut tokens = Vec::new();
    // Two tenants of one account have two sessions.
    for tenant in ["acme", "globex", "acme"] {
        let delivery = Delivery { tenant_id: tenant.into(), ..world.delivery.clone() };
        let sink = sinks.open(&delivery, &world.destination, "c", &ObjectRef::default()).await;
        recording.take("");
        let _ = sink.expect("the role lets us in").put_log_events(world.body(), &Lease::unlimited()).await;
        let sent = recording.take("PutLogEvents");
        tokens.push((sent[0].is_direct, sent[0].headers["x-amz-security-token"].clone()));
    }
    assert_eq!(tokens.iter().map(|(is_direct, _)| *is_direct).collect::<Vec<_>>(), [false, true, true]);
    assert_ne!(tokens[0].1, tokens[1].1);
    assert_eq!(tokens[0].1, tokens[2].1);
}

#[tokio::test]
async fn the_compressed_body_is_hashed() {
    let text = Bytes::from_static(br#"{"logEvents":[]}"#);
    let plain = SealedBody::new(text.clone(), RequestCompression::None);
    assert_eq!(plain.body, text);
    // Computed with coreutils' sha256sum.
    assert_eq!(plain.sha256, "c1469a7abc3f1f38eed12d612a6e6d681ed6b19287f8c5a2b4dec20edd2e06a5");
    let gzip = SealedBody::new(text.clone(), RequestCompression::Gzip);
    let mut back = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip.body[..]), &mut back).expect("gzip");
    assert_eq!(back, text);
    let again = SealedBody::new(gzip.body.clone(), RequestCompression::None);
    assert_eq!(gzip.sha256, again.sha256);
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
fn every_rejected_index_is_copied() {
    let info = RejectedLogEventsInfo::builder().too_old_log_event_end_index(3).build();
    assert_eq!(rejected(&info), RejectedEvents { too_old_end: Some(3), ..RejectedEvents::default() });
    let info = RejectedLogEventsInfo::builder()
        .too_new_log_event_start_index(0)
        .expired_log_event_end_index(2)
        .build();
    let expected = RejectedEvents { too_new_start: Some(0), expired_end: Some(2), too_old_end: None };
    assert_eq!(rejected(&info), expected);
}
