//! Rows as operators read and write them. No I/O.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    cli::show::{columns, printable},
    route::KeyLayout,
    tenant::{
        ATTRIBUTES, Attribute, BadRow, Content, Contents, Destination, FOREIGN, FieldProblem, Mode,
        OwnBuckets, Row, SETTINGS, TTL, check_row, expired_at,
    },
};

/// Longest tenant id and type in bytes: DynamoDB's limit for a sort key, and S3's limit for an object's key, which contains
/// the tenant's id.
const MAX_KEY_BYTES: usize = 1024;

/// Parameters of reading a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// `tenants.default_region`.
    pub(super) default_region: Option<&'a str>,
    pub(super) now: Timestamp,
}

impl<'a> Reading<'a> {
    /// Reads rows with this default Region, as of now.
    pub(super) fn new(default_region: Option<&'a str>) -> Self {
        Self { default_region, now: Timestamp::now() }
    }
}

/// A row and how the worker reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CheckedRow {
    pub(super) tenant_id: String,
    /// The row's `type`.
    pub(super) name: String,
    pub(super) row: Row,
    content: Option<Content>,
    /// The time of its `ttl`, if that has passed.
    expired_at: Option<Timestamp>,
    problems: Vec<FieldProblem>,
}

impl CheckedRow {
    /// Checks a row, which contains its key too.
    pub(super) fn new(tenant_id: String, name: String, row: Row, reading: Reading<'_>) -> Self {
        let mut problems = key_problems(&tenant_id, &name);
        let expired_at = expired_at(&row, reading.now);
        let content = match check_row(&tenant_id, &name, &row, reading.default_region) {
            Ok(content) => Some(content).filter(|_| problems.is_empty()),
            Err(bad) => {
                problems.extend(bad.problems);
                None
            }
        };
        Self { tenant_id, name, row, content, expired_at, problems }
    }

    /// Checks a row before it is written. In addition to the worker's rules, each attribute must have a type that can be
    /// written.
    fn to_write(row: Row, reading: Reading<'_>) -> Self {
        let text = |field: &str| match row.get(field) {
            Some(Attribute::Text(text)) => Ok(text.clone()),
            Some(_) => Err(problem(field, "must be a string".to_owned())),
            None => Err(problem(field, "is missing".to_owned())),
        };
        let (tenant_id, name) = (text("tenant_id"), text("type"));
        let mut broken: Vec<_> =
            [&tenant_id, &name].into_iter().filter_map(|key| key.clone().err()).collect();
        let mut entry = Self::new(tenant_id.unwrap_or_default(), name.unwrap_or_default(), row, reading);
        // The problem of a missing key is reported already.
        entry.problems.retain(|problem| broken.iter().all(|broken| broken.field != problem.field));
        broken.append(&mut entry.problems);
        entry.problems = broken;
        for (field, attribute) in &entry.row {
            let named = entry.problems.iter().any(|problem| problem.field == *field);
            if let (Attribute::Other(kind), false) = (attribute, named) {
                let rule = format!(
                    "is of type {kind}; strings, numbers, booleans and lists of strings can be written"
                );
                entry.problems.push(problem(field, rule));
            }
        }
        entry.content.take_if(|_| !entry.problems.is_empty());
        entry
    }

    /// A copy of the row with another value of one attribute.
    pub(super) fn with(&self, field: &str, value: Attribute, reading: Reading<'_>) -> Self {
        let mut row = self.row.clone();
        row.insert(field.to_owned(), value);
        Self::new(self.tenant_id.clone(), self.name.clone(), row, reading)
    }

    /// Whether writing this row over `row` would change nothing. Writing keeps the `ttl` and the attributes that mean nothing
    /// to logferry.
    pub(super) fn is_there(&self, row: &Row) -> bool {
        let left = |name: &String| !ATTRIBUTES.contains(&name.as_str()) || name == TTL;
        self.row.iter().all(|(name, value)| row.get(name) == Some(value))
            && row.keys().all(|name| self.row.contains_key(name) || left(name))
    }

    /// Whether the row's `ttl` has passed, so that the worker ignores the row.
    pub(super) fn is_expired(&self) -> bool {
        self.expired_at.is_some()
    }

    /// Whether the worker can use the row.
    pub(super) fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether this is the settings row of a paused tenant.
    pub(super) fn pauses(&self) -> bool {
        self.name == SETTINGS && !self.is_expired() && self.row.get("paused") == Some(&Attribute::Bool(true))
    }

    /// The attributes that mean nothing to logferry.
    fn ignored(&self) -> Vec<&str> {
        self.row.keys().map(String::as_str).filter(|name| !ATTRIBUTES.contains(name)).collect()
    }

    /// The ignored attributes that no other known program writes, so that they may be misspelt.
    pub(super) fn unknown(&self) -> Vec<&str> {
        self.ignored().into_iter().filter(|name| !FOREIGN.contains(name)).collect()
    }

