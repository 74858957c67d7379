//! Checks the staging buckets, and the quarantine's bucket: notifications, a real read and a real write.

use std::collections::BTreeSet;

use super::{
    queue::NO_QUEUE,
    topic::{Connection, NotificationRoute},
    unread,
};
use crate::{
    credentials::identity::Identity,
    doctor::{Doctor, Finding, Findings, NO_CREDENTIALS, OurSide, skipped},
    name::bucket::OwnBucket,
    object::bucket::BucketError,
    quarantine::QuarantinePrefix,
    queue::sqs::attributes::QueueAttributes,
    route::Rules,
    wiring::{
        Unread,
        s3::{Listed, Notification, PAGE, ProbeObject, Target},
    },
};

/// The event type for every way to create an object.
const ANY_CREATION: &str = "s3:ObjectCreated:*";
/// How Vector uploads: its SDK divides large objects. Source: S3 User Guide, "Supported event types for SQS, SNS, and Lambda".
const UPLOADS: [&str; 2] = ["s3:ObjectCreated:Put", "s3:ObjectCreated:CompleteMultipartUpload"];
/// Other ways to create an object, for example to bring one back from a backup.
const OTHERS: [&str; 2] = ["s3:ObjectCreated:Post", "s3:ObjectCreated:Copy"];
/// Ends of the keys that Vector writes: `filename_extension` and the compression's own.
const EXTENSIONS: [&str; 9] =
    [".log", ".log.gz", ".log.zst", ".json", ".json.gz", ".json.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"];
/// Tenant of the probe in the quarantine's bucket.
const PROBE: &str = "logferry-doctor";
/// Conditions of the way from a staging bucket to the queue.
const WAY: [&str; 9] = [
    "bucket notification",
    "notification events",
    "notification filter",
    "topic policy",
    "topic encryption",
    "subscription",
    "subscription filter",
    "subscription delivery",
    "queue policy",
];
const STAGED: &str = "staged objects";

impl Doctor {
    /// Checks the staging buckets and their ways to the queue, and the quarantine's bucket, if there is one.
    pub(in crate::doctor) async fn buckets(
        &self,
        our_side: &OurSide,
        queue: Option<&QueueAttributes>,
    ) -> Findings {
        let mut findings = Vec::new();
        if self.source.is_empty() {
            let any = "source.buckets is empty: the worker reads from any bucket that a message names, and no bucket can be checked";
            findings.push(("source bucket", Finding::skipped(any)));
        }
        for bucket in &self.source {
            findings.extend(self.source_bucket(bucket, our_side, queue).await);
        }
        if let Some(bucket) = &self.quarantine {
            if our_side.identity.is_none() {
                findings.extend(skipped(&["quarantine", "quarantine write"], NO_CREDENTIALS));
                return findings;
            }
            let found = of_bucket("quarantine.bucket", bucket, self.instruments.bucket(bucket).await);
            let write = match &found {
                Finding::Failed { .. } => Finding::skipped("the bucket cannot be reached"),
                _ => self.quarantine_write(bucket).await,
            };
            findings.extend([("quarantine", found), ("quarantine write", write)]);
        }
        findings
    }

    async fn source_bucket(
        &self,
        bucket: &OwnBucket,
        our_side: &OurSide,
        queue: Option<&QueueAttributes>,
    ) -> Findings {
        let closed = |found: Finding, why: &str| {
            [vec![("source bucket", found)], skipped(&WAY, why), skipped(&[STAGED], why)].concat()
        };
        let Some(identity) = &our_side.identity else {
            return closed(Finding::skipped(NO_CREDENTIALS), NO_CREDENTIALS);
        };
        let found = of_bucket("source.buckets", bucket, self.instruments.bucket(bucket).await);
        if found.is_failure() {
            return closed(found, &format!("bucket {:?} cannot be reached", bucket.name));
        }
        let mut findings = vec![("source bucket", found)];
        let rules = self.config.source.key_rules();
        let starts = rules.as_ref().map(Rules::literal_starts).unwrap_or_default();
        let prefix = starts.first().cloned().unwrap_or_default();
        let listed = self.instruments.wiring.objects(bucket, &prefix).await.map(|mut listed| {
            // An object whose key does not fit is not a log object, and needs no event.
            listed.retain(|object| {
                object.size > 0 && rules.as_ref().is_ok_and(|rules| rules.route(&object.key).is_ok())
            });
            listed
        });
        match queue {
            None => findings.extend(skipped(&WAY, NO_QUEUE)),
            Some(queue) => {
                let known = listed.as_deref().unwrap_or_default();
                findings.extend(self.way_to_queue(bucket, identity, queue, (starts.as_slice(), known)).await);
            }
        }
        findings.push((STAGED, self.staged(bucket, &listed).await));
        findings
    }

