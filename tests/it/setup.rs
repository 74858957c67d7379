//! The surroundings of one test: the provider's side, its customers, and workers.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_sandbox::Sandbox;
use logferry_testbed::provision::{
    Account, Aws, Customer, CustomerSpec, DeadLetter, Provider, ProviderSpec, TrustAction,
};
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    samples::{Object, assert_same_events, expected, generated, received_events},
    target::{Target, unique, unique_account},
    worker::{Worker, assert_plain},
};

pub(crate) const REGION: &str = "us-east-1";

/// Everything around the worker, connected as in production, under names that no other test uses.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Clients for every account.
    pub(crate) aws: Aws,
    /// Bucket, topic, queues, tables and roles of the provider.
    pub(crate) provider: Provider,
    target: Target,
}

impl Setup {
    /// Creates the provider's side with default settings.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, |_| ()).await
    }

    /// Creates the provider's side with settings that `change` modifies.
    pub(crate) async fn with(name: &str, change: impl FnOnce(&mut ProviderSpec)) -> Self {
        Self::on(Target::start().await, name, change).await
    }

    /// Creates the provider's side on this target.
    pub(crate) async fn on(target: Target, name: &str, change: impl FnOnce(&mut ProviderSpec)) -> Self {
        let aws = Aws::new(&target.endpoint, REGION);
        let mut spec = ProviderSpec::new(&format!("{name}-{}", unique()));
        spec.account = unique_account();
        // Messages are retried every second here, and SQS must not give up on them.
        spec.max_receive_count = 100;
        change(&mut spec);
        let provider = Provider::create(&aws, &spec).await.expect("the provider's side can be set up");
        Self { aws, provider, target }
    }

    /// The sandbox of this test, for injecting faults. On any other target prints a notice and returns `None`.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        if self.target.sandbox.is_none() {
            eprintln!("skipped: only the sandbox injects faults");
        }
        self.target.sandbox.as_deref()
    }

    /// The sandbox of this test, for a process of the test; `None` on any other target.
    pub(crate) fn shared_sandbox(&self) -> Option<std::sync::Arc<Sandbox>> {
        self.target.sandbox.clone()
    }

    pub(crate) fn account(&self) -> Account {
        self.aws.account(&self.provider.account)
    }

    /// Creates a customer with a row in the tenant table.
    pub(crate) async fn customer(&self, tenant_id: &str) -> Customer {
        self.customer_with(CustomerSpec::new(tenant_id), &[]).await
    }

    /// Creates a customer with a row in the tenant table that has these changes.
    pub(crate) async fn customer_with(
        &self,
        spec: CustomerSpec,
        changes: &[(&str, AttributeValue)],
    ) -> Customer {
        let customer = self.customer_without_row(spec).await;
        self.put_row_with(&customer, changes).await;
        customer
    }

    /// Creates a customer whose role allows these actions of CloudWatch Logs alone.
    pub(crate) async fn customer_allowing(&self, spec: CustomerSpec, actions: &[&str]) -> Customer {
        let role = spec.role_name.clone();
        let customer = self.customer_with(spec, &[]).await;
        let account = &customer.account;
        let statements = json!([{
            "Effect": "Allow", "Action": actions,
            "Resource": format!("arn:aws:logs:*:{account}:log-group:{}*", customer.log_group),
        }]);
        let put = self.aws.account(account).put_role_policy(&role, "logferry", statements).await;
        put.expect("the policy can be replaced");
        customer
    }

    /// Creates a customer whose row names a role that does not exist until [`Setup::create_missing_role`] creates it.
    pub(crate) async fn customer_without_role(
        &self,
        tenant_id: &str,
        changes: &[(&str, AttributeValue)],
    ) -> Customer {
        let customer = self.customer_without_row(CustomerSpec::new(tenant_id)).await;
        let missing = format!("arn:aws:iam::{}:role/missing", customer.account);
        self.put_row_with(
            &customer,
            &[&[("log_distribution_role_arn", text(&missing))][..], changes].concat(),
        )
        .await;
        customer
    }

    /// Creates the role that the row of a [`Setup::customer_without_role`] names.
    pub(crate) async fn create_missing_role(&self, customer: &Customer, allow: Vec<TrustAction>) {
        let spec = CustomerSpec::new(&customer.tenant_id);
        let role_name = "missing".to_owned();
        self.customer_in(&customer.account, CustomerSpec { role_name, create_group: false, allow, ..spec })
            .await;
    }

    /// Creates a customer without a row in the tenant table.
    pub(crate) async fn customer_without_row(&self, spec: CustomerSpec) -> Customer {
        self.customer_in(&unique_account(), spec).await
    }

    /// Creates a customer in this account, without a row in the tenant table.
    pub(crate) async fn customer_in(&self, account: &str, spec: CustomerSpec) -> Customer {
        let customer = Customer::create(&self.aws, account, &self.provider, spec).await;
        customer.expect("the customer's side can be set up")
    }

    /// Creates or replaces a row of the tenant table.
    pub(crate) async fn put_row(&self, row: HashMap<String, AttributeValue>) {
        self.provider.put_tenant(&self.aws, row).await.expect("the row can be put");
    }

    async fn put_row_with(&self, customer: &Customer, changes: &[(&str, AttributeValue)]) {
        let mut row = customer.row();
        row.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.put_row(row).await;
    }

    /// Uploads an object to the staging bucket, which notifies the worker.
    pub(crate) async fn upload(&self, key: &str, bytes: impl Into<bytes::Bytes>) {
        self.provider.upload(&self.aws, key, bytes).await.expect("the object can be put");
    }

    /// Uploads a [`generated`] object.
    pub(crate) async fn upload_generated(&self, key: &str, count: usize, size: usize) -> Object {
        let object = generated(key, count, size);
        self.upload(&object.key, object.bytes.clone()).await;
        object
    }

    /// Uploads these objects one after the other.
    pub(crate) async fn upload_all<'a>(&self, objects: impl IntoIterator<Item = &'a Object>) {
        for object in objects {
            self.upload(&object.key, object.bytes.clone()).await;
        }
    }

    /// Sends a message to the worker's queue.
    pub(crate) async fn send(&self, body: &str) {
        let send = self.account().sqs().send_message().queue_url(&self.provider.queue_url);
        send.message_body(body).send().await.expect("the message can be sent");
    }

    /// Waits until a worker has acknowledged `count` messages and the queue is empty.
    pub(crate) async fn acknowledged(&self, worker: &Worker, count: usize) {
        eventually("every message is acknowledged", async || {
            let metrics = worker.metrics().await;
            // After a dead letter this cannot succeed any more.
            assert_eq!(metrics.sum("logferry_dead_letters_total"), 0.0, "dead letters: {metrics:?}");
            same(&metrics.get("logferry_messages_total{verdict=\"ack\"}"), &(count as f64))
                .map_err(|counts| format!("{counts}: {metrics:?}"))
        })
        .await;
        self.queue_is_empty().await;
    }

    /// The complete environment of a worker, with retries every second.
    pub(crate) async fn environment(&self) -> BTreeMap<String, String> {
        let production = self.provider.worker_environment(&self.aws).await;
        let mut variables = production.expect("the account may be the worker");
        variables.push(self.provider.ledger_variable());
        let ours = [
            ("LOGFERRY_LEDGER__LEASE", "10s"),
            // All workers run on one machine, and so have one clock.
            ("LOGFERRY_LEDGER__MAX_CLOCK_SKEW", "1s"),
            ("LOGFERRY_QUEUE__WAIT_TIME", "2s"),
            ("LOGFERRY_QUEUE__RETRY_DELAY", "1s"),
            ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "1s"),
            ("LOGFERRY_TENANTS__CACHE_TTL", "1s"),
            ("LOGFERRY_LOG__FILTER", "info,logferry=debug"),
        ];
        variables.extend(ours.map(|(name, value)| (name, value.to_owned())));
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub(crate) async fn worker(&self) -> Worker {
        self.worker_with(&[]).await
    }

    /// Starts a worker with further variables.
    pub(crate) async fn worker_with(&self, variables: &[(&str, &str)]) -> Worker {
        let mut environment = self.environment().await;
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.start(&environment).await
    }

    /// Starts a worker with this environment, and no other variable.
    pub(crate) async fn start(&self, environment: &BTreeMap<String, String>) -> Worker {
        Worker::start(environment, self.target.sandbox.clone()).await
    }

    /// Starts a worker whose log is a pipe that nobody reads.
    pub(crate) async fn start_unread(&self, environment: &BTreeMap<String, String>) -> Worker {
        Worker::start_unread(environment, self.target.sandbox.clone()).await
    }

    /// Messages of the worker's queue: visible or delayed, and in flight.
    pub(crate) async fn queue_depth(&self) -> (u64, u64) {
        self.depth(&self.provider.queue_url).await
    }

    /// Messages of a queue: visible or delayed, and in flight.
    pub(crate) async fn depth(&self, url: &str) -> (u64, u64) {
        self.account().queue_depth(url).await.expect("SQS returns the queue's length")
    }

    /// Checks that every event of the objects arrived at the customer exactly once, and nothing else.
    pub(crate) async fn arrived_once<'a>(
        &self,
        customer: &Customer,
        objects: impl IntoIterator<Item = &'a Object>,
    ) {
        let mut all: Vec<_> = objects.into_iter().flat_map(|object| expected(&object.text)).collect();
        let mut found = received_events(&self.aws, customer).await;
        all.sort();
        found.sort();
        assert_same_events(&customer.tenant_id, &found, &all);
    }

    /// Waits until the queue has no messages.
    pub(crate) async fn queue_is_empty(&self) {
        eventually("the queue is empty (visible, in flight)", async || {
            same(&self.queue_depth().await, &(0, 0))
        })
        .await;
    }

    /// Checks that there are no dead letters.
    pub(crate) async fn no_dead_letters(&self) {
        assert_eq!(self.depth(&self.provider.dead_letter_url).await, (0, 0), "dead letters");
    }

    /// Waits for `count` dead letters and receives them.
    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let account = self.account();
        eventually("dead letters arrive", async || {
            let received = account.dead_letters(&self.provider.dead_letter_url, None).await;
            letters.extend(received.expect("the dead-letter queue can be read"));
            same(&letters.len(), &count).map_err(|counts| format!("{counts}: {letters:?}"))
        })
        .await;
        letters.iter().flat_map(|letter| letter.attributes.values()).for_each(|value| assert_plain(value));
        letters
    }
}

/// S3's own message about an object. The key must be plain ASCII.
pub(crate) fn s3_event(bucket: &str, key: &str) -> Value {
    json!({ "Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "eventTime": jiff::Timestamp::now().to_string(), "awsRegion": REGION,
        "s3": { "bucket": { "name": bucket }, "object": { "key": key, "size": 10 } },
    }] })
}

/// A string value of a row.
pub(crate) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}
