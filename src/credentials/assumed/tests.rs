use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime::client::identity::IdentityCache;
use logferry_sandbox::{
    Sandbox,
    faults::{Effect, ErrorAnswer, Fault},
};
use logferry_testbed::provision::Aws;

use super::*;
use crate::breaker::{Metrics, ProbeIntervals};
use crate::credentials::RoleArn;

const CUSTOMER: &str = "222222222222";

fn request(role: RoleArn, tags: Vec<(&'static str, String)>) -> AssumeRequest {
    AssumeRequest { tags, ..AssumeRequest::central(role) }
}

const LIFE: SessionLife =
    SessionLife { duration: Duration::from_secs(3600), refresh_before: Duration::from_secs(300) };

/// The breaker of a customer's role that may not exist, and a maker of sessions in the role, one per cluster.
fn customer(
    sandbox: &Sandbox,
    interval: Duration,
) -> (Arc<RoleBreaker>, impl Fn(&str) -> AssumedRole + use<>) {
    let account = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111");
    let sts = Client::new(&account.sdk_config());
    let arn = |account, name| format!("arn:aws:iam::{account}:role/{name}").parse().expect("a role");
    let (central, role): (RoleArn, RoleArn) = (arn("111111111111", "central"), arn(CUSTOMER, "customer"));
    let central = AssumedRole::new(sts.clone(), None, AssumeRequest::central(central), LIFE);
    let intervals = ProbeIntervals { first: interval, longest: interval };
    let breaker = Arc::new(RoleBreaker::new("acme", role.clone(), intervals, &Metrics::default()));
    let shared = Arc::clone(&breaker);
    let session = move |cluster: &str| {
        let request = request(role.clone(), vec![("cluster_id", cluster.to_owned())]);
        AssumedRole::of_customer(
            sts.clone(),
            central.clone(),
            request,
            LIFE,
            Arc::clone(&shared),
            Family::default(),
        )
    };
    (breaker, session)
}

/// An existing role with a session whose renewal is due at once.
async fn renewed_at_once(sandbox: &Sandbox) -> AssumedRole {
    create_role(sandbox).await;
    let account = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111");
    let role = format!("arn:aws:iam::{CUSTOMER}:role/customer").parse().expect("a role");
    let early = SessionLife { refresh_before: LIFE.duration, ..LIFE };
    AssumedRole::new(Client::new(&account.sdk_config()), None, AssumeRequest::central(role), early)
}

async fn create_role(sandbox: &Sandbox) {
    let trust = r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"sts:*"}]}"#;
    let create = [("Action", "CreateRole"), ("RoleName", "customer"), ("AssumeRolePolicyDocument", trust)];
    let account = Aws::new(&sandbox.endpoint(), "us-east-1").account(CUSTOMER);
    account.iam_query(&create).await.expect("the role can be created");
}

fn is_open(answer: &Result<Credentials, AssumeError>) -> bool {
    matches!(answer, Err(AssumeError::Held { .. }))
}

/// Waits until a probe is due.
async fn due(breaker: &RoleBreaker) {
    while breaker.check().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn all_sessions_in_a_refused_role_share_its_probes() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let assumed = || sandbox.calls("sts", "AssumeRole");
    let (breaker, session) = customer(&sandbox, Duration::from_millis(50));
    let (one, other) = (session("one"), session("other"));

    // Both ask for credentials at once, and only one calls STS.
    let (first, second) = tokio::join!(one.credentials(), other.credentials());
    assert!(is_open(&first) && is_open(&second), "{first:?} {second:?}");
    assert_eq!(assumed(), 1);

    // While a probe runs, other callers fail at once, even after its interval.
    due(&breaker).await;
    let slow = Fault::new("sts", "AssumeRole", Effect::Latency { milliseconds: 3_600_000 });
    let slow = sandbox.faults().add(slow);
    let probe = tokio::spawn({
        let one = one.clone();
        async move { one.credentials().await }
    });
    while assumed() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    due(&breaker).await;
    let told = tokio::time::timeout(Duration::from_secs(60), other.credentials()).await;
    assert!(told.is_ok_and(|told| is_open(&told)));
    assert_eq!(assumed(), 2);
    probe.abort();
    assert!(probe.await.is_err_and(|error| error.is_cancelled()));
    sandbox.faults().remove(slow);

    // The first caller finds the role fixed, and closes the breaker for all.
    create_role(&sandbox).await;
    due(&breaker).await;
    other.credentials().await.expect("the role exists now");
    assert_eq!(breaker.held(), None);
    one.credentials().await.expect("no probe is needed");
    assert_eq!(assumed(), 4);
}

