//! Inputs that other shippers have handled wrongly (`fixtures/field`), each file with its correct result. Other modules
//! test each kind with inputs of their own.

use std::{collections::BTreeMap, fs, path::Path};

use logferry_sandbox::faults::Fault;
use logferry_testbed::provision::Customer;
use serde_json::Value;

use crate::{
    operator,
    samples::{Event, received, received_events},
    setup::Setup,
};

const DAY: i64 = 86_400;

/// Reads a file and shifts its times without changing their form or length: epoch seconds of 2026-11-27 become `now`,
/// those of two days before become two days before `now`.
fn file(path: &str, now: i64) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/field");
    let bytes = fs::read(root.join(path)).expect("the file is there");
    let text = jiff::Timestamp::from_second(now).expect("now").strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let moved = [
        ("2026-11-27T04:27:52", text),
        ("1795753673", now.to_string()),
        ("1795580873", (now - 2 * DAY).to_string()),
    ];
    moved.iter().fold(bytes, |bytes, (from, to)| {
        assert_eq!(from.len(), to.len());
        let mut bytes = bytes;
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from.as_bytes()) {
            at += found;
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        bytes
    })
}

fn minute_ago() -> i64 {
    jiff::Timestamp::now().as_second() - 60
}

/// Events that arrived, by the name of the file.
async fn arrived(setup: &Setup, customer: &Customer) -> BTreeMap<String, Vec<Event>> {
    let streams = received(&setup.aws, customer).await.into_iter();
    streams
        .map(|(name, events)| {
            let name = name.strip_prefix("app-").expect("the application comes first");
            (name[..name.len() - "-YYYY-MM-DD".len()].to_owned(), events)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_arrives_with_its_correct_text_and_time() {
    let setup = Setup::new("field").await;
    let customer = setup.customer("acme").await;
    let now = minute_ago();
    let at = now * 1000;
    let files: [(&str, &[&str], i64); 15] = [
        ("bom/bom.json", &["hello"], at),
        ("bom/bom.ndjson", &["line1", "line2"], at),
        ("one-line-takes-the-object/depth-128.json", &["ok1", "deep", "ok2"], at),
        ("one-line-takes-the-object/depth-128.ndjson", &["ok1", "deep", "ok2"], at),
        ("one-line-takes-the-object/invalid-utf8.json", &["ok1", "caf\u{fffd}", "ok2"], at),
        ("one-line-takes-the-object/lone-surrogate.json", &["ok1", "cut \u{fffd} here", "ok2"], at),
        ("timestamps/escaped-plus.json", &["a"], at),
        ("timestamps/fraction-10-digits.json", &["a"], at + 123),
        ("timestamps/microseconds-integer.json", &["a"], at),
        ("timestamps/nanoseconds-float.json", &["a"], at),
        ("timestamps/nanoseconds-integer.json", &["a"], at),
        ("zstd-window/level19-ok.json.zst", &["hello"], at),
        ("zstd-window/level20.json.zst", &["hello"], at),
        ("zstd-window/level21.json.zst", &["hello"], at),
        ("zstd-window/skippable-frame-first.json.zst", &["hello"], at),
    ];
    let name = |path: &str| path.rsplit('/').next().expect("the file has a name").to_owned();
    for (path, ..) in files {
        setup.upload(&format!("acme/c/app/{}/1", name(path)), file(path, now)).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, files.len()).await;
    let expected: BTreeMap<_, Vec<Event>> = files
        .iter()
        .map(|(path, messages, at)| {
            (name(path), messages.iter().map(|message| (*at, (*message).to_owned())).collect())
        })
        .collect();
    assert_eq!(arrived(&setup, &customer).await, expected);
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_mended_total"), 2.0);
    assert_eq!(metrics.get("logferry_records_undated_total"), 0.0);

    // An impossible time counts as missing, and the object's time is used.
    let before = jiff::Timestamp::now().as_millisecond() - 1000;
    setup.upload("acme/c/app/zero.json/1", file("timestamps/zero.json", now)).await;
    setup.acknowledged(&worker, files.len() + 1).await;
    let found = arrived(&setup, &customer).await.remove("zero.json").expect("the object arrived");
    let [(time, message)] = &found[..] else { panic!("{found:?}") };
    let after = jiff::Timestamp::now().as_millisecond() + 1000;
    assert!((before..=after).contains(time) && message == "a", "{found:?} from {before} to {after}");
    assert_eq!(worker.metrics().await.get("logferry_records_undated_total"), 1.0);
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_two_alternating_days_take_two_puts() {
    let setup = Setup::new("field-days").await;
    let customer = setup.customer("acme").await;
    let worker = setup.worker().await;
    // Creates the stream.
    let now = minute_ago();
    setup.upload("acme/c/app/pod/0", file("bom/bom.json", now)).await;
    setup.acknowledged(&worker, 1).await;
    let puts = || setup.sandbox().map(|sandbox| sandbox.calls("logs", "PutLogEvents"));
    let before = puts();
    let text = file("one-put-per-record/two-days-alternating.json", now - 60);
    setup.upload("acme/c/app/pod/1", text.clone()).await;
    setup.acknowledged(&worker, 2).await;
    let records: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(records.len(), 1000);
    let mut expected: Vec<Event> = records
        .iter()
        .map(|record| {
            let message = record["message"].as_str().expect("a text").to_owned();
            (record["timestamp"].as_i64().expect("a number"), message)
        })
        .collect();
    let mut found = received_events(&setup.aws, &customer).await;
    found.retain(|(_, message)| message != "hello");
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(puts(), before.map(|before| before + 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_a_document_are_events_of_their_own() {
    let setup = Setup::new("field-envelopes").await;
    let customer = setup.customer("acme").await;
    let now = minute_ago();
    for name in ["cloudtrail.json", "subscription.json"] {
        let bytes = file(&format!("envelopes-as-one-event/{name}"), now);
        setup.upload(&format!("acme/c/app/{name}/1"), bytes).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 2).await;
    setup.no_dead_letters().await;
    let found = arrived(&setup, &customer).await;
    let time = jiff::Timestamp::from_second(now).expect("now").to_string();
    let trail = [0, 1, 2].map(|n| (now * 1000, format!(r#"{{"eventTime": "{time}", "eventName": "E{n}"}}"#)));
    assert_eq!(found["cloudtrail.json"], trail);
    assert_eq!(
        found["subscription.json"],
        ["m0", "m1", "m2"].map(|message| (now * 1000, message.to_owned()))
    );
}

/// Message from a file, about an object of the staging bucket.
fn message(setup: &Setup, path: &str) -> String {
    let text = String::from_utf8(file(path, minute_ago())).expect("UTF-8");
    assert!(text.contains("\"BUCKET\""), "{text}");
    text.replace("BUCKET", &setup.provider.bucket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_marker_is_acknowledged() {
    let setup = Setup::new("field-folder").await;
    setup.customer("acme").await;
    setup.send(&message(&setup, "folder-marker/event.json")).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    assert_eq!(worker.metrics().await.get("logferry_skipped_total{reason=\"folder_marker\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permanent_refusals_become_dead_letters_with_their_reasons() {
    let setup = Setup::with("field-refused", |spec| spec.versioned = true).await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    setup.send(&message(&setup, "retried-for-ever/event-bad-version.json")).await;
    let fault: Fault = serde_json::from_slice(&file("retried-for-ever/sandbox-fault.json", minute_ago()))
        .expect("a fault of the sandbox");
    sandbox.faults().add(fault);
    setup.upload("acme/c/app/pod/1", file("bom/bom.ndjson", minute_ago())).await;
    let worker = setup.worker().await;
    let letters = setup.dead_letters(2).await;
    for (key, reason, said) in [
        ("acme/c1/a/p/1", "object_refused", "InvalidArgument"),
        ("acme/c/app/pod/1", "batch_refused", "Log event too large"),
    ] {
        let letter = letters.iter().find(|letter| letter.get("key") == key).expect("a letter about the key");
        assert_eq!(letter.get("reason"), reason, "{letter:?}");
        assert!(letter.get("error").contains(said), "{letter:?}");
    }
    setup.queue_is_empty().await;
    let retries = worker.metrics().await.get("logferry_messages_total{verdict=\"retry\"}");
    assert_eq!(retries, 4.0, "three receives each");
    assert_eq!(received_events(&setup.aws, &customer).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_other_partitions_can_be_used() {
    let row = String::from_utf8(file("partitions/row.json", minute_ago())).expect("UTF-8");
    let arguments = ["tenant", "validate", "-"];
    operator::reading(&arguments, &BTreeMap::new(), &row).await.with(0).saying("1 row can be used");
}
