//! SNS: topics that deliver to SQS queues, with or without the envelope.
//!
//! Only the protocol `sqs` is implemented. FIFO topics, filter policies, message structures and encryption of topics
//! are not. Callers must belong to the topic's account. A service, such as S3, may publish if the topic's policy allows it.

mod envelope;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Map, Value, json};

use self::envelope::Notification;
use crate::{
    call::{Answer, AwsError, Call, Form, Reply},
    cloud::Cloud,
    encoding::{element, uuid},
    policy::Policy,
    sqs::{
        Sender,
        message::{Attributes, parse_attributes},
    },
};

const NAMESPACE: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
/// Largest message in bytes: 256 KiB.
const MAX_MESSAGE_BYTES: usize = 262_144;

/// All topics of all accounts, by ARN.
#[derive(Debug, Default)]
pub(crate) struct Sns {
    topics: Mutex<BTreeMap<String, Topic>>,
    dropped: AtomicU64,
}

#[derive(Debug, Clone)]
struct Topic {
    arn: String,
    account: String,
    region: String,
    policy: Policy,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Clone)]
struct Subscription {
    arn: String,
    endpoint: String,
    raw: bool,
}

impl Sns {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let form = call.form();
        match call.operation.as_str() {
            "CreateTopic" => self.create_topic(cloud, call, &form),
            "Publish" => self.publish(cloud, call, &form),
            "SetTopicAttributes" => self.set_topic_attributes(cloud, call, &form),
            "Subscribe" => self.subscribe(cloud, call, &form),
            other => Err(AwsError::not_implemented("sns", other)),
        }
    }

    /// Publishes for a service, if the topic exists and its policy allows that. Otherwise counts the message as dropped and
    /// returns `false`.
    pub(crate) fn publish_for(
        &self,
        cloud: &Cloud,
        topic_arn: &str,
        sender: &Sender<'_>,
        subject: &str,
        message: &str,
    ) -> bool {
        if !self.accepts(topic_arn, sender) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if let Some(topic) = self.topics().get(topic_arn).cloned() {
            fan_out(cloud, &topic, Some(subject), message, &Attributes::new());
        }
        true
    }

    /// Returns whether a topic exists and lets a service publish.
    pub(crate) fn accepts(&self, topic_arn: &str, sender: &Sender<'_>) -> bool {
        let topics = self.topics();
        topics.get(topic_arn).is_some_and(|topic| sender.is_allowed(&topic.policy, "sns:Publish", topic_arn))
    }

    /// Number of messages that services could not publish.
    #[cfg(test)]
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Topic>> {
        self.topics.lock().expect("no holder of this lock panics")
    }

    /// Calls `run` with the topic, if it belongs to the caller's account and the caller may do `action`.
    fn with_topic<T>(
        &self,
        cloud: &Cloud,
        call: &Call,
        arn: &str,
        action: &str,
        run: impl FnOnce(&mut Topic) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let own = format!("arn:aws:sns:{}:{}:", call.region, call.account);
        let Some(name) = arn.strip_prefix(&own) else {
            return if arn.split(':').count() == 6 && arn.starts_with("arn:aws:sns:") {
                Err(denied(AwsError::access_denied(call, action, arn)))
            } else {
                Err(invalid("TopicArn"))
            };
        };
        if !legal_name(name) {
            return Err(invalid("TopicArn"));
        }
        cloud.iam.authorize(call, action, arn).map_err(denied)?;
        match self.topics().get_mut(arn) {
            Some(topic) => run(topic),
            None => Err(AwsError::new(404, "NotFound", "Topic does not exist")),
        }
    }

    fn create_topic(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let name = required(form, "Name")?;
        if name.ends_with(".fifo") {
            return Err(AwsError::not_implemented("sns", "FIFO topics"));
        }
        if !legal_name(name) {
            return Err(invalid("Topic Name"));
        }
        let arn = format!("arn:aws:sns:{}:{}:{name}", call.region, call.account);
        cloud.iam.authorize(call, "sns:CreateTopic", &arn).map_err(denied)?;
        let mut topics = self.topics();
        let mut topic = match topics.get(&arn) {
            Some(topic) => topic.clone(),
            None => Topic::new(call, arn.clone())?,
        };
        for (name, value) in attributes(form) {
            topic.set(name, value)?;
        }
        topics.insert(arn.clone(), topic);
        Ok(Reply::query(NAMESPACE, "CreateTopic", &element("TopicArn", &arn)))
    }

    fn set_topic_attributes(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let arn = required(form, "TopicArn")?;
        let (name, value) =
            (required(form, "AttributeName")?, form.get("AttributeValue").unwrap_or_default());
        self.with_topic(cloud, call, arn, "sns:SetTopicAttributes", |topic| topic.set(name, value))?;
        Ok(Reply::query(NAMESPACE, "SetTopicAttributes", ""))
    }

    fn subscribe(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let arn = required(form, "TopicArn")?;
        if required(form, "Protocol")? != "sqs" {
            return Err(AwsError::not_implemented("sns", "Subscribe with a protocol other than sqs"));
        }
        let endpoint = required(form, "Endpoint")?;
        let parts: Vec<&str> = endpoint.split(':').collect();
        let ["arn", "aws", "sqs", _, account, _] = parts.as_slice() else {
            return Err(invalid("SQS endpoint ARN"));
        };
        if *account != call.account {
            return Err(AwsError::not_implemented("sns", "Subscribe with a queue of another account"));
        }
        let mut subscription =
            Subscription { arn: format!("{arn}:{}", uuid()), endpoint: endpoint.to_owned(), raw: false };
        for (name, value) in attributes(form) {
            subscription.set(name, value)?;
        }
        let subscribed = self.with_topic(cloud, call, arn, "sns:Subscribe", |topic| {
            match topic.subscriptions.iter().find(|existing| existing.endpoint == endpoint) {
                Some(existing) if existing.raw == subscription.raw => Ok(existing.arn.clone()),
                Some(_) => Err(AwsError::new(
                    400,
                    "InvalidParameter",
                    "Invalid parameter: Attributes Reason: Subscription already exists with different attributes",
                )),
                None => {
                    topic.subscriptions.push(subscription.clone());
                    Ok(subscription.arn)
                }
            }
        })?;
        Ok(Reply::query(NAMESPACE, "Subscribe", &element("SubscriptionArn", &subscribed)))
    }

    fn publish(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let arn = required(form, "TopicArn")?;
        if form.get("MessageStructure").is_some() {
            return Err(AwsError::not_implemented("sns", "Publish with a MessageStructure"));
        }
        let message = form
            .get("Message")
            .filter(|message| !message.is_empty())
            .ok_or_else(|| AwsError::new(400, "InvalidParameter", "Invalid parameter: Empty message"))?;
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(AwsError::new(400, "InvalidParameter", "Invalid parameter: Message too long"));
        }
        let subject = form.get("Subject");
        if subject.is_some_and(|text| text.is_empty() || text.chars().count() > 100 || text.contains('\n')) {
            return Err(invalid("Subject"));
        }
        let attributes = parse_attributes(&message_attributes(form))
            .map_err(|error| AwsError::new(400, "ParameterValueInvalid", error.message))?;
        let topic = self.with_topic(cloud, call, arn, "sns:Publish", |topic| Ok(topic.clone()))?;
        let id = fan_out(cloud, &topic, subject, message, &attributes);
        Ok(Reply::query(NAMESPACE, "Publish", &element("MessageId", &id)))
    }
}

