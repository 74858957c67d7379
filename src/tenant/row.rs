//! Validates a row, field by field. Pure.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Attribute, BadRow, Bucket, CloudWatch, Content, Delivery, Destination, FieldProblem, Mode, Oversize, Row,
    SETTINGS,
};
use crate::{
    credentials::{RoleArn, RoleArnError, is_account, partition},
    name::{StreamTemplate, bucket::old_bucket_name},
};

/// Reads a row: a delivery or the settings. `default_region` is `tenants.default_region`, for rows without a `target_region`.
///
/// # Errors
/// Names every field that is missing or has an invalid value.
pub fn check_row(
    tenant_id: &str,
    name: &str,
    row: &Row,
    default_region: Option<&str>,
) -> Result<Content, BadRow> {
    if name != SETTINGS {
        let delivery = parse_row(tenant_id, name, row, default_region)?;
        return Ok(Content::Delivery(Arc::new(delivery)));
    }
    let mut fields = RowFields { row, problems: Vec::new() };
    let paused = fields.flag("paused");
    match fields.problems {
        problems if problems.is_empty() => Ok(Content::Settings { paused }),
        problems => {
            let (tenant_id, name) = (tenant_id.to_owned(), name.to_owned());
            // A bad row does not tell whether the tenant is paused, so the error concerns all of the tenant's deliveries.
            Err(BadRow { tenant_id, name, enabled: true, problems })
        }
    }
}

/// Time at which the row expired; `None` if it has not expired. logferry ignores expired rows, though DynamoDB may take
/// days to delete them. As in DynamoDB, a `ttl` that is not a number or is more than five years ago has no meaning:
/// DynamoDB never deletes such an item. Source: DynamoDB Developer Guide, "Using time to live (TTL)".
pub fn expired_at(row: &Row, now: Timestamp) -> Option<Timestamp> {
    let Some(Attribute::Number(seconds)) = row.get("ttl") else { return None };
    let seconds: f64 = seconds.parse().ok()?;
    // A number out of a timestamp's range is far in the future or far more than five years ago, so the row has not expired.
    let ttl = Timestamp::from_second(seconds as i64).ok()?;
    (ttl < now && ttl.as_second() >= oldest_ttl(now)).then_some(ttl)
}

/// Earliest `ttl` that has a meaning at `now`, in epoch seconds.
pub(super) fn oldest_ttl(now: Timestamp) -> i64 {
    now.as_second() - OLDEST_TTL.as_secs()
}

