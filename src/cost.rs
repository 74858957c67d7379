//! What a month of logferry costs the provider and the customers, item by item, and what other ways would cost.
//!
//! Pure arithmetic over a [`Workload`], measured numbers of calls and CPU time, and [`Prices`]. The measured numbers come from
//! loadtest/RESULTS.md, "The mix" and "Sizes of objects", and a test compares them with that page.

pub mod prices;

use bytesize::ByteSize;
use serde::Serialize;

pub use self::prices::{Price, Prices};
use crate::batch::{EVENT_OVERHEAD, MAX_BATCH_BYTES};

/// Hours of a month, as AWS's calculator counts them.
const HOURS: f64 = 730.0;
const DAYS: f64 = HOURS / 24.0;
const SECONDS: f64 = HOURS * 3_600.0;
/// Bytes of the GB that AWS bills. Source: "Amazon CloudWatch pricing", whose examples divide by 1,024 three times.
const GB: f64 = (1_u64 << 30) as f64;
/// Bytes of a GB and a MB of the workload, of JSON.
const JSON_GB: f64 = 1e9;
const MB: f64 = 1e6;

/// Requests to SQS per message in a busy worker: its share of a receive, a delete and a change of visibility of up to ten
/// messages each. Measured with the mix.
const SQS_CALLS: f64 = 0.23;
/// CPU time of an object, without its bytes. Measured over HTTP with one tenant, the ledger and kept connections. HTTPS adds up
/// to a tenth, and several tenants take less.
const CPU_MS_PER_OBJECT: f64 = 0.22;
/// CPU time of a MB of JSON. Measured in the same way.
const CPU_MS_PER_MB: f64 = 1.2;
/// Share of its CPU that a worker uses on average; the rest is for peaks.
const UTILISATION: f64 = 0.5;
/// Fewest workers: one may fail.
const FEWEST_WORKERS: f64 = 2.0;
/// Memory of a worker's task, in GB: `Memory` in cloudformation/ecs.yaml.
const TASK_GB: f64 = 4.0;
/// Largest object that Vector writes with `batch.max_bytes` of 64 MiB, which count memory.
const LARGEST_OBJECT: f64 = 10.0 * MB;
/// Bytes of an entry in the ledger, with DynamoDB's 100 for each item.
const LEDGER_ENTRY: f64 = 500.0;
/// Days for which the ledger keeps an entry: `ledger.retention`.
const LEDGER_DAYS: f64 = 18.0;
/// Look-ups of a tenant by each worker, per day: one each `tenants.cache_ttl`.
const LOOKUPS_PER_DAY: f64 = 288.0;
/// Requests to KMS per request to S3 with an S3 Bucket Key. Source: "Reducing the cost of SSE-KMS with Amazon S3 Bucket Keys",
/// which says up to 99 % less.
const KMS_SHARE: f64 = 0.01;
/// Bytes of a message in SQS: S3's event in SNS's envelope.
const MESSAGE_BYTES: f64 = 3_000.0;
/// Bytes around the message of an event in the body of PutLogEvents.
const EVENT_FRAME: f64 = 44.0;
/// CloudWatch Logs bills compressed bytes for storage. Source: "Amazon CloudWatch pricing", whose examples assume this ratio.
const STORED_SHARE: f64 = 0.15;
/// Availability Zones with an endpoint or a NAT gateway.
const ZONES: f64 = 2.0;
/// Firehose bills each record in steps of 5 KB.
const FIREHOSE_STEP: f64 = 5_120.0;
/// Largest object that Firehose writes with dynamic partitioning.
const FIREHOSE_BUFFER: f64 = 128.0 * 1_048_576.0;

/// How the workers reach services without a gateway endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Interface endpoints in two Availability Zones.
    Endpoints,
    /// NAT gateways in two Availability Zones.
    Nat,
    /// Public addresses, or endpoints that exist already.
    Free,
}

