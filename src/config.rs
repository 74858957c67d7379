//! The configuration: plain data, its defaults, and its rules.
//!
//! The comment of a field is its reference; `config/logferry.toml` shows all fields with their defaults. [`layers`] reads
//! the values from their sources; `app` builds the live parts.

pub mod layers;
pub mod log_filter;
mod names;
mod rules;
mod source_rules;

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;
use serde::{Deserialize, Serialize};

pub use self::source_rules::{SourceFormat, SourceRule};
use crate::{
    name::bucket::OwnBucket,
    quarantine::QuarantinePrefix,
    queue::MAX_DELAY,
    route::KeyLayout,
    sink::cloudwatch::RequestCompression,
    tenant::{Mode, OwnBuckets, UnknownTenant},
};

/// SQS holds a long poll for at most 20 seconds. Source: SQS API reference, ReceiveMessage.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Our own AWS account and Region.
    pub aws: Aws,
    /// The queue of S3's notifications.
    pub queue: Queue,
    /// The staging bucket's objects.
    pub source: Source,
    /// The tenant table and its cache.
    pub tenants: Tenants,
    /// Access to the customers' accounts.
    pub credentials: Credentials,
    /// The ledger: the progress of each object.
    pub ledger: Ledger,
    /// The bucket for records that cannot be delivered.
    pub quarantine: Quarantine,
    /// Calls to AWS.
    pub delivery: Delivery,
    /// The counts of shadow mode.
    pub shadow: Shadow,
    /// The share of the worker that one tenant may use.
    pub fairness: Fairness,
    /// Concurrency and shutdown.
    pub worker: Worker,
    /// Health, status page and metrics.
    pub http: Http,
    /// The metrics of single tenants.
    pub metrics: Metrics,
    /// logferry's own log.
    pub log: Log,
    /// Traces. The standard variables of OpenTelemetry switch them on.
    pub traces: Traces,
}

/// Our own AWS account and Region.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Aws {
    /// Region of the queue, the bucket and the tables (`AWS_REGION`). Default: the Region that the SDK finds in the
    /// environment, the profile or the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Path-style S3 addresses, for endpoints that support no others (`AWS_S3_USE_PATH_STYLE`).
    pub s3_use_path_style: bool,
}

