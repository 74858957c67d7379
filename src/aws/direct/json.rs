//! Direct attempts in AWS's JSON protocols.

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_smithy_runtime_api::{
    client::orchestrator::{HttpResponse, Metadata},
    http::StatusCode,
};
use aws_smithy_types::byte_stream::ByteStream;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DirectCalls, DirectRequest, Final, LeftToSdk, Place, Unusual, UnusualKind};
use crate::{
    aws::{Calls, chain},
    digest,
    json::{self, JsonObject},
};

/// Direct attempts of one operation, to one endpoint, with the client's own credentials.
#[derive(Clone, Debug)]
pub struct JsonCalls {
    direct: DirectCalls,
    target: &'static str,
    header: Option<(&'static str, &'static str)>,
}

impl JsonCalls {
    /// `service` is the name that the SDK gives the service, and `target` the value of `x-amz-target`, for example
    /// `AmazonSQS.ReceiveMessage`. `header` is a further header that the SDK sends. Attempts count with `calls`.
    pub fn new(
        calls: &Calls,
        service: &'static str,
        target: &'static str,
        header: Option<(&'static str, &'static str)>,
    ) -> Self {
        let (_, operation) = target.split_once('.').expect("a target has a point before the operation");
        let place = |_: &_, _: &_| Some(Place { route: String::new(), path: String::new() });
        let direct = DirectCalls::new(calls, Metadata::new(operation, service), place, true);
        Self { direct, target, header }
    }

    /// The interceptor of the client that makes the operation's other calls. Attempts begin after its first call.
    pub fn interceptor(&self) -> DirectCalls {
        self.direct.clone()
    }

    /// Sends `input`, and reads the answer to a call that succeeded. `owner`: see [`DirectCalls::begin`].
    ///
    /// # Errors
    /// The SDK must make the call.
    ///
    /// # Cancel safety
    /// As with the SDK: if the future is dropped, the call may still take effect.
    pub async fn call<T: DeserializeOwned>(
        &self,
        owner: &str,
        input: &impl Serialize,
    ) -> Result<T, LeftToSdk> {
        let attempt = self.direct.begin("", owner)?;
        let credentials = attempt.credentials().await?;
        let body = serde_json::to_vec(input).map_err(|_| LeftToSdk::default())?;
        let hash = digest::sha256(&body);
        let mut request = DirectRequest::json("application/x-amz-json-1.0", self.target, &hash, body);
        request.headers.extend(self.header.map(|(name, value)| (name, value.to_owned())));
        attempt.send(request, &credentials, read).await
    }
}

