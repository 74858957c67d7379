//! The model's numbers. Each names its source: the code, a measurement, AWS's documentation, or an assumption.

use crate::clock::{MILLISECOND, SECOND, Time};

/// Everything that a simulation depends on, except its seed and its phases.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) load: Load,
    pub(crate) fleet: Fleet,
    pub(crate) quotas: Quotas,
    pub(crate) place: Place,
}

/// What the customers' pods write.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) clusters: usize,
    /// Pods of a cluster that write logs. Assumption.
    pub(crate) pods_per_cluster: usize,
    pub(crate) tenants: usize,
    /// The tenant with rank r has a share of all pods proportional to r to the power of minus this number. Assumption: at
    /// 1,000 clusters, the largest of 500 tenants has 8 % of them.
    pub(crate) skew: f64,
}

impl Load {
    /// Two clusters for each tenant. Assumption.
    pub(crate) fn of(clusters: usize) -> Self {
        Self { clusters, pods_per_cluster: 200, tenants: (clusters / 2).max(1), skew: 0.8 }
    }
}

/// JSON of a pod's object in bytes: log-normal with this median.
/// Source: the mix that the load instrument sends: median 40 kB, 1 % above 5 MB.
pub(crate) const MEDIAN_OBJECT: f64 = 40e3;
/// Standard deviation of the logarithm of an object's size: ln(5 MB / 40 kB) / 2.326.
pub(crate) const OBJECT_SPREAD: f64 = 2.076;
/// `batch.timeout_secs` of the collector's `aws_s3` sink.
pub(crate) const FLUSH_AFTER: Time = 300 * SECOND;
/// JSON in bytes at which the collector closes an object early: 64 MiB of `batch.max_bytes` count memory and give 4 to 13 MB of
/// JSON.
pub(crate) const LARGEST_OBJECT: f64 = 8e6;
/// Bytes of JSON for a stored byte. Source: loadtest/README.md, "The objects", one pod per object.
pub(crate) const COMPRESSION: f64 = 12.0;
/// How long a pod lives, after which another name writes its logs. Assumption.
pub(crate) const POD_LIFE: Time = 24 * 3600 * SECOND;
/// Pauses of the collector after S3 has refused a PutObject. Source: Vector's reference, `aws_s3` sink,
/// `request.retry_initial_backoff_secs` and `request.retry_max_duration_secs`.
pub(crate) const COLLECTOR_PAUSE: Time = SECOND;
pub(crate) const LONGEST_COLLECTOR_PAUSE: Time = 30 * SECOND;

/// The workers and their autoscaler.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    /// `worker.concurrency`.
    pub(crate) concurrency: usize,
    /// `queueLength` of the ScaledObject.
    pub(crate) queue_length: usize,
    /// `queue.max_hidden`.
    pub(crate) max_hidden: usize,
    /// `maxReplicaCount` of the ScaledObject.
    pub(crate) most_replicas: usize,
    /// Cores that a worker can use. The Deployment requests half a core and sets no limit; a node usually has more.
    pub(crate) cores: usize,
    /// `credentials.cache_capacity` and `tenants.cache_capacity`.
    pub(crate) cache_capacity: usize,
    /// Whether the stream's name has the date and the pod (the default template): then every pod creates a stream after
    /// midnight UTC.
    pub(crate) daily_streams: bool,
    /// `delivery.put_rate`, per worker and account.
    pub(crate) put_rate: u64,
    /// Whether the ledger is on.
    pub(crate) ledger: bool,
    /// Processor time of the worker for an object.
    pub(crate) work: Work,
}

/// Processor time for an object: a part for each object, and a part for each byte of its JSON.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    pub(crate) object: Time,
    /// Nanoseconds for a byte of JSON.
    pub(crate) byte: f64,
}

impl Fleet {
    /// As the manifests in k8s/ and config/logferry.toml ship it.
    pub(crate) fn shipped() -> Self {
        Self {
            concurrency: 16,
            queue_length: 20,
            max_hidden: 4,
            most_replicas: 50,
            cores: 1,
            cache_capacity: 20_000,
            daily_streams: true,
            put_rate: 800,
            ledger: true,
            // Source: loadtest/RESULTS.md: 0.33 ms for 23 kB ("A burst"), 0.56 ms for 312 kB on average ("The mix"): EPYC, with
            // the ledger, without TLS, under load, when objects share calls.
            work: Work { object: 310_000, byte: 0.8 },
        }
    }

