//! Tests the ledger against the sandbox's DynamoDB. Each call gets its time from the test.

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::{Account, Aws, Provider, ProviderSpec};

use super::*;
use crate::{ledger::ahead::EventPosition, quarantine::QuarantineReason};

const LEASE: u64 = 60_000;
const SKEW: u64 = 5_000;
const RETENTION: u64 = 3_600;

pub(super) struct World {
    pub(super) sandbox: Sandbox,
    pub(super) account: Account,
    pub(super) provider: Provider,
    pub(super) ledger: DynamoDbLedger,
    pub(super) key: EntryKey,
}

/// A fixed moment plus `milliseconds`.
pub(super) fn at(milliseconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000) + Duration::from_millis(milliseconds)
}

pub(super) fn position(records: u64, events: u64) -> Position {
    Position { records, events }
}

pub(super) fn progress(records: u64, events: u64) -> DeliveryProgress {
    DeliveryProgress { position: position(records, events), ..DeliveryProgress::default() }
}

fn ours(records: u64, events: u64) -> Result<Begun, LedgerError> {
    Ok(Begun::Ours(progress(records, events)))
}

fn busy(milliseconds: u64) -> Result<Begun, LedgerError> {
    Ok(Begun::Busy(Duration::from_millis(milliseconds)))
}

pub(super) fn settings(table: &str) -> LedgerSettings {
    LedgerSettings {
        table: table.to_owned(),
        lease: Duration::from_millis(LEASE),
        max_clock_skew: Duration::from_millis(SKEW),
        retention: Duration::from_secs(RETENTION),
        pace: Duration::from_millis(10),
    }
}