/// Default of [`Workload::batch_seconds`]: `batch.timeout_secs` in k8s/collector/base/staging.yaml.
const BATCH_SECONDS: f64 = 300.0;
/// Default of [`Workload::staging_days`]: `StagingDays` in cloudformation/core.yaml.
const STAGING_DAYS: f64 = 90.0;
/// Default of [`Workload::retention_days`]: `RetentionDays` in cloudformation/customer.yaml.
const RETENTION_DAYS: f64 = 30.0;

/// What is delivered: arguments of `logferry cost`, whose help has the comments.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, clap::Args)]
pub struct Workload {
    /// GB of JSON that Vector writes per day, before compression.
    #[arg(long, value_name = "GB", value_parser = positive)]
    pub gb_per_day: f64,
    /// Pods that write logs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub pods: u64,
    /// Tenants, each with one delivery to CloudWatch Logs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub tenants: u64,
    /// JSON of an object: 100kB.
    // `None`: what a pod writes in `batch_seconds`, at most 10 MB.
    #[arg(long = "object-size", value_name = "SIZE", value_parser = bytes)]
    pub object_bytes: Option<f64>,
    /// How long Vector gathers an object.
    #[arg(long, value_name = "SECONDS", default_value_t = BATCH_SECONDS, value_parser = positive)]
    pub batch_seconds: f64,
    /// JSON of a record.
    #[arg(long = "record-size", value_name = "SIZE", default_value = "1360B", value_parser = bytes)]
    pub record_bytes: f64,
    /// Share of the JSON that is the message, above 0 and up to 1.
    #[arg(long, value_name = "SHARE", default_value = "0.16", value_parser = positive)]
    pub message_share: f64,
    /// Bytes of JSON per stored byte.
    #[arg(long, value_name = "RATIO", default_value = "6.1", value_parser = positive)]
    pub compression: f64,
    /// Days until the staging bucket deletes an object: StagingDays of cloudformation/core.yaml.
    #[arg(long, value_name = "DAYS", default_value_t = STAGING_DAYS, value_parser = positive)]
    pub staging_days: f64,
    /// Retention of the customers' log groups in days.
    #[arg(long, value_name = "DAYS", default_value_t = RETENTION_DAYS, value_parser = positive)]
    pub retention_days: f64,
    /// Pods on one node, for the comparison with Vector alone.
    #[arg(long, value_name = "N", default_value = "20", value_parser = positive)]
    pub pods_per_node: f64,
    /// How the workers reach SQS, STS and CloudWatch Logs.
    #[arg(long, value_name = "WAY", default_value = "endpoints")]
    pub network: Network,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err("must be more than 0".to_owned()) }
}

fn bytes(text: &str) -> Result<f64, String> {
    text.parse().map(|size: ByteSize| size.as_u64() as f64)
}

/// What a workload comes to in a month.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Volume {
    /// GB (10^9 bytes) of JSON.
    pub json_gb: f64,
    /// GB (2^30 bytes) that CloudWatch Logs bills.
    pub billed_gb: f64,
    /// Records.
    pub records: f64,
    /// Objects.
    pub objects: f64,
    /// JSON of an object in bytes.
    pub object_bytes: f64,
    /// PutLogEvents of an object.
    pub puts_per_object: f64,
    /// Writes of an object to the ledger, as DynamoDB bills them: objects share calls, but not writes.
    pub ledger_writes_per_object: f64,
    /// CPU time of an object in milliseconds.
    pub cpu_ms_per_object: f64,
    /// Hours of CPU time.
    pub cpu_hours: f64,
    /// Workers with one vCPU.
    pub workers: f64,
    /// Size of the GB that the workers send to CloudWatch Logs.
    pub sent_gb: f64,
}

/// One item of a bill.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    /// What it is for.
    pub name: &'static str,
    /// Units.
    pub amount: f64,
    /// The price of a unit.
    pub price: Price,
    /// The sum.
    pub usd: f64,
}

/// Items and their sum.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bill {
    /// The items.
    pub items: Vec<Item>,
    /// The sum.
    pub usd: f64,
}

