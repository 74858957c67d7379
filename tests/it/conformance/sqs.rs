//! SQS: receiving, hiding, deleting, and dead letters.

use aws_sdk_sqs::{
    operation::receive_message::ReceiveMessageOutput,
    types::{
        BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    },
};

use super::{Answers, nothing};
use crate::setup::Setup;

fn received(output: ReceiveMessageOutput) -> String {
    let told = output.messages.unwrap_or_default().into_iter().map(|message| {
        let mut system: Vec<_> = message.attributes.unwrap_or_default().into_iter().collect();
        system.sort_by_key(|(name, _)| name.as_str().to_owned());
        let system: Vec<_> = system
            .into_iter()
            .map(|(name, value)| match name {
                MessageSystemAttributeName::ApproximateReceiveCount => format!("{name}={value}"),
                _ => name.to_string(),
            })
            .collect();
        let mut own: Vec<_> = message
            .message_attributes
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| format!("{name}:{}={:?}", value.data_type, value.string_value))
            .collect();
        own.sort();
        format!("{:?} {system:?} {own:?}, md5 {}", message.body, message.md5_of_body.is_some())
    });
    told.collect::<Vec<_>>().join(", ")
}

fn failed(entries: Vec<BatchResultErrorEntry>) -> String {
    let told = entries
        .into_iter()
        .map(|entry| format!("{}: {}, sender {}", entry.id, entry.code, entry.sender_fault));
    told.collect::<Vec<_>>().join(", ")
}

fn deletion(id: &str, receipt: &str) -> DeleteMessageBatchRequestEntry {
    DeleteMessageBatchRequestEntry::builder()
        .id(id)
        .receipt_handle(receipt)
        .build()
        .expect("both members are set")
}

fn hiding(id: &str, receipt: &str, seconds: i32) -> ChangeMessageVisibilityBatchRequestEntry {
    let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).receipt_handle(receipt);
    entry.visibility_timeout(seconds).build().expect("both members are set")
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let sqs = setup.account().sqs();
    // A separate queue, because the bucket's events are in the setup's queue.
    let name = format!("{}-conformance", setup.provider.bucket);
    let url = sqs
        .create_queue()
        .queue_name(name)
        .send()
        .await
        .expect("the queue can be created")
        .queue_url
        .expect("SQS returns the URL");
    let attribute = |value: &str| {
        MessageAttributeValue::builder()
            .data_type("String")
            .string_value(value)
            .build()
            .expect("the type is set")
    };
    let send = |body: &str| sqs.send_message().queue_url(&url).message_body(body);
    answers.answer(
        "sqs: send with attributes",
        send("one").message_attributes("reason", attribute("bad")).send().await,
        |sent| format!("id {}, md5 {}", sent.message_id.is_some(), sent.md5_of_message_body.is_some()),
    );
    // A second queue, for messages that only a lax double accepts. They must not be among those received below.
    let second = format!("{}-taken-or-refused", setup.provider.bucket);
    let second = sqs.create_queue().queue_name(second).send().await.expect("the queue can be created");
    let lax = second.queue_url.expect("SQS returns the URL");
    let send = |body: &str| sqs.send_message().queue_url(&lax).message_body(body);
    let empty = send("x").message_attributes("reason", attribute(""));
    answers.answer("sqs: send an empty attribute", empty.send().await, nothing);
    answers.answer("sqs: send nothing", send("").send().await, nothing);
    let large = "x".repeat(1_048_577);
    answers.answer("sqs: send a byte too much", send(&large).send().await, nothing);
    let missing = format!("{url}-missing");
    let nowhere = sqs.receive_message().queue_url(&missing);
    answers.answer("sqs: receive from a missing queue", nowhere.send().await, received);
    let receive = || sqs.receive_message().queue_url(&lax);
    answers.answer("sqs: receive 11", receive().max_number_of_messages(11).send().await, received);
    answers.answer("sqs: receive none", receive().max_number_of_messages(0).send().await, received);
    answers.answer("sqs: poll for 21 s", receive().wait_time_seconds(21).send().await, received);
    let full = || {
        sqs.receive_message()
            .queue_url(&url)
            .max_number_of_messages(10)
            .visibility_timeout(30)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
    };
    let first = full().send().await;
    let receipt = |output: &ReceiveMessageOutput| {
        output.messages().first().and_then(|message| message.receipt_handle.clone()).unwrap_or_default()
    };
    let old = first.as_ref().map(receipt).unwrap_or_default();
    answers.answer("sqs: receive", first, received);
    answers.answer("sqs: receive while all is hidden", full().send().await, received);

    let hide =
        |entries: Vec<_>| sqs.change_message_visibility_batch().queue_url(&url).set_entries(Some(entries));
    let two = hide(vec![hiding("0", &old, 0), hiding("1", "made-up", 0)]);
    answers.answer("sqs: return one and a made-up one", two.send().await, |output| {
        format!("{} went well, {}", output.successful.len(), failed(output.failed))
    });
    let second = full().send().await;
    let new = second.as_ref().map(receipt).unwrap_or_default();
    answers.answer("sqs: receive again", second, received);
    answers.note("sqs: a new receipt each time", (old != new).to_string());
    answers.answer("sqs: hide nothing", hide(Vec::new()).send().await, nothing);
    let twins = hide(vec![hiding("0", &new, 30), hiding("0", &new, 30)]);
    answers.answer("sqs: hide with one id twice", twins.send().await, nothing);
    let eleven = (0..11).map(|id| hiding(&id.to_string(), &new, 30)).collect();
    answers.answer("sqs: hide 11", hide(eleven).send().await, nothing);

    let delete = |entries: Vec<_>| sqs.delete_message_batch().queue_url(&url).set_entries(Some(entries));
    let two = delete(vec![deletion("0", &new), deletion("1", "made-up")]);
    answers.answer("sqs: delete one and a made-up one", two.send().await, |output| {
        format!("{} went well, {}", output.successful.len(), failed(output.failed))
    });
    answers.answer(
        "sqs: delete a deleted message",
        delete(vec![deletion("0", &new)]).send().await,
        |output| format!("{} went well, {}", output.successful.len(), failed(output.failed)),
    );
    let long = hide(vec![hiding("0", &new, 43_201)]);
    answers.answer("sqs: hide for more than 12 h", long.send().await, |output| failed(output.failed));
    let gone = hide(vec![hiding("0", &new, 30)]);
    answers.answer("sqs: hide a deleted message", gone.send().await, |output| failed(output.failed));
    let depth = sqs.get_queue_attributes().queue_url(&url);
    let depth = depth
        .attribute_names(QueueAttributeName::ApproximateNumberOfMessages)
        .attribute_names(QueueAttributeName::ApproximateNumberOfMessagesNotVisible);
    answers.answer("sqs: depth", depth.send().await, |output| {
        let mut told: Vec<_> = output.attributes.unwrap_or_default().into_values().collect();
        told.sort();
        format!("{told:?}")
    });
}
