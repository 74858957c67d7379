//! The fixed sentences of degraded conditions. They contain nothing that AWS sent, so they contain no request ids and can be
//! compared. The log has AWS's own words.

use serde::Serialize;

use super::{Check, CheckFailure};

/// What is wrong, and what mends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What is wrong: a fixed sentence.
    pub problem: &'static str,
    /// What mends it: fixed sentences.
    pub remedy: &'static str,
}

pub(super) const DRAINING: Explanation = Explanation {
    problem: "The worker drains: it receives nothing more, and finishes or returns its messages.",
    remedy: "Nothing to do: the process ends within worker.grace_period.",
};
pub(super) const STALLED: Explanation = Explanation {
    problem: "The receive loop stands still.",
    remedy: "Restart the worker: unfinished messages come again. Please report this defect with the last lines of the log.",
};

impl Check {
    /// Explains a failure of this check.
    pub(super) fn explain(self, cause: CheckFailure) -> Explanation {
        let (problem, remedy) = match (self, cause) {
            (_, CheckFailure::Clock) => (
                "AWS refuses the worker's signatures, because this host's clock is wrong.",
                "Set the host's clock, preferably by NTP.",
            ),
            (_, CheckFailure::Credentials) => (
                "AWS does not accept the worker's own credentials: they are missing, expired or not valid.",
                "Give the process valid credentials of the provider's account (task role, IRSA, profile or environment).",
            ),
            (Self::Receive, CheckFailure::Missing) => {
                ("The queue does not exist.", "Create the queue, or correct queue.url.")
            }
            (Self::Receive, CheckFailure::Denied) => (
                "IAM denies sqs:ReceiveMessage on the queue.",
                "Allow the worker's role sqs:ReceiveMessage, sqs:DeleteMessage and sqs:ChangeMessageVisibility on the queue.",
            ),
            (Self::Receive, _) => (
                "Nothing can be received: the queue does not answer, or refuses the call.",
                "Check the network to SQS, queue.url and AWS's health page; the log has the answer of SQS.",
            ),
            (Self::Lookup, _) => (
                "The tenant table cannot be read. Known tenants are served from memory, and messages of others wait.",
                "Check that tenants.table exists, that the worker's role may call dynamodb:Query on it, and the network to \
                 DynamoDB; the log has the answer of DynamoDB.",
            ),
            (Self::CentralRole, CheckFailure::Denied) => (
                "STS refuses the central role to the worker.",
                "Check three things: the role of credentials.central_role_arn exists; its trust policy allows the worker \
                 sts:AssumeRole; the worker's own policy allows sts:AssumeRole on it.",
            ),
            (Self::Identity | Self::CentralRole, _) => (
                "STS does not answer. Sessions that are still valid can be used; there are no new ones.",
                "Check the network to STS in aws.region, and AWS's health page.",
            ),
            (Self::SourceBucket | Self::Read, CheckFailure::Missing) => (
                "A bucket of source.buckets does not exist.",
                "Create the bucket, or correct source.buckets and the notifications to the queue.",
            ),
            (Self::SourceBucket | Self::Read, CheckFailure::Elsewhere) => {
                ("A bucket of source.buckets is in another Region.", "Correct source.buckets or aws.region.")
            }
            (Self::Read, CheckFailure::Denied) => (
                "S3 denies reads of a staging bucket: objects of several tenants in a row.",
                "Allow the worker's role s3:GetObject and s3:GetObjectVersion on the bucket's objects, and kms:Decrypt on its KMS \
                 key; or s3:ListBucket on the bucket, without which S3 also denies reads of objects that are gone. The log has \
                 the answer of S3.",
            ),
            (Self::Read, CheckFailure::Unanswered) => (
                "Objects of a staging bucket cannot be read: reads for several tenants failed in a row.",
                "Check the network to S3, and AWS's health page; the log has the answer of S3.",
            ),
            (Self::SourceBucket | Self::Read, _) => (
                "S3 does not answer about a bucket of source.buckets.",
                "Check the network to S3, and AWS's health page.",
            ),
            (Self::Put, _) => (
                "CloudWatch Logs does not answer in a Region: the calls into several accounts, or into all of them, failed in a row.",
                "Check the network to CloudWatch Logs in that Region, and AWS's health page. Messages for it wait.",
            ),
            (Self::DeadLetters | Self::DeadLettersAllowed, CheckFailure::Missing) => (
                "The dead-letter queue does not exist.",
                "Create the queue, or correct queue.dead_letter_url.",
            ),
            (Self::DeadLetters | Self::DeadLettersAllowed, CheckFailure::Denied) => (
                "IAM denies sqs:SendMessage on the dead-letter queue.",
                "Allow the worker's role sqs:SendMessage on the queue of queue.dead_letter_url.",
            ),
            (Self::DeadLetters | Self::DeadLettersAllowed, _) => (
                "The dead-letter queue does not answer, or refuses the call. Messages that belong there stay in the queue.",
                "Check the network to SQS, queue.dead_letter_url and AWS's health page; the log has the answer of SQS.",
            ),
            (Self::Delete, CheckFailure::Denied) => (
                "IAM denies sqs:DeleteMessage on the queue. Finished messages come again.",
                "Allow the worker's role sqs:DeleteMessage on the queue.",
            ),
            (Self::Delete, _) => (
                "Finished messages cannot be deleted from the queue. The worker tries again.",
                "Check the network to SQS, and AWS's health page; the log has the answer of SQS.",
            ),
            (Self::Ledger, CheckFailure::Throttled) => (
                "DynamoDB throttles the ledger. Messages that need it wait.",
                "Raise the capacity of ledger.table, or use on-demand capacity.",
            ),
            (Self::Ledger, _) => (
                "The ledger cannot be used. Messages that need it wait; after ledger.out_of_reach_after, deliveries go on \
                 without it.",
                "Check that ledger.table exists, that the worker's role may call dynamodb:UpdateItem on it, and the network \
                 to DynamoDB; the log has the answer of DynamoDB.",
            ),
            (Self::QuarantineBucket, CheckFailure::Missing) => {
                ("The quarantine bucket does not exist.", "Create the bucket, or correct quarantine.bucket.")
            }
            (Self::QuarantineBucket, CheckFailure::Elsewhere) => {
                ("The quarantine bucket is in another Region.", "Correct quarantine.bucket or aws.region.")
            }
            (Self::QuarantineBucket, _) => (
                "S3 does not answer about the quarantine bucket.",
                "Check the network to S3, and AWS's health page.",
            ),
            (Self::QuarantineFile, _) => (
                "Files cannot be written to the quarantine bucket. Messages with records for it wait.",
                "Check that quarantine.bucket exists, that the setting names the bucket's owner, and that the worker's role may call \
                 s3:PutObject on it; the log has the answer of S3.",
            ),
        };
        Explanation { problem, remedy }
    }
}
