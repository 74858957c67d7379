//! Refusals by AWS. Their cause is an object or a batch, the worker itself, or the provider's wiring; each has its own reason.

use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::CustomerSpec;
use serde_json::Value;

use crate::{
    eventually::eventually,
    samples::{assert_same_events, expected, received_events},
    setup::{Setup, s3_event},
    worker::Worker,
};

/// Makes AWS refuse the operation with this error for sessions of workers only: the harness calls as an account's root.
fn refused(service: &str, operation: &str, status: u16, code: &str, message: &str) -> Fault {
    let error = ErrorAnswer { message: message.to_owned(), ..ErrorAnswer::new(status, code) };
    Fault { sessions_only: true, ..Fault::new(service, operation, Effect::Error(error)) }
}

fn failures(reason: &str) -> String {
    format!("logferry_failures_total{{reason=\"{reason}\"}}")
}

/// Waits until messages have failed several times for this reason, and checks that none became a dead letter.
async fn is_retried(setup: &Setup, worker: &Worker, reason: &str) {
    worker.reaches(&failures(reason), 5.0).await;
    setup.no_dead_letters().await;
}

/// Waits until `/readyz` has a degraded condition with all these words, and returns AWS's words from the log.
async fn readiness_says(worker: &Worker, condition: &str, words: &[&str]) -> String {
    eventually("readiness says what is wrong", async || {
        let (status, body) = worker.readiness().await?;
        let found = body.condition(condition);
        let all = words.iter().all(|word| found.to_string().contains(word));
        let degraded = status == 503 && found["status"] == "degraded";
        if degraded && all { Ok(()) } else { Err(format!("{status} {body:?}")) }
    })
    .await;
    // The log's lines are written a moment later.
    eventually("the log says why", async || {
        let mut lines = worker.log_lines();
        lines.retain(|line| line["condition"] == condition && line["level"] == "WARN");
        let told: String = lines.iter().map(|line| line["error"].to_string()).collect();
        if told.is_empty() { Err(format!("no line about {condition}")) } else { Ok(told) }
    })
    .await
}

/// Checks that the log's text contains all these words.
#[track_caller]
fn has(told: &str, words: &[&str]) {
    assert!(words.iter().all(|word| told.contains(word)), "{words:?} are not in {told}");
}

