//! The grammar of the statements: INSERT of one item, and UPDATE of one item whose key the WHERE clause names.

use super::super::expression::is_word_byte;
use super::super::expression::update::Update;
use super::super::reserved::is_reserved;
use super::super::validation;
use super::super::value::{AttributeValue, Item};
use crate::call::AwsError;

/// A parsed statement with the values of its parameters.
#[derive(Debug, PartialEq)]
pub(super) struct Statement {
    pub(super) table: String,
    pub(super) change: Change,
}

#[derive(Debug, PartialEq)]
pub(super) enum Change {
    Insert(Item),
    /// The update, and the equalities of the WHERE clause, those of the key among them.
    Update(Update, Vec<(String, AttributeValue)>),
}

impl Statement {
    /// # Errors
    /// 501 for a statement that the sandbox does not implement; `ValidationException` for any other that is not in the
    /// grammar.
    pub(super) fn parse(text: &str, parameters: Vec<AttributeValue>) -> Result<Self, AwsError> {
        let parameters = parameters.into_iter();
        let mut parser = Parser { tokens: tokens(text)?.into_iter().peekable(), parameters };
        let statement = if parser.take("INSERT") {
            parser.insert()?
        } else if parser.take("UPDATE") {
            parser.update()?
        } else {
            return Err(parser.refusal(&["SELECT", "DELETE", "EXISTS"], "Expected data manipulation"));
        };
        if parser.tokens.peek().is_some() {
            return Err(parser.refusal(&["RETURNING"], "Unexpected term"));
        }
        match parser.parameters.next() {
            None => Ok(statement),
            Some(_) => Err(wrong_number_of_parameters()),
        }
    }

    /// The permission that the statement needs.
    pub(super) fn action(&self) -> &'static str {
        match self.change {
            Change::Insert(_) => "PartiQLInsert",
            Change::Update(..) => "PartiQLUpdate",
        }
    }
}

/// Cursor over the tokens of one statement, and over its parameters.
struct Parser<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<&'a str>>,
    parameters: std::vec::IntoIter<AttributeValue>,
}

/// Splits a statement into words, quoted texts with their quotes, and symbols.
fn tokens(text: &str) -> Result<Vec<&str>, AwsError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_ascii_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => 2 + rest[1..].find(first).ok_or_else(|| malformed("Unclosed quotation mark"))?,
            _ if is_word_byte(rest.as_bytes()[0]) => {
                rest.bytes().take_while(|byte| is_word_byte(*byte)).count()
            }
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_ascii_start();
    }
    Ok(tokens)
}

