//! The queue on SQS.

pub mod attributes;
pub mod dead_letters;
#[cfg(feature = "lambda")]
pub mod lambda;

mod direct;
mod sending;

use std::time::Duration;

use aws_sdk_sqs::{
    Client, config,
    error::ProvideErrorMetadata,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageSystemAttributeName,
    },
};
use jiff::Timestamp;
use tokio::time::Instant;

use self::{
    attributes::{AttributesError, QueueAttributes},
    direct::{DirectQueueCalls, Receive},
};
use super::{DeadLetter, Message, Outbox, Outgoing, Queue, QueueError, Receipt, SentAnew};
use crate::{
    aws::{Calls, describe, direct::LeftToSdk},
    credentials::identity::IdentityError,
};

/// SDK clients of an [`SqsQueue`].
#[derive(Clone, Debug)]
pub struct Clients {
    /// For ReceiveMessage.
    polling: Client,
    /// For sends.
    sending: Client,
    /// For all other calls.
    calling: Client,
    /// First attempts of `polling`'s ReceiveMessage and `calling`'s DeleteMessageBatch.
    direct: DirectQueueCalls,
}

impl Clients {
    /// `polling` is for ReceiveMessage; its timeouts are long enough for a long poll. `sending` is for sends. It makes one
    /// attempt only: SQS keeps a message even if its answer is lost, so a second attempt would send the message twice.
    /// `calling` is for all other calls. Direct attempts count with `calls`.
    pub fn new(polling: config::Builder, calling: config::Builder, sending: Client, calls: &Calls) -> Self {
        let direct = DirectQueueCalls::new(calls);
        let polling = polling.interceptor(direct.receives.interceptor());
        let calling = calling.interceptor(direct.deletes.interceptor());
        let (polling, calling) = (Client::from_conf(polling.build()), Client::from_conf(calling.build()));
        Self { polling, sending, calling, direct }
    }

    /// One client for everything, without direct attempts.
    fn all(client: Client) -> Self {
        let direct = DirectQueueCalls::new(&Calls::default());
        Self { polling: client.clone(), sending: client.clone(), calling: client, direct }
    }
}

/// An SQS queue and, if configured, its dead-letter queue.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    clients: Clients,
    url: String,
    dead_letter_url: Option<String>,
    visibility_timeout: Duration,
}

impl SqsQueue {
    /// Receives from `url`, and hides each received message for `visibility_timeout`.
    pub fn new(
        clients: Clients,
        url: String,
        dead_letter_url: Option<String>,
        visibility_timeout: Duration,
    ) -> Self {
        Self { clients, url, dead_letter_url, visibility_timeout }
    }

    /// Creates a queue that is only used for [`Queue::probe_sending`] and [`SqsQueue::attributes`].
    pub fn asking(client: Client, url: String) -> Self {
        Self::new(Clients::all(client), url, None, Duration::ZERO)
    }

