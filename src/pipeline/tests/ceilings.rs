//! Limits of one object: its stored bytes, its time without a pause, and its memory for large windows.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// Handles an object with a limit of 64 KiB of stored bytes, and expects that it is too large.
async fn beyond(object: MemoryObject, message: String, what: &str) -> World {
    let mut world = World::new();
    world.settings.max_stored = 64 << 10;
    world.put(KEY, object);
    let poison = poison(world.handle(&message).await);
    assert_eq!(poison.reason, "object_too_large", "{what}");
    let said = attribute(&poison, "error").expect("the letter has an error");
    assert!(said.contains("source.max_stored is 65536"), "{what}: {said}");
    world
}

fn event_of_size(size: u64) -> String {
    let mut record = event_record(BUCKET, KEY);
    record["s3"]["object"]["size"] = json!(size);
    json!({ "Records": [record] }).to_string()
}

#[tokio::test(start_paused = true)]
async fn stored_bytes_have_a_ceiling_whether_the_event_the_store_or_reading_shows_the_size() {
    let world = beyond(good_object(&["a"]), event_of_size(65_537), "the event has the size").await;
    assert_eq!(world.store.opened(), [], "the store is not called");
    let long = [gzip(&array(&["a"])), vec![0; 65 << 10]].concat();
    let world = beyond(object(long.clone()), event(&[KEY]), "the store has the size").await;
    assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0], "nothing is read");
    let world = beyond(object(long).of_unknown_length(), event(&[KEY]), "reading shows the size").await;
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a"], "the records before the limit are delivered");
}

/// Each of these objects decompresses to little text, so no limit on decompressed bytes ends the reading.
#[tokio::test(start_paused = true)]
async fn the_ceiling_holds_whatever_the_stored_bytes_are() {
    let head = |flags: u8| vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 3];
    let name = [head(0x08), vec![b'n'; 1 << 20]].concat();
    let comment = [head(0x10), vec![b'c'; 1 << 20]].concat();
    let extra = [head(0x04), vec![0xff, 0xff], vec![b'e'; 65_535]].concat();
    let skippable = [0x2a184d50_u32.to_le_bytes(), (1_u32 << 20).to_le_bytes()].concat();
    let frame = zstd::encode_all(&b"{}"[..], 1).expect("memory takes it");
    for (what, bytes) in [
        ("a name without end", name),
        ("a comment without end", comment),
        ("a long extra field, again and again", extra.repeat(3)),
        ("zeros behind", [gzip(b"{}"), vec![0; 1 << 20]].concat()),
        ("empty members", gzip(b"").repeat(8000)),
        ("a skippable frame", [frame.clone(), skippable, vec![7; 1 << 20]].concat()),
        ("empty frames", zstd::encode_all(&b""[..], 1).expect("memory takes it").repeat(10_000)),
        ("spaces", b" ".repeat(1 << 20)),
        // The object is broken from the start. The rest is read for its checksum, up to the limit.
        ("garbage behind a break", [b"nonsense".to_vec(), vec![7; 1 << 20]].concat()),
    ] {
        beyond(object(bytes).of_unknown_length(), event(&[KEY]), what).await;
    }
}

/// Reading that never waits for bytes still gives the thread to other tasks, and ends when it is told to stop.
#[tokio::test(start_paused = true)]
async fn reading_that_never_waits_is_paused() {
    let padded = [gzip(b"[]"), vec![0; 48 << 20]].concat();
    for (what, bytes) in [
        ("empty messages", gzip(&b"{\"message\":\"\"}\n".repeat(300_000))),
        ("nothing in a record", gzip(&b"{}".repeat(200_000))),
        ("spaces", gzip(&b" ".repeat(48 << 20))),
        ("empty members", gzip(b"").repeat(50_000)),
        ("zeros behind", padded),
    ] {
        let mut world = World::new();
        (world.settings.max_object, world.settings.max_stored) = (64 << 20, 64 << 20);
        let len = bytes.len();
        // The chunks are as large as S3's, and none of them is waited for.
        world.put(KEY, object(bytes).in_chunks(256 << 10).there_at_once());
        let (turns, done) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let other = tokio::spawn({
            let (turns, done) = (Arc::clone(&turns), Arc::clone(&done));
            async move {
                while !done.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            }
        });
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack, "{what}");
        done.store(true, Ordering::Relaxed);
        let turns = turns.load(Ordering::Relaxed);
        // On any machine, this work takes some milliseconds, so it is paused several times.
        assert!(turns >= 2, "{what}: {turns} pauses within {len} bytes");
        other.await.expect("the task does not panic");

        let stop = world.stop.clone();
        let stopper = tokio::spawn(async move { stop.cancel() });
        let (report, _) = world.process(&event(&[KEY])).await;
        stopper.await.expect("the task does not panic");
        assert!(matches!(report.failures[0].failure, Failure::Stopping), "{what}: {report:?}");
    }
}

