//! The tenant table in DynamoDB: finds tenants for the worker, and lists and changes rows for operators.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    error::ProvideErrorMetadata,
    operation::{put_item::builders::PutItemFluentBuilder, update_item::builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue},
};

use jiff::Timestamp;

use super::{
    ATTRIBUTES, Attribute, Directory, LookupError, Mode, Row, SETTINGS, TTL, Tenant, row::oldest_ttl,
};
use crate::aws::describe;

/// `tenant_id`, `type` and all attributes of a row. The attributes include the first two.
pub type KeyedRow = (String, String, Row);

/// Result of [`TenantRows::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// No row had this key.
    Created,
    /// A row had this key. Its `ttl` and the attributes that logferry does not know stay, unless the new row has them too or
    /// the old row had expired.
    Replaced,
}

/// Reason why the table could not be listed or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} in table {table:?}: {problem}")]
pub struct TableError {
    /// The failed action.
    pub action: String,
    /// The table.
    pub table: String,
    /// Error text of the SDK.
    pub problem: String,
}

/// Rows of the table. Every read is consistent, and nothing is remembered.
#[derive(Clone, Debug)]
pub struct TenantRows {
    client: Client,
    table: String,
    default_region: Option<String>,
    mode: Mode,
}

impl TenantRows {
    /// Uses `table`. `default_region` is the Region of rows without a `target_region`; `mode` is the worker's.
    pub fn new(client: Client, table: String, default_region: Option<String>, mode: Mode) -> Self {
        Self { client, table, default_region, mode }
    }

    /// The tenant of these rows, as the worker has it. `None` if all rows have expired.
    pub fn judge(&self, tenant_id: &str, rows: Vec<(String, Row)>) -> Option<Tenant> {
        let tenant = Tenant::from_rows(tenant_id, rows, self.default_region(), Timestamp::now());
        tenant.map(|tenant| tenant.in_mode(self.mode))
    }

    /// The Region of rows without a `target_region`, if it is configured.
    pub fn default_region(&self) -> Option<&str> {
        self.default_region.as_deref()
    }

