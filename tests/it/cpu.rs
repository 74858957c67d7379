//! Objects that keep a processor busy without ever waiting: they delay their own tenant and no other.

use std::time::{Duration, Instant};

use logferry_testbed::provision::Customer;

use crate::{
    eventually::{eventually, same},
    samples::{Object, assert_same_events, expected, generated, gzip, received_events},
    setup::Setup,
    worker::Worker,
};

const ACKNOWLEDGED: &str = "logferry_messages_total{verdict=\"ack\"}";

/// One mebibyte of repeated text.
fn mebibyte(text: &str) -> Vec<u8> {
    text.as_bytes().repeat((1 << 20) / text.len())
}

/// Objects that take seconds on a fast machine and minutes in this build. None of their records is delivered.
fn busy() -> [(&'static str, Vec<u8>); 4] {
    let zstd = |text: &[u8]| zstd::encode_all(text, 3).expect("memory takes every byte");
    [
        ("empty-messages", gzip(&mebibyte("{\"message\":\"\"}\n")).repeat(1400)),
        ("whitespace", zstd(&mebibyte(" \n")).repeat(1400)),
        ("empty-members", gzip(b"").repeat(1 << 20)),
        ("zeros-behind", [gzip(b"[]"), vec![0; 24 << 20]].concat()),
    ]
}

/// A worker that reads 24 busy objects, six of each kind, and the other tenants.
struct Beside {
    setup: Setup,
    worker: Worker,
    others: Vec<Customer>,
}

impl Beside {
    async fn new(name: &str) -> Option<Self> {
        let setup = Setup::new(name).await;
        setup.sandbox()?;
        setup.customer("busy").await;
        let mut others = Vec::new();
        for name in ["one", "two", "three"] {
            others.push(setup.customer(name).await);
        }
        let variables = [("LOGFERRY_WORKER__GRACE_PERIOD", "10s"), ("LOGFERRY_QUEUE__WAIT_TIME", "1s")];
        let worker = setup.worker_with(&variables).await;
        worker.ready().await;
        // These tenants must be active, so that the busy tenant gets no more than half of the slots.
        for other in &others {
            let first = generated(&format!("{}/c/app/pod/first.json.gz", other.tenant_id), 20, 100);
            setup.upload(&first.key, first.bytes.clone()).await;
        }
        setup.acknowledged(&worker, others.len()).await;
        let stored = "logferry_object_bytes_total{form=\"stored\"}";
        let before = worker.metrics().await.get(stored);
        for (kind, bytes) in busy() {
            for number in 0..6 {
                setup.upload(&format!("busy/c/{kind}/pod/{number}"), bytes.clone()).await;
            }
        }
        eventually("the objects are being read", async || {
            let metrics = worker.metrics().await;
            if metrics.get(stored) > before { Ok(()) } else { Err(format!("{metrics:?}")) }
        })
        .await;
        Some(Self { setup, worker, others })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_objects_do_not_delay_other_tenants() {
    let Some(mut here) = Beside::new("cpu").await else { return };
    let mut slowest = Duration::ZERO;
    let mut sent: Vec<Vec<Object>> = vec![Vec::new(); here.others.len()];
    for number in 0..6 {
        for (other, sent) in here.others.iter().zip(&mut sent) {
            let object = generated(&format!("{}/c/app/pod/{number}.json.gz", other.tenant_id), 20, 100);
            let (began, count) = (Instant::now(), 20 * (number + 2));
            here.setup.upload(&object.key, object.bytes.clone()).await;
            sent.push(object);
            eventually("another tenant's object arrives", async || {
                same(&received_events(&here.setup.aws, other).await.len(), &count)
            })
            .await;
            slowest = slowest.max(began.elapsed());
        }
        let began = Instant::now();
        let (status, body) = here.worker.http_get("/healthz").await.expect("the endpoint answers");
        assert_eq!(status, 200, "{body}");
        assert!(began.elapsed() < Duration::from_secs(1), "health took {:?}", began.elapsed());
    }
    let metrics = here.worker.metrics().await;
    eprintln!("the slowest of 18 took {slowest:?} beside {} busy ones", 45.0 - metrics.get(ACKNOWLEDGED));
    assert!(metrics.get(ACKNOWLEDGED) < 45.0, "the busy objects were finished too early to delay others");
    assert!(slowest < Duration::from_secs(10), "one took {slowest:?}");
    for (other, sent) in here.others.iter().zip(&sent) {
        let mut found = received_events(&here.setup.aws, other).await;
        found.retain(|(_, message)| !message.contains("/first.json.gz"));
        found.sort();
        let mut all: Vec<_> = sent.iter().flat_map(|object| expected(&object.text)).collect();
        all.sort();
        assert_same_events(&other.tenant_id, &found, &all);
    }

    here.worker.sigterm();
    let began = Instant::now();
    assert!(here.worker.wait().await.success());
    assert!(began.elapsed() < Duration::from_secs(12), "the drain took {:?}", began.elapsed());
    assert_eq!(metrics.sum("logferry_ledger_errors_total"), 0.0, "{metrics:?}");
    let without_it =
        here.worker.log_lines().into_iter().filter(|line| line.to_string().contains("without it"));
    assert_eq!(without_it.count(), 0, "the ledger was always in reach");
    here.setup.no_dead_letters().await;
}

/// Every slot has a busy object. The endpoint answers from a thread of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_answers_while_every_slot_is_busy() {
    let setup = Setup::new("cpu-full").await;
    if setup.sandbox().is_none() {
        return;
    }
    let worker = setup.worker_with(&[("LOGFERRY_WORKER__GRACE_PERIOD", "10s")]).await;
    worker.ready().await;
    for tenant in ["one", "two", "three", "four"] {
        setup.customer(tenant).await;
        for (kind, bytes) in busy() {
            for number in 0..2 {
                setup.upload(&format!("{tenant}/c/{kind}/pod/{number}"), bytes.clone()).await;
            }
        }
    }
    let in_flight = "logferry_messages_in_flight";
    eventually("every slot is busy", async || same(&worker.metrics().await.get(in_flight), &16.0)).await;
    let mut answers = Vec::new();
    for round in 0..50 {
        // The status page is larger, and is written at most once per second.
        let paths: &[_] = if round == 25 { &["/healthz", "/readyz", "/"] } else { &["/healthz", "/readyz"] };
        for path in paths {
            let began = Instant::now();
            let (status, body) = worker.http_get(path).await.expect("the endpoint answers");
            answers.push(began.elapsed());
            assert_eq!(status, 200, "{path}: {body}");
        }
    }
    let busy = worker.metrics().await.get(in_flight);
    assert!(busy > 12.0, "{busy} slots are busy");
    answers.sort();
    let (median, slow, slowest) = (answers[50], answers[95], answers[100]);
    eprintln!(
        "beside {busy} busy slots: median {median:?}, 96 of 101 within {slow:?}, all within {slowest:?}"
    );
    // Other processes may take the processors for a moment, so a few answers may take longer.
    assert!(slow < Duration::from_millis(100), "median {median:?}, 96 of 101 within {slow:?}");
    assert!(slowest < Duration::from_millis(500), "the slowest took {slowest:?}");
}