    /// Which permissions to receive, delete and hide messages are denied. Asks with arguments that no call accepts, so no message is
    /// touched. SQS checks the permission first.
    ///
    /// # Errors
    /// SQS does not answer.
    pub async fn denied_permissions(&self) -> Result<Vec<&'static str>, QueueError> {
        /// No receipt of SQS has this text.
        const RECEIPT: &str = "logferry-doctor";
        let client = &self.clients.calling;
        let receive = client.receive_message().queue_url(&self.url).max_number_of_messages(11).send().await;
        let receive = receive.map(drop).map_err(|error| refusal(error.code(), describe(&error)));
        let entry = DeleteMessageBatchRequestEntry::builder().id("0").receipt_handle(RECEIPT);
        let delete = client.delete_message_batch().queue_url(&self.url);
        let delete = delete.entries(entry.build().expect("id and handle are set")).send().await;
        let delete = delete.map(drop).map_err(|error| refusal(error.code(), describe(&error)));
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id("0").receipt_handle(RECEIPT);
        let hide = client.change_message_visibility_batch().queue_url(&self.url);
        let entry = entry.visibility_timeout(0).build().expect("id and handle are set");
        let hide = hide.entries(entry).send().await;
        let hide = hide.map(drop).map_err(|error| refusal(error.code(), describe(&error)));
        let mut denied = Vec::new();
        for (permission, answer) in [
            ("sqs:ReceiveMessage", receive),
            ("sqs:DeleteMessage", delete),
            ("sqs:ChangeMessageVisibility", hide),
        ] {
            match answer {
                Err(QueueError::Denied(_)) => denied.push(permission),
                Err(error @ QueueError::Missing(_)) => return Err(error),
                _ => {}
            }
        }
        Ok(denied)
    }

    async fn receive_by_sdk(
        &self,
        asked: &Receive<'_>,
        left: LeftToSdk,
    ) -> Result<Vec<aws_sdk_sqs::types::Message>, QueueError> {
        let system = asked.message_system_attribute_names.iter().copied();
        let ours = asked.message_attribute_names.iter().copied();
        let call = self.clients.polling.receive_message().queue_url(asked.queue_url);
        let call = call
            .max_number_of_messages(asked.max_number_of_messages)
            .wait_time_seconds(asked.wait_time_seconds)
            .visibility_timeout(asked.visibility_timeout)
            .set_message_system_attribute_names(Some(system.map(MessageSystemAttributeName::from).collect()))
            .set_message_attribute_names(Some(ours.map(str::to_owned).collect()));
        match call.customize().interceptor(left).send().await {
            Ok(output) => Ok(output.messages.unwrap_or_default()),
            Err(error) if is_missing(error.code()) => Err(QueueError::Missing(describe(&error))),
            Err(error) => Err(refusal(error.code(), describe(&error))),
        }
    }

    /// Reads the queue's attributes.
    ///
    /// # Errors
    /// The queue does not exist, IAM denies the call, or SQS does not answer.
    pub async fn attributes(&self) -> Result<QueueAttributes, AttributesError> {
        attributes::attributes(&self.clients.calling, &self.url).await
    }
}

