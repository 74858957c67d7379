//! `logferry doctor` names each broken condition with its fix. It changes no more than a delivery would.

mod wirings;

use std::time::Instant;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::QueueAttributeName;
use logferry_testbed::provision::CustomerSpec;
use serde_json::Value;

use crate::{
    operator::{self, Ended, Operator},
    setup::{Setup, text},
};

struct Report(Value);

impl Report {
    fn conditions(&self) -> &[Value] {
        self.0["conditions"].as_array().expect("an array")
    }

    /// All conditions with their states, in order.
    fn states<'a>(&'a self) -> Vec<(&'a str, &'a str)> {
        let text = |value: &'a Value| value.as_str().expect("a string");
        self.conditions().iter().map(|of| (text(&of["condition"]), text(&of["state"]))).collect()
    }

    /// Checks that exactly this condition fails, with this problem and fix.
    #[track_caller]
    fn fails(&self, condition: &str, problem: &str, fix: &str) {
        let failed: Vec<_> = self.conditions().iter().filter(|of| of["state"] == "failed").collect();
        let [failed] = failed.as_slice() else { panic!("not one failure: {failed:#?}") };
        assert_eq!(failed["condition"], condition, "{failed:#}");
        let says = |field: &str, words: &str| failed[field].as_str().is_some_and(|text| text.contains(words));
        assert!(says("detail", problem), "{problem:?} is missing: {failed:#}");
        assert!(says("fix", fix), "{fix:?} is missing: {failed:#}");
    }

    fn state(&self, condition: &str) -> Option<&str> {
        self.states().into_iter().find(|(name, _)| *name == condition).map(|(_, state)| state)
    }
}

impl Operator {
    /// Keeps the environment of the worker.
    async fn of_worker(name: &str) -> Self {
        let setup = Setup::new(name).await;
        let environment = setup.environment().await;
        Self { setup, environment }
    }

    async fn doctor(&self, arguments: &[&str]) -> Ended {
        self.run("doctor", arguments).await
    }

    /// Runs the doctor, which must find no problem.
    async fn well(&self, arguments: &[&str]) -> Report {
        Report(self.doctor(&[arguments, &["--json"]].concat()).await.with(0).json())
    }

    /// Runs the doctor, which must find a problem.
    async fn ill(&self, arguments: &[&str]) -> Report {
        let report = Report(self.doctor(&[arguments, &["--json"]].concat()).await.with(1).json());
        assert_eq!(report.0["healthy"], false);
        report
    }

    async fn ill_tenant(&self, tenant: &str) -> Report {
        self.ill(&["--tenant", tenant]).await
    }

    fn set(&mut self, variable: &str, value: &str) -> Option<String> {
        self.environment.insert(variable.to_owned(), value.to_owned())
    }

    async fn set_queue(&self, url: &str, attribute: QueueAttributeName, value: &str) {
        let set = self.setup.account().sqs().set_queue_attributes().queue_url(url);
        set.attributes(attribute, value).send().await.expect("the attribute can be set");
    }
}

const WIRING: [&str; 31] = [
    "queue",
    "receive and delete",
    "long waits",
    "visibility timeout",
    "queue retention",
    "queue encryption",
    "redrive policy",
    "dead-letter queue",
    "dead-letter permission",
    "dead-letter retention",
    "identity",
    "tenant table",
    "central role",
    "clock",
    "tenant table key",
    "tenant table capacity",
    "ledger",
    "ledger key",
    "ledger capacity",
    "ledger time to live",
    "source bucket",
    "bucket notification",
    "notification events",
    "notification filter",
    "topic policy",
    "topic encryption",
    "subscription",
    "subscription filter",
    "subscription delivery",
    "queue policy",
    "staged objects",
];
const WAY: [&str; 9] = [
    "identity",
    "tenant table",
    "central role",
    "not paused",
    "enabled",
    "row",
    "customer role",
    "log group",
    "log stream",
];

