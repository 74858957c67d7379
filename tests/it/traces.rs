//! Traces: a collector receives the spans of each message, and a collector that is down disturbs no delivery.

pub(crate) mod collector;

use std::{
    collections::{BTreeSet, HashSet},
    time::{Duration, Instant},
};

use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
};
use openmetrics_parser::OpenMetricsValue;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use tokio::net::TcpListener;

use self::collector::{Collector, Protocol, Trace, attribute, hex, is_failed};
use crate::{
    docs::open_metrics,
    eventually::{eventually, same},
    gate::Gate,
    samples::{Object, generated},
    setup::{REGION, Setup},
    worker::{Worker, logferry},
};

/// Variable that names a file for a worker's OpenMetrics with an exemplar.
const OPEN_METRICS_FILE: &str = "LOGFERRY_OPEN_METRICS_FILE";
/// Enough small objects to keep a worker busy for seconds.
const MANY: usize = 100;
const TRACE: &str = "5759e988bd862e3fe1be46a994272793";
const SPAN: &str = "53995c3f42cd8ad8";

fn header(sampled: &str) -> String {
    format!("Root=1-{}-{};Parent={SPAN};Sampled={sampled}", &TRACE[..8], &TRACE[8..])
}

fn queue_name(setup: &Setup) -> String {
    setup.provider.queue_url.rsplit('/').next().expect("a URL has a path").to_owned()
}

/// Sends a message with a trace header.
async fn send(setup: &Setup, body: &str, header: &str) {
    let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header);
    let send = setup.account().sqs().send_message().queue_url(&setup.provider.queue_url).message_body(body);
    let name = MessageSystemAttributeNameForSends::AwsTraceHeader;
    let value = value.build().expect("the type is set");
    send.message_system_attributes(name, value).send().await.expect("the message can be sent");
}

/// Uploads an object, and gives its notification a trace header. No worker may run yet.
async fn upload(setup: &Setup, object: &Object, header: &str) {
    setup.upload(&object.key, object.bytes.clone()).await;
    let (sqs, url) = (setup.account().sqs(), &setup.provider.queue_url);
    let message = eventually("the notification arrives", async || {
        let received = sqs.receive_message().queue_url(url).send().await.expect("SQS answers");
        received.messages.unwrap_or_default().pop().ok_or_else(|| "nothing".to_owned())
    })
    .await;
    let entry = DeleteMessageBatchRequestEntry::builder()
        .id("0")
        .set_receipt_handle(message.receipt_handle)
        .build()
        .expect("a message has a receipt");
    let delete = sqs.delete_message_batch().queue_url(url).entries(entry).send();
    delete.await.expect("it can be deleted");
    send(setup, &message.body.expect("a message has a body"), header).await;
}

/// Checks that the log lines with this field have the trace's id, and that there are some.
fn is_in_the_log(trace: &Trace, worker: &Worker, field: &str, value: &str) {
    let lines = worker.log_lines();
    let lines: Vec<_> = lines.iter().filter(|line| line[field] == value).collect();
    assert!(!lines.is_empty(), "no line has {field}={value}");
    assert!(lines.iter().all(|line| line["trace_id"] == trace.id()), "{}: {lines:?}", trace.id());
}

fn expect(span: &Span, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(
            attribute(span, key).as_deref(),
            Some(*value),
            "{key} of {}: {:?}",
            span.name,
            span.attributes
        );
    }
}

/// Checks that each call to AWS names its region, and that all services are called.
fn every_call_names_its_region(spans: &[Span]) {
    let calls = spans.iter().filter(|span| span.kind() == SpanKind::Client && span.name.contains('.'));
    let calls: Vec<_> = calls.collect();
    calls.iter().for_each(|call| expect(call, &[("cloud.region", REGION), ("rpc.system", "aws-api")]));
    let services: BTreeSet<_> = calls.iter().filter_map(|call| attribute(call, "rpc.service")).collect();
    let services: Vec<_> = services.iter().map(String::as_str).collect();
    assert_eq!(services, ["CloudWatch Logs", "DynamoDB", "S3", "SQS", "STS"]);
}

