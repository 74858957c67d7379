//! Several deliveries, tenants and objects. A failure of one does not affect the others.

use super::*;
use crate::credentials::AssumeError;

const ARCHIVE: &str = "444444444444/eu-central-1";

fn two_deliveries(world: &World) {
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#archive", row(ARCHIVE))]);
}

fn denied(place: &str) -> AssumeError {
    AssumeError::Denied {
        role: place.into(),
        external_id: None,
        code: "AccessDenied".into(),
        message: "no".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn two_deliveries_share_one_download() {
    let world = World::new();
    two_deliveries(&world);
    world.put(KEY, good_object(&["a", "b"]));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.delivered.len(), verdict), (2, Verdict::Ack));
    assert_eq!(world.store.opened().len(), 1);
    for place in [ACME, ARCHIVE] {
        assert_eq!(world.sinks.messages(place, GROUP), ["a", "b"], "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_fails_does_not_hold_up_the_other() {
    let world = World::new();
    let bad_group = with(row(ACME), "log_group_name", text("/bad"));
    world.tenant("acme", [("cloudwatch", bad_group), ("cloudwatch#archive", row(ARCHIVE))]);
    world.sinks.fail_group("/bad", throttled());
    // Many batches, because the timestamps are further apart than one batch spans.
    let records: Vec<_> =
        (0..10).map(|day| json!({"message": day.to_string(), "timestamp": day * 200_000})).collect();
    world.put(KEY, object(gzip(Value::Array(records).to_string().as_bytes())));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict));
    assert_eq!(report.failures.len(), 1);
    assert_eq!(report.failures[0].delivery.as_deref(), Some("cloudwatch"));
    assert_eq!(
        report.delivered.iter().map(|done| done.delivery.as_str()).collect::<Vec<_>>(),
        ["cloudwatch#archive"]
    );
    assert_eq!(world.sinks.messages(ARCHIVE, GROUP).concat(), "0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_denied_does_not_hold_up_others() {
    let world = World::new();
    two_deliveries(&world);
    world.sinks.close_role(&role("222222222222"), denied(ACME));
    let other = "globex/prod-1/web/web-0/1.json.gz";
    world.put(KEY, good_object(&["acme"]));
    world.put(other, good_object(&["globex"]));
    let (report, verdict) = world.process(&event(&[KEY, other])).await;
    assert!(is_retry(&verdict));
    assert_eq!(report.failures.len(), 1);
    assert_eq!(world.sinks.messages(ARCHIVE, GROUP), ["acme"]);
    assert_eq!(world.sinks.messages(GLOBEX, GROUP), ["globex"]);
    assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_not_read_if_the_account_refuses() {
    let world = World::new();
    world.sinks.close_role(&role("222222222222"), denied(ACME));
    world.put(KEY, good_object(&["a"]));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.store.opened(), []);
}

/// Thousands of messages may wait for a role, and each attempt would cost two ledger calls.
#[tokio::test(start_paused = true)]
async fn an_open_role_breaker_costs_no_ledger_calls() {
    let world = World { ledger: Some(MemoryLedger::new(Duration::from_secs(30))), ..World::new() };
    let calls = || world.ledger.as_ref().expect("the ledger is on").calls();
    world.put(KEY, good_object(&["a"]));
    world.sinks.close_role(&role("222222222222"), denied(ACME));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    let asked = calls();
    assert!(asked > 0, "the first attempt has to ask the ledger");
    let open = AssumeError::Held { refusal: Arc::new(denied(ACME)), probe_in: Duration::from_secs(9) };
    world.sinks.close_role(&role("222222222222"), open);
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict));
    assert_eq!((report.failures[0].failure.reason(), calls()), ("role_denied", asked));
}

