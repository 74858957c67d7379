//! Peak memory of a worker with the worst inputs of each kind, compared with the bound that the worker logs at start-up.

use std::io::Write;

use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::provision::CustomerSpec;

use crate::{
    eventually::eventually,
    quarantine,
    samples::gzip,
    setup::{Setup, s3_event, text},
    worker::Worker,
};

/// Longest record: a quarter of the default, because the reader is slow in this build.
const RECORD: usize = 4 << 20;
const SLOTS: usize = 2;

/// A record of the maximum length: `filler`, repeated between `begin` and `end`.
fn record(begin: &str, filler: &str, end: &str) -> Vec<u8> {
    let times = (RECORD - begin.len() - end.len()) / filler.len();
    [begin, &filler.repeat(times), end].concat().into_bytes()
}

/// A record in which each byte becomes three when it is mended.
fn bytes_that_are_no_utf8() -> Vec<u8> {
    [b"{\"message\":\"", &vec![0xff; RECORD - 14][..], b"\"}"].concat()
}

fn letters(len: usize) -> String {
    let mut random = fastrand::Rng::with_seed(11);
    std::iter::repeat_with(|| random.alphanumeric()).take(len).collect()
}

/// A zstd frame that needs a window of 2^`log` bytes.
fn zstd_with_a_window(log: u32, text: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("level 1 is known");
    encoder.window_log(log).expect("the parameter is known");
    encoder.write_all(text).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// The bound that the worker logs, and its peak memory.
fn bound_and_peak(worker: &Worker) -> Option<(u64, u64)> {
    let lines = worker.log_lines();
    let bound =
        lines.iter().find_map(|line| line["memory.worst_bytes"].as_u64()).expect("the worker logs the bound");
    Some((bound, worker.peak_rss()?))
}

async fn worker(setup: &Setup, variables: &[(&str, &str)]) -> Worker {
    let (slots, record) = (SLOTS.to_string(), format!("{RECORD} B"));
    let mut all = vec![
        ("LOGFERRY_WORKER__CONCURRENCY", slots.as_str()),
        ("LOGFERRY_SOURCE__MAX_RECORD", record.as_str()),
        // Memory reserved for full caches would hide the memory under test.
        ("LOGFERRY_TENANTS__CACHE_CAPACITY", "100"),
        ("LOGFERRY_CREDENTIALS__CACHE_CAPACITY", "100"),
        ("LOGFERRY_LOG__FILTER", "info"),
    ];
    all.extend(variables);
    setup.worker_with(&all).await
}

/// For each kind, uploads as many objects as the worker has slots, then checks the worker's memory.
async fn check(setup: &Setup, kinds: &[(&str, Vec<u8>)], variables: &[(&str, &str)]) {
    check_times(SLOTS, setup, kinds, variables).await;
}

/// For each kind, uploads so many objects, then checks the worker's memory.
async fn check_times(objects: usize, setup: &Setup, kinds: &[(&str, Vec<u8>)], variables: &[(&str, &str)]) {
    let Some(sandbox) = setup.sandbox() else { return };
    let worker = worker(setup, variables).await;
    // Slow puts, so that as much as possible accumulates.
    let slow = Effect::Latency { milliseconds: 100 };
    sandbox.faults().add(Fault::new("logs", "PutLogEvents", slow));
    for (done, (kind, stored)) in kinds.iter().enumerate() {
        for number in 0..objects {
            setup.upload(&format!("acme/c/{}/pod/{number}", kind.replace(' ', "-")), stored.clone()).await;
        }
        setup.acknowledged(&worker, (done + 1) * objects).await;
        let Some((bound, peak)) = bound_and_peak(&worker) else { return };
        eprintln!("{} MiB of {} MiB after {kind}", peak >> 20, bound >> 20);
        assert!(peak <= bound, "{kind}: a peak of {peak} bytes, and the bound is {bound}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worst_records_stay_within_the_bound() {
    let escaped_name = |filler: &str| record("{\"", filler, "\":1}");
    let hard = format!("{{\"message\":\"{}\"}}", letters(RECORD / 2));
    // A second record follows, because a single one could be a document.
    let stored = |record: Vec<u8>| gzip(&[record, b"\n{\"message\":\"\"}".to_vec()].concat());
    let kinds = [
        ("millions of members", stored(record("{\"a\":1", ",\"\":1", "}"))),
        ("nothing but quotes", stored(record("{\"a\":\"\"", ",\"\":\"\"", "}"))),
        ("a name of escapes", stored(escaped_name("\\\""))),
        ("a name of control characters", stored(escaped_name("\\u0001"))),
        ("a message of members", stored(record("{\"message\":{\"a\":1", ",\"\":1", "}}"))),
        ("a message of white space", stored(record("{\"message\":[", "\n", "]}"))),
        ("a message named twice", stored(record("{\"message\":1,\"message\":\"", "\\u0001", "\"}"))),
        ("a message of escapes", stored(record("{\"message\":\"", "\\u0001", "\"}"))),
        ("a window of 8 MiB", zstd_with_a_window(23, hard.as_bytes())),
        ("a window of 128 MiB", zstd_with_a_window(27, &[&vec![b' '; 140 << 20], hard.as_bytes()].concat())),
        ("a message of bytes that are no UTF-8", stored(bytes_that_are_no_utf8())),
    ];
    let setup = Setup::new("worst-records").await;
    setup.customer("acme").await;
    check(&setup, &kinds, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worst_records_for_the_quarantine_stay_within_the_bound() {
    let kinds = [
        ("a line that is no record", ["{\"message\":\"m\"}\n", &letters(RECORD)].concat().into_bytes()),
        ("a message that is too long", format!("{{\"message\":\"{}\"}}", letters(RECORD - 14)).into_bytes()),
    ];
    let setup = Setup::new("worst-aside").await;
    setup.customer_with(CustomerSpec::new("acme"), &[("oversize", text("quarantine"))]).await;
    let bucket = format!("{}={}", quarantine::bucket(&setup).await, setup.provider.account);
    check(&setup, &kinds, &[("LOGFERRY_QUARANTINE__BUCKET", &bucket)]).await;
}

/// Up to eight small objects share a slot. These are small by their events and become large when they are read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_objects_that_grow_stay_within_the_bound() {
    let kinds = [
        ("a message of escapes", gzip(&record("{\"message\":\"", "\\u0001", "\"}"))),
        ("many short lines", gzip(&b"{\"message\":\"a\"}\n".repeat(100_000))),
        ("a window of 8 MiB", zstd_with_a_window(23, &vec![b' '; 10 << 20])),
    ];
    let sizes: Vec<_> = kinds.iter().map(|(_, stored)| stored.len()).collect();
    assert!(sizes.iter().all(|size| *size <= 48 << 10), "several share a slot: {sizes:?}");
    let setup = Setup::new("growing").await;
    setup.customer("acme").await;
    check_times(10 * SLOTS, &setup, &kinds, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worst_messages_stay_within_the_bound() {
    let setup = Setup::new("worst-messages").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let worker = worker(&setup, &[]).await;
    let slow = Effect::Latency { milliseconds: 3000 };
    sandbox.faults().add(Fault { sessions_only: true, ..Fault::new("sqs", "SendMessage", slow) });
    let refused = s3_event("b", "k")["Records"][0].to_string();
    let small = r#"{"eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"b"},"object":{"key":"k"}}}"#;
    let kinds = [
        ("records whose keys are bad", format!("{{\"Records\":[{}]}}", vec![small; 11_000].join(","))),
        (
            "records of objects that do not exist",
            format!("{{\"Records\":[{}]}}", vec![refused.as_str(); 2500].join(",")),
        ),
        (
            "records that are no work",
            format!("{{\"Records\":[{}]}}", vec![r#"{"eventName":""}"#; 60_000].join(",")),
        ),
        ("a body that is not an event", "\"".repeat(1_040_000)),
    ];
    let mut sent = 0;
    for (kind, body) in &kinds {
        for _ in 0..3 * SLOTS {
            setup.send(body).await;
            sent += 1;
        }
        eventually("all messages have a verdict", async || {
            let judged = worker.metrics().await.sum("logferry_messages_total");
            if judged >= f64::from(sent) { Ok(()) } else { Err(format!("{judged} of {sent}")) }
        })
        .await;
        let Some((bound, peak)) = bound_and_peak(&worker) else { return };
        eprintln!("worst-messages: {} MiB of {} MiB after {kind}", peak >> 20, bound >> 20);
        assert!(peak <= bound, "{kind}: a peak of {peak} bytes, and the bound is {bound}");
    }
}

/// Most resident memory of a worker that has nothing to do, with `/metrics` read and the status page shown. The program of the
/// dev profile, whose code is larger, has a bound of its own.
const IDLE: u64 = if cfg!(debug_assertions) { 64 << 20 } else { 24 << 20 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_stays_small() {
    let setup = Setup::new("idle").await;
    setup.customer("acme").await;
    let worker = setup.worker().await;
    eventually("five receives found nothing", async || {
        let (status, page) = worker.http_get("/").await.expect("the endpoint answers");
        assert_eq!(status, 200, "{page}");
        let receives = "logferry_aws_call_duration_seconds_count{service=\"SQS\",operation=\"ReceiveMessage\",outcome=\"ok\"}";
        match worker.metrics().await.get(receives) {
            5.0.. => Ok(()),
            fewer => Err(format!("{fewer} receives")),
        }
    })
    .await;
    let Some(peak) = worker.peak_rss() else { return };
    eprintln!("idle: a peak of {:.1} MiB", peak as f64 / f64::from(1 << 20));
    assert!(peak <= IDLE, "an idle worker had {peak} bytes resident");
}
