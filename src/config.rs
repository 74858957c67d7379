//! The configuration: plain data, its defaults, and every rule it must keep.
//!
//! Each field's comment is its reference; `config/logferry.toml` shows them all with their defaults. Where a value
//! comes from is the business of [`layers`]; making live parts of it is the business of `app`.

pub mod layers;

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::{credentials::RoleArn, route::KeyLayout, tenant::region};

/// SQS accepts at most 12 hours. Source: SQS API reference, ChangeMessageVisibility.
pub const MAX_VISIBILITY: Duration = Duration::from_secs(43_200);
/// SQS holds a long poll for at most 20 seconds. Source: SQS API reference, ReceiveMessage.
const MAX_WAIT: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Everything that an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The AWS account and Region that we run in.
    pub aws: Aws,
    /// The queue that S3's notifications reach.
    pub queue: Queue,
    /// The staging bucket's objects.
    pub source: Source,
    /// Where tenants are looked up.
    pub tenants: Tenants,
    /// The way into the customers' accounts.
    pub credentials: Credentials,
    /// Calls to AWS.
    pub delivery: Delivery,
    /// What one tenant may hold of the worker.
    pub fairness: Fairness,
    /// Concurrency and shutdown.
    pub worker: Worker,
    /// Health and metrics.
    pub http: Http,
    /// Logs of logferry itself.
    pub log: Log,
}

/// The AWS account and Region that we run in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// Region of the queue, the bucket and the table. Default: what the SDK finds (`AWS_REGION`, profile, instance).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Path-style S3 addresses, for endpoints that know no other (`AWS_S3_USE_PATH_STYLE`).
    pub s3_use_path_style: bool,
}

/// The queue that S3's notifications reach.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// URL of the SQS queue. Required by `worker` (`SQS_QUEUE_URL`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// URL of the dead-letter queue for messages that no retry can help. Without one they stay in the queue until
    /// its own redrive policy takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_url: Option<String>,
    /// Most messages of one ReceiveMessage, 1 to 10 (`MAX_BATCH_SIZE`).
    pub max_messages: u32,
    /// Long poll, 1 to 20 s.
    #[serde(with = "friendly")]
    pub wait_time: Duration,
    /// How long a received message stays hidden before its first extension, 10 s to 12 h. It is extended at half of
    /// it for as long as the message is worked on.
    #[serde(with = "friendly")]
    pub visibility_timeout: Duration,
    /// First delay of a message that must be tried again; doubles with each receive.
    #[serde(with = "friendly")]
    pub retry_delay: Duration,
    /// Longest such delay, up to 12 h.
    #[serde(with = "friendly")]
    pub max_retry_delay: Duration,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            url: None,
            dead_letter_url: None,
            max_messages: 10,
            wait_time: MAX_WAIT,
            visibility_timeout: Duration::from_secs(120),
            retry_delay: Duration::from_secs(15),
            max_retry_delay: Duration::from_secs(900),
        }
    }
}

/// The staging bucket's objects.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// Buckets that may be read, `NAME` or `NAME=OWNER` with the owner's account id. Empty: any bucket, with a
    /// warning at start-up.
    pub buckets: Vec<String>,
    /// What an object key's segments name. `{tenant}` and `{file}` are required, the others are `{cluster}`,
    /// `{application}`, `{pod}`; anything else is a literal. `{file}` comes last.
    pub key_layout: String,
    /// Longest single record, decompressed.
    pub max_record: ByteSize,
    /// Most decompressed bytes of one object: what stops a gzip bomb.
    pub max_object: ByteSize,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
            key_layout: KeyLayout::DEFAULT.to_owned(),
            max_record: ByteSize::mib(16),
            max_object: ByteSize::mib(1536),
        }
    }
}

/// Where tenants are looked up.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// DynamoDB table, key `tenant_id` + `type` (`TENANT_CONFIG_TABLE`). Required by `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How long a looked-up tenant, or its absence, is believed.
    #[serde(with = "friendly")]
    pub cache_ttl: Duration,
    /// Most tenants remembered.
    pub cache_capacity: u64,
    /// What becomes of an object whose tenant has no row: `dead-letter` or `discard`.
    pub unknown: UnknownTenant,
}

