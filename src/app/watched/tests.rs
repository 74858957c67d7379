use super::*;
use crate::{
    health::{ConditionStatus, HealthStatus, ReadinessCondition},
    ledger::memory::MemoryLedger,
    name::StreamTemplate,
    object::memory::{MemoryObject, MemoryStore},
    queue::memory::{MemoryQueue, QueueOperation},
    route::KeyLayout,
    sink::memory::{MemorySinks, SinkOperation},
    tenant::{Destination, Mode, Oversize},
};

/// Time between two failures that both count.
const SECOND: Duration = Duration::from_secs(1);

fn health() -> Arc<Health> {
    Arc::new(Health::new(Duration::ZERO, &[]))
}

#[track_caller]
fn check(health: &Health, condition: ReadinessCondition, expected: ConditionStatus) {
    let report = health.ready();
    let found = report.conditions.iter().find(|found| found.condition == condition.word());
    assert_eq!(found.map(|found| found.status), Some(expected), "{report:?}");
}

fn object(bucket: &str) -> ObjectRef {
    ObjectRef { bucket: bucket.into(), key: "acme/c/app/pod/1".into(), ..ObjectRef::default() }
}

#[tokio::test(start_paused = true)]
async fn calls_to_the_queue_are_evidence() {
    let health = health();
    let queue = MemoryQueue::new(Duration::from_secs(30));
    queue.fail_calls(QueueOperation::Receive, 1..=3);
    queue.fail_calls(QueueOperation::Delete, 1..=3);
    queue.send_all(["a", "b"]);
    let watched = Watched::new(queue, &health);
    for _ in 0..3 {
        watched.receive(1, Duration::ZERO).await.expect_err("the call fails");
        tokio::time::advance(SECOND).await;
    }
    check(&health, ReadinessCondition::Receive, ConditionStatus::Degraded);
    let received = watched.port.receive(2, Duration::ZERO).await.expect("the queue answers");
    let receipts: Vec<_> = received.iter().map(|message| message.receipt.clone()).collect();
    for _ in 0..3 {
        watched.delete(&receipts).await;
        tokio::time::advance(SECOND).await;
    }
    check(&health, ReadinessCondition::Settle, ConditionStatus::Degraded);
    watched.receive(1, Duration::ZERO).await.expect("the queue answers");
    check(&health, ReadinessCondition::Receive, ConditionStatus::Ok);
    check(&health, ReadinessCondition::Settle, ConditionStatus::Degraded);
    watched.delete(&receipts[..1]).await;
    assert_eq!(health.ready().status, HealthStatus::Ok);
}

#[tokio::test]
async fn errors_of_one_message_or_object_are_no_failures() {
    let error = String::new;
    for (error, expected) in [
        (QueueError::Gone(error()), Evidence::Answer),
        (QueueError::Refused(error()), Evidence::Answer),
        (QueueError::Denied(error()), Evidence::Failure(CheckFailure::Denied)),
        (QueueError::Missing(error()), Evidence::Failure(CheckFailure::Missing)),
        (QueueError::Unavailable(error()), Evidence::Failure(CheckFailure::Unanswered)),
    ] {
        assert_eq!(of_queue(&error), expected, "{error:?}");
    }
    for (error, expected) in [
        (LedgerError::Lost(error()), Evidence::Answer),
        (LedgerError::Unreadable(error()), Evidence::Answer),
        (LedgerError::Throttled(error()), Evidence::Failure(CheckFailure::Throttled)),
        (LedgerError::Unavailable(error()), Evidence::Failure(CheckFailure::Unanswered)),
    ] {
        assert_eq!(of_ledger(&error), expected, "{error:?}");
    }
}

fn watched_store(store: &MemoryStore, health: &Arc<Health>) -> WatchedStore<MemoryStore> {
    let layout = KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right");
    WatchedStore::new(store.clone(), ["staging".to_owned()], layout.into(), health)
}

