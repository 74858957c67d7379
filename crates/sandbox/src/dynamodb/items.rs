//! Calls on one item: PutItem, GetItem, UpdateItem, DeleteItem.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::expression::Placeholders;
use super::expression::condition::Condition;
use super::expression::update::Update;
use super::table::{Key, Table};
use super::value::{Item, item_from_json, item_size, item_to_json};
use super::{DynamoDb, choice, read, required, validation};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

/// Largest item in bytes. Names and values count.
const MAX_ITEM_BYTES: usize = 400 * 1024;

#[derive(Deserialize)]
struct PutItem {
    #[serde(rename = "Item")]
    item: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct DeleteItem {
    #[serde(rename = "Key")]
    key: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateItem {
    key: Option<Map<String, Value>>,
    update_expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetItem {
    key: Option<Map<String, Value>>,
    /// Without effect: every read of the sandbox is consistent.
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
}

/// Common members of the three writing calls.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Write {
    condition_expression: Option<String>,
    expression_attribute_names: Option<BTreeMap<String, String>>,
    expression_attribute_values: Option<Map<String, Value>>,
    return_values: Option<String>,
    return_values_on_condition_check_failure: Option<String>,
}

/// A condition on the existing item, and whether a failure returns that item.
pub(super) struct Guard {
    pub(super) condition: Option<Condition>,
    pub(super) show_item: bool,
}

impl Write {
    fn guard(&self) -> Result<Guard, AwsError> {
        let mut placeholders = self.placeholders(&[("ConditionExpression", &self.condition_expression)])?;
        self.guard_with(&mut placeholders)
    }

    fn update_and_guard(&self, update: &Option<String>) -> Result<(Update, Guard), AwsError> {
        let mut placeholders = self.placeholders(&[
            ("UpdateExpression", update),
            ("ConditionExpression", &self.condition_expression),
        ])?;
        let update = match update {
            Some(text) => Update::parse(text, &mut placeholders)?,
            None => Update::default(),
        };
        Ok((update, self.guard_with(&mut placeholders)?))
    }

    fn placeholders(&self, expressions: &[(&str, &Option<String>)]) -> Result<Placeholders, AwsError> {
        let values = self.expression_attribute_values.as_ref();
        Placeholders::read(self.expression_attribute_names.clone(), values, expressions)
    }

    /// Parses the condition. Call this after the other expressions are parsed: it refuses placeholders that none of them used.
    fn guard_with(&self, placeholders: &mut Placeholders) -> Result<Guard, AwsError> {
        let condition = match &self.condition_expression {
            Some(text) => Some(Condition::parse("ConditionExpression", text, placeholders)?),
            None => None,
        };
        placeholders.check_used()?;
        let shown = self.return_values_on_condition_check_failure.as_deref();
        Ok(Guard { condition, show_item: show_item(shown, "returnValuesOnConditionCheckFailure")? })
    }

    fn return_values(&self) -> Result<&'static str, AwsError> {
        choice(self.return_values.as_deref(), "returnValues", &["NONE", "ALL_OLD", "ALL_NEW"])
    }

    /// Returns whether PutItem or DeleteItem should answer with the previous item.
    fn returns_old(&self) -> Result<bool, AwsError> {
        match self.return_values()? {
            "NONE" => Ok(false),
            "ALL_OLD" => Ok(true),
            _ => Err(validation("ReturnValues can only be ALL_OLD or NONE")),
        }
    }
}

impl Guard {
    fn check(&self, present: Option<&Item>) -> Result<(), AwsError> {
        let Some(condition) = &self.condition else { return Ok(()) };
        if condition.holds(present.unwrap_or(&Item::new())) {
            return Ok(());
        }
        let failed = AwsError::new(400, "ConditionalCheckFailedException", "The conditional request failed");
        Err(match present {
            Some(item) if self.show_item => failed.with_member("Item", item_to_json(item)),
            _ => failed,
        })
    }
}

impl DynamoDb {
    pub(super) fn put_item(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, write): (_, PutItem, Write) = read(cloud, call)?;
        let item = item_from_json(&required(request.item, "item")?)?;
        let returns_old = write.returns_old()?;
        let guard = write.guard()?;
        check_item_size(&item)?;
        self.with_table(call, &table, |table| {
            let key = table.key_of_item(&item)?;
            guard.check(table.items.get(&key))?;
            let old = table.items.insert(key, item);
            Ok(attributes(old.filter(|_| returns_old)))
        })
    }

    pub(super) fn delete_item(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, write): (_, DeleteItem, Write) = read(cloud, call)?;
        let key = item_from_json(&required(request.key, "key")?)?;
        let returns_old = write.returns_old()?;
        let guard = write.guard()?;
        self.with_table(call, &table, |table| {
            let key = table.key(&key)?;
            guard.check(table.items.get(&key))?;
            let old = table.items.remove(&key);
            Ok(attributes(old.filter(|_| returns_old)))
        })
    }

    pub(super) fn update_item(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, write): (_, UpdateItem, Write) = read(cloud, call)?;
        let key_item = item_from_json(&required(request.key, "key")?)?;
        let returned = write.return_values()?;
        let (update, guard) = write.update_and_guard(&request.update_expression)?;
        self.with_table(call, &table, |table| {
            let key = table.key(&key_item)?;
            table.check_key_unchanged(&update)?;
            let (old, new) = update_item(table, key, &key_item, &update, &guard)?;
            Ok(attributes(match returned {
                "ALL_OLD" => old,
                "ALL_NEW" => Some(new),
                _ => None,
            }))
        })
    }

    pub(super) fn get_item(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, ()): (_, GetItem, _) = read(cloud, call)?;
        let key = item_from_json(&required(request.key, "key")?)?;
        self.with_table(call, &table, |table| {
            let answer = match table.items.get(&table.key(&key)?) {
                Some(item) => json!({ "Item": item_to_json(item) }),
                None => json!({}),
            };
            Ok(Reply::json(&answer))
        })
    }
}

/// Updates an item that meets the condition. A missing item is created from `blank`. Returns the item before and after.
pub(super) fn update_item(
    table: &mut Table,
    key: Key,
    blank: &Item,
    update: &Update,
    guard: &Guard,
) -> Result<(Option<Item>, Item), AwsError> {
    let old = table.items.get(&key).cloned();
    guard.check(old.as_ref())?;
    let new = update.apply(old.as_ref().unwrap_or(blank));
    if item_size(&new) > MAX_ITEM_BYTES {
        return Err(validation("Item size to update has exceeded the maximum allowed size"));
    }
    table.items.insert(key, new.clone());
    Ok((old, new))
}

/// Refuses an item that is too large to be put.
pub(super) fn check_item_size(item: &Item) -> Result<(), AwsError> {
    match item_size(item) > MAX_ITEM_BYTES {
        true => Err(validation("Item size has exceeded the maximum allowed size")),
        false => Ok(()),
    }
}

/// Reads ReturnValuesOnConditionCheckFailure: whether a failed condition returns the item.
pub(super) fn show_item(given: Option<&str>, member: &str) -> Result<bool, AwsError> {
    Ok(choice(given, member, &["NONE", "ALL_OLD"])? == "ALL_OLD")
}

/// Answer of a write: the requested item or attributes, if there are any.
fn attributes(item: Option<Item>) -> Reply {
    match item.filter(|item| !item.is_empty()) {
        Some(item) => Reply::json(&json!({ "Attributes": item_to_json(&item) })),
        None => Reply::json(&json!({})),
    }
}
