//! The rows of the tenant table: each tenant's deliveries and settings, validated.
//!
//! A tenant has any number of deliveries, and each delivery is one row. A row is validated when it is read. A bad row
//! is an error of its own delivery alone, and names every bad field. Pure except for [`table`], which reads DynamoDB,
//! and [`cache`], which remembers tenants.

pub mod cache;
mod lake;
mod mode;
mod own;
mod row;
pub mod table;

use std::{borrow::Cow, collections::BTreeMap, future::Future, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::row::region;
pub use self::{
    lake::{Compression, Contents, Fields, Format, Lake, Lock, LockMode},
    mode::Mode,
    own::OwnBuckets,
    row::{check_row, expired_at, parse_row},
};
use crate::{credentials::RoleArn, name::StreamTemplate};

/// Treatment of an object whose tenant has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownTenant {
    /// The message goes to the dead-letter queue.
    DeadLetter,
    /// The message is acknowledged and counted.
    Discard,
}

/// The port to the tenant table. `table` is the adapter, and `cache` remembers its answers.
pub trait Directory: Send + Sync + 'static {
    /// Finds a tenant; `None` if the table has no row of the tenant. The answer may come from memory.
    ///
    /// # Errors
    /// The table does not answer, and no usable answer is remembered.
    fn find(&self, tenant_id: &str) -> impl Future<Output = Result<Option<Arc<Tenant>>, LookupError>> + Send;

    /// Finds a tenant by a consistent read that was sent at `since` or later. A verdict that ends the work on a message
    /// needs such a read. The default implementation is for a directory that remembers nothing.
    ///
    /// # Errors
    /// The table does not answer.
    fn confirm(
        &self,
        tenant_id: &str,
        since: Instant,
    ) -> impl Future<Output = Result<Option<Arc<Tenant>>, LookupError>> + Send {
        let _ = since;
        self.find(tenant_id)
    }
}

/// Reason why a tenant's rows could not be read: the tenant table did not answer, or refused the read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the rows of tenant {tenant_id:?} cannot be read from table {table:?}: {problem}")]
pub struct LookupError {
    /// The tenant.
    pub tenant_id: String,
    /// The table.
    pub table: String,
    /// Error text of the SDK.
    pub problem: String,
}

/// Attributes of a row, by name.
pub type Row = BTreeMap<String, Attribute>;

/// Value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// S.
    Text(String),
    /// N, as text.
    Number(String),
    /// BOOL.
    Bool(bool),
    /// SS, or L of S.
    TextList(Vec<String>),
    /// Any other type, by DynamoDB's name.
    Other(&'static str),
}

impl Attribute {
    fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the string {text:?}"),
            Self::Number(number) => format!("the number {number}"),
            Self::Bool(flag) => format!("{flag}"),
            Self::TextList(_) => "a list".to_owned(),
            Self::Other(kind) => format!("a value of type {kind}"),
        }
    }
}

/// All rows of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    /// Whether the tenant's row `type = settings` pauses it.
    pub paused: bool,
    /// The row `type = settings`, if it is bad. The tenant may be paused, so none of the tenant's records may be delivered.
    pub bad_settings: Option<BadRow>,
    /// Deliveries, sorted by their rows' `type`.
    pub deliveries: Vec<Result<Arc<Delivery>, BadRow>>,
}

/// A delivery: which applications' logs go to which destination.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The tenant.
    pub tenant_id: String,
    /// The row's `type`, for example `cloudwatch` or `s3#archive`.
    pub name: String,
    /// Whether the delivery is on. False if the row has no `enabled`.
    pub enabled: bool,
    /// Patterns of application names; `None` means all applications.
    pub desired_logs: Option<Vec<String>>,
    /// Whether it puts anything.
    pub mode: Mode,
    /// Region of the destination.
    pub target_region: String,
    /// The destination.
    pub destination: Destination,
}

/// Destination of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// The customer's CloudWatch Logs.
    CloudWatch(CloudWatch),
    /// A bucket of the customer.
    S3(Bucket),
}

/// A destination in CloudWatch Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudWatch {
    /// The role in the customer's account.
    pub role: RoleArn,
    /// ExternalId for the role; `None` means the provider's account id.
    pub external_id: Option<String>,
    /// Whether to pass `tenant_id` and `cluster_id` as session tags.
    pub session_tags: bool,
    /// Whether to set the session's source identity.
    pub source_identity: bool,
    /// The log group.
    pub log_group_name: String,
    /// Template of the log streams' names.
    pub log_stream_name: StreamTemplate,
    /// Retention of the group, if logferry creates it.
    pub retention_days: Option<i32>,
    /// Policy for a message that is too long for one event.
    pub oversize: Oversize,
}

