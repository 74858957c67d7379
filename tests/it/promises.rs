//! Nothing is lost and at most two batches arrive twice while workers are paused, the ledger throttles, or the quarantine
//! cannot be written.

use std::time::Duration;

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use serde_json::json;

use crate::{
    eventually::eventually,
    quarantine::{bucket, files},
    samples::{Object, assert_at_least_once, assert_same_events, expected, generated, received_events},
    setup::Setup,
};

/// Events per batch: their messages have 20,000 bytes.
const BATCH: usize = 52;

/// An object of eight batches.
fn eight_batches() -> Object {
    generated("acme/c/app/pod/1.json.gz", 8 * BATCH, 20_000)
}

async fn until_calls(sandbox: &Sandbox, service: &str, operation: &str, count: u64) {
    eventually("the calls are made", async || match sandbox.calls(service, operation) {
        calls if calls >= count => Ok(()),
        calls => Err(format!("{calls} of {count}")),
    })
    .await;
}

/// Stops a worker while it puts its `nth` batch, starts another worker, and resumes the first one after `pause`. At most two
/// batches may arrive twice.
async fn paused(name: &str, attempt_timeout: &str, nth: u64, pause: Duration) {
    let setup = Setup::new(name).await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let object = eight_batches();
    // The sandbox accepts a batch half a second after it arrived, whether the worker runs or not.
    sandbox.faults().add(Fault::new("logs", "PutLogEvents", Effect::Latency { milliseconds: 500 }));
    let variables = [
        ("LOGFERRY_DELIVERY__ATTEMPT_TIMEOUT", attempt_timeout),
        ("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s"),
    ];
    let sleeper = setup.worker_with(&variables).await;
    setup.upload(&object.key, object.bytes.clone()).await;
    until_calls(sandbox, "logs", "PutLogEvents", nth).await;
    sleeper.pause();
    let other = setup.worker_with(&variables).await;
    tokio::time::sleep(pause).await;
    sleeper.resume();
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
    // A worker that lost the object has noticed by now, or has finished.
    eventually("both workers are idle", async || {
        let mut busy = 0.0;
        for worker in [&sleeper, &other] {
            busy += worker.metrics().await.get("logferry_messages_in_flight");
        }
        if busy == 0.0 { Ok(()) } else { Err(format!("{busy} messages in flight")) }
    })
    .await;
    let found = received_events(&setup.aws, &customer).await;
    let twice = assert_at_least_once("acme", &found, &expected(&object.text));
    eprintln!("{name}: {twice} events of {} came twice", found.len() - twice);
    assert!(twice <= 2 * BATCH, "{twice} events came twice, which is more than two batches");
}

/// The lease lasts 10 s, and another worker may take the object over one second later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_paused_for_longer_than_its_lease_repeats_at_most_two_batches() {
    let runs = [(3, 16), (5, 20)];
    let runs = runs.map(|(nth, pause)| paused("asleep", "2s", nth, Duration::from_secs(pause)));
    futures_join(runs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_paused_for_longer_than_an_attempt_repeats_at_most_two_batches() {
    let runs = [(3, 4), (6, 7)];
    let runs = runs.map(|(nth, pause)| paused("nap", "2s", nth, Duration::from_secs(pause)));
    futures_join(runs).await;
}

/// While the worker is paused, no other worker takes the object over, so the worker continues after it has asked the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_worker_that_lost_no_lease_continues() {
    let setup = Setup::new("alone").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let object = eight_batches();
    sandbox.faults().add(Fault::new("logs", "PutLogEvents", Effect::Latency { milliseconds: 500 }));
    let worker = setup.worker_with(&[("LOGFERRY_DELIVERY__ATTEMPT_TIMEOUT", "2s")]).await;
    setup.upload(&object.key, object.bytes.clone()).await;
    until_calls(sandbox, "logs", "PutLogEvents", 3).await;
    worker.pause();
    tokio::time::sleep(Duration::from_secs(12)).await;
    worker.resume();
    setup.acknowledged(&worker, 1).await;
    let found = received_events(&setup.aws, &customer).await;
    let twice = assert_at_least_once("acme", &found, &expected(&object.text));
    assert!(twice <= BATCH, "{twice} events came twice, which is more than the batch on its way");
    assert_eq!(worker.metrics().await.get("logferry_messages_total{verdict=\"retry\"}"), 0.0);
}

