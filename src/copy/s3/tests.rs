//! Copies on the sandbox, which checks the permissions of both sides for each call.

use std::time::Duration;

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec, ReceivedObject};

use super::*;
use crate::{
    breaker::ProbeIntervals,
    copy::tests::Order,
    credentials::{
        customers::{self, SessionSettings},
        request::{AssumeRequest, SessionLife},
    },
    tenant::Destination,
};

const SHORT: Duration = Duration::from_millis(500);
const KEY: &str = "acme/prod-1/web app/web+0/é.json.gz";
const COPY: &str = "ROSA/cluster-logs/acme/web app/web+0/é.json.gz";

struct World {
    sandbox: Sandbox,
    aws: Aws,
    provider: Provider,
    customer: Customer,
    copier: S3Copier,
}

impl World {
    /// A staging bucket, a customer whose role may copy from it, and a customer's bucket that lets the central role write.
    async fn new(versioned: bool) -> Self {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let spec = ProviderSpec { versioned, ..ProviderSpec::new("copies") };
        let provider = Provider::create(&aws, &spec).await.expect("the provider's side can be set up");
        let customer = Customer::create(&aws, "222222222222", &provider, CustomerSpec::new("acme")).await;
        let customer = customer.expect("the customer's side can be set up");
        customer.create_bucket(&aws, &provider, "theirs").await.expect("a bucket");
        customer.let_role_copy(&aws, &provider, "theirs").await.expect("a policy");
        provider.let_read(&aws, &[&customer.account]).await.expect("a policy");
        let worker =
            aws.account(&provider.account).assume_role(&provider.worker_role_arn, "worker", &[]).await;
        let sdk = worker.expect("the account may be the worker").sdk_config();
        let life =
            SessionLife { duration: Duration::from_secs(3600), refresh_before: Duration::from_secs(300) };
        let central = AssumeRequest::central(provider.central_role_arn.parse().expect("a role"));
        let central = AssumedRole::new(aws_sdk_sts::Client::new(&sdk), None, central, life);
        let minute = Duration::from_secs(60);
        let settings = SessionSettings {
            life,
            cache_capacity: 10,
            probe_intervals: ProbeIntervals { first: minute, longest: minute },
        };
        let customers =
            Customers::new(&sdk.clone().into(), &central, settings, customers::Metrics::default());
        // Shorter than the copies of some tests, which need the copy's own time limit.
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(SHORT).build();
        let base = sdk.to_builder().timeout_config(timeouts).build();
        let copier = S3Copier::new(&base.into(), Addressing::Path, customers, central);
        Self { sandbox, aws, provider, customer, copier }
    }

    /// Stores an object whose event names the version or the eTag.
    async fn put(&self, key: &str, bytes: &'static [u8], row: &[(&str, &str)]) -> Order {
        let put = self.aws.account(&self.provider.account).s3().put_object();
        let put = put.bucket(&self.provider.bucket).key(key).content_encoding("gzip");
        let put = put.metadata("secret", "ours").body(bytes::Bytes::from_static(bytes).into()).send().await;
        let put = put.expect("the bucket takes it");
        let mut order = Order::new(key, row);
        order.object.bucket.clone_from(&self.provider.bucket);
        order.object.version_id = put.version_id;
        order.object.etag = put.e_tag.map(|etag| etag.trim_matches('"').to_owned());
        order.head.content_encoding = Some("gzip".to_owned());
        order
    }

    async fn copy(&self, order: &Order) -> Result<Copied, CopyError> {
        let mut job = CopyJob { owner: Some(&self.provider.account), ..order.job() };
        job.way.source_prefix = "acme/";
        self.copy_job(&job).await
    }

    async fn copy_job(&self, job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        let session = self.copier.enter(&job.way).await?;
        self.copier.copy(&session, job).await
    }

    /// Lets both roles read the objects in the customer's bucket.
    async fn let_look(&self) {
        self.customer.let_look(&self.aws, &self.provider, "theirs").await.expect("policies");
    }

