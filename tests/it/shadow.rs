//! Shadow mode beside a live worker, and `logferry shadow compare`: counts are exact, nothing is put twice, and a dropped
//! object is found in both directions.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::{
    provision::{Customer, CustomerSpec, FurtherQueue},
    samples::shift,
};
use serde_json::{Value, json};

use crate::{
    deliver::check_customer,
    eventually::{eventually, same},
    operator::{Ended, run},
    samples::{Event, Object, expected, fixtures, generated, gzip, received_events},
    setup::{Setup, s3_event, text},
    worker::Worker,
};

/// What a customer's role must allow for a comparison.
const READABLE: [&str; 3] = ["logs:CreateLogStream", "logs:PutLogEvents", "logs:FilterLogEvents"];
const EVENT_OVERHEAD: u64 = 26;

/// A second queue on the topic, and the environment of a worker in shadow mode on it.
struct Beside {
    queue: FurtherQueue,
    environment: BTreeMap<String, String>,
}

impl Beside {
    async fn new(setup: &Setup) -> Self {
        let queue =
            setup.provider.further_queue(&setup.aws, "shadow").await.expect("the queue can be created");
        let mut environment = setup.environment().await;
        environment.extend(
            [
                ("SQS_QUEUE_URL", queue.url.as_str()),
                ("LOGFERRY_QUEUE__DEAD_LETTER_URL", &queue.dead_letter_url),
                ("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s"),
                ("LOGFERRY_DELIVERY__MODE", "shadow"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        Self { queue, environment }
    }

    async fn worker(&self, setup: &Setup) -> Worker {
        setup.start(&self.environment).await
    }

    /// Waits until the worker has acknowledged `count` messages, and the queue is empty.
    async fn counted(&self, setup: &Setup, worker: &Worker, count: usize) {
        worker
            .until("every message is acknowledged", |metrics| {
                assert_eq!(metrics.sum("logferry_dead_letters_total"), 0.0, "dead letters: {metrics:?}");
                metrics.get("logferry_messages_total{verdict=\"ack\"}") == count as f64
            })
            .await;
        eventually("the queue is empty", async || same(&setup.depth(&self.queue.url).await, &(0, 0))).await;
    }

    /// Compares everything up to now, as JSON.
    async fn compare(&self, arguments: &[&str]) -> Ended {
        let all = ["shadow", "compare", "--json", "--settle", "0s", "--since", "3d", "--rate", "100"];
        run(&[&all[..], arguments].concat(), &self.environment).await
    }
}

/// A customer whose log group logferry may read.
async fn readable(setup: &Setup, tenant_id: &str) -> Customer {
    setup.customer_allowing(CustomerSpec::new(tenant_id), &READABLE).await
}

/// Samples that Vector wrote, with timestamps in windows that are over.
fn settled(folder: &str) -> Vec<Object> {
    let latest = Timestamp::now() - SignedDuration::from_mins(15);
    let shifted = fixtures(folder).into_iter().map(|object| {
        let text = shift(&object.text, latest);
        Object { bytes: gzip(text.as_bytes()), text, ..object }
    });
    shifted.collect()
}

/// Number and bytes of these events, as a comparison shows them.
fn count(events: &[Event]) -> Value {
    let bytes: u64 = events.iter().map(|(_, message)| message.len() as u64 + EVENT_OVERHEAD).sum();
    json!({ "events": events.len(), "bytes": bytes })
}

/// The place of a tenant's log group in a comparison.
fn place<'a>(compared: &'a Value, tenant_id: &str) -> &'a Value {
    let places = compared["places"].as_array().expect("a comparison has places");
    let found = places.iter().find(|place| place["deliveries"][0]["tenant_id"] == tenant_id);
    found.unwrap_or_else(|| panic!("no {tenant_id} in {compared:#}"))
}

/// Takes the message about an object out of a queue before a worker receives it.
async fn drop_message(setup: &Setup, url: &str) {
    let sqs = setup.account().sqs();
    eventually("the notification arrives and is dropped", async || {
        let received = sqs.receive_message().queue_url(url).send().await.expect("the queue can be read");
        let Some(message) = received.messages.unwrap_or_default().pop() else {
            return Err("nothing".to_owned());
        };
        let receipt = message.receipt_handle.expect("a message has a receipt");
        let entry = DeleteMessageBatchRequestEntry::builder().id("1").receipt_handle(receipt);
        let entry = entry.build().expect("both members are set");
        let deleted = sqs.delete_message_batch().queue_url(url).entries(entry).send().await;
        same(&deleted.expect("the queue can be written").failed.len(), &0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_live_worker_counts_are_equal_and_nothing_is_put_twice() {
    let setup = Setup::with("shadow-beside", |spec| spec.versioned = true).await;
    let mut customers = Vec::new();
    for tenant_id in ["acme-corp", "globex", "initech"] {
        customers.push(readable(&setup, tenant_id).await);
    }
    let beside = Beside::new(&setup).await;
    let (live, shadow) = (setup.worker().await, beside.worker(&setup).await);
    eventually("the log says what mode this is", async || {
        same(&shadow.log().contains("nothing will be put"), &true)
    })
    .await;
    let objects = settled("ndjson-gzip");
    setup.upload_all(&objects).await;
    setup.acknowledged(&live, objects.len()).await;
    beside.counted(&setup, &shadow, objects.len()).await;
    let mut accepted = 0;
    for customer in &customers {
        accepted += check_customer(&setup, customer, &objects).await;
    }
    let metrics = shadow.metrics().await;
    assert_eq!(metrics.sum("logferry_tenant_shadow_events_total"), accepted as f64);
    assert_eq!(
        (metrics.get("logferry_batches_total"), metrics.sum("logferry_tenant_events_total")),
        (0.0, 0.0)
    );
    let (_, page) = shadow.http_get("/").await.expect("the endpoint answers");
    assert!(page.contains("3 shadow"), "{page}");

    let compared = beside.compare(&[]).await.with(0).saying("3 equal").json();
    assert_eq!(
        (&compared["result"], compared["places"].as_array().map(Vec::len)),
        (&json!("equal"), Some(3))
    );
    for customer in &customers {
        let events = count(&received_events(&setup.aws, customer).await);
        let place = place(&compared, &customer.tenant_id);
        assert_eq!((&place["counted"], &place["held"]), (&events, &events), "{place:#}");
    }
    let text =
        ["shadow", "compare", "--settle", "0s", "--since", "3d", "--by", "group", "--tenant", "globex"];
    let text = run(&text, &beside.environment).await.with(0);
    assert!(text.stdout.contains("globex cloudwatch") && text.stdout.contains("equal"), "{text:?}");
}

/// One object never reaches the shadow, another never reaches the live worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_objects_are_found_in_both_directions() {
    let setup = Setup::new("shadow-dropped").await;
    let customer = readable(&setup, "acme").await;
    let beside = Beside::new(&setup).await;
    let live = setup.worker().await;
    let both = setup.upload_generated("acme/c/app/both/1.json.gz", 20, 60).await;
    setup.acknowledged(&live, 1).await;
    let shadow = beside.worker(&setup).await;
    beside.counted(&setup, &shadow, 1).await;
    beside.compare(&[]).await.with(0);

    let mut shadow = shadow;
    shadow.sigterm();
    shadow.wait().await;
    let unseen = setup.upload_generated("acme/c/app/unseen/1.json.gz", 7, 60).await;
    setup.acknowledged(&live, 2).await;
    drop_message(&setup, &beside.queue.url).await;
    let shadow = beside.worker(&setup).await;
    let compared = beside.compare(&[]).await.with(1).saying("1 different").json();
    let acme = place(&compared, "acme");
    let differing = |acme: &Value| acme["windows"].as_array().expect("an array").clone();
    let [difference] = differing(acme).try_into().expect("one window of one stream differs");
    assert!(difference["stream"].as_str().expect("a name").starts_with("app-unseen-"), "{difference:#}");
    let events = count(&expected(&unseen.text));
    assert_eq!((&difference["counted"], &difference["held"]), (&count(&[]), &events), "{difference:#}");
    setup.arrived_once(&customer, [&both, &unseen]).await;

    let mut live = live;
    live.sigterm();
    live.wait().await;
    let missing = setup.upload_generated("acme/c/app/missing/1.json.gz", 5, 60).await;
    drop_message(&setup, &setup.provider.queue_url).await;
    beside.counted(&setup, &shadow, 1).await;
    let compared = beside.compare(&["--tenant", "acme"]).await.with(1).json();
    let windows = differing(place(&compared, "acme"));
    assert_eq!(windows.len(), 2, "{windows:#?}");
    let found =
        windows.iter().find(|window| window["held"] == count(&[])).expect("the object is missing there");
    assert!(found["stream"].as_str().expect("a name").starts_with("app-missing-"), "{found:#}");
    assert_eq!(found["counted"], count(&expected(&missing.text)));
    // A difference is also one of sums, and text shows it.
    let sums = beside.compare(&["--by", "group"]).await.with(1).json();
    let sums = place(&sums, "acme");
    assert_eq!((&sums["counted"]["events"], &sums["held"]["events"]), (&json!(25), &json!(27)));
    let text = run(&["shadow", "compare", "--settle", "0s"], &beside.environment).await.with(1).stdout;
    assert!(text.contains("DIFFERENT") && text.contains("app-missing-"), "{text}");
    // The missing object is named as `logferry manual` takes it.
    let url = format!("s3://{}/{}", setup.provider.bucket, missing.key);
    assert_eq!(found["objects"], json!([{ "object": url, "events": 5 }]));
}

/// The answers to the first worker's writes of counts are lost, so its message comes again and again. Then it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_and_redelivery_leave_the_counts_exact() {
    let setup = Setup::new("shadow-killed").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = readable(&setup, "acme").await;
    let beside = Beside::new(&setup).await;
    let (live, shadow) = (setup.worker().await, beside.worker(&setup).await);
    let counts = Some("shadow#acme/cloudwatch".to_owned());
    let lost = Fault::new("dynamodb", "UpdateItem", Effect::After { error: None });
    let lost = sandbox.faults().add(Fault { contains: counts, ..lost });
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 300, 20_000).await;
    shadow.reaches("logferry_messages_total{verdict=\"retry\"}", 1.0).await;
    let counted = async || place(&beside.compare(&[]).await.json(), "acme")["counted"].clone();
    let whole = count(&expected(&object.text));
    assert_eq!(counted().await, whole, "the counts were written at least once");
    shadow.kill().await;
    sandbox.faults().remove(lost);
    let shadow = beside.worker(&setup).await;
    beside.counted(&setup, &shadow, 1).await;
    setup.acknowledged(&live, 1).await;
    let compared = beside.compare(&[]).await.with(0).json();
    assert_eq!(place(&compared, "acme")["counted"], whole);
    setup.arrived_once(&customer, [&object]).await;
}

/// The ledger is told to forget the object, and the message comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_counted_again_does_not_count_twice() {
    let setup = Setup::with("shadow-again", |spec| spec.versioned = true).await;
    readable(&setup, "acme").await;
    let beside = Beside::new(&setup).await;
    let shadow = beside.worker(&setup).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 20, 60).await;
    beside.counted(&setup, &shadow, 1).await;
    let place_in_s3 = format!("s3://{}/{}", setup.provider.bucket, object.key);
    let shown = run(&["ledger", "show", &place_in_s3, "--json"], &beside.environment).await.with(0).json();
    assert_eq!((&shown[0]["delivery"], &shown[0]["state"]), (&json!("shadow#cloudwatch"), &json!("done")));
    let mut event = s3_event(&setup.provider.bucket, &object.key);
    event["Records"][0]["s3"]["object"]["versionId"] = shown[0]["version_id"].clone();
    let send = async || {
        let send = setup.account().sqs().send_message().queue_url(&beside.queue.url);
        send.message_body(event.to_string()).send().await.expect("the message can be sent");
    };
    send().await;
    beside.counted(&setup, &shadow, 2).await;
    shadow.reaches("logferry_skipped_total{reason=\"already_delivered\"}", 1.0).await;
    let forget = ["ledger", "forget", &place_in_s3, "--delivery", "shadow#cloudwatch"];
    run(&forget, &beside.environment).await.with(0);
    send().await;
    beside.counted(&setup, &shadow, 3).await;
    let compared = beside.compare(&[]).await.with(1).json();
    assert_eq!(place(&compared, "acme")["counted"], count(&expected(&object.text)));
}

