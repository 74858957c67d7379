//! A compaction that is killed, doubled or disturbed at every call, on a bucket in memory.

mod bucket;
mod time;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

use self::bucket::{BUCKET, Fault, Handle, Objects, file, lock, records};
use super::{Report, Setup, compact};
use crate::{
    lake::{
        bucket::LakeRow,
        manifest::{self, Content, Manifest, is_compacted, url},
    },
    tenant::{Contents, Destination, tests::delivery_of},
};

const FOLDER: &str = "logs/source=web/dt=2026-01-02/hour=03/";
/// End of the names of the worker's files, before their ending.
const HASH: &str = "-0123456789abcdef";
const KINDS: [&str; 2] = [".ndjson.gz", ".parquet"];

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn setup() -> Setup {
    let mut setup = Setup::new(1 << 20, at("2026-01-02T02:00:00Z"), at("2026-01-02T05:00:00Z"), 2);
    (setup.settle, setup.remove_after, setup.takeover) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    setup
}

async fn run(setup: Setup, ending: &str, handle: &Handle) -> Report {
    let delivery = delivery_of(
        "s3#lake",
        &[
            ("target_region", "us-east-1"),
            ("bucket_name", BUCKET),
            ("bucket_prefix", "logs/"),
            ("format", if ending == ".parquet" { "parquet" } else { "ndjson" }),
            ("layout", "source={application}/dt=YYYY-MM-DD/hour=HH/{file}"),
        ],
    );
    let Destination::S3(destination) = &delivery.destination else { panic!("a bucket") };
    let Contents::Lake(lake) = &destination.contents else { panic!("a lake") };
    let row = LakeRow { delivery: &delivery, destination, lake };
    compact(&Arc::new(setup), handle.clone(), &row).await
}

/// Key of a file of the worker.
fn key(name: &str, ending: &str) -> String {
    format!("{FOLDER}{name}{HASH}{ending}")
}

/// A bucket with files of the worker.
fn bucket_of<const N: usize>(ending: &str, files: [(&str, &[u32]); N]) -> Arc<Mutex<Objects>> {
    let mut objects = Objects::default();
    files.iter().for_each(|(name, records)| objects.put(&key(name, ending), records));
    Arc::new(Mutex::new(objects))
}

/// A run without faults.
async fn finish(ending: &str, bucket: &Arc<Mutex<Objects>>) -> Report {
    run(setup(), ending, &Handle::new(bucket)).await
}

fn names(bucket: &Mutex<Objects>) -> Vec<String> {
    lock(bucket).objects.keys().filter_map(|key| key.strip_prefix(FOLDER)).map(str::to_owned).collect()
}

fn read_manifest(bucket: &Mutex<Objects>) -> Manifest {
    let objects = lock(bucket);
    let text = objects.objects.iter().find(|(key, _)| key.starts_with("logs/manifests/"));
    text.map(|(_, text)| Manifest::parse(text).expect("a manifest")).unwrap_or_default()
}

/// A folder with a past: a merged file, sources of it of which one came back, and new files.
async fn lived_in(ending: &str) -> Arc<Mutex<Objects>> {
    let bucket = bucket_of(ending, [("a", &[1, 2]), ("b", &[3, 4])]);
    let key = |name: &str| key(name, ending);
    let first = finish(ending, &bucket).await;
    assert_eq!((first.merged, first.written, &*first.failures), (2, 1, &[][..]));
    let mut objects = lock(&bucket);
    objects.objects.insert(key("a"), file(&key("a"), &[1, 2]));
    for (name, records) in [("c", &[5, 6, 7][..]), ("d", &[8]), ("e", &[9, 10])] {
        objects.put(&key(name), records);
    }
    objects.look();
    drop(objects);
    bucket
}

