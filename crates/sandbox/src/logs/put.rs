//! PutLogEvents, with every check of the service.

use std::borrow::Cow;
use std::ops::Range;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, json};

use super::store::AcceptedBatch;
use super::{
    Logs, Totals, authorize_stream, constraint, group_name, invalid_parameter, no_such_group, no_such_stream,
    now, required, stream_name,
};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

/// Largest batch in bytes, including the overhead of each event.
const MAX_BATCH_BYTES: usize = 1_048_576;
/// Overhead of each event in bytes.
const EVENT_OVERHEAD_BYTES: usize = 26;
/// Largest number of events in a batch.
const MAX_BATCH_EVENTS: usize = 10_000;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Longest time by which an event may be ahead of the service's clock.
const MAX_AHEAD: i64 = 2 * HOUR;
/// Greatest age of an event, whatever the group's retention.
const MAX_AGE: i64 = 14 * DAY;
/// Longest time between the first and the last acceptable event of a batch.
const MAX_SPAN: i64 = DAY;

/// A string that borrows from the body unless it has escapes. Without this type, serde would copy every
/// `Option<Cow<str>>`.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutLogEvents<'a> {
    #[serde(borrow)]
    log_group_name: Option<Text<'a>>,
    #[serde(borrow)]
    log_stream_name: Option<Text<'a>>,
    #[serde(borrow)]
    log_events: Option<Vec<InputLogEvent<'a>>>,
    #[serde(borrow)]
    #[serde(rename = "sequenceToken")]
    _sequence_token: Option<Text<'a>>,
    entity: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct InputLogEvent<'a> {
    timestamp: Option<i64>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
}

/// An event that meets the model's constraints.
struct Entry<'a> {
    timestamp: i64,
    message: Cow<'a, str>,
}

/// Indexes of the accepted events of a batch, and the indexes that the answer reports about rejected events.
#[derive(Debug, PartialEq, Eq)]
struct Sorted {
    accepted: Range<usize>,
    /// Inclusive.
    too_new_start: Option<usize>,
    /// Exclusive.
    too_old_end: Option<usize>,
    /// Exclusive.
    expired_end: Option<usize>,
}

impl Logs {
    pub(super) fn put_log_events(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: PutLogEvents<'_> = call.parse()?;
        let group_name_given = required(request.log_group_name, "logGroupName")?.0;
        let stream_name_given = required(request.log_stream_name, "logStreamName")?.0;
        group_name(&group_name_given)?;
        stream_name(&stream_name_given, "logStreamName")?;
        let entries = entries(required(request.log_events, "logEvents")?)?;
        if request.entity.is_some() {
            return Err(AwsError::not_implemented("logs", "PutLogEvents with entity"));
        }
        authorize_stream(cloud, call, &group_name_given, &stream_name_given)?;
        check_batch(&entries)?;

        let retention_days = self.with_group(call, &group_name_given, |group| {
            let found = group.streams.contains_key(stream_name_given.as_ref());
            found.then_some(group.retention_days).ok_or_else(no_such_stream)
        })?;
        let now = now();
        let sorted = sort_out(&entries, now, retention_days);
        check_span(&entries[sorted.accepted.clone()])?;
        // Hashing and copying happen before the lock is taken.
        let batch = accepted_batch(&entries, &sorted.accepted, self.counts_only());

        let mut accounts = self.lock();
        let account = accounts.get_mut(&call.account).ok_or_else(no_such_group)?;
        let groups = account.regions.get_mut(&call.region).ok_or_else(no_such_group)?;
        let group = groups.get_mut(group_name_given.as_ref()).ok_or_else(no_such_group)?;
        let stream = group.streams.get_mut(stream_name_given.as_ref()).ok_or_else(no_such_stream)?;
        stream.accept(batch, now, &mut group.next_serial);
        let mut answer = Map::new();
        answer.insert("nextSequenceToken".to_owned(), json!(stream.token()));
        if let Some(rejected) = sorted.rejected_info() {
            answer.insert("rejectedLogEventsInfo".to_owned(), rejected);
        }
        Ok(Reply::json(&Value::Object(answer)))
    }
}

impl Sorted {
    fn rejected_info(&self) -> Option<Value> {
        let mut info = Map::new();
        let indices = [
            ("tooNewLogEventStartIndex", self.too_new_start),
            ("tooOldLogEventEndIndex", self.too_old_end),
            ("expiredLogEventEndIndex", self.expired_end),
        ];
        for (name, index) in indices {
            if let Some(index) = index {
                info.insert(name.to_owned(), json!(index));
            }
        }
        (!info.is_empty()).then_some(Value::Object(info))
    }
}

