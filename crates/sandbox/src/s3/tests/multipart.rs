use super::*;

const PART: usize = 5 << 20;

/// Body of CompleteMultipartUpload; parts by number, ETag and further elements.
fn listing(parts: &[(u16, &str, &str)]) -> String {
    let parts = parts.iter().map(|(number, etag, more)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag>{more}</Part>")
    });
    format!(
        "<CompleteMultipartUpload xmlns=\"{NAMESPACE}\">{}</CompleteMultipartUpload>",
        parts.collect::<String>()
    )
}

/// An upload of one test.
struct Uploading {
    path: &'static str,
    caller: Call,
    id: String,
}

impl Uploading {
    async fn start(cloud: &Arc<Cloud>, create: Request, path: &'static str) -> Self {
        let caller = Call { headers: HeaderMap::new(), ..create.call.clone() };
        let created = create.ok(cloud).await;
        Self { path, caller, id: created.elements("UploadId").remove(0) }
    }

    fn call(&self, operation: &str) -> Request {
        Request::by(self.caller.clone(), operation, self.path).query("uploadId", &self.id)
    }

    fn part(&self, number: u16, body: impl Into<Bytes>) -> Request {
        self.call("UploadPart").query("partNumber", &number.to_string()).body(body)
    }

    async fn put(&self, cloud: &Arc<Cloud>, number: u16, body: impl Into<Bytes>) -> String {
        self.part(number, body).ok(cloud).await.header("etag").to_owned()
    }

    fn complete(&self, parts: &[(u16, &str, &str)]) -> Request {
        self.call("CompleteMultipartUpload").body(listing(parts))
    }
}

fn create(path: &str) -> Request {
    Request::new("CreateMultipartUpload", path)
}

async fn uploading(cloud: &Arc<Cloud>) -> Uploading {
    Uploading::start(cloud, create("/staging/k"), "/staging/k").await
}

#[tokio::test]
async fn an_object_of_parts_appears_when_it_is_completed() {
    let cloud = with_bucket("staging").await;
    let make = create("/staging/k").header("content-type", "text/x-log").header("content-encoding", "zstd");
    let make = make.header("x-amz-meta-rows", "7").header("x-amz-acl", "bucket-owner-full-control");
    let upload = Uploading::start(&cloud, make, "/staging/k").await;
    let second = upload.put(&cloud, 7, "the end").await;
    upload.put(&cloud, 2, "replaced").await;
    let first = upload.put(&cloud, 2, vec![b'a'; PART]).await;
    let get = || Request::new("GetObject", "/staging/k");
    assert_eq!(get().code(&cloud).await, "NoSuchKey");
    assert_eq!(cloud.s3.open_uploads("staging"), ["k"]);

    let done = upload.complete(&[(2, &first, ""), (7, &second, "")]).ok(&cloud).await;
    // The MD5 of both parts' MD5 sums, computed with another implementation.
    assert_eq!(done.elements("ETag"), ["\"dc2bc882b07e1e67a48bed8997ce6caf-2\""]);
    assert_eq!(
        (done.elements("Bucket"), done.elements("Key")),
        (vec!["staging".to_owned()], vec!["k".to_owned()])
    );
    let got = get().header("x-amz-checksum-mode", "ENABLED").ok(&cloud).await;
    assert_eq!((got.body.len(), &got.body[PART..]), (PART + 7, b"the end".as_slice()));
    assert_eq!(got.header("etag"), done.elements("ETag")[0]);
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), done.elements("ChecksumCRC64NVME")[0]);
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
    assert_eq!(got.header("content-type"), "text/x-log");
    assert_eq!(got.header("content-encoding"), "zstd");
    assert_eq!(got.header("x-amz-meta-rows"), "7");
    assert!(cloud.s3.open_uploads("staging").is_empty());
    assert_eq!(upload.complete(&[(2, &first, "")]).code(&cloud).await, "NoSuchUpload");

    let copy = Request::new("CopyObject", "/staging/copy").header("x-amz-copy-source", "staging/k");
    let etag = copy.ok(&cloud).await.elements("ETag").remove(0);
    assert_eq!(etag.len(), 34, "a copy has no parts: {etag}");
}

