//! Messages that come again or are given back, and workers that die, with a ledger in memory.

use proptest::prelude::*;

use super::*;
use crate::credentials::AssumeError;

/// A world with a ledger, where each event has its own batch.
fn world() -> World {
    let settings = PipelineSettings { max_batch_events: 1, ..World::new().settings };
    World { ledger: Some(MemoryLedger::new(LEASE)), settings, ..World::new() }
}

fn ledger(world: &World) -> &MemoryLedger {
    world.ledger.as_ref().expect("this world has one")
}

/// An object of `count` records.
fn several(count: usize) -> MemoryObject {
    let records = numbers(count).into_iter().map(|number| json!({"message": number}));
    object(gzip(Value::Array(records.collect()).to_string().as_bytes()))
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|index| index.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_second_notification_of_a_finished_object_costs_no_put() {
    let world = world();
    world.put(KEY, good_object(&["a", "b"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    assert_eq!(
        (world.store.opened().len(), world.sinks.count(SinkOperation::Put)),
        (1, 3),
        "one put finds that the group is missing"
    );
    shows(&world, "logferry_skipped_total{reason=\"already_delivered\"} 1");
    shows(&world, "logferry_records_read_total 2");
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_on_where_it_stopped() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(5));
    world.sinks.fail(SinkOperation::Put, 3, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.sinks.messages(ACME, GROUP), ["0", "1"]);
    // The lease was given back, so the next attempt begins at once.
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(5));
    shows(&world, "logferry_records_total{outcome=\"accepted\"} 5");
    shows(&world, "logferry_records_total{outcome=\"resumed\"} 2");
    shows(&world, "logferry_records_unaccounted_total 0");
}

#[tokio::test(start_paused = true)]
async fn deliveries_of_one_object_advance_independently() {
    let world = world();
    let second = with(row(ACME), "log_group_name", text("/second"));
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#2", second)]);
    world.put(KEY, several(3));
    world.sinks.fail_group("/second", throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(3));
    world.sinks.mend_group("/second");
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(3));
    assert_eq!(world.sinks.messages(ACME, "/second"), numbers(3));
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_on_the_same_object_waits() {
    let world = world();
    world.put(KEY, several(3));
    world.sinks.put_time(Duration::from_secs(1));
    let (one, other) = (world.pipeline(), world.pipeline());
    let (first, second) = (message(&event(&[KEY])), message(&event(&[KEY])));
    let place = Place::whole();
    let (first, second) = tokio::join!(one.handle(&first, &place, &world.stop), async {
        world.sinks.until_puts(1).await;
        other.handle(&second, &place, &world.stop).await
    });
    assert_eq!(first, Verdict::Ack);
    assert!(second.retry_after().is_some_and(|delay| delay >= BACKOFF.first), "{second:?}");
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(3));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_waits_for_the_put_on_its_way_and_gives_the_rest_back() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(5));
    world.sinks.put_time(Duration::from_millis(500));
    let verdict = async {
        world.sinks.until_puts(2).await;
        world.stop.cancel();
    };
    let body = event(&[KEY]);
    let (verdict, ()) = tokio::join!(world.handle(&body), verdict);
    assert_eq!(verdict.retry_after(), Some(Duration::ZERO));
    assert_eq!(world.sinks.messages(ACME, GROUP), ["0", "1"]);
    let next = World { stop: CancellationToken::new(), ..world };
    assert_eq!(next.handle(&body).await, Verdict::Ack);
    assert_eq!(next.sinks.messages(ACME, GROUP), numbers(5));
}

#[tokio::test(start_paused = true)]
async fn a_broken_body_repeats_nothing() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.sinks.put_time(Duration::from_secs(1));
    let whole = several(400).in_chunks(64);
    let broken = ObjectError::Unavailable("connection reset".into());
    world.put(KEY, whole.clone().breaking(whole.bytes.len() / 2, broken));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let delivered = world.sinks.messages(ACME, GROUP).len();
    assert!((50..350).contains(&delivered), "{delivered}");
    world.put(KEY, whole);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(400));
}