impl Parser<'_> {
    /// Reads `INTO table VALUE {'name': ?, ...}`.
    fn insert(&mut self) -> Result<Statement, AwsError> {
        self.expect("INTO")?;
        let table = self.name()?;
        self.expect("VALUE")?;
        self.expect("{")?;
        let mut item = Item::new();
        loop {
            let name = self.quoted('\'')?;
            self.expect(":")?;
            let value = self.value()?;
            if item.contains_key(&name) {
                return Err(validation(format!("Duplicate keys in tuple. Key: {name} under root")));
            }
            item.insert(name, value);
            if !self.take(",") {
                break;
            }
        }
        self.expect("}")?;
        Ok(Statement { table, change: Change::Insert(item) })
    }

    /// Reads `table SET name = ? REMOVE name ... WHERE name = ? AND ...`.
    ///
    /// Several SET clauses are the form of the developer guide's page about UPDATE, and `SET a = ?, b = ?` is the form of its
    /// page about batches. Its syntax has one path after REMOVE.
    fn update(&mut self) -> Result<Statement, AwsError> {
        let table = self.name()?;
        let mut update = Update::default();
        loop {
            if self.take("SET") {
                loop {
                    let name = self.name()?;
                    self.expect("=")?;
                    let value = self.value()?;
                    update.add(name, Some(value)).map_err(validation)?;
                    if !self.take(",") {
                        break;
                    }
                }
            } else if self.take("REMOVE") {
                let name = self.name()?;
                update.add(name, None).map_err(validation)?;
            } else {
                break;
            }
        }
        if update.names().next().is_none() {
            return Err(self.refusal(&[], "Expected SET or REMOVE"));
        }
        let mut equalities = Vec::new();
        if self.take("WHERE") {
            loop {
                let name = self.name()?;
                self.expect("=")?;
                equalities.push((name, self.value()?));
                if !self.take("AND") {
                    break;
                }
            }
        }
        Ok(Statement { table, change: Change::Update(update, equalities) })
    }

    /// Takes the next token if it is this symbol, or this keyword in any case.
    fn take(&mut self, token: &str) -> bool {
        self.tokens.next_if(|next| next.eq_ignore_ascii_case(token)).is_some()
    }

    fn expect(&mut self, token: &str) -> Result<(), AwsError> {
        if self.take(token) { Ok(()) } else { Err(self.refusal(&[], &format!("Expected {token}"))) }
    }

    /// Takes the name of a table or an attribute: an identifier in double quotes, or a word that is not reserved.
    ///
    /// The reserved words are those of expressions. PartiQL reserves fewer: logferry quotes every name.
    fn name(&mut self) -> Result<String, AwsError> {
        let plain =
            |word: &&str| word.starts_with(|first: char| first.is_ascii_alphabetic()) && !is_reserved(word);
        match self.tokens.next_if(plain) {
            Some(word) => Ok(word.to_owned()),
            None => self.quoted('"'),
        }
    }

    /// Takes a text between these quotation marks, which must not be empty.
    fn quoted(&mut self, mark: char) -> Result<String, AwsError> {
        let token = self.tokens.next_if(|next| next.starts_with(mark));
        match token.map(|token| token.trim_matches(mark)) {
            None => Err(self.refusal(&[], "Expected identifier")),
            Some("") => Err(validation("Path component cannot be an empty string")),
            Some(text) => Ok(text.to_owned()),
        }
    }

    /// Takes a `?` and returns its parameter.
    fn value(&mut self) -> Result<AttributeValue, AwsError> {
        self.expect("?")?;
        self.parameters.next().ok_or_else(wrong_number_of_parameters)
    }

    /// Error for the next token: 501 if it is one of these keywords.
    fn refusal(&mut self, not_implemented: &[&str], problem: &str) -> AwsError {
        let next = self.tokens.peek().copied().unwrap_or("<EOF>");
        match not_implemented.iter().find(|keyword| next.eq_ignore_ascii_case(keyword)) {
            Some(keyword) => {
                AwsError::not_implemented("dynamodb", &format!("BatchExecuteStatement with {keyword}"))
            }
            None => malformed(&format!("{problem}, found {next}")),
        }
    }
}

fn malformed(problem: &str) -> AwsError {
    validation(format!("Statement wasn't well formed, can't be processed: {problem}"))
}