    /// For small objects at 10 and 100 times 1,000 clusters: KEDA's target is near what a worker has in flight if all workers are
    /// busy, and streams have no date.
    pub(crate) fn recommended() -> Self {
        Self { queue_length: 64, daily_streams: false, ..Self::shipped() }
    }
}

/// `UNITS`, `STORED` and `MOST_AT_ONCE` in src/room.rs.
pub(crate) const UNITS: usize = 8;
pub(crate) const STORED: f64 = 16_384.0;
pub(crate) const MOST_AT_ONCE: usize = 128;
/// Most messages of a receive: `queue.max_messages`.
pub(crate) const MAX_MESSAGES: usize = 10;
/// `GATHER`, `SLOW` and `INERTIA` in src/worker.rs.
pub(crate) const GATHER: Time = 20 * MILLISECOND;
pub(crate) const SLOW: Time = 200 * MILLISECOND;
pub(crate) const INERTIA: f64 = 7.0;
/// `MAX_STATEMENTS` in src/ledger/dynamodb/together.rs.
pub(crate) const MAX_STATEMENTS: usize = 25;
/// `BUSY_ENTRIES` and `BUSY_FOR` in src/batcher.rs.
pub(crate) const BUSY_ENTRIES: usize = 8;
pub(crate) const BUSY_FOR: Time = 20 * MILLISECOND;

/// `pace` in src/ledger/dynamodb.rs: the time between two calls of a worker that objects share.
pub(crate) fn pace(slots: usize) -> Time {
    (slots as Time * 5 * MILLISECOND / 2).clamp(2 * MILLISECOND, 20 * MILLISECOND)
}
/// `LINGER` in src/worker/settle.rs: how long a delete waits for others.
pub(crate) const LINGER: Time = 50 * MILLISECOND;
/// `LONGEST_HIDING` in src/worker/settle.rs: messages with a longer wait are sent anew and are not in flight.
pub(crate) const LONGEST_HIDING: Time = 60 * SECOND;
/// `queue.retry_delay` and `queue.max_retry_delay`. The delay doubles with each attempt, and up to a quarter is taken off
/// (src/verdict/backoff.rs).
pub(crate) const RETRY_DELAY: Time = 15 * SECOND;
pub(crate) const MAX_RETRY_DELAY: Time = 900 * SECOND;
/// Shortest wait of an object whose tenant has used up its share: `SHORTEST_WAIT` in src/fairness/book.rs.
pub(crate) const SHORTEST_TURN: Time = SECOND;
/// Longest slice of the processor while only objects of one tenant wait (src/fairness/slices.rs). Shorter slices would give the
/// same throughput and more events.
pub(crate) const SLICE: Time = 10 * MILLISECOND;
/// `tenants.cache_ttl`.
pub(crate) const TENANT_TTL: Time = 300 * SECOND;
/// `credentials.session_duration` minus `credentials.refresh_before` and half of its random part.
pub(crate) const SESSION_LIFE: Time = 3600 * SECOND - 337 * SECOND;
/// `PAUSE` in src/credentials/flight.rs: how long STS is left alone for a role after a failure.
pub(crate) const STS_PAUSE: Time = 2 * SECOND;
/// `delivery.attempts`, and the SDK's first and longest pause between attempts. A random fraction of the pause is waited.
/// Source: aws-smithy-types, `RetryConfig::standard`.
pub(crate) const ATTEMPTS: u8 = 4;
pub(crate) const FIRST_PAUSE: Time = SECOND;
pub(crate) const LONGEST_PAUSE: Time = 20 * SECOND;
/// Retry tokens of a client, their cost for a retry, and what a call that succeeds at once gives back.
/// Source: aws-smithy-runtime, `TokenBucket`.
pub(crate) const RETRY_TOKENS: f64 = 500.0;
pub(crate) const RETRY_COST: f64 = 5.0;
pub(crate) const RETRY_REFUND: f64 = 1.0;
/// `ATTEMPTS` and `FIRST_PAUSE` in src/ledger/dynamodb.rs; `PAUSE` and `PATIENCE` in src/ledger/claim.rs.
pub(crate) const LEDGER_ATTEMPTS: u8 = 3;
pub(crate) const LEDGER_FIRST_PAUSE: Time = 50 * MILLISECOND;
pub(crate) const LEDGER_PAUSE: Time = 500 * MILLISECOND;
pub(crate) const LEDGER_PATIENCE: Time = 10 * SECOND;
/// `delivery.create_stream_rate`, per worker and account; `BURST` in src/budget.rs.
pub(crate) const CREATE_STREAM_RATE: u64 = 50;
pub(crate) const PACE_BURST: Time = 100 * MILLISECOND;
/// `PAUSES` in src/budget.rs: an account that throttles is left alone for so long; the pause doubles.
pub(crate) const ACCOUNT_PAUSE: Time = SECOND;
pub(crate) const LONGEST_ACCOUNT_PAUSE: Time = 30 * SECOND;
/// JSON that fills a PutLogEvents request of 1,048,576 bytes. Source: loadtest/RESULTS.md, "Headline", one pod per object: 122 MB
/// of JSON in 21 requests.
pub(crate) const JSON_PER_PUT: f64 = 5.8e6;

