//! The queue as SQS.

pub mod attributes;
pub mod dead_letters;

use std::{collections::HashMap, time::Duration};

use aws_sdk_sqs::{
    Client,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageAttributeValue, MessageSystemAttributeName,
    },
};
use jiff::Timestamp;

use super::{DeadLetter, Message, Queue, QueueError, Receipt};
use crate::aws::describe;

/// Longest attribute of a dead letter, in bytes; a key, the longest of them that matters, has up to 1,024.
const MAX_ATTRIBUTE: usize = 1024;

/// An SQS queue and, perhaps, the queue of its dead letters.
#[derive(Clone, Debug)]
pub struct SqsQueue {
    client: Client,
    url: String,
    dead_letter_url: Option<String>,
    visibility_timeout: Duration,
}

impl SqsQueue {
    /// Polls `url`; what comes is hidden for `visibility_timeout`.
    pub fn new(
        client: Client,
        url: String,
        dead_letter_url: Option<String>,
        visibility_timeout: Duration,
    ) -> Self {
        Self { client, url, dead_letter_url, visibility_timeout }
    }
}

impl Queue for SqsQueue {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let output = self
            .client
            .receive_message()
            .queue_url(&self.url)
            .max_number_of_messages(i32::try_from(max).expect("10 at most"))
            .wait_time_seconds(whole_seconds(wait))
            .visibility_timeout(whole_seconds(self.visibility_timeout))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .send()
            .await
            .map_err(|error| QueueError::Unavailable(describe(&error)))?;
        Ok(output.messages.unwrap_or_default().into_iter().filter_map(message).collect())
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        let entries = receipts.iter().enumerate().map(|(index, receipt)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&receipt.0)
                .build()
                .expect("id and handle are set")
        });
        let call =
            self.client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
        match call.send().await {
            Ok(output) => by_entry(receipts.len(), output.failed),
            Err(error) => unavailable(receipts.len(), &describe(&error)),
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
        let call = self
            .client
            .change_message_visibility_batch()
            .queue_url(&self.url)
            .set_entries(Some(requests.collect()));
        match call.send().await {
            Ok(output) => by_entry(entries.len(), output.failed).into_iter().map(no_longer_hidden).collect(),
            Err(error) => unavailable(entries.len(), &describe(&error)),
        }
    }

    fn has_dead_letters(&self) -> bool {
        self.dead_letter_url.is_some()
    }

    async fn send_dead_letter(&self, letter: &DeadLetter) -> Result<(), QueueError> {
        let url = self.dead_letter_url.as_ref();
        let url =
            url.ok_or_else(|| QueueError::Unavailable("queue.dead_letter_url is not set".to_owned()))?;
        let attributes: HashMap<_, _> = letter
            .attributes
            .iter()
            .map(|(name, value)| (*name, legal_attribute(value)))
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| {
                let value = MessageAttributeValue::builder().data_type("String").string_value(value).build();
                (name.to_owned(), value.expect("the type is set"))
            })
            .collect();
        self.client
            .send_message()
            .queue_url(url)
            .message_body(&letter.body)
            .set_message_attributes(Some(attributes))
            .send()
            .await
            .map(drop)
            .map_err(|error| QueueError::Unavailable(describe(&error)))
    }
}

/// SQS counts in whole seconds; a fraction is rounded up, so that nothing ends early.
fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).unwrap_or(i32::MAX)
}

fn message(message: aws_sdk_sqs::types::Message) -> Option<Message> {
    let attribute = |name| message.attributes.as_ref().and_then(|attributes| attributes.get(&name));
    let receive_count = attribute(MessageSystemAttributeName::ApproximateReceiveCount);
    let sent_at = attribute(MessageSystemAttributeName::SentTimestamp);
    Some(Message {
        receive_count: receive_count.and_then(|count| count.parse().ok()).unwrap_or(1),
        sent_at: sent_at.and_then(|at| at.parse().ok()).and_then(|at| Timestamp::from_millisecond(at).ok()),
        id: message.message_id?,
        // A message without a receipt could not be answered for; SQS never sends one.
        receipt: Receipt(message.receipt_handle?),
        body: message.body.unwrap_or_default(),
    })
}

fn by_entry(count: usize, failed: Vec<BatchResultErrorEntry>) -> Vec<Result<(), QueueError>> {
    let mut results = vec![Ok(()); count];
    for entry in failed {
        let problem = format!("{}: {}", entry.code, entry.message.as_deref().unwrap_or("no message"));
        let gone = entry.code.contains("ReceiptHandleIsInvalid") || entry.code.contains("MessageNotInflight");
        if let Some(result) = entry.id.parse().ok().and_then(|index: usize| results.get_mut(index)) {
            *result = Err(if gone { QueueError::Gone(problem) } else { QueueError::Unavailable(problem) });
        }
    }
    results
}

/// A value that SQS takes as an attribute: no characters that XML 1.0 has not, and short enough that body and attributes
/// together stay below what a message may be. Source: SQS API reference, SendMessage.
fn legal_attribute(value: &str) -> String {
    let legal = |c: char| {
        !(c.is_control() && !matches!(c, '\t' | '\n' | '\r') || matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    let kept = &value[..value.floor_char_boundary(MAX_ATTRIBUTE)];
    kept.chars().map(|c| if legal(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// That the visibility of a message which is not in flight cannot be changed, SQS says as a bad parameter.
fn no_longer_hidden(result: Result<(), QueueError>) -> Result<(), QueueError> {
    result.map_err(|error| match error {
        QueueError::Unavailable(problem) if problem.starts_with("InvalidParameterValue") => {
            QueueError::Gone(problem)
        }
        other => other,
    })
}

fn unavailable(count: usize, problem: &str) -> Vec<Result<(), QueueError>> {
    vec![Err(QueueError::Unavailable(problem.to_owned())); count]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_reach_the_entry_they_name() {
        let failure = |id: &str, code: &str| {
            BatchResultErrorEntry::builder()
                .id(id)
                .code(code)
                .sender_fault(true)
                .build()
                .expect("all members are set")
        };
        let results =
            by_entry(3, vec![failure("2", "ReceiptHandleIsInvalid"), failure("0", "InternalError")]);
        assert!(matches!(results[0], Err(QueueError::Unavailable(_))));
        assert!(results[1].is_ok());
        assert!(matches!(results[2], Err(QueueError::Gone(_))));
        let mut results =
            by_entry(1, vec![failure("0", "InvalidParameterValue")]).into_iter().map(no_longer_hidden);
        assert!(matches!(results.next(), Some(Err(QueueError::Gone(_)))));
    }

    #[test]
    fn attributes_are_made_legal() {
        assert_eq!(legal_attribute("a\0b\u{ffff}c\n"), "a\u{fffd}b\u{fffd}c\n");
        assert_eq!(legal_attribute(&"é".repeat(1000)).chars().count(), 512);
    }

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_secs(43_200)), 43_200);
    }
}