#[tokio::test]
async fn a_bad_list_of_parts_is_refused_and_the_upload_stays() {
    let cloud = with_bucket("staging").await;
    let upload = uploading(&cloud).await;
    let small = upload.put(&cloud, 1, "small").await;
    let last = upload.put(&cloud, 2, "last").await;
    let error =
        upload.complete(&[(1, &small, ""), (2, &last, "")]).send(&cloud).await.expect_err("too small");
    assert_eq!((error.status, error.code.as_str()), (400, "EntityTooSmall"));
    assert!(error.members.contains(&("ProposedSize".to_owned(), json!(5))), "{:?}", error.members);
    let refused = async |parts: &[(u16, &str, &str)]| upload.complete(parts).code(&cloud).await;
    assert_eq!(refused(&[(2, &last, ""), (1, &small, "")]).await, "InvalidPartOrder");
    assert_eq!(refused(&[(1, &small, ""), (1, &small, "")]).await, "InvalidPartOrder");
    assert_eq!(refused(&[(1, &last, "")]).await, "InvalidPart");
    assert_eq!(refused(&[(3, &last, "")]).await, "InvalidPart");
    assert_eq!(refused(&[]).await, "MalformedXML");
    assert_eq!(refused(&[(1, &small, "<Colour/>")]).await, "MalformedXML");
    let broken = upload.call("CompleteMultipartUpload").body("<Parts");
    assert_eq!(broken.code(&cloud).await, "MalformedXML");
    let size = |size| upload.complete(&[(1, &small, "")]).header("x-amz-mp-object-size", size);
    assert_eq!(size("6").code(&cloud).await, "InvalidRequest");
    for number in ["0", "10001", "x", ""] {
        let part = upload.call("UploadPart").query("partNumber", number);
        assert_eq!(part.code(&cloud).await, "InvalidArgument", "{number}");
    }
    let md5 = upload.part(3, "x").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==");
    assert_eq!(md5.code(&cloud).await, "BadDigest");
    size("5").ok(&cloud).await;
}

#[tokio::test]
async fn an_aborted_or_unknown_upload_does_not_exist() {
    let cloud = with_bucket("staging").await;
    let upload = uploading(&cloud).await;
    let etag = upload.put(&cloud, 1, "x").await;
    let elsewhere =
        Uploading { path: "/staging/other", caller: upload.caller.clone(), id: upload.id.clone() };
    assert_eq!(elsewhere.part(1, "x").code(&cloud).await, "NoSuchUpload");
    assert_eq!(elsewhere.call("AbortMultipartUpload").code(&cloud).await, "NoSuchUpload");
    let aborted = upload.call("AbortMultipartUpload").ok(&cloud).await;
    assert_eq!(aborted.status, StatusCode::NO_CONTENT);
    assert_eq!(upload.call("AbortMultipartUpload").code(&cloud).await, "NoSuchUpload");
    assert_eq!(upload.part(1, "x").code(&cloud).await, "NoSuchUpload");
    assert_eq!(upload.complete(&[(1, &etag, "")]).code(&cloud).await, "NoSuchUpload");
    assert_eq!(Request::new("GetObject", "/staging/k").code(&cloud).await, "NoSuchKey");
}

