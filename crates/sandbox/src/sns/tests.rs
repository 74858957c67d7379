use super::*;
use crate::{
    encoding::encode_key,
    requests::{body, calling, role_session, root},
    sqs::tests::{bodies, create_queue, send},
};

const ACCOUNT: &str = "111111111111";
const TOPIC: &str = "arn:aws:sns:us-east-1:111111111111:t";

async fn call(cloud: &Arc<Cloud>, caller: Call, form: &[(&str, &str)]) -> Result<String, AwsError> {
    let pairs: Vec<String> =
        form.iter().map(|(name, value)| format!("{}={}", encode_key(name), encode_key(value))).collect();
    let reply = cloud.sns.handle(cloud, &calling(caller, form[0].1, pairs.join("&"))).await?;
    Ok(String::from_utf8(body(reply).await.to_vec()).expect("text"))
}

async fn ok(cloud: &Arc<Cloud>, form: &[(&str, &str)]) -> String {
    call(cloud, root(ACCOUNT), form).await.expect("the call succeeds")
}

async fn refused(cloud: &Arc<Cloud>, form: &[(&str, &str)]) -> String {
    call(cloud, root(ACCOUNT), form).await.expect_err("the call is refused").code
}

/// Sets an attribute of the topic or of a subscription to it.
async fn set(cloud: &Arc<Cloud>, arn: &str, name: &str, value: &str) -> Result<String, AwsError> {
    let (action, parameter) = match arn == TOPIC {
        true => ("SetTopicAttributes", "TopicArn"),
        false => ("SetSubscriptionAttributes", "SubscriptionArn"),
    };
    let form = [("Action", action), (parameter, arn), ("AttributeName", name), ("AttributeValue", value)];
    call(cloud, root(ACCOUNT), &form).await
}

/// Sets the topic's policy, to one with this statement.
async fn allow(cloud: &Arc<Cloud>, statement: Value) {
    set(cloud, TOPIC, "Policy", &json!({ "Statement": statement }).to_string()).await.expect("a policy");
}

fn element_text(xml: &str, name: &str) -> String {
    let document = roxmltree::Document::parse(xml).expect("XML");
    let node = document.descendants().find(|node| node.tag_name().name() == name);
    node.and_then(|node| node.text()).unwrap_or_default().to_owned()
}

/// Creates a topic, and a subscribed queue that lets the topic send. `raw` is `true` or `false`.
async fn wired(cloud: &Arc<Cloud>, raw: &str) {
    ok(cloud, &[("Action", "CreateTopic"), ("Name", "t")]).await;
    let queue = create_queue(cloud, "q", json!({})).await;
    let policy = json!({"Statement": {
        "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage",
        "Resource": queue, "Condition": {"ArnEquals": {"aws:SourceArn": TOPIC}},
    }});
    send(cloud, "SetQueueAttributes", "q", json!({"Attributes": {"Policy": policy.to_string()}})).await;
    let subscribe = [
        ("Action", "Subscribe"),
        ("TopicArn", TOPIC),
        ("Protocol", "sqs"),
        ("Endpoint", queue.as_str()),
        ("Attributes.entry.1.key", "RawMessageDelivery"),
        ("Attributes.entry.1.value", raw),
    ];
    let answer = ok(cloud, &subscribe).await;
    let arn = element_text(&answer, "SubscriptionArn");
    assert_eq!(
        element_text(&ok(cloud, &subscribe).await, "SubscriptionArn"),
        arn,
        "subscribing again returns the same subscription"
    );
}

