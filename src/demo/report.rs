//! The texts that the demo prints.

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use indicatif::HumanCount;
use jiff::{Timestamp, tz::TimeZone};
use logferry_testbed::{
    provision::{Customer, Provider, ReceivedEvent},
    worker::WorkerProcess,
};

use super::{
    comparison::{Comparison, Fault, Flaw, LogGroup},
    samples::Upload,
    stage::Stage,
};

/// Longest line with a customer's text, in columns.
const COLUMNS: usize = 100;
/// Number of faults of each kind that are listed.
const FAULTS: usize = 3;

/// The accounts and how they are connected.
pub(super) fn accounts(stage: &Stage) -> String {
    let Stage { aws, provider, customers, .. } = stage;
    let mut text = format!("AWS, in this process: {}, {}", aws.endpoint, aws.region);
    let Provider { account, bucket, .. } = provider;
    let [topic, queue] = [last(&provider.topic_arn, ':'), last(&provider.queue_url, '/')];
    text += &format!("\n  {:<9}  {account}  S3 {bucket} -> SNS {topic} -> SQS {queue}", "provider");
    let [worker, central] = [&provider.worker_role_arn, &provider.central_role_arn].map(|arn| last(arn, '/'));
    text += &format!("\n  {:<9}  {:<12}  roles {worker} -> {central} -> theirs", "", "");
    for Customer { tenant_id, account, role_arn, log_group, .. } in customers {
        let role = last(role_arn, '/');
        text += &format!("\n  {tenant_id:<9}  {account}  role {role}, log group {log_group}");
    }
    text
}

/// The worker's process, address and log file.
pub(super) fn worker(worker: &WorkerProcess, address: SocketAddr) -> String {
    let id = worker.id().map(|id| id.to_string()).unwrap_or_default();
    format!("Worker: process {id}, http://{address}/metrics, log {}", worker.log().display())
}

/// The objects to upload.
pub(super) fn uploads(uploads: &[Upload]) -> String {
    let records = uploads.iter().map(|upload| upload.records.len() + upload.empty).sum();
    let bytes = uploads.iter().map(|upload| upload.body.len()).sum();
    format!(
        "Uploading {} objects that Vector wrote, timestamps moved to now: {} records, {} of gzip",
        uploads.len(),
        count(records),
        size(bytes)
    )
}

/// One row for each customer. `started` has the tenant and the start of each upload.
pub(super) fn table(
    stage: &Stage,
    received: &[(LogGroup, Vec<ReceivedEvent>)],
    started: &[(&str, Timestamp)],
) -> String {
    let row = |cells: [&dyn Display; 6]| {
        let [tenant, account, events, bytes, streams, took] = cells.map(|cell| cell.to_string());
        format!("\n  {tenant:<9}  {account:<12}  {events:>7}  {bytes:>9}  {streams:>7}  {took:>25}")
    };
    let mut text = "Arrived".to_owned();
    text += &row([&"tenant", &"account", &"events", &"bytes", &"streams", &"from upload to last event"]);
    for Customer { tenant_id, account, .. } in &stage.customers {
        let events: Vec<_> = in_account(received, account).flat_map(|(_, events)| events).collect();
        let bytes = events.iter().map(|event| event.message.len()).sum();
        let streams: BTreeSet<_> = events.iter().map(|event| &event.stream).collect();
        let first = started.iter().filter(|(tenant, _)| tenant == tenant_id).map(|(_, at)| *at).min();
        let last = events.iter().filter_map(|event| Timestamp::from_millisecond(event.ingestion_time).ok());
        let took = first.zip(last.max()).and_then(|(first, last)| last.duration_since(first).try_into().ok());
        let took = took.map_or_else(|| "-".to_owned(), seconds);
        text += &row([tenant_id, account, &count(events.len()), &size(bytes), &streams.len(), &took]);
    }
    text
}

