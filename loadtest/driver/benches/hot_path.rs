//! Benchmarks of the hot path's steps, and of the libraries alone on the same input. Figures are MB/s of the bytes that a step
//! reads or sends.
//!
//! The input is one object of the generator. The result of each step is checked before the step is measured.

use std::{
    borrow::Cow,
    hint::black_box,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_cloudwatchlogs::{Client, types::InputLogEvent};
use aws_smithy_runtime_api::{
    client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::{HttpRequest, HttpResponse},
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use jiff::Timestamp;
use logferry::{
    batch::{Batch, BatchHead, Buffers},
    breaker::{self, ProbeIntervals},
    credentials::{
        assumed::AssumedRole,
        customers::{self, Customers, SessionSettings},
        request::{AssumeRequest, SessionLife},
    },
    decode::{Decoded, Decoder, MAX_WINDOW, Window},
    event::ObjectRef,
    ledger::lease::Lease,
    records::{EscapedMessage, More, RecordReader, Step},
    sink::{
        LogSink, LogSinks,
        cloudwatch::{CloudWatchSink, CloudWatchSinks, RequestCompression},
        group_breaker::GroupBreakers,
    },
    tenant::{CloudWatch, Delivery, Destination, Mode, Oversize},
};
use serde::Deserialize;
use sha2::Digest;
use tokio::runtime::Runtime;

use self::driver::{
    generate::{self, Compression, Shape, Size},
    usage,
    yardstick::{WINDOW, inflate, unzstd},
};

/// Sources of the instrument, included by path because a bench cannot import from a binary.
#[path = "../src"]
mod driver {
    #[expect(dead_code, unused_imports, reason = "the benches need a part of it, and none of its tests")]
    pub(super) mod generate;
    #[expect(
        dead_code,
        unused_imports,
        reason = "the yardstick needs the time of its own thread alone, and no tests"
    )]
    pub(super) mod usage;
    #[expect(
        dead_code,
        unused_imports,
        reason = "the benches measure its decoders one by one, without its tests"
    )]
    pub(super) mod yardstick;
}

/// Bytes of JSON in the object.
const PLAIN: usize = 16_000_000;
const MAX_RECORD: usize = 16 << 20;
const GROUP: &str = "/customer/cluster";
const STREAM: &str = "web-web-7d4b9c6f5-x2x8p-2026-11-21";

/// Generates the object that the benches use, and its bytes.
fn object(shape: &Shape) -> (generate::Object, Vec<u8>) {
    let start: Timestamp = "2026-11-21T08:00:00Z".parse().expect("a timestamp");
    generate::object(1, Size::Plain(PLAIN), shape, start).expect("memory takes everything")
}

fn stored_as(compression: Compression) -> Vec<u8> {
    object(&Shape { compression, ..Shape::default() }).1
}

/// Creates a group of benchmarks. Twenty samples suffice, because each takes hundreds of times the clock's resolution. All
/// groups together take two minutes.
fn group<'a>(criterion: &'a mut Criterion, name: &str, bytes: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::BytesDecimal(bytes as u64));
    group
}

/// Measures decompression into the window, over the bytes of the output; `inflate` and `unzstd` measure the libraries alone.
fn decode(criterion: &mut Criterion) {
    let plain = stored_as(Compression::None);
    let (gzip, zstd) = (stored_as(Compression::Gzip), stored_as(Compression::Zstd));

    let mut window = vec![0; WINDOW];
    let whole = plain.len() as u64;
    assert_eq!(inflate(&gzip, &mut window).expect("the object is whole"), whole);
    assert_eq!(unzstd(&zstd, &mut window).expect("the object is whole"), whole);
    let mut alone = group(criterion, "inflate", plain.len());
    alone.bench_function("flate2 alone, gzip", |bencher| bencher.iter(|| inflate(&gzip, &mut window)));
    alone.bench_function("zstd alone", |bencher| bencher.iter(|| unzstd(&zstd, &mut window)));
    alone.finish();

    let mut ours = group(criterion, "decode", plain.len());
    for (name, object) in [("gzip", &gzip), ("zstd", &zstd), ("plain", &plain)] {
        assert_eq!(to_window(object), plain.len());
        ours.bench_function(name, |bencher| bencher.iter(|| to_window(object)));
    }
    ours.finish();
}