/// A way from Vector to the customers, with its bills for a month.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// What the provider pays.
    pub provider: Bill,
    /// What all customers pay.
    pub customers: Bill,
    /// PutLogEvents per second of all tenants.
    pub puts_per_second: f64,
    /// AssumeRole of customers' roles per second, to renew sessions of an hour.
    pub assumes_per_second: f64,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// Region of the prices.
    pub region: &'static str,
    /// Day of the prices.
    pub prices_of: &'static str,
    /// What is delivered.
    pub workload: Workload,
    /// What it comes to.
    pub volume: Volume,
    /// logferry first, then other ways.
    pub ways: Vec<Way>,
}

/// Calculates the costs of a month.
pub fn costs(workload: Workload, prices: &Prices) -> Costs {
    let volume = Volume::of(&workload);
    let ways = vec![
        logferry(&workload, &volume, prices),
        straight(&workload, &volume, prices),
        firehose(&workload, &volume, prices),
    ];
    Costs { region: prices::REGION, prices_of: prices::AS_OF, workload, volume, ways }
}

impl Volume {
    fn of(workload: &Workload) -> Self {
        let Workload { record_bytes, message_share, .. } = *workload;
        let json = workload.gb_per_day * JSON_GB * DAYS;
        let records = json / record_bytes;
        let message = record_bytes * message_share;
        let billed = message + EVENT_OVERHEAD as f64;
        let of_pod = json / workload.pods as f64 / (SECONDS / workload.batch_seconds);
        let object_bytes = workload.object_bytes.unwrap_or(of_pod.clamp(record_bytes, LARGEST_OBJECT));
        let objects = json / object_bytes;
        let puts = (object_bytes / record_bytes * billed / MAX_BATCH_BYTES as f64).ceil();
        let cpu_ms_per_object = CPU_MS_PER_OBJECT + CPU_MS_PER_MB * object_bytes / MB;
        let cpu_hours = objects * cpu_ms_per_object / 1_000.0 / 3_600.0;
        Self {
            json_gb: json / JSON_GB,
            billed_gb: records * billed / GB,
            records,
            objects,
            object_bytes,
            puts_per_object: puts,
            // The claim, a checkpoint after each batch but the last, and the end.
            ledger_writes_per_object: puts + 1.0,
            cpu_ms_per_object,
            cpu_hours,
            workers: (cpu_hours / HOURS / UTILISATION).ceil().max(FEWEST_WORKERS),
            sent_gb: records * (message + EVENT_FRAME) / GB,
        }
    }
}

fn item(name: &'static str, amount: f64, price: Price) -> Item {
    Item { name, amount, price, usd: amount / price.per * price.usd }
}

impl From<Vec<Item>> for Bill {
    fn from(items: Vec<Item>) -> Self {
        let usd = items.iter().map(|item| item.usd).sum();
        Self { items, usd }
    }
}

/// What a customer pays for the same events, whoever puts them.
fn log_group(workload: &Workload, volume: &Volume, prices: &Prices) -> Bill {
    let kept = volume.billed_gb * STORED_SHARE * workload.retention_days / DAYS;
    let ingestion = item("CloudWatch Logs ingestion", volume.billed_gb, prices.logs_ingestion);
    vec![ingestion, item("CloudWatch Logs storage", kept, prices.logs_storage)].into()
}

/// The way through endpoints of `services` services, or through NAT gateways.
fn network(workload: &Workload, services: f64, gb: f64, prices: &Prices) -> Vec<Item> {
    match workload.network {
        Network::Free => Vec::new(),
        Network::Endpoints => vec![
            item("Network, hours", services * ZONES * HOURS, prices.endpoint_hour),
            item("Network, data", gb, prices.endpoint_data),
        ],
        Network::Nat => vec![
            item("Network, hours", ZONES * HOURS, prices.nat_hour),
            item("Network, data", gb, prices.nat_data),
        ],
    }
}