#[tokio::test(start_paused = true)]
async fn no_piece_of_a_split_record_comes_twice() {
    let long: String = (0..400_000).map(|number| format!("{number:06},")).collect();
    for failing in 1..=3 {
        let world = World {
            settings: PipelineSettings {
                max_record: 4 << 20,
                max_object: 8 << 20,
                max_stored: 8 << 20,
                ..World::new().settings
            },
            ..world()
        };
        world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
        world.put(KEY, good_object(&["before", &long, "behind"]));
        world.sinks.fail(SinkOperation::Put, failing, throttled());
        assert!(is_retry(&world.handle(&event(&[KEY])).await), "{failing}");
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack, "{failing}");
        let found = world.sinks.messages(ACME, GROUP).concat();
        assert!(found == format!("before{long}behind"), "{failing}: {} bytes", found.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_loses_the_lease_stops() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(10));
    world.sinks.put_time(Duration::from_secs(1));
    let theft = async {
        world.sinks.until_puts(3).await;
        ledger(&world).steal();
    };
    let body = event(&[KEY]);
    let (verdict, ()) = tokio::join!(world.handle(&body), theft);
    assert!(is_retry(&verdict), "{verdict:?}");
    assert!(world.sinks.count(SinkOperation::Put) <= 5, "{}", world.sinks.count(SinkOperation::Put));
    shows(&world, "logferry_failures_total{reason=\"lease_lost\"} 1");
}

/// Handles the message every minute until it is done. Returns how often.
async fn until_done(pipeline: &TestPipeline, world: &World) -> usize {
    let body = event(&[KEY]);
    let receives = async {
        for receives in 1.. {
            if pipeline.handle(&message(&body), &Place::whole(), &world.stop).await == Verdict::Ack {
                return receives;
            }
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        unreachable!("the numbers do not end")
    };
    tokio::time::timeout(Duration::from_secs(3600), receives)
        .await
        .expect("the message is done within an hour")
}

#[tokio::test(start_paused = true)]
async fn a_worker_delivers_without_its_ledger_only_if_the_ledger_never_answers() {
    let world = world();
    world.put(KEY, several(3));
    ledger(&world).set_down(true);
    let receives = until_done(&world.pipeline(), &world).await;
    assert!((3..6).contains(&receives), "{receives} receives, a minute apart");
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(3));
    shows(&world, &format!("logferry_failures_total{{reason=\"ledger_unavailable\"}} {}", receives - 1));
    shows(&world, "logferry_ledger_out_of_reach 1");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_throttles_repeats_nothing() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(20));
    world.sinks.put_time(Duration::from_secs(1));
    world.sinks.fail(SinkOperation::Put, 15, throttled());
    let throttling = async {
        for puts in [3, 9, 15] {
            world.sinks.until_puts(puts).await;
            ledger(&world).throttle(3);
        }
    };
    let body = event(&[KEY]);
    let (verdict, ()) = tokio::join!(world.handle(&body), throttling);
    assert!(is_retry(&verdict), "{verdict:?}");
    // The first three calls of the next attempt are throttled.
    ledger(&world).throttle(3);
    assert_eq!(world.handle(&body).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(20));
    // The message still waits after an hour of throttling.
    let other = "acme/prod-1/web/web-0/2.json.gz";
    world.put(other, several(3));
    ledger(&world).throttle(usize::MAX);
    let pipeline = world.pipeline();
    for _ in 0..60 {
        assert!(is_retry(&pipeline.handle(&message(&event(&[other])), &Place::whole(), &world.stop).await));
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(20));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_stops_the_delivery() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(20));
    world.sinks.put_time(Duration::from_secs(10));
    let outage = async {
        world.sinks.until_puts(3).await;
        ledger(&world).set_down(true);
    };
    let body = event(&[KEY]);
    let (verdict, ()) = tokio::join!(world.handle(&body), outage);
    assert!(is_retry(&verdict), "{verdict:?}");
    assert_eq!(
        world.sinks.count(SinkOperation::Put),
        4,
        "the fourth batch is put while the third is being recorded"
    );
    shows(&world, "logferry_failures_total{reason=\"ledger_unavailable\"} 1");
    ledger(&world).set_down(false);
    tokio::time::sleep(LEASE).await;
    assert_eq!(world.handle(&body).await, Verdict::Ack);
    let found = world.sinks.messages(ACME, GROUP).len();
    assert!((20..=22).contains(&found), "{found} of 20, two repeated at most");
}

