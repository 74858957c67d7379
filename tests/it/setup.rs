//! One test's world: the provider's side, its customers, and workers between them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::{Message, QueueAttributeName};
use logferry_sandbox::Sandbox;
use logferry_testbed::provision::{Account, Aws, Customer, CustomerSpec, Provider, ProviderSpec};
use serde_json::{Value, json};

use crate::{
    eventually::{eventually, same},
    target::{Target, unique, unique_account},
    worker::{Worker, assert_plain},
};

/// The one Region of all tests.
pub(crate) const REGION: &str = "us-east-1";

/// Everything around the worker, wired as in production, under names that no other test has.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Clients of any account.
    pub(crate) aws: Aws,
    /// Bucket, topic, queues, table and roles.
    pub(crate) provider: Provider,
    target: Target,
}

impl Setup {
    /// The provider's side with nothing special.
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, |_| ()).await
    }

    /// The provider's side after `change`.
    pub(crate) async fn with(name: &str, change: impl FnOnce(&mut ProviderSpec)) -> Self {
        Self::on(Target::start().await, name, change).await
    }

    /// The same on that target.
    pub(crate) async fn on(target: Target, name: &str, change: impl FnOnce(&mut ProviderSpec)) -> Self {
        let aws = Aws::new(&target.endpoint, REGION);
        let mut spec = ProviderSpec::new(&format!("{name}-{}", unique()));
        spec.account = unique_account();
        // Retries come every second here and must not use the receives up.
        spec.max_receive_count = 100;
        change(&mut spec);
        let provider = Provider::create(&aws, &spec).await.expect("the provider's side can be set up");
        Self { aws, provider, target }
    }

    /// The sandbox behind it, to inject faults; `None`, and said so, on any other target.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        if self.target.sandbox.is_none() {
            eprintln!("skipped: only the sandbox injects faults");
        }
        self.target.sandbox.as_ref()
    }

    /// The provider's account.
    pub(crate) fn account(&self) -> Account {
        self.aws.account(&self.provider.account)
    }

    /// A customer who is known to the worker.
    pub(crate) async fn customer(&self, tenant_id: &str) -> Customer {
        let customer = self.stranger(CustomerSpec::new(tenant_id)).await;
        self.put_row(customer.row()).await;
        customer
    }

    /// A customer's account without a row in the tenant table.
    pub(crate) async fn stranger(&self, spec: CustomerSpec) -> Customer {
        let customer = Customer::create(&self.aws, &unique_account(), &self.provider, spec).await;
        customer.expect("the customer's side can be set up")
    }

    /// Puts or replaces a row of the tenant table.
    pub(crate) async fn put_row(&self, row: HashMap<String, AttributeValue>) {
        self.provider.put_tenant(&self.aws, row).await.expect("the row can be put");
    }

    /// Puts an object into the staging bucket, which tells the worker.
    pub(crate) async fn upload(&self, key: &str, bytes: impl Into<bytes::Bytes>) {
        self.provider.upload(&self.aws, key, bytes).await.expect("the object can be put");
    }

    /// Puts a message into the worker's queue.
    pub(crate) async fn send(&self, body: &str) {
        let send = self.account().sqs().send_message().queue_url(&self.provider.queue_url);
        send.message_body(body).send().await.expect("the queue takes the message");
    }

    /// Waits until a worker has acknowledged so many messages and the queue is empty.
    pub(crate) async fn acknowledged(&self, worker: &Worker, count: usize) {
        eventually("every message is acknowledged", async || {
            let metrics = worker.metrics().await;
            // Hopeless by now: no use in waiting.
            assert_eq!(metrics.sum("logferry_dead_letters_total"), 0.0, "dead letters: {metrics:?}");
            same(&metrics.get("logferry_messages_total{verdict=\"ack\"}"), &(count as f64))
                .map_err(|counts| format!("{counts}: {metrics:?}"))
        })
        .await;
        self.queue_is_empty().await;
    }

    /// What a worker's environment holds, complete, with retries every second.
    pub(crate) async fn environment(&self) -> BTreeMap<String, String> {
        let production = self.provider.worker_environment(&self.aws).await;
        let mut variables = production.expect("the account may be the worker");
        variables.push(self.provider.ledger_variable());
        let ours = [
            ("LOGFERRY_LEDGER__LEASE", "10s"),
            // One machine has one clock.
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

    /// A worker on all of it.
    pub(crate) async fn worker(&self) -> Worker {
        self.worker_with(&[]).await
    }

    /// The same with further variables.
    pub(crate) async fn worker_with(&self, variables: &[(&str, &str)]) -> Worker {
        let mut environment = self.environment().await;
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Worker::start(&environment).await
    }

    /// Messages of the worker's queue: visible or delayed, in flight.
    pub(crate) async fn queue_depth(&self) -> (u64, u64) {
        self.depth(&self.provider.queue_url).await
    }

    /// Messages of a queue: visible or delayed, in flight.
    pub(crate) async fn depth(&self, url: &str) -> (u64, u64) {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        };
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        ];
        let get = self.account().sqs().get_queue_attributes().queue_url(url);
        let got = get.set_attribute_names(Some(names.to_vec())).send().await;
        let attributes = got.expect("the queue tells").attributes.unwrap_or_default();
        let count = |name| attributes.get(name).and_then(|text| text.parse::<u64>().ok());
        let [visible, delayed, hidden] = names.each_ref().map(|name| count(name).expect("a number"));
        (visible + delayed, hidden)
    }

    /// Waits until every message is done with.
    pub(crate) async fn queue_is_empty(&self) {
        eventually("the queue is empty (visible, in flight)", async || {
            same(&self.queue_depth().await, &(0, 0))
        })
        .await;
    }

    /// Checks that no message went to the dead-letter queue.
    pub(crate) async fn no_dead_letters(&self) {
        assert_eq!(self.depth(&self.provider.dead_letter_url).await, (0, 0), "dead letters");
    }

    /// Waits for `count` dead letters and takes them.
    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let sqs = self.account().sqs();
        eventually("dead letters arrive", async || {
            let receive = sqs.receive_message().queue_url(&self.provider.dead_letter_url);
            let receive = receive.max_number_of_messages(10).message_attribute_names("All");
            let received = receive.send().await.expect("the dead-letter queue can be read");
            letters.extend(received.messages.unwrap_or_default().into_iter().map(DeadLetter::from));
            same(&letters.len(), &count).map_err(|counts| format!("{counts}: {letters:?}"))
        })
        .await;
        letters.iter().flat_map(|letter| letter.attributes.values()).for_each(|value| assert_plain(value));
        letters
    }
}

/// A message of the dead-letter queue.
#[derive(Clone, Debug)]
pub(crate) struct DeadLetter {
    /// As it was in the queue.
    pub(crate) body: String,
    /// What the worker says of it.
    pub(crate) attributes: BTreeMap<String, String>,
}

impl DeadLetter {
    /// An attribute; one that is not there is empty, which SQS allows no attribute to be.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl From<Message> for DeadLetter {
    fn from(message: Message) -> Self {
        let attributes = message.message_attributes.unwrap_or_default().into_iter();
        let attributes = attributes.map(|(name, value)| (name, value.string_value.unwrap_or_default()));
        Self { body: message.body.unwrap_or_default(), attributes: attributes.collect() }
    }
}

/// The message that S3 itself sends about an object; the key is plain ASCII.
pub(crate) fn s3_event(bucket: &str, key: &str) -> Value {
    json!({ "Records": [{
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "eventTime": jiff::Timestamp::now().to_string(), "awsRegion": REGION,
        "s3": { "bucket": { "name": bucket }, "object": { "key": key, "size": 10 } },
    }] })
}

/// A value of a row.
pub(crate) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}
