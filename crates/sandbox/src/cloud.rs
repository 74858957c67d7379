//! The complete state of the sandbox, one field per service.

use crate::{dynamodb::DynamoDb, faults::Faults, iam::Iam, logs::Logs, s3::S3, sns::Sns, sqs::Sqs, sts::Sts};

/// State of all services. Each service locks only its own field, and holds no lock across an await.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    pub(crate) dynamodb: DynamoDb,
    pub(crate) faults: Faults,
    pub(crate) iam: Iam,
    pub(crate) logs: Logs,
    pub(crate) s3: S3,
    pub(crate) sns: Sns,
    pub(crate) sqs: Sqs,
    pub(crate) sts: Sts,
}
