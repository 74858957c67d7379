//! The rules of a configuration.

use std::{ops::RangeInclusive, time::Duration};

use bytesize::ByteSize;

use super::{
    Config, MAX_WAIT, Problem, log_filter,
    names::{queue_url, table},
};
use crate::{
    credentials::RoleArn,
    name::bucket::OwnBucket,
    quarantine::QuarantinePrefix,
    queue::{MAX_DELAY, MAX_VISIBILITY},
    route::KeyLayout,
    tenant::region,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest retention of SQS. Source: SQS API reference, SetQueueAttributes.
const MAX_RETENTION: Duration = Duration::from_secs(14 * 86_400);
/// Most messages in flight of a standard queue. Source: SQS Developer Guide, "Message quotas".
const MAX_IN_FLIGHT: usize = 120_000;
/// Most tenants with time series of their own.
const MAX_NAMED_TENANTS: usize = 1_000;

impl Config {
    /// Finds all broken rules. Without any, `worker` can start with this configuration.
    pub fn validate(&self) -> Vec<Problem> {
        let mut check = Check::default();
        check.region("aws.region", self.aws.region.as_deref());
        check.region("tenants.default_region", self.tenants.default_region.as_deref());
        self.validate_queue(&mut check);
        self.validate_source(&mut check);
        self.validate_quarantine(&mut check);
        self.validate_credentials(&mut check);
        if check.required("tenants.table", self.tenants.table.as_deref(), "TENANT_CONFIG_TABLE") {
            check.name("tenants.table", self.tenants.table.as_deref().map(|name| table(name).map(drop)));
        }
        // A bad Region is reported already.
        if let Some(here) = self.aws.region.as_deref().filter(|here| region(here).is_ok()) {
            check.problems.extend(self.elsewhere(here));
        }
        check.that("tenants.cache_capacity", self.tenants.cache_capacity > 0, || "must be at least 1".into());
        check.that("delivery.attempts", (1..=10).contains(&self.delivery.attempts), || {
            format!("{} is not within 1 to 10", self.delivery.attempts)
        });
        for (field, rate) in [
            ("delivery.put_rate", self.delivery.put_rate),
            ("delivery.create_stream_rate", self.delivery.create_stream_rate),
        ] {
            check.that(field, rate > 0, || "must be at least 1".into());
        }
        check.that("fairness.max_objects", self.fairness.max_objects != Some(0), || {
            "must be at least 1".into()
        });
        let no_bytes = Some(ByteSize::b(0));
        check.that("fairness.max_bytes", self.fairness.max_bytes != no_bytes, || {
            "must be at least 1 B".into()
        });
        let ledger = &self.ledger;
        check.name("ledger.table", ledger.table.as_deref().map(|name| table(name).map(drop)));
        check.that("ledger.table", ledger.table.is_none() || ledger.table != self.tenants.table, || {
            "must not be the same as tenants.table: their keys differ".into()
        });
        check.within("ledger.lease", ledger.lease, 10 * SECOND..=15 * MINUTE);
        check.within("ledger.max_clock_skew", ledger.max_clock_skew, Duration::ZERO..=5 * MINUTE);
        check.within("ledger.out_of_reach_after", ledger.out_of_reach_after, 5 * SECOND..=60 * MINUTE);
        check.within("ledger.retention", ledger.retention, 60 * MINUTE..=365 * DAY);
        check.that(
            "ledger.retention",
            ledger.table.is_none() || ledger.retention >= self.queue.max_age,
            || {
                format!(
                    "must be at least queue.max_age, {:?}: a message can come again until then",
                    self.queue.max_age
                )
            },
        );
        check.within("tenants.cache_ttl", self.tenants.cache_ttl, SECOND..=DAY);
        check.within("tenants.negative_ttl", self.tenants.negative_ttl, Duration::ZERO..=DAY);
        check.within("tenants.max_stale", self.tenants.max_stale, Duration::ZERO..=30 * DAY);
        check.within("delivery.attempt_timeout", self.delivery.attempt_timeout, SECOND..=10 * MINUTE);
        let shortest_grace = self.queue.wait_time.saturating_add(4 * SECOND);
        check.within("worker.grace_period", self.worker.grace_period, SECOND..=60 * MINUTE);
        check.that("worker.grace_period", self.worker.grace_period >= shortest_grace, || {
            // Otherwise our own last poll could receive the messages that we give back.
            format!("must be at least 4 s longer than queue.wait_time, {shortest_grace:?}")
        });
        let http = &self.http;
        check.that(
            "http.admin_listen",
            http.admin_listen.is_none_or(|own| own.port() == 0 || own != http.listen),
            || "must not be the same as http.listen".into(),
        );
        check.that("metrics.max_tenants", self.metrics.max_tenants <= MAX_NAMED_TENANTS, || {
            format!(
                "{} is more than {MAX_NAMED_TENANTS}; each tenant has about ten time series",
                self.metrics.max_tenants
            )
        });
        self.validate_log(&mut check);
        check.that("worker.concurrency", (1..=1024).contains(&self.worker.concurrency), || {
            format!("{} is not within 1 to 1024", self.worker.concurrency)
        });
        check.problems
    }

    /// Finds queues and tables outside of the Region `here`, to which all calls go. A queue's Region is read from the host
    /// of its URL, a table's from its ARN.
    pub fn elsewhere(&self, here: &str) -> Vec<Problem> {
        let of_queue = |url: &Option<String>| Some(queue_url(url.as_deref()?).ok()?.region?.to_owned());
        let of_table = |name: &Option<String>| Some(table(name.as_deref()?).ok()??.to_owned());
        let named = [
            ("queue.url", &self.queue.url, of_queue(&self.queue.url)),
            ("queue.dead_letter_url", &self.queue.dead_letter_url, of_queue(&self.queue.dead_letter_url)),
            ("tenants.table", &self.tenants.table, of_table(&self.tenants.table)),
            ("ledger.table", &self.ledger.table, of_table(&self.ledger.table)),
        ];
        let elsewhere = named.into_iter().filter_map(|(field, value, there)| {
            let (value, there) = (value.as_deref()?, there.filter(|there| there != here)?);
            let problem = format!(
                "{value:?} is in Region {there}, and calls go to {here}: correct it, or aws.region (AWS_REGION, AWS_DEFAULT_REGION, \
                 the profile's region)"
            );
            Some(Problem { field: field.to_owned(), problem })
        });
        elsewhere.collect()
    }

    fn validate_log(&self, check: &mut Check) {
        if let Err(problem) = log_filter::parse(&self.log.filter) {
            check.problem("log.filter", problem);
        }
    }

    fn validate_queue(&self, check: &mut Check) {
        let queue = &self.queue;
        if check.required("queue.url", queue.url.as_deref(), "SQS_QUEUE_URL") {
            check.name("queue.url", queue.url.as_deref().map(|url| queue_url(url).map(drop)));
        }
        if let Some(url) = &queue.dead_letter_url {
            check.name("queue.dead_letter_url", Some(queue_url(url).map(drop)));
            check.that("queue.dead_letter_url", queue.url.as_ref() != Some(url), || {
                "must not be the same as queue.url, or a dead letter would come straight back".into()
            });
        }
        check.that("queue.max_messages", (1..=10).contains(&queue.max_messages), || {
            format!("{} is not within 1 to 10, which is what ReceiveMessage takes", queue.max_messages)
        });
        check.within("queue.wait_time", queue.wait_time, SECOND..=MAX_WAIT);
        check.within("queue.visibility_timeout", queue.visibility_timeout, 10 * SECOND..=MAX_VISIBILITY);
        check.within("queue.max_retry_delay", queue.max_retry_delay, SECOND..=MAX_DELAY);
        check.within("queue.max_age", queue.max_age, SECOND..=MAX_RETENTION);
        check.that("queue.max_refusals", (1..=1000).contains(&queue.max_refusals), || {
            format!("{} is not within 1 to 1000", queue.max_refusals)
        });
        check.that("queue.max_hidden", queue.max_hidden <= MAX_IN_FLIGHT, || {
            format!(
                "{} is more than the {MAX_IN_FLIGHT} messages that SQS allows in flight",
                queue.max_hidden
            )
        });
        check.that(
            "queue.retry_delay",
            (SECOND..=queue.max_retry_delay).contains(&queue.retry_delay),
            || format!("{:?} is not within 1s to queue.max_retry_delay", queue.retry_delay),
        );
    }

    fn validate_source(&self, check: &mut Check) {
        if let Err(error) = KeyLayout::parse(&self.source.key_layout) {
            check.problem("source.key_layout", error.to_string());
        }
        for bucket in &self.source.buckets {
            if let Err(problem) = bucket.parse::<OwnBucket>() {
                check.problem("source.buckets", problem);
            }
        }
        let (record, object) = (self.source.max_record, self.source.max_object);
        check.that("source.max_record", record >= ByteSize::mib(1), || {
            format!("{record} is less than 1 MiB, the size that one event may have")
        });
        check.that("source.max_record", record <= ByteSize::mib(256), || {
            format!("{record} is more than 256 MiB; each slot of worker.concurrency may hold that much")
        });
        check
            .that("source.max_object", object >= record, || "must not be less than source.max_record".into());
        let stored = self.source.max_stored;
        check
            .that("source.max_stored", stored >= ByteSize::mib(1), || format!("{stored} is less than 1 MiB"));
    }

    fn validate_quarantine(&self, check: &mut Check) {
        if let Err(problem) = QuarantinePrefix::parse(&self.quarantine.prefix) {
            check.problem("quarantine.prefix", problem);
        }
        match self.quarantine.bucket.as_deref().map(str::parse::<OwnBucket>) {
            Some(Err(problem)) => check.problem("quarantine.bucket", problem),
            Some(Ok(bucket)) => {
                let sources =
                    self.source.buckets.iter().filter_map(|source| source.parse::<OwnBucket>().ok());
                check.that(
                    "quarantine.bucket",
                    sources.into_iter().all(|source| source.name != bucket.name),
                    || {
                        "must not be one of source.buckets, or what is written there would come back as logs"
                            .into()
                    },
                );
            }
            None => {}
        }
    }

    fn validate_credentials(&self, check: &mut Check) {
        let credentials = &self.credentials;
        let field = "credentials.central_role_arn";
        if check.required(field, credentials.central_role_arn.as_deref(), "CENTRAL_LOG_DISTRIBUTION_ROLE_ARN")
            && let Err(error) = credentials.central_role_arn.as_deref().unwrap_or_default().parse::<RoleArn>()
        {
            check.problem(field, error.to_string());
        }
        check.within("credentials.session_duration", credentials.session_duration, 15 * MINUTE..=60 * MINUTE);
        check.that(
            "credentials.refresh_before",
            credentials.refresh_before <= credentials.session_duration / 2,
            || "must be at most half of credentials.session_duration".into(),
        );
        check.that("credentials.cache_capacity", credentials.cache_capacity > 0, || {
            "must be at least 1".into()
        });
        let (probe, longest) = (credentials.probe_interval, credentials.max_probe_interval);
        check.within("credentials.max_probe_interval", longest, SECOND..=MAX_VISIBILITY);
        check.that("credentials.probe_interval", (SECOND..=longest).contains(&probe), || {
            format!("{probe:?} is not within 1s to credentials.max_probe_interval")
        });
    }
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, field: &str, problem: String) {
        self.problems.push(Problem { field: field.to_owned(), problem });
    }

    fn that(&mut self, field: &str, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problem(field, problem());
        }
    }

    fn required(&mut self, field: &str, value: Option<&str>, variable: &str) -> bool {
        let given = value.is_some_and(|value| !value.is_empty());
        self.that(field, given, || format!("is required; set it in the file or as {variable}"));
        given
    }

    fn region(&mut self, field: &str, value: Option<&str>) {
        if let Some(Err(problem)) = value.map(region) {
            self.problem(field, problem);
        }
    }

    fn name(&mut self, field: &str, legal: Option<Result<(), String>>) {
        if let Some(Err(problem)) = legal {
            self.problem(field, problem);
        }
    }

    fn within(&mut self, field: &str, value: Duration, range: RangeInclusive<Duration>) {
        self.that(field, range.contains(&value), || {
            format!("{value:?} is not within {:?} to {:?}", range.start(), range.end())
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::Http;

    fn complete() -> Config {
        let mut config = Config::default();
        config.queue.url = Some("https://sqs.us-east-1.amazonaws.com/111111111111/logs".into());
        config.tenants.table = Some("tenants".into());
        config.credentials.central_role_arn = Some("arn:aws:iam::111111111111:role/central".into());
        config
    }

    fn any_port() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn check(change: impl FnOnce(&mut Config), fields: &[&str]) {
        let mut config = complete();
        change(&mut config);
        let found: Vec<_> = config.validate().into_iter().map(|problem| problem.field).collect();
        assert_eq!(found, fields);
    }

    #[test]
    fn defaults_lack_only_three_fields() {
        let fields: Vec<_> = Config::default().validate().into_iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["queue.url", "credentials.central_role_arn", "tenants.table"]);
        check(|_| (), &[]);
    }

    #[test]
    fn every_broken_rule_is_reported() {
        check(|c| c.aws.region = Some(String::new()), &["aws.region"]);
        check(|c| c.tenants.default_region = Some("eu".into()), &["tenants.default_region"]);
        check(|c| c.tenants.default_region = Some("eusc-de-east-1".into()), &[]);
        check(|c| c.queue.url = Some("logs".into()), &["queue.url"]);
        let queue = |region: &str, name: &str| {
            Some(format!("https://sqs.{region}.amazonaws.com/111111111111/{name}"))
        };
        check(|c| c.queue.url = queue("eu-west-1", "logs.fifo"), &["queue.url"]);
        check(|c| c.queue.url = queue("eu-west-1", "logs\n"), &["queue.url"]);
        check(|c| c.queue.dead_letter_url = queue("eu-west-1", "letters.fifo"), &["queue.dead_letter_url"]);
        let both = |c: &mut Config, region: &str| {
            c.aws.region = Some("eu-west-1".into());
            c.queue.url = queue(region, "logs");
            c.queue.dead_letter_url = queue("us-east-1", "letters");
        };
        check(|c| both(c, "eu-west-1"), &["queue.dead_letter_url"]);
        check(|c| both(c, "eu-west-2"), &["queue.url", "queue.dead_letter_url"]);
        check(
            |c| {
                both(c, "eu-west-2");
                c.aws.region = None;
            },
            &[],
        );
        let table = |region: &str| Some(format!("arn:aws:dynamodb:{region}:111111111111:table/t-{region}"));
        let tables = |c: &mut Config, region: &str| {
            both(c, "eu-west-1");
            c.queue.dead_letter_url = None;
            (c.tenants.table, c.ledger.table) = (table(region), table(region).map(|arn| arn + "-ledger"));
        };
        check(|c| tables(c, "eu-west-1"), &[]);
        check(|c| tables(c, "eu-west-3"), &["tenants.table", "ledger.table"]);
        for bad in ["ab", "tenants\n", "a b c", "arn:aws:dynamodb:x:1:table/t"] {
            check(|c| c.tenants.table = Some(bad.into()), &["tenants.table"]);
            check(|c| c.ledger.table = Some(bad.into()), &["ledger.table"]);
        }
        check(|c| c.aws.region = Some("eu-west-1\n".into()), &["aws.region"]);
        check(|c| c.source.buckets = vec!["a-bucket\n".into()], &["source.buckets"]);
        check(|c| c.source.key_layout = "logs\n/{tenant}/{file}".into(), &["source.key_layout"]);
        check(
            |c| c.credentials.central_role_arn = Some("arn:aws:iam::111111111111:role/central\n".into()),
            &["credentials.central_role_arn"],
        );
        check(|c| c.queue.dead_letter_url = c.queue.url.clone(), &["queue.dead_letter_url"]);
        check(|c| c.queue.max_messages = 11, &["queue.max_messages"]);
        check(|c| c.queue.wait_time = Duration::from_secs(21), &["queue.wait_time"]);
        check(|c| c.queue.visibility_timeout = Duration::from_secs(1), &["queue.visibility_timeout"]);
        check(|c| c.queue.retry_delay = Duration::from_secs(1000), &["queue.retry_delay"]);
        check(|c| c.queue.max_retry_delay = Duration::from_secs(901), &["queue.max_retry_delay"]);
        check(|c| c.queue.max_age = Duration::ZERO, &["queue.max_age"]);
        check(|c| c.queue.max_age = 14 * DAY, &[]);
        check(|c| c.queue.max_age = 14 * DAY + SECOND, &["queue.max_age"]);
        check(|c| c.queue.max_refusals = 0, &["queue.max_refusals"]);
        check(|c| c.queue.max_refusals = 1001, &["queue.max_refusals"]);
        check(|c| c.queue.max_hidden = 120_001, &["queue.max_hidden"]);
        check(|c| c.queue.max_hidden = 0, &[]);
        check(|c| c.source.key_layout = "{tenant}".into(), &["source.key_layout"]);
        check(|c| c.source.buckets = vec!["Bad Bucket".into(), "ok-bucket=1".into()], &["source.buckets"; 2]);
        for bad in ["...", "-a-", "a..b", "192.168.0.1", "_ab", "xn--bucket"] {
            check(|c| c.source.buckets = vec![bad.into()], &["source.buckets"]);
            check(|c| c.quarantine.bucket = Some(format!("{bad}=111111111111")), &["quarantine.bucket"]);
        }
        check(|c| c.source.buckets = vec!["an_old_bucket".into()], &[]);
        check(|c| c.source.max_record = ByteSize::kib(1), &["source.max_record"]);
        check(|c| c.source.max_object = ByteSize::mib(2), &["source.max_object"]);
        check(|c| c.source.max_stored = ByteSize::kib(1023), &["source.max_stored"]);
        check(|c| c.credentials.central_role_arn = Some("central".into()), &["credentials.central_role_arn"]);
        check(
            |c| c.credentials.session_duration = Duration::from_secs(7200),
            &["credentials.session_duration"],
        );
        check(|c| c.credentials.refresh_before = Duration::from_secs(3000), &["credentials.refresh_before"]);
        check(|c| c.credentials.probe_interval = Duration::ZERO, &["credentials.probe_interval"]);
        check(|c| c.credentials.probe_interval = Duration::from_secs(901), &["credentials.probe_interval"]);
        check(|c| c.credentials.max_probe_interval = Duration::MAX, &["credentials.max_probe_interval"]);
        check(|c| c.ledger.table = Some(String::new()), &["ledger.table"]);
        check(|c| c.ledger.table = c.tenants.table.clone(), &["ledger.table"]);
        check(|c| c.ledger.table = Some("ledger".into()), &[]);
        check(|c| c.ledger.lease = Duration::from_secs(901), &["ledger.lease"]);
        check(|c| c.ledger.lease = Duration::from_secs(9), &["ledger.lease"]);
        check(|c| c.ledger.max_clock_skew = Duration::from_secs(301), &["ledger.max_clock_skew"]);
        check(|c| c.ledger.max_clock_skew = Duration::ZERO, &[]);
        check(|c| c.ledger.out_of_reach_after = Duration::from_secs(4), &["ledger.out_of_reach_after"]);
        check(|c| c.ledger.out_of_reach_after = Duration::from_secs(3601), &["ledger.out_of_reach_after"]);
        check(|c| c.ledger.retention = Duration::from_secs(3599), &["ledger.retention"]);
        let day = Duration::from_secs(86_400);
        let with_ledger = |c: &mut Config, retention| {
            (c.ledger.table, c.ledger.retention) = (Some("ledger".into()), retention);
        };
        check(|c| with_ledger(c, 2 * day), &["ledger.retention"]);
        check(|c| with_ledger(c, 3 * day), &[]);
        check(|c| c.quarantine.prefix = "quarantine/".into(), &["quarantine.prefix"]);
        check(|c| c.quarantine.bucket = Some(String::new()), &["quarantine.bucket"]);
        check(
            |c| {
                c.source.buckets = vec!["a-bucket=111111111111".into()];
                c.quarantine.bucket = Some("a-bucket".into());
            },
            &["quarantine.bucket"],
        );
        check(|c| c.quarantine.bucket = Some("b-bucket=111111111111".into()), &[]);
        check(|c| c.delivery.attempts = 0, &["delivery.attempts"]);
        check(|c| c.delivery.put_rate = 0, &["delivery.put_rate"]);
        check(|c| c.delivery.create_stream_rate = 0, &["delivery.create_stream_rate"]);
        check(|c| c.fairness.max_objects = Some(0), &["fairness.max_objects"]);
        check(|c| c.fairness.max_bytes = Some(ByteSize::b(0)), &["fairness.max_bytes"]);
        check(|c| c.worker.concurrency = 0, &["worker.concurrency"]);
        check(|c| c.worker.grace_period = Duration::from_secs(20), &["worker.grace_period"]);
        check(|c| c.http.admin_listen = Some(c.http.listen), &["http.admin_listen"]);
        check(|c| c.http.admin_listen = "127.0.0.1:8080".parse().ok(), &[]);
        check(|c| c.http = Http { listen: any_port(), admin_listen: Some(any_port()) }, &[]);
        check(|c| c.metrics.max_tenants = 1_001, &["metrics.max_tenants"]);
        check(|c| c.metrics.max_tenants = 0, &[]);
        check(|c| c.log.filter = "loud".into(), &["log.filter"]);
        check(|c| c.log.filter = "warn,logferry=loud".into(), &["log.filter"]);
        check(|c| c.log.filter = "warn,logferry=debug".into(), &[]);
        check(|c| c.queue.retry_delay = Duration::ZERO, &["queue.retry_delay"]);
        check(|c| c.tenants.negative_ttl = Duration::MAX, &["tenants.negative_ttl"]);
        check(|c| c.tenants.negative_ttl = Duration::ZERO, &[]);
        check(|c| c.tenants.max_stale = Duration::MAX, &["tenants.max_stale"]);
        check(|c| c.tenants.max_stale = Duration::ZERO, &[]);
        for absurd in [Duration::ZERO, Duration::MAX] {
            check(|c| c.tenants.cache_ttl = absurd, &["tenants.cache_ttl"]);
            check(|c| c.worker.grace_period = absurd, {
                let both = &["worker.grace_period", "worker.grace_period"];
                if absurd.is_zero() { both } else { &both[..1] }
            });
            check(|c| c.delivery.attempt_timeout = absurd, &["delivery.attempt_timeout"]);
            check(|c| c.credentials.session_duration = absurd, {
                let both = &["credentials.session_duration", "credentials.refresh_before"];
                if absurd.is_zero() { both } else { &both[..1] }
            });
        }
        check(|c| c.credentials.refresh_before = Duration::MAX, &["credentials.refresh_before"]);
    }

    /// `elsewhere` takes the Region as an argument, because the SDK may find it in a profile or in AWS_DEFAULT_REGION.
    #[test]
    fn resources_in_another_region_are_reported() {
        let mut config = complete();
        config.queue.dead_letter_url = Some("http://localhost:9324/queue/letters".into());
        assert_eq!(config.elsewhere("us-east-1"), []);
        let found = config.elsewhere("eu-west-1");
        assert_eq!(found.len(), 1);
        let text = found[0].to_string();
        assert!(
            text.starts_with("queue.url: ") && text.contains("us-east-1") && text.contains("eu-west-1"),
            "{text}"
        );
    }

    #[test]
    fn several_problems_are_reported_together() {
        check(
            |c| {
                c.queue.max_messages = 0;
                c.worker.concurrency = 5000;
            },
            &["queue.max_messages", "worker.concurrency"],
        );
    }
}