/// Two events of each stream, as CloudWatch Logs returned them.
pub(super) fn lines(stage: &Stage, received: &[(LogGroup, Vec<ReceivedEvent>)]) -> String {
    let mut text = "Read back from the customers' accounts".to_owned();
    for Customer { account, .. } in &stage.customers {
        for (group, events) in in_account(received, account) {
            text += &format!("\n  {account} {}", group.log_group);
            for stream in events.chunk_by(|one, next| one.stream == next.stream) {
                text += &format!("\n    {}", visible(&stream[0].stream, COLUMNS - 4));
                for event in worth_seeing(stream) {
                    let time = time_of_day(event.timestamp);
                    text += &format!("\n      {time}  {}", visible(&event.message, COLUMNS - 20));
                }
            }
        }
    }
    text
}

pub(super) fn verdict(comparison: &Comparison, skipped: usize) -> String {
    let of = |flaw| count(comparison.count(flaw));
    format!(
        "{} of {} records delivered to the right account, {} to a wrong one, {} twice,\n\
         {} altered, {} out of order, {} empty ones skipped (by contract).\n\
         The queue is empty, and so is the dead-letter queue.",
        count(comparison.delivered),
        count(comparison.expected),
        of(Flaw::Misplaced),
        of(Flaw::Twice),
        of(Flaw::Altered),
        of(Flaw::OutOfOrder),
        count(skipped),
    )
}

/// Some faults of each kind, one per line. Empty without faults.
pub(super) fn faults(comparison: &Comparison) -> String {
    let kinds = [
        (Flaw::Missing, "missing"),
        (Flaw::Misplaced, "in a wrong group"),
        (Flaw::Twice, "once too often"),
        (Flaw::Altered, "altered"),
        (Flaw::OutOfOrder, "out of order"),
    ];
    let mut lines = Vec::new();
    for (flaw, told) in kinds {
        for Fault { group, record, .. } in comparison.of(flaw).take(FAULTS) {
            let LogGroup { account, log_group } = group;
            let time = time_of_day(record.timestamp);
            let text = format!("{told}, {account} {log_group}: {time}  {}", record.message);
            lines.push(format!("  {}", visible(&text, COLUMNS - 2)));
        }
        if let Some(more @ 1..) = comparison.count(flaw).checked_sub(FAULTS) {
            lines.push(format!("  {told}: {} more", count(more)));
        }
    }
    lines.join("\n")
}

/// Commands to look around with, which can be copied as they are.
pub(super) fn commands(stage: &Stage, address: SocketAddr) -> String {
    let Stage { aws, provider, customers, .. } = stage;
    let root = |account: &str| {
        let credentials = format!("AWS_ACCESS_KEY_ID={account} AWS_SECRET_ACCESS_KEY=test");
        format!("{credentials} aws --endpoint-url {} --region {}", aws.endpoint, aws.region)
    };
    let mut text = "Everything keeps running until Ctrl-C; the worker's session lasts an hour. To look around, with aws version 2:".to_owned();
    let mut add = |what: &str, command: String| text += &format!("\n\n# {what}\n{command}");
    for Customer { tenant_id, account, log_group, .. } in customers {
        add(
            &format!("what {tenant_id} received"),
            format!("{} logs tail {log_group} --since 1h", root(account)),
        );
    }
    let (bucket, provider_root) = (&provider.bucket, root(&provider.account));
    add("the staging bucket", format!("{provider_root} s3 ls --recursive s3://{bucket}"));
    for (what, url) in [("the queue", &provider.queue_url), ("its dead letters", &provider.dead_letter_url)] {
        let attributes = "sqs get-queue-attributes --attribute-names All --queue-url";
        add(what, format!("{provider_root} {attributes} {url}"));
    }
    let table = &provider.tenant_table;
    add("the tenants", format!("{provider_root} dynamodb scan --table-name {table}"));
    add("what the worker counts", format!("curl http://{address}/metrics"));
    let key = format!("{}/my-cluster/my-app/my-pod/1.json", customers[0].tenant_id);
    add(
        "one more record; the worker delivers it at once",
        format!("echo '[{{\"message\":\"hello\"}}]' | {provider_root} s3 cp - s3://{bucket}/{key}"),
    );
    text
}

/// `0.42 s`.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// `10,465`.
fn count(number: usize) -> String {
    HumanCount(number as u64).to_string()
}

