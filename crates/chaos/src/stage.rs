//! The surroundings of a run's workers: everything that they read and write.

mod expected;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use logferry_sandbox::Sandbox;
use logferry_testbed::provision::{
    Account, Aws, Customer, CustomerSpec, Provider, ProviderSpec, TrustAction,
};

use crate::{
    content::{self, Made, Size},
    notice::{Shape, Stored, eventbridge_event, s3_event},
    plan::{Blow, Denial, Kind, LakeFormat, Message, ONE_BATCH, Outage, Plan, Wanted, Weather},
    workers::Workers,
};

const REGION: &str = "us-east-1";
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longest time from the end of the faults to an empty queue. A killed worker's messages stay hidden for ten seconds,
/// refused roles are tried again every second, and an object whose slow body began to arrive takes up to a minute.
pub(crate) const SETTLE: Duration = Duration::from_secs(120);
/// Visibility timeout, after which the messages of a killed worker come back. The worker allows no lower value.
const VISIBILITY: &str = "10s";
const QUARANTINE: &str = "chaos-quarantine";
/// `type` of a tenant's rows, in the order of its deliveries.
pub(crate) const DELIVERIES: [&str; 2] = ["cloudwatch", "cloudwatch#second"];
/// `type` of the row of a tenant's lake.
const LAKE: &str = "s3#lake";

pub(crate) struct Stage {
    pub(crate) sandbox: Sandbox,
    aws: Aws,
    provider: Provider,
    root: Account,
    /// Bucket without notifications.
    silent_bucket: String,
    /// Deliveries of each tenant: the customer that receives objects, and which objects.
    tenants: Vec<Vec<(Customer, Wanted)>>,
    pub(crate) made: Vec<Made>,
}

impl Stage {
    /// Sets up a sandbox and everything in it.
    pub(crate) async fn set_up(plan: &Plan) -> anyhow::Result<Self> {
        let sandbox = Sandbox::start().await.context("cannot open a port on the loopback address")?;
        let aws = Aws::new(&sandbox.endpoint(), REGION);
        let mut spec = ProviderSpec::new("chaos");
        spec.raw_delivery = plan.raw_delivery;
        spec.versioned = plan.versioned;
        // Messages are often retried in these runs, and SQS must not move them to the dead-letter queue for that.
        spec.max_receive_count = 1000;
        let provider = Provider::create(&aws, &spec).await?;
        let root = aws.account(&provider.account);
        let silent_bucket = format!("{}-silent", provider.bucket);
        root.create_bucket(&silent_bucket).await?;
        if plan.versioned {
            root.enable_versioning(&silent_bucket).await?;
        }
        if plan.quarantine {
            root.create_bucket(QUARANTINE).await?;
        }
        let mut tenants = Vec::new();
        for (number, tenant) in plan.tenants.iter().enumerate() {
            let mut deliveries = Vec::new();
            for (at, wanted) in [Some(Wanted::All), tenant.second].into_iter().enumerate() {
                let Some(wanted) = wanted else { continue };
                let account = format!("{:012}", 200_000_000_000 + 10 * number + at);
                let spec = CustomerSpec::new(&tenant_id(number));
                let customer = Customer::create(&aws, &account, &provider, spec).await?;
                let mut row = customer.row();
                let mut text = |name: &str, text: &str| {
                    row.insert(name.to_owned(), AttributeValue::S(text.to_owned()));
                };
                text("type", DELIVERIES[at]);
                if tenant.quarantines_oversize {
                    text("oversize", "quarantine");
                }
                if wanted == Wanted::Web {
                    row.insert("desired_logs".to_owned(), AttributeValue::Ss(vec!["web".to_owned()]));
                }
                provider.put_tenant(&aws, row).await?;
                deliveries.push((customer, wanted));
            }
            if tenant.has_bucket {
                let customer = &deliveries[0].0;
                let bucket = customers_bucket(number);
                customer.create_bucket(&aws, &provider, &bucket).await?;
                // Workers keep the newest version only if they may read the copies.
                customer.let_look(&aws, &provider, &bucket).await?;
                provider.put_tenant(&aws, customer.bucket_row(&bucket, false)).await?;
            }
            if let Some(format) = tenant.lake {
                let customer = &deliveries[0].0;
                let bucket = lakes_bucket(number);
                customer.create_bucket(&aws, &provider, &bucket).await?;
                customer.let_role_write_lake(&aws, &bucket).await?;
                let mut row = customer.bucket_row(&bucket, true);
                let format = match format {
                    LakeFormat::Ndjson => "ndjson",
                    LakeFormat::Parquet => "parquet",
                };
                for (name, text) in [("type", LAKE), ("format", format)] {
                    row.insert(name.to_owned(), AttributeValue::S(text.to_owned()));
                }
                provider.put_tenant(&aws, row).await?;
            }
            tenants.push(deliveries);
        }
        let start = Timestamp::now();
        let made = plan.objects.iter().enumerate();
        let made = made.map(|(number, object)| content::make(&object.content, number, start)).collect();
        sandbox.faults().seed(plan.seed);
        Ok(Self { sandbox, aws, provider, root, silent_bucket, tenants, made })
    }

