//! `logferry lambda` over HTTP against Lambda's runtime API: samples arrive, exactly the failed messages are reported, and
//! nothing is lost at a deadline.

mod runtime_api;

use std::{collections::BTreeMap, time::Duration};

use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::provision::{CustomerSpec, ProviderSpec, TrustAction};
use serde_json::json;

use self::runtime_api::{Function, Mapping};
use crate::{
    deliver::check_customer,
    eventually::eventually,
    operator, quarantine,
    samples::{fixtures, generated, gzip, received_events},
    setup::{Setup, s3_event, text},
    traces::collector::{Collector, Protocol},
    worker::logferry,
};

const MINUTE: Duration = Duration::from_secs(60);

/// The environment of a function: a worker's, without the endpoint.
async fn environment(setup: &Setup) -> BTreeMap<String, String> {
    let mut environment = setup.environment().await;
    environment.remove("LOGFERRY_HTTP__LISTEN");
    let probes = [("PROBE_INTERVAL", "1s"), ("MAX_PROBE_INTERVAL", "1s")];
    environment
        .extend(probes.map(|(name, value)| (format!("LOGFERRY_CREDENTIALS__{name}"), value.to_owned())));
    environment
}

async fn function(setup: &Setup) -> Function {
    Function::start(&environment(setup).await, setup.shared_sandbox()).await
}

