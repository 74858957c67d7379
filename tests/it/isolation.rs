//! A customer's misconfiguration affects that customer alone, and deliveries resume by themselves once it is corrected.

use std::time::Instant;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::{CustomerSpec, TrustAction};
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    samples::{assert_same_events, expected, generated, received_events},
    setup::{Setup, text},
    worker::Worker,
};

/// Waits until a message has failed at least three times for this reason, and checks that it is still in the queue.
async fn fails_again_and_again(setup: &Setup, worker: &Worker, reason: &str) {
    let name = format!("logferry_failures_total{{reason=\"{reason}\"}}");
    worker
        .until("the message is tried again", |metrics| {
            let (failures, retries) =
                (metrics.get(&name), metrics.get("logferry_messages_total{verdict=\"retry\"}"));
            failures >= 3.0 && retries >= 2.0
        })
        .await;
    let (visible, in_flight) = setup.queue_depth().await;
    assert_eq!(visible + in_flight, 1, "the message that cannot be delivered, and no other");
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_role_stops_no_other_tenant() {
    let setup = Setup::new("no-role").await;
    let healthy = setup.customer("healthy").await;
    // The row exists before the customer has created the role.
    let broken = setup.customer_without_role("broken", &[]).await;

    let lost = setup.upload_generated("broken/c/app/pod/1.json.gz", 50, 40).await;
    let fine: Vec<_> =
        (0..5).map(|n| generated(&format!("healthy/c/app/pod-{n}/1.json.gz"), 50, 40)).collect();
    setup.upload_all(&fine).await;
    let variables = [
        ("LOGFERRY_WORKER__CONCURRENCY", "1"),
        ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
        ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "2s"),
    ];
    let worker = setup.worker_with(&variables).await;
    fails_again_and_again(&setup, &worker, "role_denied").await;
    setup.arrived_once(&healthy, &fine).await;
    assert_eq!(received_events(&setup.aws, &broken).await, []);

    // The customer creates the role; the worker must notice by itself.
    setup.create_missing_role(&broken, vec![TrustAction::AssumeRole]).await;
    setup.queue_is_empty().await;
    assert_same_events("broken", &received_events(&setup.aws, &broken).await, &expected(&lost.text));
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_role_is_probed_once_per_interval() {
    let setup = Setup::new("breaker").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let healthy = setup.customer("healthy").await;
    // One session per cluster, all of one role.
    let tags = [("session_tags", AttributeValue::Bool(true))];
    let broken = setup.customer_without_role("broken", &tags).await;
    let lost: Vec<_> =
        (0..50).map(|n| generated(&format!("broken/c-{}/app/pod-{n}/1.json.gz", n % 5), 5, 40)).collect();
    let fine: Vec<_> =
        (0..10).map(|n| generated(&format!("healthy/c/app/pod-{n}/1.json.gz"), 5, 40)).collect();
    setup.upload_all(lost.iter().chain(&fine)).await;

    let mut environment = setup.environment().await;
    environment.extend(
        [
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "2s"),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "4s"),
            ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "5s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let assumed = || sandbox.calls("sts", "AssumeRole");
    let (before, started) = (assumed(), Instant::now());
    let worker = setup.start(&environment).await;
    let changes =
        |change| format!("logferry_role_breaker_changes_total{{change=\"{change}\",cause=\"trust_policy\"}}");
    worker
        .until("the healthy tenant is done and the broken one's messages have seen two probes", |metrics| {
            metrics.get("logferry_messages_total{verdict=\"ack\"}") == 10.0
                && metrics.get("logferry_failures_total{reason=\"role_denied\"}") >= 100.0
                && metrics.get(&changes("probe_refused")) >= 2.0
        })
        .await;
    // The central role and the healthy tenant's role take one call each.
    let probes = assumed() - before - 2;
    let allowed = 1 + started.elapsed().as_secs() / 2;
    assert!((3..=allowed).contains(&probes), "{probes} calls for the refused role, {allowed} allowed");
    setup.arrived_once(&healthy, &fine).await;
    assert_eq!(worker.metrics().await.get("logferry_role_breakers_open"), 1.0);
    let told = worker.log_lines();
    let opened: Vec<_> = told.iter().filter(|line| line["breaker.change"] == "opened").collect();
    assert_eq!(opened.len(), 1, "one line per change: {opened:?}");
    let missing = format!("arn:aws:iam::{}:role/missing", broken.account);
    assert_eq!((&opened[0]["tenant.id"], &opened[0]["role.arn"]), (&json!("broken"), &json!(missing)));

    setup.create_missing_role(&broken, vec![TrustAction::AssumeRole, TrustAction::TagSession]).await;
    setup.queue_is_empty().await;
    setup.arrived_once(&broken, &lost).await;
    let metrics = worker.metrics().await;
    assert_eq!((metrics.get("logferry_role_breakers_open"), metrics.get(&changes("closed"))), (0.0, 1.0));
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_logged_with_its_likely_cause() {
    let setup = Setup::new("causes").await;
    if setup.sandbox().is_none() {
        return;
    }
    // Tenant, field of its row, the field's wrong value, the cause in the log, and a part of the fix.
    let gone = "arn:aws:iam::222222222222:role/gone";
    let on = AttributeValue::Bool(true);
    let ways = [
        ("gone", "log_distribution_role_arn", text(gone), "trust_policy", "role/gone does not exist"),
        (
            "id",
            "external_id",
            text("somebody-elses"),
            "trust_policy",
            "another sts:ExternalId than the one that was sent",
        ),
        ("tags", "session_tags", on.clone(), "tag_session", "must allow sts:TagSession"),
        ("identity", "source_identity", on, "source_identity", "must allow sts:SetSourceIdentity"),
    ];
    for (tenant, field, value, ..) in &ways {
        setup.customer_with(CustomerSpec::new(tenant), &[(*field, value.clone())]).await;
        setup.upload_generated(&format!("{tenant}/c/app/pod/1.json.gz"), 5, 40).await;
    }
    let worker = setup.worker().await;
    let told = eventually("every refused role is logged", async || {
        let mut told = worker.log_lines();
        told.retain(|line| line["breaker.change"] == "opened");
        same(&told.len(), &ways.len()).map(|()| told)
    })
    .await;
    assert_eq!(worker.metrics().await.get("logferry_role_breakers_open"), 4.0);
    for (tenant, _, _, cause, remedy) in &ways {
        let of_tenant = |line: &&Value| line["tenant.id"] == *tenant;
        let line = told.iter().find(of_tenant).expect("the tenant is logged");
        assert_eq!(line["breaker.cause"], *cause, "{line}");
        assert!(line["breaker.remedy"].as_str().is_some_and(|text| text.contains(remedy)), "{line}");
        assert!(line["error"].as_str().is_some_and(|text| text.contains("AccessDenied")), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_external_id_is_refused_until_the_row_is_corrected() {
    let setup = Setup::new("external-id").await;
    let wrong = [("external_id", text("somebody-elses"))];
    let customer = setup.customer_with(CustomerSpec::new("acme"), &wrong).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    let worker = setup
        .worker_with(&[
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "1s"),
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
        ])
        .await;
    fails_again_and_again(&setup, &worker, "role_denied").await;
    let denied = worker.log_lines().into_iter().find(|line| line["reason"] == "role_denied");
    let error = denied.expect("the refusal is logged")["error"].to_string();
    assert!(error.contains("an ExternalId was sent") && error.contains(&customer.role_arn), "{error}");

    assert_eq!(worker.metrics().await.get("logferry_role_breakers_open"), 1.0);
    setup.put_row(customer.row()).await;
    setup.queue_is_empty().await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    setup.no_dead_letters().await;

    // The refused role of the old row is no longer used, so the gauge must stop counting it.
    let again = generated("acme/c/app/pod/2.json.gz", 1, 40);
    eventually("the gauge forgets it", async || {
        setup.upload(&again.key, again.bytes.clone()).await;
        same(&worker.metrics().await.get("logferry_role_breakers_open"), &0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_group_is_created_with_its_retention() {
    let setup = Setup::new("new-group").await;
    let spec = CustomerSpec { create_group: false, ..CustomerSpec::new("acme") };
    let days = AttributeValue::N("30".to_owned());
    let customer = setup.customer_with(spec, &[("retention_days", days)]).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    let logs = setup.aws.account(&customer.account).logs();
    let groups = logs.describe_log_groups().log_group_name_prefix(&customer.log_group).send().await;
    let groups = groups.expect("the account's root may list groups").log_groups.unwrap_or_default();
    let told: Vec<_> = groups.iter().map(|group| (group.log_group_name(), group.retention_in_days)).collect();
    assert_eq!(told, [(Some(customer.log_group.as_str()), Some(30))]);
    assert_eq!(worker.metrics().await.sum("logferry_failures_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_wait_for_a_group_that_may_not_be_created() {
    let setup = Setup::new("no-group").await;
    let spec = CustomerSpec { create_group: false, ..CustomerSpec::new("acme") };
    let put_only = ["logs:CreateLogStream", "logs:PutLogEvents"];
    let customer = setup.customer_allowing(spec, &put_only).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    let variables =
        [("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"), ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "2s")];
    let worker = setup.worker_with(&variables).await;
    fails_again_and_again(&setup, &worker, "group_denied").await;
    let told = worker.log_lines();
    let opened: Vec<_> = told.iter().filter(|line| line["breaker.change"] == "opened").collect();
    assert_eq!(opened.len(), 1, "one line per change: {opened:?}");
    let named = (&opened[0]["tenant.id"], &opened[0]["log.group"], &opened[0]["breaker.cause"]);
    assert_eq!(named, (&json!("acme"), &json!(customer.log_group), &json!("create_log_group")));
    let remedy = opened[0]["breaker.remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("must allow logs:CreateLogGroup"), "{remedy}");
    assert_eq!(worker.metrics().await.get("logferry_group_breakers_open"), 1.0);

    let root = setup.aws.account(&customer.account);
    let create = root.logs().create_log_group().log_group_name(&customer.log_group).send();
    create.await.expect("the account's root may create the group");
    setup.queue_is_empty().await;
    assert_eq!(worker.metrics().await.get("logferry_group_breakers_open"), 0.0);
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_trouble_never_makes_the_worker_unready() {
    let setup = Setup::new("their-trouble").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let healthy = setup.customer("healthy").await;
    setup.customer_without_role("refused", &[]).await;
    setup.customer_allowing(CustomerSpec::new("denied"), &["logs:DescribeLogGroups"]).await;
    setup.customer_with(CustomerSpec::new("ill"), &[("log_group_name", text("no group: *"))]).await;
    let copied = setup.customer_without_row(CustomerSpec::new("copied")).await;
    setup.put_row(copied.bucket_row("a-bucket-that-does-not-exist", false)).await;
    let throttled = setup.customer("throttled").await;
    let silent = setup.customer("silent").await;
    let throttle = Effect::Error(ErrorAnswer::new(400, "ThrottlingException"));
    for (customer, effect) in [(throttled, throttle), (silent, Effect::Reset)] {
        let fault = Fault::new("logs", "PutLogEvents", effect);
        sandbox.faults().add(Fault { account: Some(customer.account.clone()), ..fault });
    }
    let worker = setup.worker().await;
    worker.ready().await;
    let tenants = ["refused", "denied", "ill", "copied", "throttled", "silent"];
    for number in 0..4 {
        for tenant in tenants {
            setup.upload_generated(&format!("{tenant}/c/app/pod/{number}.json.gz"), 5, 40).await;
        }
    }
    let reasons =
        ["role_denied", "group_denied", "bad_tenant_row", "bucket_missing", "throttled", "logs_unavailable"];
    eventually("every tenant has its trouble, and the worker stays ready", async || {
        let (status, body) = worker.readiness().await?;
        assert_eq!((status, body.degraded()), (200, vec![]), "{body:?}");
        let metrics = worker.metrics().await;
        let times = |reason: &str| metrics.get(&format!("logferry_failures_total{{reason=\"{reason}\"}}"));
        if reasons.iter().all(|reason| times(reason) >= 4.0) { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    setup.upload_generated("healthy/c/app/pod/1.json.gz", 5, 40).await;
    eventually("the healthy tenant is served", async || {
        same(&received_events(&setup.aws, &healthy).await.len(), &5)
    })
    .await;
    let (status, body) = worker.readiness().await.expect("the endpoint answers");
    assert_eq!((status, body.status()), (200, "ok"), "{body:?}");
}
