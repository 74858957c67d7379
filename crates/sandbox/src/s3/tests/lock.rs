use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::*;

/// CRC-32 of `hello`.
const SUM: (&str, &str) = ("x-amz-checksum-crc32", "NhCmhg==");

fn in_an_hour() -> String {
    (Timestamp::now() + SignedDuration::from_hours(1)).to_string()
}

async fn with_lockable_bucket() -> Arc<Cloud> {
    let cloud = Arc::new(Cloud::default());
    Request::new("CreateBucket", "/kept").header("x-amz-bucket-object-lock-enabled", "true").ok(&cloud).await;
    cloud
}

fn locking(request: Request, mode: &str, until: &str) -> Request {
    request.header("x-amz-object-lock-mode", mode).header("x-amz-object-lock-retain-until-date", until)
}

fn put(mode: &str, until: &str) -> Request {
    locking(Request::new("PutObject", "/kept/k").body("hello"), mode, until).header(SUM.0, SUM.1)
}

fn delete(version: &str) -> Request {
    Request::new("DeleteObject", "/kept/k").query("versionId", version)
}

#[tokio::test]
async fn a_locked_version_is_deleted_by_nobody() {
    let cloud = with_lockable_bucket().await;
    let until = in_an_hour();
    let put = put("COMPLIANCE", &until).ok(&cloud).await;
    let version = put.header("x-amz-version-id");
    for operation in ["HeadObject", "GetObject"] {
        let read = Request::new(operation, "/kept/k").ok(&cloud).await;
        assert_eq!(read.header("x-amz-object-lock-mode"), "COMPLIANCE");
        let told: Timestamp = read.header("x-amz-object-lock-retain-until-date").parse().expect("a time");
        assert_eq!(told.as_second(), until.parse::<Timestamp>().expect("a time").as_second());
    }
    let error = delete(version).send(&cloud).await.expect_err("locked");
    assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"));
    assert!(error.message.ends_with("because object protected by object lock."), "{}", error.message);
    assert_eq!(
        delete(version).header("x-amz-bypass-governance-retention", "true").code(&cloud).await,
        "AccessDenied"
    );

    let marker = Request::new("DeleteObject", "/kept/k").ok(&cloud).await;
    assert_eq!((marker.status, marker.header("x-amz-delete-marker")), (StatusCode::NO_CONTENT, "true"));
    let marker = marker.header("x-amz-version-id");
    let get = || Request::new("GetObject", "/kept/k");
    assert_eq!(get().code(&cloud).await, "NoSuchKey");
    assert_eq!(get().query("versionId", marker).code(&cloud).await, "MethodNotAllowed");
    assert_eq!(get().query("versionId", version).ok(&cloud).await.body, "hello");
    let list = Request::new("ListObjectsV2", "/kept").query("list-type", "2").ok(&cloud).await;
    assert!(list.elements("Key").is_empty(), "{}", list.text());
    delete(marker).ok(&cloud).await;
    assert_eq!(get().ok(&cloud).await.body, "hello");
}

#[tokio::test]
async fn governance_yields_to_a_permission_and_every_retention_to_time() {
    let cloud = with_lockable_bucket().await;
    let version = put("GOVERNANCE", &in_an_hour()).ok(&cloud).await.header("x-amz-version-id").to_owned();
    assert_eq!(delete(&version).code(&cloud).await, "AccessDenied");
    let allowed = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:DeleteObjectVersion", "s3:GetObject"], "Resource": "*"},
    ]});
    let caller = role_session(&cloud, PROVIDER, "tidier", &allowed).await;
    let bypass = |caller: Call| {
        let delete = Request::by(caller, "DeleteObject", "/kept/k").query("versionId", &version);
        delete.header("x-amz-bypass-governance-retention", "true")
    };
    assert_eq!(bypass(caller.clone()).code(&cloud).await, "AccessDenied");
    let head = Request::by(caller, "HeadObject", "/kept/k").ok(&cloud).await;
    assert_eq!(head.header("x-amz-object-lock-mode"), "", "the caller lacks s3:GetObjectRetention");
    bypass(root(PROVIDER)).ok(&cloud).await;
    assert_eq!(
        Request::new("GetObject", "/kept/k").query("versionId", &version).code(&cloud).await,
        "NoSuchVersion"
    );

    let soon = Timestamp::now() + SignedDuration::from_millis(100);
    let version = put("COMPLIANCE", &soon.to_string()).ok(&cloud).await.header("x-amz-version-id").to_owned();
    while Timestamp::now() <= soon {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    delete(&version).ok(&cloud).await;
}

#[tokio::test]
async fn a_retention_needs_a_bucket_a_digest_and_a_date() {
    let cloud = with_lockable_bucket().await;
    Request::new("CreateBucket", "/plain").ok(&cloud).await;
    let until = in_an_hour();
    let refused = async |request: Request| {
        let error = request.send(&cloud).await.expect_err("refused");
        assert_eq!(error.status, 400, "{}", error.message);
        (error.code, error.message)
    };
    for operation in ["PutObject", "CreateMultipartUpload"] {
        let plain = locking(Request::new(operation, "/plain/k"), "GOVERNANCE", &until);
        let plain = refused(plain.header("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")).await;
        assert_eq!(
            plain,
            ("InvalidRequest".to_owned(), "Bucket is missing Object Lock Configuration".to_owned())
        );
    }
    for (mode, until) in [
        ("governance", until.as_str()),
        ("GOVERNANCE", "tomorrow"),
        ("GOVERNANCE", "2020-01-01T00:00:00Z"),
        ("GOVERNANCE", "2030-01-01"),
    ] {
        assert_eq!(refused(put(mode, until)).await.0, "InvalidArgument", "{mode} until {until}");
    }
    for (header, value) in
        [("x-amz-object-lock-mode", "GOVERNANCE"), ("x-amz-object-lock-retain-until-date", until.as_str())]
    {
        let half = Request::new("PutObject", "/kept/k").header(header, value);
        assert_eq!(refused(half).await.0, "InvalidArgument", "{header}");
    }
    let bare = locking(Request::new("PutObject", "/kept/k"), "GOVERNANCE", &until);
    let (code, message) = refused(bare).await;
    assert_eq!(code, "InvalidRequest");
    assert!(message.contains("required for Put Object requests"), "{message}");
    let held = Request::new("PutObject", "/kept/k").header("x-amz-object-lock-legal-hold", "ON");
    assert_eq!(held.code(&cloud).await, "NotImplemented");
}

