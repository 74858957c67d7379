//! The probes of readiness. The receive loop reports its own state in addition.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    credentials::{
        AssumeError,
        assumed::AssumedRole,
        identity::{WhoAmIError, identity},
    },
    health::{Health, IDENTITY, SOURCE_BUCKET},
    ledger::{claim::Claims, dynamodb::DynamoDbLedger},
    name::bucket::OwnBucket,
    object::bucket::{self, BucketError},
    queue::{Queue, QueueError, sqs::SqsQueue},
    tenant::{cache::TenantCache, table::TenantRows},
};

const TENANT_TABLE: &str = "tenant_table";
const CENTRAL_ROLE: &str = "central_role";
const LEDGER: &str = "ledger";
const DEAD_LETTER_QUEUE: &str = "dead_letter_queue";
const QUARANTINE_BUCKET: &str = "quarantine_bucket";
/// Dependencies that must answer once before the worker is ready.
pub(super) const NEEDED: [&str; 3] = [TENANT_TABLE, CENTRAL_ROLE, LEDGER];
/// Interval of the probes.
pub(super) const INTERVAL: Duration = Duration::from_secs(15);
/// How long a probe waits for S3's answer about a bucket.
const PATIENCE: Duration = Duration::from_secs(10);

/// The dependencies that readiness probes. A missing answer about the dead-letter queue, a bucket or our identity changes
/// nothing; only an answer that something is wrong counts.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) health: Arc<Health>,
    pub(super) tenants: TenantCache<TenantRows>,
    pub(super) central: AssumedRole,
    pub(super) claims: Claims<DynamoDbLedger>,
    /// Client that signs with our own credentials.
    pub(super) sts: aws_sdk_sts::Client,
    pub(super) letters: Option<SqsQueue>,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) source: Vec<OwnBucket>,
    pub(super) quarantine: Option<OwnBucket>,
}

impl Readiness {
    /// Probes all dependencies for ever, concurrently, so that a slow one does not delay the others.
    pub(super) async fn keep_asking(self) {
        tokio::join!(
            again(|| self.ledger()),
            again(|| self.table()),
            again(|| self.ourselves()),
            again(|| self.letters()),
            again(|| self.buckets())
        );
    }

    async fn ledger(&self) {
        self.tell(LEDGER, self.claims.probe().await.err());
    }

    async fn table(&self) {
        self.tell(TENANT_TABLE, self.tenants.probe().await.err());
    }

    /// Our identity, and the central role.
    async fn ourselves(&self) {
        let (identity, role) = tokio::join!(identity(&self.sts), self.central.credentials());
        match (identity, role) {
            (Err(WhoAmIError::Refused(ours)), role) => {
                self.tell(IDENTITY, Some(ours));
                self.tell(CENTRAL_ROLE, role.err());
            }
            // Reported once, as a problem of our identity.
            (_, Err(AssumeError::Ours(ours))) => {
                self.tell(IDENTITY, Some(ours));
                self.health.dependency(CENTRAL_ROLE, None);
            }
            (identity, role) => {
                if identity.is_ok() {
                    self.health.dependency(IDENTITY, None);
                }
                self.tell(CENTRAL_ROLE, role.err());
            }
        }
    }

    async fn letters(&self) {
        let Some(letters) = &self.letters else { return };
        let remedy = "create it, correct queue.dead_letter_url, or allow sqs:SendMessage on it";
        match letters.probe_sending().await {
            Err(QueueError::Unavailable(_)) => {}
            answer => self.tell(DEAD_LETTER_QUEUE, answer.err().map(|error| format!("{error}; {remedy}"))),
        }
    }

    async fn buckets(&self) {
        let source = self.source.iter().map(|bucket| (SOURCE_BUCKET, "source.buckets", bucket));
        let quarantine =
            self.quarantine.iter().map(|bucket| (QUARANTINE_BUCKET, "quarantine.bucket", bucket));
        let mut found = BTreeMap::new();
        for (name, field, bucket) in source.chain(quarantine) {
            let problem = match tokio::time::timeout(PATIENCE, bucket::probe(&self.s3, bucket)).await {
                Err(_) | Ok(Err(BucketError::Unavailable { .. })) => continue,
                Ok(Ok(()) | Err(BucketError::Hidden(_))) => None,
                Ok(Err(error)) => Some(format!("{error}; create it, or correct {field} or aws.region")),
            };
            let worst = found.entry(name).or_insert(None);
            *worst = worst.take().or(problem);
        }
        for (name, problem) in found {
            self.tell(name, problem);
        }
    }

    fn tell<E: ToString>(&self, name: &'static str, problem: Option<E>) {
        self.health.dependency(name, problem.map(|problem| problem.to_string()));
    }
}

async fn again<F: Future<Output = ()>>(ask: impl Fn() -> F) {
    loop {
        ask().await;
        tokio::time::sleep(INTERVAL).await;
    }
}
