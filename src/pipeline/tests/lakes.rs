//! Deliveries to lakes, with and without deliveries to CloudWatch Logs.

use std::{collections::BTreeMap, io::Read};

use flate2::read::MultiGzDecoder;

use super::*;
use crate::{copy::CopyError, lake::memory::Files, tenant::LockMode};

const LAKE: &str = "acme-lake";
/// The folder of the object's own hour.
const OBJECT_HOUR: &str = "ROSA/cluster-logs/source=web/year=2026/month=11/day=21/hour=23";

fn lake_row(format: &str) -> Row {
    Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text("us-east-1")),
        ("bucket_name".to_owned(), text(LAKE)),
        ("format".to_owned(), text(format)),
    ])
}

/// acme with a lake alone, a ledger and a quarantine.
fn world(format: &str) -> World {
    let ledger = Some(MemoryLedger::new(LEASE));
    let world = World { ledger, quarantine: Some(MemoryQuarantine::default()), ..World::new() };
    world.tenant("acme", [("s3", lake_row(format))]);
    world
}

fn records(times: &[(&str, &str)]) -> Vec<u8> {
    let records: Vec<_> = times
        .iter()
        .map(|(message, timestamp)| json!({"message": message, "timestamp": timestamp}))
        .collect();
    gzip(&Value::Array(records).to_string().into_bytes())
}

fn files(world: &World) -> BTreeMap<String, Vec<u8>> {
    let files =
        |lake: &mut Files| lake.files.iter().map(|(key, (_, body))| (key.clone(), body.to_vec())).collect();
    world.copier.lake(LAKE, files)
}

fn lines(file: &[u8]) -> Vec<Value> {
    let mut text = String::new();
    MultiGzDecoder::new(file).read_to_string(&mut text).expect("gzip of text");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The messages of all files, by folder.
fn messages(world: &World) -> BTreeMap<String, Vec<String>> {
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, file) in files(world) {
        let (folder, _) = key.rsplit_once('/').expect("a folder");
        let messages =
            lines(&file).into_iter().map(|line| line["message"].as_str().expect("text").to_owned());
        folders.entry(folder.to_owned()).or_default().extend(messages);
    }
    folders
}

fn hour(hour: &str) -> String {
    format!("ROSA/cluster-logs/source=web/year=2026/month=11/day=21/hour={hour}")
}

#[tokio::test(start_paused = true)]
async fn one_download_serves_the_group_and_the_lake() {
    let world = world("ndjson");
    world.tenant("acme", [("cloudwatch", row(ACME)), ("s3#lake", lake_row("ndjson"))]);
    let times =
        [("a", "2026-11-21T08:59:59.999Z"), ("b", "2026-11-21T09:00:00Z"), ("c", "2026-11-21T08:00:00Z")];
    world.put(KEY, object(records(&times)));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack, "{report:?}");
    let names: Vec<_> =
        report.delivered.iter().map(|done| (done.delivery.as_str(), done.tally.read)).collect();
    assert_eq!(names, [("cloudwatch", 3), ("s3#lake", 3)]);
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), 3);
    let expected = [(hour("08"), vec!["a".to_owned(), "c".to_owned()]), (hour("09"), vec!["b".to_owned()])];
    assert_eq!(messages(&world), expected.into());
    assert_eq!(world.store.opened().len(), 1);
    let names = files(&world).into_keys().map(|key| key.rsplit('/').next().map(str::to_owned));
    let names: std::collections::BTreeSet<_> = names.collect();
    assert!(
        names.len() == 1
            && names.iter().flatten().all(|name| name.starts_with("1-") && name.ends_with(".ndjson.gz")),
        "{names:?}"
    );
    // A second notification costs no download and no file.
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::AlreadyDelivered], Verdict::Ack));
    assert_eq!(world.store.opened().len(), 1);
    shows(&world, "logferry_lake_files_total 2");
    shows(&world, r#"logferry_records_total{outcome="lake"} 3"#);
}

