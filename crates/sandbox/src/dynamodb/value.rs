//! Attribute values: JSON form, size, and comparison.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::number::Number;
use super::validation;
use crate::call::AwsError;

/// An item, or the content of a map: values by attribute name.
pub(super) type Item = BTreeMap<String, AttributeValue>;

/// A value of one of DynamoDB's ten types.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AttributeValue {
    S(String),
    N(Number),
    B(Vec<u8>),
    Bool(bool),
    Null,
    L(Vec<AttributeValue>),
    M(Item),
    Ss(BTreeSet<String>),
    Ns(BTreeSet<Number>),
    Bs(BTreeSet<Vec<u8>>),
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
            "N" => Number::parse(text(content)?).map(Self::N),
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
            "SS" => set(content, "string", |element| text(element).map(str::to_owned)).map(Self::Ss),
            "NS" => set(content, "number", |element| Number::parse(text(element)?)).map(Self::Ns),
            "BS" => set(content, "binary", bytes).map(Self::Bs),
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
            Self::Ns(elements) => {
                json!({ "NS": elements.iter().map(ToString::to_string).collect::<Vec<_>>() })
            }
            Self::Bs(elements) => {
                json!({ "BS": elements.iter().map(|bytes| BASE64.encode(bytes)).collect::<Vec<_>>() })
            }
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
            Self::Ns(_) => "NS",
            Self::Bs(_) => "BS",
        }
    }

    /// Size of the value in bytes, as part of an item's size.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::S(text) => text.len(),
            Self::N(number) => number.size(),
            Self::B(bytes) => bytes.len(),
            Self::Bool(_) | Self::Null => 1,
            Self::L(elements) => 3 + elements.iter().map(|element| 1 + element.size()).sum::<usize>(),
            Self::M(members) => 3 + members.len() + item_size(members),
            Self::Ss(elements) => elements.iter().map(String::len).sum(),
            Self::Ns(elements) => elements.iter().map(|number| number.size()).sum(),
            Self::Bs(elements) => elements.iter().map(Vec::len).sum(),
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

fn list(content: &Value) -> Result<&Vec<Value>, AwsError> {
    content.as_array().ok_or_else(|| serialization("L, SS, NS and BS must be arrays"))
}

fn set<T: Ord>(
    content: &Value,
    kind: &str,
    read: impl Fn(&Value) -> Result<T, AwsError>,
) -> Result<BTreeSet<T>, AwsError> {
    let elements = list(content)?;
    if elements.is_empty() {
        return Err(validation(format!(
            "One or more parameter values were invalid: An {kind} set  may not be empty"
        )));
    }
    let set = elements.iter().map(read).collect::<Result<BTreeSet<_>, _>>()?;
    if set.len() < elements.len() {
        let shown: Vec<_> = elements.iter().filter_map(Value::as_str).collect();
        return Err(validation(format!(
            "One or more parameter values were invalid: Input collection [{}] contains duplicates.",
            shown.join(", ")
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
            "s": { "S": "é" }, "n": { "N": "-1.5" }, "b": { "B": "AAEC" }, "t": { "BOOL": false },
            "z": { "NULL": true }, "l": { "L": [{ "S": "" }, { "M": {} }] },
            "ss": { "SS": ["a", "b"] }, "ns": { "NS": ["1", "20"] }, "bs": { "BS": ["AA=="] },
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
            (json!({ "NS": ["1", "1.0"] }), "ValidationException"),
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
        assert_eq!(size(json!({ "L": [{ "BOOL": true }, { "S": "ab" }] })), 8);
        assert_eq!(size(json!({ "M": { "ab": { "S": "c" } } })), 7);
    }
}