/// What must hold in the end: one file has all records, and nothing else is left.
fn check_end(bucket: &Mutex<Objects>, context: &str) {
    let names = names(bucket);
    assert!(matches!(&*names, [only] if is_compacted(only)), "{context}: {names:?}");
    assert_eq!(lock(bucket).violations, [""; 0], "{context}");
    let manifest = read_manifest(bucket);
    assert_eq!(manifest.merging().count(), 0, "{context}");
}

#[tokio::test]
async fn a_kill_at_any_call_is_harmless() {
    let mut random = fastrand::Rng::with_seed(18);
    for ending in KINDS {
        let mut kills = 0;
        for fault in [Fault::KillBefore, Fault::KillAfter] {
            for call in 0.. {
                let bucket = lived_in(ending).await;
                let handle = Handle::new(&bucket).with_fault(call, fault);
                run(setup(), ending, &handle).await;
                let context = format!("{ending}: {fault:?} at call {call}");
                assert_eq!(lock(&bucket).violations, [""; 0], "{context}");
                if !handle.struck() {
                    break;
                }
                kills += 1;
                // The runs after it are killed too, anywhere.
                for _ in 0..random.u8(0..4) {
                    let fault = [Fault::KillBefore, Fault::KillAfter][random.usize(0..2)];
                    let handle = Handle::new(&bucket).with_fault(random.usize(0..20), fault);
                    run(setup(), ending, &handle).await;
                    kills += usize::from(handle.struck());
                }
                let last = finish(ending, &bucket).await;
                assert_eq!(last.failures, [""; 0], "{context}");
                check_end(&bucket, &context);
            }
        }
        assert!(kills > 50, "{kills} kills");
    }
}

#[tokio::test]
async fn a_lost_answer_to_any_call_is_harmless() {
    for ending in KINDS {
        for fault in [Fault::Lose, Fault::Repeat] {
            for call in 0.. {
                let bucket = lived_in(ending).await;
                let handle = Handle::new(&bucket).with_fault(call, fault);
                let report = run(setup(), ending, &handle).await;
                let context = format!("{ending}: {fault:?} at call {call}: {report:?}");
                assert_eq!(lock(&bucket).violations, [""; 0], "{context}");
                if !handle.struck() {
                    break;
                }
                if fault == Fault::Repeat {
                    assert_eq!((report.merged, report.written, report.busy), (4, 1, 0), "{context}");
                    assert_eq!(report.failures, [""; 0], "{context}");
                }
                finish(ending, &bucket).await;
                check_end(&bucket, &context);
            }
        }
    }
}

#[tokio::test]
async fn two_at_once_never_both_win() {
    // Takes the folder over at once, or leaves it alone.
    for takeover in [Duration::ZERO, Duration::from_hours(1)] {
        let (mut lost, mut merged) = (0, 0);
        for seed in 0..150 {
            let ending = KINDS[seed as usize % 2];
            let bucket = lived_in(ending).await;
            let one = Handle::new(&bucket).interleaved(seed);
            let other = Handle::new(&bucket).interleaved(seed + 1000);
            let setup = || Setup { takeover, ..setup() };
            let (one, other) = tokio::join!(run(setup(), ending, &one), run(setup(), ending, &other));
            let context = format!("{takeover:?}, {ending}, seed {seed}: {one:?} {other:?}");
            assert_eq!(lock(&bucket).violations, [""; 0], "{context}");
            lost += one.busy + other.busy;
            merged += one.written + other.written;
            finish(ending, &bucket).await;
            check_end(&bucket, &context);
        }
        assert!(lost > 20, "they seldom met: {lost}");
        assert!(merged > 20, "they seldom merged: {merged}");
    }
}

