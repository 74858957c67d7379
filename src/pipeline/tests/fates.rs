//! The verdict on each kind of message. docs/dead-letters.md lists the same verdicts.

use super::*;
use crate::credentials::AssumeError;

#[tokio::test(start_paused = true)]
async fn a_good_object_is_delivered_and_acknowledged() {
    let world = World::new();
    world.put(KEY, good_object(&["a", "b"]));
    let body = event(&[KEY]);
    let envelope = json!({"Type": "Notification", "Message": body}).to_string();
    let eventbridge = json!({"source": "aws.s3", "detail-type": "Object Created",
        "detail": {"bucket": {"name": BUCKET}, "object": {"key": KEY}}});
    for (round, body) in [body, envelope, eventbridge.to_string()].iter().enumerate() {
        assert_eq!(world.handle(body).await, Verdict::Ack);
        assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"].repeat(round + 1));
    }
    assert_eq!(world.store.opened()[0], (KEY.to_owned(), Some(OWNER.to_owned())));
    assert_eq!(world.sinks.opened()[0], (role("222222222222"), "prod-1".to_owned()));
    let rendered = world.metrics.render();
    for line in [
        "logferry_records_read_total 6",
        "logferry_records_total{outcome=\"accepted\"} 6",
        "logferry_records_unaccounted_total 0",
        "logferry_freshness_seconds_count 2",
        "logferry_batch_fill_ratio_count 3",
    ] {
        assert!(rendered.contains(line), "{line} in {rendered}");
    }
}

#[tokio::test(start_paused = true)]
async fn skipped_parts_are_acknowledged_and_counted() {
    let world = World::new();
    let off = with(row(ACME), "enabled", Attribute::Bool(false));
    let only_etcd = with(row(ACME), "desired_logs", Attribute::TextList(vec!["etcd".into()]));
    world.tenant("off", [("cloudwatch", off.clone()), ("cloudwatch#2", off.clone())]);
    world.tenant("etcd", [("cloudwatch", only_etcd.clone()), ("cloudwatch#2", off)]);
    world.tenant("picky", [("cloudwatch", only_etcd)]);
    world.put("acme/c/a/p/empty", object(Vec::new()));
    world.put("acme/c/a/p/list", object(gzip(b"[]")));
    world.put("acme/c/a/p/blank", object(gzip(b"\n \n")));
    let removed = json!({"Records": [{"eventName": "ObjectRemoved:Delete"}]}).to_string();
    for (body, expected) in [
        (json!({"Event": "s3:TestEvent"}).to_string(), Skipped::TestEvent),
        (removed, Skipped::NotObjectCreated),
        (event(&["off/c/web/p/f"]), Skipped::Disabled),
        (event(&["etcd/c/web/p/f"]), Skipped::Filtered),
        (event(&["picky/c/web/p/f"]), Skipped::Filtered),
        (event(&["acme/c/a/p/empty"]), Skipped::NoRecords),
        (event(&["acme/c/a/p/list"]), Skipped::NoRecords),
        (event(&["acme/c/a/p/blank"]), Skipped::NoRecords),
        (sized("acme/c/a/p/", 0), Skipped::FolderMarker),
        (sized("acme/", 0), Skipped::FolderMarker),
        (sized("folder of nobody/", 0), Skipped::FolderMarker),
    ] {
        let (report, verdict) = world.process(&body).await;
        assert_eq!((report.skipped, verdict), (vec![expected], Verdict::Ack), "{body}");
        assert_eq!(world.handle(&body).await, Verdict::Ack);
        let line = format!("logferry_skipped_total{{reason=\"{}\"}}", expected.reason());
        assert!(world.metrics.render().contains(&line), "{line}");
    }
    assert_eq!(world.sinks.count(SinkOperation::Put), 0);
    assert_eq!(world.handle(&json!({"Records": []}).to_string()).await, Verdict::Ack);
    // An object is not a folder marker if it has bytes, if its size is not known, or if its key does not end in a slash.
    for (body, reason) in [
        (sized("acme/c/a/p/", 1), "bad_key"),
        (event(&["acme/c/a/p/"]), "bad_key"),
        (sized("acme/c/a/p", 0), "bad_key"),
    ] {
        let (report, _) = world.process(&body).await;
        let reasons: Vec<_> = report.failures.iter().map(|failed| failed.failure.reason()).collect();
        assert_eq!((reasons, report.skipped), (vec![reason], vec![]), "{body}");
    }
}

/// A message about an object of `size` bytes.
fn sized(key: &str, size: u64) -> String {
    let mut record = event_record(BUCKET, key);
    record["s3"]["object"]["size"] = size.into();
    json!({ "Records": [record] }).to_string()
}