#[tokio::test(start_paused = true)]
async fn broken_content_is_poison_again_and_repeats_nothing() {
    let world = world();
    world.put(KEY, object(gzip(b"[{\"message\":\"a\"},{\"message\":\"b\"},{")));
    for _ in 0..2 {
        let poison = poison(world.handle(&event(&[KEY])).await);
        assert_eq!((poison.reason, attribute(&poison, "record_offset")), ("corrupt_object", Some("2")));
        assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_may_be_altered_is_delivered_again_from_the_start() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    let whole = several(5);
    let mismatch = ObjectError::ChecksumMismatch("CRC64".into());
    world.put(KEY, whole.clone().breaking(whole.bytes.len(), mismatch));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.sinks.messages(ACME, GROUP), numbers(4), "the last batch was not put yet");
    world.put(KEY, whole);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), [numbers(4), numbers(5)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_finished_object_does_not_need_the_account() {
    let world = world();
    world.put(KEY, good_object(&["a"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let refusal = AssumeError::Unavailable { role: "r".into(), problem: "STS is down".into() };
    world.sinks.close_role(&role("222222222222"), refusal);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let other = "acme/prod-1/web/web-0/2.json.gz";
    world.put(other, good_object(&["b"]));
    assert!(is_retry(&world.handle(&event(&[other])).await), "an object that is not done needs the account");
    assert!(is_retry(&world.handle(&event(&[other])).await), "the object's lease was given back");
    shows(&world, "logferry_failures_total{reason=\"role_unavailable\"} 2");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_began_without_the_ledger_stops_once_the_ledger_knows_more() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(20));
    world.sinks.fail(SinkOperation::Put, 11, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    world.sinks.put_time(Duration::from_secs(1));
    ledger(&world).set_down(true);
    let up_again = async {
        world.sinks.until_puts(12).await;
        ledger(&world).set_down(false);
    };
    let pipeline = world.pipeline();
    tokio::join!(until_done(&pipeline, &world), up_again);
    shows(&world, "logferry_failures_total{reason=\"lease_lost\"} 1");
    let found = world.sinks.messages(ACME, GROUP).len();
    assert!((20..=23).contains(&found), "{found} of 20, three repeated at most");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_became_shorter_is_poison() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, several(5));
    world.sinks.fail(SinkOperation::Put, 4, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    // With fingerprints, the change would be found, and the object would be delivered from the start.
    ledger(&world).forget_fingerprints();
    world.put(KEY, several(2));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(poison.reason, "unaccounted");
    shows(&world, "logferry_records_unaccounted_total 1");
    // The letter is moved back. Nobody knows which records are unaccounted for, so all of the object are put.
    let before = world.sinks.messages(ACME, GROUP).len();
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), before + 2);
}

/// The object with one character of one message altered, as by a network. The checksum at the end shows the alteration.
fn altered(whole: &MemoryObject, bit: usize) -> MemoryObject {
    let mut object = whole.clone();
    let digits: Vec<_> = (0..object.bytes.len()).filter(|at| object.bytes[*at] == b'#').collect();
    // A hash becomes a plus or a comma, so the text is still JSON.
    object.bytes[digits[bit % digits.len()]] ^= if bit.is_multiple_of(2) { 0x08 } else { 0x0f };
    let length = object.bytes.len();
    object.breaking(length, ObjectError::ChecksumMismatch("CRC64".into()))
}

/// `count` records of plain text, each with a character that [`altered`] can alter.
fn plain(count: usize, chunk: usize) -> MemoryObject {
    let records = (0..count).map(|index| json!({"message": format!("#{index}")}));
    object(Value::Array(records.collect()).to_string().into_bytes()).in_chunks(chunk)
}

#[tokio::test(start_paused = true)]
async fn an_attempt_after_altered_bytes_begins_at_the_start() {
    let world = world();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.sinks.put_time(Duration::from_secs(1));
    let whole = plain(8, 100);
    world.put(KEY, altered(&whole, 1));
    let body = event(&[KEY]);
    // The worker dies with two batches recorded, before the checksum.
    let _ = tokio::time::timeout(Duration::from_millis(3_500), world.handle(&body)).await;
    assert_eq!(world.sinks.messages(ACME, GROUP), ["#0", ",1", "#2"]);
    world.put(KEY, whole);
    tokio::time::sleep(LEASE).await;
    assert!(is_retry(&world.handle(&body).await));
    shows(&world, "logferry_failures_total{reason=\"checksum_mismatch\"} 1");
    assert_eq!(world.handle(&body).await, Verdict::Ack);
    let found = world.sinks.messages(ACME, GROUP);
    let whole: Vec<_> = (0..8).map(|index| format!("#{index}")).collect();
    assert_eq!(found[found.len() - 8..], whole, "from the start: {found:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Attempts read altered bytes and die, at any time and with any chunks. Once the object is done, every line has arrived
    /// unaltered.
    #[test]
    fn every_line_of_a_finished_object_arrives_unaltered(
        lives in prop::collection::vec((prop::option::of(0_usize..8), 0_u64..3_000, 1_usize..400), 1..5),
        put_time in 1_u64..400,
        second in any::<bool>(),
    ) {
        const BATCHES: usize = 8;
        let millis = Duration::from_millis;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let world = world();
            world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
            if second {
                world.sinks.create(ACME, "/second", &["web-web-0-2026-11-21"]);
                let other = with(row(ACME), "log_group_name", text("/second"));
                world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#2", other)]);
            }
            world.sinks.put_time(millis(put_time));
            let (body, mut chunk) = (event(&[KEY]), 1);
            for (bit, life, chunks) in lives {
                chunk = chunks;
                let whole = plain(BATCHES, chunk);
                world.put(KEY, bit.map_or(whole.clone(), |bit| altered(&whole, bit)));
                let _ = tokio::time::timeout(millis(life), world.handle(&body)).await;
                tokio::time::sleep(LEASE).await;
            }
            world.put(KEY, plain(BATCHES, chunk));
            let mut receives = 0;
            while world.handle(&body).await != Verdict::Ack {
                receives += 1;
                // Each lane whose earlier attempts read other bytes costs one retry.
                assert!(receives <= 2, "{receives} retries of unaltered bytes");
            }
            for group in [GROUP, "/second"].into_iter().take(1 + usize::from(second)) {
                let found = world.sinks.messages(ACME, group);
                for index in 0..BATCHES {
                    assert!(found.contains(&format!("#{index}")), "{index} is not in {found:?} of {group}");
                }
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A worker dies several times, at any moment. Nothing is lost, and each death repeats at most two batches.
    #[test]
    fn a_worker_that_dies_repeats_at_most_two_batches(
        lives in prop::collection::vec(0_u64..4_000, 1..4),
        put_time in 1_u64..400,
        call_time in 0_u64..400,
    ) {
        const BATCHES: usize = 8;
        let millis = Duration::from_millis;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let ledger = MemoryLedger::new(LEASE).with_call_time(millis(call_time));
            let world = World { ledger: Some(ledger), ..world() };
            world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
            world.put(KEY, several(BATCHES));
            world.sinks.put_time(millis(put_time));
            let body = event(&[KEY]);
            let mut allowed = BATCHES;
            for life in lives {
                allowed += 2;
                let _ = tokio::time::timeout(millis(life), world.handle(&body)).await;
                tokio::time::sleep(LEASE).await;
            }
            assert_eq!(world.handle(&body).await, Verdict::Ack);
            let found = world.sinks.messages(ACME, GROUP);
            assert!(found.len() <= allowed, "{found:?}");
            let mut distinct: Vec<usize> = found.iter().map(|it| it.parse().expect("a number")).collect();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct, (0..BATCHES).collect::<Vec<_>>());
        });
    }
}
