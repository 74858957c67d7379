//! `logferry replay`: delivers what the bucket has, goes on after an interruption, keeps its cap, sends messages, watches.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, MessageSystemAttributeName};
use logferry_testbed::provision::{Customer, ProviderSpec};
use serde_json::{Value, json};
use tokio::{process::Child, task::JoinSet};

use crate::{
    deliver::check_customer,
    eventually::{eventually, same},
    operator::{self, Ended, run, signal},
    samples::{Object, expected, fixtures, generated, received_events},
    setup::{Setup, text},
};

/// Number of small objects of the test with an interruption.
const OBJECTS_VARIABLE: &str = "LOGFERRY_REPLAY_OBJECTS";
const OBJECTS: usize = 400;
/// Caps that slow nothing down.
const FAST: [&str; 4] = ["--max-objects-per-second", "100000", "--max-bytes-per-second", "1GiB"];

/// Runs `logferry replay` without slowing caps.
async fn replay(setup: &Setup, arguments: &[&str]) -> Ended {
    replay_in(&setup.environment().await, arguments).await
}

async fn replay_in(environment: &BTreeMap<String, String>, arguments: &[&str]) -> Ended {
    run(&[&["replay"][..], &FAST, arguments].concat(), environment).await
}

/// Checks numbers of the outcome.
#[track_caller]
fn counts(outcome: &Value, expected: &[(&str, u64)]) {
    for (name, expected) in expected {
        assert_eq!(outcome[*name], json!(expected), "{name}: {outcome:#}");
    }
}

/// Uploads a folder of samples for its three tenants.
async fn stage(
    name: &str,
    folder: &str,
    wiring: impl FnOnce(&mut ProviderSpec),
) -> (Setup, Vec<Customer>, Vec<Object>) {
    let setup = Setup::with(name, wiring).await;
    let mut customers = Vec::new();
    for tenant_id in ["acme-corp", "globex", "initech"] {
        customers.push(setup.customer(tenant_id).await);
    }
    let objects = fixtures(folder);
    setup.upload_all(&objects).await;
    (setup, customers, objects)
}

async fn arrived(setup: &Setup, customers: &[Customer], objects: &[Object]) {
    let mut accepted = 0;
    for customer in customers {
        accepted += check_customer(setup, customer, objects).await;
    }
    assert!(accepted > 1000, "the samples hold {accepted} events");
}