#[tokio::test]
async fn two_at_once_that_are_killed_are_harmless() {
    let mut random = fastrand::Rng::with_seed(19);
    for seed in 0..100 {
        let ending = KINDS[seed as usize % 2];
        let bucket = lived_in(ending).await;
        let mut handle = |seed| {
            let fault = [Fault::KillBefore, Fault::KillAfter, Fault::Lose, Fault::Repeat][random.usize(0..4)];
            Handle::new(&bucket).interleaved(seed).with_fault(random.usize(0..25), fault)
        };
        let (one, other, third) = (handle(seed), handle(seed + 1000), handle(seed + 2000));
        tokio::join!(run(setup(), ending, &one), run(setup(), ending, &other), run(setup(), ending, &third));
        assert_eq!(lock(&bucket).violations, [""; 0], "seed {seed}");
        finish(ending, &bucket).await;
        check_end(&bucket, &format!("seed {seed}"));
    }
}

/// A process that stands still for hours, at any call, while others finish. Before that, another one was killed at any call.
#[tokio::test]
async fn a_paused_run_is_harmless() {
    for killed in 0..25 {
        for paused in 0..25 {
            let ending = KINDS[(killed + paused) % 2];
            let bucket = lived_in(ending).await;
            run(setup(), ending, &Handle::new(&bucket).with_fault(killed, Fault::KillAfter)).await;
            let gate = Arc::new(Semaphore::new(0));
            let sleeper = Handle::new(&bucket).paused_at(paused, &gate);
            let others = async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                finish(ending, &bucket).await;
                gate.add_permits(1000);
            };
            tokio::join!(run(setup(), ending, &sleeper), others);
            let context = format!("{ending}: killed at call {killed}, paused at call {paused}");
            assert_eq!(lock(&bucket).violations, [""; 0], "{context}");
            finish(ending, &bucket).await;
            check_end(&bucket, &context);
        }
    }
}

#[tokio::test]
async fn a_source_that_comes_back_is_deleted_and_not_merged_again() {
    for ending in KINDS {
        let bucket = bucket_of(ending, [("a", &[1]), ("b", &[2])]);
        finish(ending, &bucket).await;
        let merged = names(&bucket);
        let b = key("b", ending);
        lock(&bucket).objects.insert(b.clone(), file(&b, &[2]));
        let report = finish(ending, &bucket).await;
        assert_eq!((report.removed, report.merged, report.written), (1, 0, 0), "{report:?}");
        assert_eq!(names(&bucket), merged);
        check_end(&bucket, ending);
        // Nothing is left to do: a run lists, and changes nothing.
        let before = lock(&bucket).objects.clone();
        let handle = Handle::new(&bucket);
        assert_eq!(run(setup(), ending, &handle).await, Report { folders: 1, ..Report::default() });
        assert_eq!(lock(&bucket).objects, before);
        assert!(handle.calls() < 12, "{}", handle.calls());
    }
}

#[tokio::test]
async fn a_source_that_comes_back_with_other_records_stays_and_is_told() {
    for ending in KINDS {
        let bucket = bucket_of(ending, [("a", &[1]), ("b", &[2]), ("c", &[3]), ("d", &[4])]);
        let key = |name: &str| key(name, ending);
        finish(ending, &bucket).await;
        // More records than were merged, other bytes with as many records, a broken file, and a large one.
        let large: Vec<u32> = (0..200_000).collect();
        for (name, body) in [
            ("a", file(&key("a"), &[1, 5, 6])),
            ("b", file(&key("b"), &[7])),
            ("c", Bytes::from_static(b"broken")),
            ("d", file(&key("d"), &large)),
        ] {
            lock(&bucket).objects.insert(key(name), body);
        }
        for _ in 0..2 {
            let setup = Setup { target: 64 << 10, ..setup() };
            let report = run(setup, ending, &Handle::new(&bucket)).await;
            let told = |name: &str, what: &[&str]| {
                let mut failures = report.failures.iter();
                let failure = failures.find(|failure| failure.starts_with(&url(BUCKET, &key(name))));
                let failure = failure.unwrap_or_else(|| panic!("{name}: {report:?}"));
                assert!(what.iter().all(|what| failure.contains(what)), "{failure}");
            };
            told("a", &["after 1 records", "has 3 records now", "download it"]);
            told("c", &["after 1 records", "download it"]);
            told("d", &["too large", "download it"]);
            assert_eq!(report.failures.len(), 3, "{report:?}");
            let names = names(&bucket);
            assert!(!names.contains(&format!("b{HASH}{ending}")), "{names:?}");
            assert_eq!(names.len(), 4, "{names:?}");
        }
    }
}

