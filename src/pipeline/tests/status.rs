//! What the pipeline tells `status` about each tenant.

use super::*;
use crate::status::{TenantLine, TenantState};

const LATER: Duration = Duration::from_secs(100);

impl World {
    fn line(&self, tenant_id: &str) -> Option<TenantLine> {
        let tenants = self.status.snapshot(usize::MAX).tenants;
        tenants.into_iter().find(|line| *line.tenant_id == *tenant_id)
    }

    fn state(&self, tenant_id: &str) -> (TenantState, Option<&'static str>, usize) {
        let line = self.line(tenant_id).expect("the tenant is known");
        (line.state, line.advice.map(|advice| advice.reason), line.waiting)
    }

    async fn handle_aged(&self, body: &str, age: Duration) -> Verdict {
        let message = Message { age_when_received: age, ..message(body) };
        self.pipeline().handle(&message, &Place::whole(), &self.stop).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_denied_group_shows_until_the_object_is_delivered() {
    let world = World::new();
    world.put(KEY, good_object(&["a", "b"]));
    world.sinks.fail_group(GROUP, SinkError::Denied("no".into()));
    let delay = world.handle_aged(&event(&[KEY]), LATER).await.retry_after().expect("a retry");
    assert_eq!(world.state("acme"), (TenantState::Refused, Some("group_denied"), 1));
    let line = world.line("acme").expect("the tenant is known");
    assert_eq!((line.oldest_waiting, line.last_success), (Some(LATER), None));
    assert_eq!(line.delivery.as_deref(), Some("cloudwatch"));
    let failure = &world.status.snapshot(0).failures[0];
    assert_eq!((failure.key.as_deref(), failure.text.is_empty()), (Some(KEY), false));
    tokio::time::advance(delay).await;
    let oldest = world.line("acme").expect("the tenant is known").oldest_waiting.map(|age| age.as_secs());
    assert_eq!(oldest, Some((LATER + delay).as_secs()));
    world.sinks.mend_group(GROUP);
    assert_eq!(world.handle_aged(&event(&[KEY]), LATER + delay).await, Verdict::Ack);
    assert_eq!(world.state("acme"), (TenantState::Ok, None, 0));
    assert!(world.line("acme").expect("the tenant is known").last_success.is_some());
    let snapshot = world.status.snapshot(0);
    assert_eq!((snapshot.in_work, snapshot.throughput.objects), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_rows_gets_no_place() {
    let world = World::new();
    world.found(
        "out-of-reach",
        Err(LookupError { tenant_id: "out-of-reach".into(), table: "t".into(), problem: "no answer".into() }),
    );
    for key in ["nobody/c/a/p/f", "out-of-reach/c/a/p/f", "too/short", "acme/c/a/../f"] {
        world.handle(&event(&[key])).await;
    }
    let elsewhere = json!({ "Records": [event_record("elsewhere", KEY)] }).to_string();
    world.handle(&elsewhere).await;
    let snapshot = world.status.snapshot(usize::MAX);
    assert_eq!(snapshot.tenants, []);
    let mut reasons: Vec<_> = snapshot.failures.iter().map(|line| line.advice.reason).collect();
    reasons.sort();
    assert_eq!(reasons, ["bad_key", "foreign_bucket", "tenant_lookup", "unknown_tenant"]);
}

#[tokio::test(start_paused = true)]
async fn objects_of_a_known_tenant_wait_while_the_table_is_out_of_reach() {
    let world = World::new();
    world.put(KEY, good_object(&["a"]));
    world.sinks.fail_group(GROUP, SinkError::Denied("no".into()));
    world.handle_aged(&event(&[KEY]), LATER).await.retry_after().expect("a retry");
    assert_eq!(world.line("acme").map(|line| line.waiting), Some(1));
    let silence = LookupError { tenant_id: "acme".into(), table: "t".into(), problem: "no answer".into() };
    world.found("acme", Err(silence));
    tokio::time::advance(LATER).await;
    assert!(is_retry(&world.handle_aged(&event(&[KEY, "acme/c/a/p/2"]), 2 * LATER).await));
    let line = world.line("acme").expect("the tenant is known");
    assert_eq!((line.waiting, line.oldest_waiting), (2, Some(2 * LATER)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_waits_for_nothing_but_shows_its_reason() {
    let world = World::new();
    let settings = Row::from([("paused".to_owned(), Attribute::Bool(true))]);
    world.tenant("acme", [("cloudwatch", row(ACME)), ("settings", settings)]);
    poison(world.handle(&event(&[KEY])).await);
    assert_eq!(world.state("acme"), (TenantState::Paused, Some("tenant_paused"), 0));
    world.tenant("acme", [("cloudwatch", with(row(ACME), "target_region", text("nowhere")))]);
    poison(world.handle(&event(&[KEY])).await);
    assert_eq!(world.state("acme"), (TenantState::Refused, Some("bad_tenant_row"), 0));
    // Somebody disables the row. A tenant without an enabled row has no failures.
    world.tenant("acme", [("cloudwatch", with(row(ACME), "enabled", Attribute::Bool(false)))]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.state("acme"), (TenantState::Ok, None, 0));
}

#[tokio::test(start_paused = true)]
async fn the_trouble_of_a_bad_row_ends_when_the_row_is_good_or_gone() {
    let disabled = |row: Row| with(row, "enabled", Attribute::Bool(false));
    let bad = || with(row(ACME), "target_region", text("nowhere"));
    // Needs a quarantine, which this worker does not have. That is checked only for the objects that the row wants.
    let useless = |application: &str| {
        let row = with(row(ACME), "oversize", text("quarantine"));
        with(row, "desired_logs", Attribute::TextList(vec![application.to_owned()]))
    };
    let settings = |paused| ("settings", Row::from([("paused".to_owned(), paused)]));
    let second = |row| vec![("cloudwatch#2", row)];
    let unreadable = || vec![settings(text("maybe"))];
    let cases = [
        ("corrected settings", unreadable(), vec![settings(Attribute::Bool(false))], true),
        ("settings that are gone", unreadable(), vec![], true),
        ("a corrected row", second(bad()), second(row(GLOBEX)), true),
        ("a disabled row", second(bad()), second(disabled(bad())), true),
        ("a deleted row", second(bad()), vec![], true),
        ("a row that stays bad", second(bad()), second(bad()), false),
        ("a row that is not judged", second(useless("web")), second(useless("other")), false),
    ];
    for (what, before, after, ends) in cases {
        let world = World::new();
        world.put(KEY, good_object(&["a"]));
        let set = |rows: Vec<(&str, Row)>| {
            let rows = rows.into_iter().chain([("cloudwatch", row(ACME))]);
            let rows = rows.map(|(name, row)| (name.to_owned(), row)).collect();
            world.found("acme", Ok(Tenant::from_rows("acme", rows, None, Timestamp::now()).map(Arc::new)));
        };
        set(before);
        poison(world.handle(&event(&[KEY])).await);
        assert_eq!(world.state("acme"), (TenantState::Refused, Some("bad_tenant_row"), 0), "{what}");
        let last = world.line("acme").and_then(|line| line.last_success);
        set(after);
        world.handle(&event(&[KEY])).await;
        let line = world.line("acme").expect("the tenant is known");
        let expected = if ends { TenantState::Ok } else { TenantState::Refused };
        assert_eq!((line.state, line.last_success > last), (expected, ends), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_a_failed_delivery_count_as_well() {
    let mut world = World::new();
    world.settings.max_batch_events = 2;
    world.put(KEY, good_object(&["a"; 20]));
    world.sinks.fail(SinkOperation::Put, 5, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let text = crate::metrics::rendered(|registry| crate::status::register(&world.status, registry));
    let all = world.metrics.render();
    let count = |text: &str, name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        found.unwrap_or_else(|| panic!("{name} in {text}"))
    };
    let events = count(&text, "logferry_tenant_events_total{tenant=\"acme\"}");
    assert!(events > 0, "{text}");
    assert_eq!(events, count(&all, "logferry_records_total{outcome=\"accepted\"}"));
    assert_eq!(
        count(&text, "logferry_tenant_event_bytes_total{tenant=\"acme\"}"),
        count(&all, "logferry_event_bytes_total")
    );
    assert_eq!(count(&text, "logferry_tenant_failures_total{tenant=\"acme\",reason=\"throttled\"}"), 1);
    assert_eq!(world.state("acme"), (TenantState::Waiting, Some("throttled"), 1));
}

#[tokio::test(start_paused = true)]
async fn records_of_earlier_attempts_are_no_success_if_every_other_event_is_rejected() {
    let mut world = World::new();
    world.ledger = Some(MemoryLedger::new(LEASE));
    world.settings.max_batch_events = 1;
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    world.put(KEY, good_object(&["a", "b", "c"]));
    world.sinks.reject_before(i64::MAX);
    world.sinks.fail(SinkOperation::Put, 2, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    shows(&world, "logferry_records_total{outcome=\"resumed\"} 1");
    assert_eq!(world.state("acme"), (TenantState::Refused, Some("rejected"), 0));
    assert_eq!(world.line("acme").and_then(|line| line.last_success), None);
    let text = &world.status.snapshot(0).failures[0].text;
    assert!(text.contains("in this attempt: 2 too old"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_object_of_which_no_event_is_stored_is_no_success() {
    let world = World::new();
    let page = |world: &World| {
        let line = world.line("acme").expect("the tenant is known");
        let text = crate::metrics::rendered(|registry| crate::status::register(&world.status, registry));
        let failures = "logferry_tenant_failures_total{tenant=\"acme\",reason=\"rejected\"} ";
        let failures = text.lines().find_map(|line| line.strip_prefix(failures)?.parse::<u32>().ok());
        let observed = world.metrics.render();
        let observed =
            observed.lines().find_map(|line| line.strip_prefix("logferry_freshness_seconds_count "));
        let observed = observed.expect("the histogram is there").parse::<u32>().expect("a number");
        (line.state, line.last_success.is_some(), failures.unwrap_or_default(), observed)
    };
    world.put(KEY, object(gzip(&array(&["", ""]))));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(page(&world), (TenantState::Ok, false, 0, 0), "empty messages change nothing");

    world.put(KEY, good_object(&["old", "older"]));
    world.sinks.reject_before(i64::MAX);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(page(&world), (TenantState::Refused, false, 1, 0));
    let snapshot = world.status.snapshot(0);
    assert_eq!(snapshot.throughput.objects, 0);
    assert!(
        snapshot.failures[0].text.ends_with("2 too old, 0 too new, 0 expired, 0 refused"),
        "{snapshot:?}"
    );
    let line = world.line("acme").expect("the tenant is known");
    assert_eq!((line.waiting, line.delivery.as_deref()), (0, Some("cloudwatch")));

    world.put(KEY, object(gzip(b"")));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(page(&world), (TenantState::Refused, false, 1, 0), "an object without records mends nothing");

    world.put(KEY, good_object(&["a", "b"]));
    world.sinks.reject_before(0);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(page(&world), (TenantState::Ok, true, 1, 1), "one stored event is a success");
}

/// The age that the metrics show, in hours since the records of [`array`], or `None`.
fn heartbeat_age(world: &World) -> Option<f64> {
    let text = crate::metrics::rendered(|registry| crate::status::register(&world.status, registry));
    assert!(text.contains("\nlogferry_heartbeat_expected 1\n"), "{text}");
    text.lines().find_map(|line| line.strip_prefix("logferry_heartbeat_age_seconds ")?.parse().ok())
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_is_the_age_of_the_newest_accepted_record_of_its_tenant() {
    let record = |ago: i64, message: &str| {
        let timestamp = Timestamp::now() - jiff::SignedDuration::from_secs(ago);
        json!({ "message": message, "timestamp": timestamp.to_string() })
    };
    let undated = json!({ "message": "m", "timestamp": "yesterday" });
    let records = |records: &[Value]| object(Value::from(records.to_vec()).to_string().into_bytes());
    let status = Arc::new(Status::new(50).with_heartbeat(Some("acme".into())));
    let mut world = World { status, ..World::new() };
    // Each record is a batch of its own.
    world.settings.max_batch_events = 1;
    let step = async |key: &str, content: MemoryObject| {
        world.put(key, content);
        let verdict = world.handle(&event(&[key])).await;
        (verdict, heartbeat_age(&world))
    };
    let near = |age: Option<f64>, expected: f64| {
        assert!(
            age.is_some_and(|age| (expected..expected + 60.0).contains(&age)),
            "{age:?} is not {expected}"
        );
    };
    assert_eq!(heartbeat_age(&world), None);
    // Another tenant's records say nothing, and neither do records that CloudWatch Logs does not accept.
    assert_eq!(step("globex/c/a/p/1", records(&[record(0, "m")])).await, (Verdict::Ack, None));
    world.sinks.reject_before(Timestamp::now().as_millisecond() - 10_000_000);
    assert_eq!(step("acme/c/a/p/1", records(&[record(20_000, "too old")])).await, (Verdict::Ack, None));
    // A record without a timestamp of its own has the object's, which says nothing about the way to the bucket.
    assert_eq!(step("acme/c/a/p/2", records(&[undated])).await, (Verdict::Ack, None));
    let (verdict, age) =
        step("acme/c/a/p/3", records(&[record(7_200, "m"), record(20_000, "too old")])).await;
    assert_eq!(verdict, Verdict::Ack);
    near(age, 7_200.0);
    near(
        step("acme/c/a/p/4", records(&[record(5_000, "late"), record(3_600, "m"), record(4_000, "m")]))
            .await
            .1,
        3_600.0,
    );
    near(step("acme/c/a/p/5", records(&[record(9_000, "old")])).await.1, 3_600.0);
    world.sinks.fail_group(GROUP, SinkError::Denied("no".into()));
    let (verdict, age) = step("acme/c/a/p/6", records(&[record(60, "m")])).await;
    assert!(is_retry(&verdict));
    near(age, 3_600.0);
    // Shadow mode puts nothing.
    world.sinks.mend_group(GROUP);
    world.tenant("acme", [("cloudwatch", with(row(ACME), "deliver", text("shadow")))]);
    let world = World { counts: Some(MemoryCounts::default()), ..world };
    world.put("acme/c/a/p/7", records(&[record(60, "m")]));
    assert_eq!(world.handle(&event(&["acme/c/a/p/7"])).await, Verdict::Ack);
    near(heartbeat_age(&world), 3_600.0);
}
