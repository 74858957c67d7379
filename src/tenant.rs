//! Who the customers are and what they want: the tenant table's rows, validated.
//!
//! A tenant has any number of deliveries, one row each. A row is checked when it is read; a bad one is that delivery's
//! error, every bad field named, and nobody else's. Pure but for [`table`], which reads DynamoDB.

pub mod table;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use crate::{credentials::RoleArn, name::StreamTemplate};

/// Finds tenants. `table` is the adapter.
pub trait Directory: Send + Sync + 'static {
    /// The tenant's rows; `None` when there are none.
    ///
    /// # Errors
    /// Nobody knows right now.
    fn find(&self, tenant_id: &str) -> impl Future<Output = Result<Option<Arc<Tenant>>, LookupError>> + Send;
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
    /// Each row, in the table's order of `type`.
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

/// Every attribute that means something in some row. Others are ignored, so that operators may keep their own.
pub const ATTRIBUTES: [&str; 16] = [
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
    "paused",
];

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

/// Reads one row of either kind, as the worker does.
///
/// # Errors
/// Names every field that is missing or has a value that cannot be right.
pub fn check_row(tenant_id: &str, name: &str, row: &Row) -> Result<Content, BadRow> {
    if name != SETTINGS {
        return parse_row(tenant_id, name, row).map(|delivery| Content::Delivery(Arc::new(delivery)));
    }
    let mut fields = Fields { row, problems: Vec::new() };
    let paused = fields.flag("paused");
    match fields.problems {
        problems if problems.is_empty() => Ok(Content::Settings { paused }),
        problems => {
            let (tenant_id, name) = (tenant_id.to_owned(), name.to_owned());
            // Doubt is everybody's: nobody can tell whether the tenant is paused.
            Err(BadRow { tenant_id, name, enabled: true, problems })
        }
    }
}

impl Tenant {
    /// Reads all rows of a tenant; `None` when there are none.
    pub fn from_rows(tenant_id: &str, rows: Vec<(String, Row)>) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let mut tenant = Self::default();
        for (name, row) in rows {
            match check_row(tenant_id, &name, &row) {
                Ok(Content::Delivery(delivery)) => tenant.deliveries.push(Ok(delivery)),
                Ok(Content::Settings { paused }) => tenant.paused = paused,
                Err(bad) => tenant.deliveries.push(Err(bad)),
            }
        }
        Some(tenant)
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

    /// Whether the row puts records into quarantine that could be delivered otherwise.
    pub fn needs_quarantine(&self) -> bool {
        matches!(&self.destination, Destination::CloudWatch(to) if to.oversize == Oversize::Quarantine)
    }

    /// What is wrong with a row that needs a quarantine where there is none. To take it for another policy would break the
    /// customer's word.
    pub fn without_quarantine(&self) -> BadRow {
        let problem = "\"quarantine\" needs the worker's setting quarantine.bucket".to_owned();
        BadRow {
            tenant_id: self.tenant_id.clone(),
            name: self.name.clone(),
            enabled: self.enabled,
            problems: vec![FieldProblem { field: "oversize".to_owned(), problem }],
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

/// Reads one row.
///
/// # Errors
/// Names every field that is missing or has a value that cannot be right.
pub fn parse_row(tenant_id: &str, name: &str, row: &Row) -> Result<Delivery, BadRow> {
    let mut fields = Fields { row, problems: Vec::new() };
    let kind = name.split_once('#').map_or(name, |(kind, _)| kind);
    let enabled = fields.flag("enabled");
    let desired_logs = fields.text_list("desired_logs");
    let target_region = fields.required("target_region", region);
    let destination = match kind {
        "cloudwatch" => fields.cloudwatch().map(Destination::CloudWatch),
        // An enabled row of another kind must not pass silently; a disabled one is nobody's concern.
        other => {
            fields
                .problem("type", format!("{other:?} is not \"cloudwatch\", the one kind of delivery so far"));
            None
        }
    };
    match (target_region, destination, fields.problems.is_empty()) {
        (Some(target_region), Some(destination), true) => Ok(Delivery {
            tenant_id: tenant_id.to_owned(),
            name: name.to_owned(),
            enabled,
            desired_logs,
            target_region,
            destination,
        }),
        _ => Err(BadRow {
            tenant_id: tenant_id.to_owned(),
            name: name.to_owned(),
            enabled: row.get("enabled").is_some_and(|flag| *flag != Attribute::Bool(false)),
            problems: fields.problems,
        }),
    }
}

struct Fields<'a> {
    row: &'a Row,
    problems: Vec<FieldProblem>,
}

impl Fields<'_> {
    fn cloudwatch(&mut self) -> Option<CloudWatch> {
        let role = self
            .required("log_distribution_role_arn", |text| text.parse::<RoleArn>().map_err(|e| e.to_string()));
        let log_group_name = self.required("log_group_name", log_group_name);
        let external_id = self.optional("external_id", external_id);
        let session_tags = self.flag("session_tags");
        let source_identity = self.flag("source_identity");
        let log_stream_name = self.optional("log_stream_name", StreamTemplate::parse).unwrap_or_default();
        let retention_days = self.retention_days();
        let oversize = self.optional("oversize", oversize).unwrap_or(Oversize::Split);
        Some(CloudWatch {
            role: role?,
            external_id,
            session_tags,
            source_identity,
            log_group_name: log_group_name?,
            log_stream_name,
            retention_days,
            oversize,
        })
    }

    fn problem(&mut self, field: &str, problem: impl std::fmt::Display) {
        self.problems.push(FieldProblem { field: field.to_owned(), problem: problem.to_string() });
    }

    fn required<T>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.row.contains_key(field) {
            self.problem(field, "is missing");
            return None;
        }
        self.optional(field, parse)
    }

