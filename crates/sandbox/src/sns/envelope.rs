//! The JSON envelope that SNS puts around a message for a queue.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::sqs::message::{Attribute, AttributeValue, Attributes};

#[derive(Debug, Clone, Copy)]
pub(super) struct Notification<'a> {
    pub(super) message_id: &'a str,
    pub(super) topic_arn: &'a str,
    pub(super) subscription_arn: &'a str,
    pub(super) region: &'a str,
    pub(super) subject: Option<&'a str>,
    pub(super) message: &'a str,
    pub(super) attributes: &'a Attributes,
}

impl Notification<'_> {
    /// Writes the envelope with SNS's members, order and white space.
    ///
    /// The signature has the right form but cannot be verified, because the sandbox has no key of AWS.
    pub(super) fn write(&self, now: jiff::Timestamp) -> String {
        let timestamp = format!("{now:.3}");
        let signature = STANDARD.encode(
            Sha256::new().chain_update(self.message_id).chain_update(self.message).finalize().repeat(8),
        );
        let host = format!("https://sns.{}.amazonaws.com", self.region);
        let unsubscribe = format!("{host}/?Action=Unsubscribe&SubscriptionArn={}", self.subscription_arn);
        let certificate = format!("{host}/SimpleNotificationService-00000000000000000000000000000000.pem");
        let mut members = vec![
            ("Type", json!("Notification")),
            ("MessageId", json!(self.message_id)),
            ("TopicArn", json!(self.topic_arn)),
        ];
        members.extend(self.subject.map(|subject| ("Subject", json!(subject))));
        members.extend([
            ("Message", json!(self.message)),
            ("Timestamp", json!(timestamp)),
            ("SignatureVersion", json!("1")),
            ("Signature", json!(signature)),
            ("SigningCertURL", json!(certificate)),
            ("UnsubscribeURL", json!(unsubscribe)),
        ]);
        let mut lines: Vec<String> =
            members.into_iter().map(|(name, value)| format!("  \"{name}\" : {value}")).collect();
        if !self.attributes.is_empty() {
            let entries: Vec<String> =
                self.attributes.iter().map(|(name, attribute)| attribute_line(name, attribute)).collect();
            lines.push(format!("  \"MessageAttributes\" : {{\n{}\n  }}", entries.join(",\n")));
        }
        format!("{{\n{}\n}}", lines.join(",\n"))
    }
}

fn attribute_line(name: &str, attribute: &Attribute) -> String {
    let value = match &attribute.value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Binary(bytes) => STANDARD.encode(bytes),
    };
    let (name, data_type, value): (Value, Value, Value) =
        (json!(name), json!(attribute.data_type), json!(value));
    format!("    {name} : {{\"Type\":{data_type},\"Value\":{value}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_written_as_sns_writes_it() {
        let attributes = Attributes::from_iter([(
            "kind".to_owned(),
            Attribute { data_type: "String".to_owned(), value: AttributeValue::Text("a\"b".to_owned()) },
        )]);
        let notification = Notification {
            message_id: "id",
            topic_arn: "arn:aws:sns:us-east-1:111111111111:t",
            subscription_arn: "arn:aws:sns:us-east-1:111111111111:t:s",
            region: "us-east-1",
            subject: Some("Amazon S3 Notification"),
            message: "{\"Records\":[]}",
            attributes: &attributes,
        };
        let text = notification.write("2026-11-22T01:02:03.4567Z".parse().expect("a timestamp"));
        let start = "{\n  \"Type\" : \"Notification\",\n  \"MessageId\" : \"id\",\n  \
                     \"TopicArn\" : \"arn:aws:sns:us-east-1:111111111111:t\",\n  \
                     \"Subject\" : \"Amazon S3 Notification\",\n  \"Message\" : \"{\\\"Records\\\":[]}\",\n  \
                     \"Timestamp\" : \"2026-11-22T01:02:03.456Z\",\n  \"SignatureVersion\" : \"1\",\n";
        assert!(text.starts_with(start), "{text}");
        let end =
            "  \"MessageAttributes\" : {\n    \"kind\" : {\"Type\":\"String\",\"Value\":\"a\\\"b\"}\n  }\n}";
        assert!(text.ends_with(end), "{text}");
        serde_json::from_str::<Value>(&text).expect("JSON");
    }
}
