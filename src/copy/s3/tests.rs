//! Copies on the sandbox, which holds both sides' permissions against each one.

use std::time::Duration;

use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
    provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec, ReceivedObject},
};

use super::*;
use crate::{
    copy::tests::Order,
    credentials::{assumed::AssumeRequest, breaker::ProbeIntervals, customers::SessionSettings},
    metrics::Metrics,
};

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
    /// A staging bucket, a customer whose role may copy from it, and a bucket of theirs that lets the central role write.
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
        let central = AssumeRequest {
            role: provider.central_role_arn.parse().expect("a role"),
            session_name: "logferry".into(),
            external_id: None,
            policy: None,
            tags: Vec::new(),
            source_identity: None,
            duration: Duration::from_secs(3600),
            refresh_before: Duration::from_secs(300),
        };
        let central = AssumedRole::new(aws_sdk_sts::Client::new(&sdk), None, central);
        let minute = Duration::from_secs(60);
        let settings = SessionSettings {
            session_duration: Duration::from_secs(3600),
            refresh_before: Duration::from_secs(300),
            cache_capacity: 10,
            probe_intervals: ProbeIntervals { first: minute, longest: minute },
        };
        let customers = Customers::new(&sdk, &central, settings, Metrics::new());
        let s3 = config::Builder::from(&sdk).force_path_style(true).build();
        let copier = S3Copier::new(Client::from_conf(s3), customers, central);
        Self { sandbox, aws, provider, customer, copier }
    }

    /// Stores an object, of which the event names the version or the eTag.
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

    async fn copy(&self, order: &Order) -> Result<(), CopyError> {
        let job = CopyJob { source_prefix: "acme/", owner: Some(&self.provider.account), ..order.job() };
        self.copier.copy(&job).await
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

const CENTRAL: [(&str, &str); 2] = [("target_region", "us-east-1"), ("bucket_name", "theirs")];

/// A row that names the customer's role, which asks for an ExternalId.
const IN_ROLE: [(&str, &str); 4] = [
    ("target_region", "us-east-1"),
    ("bucket_name", "theirs"),
    ("log_distribution_role_arn", "arn:aws:iam::222222222222:role/acme-log-distribution"),
    ("external_id", "acme-external-id"),
];

#[tokio::test]
async fn a_copy_is_the_object_and_says_where_it_is_from() {
    let world = World::new(true).await;
    for (row, assumed) in [(&CENTRAL[..], 1), (&IN_ROLE[..], 2)] {
        let before = world.sandbox.calls("s3", "CopyObject");
        let order = world.put(KEY, b"\x1f\x8b, more or less", row).await;
        assert_eq!(world.copy(&order).await, Ok(()));
        let [copy] = world.received().await.try_into().expect("one object");
        assert_eq!((copy.key.as_str(), &copy.bytes[..]), (COPY, &b"\x1f\x8b, more or less"[..]));
        assert_eq!(copy.content_encoding.as_deref(), Some("gzip"));
        let expected = order.job().metadata();
        assert_eq!(copy.metadata.len(), expected.len(), "and nothing of ours: {:?}", copy.metadata);
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
            "the worker's own, and each hop once"
        );
        assert_eq!(world.sandbox.calls("s3", "CopyObject"), before + 1);
    }
}

#[tokio::test]
async fn it_is_the_version_or_the_etag_of_the_event() {
    let world = World::new(true).await;
    let first = world.put(KEY, b"first", &CENTRAL).await;
    world.put(KEY, b"second", &CENTRAL).await;
    assert_eq!(world.copy(&first).await, Ok(()));
    assert_eq!(&world.received().await[0].bytes[..], b"first");

    let world = World::new(false).await;
    let first = world.put(KEY, b"first", &CENTRAL).await;
    let second = world.put(KEY, b"second", &CENTRAL).await;
    let error = world.copy(&first).await.expect_err("it was overwritten");
    assert!(matches!(error, CopyError::SourceMissing(_)), "{error}");
    assert_eq!(world.copy(&second).await, Ok(()));
    assert_eq!(&world.received().await[0].bytes[..], b"second");
}