#[tokio::test]
async fn a_source_that_is_written_again_while_it_is_deleted_stays() {
    for ending in KINDS {
        for again in [false, true] {
            let bucket = bucket_of(ending, [("a", &[1]), ("b", &[2])]);
            let a = key("a", ending);
            if again {
                // It has come back with its records once before, in other bytes.
                finish(ending, &bucket).await;
                lock(&bucket).objects.insert(a.clone(), file(&a, &[9]));
            }
            let more = file(&a, &[1, 5]);
            lock(&bucket).comes_back = Some((a.clone(), more.clone()));
            let report = finish(ending, &bucket).await;
            assert_eq!(report.removed, u64::from(!again), "{report:?}");
            assert!(lock(&bucket).comes_back.is_none(), "nothing was deleted");
            assert_eq!(lock(&bucket).objects.get(&a), Some(&more), "{report:?}");
            let report = finish(ending, &bucket).await;
            assert!(report.failures[0].contains("it has 2 records now"), "{report:?}");
            assert_eq!((names(&bucket).len(), &*lock(&bucket).violations), (2, &[][..]));
        }
    }
}

#[tokio::test]
async fn a_source_that_vanished_is_left_out_whatever_its_read_answers() {
    for (ending, denies) in [(".ndjson.gz", false), (".ndjson.gz", true), (".parquet", true)] {
        let bucket = lived_in(ending).await;
        {
            let mut objects = lock(&bucket);
            (objects.denies, objects.vanishes) = (denies, Some(format!("{FOLDER}cc{HASH}{ending}")));
        }
        let report = finish(ending, &bucket).await;
        assert_eq!((report.merged, report.written, &*report.failures), (4, 1, &[][..]), "{ending}, {denies}");
        check_end(&bucket, ending);
    }
}

/// A row's format was changed. The old lines of files with the other ending are needed as long as the files are there.
#[tokio::test]
async fn lines_of_another_format_stay() {
    let bucket = Arc::<Mutex<Objects>>::default();
    let key = |name: &str| format!("{FOLDER}{name}");
    let old = key("compacted-1.ndjson.gz");
    let source = key(&format!("a{HASH}.ndjson.gz"));
    let body = file(&source, &[1]);
    let content = Content { records: 1, etag: bucket::etag(&body) };
    let mut manifest = Manifest::default();
    let long_ago = Timestamp::now() - SignedDuration::from_hours(100 * 24);
    manifest.replace([(url(BUCKET, &source), content)], &url(BUCKET, &old), long_ago);
    let at = manifest::key("logs/", "dt=2026-01-02/hour=03", &FOLDER[5..]);
    lock(&bucket).objects.insert(at, manifest.text().into());
    lock(&bucket).objects.insert(source.clone(), body);
    lock(&bucket).put(&old, &[1]);
    lock(&bucket).put(&key(&format!("b{HASH}.parquet")), &[2]);
    lock(&bucket).put(&key(&format!("c{HASH}.parquet")), &[3]);
    let keeps = Setup { remove_after: Duration::from_hours(200 * 24), ..setup() };
    let report = run(keeps, ".parquet", &Handle::new(&bucket)).await;
    assert_eq!((report.written, &*report.failures), (1, &[][..]));
    assert_eq!(lock(&bucket).violations, [""; 0]);
    assert!(read_manifest(&bucket).state(&url(BUCKET, &source)).is_some());
    // The next run deletes the file, and leaves the merged one.
    finish(".parquet", &bucket).await;
    let names = names(&bucket);
    assert!(!names.contains(&format!("a{HASH}.ndjson.gz")) && names.len() == 2, "{names:?}");
    assert_eq!(lock(&bucket).violations, [""; 0]);
}

