use super::*;
use crate::{
    call::Principal,
    requests::{calling, json_body, role_session, root, sandbox},
};
use std::time::Duration;

const ACCOUNT: &str = "111111111111";

async fn call(cloud: &Arc<Cloud>, caller: Call, operation: &str, body: Value) -> Result<Value, AwsError> {
    let call = calling(caller, operation, body.to_string());
    Ok(json_body(cloud.sqs.handle(cloud, &call).await?).await)
}

async fn try_send(
    cloud: &Arc<Cloud>,
    operation: &str,
    queue: &str,
    mut body: Value,
) -> Result<Value, AwsError> {
    body["QueueUrl"] = json!(format!("http://127.0.0.1:1/{ACCOUNT}/{queue}"));
    call(cloud, root(ACCOUNT), operation, body).await
}

/// Makes a call on a queue of the test account, which must succeed.
pub(crate) async fn send(cloud: &Arc<Cloud>, operation: &str, queue: &str, body: Value) -> Value {
    try_send(cloud, operation, queue, body).await.expect("the call succeeds")
}

async fn refused(cloud: &Arc<Cloud>, operation: &str, queue: &str, body: Value) -> String {
    try_send(cloud, operation, queue, body).await.expect_err("the call is refused").code
}

/// Creates a queue in the test account and returns its ARN.
pub(crate) async fn create_queue(cloud: &Arc<Cloud>, name: &str, attributes: Value) -> String {
    let body = json!({"QueueName": name, "Attributes": attributes});
    call(cloud, root(ACCOUNT), "CreateQueue", body).await.expect("the queue can be created");
    format!("arn:aws:sqs:us-east-1:{ACCOUNT}:{name}")
}

/// Receives and deletes all visible messages, and returns their bodies.
pub(crate) async fn bodies(cloud: &Arc<Cloud>, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    for message in receive(cloud, queue, json!({"MaxNumberOfMessages": 10})).await {
        delete(cloud, queue, &message["ReceiptHandle"]).await;
        bodies.push(message["Body"].as_str().expect("text").to_owned());
    }
    bodies
}

/// Deletes a message, and returns the code of the failure, if there is one.
async fn delete(cloud: &Arc<Cloud>, queue: &str, handle: &Value) -> Option<String> {
    let entries = json!([{"Id": "0", "ReceiptHandle": handle}]);
    let answer = send(cloud, "DeleteMessageBatch", queue, json!({"Entries": entries})).await;
    answer["Failed"][0]["Code"].as_str().map(str::to_owned)
}

async fn receive(cloud: &Arc<Cloud>, queue: &str, request: Value) -> Vec<Value> {
    let answer = send(cloud, "ReceiveMessage", queue, request).await;
    answer["Messages"].as_array().cloned().unwrap_or_default()
}

async fn with_queue(attributes: Value) -> Arc<Cloud> {
    let cloud = Arc::new(Cloud::default());
    create_queue(&cloud, "q", attributes).await;
    cloud
}

