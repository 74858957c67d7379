//! Clients of AWS for a worker and for operators' commands.

use std::time::Duration;

use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_s3::config::retry::RetryPartition;
use aws_sdk_sqs::Client;

use super::{outbound, profile};
use crate::{
    aws::Base,
    config::{Config, Problem},
    object::s3::S3Store,
    queue::sqs::Clients,
};

/// Longest time to connect: the SDK's default, repeated here because our timeout configuration replaces it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3100);
/// Longest attempt of a call to SQS other than the long poll. An attempt usually takes milliseconds, and some hundreds of
/// milliseconds for a message of 1 MiB.
const LONGEST_SQS_ATTEMPT: Duration = Duration::from_secs(3);
/// Longest call to SQS other than the long poll, with its retries.
const LONGEST_SQS_CALL: Duration = Duration::from_secs(6);

/// Finds credentials and Region, and builds the HTTP client for this command. Fails if a field in `fields` names a resource of
/// another Region.
pub(super) async fn load_sdk(config: &Config, command: &str, fields: &[&str]) -> anyhow::Result<Base> {
    let http_client = outbound::http_client(|name| std::env::var(name).ok())?;
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http_client)
        .retry_config(RetryConfig::standard().with_max_attempts(config.delivery.attempts))
        // A call without an answer must end. For GetObject, the limit covers the time until the response's headers.
        .timeout_config(timeouts(config.delivery.attempt_timeout));
    if let Some(region) = &config.aws.region {
        loader = loader.region(Region::new(region.clone()));
    }
    let sdk = profile::naming_profile(loader.load().await, std::env::var("AWS_PROFILE").ok());
    let sdk = named(sdk, command);
    let problem = || "is not set, and the SDK finds none; set it in the file, or as AWS_REGION".to_owned();
    let region = sdk.region().ok_or_else(|| Problem { field: "aws.region".into(), problem: problem() })?;
    let elsewhere = config.elsewhere(region.as_ref());
    match elsewhere.into_iter().find(|problem| fields.contains(&problem.field.as_str())) {
        Some(problem) => Err(problem.into()),
        None => Ok(sdk.into()),
    }
}

/// Sets the application's name in the user agent, which CloudTrail records, unless the environment or a profile names one.
fn named(sdk: SdkConfig, command: &str) -> SdkConfig {
    if sdk.app_name().is_some() {
        return sdk;
    }
    let name = AppName::new(format!("logferry-{command}")).expect("letters and hyphens are valid");
    sdk.into_builder().app_name(name).build()
}

/// The clients of a worker's queue, or of a Lambda function's.
pub(super) fn queue_clients(config: &Config, base: &Base) -> Clients {
    let (polling, calling) = (sqs_config(config, base), short_sqs_config(base, config.delivery.attempts));
    Clients::new(polling, calling, short_sqs_client(base, 1), base.calls())
}

pub(super) fn sqs_client(config: &Config, base: &Base) -> Client {
    Client::from_conf(sqs_config(config, base).build())
}

fn sqs_config(config: &Config, base: &Base) -> aws_sdk_sqs::config::Builder {
    // A long poll takes its wait time in addition.
    let timeouts = timeouts(config.queue.wait_time + config.delivery.attempt_timeout);
    base.sqs().timeout_config(timeouts)
}

/// A client with short timeouts, so that extensions of leases and deletes of messages do not wait for slow answers.
pub(super) fn short_sqs_client(base: &Base, attempts: u32) -> Client {
    Client::from_conf(short_sqs_config(base, attempts).build())
}

fn short_sqs_config(base: &Base, attempts: u32) -> aws_sdk_sqs::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(LONGEST_SQS_ATTEMPT)
        .operation_attempt_timeout(LONGEST_SQS_ATTEMPT)
        .operation_timeout(LONGEST_SQS_CALL);
    base.sqs()
        // Failed polls must not spend the retry tokens of these calls.
        .retry_partition(RetryPartition::new("sqs-calls"))
        .retry_config(RetryConfig::standard().with_max_attempts(attempts))
        .timeout_config(timeouts.build())
}

fn timeouts(attempt: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).operation_attempt_timeout(attempt).build()
}

pub(super) fn s3_client(config: &Config, base: &Base) -> aws_sdk_s3::Client {
    aws_sdk_s3::Client::from_conf(s3_config(config, base).build())
}

/// The staging bucket's objects.
pub(super) fn s3_store(config: &Config, base: &Base) -> S3Store {
    S3Store::new(s3_config(config, base), base.calls())
}

fn s3_config(config: &Config, base: &Base) -> aws_sdk_s3::config::Builder {
    base.s3().force_path_style(config.aws.s3_use_path_style)
}