#[tokio::test]
async fn a_merge_under_way_is_left_alone_and_an_old_one_is_taken_over() {
    // The clock of the run that began the merge is right, or ten years ahead. S3's clock is right.
    let decade = 10 * 365 * 24 * 60;
    for (age, written, busy) in
        [(59, 59, true), (61, 61, false), (-decade, 59, true), (-decade, 61, false), (61, 0, false)]
    {
        let ago = |minutes| Timestamp::now() - SignedDuration::from_mins(minutes);
        let bucket = lived_in(".parquet").await;
        let mut manifest = read_manifest(&bucket);
        let unfinished = format!("{FOLDER}compacted-0.parquet");
        manifest.begin(url(BUCKET, &unfinished), "m", Vec::new(), ago(age));
        lock(&bucket).modified = Some(ago(written));
        let key =
            lock(&bucket).objects.keys().find(|key| key.contains("manifests/")).cloned().expect("it exists");
        lock(&bucket).objects.insert(key, manifest.text().into());
        let body = file(&unfinished, &[5, 6]);
        lock(&bucket).objects.insert(unfinished.clone(), body);
        let report =
            run(Setup { takeover: Duration::from_hours(1), ..setup() }, ".parquet", &Handle::new(&bucket))
                .await;
        assert_eq!(report.busy, u64::from(busy), "{report:?}");
        assert_eq!(report.written, u64::from(!busy));
        assert_eq!(lock(&bucket).objects.contains_key(&unfinished), busy);
        assert_eq!(lock(&bucket).violations, [""; 0]);
        if !busy {
            check_end(&bucket, "taken over");
        }
    }
}

#[tokio::test]
async fn an_unreadable_source_stays_and_the_others_are_merged() {
    for ending in KINDS {
        for broken in ["text", "middle", "end", "line"] {
            if broken == "line" && ending == ".parquet" {
                continue;
            }
            let bucket = bucket_of(ending, [("a", &[1]), ("c", &[2])]);
            let b = key("b", ending);
            let records: Vec<u32> = (100..400).collect();
            let whole = file(&b, &records);
            let mut body = whole.to_vec();
            match broken {
                "text" => body = b"not a file of the lake".to_vec(),
                "line" => body = bucket::gzip("{\"message\":\"1\"}\n[1]\n").to_vec(),
                "middle" => body[whole.len() / 4..whole.len() / 4 + 40].fill(0xff),
                _ => body.truncate(whole.len() - 9),
            }
            lock(&bucket).objects.insert(b.clone(), body.into());
            let report = finish(ending, &bucket).await;
            assert_eq!((report.merged, report.written), (2, 1), "{report:?}");
            let bad = url(BUCKET, &b);
            assert!(matches!(&*report.failures, [only] if only.starts_with(&bad)), "{report:?}");
            let names = names(&bucket);
            assert!(names.len() == 2 && names.contains(&format!("b{HASH}{ending}")), "{broken}: {names:?}");
            // The reader of the test reads what is readable of the broken file.
            let mut objects = lock(&bucket);
            objects.violations.clear();
            objects.objects.remove(&b);
            objects.look();
            assert_eq!(objects.violations, [""; 0], "{broken}");
        }
    }
}

