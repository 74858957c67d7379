//! Requests of the tests: straight to a service, and over HTTP to a sandbox.

use std::{fmt::Debug, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::BodyExt;
use logferry_testbed::provision::{Account, Aws, QueryError};
use serde_json::Value;

use crate::{
    Sandbox,
    call::{AwsError, Call, Principal, Reply},
    cloud::Cloud,
    encoding::encode_key,
};

/// Trust policy of a role that anyone may assume.
pub(crate) const TRUST: &str =
    r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}}"#;

/// A call of an account's root. Tests fill in the other fields.
pub(crate) fn root(account: &str) -> Call {
    Call {
        account: account.to_owned(),
        principal: Principal::Root,
        region: "us-east-1".to_owned(),
        operation: String::new(),
        method: Method::POST,
        path: "/".to_owned(),
        query: Vec::new(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        endpoint: "http://127.0.0.1:1".to_owned(),
    }
}

/// A call of a session named `tests` of a role.
pub(crate) fn session(account: &str, role: &str) -> Call {
    let principal = Principal::Session {
        role_arn: format!("arn:aws:iam::{account}:role/{role}"),
        session_name: "tests".to_owned(),
        session_policy: None,
    };
    Call { principal, ..root(account) }
}

/// The caller's call of this operation.
pub(crate) fn calling(caller: Call, operation: &str, body: impl Into<Bytes>) -> Call {
    Call { operation: operation.to_owned(), body: body.into(), ..caller }
}

/// Creates a role with one inline policy, and returns a call of one of its sessions.
pub(crate) async fn role_session(cloud: &Arc<Cloud>, account: &str, role: &str, policy: &Value) -> Call {
    let policy = encode_key(&policy.to_string());
    for (operation, form) in [
        ("CreateRole", format!("AssumeRolePolicyDocument={}", encode_key(TRUST))),
        ("PutRolePolicy", format!("PolicyName=p&PolicyDocument={policy}")),
    ] {
        let body = format!("Action={operation}&Version=2010-05-08&RoleName={role}&{form}");
        let call = calling(root(account), operation, body);
        cloud.iam.handle(cloud, &call).await.expect("the role is made");
    }
    session(account, role)
}

/// Body of an answer.
pub(crate) async fn body(reply: Reply) -> Bytes {
    reply.body.collect().await.expect("the body is in memory").to_bytes()
}

/// Body of a JSON answer. An empty body is `null`.
pub(crate) async fn json_body(reply: Reply) -> Value {
    let body = body(reply).await;
    if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("answers are JSON") }
}

/// Checks that a JSON service refused with status 400, this code and this part of the message.
#[track_caller]
pub(crate) fn refused(answer: Result<Value, AwsError>, code: &str, message: &str) {
    let error = answer.expect_err(message);
    assert_eq!((error.status, error.code.as_str()), (400, code), "{}", error.message);
    assert!(error.message.contains(message), "{}", error.message);
}

/// Starts a sandbox.
pub(crate) async fn sandbox() -> (Sandbox, Aws) {
    let sandbox = Sandbox::start().await.expect("loopback has a free port");
    let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
    (sandbox, aws)
}

/// Code of a refusal; `ok` if there is none.
pub(crate) fn code<T: Debug>(answer: Result<T, QueryError>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(QueryError::Refused { code, .. }) => code,
        Err(other) => panic!("no answer: {other:?}"),
    }
}

pub(crate) async fn create_role(account: &Account, name: &str, trust: &str) -> Result<String, QueryError> {
    let parameters = [("Action", "CreateRole"), ("RoleName", name), ("AssumeRolePolicyDocument", trust)];
    account.iam_query(&parameters).await
}
