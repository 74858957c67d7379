//! Carries a plan out: sets everything up, lets it rain, waits until the queue is empty, compares.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use aws_sdk_sqs::types::QueueAttributeName;
use jiff::Timestamp;
use logferry_sandbox::{
    Sandbox,
    provision::{Account, Aws, Customer, CustomerSpec, Provider, ProviderSpec},
};

use crate::{
    comparison::{Lane, compare},
    content::{self, Damage, Made, Size},
    notice::{Shape, Stored, eventbridge_event, s3_event},
    outcome::Outcome,
    plan::{Message, ONE_BATCH, Outage, Plan, Wanted},
    workers::Workers,
};

const REGION: &str = "us-east-1";
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long everything that is left may take once the faults have ended: a killed worker's messages are hidden for ten
/// seconds, and refused roles are asked for again every second.
const SETTLE: Duration = Duration::from_secs(120);
/// The shortest that there may be: what a killed worker had comes back after it.
const VISIBILITY: &str = "10s";

/// What is under test.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The worker's program.
    pub program: &'a Path,
    /// The lease of the ledger; without one there is no ledger.
    pub lease: Option<Duration>,
}

/// Carries the plan out in a sandbox of its own.
///
/// # Errors
/// It could not be carried out; what is wrong with the workers is in the [`Outcome`].
pub async fn run(plan: &Plan, setting: Setting<'_>) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let stage = Stage::set_up(plan).await?;
    let folder = env::temp_dir().join(format!("logferry-chaos-{}-{:08x}", plan.seed, fastrand::u32(..)));
    let environment = stage.environment(plan, setting.lease).await?;
    let mut workers = Workers::start(setting.program, environment, folder, plan.workers)?;
    let mut problems = Vec::new();

    let begun = Instant::now();
    let timeline = async {
        let rained = stage.carry_out(plan, begun).await;
        // Whatever happened, from here on it is to be quiet.
        stage.sandbox.faults().clear();
        rained
    };
    let befall = async {
        workers.kill(&plan.kills, &stage.sandbox, begun).await?;
        match plan.outage {
            Some(outage) => workers.watch(outage, begun).await,
            None => Ok(Vec::new()),
        }
    };
    let (stored, befallen) = tokio::join!(timeline, befall);
    let stored = stored?;
    match befallen {
        Ok(missing) => problems.extend(missing),
        Err(error) => problems.push(format!("{error:#}")),
    }
    let settled = async {
        stage.wait_until_done(&mut workers).await?;
        if plan.outage.is_some() {
            workers.ready().await?;
        }
        for message in &plan.late {
            stage.send(message, &stored).await?;
        }
        stage.wait_until_done(&mut workers).await
    };
    if let Err(error) = settled.await {
        problems.push(format!("{error:#}"));
    }
    let unaccounted = match workers.unaccounted().await {
        Ok(count) => count,
        Err(error) => {
            problems.push(format!("{error:#}"));
            0
        }
    };
    if let Err(error) = workers.stop().await {
        problems.push(format!("{error:#}"));
    }
    let confessions = workers.confessions()?;
    problems.extend(confessions.defects);

    let letters = stage.dead_letters().await?;
    stage.judge_letters(plan, &letters, &stored, &mut problems);
    let comparison = compare(&stage.lanes(plan), &stage.sandbox.puts());
    let faults = stage.sandbox.faults().struck();
    let lost = |fault: &&str| matches!(*fault, "logs:PutLogEvents after" | "logs:PutLogEvents half_body");
    let messages =
        plan.objects.iter().filter(|object| !object.silent).count() + plan.messages.len() + plan.late.len();
    let again = plan.messages.iter().filter(|message| message.again).count() + plan.late.len();
    let outcome = Outcome {
        kind: plan.kind,
        ledger: setting.lease.is_some(),
        took: started.elapsed(),
        kills: workers.kills,
        lost_answers: faults.iter().filter(|(name, _)| lost(&name.as_str())).map(|(_, count)| count).sum(),
        faults,
        objects: plan.objects.len() as u64,
        records: stage.made.iter().map(|made| made.records as u64).sum(),
        messages: messages as u64,
        again: again as u64,
        dead_letters: letters.len() as u64,
        unaccounted,
        without_ledger: confessions.without_ledger,
        comparison,
        problems,
    };
    match outcome.complaints().is_empty() {
        true => fs::remove_dir_all(workers.folder()).context("cannot remove the workers' logs")?,
        false => eprintln!("seed {}: the workers' logs are in {}", plan.seed, workers.folder().display()),
    }
    Ok(outcome)
}

