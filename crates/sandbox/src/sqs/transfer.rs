//! Calls that move messages: send, receive, delete and change visibility, one by one and in batches.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    Sqs,
    backlog::{NotChanged, Tracked},
    errors::{bad_handle, invalid, invalid_value, missing, query_code, refuse},
    message::{
        Attributes, MAX_MESSAGE_BYTES, Message, attributes_md5, body_md5, check_body, check_group_id,
        message_bytes, parse_attributes, select,
    },
    queue::{Queue, Received},
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::uuid,
};

const MAX_BATCH: usize = 10;
const SYSTEM_ATTRIBUTES: [&str; 10] = [
    "All",
    "AWSTraceHeader",
    "ApproximateFirstReceiveTimestamp",
    "ApproximateReceiveCount",
    "DeadLetterQueueSourceArn",
    "MessageDeduplicationId",
    "MessageGroupId",
    "SenderId",
    "SentTimestamp",
    "SequenceNumber",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<E> {
    #[serde(default = "Vec::new")]
    entries: Vec<Identified<E>>,
}

#[derive(Deserialize)]
struct Identified<E> {
    #[serde(rename = "Id")]
    id: Option<String>,
    #[serde(flatten)]
    entry: E,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Send {
    message_body: Option<String>,
    delay_seconds: Option<i64>,
    #[serde(default)]
    message_attributes: Map<String, Value>,
    #[serde(default)]
    message_system_attributes: Map<String, Value>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Receive {
    max_number_of_messages: Option<i64>,
    wait_time_seconds: Option<i64>,
    visibility_timeout: Option<i64>,
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Delete {
    receipt_handle: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeVisibility {
    receipt_handle: Option<String>,
    visibility_timeout: Option<i64>,
}

impl Sqs {
    pub(super) fn send_message(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:SendMessage")?;
        let send: Send = call.parse()?;
        let accepted = send.accept(cloud, call, &queue)?;
        Ok(Reply::json(&accepted.push(&queue)))
    }

    pub(super) fn send_message_batch(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:SendMessage")?;
        let entries: Vec<Identified<Send>> = read_batch(call)?;
        let size = |send: &Send| {
            let attributes = parse_attributes(&send.message_attributes).unwrap_or_default();
            message_bytes(send.message_body.as_deref().unwrap_or_default(), &attributes)
        };
        let bytes: usize = entries.iter().map(|entry| size(&entry.entry)).sum();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(refuse(
                "BatchRequestTooLong",
                format!(
                    "Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes. You have sent {bytes} bytes."
                ),
            ));
        }
        Ok(run_batch(entries, |send| send.accept(cloud, call, &queue).map(|accepted| accepted.push(&queue))))
    }

    pub(super) async fn receive_message(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:ReceiveMessage")?;
        let receive: Receive = call.parse()?;
        let max = ranged(receive.max_number_of_messages, "MaxNumberOfMessages", 1..=10)?.unwrap_or(1);
        let wait = ranged(receive.wait_time_seconds, "WaitTimeSeconds", 0..=20)?;
        let visibility = ranged(receive.visibility_timeout, "VisibilityTimeout", 0..=43_200)?;
        let wanted: Vec<String> =
            [receive.attribute_names.as_slice(), receive.message_system_attribute_names.as_slice()].concat();
        if let Some(unknown) = wanted.iter().find(|name| !SYSTEM_ATTRIBUTES.contains(&name.as_str())) {
            return Err(super::settings::unknown(unknown));
        }
        let settings = queue.settings();
        let dead_letters = settings
            .redrive
            .and_then(|redrive| Some((self.by_arn(&redrive.target_arn)?, redrive.max_receives)));
        let wait = wait.map_or(settings.wait, Duration::from_secs);
        let visibility = visibility.map(Duration::from_secs);
        match queue.receive(max as usize, visibility, wait, dead_letters).await {
            Received::OverLimit => Err(refuse(
                "OverLimit",
                "Too many messages in flight: the queue is at its quota of in-flight messages.",
            )),
            Received::Messages(messages) if messages.is_empty() => Ok(Reply::json(&json!({}))),
            Received::Messages(messages) => {
                let messages: Vec<Value> = messages
                    .iter()
                    .map(|(tracked, handle)| {
                        describe(tracked, handle, &wanted, &receive.message_attribute_names)
                    })
                    .collect();
                Ok(Reply::json(&json!({"Messages": messages})))
            }
        }
    }

    pub(super) fn delete_message_batch(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:DeleteMessage")?;
        Ok(run_batch(read_batch(call)?, |delete: Delete| delete.apply(&queue)))
    }

    pub(super) fn change_message_visibility(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:ChangeMessageVisibility")?;
        call.parse::<ChangeVisibility>()?.apply(&queue)?;
        Ok(Reply::json(&json!({})))
    }

    pub(super) fn change_message_visibility_batch(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:ChangeMessageVisibility")?;
        Ok(run_batch(read_batch(call)?, |change: ChangeVisibility| change.apply(&queue)))
    }
}

/// A message that passed every check, with the MD5 sums for its sender.
struct Accepted {
    tracked: Tracked,
    delay: Option<Duration>,
    trace_md5: Option<String>,
}

impl Accepted {
    fn push(self, queue: &Queue) -> Value {
        let message = &self.tracked.message;
        let mut answer = json!({"MessageId": message.id, "MD5OfMessageBody": message.body_md5});
        if let Some(sum) = attributes_md5(&message.attributes) {
            answer["MD5OfMessageAttributes"] = json!(sum);
        }
        if let Some(sum) = &self.trace_md5 {
            answer["MD5OfMessageSystemAttributes"] = json!(sum);
        }
        queue.push(self.tracked, self.delay);
        answer
    }
}

impl Send {
    fn accept(self, cloud: &Cloud, call: &Call, queue: &Queue) -> Result<Accepted, AwsError> {
        let body = self.message_body.ok_or_else(|| missing("MessageBody"))?;
        check_body(&body)?;
        let attributes = parse_attributes(&self.message_attributes)?;
        let max_bytes = queue.settings().max_bytes;
        if message_bytes(&body, &attributes) > max_bytes {
            return Err(invalid(format!(
                "One or more parameters are invalid. Reason: Message must be shorter than {max_bytes} bytes."
            )));
        }
        if self.message_deduplication_id.is_some() {
            return Err(invalid(
                "The request includes the parameter MessageDeduplicationId, which is not valid for this queue type.",
            ));
        }
        if let Some(group) = &self.message_group_id {
            check_group_id(group)?;
        }
        let delay = ranged(self.delay_seconds, "DelaySeconds", 0..=900)?.map(Duration::from_secs);
        let mut system = Attributes::new();
        for (name, value) in &self.message_system_attributes {
            if name != "AWSTraceHeader" {
                return Err(invalid(format!("Message system attribute name '{name}' is invalid.")));
            }
            let one = Map::from_iter([("trace".to_owned(), value.clone())]);
            system.extend(parse_attributes(&one)?.into_values().map(|value| (name.clone(), value)));
        }
        let trace_header = self.message_system_attributes.get("AWSTraceHeader");
        let message = Message {
            id: uuid(),
            body_md5: body_md5(&body),
            body,
            attributes,
            trace_header: trace_header.and_then(|value| value["StringValue"].as_str()).map(str::to_owned),
            group_id: self.message_group_id,
            sender_id: cloud.iam.id_of_caller(call),
            sent_at: Instant::now(),
            sent_millis: jiff::Timestamp::now().as_millisecond(),
        };
        Ok(Accepted { tracked: Tracked::new(message), delay, trace_md5: attributes_md5(&system) })
    }
}

impl Delete {
    fn apply(self, queue: &Queue) -> Result<Value, AwsError> {
        let handle = self.receipt_handle.ok_or_else(|| missing("ReceiptHandle"))?;
        if queue.delete_message(&handle) { Ok(json!({})) } else { Err(bad_handle(&handle)) }
    }
}

impl ChangeVisibility {
    fn apply(self, queue: &Queue) -> Result<Value, AwsError> {
        let handle = self.receipt_handle.ok_or_else(|| missing("ReceiptHandle"))?;
        let seconds = ranged(self.visibility_timeout, "VisibilityTimeout", 0..=43_200)?
            .ok_or_else(|| missing("VisibilityTimeout"))?;
        match queue.change_visibility(&handle, Duration::from_secs(seconds)) {
            Ok(()) => Ok(json!({})),
            Err(NotChanged::BadHandle) => Err(bad_handle(&handle)),
            Err(NotChanged::NotInFlight) => {
                Err(refuse("MessageNotInflight", "The specified message isn't in flight."))
            }
            Err(NotChanged::Gone) => Err(invalid_value(
                "ReceiptHandle",
                &handle,
                "Message does not exist or is not available for visibility timeout change.",
            )),
            Err(NotChanged::TooLong) => Err(invalid_value(
                "VisibilityTimeout",
                seconds,
                "Total VisibilityTimeout for the message is beyond the limit [43200 seconds].",
            )),
        }
    }
}

fn ranged(
    value: Option<i64>,
    parameter: &str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, AwsError> {
    let Some(value) = value else { return Ok(None) };
    match u64::try_from(value) {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => {
            let reason = format!("Must be between {} and {}, if provided.", range.start(), range.end());
            Err(invalid_value(parameter, value, &reason))
        }
    }
}

fn read_batch<E: DeserializeOwned>(call: &Call) -> Result<Vec<Identified<E>>, AwsError> {
    let Batch { entries } = call.parse::<Batch<E>>()?;
    if entries.is_empty() {
        return Err(refuse("EmptyBatchRequest", "There should be at least one entry in the request."));
    }
    if entries.len() > MAX_BATCH {
        return Err(refuse(
            "TooManyEntriesInBatchRequest",
            format!(
                "Maximum number of entries per request are {MAX_BATCH}. You have sent {}.",
                entries.len()
            ),
        ));
    }
    let mut seen = HashSet::new();
    for entry in &entries {
        let id = entry.id.as_deref().unwrap_or_default();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if id.is_empty() || id.len() > 80 || !id.bytes().all(legal) {
            return Err(refuse(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at \
                 most 80 letters long.",
            ));
        }
        if !seen.insert(id) {
            return Err(refuse("BatchEntryIdsNotDistinct", format!("Id {id} repeated.")));
        }
    }
    Ok(entries)
}

/// Runs each entry by itself. Failures are in the answer and are not an error of the call.
fn run_batch<E>(entries: Vec<Identified<E>>, mut run: impl FnMut(E) -> Result<Value, AwsError>) -> Reply {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for Identified { id, entry } in entries {
        match run(entry) {
            Ok(mut value) => {
                value["Id"] = json!(id);
                successful.push(value);
            }
            Err(error) => {
                let code = query_code(&error.code);
                failed.push(json!({"Id": id, "SenderFault": true, "Code": code, "Message": error.message}));
            }
        }
    }
    Reply::json(&json!({"Successful": successful, "Failed": failed}))
}

/// A message as its receiver gets it.
fn describe(tracked: &Tracked, handle: &str, wanted: &[String], wanted_attributes: &[String]) -> Value {
    let message = &tracked.message;
    let mut value = json!({
        "MessageId": message.id,
        "ReceiptHandle": handle,
        "MD5OfBody": message.body_md5,
        "Body": message.body,
    });
    let first_received = tracked.first_received_millis.map(|millis| millis.to_string());
    let system = [
        ("SenderId", Some(message.sender_id.clone())),
        ("SentTimestamp", Some(message.sent_millis.to_string())),
        ("ApproximateReceiveCount", Some(tracked.receives.to_string())),
        ("ApproximateFirstReceiveTimestamp", first_received),
        ("AWSTraceHeader", message.trace_header.clone()),
        ("MessageGroupId", message.group_id.clone()),
        ("DeadLetterQueueSourceArn", tracked.dead_letter_source.clone()),
    ];
    let asked = |name: &str| wanted.iter().any(|wanted| wanted == "All" || wanted == name);
    let system: Map<String, Value> = system
        .into_iter()
        .filter(|(name, _)| asked(name))
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))))
        .collect();
    if !system.is_empty() {
        value["Attributes"] = Value::Object(system);
    }
    let attributes = select(&message.attributes, wanted_attributes);
    if let Some(sum) = attributes_md5(&attributes) {
        value["MD5OfMessageAttributes"] = json!(sum);
        let attributes = attributes.iter().map(|(name, attribute)| (name.clone(), attribute.to_json()));
        value["MessageAttributes"] = Value::Object(attributes.collect());
    }
    value
}
