//! Messages as Lambda's event source mapping delivers them: it has received them from the queue for the function.

use std::collections::HashMap;

use aws_sdk_sqs::types::{MessageAttributeValue, MessageSystemAttributeName};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::message;
use crate::queue::Message;

/// A batch of messages. Source: Lambda developer guide, "Using Lambda with Amazon SQS", example event.
#[derive(Debug, Deserialize)]
pub struct SqsEvent {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    message_id: String,
    receipt_handle: String,
    body: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    #[serde(default)]
    message_attributes: HashMap<String, Attribute>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribute {
    string_value: Option<String>,
}

impl SqsEvent {
    /// The messages, in order, received now.
    pub fn messages(self) -> Vec<Message> {
        let (now, received_at) = (Timestamp::now(), Instant::now());
        let received = self.records.into_iter().map(Record::received);
        received.filter_map(|received| message(received, now, received_at)).collect()
    }
}

impl Record {
    /// The same message as the answer of ReceiveMessage has it.
    fn received(self) -> aws_sdk_sqs::types::Message {
        let Self { message_id, receipt_handle, body, attributes, message_attributes } = self;
        let system = attributes.into_iter();
        let system = system.map(|(name, value)| (MessageSystemAttributeName::from(name.as_str()), value));
        let ours = message_attributes.into_iter().filter_map(|(name, Attribute { string_value })| {
            let value = MessageAttributeValue::builder().data_type("String").string_value(string_value?);
            Some((name, value.build().expect("the type is set")))
        });
        aws_sdk_sqs::types::Message::builder()
            .message_id(message_id)
            .receipt_handle(receipt_handle)
            .body(body)
            .set_attributes(Some(system.collect()))
            .set_message_attributes(Some(ours.collect()))
            .build()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::queue::Receipt;

    #[test]
    fn messages_have_their_ages_and_attempts() {
        let ago = |seconds: i64| (Timestamp::now().as_millisecond() - seconds * 1000).to_string();
        let event = json!({ "Records": [{
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a",
            "body": "Test message.",
            "attributes": {
                "ApproximateReceiveCount": "2", "SentTimestamp": ago(60), "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": ago(30), "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793"
            },
            "messageAttributes": { "logferry.attempts": {
                "stringValue": "3", "stringListValues": [], "binaryListValues": [], "dataType": "Number" } },
            "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3",
            "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue", "awsRegion": "us-east-2"
        }] });
        let event: SqsEvent = serde_json::from_value(event).expect("the shape of Lambda's guide");
        let [message] = &event.messages()[..] else { panic!("one message") };
        assert_eq!(message.id, "059f36b4-87a3-44ab-83d2-661975830a7d");
        assert_eq!(message.receipt, Receipt("AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a".into()));
        assert_eq!((message.body.as_str(), message.attempts), ("Test message.", 2 + 3));
        assert_eq!(message.trace_header.as_deref(), Some("Root=1-5759e988-bd862e3fe1be46a994272793"));
        let about = |found: Duration, seconds: u64| found.as_secs().abs_diff(seconds) <= 5;
        assert!(about(message.age_when_received, 30) && about(message.kept_when_received, 60), "{message:?}");
    }

    /// Without its id a message could not be reported as failed, and Lambda would delete it.
    #[test]
    fn a_message_without_id_fails_the_batch() {
        for event in [json!({}), json!({ "Records": [{ "receiptHandle": "r", "body": "b" }] })] {
            serde_json::from_value::<SqsEvent>(event).expect_err("the id is missing");
        }
    }
}
