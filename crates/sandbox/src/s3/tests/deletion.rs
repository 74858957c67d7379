use md5::{Digest, Md5};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

/// Body of DeleteObjects.
fn listing(quiet: bool, objects: &[(&str, Option<&str>)]) -> String {
    let objects = objects.iter().map(|(key, version)| {
        let version = version.map(|id| element("VersionId", id)).unwrap_or_default();
        format!("<Object>{}{version}</Object>", element("Key", key))
    });
    let objects: String = objects.collect();
    format!("<Delete xmlns=\"{NAMESPACE}\">{objects}<Quiet>{quiet}</Quiet></Delete>")
}

fn delete(caller: Call, bucket: &str, body: String) -> Request {
    let md5 = STANDARD.encode(Md5::digest(&body));
    Request::by(caller, "DeleteObjects", bucket).body(body).header("content-md5", &md5)
}

#[tokio::test]
async fn each_object_is_deleted_by_itself() {
    let cloud = with_bucket("staging").await;
    for key in ["a%20b%26", "c", "kept/d"] {
        Request::new("PutObject", &format!("/staging/{key}")).ok(&cloud).await;
    }
    let allowed = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::staging/*"},
        {"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::staging/kept/*"},
    ]});
    let caller = role_session(&cloud, PROVIDER, "tidier", &allowed).await;
    let objects = [("a b&", None), ("kept/d", None), ("never", None), ("c", Some("null"))];
    let answer = delete(caller.clone(), "/staging", listing(false, &objects)).ok(&cloud).await;
    assert_eq!(answer.elements("Deleted").len(), 2, "{}", answer.text());
    assert_eq!(answer.elements("Key"), ["a b&", "kept/d", "never", "c"]);
    assert_eq!(
        answer.elements("Code"),
        ["AccessDenied", "AccessDenied"],
        "a version needs another permission"
    );
    let quiet = delete(root(PROVIDER), "/staging", listing(true, &[("c", None)])).ok(&cloud).await;
    assert!(quiet.elements("Deleted").is_empty(), "{}", quiet.text());
    let quiet = delete(caller, "/staging", listing(true, &[("kept/d", None)])).ok(&cloud).await;
    assert_eq!(quiet.elements("Code"), ["AccessDenied"]);
    let list = Request::new("ListObjectsV2", "/staging").query("list-type", "2").ok(&cloud).await;
    assert_eq!(list.elements("Key"), ["kept/d"]);
}

#[tokio::test]
async fn versions_and_delete_markers_are_named_in_the_answer() {
    let cloud = with_bucket("staging").await;
    enable_versions(&cloud, "staging").await;
    let put = Request::new("PutObject", "/staging/k").ok(&cloud).await;
    let version = put.header("x-amz-version-id");
    let many = |objects: &[(&str, Option<&str>)]| delete(root(PROVIDER), "/staging", listing(false, objects));
    let marked = many(&[("k", None)]).ok(&cloud).await;
    assert_eq!(
        (marked.elements("DeleteMarker"), marked.elements("VersionId")),
        (vec!["true".to_owned()], vec![])
    );
    let marker = marked.elements("DeleteMarkerVersionId").remove(0);
    let gone = many(&[("k", Some(&marker)), ("k", Some(version)), ("k", Some("nonsense"))]).ok(&cloud).await;
    assert_eq!(gone.elements("VersionId"), [marker.as_str(), version, "nonsense"]);
    assert_eq!(gone.elements("DeleteMarkerVersionId"), [marker]);
    assert_eq!(gone.elements("Code"), ["InvalidArgument"]);
    assert_eq!(
        Request::new("GetObject", "/staging/k").query("versionId", version).code(&cloud).await,
        "NoSuchVersion"
    );
}

#[tokio::test]
async fn a_bad_list_of_objects_deletes_nothing() {
    let cloud = with_bucket("staging").await;
    Request::new("PutObject", "/staging/k").ok(&cloud).await;
    let code = async |body: String| delete(root(PROVIDER), "/staging", body).code(&cloud).await;
    let many: Vec<_> = std::iter::repeat_n(("k", None), 1_001).collect();
    assert_eq!(code(listing(true, &many)).await, "MalformedXML");
    assert_eq!(code(listing(true, &[])).await, "MalformedXML");
    assert_eq!(code(listing(true, &[("k", None), ("", None)])).await, "MalformedXML");
    assert_eq!(code("<Delete><Object/></Delete>".to_owned()).await, "MalformedXML");
    assert_eq!(code("<Delete><Key>k</Key></Delete>".to_owned()).await, "MalformedXML");
    assert_eq!(code("<Delete>".to_owned()).await, "MalformedXML");
    let conditional = "<Delete><Object><Key>k</Key><Size>0</Size></Object></Delete>";
    assert_eq!(code(conditional.to_owned()).await, "NotImplemented");
    let bare = Request::new("DeleteObjects", "/staging").body(listing(true, &[("k", None)]));
    assert_eq!(bare.code(&cloud).await, "InvalidRequest");
    let wrong = Request::new("DeleteObjects", "/staging").body(listing(true, &[("k", None)]));
    assert_eq!(wrong.header("x-amz-checksum-crc32", "AAAAAA==").code(&cloud).await, "BadDigest");
    Request::new("HeadObject", "/staging/k").ok(&cloud).await;
    let most: Vec<_> = std::iter::repeat_n(("k", None), 1_000).collect();
    delete(root(PROVIDER), "/staging", listing(true, &most)).ok(&cloud).await;
    assert_eq!(Request::new("HeadObject", "/staging/k").code(&cloud).await, "NoSuchKey");
}

#[tokio::test]
async fn an_object_is_deleted_only_if_it_has_the_etag() {
    for versions in [false, true] {
        let cloud = with_bucket("staging").await;
        if versions {
            enable_versions(&cloud, "staging").await;
        }
        let put = async |key: &str, body: &str| {
            let put =
                Request::new("PutObject", &format!("/staging/{key}")).body(body.to_owned()).ok(&cloud).await;
            put.header("etag").to_owned()
        };
        let old = put("k", "one").await;
        let new = put("k", "two").await;
        let many = async |caller: Call, objects: &[(&str, &str)]| {
            let objects = objects.iter().map(|(key, etag)| {
                format!("<Object>{}{}</Object>", element("Key", key), element("ETag", etag))
            });
            let body = format!("<Delete xmlns=\"{NAMESPACE}\">{}</Delete>", objects.collect::<String>());
            delete(caller, "/staging", body).ok(&cloud).await
        };
        let answer = many(root(PROVIDER), &[("k", &old), ("never", &old), ("never", "*")]).await;
        assert_eq!(answer.elements("Code"), ["PreconditionFailed", "NoSuchKey", "NoSuchKey"]);
        let one = |etag: &str| Request::new("DeleteObject", "/staging/k").header("if-match", etag);
        assert_eq!(one(&old).code(&cloud).await, "PreconditionFailed");
        let only_delete = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::staging/*"},
        ]});
        let caller = role_session(&cloud, PROVIDER, "tidier", &only_delete).await;
        let answer = many(caller, &[("k", &new)]).await;
        assert_eq!(answer.elements("Code"), ["AccessDenied"], "an ETag needs s3:GetObject");
        let answer = many(root(PROVIDER), &[("k", &new)]).await;
        assert_eq!(answer.elements("Deleted").len(), 1, "{}", answer.text());
        assert_eq!(one(&new).code(&cloud).await, "NoSuchKey");
        let new = put("k", "three").await;
        one(&new).ok(&cloud).await;
        assert_eq!(Request::new("HeadObject", "/staging/k").code(&cloud).await, "NoSuchKey");
    }
}