    /// Reads the rows of a tenant, sorted by `type`.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn of(&self, tenant_id: &str) -> Result<Vec<(String, Row)>, LookupError> {
        let mut items = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("tenant_id = :tenant_id")
            .expression_attribute_values(":tenant_id", AttributeValue::S(tenant_id.to_owned()))
            .into_paginator()
            .items()
            .send();
        let mut rows = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| LookupError {
                tenant_id: tenant_id.to_owned(),
                table: self.table.clone(),
                problem: describe(&error),
            })?;
            // `type` is the sort key, which the table's schema defines as a string.
            if let Some(AttributeValue::S(name)) = item.get("type") {
                rows.push((name.clone(), row(&item)));
            }
        }
        Ok(rows)
    }

    /// Reads every row, sorted by `tenant_id` and `type`.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn all(&self) -> Result<Vec<KeyedRow>, TableError> {
        let scan = self.client.scan().table_name(&self.table).consistent_read(true);
        let mut items = scan.into_paginator().items().send();
        let mut rows = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.failed("list the rows", describe(&error)))?;
            let (Some(AttributeValue::S(tenant_id)), Some(AttributeValue::S(name))) =
                (item.get("tenant_id"), item.get("type"))
            else {
                let problem = "the table's key is not tenant_id (S) and type (S)".to_owned();
                return Err(self.failed("list the rows", problem));
            };
            rows.push((tenant_id.clone(), name.clone(), row(&item)));
        }
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        Ok(rows)
    }

    /// Creates or replaces a row. `row` includes its key. Two kinds of attributes of the old row stay if the new row does
    /// not have them: attributes outside [`ATTRIBUTES`], because other programs use them, and a `ttl`. If the old row has
    /// expired, nothing of it stays.
    ///
    /// # Errors
    /// An attribute has a type that rows do not have, DynamoDB cannot be reached, or DynamoDB refuses the call. Nothing was
    /// written, unless only DynamoDB's answer was lost.
    pub async fn put(&self, row: &Row) -> Result<Put, TableError> {
        let mut item = HashMap::new();
        for (name, attribute) in row {
            let value = value(attribute)
                .map_err(|kind| self.failed("put a row", format!("{name} is of type {kind}")))?;
            item.insert(name.clone(), value);
        }
        let update = self.client.update_item().table_name(&self.table).return_values(ReturnValue::AllOld);
        let old = match unless_expired(replacement(update, &item)).send().await {
            Ok(answer) => answer.attributes,
            Err(error) if error.code() == Some(CONDITION_FAILED) => {
                let put = self.put_item(item).return_values(ReturnValue::AllOld).send().await;
                put.map_err(|error| self.failed("put a row", describe(&error)))?.attributes
            }
            Err(error) => return Err(self.failed("put a row", describe(&error))),
        };
        Ok(if old.is_some_and(|old| !old.is_empty()) { Put::Replaced } else { Put::Created })
    }

    /// Sets `enabled` of a row. Returns false if the row does not exist.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn set_enabled(&self, tenant_id: &str, name: &str, to: bool) -> Result<bool, TableError> {
        self.set_flag(tenant_id, name, "enabled", to).await
    }

    /// Pauses a tenant by its `settings` row. Creates the row if it does not exist or has expired.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn pause(&self, tenant_id: &str) -> Result<(), TableError> {
        let failed = |problem| self.failed("pause a tenant", problem);
        match unless_expired(self.update(tenant_id, SETTINGS, "paused", true)).send().await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(CONDITION_FAILED) => {
                let mut item = key(tenant_id, SETTINGS);
                item.insert("paused".to_owned(), AttributeValue::Bool(true));
                self.put_item(item).send().await.map(drop).map_err(|error| failed(describe(&error)))
            }
            Err(error) => Err(failed(describe(&error))),
        }
    }

    /// Ends the pause of a tenant. Returns false if the tenant has no `settings` row, and so is not paused.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn resume(&self, tenant_id: &str) -> Result<bool, TableError> {
        self.set_flag(tenant_id, SETTINGS, "paused", false).await
    }

    /// Deletes a row. Returns false if the row does not exist.
    ///
    /// # Errors
    /// DynamoDB cannot be reached, or refuses the call.
    pub async fn delete(&self, tenant_id: &str, name: &str) -> Result<bool, TableError> {
        let delete = self.client.delete_item().table_name(&self.table).condition_expression(EXISTS);
        let delete = delete.set_key(Some(key(tenant_id, name)));
        match delete.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(CONDITION_FAILED) => Ok(false),
            Err(error) => Err(self.failed("delete a row", describe(&error))),
        }
    }

    async fn set_flag(&self, tenant_id: &str, name: &str, field: &str, to: bool) -> Result<bool, TableError> {
        let update = self.update(tenant_id, name, field, to).condition_expression(EXISTS);
        match update.send().await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(CONDITION_FAILED) => Ok(false),
            Err(error) => Err(self.failed("change a row", describe(&error))),
        }
    }

    fn update(&self, tenant_id: &str, name: &str, field: &str, to: bool) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(&self.table).set_key(Some(key(tenant_id, name)));
        update
            .update_expression("SET #field = :to")
            .expression_attribute_names("#field", field)
            .expression_attribute_values(":to", AttributeValue::Bool(to))
    }

    fn put_item(&self, item: HashMap<String, AttributeValue>) -> PutItemFluentBuilder {
        self.client.put_item().table_name(&self.table).set_item(Some(item))
    }

    fn failed(&self, action: &str, problem: String) -> TableError {
        TableError { action: action.to_owned(), table: self.table.clone(), problem }
    }
}

impl Directory for TenantRows {
    async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        let rows = self.of(tenant_id).await?;
        Ok(self.judge(tenant_id, rows).map(Arc::new))
    }
}

/// Condition that the row exists. Without it, an update would create a missing row, and the deletion of a missing row
/// would succeed.
const EXISTS: &str = "attribute_exists(tenant_id)";

/// DynamoDB's error code for a condition that does not hold.
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

/// Adds the condition that the row has not expired, by the rule of [`expired_at`](super::expired_at). The condition
/// also holds if the row does not exist.
fn unless_expired(update: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    let now = Timestamp::now();
    let number = |seconds: i64| AttributeValue::N(seconds.to_string());
    update
        .condition_expression("NOT #ttl < :now OR #ttl < :oldest")
        .expression_attribute_names("#ttl", TTL)
        .expression_attribute_values(":now", number(now.as_second()))
        .expression_attribute_values(":oldest", number(oldest_ttl(now)))
}

