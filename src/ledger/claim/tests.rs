use super::*;
use crate::ledger::memory::MemoryLedger;

const LEASE: Duration = Duration::from_secs(60);

fn object() -> ObjectRef {
    ObjectRef {
        bucket: "staging".into(),
        key: "k".into(),
        version_id: Some("v".into()),
        ..ObjectRef::default()
    }
}

const SETTINGS: ClaimSettings = ClaimSettings { lease: LEASE, out_of_reach_after: Duration::from_secs(120) };

fn claims(ledger: &MemoryLedger, metrics: &Metrics) -> Claims<MemoryLedger> {
    Claims::new(Some(ledger.clone()), SETTINGS, metrics.clone())
}

fn set_up() -> (MemoryLedger, Metrics, Claims<MemoryLedger>) {
    let (ledger, metrics) = (MemoryLedger::new(LEASE), Metrics::default());
    let claims = claims(&ledger, &metrics);
    (ledger, metrics, claims)
}

async fn ours(claims: &Claims<MemoryLedger>) -> Arc<Claim<MemoryLedger>> {
    match claimed(claims).await {
        Claimed::Ours(claim) => claim,
        other => panic!("ours, not {other:?}"),
    }
}

async fn claimed(claims: &Claims<MemoryLedger>) -> Claimed<MemoryLedger> {
    claims.claim(&object(), "cloudwatch").await.expect("the ledger answers, or is out of reach")
}

fn position(records: u64) -> Position {
    Position { records, events: 0 }
}

