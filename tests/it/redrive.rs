//! `logferry redrive`: operators list dead letters and move messages back.

use aws_sdk_sqs::types::MessageAttributeValue;
use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::provision::CustomerSpec;
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    operator::{self, Ended, Operator},
    samples::{assert_same_events, expected, received_events},
    setup::{Setup, s3_event},
};

impl Operator {
    /// Keeps both queues.
    async fn of_queues(setup: Setup) -> Self {
        Self::with(setup, &["SQS_QUEUE_URL", "LOGFERRY_QUEUE__DEAD_LETTER_URL"]).await
    }

    async fn redrive(&self, arguments: &[&str]) -> Ended {
        self.run("redrive", arguments).await
    }

    /// Groups in the output of `list --json`, each as reason, tenants and count.
    async fn groups(&self, arguments: &[&str]) -> Vec<(String, String, u64)> {
        let listed = self.redrive(&[&["list", "--json"], arguments].concat()).await.with(0).json();
        groups(&listed)
    }

    /// Sends a dead letter in the worker's format.
    async fn bury(&self, body: &str, attributes: &[(&str, &str)]) {
        let send = self.setup.account().sqs().send_message();
        let mut send = send.queue_url(&self.setup.provider.dead_letter_url).message_body(body);
        for (name, value) in attributes {
            let value = MessageAttributeValue::builder().data_type("String").string_value(*value).build();
            send = send.message_attributes(*name, value.expect("the type is set"));
        }
        send.send().await.expect("the dead-letter queue takes it");
    }

    /// Sends this many dead letters about an unknown tenant.
    async fn bury_unknown(&self, tenant: &str, count: usize) {
        for index in 0..count {
            let key = format!("{tenant}/c/app/pod/{index}.json.gz");
            let attributes =
                [("reason", "unknown_tenant"), ("tenant", tenant), ("key", &key), ("error", "no row")];
            self.bury(&s3_event("staging", &key).to_string(), &attributes).await;
        }
    }

    /// Number of dead letters: visible, in flight.
    async fn letters(&self) -> (u64, u64) {
        self.setup.depth(&self.setup.provider.dead_letter_url).await
    }
}

fn groups(listed: &Value) -> Vec<(String, String, u64)> {
    let group = |group: &Value| {
        let tenants = group["tenants"].as_array().expect("an array").iter().filter_map(Value::as_str);
        let reason = group["reason"].as_str().expect("a string").to_owned();
        (reason, tenants.collect::<Vec<_>>().join(","), group["messages"].as_u64().expect("a number"))
    };
    listed["groups"].as_array().expect("an array").iter().map(group).collect()
}