/// S3 may notify twice. If the delivery is done, the second message makes no dead letter, however long the role is refused.
#[tokio::test(start_paused = true)]
async fn the_ledger_is_asked_before_a_dead_letter() {
    const OTHER: &str = "acme/prod-1/web/web-0/2.json.gz";
    let world = World { ledger: Some(MemoryLedger::new(Duration::from_secs(30))), ..World::new() };
    let calls = || world.ledger.as_ref().expect("the ledger is on").calls();
    world.put(KEY, good_object(&["a"]));
    world.put(OTHER, good_object(&["b"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    let open = AssumeError::Held { refusal: Arc::new(denied(ACME)), probe_in: Duration::from_secs(9) };
    world.sinks.close_role(&role("222222222222"), open);
    let of_age = async |key: &str, age: Duration| {
        let message = Message { age_when_received: age, ..message(&event(&[key])) };
        world.pipeline().handle(&message, &Place::whole(), &world.stop).await
    };
    let before = calls();
    assert!(is_retry(&of_age(KEY, BACKOFF.max_age / 2).await));
    assert_eq!(calls(), before, "the message is not at its last attempt, so the ledger is not asked");
    let old = BACKOFF.max_age + Duration::from_secs(1);
    assert_eq!(of_age(KEY, old).await, Verdict::Ack);
    assert_eq!(calls(), before + 1);
    let Verdict::Overdue(letter) = of_age(OTHER, old).await else { panic!("it is not done") };
    assert_eq!(letter.reason, "role_denied");
}

#[tokio::test(start_paused = true)]
async fn a_bad_row_does_not_hold_up_a_good_one() {
    let world = World::new();
    let bad = with(row(ACME), "retention_days", Attribute::Number("6".into()));
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#bad", bad.clone())]);
    world.put(KEY, good_object(&["a"]));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, attribute(&poison, "tenant")), ("bad_tenant_row", Some("acme")));
    assert!(attribute(&poison, "error").is_some_and(|error| error.contains("retention_days")), "{poison:?}");
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a"]);
    // A disabled row may be bad.
    let off = with(bad, "enabled", Attribute::Bool(false));
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#bad", off)]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
}

fn from_rows<const N: usize>(rows: [(&str, Row); N]) -> Found {
    Ok(Tenant::from_rows(
        "acme",
        rows.map(|(name, row)| (name.to_owned(), row)).into(),
        None,
        Timestamp::now(),
    )
    .map(Arc::new))
}

fn away() -> Found {
    Err(LookupError { tenant_id: "acme".into(), table: "tenants".into(), problem: "no answer".into() })
}

/// Remembered answers that would end a tenant's messages: as dead letters, or skipped.
fn fatal_memories() -> [Found; 4] {
    let paused = Row::from([("paused".to_owned(), Attribute::Bool(true))]);
    let doubtful = Row::from([("paused".to_owned(), text("true"))]);
    [
        Ok(None),
        from_rows([("cloudwatch", row(ACME)), ("settings", paused)]),
        from_rows([("cloudwatch", row(ACME)), ("settings", doubtful)]),
        from_rows([("cloudwatch", with(row(ACME), "log_group_name", text("a b")))]),
    ]
}

#[tokio::test(start_paused = true)]
async fn no_message_ends_because_of_an_outdated_row() {
    for unknown in [UnknownTenant::DeadLetter, UnknownTenant::Discard] {
        for memory in fatal_memories() {
            let mut world = World::new();
            world.settings.unknown_tenant = unknown;
            world.put(KEY, good_object(&["a"]));
            world.remembered("acme", memory.clone());
            assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack, "{memory:?}");
            assert_eq!(world.sinks.messages(ACME, GROUP), ["a"], "{memory:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_table_no_message_ends() {
    for unknown in [UnknownTenant::DeadLetter, UnknownTenant::Discard] {
        for memory in fatal_memories() {
            let mut world = World::new();
            world.settings.unknown_tenant = unknown;
            world.put(KEY, good_object(&["a"]));
            world.remembered("acme", memory.clone());
            world.found("acme", away());
            let (report, verdict) = world.process(&event(&[KEY])).await;
            assert!(is_retry(&verdict), "{verdict:?} {memory:?}");
            let reasons: Vec<_> = report.failures.iter().map(|failed| failed.failure.reason()).collect();
            assert_eq!((reasons, report.skipped), (vec!["tenant_lookup"], vec![]), "{memory:?}");
            assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0], "{memory:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_table_a_good_row_is_served_and_a_bad_one_waits() {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..World::new() };
    world.put(KEY, good_object(&["a"]));
    let bad = with(row(ARCHIVE), "log_group_name", text("a b"));
    world.remembered("acme", from_rows([("cloudwatch", row(ACME)), ("cloudwatch#archive", bad)]));
    world.found("acme", away());
    for _ in 0..2 {
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict), "{verdict:?}");
        assert_eq!((report.failures.len(), report.failures[0].failure.reason()), (1, "tenant_lookup"));
        assert_eq!(world.sinks.messages(ACME, GROUP), ["a"]);
    }
    // The table is back, and the row was corrected.
    two_deliveries(&world);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    for place in [ACME, ARCHIVE] {
        assert_eq!(world.sinks.messages(place, GROUP), ["a"], "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn remembered_rows_are_enough_if_no_record_is_lost() {
    let world = World::new();
    world.put(KEY, good_object(&["a"]));
    world.found("acme", away());
    world.remembered("acme", from_rows([("cloudwatch", row(ACME))]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a"]);
    let off = with(row(ACME), "enabled", Attribute::Bool(false));
    world.remembered("acme", from_rows([("cloudwatch", off)]));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::Disabled], Verdict::Ack));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_delivered_while_unreadable_settings_may_pause_the_tenant() {
    let world = World::new();
    let doubtful = Row::from([("paused".to_owned(), text("true"))]);
    world.tenant("acme", [("cloudwatch", row(ACME)), ("settings", doubtful)]);
    world.put(KEY, good_object(&["a"]));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.failures.len(), poison(verdict).reason), (1, "bad_tenant_row"));
    assert_eq!(report.failures[0].delivery.as_deref(), Some("settings"));
    assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_delivery_has_its_own_filter() {
    let world = World::new();
    let filter = |place, patterns: &[&str]| {
        let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        with(row(place), "desired_logs", Attribute::TextList(patterns))
    };
    world.tenant(
        "acme",
        [("cloudwatch", filter(ACME, &["web", "kube-*"])), ("cloudwatch#2", filter(ARCHIVE, &["etcd"]))],
    );
    let keys =
        ["web", "etcd", "kube-apiserver", "batch"].map(|application| format!("acme/c/{application}/p/f"));
    for key in &keys {
        world.put(key, good_object(&[key]));
    }
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let (report, verdict) = world.process(&event(&keys)).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::Filtered], Verdict::Ack));
    let mut web = world.sinks.messages(ACME, GROUP);
    web.sort();
    assert_eq!(web, [keys[2], keys[0]]);
    assert_eq!(world.sinks.messages(ARCHIVE, GROUP), [keys[1]]);
}