/// Checks the model's constraints on each event and on the number of events.
fn entries(events: Vec<InputLogEvent<'_>>) -> Result<Vec<Entry<'_>>, AwsError> {
    if events.is_empty() {
        return Err(constraint("[]", "logEvents", "Member must have length greater than or equal to 1"));
    }
    if events.len() > MAX_BATCH_EVENTS {
        let rule = format!("Member must have length less than or equal to {MAX_BATCH_EVENTS}");
        return Err(constraint("[...]", "logEvents", &rule));
    }
    events.into_iter().enumerate().map(|(at, event)| entry(at, event)).collect()
}

fn entry(at: usize, event: InputLogEvent<'_>) -> Result<Entry<'_>, AwsError> {
    let member = |name: &str| format!("logEvents.{}.member.{name}", at + 1);
    let null_at = |name: &str| constraint("null", &member(name), "Member must not be null");
    let timestamp = event.timestamp.ok_or_else(|| null_at("timestamp"))?;
    let message = event.message.ok_or_else(|| null_at("message"))?.0;
    if timestamp < 0 {
        let rule = "Member must have value greater than or equal to 0";
        return Err(constraint(&timestamp.to_string(), &member("timestamp"), rule));
    }
    if message.is_empty() {
        let rule = "Member must have length greater than or equal to 1";
        return Err(constraint("", &member("message"), rule));
    }
    Ok(Entry { timestamp, message })
}

/// Checks sizes and order. A violation fails the whole call.
fn check_batch(entries: &[Entry<'_>]) -> Result<(), AwsError> {
    let mut batch_bytes = 0;
    for entry in entries {
        let event_bytes = entry.message.len() + EVENT_OVERHEAD_BYTES;
        if event_bytes > MAX_BATCH_BYTES {
            return Err(invalid_parameter(format!(
                "Log event too large: {event_bytes} bytes exceeds limit of {MAX_BATCH_BYTES}"
            )));
        }
        batch_bytes += event_bytes;
    }
    if batch_bytes > MAX_BATCH_BYTES {
        return Err(invalid_parameter(format!(
            "Upload too large: {batch_bytes} bytes exceeds limit of {MAX_BATCH_BYTES}"
        )));
    }
    if !entries.is_sorted_by_key(|entry| entry.timestamp) {
        return Err(invalid_parameter(
            "Log events in a single PutLogEvents request must be in chronological order.",
        ));
    }
    Ok(())
}

/// Separates the acceptable events of a chronological batch from those that are too old, expired or too new.
///
/// An event older than 14 days counts as too old and not as expired, whatever the retention.
fn sort_out(entries: &[Entry<'_>], now: i64, retention_days: Option<u32>) -> Sorted {
    let older_than = |limit: i64| entries.partition_point(|entry| entry.timestamp < limit);
    let too_old = older_than(now - MAX_AGE);
    let expired = retention_days.map_or(0, |days| older_than(now - i64::from(days) * DAY));
    let too_new = older_than(now + MAX_AHEAD + 1);
    Sorted {
        accepted: too_old.max(expired)..too_new,
        too_new_start: (too_new < entries.len()).then_some(too_new),
        too_old_end: (too_old > 0).then_some(too_old),
        expired_end: (expired > too_old).then_some(expired),
    }
}

fn check_span(accepted: &[Entry<'_>]) -> Result<(), AwsError> {
    match accepted {
        [first, .., last] if last.timestamp - first.timestamp > MAX_SPAN => Err(invalid_parameter(
            "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
        )),
        _ => Ok(()),
    }
}

fn accepted_batch(entries: &[Entry<'_>], accepted: &Range<usize>, count_only: bool) -> AcceptedBatch {
    let rows = &entries[accepted.clone()];
    let mut totals = Totals::default();
    for entry in rows {
        totals.add_event(entry.timestamp, &entry.message);
    }
    let kept = if count_only {
        Vec::new()
    } else {
        rows.iter().map(|entry| (entry.timestamp, Box::from(entry.message.as_ref()))).collect()
    };
    AcceptedBatch {
        totals,
        span: rows.first().zip(rows.last()).map(|(first, last)| (first.timestamp, last.timestamp)),
        kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_313_284_000;

    #[track_caller]
    fn check(ages: &[i64], retention_days: Option<u32>, expected: (Range<usize>, [Option<usize>; 3])) {
        let entries: Vec<_> =
            ages.iter().map(|age| Entry { timestamp: NOW - age, message: Cow::Borrowed("x") }).collect();
        let (accepted, [too_new_start, too_old_end, expired_end]) = expected;
        assert_eq!(
            sort_out(&entries, NOW, retention_days),
            Sorted { accepted, too_new_start, too_old_end, expired_end }
        );
    }

    #[test]
    fn windows_are_exact_to_the_millisecond() {
        check(&[0], None, (0..1, [None, None, None]));
        check(&[MAX_AGE, 0, -MAX_AHEAD], None, (0..3, [None, None, None]));
        check(&[MAX_AGE + 1, MAX_AGE, -MAX_AHEAD, -MAX_AHEAD - 1], None, (1..3, [Some(3), Some(1), None]));
        check(&[DAY + 1, DAY, 0], Some(1), (1..3, [None, None, Some(1)]));
        // Too old and expired events are reported separately. A retention of more than 14 days changes nothing.
        check(&[MAX_AGE + 1, 2 * DAY, 0], Some(1), (2..3, [None, Some(1), Some(2)]));
        check(&[MAX_AGE + 1, 0], Some(30), (1..2, [None, Some(1), None]));
    }

    #[test]
    fn a_whole_batch_can_be_rejected() {
        check(&[MAX_AGE + 2, MAX_AGE + 1], None, (2..2, [None, Some(2), None]));
        check(&[-MAX_AHEAD - 1, -MAX_AHEAD - 2], None, (0..0, [Some(0), None, None]));
        check(&[MAX_AGE + 1, -MAX_AHEAD - 1], None, (1..1, [Some(1), Some(1), None]));
    }

    #[test]
    fn messages_without_escapes_are_borrowed() {
        let body = r#"{"timestamp":1,"message":"plain é"}"#;
        let event: InputLogEvent<'_> = serde_json::from_str(body).expect("valid");
        assert!(matches!(event.message, Some(Text(Cow::Borrowed("plain é")))));
    }
}