impl Default for Tenants {
    fn default() -> Self {
        Self {
            table: None,
            cache_ttl: Duration::from_secs(300),
            cache_capacity: 20_000,
            unknown: UnknownTenant::DeadLetter,
        }
    }
}

/// What becomes of an object whose tenant has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownTenant {
    /// The message goes to the dead-letter queue.
    DeadLetter,
    /// The message is acknowledged and counted.
    Discard,
}

/// The way into the customers' accounts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// The first hop, in the provider's account (`CENTRAL_LOG_DISTRIBUTION_ROLE_ARN`). Required by `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub central_role_arn: Option<String>,
    /// Life of an assumed role's session, 15 min to 1 h (the limit of role chaining).
    #[serde(with = "friendly")]
    pub session_duration: Duration,
    /// How long before their end credentials are renewed; up to a quarter more is added by chance, so that tenants
    /// do not renew together.
    #[serde(with = "friendly")]
    pub refresh_before: Duration,
    /// Most customer sessions remembered, about 24 KiB each.
    pub cache_capacity: u64,
    /// How long a customer's role that STS refused is left alone, 1 s to 12 h; up to a quarter more is added by chance, and it
    /// doubles with each probe that is refused too. The default: changes of IAM take effect within seconds to minutes.
    #[serde(with = "friendly")]
    pub probe_interval: Duration,
    /// Longest such interval, up to 12 h. The default is that of `queue.max_retry_delay`: no message comes back later.
    #[serde(with = "friendly")]
    pub max_probe_interval: Duration,
}

impl Default for Credentials {
    fn default() -> Self {
        Self {
            central_role_arn: None,
            session_duration: Duration::from_secs(3600),
            refresh_before: Duration::from_secs(300),
            cache_capacity: 4_000,
            probe_interval: Duration::from_secs(30),
            max_probe_interval: Duration::from_secs(900),
        }
    }
}

/// Calls to AWS.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// Attempts of one AWS call by the SDK, 1 to 10, with jittered backoff in between (`RETRY_ATTEMPTS`).
    pub attempts: u32,
    /// Longest single attempt of an AWS call, 1 s to 10 min; a long poll has its wait on top.
    #[serde(with = "friendly")]
    pub attempt_timeout: Duration,
    /// How PutLogEvents bodies travel: "none", or "gzip", which halves them on the wire and costs the worker about a third
    /// more CPU. CloudWatch Logs bills and limits the uncompressed size either way.
    pub request_compression: RequestCompression,
    /// PutLogEvents requests per second that one worker sends into one account and Region, at least 1. The default is the lowest
    /// quota that AWS has published for a Region; it is shared by all workers, and by the customer.
    pub put_rate: u32,
    /// CreateLogStream requests per second likewise; the default is AWS's quota.
    pub create_stream_rate: u32,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            attempts: 4,
            attempt_timeout: Duration::from_secs(30),
            request_compression: RequestCompression::None,
            put_rate: 800,
            create_stream_rate: 50,
        }
    }
}

/// How a request's body travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestCompression {
    /// As it is.
    None,
    /// In gzip, level 1.
    Gzip,
}

/// What one tenant may hold of the worker. Without a cap a tenant may hold as many slots as are free, and one that nobody else
/// is active beside may take all of them; what it may not goes back to the queue until its turn comes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fairness {
    /// Most objects of one tenant that a worker works on at once, at least 1. Default: no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_objects: Option<usize>,
    /// Most stored bytes of one tenant's objects that a worker works on at once; a larger object is worked on alone.
    /// Default: no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

/// Concurrency and shutdown.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Messages worked on at once, 1 to 1024. Memory grows with it: see ARCHITECTURE.md.
    pub concurrency: usize,
    /// From SIGTERM to exit, 1 s to 1 h: what is running may finish within it; the rest goes back to the queue. Keep it under
    /// the orchestrator's own (`terminationGracePeriodSeconds`, `stopTimeout`).
    #[serde(with = "friendly")]
    pub grace_period: Duration,
}

impl Default for Worker {
    fn default() -> Self {
        Self { concurrency: 16, grace_period: Duration::from_secs(45) }
    }
}

/// Health and metrics.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of `/healthz`, `/readyz` and `/metrics`; port 0 lets the system choose and the log tell.
    pub listen: SocketAddr,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 8080)) }
    }
}