/// The queue of S3's notifications.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// URL of the SQS queue. Required by `worker` (`SQS_QUEUE_URL`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// URL of the dead-letter queue, to which the worker moves messages that no retry can help. Without one, such messages
    /// stay in the queue until its redrive policy moves them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_url: Option<String>,
    /// Most messages of one ReceiveMessage, 1 to 10 (`MAX_BATCH_SIZE`).
    pub max_messages: u32,
    /// Wait time of the long poll, 1 to 20 s.
    #[serde(with = "friendly")]
    pub wait_time: Duration,
    /// Visibility timeout of a received message, 10 s to 12 h. While the message is worked on, the worker extends the
    /// timeout after half of it.
    #[serde(with = "friendly")]
    pub visibility_timeout: Duration,
    /// Delay before the first retry of a message, at least 1 s. It doubles with each attempt. Up to a quarter is taken off
    /// at random.
    #[serde(with = "friendly")]
    pub retry_delay: Duration,
    /// Longest delay before a retry, up to 15 min, the limit of SQS.
    #[serde(with = "friendly")]
    pub max_retry_delay: Duration,
    /// How long a message is retried, from its first receive, 1 s to 14 days, the longest that SQS keeps a message. After
    /// that it goes to the dead-letter queue with the reason of its last failure.
    #[serde(with = "friendly")]
    pub max_age: Duration,
    /// A message goes to the dead-letter queue after AWS has refused its objects, batches or copies this often, 1 to 1000. A
    /// refusal is an answer that retries seldom change, such as a 4xx of PutLogEvents, a 301 or 4xx of S3, or that the object
    /// is archived; docs/dead-letters.md lists the reasons. Each worker has its own count; a message that is sent anew carries
    /// the count to the next worker.
    pub max_refusals: u32,
    /// Most messages of one worker that wait hidden at once. SQS counts them as in flight, and allows 120,000 messages in
    /// flight for all workers of a queue. Beyond this number, and if the delay is longer than 60 s, a message is sent anew
    /// with `DelaySeconds`, which is not in flight; this needs `sqs:SendMessage` on the queue. With this default and that of
    /// `worker.concurrency`, waiting messages alone do not make an autoscaler that counts messages in flight start another
    /// worker.
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
    /// Meaning of the segments of an object's key. `{tenant}` and `{file}` are required; `{cluster}`, `{application}` and
    /// `{pod}` are optional; `*` is any segment; other segments are literal. `{file}` is the last one.
    pub key_layout: String,
    /// Longest record, decompressed, 1 MiB to 256 MiB. A longer record is skipped; its position goes into the quarantine or
    /// into the message's dead letter.
    pub max_record: ByteSize,
    /// Most decompressed bytes of one object. Stops gzip bombs.
    pub max_object: ByteSize,
    /// Memory for zstd windows larger than 8 MiB, shared by all messages that are worked on. A frame with such a window (`zstd
    /// --ultra`, Vector's level `best`) and more than 8 MiB of text waits for its share of this memory, up to 10 s; then its
    /// message comes again. The shares of one tenant take at most half of it; a single share may be larger. The largest window
    /// that can be read is this value, or 128 MiB if that is smaller; with `0 B` it is 8 MiB.
    pub zstd_windows: ByteSize,
    /// Most stored bytes of one object whose records are read, at least 1 MiB. Stops objects that consist of padding or
    /// empty gzip members. The messages of larger objects go to the dead-letter queue. Copies into a tenant's bucket have
    /// S3's own limit instead, 5 GB.
    pub max_stored: ByteSize,
    /// Rules for objects with other keys or formats (`[[source.rules]]`). The first rule that matches an object's key counts. An
    /// object that no rule matches has the layout `source.key_layout`, and its format is recognised.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<SourceRule>,
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
            rules: Vec::new(),
        }
    }
}

/// The tenant table and its cache.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tenants {
    /// DynamoDB table, key `tenant_id` + `type` (`TENANT_CONFIG_TABLE`). Required by `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Region of the destination of rows without `target_region`. Default: such rows are bad.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// How long a tenant that was found is cached, 1 s to 24 h. A message becomes a dead letter because of a tenant's rows
    /// only after a consistent read that was sent after the worker began with the message.
    #[serde(with = "friendly")]
    pub cache_ttl: Duration,
    /// How long the cache remembers that a tenant does not exist, up to 24 h. A message is dead-lettered or discarded only
    /// after a consistent read that was sent after the worker began with the message.
    #[serde(with = "friendly")]
    pub negative_ttl: Duration,
    /// How long after `cache_ttl` a cached tenant is still used while the table does not answer, up to 30 days; 0: not at
    /// all. Meanwhile messages of tenants that are not cached wait.
    #[serde(with = "friendly")]
    pub max_stale: Duration,
    /// Most tenants in the cache.
    pub cache_capacity: u64,
    /// What happens to an object whose tenant has no row: `dead-letter` or `discard`.
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