    /// Why a worker with these buckets would refuse the row; `None` if it would not.
    pub(super) fn misfit(&self, own_buckets: &OwnBuckets) -> Option<BadRow> {
        let Some(Content::Delivery(delivery)) = &self.content else { return None };
        own_buckets.check(delivery).err()
    }

    /// `None` for a row that cannot be enabled.
    fn enabled(&self) -> Option<bool> {
        (self.name != SETTINGS).then(|| self.row.get("enabled") == Some(&Attribute::Bool(true)))
    }

    /// The row as JSON. `paused` is `None` if the tenant's settings are unknown.
    pub(super) fn report(&self, paused: Option<bool>) -> Value {
        let row: Map<_, _> = self.row.iter().map(|(name, value)| (name.clone(), to_json(value))).collect();
        let problems: Vec<_> = self
            .problems
            .iter()
            .map(|FieldProblem { field, problem }| {
                json!({ "field": field, "value": self.row.get(field).map(to_json), "problem": problem })
            })
            .collect();
        json!({
            "tenant_id": self.tenant_id,
            "type": self.name,
            "enabled": self.enabled(),
            "paused": paused,
            "target": self.content.as_ref().and_then(target),
            "valid": self.is_valid(),
            "expired": self.is_expired(),
            "problems": problems,
            "ignored": self.ignored(),
            "row": row,
        })
    }

    /// The row for people: its state, its attributes and its problems.
    pub(super) fn details(&self, paused: &BTreeSet<String>) -> String {
        let mut text = format!(
            "{} {}: {}\n",
            printable(&self.tenant_id),
            printable(&self.name),
            self.state(paused.contains(&self.tenant_id))
        );
        let shown = self.row.iter().filter(|(name, _)| !["tenant_id", "type"].contains(&name.as_str()));
        let value = |value: &Attribute| match value {
            Attribute::Text(text) => printable(text),
            Attribute::Number(number) => printable(number),
            other => printable(&to_json(other).to_string()),
        };
        let lines = shown.map(|(name, attribute)| ["".into(), printable(name), value(attribute)]);
        text.push_str(&columns(lines));
        for remark in self.remarks() {
            text.push_str(&format!("  {remark}\n"));
        }
        text
    }

    fn state(&self, paused: bool) -> String {
        let enabled = self.enabled().map(|enabled| if enabled { "enabled" } else { "disabled" });
        let paused = paused.then_some("paused");
        let expired = self.is_expired().then_some("expired");
        let valid = (!self.is_valid()).then_some("BAD");
        let words: Vec<_> = [enabled, paused, expired, valid].into_iter().flatten().collect();
        if words.is_empty() { "-".to_owned() } else { words.join(", ") }
    }

    /// One line for each problem and each oddity.
    fn remarks(&self) -> Vec<String> {
        let problems = self.problems.iter().map(|problem| printable(&problem.to_string()));
        let expired =
            self.expired_at.map(|at| format!("{TTL}: passed at {at}, so the worker ignores the row"));
        let unknown =
            self.unknown().into_iter().map(|name| format!("{}: means nothing to logferry", printable(name)));
        problems.chain(expired).chain(unknown).collect()
    }
}

fn problem(field: &str, problem: String) -> FieldProblem {
    FieldProblem { field: field.to_owned(), problem }
}

/// Checks the row's key. The worker never reads a row whose key cannot come from an object's key.
fn key_problems(tenant_id: &str, name: &str) -> Vec<FieldProblem> {
    let layout =
        KeyLayout::parse("{tenant}/{file}").expect("it has the required names, and the file is last");
    let mut problems = Vec::new();
    if tenant_id.len() > MAX_KEY_BYTES {
        problems.push(problem("tenant_id", format!("has more than {MAX_KEY_BYTES} bytes")));
    } else if layout.route(&format!("{tenant_id}/x")).is_err() {
        let rule = "cannot be a segment of an object's key (no slash, no control character, not \".\")";
        problems.push(problem("tenant_id", format!("{tenant_id:?} {rule}")));
    }
    if name.len() > MAX_KEY_BYTES {
        problems.push(problem("type", format!("has more than {MAX_KEY_BYTES} bytes")));
    }
    problems
}

fn target(content: &Content) -> Option<Value> {
    let Content::Delivery(delivery) = content else { return None };
    Some(match &delivery.destination {
        Destination::CloudWatch(to) => json!({
            "account": to.role.account(),
            "region": delivery.target_region,
            "log_group_name": to.log_group_name,
        }),
        Destination::S3(to) => json!({
            "account": to.bucket_owner,
            "region": delivery.target_region,
            "bucket_name": to.bucket_name,
            "bucket_prefix": to.bucket_prefix,
            "format": match &to.contents {
                Contents::Copies(_) => "copy",
                Contents::Lake(lake) => lake.format.word(),
            },
        }),
    })
}

