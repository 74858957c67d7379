//! Each broken wiring fails the condition of its own name, and no other.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TimeToLiveSpecification,
};
use aws_sdk_s3::types::{
    Event, FilterRule, FilterRuleName, NotificationConfiguration, NotificationConfigurationFilter,
    QueueConfiguration, S3KeyFilter, TopicConfiguration,
};
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use logferry_testbed::provision::Provider;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Child,
};

use super::Report;
use crate::{
    eventually::eventually,
    operator::{self, Operator},
    setup::Setup,
};

/// What is broken, and the conditions that must fail.
const BROKEN: [(&str, &[&str]); 37] = [
    ("the bucket notifies nobody", &["bucket notification"]),
    ("the bucket notifies another queue", &["bucket notification"]),
    ("multipart uploads are not notified", &["notification events"]),
    ("only multipart uploads are notified", &["notification events"]),
    ("the filter's prefix leaves keys out", &["notification filter"]),
    ("the filter's suffix is not Vector's", &["notification filter"]),
    ("the filter's suffix leaves an object out", &["notification filter"]),
    ("the topic lets another bucket publish", &["topic policy"]),
    ("the topic lets another account publish", &["topic policy"]),
    ("the topic denies S3", &["topic policy"]),
    ("the topic's key is AWS's", &["topic encryption"]),
    ("the queue is not subscribed", &["subscription"]),
    ("the subscription filters by attributes", &["subscription filter"]),
    ("the subscription's dead letters go to its own queue", &["subscription delivery"]),
    ("the queue has no policy", &["queue policy"]),
    ("the queue lets another topic send", &["queue policy"]),
    ("the queue's key is AWS's", &["queue encryption"]),
    ("the queue has no redrive policy", &["redrive policy"]),
    ("the redrive policy names another queue", &["redrive policy"]),
    ("the redrive policy gives up at once", &["redrive policy"]),
    ("the dead-letter queue takes no messages", &["dead-letter permission"]),
    ("dead letters are deleted early", &["dead-letter retention"]),
    ("messages are deleted early", &["queue retention"]),
    ("received messages stay visible", &["visibility timeout"]),
    ("messages may not be deleted", &["receive and delete"]),
    ("messages may not be sent anew", &["long waits"]),
    ("the queue is missing", &["queue"]),
    ("the dead-letter queue is missing", &["dead-letter queue"]),
    ("the ledger has another key", &["ledger", "ledger key", "ledger time to live"]),
    ("the ledger never forgets", &["ledger time to live"]),
    ("the ledger expires by another attribute", &["ledger time to live"]),
    ("the ledger may not be written", &["ledger"]),
    ("the tenant table has another key", &["tenant table", "tenant table key"]),
    ("objects may not be read", &["staged objects"]),
    ("the staging bucket is missing", &["source bucket"]),
    ("the quarantine may not be written", &["quarantine write"]),
    ("the clock is wrong", &["clock"]),
];

/// A wholly good wiring, with an object and a quarantine.
async fn whole(name: &str) -> Operator {
    let mut operator = Operator::of_worker(name).await;
    operator.setup.upload("acme/c/app/pod/1.json.gz", "[]").await;
    let quarantine = quarantine(&operator.setup.provider);
    operator.setup.account().create_bucket(&quarantine).await.expect("the bucket can be created");
    operator.set("LOGFERRY_QUARANTINE__BUCKET", &quarantine);
    operator
}

