//! The configuration: plain data, its defaults, and every rule it must keep.
//!
//! Each field's comment is its reference; `config/logferry.toml` shows them all with their defaults. Where a value
//! comes from is the business of [`layers`]; making live parts of it is the business of `app`.

pub mod layers;
mod names;
mod rules;

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};

use crate::{
    name::bucket::SourceBucket,
    quarantine::QuarantinePrefix,
    queue::MAX_DELAY,
    route::KeyLayout,
    sink::cloudwatch::RequestCompression,
    tenant::{OwnBuckets, UnknownTenant},
};

/// SQS holds a long poll for at most 20 seconds. Source: SQS API reference, ReceiveMessage.
const MAX_WAIT: Duration = Duration::from_secs(20);

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
    /// How far each object got.
    pub ledger: Ledger,
    /// Where records go that cannot be delivered.
    pub quarantine: Quarantine,
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
    /// First delay of a message that must be tried again; doubles with each attempt.
    #[serde(with = "friendly")]
    pub retry_delay: Duration,
    /// Longest such delay, up to 15 min: SQS delays no message for longer.
    #[serde(with = "friendly")]
    pub max_retry_delay: Duration,
    /// How long a message is tried again, from its first receive, 1 s to 14 days, the longest that SQS keeps a message. After
    /// that it goes to the dead-letter queue with the reason of its last failure.
    #[serde(with = "friendly")]
    pub max_age: Duration,
    /// How often AWS may refuse a message's objects or batches for what they are, 1 to 1000, until the message goes to the dead-letter
    /// queue: an object by 400, 405 or 301 of S3 or because it is archived, a batch by a 4xx of PutLogEvents. Each worker counts by
    /// itself, unless the message is sent anew, which takes the count along.
    pub max_refusals: u32,
    /// Most messages that one worker lets wait hidden at once; SQS counts them as in flight, of which it has 120,000 for all of a
    /// queue's workers. Beyond that number, and where the delay is longer than 60 s, a message waits as a new one with
    /// `DelaySeconds`, which is not in flight. The default, with the default of `worker.concurrency`, is fewer than the messages for
    /// which scaling by what is in flight would start another worker.
    pub max_hidden: usize,
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
            max_retry_delay: MAX_DELAY,
            max_age: Duration::from_secs(3 * 86_400),
            max_refusals: 3,
            max_hidden: 32,
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
    /// Longest single record, decompressed. A longer one is stepped over: its place goes into quarantine, or its message's dead letter
    /// names it.
    pub max_record: ByteSize,
    /// Most decompressed bytes of one object: what stops a gzip bomb.
    pub max_object: ByteSize,
    /// Memory for zstd windows larger than 8 MiB, shared by all messages that are worked on: a frame of more than 8 MiB of text with such a
    /// window (`zstd --ultra`, Vector's level `best`) waits for its share, up to 10 s; then its message comes again. No window may be larger than this, nor than 128 MiB; `0 B` allows none beyond 8 MiB.
    pub zstd_windows: ByteSize,
    /// Most stored bytes of one object whose records are read: what stops an object that is long without containing much, such
    /// as padding or empty gzip members. Larger ones go to the dead-letter queue. A copy into a tenant's bucket has S3's own
    /// limit instead, 5 GB.
    pub max_stored: ByteSize,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
            key_layout: KeyLayout::DEFAULT.to_owned(),
            max_record: ByteSize::mib(16),
            max_object: ByteSize::mib(1536),
            zstd_windows: ByteSize::mib(128),
            max_stored: ByteSize::mib(1536),
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
    /// Region of the destination of rows that have no `target_region`. Default: such a row is a bad one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// How long a tenant that was found is believed, 1 s to 24 h. A message becomes a dead letter because of a tenant's rows
    /// only after a consistent read that was sent since the worker began with that message.
    #[serde(with = "friendly")]
    pub cache_ttl: Duration,
    /// How long "there is no such tenant" is believed, up to 24 h. No message is dead-lettered or discarded on it: that
    /// takes the same consistent read.
    #[serde(with = "friendly")]
    pub negative_ttl: Duration,
    /// How long after `cache_ttl` a tenant found before serves on while the table does not answer, up to 30 days; 0: not at
    /// all. Without an answer nobody passes for unknown: messages of tenants that are not remembered wait.
    #[serde(with = "friendly")]
    pub max_stale: Duration,
    /// Most tenants remembered.
    pub cache_capacity: u64,
    /// What becomes of an object whose tenant has no row: `dead-letter` or `discard`.
    pub unknown: UnknownTenant,
}

