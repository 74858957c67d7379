//! `logferry manual`: delivers the objects of events, URLs and local files; shows what it would deliver; refuses bad input.

use std::{collections::BTreeMap, fs, path::PathBuf};

use logferry_testbed::provision::ProviderSpec;
use serde_json::{Value, json};

use crate::{
    deliver::check_customer,
    eventually::eventually,
    operator::{Ended, reading, run},
    samples::{Event, Object, assert_same_events, expected, fixtures, generated, received_events},
    setup::{Setup, s3_event, text},
    target::unique,
};

const KEY: &str = "acme/prod-1/web/web-0/1.json.gz";

/// The bodies of all messages of the queue.
async fn bodies(setup: &Setup, count: usize) -> Vec<String> {
    let (sqs, mut bodies) = (setup.account().sqs(), Vec::new());
    eventually("the notifications arrive", async || {
        let receive = sqs.receive_message().queue_url(&setup.provider.queue_url).max_number_of_messages(10);
        let received = receive.send().await.expect("the queue can be read").messages.unwrap_or_default();
        bodies.extend(received.into_iter().filter_map(|message| message.body));
        if bodies.len() == count { Ok(()) } else { Err(format!("{} of {count}", bodies.len())) }
    })
    .await;
    bodies
}

/// The states of all objects of an outcome.
fn states(outcome: &Value) -> Vec<&str> {
    let objects = outcome["objects"].as_array().expect("an outcome has objects");
    objects.iter().map(|object| object["state"].as_str().expect("an object has a state")).collect()
}

/// Removes a local file at the end of a test.
struct LocalFile(PathBuf);

impl LocalFile {
    fn new(bytes: &[u8]) -> Self {
        let name = format!("manual-{}-{}", std::process::id(), unique());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, bytes).expect("the disk has room");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for LocalFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.0);
    }
}

