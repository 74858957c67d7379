//! Neither the log nor an answer of the endpoint contains a credential, a signature, an ExternalId or a record's text, even with
//! the most detailed filter. The other modules search the logs of their workers, and the output of operators' commands, for
//! credentials.

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::CustomerSpec;
use serde_json::json;

use crate::{
    eventually::eventually,
    samples::gzip,
    setup::{Setup, text},
    status::Stream,
    worker::Worker,
};

/// In every message of every record, and in bodies that are no events.
const MARKER: &str = "hunter2-is-the-text-of-a-record";
/// Parts of the headers and parameters that carry signatures and tokens, in lower case.
const CARRIERS: [&str; 7] = [
    "authorization:",
    "\"authorization\"",
    "aws4-hmac-sha256",
    "credential=",
    "signature=",
    "x-amz-security-token",
    "sessiontoken",
];

/// Checks that no line has one of these secrets, or what carries credentials in a request or an answer.
#[track_caller]
pub(crate) fn assert_no_credentials(told: &str, secrets: &[String]) {
    let small = told.to_lowercase();
    let carried = CARRIERS.into_iter().find(|carrier| small.contains(carrier));
    let found = secrets.iter().map(String::as_str).find(|secret| told.contains(secret)).or(carried);
    if let Some(found) = found {
        let line = told.lines().find(|line| line.contains(found) || line.to_lowercase().contains(found));
        panic!("a text for people has {found:?}: {line:?}");
    }
}

#[test]
fn a_credential_is_noticed() {
    let secrets = ["k3y-of-a-session".to_owned()];
    for text in [
        "a line\nAuthorization: AWS4-HMAC-SHA256 Credential=ASIA/20260101",
        "{\"authorization\": Sensitive}",
        "X-Amz-Security-Token",
        "https://h/?X-Amz-Signature=0",
        "<SessionToken>",
        "before k3y-of-a-session after",
    ] {
        assert!(std::panic::catch_unwind(|| assert_no_credentials(text, &secrets)).is_err(), "{text}");
    }
    assert_no_credentials("AuthorizationHeaderMalformed: the region is wrong", &secrets);
}

/// An object with these messages, each with the marker in it.
fn object(messages: &[&str], days: i64) -> Vec<u8> {
    let at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24 * days);
    let record = |message: &&str| json!({ "application": "app", "timestamp": at.to_string(), "message": format!("{message} {MARKER}") });
    let lines: Vec<_> = messages.iter().map(|message| format!("{}\n", record(message))).collect();
    gzip(lines.concat().as_bytes())
}