#[tokio::test(start_paused = true)]
async fn a_message_arrives_with_the_body_and_attributes_that_were_sent() {
    let cloud = with_queue(json!({})).await;
    let sent = send(
        &cloud,
        "SendMessage",
        "q",
        json!({
            "MessageBody": "This is a test message",
            "MessageAttributes": {"timestamp": {"DataType": "Number", "StringValue": "1493147359900"}},
            "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
        }),
    )
    .await;
    assert_eq!(sent["MD5OfMessageBody"], "fafb00f5732ab283681e124bf8747ed1");
    assert_eq!(sent["MD5OfMessageAttributes"], "235c5c510d26fb653d073faed50ae77c");
    let request =
        json!({"AttributeNames": ["All"], "MessageAttributeNames": ["timestamp"], "VisibilityTimeout": 0});
    let message = receive(&cloud, "q", request).await.remove(0);
    assert_eq!(message["MessageId"], sent["MessageId"]);
    assert_eq!(message["MD5OfBody"], sent["MD5OfMessageBody"]);
    assert_eq!(message["MD5OfMessageAttributes"], sent["MD5OfMessageAttributes"]);
    assert_eq!(message["MessageAttributes"]["timestamp"]["StringValue"], "1493147359900");
    let system = &message["Attributes"];
    assert_eq!(system["SenderId"], ACCOUNT);
    assert_eq!(system["ApproximateReceiveCount"], "1");
    assert_eq!(system["AWSTraceHeader"], "Root=1");
    assert!(system["SentTimestamp"].is_string() && system["ApproximateFirstReceiveTimestamp"].is_string());
    let bare = receive(&cloud, "q", json!({})).await.remove(0);
    assert!(bare.get("Attributes").is_none() && bare.get("MessageAttributes").is_none());
    let refusal = refused(&cloud, "ReceiveMessage", "q", json!({"AttributeNames": ["Colour"]})).await;
    assert_eq!(refusal, "InvalidAttributeName");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_when_a_message_arrives() {
    let cloud = with_queue(json!({})).await;
    let waiting = tokio::spawn({
        let cloud = cloud.clone();
        async move {
            let start = Instant::now();
            let got = receive(&cloud, "q", json!({"WaitTimeSeconds": 20})).await;
            (got.len(), start.elapsed())
        }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    send(&cloud, "SendMessage", "q", json!({"MessageBody": "x"})).await;
    let (got, waited) = waiting.await.expect("no panic");
    assert_eq!(got, 1);
    assert!(waited >= Duration::from_secs(3) && waited < Duration::from_secs(4), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_wakes_when_a_message_becomes_visible_and_otherwise_times_out() {
    let cloud = with_queue(json!({"VisibilityTimeout": "5"})).await;
    let start = Instant::now();
    let poll = |wait: u64| {
        let cloud = cloud.clone();
        async move {
            let got = receive(&cloud, "q", json!({"WaitTimeSeconds": wait})).await;
            (got.len(), start.elapsed().as_secs())
        }
    };
    // One poll receives the message and hides it for 5 s. The other poll was already waiting and must wake after that.
    let (first, second) = (tokio::spawn(poll(20)), tokio::spawn(poll(20)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    send(&cloud, "SendMessage", "q", json!({"MessageBody": "x"})).await;
    let mut got = [first.await.expect("no panic"), second.await.expect("no panic")];
    got.sort_unstable();
    assert_eq!(got, [(1, 1), (1, 6)]);
    let arn = format!("arn:aws:sqs:us-east-1:{ACCOUNT}:q");
    let none = QueueLimits { retention_milliseconds: Some(0), ..QueueLimits::default() };
    cloud.sqs.limit(&arn, none).expect("the queue exists");
    let begun = start.elapsed().as_secs();
    assert_eq!(poll(4).await, (0, begun + 4));
}

#[tokio::test(start_paused = true)]
async fn every_message_wakes_a_poll_of_its_own() {
    let cloud = with_queue(json!({})).await;
    let polls: Vec<_> = (0..8)
        .map(|_| {
            let cloud = cloud.clone();
            tokio::spawn(async move { receive(&cloud, "q", json!({"WaitTimeSeconds": 20})).await.len() })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = Instant::now();
    let entries: Vec<Value> = (0..8).map(|n| json!({"Id": format!("m{n}"), "MessageBody": "x"})).collect();
    send(&cloud, "SendMessageBatch", "q", json!({"Entries": entries})).await;
    for poll in polls {
        assert_eq!(poll.await.expect("no panic"), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn only_the_latest_handle_hides_and_deletes_a_message() {
    let cloud = with_queue(json!({})).await;
    send(&cloud, "SendMessage", "q", json!({"MessageBody": "x"})).await;
    let handle = receive(&cloud, "q", json!({})).await[0]["ReceiptHandle"].clone();
    let change = |seconds: u64| json!({"ReceiptHandle": handle, "VisibilityTimeout": seconds});
    tokio::time::sleep(Duration::from_secs(29)).await;
    send(&cloud, "ChangeMessageVisibility", "q", change(43_171)).await;
    assert_eq!(
        refused(&cloud, "ChangeMessageVisibility", "q", change(43_172)).await,
        "InvalidParameterValue"
    );
    assert_eq!(
        refused(&cloud, "ChangeMessageVisibility", "q", change(50_000)).await,
        "InvalidParameterValue"
    );
    send(&cloud, "ChangeMessageVisibility", "q", change(0)).await;
    assert_eq!(refused(&cloud, "ChangeMessageVisibility", "q", change(9)).await, "MessageNotInflight");
    assert_eq!(delete(&cloud, "q", &json!("x")).await.as_deref(), Some("ReceiptHandleIsInvalid"));
    let newer = receive(&cloud, "q", json!({})).await[0]["ReceiptHandle"].clone();
    assert_eq!(delete(&cloud, "q", &handle).await, None);
    let attributes = send(&cloud, "GetQueueAttributes", "q", json!({"AttributeNames": ["All"]})).await;
    assert_eq!(
        attributes["Attributes"]["ApproximateNumberOfMessagesNotVisible"], "1",
        "an old handle does not delete the message"
    );
    assert_eq!(delete(&cloud, "q", &newer).await, None);
    assert_eq!(refused(&cloud, "ChangeMessageVisibility", "q", change(9)).await, "InvalidParameterValue");
}

#[tokio::test(start_paused = true)]
async fn a_batch_fails_entry_by_entry() {
    let cloud = with_queue(json!({})).await;
    let batch = |entries: Value| json!({"Entries": entries});
    for (entries, code) in [
        (json!([]), "EmptyBatchRequest"),
        (
            json!([{"Id": "a", "MessageBody": "1"}, {"Id": "a", "MessageBody": "2"}]),
            "BatchEntryIdsNotDistinct",
        ),
        (json!([{"Id": "a b", "MessageBody": "1"}]), "InvalidBatchEntryId"),
        (
            (0..11).map(|n| json!({"Id": n.to_string(), "MessageBody": "1"})).collect(),
            "TooManyEntriesInBatchRequest",
        ),
        (
            json!([{"Id": "a", "MessageBody": "x".repeat(600_000)}, {"Id": "b", "MessageBody": "x".repeat(500_000)}]),
            "BatchRequestTooLong",
        ),
    ] {
        assert_eq!(refused(&cloud, "SendMessageBatch", "q", batch(entries)).await, code);
    }
    let mixed = json!([{"Id": "good", "MessageBody": "1"}, {"Id": "bad", "MessageBody": "\u{0}"}]);
    let answer = send(&cloud, "SendMessageBatch", "q", batch(mixed)).await;
    assert_eq!(answer["Successful"][0]["Id"], "good");
    assert_eq!(answer["Failed"][0]["Id"], "bad");
    assert_eq!(answer["Failed"][0]["Code"], "InvalidMessageContents");

    let handle = receive(&cloud, "q", json!({})).await[0]["ReceiptHandle"].clone();
    let both = json!([{"Id": "1", "ReceiptHandle": handle}, {"Id": "2", "ReceiptHandle": "AQEBnever"}]);
    let answer = send(&cloud, "DeleteMessageBatch", "q", batch(both)).await;
    assert_eq!(answer["Successful"], json!([{"Id": "1"}]));
    assert_eq!(answer["Failed"][0]["Code"], "ReceiptHandleIsInvalid");
    let change = json!([{"Id": "1", "ReceiptHandle": handle, "VisibilityTimeout": 3}]);
    let answer = send(&cloud, "ChangeMessageVisibilityBatch", "q", batch(change)).await;
    assert_eq!(answer["Failed"][0]["Code"], "InvalidParameterValue");
    let large = json!({"MessageBody": "x".repeat(1_048_577)});
    assert_eq!(refused(&cloud, "SendMessage", "q", large).await, "InvalidParameterValue");
}

async fn depth(cloud: &Arc<Cloud>, queue: &str) -> [String; 3] {
    let all = send(cloud, "GetQueueAttributes", queue, json!({"AttributeNames": ["All"]})).await;
    ["", "NotVisible", "Delayed"].map(|state| {
        let count = &all["Attributes"][format!("ApproximateNumberOfMessages{state}")];
        count.as_str().expect("text").to_owned()
    })
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_are_neither_visible_nor_in_flight() {
    let cloud = with_queue(json!({})).await;
    let entry = |id: &str, delay: i64| json!({"Id": id, "MessageBody": id, "DelaySeconds": delay});
    let entries = json!([entry("now", 0), entry("later", 900), entry("long", 901), entry("before", -1)]);
    let answer = send(&cloud, "SendMessageBatch", "q", json!({"Entries": entries})).await;
    let ids = |of: &str| {
        answer[of].as_array().expect("a list").iter().map(|entry| entry["Id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids("Successful"), ids("Failed")),
        (vec![json!("now"), json!("later")], vec![json!("long"), json!("before")])
    );
    assert_eq!(answer["Failed"][0]["Code"], "InvalidParameterValue");
    send(&cloud, "SendMessage", "q", json!({"MessageBody": "soon", "DelaySeconds": 30})).await;
    let long = json!({"MessageBody": "long", "DelaySeconds": 901});
    assert_eq!(refused(&cloud, "SendMessage", "q", long).await, "InvalidParameterValue");
    assert_eq!(depth(&cloud, "q").await, ["1", "0", "2"]);
    assert_eq!(bodies(&cloud, "q").await, ["now"]);
    let start = Instant::now();
    let mut waits = Vec::new();
    while waits.len() < 2 {
        let messages = receive(&cloud, "q", json!({"WaitTimeSeconds": 20, "VisibilityTimeout": 3_600})).await;
        waits.extend(messages.iter().map(|message| (message["Body"].clone(), start.elapsed().as_secs())));
    }
    assert_eq!(waits, [(json!("soon"), 30), (json!("later"), 900)]);
    assert_eq!(depth(&cloud, "q").await, ["0", "2", "0"]);
}

#[tokio::test(start_paused = true)]
async fn at_the_quota_a_short_poll_is_refused_and_a_long_one_is_empty() {
    let cloud = with_queue(json!({})).await;
    let arn = format!("arn:aws:sqs:us-east-1:{ACCOUNT}:q");
    cloud
        .sqs
        .limit(&arn, QueueLimits { in_flight: Some(2), ..QueueLimits::default() })
        .expect("the queue exists");
    for body in ["a", "b", "c"] {
        send(&cloud, "SendMessage", "q", json!({"MessageBody": body})).await;
    }
    let two = receive(&cloud, "q", json!({"MaxNumberOfMessages": 10, "VisibilityTimeout": 600})).await;
    assert_eq!(two.len(), 2, "a receive stops at the quota");
    assert_eq!(refused(&cloud, "ReceiveMessage", "q", json!({})).await, "OverLimit");
    let start = Instant::now();
    assert!(receive(&cloud, "q", json!({"WaitTimeSeconds": 5})).await.is_empty());
    assert_eq!(start.elapsed().as_secs(), 5);
    let poll = tokio::spawn({
        let cloud = cloud.clone();
        async move { receive(&cloud, "q", json!({"WaitTimeSeconds": 20})).await }
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    delete(&cloud, "q", &two[0]["ReceiptHandle"]).await;
    assert_eq!(poll.await.expect("no panic")[0]["Body"], "c");
    assert_eq!(start.elapsed().as_secs(), 8, "a delete makes room at once");
    let counts = cloud.sqs.counts(&arn).expect("the queue exists");
    assert_eq!((counts.in_flight, counts.most_in_flight), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_retention_period_deletes_messages_in_flight_too() {
    let cloud = with_queue(json!({"MessageRetentionPeriod": "60"})).await;
    let arn = format!("arn:aws:sqs:us-east-1:{ACCOUNT}:q");
    let check = async |age: Duration| {
        let before = cloud.sqs.counts(&arn).expect("the queue exists").expired;
        for delay in [0, 0, 900] {
            send(&cloud, "SendMessage", "q", json!({"MessageBody": "x", "DelaySeconds": delay})).await;
        }
        receive(&cloud, "q", json!({"VisibilityTimeout": 900})).await;
        tokio::time::sleep(age - Duration::from_millis(1)).await;
        assert_eq!(depth(&cloud, "q").await, ["1", "1", "1"]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(depth(&cloud, "q").await, ["0", "0", "0"]);
        assert_eq!(cloud.sqs.counts(&arn).expect("the queue exists").expired, before + 3);
    };
    check(Duration::from_secs(60)).await;
    let limits = QueueLimits { retention_milliseconds: Some(1_500), ..QueueLimits::default() };
    cloud.sqs.limit(&arn, limits).expect("the queue exists");
    check(Duration::from_millis(1_500)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_sent_again_is_a_new_message() {
    let cloud = with_queue(json!({})).await;
    let entry = json!({
        "Id": "0",
        "MessageBody": "x",
        "MessageGroupId": "acme-corp",
        "MessageAttributes": {"attempts": {"DataType": "Number", "StringValue": "7"}},
        "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
    });
    let request = json!({
        "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"], "WaitTimeSeconds": 20,
    });
    let mut seen = Vec::new();
    for _ in 0..2 {
        send(&cloud, "SendMessageBatch", "q", json!({"Entries": [entry]})).await;
        let message = receive(&cloud, "q", request.clone()).await.remove(0);
        delete(&cloud, "q", &message["ReceiptHandle"]).await;
        let system = &message["Attributes"];
        assert_eq!(system["MessageGroupId"], "acme-corp");
        assert_eq!(system["AWSTraceHeader"], "Root=1");
        assert_eq!(system["ApproximateReceiveCount"], "1");
        assert_eq!(message["MessageAttributes"]["attempts"]["StringValue"], "7");
        seen.push(message["MessageId"].clone());
    }
    assert_ne!(seen[0], seen[1]);
    let bad = json!({"MessageBody": "x", "MessageGroupId": "acme corp"});
    assert_eq!(refused(&cloud, "SendMessage", "q", bad).await, "InvalidParameterValue");
}

#[tokio::test(start_paused = true)]
async fn a_message_received_too_often_goes_to_the_dead_letter_queue() {
    let cloud = Arc::new(Cloud::default());
    let dead = create_queue(&cloud, "dead", json!({})).await;
    let redrive = json!({"deadLetterTargetArn": dead, "maxReceiveCount": "2"}).to_string();
    let source = create_queue(&cloud, "q", json!({"RedrivePolicy": redrive, "VisibilityTimeout": "1"})).await;
    let attribute = json!({"DataType": "String", "StringValue": "v"});
    let sent =
        send(&cloud, "SendMessage", "q", json!({"MessageBody": "x", "MessageAttributes": {"a": attribute}}))
            .await;
    for _ in 0..2 {
        assert_eq!(receive(&cloud, "q", json!({})).await.len(), 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(receive(&cloud, "q", json!({})).await.is_empty());
    let request = json!({"MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]});
    let message = receive(&cloud, "dead", request).await.remove(0);
    assert_eq!(message["MessageId"], sent["MessageId"]);
    assert_eq!(message["Body"], "x");
    assert_eq!(message["MessageAttributes"]["a"]["StringValue"], "v");
    assert_eq!(message["Attributes"]["DeadLetterQueueSourceArn"], source);
    assert_eq!(message["Attributes"]["ApproximateReceiveCount"], "3");
    let nowhere =
        json!({"deadLetterTargetArn": dead.replace("dead", "none"), "maxReceiveCount": 2}).to_string();
    let body = json!({"Attributes": {"RedrivePolicy": nowhere}});
    assert_eq!(refused(&cloud, "SetQueueAttributes", "q", body).await, "InvalidParameterValue");
}

#[tokio::test]
async fn only_its_owner_may_call_a_queue() {
    let cloud = with_queue(json!({})).await;
    let send_to = json!({"QueueUrl": format!("http://127.0.0.1:1/{ACCOUNT}/q"), "MessageBody": "x"});
    let error = call(&cloud, root("222222222222"), "SendMessage", send_to).await.expect_err("not theirs");
    assert_eq!(error.code, "QueueDoesNotExist");
    let again = json!({"QueueName": "q", "Attributes": {"VisibilityTimeout": "31"}});
    let error = call(&cloud, root(ACCOUNT), "CreateQueue", again).await.expect_err("differs");
    assert_eq!(error.code, "QueueNameExists");
    assert_eq!(refused(&cloud, "StartMessageMoveTask", "q", json!({})).await, "NotImplemented");
}

#[tokio::test]
async fn a_role_needs_permission_for_the_action() {
    let cloud = with_queue(json!({})).await;
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": format!("arn:aws:sqs:*:{ACCOUNT}:q")},
    ]});
    let session = role_session(&cloud, ACCOUNT, "sender", &policy).await;
    assert!(matches!(session.principal, Principal::Session { .. }));
    let body = json!({"QueueUrl": format!("http://127.0.0.1:1/{ACCOUNT}/q"), "MessageBody": "x"});
    call(&cloud, session.clone(), "SendMessage", body.clone()).await.expect("allowed");
    let error = call(&cloud, session, "ReceiveMessage", body).await.expect_err("not allowed");
    assert_eq!(error.status, 403);
    let sender =
        &receive(&cloud, "q", json!({"AttributeNames": ["SenderId"]})).await[0]["Attributes"]["SenderId"];
    assert!(sender.as_str().is_some_and(|sender| sender.starts_with("AROA") && sender.ends_with(":tests")));
}

#[tokio::test]
async fn a_queue_with_many_messages_stays_fast() {
    let cloud = with_queue(json!({})).await;
    for _ in 0..2_500 {
        let entries: Vec<Value> = (0..10).map(|n| json!({"Id": n.to_string(), "MessageBody": "x"})).collect();
        send(&cloud, "SendMessageBatch", "q", json!({"Entries": entries})).await;
    }
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2_500 {
        let messages =
            receive(&cloud, "q", json!({"MaxNumberOfMessages": 10, "VisibilityTimeout": 600})).await;
        let entries: Vec<Value> = messages
            .iter()
            .enumerate()
            .map(|(n, message)| json!({"Id": n.to_string(), "ReceiptHandle": message["ReceiptHandle"]}))
            .collect();
        seen.extend(messages.iter().filter_map(|message| message["MessageId"].as_str().map(str::to_owned)));
        let answer = send(&cloud, "DeleteMessageBatch", "q", json!({"Entries": entries})).await;
        assert_eq!(answer["Failed"], json!([]));
    }
    assert_eq!(seen.len(), 25_000);
    assert!(bodies(&cloud, "q").await.is_empty());
}

#[tokio::test]
async fn the_sdk_reads_answers_and_modelled_errors() {
    let (_sandbox, aws) = sandbox().await;
    let sqs = aws.account(ACCOUNT).sqs();
    let created = sqs.create_queue().queue_name("wire").send().await.expect("made");
    let url = created.queue_url().expect("a URL");
    let missing = sqs.send_message().queue_url(url.replace("wire", "none")).message_body("x").send().await;
    assert!(missing.expect_err("there is none").into_service_error().is_queue_does_not_exist());
    sqs.send_message().queue_url(url).message_body("é\n").send().await.expect("sent");
    let received = sqs.receive_message().queue_url(url).wait_time_seconds(1).send().await.expect("received");
    let message = &received.messages()[0];
    assert_eq!(message.body(), Some("é\n"));
    let handle = message.receipt_handle().expect("a handle");
    let change = |seconds| {
        sqs.change_message_visibility()
            .queue_url(url)
            .receipt_handle(handle)
            .visibility_timeout(seconds)
            .send()
    };
    change(0).await.expect("in flight");
    let late = change(5).await.expect_err("no longer in flight");
    assert!(late.into_service_error().is_message_not_inflight());
}