    async fn way_to_queue(
        &self,
        bucket: &OwnBucket,
        identity: &Identity,
        queue: &QueueAttributes,
        (starts, listed): (&[String], &[Listed]),
    ) -> Findings {
        let all = match self.instruments.wiring.notifications(bucket).await {
            Ok(all) => all,
            Err(error) => {
                let fix = "create the bucket, or correct source.buckets";
                let mut findings = skipped(&WAY, "the bucket's notifications are not known");
                findings[0].1 = unread("the bucket's notification configuration", &error, fix);
                return findings;
            }
        };
        let topics: BTreeSet<_> = all
            .iter()
            .filter_map(|of| match &of.to {
                Target::Topic(arn) => Some(arn.clone()),
                _ => None,
            })
            .collect();
        let partition = identity.arn.split(':').nth(1).unwrap_or("aws");
        let arn = format!("arn:{partition}:s3:::{}", bucket.name);
        let owner = bucket.owner.as_deref().unwrap_or(&identity.account);
        let connection = Connection { bucket: &arn, owner, queue };
        let route = self.route(&all, topics, queue).await;
        let notified = of_notifications(&bucket.name, &all, &route, &queue.arn);
        let entries: Vec<_> = all.iter().filter(|of| route.is_taken_by(&of.to)).collect();
        let (events, filter) = if entries.is_empty() {
            let none = Finding::skipped("no notification leads to the queue");
            (none.clone(), none)
        } else {
            (of_events(&bucket.name, &entries), of_filter(&entries, starts, listed, self.source.len()))
        };
        let mut findings: Findings = WAY.into_iter().zip([notified, events, filter]).collect();
        findings.extend(connection.judge(&route));
        findings
    }

    /// Reads the first byte of the newest object.
    async fn staged(&self, bucket: &OwnBucket, listed: &Result<Vec<Listed>, Unread>) -> Finding {
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return Finding::Skipped(error.to_string()),
        };
        let readable = listed.iter().filter(|object| !object.archived);
        let Some(newest) = readable.max_by_key(|object| object.modified) else {
            let none = format!(
                "not checked: among the first {PAGE} keys of {:?} is no object that fits source.key_layout",
                bucket.name
            );
            return Finding::Skipped(none);
        };
        let key = &newest.key;
        match self.instruments.wiring.read_byte(bucket, key).await {
            Ok(()) => Finding::Ok(format!("s3://{}/{key} can be read", bucket.name)),
            Err(problem) => Finding::failed(
                format!("s3://{}/{key} cannot be read: {problem}", bucket.name),
                format!(
                    "allow s3:GetObject on arn:aws:s3:::{}/* to the worker's role, and kms:Decrypt on the key, if the message \
                     names one",
                    bucket.name
                ),
            ),
        }
    }

    async fn quarantine_write(&self, bucket: &OwnBucket) -> Finding {
        let prefix = match QuarantinePrefix::parse(&self.config.quarantine.prefix) {
            Ok(prefix) => prefix,
            Err(problem) => return Finding::failed(problem, "correct quarantine.prefix"),
        };
        let key = prefix.render(PROBE) + "probe";
        let place = format!("s3://{}/{key}", bucket.name);
        match self.instruments.wiring.write(bucket, &key).await {
            Ok(ProbeObject::Removed) => Finding::Ok(format!("{place}, of 0 bytes, was written and deleted")),
            Ok(ProbeObject::Left(why)) => Finding::Ok(format!(
                "{place}, of 0 bytes, was written. It stays, because it cannot be deleted ({why})"
            )),
            Err(Unread::Denied { problem, .. } | Unread::Missing(problem)) => Finding::failed(
                format!("{place} cannot be written: {problem}"),
                format!(
                    "allow s3:PutObject on arn:aws:s3:::{}/* to the worker's role, and kms:GenerateDataKey on the key, if the \
                     message names one",
                    bucket.name
                ),
            ),
            Err(error) => Finding::failed(
                format!("{place} cannot be written: {error}"),
                "check that S3 can be reached from here, and try again",
            ),
        }
    }
}

