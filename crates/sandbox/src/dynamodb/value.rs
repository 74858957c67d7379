//! Attribute values: JSON form, size, and comparison.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::validation;
use crate::call::AwsError;

/// Largest number of digits.
const MAX_DIGITS: u32 = 38;

/// An item, or the content of a map: values by attribute name.
pub(super) type Item = BTreeMap<String, AttributeValue>;

/// A value of one of DynamoDB's types. Sets of numbers and of binaries are not implemented.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AttributeValue {
    S(String),
    N(i128),
    B(Vec<u8>),
    Bool(bool),
    Null,
    L(Vec<AttributeValue>),
    M(Item),
    Ss(BTreeSet<String>),
}

impl AttributeValue {
    pub(super) fn from_json(value: &Value) -> Result<Self, AwsError> {
        let object = value.as_object().ok_or_else(|| serialization("an AttributeValue must be an object"))?;
        let mut members = object.iter().filter(|(_, content)| !content.is_null());
        let (Some((kind, content)), None) = (members.next(), members.next()) else {
            let what = if object.is_empty() { "is empty" } else { "has more than one datatypes set" };
            return Err(validation(format!(
                "Supplied AttributeValue {what}, must contain exactly one of the supported datatypes"
            )));
        };
        match kind.as_str() {
            "S" => text(content).map(|text| Self::S(text.to_owned())),
            "N" => number(text(content)?).map(Self::N),
            "B" => bytes(content).map(Self::B),
            "BOOL" => {
                content.as_bool().map(Self::Bool).ok_or_else(|| serialization("BOOL must be true or false"))
            }
            "NULL" if content.as_bool() == Some(true) => Ok(Self::Null),
            "NULL" => Err(validation(
                "One or more parameter values were invalid: Null attribute value types must have the value of \
                 true",
            )),
            "L" => list(content)?.iter().map(Self::from_json).collect::<Result<_, _>>().map(Self::L),
            "M" => {
                let members = content.as_object().ok_or_else(|| serialization("M must be an object"))?;
                item_from_json(members).map(Self::M)
            }
            "SS" => set(content).map(Self::Ss),
            "NS" | "BS" => Err(AwsError::not_implemented("dynamodb", &format!("a value of type {kind}"))),
            other => Err(serialization(&format!("{other} is not a type of attribute value"))),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::S(text) => json!({ "S": text }),
            Self::N(number) => json!({ "N": number.to_string() }),
            Self::B(bytes) => json!({ "B": BASE64.encode(bytes) }),
            Self::Bool(value) => json!({ "BOOL": value }),
            Self::Null => json!({ "NULL": true }),
            Self::L(elements) => json!({ "L": elements.iter().map(Self::to_json).collect::<Vec<_>>() }),
            Self::M(members) => json!({ "M": item_to_json(members) }),
            Self::Ss(elements) => json!({ "SS": elements }),
        }
    }

    /// Short name of the type, as in the JSON form.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::S(_) => "S",
            Self::N(_) => "N",
            Self::B(_) => "B",
            Self::Bool(_) => "BOOL",
            Self::Null => "NULL",
            Self::L(_) => "L",
            Self::M(_) => "M",
            Self::Ss(_) => "SS",
        }
    }

    /// Size of the value in bytes, as part of an item's size.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            // Two digits have one byte. Zeros at the end have none.
            Self::N(number) => number.to_string().trim_matches(['-', '0']).len().max(1).div_ceil(2) + 1,
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(elements) => 3 + elements.iter().map(|element| 1 + element.size()).sum::<usize>(),
            Self::M(members) => 3 + members.len() + item_size(members),
            Self::Ss(elements) => elements.iter().map(String::len).sum(),
        }
    }

    /// Compares two strings, numbers or binaries. Values of other types, or of different types, have no order.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::S(a), Self::S(b)) => Some(a.cmp(b)),
            (Self::N(a), Self::N(b)) => Some(a.cmp(b)),
            (Self::B(a), Self::B(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    pub(super) fn begins_with(&self, prefix: &Self) -> bool {
        match (self, prefix) {
            (Self::S(text), Self::S(prefix)) => text.starts_with(prefix.as_str()),
            (Self::B(bytes), Self::B(prefix)) => bytes.starts_with(prefix),
            _ => false,
        }
    }
}

pub(super) fn item_from_json(members: &Map<String, Value>) -> Result<Item, AwsError> {
    members.iter().map(|(name, value)| Ok((name.clone(), AttributeValue::from_json(value)?))).collect()
}

pub(super) fn item_to_json(item: &Item) -> Value {
    Value::Object(item.iter().map(|(name, value)| (name.clone(), value.to_json())).collect())
}

/// Size of an item by DynamoDB's rules: names and values, in bytes.
pub(super) fn item_size(item: &Item) -> usize {
    item.iter().map(|(name, value)| name.len() + value.size()).sum()
}

fn serialization(message: &str) -> AwsError {
    AwsError::new(400, "SerializationException", message)
}

fn text(content: &Value) -> Result<&str, AwsError> {
    content.as_str().ok_or_else(|| serialization("S, N and B must be strings"))
}

fn bytes(content: &Value) -> Result<Vec<u8>, AwsError> {
    BASE64.decode(text(content)?).map_err(|_| serialization("B must be base64"))
}

/// Reads a whole number. Other numbers are not implemented.
fn number(text: &str) -> Result<i128, AwsError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let is_decimal = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.');
        return Err(match is_decimal && digits.parse::<f64>().is_ok() {
            true => AwsError::not_implemented("dynamodb", "a number that is not whole"),
            false => validation(format!("The parameter cannot be converted to a numeric value: {text}")),
        });
    }
    let number = text.parse::<i128>().ok().filter(|number| number.unsigned_abs() < 10_u128.pow(MAX_DIGITS));
    number.ok_or_else(|| validation("Attempting to store more than 38 significant digits in a Number"))
}

