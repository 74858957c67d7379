//! `logferry compact`: readers see every record once while the program runs, after it was killed, and when two run at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_s3::{Client, types::ObjectLockMode};
use bytes::Bytes;
use logferry::{
    lake::{
        compact::memory_bound,
        manifest::{Manifest, is_compacted, url},
        parquet::{ParquetReader, ParquetWriter},
        record::LakeRecord,
    },
    tenant::Compression,
};
use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::provision::{Customer, CustomerSpec};
use serde_json::{Value, json};

use crate::{
    lakes::{lake_row, lines},
    operator::{Ended, end, run, signal, start},
    samples::{Object, gzip},
    setup::{Setup, text},
    target::unique_account,
};

const FORMATS: [&str; 2] = ["ndjson", "parquet"];
/// All hours of the records.
const SINCE: [&str; 3] = ["compact", "--since", "2026-01-01T00:00:00Z"];
/// No time to wait.
const QUICK: [&str; 6] = ["--settle", "0s", "--remove-after", "0s", "--takeover-after", "0s"];
/// End of the names of a worker's files, before their ending.
const HASH: &str = "-0123456789abcdef";
/// Length of messages that make memory scarce.
const LONG_MESSAGE: usize = 1 << 20;
/// Number of kills. More can be had by LOGFERRY_COMPACT_KILLS.
const KILLS: usize = 12;

/// A tenant whose bucket a worker has filled, one file for each object, hour and format.
struct Filled {
    setup: Setup,
    customer: Customer,
    bucket: String,
    environment: BTreeMap<String, String>,
    /// The messages that a reader must find, in each format.
    messages: Vec<String>,
}

/// Records of two hours.
fn object(number: usize) -> (Object, Vec<String>) {
    let messages: Vec<_> = (0..20).map(|record| format!("{number} {record}")).collect();
    let record = |(index, message): (usize, &String)| json!({ "message": message, "timestamp": format!("2026-01-02T{:02}:{:02}:00Z", 3 + index % 2, number) });
    let records: Vec<_> = messages.iter().enumerate().map(record).collect();
    let text = json!(records).to_string();
    let key = format!("acme/c/web/pod-{number}/1.json.gz");
    (Object { key, bytes: gzip(text.as_bytes()), text }, messages)
}

async fn filled(name: &str) -> Filled {
    let setup = Setup::new(name).await;
    let customer = setup.customer_in(&unique_account(), CustomerSpec::new("acme")).await;
    let bucket = format!("{}-acme", setup.provider.bucket);
    customer.create_bucket(&setup.aws, &setup.provider, &bucket).await.expect("the bucket can be created");
    customer.let_role_compact_lake(&setup.aws, &bucket).await.expect("the policy can be set");
    for format in FORMATS {
        let fields = [("format", format), ("bucket_prefix", format)];
        setup.put_row(lake_row(&customer, &bucket, &format!("s3#{format}"), &fields)).await;
    }
    let (objects, messages): (Vec<_>, Vec<_>) = (0..8).map(object).unzip();
    let mut messages = messages.concat();
    messages.sort();
    let worker = setup.worker().await;
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, objects.len()).await;
    let mut environment = setup.environment().await;
    let settings = ["TENANT_CONFIG_TABLE", "CENTRAL_LOG_DISTRIBUTION_ROLE_ARN"];
    environment.retain(|name, _| name.starts_with("AWS_") || settings.contains(&name.as_str()));
    Filled { setup, customer, bucket, environment, messages }
}

impl Filled {
    fn s3(&self) -> Client {
        self.setup.aws.account(&self.customer.account).s3()
    }

    async fn compact(&self, arguments: &[&str]) -> Ended {
        run(&[&SINCE[..], &QUICK, arguments].concat(), &self.environment).await
    }

    /// Puts two more files into a folder of each format.
    async fn add(&mut self, round: usize) {
        for part in ["a", "b"] {
            let message = format!("added {round} {part}");
            let line = json!({ "message": message }).to_string();
            let mut writer = ParquetWriter::new(Compression::Zstd).expect("a file");
            writer.push(&LakeRecord { message: &message, ..LakeRecord::default() });
            let bodies = [gzip(line.as_bytes()).into(), Bytes::from(writer.finish().expect("a file"))];
            for ((format, ending), body) in FORMATS.into_iter().zip(["ndjson.gz", "parquet"]).zip(bodies) {
                let key = format!(
                    "{format}/source=web/year=2026/month=01/day=02/hour=03/{round}{part}{HASH}.{ending}"
                );
                let put = self.s3().put_object().bucket(&self.bucket).key(key).body(body.into());
                put.send().await.expect("the file can be put");
            }
            self.messages.push(message);
        }
        self.messages.sort();
    }