    /// Stores versions of one object, each with its event's sequencer. If the bucket keeps versions, each can be copied.
    async fn versions<const N: usize>(&self, row: &[(&str, &str)], texts: [&'static str; N]) -> [Order; N] {
        let mut orders = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let mut order = self.put(KEY, text.as_bytes(), row).await;
            order.object.sequencer = Some(format!("0055AED6DCD9028{:02X}", 0xFE + index));
            orders.push(order);
        }
        orders.try_into().expect("one order for each text")
    }

    /// The contents of the customer's bucket, ordered by key.
    async fn texts(&self) -> Vec<String> {
        let received = self.received().await.into_iter();
        received.map(|copy| String::from_utf8(copy.bytes.to_vec()).expect("UTF-8")).collect()
    }

    async fn received(&self) -> Vec<ReceivedObject> {
        self.customer.objects(&self.aws, "theirs").await.expect("the bucket can be read")
    }

    fn fail(&self, times: u64, status: u16, code: &str) {
        let effect = Effect::Error(ErrorAnswer::new(status, code));
        let fault = Fault::new("s3", "CopyObject", effect);
        self.sandbox.faults().add(Fault { times: Some(times), ..fault });
    }
}

const WRITTEN: Result<Copied, CopyError> = Ok(Copied::Written);
const CENTRAL: [(&str, &str); 2] = [("target_region", "us-east-1"), ("bucket_name", "theirs")];

/// A row that names the customer's role, which requires an ExternalId.
const IN_ROLE: [(&str, &str); 4] = [
    ("target_region", "us-east-1"),
    ("bucket_name", "theirs"),
    ("log_distribution_role_arn", "arn:aws:iam::222222222222:role/acme-log-distribution"),
    ("external_id", "acme-external-id"),
];

#[tokio::test]
async fn a_copy_is_the_object_with_its_origin_as_metadata() {
    let world = World::new(true).await;
    world.let_look().await;
    for (row, assumed) in [(&CENTRAL[..], 1), (&IN_ROLE[..], 2)] {
        let before = world.sandbox.calls("s3", "CopyObject");
        let order = world.put(KEY, b"\x1f\x8b, more or less", row).await;
        assert_eq!(world.copy(&order).await, WRITTEN);
        let [copy] = world.received().await.try_into().expect("one object");
        assert_eq!((copy.key.as_str(), &copy.bytes[..]), (COPY, &b"\x1f\x8b, more or less"[..]));
        assert_eq!(copy.content_encoding.as_deref(), Some("gzip"));
        let expected = order.job().metadata();
        assert_eq!(
            copy.metadata.len(),
            expected.len(),
            "and none of the source's metadata: {:?}",
            copy.metadata
        );
        for (name, value) in expected {
            assert_eq!(copy.metadata[name], value);
        }
        assert_eq!(
            copy.metadata["source-version"],
            order.object.version_id.expect("the bucket keeps versions")
        );
        assert_eq!(
            world.sandbox.calls("sts", "AssumeRole") - 1,
            assumed,
            "one for the worker, and one for each role"
        );
        assert_eq!(world.sandbox.calls("s3", "CopyObject"), before + 1);
    }
}

#[tokio::test]
async fn the_version_or_etag_of_the_event_is_copied() {
    let world = World::new(true).await;
    let first = world.put(KEY, b"first", &CENTRAL).await;
    world.put(KEY, b"second", &CENTRAL).await;
    assert_eq!(world.copy(&first).await, WRITTEN);
    assert_eq!(&world.received().await[0].bytes[..], b"first");

    let world = World::new(false).await;
    let first = world.put(KEY, b"first", &CENTRAL).await;
    let second = world.put(KEY, b"second", &CENTRAL).await;
    let error = world.copy(&first).await.expect_err("the object was overwritten");
    assert!(matches!(error, CopyError::SourceMissing(_)), "{error}");
    assert_eq!(world.copy(&second).await, WRITTEN);
    assert_eq!(&world.received().await[0].bytes[..], b"second");
}

#[tokio::test]
async fn an_older_version_never_replaces_a_later_one() {
    for row in [&CENTRAL[..], &IN_ROLE] {
        let world = World::new(true).await;
        world.let_look().await;
        let [first, second, third] = world.versions(row, ["first", "second", "third"]).await;
        assert_eq!(world.copy(&second).await, WRITTEN);
        for _ in 0..2 {
            assert_eq!(world.copy(&first).await, Ok(Copied::Superseded));
            assert_eq!(world.texts().await, ["second"]);
        }
        assert_eq!(world.copy(&second).await, WRITTEN, "the same again");
        assert_eq!(world.copy(&third).await, WRITTEN);
        assert_eq!(world.copy(&second).await, Ok(Copied::Superseded));
        assert_eq!(world.texts().await, ["third"]);
        assert_eq!(world.sandbox.calls("s3", "CopyObject"), 3, "none for the superseded versions");
    }
}

