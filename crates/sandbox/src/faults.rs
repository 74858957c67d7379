//! Faults that the front injects before, during or after a call, to test how clients react.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use serde::Deserialize;

use crate::call::{AwsError, Call, Principal};

/// A rule: the calls that it hits, and the effect on them.
///
/// As JSON, for `POST /_sandbox/faults`:
/// `{"service": "logs", "operation": "PutLogEvents", "times": 2, "effect": {"latency": {"milliseconds": 50}}}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Signing name of the service: `sqs`, `sns`, `sts`, `iam`, `dynamodb`, `logs` or `s3`.
    pub service: String,
    /// The operation as AWS spells it, several with `|` between them, or `*`.
    ///
    /// `PartiQLInsert` and `PartiQLUpdate` hit single statements of a BatchExecuteStatement, which `*` does not. Their effect
    /// must be [`Effect::Error`] or [`Effect::After`] with an error. `contains` examines the statement and its parameters.
    pub operation: String,
    /// Limits the rule to calls of this account.
    #[serde(default)]
    pub account: Option<String>,
    /// Limits the rule to calls whose path or body contains this text.
    #[serde(default)]
    pub contains: Option<String>,
    /// Limits the rule to calls of role sessions, which workers make. Calls of an account's root, which tests make, are not
    /// hit.
    #[serde(default)]
    pub sessions_only: bool,
    /// Fraction of the matching calls that are hit, 0 to 1. Default: all.
    #[serde(default)]
    pub probability: Option<f64>,
    /// Number of calls after which the rule is used up. Default: no limit.
    #[serde(default)]
    pub times: Option<u64>,
    /// Effect on the calls.
    pub effect: Effect,
}

impl Fault {
    /// Creates a rule for every call of an operation.
    pub fn new(service: &str, operation: &str, effect: Effect) -> Self {
        Self {
            service: service.to_owned(),
            operation: operation.to_owned(),
            account: None,
            contains: None,
            sessions_only: false,
            probability: None,
            times: None,
            effect,
        }
    }

    fn names(&self, operation: &str) -> bool {
        self.operation.split('|').any(|name| name == operation)
    }

    /// Returns whether the rule covers the service and the caller, and its text is in the call as `contains` tells.
    fn covers(&self, service: &str, call: &Call, contains: impl Fn(&str) -> bool) -> bool {
        self.service == service
            && self.account.as_ref().is_none_or(|account| *account == call.account)
            && (!self.sessions_only || matches!(call.principal, Principal::Session { .. }))
            && self.contains.as_deref().is_none_or(contains)
    }
}

/// Effect of a fault on a call.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// The call does not take effect and is refused with this error, in its service's protocol.
    Error(ErrorAnswer),
    /// The call does not take effect, and the connection is reset without an answer.
    Reset,
    /// The call takes effect later.
    Latency {
        /// Delay of the call.
        milliseconds: u64,
    },
    /// The body of the answer is sent slowly.
    SlowBody {
        /// Speed, at least 1.
        bytes_per_second: u64,
    },
    /// The answer announces its full length, sends half of it, and closes the connection.
    HalfBody,
    /// One bit of the answer's body is flipped. Checksums and ETag remain those of the original body.
    WrongChecksum,
    /// The call takes effect, but its answer is lost: the connection is reset, or an error is sent instead.
    After {
        /// Error to send. Default: the connection is reset.
        #[serde(default)]
        error: Option<ErrorAnswer>,
    },
}

impl Effect {
    /// Name of the effect in [`Faults::struck`]: the error's code, or the name in JSON.
    fn word(&self) -> &str {
        match self {
            Self::Error(error) => &error.code,
            Self::Reset => "reset",
            Self::Latency { .. } => "latency",
            Self::SlowBody { .. } => "slow_body",
            Self::HalfBody => "half_body",
            Self::WrongChecksum => "wrong_checksum",
            Self::After { .. } => "after",
        }
    }
}

/// Error to answer with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorAnswer {
    /// HTTP status.
    pub status: u16,
    /// AWS's error code.
    pub code: String,
    /// Error message.
    #[serde(default)]
    pub message: String,
}

