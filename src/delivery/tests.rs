//! Tests lanes with the sink in memory. The sink refuses a put while another one into the same stream is open, and batches that
//! break a limit.

mod protocol;

use std::sync::Arc;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::{
    batch::{MAX_BATCH_EVENTS, MAX_MESSAGE_BYTES, RejectedEvents},
    event::ObjectRef,
    ledger::{
        claim::{Claim, ClaimSettings, Claimed, Claims, Metrics},
        memory::MemoryLedger,
    },
    name::StreamTemplate,
    object::trail::Trail,
    records::{EscapedMessage, Record},
    sink::memory::{MemorySink, MemorySinks, SinkCall, SinkOperation},
    tenant::{CloudWatch, Mode, Oversize},
};

const ACCOUNT: &str = "222222222222";
const SETTINGS: ClaimSettings =
    ClaimSettings { lease: Duration::from_secs(60), out_of_reach_after: Duration::from_secs(120) };
const REGION: &str = "us-east-1";
const ACCOUNT_REGION: &str = "222222222222/us-east-1";
const GROUP: &str = "/rosa/acme";
/// Events that are so far apart never share a put.
const APART: i64 = 2 * 24 * 3600 * 1000;

fn destination(oversize: Oversize) -> CloudWatch {
    CloudWatch {
        role: "arn:aws:iam::222222222222:role/customer-logs".parse().expect("a role's ARN"),
        external_id: None,
        session_tags: false,
        source_identity: false,
        log_group_name: GROUP.into(),
        log_stream_name: StreamTemplate::default(),
        retention_days: Some(30),
        oversize,
    }
}

/// A claim without a ledger.
async fn unguarded() -> Arc<Claim<MemoryLedger>> {
    claim(&Claims::new(None, SETTINGS, Metrics::default())).await
}

async fn claim(claims: &Claims<MemoryLedger>) -> Arc<Claim<MemoryLedger>> {
    let object = ObjectRef { etag: Some("e".into()), ..ObjectRef::default() };
    match claims.claim(&object, "cloudwatch").await.expect("the ledger answers") {
        Claimed::Ours(claim) => claim,
        other => panic!("ours, not {other:?}"),
    }
}

async fn lane_with(
    sinks: &MemorySinks,
    streams: &Streams,
    oversize: Oversize,
) -> Lane<MemorySink, MemoryLedger> {
    lane_into("s", sinks, streams, oversize).await
}

async fn lane_into(
    stream: &str,
    sinks: &MemorySinks,
    streams: &Streams,
    oversize: Oversize,
) -> Lane<MemorySink, MemoryLedger> {
    let key = StreamKey {
        mode: Mode::Live,
        account: ACCOUNT.into(),
        region: REGION.into(),
        log_group_name: GROUP.into(),
        log_stream_name: stream.into(),
    };
    Lane::new(
        sinks.sink(ACCOUNT, REGION),
        unguarded().await,
        &destination(oversize),
        key,
        None,
        Trail::default(),
        &shared(streams),
    )
}

fn shared(streams: &Streams) -> Shared {
    Shared {
        streams: streams.clone(),
        buffers: BufferPool::new(2),
        max_batch_events: MAX_BATCH_EVENTS,
        metrics: super::Metrics::default(),
    }
}

async fn lane(sinks: &MemorySinks) -> Lane<MemorySink, MemoryLedger> {
    lane_with(sinks, &Streams::new(), Oversize::Split).await
}

/// Accounts with the group and the stream in them.
fn ready() -> MemorySinks {
    let sinks = MemorySinks::new();
    sinks.create(ACCOUNT_REGION, GROUP, &["s"]);
    sinks
}

fn record(timestamp: i64, text: &str) -> Record<'static> {
    Record {
        index: 0,
        timestamp: Some(timestamp),
        message: EscapedMessage::escape(text),
        mended: false,
        log_stream: None,
        text: None,
    }
}

async fn push(
    lane: &mut Lane<MemorySink, MemoryLedger>,
    timestamp: i64,
    text: &str,
) -> Result<(), LaneError> {
    lane.push(&record(timestamp, text), 0).await
}

/// Pushes messages, each into its own batch, and flushes.
async fn deliver(lane: &mut Lane<MemorySink, MemoryLedger>, messages: &[&str]) -> Result<(), LaneError> {
    for (at, message) in (0..).zip(messages) {
        push(lane, at * APART, message).await?;
    }
    lane.flush().await
}