fn of_notifications(bucket: &str, all: &[Notification], route: &NotificationRoute, queue: &str) -> Finding {
    let targets = || {
        let names = all.iter().map(|of| match &of.to {
            Target::Topic(arn) | Target::Queue(arn) | Target::Function(arn) => arn.as_str(),
            Target::EventBridge => "EventBridge",
        });
        names.collect::<Vec<_>>().join(", ")
    };
    match route {
        NotificationRoute::Topic { arn, .. } => Finding::Ok(format!("{bucket} notifies {arn}")),
        NotificationRoute::Queue(_) => Finding::Ok(format!("{bucket} notifies the queue itself, {queue}")),
        NotificationRoute::EventBridge => Finding::Skipped(format!(
            "not checked: {bucket} notifies EventBridge, and reading its rules needs events:ListRules. A rule for \
             \"Object Created\" must send to {queue}"
        )),
        NotificationRoute::None => {
            let problem = if all.is_empty() {
                format!("bucket {bucket:?} notifies nobody: no message tells the worker of a new object")
            } else {
                format!("bucket {bucket:?} notifies {}, and neither a topic nor {queue}", targets())
            };
            Finding::failed(
                problem,
                format!(
                    "`aws s3api put-bucket-notification-configuration --bucket {bucket} --notification-configuration \
                     '{{\"TopicConfigurations\":[{{\"TopicArn\":\"TOPIC\",\"Events\":[\"{ANY_CREATION}\"]}}]}}'`; the command \
                     replaces the whole configuration"
                ),
            )
        }
    }
}

fn covers(entries: &[&Notification], event: &str) -> bool {
    entries.iter().flat_map(|of| &of.events).any(|of| of == event || of == ANY_CREATION)
}

fn of_events(bucket: &str, entries: &[&Notification]) -> Finding {
    let without = |events: &[&'static str]| {
        events.iter().copied().filter(|event| !covers(entries, event)).collect::<Vec<_>>().join(" and ")
    };
    let fix = || {
        format!(
            "set Events of the notification of bucket {bucket} to [\"{ANY_CREATION}\"] \
             (`aws s3api put-bucket-notification-configuration`)"
        )
    };
    let (missing, others) = (without(&UPLOADS), without(&OTHERS));
    if !missing.is_empty() {
        return Finding::failed(
            format!(
                "{missing} are not notified: objects that Vector uploads in this way are never delivered"
            ),
            fix(),
        );
    }
    if !others.is_empty() {
        let problem =
            format!("{others} are not notified: objects that are copied into the bucket are not delivered");
        return Finding::warning(problem, fix());
    }
    Finding::Ok("every creation of an object is notified".to_owned())
}

