//! Looks tenants up in DynamoDB; and, for operators, lists and changes rows.

use std::{collections::HashMap, sync::Arc};

use aws_sdk_dynamodb::{
    Client,
    error::ProvideErrorMetadata,
    operation::{put_item::builders::PutItemFluentBuilder, update_item::builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue},
};

use jiff::Timestamp;

use super::{ATTRIBUTES, Attribute, Directory, LookupError, Row, SETTINGS, TTL, Tenant, row::oldest_ttl};
use crate::aws::describe;

/// A row beside its key: `tenant_id` and `type`, which the row itself holds too.
pub type KeyedRow = (String, String, Row);

/// What putting a row did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// There was no row of that key.
    Created,
    /// There was one. Of its attributes those are left that logferry does not know and the new row does not name.
    Replaced,
}

/// A change of the table, or a reading of all of it, that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} in table {table:?}: {problem}")]
pub struct TableError {
    /// What was tried.
    pub action: String,
    /// Where.
    pub table: String,
    /// What the SDK says.
    pub problem: String,
}

/// The rows as they are in the table at this moment: nothing is remembered, every read is consistent.
#[derive(Clone, Debug)]
pub struct TenantRows {
    client: Client,
    table: String,
    default_region: Option<String>,
}

impl TenantRows {
    /// Reads and writes `table`; `default_region` is that of rows without a `target_region`.
    pub fn new(client: Client, table: String, default_region: Option<String>) -> Self {
        Self { client, table, default_region }
    }

    /// The Region of rows without a `target_region`, if there is one.
    pub fn default_region(&self) -> Option<&str> {
        self.default_region.as_deref()
    }

    /// One tenant's rows by `type`, in the table's order.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
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
            // The sort key is always a string: the table's schema says so.
            if let Some(AttributeValue::S(name)) = item.get("type") {
                rows.push((name.clone(), row(&item)));
            }
        }
        Ok(rows)
    }

    /// Every row, sorted by its key.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
    pub async fn all(&self) -> Result<Vec<KeyedRow>, TableError> {
        let scan = self.client.scan().table_name(&self.table).consistent_read(true);
        let mut items = scan.into_paginator().items().send();
        let mut rows = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.failed("list the rows", describe(&error)))?;
            let (Some(AttributeValue::S(tenant_id)), Some(AttributeValue::S(name))) =
                (item.get("tenant_id"), item.get("type"))
            else {
                let problem = "its key is not tenant_id (S) and type (S)".to_owned();
                return Err(self.failed("list the rows", problem));
            };
            rows.push((tenant_id.clone(), name.clone(), row(&item)));
        }
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        Ok(rows)
    }

    /// Writes a row, its key included, in the place of the one that is there. What other programs keep in that one, and the new
    /// one does not name, stays: every attribute that is none of [`ATTRIBUTES`], and a `ttl` that lies ahead. Of a row whose
    /// `ttl` has passed nothing stays.
    ///
    /// # Errors
    /// An attribute has a type that no row needs; DynamoDB cannot be reached or refuses. Nothing was written then, or, if
    /// no answer came, nobody knows.
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

    /// Sets `enabled` of a row that exists; false when there is none.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
    pub async fn set_enabled(&self, tenant_id: &str, name: &str, to: bool) -> Result<bool, TableError> {
        self.set_flag(tenant_id, name, "enabled", to).await
    }

    /// Pauses a tenant by its `settings` row, which is created if there is none yet, or none whose `ttl` lies ahead.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
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

    /// Takes a tenant's pause back; false when it has no `settings` row, and so is not paused.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
    pub async fn resume(&self, tenant_id: &str) -> Result<bool, TableError> {
        self.set_flag(tenant_id, SETTINGS, "paused", false).await
    }

    /// Deletes a row; false when there is none.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses.
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
        Ok(Tenant::from_rows(tenant_id, rows, self.default_region(), Timestamp::now()).map(Arc::new))
    }
}

/// Without it an update would create the row, and a deletion would pass for one.
const EXISTS: &str = "attribute_exists(tenant_id)";

/// What DynamoDB answers when [`EXISTS`] does not hold.
const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

/// Refuses where a row is gone by its `ttl`, by the rule of [`expired_at`](super::expired_at); that there is no row, or no `ttl` that
/// means something, is no hindrance.
fn unless_expired(update: UpdateItemFluentBuilder) -> UpdateItemFluentBuilder {
    let now = Timestamp::now();
    let number = |seconds: i64| AttributeValue::N(seconds.to_string());
    update
        .condition_expression("NOT #ttl < :now OR #ttl < :oldest")
        .expression_attribute_names("#ttl", TTL)
        .expression_attribute_values(":now", number(now.as_second()))
        .expression_attribute_values(":oldest", number(oldest_ttl(now)))
}

/// Makes a row that item, but for attributes of others: sets what the item has, and removes what logferry knows and the item
/// has not.
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

/// A list of strings becomes L, which may be empty and keeps the order; SS may not, and does not.
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
    fn what_is_written_is_read_alike() {
        for written in [
            Attribute::Text("a".into()),
            Attribute::Number("7".into()),
            Attribute::Bool(false),
            Attribute::TextList(vec!["b".into(), "a".into(), "a".into()]),
            Attribute::TextList(Vec::new()),
        ] {
            let value = value(&written).expect("rows have such");
            assert_eq!(attribute(&value), written);
        }
        assert_eq!(value(&Attribute::Other("M")), Err("M"));
    }
}
