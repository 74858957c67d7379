//! SQS's errors. Over JSON, SQS names an error by its shape, and repeats the code of the older Query protocol in a
//! header. The SDKs read the header, so the sandbox sends it.

use crate::call::AwsError;

pub(crate) fn refuse(code: &str, message: impl Into<String>) -> AwsError {
    AwsError::new(400, code, message)
}

pub(crate) fn invalid(message: impl Into<String>) -> AwsError {
    refuse("InvalidParameterValue", message)
}

/// `MissingParameter` with the parameter's name.
pub(crate) fn missing(parameter: &str) -> AwsError {
    refuse("MissingParameter", format!("The request must contain the parameter {parameter}."))
}

/// `InvalidParameterValue` with SQS's message about a number or handle.
pub(crate) fn invalid_value(parameter: &str, value: impl std::fmt::Display, reason: &str) -> AwsError {
    invalid(format!("Value {value} for parameter {parameter} is invalid. Reason: {reason}"))
}

pub(crate) fn no_queue() -> AwsError {
    refuse("QueueDoesNotExist", "The specified queue does not exist.")
}

pub(crate) fn bad_handle(handle: &str) -> AwsError {
    refuse(
        "ReceiptHandleIsInvalid",
        format!("The input receipt handle \"{handle}\" is not a valid receipt handle."),
    )
}

/// Code of an error in SQS's older Query protocol.
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