impl ErrorAnswer {
    /// Creates an error whose message says that the sandbox injected it.
    pub fn new(status: u16, code: &str) -> Self {
        Self { status, code: code.to_owned(), message: "injected by the sandbox".to_owned() }
    }
}

impl From<ErrorAnswer> for AwsError {
    fn from(error: ErrorAnswer) -> Self {
        Self::new(error.status, &error.code, error.message)
    }
}

/// Identifies a rule, for removing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

impl FaultId {
    /// Number of the rule, as the control interface shows it.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The active rules. The first rule that hits a call decides.
#[derive(Debug)]
pub struct Faults(Mutex<Rules>);

#[derive(Debug)]
struct Rules {
    rules: Vec<(FaultId, Fault)>,
    next: u64,
    random: fastrand::Rng,
    struck: BTreeMap<String, u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self(Mutex::new(Rules {
            rules: Vec::new(),
            next: 1,
            random: fastrand::Rng::with_seed(0),
            struck: BTreeMap::new(),
        }))
    }
}

impl Faults {
    /// Adds a rule after the existing ones.
    pub fn add(&self, fault: Fault) -> FaultId {
        let mut rules = self.lock();
        let id = FaultId(rules.next);
        rules.next += 1;
        rules.rules.push((id, fault));
        id
    }

    /// Removes a rule. Does nothing if the rule is gone.
    pub fn remove(&self, id: FaultId) {
        self.lock().rules.retain(|(other, _)| *other != id);
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Restarts the random numbers for `probability` from this seed (initially 0).
    pub fn seed(&self, seed: u64) {
        self.lock().random = fastrand::Rng::with_seed(seed);
    }

    /// Number of calls hit so far, by `service:Operation effect`. The effect of an error is its code.
    pub fn struck(&self) -> BTreeMap<String, u64> {
        self.lock().struck.clone()
    }

    /// Returns the effect on this call, if a rule hits it. Counts the hit, also against the rule's `times`.
    pub(crate) fn strike(&self, service: &str, call: &Call) -> Option<Effect> {
        let contains =
            |text: &str| call.path.contains(text) || String::from_utf8_lossy(&call.body).contains(text);
        self.strike_if(service, &call.operation, |fault| {
            (fault.operation == "*" || fault.names(&call.operation)) && fault.covers(service, call, contains)
        })
    }

    /// Does the same for one statement of a BatchExecuteStatement. `action` is `PartiQLInsert` or `PartiQLUpdate`, and
    /// `contains` tells whether the statement or a parameter contains a text.
    pub(crate) fn strike_statement(
        &self,
        call: &Call,
        action: &str,
        contains: impl Fn(&str) -> bool,
    ) -> Option<Effect> {
        self.strike_if("dynamodb", action, |fault| {
            fault.names(action)
                && matches!(fault.effect, Effect::Error(_) | Effect::After { error: Some(_) })
                && fault.covers("dynamodb", call, &contains)
        })
    }

    fn strike_if(&self, service: &str, operation: &str, covers: impl Fn(&Fault) -> bool) -> Option<Effect> {
        let mut guard = self.lock();
        let Rules { rules, random, struck, .. } = &mut *guard;
        let at = rules.iter().position(|(_, fault)| {
            fault.times != Some(0)
                && covers(fault)
                && fault.probability.is_none_or(|share| random.f64() < share)
        })?;
        let fault = &mut rules[at].1;
        let effect = fault.effect.clone();
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                rules.remove(at);
            }
        }
        *struck.entry(format!("{service}:{operation} {}", effect.word())).or_default() += 1;
        Some(effect)
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        self.0.lock().expect("no code panics while it holds the rules")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::{
        Sandbox,
        requests::{self, TRUST, code},
    };
    use logferry_testbed::provision::{Account, QueryError};

    const CALLER: &[(&str, &str)] = &[("Action", "GetCallerIdentity")];

    async fn sandbox() -> (Sandbox, Account) {
        let (sandbox, aws) = requests::sandbox().await;
        (sandbox, aws.account("111111111111"))
    }

