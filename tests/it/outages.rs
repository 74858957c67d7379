//! A service is out of reach for a while: the worker reports it, recovers by itself, and loses nothing. `loadtest/run
//! chaos --outages` has outages of a whole minute.

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault, FaultId},
};

use crate::{
    eventually::{eventually, same},
    samples::{Object, assert_same_events, expected, generated, received_events},
    setup::Setup,
    worker::Worker,
};

/// Resets every call of a worker to the service from now on.
fn unreachable(sandbox: &Sandbox, service: &str) -> FaultId {
    sandbox.faults().add(Fault { sessions_only: true, ..Fault::new(service, "*", Effect::Reset) })
}

fn object(key: &str) -> Object {
    generated(key, 50, 40)
}

/// Waits until readiness fails for exactly these conditions.
async fn says_what_is_wrong(worker: &Worker, conditions: &[&str]) {
    eventually("readiness says what is wrong", async || {
        let (status, body) = worker.readiness().await?;
        same(&(status, body.status(), body.degraded()), &(503, "unready", conditions.to_vec()))
            .map_err(|seen| format!("{seen}: {body:?}"))
    })
    .await;
    assert_eq!(
        worker.http_get("/healthz").await.expect("the endpoint answers").0,
        200,
        "the worker stays alive"
    );
}

async fn counts(worker: &Worker, metric: &str) {
    worker.until("a metric says what is wrong", |metrics| metrics.sum(metric) >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_sqs_is_reported_and_survived() {
    let setup = Setup::new("no-sqs").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let (first, second) = (object("acme/c/app/pod/1.json.gz"), object("acme/c/app/pod/2.json.gz"));
    // The first object is in progress when the outage begins, so its acknowledgement must wait.
    let late = Fault::new("logs", "PutLogEvents", Effect::Latency { milliseconds: 1000 });
    sandbox.faults().add(Fault { times: Some(1), ..late });
    let worker = setup.worker().await;
    worker.ready().await;
    setup.upload(&first.key, first.bytes.clone()).await;
    eventually("the object is being worked on", async || match sandbox.calls("logs", "PutLogEvents") {
        0 => Err("no call yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    let outage = unreachable(sandbox, "sqs");
    // The dead-letter queue and the deletes need SQS too.
    says_what_is_wrong(&worker, &["receive", "settle"]).await;
    counts(&worker, "logferry_queue_errors_total{call=\"receive\"}").await;
    setup.upload(&second.key, second.bytes.clone()).await;
    sandbox.faults().remove(outage);
    worker.ready().await;
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
    setup.arrived_once(&customer, [&first, &second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_dynamodb_is_reported_and_survived() {
    let setup = Setup::new("no-dynamodb").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (known, unknown) = (setup.customer("known").await, setup.customer("unknown").await);
    let worker = setup.worker().await;
    worker.ready().await;
    let before = object("known/c/app/pod/1.json.gz");
    setup.upload(&before.key, before.bytes.clone()).await;
    setup.acknowledged(&worker, 1).await;
    let outage = unreachable(sandbox, "dynamodb");
    let (during, new) = (object("known/c/app/pod/2.json.gz"), object("unknown/c/app/pod/1.json.gz"));
    setup.upload(&during.key, during.bytes.clone()).await;
    setup.upload(&new.key, new.bytes.clone()).await;
    counts(&worker, "logferry_failures_total{reason=\"tenant_lookup\"}").await;
    says_what_is_wrong(&worker, &["lookup", "ledger"]).await;
    sandbox.faults().remove(outage);
    worker.ready().await;
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
    let found = received_events(&setup.aws, &unknown).await;
    assert_same_events("unknown", &found, &expected(&new.text));
    setup.arrived_once(&known, [&before, &during]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_go_on_without_the_ledger_after_a_while() {
    let setup = Setup::new("no-ledger").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_LEDGER__OUT_OF_REACH_AFTER", "15s")]).await;
    worker.ready().await;
    let fault = Fault::new("dynamodb", "UpdateItem|BatchExecuteStatement", Effect::Reset);
    let outage = sandbox.faults().add(Fault { sessions_only: true, ..fault });
    let object = object("acme/c/app/pod/1.json.gz");
    setup.upload(&object.key, object.bytes.clone()).await;
    // At first the message waits.
    counts(&worker, "logferry_failures_total{reason=\"ledger_unavailable\"}").await;
    assert_eq!(received_events(&setup.aws, &customer).await, []);
    // After `ledger.out_of_reach_after` the worker goes on without the ledger.
    counts(&worker, "logferry_ledger_out_of_reach").await;
    setup.acknowledged(&worker, 1).await;
    counts(&worker, "logferry_ledger_errors_total").await;
    says_what_is_wrong(&worker, &["ledger"]).await;
    sandbox.faults().remove(outage);
    worker.ready().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_sts_is_reported_and_survived() {
    let setup = Setup::new("no-sts").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (served, new) = (setup.customer("served").await, setup.customer("new").await);
    let environment = setup.environment().await;
    let running = setup.start(&environment).await;
    running.ready().await;
    let first = object("served/c/app/pod/1.json.gz");
    setup.upload(&first.key, first.bytes.clone()).await;
    setup.acknowledged(&running, 1).await;
    let outage = unreachable(sandbox, "sts");
    // An existing session is valid for an hour. A tenant without a session must wait.
    let (second, third) = (object("served/c/app/pod/2.json.gz"), object("new/c/app/pod/1.json.gz"));
    setup.upload(&second.key, second.bytes.clone()).await;
    setup.acknowledged(&running, 2).await;
    setup.upload(&third.key, third.bytes.clone()).await;
    counts(&running, "logferry_failures_total{reason=\"role_unavailable\"}").await;
    let starting = setup.start(&environment).await;
    says_what_is_wrong(&starting, &["assume"]).await;
    says_what_is_wrong(&running, &["assume"]).await;
    sandbox.faults().remove(outage);
    starting.ready().await;
    running.ready().await;
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
    setup.arrived_once(&served, [&first, &second]).await;
    setup.arrived_once(&new, [&third]).await;
}

/// Without the permission, nobody may take an unknown depth for an empty queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depths_that_iam_denies_are_absent_and_said_once() {
    let setup = Setup::new("no-depth").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let denied = Effect::Error(ErrorAnswer::new(403, "AccessDenied"));
    let fault = Fault::new("sqs", "GetQueueAttributes", denied);
    sandbox.faults().add(Fault { sessions_only: true, ..fault });
    let worker = setup.worker().await;
    worker.ready().await;
    let mut said = Vec::new();
    eventually("the log says that the depths are absent", async || {
        let lines = worker.log_lines();
        let ours = lines
            .iter()
            .filter(|line| line["message"].to_string().contains("sqs:GetQueueAttributes on the queue"));
        said = ours.filter_map(|line| line["queue"].as_str().map(str::to_owned)).collect();
        said.sort();
        same(&said, &vec!["dead_letter_queue".to_owned(), "queue".to_owned()])
    })
    .await;
    let metrics = worker.metrics().await;
    let refused = "logferry_aws_call_duration_seconds_count{service=\"SQS\",operation=\"GetQueueAttributes\",outcome=\"refused\"}";
    assert!(metrics.get(refused) >= 2.0, "{metrics:?}");
    for metric in ["logferry_queue_messages", "logferry_dead_letter_queue_messages"] {
        assert!(!metrics.names().any(|name| name.starts_with(metric)), "{metrics:?}");
    }
}
