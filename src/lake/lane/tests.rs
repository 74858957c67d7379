use super::*;
use crate::{
    event::ObjectRef,
    lake::{LakeShares, LakeStore, memory::MemoryBuckets},
    ledger::{
        claim::{Claim, ClaimSettings, Claimed, Claims, Metrics},
        memory::MemoryLedger,
    },
    tenant::{Contents, Destination, tests::delivery_of},
};

async fn claimed(claims: &Claims<MemoryLedger>, object: &ObjectRef) -> Arc<Claim<MemoryLedger>> {
    match claims.claim(object, "s3").await {
        Ok(Claimed::Ours(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

/// A lane that gives up after it has flushed all records, as behind a break of the object: where the next attempt begins.
async fn begins_after(defect: impl FnOnce(&mut LakeTally)) -> u64 {
    let row = [("bucket_name", "lake"), ("target_region", "us-east-1"), ("format", "ndjson")];
    let delivery = delivery_of("s3", &row);
    let Destination::S3(destination) = &delivery.destination else { panic!("{delivery:?}") };
    let Contents::Lake(lake) = &destination.contents else { panic!("{destination:?}") };
    let (route, object) = (Route::default(), ObjectRef { etag: Some("e".into()), ..ObjectRef::default() });
    let way = LakeWay { delivery: &delivery, destination, lake, route: &route, object: &object };
    let settings =
        ClaimSettings { lease: Duration::from_secs(60), out_of_reach_after: Duration::from_secs(120) };
    let claims = Claims::new(Some(MemoryLedger::new(settings.lease)), settings, Metrics::default());
    let account = MemoryBuckets::default().enter_lake(&way).await.expect("the bucket is open");
    let share = LakeShares::default().of_object(&"acme".into());
    let claim = claimed(&claims, &object).await;
    let mut lane =
        LakeLane::new(account, claim, &way, Timestamp::UNIX_EPOCH, None, share).expect("a short key");
    (0..3).for_each(|_| lane.push_skipped());
    lane.flush().await.expect("nothing can fail");
    defect(&mut lane.tally);
    lane.abandon(&CancellationToken::new()).await;
    claimed(&claims, &object).await.from().position.records
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_passes_over_no_record_that_is_unaccounted_for() {
    assert_eq!(begins_after(|_| {}).await, 3);
    assert_eq!(begins_after(|tally| tally.skipped -= 1).await, 0);
}
