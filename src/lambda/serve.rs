//! Takes invocations from Lambda's runtime API.

use std::{
    env,
    time::{Duration, SystemTime},
};

use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

/// The variables that Lambda sets and the runtime needs.
const VARIABLES: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// Why the function ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The process was not started by Lambda.
    #[error(
        "{0} is not set: only Lambda can start this command, which takes its invocations from Lambda's runtime API"
    )]
    NotOnLambda(&'static str),
    /// The runtime API failed.
    #[error("Lambda's runtime API failed")]
    Runtime(#[source] lambda_runtime::Error),
}

/// The ids of the messages that must come again, as the event source mapping reads them with ReportBatchItemFailures.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    batch_item_failures: Vec<Failure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: String,
}

/// Checks that Lambda started the process.
///
/// # Errors
/// [`ServeError::NotOnLambda`].
pub fn check() -> Result<(), ServeError> {
    match VARIABLES.into_iter().find(|name| env::var_os(name).is_none()) {
        Some(name) => Err(ServeError::NotOnLambda(name)),
        None => Ok(()),
    }
}

/// Gives each invocation to `invoke`, with its deadline, and answers with the ids that `invoke` returns. Returns only after an
/// error.
///
/// An event that is not of type `E` fails the invocation, so the whole batch comes again.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve<E: DeserializeOwned>(
    invoke: impl AsyncFn(E, Instant) -> Vec<String>,
) -> Result<(), ServeError> {
    check()?;
    let invoke = &invoke;
    let respond = service_fn(move |event: LambdaEvent<E>| async move {
        let LambdaEvent { payload, context } = event;
        let left = context.deadline().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        let ids = invoke(payload, Instant::now() + left).await;
        let batch_item_failures = ids.into_iter().map(|item_identifier| Failure { item_identifier });
        Ok::<_, lambda_runtime::Error>(Response { batch_item_failures: batch_item_failures.collect() })
    });
    Runtime::new(respond).run().await.map_err(ServeError::Runtime)
}
