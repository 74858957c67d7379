use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::requests::{calling, json_body, refused, role_session, root};

const ACCOUNT: &str = "111111111111";
const DAY: i64 = 86_400_000;

async fn ask(cloud: &Arc<Cloud>, operation: &str, body: Value) -> Result<Value, AwsError> {
    ask_as(cloud, ACCOUNT, operation, body.to_string()).await
}

async fn ask_as(
    cloud: &Arc<Cloud>,
    account: &str,
    operation: &str,
    body: impl Into<Bytes>,
) -> Result<Value, AwsError> {
    let call = calling(root(account), operation, body);
    Ok(json_body(cloud.logs.handle(cloud, &call).await?).await)
}

async fn cloud_with_stream() -> Arc<Cloud> {
    let cloud = Arc::<Cloud>::default();
    ask(&cloud, "CreateLogGroup", json!({ "logGroupName": "g" })).await.expect("a new group");
    let stream = json!({ "logGroupName": "g", "logStreamName": "s" });
    ask(&cloud, "CreateLogStream", stream).await.expect("a new stream");
    cloud
}

async fn put(cloud: &Arc<Cloud>, events: &[(i64, &str)]) -> Result<Value, AwsError> {
    put_with(cloud, events, json!({})).await
}

async fn put_with(cloud: &Arc<Cloud>, events: &[(i64, &str)], more: Value) -> Result<Value, AwsError> {
    let events: Vec<_> =
        events.iter().map(|(at, text)| json!({ "timestamp": at, "message": text })).collect();
    let mut body = json!({ "logGroupName": "g", "logStreamName": "s", "logEvents": events });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    ask(cloud, "PutLogEvents", body).await
}

fn messages(answer: &Value) -> Vec<&str> {
    let events = answer["events"].as_array().expect("events");
    events.iter().map(|event| event["message"].as_str().expect("a message")).collect()
}

#[tokio::test]
async fn events_are_read_in_time_order() {
    let cloud = cloud_with_stream().await;
    let now = now();
    let first = put(&cloud, &[(now, "b1"), (now, "b2"), (now + 5, "c")]).await.expect("legal");
    let second = put(&cloud, &[(now - 5, "a \"quoted\" \u{1F600}\n"), (now, "b3")]).await.expect("legal");
    assert!(second["nextSequenceToken"].as_str() > first["nextSequenceToken"].as_str());
    assert!(second.get("rejectedLogEventsInfo").is_none());
    let get = json!({ "logGroupName": "g", "logStreamName": "s", "startFromHead": true });
    let read = ask(&cloud, "GetLogEvents", get).await.expect("readable");
    assert_eq!(messages(&read), ["a \"quoted\" \u{1F600}\n", "b1", "b2", "b3", "c"]);
}

#[tokio::test]
async fn events_are_read_page_by_page() {
    let cloud = cloud_with_stream().await;
    let now = now();
    put(&cloud, &[(now, "1"), (now, "2"), (now + 1, "3"), (now + 2, "4"), (now + 3, "5")])
        .await
        .expect("legal");
    let page = async |token: Option<&Value>| {
        let mut body =
            json!({ "logGroupName": "g", "logStreamName": "s", "limit": 2, "startFromHead": true });
        if let Some(token) = token {
            body["nextToken"] = token.clone();
        }
        ask(&cloud, "GetLogEvents", body).await.expect("readable")
    };
    let one = page(None).await;
    let two = page(Some(&one["nextForwardToken"])).await;
    let three = page(Some(&two["nextForwardToken"])).await;
    let end = page(Some(&three["nextForwardToken"])).await;
    assert_eq!(
        [messages(&one), messages(&two), messages(&three)],
        [vec!["1", "2"], vec!["3", "4"], vec!["5"]]
    );
    assert!(messages(&end).is_empty());
    assert_eq!(end["nextForwardToken"], three["nextForwardToken"], "at the end the token stays the same");
    let tail = json!({ "logGroupName": "g", "logStreamName": "s" });
    assert_eq!(ask(&cloud, "GetLogEvents", tail).await.expect_err("not covered").status, 501);
    let bad =
        json!({ "logGroupName": "g", "logStreamName": "s", "startFromHead": true, "nextToken": "f/12" });
    refused(ask(&cloud, "GetLogEvents", bad).await, "InvalidParameterException", "nextToken");
}

