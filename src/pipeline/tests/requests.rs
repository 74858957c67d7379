//! Batches of several requests: events of several days, and events that CloudWatch Logs refuses.

use proptest::prelude::*;

use super::*;
use crate::batch::{EVENT_OVERHEAD, MAX_MESSAGE_BYTES, RejectedEvents};

/// A world where the stream exists, so that no put is repeated after its creation.
fn world() -> World {
    let world = World::new();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world
}

/// Records that alternate between `days` days.
fn in_turns(count: usize, days: usize) -> MemoryObject {
    let records = (0..count).map(|index| {
        // The days are two apart, because events of neighbouring days can share a put. The latest day comes first.
        let day = 10 + 2 * (days - 1 - index % days);
        json!({"message": index.to_string(), "timestamp": format!("2026-11-{day}T08:00:00Z")}).to_string()
    });
    object(gzip(records.collect::<Vec<_>>().join("\n").as_bytes()))
}

/// Messages in the account, in the object's order.
fn sorted(world: &World) -> Vec<usize> {
    let messages = world.sinks.messages(ACME, GROUP).into_iter();
    let mut numbers: Vec<_> = messages.map(|message| message.parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn records_that_alternate_between_days_cost_a_put_for_each_day() {
    for days in [1, 2, 5] {
        let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
        world.put(KEY, in_turns(1_000, days));
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        assert_eq!(sorted(&world), (0..1_000).collect::<Vec<_>>());
        assert_eq!(world.sinks.count(SinkOperation::Put), days);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_half_way_goes_on_where_it_stopped() {
    for failing in 1..=6 {
        let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
        // Two batches, because one holds at most 10,000 events.
        world.put(KEY, in_turns(12_000, 3));
        world.sinks.fail(SinkOperation::Put, failing, throttled());
        assert!(is_retry(&world.handle(&event(&[KEY])).await));
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert_eq!(verdict, Verdict::Ack);
        assert_eq!(sorted(&world), (0..12_000).collect::<Vec<_>>(), "each record once");
        // Six requests, and the failed one again. The second attempt may need one more: its batches gather several days only
        // after time has gone back once, so the rest of the failed batch may be cut in two before that.
        let puts = world.sinks.count(SinkOperation::Put);
        assert!((7..=8).contains(&puts), "{puts} puts after the failure of {failing}");
        assert_eq!(report.delivered[0].tally.accounted(), 12_000);
        let bytes: usize =
            world.sinks.messages(ACME, GROUP).iter().map(|message| message.len() + EVENT_OVERHEAD).sum();
        shows(&world, &format!("logferry_event_bytes_total {bytes}"));
    }
}

/// Events that were rejected before the failure are neither lost nor put into quarantine twice.
#[tokio::test(start_paused = true)]
async fn events_that_the_first_requests_rejected_go_into_quarantine_later() {
    let quarantine = Some(MemoryQuarantine::default());
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), quarantine, ..world() };
    world.put(KEY, in_turns(9, 3));
    let too_old = RejectedEvents { too_old_end: Some(2), ..RejectedEvents::default() };
    world.sinks.reject(1, too_old);
    world.sinks.fail(SinkOperation::Put, 2, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let quarantine = world.quarantine.as_ref().expect("this world has a quarantine");
    let lines: Vec<_> = quarantine.lines().iter().map(|line| line["record"].clone()).collect();
    assert_eq!(lines, [json!(2), json!(5)], "the first two records of the oldest day");
    assert_eq!(world.sinks.count(SinkOperation::Put), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Accepted events are not put again, whatever days the records have and whichever requests fail.
    #[test]
    fn failures_between_requests_repeat_nothing(
        days in prop::collection::vec(prop::collection::vec(0_usize..4, 1..20), 1..4),
        failing in prop::collection::btree_set(1_usize..40, 0..12),
        most in 1_usize..12,
        large in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let days: Vec<usize> = days.concat();
        let large = large.map(|index| index.index(days.len()));
        let text = |index: usize| match large {
            // This message takes two events.
            Some(large) if large == index => format!("{index}{}", "x".repeat(MAX_MESSAGE_BYTES)),
            _ => index.to_string(),
        };
        let records = days.iter().enumerate().map(|(index, day)| {
            json!({"message": text(index), "timestamp": format!("2026-11-1{}T08:00:00Z", 2 * day)}).to_string()
        });
        let records = records.collect::<Vec<_>>().join("\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
            (world.settings.max_batch_events, world.settings.max_record) = (most, 2 << 20);
            world.put(KEY, object(gzip(records.as_bytes())));
            for nth in &failing {
                world.sinks.fail(SinkOperation::Put, *nth, throttled());
            }
            let body = event(&[KEY]);
            let mut receives = 0;
            while is_retry(&world.handle(&body).await) {
                receives += 1;
                assert!(receives <= failing.len(), "each failure costs one receive at most");
            }
            let found = world.sinks.messages(ACME, GROUP);
            let mut numbers: Vec<usize> =
                found.iter().filter_map(|text| text.trim_end_matches('x').parse().ok()).collect();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..days.len()).collect::<Vec<_>>(), "each record once");
            assert_eq!(found.len(), days.len() + usize::from(large.is_some()), "each record once, and both pieces of the long record");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn refused_events_are_found_and_the_others_arrive() {
    // One event in the middle, one at each end, and two neighbours.
    for (days, bad) in [(1, &["500"][..]), (2, &["500"]), (1, &["0"]), (3, &["999"]), (1, &["600", "601"])] {
        for has_quarantine in [false, true] {
            let ledger = Some(MemoryLedger::new(LEASE));
            let world =
                World { quarantine: has_quarantine.then(MemoryQuarantine::default), ledger, ..world() };
            world.put(KEY, in_turns(1_000, days));
            bad.iter().for_each(|bad| world.sinks.refuse_message(bad));
            let (report, verdict) = world.process(&event(&[KEY])).await;
            let is_good = |number: &usize| !bad.contains(&number.to_string().as_str());
            let others: Vec<usize> = (0..1_000).filter(is_good).collect();
            assert_eq!(sorted(&world), others, "each record once");
            let puts = world.sinks.count(SinkOperation::Put);
            assert!(puts <= 30 + days, "{puts} puts for {bad:?} of {days} days");
            let Some(quarantine) = &world.quarantine else {
                let cause = poison(verdict);
                assert_eq!(
                    (cause.reason, attribute(&cause, "record_offset")),
                    ("event_refused", Some(bad[0]))
                );
                // After a quarantine is configured, a redrive handles only the refused records again.
                let world = World { quarantine: Some(MemoryQuarantine::default()), ..world };
                assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
                assert_eq!(world.sinks.count(SinkOperation::Put), puts);
                let quarantine = world.quarantine.as_ref().expect("this world has a quarantine");
                assert_eq!(quarantine.lines().len(), bad.len());
                continue;
            };
            assert_eq!(verdict, Verdict::Ack, "{bad:?}");
            let (tally, refused) = (report.delivered[0].tally, bad.len() as u64);
            assert_eq!(
                (tally.put.accepted, tally.put.refused, tally.accounted()),
                (1_000 - refused, refused, 1_000)
            );
            shows(&world, &format!("logferry_records_total{{outcome=\"refused\"}} {refused}"));
            let lines = quarantine.lines();
            let lines: Vec<_> = lines.iter().map(|line| (&line["reason"], &line["message"])).collect();
            let (reason, bad): (_, Vec<_>) = (json!("refused"), bad.iter().map(|bad| json!(bad)).collect());
            assert_eq!(lines, bad.iter().map(|bad| (&reason, bad)).collect::<Vec<_>>());
        }
    }
}

/// Each message has a batch of its own. The batches that were accepted first show that the group is not to blame.
#[tokio::test(start_paused = true)]
async fn a_refused_event_alone_in_its_batch_does_not_hold_up_the_next_batches() {
    let quarantine = Some(MemoryQuarantine::default());
    let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), quarantine, ..world() };
    world.settings.max_batch_events = 1;
    world.put(KEY, in_turns(10, 1));
    ["3", "4", "9"].iter().for_each(|bad| world.sinks.refuse_message(bad));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(sorted(&world), [0, 1, 2, 5, 6, 7, 8]);
    assert_eq!(world.quarantine.as_ref().map(|quarantine| quarantine.lines().len()), Some(3));
}

/// The whole first batch is refused. Then another object shows that the group accepts legal events.
#[tokio::test(start_paused = true)]
async fn a_refused_event_that_comes_first_does_not_hold_up_the_rest_of_a_stream_in_use() {
    let quarantine = Some(MemoryQuarantine::default());
    let mut world = World { ledger: Some(MemoryLedger::new(LEASE)), quarantine, ..world() };
    world.settings.max_batch_events = 1;
    world.put(KEY, in_turns(5, 1));
    ["0", "1"].iter().for_each(|bad| world.sinks.refuse_message(bad));
    let pipeline = world.pipeline();
    let report = pipeline.process(&event(&[KEY]), &world.stop).await;
    assert_eq!(report.failures[0].failure.reason(), "batch_refused", "the group took nothing yet");
    let other = KEY.replace("1.json", "2.json");
    let record = json!({"message": "7", "timestamp": "2026-11-10T08:00:00Z"}).to_string();
    world.put(&other, object(gzip(record.as_bytes())));
    for key in [&other, KEY] {
        let report = pipeline.process(&event(&[key]), &world.stop).await;
        assert!(report.failures.is_empty(), "{report:?}");
    }
    assert_eq!(sorted(&world), [2, 3, 4, 7]);
    assert_eq!(world.quarantine.as_ref().map(|quarantine| quarantine.lines().len()), Some(2));
}

/// A search ends at the 17th refused event. Events that were put during the search are not put again, and the next attempt
/// searches on.
#[tokio::test(start_paused = true)]
async fn a_search_that_fails_repeats_nothing() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    world.put(KEY, in_turns(1_000, 1));
    (0..1_000).step_by(50).for_each(|bad| world.sinks.refuse_message(&bad.to_string()));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict), "{verdict:?}");
    assert_eq!(report.failures[0].failure.reason(), "batch_refused");
    let (report, _) = world.process(&event(&[KEY])).await;
    assert_eq!(report.failures[0].failure.reason(), "event_refused");
    assert_eq!(sorted(&world), (0..1_000).filter(|number| number % 50 != 0).collect::<Vec<_>>());
}

/// If everything is refused, the group, the role or the request is to blame, so no event may be given up.
#[tokio::test(start_paused = true)]
async fn no_event_is_to_blame_if_everything_is_refused() {
    for records in [1, 2, 3, 1_000] {
        let world = World { quarantine: Some(MemoryQuarantine::default()), ..world() };
        world.put(KEY, in_turns(records, 1));
        world.sinks.fail_group(GROUP, SinkError::Refused("InvalidParameterException: no".into()));
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict), "{verdict:?}");
        assert_eq!(report.failures[0].failure.reason(), "batch_refused");
        assert!(world.quarantine.as_ref().is_some_and(|quarantine| quarantine.lines().is_empty()));
        let puts = world.sinks.count(SinkOperation::Put);
        assert!(puts <= 16, "{puts} puts for {records} records");
        world.sinks.mend_group(GROUP);
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        assert_eq!(sorted(&world), (0..records).collect::<Vec<_>>());
    }
}
