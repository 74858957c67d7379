//! Checks the queue and the dead-letter queue.

use std::time::Duration;

use serde_json::Value;

use super::{about, readable};
use crate::{
    config::Queue,
    doctor::{Doctor, Finding, Findings, skipped},
    queue::{
        Queue as _, QueueError,
        sqs::attributes::{AttributesError, QueueAttributes},
    },
    worker::settle::LONGEST_HIDING,
};

/// The KMS key that AWS manages for SQS. Services have no access to it. Source: SNS Developer Guide, "Enabling server-side
/// encryption for an SNS topic with an encrypted SQS queue subscribed".
const AWS_KEY: &str = "alias/aws/sqs";

/// Why conditions of the queue were not checked.
pub(super) const NO_QUEUE: &str = "the queue's attributes cannot be read";
/// Conditions of the queue, after that of its existence.
const OF_QUEUE: [&str; 6] = [
    "receive and delete",
    "long waits",
    "visibility timeout",
    "queue retention",
    "queue encryption",
    "redrive policy",
];
/// Conditions of both queues.
const OF_BOTH: [&str; 2] = ["dead-letter permission", "dead-letter retention"];

impl Doctor {
    /// Checks the queue, the dead-letter queue, and whether both keep messages for long enough.
    pub(in crate::doctor) async fn queues(&self) -> (Findings, Option<QueueAttributes>) {
        let (config, grace) = (&self.config.queue, self.config.worker.grace_period);
        let queue = async {
            match &config.url {
                Some(url) => self.attributes("queue.url", url).await,
                // The command line refuses a configuration without it, so this is not reached.
                None => {
                    Err(Finding::failed("queue.url is not set", "set it in the file or as SQS_QUEUE_URL"))
                }
            }
        };
        let letters = async {
            match &config.dead_letter_url {
                Some(url) => self.attributes("queue.dead_letter_url", url).await,
                None => Err(Finding::skipped(
                    "queue.dead_letter_url is not set: a message that cannot be delivered comes back until the queue's redrive \
                     policy moves it, and then it has no reason",
                )),
            }
        };
        let (queue, letters) = tokio::join!(queue, letters);
        let found = |attributes: &QueueAttributes| {
            let QueueAttributes { arn, visible, hidden, .. } = attributes;
            format!("{arn}: about {visible} visible, {hidden} in flight")
        };
        let of_queue = queue.as_ref().map_or_else(Finding::clone, |queue| Finding::Ok(found(queue)));
        let of_letters = match (&letters, &config.dead_letter_url) {
            (Ok(letters), Some(url)) => match self.instruments.queue(url).probe_sending().await {
                Ok(()) => Finding::Ok(found(letters)),
                Err(error) => Finding::failed(
                    format!("{}: {error}", letters.arn),
                    "allow sqs:SendMessage on the dead-letter queue to the worker's role",
                ),
            },
            (Ok(letters), None) => Finding::Ok(found(letters)),
            (Err(finding), _) => finding.clone(),
        };
        let (queue, letters) = (queue.ok(), letters.ok());
        let mut findings = vec![("queue", of_queue)];
        match &queue {
            Some(queue) => {
                let asked = self.instruments.queue(config.url.as_deref().unwrap_or_default());
                let found = [
                    consuming(asked.denied_permissions().await),
                    sending(asked.probe_sending().await),
                    visibility(queue, config, grace),
                    kept_for_long_enough(queue, config),
                    encryption(queue),
                    redrive(queue, letters.as_ref(), config),
                ];
                findings.extend(OF_QUEUE.into_iter().zip(found));
            }
            None => findings.extend(skipped(&OF_QUEUE, NO_QUEUE)),
        }
        findings.push(("dead-letter queue", of_letters));
        findings.extend(match (&queue, &letters) {
            (Some(queue), Some(letters)) => {
                OF_BOTH.into_iter().zip([redrive_allow(queue, letters), retention(queue, letters)]).collect()
            }
            _ => skipped(&OF_BOTH, "the attributes of one of the queues cannot be read"),
        });
        (findings, queue)
    }

    async fn attributes(&self, field: &str, url: &str) -> Result<QueueAttributes, Finding> {
        self.instruments.queue(url).attributes().await.map_err(|error| {
            let fix = match &error {
                AttributesError::Missing(_) => format!("create the queue, or correct {field} or aws.region"),
                AttributesError::Denied(_) => {
                    "allow sqs:GetQueueAttributes on the queue to the identity that runs this; a worker without \
                     this permission does not know how long the queue keeps messages, and lets none wait for longer than 30 s"
                        .to_owned()
                }
                AttributesError::Unavailable(_) => {
                    format!("check that {field} and aws.region are right and that SQS can be reached from here")
                }
            };
            Finding::failed(format!("{url}: {error}"), fix)
        })
    }
}

