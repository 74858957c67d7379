//! What stands around the worker: the provider, the tenants, the objects in the bucket.

use anyhow::Context;
use bytes::Bytes;
use jiff::Timestamp;
use logferry_sandbox::provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec};

const REGION: &str = "us-east-1";
/// Pods of one tenant. More than objects are worked on at once as a rule: batches of one stream wait for each other.
const PODS: u64 = 128;

/// Everything but the worker and the sandbox itself.
#[derive(Debug)]
pub(crate) struct Stage {
    aws: Aws,
    provider: Provider,
    customers: Vec<Customer>,
}

impl Stage {
    /// Sets the provider and so many tenants up.
    pub(crate) async fn set_up(endpoint: &str, tenants: u64) -> anyhow::Result<Self> {
        let aws = Aws::new(endpoint, REGION);
        let provider = Provider::create(&aws, &ProviderSpec::new("load")).await?;
        let mut customers = Vec::new();
        for number in 0..tenants {
            let account = format!("{:012}", 200_000_000_000 + number);
            let spec = CustomerSpec::new(&format!("tenant-{number}"));
            let customer = Customer::create(&aws, &account, &provider, spec).await?;
            provider.put_tenant(&aws, customer.row()).await?;
            customers.push(customer);
        }
        Ok(Self { aws, provider, customers })
    }

    /// The account of each tenant.
    pub(crate) fn accounts(&self) -> Vec<String> {
        self.customers.iter().map(|customer| customer.account.clone()).collect()
    }

    /// Puts the object of that number into the bucket, for the tenants in turn, in another pod each time until there
    /// are no more. Creates the pod's log stream as well: a run is to measure the steady state.
    pub(crate) async fn upload(&self, number: u64, gzip: Bytes) -> anyhow::Result<()> {
        let tenants = self.customers.len() as u64;
        let customer = &self.customers[usize::try_from(number % tenants)?];
        let turn = number / tenants;
        let (now, pod) = (Timestamp::now(), turn % PODS);
        if turn < PODS {
            // By the worker's default template; if that were to change, the worker would create its own.
            let stream = format!("app-app-{pod}-{}", now.strftime("%Y-%m-%d"));
            let logs = self.aws.account(&customer.account).logs();
            let create = logs.create_log_stream().log_group_name(&customer.log_group).log_stream_name(stream);
            create.send().await.context("cannot create a log stream")?;
        }
        let tenant = &customer.tenant_id;
        let seconds = now.as_second();
        let key =
            format!("{tenant}/load-1/app/app-{pod}/{seconds}-00000000-0000-4000-8000-{number:012x}.json.gz");
        Ok(self.provider.upload(&self.aws, &key, gzip).await?)
    }

    /// Messages that are not acknowledged yet, and dead letters.
    pub(crate) async fn backlog(&self) -> anyhow::Result<(u64, u64)> {
        let sqs = self.aws.account(&self.provider.account).sqs();
        let count = async |url: &str| {
            let (visible, hidden) = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible");
            let get = sqs.get_queue_attributes().queue_url(url);
            let got = get.attribute_names(visible.into()).attribute_names(hidden.into()).send().await;
            let attributes =
                got.context("cannot read the queue's attributes")?.attributes.unwrap_or_default();
            let counts = attributes.values().map(|text| text.parse::<u64>());
            counts.sum::<Result<u64, _>>().context("the queue does not tell its length")
        };
        Ok((count(&self.provider.queue_url).await?, count(&self.provider.dead_letter_url).await?))
    }

    /// What production gives a worker, with a session of the worker's own role and the sandbox as its endpoint.
    pub(crate) async fn worker_environment(
        &self,
        concurrency: u32,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let provider = &self.provider;
        let root = self.aws.account(&provider.account);
        let worker = root.assume_role(&provider.worker_role_arn, "loadtest", &[]).await?;
        let credentials = worker.credentials();
        let text = str::to_owned;
        Ok(vec![
            ("AWS_ENDPOINT_URL", self.aws.endpoint.clone()),
            ("AWS_REGION", provider.region.clone()),
            ("AWS_ACCESS_KEY_ID", text(credentials.access_key_id())),
            ("AWS_SECRET_ACCESS_KEY", text(credentials.secret_access_key())),
            ("AWS_SESSION_TOKEN", text(credentials.session_token().unwrap_or_default())),
            ("AWS_S3_USE_PATH_STYLE", text("true")),
            ("AWS_EC2_METADATA_DISABLED", text("true")),
            ("SQS_QUEUE_URL", provider.queue_url.clone()),
            ("TENANT_CONFIG_TABLE", provider.tenant_table.clone()),
            ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", provider.central_role_arn.clone()),
            ("LOGFERRY_QUEUE__DEAD_LETTER_URL", provider.dead_letter_url.clone()),
            ("LOGFERRY_SOURCE__BUCKETS", format!("{}={}", provider.bucket, provider.account)),
            ("LOGFERRY_WORKER__CONCURRENCY", concurrency.to_string()),
            ("LOGFERRY_HTTP__LISTEN", text("127.0.0.1:0")),
        ])
    }
}
