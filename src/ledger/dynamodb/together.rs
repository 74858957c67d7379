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
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::batch_execute_statement::BatchExecuteStatementError,
    types::{AttributeValue, BatchStatementRequest},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{LedgerSettings, failed, milliseconds, seconds};
use crate::{
    aws::{
        describe,
        direct::{LeftToSdk, json::JsonCalls},
    },
    batcher::{Batcher, Wait},
    json::JsonObject,
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

/// The request of a call, as DynamoDB's API writes JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Batch<'a> {
    statements: Vec<Statement<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement<'a> {
    statement: &'a str,
    parameters: Vec<Parameter>,
}

#[derive(Serialize)]
enum Parameter {
    S(String),
    N(String),
    #[serde(rename = "BOOL")]
    Bool(bool),
}

impl From<Parameter> for AttributeValue {
    fn from(parameter: Parameter) -> Self {
        match parameter {
            Parameter::S(text) => Self::S(text),
            Parameter::N(number) => Self::N(number),
            Parameter::Bool(flag) => Self::Bool(flag),
        }
    }
}

/// The answer to a call.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answers {
    /// In the order of the statements.
    responses: Option<Vec<JsonObject<Answer>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error: Option<JsonObject<StatementError>>,
}

/// Why a statement was not carried out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatementError {
    code: Option<String>,
    message: Option<String>,
}

/// Writes entries in batches.
#[derive(Clone, Debug)]
pub(super) struct Together {
    inserts: Arc<Batcher<Write, Written>>,
    finishes: Arc<Batcher<Write, Written>>,
}

impl Together {
    /// Starts the background tasks. `direct` makes first attempts of `client`'s calls.
    pub(super) fn start(client: &Client, direct: JsonCalls, settings: &LedgerSettings) -> Self {
        // A legal name of a table has no quotation mark.
        let table = &settings.table;
        let calls = Arc::new(Calls {
            client: client.clone(),
            direct,
            insert: format!(
                "INSERT INTO \"{table}\" VALUE {{'object': ?, 'delivery': ?, 'lease_owner': ?, 'lease_until': ?, \
                 'expires_at': ?}}"
            ),
            finish: format!(
                "UPDATE \"{table}\" SET \"done\" = ? SET \"records\" = ? SET \"events\" = ? SET \"expires_at\" = ? \
                 REMOVE \"lease_owner\" REMOVE \"lease_until\" \
                 WHERE \"object\" = ? AND \"delivery\" = ? AND \"lease_owner\" = ?"
            ),
            settings: settings.clone(),
            paused: Mutex::default(),
        });
        let batcher = || {
            let calls = Arc::clone(&calls);
            Arc::new(Batcher::start(MAX_STATEMENTS, Wait::Pace(settings.pace), move |writes: Vec<Write>| {
                let calls = Arc::clone(&calls);
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
#[derive(Debug)]
struct Calls {
    client: Client,
    /// First attempts.
    direct: JsonCalls,
    /// Statements. Names of attributes are quoted, because some are reserved words.
    insert: String,
    finish: String,
    settings: LedgerSettings,
    /// No batch is tried before this time.
    paused: Mutex<Option<Instant>>,
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
        let batch = Batch { statements: chosen.map(|(write, _)| self.statement(write, now)).collect() };
        let answers = match self.direct.call(&self.settings.table, &batch).await {
            Ok(Answers { responses }) => {
                let error = |JsonObject(answer): JsonObject<Answer>| answer.error.map(|error| error.0);
                Ok(responses.unwrap_or_default().into_iter().map(error).collect())
            }
            Err(left) => self.by_sdk(batch, left).await,
        };
        let answers = match answers {
            Ok(answers) => answers,
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
        let mut answers = answers.into_iter();
        let mut written = |first: &bool| match first {
            // An answer that is missing counts as not written.
            true => answers.next().map_or(Ok(false), |error| self.written(error)),
            false => Ok(false),
        };
        first.iter().map(&mut written).collect()
    }

    /// Makes the call by the SDK. Returns why each statement was not carried out.
    async fn by_sdk(
        &self,
        batch: Batch<'_>,
        left: LeftToSdk,
    ) -> Result<Vec<Option<StatementError>>, SdkError<BatchExecuteStatementError, HttpResponse>> {
        let statements = batch.statements.into_iter().map(|Statement { statement, parameters }| {
            let parameters = parameters.into_iter().map(AttributeValue::from).collect();
            let statement = BatchStatementRequest::builder().statement(statement);
            statement.set_parameters(Some(parameters)).build().expect("a statement is set")
        });
        let call = self.client.batch_execute_statement().set_statements(Some(statements.collect()));
        let output = call.customize().interceptor(left).send().await?;
        let errors = output.responses.unwrap_or_default().into_iter().map(|answer| {
            let error = answer.error?;
            let code = error.code.map(|code| code.as_str().to_owned());
            Some(StatementError { code, message: error.message })
        });
        Ok(errors.collect())
    }

    /// The statement of a write.
    fn statement(&self, write: &Write, now: SystemTime) -> Statement<'_> {
        let Write { key: EntryKey { object, delivery }, owner, change } = write;
        let (object, delivery, owner) =
            (Parameter::S(object.clone()), Parameter::S(delivery.clone()), Parameter::S(owner.clone()));
        let expires_at = Parameter::N(seconds(now + self.settings.retention));
        match change {
            WriteKind::Insert => {
                let lease_until = Parameter::N(milliseconds(now + self.settings.lease));
                Statement {
                    statement: &self.insert,
                    parameters: vec![object, delivery, owner, lease_until, expires_at],
                }
            }
            WriteKind::Finish(position) => {
                let [records, events] =
                    [position.records, position.events].map(|number| Parameter::N(number.to_string()));
                let set = [Parameter::Bool(true), records, events, expires_at];
                Statement {
                    statement: &self.finish,
                    parameters: set.into_iter().chain([object, delivery, owner]).collect(),
                }
            }
        }
    }

    /// What the answer to a statement means.
    fn written(&self, error: Option<StatementError>) -> Written {
        let Some(StatementError { code, message }) = error else { return Ok(true) };
        let message = message.unwrap_or_default();
        match code.as_deref().unwrap_or_default() {
            "AccessDenied" => self.pause(&message),
            // An UpdateItem would be throttled too.
            "ThrottlingError" | "ProvisionedThroughputExceeded" | "RequestLimitExceeded" => {
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
