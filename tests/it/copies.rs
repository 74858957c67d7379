//! Copies of objects in customers' buckets, unchanged. Each delivery of an object succeeds or fails by itself.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::{Customer, CustomerSpec};

use crate::{
    eventually::{eventually, same},
    samples::{Object, assert_same_events, expected, generated, received_events},
    setup::{Setup, text},
    target::{unique, unique_account},
};

/// A customer with a bucket. The central role may write to it, or the customer's own role if `in_role`.
async fn with_bucket(setup: &Setup, tenant_id: &str, in_role: bool) -> (Customer, String) {
    bucket_in(setup, &unique_account(), tenant_id, in_role).await
}

/// Like [`with_bucket`], with the customer in this account.
async fn bucket_in(setup: &Setup, account: &str, tenant_id: &str, in_role: bool) -> (Customer, String) {
    let customer = setup.customer_in(account, CustomerSpec::new(tenant_id)).await;
    let bucket = format!("{}-{tenant_id}", setup.provider.bucket);
    customer.create_bucket(&setup.aws, &setup.provider, &bucket).await.expect("the bucket can be created");
    if in_role {
        customer.let_role_copy(&setup.aws, &setup.provider, &bucket).await.expect("the policy can be set");
    }
    (customer, bucket)
}

fn prefixed(mut row: HashMap<String, AttributeValue>, prefix: &str) -> HashMap<String, AttributeValue> {
    row.insert("bucket_prefix".to_owned(), text(prefix));
    row
}

/// Key and bytes of all objects in a customer's bucket.
async fn received(setup: &Setup, customer: &Customer, bucket: &str) -> Vec<(String, bytes::Bytes)> {
    let objects = customer.objects(&setup.aws, bucket).await.expect("the bucket can be read");
    objects.into_iter().map(|object| (object.key, object.bytes)).collect()
}

