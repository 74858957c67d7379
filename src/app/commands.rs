//! The parts that operators' commands need. Building them makes no call to AWS yet.

use std::time::Duration;

use jiff::SignedDuration;

use super::{
    EVERYTHING, addressing, central_role, clients::sqs_client, ledger, load_sdk, rows, s3_client,
    session_settings,
};
use crate::{
    breaker,
    config::{Config, Problem, Queue},
    copy::s3::S3Copier,
    credentials::{
        assumed::AssumedRole,
        customers::{self, Customers},
        identity::{Identity, WhoAmIError, clock_skew, identity},
    },
    ledger::dynamodb::DynamoDbLedger,
    name::bucket::OwnBucket,
    object::bucket::{self, BucketError},
    queue::sqs::{SqsQueue, dead_letters::SqsDeadLetters},
    sink::{cloudwatch::CloudWatchSinks, group_breaker::GroupBreakers},
    tenant::table::TenantRows,
    wiring::Wiring,
};

/// The value of a field that a command needs, and that `variable` sets too.
pub(super) fn required<T>(field: &str, variable: &str, value: Option<T>) -> Result<T, Problem> {
    let problem = || format!("is required; set it in the file or as {variable}");
    value.ok_or_else(|| Problem { field: field.to_owned(), problem: problem() })
}

/// The two queues of `logferry redrive`.
#[derive(Debug)]
pub struct RedriveQueues {
    /// The dead-letter queue, whose letters go back to the source queue.
    pub letters: SqsDeadLetters,
    /// The dead-letter queue, for its attributes.
    pub dead_letters: SqsQueue,
    /// URL of the source queue.
    pub source_url: String,
}

/// The queues for `logferry redrive`.
///
/// # Errors
/// There is no Region, or the configuration lacks one of the queues: a [`Problem`].
pub async fn redrive_queues(config: &Config) -> anyhow::Result<RedriveQueues> {
    let Queue { url, dead_letter_url, .. } = config.queue.clone();
    let source_url = required("queue.url", "SQS_QUEUE_URL", url)?;
    let dead_letter_url =
        required("queue.dead_letter_url", "LOGFERRY_QUEUE__DEAD_LETTER_URL", dead_letter_url)?;
    let client =
        sqs_client(config, &load_sdk(config, "redrive", &["queue.url", "queue.dead_letter_url"]).await?);
    let letters = SqsDeadLetters::new(client.clone(), dead_letter_url.clone(), source_url.clone());
    Ok(RedriveQueues { letters, dead_letters: SqsQueue::asking(client, dead_letter_url), source_url })
}

/// Everything that `logferry doctor` asks, built like the worker's parts.
#[derive(Debug)]
pub struct Instruments {
    /// The tenant table.
    pub rows: TenantRows,
    /// The ledger's table, if there is one.
    pub ledger: Option<DynamoDbLedger>,
    /// The central role, the first hop.
    pub central: AssumedRole,
    /// The customers' roles, the second hop.
    pub customers: Customers,
    /// The customers' CloudWatch Logs.
    pub sinks: CloudWatchSinks,
    /// Copies into customers' buckets.
    pub copier: S3Copier,
    /// How the provider's resources are connected.
    pub wiring: Wiring,
    sqs: aws_sdk_sqs::Client,
    sts: aws_sdk_sts::Client,
    s3: aws_sdk_s3::Client,
}

impl Instruments {
    /// The identity of our own credentials, before any role is assumed.
    ///
    /// # Errors
    /// There are no credentials, they are not valid, or STS does not answer.
    pub async fn identity(&self) -> Result<Identity, WhoAmIError> {
        identity(&self.sts).await
    }

    /// How far this host's clock is ahead of AWS's.
    ///
    /// # Errors
    /// There are no credentials, they are not valid, or STS does not answer.
    pub async fn clock_skew(&self) -> Result<Option<SignedDuration>, WhoAmIError> {
        clock_skew(&self.sts).await
    }

    /// A queue, to ask about.
    pub fn queue(&self, url: &str) -> SqsQueue {
        SqsQueue::asking(self.sqs.clone(), url.to_owned())
    }

    /// Checks that a bucket exists.
    ///
    /// # Errors
    /// See [`BucketError`].
    pub async fn bucket(&self, bucket: &OwnBucket) -> Result<(), BucketError> {
        bucket::probe(&self.s3, bucket).await
    }
}

/// Most attempts, and longest attempt, of the doctor's calls: an endpoint that never answers fails a condition within 12 s.
const ATTEMPTS: u32 = 2;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration, with the doctor's patience.
fn impatient(config: &Config) -> Config {
    let mut config = config.clone();
    let delivery = &mut config.delivery;
    delivery.attempts = delivery.attempts.min(ATTEMPTS);
    delivery.attempt_timeout = delivery.attempt_timeout.min(ATTEMPT_TIMEOUT);
    // The doctor makes no long poll.
    config.queue.wait_time = Duration::ZERO;
    config
}

/// Builds the instruments. Their calls wait for less time than the worker's.
///
/// # Errors
/// There is no Region, or the configuration has no table or no central role.
pub async fn instruments(config: &Config) -> anyhow::Result<Instruments> {
    let config = &impatient(config);
    let base = load_sdk(config, "doctor", &EVERYTHING).await?;
    let central = central_role(config, &base)?;
    let sessions = session_settings(config);
    let customers = Customers::new(&base, &central, sessions, customers::Metrics::default());
    let groups =
        GroupBreakers::new(sessions.probe_intervals, sessions.cache_capacity, breaker::Metrics::default());
    Ok(Instruments {
        rows: rows(config, &base)?,
        sqs: sqs_client(config, &base),
        sts: aws_sdk_sts::Client::from_conf(base.sts().build()),
        s3: s3_client(config, &base),
        wiring: Wiring::new(&base, s3_client(config, &base)),
        copier: S3Copier::new(&base, addressing(config), customers.clone(), central.clone()),
        sinks: CloudWatchSinks::new(&base, customers.clone(), groups, config.delivery.request_compression),
        customers,
        ledger: ledger(config, &base),
        central,
    })
}
