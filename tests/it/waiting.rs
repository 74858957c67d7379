//! Messages that cannot be delivered for a long time: they do not stay in flight, the queue's retention deletes none of
//! them, and they end as dead letters with a reason.

use std::time::{Duration, Instant};

use logferry_sandbox::{
    QueueLimits, Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::{Customer, TrustAction};

use crate::{
    eventually::eventually,
    samples::{Object, generated},
    setup::{Setup, s3_event},
    worker::Worker,
};

/// Settings with which no message waits hidden, and a refused role is probed every second.
const ANEW: [(&str, &str); 5] = [
    ("LOGFERRY_QUEUE__MAX_HIDDEN", "0"),
    // A random quarter at most is taken off the delay; the rest is still more than a second, the unit of SQS.
    ("LOGFERRY_QUEUE__RETRY_DELAY", "2s"),
    ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "2s"),
    ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
    ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "1s"),
];
const ROLE_DENIED: &str = "logferry_failures_total{reason=\"role_denied\"}";
const SENT_ANEW: &str = "logferry_messages_sent_anew_total{reason=\"role_denied\"}";

/// A tenant whose role does not exist yet.
struct Refused {
    customer: Customer,
    objects: Vec<Object>,
}

impl Refused {
    /// Creates the tenant, with `count` objects in the queue.
    async fn with(setup: &Setup, count: usize) -> Self {
        let customer = setup.customer_without_role("refused", &[]).await;
        let object = |n| generated(&format!("refused/c/app/pod-{n}/1.json.gz"), 5, 40);
        let objects: Vec<_> = (0..count).map(object).collect();
        setup.upload_all(&objects).await;
        Self { customer, objects }
    }

    /// Creates the role, and checks that everything arrives once.
    async fn mended(&self, setup: &Setup) {
        setup.create_missing_role(&self.customer, vec![TrustAction::AssumeRole]).await;
        setup.queue_is_empty().await;
        setup.no_dead_letters().await;
        setup.arrived_once(&self.customer, &self.objects).await;
    }
}

/// Waits until the worker has logged these words.
async fn says(worker: &Worker, words: &str) {
    eventually("the worker logs it", async || {
        let lines = worker.log_lines();
        let found = lines.iter().any(|line| line.to_string().contains(words));
        if found { Ok(()) } else { Err(format!("{words:?} is not in its log")) }
    })
    .await;
}

fn keep_for(setup: &Setup, sandbox: &Sandbox, milliseconds: u64) {
    let limits = QueueLimits { retention_milliseconds: Some(milliseconds), ..QueueLimits::default() };
    sandbox.limit_queue(&setup.provider.queue_arn, limits).expect("the queue exists");
}

/// A tenant with a refused role has more messages than may be in flight. Other tenants are not affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_tenant_does_not_fill_the_quota_of_messages_in_flight() {
    const QUOTA: usize = 40;
    let setup = Setup::new("quota").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let limits = QueueLimits { in_flight: Some(QUOTA), ..QueueLimits::default() };
    sandbox.limit_queue(&setup.provider.queue_arn, limits).expect("the queue exists");
    let refused = Refused::with(&setup, 3 * QUOTA).await;
    let settings = [
        ("LOGFERRY_QUEUE__RETRY_DELAY", "10s"),
        ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "10s"),
        // A slot has room for up to eight messages about small objects. A worker also holds up to eight messages per slot whose
        // result SQS has not confirmed.
        ("LOGFERRY_WORKER__CONCURRENCY", "2"),
    ];
    let worker = setup.worker_with(&[&ANEW[..], &settings].concat()).await;
    worker.reaches(SENT_ANEW, 3.0 * QUOTA as f64).await;
    let healthy = setup.customer("healthy").await;
    let fine: Vec<_> =
        (0..10).map(|n| generated(&format!("healthy/c/app/pod-{n}/1.json.gz"), 5, 40)).collect();
    setup.upload_all(&fine).await;
    worker.reaches("logferry_messages_total{verdict=\"ack\"}", 10.0).await;
    setup.arrived_once(&healthy, &fine).await;
    refused.mended(&setup).await;
    let counts = sandbox.queue_counts(&setup.provider.queue_arn).expect("the queue exists");
    assert!(counts.most_in_flight < QUOTA, "{counts:?}");
    assert_eq!(counts.expired, 0);
}

