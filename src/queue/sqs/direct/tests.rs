use std::time::Duration;

use aws_sdk_sqs::{
    Client,
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    types::MessageSystemAttributeNameForSends,
    types::MessageSystemAttributeValue,
};
use jiff::Timestamp;
use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::Aws;
use serde_json::Value;
use tokio::time::Instant;

use super::*;
use crate::{
    aws::{
        Base,
        direct::testing::{Recording, Sent},
    },
    metrics::rendered,
    queue::{
        Message as QueueMessage, Queue, QueueError,
        sqs::{Clients, SqsQueue},
    },
};

struct World {
    sandbox: Sandbox,
    recording: Recording,
    base: Base,
    client: Client,
    queue: SqsQueue,
    url: String,
}

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111");
        let (recording, base): (Recording, Base) = Recording::of(&aws.sdk_config());
        let client = Client::from_conf(base.sqs().build());
        let url = client.create_queue().queue_name("q").send().await.expect("it can be created").queue_url;
        let url = url.expect("a queue has a URL");
        let clients = Clients::new(base.sqs(), base.sqs(), client.clone(), base.calls());
        let queue = SqsQueue::new(clients, url.clone(), None, Duration::ZERO);
        Self { sandbox, recording, base, client, queue, url }
    }

    fn fail(&self, operation: &str, times: Option<u64>, effect: Effect) {
        self.sandbox.faults().add(Fault { times, ..Fault::new("sqs", operation, effect) });
    }

    fn end_pauses(&self) {
        let DirectQueueCalls { receives, deletes } = &self.queue.clients.direct;
        receives.interceptor().pauses().clear();
        deletes.interceptor().pauses().clear();
    }

    async fn receive(&self) -> (Result<Vec<QueueMessage>, QueueError>, Vec<Sent>) {
        self.recording.take("");
        let messages = self.queue.receive(10, Duration::ZERO).await;
        (messages, self.recording.take("AmazonSQS.ReceiveMessage"))
    }

    async fn delete(&self, receipts: &[Receipt]) -> (Vec<Result<(), QueueError>>, Vec<Sent>) {
        self.recording.take("");
        let results = self.queue.delete(receipts).await;
        (results, self.recording.take("AmazonSQS.DeleteMessageBatch"))
    }
}

fn are_direct(sent: &[Sent]) -> Vec<bool> {
    sent.iter().map(|sent| sent.is_direct).collect()
}

/// The same request, whatever the order of names in its body.
fn assert_same(direct: &Sent, by_the_sdk: &Sent) {
    let body = |sent: &Sent| serde_json::from_slice::<Value>(&sent.body).expect("JSON");
    assert_eq!(body(direct), body(by_the_sdk));
    let without_body = |sent: &Sent| Sent { body: Vec::new(), ..sent.clone().by_the_sdk() };
    assert_eq!(without_body(direct), without_body(by_the_sdk));
}

