//! Missing groups and streams, and sequence tokens.

use super::*;
use crate::delivery::protocol::{CREATION_PAUSE, MAX_ROUNDS};

fn create_stream() -> SinkCall {
    SinkCall::CreateStream("s".into())
}

fn not_found() -> SinkError {
    SinkError::NotFound("not here".into())
}

#[tokio::test(start_paused = true)]
async fn a_known_stream_is_put_to_at_once() {
    let sinks = ready();
    let mut lane = lane(&sinks).await;
    deliver(&mut lane, &["a"]).await.expect("the record arrives");
    assert_eq!(sinks.calls(), [put("a", None)]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_stream_is_created_and_the_same_batch_put_again() {
    let sinks = MemorySinks::new();
    sinks.create(ACCOUNT_REGION, GROUP, &[]);
    let mut lane = lane(&sinks).await;
    deliver(&mut lane, &["a", "b"]).await.expect("both records arrive");
    // No group is created, so the customer's group keeps its retention.
    assert_eq!(sinks.calls(), [put("a", None), create_stream(), put("a", None), put("b", None)]);
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP), ["a", "b"]);
    assert_eq!(lane.tally().put.accepted, 2);
}

#[tokio::test(start_paused = true)]
async fn a_group_of_new_streams_is_created_first() {
    let (sinks, streams) = (MemorySinks::new(), Streams::new());
    let existing: Vec<_> = (20..40).map(|number| format!("pod-{number}")).collect();
    sinks.create(ACCOUNT_REGION, GROUP, &existing.iter().map(String::as_str).collect::<Vec<_>>());
    let calls = async |number: u32| {
        let before = sinks.calls().len();
        let mut lane = lane_into(&format!("pod-{number}"), &sinks, &streams, Oversize::Split).await;
        deliver(&mut lane, &["a"]).await.expect("the record arrives");
        sinks.calls().len() - before
    };
    let mut counts = Vec::new();
    for number in 0..40 {
        counts.push(calls(number).await);
    }
    assert_eq!(counts[..5], [3; 5], "put, create, put again");
    assert_eq!(
        counts[5..20],
        [3, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2, 2, 3, 2, 2],
        "create and put, but for samples"
    );
    assert_eq!(counts[20..], [2, 1, 2, 2, 2, 1, 2, 2, 2, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1], "these exist");
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP).len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_missing_group_is_created_with_its_retention() {
    let sinks = MemorySinks::new();
    let mut lane = lane(&sinks).await;
    deliver(&mut lane, &["a"]).await.expect("the record arrives");
    let create_group = SinkCall::CreateGroup(GROUP.into(), Some(30));
    let expected = [put("a", None), create_stream(), create_group, create_stream(), put("a", None)];
    assert_eq!(sinks.calls(), expected);
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_deleted_meanwhile_is_created_again() {
    let sinks = ready();
    sinks.demand_tokens();
    let streams = Streams::new();
    let mut first = lane_with(&sinks, &streams, Oversize::Split).await;
    deliver(&mut first, &["a"]).await.expect("the record arrives");
    sinks.delete_group(ACCOUNT_REGION, GROUP);
    let mut second = lane_with(&sinks, &streams, Oversize::Split).await;
    deliver(&mut second, &["b", "c"]).await.expect("both records arrive");
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP), ["b", "c"]);
    // The token of the deleted stream is forgotten.
    assert_eq!(sinks.calls()[5..], [put("b", None), put("c", Some("s-1"))]);
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_that_is_not_found_yet_is_waited_for() {
    let sinks = ready();
    (1..=4).for_each(|nth| sinks.fail(SinkOperation::Put, nth, not_found()));
    let mut lane = lane(&sinks).await;
    let start = Instant::now();
    deliver(&mut lane, &["a"]).await.expect("the record arrives in the end");
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP), ["a"]);
    assert_eq!(start.elapsed(), CREATION_PAUSE * (1 + 2 + 4));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_never_found_is_an_error() {
    let sinks = ready();
    sinks.fail_group(GROUP, not_found());
    let mut lane = lane(&sinks).await;
    assert_eq!(deliver(&mut lane, &["a"]).await, Err(not_found().into()));
    assert_eq!(sinks.count(SinkOperation::Put), MAX_ROUNDS as usize);
    assert_eq!((lane.tally().read, lane.tally().accounted()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_may_not_be_created_is_an_error() {
    let sinks = MemorySinks::new();
    let denied = SinkError::Denied("no logs:CreateLogGroup".into());
    sinks.fail(SinkOperation::CreateGroup, 1, denied.clone());
    let mut lane = lane(&sinks).await;
    assert_eq!(deliver(&mut lane, &["a"]).await, Err(denied.into()));
    assert_eq!((lane.tally().read, lane.tally().accounted()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_passed_on_to_the_next_batch_and_the_next_lane() {
    let sinks = ready();
    sinks.demand_tokens();
    let streams = Streams::new();
    for messages in [["a", "b"], ["c", "d"]] {
        let mut lane = lane_with(&sinks, &streams, Oversize::Split).await;
        deliver(&mut lane, &messages).await.expect("both records arrive");
    }
    let expected = [put("a", None), put("b", Some("s-1")), put("c", Some("s-2")), put("d", Some("s-3"))];
    assert_eq!(sinks.calls(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_invalid_token_is_replaced_by_the_expected_one() {
    let sinks = ready();
    sinks.demand_tokens();
    deliver(&mut lane(&sinks).await, &["a"]).await.expect("the record arrives");
    // This lane belongs to another worker, which does not know the token.
    let mut other = lane(&sinks).await;
    deliver(&mut other, &["b", "c"]).await.expect("both records arrive");
    let expected = [put("a", None), put("b", None), put("b", Some("s-1")), put("c", Some("s-2"))];
    assert_eq!(sinks.calls(), expected);
    assert_eq!(other.tally().batches, 2);

    let sinks = ready();
    sinks.fail(SinkOperation::Put, 1, SinkError::InvalidSequenceToken { expected: Some("t\"1".into()) });
    sinks.fail(SinkOperation::Put, 2, SinkError::InvalidSequenceToken { expected: None });
    deliver(&mut lane(&sinks).await, &["a"]).await.expect("the record arrives");
    assert_eq!(sinks.calls(), [put("a", None), put("a", Some("t\"1")), put("a", None)]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_never_right_is_an_error() {
    let sinks = ready();
    let error = SinkError::InvalidSequenceToken { expected: Some("t".into()) };
    (1..=20).for_each(|nth| sinks.fail(SinkOperation::Put, nth, error.clone()));
    let mut lane = lane(&sinks).await;
    assert_eq!(deliver(&mut lane, &["a"]).await, Err(error.into()));
    assert_eq!(sinks.count(SinkOperation::Put), MAX_ROUNDS as usize);
}

#[tokio::test(start_paused = true)]
async fn data_already_accepted_is_accepted() {
    let sinks = ready();
    sinks.store_but_fail(1, SinkError::DataAlreadyAccepted { expected: Some("next".into()) });
    let mut lane = lane(&sinks).await;
    deliver(&mut lane, &["a", "b"]).await.expect("both records arrive");
    assert_eq!(sinks.calls(), [put("a", None), put("b", Some("next"))]);
    assert_eq!((lane.tally().put.accepted, lane.tally().batches), (2, 2));
}