#[tokio::test]
async fn uploads_in_parts_and_copies_are_locked_too() {
    let cloud = with_lockable_bucket().await;
    let make = locking(Request::new("CreateMultipartUpload", "/kept/k"), "GOVERNANCE", &in_an_hour());
    let id = make.ok(&cloud).await.elements("UploadId").remove(0);
    let call = |operation| Request::new(operation, "/kept/k").query("uploadId", &id);
    let part = || call("UploadPart").query("partNumber", "1").body("hello");
    let error = part().send(&cloud).await.expect_err("no digest");
    assert!(error.message.contains("required for Put Part requests"), "{}", error.message);
    let etag =
        part().header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==").ok(&cloud).await.header("etag").to_owned();
    let part = format!("<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>");
    let list = format!("<CompleteMultipartUpload>{part}</CompleteMultipartUpload>");
    let done = call("CompleteMultipartUpload").body(list).ok(&cloud).await;
    assert_eq!(delete(done.header("x-amz-version-id")).code(&cloud).await, "AccessDenied");

    let copy = Request::new("CopyObject", "/kept/copy").header("x-amz-copy-source", "kept/k");
    locking(copy, "COMPLIANCE", &in_an_hour()).ok(&cloud).await;
    let head = Request::new("HeadObject", "/kept/copy").ok(&cloud).await;
    assert_eq!(head.header("x-amz-object-lock-mode"), "COMPLIANCE");
    let copy = Request::new("CopyObject", "/kept/second").header("x-amz-copy-source", "kept/k");
    copy.ok(&cloud).await;
    let head = Request::new("HeadObject", "/kept/second").ok(&cloud).await;
    assert_eq!(head.header("x-amz-object-lock-mode"), "", "a copy does not inherit a retention");
}

#[tokio::test]
async fn a_retention_needs_a_permission_of_its_own() {
    let cloud = with_lockable_bucket().await;
    let with = async |name, actions: &[&str]| {
        let allowed = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": actions, "Resource": "arn:aws:s3:::kept/*"},
        ]});
        role_session(&cloud, PROVIDER, name, &allowed).await
    };
    let writer = with("writer", &["s3:PutObject"]).await;
    let keeper = with("keeper", &["s3:PutObject", "s3:PutObjectRetention"]).await;
    for operation in ["PutObject", "CreateMultipartUpload"] {
        let lock = |caller: &Call| {
            let request = Request::by(caller.clone(), operation, "/kept/k").body("hello");
            locking(request, "GOVERNANCE", &in_an_hour()).header(SUM.0, SUM.1)
        };
        let error = lock(&writer).send(&cloud).await.expect_err("not allowed");
        assert!(error.message.contains("s3:PutObjectRetention"), "{}", error.message);
        lock(&keeper).ok(&cloud).await;
    }
    let make =
        Request::by(keeper, "CreateBucket", "/other").header("x-amz-bucket-object-lock-enabled", "true");
    assert_eq!(make.code(&cloud).await, "AccessDenied");
}

#[tokio::test]
async fn versions_are_deleted_one_by_one() {
    let cloud = with_bucket("staging").await;
    let put = |body: &'static str| Request::new("PutObject", "/staging/k").body(body);
    put("zero").ok(&cloud).await;
    Request::new("DeleteObject", "/staging/k").ok(&cloud).await;
    assert_eq!(Request::new("GetObject", "/staging/k").code(&cloud).await, "NoSuchKey");
    put("zero").ok(&cloud).await;
    enable_versions(&cloud, "staging").await;
    let one = put("one").ok(&cloud).await.header("x-amz-version-id").to_owned();
    let delete = |version: &str| Request::new("DeleteObject", "/staging/k").query("versionId", version);
    assert_eq!(delete(&one).ok(&cloud).await.header("x-amz-version-id"), one);
    assert_eq!(Request::new("GetObject", "/staging/k").ok(&cloud).await.body, "zero");
    delete(&one).ok(&cloud).await;
    assert_eq!(delete("nonsense").code(&cloud).await, "InvalidArgument");
    delete("null").ok(&cloud).await;
    assert_eq!(Request::new("GetObject", "/staging/k").code(&cloud).await, "NoSuchKey");
    put("again").header("if-none-match", "*").ok(&cloud).await;
    Request::new("DeleteObject", "/staging/k").ok(&cloud).await;
    put("after the delete marker").header("if-none-match", "*").ok(&cloud).await;
    let conditional = |request: Request| request.header("if-match", "\"0\"");
    assert_eq!(conditional(delete("null")).code(&cloud).await, "NotImplemented");
    let other = Request::new("DeleteObject", "/staging/k").header("x-amz-if-match-size", "0");
    assert_eq!(other.code(&cloud).await, "NotImplemented");
}
