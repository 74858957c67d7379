//! SQS: standard queues with visibility timeouts, long polls, redrive policies and queue policies.
//!
//! FIFO queues and move tasks are not implemented. Of encryption, only one effect is: services cannot send to a queue whose
//! key AWS manages. Only the owner's account may call a queue. S3 and SNS may send to a queue if the
//! queue's policy allows it.

mod backlog;
pub(crate) mod errors;
pub(crate) mod message;
mod queue;
mod settings;
mod transfer;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use self::{backlog::QueueCounts, queue::QueueLimits};
use self::{
    backlog::Tracked,
    errors::{invalid_value, missing, no_queue, refuse},
    message::{Attributes, Message, body_md5, message_bytes},
    queue::Queue,
    settings::Settings,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    encoding::uuid,
    policy::{Access, Context, Decision, Policy, Who},
};

/// All queues of all accounts, by ARN.
#[derive(Debug, Default)]
pub(crate) struct Sqs {
    queues: Mutex<BTreeMap<String, Arc<Queue>>>,
    dropped: AtomicU64,
}

/// A service that sends to a queue or publishes to a topic, and the resource that it acts for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    /// Service, for example `sns.amazonaws.com`.
    pub(crate) service: &'a str,
    /// Value of `aws:SourceArn`: the topic or bucket.
    pub(crate) source_arn: &'a str,
    /// Value of `aws:SourceAccount`.
    pub(crate) source_account: &'a str,
}

impl Sender<'_> {
    /// Returns whether the policy of a topic or queue allows the service this action.
    pub(crate) fn is_allowed(&self, policy: &Policy, action: &str, resource: &str) -> bool {
        let context = Context::default()
            .with("aws:SourceArn", self.source_arn)
            .with("aws:SourceAccount", self.source_account);
        let access = Access { who: Who::Service(self.service), action, resource, context: &context };
        policy.decide(&access) == Decision::Allow
    }
}

/// Reason for dropping a service's delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undelivered {
    /// The queue does not exist.
    #[error("no such queue")]
    NoQueue,
    /// The policy of the queue or of its KMS key does not allow the service to send.
    #[error("the policy of the queue or of its KMS key does not allow it")]
    Denied,
    /// The message is larger than the queue allows.
    #[error("the message is too large")]
    TooLarge,
}

