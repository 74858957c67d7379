//! Objects of AWS's services and lines of text: each format is recognised, or chosen by a rule, and its records arrive.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::CustomerSpec;
use serde_json::{Value, json};

use crate::{
    samples::{Event, gzip, received, received_events},
    setup::Setup,
};

/// A minute ago, in whole seconds, as milliseconds since 1970.
fn minute_ago() -> i64 {
    (jiff::Timestamp::now().as_second() - 60) * 1000
}

fn rfc_3339(at: i64) -> String {
    jiff::Timestamp::from_millisecond(at).expect("a time").to_string()
}

/// A subscription's document. The names are in AWS's order.
fn document(kind: &str, stream: &str, events: &[(i64, &str)]) -> String {
    let events = events.iter().enumerate();
    let events: Vec<_> = events
        .map(|(id, (at, message))| json!({ "id": id.to_string(), "timestamp": at, "message": message }))
        .collect();
    format!(
        r#"{{"messageType":"{kind}","owner":"111111111111","logGroup":"/app","logStream":"{stream}","subscriptionFilters":["all"],"logEvents":{}}}"#,
        Value::from(events)
    )
}

fn trail_record(at: i64, name: &str) -> String {
    json!({ "eventVersion": "1.11", "eventTime": rfc_3339(at), "eventName": name, "message": "not this",
        "requestParameters": { "text": "line\nbreak \"quoted\"" } })
    .to_string()
}

fn eventbridge(at: i64, kind: &str) -> String {
    json!({ "version": "0", "id": "6a7e8feb", "detail-type": kind, "source": "aws.config", "account": "111111111111",
        "time": rfc_3339(at), "region": "eu-central-1", "resources": [], "detail": { "a": 1 } })
    .to_string()
}

const FLOW_HEAD: &str = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status";

fn flow(at: i64, interface: &str) -> String {
    let end = at / 1000;
    format!("2 111111111111 {interface} 192.0.2.1 192.0.2.2 49152 443 6 10 840 {} {end} ACCEPT OK", end - 60)
}