#[tokio::test(start_paused = true)]
async fn a_broken_lake_is_retried_alone_and_then_has_every_record_once() {
    let world = world("ndjson");
    world.tenant("acme", [("cloudwatch", row(ACME)), ("s3", lake_row("ndjson"))]);
    world.put(KEY, good_object(&["a", "b"]));
    world.copier.break_bucket(LAKE, CopyError::Throttled("slow down".into()));
    for _ in 0..2 {
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict));
        let failed: Vec<_> =
            report.failures.iter().map(|f| (f.delivery.as_deref(), f.failure.reason())).collect();
        assert_eq!(failed, [(Some("s3"), "throttled")]);
    }
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), 2, "nothing is put again");
    world.copier.mend(LAKE);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(messages(&world), [(hour("08"), vec!["a".to_owned(), "b".to_owned()])].into());
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_without_a_ledger_replaces_the_files_of_the_one_before() {
    let world = World { ledger: None, ..world("ndjson") };
    world.put(KEY, good_object(&["a"]));
    for _ in 0..3 {
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    }
    assert_eq!(messages(&world), [(hour("08"), vec!["a".to_owned()])].into());
    // Another object with the same name of its file has a file of its own.
    let other = "acme/prod-1/web/web-1/1.json.gz";
    world.put(other, good_object(&["a"]));
    assert_eq!(world.handle(&event(&[other])).await, Verdict::Ack);
    assert_eq!(messages(&world), [(hour("08"), vec!["a".to_owned(), "a".to_owned()])].into());
}

#[tokio::test(start_paused = true)]
async fn records_without_a_usable_time_go_into_the_object_s_hour() {
    let world = world("ndjson");
    let times = [
        ("none", ""),
        ("ancient", "1999-01-01T00:00:00Z"),
        ("future", "2026-11-23T00:00:00Z"),
        ("word", "now"),
    ];
    world.put(KEY, object(records(&times)));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let expected: Vec<_> = times.iter().map(|(message, _)| (*message).to_owned()).collect();
    assert_eq!(messages(&world), [(OBJECT_HOUR.to_owned(), expected)].into());
}

