//! Query and Scan, page by page.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::expression::Placeholders;
use super::expression::condition::{Comparator, Condition, Operand};
use super::table::{Key, KeyAttribute, KeyValue, Table};
use super::value::{Item, item_from_json, item_size, item_to_json};
use super::{DynamoDb, Rest, choice, constraint, read, refuse_rest, validation};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

/// Most bytes of items that one page looks at, before its filter.
const PAGE_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Query {
    key_condition_expression: Option<String>,
    scan_index_forward: Option<bool>,
    #[serde(flatten)]
    scan: Scan,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scan {
    filter_expression: Option<String>,
    expression_attribute_names: Option<BTreeMap<String, String>>,
    expression_attribute_values: Option<Map<String, Value>>,
    exclusive_start_key: Option<Map<String, Value>>,
    limit: Option<i64>,
    select: Option<String>,
    /// Every read is consistent here, so it makes no difference.
    #[serde(rename = "ConsistentRead")]
    _consistent_read: Option<bool>,
    #[serde(flatten)]
    rest: Rest,
}

/// Which items of a hash key a query reads, in which order.
struct KeyCondition {
    hash: KeyValue,
    /// On the range key alone.
    range: Option<Condition>,
}

impl DynamoDb {
    pub(super) fn query(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request): (_, Query) = read(cloud, call)?;
        refuse_rest(call, &request.scan.rest)?;
        let Some(text) = &request.key_condition_expression else {
            return Err(validation(
                "Either the KeyConditions or KeyConditionExpression parameter must be specified in the \
                 request.",
            ));
        };
        let mut placeholders = request.scan.placeholders(&[
            ("KeyConditionExpression", &request.key_condition_expression),
            ("FilterExpression", &request.scan.filter_expression),
        ])?;
        let condition = Condition::parse("KeyConditionExpression", text, &mut placeholders)?;
        let page = request.scan.page(&mut placeholders)?;
        self.with_table(call, &table, |table| {
            let condition = KeyCondition::read(table, condition)?;
            page.check_filter(table)?;
            let start = page.start_key(table)?;
            if start.as_ref().is_some_and(|(hash, _)| *hash != condition.hash) {
                return Err(validation(
                    "The provided starting key is outside query boundaries based on provided conditions",
                ));
            }
            let found = table
                .items
                .range((condition.hash.clone(), None)..)
                .take_while(|((hash, _), _)| *hash == condition.hash)
                .filter(|(_, item)| condition.range.as_ref().is_none_or(|range| range.holds(item)));
            if request.scan_index_forward == Some(false) {
                let mut found: Vec<_> = found.collect();
                found.reverse();
                let rest =
                    found.into_iter().filter(|(key, _)| start.as_ref().is_none_or(|start| *key < start));
                Ok(page.answer(table, rest))
            } else {
                Ok(page
                    .answer(table, found.filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start))))
            }
        })
    }

    pub(super) fn scan(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (table, request): (_, Scan) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let mut placeholders = request.placeholders(&[("FilterExpression", &request.filter_expression)])?;
        let page = request.page(&mut placeholders)?;
        self.with_table(call, &table, |table| {
            let start = page.start_key(table)?;
            let found = table.items.iter().filter(|(key, _)| start.as_ref().is_none_or(|start| *key > start));
            Ok(page.answer(table, found))
        })
    }
}

/// How one page is filled and shown.
struct Page {
    filter: Option<Condition>,
    start: Option<Item>,
    limit: usize,
    count_only: bool,
}

impl Scan {
    fn placeholders(&self, expressions: &[(&str, &Option<String>)]) -> Result<Placeholders, AwsError> {
        let values = self.expression_attribute_values.as_ref();
        Placeholders::read(self.expression_attribute_names.clone(), values, expressions)
    }

    /// Parses the filter, as the last of the expressions, and checks the rest.
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
        let select = choice(self.select.as_deref(), "select", &["ALL_ATTRIBUTES", "COUNT"])?;
        let start = self.exclusive_start_key.as_ref().map(item_from_json).transpose()?;
        Ok(Page { filter, start, limit, count_only: select == "COUNT" })
    }
}

impl Page {
    fn start_key(&self, table: &Table) -> Result<Option<Key>, AwsError> {
        let read =
            |start: &Item| table.key(start).map_err(|_| validation("The provided starting key is invalid"));
        self.start.as_ref().map(read).transpose()
    }

    /// A query's filter sees the attributes outside the key alone.
    fn check_filter(&self, table: &Table) -> Result<(), AwsError> {
        let read = self.filter.as_ref().map(Condition::attributes).unwrap_or_default();
        match table.key_attributes().find(|key| read.contains(&key.name.as_str())) {
            Some(key) => Err(validation(format!(
                "Filter Expression can only contain non-primary key attributes: Primary key attribute: {}",
                key.name
            ))),
            None => Ok(()),
        }
    }

