//! UpdateExpression: `SET`, `REMOVE`, `ADD` and `DELETE`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::validation;
use super::super::value::{AttributeValue, Item};
use super::{Parser, Path, Placeholders, Step, Token};
use crate::call::AwsError;

/// An update, parsed and with its placeholders filled in.
#[derive(Debug, Default)]
pub(in super::super) struct Update {
    set: Vec<(Path, SetValue)>,
    remove: Vec<Path>,
    add: Vec<(Path, AttributeValue)>,
    delete: Vec<(Path, AttributeValue)>,
}

#[derive(Debug)]
enum SetValue {
    Operand(Operand),
    Sum(Operand, Operand),
    Difference(Operand, Operand),
}

#[derive(Debug)]
enum Operand {
    Value(AttributeValue),
    Path(Path),
    IfNotExists(Path, Box<Operand>),
    ListAppend(Box<Operand>, Box<Operand>),
}

impl Update {
    pub(in super::super) fn parse(text: &str, placeholders: &mut Placeholders) -> Result<Self, AwsError> {
        let mut parser = Parser::new("UpdateExpression", text, placeholders)?;
        let mut update = Self::default();
        let mut seen = BTreeSet::new();
        while parser.at < parser.tokens.len() {
            let sections = ["SET", "REMOVE", "ADD", "DELETE"];
            let section = sections.into_iter().find(|section| parser.take_keyword(section));
            let section = section.ok_or_else(|| parser.syntax_error())?;
            if !seen.insert(section) {
                return Err(parser.error(format_args!(
                    "The \"{section}\" section can only be used once in an update expression;"
                )));
            }
            loop {
                update.clause(section, &mut parser)?;
                if !parser.take(",") {
                    break;
                }
            }
        }
        let paths = update.paths();
        for (at, one) in paths.iter().enumerate() {
            if let Some(two) = paths[at + 1..].iter().find(|two| one.overlaps(two)) {
                return Err(parser.error(format_args!(
                    "Two document paths overlap with each other; must remove or rewrite one of these paths; \
                     path one: {one}, path two: {two}"
                )));
            }
        }
        Ok(update)
    }

    /// The places that the update writes.
    pub(in super::super) fn paths(&self) -> Vec<&Path> {
        let set = self.set.iter().map(|(path, _)| path);
        let values = self.add.iter().chain(&self.delete).map(|(path, _)| path);
        set.chain(&self.remove).chain(values).collect()
    }

    /// The item as the update leaves it; every operand is read from the item as it was.
    pub(in super::super) fn apply(&self, old: &Item) -> Result<Item, AwsError> {
        let mut new = old.clone();
        for (path, value) in &self.set {
            let value = match value {
                SetValue::Operand(operand) => operand.evaluate(old)?,
                SetValue::Sum(left, right) => arithmetic(left.evaluate(old)?, right.evaluate(old)?, false)?,
                SetValue::Difference(left, right) => {
                    arithmetic(left.evaluate(old)?, right.evaluate(old)?, true)?
                }
            };
            put(&mut new, path, value)?;
        }
        for (path, value) in &self.add {
            let sum = match path.find(old) {
                Some(present) => add(present, value)?,
                None => value.clone(),
            };
            put(&mut new, path, sum)?;
        }
        for (path, value) in &self.delete {
            match path.find(old).map(|present| subtract(present, value)).transpose()? {
                Some(Some(rest)) => put(&mut new, path, rest)?,
                Some(None) => remove(&mut new, path)?,
                None => {}
            }
        }
        // From the back, so that the elements of a list keep their places until their turn.
        let mut removed: Vec<_> = self.remove.iter().collect();
        removed.sort();
        for path in removed.into_iter().rev() {
            remove(&mut new, path)?;
        }
        Ok(new)
    }