/// Decompresses everything through the worker's window. Returns the number of bytes.
fn to_window(object: &[u8]) -> usize {
    let (mut decoder, mut window) = (Decoder::new(u64::MAX, MAX_WINDOW), Window::default());
    let (mut input, mut produced) = (object, 0);
    while !input.is_empty() {
        let decoded = decoder.decode(&mut input, &mut window).expect("the object is whole");
        assert_eq!(decoded, Decoded::Step, "the zstd window is not a large one");
        let unread = black_box(window.unread()).len();
        window.consume(unread);
        produced += unread;
    }
    decoder.finish(&mut window).expect("the object is whole");
    produced + window.unread().len()
}

/// Fields that serde_json parses, for comparison with our scan. They are unescaped, and borrowed where there are no escapes.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
}

/// Result of both parsers: number of records, sum of their timestamps, bytes of their messages.
#[derive(Debug, Default, PartialEq)]
struct Found {
    records: u64,
    timestamps: i64,
    bytes: usize,
}

impl Found {
    fn add(&mut self, timestamp: i64, bytes: usize) {
        self.records += 1;
        self.timestamps = self.timestamps.wrapping_add(timestamp);
        self.bytes += bytes;
    }
}

/// Measures reading records, over all bytes of the text. Our reader leaves messages escaped and counts the bytes that they
/// would have unescaped; serde_json unescapes them.
fn records(criterion: &mut Criterion) {
    let plain = stored_as(Compression::None);
    let expected = by_reader(&plain);
    assert_eq!(expected.records, object(&Shape::default()).0.records);
    assert_eq!(expected, by_serde(&plain));
    let mut group = group(criterion, "records", plain.len());
    group.bench_function("RecordReader", |bencher| bencher.iter(|| by_reader(&plain)));
    group.bench_function("serde_json, borrowed fields", |bencher| bencher.iter(|| by_serde(&plain)));
    group.finish();
}

fn by_reader(text: &[u8]) -> Found {
    let mut found = Found::default();
    each_record(text, |timestamp, message| {
        found.add(timestamp, message.len());
        black_box(message);
    });
    found
}

fn each_record<'a>(text: &'a [u8], mut take: impl FnMut(i64, EscapedMessage<'a>)) {
    let (mut reader, mut rest) = (RecordReader::new(MAX_RECORD, Timestamp::MAX), text);
    while let Step::Record { record, consumed } = reader.next(rest, More::Ended).expect("the text is valid") {
        take(record.timestamp.expect("every record has one"), record.message);
        rest = &rest[consumed..];
    }
}

fn by_serde(text: &[u8]) -> Found {
    let records: Vec<Fields<'_>> = serde_json::from_slice(text).expect("the text is valid");
    let mut found = Found::default();
    for Fields { timestamp, message } in &records {
        let timestamp: Timestamp = timestamp.parse().expect("a timestamp");
        found.add(timestamp.as_millisecond(), message.len());
    }
    black_box(records);
    found
}

/// Events as the batch takes them, without empty ones.
fn events(text: &[u8]) -> Vec<(i64, EscapedMessage<'_>)> {
    let mut events = Vec::new();
    each_record(text, |timestamp, message| {
        if !message.is_empty() {
            events.push((timestamp, message));
        }
    });
    events
}

/// Measures batching records into bodies that could be sent, over the bytes of their messages.
fn batch(criterion: &mut Criterion) {
    for (name, late) in [("chronological", 0.0), ("1 % late", 0.01)] {
        let (object, text) = object(&Shape { late, compression: Compression::None, ..Shape::default() });
        let events = events(&text);
        assert_eq!(late == 0.0, events.is_sorted_by_key(|(timestamp, _)| timestamp));
        let messages = events.iter().map(|(_, message)| message.len()).sum();
        let mut buffers = [Buffers::default(), Buffers::default()];
        assert_eq!(into_batches(&events, &mut buffers), object.totals.events);
        let mut group = group(criterion, "batch", messages);
        group.bench_function(name, |bencher| bencher.iter(|| into_batches(&events, &mut buffers)));
        group.finish();
    }
}