/// A replay and a worker use the same entries of the ledger: each finds what the other has delivered.
async fn delivers(folder: &str, wiring: impl FnOnce(&mut ProviderSpec)) {
    let (setup, customers, objects) = stage(&format!("replay-{folder}"), folder, wiring).await;
    let count = objects.len() as u64;
    let outcome = replay(&setup, &[]).await.with(0).json();
    counts(&outcome, &[("listed", count), ("selected", count), ("delivered", count), ("busy", 0)]);
    arrived(&setup, &customers, &objects).await;
    let outcome = replay(&setup, &[]).await.with(0).json();
    counts(&outcome, &[("delivered", 0), ("already_delivered", count)]);
    let worker = setup.worker().await;
    setup.acknowledged(&worker, objects.len()).await;
    assert_eq!(
        worker.metrics().await.get("logferry_skipped_total{reason=\"already_delivered\"}"),
        count as f64
    );
    arrived(&setup, &customers, &objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_arrays_arrive_as_by_the_worker() {
    delivers("array-gzip", |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_lines_in_a_bucket_with_versions_arrive_as_by_the_worker() {
    delivers("ndjson-plain", |spec| (spec.raw_delivery, spec.versioned) = (true, true)).await;
}

/// The bucket's own notifications are taken from the queue first.
async fn without_notifications(setup: &Setup, count: usize) {
    let (sqs, mut taken) = (setup.account().sqs(), 0);
    eventually("the notifications arrive", async || {
        let queue = &setup.provider.queue_url;
        let receive = sqs.receive_message().queue_url(queue).max_number_of_messages(10);
        let received = receive.send().await.expect("the queue can be read").messages.unwrap_or_default();
        if !received.is_empty() {
            let entries = received.iter().enumerate().map(|(index, message)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                let entry = entry.set_receipt_handle(message.receipt_handle.clone());
                entry.build().expect("both members are set")
            });
            let delete = sqs.delete_message_batch().queue_url(queue).set_entries(Some(entries.collect()));
            delete.send().await.expect("the messages can be deleted");
            taken += received.len();
        }
        same(&taken, &count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_to_the_queue_are_delivered_by_the_worker() {
    for versioned in [false, true] {
        let change = |spec: &mut ProviderSpec| spec.versioned = versioned;
        let (setup, customers, objects) = stage("replay-queue", "array-zstd", change).await;
        without_notifications(&setup, objects.len()).await;
        let count = objects.len() as u64;
        let outcome = replay(&setup, &["--to-queue"]).await.with(0).json();
        counts(&outcome, &[("selected", count), ("sent", count), ("delivered", 0)]);
        assert_eq!(setup.queue_depth().await, (count, 0));
        let worker = setup.worker().await;
        setup.acknowledged(&worker, objects.len()).await;
        arrived(&setup, &customers, &objects).await;
        // A message about a finished object is acknowledged without a put.
        replay(&setup, &["--to-queue", "--tenant", "globex"]).await.with(0);
        eventually("the messages are acknowledged", async || same(&setup.queue_depth().await, &(0, 0))).await;
        arrived(&setup, &customers, &objects).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_carries_its_tenant_as_group() {
    let setup = Setup::new("replay-group").await;
    if setup.sandbox().is_none() {
        return;
    }
    setup.upload_generated("globex/c/app/a b+\u{e4}/1.json.gz", 1, 60).await;
    without_notifications(&setup, 1).await;
    replay(&setup, &["--to-queue"]).await.with(0);
    let receive = setup.account().sqs().receive_message().queue_url(&setup.provider.queue_url);
    let received = receive
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .send()
        .await
        .expect("the queue can be read");
    let message = received.messages.unwrap_or_default().remove(0);
    let group = MessageSystemAttributeName::MessageGroupId;
    assert_eq!(message.attributes.and_then(|mut all| all.remove(&group)).as_deref(), Some("globex"));
    let event: Value = serde_json::from_str(message.body.as_deref().unwrap_or_default()).expect("JSON");
    let object = &event["Records"][0]["s3"]["object"];
    assert_eq!(object["key"], "globex/c/app/a+b%2B%C3%A4/1.json.gz", "{event:#}");
}

/// Small objects of several tenants and pods.
fn small_objects(count: usize) -> Vec<Object> {
    let key = |number: usize| {
        format!("{}/c/app/pod-{}/{number:05}.json.gz", ["acme", "globex"][number % 2], number % 8)
    };
    (0..count).map(|number| generated(&key(number), 1, 60)).collect()
}

async fn upload_at_once(setup: &Setup, objects: &[Object]) {
    let mut uploads = JoinSet::new();
    for object in objects {
        if uploads.len() >= 16 {
            uploads.join_next().await;
        }
        let (provider, aws, object) = (setup.provider.clone(), setup.aws.clone(), object.clone());
        uploads.spawn(async move { provider.upload(&aws, &object.key, object.bytes).await });
    }
    for uploaded in uploads.join_all().await {
        uploaded.expect("the object can be put");
    }
}

async fn each_arrived_once(setup: &Setup, customers: &[Customer; 2], objects: &[Object]) {
    for customer in customers {
        let tenant = format!("{}/", customer.tenant_id);
        setup.arrived_once(customer, objects.iter().filter(|object| object.key.starts_with(&tenant))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_replay_goes_on_where_it_stopped_and_keeps_its_cap() {
    let count = std::env::var(OBJECTS_VARIABLE).ok().map(|text| text.parse().expect("a number"));
    let count = count.unwrap_or(OBJECTS);
    let setup = Setup::new("replay-again").await;
    let customers = [setup.customer("acme").await, setup.customer("globex").await];
    let objects = small_objects(count);
    upload_at_once(&setup, &objects).await;
    let environment = setup.environment().await;
    let rate = (count / 40).max(50);
    let capped = ["replay", "--max-objects-per-second", &rate.to_string()];
    let child = operator::start(&capped, &environment);
    // The whole run would take this time, if the machine is fast enough for the cap.
    tokio::time::sleep(Duration::from_secs_f64(count as f64 / rate as f64 / 2.0)).await;
    eventually("an object arrives", async || match received_events(&setup.aws, &customers[0]).await.len() {
        0 => Err("nothing yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    signal(&child, "INT");
    let first = operator::end(child).await.with(1).json();
    let delivered = first["delivered"].as_u64().expect("a number");
    assert!(first["interrupted"] == true && (1..count as u64).contains(&delivered), "{first:#}");
    counts(&first, &[("selected", delivered + first["unfinished"].as_u64().expect("a number"))]);
    let seconds = first["seconds"].as_f64().expect("a number");
    let reached = (delivered + first["unfinished"].as_u64().expect("a number")) as f64 / seconds;
    assert!(reached <= rate as f64 * 1.1, "{reached:.1} objects per second instead of {rate}: {first:#}");
    let gets = setup.sandbox().map(|sandbox| sandbox.calls("s3", "GetObject"));
    let second = run(&capped, &environment).await.with(0).json();
    let known = second["already_delivered"].as_u64().expect("a number");
    assert!(known >= delivered, "{second:#}");
    counts(&second, &[("selected", count as u64), ("delivered", count as u64 - known), ("unfinished", 0)]);
    if let (Some(sandbox), Some(before)) = (setup.sandbox(), gets) {
        let gets = sandbox.calls("s3", "GetObject") - before;
        assert_eq!(gets, count as u64 - known, "finished objects are not read");
    }
    each_arrived_once(&setup, &customers, &objects).await;
    let seconds = second["seconds"].as_f64().expect("a number");
    // A finished object costs a tenth of a turn.
    let reached = ((count as u64 - known) as f64 + known as f64 / 10.0) / seconds;
    assert!(reached <= rate as f64 * 1.1, "{reached:.1} objects per second instead of {rate}: {second:#}");
    eprintln!("{reached:.1} objects per second, with a cap of {rate}; {delivered} before the interruption");
}

/// The run takes eleven seconds, so that it logs a line of progress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cap_in_bytes_holds() {
    let setup = Setup::new("replay-bytes").await;
    let customer = setup.customer("acme").await;
    let mut objects = Vec::new();
    for number in 0..12 {
        objects.push(setup.upload_generated(&format!("acme/c/app/pod/{number}.json.gz"), 200, 300).await);
    }
    let stored: usize = objects.iter().map(|object| object.bytes.len()).sum();
    let cap = (stored / 12).to_string();
    let arguments = ["replay", "--max-bytes-per-second", &cap, "--max-objects-per-second", "1000"];
    let ended = run(&arguments, &setup.environment().await).await.with(0);
    let outcome = ended.json();
    counts(&outcome, &[("delivered", 12), ("stored_bytes", stored as u64)]);
    // The last object's turn need not end.
    let seconds = outcome["seconds"].as_f64().expect("a number");
    assert!((9.9..20.0).contains(&seconds), "{outcome:#}");
    ended.saying("\"replay.objects\":").saying("\"replay.total_objects\":12");
    setup.arrived_once(&customer, &objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_tenant_stops_no_other_and_failures_are_told_by_reason() {
    let setup = Setup::new("replay-broken").await;
    let customer = setup.customer("acme").await;
    setup.customer_without_role("globex", &[]).await;
    let mut good = Vec::new();
    for number in 0..5 {
        good.push(setup.upload_generated(&format!("acme/c/app/pod/{number}.json.gz"), 5, 60).await);
        setup.upload(&format!("globex/c/app/pod/{number}.json.gz"), good[number].bytes.clone()).await;
        setup.upload(&format!("nobody/c/app/pod/{number}.json.gz"), good[number].bytes.clone()).await;
    }
    setup.upload("short", "x").await;
    setup.upload("folder/", "").await;
    let mut environment = setup.environment().await;
    for name in ["LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL"] {
        environment.insert(name.to_owned(), "1s".to_owned());
    }
    let outcome = replay_in(&environment, &[]).await.with(1).json();
    counts(&outcome, &[("listed", 17), ("selected", 15), ("delivered", 5), ("folder_markers", 1)]);
    let failed = &outcome["failed"];
    assert_eq!(
        [&failed["role_denied"]["objects"], &failed["unknown_tenant"]["objects"]],
        [5, 5],
        "{outcome:#}"
    );
    let first = &failed["unknown_tenant"]["first"];
    assert!(first["key"].as_str().is_some_and(|key| key.starts_with("nobody/c/app/pod/")), "{outcome:#}");
    assert_eq!(first["tenant"], "nobody");
    assert!(
        first["remedy"].as_str().is_some_and(|remedy| remedy.contains("logferry tenant put")),
        "{outcome:#}"
    );
    assert_eq!(
        (&outcome["bad_keys"]["objects"], &outcome["bad_keys"]["first"][0]["key"]),
        (&json!(1), &json!("short"))
    );
    setup.arrived_once(&customer, &good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_selected_objects_are_delivered() {
    let setup = Setup::new("replay-select").await;
    let (acme, globex) = (setup.customer("acme").await, setup.customer("globex").await);
    let web = setup.upload_generated("acme/c/web/pod/1.json.gz", 5, 60).await;
    let db = setup.upload_generated("acme/c/db/pod/1.json.gz", 5, 60).await;
    let other = setup.upload_generated("globex/d/web/pod/1.json.gz", 5, 60).await;
    for (arguments, selected) in [
        (&["--since", "2h", "--until", "2020-01-01T00:00:00Z"][..], None),
        (&["--since", "2100-01-01T00:00:00Z"], Some(0)),
        (&["--until", "1h"], Some(0)),
        (&["--tenant", "acme", "--application", "web", "--since", "1h"], Some(1)),
        (&["--prefix", "globex/d/"], Some(1)),
    ] {
        let ended = replay(&setup, arguments).await;
        match selected {
            None => drop(ended.with(2).saying("--since")),
            Some(selected) => {
                counts(&ended.with(0).json(), &[("selected", selected), ("delivered", selected)])
            }
        }
    }
    setup.arrived_once(&acme, [&web]).await;
    setup.arrived_once(&globex, [&other]).await;
    let outcome = replay(&setup, &["--force"]).await.with(0).json();
    counts(&outcome, &[("delivered", 3), ("already_delivered", 0)]);
    setup.arrived_once(&acme, [&web, &web, &db]).await;
}

/// A lease of a killed replay is waited out, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_another_had_is_delivered_after_its_lease() {
    let setup = Setup::new("replay-busy").await;
    let customer = setup.customer("acme").await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 60).await;
    let head = setup.account().s3().head_object().bucket(&setup.provider.bucket).key(&object.key);
    let etag = head.send().await.expect("the object is there").e_tag.expect("an ETag");
    let until = (jiff::Timestamp::now() + Duration::from_secs(4)).as_millisecond();
    let key = format!("{}/{}?eTag={}", setup.provider.bucket, object.key, etag.trim_matches('"'));
    let put = setup.account().dynamodb().put_item().table_name(&setup.provider.ledger_table);
    put.item("object", text(&key))
        .item("delivery", text("cloudwatch"))
        .item("lease_owner", text("killed"))
        .item("lease_until", AttributeValue::N(until.to_string()))
        .send()
        .await
        .expect("the ledger can be written");
    let ended = replay(&setup, &[]).await.with(0).saying("tried a second time");
    counts(&ended.json(), &[("delivered", 1), ("busy", 0)]);
    setup.arrived_once(&customer, [&object]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_counts_estimates_and_delivers_nothing() {
    let setup = Setup::new("replay-dry").await;
    let customer = setup.customer("acme").await;
    let globex = setup.customer("globex").await;
    let objects = small_objects(30);
    upload_at_once(&setup, &objects).await;
    let mut environment = setup.environment().await;
    // A dry run needs no ledger.
    environment.remove("LOGFERRY_LEDGER__TABLE");
    let outcome = replay_in(&environment, &["--dry-run", "--price-per-gb", "1000000"]).await.with(0).json();
    let stored: u64 = objects.iter().map(|object| object.bytes.len() as u64).sum();
    counts(&outcome, &[("selected", 30), ("stored_bytes", stored)]);
    let billed: usize =
        objects.iter().flat_map(|object| expected(&object.text)).map(|(_, text)| text.len() + 26).sum();
    let estimated = outcome["billed_bytes"].as_f64().expect("a number");
    assert!((estimated / billed as f64 - 1.0).abs() < 0.1, "{billed} bytes: {outcome:#}");
    let cost = outcome["cost"].as_f64().expect("a number");
    assert!((cost / (estimated / f64::from(1 << 30) * 1e6) - 1.0).abs() < 0.01, "{outcome:#}");
    assert_eq!(
        (&outcome["tenants"]["acme"]["objects"], &outcome["sample"]["objects"]),
        (&json!(15), &json!(20))
    );
    for customer in [customer, globex] {
        assert_eq!(received_events(&setup.aws, &customer).await, []);
    }
    environment.insert("TENANT_CONFIG_TABLE".to_owned(), "nowhere".to_owned());
    let ended = replay_in(&environment, &["--dry-run"]).await.with(1).saying("there is no estimate");
    assert!(
        ended.stderr.lines().any(|line| line.starts_with("logferry: ") && line.contains("nowhere")),
        "{ended:?}"
    );
    counts(&ended.json(), &[("selected", 30)]);
    assert_eq!(ended.json()["billed_bytes"], Value::Null);
}

fn watch(environment: &BTreeMap<String, String>, arguments: &[&str]) -> Child {
    operator::start(&[&["replay", "--watch", "1s"][..], &FAST, arguments].concat(), environment)
}

/// New objects arrive; a kill and a second instance lose nothing and repeat nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_delivers_new_objects_once_in_spite_of_kills_and_other_instances() {
    let setup = Setup::new("replay-watch").await;
    let customers = [setup.customer("acme").await, setup.customer("globex").await];
    let environment = setup.environment().await;
    run(&["replay", "--watch", "1s"], &environment).await.with(2).saying("--since");
    let objects = small_objects(30);
    upload_at_once(&setup, &objects[..10]).await;
    let arrive = async |count: usize| {
        eventually("the objects arrive", async || {
            let mut found = 0;
            for customer in &customers {
                found += received_events(&setup.aws, customer).await.len();
            }
            same(&found, &count)
        })
        .await;
    };
    let mut first = watch(&environment, &["--since", "1h"]);
    arrive(10).await;
    upload_at_once(&setup, &objects[10..15]).await;
    arrive(15).await;
    first.kill().await.expect("the watch runs");
    upload_at_once(&setup, &objects[15..20]).await;
    let (second, third) = (watch(&environment, &["--since", "1s"]), watch(&environment, &[]));
    arrive(20).await;
    upload_at_once(&setup, &objects[20..]).await;
    arrive(30).await;
    for child in [second, third] {
        signal(&child, "TERM");
        let watched = operator::end(child).await.with(0).json();
        assert!(watched["scans"].as_u64().is_some_and(|scans| scans > 0), "{watched:#}");
        assert!(watched["place"].is_string(), "{watched:#}");
    }
    each_arrived_once(&setup, &customers, &objects).await;
}

/// The samples, found by a watch that sends messages, and delivered by a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_can_send_messages() {
    let (setup, customers, objects) = stage("replay-watch-queue", "ndjson-gzip", |_| ()).await;
    without_notifications(&setup, objects.len()).await;
    let worker = setup.worker().await;
    let child = watch(&setup.environment().await, &["--to-queue", "--since", "1h"]);
    setup.acknowledged(&worker, objects.len()).await;
    signal(&child, "TERM");
    let watched = operator::end(child).await.with(0).json();
    counts(&watched, &[("sent", objects.len() as u64)]);
    arrived(&setup, &customers, &objects).await;
}

/// One line says what is wrong, the exit code tells the kind, and nothing is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_before_anything_is_delivered() {
    let setup = Setup::new("replay-bad").await;
    let customer = setup.customer("acme").await;
    setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 60).await;
    let environment = setup.environment().await;
    let own = |error: &Ended, words: &str| {
        let lines = error.stderr.trim_end().lines().count();
        assert!(error.stdout.is_empty() && lines == 1, "{words}: {error:?}");
    };
    for (arguments, code, words) in [
        (&["--bucket", "other-bucket"][..], 2, "not one of source.buckets"),
        (&["--since", "1h", "--until", "2h"], 2, "--since"),
    ] {
        own(&replay_in(&environment, arguments).await.with(code).saying(words), words);
    }
    // clap's own errors have several lines.
    for arguments in [
        &["--since", "yesterday"][..],
        &["--tenant", "a/b"],
        &["--max-bytes-per-second", "0"],
        &["--max-objects-per-second", "0"],
        &["--concurrency", "0"],
        &["--price-per-gb", "1"],
        &["--overlap", "1h"],
        &["--force", "--dry-run"],
        &["--force", "--to-queue"],
        &["--dry-run", "--watch", "60s"],
        &["--watch", "10ms"],
        &["--watch", "60s", "--until", "1h"],
        &["acme"],
    ] {
        let ended = run(&[&["replay"][..], arguments].concat(), &environment).await.with(2);
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    for (change, code, words) in [
        (("LOGFERRY_LEDGER__TABLE", None), 64, "ledger.table"),
        (("TENANT_CONFIG_TABLE", None), 64, "tenants.table"),
        (("LOGFERRY_SOURCE__BUCKETS", None), 2, "--bucket"),
        (("LOGFERRY_SOURCE__BUCKETS", Some("missing-bucket")), 1, "--bucket or source.buckets"),
    ] {
        let ((name, value), mut environment) = (change, environment.clone());
        match value {
            None => environment.remove(name),
            Some(value) => environment.insert(name.to_owned(), value.to_owned()),
        };
        environment.insert("LOGFERRY_LOG__FILTER".to_owned(), "warn".to_owned());
        own(&replay_in(&environment, &[]).await.with(code).saying(words), words);
    }
    assert_eq!(received_events(&setup.aws, &customer).await, []);
}