/// A message whose text leaves no room for attributes cannot be sent anew. Other messages still can.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_too_long_to_be_sent_again_does_not_keep_others_in_flight() {
    let setup = Setup::new("too-long").await;
    let Some(_) = setup.sandbox() else { return };
    let _refused = Refused::with(&setup, 3).await;
    // The role is refused before the worker looks for the object.
    let event = s3_event(&setup.provider.bucket, "refused/c/app/long/1.json.gz").to_string();
    let room = " ".repeat(1_048_570 - event.len());
    setup.send(&format!("{event}{room}")).await;
    let worker = setup.worker_with(&ANEW).await;
    worker.reaches("logferry_queue_errors_total{call=\"send_anew\"}", 1.0).await;
    let before = worker.metrics().await.get(SENT_ANEW);
    worker.reaches(SENT_ANEW, before + 15.0).await;
}

/// Messages that wait are sent anew, and their objects arrive once. Also runs on ministack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_sent_again_arrive_once() {
    let setup = Setup::new("anew").await;
    let refused = Refused::with(&setup, 5).await;
    let worker = setup.worker_with(&ANEW).await;
    worker.reaches(SENT_ANEW, 15.0).await;
    refused.mended(&setup).await;
}

/// Also runs on ministack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_retried_for_too_long_is_a_dead_letter_with_its_reason() {
    let setup = Setup::new("overdue").await;
    Refused::with(&setup, 5).await;
    let max_age = ("LOGFERRY_QUEUE__MAX_AGE", "4s");
    let worker = setup.worker_with(&[&ANEW[..], &[max_age]].concat()).await;
    let started = Instant::now();
    let letters = setup.dead_letters(5).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "the messages were retried until then");
    for letter in &letters {
        assert_eq!((letter.get("reason"), letter.get("tenant")), ("role_denied", "refused"), "{letter:?}");
    }
    setup.queue_is_empty().await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_dead_letters_overdue_total{reason=\"role_denied\"}"), 5.0);
    assert!(metrics.get(SENT_ANEW) >= 5.0, "their age was kept: {metrics:?}");
}

/// The queue's retention is shorter than the problem lasts: no message is deleted by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queues_retention_deletes_no_message() {
    let setup = Setup::new("retention").await;
    let Some(sandbox) = setup.sandbox() else { return };
    keep_for(&setup, sandbox, 8_000);
    let refused = Refused::with(&setup, 10).await;
    let worker = setup.worker_with(&ANEW[1..]).await;
    says(&worker, "the queue keeps messages for less than queue.max_age").await;
    let started = Instant::now();
    // Twice as long as the queue keeps a message.
    eventually("16 s pass", async || match started.elapsed() {
        elapsed if elapsed > Duration::from_secs(16) => Ok(()),
        elapsed => Err(format!("{elapsed:?}")),
    })
    .await;
    let counts = sandbox.queue_counts(&setup.provider.queue_arn).expect("the queue exists");
    assert_eq!((counts.expired, counts.visible + counts.in_flight + counts.delayed), (0, 10), "{counts:?}");
    refused.mended(&setup).await;
    assert_eq!(sandbox.queue_counts(&setup.provider.queue_arn).expect("the queue exists").expired, 0);
}

/// The worker may not send to the queue, so the messages become dead letters before the retention deletes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_permission_to_send_dead_letters_come_before_the_retention_ends() {
    let setup = Setup::with("no-send", |spec| spec.worker_may_send = false).await;
    let Some(sandbox) = setup.sandbox() else { return };
    keep_for(&setup, sandbox, 10_000);
    Refused::with(&setup, 10).await;
    let worker = setup.worker_with(&ANEW[1..]).await;
    says(&worker, "allow the worker's role sqs:SendMessage on the queue").await;
    let letters = setup.dead_letters(10).await;
    assert!(letters.iter().all(|letter| letter.get("reason") == "role_denied"), "{letters:?}");
    setup.queue_is_empty().await;
    let counts = sandbox.queue_counts(&setup.provider.queue_arn).expect("the queue exists");
    assert_eq!(counts.expired, 0, "{counts:?}");
    assert!(worker.metrics().await.get(ROLE_DENIED) > 10.0, "the messages were retried until then");
}