/// Events by log stream, without the application and the date in its name.
async fn by_pod(
    setup: &Setup,
    customer: &logferry_testbed::provision::Customer,
) -> BTreeMap<String, Vec<Event>> {
    let streams = received(&setup.aws, customer).await.into_iter();
    let pod = |name: String| {
        let name = name.strip_prefix("app-").expect("the application comes first").to_owned();
        name[..name.len() - "-YYYY-MM-DD".len()].to_owned()
    };
    streams.map(|(name, events)| (pod(name), events)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_is_recognised_and_delivered() {
    let setup = Setup::new("formats").await;
    let customer = setup.customer("acme").await;
    let at = minute_ago();
    let trail = [trail_record(at, "AssumeRole"), trail_record(at + 1000, "PutObject")];
    let events =
        [eventbridge(at, "Config Rules Compliance Change"), eventbridge(at + 1000, "GuardDuty Finding")];
    let flows = [flow(at, "eni-1"), flow(at + 1000, "eni-2")];
    let control = document(
        "CONTROL_MESSAGE",
        "",
        &[(at, "CWL CONTROL MESSAGE: Checking health of destination Firehose.")],
    );
    let logs = [
        document("DATA_MESSAGE", "one", &[(at, "a"), (at, "b \"c\"")]),
        document("DATA_MESSAGE", "two", &[(at + 1, "d")]),
    ];
    let timed = |texts: &[String]| vec![(at, texts[0].clone()), (at + 1000, texts[1].clone())];
    let of_logs = || vec![(at, "a".to_owned()), (at, "b \"c\"".to_owned()), (at + 1, "d".to_owned())];
    let objects = [
        ("trail", gzip(format!(r#"{{"Records":[{}]}}"#, trail.join(",")).as_bytes()), timed(&trail)),
        ("logs", gzip(&[control.clone(), logs.concat()].concat().into_bytes()), of_logs()),
        // Firehose appends one gzip member after another.
        (
            "logs-members",
            [&control, &logs[0], &logs[1]].map(|document| gzip(document.as_bytes())).concat(),
            of_logs(),
        ),
        ("events", gzip(events.concat().as_bytes()), timed(&events)),
        ("events-lines", (events.join("\n") + "\n").into_bytes(), timed(&events)),
        ("flows", gzip(format!("{FLOW_HEAD}\n{}\n", flows.join("\n")).as_bytes()), timed(&flows)),
    ];
    for (pod, bytes, _) in &objects {
        setup.upload(&format!("acme/c/app/{pod}/1"), bytes.clone()).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, objects.len()).await;
    let expected = objects.iter().map(|(pod, _, events)| ((*pod).to_owned(), events.clone())).collect();
    assert_eq!(by_pod(&setup, &customer).await, expected);
    let metrics = worker.metrics().await;
    for (name, value) in [
        ("logferry_records_total{outcome=\"accepted\"}", 14.0),
        ("logferry_records_total{outcome=\"skipped\"}", 3.0),
        ("logferry_records_undated_total", 0.0),
        ("logferry_records_unaccounted_total", 0.0),
    ] {
        assert_eq!(metrics.get(name), value, "{name}: {metrics:?}");
    }

    // Lines have the object's time.
    let lines =
        "#Version: 1.0\n#Fields: date time\n2026-11-27\t04:27:52\tFRA2\r\n\ncaf\u{e9} \u{1b}[0m".as_bytes();
    let before = jiff::Timestamp::now().as_millisecond() - 1000;
    setup.upload("acme/c/app/lines/1", gzip(lines)).await;
    setup.upload("acme/c/app/latin/1", &b"caf\xe9, and more text\n"[..]).await;
    setup.acknowledged(&worker, objects.len() + 2).await;
    let found = by_pod(&setup, &customer).await;
    let times = before..=jiff::Timestamp::now().as_millisecond() + 1000;
    for (pod, expected) in [
        ("lines", &["2026-11-27\t04:27:52\tFRA2", "caf\u{e9} \u{1b}[0m"][..]),
        ("latin", &["caf\u{fffd}, and more text"]),
    ] {
        assert!(found[pod].iter().all(|(at, _)| times.contains(at)), "{:?} in {times:?}", found[pod]);
        assert_eq!(found[pod].iter().map(|(_, message)| message.as_str()).collect::<Vec<_>>(), expected);
    }
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_total{outcome=\"skipped\"}"), 5.0);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"empty\"}"), 1.0);
    assert_eq!(metrics.get("logferry_records_mended_total"), 1.0);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_subscription_keep_their_log_streams() {
    let setup = Setup::new("log-streams").await;
    let template = AttributeValue::S("{application}/{log_stream}".to_owned());
    let customer = setup.customer_with(CustomerSpec::new("acme"), &[("log_stream_name", template)]).await;
    let at = minute_ago();
    let text = [
        document("DATA_MESSAGE", "i-1", &[(at, "a"), (at, "b")]),
        document("DATA_MESSAGE", "2026/11/27/[$LATEST]5f", &[(at, "c")]),
        document("DATA_MESSAGE", "i-1", &[(at, "d")]),
    ];
    setup.upload("acme/c/app/firehose/1.gz", gzip(text.concat().as_bytes())).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    setup.no_dead_letters().await;
    let found = received(&setup.aws, &customer).await;
    let messages = |name: &str| {
        let stream = found.iter().find(|(stream, _)| stream.starts_with(name));
        let (_, events) = stream.unwrap_or_else(|| panic!("no stream {name} in {found:?}"));
        events.iter().map(|(_, message)| message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(messages("app/i-1"), ["a", "b", "d"]);
    assert_eq!(messages("app/2026_11_27_[$LATEST]5f-"), ["c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_give_keys_a_tenant_and_objects_a_format() {
    let setup = Setup::new("rules").await;
    let customer = setup.customer("acme").await;
    let at = minute_ago();
    let rules = r#"[
        { keys = "trails/", key_layout = "trails/AWSLogs/{tenant}/CloudTrail/{cluster}/*/{file}", application = "app" },
        { keys = "web/**/*.log", tenant = "acme", application = "app", format = "lines", timestamp_format = "%Y-%m-%dT%H:%M:%SZ" },
    ]"#;
    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__RULES", rules)]).await;
    let trail = trail_record(at, "AssumeRole");
    setup
        .upload(
            "trails/AWSLogs/acme/CloudTrail/eu-central-1/2026/1.json.gz",
            gzip(format!(r#"{{"Records":[{trail}]}}"#).as_bytes()),
        )
        .await;
    let line = format!("{{\"time\":\"{}\"}}", rfc_3339(at + 1000));
    setup.upload("web/a/b/1.log", format!("{line}\n\tat Main\n")).await;
    setup.acknowledged(&worker, 2).await;
    let expected = [(at, trail), (at + 1000, line), (at + 1000, "\tat Main".to_owned())];
    assert_eq!(received_events(&setup.aws, &customer).await, expected);
    // The rule's layout does not fit.
    setup.upload("trails/acme/1", "{}").await;
    let letters = setup.dead_letters(1).await;
    assert_eq!(letters[0].get("reason"), "bad_key", "{letters:?}");
}
