//! SQS: standard queues with visibility, long polls, redrive and queue policies.
//!
//! FIFO queues, move tasks and KMS are not covered. A queue is its owner's alone: only services (SNS, S3,
//! EventBridge) reach it from outside, through its policy.

mod backlog;
mod errors;
pub(crate) mod message;
mod queue;
mod settings;
mod transfer;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

pub use self::{backlog::QueueCounts, queue::QueueLimits};
use self::{
    backlog::Tracked,
    errors::{invalid_value, missing, no_queue, refuse},
    message::{Attributes, Message, body_md5, message_bytes, uuid},
    queue::Queue,
    settings::Settings,
    transfer::read,
};
use crate::{
    call::{Answer, AwsError, Call, Reply},
    cloud::Cloud,
    s3::resource_policy::{Access, Decision, Who},
};

/// How long a deleted queue's name stays taken.
const NAME_REST: Duration = Duration::from_secs(60);

/// All queues of all accounts, by ARN.
#[derive(Debug, Default)]
pub(crate) struct Sqs {
    registry: Mutex<Registry>,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Registry {
    queues: BTreeMap<String, Arc<Queue>>,
    deleted: HashMap<String, Instant>,
}

/// A service that delivers into a queue, and for which resource.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender<'a> {
    /// For example `sns.amazonaws.com`.
    pub(crate) service: &'a str,
    /// `aws:SourceArn`: the topic, bucket or rule.
    pub(crate) source_arn: &'a str,
    /// `aws:SourceAccount`.
    pub(crate) source_account: &'a str,
}

/// Why a service's delivery was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undelivered {
    /// There is no such queue.
    #[error("no such queue")]
    NoQueue,
    /// The queue's policy does not let the service send.
    #[error("the queue's policy does not allow it")]
    Denied,
    /// The message is larger than the queue takes.
    #[error("the message is too large")]
    TooLarge,
}