async fn read<T: DeserializeOwned>(response: HttpResponse) -> Result<Final<T>, Unusual> {
    match Answer::read(response).await? {
        Answer::Success(status, body) => match serde_json::from_slice(&body) {
            Ok(JsonObject(output)) => Ok(Final::Success(output)),
            Err(error) => {
                let problem = format!("HTTP status {status}, but {}", json::problem(&error));
                Err(Unusual { problem, kind: UnusualKind::Unreadable })
            }
        },
        Answer::Refusal(status, Refusal { code, message, .. }) => {
            let kind = if status.as_u16() == 429 || THROTTLING_ERRORS.contains(&code.as_str()) {
                UnusualKind::Throttled
            } else if status.is_server_error() {
                UnusualKind::Failed
            } else {
                UnusualKind::Refused
            };
            Err(Unusual { problem: format!("HTTP status {status}: {code}: {message}"), kind })
        }
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub enum Answer {
    /// A status from 200 to 299.
    Success(StatusCode, Bytes),
    /// Another status.
    Refusal(StatusCode, Refusal),
}

/// An error.
#[derive(Debug, Default, Deserialize)]
pub struct Refusal {
    /// AWS's code, without a namespace. Empty if the answer has none.
    #[serde(rename = "__type", default)]
    pub code: String,
    /// AWS's text, or an empty one.
    #[serde(alias = "Message", default)]
    pub message: String,
    /// Of CloudWatch Logs.
    #[serde(rename = "expectedSequenceToken")]
    pub expected_sequence_token: Option<String>,
}

impl Answer {
    /// Reads the body.
    ///
    /// # Errors
    /// The body breaks off.
    pub async fn read(response: HttpResponse) -> Result<Self, Unusual> {
        let status = response.status();
        let in_header = response.headers().get("x-amzn-errortype").map(str::to_owned);
        let body = ByteStream::new(response.into_body()).collect().await;
        let body = body.map_err(|error| Unusual::no_answer(chain(&error)))?.into_bytes();
        if status.is_success() {
            return Ok(Self::Success(status, body));
        }
        let JsonObject(refusal): JsonObject<Refusal> = serde_json::from_slice(&body).unwrap_or_default();
        let code = in_header.unwrap_or(refusal.code);
        // A namespace and a number sign may stand before the code, and a colon and an address after it.
        let code = code.split(':').next().and_then(|code| code.rsplit('#').next()).unwrap_or_default();
        Ok(Self::Refusal(status, Refusal { code: code.to_owned(), ..refusal }))
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn answers_beyond_a_success_are_the_sdk_s() {
        let read = async |status: u16, body: &'static str| {
            let status = status.try_into().expect("a status");
            read::<Value>(HttpResponse::new(status, SdkBody::from(body))).await
        };
        assert!(matches!(read(200, "{}").await, Ok(Final::Success(_))));
        let broken = SdkBody::from_body_1_x(http_body_util::StreamBody::new(futures_util::stream::iter([
            Ok(hyper::body::Frame::data(Bytes::from_static(b"{"))),
            Err(std::io::Error::other("it breaks off")),
        ])));
        let unusual =
            super::read::<Value>(HttpResponse::new(200.try_into().expect("a status"), broken)).await;
        assert!(unusual.is_err_and(|unusual| {
            unusual.kind == UnusualKind::Failed && unusual.problem.contains("it breaks off")
        }));
        for (status, body, kind) in [
            (200, "", UnusualKind::Unreadable),
            (200, "<html>", UnusualKind::Unreadable),
            (200, "[]", UnusualKind::Unreadable),
            (400, "", UnusualKind::Refused),
            (403, "<html>", UnusualKind::Refused),
            (
                400,
                r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"none"}"#,
                UnusualKind::Refused,
            ),
            (400, r#"["RequestThrottled"]"#, UnusualKind::Refused),
            (400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled"}"#, UnusualKind::Throttled),
            (400, r#"{"__type":"ProvisionedThroughputExceededException"}"#, UnusualKind::Throttled),
            (503, r#"{"__type":"ThrottlingException"}"#, UnusualKind::Throttled),
            (429, "", UnusualKind::Throttled),
            (503, "slow", UnusualKind::Failed),
        ] {
            let Err(unusual) = read(status, body).await else { panic!("the SDK judges {status} {body}") };
            assert_eq!(unusual.kind, kind, "{status} {body}: {}", unusual.problem);
        }
    }

    #[tokio::test]
    async fn the_code_is_that_of_the_header_or_the_body() {
        for (header, body, expected) in [
            (None, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist"}"#, "QueueDoesNotExist"),
            (None, r#"{"__type":"Throttling:http://internal.amazon.com/coral/"}"#, "Throttling"),
            (Some("KmsThrottled:http://x"), r#"{"__type":"other"}"#, "KmsThrottled"),
            (Some("com.amazonaws.x#A"), "<html>", "A"),
            (None, "", ""),
        ] {
            let mut response = HttpResponse::new(400.try_into().expect("a status"), SdkBody::from(body));
            if let Some(header) = header {
                response.headers_mut().insert("x-amzn-errortype", header);
            }
            let answer = Answer::read(response).await.expect("the body is whole");
            assert!(matches!(&answer, Answer::Refusal(_, refusal) if refusal.code == expected), "{answer:?}");
        }
    }
}