fn size(bytes: usize) -> String {
    ByteSize::b(bytes as u64).to_string()
}

/// The part after the last separator of a URL or an ARN.
fn last(text: &str, separator: char) -> &str {
    text.rsplit(separator).next().unwrap_or_default()
}

fn time_of_day(milliseconds: i64) -> String {
    let time = Timestamp::from_millisecond(milliseconds).unwrap_or_default();
    time.to_zoned(TimeZone::UTC).strftime("%H:%M:%S%.3f").to_string()
}

fn in_account<'a>(
    received: &'a [(LogGroup, Vec<ReceivedEvent>)],
    account: &str,
) -> impl Iterator<Item = &'a (LogGroup, Vec<ReceivedEvent>)> {
    received.iter().filter(move |(group, _)| group.account == account)
}

/// The first event of a stream, and the first later one with control characters or non-ASCII text, because these are harder
/// to deliver unchanged. If there is none, the middle one.
fn worth_seeing(stream: &[ReceivedEvent]) -> impl Iterator<Item = &ReceivedEvent> {
    let (first, rest) = stream.split_at(stream.len().min(1));
    let hard = |event: &&ReceivedEvent| event.message.chars().any(|c| c.is_control() || !c.is_ascii());
    first.iter().chain(rest.iter().find(hard).or_else(|| rest.get(rest.len() / 2)))
}

/// The text with its control characters escaped, cut if it does not fit into `columns`.
fn visible(text: &str, columns: usize) -> String {
    const CUT: &str = "...";
    let spell = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    let spelt: String = text.chars().map(spell).collect();
    let (mut width, mut fits) = (0, 0);
    for (at, c) in spelt.char_indices() {
        // All characters before the Hangul take one column. Each character from there on counts as two, which is the most
        // that it can take.
        width += if c < '\u{1100}' { 1 } else { 2 };
        if width > columns {
            return format!("{}{CUT}", &spelt[..fits]);
        }
        if width + CUT.len() <= columns {
            fits = at + c.len_utf8();
        }
    }
    spelt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::samples::Record;

    #[test]
    fn text_is_escaped_and_cut_to_fit() {
        let check = |text, columns, shown: &str| assert_eq!(visible(text, columns), shown, "{text:?}");
        check("plain", 5, "plain");
        check("plainer", 6, "pla...");
        check("a\tb\0\u{1b}[0m\r\n", 40, r"a\tb\u{0}\u{1b}[0m\r\n");
        check("a\\tb", 40, "a\\tb");
        check("naïve", 5, "naïve");
        check("订单已创建", 10, "订单已创建");
        check("订单已创建", 9, "订单已...");
        check("订单已创建", 8, "订单...");
    }

    #[test]
    fn the_summary_and_the_faults_are_shown() {
        let fault = |flaw, message: &str| Fault {
            flaw,
            group: LogGroup { account: "222222222222".to_owned(), log_group: "/acme".to_owned() },
            record: Record { timestamp: 1_795_248_000_123, message: message.to_owned() },
        };
        let clean = Comparison { expected: 10_465, delivered: 10_465, faults: Vec::new() };
        assert_eq!(
            verdict(&clean, 35),
            "10,465 of 10,465 records delivered to the right account, 0 to a wrong one, 0 twice,\n\
             0 altered, 0 out of order, 35 empty ones skipped (by contract).\n\
             The queue is empty, and so is the dead-letter queue."
        );
        assert_eq!(faults(&clean), "");
        let mut broken = Comparison { delivered: 10_464, ..clean };
        broken.faults = (0..5).map(|_| fault(Flaw::Twice, "again")).collect();
        broken.faults.push(fault(Flaw::Missing, "gone\n"));
        assert!(verdict(&broken, 35).starts_with("10,464 of 10,465 records "));
        assert!(verdict(&broken, 35).contains(" 5 twice,"));
        let again = "  once too often, 222222222222 /acme: 08:00:00.123  again\n";
        let gone = "  missing, 222222222222 /acme: 08:00:00.123  gone\\n\n";
        assert_eq!(faults(&broken), format!("{gone}{again}{again}{again}  once too often: 2 more"));
    }
}
