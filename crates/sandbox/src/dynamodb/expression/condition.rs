//! Conditions: ConditionExpression and FilterExpression, and the tree that KeyConditionExpression is read from.

use super::super::number::Number;
use super::super::value::{AttributeValue, Item};
use super::{Parser, Path, Placeholders, Token};
use crate::call::AwsError;

/// Most operands of one `IN`.
const MAX_IN_OPERANDS: usize = 100;

/// A condition, parsed and with its placeholders filled in.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Condition {
    Compare(Operand, Comparator, Operand),
    Between(Operand, Operand, Operand),
    In(Operand, Vec<Operand>),
    Exists(Path),
    NotExists(Path),
    HasType(Path, String),
    BeginsWith(Operand, Operand),
    Contains(Operand, Operand),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

#[derive(Clone, Debug, PartialEq)]
pub(in super::super) enum Operand {
    Value(AttributeValue),
    Path(Path),
    Size(Path),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Comparator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparator {
    fn of(token: Option<&Token>) -> Option<(Self, &'static str)> {
        let Some(Token::Symbol(symbol)) = token else { return None };
        let comparator = match *symbol {
            "=" => Self::Equal,
            "<>" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        };
        Some((comparator, symbol))
    }

    pub(in super::super) fn holds(self, left: &AttributeValue, right: &AttributeValue) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left.order(right).is_some_and(|order| order.is_lt()),
            Self::LessOrEqual => left.order(right).is_some_and(|order| order.is_le()),
            Self::Greater => left.order(right).is_some_and(|order| order.is_gt()),
            Self::GreaterOrEqual => left.order(right).is_some_and(|order| order.is_ge()),
        }
    }
}

impl Operand {
    fn attribute(&self) -> Option<&str> {
        match self {
            Self::Value(_) => None,
            Self::Path(path) | Self::Size(path) => Some(&path.attribute),
        }
    }

    fn evaluate(&self, item: &Item) -> Option<AttributeValue> {
        match self {
            Self::Value(value) => Some(value.clone()),
            Self::Path(path) => path.find(item).cloned(),
            Self::Size(path) => {
                path.find(item)?.length().map(|size| AttributeValue::N(Number::from_usize(size)))
            }
        }
    }
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

    /// Whether the item meets the condition; an item that does not exist is an empty one.
    ///
    /// What an operand names but the item lacks meets nothing except `<>` and attribute_not_exists.
    pub(in super::super) fn holds(&self, item: &Item) -> bool {
        match self {
            Self::Compare(left, comparator, right) => match (left.evaluate(item), right.evaluate(item)) {
                (Some(left), Some(right)) => comparator.holds(&left, &right),
                _ => *comparator == Comparator::NotEqual,
            },
            Self::Between(operand, low, high) => {
                let (operand, low, high) = (operand.evaluate(item), low.evaluate(item), high.evaluate(item));
                operand.zip(low).zip(high).is_some_and(|((operand, low), high)| {
                    Comparator::GreaterOrEqual.holds(&operand, &low)
                        && Comparator::LessOrEqual.holds(&operand, &high)
                })
            }
            Self::In(operand, choices) => operand.evaluate(item).is_some_and(|operand| {
                choices.iter().any(|choice| choice.evaluate(item).as_ref() == Some(&operand))
            }),
            Self::Exists(path) => path.find(item).is_some(),
            Self::NotExists(path) => path.find(item).is_none(),
            Self::HasType(path, kind) => path.find(item).is_some_and(|value| value.kind() == kind),
            Self::BeginsWith(operand, prefix) => {
                let operands = operand.evaluate(item).zip(prefix.evaluate(item));
                operands.is_some_and(|(operand, prefix)| operand.begins_with(&prefix))
            }
            Self::Contains(operand, part) => {
                let operands = operand.evaluate(item).zip(part.evaluate(item));
                operands.is_some_and(|(operand, part)| operand.contains(&part))
            }
            Self::Not(inner) => !inner.holds(item),
            Self::And(left, right) => left.holds(item) && right.holds(item),
            Self::Or(left, right) => left.holds(item) || right.holds(item),
        }
    }