fn redrive(queue: &QueueAttributes, letters: Option<&QueueAttributes>, config: &Queue) -> Finding {
    let Some(policy) = &queue.redrive else {
        return Finding::failed(
            "the queue has no redrive policy: a message that never succeeds comes back until its retention ends, \
             and is then lost",
            "set RedrivePolicy of the queue, with the dead-letter queue as deadLetterTargetArn, and a maxReceiveCount of 100",
        );
    };
    let (target, count) = (&policy.target_arn, policy.max_receive_count);
    if let Some(letters) = letters.filter(|letters| letters.arn != *target) {
        return Finding::failed(
            format!(
                "the queue's redrive policy moves messages to {target}, but the worker sends them to {}",
                letters.arn
            ),
            "deadLetterTargetArn of the queue's RedrivePolicy and queue.dead_letter_url must name the same queue, because \
             `logferry redrive` and your monitoring look at one",
        );
    }
    let short_waits = short_waits(config);
    if count <= short_waits {
        return Finding::failed(
            format!(
                "the redrive policy moves a message to {target} after {count} receives. A failing message is received \
                 {short_waits} times before its waits are long enough for the worker to send it again as a new one, so SQS \
                 moves it before that, and the dead letter has no reason"
            ),
            format!(
                "set maxReceiveCount of the queue's RedrivePolicy above {short_waits}, ideally to 100: it is only the last resort, for \
                 messages that kill workers; queue.max_age limits the retries of others"
            ),
        );
    }
    Finding::Ok(format!(
        "a message goes to {target} after {count} receives, which are about {} at this worker's waits; queue.max_age is {}. A \
         message that the worker sends again starts at 0 receives, and becomes a dead letter with a reason after queue.max_age",
        about(time_of_receives(config, count)),
        about(config.max_age)
    ))
}

/// Time from the first to the last of `count` receives of a message that fails at once each time.
fn time_of_receives(config: &Queue, count: u32) -> Duration {
    let delays = std::iter::successors(Some(config.retry_delay), |delay| {
        Some((*delay * 2).min(config.max_retry_delay))
    });
    delays.take(count.saturating_sub(1) as usize).map(|delay| delay.min(config.max_retry_delay)).sum()
}

fn visibility(queue: &QueueAttributes, config: &Queue, grace: Duration) -> Finding {
    let (ours, theirs) = (about(config.visibility_timeout), about(queue.visibility_timeout));
    if queue.visibility_timeout.is_zero() {
        return Finding::failed(
            "the queue's VisibilityTimeout is 0: each receive without a timeout of its own, such as one by the AWS console, \
             leaves the message visible, so others work on it at the same time",
            format!(
                "`aws sqs set-queue-attributes --queue-url {} --attributes VisibilityTimeout={}`",
                config.url.as_deref().unwrap_or_default(),
                config.visibility_timeout.as_secs()
            ),
        );
    }
    let grace = about(grace);
    Finding::Ok(format!(
        "a worker hides a message for {ours} (queue.visibility_timeout) and extends that as long as it works on the message, so \
         also while it stops (worker.grace_period: {grace}); the queue's own {theirs} are for other readers"
    ))
}

/// Judges the key of the queue that gets the events.
fn encryption(queue: &QueueAttributes) -> Finding {
    match queue.key.as_deref() {
        None => Finding::Ok("no KMS key is needed".to_owned()),
        Some(key) if key.ends_with(AWS_KEY) => Finding::failed(
            format!(
                "the queue is encrypted with {AWS_KEY}, which neither SNS nor S3 can use: they drop every event"
            ),
            "encrypt it with keys of SQS (`aws sqs set-queue-attributes --queue-url URL --attributes \
             KmsMasterKeyId=,SqsManagedSseEnabled=true`) or with a key of yours",
        ),
        Some(key) => Finding::Skipped(format!(
            "not checked: needs kms:GetKeyPolicy on {key}. Its policy must allow kms:GenerateDataKey and kms:Decrypt to \
             sns.amazonaws.com (to s3.amazonaws.com, if the bucket sends to the queue itself), and kms:Decrypt to the worker's role"
        )),
    }
}

