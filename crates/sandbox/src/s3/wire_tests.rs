use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    primitives::{ByteStream, DateTime, SdkBody},
    types::{
        BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload,
        CompletedPart, Delete, Event, FilterRule, FilterRuleName, NotificationConfiguration,
        NotificationConfigurationFilter, ObjectCannedAcl, ObjectIdentifier, ObjectLockMode,
        QueueConfiguration, S3KeyFilter, VersioningConfiguration,
    },
};
use aws_sdk_sqs::types::QueueAttributeName;
use logferry_testbed::provision::{Provider, ProviderSpec};

use crate::{
    faults::{Effect, ErrorAnswer, Fault},
    requests::sandbox,
};

/// The SDK's client against the HTTP front: tests what the SDK signs, encodes, checks and parses.
#[tokio::test]
async fn the_sdk_puts_gets_copies_and_lists() {
    let (_sandbox, aws) = sandbox().await;
    let s3 = aws.account("111111111111").s3();
    s3.create_bucket().bucket("wire").send().await.expect("made");
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    s3.put_bucket_versioning().bucket("wire").versioning_configuration(enabled).send().await.expect("set");

    let key = "a b/c+d/é&<>~'(1)=x:y.gz";
    let body: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc64Nvme] {
        let put = s3.put_object().bucket("wire").key(key).body(ByteStream::from(body.clone()));
        let put =
            put.checksum_algorithm(algorithm.clone()).content_encoding("gzip").metadata("origin", "here");
        let put = put.send().await.expect("put");
        let get =
            s3.get_object().bucket("wire").key(key).version_id(put.version_id().expect("versions are on"));
        let got = get.checksum_mode(ChecksumMode::Enabled).send().await.expect("got");
        assert_eq!(got.content_encoding(), Some("gzip"));
        assert_eq!(got.metadata().and_then(|all| all.get("origin")).map(String::as_str), Some("here"));
        let read = got.body.collect().await.expect("the checksum holds").into_bytes();
        assert!(read == body, "{algorithm:?}");
    }

    let stale = s3.get_object().bucket("wire").key(key).if_match("\"0\"").send().await.expect_err("changed");
    assert_eq!(stale.code(), Some("PreconditionFailed"));
    let missing = s3.get_object().bucket("wire").key("none").send().await.expect_err("missing");
    assert!(missing.into_service_error().is_no_such_key());
    let missing = s3.head_object().bucket("wire").key("none").send().await.expect_err("missing");
    assert!(missing.into_service_error().is_not_found());
    let head = s3.head_object().bucket("wire").key(key).send().await.expect("there");
    assert_eq!(head.content_length(), Some(1_200_000));

    let source = "wire/a%20b/c%2Bd/%C3%A9%26%3C%3E~%27%281%29%3Dx%3Ay.gz";
    let copied =
        s3.copy_object().bucket("wire").key("copy").copy_source(source).send().await.expect("copied");
    assert!(copied.copy_object_result().and_then(|result| result.e_tag()).is_some());
    let listed = s3.list_objects_v2().bucket("wire").send().await.expect("listed");
    let keys: Vec<_> = listed.contents().iter().filter_map(|object| object.key()).collect();
    assert_eq!(keys, [key, "copy"]);
}

#[tokio::test]
async fn the_sdk_reads_notifications_and_deletes() {
    let (_sandbox, aws) = sandbox().await;
    let account = aws.account("111111111111");
    let s3 = account.s3();
    s3.create_bucket().bucket("wired").send().await.expect("made");
    let queue = account.sqs().create_queue().queue_name("q");
    let arn = "arn:aws:sqs:us-east-1:111111111111:q";
    let policy = format!(
        r#"{{"Statement":{{"Effect":"Allow","Principal":{{"Service":"s3.amazonaws.com"}},"Action":"sqs:SendMessage","Resource":"{arn}"}}}}"#
    );
    let created = queue.attributes(QueueAttributeName::Policy, policy).send().await.expect("made");
    let suffix = FilterRule::builder().name(FilterRuleName::Suffix).value(".gz").build();
    let filter = NotificationConfigurationFilter::builder()
        .key(S3KeyFilter::builder().filter_rules(suffix).build())
        .build();
    let events = QueueConfiguration::builder()
        .queue_arn(arn)
        .events(Event::S3ObjectCreatedPut)
        .filter(filter)
        .build()
        .expect("complete");
    let configuration = NotificationConfiguration::builder().queue_configurations(events).build();
    let put = s3.put_bucket_notification_configuration().bucket("wired");
    put.notification_configuration(configuration).send().await.expect("the queue lets S3 send");
    let read = s3.get_bucket_notification_configuration().bucket("wired").send().await.expect("read");
    let [read] = read.queue_configurations() else { panic!("not one configuration: {read:?}") };
    assert_eq!((read.queue_arn(), read.events()), (arn, &[Event::S3ObjectCreatedPut][..]));
    let rules =
        read.filter().and_then(|filter| filter.key()).map(|key| key.filter_rules()).unwrap_or_default();
    assert_eq!(rules[0].value(), Some(".gz"));

    for key in ["a.gz", "a.txt"] {
        s3.put_object().bucket("wired").key(key).send().await.expect("put");
    }
    let url = created.queue_url.expect("SQS returns the URL");
    let receive = account.sqs().receive_message().queue_url(&url).max_number_of_messages(10);
    let got = receive.send().await.expect("received").messages.unwrap_or_default();
    let bodies: Vec<_> = got.iter().filter_map(|message| message.body()).collect();
    assert_eq!(bodies.len(), 2, "a test event, and one of the two objects: {bodies:?}");
    assert!(bodies.iter().any(|body| body.contains("a.gz")), "{bodies:?}");

    let delete = |key: &str| s3.delete_object().bucket("wired").key(key).send();
    delete("a.gz").await.expect("deleted");
    delete("a.gz").await.expect("a missing object can be deleted");
    let listed = s3.list_objects_v2().bucket("wired").send().await.expect("listed");
    assert_eq!(listed.contents().iter().filter_map(|object| object.key()).collect::<Vec<_>>(), ["a.txt"]);
}

