//! CloudWatch Logs: groups, streams, and PutLogEvents with every limit of the real service.
//!
//! Unlike public emulators it checks the bytes, number, order and time span of a batch, names, empty messages, and the
//! age of each event. Not implemented: filter patterns, subscriptions, tags and encryption keys. The retention of a
//! group decides which events are accepted; stored events are never deleted.

mod input;
mod put;
mod puts;
mod read;
mod store;
mod totals;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;
use input::{constraint, group_name, invalid_parameter, required, stream_name};
pub use puts::Put;
use store::{AccountLogs, Group, Stream};
pub use totals::Totals;

/// Retention periods that PutRetentionPolicy accepts, in days.
const RETENTION_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// All log groups, of every account and Region.
#[derive(Debug, Default)]
pub(crate) struct Logs {
    accounts: Mutex<HashMap<String, AccountLogs>>,
    count_only: AtomicBool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CreateLogGroup {
    log_group_name: Option<String>,
    log_group_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedStream {
    log_group_name: Option<String>,
    log_stream_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutRetentionPolicy {
    log_group_name: Option<String>,
    retention_in_days: Option<u32>,
}

impl Logs {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "PutLogEvents" => self.put_log_events(cloud, call),
            "CreateLogStream" => self.create_log_stream(cloud, call),
            "CreateLogGroup" => self.create_log_group(cloud, call),
            "PutRetentionPolicy" => self.put_retention_policy(cloud, call),
            "DescribeLogGroups" => self.describe_log_groups(cloud, call),
            "DescribeLogStreams" => self.describe_log_streams(cloud, call),
            "GetLogEvents" => self.get_log_events(cloud, call),
            "FilterLogEvents" => self.filter_log_events(cloud, call),
            _ => Err(AwsError::not_implemented("logs", &call.operation)),
        }
    }

    /// Switches to counting: from now on events are counted and hashed instead of stored, and the read calls answer 501.
    pub(crate) fn set_count_only(&self) {
        self.count_only.store(true, Ordering::Relaxed);
    }

    /// Totals of what an account has accepted so far, over all Regions.
    pub(crate) fn totals(&self, account: &str) -> Totals {
        self.lock().get(account).map(AccountLogs::totals).unwrap_or_default()
    }

    /// All stored batches of all accounts: see [`Put`].
    pub(crate) fn puts(&self) -> Vec<Put> {
        puts::of(&self.lock())
    }

    fn counts_only(&self) -> bool {
        self.count_only.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, AccountLogs>> {
        // A poisoned lock is harmless: no holder leaves the maps half changed.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on an existing group.
    fn with_group<T>(
        &self,
        call: &Call,
        group: &str,
        read: impl FnOnce(&mut Group) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let mut accounts = self.lock();
        let found = accounts
            .get_mut(&call.account)
            .and_then(|account| account.regions.get_mut(&call.region))
            .and_then(|groups| groups.get_mut(group));
        read(found.ok_or_else(no_such_group)?)
    }

    fn create_log_group(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: CreateLogGroup = call.parse_all("logs")?;
        if request.log_group_class.is_some_and(|class| class != "STANDARD") {
            return Err(AwsError::not_implemented(
                "logs",
                "CreateLogGroup with a logGroupClass other than STANDARD",
            ));
        }
        let name = required(request.log_group_name, "logGroupName")?;
        group_name(&name)?;
        authorize_group(cloud, call, &name)?;
        let mut accounts = self.lock();
        let groups =
            accounts.entry(call.account.clone()).or_default().regions.entry(call.region.clone()).or_default();
        if groups.contains_key(&name) {
            return Err(already_exists("The specified log group already exists"));
        }
        groups.insert(name, Group::new(now()));
        Ok(done())
    }

    fn put_retention_policy(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: PutRetentionPolicy = call.parse_all("logs")?;
        let name = required(request.log_group_name, "logGroupName")?;
        group_name(&name)?;
        let days = required(request.retention_in_days, "retentionInDays")?;
        if !RETENTION_DAYS.contains(&days) {
            return Err(constraint(
                &days.to_string(),
                "retentionInDays",
                &format!("Member must satisfy enum value set: {RETENTION_DAYS:?}"),
            ));
        }
        authorize_group(cloud, call, &name)?;
        self.with_group(call, &name, |group| {
            group.retention_days = Some(days);
            Ok(done())
        })
    }

    fn create_log_stream(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (group, stream) = self.named_stream(cloud, call)?;
        self.with_group(call, &group, |group| {
            if group.streams.contains_key(&stream) {
                return Err(already_exists("The specified log stream already exists"));
            }
            group.streams.insert(stream, Stream::new(now()));
            Ok(done())
        })
    }

    fn named_stream(&self, cloud: &Cloud, call: &Call) -> Result<(String, String), AwsError> {
        let request: NamedStream = call.parse_all("logs")?;
        let group = required(request.log_group_name, "logGroupName")?;
        group_name(&group)?;
        let stream = required(request.log_stream_name, "logStreamName")?;
        stream_name(&stream, "logStreamName")?;
        authorize_stream(cloud, call, &group, &stream)?;
        Ok((group, stream))
    }
}

/// Asks IAM about a group.
///
/// AWS evaluates these calls on `...:log-group:NAME:log-stream:`, which policies match by `NAME:*`. The service
/// authorisation reference names the plain ARN. The sandbox accepts either.
fn authorize_group(cloud: &Cloud, call: &Call, group: &str) -> Result<(), AwsError> {
    let plain = group_arn(call, group);
    authorize(cloud, call, &plain).or_else(|_| authorize(cloud, call, &format!("{plain}:log-stream:")))
}

/// Asks IAM about a stream.
fn authorize_stream(cloud: &Cloud, call: &Call, group: &str, stream: &str) -> Result<(), AwsError> {
    authorize(cloud, call, &format!("{}:log-stream:{stream}", group_arn(call, group)))
}

/// Asks IAM.
fn authorize(cloud: &Cloud, call: &Call, resource: &str) -> Result<(), AwsError> {
    cloud.iam.authorize(call, &format!("logs:{}", call.operation), resource)
}

fn group_arn(call: &Call, group: &str) -> String {
    format!("arn:{}:logs:{}:{}:log-group:{group}", call.partition(), call.region, call.account)
}

fn no_such_group() -> AwsError {
    AwsError::new(400, "ResourceNotFoundException", "The specified log group does not exist.")
}

fn no_such_stream() -> AwsError {
    AwsError::new(400, "ResourceNotFoundException", "The specified log stream does not exist.")
}

fn already_exists(message: &str) -> AwsError {
    AwsError::new(400, "ResourceAlreadyExistsException", message)
}

/// Empty answer of calls that return nothing. The service sends no body at all.
fn done() -> Reply {
    Reply::empty().with_header("content-type", "application/x-amz-json-1.1")
}

/// Current time in milliseconds since 1970, the unit of all times in this service.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests;