fn all_ok<'a>(conditions: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    conditions.iter().map(|condition| (*condition, "ok")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_to_send_is_reported_with_its_consequence() {
    let setup = Setup::with("doctor-send", |spec| spec.worker_may_send = false).await;
    if setup.sandbox().is_none() {
        return;
    }
    let operator = Operator { environment: setup.environment().await, setup };
    operator.ill(&[]).await.fails("long waits", "120,000", "allow sqs:SendMessage on the queue");
    assert_eq!(operator.setup.queue_depth().await, (0, 0), "the check sends no message");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_setup_passes() {
    let operator = Operator::of_worker("doctor-well").await;
    let customer = operator.setup.customer("acme").await;
    operator.setup.upload("acme/c/app/pod/1.json.gz", "[]").await;
    assert_eq!(operator.well(&[]).await.states(), all_ok(&WIRING));
    let report = operator.well(&["--tenant", "acme"]).await;
    assert_eq!(report.states(), all_ok(&[&WAY[..], &["put"]].concat()));
    let text =
        operator.doctor(&["--tenant", "acme"]).await.with(0).saying("10 conditions: 0 failed, 0 skipped");
    assert!(text.stdout.contains(&customer.role_arn) && text.stdout.contains("acme-external-id"), "{text:?}");
    if operator.setup.sandbox().is_some() {
        // ministack keeps events of any age.
        assert_eq!(customer.events(&operator.setup.aws).await.expect("the group exists"), []);
        assert!(text.stdout.contains("discarded as too old"), "{text:?}");
    }
    assert_eq!(
        operator.well(&["--all"]).await.states(),
        all_ok(&[&WIRING[..], &WAY[3..], &["put"]].concat())
    );
    let text = operator.doctor(&["--all"]).await.with(0).stdout;
    assert!(text.contains("every condition holds") && !text.contains("log stream"), "{text}");
    // The doctor received no message.
    assert_eq!(operator.setup.queue_depth().await, (1, 0));

    // The conditions of a tenant do not include the queues.
    for queue in ["SQS_QUEUE_URL", "LOGFERRY_QUEUE__DEAD_LETTER_URL"] {
        let mut without = operator.environment.clone();
        without.remove(queue);
        operator::run(&["doctor", "--tenant", "acme"], &without).await.with(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_broken_part_of_the_providers_side_is_named() {
    let mut operator = Operator::of_worker("doctor-wiring").await;
    let provider = operator.setup.provider.clone();

    let missing = format!("{}-missing", provider.queue_url);
    operator.set("SQS_QUEUE_URL", &missing);
    let report = operator.ill(&[]).await;
    report.fails("queue", "does not exist", "correct queue.url");
    for behind in ["redrive policy", "queue retention", "dead-letter retention", "queue policy"] {
        assert_eq!(report.state(behind), Some("skipped"), "{behind}");
    }
    operator.set("SQS_QUEUE_URL", &provider.queue_url);
    operator.set("LOGFERRY_QUEUE__DEAD_LETTER_URL", &missing);
    operator.ill(&[]).await.fails("dead-letter queue", "does not exist", "correct queue.dead_letter_url");
    operator.environment.remove("LOGFERRY_QUEUE__DEAD_LETTER_URL");
    let report = operator.well(&[]).await;
    assert_eq!(report.state("dead-letter queue"), Some("skipped"));
    assert_eq!(report.state("dead-letter retention"), Some("skipped"));

    let other =
        operator.setup.account().sqs().create_queue().queue_name(format!("{}-other", provider.bucket));
    let other = other.send().await.expect("the queue can be created").queue_url.expect("SQS returns the URL");
    operator.set_queue(&other, QueueAttributeName::MessageRetentionPeriod, "1209600").await;
    operator.set("LOGFERRY_QUEUE__DEAD_LETTER_URL", &other);
    operator.ill(&[]).await.fails("redrive policy", "-other", "name the same queue");
    operator.set("LOGFERRY_QUEUE__DEAD_LETTER_URL", &provider.dead_letter_url);
    let letters = &provider.dead_letter_url;
    operator.set_queue(letters, QueueAttributeName::MessageRetentionPeriod, "345600").await;
    operator.ill(&[]).await.fails(
        "dead-letter retention",
        "may be deleted at once",
        "raise MessageRetentionPeriod",
    );
    operator.set_queue(letters, QueueAttributeName::MessageRetentionPeriod, "1209600").await;
    operator.set("LOGFERRY_QUEUE__MAX_AGE", "96h");
    operator.ill(&[]).await.fails("queue retention", "4 days 1 s", "raise MessageRetentionPeriod");
    operator.environment.remove("LOGFERRY_QUEUE__MAX_AGE");

    // ministack compares no owner.
    if operator.setup.sandbox().is_some() {
        let bucket = format!("{}=999999999999", provider.bucket);
        let right = operator.set("LOGFERRY_SOURCE__BUCKETS", &bucket).expect("the worker's is set");
        operator.ill(&[]).await.fails(
            "source bucket",
            "belong to account 999999999999",
            "correct the account",
        );
        operator.set("LOGFERRY_SOURCE__BUCKETS", &right);
    }

    operator.set("TENANT_CONFIG_TABLE", "nowhere");
    operator.ill(&[]).await.fails("tenant table", "ResourceNotFoundException", "correct tenants.table");
    let report = operator.ill_tenant("acme").await;
    report.fails("tenant table", "ResourceNotFoundException", "nowhere");
    assert_eq!(report.state("rows"), Some("skipped"), "rows are not guessed");
    operator.set("TENANT_CONFIG_TABLE", &provider.tenant_table);

    operator.set("LOGFERRY_LEDGER__TABLE", "nowhere");
    operator.ill(&[]).await.fails("ledger", "", "correct ledger.table");
    operator.environment.remove("LOGFERRY_LEDGER__TABLE");
    assert_eq!(operator.well(&[]).await.state("ledger"), Some("skipped"));

    operator.set_queue(&provider.queue_url, QueueAttributeName::RedrivePolicy, "").await;
    operator.ill(&[]).await.fails("redrive policy", "is then lost", "set RedrivePolicy");
}

/// An endpoint that accepts connections and never answers fails a condition soon, in the report and in the metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_never_answers_fails_its_condition_soon() {
    let operator = Operator::of_worker("doctor-silent").await;
    // The system accepts connections for the listener.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("the listener is bound"));
    let check = async |variable: &str, failed: &[&str], longest: u64| {
        let mut environment = operator.environment.clone();
        environment.insert(variable.to_owned(), endpoint.clone());
        let began = Instant::now();
        let report = Report(operator::run(&["doctor", "--json"], &environment).await.with(1).json());
        let states = report.states().into_iter().filter(|(_, state)| *state == "failed");
        assert_eq!(states.map(|(name, _)| name).collect::<Vec<_>>(), failed, "{variable}");
        assert!(began.elapsed().as_secs() < longest, "{variable}: {:?}", began.elapsed());
    };
    let watched = async {
        let mut environment = operator.environment.clone();
        environment.insert("AWS_ENDPOINT_URL".to_owned(), endpoint.clone());
        let (_child, address) = wirings::watching(&environment).await;
        wirings::shows(&address, "logferry_doctor_condition_holds{condition=\"identity\"} 0").await;
    };
    tokio::join!(
        check("AWS_ENDPOINT_URL", &["queue", "dead-letter queue", "identity"], 25),
        check("AWS_ENDPOINT_URL_S3", &["source bucket"], 25),
        check("AWS_ENDPOINT_URL_DYNAMODB", &["tenant table", "ledger"], 70),
        watched,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_refused_first_hop_later_conditions_are_skipped() {
    let mut operator = Operator::of_worker("doctor-central").await;
    operator.setup.customer("acme").await;
    let missing = format!("{}-missing", operator.setup.provider.central_role_arn);
    operator.set("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", &missing);
    operator.ill(&[]).await.fails("central role", "AccessDenied", "does not exist");
    let report = operator.ill_tenant("acme").await;
    report.fails("central role", &missing, "credentials.central_role_arn");
    for behind in ["customer role", "log group", "log stream", "put"] {
        assert_eq!(report.state(behind), Some("skipped"), "{behind}");
    }
    assert_eq!(report.state("row"), Some("ok"));

    // With unknown credentials, no role can be assumed.
    operator.set("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE");
    let report = operator.ill_tenant("acme").await;
    report.fails("identity", "", "credentials");
    assert_eq!(report.state("central role"), Some("skipped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_second_hop_is_reported_with_its_fix() {
    let operator = Operator::of_worker("doctor-role").await;
    let gone = "arn:aws:iam::222222222222:role/gone";
    operator
        .setup
        .customer_with(CustomerSpec::new("gone"), &[("log_distribution_role_arn", text(gone))])
        .await;
    operator.ill_tenant("gone").await.fails("customer role", "AccessDenied", "role/gone does not exist");
    operator.setup.customer_with(CustomerSpec::new("id"), &[("external_id", text("somebody-elses"))]).await;
    let report = operator.ill_tenant("id").await;
    report.fails("customer role", "AccessDenied", "another sts:ExternalId than the one");
    assert_eq!(report.state("put"), Some("skipped"));
    if operator.setup.sandbox().is_none() {
        // ministack does not name the refused action, or does not check it.
        return;
    }
    let on = || AttributeValue::Bool(true);
    operator.setup.customer_with(CustomerSpec::new("tags"), &[("session_tags", on())]).await;
    operator.ill_tenant("tags").await.fails("customer role", "sts:TagSession", "must allow sts:TagSession");
    operator.setup.customer_with(CustomerSpec::new("identity"), &[("source_identity", on())]).await;
    let report = operator.ill_tenant("identity").await;
    report.fails("customer role", "sts:SetSourceIdentity", "must allow sts:SetSourceIdentity");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_refused_call_on_the_log_group_is_reported() {
    let operator = Operator::of_worker("doctor-group").await;
    let no_group = |tenant: &str| CustomerSpec { create_group: false, ..CustomerSpec::new(tenant) };
    let put_only = ["logs:CreateLogStream", "logs:PutLogEvents"];
    let customer = operator.setup.customer_allowing(no_group("missing"), &put_only).await;
    let report = operator.ill_tenant("missing").await;
    report.fails("log group", "does not exist and was not created", "create the group, or the policy of");
    assert_eq!((report.state("log stream"), report.state("put")), (Some("skipped"), Some("skipped")));
    assert_eq!(customer.events(&operator.setup.aws).await.expect("a missing group has no events"), []);

    operator.setup.customer_allowing(CustomerSpec::new("no-put"), &["logs:CreateLogStream"]).await;
    let report = operator.ill_tenant("no-put").await;
    report.fails("put", "PutLogEvents", "must allow logs:PutLogEvents on arn:aws:logs:us-east-1:");
    assert_eq!(report.state("log stream"), Some("ok"));

    operator.setup.customer_allowing(CustomerSpec::new("no-stream"), &["logs:PutLogEvents"]).await;
    let report = operator.ill_tenant("no-stream").await;
    report.fails("log stream", "CreateLogStream", "must allow logs:CreateLogStream on");
    assert_eq!((report.state("log group"), report.state("put")), (Some("skipped"), Some("skipped")));

    // The doctor creates a group that it may create, as the worker would.
    let days = AttributeValue::N("30".to_owned());
    let customer = operator.setup.customer_with(no_group("new"), &[("retention_days", days)]).await;
    let report = operator.well(&["--tenant", "new"]).await;
    assert!(report.0.to_string().contains("was missing, and was created, for 30 days"), "{:#}", report.0);
    let logs = operator.setup.aws.account(&customer.account).logs();
    let groups = logs.describe_log_groups().log_group_name_prefix(&customer.log_group).send().await;
    let groups = groups.expect("the account's root may list groups").log_groups.unwrap_or_default();
    assert_eq!(groups.iter().map(|group| group.retention_in_days).collect::<Vec<_>>(), [Some(30)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_deliver_nothing_are_reported() {
    let operator = Operator::of_worker("doctor-rows").await;
    operator.ill_tenant("nobody").await.fails("rows", "no row of tenant \"nobody\"", "logferry tenant put");

    let bad = [("target_region", text("mars")), ("retention_days", AttributeValue::N("2".to_owned()))];
    operator.setup.customer_with(CustomerSpec::new("bad"), &bad).await;
    let report = operator.ill_tenant("bad").await;
    let failed: Vec<_> = report.conditions().iter().filter(|of| of["state"] == "failed").collect();
    assert_eq!(failed.len(), 2, "one failure for each field: {failed:#?}");
    for (failed, field) in failed.iter().zip(["target_region: \"mars\"", "retention_days: "]) {
        assert_eq!(failed["condition"], "row");
        assert!(failed["detail"].as_str().is_some_and(|detail| detail.starts_with(field)), "{failed}");
    }
    assert_eq!(report.state("customer role"), None);

    // The doctor checks a disabled row of a single tenant too, because an operator may be about to enable it.
    operator
        .setup
        .customer_with(CustomerSpec::new("asleep"), &[("enabled", AttributeValue::Bool(false))])
        .await;
    let report = operator.ill_tenant("asleep").await;
    report.fails("enabled", "disabled", "logferry tenant enable asleep --type cloudwatch");
    assert_eq!(report.state("put"), Some("ok"));

    // A disabled second row is ignored, unless the operator asks for it.
    let customer = operator.setup.customer("two").await;
    let mut second = customer.row();
    second.insert("type".to_owned(), text("cloudwatch#audit"));
    second.insert("enabled".to_owned(), AttributeValue::Bool(false));
    operator.setup.put_row(second).await;
    let report = operator.well(&["--tenant", "two"]).await;
    assert_eq!(report.states().iter().filter(|(_, state)| *state == "skipped").count(), 1);
    operator.well(&["--tenant", "two", "--delivery", "cloudwatch"]).await;
    let report = operator.ill(&["--tenant", "two", "--delivery", "cloudwatch#audit"]).await;
    report.fails("enabled", "disabled", "--type cloudwatch#audit");
    let report = operator.ill(&["--tenant", "two", "--delivery", "s3"]).await;
    report.fails("rows", "\"cloudwatch\", \"cloudwatch#audit\"", "--delivery");

    let settings = [("tenant_id", "two"), ("type", "settings")].map(|(name, value)| (name, text(value)));
    let settings = settings.into_iter().chain([("paused", AttributeValue::Bool(true))]);
    operator.setup.put_row(settings.map(|(name, value)| (name.to_owned(), value)).collect()).await;
    let report = operator.ill_tenant("two").await;
    report.fails("not paused", "pauses the tenant", "logferry tenant resume two");
    assert_eq!(report.state("put"), Some("ok"));

    // With --all a paused tenant is not a failure, and a disabled row is not checked.
    let all = operator.doctor(&["--all"]).await.with(1).saying("2 failed, 2 skipped");
    assert!(all.stdout.contains("paused; `logferry tenant resume two`"), "{all:?}");
    assert!(!all.stdout.contains("asleep"), "{all:?}");
    assert_eq!(all.stdout.matches("fix: ").count(), 2, "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_copy_shows_whether_objects_can_be_copied() {
    let operator = Operator::of_worker("doctor-bucket").await;
    let Setup { aws, provider, .. } = &operator.setup;
    if operator.setup.sandbox().is_none() {
        // ministack looks for both buckets of a copy in one account.
        return;
    }
    let customer = operator.setup.customer_without_row(CustomerSpec::new("acme")).await;
    let bucket = format!("acme-{}", provider.bucket);
    let mut row = customer.bucket_row(&bucket, true);
    operator.setup.put_row(row.clone()).await;
    provider.let_read(aws, &[&customer.account]).await.expect("the policy can be set");
    customer.let_role_copy(aws, provider, &bucket).await.expect("the policy can be put");
    let report = operator.ill_tenant("acme").await;
    report.fails("copy", "the customer's bucket does not exist", "logferry tenant put");
    customer.create_bucket(aws, provider, &bucket).await.expect("the bucket can be created");
    provider.let_read(aws, &["999999999999"]).await.expect("the policy can be set");
    let report = operator.ill_tenant("acme").await;
    report.fails("copy", "denied", "allow s3:PutObject and s3:PutObjectAcl");
    assert_eq!(report.state("customer role"), Some("ok"));
    provider.let_read(aws, &[&customer.account]).await.expect("the policy can be set");
    let report = operator.well(&["--tenant", "acme"]).await;
    assert_eq!((report.state("customer role"), report.state("copy")), (Some("ok"), Some("ok")));
    let copies = customer.objects(aws, &bucket).await.expect("the bucket can be read");
    let keys: Vec<_> = copies.iter().map(|copy| (copy.key.as_str(), copy.bytes.len())).collect();
    assert_eq!(keys, [("ROSA/cluster-logs/acme/logferry-doctor/logferry-doctor/probe", 0)]);
    let left = operator.setup.account().objects(&provider.bucket).await.expect("the bucket can be read");
    assert_eq!(left, [], "the probe in the staging bucket is deleted again");
    row.insert("external_id".to_owned(), text("somebody-elses"));
    operator.setup.put_row(row).await;
    operator.ill_tenant("acme").await.fails("customer role", "AccessDenied", "another sts:ExternalId");
    // Without a role, the central role copies.
    operator.setup.put_row(customer.bucket_row(&bucket, false)).await;
    let report = operator.well(&["--tenant", "acme"]).await;
    assert_eq!((report.state("customer role"), report.state("copy")), (Some("skipped"), Some("ok")));
    // A worker acknowledges the markers, and delivers nothing for them.
    let worker = operator.setup.worker().await;
    operator.setup.queue_is_empty().await;
    assert!(worker.metrics().await.get("logferry_skipped_total{reason=\"folder_marker\"}") > 0.0);
    operator.setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_conflict_with_the_configuration_fail() {
    let operator = Operator::of_worker("doctor-misfit").await;
    let oversize = ("oversize", text("quarantine"));
    let customer =
        operator.setup.customer_with(CustomerSpec::new("acme"), std::slice::from_ref(&oversize)).await;
    let report = operator.ill_tenant("acme").await;
    report.fails("row", "oversize: \"quarantine\" needs", "set quarantine.bucket for the workers");
    assert_eq!(report.state("customer role"), None, "the worker stops at the row");
    let mut row = customer.bucket_row(&operator.setup.provider.bucket, false);
    row.insert("tenant_id".to_owned(), text("acme"));
    operator.setup.put_row(row).await;
    let report = operator.ill(&["--tenant", "acme", "--delivery", "s3"]).await;
    report.fails("row", "one of the worker's source.buckets", "correct bucket_name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_commands_and_configurations_have_their_own_exit_codes() {
    let mut operator = Operator::of_worker("doctor-usage").await;
    for arguments in [&["--delivery", "cloudwatch"][..], &["--all", "--tenant", "acme"], &["acme"]] {
        operator.doctor(arguments).await.with(2);
    }
    operator.set("LOGFERRY_CREDENTIALS__SESSION_DURATION", "1m");
    operator.doctor(&[]).await.with(64).saying("credentials.session_duration");
    operator.environment.remove("LOGFERRY_CREDENTIALS__SESSION_DURATION");
    operator.environment.remove("SQS_QUEUE_URL");
    operator.doctor(&[]).await.with(64).saying("queue.url: is required");
    operator.environment.remove("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN");
    operator.doctor(&["--tenant", "acme"]).await.with(64).saying("credentials.central_role_arn: is required");
}