fn at(records: u64) -> DeliveryProgress {
    DeliveryProgress { position: position(records), ..DeliveryProgress::default() }
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_waits_and_goes_on_where_the_first_stopped() {
    let (ledger, metrics, one) = set_up();
    let other = claims(&ledger, &metrics);
    let claim = ours(&one).await;
    assert_eq!(claim.from(), &at(0));
    claim.checkpoint(&at(7)).await.expect("the lease is ours");
    let busy = claimed(&other).await;
    assert!(matches!(busy, Claimed::Busy(left) if left == LEASE), "{busy:?}");
    assert!(matches!(other.claim(&object(), "cloudwatch#2").await, Ok(Claimed::Ours(_))), "another delivery");
    claim.release(&at(9)).await;
    let claim = ours(&other).await;
    assert_eq!(claim.from(), &at(9));
    assert!(claim.is_recorded());
    claim.finish(position(12)).await.expect("the lease is ours");
    assert!(matches!(claimed(&one).await, Claimed::Done));
    let unnamed = ObjectRef { version_id: None, ..object() };
    assert!(matches!(one.claim(&unnamed, "cloudwatch").await, Ok(Claimed::Ours(_))));
    // The second new claim is that of another delivery.
    for (result, count) in [("new", 2), ("busy", 1), ("resumed", 1), ("done", 1), ("unguarded", 1)] {
        assert_eq!(metrics.ledger_claims.get_or_create(&Ended::new(result)).get(), count, "{result}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_the_next_attempt_begins_at_once_and_at_the_start() {
    let (_, _, claims) = set_up();
    let claim = ours(&claims).await;
    claim.checkpoint(&at(7)).await.expect("the lease is ours");
    claim.restart().await;
    assert_eq!(ours(&claims).await.from(), &at(0));
}

#[test]
fn each_kind_of_error_has_a_name() {
    let text = String::new;
    let errors = [
        (LedgerError::Lost(text()), "lease_lost"),
        (LedgerError::Throttled(text()), "throttled"),
        (LedgerError::Unavailable(text()), "unavailable"),
        (LedgerError::Unreadable(text()), "unreadable"),
    ];
    for (error, name) in errors {
        assert_eq!(error.kind(), name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_told_at_once() {
    let (ledger, _, claims) = set_up();
    let claim = ours(&claims).await;
    ledger.steal();
    let start = Instant::now();
    let lost = Err(LedgerError::Lost("staging/k?versionId=v".into()));
    assert_eq!((claim.finish(position(1)).await, start.elapsed()), (lost, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_as_long_as_its_claim() {
    let (ledger, metrics, one) = set_up();
    let other = claims(&ledger, &metrics);
    let claim = ours(&one).await;
    tokio::time::sleep(10 * LEASE).await;
    assert!(matches!(claimed(&other).await, Claimed::Busy(_)));
    // The claim's worker dies.
    drop(claim);
    tokio::time::sleep(LEASE).await;
    assert_eq!(ours(&other).await.from(), &at(0));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_not_renewed() {
    let (_, _, claims) = set_up();
    let claim = ours(&claims).await;
    claim.release(&at(0)).await;
    tokio::time::sleep(2 * LEASE).await;
    ours(&claims).await;
    let lost = LedgerError::Lost("staging/k?versionId=v".into());
    assert_eq!(claim.checkpoint(&at(1)).await, Err(lost));
}

#[tokio::test(start_paused = true)]
async fn a_throttling_ledger_is_waited_for_and_never_counts_as_out_of_reach() {
    let (ledger, metrics, claims) = set_up();
    let claim = ours(&claims).await;
    claim.checkpoint(&at(3)).await.expect("the lease is ours");
    claim.release(&at(3)).await;
    ledger.throttle(3);
    let claim = ours(&claims).await;
    assert_eq!(claim.from(), &at(3), "not from the start");
    ledger.throttle(3);
    claim.checkpoint(&at(5)).await.expect("the lease is ours");
    claim.release(&at(5)).await;
    // The message waits however long the ledger throttles. No delivery goes on without the ledger.
    ledger.throttle(usize::MAX);
    for _ in 0..100 {
        let refused = claims.claim(&object(), "cloudwatch").await;
        assert!(matches!(refused, Err(LedgerError::Throttled(_))), "{refused:?}");
        tokio::time::sleep(LEASE).await;
    }
    let text = crate::metrics::rendered(|registry| metrics.register(registry));
    assert!(text.contains("logferry_ledger_out_of_reach 0"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn new_claims_leave_a_failing_ledger_alone() {
    let (ledger, _, claims) = set_up();
    ledger.set_down(true);
    let start = Instant::now();
    claims.claim(&object(), "cloudwatch").await.expect_err("the ledger is down");
    assert_eq!(start.elapsed(), PATIENCE);
    let calls = ledger.calls();
    claims.claim(&object(), "cloudwatch").await.expect_err("the ledger is down");
    assert_eq!(
        (start.elapsed(), ledger.calls()),
        (PATIENCE, calls),
        "the earlier calls failed, so no call is made"
    );
    ledger.set_down(false);
    tokio::time::sleep(PATIENCE).await;
    ours(&claims).await;
}

#[tokio::test(start_paused = true)]
async fn deliveries_go_on_without_the_ledger_only_after_minutes_of_silence() {
    let (ledger, metrics, claims) = set_up();
    ledger.set_down(true);
    let start = Instant::now();
    let claim = loop {
        match claims.claim(&object(), "cloudwatch").await {
            Ok(Claimed::Ours(claim)) => break claim,
            Ok(other) => panic!("ours, not {other:?}"),
            Err(_) => tokio::time::sleep(PATIENCE).await,
        }
    };
    let silent = start.elapsed().as_secs();
    assert!((120..150).contains(&silent), "after {silent} s");
    claim.checkpoint(&at(3)).await.expect("no other worker has it");
    claim.hold().await.expect("no other worker can have it");
    let text = crate::metrics::rendered(|registry| metrics.register(registry));
    assert!(text.contains("logferry_ledger_out_of_reach 1"), "{text}");
    ledger.set_down(false);
    // The earlier claim reaches the ledger again.
    claim.finish(position(5)).await.expect("no other worker has it");
    assert!(matches!(claimed(&claims).await, Claimed::Done));
    let text = crate::metrics::rendered(|registry| metrics.register(registry));
    assert!(text.contains("logferry_ledger_out_of_reach 0"), "{text}");
    // The silence is counted from zero again.
    ledger.set_down(true);
    claims.claim(&object(), "cloudwatch").await.expect_err("the ledger is down");
}

#[tokio::test(start_paused = true)]
async fn the_worker_s_own_pause_does_not_count_as_silence() {
    let (ledger, _, claims) = set_up();
    ledger.set_down(true);
    for _ in 0..3 {
        claims.probe().await.expect_err("the ledger is down");
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    claims.claim(&object(), "cloudwatch").await.expect_err("the pauses count for at most 30 s each");
}

#[tokio::test(start_paused = true)]
async fn a_claim_renews_its_lease_after_a_pause_before_it_goes_on() {
    let (ledger, metrics, one) = set_up();
    let other = claims(&ledger, &metrics);
    let claim = ours(&one).await;
    claim.checkpoint(&at(3)).await.expect("the lease is ours");
    // As if the process had been paused, so that no renewal could run.
    claim.lease.lost();
    let calls = ledger.calls();
    claim.hold().await.expect("no other worker took it").check().expect("the lease runs again");
    assert_eq!(ledger.calls(), calls + 1);
    claim.hold().await.expect("the lease runs");
    assert_eq!(ledger.calls(), calls + 1, "a lease that runs costs no call");
    claim.lease.lost();
    ledger.let_leases_end();
    let taken = ours(&other).await;
    assert_eq!(taken.from(), &at(3));
    let lost = Err(LedgerError::Lost("staging/k?versionId=v".into()));
    assert_eq!(claim.hold().await.map(drop), lost);
    // The lease is free again, but the entry's position is beyond this claim's. Going on would repeat the other worker's
    // records.
    taken.release(&at(4)).await;
    assert_eq!(claim.hold().await.map(drop), lost);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_waits_for_the_ledger_until_the_lease_ends() {
    let (ledger, _, claims) = set_up();
    let claim = ours(&claims).await;
    ledger.set_down(true);
    let start = Instant::now();
    let refused = claim.checkpoint(&at(1)).await;
    assert!(matches!(refused, Err(LedgerError::Unavailable(_))), "{refused:?}");
    let waited = start.elapsed();
    assert!(waited > LEASE * 8 / 10 && waited < LEASE, "{waited:?}");
    assert!(claim.hold().await.is_err());
    // The claim ends although the ledger does not record it, because all records are delivered.
    claim.finish(position(1)).await.expect("no other worker has it");
}

#[tokio::test]
async fn without_ledger_or_version_every_claim_is_granted() {
    let off = Claims::<MemoryLedger>::new(None, SETTINGS, Metrics::default());
    let claim = ours(&off).await;
    assert!(!claim.is_recorded());
    claim.finish(position(1)).await.expect("there is no ledger to refuse it");
    assert_eq!(ours(&off).await.from(), &at(0));
    let unpinned = ObjectRef { version_id: None, ..object() };
    let ledger = MemoryLedger::new(LEASE);
    let claims = claims(&ledger, &Metrics::default());
    assert!(matches!(claims.claim(&unpinned, "cloudwatch").await, Ok(Claimed::Ours(_))));
    assert_eq!(ledger.calls(), 0);
}