/// Files of other programs, beside enough files of the lake.
#[tokio::test]
async fn a_file_that_another_program_wrote_stays() {
    for ending in KINDS {
        let bucket = lived_in(ending).await;
        let mut foreign = Vec::new();
        for (name, record) in (100..)
            .zip(["a", "my notes", "caf\u{e9}", "a%3Ab", "a%3Ab-0123456789abcdef", "part-00000-c000.snappy"])
            .map(|(record, name)| (name, record))
        {
            let key = format!("{FOLDER}{name}{ending}");
            lock(&bucket).put(&key, &[record]);
            foreign.push(key);
        }
        for _ in 0..3 {
            finish(ending, &bucket).await;
        }
        let mut objects = lock(&bucket);
        assert_eq!(objects.violations, [""; 0], "{ending}");
        for key in foreign {
            let body = objects.objects.remove(&key);
            assert!(body.is_some(), "{key}");
            let theirs = records(&key, &body.expect("it is there"));
            objects.records.retain(|record| !theirs.contains(record));
        }
        drop(objects);
        check_end(&bucket, ending);
    }
}

/// A line that is none of a lake is in no merged file, wherever it is in its file.
#[tokio::test]
async fn a_file_with_a_bad_line_stays() {
    let long = format!("{{\"message\":\"{}\"}}", "x".repeat(3 << 20));
    for bad in ["", "text", "[1]", "7", "{\"a\":1} {}", "{\"a\":1", "{\"a\":\"\u{1}\"}"] {
        for lines in [[bad, "{}", "{}"], ["{}", bad, "{}"], ["{}", &long, bad], [&long, bad, &long]] {
            let bucket = bucket_of(".ndjson.gz", [("a", &[1]), ("c", &[2])]);
            let b = key("b", ".ndjson.gz");
            let body = bucket::gzip(&(lines.join("\n") + "\n"));
            lock(&bucket).objects.insert(b.clone(), body.clone());
            let report = finish(".ndjson.gz", &bucket).await;
            assert_eq!((report.merged, report.written), (2, 1), "{bad}: {report:?}");
            let at = 1 + lines.iter().position(|line| *line == bad).expect("it is there");
            let told = format!("{} stays as it is: line {at} is not", url(BUCKET, &b));
            assert!(matches!(&*report.failures, [only] if only.starts_with(&told)), "{told}: {report:?}");
            assert_eq!(lock(&bucket).objects.get(&b), Some(&body));
        }
    }
}

#[tokio::test]
async fn sources_stay_if_the_merged_file_is_gone() {
    let bucket = bucket_of(".parquet", [("a", &[1]), ("b", &[2])]);
    // Killed after the write that lets the merged file count.
    let mut call = 0;
    while read_manifest(&bucket).state(&url(BUCKET, &key("a", ".parquet"))).is_none() {
        assert!(call < 50, "no run lets the merged file count");
        run(setup(), ".parquet", &Handle::new(&bucket).with_fault(call, Fault::KillAfter)).await;
        call += 1;
    }
    assert_eq!(names(&bucket).len(), 3);
    lock(&bucket).objects.retain(|key, _| !is_compacted(key));
    let report = finish(".parquet", &bucket).await;
    assert_eq!(names(&bucket).len(), 2, "{report:?}");
    assert!(report.failures.len() == 1 && report.failures[0].contains("does not exist"), "{report:?}");
}

#[tokio::test]
async fn a_file_without_its_manifest_is_told_and_stays() {
    let bucket = lived_in(".parquet").await;
    let before = names(&bucket);
    lock(&bucket).objects.retain(|key, _| !key.contains("manifests/"));
    let report = finish(".parquet", &bucket).await;
    assert!(report.failures.iter().any(|failure| failure.contains("no manifest knows")), "{report:?}");
    let compacted = before.iter().find(|name| is_compacted(name)).expect("there is one");
    assert!(names(&bucket).contains(compacted));
}