    /// The top-level attributes that the condition reads.
    pub(in super::super) fn attributes(&self) -> Vec<&str> {
        let operands: Vec<&Operand> = match self {
            Self::Compare(left, _, right) | Self::BeginsWith(left, right) | Self::Contains(left, right) => {
                vec![left, right]
            }
            Self::Between(operand, low, high) => vec![operand, low, high],
            Self::In(operand, choices) => std::iter::once(operand).chain(choices).collect(),
            Self::Exists(path) | Self::NotExists(path) | Self::HasType(path, _) => {
                return vec![&path.attribute];
            }
            Self::Not(inner) => return inner.attributes(),
            Self::And(left, right) | Self::Or(left, right) => {
                return [left.attributes(), right.attributes()].concat();
            }
        };
        operands.into_iter().filter_map(Operand::attribute).collect()
    }
}

struct ConditionParser<'a> {
    parser: Parser<'a>,
    /// Places of the parentheses of the group parsed last, to refuse doubled ones as AWS does.
    group: Option<(usize, usize)>,
}

impl ConditionParser<'_> {
    fn either(&mut self) -> Result<Condition, AwsError> {
        let mut left = self.both()?;
        while self.parser.take_keyword("OR") {
            left = Condition::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Condition, AwsError> {
        let mut left = self.negation()?;
        while self.parser.take_keyword("AND") {
            left = Condition::And(Box::new(left), Box::new(self.negation()?));
        }
        Ok(left)
    }

    fn negation(&mut self) -> Result<Condition, AwsError> {
        if self.parser.take_keyword("NOT") {
            return Ok(Condition::Not(Box::new(self.negation()?)));
        }
        if self.parser.peek_is("(") { self.group() } else { self.simple() }
    }

    fn group(&mut self) -> Result<Condition, AwsError> {
        let open = self.parser.at;
        self.parser.expect("(")?;
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
        let start = self.parser.at;
        match self.parser.take_function() {
            Some(name) if name != "size" => return self.function(&name),
            _ => self.parser.at = start,
        }
        let left = self.operand()?;
        if let Some((comparator, symbol)) = Comparator::of(self.parser.peek()) {
            self.parser.at += 1;
            let right = self.operand()?;
            if !matches!(comparator, Comparator::Equal | Comparator::NotEqual) {
                self.check_ordered(symbol, &[&left, &right])?;
            }
            self.check_distinct("operator", symbol, &left, &right)?;
            return Ok(Condition::Compare(left, comparator, right));
        }
        if self.parser.take_keyword("BETWEEN") {
            let low = self.operand()?;
            if !self.parser.take_keyword("AND") {
                return Err(self.parser.syntax_error());
            }
            let high = self.operand()?;
            self.check_ordered("BETWEEN", &[&left, &low, &high])?;
            self.check_bounds(&low, &high)?;
            return Ok(Condition::Between(left, low, high));
        }
        if self.parser.take_keyword("IN") {
            self.parser.expect("(")?;
            let choices = self.operands()?;
            if choices.len() > MAX_IN_OPERANDS {
                return Err(self.parser.error(format_args!(
                    "The IN operator is provided with too many operands; number of operands: {}",
                    choices.len()
                )));
            }
            return Ok(Condition::In(left, choices));
        }
        if matches!(left, Operand::Size(_)) && self.parser.end().is_ok() {
            let message = "The function is not allowed to be used this way in an expression; function: size";
            return Err(self.parser.error(message));
        }
        Err(self.parser.syntax_error())
    }

    fn function(&mut self, name: &str) -> Result<Condition, AwsError> {
        let known = ["attribute_exists", "attribute_not_exists", "attribute_type", "begins_with", "contains"];
        if !known.contains(&name) {
            return Err(self.parser.error(format_args!("Invalid function name; function: {name}")));
        }
        let mut operands = self.operands()?.into_iter();
        let count = operands.len();
        match (name, operands.next(), operands.next(), operands.next()) {
            ("attribute_exists", Some(operand), None, _) => {
                self.document(name, operand).map(Condition::Exists)
            }
            ("attribute_not_exists", Some(operand), None, _) => {
                self.document(name, operand).map(Condition::NotExists)
            }
            ("attribute_type", Some(operand), Some(Operand::Value(AttributeValue::S(kind))), None) => {
                if !["S", "N", "B", "BOOL", "NULL", "L", "M", "SS", "NS", "BS"].contains(&kind.as_str()) {
                    let message = format_args!("Invalid attribute type name found; type: {kind}");
                    return Err(self.parser.error(message));
                }
                self.document(name, operand).map(|path| Condition::HasType(path, kind))
            }
            ("attribute_type", Some(_), Some(Operand::Value(value)), None) => {
                Err(self.wrong_type("operator or function", name, value.kind()))
            }
            ("begins_with", Some(operand), Some(prefix), None) => {
                for operand in [&operand, &prefix] {
                    if let Operand::Value(value) = operand
                        && !matches!(value, AttributeValue::S(_) | AttributeValue::B(_))
                    {
                        return Err(self.wrong_type("operator or function", name, value.kind()));
                    }
                }
                self.check_distinct("operator or function", name, &operand, &prefix)?;
                Ok(Condition::BeginsWith(operand, prefix))
            }
            ("contains", Some(operand), Some(part), None) => {
                self.check_distinct("operator or function", name, &operand, &part)?;
                Ok(Condition::Contains(operand, part))
            }
            _ => Err(self.parser.error(format_args!(
                "Incorrect number of operands for operator or function; \
                 operator or function: {name}, number of operands: {count}"
            ))),
        }
    }

    /// Operands up to the closing parenthesis.
    fn operands(&mut self) -> Result<Vec<Operand>, AwsError> {
        let mut operands = vec![self.operand()?];
        while self.parser.take(",") {
            operands.push(self.operand()?);
        }
        self.parser.expect(")")?;
        Ok(operands)
    }

    fn operand(&mut self) -> Result<Operand, AwsError> {
        if let Some(value) = self.parser.take_value()? {
            return Ok(Operand::Value(value));
        }
        match self.parser.take_function().as_deref() {
            Some("size") => {
                let path = self.parser.path()?;
                self.parser.expect(")")?;
                Ok(Operand::Size(path))
            }
            Some(name) => Err(self.parser.error(format_args!("Invalid function name; function: {name}"))),
            None => self.parser.path().map(Operand::Path),
        }
    }

    fn document(&self, function: &str, operand: Operand) -> Result<Path, AwsError> {
        match operand {
            Operand::Path(path) => Ok(path),
            _ => Err(self.parser.error(format_args!(
                "Operator or function requires a document path; operator or function: {function}"
            ))),
        }
    }

    fn wrong_type(&self, role: &str, name: &str, kind: &str) -> AwsError {
        self.parser.error(format_args!(
            "Incorrect operand type for operator or function; {role}: {name}, operand type: {kind}"
        ))
    }

    /// Refuses literals that have no order.
    fn check_ordered(&self, operator: &str, operands: &[&Operand]) -> Result<(), AwsError> {
        for operand in operands {
            if let Operand::Value(value) = operand
                && value.order(value).is_none()
            {
                return Err(self.wrong_type("operator", operator, value.kind()));
            }
        }
        Ok(())
    }

    fn check_distinct(
        &self,
        role: &str,
        name: &str,
        left: &Operand,
        right: &Operand,
    ) -> Result<(), AwsError> {
        match (left, right) {
            (Operand::Path(left), Operand::Path(right)) if left == right => {
                Err(self.parser.error(format_args!(
                    "The first operand must be distinct from the remaining operands for this operator or \
                     function; {role}: {name}, first operand: {left}"
                )))
            }
            _ => Ok(()),
        }
    }

    fn check_bounds(&self, low: &Operand, high: &Operand) -> Result<(), AwsError> {
        let (Operand::Value(low), Operand::Value(high)) = (low, high) else { return Ok(()) };
        let rule = match low.order(high) {
            Some(order) if order.is_le() => return Ok(()),
            Some(_) => "upper bound to be greater than or equal to lower bound",
            None => "same data type for lower and upper bounds",
        };
        Err(self.parser.error(format_args!(
            "The BETWEEN operator requires {rule}; lower bound operand: AttributeValue: {}, \
             upper bound operand: AttributeValue: {}",
            low.to_json(),
            high.to_json()
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::value::item_from_json;
    use super::*;

    fn parse(text: &str) -> Result<Condition, AwsError> {
        let names = [("#t", "type"), ("#d", "a.b")].map(|(key, name)| (key.to_owned(), name.to_owned()));
        let values = json!({
            ":one": { "N": "1" }, ":two": { "N": "2.0" }, ":a": { "S": "a" }, ":abc": { "S": "abc" },
            ":true": { "BOOL": true }, ":kind": { "S": "SS" },
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
            "a.b": { "S": "dotted" }, "flag": { "BOOL": true }, "apps": { "SS": ["a", "b"] },
            "l": { "L": [{ "N": "1" }, { "M": { "x": { "N": "2" } } }] },
        });
        let item = item_from_json(item.as_object().expect("an object")).expect("valid");
        assert_eq!(parse(text).expect(text).holds(&item), expected, "{text}");
    }

    #[test]
    fn comparisons() {
        check("n = :one", true);
        check("n <> :one", false);
        check("n < :two AND m > :two", true);
        check("n >= :one and n <= :one", true);
        check("n < m", true);
        check("s = :abc", true);
        check("s > :one", false);
        check("#t = :a", true);
        check("flag = :true", true);
        check("absent = :one", false);
        check("absent < :one", false);
        check("absent <> :one", true);
        check("n BETWEEN :one AND :two", true);
        check("m between :one and :two AND n = :one", false);
        check("n IN (:two, :a, :one)", true);
        check("n IN (:two)", false);
        check("l[0] = :one AND l[1].x = :two", true);
        check("l[2] = :one", false);
    }

    #[test]
    fn functions() {
        check("attribute_exists(s)", true);
        check("attribute_exists(#d)", true);
        check("attribute_exists(a.b)", false);
        check("attribute_not_exists(absent)", true);
        check("attribute_type(apps, :kind)", true);
        check("begins_with(s, :a)", true);
        check("begins_with(n, :a)", false);
        check("contains(s, :a)", true);
        check("contains(apps, :a)", true);
        check("contains(apps, :abc)", false);
        check("contains(l, :one)", true);
        check("size(apps) = :two", true);
        check("size(n) = :one", false);
    }

    #[test]
    fn precedence_is_not_and_or() {
        check("n = :one OR n = :two AND n = :two", true);
        check("(n = :one OR n = :two) AND n = :two", false);
        check("NOT n = :two AND n = :one", true);
        check("NOT (n = :one OR n = :two)", false);
        check("NOT NOT n = :one", true);
    }

    #[test]
    fn what_the_grammar_does_not_know_is_refused() {
        let reserved = "Attribute name is a reserved keyword; reserved keyword: type";
        let no_value = "An expression attribute value used in expression is not defined; attribute value: :z";
        let no_name =
            "An expression attribute name used in the document path is not defined; attribute name: #x";
        let arity = "Incorrect number of operands for operator or function; \
                     operator or function: begins_with, number of operands: 1";
        let wrong_type = "Incorrect operand type for operator or function; \
                          operator or function: begins_with, operand type: N";
        let no_path = "Operator or function requires a document path; operator or function: attribute_exists";
        let no_order = "Incorrect operand type for operator or function; operator: <, operand type: BOOL";
        let size = "The function is not allowed to be used this way in an expression; function: size";
        for (text, expected) in [
            ("", "The expression can not be empty;"),
            ("  ", "The expression can not be empty;"),
            ("n", "Syntax error; token: \"<EOF>\", near: \"n\""),
            ("n = ", "Syntax error; token: \"<EOF>\", near: \"=\""),
            ("n == :one", "Syntax error; token: \"=\", near: \"== :one\""),
            ("n = :one n = :two", "Syntax error; token: \"n\""),
            ("n = :one;", "Syntax error; token: \";\", near: \":one;\""),
            ("n = 1", "Syntax error; token: \"1\""),
            ("n = 'a'", "Syntax error; token: \"'\""),
            ("_n = :one", "Syntax error; token: \"_\""),
            ("n = \u{e9}", "Syntax error; token: \"\u{e9}\""),
            ("(n = :one", "Syntax error; token: \"<EOF>\""),
            ("n = :one AND", "Syntax error; token: \"<EOF>\""),
            ("n BETWEEN :one", "Syntax error; token: \"<EOF>\""),
            ("n IN ()", "Syntax error; token: \")\""),
            ("((n = :one))", "The expression has redundant parentheses;"),
            ("type = :a", reserved),
            ("n = :z", no_value),
            ("#x = :one", no_name),
            ("starts_with(s, :a)", "Invalid function name; function: starts_with"),
            ("BEGINS_WITH(s, :a)", "Invalid function name; function: BEGINS_WITH"),
            ("begins_with(s)", arity),
            ("begins_with(s, :one)", wrong_type),
            ("attribute_exists(:a)", no_path),
            ("n < :true", no_order),
            ("n = n", "The first operand must be distinct"),
            ("n BETWEEN :two AND :one", "The BETWEEN operator requires upper bound"),
            ("n BETWEEN :one AND :a", "The BETWEEN operator requires same data type"),
            ("size(s)", size),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.code, "ValidationException");
            let expected = format!("Invalid ConditionExpression: {expected}");
            assert!(error.message.starts_with(&expected), "{text}: {}", error.message);
        }
    }
}
