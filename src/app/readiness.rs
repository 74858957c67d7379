//! The probes of readiness. The calls that messages cause are reported too: see `watched`.

use std::{fmt::Display, pin::pin, sync::Arc, time::Duration};

use futures_util::future;

use super::watched::{Watched, cause_of_identity, cause_of_queue};
use crate::{
    credentials::{
        AssumeError,
        assumed::AssumedRole,
        identity::{WhoAmIError, identity},
    },
    health::{Check, CheckCall, CheckFailure, Health},
    ledger::{claim::Claims, dynamodb::DynamoDbLedger},
    name::bucket::OwnBucket,
    object::bucket::{self, BucketError},
    queue::{Queue, sqs::SqsQueue},
    tenant::{cache::TenantCache, table::TenantRows},
};

/// Checks that must succeed once before the worker is ready.
pub(super) const NEEDED: [Check; 4] = [Check::Receive, Check::Lookup, Check::CentralRole, Check::Ledger];
/// Interval of the probes.
pub(super) const INTERVAL: Duration = Duration::from_secs(15);
/// Pause after a probe that failed, so that three failures in a row show soon.
const SOON: Duration = Duration::from_secs(5);
/// While a probe has no answer, it counts as failed once more each time this time has passed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The dependencies that readiness probes.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) health: Arc<Health>,
    pub(super) tenants: TenantCache<Watched<TenantRows>>,
    pub(super) central: AssumedRole,
    pub(super) claims: Claims<Watched<DynamoDbLedger>>,
    /// Client that signs with our own credentials.
    pub(super) sts: aws_sdk_sts::Client,
    pub(super) letters: Option<SqsQueue>,
    pub(super) s3: aws_sdk_s3::Client,
    pub(super) source: Vec<OwnBucket>,
    pub(super) quarantine: Option<OwnBucket>,
}

/// Repeats a probe for ever.
async fn again<F: Future<Output = bool>>(probe: impl Fn() -> F) {
    loop {
        let works = probe().await;
        tokio::time::sleep(if works { INTERVAL } else { SOON }).await;
    }
}

impl Readiness {
    /// Probes all dependencies for ever, concurrently, so that a slow one does not delay the others.
    pub(super) async fn keep_asking(self) {
        let letters = self.letters.iter().map(|letters| again(|| self.letters(letters)));
        let source = self.source.iter().map(|bucket| again(|| self.bucket(Check::SourceBucket, bucket)));
        let quarantine =
            self.quarantine.iter().map(|bucket| again(|| self.bucket(Check::QuarantineBucket, bucket)));
        tokio::join!(
            again(|| self.ledger()),
            again(|| self.table()),
            again(|| self.identity()),
            again(|| self.central_role()),
            future::join_all(letters),
            future::join_all(source),
            future::join_all(quarantine),
        );
    }

    // `Watched` reports the answers of the ledger and the table.

    async fn ledger(&self) -> bool {
        self.answer(Check::Ledger.into(), self.claims.probe()).await.is_ok()
    }

    async fn table(&self) -> bool {
        self.answer(Check::Lookup.into(), self.tenants.probe()).await.is_ok()
    }

    async fn identity(&self) -> bool {
        let cause = |error: &WhoAmIError| match error {
            WhoAmIError::Refused(ours) => cause_of_identity(ours),
            WhoAmIError::Unanswered(_) => CheckFailure::Unanswered,
        };
        self.ask(Check::Identity.into(), identity(&self.sts), cause).await
    }

    async fn central_role(&self) -> bool {
        let cause = |error: &AssumeError| match error {
            AssumeError::Ours(ours) => cause_of_identity(ours),
            AssumeError::Denied { .. } | AssumeError::Held { .. } => CheckFailure::Denied,
            AssumeError::Unavailable { .. } => CheckFailure::Unanswered,
        };
        self.ask(Check::CentralRole.into(), self.central.credentials(), cause).await
    }

    async fn letters(&self, letters: &SqsQueue) -> bool {
        self.ask(Check::DeadLettersAllowed.into(), letters.probe_sending(), cause_of_queue).await
    }

    async fn bucket(&self, check: Check, bucket: &OwnBucket) -> bool {
        let call = check.on(&bucket.name);
        let cause = match self.answer(call, bucket::probe(&self.s3, bucket)).await {
            Ok(()) => {
                self.health.succeeded(call);
                return true;
            }
            // The role lacks s3:ListBucket, so the answer does not tell whether objects can be read. If the owner is another one,
            // `Check::Read` reports the reads that S3 denies.
            Err(BucketError::Hidden(_) | BucketError::Foreign { .. }) => {
                self.health.answered(call);
                return true;
            }
            Err(error @ BucketError::Missing(_)) => (CheckFailure::Missing, error),
            Err(error @ BucketError::Elsewhere { .. }) => (CheckFailure::Elsewhere, error),
            Err(error @ BucketError::Unavailable { .. }) => (CheckFailure::Unanswered, error),
        };
        self.health.failed(call, cause.0, &cause.1);
        false
    }

    /// Waits for the answer of a probe.
    async fn answer<T>(&self, call: CheckCall<'_>, probe: impl Future<Output = T>) -> T {
        let mut probe = pin!(probe);
        loop {
            match tokio::time::timeout(PATIENCE, &mut probe).await {
                Ok(answer) => return answer,
                Err(late) => self.health.failed(call, CheckFailure::Unanswered, &late),
            }
        }
    }

    /// Reports the answer of a probe.
    async fn ask<T, E: Display>(
        &self,
        call: CheckCall<'_>,
        probe: impl Future<Output = Result<T, E>>,
        cause: impl Fn(&E) -> CheckFailure,
    ) -> bool {
        let answer = self.answer(call, probe).await;
        match &answer {
            Ok(_) => self.health.succeeded(call),
            Err(error) => self.health.failed(call, cause(error), error),
        }
        answer.is_ok()
    }
}