/// Delivers a folder of samples and compares what arrived, record by record.
async fn delivers(folder: &str, wiring: impl FnOnce(&mut ProviderSpec)) {
    let setup = Setup::with(&format!("lambda-{folder}"), wiring).await;
    let mut customers = Vec::new();
    for tenant_id in ["acme-corp", "globex", "initech"] {
        customers.push(setup.customer(tenant_id).await);
    }
    let objects = fixtures(folder);
    setup.upload_all(&objects).await;
    let mut mapping = Mapping::receive(&setup, objects.len()).await;
    assert_eq!(mapping.invoke(&setup, &mut function(&setup).await, 5 * MINUTE).await, [""; 0]);
    for customer in &customers {
        check_customer(&setup, customer, &objects).await;
    }
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_arrays_arrive_as_by_the_worker() {
    delivers("array-gzip", |_| ()).await;
    delivers("array-zstd", |spec| spec.raw_delivery = true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_lines_arrive_as_by_the_worker() {
    delivers("ndjson-gzip", |spec| spec.versioned = true).await;
    delivers("ndjson-plain", |spec| (spec.raw_delivery, spec.versioned) = (true, true)).await;
}

/// Ten messages: one poison, one that may be retried, one that outlives the deadline, and seven that are delivered. The second
/// invocation finishes the third where it stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_reports_exactly_the_failed_messages_and_loses_nothing() {
    let setup = Setup::new("lambda-ten").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let acme = setup.customer("acme").await;
    let refused = setup.customer_without_role("refused", &[]).await;
    let slow = setup.customer("slow").await;
    let good: Vec<_> =
        (0..7).map(|number| generated(&format!("acme/c/app/p/{number}.json"), 20, 40)).collect();
    let later = generated("refused/c/app/p/1.json", 20, 40);
    // Twenty batches, each put within a second.
    let long = generated("slow/c/app/p/1.json", 100, 200_000);
    setup.upload_all(good.iter().chain([&later, &long])).await;
    setup.send("hello").await;
    let latency = Effect::Latency { milliseconds: 1000 };
    let fault = Fault { account: Some(slow.account.clone()), ..Fault::new("logs", "PutLogEvents", latency) };
    let fault = sandbox.faults().add(fault);

    let mut mapping = Mapping::receive(&setup, 10).await;
    let expected = [mapping.id("refused/c/app"), mapping.id("slow/c/app")];
    let mut function = function(&setup).await;
    let mut failed = mapping.invoke(&setup, &mut function, Duration::from_secs(10)).await;
    failed.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(failed, expected, "{}", function.log());
    setup.arrived_once(&acme, &good).await;
    let letters = setup.dead_letters(1).await;
    assert_eq!((letters[0].get("reason"), letters[0].body.as_str()), ("bad_event", "hello"));
    let arrived = received_events(&setup.aws, &slow).await.len();
    assert!((1..100).contains(&arrived), "{arrived} events before the deadline");

    sandbox.faults().remove(fault);
    let puts = sandbox.calls("logs", "PutLogEvents");
    setup.create_missing_role(&refused, vec![TrustAction::AssumeRole]).await;
    // The message that ran out of time comes again at once, and the other one after its own delay.
    let mut handled = Vec::new();
    eventually("both messages are handled", async || {
        let mut again = Mapping::receive(&setup, 1).await;
        let id = again.first();
        if again.invoke(&setup, &mut function, MINUTE).await.is_empty() {
            handled.push(id);
        }
        if handled.len() == 2 { Ok(()) } else { Err(format!("only {handled:?}")) }
    })
    .await;
    handled.sort();
    assert_eq!(handled, expected);
    setup.arrived_once(&slow, [&long]).await;
    let puts = sandbox.calls("logs", "PutLogEvents") - puts;
    assert!(puts < 20, "the delivery goes on where it stopped, not at the start: {puts}");
    setup.arrived_once(&refused, [&later]).await;
    setup.queue_is_empty().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_long_is_quarantined() {
    let setup = Setup::new("lambda-quarantine").await;
    let bucket = quarantine::bucket(&setup).await;
    let customer = setup.customer_with(CustomerSpec::new("acme"), &[("oversize", text("quarantine"))]).await;
    let (long, now) = ("long ".repeat(220_000), jiff::Timestamp::now().as_millisecond());
    let records =
        [json!({ "message": long, "timestamp": now }), json!({ "message": "short", "timestamp": now })];
    setup.upload("acme/c/app/p/1.json", json!(records).to_string()).await;
    let mut environment = environment(&setup).await;
    let owned = format!("{bucket}={}", setup.provider.account);
    environment.insert("LOGFERRY_QUARANTINE__BUCKET".to_owned(), owned);
    let mut mapping = Mapping::receive(&setup, 1).await;
    let mut function = Function::start(&environment, setup.shared_sandbox()).await;
    assert_eq!(mapping.invoke(&setup, &mut function, MINUTE).await, [""; 0]);
    assert_eq!(received_events(&setup.aws, &customer).await, [(now, "short".to_owned())]);
    let files = quarantine::files(&setup, &bucket).await;
    let [(key, lines)] = &files[..] else { panic!("{} files", files.len()) };
    assert!(key.starts_with("quarantine/acme/1.json/cloudwatch-"), "{key}");
    let [line] = &lines[..] else { panic!("{} lines", lines.len()) };
    assert_eq!((&line["reason"], &line["message"]), (&json!("oversize"), &json!(long)));
}

/// Without the queue's URL, messages that failed stay hidden until the queue's visibility timeout ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_url_of_the_queue_may_be_unknown() {
    let setup = Setup::new("lambda-no-url").await;
    let customer = setup.customer("acme").await;
    setup.customer_without_role("refused", &[]).await;
    let [good, refused] =
        ["acme", "refused"].map(|tenant| generated(&format!("{tenant}/c/app/p/1.json"), 5, 40));
    setup.upload_all([&good, &refused]).await;
    let mut environment = environment(&setup).await;
    environment.remove("SQS_QUEUE_URL");
    let mut mapping = Mapping::receive(&setup, 2).await;
    let mut function = Function::start(&environment, setup.shared_sandbox()).await;
    assert_eq!(mapping.invoke(&setup, &mut function, MINUTE).await, [mapping.id("refused/c/app")]);
    assert!(function.log().contains("queue.url is not set"), "{}", function.log());
    setup.arrived_once(&customer, [&good]).await;
}

/// The process is stopped right after its response, so a span that waits would arrive only with the next invocation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry_is_flushed_before_the_response() {
    let (setup, collector) = (Setup::new("lambda-traces").await, Collector::start(Protocol::Http).await);
    setup.customer("acme").await;
    setup.upload("acme/c/app/p/1.json", generated("acme/c/app/p/1.json", 5, 40).bytes).await;
    let mut environment = environment(&setup).await;
    let traces = collector.variables().into_iter();
    environment.extend(traces.map(|(name, value)| (name.to_owned(), value.to_owned())));
    environment.insert("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "600000".to_owned());
    let mut mapping = Mapping::receive(&setup, 1).await;
    let mut function = Function::start(&environment, setup.shared_sandbox()).await;
    assert_eq!(mapping.invoke(&setup, &mut function, MINUTE).await, [""; 0]);
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name.starts_with("process")), "{spans:?}");
    assert!(function.log().contains("an object was delivered"));
    assert!(function.log().contains("an invocation is done"));
}