/// Logs of logferry itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or a level per target (`warn,logferry=debug`).
    pub filter: String,
    /// `json` for machines, `text` for people.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Json }
    }
}

/// The form of logferry's own log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// One readable line.
    Text,
}

/// One broken rule: the field as the file spells it, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Problem {
    /// Dotted path of the field, `queue.url`.
    pub field: String,
    /// What is wrong with its value and what would be right.
    pub problem: String,
}

impl Config {
    /// Finds every broken rule at once; an empty list means that `worker` can start with this.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::default();
        if let Some(Err(problem)) = self.aws.region.as_deref().map(region) {
            check.problem("aws.region", problem);
        }
        self.validate_queue(&mut check);
        self.validate_source(&mut check);
        self.validate_credentials(&mut check);
        check.required("tenants.table", self.tenants.table.as_deref(), "TENANT_CONFIG_TABLE");
        check.that("tenants.cache_capacity", self.tenants.cache_capacity > 0, || "must be at least 1".into());
        check.that("delivery.attempts", (1..=10).contains(&self.delivery.attempts), || {
            format!("{} is not within 1 to 10", self.delivery.attempts)
        });
        for (field, rate) in [
            ("delivery.put_rate", self.delivery.put_rate),
            ("delivery.create_stream_rate", self.delivery.create_stream_rate),
        ] {
            check.that(field, rate > 0, || "must be at least 1".into());
        }
        check.that("fairness.max_objects", self.fairness.max_objects != Some(0), || {
            "must be at least 1".into()
        });
        let no_bytes = Some(ByteSize::b(0));
        check.that("fairness.max_bytes", self.fairness.max_bytes != no_bytes, || {
            "must be at least 1 B".into()
        });
        check.within("tenants.cache_ttl", self.tenants.cache_ttl, SECOND..=DAY);
        check.within("delivery.attempt_timeout", self.delivery.attempt_timeout, SECOND..=10 * MINUTE);
        let shortest_grace = self.queue.wait_time.saturating_add(4 * SECOND);
        check.within("worker.grace_period", self.worker.grace_period, SECOND..=60 * MINUTE);
        check.that("worker.grace_period", self.worker.grace_period >= shortest_grace, || {
            // Or our own last poll could take along what we give back.
            format!("must be at least 4 s longer than queue.wait_time, {shortest_grace:?}")
        });
        self.validate_log(&mut check);
        check.that("worker.concurrency", (1..=1024).contains(&self.worker.concurrency), || {
            format!("{} is not within 1 to 1024", self.worker.concurrency)
        });
        check.problems
    }

    fn validate_log(&self, check: &mut Check) {
        if let Err(error) = self.log.filter.parse::<Targets>() {
            check.problem("log.filter", error.to_string());
        }
        // A word alone would be a target with every level: "debgu" would silence everything else.
        let alone = self.log.filter.split(',').filter(|part| !part.contains('='));
        for word in alone.filter(|word| word.trim().parse::<LevelFilter>().is_err()) {
            check.problem(
                "log.filter",
                format!("{word:?} is no level (error, warn, info, debug, trace, off)"),
            );
        }
    }

    fn validate_queue(&self, check: &mut Check) {
        let queue = &self.queue;
        if check.required("queue.url", queue.url.as_deref(), "SQS_QUEUE_URL") {
            check.url("queue.url", queue.url.as_deref().unwrap_or_default());
        }
        if let Some(url) = &queue.dead_letter_url {
            check.url("queue.dead_letter_url", url);
            check.that("queue.dead_letter_url", queue.url.as_ref() != Some(url), || {
                "must not be the same as queue.url, or a dead letter would come straight back".into()
            });
        }
        check.that("queue.max_messages", (1..=10).contains(&queue.max_messages), || {
            format!("{} is not within 1 to 10, which is what ReceiveMessage takes", queue.max_messages)
        });
        check.within("queue.wait_time", queue.wait_time, SECOND..=MAX_WAIT);
        check.within("queue.visibility_timeout", queue.visibility_timeout, 10 * SECOND..=MAX_VISIBILITY);
        check.within("queue.max_retry_delay", queue.max_retry_delay, SECOND..=MAX_VISIBILITY);
        check.that(
            "queue.retry_delay",
            (SECOND..=queue.max_retry_delay).contains(&queue.retry_delay),
            || format!("{:?} is not within 1s to queue.max_retry_delay", queue.retry_delay),
        );
    }

    fn validate_source(&self, check: &mut Check) {
        if let Err(error) = KeyLayout::parse(&self.source.key_layout) {
            check.problem("source.key_layout", error.to_string());
        }
        for bucket in &self.source.buckets {
            if let Err(problem) = bucket.parse::<SourceBucket>() {
                check.problem("source.buckets", problem);
            }
        }
        let (record, object) = (self.source.max_record, self.source.max_object);
        check.that("source.max_record", record >= ByteSize::mib(1), || {
            format!("{record} is less than 1 MiB, the size that one event may have")
        });
        check.that("source.max_record", record <= ByteSize::mib(256), || {
            format!("{record} is more than 256 MiB; each slot of worker.concurrency may hold that much")
        });
        check
            .that("source.max_object", object >= record, || "must not be less than source.max_record".into());
    }

    fn validate_credentials(&self, check: &mut Check) {
        let credentials = &self.credentials;
        let field = "credentials.central_role_arn";
        if check.required(field, credentials.central_role_arn.as_deref(), "CENTRAL_LOG_DISTRIBUTION_ROLE_ARN")
            && let Err(error) = credentials.central_role_arn.as_deref().unwrap_or_default().parse::<RoleArn>()
        {
            check.problem(field, error.to_string());
        }
        check.within("credentials.session_duration", credentials.session_duration, 15 * MINUTE..=60 * MINUTE);
        check.that(
            "credentials.refresh_before",
            credentials.refresh_before <= credentials.session_duration / 2,
            || "must be at most half of credentials.session_duration".into(),
        );
        check.that("credentials.cache_capacity", credentials.cache_capacity > 0, || {
            "must be at least 1".into()
        });
        let (probe, longest) = (credentials.probe_interval, credentials.max_probe_interval);
        check.within("credentials.max_probe_interval", longest, SECOND..=MAX_VISIBILITY);
        check.that("credentials.probe_interval", (SECOND..=longest).contains(&probe), || {
            format!("{probe:?} is not within 1s to credentials.max_probe_interval")
        });
    }
}

