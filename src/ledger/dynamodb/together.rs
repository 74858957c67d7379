//! Writes entries of several objects in one BatchExecuteStatement call: the first claims of objects, and the ends of objects
//! that recorded nothing in between. For most objects, which are small, these are the only calls to the ledger.
//!
//! A batch is no transaction: each statement has its own condition and its own answer, like an UpdateItem. A statement that is
//! not carried out is followed by an UpdateItem, which knows every condition and finds the reason; a throttled one is reported as
//! throttled. Sources: DynamoDB API reference, "BatchExecuteStatement"; developer guide, "PartiQL insert statements",
//! "PartiQL update statements".

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_sdk_dynamodb::{
    Client,
    error::ProvideErrorMetadata,
    types::{
        AttributeValue, BatchStatementError, BatchStatementErrorCodeEnum as Code, BatchStatementRequest,
    },
};
use tokio::time::Instant;

use super::{LedgerSettings, failed, milliseconds, number, seconds};
use crate::{
    aws::describe,
    batcher::{Batcher, Wait},
    ledger::{EntryKey, LedgerError, Position},
};

/// Most statements of a call. Source: DynamoDB API reference, "BatchExecuteStatement".
const MAX_STATEMENTS: usize = 25;
/// For how long no batch is tried after one was denied. Until then each entry is written by an UpdateItem of its own.
const PAUSE: Duration = Duration::from_secs(600);

/// One entry of a batch.
#[derive(Clone, Debug)]
struct Write {
    key: EntryKey,
    owner: String,
    change: WriteKind,
}

#[derive(Clone, Copy, Debug)]
enum WriteKind {
    /// Creates the entry with a lease.
    Insert,
    /// Gives the lease back, and marks the entry as done.
    Finish(Position),
}

/// Whether the entry was written.
type Written = Result<bool, LedgerError>;

/// Writes entries in batches.
#[derive(Clone, Debug)]
pub(super) struct Together {
    inserts: Arc<Batcher<Write, Written>>,
    finishes: Arc<Batcher<Write, Written>>,
}

impl Together {
    /// Starts the background tasks.
    pub(super) fn start(client: &Client, settings: &LedgerSettings) -> Self {
        let calls = Calls { client: client.clone(), settings: settings.clone(), paused: Arc::default() };
        let batcher = || {
            let calls = calls.clone();
            Arc::new(Batcher::start(MAX_STATEMENTS, Wait::Pace(settings.pace), move |writes| {
                let calls = calls.clone();
                async move { calls.write(&writes).await }
            }))
        };
        Self { inserts: batcher(), finishes: batcher() }
    }

    /// Creates an entry with a lease. Returns false if the entry may exist.
    ///
    /// # Errors
    /// The call was throttled, or not answered.
    pub(super) async fn insert(&self, key: &EntryKey, owner: &str) -> Written {
        let write = Write { key: key.clone(), owner: owner.to_owned(), change: WriteKind::Insert };
        // Without an answer, an UpdateItem finds out.
        self.inserts.call(write).await.unwrap_or(Ok(false))
    }

    /// Marks an entry as done, if `owner` has its lease. Returns false if the owner may not have the lease.
    ///
    /// # Errors
    /// As [`Together::insert`].
    pub(super) async fn finish(&self, key: &EntryKey, owner: &str, position: Position) -> Written {
        let write = Write { key: key.clone(), owner: owner.to_owned(), change: WriteKind::Finish(position) };
        self.finishes.call(write).await.unwrap_or(Ok(false))
    }
}

/// What the calls need.
#[derive(Clone, Debug)]
struct Calls {
    client: Client,
    settings: LedgerSettings,
    /// No batch is tried before this time.
    paused: Arc<Mutex<Option<Instant>>>,
}

