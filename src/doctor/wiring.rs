//! Checks the provider's side: queues, identity, tables, central role and buckets.

use std::time::Duration;

use super::{Condition, Doctor, Finding, OurSide};
use crate::{
    config::Queue,
    credentials::{
        AssumeError,
        identity::{Identity, WhoAmIError},
        refusal::Cause,
    },
    ledger::Ledger,
    name::bucket::OwnBucket,
    object::bucket::BucketError,
    queue::{
        QueueError,
        sqs::attributes::{AttributesError, QueueAttributes},
    },
    worker::settle::LONGEST_HIDING,
};

/// An id that no tenant can have, because it contains a slash.
const NOBODY: &str = "logferry/doctor";

fn ours(name: &'static str, finding: Finding) -> Condition {
    Condition { tenant_id: None, delivery: None, name, finding }
}

fn no_queue() -> Finding {
    Finding::Skipped("the queue's attributes cannot be read".to_owned())
}

fn no_credentials() -> Finding {
    Finding::Skipped("there are no credentials to call AWS with".to_owned())
}

impl Doctor {
    /// Checks the queue, the dead-letter queue, and whether both keep messages for long enough.
    pub(super) async fn queues(&self) -> Vec<Condition> {
        let queue = match &self.queue.url {
            Some(url) => self.attributes("queue.url", url).await,
            // The command line refuses a configuration without it, so this is not reached.
            None => Err(Finding::failed("queue.url is not set", "set it in the file or as SQS_QUEUE_URL")),
        };
        let letters = match &self.queue.dead_letter_url {
            Some(url) => self.attributes("queue.dead_letter_url", url).await,
            None => Err(Finding::Skipped(
                "queue.dead_letter_url is not set: a message that cannot be delivered comes back until the queue's redrive policy \
                 moves it, and then it has no reason"
                    .to_owned(),
            )),
        };
        let found = |attributes: &QueueAttributes| {
            let QueueAttributes { arn, visible, hidden, .. } = attributes;
            format!("{arn}: about {visible} visible, {hidden} in flight")
        };
        let of_queue = queue.as_ref().map_or_else(Finding::clone, |queue| {
            let (ours, theirs) = (self.queue.visibility_timeout, queue.visibility_timeout);
            Finding::Ok(format!(
                "{}; each receive hides a message for {ours:?}, instead of the queue's own {theirs:?}",
                found(queue)
            ))
        });
        let sending = match &self.queue.url {
            Some(url) if queue.is_ok() => sending(self.instruments.may_send(url).await),
            _ => no_queue(),
        };
        let of_letters = match (&letters, &self.queue.dead_letter_url) {
            (Ok(letters), Some(url)) => match self.instruments.may_send(url).await {
                Ok(()) => Finding::Ok(found(letters)),
                Err(error) => Finding::failed(
                    format!("{}: {error}", letters.arn),
                    "allow sqs:SendMessage on the dead-letter queue to the worker's role",
                ),
            },
            (Ok(letters), None) => Finding::Ok(found(letters)),
            (Err(finding), _) => finding.clone(),
        };
        vec![
            ours("queue", of_queue),
            ours("long waits", sending),
            ours("queue retention", kept_for_long_enough(queue.as_ref().ok(), &self.queue)),
            ours("redrive policy", redrive(queue.as_ref().ok(), letters.as_ref().ok(), &self.queue)),
            ours("dead-letter queue", of_letters),
            ours("dead-letter retention", retention(queue.as_ref().ok(), letters.as_ref().ok())),
        ]
    }

