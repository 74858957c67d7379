//! Tests the calls of the port that share calls to the sandbox's DynamoDB.

use futures_util::future::join_all;
use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};
use serde_json::json;

use super::super::{
    DynamoDbLedger,
    tests::{World, position, progress, settings},
};
use super::*;
use crate::{
    aws::direct::testing::{Recording, Sent},
    ledger::{Begun, DeliveryProgress, Ledger},
};

const BATCH: &str = "BatchExecuteStatement";

fn key(number: u32) -> EntryKey {
    EntryKey { object: format!("staging/a/{number}?eTag=e"), delivery: "cloudwatch".to_owned() }
}

fn new() -> Result<Begun, LedgerError> {
    Ok(Begun::Ours(DeliveryProgress::default()))
}

/// Claims the entries 0 to 19 at once, then finishes them at once.
async fn claim_and_finish_twenty(ledger: &DynamoDbLedger) {
    let keys: Vec<_> = (0..20).map(key).collect();
    let begun = join_all(keys.iter().map(|key| ledger.begin(key, &key.object))).await;
    assert!(begun.iter().all(|begun| *begun == new()), "{begun:?}");
    let nothing = DeliveryProgress::default();
    let finish = |key| ledger.finish(key, &key.object, &nothing, position(7, 0));
    let finished = join_all(keys.iter().map(finish)).await;
    assert!(finished.iter().all(Result::is_ok), "{finished:?}");
    let again = join_all(keys.iter().map(|key| ledger.begin(key, "other"))).await;
    assert!(again.iter().all(|begun| *begun == Ok(Begun::Done)), "{again:?}");
}

#[tokio::test]
async fn new_entries_are_claimed_and_finished_together() {
    let world = World::new().await;
    claim_and_finish_twenty(&world.ledger).await;
    // The last of three rounds finds the entries, and an UpdateItem says that each is done.
    let (batches, updates) =
        (world.sandbox.calls("dynamodb", BATCH), world.sandbox.calls("dynamodb", "UpdateItem"));
    assert!(batches <= 6, "{batches} batches");
    assert_eq!(updates, 20);
    let keys: Vec<_> = (30..90).map(key).collect();
    let begun = join_all(keys.iter().map(|key| world.ledger.begin(key, "one"))).await;
    assert!(begun.iter().all(|begun| *begun == new()), "more entries than a call may have: {begun:?}");
}

#[tokio::test]
async fn an_entry_in_a_batch_is_like_any_other() {
    let world = World::new().await;
    let ledger = &world.ledger;
    assert_eq!(ledger.begin(&world.key, "one").await, new());
    let now = SystemTime::now();
    assert_eq!(ledger.begin(&world.key, "one").await, new(), "the lease is its own");
    assert!(matches!(ledger.begin(&world.key, "other").await, Ok(Begun::Busy(_))));
    let finished = ledger.finish(&world.key, "other", &progress(0, 0), position(9, 0)).await;
    assert_eq!(finished, world.lost());
    // An entry with progress has more to remove.
    let recorded = progress(5, 2);
    assert_eq!(ledger.checkpoint_at(&world.key, "one", &recorded, now).await, Ok(()));
    let finished = ledger.finish(&world.key, "one", &recorded, position(9, 0)).await;
    assert_eq!(finished, Ok(()));
    let shown = world.shown().await;
    assert!(shown.starts_with("done=true events=0 expires_at=") && shown.ends_with(" records=9"), "{shown}");
    // A repeated call changes nothing.
    assert_eq!(ledger.finish(&world.key, "one", &progress(0, 0), position(9, 0)).await, Ok(()));
    assert_eq!(world.shown().await, shown);
}

#[tokio::test]
async fn a_batch_writes_what_an_update_writes() {
    let world = World::new().await;
    let without_times = |shown: &str| {
        let words = shown.split(' ').map(|word| word.split_once('=').expect("name=value"));
        let words = words.map(|(name, value)| match name {
            "expires_at" | "lease_until" => name.to_owned(),
            _ => format!("{name}={value}"),
        });
        words.collect::<Vec<_>>()
    };
    assert_eq!(world.ledger.begin(&world.key, "one").await, new());
    let together = without_times(&world.shown().await);
    assert_eq!(world.ledger.finish(&world.key, "one", &progress(0, 0), position(7, 0)).await, Ok(()));
    let finished = without_times(&world.shown().await);
    let alone = World::new().await;
    assert_eq!(alone.begin("one", 0).await, new());
    assert_eq!(without_times(&alone.shown().await), together);
    assert_eq!(alone.finish("one", 7, 0).await, Ok(()));
    assert_eq!(without_times(&alone.shown().await), finished);
}