/// Runs a worker through every kind of outcome, and returns it with everything that it wrote and answered.
async fn everything_told(setup: &Setup, sandbox: &Sandbox, filter: &str) -> (Worker, String) {
    setup.customer("fine").await;
    setup.customer("late").await;
    setup.customer_without_role("refused", &[]).await;
    setup.customer_with(CustomerSpec::new("stranger"), &[("external_id", text("stranger-id-4711"))]).await;
    setup.customer_allowing(CustomerSpec::new("denied"), &["logs:DescribeLogGroups"]).await;
    setup.customer_with(CustomerSpec::new("ill"), &[("external_id", text("ill id 4712 &"))]).await;
    setup.customer("unkept").await;
    let cut = setup.customer("cut").await;
    let copied = setup.customer_without_row(CustomerSpec::new("copied")).await;
    setup.put_row(copied.bucket_row("a-bucket-that-does-not-exist", false)).await;
    let message = "Log event too large: 300000 bytes exceeds limit of 262144";
    let refusal =
        ErrorAnswer { message: message.to_owned(), ..ErrorAnswer::new(400, "InvalidParameterException") };
    let refused = Fault::new("logs", "PutLogEvents", Effect::Error(refusal));
    sandbox.faults().add(Fault { contains: Some("poison".to_owned()), ..refused });
    let reset = Fault::new("logs", "PutLogEvents", Effect::Reset);
    sandbox.faults().add(Fault { account: Some(cut.account.clone()), times: Some(8), ..reset });

    let one = object(&["one", "two"], 0);
    let mut broken = one.clone();
    broken.truncate(one.len() - 9);
    let plain = format!("{{\"message\": \"{MARKER}\", \"timestamp\": oh no {MARKER}}}\n{MARKER}\n");
    for (key, bytes) in [
        ("fine/c/app/pod/1.json.gz", one.clone()),
        ("late/c/app/pod/1.json.gz", object(&["old"], 30)),
        ("refused/c/app/pod/1.json.gz", one.clone()),
        ("stranger/c/app/pod/1.json.gz", one.clone()),
        ("denied/c/app/pod/1.json.gz", one.clone()),
        ("ill/c/app/pod/1.json.gz", one.clone()),
        ("nobody/c/app/pod/1.json.gz", one.clone()),
        ("copied/c/app/pod/1.json.gz", one.clone()),
        ("cut/c/app/pod/1.json.gz", one.clone()),
        ("unkept/c/app/pod/1.json.gz", object(&["poison", "fine"], 0)),
        ("fine/c/app/pod/broken.json.gz", broken),
        ("fine/c/app/pod/plain.json.gz", gzip(plain.as_bytes())),
        ("fine/c/app/pod/no-gzip.json.gz", MARKER.as_bytes().to_vec()),
    ] {
        setup.upload(key, bytes).await;
    }
    for body in
        [MARKER, &format!("{{\"Records\":[{{\"{MARKER}\":1}}]}}"), &format!("{{\"Message\":\"{MARKER}\"}}")]
    {
        setup.send(body).await;
    }
    let mut worker = setup.worker_with(&[("LOGFERRY_LOG__FILTER", filter)]).await;
    let mut answers = String::new();
    eventually("every outcome is there", async || {
        answers += &answers_of(&worker).await;
        let metrics = worker.metrics().await;
        let failures = |reason: &str| metrics.get(&format!("logferry_failures_total{{reason=\"{reason}\"}}"));
        let reasons = [
            "role_denied",
            "group_denied",
            "bad_tenant_row",
            "unknown_tenant",
            "bucket_missing",
            "logs_unavailable",
            "event_refused",
            "corrupt_object",
            "bad_event",
        ];
        let seen = reasons.iter().all(|reason| failures(reason) >= 1.0);
        let rejected = metrics.get("logferry_records_total{outcome=\"too_old\"}") >= 1.0;
        if seen && rejected && failures("role_denied") > 4.0 { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    answers += &answers_of(&worker).await;
    let mut stream = Stream::open(worker.address()).await;
    let event = stream.until("</footer>").await;
    assert!(event.contains("</footer>"), "{event}");
    answers += event;
    worker.sigterm();
    assert!(worker.wait().await.success());
    let log = worker.log();
    assert!(log.contains("\"INFO\"") && log.contains("late/c/app/pod/1.json.gz"), "the log is there");
    (worker, log + &answers)
}

async fn answers_of(worker: &Worker) -> String {
    let mut answers = String::new();
    for path in ["/healthz", "/readyz", "/metrics", "/", "/log-filter"] {
        let (status, answer) = worker.http_get(path).await.expect("the endpoint answers");
        assert!(status == 200 || path == "/readyz", "{path}: {status} {answer}");
        answers += &answer;
    }
    answers
}

/// What must not be in any line.
async fn secrets(setup: &Setup, sandbox: &Sandbox) -> Vec<String> {
    let mut secrets = sandbox.session_secrets();
    assert!(secrets.len() > 9, "the worker and several customers have sessions: {}", secrets.len());
    secrets.extend([MARKER, "stranger-id-4711", "ill id 4712"].map(str::to_owned));
    let rows = setup.account().dynamodb().scan().table_name(&setup.provider.tenant_table).send().await;
    let rows = rows.expect("the table can be read").items.unwrap_or_default();
    let ids = rows.iter().filter_map(|row| row.get("external_id")?.as_s().ok().cloned());
    secrets.extend(ids);
    secrets
}

async fn check(filter: &str) {
    let setup = Setup::new("secrets").await;
    let Some(sandbox) = setup.sandbox() else { return };
    // The worker must not be dropped before the end, because it would check its log for other things first.
    let (_worker, told) = everything_told(&setup, sandbox, filter).await;
    assert_no_credentials(&told, &[]);
    for secret in secrets(&setup, sandbox).await {
        let line = told.lines().find(|line| line.to_lowercase().contains(&secret.to_lowercase()));
        assert_eq!(line, None, "{filter}: this line has {secret:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_at_the_usual_level() {
    check("info").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_at_the_most_detailed_level() {
    check("trace").await;
}

/// The filter names the crates that print requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_told_by_other_crates() {
    check("debug,logferry=trace,aws_smithy_runtime=trace,aws_runtime=trace,aws_sigv4=trace,hyper=trace,hyper_util=trace,rustls=trace,aws_sdk_sts=trace,aws_config=trace")
        .await;
}