/// Access to the customers' accounts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Credentials {
    /// ARN of the central role, the first hop, in the provider's account (`CENTRAL_LOG_DISTRIBUTION_ROLE_ARN`). Required by
    /// `worker`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub central_role_arn: Option<String>,
    /// Life of an assumed role's session, 15 min to 1 h (the limit of role chaining).
    #[serde(with = "friendly")]
    pub session_duration: Duration,
    /// How long before a session's end its credentials are renewed, at most half of `session_duration`. Up to a quarter more
    /// is added at random, so that tenants do not renew at the same time.
    #[serde(with = "friendly")]
    pub refresh_before: Duration,
    /// Most customer sessions in the cache, one for each log group of a tenant (and cluster, with session tags), at most 8
    /// KiB each. The default is enough for `tenants.cache_capacity` tenants with one group each.
    pub cache_capacity: u64,
    /// Time until the next probe of a customer's role that STS refused, or of a log group that the role may not write, 1 s
    /// to 12 h. Up to a quarter more is added at random, and the time doubles with each probe that is refused. The default
    /// fits changes in IAM, which take effect within seconds to minutes.
    #[serde(with = "friendly")]
    pub probe_interval: Duration,
    /// Longest time until the next probe, up to 12 h. The default is that of `queue.max_retry_delay`, after which every
    /// message comes back.
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

/// The ledger: the progress of each object.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ledger {
    /// DynamoDB table, key `object` + `delivery`, time to live `expires_at`. Without one the ledger is off, and a message
    /// that comes again repeats all records that were put for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Lease on an object, 10 s to 15 min. A worker renews it after each third of this time; when a worker has died, other
    /// workers take its objects after the end of the lease. Between a renewal and the end, there must be time for two calls
    /// of 3 s, the longest duration of a call.
    #[serde(with = "friendly")]
    pub lease: Duration,
    /// Largest difference between the clocks of two workers, up to 5 min. A worker takes over a lease only if, by the
    /// worker's clock, the lease ended at least this long ago.
    #[serde(with = "friendly")]
    pub max_clock_skew: Duration,
    /// How long the ledger must be silent before deliveries go on without it, 5 s to 1 h. Until then messages wait; after
    /// that, retried messages may deliver records twice. A throttled call counts as an answer.
    #[serde(with = "friendly")]
    pub out_of_reach_after: Duration,
    /// How long an entry is kept after its last change, 1 h to 8760 h (365 days), and at least `queue.max_age`. An entry is
    /// needed as long as a message about its object can come again. The default is the default of `queue.max_age` plus 14 days,
    /// the longest that a dead-letter queue keeps a letter, plus a day.
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

/// The bucket for records that cannot be delivered.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quarantine {
    /// Bucket, `NAME` or `NAME=OWNER` with the owner's account id. It must not be one of `source.buckets`, or its files
    /// would come back as logs. Without a bucket there is no quarantine: records that CloudWatch Logs rejects are only
    /// counted, a line that is not a record ends its object, and a record that is too long makes its message a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Prefix of the files' keys. It contains `{tenant}` once.
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
    /// `live`, or `shadow`: the worker does everything except putting and copying, and counts what it would have put, for
    /// `logferry shadow compare`. Needs `ledger.table`. A row's `deliver = "shadow"` does the same for one delivery; in a
    /// worker in shadow mode, no row makes a delivery live.
    pub mode: Mode,
    /// Attempts of an AWS call, 1 to 10, with jittered backoff (`RETRY_ATTEMPTS`).
    pub attempts: u32,
    /// Longest attempt of an AWS call, 1 s to 10 min. A long poll may take its wait time in addition, and a copy within S3
    /// may take 10 min.
    #[serde(with = "friendly")]
    pub attempt_timeout: Duration,
    /// Compression of PutLogEvents bodies: "none" or "gzip". gzip halves the bytes sent and costs the worker about a third
    /// more CPU. CloudWatch Logs bills and limits the uncompressed size either way.
    pub request_compression: RequestCompression,
    /// Most PutLogEvents requests per second that one worker sends into one account and Region, at least 1. The default is
    /// the lowest quota that AWS has published for a Region; all workers and the customer share the quota.
    pub put_rate: u32,
    /// Most CreateLogStream requests per second that one worker sends into one account and Region, at least 1. The default is
    /// AWS's quota.
    pub create_stream_rate: u32,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            mode: Mode::Live,
            attempts: 4,
            attempt_timeout: Duration::from_secs(30),
            request_compression: RequestCompression::None,
            put_rate: 800,
            create_stream_rate: 50,
        }
    }
}

