//! Records that cannot be delivered, with a quarantine in memory.

use proptest::prelude::*;

use super::*;
use crate::batch::RejectedEvents;

/// A world with a quarantine, where the stream exists.
fn world() -> World {
    let settings = PipelineSettings {
        max_record: 4 << 20,
        max_object: 32 << 20,
        max_stored: 32 << 20,
        ..World::new().settings
    };
    let world = World { quarantine: Some(MemoryQuarantine::default()), settings, ..World::new() };
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world
}

fn quarantine(world: &World) -> &MemoryQuarantine {
    world.quarantine.as_ref().expect("this world has one")
}

/// Reason, record and message of each line.
fn lines(world: &World) -> Vec<(String, u64, String)> {
    let text = |line: &Value, name: &str| line[name].as_str().expect("a text").to_owned();
    let lines = quarantine(world).lines().into_iter();
    lines
        .map(|line| {
            (text(&line, "reason"), line["record"].as_u64().expect("a number"), text(&line, "message"))
        })
        .collect()
}

fn line(reason: &str, record: u64, message: &str) -> (String, u64, String) {
    (reason.to_owned(), record, message.to_owned())
}

/// A message that is longer than one event and hardly compresses. Each seed gives another message.
fn long(seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..1_200_000).map(|_| random.alphanumeric()).collect()
}

fn quarantines_oversize(world: &World) {
    world.tenant("acme", [("cloudwatch", with(row(ACME), "oversize", text("quarantine")))]);
}

fn adds_up(world: &World, outcomes: &[(&str, u64)]) {
    let shown = world.metrics.render();
    let mut expected: Vec<_> = outcomes
        .iter()
        .map(|(outcome, count)| format!("logferry_records_total{{outcome=\"{outcome}\"}} {count}"))
        .collect();
    expected.push("logferry_records_unaccounted_total 0".to_owned());
    for line in expected {
        assert!(shown.lines().any(|found| found == line), "{line} is not in {shown}");
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_events_go_into_quarantine_and_the_message_is_done() {
    let world = world();
    world.put(KEY, good_object(&["a", "", "b\n\"", "c", "d", "e"]));
    let rejected = RejectedEvents { too_old_end: Some(2), expired_end: Some(3), too_new_start: Some(4) };
    world.sinks.reject(1, rejected);
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["d"]);
    assert_eq!(
        lines(&world),
        [
            line("too_old", 0, "a"),
            line("too_old", 2, "b\n\""),
            line("expired", 3, "c"),
            line("too_new", 5, "e")
        ]
    );
    let first = &quarantine(&world).lines()[0];
    let expected = json!({
        "reason": "too_old", "tenant_id": "acme", "delivery": "cloudwatch", "bucket": BUCKET, "key": KEY,
        "version_id": "v7", "record": 0, "message": "a",
        "timestamp": "2026-11-21T08:00:00Z".parse::<Timestamp>().expect("a timestamp").as_millisecond(),
    });
    assert_eq!(first, &expected);
    assert_eq!(report.delivered[0].tally.accounted(), 6);
    adds_up(&world, &[("accepted", 1), ("too_old", 2), ("expired", 1), ("too_new", 1), ("empty", 1)]);
}

#[tokio::test(start_paused = true)]
async fn only_owed_records_are_tried_again() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    let old = |day: usize| format!("2026-10-0{day}T08:00:00Z");
    let records: Vec<_> = (0..1_000)
        .map(|index| match index % 2 {
            0 => json!({"message": format!("good {index}"), "timestamp": "2026-11-21T08:00:00Z"}).to_string(),
            _ => json!({"message": format!("old {index}"), "timestamp": old(1 + index / 500)}).to_string(),
        })
        .collect();
    world.put(KEY, object(gzip(records.join("\n").as_bytes())));
    world
        .sinks
        .reject_before("2026-11-01T00:00:00Z".parse::<Timestamp>().expect("a timestamp").as_millisecond());
    quarantine(&world).set_down(true);
    for receive in 1..=12 {
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict), "{verdict:?}");
        let [failed] = &report.failures[..] else { panic!("one failure, not {:?}", report.failures) };
        assert_eq!(failed.failure.reason(), "quarantine");
        assert_eq!(quarantine(&world).calls(), receive, "each receive tries to write one file");
        adds_up(&world, &[("accepted", 500), ("too_old", 500)]);
    }
    let good: Vec<_> = (0..1_000).step_by(2).map(|index| format!("good {index}")).collect();
    assert_eq!(world.sinks.messages(ACME, GROUP), good, "each record once");
    quarantine(&world).set_down(false);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let kept: Vec<_> =
        (1..1_000).step_by(2).map(|index| line("too_old", index, &format!("old {index}"))).collect();
    assert_eq!(lines(&world), kept);
    assert_eq!(world.sinks.messages(ACME, GROUP), good);
    adds_up(&world, &[("accepted", 500), ("too_old", 500)]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(lines(&world), kept, "the object is done");
}

