//! The log: one line for each delivery of an object, samples of rejected events, and a filter that can be changed.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    samples::{generated, gzip},
    setup::Setup,
    worker::{Worker, http_send},
};

fn lines_of(worker: &Worker, message: &str) -> Vec<Value> {
    let mut lines = worker.log_lines();
    lines.retain(|line| line["message"] == message);
    lines
}

/// Two records from today, an empty one and two of last month, which make two requests.
fn mixed() -> Vec<u8> {
    let now = Timestamp::now();
    let old = now - SignedDuration::from_hours(24 * 30);
    let records = [(now, "a"), (now, "b"), (now, ""), (old, "c"), (old, "d")];
    let records = records.map(|(at, message)| json!({ "timestamp": at.to_string(), "message": message }));
    gzip(Value::from(records.to_vec()).to_string().as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_delivery_of_an_object_has_one_line_with_all_counts() {
    let setup = Setup::new("lines").await;
    // ministack accepts events of any age.
    if setup.sandbox().is_none() {
        return;
    }
    let customer = setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_LOG__FILTER", "info")]).await;
    let key = "acme/c/app/pod/1.json.gz";
    let bytes = mixed();
    setup.upload(key, bytes.clone()).await;
    setup.acknowledged(&worker, 1).await;
    let [line] = &lines_of(&worker, "an object was delivered")[..] else {
        panic!("one line: {:?}", worker.log_lines())
    };
    let counts = [
        ("read", 5),
        ("accepted", 2),
        ("resumed", 0),
        ("empty", 1),
        ("quarantined", 0),
        ("too_old", 2),
        ("too_new", 0),
        ("expired", 0),
        ("refused", 0),
        ("undated", 0),
        ("mended", 0),
        ("oversize", 0),
    ];
    for (name, count) in counts {
        assert_eq!(line[format!("records.{name}")], count, "{name}: {line}");
    }
    assert_eq!(
        (&line["level"], &line["batches"], &line["message.attempts"]),
        (&json!("INFO"), &json!(2), &json!(1))
    );
    assert_eq!((&line["object.bucket"], &line["object.key"]), (&json!(setup.provider.bucket), &json!(key)));
    assert_eq!((&line["tenant.id"], &line["delivery.name"]), (&json!("acme"), &json!("cloudwatch")));
    assert_eq!(line["object.size"], bytes.len());
    // Four events of one byte. CloudWatch Logs bills 26 bytes more for each.
    assert_eq!(line["batches.bytes"], 4 * 27);
    assert!(line["message.id"].as_str().is_some_and(|id| id.len() > 8), "{line}");
    let time = |name: &str| line[format!("time.{name}_ms")].as_u64().expect("a number");
    let parts = time("enter") + time("open") + time("read");
    assert!(parts <= time("total") && time("put") <= time("total") && time("queue") < 60_000, "{line}");

    let [told] =
        &lines_of(&worker, "CloudWatch Logs did not store events of an object; they are not retried")[..]
    else {
        panic!("one line: {:?}", worker.log_lines())
    };
    assert_eq!((&told["records.too_old"], &told["sample.reason"]), (&json!(2), &json!("too_old")));
    assert_eq!((&told["sample.record"], &told["log.group"]), (&json!(3), &json!(customer.log_group)));
    told["sample.timestamp"].as_str().expect("a text").parse::<Timestamp>().expect("RFC 3339");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_events_have_a_few_lines_and_the_objects_have_all_counts() {
    const OBJECTS: usize = 20;
    let setup = Setup::new("sampled").await;
    // ministack accepts events of any age.
    if setup.sandbox().is_none() {
        return;
    }
    for tenant in ["one", "two"] {
        setup.customer(tenant).await;
        for number in 0..OBJECTS {
            setup.upload(&format!("{tenant}/c/app/pod/{number}.json.gz"), mixed()).await;
        }
    }
    let worker = setup.worker_with(&[("LOGFERRY_LOG__FILTER", "info")]).await;
    setup.acknowledged(&worker, 2 * OBJECTS).await;
    let told = lines_of(&worker, "CloudWatch Logs did not store events of an object; they are not retried");
    for tenant in ["one", "two"] {
        let of_tenant = told.iter().filter(|line| line["tenant.id"] == tenant).count();
        assert!((1..=6).contains(&of_tenant), "{of_tenant} lines, 3 a minute");
    }
    let delivered = lines_of(&worker, "an object was delivered");
    let rejected: u64 = delivered.iter().filter_map(|line| line["records.too_old"].as_u64()).sum();
    assert_eq!((delivered.len(), rejected), (2 * OBJECTS, 4 * OBJECTS as u64));
    let warnings = worker.log_lines().into_iter().filter(|line| line["level"] == "WARN").count();
    assert!(warnings < 15, "{warnings} warnings");
}

async fn filter_of(worker: &Worker, method: &str, body: &str) -> (u16, Value) {
    let (status, text) =
        http_send(worker.address(), method, "/log-filter", body).await.expect("the endpoint answers");
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_can_be_changed_while_the_worker_runs() {
    let setup = Setup::new("filter").await;
    setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_LOG__FILTER", "warn,logferry::cli=info")]).await;
    let configured = json!({ "filter": "warn,logferry::cli=info", "configured": "warn,logferry::cli=info" });
    assert_eq!(filter_of(&worker, "GET", "").await, (200, configured.clone()));
    let deliver = async |number: usize| {
        let object = generated(&format!("acme/c/app/pod/{number}.json.gz"), 5, 40);
        setup.upload(&object.key, object.bytes).await;
        setup.acknowledged(&worker, number).await;
        lines_of(&worker, "an object was delivered").len()
    };
    assert_eq!(deliver(1).await, 0);
    let (status, answer) = filter_of(&worker, "PUT", "warn,logferry=debug\n").await;
    assert_eq!((status, &answer["filter"]), (200, &json!("warn,logferry=debug")), "{answer}");
    assert_eq!(deliver(2).await, 1);
    for (bad, words) in [("debgu", "is not a level"), ("logferry=loud", "level"), ("", "is empty")] {
        let (status, answer) = filter_of(&worker, "PUT", bad).await;
        assert_eq!((status, &answer["filter"]), (400, &json!("warn,logferry=debug")), "{bad:?}: {answer}");
        assert!(answer["problem"].as_str().is_some_and(|problem| problem.contains(words)), "{answer}");
    }
    let long = http_send(worker.address(), "PUT", "/log-filter", &"x".repeat(5000)).await;
    assert_eq!(long.expect("the endpoint answers").0, 413);
    assert_eq!(filter_of(&worker, "DELETE", "").await, (200, configured));
    assert_eq!(deliver(3).await, 1);
    let changes = lines_of(&worker, "the filter of the log was changed");
    let changes: Vec<_> =
        changes.iter().map(|line| [&line["log.filter_before"], &line["log.filter"]]).collect();
    let (first, second) = (json!("warn,logferry::cli=info"), json!("warn,logferry=debug"));
    assert_eq!(changes, [[&first, &second], [&second, &first]]);
}

/// An address of this host that is no loopback address, if there is one.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing; the system only chooses the address.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_filter_cannot_be_reached_from_outside() {
    let Some(outside) = outside() else {
        eprintln!("skipped: this host has no address but loopback");
        return;
    };
    let setup = Setup::new("outside").await;
    let worker = setup.worker_with(&[("LOGFERRY_HTTP__LISTEN", "0.0.0.0:0")]).await;
    let port = worker.address().port();
    let from_outside = SocketAddr::new(outside, port);
    for (method, body) in [("GET", ""), ("PUT", "trace"), ("DELETE", "")] {
        let answer = http_send(from_outside, method, "/log-filter", body).await;
        assert_eq!(answer.expect("the endpoint answers").0, 404, "{method}");
    }
    let (status, _) = http_send(from_outside, "GET", "/healthz", "").await.expect("the endpoint answers");
    assert_eq!(status, 200);
    let near = SocketAddr::from(([127, 0, 0, 1], port));
    let (status, answer) = http_send(near, "GET", "/log-filter", "").await.expect("the endpoint answers");
    assert!(status == 200 && answer.contains("\"info,logferry=debug\""), "{status} {answer}");
    eventually("nothing was changed", async || {
        same(&lines_of(&worker, "the filter of the log was changed").len(), &0)
    })
    .await;
}
