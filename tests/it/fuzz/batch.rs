//! Batches: an independent checker, which knows only PutLogEvents, accepts each batch, and nothing is lost.

use std::{borrow::Cow, collections::HashSet, rc::Rc};

use logferry::{
    batch::{
        Batch, BatchHead, BatchTally, Buffers, ClosedBatch, Part, RejectedEvents, Rejection, Rejections,
    },
    records::{EscapedMessage, More, RecordReader, Step},
};
use serde::Deserialize;

use super::choices::Choices;

/// Limits of the service, repeated here independently of the code under test.
const MAX_BYTES: usize = 1_048_576;
const OVERHEAD: usize = 26;
const MAX_EVENTS: usize = 10_000;
const DAY: i64 = 86_400_000;
const MAX_DAYS: usize = 16;
/// A case ends after about one full batch by bytes or by events, so that it stays short.
const ENOUGH_BYTES: usize = 1_100_000;
const ENOUGH_EVENTS: usize = 10_050;
/// Most escapes in a long message, so that a case stays short.
const MANY_UNITS: usize = 1000;

/// One event of the input.
#[derive(Clone)]
struct Given {
    timestamp: i64,
    text: Rc<str>,
    record: u64,
    completes_record: bool,
}

/// Generates a stream and its events from the choices, and batches them as a delivery does.
pub(crate) fn check(data: &[u8]) {
    let mut choices = Choices::new(data);
    let names = [choices.text(8), choices.text(8)];
    let mut lane = Lane::new([&names[0], &names[1]]);
    let (mut bytes, mut events, mut timestamp) = (0, 0, 1_795_248_000_000);
    let mut number = 0;
    while !choices.is_empty() && bytes < ENOUGH_BYTES && events < ENOUGH_EVENTS {
        let plan = choices.byte();
        timestamp = later(&mut choices, plan & 7, timestamp);
        let (json, times) = message(&mut choices, plan >> 3 & 15);
        let record = [r#"{"message":""#, &json, r#""}"#].concat();
        let text: String = serde_json::from_str(&format!("\"{json}\"")).expect("a legal message");
        let text: Rc<str> = text.into();
        let mut reader = RecordReader::new(1 << 24, jiff::Timestamp::UNIX_EPOCH);
        let Ok(Step::Record { record, .. }) = reader.next(record.as_bytes(), More::Ended) else {
            panic!("a record of {} bytes is not read", record.len());
        };
        bytes += times * (text.len() + OVERHEAD);
        events += times;
        for _ in 0..times {
            let given = Given {
                timestamp,
                text: Rc::clone(&text),
                record: number,
                completes_record: plan & 0x80 == 0,
            };
            // The pieces of one record share its number; records without a message skip theirs.
            number += u64::from(plan & 0x80 == 0) * (1 + u64::from(plan & 1));
            lane.add(given, &record.message, &mut choices);
        }
        if choices.byte() == b'.' {
            lane.finish(&mut choices);
        }
    }
    lane.finish(&mut choices);
}

/// An open batch, and the events that were added to it.
struct Lane<'a> {
    names: [&'a str; 2],
    open: Batch,
    spare: Buffers,
    given: Vec<Given>,
    bytes: usize,
    span: Option<(i64, i64)>,
    days: HashSet<i64>,
    gathers_days: bool,
}

impl<'a> Lane<'a> {
    fn new(names: [&'a str; 2]) -> Self {
        let open = Batch::new(&BatchHead::new(names[0], names[1]));
        let (given, spare) = (Vec::new(), Buffers::default());
        Self { names, open, spare, given, bytes: 0, span: None, days: HashSet::new(), gathers_days: false }
    }

    fn add(&mut self, event: Given, message: &EscapedMessage<'_>, choices: &mut Choices<'_>) {
        let counted = event.text.len() + OVERHEAD;
        let (at, day) = (event.timestamp, event.timestamp.div_euclid(DAY));
        let (earliest, latest) = self.span.unwrap_or((at, at));
        let within_a_day = latest.max(at) - earliest.min(at) <= DAY;
        let of_a_day =
            (self.gathers_days || at < latest) && (self.days.len() < MAX_DAYS || self.days.contains(&day));
        let fits = self.given.is_empty()
            || self.given.len() < MAX_EVENTS
                && self.bytes + counted <= MAX_BYTES
                && (within_a_day || of_a_day);
        assert_eq!(
            self.open.takes(event.timestamp, event.text.len()),
            fits,
            "with {} events",
            self.given.len()
        );
        if !fits {
            self.finish(choices);
        }
        self.open.push(event.record, event.timestamp, message, event.completes_record);
        self.bytes += counted;
        let (earliest, latest) = self.span.unwrap_or((at, at));
        self.span = Some((earliest.min(at), latest.max(at)));
        self.gathers_days |= latest.max(at) - earliest.min(at) > DAY;
        self.days.insert(day);
        self.given.push(event);
    }

    /// Closes the batch and checks it against its events. Its buffers are reused for the batch after the next.
    fn finish(&mut self, choices: &mut Choices<'_>) {
        assert_eq!(self.open.is_empty(), self.given.is_empty());
        let batch = self.open.close(std::mem::take(&mut self.spare));
        let mut given = std::mem::take(&mut self.given);
        given.sort_by_key(|event| event.timestamp);
        self.spare = check_closed(batch, &given, self.names, choices);
        (self.bytes, self.span) = (0, None);
        self.days.clear();
    }
}

/// Timestamp of the next event. A value before 1970 means no timestamp.
fn later(choices: &mut Choices<'_>, plan: u8, before: i64) -> i64 {
    let step = i64::from(choices.byte());
    match plan {
        0 => before,
        1 => before.saturating_add(step),
        2 => before.saturating_sub(step),
        3 => before.saturating_add(1000 * step),
        4 => before.saturating_add(DAY + step - 128),
        5 => before.saturating_sub(DAY + step - 128),
        6 => choices.one_of(&[
            0,
            1,
            DAY,
            DAY + 1,
            1_795_248_000_000,
            i64::MAX,
            i64::MAX - DAY,
            i64::MAX - DAY - 1,
        ]),
        _ => before.saturating_add((step - 128) << 20),
    }
    .max(0)
}

/// A message, as the text between the quotes of a JSON string (never empty), and the number of its repetitions.
fn message(choices: &mut Choices<'_>, plan: u8) -> (Cow<'static, str>, usize) {
    const UNITS: [(&str, usize); 10] = [
        ("x", 1),
        ("é", 2),
        (r"\u0001", 1),
        (r"\n", 1),
        (r"\ud83d\ude00", 4),
        ("😀", 4),
        (r"\u00e9", 2),
        (r"\/", 1),
        (r#"\""#, 1),
        (r"\u65E5", 3),
    ];
    match plan {
        // Exact sizes, in units of any kind, which fill a batch, half of it, or almost all of it.
        5 => {
            let (unit, size) = choices.one_of(&UNITS);
            let most = MAX_BYTES - OVERHEAD;
            let half = MAX_BYTES / 2 - OVERHEAD;
            let all = [
                most,
                most - 1,
                half,
                half - 1,
                half + 1,
                most - OVERHEAD - 1,
                MAX_BYTES / 3,
                MAX_BYTES / 8,
                5000,
                2000,
                1000,
                100,
            ];
            let len = choices.one_of(&all);
            let count = (len / size).min(MANY_UNITS);
            ((unit.repeat(count) + &"x".repeat(len - count * size)).into(), 1)
        }
        6 => {
            let (unit, _) = choices.one_of(&UNITS);
            (unit.into(), choices.one_of(&[2, 9_999, 10_000, 100, 500, 2_500, 1_000, 10, 3, 30, 50, 20]))
        }
        7 => {
            let units: Vec<_> = (0..=choices.below(6)).map(|_| choices.one_of(&UNITS).0).collect();
            (units.concat().into(), 1)
        }
        _ => {
            let text = choices.text(30);
            let mut quoted = serde_json::to_string(if text.is_empty() { "-" } else { &*text })
                .expect("a string is always JSON");
            quoted.pop();
            quoted.remove(0);
            (quoted.into(), 1)
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    log_group_name: String,
    log_stream_name: String,
    log_events: Vec<InputLogEvent>,
    sequence_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputLogEvent {
    timestamp: i64,
    message: String,
}

/// Checks a batch as the service would. `given` is in the order in which the events must arrive.
fn check_closed(
    mut batch: ClosedBatch,
    given: &[Given],
    names: [&str; 2],
    choices: &mut Choices<'_>,
) -> Buffers {
    let counted: usize = given.iter().map(|event| event.text.len() + OVERHEAD).sum();
    assert_eq!((batch.len(), batch.is_empty(), batch.bytes()), (given.len(), given.is_empty(), counted));
    assert!(given.len() <= MAX_EVENTS && counted <= MAX_BYTES);
    let mut from = 0;
    let mut parts = 0;
    while from < given.len() {
        let part = batch.part(from);
        assert!(part.start == from && part.end > from, "{part:?} from {from}");
        from = part.end;
        parts += 1;
        check_part(&mut batch, part.clone(), &given[part], names, choices);
    }
    assert!(parts <= MAX_DAYS && batch.part(from).is_empty(), "{parts} requests");
    check_tally(&batch, given, choices);
    batch.into_buffers()
}

/// Checks the body of a request as the service would.
fn check_part(
    batch: &mut ClosedBatch,
    part: Part,
    given: &[Given],
    names: [&str; 2],
    choices: &mut Choices<'_>,
) {
    if let [first, .., last] = given {
        assert!(last.timestamp - first.timestamp <= DAY);
    }
    let token = choices.text(4);
    let first = batch.seal(&part, (!token.is_empty()).then_some(&*token));
    let request: Request = serde_json::from_slice(&first).expect("the body is JSON");
    assert_eq!([request.log_group_name.as_str(), request.log_stream_name.as_str()], names);
    assert_eq!(request.sequence_token.unwrap_or_default(), token);
    assert_eq!(request.log_events.len(), given.len());
    for (sent, given) in request.log_events.iter().zip(given) {
        assert_eq!((sent.timestamp, &*sent.message), (given.timestamp, &*given.text));
    }
    // The body is made again with another token, while the first may still be in use.
    let copy = first.to_vec();
    let end = match serde_json::to_string(&*token).expect("a string is always JSON") {
        _ if token.is_empty() => "]}".to_owned(),
        quoted => format!(r#"],"sequenceToken":{quoted}}}"#),
    };
    let events = copy.strip_suffix(end.as_bytes()).expect("the body ends in its token");
    let held = (choices.byte() & 1 == 0).then_some(first);
    let again = batch.seal(&part, Some("other"));
    let again_events = again.strip_suffix(br#"],"sequenceToken":"other"}"#);
    assert!(again_events == Some(events), "the events changed with the token");
    assert!(held.is_none_or(|held| held == copy), "a body changed on its way");
}

/// Checks that each completed record is counted exactly once.
fn check_tally(batch: &ClosedBatch, given: &[Given], choices: &mut Choices<'_>) {
    let mut bound = || (choices.byte() & 1 > 0).then(|| choices.below(given.len() + 2));
    let rejected = RejectedEvents { too_new_start: bound(), too_old_end: bound(), expired_end: bound() };
    let mut expected = BatchTally::default();
    let mut rejections = Rejections::default();
    rejections.add(&(0..given.len()), &rejected);
    let mut refused = batch.rejected(&rejections);
    for (index, event) in given.iter().enumerate() {
        let before = |end: Option<usize>| end.is_some_and(|end| index < end);
        let (count, reason) = match () {
            () if before(rejected.too_old_end) => (&mut expected.too_old, Some(Rejection::TooOld)),
            () if before(rejected.expired_end) => (&mut expected.expired, Some(Rejection::Expired)),
            () if rejected.too_new_start.is_some_and(|start| index >= start) => {
                (&mut expected.too_new, Some(Rejection::TooNew))
            }
            () => (&mut expected.accepted, None),
        };
        *count += u64::from(event.completes_record);
        if let Some(reason) = reason {
            let found = refused.next().expect("every refused event is shown");
            let message: String =
                serde_json::from_slice(&[b"\"", found.escaped, b"\""].concat()).expect("a legal message");
            assert_eq!(
                (found.reason, found.record, found.timestamp),
                (reason, event.record, event.timestamp)
            );
            assert_eq!(message, *event.text);
        }
    }
    assert_eq!(refused.next(), None);
    assert_eq!(batch.tally(batch.len(), &rejections), expected);
}
