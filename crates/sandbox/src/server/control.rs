//! Unsigned control requests, for people and for test harnesses in other processes.
//!
//! - `GET /_sandbox/health`
//! - `GET /_sandbox/calls`: counts by `service:Operation`
//! - `POST /_sandbox/faults`: adds a rule, a [`Fault`](crate::faults::Fault); `DELETE /_sandbox/faults` removes all
//! - `GET /_sandbox/queues/ARN`: [`QueueCounts`](crate::QueueCounts);
//!   `POST /_sandbox/queues/ARN`: sets [`QueueLimits`](crate::QueueLimits)

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Front, MAX_BODY};

impl Front {
    /// Answers a request for the path after `/_sandbox/`.
    pub(super) async fn control(&self, method: &Method, path: &str, body: Body) -> Response {
        match (method.as_str(), path) {
            ("GET", "health") => json_response(StatusCode::OK, &json!({ "status": "ok" })),
            ("GET", "calls") => {
                let calls = self.calls.lock().expect("no code panics while it holds the counts").clone();
                json_response(StatusCode::OK, &json!(calls))
            }
            ("POST", "faults") => match read_json(body).await {
                Ok(fault) => {
                    json_response(StatusCode::OK, &json!({ "id": self.cloud.faults.add(fault).number() }))
                }
                Err(message) => refused(&message),
            },
            ("DELETE", "faults") => {
                self.cloud.faults.clear();
                json_response(StatusCode::OK, &json!({ "status": "ok" }))
            }
            (method, path) => match path.strip_prefix("queues/") {
                Some(queue_arn) => self.control_queue(method, queue_arn, body).await,
                None => no_such_control(),
            },
        }
    }

    async fn control_queue(&self, method: &str, queue_arn: &str, body: Body) -> Response {
        let sqs = &self.cloud.sqs;
        let answer = match method {
            "GET" => sqs.counts(queue_arn).map(|counts| json!(counts)).map_err(|error| error.to_string()),
            "POST" => read_json(body).await.and_then(|limits| {
                sqs.limit(queue_arn, limits).map_err(|error| error.to_string())?;
                Ok(json!({ "status": "ok" }))
            }),
            _ => return no_such_control(),
        };
        answer.map_or_else(|message| refused(&message), |value| json_response(StatusCode::OK, &value))
    }
}

async fn read_json<T: DeserializeOwned>(body: Body) -> Result<T, String> {
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

fn refused(message: &str) -> Response {
    json_response(StatusCode::BAD_REQUEST, &json!({ "message": message }))
}

fn no_such_control() -> Response {
    json_response(StatusCode::NOT_FOUND, &json!({ "message": "unknown control request" }))
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use crate::requests::sandbox;
    use logferry_testbed::provision::{Provider, ProviderSpec};

    #[tokio::test]
    async fn control_requests_return_counts_and_inject_faults() {
        let (sandbox, aws) = sandbox().await;
        let account = aws.account("111111111111");
        let caller = [("Action", "GetCallerIdentity")];
        assert_eq!(
            request(&sandbox, "GET", "/_sandbox/health", "").await,
            (200, r#"{"status":"ok"}"#.to_owned())
        );
        account.sts_query(&caller).await.expect("the root may call STS");
        let calls = request(&sandbox, "GET", "/_sandbox/calls", "").await;
        assert_eq!(calls, (200, r#"{"sts:GetCallerIdentity":1}"#.to_owned()));
        let rule =
            r#"{"service":"sts","operation":"*","effect":{"error":{"status":500,"code":"InternalFailure"}}}"#;
        assert_eq!(request(&sandbox, "POST", "/_sandbox/faults", rule).await.0, 200);
        account.sts_query(&caller).await.expect_err("the fault is active");
        assert_eq!(request(&sandbox, "DELETE", "/_sandbox/faults", "").await.0, 200);
        account.sts_query(&caller).await.expect("the fault is gone");
        assert_eq!(request(&sandbox, "POST", "/_sandbox/faults", "{}").await.0, 400);
        assert_eq!(request(&sandbox, "GET", "/_sandbox/other", "").await.0, 404);
    }

    #[tokio::test]
    async fn control_requests_count_and_limit_queues() {
        let (sandbox, aws) = sandbox().await;
        let provider = Provider::create(&aws, &ProviderSpec::new("door"))
            .await
            .expect("the provider's side can be set up");
        let queue = format!("/_sandbox/queues/{}", provider.queue_arn);
        let limits = r#"{"in_flight":1,"retention_milliseconds":3600000}"#;
        assert_eq!(request(&sandbox, "POST", &queue, limits).await.0, 200);
        let sqs = aws.account(&provider.account).sqs();
        for body in ["one", "two"] {
            let send = sqs.send_message().queue_url(&provider.queue_url).message_body(body);
            send.send().await.expect("the message can be sent");
        }
        let receive = sqs.receive_message().queue_url(&provider.queue_url).max_number_of_messages(10);
        assert_eq!(receive.send().await.expect("one message may be in flight").messages().len(), 1);
        let counts = r#"{"delayed":0,"expired":0,"in_flight":1,"most_in_flight":1,"visible":1}"#;
        assert_eq!(request(&sandbox, "GET", &queue, "").await, (200, counts.to_owned()));
        let unknown = request(&sandbox, "GET", "/_sandbox/queues/arn:none", "").await;
        assert_eq!(unknown.0, 400);
        assert!(unknown.1.contains("arn:none"), "{}", unknown.1);
        assert_eq!(request(&sandbox, "POST", &queue, r#"{"colour":1}"#).await.0, 400);
        assert_eq!(request(&sandbox, "PUT", &queue, "").await.0, 404);
    }
}