#[tokio::test]
async fn a_message_reaches_the_queue_wrapped_or_raw() {
    let (cloud, bare) = (Arc::new(Cloud::default()), Arc::new(Cloud::default()));
    wired(&cloud, "false").await;
    wired(&bare, "true").await;
    let publish = [
        ("Action", "Publish"),
        ("TopicArn", TOPIC),
        ("Subject", "s"),
        ("Message", "a=b & \"c\""),
        ("MessageAttributes.entry.1.Name", "kind"),
        ("MessageAttributes.entry.1.Value.DataType", "String"),
        ("MessageAttributes.entry.1.Value.StringValue", "x"),
    ];
    let id = element_text(&ok(&cloud, &publish).await, "MessageId");
    let envelope: Value = serde_json::from_str(&bodies(&cloud, "q").await[0]).expect("JSON");
    assert_eq!(envelope["Type"], "Notification");
    assert_eq!(envelope["MessageId"], id);
    assert_eq!(envelope["TopicArn"], TOPIC);
    assert_eq!(envelope["Subject"], "s");
    assert_eq!(envelope["Message"], "a=b & \"c\"");
    assert_eq!(envelope["MessageAttributes"]["kind"]["Value"], "x");

    ok(&bare, &publish).await;
    assert_eq!(bodies(&bare, "q").await, ["a=b & \"c\""]);
    assert_eq!(cloud.sqs.dropped(), 0);
}

#[tokio::test]
async fn a_queue_that_refuses_sns_gets_no_message() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "false").await;
    send(&cloud, "SetQueueAttributes", "q", json!({"Attributes": {"Policy": ""}})).await;
    ok(&cloud, &[("Action", "Publish"), ("TopicArn", TOPIC), ("Message", "x")]).await;
    assert!(bodies(&cloud, "q").await.is_empty());
    assert_eq!(cloud.sqs.dropped(), 1);
}

#[tokio::test]
async fn a_service_publishes_only_with_the_topic_policys_permission() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "false").await;
    let sender =
        Sender { service: "s3.amazonaws.com", source_arn: "arn:aws:s3:::staging", source_account: ACCOUNT };
    assert!(!cloud.sns.publish_for(&cloud, TOPIC, &sender, "s", "m"));
    assert_eq!(cloud.sns.dropped(), 1);
    let statement = json!([{
        "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sns:Publish", "Resource": TOPIC,
        "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:s3:*:*:staging"},
                      "StringEquals": {"aws:SourceAccount": ACCOUNT}},
    }]);
    allow(&cloud, statement).await;
    assert!(cloud.sns.publish_for(&cloud, TOPIC, &sender, "Amazon S3 Notification", "m"));
    assert!(bodies(&cloud, "q").await[0].contains("\"Subject\" : \"Amazon S3 Notification\""));
    let other = Sender { source_account: "222222222222", ..sender };
    assert!(!cloud.sns.publish_for(&cloud, TOPIC, &other, "s", "m"));
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "false").await;
    let long = "x".repeat(262_145);
    let publish = |arn, message| [("Action", "Publish"), ("TopicArn", arn), ("Message", message)];
    let missing = TOPIC.replace(":t", ":none");
    assert_eq!(refused(&cloud, &publish(&missing, "x")).await, "NotFound");
    assert_eq!(refused(&cloud, &publish("t", "x")).await, "InvalidParameter");
    assert_eq!(refused(&cloud, &publish(TOPIC, "")).await, "InvalidParameter");
    assert_eq!(refused(&cloud, &publish(TOPIC, &long)).await, "InvalidParameter");
    assert_eq!(refused(&cloud, &[("Action", "CreateTopic"), ("Name", "a b")]).await, "InvalidParameter");
    assert_eq!(refused(&cloud, &[("Action", "ListTopics")]).await, "NotImplemented");
    let mail = [("Action", "Subscribe"), ("TopicArn", TOPIC), ("Protocol", "email"), ("Endpoint", "a@b")];
    assert_eq!(refused(&cloud, &mail).await, "NotImplemented");
    let stranger = call(&cloud, root("222222222222"), &publish(TOPIC, "x")).await;
    assert_eq!(stranger.expect_err("not theirs").code, "AuthorizationError");
    let policy = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "sns:Subscribe", "Resource": "*"},
    ]});
    let session = role_session(&cloud, ACCOUNT, "subscriber", &policy).await;
    let error = call(&cloud, session, &publish(TOPIC, "x")).await.expect_err("not allowed");
    assert_eq!((error.status, error.code.as_str()), (403, "AuthorizationError"));
}

