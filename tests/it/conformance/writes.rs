//! S3: what a writer of files needs: uploads in parts, conditional writes, Object Lock, and deletes.

use aws_sdk_s3::{
    Client,
    operation::{
        complete_multipart_upload::{
            CompleteMultipartUploadOutput, builders::CompleteMultipartUploadFluentBuilder,
        },
        create_multipart_upload::CreateMultipartUploadOutput,
        delete_object::DeleteObjectOutput,
        delete_objects::DeleteObjectsOutput,
        get_object::GetObjectOutput,
        list_objects_v2::ListObjectsV2Output,
        put_object::PutObjectOutput,
        upload_part::{UploadPartOutput, builders::UploadPartFluentBuilder},
    },
    primitives::DateTime,
    types::{
        ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart, Delete, ObjectCannedAcl,
        ObjectIdentifier, ObjectLockMode,
    },
};

use logferry_testbed::provision::CustomerSpec;

use super::{Answers, nothing};
use crate::setup::Setup;

/// Smallest part that is not the last.
const PART: usize = 5 << 20;

fn created(output: CreateMultipartUploadOutput) -> String {
    let checksum = (output.checksum_algorithm, output.checksum_type);
    format!("upload id {}, checksum {checksum:?}", output.upload_id.is_some())
}

fn put(output: PutObjectOutput) -> String {
    format!("etag {:?}, version {}", output.e_tag, output.version_id.is_some())
}

fn part_put(output: UploadPartOutput) -> String {
    format!("etag {:?}, CRC-32 {:?}", output.e_tag, output.checksum_crc32)
}

fn completed(output: CompleteMultipartUploadOutput) -> String {
    let checksum = (output.checksum_type, output.checksum_crc32, output.checksum_crc64_nvme);
    format!("etag {:?}, checksum {checksum:?}, version {}", output.e_tag, output.version_id.is_some())
}

fn got(output: GetObjectOutput) -> String {
    format!(
        "{:?} bytes, etag {:?}, {:?}, {:?}, {:?}",
        output.content_length, output.e_tag, output.content_type, output.content_encoding, output.metadata
    )
}

fn deleted(output: DeleteObjectOutput) -> String {
    format!("delete marker {:?}, version {}", output.delete_marker, output.version_id.is_some())
}

fn deleted_many(output: DeleteObjectsOutput) -> String {
    let deleted = output.deleted.unwrap_or_default();
    let deleted = deleted
        .iter()
        .map(|one| (one.key().unwrap_or_default(), one.delete_marker(), one.version_id().is_some()));
    let errors = output.errors.unwrap_or_default();
    let errors = errors.iter().map(|one| (one.key().unwrap_or_default(), one.code().unwrap_or_default()));
    format!("{:?}, errors {:?}", deleted.collect::<Vec<_>>(), errors.collect::<Vec<_>>())
}

fn listed(output: ListObjectsV2Output) -> String {
    let keys: Vec<_> = output.contents().iter().filter_map(|object| object.key()).collect();
    let prefixes: Vec<_> = output.common_prefixes().iter().filter_map(|common| common.prefix()).collect();
    format!(
        "{keys:?}, prefixes {prefixes:?}, count {:?}, more {:?}",
        output.key_count(),
        output.is_truncated()
    )
}

fn part(number: i32, etag: &str) -> CompletedPart {
    CompletedPart::builder().part_number(number).e_tag(etag).build()
}

/// The upload of one key.
struct Uploading<'a> {
    s3: &'a Client,
    bucket: &'a str,
    key: &'a str,
    id: String,
}

impl<'a> Uploading<'a> {
    async fn start(s3: &'a Client, bucket: &'a str, key: &'a str) -> Self {
        let created = s3.create_multipart_upload().bucket(bucket).key(key).send().await;
        let id = created.expect("the upload is made").upload_id.expect("an upload has an id");
        Self { s3, bucket, key, id }
    }

    fn put(&self, number: i32, body: Vec<u8>) -> UploadPartFluentBuilder {
        let put = self.s3.upload_part().bucket(self.bucket).key(self.key).upload_id(&self.id);
        put.part_number(number).body(body.into())
    }

    async fn put_etag(&self, number: i32, body: Vec<u8>) -> String {
        self.put(number, body).send().await.expect("the part is put").e_tag.expect("a part has a tag")
    }

