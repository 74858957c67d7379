//! Deliveries in shadow mode: everything except the put, and exact counts.

use super::*;
use crate::{
    batch::EVENT_OVERHEAD,
    credentials::AssumeError,
    object::ObjectError,
    shadow::Count,
    status::{TenantState, register},
};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

/// acme in shadow mode beside globex, with a ledger. Each event has its own batch.
fn world() -> World {
    let settings = PipelineSettings { max_batch_events: 1, max_record: 2 << 20, ..World::new().settings };
    let (ledger, counts) = (Some(MemoryLedger::new(LEASE)), Some(MemoryCounts::default()));
    let world = World { ledger, counts, settings, ..World::new() };
    world.tenant("acme", [("cloudwatch", in_shadow(row(ACME)))]);
    world
}

fn in_shadow(row: Row) -> Row {
    with(row, "deliver", text("shadow"))
}

/// Records with these messages, so many milliseconds from now.
fn records(records: &[(&str, i64)]) -> Vec<u8> {
    let now = Timestamp::now().as_millisecond();
    let record = |(message, from_now): &(&str, i64)| json!({"message": message, "timestamp": now + from_now});
    Value::Array(records.iter().map(record).collect()).to_string().into_bytes()
}

fn recent(messages: &[&str]) -> MemoryObject {
    let recent: Vec<_> = messages.iter().map(|message| (*message, -MINUTE)).collect();
    object(gzip(&records(&recent)))
}

/// Events and bytes that were counted for the delivery, over all streams, and rejected events.
fn counted(world: &World, tenant_id: &str, delivery: &str) -> (u64, u64, u64) {
    let (streams, rejected) = world.counts.as_ref().expect("this world counts").of(tenant_id, delivery);
    let Count { events, bytes } = streams.into_values().sum();
    (events, bytes, rejected)
}

fn puts(world: &World) -> usize {
    world.sinks.calls().len()
}

