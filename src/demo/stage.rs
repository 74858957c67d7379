//! The AWS that the demo runs on: an embedded sandbox, wired like production and called over HTTP.

use anyhow::{Context, ensure};
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use logferry_sandbox::Sandbox;
use logferry_testbed::provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec, ReceivedEvent};

use super::comparison::LogGroup;

const REGION: &str = "us-east-1";
/// Prefix of the provider's names, as in `demo-staging`.
const PREFIX: &str = "demo";
const CUSTOMERS: [(&str, &str); 3] =
    [("acme-corp", "222222222222"), ("globex", "333333333333"), ("initech", "444444444444")];

#[derive(Debug)]
pub(super) struct Stage {
    sandbox: Sandbox,
    pub(super) aws: Aws,
    pub(super) provider: Provider,
    pub(super) customers: Vec<Customer>,
}

/// Numbers of messages in the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backlog {
    /// Messages that wait for a worker.
    pub(super) waiting: u64,
    /// Messages that a worker has received and not yet acknowledged.
    pub(super) in_flight: u64,
    /// Messages in the dead-letter queue.
    pub(super) dead: u64,
}

impl Stage {
    /// Starts the sandbox, and creates the provider and the customers in it.
    pub(super) async fn set_up() -> anyhow::Result<Self> {
        let sandbox = Sandbox::start().await.context("cannot open a port on the loopback address")?;
        let aws = Aws::new(&sandbox.endpoint(), REGION);
        // The recommended maxReceiveCount (docs/run.md).
        let spec = ProviderSpec { max_receive_count: 100, ..ProviderSpec::new(PREFIX) };
        let provider = Provider::create(&aws, &spec).await?;
        let mut customers = Vec::new();
        for (tenant_id, account) in CUSTOMERS {
            let customer = Customer::create(&aws, account, &provider, CustomerSpec::new(tenant_id)).await?;
            provider.put_tenant(&aws, customer.row()).await?;
            customers.push(customer);
        }
        Ok(Self { sandbox, aws, provider, customers })
    }

    /// The environment that production gives a worker, with a session of the worker's role and the sandbox's endpoint.
    pub(super) async fn worker_environment(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut environment = self.provider.worker_environment(&self.aws).await?;
        environment.extend([self.provider.ledger_variable(), ("LOGFERRY_LOG__FORMAT", "json".to_owned())]);
        Ok(environment)
    }

    pub(super) fn group(&self, tenant: &str) -> Option<LogGroup> {
        self.customers.iter().find(|customer| customer.tenant_id == tenant).map(group)
    }

    /// Number of events that PutLogEvents has accepted so far, in all accounts.
    pub(super) fn events(&self) -> u64 {
        self.accounts().map(|account| self.sandbox.totals(account).events).sum()
    }

    pub(super) async fn backlog(&self) -> anyhow::Result<Backlog> {
        let sqs = self.aws.account(&self.provider.account).sqs();
        let count = async |url: &str, name: &str| {
            let get = sqs.get_queue_attributes().queue_url(url).attribute_names(name.into());
            let attributes = get.send().await.context("cannot read the queue's attributes")?.attributes;
            let count = attributes.and_then(|all| all.get(&name.into())?.parse().ok());
            count.with_context(|| format!("the queue does not tell its {name}"))
        };
        let Provider { queue_url, dead_letter_url, .. } = &self.provider;
        Ok(Backlog {
            waiting: count(queue_url, "ApproximateNumberOfMessages").await?,
            in_flight: count(queue_url, "ApproximateNumberOfMessagesNotVisible").await?,
            dead: count(dead_letter_url, "ApproximateNumberOfMessages").await?,
        })
    }

    /// Deletes the dead letters that are visible, 10 at most. Returns how many there were.
    pub(super) async fn delete_dead_letters(&self) -> anyhow::Result<usize> {
        let sqs = self.aws.account(&self.provider.account).sqs();
        let url = &self.provider.dead_letter_url;
        let receive = sqs.receive_message().queue_url(url).max_number_of_messages(10).send().await;
        let letters = receive.context("cannot receive the dead letters")?.messages.unwrap_or_default();
        let mut delete = sqs.delete_message_batch().queue_url(url);
        for (index, letter) in letters.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
            delete = delete.entries(entry.set_receipt_handle(letter.receipt_handle.clone()).build()?);
        }
        if !letters.is_empty() {
            let deleted = delete.send().await.context("cannot delete the dead letters")?;
            ensure!(deleted.failed.is_empty(), "some dead letters were not deleted: {:?}", deleted.failed);
        }
        Ok(letters.len())
    }

    /// Reads every log group of every account by GetLogEvents, including the provider's account.
    pub(super) async fn read_back(&self) -> anyhow::Result<Vec<(LogGroup, Vec<ReceivedEvent>)>> {
        let mut received = Vec::new();
        for account in self.accounts() {
            for log_group in self.log_groups(account).await? {
                let reader = Customer { account: account.to_owned(), log_group, ..self.customers[0].clone() };
                received.push((group(&reader), reader.events(&self.aws).await?));
            }
        }
        Ok(received)
    }

    fn accounts(&self) -> impl Iterator<Item = &str> {
        let customers = self.customers.iter().map(|customer| &*customer.account);
        std::iter::once(&*self.provider.account).chain(customers)
    }

    async fn log_groups(&self, account: &str) -> anyhow::Result<Vec<String>> {
        let logs = self.aws.account(account).logs();
        let (mut names, mut token) = (Vec::new(), None);
        loop {
            let page = logs.describe_log_groups().set_next_token(token).send().await;
            let page = page.with_context(|| format!("cannot list the log groups of {account}"))?;
            let groups = page.log_groups.unwrap_or_default();
            names.extend(groups.into_iter().filter_map(|group| group.log_group_name));
            token = page.next_token;
            if token.is_none() {
                return Ok(names);
            }
        }
    }
}

fn group(customer: &Customer) -> LogGroup {
    LogGroup { account: customer.account.clone(), log_group: customer.log_group.clone() }
}