#[tokio::test]
async fn a_page_holds_a_megabyte() {
    let cloud = cloud_with_stream().await;
    let (now, half) = (now(), "x".repeat(524_288 - 26));
    for message in ["a", "b", "c"] {
        put(&cloud, &[(now, &format!("{message}{}", &half[1..]))]).await.expect("legal");
    }
    let get = json!({ "logGroupName": "g", "logStreamName": "s", "startFromHead": true });
    let page = ask(&cloud, "GetLogEvents", get).await.expect("readable");
    let firsts: Vec<_> = messages(&page).iter().filter_map(|message| message.chars().next()).collect();
    assert_eq!(firsts, ['a', 'b']);
}

#[tokio::test]
async fn filtering_merges_streams() {
    let cloud = cloud_with_stream().await;
    ask(&cloud, "CreateLogStream", json!({ "logGroupName": "g", "logStreamName": "t" })).await.expect("new");
    let now = now();
    put(&cloud, &[(now, "s0"), (now + 2, "s2")]).await.expect("legal");
    put_with(&cloud, &[(now + 1, "t1"), (now + 2, "t2")], json!({ "logStreamName": "t" }))
        .await
        .expect("legal");
    let one = json!({ "logGroupName": "g", "limit": 3 });
    let one = ask(&cloud, "FilterLogEvents", one).await.expect("readable");
    assert_eq!(messages(&one), ["s0", "t1", "s2"]);
    let rest = json!({ "logGroupName": "g", "nextToken": one["nextToken"] });
    let rest = ask(&cloud, "FilterLogEvents", rest).await.expect("readable");
    assert_eq!(messages(&rest), ["t2"]);
    assert!(rest.get("nextToken").is_none());
    let late = json!({ "logGroupName": "g", "startTime": now + 2 });
    assert_eq!(messages(&ask(&cloud, "FilterLogEvents", late).await.expect("readable")), ["s2", "t2"]);
    let middle = json!({ "logGroupName": "g", "startTime": now + 1, "endTime": now + 1 });
    assert_eq!(messages(&ask(&cloud, "FilterLogEvents", middle).await.expect("readable")), ["t1"]);
    let ends = json!({ "logGroupName": "g", "startTime": now + 1, "endTime": now });
    refused(ask(&cloud, "FilterLogEvents", ends).await, "InvalidParameterException", "End time");
    let before = json!({ "logGroupName": "g", "startTime": -1 });
    refused(ask(&cloud, "FilterLogEvents", before).await, "InvalidParameterException", "startTime");
    let pattern = json!({ "logGroupName": "g", "filterPattern": "ERROR" });
    let error = ask(&cloud, "FilterLogEvents", pattern).await.expect_err("not covered");
    assert_eq!((error.status, error.code.as_str()), (501, "NotImplemented"));
}

#[tokio::test]
async fn a_batch_may_be_exactly_as_large_as_aws_allows() {
    let cloud = cloud_with_stream().await;
    let now = now();
    let whole = "x".repeat(1_048_576 - 26);
    put(&cloud, &[(now, &whole)]).await.expect("exactly full");
    refused(put(&cloud, &[(now, &format!("{whole}x"))]).await, "InvalidParameterException", "too large");
    // Sizes are bytes of UTF-8, not characters, and include the overhead.
    let half = "é".repeat((524_288 - 26) / 2);
    put(&cloud, &[(now, &half), (now, &half)]).await.expect("exactly full");
    let over = put(&cloud, &[(now, &half), (now, &format!("{half}x"))]).await;
    refused(over, "InvalidParameterException", "Upload too large: 1048577 bytes exceeds limit of 1048576");

    put(&cloud, &vec![(now, "x"); 10_000]).await.expect("exactly full");
    refused(put(&cloud, &vec![(now, "x"); 10_001]).await, "InvalidParameterException", "10000");
    refused(put(&cloud, &[]).await, "InvalidParameterException", "logEvents");
    assert_eq!(cloud.logs.totals(ACCOUNT).events, 10_003, "a refused batch stores nothing");
}

