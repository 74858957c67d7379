//! Expressions: placeholders, tokens and names. [`condition`] and [`update`] contain the two grammars.
//!
//! The grammars cover the expressions that logferry uses: names of attributes, no paths into attributes. Anything else
//! is a `ValidationException`, as is a placeholder that is defined but not used, or used but not defined.

pub(super) mod condition;
pub(super) mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::reserved::is_reserved;
use super::validation;
use super::value::AttributeValue;
use crate::call::AwsError;

/// ExpressionAttributeNames and ExpressionAttributeValues, and which of them were used.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, AttributeValue>,
    used: BTreeSet<String>,
}

impl Placeholders {
    /// Reads both maps. `expressions` are the expressions of the request that may use the placeholders.
    pub(super) fn read(
        names: Option<BTreeMap<String, String>>,
        values: Option<&Map<String, Value>>,
        expressions: &[(&str, &Option<String>)],
    ) -> Result<Self, AwsError> {
        let given = [
            ("ExpressionAttributeNames", names.as_ref().map(BTreeMap::len)),
            ("ExpressionAttributeValues", values.map(Map::len)),
        ];
        for (member, entries) in given {
            match entries {
                Some(_) if expressions.iter().all(|(_, text)| text.is_none()) => {
                    let missing: Vec<_> = expressions.iter().map(|(name, _)| *name).collect();
                    let verb = if missing.len() > 1 { "are" } else { "is" };
                    return Err(validation(format!(
                        "{member} can only be specified when using expressions: {} {verb} null",
                        missing.join(" and ")
                    )));
                }
                Some(0) => return Err(validation(format!("{member} must not be empty"))),
                _ => {}
            }
        }
        let names = names.unwrap_or_default();
        check_keys("ExpressionAttributeNames", '#', names.keys())?;
        let values = values.cloned().unwrap_or_default();
        check_keys("ExpressionAttributeValues", ':', values.keys())?;
        let read = |(key, value): (String, Value)| match AttributeValue::from_json(&value) {
            Ok(value) => Ok((key, value)),
            Err(error) if error.code == "ValidationException" => Err(validation(format!(
                "ExpressionAttributeValues contains invalid value: {} for key {key}",
                error.message
            ))),
            Err(error) => Err(error),
        };
        let values = values.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { names, values, used: BTreeSet::new() })
    }

    /// Refuses placeholders that no expression used.
    pub(super) fn check_used(&self) -> Result<(), AwsError> {
        let unused = |member: &str, keys: Vec<&String>| {
            let keys: Vec<_> = keys.into_iter().filter(|key| !self.used.contains(*key)).cloned().collect();
            if keys.is_empty() {
                return Ok(());
            }
            let keys = keys.join(", ");
            Err(validation(format!("Value provided in {member} unused in expressions: keys: {{{keys}}}")))
        };
        unused("ExpressionAttributeNames", self.names.keys().collect())?;
        unused("ExpressionAttributeValues", self.values.keys().collect())
    }
}

fn check_keys<'a>(
    member: &str,
    sigil: char,
    mut keys: impl Iterator<Item = &'a String>,
) -> Result<(), AwsError> {
    let legal = |key: &str| {
        key.strip_prefix(sigil).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(is_word_byte))
    };
    match keys.find(|key| !legal(key)) {
        Some(key) => Err(validation(format!("{member} contains invalid key: Syntax error; key: \"{key}\""))),
        None => Ok(()),
    }
}

pub(super) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Cursor over the tokens of one expression: words, `#name`, `:value` and symbols.
struct Parser<'a> {
    /// Request member for error messages, for example `ConditionExpression`.
    member: &'static str,
    tokens: Vec<&'a str>,
    at: usize,
    placeholders: &'a mut Placeholders,
}

impl<'a> Parser<'a> {
    fn new(
        member: &'static str,
        text: &'a str,
        placeholders: &'a mut Placeholders,
    ) -> Result<Self, AwsError> {
        let mut tokens = Vec::new();
        let mut rest = text.trim_ascii_start();
        while let Some(first) = rest.chars().next() {
            let word =
                |from: usize| from + rest[from..].bytes().take_while(|byte| is_word_byte(*byte)).count();
            let length = match first {
                '#' | ':' => word(1),
                _ if is_word_byte(rest.as_bytes()[0]) => word(0),
                _ if ["<=", ">=", "<>"].iter().any(|symbol| rest.starts_with(symbol)) => 2,
                _ => first.len_utf8(),
            };
            tokens.push(&rest[..length]);
            rest = rest[length..].trim_ascii_start();
        }
        let parser = Self { member, tokens, at: 0, placeholders };
        match parser.tokens.is_empty() {
            true => Err(parser.error("The expression can not be empty;")),
            false => Ok(parser),
        }
    }

    fn error(&self, message: impl fmt::Display) -> AwsError {
        validation(format!("Invalid {}: {message}", self.member))
    }

    /// Error for the token at the cursor, or for the end of the expression.
    fn syntax_error(&self) -> AwsError {
        let token = self.peek().unwrap_or("<EOF>");
        // AWS shows one token on either side.
        let near = self.tokens[self.at.saturating_sub(1)..(self.at + 2).min(self.tokens.len())].join(" ");
        self.error(format_args!("Syntax error; token: \"{token}\", near: \"{near}\""))
    }

    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }

    /// Takes the next token if it is this symbol, or this keyword in any case.
    fn take(&mut self, token: &str) -> bool {
        let found = self.peek().is_some_and(|next| next.eq_ignore_ascii_case(token));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), AwsError> {
        if self.take(token) { Ok(()) } else { Err(self.syntax_error()) }
    }

    fn end(&self) -> Result<(), AwsError> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// Takes the name of an attribute, or its placeholder.
    fn name(&mut self) -> Result<String, AwsError> {
        let name = match self.peek() {
            Some(word) if is_reserved(word) => {
                return Err(self
                    .error(format_args!("Attribute name is a reserved keyword; reserved keyword: {word}")));
            }
            Some(placeholder) if placeholder.starts_with('#') => {
                let Some(name) = self.placeholders.names.get(placeholder) else {
                    return Err(self.error(format_args!(
                        "An expression attribute name used in the document path is not defined; \
                         attribute name: {placeholder}"
                    )));
                };
                self.placeholders.used.insert(placeholder.to_owned());
                name.clone()
            }
            Some(word) if word.starts_with(|first: char| first.is_ascii_alphabetic()) => word.to_owned(),
            _ => return Err(self.syntax_error()),
        };
        self.at += 1;
        Ok(name)
    }

    /// Takes a `:value` placeholder.
    fn value(&mut self) -> Result<AttributeValue, AwsError> {
        let placeholder = self.peek().filter(|token| token.starts_with(':'));
        let placeholder = placeholder.ok_or_else(|| self.syntax_error())?;
        let Some(value) = self.placeholders.values.get(placeholder) else {
            return Err(self.error(format_args!(
                "An expression attribute value used in expression is not defined; \
                 attribute value: {placeholder}"
            )));
        };
        self.placeholders.used.insert(placeholder.to_owned());
        self.at += 1;
        Ok(value.clone())
    }
}
