//! Protocols of the services: the operation of a request, and the form of an error.

use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Map, Value};

use crate::call::AwsError;
use crate::encoding::{element, escape, form_pairs};
use crate::sigv4::SignatureError;
use crate::sqs::errors::query_code;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    DynamoDb,
    Iam,
    Logs,
    S3,
    Sns,
    Sqs,
    Sts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// JSON bodies with the operation in `X-Amz-Target`; content type, and namespace of error types.
    Json { content_type: &'static str, namespace: &'static str },
    /// Form bodies with the operation in `Action`; namespace of the XML answers.
    Query { namespace: &'static str },
    /// The protocol of S3.
    Rest,
}

impl Service {
    /// Service with this signing name in a credential scope.
    pub(crate) fn of_scope(name: &str) -> Option<Self> {
        [Self::DynamoDb, Self::Iam, Self::Logs, Self::S3, Self::Sns, Self::Sqs, Self::Sts]
            .into_iter()
            .find(|service| service.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "dynamodb",
            Self::Iam => "iam",
            Self::Logs => "logs",
            Self::S3 => "s3",
            Self::Sns => "sns",
            Self::Sqs => "sqs",
            Self::Sts => "sts",
        }
    }

    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::DynamoDb => Protocol::Json {
                content_type: "application/x-amz-json-1.0",
                namespace: "com.amazonaws.dynamodb.v20120810#",
            },
            Self::Logs => Protocol::Json { content_type: "application/x-amz-json-1.1", namespace: "" },
            Self::Sqs => {
                Protocol::Json { content_type: "application/x-amz-json-1.0", namespace: "com.amazonaws.sqs#" }
            }
            Self::Iam => Protocol::Query { namespace: "https://iam.amazonaws.com/doc/2010-05-08/" },
            Self::Sns => Protocol::Query { namespace: "http://sns.amazonaws.com/doc/2010-03-31/" },
            Self::Sts => Protocol::Query { namespace: "https://sts.amazonaws.com/doc/2011-06-15/" },
            Self::S3 => Protocol::Rest,
        }
    }

    /// Operation of a request; empty if the request does not name one.
    pub(crate) fn operation(self, request: &http::request::Parts, body: &[u8]) -> String {
        match self.protocol() {
            Protocol::Json { .. } => {
                let target = request.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
                target.and_then(|target| target.rsplit('.').next()).unwrap_or_default().to_owned()
            }
            Protocol::Query { .. } => {
                let in_body = form_pairs(std::str::from_utf8(body).unwrap_or_default());
                let in_query = form_pairs(request.uri.query().unwrap_or_default());
                let action = in_body.into_iter().chain(in_query).find(|(key, _)| key == "Action");
                action.map(|(_, value)| value).unwrap_or_default()
            }
            Protocol::Rest => {
                s3_operation(&request.method, request.uri.path(), &query_of(request), &request.headers)
            }
        }
    }
}

/// Query parameters, decoded, in the order of the request.
pub(crate) fn query_of(request: &http::request::Parts) -> Vec<(String, String)> {
    form_pairs(request.uri.query().unwrap_or_default())
}

