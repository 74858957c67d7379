use std::{fs, path::Path};

use serde_yaml_ng::Value;

use super::*;
use crate::config::Config;

/// 1,000 GB of JSON a month, in a million objects and a thousand million records.
fn workload() -> Workload {
    Workload {
        gb_per_day: 1_000.0 * 24.0 / 730.0,
        pods: 100,
        tenants: 10,
        object_bytes: Some(1e6),
        batch_seconds: 300.0,
        record_bytes: 1_000.0,
        message_share: 0.2,
        compression: 5.0,
        staging_days: 7.3,
        retention_days: 73.0,
        pods_per_node: 20.0,
        network: Network::Endpoints,
    }
}

/// Two numbers that differ by no more than the rounding of hand-computed ones.
#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-4 * expected.abs().max(0.01), "{found} is not {expected}");
}

#[track_caller]
fn usd(bill: &Bill, name: &str) -> f64 {
    let found: Vec<_> = bill.items.iter().filter(|item| item.name == name).collect();
    assert_eq!(found.len(), 1, "{name} in {bill:?}");
    found[0].usd
}

#[test]
fn each_item_is_as_computed_by_hand() {
    let Costs { volume, ways, .. } = costs(workload(), &Prices::default());
    near(volume.json_gb, 1_000.0);
    near(volume.objects, 1e6);
    near(volume.records, 1e9);
    // 1e9 x (200 + 26) / 2^30
    near(volume.billed_gb, 210.4789);
    assert_eq!(volume.puts_per_object, 1.0);
    near(volume.ledger_writes_per_object, 2.0);
    // 1e6 x (0.22 + 1.2) ms = 1,420 s
    near(volume.cpu_hours, 0.394_444);
    assert_eq!(volume.workers, 2.0);
    // 1e9 x (200 + 44) / 2^30
    near(volume.sent_gb, 227.2427);
    let [ferry, straight, firehose] = &ways[..] else { panic!("{ways:?}") };
    for (name, expected) in [
        ("S3 PutObject", 5.0),
        ("S3 GetObject", 0.4),
        // 200e9 / 2^30 GB for 7.3 / 30.41667 of a month, x 0.023
        ("S3 storage", 1.028_18),
        ("SNS publishes", 0.5),
        // 230,000 + 2 x 2,628,000 / 20 = 492,800
        ("SQS requests", 0.197_12),
        // 2e6
        ("DynamoDB ledger writes", 1.25),
        // 1e6 x 18 / 30.41667 x 500 / 2^30 = 0.275567 GB
        ("DynamoDB ledger storage", 0.068_892),
        ("DynamoDB ledger recovery", 0.055_113),
        // 2 x 10 x 288 x 30.41667 / 2 = 87,600
        ("DynamoDB tenant reads", 0.010_95),
        ("STS AssumeRole", 0.0),
        ("KMS key", 1.0),
        // 20,000
        ("KMS requests", 0.06),
        // 1,460 vCPU-hours, and 5,840 GB-hours
        ("Workers, CPU", 47.2748),
        ("Workers, memory", 20.7904),
        // 3 services x 2 zones x 730
        ("Network, hours", 43.8),
        // 227.2427 + 3e9 / 2^30
        ("Network, data", 2.300_367),
    ] {
        near(usd(&ferry.provider, name), expected);
    }
    assert_eq!(ferry.provider.items.len(), 16);
    near(ferry.provider.usd, 123.735_82);
    near(usd(&ferry.customers, "CloudWatch Logs ingestion"), 105.239_5);
    // 210.4789 x 0.15 x 2.4 months x 0.03
    near(usd(&ferry.customers, "CloudWatch Logs storage"), 2.273_172);
    // 1e6 / 2,628,000
    near(ferry.puts_per_second, 0.380_518);
    // 2 workers x 11 roles / 3,600
    near(ferry.assumes_per_second, 0.006_111);

    near(straight.provider.usd, 2.0 * 2.0 * 730.0 * 0.01 + 2.272_427);
    assert_eq!(straight.customers, ferry.customers);
    // One a second from each of 100 pods; 380 records a second would allow more.
    near(straight.puts_per_second, 100.0);
    // 5 nodes x 10 tenants / 3,600
    near(straight.assumes_per_second, 0.013_889);

    // 1e9 x 5,120 / 2^30 x 0.029
    near(usd(&firehose.provider, "Firehose ingestion"), 138.2828);
    near(usd(&firehose.provider, "Firehose partitioning"), 18.626_45);
    // 10 tenants x 8,760 in a month
    near(usd(&firehose.provider, "Firehose objects"), 0.438);
    near(usd(&firehose.provider, "Firehose JQ"), 51.1);
    near(usd(&firehose.customers, "S3 storage"), 931.3226 / 5.0 * 2.4 * 0.023);
}