/// Everything but the workers.
struct Stage {
    sandbox: Sandbox,
    aws: Aws,
    provider: Provider,
    root: Account,
    /// Tells nobody of its objects.
    silent_bucket: String,
    /// Each tenant's deliveries: where to, and what of.
    tenants: Vec<Vec<(Customer, Wanted)>>,
    made: Vec<Made>,
}

/// What a dead letter says.
struct Letter {
    reason: String,
    /// Of the first object that is to blame.
    key: String,
    record_offset: Option<usize>,
    /// How many things are wrong.
    failures: usize,
    body: String,
}

impl Stage {
    async fn set_up(plan: &Plan) -> anyhow::Result<Self> {
        let sandbox = Sandbox::start().await.context("no port can be had on the loopback address")?;
        let aws = Aws::new(&sandbox.endpoint(), REGION);
        let mut spec = ProviderSpec::new("chaos");
        spec.raw_delivery = plan.raw_delivery;
        spec.versioned = plan.versioned;
        // Retries are many here, and no number of them makes a message hopeless.
        spec.max_receive_count = 1000;
        let provider = Provider::create(&aws, &spec).await?;
        let root = aws.account(&provider.account);
        let silent_bucket = format!("{}-silent", provider.bucket);
        let s3 = root.s3();
        s3.create_bucket().bucket(&silent_bucket).send().await.context("cannot create a bucket")?;
        if plan.versioned {
            let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
            let put = s3.put_bucket_versioning().bucket(&silent_bucket).versioning_configuration(enabled);
            put.send().await.context("cannot switch versioning on")?;
        }
        let mut tenants = Vec::new();
        for (number, second) in plan.tenants.iter().enumerate() {
            let mut deliveries = Vec::new();
            for (at, wanted) in [Some(Wanted::All), *second].into_iter().enumerate() {
                let Some(wanted) = wanted else { continue };
                let account = format!("{:012}", 200_000_000_000 + 10 * number + at);
                let spec = CustomerSpec::new(&tenant_id(number));
                let customer = Customer::create(&aws, &account, &provider, spec).await?;
                let mut row = customer.row();
                if at > 0 {
                    row.insert("type".to_owned(), AttributeValue::S("cloudwatch#second".to_owned()));
                }
                if wanted == Wanted::Web {
                    row.insert("desired_logs".to_owned(), AttributeValue::Ss(vec!["web".to_owned()]));
                }
                provider.put_tenant(&aws, row).await?;
                deliveries.push((customer, wanted));
            }
            tenants.push(deliveries);
        }
        let start = Timestamp::now();
        let made = plan.objects.iter().enumerate();
        let made = made.map(|(number, object)| content::make(&object.content, number, start)).collect();
        sandbox.faults().seed(plan.seed);
        Ok(Self { sandbox, aws, provider, root, silent_bucket, tenants, made })
    }

