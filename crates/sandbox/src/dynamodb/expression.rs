//! Expressions: placeholders, tokens, document paths; [`condition`] and [`update`] hold the two grammars.
//!
//! What the grammars do not know is a `ValidationException`, never ignored; so is a placeholder that is given
//! but not used, or used but not given.

pub(super) mod condition;
pub(super) mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

use super::reserved::is_reserved;
use super::validation;
use super::value::{AttributeValue, Item};
use crate::call::AwsError;

/// ExpressionAttributeNames and ExpressionAttributeValues, and which of them were used.
#[derive(Debug, Default)]
pub(super) struct Placeholders {
    names: BTreeMap<String, String>,
    values: BTreeMap<String, AttributeValue>,
    used: BTreeSet<String>,
}

impl Placeholders {
    /// Reads both maps; `expressions` are those of the request that may use them.
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

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A place in an item: an attribute, and steps into it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) attribute: String,
    pub(super) steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Member(String),
    Element(usize),
}

impl Path {
    pub(super) fn find<'a>(&self, item: &'a Item) -> Option<&'a AttributeValue> {
        self.steps.iter().try_fold(item.get(&self.attribute)?, |value, step| match (value, step) {
            (AttributeValue::M(members), Step::Member(name)) => members.get(name),
            (AttributeValue::L(elements), Step::Element(at)) => elements.get(*at),
            _ => None,
        })
    }

    /// Whether one of the two lies within the other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.attribute == other.attribute && self.steps.iter().zip(&other.steps).all(|(a, b)| a == b)
    }
}

/// As AWS shows paths in its messages: `[a, b, [1]]`.
impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{}", self.attribute)?;
        for step in &self.steps {
            match step {
                Step::Member(name) => write!(formatter, ", {name}")?,
                Step::Element(at) => write!(formatter, ", [{at}]")?,
            }
        }
        formatter.write_str("]")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A bare word: an attribute's name, a function's or a keyword.
    Word(String),
    /// `#name`.
    Name(String),
    /// `:value`.
    Value(String),
    Index(usize),
    Symbol(&'static str),
}

/// Longer ones first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 15] = ["<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-", ".", "[", "]", "*"];

/// A cursor over the tokens of one expression, with what every grammar needs.
struct Parser<'a> {
    /// The request member, for messages: `ConditionExpression`.
    member: &'static str,
    text: &'a str,
    /// Tokens with the byte ranges they came from.
    tokens: Vec<(Token, std::ops::Range<usize>)>,
    at: usize,
    placeholders: &'a mut Placeholders,
}

impl<'a> Parser<'a> {
    fn new(
        member: &'static str,
        text: &'a str,
        placeholders: &'a mut Placeholders,
    ) -> Result<Self, AwsError> {
        let mut parser = Self { member, text, tokens: Vec::new(), at: 0, placeholders };
        let mut start = 0;
        while let Some(rest) = text.get(start..).filter(|rest| !rest.is_empty()) {
            if rest.starts_with([' ', '\t', '\n', '\r']) {
                start += 1;
                continue;
            }
            let (token, length) = token(rest).ok_or_else(|| {
                let end = start + rest.chars().next().map_or(0, char::len_utf8);
                parser.syntax_error_at(start..end)
            })?;
            parser.tokens.push((token, start..start + length));
            start += length;
        }
        if parser.tokens.is_empty() {
            return Err(parser.error("The expression can not be empty;"));
        }
        Ok(parser)
    }

    fn error(&self, message: impl fmt::Display) -> AwsError {
        validation(format!("Invalid {}: {message}", self.member))
    }

    /// The refusal of the token at the cursor, or of the end.
    fn syntax_error(&self) -> AwsError {
        match self.tokens.get(self.at) {
            Some((_, range)) => self.syntax_error_at(range.clone()),
            None => {
                let near = self.tokens.last().map_or("", |(_, range)| &self.text[range.clone()]);
                self.error(format_args!("Syntax error; token: \"<EOF>\", near: \"{near}\""))
            }
        }
    }

