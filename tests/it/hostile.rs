//! Forged messages: they affect no account, and become dead letters with a reason. `verdicts` tests bombs and deep nesting in
//! objects.

use serde_json::json;

use crate::{
    eventually::eventually,
    samples::{assert_same_events, expected, generated, received, received_events},
    setup::{Setup, s3_event},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_with_path_traversal_are_dead_letters() {
    let setup = Setup::new("hostile-keys").await;
    let customer = setup.customer("acme").await;
    let bucket = setup.provider.bucket.as_str();
    // The keys as S3 encodes them in an event.
    let keys = [
        "../acme/c/app/pod/1.json",
        "acme/c/app/../1.json",
        "acme/c/app/%2E%2E/1.json",
        "acme/c/app/./1.json",
        "acme/c/app/pod%2F..%2F1.json",
        "ac%00me/c/app/pod/1.json",
        "acme%00/c/app/pod/1.json",
        "acme/c/app/po%0Ad/1.json",
        "acme/c/app/pod/1%7F.json",
        "/acme/c/app/pod/1.json",
        "acme/c/app/pod/",
        "acme",
    ];
    for key in keys {
        setup.send(&s3_event(bucket, key).to_string()).await;
    }
    let worker = setup.worker().await;
    let letters = setup.dead_letters(keys.len()).await;
    let reasons: Vec<_> = letters.iter().map(|letter| letter.get("reason")).collect();
    assert_eq!(reasons, ["bad_key"; 12], "{letters:?}");
    setup.queue_is_empty().await;
    assert_eq!(received_events(&setup.aws, &customer).await, []);
    if let Some(sandbox) = setup.sandbox() {
        assert_eq!(sandbox.calls("s3", "GetObject"), 0, "no object was requested");
        assert_eq!(sandbox.calls("logs", "PutLogEvents"), 0);
    }
    assert_eq!(worker.metrics().await.get("logferry_messages_received_total"), 12.0);
}

/// S3 allows keys of 1,024 bytes and nearly every character. Names in CloudWatch Logs allow less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_and_strange_names_become_legal_and_stay_distinct() {
    let setup = Setup::new("hostile-names").await;
    let customer = setup.customer("acme").await;
    let long = "x".repeat(450);
    let names = [
        (long.as_str(), format!("{long}y")),
        (long.as_str(), format!("{long}z")),
        ("a:b*c", "{date}".to_owned()),
        ("ünï", "☃".repeat(40)),
        ("${jndi:ldap}", "'; DROP TABLE tenants; --".to_owned()),
    ];
    let objects: Vec<_> = names
        .iter()
        .map(|(application, pod)| generated(&format!("acme/c/{application}/{pod}/1.json"), 3, 2000))
        .collect();
    for object in &objects {
        assert!(object.key.len() <= 1024);
        setup.upload(&object.key, object.bytes.clone()).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, objects.len()).await;
    setup.no_dead_letters().await;
    let streams = received(&setup.aws, &customer).await;
    assert_eq!(streams.len(), objects.len(), "two objects share a stream: {:?}", streams.keys());
    for object in &objects {
        let expected = expected(&object.text);
        let (name, _) = streams
            .iter()
            .find(|(_, events)| **events == expected)
            .expect("the events are in one of the streams");
        assert!(name.len() <= 512 && !name.contains([':', '*']), "{name}");
    }
}

/// The tenant id is longer than DynamoDB allows for a key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_id_too_long_for_the_table_is_a_dead_letter() {
    let setup = Setup::new("hostile-tenant").await;
    let customer = setup.customer("acme").await;
    let bucket = setup.provider.bucket.as_str();
    for tenant in ["t".repeat(3000), "t".repeat(200_000)] {
        setup.send(&s3_event(bucket, &format!("{tenant}/c/app/pod/1.json")).to_string()).await;
    }
    let good = setup.upload_generated("acme/c/app/pod/1.json", 3, 40).await;
    let worker = setup.worker().await;
    let letters = setup.dead_letters(2).await;
    for letter in &letters {
        assert_eq!(letter.get("reason"), "bad_key", "{:.300}", format!("{letter:?}"));
    }
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&good.text));
    drop(worker);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_with_another_owner_is_not_read() {
    let setup = Setup::new("hostile-owner").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    setup.upload_generated("acme/c/app/pod/1.json", 3, 40).await;
    // The bucket has the expected name, but another owner than configured.
    let buckets = format!("{}=999999999999", setup.provider.bucket);
    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__BUCKETS", &buckets)]).await;
    eventually("the object is refused several times", async || {
        let denied = worker.metrics().await.get("logferry_failures_total{reason=\"object_denied\"}");
        if denied >= 2.0 { Ok(()) } else { Err(format!("{denied} times")) }
    })
    .await;
    assert_eq!(sandbox.calls("logs", "PutLogEvents"), 0);
    assert_eq!(received_events(&setup.aws, &customer).await, []);
    // The message stays in the queue until the configuration is corrected.
    let (visible, in_flight) = setup.queue_depth().await;
    assert_eq!(visible + in_flight, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malicious_bodies_are_dead_letters() {
    let setup = Setup::new("hostile-bodies").await;
    let customer = setup.customer("acme").await;
    let bucket = setup.provider.bucket.as_str();
    let record = s3_event(bucket, "acme/c/app/pod/missing.json")["Records"][0].clone();
    let bodies = [
        "[".repeat(200_000),
        format!("{{\"Records\":{}", "[".repeat(200_000)),
        format!("{{\"Type\":\"Notification\",\"Message\":{}}}", json!("[".repeat(100_000))),
        json!({ "Records": { "length": 1 } }).to_string(),
        json!({ "Records": [{ "eventVersion": "9.9", "eventName": "ObjectCreated:Put", "s3": record["s3"] }] })
            .to_string(),
        json!({ "Records": [{ "eventVersion": "2.1", "eventName": "ObjectCreated:Put", "s3": { "bucket": 7 } }] })
            .to_string(),
        "\u{1f480}".repeat(1000),
    ];
    for body in &bodies {
        setup.send(body).await;
    }
    let good = setup.upload_generated("acme/c/app/pod/1.json", 3, 40).await;
    let worker = setup.worker().await;
    let letters = setup.dead_letters(bodies.len()).await;
    for letter in &letters {
        assert_eq!(letter.get("reason"), "bad_event", "{:.300}", format!("{letter:?}"));
    }
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&good.text));
    assert_eq!(worker.metrics().await.get("logferry_dead_letters_total{reason=\"bad_event\"}"), 7.0);
}