    fn clause(&mut self, section: &str, parser: &mut Parser<'_>) -> Result<(), AwsError> {
        let path = parser.path()?;
        match section {
            "SET" => {
                parser.expect("=")?;
                let left = operand(parser)?;
                let value = if parser.take("+") {
                    SetValue::Sum(left, arithmetic_operand(parser, "+")?)
                } else if parser.take("-") {
                    SetValue::Difference(left, arithmetic_operand(parser, "-")?)
                } else {
                    SetValue::Operand(left)
                };
                self.set.push((path, value));
            }
            "REMOVE" => self.remove.push(path),
            _ => {
                let value = parser.take_value()?.ok_or_else(|| parser.syntax_error())?;
                use AttributeValue::{Bs, N, Ns, Ss};
                let fits =
                    matches!(value, Ss(_) | Ns(_) | Bs(_)) || section == "ADD" && matches!(value, N(_));
                if !fits {
                    return Err(wrong_type(parser, section, &value));
                }
                if section == "ADD" { &mut self.add } else { &mut self.delete }.push((path, value));
            }
        }
        Ok(())
    }
}

impl Operand {
    fn evaluate(&self, item: &Item) -> Result<AttributeValue, AwsError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Path(path) => path.find(item).cloned().ok_or_else(|| {
                validation("The provided expression refers to an attribute that does not exist in the item")
            }),
            Self::IfNotExists(path, default) => match path.find(item) {
                Some(value) => Ok(value.clone()),
                None => default.evaluate(item),
            },
            Self::ListAppend(first, second) => match (first.evaluate(item)?, second.evaluate(item)?) {
                (AttributeValue::L(mut list), AttributeValue::L(more)) => {
                    list.extend(more);
                    Ok(AttributeValue::L(list))
                }
                _ => Err(incorrect_type()),
            },
        }
    }
}

fn operand(parser: &mut Parser<'_>) -> Result<Operand, AwsError> {
    if let Some(value) = parser.take_value()? {
        return Ok(Operand::Value(value));
    }
    let Some(name) = parser.take_function() else { return parser.path().map(Operand::Path) };
    let parsed = match name.as_str() {
        "if_not_exists" => {
            if matches!(parser.peek(), Some(Token::Value(_))) {
                return Err(parser.error(format_args!(
                    "Operator or function requires a document path; operator or function: {name}"
                )));
            }
            let path = parser.path()?;
            parser.expect(",")?;
            Operand::IfNotExists(path, Box::new(operand(parser)?))
        }
        "list_append" => {
            let first = operand(parser)?;
            parser.expect(",")?;
            Operand::ListAppend(Box::new(first), Box::new(operand(parser)?))
        }
        _ => return Err(parser.error(format_args!("Invalid function name; function: {name}"))),
    };
    parser.expect(")")?;
    Ok(parsed)
}

/// The operand after `+` or `-`; a literal must be a number.
fn arithmetic_operand(parser: &mut Parser<'_>, operator: &str) -> Result<Operand, AwsError> {
    match operand(parser)? {
        Operand::Value(value) if !matches!(value, AttributeValue::N(_)) => Err(parser.error(format_args!(
            "Incorrect operand type for operator or function; operator or function: {operator}, \
                 operand type: {}",
            value.kind()
        ))),
        operand => Ok(operand),
    }
}

fn wrong_type(parser: &Parser<'_>, section: &str, value: &AttributeValue) -> AwsError {
    let kind = match value {
        AttributeValue::S(_) => "STRING",
        AttributeValue::N(_) => "NUMBER",
        AttributeValue::B(_) => "BINARY",
        AttributeValue::Bool(_) => "BOOLEAN",
        AttributeValue::L(_) => "LIST",
        AttributeValue::M(_) => "MAP",
        other => other.kind(),
    };
    parser.error(format_args!(
        "Incorrect operand type for operator or function; operator: {section}, operand type: {kind}"
    ))
}

fn incorrect_type() -> AwsError {
    validation("An operand in the update expression has an incorrect data type")
}

fn arithmetic(left: AttributeValue, right: AttributeValue, minus: bool) -> Result<AttributeValue, AwsError> {
    match (left, right) {
        (AttributeValue::N(left), AttributeValue::N(right)) if minus => left.subtract(right),
        (AttributeValue::N(left), AttributeValue::N(right)) => left.add(right),
        _ => Err(incorrect_type()),
    }
    .map(AttributeValue::N)
}

fn add(present: &AttributeValue, value: &AttributeValue) -> Result<AttributeValue, AwsError> {
    use AttributeValue::{Bs, N, Ns, Ss};
    match (present, value) {
        (N(a), N(b)) => a.add(*b).map(N),
        (Ss(a), Ss(b)) => Ok(Ss(a | b)),
        (Ns(a), Ns(b)) => Ok(Ns(a | b)),
        (Bs(a), Bs(b)) => Ok(Bs(a | b)),
        _ => Err(incorrect_type()),
    }
}