#[tokio::test]
async fn a_refused_request_stops_only_its_session() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    create_role(&sandbox).await;
    let (_, session) = customer(&sandbox, Duration::from_secs(3600));
    let (bad, good) = (session("no*tag"), session("tag"));
    for _ in 0..3 {
        assert!(is_open(&bad.credentials().await));
    }
    assert_eq!(sandbox.calls("sts", "AssumeRole"), 1);
    good.credentials().await.expect("the other session's request is valid");
}

#[tokio::test]
async fn callers_that_waited_share_the_failure() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    create_role(&sandbox).await;
    let (_, session) = customer(&sandbox, Duration::from_secs(3600));
    let sessions = ["one", "other", "third"].map(&session);
    let down = Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable"));
    let down = sandbox.faults().add(Fault::new("sts", "AssumeRole", down));
    let [one, other, third] = &sessions;
    let told = tokio::join!(one.credentials(), other.credentials(), third.credentials());
    for told in <[_; 3]>::from(told) {
        assert!(matches!(told, Err(AssumeError::Unavailable { .. })), "{told:?}");
    }
    let tried = sandbox.calls("sts", "AssumeRole");
    assert!(tried <= 3, "{tried} requests, and the SDK makes three for one call");

    sandbox.faults().remove(down);
    let back = async {
        while other.credentials().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("STS is asked again soon");
    assert_eq!(sandbox.calls("sts", "AssumeRole"), tried + 1);
}

#[tokio::test]
async fn nobody_waits_for_an_early_renewal() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let assumed = || sandbox.calls("sts", "AssumeRole");
    let role = renewed_at_once(&sandbox).await;
    let first = role.credentials().await.expect("STS answers");
    let slow = Fault::new("sts", "AssumeRole", Effect::Latency { milliseconds: 3_600_000 });
    let slow = sandbox.faults().add(slow);
    for _ in 0..10 {
        let told = tokio::time::timeout(Duration::from_secs(60), role.credentials()).await;
        assert_eq!(told.expect("no caller waits"), Ok(first.clone()));
    }
    let begun = async {
        while assumed() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begun)
        .await
        .expect("the session is renewed in the background");
    assert_eq!(assumed(), 2, "one renews for all");
    sandbox.faults().remove(slow);
}

#[tokio::test]
async fn a_session_is_renewed_before_its_end() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let role = renewed_at_once(&sandbox).await;
    let first = role.credentials().await.expect("STS answers");
    let renewed = async {
        while role.credentials().await.expect("the session is valid") == first {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed)
        .await
        .expect("the session is renewed in the background");
}

#[tokio::test]
async fn calls_that_fail_together_cost_one_session() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    create_role(&sandbox).await;
    let (_, session) = customer(&sandbox, Duration::from_secs(3600));
    let role = session("one");
    role.credentials().await.expect("STS answers");
    let account = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config();
    let account = account.to_builder().credentials_provider(SharedCredentialsProvider::new(role.clone()));
    let config = aws_sdk_sts::config::Builder::from(&account.build());
    let whoami = Client::from_conf(config.identity_cache(IdentityCache::no_cache()).build());
    let assumed = || sandbox.calls("sts", "AssumeRole");
    let calls = async |times| {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..times {
            let (role, whoami) = (role.clone(), whoami.clone());
            calls.spawn(async move { role.call(|| whoami.get_caller_identity().send()).await });
        }
        for answer in calls.join_all().await {
            answer.expect("the call succeeds in a new session");
        }
    };
    sandbox.expire_sessions(CUSTOMER);
    calls(8).await;
    assert_eq!(assumed(), 2);
    // As after the role was deleted and created again.
    let unknown = Effect::Error(ErrorAnswer::new(403, "InvalidClientTokenId"));
    let unknown = Fault { times: Some(1), ..Fault::new("sts", "GetCallerIdentity", unknown) };
    sandbox.faults().add(unknown);
    calls(1).await;
    assert_eq!(assumed(), 3);
    // A late report about the old session does not drop the new one.
    let old = role.at_hand().expect("there is a session");
    let new = role.enter_anew().await.expect("STS answers");
    assert_ne!(new, old);
    role.forget(&old);
    assert_eq!(role.at_hand(), Some(new));
}

/// A kept client must not keep the role: its breaker would count as open for ever.
#[tokio::test]
async fn a_weak_role_provides_credentials_while_the_role_is_in_use() {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let role = renewed_at_once(&sandbox).await;
    let (weak, number) = (role.downgrade(), role.number());
    assert!(!role.is_in_use(), "the weak one does not count");
    weak.provide_credentials().await.expect("the role is in use");
    drop(role);
    weak.provide_credentials().await.expect_err("nobody uses the role");
    let other = Sandbox::start().await.expect("loopback has a free port");
    assert_ne!(renewed_at_once(&other).await.number(), number);
}