fn wrong_number_of_parameters() -> AwsError {
    validation("Number of parameters in request and statement don't match.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> AttributeValue {
        AttributeValue::S(value.to_owned())
    }

    fn parse(statement: &str, parameters: &[&str]) -> Result<Statement, AwsError> {
        Statement::parse(statement, parameters.iter().map(|value| text(value)).collect())
    }

    fn update(changes: &[(&str, Option<&str>)], equalities: &[(&str, &str)]) -> Change {
        let mut update = Update::default();
        for (name, value) in changes {
            update.add((*name).to_owned(), value.map(text)).expect("each name once");
        }
        let equalities = equalities.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
        Change::Update(update, equalities.collect())
    }

    #[track_caller]
    fn check(statement: &str, parameters: &[&str], expected: Change) {
        let expected = Statement { table: "led-ger".to_owned(), change: expected };
        assert_eq!(parse(statement, parameters).expect(statement), expected, "{statement}");
    }

    #[test]
    fn parameters_take_their_places_in_order() {
        let item = Item::from([("a".to_owned(), text("1")), ("b c".to_owned(), text("2"))]);
        check("INSERT INTO \"led-ger\" VALUE {'b c': ?, 'a': ?}", &["2", "1"], Change::Insert(item.clone()));
        check("insert into \"led-ger\" value{'a':?,'b c':?}", &["1", "2"], Change::Insert(item));
        let expected = || {
            let changes = [("a", Some("1")), ("set", Some("2")), ("c", None), ("d", None)];
            update(&changes, &[("k", "3"), ("type", "4")])
        };
        for statement in [
            "UPDATE \"led-ger\" SET \"a\" = ? SET \"set\" = ? REMOVE \"c\" REMOVE \"d\" WHERE \"k\" = ? AND \"type\" = ?",
            "update \"led-ger\" set a=?,\"set\"=?\n remove c remove d where k=? and \"type\"=?",
        ] {
            check(statement, &["1", "2", "3", "4"], expected());
        }
        check("UPDATE \"led-ger\" REMOVE a", &[], update(&[("a", None)], &[]));
    }

    #[test]
    fn statements_outside_the_grammar_are_refused() {
        let malformed = "Statement wasn't well formed, can't be processed: ";
        let number = "Number of parameters in request and statement don't match.";
        for (statement, expected) in [
            ("", "Expected data manipulation, found <EOF>"),
            ("UPSERT INTO t VALUE {'a': ?}", "Expected data manipulation, found UPSERT"),
            ("INSERT INTO t VALUES {'a': ?}", "Expected VALUE, found VALUES"),
            ("INSERT INTO t VALUE {\"a\": ?}", "Expected identifier, found \"a\""),
            ("INSERT INTO t VALUE {a: ?}", "Expected identifier, found a"),
            ("INSERT INTO t VALUE {'a': 'b'}", "Expected ?, found 'b'"),
            ("INSERT INTO t VALUE {}", "Expected identifier, found }"),
            ("INSERT INTO t VALUE {'a': ?", "Expected }, found <EOF>"),
            ("INSERT INTO t VALUE {'a': ?} , {'b': ?}", "Unexpected term, found ,"),
            ("INSERT INTO 't' VALUE {'a': ?}", "Expected identifier, found 't'"),
            ("INSERT INTO my-table VALUE {'a': ?}", "Expected VALUE, found -"),
            ("INSERT INTO table VALUE {'a': ?}", "Expected identifier, found table"),
            ("UPDATE t SET status = ? WHERE k = ?", "Expected identifier, found status"),
            ("UPDATE t SET 'a' = ? WHERE k = ?", "Expected identifier, found 'a'"),
            ("UPDATE t SET a.b = ? WHERE k = ?", "Expected =, found ."),
            ("UPDATE t SET a = 1 WHERE k = ?", "Expected ?, found 1"),
            ("UPDATE t SET a = ?, WHERE k = ?", "Expected identifier, found WHERE"),
            ("UPDATE t REMOVE a, b WHERE k = ?", "Unexpected term, found ,"),
            ("UPDATE t WHERE k = ?", "Expected SET or REMOVE, found WHERE"),
            ("UPDATE t SET a = ? WHERE k < ?", "Expected =, found <"),
            ("UPDATE t SET a = ? WHERE k = ? OR l = ?", "Unexpected term, found OR"),
            ("UPDATE t SET a = ? WHERE k = ?;", "Unexpected term, found ;"),
            ("UPDATE t SET \"a = ? WHERE k = ?", "Unclosed quotation mark"),
            ("UPDATE t SET \u{e9} = ? WHERE k = ?", "Expected identifier, found \u{e9}"),
        ] {
            let error = parse(statement, &["1", "2"]).expect_err(statement);
            assert_eq!((error.status, error.code.as_str()), (400, "ValidationException"), "{statement}");
            assert_eq!(error.message, format!("{malformed}{expected}"), "{statement}");
        }
        for (statement, expected) in [
            ("UPDATE t SET a = ? WHERE k = ? AND l = ?", number),
            ("UPDATE t SET a = ? REMOVE b", number),
            ("UPDATE t SET \"\" = ? WHERE k = ?", "Path component cannot be an empty string"),
            ("UPDATE t SET a = ? REMOVE a WHERE k = ?", "Two document paths overlap with each other; "),
            ("INSERT INTO t VALUE {'a': ?, 'a': ?}", "Duplicate keys in tuple. Key: a under root"),
        ] {
            let error = parse(statement, &["1", "2"]).expect_err(statement);
            assert_eq!(error.code, "ValidationException", "{statement}");
            assert!(error.message.starts_with(expected), "{statement}: {}", error.message);
        }
    }

    #[test]
    fn other_statements_are_not_implemented() {
        for (statement, keyword) in [
            ("SELECT * FROM t WHERE k = ?", "SELECT"),
            ("delete from t where k = ?", "DELETE"),
            ("EXISTS(SELECT * FROM t WHERE k = ?)", "EXISTS"),
            ("UPDATE t REMOVE a WHERE k = ? RETURNING ALL NEW *", "RETURNING"),
        ] {
            let error = parse(statement, &["1"]).expect_err(statement);
            assert_eq!(error.status, 501, "{statement}");
            assert!(error.message.ends_with(keyword), "{}", error.message);
        }
    }
}
