//! Who the customers are and what they want: the tenant table's rows, validated.
//!
//! A tenant has any number of deliveries, one row each. A row is checked when it is read; a bad one is that delivery's
//! error, every bad field named, and nobody else's. Pure but for [`table`], which reads DynamoDB, and [`cache`], which
//! remembers what it said.

pub mod cache;
mod own;
mod row;
pub mod table;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use self::row::region;
pub use self::{
    own::OwnBuckets,
    row::{check_row, expired_at, parse_row},
};
use crate::{
    credentials::RoleArn,
    name::{ObjectKeyTemplate, StreamTemplate},
};

/// What becomes of an object whose tenant has no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownTenant {
    /// The message goes to the dead-letter queue.
    DeadLetter,
    /// The message is acknowledged and counted.
    Discard,
}

/// Finds tenants. `table` is the adapter, `cache` stands in front of it.
pub trait Directory: Send + Sync + 'static {
    /// The tenant's rows; `None` when there are none. A directory may remember them, and that there are none.
    ///
    /// # Errors
    /// Nobody knows right now.
    fn find(&self, tenant_id: &str) -> impl Future<Output = Result<Option<Arc<Tenant>>, LookupError>> + Send;

    /// The same, from a consistent read that was sent at `since` or later: what a final verdict needs. A directory that
    /// remembers nothing need not implement it.
    ///
    /// # Errors
    /// Nobody knows right now.
    fn confirm(
        &self,
        tenant_id: &str,
        since: Instant,
    ) -> impl Future<Output = Result<Option<Arc<Tenant>>, LookupError>> + Send {
        let _ = since;
        self.find(tenant_id)
    }
}

/// The tenant table did not answer, or refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the rows of tenant {tenant_id:?} cannot be read from table {table:?}: {problem}")]
pub struct LookupError {
    /// Whose rows.
    pub tenant_id: String,
    /// Where.
    pub table: String,
    /// What the SDK says.
    pub problem: String,
}

/// A row's attributes by name, as far as their types matter here.
pub type Row = BTreeMap<String, Attribute>;

/// One attribute's value.
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
    /// Anything else; DynamoDB's name of the type.
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

/// Everything that the table says of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Tenant {
    /// The tenant's `type = settings` row pauses it.
    pub paused: bool,
    /// That row cannot be used: nobody can tell whether the tenant is paused, so nothing of its may be delivered.
    pub bad_settings: Option<BadRow>,
    /// Each row of a delivery, in the table's order of `type`.
    pub deliveries: Vec<Result<Arc<Delivery>, BadRow>>,
}

/// One delivery: what goes where.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The tenant it belongs to.
    pub tenant_id: String,
    /// The row's `type`, for example `cloudwatch` or `s3#archive`.
    pub name: String,
    /// Absent means false.
    pub enabled: bool,
    /// Patterns of application names; `None` wants all.
    pub desired_logs: Option<Vec<String>>,
    /// Region of the destination.
    pub target_region: String,
    /// Where to.
    pub destination: Destination,
}

/// Where a delivery goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// The customer's CloudWatch Logs.
    CloudWatch(CloudWatch),
    /// A bucket of the customer's.
    S3(Bucket),
}

/// A destination in CloudWatch Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudWatch {
    /// The role in the customer's account.
    pub role: RoleArn,
    /// What the role's trust policy asks for; `None`: our own account id.
    pub external_id: Option<String>,
    /// Pass `tenant_id` and `cluster_id` as session tags.
    pub session_tags: bool,
    /// Set the session's source identity.
    pub source_identity: bool,
    /// The log group.
    pub log_group_name: String,
    /// The log streams' names.
    pub log_stream_name: StreamTemplate,
    /// Retention of a group that we create.
    pub retention_days: Option<i32>,
    /// What becomes of a message longer than one event may be.
    pub oversize: Oversize,
}

/// A destination in S3: objects are copied as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// The role in the customer's account; `None`: our central role writes, as the bucket's own policy allows it.
    pub role: Option<RoleArn>,
    /// What the role's trust policy asks for; `None`: our own account id.
    pub external_id: Option<String>,
    /// Pass `tenant_id` and `cluster_id` as session tags.
    pub session_tags: bool,
    /// Set the session's source identity.
    pub source_identity: bool,
    /// The bucket, which stands in the delivery's `target_region`.
    pub bucket_name: String,
    /// The account that must own the bucket: what the row says, or else the role's; `None`: any, for nothing tells.
    pub bucket_owner: Option<String>,
    /// What keys there begin with; empty, or with a slash at its end.
    pub bucket_prefix: String,
    /// What stands behind that in a copy's key.
    pub bucket_key: ObjectKeyTemplate,
}

/// What becomes of a message longer than one event may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Cut into several events, in order, with the same timestamp.
    Split,
    /// The first event's worth is kept.
    Truncate,
    /// It goes whole into quarantine, and not to the customer.
    Quarantine,
}

/// One field of a row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct FieldProblem {
    /// The attribute's name.
    pub field: String,
    /// One sentence: the value, if there is one, and the rule that it breaks.
    pub problem: String,
}

/// A row that cannot be used, field by field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {name:?} of tenant {tenant_id:?} cannot be used: {}", joined(.problems))]
pub struct BadRow {
    /// The tenant.
    pub tenant_id: String,
    /// The row's `type`.
    pub name: String,
    /// The row asks for delivery, or nobody can tell whether it does.
    pub enabled: bool,
    /// Every bad field.
    pub problems: Vec<FieldProblem>,
}

fn joined(problems: &[FieldProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The `type` of the tenant-wide row.
pub const SETTINGS: &str = "settings";

/// Every attribute that means something in some row. Others are ignored, so that operators may keep their own; a row that is
/// put in another's place leaves them as they are.
pub const ATTRIBUTES: [&str; 19] = [
    "tenant_id",
    "type",
    "enabled",
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
    "paused",
    TTL,
];

/// The attribute by which a row ends by itself: seconds since 1970.
pub const TTL: &str = "ttl";

/// Attributes that other programs of the field write into rows and that mean nothing here: nobody's slip of the pen.
pub const FOREIGN: [&str; 3] = ["created_at", "updated_at", "groups"];

/// What one row says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Any `type` but `settings`.
    Delivery(Arc<Delivery>),
    /// The tenant-wide row.
    Settings {
        /// The tenant is paused.
        paused: bool,
    },
}

impl Tenant {
    /// Reads all rows of a tenant, as [`check_row`] does; `None` when there are none, or none whose `ttl` lies ahead of `now`.
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
}

impl Destination {
    /// The role in the customer's account, if one is entered.
    pub fn role(&self) -> Option<&RoleArn> {
        match self {
            Self::CloudWatch(to) => Some(&to.role),
            Self::S3(to) => to.role.as_ref(),
        }
    }
}

impl Delivery {
    /// Whether the application's logs are wanted.
    pub fn wants(&self, application: &str) -> bool {
        match &self.desired_logs {
            None => true,
            Some(patterns) => patterns.iter().any(|pattern| matches_pattern(pattern, application)),
        }
    }
}

/// `*` stands for any number of characters, everything else for itself.
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
mod tests;
