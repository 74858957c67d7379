//! Objects that turn out larger than their events say.

use super::*;
use crate::room::{Room, UNITS};

/// A message about an object whose event says that the object has `size` bytes.
fn sized(key: &str, size: u64) -> Message {
    let mut record = event_record(BUCKET, key);
    record["s3"]["object"]["size"] = size.into();
    message(&json!({ "Records": [record] }).to_string())
}

#[tokio::test(start_paused = true)]
async fn an_object_that_turns_out_large_waits_for_a_whole_slot() {
    let line = "x".repeat(1000);
    let large = vec![line.as_str(); 1000];
    for (stored, said) in [
        // The event is right, and the object decompresses to a hundred times its size.
        (gzip(&array(&large)), None),
        // The event is wrong.
        (array(&large), Some(10)),
    ] {
        let world = World::new();
        let message = sized(KEY, said.unwrap_or(stored.len() as u64));
        world.put(KEY, object(stored));
        let (pipeline, room) = (world.pipeline(), Room::new(2));
        assert_eq!(pipeline.units(&message), 1);
        let place = room.take(pipeline.units(&message)).expect("the room is empty");
        // Another object has the other slot for ten seconds.
        let other = room.take(UNITS).expect("one slot is free");
        let began = Instant::now();
        let other = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(other);
        };
        let (verdict, ()) = tokio::join!(pipeline.handle(&message, &place, &world.stop), other);
        assert_eq!(verdict, Verdict::Ack);
        assert_eq!((place.units(), began.elapsed().as_secs()), (UNITS, 10), "{said:?}");
        // Further objects of the tenant get whole slots at once, and those of others do not.
        assert_eq!(pipeline.units(&sized(KEY, 10)), UNITS);
        assert_eq!(pipeline.units(&sized("globex/c/a/p/1.json.gz", 10)), 1);
        tokio::time::advance(Duration::from_secs(700)).await;
        assert_eq!(pipeline.units(&sized(KEY, 10)), 1, "that was long ago");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_needs_room_for_its_largest_object() {
    let world = World::new();
    let pipeline = world.pipeline();
    let units = |sizes: &[u64]| {
        let records = sizes.iter().map(|size| {
            let mut record = event_record(BUCKET, KEY);
            record["s3"]["object"]["size"] = (*size).into();
            record
        });
        let records: Vec<_> = records.collect();
        pipeline.units(&message(&json!({ "Records": records }).to_string()))
    };
    assert_eq!(units(&[]), 1);
    assert_eq!(units(&[5, 100 << 10, 7]), 7);
    assert_eq!(units(&[5, 100 << 20, 7]), UNITS);
    assert_eq!(pipeline.units(&message("no event")), 1);
    let mut unknown = event_record(BUCKET, KEY);
    unknown["s3"]["object"].as_object_mut().expect("it is one").remove("size");
    assert_eq!(pipeline.units(&message(&json!({ "Records": [unknown] }).to_string())), UNITS);
}

#[tokio::test(start_paused = true)]
async fn a_small_object_keeps_its_place() {
    let world = World::new();
    world.put(KEY, good_object(&["one", "two"]));
    let (message, room) = (sized(KEY, 100), Room::new(2));
    let place = room.take(1).expect("the room is empty");
    assert_eq!(world.pipeline().handle(&message, &place, &world.stop).await, Verdict::Ack);
    assert_eq!(place.units(), 1);
}
