//! CloudWatch Logs: create, put, and what a put refuses.

use aws_sdk_cloudwatchlogs::{
    Client,
    config::http::HttpResponse,
    error::SdkError,
    operation::{
        filter_log_events::FilterLogEventsOutput,
        put_log_events::{PutLogEventsError, PutLogEventsOutput},
    },
    types::InputLogEvent,
};

use super::{Answers, nothing};
use crate::{setup::Setup, target::unique_account};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const STREAM: &str = "app-pod-2026-11-21";

type Put = Result<PutLogEventsOutput, SdkError<PutLogEventsError, HttpResponse>>;

async fn put(logs: &Client, group: &str, stream: &str, events: &[(i64, &str)]) -> Put {
    let event = |(timestamp, message): &(i64, &str)| {
        InputLogEvent::builder()
            .timestamp(*timestamp)
            .message(*message)
            .build()
            .expect("both members are set")
    };
    let put = logs.put_log_events().log_group_name(group).log_stream_name(stream);
    put.set_log_events(Some(events.iter().map(event).collect())).send().await
}

fn taken(output: PutLogEventsOutput) -> String {
    let token = output.next_sequence_token.map_or("no token", |_| "a token");
    let rejected = output.rejected_log_events_info.map(|info| {
        let (too_new, too_old, expired) = (
            info.too_new_log_event_start_index,
            info.too_old_log_event_end_index,
            info.expired_log_event_end_index,
        );
        format!(", too new from {too_new:?}, too old to {too_old:?}, expired to {expired:?}")
    });
    format!("{token}{}", rejected.unwrap_or_default())
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let account = unique_account();
    let logs = setup.aws.account(&account).logs();
    let group = "/logferry/conformance";
    let now = jiff::Timestamp::now().as_millisecond();

    answers.answer("logs: put, no group", put(&logs, group, STREAM, &[(now, "x")]).await, taken);
    let stream = |name: &str| logs.create_log_stream().log_group_name(group).log_stream_name(name);
    answers.answer("logs: create stream, no group", stream(STREAM).send().await, nothing);
    let create = |name: &str| logs.create_log_group().log_group_name(name);
    answers.answer("logs: create group", create(group).send().await, nothing);
    answers.answer("logs: create group again", create(group).send().await, nothing);
    answers.answer("logs: create a group with a blank in its name", create("a b").send().await, nothing);
    answers.answer("logs: put, no stream", put(&logs, group, STREAM, &[(now, "x")]).await, taken);
    answers.answer("logs: create stream", stream(STREAM).send().await, nothing);
    answers.answer("logs: create stream again", stream(STREAM).send().await, nothing);
    answers.answer("logs: create a stream with a colon in its name", stream("a:b").send().await, nothing);
    let retention = |days| logs.put_retention_policy().log_group_name(group).retention_in_days(days);
    answers.answer("logs: retention of 30 days", retention(30).send().await, nothing);
    answers.answer("logs: retention of 2 days", retention(2).send().await, nothing);

    let good = [(now, "a"), (now, "b \u{1f600}"), (now + 1, "c")];
    answers.answer("logs: put", put(&logs, group, STREAM, &good).await, taken);
    answers.answer("logs: put the same again", put(&logs, group, STREAM, &good).await, taken);
    answers.answer("logs: put earlier ones", put(&logs, group, STREAM, &[(now - HOUR, "d")]).await, taken);
    let filter = || logs.filter_log_events().log_group_name(group);
    let told = |output: FilterLogEventsOutput| {
        let events = output.events.unwrap_or_default();
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let text = event.message().unwrap_or_default();
                let stream = event.log_stream_name().unwrap_or_default();
                (
                    event.timestamp.unwrap_or_default() - now,
                    stream.to_owned(),
                    text[..text.len().min(9)].to_owned(),
                )
            })
            .collect();
        format!("{told:?}, token {}", output.next_token.is_some())
    };
    let range = || filter().start_time(now - HOUR).end_time(now);
    answers.answer("logs: filter", range().send().await, told);
    answers.answer("logs: filter, the first", range().limit(1).send().await, told);
    let outside = filter().start_time(now - 3 * HOUR).end_time(now - 2 * HOUR);
    answers.answer("logs: filter an empty range", outside.send().await, told);
    let missing = logs.filter_log_events().log_group_name("missing");
    answers.answer("logs: filter a missing group", missing.send().await, told);
    // A second stream, for events that only a lax double accepts. They must not be among those read back below.
    let lax = "taken-or-refused";
    stream(lax).send().await.expect("the stream can be created");
    let unordered = [(now + 1, "x"), (now, "x")];
    answers.answer("logs: put out of order", put(&logs, group, lax, &unordered).await, taken);
    answers.answer("logs: put nothing", put(&logs, group, lax, &[]).await, taken);
    answers.answer("logs: put an empty message", put(&logs, group, lax, &[(now, "")]).await, taken);
    let span = [(now - DAY - 1, "x"), (now, "x")];
    answers.answer("logs: put events more than a day apart", put(&logs, group, lax, &span).await, taken);
    let many = vec![(now, "x"); 10_001];
    answers.answer("logs: put 10,001 events", put(&logs, group, lax, &many).await, taken);
    let large = "x".repeat(1_048_576 - 25);
    answers.answer("logs: put a byte too much", put(&logs, group, lax, &[(now, &large)]).await, taken);
    let fits = "x".repeat(1_048_576 - 26);
    answers.answer("logs: put the largest", put(&logs, group, lax, &[(now - 1, &fits)]).await, taken);
    let old = [(now - 15 * DAY, "x")];
    answers.answer("logs: put too old", put(&logs, group, lax, &old).await, taken);
    let mixed = [(now, "kept"), (now + 3 * HOUR, "x")];
    answers.answer("logs: put an event and one too new", put(&logs, group, lax, &mixed).await, taken);
    let token = logs.put_log_events().log_group_name(group).log_stream_name(lax).sequence_token("made up");
    let event =
        InputLogEvent::builder().timestamp(now).message("token").build().expect("both members are set");
    answers.answer("logs: put with a made-up token", token.log_events(event).send().await, taken);

    let get = logs.get_log_events().log_group_name(group).log_stream_name(STREAM).start_from_head(true);
    answers.answer("logs: get", get.limit(4).send().await, |output| {
        let events = output.events.unwrap_or_default();
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                let text = event.message().unwrap_or_default();
                (event.timestamp.unwrap_or_default() - now, &text[..text.len().min(9)])
            })
            .collect();
        format!("{told:?}, token {}", output.next_forward_token.is_some())
    });
    let missing = logs.get_log_events().log_group_name(group).log_stream_name("missing");
    answers.answer("logs: get from a missing stream", missing.send().await, nothing);
    let groups = logs.describe_log_groups().log_group_name_prefix(group);
    answers.answer("logs: describe groups", groups.send().await, |output| {
        let groups = output.log_groups.unwrap_or_default();
        let told: Vec<_> = groups
            .iter()
            .map(|group| {
                (group.log_group_name(), group.retention_in_days, group.arn().map(|arn| arn.ends_with(":*")))
            })
            .collect();
        format!("{told:?}")
    });
    let elsewhere = setup.aws.account(&unique_account()).logs();
    answers.answer("logs: put from another account", put(&elsewhere, group, STREAM, &good).await, taken);
}