#[tokio::test(start_paused = true)]
async fn every_object_of_a_message_is_handled() {
    let world = World::new();
    let other = "globex/prod-1/web/web-0/1.json.gz";
    world.put(KEY, good_object(&["acme"]));
    world.put(other, good_object(&["globex"]));
    assert_eq!(world.handle(&event(&[KEY, other])).await, Verdict::Ack);
    // The object in the middle is poison. The others are delivered, and the verdict is poison.
    let poison = poison(world.handle(&event(&[KEY, "a/b", other])).await);
    assert_eq!((poison.reason, attribute(&poison, "key")), ("bad_key", Some("a/b")));
    assert_eq!(world.sinks.messages(ACME, GROUP), ["acme", "acme"]);
    assert_eq!(world.sinks.messages(GLOBEX, GROUP), ["globex", "globex"]);
    // Transient errors are retried first.
    world.put(other, MemoryObject::refused(ObjectError::Unavailable("503".into())));
    assert!(is_retry(&world.handle(&event(&["a/b", other])).await));
}

#[tokio::test(start_paused = true)]
async fn no_tenant_s_lines_reach_another_account() {
    let world = World::new();
    let other = "globex/prod-1/web/web-0/1.json.gz";
    let (acme, globex) = (vec!["acme"; 50], vec!["globex"; 50]);
    world.put(KEY, good_object(&acme));
    world.put(other, good_object(&globex));
    let pipeline = world.pipeline();
    let (bodies, mut verdicts) = ([event(&[KEY]), event(&[other])].map(|body| message(&body)), Vec::new());
    for _ in 0..5 {
        let place = Place::whole();
        let (one, two) = tokio::join!(
            pipeline.handle(&bodies[0], &place, &world.stop),
            pipeline.handle(&bodies[1], &place, &world.stop)
        );
        verdicts.extend([one, two]);
    }
    assert_eq!(verdicts, vec![Verdict::Ack; 10]);
    for (place, own) in [(ACME, "acme"), (GLOBEX, "globex")] {
        let messages = world.sinks.messages(place, GROUP);
        assert!(messages.len() == 250 && messages.iter().all(|message| message == own), "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_objects_of_a_tenant_over_its_share_go_back_unread() {
    let world = World::new();
    let pipeline = world.pipeline();
    let key = |tenant: &str, pod: usize| format!("{tenant}/prod-1/web/web-{pod}/1.json.gz");
    for pod in 0..5 {
        world.put(&key("acme", pod), good_object(&["a"]));
        world.put(&key("globex", pod), good_object(&["g"]));
    }
    let handle =
        async |keys: &[&str]| pipeline.handle(&message(&event(keys)), &Place::whole(), &world.stop).await;
    assert_eq!(handle(&[&key("globex", 0)]).await, Verdict::Ack);
    world.sinks.hold();
    let (first, second) = (key("acme", 0), key("acme", 1));
    let (first, second) = ([first.as_str()], [second.as_str()]);
    let in_flight = async { tokio::join!(handle(&first), handle(&second)) };
    let meanwhile = async {
        world.sinks.until_puts(4).await;
        let opened = world.store.opened().len();
        let Some(wait) = handle(&[&key("acme", 2)]).await.retry_after() else {
            panic!("acme has two of the four slots")
        };
        assert!(
            wait >= Duration::from_secs(1) && wait < BACKOFF.first,
            "the wait is for a turn, not for a backoff: {wait:?}"
        );
        assert_eq!(world.store.opened().len(), opened, "nothing was read");
        assert_eq!(world.metrics.pipeline.fairness_deferrals.get(), 1);
        assert_eq!(world.metrics.pipeline.failures.get_or_create(&Reason::new("over_share")).get(), 0);
        world.sinks.release(100);
        // If the message has already delivered another object, the object over the share is handled nevertheless: otherwise the
        // message would bring the other object again.
        assert_eq!(handle(&[&key("globex", 1), &key("acme", 3)]).await, Verdict::Ack);
    };
    let (verdicts, ()) = tokio::join!(in_flight, meanwhile);
    assert_eq!(verdicts, (Verdict::Ack, Verdict::Ack));
    assert_eq!(handle(&[&key("acme", 2)]).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP).len(), 4);
}
