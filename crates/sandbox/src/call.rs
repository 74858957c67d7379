//! Types between the HTTP front and the services: requests, replies and refusals.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

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

    /// Parses the body as JSON, for the JSON protocols.
    pub fn json(&self) -> Result<Value, AwsError> {
        if self.body.is_empty() {
            return Ok(json!({}));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            AwsError::new(400, "SerializationException", format!("body is not JSON: {error}"))
        })
    }

    /// Parses the body as a form, for the Query protocol (IAM, STS, SNS): decoded, in the order of the request.
    pub fn form(&self) -> Vec<(String, String)> {
        form_pairs(std::str::from_utf8(&self.body).unwrap_or_default())
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

/// Splits and decodes `a=b&c=d` (percent and plus), in order.
pub fn form_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key), decode_form(value))
        })
        .collect()
}

/// Decodes form encoding: `+` is a space, `%XX` a byte.
pub fn decode_form(text: &str) -> String {
    decode_percent(&text.replace('+', " "))
}

/// Decodes percent encoding. A plus stays a plus, and a broken escape stays as it is.
pub fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
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
    /// Additional members of a JSON error, for example `expectedSequenceToken`.
    pub members: Vec<(String, Value)>,
}

impl AwsError {
    /// Creates an error without additional members.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), members: Vec::new() }
    }

    /// Adds a member to the JSON body.
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
        let caller = match &call.principal {
            Principal::Root => format!("arn:aws:iam::{}:root", call.account),
            Principal::Session { role_arn, session_name, .. } => {
                let role = role_arn.rsplit('/').next().unwrap_or_default();
                format!("arn:aws:sts::{}:assumed-role/{role}/{session_name}", call.account)
            }
        };
        Self::new(
            403,
            "AccessDenied",
            format!("User: {caller} is not authorized to perform: {action} on resource: {resource}"),
        )
    }
}

/// Result of every service method.
pub type Answer = Result<Reply, AwsError>;
