//! A table: its key schema and its items in key order.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::number::Number;
use super::validation;
use super::value::{AttributeValue, Item, item_size};
use crate::call::AwsError;

/// The value of a key attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyValue {
    S(String),
    N(Number),
    B(Vec<u8>),
}

/// A primary key: hash and, if the schema has one, range.
pub(super) type Key = (KeyValue, Option<KeyValue>);

/// An attribute of the key schema.
#[derive(Clone, Debug)]
pub(super) struct KeyAttribute {
    pub(super) name: String,
    /// `S`, `N` or `B`.
    pub(super) kind: &'static str,
    /// Most bytes its value may have.
    pub(super) max_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) arn: String,
    pub(super) id: String,
    /// Epoch seconds.
    pub(super) created: f64,
    pub(super) hash: KeyAttribute,
    pub(super) range: Option<KeyAttribute>,
    /// Read and write units; none if paid per request.
    pub(super) provisioned: Option<(u64, u64)>,
    pub(super) time_to_live: Option<String>,
    pub(super) items: BTreeMap<Key, Item>,
}

impl KeyAttribute {
    /// Reads the value as one of this attribute's, or says what its type is instead.
    pub(super) fn value(&self, value: &AttributeValue) -> Result<KeyValue, &'static str> {
        match value {
            AttributeValue::S(text) if self.kind == "S" => Ok(KeyValue::S(text.clone())),
            AttributeValue::N(number) if self.kind == "N" => Ok(KeyValue::N(*number)),
            AttributeValue::B(bytes) if self.kind == "B" => Ok(KeyValue::B(bytes.clone())),
            other => Err(other.kind()),
        }
    }

    /// Refuses values that are empty or too long for a key.
    pub(super) fn check(&self, value: &KeyValue) -> Result<(), AwsError> {
        let (length, what) = match value {
            KeyValue::S(text) => (text.len(), "string"),
            KeyValue::B(bytes) => (bytes.len(), "binary"),
            KeyValue::N(_) => return Ok(()),
        };
        if length == 0 {
            return Err(validation(format!(
                "One or more parameter values are not valid. The AttributeValue for a key attribute cannot \
                 contain an empty {what} value. Key: {}",
                self.name
            )));
        }
        if length > self.max_bytes {
            // 2048 bytes are a hash key's limit, 1024 a range key's.
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

/// Most bytes of a hash key's value.
pub(super) const HASH_KEY_BYTES: usize = 2048;
/// Most bytes of a range key's value.
pub(super) const RANGE_KEY_BYTES: usize = 1024;

impl Table {
    pub(super) fn key_attributes(&self) -> impl Iterator<Item = &KeyAttribute> {
        std::iter::once(&self.hash).chain(&self.range)
    }

    /// The key of an item that is to be put.
    pub(super) fn key_of_item(&self, item: &Item) -> Result<Key, AwsError> {
        let part = |attribute: &KeyAttribute| {
            let name = &attribute.name;
            let value = item.get(name).ok_or_else(|| {
                validation(format!(
                    "One or more parameter values were invalid: Missing the key {name} in the item"
                ))
            })?;
            let value = attribute.value(value).map_err(|actual| {
                validation(format!(
                    "One or more parameter values were invalid: Type mismatch for key {name} expected: {} \
                     actual: {actual}",
                    attribute.kind
                ))
            })?;
            attribute.check(&value).map(|()| value)
        };
        Ok((part(&self.hash)?, self.range.as_ref().map(part).transpose()?))
    }

    /// The key that a request names: exactly the attributes of the schema.
    pub(super) fn key(&self, given: &Item) -> Result<Key, AwsError> {
        let mismatch = || validation("The provided key element does not match the schema");
        let part = |attribute: &KeyAttribute| {
            let value = given.get(&attribute.name).ok_or_else(mismatch)?;
            let value = attribute.value(value).map_err(|_| mismatch())?;
            attribute.check(&value).map(|()| value)
        };
        if given.len() != self.key_attributes().count() {
            return Err(mismatch());
        }
        Ok((part(&self.hash)?, self.range.as_ref().map(part).transpose()?))
    }

    /// The item's key attributes alone.
    pub(super) fn key_item(&self, item: &Item) -> Item {
        self.key_attributes()
            .filter_map(|attribute| item.get_key_value(&attribute.name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    pub(super) fn describe(&self, name: &str, status: &str) -> Value {
        let roles = ["HASH", "RANGE"];
        let schema: Vec<_> = self
            .key_attributes()
            .zip(roles)
            .map(|(attribute, role)| json!({ "AttributeName": attribute.name, "KeyType": role }))
            .collect();
        let definitions: Vec<_> = self
            .key_attributes()
            .map(|attribute| json!({ "AttributeName": attribute.name, "AttributeType": attribute.kind }))
            .collect();
        let (read, write) = self.provisioned.unwrap_or_default();
        let mut shown = json!({
            "TableName": name,
            "TableStatus": status,
            "TableArn": self.arn,
            "TableId": self.id,
            "CreationDateTime": self.created,
            "KeySchema": schema,
            "AttributeDefinitions": definitions,
            "ProvisionedThroughput": {
                "NumberOfDecreasesToday": 0,
                "ReadCapacityUnits": read,
                "WriteCapacityUnits": write,
            },
            "ItemCount": self.items.len(),
            "TableSizeBytes": self.items.values().map(item_size).sum::<usize>(),
            "DeletionProtectionEnabled": false,
        });
        if self.provisioned.is_none() {
            shown["BillingModeSummary"] = json!({ "BillingMode": "PAY_PER_REQUEST" });
        }
        shown
    }
}
