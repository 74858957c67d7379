//! Turns and readers that take minutes and hours, in virtual time.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{task::JoinSet, time::sleep};

use super::{
    FOLDER, HASH,
    bucket::{BUCKET, Handle, Objects, file, lock, records},
    bucket_of, key, run, setup,
};
use crate::lake::{
    compact::Setup,
    manifest::{Manifest, url},
};

/// The time, as tokio has it.
fn virtual_now() -> Timestamp {
    static START: LazyLock<(Timestamp, Instant)> = LazyLock::new(|| (Timestamp::now(), Instant::now()));
    let (time, instant) = *START;
    time + tokio::time::Instant::now().into_std().duration_since(instant)
}

/// The defaults, in virtual time.
fn defaults() -> Setup {
    let Setup { settle, remove_after, takeover, .. } = Setup::new(1, Timestamp::MIN, Timestamp::MAX, 1);
    Setup { settle, remove_after, takeover, now: virtual_now, ..setup() }
}

/// What a reader finds who lists and reads the files, and reads the manifest, `apart` from each other.
async fn read(bucket: &Mutex<Objects>, lists_first: bool, apart: Duration) -> Vec<String> {
    let list = || {
        let objects = lock(bucket).objects.clone();
        objects.into_iter().filter(|(key, _)| key.starts_with(FOLDER)).collect::<BTreeMap<String, Bytes>>()
    };
    let manifest = || super::read_manifest(bucket);
    let (files, manifest): (_, Manifest) = if lists_first {
        let files = list();
        sleep(apart).await;
        (files, manifest())
    } else {
        let manifest = manifest();
        sleep(apart).await;
        (list(), manifest)
    };
    let counted = files.iter().filter(|(key, _)| manifest.counts(&url(BUCKET, key)));
    let mut found: Vec<_> = counted.flat_map(|(key, body)| records(key, body)).collect();
    // Records that come while the readers read.
    found.retain(|record| record != "9");
    found.sort();
    found
}

/// The number of readers that see a record not once. Readers begin every few seconds, beside four runs, and files come in between.
async fn wrong_readers(lists_first: bool, apart: Duration) -> usize {
    let bucket = bucket_of(".ndjson.gz", [("a", &[1]), ("b", &[2]), ("c", &[3])]);
    let mut readers = JoinSet::new();
    let theirs = Arc::clone(&bucket);
    let readers = async move {
        for _ in 0..720 {
            let theirs = Arc::clone(&theirs);
            readers.spawn(async move { read(&theirs, lists_first, apart).await });
            sleep(Duration::from_secs(17)).await;
        }
        readers.join_all().await
    };
    let runs = async {
        for name in ["d", "e", "f", "g"] {
            sleep(Duration::from_mins(5)).await;
            let report = run(defaults(), ".ndjson.gz", &Handle::new(&bucket)).await;
            assert_eq!((report.written, &*report.failures), (1, &[][..]), "{report:?}");
            let key = key(name, ".ndjson.gz");
            let body = file(&key, &[9]);
            lock(&bucket).objects.insert(key, body);
            // The run after the next one begins an hour after this one's sources were replaced.
            sleep(Duration::from_secs(24 * 60 + 30)).await;
        }
    };
    let (found, ()) = tokio::join!(readers, runs);
    assert!(!super::names(&bucket).contains(&format!("a{HASH}.ndjson.gz")), "nothing was deleted");
    found.iter().filter(|found| **found != ["1", "2", "3"]).count()
}

#[tokio::test(start_paused = true)]
async fn readers_may_be_as_slow_as_the_options_say() {
    let seconds = Duration::from_secs;
    for (lists_first, apart) in [(true, seconds(59)), (false, seconds(3599)), (true, seconds(0))] {
        assert_eq!(wrong_readers(lists_first, apart).await, 0, "{lists_first}, {apart:?}");
    }
    // The readers of this test can see what is wrong.
    for (lists_first, apart) in [(true, seconds(90)), (false, seconds(3700))] {
        assert_ne!(wrong_readers(lists_first, apart).await, 0, "{lists_first}, {apart:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_leaves_its_own_sources_to_a_later_one() {
    let bucket = bucket_of(".parquet", [("a", &[1]), ("b", &[2])]);
    for (minutes, merged, removed) in [(0, 2, 0), (58, 0, 0), (2, 0, 2), (60, 0, 0)] {
        sleep(Duration::from_mins(minutes)).await;
        let report = run(defaults(), ".parquet", &Handle::new(&bucket)).await;
        assert_eq!((report.merged, report.removed, &*report.failures), (merged, removed, &[][..]));
    }
    super::check_end(&bucket, "removed");
}

#[tokio::test(start_paused = true)]
async fn folders_that_settle_keep_no_place() {
    let bucket = Arc::<Mutex<Objects>>::default();
    for pod in 0..130 {
        for (name, record) in [("a", 0), ("b", 1)] {
            let key = format!("logs/source=web-{pod}/dt=2026-01-02/hour=03/{name}{HASH}.ndjson.gz");
            lock(&bucket).put(&key, &[2 * pod + record]);
        }
    }
    let began = tokio::time::Instant::now();
    let report = run(defaults(), ".ndjson.gz", &Handle::new(&bucket)).await;
    assert_eq!((report.written, &*report.failures), (130, &[][..]));
    let took = began.elapsed();
    assert!(took < 2 * defaults().settle, "{took:?}");
    assert_eq!(lock(&bucket).violations, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_takes_hours_is_not_taken_over() {
    let bucket = Arc::<Mutex<Objects>>::default();
    for record in 0..40 {
        lock(&bucket).put(&key(&record.to_string(), ".ndjson.gz"), &[record]);
    }
    let slow = Handle::new(&bucket).slow(Duration::from_mins(5));
    let other = async {
        let mut busy = 0;
        // The other turn has begun then: it has listed the folder.
        sleep(Duration::from_mins(50)).await;
        for _ in 0..4 {
            sleep(Duration::from_mins(45)).await;
            let report = run(defaults(), ".ndjson.gz", &Handle::new(&bucket)).await;
            assert_eq!(report.merged, 0, "{report:?}");
            busy += report.busy;
        }
        busy
    };
    let (report, busy) = tokio::join!(run(defaults(), ".ndjson.gz", &slow), other);
    assert_eq!((report.merged, report.written, &*report.failures), (40, 1, &[][..]), "{report:?}");
    assert!(busy > 2, "{busy}");
    assert_eq!(lock(&bucket).violations, [""; 0]);
}

/// The manifest was changed, as by a turn that took the folder over.
#[tokio::test(start_paused = true)]
async fn a_turn_that_was_taken_over_ends_at_its_next_renewal() {
    let bucket = Arc::<Mutex<Objects>>::default();
    for record in 0..100 {
        lock(&bucket).put(&key(&record.to_string(), ".ndjson.gz"), &[record]);
    }
    let slow = Handle::new(&bucket).slow(Duration::from_mins(1));
    let other = async {
        sleep(Duration::from_mins(60)).await;
        let thief = Setup { takeover: Duration::ZERO, ..defaults() };
        let report = run(thief, ".ndjson.gz", &Handle::new(&bucket)).await;
        assert_eq!((report.merged, report.busy), (100, 0), "{report:?}");
    };
    let (report, ()) = tokio::join!(run(defaults(), ".ndjson.gz", &slow), other);
    assert_eq!((report.merged, report.busy, &*report.failures), (0, 1, &[][..]), "{report:?}");
    assert!(slow.calls() < 90, "{}", slow.calls());
    assert_eq!(lock(&bucket).violations, [""; 0]);
}