impl Queue for SqsQueue {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let asked = Receive {
            queue_url: &self.url,
            max_number_of_messages: i32::try_from(max).expect("max is 10 at most"),
            wait_time_seconds: whole_seconds(wait),
            visibility_timeout: whole_seconds(self.visibility_timeout),
            message_system_attribute_names: &[
                "ApproximateReceiveCount",
                "ApproximateFirstReceiveTimestamp",
                "SentTimestamp",
                "AWSTraceHeader",
            ],
            message_attribute_names: &[sending::FIRST_RECEIVED, sending::ATTEMPTS, sending::REFUSALS],
        };
        let messages = match self.clients.direct.receive(&asked).await {
            Ok(messages) => messages,
            Err(left) => self.receive_by_sdk(&asked, left).await?,
        };
        let (now, received_at) = (Timestamp::now(), Instant::now());
        Ok(messages.into_iter().filter_map(|received| message(received, now, received_at)).collect())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let left = match self.clients.direct.delete(&self.url, receipts).await {
            Ok((done, failed)) => return by_entry(receipts.len(), done.iter().map(String::as_str), failed),
            Err(left) => left,
        };
        let entries = receipts.iter().enumerate().map(|(index, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&receipt.0)
                .build()
                .expect("id and handle are set")
        });
        let call = self.clients.calling.delete_message_batch().queue_url(&self.url);
        let call = call.set_entries(Some(entries.collect()));
        match call.customize().interceptor(left).send().await {
            Ok(output) => {
                by_entry(receipts.len(), output.successful.iter().map(|entry| entry.id()), output.failed)
            }
            Err(error) => every_entry(receipts.len(), &refusal(error.code(), describe(&error))),
        }
    }

    async fn change_visibility(&self, entries: &[(Receipt, Duration)]) -> Vec<Result<(), QueueError>> {
        let requests = entries.iter().enumerate().map(|(index, (receipt, timeout))| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&receipt.0)
                .visibility_timeout(whole_seconds(*timeout))
                .build()
                .expect("id and handle are set")
        });
        let call = self.clients.calling.change_message_visibility_batch().queue_url(&self.url);
        let call = call.set_entries(Some(requests.collect()));
        match call.send().await {
            Ok(output) => {
                let done = output.successful.iter().map(|entry| entry.id());
                by_entry(entries.len(), done, output.failed).into_iter().map(no_longer_hidden).collect()
            }
            Err(error) => every_entry(entries.len(), &refusal(error.code(), describe(&error))),
        }
    }

    async fn send_anew(&self, entries: &[SentAnew]) -> Vec<Result<(), QueueError>> {
        let now = Timestamp::now();
        let requests = entries.iter().map(|entry| sending::anew(entry, now));
        sending::send(&self.clients.sending, &self.url, requests.collect()).await
    }

    async fn probe_sending(&self) -> Result<(), QueueError> {
        let call = self.clients.calling.send_message_batch().queue_url(&self.url);
        match call.entries(sending::impossible()).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_missing(error.code()) => Err(QueueError::Missing(describe(&error))),
            // SQS checks the permission before the entry: an error about the entry means that IAM allows the call.
            Err(error) => match refusal(error.code(), describe(&error)) {
                QueueError::Refused(_) | QueueError::Unavailable(_)
                    if IdentityError::of_own(&error).is_none()
                        && error.raw_response().is_some_and(|raw| raw.status().is_client_error()) =>
                {
                    Ok(())
                }
                other => Err(other),
            },
        }
    }

    async fn retention(&self) -> Result<Duration, QueueError> {
        match self.attributes().await {
            Ok(attributes) => Ok(attributes.retention),
            Err(AttributesError::Denied(problem)) => Err(QueueError::Denied(problem)),
            Err(AttributesError::Missing(problem) | AttributesError::Unavailable(problem)) => {
                Err(QueueError::Unavailable(problem))
            }
        }
    }

    fn has_dead_letters(&self) -> bool {
        self.dead_letter_url.is_some()
    }

    async fn send_dead_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        let url = self.dead_letter_url.as_ref();
        let url =
            url.ok_or_else(|| QueueError::Unavailable("queue.dead_letter_url is not set".to_owned()))?;
        self.clients
            .sending
            .send_message()
            .queue_url(url)
            .message_body(&letter.body)
            .set_message_attributes(Some(sending::letter_attributes(&letter.body, &letter.attributes)))
            .send()
            .await
            .map(drop)
            .map_err(|error| refusal(error.code(), describe(&error)))
    }
}

impl Outbox for SqsQueue {
    async fn send(&self, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let entries = messages.iter().map(sending::outgoing).collect();
        sending::send(&self.clients.sending, &self.url, entries).await
    }
}

/// Converts to SQS's whole seconds, rounded up so that no time ends early.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

/// Converts a message of SQS. `now` and `received_at` are the time of the receive, by the wall clock and the monotonic clock.
fn message(message: aws_sdk_sqs::types::Message, now: Timestamp, received_at: Instant) -> Option<Message> {
    use MessageSystemAttributeName::{
        ApproximateFirstReceiveTimestamp, ApproximateReceiveCount, AwsTraceHeader, SentTimestamp,
    };
    let system = |name| message.attributes.as_ref().and_then(|attributes| attributes.get(&name));
    let ours = |name| message.message_attributes.as_ref().and_then(|all| all.get(name)?.string_value());
    // A time that cannot be read, or that is ahead of the worker's clock, counts as now.
    let since = |millis: Option<&str>| {
        let then = millis.and_then(|text| text.parse().ok()).filter(|millis| *millis > 0);
        let then = then.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        then.and_then(|then| Duration::try_from(now.duration_since(then)).ok()).unwrap_or_default()
    };
    let count = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok());
    let receives = count(system(ApproximateReceiveCount).map(String::as_str)).unwrap_or(1);
    let before = count(ours(sending::ATTEMPTS)).unwrap_or(0);
    let first_received = system(ApproximateFirstReceiveTimestamp).map(String::as_str);
    Some(Message {
        attempts: receives.saturating_add(before),
        refusals: count(ours(sending::REFUSALS)).unwrap_or(0),
        age_when_received: since(ours(sending::FIRST_RECEIVED)).max(since(first_received)),
        kept_when_received: since(system(SentTimestamp).map(String::as_str)),
        trace_header: system(AwsTraceHeader).cloned(),
        received_at,
        id: message.message_id?,
        // A message without a receipt could not be deleted, so it is ignored. SQS never sends one.
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
    })
}

