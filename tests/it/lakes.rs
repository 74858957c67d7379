//! Customers' lakes: NDJSON and Parquet files, partitioned by hour, and read back record by record.
//!
//! With `LOGFERRY_LAKE_FILES=FOLDER`, the files and the expected records are also left in that folder, for
//! `tests/lake/read_back.py`, which reads them with duckdb and pyarrow.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    io::Read,
    path::Path,
};

use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use jiff::{SignedDuration, Timestamp};
use logferry::lake::parquet::ParquetReader;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use logferry_testbed::provision::{Customer, CustomerSpec};
use serde_json::{Deserializer, Value, json};

use crate::{
    eventually::eventually,
    samples::{Object, assert_same_events, expected, fixtures, generated, gzip, received_events},
    setup::{Setup, text},
    target::unique_account,
};

/// A customer with a bucket that its own role may write lake files to.
async fn with_lake(setup: &Setup, tenant_id: &str) -> (Customer, String) {
    let customer = setup.customer_in(&unique_account(), CustomerSpec::new(tenant_id)).await;
    let bucket = format!("{}-{tenant_id}", setup.provider.bucket);
    customer.create_bucket(&setup.aws, &setup.provider, &bucket).await.expect("the bucket can be created");
    customer.let_role_write_lake(&setup.aws, &bucket).await.expect("the policy can be set");
    (customer, bucket)
}

pub(crate) fn lake_row(
    customer: &Customer,
    bucket: &str,
    name: &str,
    fields: &[(&str, &str)],
) -> HashMap<String, AttributeValue> {
    let mut row = customer.lake_row(bucket, "ndjson");
    row.insert("type".to_owned(), text(name));
    for (field, value) in fields {
        row.insert((*field).to_owned(), text(value));
    }
    row
}

/// The files below a prefix of a customer's bucket, by the rest of their keys.
async fn files(setup: &Setup, customer: &Customer, bucket: &str, prefix: &str) -> BTreeMap<String, Bytes> {
    let objects = customer.objects(&setup.aws, bucket).await.expect("the bucket can be read");
    let below = |object: logferry_testbed::provision::ReceivedObject| {
        Some((object.key.strip_prefix(prefix)?.to_owned(), object.bytes))
    };
    objects.into_iter().filter_map(below).collect()
}