fn list(content: &Value) -> Result<&Vec<Value>, AwsError> {
    content.as_array().ok_or_else(|| serialization("L and SS must be arrays"))
}

fn set(content: &Value) -> Result<BTreeSet<String>, AwsError> {
    let elements = list(content)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    if elements.is_empty() {
        return Err(validation("One or more parameter values were invalid: An string set  may not be empty"));
    }
    let set: BTreeSet<_> = elements.iter().map(|&element| element.to_owned()).collect();
    if set.len() < elements.len() {
        return Err(validation(format!(
            "One or more parameter values were invalid: Input collection [{}] contains duplicates.",
            elements.join(", ")
        )));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_round_trip() {
        let value = json!({ "M": {
            "s": { "S": "é" }, "n": { "N": "-15" }, "b": { "B": "AAEC" }, "t": { "BOOL": false },
            "z": { "NULL": true }, "l": { "L": [{ "S": "" }, { "M": {} }] },
            "ss": { "SS": ["a", "b"] },
        } });
        assert_eq!(AttributeValue::from_json(&value).expect("valid").to_json(), value);
    }

    #[test]
    fn invalid_values_are_refused() {
        for (bad, code) in [
            (json!({}), "ValidationException"),
            (json!({ "S": "a", "N": "1" }), "ValidationException"),
            (json!({ "N": "one" }), "ValidationException"),
            (json!({ "NULL": false }), "ValidationException"),
            (json!({ "SS": [] }), "ValidationException"),
            (json!({ "SS": ["a", "a"] }), "ValidationException"),
            (json!({ "N": "" }), "ValidationException"),
            (json!({ "N": "." }), "ValidationException"),
            (json!({ "N": "1.2.3" }), "ValidationException"),
            (json!({ "N": " 1" }), "ValidationException"),
            (json!({ "N": "NaN" }), "ValidationException"),
            (json!({ "N": "1".repeat(39) }), "ValidationException"),
            (json!({ "N": "1.5" }), "NotImplemented"),
            (json!({ "N": "1e3" }), "NotImplemented"),
            (json!({ "NS": ["1"] }), "NotImplemented"),
            (json!({ "S": 1 }), "SerializationException"),
            (json!({ "B": "?" }), "SerializationException"),
            (json!({ "X": "a" }), "SerializationException"),
            (json!("a"), "SerializationException"),
        ] {
            assert_eq!(AttributeValue::from_json(&bad).expect_err("not a value").code, code, "{bad}");
        }
    }

    #[test]
    fn sizes_follow_the_rules() {
        let size = |value: Value| AttributeValue::from_json(&value).expect("valid").size();
        assert_eq!(size(json!({ "S": "é" })), 2);
        assert_eq!(size(json!({ "N": "12345" })), 4);
        assert_eq!(size(json!({ "N": "-1200" })), 2);
        assert_eq!(size(json!({ "N": "0" })), 2);
        assert_eq!(size(json!({ "L": [{ "BOOL": true }, { "S": "ab" }] })), 8);
        assert_eq!(size(json!({ "M": { "ab": { "S": "c" } } })), 7);
    }
}
