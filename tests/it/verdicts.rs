//! Each kind of bad input gets its verdict, and its dead letter names the input.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::{CustomerSpec, DeadLetter};
use serde_json::json;

use crate::{
    eventually::{eventually, same},
    samples::{assert_same_events, expected, generated, gzip, received_events},
    setup::{Setup, s3_event, text},
};

/// A message that no retry can help, and the expected content of its dead letter.
struct Hopeless {
    body: String,
    reason: &'static str,
    attributes: Vec<(&'static str, String)>,
}

fn about(bucket: &str, key: &str, reason: &'static str, tenant: Option<&str>) -> Hopeless {
    let mut attributes = vec![("bucket", bucket.to_owned()), ("key", key.to_owned())];
    attributes.extend(tenant.map(|tenant| ("tenant", tenant.to_owned())));
    Hopeless { body: s3_event(bucket, key).to_string(), reason, attributes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hopeless_messages_become_dead_letters() {
    let setup = Setup::new("hopeless").await;
    setup.customer("acme").await;
    let bucket = setup.provider.bucket.as_str();
    let garbage =
        |body: &str| Hopeless { body: body.to_owned(), reason: "bad_event", attributes: Vec::new() };
    let messages = [
        garbage("not an event"),
        garbage(r#"{"hello":"world"}"#),
        garbage(r#"{"Type":"Notification","Message":"{\"Records\":7}"}"#),
        about(bucket, "acme//app/pod/file.json.gz", "bad_key", None),
        about(bucket, "acme/c/app/file.json.gz", "bad_key", None),
        about(bucket, "acme/c/../pod/file.json.gz", "bad_key", None),
        about("somebody-elses-bucket", "acme/c/app/pod/file.json.gz", "foreign_bucket", None),
        about(bucket, "nobody/c/app/pod/file.json.gz", "unknown_tenant", Some("nobody")),
        about(bucket, "acme/c/app/pod/missing.json.gz", "object_missing", Some("acme")),
    ];
    for message in &messages {
        setup.send(&message.body).await;
    }
    let worker = setup.worker().await;
    let letters = setup.dead_letters(messages.len()).await;
    for Hopeless { body, reason, attributes } in &messages {
        let letter = letters.iter().find(|letter| letter.body == *body);
        let letter = letter.unwrap_or_else(|| panic!("no dead letter {body} among {letters:?}"));
        assert_eq!(letter.get("reason"), *reason, "{letter:?}");
        for (name, value) in attributes {
            assert_eq!(letter.get(name), value, "{name} of {letter:?}");
        }
        assert!(!letter.get("error").is_empty(), "{letter:?}");
    }
    setup.queue_is_empty().await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.sum("logferry_dead_letters_total"), messages.len() as f64);
    assert_eq!(metrics.get("logferry_dead_letters_total{reason=\"bad_key\"}"), 3.0);
    // No message was retried.
    assert_eq!(metrics.get("logferry_messages_received_total"), messages.len() as f64);
}

/// Objects that attack the worker: records before the attack are delivered, the error has a name and an offset, and the
/// worker's memory does not grow with the object's size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_and_giant_records_do_not_grow_memory() {
    let setup = Setup::new("bombs").await;
    let customer = setup.customer("acme").await;
    let good = generated("acme/c/app/p/good.json", 2, 60);
    let records = good.text.trim_start_matches('[').trim_end_matches(']').replace("},{\"app", "}\n{\"app");
    let open = format!("{records}\n{{\"message\":\"");
    // A hundred gzip members in a row: two gigabytes of text in two megabytes.
    let member = gzip(&vec![b'x'; 20_000_000]);
    let bomb = [gzip(open.as_bytes()), member.repeat(100)].concat();
    let giant = gzip(format!("{open}{}\"}}\n", "y".repeat(20 << 20)).as_bytes());
    let deep = gzip(format!("{open}z\",\"x\":{}", "[".repeat(4 << 20)).as_bytes());
    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__MAX_OBJECT", "128 MiB")]).await;
    let before = worker.peak_rss();
    for (name, bytes) in [("bomb", bomb), ("giant", giant), ("deep", deep)] {
        setup.upload(&format!("acme/c/app/p/{name}.json"), bytes).await;
    }
    let letters = setup.dead_letters(3).await;
    for (name, reason, error) in [
        ("bomb", "object_too_large", "more than source.max_object"),
        ("giant", "record_too_long", "longer than source.max_record"),
        ("deep", "corrupt_object", "ends before the record does"),
    ] {
        let key = format!("acme/c/app/p/{name}.json");
        let letter = letters.iter().find(|letter| letter.get("key") == key);
        let letter = letter.unwrap_or_else(|| panic!("no dead letter about {key} among {letters:?}"));
        assert_eq!((letter.get("reason"), letter.get("record_offset")), (reason, "2"), "{letter:?}");
        assert!(letter.get("error").contains(error), "{letter:?}");
    }
    let events = received_events(&setup.aws, &customer).await;
    assert_eq!(events.len(), 3 * 2, "the records before each break: {events:?}");
    if let (Some(before), Some(after)) = (before, worker.peak_rss()) {
        // 48 MiB for each of the three objects: a record of source.max_record (16 MiB), a window half as long again, and room.
        assert!(after - before < (3 * 48) << 20, "{} MiB more", (after - before) >> 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_without_work_are_acknowledged() {
    let setup = Setup::new("no-work").await;
    let bucket = setup.provider.bucket.clone();
    let off = [("enabled", AttributeValue::Bool(false))];
    let disabled = setup.customer_with(CustomerSpec::new("asleep"), &off).await;
    let web = [("desired_logs", AttributeValue::Ss(vec!["web*".to_owned()]))];
    let picky = setup.customer_with(CustomerSpec::new("picky"), &web).await;

    let test_event = json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": bucket });
    setup.send(&test_event.to_string()).await;
    let object = |key: &str| generated(key, 5, 30);
    let wanted = object("picky/c/web-1/pod/1.json.gz");
    for object in [
        &wanted,
        &object("picky/c/db/pod/1.json.gz"),
        &object("asleep/c/db/pod/1.json.gz"),
        &object("nobody/c/a/p/1"),
    ] {
        setup.upload(&object.key, object.bytes.clone()).await;
    }
    setup.upload("picky/c/web-1/pod/2.json.gz", gzip(b"[]")).await;
    // S3's console creates such an object for a folder.
    setup.upload("picky/c/web-1/", "").await;
    let worker = setup.worker_with(&[("LOGFERRY_TENANTS__UNKNOWN", "discard")]).await;
    setup.acknowledged(&worker, 7).await;
    setup.no_dead_letters().await;
    let metrics = worker.metrics().await;
    for reason in ["test_event", "filtered", "disabled", "unknown_tenant", "no_records", "folder_marker"] {
        let name = format!("logferry_skipped_total{{reason=\"{reason}\"}}");
        assert_eq!(metrics.get(&name), 1.0, "{reason}: {metrics:?}");
    }
    assert_same_events("picky", &received_events(&setup.aws, &picky).await, &expected(&wanted.text));
    assert_eq!(received_events(&setup.aws, &disabled).await, []);
}

/// Text and attributes of a message together have 1 MiB at most.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_fits_however_long_its_message_is() {
    const MIB: usize = 1 << 20;
    let setup = Setup::new("long-letters").await;
    setup.customer("acme").await;
    let padded = |room: usize| {
        let mut event = s3_event(&setup.provider.bucket, &format!("acme/c/app/{}/1", "p".repeat(600)));
        event["padding"] = json!("");
        event["padding"] = json!("x".repeat(MIB - room - event.to_string().len()));
        (room, event.to_string())
    };
    let messages = [3000, 700, 200, 25, 1, 0].map(padded);
    for (_, body) in &messages {
        setup.send(body).await;
    }
    let _worker = setup.worker().await;
    let letters = setup.dead_letters(messages.len()).await;
    setup.queue_is_empty().await;
    for (room, body) in &messages {
        let letter = letters.iter().find(|letter| letter.body == *body);
        let letter = letter.unwrap_or_else(|| panic!("no letter with {room} bytes of room"));
        let lengths = letter.attributes.iter().map(|(name, value)| name.len() + "String".len() + value.len());
        let length: usize = lengths.sum();
        assert!(length <= *room, "{length} bytes in {room}: {:?}", letter.attributes);
        let reason = letter.get("reason");
        // Attributes are complete, or left out.
        let expected = if *room >= "reasonStringobject_missing".len() { "object_missing" } else { "" };
        assert_eq!(reason, expected, "{:?}", letter.attributes);
        if *room >= 3000 {
            let told = [letter.get("tenant"), letter.get("bucket")];
            assert_eq!(told, ["acme", setup.provider.bucket.as_str()]);
            assert!(letter.get("key").ends_with("p/1") && letter.get("error").contains("NoSuchKey"));
        }
    }
}

/// Delivers one object that breaks off. Returns the number of events that arrived, and the dead letter.
async fn broken(name: &str, key: &str, bytes: Vec<u8>, whole: &str) -> (usize, DeadLetter) {
    let setup = Setup::with(name, |spec| spec.versioned = true).await;
    let customer = setup.customer("acme").await;
    setup.upload(key, bytes).await;
    let worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    setup.queue_is_empty().await;
    let found = received_events(&setup.aws, &customer).await;
    let good = expected(whole);
    assert!(found.len() <= good.len(), "{} of {}", found.len(), good.len());
    // Records before the break arrive once each.
    assert_same_events(key, &found, &good[..found.len()]);
    let told = ["reason", "tenant", "bucket", "key", "record_offset"].map(|name| letter.get(name).to_owned());
    let offset = found.len().to_string();
    assert_eq!(told, ["corrupt_object", "acme", &setup.provider.bucket, key, &offset], "{letter:?}");
    assert!(!letter.get("version").is_empty(), "{letter:?}");
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"accepted\"}"), found.len() as f64);
    (found.len(), letter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_gzip_is_delivered_up_to_the_break() {
    let mut object = generated("acme/c/app/pod/1.json.gz", 3000, 100);
    object.bytes.truncate(object.bytes.len() * 6 / 10);
    let (arrived, letter) = broken("truncated", &object.key, object.bytes, &object.text).await;
    assert!((1000..2500).contains(&arrived), "{arrived} of 3000 records in 60 % of the bytes");
    assert!(letter.get("error").contains("gzip"), "{letter:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_json_is_delivered_up_to_the_break() {
    let object = generated("acme/c/app/pod/1.json.gz", 100, 100);
    let at = object.text.match_indices("{\"application\"").nth(60).expect("100 records").0;
    let bytes = gzip(format!("{}nonsense{}", &object.text[..at], &object.text[at..]).as_bytes());
    let (arrived, letter) = broken("broken-json", &object.key, bytes, &object.text).await;
    assert_eq!(arrived, 60);
    assert!(letter.get("error").contains("record 60"), "{letter:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_every_form_become_events() {
    let setup = Setup::new("forms").await;
    let customer = setup.customer("acme").await;
    let now = jiff::Timestamp::now().as_millisecond();
    let records = [
        // A record without a message: it is sent as JSON without the members that Vector added.
        json!({ "file": "/var/log", "kubernetes": {}, "level": "warn", "n": 1, "source_type": "k", "stream": "stdout", "timestamp": now }),
        json!({ "message": { "nested": [1, 2] }, "timestamp": (now + 1).to_string() }),
        json!({ "message": "seconds", "timestamp": (now + 2) as f64 / 1000.0 }),
        json!({ "message": "no timestamp that can be read", "timestamp": "yesterday" }),
        json!({ "message": "", "timestamp": now }),
    ];
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    setup.upload("acme/c/app/pod/1.json", text).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    let mut found = received_events(&setup.aws, &customer).await;
    // The record's time is the object's, about now: before or after the other events.
    let undated = found.iter().position(|(_, message)| message.starts_with("no timestamp"));
    let (at, _) = found.remove(undated.expect("the record is delivered"));
    assert!((now - 60_000..now + 60_000).contains(&at), "{at} is not about {now}");
    let [whole, nested, seconds] = &found[..] else { panic!("not three events: {found:?}") };
    assert_eq!(whole.0, now);
    let whole: BTreeMap<String, i64> = serde_json::from_str(&whole.1.replace("\"warn\"", "7")).expect("JSON");
    assert_eq!(whole, BTreeMap::from([("level".to_owned(), 7), ("n".to_owned(), 1)]));
    assert_eq!(*nested, (now + 1, r#"{"nested":[1,2]}"#.to_owned()));
    assert_eq!(*seconds, (now + 2, "seconds".to_owned()));
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_undated_total"), 1.0);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"empty\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_paused_tenant_wait_in_the_dead_letter_queue() {
    let setup = Setup::new("paused").await;
    let customer = setup.customer("acme").await;
    let paused =
        [("tenant_id", text("acme")), ("type", text("settings")), ("paused", AttributeValue::Bool(true))];
    setup.put_row(paused.map(|(name, value)| (name.to_owned(), value)).into()).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 30).await;
    let _worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    let told = ["reason", "tenant", "key"].map(|name| letter.get(name));
    assert_eq!(told, ["tenant_paused", "acme", &object.key], "{letter:?}");
    setup.queue_is_empty().await;
    assert_eq!(received_events(&setup.aws, &customer).await, []);
}

/// The dead letter names each wrong field of a row. A good row of the same tenant is still used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_wrong_field_of_a_row_is_named() {
    let setup = Setup::new("bad-row").await;
    let customer = setup.customer("acme").await;
    let mut bad = customer.row();
    bad.extend(
        [
            ("type", text("cloudwatch#second")),
            ("target_region", text("the moon")),
            ("log_distribution_role_arn", text("arn:aws:iam::12:role/x")),
            ("log_group_name", AttributeValue::N("7".to_owned())),
            ("log_stream_name", text("{namespace}")),
            ("retention_days", AttributeValue::N("2".to_owned())),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    setup.put_row(bad).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 30).await;
    let worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    assert_eq!(letter.get("reason"), "bad_tenant_row", "{letter:?}");
    let error = letter.get("error");
    for field in
        ["target_region", "log_distribution_role_arn", "log_group_name", "log_stream_name", "retention_days"]
    {
        assert!(error.contains(&format!("{field}: ")), "{field} is not named: {error}");
    }
    assert!(error.contains("cloudwatch#second"), "{error}");
    assert!(!error.contains("external_id:"), "named without reason: {error}");
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    eventually("the log names the tenant", async || {
        let lines = worker.log_lines();
        let line = lines.iter().find(|line| line["reason"] == "bad_tenant_row");
        same(&line.map(|line| line["tenant.id"] == "acme"), &Some(true))
    })
    .await;
}
