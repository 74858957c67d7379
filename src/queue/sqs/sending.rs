//! Builds the requests that send messages: anew to their own queue, back to the source queue, or as dead letters.

use std::{collections::HashMap, ops::Range};

use aws_sdk_sqs::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        MessageAttributeValue, MessageSystemAttributeNameForSends, MessageSystemAttributeValue,
        SendMessageBatchRequestEntry,
    },
};
use jiff::{SignedDuration, Timestamp};

use super::{by_entry, every_entry, refusal, whole_seconds};
use crate::{
    aws::describe,
    queue::{MAX_BATCH, MAX_DELAY, MAX_MESSAGE_BYTES, Outgoing, QueueError, SentAnew},
};

/// Attribute of a message that was sent anew: the time of the first receive, in epoch milliseconds.
pub(super) const FIRST_RECEIVED: &str = "logferry.first_received";
/// Attribute of a message that was sent anew: the number of receives so far.
pub(super) const ATTEMPTS: &str = "logferry.attempts";
/// Attribute of a message that was sent anew: the number of attempts so far in which AWS refused a part of the message.
pub(super) const REFUSALS: &str = "logferry.refusals";
/// The only attribute of a dead letter that may be shortened, because it is a sentence. All others are names and numbers.
const ERROR: &str = "error";
/// Longest attribute of a dead letter, in bytes. The longest key of an S3 object fits.
const MAX_ATTRIBUTE: usize = 1024;
/// Longest `MessageGroupId`. Source: SQS API reference, SendMessage.
const MAX_GROUP_ID: usize = 128;

/// Sends entries to `url`, in as few calls as the limits on entries and bytes allow. An entry that is longer than SQS's
/// limit is refused without a call.
pub(super) async fn send(
    client: &Client,
    url: &str,
    entries: Vec<SendMessageBatchRequestEntry>,
) -> Vec<Result<(), QueueError>> {
    let lengths: Vec<_> = entries.iter().map(length).collect();
    let mut entries = entries.into_iter();
    let mut results = Vec::new();
    for range in batches(&lengths) {
        let batch = entries.by_ref().take(range.len()).zip(0..);
        // The id is the entry's position in its call: the answer names entries by their ids.
        let batch: Vec<_> = batch.map(|(entry, place)| identified(entry, place)).collect();
        if lengths[range.start] > MAX_MESSAGE_BYTES {
            let length = lengths[range.start];
            let problem =
                format!("text and attributes have {length} bytes, and SQS allows {MAX_MESSAGE_BYTES}");
            results.push(Err(QueueError::Refused(problem)));
            continue;
        }
        let call = client.send_message_batch().queue_url(url).set_entries(Some(batch));
        results.extend(match call.send().await {
            Ok(output) => {
                by_entry(range.len(), output.successful.iter().map(|entry| entry.id()), output.failed)
            }
            Err(error) => every_entry(range.len(), &refusal(error.code(), describe(&error))),
        });
    }
    results
}

/// Creates an entry with a text and no attributes, for a call with one entry or for [`send`].
pub(super) fn plain(body: &str) -> SendMessageBatchRequestEntry {
    let entry = SendMessageBatchRequestEntry::builder().id("0").message_body(body);
    entry.build().expect("id and body are set")
}

fn identified(mut entry: SendMessageBatchRequestEntry, place: usize) -> SendMessageBatchRequestEntry {
    entry.id = place.to_string();
    entry
}

/// Creates the entry that sends a message anew. `now` is the worker's time.
pub(super) fn anew(sent: &SentAnew, now: Timestamp) -> SendMessageBatchRequestEntry {
    let message = &sent.message;
    let age = SignedDuration::try_from(message.age()).unwrap_or(SignedDuration::MAX);
    let first_received = now.checked_sub(age).unwrap_or(Timestamp::MIN).as_millisecond();
    let mut entry = plain(&message.body);
    entry.delay_seconds = Some(whole_seconds(sent.delay.min(MAX_DELAY)));
    entry.message_group_id = sent.tenant_id.clone().filter(|id| is_group_id(id));
    let mut attributes = HashMap::from([
        (FIRST_RECEIVED.to_owned(), text_attribute(first_received.to_string())),
        (ATTEMPTS.to_owned(), text_attribute(message.attempts.to_string())),
    ]);
    if sent.refusals > 0 {
        attributes.insert(REFUSALS.to_owned(), text_attribute(sent.refusals.to_string()));
    }
    entry.message_attributes = Some(attributes);
    entry.message_system_attributes = message.trace_header.as_ref().map(|header| {
        let value = MessageSystemAttributeValue::builder().data_type("String").string_value(header);
        let value = value.build().expect("the type is set");
        HashMap::from([(MessageSystemAttributeNameForSends::AwsTraceHeader, value)])
    });
    entry
}