    async fn attributes(&self, field: &str, url: &str) -> Result<QueueAttributes, Finding> {
        self.instruments.queue(url).await.map_err(|error| {
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

    /// Checks the identity, the tenant table and the central role. Also returns their results for the checks of tenants.
    pub(super) async fn our_side(&self) -> (Vec<Condition>, OurSide) {
        let identity = self.instruments.identity().await;
        let of_identity = match &identity {
            Ok(Identity { account, arn }) => Finding::Ok(format!("{arn}, account {account}")),
            Err(WhoAmIError::Refused(error)) => Finding::failed(error.to_string(), error.remedy()),
            Err(error) => Finding::failed(
                error.to_string(),
                "check that STS can be reached from here, and that the credentials are of the provider's account",
            ),
        };
        let identity = identity.ok();
        let (table, central) = match &identity {
            None => (no_credentials(), no_credentials()),
            Some(identity) => (self.table(identity).await, self.central(identity).await),
        };
        let holds = |finding: &Finding| matches!(finding, Finding::Ok(_));
        let our_side = OurSide { identity, no_central: !holds(&central), no_table: !holds(&table) };
        let conditions =
            vec![ours("identity", of_identity), ours("tenant table", table), ours("central role", central)];
        (conditions, our_side)
    }

    /// Checks the ledger's table, without writing to it.
    pub(super) async fn ledger(&self, our_side: &OurSide) -> Condition {
        let Some(ledger) = &self.instruments.ledger else {
            let off = "ledger.table is not set: a message that comes again delivers its records again";
            return ours("ledger", Finding::Skipped(off.to_owned()));
        };
        if our_side.identity.is_none() {
            return ours("ledger", no_credentials());
        }
        let table = &self.ledger_table;
        ours(
            "ledger",
            match ledger.probe().await {
                Ok(()) => Finding::Ok(format!("{table} can be used")),
                Err(error) => Finding::failed(
                    error.to_string(),
                    format!(
                        "check that table {table:?} (object S, delivery S) exists, that the identity that runs this may call \
                         dynamodb:UpdateItem on it, and that DynamoDB can be reached from here; or correct ledger.table or aws.region"
                    ),
                ),
            },
        )
    }

    /// Checks the source buckets, and the quarantine's bucket, if there is one.
    pub(super) async fn buckets(&self, our_side: &OurSide) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let known = our_side.identity.is_some();
        if self.source.is_empty() {
            let any = "source.buckets is empty: the worker reads from any bucket that a message names";
            conditions.push(ours("source bucket", Finding::Skipped(any.to_owned())));
        }
        let source = self.source.iter().map(|bucket| ("source bucket", "source.buckets", bucket));
        let quarantine = self.quarantine.iter().map(|bucket| ("quarantine", "quarantine.bucket", bucket));
        for (name, field, bucket) in source.chain(quarantine) {
            let finding = match known {
                true => of_bucket(field, bucket, self.instruments.bucket(bucket).await),
                false => no_credentials(),
            };
            conditions.push(ours(name, finding));
        }
        conditions
    }

    async fn table(&self, identity: &Identity) -> Finding {
        match self.instruments.rows.of(NOBODY).await {
            Ok(_) => Finding::Ok(format!("{} can be read", self.table)),
            Err(error) => Finding::failed(
                error.problem.as_str(),
                table_fix(&self.table, &error.problem, "Query", identity),
            ),
        }
    }

    async fn central(&self, identity: &Identity) -> Finding {
        let role = &self.central_role_arn;
        match self.instruments.central.credentials().await {
            Ok(_) => Finding::Ok(format!("{role} is assumed")),
            Err(error) => self.refusal(&error, |cause, _| central_fix(role, identity, cause, &error)),
        }
    }
}

fn of_bucket(field: &str, bucket: &OwnBucket, answer: Result<(), BucketError>) -> Finding {
    match answer {
        Ok(()) => Finding::Ok(format!("{} exists", bucket.name)),
        // Reading and writing objects does not need s3:ListBucket.
        Err(error @ BucketError::Hidden(_)) => {
            Finding::Skipped(format!("{error}: allow s3:ListBucket to let this check find out"))
        }
        Err(error @ BucketError::Unavailable { .. }) => {
            Finding::failed(error.to_string(), "check that S3 can be reached from here, and try again")
        }
        Err(error) => {
            Finding::failed(error.to_string(), format!("create the bucket, or correct {field} or aws.region"))
        }
    }
}

/// The fix for a table that cannot be read, from DynamoDB's error.
pub(super) fn table_fix(table: &str, problem: &str, call: &str, identity: &Identity) -> String {
    if problem.starts_with("ResourceNotFoundException") {
        format!("create table {table:?} (tenant_id S, type S), or correct tenants.table or aws.region")
    } else if problem.starts_with("AccessDenied") {
        format!("allow dynamodb:{call} on table {table:?} to {}", identity.arn)
    } else if problem.starts_with("ValidationException") {
        format!("check that {table:?} is the tenant table: its key must be tenant_id (S) and type (S)")
    } else {
        "check that DynamoDB can be reached from here, and try again".to_owned()
    }
}

fn central_fix(role: &str, identity: &Identity, cause: Option<Cause>, error: &AssumeError) -> String {
    let arn = &identity.arn;
    match cause {
        Some(Cause::CentralRolePolicy) => format!("the policy of {arn} must allow sts:AssumeRole on {role}"),
        Some(Cause::Request) | None => {
            format!(
                "STS's message says what is wrong with the request or with the credentials of {arn}: {error}"
            )
        }
        Some(Cause::TrustPolicy | Cause::TagSession | Cause::SourceIdentity) => format!(
            "one of these is the cause: {role} does not exist (credentials.central_role_arn); its trust policy does not allow \
             sts:AssumeRole to {arn}; the policy of {arn} does not allow sts:AssumeRole on {role}"
        ),
    }
}

fn redrive(queue: Option<&QueueAttributes>, letters: Option<&QueueAttributes>, config: &Queue) -> Finding {
    let Some(queue) = queue else { return no_queue() };
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
        "a message goes to {target} after {count} receives; a message that the worker sends again starts at 0 receives, and \
         becomes a dead letter with a reason after queue.max_age"
    ))
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

fn kept_for_long_enough(queue: Option<&QueueAttributes>, config: &Queue) -> Finding {
    let Some(queue) = queue else { return no_queue() };
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

fn readable(time: Duration) -> String {
    match time.as_secs() {
        86_400 => "1 day".to_owned(),
        seconds if seconds > 0 && seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds => format!("{seconds} s"),
    }
}

fn retention(queue: Option<&QueueAttributes>, letters: Option<&QueueAttributes>) -> Finding {
    let (Some(queue), Some(letters)) = (queue, letters) else {
        return Finding::Skipped("the attributes of one of the queues cannot be read".to_owned());
    };
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
    use crate::queue::sqs::attributes::RedrivePolicy;

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

    fn check(finding: &Finding, expected: Result<&str, &str>) {
        match (finding, expected) {
            (Finding::Ok(found), Ok(words)) => assert!(found.contains(words), "{finding:?}"),
            (Finding::Failed { problem, fix }, Err(words)) => {
                assert!(problem.contains(words) && !fix.is_empty(), "{finding:?}");
            }
            _ => panic!("{finding:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn the_redrive_policy_must_name_the_dead_letter_queue_and_count_high_enough() {
        let config = Queue::default();
        let (logs, letters) = (queue("logs", 96, Some("letters")), queue("letters", 336, None));
        check(&redrive(Some(&logs), Some(&letters), &config), Ok("after 5 receives"));
        check(&redrive(Some(&logs), None, &config), Ok("after 5 receives"));
        check(&redrive(Some(&queue("logs", 96, None)), Some(&letters), &config), Err("no redrive policy"));
        let mut hasty = logs.clone();
        hasty.redrive.iter_mut().for_each(|policy| policy.max_receive_count = 4);
        check(&redrive(Some(&hasty), Some(&letters), &config), Err("received 4 times before"));
        let elsewhere = queue("logs", 96, Some("old-letters"));
        check(&redrive(Some(&elsewhere), Some(&letters), &config), Err("old-letters"));
        assert!(matches!(redrive(None, Some(&letters), &config), Finding::Skipped(_)));
    }

    #[test]
    fn letters_must_be_kept_longer_than_messages() {
        let check = |of_letters: u32, expected| {
            let (logs, letters) = (queue("logs", 96, None), queue("letters", of_letters, None));
            check(&retention(Some(&logs), Some(&letters)), expected);
        };
        check(336, Ok("14 days, longer than the queue's 4 days"));
        check(97, Ok("349200 s"));
        check(96, Err("4 days"));
        check(24, Err("1 day"));
        assert!(matches!(retention(None, None), Finding::Skipped(_)));
    }

    #[test]
    fn messages_must_be_kept_for_as_long_as_they_are_retried() {
        let config = Queue::default();
        let check = |hours, expected| {
            check(&kept_for_long_enough(Some(&queue("logs", hours, None)), &config), expected)
        };
        check(96, Ok("4 days; a message is retried for 260100 s"));
        check(73, Ok("262800 s"));
        check(72, Err("3 days, but a message may be retried for 260100 s"));
        assert!(matches!(kept_for_long_enough(None, &config), Finding::Skipped(_)));
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
}