#[tokio::test]
async fn events_are_checked_one_by_one() {
    let cloud = cloud_with_stream().await;
    let now = now();
    let invalid = "InvalidParameterException";
    refused(put(&cloud, &[(now, "a"), (now, "")]).await, invalid, "logEvents.2.member.message");
    refused(put(&cloud, &[(-1, "a")]).await, invalid, "logEvents.1.member.timestamp");
    refused(put(&cloud, &[(now, "a"), (now - 1, "b")]).await, invalid, "must be in chronological order.");
    refused(put(&cloud, &[(now - DAY - 1, "a"), (now, "b")]).await, invalid, "24 hours");
    put(&cloud, &[(now - DAY, "a"), (now, "b")]).await.expect("24 hours are allowed");
    for event in [json!({ "timestamp": now }), json!({ "message": "x" })] {
        let more = json!({ "logEvents": [event] });
        refused(put_with(&cloud, &[], more).await, invalid, "Member must not be null");
    }
    for timestamp in [json!("1"), json!(1.5), json!(1e40)] {
        let more = json!({ "logEvents": [{ "timestamp": timestamp, "message": "x" }] });
        refused(put_with(&cloud, &[], more).await, "SerializationException", "");
    }
    let entity = json!({ "entity": { "keyAttributes": { "Type": "Service" } } });
    let with_entity = put_with(&cloud, &[(now, "x")], entity).await;
    assert_eq!(with_entity.expect_err("not covered").code, "NotImplemented");
}

