//! Conditions: ConditionExpression and FilterExpression, and the syntax of KeyConditionExpression.

use super::super::value::{AttributeValue, Item};
use super::{Parser, Placeholders};
use crate::call::AwsError;

/// A parsed condition with the values of its placeholders.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Condition {
    Compare(String, Comparator, AttributeValue),
    Exists(String),
    NotExists(String),
    BeginsWith(String, AttributeValue),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Comparator {
    Equal,
    Less,
    LessOrEqual,
}

impl Condition {
    pub(in super::super) fn parse(
        member: &'static str,
        text: &str,
        placeholders: &mut Placeholders,
    ) -> Result<Self, AwsError> {
        let mut parser = ConditionParser { parser: Parser::new(member, text, placeholders)?, group: None };
        let condition = parser.either()?;
        parser.parser.end()?;
        Ok(condition)
    }

    /// Returns whether the item meets the condition. A missing item counts as an empty one.
    ///
    /// On a missing attribute every comparison and function is false, except attribute_not_exists.
    pub(in super::super) fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Compare(name, Comparator::Equal, value) => item.get(name) == Some(value),
            Self::Compare(name, comparator, value) => {
                let order = item.get(name).and_then(|present| present.order(value));
                order.is_some_and(|order| match comparator {
                    Comparator::LessOrEqual => order.is_le(),
                    _ => order.is_lt(),
                })
            }
            Self::Exists(name) => item.contains_key(name),
            Self::NotExists(name) => !item.contains_key(name),
            Self::BeginsWith(name, prefix) => item.get(name).is_some_and(|value| value.begins_with(prefix)),
            Self::Not(inner) => !inner.holds(item),
            Self::And(left, right) => left.holds(item) && right.holds(item),
            Self::Or(left, right) => left.holds(item) || right.holds(item),
        }
    }
}

struct ConditionParser<'a> {
    parser: Parser<'a>,
    /// Positions of the parentheses of the last parsed group, to refuse double parentheses as AWS does.
    group: Option<(usize, usize)>,
}

