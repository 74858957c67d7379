//! A table: its key schema, and its items in key order. Key attributes are strings.

use std::collections::BTreeMap;

use super::expression::update::Update;
use super::validation;
use super::value::{AttributeValue, Item};
use crate::call::AwsError;

/// A primary key: the hash key and, if the schema has one, the range key.
pub(super) type Key = (String, Option<String>);

#[derive(Clone, Debug)]
pub(super) struct KeyAttribute {
    pub(super) name: String,
    /// Largest value in bytes.
    pub(super) max_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    pub(super) time_to_live: Option<String>,
    pub(super) items: BTreeMap<Key, Item>,
}

impl KeyAttribute {
    /// Refuses a value that is empty or too long for a key.
    pub(super) fn check(&self, value: &str) -> Result<(), AwsError> {
        if value.is_empty() {
            return Err(validation(format!(
                "One or more parameter values are not valid. The AttributeValue for a key attribute cannot \
                 contain an empty string value. Key: {}",
                self.name
            )));
        }
        if value.len() > self.max_bytes {
            let role = if self.max_bytes == HASH_KEY_BYTES { "hashkey" } else { "rangekey" };
            return Err(validation(format!(
                "One or more parameter values were invalid: Size of {role} has exceeded the maximum size \
                 limit of{} bytes",
                self.max_bytes
            )));
        }
        Ok(())
    }
}

/// Largest hash key in bytes.
pub(super) const HASH_KEY_BYTES: usize = 2048;
/// Largest range key in bytes.
pub(super) const RANGE_KEY_BYTES: usize = 1024;

impl Table {
    pub(super) fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// Refuses an update that changes a key attribute.
    pub(super) fn check_key_unchanged(&self, update: &Update) -> Result<(), AwsError> {
        match update.names().find(|name| self.key_attributes().any(|key| key.name == *name)) {
            Some(name) => Err(validation(format!(
                "One or more parameter values were invalid: Cannot update attribute {name}. \
                 This attribute is part of the key"
            ))),
            None => Ok(()),
        }
    }

    /// Key of an item to be put.
    pub(super) fn key_of_item(&self, item: &Item) -> Result<Key, AwsError> {
        self.read_key(item, |name, found| {
            let what = match found {
                None => format!("Missing the key {name} in the item"),
                Some(other) => {
                    format!("Type mismatch for key {name} expected: S actual: {}", other.kind())
                }
            };
            validation(format!("One or more parameter values were invalid: {what}"))
        })
    }

    /// Key in a request, which must have exactly the attributes of the schema.
    pub(super) fn key(&self, given: &Item) -> Result<Key, AwsError> {
        let mismatch = || validation("The provided key element does not match the schema");
        if given.len() != self.key_attributes().count() {
            return Err(mismatch());
        }
        self.read_key(given, |_, _| mismatch())
    }

    fn read_key(
        &self,
        item: &Item,
        refused: impl Fn(&str, Option<&AttributeValue>) -> AwsError,
    ) -> Result<Key, AwsError> {
        let part = |attribute: &KeyAttribute| match item.get(&attribute.name) {
            Some(AttributeValue::S(value)) => attribute.check(value).map(|()| value.clone()),
            other => Err(refused(&attribute.name, other)),
        };
        Ok((part(&self.hash)?, self.range.as_ref().map(part).transpose()?))
    }

    /// The key attributes of an item.
    pub(super) fn key_item(&self, item: &Item) -> Item {
        self.key_attributes()
            .filter_map(|attribute| item.get_key_value(&attribute.name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}