/// Runs two futures at the same time.
async fn futures_join([one, other]: [impl Future<Output = ()>; 2]) {
    tokio::join!(one, other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_throttles_repeats_nothing() {
    let setup = Setup::new("throttled-ledger").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let throttle = |calls: u64| {
        let refusal = Effect::Error(ErrorAnswer::new(400, "ThrottlingException"));
        let fault = Fault::new("dynamodb", "UpdateItem|BatchExecuteStatement", refusal);
        // The SDK makes three attempts of each call. `contains` leaves out the calls of readiness.
        let contains = Some("1.json.gz".to_owned());
        sandbox.faults().add(Fault { times: Some(3 * calls), sessions_only: true, contains, ..fault })
    };
    let object = eight_batches();
    // The ledger throttles at the beginning of the object, in its middle, and when the message comes again. This fault makes the
    // message come again.
    let fault =
        Fault::new("logs", "PutLogEvents", Effect::Error(ErrorAnswer::new(400, "ThrottlingException")));
    sandbox.faults().add(Fault { contains: Some("00000300 ".to_owned()), times: Some(8), ..fault });
    throttle(3);
    setup.upload(&object.key, object.bytes.clone()).await;
    let worker = setup.worker().await;
    until_calls(sandbox, "logs", "PutLogEvents", 3).await;
    throttle(3);
    eventually("the message is tried again", async || {
        let retries = worker.metrics().await.get("logferry_messages_total{verdict=\"retry\"}");
        if retries >= 1.0 { Ok(()) } else { Err(format!("{retries}")) }
    })
    .await;
    throttle(3);
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    let metrics = worker.metrics().await;
    assert!(metrics.sum("logferry_ledger_errors_total") >= 3.0, "{metrics:?}");
    assert_eq!(metrics.get("logferry_ledger_out_of_reach"), 0.0);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_missing_for_twelve_receives_repeats_nothing() {
    let setup = Setup::new("owed").await;
    // Only the sandbox rejects events that are too old, as AWS does.
    if setup.sandbox().is_none() {
        return;
    }
    let customer = setup.customer("acme").await;
    let missing = format!("{}-quarantine", setup.provider.bucket);
    let worker = setup.worker_with(&[("LOGFERRY_QUARANTINE__BUCKET", &missing)]).await;
    let now = jiff::Timestamp::now().as_millisecond();
    let record = |message: String, at: i64| json!({ "message": message, "timestamp": at });
    let good: Vec<_> = (0..500).map(|index| (now + index, format!("good {index}"))).collect();
    let old: Vec<_> = (0..500).map(|index| (now - 15 * 86_400_000 + index, format!("old {index}"))).collect();
    let records: Vec<_> = good.iter().zip(&old).flat_map(|(one, other)| [one, other]).collect();
    let records: Vec<_> = records.into_iter().map(|(at, message)| record(message.clone(), *at)).collect();
    setup.upload("acme/c/app/pod/1.json", json!(records).to_string()).await;
    worker.reaches("logferry_failures_total{reason=\"quarantine\"}", 12.0).await;
    let found = received_events(&setup.aws, &customer).await;
    assert_same_events("acme", &found, &good);
    let outcomes = async || {
        let metrics = worker.metrics().await;
        ["accepted", "too_old", "quarantined"]
            .map(|outcome| metrics.get(&format!("logferry_records_total{{outcome=\"{outcome}\"}}")))
    };
    assert_eq!(outcomes().await, [500.0, 500.0, 0.0]);
    assert_eq!(bucket(&setup).await, missing);
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &good);
    let lines: Vec<_> = files(&setup, &missing).await.into_iter().flat_map(|(_, lines)| lines).collect();
    let mut kept: Vec<_> = lines
        .iter()
        .map(|line| {
            (
                line["timestamp"].as_i64().unwrap_or_default(),
                line["message"].as_str().unwrap_or_default().to_owned(),
            )
        })
        .collect();
    kept.sort();
    let mut old = old;
    old.sort();
    assert_same_events("quarantine", &kept, &old);
    assert_eq!(outcomes().await, [500.0, 500.0, 0.0]);
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_quarantined_total{reason=\"too_old\"}"), 500.0);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
}