async fn opened_no_breaker(worker: &Worker) {
    let metrics = worker.metrics().await;
    for name in [
        "logferry_role_breakers_open",
        "logferry_group_breakers_open",
        "logferry_role_breaker_changes_total",
        "logferry_group_breaker_changes_total",
    ] {
        assert_eq!(metrics.sum(name), 0.0, "{name}: {metrics:?}");
    }
    assert_eq!(metrics.get(&failures("role_denied")), 0.0, "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_s3_refuses_is_a_dead_letter_after_a_few_receives() {
    let setup = Setup::with("refused-object", |spec| spec.versioned = true).await;
    let Some(sandbox) = setup.sandbox() else { return };
    setup.customer("acme").await;
    let bucket = setup.provider.bucket.as_str();
    let key = |name: &str| format!("acme/c/app/p/{name}");
    let injected = [
        ("moved", 301, "PermanentRedirect", "object_refused"),
        ("marker", 405, "MethodNotAllowed", "object_refused"),
        ("archived", 403, "InvalidObjectState", "object_archived"),
        ("teapot", 418, "Teapot", "object_refused"),
    ];
    for (name, status, code, _) in injected {
        let fault = refused("s3", "GetObject", status, code, "no");
        sandbox.faults().add(Fault { contains: Some(key(name)), ..fault });
        setup.send(&s3_event(bucket, &key(name)).to_string()).await;
    }
    // The sandbox itself refuses this version id, as S3 does.
    let mut bad_version = s3_event(bucket, &key("version"));
    bad_version["Records"][0]["s3"]["object"]["versionId"] = "nope".into();
    setup.send(&bad_version.to_string()).await;

    let worker = setup.worker().await;
    let letters = setup.dead_letters(5).await;
    let of_version = ("version", 400, "InvalidArgument", "object_refused");
    for (name, _, code, reason) in injected.into_iter().chain([of_version]) {
        let letter = letters.iter().find(|letter| letter.get("key") == key(name));
        let letter = letter.unwrap_or_else(|| panic!("no letter about {name} among {letters:?}"));
        assert_eq!((letter.get("reason"), letter.get("tenant")), (reason, "acme"), "{letter:?}");
        assert!(letter.get("error").contains(code), "{letter:?}");
    }
    setup.queue_is_empty().await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_messages_total{verdict=\"retry\"}"), 10.0, "three receives each");
    assert_eq!(metrics.get("logferry_messages_total{verdict=\"poison\"}"), 5.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cloudwatch_logs_refuses_is_a_dead_letter_after_a_few_receives() {
    let setup = Setup::new("refused-batch").await;
    let Some(sandbox) = setup.sandbox() else { return };
    setup.customer("acme").await;
    let message = "Log event too large: 300000 bytes exceeds limit of 262144";
    for (tenant, code) in [("acme", "InvalidParameterException"), ("globex", "NobodyKnowsException")] {
        setup.customer(tenant).await;
        let fault = refused("logs", "PutLogEvents", 400, code, message);
        sandbox.faults().add(Fault { contains: Some(format!("/logferry/{tenant}")), ..fault });
        setup.upload_generated(&format!("{tenant}/c/app/p/1"), 20, 40).await;
    }
    let worker = setup.worker_with(&[("LOGFERRY_QUEUE__MAX_REFUSALS", "2")]).await;
    let letters = setup.dead_letters(2).await;
    for letter in &letters {
        assert_eq!(letter.get("reason"), "batch_refused", "{letter:?}");
        assert!(letter.get("error").contains(message), "{letter:?}");
    }
    setup.queue_is_empty().await;
    let retries = worker.metrics().await.get("logferry_messages_total{verdict=\"retry\"}");
    assert_eq!(retries, 2.0, "two receives each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_bucket_is_reported_as_a_wiring_problem() {
    let setup = Setup::new("no-such-bucket").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let fault = refused("s3", "GetObject", 404, "NoSuchBucket", "The specified bucket does not exist");
    let fault = sandbox.faults().add(fault);
    let object = setup.upload_generated("acme/c/app/p/1", 20, 40).await;
    let worker = setup.worker().await;
    is_retried(&setup, &worker, "source_bucket_missing").await;
    assert_eq!(worker.metrics().await.get(&failures("object_missing")), 0.0);
    let told =
        readiness_says(&worker, "get", &["does not exist", "Create the bucket", &setup.provider.bucket])
            .await;
    has(&told, &["NoSuchBucket"]);
    sandbox.faults().remove(fault);
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_quota_of_log_groups_is_named() {
    let setup = Setup::new("group-quota").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer =
        setup.customer_without_row(CustomerSpec { create_group: false, ..CustomerSpec::new("acme") }).await;
    setup.put_row(customer.row()).await;
    let fault = refused("logs", "CreateLogGroup", 400, "LimitExceededException", "Resource limit exceeded.");
    let fault = sandbox.faults().add(fault);
    let object = setup.upload_generated("acme/c/app/p/1", 20, 40).await;
    let worker = setup.worker().await;
    is_retried(&setup, &worker, "group_quota").await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get(&failures("throttled")), 0.0, "{metrics:?}");
    assert_eq!(metrics.get("logferry_throttled_accounts"), 0.0, "the account's breaker stays closed");
    let lines = worker.log_lines();
    let told =
        lines.iter().find(|line| line["reason"] == "group_quota").map(|line| line["error"].to_string());
    let told = told.expect("the log says so");
    assert!(told.contains("quota of log groups") && told.contains("Resource limit exceeded"), "{told}");
    sandbox.faults().remove(fault);
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
}

/// If AWS refuses the worker's clock or credentials, no breaker opens, and readiness names the fix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_the_worker_itself_open_no_breaker() {
    let late = "Signature expired: 20261127T113000Z is now earlier than 20261127T114500Z (20261127T120000Z - 15 min.)";
    let clock = (["host's clock", "NTP"], "clock is");
    let behind = (clock.0, "clock is 1800 s behind AWS's");
    let credentials = (["own credentials", "task role"], "our own credentials");
    let cases = [
        ("sts", "AssumeRole", 403, "SignatureDoesNotMatch", late, behind),
        ("sts", "AssumeRole", 403, "ExpiredToken", "The security token is expired", credentials),
        ("sts", "AssumeRole", 403, "InvalidClientTokenId", "The token is invalid", credentials),
        ("s3", "GetObject", 403, "RequestTimeTooSkewed", "The difference is too large.", clock),
        ("s3", "GetObject", 400, "ExpiredToken", "The provided token has expired.", credentials),
        ("logs", "PutLogEvents", 400, "InvalidSignatureException", late, behind),
    ];
    let one = async |(service, operation, status, code, message, (words, logged)): (
        &str,
        &str,
        u16,
        &str,
        &str,
        ([&str; 2], &str),
    )| {
        let setup = Setup::new("ourselves").await;
        let Some(sandbox) = setup.sandbox() else { return };
        let customer = setup.customer("acme").await;
        let environment = setup.environment().await;
        let fault = sandbox.faults().add(refused(service, operation, status, code, message));
        let object = setup.upload_generated("acme/c/app/p/1", 20, 40).await;
        let worker = setup.start(&environment).await;
        is_retried(&setup, &worker, "identity").await;
        let condition = match service {
            "sts" => "assume",
            "s3" => "get",
            _ => "put",
        };
        has(&readiness_says(&worker, condition, &words).await, &[logged]);
        opened_no_breaker(&worker).await;
        sandbox.faults().remove(fault);
        setup.acknowledged(&worker, 1).await;
        worker.ready().await;
        assert_same_events(code, &received_events(&setup.aws, &customer).await, &expected(&object.text));
    };
    let [a, b, c, d, e, f] = cases;
    tokio::join!(one(a), one(b), one(c), one(d), one(e), one(f));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_central_role_that_refuses_the_worker_fails_readiness() {
    let setup = Setup::new("no-central").await;
    setup.customer("acme").await;
    setup.upload_generated("acme/c/app/p/1", 20, 40).await;
    let missing = format!("{}-missing", setup.provider.central_role_arn);
    let worker = setup.worker_with(&[("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", &missing)]).await;
    is_retried(&setup, &worker, "identity").await;
    let words = ["central role", "credentials.central_role_arn", "trust policy"];
    has(&readiness_says(&worker, "assume", &words).await, &[&missing]);
    opened_no_breaker(&worker).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_credentials_fail_readiness() {
    let setup = Setup::new("nobody").await;
    if setup.sandbox().is_none() {
        // ministack accepts any credentials.
        return;
    }
    let mut environment = setup.environment().await;
    environment.insert("AWS_ACCESS_KEY_ID".to_owned(), "AKIAIOSFODNN7EXAMPLE".to_owned());
    let worker = setup.start(&environment).await;
    let told = readiness_says(&worker, "assume", &["own credentials", "task role"]).await;
    has(&told, &["our own credentials"]);
}

/// Readiness checks the dependencies that only some messages need: dead-letter queue, staging bucket, quarantine bucket.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependencies_are_checked_before_a_message_needs_them() {
    let setup = Setup::new("looked-at").await;
    let mut environment = setup.environment().await;
    let no_queue = format!("{}-missing", setup.provider.dead_letter_url);
    let no_bucket = format!("{}-missing", setup.provider.bucket);
    let both = format!("{},{no_bucket}", setup.provider.bucket);
    let quarantine = format!("{}-quarantine", setup.provider.bucket);
    for (name, value) in [
        ("LOGFERRY_QUEUE__DEAD_LETTER_URL", &no_queue),
        ("LOGFERRY_SOURCE__BUCKETS", &both),
        ("LOGFERRY_QUARANTINE__BUCKET", &quarantine),
    ] {
        environment.insert(name.to_owned(), value.clone());
    }
    let worker = setup.start(&environment).await;
    readiness_says(&worker, "settle", &["does not exist", "queue.dead_letter_url"]).await;
    readiness_says(&worker, "get", &[&no_bucket, "source.buckets"]).await;
    readiness_says(&worker, "quarantine", &[&quarantine, "quarantine.bucket"]).await;
    let arguments = ["doctor", "--json"];
    let report = crate::operator::run(&arguments, &environment).await.with(1).json();
    let conditions = report["conditions"].as_array().expect("an array");
    let failed = |name: &str, words: &str| {
        let of_name = |condition: &&Value| condition["condition"] == name && condition["state"] == "failed";
        let found = conditions.iter().find(of_name).unwrap_or_else(|| panic!("{name} in {report:#}"));
        assert!(found["detail"].to_string().contains(words), "{found}");
    };
    failed("dead-letter queue", "missing");
    failed("source bucket", &no_bucket);
    failed("quarantine", &quarantine);
}

/// A dependency that does not answer delays no other check, and says nothing about other dependencies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_does_not_answer_does_not_delay_readiness() {
    let setup = Setup::new("hanging-bucket").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let hangs = Effect::Latency { milliseconds: 3_600_000 };
    sandbox.faults().add(Fault::new("s3", "HeadBucket", hangs));
    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__BUCKETS", "staging-1,staging-2,staging-3")]).await;
    worker.ready().await;
    sandbox.faults().add(refused("dynamodb", "Query", 400, "ResourceNotFoundException", "no such table"));
    let told = readiness_says(&worker, "lookup", &["tenants.table", "dynamodb:Query"]).await;
    has(&told, &["no such table"]);
}