/// The set without the elements; nothing if none is left, for there are no empty sets.
fn subtract(present: &AttributeValue, value: &AttributeValue) -> Result<Option<AttributeValue>, AwsError> {
    use AttributeValue::{Bs, Ns, Ss};
    let (rest, left) = match (present, value) {
        (Ss(a), Ss(b)) => (Ss(a - b), a.is_subset(b)),
        (Ns(a), Ns(b)) => (Ns(a - b), a.is_subset(b)),
        (Bs(a), Bs(b)) => (Bs(a - b), a.is_subset(b)),
        _ => return Err(incorrect_type()),
    };
    Ok((!left).then_some(rest))
}

/// What holds the last step of a path.
enum Parent<'a> {
    Members(&'a mut BTreeMap<String, AttributeValue>, &'a str),
    Elements(&'a mut Vec<AttributeValue>, usize),
}

fn parent<'a>(item: &'a mut Item, path: &'a Path) -> Result<Parent<'a>, AwsError> {
    let invalid = || validation("The document path provided in the update expression is invalid for update");
    let Some((last, between)) = path.steps.split_last() else {
        return Ok(Parent::Members(item, &path.attribute));
    };
    let mut value = item.get_mut(&path.attribute).ok_or_else(invalid)?;
    for step in between {
        value = match (value, step) {
            (AttributeValue::M(members), Step::Member(name)) => members.get_mut(name),
            (AttributeValue::L(elements), Step::Element(at)) => elements.get_mut(*at),
            _ => None,
        }
        .ok_or_else(invalid)?;
    }
    match (value, last) {
        (AttributeValue::M(members), Step::Member(name)) => Ok(Parent::Members(members, name)),
        (AttributeValue::L(elements), Step::Element(at)) => Ok(Parent::Elements(elements, *at)),
        _ => Err(invalid()),
    }
}

fn put(item: &mut Item, path: &Path, value: AttributeValue) -> Result<(), AwsError> {
    match parent(item, path)? {
        Parent::Members(members, name) => {
            members.insert(name.to_owned(), value);
        }
        // Beyond the end is at the end.
        Parent::Elements(elements, at) if at >= elements.len() => elements.push(value),
        Parent::Elements(elements, at) => elements[at] = value,
    }
    Ok(())
}