/// Delivers to every subscription. A queue that refuses the message counts it as dropped.
fn fan_out(
    cloud: &Cloud,
    topic: &Topic,
    subject: Option<&str>,
    message: &str,
    attributes: &Attributes,
) -> String {
    let id = uuid();
    let sender =
        Sender { service: "sns.amazonaws.com", source_arn: &topic.arn, source_account: &topic.account };
    for subscription in &topic.subscriptions {
        let (body, attributes) = if subscription.raw {
            (message.to_owned(), attributes.clone())
        } else {
            let notification = Notification {
                message_id: &id,
                topic_arn: &topic.arn,
                subscription_arn: &subscription.arn,
                region: &topic.region,
                subject,
                message,
                attributes,
            };
            (notification.write(jiff::Timestamp::now()), Attributes::new())
        };
        // As in AWS, a publisher does not learn that a queue refused the message.
        let _ = cloud.sqs.deliver(&subscription.endpoint, &sender, body, attributes);
    }
    id
}

impl Topic {
    fn new(call: &Call, arn: String) -> Result<Self, AwsError> {
        let actions = ["Publish", "Subscribe", "GetTopicAttributes", "SetTopicAttributes", "DeleteTopic"];
        let policy = json!({
            "Version": "2008-10-17",
            "Id": "__default_policy_ID",
            "Statement": [{
                "Sid": "__default_statement_ID",
                "Effect": "Allow",
                "Principal": {"AWS": "*"},
                "Action": actions.map(|action| format!("SNS:{action}")),
                "Resource": arn,
                "Condition": {"StringEquals": {"AWS:SourceOwner": call.account}},
            }],
        });
        Ok(Self {
            arn,
            account: call.account.clone(),
            region: call.region.clone(),
            policy: parse_policy(&policy.to_string())?,
            subscriptions: Vec::new(),
        })
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), AwsError> {
        match name {
            "Policy" => self.policy = parse_policy(value)?,
            "DisplayName" | "DeliveryPolicy" | "KmsMasterKeyId" | "TracingConfig" | "SignatureVersion"
            | "FifoTopic" => {
                return Err(AwsError::not_implemented("sns", &format!("topic attribute {name}")));
            }
            _ => return Err(invalid("AttributeName")),
        }
        Ok(())
    }
}

