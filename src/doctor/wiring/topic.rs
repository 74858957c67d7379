//! Checks the way of S3's events: the topic, its subscription, and the permission to send to the queue.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::unread;
use crate::{
    doctor::{Doctor, Finding, Findings, skipped},
    queue::sqs::attributes::QueueAttributes,
    wiring::{
        Unread,
        policy::{self, Grant, Sender},
        s3::{Notification, Target},
        sns::{Subscription, Topic},
    },
};

/// The KMS key that AWS manages for SNS. S3 has no access to it. Source: SNS Developer Guide, "Enable compatibility between
/// event sources from AWS services and encrypted topics".
const AWS_KEY: &str = "alias/aws/sns";

/// How a bucket's events come to the queue.
#[derive(Debug)]
pub(super) enum NotificationRoute {
    Topic { arn: String, topic: Result<Topic, Unread>, subscription: Result<Option<Subscription>, Unread> },
    Queue(String),
    EventBridge,
    None,
}

impl NotificationRoute {
    /// Whether a notification to this target takes the route.
    pub(super) fn is_taken_by(&self, target: &Target) -> bool {
        match (self, target) {
            (Self::Topic { arn, .. }, Target::Topic(other)) => arn == other,
            (Self::Queue(arn), Target::Queue(other)) => arn == other,
            _ => false,
        }
    }
}

/// The two ends of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection<'a> {
    /// ARN of the bucket.
    pub(super) bucket: &'a str,
    /// Account that owns the bucket.
    pub(super) owner: &'a str,
    pub(super) queue: &'a QueueAttributes,
}

impl Doctor {
    /// Finds the route: the queue itself, or the first topic with a subscription of the queue, or else the first topic.
    pub(super) async fn route(
        &self,
        all: &[Notification],
        topics: BTreeSet<String>,
        queue: &QueueAttributes,
    ) -> NotificationRoute {
        if all.iter().any(|of| of.to == Target::Queue(queue.arn.clone())) {
            return NotificationRoute::Queue(queue.arn.clone());
        }
        let mut first = None;
        for arn in topics {
            let subscription = self.instruments.wiring.topics.subscription(&arn, &queue.arn).await;
            let found = matches!(subscription, Ok(Some(_)));
            if found || first.is_none() {
                first = Some((arn, subscription));
            }
            if found {
                break;
            }
        }
        match first {
            Some((arn, subscription)) => NotificationRoute::Topic {
                topic: self.instruments.wiring.topics.topic(&arn).await,
                arn,
                subscription,
            },
            None if all.iter().any(|of| of.to == Target::EventBridge) => NotificationRoute::EventBridge,
            None => NotificationRoute::None,
        }
    }
}

impl Connection<'_> {
    /// The conditions of the topic, the subscription and the queue's policy.
    pub(super) fn judge(&self, route: &NotificationRoute) -> Findings {
        let names = [
            "topic policy",
            "topic encryption",
            "subscription",
            "subscription filter",
            "subscription delivery",
        ];
        let Self { bucket, owner, queue } = *self;
        let to_queue = |sender: Sender<'_>| {
            let grant = policy::decide(
                queue.policy.as_deref().unwrap_or_default(),
                sender,
                "sqs:SendMessage",
                &queue.arn,
            );
            of_grant(&grant, sender, "sqs:SendMessage", &queue.arn, |policy| {
                format!("`aws sqs set-queue-attributes --queue-url URL --attributes Policy={policy}`")
            })
        };
        let s3 = Sender { service: "s3.amazonaws.com", arn: bucket, account: owner };
        let (mut findings, of_queue) = match route {
            NotificationRoute::Topic { arn, topic, subscription } => {
                let (of_policy, of_key) = of_topic(arn, topic, s3);
                let account = arn.split(':').nth(4).unwrap_or_default();
                let [found, filter, delivery] = of_subscription(arn, &queue.arn, subscription);
                let findings = names.into_iter().zip([of_policy, of_key, found, filter, delivery]);
                (findings.collect(), to_queue(Sender { service: "sns.amazonaws.com", arn, account }))
            }
            NotificationRoute::Queue(_) => {
                (skipped(&names, "the bucket notifies the queue without a topic"), to_queue(s3))
            }
            NotificationRoute::EventBridge | NotificationRoute::None => (
                skipped(&names, "the bucket notifies no topic"),
                Finding::skipped("it is not known who sends to the queue"),
            ),
        };
        findings.push(("queue policy", of_queue));
        findings
    }
}