#[tokio::test]
async fn broken_text_is_refused() {
    let cloud = cloud_with_stream().await;
    let now = now();
    let body = |message: &[u8]| {
        let head = format!(
            r#"{{"logGroupName":"g","logStreamName":"s","logEvents":[{{"timestamp":{now},"message":""#
        );
        [head.as_bytes(), message, br#""}]}"#].concat()
    };
    ask_as(&cloud, ACCOUNT, "PutLogEvents", body(br"\ud83d\ude00 \u0001")).await.expect("well-formed");
    for broken in [&br"\ud83d"[..], br"\ude00", br"\x", b"\xff", b"\xed\xa0\x80", b"\n"] {
        let answer = ask_as(&cloud, ACCOUNT, "PutLogEvents", body(broken)).await;
        refused(answer, "SerializationException", "");
    }
}

#[tokio::test]
async fn rejected_events_are_reported_and_the_others_stored() {
    let cloud = cloud_with_stream().await;
    let retention = json!({ "logGroupName": "g", "retentionInDays": 3 });
    ask(&cloud, "PutRetentionPolicy", retention).await.expect("allowed");
    let now = now();
    let events = [
        (now - 15 * DAY, "too old"),
        (now - 5 * DAY, "expired"),
        (now - 4 * DAY, "expired"),
        (now, "good"),
        (now + DAY, "too new"),
    ];
    let answer = put(&cloud, &events).await.expect("the call succeeds");
    let expected = json!({
        "tooOldLogEventEndIndex": 1,
        "expiredLogEventEndIndex": 3,
        "tooNewLogEventStartIndex": 4,
    });
    assert_eq!(answer["rejectedLogEventsInfo"], expected);
    let get = json!({ "logGroupName": "g", "logStreamName": "s", "startFromHead": true });
    assert_eq!(messages(&ask(&cloud, "GetLogEvents", get).await.expect("readable")), ["good"]);
    assert_eq!(cloud.logs.totals(ACCOUNT).events, 1);
}

#[tokio::test]
async fn missing_and_existing_names_are_reported() {
    let cloud = cloud_with_stream().await;
    let missing = "ResourceNotFoundException";
    let event = [(now(), "x")];
    let group = put_with(&cloud, &event, json!({ "logGroupName": "other" })).await;
    refused(group, missing, "The specified log group does not exist.");
    let stream = put_with(&cloud, &event, json!({ "logStreamName": "other" })).await;
    refused(stream, missing, "The specified log stream does not exist.");
    let names = json!({ "logGroupName": "g", "logStreamName": "s" });
    // Groups of another account are separate.
    let other = ask_as(&cloud, "222222222222", "CreateLogStream", names.to_string()).await;
    refused(other, missing, "The specified log group does not exist.");

    let exists = "ResourceAlreadyExistsException";
    refused(ask(&cloud, "CreateLogStream", names.clone()).await, exists, "log stream");
    refused(ask(&cloud, "CreateLogGroup", json!({ "logGroupName": "g" })).await, exists, "log group");
    let tags = json!({ "logGroupName": "h", "tags": { "a": "b" } });
    assert_eq!(ask(&cloud, "CreateLogGroup", tags).await.expect_err("not covered").status, 501);
    let days = json!({ "logGroupName": "g", "retentionInDays": 2 });
    refused(ask(&cloud, "PutRetentionPolicy", days).await, "InvalidParameterException", "retentionInDays");

    assert_eq!(ask(&cloud, "StartQuery", json!({})).await.expect_err("not covered").status, 501);
}

#[tokio::test]
async fn groups_and_streams_are_described_page_by_page() {
    let cloud = cloud_with_stream().await;
    for name in ["a", "b", "z"] {
        let stream = json!({ "logGroupName": "g", "logStreamName": name });
        ask(&cloud, "CreateLogStream", stream).await.expect("new");
    }
    let now = now();
    put_with(&cloud, &[(now, "x")], json!({ "logStreamName": "a" })).await.expect("legal");
    put_with(&cloud, &[(now - 9, "x"), (now + 9, "x")], json!({ "logStreamName": "z" }))
        .await
        .expect("legal");
    let names = async |more: Value| {
        let mut body = json!({ "logGroupName": "g", "limit": 2 });
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let answer = ask(&cloud, "DescribeLogStreams", body).await.expect("readable");
        let streams = answer["logStreams"].as_array().expect("streams");
        let names: Vec<_> = streams
            .iter()
            .map(|stream| stream["logStreamName"].as_str().expect("a name").to_owned())
            .collect();
        (names.join(" "), answer["nextToken"].clone())
    };
    let (page, token) = names(json!({})).await;
    assert_eq!(page, "a b");
    let (page, token) = names(json!({ "nextToken": token })).await;
    assert_eq!((page.as_str(), token), ("s z", Value::Null));

    let groups = json!({ "logGroupNamePrefix": "g" });
    let groups = ask(&cloud, "DescribeLogGroups", groups).await.expect("readable");
    assert_eq!(
        groups["logGroups"][0]["arn"],
        json!(format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:g:*"))
    );
    assert_eq!(groups["logGroups"][0]["storedBytes"], json!(3));
    let none =
        ask(&cloud, "DescribeLogGroups", json!({ "logGroupNamePrefix": "h" })).await.expect("readable");
    assert_eq!(none, json!({ "logGroups": [] }));
}

#[tokio::test]
async fn the_counting_mode_has_the_same_totals() {
    let now = now();
    let kept = cloud_with_stream().await;
    put(&kept, &[(now, "one"), (now + 1, "two é")]).await.expect("legal");
    let counted = cloud_with_stream().await;
    counted.logs.set_count_only();
    put(&counted, &[(now + 1, "two é")]).await.expect("legal");
    put(&counted, &[(now, "one")]).await.expect("legal");
    let (kept, counted_totals) = (kept.logs.totals(ACCOUNT), counted.logs.totals(ACCOUNT));
    assert_eq!(kept, Totals { puts: 1, ..counted_totals });
    assert_eq!((kept.events, kept.bytes, counted_totals.puts), (2, 9, 2));
    assert_eq!(counted.logs.totals("222222222222"), Totals::default());
    let get = json!({ "logGroupName": "g", "logStreamName": "s", "startFromHead": true });
    assert_eq!(ask(&counted, "GetLogEvents", get).await.expect_err("nothing is kept").status, 501);
}

#[tokio::test]
async fn policies_decide_by_the_arns_that_aws_evaluates() {
    let group_calls = ["PutRetentionPolicy", "DescribeLogStreams", "FilterLogEvents"];
    let stream_calls = ["PutLogEvents", "GetLogEvents"];
    // Resource in the policy; whether group calls, stream calls and DescribeLogGroups pass.
    for (resource, groups, streams, listing) in [
        ("g:*", true, true, false),
        ("g", true, false, false),
        ("g:log-stream:s", false, true, false),
        ("g:log-stream:t", false, false, false),
        ("h:*", false, false, false),
        ("*", true, true, true),
    ] {
        let cloud = cloud_with_stream().await;
        let policy = json!({ "Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": "logs:*",
            "Resource": format!("arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{resource}"),
        }] });
        let caller = role_session(&cloud, ACCOUNT, "r", &policy).await;
        let allowed = async |operation: &str| {
            let body = json!({
                "logGroupName": "g", "logStreamName": "s", "retentionInDays": 1, "startFromHead": true,
                "logEvents": [{ "timestamp": now(), "message": "x" }],
            });
            let members: &[&str] = match operation {
                "PutLogEvents" => &["logGroupName", "logStreamName", "logEvents"],
                "GetLogEvents" => &["logGroupName", "logStreamName", "startFromHead"],
                "PutRetentionPolicy" => &["logGroupName", "retentionInDays"],
                "DescribeLogGroups" => &[],
                _ => &["logGroupName"],
            };
            let body: serde_json::Map<_, _> =
                members.iter().map(|member| ((*member).to_owned(), body[*member].clone())).collect();
            let call = calling(caller.clone(), operation, Value::Object(body).to_string());
            match cloud.logs.handle(&cloud, &call).await {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"), "{error}");
                    false
                }
            }
        };
        for operation in group_calls {
            assert_eq!(allowed(operation).await, groups, "{operation} on {resource}");
        }
        for operation in stream_calls {
            assert_eq!(allowed(operation).await, streams, "{operation} on {resource}");
        }
        assert_eq!(allowed("DescribeLogGroups").await, listing, "DescribeLogGroups on {resource}");
    }
}

