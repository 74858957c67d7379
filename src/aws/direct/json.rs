//! Calls in AWS's JSON protocol to one endpoint, with the client's own credentials.

use aws_runtime::retries::classifiers::THROTTLING_ERRORS;
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{DirectCalls, DirectRequest, Final, LeftToSdk, Place, Unusual};
use crate::{
    aws::{Calls, chain},
    digest,
};

/// Direct attempts of one operation. Attempts are made once the SDK has made a call through a client with
/// [`JsonCalls::interceptor`].
#[derive(Clone, Debug)]
pub struct JsonCalls {
    direct: DirectCalls,
    headers: &'static [(&'static str, &'static str)],
}

impl JsonCalls {
    /// `operation` has the names of [`Metadata`], service first; `headers` are those that the SDK sends with each request of the
    /// operation.
    pub fn new(
        calls: &Calls,
        (service, operation): (&'static str, &'static str),
        headers: &'static [(&'static str, &'static str)],
    ) -> Self {
        let place = |_: &_, _: &_| Some(Place { route: String::new(), path: String::new() });
        Self { direct: DirectCalls::new(calls, Metadata::new(operation, service), place, true), headers }
    }

    /// Learns the endpoint, as an interceptor of a client.
    pub fn interceptor(&self) -> DirectCalls {
        self.direct.clone()
    }

    /// Sends `input`, and reads the answer to a call that succeeded. `owner`: see [`DirectCalls::route`].
    ///
    /// # Errors
    /// The SDK must make the call.
    ///
    /// # Cancel safety
    /// As [`DirectCalls::send`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        owner: &str,
        input: &impl Serialize,
    ) -> Result<T, LeftToSdk> {
        let route = self.direct.route("", owner)?;
        let credentials = self.direct.credentials(&route, owner).await?;
        let body = serde_json::to_vec(input).map_err(|_| LeftToSdk::default())?;
        let request = DirectRequest {
            method: "POST",
            path: "",
            query: "",
            headers: self.headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            payload_sha256: &digest::sha256(&body),
            body: SdkBody::from(body),
        };
        self.direct.send((&route, owner), request, &credentials, read).await
    }
}

/// The body of an error.
#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

async fn read<T: DeserializeOwned>(response: HttpResponse) -> Result<Final<T>, Unusual> {
    let status = response.status();
    let body = ByteStream::new(response.into_body()).collect().await;
    let body = body.map_err(|error| Unusual::no_answer(chain(&error)))?.into_bytes();
    if status.is_success() {
        return match serde_json::from_slice(&body) {
            Ok(output) => Ok(Final::Success(output)),
            Err(error) => {
                let problem = format!("HTTP status {status}, but the answer cannot be read: {error}");
                Err(Unusual { problem, pauses: true, waits: false })
            }
        };
    }
    let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
    // A namespace and a number sign may stand before the code.
    let code = refusal.kind.rsplit('#').next().unwrap_or_default();
    let waits = status.is_server_error() || status.as_u16() == 429 || THROTTLING_ERRORS.contains(&code);
    let problem = format!("HTTP status {status}: {code}: {}", refusal.message);
    Err(Unusual { problem, pauses: true, waits })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[tokio::test]
    async fn answers_beyond_a_success_are_the_sdk_s() {
        let read = async |status: u16, body: &'static str| {
            let status = status.try_into().expect("a status");
            read::<Value>(HttpResponse::new(status, SdkBody::from(body))).await
        };
        assert!(matches!(read(200, "{}").await, Ok(Final::Success(_))));
        for (status, body, waits) in [
            (200, "", false),
            (200, "<html>", false),
            (400, "", false),
            (403, "<html>", false),
            (400, r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"none"}"#, false),
            (400, r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"slow"}"#, true),
            (
                400,
                r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#,
                true,
            ),
            (429, "", true),
            (503, "slow", true),
        ] {
            let Err(unusual) = read(status, body).await else { panic!("the SDK judges {status} {body}") };
            assert_eq!(
                (unusual.pauses, unusual.waits),
                (true, waits),
                "{status} {body}: {}",
                unusual.problem
            );
        }
    }
}