/// One customer's session, tenant and stream serve several invocations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_tenants_live_across_invocations() {
    let setup = Setup::new("lambda-warm").await;
    let customer = setup.customer("acme").await;
    let objects: Vec<_> =
        (0..3).map(|number| generated(&format!("acme/c/app/p/{number}.json"), 5, 40)).collect();
    let (mut started, mut assumed) = (None, None);
    for object in &objects {
        setup.upload(&object.key, object.bytes.clone()).await;
        let mut mapping = Mapping::receive(&setup, 1).await;
        // As on Lambda, the first message is there before the function.
        let function = match &mut started {
            Some(function) => function,
            none => none.insert(function(&setup).await),
        };
        assert_eq!(mapping.invoke(&setup, function, MINUTE).await, [""; 0]);
        if assumed.is_none() {
            eprintln!("cold start to the end of the first invocation: {:?}", function.age());
        }
        if let Some(sandbox) = setup.sandbox() {
            let calls = sandbox.calls("sts", "AssumeRole");
            assert_eq!(*assumed.get_or_insert(calls), calls, "a further session");
        }
    }
    setup.arrived_once(&customer, &objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_10_mb_of_gzip_takes_less_than_128_mib() {
    let setup = Setup::new("lambda-memory").await;
    if setup.sandbox().is_none() {
        return;
    }
    setup.customer("acme").await;
    let mut random = fastrand::Rng::with_seed(7);
    let now = jiff::Timestamp::now();
    let mut lines = String::new();
    while lines.len() < 46 << 20 {
        let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(300).collect();
        let record =
            json!({ "message": format!("{noise}{}", "x".repeat(700)), "timestamp": now.to_string() });
        lines.push_str(&record.to_string());
        lines.push('\n');
    }
    let stored = gzip(lines.as_bytes());
    assert!(stored.len() > 10_000_000, "{} bytes", stored.len());
    setup.upload("acme/c/app/p/1.json.gz", stored).await;
    let mut mapping = Mapping::receive(&setup, 1).await;
    let mut function = function(&setup).await;
    assert_eq!(mapping.invoke(&setup, &mut function, 5 * MINUTE).await, [""; 0]);
    let Some(peak) = function.peak_rss() else { return };
    eprintln!("{} MiB after 10 MB of gzip", peak >> 20);
    assert!(peak < 128 << 20, "a peak of {peak} bytes");
}

/// An event source mapping may collect 10,000 messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_10_000_messages_takes_less_than_128_mib() {
    let setup = Setup::new("lambda-batch").await;
    let Some(sandbox) = setup.sandbox() else { return };
    setup.customer("acme").await;
    // The others wait while the first message has the only slot.
    setup.upload_generated("acme/c/app/p/1.json", 2, 40).await;
    sandbox.faults().add(Fault::new("logs", "PutLogEvents", Effect::Latency { milliseconds: 3000 }));
    let first = s3_event(&setup.provider.bucket, "acme/c/app/p/1.json").to_string();
    let message = |number: usize| {
        let body = if number == 0 { first.as_str() } else { "{\"Event\":\"s3:TestEvent\"}" };
        let attributes = json!({ "ApproximateReceiveCount": "1", "SentTimestamp": "1700000000000" });
        json!({
            "messageId": number.to_string(), "receiptHandle": "r", "body": body,
            "attributes": attributes, "messageAttributes": {},
        })
    };
    let event = json!({ "Records": (0..10_000).map(message).collect::<Vec<_>>() });
    let mut environment = environment(&setup).await;
    environment.insert("LOGFERRY_WORKER__CONCURRENCY".to_owned(), "1".to_owned());
    environment.insert("LOGFERRY_LOG__FILTER".to_owned(), "info".to_owned());
    let mut function = Function::start(&environment, setup.shared_sandbox()).await;
    assert_eq!(function.invoke(&event, 5 * MINUTE).await, [""; 0]);
    let Some(peak) = function.peak_rss() else { return };
    eprintln!("{} MiB after 10,000 messages", peak >> 20);
    assert!(peak < 128 << 20, "a peak of {peak} bytes");
}