/// Batches the events in two pairs of buffers that take turns, as in a delivery. Returns the number of events.
fn into_batches(events: &[(i64, EscapedMessage<'_>)], buffers: &mut [Buffers; 2]) -> u64 {
    let [first, spare] = std::mem::take(buffers);
    let mut batch = Batch::in_buffers(&BatchHead::new(GROUP, STREAM), first);
    let (mut spare, mut sent) = (spare, 0);
    let mut send = |batch: &mut Batch| {
        let mut closed = batch.close(std::mem::take(&mut spare));
        sent += closed.len() as u64;
        let mut from = 0;
        while from < closed.len() {
            let part = closed.part(from);
            black_box(closed.seal(&part, None));
            from = part.end;
        }
        spare = closed.into_buffers();
    };
    for (record, (timestamp, message)) in (0..).zip(events) {
        if !batch.takes(*timestamp, message.len()) {
            send(&mut batch);
        }
        batch.push(record, *timestamp, message, true);
    }
    send(&mut batch);
    *buffers = [batch.take_buffers(), spare];
    sent
}

/// Answers every call at once: a session for STS, success for CloudWatch Logs.
#[derive(Clone, Debug, Default)]
struct Service {
    /// The last body of PutLogEvents, if a caller of `events_of` waits for it.
    kept: Arc<Mutex<Option<Vec<u8>>>>,
}

impl HttpConnector for Service {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = if request.uri().contains("//sts.") {
            SdkBody::from(
                "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIDEXAMPLE</AccessKeyId>\
                 <SecretAccessKey>secret</SecretAccessKey><SessionToken>token</SessionToken>\
                 <Expiration>2100-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>",
            )
        } else {
            let body = request.body().bytes().expect("the body is in memory");
            assert_eq!(request.headers().get("content-length"), Some(body.len().to_string().as_str()));
            if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                body.clone_into(kept);
            }
            SdkBody::from("{}")
        };
        let ok = StatusCode::try_from(200).expect("a status");
        HttpConnectorFuture::ready(Ok(HttpResponse::new(ok, body)))
    }
}

impl Service {
    /// Returns the events in the body of the call that `call` makes.
    fn events_of(&self, call: impl FnOnce()) -> serde_json::Value {
        let lock = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *lock() = Some(Vec::new());
        call();
        let body = lock().take().expect("the call kept its body");
        let body: serde_json::Value = serde_json::from_slice(&body).expect("the body is JSON");
        assert_eq!(body["logGroupName"], GROUP);
        body["logEvents"].clone()
    }

    fn config(&self) -> SdkConfig {
        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("token".to_owned()), None, "bench");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::from_static("eu-central-1"))
            .retry_config(RetryConfig::standard())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }

    /// Sink of the worker for a customer's account.
    async fn sink(&self) -> CloudWatchSink {
        let sdk = self.config();
        let hour = Duration::from_secs(3600);
        let life = SessionLife { duration: hour, refresh_before: Duration::from_secs(600) };
        let central =
            AssumeRequest::central("arn:aws:iam::111111111111:role/central".parse().expect("a role"));
        let central = AssumedRole::new(aws_sdk_sts::Client::new(&sdk), None, central, life);
        let probe_intervals = ProbeIntervals { first: hour, longest: hour };
        let settings = SessionSettings { life, cache_capacity: 1, probe_intervals };
        let destination = CloudWatch {
            role: "arn:aws:iam::222222222222:role/customer".parse().expect("a role"),
            external_id: Some("bench".to_owned()),
            session_tags: false,
            source_identity: false,
            log_group_name: GROUP.to_owned(),
            log_stream_name: Default::default(),
            retention_days: None,
            oversize: Oversize::Split,
        };
        let delivery = Delivery {
            tenant_id: "bench".to_owned(),
            name: "cloudwatch".to_owned(),
            enabled: true,
            desired_logs: None,
            mode: Mode::Live,
            target_region: "eu-central-1".to_owned(),
            destination: Destination::CloudWatch(destination.clone()),
        };
        let base = sdk.into();
        let customers = Customers::new(&base, &central, settings, customers::Metrics::default());
        let groups = GroupBreakers::new(settings.probe_intervals, 1, breaker::Metrics::default());
        let sinks = CloudWatchSinks::new(&base, customers, groups, RequestCompression::None);
        sinks.open(&delivery, &destination, "", &ObjectRef::default()).await.expect("STS answers")
    }
}