    async fn keys(&self) -> Vec<String> {
        let mut pages = self.s3().list_objects_v2().bucket(&self.bucket).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.expect("the bucket can be listed");
            keys.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| object.key));
        }
        keys
    }

    /// Keys of files of records.
    async fn files(&self) -> Vec<String> {
        let mut keys = self.keys().await;
        keys.retain(|key| !key.contains("/manifests/"));
        keys
    }

    async fn get(&self, key: &str) -> Option<Bytes> {
        let object = self.s3().get_object().bucket(&self.bucket).key(key).send().await.ok()?;
        Some(object.body.collect().await.ok()?.into_bytes())
    }

    async fn manifests(&self, keys: &[String]) -> Option<BTreeMap<String, Bytes>> {
        let mut found = BTreeMap::new();
        for key in keys.iter().filter(|key| key.contains("/manifests/")) {
            found.insert(key.clone(), self.get(key).await?);
        }
        Some(found)
    }

    /// Reads everything as the reader's rule says. `None`: something changed meanwhile, so this was no single moment.
    async fn read(&self) -> Option<BTreeMap<&'static str, Vec<String>>> {
        let before = self.manifests(&self.keys().await).await?;
        let keys = self.keys().await;
        let mut files = BTreeMap::new();
        for key in &keys {
            files.insert(key.clone(), self.get(key).await);
        }
        if self.manifests(&self.keys().await).await? != before {
            return None;
        }
        let manifests: Vec<_> =
            before.values().map(|text| Manifest::parse(text).expect("a whole manifest")).collect();
        let mut messages: BTreeMap<_, Vec<String>> = FORMATS.map(|format| (format, Vec::new())).into();
        for (key, body) in files.into_iter().filter(|(key, _)| !key.contains("/manifests/")) {
            let file = url(&self.bucket, &key);
            let counts = match manifests.iter().find(|manifest| manifest.state(&file).is_some()) {
                Some(manifest) => manifest.counts(&file),
                None => !is_compacted(&file),
            };
            if !counts {
                continue;
            }
            let body = body.unwrap_or_else(|| panic!("{key} counts, and does not exist"));
            match key.starts_with("ndjson") {
                true => {
                    let found =
                        lines(&body).into_iter().map(|line| line["message"].as_str().map(str::to_owned));
                    messages.get_mut("ndjson").expect("it is there").extend(found.flatten());
                }
                false => {
                    let mut reader = ParquetReader::new(body).expect("a Parquet file");
                    while let Some(row) = reader.next_row().expect("a good row") {
                        messages.get_mut("parquet").expect("it is there").push(row.message.to_owned());
                    }
                }
            }
        }
        messages.values_mut().for_each(|messages| messages.sort());
        Some(messages)
    }

    /// Checks that a reader sees every record once.
    async fn check(&self, context: &str) {
        let read = self.read().await.expect("nothing changes");
        for (format, messages) in read {
            assert!(messages == self.messages, "{context}: {format}: {messages:?}");
        }
    }

    /// Checks that nothing is left to do: one file in each folder, and every record once.
    async fn check_done(&self, context: &str) {
        self.check(context).await;
        let files = self.files().await;
        let folders: BTreeSet<_> =
            files.iter().filter_map(|key| key.rsplit_once('/')).map(|(folder, _)| folder).collect();
        assert_eq!((files.len(), folders.len()), (4, 4), "{context}: {files:?}");
        assert!(files.iter().all(|key| is_compacted(key)), "{context}: {files:?}");
        let done = self.compact(&["--json"]).await.with(0).json();
        for lake in done["lakes"].as_array().expect("an array") {
            assert_eq!((&lake["merged_files"], &lake["deleted_files"]), (&json!(0), &json!(0)), "{done:#}");
        }
    }

    /// Lets the program's calls take some time, so that kills hit different ones. Only the sandbox can.
    fn slow_down(&self) {
        if let Some(sandbox) = self.setup.sandbox() {
            let slow = Effect::Latency { milliseconds: 60 };
            sandbox.faults().add(Fault::new("s3", "PutObject|DeleteObjects|ListObjectsV2", slow));
        }
    }
}