/// There is no queue with that ARN.
#[derive(Debug, thiserror::Error)]
#[error("there is no queue {0:?} in the sandbox")]
pub struct UnknownQueue(String);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateQueue {
    queue_name: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default, alias = "tags")]
    tags: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetQueueUrl {
    queue_name: Option<String>,
    queue_owner_a_w_s_account_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListQueues {
    #[serde(default)]
    queue_name_prefix: String,
    max_results: Option<usize>,
    next_token: Option<String>,
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
        self.answer(cloud, call).await.or_else(errors::write)
    }

    async fn answer(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "ChangeMessageVisibility" => self.change_message_visibility(cloud, call),
            "ChangeMessageVisibilityBatch" => self.change_message_visibility_batch(cloud, call),
            "CreateQueue" => self.create_queue(cloud, call),
            "DeleteMessage" => self.delete_message(cloud, call),
            "DeleteMessageBatch" => self.delete_message_batch(cloud, call),
            "DeleteQueue" => self.delete_queue(cloud, call),
            "GetQueueAttributes" => self.get_queue_attributes(cloud, call),
            "GetQueueUrl" => self.get_queue_url(cloud, call),
            "ListQueueTags" => self.list_queue_tags(cloud, call),
            "ListQueues" => self.list_queues(cloud, call),
            "PurgeQueue" => self.purge_queue(cloud, call),
            "ReceiveMessage" => self.receive_message(cloud, call).await,
            "SendMessage" => self.send_message(cloud, call),
            "SendMessageBatch" => self.send_message_batch(cloud, call),
            "SetQueueAttributes" => self.set_queue_attributes(cloud, call),
            other => Err(AwsError::not_implemented("sqs", other)),
        }
    }

    /// Puts a service's message into a queue if the queue's policy lets it; else drops and counts it, as AWS does.
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

    /// Whether a queue exists and would take a service's messages.
    pub(crate) fn accepts(&self, queue_arn: &str, sender: &Sender<'_>) -> Result<(), Undelivered> {
        self.accepting(queue_arn, sender).map(|_| ())
    }

    /// How many messages a queue holds and has held.
    pub(crate) fn counts(&self, queue_arn: &str) -> Result<QueueCounts, UnknownQueue> {
        Ok(self.known(queue_arn)?.counts())
    }

    /// Changes a queue's limits.
    pub(crate) fn limit(&self, queue_arn: &str, limits: QueueLimits) -> Result<(), UnknownQueue> {
        self.known(queue_arn)?.limit(limits);
        Ok(())
    }

    fn known(&self, queue_arn: &str) -> Result<Arc<Queue>, UnknownQueue> {
        self.by_arn(queue_arn).ok_or_else(|| UnknownQueue(queue_arn.to_owned()))
    }

    /// How many deliveries of services were dropped.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn accepting(&self, queue_arn: &str, sender: &Sender<'_>) -> Result<Arc<Queue>, Undelivered> {
        let queue = self.by_arn(queue_arn).ok_or(Undelivered::NoQueue)?;
        let context = [("aws:SourceArn", sender.source_arn), ("aws:SourceAccount", sender.source_account)];
        let access = Access {
            who: Who::Service(sender.service),
            action: "sqs:SendMessage",
            resource: queue_arn,
            context: &context,
        };
        match queue.settings().policy.map(|policy| policy.decide(&access)) {
            Some(Decision::Allow) => Ok(queue),
            _ => Err(Undelivered::Denied),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no holder of this lock panics")
    }

    fn by_arn(&self, arn: &str) -> Option<Arc<Queue>> {
        self.registry().queues.get(arn).cloned()
    }

    /// The queue that the call's `QueueUrl` names, if the caller owns it and may do `action` to it.
    fn authorized(&self, cloud: &Arc<Cloud>, call: &Call, action: &str) -> Result<Arc<Queue>, AwsError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Target {
            queue_url: Option<String>,
        }
        let url = read::<Target>(call)?.queue_url.ok_or_else(|| missing("QueueUrl"))?;
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
        let request: CreateQueue = read(call)?;
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
        let mut registry = self.registry();
        if let Some(queue) = registry.queues.get(&arn) {
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
            let now = Instant::now();
            registry.deleted.retain(|_, deleted| now < *deleted + NAME_REST);
            if registry.deleted.contains_key(&arn) {
                return Err(refuse(
                    "QueueDeletedRecently",
                    "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
                ));
            }
            let queue = Queue::new(arn.clone(), settings, request.tags);
            registry.queues.insert(arn, Arc::new(queue));
        }
        Ok(Reply::json(&json!({"QueueUrl": url(call, &name)})))
    }

    fn get_queue_url(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let request: GetQueueUrl = read(call)?;
        let name = request.queue_name.ok_or_else(|| missing("QueueName"))?;
        if request.queue_owner_a_w_s_account_id.is_some_and(|owner| owner != call.account) {
            return Err(no_queue());
        }
        let arn = arn(call, &name);
        cloud.iam.authorize(call, "sqs:GetQueueUrl", &arn)?;
        self.by_arn(&arn).ok_or_else(no_queue)?;
        Ok(Reply::json(&json!({"QueueUrl": url(call, &name)})))
    }

    fn list_queues(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let request: ListQueues = read(call)?;
        cloud.iam.authorize(call, "sqs:ListQueues", &arn(call, "*"))?;
        let limit = request.max_results.unwrap_or(1_000);
        if !(1..=1_000).contains(&limit) {
            return Err(invalid_value(
                "MaxResults",
                limit,
                "Must be an integer from 1 to 1000, if provided.",
            ));
        }
        let own = arn(call, "");
        let from = arn(call, &request.queue_name_prefix);
        let registry = self.registry();
        let mut names = registry
            .queues
            .range(from.clone()..)
            .take_while(|(arn, _)| arn.starts_with(&from))
            .map(|(arn, _)| &arn[own.len()..])
            .filter(|name| request.next_token.as_deref().is_none_or(|token| *name > token));
        let page: Vec<&str> = names.by_ref().take(limit).collect();
        let mut answer = json!({});
        if !page.is_empty() {
            answer["QueueUrls"] = page.iter().map(|name| url(call, name)).collect();
        }
        if request.max_results.is_some() && names.next().is_some() {
            answer["NextToken"] = json!(page.last());
        }
        Ok(Reply::json(&answer))
    }

    fn delete_queue(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:DeleteQueue")?;
        let mut registry = self.registry();
        registry.queues.remove(&queue.arn);
        registry.deleted.insert(queue.arn.clone(), Instant::now());
        queue.retire();
        Ok(Reply::json(&json!({})))
    }

    fn purge_queue(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:PurgeQueue")?;
        if queue.purge() {
            return Ok(Reply::json(&json!({})));
        }
        let name = queue.arn.rsplit(':').next().unwrap_or_default();
        Err(refuse(
            "PurgeQueueInProgress",
            format!("Only one PurgeQueue operation on {name} is allowed every 60 seconds."),
        ))
    }

    fn get_queue_attributes(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let queue = self.authorized(cloud, call, "sqs:GetQueueAttributes")?;
        let wanted = read::<QueueAttributes>(call)?.attribute_names;
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
        let changes = read::<QueueAttributes>(call)?.attributes;
        if changes.is_empty() {
            return Err(missing("Attributes"));
        }
        let settings = queue.settings().with(&changes)?;
        self.check_redrive(call, &settings, &changes)?;
        queue.set(settings);
        Ok(Reply::json(&json!({})))
    }

    fn list_queue_tags(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let tags = self.authorized(cloud, call, "sqs:ListQueueTags")?.tags();
        Ok(Reply::json(&if tags.is_empty() { json!({}) } else { json!({"Tags": tags}) }))
    }

    /// A new redrive policy must name an existing queue of the same account and Region.
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