/// Sync period of the HorizontalPodAutoscaler that KEDA creates, its tolerance, and its default policy for scaling up: the higher
/// of 100 % and 4 pods in a period. Source: Kubernetes documentation, "Horizontal Pod Autoscaling".
pub(crate) const SYNC: Time = 15 * SECOND;
pub(crate) const TOLERANCE: f64 = 0.1;
pub(crate) const MOST_MORE_PODS: usize = 4;
/// `scaleDown` of the ScaledObject.
pub(crate) const STABILIZATION: Time = 300 * SECOND;
pub(crate) const SCALE_DOWN_PERIOD: Time = 60 * SECOND;
/// From the order to start a pod until it receives: scheduling, pulling 30 MB, starting. Assumption; a new node takes longer.
pub(crate) const POD_START: Time = 20 * SECOND;

/// Limits of AWS, per second if not said otherwise. `f64::INFINITY` is no limit.
#[derive(Clone, Debug)]
pub(crate) struct Quotas {
    /// Partitions into which S3 has split the bucket's prefix.
    pub(crate) s3_partitions: usize,
    pub(crate) s3_puts: f64,
    pub(crate) s3_gets: f64,
    pub(crate) sns_publishes: f64,
    /// Messages in flight.
    pub(crate) in_flight: usize,
    /// Write units that the ledger's table takes. Each partition takes [`WRITES_PER_PARTITION`] of them.
    pub(crate) ledger_writes: f64,
    /// Read units that the table of tenants takes.
    pub(crate) tenant_reads: f64,
    pub(crate) assume_roles: f64,
    /// PutLogEvents per customer's account.
    pub(crate) puts: f64,
    /// CreateLogStream per customer's account.
    pub(crate) stream_creations: f64,
}

/// Write and read units of a partition. Source: DynamoDB developer guide, "Best practices for designing partition keys".
pub(crate) const WRITES_PER_PARTITION: f64 = 1000.0;
/// A partition may save unused units of five minutes. Source: DynamoDB developer guide, "Burst and adaptive capacity".
/// DynamoDB may use the saved units itself, so the model counts ten seconds of them.
pub(crate) const SAVED_UNITS: f64 = 10.0;
/// A statement of a BatchExecuteStatement takes as many write units as a single call, and is throttled by itself; a write whose
/// condition fails takes them too. Source: DynamoDB API reference, "BatchExecuteStatement" (consumed capacity by statement) and
/// "BatchStatementError"; developer guide, "DynamoDB read and write operations".
pub(crate) const WRITE_UNITS: f64 = 1.0;
/// Units of one tenant's Query, eventually consistent, below 4 KB.
pub(crate) const QUERY_UNITS: f64 = 0.5;

impl Quotas {
    /// Read or write units of a table on demand. Source: DynamoDB developer guide, "On-demand capacity mode".
    pub(crate) const TABLE: f64 = 40_000.0;

    /// AWS's defaults in a large Region.
    pub(crate) fn defaults() -> Self {
        Self {
            // A prefix begins with one partition. S3 splits it under load, which takes 30 to 60 minutes.
            s3_partitions: 1,
            // Source: S3 user guide, "Best practices design patterns: optimizing Amazon S3 performance", per partition.
            s3_puts: 3500.0,
            s3_gets: 5500.0,
            // Source: AWS General Reference, SNS quotas: 30,000 in us-east-1, 9,000 in eu-west-1 and us-west-2, and less in
            // other Regions. It is not documented whether S3's notifications count.
            sns_publishes: 9000.0,
            in_flight: 120_000,
            // Source: DynamoDB developer guide, "On-demand capacity mode": a new table.
            ledger_writes: 4000.0,
            tenant_reads: 12_000.0,
            assume_roles: 600.0,
            puts: 5000.0,
            stream_creations: 50.0,
        }
    }

