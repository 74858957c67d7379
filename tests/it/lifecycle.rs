//! Start, stop and death of a worker: nothing is lost.

use std::time::Instant;

use logferry_testbed::provision::Customer;
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    gate::Gate,
    samples::{Object, assert_at_least_once, assert_same_events, expected, received_events},
    setup::{Setup, s3_event},
    worker::Worker,
};

/// Variable for the SDK's endpoint of CloudWatch Logs alone.
const LOGS_ENDPOINT: &str = "AWS_ENDPOINT_URL_CLOUDWATCH_LOGS";
/// About two batches of the large object.
const GATE_BYTES: usize = 2_500_000;

/// A worker that is held in the middle of an object of eight batches.
struct MidObject {
    setup: Setup,
    customer: Customer,
    object: Object,
    gate: Gate,
    worker: Worker,
}

impl MidObject {
    async fn new(name: &str, variables: &[(&str, &str)]) -> Self {
        let setup = Setup::new(name).await;
        let customer = setup.customer("acme").await;
        let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 400, 20_000).await;
        let gate = Gate::new(&setup.aws.endpoint, GATE_BYTES).await;
        let mut variables = variables.to_vec();
        variables.push((LOGS_ENDPOINT, gate.endpoint()));
        let worker = setup.worker_with(&variables).await;
        worker.ready().await;
        let here = Self { gate, setup, customer, object, worker };
        eventually("the first events are there and the gate is shut", async || {
            let arrived = here.arrived().await.len();
            if arrived > 0 && here.gate.is_shut() { Ok(()) } else { Err(format!("{arrived} events")) }
        })
        .await;
        let arrived = here.arrived().await.len();
        assert!(arrived < 400, "the gate let {arrived} events through");
        here
    }

    async fn arrived(&self) -> Vec<(i64, String)> {
        received_events(&self.setup.aws, &self.customer).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sigterm_running_work_finishes_and_readiness_fails() {
    // With a wait time of 1 s, the long poll that is open at the signal ends soon and does not receive the late message.
    let variables = [("LOGFERRY_WORKER__GRACE_PERIOD", "30s"), ("LOGFERRY_QUEUE__WAIT_TIME", "1s")];
    let mut here = MidObject::new("drain", &variables).await;
    here.worker.sigterm();
    eventually("readiness fails", async || {
        let (status, body) = here.worker.readiness().await?;
        same(&(status, body.status(), body.degraded()), &(503, "draining", vec!["draining"]))
    })
    .await;
    assert_eq!(here.worker.http_get("/healthz").await.expect("the endpoint answers").0, 200);
    here.setup.upload_generated("acme/c/app/pod/2.json.gz", 5, 40).await;
    here.gate.open();
    let status = here.worker.wait().await;
    assert!(status.success(), "{status}");
    assert_same_events("acme", &here.arrived().await, &expected(&here.object.text));
    // The worker must not receive messages that arrive after SIGTERM.
    eventually("the late message is free (visible, in flight)", async || {
        same(&here.setup.queue_depth().await, &(1, 0))
    })
    .await;
    let second = here.setup.worker().await;
    here.setup.acknowledged(&second, 1).await;
    let found = here.arrived().await.len();
    assert_eq!(found, 405, "the second worker brought the late object and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_cut_off_by_the_grace_period_goes_to_another_worker_at_once() {
    let mut here = MidObject::new("cut-off", &[("LOGFERRY_WORKER__GRACE_PERIOD", "6s")]).await;
    let before = here.arrived().await.len();
    here.worker.sigterm();
    let status = here.worker.wait().await;
    assert!(status.success(), "{status}");
    assert_eq!(here.setup.queue_depth().await, (1, 0), "the message was given back (visible, in flight)");
    drop(here.gate);
    let second = here.setup.worker().await;
    here.setup.acknowledged(&second, 1).await;
    let found = received_events(&here.setup.aws, &here.customer).await;
    let twice = assert_at_least_once("acme", &found, &expected(&here.object.text));
    // AWS did not get the put that the gate holds, and the ledger has the batches before it.
    assert_eq!((twice, before > 0), (0, true), "no event arrives a second time");
    here.setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_message_is_delivered_again() {
    // The shortest visibility timeout that the worker allows: the killed worker's message stays hidden for that time.
    let visibility = [("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s")];
    let MidObject { setup, customer, object, gate, worker } = MidObject::new("killed", &visibility).await;
    worker.kill().await;
    drop(gate);
    assert_eq!(setup.queue_depth().await, (0, 1), "the message is still hidden (visible, in flight)");
    let second = setup.worker_with(&visibility).await;
    setup.acknowledged(&second, 1).await;
    let found = received_events(&setup.aws, &customer).await;
    let twice = assert_at_least_once("acme", &found, &expected(&object.text));
    // A batch holds 52 of these events.
    assert!(twice <= 2 * 52, "{twice} events came twice, more than two batches");
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_exits_at_once() {
    let mut here = MidObject::new("twice", &[("LOGFERRY_WORKER__GRACE_PERIOD", "10m")]).await;
    here.worker.sigterm();
    eventually("readiness fails", async || {
        same(&here.worker.http_get("/readyz").await.map_err(|error| error.to_string())?.0, &503)
    })
    .await;
    let second_signal = Instant::now();
    here.worker.sigterm();
    let status = here.worker.wait().await;
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(second_signal.elapsed().as_secs() < 5, "after {:?}", second_signal.elapsed());
    assert_eq!(
        here.setup.queue_depth().await,
        (0, 1),
        "the message was not acknowledged (visible, in flight)"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_queue_the_worker_is_alive_but_not_ready() {
    let setup = Setup::new("no-queue").await;
    let missing = format!("{}-missing", setup.provider.queue_url);
    let mut worker = setup.worker_with(&[("SQS_QUEUE_URL", &missing)]).await;
    eventually("only the queue is not ready", async || {
        let (status, body) = worker.readiness().await?;
        let receive = body.condition("receive");
        let seen = (status, body.degraded(), receive["problem"].as_str(), receive["remedy"].as_str());
        let remedy = "Create the queue, or correct queue.url.";
        let expected = (503, vec!["receive"], Some("The queue does not exist."), Some(remedy));
        same(&seen, &expected).map_err(|seen| format!("{seen}: {body:?}"))
    })
    .await;
    assert_eq!(worker.http_get("/healthz").await.expect("the endpoint answers").0, 200);
    // The line is written up to 10 ms later.
    eventually("the log has the words of SQS", async || {
        let lines = worker.log_lines();
        let told = lines.iter().find(|line| line["condition"] == "receive" && line["level"] == "WARN");
        let told = told.map(|line| line["error"].to_string()).unwrap_or_default();
        if told.contains("NonExistentQueue") { Ok(()) } else { Err(told) }
    })
    .await;
    worker.sigterm();
    let status = worker.wait().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_answers() {
    let setup = Setup::new("endpoint").await;
    let worker = setup.worker().await;
    worker.ready().await;
    let state = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().expect("a text").to_owned();
        text("since").parse::<jiff::Timestamp>().expect("RFC 3339");
        (text("condition"), text("status"))
    };
    // These two are not needed for readiness, and their probes may answer later.
    eventually("every probe has an answer", async || {
        let (_, body) = worker.readiness().await?;
        let states = ["get", "settle"].map(|name| body.condition(name)["status"].clone());
        same(&states, &[json!("ok"), json!("ok")])
    })
    .await;
    for path in ["/healthz", "/readyz"] {
        let (status, body) = worker.http_get(path).await.expect("the endpoint answers");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((status, &body["status"]), (200, &json!("ok")), "{path}: {body}");
        let states: Vec<_> = body["conditions"].as_array().expect("an array").iter().map(state).collect();
        let expected = [
            ("receive", "ok"),
            ("lookup", "ok"),
            ("assume", "ok"),
            ("get", "ok"),
            ("put", "unknown"),
            ("settle", "ok"),
            ("ledger", "ok"),
            ("quarantine", "off"),
            ("draining", "ok"),
        ];
        assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state.to_owned())));
    }
    let (status, metrics) = worker.http_get("/metrics").await.expect("the endpoint answers");
    assert_eq!(status, 200);
    assert!(metrics.contains("logferry_records_unaccounted_total 0"), "{metrics}");
    assert_eq!(worker.http_get("/nothing").await.expect("the endpoint answers").0, 404);
    // The first log line has the port that the system chose.
    let first = worker.log_lines().into_iter().next().expect("the log has a line");
    let address = first["http.listen"].as_str().expect("the address");
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
}

/// The log goes to a pipe, which holds 64 KiB, and nobody reads the pipe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_log_does_not_stop_deliveries() {
    let setup = Setup::new("unread-log").await;
    let customer = setup.customer("acme").await;
    let mut worker = setup.start_unread(&setup.environment().await).await;
    // Each record of such a message is a line at debug: a folder needs no delivery.
    let mut folders = s3_event(&setup.provider.bucket, "acme/c/app/p/");
    let records = folders["Records"].as_array_mut().expect("an array");
    records[0]["s3"]["object"]["size"] = 0.into();
    *records = vec![records[0].clone(); 1500];
    let mut count = 0;
    eventually("log lines are dropped", async || {
        count += 1;
        setup.upload_generated(&format!("acme/c/app/p/{count}"), 20, 40).await;
        setup.send(&folders.to_string()).await;
        setup.acknowledged(&worker, 2 * count).await;
        let dropped = worker.metrics().await.get("logferry_log_lines_dropped_total");
        if dropped > 0.0 { Ok(()) } else { Err(format!("{dropped} were dropped")) }
    })
    .await;
    assert_eq!(received_events(&setup.aws, &customer).await.len(), 20 * count);
    worker.sigterm();
    assert!(worker.wait().await.success());
}