pub(crate) fn lines(file: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    MultiGzDecoder::new(file).read_to_string(&mut text).expect("gzip of UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn rows(file: Bytes) -> Vec<Value> {
    let mut reader = ParquetReader::new(file).expect("a Parquet file");
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().expect("a good row") {
        rows.push(json!({
            "timestamp": row.timestamp, "message": row.message, "tenant": row.tenant, "cluster": row.cluster,
            "application": row.application, "pod": row.pod, "stream": row.stream,
        }));
    }
    rows
}

/// The records of an object, each with the columns and the partition that it must have.
fn wanted(object: &Object) -> Vec<Value> {
    let names: Vec<_> = object.key.split('/').collect();
    let record = |record: &Value| {
        let at: Timestamp = record["timestamp"].as_str().expect("text").parse().expect("RFC 3339");
        let hour = at.strftime("%Y %m %d %H").to_string();
        let time: Vec<_> = hour.split(' ').collect();
        json!({
            "timestamp": at.as_nanosecond().div_euclid(1_000_000) as i64,
            "message": record["message"], "tenant": names[0], "cluster": names[1], "application": names[2],
            "pod": names[3], "stream": record.get("stream"), "record": record,
            "partition": {
                "source": names[2], "year": time[0], "month": time[1], "day": time[2], "hour": time[3],
            },
        })
    };
    let mut records = Vec::new();
    for value in Deserializer::from_str(&object.text).into_iter::<Value>() {
        match value.expect("the object is JSON") {
            Value::Array(list) => records.extend(list.iter().map(record)),
            one => records.push(record(&one)),
        }
    }
    records
}

/// Records in an order that does not depend on files.
fn sorted(records: impl IntoIterator<Item = Value>) -> Vec<String> {
    let mut records: Vec<_> = records.into_iter().map(|record| record.to_string()).collect();
    records.sort();
    records
}

fn partition(key: &str) -> Value {
    key.split('/')
        .filter_map(|segment| segment.split_once('='))
        .map(|(name, value)| (name, json!(value)))
        .collect()
}

/// Compares the files of both formats with the records that they must have, and leaves them for other readers.
fn compare(
    what: &str,
    objects: &[&Object],
    ndjson: &BTreeMap<String, Bytes>,
    parquet: &BTreeMap<String, Bytes>,
) {
    let wanted: Vec<_> = objects.iter().flat_map(|object| wanted(object)).collect();
    let columns = ["timestamp", "message", "tenant", "cluster", "application", "pod", "stream", "partition"];
    let of = |record: &Value, names: &[&str]| {
        names.iter().map(|name| (*name, record[name].clone())).collect::<Value>()
    };
    let found = parquet.iter().flat_map(|(key, file)| {
        rows(file.clone()).into_iter().map(|mut row| {
            row["partition"] = partition(key);
            row
        })
    });
    let expected = wanted.iter().map(|record| of(record, &columns));
    assert!(sorted(found.map(|row| of(&row, &columns))) == sorted(expected), "{what}: Parquet");
    let found = ndjson.iter().flat_map(|(key, file)| {
        lines(file).into_iter().map(|record| json!({"record": record, "partition": partition(key)}))
    });
    let expected = wanted.iter().map(|record| of(record, &["record", "partition"]));
    assert!(
        sorted(found.map(|line| of(&line, &["record", "partition"]))) == sorted(expected),
        "{what}: NDJSON"
    );
    let Some(folder) = env::var_os("LOGFERRY_LAKE_FILES") else { return };
    let folder = Path::new(&folder).join(what);
    for (key, file) in ndjson.iter().chain(parquet) {
        let path = folder.join("files").join(key);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders can be made");
        fs::write(path, file).expect("files can be written");
    }
    let text: String = wanted.iter().map(|record| format!("{record}\n")).collect();
    fs::write(folder.join("expected.jsonl"), text).expect("files can be written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_sample_is_in_the_lake_once_and_in_its_partition() {
    let setup = Setup::new("lakes").await;
    let mut lakes = HashMap::new();
    for tenant in ["acme-corp", "globex", "initech"] {
        let (customer, bucket) = with_lake(&setup, tenant).await;
        let ndjson = [("format", "ndjson"), ("bucket_prefix", "ndjson")];
        setup.put_row(lake_row(&customer, &bucket, "s3#ndjson", &ndjson)).await;
        let parquet = [("format", "parquet"), ("bucket_prefix", "parquet")];
        setup.put_row(lake_row(&customer, &bucket, "s3#parquet", &parquet)).await;
        setup.put_row(customer.row()).await;
        lakes.insert(tenant, (customer, bucket));
    }
    let worker = setup.worker().await;
    let mut objects = Vec::new();
    for folder in ["array-gzip", "ndjson-gzip", "array-zstd", "ndjson-plain"] {
        objects.extend(fixtures(folder));
    }
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, objects.len()).await;
    for (tenant, (customer, bucket)) in &lakes {
        let theirs: Vec<_> = objects.iter().filter(|object| object.key.starts_with(tenant)).collect();
        let ndjson = files(&setup, customer, bucket, "ndjson/").await;
        let parquet = files(&setup, customer, bucket, "parquet/").await;
        compare(tenant, &theirs, &ndjson, &parquet);
        let events = received_events(&setup.aws, customer).await.len();
        let events_wanted: usize = theirs.iter().map(|object| expected(&object.text).len()).sum();
        assert_eq!(events, events_wanted, "{tenant}: CloudWatch Logs has every record with a message too");
    }
    setup.no_dead_letters().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_that_denies_is_retried_alone_until_it_takes_the_object() {
    let setup = Setup::new("lake-denied").await;
    let customer = setup.customer_in(&unique_account(), CustomerSpec::new("acme")).await;
    let bucket = format!("{}-acme", setup.provider.bucket);
    customer.create_bucket(&setup.aws, &setup.provider, &bucket).await.expect("the bucket can be created");
    let fields = [("format", "ndjson"), ("bucket_prefix", "")];
    setup.put_row(lake_row(&customer, &bucket, "s3", &fields)).await;
    setup.put_row(customer.row()).await;
    let worker = setup.worker().await;
    let object = generated("acme/c/app/pod/1.json.gz", 50, 40);
    setup.upload_all([&object]).await;
    worker.reaches("logferry_failures_total{reason=\"bucket_denied\"}", 1.0).await;
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
    customer.let_role_write_lake(&setup.aws, &bucket).await.expect("the policy can be set");
    setup.acknowledged(&worker, 1).await;
    let found = files(&setup, &customer, &bucket, "").await;
    assert_eq!(found.values().map(|file| lines(file).len()).sum::<usize>(), 50);
    assert_same_events("acme", &received_events(&setup.aws, &customer).await, &expected(&object.text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_no_record_has_is_told_with_its_row() {
    let setup = Setup::new("lake-fields").await;
    let (customer, bucket) = with_lake(&setup, "acme").await;
    let fields = [("format", "ndjson"), ("bucket_prefix", "bad"), ("fields", "timestamp,Message,level")];
    setup.put_row(lake_row(&customer, &bucket, "s3#bad", &fields)).await;
    let fields = [("format", "ndjson"), ("bucket_prefix", "good"), ("fields", "timestamp,message")];
    setup.put_row(lake_row(&customer, &bucket, "s3#good", &fields)).await;
    let worker = setup.worker().await;
    setup.upload_all([&generated("acme/c/app/pod/1.json.gz", 50, 40)]).await;
    setup.acknowledged(&worker, 1).await;
    let told = async || {
        let lines = worker.log_lines();
        let told: Vec<_> = lines.iter().filter(|line| !line["fields.missing"].is_null()).collect();
        match told.as_slice() {
            [] => Err("no line tells it".to_owned()),
            [line] => Ok((*line).clone()),
            lines => panic!("{lines:?}"),
        }
    };
    let told = eventually("the log tells it", told).await;
    assert_eq!(
        [
            &told["level"],
            &told["tenant.id"],
            &told["delivery.name"],
            &told["fields.missing"],
            &told["fields.similar"]
        ],
        ["WARN", "acme", "s3#bad", "Message,level", "message"],
        "{told:#}"
    );
    assert!(told["message"].as_str().is_some_and(|text| text.contains("mend the names")), "{told:#}");
}

/// An object whose lake files are several parts long: text that does not compress.
fn large(key: &str, records: usize) -> Object {
    let first = Timestamp::now() - SignedDuration::from_mins(10);
    let mut random = fastrand::Rng::with_seed(7);
    let records: Vec<_> = (0..records)
        .map(|index| {
            let noise: String = std::iter::repeat_with(|| random.alphanumeric()).take(50_000).collect();
            let at = first + SignedDuration::from_millis(index as i64);
            json!({"message": format!("{index} {noise}"), "timestamp": at.to_string()})
        })
        .collect();
    let text = serde_json::to_string(&records).expect("JSON");
    Object { key: key.to_owned(), bytes: gzip(text.as_bytes()), text }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_leaves_no_part_of_a_file_and_the_next_one_writes_it_once() {
    let setup = Setup::with("lake-killed", |spec| spec.max_receive_count = 100).await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (customer, bucket) = with_lake(&setup, "acme").await;
    for format in ["ndjson", "parquet"] {
        let fields = [("format", format), ("bucket_prefix", format)];
        setup.put_row(lake_row(&customer, &bucket, &format!("s3#{format}"), &fields)).await;
    }
    let slow = Effect::Latency { milliseconds: 500 };
    sandbox.faults().add(Fault::new("s3", "UploadPart|CompleteMultipartUpload", slow));
    let mut environment = setup.environment().await;
    environment.insert("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT".to_owned(), "10s".to_owned());
    let object = large("acme/c/app/pod/1.json.gz", 400);
    setup.upload_all([&object]).await;
    for _ in 0..3 {
        let begun = sandbox.open_uploads(&bucket).len();
        let worker = setup.start(&environment).await;
        let more = async || match sandbox.open_uploads(&bucket).len() - begun {
            0..2 => Err("no second upload has begun".to_owned()),
            _ => Ok(()),
        };
        eventually("both files are being written", more).await;
        worker.kill().await;
        assert!(files(&setup, &customer, &bucket, "").await.is_empty(), "no file is there in part");
    }
    let worker = setup.start(&environment).await;
    setup.acknowledged(&worker, 1).await;
    let ndjson = files(&setup, &customer, &bucket, "ndjson/").await;
    let parquet = files(&setup, &customer, &bucket, "parquet/").await;
    compare("killed", &[&object], &ndjson, &parquet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_to_a_completion_leaves_every_record_once() {
    let setup = Setup::new("lake-lost").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let (customer, bucket) = with_lake(&setup, "acme").await;
    for format in ["ndjson", "parquet"] {
        let fields = [("format", format), ("bucket_prefix", format)];
        setup.put_row(lake_row(&customer, &bucket, &format!("s3#{format}"), &fields)).await;
    }
    // The call is carried out, and its answer never comes.
    sandbox.faults().add(Fault {
        sessions_only: true,
        times: Some(2),
        ..Fault::new("s3", "CompleteMultipartUpload", Effect::After { error: None })
    });
    sandbox.faults().add(Fault {
        sessions_only: true,
        times: Some(2),
        ..Fault::new("s3", "PutObject", Effect::After { error: None })
    });
    let answer = ErrorAnswer::new(200, "InternalError");
    sandbox.faults().add(Fault {
        sessions_only: true,
        times: Some(1),
        ..Fault::new("s3", "CompleteMultipartUpload", Effect::Error(answer))
    });
    let worker = setup.worker().await;
    let (long, short) =
        (large("acme/c/app/pod/1.json.gz", 200), generated("acme/c/app/pod/2.json.gz", 30, 40));
    setup.upload_all([&long, &short]).await;
    setup.acknowledged(&worker, 2).await;
    let ndjson = files(&setup, &customer, &bucket, "ndjson/").await;
    let parquet = files(&setup, &customer, &bucket, "parquet/").await;
    compare("lost", &[&long, &short], &ndjson, &parquet);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_a_gibibyte_takes_no_more_memory_than_the_bound() {
    let setup = Setup::new("lake-memory").await;
    if setup.sandbox().is_none() {
        return;
    }
    let (customer, bucket) = with_lake(&setup, "acme").await;
    let fields = [("format", "parquet"), ("bucket_prefix", "")];
    setup.put_row(lake_row(&customer, &bucket, "s3", &fields)).await;
    let worker = setup
        .worker_with(&[
            ("LOGFERRY_WORKER__CONCURRENCY", "2"),
            ("LOGFERRY_SOURCE__MAX_RECORD", "1 MiB"),
            // Memory reserved for full caches would hide the memory under test.
            ("LOGFERRY_TENANTS__CACHE_CAPACITY", "100"),
            ("LOGFERRY_CREDENTIALS__CACHE_CAPACITY", "100"),
        ])
        .await;
    // A gibibyte takes minutes in the debug build, so the object is smaller than its name unless the variable is set.
    let records = if env::var_os("LOGFERRY_WHOLE_GIBIBYTE").is_some() { 21_500 } else { 1_000 };
    for number in 0..2 {
        let object = large(&format!("acme/c/app/pod/{number}.json.gz"), records);
        setup.upload_all([&object]).await;
    }
    setup.acknowledged(&worker, 2).await;
    let log = worker.log_lines();
    let bound =
        log.iter().find_map(|line| line["memory.worst_bytes"].as_u64()).expect("the worker logs the bound");
    let Some(peak) = worker.peak_rss() else { return };
    eprintln!("{} MiB of {} MiB", peak >> 20, bound >> 20);
    assert!(peak <= bound, "a peak of {peak} bytes, and the bound is {bound}");
    assert!(peak < 160 << 20, "two objects took {} MiB", peak >> 20);
}