/// The target as one line. The account of a bucket is shown only if the row or its role tells it.
fn target_line(content: &Content) -> Option<String> {
    let Content::Delivery(delivery) = content else { return None };
    let (account, place) = match &delivery.destination {
        Destination::CloudWatch(to) => (Some(to.role.account().to_owned()), to.log_group_name.clone()),
        Destination::S3(to) => {
            (to.bucket_owner.clone(), format!("s3://{}/{}", to.bucket_name, to.bucket_prefix))
        }
    };
    let shadow = (delivery.mode == Mode::Shadow).then(|| "(shadow)".to_owned());
    let words = account.into_iter().chain([delivery.target_region.clone(), place]).chain(shadow);
    Some(words.collect::<Vec<_>>().join(" "))
}

/// Reads one row, or an array of rows.
///
/// # Errors
/// The text is not JSON, or neither an object nor an array of objects. A problem inside a row is kept with the row.
pub(super) fn parse(text: &str, reading: Reading<'_>) -> Result<Vec<CheckedRow>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    let rows = match value {
        Value::Array(rows) => rows,
        row => vec![row],
    };
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, row) in rows.into_iter().enumerate() {
        let Value::Object(row) = row else { return Err(format!("row {} is not an object", index + 1)) };
        let row = row.into_iter().map(|(name, value)| (name, from_json(value))).collect();
        let mut entry = CheckedRow::to_write(row, reading);
        if !seen.insert((entry.tenant_id.clone(), entry.name.clone())) && entry.is_valid() {
            entry.content = None;
            entry
                .problems
                .push(problem("type", format!("the file has {:?} of this tenant twice", entry.name)));
        }
        entries.push(entry);
    }
    if entries.is_empty() { Err("no rows".to_owned()) } else { Ok(entries) }
}

/// Reads plain JSON, or DynamoDB's form with the type around the value.
fn from_json(value: Value) -> Attribute {
    match value {
        Value::String(text) => Attribute::Text(text),
        Value::Number(number) => Attribute::Number(number.to_string()),
        Value::Bool(flag) => Attribute::Bool(flag),
        Value::Array(values) => list(values),
        Value::Object(typed) if typed.len() == 1 => match typed.into_iter().next() {
            Some((kind, Value::String(text))) if kind == "S" => Attribute::Text(text),
            Some((kind, Value::String(text))) if kind == "N" && is_number(&text) => Attribute::Number(text),
            Some((kind, Value::Bool(flag))) if kind == "BOOL" => Attribute::Bool(flag),
            Some((kind, Value::Array(values))) if kind == "SS" || kind == "L" => list(values),
            _ => Attribute::Other("M"),
        },
        Value::Object(_) => Attribute::Other("M"),
        Value::Null => Attribute::Other("NULL"),
    }
}

fn is_number(text: &str) -> bool {
    text.parse().is_ok_and(f64::is_finite)
}

fn list(values: Vec<Value>) -> Attribute {
    let texts: Option<Vec<_>> = values
        .into_iter()
        .map(|value| match from_json(value) {
            Attribute::Text(text) => Some(text),
            _ => None,
        })
        .collect();
    texts.map_or(Attribute::Other("L of other than S"), Attribute::TextList)
}

/// The inverse of [`from_json`]. Types that no row uses are shown without their value.
fn to_json(attribute: &Attribute) -> Value {
    match attribute {
        Attribute::Text(text) => text.as_str().into(),
        // Larger numbers and fractions would become floating-point numbers in JSON.
        Attribute::Number(number) => {
            number.parse::<i64>().map_or_else(|_| json!({ "N": number }), |number| number.into())
        }
        Attribute::Bool(flag) => (*flag).into(),
        Attribute::TextList(texts) => texts.as_slice().into(),
        Attribute::Other(kind) => json!({ *kind: null }),
    }
}

/// A table with one line per row, and the row's remarks below.
pub(super) fn table<'a>(
    entries: impl IntoIterator<Item = &'a CheckedRow>,
    paused: &BTreeSet<String>,
) -> String {
    let mut lines = vec![["TENANT", "TYPE", "STATE", "TARGET"].map(str::to_owned)];
    let mut remarks = vec![Vec::new()];
    for entry in entries {
        let target = entry.content.as_ref().and_then(target_line);
        lines.push([
            printable(&entry.tenant_id),
            printable(&entry.name),
            entry.state(paused.contains(&entry.tenant_id)),
            target.unwrap_or_else(|| "-".to_owned()),
        ]);
        remarks.push(entry.remarks());
    }
    let mut text = String::new();
    for (line, remarks) in columns(lines).lines().zip(remarks) {
        text.push_str(&format!("{line}\n"));
        for remark in remarks {
            text.push_str(&format!("  {remark}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