/// The worker lost s3:GetObject or the bucket's key, or the reads time out.
#[tokio::test(start_paused = true)]
async fn reads_that_fail_for_several_tenants_are_the_workers_own_trouble() {
    for error in [ObjectError::Denied("403".into()), ObjectError::Unavailable("503".into())] {
        for bucket in ["staging", "a bucket that no setting names"] {
            let health = health();
            let store = MemoryStore::default();
            let watched = watched_store(&store, &health);
            let of = |tenant: &str| ObjectRef { key: format!("{tenant}/c/app/pod/1"), ..object(bucket) };
            for tenant in ["acme", "globex", "initech"] {
                store.put(bucket, &of(tenant).key, MemoryObject::refused(error.clone()));
            }
            store.put(bucket, &of("healthy").key, MemoryObject::new(Vec::new(), Timestamp::UNIX_EPOCH));
            let read = async |tenants: &[&str]| {
                for tenant in tenants {
                    let _ = watched.open(&of(tenant), None).await;
                    tokio::time::advance(SECOND).await;
                }
            };
            read(&["acme", "globex", "acme", "globex", "healthy", "acme", "initech"]).await;
            check(&health, ReadinessCondition::Get, ConditionStatus::Ok);
            read(&["globex"]).await;
            check(&health, ReadinessCondition::Get, ConditionStatus::Degraded);
            read(&["healthy"]).await;
            check(&health, ReadinessCondition::Get, ConditionStatus::Ok);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_bucket_counts_only_if_the_configuration_names_it() {
    let health = health();
    let store = MemoryStore::default();
    let watched = watched_store(&store, &health);
    let put = |bucket: &str, error: Option<ObjectError>| {
        let whole = || MemoryObject::new(Vec::new(), Timestamp::UNIX_EPOCH);
        let content = error.map_or_else(whole, MemoryObject::refused);
        store.put(bucket, &object(bucket).key, content);
    };
    let read = async |bucket: &str| {
        for _ in 0..3 {
            let _ = watched.open(&object(bucket), None).await;
            tokio::time::advance(SECOND).await;
        }
    };
    put("other", Some(ObjectError::NoBucket("404".into())));
    read("other").await;
    for error in [
        ObjectError::Missing("404".into()),
        ObjectError::Denied("403".into()),
        ObjectError::Unavailable("503".into()),
    ] {
        put("staging", Some(error));
        read("staging").await;
    }
    assert_eq!(health.ready().status, HealthStatus::Ok);
    put("staging", Some(ObjectError::NoBucket("404".into())));
    read("staging").await;
    check(&health, ReadinessCondition::Get, ConditionStatus::Degraded);
    put("staging", Some(ObjectError::Missing("404".into())));
    read("staging").await;
    check(&health, ReadinessCondition::Get, ConditionStatus::Degraded);
    put("staging", None);
    read("staging").await;
    check(&health, ReadinessCondition::Get, ConditionStatus::Ok);
}

fn destination(account: &str) -> CloudWatch {
    CloudWatch {
        role: format!("arn:aws:iam::{account}:role/customer-logs").parse().expect("a role's ARN"),
        external_id: None,
        session_tags: false,
        source_identity: false,
        log_group_name: "/logs".into(),
        log_stream_name: StreamTemplate::default(),
        retention_days: None,
        oversize: Oversize::Split,
    }
}

/// Puts a batch into the account. The account answers with `error`, or takes the batch if there is none.
async fn put(watched: &Watched<MemorySinks>, account: &str, error: Option<SinkError>) {
    let sinks = &watched.port;
    let destination = destination(account);
    sinks.create(&format!("{account}/us-east-1"), "/logs", &["s"]);
    if let Some(error) = error {
        sinks.fail(SinkOperation::Put, sinks.count(SinkOperation::Put) + 1, error);
    }
    let delivery = Delivery {
        tenant_id: "acme".into(),
        name: "cloudwatch".into(),
        enabled: true,
        desired_logs: None,
        mode: Mode::Live,
        target_region: "us-east-1".into(),
        destination: Destination::CloudWatch(destination.clone()),
    };
    let sink =
        watched.open(&delivery, &destination, "c", &ObjectRef::default()).await.expect("nothing is wrong");
    let body = "{\"logGroupName\":\"/logs\",\"logStreamName\":\"s\",\"logEvents\":[{\"timestamp\":1,\"message\":\"m\"}]}";
    let _ = sink.put_log_events(body.into(), &Lease::unlimited()).await;
    tokio::time::advance(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_region_is_degraded_by_several_accounts_and_by_the_workers_own_signature() {
    let health = health();
    let watched = Watched::new(MemorySinks::new(), &health);
    let accounts = ["111111111111", "222222222222", "333333333333"];
    let silent = || Some(SinkError::Unavailable("503".into()));
    for account in accounts {
        put(&watched, account, None).await;
    }
    for _ in 0..9 {
        put(&watched, accounts[0], silent()).await;
    }
    for error in [SinkError::Denied("403".into()), SinkError::Throttled("429".into())] {
        for account in accounts {
            put(&watched, account, Some(error.clone())).await;
        }
    }
    check(&health, ReadinessCondition::Put, ConditionStatus::Ok);
    for account in accounts {
        put(&watched, account, silent()).await;
    }
    check(&health, ReadinessCondition::Put, ConditionStatus::Degraded);
    put(&watched, accounts[1], None).await;
    check(&health, ReadinessCondition::Put, ConditionStatus::Ok);
    let clock = || Some(SinkError::Ours(IdentityError::Clock { skew: None, problem: "late".into() }));
    for _ in 0..3 {
        put(&watched, accounts[0], clock()).await;
    }
    check(&health, ReadinessCondition::Put, ConditionStatus::Degraded);
}

#[tokio::test(start_paused = true)]
async fn every_call_to_the_ledger_is_evidence() {
    let health = health();
    let watched = Watched::new(MemoryLedger::new(Duration::from_secs(10)), &health);
    let key = EntryKey { object: "o".into(), delivery: "d".into() };
    let succeeds = async |call: u32| {
        for _ in 0..3 {
            health.failed(Check::Ledger, CheckFailure::Unanswered, &"silence");
            tokio::time::advance(SECOND).await;
        }
        check(&health, ReadinessCondition::Ledger, ConditionStatus::Degraded);
        match call {
            0 => drop(watched.begin(&key, "a").await),
            1 => drop(watched.checkpoint(&key, "a", &DeliveryProgress::default()).await),
            2 => drop(watched.release(&key, "a", &DeliveryProgress::default()).await),
            3 => drop(watched.restart(&key, "a").await),
            4 => drop(watched.finish(&key, "a", &DeliveryProgress::default(), Position::default()).await),
            _ => drop(watched.probe().await),
        }
        check(&health, ReadinessCondition::Ledger, ConditionStatus::Ok);
    };
    for call in 0..6 {
        succeeds(call).await;
    }
}
