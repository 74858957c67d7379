//! Objects written by Vector arrive completely, in order, in the right account, once.

use jiff::Timestamp;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::{Customer, ProviderSpec};
use serde_json::json;

use crate::{
    samples::{Object, assert_same_events, expected, fixtures, generated, received},
    setup::{Setup, s3_event},
};

const ACCEPTED: &str = "logferry_records_total{outcome=\"accepted\"}";
const EMPTY: &str = "logferry_records_total{outcome=\"empty\"}";

/// Delivers a folder of samples and compares what arrived, record by record.
async fn delivers(folder: &str, wiring: impl FnOnce(&mut ProviderSpec)) {
    let setup = Setup::with(folder, wiring).await;
    let mut customers = Vec::new();
    for tenant_id in ["acme-corp", "globex", "initech"] {
        customers.push(setup.customer(tenant_id).await);
    }
    let bystander = setup.customer("bystander").await;
    let objects = fixtures(folder);
    setup.upload_all(&objects).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, objects.len()).await;
    setup.no_dead_letters().await;

    let mut accepted = 0;
    for customer in &customers {
        accepted += check_customer(&setup, customer, &objects).await;
    }
    assert!(accepted > 1000, "the samples hold {accepted} events");
    assert!(received(&setup.aws, &bystander).await.is_empty());

    let metrics = worker.metrics().await;
    let read: usize = objects.iter().map(|object| object.text.matches("\"message\":").count()).sum();
    assert_eq!(metrics.get(ACCEPTED), accepted as f64);
    assert_eq!(metrics.get("logferry_records_read_total"), read as f64);
    assert_eq!(metrics.get(EMPTY), (read - accepted) as f64);
    assert!(metrics.get(EMPTY) > 0.0, "the samples have empty messages");
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
    assert_eq!(metrics.sum("logferry_failures_total"), 0.0);
    assert_eq!(metrics.sum("logferry_dead_letters_total"), 0.0);
}