    fn optional<T>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match self.row.get(field) {
            None => None,
            Some(Attribute::Text(text)) => match parse(text) {
                Ok(value) => Some(value),
                Err(problem) => {
                    self.problem(field, problem);
                    None
                }
            },
            Some(other) => {
                self.problem(field, format!("must be a string (S), not {}", other.describe()));
                None
            }
        }
    }

    fn flag(&mut self, field: &str) -> bool {
        match self.row.get(field) {
            None => false,
            Some(Attribute::Bool(flag)) => *flag,
            Some(other) => {
                self.problem(field, format!("must be BOOL, not {}", other.describe()));
                false
            }
        }
    }

    fn text_list(&mut self, field: &str) -> Option<Vec<String>> {
        match self.row.get(field) {
            None => None,
            Some(Attribute::TextList(list)) => Some(list.clone()),
            Some(other) => {
                self.problem(field, format!("must be SS or L of strings, not {}", other.describe()));
                None
            }
        }
    }

    fn retention_days(&mut self) -> Option<i32> {
        let given = self.row.get("retention_days")?;
        let value = match given {
            Attribute::Number(number) => number.parse().ok().filter(|days| RETENTION_DAYS.contains(days)),
            _ => None,
        };
        if value.is_none() {
            let problem = format!("must be a number out of {RETENTION_DAYS:?}, not {}", given.describe());
            self.problem("retention_days", problem);
        }
        value
    }
}

/// Source: CloudWatch Logs API reference, PutRetentionPolicy.
const RETENTION_DAYS: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// A Region's name has at least three parts, the last of them digits.
pub(crate) fn region(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('-').collect();
    let legal = parts.len() >= 3
        && parts.iter().all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
        && parts.last().is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if legal { Ok(text.to_owned()) } else { Err(format!("{text:?} is no Region such as \"eu-central-1\"")) }
}

/// Source: CloudWatch Logs API reference, CreateLogGroup.
fn log_group_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '#');
    if text.is_empty() || text.len() > 512 || !text.chars().all(legal) {
        return Err(format!("{text:?} is not 1 to 512 of [.-_/#A-Za-z0-9]"));
    }
    if text.starts_with("aws/") {
        return Err(format!("{text:?} begins with \"aws/\", which is reserved"));
    }
    Ok(text.to_owned())
}

/// Source: STS API reference, AssumeRole.
fn external_id(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@:/-\\".contains(c);
    if (2..=1224).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not 2 to 1224 of [A-Za-z0-9_+=,.@:/-]"))
    }
}

fn oversize(text: &str) -> Result<Oversize, String> {
    match text {
        "split" => Ok(Oversize::Split),
        "truncate" => Ok(Oversize::Truncate),
        "quarantine" => Ok(Oversize::Quarantine),
        other => Err(format!("{other:?} is none of \"split\", \"truncate\", \"quarantine\"")),
    }
}

#[cfg(test)]
mod tests;
