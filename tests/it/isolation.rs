//! What is broken at one customer's is that customer's affair, and mends itself once they have mended it.

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_sandbox::provision::{CustomerSpec, QueryError};
use serde_json::json;

use crate::{
    eventually::eventually,
    samples::{assert_same_events, expected, generated, received_events},
    setup::{Setup, text},
    target::unique_account,
    worker::Worker,
};

/// Waits until something was tried at least three times and failed for that reason, and checks that it is still there.
async fn fails_again_and_again(setup: &Setup, worker: &Worker, reason: &str) {
    let name = format!("logferry_failures_total{{reason=\"{reason}\"}}");
    eventually("it is tried again and again", async || {
        let metrics = worker.metrics().await;
        let (failures, retries) =
            (metrics.get(&name), metrics.get("logferry_messages_total{verdict=\"retry\"}"));
        if failures >= 3.0 && retries >= 2.0 { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    let (visible, in_flight) = setup.queue_depth().await;
    assert_eq!(visible + in_flight, 1, "the message that cannot be delivered, and no other");
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_role_stops_nobody_else() {
    let setup = Setup::new("no-role").await;
    let healthy = setup.customer("healthy").await;
    // The row is there before the customer has made the role.
    let broken = setup.stranger(CustomerSpec::new("broken")).await;
    let mut row = broken.row();
    let missing = format!("arn:aws:iam::{}:role/missing", broken.account);
    row.insert("log_distribution_role_arn".to_owned(), text(&missing));
    setup.put_row(row).await;

    let lost = generated("broken/c/app/pod/1.json.gz", 50, 40);
    setup.upload(&lost.key, lost.bytes).await;
    let fine: Vec<_> =
        (0..5).map(|n| generated(&format!("healthy/c/app/pod-{n}/1.json.gz"), 50, 40)).collect();
    for object in &fine {
        setup.upload(&object.key, object.bytes.clone()).await;
    }
    let worker = setup.worker_with(&[("LOGFERRY_WORKER__CONCURRENCY", "1")]).await;
    fails_again_and_again(&setup, &worker, "role_denied").await;
    let mut all: Vec<_> = fine.iter().flat_map(|object| expected(&object.text)).collect();
    let mut found = received_events(&setup.aws, &healthy).await;
    all.sort();
    found.sort();
    assert_same_events("healthy", &found, &all);
    assert_eq!(received_events(&setup.aws, &broken).await, []);

    // The customer makes the role, and nobody has to tell the worker.
    let spec =
        CustomerSpec { role_name: "missing".to_owned(), create_group: false, ..CustomerSpec::new("broken") };
    let trust = copy_of(&setup, &broken.account, spec).await;
    trust.expect("the role can be made");
    setup.queue_is_empty().await;
    assert_same_events("broken", &received_events(&setup.aws, &broken).await, &expected(&lost.text));
    setup.no_dead_letters().await;
}

/// Makes a further role in an account that is there already.
async fn copy_of(
    setup: &Setup,
    account: &str,
    spec: CustomerSpec,
) -> Result<(), logferry_sandbox::provision::ProvisionError> {
    logferry_sandbox::provision::Customer::create(&setup.aws, account, &setup.provider, spec).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_external_id_is_refused_until_the_row_is_right() {
    let setup = Setup::new("external-id").await;
    let customer = setup.stranger(CustomerSpec::new("acme")).await;
    let mut row = customer.row();
    row.insert("external_id".to_owned(), text("somebody-elses"));
    setup.put_row(row).await;
    let object = generated("acme/c/app/pod/1.json.gz", 50, 40);
    setup.upload(&object.key, object.bytes).await;
    let worker = setup.worker().await;
    fails_again_and_again(&setup, &worker, "role_denied").await;
    let denied = worker.log_lines().into_iter().find(|line| line["reason"] == "role_denied");
    let error = denied.expect("it is logged")["error"].to_string();
    assert!(error.contains("somebody-elses") && error.contains(&customer.role_arn), "{error}");

    setup.put_row(customer.row()).await;
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_group_is_created_with_its_retention() {
    let setup = Setup::new("new-group").await;
    let spec = CustomerSpec { create_group: false, ..CustomerSpec::new("acme") };
    let customer = setup.stranger(spec).await;
    let mut row = customer.row();
    row.insert("retention_days".to_owned(), AttributeValue::N("30".to_owned()));
    setup.put_row(row).await;
    let object = generated("acme/c/app/pod/1.json.gz", 50, 40);
    setup.upload(&object.key, object.bytes).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    let logs = setup.aws.account(&customer.account).logs();
    let groups = logs.describe_log_groups().log_group_name_prefix(&customer.log_group).send().await;
    let groups = groups.expect("the account's root may look").log_groups.unwrap_or_default();
    let told: Vec<_> = groups.iter().map(|group| (group.log_group_name(), group.retention_in_days)).collect();
    assert_eq!(told, [(Some(customer.log_group.as_str()), Some(30))]);
    assert_eq!(worker.metrics().await.sum("logferry_failures_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_may_not_be_created_is_waited_for() {
    let setup = Setup::new("no-group").await;
    let spec = CustomerSpec { create_group: false, ..CustomerSpec::new("acme") };
    let (account, role) = (unique_account(), spec.role_name.clone());
    let customer = logferry_sandbox::provision::Customer::create(&setup.aws, &account, &setup.provider, spec);
    let customer = customer.await.expect("the customer's side can be set up");
    let root = setup.aws.account(&account);
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": format!("arn:aws:logs:*:{account}:log-group:{}*", customer.log_group),
    }] });
    let put: Result<String, QueryError> = root
        .iam_query(&[
            ("Action", "PutRolePolicy"),
            ("RoleName", &role),
            ("PolicyName", "logferry"),
            ("PolicyDocument", &policy.to_string()),
        ])
        .await;
    put.expect("the policy can be replaced");
    setup.put_row(customer.row()).await;
    let object = generated("acme/c/app/pod/1.json.gz", 50, 40);
    setup.upload(&object.key, object.bytes).await;
    let worker = setup.worker().await;
    fails_again_and_again(&setup, &worker, "group_denied").await;

    let create = root.logs().create_log_group().log_group_name(&customer.log_group).send();
    create.await.expect("the account's root may create it");
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    setup.no_dead_letters().await;
}