/// `starts` are literal starts of the keys: of the layout, and of each rule. `listed` are objects with keys that fit. A rule does
/// not name a bucket. With several `buckets`, the keys of one rule may therefore be in another bucket.
fn of_filter(entries: &[&Notification], starts: &[String], listed: &[Listed], buckets: usize) -> Finding {
    let shown = |of: &Notification| match (of.prefix.as_str(), of.suffix.as_str()) {
        ("", "") => "any key".to_owned(),
        (prefix, "") => format!("keys that begin with {prefix:?}"),
        ("", suffix) => format!("keys that end with {suffix:?}"),
        (prefix, suffix) => format!("keys that begin with {prefix:?} and end with {suffix:?}"),
    };
    let filters = || entries.iter().map(|of| shown(of)).collect::<Vec<_>>().join(", or ");
    let fix = "correct Filter of the bucket's notification (`aws s3api put-bucket-notification-configuration`), so that it has \
               every key of source.key_layout and source.rules, or remove it";
    let passes = |of: &Notification, key: &str| key.starts_with(&of.prefix) && key.ends_with(&of.suffix);
    if let Some(lost) = listed.iter().find(|object| !entries.iter().any(|of| passes(of, &object.key))) {
        return Finding::failed(
            format!("only {} are notified: the object {:?} never was", filters(), lost.key),
            fix,
        );
    }
    let (notified, lost): (Vec<_>, Vec<_>) =
        starts.iter().partition(|start| entries.iter().any(|of| start.starts_with(&of.prefix)));
    let elsewhere = match lost.first() {
        None => String::new(),
        Some(start) if buckets > 1 && !notified.is_empty() => {
            format!("; keys that begin with {start:?} are not, so they must be in another bucket")
        }
        Some(start) => {
            let of_layout = if start.is_empty() {
                "have no common start".to_owned()
            } else {
                format!("begin with {start:?}")
            };
            return Finding::failed(
                format!(
                    "only {} are notified, but the layout's keys {of_layout}: the others are never delivered",
                    filters()
                ),
                fix,
            );
        }
    };
    // Objects that are there and pass prove the suffix. Without them, only the keys of a layout for Vector are known.
    let known = |suffix: &str| EXTENSIONS.iter().any(|extension| extension.ends_with(suffix));
    if listed.is_empty() && starts.len() == 1 && !entries.iter().any(|of| known(&of.suffix)) {
        return Finding::failed(
            format!(
                "only {} are notified, and Vector writes no such keys unless filename_extension says so",
                filters()
            ),
            fix,
        );
    }
    Finding::Ok(format!("{} are notified{elsewhere}", filters()))
}

