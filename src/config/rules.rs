//! The rules of a configuration.

use std::{fmt::Debug, net::SocketAddr, ops::RangeInclusive, time::Duration};

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
    tenant::{Mode, OwnBuckets, region},
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
        check.given("aws.region", self.aws.region.as_deref(), region);
        check.given("tenants.default_region", self.tenants.default_region.as_deref(), region);
        self.validate_queue(&mut check);
        self.validate_source(&mut check);
        self.validate_quarantine(&mut check);
        self.validate_credentials(&mut check);
        check.required("tenants.table", self.tenants.table.as_deref(), "TENANT_CONFIG_TABLE", table);
        // A bad Region is reported already.
        if let Some(here) = self.aws.region.as_deref().filter(|here| region(here).is_ok()) {
            check.problems.extend(self.elsewhere(here));
        }
        for (field, holds) in [
            ("tenants.cache_capacity", self.tenants.cache_capacity > 0),
            ("delivery.put_rate", self.delivery.put_rate > 0),
            ("delivery.create_stream_rate", self.delivery.create_stream_rate > 0),
            ("fairness.max_objects", self.fairness.max_objects != Some(0)),
            ("credentials.cache_capacity", self.credentials.cache_capacity > 0),
        ] {
            check.that(field, holds, || "must be at least 1".into());
        }
        check.within("delivery.attempts", self.delivery.attempts, 1..=10);
        let no_bytes = Some(ByteSize::b(0));
        check.that("fairness.max_bytes", self.fairness.max_bytes != no_bytes, || {
            "must be at least 1 B".into()
        });
        let ledger = &self.ledger;
        check.given("ledger.table", ledger.table.as_deref(), table);
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
        check.that("delivery.mode", self.delivery.mode == Mode::Live || ledger.table.is_some(), || {
            "\"shadow\" needs ledger.table, where the counts are kept".into()
        });
        check.within("shadow.retention", self.shadow.retention, 60 * MINUTE..=365 * DAY);
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
        let listen = self.http.listen;
        if let Some(own) = self.http.admin_listen.filter(|own| overlap(*own, listen)) {
            check.problem(
                "http.admin_listen",
                format!("{own} cannot be bound beside http.listen, {listen}: use another port"),
            );
        }
        check.that("metrics.max_tenants", self.metrics.max_tenants <= MAX_NAMED_TENANTS, || {
            format!(
                "{} is more than {MAX_NAMED_TENANTS}; each tenant has about ten time series",
                self.metrics.max_tenants
            )
        });
        check.that("metrics.heartbeat_tenant", self.metrics.heartbeat_tenant.as_deref() != Some(""), || {
            "must not be empty; leave it out if there is no heartbeat".into()
        });
        check.given("log.filter", Some(&self.log.filter), log_filter::parse);
        check.within("worker.concurrency", self.worker.concurrency, 1..=1024);
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

    fn validate_queue(&self, check: &mut Check) {
        let queue = &self.queue;
        check.required("queue.url", queue.url.as_deref(), "SQS_QUEUE_URL", queue_url);
        let letters = &queue.dead_letter_url;
        check.given("queue.dead_letter_url", letters.as_deref(), queue_url);
        check.that("queue.dead_letter_url", letters.is_none() || *letters != queue.url, || {
            "must not be the same as queue.url, or a dead letter would come straight back".into()
        });
        check.that("queue.max_messages", (1..=10).contains(&queue.max_messages), || {
            format!("{} is not within 1 to 10, which is what ReceiveMessage takes", queue.max_messages)
        });
        check.within("queue.wait_time", queue.wait_time, SECOND..=MAX_WAIT);
        check.within("queue.visibility_timeout", queue.visibility_timeout, 10 * SECOND..=MAX_VISIBILITY);
        check.within("queue.max_retry_delay", queue.max_retry_delay, SECOND..=MAX_DELAY);
        check.within("queue.max_age", queue.max_age, SECOND..=MAX_RETENTION);
        check.within("queue.max_refusals", queue.max_refusals, 1..=1000);
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
        check.problems.extend(self.source.key_rules().err());
        for bucket in &self.source.buckets {
            check.given("source.buckets", Some(bucket), str::parse::<OwnBucket>);
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
        check.given("quarantine.prefix", Some(&self.quarantine.prefix), QuarantinePrefix::parse);
        check.given("quarantine.bucket", self.quarantine.bucket.as_deref(), str::parse::<OwnBucket>);
        let OwnBuckets { staging, quarantine } = self.own_buckets();
        check.that("quarantine.bucket", quarantine.is_none_or(|bucket| !staging.contains(&bucket)), || {
            "must not be one of source.buckets, or what is written there would come back as logs".into()
        });
    }

    fn validate_credentials(&self, check: &mut Check) {
        let credentials = &self.credentials;
        check.required(
            "credentials.central_role_arn",
            credentials.central_role_arn.as_deref(),
            "CENTRAL_LOG_DISTRIBUTION_ROLE_ARN",
            str::parse::<RoleArn>,
        );
        check.within("credentials.session_duration", credentials.session_duration, 15 * MINUTE..=60 * MINUTE);
        check.that(
            "credentials.refresh_before",
            credentials.refresh_before <= credentials.session_duration / 2,
            || "must be at most half of credentials.session_duration".into(),
        );
        let (probe, longest) = (credentials.probe_interval, credentials.max_probe_interval);
        check.within("credentials.max_probe_interval", longest, SECOND..=MAX_VISIBILITY);
        check.that("credentials.probe_interval", (SECOND..=longest).contains(&probe), || {
            format!("{probe:?} is not within 1s to credentials.max_probe_interval")
        });
    }
}

/// Whether the two addresses cannot both be bound. An unspecified address takes the port on all addresses of its family. The
/// unspecified IPv6 address takes it on all IPv4 addresses too.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    let covers =
        |all: SocketAddr, ip: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    let same_port = one.port() == two.port() && one.port() != 0;
    same_port && (one.ip() == two.ip() || covers(one, two) || covers(two, one))
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

    /// Checks that a value can be read, if it is given.
    fn given<'a, T, E: ToString>(
        &mut self,
        field: &str,
        value: Option<&'a str>,
        read: impl FnOnce(&'a str) -> Result<T, E>,
    ) {
        if let Some(Err(problem)) = value.map(read) {
            self.problem(field, problem.to_string());
        }
    }

    fn required<'a, T, E: ToString>(
        &mut self,
        field: &str,
        value: Option<&'a str>,
        variable: &str,
        read: impl FnOnce(&'a str) -> Result<T, E>,
    ) {
        let value = value.filter(|value| !value.is_empty());
        self.that(field, value.is_some(), || format!("is required; set it in the file or as {variable}"));
        self.given(field, value, read);
    }

    fn within<T: PartialOrd + Debug>(&mut self, field: &str, value: T, range: RangeInclusive<T>) {
        self.that(field, range.contains(&value), || {
            format!("{value:?} is not within {:?} to {:?}", range.start(), range.end())
        });
    }
}

#[cfg(test)]
mod tests;