#[tokio::test(start_paused = true)]
async fn hours_out_of_order_have_several_files_and_very_many_hours_share_the_object_s() {
    // Each hour comes twice, so that its first file is finished by the second time.
    let time = |hour: i64| Timestamp::from_second(1_795_000_000 + hour * 3600).expect("a time").to_string();
    let check = |hours: i64, most_folders: usize, most_files: usize| async move {
        let world = world("ndjson");
        let times: Vec<_> =
            (0..2 * hours).map(|index| (format!("m{index}"), time(index % hours - 200))).collect();
        let times: Vec<_> = times.iter().map(|(message, time)| (message.as_str(), time.as_str())).collect();
        world.put(KEY, object(records(&times)));
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        let found = messages(&world);
        let mut all: Vec<_> = found.values().flatten().cloned().collect();
        let mut expected: Vec<_> = times.iter().map(|(message, _)| (*message).to_owned()).collect();
        all.sort();
        expected.sort();
        assert_eq!(all, expected, "every record once");
        assert_eq!((found.len(), files(&world).len()), (most_folders, most_files));
    };
    check(20, 20, 40).await;
    check(150, 101, 101).await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_records_go_to_the_quarantine_or_make_a_dead_letter() {
    let text = b"{\"message\":\"a\",\"timestamp\":\"2026-11-21T08:00:00Z\"}\nnot JSON\n{\"message\":\"b\",\"timestamp\":\"2026-11-21T08:00:00Z\"}\n";
    let aside = world("ndjson");
    aside.put(KEY, object(gzip(text)));
    assert_eq!(aside.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(messages(&aside), [(hour("08"), vec!["a".to_owned(), "b".to_owned()])].into());
    shows(&aside, r#"logferry_records_total{outcome="quarantined"} 1"#);
    shows(&aside, r#"logferry_quarantined_total{reason="malformed"} 1"#);
    // A record that is too long is unreadable without a quarantine too.
    let without = World { quarantine: None, ..world("ndjson") };
    let long = "x".repeat(2 << 20);
    without.put(
        KEY,
        object(records(&[("a", "2026-11-21T08:00:00Z"), (&long, ""), ("b", "2026-11-21T08:00:00Z")])),
    );
    for _ in 0..2 {
        let poison = poison(without.handle(&event(&[KEY])).await);
        assert_eq!((poison.reason, attribute(&poison, "record_offset")), ("record_too_long", Some("1")));
        assert_eq!(messages(&without), [(hour("08"), vec!["a".to_owned(), "b".to_owned()])].into());
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_a_break_is_written_once() {
    let world = world("ndjson");
    let mut broken = records(&[("a", "2026-11-21T08:00:00Z"), ("b", "2026-11-21T09:00:00Z")]);
    let unzipped = {
        let mut text = Vec::new();
        MultiGzDecoder::new(&broken[..]).read_to_end(&mut text).expect("gzip");
        text
    };
    broken = gzip(&unzipped[..unzipped.len() - 1]);
    world.put(KEY, object(broken));
    for _ in 0..2 {
        assert_eq!(poison(world.handle(&event(&[KEY])).await).reason, "corrupt_object");
        let expected = [(hour("08"), vec!["a".to_owned()]), (hour("09"), vec!["b".to_owned()])];
        assert_eq!(messages(&world), expected.into());
    }
}

#[tokio::test(start_paused = true)]
async fn a_shadow_writes_nothing_and_counts() {
    let counts = MemoryCounts::default();
    let world = World { counts: Some(counts.clone()), ..world("ndjson") };
    world.tenant("acme", [("s3", with(lake_row("ndjson"), "deliver", text("shadow")))]);
    world.put(KEY, good_object(&["a", "b"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert!(files(&world).is_empty());
    let (counts, rejected) = counts.of("acme", "s3");
    let total: crate::shadow::Count = counts.into_values().sum();
    assert_eq!((total.events, rejected), (2, 0));
    assert!(total.bytes > 0);
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_too_long_and_bad_layouts_are_told() {
    let world = world("ndjson");
    let prefix = "p".repeat(500);
    let row = with(lake_row("ndjson"), "bucket_prefix", text(&prefix));
    world.tenant(
        "acme",
        [("s3", with(row, "layout", text("a={application}/year=YYYY/month=MM/day=DD/hour=HH/{file}")))],
    );
    let key = format!("acme/prod-1/{}/web-0/1.json.gz", "é".repeat(240));
    world.put(&key, good_object(&["a"]));
    assert_eq!(poison(world.handle(&event(&[&key])).await).reason, "key_too_long");
    world.tenant("acme", [("s3", with(lake_row("ndjson"), "layout", text("../{file}")))]);
    world.put(KEY, good_object(&["a"]));
    let told = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(told.reason, "bad_tenant_row");
    assert!(attribute(&told, "error").is_some_and(|error| error.contains("layout: ")), "{told:?}");
    assert!(files(&world).is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_name_their_object_and_have_the_row_s_lock() {
    let world = world("ndjson");
    let row = with(lake_row("ndjson"), "object_lock_mode", text("compliance"));
    world.tenant("acme", [("s3", with(row, "object_lock_days", Attribute::Number("30".into())))]);
    world.put(KEY, good_object(&["a"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let spec = world.copier.lake(LAKE, |lake| lake.files.values().next().map(|(spec, _)| spec.clone()));
    let spec = spec.expect("a file");
    assert_eq!(spec.metadata["source-key"], KEY);
    let (mode, until) = spec.lock.expect("a lock");
    let days = Timestamp::now().duration_until(until).as_secs_f64() / 86_400.0;
    assert!(mode == LockMode::Compliance && (29.9..30.1).contains(&days), "{mode:?} {days}");
}

/// Bytes that do not compress, as text.
fn noise(bytes: usize, seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..bytes).map(|_| rng.alphanumeric()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_large_object_goes_part_by_part_and_an_attempt_that_fails_leaves_no_file() {
    for format in ["ndjson", "parquet"] {
        let mut world = world(format);
        (world.settings.max_object, world.settings.max_stored) = (64 << 20, 64 << 20);
        let messages: Vec<_> = (0..300).map(|index| noise(60_000, index)).collect();
        let times: Vec<_> =
            messages.iter().map(|message| (message.as_str(), "2026-11-21T08:00:00Z")).collect();
        world.put(KEY, object(records(&times)));
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        let (found, uploads) = (files(&world), world.copier.lake(LAKE, |lake| lake.uploads.len()));
        assert_eq!((found.len(), uploads), (1, 1), "{format}");
        let file = found.into_values().next().expect("a file");
        let read: Vec<String> = match format {
            "ndjson" => {
                lines(&file).iter().map(|line| line["message"].as_str().expect("text").to_owned()).collect()
            }
            _ => columns(file).into_iter().map(|(_, message)| message).collect(),
        };
        assert!(read == messages, "{format}");
    }
}

/// Time and message of each row of a Parquet file.
fn columns(file: Vec<u8>) -> Vec<(i64, String)> {
    use crate::lake::parquet::ParquetReader;
    let mut reader = ParquetReader::new(bytes::Bytes::from(file)).expect("a Parquet file");
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().expect("a good row") {
        assert_eq!((row.tenant, row.cluster, row.application, row.pod), ("acme", "prod-1", "web", "web-0"));
        rows.push((row.timestamp, row.message.to_owned()));
    }
    rows
}

#[tokio::test(start_paused = true)]
async fn parquet_has_the_records_and_the_labels_of_the_key() {
    let world = world("parquet");
    world.put(KEY, object(records(&[("a", "2026-11-21T08:00:00.123456Z"), ("", "2026-11-21T09:00:00Z")])));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let rows: Vec<_> = files(&world).into_values().map(columns).collect();
    assert_eq!(rows, [vec![(1_795_248_000_123, "a".to_owned())], vec![(1_795_251_600_000, String::new())]]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_killed_at_any_moment_leaves_a_lake_that_the_next_one_completes() {
    let times: Vec<_> = (0..12).map(|index| format!("2026-11-21T{:02}:00:00Z", index % 6)).collect();
    let messages: Vec<_> = (0..12).map(|index| format!("m{index}")).collect();
    let pairs: Vec<_> = messages.iter().map(String::as_str).zip(times.iter().map(String::as_str)).collect();
    for polls in 0..60 {
        let world = world("ndjson");
        world.put(KEY, object(records(&pairs)));
        {
            // A future that is dropped after some polls is a worker that is killed there.
            let (pipeline, body) = (world.pipeline(), event(&[KEY]));
            let mut attempt = std::pin::pin!(pipeline.process(&body, &world.stop));
            for _ in 0..polls {
                let polled =
                    std::future::poll_fn(|cx| std::task::Poll::Ready(attempt.as_mut().poll(cx))).await;
                if polled.is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let mut seen: Vec<_> = super::lakes::messages(&world).into_values().flatten().collect();
        seen.sort();
        seen.dedup();
        assert_eq!(
            seen.len(),
            files(&world).values().map(|file| lines(file).len()).sum::<usize>(),
            "none twice"
        );
        tokio::time::advance(2 * LEASE).await;
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack, "after {polls} polls");
        let mut all: Vec<_> = super::lakes::messages(&world).into_values().flatten().collect();
        let mut expected = messages.clone();
        all.sort();
        expected.sort();
        assert_eq!(all, expected, "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_break_the_next_attempt_goes_on_there_with_further_files() {
    let mut world = world("ndjson");
    let long = "x".repeat(40_000);
    let messages: Vec<_> = (0..40).map(|index| format!("{index} {long}")).collect();
    let hours: Vec<_> = (0..40).map(|index| format!("2026-11-21T{:02}:00:00Z", 8 + index / 20)).collect();
    let times: Vec<_> = messages.iter().map(String::as_str).zip(hours.iter().map(String::as_str)).collect();
    world.put(KEY, object(records(&times)));
    world.settings.max_object = 1 << 20;
    for _ in 0..2 {
        assert_eq!(poison(world.handle(&event(&[KEY])).await).reason, "object_too_large");
    }
    let before = files(&world);
    let written: usize = before.values().map(|file| lines(file).len()).sum();
    assert!((20..40).contains(&written), "{written}");
    // The first files may have been compacted meanwhile, so they must not come back with other records.
    world.copier.lake(LAKE, |lake| lake.files.clear());
    world.settings.max_object = 4 << 20;
    for _ in 0..2 {
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    }
    let after = files(&world);
    assert!(
        after.keys().all(|key| !before.contains_key(key) && key.contains(&format!("-from{written}."))),
        "{after:?}"
    );
    let found: Vec<_> = before
        .values()
        .chain(after.values())
        .flat_map(|file| lines(file))
        .map(|line| line["message"].as_str().expect("text").to_owned())
        .collect();
    assert!(found == messages, "every record once");
}

#[tokio::test(start_paused = true)]
async fn small_objects_of_many_hours_do_not_wait_for_each_other_in_vain() {
    use crate::room::{Room, UNITS};
    let world = world("ndjson");
    // Their text fits into their places, so they grow for their third hour alone: with more text, they would have whole slots before
    // their first record.
    let messages: Vec<_> = (0..12).map(|index| index.to_string()).collect();
    let hours: Vec<_> = (0..12).map(|index| format!("2026-11-21T{:02}:00:00Z", 8 + index % 3)).collect();
    let times: Vec<_> = messages.iter().map(String::as_str).zip(hours.iter().map(String::as_str)).collect();
    let room = Room::new(2);
    let (mut places, mut bodies) = (Vec::new(), Vec::new());
    while let Some(place) = room.take(1) {
        let key = format!("acme/prod-1/web/web-{}/1.json.gz", places.len());
        world.put(&key, object(records(&times)));
        let mut record = event_record(BUCKET, &key);
        record["s3"]["object"]["size"] = 10.into();
        bodies.push(message(&json!({ "Records": [record] }).to_string()));
        places.push(place);
    }
    // Places of one unit fill a slot. The last object has the other slot, and begins when the others wait. If these took shares before
    // slots, they would have the tenant's shares by then, and wait for its slot.
    assert!(places.len() > 4 && places[places.len() - 1].units() == UNITS, "{places:?}");
    let pipeline = Arc::new(world.pipeline());
    let mut running = JoinSet::new();
    for (place, message) in places.into_iter().zip(bodies) {
        let (pipeline, stop) = (Arc::clone(&pipeline), world.stop.clone());
        if place.units() == UNITS {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        running.spawn(async move { pipeline.handle(&message, &place, &stop).await });
    }
    let all = async {
        let mut verdicts = Vec::new();
        while let Some(verdict) = running.join_next().await {
            verdicts.push(verdict.expect("no panic"));
        }
        verdicts
    };
    let verdicts = tokio::time::timeout(Duration::from_secs(3600), all).await.expect("all objects end");
    assert!(
        verdicts.iter().all(|verdict| *verdict == Verdict::Ack),
        "no object waited for a share: {verdicts:?}"
    );
    assert_eq!(files(&world).len(), 3 * verdicts.len());
}

#[tokio::test(start_paused = true)]
async fn a_failed_part_ends_the_upload_and_leaves_no_file() {
    let mut world = world("parquet");
    (world.settings.max_object, world.settings.max_stored) = (64 << 20, 64 << 20);
    let messages: Vec<_> = (0..300).map(|index| noise(60_000, index)).collect();
    let times: Vec<_> = messages.iter().map(|message| (message.as_str(), "2026-11-21T08:00:00Z")).collect();
    world.put(KEY, object(records(&times)));
    world.copier.lake(LAKE, |lake| lake.fails_at_part = Some(2));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let (open, there) = world.copier.lake(LAKE, |lake| {
        (lake.uploads.iter().filter(|upload| !upload.1.is_empty()).count(), lake.files.len())
    });
    assert_eq!((open, there), (0, 0));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(files(&world).into_values().map(|file| columns(file).len()).sum::<usize>(), 300);
}
