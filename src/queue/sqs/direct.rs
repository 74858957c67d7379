//! ReceiveMessage and DeleteMessageBatch without the SDK's orchestrator: see [`crate::aws::direct`].

use std::collections::HashMap;

use aws_sdk_sqs::types::{
    BatchResultErrorEntry, Message, MessageAttributeValue, MessageSystemAttributeName as SystemAttribute,
};
use serde::{Deserialize, Serialize};

use crate::{
    aws::{
        Calls,
        direct::{LeftToSdk, json::JsonCalls},
    },
    json::JsonObject,
    queue::Receipt,
};

/// Direct attempts.
#[derive(Clone, Debug)]
pub(super) struct DirectQueueCalls {
    pub(super) receives: JsonCalls,
    pub(super) deletes: JsonCalls,
}

/// A request for messages.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Receive<'a> {
    pub(super) queue_url: &'a str,
    pub(super) max_number_of_messages: i32,
    pub(super) wait_time_seconds: i32,
    pub(super) visibility_timeout: i32,
    pub(super) message_system_attribute_names: &'a [&'a str],
    pub(super) message_attribute_names: &'a [&'a str],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    messages: Option<Vec<JsonObject<ReceivedMessage>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedMessage {
    message_id: Option<String>,
    receipt_handle: Option<String>,
    body: Option<String>,
    attributes: Option<HashMap<String, String>>,
    message_attributes: Option<HashMap<String, JsonObject<ReceivedAttribute>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReceivedAttribute {
    data_type: Option<String>,
    string_value: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Delete<'a> {
    queue_url: &'a str,
    entries: Vec<DeleteEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteEntry<'a> {
    id: String,
    receipt_handle: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    successful: Option<Vec<JsonObject<DeletedEntry>>>,
    failed: Option<Vec<JsonObject<FailedEntry>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeletedEntry {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FailedEntry {
    id: String,
    code: Option<String>,
    message: Option<String>,
    sender_fault: Option<bool>,
}

impl DirectQueueCalls {
    /// Attempts count with `calls`.
    pub(super) fn new(calls: &Calls) -> Self {
        // Asks for the error codes of SQS's older protocol, which the SDK knows.
        let header = Some(("x-amzn-query-mode", "true"));
        Self {
            receives: JsonCalls::new(calls, "SQS", "AmazonSQS.ReceiveMessage", header),
            deletes: JsonCalls::new(calls, "SQS", "AmazonSQS.DeleteMessageBatch", header),
        }
    }

    pub(super) async fn receive(&self, asked: &Receive<'_>) -> Result<Vec<Message>, LeftToSdk> {
        let received: Received = self.receives.call(asked.queue_url, asked).await?;
        Ok(received
            .messages
            .unwrap_or_default()
            .into_iter()
            .map(|JsonObject(message)| message.into())
            .collect())
    }

    /// Deletes up to ten messages. Returns the index of each that is deleted, as a text, and why the others are not.
    pub(super) async fn delete(
        &self,
        queue_url: &str,
        receipts: &[Receipt],
    ) -> Result<(Vec<String>, Vec<BatchResultErrorEntry>), LeftToSdk> {
        let entries = receipts.iter().enumerate();
        let entries =
            entries.map(|(index, receipt)| DeleteEntry { id: index.to_string(), receipt_handle: &receipt.0 });
        let asked = Delete { queue_url, entries: entries.collect() };
        let Deleted { successful, failed } = self.deletes.call(queue_url, &asked).await?;
        let done = successful.unwrap_or_default().into_iter().map(|JsonObject(entry)| entry.id);
        let failed = failed.unwrap_or_default().into_iter().map(|JsonObject(entry)| entry.into());
        Ok((done.collect(), failed.collect()))
    }
}

impl From<ReceivedMessage> for Message {
    fn from(received: ReceivedMessage) -> Self {
        let attributes = received.attributes.map(|attributes| {
            attributes
                .into_iter()
                .map(|(name, value)| (SystemAttribute::from(name.as_str()), value))
                .collect()
        });
        let message_attributes = received.message_attributes.map(|attributes| {
            let attributes = attributes.into_iter().map(
                |(name, JsonObject(ReceivedAttribute { data_type, string_value }))| {
                    let value = MessageAttributeValue::builder().data_type(data_type.unwrap_or_default());
                    (name, value.set_string_value(string_value).build().expect("the type is set"))
                },
            );
            attributes.collect()
        });
        Self::builder()
            .set_message_id(received.message_id)
            .set_receipt_handle(received.receipt_handle)
            .set_body(received.body)
            .set_attributes(attributes)
            .set_message_attributes(message_attributes)
            .build()
    }
}

impl From<FailedEntry> for BatchResultErrorEntry {
    fn from(FailedEntry { id, code, message, sender_fault }: FailedEntry) -> Self {
        let entry = Self::builder().id(id).code(code.unwrap_or_default()).set_message(message);
        entry.sender_fault(sender_fault.unwrap_or_default()).build().expect("id, code and fault are set")
    }
}

#[cfg(test)]
mod tests;