/// Checks that an exemplar of the worker's freshness histogram names this trace, and that a parser accepts the worker's
/// OpenMetrics. Writes the OpenMetrics to the file that [`OPEN_METRICS_FILE`] names, for `observability/check`.
async fn has_exemplar(worker: &Worker, trace: &Trace) {
    let (_, text) = worker.http_get_as("/metrics", "application/openmetrics-text").await;
    let parsed = open_metrics(&text);
    let freshness = parsed.families["logferry_freshness_seconds"].iter_samples();
    let buckets = freshness.filter_map(|sample| match &sample.value {
        OpenMetricsValue::Histogram(histogram) => Some(&histogram.buckets),
        _ => None,
    });
    let exemplars = buckets.flatten().filter_map(|bucket| bucket.exemplar.as_ref());
    let ids: Vec<_> = exemplars.map(|exemplar| exemplar.labels["trace_id"].clone()).collect();
    assert_eq!(ids, [trace.id()], "{text}");
    if let Ok(file) = std::env::var(OPEN_METRICS_FILE) {
        std::fs::write(file, text).expect("the file can be written");
    }
}

async fn a_delivered_and_a_dead_lettered_message(protocol: Protocol) {
    let (setup, collector) = (Setup::new("traces").await, Collector::start(protocol).await);
    let customer = setup.customer("acme").await;
    setup.customer("globex").await;
    let queue = queue_name(&setup);
    let object = generated("acme/c/app/pod/1.json.gz", 20, 40);
    upload(&setup, &object, &header("1")).await;
    let worker = setup.worker_with(&collector.variables()).await;

    let delivered = collector.message("the delivered message", |span| !is_failed(span)).await;
    let tree = delivered.tree(&queue);
    let expected = "\
process queue consumer
  assume internal
    STS.AssumeRole client
  get internal
    S3.GetObject client
  ledger claim internal
    DynamoDB.BatchExecuteStatement client
  ledger finish internal
    DynamoDB.BatchExecuteStatement client
  lookup internal
    DynamoDB.Query client
  put internal
    CloudWatch Logs.PutLogEvents client
  route internal
  settle queue client
    SQS.DeleteMessageBatch client";
    assert_eq!(tree, expected, "\n{tree}");
    let root = &delivered.root;
    expect(
        root,
        &[
            ("messaging.system", "aws_sqs"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", &queue),
            ("aws.sqs.queue.url", &setup.provider.queue_url),
            ("logferry.message.attempts", "1"),
        ],
    );
    assert!(attribute(root, "messaging.message.id").is_some_and(|id| !id.is_empty()));
    let links: Vec<_> = root.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
    assert_eq!(links, [(TRACE.to_owned(), SPAN.to_owned())]);
    assert!(root.parent_span_id.is_empty() && delivered.id() != TRACE, "the message has its own trace");
    let place = [("aws.s3.bucket", &*setup.provider.bucket), ("aws.s3.key", &*object.key)];
    expect(delivered.span("get"), &[&place[..], &[("logferry.records", "20")]].concat());
    expect(delivered.span("route"), &place);
    let get = delivered.span("S3.GetObject");
    let rpc = [("rpc.system", "aws-api"), ("rpc.service", "S3"), ("rpc.method", "GetObject")];
    expect(
        get,
        &[&place[..], &rpc, &[("cloud.region", REGION), ("http.response.status_code", "200")]].concat(),
    );
    for name in ["S3.GetObject", "CloudWatch Logs.PutLogEvents", "SQS.DeleteMessageBatch", "DynamoDB.Query"] {
        let id = attribute(delivered.span(name), "aws.request_id");
        assert!(id.is_some_and(|id| !id.is_empty()), "{name} has no request id");
    }
    let group = [("aws.log.group.names", &*customer.log_group)];
    expect(delivered.span("put"), &[&group[..], &[("logferry.batch.events", "20")]].concat());
    expect(delivered.span("CloudWatch Logs.PutLogEvents"), &group);
    expect(delivered.span("ledger claim"), &[("logferry.ledger.claim", "new")]);
    expect(
        delivered.span(&format!("settle {queue}")),
        &[("messaging.operation.type", "settle"), ("logferry.verdict", "ack")],
    );
    is_in_the_log(&delivered, &worker, "object.key", &object.key);
    has_exemplar(&worker, &delivered).await;

    send(&setup, "b0dy", &header("1")).await;
    let dead = collector.message("the dead letter", is_failed).await;
    let tree = dead.tree(&queue);
    let expected = "\
process queue consumer
  settle queue client
    SQS.DeleteMessageBatch client
    SQS.SendMessage client";
    assert_eq!(tree, expected, "\n{tree}");
    expect(&dead.root, &[("error.type", "bad_event")]);
    expect(dead.span(&format!("settle {queue}")), &[("logferry.verdict", "poison")]);
    let id = attribute(&dead.root, "messaging.message.id").expect("it has an id");
    is_in_the_log(&dead, &worker, "message.id", &id);

    let corrupt = "globex/c/app/pod/corrupt.json.gz";
    setup.upload(corrupt, "[{\"message\": \"cut short").await;
    let is_corrupt =
        |span: &Span| attribute(span, "error.type").is_some_and(|reason| reason == "corrupt_object");
    let dead = collector.message("the corrupt object", is_corrupt).await;
    let tree = dead.tree(&queue);
    let expected = "\
process queue consumer
  assume internal
    STS.AssumeRole client
  get internal
    S3.GetObject client
  ledger claim internal
    DynamoDB.BatchExecuteStatement client
  ledger release internal
    DynamoDB.UpdateItem client
  lookup internal
    DynamoDB.Query client
  route internal
  settle queue client
    SQS.DeleteMessageBatch client
    SQS.SendMessage client";
    assert_eq!(tree, expected, "\n{tree}");
    let get = dead.span("get");
    assert!(is_failed(get), "{get:?}");
    expect(get, &[("aws.s3.key", corrupt), ("error.type", "corrupt_object")]);
    expect(dead.span(&format!("settle {queue}")), &[("logferry.verdict", "poison")]);

    let receive = eventually("a receive that brought a message", async || {
        let spans = collector.spans();
        let brought = |span: &Span| {
            span.name == format!("receive {queue}")
                && attribute(span, "messaging.batch.message_count").is_some_and(|count| count != "0")
        };
        spans.into_iter().find(brought).ok_or_else(|| "none".to_owned())
    })
    .await;
    assert_eq!(hex(&receive.links.first().expect("it links to the sender").trace_id), TRACE);
    expect(&receive, &[("messaging.operation.type", "receive"), ("messaging.batch.message_count", "1")]);
    let metrics = worker.metrics().await;
    assert!(metrics.get("logferry_spans_exported_total") > 0.0, "{metrics:?}");
    assert_eq!(metrics.get("logferry_spans_dropped_total"), 0.0, "{metrics:?}");
    let leaked = ["secret", "SessionToken", "b0dy"];
    let spans = collector.spans();
    every_call_names_its_region(&spans);
    let texts = format!("{spans:?}");
    assert!(leaked.iter().all(|word| !texts.contains(word)), "an attribute has a body or a credential");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_messages_arrive_over_grpc() {
    a_delivered_and_a_dead_lettered_message(Protocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_messages_arrive_over_http() {
    a_delivered_and_a_dead_lettered_message(Protocol::Http).await;
}

async fn a_resumed_message(protocol: Protocol) {
    let (setup, collector) = (Setup::new("traces-resumed").await, Collector::start(protocol).await);
    setup.customer("acme").await;
    let queue = queue_name(&setup);
    setup.upload_generated("acme/c/app/pod/1.json.gz", 400, 20_000).await;
    let gate = Gate::new(&setup.aws.endpoint, 2_500_000).await;
    let mut variables = collector.variables();
    variables.push(("LOGFERRY_WORKER__GRACE_PERIOD", "6s"));
    let gated = [&variables[..], &[("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", gate.endpoint())]].concat();
    let mut first = setup.worker_with(&gated).await;
    eventually("the gate is shut", async || if gate.is_shut() { Ok(()) } else { Err("open".to_owned()) })
        .await;
    first.sigterm();
    assert!(first.wait().await.success());
    // The spans were flushed at the end.
    let cut = collector.message("the message that was cut off", |_| true).await;
    expect(&cut.root, &[("error.type", "stopping")]);
    assert!(cut.tree(&queue).contains("ledger release"), "{}", cut.tree(&queue));
    drop(gate);

    // A long lease, because each renewal would add a span.
    variables.push(("LOGFERRY_LEDGER__LEASE", "60s"));
    let second = setup.worker_with(&variables).await;
    let resumed = collector.message("the resumed message", |span| !is_failed(span)).await;
    setup.acknowledged(&second, 1).await;
    expect(resumed.span("ledger claim"), &[("logferry.ledger.claim", "resumed")]);
    let tree = resumed.tree(&queue);
    let expected = "\
process queue consumer
  assume internal
    STS.AssumeRole client
  get internal
    S3.GetObject client
  ledger checkpoint internal
    DynamoDB.UpdateItem client
  ledger claim internal
    DynamoDB.BatchExecuteStatement client
    DynamoDB.UpdateItem client
  ledger finish internal
    DynamoDB.UpdateItem client
  lookup internal
    DynamoDB.Query client
  put internal
    CloudWatch Logs.PutLogEvents client
  route internal
  settle queue client
    SQS.DeleteMessageBatch client";
    assert_eq!(tree, expected, "\n{tree}");
    let metrics = second.metrics().await;
    let events =
        resumed.all("put").filter_map(|put| attribute(put, "logferry.batch.events")?.parse::<f64>().ok());
    let (puts, events) = events.fold((0.0, 0.0), |(puts, sum), events| (puts + 1.0, sum + events));
    assert_eq!(puts, metrics.get("logferry_batches_total"), "each batch has its put");
    assert!(puts > 3.0, "the object has many batches: {puts}");
    assert_eq!(events, metrics.get("logferry_records_total{outcome=\"accepted\"}"), "{metrics:?}");
    expect(resumed.span("get"), &[("logferry.records", "400")]);
    expect(&resumed.root, &[("logferry.message.attempts", "2")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_a_resumed_message_arrive_over_grpc() {
    a_resumed_message(Protocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spans_of_a_resumed_message_arrive_over_http() {
    a_resumed_message(Protocol::Http).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_can_continue_its_senders_trace() {
    let (setup, collector) = (Setup::new("traces-parent").await, Collector::start(Protocol::Grpc).await);
    let mut variables = collector.variables();
    variables.push(("LOGFERRY_TRACES__PARENT", "true"));
    let worker = setup.worker_with(&variables).await;
    send(&setup, "not sampled", &header("0")).await;
    eventually("the first letter", async || {
        let letters = worker.metrics().await.sum("logferry_dead_letters_total");
        if letters == 1.0 { Ok(()) } else { Err(format!("{letters}")) }
    })
    .await;
    send(&setup, "sampled", &header("1")).await;
    let sampled = collector.message("the sampled message", |_| true).await;
    assert_eq!((sampled.id(), hex(&sampled.root.parent_span_id)), (TRACE.to_owned(), SPAN.to_owned()));
    assert!(sampled.root.links.is_empty());
    let roots = collector.spans().into_iter().filter(|span| span.name.starts_with("process ")).count();
    assert_eq!(roots, 1, "the other message is not sampled, as its sender decided");
    let handled = |line: &&serde_json::Value| line["message"] == "a message could not be handled";
    let lines = worker.log_lines();
    let ids: Vec<_> = lines.iter().filter(handled).map(|line| line["trace_id"].as_str()).collect();
    assert_eq!(ids, [Some(TRACE), Some(TRACE)], "both lines have the id");
}

/// Delivers while the collector is down. Returns how long the worker took to end after SIGTERM, and how often the log says that
/// the collector is down.
async fn deliver_without(name: &str, variables: &[(&str, &str)]) -> (Duration, usize) {
    let setup = Setup::new(name).await;
    let customer = setup.customer("acme").await;
    let mut worker = setup.worker_with(&[variables, &[("LOGFERRY_QUEUE__WAIT_TIME", "1s")]].concat()).await;
    let objects: Vec<_> =
        (0..5).map(|number| generated(&format!("acme/c/app/p/{number}.json"), 20, 40)).collect();
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, 5).await;
    setup.arrived_once(&customer, &objects).await;
    eventually("spans are dropped", async || {
        let dropped = worker.metrics().await.get("logferry_spans_dropped_total");
        if dropped > 20.0 { Ok(()) } else { Err(format!("{dropped}")) }
    })
    .await;
    let asked = Instant::now();
    worker.sigterm();
    assert!(worker.wait().await.success());
    let took = asked.elapsed();
    let lines = worker.log_lines();
    let told = lines.iter().filter(|line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("traces cannot be exported"))
    });
    (took, told.count())
}

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    format!("http://{}", listener.local_addr().expect("the listener is bound"))
}

/// Time in which a new worker delivers many small objects.
async fn time_for_many(variables: &[(&str, &str)]) -> Duration {
    let setup = Setup::new("traces-speed").await;
    setup.customer("acme").await;
    for number in 0..MANY {
        setup.upload_generated(&format!("acme/c/app/p/{number}.json"), 20, 40).await;
    }
    let worker = setup.worker_with(variables).await;
    let began = Instant::now();
    setup.acknowledged(&worker, MANY).await;
    let took = began.elapsed();
    eventually("spans are dropped if there are any", async || {
        let dropped = worker.metrics().await.get("logferry_spans_dropped_total");
        same(&(dropped > 0.0), &!variables.is_empty())
    })
    .await;
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_slows_no_delivery() {
    let endpoint = nobody().await;
    let down = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let mut seen = Vec::new();
    // Other tests share the processors, so a comparison is repeated.
    while seen.len() < 3 {
        let (without, with) = (time_for_many(&[]).await, time_for_many(&down).await);
        eprintln!("{MANY} objects took {without:?} without traces, and {with:?} without a collector");
        if with <= without.mul_f64(1.5) + Duration::from_secs(1) {
            return;
        }
        seen.push((without, with));
    }
    panic!("an unreachable collector slows deliveries: {seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_down_disturbs_no_delivery() {
    let endpoint = nobody().await;
    let (took, told) = deliver_without(
        "traces-down",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ],
    )
    .await;
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(told, 1, "the log says it once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_collector_delays_the_end_by_three_seconds_at_most() {
    // The system accepts connections for the listener, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("the listener is bound"));
    let (took, told) = deliver_without(
        "traces-silent",
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "10"),
        ],
    )
    .await;
    assert!(took < Duration::from_secs(9), "{took:?}");
    assert!(told <= 1, "the log says it once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_variables_there_are_no_traces() {
    let setup = Setup::new("traces-off").await;
    setup.customer("acme").await;
    let worker = setup.worker_with(&[("OTEL_SERVICE_NAME", "ferry")]).await;
    setup.upload("acme/c/app/p/1.json", r#"[{"message":"m"}]"#).await;
    setup.acknowledged(&worker, 1).await;
    let lines = worker.log_lines();
    let fields: HashSet<_> =
        lines.iter().filter_map(|line| line.as_object()).flat_map(|line| line.keys()).collect();
    assert!(!fields.contains(&"trace_id".to_owned()), "{fields:?}");
    let (_, metrics) = worker.http_get_as("/metrics", "application/openmetrics-text").await;
    assert!(!metrics.contains("trace_id"), "{metrics}");
}

#[test]
fn a_bad_variable_is_reported_by_its_name() {
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1"),
        ("SQS_QUEUE_URL", "http://127.0.0.1:1/111111111111/q"),
        ("TENANT_CONFIG_TABLE", "tenants"),
        ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
    ];
    let no_file = ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file");
    let no_certificate =
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", env!("CARGO_MANIFEST_DIR").to_owned() + "/Cargo.toml");
    let bad = [("OTEL_TRACES_SAMPLER", "xray"), no_file, (no_certificate.0, no_certificate.1.as_str())];
    for (variable, value) in bad {
        let environment = [&environment[..], &[(variable, value)]].concat();
        for arguments in [&["worker"][..], &["config", "check"]] {
            let output = logferry(arguments, &environment);
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{arguments:?}, {variable}={value}: {text}");
            assert!(text.contains(&format!("logferry: {variable}: ")), "{arguments:?}: {text}");
        }
    }
}
