use super::*;
use crate::config::Http;

fn complete() -> Config {
    let mut config = Config::default();
    config.queue.url = Some("https://sqs.us-east-1.amazonaws.com/111111111111/logs".into());
    config.tenants.table = Some("tenants".into());
    config.credentials.central_role_arn = Some("arn:aws:iam::111111111111:role/central".into());
    config
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
fn two_addresses_that_cannot_both_be_bound_are_refused() {
    let check = |listen: &str, own: &str, fields: &[&str]| {
        let http = Http {
            listen: listen.parse().expect("an address"),
            admin_listen: Some(own.parse().expect("an address")),
        };
        check(|c| c.http = http, fields);
    };
    for (listen, own) in [
        ("0.0.0.0:8080", "0.0.0.0:8080"),
        ("0.0.0.0:8080", "127.0.0.1:8080"),
        ("127.0.0.1:8080", "0.0.0.0:8080"),
        ("[::]:8080", "127.0.0.1:8080"),
        ("[::1]:8080", "[::]:8080"),
        ("0.0.0.0:8080", "[::]:8080"),
    ] {
        check(listen, own, &["http.admin_listen"]);
    }
    for (listen, own) in [
        ("0.0.0.0:8080", "127.0.0.1:8081"),
        ("127.0.0.2:8080", "127.0.0.1:8080"),
        ("0.0.0.0:8080", "[::1]:8080"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("0.0.0.0:0", "0.0.0.0:0"),
    ] {
        check(listen, own, &[]);
    }
    let mut config = complete();
    config.http.admin_listen = "127.0.0.1:8080".parse().ok();
    let problem = config.validate().remove(0).problem;
    assert_eq!(problem, "127.0.0.1:8080 cannot be bound beside http.listen, 0.0.0.0:8080: use another port");
}

#[test]
fn every_broken_rule_is_reported() {
    check(|c| c.aws.region = Some(String::new()), &["aws.region"]);
    check(|c| c.tenants.default_region = Some("eu".into()), &["tenants.default_region"]);
    check(|c| c.tenants.default_region = Some("eusc-de-east-1".into()), &[]);
    check(|c| c.queue.url = Some("logs".into()), &["queue.url"]);
    let queue =
        |region: &str, name: &str| Some(format!("https://sqs.{region}.amazonaws.com/111111111111/{name}"));
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
    check(|c| c.delivery.mode = Mode::Shadow, &["delivery.mode"]);
    let shadow = |c: &mut Config| {
        c.delivery.mode = Mode::Shadow;
        c.ledger.table = Some("ledger".into());
    };
    check(shadow, &[]);
    check(|c| c.shadow.retention = Duration::from_secs(60), &["shadow.retention"]);
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
    check(|c| c.credentials.session_duration = Duration::from_secs(7200), &["credentials.session_duration"]);
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