/// Reads the row of a delivery; see [`check_row`].
///
/// # Errors
/// Names every field that is missing or has an invalid value.
pub fn parse_row(
    tenant_id: &str,
    name: &str,
    row: &Row,
    default_region: Option<&str>,
) -> Result<Delivery, BadRow> {
    let mut fields = RowFields { row, problems: Vec::new() };
    let kind = name.split_once('#').map_or(name, |(kind, _)| kind);
    let enabled = fields.flag("enabled");
    let mode = fields.word("deliver", MODES).unwrap_or_default();
    let desired_logs = fields.desired_logs();
    let target_region = fields.target_region(default_region);
    let destination = match kind {
        "cloudwatch" => fields.cloudwatch().map(Destination::CloudWatch),
        "s3" => fields.s3().map(Destination::S3),
        // An unknown kind is an error. The caller ignores the error if the row is disabled.
        other => {
            fields.problem("type", format!("{other:?} is neither \"cloudwatch\" nor \"s3\""));
            None
        }
    };
    if let (Some(region), Some(role)) = (&target_region, destination.as_ref().and_then(Destination::role)) {
        fields.same_partition(region, role);
    }
    if fields.row.get("session_tags") == Some(&Attribute::Bool(true)) && !is_tag_value(tenant_id) {
        let rule = "true needs a tenant id that can be a session tag: 1 to 256 letters, digits, spaces and [_.:/=+-@]";
        fields.problem("session_tags", format!("{rule}; {tenant_id:?} cannot be one"));
    }
    match (target_region, destination, fields.problems.is_empty()) {
        (Some(target_region), Some(destination), true) => Ok(Delivery {
            tenant_id: tenant_id.to_owned(),
            name: name.to_owned(),
            enabled,
            desired_logs,
            mode,
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

pub(super) struct RowFields<'a> {
    pub(super) row: &'a Row,
    problems: Vec<FieldProblem>,
}

impl RowFields<'_> {
    fn cloudwatch(&mut self) -> Option<CloudWatch> {
        let role = self.required("log_distribution_role_arn", role_arn);
        let log_group_name = self.required("log_group_name", log_group_name);
        let external_id = self.optional("external_id", external_id);
        let session_tags = self.flag("session_tags");
        let source_identity = self.flag("source_identity");
        let log_stream_name = self.optional("log_stream_name", StreamTemplate::parse).unwrap_or_default();
        let retention_days = self.retention_days();
        let oversize = self.word("oversize", OVERSIZES).unwrap_or(Oversize::Split);
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

    fn s3(&mut self) -> Option<Bucket> {
        let role = self.optional("log_distribution_role_arn", role_arn);
        let external_id = self.optional("external_id", external_id);
        let session_tags = self.flag("session_tags");
        let source_identity = self.flag("source_identity");
        if !self.row.contains_key("log_distribution_role_arn") {
            let asked = [
                ("external_id", external_id.is_some()),
                ("session_tags", session_tags),
                ("source_identity", source_identity),
            ];
            for (field, _) in asked.into_iter().filter(|(_, asked)| *asked) {
                let given = self.row[field].describe();
                self.problem(
                    field,
                    format!("{given} needs a log_distribution_role_arn, and the row has none"),
                );
            }
        }
        let bucket_name = self.required("bucket_name", bucket_name);
        let bucket_prefix = self.optional("bucket_prefix", bucket_prefix);
        let contents = self.contents();
        let bucket_owner = self.optional("bucket_owner", account_id);
        let bucket_owner = bucket_owner.or_else(|| role.as_ref().map(|role| role.account().to_owned()));
        Some(Bucket {
            role,
            external_id,
            session_tags,
            source_identity,
            bucket_name: bucket_name?,
            bucket_owner,
            bucket_prefix: bucket_prefix.unwrap_or_else(|| DEFAULT_BUCKET_PREFIX.to_owned()),
            contents,
        })
    }

    /// Checks that the Region and the role are in the same partition: a role cannot be used in another partition.
    fn same_partition(&mut self, region: &str, role: &RoleArn) {
        let partition = partition::of_region(region);
        if role.partition() != partition {
            let rule = format!("{region:?} is in partition {partition}, and {role} in {}", role.partition());
            self.problem("target_region", rule);
        }
    }

    pub(super) fn problem(&mut self, field: &str, problem: impl std::fmt::Display) {
        self.problems.push(FieldProblem { field: field.to_owned(), problem: problem.to_string() });
    }

    fn required<T>(&mut self, field: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.row.contains_key(field) {
            self.problem(field, "is missing");
            return None;
        }
        self.optional(field, parse)
    }

    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
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

    /// Reads one of two words or more.
    pub(super) fn word<T: Copy>(&mut self, field: &str, words: &[(&str, T)]) -> Option<T> {
        self.optional(field, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
                match &*words {
                    [one, other] => format!("{text:?} is neither {one} nor {other}"),
                    [first @ .., last] => format!("{text:?} is none of {} and {last}", first.join(", ")),
                    [] => unreachable!("there are words"),
                }
            })
        })
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

    fn target_region(&mut self, default_region: Option<&str>) -> Option<String> {
        if self.row.contains_key("target_region") {
            return self.optional("target_region", region);
        }
        if default_region.is_none() {
            self.problem(
                "target_region",
                "is missing, and the worker's setting tenants.default_region is not set",
            );
        }
        default_region.map(str::to_owned)
    }

    /// Reads `desired_logs`; `None` means all. Customers' rows also express "all" by an empty list, and by a list of
    /// one empty string, because a set in DynamoDB cannot be empty.
    fn desired_logs(&mut self) -> Option<Vec<String>> {
        match self.row.get("desired_logs") {
            None => None,
            Some(Attribute::TextList(list)) if list.iter().all(String::is_empty) && list.len() <= 1 => None,
            Some(Attribute::TextList(list)) => {
                for pattern in list.iter().filter(|pattern| !is_application_pattern(pattern)) {
                    let rule =
                        "cannot match an application (at least 1 character, no slash, no control character)";
                    self.problem("desired_logs", format!("{pattern:?} {rule}"));
                }
                Some(list.clone())
            }
            Some(other) => {
                let rule = format!("must be SS or L of strings, not {}", other.describe());
                self.problem("desired_logs", rule);
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
            let problem = format!("must be one of the numbers {RETENTION_DAYS:?}, not {}", given.describe());
            self.problem("retention_days", problem);
        }
        value
    }
}

/// Greatest age of a `ttl` that has a meaning: five years. Source: DynamoDB Developer Guide, "Using time to live (TTL)".
const OLDEST_TTL: SignedDuration = SignedDuration::from_hours(5 * 365 * 24);

/// Value of `bucket_prefix` for a row that has none.
const DEFAULT_BUCKET_PREFIX: &str = "ROSA/cluster-logs/";
/// Most bytes of a `bucket_prefix`: half of a key's 1,024 bytes. The other half is left for the tenant, the
/// application, the pod and the file.
const MAX_BUCKET_PREFIX: usize = 512;

/// Retentions that CloudWatch Logs allows. Source: CloudWatch Logs API reference, PutRetentionPolicy.
const RETENTION_DAYS: [i32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// Checks the form of a Region's name: at least three parts, the last of digits.
pub(crate) fn region(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('-').collect();
    let legal = parts.len() >= 3
        && parts.iter().all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
        && parts.last().is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if legal {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a Region such as \"eu-central-1\""))
    }
}

fn role_arn(text: &str) -> Result<RoleArn, String> {
    text.parse().map_err(|error: RoleArnError| error.to_string())
}

/// Whether a pattern can match an application, which is one segment of a key.
fn is_application_pattern(pattern: &str) -> bool {
    !pattern.is_empty() && !pattern.contains(|c: char| c == '/' || c.is_control())
}

/// Checks a bucket's name. Source: S3 User Guide, "General purpose bucket naming rules".
fn bucket_name(text: &str) -> Result<String, String> {
    match text.contains('_') {
        true => Err(format!("{text:?} is not 3 to 63 characters of [a-z0-9.-]")),
        false => old_bucket_name(text),
    }
}

/// Checks a prefix, and adds a slash at its end if it has none. Customers' rows have both forms, with the same meaning.
fn bucket_prefix(text: &str) -> Result<String, String> {
    let prefix = match text {
        "" => String::new(),
        _ if text.ends_with('/') => text.to_owned(),
        _ => format!("{text}/"),
    };
    let problem = if prefix.starts_with('/') {
        "begins with a slash".to_owned()
    } else if prefix.split('/').any(|segment| matches!(segment, "." | "..")) {
        "has a segment \".\" or \"..\"".to_owned()
    } else if prefix.contains(char::is_control) {
        "has a control character".to_owned()
    } else if prefix.len() > MAX_BUCKET_PREFIX {
        format!("is longer than {MAX_BUCKET_PREFIX} bytes, half of an object's longest key")
    } else {
        return Ok(prefix);
    };
    Err(format!("{text:?} {problem}"))
}

/// Checks a log group's name. Source: CloudWatch Logs API reference, CreateLogGroup.
fn log_group_name(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '#');
    if text.is_empty() || text.len() > 512 || !text.chars().all(legal) {
        return Err(format!("{text:?} is not 1 to 512 characters of [.-_/#A-Za-z0-9]"));
    }
    if text.starts_with("aws/") {
        return Err(format!("{text:?} begins with \"aws/\", which is reserved"));
    }
    Ok(text.to_owned())
}

/// Checks an account id. Source: S3 API reference, `x-amz-expected-bucket-owner`.
fn account_id(text: &str) -> Result<String, String> {
    if is_account(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is not a 12-digit account id")) }
}

/// Checks an ExternalId. Source: STS API reference, AssumeRole.
fn external_id(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c);
    if (2..=1224).contains(&text.len()) && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("it is not 2 to 1224 characters of [A-Za-z0-9_+=,.@:/-]".to_owned())
    }
}

/// Whether a text can be the value of a session tag. STS also allows an empty value, but such a tag is useless. Source: STS
/// API reference, Tag: `[\p{L}\p{Z}\p{N}_.:/=+\-@]*`.
fn is_tag_value(text: &str) -> bool {
    let legal = |c: char| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c);
    (1..=256).contains(&text.chars().count()) && text.chars().all(legal)
}

const MODES: &[(&str, Mode)] = &[("live", Mode::Live), ("shadow", Mode::Shadow)];
const OVERSIZES: &[(&str, Oversize)] =
    &[("split", Oversize::Split), ("truncate", Oversize::Truncate), ("quarantine", Oversize::Quarantine)];