/// Replaces a row by `item`, and keeps other programs' attributes: sets every attribute of the item, and removes every
/// attribute that logferry knows and the item does not have.
fn replacement(
    mut update: UpdateItemFluentBuilder,
    item: &HashMap<String, AttributeValue>,
) -> UpdateItemFluentBuilder {
    let is_key = |name: &str| matches!(name, "tenant_id" | "type");
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for (index, (name, value)) in item.iter().enumerate() {
        if is_key(name) {
            update = update.key(name, value.clone());
        } else {
            set.push(format!("#set{index} = :set{index}"));
            update = update
                .expression_attribute_names(format!("#set{index}"), name)
                .expression_attribute_values(format!(":set{index}"), value.clone());
        }
    }
    let gone = ATTRIBUTES.iter().filter(|name| !is_key(name) && **name != TTL && !item.contains_key(**name));
    for (index, name) in gone.enumerate() {
        remove.push(format!("#remove{index}"));
        update = update.expression_attribute_names(format!("#remove{index}"), *name);
    }
    let sections = [("SET", set), ("REMOVE", remove)];
    let sections = sections.into_iter().filter(|(_, parts)| !parts.is_empty());
    let sections: Vec<_> = sections.map(|(word, parts)| format!("{word} {}", parts.join(", "))).collect();
    update.update_expression(sections.join(" "))
}

fn key(tenant_id: &str, name: &str) -> HashMap<String, AttributeValue> {
    let key = [("tenant_id", tenant_id), ("type", name)];
    key.map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned()))).into()
}

/// Converts an attribute for DynamoDB. A list of strings becomes L, because SS cannot be empty and does not keep the order.
fn value(attribute: &Attribute) -> Result<AttributeValue, &'static str> {
    Ok(match attribute {
        Attribute::Text(text) => AttributeValue::S(text.clone()),
        Attribute::Number(number) => AttributeValue::N(number.clone()),
        Attribute::Bool(flag) => AttributeValue::Bool(*flag),
        Attribute::TextList(texts) => {
            AttributeValue::L(texts.iter().cloned().map(AttributeValue::S).collect())
        }
        Attribute::Other(kind) => return Err(kind),
    })
}

fn row(item: &HashMap<String, AttributeValue>) -> Row {
    item.iter().map(|(name, value)| (name.clone(), attribute(value))).collect()
}

fn attribute(value: &AttributeValue) -> Attribute {
    match value {
        AttributeValue::S(text) => Attribute::Text(text.clone()),
        AttributeValue::N(number) => Attribute::Number(number.clone()),
        AttributeValue::Bool(flag) => Attribute::Bool(*flag),
        AttributeValue::Ss(texts) => Attribute::TextList(texts.clone()),
        AttributeValue::L(values) => {
            let texts: Option<Vec<_>> = values.iter().map(|value| value.as_s().ok().cloned()).collect();
            texts.map_or(Attribute::Other("L of other than S"), Attribute::TextList)
        }
        AttributeValue::M(_) => Attribute::Other("M"),
        AttributeValue::Null(_) => Attribute::Other("NULL"),
        AttributeValue::B(_) => Attribute::Other("B"),
        AttributeValue::Bs(_) => Attribute::Other("BS"),
        AttributeValue::Ns(_) => Attribute::Other("NS"),
        _ => Attribute::Other("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_keep_their_types() {
        let s = |text: &str| AttributeValue::S(text.into());
        for (value, expected) in [
            (s("a"), Attribute::Text("a".into())),
            (AttributeValue::N("7".into()), Attribute::Number("7".into())),
            (AttributeValue::Bool(true), Attribute::Bool(true)),
            (AttributeValue::Ss(vec!["a".into()]), Attribute::TextList(vec!["a".into()])),
            (AttributeValue::L(vec![s("a"), s("b")]), Attribute::TextList(vec!["a".into(), "b".into()])),
            (
                AttributeValue::L(vec![s("a"), AttributeValue::Bool(true)]),
                Attribute::Other("L of other than S"),
            ),
            (AttributeValue::Null(true), Attribute::Other("NULL")),
        ] {
            assert_eq!(attribute(&value), expected);
        }
    }

    #[test]
    fn a_written_attribute_is_read_unchanged() {
        for written in [
            Attribute::Text("a".into()),
            Attribute::Number("7".into()),
            Attribute::Bool(false),
            Attribute::TextList(vec!["b".into(), "a".into(), "a".into()]),
            Attribute::TextList(Vec::new()),
        ] {
            let value = value(&written).expect("rows may have this type");
            assert_eq!(attribute(&value), written);
        }
        assert_eq!(value(&Attribute::Other("M")), Err("M"));
    }
}