#[tokio::test]
async fn puts_keep_the_order_of_the_calls() {
    let cloud = cloud_with_stream().await;
    let other = json!({ "logGroupName": "g", "logStreamName": "a" });
    ask(&cloud, "CreateLogStream", other.clone()).await.expect("a new stream");
    let at = now();
    put(&cloud, &[(at, "1"), (at, "2")]).await.expect("a legal batch");
    put_with(&cloud, &[(at, "other")], other).await.expect("a legal batch");
    // One event is too old and is rejected, one is older than all stored events, one has the time of stored events.
    put(&cloud, &[(at - 15 * DAY, "old"), (at - 5, "3"), (at, "1")]).await.expect("a legal batch");
    put(&cloud, &[(at - 15 * DAY, "old")]).await.expect("a legal batch");
    put(&cloud, &[(at - 9, "4")]).await.expect("a legal batch");
    let puts = cloud.logs.puts();
    let told: Vec<_> = puts
        .iter()
        .map(|put| (put.log_stream.as_str(), put.events.iter().map(|(_, text)| text.as_str()).collect()))
        .collect();
    let expected: [(&str, Vec<&str>); 4] =
        [("s", vec!["1", "2"]), ("a", vec!["other"]), ("s", vec!["3", "1"]), ("s", vec!["4"])];
    assert_eq!(told, expected);
    assert_eq!(puts[2].events[0].0, at - 5);
    assert!(puts.iter().all(|put| put.account == ACCOUNT && put.log_group == "g"), "{puts:?}");
}
