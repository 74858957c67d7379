//! BatchExecuteStatement: PartiQL statements that each insert or update one item.
//!
//! The grammar is that of the statements that logferry sends: names of attributes, equalities, and a `?` for each value.
//! Reads, DELETE and RETURNING are answered with 501. Anything else outside the grammar is a `ValidationError` of its
//! statement, also where AWS would accept it.

mod statement;

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::statement::{Change, Statement};
use super::expression::condition::{Comparator, Condition};
use super::items::{Guard, check_item_size, show_item, update_item};
use super::table::{Key, Table};
use super::value::{AttributeValue, Item};
use super::{
    DynamoDb, Rest, address, constraint, is_legal_in_table_name, missing_table, required, table_arn,
    validation,
};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;
use crate::faults::Effect;

/// Largest number of statements of one call.
const MAX_STATEMENTS: usize = 25;
/// Longest statement in characters. Source: the shape `PartiQLStatement` of the service's model.
const MAX_STATEMENT: usize = 8192;

#[derive(Deserialize)]
struct BatchExecuteStatement {
    #[serde(rename = "Statements")]
    statements: Option<Vec<Member>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    statement: Option<String>,
    parameters: Option<Vec<Value>>,
    return_values_on_condition_check_failure: Option<String>,
    #[serde(flatten)]
    rest: Rest,
}

/// A statement that the caller may make, on a table that may not exist.
struct Write {
    statement: Statement,
    show_item: bool,
    /// Error to answer instead of the result, by a fault.
    answer: Option<AwsError>,
}

