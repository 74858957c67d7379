//! Events: a decoded event has usable objects, and all shapes of one S3 event give the same result.

use std::fmt::Write;

use logferry::event::{Event, EventError, Ignored, ObjectRef, decode};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::choices::Choices;

/// `=` starts choices for a generated event; any other input is the body itself.
pub(crate) fn check(data: &[u8]) {
    match data {
        [b'=', choices @ ..] => made_up(&mut Choices::new(choices)),
        _ => {
            if let Ok(body) = std::str::from_utf8(data) {
                any_body(body);
            }
        }
    }
}

fn any_body(body: &str) {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "Message")]
        message: Option<IgnoredAny>,
    }

    let outcome = decode(body).map_err(|error| error.to_string());
    // An envelope within an envelope is not an event. Any other body gives the same result with an envelope around it.
    if !serde_json::from_str::<Envelope>(body).is_ok_and(|envelope| envelope.message.is_some()) {
        assert_eq!(decode(&in_envelope(body)).map_err(|error| error.to_string()), outcome);
    }
    let Ok(event) = outcome else { return };
    for object in &event.objects {
        assert!(!object.bucket.is_empty() && !object.key.is_empty(), "{object:?}");
    }
    let records: Vec<_> = event.objects.iter().map(|object| record(object, &form(&object.key, 0))).collect();
    let alone = Event { objects: event.objects, ignored: Vec::new() };
    assert_eq!(decode(&json!({ "Records": records }).to_string()).expect("a legal event"), alone);
    for object in alone.objects {
        let event = decode(&from_eventbridge(&object).to_string()).expect("a legal event");
        assert_eq!(event, Event { objects: vec![object], ignored: Vec::new() });
    }
}

fn in_envelope(body: &str) -> String {
    json!({"Type": "Notification", "Message": body}).to_string()
}

/// Checks that decoding returns the generated objects, or the reason why there are none.
fn made_up(choices: &mut Choices<'_>) {
    let (mut records, mut expected, mut bad) = (Vec::new(), Event::default(), None);
    let as_envelope = choices.below(2) == 1;
    while !choices.is_empty() && records.len() < 30 {
        let version = choices.one_of(&["2.1", "2.9", "2.1", "2.1", "2.0", "3.0"]);
        let name =
            choices.one_of(&["ObjectCreated:Put", "s3:ObjectCreated:Copy", "ObjectRemoved:Delete", ""]);
        let has = choices.byte();
        let object = ObjectRef {
            bucket: choices.text(12).into_owned(),
            key: choices.text(40).into_owned(),
            version_id: (has & 1 > 0).then(|| format!("v{}", choices.text(4))),
            etag: (has & 2 > 0).then(|| format!("e{}e", choices.text(4))),
            size: (has & 4 > 0).then(|| u64::MAX >> choices.below(64)),
            sequencer: (has & 8 > 0).then(|| choices.text(4).into_owned()),
            event_time: (has & 16 > 0).then(|| {
                let second = i64::try_from(choices.below(65_536)).expect("the number is small") << 20;
                jiff::Timestamp::new(second, 123_000_000).expect("a second of the next two thousand years")
            }),
        };
        let broken_key = has & 0x60 == 0x60;
        let key = if broken_key {
            let break_off = choices.one_of(&["%", "%4", "%zz", "%+1", "%ff", "%f0%9f", "%c3+"]);
            form(&object.key, 0) + break_off
        } else {
            form(&object.key, choices.below(4))
        };
        let mut json = record(&object, &key);
        json["eventName"] = name.into();
        json["eventVersion"] = version.into();
        records.push(json);
        if !name.contains("Created") {
            expected.ignored.push(Ignored::NotObjectCreated(name.to_owned()));
            continue;
        }
        let field = match () {
            () if version == "3.0" => Some("eventVersion"),
            () if broken_key => Some("s3.object.key"),
            () if object.bucket.is_empty() => Some("s3.bucket.name"),
            () if object.key.is_empty() => Some("s3.object.key"),
            () => None,
        };
        bad = bad.or(field.map(|field| (records.len() - 1, field)));
        expected.objects.push(object);
    }
    let body = json!({ "Records": records }).to_string();
    match (decode(&if as_envelope { in_envelope(&body) } else { body }), bad) {
        (Ok(event), None) => assert_eq!(event, expected),
        (Err(EventError::BadRecord { index, field, .. }), Some(expected)) => {
            assert_eq!((index, field), expected);
        }
        (outcome, _) => panic!("{bad:?} expected, not {outcome:?}"),
    }
}

fn record(object: &ObjectRef, key: &str) -> Value {
    let mut record = json!({
        "eventVersion": "2.1", "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": object.bucket}, "object": {"key": key}}
    });
    if let Some(time) = object.event_time {
        record["eventTime"] = time.to_string().into();
    }
    members(&mut record["s3"]["object"], object, "eTag", "versionId");
    record
}

fn from_eventbridge(object: &ObjectRef) -> Value {
    let mut event = json!({
        "source": "aws.s3", "detail-type": "Object Created",
        "detail": {"bucket": {"name": object.bucket}, "object": {"key": object.key}}
    });
    if let Some(time) = object.event_time {
        event["time"] = time.to_string().into();
    }
    members(&mut event["detail"]["object"], object, "etag", "version-id");
    event
}

fn members(json: &mut Value, object: &ObjectRef, etag: &str, version_id: &str) {
    if let Some(value) = &object.version_id {
        json[version_id] = value.as_str().into();
    }
    if let Some(value) = &object.etag {
        json[etag] = format!("\"{value}\"").into();
    }
    if let Some(value) = object.size {
        json["size"] = value.into();
    }
    if let Some(value) = &object.sequencer {
        json["sequencer"] = value.as_str().into();
    }
}

/// Form encoding, as S3 does it (style 0) and in other ways that a reader must accept.
fn form(key: &str, style: usize) -> String {
    let mut encoded = String::new();
    for byte in key.bytes() {
        match byte {
            b' ' if style != 1 => encoded.push('+'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' | b'/' if style < 2 => {
                encoded.push(char::from(byte));
            }
            _ if style == 3 => write!(encoded, "%{byte:02x}").expect("a string takes every text"),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes every text"),
        }
    }
    encoded
}