#[tokio::test]
async fn a_direct_receive_is_the_sdk_s() {
    let world = World::new().await;
    let text = |value: &str| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        value.build().expect("the type is set")
    };
    let trace = MessageSystemAttributeValue::builder().data_type("String");
    let trace =
        trace.string_value("Root=1-5759e988-bd862e3fe1be46a994272793").build().expect("the type is set");
    for body in ["{\"Records\":[]}", "\u{1F600} \"\\\t</a>"] {
        let send = world.client.send_message().queue_url(&world.url).message_body(body);
        let send = send
            .message_attributes("logferry.attempts", text("40"))
            .message_attributes("logferry.refusals", text("2"))
            .message_attributes("logferry.first_received", text("1000"))
            .message_attributes("other", text("x"))
            .message_system_attributes(MessageSystemAttributeNameForSends::AwsTraceHeader, trace.clone());
        send.send().await.expect("it can be sent");
    }
    let (first, by_the_sdk) = world.receive().await;
    let (second, direct) = world.receive().await;
    assert_eq!((are_direct(&by_the_sdk), are_direct(&direct)), (vec![false], vec![true]));
    assert_same(&direct[0], &by_the_sdk[0]);
    let (moment, zero) = (Instant::now(), Duration::ZERO);
    let without_times = |messages: Result<Vec<QueueMessage>, QueueError>, attempts: u32| {
        let mut messages = messages.expect("the queue answers");
        messages.sort_by(|a, b| a.body.cmp(&b.body));
        let same = messages.into_iter().map(|message| {
            assert!(!message.receipt.0.is_empty());
            assert_eq!(message.attempts, attempts);
            // The first receive was a second after 1970 began; the message was sent in this test.
            let age =
                Duration::try_from(Timestamp::now().duration_since(Timestamp::UNIX_EPOCH)).expect("positive");
            let (oldest, newest) = (Duration::from_secs(1), Duration::from_secs(601));
            assert!(message.age_when_received + oldest <= age && age <= message.age_when_received + newest);
            assert!(message.kept_when_received < newest);
            let (receipt, attempts) = (Receipt::default(), 0);
            let (received_at, age_when_received, kept_when_received) = (moment, zero, zero);
            QueueMessage { receipt, attempts, received_at, age_when_received, kept_when_received, ..message }
        });
        same.collect::<Vec<_>>()
    };
    let (first, second) = (without_times(first, 41), without_times(second, 42));
    assert_eq!(first, second);
    assert_eq!(first.len(), 2);
    let trace = first[1].trace_header.as_deref();
    assert_eq!((first[1].refusals, trace), (2, Some("Root=1-5759e988-bd862e3fe1be46a994272793")));
}

#[tokio::test]
async fn a_direct_delete_is_the_sdk_s() {
    let world = World::new().await;
    let mut results = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..2 {
        world.client.send_message().queue_url(&world.url).message_body("m").send().await.expect("it is sent");
        let received = world.receive().await.0.expect("the queue answers");
        let receipts = [Receipt("no receipt".into()), received[0].receipt.clone()];
        let (result, sent) = world.delete(&receipts).await;
        assert!(result[0].is_err() && result[1].is_ok(), "{result:?}");
        assert_eq!(world.receive().await.0.expect("the queue answers").len(), 0, "it is deleted");
        results.push(result);
        requests.push(sent);
    }
    assert_eq!(format!("{:?}", results[0]), format!("{:?}", results[1]));
    assert_eq!((are_direct(&requests[0]), are_direct(&requests[1])), (vec![false], vec![true]));
    // Each message has a receipt of its own.
    let plain = |mut sent: Sent| {
        let mut body: Value = serde_json::from_slice(&sent.body).expect("JSON");
        body["Entries"][1]["ReceiptHandle"] = "r".into();
        sent.body = body.to_string().into_bytes();
        sent.headers.remove("content-length");
        sent
    };
    assert_same(&plain(requests[1][0].clone()), &plain(requests[0][0].clone()));
}