/// Judges whether the dead-letter queue takes messages of the queue.
fn redrive_allow(queue: &QueueAttributes, letters: &QueueAttributes) -> Finding {
    let policy = letters.redrive_allow.as_deref().unwrap_or("{}");
    let policy: Value = serde_json::from_str(policy).unwrap_or_default();
    let sources: Vec<_> =
        policy["sourceQueueArns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let refused = match policy["redrivePermission"].as_str() {
        None | Some("allowAll") => return Finding::Ok("any queue may move messages there".to_owned()),
        Some("byQueue") if sources.contains(&queue.arn.as_str()) => {
            return Finding::Ok("the queue is one of its sources".to_owned());
        }
        Some(other) => format!("its redrivePermission is {other:?}, for {sources:?}"),
    };
    Finding::failed(
        format!("{} does not take messages of {}: {refused}. SQS cannot move them", letters.arn, queue.arn),
        format!(
            "set RedriveAllowPolicy of the dead-letter queue to {{\"redrivePermission\":\"byQueue\",\"sourceQueueArns\":[\"{}\"]}}",
            queue.arn
        ),
    )
}

fn consuming(denied: Result<Vec<&'static str>, QueueError>) -> Finding {
    match denied {
        Ok(denied) if denied.is_empty() => {
            Finding::Ok("messages may be received, hidden and deleted; none was touched".to_owned())
        }
        Ok(denied) => Finding::failed(
            format!("IAM denies {}", denied.join(", ")),
            format!("allow {} on the queue to the worker's role", denied.join(", ")),
        ),
        Err(error) => {
            Finding::failed(error.to_string(), "check that SQS can be reached from here, and try again")
        }
    }
}

/// Number of receives of a message that fails at once each time, until it waits so long that the worker sends it as a new
/// one.
fn short_waits(config: &Queue) -> u32 {
    let mut delay = config.retry_delay;
    let mut receives = 1;
    while delay <= LONGEST_HIDING && delay < config.max_retry_delay {
        delay *= 2;
        receives += 1;
    }
    receives
}

/// Checks whether waiting messages can be sent again, so that they do not count as in flight.
fn sending(answer: Result<(), QueueError>) -> Finding {
    match answer {
        Ok(()) => Finding::Ok(
            "the worker can send waiting messages again, so they are not in flight meanwhile".to_owned(),
        ),
        Err(QueueError::Denied(problem)) => Finding::failed(
            format!(
                "messages stay in flight while they wait, and SQS allows 120,000 in flight for all tenants together: {problem}"
            ),
            "allow sqs:SendMessage on the queue to the worker's role",
        ),
        Err(error) => {
            Finding::failed(error.to_string(), "check that SQS can be reached from here, and try again")
        }
    }
}

fn kept_for_long_enough(queue: &QueueAttributes, config: &Queue) -> Finding {
    let needed = config.max_age + config.max_retry_delay;
    let (kept, needed_text) = (readable(queue.retention), readable(needed));
    if queue.retention >= needed {
        Finding::Ok(format!("{kept}; a message is retried for {needed_text} at most"))
    } else {
        Finding::failed(
            format!(
                "{kept}, but a message may be retried for {needed_text} (queue.max_age plus queue.max_retry_delay): if the worker \
                 cannot send a message again, it becomes a dead letter before queue.max_age"
            ),
            "raise MessageRetentionPeriod of the queue, or lower queue.max_age",
        )
    }
}

