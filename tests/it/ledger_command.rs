//! `logferry ledger`: operators read the ledger, and make it forget objects that went to a wrong place.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::CustomerSpec;
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    operator::{self, Ended, Operator},
    samples::{assert_same_events, expected, received_events},
    setup::{Setup, text},
};

impl Operator {
    /// Keeps the ledger.
    async fn of_ledger(setup: Setup) -> Self {
        Self::with(setup, &["LOGFERRY_LEDGER__TABLE"]).await
    }

    async fn ledger(&self, arguments: &[&str]) -> Ended {
        self.run("ledger", arguments).await
    }

    /// Puts an entry into the table.
    async fn put(&self, object: &str, delivery: &str, attributes: &[(&str, AttributeValue)]) {
        let table = self.environment["LOGFERRY_LEDGER__TABLE"].as_str();
        let mut put = self.setup.account().dynamodb().put_item().table_name(table);
        for (name, value) in [("object", text(object)), ("delivery", text(delivery))] {
            put = put.item(name, value);
        }
        for (name, value) in attributes {
            put = put.item(*name, value.clone());
        }
        put.send().await.expect("the entry can be put");
    }

    /// Objects and deliveries of the entries that `show` prints.
    async fn shown(&self, arguments: &[&str]) -> Vec<String> {
        let shown = self.ledger(&[&["show", "--json"], arguments].concat()).await.with(0).json();
        let entries = shown.as_array().expect("an array").iter();
        entries
            .map(|entry| format!("{} {}", text_of(&entry["object"]), text_of(&entry["delivery"])))
            .collect()
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// An entry of a finished object that was last changed this many seconds ago.
fn done(seconds_ago: i64) -> Vec<(&'static str, AttributeValue)> {
    let retention = 18 * 86_400;
    let expires_at = Timestamp::now().as_second() - seconds_ago + retention;
    vec![("done", AttributeValue::Bool(true)), ("records", number(7)), ("expires_at", number(expires_at))]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_objects_are_delivered_again_to_the_corrected_group() {
    let operator =
        Operator::of_ledger(Setup::with("ledger-forget", |spec| spec.versioned = true).await).await;
    let setup = &operator.setup;
    let wrong = setup.customer_without_row(CustomerSpec::new("acme")).await;
    let right = setup.customer_without_row(CustomerSpec::new("acme")).await;
    setup.put_row(wrong.row()).await;
    let worker = setup.worker().await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 20, 40).await;
    setup.acknowledged(&worker, 1).await;
    assert_same_events("wrong", &received_events(&setup.aws, &wrong).await, &expected(&object.text));

    let place = format!("s3://{}/{}", setup.provider.bucket, object.key);
    let shown = operator.ledger(&["show", &place, "--json"]).await.with(0).saying("1 entry").json();
    let entry = &shown[0];
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(
        (&entry["key"], &entry["delivery"], &entry["state"], &entry["records"]),
        (&json!(object.key), &json!("cloudwatch"), &json!("done"), &json!(20)),
        "{shown}"
    );
    let changed: Timestamp = text_of(&entry["changed_at"]).parse().expect("a time");
    assert!(Timestamp::now().duration_since(changed).as_secs().abs() < 600, "{shown}");

    setup.put_row(right.row()).await;
    let version = text_of(&entry["version_id"]).to_owned();
    let event = json!({ "Records": [{
        "eventVersion": "2.1", "eventName": "ObjectCreated:Put", "eventTime": Timestamp::now().to_string(),
        "s3": {
            "bucket": { "name": setup.provider.bucket },
            "object": { "key": object.key, "versionId": version, "size": object.bytes.len() },
        },
    }] });
    // A further message about a finished object delivers nothing.
    setup.send(&event.to_string()).await;
    setup.acknowledged(&worker, 2).await;
    assert_eq!(received_events(&setup.aws, &right).await, []);

    let selection = [place.as_str(), "--version", &version, "--delivery", "cloudwatch"];
    let dry = operator.ledger(&[&["forget", "--dry-run", "--json"], &selection[..]].concat()).await;
    let dry = dry.with(0).saying("1 entry would be forgotten").json();
    assert_eq!(dry[0]["fate"], "would be forgotten", "{dry}");
    let forgotten = operator.ledger(&[&["forget", "--json"], &selection[..]].concat()).await.with(0);
    assert_eq!(forgotten.json()[0]["fate"], "forgotten", "{forgotten:?}");
    forgotten.saying("1 entry forgotten").saying("the next message about their objects delivers them again");
    operator.ledger(&[&["forget"], &selection[..]].concat()).await.with(66).saying("0 entries");

    // The worker remembers the old row for a second.
    let found = "logferry_tenant_lookups_total{result=\"found\"}";
    let known = worker.metrics().await.get(found);
    eventually("the worker looks the tenant up again", async || {
        setup.send(&setup_event("acme/c/app/pod/none.json.gz", &setup.provider.bucket)).await;
        let lookups = worker.metrics().await.get(found);
        if lookups > known { Ok(()) } else { Err(format!("{lookups} lookups")) }
    })
    .await;
    setup.send(&event.to_string()).await;
    eventually("the right group has the object", async || {
        same(&received_events(&setup.aws, &right).await.len(), &20)
    })
    .await;
    assert_same_events("right", &received_events(&setup.aws, &right).await, &expected(&object.text));
}

/// A message about an object that does not exist.
fn setup_event(key: &str, bucket: &str) -> String {
    crate::setup::s3_event(bucket, key).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_selected_by_object_prefix_delivery_and_time() {
    let operator = Operator::of_ledger(Setup::new("ledger-show").await).await;
    let objects = [
        ("b/acme/c/1?versionId=v1", "cloudwatch", 30),
        ("b/acme/c/1?versionId=v1", "s3", 30),
        ("b/acme/c/1?versionId=v2", "cloudwatch", 7_200),
        ("b/acme/c/1?x?eTag=e", "cloudwatch", 30),
        ("b/acme-2/c/1?eTag=e", "cloudwatch", 30),
        ("c/acme/c/1?eTag=e", "cloudwatch", 30),
    ];
    for (object, delivery, ago) in objects {
        operator.put(object, delivery, &done(ago)).await;
    }
    let check = async |arguments: &[&str], expected: &[usize]| {
        let shown = operator.shown(arguments).await;
        let mut expected: Vec<_> =
            expected.iter().map(|index| format!("{} {}", objects[*index].0, objects[*index].1)).collect();
        expected.sort();
        assert_eq!(shown, expected, "{arguments:?}");
    };
    check(&["s3://b/acme/c/1"], &[0, 1, 2]).await;
    check(&["s3://b/acme/c/1", "--version", "v1"], &[0, 1]).await;
    check(&["s3://b/acme/c/1", "--version", "v1", "--delivery", "s3"], &[1]).await;
    check(&["s3://b/acme/c/1?x"], &[3]).await;
    check(&["--prefix", "s3://b/acme/"], &[0, 1, 2, 3]).await;
    check(&["--prefix", "s3://b/acme"], &[0, 1, 2, 3, 4]).await;
    check(&["--prefix", "s3://b/acme/", "--since", "1h"], &[0, 1, 3]).await;
    check(&["--prefix", "s3://b/", "--until", "1h", "--since", "1d"], &[2]).await;
    check(&["--prefix", "s3://nothing/"], &[]).await;
    operator.ledger(&["show", "s3://b/acme/c/2"]).await.with(66).saying("0 entries");
    operator.ledger(&["show", "s3://b/acme/c/1", "--version", "v3"]).await.with(66);

    // A prefix selects many entries, so `--yes` is required.
    let forget = ["forget", "--prefix", "s3://b/acme/", "--delivery", "cloudwatch"];
    operator.ledger(&forget).await.with(2).saying("--yes");
    check(&["--prefix", "s3://b/acme/"], &[0, 1, 2, 3]).await;
    operator.ledger(&[&forget[..], &["--yes"]].concat()).await.with(0).saying("3 entries forgotten");
    check(&["--prefix", "s3://b/"], &[1, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leased_entries_are_kept_unless_forced() {
    let operator = Operator::of_ledger(Setup::new("ledger-leased").await).await;
    let until = |seconds: i64| number((Timestamp::now().as_second() + seconds) * 1000);
    let lease = |seconds| {
        vec![("lease_owner", text("somebody")), ("lease_until", until(seconds)), ("records", number(3))]
    };
    operator.put("b/k/live?eTag=e", "cloudwatch", &lease(600)).await;
    operator.put("b/k/over?eTag=e", "cloudwatch", &lease(-600)).await;
    // The lease has ended, but the clock of its worker may be behind by ledger.max_clock_skew.
    operator.put("b/l/just-over?eTag=e", "cloudwatch", &lease(-1)).await;
    operator.ledger(&["forget", "s3://b/l/just-over"]).await.with(1).saying("a worker is busy");
    operator.ledger(&["forget", "s3://b/l/just-over", "--set", "ledger.max_clock_skew=0s"]).await.with(0);
    // An entry of a later version of logferry, with an attribute that this version does not know.
    let owed = ("owed", AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new("abc")));
    operator.put("b/k/unfinished?eTag=e", "s3", &[("events", number(2)), owed]).await;
    let shown = operator.ledger(&["show", "--prefix", "s3://b/k/", "--json"]).await.with(0).json();
    let states: Vec<_> =
        shown.as_array().expect("an array").iter().map(|entry| text_of(&entry["state"])).collect();
    assert_eq!(states, ["leased", "unfinished", "unfinished"], "{shown}");
    assert_eq!(
        (&shown[0]["lease_owner"], &shown[2]["others"]),
        (&json!("somebody"), &json!({ "owed": "3 bytes" }))
    );
    let table = operator.ledger(&["show", "--prefix", "s3://b/k/"]).await.with(0).saying("3 entries").stdout;
    for part in ["leased until 20", "0 and 2 events", "owed=3 bytes", "b/k/live?eTag=e"] {
        assert!(table.contains(part), "{part} is not in {table}");
    }

    let forget = ["forget", "--prefix", "s3://b/k/", "--yes"];
    let ended = operator.ledger(&forget).await.with(1).saying("2 entries forgotten");
    ended.saying("1 entry kept: a worker is busy with them");
    assert_eq!(operator.shown(&["--prefix", "s3://b/"]).await, ["b/k/live?eTag=e cloudwatch"]);
    operator.ledger(&["forget", "s3://b/k/live"]).await.with(1).saying("--force");
    operator.ledger(&["forget", "s3://b/k/live", "--force"]).await.with(0).saying("1 entry forgotten");
    assert_eq!(operator.shown(&["--prefix", "s3://b/"]).await, [""; 0]);
}

/// The table has more entries than DynamoDB returns in one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_table_is_read_at_the_requested_rate() {
    let operator = Operator::of_ledger(Setup::new("ledger-pages").await).await;
    let note = ("note", text(&"x".repeat(300_000)));
    for index in 0..9 {
        operator
            .put(
                &format!("b/{index}?eTag=e"),
                "cloudwatch",
                &[&done(0)[..], std::slice::from_ref(&note)].concat(),
            )
            .await;
    }
    assert_eq!(operator.shown(&["--prefix", "s3://b/"]).await.len(), 9);
    let began = std::time::Instant::now();
    assert_eq!(operator.shown(&["--prefix", "s3://b/", "--rate", "3"]).await.len(), 9);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let Some(sandbox) = operator.setup.sandbox() else { return };
    // After an error, the command reports the entries that it has forgotten, and that it did not read the whole table.
    let denied = Effect::Error(ErrorAnswer::new(400, "AccessDeniedException"));
    let third_page = Some("b/3?eTag=e".to_owned());
    let third = sandbox
        .faults()
        .add(Fault { contains: third_page, ..Fault::new("dynamodb", "Scan", denied.clone()) });
    let forget = ["forget", "--prefix", "s3://b/", "--yes", "--rate", "2", "--json"];
    let ended = operator.ledger(&forget).await.with(1).saying("4 entries forgotten");
    let ended = ended.saying("the table was not read to its end").saying("allow dynamodb:Scan");
    assert_eq!(ended.json().as_array().map(Vec::len), Some(4));
    sandbox.faults().remove(third);
    assert_eq!(operator.shown(&["--prefix", "s3://b/"]).await.len(), 5);
    let kept = sandbox.faults().add(Fault::new("dynamodb", "DeleteItem", denied));
    let ended =
        operator.ledger(&["forget", "s3://b/8", "--json"]).await.with(1).saying("1 entry not forgotten");
    assert!(text_of(&ended.saying("allow dynamodb:DeleteItem").json()[0]["fate"]).starts_with("left: "));
    sandbox.faults().remove(kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_failure_has_its_exit_code() {
    let region = ("AWS_REGION", "us-east-1");
    let all = [region, ("LOGFERRY_LEDGER__TABLE", "no-such-table"), ("AWS_EC2_METADATA_DISABLED", "true")];
    for (arguments, environment, code, words) in [
        (&["show", "s3://b/k"][..], &all[..1], 64, "LOGFERRY_LEDGER__TABLE"),
        (&["show", "s3://b/k"], &all[1..], 64, "aws.region"),
        (&["show"], &all, 2, "OBJECT"),
        (&["show", "b/k"], &all, 2, "s3://BUCKET/KEY"),
        (&["show", "s3://b/k", "--yes"], &all, 2, "--yes"),
        (&["forget", "--prefix", "s3://b/", "--rate", "0"], &all, 2, "--rate"),
        (&["forget"], &all, 2, "OBJECT"),
    ] {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let ended = operator::run(&[&["ledger"], arguments].concat(), &environment.collect()).await;
        assert_eq!(ended.with(code).saying(words).stdout, "", "{arguments:?}");
    }
    let mut operator = Operator::of_ledger(Setup::new("ledger-failure").await).await;
    operator.environment.insert("LOGFERRY_LEDGER__TABLE".to_owned(), "no-such-table".to_owned());
    let missing = operator.ledger(&["show", "s3://b/k"]).await.with(1).saying("no-such-table");
    missing.saying("correct ledger.table");
    let help = operator::run(&["ledger", "forget", "--help"], &BTreeMap::new()).await.with(0).stdout;
    assert!(["66 the", "Scan", "--force"].iter().all(|part| help.contains(part)), "{help}");
}
