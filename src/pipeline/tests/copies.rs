//! Deliveries to buckets, with and without deliveries to CloudWatch Logs.

use super::*;
use crate::{copy::CopyError, credentials::AssumeError};

const BUCKET_THERE: &str = "acme-logs";
const COPY: &str = "ROSA/cluster-logs/acme/web/web-0/1.json.gz";

fn bucket_row(bucket: &str) -> Row {
    Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text("us-east-1")),
        ("bucket_name".to_owned(), text(bucket)),
    ])
}

/// acme with both kinds of delivery, a ledger, and an object.
fn world() -> World {
    let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..World::new() };
    world.tenant("acme", [("cloudwatch", row(ACME)), ("s3", bucket_row(BUCKET_THERE))]);
    world.put(KEY, good_object(&["a", "b"]));
    world
}

fn copied(world: &World, bucket: &str) -> usize {
    world.copier.copies(bucket).len()
}

fn throttled() -> CopyError {
    CopyError::Throttled("slow down".into())
}

#[tokio::test(start_paused = true)]
async fn the_object_goes_to_the_bucket_and_its_records_to_the_group_with_one_download() {
    let world = world();
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    let names: Vec<_> =
        report.delivered.iter().map(|done| (done.delivery.as_str(), done.tally.read)).collect();
    assert_eq!(names, [("cloudwatch", 2), ("s3", 0)]);
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    let source = format!("{BUCKET}/{KEY}?versionId=v7");
    assert_eq!(world.copier.copies(BUCKET_THERE), [(COPY.to_owned(), source)]);
    let owner = Some(OWNER.to_owned());
    assert_eq!(world.store.opened(), [(KEY.to_owned(), owner.clone())]);
    assert_eq!(world.store.heads(), [(KEY.to_owned(), owner)]);
    // A second notification costs no download, copy or put.
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::AlreadyDelivered], Verdict::Ack));
    assert_eq!((world.copier.calls(), world.store.opened().len(), world.store.heads().len()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_buckets_only_costs_no_download() {
    let world = world();
    world.tenant("acme", [("s3", bucket_row(BUCKET_THERE)), ("s3#2", bucket_row("archive"))]);
    // The object need not have records.
    world.put(KEY, object(b"neither gzip nor JSON".to_vec()));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!((copied(&world, BUCKET_THERE), copied(&world, "archive")), (1, 1));
    let status = world.status.snapshot(1);
    assert!(status.tenants[0].last_success.is_some(), "a copy is a success without events");
    assert_eq!((world.store.opened().len(), world.store.heads().len()), (0, 1));
    let text = world.metrics.render();
    assert!(text.contains("\nlogferry_objects_copied_total 2\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn accepted_records_are_not_put_again_while_the_bucket_fails() {
    let world = world();
    world.copier.break_bucket(BUCKET_THERE, throttled());
    for _ in 0..3 {
        let (report, verdict) = world.process(&event(&[KEY])).await;
        assert!(is_retry(&verdict));
        let failed: Vec<_> =
            report.failures.iter().map(|f| (f.delivery.as_deref(), f.failure.reason())).collect();
        assert_eq!(failed, [(Some("s3"), "throttled")]);
    }
    assert_eq!((world.sinks.messages(ACME, GROUP).len(), world.copier.calls()), (2, 3));
    assert_eq!(world.store.opened().len(), 1, "no delivery is left that needs the records");
    world.copier.mend(BUCKET_THERE);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!((world.sinks.messages(ACME, GROUP).len(), copied(&world, BUCKET_THERE)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_not_repeated_while_cloudwatch_fails() {
    let world = world();
    world.sinks.fail_group(GROUP, SinkError::Throttled("slow down".into()));
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(copied(&world, BUCKET_THERE), 1);
    world.sinks.mend_group(GROUP);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!((world.sinks.messages(ACME, GROUP).len(), world.copier.calls()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_fails_does_not_hold_up_the_other() {
    let world = world();
    world.tenant("acme", [("s3", bucket_row(BUCKET_THERE)), ("s3#2", bucket_row("archive"))]);
    world.copier.break_bucket(BUCKET_THERE, CopyError::NoSuchBucket("404".into()));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict));
    assert_eq!(report.failures[0].failure.reason(), "bucket_missing");
    assert_eq!(copied(&world, "archive"), 1);
    // A permanent error is poison once the other deliveries are done.
    world.copier.break_bucket(BUCKET_THERE, CopyError::TooLarge("6 GB".into()));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, attribute(&poison, "key")), ("object_too_large", Some(KEY)));
    assert_eq!(world.copier.calls(), 3, "the copy into the archive was done and is not repeated");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_copied_into_the_provider_s_own_buckets() {
    let mut world = World { quarantine: Some(MemoryQuarantine::default()), ..world() };
    world.settings.own_buckets.staging.insert("another".to_owned());
    // Without source.buckets, only the message shows which bucket is the staging bucket.
    world.settings.buckets.clear();
    world.settings.own_buckets.staging.remove(BUCKET);
    for bucket in [BUCKET, "another", QUARANTINE] {
        world.tenant("acme", [("s3", bucket_row(bucket)), ("s3#2", bucket_row(BUCKET_THERE))]);
        let poison = poison(world.handle(&event(&[KEY])).await);
        assert_eq!(poison.reason, "bad_tenant_row", "{bucket}");
        assert!(
            attribute(&poison, "error").is_some_and(|error| error.contains("bucket_name: ")),
            "{poison:?}"
        );
    }
    assert_eq!(
        (copied(&world, BUCKET_THERE), world.copier.calls()),
        (1, 1),
        "only the good row copies, and only once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_role_costs_no_head_and_keeps_no_claim() {
    let world = world();
    world.tenant("acme", [("s3", bucket_row(BUCKET_THERE))]);
    let denied = AssumeError::Denied {
        role: "r".into(),
        external_id: None,
        code: "AccessDenied".into(),
        message: "no".into(),
    };
    world.copier.close_role(BUCKET_THERE, denied.clone());
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert!(is_retry(&verdict));
    assert_eq!(report.failures[0].failure.reason(), "role_denied");
    assert_eq!((world.store.heads(), world.copier.calls()), (Vec::new(), 0));
    // While the role's breaker is open, the ledger is not called.
    let asked = world.ledger.as_ref().map(MemoryLedger::calls);
    let open = AssumeError::Held { refusal: Arc::new(denied.clone()), probe_in: Duration::from_secs(9) };
    world.copier.close_role(BUCKET_THERE, open);
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    assert_eq!(world.ledger.as_ref().map(MemoryLedger::calls), asked);
    // The claim was given back, so the next attempt need not wait for the lease to end.
    world.copier.mend(BUCKET_THERE);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    // A delivery that is done does not need the role.
    world.copier.close_role(BUCKET_THERE, denied);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.copier.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_is_reported_once() {
    let world = world();
    let (report, verdict) = world.process(&event(&["acme/c/app/pod/missing"])).await;
    assert_eq!(report.failures.len(), 1, "{:?}", report.failures);
    assert_eq!(poison(verdict).reason, "object_missing");
    world.tenant("acme", [("s3", bucket_row(BUCKET_THERE))]);
    let (report, verdict) = world.process(&event(&["acme/c/app/pod/missing"])).await;
    assert_eq!((report.failures.len(), poison(verdict).reason), (1, "object_missing"));
    assert_eq!(world.copier.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_done_if_the_bucket_has_a_later_version() {
    let world = world();
    world.copier.supersede(BUCKET_THERE);
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!((report.skipped, verdict), (vec![Skipped::Superseded], Verdict::Ack));
    let delivered: Vec<_> = report.delivered.iter().map(|done| done.delivery.as_str()).collect();
    assert_eq!((delivered, copied(&world, BUCKET_THERE)), (vec!["cloudwatch"], 0));
    // The ledger has the delivery as done, but the object does not count as copied.
    let (report, _) = world.process(&event(&[KEY])).await;
    assert_eq!((report.skipped, world.copier.calls()), (vec![Skipped::AlreadyDelivered], 1));
    let text = world.metrics.render();
    assert!(text.contains("\nlogferry_objects_copied_total 0\n"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_collision_is_poison_and_says_what_to_do() {
    let world = world();
    let collision = CopyError::Collision { key: COPY.into(), original: "staging/acme/prod-2/web".into() };
    world.copier.break_bucket(BUCKET_THERE, collision);
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, attribute(&poison, "key")), ("copy_collision", Some(KEY)));
    assert!(attribute(&poison, "error").is_some_and(|error| error.contains("bucket_key")), "{poison:?}");
    assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"], "the log group's records are there");
}

#[tokio::test(start_paused = true)]
async fn broken_content_is_copied_as_it_is() {
    let world = world();
    world.put(KEY, object(b"[{\"message\":\"a\"},".to_vec()));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!(poison.reason, "corrupt_object");
    assert_eq!(copied(&world, BUCKET_THERE), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_gives_its_copies_back() {
    let world = world();
    world.tenant("acme", [("s3", bucket_row(BUCKET_THERE))]);
    world.stop.cancel();
    let verdict = world.handle(&event(&[KEY])).await;
    assert_eq!(verdict.retry_after(), Some(Duration::ZERO));
    // The lease was given back, so the next attempt begins at once.
    let next = World { stop: CancellationToken::new(), ..world };
    assert_eq!(next.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(copied(&next, BUCKET_THERE), 1);
}

#[tokio::test(start_paused = true)]
async fn buckets_have_filters_too() {
    let world = world();
    let etcd = Attribute::TextList(vec!["etcd".into()]);
    world.tenant(
        "acme",
        [("cloudwatch", row(ACME)), ("s3", with(bucket_row(BUCKET_THERE), "desired_logs", etcd))],
    );
    let etcd = "acme/prod-1/etcd/etcd-0/1.json.gz";
    world.put(etcd, good_object(&["c"]));
    assert_eq!(world.handle(&event(&[KEY, etcd])).await, Verdict::Ack);
    let mut messages = world.sinks.messages(ACME, GROUP);
    messages.sort();
    assert_eq!(messages, ["a", "b", "c"]);
    let copies = world.copier.copies(BUCKET_THERE);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].0, "ROSA/cluster-logs/acme/etcd/etcd-0/1.json.gz");
}

/// A copy does not read the object. Its only limit is S3's own.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_too_large_to_be_read_is_copied() {
    let mut world = world();
    world.settings.max_stored = 8;
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, copied(&world, BUCKET_THERE)), ("object_too_large", 1));
    // A copy that must be retried keeps the message from being poison.
    let mut world = self::world();
    world.settings.max_stored = 8;
    world.copier.break_bucket(BUCKET_THERE, throttled());
    assert!(is_retry(&world.handle(&event(&[KEY])).await));
    world.tenant("acme", [("s3", bucket_row("more-logs"))]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(copied(&world, "more-logs"), 1);
}