/// An array of messages of almost 1 MiB each, in a frame with a window of 16 MiB.
fn zstd_with_a_large_window(messages: usize) -> MemoryObject {
    let text = "a".repeat((1 << 20) - 1024);
    let records: Vec<_> =
        (0..messages).map(|_| json!({"message": text, "timestamp": "2026-11-21T08:00:00Z"})).collect();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("the level is known");
    encoder.window_log(24).expect("the window is legal");
    std::io::Write::write_all(&mut encoder, &serde_json::to_vec(&records).expect("JSON"))
        .expect("memory takes it");
    object(encoder.finish().expect("memory takes it"))
}

/// One customer's CloudWatch Logs hangs while its object has all the memory for large windows.
#[tokio::test(start_paused = true)]
async fn the_wait_for_the_memory_of_a_large_window_has_a_limit() {
    let mut world = World::new();
    (world.settings.zstd_windows, world.settings.max_object) = (16 << 20, 64 << 20);
    let [long, other, short] =
        ["acme", "globex", "globex"].map(|tenant| format!("{tenant}/prod-1/web/web-0/{tenant}.json.gz"));
    let short = short.replace("globex.json", "short.json");
    for (key, messages) in [(&long, 12), (&other, 12), (&short, 2)] {
        world.put(key, zstd_with_a_large_window(messages));
    }
    let pipeline = world.pipeline();
    let handle = async |key: &str| pipeline.process(&event(&[key]), &world.stop).await;
    world.sinks.hold();
    // After nine puts, more than 8 MiB of text have been read.
    world.sinks.release(9);
    let mut hanging = std::pin::pin!(handle(&long));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut hanging).await.is_err(),
        "the puts of the first object are not answered"
    );
    // The first object keeps its memory although its puts are answered now, because its future is not polled.
    world.sinks.release(1_000);
    let began = Instant::now();
    let report = handle(&other).await;
    assert!(
        matches!(&report.failures[..], [failed] if matches!(failed.failure, Failure::NoWindow)),
        "{report:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(handle(&short).await.failures.is_empty(), "a short text needs no large window");
    assert!(hanging.await.failures.is_empty());
    assert!(handle(&other).await.failures.is_empty());
}

/// One customer's CloudWatch Logs hangs while its object has half of the memory for large windows.
#[tokio::test(start_paused = true)]
async fn a_tenant_leaves_half_of_the_windows_memory_to_others() {
    let mut world = World::new();
    (world.settings.zstd_windows, world.settings.max_object) = (32 << 20, 64 << 20);
    let [first, second, other] = [("acme", 1), ("acme", 2), ("globex", 1)]
        .map(|(tenant, file)| format!("{tenant}/prod-1/web/web-{file}/{file}.json.gz"));
    for key in [&first, &second, &other] {
        world.put(key, zstd_with_a_large_window(12));
    }
    let pipeline = world.pipeline();
    let handle = async |key: &str| pipeline.process(&event(&[key]), &world.stop).await;
    world.sinks.hold();
    world.sinks.release(9);
    let mut hanging = std::pin::pin!(handle(&first));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), &mut hanging).await.is_err(),
        "the puts of the first object hang"
    );
    world.sinks.release(1_000);
    let report = handle(&second).await;
    assert!(
        matches!(&report.failures[..], [failed] if matches!(failed.failure, Failure::NoWindow)),
        "{report:?}"
    );
    assert!(handle(&other).await.failures.is_empty(), "half of the memory is free");
    assert!(hanging.await.failures.is_empty());
}
