//! Faults of AWS, injected by the sandbox: everything arrives, and only a lost answer makes events arrive twice.

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};

use crate::{
    samples::{Object, assert_at_least_once, assert_same_events, expected, generated, received_events},
    setup::Setup,
    worker::Samples,
};

fn times(times: u64, fault: Fault) -> Fault {
    Fault { times: Some(times), ..fault }
}

fn error(status: u16, code: &str) -> Effect {
    Effect::Error(ErrorAnswer::new(status, code))
}

/// Result of delivering one object under faults.
struct Outcome {
    found: Vec<(i64, String)>,
    expected: Vec<(i64, String)>,
    metrics: Samples,
}

impl Outcome {
    #[track_caller]
    fn arrived_once(&self) {
        assert_same_events("acme", &self.found, &self.expected);
        assert_eq!(self.metrics.get("logferry_records_unaccounted_total"), 0.0);
    }
}

/// Delivers one object under these faults. `None` if the target cannot inject them.
async fn under(
    name: &str,
    object: Object,
    faults: Vec<Fault>,
    variables: &[(&str, &str)],
) -> Option<Outcome> {
    let setup = Setup::new(name).await;
    let sandbox = setup.sandbox()?;
    let customer = setup.customer("acme").await;
    setup.upload(&object.key, object.bytes).await;
    // Created before the faults, which would also hit the calls of the harness.
    let mut environment = setup.environment().await;
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    for fault in faults {
        sandbox.faults().add(fault);
    }
    let worker = setup.start(&environment).await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    let found = received_events(&setup.aws, &customer).await;
    Some(Outcome { found, expected: expected(&object.text), metrics: worker.metrics().await })
}

fn small() -> Object {
    generated("acme/c/app/pod/1.json.gz", 200, 100)
}