fn of_bucket(field: &str, bucket: &OwnBucket, answer: Result<(), BucketError>) -> Finding {
    match answer {
        Ok(()) => Finding::Ok(format!("{} exists", bucket.name)),
        // Reading and writing objects does not need s3:ListBucket. But whether the configuration names the right owner is open.
        Err(error @ BucketError::Hidden(_)) if bucket.owner.is_some() => Finding::warning(
            error.to_string(),
            format!("correct the account in {field}, or allow s3:ListBucket to let this check find out"),
        ),
        Err(error @ BucketError::Hidden(_)) => {
            Finding::Skipped(format!("{error}: allow s3:ListBucket to let this check find out"))
        }
        Err(error @ BucketError::Foreign { .. }) => Finding::failed(
            error.to_string(),
            format!("correct the account in {field}: S3 denies every read and write for a wrong owner"),
        ),
        Err(error @ BucketError::Unavailable { .. }) => {
            Finding::failed(error.to_string(), "check that S3 can be reached from here, and try again")
        }
        Err(error) => {
            Finding::failed(error.to_string(), format!("create the bucket, or correct {field} or aws.region"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{check, skips};

    #[test]
    fn a_denied_check_is_no_success_if_the_configuration_names_an_owner() {
        let of = |text: &str, error: BucketError| {
            of_bucket("source.buckets", &text.parse().expect("a bucket"), Err(error))
        };
        let hidden = || BucketError::Hidden("logs".to_owned());
        let found = of("logs=111111111111", hidden());
        assert!(
            matches!(&found, Finding::Warning { fix, .. } if fix.contains("account in source.buckets")),
            "{found:?}"
        );
        skips(&of("logs", hidden()), "allow s3:ListBucket");
        let (bucket, owner) = ("logs".to_owned(), "111111111111".to_owned());
        check(&of("logs=111111111111", BucketError::Foreign { bucket, owner }), Err("account 111111111111"));
    }

    fn entry(events: &[&str], prefix: &str, suffix: &str) -> Notification {
        Notification {
            to: Target::Topic("arn:aws:sns:us-east-1:111111111111:events".to_owned()),
            events: events.iter().map(|event| format!("s3:ObjectCreated:{event}")).collect(),
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
        }
    }

    #[test]
    fn every_upload_must_be_notified() {
        let events = |events: &[&str], expected| check(&of_events("b", &[&entry(events, "", "")]), expected);
        events(&["*"], Ok("every creation"));
        events(&["Put", "CompleteMultipartUpload", "Post", "Copy"], Ok("every creation"));
        events(&["Put"], Err("s3:ObjectCreated:CompleteMultipartUpload are not notified"));
        events(&["CompleteMultipartUpload", "Copy"], Err("s3:ObjectCreated:Put are not"));
        let found = of_events("b", &[&entry(&["Put"], "", ""), &entry(&["CompleteMultipartUpload"], "", "")]);
        assert!(matches!(&found, Finding::Warning { problem, .. } if problem.contains("Copy")), "{found:?}");
    }

    #[test]
    fn a_filter_must_have_every_key_of_the_layout() {
        let filter = |prefix: &str, suffix: &str, starts: &[&str], keys: &[&str], expected| {
            let starts: Vec<_> = starts.iter().map(|start| (*start).to_owned()).collect();
            let object =
                |key: &&str| Listed { key: (*key).to_owned(), size: 1, modified: 0, archived: false };
            let listed: Vec<_> = keys.iter().map(object).collect();
            check(&of_filter(&[&entry(&["*"], prefix, suffix)], &starts, &listed, 1), expected);
        };
        filter("", "", &[""], &["a/b"], Ok("any key"));
        filter("logs/", "", &["logs/"], &[], Ok("begin with \"logs/\""));
        filter("lo", ".gz", &["logs/v1/"], &[], Ok("end with \".gz\""));
        filter("logs/", "", &[""], &[], Err("no common start"));
        filter("logs/acme/", "", &["logs/"], &[], Err("begin with \"logs/\""));
        filter("logs/", "", &["logs/", "trail/"], &[], Err("begin with \"trail/\""));
        filter("", ".json.gz", &[""], &["a/1.json.gz"], Ok("json.gz"));
        filter("", ".gz", &[""], &["a/1.json.gz", "a/2.json.zst"], Err("a/2.json.zst"));
        filter("", ".txt", &[""], &[], Err("Vector writes no such keys"));
        filter("", ".txt", &[""], &["a/1.txt"], Ok("end with \".txt\""));
        filter("", ".parquet", &["logs/", ""], &[], Ok("end with \".parquet\""));
    }

    #[test]
    fn with_several_buckets_a_bucket_may_have_the_keys_of_some_rules() {
        let filter = |prefix: &str, starts: &[&str], expected| {
            let starts: Vec<_> = starts.iter().map(|start| (*start).to_owned()).collect();
            check(&of_filter(&[&entry(&["*"], prefix, "")], &starts, &[], 2), expected);
        };
        filter(
            "trail/",
            &["logs/", "trail/"],
            Ok("keys that begin with \"logs/\" are not, so they must be in another"),
        );
        filter("flow/", &["logs/", "trail/"], Err("begin with \"logs/\""));
        filter("logs/acme/", &["logs/"], Err("begin with \"logs/\""));
    }

    #[test]
    fn a_bucket_must_notify_the_queue_or_a_topic() {
        let to = |to: Target| Notification { to, ..entry(&["*"], "", "") };
        let found =
            |all: &[Notification], route: NotificationRoute| of_notifications("b", all, &route, "arn:q");
        check(&found(&[], NotificationRoute::None), Err("notifies nobody"));
        let other = to(Target::Queue("arn:other".to_owned()));
        check(&found(&[other], NotificationRoute::None), Err("notifies arn:other, and neither"));
        check(
            &found(&[to(Target::Queue("arn:q".to_owned()))], NotificationRoute::Queue("arn:q".to_owned())),
            Ok("the queue itself"),
        );
        let bridge = found(&[to(Target::EventBridge)], NotificationRoute::EventBridge);
        skips(&bridge, "needs events:ListRules");
    }
}
