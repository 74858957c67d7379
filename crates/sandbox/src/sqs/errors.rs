//! SQS's refusals. Over JSON, SQS names an error by its shape and repeats the old Query code in a header; the SDKs
//! go by the header, so it is sent.

use crate::call::AwsError;

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

/// The code that SQS's older Query protocol has for an error.
pub(crate) fn query_code(code: &str) -> &str {
    match code {
        "BatchEntryIdsNotDistinct" => "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        "BatchRequestTooLong" => "AWS.SimpleQueueService.BatchRequestTooLong",
        "EmptyBatchRequest" => "AWS.SimpleQueueService.EmptyBatchRequest",
        "InvalidBatchEntryId" => "AWS.SimpleQueueService.InvalidBatchEntryId",
        "MessageNotInflight" => "AWS.SimpleQueueService.MessageNotInflight",
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue",
        "QueueNameExists" => "QueueAlreadyExists",
        "TooManyEntriesInBatchRequest" => "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        other => other,
    }
}