#[tokio::test]
async fn a_direct_batch_is_the_sdk_s() {
    let world = World::new().await;
    let (recording, base) = Recording::of(&world.account.sdk_config());
    let ledger = DynamoDbLedger::new(&base, settings(&world.provider.ledger_table));
    let send = async |key: &EntryKey| {
        recording.take("");
        let begun = ledger.begin(key, "one").await;
        let finished = match begun {
            Ok(Begun::Ours(_)) => {
                ledger.finish(key, "one", &DeliveryProgress::default(), position(7, 0)).await
            }
            _ => Ok(()),
        };
        (begun, finished, recording.take(BATCH))
    };
    let by_the_sdk = send(&key(1)).await;
    let direct = send(&key(2)).await;
    assert_eq!((&by_the_sdk.0, &by_the_sdk.1), (&new(), &Ok(())));
    assert_eq!((&direct.0, &direct.1), (&new(), &Ok(())));
    let are_direct = |sent: &[Sent]| sent.iter().map(|sent| sent.is_direct).collect::<Vec<_>>();
    // The second call of the SDK would have been the finish.
    assert_eq!((are_direct(&by_the_sdk.2), are_direct(&direct.2)), (vec![false, true], vec![true, true]));
    let plain = |sent: &Sent| {
        let mut body: serde_json::Value = serde_json::from_slice(&sent.body).expect("JSON");
        let parameters = body["Statements"][0]["Parameters"].as_array_mut().expect("an array");
        parameters[0] = "the object".into();
        for time in &mut parameters[3..] {
            assert!(time["N"].as_str().is_some_and(|time| time.len() >= 10), "{time}");
            *time = "a time".into();
        }
        Sent { body: body.to_string().into_bytes(), ..sent.clone().by_the_sdk() }
    };
    assert_eq!(plain(&direct.2[0]), plain(&by_the_sdk.2[0]));
    // The answers to statements that are not carried out.
    let again = send(&key(2)).await;
    assert_eq!((again.0, are_direct(&again.2)), (Ok(Begun::Done), vec![true]));
    let throttled = Effect::Error(ErrorAnswer::new(400, "ProvisionedThroughputExceededException"));
    let fault = Fault { times: Some(1), ..Fault::new("dynamodb", "PartiQLInsert", throttled) };
    world.sandbox.faults().add(fault);
    let (begun, _, sent) = send(&key(3)).await;
    assert!(matches!(begun, Err(LedgerError::Throttled(_))), "{begun:?}");
    assert_eq!(are_direct(&sent), [true]);
}

#[tokio::test]
async fn two_claims_of_one_entry_in_a_batch_have_one_winner() {
    let world = World::new().await;
    for number in 0..5 {
        let key = key(number);
        let begun = tokio::join!(world.ledger.begin(&key, "one"), world.ledger.begin(&key, "other"));
        let won = [&begun.0, &begun.1].into_iter().filter(|begun| **begun == new()).count();
        assert_eq!(won, 1, "{begun:?}");
    }
}

#[tokio::test]
async fn faults_of_batches_and_statements_change_no_answer() {
    let throttled = || ErrorAnswer::new(400, "ThrottlingException");
    let internal = || ErrorAnswer::new(500, "InternalServerError");
    for (operation, effect) in [
        (BATCH, Effect::After { error: None }),
        (BATCH, Effect::Error(throttled())),
        ("PartiQLInsert|PartiQLUpdate", Effect::Error(internal())),
        ("PartiQLInsert|PartiQLUpdate", Effect::After { error: Some(internal()) }),
    ] {
        let world = World::new().await;
        let fault = Fault::new("dynamodb", operation, effect.clone());
        let times = if operation == BATCH { Some(2) } else { None };
        world.sandbox.faults().add(Fault { times, probability: Some(0.5), ..fault });
        claim_and_finish_twenty(&world.ledger).await;
    }
}

#[tokio::test]
async fn a_throttled_statement_is_reported_as_throttling() {
    let world = World::new().await;
    let throttled = Effect::Error(ErrorAnswer::new(400, "ProvisionedThroughputExceededException"));
    world
        .sandbox
        .faults()
        .add(Fault { times: Some(1), ..Fault::new("dynamodb", "PartiQLInsert", throttled) });
    let begun = world.ledger.begin(&world.key, "one").await;
    assert!(matches!(begun, Err(LedgerError::Throttled(_))), "{begun:?}");
    assert_eq!(world.sandbox.calls("dynamodb", "UpdateItem"), 0, "the table is left alone");
    assert_eq!(world.ledger.begin(&world.key, "one").await, new());
}

#[tokio::test]
async fn without_permission_for_batches_each_entry_has_its_own_call() {
    let world = World::new().await;
    let policy = json!({
        "Version": "2012-10-17",
        "Statement": [{ "Effect": "Allow", "Action": "dynamodb:UpdateItem", "Resource": "*" }],
    });
    let more = [("Policy", &*policy.to_string())];
    let session = world.account.assume_role(&world.provider.worker_role_arn, "old", &more).await;
    let session = session.expect("the account may be the worker");
    let ledger = DynamoDbLedger::new(&session.sdk_config().into(), settings(&world.provider.ledger_table));
    claim_and_finish_twenty(&ledger).await;
    assert_eq!(world.sandbox.calls("dynamodb", BATCH), 1, "after the first denial no batch is tried");
}