/// One worker, one tenant in shadow mode by its row. Once the row is live, new objects are delivered, and no old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_in_shadow_mode_beside_live_tenants() {
    let setup = Setup::new("shadow-row").await;
    let live = readable(&setup, "globex").await;
    let changed = setup.customer_without_row(CustomerSpec::new("acme")).await;
    let mut row = changed.row();
    row.insert("deliver".to_owned(), text("shadow"));
    setup.put_row(row).await;
    let worker = setup.worker().await;
    let old = setup.upload_generated("acme/c/app/pod/1.json.gz", 20, 60).await;
    let other = setup.upload_generated("globex/c/app/pod/1.json.gz", 30, 60).await;
    setup.acknowledged(&worker, 2).await;
    setup.arrived_once(&changed, []).await;
    setup.arrived_once(&live, [&other]).await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_tenant_shadow_events_total{tenant=\"acme\"}"), 20.0);
    assert_eq!(metrics.get("logferry_tenant_shadow_events_total{tenant=\"globex\"}"), 0.0);

    // The role does not let anyone read: the counts are shown, and never pass for equal.
    let environment = setup.environment().await;
    let compare = ["shadow", "compare", "--settle", "0s", "--json"];
    let compared = run(&compare, &environment).await.with(3).saying("1 not compared").json();
    assert_eq!(compared["places"].as_array().map(Vec::len), Some(1), "globex is live: {compared:#}");
    let acme = place(&compared, "acme");
    let why = acme["why"].as_str().expect("a text");
    assert!(why.contains("not readable") && why.contains("logs:FilterLogEvents"), "{why}");
    assert_eq!((&acme["counted"], &acme["held"]), (&count(&expected(&old.text)), &Value::Null));
    let told = run(&compare[..4], &environment).await.with(3).stdout;
    assert!(told.contains("not readable") && !told.contains("equal"), "{told}");

    setup.put_row(changed.row()).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let new = generated("acme/c/app/pod/2.json.gz", 10, 60);
    setup.upload(&new.key, new.bytes.clone()).await;
    setup.acknowledged(&worker, 3).await;
    setup.arrived_once(&changed, [&new]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_and_nothing_is_delivered() {
    let setup = Setup::new("shadow-bad").await;
    let environment = setup.environment().await;
    let without = |name: &str| {
        let mut environment = environment.clone();
        environment.remove(name);
        environment
    };
    let shadow = ("LOGFERRY_DELIVERY__MODE".to_owned(), "shadow".to_owned());
    let mut no_ledger = without("LOGFERRY_LEDGER__TABLE");
    for (arguments, environment, code, words) in [
        (&["compare"][..], &environment, 66, "no enabled row is in shadow mode"),
        (&["compare", "--tenant", "nobody"], &environment, 66, "\"nobody\" has no enabled row"),
        (&["compare", "--since", "5m"], &environment, 2, "no whole window"),
        (&["compare", "--since", "yesterday"], &environment, 2, "neither a time"),
        (&["compare", "--rate", "0"], &environment, 2, "--rate"),
        (&["compare", "--by", "pod"], &environment, 2, "--by"),
        (&[], &environment, 2, "compare"),
        (&["compare"], &no_ledger.clone(), 64, "ledger.table"),
        (&["compare"], &without("TENANT_CONFIG_TABLE"), 64, "tenants.table"),
        (&["compare"], &without("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN"), 64, "credentials.central_role_arn"),
    ] {
        let ended = run(&[&["shadow"], arguments].concat(), environment).await.with(code).saying(words);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
    no_ledger.extend([shadow]);
    let refused = run(&["worker"], &no_ledger).await.with(64).saying("delivery.mode: ");
    refused.saying("ledger.table").saying("LOGFERRY_DELIVERY__MODE");
    let mut wrong = environment.clone();
    wrong.insert("LOGFERRY_DELIVERY__MODE".to_owned(), "shade".to_owned());
    run(&["worker"], &wrong).await.with(64).saying("delivery.mode");

    let customer = setup.customer_with(CustomerSpec::new("acme"), &[("deliver", text("shade"))]).await;
    let worker = setup.worker().await;
    setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 60).await;
    let [letter] = setup.dead_letters(1).await.try_into().expect("one letter");
    assert_eq!(letter.reason(), "bad_tenant_row");
    assert!(letter.get("error").contains("neither \"live\" nor \"shadow\""), "{letter:?}");
    assert_eq!(received_events(&setup.aws, &customer).await, []);
    drop(worker);
}