    fn complete(&self, parts: &[CompletedPart]) -> CompleteMultipartUploadFluentBuilder {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.to_vec())).build();
        let complete = self.s3.complete_multipart_upload().bucket(self.bucket).key(self.key);
        complete.upload_id(&self.id).multipart_upload(parts)
    }
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let account = setup.account();
    let bucket = format!("{}-written", setup.provider.bucket);
    account.create_bucket(&bucket).await.expect("the bucket can be created");
    account.enable_versioning(&bucket).await.expect("the bucket can have versions");
    let s3 = account.s3();
    ask_parts(&s3, &bucket, answers).await;
    ask_bad_parts(&s3, &bucket, answers).await;
    ask_checksums(&s3, &bucket, answers).await;
    ask_conditions(&s3, &bucket, answers).await;
    ask_locks(&s3, &bucket, answers).await;
    ask_deletes(&s3, &bucket, answers).await;
    ask_roles(setup, answers).await;
}

async fn ask_parts(s3: &Client, bucket: &str, answers: &mut Answers) {
    let key = "parts/a b+c/\u{e4}";
    let create = s3.create_multipart_upload().bucket(bucket).key(key).metadata("rows", "7");
    let create = create.content_type("text/x-log").content_encoding("zstd");
    let made = create.acl(ObjectCannedAcl::BucketOwnerFullControl).send().await;
    let id = made.as_ref().ok().and_then(|made| made.upload_id.clone()).unwrap_or_default();
    answers.answer("parts: create", made, created);
    let upload = Uploading { s3, bucket, key, id };
    answers.answer("parts: the second part", upload.put(2, b"end".to_vec()).send().await, part_put);
    let first = upload.put_etag(1, vec![b'a'; PART]).await;
    let second = upload.put_etag(2, b"the end".to_vec()).await;
    let get = async || s3.get_object().bucket(bucket).key(key).send().await;
    answers.answer("parts: get before completion", get().await, got);
    let parts = [part(1, &first), part(2, &second)];
    answers.answer("parts: complete", upload.complete(&parts).send().await, completed);
    answers.answer("parts: get", get().await, got);
    answers.answer("parts: complete again", upload.complete(&parts).send().await, nothing);
    answers.answer("parts: a part after completion", upload.put(3, vec![b'x']).send().await, nothing);
}

async fn ask_bad_parts(s3: &Client, bucket: &str, answers: &mut Answers) {
    // A double may take a bad list, so each question has an upload of its own.
    let (first, second) = ("\"eb5c1399a871211c7e7ed732d15e3a8b\"", "\"7f021a1415b86f2d013b2618fb31ae53\"");
    for (question, parts) in [
        ("parts: a small part before the last", vec![part(1, first), part(2, second)]),
        ("parts: out of order", vec![part(2, second), part(1, first)]),
        ("parts: another ETag", vec![part(1, second)]),
        ("parts: a missing part", vec![part(3, second)]),
        ("parts: none", vec![]),
    ] {
        let upload = Uploading::start(s3, bucket, "parts/bad").await;
        assert_eq!(upload.put_etag(1, b"small".to_vec()).await, first);
        assert_eq!(upload.put_etag(2, b"end".to_vec()).await, second);
        answers.answer(question, upload.complete(&parts).send().await, nothing);
    }
    let upload = Uploading::start(s3, bucket, "parts/size").await;
    let parts = [part(1, &upload.put_etag(1, b"small".to_vec()).await)];
    let size = upload.complete(&parts).mpu_object_size(6);
    answers.answer("parts: another size", size.send().await, nothing);

    let upload = Uploading::start(s3, bucket, "parts/aborted").await;
    let parts = [part(1, &upload.put_etag(1, b"small".to_vec()).await)];
    for number in [0, 10_001] {
        answers.answer(&format!("parts: number {number}"), upload.put(number, vec![]).send().await, nothing);
    }
    let abort = async || {
        let abort = s3.abort_multipart_upload().bucket(bucket).key(upload.key).upload_id(&upload.id);
        abort.send().await
    };
    answers.answer("parts: abort", abort().await, nothing);
    answers.answer("parts: abort again", abort().await, nothing);
    answers.answer("parts: complete an aborted upload", upload.complete(&parts).send().await, nothing);
    let get = s3.get_object().bucket(bucket).key(upload.key);
    answers.answer("parts: get of an aborted upload", get.send().await, nothing);
}

