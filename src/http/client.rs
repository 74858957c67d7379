//! Sends single requests over plain HTTP to addresses on this host: the worker's own endpoint, and the agent of ECS.
//!
//! Each request has a connection of its own, so no answer depends on how an earlier connection ended. No proxy is used.

use std::{error::Error, time::Duration};

use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Largest body of an answer.
const MAX_ANSWER: usize = 64 << 10;

/// There is no complete answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The time is over.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The connection could not be made or broke, or the answer is too long or is not HTTP. The text names all causes.
    #[error("the request failed: {0}")]
    Failed(String),
}

/// Sends a request and reads the whole answer, within `patience`. Returns the status and the body.
///
/// # Errors
/// There is no complete answer. The other side may have acted on the request all the same.
pub async fn send(
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), SendError> {
    let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    let exchange = async {
        let (head, body) = client.request(request).await?.into_parts();
        Ok((head.status, Limited::new(body, MAX_ANSWER).collect().await?.to_bytes()))
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(answer) => {
            answer.map_err(|error: Box<dyn Error + Send + Sync>| SendError::Failed(causes(&*error)))
        }
        Err(_) => Err(SendError::TimedOut(patience)),
    }
}

/// An error and its causes, as one text.
fn causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