#[tokio::test]
async fn a_manifest_that_is_not_readable_stops_all_work_at_its_folder() {
    let bucket = lived_in(".parquet").await;
    let before = {
        let mut objects = lock(&bucket);
        let key = objects.objects.keys().find(|key| key.contains("manifests/")).cloned().expect("it exists");
        objects.objects.insert(key, Bytes::from_static(b"{\"file\":\"s3://"));
        objects.objects.clone()
    };
    let report = finish(".parquet", &bucket).await;
    assert!(report.failures.len() == 1 && report.failures[0].contains("cannot be read"), "{report:?}");
    assert_eq!(lock(&bucket).objects, before);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let bucket = lived_in(".parquet").await;
    let before = lock(&bucket).objects.clone();
    let report = run(Setup { dry_run: true, ..setup() }, ".parquet", &Handle::new(&bucket)).await;
    assert_eq!(lock(&bucket).objects, before);
    assert_eq!((report.folders, report.merged, report.written, report.removed), (1, 4, 1, 1), "{report:?}");
}

#[tokio::test]
async fn only_closed_hours_are_merged() {
    let bucket = Arc::<Mutex<Objects>>::default();
    let folders = [
        "source=api/dt=2026-01-02/hour=01/",
        "source=api/dt=2026-01-02/hour=02/",
        "source=api/dt=2026-01-02/hour=04/",
        "source=api/dt=2026-01-02/hour=05/",
        "source=web/dt=2026-01-01/hour=23/",
        "source=web/dt=2026-01-02/hour=03/sub/",
        "source=web/dt=2026-01-02/hour=03/",
        "source=web/dt=2026-01-02/",
        "elsewhere/dt=2026-01-02/hour=03/",
    ];
    for (index, folder) in (0..).zip(folders) {
        for (name, record) in [("a", 0), ("b", 1)] {
            lock(&bucket).put(&format!("logs/{folder}{name}{HASH}.parquet"), &[2 * index + record]);
        }
    }
    let handle = Handle::new(&bucket);
    let report = run(setup(), ".parquet", &handle).await;
    assert_eq!((report.folders, report.merged_folders, report.written), (3, 3, 3), "{report:?}");
    let objects = lock(&bucket);
    assert_eq!(objects.violations, [""; 0]);
    let mut in_folders = BTreeMap::<_, u32>::new();
    for key in objects.objects.keys().filter(|key| !key.contains("manifests/")) {
        *in_folders.entry(&key["logs/".len()..=key.rfind('/').expect("a folder")]).or_default() += 1;
    }
    for folder in folders {
        let merged = ["source=api/dt=2026-01-02/hour=02/", "source=api/dt=2026-01-02/hour=04/", &FOLDER[5..]];
        assert_eq!(in_folders[folder], if merged.contains(&folder) { 1 } else { 2 }, "{folder}");
    }
    let manifest = manifest::key("logs/", "dt=2026-01-02/hour=03", &FOLDER[5..]);
    assert!(objects.objects.contains_key(&manifest), "{manifest}");
}

#[tokio::test]
async fn large_files_are_written_in_parts() {
    let bucket = Arc::<Mutex<Objects>>::default();
    let mut random = fastrand::Rng::with_seed(1);
    let mut lines = |count: usize| {
        let mut text = String::new();
        for _ in 0..count {
            let noise: String = (0..1000).map(|_| random.alphanumeric()).collect();
            text.push_str(&format!("{{\"message\":\"{noise}\"}}\n"));
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).expect("a vector takes all");
        (Bytes::from(encoder.finish().expect("a vector takes all")), text)
    };
    let mut texts = Vec::new();
    for name in ["a", "b", "c"] {
        let (body, text) = lines(6000);
        let found = text.lines().map(|line| line["{\"message\":\"".len()..line.len() - 2].to_owned());
        texts.extend(found);
        lock(&bucket).objects.insert(format!("{FOLDER}{name}{HASH}.ndjson.gz"), body);
    }
    texts.sort();
    lock(&bucket).records = texts;
    let setup = Setup { target: 64 << 20, ..setup() };
    let report = run(setup, ".ndjson.gz", &Handle::new(&bucket)).await;
    assert!(report.bytes_after > 12 << 20, "{report:?}");
    check_end(&bucket, "parts");
}