/// Answers of IAM during a call, by action and table.
#[derive(Default)]
struct Permissions(HashMap<(&'static str, String), Result<(), AwsError>>);

impl DynamoDb {
    /// Makes the statements one after another. Each has its own answer. A denied statement does not fail the call: the API
    /// reference lists `AccessDenied` among the codes of BatchStatementError.
    pub(super) fn batch_execute_statement(&self, cloud: &Cloud, call: &Call) -> Answer {
        let request: BatchExecuteStatement = call.parse_all("dynamodb")?;
        let members = required(request.statements, "statements")?;
        check_length(members.len(), 1, MAX_STATEMENTS, "statements")?;
        let mut permissions = Permissions::default();
        let mut writes = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            let (text, parameters, show_item) = member.check(call, index + 1)?;
            let statement = match Statement::parse(text, parameters) {
                Err(error) if error.status == 501 => return Err(error),
                statement => statement.and_then(|statement| permissions.check(cloud, call, statement)),
            };
            writes.push(statement.and_then(|statement| {
                Write { statement, show_item, answer: None }.after_faults(cloud, call, member)
            }));
        }

        let mut tables = self.lock();
        let mut items = HashSet::new();
        let mut ready = Vec::with_capacity(writes.len());
        for write in writes {
            let write = write.and_then(|write| {
                let table = tables.get(&address(call, &write.statement.table)).ok_or_else(missing_table)?;
                Ok((write.statement.change.key(table)?, write))
            });
            // AWS's documentation does not say what happens to two statements about one item. DynamoDB local, AWS's own
            // emulator, refuses the call with this message, which is the one of BatchWriteItem. The sandbox refuses the call
            // before any statement takes effect.
            if let Ok((key, write)) = &write
                && !items.insert((write.statement.table.clone(), key.clone()))
            {
                return Err(validation("Provided list of item keys contains duplicates"));
            }
            ready.push(write);
        }
        let responses: Vec<_> = ready
            .into_iter()
            .map(|write| match write {
                Ok((key, Write { statement: Statement { table, change }, show_item, answer })) => {
                    let stored =
                        tables.get_mut(&address(call, &table)).expect("the table was found under this lock");
                    let result = change.make(stored, key, show_item);
                    response(Some(table), answer.or(result.err()))
                }
                Err(error) => response(None, Some(error)),
            })
            .collect();
        Ok(Reply::json(&json!({ "Responses": responses })))
    }
}

impl Member {
    /// Checks the constraints of the service's model. Returns the statement, its parameters, and whether a failed condition
    /// returns the item.
    fn check(&self, call: &Call, number: usize) -> Result<(&str, Vec<AttributeValue>, bool), AwsError> {
        call.refuse_rest("dynamodb", &self.rest)?;
        let path = |member: &str| format!("statements.{number}.member.{member}");
        let text = required(self.statement.as_deref(), &path("statement"))?;
        check_length(text.chars().count(), 1, MAX_STATEMENT, &path("statement"))?;
        if let Some(parameters) = &self.parameters {
            check_length(parameters.len(), 1, usize::MAX, &path("parameters"))?;
        }
        let parameters =
            self.parameters.iter().flatten().map(AttributeValue::from_json).collect::<Result<_, _>>()?;
        let shown = self.return_values_on_condition_check_failure.as_deref();
        let show_item = show_item(shown, &path("returnValuesOnConditionCheckFailure"))?;
        Ok((text, parameters, show_item))
    }

    /// Returns whether the statement or one of its parameters contains the text.
    fn contains(&self, text: &str) -> bool {
        self.statement.iter().any(|statement| statement.contains(text))
            || self.parameters.iter().flatten().any(|parameter| parameter.to_string().contains(text))
    }
}

impl Permissions {
    /// Returns the statement if its caller may make it.
    fn check(&mut self, cloud: &Cloud, call: &Call, statement: Statement) -> Result<Statement, AwsError> {
        let needed = (statement.action(), statement.table.clone());
        let answer = self.0.entry(needed).or_insert_with_key(|(action, table)| {
            check_table_name(table)?;
            cloud.iam.authorize(call, &format!("dynamodb:{action}"), &table_arn(call, table))
        });
        answer.clone().map(|()| statement)
    }
}

impl Write {
    /// Returns the statement as the active faults leave it, or the error that they answer instead.
    fn after_faults(mut self, cloud: &Cloud, call: &Call, member: &Member) -> Result<Self, AwsError> {
        match cloud.faults.strike_statement(call, self.statement.action(), |text| member.contains(text)) {
            Some(Effect::Error(error)) => Err(error.into()),
            Some(Effect::After { error }) => {
                self.answer = error.map(AwsError::from);
                Ok(self)
            }
            _ => Ok(self),
        }
    }
}

impl Change {
    /// Checks what does not depend on the stored item, and returns the item's key.
    fn key(&self, table: &Table) -> Result<Key, AwsError> {
        match self {
            Self::Insert(item) => {
                let key = table.key_of_item(item)?;
                check_item_size(item)?;
                Ok(key)
            }
            Self::Update(update, equalities) => {
                let mut key = Item::new();
                for attribute in table.key_attributes() {
                    let mut named = equalities.iter().filter(|(name, _)| *name == attribute.name);
                    let (name, value) = named.next().ok_or_else(|| {
                        validation("Where clause does not contain a mandatory equality on all key attributes")
                    })?;
                    if named.next().is_some() {
                        return Err(validation(format!(
                            "Multiple conditions on same key {name}. Only single item Update/Insert/Delete are supported"
                        )));
                    }
                    key.insert(name.clone(), value.clone());
                }
                table.check_key_unchanged(update)?;
                table.key(&key)
            }
        }
    }

    /// Changes the item. Refuses an INSERT of an item that exists, and an UPDATE of an item that is missing or does not meet
    /// the WHERE clause. As the API reference says, only a failed condition returns the item, not a duplicate.
    fn make(self, table: &mut Table, key: Key, show_item: bool) -> Result<(), AwsError> {
        match self {
            Self::Insert(_) if table.items.contains_key(&key) => {
                Err(AwsError::new(400, "DuplicateItemException", "Duplicate primary key exists in table"))
            }
            Self::Insert(item) => {
                table.items.insert(key, item);
                Ok(())
            }
            Self::Update(update, equalities) => {
                // A missing item does not meet the equalities of its key.
                let equal = |(name, value)| Condition::Compare(name, Comparator::Equal, value);
                let condition = equalities
                    .into_iter()
                    .map(equal)
                    .reduce(|left, right| Condition::And(Box::new(left), Box::new(right)));
                update_item(table, key, &Item::new(), &update, &Guard { condition, show_item }).map(|_| ())
            }
        }
    }
}

/// Answer to one statement. `table` is the table of a statement that was made, successfully or not. A statement that was
/// refused earlier has no `TableName` in its answer. AWS does not document that; ministack answers so, too.
fn response(table: Option<String>, error: Option<AwsError>) -> Value {
    let mut response = Map::new();
    if let Some(AwsError { code, message, members, .. }) = error {
        let code = match code.as_str() {
            "ValidationException" => "ValidationError",
            code => code.strip_suffix("Exception").unwrap_or(code),
        };
        let mut error = Map::from_iter(members);
        error.insert("Code".to_owned(), code.into());
        error.insert("Message".to_owned(), message.into());
        response.insert("Error".to_owned(), error.into());
    }
    if let Some(table) = table {
        response.insert("TableName".to_owned(), table.into());
    }
    response.into()
}

fn check_table_name(name: &str) -> Result<(), AwsError> {
    match (3..=255).contains(&name.len()) && name.bytes().all(is_legal_in_table_name) {
        true => Ok(()),
        false => Err(validation(
            "Table name should be within the length [3, 255] and only contain 'a-z', 'A-Z', '0-9', '-', '_', '.'.",
        )),
    }
}

fn check_length(length: usize, least: usize, most: usize, member: &str) -> Result<(), AwsError> {
    let rule = match length {
        _ if length < least => format!("Member must have length greater than or equal to {least}"),
        _ if length > most => format!("Member must have length less than or equal to {most}"),
        _ => return Ok(()),
    };
    Err(constraint("[...]", member, &rule))
}

#[cfg(test)]
mod tests;
