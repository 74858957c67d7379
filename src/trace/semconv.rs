//! Names of attributes, by OpenTelemetry's semantic conventions 1.37.0: messaging with AWS SQS, AWS SDK, S3, DynamoDB, logs in
//! AWS, and errors. The last part has logferry's own names, for what the conventions have no name for.
//!
//! Later versions rename some of these (`rpc.system`, `messaging.system`). The version is part of every export, so that a
//! collector can translate.

/// The version, as exports name it.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The messaging system: [`AWS_SQS`].
pub const MESSAGING_SYSTEM: &str = "messaging.system";
/// Value of [`MESSAGING_SYSTEM`].
pub const AWS_SQS: &str = "aws_sqs";
/// What is done with messages, in the system's words.
pub const MESSAGING_OPERATION_NAME: &str = "messaging.operation.name";
/// What is done with messages, in the conventions' words: `receive`, `process`, `settle`.
pub const MESSAGING_OPERATION_TYPE: &str = "messaging.operation.type";
/// Name of the queue.
pub const MESSAGING_DESTINATION_NAME: &str = "messaging.destination.name";
/// Id of a message.
pub const MESSAGING_MESSAGE_ID: &str = "messaging.message.id";
/// Number of messages of one call.
pub const MESSAGING_BATCH_MESSAGE_COUNT: &str = "messaging.batch.message_count";
/// Number of statements of one call.
pub const DB_OPERATION_BATCH_SIZE: &str = "db.operation.batch.size";
/// URL of the queue.
pub const AWS_SQS_QUEUE_URL: &str = "aws.sqs.queue.url";
/// The kind of remote call: [`AWS_API`].
pub const RPC_SYSTEM: &str = "rpc.system";
/// Value of [`RPC_SYSTEM`].
pub const AWS_API: &str = "aws-api";
/// The service of a call: `S3`.
pub const RPC_SERVICE: &str = "rpc.service";
/// The operation of a call: `GetObject`.
pub const RPC_METHOD: &str = "rpc.method";
/// AWS's id of a request.
pub const AWS_REQUEST_ID: &str = "aws.request_id";
/// Region of a call.
pub const CLOUD_REGION: &str = "cloud.region";
/// HTTP status of an answer.
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
/// Bucket of an object.
pub const AWS_S3_BUCKET: &str = "aws.s3.bucket";
/// Key of an object.
pub const AWS_S3_KEY: &str = "aws.s3.key";
/// Bucket and key of an object that is copied.
pub const AWS_S3_COPY_SOURCE: &str = "aws.s3.copy_source";
/// Tables of a call.
pub const AWS_DYNAMODB_TABLE_NAMES: &str = "aws.dynamodb.table_names";
/// Log groups of a call.
pub const AWS_LOG_GROUP_NAMES: &str = "aws.log.group.names";
/// Log streams of a call.
pub const AWS_LOG_STREAM_NAMES: &str = "aws.log.stream.names";
/// Kind of a failure.
pub const ERROR_TYPE: &str = "error.type";
/// Name of the service.
pub const SERVICE_NAME: &str = "service.name";
/// Version of the service.
pub const SERVICE_VERSION: &str = "service.version";
/// Id of one process of the service.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";

/// Receives of a message so far, this one included.
pub const MESSAGE_ATTEMPTS: &str = "logferry.message.attempts";
/// The verdict on a message: `ack`, `retry`, `poison`, `overdue`.
pub const VERDICT: &str = "logferry.verdict";
/// The tenant.
pub const TENANT_ID: &str = "logferry.tenant.id";
/// The delivery: the `type` of its row.
pub const DELIVERY_NAME: &str = "logferry.delivery.name";
/// The role that is assumed.
pub const ROLE_ARN: &str = "logferry.role.arn";
/// Records of an object.
pub const RECORDS: &str = "logferry.records";
/// Events of a batch.
pub const EVENTS: &str = "logferry.batch.events";
/// Bytes of a batch, as CloudWatch Logs bills them.
pub const BYTES: &str = "logferry.batch.bytes";
/// What the ledger answered to a claim: `new`, `resumed`, `done`, `busy`, `unguarded`.
pub const CLAIM: &str = "logferry.ledger.claim";