fn of_topic(arn: &str, topic: &Result<Topic, Unread>, s3: Sender<'_>) -> (Finding, Finding) {
    let topic = match topic {
        Ok(topic) => topic,
        Err(error) => {
            let fix = "create the topic, or correct the bucket's notification";
            let found = unread(&format!("topic {arn}"), error, fix);
            return (found, Finding::skipped("the topic's attributes cannot be read"));
        }
    };
    let grant = policy::decide(&topic.policy, s3, "sns:Publish", arn);
    let of_policy = of_grant(&grant, s3, "sns:Publish", arn, |policy| {
        format!(
            "`aws sns set-topic-attributes --topic-arn {arn} --attribute-name Policy --attribute-value {policy}`"
        )
    });
    let of_key = match topic.key.as_deref() {
        None => Finding::Ok("no KMS key is needed".to_owned()),
        Some(key) if key.ends_with(AWS_KEY) => Finding::failed(
            format!("topic {arn} is encrypted with {AWS_KEY}, which S3 cannot use: S3 drops every event"),
            format!(
                "encrypt it with a key of yours that lets s3.amazonaws.com use it, or not at all: `aws sns set-topic-attributes \
                 --topic-arn {arn} --attribute-name KmsMasterKeyId --attribute-value KEY`"
            ),
        ),
        Some(key) => Finding::Skipped(format!(
            "not checked: needs kms:GetKeyPolicy on {key}. Its policy must allow kms:GenerateDataKey and kms:Decrypt to \
             s3.amazonaws.com"
        )),
    };
    (of_policy, of_key)
}

/// `set` is the command that sets a policy.
fn of_grant(
    grant: &Grant,
    sender: Sender<'_>,
    action: &str,
    resource: &str,
    set: impl FnOnce(&str) -> String,
) -> Finding {
    let Sender { service, arn, account } = sender;
    let wanted = || {
        let statement = json!({
            "Effect": "Allow",
            "Principal": { "Service": service },
            "Action": action,
            "Resource": resource,
            "Condition": {
                "ArnLike": { "aws:SourceArn": arn }, "StringEquals": { "aws:SourceAccount": account },
            },
        });
        format!("'{}'", json!({ "Version": "2012-10-17", "Statement": [statement] }))
    };
    match grant {
        Grant::Allowed => Finding::Ok(format!("{service} may {action} for {arn}")),
        Grant::AllowedToAll => Finding::warning(
            format!(
                "the policy of {resource} lets {service} {action} for resources of any account: strangers can send events. \
                 source.buckets keeps their objects from being read"
            ),
            format!("compare the source in the policy: {}", set(&wanted())),
        ),
        Grant::Silent(unmet) => {
            let unmet = match unmet.as_slice() {
                [] => String::new(),
                unmet => format!(" (this condition does not hold: {})", unmet.join("; ")),
            };
            Finding::failed(
                format!(
                    "the policy of {resource} does not let {service} {action} for {arn}{unmet}: events are dropped"
                ),
                set(&wanted()),
            )
        }
        Grant::Denied => Finding::failed(
            format!(
                "a statement with Deny in the policy of {resource} refuses {service} {action} for {arn}: events are dropped"
            ),
            format!("correct that statement: {}", set("POLICY")),
        ),
        Grant::Unknown(condition) => Finding::Skipped(format!(
            "not checked: the policy of {resource} has a condition that is not evaluated here: {condition}"
        )),
    }
}

/// The subscription, its filter, and its form of delivery.
fn of_subscription(topic: &str, queue: &str, found: &Result<Option<Subscription>, Unread>) -> [Finding; 3] {
    let behind = |why: &str| Finding::skipped(why);
    let subscribe =
        format!("`aws sns subscribe --topic-arn {topic} --protocol sqs --notification-endpoint {queue}`");
    let subscription = match found {
        Ok(Some(subscription)) => subscription,
        Ok(None) => {
            let missing = format!("{queue} is not subscribed to {topic}: no event reaches the queue");
            return [
                Finding::failed(missing, subscribe),
                behind("there is no subscription"),
                behind("there is no subscription"),
            ];
        }
        Err(error) => {
            let why = "the subscription cannot be read";
            return [unread("the subscription", error, &subscribe), behind(why), behind(why)];
        }
    };
    if subscription.pending {
        let pending = Finding::failed(
            format!(
                "the subscription of {queue} to {topic} waits for its confirmation: no event reaches the queue"
            ),
            "let the queue's account subscribe, which needs no confirmation, or confirm with the SubscribeURL of the message in the \
             queue (`aws sns confirm-subscription`)",
        );
        return [pending, behind("it is not confirmed"), behind("it is not confirmed")];
    }
    let arn = &subscription.arn;
    let form = if subscription.raw { "as S3 writes them (raw)" } else { "in the envelope of SNS" };
    let letters = subscription.redrive.as_deref().and_then(|policy| {
        let policy: Value = serde_json::from_str(policy).ok()?;
        policy["deadLetterTargetArn"].as_str().map(str::to_owned)
    });
    let delivery = match letters {
        Some(target) if target == queue => Finding::failed(
            format!(
                "the redrive policy of {arn} names the queue that is subscribed, which has refused the message"
            ),
            format!(
                "`aws sns set-subscription-attributes --subscription-arn {arn} --attribute-name RedrivePolicy \
                     --attribute-value '{{\"deadLetterTargetArn\":\"DEAD-LETTER-QUEUE\"}}'`"
            ),
        ),
        Some(target) => {
            Finding::Ok(format!("events come {form}; those that the queue refuses go to {target}"))
        }
        None => Finding::Ok(format!(
            "events come {form}; those that the queue refuses are dropped, as there is no redrive policy"
        )),
    };
    [Finding::Ok(arn.clone()), of_filter(subscription), delivery]
}