async fn ask_checksums(s3: &Client, bucket: &str, answers: &mut Answers) {
    let create = || s3.create_multipart_upload().bucket(bucket).key("parts/crc32");
    let made = create().checksum_algorithm(ChecksumAlgorithm::Crc32).send().await;
    let id = made.as_ref().ok().and_then(|made| made.upload_id.clone()).unwrap_or_default();
    answers.answer("parts: create with CRC-32", made, created);
    let upload = Uploading { s3, bucket, key: "parts/crc32", id };
    let put = upload.put(1, b"123456789".to_vec()).send().await.expect("the part is put");
    answers.note("parts: CRC-32 of a part", format!("{:?}", put.checksum_crc32));
    let wrong = upload.put(1, b"123456789".to_vec()).checksum_crc32("AAAAAA==").send().await;
    answers.answer("parts: a wrong CRC-32", wrong, nothing);
    let etag = put.e_tag.expect("a part has a tag");
    let with = CompletedPart::builder().part_number(1).e_tag(&etag).checksum_crc32("y/Q5Jg==").build();
    answers.answer("parts: complete with CRC-32", upload.complete(&[with]).send().await, completed);
    let made =
        create().checksum_algorithm(ChecksumAlgorithm::Crc32).send().await.expect("the upload is made");
    let id = made.upload_id.expect("an upload has an id");
    let upload = Uploading { s3, bucket, key: "parts/crc32", id };
    let parts = [part(1, &upload.put_etag(1, b"123456789".to_vec()).await)];
    let without = upload.complete(&parts).send().await;
    answers.answer("parts: complete without the CRC-32 of a part", without, nothing);
    let typed = create().checksum_type(ChecksumType::Composite);
    answers.answer("parts: create with a type alone", typed.send().await, nothing);
}

async fn ask_conditions(s3: &Client, bucket: &str, answers: &mut Answers) {
    let write = |key: &str| s3.put_object().bucket(bucket).key(key).body(b"x".to_vec().into());
    let acl = write("conditions/a").acl(ObjectCannedAcl::BucketOwnerFullControl).if_none_match("*");
    answers.answer("put: a new object", acl.send().await, put);
    answers.answer("put: an object that exists", write("conditions/a").if_none_match("*").send().await, put);
    let etag = "\"9dd4e461268c8034f5c8564e155c67a6\"";
    let other = "\"00000000000000000000000000000000\"";
    answers.answer("put: if-match with the ETag", write("conditions/a").if_match(etag).send().await, put);
    answers.answer(
        "put: if-match with another ETag",
        write("conditions/a").if_match(other).send().await,
        put,
    );
    answers.answer("put: if-match without an object", write("conditions/b").if_match(etag).send().await, put);
    let upload = Uploading::start(s3, bucket, "conditions/a").await;
    let parts = [part(1, &upload.put_etag(1, b"y".to_vec()).await)];
    let complete = || upload.complete(&parts);
    answers.answer("parts: an object that exists", complete().if_none_match("*").send().await, nothing);
    answers.answer("parts: if-match with another ETag", complete().if_match(other).send().await, nothing);
    answers.answer("parts: if-match with the ETag", complete().if_match(etag).send().await, nothing);
}

async fn ask_locks(s3: &Client, plain: &str, answers: &mut Answers) {
    let bucket = format!("{plain}-locked");
    let until = |seconds: i64| DateTime::from_secs(jiff::Timestamp::now().as_second() + seconds);
    let create = s3.create_bucket().bucket(&bucket).object_lock_enabled_for_bucket(true);
    answers.answer("lock: create a bucket", create.send().await, nothing);
    let write = |bucket: &str, until| {
        let put = s3.put_object().bucket(bucket).key("k").body(b"x".to_vec().into());
        put.object_lock_mode(ObjectLockMode::Governance).object_lock_retain_until_date(until)
    };
    answers.answer("lock: put into a bucket without", write(plain, until(3_600)).send().await, put);
    answers.answer("lock: put with a date in the past", write(&bucket, until(-3_600)).send().await, put);
    let half = s3.put_object().bucket(&bucket).key("half").object_lock_mode(ObjectLockMode::Governance);
    answers.answer("lock: put without a date", half.send().await, nothing);
    let locked = write(&bucket, until(3_600)).send().await;
    let version = locked.as_ref().ok().and_then(|put| put.version_id.clone());
    answers.answer("lock: put", locked, put);
    let head = async |key: &str| {
        let head = s3.head_object().bucket(&bucket).key(key).send().await;
        head.map(|head| (head.object_lock_mode, head.object_lock_retain_until_date.is_some()))
    };
    answers.answer("lock: head", head("k").await, |told| format!("{told:?}"));
    let delete = || s3.delete_object().bucket(&bucket).key("k");
    answers.answer(
        "lock: delete the version",
        delete().set_version_id(version.clone()).send().await,
        deleted,
    );
    answers.answer("lock: delete", delete().send().await, deleted);
    let forced = delete().set_version_id(version).bypass_governance_retention(true).send().await;
    answers.answer("lock: delete the version by bypass", forced, deleted);

    let create =
        s3.create_multipart_upload().bucket(&bucket).key("parts").object_lock_retain_until_date(until(3_600));
    let made = create.object_lock_mode(ObjectLockMode::Compliance).send().await;
    let id = made.as_ref().ok().and_then(|made| made.upload_id.clone()).unwrap_or_default();
    answers.answer("lock: create an upload", made, created);
    let upload = Uploading { s3, bucket: &bucket, key: "parts", id };
    let parts = [part(1, &upload.put_etag(1, b"x".to_vec()).await)];
    answers.answer("lock: complete an upload", upload.complete(&parts).send().await, nothing);
    answers.answer("lock: head of an upload", head("parts").await, |told| format!("{told:?}"));
}

