use aws_sdk_s3::operation::get_object::builders::GetObjectOutputBuilder;
use http_body_util::StreamBody;
use hyper::body::Frame;
use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::Aws;

use super::*;
use crate::aws::{
    Base,
    direct::testing::{Recording, Sent},
};

#[test]
fn each_error_code_gives_its_error() {
    type Kind = fn(String) -> ObjectError;
    let table: [(Option<&str>, u16, Kind); 20] = [
        (Some("NoSuchKey"), 404, ObjectError::Missing),
        (Some("NoSuchVersion"), 404, ObjectError::Missing),
        (Some("NoSuchBucket"), 404, ObjectError::NoBucket),
        (Some("AccessDenied"), 403, ObjectError::Denied),
        (Some("InvalidObjectState"), 403, ObjectError::Archived),
        (Some("InvalidArgument"), 400, ObjectError::Refused),
        (Some("InvalidRequest"), 400, ObjectError::Refused),
        (Some("AuthorizationHeaderMalformed"), 400, ObjectError::Refused),
        (None, 400, ObjectError::Refused),
        (Some("MethodNotAllowed"), 405, ObjectError::Refused),
        (Some("PermanentRedirect"), 301, ObjectError::Refused),
        (Some("TemporaryRedirect"), 307, ObjectError::Unavailable),
        (Some("PreconditionFailed"), 412, |problem| {
            ObjectError::Missing(format!("it was overwritten after the event: {problem}"))
        }),
        (Some("RequestTimeout"), 400, ObjectError::Unavailable),
        (Some("KMS.DisabledException"), 400, ObjectError::Denied),
        (Some("OperationAborted"), 409, ObjectError::Unavailable),
        (Some("SlowDown"), 503, ObjectError::Unavailable),
        (None, 429, ObjectError::Unavailable),
        (Some("InternalError"), 500, ObjectError::Unavailable),
        (None, 403, ObjectError::Denied),
    ];
    for (code, status, expected) in table {
        let found = classify(code, Some(status), "p".into());
        assert_eq!(format!("{found:?}"), format!("{:?}", expected("p".into())), "{code:?} {status}");
    }
    assert!(matches!(classify(None, None, String::new()), ObjectError::Unavailable(_)));
}

type Named = fn(GetObjectOutputBuilder) -> GetObjectOutputBuilder;

/// The response's checksum, if it covers the whole object.
fn running(named: Named) -> Option<ChecksumSoFar> {
    ChecksumSoFar::of(&named(GetObjectOutput::builder()).build())
}