fn sums(compacted: &Value) -> (u64, u64) {
    let lakes = compacted["lakes"].as_array().expect("an array");
    let sum = |name: &str| lakes.iter().map(|lake| lake[name].as_u64().expect("a number")).sum();
    (sum("merged_files"), sum("written_files"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_become_one_and_every_record_stays() {
    let filled = filled("compact").await;
    let before = filled.files().await;
    assert_eq!(before.len(), 2 * 2 * 8);
    let mut bodies = Vec::new();
    for key in &before {
        bodies.push(filled.get(key).await.expect("the file is there"));
    }
    let foreseen = filled.compact(&["--dry-run", "--json"]).await.with(0).json();
    assert_eq!(sums(&foreseen), (32, 4), "{foreseen:#}");
    assert_eq!(filled.files().await, before);

    let ended = filled.compact(&["--json", "--concurrency", "3"]).await.with(0).saying("32 files");
    assert_eq!(sums(&ended.json()), (32, 4), "{ended:?}");
    filled.check_done("compacted").await;
    let text = filled.compact(&["--tenant", "acme", "--delivery", "s3#parquet"]).await.with(0);
    assert!(text.stdout.contains("s3#parquet") && !text.stdout.contains("s3#ndjson"), "{text:?}");

    // A message that comes again writes files again.
    for (key, body) in before.iter().zip(&bodies).filter(|(key, _)| key.contains("hour=03")).step_by(5) {
        let put = filled.s3().put_object().bucket(&filled.bucket).key(key).body(body.clone().into());
        put.send().await.expect("the file can be put");
    }
    assert_eq!(filled.files().await.len(), 4 + 4, "files are there again");
    filled.check("files came back").await;
    let again = filled.compact(&["--json"]).await.with(0).json();
    let deleted = again["lakes"].as_array().expect("an array").iter();
    assert_eq!(deleted.filter_map(|lake| lake["deleted_files"].as_u64()).sum::<u64>(), 4, "{again:#}");
    filled.check_done("deleted again").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_moments_are_harmless() {
    let mut filled = filled("compact-killed").await;
    filled.slow_down();
    let kills = std::env::var("LOGFERRY_COMPACT_KILLS").ok().and_then(|kills| kills.parse().ok());
    let kills = kills.unwrap_or(KILLS);
    let mut random = fastrand::Rng::with_seed(18);
    // How long a run takes that nobody kills.
    let began = Instant::now();
    filled.compact(&[]).await.with(0);
    let mut whole = began.elapsed();
    let (mut rounds, mut killed) = (0, 0);
    while killed < kills {
        assert!(rounds < 4 * kills, "{killed} of {rounds} runs were killed");
        rounds += 1;
        filled.add(rounds).await;
        let child = start(&[&SINCE[..], &QUICK].concat(), &filled.environment);
        tokio::time::sleep(whole.mul_f64(random.f64())).await;
        signal(&child, "KILL");
        let ended = child.wait_with_output().await.expect("the command can be waited for");
        match ended.status.code() {
            None => killed += 1,
            // This run had less to do than the one that was measured.
            Some(_) => whole = whole.mul_f64(0.9),
        }
        filled.check(&format!("run {rounds}, {:?}", ended.status)).await;
    }
    filled.compact(&[]).await.with(0);
    filled.check_done("after the kills").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_two_runs_sees_every_record_once() {
    let filled = filled("compact-read").await;
    filled.slow_down();
    let done = AtomicBool::new(false);
    let reader = async {
        let mut moments = 0;
        while !done.load(Ordering::Relaxed) {
            let Some(read) = filled.read().await else { continue };
            for (format, messages) in read {
                assert!(messages == filled.messages, "{format}: {messages:?}");
            }
            moments += 1;
        }
        moments
    };
    let runs = async {
        let arguments = [&SINCE[..], &["--settle", "300ms", "--json"]].concat();
        let one = run(&arguments, &filled.environment);
        let other = run(&arguments, &filled.environment);
        let (one, other) = tokio::join!(one, other);
        done.store(true, Ordering::Relaxed);
        [one, other].map(|ended| sums(&ended.with(0).json()))
    };
    let (moments, [one, other]) = tokio::join!(reader, runs);
    assert_eq!((one.0 + other.0, one.1 + other.1), (32, 4), "{one:?} {other:?}");
    eprintln!("{moments} moments were read");
    assert!(filled.files().await.len() > 4, "the sources stay until later");
    filled.compact(&[]).await.with(0);
    filled.check_done("both have ended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_tenant_and_a_broken_file_stop_nothing_else() {
    let filled = filled("compact-broken").await;
    let denied = filled.setup.customer_in(&unique_account(), CustomerSpec::new("denied")).await;
    let theirs = format!("{}-denied", filled.setup.provider.bucket);
    denied
        .create_bucket(&filled.setup.aws, &filled.setup.provider, &theirs)
        .await
        .expect("the bucket can be created");
    denied.let_role_write_lake(&filled.setup.aws, &theirs).await.expect("the policy can be set");
    let fields = [("format", "ndjson"), ("bucket_prefix", "logs")];
    filled.setup.put_row(lake_row(&denied, &theirs, "s3", &fields)).await;
    let mut bad = lake_row(&denied, &theirs, "s3#bad", &fields);
    bad.insert("layout".to_owned(), text("{file}"));
    filled.setup.put_row(bad).await;
    let folder = "ndjson/source=web/year=2026/month=01/day=02/hour=03/";
    let broken = format!("{folder}0{HASH}.ndjson.gz");
    let put =
        filled.s3().put_object().bucket(&filled.bucket).key(&broken).body(Bytes::from_static(b"{}").into());
    put.send().await.expect("the file can be put");

    // Files of other programs, and a file of the lake with a line that is no record.
    let line = gzip(b"{\"message\":\"theirs\"}\n");
    let foreign =
        ["notes", "my notes", "caf\u{e9}", "a%3Ab", "a+b"].map(|name| format!("{folder}{name}.ndjson.gz"));
    let bad_line = format!("{folder}1{HASH}.ndjson.gz");
    let bodies = foreign.iter().map(|key| (key, line.clone()));
    for (key, body) in bodies.chain([(&bad_line, gzip(b"{}\n[1]\n"))]) {
        let put = filled.s3().put_object().bucket(&filled.bucket).key(key).body(body.into());
        put.send().await.expect("the file can be put");
    }

    let ended = filled.compact(&["--json"]).await.with(1);
    let compacted = ended.json();
    assert_eq!(sums(&compacted), (32, 4), "{compacted:#}");
    let failures = |name: &str| {
        let lakes = compacted["lakes"].as_array().expect("an array");
        let lake = lakes.iter().find(|lake| lake["type"] == name).expect("the row is there");
        lake["failures"].to_string()
    };
    assert!(failures("s3").contains("s3:ListBucket"), "{compacted:#}");
    assert!(failures("s3#bad").contains("layout"), "{compacted:#}");
    assert!(failures("s3#ndjson").contains(&broken), "{compacted:#}");
    assert!(failures("s3#ndjson").contains(&format!("{bad_line} stays as it is: line 2")), "{compacted:#}");
    assert_eq!(failures("s3#parquet"), "[]");
    let files = filled.files().await;
    assert!(files.contains(&broken) && files.contains(&bad_line), "{files:?}");
    for key in &foreign {
        assert!(filled.get(key).await.is_some_and(|body| body == line), "{key} of {files:?}");
    }

    filled.compact(&["--tenant", "nobody"]).await.with(66).saying("nobody");
    filled.compact(&["--since", "1h"]).await.with(2);
}

/// A message brings a source back, with more records, between the listing and the delete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_comes_back_while_it_is_deleted_stays() {
    let filled = filled("compact-returned").await;
    let Some(sandbox) = filled.setup.sandbox() else { return };
    let keep = [&SINCE[..], &["--settle", "0s", "--delivery", "s3#ndjson"]].concat();
    run(&keep, &filled.environment).await.with(0);
    let source =
        filled.files().await.into_iter().find(|key| key.starts_with("ndjson/") && !is_compacted(key));
    let source = source.expect("the sources are still there");
    let slow = Effect::Latency { milliseconds: 3000 };
    sandbox.faults().add(Fault::new("s3", "DeleteObjects", slow));
    let child =
        start(&[&SINCE[..], &QUICK, &["--delivery", "s3#ndjson", "--json"]].concat(), &filled.environment);
    // The run has listed the files, and its call waits in the sandbox.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let more = gzip(b"{\"message\":\"more\"}\n");
    let put = filled.s3().put_object().bucket(&filled.bucket).key(&source).body(more.clone().into());
    put.send().await.expect("the file can be put");
    let deleted = end(child).await;
    assert_eq!(deleted.json()["lakes"][0]["deleted_files"], json!(15), "{deleted:?}");
    assert_eq!(filled.get(&source).await, Some(Bytes::from(more)));
    filled.check("a source came back").await;
    let told = filled.compact(&["--delivery", "s3#ndjson"]).await.with(1);
    assert!(told.stdout.contains(&source) && told.stdout.contains("it has 1 records now"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_file_is_locked_and_its_sources_stay_as_versions() {
    let setup = Setup::new("compact-locked").await;
    if setup.sandbox().is_none() {
        return;
    }
    let customer = setup.customer_in(&unique_account(), CustomerSpec::new("acme")).await;
    let s3 = setup.aws.account(&customer.account).s3();
    let bucket = format!("{}-locked", setup.provider.bucket);
    let create = s3.create_bucket().bucket(&bucket).object_lock_enabled_for_bucket(true);
    create.send().await.expect("the bucket can be created");
    customer.let_role_compact_lake(&setup.aws, &bucket).await.expect("the policy can be set");
    let fields = [("format", "parquet"), ("bucket_prefix", ""), ("object_lock_mode", "governance")];
    let mut row = lake_row(&customer, &bucket, "s3", &fields);
    row.insert("object_lock_days".to_owned(), AttributeValue::N("30".to_owned()));
    setup.put_row(row).await;
    let worker = setup.worker().await;
    let objects: Vec<_> = (0..2).map(|number| object(number).0).collect();
    setup.upload_all(&objects).await;
    setup.acknowledged(&worker, 2).await;
    let arguments = [&SINCE[..], &QUICK, &["--json"]].concat();
    let compacted = run(&arguments, &setup.environment().await).await;
    assert_eq!(sums(&compacted.with(0).json()), (4, 2));
    let listed = s3.list_objects_v2().bucket(&bucket).send().await.expect("the bucket can be listed");
    let keys = listed.contents.unwrap_or_default().into_iter().filter_map(|object| object.key);
    let merged: Vec<_> = keys.filter(|key| is_compacted(key)).collect();
    assert_eq!(merged.len(), 2, "{merged:?}");
    for key in merged {
        let head = s3.head_object().bucket(&bucket).key(&key).send().await.expect("the file is there");
        assert_eq!(head.object_lock_mode, Some(ObjectLockMode::Governance));
        assert!(head.object_lock_retain_until_date.is_some());
    }
}

/// Peak of a process's resident memory, while the process runs.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

impl Filled {
    /// Runs the program, and returns the peak of its memory.
    async fn peak(&self) -> (Ended, u64) {
        let options = ["--delivery", "s3#parquet", "--concurrency", "1", "--json"];
        let child = start(&[&SINCE[..], &QUICK, &options].concat(), &self.environment);
        let pid = child.id().expect("it runs");
        let done = AtomicBool::new(false);
        let watch = async {
            let mut highest = 0;
            while !done.load(Ordering::Relaxed) {
                highest = highest.max(resident(pid).unwrap_or_default());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            highest
        };
        let run = async {
            let ended = end(child).await;
            done.store(true, Ordering::Relaxed);
            ended
        };
        let (highest, ended) = tokio::join!(watch, run);
        (ended, highest)
    }
}

/// Two sources nearly as large as any, of text that does not compress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_takes_no_more_memory_than_the_program_tells() {
    let mut filled = filled("compact-memory").await;
    if filled.setup.sandbox().is_none() || !cfg!(target_os = "linux") {
        return;
    }
    let (_, program) = filled.peak().await;
    let mut random = fastrand::Rng::with_seed(3);
    for name in ["x", "y"] {
        let mut writer = ParquetWriter::new(Compression::Zstd).expect("a file");
        while writer.encoded() < 55 << 20 {
            let noise = std::iter::repeat_with(|| random.u8(b' '..0x7f)).take(LONG_MESSAGE);
            let message = String::from_utf8(noise.collect()).expect("ASCII");
            writer.push(&LakeRecord { message: &message, ..LakeRecord::default() });
            filled.messages.push(message);
            if writer.pending_bytes() >= 4 << 20 {
                writer.end_group().expect("a group");
            }
        }
        let body = Bytes::from(writer.finish().expect("a file"));
        let key = format!("parquet/source=web/year=2026/month=01/day=02/hour=03/{name}{HASH}.parquet");
        let put = filled.s3().put_object().bucket(&filled.bucket).key(key).body(body.into());
        put.send().await.expect("the file can be put");
    }
    let (ended, highest) = filled.peak().await;
    assert_eq!(sums(&ended.with(0).json()), (3, 1));
    let (used, bound) = (highest.saturating_sub(program), memory_bound(128 << 20));
    eprintln!("{} MiB of {} MiB, and {} MiB for the program", used >> 20, bound >> 20, program >> 20);
    assert!(used < bound, "{} MiB of {} MiB", used >> 20, bound >> 20);
    assert!(used > bound / 3, "{} MiB: this was no large merge", used >> 20);
    let read = filled.read().await.expect("nothing changes");
    filled.messages.sort();
    assert!(read["parquet"] == filled.messages, "the records differ");
}
