//! Batches that are more than one request: events of several days, and events that CloudWatch Logs refuses.

use super::*;
use crate::sink::SinkError;

/// A world whose stream is there, so that every put counts.
fn world() -> World {
    let world = World::new();
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world
}

/// Records in turns on so many days.
fn in_turns(count: usize, days: usize) -> MemoryObject {
    let records = (0..count).map(|index| {
        // Two days apart, because events of a day and the next can share a put; the latest day first.
        let day = 10 + 2 * (days - 1 - index % days);
        json!({"message": index.to_string(), "timestamp": format!("2026-11-{day}T08:00:00Z")}).to_string()
    });
    object(gzip(records.collect::<Vec<_>>().join("\n").as_bytes()))
}

/// What the account got, in the objects' order.
fn sorted(world: &World) -> Vec<usize> {
    let messages = world.sinks.messages(ACME, GROUP).into_iter();
    let mut numbers: Vec<_> = messages.map(|message| message.parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

fn shows(world: &World, line: &str) {
    let text = world.metrics.render().expect("metrics are text");
    assert!(text.lines().any(|found| found == line), "{line} in {text}");
}

#[tokio::test(start_paused = true)]
async fn records_in_turns_on_several_days_cost_a_put_for_each_day() {
    for days in [1, 2, 5] {
        let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
        world.put(KEY, in_turns(1_000, days));
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        assert_eq!(sorted(&world), (0..1_000).collect::<Vec<_>>());
        assert_eq!(world.sinks.count(Operation::Put), days);
    }
}

/// The position is recorded behind all requests of a batch.
#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_half_way_is_repeated_and_no_other() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..world() };
    // Two batches, because no more than 10,000 events fit into one.
    world.put(KEY, in_turns(12_000, 3));
    world.sinks.fail(Operation::Put, 6, SinkError::Throttled("slow down".into()));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let found = sorted(&world);
    let again = found.iter().zip(&found[1..]).filter(|(one, next)| one == next).count();
    assert_eq!(again, 1_334, "two of the second batch's three days");
    let mut distinct = found;
    distinct.dedup();
    assert_eq!(distinct, (0..12_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_found_and_the_others_arrive() {
    for (days, bad) in [(1, "500"), (2, "500"), (1, "0"), (3, "999")] {
        for has_quarantine in [false, true] {
            let world = World { quarantine: has_quarantine.then(MemoryQuarantine::default), ..world() };
            world.put(KEY, in_turns(1_000, days));
            world.sinks.refuse_message(bad);
            let (report, verdict) = world.process(&event(&[KEY])).await;
            assert_eq!(verdict, Verdict::Ack, "{bad}");
            let others: Vec<usize> = (0..1_000).filter(|number| number.to_string() != bad).collect();
            assert_eq!(sorted(&world), others, "each once");
            let puts = world.sinks.count(Operation::Put);
            assert!(puts <= 25 + days, "{puts} puts for {bad} of {days} days");
            let tally = report.delivered[0].tally;
            assert_eq!((tally.put.accepted, tally.put.refused, tally.accounted()), (999, 1, 1_000));
            shows(&world, "logferry_records_total{outcome=\"refused\"} 1");
            if let Some(quarantine) = &world.quarantine {
                let [line] = &quarantine.lines()[..] else { panic!("one line: {:?}", quarantine.lines()) };
                assert_eq!((&line["reason"], &line["message"]), (&json!("refused"), &json!(bad)));
            }
        }
    }
}

/// Then it is the group, or the role, or the request, and no event may be given up for it.
#[tokio::test(start_paused = true)]
async fn where_everything_is_refused_no_event_is_to_blame() {
    for records in [1, 2, 3, 1_000] {
        let world = World { quarantine: Some(MemoryQuarantine::default()), ..world() };
        world.put(KEY, in_turns(records, 1));
        world.sinks.fail_group(GROUP, SinkError::Refused("InvalidParameterException: no".into()));
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict), "{verdict:?}");
        assert_eq!(report.failures[0].failure.reason(), "batch_refused");
        assert!(world.quarantine.as_ref().is_some_and(|quarantine| quarantine.lines().is_empty()));
        let puts = world.sinks.count(Operation::Put);
        assert!(puts <= 16, "{puts} puts for {records} records");
        world.sinks.mend_group(GROUP);
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        assert_eq!(sorted(&world), (0..records).collect::<Vec<_>>());
    }
}
