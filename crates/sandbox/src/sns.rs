//! SNS: topics that deliver to SQS queues, with or without the envelope.
//!
//! Only the protocol `sqs` is implemented. FIFO topics, filters of message bodies and message structures are not; of
//! encryption, only one effect is: services cannot publish to a topic whose key AWS manages. Callers must belong to the topic's account. A service, such as S3, may publish if the topic's policy allows it.

mod envelope;
mod subscription;
mod topic;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Map, Value, json};

use self::{
    envelope::Notification,
    subscription::{Subscription, topic_of},
    topic::Topic,
};
use crate::{
    call::{Answer, AwsError, Call, Form, Reply},
    cloud::Cloud,
    encoding::{element, uuid},
    sqs::{
        Sender,
        message::{Attributes, parse_attributes},
    },
};

const NAMESPACE: &str = "http://sns.amazonaws.com/doc/2010-03-31/";
/// Subscriptions on one page of ListSubscriptionsByTopic.
const PAGE: usize = 100;
/// Largest message in bytes: 256 KiB.
const MAX_MESSAGE_BYTES: usize = 262_144;

/// All topics of all accounts, by ARN.
#[derive(Debug, Default)]
pub(crate) struct Sns {
    topics: Mutex<BTreeMap<String, Topic>>,
    dropped: AtomicU64,
}

impl Sns {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        let form = call.form();
        match call.operation.as_str() {
            "CreateTopic" => self.create_topic(cloud, call, &form),
            "GetSubscriptionAttributes" => self.get_subscription_attributes(cloud, call, &form),
            "GetTopicAttributes" => self.get_topic_attributes(cloud, call, &form),
            "ListSubscriptionsByTopic" => self.list_subscriptions(cloud, call, &form),
            "Publish" => self.publish(cloud, call, &form),
            "SetSubscriptionAttributes" => self.set_subscription_attributes(cloud, call, &form),
            "SetTopicAttributes" => self.set_topic_attributes(cloud, call, &form),
            "Subscribe" => self.subscribe(cloud, call, &form),
            "Unsubscribe" => self.unsubscribe(cloud, call, &form),
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
        topics.get(topic_arn).is_some_and(|topic| topic.accepts(sender))
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
        let mut subscription = Subscription::new(format!("{arn}:{}", uuid()), endpoint);
        for (name, value) in attributes(form) {
            subscription.set(name, value)?;
        }
        let subscribed = self.with_topic(cloud, call, arn, "sns:Subscribe", |topic| {
            match topic.subscriptions.iter().find(|existing| existing.endpoint == endpoint) {
                Some(existing) if existing.is_like(&subscription) => Ok(existing.arn.clone()),
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

    fn get_topic_attributes(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let arn = required(form, "TopicArn")?;
        let all =
            self.with_topic(cloud, call, arn, "sns:GetTopicAttributes", |topic| Ok(topic.attributes()))?;
        Ok(Reply::query(NAMESPACE, "GetTopicAttributes", &entries(&all)))
    }

    fn list_subscriptions(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let arn = required(form, "TopicArn")?;
        let from = form
            .filled("NextToken")
            .map_or(Ok(0), |token| token.parse().map_err(|_| invalid("NextToken")))?;
        let all = self.with_topic(cloud, call, arn, "sns:ListSubscriptionsByTopic", |topic| {
            Ok(topic.subscriptions.clone())
        })?;
        let members = all.iter().skip(from).take(PAGE).map(|subscription| {
            let members = [
                ("SubscriptionArn", subscription.arn.as_str()),
                ("Owner", &call.account),
                ("Protocol", "sqs"),
                ("Endpoint", &subscription.endpoint),
                ("TopicArn", arn),
            ];
            let text: String = members.iter().map(|(name, value)| element(name, value)).collect();
            format!("<member>{text}</member>")
        });
        let mut page = format!("<Subscriptions>{}</Subscriptions>", members.collect::<String>());
        if all.len() > from + PAGE {
            page.push_str(&element("NextToken", &(from + PAGE).to_string()));
        }
        Ok(Reply::query(NAMESPACE, "ListSubscriptionsByTopic", &page))
    }

    fn get_subscription_attributes(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let all = self.with_subscriptions(cloud, call, form, |subscriptions, at| {
            Ok(subscriptions[at].attributes(&call.account))
        })?;
        Ok(Reply::query(NAMESPACE, "GetSubscriptionAttributes", &entries(&all)))
    }

    fn set_subscription_attributes(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        let (name, value) =
            (required(form, "AttributeName")?, form.get("AttributeValue").unwrap_or_default());
        self.with_subscriptions(cloud, call, form, |subscriptions, at| subscriptions[at].set(name, value))?;
        Ok(Reply::query(NAMESPACE, "SetSubscriptionAttributes", ""))
    }

    fn unsubscribe(&self, cloud: &Cloud, call: &Call, form: &Form) -> Answer {
        self.with_subscriptions(cloud, call, form, |subscriptions, at| Ok(subscriptions.remove(at)))?;
        Ok(Reply::query(NAMESPACE, "Unsubscribe", ""))
    }

    /// Calls `run` with a topic's subscriptions and the place of the one that the call names. IAM knows no resource for calls
    /// on subscriptions, so a policy must allow them on `*`.
    fn with_subscriptions<T>(
        &self,
        cloud: &Cloud,
        call: &Call,
        form: &Form,
        run: impl FnOnce(&mut Vec<Subscription>, usize) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let arn = required(form, "SubscriptionArn")?;
        cloud.iam.authorize(call, &format!("sns:{}", call.operation), "*").map_err(denied)?;
        let own = format!("arn:aws:sns:{}:{}:", call.region, call.account);
        if !arn.starts_with(&own) || arn.split(':').count() != 7 {
            return Err(invalid("SubscriptionArn"));
        }
        let mut topics = self.topics();
        let subscriptions = topics.get_mut(topic_of(arn)).map(|topic| &mut topic.subscriptions);
        let missing = || AwsError::new(404, "NotFound", "Subscription does not exist");
        let subscriptions = subscriptions.ok_or_else(missing)?;
        let at = subscriptions.iter().position(|subscription| subscription.arn == arn).ok_or_else(missing)?;
        run(subscriptions, at)
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
    for subscription in topic.subscriptions.iter().filter(|subscription| subscription.wants(attributes)) {
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
        let delivered = cloud.sqs.deliver(&subscription.endpoint, &sender, body.clone(), attributes.clone());
        // As in AWS, a publisher does not learn that a queue refused the message.
        if let (Err(_), Some(letters)) = (delivered, subscription.dead_letters()) {
            let _ = cloud.sqs.deliver(&letters, &sender, body, attributes);
        }
    }
    id
}

fn required<'a>(form: &'a Form, name: &str) -> Result<&'a str, AwsError> {
    form.filled(name).ok_or_else(|| invalid(name))
}

/// The element `Attributes` of an answer.
fn entries(attributes: &[(&'static str, String)]) -> String {
    let entry = |(name, value): &(&str, String)| {
        format!("<entry>{}{}</entry>", element("key", name), element("value", value))
    };
    format!("<Attributes>{}</Attributes>", attributes.iter().map(entry).collect::<String>())
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

fn invalid(parameter: &str) -> AwsError {
    AwsError::new(400, "InvalidParameter", format!("Invalid parameter: {parameter}"))
}

/// Gives IAM's refusal the error code of SNS.
fn denied(error: AwsError) -> AwsError {
    AwsError { code: "AuthorizationError".to_owned(), ..error }
}

#[cfg(test)]
mod tests;
