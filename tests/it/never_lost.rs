//! Each failure that is known to have cost other shippers data: nothing is lost, and events that CloudWatch Logs
//! accepted do not arrive again.
//!
//! Three are tested elsewhere: a denied role in `isolation`, a corrupt gzip in `verdicts`, and a message that takes
//! longer than its visibility timeout in `faults`.

use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use serde_json::json;

use crate::{
    eventually::{eventually, same},
    samples::{assert_same_events, expected, generated, gzip, received_events},
    setup::{Setup, s3_event},
};

/// About the calls of one minute: far more than the SDK's attempts and a few redeliveries take.
const A_MINUTE_OF_CALLS: u64 = 15;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_503_from_put_log_events_loses_nothing() {
    let setup = Setup::new("minute").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    // Eight batches. The fifth is refused for the whole time, when four are already in the account.
    let object = generated("acme/c/app/pod/1.json.gz", 400, 20_000);
    let fault = Fault::new(
        "logs",
        "PutLogEvents",
        Effect::Error(ErrorAnswer::new(503, "ServiceUnavailableException")),
    );
    let fifth = Some("00000230 ".to_owned());
    sandbox.faults().add(Fault { contains: fifth, times: Some(A_MINUTE_OF_CALLS), ..fault });
    setup.upload(&object.key, object.bytes.clone()).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    let metrics = worker.metrics().await;
    assert!(metrics.get("logferry_messages_total{verdict=\"retry\"}") >= 2.0, "{metrics:?}");
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
    assert!(metrics.get("logferry_records_total{outcome=\"resumed\"}") >= 200.0, "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_with_one_record_per_line_is_delivered() {
    let setup = Setup::new("array-lines").await;
    let customer = setup.customer("acme").await;
    let object = generated("acme/c/app/pod/1.json.gz", 200, 100);
    let text = object.text.replace("},{\"application\"", "},\n  {\"application\"");
    let text = format!("[\n  {}\n]\n", text.trim_start_matches('[').trim_end_matches(']'));
    assert_eq!(text.lines().count(), 202);
    setup.upload(&object.key, gzip(text.as_bytes())).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
}

/// Records before the bad line arrive once, however often the object is announced, and each dead letter names the line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_before_a_bad_line_arrive_once() {
    let setup = Setup::with("bad-line", |spec| spec.versioned = true).await;
    let customer = setup.customer("acme").await;
    let object = generated("acme/c/app/pod/1.json.gz", 100, 100);
    let lines = object.text.trim_start_matches('[').trim_end_matches(']');
    let lines = lines.replace("},{\"application\"", "}\n{\"application\"");
    let mut lines: Vec<_> = lines.lines().collect();
    lines.insert(60, "2026-11-22 08:00:00 no JSON at all");
    setup.upload(&object.key, gzip(lines.join("\n").as_bytes())).await;
    let get = setup.account().s3().get_object().bucket(&setup.provider.bucket).key(&object.key).send().await;
    let version = get.expect("the object exists").version_id;
    let mut again = s3_event(&setup.provider.bucket, &object.key);
    again["Records"][0]["s3"]["object"]["versionId"] = json!(version);
    setup.send(&again.to_string()).await;
    let worker = setup.worker().await;
    let letters = setup.dead_letters(2).await;
    for letter in &letters {
        assert_eq!(
            (letter.get("reason"), letter.get("record_offset")),
            ("corrupt_object", "60"),
            "{letter:?}"
        );
    }
    setup.queue_is_empty().await;
    let good = &expected(&object.text)[..60];
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, good);
    assert_eq!(worker.metrics().await.get("logferry_records_total{outcome=\"accepted\"}"), 60.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_are_too_old_do_not_affect_the_others() {
    let setup = Setup::new("too-old").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    // All events are within an hour around the age of 14 days, so they share a batch.
    let limit = Timestamp::now() - SignedDuration::from_hours(14 * 24);
    let records: Vec<_> = (0..100)
        .map(|index| {
            let after = if index < 3 { -30 } else { 30 };
            let at = limit + SignedDuration::from_mins(after) + SignedDuration::from_millis(index);
            json!({ "message": format!("record {index}"), "timestamp": format!("{at:.9}") })
        })
        .collect();
    let text = serde_json::to_string(&records).expect("JSON");
    setup.upload("acme/c/app/pod/1.json", text.clone()).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    let found = received_events(&setup.aws, &customer).await;
    assert_same_events("acme", &found, &expected(&text)[3..]);
    let metrics = worker.metrics().await;
    let outcome = |name| metrics.get(&format!("logferry_records_total{{outcome=\"{name}\"}}"));
    assert_eq!((outcome("accepted"), outcome("too_old")), (97.0, 3.0));
    assert_eq!(metrics.get("logferry_batches_total"), 1.0);
    assert_eq!(metrics.get("logferry_messages_received_total"), 1.0);
    let puts = sandbox.calls("logs", "PutLogEvents");
    // The first call finds that the stream does not exist.
    assert!(puts <= 2, "{puts} calls");
}

/// S3 announces the object three times: at first, while it is worked on, and long after it is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_announced_three_times_arrives_once() {
    let setup = Setup::with("again", |spec| spec.versioned = true).await;
    let customer = setup.customer("acme").await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 400, 20_000).await;
    let get = setup.account().s3().get_object().bucket(&setup.provider.bucket).key(&object.key).send().await;
    let version = get.expect("the object exists").version_id;
    let mut again = s3_event(&setup.provider.bucket, &object.key);
    again["Records"][0]["s3"]["object"]["versionId"] = json!(version);
    setup.send(&again.to_string()).await;
    let (one, other) = (setup.worker().await, setup.worker().await);
    eventually("both messages are done", async || {
        let acknowledged = "logferry_messages_total{verdict=\"ack\"}";
        same(&(one.metrics().await.get(acknowledged) + other.metrics().await.get(acknowledged)), &2.0)
    })
    .await;
    setup.send(&again.to_string()).await;
    setup.queue_is_empty().await;
    setup.no_dead_letters().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    let skipped = "logferry_skipped_total{reason=\"already_delivered\"}";
    let skipped = one.metrics().await.get(skipped) + other.metrics().await.get(skipped);
    assert_eq!(skipped, 2.0, "the first message delivers, the others find the object finished");
}