/// Rejected records were counted when CloudWatch Logs answered. Other owed records can only be put into quarantine.
#[tokio::test(start_paused = true)]
async fn records_owed_to_a_quarantine_that_was_switched_off_are_not_forgotten() {
    for (oversize, reason) in [(false, "too_old"), (true, "oversize")] {
        let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
        quarantines_oversize(&world);
        let message = if oversize { long(1) } else { "rejected".to_owned() };
        world.put(KEY, good_object(&[&message, "good"]));
        if !oversize {
            world.sinks.reject(1, RejectedEvents { too_old_end: Some(1), ..RejectedEvents::default() });
        }
        quarantine(&world).set_down(true);
        assert!(is_retry(&world.handle(&event(&[KEY])).await), "{reason}");
        // Without a quarantine, a row with the policy `quarantine` is bad, so the policy changes too.
        let off = world.quarantine.take();
        world.tenant("acme", [("cloudwatch", row(ACME))]);
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert_eq!(is_retry(&verdict), oversize, "{reason}: {:?}", report.failures);
        if oversize {
            let error = report.failures[0].to_string();
            assert!(error.contains("quarantine.bucket is not set; set it again"), "{error}");
            off.as_ref().expect("the quarantine was on").set_down(false);
            world.quarantine = off;
            assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
            assert_eq!(lines(&world), [line("oversize", 0, &message)]);
        }
        assert_eq!(world.sinks.messages(ACME, GROUP), ["good"], "{reason}: once");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_owed_records_bring_the_batch_again() {
    let world = world();
    world.put(KEY, good_object(&["a", "b"]));
    for put in 1..=2 {
        world.sinks.reject(put, RejectedEvents { too_old_end: Some(1), ..RejectedEvents::default() });
    }
    quarantine(&world).set_down(true);
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    quarantine(&world).set_down(false);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(lines(&world), [line("too_old", 0, "a")]);
    assert_eq!(
        world.sinks.messages(ACME, GROUP),
        ["b", "b"],
        "twice, because without a ledger the whole batch comes again"
    );
    adds_up(&world, &[("accepted", 1), ("too_old", 1)]);
}

#[tokio::test(start_paused = true)]
async fn long_messages_and_bad_lines_are_owed_too() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    quarantines_oversize(&world);
    let long = long(1);
    let text = format!("{}\nno json\n{}\n", json!({"message": "a"}), json!({ "message": long }));
    world.put(KEY, object(gzip(text.as_bytes())));
    quarantine(&world).set_down(true);
    for _ in 0..3 {
        assert!(is_retry(&world.handle(&event(&[KEY])).await));
    }
    adds_up(&world, &[("accepted", 1)]);
    quarantine(&world).set_down(false);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert!(lines(&world) == [line("malformed", 1, "no json"), line("oversize", 2, &long)]);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a"]);
    adds_up(&world, &[("accepted", 1), ("quarantined", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_owes_too_much_stops_and_goes_on_later() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    // Every other line is not a record, and takes two bytes in the ledger.
    let count = 60_000_u64;
    let text: String = (0..count).map(|index| format!("{{\"message\":\"{index}\"}}\nno json\n")).collect();
    world.put(KEY, object(gzip(text.as_bytes())));
    quarantine(&world).set_down(true);
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let put = world.sinks.messages(ACME, GROUP).len();
    for _ in 0..3 {
        assert!(is_retry(&world.handle(&event(&[KEY])).await));
    }
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), put, "the lane puts no more");
    assert!((12_000..40_000).contains(&put), "{put} put before the lane stopped");
    quarantine(&world).set_down(false);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let all: Vec<_> = (0..count).map(|index| index.to_string()).collect();
    assert!(world.sinks.messages(ACME, GROUP) == all, "each record once");
    let mut kept: Vec<_> = lines(&world).into_iter().map(|(_, record, _)| record).collect();
    kept.sort_unstable();
    assert!(kept.into_iter().eq((0..count).map(|index| 2 * index + 1)), "each record once");
    adds_up(&world, &[("accepted", count), ("quarantined", count)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_quarantine_rejected_events_are_counted() {
    let world = World { quarantine: None, ..world() };
    world.put(KEY, good_object(&["a", "b"]));
    world.sinks.reject(1, RejectedEvents { too_old_end: Some(1), ..RejectedEvents::default() });
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    adds_up(&world, &[("accepted", 1), ("too_old", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_s_long_messages_go_whole_into_quarantine() {
    let world = world();
    quarantines_oversize(&world);
    let long = long(1);
    world.put(KEY, good_object(&["a", &long, "b"]));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    assert!(lines(&world) == [line("oversize", 1, &long)], "{:?}", quarantine(&world).keys());
    let tally = report.delivered[0].tally;
    assert_eq!((tally.read, tally.put.accepted, tally.quarantined, tally.oversize), (3, 2, 1, 1));
    adds_up(&world, &[("accepted", 2), ("quarantined", 1)]);
    // The object has no other records, so nothing is put.
    let (puts, key) = (world.sinks.count(SinkOperation::Put), "acme/prod-1/web/web-0/2.json.gz");
    world.put(key, good_object(&[&long]));
    assert_eq!(world.handle(&event(&[key])).await, Verdict::Ack);
    assert_eq!((world.sinks.count(SinkOperation::Put), quarantine(&world).keys().len()), (puts, 2));
}

#[tokio::test(start_paused = true)]
async fn memory_holds_long_messages_of_at_most_one_file() {
    let world = world();
    quarantines_oversize(&world);
    let all: Vec<_> = (0..5).map(long).collect();
    world.put(KEY, good_object(&all.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let expected: Vec<_> = (0..).zip(&all).map(|(index, text)| line("oversize", index, text)).collect();
    assert!(lines(&world) == expected, "{:?}", quarantine(&world).keys());
    // 1.2 million letters and digits are 900 KB of gzip, so two messages fill a file.
    assert_eq!(quarantine(&world).keys().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn records_in_quarantine_are_not_put_there_again() {
    let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    world.settings.max_batch_events = 1;
    quarantines_oversize(&world);
    let (one, other) = (long(1), long(2));
    let records = [(0, "a"), (0, one.as_str()), (2, "b"), (4, other.as_str()), (4, "c")].map(|(day, message)| {
        json!({"message": message, "timestamp": format!("2026-11-{:02}T08:00:00Z", day + 10)})
    });
    world.put(KEY, object(gzip(Value::from(records.to_vec()).to_string().as_bytes())));
    world.sinks.fail(SinkOperation::Put, 2, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(quarantine(&world).calls(), 1);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(quarantine(&world).calls(), 2);
    assert!(lines(&world) == [line("oversize", 1, &one), line("oversize", 3, &other)]);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b", "c"]);
    adds_up(&world, &[("accepted", 3), ("quarantined", 2), ("resumed", 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_needs_a_quarantine_is_bad_if_none_is_configured() {
    let world = World { quarantine: None, ..world() };
    quarantines_oversize(&world);
    world.put(KEY, good_object(&["a"]));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(poison.reason, "bad_tenant_row");
    assert!(
        attribute(&poison, "error").is_some_and(|error| error.contains("quarantine.bucket")),
        "{poison:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_not_a_record_does_not_affect_the_others() {
    let text = "{\"message\":\"a\"}\nno json\n{\"message\":\"b\"}\n{\"message\":\"cut\n{\"message\":\"c\"}\n";
    let world = world();
    world.put(KEY, object(gzip(text.as_bytes())));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b", "c"]);
    assert_eq!(lines(&world), [line("malformed", 1, "no json"), line("malformed", 3, "{\"message\":\"cut")]);
    assert_eq!(report.delivered[0].tally.read, 5);
    adds_up(&world, &[("accepted", 3), ("quarantined", 2)]);
    // Without a quarantine, the line ends the object.
    let world = World { quarantine: None, ..world };
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, attribute(&poison, "record_offset")), ("corrupt_object", Some("1")));
}

/// Three records. The second is longer than a mebibyte.
fn with_a_giant(message: &str) -> Vec<u8> {
    let records = ["a", message, "c"].map(|message| json!({ "message": message }).to_string());
    gzip(records.join("\n").as_bytes())
}

#[tokio::test(start_paused = true)]
async fn without_a_quarantine_a_letter_names_the_record_that_is_too_long() {
    let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), quarantine: None, ..world() };
    world.settings.max_record = 1 << 20;
    let giant = "x".repeat(1 << 20);
    world.put(KEY, object(with_a_giant(&giant)));
    // Each attempt writes the letter again; the other records are delivered.
    for _ in 0..3 {
        let cause = poison(world.handle(&event(&[KEY])).await);
        assert_eq!((cause.reason, attribute(&cause, "record_offset")), ("record_too_long", Some("1")));
        let error = attribute(&cause, "error").expect("an error");
        assert!(error.contains("from byte 16 of") && error.contains("quarantine.bucket"), "{error}");
        assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "c"]);
        adds_up(&world, &[("accepted", 2)]);
    }
    // With a higher limit the record could be read, but an earlier attempt has stepped over it. The record is not forgotten.
    world.settings.max_record = 4 << 20;
    let cause = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((cause.reason, attribute(&cause, "record_offset")), ("record_too_long", Some("1")));
    // With a quarantine, the message is done, because the quarantine keeps the record or its place.
    world.quarantine = Some(MemoryQuarantine::default());
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(lines(&world), [line("too_long", 1, &giant)]);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "c"]);
    adds_up(&world, &[("accepted", 2), ("quarantined", 1)]);
}

#[tokio::test(start_paused = true)]
async fn without_a_ledger_a_long_record_makes_a_letter_and_repeats_the_others() {
    let mut world = World { quarantine: None, ..world() };
    world.settings.max_record = 1 << 20;
    world.put(KEY, object(with_a_giant(&"x".repeat(1 << 20))));
    let cause = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(cause.reason, "record_too_long");
    world.settings.max_record = 4 << 20;
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let found: Vec<_> = world.sinks.messages(ACME, GROUP).iter().map(String::len).collect();
    assert_eq!(found.iter().filter(|len| **len == 1).count(), 4);
    assert_eq!(found.iter().sum::<usize>(), 4 + (1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_break_in_the_object_still_ends_it() {
    let whole = gzip("{\"message\":\"a\"}\nno json\n".repeat(2000).as_bytes());
    let world = world();
    world.put(KEY, object(whole[..whole.len() - 9].to_vec()));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(poison.reason, "corrupt_object");
    let (delivered, kept) = (world.sinks.messages(ACME, GROUP).len(), lines(&world).len());
    assert!(delivered > 0 && delivered.abs_diff(kept) <= 1, "{delivered} {kept}");
    let offset = attribute(&poison, "record_offset").map(str::to_owned);
    assert_eq!(offset, Some((delivered + kept).to_string()));
}

#[tokio::test(start_paused = true)]
async fn every_piece_of_a_rejected_record_is_kept() {
    let world = world();
    let whole: String = (0..2).map(long).collect();
    world.put(KEY, good_object(&[&whole]));
    for put in 1..=3 {
        world.sinks.reject(put, RejectedEvents { too_old_end: Some(1), ..RejectedEvents::default() });
    }
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let found = lines(&world);
    assert_eq!(found.len(), 3, "each piece has its own batch, and so its own file");
    assert!(found.into_iter().map(|(_, _, text)| text).collect::<String>() == whole);
    adds_up(&world, &[("too_old", 1)]);
}

/// Kind of a record, which determines its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Good,
    TooOld,
    Malformed,
    TooLong,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Writing to the quarantine fails at times, and so do puts. Every record arrives once where it belongs, and counts once.
    #[test]
    fn owed_records_are_written_once(
        kinds in prop::collection::vec(prop::sample::select(vec![Kind::Good, Kind::TooOld, Kind::Malformed, Kind::TooLong]), 1..40),
        down in prop::collection::vec(any::<bool>(), 0..6),
        failing in prop::collection::vec(1_usize..20, 0..3),
    ) {
        // A first good line shows that the object consists of lines.
        let kinds = [vec![Kind::Good], kinds].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
            world.settings.max_record = 200;
            world.sinks.reject_before("2026-11-01T00:00:00Z".parse::<Timestamp>().expect("a timestamp").as_millisecond());
            let text: Vec<_> = (0..).zip(&kinds).map(|(index, kind): (usize, _)| match kind {
                Kind::Good => json!({"message": index.to_string(), "timestamp": "2026-11-21T08:00:00Z"}).to_string(),
                Kind::TooOld => json!({"message": index.to_string(), "timestamp": "2026-10-21T08:00:00Z"}).to_string(),
                Kind::Malformed => format!("x{index}"),
                Kind::TooLong => json!({"message": "x".repeat(200), "timestamp": "2026-11-21T08:00:00Z"}).to_string(),
            }).collect();
            world.put(KEY, object(gzip(text.join("\n").as_bytes())));
            for nth in failing {
                world.sinks.fail(SinkOperation::Put, nth, throttled());
            }
            for down in down {
                quarantine(&world).set_down(down);
                world.handle(&event(&[KEY])).await;
            }
            quarantine(&world).set_down(false);
            let mut receives = 0;
            while world.handle(&event(&[KEY])).await != Verdict::Ack {
                receives += 1;
                assert!(receives < 10, "the message is not done after ten receives");
            }
            let of = |wanted: Kind| (0_u64..).zip(&kinds).filter(move |(_, kind)| **kind == wanted).map(|(index, _)| index);
            let good: Vec<_> = of(Kind::Good).map(|index| index.to_string()).collect();
            assert_eq!(world.sinks.messages(ACME, GROUP), good);
            let mut kept = lines(&world);
            kept.sort_by_key(|(_, record, _)| *record);
            let mut expected: Vec<_> = of(Kind::TooOld).map(|index| line("too_old", index, &index.to_string())).collect();
            expected.extend(of(Kind::Malformed).map(|index| line("malformed", index, &format!("x{index}"))));
            let starts: Vec<_> = text.iter().scan(0, |at, line| Some(std::mem::replace(at, *at + line.len() + 1))).collect();
            expected.extend(of(Kind::TooLong).map(|index| {
                let (start, bytes) = (starts[index as usize], text[index as usize].len());
                line("too_long", index, &format!("the record is longer than source.max_record (200 bytes): it takes {bytes} bytes from byte {start} of the decompressed object"))
            }));
            expected.sort_by_key(|(_, record, _)| *record);
            assert_eq!(kept, expected);
            let quarantined = of(Kind::Malformed).count() + of(Kind::TooLong).count();
            let counts = [("accepted", of(Kind::Good).count()), ("too_old", of(Kind::TooOld).count()), ("quarantined", quarantined)];
            let counts: Vec<_> = counts.into_iter().map(|(outcome, count)| (outcome, count as u64)).filter(|(_, count)| *count > 0).collect();
            adds_up(&world, &counts);
            let shown = world.metrics.render();
            for (reason, kind) in [("too_old", Kind::TooOld), ("malformed", Kind::Malformed), ("too_long", Kind::TooLong)] {
                let count = of(kind).count();
                let line = format!("logferry_quarantined_total{{reason=\"{reason}\"}} {count}");
                assert!(count == 0 || shown.lines().any(|found| found == line), "{line} is not in {shown}");
            }
        });
    }
}