/// S3's operation follows from the method, the depth of the path, the sub-resource in the query, and one header.
///
/// A combination that is not in the table gets a name of its method, place and sub-resource, for the error message.
fn s3_operation(method: &Method, path: &str, query: &[(String, String)], headers: &HeaderMap) -> String {
    let has = |name: &str| query.iter().any(|(key, _)| key == name);
    let plain = ["x-id", "versionId", "list-type", "prefix", "delimiter", "max-keys", "continuation-token"];
    let plain_too = ["start-after", "encoding-type", "fetch-owner", "location-constraint"];
    let plain_response = |name: &str| name.starts_with("response-");
    let sub = query
        .iter()
        .map(|(key, _)| key.as_str())
        .find(|key| !plain.contains(key) && !plain_too.contains(key) && !plain_response(key));
    let (bucket, key) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let place = match (bucket, key) {
        ("", _) => "service",
        (_, "") => "bucket",
        _ => "object",
    };
    let name = match (method.as_str(), place, sub) {
        ("PUT", "bucket", None) => "CreateBucket",
        ("PUT", "bucket", Some("versioning")) => "PutBucketVersioning",
        ("PUT", "bucket", Some("notification")) => "PutBucketNotificationConfiguration",
        ("PUT", "bucket", Some("policy")) => "PutBucketPolicy",
        ("GET", "bucket", Some("notification")) => "GetBucketNotificationConfiguration",
        ("GET", "bucket", None) if has("list-type") => "ListObjectsV2",
        ("HEAD", "bucket", None) => "HeadBucket",
        ("POST", "bucket", Some("delete")) => "DeleteObjects",
        ("GET", "bucket", Some("uploads")) => "ListMultipartUploads",
        ("POST", "object", Some("uploads")) => "CreateMultipartUpload",
        ("POST", "object", Some("uploadId")) => "CompleteMultipartUpload",
        ("DELETE", "object", Some("uploadId")) => "AbortMultipartUpload",
        ("GET", "object", Some("uploadId")) => "ListParts",
        ("PUT", "object", Some("partNumber" | "uploadId")) => match headers.contains_key("x-amz-copy-source")
        {
            true => "UploadPartCopy",
            false => "UploadPart",
        },
        ("PUT", "object", None) if headers.contains_key("x-amz-copy-source") => "CopyObject",
        ("PUT", "object", None) => "PutObject",
        ("GET", "object", None) => "GetObject",
        ("HEAD", "object", None) => "HeadObject",
        ("DELETE", "object", None) => "DeleteObject",
        (method, place, sub) => {
            return format!("{method} {place} {}", sub.unwrap_or_default()).trim_end().to_owned();
        }
    };
    name.to_owned()
}

/// Writes an error in the protocol's form. An answer to HEAD has no body.
pub(crate) fn write_error(
    protocol: Protocol,
    error: &AwsError,
    request_id: &str,
    method: &Method,
) -> Response {
    let mut headers = HeaderMap::new();
    let (content_type, body) = match protocol {
        Protocol::Json { content_type, namespace } => {
            let (status, code) = match error.code.as_str() {
                // IAM's refusal has the message that the JSON services use, but another status and code.
                "AccessDenied" => (400, "AccessDeniedException"),
                code => (error.status, code),
            };
            if let Ok(value) = HeaderValue::from_str(code) {
                headers.insert("x-amzn-errortype", value);
            }
            if let ("com.amazonaws.sqs#", Ok(value)) = (namespace, HeaderValue::from_str(&query_error(error)))
            {
                headers.insert("x-amzn-query-error", value);
            }
            let mut body = Map::from_iter([
                ("__type".to_owned(), Value::from(format!("{namespace}{code}"))),
                ("message".to_owned(), Value::from(error.message.as_str())),
            ]);
            body.extend(error.members.iter().cloned());
            return written(status, headers, content_type, Value::Object(body).to_string());
        }
        Protocol::Query { namespace } => {
            let fault = if error.status < 500 { "Sender" } else { "Receiver" };
            let body = format!(
                "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{fault}</Type><Code>{}</Code>\
                 <Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
                escape(&error.code),
                escape(&error.message),
            );
            ("text/xml", body)
        }
        Protocol::Rest if *method == Method::HEAD => ("application/xml", String::new()),
        Protocol::Rest => {
            let members: String = error.members.iter().map(|(name, value)| member(name, value)).collect();
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{}</Code><Message>{}</Message>{members}\
                 <RequestId>{request_id}</RequestId><HostId>{request_id}</HostId></Error>",
                escape(&error.code),
                escape(&error.message),
            );
            ("application/xml", body)
        }
    };
    written(error.status, headers, content_type, body)
}