#[tokio::test]
async fn an_objects_event_reaches_the_queue_through_the_topic() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "false").await;
    let s3 = |operation: &str, path: &str, body: &str| {
        calling(Call { path: path.to_owned(), ..root(ACCOUNT) }, operation, body.to_owned())
    };
    let configuration = format!(
        "<NotificationConfiguration><TopicConfiguration><Id>all</Id><Topic>{TOPIC}</Topic><Event>s3:ObjectCreated:*</Event>\
         </TopicConfiguration></NotificationConfiguration>"
    );
    let configure = s3("PutBucketNotificationConfiguration", "/staging", &configuration);
    cloud.s3.handle(&cloud, &s3("CreateBucket", "/staging", "")).await.expect("made");
    let error = cloud.s3.handle(&cloud, &configure).await.expect_err("the topic does not let S3 publish");
    assert_eq!(error.code, "InvalidArgument");
    let statement = json!({
        "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "SNS:Publish", "Resource": TOPIC,
    });
    allow(&cloud, statement).await;
    cloud.s3.handle(&cloud, &configure).await.expect("configured");
    let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    cloud.s3.handle(&cloud, &s3("PutBucketVersioning", "/staging", versions)).await.expect("versions are on");
    let put = cloud.s3.handle(&cloud, &s3("PutObject", "/staging/a%20b/%2B.gz", "hello")).await.expect("put");
    let mut copy = s3("CopyObject", "/staging/copy", "");
    copy.headers.insert("x-amz-copy-source", http::HeaderValue::from_static("staging/a%20b/%2B.gz"));
    cloud.s3.handle(&cloud, &copy).await.expect("copied");
    let messages: Vec<Value> = bodies(&cloud, "q")
        .await
        .iter()
        .map(|body| {
            let envelope: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(envelope["Subject"], "Amazon S3 Notification");
            serde_json::from_str(envelope["Message"].as_str().expect("text")).expect("JSON")
        })
        .collect();
    assert_eq!(messages[0]["Event"], "s3:TestEvent");
    assert_eq!(messages[0]["Bucket"], "staging");
    let record = &messages[1]["Records"][0];
    assert_eq!(record["eventVersion"], "2.1");
    assert_eq!(record["eventSource"], "aws:s3");
    assert_eq!(record["eventName"], "ObjectCreated:Put");
    assert_eq!(record["awsRegion"], "us-east-1");
    assert_eq!(record["s3"]["configurationId"], "all");
    assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::staging");
    let object = &record["s3"]["object"];
    assert_eq!(object["key"], "a+b/%2B.gz");
    assert_eq!(object["size"], 5);
    assert_eq!(object["eTag"], "5d41402abc4b2a76b9719d911017c592");
    assert_eq!(object["versionId"], put.headers["x-amz-version-id"].to_str().expect("text"));
    let copied = &messages[2]["Records"][0];
    assert_eq!(copied["eventName"], "ObjectCreated:Copy");
    let sequencer = |object: &Value| object["sequencer"].as_str().expect("hex").to_owned();
    assert!(sequencer(&copied["s3"]["object"]) > sequencer(object));
}