/// `queue.max_hidden` is 0, but messages that cannot be sent anew are hidden all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_permission_to_send_messages_wait_hidden() {
    let setup = Setup::with("hide", |spec| spec.worker_may_send = false).await;
    if setup.sandbox().is_none() {
        return;
    }
    let refused = Refused::with(&setup, 5).await;
    let worker = setup.worker_with(&ANEW).await;
    worker.reaches(ROLE_DENIED, 15.0).await;
    refused.mended(&setup).await;
    assert_eq!(worker.metrics().await.get(SENT_ANEW), 0.0);
}

/// If SQS does not return the retention when the worker starts, the worker asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_retention_is_read_again_after_a_failure() {
    let setup = Setup::new("retention-later").await;
    let Some(sandbox) = setup.sandbox() else { return };
    keep_for(&setup, sandbox, 60_000);
    let silent = Fault::new("sqs", "GetQueueAttributes", Effect::Reset);
    let outage = sandbox.faults().add(Fault { sessions_only: true, ..silent });
    let worker = setup.worker().await;
    says(&worker, "MessageRetentionPeriod could not be read").await;
    worker.ready().await;
    sandbox.faults().remove(outage);
    says(&worker, "the queue keeps messages for less than queue.max_age").await;
    worker.ready().await;
}

/// Deletes are refused while a dead letter is sent, and succeed later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_message_has_one_letter_however_late_it_is_deleted() {
    let setup = Setup::new("one-letter").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let refused = Effect::Error(ErrorAnswer::new(500, "InternalFailure"));
    let fault = Fault::new("sqs", "DeleteMessageBatch", refused);
    let outage = sandbox.faults().add(Fault { sessions_only: true, ..fault });
    let worker = setup.worker_with(&[("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s")]).await;
    setup.send("no event").await;
    worker.reaches("logferry_queue_errors_total{call=\"delete\"}", 5.0).await;
    assert_eq!(setup.queue_depth().await, (0, 1), "the message is hidden until it is deleted");
    sandbox.faults().remove(outage);
    setup.queue_is_empty().await;
    assert_eq!(setup.depth(&setup.provider.dead_letter_url).await, (1, 0), "one letter");
    let letters = setup.dead_letters(1).await;
    assert!(!letters[0].get("message_id").is_empty(), "{letters:?}");
    assert_eq!(worker.metrics().await.get("logferry_messages_received_total"), 1.0);
}

/// One extension of a visibility timeout hangs; no message is received twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_that_hangs_makes_no_message_visible() {
    let setup = Setup::new("hung-extension").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let customer = setup.customer("acme").await;
    let slow = Effect::Latency { milliseconds: 15_000 };
    sandbox.faults().add(Fault { times: Some(4), ..Fault::new("logs", "PutLogEvents", slow) });
    let hung = Effect::Latency { milliseconds: 600_000 };
    let hung = Fault::new("sqs", "ChangeMessageVisibilityBatch", hung);
    sandbox.faults().add(Fault { times: Some(1), ..hung });
    let worker = setup.worker_with(&[("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "10s")]).await;
    let objects: Vec<_> =
        (0..4).map(|n| generated(&format!("acme/c/app/pod-{n}/1.json.gz"), 5, 40)).collect();
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, 4).await;
    assert!(
        sandbox.calls("sqs", "ChangeMessageVisibilityBatch") >= 4,
        "each visibility timeout was extended"
    );
    assert_eq!(worker.metrics().await.get("logferry_messages_received_total"), 4.0, "no message came again");
    setup.arrived_once(&customer, &objects).await;
}
