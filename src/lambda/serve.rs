//! Takes invocations from Lambda's runtime API.

use std::{
    env, fmt,
    panic::AssertUnwindSafe,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use lambda_runtime::{Diagnostic, LambdaEvent, Runtime, service_fn};
use serde::de::DeserializeOwned;
use serde_json::{json, value::RawValue};
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
    /// The runtime API answered with something that is no invocation; with the text of the runtime's panic.
    #[error("Lambda's runtime API answered with something that is no invocation: {0}")]
    NoInvocation(String),
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
/// An event that is not of type `E` fails the invocation, so the whole batch comes again. The log and the answer say why.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve<E: DeserializeOwned>(
    invoke: impl AsyncFn(E, Instant) -> Vec<String>,
) -> Result<(), ServeError> {
    check()?;
    let invoke = &invoke;
    let respond = service_fn(move |event: LambdaEvent<Box<RawValue>>| async move {
        let LambdaEvent { payload, context } = event;
        let event = serde_json::from_str(payload.get()).map_err(NotOfSqs)?;
        drop(payload);
        let left = context.deadline().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        let ids = invoke(event, Instant::now() + left).await;
        // The form that the event source mapping reads with ReportBatchItemFailures.
        let failures: Vec<_> = ids.iter().map(|id| json!({ "itemIdentifier": id })).collect();
        Ok::<_, NotOfSqs>(json!({ "batchItemFailures": failures }))
    });
    // The runtime catches panics of the function itself, so this one is its own: it takes some headers of the API's answers for
    // granted.
    match AssertUnwindSafe(Runtime::new(respond).run()).catch_unwind().await {
        Ok(ended) => ended.map_err(ServeError::Runtime),
        Err(panic) => {
            let text = panic.downcast::<String>().map(|text| *text);
            let text = text.or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned()));
            Err(ServeError::NoInvocation(text.unwrap_or_else(|_| "the runtime panicked".to_owned())))
        }
    }
}

/// The event is no batch of messages.
#[derive(thiserror::Error)]
#[error(
    "nothing was delivered: the event is not one of SQS ({0}). Only an event source mapping of the queue can invoke this function; \
     to deliver one event by hand, use `logferry manual`"
)]
struct NotOfSqs(serde_json::Error);

/// The runtime logs an error by its `Debug`.
impl fmt::Debug for NotOfSqs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<NotOfSqs> for Diagnostic {
    fn from(error: NotOfSqs) -> Self {
        Self { error_type: "NotOfSqs".to_owned(), error_message: error.to_string() }
    }
}