const RETRIES: &str = "logferry_messages_total{verdict=\"retry\"}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttled_puts_are_retried_until_they_succeed() {
    // More than the SDK's own attempts, so that the message must come again.
    let throttle = Fault::new("logs", "PutLogEvents", error(400, "ThrottlingException"));
    let Some(outcome) = under("throttled", small(), vec![times(6, throttle)], &[]).await else { return };
    outcome.arrived_once();
    assert!(outcome.metrics.get("logferry_failures_total{reason=\"throttled\"}") >= 1.0);
    assert!(outcome.metrics.get(RETRIES) >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_can_fail_for_a_while() {
    // Limits the faults to calls for messages; readiness makes others.
    let contains = |service| match service {
        "dynamodb" => Some("acme".to_owned()),
        "sts" => Some("ExternalId".to_owned()),
        _ => None,
    };
    let faults = [
        ("sqs", "ReceiveMessage", 500, "InternalFailure"),
        ("dynamodb", "Query", 500, "InternalServerError"),
        ("sts", "AssumeRole", 503, "ServiceUnavailable"),
        ("s3", "GetObject", 503, "SlowDown"),
        ("logs", "PutLogEvents", 500, "InternalFailure"),
        ("logs", "CreateLogStream", 500, "InternalFailure"),
        ("sqs", "DeleteMessageBatch", 500, "InternalFailure"),
    ];
    let faults = faults.map(|(service, operation, status, code)| {
        times(3, Fault { contains: contains(service), ..Fault::new(service, operation, error(status, code)) })
    });
    let attempts = [("RETRY_ATTEMPTS", "2")];
    let Some(outcome) = under("internal", small(), faults.to_vec(), &attempts).await else { return };
    outcome.arrived_once();
    for reason in ["tenant_lookup", "role_unavailable", "object_unavailable", "logs_unavailable"] {
        let name = format!("logferry_failures_total{{reason=\"{reason}\"}}");
        assert!(outcome.metrics.get(&name) >= 1.0, "{reason}: {:?}", outcome.metrics);
    }
    assert!(outcome.metrics.get("logferry_queue_errors_total{call=\"receive\"}") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_reset_before_the_call_takes_effect_repeat_nothing() {
    let faults =
        [("logs", "PutLogEvents"), ("s3", "GetObject"), ("sts", "AssumeRole"), ("dynamodb", "Query")];
    let faults = faults.map(|(service, operation)| times(2, Fault::new(service, operation, Effect::Reset)));
    let Some(outcome) = under("resets", small(), faults.to_vec(), &[]).await else { return };
    outcome.arrived_once();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lost_answer_repeats_one_batch() {
    let setup = Setup::new("lost").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let worker = setup.worker().await;
    // The stream must exist already: a lost refusal would repeat nothing.
    let first = setup.upload_generated("acme/c/app/pod/1.json.gz", 5, 40).await;
    setup.acknowledged(&worker, 1).await;
    // Eight batches; the answers of two calls are lost.
    let lost = Fault::new("logs", "PutLogEvents", Effect::After { error: None });
    sandbox.faults().add(times(2, lost));
    let second = setup.upload_generated("acme/c/app/pod/2.json.gz", 400, 20_000).await;
    setup.acknowledged(&worker, 2).await;
    let found = received_events(&setup.aws, &customer).await;
    let all = [expected(&first.text), expected(&second.text)].concat();
    let twice = assert_at_least_once("acme", &found, &all);
    // 52 messages of 20,000 bytes fit into a batch.
    assert_eq!(twice, 104, "events that came more than once");
    assert_eq!(worker.metrics().await.get(RETRIES), 0.0, "the SDK's own retry is enough");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_resumed() {
    let half = Fault::new("s3", "GetObject", Effect::HalfBody);
    let Some(outcome) = under("half", incompressible(), vec![times(2, half)], &[]).await else { return };
    outcome.arrived_once();
    assert_eq!(
        outcome.metrics.get("logferry_messages_received_total"),
        1.0,
        "the download was resumed, and the message did not come again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_body_keeps_its_message_hidden() {
    let object = incompressible();
    // Slower than the visibility timeout: the message is received only once if the worker extends the timeout.
    let slow = Effect::SlowBody { bytes_per_second: (object.bytes.len() / 14) as u64 };
    let slow = times(1, Fault::new("s3", "GetObject", slow));
    let visibility = [("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s")];
    let Some(outcome) = under("slow", object, vec![slow], &visibility).await else { return };
    outcome.arrived_once();
    assert_eq!(outcome.metrics.get("logferry_messages_received_total"), 1.0);
}

/// Flips one bit in transit. Whatever that does to the text, the failure must be `checksum_mismatch`.
async fn flips_a_bit(name: &str, object: Object) {
    let wrong = Fault::new("s3", "GetObject", Effect::WrongChecksum);
    let Some(outcome) = under(name, object, vec![times(1, wrong)], &[]).await else { return };
    outcome.arrived_once();
    let mismatches = outcome.metrics.get("logferry_failures_total{reason=\"checksum_mismatch\"}");
    assert_eq!(mismatches, 1.0, "{:?}", outcome.metrics);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_checksum_is_read_again() {
    // The bit flips in the middle of the body, which is in a message: only the checksum shows it.
    let object = generated("acme/c/app/pod/1.json", 3, 4000);
    flips_a_bit("flip-text", Object { bytes: object.text.clone().into_bytes(), ..object }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_that_breaks_the_json_is_a_checksum_mismatch() {
    let mut object = generated("acme/c/app/pod/1.json", 200, 100);
    // Blanks at the front move the middle of the body onto the comma between two records.
    let comma = object.text.find("},{").expect("two records") + 1;
    object.text.insert_str(0, &" ".repeat(object.text.len() - 2 * comma));
    assert_eq!(&object.text[object.text.len() / 2..][..1], ",");
    flips_a_bit("flip-json", Object { bytes: object.text.clone().into_bytes(), ..object }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_that_breaks_the_gzip_is_a_checksum_mismatch() {
    flips_a_bit("flip-gzip", generated("acme/c/app/pod/1.json.gz", 3000, 100)).await;
}

/// One connection brings the first half, the next one brings the flipped bit. The checksum of neither response covers both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checksum_of_a_resumed_object_covers_all_of_it() {
    // The middle of the second half is in a message.
    let object = generated("acme/c/app/pod/1.json", 3, 4000);
    let object = Object { bytes: object.text.clone().into_bytes(), ..object };
    let faults = [Effect::HalfBody, Effect::WrongChecksum];
    let faults = faults.map(|effect| times(1, Fault::new("s3", "GetObject", effect)));
    let Some(outcome) = under("flip-resumed", object, faults.to_vec(), &[]).await else { return };
    outcome.arrived_once();
    let mismatches = outcome.metrics.get("logferry_failures_total{reason=\"checksum_mismatch\"}");
    assert_eq!(mismatches, 1.0, "{:?}", outcome.metrics);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_early_is_renewed() {
    let setup = Setup::new("expired").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let first = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    let before = assumed(sandbox);
    sandbox.expire_sessions(&customer.account);
    let second = setup.upload_generated("acme/c/app/pod/2.json.gz", 50, 40).await;
    setup.acknowledged(&worker, 2).await;
    assert_eq!(assumed(sandbox), before + 1, "one further AssumeRole");
    assert_eq!(worker.metrics().await.get(RETRIES), 0.0);
    setup.arrived_once(&customer, [&first, &second]).await;
    setup.no_dead_letters().await;
}

fn assumed(sandbox: &Sandbox) -> u64 {
    sandbox.calls("sts", "AssumeRole")
}

/// A throttled account of one tenant takes slots from others only for as long as its own calls last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_tenant_does_not_stop_another() {
    let setup = Setup::new("neighbours").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (busy, calm) = (setup.customer("busy").await, setup.customer("calm").await);
    let throttle = Fault::new("logs", "PutLogEvents", error(400, "ThrottlingException"));
    let throttle = sandbox.faults().add(Fault { account: Some(busy.account.clone()), ..throttle });
    let stuck = setup.upload_generated("busy/c/app/pod/1.json.gz", 50, 40).await;
    let fine = setup.upload_generated("calm/c/app/pod/1.json.gz", 50, 40).await;
    let worker = setup.worker().await;
    worker
        .until("the calm tenant's message is done and the busy one's is tried again", |metrics| {
            metrics.get("logferry_messages_total{verdict=\"ack\"}") == 1.0 && metrics.get(RETRIES) >= 1.0
        })
        .await;
    setup.arrived_once(&calm, [&fine]).await;
    sandbox.faults().remove(throttle);
    setup.acknowledged(&worker, 2).await;
    setup.arrived_once(&busy, [&stuck]).await;
    setup.no_dead_letters().await;
}

/// An object whose stored form is large enough to be cut in two.
fn incompressible() -> Object {
    let object = generated("acme/c/app/pod/1.json.gz", 500, 400);
    Object { bytes: object.text.clone().into_bytes(), ..object }
}