fn remove(item: &mut Item, path: &Path) -> Result<(), AwsError> {
    match parent(item, path)? {
        Parent::Members(members, name) => {
            members.remove(name);
        }
        Parent::Elements(elements, at) if at < elements.len() => {
            elements.remove(at);
        }
        Parent::Elements(..) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::value::{item_from_json, item_to_json};
    use super::*;

    fn apply(text: &str, item: &Value) -> Result<Value, AwsError> {
        let names = [("#offset".to_owned(), "offset".to_owned())];
        let values = json!({
            ":one": { "N": "1" }, ":s": { "S": "s" }, ":set": { "SS": ["a", "b"] }, ":l": { "L": [{ "S": "x" }] },
        });
        let mut placeholders = Placeholders::read(
            Some(names.into()),
            values.as_object(),
            &[("UpdateExpression", &Some(text.to_owned()))],
        )?;
        let update = Update::parse(text, &mut placeholders)?;
        let item = item_from_json(item.as_object().expect("an object"))?;
        update.apply(&item).map(|item| item_to_json(&item))
    }

    #[track_caller]
    fn check(text: &str, item: Value, expected: Value) {
        assert_eq!(apply(text, &item).expect(text), expected, "{text}");
    }

    #[test]
    fn set() {
        check("SET a = :one", json!({}), json!({ "a": { "N": "1" } }));
        check("set a = a + :one", json!({ "a": { "N": "41" } }), json!({ "a": { "N": "42" } }));
        check("SET a = :one - a", json!({ "a": { "N": "3" } }), json!({ "a": { "N": "-2" } }));
        check(
            "SET #offset = if_not_exists(#offset, :one) + :one",
            json!({}),
            json!({ "offset": { "N": "2" } }),
        );
        check("SET a = if_not_exists(a, :one)", json!({ "a": { "S": "k" } }), json!({ "a": { "S": "k" } }));
        let list = json!({ "l": { "L": [{ "S": "w" }] } });
        check(
            "SET l = list_append(l, :l)",
            list.clone(),
            json!({ "l": { "L": [{ "S": "w" }, { "S": "x" }] } }),
        );
        check("SET l[7] = :s", list, json!({ "l": { "L": [{ "S": "w" }, { "S": "s" }] } }));
        check("SET m.x = :s", json!({ "m": { "M": {} } }), json!({ "m": { "M": { "x": { "S": "s" } } } }));
        // Operands are those before the update.
        let swapped = json!({ "a": { "N": "2" }, "b": { "N": "1" } });
        check("SET a = b, b = a", json!({ "a": { "N": "1" }, "b": { "N": "2" } }), swapped);
    }

    #[test]
    fn remove_add_delete() {
        check("REMOVE a, b", json!({ "a": { "N": "1" }, "c": { "N": "1" } }), json!({ "c": { "N": "1" } }));
        let list = json!({ "l": { "L": [{ "S": "0" }, { "S": "1" }, { "S": "2" }] } });
        check("REMOVE l[0], l[1]", list, json!({ "l": { "L": [{ "S": "2" }] } }));
        check("ADD a :one", json!({}), json!({ "a": { "N": "1" } }));
        check("ADD a :one", json!({ "a": { "N": "-1" } }), json!({ "a": { "N": "0" } }));
        check("ADD s :set", json!({ "s": { "SS": ["b", "c"] } }), json!({ "s": { "SS": ["a", "b", "c"] } }));
        check("DELETE s :set", json!({ "s": { "SS": ["b", "c"] } }), json!({ "s": { "SS": ["c"] } }));
        check("DELETE s :set", json!({ "s": { "SS": ["b"] } }), json!({}));
        let all = json!({ "a": { "N": "2" }, "b": { "S": "s" } });
        check("SET b = :s REMOVE c ADD a :one", json!({ "a": { "N": "1" }, "c": { "N": "1" } }), all);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let overlap = "Invalid UpdateExpression: Two document paths overlap with each other; must remove or \
                       rewrite one of these paths; path one: [a], path two: [a, x]";
        for (text, expected) in [
            (
                "SET a = absent",
                "The provided expression refers to an attribute that does not exist in the item",
            ),
            ("SET a = s + :one", "An operand in the update expression has an incorrect data type"),
            (
                "SET absent.x = :one",
                "The document path provided in the update expression is invalid for update",
            ),
            ("REMOVE absent.x", "The document path provided in the update expression is invalid for update"),
            ("SET a = :one, a.x = :s", overlap),
            (
                "SET a = :one SET b = :one",
                "Invalid UpdateExpression: The \"SET\" section can only be used once in an update expression;",
            ),
            ("SET a = :one,", "Invalid UpdateExpression: Syntax error; token: \"<EOF>\""),
            ("SET a :one", "Invalid UpdateExpression: Syntax error; token: \":one\""),
            ("SET a = :one + :one + :one", "Invalid UpdateExpression: Syntax error; token: \"+\""),
            ("PUT a = :one", "Invalid UpdateExpression: Syntax error; token: \"PUT\""),
            ("ADD a s", "Invalid UpdateExpression: Syntax error; token: \"s\""),
            (
                "ADD a :s",
                "Invalid UpdateExpression: Incorrect operand type for operator or function; operator: ADD",
            ),
            (
                "DELETE a :one",
                "Invalid UpdateExpression: Incorrect operand type for operator or function; operator",
            ),
            ("ADD s :one", "An operand in the update expression has an incorrect data type"),
            ("SET a = max(s, :one)", "Invalid UpdateExpression: Invalid function name; function: max"),
            ("SET offset = :one", "Invalid UpdateExpression: Attribute name is a reserved keyword"),
            ("SET a = :one + :s", "Invalid UpdateExpression: Incorrect operand type"),
        ] {
            let error = apply(text, &json!({ "s": { "S": "text" } })).expect_err(text);
            assert_eq!(error.code, "ValidationException");
            assert!(error.message.starts_with(expected), "{text}: {}", error.message);
        }
    }
}