#[tokio::test]
async fn the_sdk_judges_other_answers() {
    let world = World::new().await;
    assert_eq!(are_direct(&world.receive().await.1), [false], "only the SDK knows the way");
    for effect in [
        Effect::Error(ErrorAnswer::new(400, "ThrottlingException")),
        Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable")),
        Effect::Reset,
    ] {
        world.end_pauses();
        world.fail("ReceiveMessage", Some(1), effect);
        let (messages, sent) = world.receive().await;
        assert!(messages.is_ok(), "{messages:?}");
        assert_eq!(are_direct(&sent), [true, false]);
        assert_eq!(are_direct(&world.receive().await.1), [false], "direct attempts pause");
    }
    let metrics = rendered(|registry| world.base.calls().register(registry));
    let failures = "logferry_aws_direct_failures_total{service=\"SQS\",operation=\"ReceiveMessage\"} 3";
    assert!(metrics.contains(failures), "{metrics}");
    world.end_pauses();
    world.fail("ReceiveMessage", None, Effect::Error(ErrorAnswer::new(400, "QueueDoesNotExist")));
    let (messages, sent) = world.receive().await;
    assert!(matches!(messages, Err(QueueError::Missing(_))), "{messages:?}");
    assert_eq!(are_direct(&sent), [true, false]);

    // Deletes are independent of receives.
    let receipts = [Receipt("no receipt".into())];
    assert_eq!(are_direct(&world.delete(&receipts).await.1), [false]);
    world.fail("DeleteMessageBatch", None, Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable")));
    let (results, sent) = world.delete(&receipts).await;
    assert!(matches!(results[..], [Err(QueueError::Unavailable(_))]), "{results:?}");
    assert_eq!(are_direct(&sent), [true, false, false], "three attempts in all");
}

#[tokio::test]
async fn a_route_is_learned_anew_after_the_longest_pause() {
    let world = World::new().await;
    assert_eq!(are_direct(&world.receive().await.1), [false]);
    assert_eq!(are_direct(&world.receive().await.1), [true]);
    world.queue.clients.direct.receives.interceptor().pauses().end_longest(&world.url);
    world.fail("ReceiveMessage", Some(1), Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable")));
    assert_eq!(are_direct(&world.receive().await.1), [true, false]);
    world.end_pauses();
    assert_eq!(are_direct(&world.receive().await.1), [false], "a second attempt teaches no route");
    assert_eq!(are_direct(&world.receive().await.1), [true]);
    world.fail("ReceiveMessage", None, Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable")));
    assert_eq!(are_direct(&world.receive().await.1), [true, false, false], "three attempts in all");
}

/// A direct attempt takes its time from the call.
#[tokio::test]
async fn a_call_without_an_answer_ends_in_time() {
    let world = World::new().await;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_millis(400));
    let timeouts = timeouts.operation_timeout(Duration::from_secs(1)).build();
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
    let config = world.base.sqs().timeout_config(timeouts).retry_config(retries);
    let clients = Clients::new(config.clone(), config, world.client.clone(), world.base.calls());
    let queue = SqsQueue::new(clients, world.url.clone(), None, Duration::ZERO);
    queue.receive(10, Duration::ZERO).await.expect("the queue answers");
    world.fail("ReceiveMessage", None, Effect::Latency { milliseconds: 3_600_000 });
    let error = queue.receive(10, Duration::ZERO).await.expect_err("nobody answers").to_string();
    // The SDK had 0.6 s.
    assert!(error.contains("operation timeout") && !error.contains("after 1s"), "{error}");
    assert!(!error.contains("after 400ms"), "{error}");
}

#[test]
fn answers_have_the_shapes_that_the_sdk_reads_and_no_other() {
    let received = |body: &str| serde_json::from_str::<JsonObject<Received>>(body).map(|found| found.0);
    for (body, messages) in [
        ("{}", 0),
        (r#"{"Messages":null}"#, 0),
        (r#"{"Messages":[{"MessageId":null,"Attributes":null,"MessageAttributes":null,"New":1}]}"#, 1),
        (r#"{"Messages":[{"MessageAttributes":{"a":{"StringValue":"x"},"b":{"DataType":null}}},{}]}"#, 2),
    ] {
        let found = received(body).expect(body).messages.unwrap_or_default();
        let found: Vec<Message> = found.into_iter().map(|JsonObject(found)| found.into()).collect();
        assert_eq!(found.len(), messages, "{body}");
    }
    for body in [r#"{"Messages":[["m","r","b",null,null]]}"#, r#"{"Messages":[null]}"#, r#"[[]]"#] {
        assert!(received(body).is_err(), "{body}");
    }
    let deleted = |body: &str| serde_json::from_str::<JsonObject<Deleted>>(body);
    for body in
        ["{}", r#"{"Failed":null}"#, r#"{"Successful":[{"Id":"0"}],"Failed":[{"Id":"1","Code":null}]}"#]
    {
        deleted(body).expect(body);
    }
    assert!(deleted(r#"{"Successful":[["0"]]}"#).is_err());
}