#[tokio::test]
async fn the_later_version_wins_a_race() {
    for there in [None, Some("zeroth")] {
        let world = World::new(true).await;
        world.let_look().await;
        let [zeroth, first, second] = world.versions(&CENTRAL, ["zeroth", "first", "second"]).await;
        if there.is_some() {
            assert_eq!(world.copy(&zeroth).await, WRITTEN);
        }
        // Both copies look at the key before either is written, and the later version is written first.
        let slow = Effect::Latency { milliseconds: 300 };
        let slow = world.sandbox.faults().add(Fault::new("s3", "CopyObject", slow));
        let second = world.copy(&second);
        let first = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.copy(&first).await
        };
        assert_eq!(tokio::join!(second, first), (WRITTEN, Ok(Copied::Superseded)), "{there:?}");
        assert_eq!(world.texts().await, ["second"], "{there:?}");
        world.sandbox.faults().remove(slow);
    }
}

#[tokio::test]
async fn objects_of_two_sources_never_share_a_key() {
    let world = World::new(false).await;
    world.let_look().await;
    let other = KEY.replace("prod-1", "prod-2");
    let template = ("bucket_key", "{tenant}/{cluster}/{application}/{pod}/{file}");
    let with_cluster: Vec<_> = CENTRAL.into_iter().chain([template]).collect();
    assert_eq!(world.copy(&world.put(KEY, b"one", &CENTRAL).await).await, WRITTEN);
    let error = world
        .copy(&world.put(&other, b"two", &CENTRAL).await)
        .await
        .expect_err("the key has the copy of another object");
    assert!(matches!(&error, CopyError::Collision { key, .. } if key == COPY), "{error}");
    assert_eq!(world.texts().await, ["one"]);
    for (key, text) in [(KEY, &b"three"[..]), (&other, b"four")] {
        assert_eq!(world.copy(&world.put(key, text, &with_cluster).await).await, WRITTEN);
    }
    let keys: Vec<_> = world.received().await.into_iter().map(|copy| copy.key).collect();
    let rest = "web app/web+0/é.json.gz";
    let expected = ["prod-1", "prod-2"].map(|cluster| format!("ROSA/cluster-logs/acme/{cluster}/{rest}"));
    assert_eq!(keys, [&expected[..], &[COPY.to_owned()]].concat());
    assert_eq!(world.texts().await, ["three", "four", "one"]);
}

#[tokio::test]
async fn an_object_that_logferry_did_not_copy_is_replaced() {
    let world = World::new(false).await;
    world.let_look().await;
    let put = world.aws.account(&world.customer.account).s3().put_object().bucket("theirs").key(COPY);
    put.metadata("source-key", "a")
        .body(b"theirs".to_vec().into())
        .send()
        .await
        .expect("the bucket is the customer's own");
    assert_eq!(world.copy(&world.put(KEY, b"ours", &IN_ROLE).await).await, WRITTEN);
    assert_eq!(world.texts().await, ["ours"]);
}

#[tokio::test]
async fn a_role_that_may_not_read_the_copies_still_copies() {
    for row in [&CENTRAL[..], &IN_ROLE] {
        let world = World::new(true).await;
        let [first, second] = world.versions(row, ["first", "second"]).await;
        assert_eq!(world.copy(&second).await, WRITTEN);
        assert_eq!(world.sandbox.calls("s3", "CopyObject"), 1, "the key was free");
        assert_eq!(world.copy(&first).await, WRITTEN);
        assert_eq!(world.texts().await, ["first"]);
        assert_eq!(
            world.sandbox.calls("s3", "CopyObject"),
            3,
            "S3 refuses the second of three, which requires a free key"
        );
    }
}

