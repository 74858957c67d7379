//! Types between the HTTP front and the services: requests, replies and refusals.

use std::collections::BTreeMap;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::encoding::form_pairs;

/// Signer of a request: an account's root, or a session of a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The account itself. Its access key is its twelve-digit id.
    Root,
    /// A session that AssumeRole issued.
    Session {
        /// ARN of the assumed role, `arn:aws:iam::ACCOUNT:role/NAME`.
        role_arn: String,
        /// Name of the session.
        session_name: String,
        /// Inline session policy, if AssumeRole got one. It narrows what the role allows.
        session_policy: Option<String>,
    },
}

/// An authenticated request for one service.
#[derive(Clone, Debug)]
pub struct Call {
    /// Account id of the caller, twelve digits.
    pub account: String,
    /// Signer of the request.
    pub principal: Principal,
    /// Region of the credential scope.
    pub region: String,
    /// Operation as AWS spells it (`PutLogEvents`). For S3 it follows from method, path and query.
    pub operation: String,
    /// HTTP method.
    pub method: http::Method,
    /// Path as sent, percent-encoded.
    pub path: String,
    /// Query parameters, decoded, in the order of the request.
    pub query: Vec<(String, String)>,
    /// Headers as sent.
    pub headers: HeaderMap,
    /// Complete body, with `Content-Encoding: gzip` and `aws-chunked` decoded.
    pub body: Bytes,
    /// `http://HOST:PORT` as the caller addressed the sandbox, for URLs in answers.
    pub endpoint: String,
}

impl Call {
    /// Partition of the caller's Region: `aws` or `aws-eusc`. The sandbox knows no others.
    pub fn partition(&self) -> &'static str {
        if self.region.starts_with("eusc-") { "aws-eusc" } else { "aws" }
    }

    /// ARN of the caller: the account's root, or the session.
    pub(crate) fn caller_arn(&self) -> String {
        match &self.principal {
            Principal::Root => format!("arn:aws:iam::{}:root", self.account),
            Principal::Session { role_arn, session_name, .. } => {
                let role = role_arn.rsplit('/').next().unwrap_or_default();
                format!("arn:aws:sts::{}:assumed-role/{role}/{session_name}", self.account)
            }
        }
    }

    /// Parses the body of a JSON protocol. An empty body is an empty object. Borrows from the body where the type allows that.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, AwsError> {
        let unreadable = |reason: String| AwsError::new(400, "SerializationException", reason);
        let text = std::str::from_utf8(&self.body).map_err(|error| unreadable(error.to_string()))?;
        serde_json::from_str(if text.is_empty() { "{}" } else { text })
            .map_err(|error| unreadable(error.to_string()))
    }

    /// Does the same as [`Self::parse`], and answers 501 if the request has a member that `T` does not have.
    pub(crate) fn parse_all<T: DeserializeOwned>(&self, service: &str) -> Result<T, AwsError> {
        #[derive(Deserialize)]
        struct All<T> {
            #[serde(flatten)]
            members: T,
            #[serde(flatten)]
            rest: Rest,
        }
        let All { members, rest } = self.parse()?;
        self.refuse_rest(service, &rest)?;
        Ok(members)
    }

    /// Answers 501 if the request has a member that would otherwise be ignored.
    pub(crate) fn refuse_rest(&self, service: &str, rest: &Rest) -> Result<(), AwsError> {
        match rest.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => {
                Err(AwsError::not_implemented(service, &format!("{} with {name}", self.operation)))
            }
            None => Ok(()),
        }
    }

    /// Parses the body as a form, for the Query protocol (IAM, STS, SNS).
    pub(crate) fn form(&self) -> Form {
        Form(form_pairs(std::str::from_utf8(&self.body).unwrap_or_default()))
    }

    /// Value of the first query parameter with this name.
    pub fn query_value(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Value of a header, if it is present and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Members of a JSON request that the sandbox does not implement.
pub(crate) type Rest = BTreeMap<String, Value>;

/// Parameters of a call of the Query protocol, decoded, in the order of the request.
pub(crate) struct Form(pub(crate) Vec<(String, String)>);

impl Form {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Value of a parameter, unless it is missing or empty.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }
}

/// Answer of a service.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers, except those that the front adds (request id, date).
    pub headers: HeaderMap,
    /// Body, possibly a stream.
    pub body: Body,
}

impl Reply {
    /// Status 200 with a JSON body of content type `application/x-amz-json-1.1`, which clients of the 1.0 services accept too.
    pub fn json(value: &Value) -> Self {
        Self::bytes("application/x-amz-json-1.1", value.to_string())
    }

    /// Status 200 with an XML body.
    pub fn xml(text: String) -> Self {
        Self::bytes("text/xml", text)
    }

    /// Status 200 with the XML of the Query protocol.
    pub(crate) fn query(namespace: &str, operation: &str, result: &str) -> Self {
        let result = match result {
            "" => String::new(),
            some => format!("<{operation}Result>{some}</{operation}Result>"),
        };
        Self::xml(format!("<{operation}Response xmlns=\"{namespace}\">{result}</{operation}Response>"))
    }

    /// Status 200 with an empty body.
    pub fn empty() -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), body: Body::empty() }
    }

    fn bytes(content_type: &'static str, text: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self { status: StatusCode::OK, headers, body: Body::from(text) }
    }

    /// Adds a header. A value that is illegal in a header is left out.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }
}

/// A refusal: AWS's status, code and message. The front writes it in the service's protocol.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AwsError {
    /// HTTP status.
    pub status: u16,
    /// AWS's error code, for example `ResourceNotFoundException`.
    pub code: String,
    /// AWS's message if it is known, otherwise our own.
    pub message: String,
    /// Additional members of the error, for example `expectedSequenceToken`. JSON services and S3 have them.
    pub members: Vec<(String, Value)>,
}

impl AwsError {
    /// Creates an error without additional members.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), members: Vec::new() }
    }

    /// Adds a member to the error's body.
    pub fn with_member(mut self, name: &str, value: Value) -> Self {
        self.members.push((name.to_owned(), value));
        self
    }

    /// `501 NotImplemented` with the name of a call that the sandbox does not implement.
    pub fn not_implemented(service: &str, operation: &str) -> Self {
        Self::new(501, "NotImplemented", format!("the sandbox does not implement {service}:{operation}"))
    }

    /// 403 with IAM's message.
    pub fn access_denied(call: &Call, action: &str, resource: &str) -> Self {
        let caller = call.caller_arn();
        Self::new(
            403,
            "AccessDenied",
            format!("User: {caller} is not authorized to perform: {action} on resource: {resource}"),
        )
    }
}

/// AWS's message about a member that violates a constraint of the service's model. A missing member has the value `null`.
pub(crate) fn violation(value: &str, member: &str, rule: &str) -> String {
    let value = if value == "null" { value.to_owned() } else { format!("'{value}'") };
    format!("1 validation error detected: Value {value} at '{member}' failed to satisfy constraint: {rule}")
}

/// Result of every service method.
pub type Answer = Result<Reply, AwsError>;
