//! Query and Scan, page by page.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::expression::Placeholders;
use super::expression::condition::{Comparator, Condition};
use super::table::{Key, Table};
use super::value::{AttributeValue, Item, item_from_json, item_size, item_to_json};
use super::{DynamoDb, constraint, read, validation};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

/// Largest number of bytes that one page reads. Items count before they are filtered.
const PAGE_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Query {
    key_condition_expression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scan {
    filter_expression: Option<String>,
    expression_attribute_names: Option<BTreeMap<String, String>>,
    expression_attribute_values: Option<Map<String, Value>>,
    exclusive_start_key: Option<Map<String, Value>>,
    limit: Option<i64>,
    /// Without effect: every read of the sandbox is consistent.
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
}

impl DynamoDb {
    pub(super) fn query(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, scan): (_, Query, Scan) = read(cloud, call)?;
        let Some(text) = &request.key_condition_expression else {
            return Err(validation(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the \
                 request.",
            ));
        };
        if scan.filter_expression.is_some() {
            return Err(AwsError::not_implemented("dynamodb", "Query with FilterExpression"));
        }
        let mut placeholders =
            scan.placeholders(&[("KeyConditionExpression", &request.key_condition_expression)])?;
        let condition = Condition::parse("KeyConditionExpression", text, &mut placeholders)?;
        let page = scan.page(&mut placeholders)?;
        self.with_table(call, &table, |table| {
            let hash = hash_key(table, condition)?;
            let start = page.start_key(table)?;
            if start.as_ref().is_some_and(|(start, _)| *start != hash) {
                return Err(validation(
                    "The provided starting key is outside query boundaries based on provided conditions",
                ));
            }
            let found =
                table.items.range((hash.clone(), None)..).take_while(|((found, _), _)| *found == hash);
            Ok(page.answer(table, found.filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start))))
        })
    }

    pub(super) fn scan(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request, ()): (_, Scan, _) = read(cloud, call)?;
        let mut placeholders = request.placeholders(&[("FilterExpression", &request.filter_expression)])?;
        let page = request.page(&mut placeholders)?;
        self.with_table(call, &table, |table| {
            let start = page.start_key(table)?;
            let found = table.items.iter().filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start));
            Ok(page.answer(table, found))
        })
    }
}

struct Page {
    filter: Option<Condition>,
    start: Option<Item>,
    limit: usize,
}

impl Scan {
    fn placeholders(&self, expressions: &[(&str, &Option<String>)]) -> Result<Placeholders, AwsError> {
        let values = self.expression_attribute_values.as_ref();
        Placeholders::read(self.expression_attribute_names.clone(), values, expressions)
    }

    /// Parses the filter and checks the other members. Call this after the other expressions are parsed: it refuses
    /// placeholders that none of them used.
    fn page(&self, placeholders: &mut Placeholders) -> Result<Page, AwsError> {
        let filter = match &self.filter_expression {
            Some(text) => Some(Condition::parse("FilterExpression", text, placeholders)?),
            None => None,
        };
        placeholders.check_used()?;
        let limit = match self.limit {
            None => usize::MAX,
            Some(limit) => usize::try_from(limit).ok().filter(|limit| *limit > 0).ok_or_else(|| {
                let rule = "Member must have value greater than or equal to 1";
                constraint(&limit.to_string(), "limit", rule)
            })?,
        };
        let start = self.exclusive_start_key.as_ref().map(item_from_json).transpose()?;
        Ok(Page { filter, start, limit })
    }
}

impl Page {
    fn start_key(&self, table: &Table) -> Result<Option<Key>, AwsError> {
        let read =
            |start: &Item| table.key(start).map_err(|_| validation("The provided starting key is invalid"));
        self.start.as_ref().map(read).transpose()
    }

    fn answer<'a>(&self, table: &Table, found: impl Iterator<Item = (&'a Key, &'a Item)>) -> Reply {
        let mut found = found.map(|(_, item)| item).peekable();
        let (mut bytes, mut scanned, mut last) = (0, 0, None);
        let mut items = Vec::new();
        // As in AWS, a page that reaches the limit has a LastEvaluatedKey even if no item follows.
        let full = loop {
            if scanned == self.limit {
                break true;
            }
            let Some(item) = found.peek() else { break false };
            bytes += item_size(item);
            if bytes > PAGE_BYTES && scanned > 0 {
                break true;
            }
            let item = found.next().expect("the item was peeked");
            scanned += 1;
            last = Some(item);
            if self.filter.as_ref().is_none_or(|filter| filter.holds(item)) {
                items.push(item);
            }
        };
        let mut answer = json!({ "Count": items.len(), "ScannedCount": scanned });
        answer["Items"] = items.into_iter().map(item_to_json).collect();
        if let (true, Some(last)) = (full, last) {
            answer["LastEvaluatedKey"] = item_to_json(&table.key_item(last));
        }
        Reply::json(&answer)
    }
}

/// Reads `hash = :value`, the only key condition that logferry uses.
fn hash_key(table: &Table, condition: Condition) -> Result<String, AwsError> {
    let name = &table.hash.name;
    match condition {
        Condition::Compare(found, Comparator::Equal, value) if found == *name => match value {
            AttributeValue::S(value) => table.hash.check(&value).map(|()| value),
            _ => Err(validation(
                "One or more parameter values were invalid: Condition parameter type does not match schema type",
            )),
        },
        Condition::Compare(found, ..) if found != *name => {
            Err(validation(format!("Query condition missed key schema element: {name}")))
        }
        _ => Err(validation("Query key condition not supported")),
    }
}