#[tokio::test]
async fn a_completion_can_require_a_missing_object_or_an_etag() {
    let cloud = with_bucket("staging").await;
    let upload = uploading(&cloud).await;
    let part = upload.put(&cloud, 1, "new").await;
    let complete = || upload.complete(&[(1, &part, "")]);
    assert_eq!(complete().header("if-match", "\"0\"").code(&cloud).await, "NoSuchKey");
    let put = Request::new("PutObject", "/staging/k").body("old").ok(&cloud).await;
    let error = complete().header("if-none-match", "*").send(&cloud).await.expect_err("there is an object");
    assert_eq!((error.status, error.code.as_str()), (412, "PreconditionFailed"));
    assert_eq!(error.members, [("Condition".to_owned(), json!("If-None-Match"))]);
    assert_eq!(complete().header("if-match", "\"0\"").code(&cloud).await, "PreconditionFailed");
    complete().header("if-match", put.header("etag")).ok(&cloud).await;
    assert_eq!(Request::new("GetObject", "/staging/k").ok(&cloud).await.body, "new");
}

#[tokio::test]
async fn checksums_of_parts_make_the_checksum_of_the_object() {
    let cloud = with_bucket("staging").await;
    let with = |algorithm| create("/staging/k").header("x-amz-checksum-algorithm", algorithm);
    let refused = async |make: Request| make.code(&cloud).await;
    let typed = |make: Request, kind| make.header("x-amz-checksum-type", kind);
    assert_eq!(refused(typed(with("CRC64NVME"), "COMPOSITE")).await, "InvalidRequest");
    assert_eq!(refused(typed(create("/staging/k"), "COMPOSITE")).await, "InvalidRequest");
    assert_eq!(refused(with("SHA1")).await, "NotImplemented");

    // CRC-32 of "123456789" is its published check value; that of the composite checksum is of the four bytes of it.
    let sum = "<ChecksumCRC32>y/Q5Jg==</ChecksumCRC32>";
    let upload = Uploading::start(&cloud, with("CRC32"), "/staging/k").await;
    let part = || upload.part(1, "123456789");
    assert_eq!(part().code(&cloud).await, "InvalidRequest", "a part needs the upload's checksum");
    let other = part().header("x-amz-checksum-crc64nvme", "rosUhgp5mIg=");
    assert_eq!(other.code(&cloud).await, "InvalidRequest");
    assert_eq!(part().header("x-amz-checksum-crc32", "AAAAAA==").code(&cloud).await, "BadDigest");
    let etag = part().header("x-amz-checksum-crc32", "y/Q5Jg==").ok(&cloud).await.header("etag").to_owned();
    let complete = |more| upload.complete(&[(1, &etag, more)]);
    assert_eq!(complete("").code(&cloud).await, "InvalidRequest");
    assert_eq!(complete("<ChecksumCRC32>AAAAAA==</ChecksumCRC32>").code(&cloud).await, "InvalidPart");
    assert_eq!(complete("<ChecksumCRC32>!</ChecksumCRC32>").code(&cloud).await, "InvalidArgument");
    assert_eq!(
        complete(sum).header("x-amz-checksum-type", "FULL_OBJECT").code(&cloud).await,
        "InvalidRequest"
    );
    assert_eq!(complete(sum).header("x-amz-checksum-crc32", "y/Q5Jg==").code(&cloud).await, "BadDigest");
    let done = complete(sum).ok(&cloud).await;
    assert_eq!(done.elements("ChecksumType"), ["COMPOSITE"]);
    assert_eq!(done.elements("ChecksumCRC32"), ["7kxlUA==-1"]);
    let head =
        Request::new("HeadObject", "/staging/k").header("x-amz-checksum-mode", "ENABLED").ok(&cloud).await;
    assert_eq!(head.header("x-amz-checksum-crc32"), done.elements("ChecksumCRC32")[0]);
    assert_eq!(head.header("x-amz-checksum-type"), "COMPOSITE");

    let copy = Request::new("CopyObject", "/staging/copy").header("x-amz-copy-source", "staging/k");
    assert_eq!(copy.ok(&cloud).await.elements("ChecksumCRC32"), ["y/Q5Jg=="], "a copy has no parts");

    let upload = Uploading::start(&cloud, typed(with("CRC32"), "FULL_OBJECT"), "/staging/k").await;
    let etag = upload.put(&cloud, 3, "123456789").await;
    let complete = |sum| upload.complete(&[(3, &etag, "")]).header("x-amz-checksum-crc32", sum);
    assert_eq!(complete("AAAAAA==").code(&cloud).await, "BadDigest");
    assert_eq!(complete("y/Q5Jg==").ok(&cloud).await.elements("ChecksumCRC32"), ["y/Q5Jg=="]);

    let upload = Uploading::start(&cloud, with("CRC32"), "/staging/k").await;
    let part = upload.part(2, "123456789").header("x-amz-checksum-crc32", "y/Q5Jg==").ok(&cloud).await;
    let gap = upload.complete(&[(2, part.header("etag"), sum)]);
    assert_eq!(gap.code(&cloud).await, "InternalError", "composite checksums need parts without a gap");

    let upload = uploading(&cloud).await;
    let part = upload.part(1, "123456789").header("x-amz-checksum-crc32", "y/Q5Jg==").ok(&cloud).await;
    assert_eq!(part.header("x-amz-checksum-crc32"), "y/Q5Jg==");
    let named = upload.complete(&[(1, part.header("etag"), "<ChecksumCRC32>y/Q5Jg==</ChecksumCRC32>")]);
    assert_eq!(named.code(&cloud).await, "InvalidPart", "the upload names no algorithm");
    let done = upload.complete(&[(1, part.header("etag"), "")]).ok(&cloud).await;
    assert_eq!(done.elements("ChecksumCRC64NVME"), ["rosUhgp5mIg="]);
}