impl Calls {
    /// Makes one call, and answers for each write.
    async fn write(&self, writes: &[Write]) -> Vec<Written> {
        let not_written = || vec![Ok(false); writes.len()];
        if self.paused.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| Instant::now() < at) {
            return not_written();
        }
        // Two statements of a batch must not concern the same entry.
        let mut seen = HashSet::new();
        let first: Vec<bool> = writes.iter().map(|write| seen.insert(&write.key)).collect();
        let now = SystemTime::now();
        let chosen = writes.iter().zip(&first).filter(|(_, first)| **first);
        let statements = chosen.map(|(write, _)| self.statement(write, now)).collect();
        let answer = self.client.batch_execute_statement().set_statements(Some(statements)).send().await;
        let output = match answer {
            Ok(output) => output,
            Err(error) => {
                return match error.code() {
                    Some("AccessDeniedException" | "UnknownOperationException" | "NotImplemented") => {
                        self.pause(&describe(&error));
                        not_written()
                    }
                    // One statement is to blame, and its UpdateItem says which.
                    Some("ValidationException") => not_written(),
                    _ => vec![Err(failed(&self.settings.table, &error)); writes.len()],
                };
            }
        };
        let mut answers = output.responses.unwrap_or_default().into_iter();
        let mut written = |first: &bool| match first {
            // An answer that is missing counts as not written.
            true => answers.next().map_or(Ok(false), |answer| self.written(answer.error)),
            false => Ok(false),
        };
        first.iter().map(&mut written).collect()
    }

    /// The request of a write. Names of attributes are quoted, because some are reserved words.
    fn statement(&self, write: &Write, now: SystemTime) -> BatchStatementRequest {
        let Write { key, owner, change } = write;
        let text = |text: &str| AttributeValue::S(text.to_owned());
        // A legal name of a table has no quotation mark.
        let table = &self.settings.table;
        let expires_at = seconds(now + self.settings.retention);
        let (statement, parameters) = match change {
            WriteKind::Insert => (
                format!(
                    "INSERT INTO \"{table}\" VALUE {{'object': ?, 'delivery': ?, 'lease_owner': ?, 'lease_until': ?, \
                     'expires_at': ?}}"
                ),
                vec![
                    text(&key.object),
                    text(&key.delivery),
                    text(owner),
                    milliseconds(now + self.settings.lease),
                    expires_at,
                ],
            ),
            WriteKind::Finish(position) => (
                format!(
                    "UPDATE \"{table}\" SET \"done\" = ? SET \"records\" = ? SET \"events\" = ? SET \"expires_at\" = ? \
                     REMOVE \"lease_owner\" REMOVE \"lease_until\" \
                     WHERE \"object\" = ? AND \"delivery\" = ? AND \"lease_owner\" = ?"
                ),
                vec![
                    AttributeValue::Bool(true),
                    number(position.records),
                    number(position.events),
                    expires_at,
                    text(&key.object),
                    text(&key.delivery),
                    text(owner),
                ],
            ),
        };
        BatchStatementRequest::builder()
            .statement(statement)
            .set_parameters(Some(parameters))
            .build()
            .expect("a statement is set")
    }

    /// What the answer to a statement means.
    fn written(&self, error: Option<BatchStatementError>) -> Written {
        let Some(error) = error else { return Ok(true) };
        let message = error.message().unwrap_or_default();
        match error.code() {
            Some(Code::AccessDenied) => self.pause(message),
            // An UpdateItem would be throttled too.
            Some(
                Code::ThrottlingError | Code::ProvisionedThroughputExceeded | Code::RequestLimitExceeded,
            ) => {
                let table = &self.settings.table;
                return Err(LedgerError::Throttled(format!(
                    "table {table:?}: a statement of a batch: {message}"
                )));
            }
            _ => {}
        }
        Ok(false)
    }

    /// Stops making batches for a while, and says why.
    fn pause(&self, error: &str) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if paused.is_none_or(|at| at <= now) {
            *paused = Some(now + PAUSE);
            tracing::warn!(
                table = self.settings.table,
                error,
                "the ledger cannot be written in batches, so objects share no calls to DynamoDB; on AWS, allow the worker's role \
                 dynamodb:PartiQLInsert and dynamodb:PartiQLUpdate on the table"
            );
        }
    }
}

#[cfg(test)]
mod tests;