/// Lambda starts the environment anew after the process has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_odd_answer_of_the_runtime_api_ends_the_process_with_one_line() {
    let setup = Setup::new("lambda-odd").await;
    let (id, deadline) = ("lambda-runtime-aws-request-id", "lambda-runtime-deadline-ms");
    let answers = [
        (500, vec![], "missing lambda-runtime-aws-request-id header"),
        (200, vec![(deadline, "1")], "missing lambda-runtime-aws-request-id header"),
        (200, vec![(id, "1")], "missing lambda-runtime-deadline-ms header"),
        (200, vec![(id, "1"), (deadline, "soon")], "invalid digit"),
    ];
    for (status, headers, words) in answers {
        let mut answer = axum::http::Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        let answer = answer.body("{}".to_owned()).expect("a response");
        let routes = axum::Router::new().fallback(async move || answer.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("the listener is bound").to_string();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let mut environment = environment(&setup).await;
        for (name, value) in [
            ("AWS_LAMBDA_RUNTIME_API", address.as_str()),
            ("AWS_LAMBDA_FUNCTION_NAME", "logferry"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
            ("LOGFERRY_LOG__FILTER", "warn"),
        ] {
            environment.insert(name.to_owned(), value.to_owned());
        }
        let ended = operator::run(&[], &environment).await.with(1).saying(words);
        let [line] = ended.stderr.lines().collect::<Vec<_>>()[..] else { panic!("not one line: {ended:?}") };
        assert!(line.starts_with("logferry: Lambda's runtime API "), "{line}");
    }
}

#[test]
fn only_lambda_starts_the_command() {
    let environment = [
        ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
        ("TENANT_CONFIG_TABLE", "tenants"),
        ("AWS_REGION", "us-east-1"),
        ("EXECUTION_MODE", "lambda"),
    ];
    let output = logferry(&[], &environment);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("AWS_LAMBDA_RUNTIME_API is not set"), "{told}");
    // Without a configuration, every problem is told.
    let output = logferry(&["lambda"], &[]);
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("tenants.table") && !told.contains("queue.url"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_a_function_cannot_read_are_dead_letters() {
    let setup = Setup::new("lambda-poison").await;
    for body in ["hello", "{}", &s3_event("staging", "short").to_string()] {
        setup.send(body).await;
    }
    let mut mapping = Mapping::receive(&setup, 3).await;
    assert_eq!(mapping.invoke(&setup, &mut function(&setup).await, MINUTE).await, [""; 0]);
    let letters = setup.dead_letters(3).await;
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.get("reason")).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["bad_event", "bad_event", "foreign_bucket"]);
}

/// Whoever sends such an event must learn that nothing was delivered. The function stays in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_not_one_of_sqs_fails_as_a_whole() {
    let setup = Setup::new("lambda-event").await;
    let customer = setup.customer("acme").await;
    let object = generated("acme/c/app/p/0.json", 5, 40);
    setup.upload(&object.key, object.bytes.clone()).await;
    let mut mapping = Mapping::receive(&setup, 1).await;
    let mut function = function(&setup).await;
    let of_s3 = s3_event(&setup.provider.bucket, &object.key);
    let of_schedule = json!({ "source": "aws.events", "detail-type": "Scheduled Event", "detail": {} });
    for event in [of_s3, of_schedule, json!({}), json!([]), json!("Records")] {
        let (kind, answer) = function.answer(&event, MINUTE).await;
        let told = answer["errorMessage"].as_str().unwrap_or_default();
        assert!(kind == "error" && told.contains("SQS"), "{event}: {kind} {answer}");
    }
    setup.arrived_once(&customer, []).await;
    assert_eq!(mapping.invoke(&setup, &mut function, MINUTE).await, [""; 0]);
    setup.arrived_once(&customer, [&object]).await;
}