    fn sts(effect: Effect) -> Fault {
        Fault::new("sts", "GetCallerIdentity", effect)
    }

    fn error() -> ErrorAnswer {
        ErrorAnswer::new(503, "ServiceUnavailable")
    }

    fn is_unanswered(answer: &Result<String, QueryError>) -> bool {
        matches!(answer, Err(QueryError::Unanswered(_)))
    }

    #[tokio::test]
    async fn an_error_hits_as_often_as_requested() {
        let (sandbox, account) = sandbox().await;
        sandbox.faults().add(Fault { times: Some(2), ..sts(Effect::Error(error())) });
        for _ in 0..2 {
            match account.sts_query(CALLER).await {
                Err(QueryError::Refused { status, code, message }) => {
                    assert_eq!((status, code.as_str()), (503, "ServiceUnavailable"));
                    assert_eq!(message, "injected by the sandbox");
                }
                other => panic!("not refused: {other:?}"),
            }
        }
        account.sts_query(CALLER).await.expect("the fault is used up");
        assert_eq!(sandbox.calls("sts", "GetCallerIdentity"), 3);
        let struck = Vec::from_iter(sandbox.faults().struck());
        assert_eq!(struck, [("sts:GetCallerIdentity ServiceUnavailable".to_owned(), 2)]);
    }

    #[tokio::test]
    async fn a_rule_covers_only_what_it_names() {
        let (sandbox, aws) = requests::sandbox().await;
        let (account, other) = (aws.account("111111111111"), aws.account("222222222222"));
        let faults = sandbox.faults();
        faults.add(Fault { account: Some("222222222222".to_owned()), ..sts(Effect::Error(error())) });
        faults.add(Fault { contains: Some("needle".to_owned()), ..sts(Effect::Error(error())) });
        faults.add(Fault::new("sts", "AssumeRole", Effect::Error(error())));
        faults.add(Fault::new("iam", "*", Effect::Error(error())));
        account.sts_query(CALLER).await.expect("no rule covers this call");
        other.sts_query(CALLER).await.expect_err("a rule covers that account");
        let with_needle = [CALLER[0], ("Extra", "a needle")];
        account.sts_query(&with_needle).await.expect_err("a rule covers that text");
        account.iam_query(&[("Action", "PutRolePolicy")]).await.expect_err("a rule covers all of iam");
        faults.clear();
        other.sts_query(CALLER).await.expect("no rule is left");
    }

    #[tokio::test]
    async fn a_rule_can_be_limited_to_sessions() {
        let (sandbox, account) = sandbox().await;
        let created = requests::create_role(&account, "role", TRUST).await.expect("nothing is injected yet");
        let (_, rest) = created.split_once("<Arn>").expect("the role's ARN");
        let (arn, _) = rest.split_once("</Arn>").expect("the role's ARN");
        let session = account.assume_role(arn, "session", &[]).await.expect("anyone may assume the role");
        sandbox.faults().add(Fault { sessions_only: true, ..sts(Effect::Reset) });
        account.sts_query(CALLER).await.expect("the root has no session");
        assert!(is_unanswered(&session.sts_query(CALLER).await));
    }

    #[tokio::test]
    async fn a_reset_leaves_no_answer_and_no_effect() {
        let (sandbox, account) = sandbox().await;
        let id = sandbox.faults().add(Fault::new("iam", "CreateRole", Effect::Reset));
        assert!(is_unanswered(&requests::create_role(&account, "lost", TRUST).await));
        sandbox.faults().remove(id);
        requests::create_role(&account, "lost", TRUST).await.expect("the first attempt had no effect");
    }

    #[tokio::test]
    async fn after_lets_the_call_take_effect_and_loses_the_answer() {
        let (sandbox, account) = sandbox().await;
        let once = |effect| Fault { times: Some(1), ..Fault::new("iam", "CreateRole", effect) };
        sandbox.faults().add(once(Effect::After { error: None }));
        assert!(is_unanswered(&requests::create_role(&account, "one", TRUST).await));
        assert_eq!(code(requests::create_role(&account, "one", TRUST).await), "EntityAlreadyExists");
        sandbox.faults().add(once(Effect::After { error: Some(error()) }));
        assert_eq!(code(requests::create_role(&account, "two", TRUST).await), "ServiceUnavailable");
        assert_eq!(code(requests::create_role(&account, "two", TRUST).await), "EntityAlreadyExists");
    }

