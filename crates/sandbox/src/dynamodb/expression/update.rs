//! UpdateExpression: `SET name = :value` and `REMOVE name`.

use super::super::value::{AttributeValue, Item};
use super::{Parser, Placeholders};
use crate::call::AwsError;

/// A parsed update with the values of its placeholders.
#[derive(Debug, Default, PartialEq)]
pub(in super::super) struct Update {
    /// Attributes to write with their new values; `None` removes the attribute.
    changes: Vec<(String, Option<AttributeValue>)>,
}

impl Update {
    pub(in super::super) fn parse(text: &str, placeholders: &mut Placeholders) -> Result<Self, AwsError> {
        let mut parser = Parser::new("UpdateExpression", text, placeholders)?;
        let mut update = Self::default();
        let mut seen = Vec::new();
        while parser.at < parser.tokens.len() {
            let section = ["SET", "REMOVE"].into_iter().find(|section| parser.take(section));
            let section = section.ok_or_else(|| parser.syntax_error())?;
            if seen.contains(&section) {
                return Err(parser.error(format_args!(
                    "The \"{section}\" section can only be used once in an update expression;"
                )));
            }
            seen.push(section);
            loop {
                let name = parser.name()?;
                let value = match section {
                    "SET" => {
                        parser.expect("=")?;
                        Some(parser.value()?)
                    }
                    _ => None,
                };
                update.add(name, value).map_err(|message| parser.error(message))?;
                if !parser.take(",") {
                    break;
                }
            }
        }
        Ok(update)
    }

    /// Adds the new value of an attribute; `None` removes the attribute.
    ///
    /// # Errors
    /// AWS's message if the update changes the attribute already.
    pub(in super::super) fn add(
        &mut self,
        name: String,
        value: Option<AttributeValue>,
    ) -> Result<(), String> {
        if self.names().any(|written| written == name) {
            return Err(format!(
                "Two document paths overlap with each other; must remove or rewrite one of these paths; \
                 path one: [{name}], path two: [{name}]"
            ));
        }
        self.changes.push((name, value));
        Ok(())
    }

    /// Names of the attributes that the update changes.
    pub(in super::super) fn names(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the item after the update.
    pub(in super::super) fn apply(&self, old: &Item) -> Item {
        let mut new = old.clone();
        for (name, value) in &self.changes {
            match value {
                Some(value) => new.insert(name.clone(), value.clone()),
                None => new.remove(name),
            };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::value::{item_from_json, item_to_json};
    use super::*;

    fn apply(text: &str, item: &Value) -> Result<Value, AwsError> {
        let names = [("#offset".to_owned(), "offset".to_owned())];
        let values = json!({ ":one": { "N": "1" }, ":s": { "S": "s" } });
        let mut placeholders = Placeholders::read(
            Some(names.into()),
            values.as_object(),
            &[("UpdateExpression", &Some(text.to_owned()))],
        )?;
        let update = Update::parse(text, &mut placeholders)?;
        let item = item_from_json(item.as_object().expect("an object"))?;
        Ok(item_to_json(&update.apply(&item)))
    }

    #[test]
    fn updates_set_and_remove_attributes() {
        for (text, item, expected) in [
            ("SET a = :one", json!({}), json!({ "a": { "N": "1" } })),
            ("set #offset = :s", json!({ "offset": { "N": "41" } }), json!({ "offset": { "S": "s" } })),
            ("REMOVE a, b", json!({ "a": { "N": "1" }, "c": { "N": "1" } }), json!({ "c": { "N": "1" } })),
            (
                "SET a = :one, b = :s REMOVE c",
                json!({ "c": { "N": "1" } }),
                json!({ "a": { "N": "1" }, "b": { "S": "s" } }),
            ),
        ] {
            assert_eq!(apply(text, &item).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn invalid_updates_are_refused() {
        let overlap = "Two document paths overlap with each other; must remove or rewrite one of these paths; \
                       path one: [a], path two: [a]";
        for (text, expected) in [
            ("SET a = :one REMOVE a", overlap),
            (
                "SET a = :one SET b = :one",
                "The \"SET\" section can only be used once in an update expression;",
            ),
            ("SET a = :one,", "Syntax error; token: \"<EOF>\""),
            ("SET a :one", "Syntax error; token: \":one\""),
            ("SET a = b", "Syntax error; token: \"b\""),
            ("SET a = :one + :one", "Syntax error; token: \"+\""),
            ("ADD a :one", "Syntax error; token: \"ADD\""),
            ("SET offset = :one", "Attribute name is a reserved keyword"),
        ] {
            let error = apply(text, &json!({ "s": { "S": "text" } })).expect_err(text);
            assert_eq!(error.code, "ValidationException");
            let expected = format!("Invalid UpdateExpression: {expected}");
            assert!(error.message.starts_with(&expected), "{text}: {}", error.message);
        }
    }
}