/// Creates the entry of a message about an object.
pub(super) fn outgoing(message: &Outgoing) -> SendMessageBatchRequestEntry {
    let mut entry = plain(&message.body);
    entry.message_group_id = Some(message.tenant_id.clone()).filter(|id| is_group_id(id));
    entry
}

/// Creates an entry that SQS always refuses: its text is empty, and its delay is too long.
pub(super) fn impossible() -> SendMessageBatchRequestEntry {
    let mut entry = plain("");
    entry.delay_seconds = Some(whole_seconds(MAX_DELAY) + 1);
    entry
}

/// Converts a letter's attributes for SQS, so that text and attributes together have at most [`MAX_MESSAGE_BYTES`].
/// Earlier attributes have priority. `error` is shortened at a character boundary. Any other attribute that does not
/// fit is left out, because a shortened name would be another name.
pub(super) fn letter_attributes(
    body: &str,
    attributes: &[(&'static str, String)],
) -> HashMap<String, MessageAttributeValue> {
    let mut room = MAX_MESSAGE_BYTES.saturating_sub(body.len());
    let mut fitting = HashMap::new();
    for (name, value) in attributes {
        let most = room.saturating_sub(attribute_length(name, "")).min(MAX_ATTRIBUTE);
        let value = match *name {
            ERROR => legal_attribute(value, most),
            _ => legal_attribute(value, usize::MAX),
        };
        if (1..=most).contains(&value.len()) {
            room -= attribute_length(name, &value);
            fitting.insert((*name).to_owned(), text_attribute(value));
        }
    }
    fitting
}

/// Bytes of an attribute as SQS counts them: name, type and value.
fn attribute_length(name: &str, value: &str) -> usize {
    name.len() + "String".len() + value.len()
}

fn length(entry: &SendMessageBatchRequestEntry) -> usize {
    let attributes = entry.message_attributes.iter().flatten();
    let lengths =
        attributes.map(|(name, value)| attribute_length(name, value.string_value().unwrap_or_default()));
    entry.message_body.len() + lengths.sum::<usize>()
}

fn text_attribute(value: String) -> MessageAttributeValue {
    let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
    value.expect("the type is set")
}

/// Makes a value legal for an SQS attribute: replaces characters that XML 1.0 does not allow, and keeps at most `most`
/// bytes. Source: SQS API reference, SendMessage.
fn legal_attribute(value: &str, most: usize) -> String {
    let legal = |c: char| {
        !(c.is_control() && !matches!(c, '\t' | '\n' | '\r') || matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    let legal = value.chars().map(|c| if legal(c) { c } else { char::REPLACEMENT_CHARACTER });
    let mut kept = 0;
    legal
        .take_while(|c| {
            kept += c.len_utf8();
            kept <= most
        })
        .collect()
}

/// Whether the text is a legal MessageGroupId: 1 to 128 ASCII letters, digits and punctuation marks. Source: SQS API reference,
/// SendMessage.
fn is_group_id(id: &str) -> bool {
    (1..=MAX_GROUP_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Splits entries of these lengths, in order, into as few calls as the limits allow. An entry that is too long for any
/// call gets a range of its own.
fn batches(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut batches: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (index, length) in lengths.iter().enumerate() {
        bytes += length;
        match batches.last_mut() {
            Some(batch) if bytes <= MAX_MESSAGE_BYTES && batch.len() < MAX_BATCH => batch.end = index + 1,
            _ => {
                batches.push(index..index + 1);
                bytes = *length;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use logferry_sandbox::Sandbox;
    use logferry_testbed::provision::{Aws, Provider, ProviderSpec};

    use super::*;
    use crate::queue::Message;

    #[test]
    fn batches_stay_within_both_limits() {
        let check = |lengths: &[usize], expected: &[Range<usize>]| assert_eq!(batches(lengths), expected);
        check(&[], &[]);
        check(&[5; 3], std::slice::from_ref(&(0..3)));
        check(&[5; 21], &[0..10, 10..20, 20..21]);
        check(&[MAX_MESSAGE_BYTES; 2], &[0..1, 1..2]);
        check(&[MAX_MESSAGE_BYTES - 1, 1, 1], &[0..2, 2..3]);
        check(&[1, MAX_MESSAGE_BYTES + 1, 1, 1], &[0..1, 1..2, 2..4]);
    }

    /// Entries that do not fit into one call are sent in several calls. Each result belongs to its entry.
    #[tokio::test]
    async fn results_of_several_calls_belong_to_their_entries() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("calls")).await.expect("the provider can be set up");
        let sqs = aws.account(&provider.account).sqs();
        let of = |length: usize| plain(&"b".repeat(length));
        let most = MAX_MESSAGE_BYTES;
        let entries = vec![of(most / 2), of(most / 2 + 1), of(1), of(most + 1), of(most / 2), of(most)];
        let results = send(&sqs, &provider.queue_url, entries).await;
        assert_eq!(
            results.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, true, false, true, true]
        );
        let counts = sandbox.queue_counts(&provider.queue_arn).expect("the queue is there");
        assert_eq!(counts.visible, 5);
    }

    /// A text of nearly the greatest length leaves no room for logferry's attributes. No server listens at the client's
    /// address, so a call would fail with another error.
    #[tokio::test]
    async fn a_message_too_long_for_sqs_is_refused_without_a_call() {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest())
            .build();
        let client = Client::from_conf(config);
        let too_long = || {
            let mut entry = plain(&"b".repeat(MAX_MESSAGE_BYTES - 20));
            entry.message_attributes =
                Some(HashMap::from([(ATTEMPTS.to_owned(), text_attribute("7".to_owned()))]));
            entry
        };
        let results = send(&client, "http://localhost", vec![too_long(), too_long()]).await;
        assert_eq!(results.len(), 2);
        for result in results {
            assert!(
                matches!(&result, Err(QueueError::Refused(problem)) if problem.contains("1048576")),
                "{result:?}"
            );
        }
    }

    #[test]
    fn illegal_characters_in_attributes_are_replaced() {
        assert_eq!(legal_attribute("a\0b\u{ffff}c\n", 1024), "a\u{fffd}b\u{fffd}c\n");
        assert_eq!(legal_attribute(&"é".repeat(1000), 1023).chars().count(), 511);
        // U+FFFD has three bytes, more than the character that it replaces.
        assert_eq!(legal_attribute(&"\0".repeat(1000), 1024).len(), 1023);
    }

    #[test]
    fn the_error_is_shortened_to_fit_and_other_attributes_are_left_out() {
        let check = |room: usize, expected: &[(&str, usize)]| {
            let attributes =
                [("reason", "bad_key".to_owned()), ("error", "é".repeat(450)), ("tenant", "acme".to_owned())];
            let body = "b".repeat(MAX_MESSAGE_BYTES - room);
            let fitting = letter_attributes(&body, &attributes);
            let text = |name: &str| fitting.get(name).and_then(|value| value.string_value());
            let found: Vec<_> = ["error", "reason", "tenant"]
                .into_iter()
                .filter_map(|name| Some((name, text(name)?.len())))
                .collect();
            assert_eq!(found, expected, "{room} bytes of room");
            let length: usize = found.iter().map(|(name, length)| name.len() + 6 + length).sum();
            assert!(length <= room, "{length} bytes in {room}");
        };
        check(2000, &[("error", 900), ("reason", 7), ("tenant", 4)]);
        check(19 + 911 + 16, &[("error", 900), ("reason", 7), ("tenant", 4)]);
        check(19 + 911 + 15, &[("error", 900), ("reason", 7)]);
        check(19 + 100, &[("error", 88), ("reason", 7)]);
        check(19 + 11 + 1, &[("reason", 7)]);
        check(19 + 16, &[("error", 4), ("reason", 7)]);
        check(18, &[("error", 6)]);
        check(16, &[("error", 4)]);
        check(10, &[]);
        check(0, &[]);
    }

    /// Operators search for tenants' names. A shortened name could be the name of another tenant.
    #[test]
    fn a_list_of_tenants_that_is_too_long_is_left_out() {
        let names = |count: usize| (0..count).map(|n| format!("tenant-{n:04}")).collect::<Vec<_>>().join("/");
        let check = |count: usize, fits: bool| {
            let attributes = [("tenant", "tenant-0000".to_owned()), ("tenants", names(count))];
            let fitting = letter_attributes("text", &attributes);
            let found = fitting.get("tenants").and_then(|value| value.string_value());
            assert_eq!(found, fits.then(|| names(count)).as_deref());
            assert!(fitting.contains_key("tenant"));
        };
        check(2, true);
        check(85, true);
        check(86, false);
        check(100, false);
    }

    /// With random lengths and characters, letters stay within SQS's limit, and attributes other than `error` are whole
    /// or absent.
    #[test]
    fn every_letter_fits() {
        let mut random = fastrand::Rng::with_seed(12);
        for _ in 0..2000 {
            let room = random.usize(0..6000);
            let body = "b".repeat(MAX_MESSAGE_BYTES - room);
            let names = ["reason", "message_id", "tenant", "bucket", "key", "version", "error", "failures"];
            let mut value = || {
                let c = *random.choice(&['x', 'é', '日', '😀', '\0']).expect("the list is not empty");
                c.to_string().repeat(random.usize(0..1500))
            };
            let attributes: Vec<_> = names.into_iter().map(|name| (name, value())).collect();
            let fitting = letter_attributes(&body, &attributes);
            let lengths = fitting
                .iter()
                .map(|(name, value)| attribute_length(name, value.string_value().unwrap_or_default()));
            assert!(lengths.sum::<usize>() <= room);
            for (name, value) in &attributes {
                let whole = legal_attribute(value, usize::MAX);
                let sent = fitting.get(*name).and_then(|value| value.string_value());
                match *name {
                    "error" => assert!(sent.is_none_or(|sent| whole.starts_with(sent))),
                    _ => assert!(sent.is_none_or(|sent| whole == sent), "{name}"),
                }
            }
            let reason = legal_attribute(&attributes[0].1, usize::MAX);
            let fits = reason.len() <= MAX_ATTRIBUTE && attribute_length("reason", &reason) <= room;
            assert_eq!(fitting.contains_key("reason"), fits && !reason.is_empty());
        }
    }

    #[test]
    fn a_message_sent_anew_carries_attempts_first_receive_trace_and_tenant() {
        let check = |tenant: Option<&str>, group: Option<&str>, trace: Option<&str>| {
            let message = Message {
                attempts: 7,
                trace_header: trace.map(str::to_owned),
                age_when_received: Duration::from_secs(3600),
                ..Message::sample("text")
            };
            let (message, delay) = (Arc::new(message), Duration::from_millis(61_500));
            let now = Timestamp::from_second(1_000_000).expect("a time");
            let tenant_id = tenant.map(str::to_owned);
            let entry = anew(&SentAnew { message, refusals: 2, delay, tenant_id }, now);
            assert_eq!((entry.message_body(), entry.delay_seconds()), ("text", Some(62)));
            let attribute = |name| entry.message_attributes().and_then(|all| all.get(name)?.string_value());
            assert_eq!((attribute(ATTEMPTS), attribute(REFUSALS)), (Some("7"), Some("2")));
            let first: i64 =
                attribute(FIRST_RECEIVED).expect("the attribute is set").parse().expect("a number");
            // The time since the receive counts as well.
            assert!((996_390_000..=996_400_000).contains(&first), "{first}");
            let system = entry.message_system_attributes().and_then(|all| all.values().next());
            assert_eq!(system.and_then(|value| value.string_value()), trace);
            assert_eq!(entry.message_group_id(), group);
        };
        check(Some("acme"), Some("acme"), Some("Root=1-5759e988-bd862e3fe1be46a994272793"));
        check(Some("a-b_c.d(e)"), Some("a-b_c.d(e)"), None);
        check(None, None, None);
        for no_group in ["", "é", "a b", &"x".repeat(129)] {
            check(Some(no_group), None, None);
        }
    }
}