/// A message that is so long that two such messages do not fit into one batch.
fn half_a_batch(text: &str) -> String {
    text.to_owned() + &" ".repeat(MAX_MESSAGE_BYTES / 2)
}

/// Messages in the group, without their padding.
fn found(sinks: &MemorySinks) -> Vec<String> {
    sinks.messages(ACCOUNT_REGION, GROUP).into_iter().map(|message| message.trim_end().to_owned()).collect()
}

fn put(message: &str, token: Option<&str>) -> SinkCall {
    SinkCall::Put("s".into(), vec![message.into()], token.map(str::to_owned))
}

#[tokio::test(start_paused = true)]
async fn one_batch_is_on_its_way_while_the_next_fills() {
    let sinks = ready();
    sinks.hold();
    let mut lane = lane(&sinks).await;
    let [a, b, c] = ["a", "b", "c"].map(half_a_batch);
    push(&mut lane, 0, &a).await.expect("the lane takes the record");
    // This push sends `a` and does not wait for the answer, which cannot come yet. `b` and `b2` fill the next batch.
    let second = tokio::time::timeout(Duration::from_secs(60), push(&mut lane, 1, &b)).await;
    second.expect("the push does not wait").expect("the lane takes the record");
    sinks.until_puts(1).await;
    push(&mut lane, 1, "b2").await.expect("the lane takes the record");
    {
        // `c` needs a third batch, which waits for `a`'s answer.
        let third = push(&mut lane, 2, &c);
        tokio::pin!(third);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut third).await.is_err());
        assert_eq!(sinks.calls(), [put(&a, None)]);
        sinks.release(1);
        third.await.expect("the lane takes the record");
    }
    sinks.until_puts(2).await;
    assert_eq!(found(&sinks), ["a"]);
    sinks.release(2);
    lane.flush().await.expect("all records arrive");
    assert_eq!(found(&sinks), ["a", "b", "b2", "c"]);
    assert_eq!(lane.tally().put.accepted, 4);
}

