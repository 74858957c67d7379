//! Read calls: DescribeLogGroups, DescribeLogStreams, GetLogEvents, FilterLogEvents.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::store::{Event, Group, Stream};
use super::{
    Logs, authorize, authorize_group, authorize_stream, constraint, group_arn, group_name, invalid_parameter,
    no_such_stream, required, stream_name,
};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

/// Largest number of groups or streams on a page.
const DESCRIBE_LIMIT: usize = 50;
/// Largest number of events on a page.
const EVENTS_LIMIT: usize = 10_000;
/// Largest size of the events on a page in bytes, including the overhead of each event.
const PAGE_BYTES: usize = 1_048_576;
const EVENT_OVERHEAD_BYTES: usize = 26;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeLogGroups {
    log_group_name_prefix: Option<String>,
    limit: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeLogStreams {
    log_group_name: Option<String>,
    limit: Option<i64>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GetLogEvents {
    log_group_name: Option<String>,
    log_stream_name: Option<String>,
    limit: Option<i64>,
    next_token: Option<String>,
    start_from_head: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FilterLogEvents {
    log_group_name: Option<String>,
    start_time: Option<i64>,
    /// Unlike that of GetLogEvents, this end is inclusive.
    end_time: Option<i64>,
    limit: Option<i64>,
    next_token: Option<String>,
}

impl Logs {
    pub(super) fn describe_log_groups(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: DescribeLogGroups = call.parse_all("logs")?;
        let limit = limit(request.limit, DESCRIBE_LIMIT)?;
        // AWS evaluates this call on a group without a name, whatever the prefix.
        authorize(cloud, call, &format!("{}:log-stream:", group_arn(call, "")))?;
        let prefix = request.log_group_name_prefix.unwrap_or_default();
        let accounts = self.lock();
        let groups = accounts.get(&call.account).and_then(|account| account.regions.get(&call.region));
        let found: Vec<_> = groups
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(name, group)| (name.as_str(), describe_group(call, name, group)))
            .collect();
        page("logGroups", found, request.next_token.as_deref(), limit)
    }

    pub(super) fn describe_log_streams(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: DescribeLogStreams = call.parse_all("logs")?;
        let limit = limit(request.limit, DESCRIBE_LIMIT)?;
        let group_name = which_group(request.log_group_name)?;
        authorize_group(cloud, call, &group_name)?;
        self.with_group(call, &group_name, |group| {
            let streams = group.streams.iter();
            let found = streams
                .map(|(name, stream)| (name.as_str(), describe_stream(call, &group_name, name, stream)))
                .collect();
            page("logStreams", found, request.next_token.as_deref(), limit)
        })
    }

    pub(super) fn get_log_events(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: GetLogEvents = call.parse_all("logs")?;
        let limit = limit(request.limit, EVENTS_LIMIT)?;
        let name = required(request.log_stream_name, "logStreamName")?;
        stream_name(&name, "logStreamName")?;
        let start = match request.next_token.as_deref().map(|token| token.strip_prefix("f/")) {
            Some(place) => key_from_digits(place.ok_or_else(invalid_token)?)?,
            None => (0, 0),
        };
        let group_name = which_group(request.log_group_name)?;
        authorize_stream(cloud, call, &group_name, &name)?;
        self.with_group(call, &group_name, |group| {
            let stream = group.streams.get(&name).ok_or_else(no_such_stream)?;
            self.readable(call)?;
            if request.start_from_head != Some(true) {
                return Err(AwsError::not_implemented("logs", "GetLogEvents from the tail"));
            }
            let rest = &stream.events[stream.events.partition_point(|event| event.key() < start)..];
            let events = &rest[..fitting(rest.iter(), limit)];
            let next = events.last().map_or(start, |last| (last.timestamp, last.serial + 1));
            let shown: Vec<_> = events
                .iter()
                .map(|event| {
                    json!({
                        "timestamp": event.timestamp,
                        "message": event.message,
                        "ingestionTime": event.ingested,
                    })
                })
                .collect();
            Ok(Reply::json(&json!({ "events": shown, "nextForwardToken": format!("f/{}", digits(next)) })))
        })
    }

    pub(super) fn filter_log_events(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: FilterLogEvents = call.parse_all("logs")?;
        let limit = limit(request.limit, EVENTS_LIMIT)?;
        let start = match &request.next_token {
            Some(token) => key_from_digits(token)?,
            None => (0, 0),
        };
        let group_name = which_group(request.log_group_name)?;
        let (from, until) = (request.start_time.unwrap_or(0), request.end_time.unwrap_or(i64::MAX));
        for (member, time) in [("startTime", from), ("endTime", until)] {
            if time < 0 {
                let rule = "Member must have value greater than or equal to 0";
                return Err(constraint(&time.to_string(), member, rule));
            }
        }
        if until < from {
            return Err(invalid_parameter("End time should not be before start time."));
        }
        authorize_group(cloud, call, &group_name)?;
        self.with_group(call, &group_name, |group| {
            self.readable(call)?;
            let mut found: Vec<_> = group
                .streams
                .iter()
                .flat_map(|(name, stream)| stream.events.iter().map(move |event| (name, event)))
                .filter(|(_, event)| (from..=until).contains(&event.timestamp) && event.key() >= start)
                .collect();
            found.sort_by_key(|(_, event)| event.key());
            let count = fitting(found.iter().map(|(_, event)| *event), limit);
            let shown: Vec<_> = found[..count]
                .iter()
                .map(|(name, event)| {
                    json!({
                        "logStreamName": name,
                        "timestamp": event.timestamp,
                        "message": event.message,
                        "ingestionTime": event.ingested,
                        "eventId": digits(event.key()),
                    })
                })
                .collect();
            let mut answer = json!({ "events": shown, "searchedLogStreams": [] });
            if let Some((_, next)) = found.get(count) {
                answer["nextToken"] = json!(digits(next.key()));
            }
            Ok(Reply::json(&answer))
        })
    }

    /// Refuses to read while events are only counted, because an empty answer would be wrong.
    fn readable(&self, call: &Call) -> Result<(), AwsError> {
        if self.counts_only() {
            let what = format!("{} while events are only counted", call.operation);
            return Err(AwsError::not_implemented("logs", &what));
        }
        Ok(())
    }
}

fn describe_group(call: &Call, name: &str, group: &Group) -> Value {
    let arn = group_arn(call, name);
    let mut shown = json!({
        "logGroupName": name,
        "creationTime": group.created,
        "metricFilterCount": 0,
        "arn": format!("{arn}:*"),
        "logGroupArn": arn,
        "storedBytes": group.totals().bytes,
        "logGroupClass": "STANDARD",
    });
    if let Some(days) = group.retention_days {
        shown["retentionInDays"] = json!(days);
    }
    shown
}

fn describe_stream(call: &Call, group: &str, name: &str, stream: &Stream) -> Value {
    let mut shown = Map::new();
    shown.insert("logStreamName".to_owned(), json!(name));
    shown.insert("creationTime".to_owned(), json!(stream.created));
    shown.insert("arn".to_owned(), json!(format!("{}:log-stream:{name}", group_arn(call, group))));
    // AWS has returned 0 for streams since 2019.
    shown.insert("storedBytes".to_owned(), json!(0));
    if let Some(token) = stream.token() {
        shown.insert("uploadSequenceToken".to_owned(), json!(token));
    }
    Value::Object(shown)
}

/// One page of a listing. The token is the last name on the previous page.
fn page(member: &str, found: Vec<(&str, Value)>, token: Option<&str>, limit: usize) -> Answer {
    let start = match token {
        Some(token) => 1 + found.iter().position(|(name, _)| *name == token).ok_or_else(invalid_token)?,
        None => 0,
    };
    let more = found.len() > start + limit;
    let rows: Vec<_> = found.into_iter().skip(start).take(limit).collect();
    let mut answer = Map::new();
    if let (true, Some((name, _))) = (more, rows.last()) {
        answer.insert("nextToken".to_owned(), json!(name));
    }
    answer.insert(member.to_owned(), rows.into_iter().map(|(_, shown)| shown).collect());
    Ok(Reply::json(&Value::Object(answer)))
}

fn limit(given: Option<i64>, most: usize) -> Result<usize, AwsError> {
    let Some(given) = given else { return Ok(most) };
    match usize::try_from(given) {
        Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
        _ => {
            let rule = if given < 1 {
                "Member must have value greater than or equal to 1".to_owned()
            } else {
                format!("Member must have value less than or equal to {most}")
            };
            Err(constraint(&given.to_string(), "limit", &rule))
        }
    }
}

/// Name of the group of a read call.
fn which_group(name: Option<String>) -> Result<String, AwsError> {
    let name = required(name, "logGroupName")?;
    group_name(&name)?;
    Ok(name)
}

/// Number of events that fit on a page, at least one if there is one.
fn fitting<'a>(events: impl Iterator<Item = &'a Event>, limit: usize) -> usize {
    let mut bytes = 0;
    events
        .take(limit)
        .take_while(|event| {
            bytes += event.message.len() + EVENT_OVERHEAD_BYTES;
            bytes <= PAGE_BYTES
        })
        .count()
}

/// Writes a key as a number of 56 digits, the length of AWS's event ids. Numbers have the order of their keys.
fn digits((timestamp, serial): (i64, u64)) -> String {
    format!("{timestamp:020}{serial:036}")
}

fn key_from_digits(text: &str) -> Result<(i64, u64), AwsError> {
    let (timestamp, serial) = text.split_at_checked(20).ok_or_else(invalid_token)?;
    match (text.len(), timestamp.parse(), serial.parse()) {
        (56, Ok(timestamp), Ok(serial)) => Ok((timestamp, serial)),
        _ => Err(invalid_token()),
    }
}

fn invalid_token() -> AwsError {
    invalid_parameter("The specified nextToken is invalid.")
}