    fn answer<'a>(&self, table: &Table, found: impl Iterator<Item = (&'a Key, &'a Item)>) -> Reply {
        let mut found = found.map(|(_, item)| item).peekable();
        let (mut bytes, mut scanned, mut last) = (0, 0, None);
        let mut items = Vec::new();
        // A page that its limit fills ends with a key, whether or not something follows: so does AWS's.
        let full = loop {
            if scanned == self.limit {
                break true;
            }
            let Some(item) = found.peek() else { break false };
            bytes += item_size(item);
            if bytes > PAGE_BYTES && scanned > 0 {
                break true;
            }
            let item = found.next().expect("it was just seen");
            scanned += 1;
            last = Some(item);
            if self.filter.as_ref().is_none_or(|filter| filter.holds(item)) {
                items.push(item);
            }
        };
        let mut answer = json!({ "Count": items.len(), "ScannedCount": scanned });
        if !self.count_only {
            answer["Items"] = items.into_iter().map(item_to_json).collect();
        }
        if let (true, Some(last)) = (full, last) {
            answer["LastEvaluatedKey"] = item_to_json(&table.key_item(last));
        }
        Reply::json(&answer)
    }
}

impl KeyCondition {
    /// Reads `hash = :v`, or that and one condition on the range key, in either order.
    fn read(table: &Table, condition: Condition) -> Result<Self, AwsError> {
        let (mut hash, mut range) = (None, None);
        for part in conjuncts(condition)? {
            let name = part.attributes().first().map(|name| (*name).to_owned()).unwrap_or_default();
            let (place, attribute) = if name == table.hash.name {
                (&mut hash, Some(&table.hash))
            } else {
                (&mut range, table.range.as_ref().filter(|range| range.name == name))
            };
            let Some(attribute) = attribute else {
                let missed = match (&table.range, &hash) {
                    (Some(range), Some(_)) => &range.name,
                    _ => &table.hash.name,
                };
                return Err(missed_key(missed));
            };
            check_part(&part, attribute)?;
            if place.replace(part).is_some() {
                return Err(validation("KeyConditionExpressions must only contain one condition per key"));
            }
        }
        match hash {
            Some(Condition::Compare(_, Comparator::Equal, Operand::Value(value))) => {
                let hash = table.hash.value(&value).map_err(|_| wrong_type())?;
                Ok(Self { hash, range })
            }
            Some(_) => Err(validation("Query key condition not supported")),
            None => Err(missed_key(&table.hash.name)),
        }
    }
}

/// The parts of a conjunction of one or two conditions of the kinds that keys know, paths to the left.
fn conjuncts(condition: Condition) -> Result<Vec<Condition>, AwsError> {
    let refused = |operator: &str| {
        let message = "Invalid KeyConditionExpression: Invalid operator used in KeyConditionExpression";
        Err(validation(format!("{message}: {operator}")))
    };
    match condition {
        Condition::And(left, right) => {
            let parts = [conjuncts(*left)?, conjuncts(*right)?].concat();
            match parts.len() {
                0..=2 => Ok(parts),
                _ => Err(validation("Conditions can be of length 1 or 2 only")),
            }
        }
        Condition::Compare(_, Comparator::NotEqual, _) => refused("<>"),
        Condition::Compare(value @ Operand::Value(_), Comparator::Equal, path @ Operand::Path(_)) => {
            Ok(vec![Condition::Compare(path, Comparator::Equal, value)])
        }
        Condition::Compare(..) | Condition::Between(..) | Condition::BeginsWith(..) => Ok(vec![condition]),
        Condition::Or(..) => refused("OR"),
        Condition::Not(..) => refused("NOT"),
        Condition::In(..) => refused("IN"),
        Condition::Exists(..) => refused("attribute_exists"),
        Condition::NotExists(..) => refused("attribute_not_exists"),
        Condition::HasType(..) => refused("attribute_type"),
        Condition::Contains(..) => refused("contains"),
    }
}

/// Checks that one condition compares the attribute itself with values of its type.
fn check_part(part: &Condition, attribute: &KeyAttribute) -> Result<(), AwsError> {
    let (operand, values) = match part {
        Condition::Compare(operand, _, value) | Condition::BeginsWith(operand, value) => {
            (operand, vec![value])
        }
        Condition::Between(operand, low, high) => (operand, vec![low, high]),
        _ => return Err(validation("Query key condition not supported")),
    };
    match operand {
        Operand::Path(path) if path.steps.is_empty() => {}
        Operand::Path(_) => {
            return Err(validation(
                "Invalid KeyConditionExpression: KeyConditionExpressions cannot have conditions on nested \
                 attributes",
            ));
        }
        _ => return Err(validation("Query key condition not supported")),
    }
    for value in values {
        let Operand::Value(value) = value else {
            return Err(validation("Query key condition not supported"));
        };
        attribute.check(&attribute.value(value).map_err(|_| wrong_type())?)?;
    }
    Ok(())
}

fn wrong_type() -> AwsError {
    validation(
        "One or more parameter values were invalid: Condition parameter type does not match schema type",
    )
}

fn missed_key(name: &str) -> AwsError {
    validation(format!("Query condition missed key schema element: {name}"))
}