/// Checks that every stream of a customer holds the events of one object and nothing else. Returns their number.
pub(crate) async fn check_customer(setup: &Setup, customer: &Customer, objects: &[Object]) -> usize {
    let tenant = format!("{}/", customer.tenant_id);
    let mut streams = received(&setup.aws, customer).await;
    let mut count = 0;
    for object in objects.iter().filter(|object| object.key.starts_with(&tenant)) {
        let parts: Vec<_> = object.key.split('/').collect();
        // The stream's date is the object's: today, or yesterday around midnight.
        let prefix = format!("{}-{}-", parts[2], parts[3]);
        let name = streams.keys().find(|name| name.starts_with(&prefix)).cloned();
        let name = name.unwrap_or_else(|| panic!("no stream {prefix}* among {:?}", streams.keys()));
        let date: jiff::civil::Date = name[prefix.len()..].parse().expect("the rest of the name is a date");
        let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        assert!(
            date == today || date == today.yesterday().expect("today is not the earliest date"),
            "{name}"
        );
        let expected = expected(&object.text);
        assert_same_events(&name, &streams.remove(&name).expect("the stream was just found"), &expected);
        count += expected.len();
    }
    assert!(streams.is_empty(), "more in {}: {:?}", customer.account, streams.keys());
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_in_gzip_through_sns_envelopes() {
    delivers("array-gzip", |_| ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_in_zstd_through_raw_sns_delivery() {
    delivers("array-zstd", |spec| spec.raw_delivery = true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ndjson_in_gzip_from_a_bucket_with_versions() {
    delivers("ndjson-gzip", |spec| spec.versioned = true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_ndjson_through_raw_sns_delivery_with_versions() {
    delivers("ndjson-plain", |spec| (spec.raw_delivery, spec.versioned) = (true, true)).await;
}

/// The events can only arrive if the service decompresses the request bodies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_bodies_can_be_compressed() {
    let setup = Setup::new("gzip-bodies").await;
    let customer = setup.customer("acme").await;
    let object = setup.upload_generated("acme/c/app/p/1.json", 2000, 200).await;
    let worker = setup.worker_with(&[("LOGFERRY_DELIVERY__REQUEST_COMPRESSION", "gzip")]).await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    let streams = received(&setup.aws, &customer).await;
    let [(name, events)] = &Vec::from_iter(&streams)[..] else { panic!("not one stream: {streams:?}") };
    assert_same_events(name, events, &expected(&object.text));
    if let Some(sandbox) = setup.sandbox() {
        assert_eq!(
            sandbox.gzip_bodies(),
            sandbox.calls("logs", "PutLogEvents"),
            "all bodies were compressed"
        );
    }
}

/// Events without SNS, in both shapes; several objects in one message; keys with every character that S3 encodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_from_s3_directly_and_from_eventbridge() {
    let setup = Setup::new("shapes").await;
    let customer = setup.customer("acme").await;
    let bucket = format!("{}-silent", setup.provider.bucket);
    let s3 = setup.account().s3();
    s3.create_bucket().bucket(&bucket).send().await.expect("the bucket can be created");
    let objects: Vec<_> = ["acme/c/app one/p/1+1.json", "acme/c/äpp/p/100%.json", "acme/c/app/p/a=b&c.json"]
        .iter()
        .map(|key| generated(key, 10, 40))
        .collect();
    for Object { key, bytes, .. } in &objects {
        let put = s3.put_object().bucket(&bucket).key(key).body(bytes.clone().into()).send();
        put.await.expect("the object can be put");
    }
    let removed = json!({ "eventVersion": "2.1", "eventName": "ObjectRemoved:Delete", "s3": null });
    let record = |key: &str| s3_event(&bucket, key)["Records"][0].clone();
    let records = ["acme/c/app+one/p/1%2B1.json", "acme/c/%C3%A4pp/p/100%25.json"].map(record);
    let records = [&records[0], &removed, &records[1]];
    setup.send(&json!({ "Records": records }).to_string()).await;
    let bridged = json!({
        "version": "0", "detail-type": "Object Created", "source": "aws.s3",
        "detail": { "bucket": { "name": bucket }, "object": { "key": "acme/c/app/p/a=b&c.json", "size": 10 } },
    });
    setup.send(&bridged.to_string()).await;

    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__BUCKETS", &bucket)]).await;
    setup.acknowledged(&worker, 2).await;
    setup.no_dead_letters().await;
    let streams = received(&setup.aws, &customer).await;
    assert_eq!(streams.len(), 3, "{:?}", streams.keys());
    for object in &objects {
        let expected = expected(&object.text);
        let stream = streams.values().find(|events| **events == expected);
        assert!(stream.is_some(), "{} is in none of {streams:?}", object.key);
    }
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_skipped_total{reason=\"not_object_created\"}"), 1.0);
}

/// PutLogEvents takes events within 24 hours of each other, and refuses a whole request because of one event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alternating_days_and_a_refused_event_take_few_puts() {
    let setup = Setup::new("requests").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let error = Effect::Error(ErrorAnswer::new(400, "InvalidParameterException"));
    sandbox
        .faults()
        .add(Fault { contains: Some("event 33 ".into()), ..Fault::new("logs", "PutLogEvents", error) });
    let (now, two_days) = (Timestamp::now().as_millisecond(), 2 * 24 * 3600 * 1000);
    let records: Vec<_> = (0..100)
        .map(|index| json!({"message": format!("event {index} "), "timestamp": now - index % 2 * two_days - 1000 + index}))
        .collect();
    setup.upload("acme/c/app/pod/1.json", serde_json::to_vec(&records).expect("JSON")).await;
    let worker = setup.worker().await;
    let letters = setup.dead_letters(1).await;
    let told = ["reason", "tenant", "record_offset"].map(|name| letters[0].get(name));
    assert_eq!(told, ["event_refused", "acme", "33"], "{:?}", letters[0]);
    let mut found: Vec<_> = received(&setup.aws, &customer).await.into_values().flatten().collect();
    found.sort_unstable();
    let mut expected: Vec<_> = records
        .iter()
        .map(|record| {
            let message = record["message"].as_str().expect("a text").to_owned();
            (record["timestamp"].as_i64().expect("a number"), message)
        })
        .filter(|(_, message)| message != "event 33 ")
        .collect();
    expected.sort_unstable();
    assert_same_events("acme", &found, &expected);
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_total{outcome=\"refused\"}"), 1.0);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
    // One put finds that the stream is missing. Each of the two days takes one put, and the put with the refused event is halved
    // six times.
    let puts = sandbox.calls("logs", "PutLogEvents");
    assert!((4..=16).contains(&puts), "{puts} puts");
}