/// Measures three ways from the events of one full batch to the HTTP client, signing included, over the bytes of its
/// messages. Also measures SHA-256 alone over the batch's body, because all three ways hash it.
fn body(criterion: &mut Criterion) {
    let text = stored_as(Compression::None);
    let head = BatchHead::new(GROUP, STREAM);
    let (mut full, mut batch) = (Vec::new(), Batch::new(&head));
    for (timestamp, message) in events(&text) {
        if !batch.takes(timestamp, message.len()) {
            break;
        }
        batch.push(full.len() as u64, timestamp, &message, true);
        full.push((timestamp, message));
    }
    // Every way starts from messages in memory: escaped for our batch, unescaped for the SDK.
    full.sort_by_key(|(timestamp, _)| *timestamp);
    let plain: Vec<(i64, String)> = full
        .iter()
        .map(|(timestamp, message)| {
            let quoted = [b"\"", message.escaped(), b"\""].concat();
            (*timestamp, serde_json::from_slice(&quoted).expect("a message is legal"))
        })
        .collect();
    let messages = plain.iter().map(|(_, message)| message.len()).sum();
    let mut closed = batch.close(Buffers::default());
    let sealed = closed.seal(&(0..full.len()), None);
    eprintln!("body: {} events, {messages} bytes of messages, a body of {} bytes", full.len(), sealed.len());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the system can start threads");
    let service = Service::default();
    let client = Client::new(&service.config());
    let sink = runtime.block_on(service.sink());
    let mut buffers = Buffers::default();
    let expected = service.events_of(|| put_events(&runtime, &client, &plain));
    assert_eq!(expected.as_array().map(Vec::len), Some(full.len()));
    assert_eq!(expected, service.events_of(|| put_swapped(&runtime, &client, &head, &full, &mut buffers)));
    assert_eq!(expected, service.events_of(|| put_ours(&runtime, &sink, &head, &full, &mut buffers)));

    let mut ways = group(criterion, "body", messages);
    ways.bench_function("the SDK's writer, the SDK's SHA-256", |bencher| {
        bencher.iter(|| put_events(&runtime, &client, &plain));
    });
    ways.bench_function("Batch by mutate_request, the SDK's SHA-256", |bencher| {
        bencher.iter(|| put_swapped(&runtime, &client, &head, &full, &mut buffers));
    });
    ways.bench_function("Batch by CloudWatchSink, ring's SHA-256", |bencher| {
        bencher.iter(|| put_ours(&runtime, &sink, &head, &full, &mut buffers));
    });
    ways.finish();

    let mut hashes = group(criterion, "sha256", sealed.len());
    hashes.bench_function("ring", |bencher| {
        bencher.iter(|| ring::digest::digest(&ring::digest::SHA256, &sealed));
    });
    hashes.bench_function("sha2", |bencher| bencher.iter(|| sha2::Sha256::digest(&sealed)));
    hashes.finish();
}

fn put_events(runtime: &Runtime, client: &Client, events: &[(i64, String)]) {
    let event = |(timestamp, message): &(i64, String)| {
        let event = InputLogEvent::builder().timestamp(*timestamp).message(message).build();
        event.expect("both members are set")
    };
    let events = events.iter().map(event).collect();
    let call = client.put_log_events().log_group_name(GROUP).log_stream_name(STREAM);
    runtime.block_on(call.set_log_events(Some(events)).send()).expect("the service accepts everything");
}

fn put_swapped(
    runtime: &Runtime,
    client: &Client,
    head: &BatchHead,
    events: &[(i64, EscapedMessage<'_>)],
    buffers: &mut Buffers,
) {
    in_one_batch(head, events, buffers, |body| {
        let call = client.put_log_events().log_group_name("-").log_stream_name("-");
        let call = call.set_log_events(Some(Vec::new())).customize().mutate_request(move |request| {
            request.headers_mut().insert("content-length", body.len().to_string());
            *request.body_mut() = SdkBody::from(body.clone());
        });
        runtime.block_on(call.send()).expect("the service accepts everything");
    });
}

fn put_ours(
    runtime: &Runtime,
    sink: &CloudWatchSink,
    head: &BatchHead,
    events: &[(i64, EscapedMessage<'_>)],
    buffers: &mut Buffers,
) {
    in_one_batch(head, events, buffers, |body| {
        runtime
            .block_on(sink.put_log_events(body, &Lease::unlimited()))
            .expect("the service accepts everything");
    });
}

/// Adds the events to a batch in these buffers and passes the body on.
fn in_one_batch(
    head: &BatchHead,
    events: &[(i64, EscapedMessage<'_>)],
    buffers: &mut Buffers,
    put: impl FnOnce(Bytes),
) {
    let mut batch = Batch::in_buffers(head, std::mem::take(buffers));
    for (record, (timestamp, message)) in (0..).zip(events) {
        batch.push(record, *timestamp, message, true);
    }
    let mut closed = batch.close(Buffers::default());
    let whole = 0..closed.len();
    put(closed.seal(&whole, None));
    *buffers = closed.into_buffers();
}

criterion_group!(benches, decode, records, batch, body);
criterion_main!(benches);