#[tokio::test(start_paused = true)]
async fn reading_and_putting_take_the_longer_of_both_times() {
    let sinks = ready();
    sinks.put_time(Duration::from_secs(1));
    let mut lane = lane(&sinks).await;
    let start = Instant::now();
    for at in 0..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        push(&mut lane, at, &half_a_batch("m")).await.expect("the lane takes the record");
    }
    lane.flush().await.expect("all records arrive");
    // Without the overlap it would take 20 s.
    assert_eq!(start.elapsed(), Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn batches_are_in_the_object_s_order_and_their_events_in_order_of_time() {
    let sinks = ready();
    sinks.put_time(Duration::from_millis(10));
    let mut lane = lane(&sinks).await;
    // A later batch may have earlier events.
    let long = |text: &str| half_a_batch(text);
    for (timestamp, text) in [
        (5, long("b")),
        (3, "a".to_owned()),
        (9 * APART, "d".to_owned()),
        (5, "c".to_owned()),
        (2 * APART, long("e")),
        (0, long("z")),
    ] {
        push(&mut lane, timestamp, &text).await.expect("the lane takes the record");
    }
    lane.flush().await.expect("all records arrive");
    assert_eq!(found(&sinks), ["a", "b", "c", "e", "d", "z"]);
}

#[tokio::test(start_paused = true)]
async fn two_lanes_into_one_stream_take_turns() {
    let sinks = ready();
    sinks.demand_tokens();
    sinks.put_time(Duration::from_secs(1));
    let streams = Streams::new();
    let (mut one, mut two) = (
        lane_with(&sinks, &streams, Oversize::Split).await,
        lane_with(&sinks, &streams, Oversize::Split).await,
    );
    let start = Instant::now();
    // The sink panics if two puts overlap.
    let results = tokio::join!(deliver(&mut one, &["a", "b", "c"]), deliver(&mut two, &["1", "2", "3"]));
    assert_eq!(results, (Ok(()), Ok(())));
    assert_eq!((start.elapsed(), sinks.count(SinkOperation::Put)), (Duration::from_secs(6), 6));
    let (letters, digits): (Vec<_>, Vec<_>) =
        sinks.messages(ACCOUNT_REGION, GROUP).into_iter().partition(|message| message.as_str() >= "a");
    assert_eq!((letters.concat(), digits.concat()), ("abc".to_owned(), "123".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn streams_of_other_accounts_do_not_wait_for_each_other() {
    let sinks = ready();
    sinks.create("333333333333/us-east-1", GROUP, &["s"]);
    sinks.put_time(Duration::from_secs(1));
    let streams = Streams::new();
    let mut one = lane_with(&sinks, &streams, Oversize::Split).await;
    let key = StreamKey { account: "333333333333".into(), ..one.stream().clone() };
    let sink = sinks.sink("333333333333", REGION);
    let mut two = Lane::new(
        sink,
        unguarded().await,
        &destination(Oversize::Split),
        key,
        None,
        Trail::default(),
        &shared(&streams),
    );
    let start = Instant::now();
    let results = tokio::join!(deliver(&mut one, &["a", "b"]), deliver(&mut two, &["1", "2"]));
    assert_eq!((results, start.elapsed()), ((Ok(()), Ok(())), Duration::from_secs(2)));
}

#[tokio::test(start_paused = true)]
async fn long_messages_are_split_at_characters_and_count_once() {
    let sinks = ready();
    let mut lane = lane(&sinks).await;
    // A character of two bytes lies across the first boundary, and one of four bytes across the second.
    let text = format!("x{}\"{}", "é".repeat(MAX_MESSAGE_BYTES / 2), "😀".repeat(MAX_MESSAGE_BYTES / 4 + 1));
    push(&mut lane, 7, &text).await.expect("the lane takes the record");
    push(&mut lane, 8, "after").await.expect("the lane takes the record");
    lane.flush().await.expect("all records arrive");
    let events = sinks.events(ACCOUNT_REGION, GROUP);
    let pieces: Vec<_> = events.iter().filter(|(timestamp, _)| *timestamp == 7).collect();
    assert_eq!(pieces.len(), 3);
    assert!(pieces.iter().all(|(_, piece)| piece.len() <= MAX_MESSAGE_BYTES));
    assert!(
        pieces.iter().map(|(_, piece)| piece.as_str()).collect::<String>() == text,
        "the pieces are the text"
    );
    assert_eq!(events.last(), Some(&(8, "after".to_owned())));
    let tally = lane.tally();
    assert_eq!((tally.read, tally.put.accepted, tally.oversize), (2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn long_messages_are_truncated_where_the_tenant_wants_it() {
    let sinks = ready();
    let mut lane = lane_with(&sinks, &Streams::new(), Oversize::Truncate).await;
    let text = format!("x{}", "é".repeat(MAX_MESSAGE_BYTES));
    push(&mut lane, 7, &text).await.expect("the lane takes the record");
    push(&mut lane, 8, &"y".repeat(MAX_MESSAGE_BYTES)).await.expect("the lane takes the record");
    lane.flush().await.expect("all records arrive");
    let messages = sinks.messages(ACCOUNT_REGION, GROUP);
    assert_eq!(
        messages.iter().map(String::len).collect::<Vec<_>>(),
        [MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES]
    );
    assert!(text.starts_with(&messages[0]));
    let tally = lane.tally();
    assert_eq!((tally.read, tally.put.accepted, tally.oversize), (2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn empty_messages_are_skipped_and_undated_ones_get_the_object_s_time() {
    let sinks = ready();
    let mut lane = lane(&sinks).await;
    for (timestamp, text) in [(None, "a"), (Some(5), ""), (None, ""), (Some(9), "b")] {
        let record = Record { timestamp, ..record(0, text) };
        lane.push(&record, 7).await.expect("the lane takes the record");
    }
    lane.flush().await.expect("all records arrive");
    assert_eq!(sinks.events(ACCOUNT_REGION, GROUP), [(7, "a".to_owned()), (9, "b".to_owned())]);
    let tally = lane.tally();
    assert_eq!((tally.read, tally.empty, tally.undated, tally.put.accepted), (4, 2, 2, 2));
    assert_eq!((tally.accounted(), tally.bytes, tally.batches), (4, 2 + 2 * 26, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_of_empty_messages_is_not_put() {
    let sinks = ready();
    let mut lane = lane(&sinks).await;
    deliver(&mut lane, &["", ""]).await.expect("there is nothing to put");
    assert_eq!((sinks.count(SinkOperation::Put), lane.tally().empty), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_stops_the_lane() {
    let sinks = ready();
    let throttled = SinkError::Throttled("slow down".into());
    sinks.fail(SinkOperation::Put, 2, throttled.clone());
    let mut lane = lane(&sinks).await;
    let messages = ["a", "b", "c", "d"].map(half_a_batch);
    assert_eq!(deliver(&mut lane, &messages.each_ref().map(String::as_str)).await, Err(throttled.into()));
    // `c` was ready when `b` failed, and must not be put.
    assert_eq!(sinks.calls(), [put(&messages[0], None), put(&messages[1], None)]);
    assert_eq!(lane.tally().put.accepted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_last_batch_is_reported() {
    for (error, puts) in [
        (SinkError::Unavailable("503".into()), 1),
        (SinkError::Denied("no".into()), 1),
        // Before an event is blamed, it is put a second time.
        (SinkError::Refused("InvalidParameterException".into()), 2),
    ] {
        let sinks = ready();
        (1..=puts).for_each(|nth| sinks.fail(SinkOperation::Put, nth, error.clone()));
        assert_eq!(deliver(&mut lane(&sinks).await, &["a"]).await, Err(error.into()));
        assert_eq!(sinks.count(SinkOperation::Put), puts, "only the queue's redelivery retries");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lane_cancels_its_put() {
    let sinks = ready();
    sinks.hold();
    let streams = Streams::new();
    let mut dropped = lane_with(&sinks, &streams, Oversize::Split).await;
    push(&mut dropped, 0, &half_a_batch("a")).await.expect("the lane takes the record");
    let long = half_a_batch("b");
    let second = tokio::time::timeout(Duration::from_secs(60), push(&mut dropped, 1, &long)).await;
    second.expect("the push does not wait").expect("the lane takes the record");
    sinks.until_puts(1).await;
    drop(dropped);
    let mut next = lane_with(&sinks, &streams, Oversize::Split).await;
    sinks.release(9);
    deliver(&mut next, &["c"]).await.expect("the stream is free");
    assert_eq!(sinks.messages(ACCOUNT_REGION, GROUP), ["c"]);
}

/// A record of a generated object.
fn any_record() -> impl Strategy<Value = (Option<i64>, String)> {
    let text = prop_oneof![
        1 => Just(String::new()).boxed(),
        8 => ".{1,20}".boxed(),
        1 => (1_usize..2_500_000, "[a\u{1}\"é]").prop_map(|(len, text)| text.repeat(len / text.len() + 1)).boxed(),
    ];
    (proptest::option::of(0..3 * APART), text)
}

/// Cuts text at the limit of one event, between characters.
fn cut(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, tail) = rest.split_at(rest.floor_char_boundary(MAX_MESSAGE_BYTES));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_record_is_accounted_for_and_arrives_once(
        records in proptest::collection::vec(any_record(), 0..40),
        rejected in proptest::collection::vec((1_usize..8, 0_usize..5, 0_usize..5), 0..4),
        truncate in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let sinks = ready();
            for (nth, too_old, expired) in rejected {
                let rejected = RejectedEvents { too_old_end: Some(too_old), expired_end: Some(expired), too_new_start: None };
                sinks.reject(nth, rejected);
            }
            let oversize = if truncate { Oversize::Truncate } else { Oversize::Split };
            let mut lane = lane_with(&sinks, &Streams::new(), oversize).await;
            let (mut sent, mut empty) = (Vec::new(), 0);
            for (timestamp, text) in &records {
                let record = Record { timestamp: *timestamp, ..record(0, text) };
                lane.push(&record, APART).await.expect("the lane takes the record");
                match text.is_empty() {
                    true => empty += 1,
                    false if truncate => sent.extend(cut(text).take(1)),
                    false => sent.extend(cut(text)),
                }
            }
            lane.flush().await.expect("all records arrive");
            let tally = *lane.tally();
            assert_eq!((tally.read, tally.accounted()), (records.len() as u64, records.len() as u64));
            assert_eq!(tally.empty, empty);
            assert_eq!(tally.batches, sinks.count(SinkOperation::Put) as u64);
            let calls = sinks.calls();
            let mut put: Vec<&str> = calls
                .iter()
                .flat_map(|call| match call {
                    SinkCall::Put(_, messages, _) => messages.as_slice(),
                    other => panic!("the stream was there: {other:?}"),
                })
                .map(String::as_str)
                .collect();
            put.sort_unstable();
            sent.sort_unstable();
            assert!(put == sent, "{} events instead of {}", put.len(), sent.len());
        });
    }
}