/// Gives the notifications of a folder of samples to the command, in Lambda's envelope, and compares what arrived.
async fn delivers(folder: &str, wiring: impl FnOnce(&mut ProviderSpec)) {
    let setup = Setup::with(&format!("manual-{folder}"), wiring).await;
    let mut customers = Vec::new();
    for tenant_id in ["acme-corp", "globex", "initech"] {
        customers.push(setup.customer(tenant_id).await);
    }
    let objects = fixtures(folder);
    setup.upload_all(&objects).await;
    let records = bodies(&setup, objects.len()).await.into_iter();
    let records: Vec<_> = records.map(|body| json!({ "messageId": "1", "body": body })).collect();
    let event = json!({ "Records": records }).to_string();
    let outcome = reading(&["manual"], &setup.environment().await, &event).await.with(0).json();
    assert_eq!(states(&outcome), vec!["delivered"; objects.len()], "{outcome:#}");
    let mut accepted = 0;
    for customer in &customers {
        accepted += check_customer(&setup, customer, &objects).await;
    }
    let told = outcome["objects"].as_array().into_iter().flatten();
    let told = told.map(|object| object["deliveries"][0]["records"]["accepted"].as_u64().expect("a number"));
    assert_eq!(told.sum::<u64>(), accepted as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_arrays_arrive_as_by_the_worker() {
    delivers("array-gzip", |_| ()).await;
    delivers("array-zstd", |spec| spec.raw_delivery = true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_of_lines_arrive_as_by_the_worker() {
    delivers("ndjson-gzip", |spec| spec.versioned = true).await;
    delivers("ndjson-plain", |spec| (spec.raw_delivery, spec.versioned) = (true, true)).await;
}

/// An event and a URL name the same entry of the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivered_object_is_delivered_again_only_by_force() {
    for versioned in [false, true] {
        let setup = Setup::with("manual-again", |spec| spec.versioned = versioned).await;
        let customer = setup.customer("acme").await;
        let environment = setup.environment().await;
        let object = generated(KEY, 20, 60);
        setup.upload(KEY, object.bytes.clone()).await;
        let url = format!("s3://{}/{KEY}", setup.provider.bucket);
        let outcome = run(&["manual", &url], &environment).await.with(0).json();
        assert_eq!(states(&outcome), ["delivered"], "{outcome:#}");
        assert_eq!(outcome["objects"][0]["tenant"], "acme");
        assert_eq!(outcome["objects"][0]["deliveries"][0]["records"]["accepted"], 20, "{outcome:#}");
        let event = bodies(&setup, 1).await.remove(0);
        let outcome = reading(&["manual"], &environment, &event).await.with(0).json();
        assert_eq!(states(&outcome), ["already_delivered"], "{outcome:#}");
        setup.arrived_once(&customer, [&object]).await;
        let outcome = run(&["manual", "--force", &url], &environment).await.with(0).json();
        assert_eq!(states(&outcome), ["delivered"], "{outcome:#}");
        setup.arrived_once(&customer, [&object, &object]).await;
    }
}

/// As the seed's program is called.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execution_mode_manual_reads_a_message_without_type() {
    let setup = Setup::new("manual-mode").await;
    let customer = setup.customer("acme").await;
    let object = generated(KEY, 5, 60);
    setup.upload(KEY, object.bytes.clone()).await;
    let mut environment = setup.environment().await;
    environment.insert("EXECUTION_MODE".to_owned(), "manual".to_owned());
    let event = s3_event(&setup.provider.bucket, KEY);
    let outcome = reading(&[], &environment, &json!({ "Message": event.to_string() }).to_string()).await;
    assert_eq!(states(&outcome.with(0).json()), ["delivered"]);
    setup.arrived_once(&customer, [&object]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_come_with_reason_and_remedy_and_do_not_stop_the_others() {
    let setup = Setup::new("manual-failures").await;
    let customer = setup.customer("acme").await;
    setup.customer_without_role("globex", &[]).await;
    let object = generated(KEY, 5, 60);
    let refused = "globex/prod-1/web/web-0/1.json.gz";
    for key in [KEY, refused, "nobody/c/a/p/1.json"] {
        setup.upload(key, object.bytes.clone()).await;
    }
    let url = |key: &str| format!("s3://{}/{key}", setup.provider.bucket);
    let keys = ["nobody/c/a/p/1.json", refused, "acme/c/a/p/missing", KEY, "short"].map(url);
    let arguments: Vec<_> = ["manual"].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let outcome = run(&arguments, &setup.environment().await).await.with(1).json();
    assert_eq!(states(&outcome), ["failed", "failed", "failed", "delivered", "failed"], "{outcome:#}");
    assert_eq!(outcome["failed"], 4);
    let of = |index: usize| outcome["objects"][index]["failures"][0].clone();
    let reasons: Vec<_> = [0, 1, 2].map(|index| of(index)["reason"].clone()).into();
    assert_eq!(reasons, ["unknown_tenant", "role_denied", "object_missing"], "{outcome:#}");
    assert_eq!(outcome["objects"][1]["failures"][0]["delivery"], "cloudwatch");
    assert_eq!([of(0)["retry"].clone(), of(1)["retry"].clone()], [false, true]);
    for index in [0, 1, 2] {
        assert!(of(index)["remedy"].as_str().is_some_and(|remedy| remedy.ends_with('.')), "{outcome:#}");
    }
    setup.arrived_once(&customer, [&object]).await;
}

/// The events that a dry run printed, in CloudWatch's order: a batch is sorted, and a later batch may have earlier events.
fn printed(ended: &Ended, group: &str, stream: &str) -> Vec<Event> {
    let lines = ended.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut events: Vec<_> = lines
        .map(|line| {
            let found = [&line["group"], &line["stream"]].map(|name| name.as_str().expect("a name"));
            assert_eq!(found[0], group, "{line}");
            assert!(found[1].starts_with(stream), "{line}");
            let message = line["message"].as_str().expect("a text").to_owned();
            (line["timestamp"].as_i64().expect("milliseconds"), message)
        })
        .collect();
    events.sort_by_key(|(timestamp, _): &Event| *timestamp);
    events
}

/// Needs neither credentials nor a tenant table, nor any other variable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_of_local_files_needs_nothing_of_aws() {
    let nothing = BTreeMap::new();
    for folder in ["array-gzip", "array-zstd", "ndjson-gzip", "ndjson-plain"] {
        for Object { key, bytes, text } in fixtures(folder) {
            let file = LocalFile::new(&bytes);
            let ended = run(&["manual", "--dry-run", "--key", &key, file.path()], &nothing).await.with(0);
            let parts: Vec<_> = key.split('/').collect();
            let stream = format!("{}-{}-20", parts[2], parts[3]);
            assert_same_events(&key, &printed(&ended, "dry-run", &stream), &expected(&text));
            ended.saying("\"dry_run\": true").saying("\"state\": \"delivered\"");
        }
    }
    // The path itself can be the key, and rows can come from a file.
    let root = LocalFile::new(b"").0.with_extension("folder");
    let folder = root.join("acme/prod-1/web/web-0");
    fs::create_dir_all(&folder).expect("the disk has room");
    let object = generated(KEY, 5, 60);
    fs::write(root.join(KEY), &object.bytes).expect("the disk has room");
    let row = json!({ "tenant_id": "acme", "type": "cloudwatch", "enabled": true, "target_region": "eu-central-1",
        "log_distribution_role_arn": "arn:aws:iam::222222222222:role/logs", "log_group_name": "/theirs",
        "log_stream_name": "s/{application}" });
    let rows = LocalFile::new(row.to_string().as_bytes());
    let program = env!("CARGO_BIN_EXE_logferry");
    let output = std::process::Command::new(program)
        .args(["manual", "--dry-run", "--rows", rows.path(), KEY])
        .env_clear()
        .current_dir(&root)
        .output()
        .expect("cargo built the program");
    fs::remove_dir_all(&root).expect("the folder can be removed");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ended =
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    let ended = ended.with(0);
    assert_same_events(KEY, &printed(&ended, "/theirs", "s/web"), &expected(&object.text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_of_an_object_in_s3_puts_nothing() {
    let setup = Setup::new("manual-dry").await;
    let customer = setup.customer_with(logferry_testbed::provision::CustomerSpec::new("acme"), &[]).await;
    let mut copies = customer.row();
    copies.insert("type".to_owned(), text("s3"));
    copies.insert("bucket_name".to_owned(), text("theirs"));
    setup.put_row(copies).await;
    let object = generated(KEY, 20, 60);
    setup.upload(KEY, object.bytes.clone()).await;
    let url = format!("s3://{}/{KEY}", setup.provider.bucket);
    let environment = setup.environment().await;
    let mut ended = run(&["manual", "--dry-run", &url], &environment).await.with(0);
    let copy =
        json!({ "bucket": "theirs", "key": "ROSA/cluster-logs/acme/web/web-0/1.json.gz", "source": url });
    assert!(ended.stdout.contains(&copy.to_string()), "{ended:?}");
    ended.stdout = ended.stdout.replace(&format!("{copy}\n"), "");
    assert_same_events(KEY, &printed(&ended, &customer.log_group, "web-web-0-"), &expected(&object.text));
    assert_eq!(received_events(&setup.aws, &customer).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_file_is_delivered_under_its_key() {
    let setup = Setup::new("manual-file").await;
    let customer = setup.customer("acme").await;
    let object = generated(KEY, 20, 60);
    let file = LocalFile::new(&object.bytes);
    let outcome =
        run(&["manual", "--key", KEY, file.path()], &setup.environment().await).await.with(0).json();
    assert_eq!(states(&outcome), ["delivered"], "{outcome:#}");
    assert_eq!(outcome["objects"][0]["file"], file.path());
    setup.arrived_once(&customer, [&object]).await;
}

/// One line says what is wrong, the exit code tells the kind, and nothing is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_before_anything_is_delivered() {
    let setup = Setup::new("manual-bad").await;
    let customer = setup.customer("acme").await;
    let environment = setup.environment().await;
    setup.upload(KEY, generated(KEY, 5, 60).bytes).await;
    let good = format!("s3://{}/{KEY}", setup.provider.bucket);
    let event = s3_event(&setup.provider.bucket, KEY).to_string();
    let mixed = json!({ "Records": [{ "body": event }, { "body": "hello" }] }).to_string();
    let cases: [(&[&str], &str, i32, &str); 12] = [
        (&[], "", 65, "standard input is empty"),
        (&[], "hello", 65, "not JSON"),
        (&[], "{\"a\": 1}", 65, "no Records"),
        (&[], &mixed, 65, "not JSON"),
        (&[&good, "s3://staging"], "", 2, "names no key"),
        (&[&good, "https://x/y"], "", 2, "s3://BUCKET/KEY"),
        (&[&good, "missing/c/a/p/1.json"], "", 66, "cannot be read"),
        (&[&good, "Cargo.toml"], "", 2, "--key"),
        (&["--key", KEY], &event, 2, "--key"),
        (&["--key", "acme", "Cargo.toml"], "", 2, "source.key_layout"),
        (&["--dry-run", "--rows", "missing.json", &good], "", 65, "missing.json"),
        (&["--force", "--dry-run", &good], "", 2, "cannot be used with"),
    ];
    for (arguments, stdin, code, words) in cases {
        let arguments = [&["manual"][..], arguments].concat();
        let ended = reading(&arguments, &environment, stdin).await.with(code).saying(words);
        assert_eq!(ended.stdout, "", "{arguments:?}");
        let lines = ended.stderr.trim_end().lines().count();
        assert!(lines == 1 || words == "cannot be used with", "{arguments:?}: {}", ended.stderr);
    }
    let nowhere = BTreeMap::new();
    reading(&["manual"], &nowhere, &event).await.with(64).saying("tenants.table");
    assert_eq!(received_events(&setup.aws, &customer).await, []);
}