/// One entry of `source.buckets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceBucket {
    /// The bucket's name.
    pub name: String,
    /// The account that must own it, sent as ExpectedBucketOwner.
    pub owner: Option<String>,
}

impl std::str::FromStr for SourceBucket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, owner) = match text.split_once('=') {
            Some((name, owner)) => (name, Some(owner)),
            None => (text, None),
        };
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        if !(3..=63).contains(&name.len()) || !name.chars().all(legal) {
            return Err(format!(
                "{text:?} is not NAME or NAME=OWNER with a bucket name of 3 to 63 of [a-z0-9.-_]"
            ));
        }
        if let Some(owner) = owner
            && (owner.len() != 12 || !owner.bytes().all(|byte| byte.is_ascii_digit()))
        {
            return Err(format!("{text:?} names the owner {owner:?}, which is not a 12-digit account id"));
        }
        Ok(Self { name: name.to_owned(), owner: owner.map(str::to_owned) })
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, field: &str, problem: String) {
        self.problems.push(Problem { field: field.to_owned(), problem });
    }

    fn that(&mut self, field: &str, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problem(field, problem());
        }
    }

    fn required(&mut self, field: &str, value: Option<&str>, variable: &str) -> bool {
        let given = value.is_some_and(|value| !value.is_empty());
        self.that(field, given, || format!("is required; set it in the file or as {variable}"));
        given
    }

    fn url(&mut self, field: &str, url: &str) {
        let legal =
            (url.starts_with("https://") || url.starts_with("http://")) && !url.contains(char::is_whitespace);
        self.that(field, legal, || format!("{url:?} is not an https:// or http:// URL"));
    }

    fn within(&mut self, field: &str, value: Duration, range: RangeInclusive<Duration>) {
        self.that(field, range.contains(&value), || {
            format!("{value:?} is not within {:?} to {:?}", range.start(), range.end())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Config {
        let mut config = Config::default();
        config.queue.url = Some("https://sqs.us-east-1.amazonaws.com/111111111111/logs".into());
        config.tenants.table = Some("tenants".into());
        config.credentials.central_role_arn = Some("arn:aws:iam::111111111111:role/central".into());
        config
    }

    fn check(change: impl FnOnce(&mut Config), fields: &[&str]) {
        let mut config = complete();
        change(&mut config);
        let found: Vec<_> = config.validate().into_iter().map(|problem| problem.field).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn defaults_lack_only_what_nobody_can_guess() {
        let fields: Vec<_> = Config::default().validate().into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["queue.url", "credentials.central_role_arn", "tenants.table"]);
        check(|_| (), &[]);
    }

    #[test]
    fn every_broken_rule_is_named() {
        check(|c| c.aws.region = Some(String::new()), &["aws.region"]);
        check(|c| c.queue.url = Some("logs".into()), &["queue.url"]);
        check(|c| c.queue.dead_letter_url = c.queue.url.clone(), &["queue.dead_letter_url"]);
        check(|c| c.queue.max_messages = 11, &["queue.max_messages"]);
        check(|c| c.queue.wait_time = Duration::from_secs(21), &["queue.wait_time"]);
        check(|c| c.queue.visibility_timeout = Duration::from_secs(1), &["queue.visibility_timeout"]);
        check(|c| c.queue.retry_delay = Duration::from_secs(1000), &["queue.retry_delay"]);
        check(|c| c.source.key_layout = "{tenant}".into(), &["source.key_layout"]);
        check(|c| c.source.buckets = vec!["Bad Bucket".into(), "ok-bucket=1".into()], &["source.buckets"; 2]);
        check(|c| c.source.max_record = ByteSize::kib(1), &["source.max_record"]);
        check(|c| c.source.max_object = ByteSize::mib(2), &["source.max_object"]);
        check(|c| c.credentials.central_role_arn = Some("central".into()), &["credentials.central_role_arn"]);
        check(
            |c| c.credentials.session_duration = Duration::from_secs(7200),
            &["credentials.session_duration"],
        );
        check(|c| c.credentials.refresh_before = Duration::from_secs(3000), &["credentials.refresh_before"]);
        check(|c| c.credentials.probe_interval = Duration::ZERO, &["credentials.probe_interval"]);
        check(|c| c.credentials.probe_interval = Duration::from_secs(901), &["credentials.probe_interval"]);
        check(|c| c.credentials.max_probe_interval = Duration::MAX, &["credentials.max_probe_interval"]);
        check(|c| c.delivery.attempts = 0, &["delivery.attempts"]);
        check(|c| c.delivery.put_rate = 0, &["delivery.put_rate"]);
        check(|c| c.delivery.create_stream_rate = 0, &["delivery.create_stream_rate"]);
        check(|c| c.fairness.max_objects = Some(0), &["fairness.max_objects"]);
        check(|c| c.fairness.max_bytes = Some(ByteSize::b(0)), &["fairness.max_bytes"]);
        check(|c| c.worker.concurrency = 0, &["worker.concurrency"]);
        check(|c| c.worker.grace_period = Duration::from_secs(20), &["worker.grace_period"]);
        check(|c| c.log.filter = "loud".into(), &["log.filter"]);
        check(|c| c.log.filter = "warn,logferry=loud".into(), &["log.filter"]);
        check(|c| c.log.filter = "warn,logferry=debug".into(), &[]);
        check(|c| c.queue.retry_delay = Duration::ZERO, &["queue.retry_delay"]);
        for absurd in [Duration::ZERO, Duration::MAX] {
            check(|c| c.tenants.cache_ttl = absurd, &["tenants.cache_ttl"]);
            check(|c| c.worker.grace_period = absurd, {
                let both = &["worker.grace_period", "worker.grace_period"];
                if absurd.is_zero() { both } else { &both[..1] }
            });
            check(|c| c.delivery.attempt_timeout = absurd, &["delivery.attempt_timeout"]);
            check(|c| c.credentials.session_duration = absurd, {
                let both = &["credentials.session_duration", "credentials.refresh_before"];
                if absurd.is_zero() { both } else { &both[..1] }
            });
        }
        check(|c| c.credentials.refresh_before = Duration::MAX, &["credentials.refresh_before"]);
    }

    #[test]
    fn several_problems_come_together() {
        check(
            |c| {
                c.queue.max_messages = 0;
                c.worker.concurrency = 5000;
            },
            &["queue.max_messages", "worker.concurrency"],
        );
    }
}