/// An additional member of an error, as an element.
fn member(name: &str, value: &Value) -> String {
    element(name, &value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn written(status: u16, mut headers: HeaderMap, content_type: &'static str, body: String) -> Response {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = headers;
    response
}

/// Code of SQS's older protocol, which SQS still sends and boto3 reads.
fn query_error(error: &AwsError) -> String {
    let fault = if error.status < 500 { "Sender" } else { "Receiver" };
    format!("{};{fault}", query_code(&error.code))
}

/// Error of the service's protocol for a refused signature.
pub(crate) fn refusal(protocol: Protocol, refusal: SignatureError) -> AwsError {
    let (json, query, s3) = match refusal {
        SignatureError::Missing => (
            (403, "MissingAuthenticationToken", "Missing Authentication Token"),
            (403, "MissingAuthenticationToken", "Request is missing Authentication Token"),
            (403, "AccessDenied", "Access Denied"),
        ),
        SignatureError::UnknownKey => (
            (400, "UnrecognizedClientException", "The security token included in the request is invalid."),
            (403, "InvalidClientTokenId", "The security token included in the request is invalid."),
            (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        ),
        SignatureError::Mismatch | SignatureError::PayloadMismatch | SignatureError::NoPayloadHash => {
            let message = "The request signature we calculated does not match the signature you provided. Check your AWS \
                           Secret Access Key and signing method. Consult the service documentation for details.";
            let s3 = match refusal {
                SignatureError::PayloadMismatch => {
                    let message =
                        "The provided 'x-amz-content-sha256' header does not match what was computed.";
                    (400, "XAmzContentSHA256Mismatch", message)
                }
                SignatureError::NoPayloadHash => {
                    (400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
                }
                _ => (403, "SignatureDoesNotMatch", message),
            };
            ((400, "InvalidSignatureException", message), (403, "SignatureDoesNotMatch", message), s3)
        }
        SignatureError::Expired => (
            (400, "ExpiredTokenException", "The security token included in the request is expired"),
            (403, "ExpiredToken", "The security token included in the request is expired"),
            (400, "ExpiredToken", "The provided token has expired."),
        ),
        SignatureError::Skewed => (
            (
                400,
                "InvalidSignatureException",
                "Signature expired or not yet current: the clocks differ too much",
            ),
            (
                403,
                "SignatureDoesNotMatch",
                "Signature expired or not yet current: the clocks differ too much",
            ),
            (
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            ),
        ),
    };
    let (status, code, message) = match protocol {
        Protocol::Json { .. } => json,
        Protocol::Query { .. } => query,
        Protocol::Rest => s3,
    };
    AwsError::new(status, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_operations_have_names() {
        for (method, target, expected) in [
            ("GET", "/", "GET service"),
            ("PUT", "/b", "CreateBucket"),
            ("PUT", "/b/", "CreateBucket"),
            ("PUT", "/b?versioning", "PutBucketVersioning"),
            ("PUT", "/b?notification", "PutBucketNotificationConfiguration"),
            ("PUT", "/b?policy", "PutBucketPolicy"),
            ("HEAD", "/b", "HeadBucket"),
            ("GET", "/b?list-type=2&prefix=a%2F", "ListObjectsV2"),
            ("GET", "/b?prefix=a", "GET bucket"),
            ("PUT", "/b/k?x-id=PutObject", "PutObject"),
            ("GET", "/b/k/l?versionId=1", "GetObject"),
            ("HEAD", "/b/k", "HeadObject"),
            ("DELETE", "/b/k", "DeleteObject"),
            ("DELETE", "/b", "DELETE bucket"),
            ("GET", "/b?notification", "GetBucketNotificationConfiguration"),
            ("POST", "/b/k?uploads", "CreateMultipartUpload"),
            ("PUT", "/b/k?x-id=UploadPart&partNumber=1&uploadId=x", "UploadPart"),
            ("POST", "/b/k?uploadId=x", "CompleteMultipartUpload"),
            ("DELETE", "/b/k?x-id=AbortMultipartUpload&uploadId=x", "AbortMultipartUpload"),
            ("GET", "/b/k?uploadId=x", "ListParts"),
            ("GET", "/b?uploads", "ListMultipartUploads"),
            ("POST", "/b?delete", "DeleteObjects"),
            ("GET", "/b/k?acl", "GET object acl"),
        ] {
            let request =
                http::Request::builder().method(method).uri(target).body(()).expect("a legal request");
            assert_eq!(Service::S3.operation(&request.into_parts().0, b""), expected, "{method} {target}");
        }
        let copy =
            http::Request::put("/b/k").header("x-amz-copy-source", "a/b").body(()).expect("a legal request");
        assert_eq!(Service::S3.operation(&copy.into_parts().0, b""), "CopyObject");
    }

    #[test]
    fn iams_refusal_has_the_json_services_status_and_code() {
        let error = AwsError::new(403, "AccessDenied", "no");
        let status = |service: Service| {
            let response = write_error(service.protocol(), &error, "id", &Method::POST);
            let code = response.headers().get("x-amzn-errortype").cloned();
            (response.status().as_u16(), code)
        };
        for service in [Service::DynamoDb, Service::Logs, Service::Sqs] {
            assert_eq!(status(service), (400, Some(HeaderValue::from_static("AccessDeniedException"))));
        }
        assert_eq!(status(Service::Iam), (403, None));
    }
}
