//! DynamoDB: tables with their items, conditional writes, queries and scans.
//!
//! It checks key schemas, sizes of items and placeholders in expressions, and cuts pages at 1 MB. Not implemented: keys that
//! are not strings, numbers that are not whole, sets of numbers and of binaries, paths into attributes, operators that logferry
//! does not use, indexes, projections, transactions, streams, and batches other than BatchExecuteStatement. A time to live is
//! stored, but no item is deleted. AWS, too, may keep an item for days after it expired.

mod expression;
mod items;
mod partiql;
mod query;
mod reserved;
mod table;
mod tables;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::call::{Answer, AwsError, Call, Rest, violation};
use crate::cloud::Cloud;
use table::Table;

/// All tables, of every account and Region.
#[derive(Debug, Default)]
pub(crate) struct DynamoDb {
    /// By account, Region and table name.
    tables: Mutex<HashMap<(String, String, String), Table>>,
}

impl DynamoDb {
    pub(crate) async fn handle(&self, cloud: &Arc<Cloud>, call: &Call) -> Answer {
        match call.operation.as_str() {
            "CreateTable" => self.create_table(cloud, call),
            "DescribeTable" => self.describe_table(cloud, call),
            "DescribeTimeToLive" => self.describe_time_to_live(cloud, call),
            "UpdateTimeToLive" => self.update_time_to_live(cloud, call),
            "PutItem" => self.put_item(cloud, call),
            "GetItem" => self.get_item(cloud, call),
            "UpdateItem" => self.update_item(cloud, call),
            "DeleteItem" => self.delete_item(cloud, call),
            "BatchExecuteStatement" => self.batch_execute_statement(cloud, call),
            "Query" => self.query(cloud, call),
            "Scan" => self.scan(cloud, call),
            _ => Err(AwsError::not_implemented("dynamodb", &call.operation)),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String, String), Table>> {
        // A poisoned lock is harmless: no holder leaves a table half changed.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `change` on an existing table.
    fn with_table<T>(
        &self,
        call: &Call,
        name: &str,
        change: impl FnOnce(&mut Table) -> Result<T, AwsError>,
    ) -> Result<T, AwsError> {
        let mut tables = self.lock();
        change(tables.get_mut(&address(call, name)).ok_or_else(missing_table)?)
    }
}

#[derive(Deserialize)]
struct Request<T, U> {
    #[serde(rename = "TableName")]
    table_name: Option<String>,
    #[serde(flatten)]
    members: T,
    #[serde(flatten)]
    more: U,
    #[serde(flatten)]
    rest: Rest,
}

/// Parses a request, which has the members of both types and no others, checks the table's name and asks IAM.
fn read<T, U>(cloud: &Cloud, call: &Call) -> Result<(String, T, U), AwsError>
where
    T: DeserializeOwned,
    U: DeserializeOwned,
{
    let request: Request<T, U> = call.parse()?;
    let name = required(request.table_name, "tableName")?;
    if !name.bytes().all(is_legal_in_table_name) {
        let rule = "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+";
        return Err(constraint(&name, "tableName", rule));
    }
    if !(3..=255).contains(&name.len()) {
        return Err(validation(
            "TableName must be at least 3 characters long and at most 255 characters long",
        ));
    }
    let action = format!("dynamodb:{}", call.operation);
    cloud.iam.authorize(call, &action, &table_arn(call, &name))?;
    call.refuse_rest("dynamodb", &request.rest)?;
    Ok((name, request.members, request.more))
}

fn is_legal_in_table_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

fn missing_table() -> AwsError {
    AwsError::new(400, "ResourceNotFoundException", "Requested resource not found")
}

fn address(call: &Call, table: &str) -> (String, String, String) {
    (call.account.clone(), call.region.clone(), table.to_owned())
}

fn table_arn(call: &Call, table: &str) -> String {
    format!("arn:aws:dynamodb:{}:{}:table/{table}", call.region, call.account)
}

fn validation(message: impl Into<String>) -> AwsError {
    AwsError::new(400, "ValidationException", message)
}

/// Error for a member that violates a constraint of the service's model.
fn constraint(value: &str, member: &str, rule: &str) -> AwsError {
    validation(violation(value, member, rule))
}

fn required<T>(value: Option<T>, member: &str) -> Result<T, AwsError> {
    value.ok_or_else(|| constraint("null", member, "Member must not be null"))
}

/// Checks a member against its enumeration. A missing member means the first choice.
fn choice(given: Option<&str>, member: &str, choices: &[&'static str]) -> Result<&'static str, AwsError> {
    let Some(given) = given else { return Ok(choices[0]) };
    choices.iter().find(|choice| **choice == given).copied().ok_or_else(|| {
        let rule = format!("Member must satisfy enum value set: [{}]", choices.join(", "));
        constraint(given, member, &rule)
    })
}

#[cfg(test)]
mod tests;