#[tokio::test(start_paused = true)]
async fn events_are_counted_as_they_would_have_been_stored_and_nothing_is_put() {
    let world = world();
    let long = "x".repeat(crate::batch::MAX_MESSAGE_BYTES + 1);
    let of_all = records(&[
        ("a \"quote\"", -MINUTE),
        ("", -MINUTE),
        ("\u{fc}", 0),
        (&long, 0),
        ("too old", -14 * DAY - MINUTE),
        ("just in time", -14 * DAY + MINUTE),
        ("too new", 2 * 60 * MINUTE + MINUTE),
        ("just early enough", 2 * 60 * MINUTE - MINUTE),
    ]);
    world.put(KEY, object(gzip(&of_all)));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack, "{:?}", report.failures);
    assert_eq!((report.delivered[0].mode, report.delivered[0].tally.read), (Mode::Shadow, 8));
    let text =
        "a \"quote\"".len() + "\u{fc}".len() + long.len() + "just in time".len() + "just early enough".len();
    let (events, rejected) = (6, 2);
    assert_eq!(
        counted(&world, "acme", "cloudwatch"),
        (events, (text + events as usize * EVENT_OVERHEAD) as u64, rejected),
        "the long message makes two events"
    );
    let (streams, _) = world.counts.as_ref().expect("this world counts").of("acme", "cloudwatch");
    let stream = (GROUP.to_owned(), "web-web-0-2026-11-21".to_owned());
    assert_eq!(streams.into_keys().collect::<Vec<_>>(), [stream]);
    assert_eq!((puts(&world), world.sinks.opened().len()), (0, 1), "the account is entered, and not called");
    shows(&world, "logferry_records_read_total 8");
    shows(&world, "logferry_records_total{outcome=\"shadow\"} 8");
    shows(&world, "logferry_records_unaccounted_total 0");
    let metrics = world.metrics.render();
    assert!(!metrics.contains("accepted") && metrics.contains("logferry_batches_total 0"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn a_live_delivery_of_the_same_tenant_is_not_affected() {
    let world = world();
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#2", in_shadow(row(ACME)))]);
    world.put(KEY, recent(&["a", "b"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    assert_eq!(counted(&world, "acme", "cloudwatch#2").0, 2);
    assert_eq!(counted(&world, "acme", "cloudwatch"), (0, 0, 0));
}

/// What was counted is not delivered, and what was delivered is not counted: each mode has its own entry.
#[tokio::test(start_paused = true)]
async fn both_modes_finish_an_object_on_their_own() {
    let world = world();
    world.put(KEY, recent(&["a", "b"]));
    for _ in 0..2 {
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    }
    shows(&world, "logferry_skipped_total{reason=\"already_delivered\"} 1");
    assert_eq!((counted(&world, "acme", "cloudwatch").0, puts(&world)), (2, 0));
    world.tenant("acme", [("cloudwatch", row(ACME))]);
    for _ in 0..2 {
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    }
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    world.tenant("acme", [("cloudwatch", in_shadow(row(ACME)))]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.store.opened().len(), 2, "both modes are done");
}

/// The body breaks after some batches, then the table fails half-way. The counts are those of one whole object.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_cut_short_leaves_the_counts_exact() {
    let world = world();
    let spread: Vec<_> = (0..40).map(|index| ("message", -index * 10 * MINUTE)).collect();
    let bytes = records(&spread);
    let whole = || object(bytes.clone()).in_chunks(100);
    world.put(KEY, whole().breaking(1_500, ObjectError::Unavailable("reset".into())));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let ledger = world.ledger.as_ref().expect("this world has one");
    assert_eq!(
        ledger.checkpoints().into_iter().filter(|at| at.records > 0).count(),
        0,
        "no position is kept"
    );
    world.put(KEY, whole());
    world.counts.as_ref().expect("this world counts").fail(1);
    let delay = world.handle(&event(&[KEY])).await.retry_after();
    assert!(delay.is_some(), "the counts are not complete");
    let half = counted(&world, "acme", "cloudwatch").0;
    assert!((1..40).contains(&half), "{half} of 40");
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let each = ("message".len() + EVENT_OVERHEAD) as u64;
    assert_eq!(counted(&world, "acme", "cloudwatch"), (40, 40 * each, 0));
    assert_eq!(puts(&world), 0);
}

/// A live delivery puts the records before a break, so they are counted too.
#[tokio::test(start_paused = true)]
async fn records_before_a_break_are_counted() {
    let world = world();
    let mut bytes = records(&[("a", 0), ("b", 0)]);
    bytes.pop();
    bytes.extend_from_slice(b",oops]");
    world.put(KEY, object(gzip(&bytes)));
    let cause = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(
        (cause.reason, counted(&world, "acme", "cloudwatch").0, puts(&world)),
        ("corrupt_object", 2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn quarantine_files_are_not_written() {
    let world = World { quarantine: Some(MemoryQuarantine::default()), ..world() };
    let long = "x".repeat(crate::batch::MAX_MESSAGE_BYTES + 1);
    world.put(KEY, object(gzip(&records(&[("a", 0), (&long, 0), ("too old", -15 * DAY)]))));
    let quarantining = with(in_shadow(row(ACME)), "oversize", text("quarantine"));
    world.tenant("acme", [("cloudwatch", quarantining)]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let (events, _, rejected) = counted(&world, "acme", "cloudwatch");
    assert_eq!((events, rejected), (1, 1), "the long message would have gone to the quarantine");
    assert_eq!(world.quarantine.as_ref().expect("this world has one").keys(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn copies_are_counted_and_not_made() {
    let world = world();
    let bucket = Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("deliver".to_owned(), text("shadow")),
        ("target_region".to_owned(), text("us-east-1")),
        ("bucket_name".to_owned(), text("acme-logs")),
    ]);
    world.tenant("acme", [("s3", bucket)]);
    let stored = gzip(&records(&[("a", 0)]));
    world.put(KEY, object(stored.clone()));
    for _ in 0..2 {
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    }
    assert_eq!((world.copier.calls(), world.copier.copies("acme-logs").len()), (0, 0));
    assert_eq!(counted(&world, "acme", "s3"), (1, stored.len() as u64, 0));
    let metrics = world.metrics.render();
    assert!(metrics.contains("logferry_objects_copied_total 0"), "{metrics}");
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_without_a_place_for_counts_waits() {
    let world = World { counts: None, ..world() };
    world.put(KEY, recent(&["a"]));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict));
    let told = report.failures[0].to_string();
    assert!(told.contains("ledger.table is not set"), "{told}");
    assert_eq!((report.failures[0].failure.reason(), puts(&world)), ("ledger_unavailable", 0));
}

/// A refused role shows on the page, and no alert about missing deliveries sees the tenant.
#[tokio::test(start_paused = true)]
async fn a_tenant_in_shadow_mode_shows_as_such() {
    let world = world();
    let state = |tenant_id: &str| {
        let tenants = world.status.snapshot(9).tenants;
        let line =
            tenants.into_iter().find(|line| *line.tenant_id == *tenant_id).expect("the tenant is known");
        (line.state, line.advice.map(|advice| advice.reason))
    };
    let shown = || crate::metrics::rendered(|registry| register(&world.status, registry));
    let denied = AssumeError::Denied {
        role: role("222222222222"),
        external_id: None,
        code: "AccessDenied".into(),
        message: "no".into(),
    };
    world.sinks.close_role(&role("222222222222"), denied);
    for key in [KEY, "globex/c/web/web-0/1.json.gz"] {
        world.put(key, recent(&["a", "b"]));
        world.handle(&event(&[key])).await;
    }
    assert_eq!(state("acme"), (TenantState::Refused, Some("role_denied")));
    let text = shown();
    for alerted in ["oldest_waiting_seconds", "waiting_objects", "last_success_timestamp_seconds"] {
        assert!(!text.contains(&format!("tenant_{alerted}{{tenant=\"acme\"")), "{alerted} in {text}");
    }
    assert!(text.contains("tenant_waiting_objects{tenant=\"globex\"} 0"), "{text}");
    assert!(!text.contains("tenant_failures"), "{text}");

    world.sinks.mend_role(&role("222222222222"));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(state("acme"), (TenantState::Shadow, None));
    assert_eq!(state("globex"), (TenantState::Ok, None));
    let text = shown();
    for line in ["tenant_shadow_events_total{tenant=\"acme\"} 2", "tenant_events_total{tenant=\"acme\"} 0"] {
        assert!(text.contains(line), "{line} in {text}");
    }
    world.tenant("acme", [("cloudwatch", row(ACME))]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(state("acme"), (TenantState::Ok, None));
}