impl Default for Tenants {
    fn default() -> Self {
        Self {
            table: None,
            default_region: None,
            cache_ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(30),
            max_stale: Duration::from_secs(86_400),
            cache_capacity: 20_000,
            unknown: UnknownTenant::DeadLetter,
        }
    }
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
    /// Most customer sessions remembered, one for each log group of a tenant (and cluster, with session tags), at most 8 KiB
    /// each. The default holds as many as `tenants.cache_capacity` tenants with one group each.
    pub cache_capacity: u64,
    /// How long a customer's role that STS refused, or a log group that it may not write, is left alone, 1 s to 12 h; up to a
    /// quarter more is added by chance, and it doubles with each probe that is refused too. The default: changes of IAM take
    /// effect within seconds to minutes.
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
            cache_capacity: 20_000,
            probe_interval: Duration::from_secs(30),
            max_probe_interval: Duration::from_secs(900),
        }
    }
}

/// How far each object got.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// DynamoDB table, key `object` + `delivery`, time to live `expires_at`. Without one the ledger is off: a message that
    /// comes again repeats what was already put for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// How long a worker that is gone keeps others off its objects, 10 s to 15 min. While it lives it renews the lease every
    /// third of it; two calls that take their longest, 3 s each, must fit in between.
    #[serde(with = "friendly")]
    pub lease: Duration,
    /// How far the clocks of two workers may differ, up to 5 min: a lease is taken over only when it ended that long ago by the
    /// clock of the worker that takes it.
    #[serde(with = "friendly")]
    pub max_clock_skew: Duration,
    /// How long the ledger must not have answered before deliveries go on without it, 5 s to 1 h; what is tried again then may
    /// arrive twice. Until then their messages wait. An answer that it throttles counts as one.
    #[serde(with = "friendly")]
    pub out_of_reach_after: Duration,
    /// How long an entry is kept after its last change, 1 h to 8760 h (365 days): for as long as a message about the object can
    /// come again. The default is queue.max_age, the 14 days that a dead-letter queue keeps a letter at most, and a day.
    #[serde(with = "friendly")]
    pub retention: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            table: None,
            lease: Duration::from_secs(60),
            max_clock_skew: Duration::from_secs(30),
            out_of_reach_after: Duration::from_secs(120),
            retention: Duration::from_secs(18 * 86_400),
        }
    }
}

/// Where records go that cannot be delivered.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quarantine {
    /// Bucket, `NAME` or `NAME=OWNER` with the owner's account id, none of `source.buckets`: what is written there must not
    /// come back as logs. Without one there is no quarantine: what CloudWatch Logs rejects is counted, a line that is no record
    /// ends its object, and a record that is too long makes its message a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Where its keys begin; `{tenant}` stands in it once.
    pub prefix: String,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { bucket: None, prefix: QuarantinePrefix::DEFAULT.to_owned() }
    }
}

/// Calls to AWS.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Delivery {
    /// Attempts of one AWS call by the SDK, 1 to 10, with jittered backoff in between (`RETRY_ATTEMPTS`).
    pub attempts: u32,
    /// Longest single attempt of an AWS call, 1 s to 10 min; a long poll has its wait on top, and a copy
    /// within S3 has 10 min.
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

impl Config {
    /// The buckets that rows may not name, as far as their names can be read.
    pub fn own_buckets(&self) -> OwnBuckets {
        let name = |bucket: &String| bucket.parse().ok().map(|bucket: SourceBucket| bucket.name);
        OwnBuckets {
            staging: self.source.buckets.iter().filter_map(name).collect(),
            quarantine: self.quarantine.bucket.as_ref().and_then(name),
        }
    }
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