impl World {
    pub(super) async fn new() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("ledger")).await.expect("the provider can be set up");
        let account = aws.account(&provider.account);
        let worker = account.assume_role(&provider.worker_role_arn, "worker", &[]).await;
        let worker = worker.expect("the account may be the worker").sdk_config();
        let ledger = DynamoDbLedger::new(&worker.into(), settings(&provider.ledger_table));
        let key = EntryKey { object: "staging/a/b?eTag=e".to_owned(), delivery: "cloudwatch".to_owned() };
        Self { sandbox, account, provider, ledger, key }
    }

    pub(super) async fn begin(&self, owner: &str, now: u64) -> Result<Begun, LedgerError> {
        self.ledger.begin_at(&self.key, owner, at(now)).await
    }

    pub(super) async fn checkpoint(&self, owner: &str, at_record: u64, now: u64) -> Result<(), LedgerError> {
        self.ledger.checkpoint_at(&self.key, owner, &progress(at_record, 0), at(now)).await
    }

    pub(super) async fn release(&self, owner: &str, at_record: u64, now: u64) -> Result<(), LedgerError> {
        self.ledger.release_at(&self.key, owner, &progress(at_record, 0), at(now)).await
    }

    pub(super) async fn finish(&self, owner: &str, records: u64, now: u64) -> Result<(), LedgerError> {
        self.ledger.finish_at(&self.key, owner, position(records, 0), at(now)).await
    }

    pub(super) async fn item(&self) -> Item {
        let get = self.account.dynamodb().get_item().table_name(&self.provider.ledger_table);
        let get = get.key("object", AttributeValue::S(self.key.object.clone()));
        let get = get.key("delivery", AttributeValue::S(self.key.delivery.clone()));
        get.send().await.expect("the table is there").item.unwrap_or_default()
    }

    /// The item without its key, as text.
    pub(super) async fn shown(&self) -> String {
        let mut item: Vec<_> = self.item().await.into_iter().collect();
        item.retain(|(name, _)| name != "object" && name != "delivery");
        item.sort_by(|a, b| a.0.cmp(&b.0));
        let shown = item.into_iter().map(|(name, value)| match value {
            AttributeValue::S(text) | AttributeValue::N(text) => format!("{name}={text}"),
            AttributeValue::Bool(flag) => format!("{name}={flag}"),
            other => format!("{name}={other:?}"),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn lost(&self) -> Result<(), LedgerError> {
        Err(lost(&self.key))
    }
}

#[tokio::test]
async fn an_object_goes_from_begun_to_done() {
    let world = World::new().await;
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    assert_eq!(world.shown().await, "expires_at=1800003600 lease_owner=one lease_until=1800000060000");
    let split = progress(7, 2);
    assert_eq!(world.ledger.checkpoint_at(&world.key, "one", &split, at(1_000)).await, Ok(()));
    assert_eq!(
        world.shown().await,
        "events=2 expires_at=1800003601 lease_owner=one lease_until=1800000061000 records=7"
    );
    assert_eq!(world.begin("one", 2_000).await, ours(7, 2));
    assert_eq!(world.finish("one", 9, 3_000).await, Ok(()));
    assert_eq!(world.shown().await, "done=true events=0 expires_at=1800003603 records=9");
    assert_eq!(world.begin("other", 4_000).await, Ok(Begun::Done));
    // Another delivery of the object has its own entry.
    let other = EntryKey { delivery: "s3".to_owned(), ..world.key.clone() };
    assert_eq!(world.ledger.begin_at(&other, "one", at(4_000)).await, ours(0, 0));
}

#[tokio::test]
async fn a_second_worker_waits_until_the_lease_is_given_back_or_ends() {
    let world = World::new().await;
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    assert_eq!(world.begin("other", 1_000).await, busy(LEASE + SKEW - 1_000));
    // A checkpoint renews the lease.
    assert_eq!(world.checkpoint("one", 5, 30_000).await, Ok(()));
    assert_eq!(world.begin("other", LEASE + 1).await, busy(SKEW + 29_999));
    assert_eq!(world.release("one", 6, 40_000).await, Ok(()));
    assert_eq!(world.shown().await, "events=0 expires_at=1800003640 records=6");
    assert_eq!(world.begin("other", 40_001).await, ours(6, 0));
    // This lease is not given back. It may still run by its owner's clock.
    assert_eq!(world.begin("third", 40_002 + LEASE).await, busy(SKEW - 1));
    assert_eq!(world.begin("third", 40_001 + LEASE + SKEW).await, busy(0));
    assert_eq!(world.begin("third", 40_002 + LEASE + SKEW).await, ours(6, 0));
}

#[tokio::test]
async fn a_worker_without_the_lease_is_told_and_changes_nothing() {
    let world = World::new().await;
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    const LATER: u64 = LEASE + SKEW;
    assert_eq!(world.begin("other", LATER + 1).await, ours(0, 0));
    let before = world.shown().await;
    assert_eq!(world.checkpoint("one", 5, LATER + 2).await, world.lost());
    assert_eq!(world.release("one", 5, LATER + 2).await, world.lost());
    assert_eq!(world.finish("one", 5, LATER + 2).await, world.lost());
    assert_eq!(world.shown().await, before);
    assert_eq!(world.finish("other", 9, LATER + 3).await, Ok(()));
    // The checkpoint fails, because another worker has finished the object. `release` and `finish` succeed, because no work
    // is left.
    assert_eq!(world.checkpoint("one", 5, LATER + 4).await, world.lost());
    assert_eq!(world.release("one", 5, LATER + 4).await, Ok(()));
    assert_eq!(world.finish("one", 9, LATER + 4).await, Ok(()));
    assert_eq!(world.shown().await, "done=true events=0 expires_at=1800003665 records=9");
}

#[tokio::test]
async fn any_call_takes_a_free_lease() {
    let world = World::new().await;
    assert_eq!(world.checkpoint("one", 5, 0).await, Ok(()));
    assert_eq!(world.begin("other", 1_000).await, busy(LEASE + SKEW - 1_000));
    // The lease ran out, and no other worker took it.
    assert_eq!(world.checkpoint("one", 8, LEASE + 1).await, Ok(()));
    assert_eq!(world.begin("other", LEASE + 1).await, busy(LEASE + SKEW));
    assert_eq!(world.release("other", 9, 3 * LEASE).await, Ok(()));
    assert_eq!(world.finish("third", 9, 3 * LEASE).await, Ok(()));
    assert_eq!(world.begin("one", 3 * LEASE).await, Ok(Begun::Done));
}

#[tokio::test]
async fn repeated_calls_give_the_same_answer() {
    let world = World::new().await;
    for _ in 0..2 {
        assert_eq!(world.begin("one", 0).await, ours(0, 0));
    }
    for _ in 0..2 {
        assert_eq!(world.checkpoint("one", 5, 0).await, Ok(()));
    }
    for _ in 0..2 {
        assert_eq!(world.release("one", 6, 0).await, Ok(()));
    }
    assert_eq!(world.begin("other", 0).await, ours(6, 0));
    for _ in 0..2 {
        assert_eq!(world.finish("other", 9, 0).await, Ok(()));
    }
}

#[tokio::test]
async fn a_position_never_goes_back() {
    let world = World::new().await;
    let checkpoint = async |records, events, now| {
        let late = progress(records, events);
        world.ledger.checkpoint_at(&world.key, "one", &late, at(now)).await
    };
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    assert_eq!(checkpoint(5, 3, 0).await, Ok(()));
    // The caller began without the ledger or was paused, and another worker has advanced the entry meanwhile.
    for (records, events) in [(5, 2), (4, 9), (0, 0)] {
        assert_eq!(checkpoint(records, events, 10_000).await, world.lost());
    }
    assert_eq!(checkpoint(5, 3, 10_000).await, Ok(()), "recording the same progress again renews the lease");
    assert_eq!(world.begin("other", 20_000).await, busy(LEASE + SKEW - 10_000));
    assert_eq!(world.begin("one", 20_000).await, ours(5, 3));
    assert_eq!(checkpoint(5, 4, 20_000).await, Ok(()));
    assert_eq!(checkpoint(6, 0, 20_000).await, Ok(()));
    // Positions are compared as numbers, not as text.
    assert_eq!(checkpoint(10, 0, 20_000).await, Ok(()));
    assert_eq!(world.release("one", 9, 20_000).await, Ok(()));
    assert_eq!(world.begin("other", 20_000).await, ours(10, 0));
}

#[tokio::test]
async fn a_restart_forgets_the_position_and_gives_the_lease_back() {
    let world = World::new().await;
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    assert_eq!(world.ledger.checkpoint_at(&world.key, "one", &full(), at(0)).await, Ok(()));
    assert_eq!(world.ledger.restart_at(&world.key, "other", at(0)).await, world.lost());
    assert_eq!(world.ledger.restart_at(&world.key, "one", at(0)).await, Ok(()));
    assert_eq!(world.shown().await, "expires_at=1800003600");
    assert_eq!(world.begin("other", 0).await, ours(0, 0));
}

/// Progress with all fields in use.
fn full() -> DeliveryProgress {
    let owed = Owed::of(vec![(3, QuarantineReason::Oversize), (4, QuarantineReason::Oversize)]);
    let fingerprints =
        vec![Fingerprint { offset: 9, crc32: 0xcbf4_3926 }, Fingerprint { offset: u64::MAX, crc32: 1 }];
    let last = EventPosition { timestamp: -5, record: 9, piece: 1 };
    let ahead = Some(Ahead { end: position(12, 3), last });
    DeliveryProgress { position: position(7, 0), ahead, owed, fingerprints }
}

#[tokio::test]
async fn all_parts_of_the_progress_are_written_together() {
    let world = World::new().await;
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    assert_eq!(world.ledger.checkpoint_at(&world.key, "one", &full(), at(0)).await, Ok(()));
    assert_eq!(world.begin("one", 0).await, Ok(Begun::Ours(full())));
    let further = DeliveryProgress { position: position(8, 0), ..full() };
    assert_eq!(world.ledger.release_at(&world.key, "one", &further, at(0)).await, Ok(()));
    let shown = world.shown().await;
    assert!(shown.contains("ahead=12:3 -5:9:1"), "{shown}");
    assert!(shown.contains("fingerprints=9:cbf43926 18446744073709551615:00000001"), "{shown}");
    assert_eq!(world.begin("other", 0).await, Ok(Begun::Ours(further.clone())));
    // The quarantine has everything; the position stays.
    assert_eq!(world.checkpoint("other", 8, 0).await, Ok(()));
    assert_eq!(world.begin("other", 0).await, ours(8, 0));
    assert_eq!(world.ledger.checkpoint_at(&world.key, "other", &further, at(0)).await, Ok(()));
    assert_eq!(world.finish("other", 9, 0).await, Ok(()));
    assert_eq!(world.shown().await, "done=true events=0 expires_at=1800003600 records=9");
}

#[tokio::test]
async fn throttling_is_reported_as_throttling() {
    let world = World::new().await;
    for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "RequestLimitExceeded"] {
        let refusal = Effect::Error(ErrorAnswer::new(400, code));
        let fault =
            world.sandbox.faults().add(Fault::new("dynamodb", "UpdateItem|BatchExecuteStatement", refusal));
        let begun = world.ledger.begin(&world.key, "one").await;
        assert!(matches!(begun, Err(LedgerError::Throttled(_))), "{begun:?}");
        assert!(matches!(world.ledger.probe().await, Err(LedgerError::Throttled(_))));
        world.sandbox.faults().remove(fault);
    }
}

#[tokio::test]
async fn a_wrong_table_is_reported_with_the_fix() {
    let world = World::new().await;
    let check = async |account: &Account, table: &str, words: &[&str]| {
        let ledger = DynamoDbLedger::new(&account.sdk_config().into(), settings(table));
        let told = [
            ledger.probe().await.expect_err("the table is wrong"),
            ledger.begin(&world.key, "one").await.expect_err("the table is wrong"),
            ledger
                .finish(&world.key, "one", &progress(0, 0), position(1, 0))
                .await
                .expect_err("the table is wrong"),
        ];
        for error in told {
            assert!(matches!(error, LedgerError::Unavailable(_)), "{error:?}");
            let text = error.to_string();
            for word in words.iter().chain(&[table]) {
                assert!(text.contains(word), "{word} is not in {text}");
            }
        }
    };
    let account = &world.account;
    check(account, "nowhere", &["ResourceNotFoundException", "create the table", "ledger.table"]).await;
    check(account, &world.provider.tenant_table, &["key", "object (S) + delivery (S)"]).await;
    let stranger = world.account.assume_role(&world.provider.central_role_arn, "stranger", &[]).await;
    let stranger = stranger.expect("the account may assume the central role");
    let denied = ["AccessDeniedException", "dynamodb:UpdateItem"];
    check(&stranger, &world.provider.ledger_table, &denied).await;
    world.ledger.probe().await.expect("this table is right");
    assert_eq!(world.item().await, Item::new());
}

#[tokio::test]
async fn a_broken_entry_is_reported_with_the_fix() {
    let world = World::new().await;
    let text = |value: &str| AttributeValue::S(value.to_owned());
    for (name, value, shown) in [
        ("records", text("many"), "many"),
        ("owed", AttributeValue::B(vec![7, 1].into()), "0701"),
        ("fingerprints", text("9:cbf43926 9"), "9:cbf43926 9"),
    ] {
        let put = world.account.dynamodb().put_item().table_name(&world.provider.ledger_table);
        let put = put.item("object", text(&world.key.object)).item("delivery", text(&world.key.delivery));
        put.item(name, value).send().await.expect("the table takes it");
        let told = world.begin("one", 0).await.expect_err("the entry cannot be read");
        assert!(matches!(told, LedgerError::Unreadable(_)), "{told:?}");
        let told = told.to_string();
        for word in ["ledger-ledger", "staging/a/b?eTag=e", "cloudwatch", name, shown, "delete the item"] {
            assert!(told.contains(word), "{word} is not in {told}");
        }
    }
}

#[tokio::test]
async fn a_call_whose_answer_was_lost_can_be_repeated() {
    let world = World::new().await;
    let lose_one = || {
        let lost = Fault::new("dynamodb", "UpdateItem", Effect::After { error: None });
        world.sandbox.faults().add(Fault { times: Some(1), ..lost });
    };
    lose_one();
    assert_eq!(world.begin("one", 0).await, ours(0, 0));
    lose_one();
    assert_eq!(world.checkpoint("one", 5, 0).await, Ok(()));
    lose_one();
    assert_eq!(world.release("one", 6, 0).await, Ok(()));
    lose_one();
    assert_eq!(world.finish("other", 9, 0).await, Ok(()));
    assert_eq!(world.sandbox.calls("dynamodb", "UpdateItem"), 8);
}

#[tokio::test]
async fn a_silent_dynamodb_counts_as_unavailable() {
    let world = World::new().await;
    let slow = Effect::Latency { milliseconds: 3_600_000 };
    world.sandbox.faults().add(Fault::new("dynamodb", "UpdateItem|BatchExecuteStatement", slow));
    let begun = world.ledger.begin(&world.key, "one").await;
    assert!(matches!(begun, Err(LedgerError::Unavailable(_))), "{begun:?}");
    assert!(matches!(world.ledger.probe().await, Err(LedgerError::Unavailable(_))));
}
