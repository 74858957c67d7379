//! Reads an event in any of the envelopes in which an operator meets one: as `logferry manual` gets it.
//!
//! A worker reads only what SQS gives it. An operator copies an event from a log, a console or another program, with the
//! envelope of that program around it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Event, EventError, decode, parse};
use crate::json::JsonObject;

/// Most envelopes inside each other: Lambda's event, a message of SQS, a notification of SNS.
const MOST_ENVELOPES: usize = 3;

/// Reads an event that may be enclosed in: Lambda's event of SQS or SNS (`Records` with a `body` or `Sns`), the answer of
/// `aws sqs receive-message` (`Messages`), one message (`Body` or `body`), or an envelope that has only `Message`. The
/// objects of all enclosed events come in order.
///
/// # Errors
/// As for [`decode`]; one bad event among several is an error too.
pub fn decode_enclosed(text: &str) -> Result<Event, EventError> {
    let mut event = Event::default();
    open(text, MOST_ENVELOPES, &mut event)?;
    Ok(event)
}

fn open(text: &str, envelopes_left: usize, event: &mut Event) -> Result<(), EventError> {
    let enclosed = match envelopes_left {
        0 => Vec::new(),
        _ => enclosed(text)?,
    };
    if enclosed.is_empty() {
        let Event { objects, ignored } = decode(text)?;
        event.objects.extend(objects);
        event.ignored.extend(ignored);
        return Ok(());
    }
    enclosed.iter().try_for_each(|inner| open(inner, envelopes_left - 1, event))
}

/// The texts that an envelope encloses; none if the text is no envelope.
fn enclosed(text: &str) -> Result<Vec<Cow<'_, str>>, EventError> {
    let JsonObject(Envelope { kind, message, body, records, messages }) = parse(text)?;
    if let Some(messages) = messages {
        return Ok(messages.into_iter().map(|JsonObject(message)| message.body).collect());
    }
    if let Some(records) = records {
        // Records of S3 have neither member; those of Lambda all have one.
        let records: Vec<JsonObject<Record<'_>>> = parse(records.get())?;
        let count = records.len();
        let enclosed = records
            .into_iter()
            .filter_map(|JsonObject(record)| record.body.or(record.sns.map(|JsonObject(sns)| sns.message)));
        let enclosed: Vec<_> = enclosed.collect();
        return match enclosed.len() {
            // Leaving out the others would lose them without a word.
            some if some > 0 && some < count => Err(EventError::Unknown(format!(
                "{some} of its {count} Records enclose an event in body or Sns, and the others do not"
            ))),
            _ => Ok(enclosed),
        };
    }
    // `decode` itself reads a notification of SNS.
    Ok(body.or(message.filter(|_| kind.is_none())).into_iter().collect())
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "Type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Message")]
    message: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Body", alias = "body")]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Records")]
    records: Option<&'a RawValue>,
    #[serde(borrow, rename = "Messages")]
    messages: Option<Vec<JsonObject<Enclosed<'a>>>>,
}

#[derive(Deserialize)]
struct Enclosed<'a> {
    #[serde(borrow, rename = "Body")]
    body: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    body: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Sns")]
    sns: Option<JsonObject<Sns<'a>>>,
}

#[derive(Deserialize)]
struct Sns<'a> {
    #[serde(borrow, rename = "Message")]
    message: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn s3(key: &str) -> Value {
        json!({ "Records": [{ "eventVersion": "2.1", "eventName": "ObjectCreated:Put",
            "s3": { "bucket": { "name": "staging" }, "object": { "key": key } } }] })
    }

    fn check(text: &Value, keys: &[&str]) {
        let event = decode_enclosed(&text.to_string()).unwrap_or_else(|error| panic!("{error}: {text}"));
        let found: Vec<_> = event.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(found, keys, "{text}");
    }

    #[test]
    fn events_are_found_in_every_envelope() {
        let text = |value: Value| value.to_string();
        let sns = |inner: &str| json!({ "Type": "Notification", "MessageId": "1", "Message": inner });
        check(&s3("a%2Bb"), &["a+b"]);
        check(&sns(&text(s3("a"))), &["a"]);
        check(&json!({ "Message": text(s3("a")) }), &["a"]);
        let bridged = json!({ "detail-type": "Object Created", "source": "aws.s3",
            "detail": { "bucket": { "name": "staging" }, "object": { "key": "a+b" } } });
        check(&bridged, &["a+b"]);
        let by_queue = |body: &Value| {
            json!({ "messageId": "1", "receiptHandle": "r", "body": text(body.clone()),
            "attributes": { "ApproximateReceiveCount": "1" }, "eventSource": "aws:sqs" })
        };
        let of_lambda = json!({ "Records": [by_queue(&sns(&text(s3("a")))), by_queue(&bridged)] });
        check(&of_lambda, &["a", "a+b"]);
        check(&by_queue(&s3("a")), &["a"]);
        let of_cli =
            |body: &Value| json!({ "MessageId": "1", "ReceiptHandle": "r", "Body": text(body.clone()) });
        check(&of_cli(&sns(&text(s3("a")))), &["a"]);
        check(&json!({ "Messages": [of_cli(&s3("a")), of_cli(&s3("b"))] }), &["a", "b"]);
        check(
            &json!({ "Records": [{ "EventSource": "aws:sns", "Sns": { "Message": text(s3("a")) } }] }),
            &["a"],
        );
        check(&json!({ "Records": [] }), &[]);
    }

    #[test]
    fn one_bad_event_among_several_is_an_error() {
        let record = |body: &str| json!({ "messageId": "1", "body": body });
        let mixed = json!({ "Records": [record(&s3("a").to_string()), record("hello")] });
        let partly = json!({ "Records": [record(&s3("a").to_string()), s3("b")["Records"][0]] });
        let deep = (0..5).fold(s3("a"), |inner, _| json!({ "body": inner.to_string() }));
        for text in ["", "hello", "[]", "{}", "{\"Message\":\"x\"}", "{\"Body\":7}", "{\"Messages\":[{}]}"]
            .map(str::to_owned)
            .into_iter()
            .chain([mixed.to_string(), partly.to_string(), deep.to_string()])
        {
            decode_enclosed(&text).expect_err(&text);
        }
    }
}
