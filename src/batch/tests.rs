//! Checks batches against the service's rules. The checks do not know how a batch is built.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn head() -> BatchHead {
    BatchHead::new("/logs/a\"b", "stream")
}

/// Buffers with the contents of an earlier batch.
fn used() -> Buffers {
    let event = EventSpan { timestamp: 1, start: 0, end: 7, record: 9, completes_record: true };
    Buffers { body: b"garbage".to_vec(), events: vec![event; 3] }
}

/// Fills batches one after another, as a delivery does.
fn batches(events: &[(i64, String)]) -> Vec<ClosedBatch> {
    let mut closed = Vec::new();
    let mut open = Batch::new(&head());
    for (record, (timestamp, text)) in (100..).zip(events) {
        let message = EscapedMessage::escape(text);
        if !open.takes(*timestamp, message.len()) {
            closed.push(open.close(used()));
        }
        open.push(record, *timestamp, &message, true);
    }
    closed.push(open.close(used()));
    closed.retain(|batch| !batch.is_empty());
    closed
}

/// The bodies of a batch's requests, in order.
fn bodies(batch: &mut ClosedBatch) -> Vec<Bytes> {
    let mut from = 0;
    std::iter::from_fn(|| {
        let part = batch.part(from);
        from = part.end;
        (!part.is_empty()).then(|| batch.seal(&part, None))
    })
    .collect()
}

/// The body of a batch that is one request.
fn body(batch: &mut ClosedBatch, sequence_token: Option<&str>) -> Bytes {
    let part = batch.part(0);
    assert_eq!(part, 0..batch.len());
    batch.seal(&part, sequence_token)
}

/// Reads a body as the service would and checks every rule of PutLogEvents.
fn check_legal(body: &[u8]) -> Vec<(i64, String)> {
    let request: Value = serde_json::from_slice(body).expect("the body is JSON");
    assert_eq!(request["logGroupName"], "/logs/a\"b");
    assert_eq!(request["logStreamName"], "stream");
    let events: Vec<(i64, String)> = request["logEvents"]
        .as_array()
        .expect("a list of events")
        .iter()
        .map(|event| {
            assert_eq!(event.as_object().expect("an object").len(), 2);
            let timestamp = event["timestamp"].as_i64().expect("a number");
            (timestamp, event["message"].as_str().expect("a string").to_owned())
        })
        .collect();
    assert!((1..=10_000).contains(&events.len()), "{} events", events.len());
    let bytes: usize = events.iter().map(|(_, message)| message.len() + 26).sum();
    assert!(bytes <= 1_048_576, "{bytes} bytes");
    assert!(events.iter().all(|(_, message)| !message.is_empty()));
    assert!(events.is_sorted_by_key(|(timestamp, _)| *timestamp), "not chronological");
    let (first, last) = (events[0].0, events[events.len() - 1].0);
    assert!(last - first <= 24 * 3600 * 1000, "{} ms", last - first);
    events
}