/// Result of each entry. An entry that SQS names neither as successful nor as failed counts as failed: otherwise a
/// message whose copy was never stored could be deleted.
fn by_entry<'a>(
    count: usize,
    done: impl IntoIterator<Item = &'a str>,
    failed: Vec<BatchResultErrorEntry>,
) -> Vec<Result<(), QueueError>> {
    let unknown = QueueError::Unavailable("the answer of SQS does not name the entry".to_owned());
    let mut results = every_entry(count, &unknown);
    for id in done {
        if let Some(result) = id.parse().ok().and_then(|index: usize| results.get_mut(index)) {
            *result = Ok(());
        }
    }
    for entry in failed {
        let problem = format!("{}: {}", entry.code, entry.message.as_deref().unwrap_or("no message"));
        let gone = entry.code.contains("ReceiptHandleIsInvalid") || entry.code.contains("MessageNotInflight");
        if let Some(result) = entry.id.parse().ok().and_then(|index: usize| results.get_mut(index)) {
            *result = Err(match refusal(Some(&entry.code), problem) {
                QueueError::Unavailable(problem) if gone => QueueError::Gone(problem),
                QueueError::Unavailable(problem) if entry.sender_fault && !is_throttling(&entry.code) => {
                    QueueError::Refused(problem)
                }
                other => other,
            });
        }
    }
    results
}

/// Maps InvalidParameterValue to [`QueueError::Gone`]: SQS answers a change of visibility with this code if the message is
/// not in flight.
fn no_longer_hidden(result: Result<(), QueueError>) -> Result<(), QueueError> {
    result.map_err(|error| match error {
        QueueError::Refused(problem) if problem.starts_with("InvalidParameterValue") => {
            QueueError::Gone(problem)
        }
        other => other,
    })
}

/// Maps AWS's error code to an error of the port. For a text longer than the queue's MaximumMessageSize, SQS returns
/// InvalidParameterValue. Source: SQS API reference, errors of SendMessage and SendMessageBatch.
fn refusal(code: Option<&str>, problem: String) -> QueueError {
    const MESSAGE_ERRORS: [&str; 3] =
        ["InvalidParameterValue", "InvalidMessageContents", "BatchRequestTooLong"];
    match code {
        // Also `KMS.AccessDeniedException`, for a queue that is encrypted with a KMS key.
        Some(code) if code.contains("AccessDenied") => QueueError::Denied(problem),
        Some(code) if MESSAGE_ERRORS.iter().any(|refused| code.contains(refused)) => {
            QueueError::Refused(problem)
        }
        _ => QueueError::Unavailable(problem),
    }
}

/// Whether the error code is a throttling error: the same entry may succeed later.
fn is_throttling(code: &str) -> bool {
    code.contains("Throttl")
}

/// Whether the error code says that the queue does not exist, in SQS's JSON or query protocol.
fn is_missing(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.contains("NonExistentQueue") || code.contains("QueueDoesNotExist"))
}

