//! Rows that other programs write, as found in the field, and customers' policies that allow the minimum.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::{Aws, Customer, CustomerSpec, Policies};

use crate::{
    eventually::eventually,
    samples::{assert_same_events, expected, generated, received_events},
    setup::{Setup, text},
    target::unique_account,
};

type StoredRow = HashMap<String, AttributeValue>;

fn number(seconds: i64) -> AttributeValue {
    AttributeValue::N(seconds.to_string())
}

/// Adds the attributes that other programs of the field write into every row.
fn as_the_field_writes(mut row: StoredRow) -> StoredRow {
    let now = jiff::Timestamp::now();
    let more = [
        ("created_at", text(&now.to_string())),
        ("updated_at", number(now.as_second())),
        ("groups", AttributeValue::L(Vec::new())),
        ("ttl", number(now.as_second() + 86_400)),
        ("desired_logs", AttributeValue::L(vec![text("")])),
    ];
    row.extend(more.map(|(name, value)| (name.to_owned(), value)));
    row
}

/// A customer with the published policies of the field, and its row.
async fn published(setup: &Setup, tenant_id: &str) -> (Customer, StoredRow) {
    let spec = CustomerSpec { policies: Policies::Published, ..CustomerSpec::new(tenant_id) };
    let customer = setup.customer_without_row(spec).await;
    let mut row = as_the_field_writes(customer.row());
    row.remove("external_id");
    (customer, row)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_other_programs_work_unchanged() {
    let setup = Setup::new("field-rows").await;
    // Ministack supports neither trust policies without a condition nor bucket policies across accounts.
    if setup.sandbox().is_none() {
        return;
    }
    let (acme, row) = published(&setup, "acme").await;
    setup.put_row(row).await;
    // The shortest row: the worker's setting gives the Region, and an empty list selects everything.
    let (globex, mut row) = published(&setup, "globex").await;
    row.remove("target_region");
    row.insert("desired_logs".to_owned(), AttributeValue::L(Vec::new()));
    setup.put_row(row).await;
    // A row of the other type: a bucket that the central role writes to.
    let initech = setup.customer_without_row(CustomerSpec::new("initech")).await;
    let bucket = format!("{}-initech", setup.provider.bucket);
    initech.create_bucket(&setup.aws, &setup.provider, &bucket).await.expect("the bucket can be created");
    setup.put_row(as_the_field_writes(initech.bucket_row(&bucket, false))).await;

    let objects =
        ["acme/c/app/p/1", "globex/c/app/p/1", "initech/c/app/p/1"].map(|key| generated(key, 20, 40));
    setup.upload_all(&objects).await;
    let worker = setup.worker_with(&[("LOGFERRY_TENANTS__DEFAULT_REGION", &setup.aws.region)]).await;
    setup.acknowledged(&worker, 3).await;
    for (customer, object) in [(&acme, &objects[0]), (&globex, &objects[1])] {
        let found = received_events(&setup.aws, customer).await;
        assert_same_events(&customer.tenant_id, &found, &expected(&object.text));
    }
    let copies = initech.objects(&setup.aws, &bucket).await.expect("the bucket can be read");
    assert_eq!(copies.len(), 1, "{copies:?}");
    assert_eq!(copies[0].bytes, objects[2].bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_a_past_ttl_is_ignored() {
    let setup = Setup::new("expired-row").await;
    let ago = number(jiff::Timestamp::now().as_second() - 1);
    let acme = setup.customer_with(CustomerSpec::new("acme"), &[("ttl", ago.clone())]).await;
    // An expired pause has no effect.
    let globex = setup.customer("globex").await;
    let settings = [
        ("tenant_id", text("globex")),
        ("type", text("settings")),
        ("paused", AttributeValue::Bool(true)),
        ("ttl", ago),
    ];
    setup.put_row(settings.map(|(name, value)| (name.to_owned(), value)).into()).await;
    // DynamoDB never deletes an item with such a ttl, so the worker ignores the ttl too.
    let initech = setup.customer_with(CustomerSpec::new("initech"), &[("ttl", number(0))]).await;
    let objects =
        ["acme/c/app/p/1", "globex/c/app/p/1", "initech/c/app/p/1"].map(|key| generated(key, 5, 40));
    setup.upload_all(&objects).await;
    let _worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    assert_eq!((letter.get("reason"), letter.get("tenant")), ("unknown_tenant", "acme"), "{letter:?}");
    setup.queue_is_empty().await;
    assert_eq!(received_events(&setup.aws, &acme).await, []);
    let found = received_events(&setup.aws, &globex).await;
    assert_same_events("globex", &found, &expected(&objects[1].text));
    let found = received_events(&setup.aws, &initech).await;
    assert_same_events("initech", &found, &expected(&objects[2].text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_without_any_region_is_bad() {
    let setup = Setup::new("no-region").await;
    let acme = setup.customer_without_row(CustomerSpec::new("acme")).await;
    let mut row = acme.row();
    row.remove("target_region");
    setup.put_row(row).await;
    setup.upload("acme/c/app/p/1", "[]").await;
    let _worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    assert_eq!(letter.get("reason"), "bad_tenant_row", "{letter:?}");
    assert!(letter.get("error").contains("target_region: is missing"), "{letter:?}");
    assert!(letter.get("error").contains("tenants.default_region"), "{letter:?}");
}

/// The ARNs of role, log group and session policy use the partition of the customer's Region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_in_another_partition_receives_its_logs() {
    let setup = Setup::new("partition").await;
    if setup.sandbox().is_none() {
        // ministack supports only one partition.
        return;
    }
    let there = Aws::new(&setup.aws.endpoint, "eusc-de-east-1");
    let spec = CustomerSpec::new("acme");
    let acme = Customer::create(&there, &unique_account(), &setup.provider, spec).await;
    let acme = acme.expect("the customer's side can be set up");
    assert!(acme.role_arn.starts_with("arn:aws-eusc:iam::"), "{}", acme.role_arn);
    setup.put_row(acme.row()).await;
    let object = setup.upload_generated("acme/c/app/p/1", 20, 40).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    let found = eventually("the events arrive", async || {
        let found = received_events(&there, &acme).await;
        if found.is_empty() { Err("none yet".to_owned()) } else { Ok(found) }
    });
    assert_same_events("acme", &found.await, &expected(&object.text));
}