fn logferry(workload: &Workload, volume: &Volume, prices: &Prices) -> Way {
    let Volume { objects, workers, .. } = *volume;
    let tenants = workload.tenants as f64;
    let staged_gb = volume.json_gb * JSON_GB / workload.compression / GB;
    let entries_gb = objects * LEDGER_DAYS / DAYS * LEDGER_ENTRY / GB;
    // A worker that waits for messages receives once in 20 s.
    let empty_receives = workers * SECONDS / 20.0;
    // An eventually consistent read of up to 4 KB costs half a unit.
    let lookups = workers * tenants * LOOKUPS_PER_DAY * DAYS;
    // Each worker has a session of an hour for each tenant, and one of the central role.
    let assumes = workers * (tenants + 1.0) * HOURS;
    let mut items = vec![
        item("S3 PutObject", objects, prices.s3_put),
        item("S3 GetObject", objects, prices.s3_get),
        item("S3 storage", staged_gb * workload.staging_days / DAYS, prices.s3_storage),
        item("SNS publishes", objects, prices.sns_publish),
        item("SQS requests", objects * SQS_CALLS + empty_receives, prices.sqs_request),
        item("DynamoDB ledger writes", objects * volume.ledger_writes_per_object, prices.dynamodb_write),
        item("DynamoDB ledger storage", entries_gb, prices.dynamodb_storage),
        item("DynamoDB ledger recovery", entries_gb, prices.dynamodb_recovery),
        item("DynamoDB tenant reads", lookups / 2.0, prices.dynamodb_read),
        item("STS AssumeRole", assumes, prices.sts_call),
        item("KMS key", 1.0, prices.kms_key),
        item("KMS requests", 2.0 * objects * KMS_SHARE, prices.kms_request),
        item("Workers, CPU", workers * HOURS, prices.fargate_vcpu),
        item("Workers, memory", workers * TASK_GB * HOURS, prices.fargate_memory),
    ];
    let sent_gb = volume.sent_gb + objects * MESSAGE_BYTES / GB;
    // CloudWatch Logs, SQS and STS. S3 and DynamoDB have gateway endpoints, which cost nothing.
    items.extend(network(workload, 3.0, sent_gb, prices));
    Way {
        name: "logferry",
        provider: items.into(),
        customers: log_group(workload, volume, prices),
        puts_per_second: objects * volume.puts_per_object / SECONDS,
        assumes_per_second: assumes / SECONDS,
    }
}

/// Vector puts into the customers' log groups from each node, with `encoding.codec: text`.
fn straight(workload: &Workload, volume: &Volume, prices: &Prices) -> Way {
    let nodes = (workload.pods as f64 / workload.pods_per_node).ceil();
    let tenants_of_node = workload.pods_per_node.min(workload.tenants as f64);
    Way {
        name: "Vector straight to CloudWatch Logs",
        provider: network(workload, 2.0, volume.sent_gb, prices).into(),
        customers: log_group(workload, volume, prices),
        // Vector puts what a stream has gathered in a second, its default.
        puts_per_second: (workload.pods as f64).min(volume.records / SECONDS),
        assumes_per_second: nodes * tenants_of_node / 3_600.0,
    }
}

/// Vector sends to one Firehose stream, which writes into the customers' buckets by dynamic partitioning. Firehose cannot
/// write to CloudWatch Logs.
fn firehose(workload: &Workload, volume: &Volume, prices: &Prices) -> Way {
    let billed = (workload.record_bytes / FIREHOSE_STEP).ceil() * FIREHOSE_STEP;
    let json_gb = volume.json_gb * JSON_GB / GB;
    let by_time = workload.tenants as f64 * SECONDS / workload.batch_seconds;
    let objects = by_time.min(volume.records).max(json_gb * GB / FIREHOSE_BUFFER);
    let mut items = vec![
        item("Firehose ingestion", volume.records * billed / GB, prices.firehose_ingestion),
        item("Firehose partitioning", json_gb, prices.firehose_partitioning),
        item("Firehose objects", objects, prices.firehose_object),
        item("Firehose JQ", HOURS, prices.firehose_jq),
    ];
    items.extend(network(workload, 1.0, json_gb, prices));
    let kept = json_gb / workload.compression * workload.retention_days / DAYS;
    let customers =
        vec![item("S3 PutObject", objects, prices.s3_put), item("S3 storage", kept, prices.s3_storage)];
    Way {
        name: "Firehose to customers' buckets",
        provider: items.into(),
        customers: customers.into(),
        puts_per_second: 0.0,
        assumes_per_second: 0.0,
    }
}

#[cfg(test)]
mod tests;