/// The counts of shadow mode, in the ledger's table.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shadow {
    /// How long counts are kept, 1 h to 8760 h (365 days). A comparison needs counts and events at the same time; the default
    /// is the age at which CloudWatch Logs accepts no event any more.
    #[serde(with = "friendly")]
    pub retention: Duration,
}

impl Default for Shadow {
    fn default() -> Self {
        Self { retention: Duration::from_secs(14 * 86_400) }
    }
}

/// The share of the worker that one tenant may use. Without a cap, a tenant may use as many slots as remain free for others,
/// and all slots if no other tenant is active. Further objects of the tenant go back to the queue until their turn comes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fairness {
    /// Most objects of one tenant in work at once in one worker, at least 1. Default: no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_objects: Option<usize>,
    /// Most stored bytes of one tenant's objects in work at once in one worker; a larger object is worked on alone. Default:
    /// no cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

/// Concurrency and shutdown.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Slots, 1 to 1024. A slot is memory for an object of any size, and up to eight small objects share one; but more than 128
    /// messages are in work at once only if there are more slots. Memory grows with the slots: see ARCHITECTURE.md.
    pub concurrency: usize,
    /// Time from SIGTERM to exit, up to 1 h, and at least 4 s longer than `queue.wait_time`. Messages in work may finish in
    /// this time; the others go back to the queue. Keep it shorter than the orchestrator's own
    /// (`terminationGracePeriodSeconds`, `stopTimeout`).
    #[serde(with = "friendly")]
    pub grace_period: Duration,
}

impl Default for Worker {
    fn default() -> Self {
        Self { concurrency: 16, grace_period: Duration::from_secs(45) }
    }
}

/// Health, status page and metrics.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Address of `/healthz`, `/readyz`, `/metrics` and the status page at `/`. With port 0 the system chooses a port, and the
    /// log shows it.
    pub listen: SocketAddr,
    /// A separate address for `/metrics` and the status page, which name tenants and objects. They are then no longer at
    /// `http.listen`; `/healthz` and `/readyz` answer at both. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([0, 0, 0, 0], 8080)), admin_listen: None }
    }
}

/// The metrics of single tenants.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Most tenants that have time series of their own, up to 1000; all others are counted together as `tenant="other"`. Up to
    /// half of them are the tenants that have been in trouble for longest, the rest those with the most bytes.
    pub max_tenants: usize,
    /// The tenant whose records are the heartbeat: a pod writes a line for it at regular intervals, and
    /// `logferry_heartbeat_age_seconds` is the age of the newest one that CloudWatch Logs has accepted. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_tenant: Option<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { max_tenants: 50, heartbeat_tenant: None }
    }
}

/// logferry's own log.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or levels per target (`warn,logferry=debug`).
    pub filter: String,
    /// `json` for machines, `text` for people.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Json }
    }
}

/// Format of logferry's own log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Readable text.
    Text,
}

/// Traces. The standard variables of OpenTelemetry (`OTEL_...`) switch them on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// Whether a message continues the trace that its `AWSTraceHeader` names, with the sender's decision about sampling.
    /// Otherwise each message has a trace of its own, with a link to the sender's.
    pub parent: bool,
}

impl Config {
    /// The buckets that rows may not name, as far as their names can be read.
    pub fn own_buckets(&self) -> OwnBuckets {
        let name = |bucket: &String| bucket.parse().ok().map(|bucket: OwnBucket| bucket.name);
        OwnBuckets {
            staging: self.source.buckets.iter().filter_map(name).collect(),
            quarantine: self.quarantine.bucket.as_ref().and_then(name),
        }
    }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Problem {
    /// Dotted path of the field, `queue.url`.
    pub field: String,
    /// What is wrong with the value, and what would be right.
    pub problem: String,
}
