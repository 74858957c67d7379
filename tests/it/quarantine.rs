//! Records that cannot be delivered go into a bucket of the provider. The other records are delivered.

use std::io::Read;

use flate2::read::GzDecoder;
use logferry_testbed::provision::{CustomerSpec, ReceivedObject};
use serde_json::{Value, json};

use crate::{
    samples::received_events,
    setup::{Setup, text},
};

/// Creates the bucket of the quarantine.
pub(crate) async fn bucket(setup: &Setup) -> String {
    let bucket = format!("{}-quarantine", setup.provider.bucket);
    setup.account().create_bucket(&bucket).await.expect("the bucket can be created");
    bucket
}

/// All files in the bucket by key, as lines.
pub(crate) async fn files(setup: &Setup, bucket: &str) -> Vec<(String, Vec<Value>)> {
    let objects = setup.account().objects(bucket).await.expect("the bucket can be read");
    let file = |object: ReceivedObject| {
        let mut text = String::new();
        GzDecoder::new(&object.bytes[..]).read_to_string(&mut text).expect("a file is text in gzip");
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON"));
        (object.key, lines.collect())
    };
    objects.into_iter().map(file).collect()
}

fn at(days_ago: i64) -> i64 {
    jiff::Timestamp::now().as_millisecond() - days_ago * 86_400_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_are_too_old_or_too_long_are_quarantined() {
    let setup = Setup::new("quarantine").await;
    let bucket = bucket(&setup).await;
    let customer = setup.customer_with(CustomerSpec::new("acme"), &[("oversize", text("quarantine"))]).await;
    let owned = format!("{bucket}={}", setup.provider.account);
    let worker = setup.worker_with(&[("LOGFERRY_QUARANTINE__BUCKET", &owned)]).await;

    let (old, now, long) = (at(15), at(0), "lang \u{fc} ".repeat(150_000));
    let mut records =
        vec![json!({ "message": long, "timestamp": now }), json!({ "message": "new", "timestamp": now })];
    // Only the sandbox rejects events that are too old, as AWS does.
    let strict = setup.sandbox().is_some();
    if strict {
        records.insert(0, json!({ "message": "old", "timestamp": old }));
    }
    setup.upload("acme/c/app/pod/1.json", Value::from(records).to_string()).await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;

    assert_eq!(received_events(&setup.aws, &customer).await, [(now, "new".to_owned())]);
    let files = files(&setup, &bucket).await;
    let mut lines: Vec<_> = files.iter().flat_map(|(_, lines)| lines).collect();
    lines.sort_by_key(|line| line["record"].as_u64());
    let shown = lines
        .iter()
        .map(|line| (line["reason"].as_str(), line["timestamp"].as_i64(), line["message"].as_str()));
    let mut expected = vec![(Some("oversize"), Some(now), Some(long.as_str()))];
    if strict {
        expected.insert(0, (Some("too_old"), Some(old), Some("old")));
    }
    assert!(
        shown.eq(expected),
        "{:?}",
        files.iter().map(|(key, lines)| (key, lines.len())).collect::<Vec<_>>()
    );
    assert!(files.iter().all(|(key, _)| key.starts_with("quarantine/acme/1.json/cloudwatch-")));
    assert_eq!(lines[0]["key"], "acme/c/app/pod/1.json");
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_total{outcome=\"quarantined\"}"), 1.0);
    assert_eq!(metrics.get("logferry_quarantined_total{reason=\"oversize\"}"), 1.0);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarantine_that_cannot_be_written_holds_the_message_back() {
    let setup = Setup::new("no-quarantine").await;
    setup.customer_with(CustomerSpec::new("acme"), &[("oversize", text("quarantine"))]).await;
    let bucket = format!("{}-quarantine", setup.provider.bucket);
    let worker = setup.worker_with(&[("LOGFERRY_QUARANTINE__BUCKET", &bucket)]).await;
    let record = json!([{ "message": "x".repeat(1_100_000), "timestamp": at(0) }]);
    setup.upload("acme/c/app/pod/1.json", record.to_string()).await;
    worker.reaches("logferry_failures_total{reason=\"quarantine\"}", 2.0).await;
    setup.account().create_bucket(&bucket).await.expect("the bucket can be created");
    setup.acknowledged(&worker, 1).await;
    assert_eq!(files(&setup, &bucket).await.len(), 1);
}