/// The SDK sends no checksum algorithm with CreateMultipartUpload, and CRC-32 with each part. A streamed part has its checksum in a
/// trailer.
#[tokio::test]
async fn the_sdk_uploads_in_parts() {
    let (sandbox, aws) = sandbox().await;
    let provider =
        Provider::create(&aws, &ProviderSpec::new("parts")).await.expect("the provider's side is set up");
    let (account, bucket) = (aws.account(&provider.account), provider.bucket.as_str());
    let s3 = account.s3();
    let first: Vec<u8> =
        (0..1_310_720_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    for (algorithm, kind) in [
        (None, ChecksumType::FullObject),
        (Some(ChecksumAlgorithm::Crc32), ChecksumType::Composite),
        (Some(ChecksumAlgorithm::Crc32), ChecksumType::FullObject),
        (Some(ChecksumAlgorithm::Crc64Nvme), ChecksumType::FullObject),
    ] {
        let key = format!("a b/{algorithm:?}/{kind}+c");
        let create = s3.create_multipart_upload().bucket(bucket).key(&key).metadata("rows", "7");
        let create = create.content_encoding("zstd").acl(ObjectCannedAcl::BucketOwnerFullControl);
        let create = create.set_checksum_algorithm(algorithm.clone());
        let create = create.set_checksum_type(algorithm.as_ref().map(|_| kind.clone()));
        let created = create.send().await.expect("the upload is made");
        let id = created.upload_id().expect("an upload has an id");
        let mut parts = Vec::new();
        for (number, body) in [(1, first.clone()), (2, b"the end".to_vec())] {
            let length = body.len() as i64;
            let streamed = http_body_util::Full::new(bytes::Bytes::from(body));
            let body = ByteStream::new(SdkBody::from_body_1_x(streamed));
            let put = s3.upload_part().bucket(bucket).key(&key).upload_id(id).part_number(number).body(body);
            let put = put.content_length(length).set_checksum_algorithm(algorithm.clone());
            let put = put.send().await.expect("the part is put");
            let part =
                CompletedPart::builder().part_number(number).e_tag(put.e_tag().expect("a part has a tag"));
            let part = match kind {
                ChecksumType::Composite => part.set_checksum_crc32(put.checksum_crc32),
                _ => part,
            };
            parts.push(part.build());
        }
        assert_eq!(sandbox.open_uploads(bucket), [key.as_str()]);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete =
            s3.complete_multipart_upload().bucket(bucket).key(&key).upload_id(id).if_none_match("*");
        let done = complete.multipart_upload(parts).send().await.expect("the upload is completed");
        assert!(done.e_tag().is_some_and(|tag| tag.ends_with("-2\"")), "{done:?}");
        assert_eq!(done.checksum_type(), Some(&kind), "{done:?}");

        let got = s3.get_object().bucket(bucket).key(&key).checksum_mode(ChecksumMode::Enabled);
        let got = got.send().await.expect("the object is there");
        assert_eq!((got.content_encoding(), got.checksum_type()), (Some("zstd"), Some(&kind)));
        assert_eq!(got.metadata().and_then(|all| all.get("rows")).map(String::as_str), Some("7"));
        let read = got.body.collect().await.expect("the checksum holds").into_bytes();
        assert!(
            read.len() == first.len() + 7 && read.starts_with(&first) && read.ends_with(b"the end"),
            "{key}"
        );
    }
    let objects = account.objects(bucket).await.expect("the bucket can be listed");
    assert_eq!(objects.len(), 4);

    let receive = account.sqs().receive_message().queue_url(&provider.queue_url).max_number_of_messages(10);
    let got = receive.send().await.expect("received").messages.unwrap_or_default();
    let events =
        got.iter().filter_map(|message| message.body()).filter(|body| body.contains("ObjectCreated:"));
    let events: Vec<_> = events.collect();
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events.iter().all(|event| event.contains("ObjectCreated:CompleteMultipartUpload")), "{events:?}");
}

