use super::*;
use crate::encoding::element;
use crate::requests::{role_session, root};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;

mod deletion;
mod lock;
mod multipart;

const PROVIDER: &str = "111111111111";
const CUSTOMER: &str = "222222222222";

struct Request {
    call: Call,
}

impl Request {
    fn by(mut call: Call, operation: &str, path: &str) -> Self {
        operation.clone_into(&mut call.operation);
        path.clone_into(&mut call.path);
        Self { call }
    }

    fn new(operation: &str, path: &str) -> Self {
        Self::by(root(PROVIDER), operation, path)
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.call.headers.insert(HeaderName::from_static(name), value);
        self
    }

    fn query(mut self, name: &str, value: &str) -> Self {
        self.call.query.push((name.to_owned(), value.to_owned()));
        self
    }

    fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.call.body = body.into();
        self
    }

    async fn send(self, cloud: &Arc<Cloud>) -> Result<Answered, AwsError> {
        let reply = cloud.s3.handle(cloud, &self.call).await?;
        let body = reply.body.collect().await.expect("the body is in memory").to_bytes();
        Ok(Answered { status: reply.status, headers: reply.headers, body })
    }

    async fn ok(self, cloud: &Arc<Cloud>) -> Answered {
        self.send(cloud).await.expect("the call succeeds")
    }

    async fn code(self, cloud: &Arc<Cloud>) -> String {
        self.send(cloud).await.expect_err("the call is refused").code
    }
}

#[derive(Debug)]
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answered {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn elements(&self, name: &str) -> Vec<String> {
        let document = Document::parse(self.text()).expect("XML");
        let found = document.descendants().filter(|node| node.tag_name().name() == name);
        found.map(|node| node.text().unwrap_or_default().to_owned()).collect()
    }
}

async fn with_bucket(name: &str) -> Arc<Cloud> {
    let cloud = Arc::new(Cloud::default());
    Request::new("CreateBucket", &format!("/{name}")).ok(&cloud).await;
    cloud
}

async fn enable_versions(cloud: &Arc<Cloud>, bucket: &str) {
    let body = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    Request::new("PutBucketVersioning", &format!("/{bucket}")).body(body).ok(cloud).await;
}

#[tokio::test]
async fn an_object_is_read_as_it_was_put() {
    let cloud = with_bucket("staging").await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let put = Request::new("PutObject", "/staging/a%20b/c+d%2Be.gz")
        .header("content-type", "text/x-log")
        .header("content-encoding", "gzip")
        .header("x-amz-meta-origin", "here")
        .body(body.clone())
        .ok(&cloud)
        .await;
    assert_eq!(put.header("etag").len(), 34);
    assert!(!put.headers.contains_key("x-amz-version-id"));

    let got = Request::new("GetObject", "/staging/a b/c+d+e.gz").ok(&cloud).await;
    assert_eq!(got.body, body);
    assert_eq!(got.header("etag"), put.header("etag"));
    assert_eq!(got.header("content-type"), "text/x-log");
    assert_eq!(got.header("content-encoding"), "gzip");
    assert_eq!(got.header("x-amz-meta-origin"), "here");
    assert_eq!(got.header("content-length"), "200000");
    assert!(got.header("last-modified").ends_with(" GMT"));
    assert!(!got.headers.contains_key("x-amz-checksum-crc64nvme"));

    let head = Request::new("HeadObject", "/staging/a%20b/c+d+e.gz")
        .header("x-amz-checksum-mode", "ENABLED")
        .ok(&cloud)
        .await;
    assert!(head.body.is_empty());
    assert_eq!(head.header("x-amz-checksum-crc64nvme"), put.header("x-amz-checksum-crc64nvme"));
    assert_eq!(head.header("x-amz-checksum-type"), "FULL_OBJECT");

    let part =
        Request::new("GetObject", "/staging/a%20b/c+d+e.gz").header("range", "bytes=10-19").ok(&cloud).await;
    assert_eq!((part.status, part.body.as_ref()), (StatusCode::PARTIAL_CONTENT, &body[10..20]));
    assert_eq!(part.header("content-range"), "bytes 10-19/200000");
}