    fn syntax_error_at(&self, range: std::ops::Range<usize>) -> AwsError {
        // One token to either side is shown, as AWS does.
        let before = self.tokens.iter().rev().find(|(_, other)| other.end <= range.start);
        let after = self.tokens.iter().find(|(_, other)| other.start >= range.end);
        let start = before.map_or(range.start, |(_, other)| other.start);
        let end = after.map_or(range.end, |(_, other)| other.end);
        let (token, near) = (&self.text[range], &self.text[start..end]);
        self.error(format_args!("Syntax error; token: \"{token}\", near: \"{near}\""))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn peek_is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol)
    }

    fn take(&mut self, symbol: &str) -> bool {
        let found = self.peek_is(symbol);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str) -> Result<(), AwsError> {
        if self.take(symbol) { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// Whether the cursor is at the keyword, in whatever case.
    fn peek_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword))
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = self.peek_keyword(keyword);
        self.at += usize::from(found);
        found
    }

    fn end(&self) -> Result<(), AwsError> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(self.syntax_error()) }
    }

    /// Takes the name of a function and its opening parenthesis, if they come next.
    fn take_function(&mut self) -> Option<String> {
        let Some(Token::Word(word)) = self.peek() else { return None };
        let name = word.clone();
        let opens = matches!(self.tokens.get(self.at + 1), Some((Token::Symbol("("), _)));
        // `NOT (...)` and `IN (...)` are no calls.
        let keyword =
            ["NOT", "AND", "OR", "IN", "BETWEEN"].iter().any(|word| name.eq_ignore_ascii_case(word));
        if !opens || keyword {
            return None;
        }
        self.at += 2;
        Some(name)
    }

    fn path(&mut self) -> Result<Path, AwsError> {
        let attribute = self.name()?;
        let mut steps = Vec::new();
        loop {
            if self.take(".") {
                steps.push(Step::Member(self.name()?));
            } else if self.take("[") {
                let Some(Token::Index(at)) = self.peek() else { return Err(self.syntax_error()) };
                steps.push(Step::Element(*at));
                self.at += 1;
                self.expect("]")?;
            } else {
                return Ok(Path { attribute, steps });
            }
        }
    }

    fn name(&mut self) -> Result<String, AwsError> {
        let name = match self.peek() {
            Some(Token::Word(word)) if is_reserved(word) => {
                return Err(self
                    .error(format_args!("Attribute name is a reserved keyword; reserved keyword: {word}")));
            }
            Some(Token::Word(word)) => word.clone(),
            Some(Token::Name(placeholder)) => {
                let Some(name) = self.placeholders.names.get(placeholder) else {
                    return Err(self.error(format_args!(
                        "An expression attribute name used in the document path is not defined; \
                         attribute name: {placeholder}"
                    )));
                };
                self.placeholders.used.insert(placeholder.clone());
                name.clone()
            }
            _ => return Err(self.syntax_error()),
        };
        self.at += 1;
        Ok(name)
    }

    /// Takes a `:value`, if one comes next.
    fn take_value(&mut self) -> Result<Option<AttributeValue>, AwsError> {
        let Some(Token::Value(placeholder)) = self.peek() else { return Ok(None) };
        let Some(value) = self.placeholders.values.get(placeholder) else {
            return Err(self.error(format_args!(
                "An expression attribute value used in expression is not defined; \
                 attribute value: {placeholder}"
            )));
        };
        self.placeholders.used.insert(placeholder.clone());
        let value = value.clone();
        self.at += 1;
        Ok(Some(value))
    }
}

/// The token that the text begins with and its length.
fn token(text: &str) -> Option<(Token, usize)> {
    let word_length = |text: &str| text.bytes().take_while(|byte| is_word_byte(*byte)).count();
    let first = text.chars().next()?;
    match first {
        '#' | ':' => {
            let length = 1 + word_length(&text[1..]);
            let placeholder = text[..length].to_owned();
            let token = if first == '#' { Token::Name(placeholder) } else { Token::Value(placeholder) };
            (length > 1).then_some((token, length))
        }
        'a'..='z' | 'A'..='Z' => {
            let length = word_length(text);
            Some((Token::Word(text[..length].to_owned()), length))
        }
        '0'..='9' => {
            let length = word_length(text);
            Some((Token::Index(text[..length].parse().ok()?), length))
        }
        _ => {
            let symbol = SYMBOLS.into_iter().find(|symbol| text.starts_with(symbol))?;
            Some((Token::Symbol(symbol), symbol.len()))
        }
    }
}