impl ConditionParser<'_> {
    fn either(&mut self) -> Result<Condition, AwsError> {
        let mut left = self.both()?;
        while self.parser.take("OR") {
            left = Condition::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Condition, AwsError> {
        let mut left = self.negation()?;
        while self.parser.take("AND") {
            left = Condition::And(Box::new(left), Box::new(self.negation()?));
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Condition, AwsError> {
        if self.parser.take("NOT") {
            return Ok(Condition::Not(Box::new(self.negation()?)));
        }
        let open = self.parser.at;
        if !self.parser.take("(") {
            return self.simple();
        }
        let inner = self.either()?;
        let close = self.parser.at;
        self.parser.expect(")")?;
        if self.group == Some((open + 1, close - 1)) {
            return Err(self.parser.error("The expression has redundant parentheses;"));
        }
        self.group = Some((open, close));
        Ok(inner)
    }

    fn simple(&mut self) -> Result<Condition, AwsError> {
        let parser = &mut self.parser;
        if parser.tokens.get(parser.at + 1) == Some(&"(") {
            return self.function();
        }
        let name = parser.name()?;
        let symbol = parser.peek().unwrap_or_default();
        let comparator = match symbol {
            "=" => Comparator::Equal,
            "<" => Comparator::Less,
            "<=" => Comparator::LessOrEqual,
            _ => return Err(parser.syntax_error()),
        };
        parser.at += 1;
        let value = parser.value()?;
        if comparator != Comparator::Equal && value.order(&value).is_none() {
            return Err(wrong_type(parser, "operator", symbol, &value));
        }
        Ok(Condition::Compare(name, comparator, value))
    }

    fn function(&mut self) -> Result<Condition, AwsError> {
        let parser = &mut self.parser;
        let function = parser.peek().unwrap_or_default();
        if !["attribute_exists", "attribute_not_exists", "begins_with"].contains(&function) {
            return Err(parser.error(format_args!("Invalid function name; function: {function}")));
        }
        parser.at += 2;
        let name = parser.name()?;
        let condition = match function {
            "attribute_exists" => Condition::Exists(name),
            "attribute_not_exists" => Condition::NotExists(name),
            _ => {
                parser.expect(",")?;
                let prefix = parser.value()?;
                if !matches!(prefix, AttributeValue::S(_) | AttributeValue::B(_)) {
                    return Err(wrong_type(parser, "operator or function", function, &prefix));
                }
                Condition::BeginsWith(name, prefix)
            }
        };
        parser.expect(")")?;
        Ok(condition)
    }
}

fn wrong_type(parser: &Parser<'_>, role: &str, name: &str, value: &AttributeValue) -> AwsError {
    parser.error(format_args!(
        "Incorrect operand type for operator or function; {role}: {name}, operand type: {}",
        value.kind()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::value::item_from_json;
    use super::*;

    fn parse(text: &str) -> Result<Condition, AwsError> {
        let names = [("#t", "type"), ("#d", "a.b")].map(|(key, name)| (key.to_owned(), name.to_owned()));
        let values = json!({
            ":one": { "N": "1" }, ":two": { "N": "02" }, ":a": { "S": "a" }, ":abc": { "S": "abc" },
            ":true": { "BOOL": true },
        });
        let mut placeholders = Placeholders::read(
            Some(names.into()),
            values.as_object(),
            &[("ConditionExpression", &Some(text.to_owned()))],
        )?;
        Condition::parse("ConditionExpression", text, &mut placeholders)
    }

    #[track_caller]
    fn check(text: &str, expected: bool) {
        let item = json!({
            "n": { "N": "1" }, "m": { "N": "10" }, "s": { "S": "abc" }, "type": { "S": "a" },
            "a.b": { "S": "dotted" }, "flag": { "BOOL": true },
        });
        let item = item_from_json(item.as_object().expect("an object")).expect("valid");
        assert_eq!(parse(text).expect(text).holds(&item), expected, "{text}");
    }

    #[test]
    fn only_values_of_one_type_are_compared() {
        check("n = :one", true);
        check("n < :two AND NOT m < :two", true);
        check("n <= :one and NOT n < :one", true);
        check("s = :abc", true);
        check("s < :one", false);
        check("#t = :a", true);
        check("flag = :true", true);
        check("absent = :one", false);
        check("absent < :one", false);
        check("NOT absent < :one", true);
    }

    #[test]
    fn functions_examine_one_attribute() {
        check("attribute_exists(s)", true);
        check("attribute_exists(#d)", true);
        check("attribute_not_exists(absent)", true);
        check("begins_with(s, :a)", true);
        check("begins_with(n, :a)", false);
    }

    #[test]
    fn operators_bind_in_the_order_not_and_or() {
        check("n = :one OR n = :two AND n = :two", true);
        check("(n = :one OR n = :two) AND n = :two", false);
        check("NOT n = :two AND n = :one", true);
        check("NOT (n = :one OR n = :two)", false);
        check("NOT NOT n = :one", true);
    }

    #[test]
    fn expressions_outside_the_grammar_are_refused() {
        let reserved = "Attribute name is a reserved keyword; reserved keyword: type";
        let no_value = "An expression attribute value used in expression is not defined; attribute value: :z";
        let no_name =
            "An expression attribute name used in the document path is not defined; attribute name: #x";
        let wrong_type = "Incorrect operand type for operator or function; \
                          operator or function: begins_with, operand type: N";
        let no_order = "Incorrect operand type for operator or function; operator: <, operand type: BOOL";
        for (text, expected) in [
            ("", "The expression can not be empty;"),
            ("  ", "The expression can not be empty;"),
            ("n", "Syntax error; token: \"<EOF>\", near: \"n\""),
            ("n = ", "Syntax error; token: \"<EOF>\", near: \"=\""),
            ("n == :one", "Syntax error; token: \"=\", near: \"= = :one\""),
            ("n = :one n = :two", "Syntax error; token: \"n\""),
            ("n = :one;", "Syntax error; token: \";\", near: \":one ;\""),
            ("n = 1", "Syntax error; token: \"1\""),
            ("n = 'a'", "Syntax error; token: \"'\""),
            ("_n = :one", "Syntax error; token: \"_n\""),
            ("n = \u{e9}", "Syntax error; token: \"\u{e9}\""),
            ("n <> :one", "Syntax error; token: \"<>\""),
            ("a.b = :one", "Syntax error; token: \".\""),
            ("(n = :one", "Syntax error; token: \"<EOF>\""),
            ("n = :one AND", "Syntax error; token: \"<EOF>\""),
            ("((n = :one))", "The expression has redundant parentheses;"),
            ("type = :a", reserved),
            ("n = :z", no_value),
            ("#x = :one", no_name),
            ("starts_with(s, :a)", "Invalid function name; function: starts_with"),
            ("BEGINS_WITH(s, :a)", "Invalid function name; function: BEGINS_WITH"),
            ("begins_with(s)", "Syntax error; token: \")\""),
            ("begins_with(s, :one)", wrong_type),
            ("attribute_exists(:a)", "Syntax error; token: \":a\""),
            ("n < :true", no_order),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.code, "ValidationException");
            let expected = format!("Invalid ConditionExpression: {expected}");
            assert!(error.message.starts_with(&expected), "{text}: {}", error.message);
        }
    }
}