fn of_filter(subscription: &Subscription) -> Finding {
    let Subscription { arn, filter, filters_bodies, .. } = subscription;
    let remove = format!(
        "`aws sns set-subscription-attributes --subscription-arn {arn} --attribute-name FilterPolicy --attribute-value '{{}}'`"
    );
    match filter.as_deref().map(str::trim) {
        None | Some("{}") => Finding::Ok("every event is delivered".to_owned()),
        Some(filter) if *filters_bodies => Finding::warning(
            format!(
                "the filter policy of {arn} looks into the messages, and drops those that do not match: {filter}"
            ),
            format!("check that it matches every event of the staging buckets, or remove it: {remove}"),
        ),
        Some(filter) => Finding::failed(
            format!(
                "the filter policy of {arn} compares message attributes, and S3's events have none: SNS drops every event: {filter}"
            ),
            remove,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{check, skips};

    const TOPIC: &str = "arn:aws:sns:us-east-1:111111111111:events";
    const QUEUE: &str = "arn:aws:sqs:us-east-1:111111111111:logs";
    const S3: Sender<'_> =
        Sender { service: "s3.amazonaws.com", arn: "arn:aws:s3:::staging", account: "111111111111" };

    #[test]
    fn a_grant_is_judged_with_the_command_that_sets_the_policy() {
        let found = |grant| of_grant(&grant, S3, "sns:Publish", TOPIC, |policy| format!("set {policy}"));
        check(&found(Grant::Allowed), Ok("s3.amazonaws.com may sns:Publish"));
        check(&found(Grant::Silent(vec!["ArnLike x".to_owned()])), Err("does not hold: ArnLike x"));
        check(&found(Grant::Denied), Err("Deny"));
        let silent = found(Grant::Silent(Vec::new()));
        assert!(
            matches!(&silent, Finding::Failed { fix, .. } if fix.contains("\"aws:SourceArn\":\"arn:aws:s3:::staging\""))
        );
        assert!(matches!(found(Grant::AllowedToAll), Finding::Warning { .. }));
        skips(&found(Grant::Unknown("x".to_owned())), "is not evaluated here: x");
    }

    #[test]
    fn only_some_topics_can_be_used_by_s3() {
        let keyed = |key: &str| Ok(Topic { key: Some(key.to_owned()), ..Topic::default() });
        check(&of_topic(TOPIC, &keyed("alias/aws/sns"), S3).1, Err("S3 drops every event"));
        skips(&of_topic(TOPIC, &keyed("alias/ours"), S3).1, "needs kms:GetKeyPolicy");
        check(&of_topic(TOPIC, &Ok(Topic::default()), S3).1, Ok("no KMS key"));
        let denied = Unread::Denied { permission: "sns:GetTopicAttributes", problem: "no".to_owned() };
        skips(&of_topic(TOPIC, &Err(denied), S3).0, "not checked: needs sns:GetTopicAttributes");
        check(&of_topic(TOPIC, &Err(Unread::Missing("NotFound".to_owned())), S3).0, Err("does not exist"));
    }

    #[test]
    fn a_subscription_must_exist_be_confirmed_and_deliver_every_event() {
        let judged = |subscription: Option<Subscription>| of_subscription(TOPIC, QUEUE, &Ok(subscription));
        check(&judged(None)[0], Err("is not subscribed"));
        let pending = Subscription { pending: true, ..Subscription::default() };
        check(&judged(Some(pending))[0], Err("waits for its confirmation"));
        check(&judged(Some(Subscription::default()))[2], Ok("in the envelope of SNS"));
        let raw = Subscription { raw: true, ..Subscription::default() };
        check(&judged(Some(raw))[2], Ok("raw"));
        let with = |filter: &str, filters_bodies| {
            Some(Subscription { filter: Some(filter.to_owned()), filters_bodies, ..Subscription::default() })
        };
        check(&judged(with("{}", false))[1], Ok("every event"));
        check(&judged(with(r#"{"a":["b"]}"#, false))[1], Err("S3's events have none"));
        assert!(matches!(judged(with(r#"{"a":["b"]}"#, true))[1], Finding::Warning { .. }));
        let redrive = |arn: &str| {
            let redrive = Some(json!({ "deadLetterTargetArn": arn }).to_string());
            judged(Some(Subscription { redrive, ..Subscription::default() }))
        };
        check(&redrive(QUEUE)[2], Err("which has refused the message"));
        check(&redrive("arn:letters")[2], Ok("go to arn:letters"));
    }
}