/// What the templates, the collector's sinks and the worker's defaults have too.
#[test]
fn assumptions_are_what_is_shipped() {
    let yaml = |file: &str| -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        serde_yaml_ng::from_str(&fs::read_to_string(path).expect("the file exists")).expect("YAML")
    };
    let default = |file: &str, parameter: &str| yaml(file)["Parameters"][parameter]["Default"].as_f64();
    assert_eq!(default("cloudformation/core.yaml", "StagingDays"), Some(STAGING_DAYS));
    assert_eq!(default("cloudformation/customer.yaml", "RetentionDays"), Some(RETENTION_DAYS));
    let batch = &yaml("k8s/collector/base/staging.yaml")["sinks"]["staging"]["batch"];
    assert_eq!(batch["timeout_secs"].as_f64(), Some(BATCH_SECONDS));
    // LARGEST_OBJECT was measured with it.
    assert_eq!(batch["max_bytes"].as_u64(), Some(64 << 20));
    let task = &yaml("cloudformation/ecs.yaml")["Resources"]["TaskDefinition"]["Properties"];
    assert_eq!((task["Cpu"].as_str(), task["Memory"].as_str()), (Some("1024"), Some("4096")));
    assert_eq!(TASK_GB, 4.0);
    let config = Config::default();
    assert_eq!(config.ledger.retention.as_secs_f64(), LEDGER_DAYS * 86_400.0);
    assert_eq!(config.tenants.cache_ttl.as_secs_f64() * LOOKUPS_PER_DAY, 86_400.0);
}

#[test]
fn objects_are_what_a_pod_writes_in_the_time_of_a_batch() {
    let check = |pods: u64, expected: f64| {
        let volume = Volume::of(&Workload { pods, object_bytes: None, ..workload() });
        near(volume.object_bytes, expected);
        near(volume.objects * volume.object_bytes, 1e12);
    };
    // 1e12 bytes in 8,760 times 300 s.
    check(100, 1_141_552.5);
    check(10_000, 11_415.525);
    // Vector closes an object that is full.
    check(1, 10e6);
    // An object has at least a record.
    check(10_000_000, 1_000.0);
}

#[test]
fn large_objects_need_more_puts_and_more_writes_to_the_ledger() {
    let volume = |object_bytes: f64| Volume::of(&Workload { object_bytes: Some(object_bytes), ..workload() });
    // 226 billed bytes per 1,000; 1,048,576 of them fill a request.
    for (object_bytes, puts) in [(1e3, 1.0), (4.6e6, 1.0), (4.7e6, 2.0), (1e8, 22.0)] {
        assert_eq!(volume(object_bytes).puts_per_object, puts, "{object_bytes}");
        near(volume(object_bytes).ledger_writes_per_object, puts + 1.0);
    }
}

#[test]
fn workers_are_as_many_as_the_cpu_needs_at_half_load() {
    let workers = |gb_per_day: f64| Volume::of(&Workload { gb_per_day, ..workload() }).workers;
    let month = 24.0 / 730.0;
    // 0.39444 hours per 1,000 GB.
    assert_eq!(workers(1_000.0 * month), 2.0);
    assert_eq!(workers(1_000.0 * month * 730.0 / 0.395), 2.0);
    assert_eq!(workers(1_000.0 * month * 1_900.0), 3.0);
}

#[test]
fn every_price_has_a_name_of_its_own_and_can_be_changed() {
    let before = costs(workload(), &Prices::default());
    let nat = costs(Workload { network: Network::Nat, ..workload() }, &Prices::default());
    let mut names: Vec<_> = Prices::default().all().iter().map(|price| price.name).collect();
    for name in &names {
        let mut prices = Prices::default();
        prices.named(name).expect("each price is found by its name").usd += 1.0;
        let changed = costs(workload(), &prices) != before
            || costs(Workload { network: Network::Nat, ..workload() }, &prices) != nat;
        assert!(changed, "no item has the price {name}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Prices::default().all().len());
    assert!(Prices::default().named("gold").is_none());
}

#[test]
fn networks_differ_in_hours_and_data() {
    let hours = |network| {
        let Costs { ways, .. } = costs(Workload { network, ..workload() }, &Prices::default());
        let items = ways[0].provider.items.iter().filter(|item| item.name.starts_with("Network"));
        items.map(|item| item.usd).collect::<Vec<_>>()
    };
    near(hours(Network::Nat)[0], 65.7);
    near(hours(Network::Nat)[1], 230.0367 * 0.045);
    assert_eq!(hours(Network::Free), [0.0; 0]);
}
