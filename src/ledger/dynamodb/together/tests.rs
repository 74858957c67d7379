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
    aws::direct::{
        DirectCalls,
        testing::{Recording, Sent},
    },
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

/// A ledger, and its requests.
struct Watched {
    ledger: DynamoDbLedger,
    direct: DirectCalls,
    recording: Recording,
}

impl Watched {
    fn new(world: &World) -> Self {
        let (recording, base) = Recording::of(&world.account.sdk_config());
        let settings = settings(&world.provider.ledger_table);
        let direct =
            JsonCalls::new(base.calls(), "DynamoDB", "DynamoDB_20120810.BatchExecuteStatement", None);
        let client = Client::from_conf(base.dynamodb().interceptor(direct.interceptor()).build());
        let calls = direct.interceptor();
        let together = Together::start(&client, direct, &settings);
        Self { ledger: DynamoDbLedger { client, settings, together }, direct: calls, recording }
    }

    async fn begin(&self, key: &EntryKey) -> (Result<Begun, LedgerError>, Vec<Sent>) {
        self.recording.take("");
        let begun = self.ledger.begin(key, "one").await;
        (begun, self.recording.take(BATCH))
    }

    async fn finish(&self, key: &EntryKey) -> (Result<(), LedgerError>, Vec<Sent>) {
        self.recording.take("");
        let finished = self.ledger.finish(key, "one", &DeliveryProgress::default(), position(7, 0)).await;
        (finished, self.recording.take(BATCH))
    }
}

fn are_direct(sent: &[Sent]) -> Vec<bool> {
    sent.iter().map(|sent| sent.is_direct).collect()
}

#[tokio::test]
async fn a_direct_batch_is_the_sdk_s() {
    let world = World::new().await;
    let watched = Watched::new(&world);
    let mut all = Vec::new();
    for number in [1, 2] {
        let is_direct = number == 2;
        let key = key(number);
        let (begun, claim) = watched.begin(&key).await;
        if !is_direct {
            watched.direct.pauses().begin(&world.provider.ledger_table, Duration::ZERO);
        }
        let (finished, end) = watched.finish(&key).await;
        watched.direct.pauses().clear();
        assert_eq!((begun, finished), (new(), Ok(())));
        assert_eq!((are_direct(&claim), are_direct(&end)), (vec![is_direct], vec![is_direct]));
        // All keys are equally long, and so are all times.
        let plain = [claim, end].concat().into_iter().map(|sent| {
            let body: serde_json::Value = serde_json::from_slice(&sent.body).expect("JSON");
            let mut parameters = body["Statements"][0]["Parameters"].to_string();
            parameters = parameters.replace(&key.object, "the object");
            let digits = |text: &str| text.len() >= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
            let words = parameters.split('"').map(|word| if digits(word) { "a time" } else { word });
            let body =
                format!("{} {}", body["Statements"][0]["Statement"], words.collect::<Vec<_>>().join("'"));
            Sent { body: body.into_bytes(), ..sent.by_the_sdk() }
        });
        all.push(plain.collect::<Vec<_>>());
    }
    assert_eq!(all[0], all[1]);
}

#[tokio::test]
async fn the_answers_to_a_direct_batch_mean_what_the_sdk_s_mean() {
    let world = World::new().await;
    let watched = Watched::new(&world);
    let fail = |operation: &str, effect| {
        let fault = Fault { times: Some(1), ..Fault::new("dynamodb", operation, effect) };
        world.sandbox.faults().add(fault);
    };
    let error = |code: &str| Effect::Error(ErrorAnswer::new(400, code));
    assert_eq!(watched.begin(&key(1)).await.0, new());
    assert_eq!(watched.finish(&key(1)).await.0, Ok(()));
    let (begun, sent) = watched.begin(&key(1)).await;
    assert_eq!((begun, are_direct(&sent)), (Ok(Begun::Done), vec![true]));
    fail("PartiQLInsert", error("ProvisionedThroughputExceededException"));
    let (begun, sent) = watched.begin(&key(2)).await;
    assert!(matches!(begun, Err(LedgerError::Throttled(_))), "{begun:?}");
    assert_eq!(are_direct(&sent), [true]);
    // Whole batches.
    fail(BATCH, error("ThrottlingException"));
    let (begun, sent) = watched.begin(&key(3)).await;
    assert_eq!((begun, are_direct(&sent)), (new(), vec![true, false]), "the SDK repeats it");
    watched.direct.pauses().clear();
    let denied = Fault::new("dynamodb", BATCH, error("AccessDeniedException"));
    world.sandbox.faults().add(denied);
    let (begun, sent) = watched.begin(&key(4)).await;
    assert_eq!((begun, are_direct(&sent)), (new(), vec![true, false]), "an UpdateItem does it");
    let (begun, sent) = watched.begin(&key(5)).await;
    assert_eq!((begun, are_direct(&sent)), (new(), vec![]), "no batch is tried again");
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
