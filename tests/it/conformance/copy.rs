//! S3: copies into a customer's bucket, in the central role and in the customer's role.

use aws_sdk_s3::{
    Client,
    operation::copy_object::{CopyObjectOutput, builders::CopyObjectFluentBuilder},
    types::{MetadataDirective, ObjectCannedAcl, TaggingDirective},
};
use logferry_testbed::provision::CustomerSpec;
use serde_json::json;

use super::Answers;
use crate::setup::Setup;

fn copied(output: CopyObjectOutput) -> String {
    let result = output.copy_object_result;
    format!(
        "etag {:?}, version of the source {}",
        result.and_then(|result| result.e_tag),
        output.copy_source_version_id.is_some()
    )
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let (aws, provider) = (&setup.aws, &setup.provider);
    let customer = setup.customer_without_row(CustomerSpec::new("copies")).await;
    let [bucket, closed, near] =
        ["theirs", "closed", "near"].map(|name| format!("{}-{name}", provider.bucket));
    customer.create_bucket(aws, provider, &bucket).await.expect("the bucket can be created");
    customer.let_role_copy(aws, provider, &bucket).await.expect("the policy can be set");
    provider.let_read(aws, &[&customer.account]).await.expect("the policy can be set");
    aws.account(&customer.account)
        .s3()
        .create_bucket()
        .bucket(&closed)
        .send()
        .await
        .expect("the bucket can be created");
    let root = setup.account().s3();
    root.create_bucket().bucket(&near).send().await.expect("the bucket can be created");
    let put = async |key: &str, text: &str| {
        let put = root.put_object().bucket(&provider.bucket).key(key).content_encoding("gzip");
        let put = put.content_type("text/x-ndjson").metadata("theirs", "1");
        let put = put.body(bytes::Bytes::copy_from_slice(text.as_bytes()).into()).send().await;
        put.expect("the object can be put")
    };
    let first = put("copies/a b+c/\u{e4}.json", "first").await;
    let second = put("copies/a b+c/\u{e4}.json", "second").await;
    let hop = provider.first_hop(&setup.aws).await;
    let (_, central) = hop.expect("the worker may take the first hop");

    let source = format!("{}/copies/a%20b%2Bc/%C3%A4.json", provider.bucket);
    let ask = |s3: &Client, to: &str, source: String| -> CopyObjectFluentBuilder {
        let copy = s3.copy_object().bucket(to).key("logs/a b+c/\u{e4}.json").copy_source(source);
        let copy = copy.acl(ObjectCannedAcl::BucketOwnerFullControl);
        let copy = copy.metadata_directive(MetadataDirective::Replace).metadata("source-key", "%C3%A4");
        copy.content_encoding("gzip")
            .content_type("text/x-ndjson")
            .tagging_directive(TaggingDirective::Replace)
    };
    // Copies within one account, the only ones that ministack supports.
    let s3 = central.s3();
    let plain = || ask(&s3, &near, source.clone());
    answers.answer("copy: within one account", plain().send().await, copied);
    let version = first.version_id.unwrap_or_default();
    let pinned = ask(&s3, &near, format!("{source}?versionId={version}"));
    answers.answer("copy: the first version", pinned.send().await, copied);
    let got = root.get_object().bucket(&near).key("logs/a b+c/\u{e4}.json").send().await;
    answers.answer("copy: what arrived", got, |got| {
        let (metadata, encoding, kind) = (got.metadata, got.content_encoding, got.content_type);
        format!("{:?} bytes, {metadata:?}, {encoding:?}, {kind:?}", got.content_length)
    });
    let etag = second.e_tag.unwrap_or_default();
    answers.answer("copy: if-match with the ETag", plain().copy_source_if_match(etag).send().await, copied);
    let other = "\"00000000000000000000000000000000\"";
    answers.answer(
        "copy: if-match with another ETag",
        plain().copy_source_if_match(other).send().await,
        copied,
    );
    let owner = plain().expected_source_bucket_owner(&provider.account);
    answers.answer("copy: with the expected owner", owner.send().await, copied);
    let owner = plain().expected_source_bucket_owner("999999999999");
    answers.answer("copy: with a wrong owner", owner.send().await, copied);
    let missing = |s3: &Client| ask(s3, &near, format!("{}/copies/missing", provider.bucket));
    answers.answer("copy: a missing object", missing(&root).send().await, copied);
    answers.answer("copy: a missing object, without s3:ListBucket", missing(&s3).send().await, copied);
    let never = ask(&s3, &near, format!("{}-missing/copies/1.json", provider.bucket));
    answers.answer("copy: from a missing bucket", never.send().await, copied);
    let nowhere = ask(&s3, &format!("{near}-missing"), source.clone());
    answers.answer("copy: into a missing bucket", nowhere.send().await, copied);
    let long = plain().key("x".repeat(1025));
    answers.answer("copy: to a key that is too long", long.send().await, copied);

    let far = ask(&s3, &bucket, source.clone());
    answers.answer("copy: into the customer's bucket", far.send().await, copied);
    answers.answer("copy: into a closed bucket", ask(&s3, &closed, source.clone()).send().await, copied);

    // In the customer's role, with the session policy that the worker uses.
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:GetObjectVersion"],
            "Resource": format!("arn:aws:s3:::{}/copies/*", provider.bucket),
        },
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:PutObjectAcl"],
            "Resource": format!("arn:aws:s3:::{bucket}/logs/*"),
        },
        {
            "Effect": "Allow", "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*",
            "Condition": { "StringLike": { "kms:ViaService": "s3.*" } },
        },
    ] });
    let id = [("ExternalId", customer.external_id.as_str()), ("Policy", &policy.to_string())];
    let narrowed = central.assume_role(&customer.role_arn, "narrow", &id).await;
    let s3 = narrowed.expect("the central role may take the second hop").s3();
    let plain = || ask(&s3, &bucket, source.clone());
    answers.answer("copy: in the customer's role", plain().send().await, copied);
    let elsewhere = plain().key("elsewhere/1.json");
    answers.answer("copy: narrowed, another prefix", elsewhere.send().await, copied);
    put("others/1.json", "other").await;
    let foreign = ask(&s3, &bucket, format!("{}/others/1.json", provider.bucket));
    answers.answer("copy: narrowed, another source", foreign.send().await, copied);
}