fn retention(queue: &QueueAttributes, letters: &QueueAttributes) -> Finding {
    let (of_queue, of_letters) = (readable(queue.retention), readable(letters.retention));
    if letters.retention > queue.retention {
        Finding::Ok(format!("{of_letters}, longer than the queue's {of_queue}"))
    } else {
        // SQS keeps the sending time of a message that it moves. Source: SQS Developer Guide, "Dead-letter queues".
        Finding::failed(
            format!(
                "{of_letters}, which is not longer than the queue's {of_queue}: a message keeps its age when SQS moves it, and may be deleted at once"
            ),
            "raise MessageRetentionPeriod of the dead-letter queue, ideally to 1209600 (14 days)",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        doctor::tests::{check, skips},
        queue::sqs::attributes::RedrivePolicy,
    };

    const HOUR: Duration = Duration::from_secs(3600);

    fn queue(name: &str, hours: u32, redrive_to: Option<&str>) -> QueueAttributes {
        let arn = |name: &str| format!("arn:aws:sqs:eu-central-1:111111111111:{name}");
        QueueAttributes {
            arn: arn(name),
            retention: HOUR * hours,
            redrive: redrive_to.map(|to| RedrivePolicy { target_arn: arn(to), max_receive_count: 5 }),
            ..QueueAttributes::default()
        }
    }

    #[test]
    fn the_redrive_policy_must_name_the_dead_letter_queue_and_count_high_enough() {
        let config = Queue::default();
        let (logs, letters) = (queue("logs", 96, Some("letters")), queue("letters", 336, None));
        check(&redrive(&logs, Some(&letters), &config), Ok("after 5 receives"));
        check(&redrive(&logs, None, &config), Ok("after 5 receives"));
        check(&redrive(&queue("logs", 96, None), Some(&letters), &config), Err("no redrive policy"));
        let mut hasty = logs.clone();
        hasty.redrive.iter_mut().for_each(|policy| policy.max_receive_count = 4);
        check(&redrive(&hasty, Some(&letters), &config), Err("received 4 times before"));
        let elsewhere = queue("logs", 96, Some("old-letters"));
        check(&redrive(&elsewhere, Some(&letters), &config), Err("old-letters"));
    }

    #[test]
    fn letters_must_be_kept_longer_than_messages() {
        let check = |of_letters: u32, expected| {
            let (logs, letters) = (queue("logs", 96, None), queue("letters", of_letters, None));
            check(&retention(&logs, &letters), expected);
        };
        check(336, Ok("14 days, longer than the queue's 4 days"));
        check(97, Ok("4 days 1 h"));
        check(96, Err("4 days"));
        check(24, Err("1 day"));
    }

    #[test]
    fn messages_must_be_kept_for_as_long_as_they_are_retried() {
        let config = Queue::default();
        let check =
            |hours, expected| check(&kept_for_long_enough(&queue("logs", hours, None), &config), expected);
        check(96, Ok("4 days; a message is retried for 3 days 15 min"));
        check(73, Ok("3 days 1 h;"));
        check(72, Err("3 days, but a message may be retried for 3 days 15 min"));
    }

    #[test]
    fn short_waits_are_counted_from_the_delays() {
        let check = |first, longest, receives| {
            let seconds = Duration::from_secs;
            let config =
                Queue { retry_delay: seconds(first), max_retry_delay: seconds(longest), ..Queue::default() };
            assert_eq!(short_waits(&config), receives, "{first} s to {longest} s");
        };
        // Waits of 15, 30 and 60 s hide the message; with 120 s it is sent again.
        check(15, 900, 4);
        check(61, 900, 1);
        check(1, 900, 7);
        check(30, 30, 1);
    }

    #[test]
    fn a_denied_send_is_reported_with_its_fix() {
        check(&sending(Ok(())), Ok("send waiting messages again"));
        check(&sending(Err(QueueError::Denied("no".into()))), Err("120,000"));
        check(&sending(Err(QueueError::Unavailable("503".into()))), Err("503"));
    }

    #[test]
    fn receives_are_turned_into_time() {
        let config = Queue::default();
        // 15, 30, 60, ... 480 s, then 900 s each.
        for (count, seconds) in [(1, 0), (2, 15), (7, 945), (8, 1_845), (12, 5_445)] {
            assert_eq!(time_of_receives(&config, count).as_secs(), seconds, "{count}");
        }
        assert_eq!(about(Duration::from_secs(12_000)), "3 h 20 min");
        check(&redrive(&queue("logs", 96, Some("letters")), None, &config), Ok("about 3 min"));
    }

    #[test]
    fn only_some_keys_and_sources_are_refused() {
        let with =
            |key: Option<&str>| QueueAttributes { key: key.map(str::to_owned), ..queue("logs", 96, None) };
        check(&encryption(&with(None)), Ok("no KMS key"));
        check(&encryption(&with(Some("alias/aws/sqs"))), Err("neither SNS nor S3"));
        skips(&encryption(&with(Some("alias/logs"))), "needs kms:GetKeyPolicy");
        let logs = queue("logs", 96, None);
        let allow = |policy: Option<String>| {
            redrive_allow(&logs, &QueueAttributes { redrive_allow: policy, ..queue("letters", 336, None) })
        };
        let by =
            |arn: &str| Some(format!(r#"{{"redrivePermission":"byQueue","sourceQueueArns":["{arn}"]}}"#));
        check(&allow(None), Ok("any queue"));
        check(&allow(Some(r#"{"redrivePermission":"allowAll"}"#.into())), Ok("any queue"));
        check(&allow(by(&logs.arn)), Ok("one of its sources"));
        check(&allow(by("arn:aws:sqs:eu-central-1:111111111111:other")), Err("cannot move"));
        check(&allow(Some(r#"{"redrivePermission":"denyAll"}"#.into())), Err("denyAll"));
    }

    #[test]
    fn a_visibility_timeout_of_zero_and_denied_calls_fail() {
        let config = Queue::default();
        let hiding = |seconds| QueueAttributes {
            visibility_timeout: Duration::from_secs(seconds),
            ..queue("logs", 96, None)
        };
        let visibility = |seconds| visibility(&hiding(seconds), &config, Duration::from_secs(45));
        check(&visibility(30), Ok("for 2 min"));
        check(&visibility(30), Ok("worker.grace_period: 45 s"));
        check(&visibility(0), Err("VisibilityTimeout is 0"));
        check(&consuming(Ok(Vec::new())), Ok("none was touched"));
        check(&consuming(Ok(vec!["sqs:DeleteMessage"])), Err("denies sqs:DeleteMessage"));
    }
}
