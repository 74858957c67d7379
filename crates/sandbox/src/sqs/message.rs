//! A message as SQS stores it: body, attributes, sizes, and the MD5 sums that the SDKs check.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::errors::{invalid, invalid_value, refuse};
use crate::call::AwsError;
use crate::encoding::hex;

/// Largest size of a message, and of all messages of a batch together, in bytes of bodies and attributes.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1_048_576;
const MAX_ATTRIBUTES: usize = 10;

/// Message attributes by name, in the order of their MD5 sum.
pub(crate) type Attributes = BTreeMap<String, Attribute>;

/// A message attribute with its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    /// `String`, `Number` or `Binary`, with an optional custom suffix after a dot.
    pub(crate) data_type: String,
    pub(crate) value: AttributeValue,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttributeValue {
    Text(String),
    Binary(Vec<u8>),
}

/// Parts of a message that never change, even in a dead-letter queue.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) body: String,
    pub(crate) body_md5: String,
    pub(crate) attributes: Attributes,
    pub(crate) trace_header: Option<String>,
    pub(crate) group_id: Option<String>,
    pub(crate) sender_id: String,
    pub(crate) sent_at: Instant,
    pub(crate) sent_millis: i64,
}

impl Attribute {
    fn bytes(&self) -> &[u8] {
        match &self.value {
            AttributeValue::Text(text) => text.as_bytes(),
            AttributeValue::Binary(bytes) => bytes,
        }
    }

    /// SQS's JSON form of the attribute.
    pub(crate) fn to_json(&self) -> Value {
        match &self.value {
            AttributeValue::Text(text) => json!({"DataType": self.data_type, "StringValue": text}),
            AttributeValue::Binary(bytes) => {
                json!({"DataType": self.data_type, "BinaryValue": STANDARD.encode(bytes)})
            }
        }
    }

    fn parse(name: &str, value: &Value) -> Result<Self, AwsError> {
        let data_type = value["DataType"].as_str().unwrap_or_default();
        let kind = data_type.split('.').next().unwrap_or_default();
        let text = value["StringValue"].as_str();
        let value = match kind {
            "String" | "Number" => text.map(|text| AttributeValue::Text(text.to_owned())),
            "Binary" => match value["BinaryValue"].as_str().map(|text| STANDARD.decode(text)) {
                Some(Ok(bytes)) => Some(AttributeValue::Binary(bytes)),
                Some(Err(_)) => {
                    return Err(invalid(format!("The value of attribute '{name}' is not base64.")));
                }
                None => None,
            },
            _ => {
                return Err(invalid(format!(
                    "The type of message (user) attribute '{name}' is invalid. You must use only the following \
                     supported type prefixes: Binary, Number, String."
                )));
            }
        };
        let attribute = value.map(|value| Self { data_type: data_type.to_owned(), value });
        let attribute = attribute.filter(|attribute| !attribute.bytes().is_empty()).ok_or_else(|| {
            invalid(format!(
                "Message (user) attribute '{name}' must contain a non-empty value of type '{data_type}'."
            ))
        })?;
        if kind == "Number" && text.is_none_or(|text| text.parse::<f64>().is_err()) {
            return Err(invalid(format!(
                "Can't cast the value of message (user) attribute '{name}' to a number."
            )));
        }
        Ok(attribute)
    }
}

/// Parses `MessageAttributes`, with every check of names, types and number.
pub(crate) fn parse_attributes(given: &Map<String, Value>) -> Result<Attributes, AwsError> {
    if given.len() > MAX_ATTRIBUTES {
        return Err(invalid(format!(
            "Number of message attributes [{}] exceeds the allowed maximum [{MAX_ATTRIBUTES}].",
            given.len()
        )));
    }
    let mut attributes = Attributes::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let legal = !name.is_empty()
            && name.len() <= 256
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
            && !name.starts_with('.')
            && !name.ends_with('.')
            && !name.contains("..")
            && !lower.starts_with("aws.")
            && !lower.starts_with("amazon.");
        if !legal {
            return Err(invalid(format!("The message attribute name '{name}' is invalid.")));
        }
        attributes.insert(name.clone(), Attribute::parse(name, value)?);
    }
    Ok(attributes)
}

/// Checks that a body is not empty and has only characters that XML 1.0 allows.
pub(crate) fn check_body(body: &str) -> Result<(), AwsError> {
    if body.is_empty() {
        return Err(refuse("MissingParameter", "The request must contain the parameter MessageBody."));
    }
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..);
    if body.chars().all(legal) {
        Ok(())
    } else {
        Err(refuse(
            "InvalidMessageContents",
            "The message contains characters outside the allowed set #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to \
             #xFFFD | #x10000 to #x10FFFF.",
        ))
    }
}

/// Checks the id of a message group. On a standard queue it identifies a tenant for fair queues.
pub(crate) fn check_group_id(id: &str) -> Result<(), AwsError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte.is_ascii_punctuation();
    if !id.is_empty() && id.len() <= 128 && id.bytes().all(legal) {
        return Ok(());
    }
    let reason =
        "MessageGroupId can only include alphanumeric and punctuation characters. 1 to 128 in length.";
    Err(invalid_value("MessageGroupId", id, reason))
}

