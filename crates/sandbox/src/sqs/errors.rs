//! SQS's refusals. Over JSON, SQS names an error by its shape and repeats the old Query code in a header; the SDKs
//! go by the header, so it is sent.

use axum::body::Body;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use crate::call::{AwsError, Reply};

/// A 400 with that code.
pub(crate) fn refuse(code: &str, message: impl Into<String>) -> AwsError {
    AwsError::new(400, code, message)
}

/// `InvalidParameterValue`.
pub(crate) fn invalid(message: impl Into<String>) -> AwsError {
    refuse("InvalidParameterValue", message)
}

/// `MissingParameter`, naming it.
pub(crate) fn missing(parameter: &str) -> AwsError {
    refuse("MissingParameter", format!("The request must contain the parameter {parameter}."))
}

/// `InvalidParameterValue` in the words SQS uses for a number or a handle.
pub(crate) fn invalid_value(parameter: &str, value: impl std::fmt::Display, reason: &str) -> AwsError {
    invalid(format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"))
}

/// `QueueDoesNotExist`.
pub(crate) fn no_queue() -> AwsError {
    refuse("QueueDoesNotExist", "The specified queue does not exist.")
}

/// `ReceiptHandleIsInvalid`.
pub(crate) fn bad_handle(handle: &str) -> AwsError {
    refuse(
        "ReceiptHandleIsInvalid",
        format!("The input receipt handle \"{handle}\" is not a valid receipt handle."),
    )
}

/// The old Query code of an error that SQS itself raises; `None` for those of the front and of IAM.
pub(crate) fn query_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "BatchEntryIdsNotDistinct" => "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        "BatchRequestTooLong" => "AWS.SimpleQueueService.BatchRequestTooLong",
        "EmptyBatchRequest" => "AWS.SimpleQueueService.EmptyBatchRequest",
        "InvalidAttributeName" => "InvalidAttributeName",
        "InvalidAttributeValue" => "InvalidAttributeValue",
        "InvalidBatchEntryId" => "AWS.SimpleQueueService.InvalidBatchEntryId",
        "InvalidMessageContents" => "InvalidMessageContents",
        "InvalidParameterValue" => "InvalidParameterValue",
        "MessageNotInflight" => "AWS.SimpleQueueService.MessageNotInflight",
        "MissingParameter" => "MissingParameter",
        "OverLimit" => "OverLimit",
        "PurgeQueueInProgress" => "AWS.SimpleQueueService.PurgeQueueInProgress",
        "QueueDeletedRecently" => "AWS.SimpleQueueService.QueueDeletedRecently",
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue",
        "QueueNameExists" => "QueueAlreadyExists",
        "ReceiptHandleIsInvalid" => "ReceiptHandleIsInvalid",
        "TooManyEntriesInBatchRequest" => "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        "UnsupportedOperation" => "AWS.SimpleQueueService.UnsupportedOperation",
        _ => return None,
    })
}

/// Writes one of SQS's own errors as SQS does; gives others back to the front.
pub(crate) fn write(error: AwsError) -> Result<Reply, AwsError> {
    let Some(query) = query_code(&error.code) else { return Err(error) };
    let body = json!({"__type": format!("com.amazonaws.sqs#{}", error.code), "message": error.message});
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    let reply = Reply { status, headers: HeaderMap::new(), body: Body::from(body.to_string()) };
    Ok(reply
        .with_header("content-type", "application/x-amz-json-1.0")
        .with_header("x-amzn-query-error", &format!("{query};Sender")))
}