/// The sandbox has no queue with this ARN.
#[derive(Debug, thiserror::Error)]
#[error("there is no queue {0:?} in the sandbox")]
pub struct UnknownQueue(String);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    queue_name: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct QueueAttributes {
    #[serde(default)]
    attribute_names: Vec<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

impl Sqs {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "ChangeMessageVisibility" => self.change_message_visibility(cloud, call),
            "ChangeMessageVisibilityBatch" => self.change_message_visibility_batch(cloud, call),
            "CreateQueue" => self.create_queue(cloud, call),
            "DeleteMessageBatch" => self.delete_message_batch(cloud, call),
            "GetQueueAttributes" => self.get_queue_attributes(cloud, call),
            "ReceiveMessage" => self.receive_message(cloud, call).await,
            "SendMessage" => self.send_message(cloud, call),
            "SendMessageBatch" => self.send_message_batch(cloud, call),
            "SetQueueAttributes" => self.set_queue_attributes(cloud, call),
            other => Err(AwsError::not_implemented("sqs", other)),
        }
    }

    /// Sends a service's message to a queue, if the queue's policy allows that. Otherwise drops the message, as AWS does, and
    /// counts it.
    pub(crate) fn deliver(
        &self,
        queue_arn: &str,
        sender: &Sender<'_>,
        body: String,
        attributes: Attributes,
    ) -> Result<(), Undelivered> {
        let delivered = self.accepting(queue_arn, sender).and_then(|queue| {
            if message_bytes(&body, &attributes) > queue.settings().max_bytes {
                return Err(Undelivered::TooLarge);
            }
            let message = Message {
                id: uuid(),
                body_md5: body_md5(&body),
                body,
                attributes,
                trace_header: None,
                group_id: None,
                sender_id: sender.service.to_owned(),
                sent_at: Instant::now(),
                sent_millis: jiff::Timestamp::now().as_millisecond(),
            };
            queue.push(Tracked::new(message), None);
            Ok(())
        });
        if delivered.is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        delivered
    }

    pub(crate) fn counts(&self, queue_arn: &str) -> Result<QueueCounts, UnknownQueue> {
        Ok(self.known(queue_arn)?.counts())
    }

    pub(crate) fn limit(&self, queue_arn: &str, limits: QueueLimits) -> Result<(), UnknownQueue> {
        self.known(queue_arn)?.limit(limits);
        Ok(())
    }

    fn known(&self, queue_arn: &str) -> Result<Arc<Queue>, UnknownQueue> {
        self.by_arn(queue_arn).ok_or_else(|| UnknownQueue(queue_arn.to_owned()))
    }

    /// Number of messages from services that were dropped.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns whether a queue exists and lets a service send.
    pub(crate) fn accepts(&self, queue_arn: &str, sender: &Sender<'_>) -> bool {
        self.accepting(queue_arn, sender).is_ok()
    }

    fn accepting(&self, queue_arn: &str, sender: &Sender<'_>) -> Result<Arc<Queue>, Undelivered> {
        let queue = self.by_arn(queue_arn).ok_or(Undelivered::NoQueue)?;
        let settings = queue.settings();
        // Services have no access to the key that AWS manages. Source: SNS Developer Guide, "Enabling server-side encryption
        // for an SNS topic with an encrypted SQS queue subscribed".
        let readable = settings.key() != Some("alias/aws/sqs");
        let policy = settings.policy.filter(|_| readable);
        match policy.is_some_and(|policy| sender.is_allowed(&policy, "sqs:SendMessage", queue_arn)) {
            true => Ok(queue),
            false => Err(Undelivered::Denied),
        }
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Queue>>> {
        self.queues.lock().expect("no holder of this lock panics")
    }

    fn by_arn(&self, arn: &str) -> Option<Arc<Queue>> {
        self.queues().get(arn).cloned()
    }

    /// Queue that the call's `QueueUrl` names, if it belongs to the caller's account and the caller may do `action`.
    fn authorized(&self, cloud: &Arc<Cloud>, call: &Call, action: &str) -> Result<Arc<Queue>, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Target {
            queue_url: Option<String>,
        }
        let url = call.parse::<Target>()?.queue_url.ok_or_else(|| missing("QueueUrl"))?;
        let mut parts = url.rsplit('/');
        let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if account != call.account {
            return Err(no_queue());
        }
        let arn = arn(call, name);
        cloud.iam.authorize(call, action, &arn)?;
        self.by_arn(&arn).ok_or_else(no_queue)
    }

    fn create_queue(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let request: CreateQueue = call.parse()?;
        let name = request.queue_name.ok_or_else(|| missing("QueueName"))?;
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 80 || !name.bytes().all(legal) {
            let reason =
                "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
            return Err(invalid_value("QueueName", &name, reason));
        }
        let arn = arn(call, &name);
        cloud.iam.authorize(call, "sqs:CreateQueue", &arn)?;
        let settings = Settings::default().with(&request.attributes)?;
        self.check_redrive(call, &settings, &request.attributes)?;
        let mut queues = self.queues();
        if let Some(queue) = queues.get(&arn) {
            let existing = queue.settings().print();
            let differs = request.attributes.iter().find(|(name, value)| existing.get(*name) != Some(value));
            if let Some((attribute, _)) = differs {
                return Err(refuse(
                    "QueueNameExists",
                    format!(
                        "A queue already exists with the same name and a different value for attribute {attribute}"
                    ),
                ));
            }
        } else {
            let queue = Queue::new(arn.clone(), settings);
            queues.insert(arn, Arc::new(queue));
        }
        Ok(Reply::json(&json!({"QueueUrl": url(call, &name)})))
    }

    fn get_queue_attributes(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:GetQueueAttributes")?;
        let wanted = call.parse::<QueueAttributes>()?.attribute_names;
        let all = queue.attributes();
        if wanted.iter().any(|name| name == "All") {
            return Ok(Reply::json(&json!({"Attributes": all})));
        }
        let mut some = Map::new();
        for name in wanted {
            match all.get(&name) {
                Some(value) => {
                    some.insert(name, value.clone());
                }
                None if settings::may_be_absent(&name) => {}
                None => return Err(settings::unknown(&name)),
            }
        }
        Ok(Reply::json(&if some.is_empty() { json!({}) } else { json!({"Attributes": some}) }))
    }

    fn set_queue_attributes(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:SetQueueAttributes")?;
        let changes = call.parse::<QueueAttributes>()?.attributes;
        if changes.is_empty() {
            return Err(missing("Attributes"));
        }
        let settings = queue.settings().with(&changes)?;
        self.check_redrive(call, &settings, &changes)?;
        queue.set(settings);
        Ok(Reply::json(&json!({})))
    }

    /// Checks that a new redrive policy names an existing queue of the same account and Region.
    fn check_redrive(
        &self,
        call: &Call,
        settings: &Settings,
        changes: &Map<String, Value>,
    ) -> Result<(), AwsError> {
        let (Some(redrive), Some(text)) = (&settings.redrive, changes.get("RedrivePolicy")) else {
            return Ok(());
        };
        let text = text.as_str().unwrap_or_default();
        if !redrive.target_arn.starts_with(&arn(call, "")) {
            let reason = "Dead-letter target owner should be same as the source.";
            return Err(invalid_value("RedrivePolicy", text, reason));
        }
        if self.by_arn(&redrive.target_arn).is_none() {
            return Err(invalid_value("RedrivePolicy", text, "Dead letter target does not exist."));
        }
        Ok(())
    }
}

fn arn(call: &Call, name: &str) -> String {
    format!("arn:aws:sqs:{}:{}:{name}", call.region, call.account)
}

fn url(call: &Call, name: &str) -> String {
    format!("{}/{}/{name}", call.endpoint, call.account)
}

#[cfg(test)]
pub(crate) mod tests;