fn group(reason: &str, tenants: &str, count: u64) -> (String, String, u64) {
    (reason.to_owned(), tenants.to_owned(), count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_listed_by_reason_and_tenant() {
    let setup = Setup::with("redrive-list", |spec| spec.max_receive_count = 1).await;
    let operator = Operator::of_queues(setup).await;
    operator.bury_unknown("nobody", 23).await;
    let corrupt = [("reason", "corrupt_object"), ("tenant", "acme"), ("record_offset", "60")];
    operator.bury("{}", &corrupt).await;
    operator.bury("hello", &[("reason", "bad_event")]).await;
    // A message that SQS itself moves to the dead-letter queue.
    operator.setup.send(&s3_event("staging", "globex/c/app/pod/1.json.gz").to_string()).await;
    let sqs = operator.setup.account().sqs();
    eventually("SQS moves the message", async || {
        let receive = sqs.receive_message().queue_url(&operator.setup.provider.queue_url);
        receive.visibility_timeout(0).send().await.expect("the queue can be read");
        same(&operator.letters().await, &(26, 0))
    })
    .await;

    let mut all = operator.groups(&[]).await;
    assert_eq!(all.remove(0), group("unknown_tenant", "nobody", 23), "the largest comes first");
    all.sort();
    let rest = [group("bad_event", "", 1), group("corrupt_object", "acme", 1), group("unknown", "globex", 1)];
    assert_eq!(all, rest);
    // The command returns all letters at once; otherwise the second list would miss them.
    assert_eq!(operator.letters().await, (26, 0));
    let table = operator.redrive(&["list"]).await.with(0).saying("26 dead letters");
    for part in
        ["REASON", "unknown_tenant  nobody  23", "for example s3://", "no row", "unknown         globex"]
    {
        assert!(table.stdout.contains(part), "{part:?}: {table:?}");
    }

    assert_eq!(operator.groups(&["--tenant", "globex"]).await, [group("unknown", "globex", 1)]);
    let two = operator.groups(&["--reason", "corrupt_object", "--reason", "bad_event"]).await;
    assert_eq!(two.len(), 2, "{two:?}");
    assert_eq!(operator.groups(&["--tenant", "acme", "--reason", "bad_event"]).await, []);
    assert_eq!(operator.groups(&["--older-than", "1h"]).await, []);
    assert_eq!(operator.groups(&["--newer-than", "1h", "--tenant", "nobody"]).await.len(), 1);
    assert_eq!(
        operator.groups(&["--tenant", "nobody", "--limit", "7"]).await,
        [group("unknown_tenant", "nobody", 7)]
    );

    let each = operator.redrive(&["list", "--each", "--json", "--tenant", "acme"]).await.with(0).json();
    let letter = &each["letters"][0];
    assert_eq!(
        [&letter["reason"], &letter["tenants"], &letter["record_offset"], &letter["key"]],
        [&json!("corrupt_object"), &json!(["acme"]), &json!("60"), &Value::Null],
    );
    assert_eq!(each["left"]["not_asked_for"], 25);
    let each = operator.redrive(&["list", "--each"]).await.with(0).stdout;
    assert_eq!(each.lines().count(), 1 + 26, "{each}");
    assert_eq!(operator.letters().await, (26, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selected_letters_are_moved_and_the_others_stay() {
    let operator = Operator::of_queues(Setup::new("redrive-move").await).await;
    operator.bury_unknown("acme", 13).await;
    operator.bury_unknown("globex", 5).await;
    operator.bury("hello", &[("reason", "bad_event")]).await;
    let depths = async || (operator.letters().await, operator.setup.queue_depth().await);

    let would = operator.redrive(&["move", "--all", "--dry-run", "--json"]).await.with(0);
    let would = would.saying("19 dead letters would be moved").json();
    assert_eq!((&would["messages"], &would["dry_run"]), (&json!(19), &json!(true)));
    operator
        .redrive(&["move", "--tenant", "acme", "--older-than", "1d"])
        .await
        .with(0)
        .saying("0 dead letters moved");
    assert_eq!(depths().await, ((19, 0), (0, 0)));

    let moved =
        operator.redrive(&["move", "--tenant", "acme", "--json"]).await.with(0).saying("13 dead letters");
    assert_eq!(groups(&moved.json()), [group("unknown_tenant", "acme", 13)]);
    assert_eq!(depths().await, ((6, 0), (13, 0)));
    operator.redrive(&["move", "--reason", "bad_event", "--newer-than", "1h"]).await.with(0);
    assert_eq!(depths().await, ((5, 0), (14, 0)));
    operator.redrive(&["move", "--all", "--limit", "2"]).await.with(0);
    operator.redrive(&["move", "--all"]).await.with(0).saying("3 dead letters");
    assert_eq!(depths().await, ((0, 0), (19, 0)));

    // The bodies are those of the original messages.
    let receive =
        operator.setup.account().sqs().receive_message().queue_url(&operator.setup.provider.queue_url);
    let received = receive.max_number_of_messages(10).message_attribute_names("All").send().await;
    let received = received.expect("the queue can be read").messages.unwrap_or_default();
    assert!(!received.is_empty());
    for message in received {
        assert!(message.message_attributes.unwrap_or_default().is_empty());
        let body = message.body.expect("a body");
        assert!(body == "hello" || body.contains("/c/app/pod/"), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_moved_back_is_delivered_once_its_cause_is_fixed() {
    let operator = Operator::of_queues(Setup::new("redrive-mended").await).await;
    let setup = &operator.setup;
    let customer = setup.customer_without_row(CustomerSpec::new("acme")).await;
    let object = setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    let worker = setup.worker().await;
    eventually("the message is a dead letter", async || same(&operator.letters().await, &(1, 0))).await;
    worker.stop().await;
    let listed = operator.redrive(&["list", "--each", "--json"]).await.with(0).json();
    assert_eq!(groups(&listed), [group("unknown_tenant", "acme", 1)]);
    assert_eq!(listed["letters"][0]["key"], object.key);

    setup.put_row(customer.row()).await;
    operator.redrive(&["move", "--tenant", "acme", "--reason", "unknown_tenant"]).await.with(0);
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    setup.no_dead_letters().await;
}

/// A message fails for two tenants, and has two dead letters because the answer to the first send was lost. It is moved once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_was_buried_twice_is_moved_once() {
    let operator = Operator::of_queues(Setup::new("redrive-copies").await).await;
    let setup = &operator.setup;
    let Some(sandbox) = setup.sandbox() else { return };
    let lost = Fault::new("sqs", "SendMessage", Effect::After { error: None });
    sandbox.faults().add(Fault { times: Some(1), sessions_only: true, ..lost });
    let worker = setup.worker().await;
    let mut event = s3_event("staging", "acme/c/app/pod/1.json.gz");
    let other = s3_event("staging", "globex/c/app/pod/1.json.gz")["Records"][0].clone();
    event["Records"].as_array_mut().expect("an array").push(other);
    setup.send(&event.to_string()).await;
    eventually("the message is buried", async || same(&operator.letters().await, &(2, 0))).await;
    setup.queue_is_empty().await;
    worker.kill().await;
    for tenant in ["acme", "globex"] {
        let listed = operator.redrive(&["list", "--json", "--tenant", tenant]).await.with(0).json();
        assert_eq!(listed["copies"], 1, "{listed}");
        assert_eq!(groups(&listed), [group("foreign_bucket", "acme,globex", 1)]);
    }
    operator.redrive(&["move", "--tenant", "globex"]).await.with(0).saying("1 dead letter not counted");
    assert_eq!((operator.letters().await, setup.queue_depth().await), ((0, 0), (1, 0)));
}

/// `kill -9` after messages were sent: they are in both queues, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_send_and_delete_loses_nothing() {
    let operator = Operator::of_queues(Setup::new("redrive-kill").await).await;
    let Some(sandbox) = operator.setup.sandbox() else { return };
    operator.bury_unknown("acme", 8).await;
    sandbox.faults().add(Fault::new("sqs", "DeleteMessageBatch", Effect::Latency { milliseconds: 600_000 }));
    let mut child = operator::start(&["redrive", "move", "--all"], &operator.environment);
    eventually("all messages are sent", async || same(&operator.setup.queue_depth().await, &(8, 0))).await;
    child.kill().await.expect("the command can be killed");
    let (visible, hidden) = operator.letters().await;
    assert_eq!(visible + hidden, 8, "the letters stay until they are deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_command_returns_its_letters() {
    let operator = Operator::of_queues(Setup::new("redrive-interrupt").await).await;
    operator.bury_unknown("acme", 25).await;
    let child = operator::start(&["redrive", "move", "--all", "--rate", "1"], &operator.environment);
    eventually("the first is moved", async || match operator.setup.queue_depth().await {
        (0, 0) => Err("none yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    operator::signal(&child, "INT");
    operator::end(child).await.with(1).saying("interrupted");
    let (moved, left) = (operator.setup.queue_depth().await, operator.letters().await);
    assert!((1..25).contains(&moved.0), "{moved:?}");
    assert_eq!(left, (25 - moved.0, 0), "the remaining letters are visible at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_stay_if_the_queue_refuses_messages() {
    let mut operator = Operator::of_queues(Setup::new("redrive-refused").await).await;
    operator.bury_unknown("acme", 12).await;
    let nowhere = format!("{}-missing", operator.setup.provider.queue_url);
    operator.environment.insert("SQS_QUEUE_URL".to_owned(), nowhere);
    let ended = operator.redrive(&["move", "--all", "--json"]).await.with(1);
    let ended = ended.saying("10 dead letters could not be moved").saying("NonExistentQueue");
    let report = ended.json();
    assert_eq!(report["not_moved"].as_array().map(Vec::len), Some(10), "{report}");
    assert_eq!((&report["messages"], &report["complete"]), (&json!(0), &json!(false)));
    assert_eq!(operator.letters().await, (12, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_moved_by_accident() {
    let mut operator = Operator::of_queues(Setup::new("redrive-usage").await).await;
    operator.bury_unknown("acme", 1).await;
    for arguments in [
        &["move"][..],
        &["move", "--dry-run"],
        &["move", "--limit", "5"],
        &["move", "--all", "--tenant", "acme"],
        &["move", "--tenant", "acme", "--older-than", "yesterday"],
        &["move", "--all", "--rate", "0"],
        &["list", "--all"],
        &[],
    ] {
        operator.redrive(arguments).await.with(2);
    }
    assert_eq!(operator.letters().await, (1, 0));
    operator.environment.remove("LOGFERRY_QUEUE__DEAD_LETTER_URL");
    operator.redrive(&["list"]).await.with(64).saying("queue.dead_letter_url: is required");
    operator.environment.remove("SQS_QUEUE_URL");
    operator.redrive(&["list"]).await.with(64).saying("queue.url: is required");
}
