//! S3: reading an object that an event names, and the event itself.

use aws_sdk_s3::{
    operation::{get_object::GetObjectOutput, list_objects_v2::ListObjectsV2Output},
    types::EncodingType,
};
use serde_json::Value;

use super::Answers;
use crate::{eventually::eventually, setup::Setup};

fn got(output: GetObjectOutput) -> String {
    format!(
        "{:?} bytes, range {:?}, etag {:?}, modified {}, version {}",
        output.content_length,
        output.content_range,
        output.e_tag,
        output.last_modified.is_some(),
        output.version_id.is_some()
    )
}

/// Names of a value's members, and of the members of nested objects.
fn members(value: &Value) -> String {
    let Some(object) = value.as_object() else { return String::new() };
    let members = object.iter().map(|(name, value)| match value {
        Value::Object(_) => format!("{name}{{{}}}", members(value)),
        _ => name.clone(),
    });
    members.collect::<Vec<_>>().join(" ")
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let bucket = &setup.provider.bucket;
    let key = "acme/c/app one+two/p\u{e4}d/1.json";
    setup.upload(key, "0123456789").await;
    let account = setup.account();
    let s3 = account.s3();
    let get = |key: &str| s3.get_object().bucket(bucket).key(key);
    answers.answer("s3: get", get(key).send().await, got);
    answers.answer("s3: get from 4", get(key).range("bytes=4-").send().await, got);
    answers.answer("s3: get from the end", get(key).range("bytes=10-").send().await, got);
    let etag = "\"781e5e245d69b566979b86e28d23f2c7\"";
    answers.answer("s3: get if-match with the ETag", get(key).if_match(etag).send().await, got);
    let other = "\"00000000000000000000000000000000\"";
    answers.answer("s3: get if-match with another ETag", get(key).if_match(other).send().await, got);
    answers.answer("s3: get a missing object", get("missing").send().await, got);
    answers.answer("s3: get a version that never existed", get(key).version_id("never").send().await, got);
    let owner = &setup.provider.account;
    answers.answer(
        "s3: get with the expected owner",
        get(key).expected_bucket_owner(owner).send().await,
        got,
    );
    let stranger = "999999999999";
    answers.answer("s3: get with a wrong owner", get(key).expected_bucket_owner(stranger).send().await, got);
    let nowhere = s3.get_object().bucket(format!("{bucket}-missing")).key(key);
    answers.answer("s3: get from a missing bucket", nowhere.send().await, got);
    let intruder = setup.aws.account(stranger).s3();
    let stolen = intruder.get_object().bucket(bucket).key(key);
    answers.answer("s3: get from another account", stolen.send().await, got);

    // The event of the upload, in its SNS envelope.
    let sqs = account.sqs();
    let body = eventually("the event arrives", async || {
        let receive = sqs.receive_message().queue_url(&setup.provider.queue_url).wait_time_seconds(2);
        let received = receive.send().await.map_err(|error| format!("{error:?}"))?;
        let messages = received.messages.unwrap_or_default();
        messages.first().and_then(|message| message.body.clone()).ok_or_else(|| "no message".to_owned())
    })
    .await;
    let envelope: Value = serde_json::from_str(&body).expect("an envelope is JSON");
    answers.note("event: members of the envelope", members(&envelope));
    let event: Value = serde_json::from_str(envelope["Message"].as_str().expect("text")).expect("JSON");
    let record = &event["Records"][0];
    answers.note("event: members of the record", members(record));
    for (name, pointer) in [
        ("version", "/eventVersion"),
        ("source", "/eventSource"),
        ("name", "/eventName"),
        ("key", "/s3/object/key"),
        ("size", "/s3/object/size"),
        ("etag", "/s3/object/eTag"),
    ] {
        let value = record.pointer(pointer).unwrap_or(&Value::Null);
        answers.note(&format!("event: {name}"), value.to_string());
    }
    let named = record["s3"]["bucket"]["name"].as_str() == Some(bucket);
    answers.note("event: names the bucket", named.to_string());
    ask_listing(setup, answers).await;
}

/// A replay's calls: pages of a listing, by the last key of the page before.
async fn ask_listing(setup: &Setup, answers: &mut Answers) {
    let (bucket, s3) = (&setup.provider.bucket, setup.account().s3());
    for key in ["listing/a b+c%", "listing/b\u{e4}", "listing/c\u{1}", "listing/d/e"] {
        setup.upload(key, "0123456789").await;
    }
    let list = || s3.list_objects_v2().bucket(bucket).prefix("listing/").encoding_type(EncodingType::Url);
    let listed = |output: ListObjectsV2Output| {
        let objects = output.contents().iter().map(|object| {
            let told = (object.size(), object.e_tag().is_some(), object.last_modified().is_some());
            format!("{} {told:?}", object.key().unwrap_or_default())
        });
        let objects: Vec<_> = objects.collect();
        format!("{objects:?}, more {:?}, encoded {:?}", output.is_truncated(), output.encoding_type())
    };
    answers.answer("s3: list", list().send().await, listed);
    answers.answer("s3: list a page", list().max_keys(2).send().await, listed);
    answers.answer("s3: list after a key", list().start_after("listing/b\u{e4}").send().await, listed);
    answers.answer("s3: list after the last key", list().start_after("listing/d/e").send().await, listed);
    let stranger = list().expected_bucket_owner("999999999999");
    answers.answer("s3: list with a wrong owner", stranger.send().await, listed);
    let nowhere = s3.list_objects_v2().bucket(format!("{bucket}-missing"));
    answers.answer("s3: list a missing bucket", nowhere.send().await, listed);
}