    /// Environment of the workers: names of all resources, and short waiting times.
    pub(crate) async fn environment(
        &self,
        plan: &Plan,
        lease: Option<Duration>,
    ) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut environment = self.provider.worker_environment(&self.aws).await?;
        let Provider { account, bucket, .. } = &self.provider;
        let buckets = format!("{bucket}={account},{}={account}", self.silent_bucket);
        environment.extend([
            ("LOGFERRY_SOURCE__BUCKETS", buckets),
            ("LOGFERRY_QUEUE__WAIT_TIME", "1s".to_owned()),
            ("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", VISIBILITY.to_owned()),
            ("LOGFERRY_QUEUE__RETRY_DELAY", "1s".to_owned()),
            ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "2s".to_owned()),
            ("LOGFERRY_QUEUE__MAX_HIDDEN", plan.max_hidden.to_string()),
            ("LOGFERRY_TENANTS__CACHE_TTL", "1s".to_owned()),
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s".to_owned()),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "1s".to_owned()),
            ("LOGFERRY_WORKER__CONCURRENCY", plan.concurrency.to_string()),
            ("RETRY_ATTEMPTS", plan.attempts.to_string()),
        ]);
        if let Some(lease) = lease {
            environment.push(self.provider.ledger_variable());
            environment.push(("LOGFERRY_LEDGER__LEASE", format!("{}s", lease.as_secs())));
            environment.push(("LOGFERRY_LEDGER__MAX_CLOCK_SKEW", "1s".to_owned()));
        }
        if plan.quarantine {
            environment.push(("LOGFERRY_QUARANTINE__BUCKET", format!("{QUARANTINE}={account}")));
        }
        match plan.kind {
            Kind::NoLedger => {
                let patience = format!("{}s", Weather::OUT_OF_REACH.as_secs());
                environment.push(("LOGFERRY_LEDGER__OUT_OF_REACH_AFTER", patience));
            }
            Kind::Pauses => {
                let attempt = format!("{}s", Blow::SHORT_ATTEMPT.as_secs());
                environment.push(("LOGFERRY_DELIVERY__ATTEMPT_TIMEOUT", attempt));
            }
            Kind::Kills | Kind::Faults | Kind::LostAnswers | Kind::Outage => {}
        }
        Ok(environment)
    }

    /// Uploads objects, sends messages, and begins and ends faults and denials, each at its planned time, until the period
    /// ends. Returns the stored objects by number.
    pub(crate) async fn carry_out(
        &self,
        plan: &Plan,
        begun: Instant,
    ) -> anyhow::Result<HashMap<usize, Stored>> {
        let mut steps: Vec<(Duration, Step<'_>)> = Vec::new();
        steps.extend(
            plan.objects.iter().enumerate().map(|(number, object)| (object.at, Step::Upload(number))),
        );
        steps.extend(plan.messages.iter().map(|message| (message.at, Step::Send(message))));
        for (number, weather) in plan.weather.iter().enumerate() {
            steps.push((weather.from, Step::Begin(number)));
            steps.push((weather.to, Step::End(number)));
        }
        for Denial { tenant, from, to } in &plan.denials {
            steps.push((*from, Step::Deny(*tenant)));
            steps.push((*to, Step::Mend(*tenant)));
        }
        // The sort is stable, so an upload comes before a message of the same time.
        steps.sort_by_key(|(at, _)| *at);
        let (mut stored, mut faults) = (HashMap::new(), HashMap::new());
        for (at, step) in steps {
            tokio::time::sleep_until((begun + at).into()).await;
            match step {
                Step::Upload(number) => {
                    stored.insert(number, self.upload(plan, number).await?);
                }
                Step::Send(message) => self.send(message, &stored).await?,
                Step::Begin(number) => {
                    if plan.outage == Some(Outage::Sts) {
                        self.tenants
                            .iter()
                            .flatten()
                            .for_each(|(customer, _)| self.expire_sessions(customer));
                    }
                    let fault = plan.weather[number].fault.clone();
                    faults.insert(number, self.sandbox.faults().add(fault));
                }
                Step::End(number) => {
                    faults.remove(&number).into_iter().for_each(|id| self.sandbox.faults().remove(id));
                }
                Step::Deny(tenant) => {
                    for (customer, _) in &self.tenants[tenant] {
                        customer.allow(&self.aws, &self.provider, &[]).await?;
                        self.expire_sessions(customer);
                    }
                }
                Step::Mend(tenant) => {
                    for (customer, _) in &self.tenants[tenant] {
                        customer.allow(&self.aws, &self.provider, &[TrustAction::AssumeRole]).await?;
                    }
                }
            }
        }
        tokio::time::sleep_until((begun + plan.period).into()).await;
        Ok(stored)
    }

    fn expire_sessions(&self, customer: &Customer) {
        self.sandbox.expire_sessions(&customer.account);
    }

    async fn upload(&self, plan: &Plan, number: usize) -> anyhow::Result<Stored> {
        let object = &plan.objects[number];
        let bucket = if object.silent { &self.silent_bucket } else { &self.provider.bucket };
        let key = object_key(plan, number);
        let bytes = self.made[number].bytes.clone();
        let size = bytes.len();
        let put = self.root.s3().put_object().bucket(bucket).key(&key).body(bytes.into()).send();
        let put = put.await.context("cannot upload an object")?;
        let etag = put.e_tag.context("S3 returned no ETag")?.trim_matches('"').to_owned();
        let head = self.root.s3().head_object().bucket(bucket).key(&key);
        let head = head.set_version_id(put.version_id.clone()).send().await;
        let head = head.context("cannot look at an object")?;
        let modified = head.last_modified.context("S3 returned no Last-Modified")?.secs() * 1000;
        Ok(Stored {
            bucket: bucket.clone(),
            key,
            size,
            etag,
            version_id: put.version_id,
            sequencer: sequencer(),
            modified,
        })
    }

    /// Sends a message. For each number without a stored object, the message names an object that does not exist.
    pub(crate) async fn send(
        &self,
        message: &Message,
        stored: &HashMap<usize, Stored>,
    ) -> anyhow::Result<()> {
        let missing = Stored {
            bucket: self.provider.bucket.clone(),
            key: key(&tenant_id(0), "web", 0, MISSING),
            size: 10,
            etag: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            version_id: None,
            sequencer: sequencer(),
            modified: 0,
        };
        let objects: Vec<_> =
            message.objects.iter().map(|number| stored.get(number).unwrap_or(&missing)).collect();
        let Provider { account, queue_url, topic_arn, .. } = &self.provider;
        let body = match message.shape {
            Shape::Direct | Shape::Topic => s3_event(&objects, REGION).to_string(),
            Shape::EventBridge => eventbridge_event(objects[0], account, REGION).to_string(),
        };
        if message.shape == Shape::Topic {
            let publish = [("Action", "Publish"), ("TopicArn", topic_arn), ("Message", &body)];
            self.root.sns_query(&publish).await.context("cannot publish an event")?;
        } else {
            let send = self.root.sqs().send_message().queue_url(queue_url).message_body(body);
            send.send().await.context("cannot send a message")?;
        }
        Ok(())
    }

    /// Waits until the queue has no messages, neither visible nor hidden.
    pub(crate) async fn wait_until_done(&self, workers: &mut Workers) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            workers.check_run()?;
            let (visible, hidden) = self.root.queue_depth(&self.provider.queue_url).await?;
            let left = visible + hidden;
            if left == 0 {
                return Ok(());
            }
            ensure!(
                started.elapsed() < SETTLE,
                "the queue has {left} messages {SETTLE:?} after the last fault"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

enum Step<'a> {
    Upload(usize),
    Send(&'a Message),
    Begin(usize),
    End(usize),
    Deny(usize),
    Mend(usize),
}

/// Number in the key of an object that does not exist.
const MISSING: usize = 999_999;

fn tenant_id(number: usize) -> String {
    format!("tenant-{number}")
}

fn key(tenant: &str, application: &str, pod: usize, number: usize) -> String {
    format!("{tenant}/chaos-1/{application}/pod-{pod}/{number:06}.json")
}

/// Key of an object. A newer version has the key of the object that it replaces.
fn object_key(plan: &Plan, number: usize) -> String {
    let object = &plan.objects[number];
    if let Some(older) = object.replaces {
        return object_key(plan, older);
    }
    let mut key = key(&tenant_id(object.tenant), object.application, object.pod, number);
    if matches!(object.content.size, Size::Short(_)) {
        key.push_str(ONE_BATCH);
    }
    key
}

/// Sequencer in the format of the sandbox's S3, from the current time: larger than that of every earlier upload.
fn sequencer() -> String {
    format!("00{:016X}", Timestamp::now().as_microsecond())
}

fn lakes_bucket(tenant: usize) -> String {
    format!("chaos-{}-lake", tenant_id(tenant))
}

fn customers_bucket(tenant: usize) -> String {
    format!("chaos-{}-logs", tenant_id(tenant))
}