impl Subscription {
    fn set(&mut self, name: &str, value: &str) -> Result<(), AwsError> {
        match (name, value.to_ascii_lowercase().as_str()) {
            ("RawMessageDelivery", "true") => self.raw = true,
            ("RawMessageDelivery", "false") => self.raw = false,
            ("RawMessageDelivery", _) => return Err(invalid("Attributes Reason: RawMessageDelivery")),
            ("FilterPolicy" | "FilterPolicyScope" | "RedrivePolicy" | "DeliveryPolicy", _) => {
                return Err(AwsError::not_implemented("sns", &format!("subscription attribute {name}")));
            }
            _ => return Err(invalid("AttributeName")),
        }
        Ok(())
    }
}

fn required<'a>(form: &'a Form, name: &str) -> Result<&'a str, AwsError> {
    form.filled(name).ok_or_else(|| invalid(name))
}

/// Parameters `Attributes.entry.N.key` and `.value`.
fn attributes(form: &Form) -> impl Iterator<Item = (&str, &str)> {
    (1..).map_while(|n| {
        let key = form.get(&format!("Attributes.entry.{n}.key"))?;
        Some((key, form.get(&format!("Attributes.entry.{n}.value")).unwrap_or_default()))
    })
}

/// Parameters `MessageAttributes.entry.N.Name` and `.Value.*`, in SQS's JSON form.
fn message_attributes(form: &Form) -> Map<String, Value> {
    let entries = (1..).map_while(|n| {
        let prefix = format!("MessageAttributes.entry.{n}");
        let name = form.get(&format!("{prefix}.Name"))?;
        let members = ["DataType", "StringValue", "BinaryValue"].into_iter().filter_map(|member| {
            Some((member.to_owned(), json!(form.get(&format!("{prefix}.Value.{member}"))?)))
        });
        Some((name.to_owned(), Value::Object(members.collect())))
    });
    entries.collect()
}

fn legal_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !name.is_empty() && name.len() <= 256 && name.bytes().all(legal)
}

fn parse_policy(text: &str) -> Result<Policy, AwsError> {
    Policy::resource(text).map_err(|reason| invalid(&format!("Policy Error: {reason}")))
}

fn invalid(parameter: &str) -> AwsError {
    AwsError::new(400, "InvalidParameter", format!("Invalid parameter: {parameter}"))
}

/// Gives IAM's refusal the error code of SNS.
fn denied(error: AwsError) -> AwsError {
    AwsError { code: "AuthorizationError".to_owned(), ..error }
}

#[cfg(test)]
mod tests;