fn copy_of(object: &Object, prefix: &str) -> (String, bytes::Bytes) {
    let [tenant, _, rest] = object.key.splitn(3, '/').collect::<Vec<_>>().try_into().expect("three parts");
    (format!("{prefix}{tenant}/{rest}"), object.bytes.clone().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buckets_receive_their_own_tenants_objects_as_they_are() {
    let setup = Setup::with("copies", |spec| spec.versioned = true).await;
    if setup.sandbox().is_none() {
        // ministack copies only within one account: see the next test.
        return;
    }
    // One bucket written by the central role, one by the customer's role, a tenant with both kinds of delivery, and a
    // tenant without a bucket.
    let (central, central_bucket) = with_bucket(&setup, "central", false).await;
    let (own, own_bucket) = with_bucket(&setup, "own", true).await;
    let (both, both_bucket) = with_bucket(&setup, "both", true).await;
    let logs = setup.customer("logs").await;
    let readers = [own.account.as_str(), &both.account];
    setup.provider.let_read(&setup.aws, &readers).await.expect("the policy can be set");
    setup.put_row(central.bucket_row(&central_bucket, false)).await;
    setup.put_row(prefixed(own.bucket_row(&own_bucket, true), "from us")).await;
    setup.put_row(prefixed(both.bucket_row(&both_bucket, true), "")).await;
    setup.put_row(both.row()).await;
    let worker = setup.worker().await;

    let object = |key: &str| generated(key, 20, 40);
    let (plain, odd) = (object("central/c/app/pod/1.json.gz"), object("central/c/a b/p+d/\u{e4}.json.gz"));
    let (own_s, both_s, log) = (
        object("own/c/app/pod/1.json.gz"),
        object("both/c/app/pod/1.json.gz"),
        object("logs/c/app/pod/1.json.gz"),
    );
    setup.upload_all([&plain, &odd, &own_s, &both_s, &log]).await;
    setup.acknowledged(&worker, 5).await;

    let prefix = "ROSA/cluster-logs/";
    let mut expected_there = vec![copy_of(&plain, prefix), copy_of(&odd, prefix)];
    expected_there.sort();
    assert_eq!(received(&setup, &central, &central_bucket).await, expected_there);
    assert_eq!(received(&setup, &own, &own_bucket).await, [copy_of(&own_s, "from us/")]);
    assert_eq!(received(&setup, &both, &both_bucket).await, [copy_of(&both_s, "")]);
    assert_same_events("both", &received_events(&setup.aws, &both).await, &expected(&both_s.text));
    assert_same_events("logs", &received_events(&setup.aws, &logs).await, &expected(&log.text));
    let objects = own.objects(&setup.aws, &own_bucket).await.expect("the bucket can be read");
    let metadata = &objects[0].metadata;
    for (name, value) in
        [("tenant-id", "own"), ("cluster-id", "c"), ("source-bucket", &setup.provider.bucket)]
    {
        assert_eq!(metadata[name], value, "{metadata:?}");
    }
    assert_eq!(metadata["source-key"], own_s.key);
    assert!(metadata.contains_key("source-version"), "{metadata:?}");
    assert_eq!(worker.metrics().await.get("logferry_objects_copied_total"), 4.0);
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_in_the_providers_account_receives_copies() {
    let setup = Setup::new("copies-near").await;
    let account = setup.provider.account.clone();
    let tenant = format!("near-{}", unique());
    let (customer, bucket) = bucket_in(&setup, &account, &tenant, false).await;
    setup.put_row(customer.bucket_row(&bucket, false)).await;
    let worker = setup.worker().await;
    let objects = ["app/pod/1.json.gz", "a b/p+d/\u{e4}.json.gz"]
        .map(|name| generated(&format!("{tenant}/c/{name}"), 20, 40));
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, 2).await;
    let mut copies: Vec<_> = objects.iter().map(|object| copy_of(object, "ROSA/cluster-logs/")).collect();
    copies.sort();
    assert_eq!(received(&setup, &customer, &bucket).await, copies);
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_event_does_not_restore_an_old_version() {
    let setup = Setup::with("copies-late", |spec| spec.versioned = true).await;
    if setup.sandbox().is_none() {
        // ministack's events have no sequencer that orders versions.
        return;
    }
    let account = setup.provider.account.clone();
    let (customer, bucket) = bucket_in(&setup, &account, "late", false).await;
    setup.put_row(customer.bucket_row(&bucket, false)).await;
    let [old, new] = [20, 30].map(|records| generated("late/c/app/pod/1.json.gz", records, 40));
    setup.upload(&old.key, old.bytes).await;
    // Holds the old version's message back while the new version's message is worked on.
    let sqs = setup.account().sqs();
    let mut held = Vec::new();
    eventually("the event is in the queue", async || {
        let receive = sqs.receive_message().queue_url(&setup.provider.queue_url).visibility_timeout(600);
        let received = receive.send().await.expect("the queue can be read");
        held.extend(
            received.messages.unwrap_or_default().into_iter().filter_map(|message| message.receipt_handle),
        );
        if held.is_empty() { Err("nothing yet".to_owned()) } else { Ok(()) }
    })
    .await;
    setup.upload(&new.key, new.bytes.clone()).await;
    let worker = setup.worker().await;
    worker
        .until("the new version is copied", |metrics| metrics.get("logferry_objects_copied_total") == 1.0)
        .await;
    for handle in held {
        let release = sqs.change_message_visibility().queue_url(&setup.provider.queue_url);
        release.receipt_handle(handle).visibility_timeout(0).send().await.expect("the message is in flight");
    }
    setup.acknowledged(&worker, 2).await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_skipped_total{reason=\"superseded\"}"), 1.0, "{metrics:?}");
    assert_eq!(metrics.get("logferry_objects_copied_total"), 1.0);
    assert_eq!(received(&setup, &customer, &bucket).await, [copy_of(&new, "ROSA/cluster-logs/")]);
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_two_clusters_never_overwrite_each_other() {
    let setup = Setup::new("copies-collide").await;
    let account = setup.provider.account.clone();
    let tenant = format!("collide-{}", unique());
    let (customer, bucket) = bucket_in(&setup, &account, &tenant, false).await;
    let mut row = customer.bucket_row(&bucket, false);
    setup.put_row(row.clone()).await;
    let worker = setup.worker().await;
    let [one, other] =
        ["one", "other"].map(|cluster| generated(&format!("{tenant}/{cluster}/app/pod/1.json.gz"), 20, 40));
    setup.upload(&one.key, one.bytes.clone()).await;
    setup.acknowledged(&worker, 1).await;
    setup.upload(&other.key, other.bytes.clone()).await;
    let letter = setup.dead_letters(1).await.remove(0);
    assert_eq!(
        (letter.get("reason"), letter.get("key")),
        ("copy_collision", other.key.as_str()),
        "{letter:?}"
    );
    assert!(letter.get("error").contains("bucket_key"), "{letter:?}");
    let first = copy_of(&one, "ROSA/cluster-logs/");
    assert_eq!(received(&setup, &customer, &bucket).await, std::slice::from_ref(&first));
    // The row is corrected, and the message comes again.
    row.insert("bucket_key".to_owned(), text("{tenant}/{cluster}/{application}/{pod}/{file}"));
    setup.put_row(row).await;
    eventually("the worker knows the new row", async || {
        let lookups = worker.metrics().await.get("logferry_tenant_lookups_total{result=\"found\"}");
        setup.send(&letter.body).await;
        setup.queue_is_empty().await;
        let copies = received(&setup, &customer, &bucket).await.len();
        same(&copies, &2).map_err(|counts| format!("{counts} after {lookups} lookups"))
    })
    .await;
    let second = (format!("ROSA/cluster-logs/{}", other.key), other.bytes.into());
    let mut both = [first, second];
    both.sort();
    assert_eq!(received(&setup, &customer, &bucket).await, both);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delivery_does_not_repeat_a_finished_one() {
    let setup = Setup::new("copy-fails").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (customer, bucket) = with_bucket(&setup, "acme", false).await;
    setup.put_row(customer.row()).await;
    setup.put_row(customer.bucket_row(&bucket, false)).await;
    let denied = Effect::Error(ErrorAnswer::new(403, "AccessDenied"));
    let denied = sandbox.faults().add(Fault::new("s3", "CopyObject", denied));
    let worker = setup.worker().await;
    let first = setup.upload_generated("acme/c/app/pod/1.json.gz", 20, 40).await;
    let denials = "logferry_failures_total{reason=\"bucket_denied\"}";
    worker.reaches(denials, 3.0).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&first.text));
    assert_eq!(received(&setup, &customer, &bucket).await, []);
    sandbox.faults().remove(denied);
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&first.text));
    assert_eq!(received(&setup, &customer, &bucket).await, [copy_of(&first, "ROSA/cluster-logs/")]);

    // Now CloudWatch Logs fails while the copy succeeds.
    let throttle = Effect::Error(ErrorAnswer::new(400, "ThrottlingException"));
    let throttle = sandbox.faults().add(Fault::new("logs", "PutLogEvents", throttle));
    let second = setup.upload_generated("acme/c/app/pod/2.json.gz", 20, 40).await;
    worker.reaches("logferry_failures_total{reason=\"throttled\"}", 2.0).await;
    sandbox.faults().remove(throttle);
    setup.acknowledged(&worker, 2).await;
    assert_eq!(worker.metrics().await.get("logferry_objects_copied_total"), 2.0, "one copy for each object");
    setup.arrived_once(&customer, [&first, &second]).await;
    setup.no_dead_letters().await;
}