fn quarantine(provider: &Provider) -> String {
    format!("{}-quarantine", provider.bucket)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_wiring_fails_by_its_own_name() {
    let good = whole("doctor-good").await;
    if good.setup.sandbox().is_none() {
        return;
    }
    let report = good.well(&[]).await;
    let others: Vec<_> = report.states().into_iter().filter(|(_, state)| *state != "ok").collect();
    assert_eq!(others, [], "{:#}", report.0);
    let mut wrong = Vec::new();
    for (broken, expected) in BROKEN {
        let mut operator = whole("doctor-broken").await;
        inflict(&mut operator, broken).await;
        let ended = operator.doctor(&["--json"]).await;
        let report = Report(ended.json());
        let failed: Vec<_> = report.states().into_iter().filter(|(_, state)| *state == "failed").collect();
        if failed.iter().map(|(name, _)| *name).ne(expected.iter().copied()) || ended.code != Some(1) {
            wrong.push(format!("{broken}: {failed:?} instead of {expected:?}"));
        }
        let failures = report.conditions().iter().filter(|of| of["state"] == "failed");
        for failure in failures.filter(|of| of["fix"].as_str().is_none_or(str::is_empty)) {
            wrong.push(format!("{broken}: no fix: {failure}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_the_doctor_lacks_is_neither_good_nor_a_failure() {
    let operator = whole("doctor-lacks").await;
    if operator.setup.sandbox().is_none() {
        return;
    }
    deny(&operator.setup, &["sns:*", "dynamodb:Describe*", "dynamodb:DeleteItem", "s3:DeleteObject"]).await;
    let report = operator.well(&[]).await;
    for (name, permission) in [
        ("topic policy", "sns:GetTopicAttributes"),
        ("subscription", "sns:ListSubscriptionsByTopic"),
        ("ledger key", "dynamodb:DescribeTable"),
        ("ledger time to live", "dynamodb:DescribeTimeToLive"),
    ] {
        let found = report.conditions().iter().find(|of| of["condition"] == name).expect("it is reported");
        assert_eq!(found["state"], "skipped", "{found}");
        let needs = format!("not checked: needs {permission}");
        assert!(found["detail"].as_str().is_some_and(|detail| detail.contains(&needs)), "{found}");
    }
    // What the doctor may not delete stays, and the report says so.
    let stays = report.conditions().iter().filter(|of| {
        of["state"] == "ok" && of["detail"].as_str().is_some_and(|detail| detail.contains("stays"))
    });
    assert_eq!(stays.map(|of| &of["condition"]).collect::<Vec<_>>(), ["ledger", "quarantine write"]);
    deny(&operator.setup, &["s3:GetBucketNotification"]).await;
    let report = operator.well(&[]).await;
    assert_eq!(
        (report.state("bucket notification"), report.state("queue policy")),
        (Some("skipped"), Some("skipped"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiring_that_could_be_better_is_a_warning() {
    let operator = whole("doctor-better").await;
    if operator.setup.sandbox().is_none() {
        return;
    }
    let Provider { topic_arn, .. } = &operator.setup.provider;
    let open = json!({ "Effect": "Allow", "Principal": { "Service": "s3.amazonaws.com" }, "Action": "sns:Publish", "Resource": topic_arn });
    topic_policy(&operator.setup, &[open]).await;
    notify(&operator.setup, &["s3:ObjectCreated:Put", "s3:ObjectCreated:CompleteMultipartUpload"], None)
        .await;
    let ended = operator.doctor(&[]).await.with(0).saying("33 conditions: 0 failed, 2 warnings, 0 skipped");
    assert_eq!(ended.stdout.lines().filter(|line| line.starts_with("warning")).count(), 2, "{ended:?}");
    assert_eq!(ended.stdout.matches("fix: ").count(), 2, "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watching_doctor_serves_its_results_until_a_signal() {
    let operator = whole("doctor-watch").await;
    for wrong in ["5s", "soon", "2d"] {
        operator.doctor(&["--watch", wrong]).await.with(2).saying("must be");
    }
    let mut environment = operator.environment.clone();
    environment.insert("LOGFERRY_HTTP__LISTEN".to_owned(), "nowhere".to_owned());
    operator::run(&["doctor", "--watch", "10s"], &environment).await.with(64).saying("http.listen");
    let (mut child, address) = watching(&operator.environment).await;
    shows(&address, "logferry_doctor_condition_holds{condition=\"queue policy\"} 1").await;
    operator.set_queue(&operator.setup.provider.queue_url, Attribute::Policy, "").await;
    shows(&address, "logferry_doctor_condition_holds{condition=\"queue policy\"} 0").await;
    assert!(
        scrape(&address).await.expect("it answers").contains("logferry_doctor_last_run_timestamp_seconds 1")
    );
    let id = child.id().expect("the command runs").to_string();
    let killed = std::process::Command::new("kill").args(["-TERM", &id]).status();
    assert!(killed.expect("the system has the program kill").success());
    let status = child.wait().await.expect("the command can be waited for");
    assert_eq!(status.code(), Some(0), "a signal is no failure");
}

/// Starts a doctor that repeats its checks. Returns also the address of its metrics.
pub(super) async fn watching(environment: &BTreeMap<String, String>) -> (Child, String) {
    let mut child = operator::start(&["doctor", "--watch", "10s", "--json"], environment);
    let mut lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
    let line = lines.next_line().await.expect("it can be read").expect("the address is told");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    (child, address.to_owned())
}

async fn scrape(address: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let request = "GET /metrics HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    Ok(text)
}

/// Waits until the metrics have this line.
pub(super) async fn shows(address: &str, line: &str) {
    eventually("the metrics show the result", async || {
        let text = scrape(address).await?;
        if text.lines().any(|found| found == line) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Replaces the notifications of the staging bucket by those of the topic, with a filter if one is given.
async fn notify(setup: &Setup, events: &[&str], filter: Option<(FilterRuleName, &str)>) {
    let filter = filter.map(|(name, value)| {
        let rule = FilterRule::builder().name(name).value(value).build();
        NotificationConfigurationFilter::builder()
            .key(S3KeyFilter::builder().filter_rules(rule).build())
            .build()
    });
    let topic = TopicConfiguration::builder().topic_arn(&setup.provider.topic_arn).set_filter(filter);
    let topic = topic.set_events(Some(events.iter().map(|event| Event::from(*event)).collect()));
    let topic = topic.build().expect("complete");
    notifications(setup, NotificationConfiguration::builder().topic_configurations(topic).build()).await;
}

async fn notifications(setup: &Setup, configuration: NotificationConfiguration) {
    let put = setup.account().s3().put_bucket_notification_configuration().bucket(&setup.provider.bucket);
    put.notification_configuration(configuration).send().await.expect("the destination lets S3 send");
}

async fn topic_policy(setup: &Setup, statements: &[serde_json::Value]) {
    set_topic(setup, "Policy", &json!({ "Version": "2012-10-17", "Statement": statements }).to_string())
        .await;
}

async fn set_topic(setup: &Setup, name: &str, value: &str) {
    let set = [
        ("Action", "SetTopicAttributes"),
        ("TopicArn", &setup.provider.topic_arn),
        ("AttributeName", name),
        ("AttributeValue", value),
    ];
    setup.account().sns_query(&set).await.expect("the attribute can be set");
}

/// ARN of the queue's subscription.
async fn subscription(setup: &Setup) -> String {
    let list = [("Action", "ListSubscriptionsByTopic"), ("TopicArn", setup.provider.topic_arn.as_str())];
    let listed = setup.account().sns_query(&list).await.expect("the topic exists");
    let (_, rest) = listed.split_once("<SubscriptionArn>").expect("there is a subscription");
    rest.split_once('<').expect("XML").0.to_owned()
}

async fn set_subscription(setup: &Setup, name: &str, value: &str) {
    let arn = subscription(setup).await;
    let set = [
        ("Action", "SetSubscriptionAttributes"),
        ("SubscriptionArn", arn.as_str()),
        ("AttributeName", name),
        ("AttributeValue", value),
    ];
    setup.account().sns_query(&set).await.expect("the attribute can be set");
}

/// Denies actions to the worker's role.
async fn deny(setup: &Setup, actions: &[&str]) {
    let role = setup.provider.worker_role_arn.rsplit('/').next().expect("a role has a name");
    let statements = json!([{ "Effect": "Deny", "Action": actions, "Resource": "*" }]);
    setup.account().put_role_policy(role, "deny", statements).await.expect("the policy can be put");
}

/// Creates a queue and returns its URL and ARN.
async fn other_queue(setup: &Setup) -> (String, String) {
    let name = format!("{}-other", setup.provider.bucket);
    let create = setup.account().sqs().create_queue().queue_name(&name);
    let url = create.send().await.expect("the queue can be created").queue_url.expect("SQS returns the URL");
    let (own, _) = setup.provider.queue_arn.rsplit_once(':').expect("an ARN");
    (url, format!("{own}:{name}"))
}

async fn table_with_key(setup: &Setup, name: &str, key: [&str; 2]) {
    let mut create =
        setup.account().dynamodb().create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    for (attribute, kind) in key.into_iter().zip([KeyType::Hash, KeyType::Range]) {
        let definition =
            AttributeDefinition::builder().attribute_name(attribute).attribute_type(ScalarAttributeType::S);
        let element = KeySchemaElement::builder().attribute_name(attribute).key_type(kind);
        create = create
            .attribute_definitions(definition.build().expect("complete"))
            .key_schema(element.build().expect("complete"));
    }
    create.send().await.expect("the table can be created");
}

async fn time_to_live(setup: &Setup, attribute: &str, enabled: bool) {
    let life = TimeToLiveSpecification::builder().attribute_name(attribute).enabled(enabled).build();
    let update = setup.account().dynamodb().update_time_to_live().table_name(&setup.provider.ledger_table);
    update.time_to_live_specification(life.expect("complete")).send().await.expect("it can be changed");
}

async fn inflict(operator: &mut Operator, broken: &str) {
    let Provider { account, bucket, topic_arn, queue_url, queue_arn, dead_letter_url, .. } =
        operator.setup.provider.clone();
    let any = ["s3:ObjectCreated:*"];
    let s3_publishes = |source: &str, account: &str| {
        json!({
            "Effect": "Allow", "Principal": { "Service": "s3.amazonaws.com" }, "Action": "sns:Publish", "Resource": topic_arn,
            "Condition": { "ArnLike": { "aws:SourceArn": source }, "StringEquals": { "aws:SourceAccount": account } },
        })
    };
    let sends = |service: &str, queue: &str, source: &str| {
        let statement = json!({
            "Effect": "Allow", "Principal": { "Service": service }, "Action": "sqs:SendMessage", "Resource": queue,
            "Condition": { "ArnLike": { "aws:SourceArn": source } },
        });
        json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
    };
    let of_bucket = format!("arn:aws:s3:::{bucket}");
    let setup = &operator.setup;
    match broken {
        "the bucket notifies nobody" => {
            notifications(setup, NotificationConfiguration::builder().build()).await
        }
        "the bucket notifies another queue" => {
            let (url, arn) = other_queue(setup).await;
            operator.set_queue(&url, Attribute::Policy, &sends("s3.amazonaws.com", &arn, &of_bucket)).await;
            let queue = QueueConfiguration::builder().queue_arn(arn).events(Event::from(any[0]));
            let queue = queue.build().expect("complete");
            notifications(setup, NotificationConfiguration::builder().queue_configurations(queue).build())
                .await;
        }
        "multipart uploads are not notified" => {
            notify(setup, &["s3:ObjectCreated:Put", "s3:ObjectCreated:Copy"], None).await;
        }
        "only multipart uploads are notified" => {
            notify(setup, &["s3:ObjectCreated:CompleteMultipartUpload"], None).await;
        }
        "the filter's prefix leaves keys out" => {
            notify(setup, &any, Some((FilterRuleName::Prefix, "acme/"))).await;
        }
        "the filter's suffix is not Vector's" => {
            // Without an object, only the suffix itself can tell.
            operator
                .setup
                .account()
                .s3()
                .delete_object()
                .bucket(&bucket)
                .key("acme/c/app/pod/1.json.gz")
                .send()
                .await
                .expect("deleted");
            notify(setup, &any, Some((FilterRuleName::Suffix, ".txt"))).await;
        }
        "the filter's suffix leaves an object out" => {
            notify(setup, &any, Some((FilterRuleName::Suffix, ".json.zst"))).await;
        }
        "the topic lets another bucket publish" => {
            topic_policy(setup, &[s3_publishes("arn:aws:s3:::other", &account)]).await;
        }
        "the topic lets another account publish" => {
            topic_policy(setup, &[s3_publishes(&of_bucket, "999999999999")]).await;
        }
        "the topic denies S3" => {
            let mut denies = s3_publishes(&of_bucket, &account);
            denies["Effect"] = json!("Deny");
            topic_policy(setup, &[s3_publishes(&of_bucket, &account), denies]).await;
        }
        "the topic's key is AWS's" => set_topic(setup, "KmsMasterKeyId", "alias/aws/sns").await,
        "the queue is not subscribed" => {
            let arn = subscription(setup).await;
            let unsubscribe = [("Action", "Unsubscribe"), ("SubscriptionArn", arn.as_str())];
            setup.account().sns_query(&unsubscribe).await.expect("the subscription exists");
        }
        "the subscription filters by attributes" => {
            set_subscription(setup, "FilterPolicy", r#"{"kind":["logs"]}"#).await;
        }
        "the subscription's dead letters go to its own queue" => {
            let policy = json!({ "deadLetterTargetArn": queue_arn }).to_string();
            set_subscription(setup, "RedrivePolicy", &policy).await;
        }
        "the queue has no policy" => operator.set_queue(&queue_url, Attribute::Policy, "").await,
        "the queue lets another topic send" => {
            let policy = sends("sns.amazonaws.com", &queue_arn, &format!("{topic_arn}-other"));
            operator.set_queue(&queue_url, Attribute::Policy, &policy).await;
        }
        "the queue's key is AWS's" => {
            operator.set_queue(&queue_url, Attribute::KmsMasterKeyId, "alias/aws/sqs").await;
        }
        "the queue has no redrive policy" => {
            operator.set_queue(&queue_url, Attribute::RedrivePolicy, "").await
        }
        "the redrive policy names another queue" => {
            let (_, arn) = other_queue(setup).await;
            let policy = json!({ "deadLetterTargetArn": arn, "maxReceiveCount": 100 }).to_string();
            operator.set_queue(&queue_url, Attribute::RedrivePolicy, &policy).await;
        }
        "the redrive policy gives up at once" => {
            let (own, _) = queue_arn.rsplit_once(':').expect("an ARN");
            let letters = dead_letter_url.rsplit('/').next().expect("a name");
            let policy = json!({ "deadLetterTargetArn": format!("{own}:{letters}"), "maxReceiveCount": 1 });
            operator.set_queue(&queue_url, Attribute::RedrivePolicy, &policy.to_string()).await;
        }
        "the dead-letter queue takes no messages" => {
            let policy = r#"{"redrivePermission":"denyAll"}"#;
            operator.set_queue(&dead_letter_url, Attribute::RedriveAllowPolicy, policy).await;
        }
        "dead letters are deleted early" => {
            operator.set_queue(&dead_letter_url, Attribute::MessageRetentionPeriod, "345600").await;
        }
        "messages are deleted early" => {
            operator.set_queue(&queue_url, Attribute::MessageRetentionPeriod, "3600").await;
        }
        "received messages stay visible" => {
            operator.set_queue(&queue_url, Attribute::VisibilityTimeout, "0").await;
        }
        "messages may not be deleted" => deny(setup, &["sqs:DeleteMessage"]).await,
        "messages may not be sent anew" => {
            let role = setup.provider.worker_role_arn.rsplit('/').next().expect("a role has a name");
            let statements =
                json!([{ "Effect": "Deny", "Action": "sqs:SendMessage", "Resource": queue_arn }]);
            setup.account().put_role_policy(role, "deny", statements).await.expect("the policy can be put");
        }
        "the queue is missing" => drop(operator.set("SQS_QUEUE_URL", &format!("{queue_url}-missing"))),
        "the dead-letter queue is missing" => {
            operator.set("LOGFERRY_QUEUE__DEAD_LETTER_URL", &format!("{dead_letter_url}-missing"));
        }
        "the ledger has another key" => {
            table_with_key(setup, "other-ledger", ["delivery", "object_key"]).await;
            operator.set("LOGFERRY_LEDGER__TABLE", "other-ledger");
        }
        "the ledger never forgets" => time_to_live(setup, "expires_at", false).await,
        "the ledger expires by another attribute" => {
            time_to_live(setup, "expires_at", false).await;
            time_to_live(setup, "ttl", true).await;
        }
        "the ledger may not be written" => deny(setup, &["dynamodb:UpdateItem"]).await,
        "the tenant table has another key" => {
            table_with_key(setup, "other-tenants", ["id", "type"]).await;
            operator.set("TENANT_CONFIG_TABLE", "other-tenants");
        }
        "objects may not be read" => deny(setup, &["s3:GetObject"]).await,
        "the staging bucket is missing" => {
            operator.set("LOGFERRY_SOURCE__BUCKETS", &format!("{bucket}-missing"));
        }
        "the quarantine may not be written" => deny(setup, &["s3:PutObject"]).await,
        "the clock is wrong" => setup.sandbox().expect("the sandbox").set_clock_ahead(120),
        other => panic!("nobody knows how to break this: {other}"),
    }
}