    async fn environment(
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
            ("LOGFERRY_TENANTS__CACHE_TTL", "1s".to_owned()),
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s".to_owned()),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "1s".to_owned()),
            ("LOGFERRY_WORKER__CONCURRENCY", plan.concurrency.to_string()),
            ("RETRY_ATTEMPTS", plan.attempts.to_string()),
        ]);
        if let Some(lease) = lease {
            environment.push(self.provider.ledger_variable());
            environment.push(("LOGFERRY_LEDGER__LEASE", format!("{}s", lease.as_secs())));
            // One machine has one clock.
            environment.push(("LOGFERRY_LEDGER__MAX_CLOCK_SKEW", "1s".to_owned()));
        }
        Ok(environment)
    }

    /// Uploads, tells, and changes the weather, each at its time; ends with the period. Answers with what is stored.
    async fn carry_out(&self, plan: &Plan, begun: Instant) -> anyhow::Result<HashMap<usize, Stored>> {
        let mut steps: Vec<(Duration, Step<'_>)> = Vec::new();
        steps.extend(
            plan.objects.iter().enumerate().map(|(number, object)| (object.at, Step::Upload(number))),
        );
        steps.extend(plan.messages.iter().map(|message| (message.at, Step::Send(message))));
        for (number, weather) in plan.weather.iter().enumerate() {
            steps.push((weather.from, Step::Begin(number)));
            steps.push((weather.to, Step::End(number)));
        }
        // Stable: what is uploaded is there before anybody is told.
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
                        let customers = self.tenants.iter().flatten();
                        customers.for_each(|(customer, _)| self.sandbox.expire_sessions(&customer.account));
                    }
                    let fault = plan.weather[number].fault.clone();
                    faults.insert(number, self.sandbox.faults().add(fault));
                }
                Step::End(number) => {
                    faults.remove(&number).into_iter().for_each(|id| self.sandbox.faults().remove(id));
                }
            }
        }
        tokio::time::sleep_until((begun + plan.period).into()).await;
        Ok(stored)
    }

    async fn upload(&self, plan: &Plan, number: usize) -> anyhow::Result<Stored> {
        let object = &plan.objects[number];
        let bucket = if object.silent { &self.silent_bucket } else { &self.provider.bucket };
        let mut key = key(&tenant_id(object.tenant), object.application, object.pod, number);
        if matches!(object.content.size, Size::Short(_)) {
            key.push_str(ONE_BATCH);
        }
        let bytes = self.made[number].bytes.clone();
        let size = bytes.len();
        let put = self.root.s3().put_object().bucket(bucket).key(&key).body(bytes.into()).send();
        let put = put.await.context("cannot upload an object")?;
        let etag = put.e_tag.context("S3 names no eTag")?.trim_matches('"').to_owned();
        Ok(Stored { bucket: bucket.clone(), key, size, etag, version_id: put.version_id })
    }

    async fn send(&self, message: &Message, stored: &HashMap<usize, Stored>) -> anyhow::Result<()> {
        let missing = Stored {
            bucket: self.provider.bucket.clone(),
            key: key(&tenant_id(0), "web", 0, MISSING),
            size: 10,
            etag: "d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            version_id: None,
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

    /// Waits until no message is left, neither visible nor hidden.
    async fn wait_until_done(&self, workers: &mut Workers) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            workers.check_run()?;
            let left = self.left().await?;
            if left == 0 {
                return Ok(());
            }
            ensure!(started.elapsed() < SETTLE, "{left} messages are left {SETTLE:?} after the last fault");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn left(&self) -> anyhow::Result<u64> {
        use QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        };
        let states = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesDelayed,
            ApproximateNumberOfMessagesNotVisible,
        ];
        let get = self.root.sqs().get_queue_attributes().queue_url(&self.provider.queue_url);
        let got = get.set_attribute_names(Some(states.into())).send().await;
        let attributes = got.context("cannot read the queue's attributes")?.attributes.unwrap_or_default();
        ensure!(attributes.len() == 3, "the queue does not tell its length");
        let counts = attributes.values().map(|text| text.parse::<u64>());
        counts.sum::<Result<u64, _>>().context("the queue does not tell its length")
    }

    /// Takes all dead letters.
    async fn dead_letters(&self) -> anyhow::Result<Vec<Letter>> {
        let (sqs, mut letters) = (self.root.sqs(), Vec::new());
        loop {
            let receive = sqs.receive_message().queue_url(&self.provider.dead_letter_url);
            let receive = receive.max_number_of_messages(10).message_attribute_names("All");
            let got = receive.send().await.context("cannot read the dead-letter queue")?;
            let messages = got.messages.unwrap_or_default();
            if messages.is_empty() {
                return Ok(letters);
            }
            letters.extend(messages.into_iter().map(|message| {
                let mut attributes = message.message_attributes.unwrap_or_default();
                let mut take = |name: &str| attributes.remove(name).and_then(|value| value.string_value);
                Letter {
                    reason: take("reason").unwrap_or_else(|| "none: SQS itself moved it".to_owned()),
                    key: take("key").unwrap_or_default(),
                    record_offset: take("record_offset").and_then(|offset| offset.parse().ok()),
                    failures: take("failures").and_then(|count| count.parse().ok()).unwrap_or_default(),
                    body: message.body.unwrap_or_default(),
                }
            }));
        }
    }

    /// Checks that there are letters about what is damaged or missing and about nothing else.
    fn judge_letters(
        &self,
        plan: &Plan,
        letters: &[Letter],
        stored: &HashMap<usize, Stored>,
        problems: &mut Vec<String>,
    ) {
        let mut by_key: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
        for letter in letters {
            by_key.entry(&letter.key).or_default().push(letter);
        }
        let missing = key(&tenant_id(0), "web", 0, MISSING);
        let asked_for = plan.messages.iter().any(|message| message.objects.contains(&plan.objects.len()));
        let about = by_key.remove(missing.as_str()).unwrap_or_default();
        if about.is_empty() == asked_for || about.iter().any(|letter| letter.reason != "object_missing") {
            problems.push(format!("{} dead letters about a missing object", about.len()));
        }
        for (number, object) in plan.objects.iter().enumerate() {
            let key = stored.get(&number).map(|stored| stored.key.as_str()).unwrap_or_default();
            if object.content.damage == Damage::Whole {
                continue;
            }
            let readable = self.made[number].readable;
            let about = by_key.remove(key).unwrap_or_default();
            let right = |letter: &&Letter| {
                letter.reason == "corrupt_object" && letter.record_offset == Some(readable)
            };
            if !about.iter().all(right) {
                let offsets: Vec<_> =
                    about.iter().map(|letter| (letter.reason.as_str(), letter.record_offset)).collect();
                problems.push(format!(
                    "{key} is damaged behind {readable} records: dead letters say {offsets:?}"
                ));
            }
            // A message of several objects names the first that is to blame, and counts the others.
            let beside = |letter: &Letter| letter.failures > 1 && letter.body.contains(key);
            if about.is_empty() && !letters.iter().any(beside) {
                problems.push(format!("{key} is damaged and no dead letter is about it"));
            }
        }
        for (key, letters) in by_key {
            let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
            problems.push(format!("dead letters that should not be: {key} {reasons:?}"));
        }
    }

    fn lanes(&self, plan: &Plan) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (number, object) in plan.objects.iter().enumerate() {
            for (customer, wanted) in &self.tenants[object.tenant] {
                if *wanted == Wanted::Web && object.application != "web" {
                    continue;
                }
                lanes.push(Lane {
                    name: format!("object {number} for {}", customer.account),
                    account: customer.account.clone(),
                    log_group: customer.log_group.clone(),
                    stream: format!("{}-pod-{}-", object.application, object.pod),
                    events: self.made[number].events.clone(),
                    readable: self.made[number].readable,
                });
            }
        }
        lanes
    }
}

enum Step<'a> {
    Upload(usize),
    Send(&'a Message),
    Begin(usize),
    End(usize),
}

/// The number in the key of an object that is not there.
const MISSING: usize = 999_999;

fn tenant_id(number: usize) -> String {
    format!("tenant-{number}")
}

fn key(tenant: &str, application: &str, pod: usize, number: usize) -> String {
    format!("{tenant}/chaos-1/{application}/pod-{pod}/{number:06}.json")
}
