//! What a call is about, for its span: bucket and key, queue, table, or log group.

use aws_sdk_cloudwatchlogs::operation::{
    create_log_group::CreateLogGroupInput, create_log_stream::CreateLogStreamInput,
    put_log_events::PutLogEventsInput, put_retention_policy::PutRetentionPolicyInput,
};
use aws_sdk_dynamodb::operation::{
    batch_execute_statement::BatchExecuteStatementInput, query::QueryInput, update_item::UpdateItemInput,
};
use aws_sdk_s3::operation::{
    copy_object::CopyObjectInput, get_object::GetObjectInput, head_object::HeadObjectInput,
    put_object::PutObjectInput,
};
use aws_sdk_sqs::operation::{
    change_message_visibility_batch::ChangeMessageVisibilityBatchInput,
    delete_message_batch::DeleteMessageBatchInput, receive_message::ReceiveMessageInput,
    send_message::SendMessageInput, send_message_batch::SendMessageBatchInput,
};
use aws_sdk_sts::operation::assume_role::AssumeRoleInput;
use aws_smithy_runtime_api::client::interceptors::context::Input;
use tracing::Span;

use crate::trace::{
    count,
    semconv::{
        AWS_DYNAMODB_TABLE_NAMES, AWS_LOG_GROUP_NAMES, AWS_LOG_STREAM_NAMES, AWS_S3_BUCKET,
        AWS_S3_COPY_SOURCE, AWS_S3_KEY, AWS_SQS_QUEUE_URL, DB_OPERATION_BATCH_SIZE,
        MESSAGING_BATCH_MESSAGE_COUNT, ROLE_ARN,
    },
    set, set_list,
};

/// Adds the subject of a call to its span. Takes names alone: no body, no policy, no condition.
pub(super) fn name(span: &Span, input: &Input) {
    let text = |key, value: Option<&str>| {
        if let Some(value) = value {
            set(span, key, value);
        }
    };
    let list = |key, value: Option<&str>| {
        if let Some(value) = value {
            set_list(span, key, value);
        }
    };
    let object = |bucket, key| {
        text(AWS_S3_BUCKET, bucket);
        text(AWS_S3_KEY, key);
    };
    let batch = |url, entries: usize| {
        text(AWS_SQS_QUEUE_URL, url);
        count(span, MESSAGING_BATCH_MESSAGE_COUNT, entries as u64);
    };
    if let Some(put) = input.downcast_ref::<PutLogEventsInput>() {
        list(AWS_LOG_GROUP_NAMES, put.log_group_name());
    } else if let Some(get) = input.downcast_ref::<GetObjectInput>() {
        object(get.bucket(), get.key());
    } else if let Some(update) = input.downcast_ref::<UpdateItemInput>() {
        list(AWS_DYNAMODB_TABLE_NAMES, update.table_name());
    } else if let Some(batch) = input.downcast_ref::<BatchExecuteStatementInput>() {
        count(span, DB_OPERATION_BATCH_SIZE, batch.statements().len() as u64);
    } else if let Some(query) = input.downcast_ref::<QueryInput>() {
        list(AWS_DYNAMODB_TABLE_NAMES, query.table_name());
    } else if let Some(assume) = input.downcast_ref::<AssumeRoleInput>() {
        text(ROLE_ARN, assume.role_arn());
    } else if let Some(receive) = input.downcast_ref::<ReceiveMessageInput>() {
        text(AWS_SQS_QUEUE_URL, receive.queue_url());
    } else if let Some(delete) = input.downcast_ref::<DeleteMessageBatchInput>() {
        batch(delete.queue_url(), delete.entries().len());
    } else if let Some(change) = input.downcast_ref::<ChangeMessageVisibilityBatchInput>() {
        batch(change.queue_url(), change.entries().len());
    } else if let Some(send) = input.downcast_ref::<SendMessageBatchInput>() {
        batch(send.queue_url(), send.entries().len());
    } else if let Some(send) = input.downcast_ref::<SendMessageInput>() {
        text(AWS_SQS_QUEUE_URL, send.queue_url());
    } else if let Some(create) = input.downcast_ref::<CreateLogStreamInput>() {
        list(AWS_LOG_GROUP_NAMES, create.log_group_name());
        list(AWS_LOG_STREAM_NAMES, create.log_stream_name());
    } else if let Some(create) = input.downcast_ref::<CreateLogGroupInput>() {
        list(AWS_LOG_GROUP_NAMES, create.log_group_name());
    } else if let Some(retention) = input.downcast_ref::<PutRetentionPolicyInput>() {
        list(AWS_LOG_GROUP_NAMES, retention.log_group_name());
    } else if let Some(head) = input.downcast_ref::<HeadObjectInput>() {
        object(head.bucket(), head.key());
    } else if let Some(put) = input.downcast_ref::<PutObjectInput>() {
        object(put.bucket(), put.key());
    } else if let Some(copy) = input.downcast_ref::<CopyObjectInput>() {
        object(copy.bucket(), copy.key());
        text(AWS_S3_COPY_SOURCE, copy.copy_source());
    }
}
