//! What an object may cost: stored bytes, and time without a pause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// What a tenant's object of those bytes comes to with a ceiling of 64 KiB on stored bytes.
async fn beyond(object: MemoryObject, message: String, what: &str) -> World {
    let mut world = World::new();
    world.settings.max_stored = 64 << 10;
    world.put(KEY, object);
    let poison = poison(world.handle(&message).await);
    assert_eq!(poison.reason, "object_too_large", "{what}");
    let said = attribute(&poison, "error").expect("it says why");
    assert!(said.contains("source.max_stored is 65536"), "{what}: {said}");
    world
}

fn event_of_size(size: u64) -> String {
    let mut record = event_record(BUCKET, KEY);
    record["s3"]["object"]["size"] = json!(size);
    json!({ "Records": [record] }).to_string()
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_has_a_ceiling_wherever_it_shows() {
    let world = beyond(good_object(&["a"]), event_of_size(65_537), "the event says so").await;
    assert_eq!(world.store.opened(), [], "it is not even asked for");
    let long = [gzip(&array(&["a"])), vec![0; 65 << 10]].concat();
    let world = beyond(object(long.clone()), event(&[KEY]), "the store says so").await;
    assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0], "nothing is read");
    let world = beyond(object(long).of_unknown_length(), event(&[KEY]), "it shows while read").await;
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a"], "what came before is delivered");
}

/// Each of these is small by what comes out, and would be read for ever.
#[tokio::test(start_paused = true)]
async fn nothing_is_stored_past_the_ceiling() {
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
        // Broken at once; the rest is read for the checksum, and no further than that.
        ("garbage behind a break", [b"nonsense".to_vec(), vec![7; 1 << 20]].concat()),
    ] {
        beyond(object(bytes).of_unknown_length(), event(&[KEY]), what).await;
    }
}

/// Other tasks get the thread while an object is read that never waits, and so does an order to stop.
#[tokio::test(start_paused = true)]
async fn what_never_waits_is_paused() {
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
        // In chunks as S3's come, each of them there at once.
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
        // Whatever the machine, this is work for some milliseconds.
        assert!(turns >= 2, "{what}: {turns} pauses within {len} bytes");
        other.await.expect("no panic");

        let stop = world.stop.clone();
        let stopper = tokio::spawn(async move { stop.cancel() });
        let (report, _) = world.process(&event(&[KEY])).await;
        stopper.await.expect("no panic");
        assert!(matches!(report.failures[0].failure, Failure::Stopping), "{what}: {report:?}");
    }
}