/// Bytes that count for the message's limit: body, and name, type and value of each attribute.
pub(crate) fn message_bytes(body: &str, attributes: &Attributes) -> usize {
    let attributes = attributes
        .iter()
        .map(|(name, attribute)| name.len() + attribute.data_type.len() + attribute.bytes().len());
    body.len() + attributes.sum::<usize>()
}

/// The message attributes that a receiver asked for.
pub(crate) fn select(attributes: &Attributes, wanted: &[String]) -> Attributes {
    let matches = |name: &str| {
        wanted.iter().any(|pattern| {
            pattern == "All"
                || pattern == name
                || pattern.strip_suffix(".*").is_some_and(|prefix| {
                    prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
                })
        })
    };
    attributes.iter().filter(|(name, _)| matches(name)).map(|(n, a)| (n.clone(), a.clone())).collect()
}

pub(crate) fn body_md5(body: &str) -> String {
    hex(&Md5::digest(body.as_bytes()))
}

/// MD5 of attributes as SQS computes it, for each name in order: length and name, length and type, one byte for the
/// kind, length and value.
pub(crate) fn attributes_md5(attributes: &Attributes) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let mut sum = Md5::new();
    let mut part = |bytes: &[u8], kind: Option<u8>| {
        if let Some(kind) = kind {
            sum.update([kind]);
        }
        sum.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        sum.update(bytes);
    };
    for (name, attribute) in attributes {
        part(name.as_bytes(), None);
        part(attribute.data_type.as_bytes(), None);
        let kind = if matches!(attribute.value, AttributeValue::Text(_)) { 1 } else { 2 };
        part(attribute.bytes(), Some(kind));
    }
    Some(hex(&sum.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &Value) -> Result<Attributes, AwsError> {
        parse_attributes(value.as_object().expect("an object"))
    }

    #[test]
    fn md5_sums_are_those_the_sdks_expect() {
        assert_eq!(body_md5("This is a test message"), "fafb00f5732ab283681e124bf8747ed1");
        // The expected value was computed independently.
        let attributes = parse(&json!({
            "timestamp": {"DataType": "Number", "StringValue": "1493147359900"},
        }))
        .expect("valid");
        assert_eq!(attributes_md5(&attributes).as_deref(), Some("235c5c510d26fb653d073faed50ae77c"));
        assert_eq!(attributes_md5(&Attributes::new()), None);
    }

    #[test]
    fn message_attributes_are_checked() {
        let text = |value: &str| json!({"DataType": "String", "StringValue": value});
        assert!(
            parse(&json!({"a.b-c_D": text("x"), "b": {"DataType": "Binary.gz", "BinaryValue": "AAE="}}))
                .is_ok()
        );
        for bad in [
            json!({"AWS.x": text("x")}),
            json!({".x": text("x")}),
            json!({"a..b": text("x")}),
            json!({"a b": text("x")}),
            json!({"a": text("")}),
            json!({"a": {"DataType": "Text", "StringValue": "x"}}),
            json!({"a": {"DataType": "Number", "StringValue": "x"}}),
            json!({"a": {"DataType": "Binary", "BinaryValue": "***"}}),
            (0..11).map(|n| (format!("a{n}"), text("x"))).collect::<Map<_, _>>().into(),
        ] {
            assert_eq!(parse(&bad).expect_err("refused").code, "InvalidParameterValue", "{bad}");
        }
    }

    #[test]
    fn a_receiver_gets_the_attributes_it_asked_for() {
        let attribute = json!({"DataType": "String", "StringValue": "x"});
        let all = parse(&json!({"a": attribute, "bar.x": attribute, "barn": attribute})).expect("valid");
        let check = |wanted: &[&str], expected: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(select(&all, &wanted).into_keys().collect::<Vec<_>>(), expected, "{wanted:?}");
        };
        check(&["All"], &["a", "bar.x", "barn"]);
        check(&[".*"], &["a", "bar.x", "barn"]);
        check(&["bar.*"], &["bar.x"]);
        check(&["a", "missing"], &["a"]);
        check(&[], &[]);
    }

    #[test]
    fn group_ids_have_at_most_128_characters_and_no_spaces() {
        for good in ["acme-corp", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", &"x".repeat(128)] {
            assert!(check_group_id(good).is_ok(), "{good}");
        }
        for bad in ["", "two words", "größe", &"x".repeat(129)] {
            assert_eq!(check_group_id(bad).expect_err("refused").code, "InvalidParameterValue", "{bad}");
        }
    }

    #[test]
    fn bodies_have_only_characters_of_xml() {
        assert!(check_body("tab\tnew\nline é \u{1F680}").is_ok());
        assert_eq!(check_body("nul\0").expect_err("refused").code, "InvalidMessageContents");
        assert_eq!(check_body("").expect_err("refused").code, "MissingParameter");
    }
}