    /// No limit anywhere, to find out what is asked for.
    pub(crate) fn none() -> Self {
        Self {
            s3_partitions: 1,
            s3_puts: f64::INFINITY,
            s3_gets: f64::INFINITY,
            sns_publishes: f64::INFINITY,
            in_flight: usize::MAX,
            ledger_writes: f64::INFINITY,
            tenant_reads: f64::INFINITY,
            assume_roles: f64::INFINITY,
            puts: f64::INFINITY,
            stream_creations: f64::INFINITY,
        }
    }
}

/// Where the services are.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In a Region of AWS: calls take time, but no processor time of the worker's machine.
    Region(Latencies),
    /// On the worker's own machine, as in a run of the load instrument: calls take processor time, and workers, sandbox and
    /// instrument share the cores.
    Loopback(Loopback),
}

/// Processor time of the sandbox and the instrument.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loopback {
    pub(crate) cores: usize,
    /// The sandbox's processor time for a call.
    pub(crate) call: Time,
    /// The sandbox's nanoseconds for a byte of JSON, in PutLogEvents.
    pub(crate) byte: f64,
    /// Processor time to publish an event, of the sandbox and the instrument.
    pub(crate) publish: Time,
    /// Time of a call in which no core works for it: the kernel wakes threads and passes bytes on.
    pub(crate) handover: Time,
}

/// Time until a service answers: medians and a common spread.
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    pub(crate) receive: Time,
    pub(crate) get: Time,
    pub(crate) dynamodb: Time,
    pub(crate) assume_role: Time,
    pub(crate) put: Time,
    pub(crate) create_stream: Time,
    /// Standard deviation of the logarithm: the 95th percentile is 2.3 times the median.
    pub(crate) spread: f64,
}

impl Latencies {
    /// In the same Region. `factor` multiplies all of them.
    pub(crate) fn in_region(factor: f64) -> Self {
        let milliseconds = |count: f64| (count * factor * MILLISECOND as f64) as Time;
        Self {
            // Source: SQS FAQ: tens of milliseconds.
            receive: milliseconds(20.0),
            // Source: S3 user guide, "Best practices design patterns": 100 to 200 ms for small objects.
            get: milliseconds(100.0),
            // Source: DynamoDB developer guide: single-digit milliseconds. A call with several statements takes as long as the
            // slowest: DynamoDB carries them out in parallel (developer guide, "BatchWriteItem"; assumed for statements).
            dynamodb: milliseconds(5.0),
            // Assumptions: AWS publishes no figures.
            assume_role: milliseconds(100.0),
            put: milliseconds(50.0),
            create_stream: milliseconds(50.0),
            spread: 0.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_defaults_of_the_configuration() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/logferry.toml");
        let text = std::fs::read_to_string(file).expect("the file exists");
        let Fleet { concurrency, max_hidden, cache_capacity, put_rate, .. } = Fleet::shipped();
        let seconds = |time: Time| time / SECOND;
        for line in [
            format!("concurrency = {concurrency}"),
            format!("cache_capacity = {cache_capacity}"),
            format!("put_rate = {put_rate}"),
            format!("create_stream_rate = {CREATE_STREAM_RATE}"),
            format!("max_messages = {MAX_MESSAGES}"),
            format!("attempts = {ATTEMPTS}"),
            format!("retry_delay = \"{}s\"", seconds(RETRY_DELAY)),
            format!("max_retry_delay = \"{}m\"", seconds(MAX_RETRY_DELAY) / 60),
            format!("cache_ttl = \"{}m\"", seconds(TENANT_TTL) / 60),
        ] {
            assert!(text.lines().any(|of_file| of_file == line), "config/logferry.toml has no line `{line}`");
        }
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../k8s/worker");
        let Fleet { queue_length, most_replicas, .. } = Fleet::shipped();
        for (file, line) in [
            ("base/logferry.toml", format!("max_hidden = {max_hidden}")),
            ("components/keda/scaled-object.yaml", format!("queueLength: \"{queue_length}\"")),
            ("components/keda/scaled-object.yaml", format!("maxReplicaCount: {most_replicas}")),
        ] {
            let text = std::fs::read_to_string(folder.join(file)).expect("the file exists");
            assert!(text.lines().any(|of_file| of_file.trim() == line), "{file} has no line `{line}`");
        }
    }
}