#[tokio::test]
async fn nothing_is_copied_while_s3_does_not_tell_what_is_at_the_key() {
    let world = World::new(false).await;
    world.let_look().await;
    let order = world.put(KEY, b"good", &CENTRAL).await;
    let slow = Effect::Latency { milliseconds: 2 * SHORT.as_millis() as u64 };
    for effect in [Effect::Error(ErrorAnswer::new(503, "SlowDown")), Effect::Reset, slow] {
        let fault = world.sandbox.faults().add(Fault::new("s3", "HeadObject", effect));
        let error = world.copy(&order).await.expect_err("S3 does not answer");
        assert!(matches!(error, CopyError::Unavailable(_)), "{error}");
        world.sandbox.faults().remove(fault);
    }
    assert_eq!(world.sandbox.calls("s3", "CopyObject"), 0);
    assert_eq!(world.copy(&order).await, WRITTEN);
}

#[tokio::test]
async fn a_session_can_copy_only_the_tenant_s_own_objects() {
    let world = World::new(false).await;
    let own = world.put(KEY, b"own", &IN_ROLE).await;
    assert_eq!(world.copy(&own).await, WRITTEN);
    // The role may read the whole staging bucket; only the session's policy is narrower.
    let mut foreign = world.put("globex/c/app/pod/f", b"foreign", &IN_ROLE).await;
    foreign.route = own.route.clone();
    let error = world.copy(&foreign).await.expect_err("the session is acme's");
    assert!(matches!(error, CopyError::Denied(_)), "{error}");
    assert_eq!(world.received().await.len(), 1);
}

#[tokio::test]
async fn each_refusal_has_its_own_error() {
    let world = World::new(false).await;
    let good = world.put(KEY, b"good", &CENTRAL).await;
    let refused = async |row: &[(&str, &str)], change: fn(&mut Order)| {
        let mut order = Order { delivery: Order::new(KEY, row).delivery, ..good.clone() };
        change(&mut order);
        world.copy(&order).await.expect_err("the object cannot be copied")
    };
    let error = refused(&[CENTRAL[0], ("bucket_name", "nobody-s")], |_| ()).await;
    assert!(matches!(error, CopyError::NoSuchBucket(_)), "{error}");
    let error = refused(&[("target_region", "eu-west-1"), CENTRAL[1]], |_| ()).await;
    assert!(matches!(error, CopyError::WrongRegion(_)), "{error}");
    let error = refused(&CENTRAL, |order| order.object.key = "acme/missing".into()).await;
    assert!(
        matches!(error, CopyError::Denied(_)),
        "S3 hides a missing object from a role that may not list: {error}"
    );
    let error = refused(&CENTRAL, |order| order.head.size = Some((5 << 30) + 1)).await;
    assert!(matches!(error, CopyError::TooLarge(_)), "{error}");
    let stranger = IN_ROLE.map(|(name, value)| (name, if name == "external_id" { "wrong" } else { value }));
    let error = refused(&stranger, |_| ()).await;
    assert!(matches!(error, CopyError::Session(AssumeError::Held { .. })), "{error}");
    let job = CopyJob { owner: Some("999999999999"), ..good.job() };
    let error = world.copy_job(&job).await.expect_err("the staging bucket has another owner");
    assert!(matches!(error, CopyError::Denied(_)), "{error}");
    assert_eq!(world.received().await, []);
}

#[tokio::test]
async fn a_bucket_with_a_new_owner_gets_nothing() {
    let world = World::new(false).await;
    let owned_by = async |row: &[(&str, &str)], owner| {
        let row: Vec<_> = row.iter().copied().chain([("bucket_owner", owner)]).collect();
        world.copy(&world.put(KEY, b"good", &row).await).await
    };
    for row in [&CENTRAL[..], &IN_ROLE] {
        let error = owned_by(row, "333333333333").await.expect_err("the bucket has another owner");
        assert!(matches!(error, CopyError::Denied(_)), "{error}");
        assert_eq!(world.received().await, []);
    }
    assert_eq!(owned_by(&CENTRAL, "222222222222").await, WRITTEN);
    // Without bucket_owner in the row, the role's account must own the bucket.
    let policy = world.customer.account.clone();
    let order = world.put(KEY, b"good", &IN_ROLE).await;
    let Destination::S3(to) = &order.delivery.destination else { panic!("the row names a bucket") };
    assert_eq!(to.bucket_owner, Some(policy));
}