#[test]
fn a_batch_may_be_exactly_full_and_no_fuller() {
    let half = "x".repeat(MAX_BATCH_BYTES / 2 - EVENT_OVERHEAD);
    let events = vec![(1, half.clone()), (2, half.clone()), (3, "y".to_owned())];
    let mut closed = batches(&events);
    assert_eq!(closed.iter().map(ClosedBatch::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(closed[0].bytes(), MAX_BATCH_BYTES);
    check_legal(&body(&mut closed[0], None));
    assert_eq!(closed[0].fill(&(0..2)), 1.0);
    let one_more = vec![(1, half.clone()), (2, half + "x")];
    assert_eq!(batches(&one_more).len(), 2);
    assert_eq!(batches(&[(1, "z".repeat(MAX_MESSAGE_BYTES))]).len(), 1);
    assert_eq!(MAX_MESSAGE_BYTES, 1_048_550);
    let many: Vec<_> = (0..10_001).map(|at| (at, "m".to_owned())).collect();
    assert_eq!(batches(&many).iter().map(ClosedBatch::len).collect::<Vec<_>>(), [10_000, 1]);
}

#[test]
fn limits_count_unescaped_bytes() {
    // A control character is one byte for the limit and six in the body.
    let controls = "\u{1}".repeat(MAX_MESSAGE_BYTES);
    let mut closed = batches(&[(1, controls)]);
    assert_eq!(closed.len(), 1);
    let body = body(&mut closed[0], None);
    assert!(body.len() > 6 * MAX_MESSAGE_BYTES);
    check_legal(&body);
}

#[test]
fn a_request_spans_a_day_and_no_more() {
    let day = 86_400_000;
    for (events, expected) in [
        (vec![0, day], vec![2]),
        (vec![day, 0], vec![2]),
        (vec![0, day + 1], vec![1, 1]),
        (vec![day + 1, 0], vec![1, 1]),
        (vec![0, 5 * day, 1, 5 * day + 1, 2, -9 * day], vec![1, 1, 2, 2]),
        ((0..500).map(|turn| turn - turn % 3 * 2 * day).collect(), vec![166, 167, 167]),
        // At first, time only goes forward, so the first batches hold one day each.
        ((0..500).map(|turn| turn + turn % 3 * 2 * day).collect(), vec![1, 1, 166, 166, 166]),
        (vec![i64::MIN / 2, 0, i64::MAX / 2], vec![1, 1, 1]),
    ] {
        let events: Vec<_> = events.into_iter().map(|at| (at, "m".to_owned())).collect();
        let mut closed = batches(&events);
        let sent = closed.iter_mut().flat_map(bodies);
        let found: Vec<_> = sent.map(|body| check_legal(&body).len()).collect();
        assert_eq!(found, expected, "{events:?}");
    }
}

#[test]
fn events_that_only_go_forward_make_a_batch_for_each_day() {
    let of = |times: &[i64]| {
        let events: Vec<_> = times.iter().map(|at| (*at, "m".to_owned())).collect();
        batches(&events).iter().map(ClosedBatch::len).collect::<Vec<_>>()
    };
    assert_eq!(of(&[0, 1, DAY + 2]), [2, 1]);
    assert_eq!(of(&[DAY + 2, 0, DAY + 3]), [3], "the batch gathers days once an event came late");
}

#[test]
fn a_batch_can_be_limited_to_fewer_events() {
    let mut batch = Batch::new(&head()).of_at_most(2);
    batch.push(0, 1, &EscapedMessage::escape("a"), true);
    assert!(batch.takes(1, 1));
    batch.push(1, 1, &EscapedMessage::escape("b"), true);
    assert!(!batch.takes(1, 1));
    assert_eq!(Batch::new(&head()).of_at_most(usize::MAX).max_events, MAX_BATCH_EVENTS);
}

#[test]
fn the_body_grows_in_few_steps_and_is_copied_only_to_sort_it() {
    let (mut batch, mut record) = (Batch::new(&head()), 0);
    let mut add = |batch: &mut Batch, text: &str| {
        record += 1;
        batch.push(record, 1, &EscapedMessage::escape(text), true);
        batch.body.capacity()
    };
    assert_eq!(add(&mut batch, &"x".repeat(2_000)), 65_536);
    assert_eq!(add(&mut batch, &"x".repeat(62_000)), 65_536, "there is still room");
    assert_eq!(add(&mut batch, &"x".repeat(2_000)), 1_310_720);
    // Control characters have six bytes in the body.
    let needed = batch.body.len() + 6 * 300_000 + EVENT_FRAME;
    let grown = add(&mut batch, &"\u{1}".repeat(300_000));
    assert_eq!(grown, needed + needed / 4);
    let start = batch.body.as_ptr();
    let closed = batch.close(Buffers::default());
    assert_eq!(closed.body.as_ptr(), start, "the events were in order");
    assert_eq!(closed.into_buffers().body.capacity(), grown);
}

#[test]
fn an_open_batch_gives_its_buffers_back_and_is_empty_then() {
    let mut batch = Batch::new(&head());
    assert!(batch.is_empty() && batch.close(used()).is_empty());
    batch.push(0, 1, &EscapedMessage::escape("a"), true);
    assert!(!batch.is_empty());
    let Buffers { body, events } = batch.take_buffers();
    assert_eq!((body.capacity(), events.len()), (SMALL_BODY, 1));
    assert!(batch.is_empty());
}

#[test]
fn a_batch_makes_at_most_one_request_for_each_day_that_is_stored() {
    let day = 86_400_000;
    for (days, expected) in [(16, vec![16]), (17, vec![16, 1]), (40, vec![16, 16, 8])] {
        let events: Vec<_> = (0..days).map(|at| (-at * (day + 1), "m".to_owned())).collect();
        let requests: Vec<_> = batches(&events).iter_mut().map(|batch| bodies(batch).len()).collect();
        assert_eq!(requests, expected);
    }
    // Events from the whole range of time that the service stores, in no order.
    let now = 1_795_000_000_123;
    let turns = |turn: i64| now - 14 * day + (turn * 7_654_321).rem_euclid(14 * day + day / 12);
    let latest = [now + day / 12, now - 14 * day].into_iter();
    let events: Vec<_> = latest.chain((0..9_000).map(turns)).map(|at| (at, "m".to_owned())).collect();
    let mut closed = batches(&events);
    assert_eq!(closed.len(), 1);
    let requests = bodies(&mut closed[0]).len();
    assert!((14..=MAX_BATCH_DAYS).contains(&requests), "{requests}");
}

#[test]
fn a_request_is_as_full_as_its_bytes_or_its_events() {
    let close_to =
        |found: f64, expected: f64| assert!((found - expected).abs() < 0.001, "{found}, not {expected}");
    let many: Vec<_> = (0..5000).map(|_| (1, String::new())).collect();
    close_to(batches(&many)[0].fill(&(0..5000)), 0.5);
    close_to(batches(&many)[0].fill(&(0..50)), 0.005);
    let long: Vec<_> = (0..4).map(|_| (1, "x".repeat(MAX_BATCH_BYTES / 8))).collect();
    close_to(batches(&long)[0].fill(&(0..4)), 0.5);
    close_to(batches(&long)[0].fill(&(2..3)), 0.125);
    assert_eq!(batches(&long)[0].fill(&(0..0)), 0.0);
}

#[test]
fn equal_timestamps_keep_their_order() {
    let events: Vec<_> =
        [(5, "a"), (3, "b"), (5, "c"), (3, "d")].map(|(at, text)| (at, text.to_owned())).into();
    let sent = check_legal(&body(&mut batches(&events)[0], None));
    assert_eq!(sent.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["b", "d", "a", "c"]);
}

#[test]
fn the_body_has_a_token_that_can_be_replaced() {
    let mut batch = batches(&[(1, "m".to_owned())]).remove(0);
    for (token, expected) in
        [(None, Value::Null), (Some("4\"9"), "4\"9".into()), (Some("5"), "5".into()), (None, Value::Null)]
    {
        let body = body(&mut batch, token);
        check_legal(&body);
        let request: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(request["sequenceToken"], expected);
    }
    // The first body is still held while the second is made.
    let (first, second) = (body(&mut batch, Some("a")), body(&mut batch, Some("b")));
    assert!(first.ends_with(b"\"a\"}") && second.ends_with(b"\"b\"}"));
}

fn rejections(part: Part, rejected: &RejectedEvents) -> Rejections {
    let mut rejections = Rejections::default();
    rejections.add(&part, rejected);
    rejections
}

#[test]
fn rejected_indices_are_read_exactly() {
    let events: Vec<_> = (0..10).map(|at| (at, "m".to_owned())).collect();
    let batch = batches(&events).remove(0);
    let check = |too_old, expired, too_new, expected: [u64; 4]| {
        let rejected = RejectedEvents { too_new_start: too_new, too_old_end: too_old, expired_end: expired };
        let tally = batch.tally(10, &rejections(0..10, &rejected));
        assert_eq!([tally.too_old, tally.expired, tally.accepted, tally.too_new], expected);
        // Each event's timestamp is its index.
        let stored = (0..10).filter(|index| rejected.reason(*index).is_none());
        let newest = batch.newest(10, &rejections(0..10, &rejected));
        assert_eq!(newest, stored.max().map(|index| index as i64));
    };
    check(None, None, None, [0, 0, 10, 0]);
    check(Some(3), None, None, [3, 0, 7, 0]);
    check(None, Some(2), None, [0, 2, 8, 0]);
    check(Some(2), Some(5), Some(8), [2, 3, 3, 2]);
    check(None, None, Some(0), [0, 0, 0, 10]);
    check(Some(10), None, Some(10), [10, 0, 0, 0]);
    check(Some(5), Some(3), None, [5, 0, 5, 0]);
    // Indices count within the request, which may be a part of the batch.
    let mut several = rejections(2..5, &RejectedEvents { too_old_end: Some(1), ..RejectedEvents::default() });
    several.refuse(5);
    several.add(&(6..10), &RejectedEvents { too_new_start: Some(3), ..RejectedEvents::default() });
    let expected = BatchTally { accepted: 7, too_old: 1, refused: 1, too_new: 1, expired: 0 };
    assert_eq!(batch.tally(batch.len(), &several), expected);
    let show = |rejections: &Rejections| {
        batch.rejected(rejections).map(|event| (event.reason, event.timestamp)).collect::<Vec<_>>()
    };
    assert_eq!(show(&several), [(Rejection::TooOld, 2), (Rejection::Refused, 5), (Rejection::TooNew, 9)]);
    // The events 2, 5 and 9 are rejected.
    assert_eq!(
        [10, 6, 3, 1, 0].map(|answered| {
            let mut answers = several.clone();
            answers.truncate(answered);
            batch.newest(answered, &answers)
        }),
        [Some(8), Some(4), Some(1), Some(0), None]
    );
    assert_eq!([Rejection::Refused, Rejection::Expired].map(|reason| several.count(reason)), [1, 0]);
    several.truncate(5);
    assert_eq!(show(&several), [(Rejection::TooOld, 2)]);
    assert!(!several.is_empty());
    several.truncate(2);
    assert!(several.is_empty());
    let tally = BatchTally { accepted: 100, too_old: 1, refused: 2, too_new: 4, expired: 8 };
    assert_eq!(tally.rejected(), 15);
}

#[test]
fn rejected_events_are_shown_as_they_were_sent() {
    let events = [(30, "c\n\"é"), (-10, "a"), (20, "b")].map(|(at, text)| (at, text.to_owned()));
    let mut batch = batches(&events).remove(0);
    let _body = body(&mut batch, Some("token"));
    let rejected = RejectedEvents { too_old_end: Some(1), too_new_start: Some(2), expired_end: None };
    let shown: Vec<_> = batch.rejected(&rejections(0..3, &rejected)).collect();
    let event = |reason, record, timestamp, escaped: &'static str| {
        let escaped = escaped.as_bytes();
        RejectedEvent { reason, record, timestamp, escaped }
    };
    let expected = [event(Rejection::TooOld, 101, -10, "a"), event(Rejection::TooNew, 100, 30, r#"c\n\"é"#)];
    assert_eq!(shown, expected);
    assert_eq!(batch.rejected(&Rejections::default()).count(), 0);
}

#[test]
fn the_bytes_of_the_first_events_are_their_unescaped_ones() {
    let events = [(1, "c\n\"é\u{1}"), (2, "a"), (3, "😀\\")].map(|(at, text)| (at, text.to_owned()));
    let batch = batches(&events).remove(0);
    assert_eq!([0, 1, 2, 3].map(|answered| batch.bytes_of(answered)), [0, 32, 59, 90]);
    assert_eq!(batch.bytes(), 90);
}

#[test]
fn a_split_record_counts_once() {
    let mut batch = Batch::new(&head());
    for (record, text, last) in [(7, "a", false), (7, "b", false), (7, "c", true), (9, "d", true)] {
        batch.push(record, 1, &EscapedMessage::escape(text), last);
    }
    let closed = batch.close(Buffers::default());
    assert_eq!(closed.tally(closed.len(), &Rejections::default()).accepted, 2);
    assert_eq!(closed.tally(2, &Rejections::default()).accepted, 0);
    let positions: Vec<_> = (0..4).map(|index| closed.position(index)).collect();
    assert_eq!(positions, [(1, 7, 0), (1, 7, 1), (1, 7, 2), (1, 9, 0)]);
    let all = RejectedEvents { too_old_end: Some(4), ..RejectedEvents::default() };
    let shown: Vec<_> =
        closed.rejected(&rejections(0..4, &all)).map(|event| (event.record, event.escaped)).collect();
    assert_eq!(shown, [(7, &b"a"[..]), (7, b"b"), (7, b"c"), (9, b"d")]);
}

proptest! {
    #[test]
    fn late_events_find_their_place(timestamps in proptest::collection::vec(0_i64..8, 0..40)) {
        let mut events: Vec<EventSpan> = timestamps
            .iter()
            .zip(0..)
            .map(|(timestamp, record)| {
                EventSpan { timestamp: *timestamp, start: 0, end: 0, record, completes_record: true }
            })
            .collect();
        let mut expected: Vec<_> = events.iter().map(|event| (event.timestamp, event.record)).collect();
        expected.sort();
        sort(&mut events);
        let found: Vec<_> = events.iter().map(|event| (event.timestamp, event.record)).collect();
        prop_assert_eq!(found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_is_lost_and_every_batch_is_legal(
        events in proptest::collection::vec((0_i64..600_000_000, prop_oneof![
            4 => ".{1,30}".boxed(),
            1 => (1_usize..400_000, "[a-z\u{1}\"é]").prop_map(|(count, text)| text.repeat(count / text.len() + 1)).boxed(),
        ]), 1..40)
    ) {
        let mut sent = Vec::new();
        let mut chunks = events.as_slice();
        for mut batch in batches(&events) {
            let found: Vec<_> = bodies(&mut batch).iter().flat_map(|body| check_legal(body)).collect();
            // Each batch holds a run of the input, sorted by time with a stable sort.
            let (mut run, rest) = (chunks[..found.len()].to_vec(), &chunks[found.len()..]);
            run.sort_by_key(|(timestamp, _)| *timestamp);
            prop_assert_eq!(&found, &run);
            chunks = rest;
            sent.extend(found);
        }
        prop_assert_eq!(sent.len(), events.len());
    }
}

#[test]
fn the_pool_keeps_a_few_buffers_of_ordinary_size() {
    let pool = BufferPool::new(2);
    for _ in 0..3 {
        pool.give(used());
    }
    let kept = |pool: &BufferPool| {
        let all: Vec<_> = (0..4).map(|_| pool.take()).collect();
        all.iter().filter(|buffers| buffers.body.capacity() > 0).count()
    };
    assert_eq!(kept(&pool), 2, "no more than two");
    for (capacity, expected) in [(FULL_BODY + TAIL, 1), (FULL_BODY + TAIL + 1, 0)] {
        pool.give(Buffers { body: Vec::with_capacity(capacity), events: Vec::new() });
        assert_eq!(kept(&pool), expected, "grown buffers are not kept: {capacity}");
    }
}

/// No body contains what an earlier batch left in its buffers.
#[test]
fn reused_buffers_are_empty() {
    let mut batch = Batch::in_buffers(&head(), used());
    batch.push(0, 5, &EscapedMessage::escape("late"), true);
    batch.push(1, 4, &EscapedMessage::escape("early"), true);
    let mut closed = batch.close(used());
    let sent = body(&mut closed, Some("token"));
    assert_eq!(check_legal(&sent), [(4, "early".to_owned()), (5, "late".to_owned())]);
    drop(sent);
    let mut next = Batch::in_buffers(&head(), closed.into_buffers());
    next.push(2, 6, &EscapedMessage::escape("next"), true);
    assert_eq!(check_legal(&body(&mut next.close(Buffers::default()), None)), [(6, "next".to_owned())]);
}