#[test]
fn checksums_of_whole_objects_are_checked() {
    // Sources: check values of the CRC catalogue, and SHA values from coreutils.
    let all: [Named; 5] = [
        |output| output.checksum_crc64_nvme("rosUhgp5mIg="),
        |output| output.checksum_crc32("y/Q5Jg=="),
        |output| output.checksum_crc32_c("4waSgw=="),
        |output| output.checksum_sha1("98O8HYCOBHMq32eZZczDTKeuNEE="),
        |output| output.checksum_sha256("FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ];
    let check = |named: Named, text: &[u8]| {
        let mut running = running(named).expect("the response names a checksum");
        text.chunks(2).for_each(|part| running.algorithm.update(part));
        running.check()
    };
    for named in all {
        check(named, b"123456789").expect("the checksum matches");
        let error = check(named, b"123456780").expect_err("the last byte is wrong");
        assert!(matches!(error, ObjectError::ChecksumMismatch(_)), "{error:?}");
    }
    assert!(running(|output| output.checksum_crc32("y/Q5Jg==-3")).is_none(), "a composite checksum");
    assert!(running(|output| output).is_none());
}

/// A staging bucket.
struct World {
    sandbox: Sandbox,
    recording: Recording,
    base: Base,
}

const BUCKET: &str = "staging";

impl World {
    async fn new() -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111");
        let (recording, base) = Recording::of(&aws.sdk_config());
        let world = Self { sandbox, recording, base };
        world.client().create_bucket().bucket(BUCKET).send().await.expect("the bucket can be created");
        world
    }

    fn config(&self) -> config::Builder {
        self.base.s3().force_path_style(true)
    }

    fn client(&self) -> Client {
        Client::from_conf(self.config().build())
    }

    /// A store that has made no call yet.
    fn store(&self) -> S3Store {
        S3Store::new(self.config(), self.base.calls())
    }

    async fn put(&self, key: &str) -> ObjectRef {
        let body = ByteStream::from_static(b"bytes");
        let put = self.client().put_object().bucket(BUCKET).key(key).body(body).send().await;
        let etag = put.expect("the object can be stored").e_tag;
        let etag = etag.map(|etag| etag.trim_matches('"').to_owned());
        ObjectRef { bucket: BUCKET.into(), key: key.into(), etag, ..ObjectRef::default() }
    }

    /// The object's bytes, and the requests for them.
    async fn get(&self, store: &S3Store, object: &ObjectRef) -> (Result<Vec<u8>, ObjectError>, Vec<Sent>) {
        self.recording.take("");
        let bytes = async {
            let (_, mut body) = store.open(object, Some("111111111111")).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = body.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            assert_eq!(body.content_length(), Some(bytes.len() as u64));
            assert_eq!(body.exact().1, object.etag.as_deref());
            Ok(bytes)
        };
        (bytes.await, self.recording.take("x-id=GetObject"))
    }
}

fn are_direct(sent: &[Sent]) -> Vec<bool> {
    sent.iter().map(|sent| sent.is_direct).collect()
}

#[tokio::test]
async fn a_direct_request_is_the_sdk_s() {
    let world = World::new().await;
    for key in
        ["t/c/a/p/1.json.gz", "plus+ and space", "ü/日本/😀", "%2F/..//.", "a=b&c?d#e", "~!*'();:@,$[]-_."]
    {
        let (store, object) = (world.store(), world.put(key).await);
        let (bytes, by_the_sdk) = world.get(&store, &object).await;
        assert_eq!(bytes.expect("it can be read"), b"bytes", "{key}");
        let (bytes, direct) = world.get(&store, &object).await;
        assert_eq!(bytes.expect("it can be read"), b"bytes", "{key}");
        assert_eq!((are_direct(&by_the_sdk), are_direct(&direct)), (vec![false], vec![true]), "{key}");
        assert_eq!(direct[0].clone().by_the_sdk(), by_the_sdk[0], "{key}");

        // The SDK repeats a direct attempt, because a version cannot have this name.
        let version = ObjectRef { version_id: Some("a/b+c=&d e".into()), ..object };
        let (bytes, sent) = world.get(&store, &version).await;
        assert!(matches!(bytes, Err(ObjectError::Refused(_))), "{bytes:?}");
        assert_eq!(are_direct(&sent), [true, false], "{key}");
        assert_eq!(sent[0].clone().by_the_sdk(), sent[1], "{key}");
    }
}

#[tokio::test]
async fn the_sdk_judges_other_answers_than_the_object() {
    let world = World::new().await;
    let (store, object) = (world.store(), world.put("key").await);
    assert_eq!(are_direct(&world.get(&store, &object).await.1), [false], "only the SDK knows the way");
    let missing = ObjectRef { key: "none".into(), ..object.clone() };
    for _ in 0..2 {
        let (bytes, sent) = world.get(&store, &missing).await;
        assert!(matches!(bytes, Err(ObjectError::Missing(_))), "{bytes:?}");
        assert_eq!(are_direct(&sent), [true, false], "one missing object is no reason to pause");
    }
    for effect in [Effect::Error(ErrorAnswer::new(503, "SlowDown")), Effect::Reset] {
        store.direct.pauses().clear();
        world.sandbox.faults().add(Fault { times: Some(1), ..Fault::new("s3", "GetObject", effect) });
        let (bytes, sent) = world.get(&store, &object).await;
        assert_eq!(bytes.expect("the second attempt succeeds"), b"bytes");
        assert_eq!(are_direct(&sent), [true, false]);
        assert_eq!(are_direct(&world.get(&store, &object).await.1), [false], "direct attempts pause");
    }
}

#[tokio::test]
async fn a_success_does_not_end_a_pause_that_began_during_the_attempt() {
    let world = World::new().await;
    let (store, object) = (world.store(), world.put("key").await);
    world.get(&store, &object).await.0.expect("the SDK shows the way");
    let slow = Effect::Latency { milliseconds: 200 };
    world.sandbox.faults().add(Fault { times: Some(1), ..Fault::new("s3", "GetObject", slow) });
    let (slow, ()) = tokio::join!(world.get(&store, &object), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        store.direct.pauses().begin(BUCKET, LONGEST_STALL);
    });
    assert_eq!((slow.0.expect("it can be read").len(), are_direct(&slow.1)), (5, vec![true]));
    assert_eq!(are_direct(&world.get(&store, &object).await.1), [false], "the pause lasts");
}

#[tokio::test]
async fn a_body_that_stalls_or_ends_early_is_resumed() {
    let world = World::new().await;
    let store = S3Store { longest_stall: Duration::from_millis(20), ..world.store() };
    let object = world.put("key").await;
    let pending = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
    let ends: [SdkBody; 2] = [SdkBody::from_body_1_x(pending), SdkBody::empty()];
    for end in ends {
        let (_, mut body) = store.open(&object, None).await.expect("the object is there");
        body.stream = ByteStream::new(end);
        world.recording.take("");
        assert_eq!(body.chunk().await.expect("it is read again").as_deref(), Some(&b"bytes"[..]));
        assert_eq!(body.chunk().await.expect("it is whole"), None);
        assert_eq!(world.recording.take("x-id=GetObject").len(), 1);
    }
}