#[tokio::test]
async fn a_session_reaches_the_tenant_s_own_objects_alone() {
    let world = World::new(false).await;
    let own = world.put(KEY, b"own", &IN_ROLE).await;
    assert_eq!(world.copy(&own).await, Ok(()));
    // The role itself may read all of the staging bucket.
    let mut foreign = world.put("globex/c/app/pod/f", b"foreign", &IN_ROLE).await;
    foreign.route = own.route.clone();
    let error = world.copy(&foreign).await.expect_err("the session is acme's");
    assert!(matches!(error, CopyError::Denied(_)), "{error}");
    assert_eq!(world.received().await.len(), 1);
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let world = World::new(false).await;
    let good = world.put(KEY, b"good", &CENTRAL).await;
    let refused = async |row: &[(&str, &str)], change: fn(&mut Order)| {
        let mut order = Order { delivery: Order::new(KEY, row).delivery, ..good.clone() };
        change(&mut order);
        world.copy(&order).await.expect_err("it cannot be copied")
    };
    let error = refused(&[CENTRAL[0], ("bucket_name", "nobody-s")], |_| ()).await;
    assert!(matches!(error, CopyError::NoSuchBucket(_)), "{error}");
    let error = refused(&[("target_region", "eu-west-1"), CENTRAL[1]], |_| ()).await;
    assert!(matches!(error, CopyError::WrongRegion(_)), "{error}");
    let error = refused(&CENTRAL, |order| order.object.key = "acme/missing".into()).await;
    assert!(matches!(error, CopyError::Denied(_)), "S3 does not tell who may not list the bucket: {error}");
    let error = refused(&CENTRAL, |order| order.head.size = Some((5 << 30) + 1)).await;
    assert!(matches!(error, CopyError::TooLarge(_)), "{error}");
    let stranger = IN_ROLE.map(|(name, value)| (name, if name == "external_id" { "wrong" } else { value }));
    let error = refused(&stranger, |_| ()).await;
    assert!(matches!(error, CopyError::Session(AssumeError::Open { .. })), "{error}");
    let job = CopyJob { owner: Some("999999999999"), ..good.job() };
    let error = world.copier.copy(&job).await.expect_err("the staging bucket is another's");
    assert!(matches!(error, CopyError::Denied(_)), "{error}");
    assert_eq!(world.received().await, []);
}

#[tokio::test]
async fn bad_days_are_the_sdk_s_then_the_queue_s() {
    let world = World::new(false).await;
    let order = world.put(KEY, b"good", &IN_ROLE).await;
    // More than the SDK's own attempts.
    world.fail(3, 503, "SlowDown");
    let error = world.copy(&order).await.expect_err("it is throttled");
    assert!(matches!(error, CopyError::Throttled(_)), "{error}");
    // S3 has begun, says so, and then cannot.
    world.fail(3, 200, "InternalError");
    let error = world.copy(&order).await.expect_err("it broke off");
    assert!(matches!(error, CopyError::Unavailable(_)), "{error}");
    world.fail(1, 200, "InternalError");
    assert_eq!(world.copy(&order).await, Ok(()));

    let assumed = || world.sandbox.calls("sts", "AssumeRole");
    let before = assumed();
    world.sandbox.expire_sessions(&world.customer.account);
    assert_eq!(world.copy(&order).await, Ok(()));
    assert_eq!(assumed(), before + 1, "a new session, once");
}

#[test]
fn errors_are_told_by_code_and_status() {
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
    check(None, Some(307), "p", CopyError::WrongRegion);
    check(Some("SlowDown"), Some(503), "p", CopyError::Throttled);
    check(None, Some(429), "p", CopyError::Throttled);
    check(Some("AccessDenied"), Some(403), "p", CopyError::Denied);
    check(Some("AccessDenied"), Some(200), "p", CopyError::Denied);
    check(None, Some(403), "p", CopyError::Denied);
    check(Some("InvalidObjectState"), Some(403), "p", CopyError::Refused);
    check(Some("KMS.DisabledException"), Some(400), "p", CopyError::Refused);
    check(Some("ServiceUnavailable"), Some(503), "p", CopyError::Unavailable);
    check(Some("InternalError"), Some(200), "p", CopyError::Unavailable);
    check(None, None, "p", CopyError::Unavailable);
}