#[tokio::test]
async fn a_call_without_role_is_not_sent() {
    let world = World::new(false).await;
    let call = world.copier.client.copy_object().bucket("theirs").key("k").copy_source("staging/k");
    assert!(call.send().await.is_err_and(|error| error.as_service_error().is_none()));
    assert_eq!(world.sandbox.calls("s3", "CopyObject"), 0);
}

#[tokio::test]
async fn a_copy_may_take_longer_than_other_calls() {
    let world = World::new(false).await;
    let order = world.put(KEY, b"large", &IN_ROLE).await;
    let slow = Effect::Latency { milliseconds: 2 * SHORT.as_millis() as u64 };
    world.sandbox.faults().add(Fault::new("s3", "CopyObject", slow));
    assert_eq!(world.copy(&order).await, WRITTEN);
    assert_eq!(world.sandbox.calls("s3", "CopyObject"), 1);
}

#[tokio::test]
async fn a_failing_s3_is_retried_by_the_sdk_and_then_reported() {
    let world = World::new(false).await;
    let order = world.put(KEY, b"good", &IN_ROLE).await;
    // Every attempt of the SDK fails.
    world.fail(3, 503, "SlowDown");
    let error = world.copy(&order).await.expect_err("S3 throttles");
    assert!(matches!(error, CopyError::Throttled(_)), "{error}");
    // S3 answers with status 200 first, and the copy fails afterwards.
    world.fail(3, 200, "InternalError");
    let error = world.copy(&order).await.expect_err("the copy failed");
    assert!(matches!(error, CopyError::Unavailable(_)), "{error}");
    world.fail(1, 200, "InternalError");
    assert_eq!(world.copy(&order).await, WRITTEN);

    let assumed = || world.sandbox.calls("sts", "AssumeRole");
    let before = assumed();
    world.sandbox.expire_sessions(&world.customer.account);
    assert_eq!(world.copy(&order).await, WRITTEN);
    assert_eq!(assumed(), before + 1, "a new session, once");
}

#[test]
fn errors_are_classified_by_code_and_status() {
    let check = |code, status, problem: &str, expected: fn(String) -> CopyError| {
        let found = classify(code, status, problem.to_owned());
        assert_eq!(found, expected(problem.to_owned()), "{code:?} {status:?}");
    };
    check(Some("NoSuchKey"), Some(404), "p", CopyError::SourceMissing);
    check(Some("NoSuchVersion"), Some(404), "p", CopyError::SourceMissing);
    let larger = "InvalidRequest: The specified copy source is larger than the maximum allowable size for a copy source: 5368709120";
    check(Some("InvalidRequest"), Some(400), larger, CopyError::TooLarge);
    check(Some("EntityTooLarge"), Some(400), "p", CopyError::TooLarge);
    check(Some("InvalidRequest"), Some(400), "something else", CopyError::Refused);
    check(Some("NoSuchBucket"), Some(404), "p", CopyError::NoSuchBucket);
    check(Some("PermanentRedirect"), Some(301), "p", CopyError::WrongRegion);
    check(None, Some(307), "p", CopyError::Unavailable);
    check(Some("RequestTimeout"), Some(400), "p", CopyError::Unavailable);
    check(Some("OperationAborted"), Some(409), "p", CopyError::Unavailable);
    check(Some("ObjectNotInActiveTierError"), Some(403), "p", CopyError::SourceArchived);
    check(Some("SlowDown"), Some(503), "p", CopyError::Throttled);
    check(None, Some(429), "p", CopyError::Throttled);
    check(Some("AccessDenied"), Some(403), "p", CopyError::Denied);
    check(Some("AccessDenied"), Some(200), "p", CopyError::Denied);
    check(None, Some(403), "p", CopyError::Denied);
    check(Some("InvalidObjectState"), Some(403), "p", CopyError::SourceArchived);
    check(Some("KMS.DisabledException"), Some(400), "p", CopyError::Denied);
    check(Some("ServiceUnavailable"), Some(503), "p", CopyError::Unavailable);
    check(Some("InternalError"), Some(200), "p", CopyError::Unavailable);
    check(None, None, "p", CopyError::Unavailable);
}