    #[tokio::test]
    async fn a_body_can_break_off_or_be_slow() {
        let (sandbox, account) = sandbox().await;
        let whole = account.sts_query(CALLER).await.expect("nothing is injected yet");
        let half = sandbox.faults().add(sts(Effect::HalfBody));
        assert!(is_unanswered(&account.sts_query(CALLER).await));
        sandbox.faults().remove(half);
        let bytes_per_second = whole.len() as u64 * 4;
        sandbox.faults().add(sts(Effect::SlowBody { bytes_per_second }));
        let started = Instant::now();
        assert_eq!(account.sts_query(CALLER).await.expect("slow, but whole"), whole);
        assert!(started.elapsed() >= Duration::from_millis(200), "took {:?}", started.elapsed());
        sandbox.faults().clear();
        sandbox.faults().add(sts(Effect::Latency { milliseconds: 120 }));
        let started = Instant::now();
        assert_eq!(account.sts_query(CALLER).await.expect("late, but whole"), whole);
        assert!(started.elapsed() >= Duration::from_millis(120), "took {:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_client_notices_a_wrong_checksum() {
        let (sandbox, account) = sandbox().await;
        let s3 = account.s3();
        s3.create_bucket().bucket("wrong").send().await.expect("the bucket can be created");
        let body = bytes::Bytes::from_static(b"some logs");
        let put = s3.put_object().bucket("wrong").key("k").body(body.clone().into()).send();
        put.await.expect("the object can be put");
        let read = async || {
            let got = s3.get_object().bucket("wrong").key("k").send().await.expect("the object can be got");
            got.body.collect().await.map(|body| body.into_bytes())
        };
        assert_eq!(read().await.expect("nothing is injected yet"), body);
        sandbox.faults().add(Fault::new("s3", "GetObject", Effect::WrongChecksum));
        read().await.expect_err("the body does not have the checksum of the headers");
    }

    #[tokio::test]
    async fn the_same_seed_hits_the_same_calls() {
        let (sandbox, account) = sandbox().await;
        let mut runs = Vec::new();
        for seed in [7, 7, 8] {
            sandbox.faults().clear();
            sandbox.faults().seed(seed);
            sandbox.faults().add(Fault { probability: Some(0.5), ..sts(Effect::Error(error())) });
            let mut hits = Vec::new();
            for _ in 0..40 {
                hits.push(account.sts_query(CALLER).await.is_err());
            }
            runs.push(hits);
        }
        assert_eq!(runs[0], runs[1]);
        assert_ne!(runs[0], runs[2]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }

    #[test]
    fn rules_are_read_from_json() {
        let check = |effect: &str, expected: Effect| {
            let text = format!(r#"{{"service":"logs","operation":"*","effect":{effect}}}"#);
            let fault: Fault = serde_json::from_str(&text).expect("a rule");
            assert_eq!(fault.effect, expected);
        };
        check(r#""reset""#, Effect::Reset);
        check(r#""half_body""#, Effect::HalfBody);
        check(r#""wrong_checksum""#, Effect::WrongChecksum);
        check(r#"{"after":{}}"#, Effect::After { error: None });
        check(r#"{"latency":{"milliseconds":5}}"#, Effect::Latency { milliseconds: 5 });
        check(r#"{"slow_body":{"bytes_per_second":9}}"#, Effect::SlowBody { bytes_per_second: 9 });
        let error = ErrorAnswer { status: 400, code: "X".to_owned(), message: "y".to_owned() };
        check(r#"{"error":{"status":400,"code":"X","message":"y"}}"#, Effect::Error(error));
        let unknown = r#"{"service":"logs","operation":"*","effect":"reset","tims":1}"#;
        serde_json::from_str::<Fault>(unknown).expect_err("a misspelt field");
    }
}