#[tokio::test]
async fn the_sdk_aborts_and_sees_faults_of_uploads() {
    let (sandbox, aws) = sandbox().await;
    let account = aws.account("111111111111");
    account.create_bucket("faulty").await.expect("made");
    let s3 = account.s3();
    let created = s3.create_multipart_upload().bucket("faulty").key("k").send().await.expect("made");
    let id = created.upload_id().expect("an upload has an id");
    let part = async || {
        let put = s3.upload_part().bucket("faulty").key("k").upload_id(id).part_number(1);
        put.body(ByteStream::from_static(b"x")).send().await
    };
    sandbox.faults().add(Fault {
        times: Some(1),
        ..Fault::new("s3", "UploadPart", Effect::Error(ErrorAnswer::new(403, "AccessDenied")))
    });
    assert_eq!(part().await.expect_err("the fault is active").code(), Some("AccessDenied"));
    let tag = part().await.expect("the fault is used up").e_tag.expect("a part has a tag");
    assert_eq!(sandbox.calls("s3", "UploadPart"), 2);
    let complete = async || {
        let part = CompletedPart::builder().part_number(1).e_tag(&tag).build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        let complete = s3.complete_multipart_upload().bucket("faulty").key("k").upload_id(id);
        complete.multipart_upload(parts).send().await
    };
    s3.put_object().bucket("faulty").key("k").if_none_match("*").send().await.expect("the key is free");
    let taken = s3.put_object().bucket("faulty").key("k").if_none_match("*").send().await;
    assert_eq!(taken.expect_err("the key is taken").code(), Some("PreconditionFailed"));
    // S3 sends the status of CompleteMultipartUpload before it knows the result, so an error can have status 200.
    sandbox.faults().add(Fault {
        times: Some(1),
        ..Fault::new("s3", "CompleteMultipartUpload", Effect::Error(ErrorAnswer::new(200, "MalformedXML")))
    });
    assert_eq!(complete().await.expect_err("the fault is active").code(), Some("MalformedXML"));
    s3.abort_multipart_upload().bucket("faulty").key("k").upload_id(id).send().await.expect("aborted");
    assert_eq!(complete().await.expect_err("the upload is gone").code(), Some("NoSuchUpload"));
    assert!(sandbox.open_uploads("faulty").is_empty());
}

#[tokio::test]
async fn the_sdk_locks_objects_and_deletes_several() {
    let (_sandbox, aws) = sandbox().await;
    let account = aws.account("111111111111");
    let s3 = account.s3();
    s3.create_bucket().bucket("kept").object_lock_enabled_for_bucket(true).send().await.expect("made");
    let until = DateTime::from_secs(jiff::Timestamp::now().as_second() + 3_600);
    let put = s3.put_object().bucket("kept").key("locked").body(ByteStream::from_static(b"x"));
    let put = put.object_lock_mode(ObjectLockMode::Compliance).object_lock_retain_until_date(until);
    let locked = put.send().await.expect("the SDK sends a checksum").version_id.expect("versions are on");
    let upload =
        s3.create_multipart_upload().bucket("kept").key("parts").object_lock_retain_until_date(until);
    upload.object_lock_mode(ObjectLockMode::Governance).send().await.expect("made");
    s3.put_object().bucket("kept").key("a b&<c>").send().await.expect("put");
    let head = s3.head_object().bucket("kept").key("locked").send().await.expect("there");
    assert_eq!(head.object_lock_mode(), Some(&ObjectLockMode::Compliance));
    assert_eq!(head.object_lock_retain_until_date().map(DateTime::secs), Some(until.secs()));
    let refused = s3.delete_object().bucket("kept").key("locked").version_id(&locked).send().await;
    assert_eq!(refused.expect_err("locked").code(), Some("AccessDenied"));

    let named = |key: &str, version: Option<&str>| {
        let object = ObjectIdentifier::builder().key(key).set_version_id(version.map(str::to_owned));
        object.build().expect("complete")
    };
    let objects = [named("locked", Some(&locked)), named("a b&<c>", None), named("locked", None)];
    let delete = Delete::builder().set_objects(Some(objects.into())).build().expect("complete");
    let done = s3.delete_objects().bucket("kept").delete(delete).send().await.expect("answered");
    let deleted: Vec<_> = done.deleted().iter().filter_map(|deleted| deleted.key()).collect();
    assert_eq!(deleted, ["a b&<c>", "locked"]);
    let [error] = done.errors() else { panic!("not one error: {done:?}") };
    assert_eq!((error.key(), error.code()), (Some("locked"), Some("AccessDenied")));
    assert_eq!(error.version_id(), Some(locked.as_str()));
    assert!(account.objects("kept").await.expect("listed").is_empty());
    let kept = s3.get_object().bucket("kept").key("locked").version_id(&locked).send().await.expect("kept");
    assert_eq!(kept.body.collect().await.expect("read").into_bytes(), "x");
}