#[tokio::test]
async fn an_upload_needs_put_object_and_its_abort_another_permission() {
    let cloud = with_bucket("theirs").await;
    cloud.iam.record();
    let allowed = json!({"Version": "2012-10-17", "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:PutObject", "s3:PutObjectAcl"],
            "Resource": "arn:aws:s3:::theirs/in/*",
            "Condition": {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}},
        },
    ]});
    let writer = role_session(&cloud, CUSTOMER, "writer", &allowed).await;
    let make = |path: &'static str| Request::by(writer.clone(), "CreateMultipartUpload", path);
    let make = |path| make(path).header("x-amz-acl", "bucket-owner-full-control");
    assert_eq!(make("/theirs/in/k").code(&cloud).await, "AccessDenied", "the bucket's policy is missing");
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": {"AWS": CUSTOMER},
        "Action": ["s3:PutObject", "s3:PutObjectAcl", "s3:AbortMultipartUpload"],
        "Resource": "arn:aws:s3:::theirs/in/*",
        "Condition": {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}},
    }]});
    Request::new("PutBucketPolicy", "/theirs").body(policy.to_string()).ok(&cloud).await;
    assert_eq!(make("/theirs/out/k").code(&cloud).await, "AccessDenied");
    let without = Request::by(writer.clone(), "CreateMultipartUpload", "/theirs/in/k");
    assert_eq!(without.code(&cloud).await, "AccessDenied", "the bucket's policy requires the ACL");
    let upload = Uploading::start(&cloud, make("/theirs/in/k"), "/theirs/in/k").await;
    let etag = upload.put(&cloud, 1, "x").await;
    assert_eq!(upload.call("AbortMultipartUpload").code(&cloud).await, "AccessDenied");
    let stranger = Uploading { caller: root("333333333333"), path: upload.path, id: upload.id.clone() };
    assert_eq!(stranger.part(1, "x").code(&cloud).await, "AccessDenied");
    upload.complete(&[(1, &etag, "")]).ok(&cloud).await;

    let needed: Vec<_> =
        cloud.iam.recorded().into_iter().filter(|needed| needed.caller.ends_with("writer")).collect();
    let mut actions: Vec<_> = needed.iter().map(|needed| needed.action.as_str()).collect();
    actions.dedup();
    assert_eq!(actions, ["s3:AbortMultipartUpload", "s3:PutObject", "s3:PutObjectAcl"]);
}