#[tokio::test]
async fn a_body_is_sent_in_pieces() {
    let cloud = with_bucket("staging").await;
    Request::new("PutObject", "/staging/k").body(vec![7; 150_000]).ok(&cloud).await;
    let mut reply =
        cloud.s3.handle(&cloud, &Request::new("GetObject", "/staging/k").call).await.expect("there");
    let mut sizes = Vec::new();
    while let Some(frame) = reply.body.frame().await {
        sizes.push(frame.expect("in memory").into_data().expect("data").len());
    }
    assert_eq!(sizes, [65_536, 65_536, 18_928]);
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let cloud = with_bucket("staging").await;
    let put = || Request::new("PutObject", "/staging/k").body("hello");
    assert_eq!(put().header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").code(&cloud).await, "BadDigest");
    assert_eq!(put().header("content-md5", "x").code(&cloud).await, "InvalidDigest");
    assert_eq!(put().header("x-amz-checksum-crc32", "AAAAAA==").code(&cloud).await, "BadDigest");
    assert_eq!(put().header("x-amz-acl", "public-read").code(&cloud).await, "AccessControlListNotSupported");
    assert_eq!(put().header("x-amz-tagging", "a=b").code(&cloud).await, "NotImplemented");
    assert_eq!(put().header("x-amz-expected-bucket-owner", CUSTOMER).code(&cloud).await, "AccessDenied");
    assert_eq!(Request::new("GetObject", "/staging/k").code(&cloud).await, "NoSuchKey");
    put().header("content-md5", "XUFAKrxLKna5cZ2REBfFkg==").ok(&cloud).await;
    assert_eq!(put().header("if-none-match", "*").code(&cloud).await, "PreconditionFailed");
    let get = |header, value| Request::new("GetObject", "/staging/k").header(header, value);
    assert_eq!(get("if-match", "\"0\"").code(&cloud).await, "PreconditionFailed");
    assert_eq!(get("if-match", "\"5d41402abc4b2a76b9719d911017c592\"").ok(&cloud).await.body, "hello");
    assert_eq!(get("if-none-match", "\"0\"").code(&cloud).await, "NotImplemented");
    assert_eq!(get("range", "bytes=5-").code(&cloud).await, "InvalidRange");
    assert_eq!(Request::new("GetObject", "/nowhere/k").code(&cloud).await, "NoSuchBucket");
    assert_eq!(Request::new("DeleteBucket", "/staging").code(&cloud).await, "NotImplemented");
    assert_eq!(Request::new("CreateBucket", "/Not_A_Name").code(&cloud).await, "InvalidBucketName");
    let other = Request::by(root(CUSTOMER), "CreateBucket", "/staging");
    assert_eq!(other.code(&cloud).await, "BucketAlreadyExists");
    let mut elsewhere = root(PROVIDER);
    elsewhere.region = "eu-west-1".to_owned();
    let code = Request::by(elsewhere, "GetObject", "/staging/k").code(&cloud).await;
    assert_eq!(code, "AuthorizationHeaderMalformed");
}

#[tokio::test]
async fn versions_are_kept() {
    let cloud = with_bucket("staging").await;
    Request::new("PutObject", "/staging/k").body("zero").ok(&cloud).await;
    enable_versions(&cloud, "staging").await;
    let one = Request::new("PutObject", "/staging/k").body("one").ok(&cloud).await;
    let one = one.header("x-amz-version-id").to_owned();
    Request::new("PutObject", "/staging/k").body("two").ok(&cloud).await;
    let get = |version: &str| Request::new("GetObject", "/staging/k").query("versionId", version);
    assert_eq!(get(&one).ok(&cloud).await.body, "one");
    assert_eq!(get("null").ok(&cloud).await.body, "zero");
    assert_eq!(Request::new("GetObject", "/staging/k").ok(&cloud).await.body, "two");
    assert_eq!(get("nonsense").code(&cloud).await, "InvalidArgument");
    assert_eq!(get(&"x".repeat(32)).code(&cloud).await, "NoSuchVersion");
}

#[tokio::test]
async fn another_account_needs_the_bucket_policy_and_its_own_policy() {
    let cloud = with_bucket("theirs").await;
    Request::new("PutObject", "/theirs/in/k").body("x").ok(&cloud).await;
    let get = |call: &Call, path: &str| Request::by(call.clone(), "GetObject", path);
    let customer = root(CUSTOMER);
    assert_eq!(get(&customer, "/theirs/in/k").code(&cloud).await, "AccessDenied");
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": {"AWS": [format!("arn:aws:iam::{CUSTOMER}:root")]},
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::theirs/in/*",
    }]});
    let put_policy = Request::new("PutBucketPolicy", "/theirs").body(policy.to_string()).ok(&cloud).await;
    assert_eq!(put_policy.status, StatusCode::NO_CONTENT);
    assert_eq!(get(&customer, "/theirs/in/k").ok(&cloud).await.body, "x");
    assert_eq!(get(&customer, "/theirs/out/k").code(&cloud).await, "AccessDenied");
    assert_eq!(get(&customer, "/theirs/in/missing").code(&cloud).await, "AccessDenied", "no ListBucket");

    let allowed = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::theirs/*"},
    ]});
    let reader = role_session(&cloud, PROVIDER, "reader", &allowed).await;
    assert_eq!(get(&reader, "/theirs/in/k").ok(&cloud).await.body, "x");
    assert_eq!(get(&reader, "/theirs/missing").code(&cloud).await, "AccessDenied");
    assert_eq!(get(&reader, "/theirs/in/k").query("versionId", "null").code(&cloud).await, "AccessDenied");
    let listing = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"},
    ]});
    let lister = role_session(&cloud, PROVIDER, "lister", &listing).await;
    assert_eq!(get(&lister, "/theirs/missing").code(&cloud).await, "NoSuchKey");
    let write = Request::by(lister, "PutObject", "/theirs/in/k");
    assert_eq!(write.code(&cloud).await, "AccessDenied");
}

#[tokio::test]
async fn a_copy_needs_permission_on_both_sides_and_decodes_its_source() {
    let cloud = with_bucket("staging").await;
    Request::by(root(CUSTOMER), "CreateBucket", "/customer").ok(&cloud).await;
    Request::new("PutObject", "/staging/a%20b+c").header("x-amz-meta-a", "1").body("lines").ok(&cloud).await;
    let copy =
        || Request::new("CopyObject", "/customer/logs/k").header("x-amz-acl", "bucket-owner-full-control");
    let encoded = "staging/a%20b%2Bc";
    assert_eq!(copy().header("x-amz-copy-source", encoded).code(&cloud).await, "AccessDenied");
    let policy = json!({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": {"AWS": PROVIDER},
        "Action": ["s3:PutObject", "s3:PutObjectAcl"],
        "Resource": "arn:aws:s3:::customer/logs/*",
        "Condition": {"StringEquals": {"s3:x-amz-acl": "bucket-owner-full-control"}},
    }]});
    Request::by(root(CUSTOMER), "PutBucketPolicy", "/customer").body(policy.to_string()).ok(&cloud).await;
    let copied = copy().header("x-amz-copy-source", encoded).ok(&cloud).await;
    assert_eq!(copied.elements("ETag").len(), 1, "{}", copied.text());
    assert_eq!(copy().header("x-amz-copy-source", "/staging/a%20b+c").code(&cloud).await, "NoSuchKey");
    assert_eq!(copy().header("x-amz-copy-source", "staging").code(&cloud).await, "InvalidArgument");
    let stale = copy().header("x-amz-copy-source", encoded).header("x-amz-copy-source-if-match", "\"0\"");
    assert_eq!(stale.code(&cloud).await, "PreconditionFailed");
    let head = || Request::by(root(CUSTOMER), "HeadObject", "/customer/logs/k");
    assert_eq!(head().ok(&cloud).await.header("x-amz-meta-a"), "1");
    copy()
        .header("x-amz-copy-source", encoded)
        .header("x-amz-metadata-directive", "REPLACE")
        .header("x-amz-meta-b", "2")
        .ok(&cloud)
        .await;
    let head = head().ok(&cloud).await;
    assert_eq!((head.header("x-amz-meta-a"), head.header("x-amz-meta-b")), ("", "2"));
    let onto_itself = Request::new("CopyObject", "/staging/a%20b+c").header("x-amz-copy-source", encoded);
    assert_eq!(onto_itself.code(&cloud).await, "InvalidRequest");
}

#[tokio::test]
async fn listings_have_pages_common_prefixes_and_encoded_keys() {
    let cloud = with_bucket("staging").await;
    for key in ["a/1", "a/2", "b%20%26", "c/x/1", "c/y/1", "d"] {
        Request::new("PutObject", &format!("/staging/{key}")).ok(&cloud).await;
    }
    let list = || Request::new("ListObjectsV2", "/staging").query("list-type", "2");
    let all = list().ok(&cloud).await;
    assert_eq!(all.elements("Key"), ["a/1", "a/2", "b &", "c/x/1", "c/y/1", "d"]);
    assert_eq!(list().query("encoding-type", "url").ok(&cloud).await.elements("Key")[2], "b+%26");
    assert_eq!(list().query("prefix", "c/").ok(&cloud).await.elements("Key"), ["c/x/1", "c/y/1"]);
    assert_eq!(list().query("start-after", "c/x/1").ok(&cloud).await.elements("Key"), ["c/y/1", "d"]);

    let (mut keys, mut prefixes, mut token) = (Vec::new(), Vec::new(), None::<String>);
    for _ in 0..4 {
        let mut request = list().query("delimiter", "/").query("max-keys", "1");
        if let Some(token) = &token {
            request = request.query("continuation-token", token);
        }
        let page = request.ok(&cloud).await;
        assert_eq!(page.elements("KeyCount"), ["1"]);
        keys.extend(page.elements("Key"));
        let document = Document::parse(page.text()).expect("XML");
        let common = document.descendants().filter(|node| node.tag_name().name() == "CommonPrefixes");
        prefixes.extend(common.filter_map(|node| node.first_element_child()?.text().map(str::to_owned)));
        token = page.elements("NextContinuationToken").pop();
    }
    assert_eq!(
        (token, keys, prefixes),
        (None, vec!["b &".to_owned(), "d".to_owned()], vec!["a/".to_owned(), "c/".to_owned()])
    );
    assert_eq!(list().query("continuation-token", "!").code(&cloud).await, "InvalidArgument");
}