#[tokio::test]
async fn attributes_and_subscriptions_are_read_changed_and_removed() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "false").await;
    let of_topic = ok(&cloud, &[("Action", "GetTopicAttributes"), ("TopicArn", TOPIC)]).await;
    assert!(of_topic.contains("<key>SubscriptionsConfirmed</key><value>1</value>"), "{of_topic}");
    assert!(
        of_topic.contains("__default_statement_ID") && !of_topic.contains("KmsMasterKeyId"),
        "{of_topic}"
    );
    let list = [("Action", "ListSubscriptionsByTopic"), ("TopicArn", TOPIC)];
    let listed = ok(&cloud, &list).await;
    let arn = element_text(&listed, "SubscriptionArn");
    assert_eq!(element_text(&listed, "Endpoint"), "arn:aws:sqs:us-east-1:111111111111:q");
    let read = [("Action", "GetSubscriptionAttributes"), ("SubscriptionArn", arn.as_str())];
    let of_subscription = ok(&cloud, &read).await;
    assert!(
        of_subscription.contains("<key>RawMessageDelivery</key><value>false</value>"),
        "{of_subscription}"
    );
    let set = async |name, value| set(&cloud, &arn, name, value).await;
    let refused_to_set = async |name, value| set(name, value).await.expect_err("the call is refused").code;
    set("FilterPolicy", r#"{"kind":["x"]}"#).await.expect("a filter");
    let publish = |kind: &'static str| {
        [
            ("Action", "Publish"),
            ("TopicArn", TOPIC),
            ("Message", kind),
            ("MessageAttributes.entry.1.Name", "kind"),
            ("MessageAttributes.entry.1.Value.DataType", "String"),
            ("MessageAttributes.entry.1.Value.StringValue", kind),
        ]
    };
    set("RawMessageDelivery", "true").await.expect("raw");
    ok(&cloud, &publish("y")).await;
    ok(&cloud, &publish("x")).await;
    ok(&cloud, &[("Action", "Publish"), ("TopicArn", TOPIC), ("Message", "without attributes")]).await;
    assert_eq!(bodies(&cloud, "q").await, ["x"]);
    assert_eq!(refused_to_set("FilterPolicy", "{").await, "InvalidParameter");
    assert_eq!(refused_to_set("FilterPolicyScope", "MessageBody").await, "NotImplemented");
    set("FilterPolicy", "").await.expect("no filter");
    let policy = json!({"Statement": {"Effect": "Allow", "Action": "sns:*", "Resource": TOPIC}});
    let session = role_session(&cloud, ACCOUNT, "reader", &policy).await;
    let denied = call(&cloud, session.clone(), &read).await.expect_err("the policy does not allow it on *");
    assert_eq!(denied.code, "AuthorizationError");
    call(&cloud, session, &list).await.expect("the policy allows it on the topic");
    ok(&cloud, &[("Action", "Unsubscribe"), ("SubscriptionArn", arn.as_str())]).await;
    assert_eq!(refused(&cloud, &read).await, "NotFound");
}

#[tokio::test]
async fn a_refused_message_goes_to_the_subscriptions_dead_letter_queue() {
    let cloud = Arc::new(Cloud::default());
    wired(&cloud, "true").await;
    let letters = create_queue(&cloud, "letters", json!({})).await;
    let policy = json!({"Statement": {
        "Effect": "Allow", "Principal": {"Service": "sns.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": letters,
    }});
    send(&cloud, "SetQueueAttributes", "letters", json!({"Attributes": {"Policy": policy.to_string()}}))
        .await;
    let redrive = json!({"deadLetterTargetArn": letters}).to_string();
    let listed = ok(&cloud, &[("Action", "ListSubscriptionsByTopic"), ("TopicArn", TOPIC)]).await;
    let arn = element_text(&listed, "SubscriptionArn");
    set(&cloud, &arn, "RedrivePolicy", &redrive).await.expect("a redrive policy");
    // A key that only AWS may use keeps SNS out of the queue.
    send(&cloud, "SetQueueAttributes", "q", json!({"Attributes": {"KmsMasterKeyId": "alias/aws/sqs"}})).await;
    ok(&cloud, &[("Action", "Publish"), ("TopicArn", TOPIC), ("Message", "m")]).await;
    assert_eq!((bodies(&cloud, "q").await, bodies(&cloud, "letters").await), (vec![], vec!["m".to_owned()]));
    let sender =
        Sender { service: "s3.amazonaws.com", source_arn: "arn:aws:s3:::b", source_account: ACCOUNT };
    let open = json!({"Effect": "Allow", "Principal": "*", "Action": "sns:Publish", "Resource": TOPIC});
    allow(&cloud, open).await;
    assert!(cloud.sns.accepts(TOPIC, &sender));
    set(&cloud, TOPIC, "KmsMasterKeyId", "alias/aws/sns").await.expect("a key");
    assert!(!cloud.sns.accepts(TOPIC, &sender));
}
