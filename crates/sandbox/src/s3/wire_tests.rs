use aws_sdk_s3::{
    error::ProvideErrorMetadata,
    primitives::ByteStream,
    types::{BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, VersioningConfiguration},
};

use crate::requests::sandbox;

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
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
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
