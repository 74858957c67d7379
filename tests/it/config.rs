//! Error messages for a wrong configuration: they name the setting and its source, and the command exits with 64.

use std::path::{Path, PathBuf};

use crate::{target::unique, worker::logferry};

/// All settings without a default.
const COMPLETE: [(&str, &str); 4] = [
    ("AWS_REGION", "eu-central-1"),
    ("SQS_QUEUE_URL", "https://sqs.eu-central-1.amazonaws.com/111111111111/logs"),
    ("TENANT_CONFIG_TABLE", "tenants"),
    ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
];

fn file(text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "config-{}-{}.toml",
        std::process::id(),
        unique()
    ));
    std::fs::write(&path, text).expect("the directory of tests is writable");
    path
}

/// Runs `worker` and `config check`. Both must exit with 64, write each of `words` to standard error, and nothing to
/// standard output.
#[track_caller]
fn refused(text: Option<&str>, environment: &[(&str, &str)], flags: &[&str], words: &[&str]) {
    let file = text.map(file);
    let mut complete = COMPLETE.to_vec();
    complete.extend(environment);
    for command in [&["worker"][..], &["config", "check"]] {
        let mut arguments = command.to_vec();
        arguments.extend(flags);
        if let Some(file) = &file {
            arguments.extend(["--config", file.to_str().expect("UTF-8")]);
        }
        let output = logferry(&arguments, &complete);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {told}");
        for word in words {
            assert!(told.contains(word), "{arguments:?} does not say {word}: {told}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    if let Some(file) = file {
        std::fs::remove_file(file).expect("the file exists");
    }
}

#[test]
fn an_unknown_field_is_refused() {
    refused(Some("[worker]\nconcurency = 4\n"), &[], &[], &["concurency", "config-", "line 2"]);
}

#[test]
fn a_value_of_the_wrong_type_is_refused() {
    refused(Some("[queue]\nmax_messages = \"ten\"\n"), &[], &[], &["max_messages", "config-", "line 2"]);
}

#[test]
fn a_missing_file_is_named() {
    refused(None, &[("LOGFERRY_CONFIG", "/nowhere/logferry.toml")], &[], &["/nowhere/logferry.toml"]);
}

#[test]
fn all_problems_are_reported_at_once_with_their_sources() {
    refused(
        Some("[queue]\nmax_messages = 11\n[worker]\nconcurrency = 0\n"),
        &[("RETRY_ATTEMPTS", "50"), ("LOGFERRY_QUEUE__WAIT_TIME", "1m")],
        &["--set", "source.key_layout={pod}/{file}"],
        &[
            "queue.max_messages",
            "worker.concurrency",
            "config-",
            "delivery.attempts",
            "$RETRY_ATTEMPTS",
            "queue.wait_time",
            "$LOGFERRY_QUEUE__WAIT_TIME",
            "source.key_layout",
            "(flag)",
        ],
    );
}

#[test]
fn a_wrong_variable_is_named_with_its_field() {
    refused(None, &[("RETRY_ATTEMPTS", "many")], &[], &["$RETRY_ATTEMPTS", "many", "delivery.attempts"]);
    refused(None, &[("LOGFERRY_QUEUE__MAX_MESAGES", "1")], &[], &["$LOGFERRY_QUEUE__MAX_MESAGES"]);
}

#[test]
fn a_wrong_flag_is_named() {
    refused(None, &[], &["--set", "worker.grace_period=soon"], &["worker.grace_period", "flag"]);
}

#[test]
fn names_that_aws_does_not_allow_are_refused() {
    let queue = |name: &str| format!("https://sqs.eu-central-1.amazonaws.com/111111111111/{name}");
    for (name, value, words) in [
        ("TENANT_CONFIG_TABLE", "tenants\n".to_owned(), ["tenants.table", "neither the name of a table"]),
        ("LOGFERRY_LEDGER__TABLE", "a ledger".to_owned(), ["ledger.table", "neither the name of a table"]),
        ("SQS_QUEUE_URL", queue("logs.fifo"), ["queue.url", "use a standard queue"]),
        ("SQS_QUEUE_URL", queue("logs\n"), ["queue.url", "name of a queue"]),
        ("LOGFERRY_QUEUE__DEAD_LETTER_URL", queue("letters.fifo"), ["queue.dead_letter_url", "FIFO"]),
        (
            "AWS_REGION",
            "eu-west-1".to_owned(),
            ["queue.url", "is in Region eu-central-1, and calls go to eu-west-1"],
        ),
        ("AWS_REGION", "eu-central-1\n".to_owned(), ["aws.region", "not a Region"]),
        ("LOGFERRY_SOURCE__BUCKETS", "stag ing".to_owned(), ["source.buckets", "bucket name"]),
        ("LOGFERRY_TENANTS__DEFAULT_REGION", "Europe".to_owned(), ["tenants.default_region", "not a Region"]),
        ("LOGFERRY_QUEUE__MAX_REFUSALS", "0".to_owned(), ["queue.max_refusals", "not within 1"]),
    ] {
        refused(None, &[(name, &value)], &[], &words);
    }
}

#[test]
fn missing_settings_are_listed_with_all_their_names() {
    let output = logferry(&["worker"], &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    for word in [
        "queue.url",
        "SQS_QUEUE_URL",
        "tenants.table",
        "TENANT_CONFIG_TABLE",
        "credentials.central_role_arn",
        "CENTRAL_LOG_DISTRIBUTION_ROLE_ARN",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn an_invalid_log_filter_is_refused() {
    let output = logferry(&["worker", "--set", "log.filter=a=b=c"], &COMPLETE);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("log.filter"), "{told}");
}

#[test]
fn the_execution_mode_replaces_the_command() {
    let output = logferry(&[], &[("EXECUTION_MODE", "sqs")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("queue.url"), "{told}");
    let output = logferry(&[], &[("EXECUTION_MODE", "kafka")]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{told}");
    assert!(told.contains("EXECUTION_MODE") && told.contains("kafka"), "{told}");
}

#[test]
fn config_print_shows_each_value_with_its_source() {
    let file = file("[worker]\nconcurrency = 4\n[queue]\nmax_messages = 3\n");
    let path = file.to_str().expect("UTF-8");
    let mut environment = COMPLETE.to_vec();
    environment.push(("LOGFERRY_QUEUE__MAX_MESSAGES", "5"));
    let check = logferry(&["config", "check", "--config", path], &environment);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    let arguments = ["config", "print", "--config", path, "--set", "log.format=text"];
    let print = logferry(&arguments, &environment);
    assert!(print.status.success(), "{}", String::from_utf8_lossy(&print.stderr));
    let printed = String::from_utf8(print.stdout).expect("UTF-8");
    for line in [
        format!("worker.concurrency = 4  # {path}"),
        "queue.max_messages = 5  # $LOGFERRY_QUEUE__MAX_MESSAGES".to_owned(),
        "aws.region = \"eu-central-1\"  # $AWS_REGION".to_owned(),
        "log.format = \"text\"  # flag".to_owned(),
        "http.listen = \"0.0.0.0:8080\"  # default".to_owned(),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\nis not in\n{printed}");
    }
    std::fs::remove_file(file).expect("the file exists");
}