async fn ask_deletes(s3: &Client, bucket: &str, answers: &mut Answers) {
    for key in ["deletes/1", "deletes/2&3", "deletes/a/4", "deletes/a/5", "deletes/b/6"] {
        s3.put_object().bucket(bucket).key(key).send().await.expect("the object can be put");
    }
    let list = || s3.list_objects_v2().bucket(bucket).prefix("deletes/").delimiter("/");
    answers.answer("list: with a delimiter", list().send().await, listed);
    let first = list().max_keys(3).send().await;
    let token = first.as_ref().ok().and_then(|page| page.next_continuation_token.clone());
    answers.answer("list: a page with a delimiter", first, listed);
    let second = list().max_keys(3).set_continuation_token(token).send().await;
    answers.answer("list: the next page with a delimiter", second, listed);

    let named = |key: &str| ObjectIdentifier::builder().key(key).build().expect("complete");
    let delete = async |quiet: bool, keys: &[&str]| {
        let objects = keys.iter().map(|key| named(key)).collect();
        let delete = Delete::builder().quiet(quiet).set_objects(Some(objects)).build().expect("complete");
        s3.delete_objects().bucket(bucket).delete(delete).send().await
    };
    answers.answer(
        "delete: several",
        delete(false, &["deletes/1", "deletes/2&3", "deletes/none"]).await,
        deleted_many,
    );
    answers.answer("delete: several quietly", delete(true, &["deletes/a/4"]).await, deleted_many);
    answers.answer("delete: none of several", delete(false, &[]).await, deleted_many);
    answers.answer("delete: 1,001", delete(true, &["deletes/none"; 1_001]).await, deleted_many);
    answers.answer("list: after the deletes", list().send().await, listed);
}

/// Writes into a customer's bucket, in the central role and in the customer's role. The bucket's policy requires the ACL of the
/// central role; neither role may abort or delete.
async fn ask_roles(setup: &Setup, answers: &mut Answers) {
    let (aws, provider) = (&setup.aws, &setup.provider);
    let customer = setup.customer_without_row(CustomerSpec::new("writes")).await;
    let bucket = format!("{}-theirs-written", provider.bucket);
    customer.create_bucket(aws, provider, &bucket).await.expect("the bucket can be created");
    customer.let_role_copy(aws, provider, &bucket).await.expect("the policy can be set");
    let (_, central) = provider.first_hop(aws).await.expect("the worker may take the first hop");
    let id = [("ExternalId", customer.external_id.as_str())];
    let theirs = central.assume_role(&customer.role_arn, "theirs", &id).await;
    let theirs = theirs.expect("the central role may take the second hop");
    for (role, s3, key) in [("central", central.s3(), "central"), ("customer's", theirs.s3(), "theirs")] {
        let create = || s3.create_multipart_upload().bucket(&bucket).key(key);
        let made = create().acl(ObjectCannedAcl::BucketOwnerFullControl).send().await;
        let id = made.as_ref().ok().and_then(|made| made.upload_id.clone()).unwrap_or_default();
        answers.answer(&format!("parts: create in the {role} role"), made, nothing);
        let upload = Uploading { s3: &s3, bucket: &bucket, key, id };
        let put = upload.put(1, b"x".to_vec()).send().await;
        let etag = put.as_ref().ok().and_then(|put| put.e_tag.clone()).unwrap_or_default();
        answers.answer(&format!("parts: a part in the {role} role"), put, nothing);
        let abort = s3.abort_multipart_upload().bucket(&bucket).key(key).upload_id(&upload.id);
        answers.answer(&format!("parts: abort in the {role} role"), abort.send().await, nothing);
        let complete = upload.complete(&[part(1, &etag)]).send().await;
        answers.answer(&format!("parts: complete in the {role} role"), complete, nothing);
        answers.answer(&format!("parts: without the ACL in the {role} role"), create().send().await, nothing);
        let delete = s3.delete_object().bucket(&bucket).key(key);
        answers.answer(&format!("delete: in the {role} role"), delete.send().await, nothing);
        let named = ObjectIdentifier::builder().key(key).build().expect("complete");
        let delete = Delete::builder().objects(named).build().expect("complete");
        let delete = s3.delete_objects().bucket(&bucket).delete(delete);
        answers.answer(&format!("delete: several in the {role} role"), delete.send().await, deleted_many);
    }
}