/// A destination in S3.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// The role in the customer's account. `None` means that the central role writes, which the bucket's policy must allow.
    pub role: Option<RoleArn>,
    /// ExternalId for the role; `None` means the provider's account id.
    pub external_id: Option<String>,
    /// Whether to pass `tenant_id` and `cluster_id` as session tags.
    pub session_tags: bool,
    /// Whether to set the session's source identity.
    pub source_identity: bool,
    /// The bucket, in the delivery's `target_region`.
    pub bucket_name: String,
    /// The account that must own the bucket: the row's `bucket_owner`, or else the account of the role. `None` means
    /// any account.
    pub bucket_owner: Option<String>,
    /// Prefix of the keys: empty, or with a slash at its end.
    pub bucket_prefix: String,
    /// What is written there.
    pub contents: Contents,
}

/// Policy for a message that is too long for one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// The message is split into several events, in order, with the same timestamp.
    Split,
    /// The message is cut to the length of one event.
    Truncate,
    /// The whole message goes to the quarantine, and not to the customer.
    Quarantine,
}

/// A bad field of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldProblem {
    /// The attribute's name.
    pub field: String,
    /// The value, if the row has one, and the rule that it breaks.
    pub problem: String,
}

/// A row that cannot be used, with all its bad fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {name:?} of tenant {tenant_id:?} cannot be used: {}", joined(.problems))]
pub struct BadRow {
    /// The tenant.
    pub tenant_id: String,
    /// The row's `type`.
    pub name: String,
    /// False only if the row's `enabled` is absent or false. A bad `enabled` counts as true.
    pub enabled: bool,
    /// Every bad field.
    pub problems: Vec<FieldProblem>,
}

fn joined(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The `type` of the tenant-wide row.
pub const SETTINGS: &str = "settings";

/// Every attribute that logferry reads. Operators may keep other attributes in a row: logferry ignores them, and they stay
/// when the row is replaced.
pub const ATTRIBUTES: [&str; 26] = [
    "tenant_id",
    "type",
    "enabled",
    "deliver",
    "desired_logs",
    "target_region",
    "log_distribution_role_arn",
    "external_id",
    "session_tags",
    "source_identity",
    "log_group_name",
    "log_stream_name",
    "retention_days",
    "oversize",
    "bucket_name",
    "bucket_prefix",
    "bucket_key",
    "bucket_owner",
    "format",
    "layout",
    "fields",
    "compression",
    "object_lock_mode",
    "object_lock_days",
    "paused",
    TTL,
];

/// Attribute with the time at which a row expires, in seconds since 1970.
pub const TTL: &str = "ttl";

/// Attributes that other programs write into rows. logferry ignores them, and does not report them as typing errors.
pub const FOREIGN: [&str; 3] = ["created_at", "updated_at", "groups"];

/// Content of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A row of a `type` other than `settings`.
    Delivery(Arc<Delivery>),
    /// The tenant-wide row.
    Settings {
        /// Whether the tenant is paused.
        paused: bool,
    },
}

impl Tenant {
    /// Reads all rows of a tenant with [`check_row`]. Rows that have expired at `now` are ignored. `None` if no row is left.
    pub fn from_rows(
        tenant_id: &str,
        mut rows: Vec<(String, Row)>,
        default_region: Option<&str>,
        now: Timestamp,
    ) -> Option<Self> {
        rows.retain(|(_, row)| expired_at(row, now).is_none());
        if rows.is_empty() {
            return None;
        }
        let mut tenant = Self::default();
        for (name, row) in rows {
            match check_row(tenant_id, &name, &row, default_region) {
                Ok(Content::Delivery(delivery)) => tenant.deliveries.push(Ok(delivery)),
                Ok(Content::Settings { paused }) => tenant.paused = paused,
                Err(bad) if name == SETTINGS => tenant.bad_settings = Some(bad),
                Err(bad) => tenant.deliveries.push(Err(bad)),
            }
        }
        Some(tenant)
    }

    /// The tenant as a worker in this mode has it: a worker in shadow mode has every delivery in shadow mode. In a live worker,
    /// the rows decide.
    pub fn in_mode(mut self, mode: Mode) -> Self {
        if mode == Mode::Shadow {
            self.deliveries.iter_mut().flatten().for_each(|delivery| Arc::make_mut(delivery).mode = mode);
        }
        self
    }
}

impl Destination {
    /// The role in the customer's account, if the row has one.
    pub fn role(&self) -> Option<&RoleArn> {
        match self {
            Self::CloudWatch(to) => Some(&to.role),
            Self::S3(to) => to.role.as_ref(),
        }
    }
}

impl Delivery {
    /// Name of the delivery in the ledger. A delivery in shadow mode has entries of its own, so that an object that was counted
    /// does not pass for delivered, nor the other way round. No row has a `type` that begins with `shadow#`.
    pub fn ledger_name(&self) -> Cow<'_, str> {
        match self.mode {
            Mode::Live => Cow::Borrowed(&self.name),
            Mode::Shadow => Cow::Owned(format!("shadow#{}", self.name)),
        }
    }

    /// Whether the delivery wants the application's logs.
    pub fn wants(&self, application: &str) -> bool {
        match &self.desired_logs {
            None => true,
            Some(patterns) => patterns.iter().any(|pattern| matches_pattern(pattern, application)),
        }
    }
}

/// Whether the pattern matches the text. `*` matches any number of characters.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
pub(crate) mod tests;