/// Returns the error for every entry of a call that failed as a whole.
fn every_entry(count: usize, error: &QueueError) -> Vec<Result<(), QueueError>> {
    vec![Err(error.clone()); count]
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::types::MessageAttributeValue;

    use super::*;

    #[test]
    fn each_failure_belongs_to_the_entry_that_it_names() {
        let entry = |id: &str, code: &str, sender_fault| {
            BatchResultErrorEntry::builder()
                .id(id)
                .code(code)
                .sender_fault(sender_fault)
                .build()
                .expect("all members are set")
        };
        let failure = |id: &str, code: &str| entry(id, code, true);
        let failures = vec![failure("2", "ReceiptHandleIsInvalid"), entry("0", "InternalError", false)];
        let results = by_entry(4, ["1", "9", "x"], failures);
        assert!(matches!(results[0], Err(QueueError::Unavailable(_))));
        assert!(results[1].is_ok());
        assert!(matches!(results[2], Err(QueueError::Gone(_))));
        assert!(matches!(results[3], Err(QueueError::Unavailable(_))), "SQS does not name entry 3");
        let mut results =
            by_entry(1, [], vec![failure("0", "InvalidParameterValue")]).into_iter().map(no_longer_hidden);
        assert!(matches!(results.next(), Some(Err(QueueError::Gone(_)))));
        let denied = by_entry(1, [], vec![failure("0", "KMS.AccessDeniedException")]);
        assert!(matches!(denied[0], Err(QueueError::Denied(_))));
        for code in ["InvalidParameterValue", "InvalidMessageContents", "KMS.DisabledException"] {
            let refused = by_entry(1, [], vec![failure("0", code)]);
            assert!(matches!(refused[0], Err(QueueError::Refused(_))), "{code}: {refused:?}");
        }
        for code in ["RequestThrottled", "KMS.ThrottlingException"] {
            let throttled = by_entry(1, [], vec![failure("0", code)]);
            assert!(matches!(throttled[0], Err(QueueError::Unavailable(_))), "{code}: {throttled:?}");
        }
    }

    #[test]
    fn errors_about_the_message_are_told_apart_from_errors_of_the_queue() {
        let check = |code: Option<&str>, refused: bool| {
            let found = refusal(code, "p".into());
            assert_eq!(matches!(found, QueueError::Refused(_)), refused, "{code:?}: {found:?}");
        };
        check(Some("AWS.SimpleQueueService.BatchRequestTooLong"), true);
        check(Some("com.amazonaws.sqs#BatchRequestTooLong"), true);
        check(Some("InvalidMessageContents"), true);
        check(Some("InvalidParameterValue"), true);
        check(Some("RequestThrottled"), false);
        check(Some("InternalError"), false);
        check(Some("AWS.SimpleQueueService.NonExistentQueue"), false);
        check(None, false);
    }

    #[test]
    fn age_attempts_and_refusals_include_those_of_the_old_message() {
        let now = Timestamp::from_second(1_000_000).expect("a time");
        let check = |sent: &str,
                     first: &str,
                     receives: &str,
                     ours: Option<(&str, &str)>,
                     expected: (u64, u64, u32)| {
            let text = |value: &str| {
                let value = MessageAttributeValue::builder().data_type("String").string_value(value);
                value.build().expect("the type is set")
            };
            let mut received = aws_sdk_sqs::types::Message::builder()
                .message_id("1")
                .receipt_handle("r")
                .attributes(MessageSystemAttributeName::SentTimestamp, sent)
                .attributes(MessageSystemAttributeName::ApproximateFirstReceiveTimestamp, first)
                .attributes(MessageSystemAttributeName::ApproximateReceiveCount, receives);
            if let Some((first, attempts)) = ours {
                received = received
                    .message_attributes(sending::FIRST_RECEIVED, text(first))
                    .message_attributes(sending::ATTEMPTS, text(attempts))
                    .message_attributes(sending::REFUSALS, text(attempts));
            }
            let message =
                message(received.build(), now, Instant::now()).expect("the message has an id and a receipt");
            let Message { attempts, age_when_received: age, kept_when_received: kept, .. } = message;
            assert_eq!((kept.as_secs(), age.as_secs(), attempts), expected);
            let refusals = ours.and_then(|(_, refusals)| refusals.parse().ok()).unwrap_or(0);
            assert_eq!(message.refusals, refusals);
        };
        check("999990000", "999999000", "2", None, (10, 1, 2));
        check("999990000", "999999000", "2", Some(("999000000", "40")), (10, 1000, 42));
        // An unreadable time counts as now, and an unreadable number of attempts as zero. A time ahead of the worker's
        // clock gives no negative age.
        check("1000000500", "0", "1", Some(("soon", "-1")), (0, 0, 1));
        check("999990000", "x", "4294967295", Some(("9999999999999999999", "5")), (10, 0, u32::MAX));
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_secs(43_200)), 43_200);
    }
}