#[tokio::test(start_paused = true)]
async fn an_unwanted_object_is_not_even_read() {
    let world = World::new();
    world.tenant(
        "acme",
        [("cloudwatch", with(row(ACME), "desired_logs", Attribute::TextList(vec!["etcd".into()])))],
    );
    world.put(KEY, good_object(&["a"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!((world.store.opened().len(), world.sinks.opened().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn permanent_errors_are_poison() {
    let world = World::new();
    world.tenant("settings-only", [("settings", Row::from([("paused".to_owned(), Attribute::Bool(true))]))]);
    let pause = Row::from([("paused".to_owned(), Attribute::Bool(true))]);
    world.tenant("paused", [("cloudwatch", row(ACME)), ("settings", pause)]);
    world.tenant("bad-row", [("cloudwatch", with(row(ACME), "target_region", text("mars")))]);
    let bomb = object(gzip(&[b"{\"message\":\"x\"}\n".as_slice(), &vec![b' '; 5 << 20]].concat()));
    world.put("acme/c/a/p/bomb", bomb.in_chunks(1 << 16));
    for key in ["paused/c/a/p/f", "settings-only/c/a/p/f", "bad-row/c/a/p/f", "nobody/c/a/p/f", "a/b"] {
        world.put(key, good_object(&["must not arrive"]));
    }
    world.store.put("other", KEY, good_object(&["must not arrive"]));
    let foreign = json!({"Records": [event_record("other", KEY)]}).to_string();
    for (body, reason, tenant, key) in [
        ("no event".to_owned(), "bad_event", None, None),
        (event(&["a/b"]), "bad_key", None, Some("a/b")),
        (event(&["acme/../a/p/f"]), "bad_key", None, Some("acme/../a/p/f")),
        (event(&["acme//a/p/f"]), "bad_key", None, Some("acme//a/p/f")),
        (foreign, "foreign_bucket", None, Some(KEY)),
        (event(&["nobody/c/a/p/f"]), "unknown_tenant", Some("nobody"), Some("nobody/c/a/p/f")),
        (event(&["paused/c/a/p/f"]), "tenant_paused", Some("paused"), Some("paused/c/a/p/f")),
        (
            event(&["settings-only/c/a/p/f"]),
            "tenant_paused",
            Some("settings-only"),
            Some("settings-only/c/a/p/f"),
        ),
        (event(&["bad-row/c/a/p/f"]), "bad_tenant_row", Some("bad-row"), Some("bad-row/c/a/p/f")),
        (event(&["acme/c/a/p/missing"]), "object_missing", Some("acme"), Some("acme/c/a/p/missing")),
        (event(&["acme/c/a/p/bomb"]), "object_too_large", Some("acme"), Some("acme/c/a/p/bomb")),
    ] {
        let poison = poison(world.handle(&body).await);
        assert_eq!(poison.reason, reason, "{poison:?}");
        assert_eq!((attribute(&poison, "tenant"), attribute(&poison, "key")), (tenant, key), "{reason}");
        assert_eq!(attribute(&poison, "version"), key.map(|_| "v7"), "{reason}");
        assert!(attribute(&poison, "error").is_some_and(|error| !error.is_empty()), "{reason}");
        let line = format!("logferry_failures_total{{reason=\"{reason}\"}}");
        assert!(world.metrics.render().contains(&line), "{line}");
    }
    // Only the record before the bomb's padding was delivered.
    assert_eq!(world.sinks.messages(ACME, GROUP), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn objects_of_unknown_tenants_are_discarded_if_so_configured() {
    let mut world = World::new();
    world.settings.unknown_tenant = UnknownTenant::Discard;
    let (report, verdict) = world.process(&event(&["nobody/c/a/p/f"])).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::UnknownTenant], Verdict::Ack));
}

#[tokio::test(start_paused = true)]
async fn transient_errors_are_retried() {
    let denied = || AssumeError::Denied {
        role: role("222222222222"),
        external_id: None,
        code: "AccessDenied".into(),
        message: "no".into(),
    };
    let unavailable = || AssumeError::Unavailable { role: role("222222222222"), problem: "503".into() };
    let words = || "words".to_owned();
    let down = LookupError { tenant_id: "acme".into(), table: "t".into(), problem: words() };
    let refused = |error| move |world: &World| world.put(KEY, MemoryObject::refused(error));
    let broken = |error| move |world: &World| world.put(KEY, good_object(&["a"]).breaking(20, error));
    let put = |error| move |world: &World| world.sinks.fail_group(GROUP, error);
    type Trouble = Box<dyn FnOnce(&World)>;
    let troubles: [(&str, Trouble); 13] = [
        ("tenant_lookup", Box::new(move |world| world.found("acme", Err(down)))),
        ("role_denied", Box::new(move |world| world.sinks.close_role(&role("222222222222"), denied()))),
        (
            "role_unavailable",
            Box::new(move |world| world.sinks.close_role(&role("222222222222"), unavailable())),
        ),
        ("object_denied", Box::new(refused(ObjectError::Denied(words())))),
        ("object_unavailable", Box::new(refused(ObjectError::Unavailable(words())))),
        ("object_unavailable", Box::new(broken(ObjectError::Unavailable(words())))),
        ("checksum_mismatch", Box::new(broken(ObjectError::ChecksumMismatch(words())))),
        ("throttled", Box::new(put(SinkError::Throttled(words())))),
        ("logs_unavailable", Box::new(put(SinkError::Unavailable(words())))),
        ("group_denied", Box::new(put(SinkError::Denied(words())))),
        ("group_missing", Box::new(put(SinkError::NotFound(words())))),
        ("batch_refused", Box::new(put(SinkError::Refused(words())))),
        (
            "role_denied",
            Box::new(put(SinkError::Session(AssumeError::Denied {
                role: words(),
                external_id: None,
                code: words(),
                message: words(),
            }))),
        ),
    ];
    for (reason, trouble) in troubles {
        let world = World::new();
        world.put(KEY, good_object(&["a"]));
        trouble(&world);
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert_eq!(verdict.retry_after(), Some(BACKOFF.first), "{reason}");
        assert_eq!((report.failures.len(), report.delivered.len()), (1, 0), "{reason}");
        assert_eq!(report.failures[0].failure.reason(), reason);
        assert_eq!(report.failures[0].tenant_id.as_deref(), Some("acme"), "{reason}");
        assert_eq!(world.sinks.messages(ACME, GROUP), [""; 0], "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn delays_grow_with_the_attempts() {
    let world = World::new();
    world.put(KEY, MemoryObject::refused(ObjectError::Unavailable("503".into())));
    for (attempts, shortest, longest) in [(1, 7.5, 10.0), (2, 15.0, 20.0), (3, 30.0, 40.0), (50, 45.0, 60.0)]
    {
        let message = Message { attempts, ..message(&event(&[KEY])) };
        let Some(delay) = world.pipeline().handle(&message, &Place::whole(), &world.stop).await.retry_after()
        else {
            panic!("a retry")
        };
        assert!((shortest..=longest).contains(&delay.as_secs_f64()), "{attempts}: {delay:?}");
    }
}

/// Receives without a refusal by AWS do not count towards the limit of refusals.
#[tokio::test(start_paused = true)]
async fn receives_without_a_refusal_do_not_use_up_the_limit_of_refusals() {
    let world = World::new();
    let pipeline = world.pipeline();
    let receive = async |attempts: u32, refusals: u32, error: ObjectError| {
        world.put(KEY, MemoryObject::refused(error));
        let message = Message { attempts, refusals, ..message(&event(&[KEY])) };
        pipeline.handle(&message, &Place::whole(), &world.stop).await
    };
    let refused = || ObjectError::Refused("400".into());
    for attempts in 1..=70 {
        assert!(is_retry(&receive(attempts, 0, ObjectError::Unavailable("503".into())).await), "{attempts}");
    }
    for refusals in [1, 2] {
        match receive(70 + refusals, 0, refused()).await {
            Verdict::Retry(cause) => assert_eq!((cause.reason, cause.refusals), ("object_refused", refusals)),
            other => panic!("{other:?}"),
        }
        assert!(is_retry(&receive(80, 0, ObjectError::Unavailable("503".into())).await));
    }
    assert_eq!(poison(receive(90, 0, refused()).await).reason, "object_refused");
    // A message that was redriven, or that another worker sent anew, carries its own count, and that count holds.
    assert!(is_retry(&receive(1, 1, refused()).await));
    assert_eq!(poison(receive(1, 2, refused()).await).reason, "object_refused");
}

/// Without `source.buckets`, messages may name any bucket, so a deleted bucket is not a configuration error.
#[tokio::test(start_paused = true)]
async fn a_missing_bucket_is_a_configuration_error_only_if_the_configuration_names_it() {
    for named in [true, false] {
        let mut world = World::new();
        world.put(KEY, MemoryObject::refused(ObjectError::NoBucket("404".into())));
        if !named {
            world.settings.buckets.clear();
        }
        let pipeline = world.pipeline();
        let body = event(&[KEY]);
        for _ in 0..2 {
            assert!(is_retry(&pipeline.handle(&message(&body), &Place::whole(), &world.stop).await));
        }
        let last = pipeline.handle(&message(&body), &Place::whole(), &world.stop).await;
        match named {
            true => assert!(is_retry(&last), "{last:?}"),
            false => assert_eq!(poison(last).reason, "source_bucket_missing"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_checksum_is_found_before_the_last_batch_is_put() {
    let world = World::new();
    let bytes = gzip(&array(&["a", "b"]));
    let mismatch = ObjectError::ChecksumMismatch("CRC64".into());
    world.put(KEY, object(bytes.clone()).breaking(bytes.len(), mismatch));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.sinks.count(SinkOperation::Put), 0);
    // The next attempt reads the whole object.
    world.put(KEY, object(bytes));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn rejected_events_are_counted_and_not_retried() {
    let world = World::new();
    world.put(KEY, good_object(&["old", "b", "c", "new"]));
    world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
    let rejected =
        crate::batch::RejectedEvents { too_old_end: Some(1), too_new_start: Some(3), expired_end: None };
    world.sinks.reject(1, rejected);
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    let tally = report.delivered[0].tally;
    assert_eq!((tally.put.too_old, tally.put.accepted, tally.put.too_new), (1, 2, 1));
    assert_eq!((tally.read, tally.accounted(), world.sinks.count(SinkOperation::Put)), (4, 4, 1));
}
