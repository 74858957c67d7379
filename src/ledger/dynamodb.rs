//! The ledger in a DynamoDB table, through the AWS SDK: one conditional UpdateItem per question.
//!
//! | Attribute | Type | Meaning |
//! |---|---|---|
//! | `object`, `delivery` | S, S | the key: an [`EntryKey`] |
//! | `lease_owner`, `lease_until` | S, N | who is on it, and until when, in epoch milliseconds; absent when nobody is |
//! | `records`, `events` | N, N | a [`Position`] |
//! | `done` | BOOL | there, and true, once every record is accounted for |
//! | `expires_at` | N | the table's time to live, in epoch seconds |
//!
//! Leases are judged by the asking worker's clock: clocks that differ make a lease longer or shorter by as much.

pub mod entries;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    config::{
        http::HttpResponse,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};

use super::{Begun, EntryKey, Ledger, LedgerError, Position};
use crate::aws::describe;

/// Longest that one question holds a delivery up while DynamoDB is down; what it usually takes is a few milliseconds.
const LONGEST_CALL: Duration = Duration::from_secs(3);
/// Longest single attempt; three of them, and the pauses in between, end with [`LONGEST_CALL`].
const LONGEST_ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;
/// Base of the pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Nobody has finished the object.
const UNFINISHED: &str = "attribute_not_exists(done)";
/// No other has it.
const FREE: &str = "(attribute_not_exists(lease_until) OR lease_owner = :owner OR lease_until < :now)";
/// The position is not before the one that is there: an attempt whose answer was given up can arrive after later calls.
const FORWARD: &str =
    "(attribute_not_exists(records) OR records < :records OR (records = :records AND events <= :events))";

/// Where the ledger is, and for how long it believes and remembers.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// The table's name.
    pub table: String,
    /// How long a lease lasts unless it is renewed.
    pub lease: Duration,
    /// How long an entry is kept after its last change.
    pub retention: Duration,
}

/// A ledger in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoDbLedger {
    client: Client,
    settings: LedgerSettings,
}

/// What a call does to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lease {
    Take,
    GiveBack,
    /// Gives it back, and forgets the position.
    Restart,
    /// Gives it back for good.
    Finish,
}

/// Why DynamoDB did not write: what was in the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Done,
    Busy(Duration),
    /// The entry is further than we are.
    Behind,
}

type Item = HashMap<String, AttributeValue>;

impl DynamoDbLedger {
    /// Works on `settings.table`. A call takes three seconds at most, with its repetitions: whoever asks rather goes on
    /// without an answer than waits for one.
    pub fn new(sdk: &SdkConfig, settings: LedgerSettings) -> Self {
        let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_PAUSE);
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(LONGEST_ATTEMPT)
            .operation_attempt_timeout(LONGEST_ATTEMPT)
            .operation_timeout(LONGEST_CALL);
        let config = aws_sdk_dynamodb::config::Builder::from(sdk)
            .retry_config(retries)
            // The tenant table is DynamoDB too, and must not run out of retries because of this one.
            .retry_partition(RetryPartition::new("ledger"))
            .timeout_config(timeouts.build());
        Self { client: Client::from_conf(config.build()), settings }
    }

    /// Asks for a change of an entry that cannot exist, on the condition that it does: is the table there, is its key
    /// right, and may we write?
    ///
    /// # Errors
    /// [`LedgerError::Unavailable`] alone.
    ///
    /// # Cancel safety
    /// Safe: nothing is ever written.
    pub async fn probe(&self) -> Result<(), LedgerError> {
        // An entry's object has a pin, which this has not.
        let key = EntryKey { object: "logferry/readiness".to_owned(), delivery: "readiness".to_owned() };
        let update = self.update(&key).update_expression("SET done = :done");
        let update = update.condition_expression("attribute_exists(done)");
        match update.expression_attribute_values(":done", AttributeValue::Bool(true)).send().await {
            Ok(_) => Ok(()),
            Err(error) if condition_failed(&error) => Ok(()),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    async fn begin_at(&self, key: &EntryKey, owner: &str, now: SystemTime) -> Result<Begun, LedgerError> {
        match self.write(key, owner, Lease::Take, None, now).await? {
            Ok(item) => Ok(Begun::Ours(Position {
                records: self.number(key, &item, "records")?,
                events: self.number(key, &item, "events")?,
            })),
            Err(Refusal::Done) => Ok(Begun::Done),
            Err(Refusal::Busy(left)) => Ok(Begun::Busy(left)),
            // Without a position nothing is behind; to ask again is right whatever it was.
            Err(Refusal::Behind) => Ok(Begun::Busy(Duration::ZERO)),
        }
    }

    async fn checkpoint_at(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        match self.write(key, owner, Lease::Take, Some(position), now).await? {
            Err(_) => Err(lost(key)),
            Ok(_) => Ok(()),
        }
    }

    async fn renew_at(&self, key: &EntryKey, owner: &str, now: SystemTime) -> Result<(), LedgerError> {
        self.write(key, owner, Lease::Take, None, now).await?.map(drop).map_err(|_| lost(key))
    }

    async fn restart_at(&self, key: &EntryKey, owner: &str, now: SystemTime) -> Result<(), LedgerError> {
        self.write(key, owner, Lease::Restart, None, now).await?.map(drop).map_err(|_| lost(key))
    }

    async fn release_at(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        let mut answer = self.write(key, owner, Lease::GiveBack, Some(position), now).await?;
        if let Err(Refusal::Behind) = answer {
            answer = self.write(key, owner, Lease::GiveBack, None, now).await?;
        }
        match answer {
            Err(Refusal::Busy(_)) => Err(lost(key)),
            Err(Refusal::Done | Refusal::Behind) | Ok(_) => Ok(()),
        }
    }

    async fn finish_at(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        match self.write(key, owner, Lease::Finish, Some(position), now).await? {
            Err(Refusal::Busy(_)) => Err(lost(key)),
            // Done: by a first attempt of this very call, or by another who went on from where we were.
            Ok(_) | Err(Refusal::Done | Refusal::Behind) => Ok(()),
        }
    }

    /// Makes one change, if the entry is unfinished, no other's, and not further than `position`.
    async fn write(
        &self,
        key: &EntryKey,
        owner: &str,
        lease: Lease,
        position: Option<Position>,
        now: SystemTime,
    ) -> Result<Result<Item, Refusal>, LedgerError> {
        let (mut set, mut conditions) = (vec!["expires_at = :expires_at"], vec![UNFINISHED, FREE]);
        let mut update = self
            .update(key)
            .expression_attribute_values(":owner", AttributeValue::S(owner.to_owned()))
            .expression_attribute_values(":now", milliseconds(now))
            .expression_attribute_values(":expires_at", seconds(now + self.settings.retention))
            .return_values(ReturnValue::AllNew);
        if let Some(position) = position {
            set.extend(["records = :records", "events = :events"]);
            update = update
                .expression_attribute_values(":records", number(position.records))
                .expression_attribute_values(":events", number(position.events));
            // All of the object is more than any part of it.
            if lease != Lease::Finish {
                conditions.push(FORWARD);
            }
        }
        let mut remove = " REMOVE lease_owner, lease_until";
        match lease {
            Lease::Take => {
                remove = "";
                set.extend(["lease_owner = :owner", "lease_until = :until"]);
                let until = milliseconds(now + self.settings.lease);
                update = update.expression_attribute_values(":until", until);
            }
            Lease::GiveBack => {}
            Lease::Restart => remove = " REMOVE lease_owner, lease_until, records, events",
            Lease::Finish => {
                set.push("done = :done");
                update = update.expression_attribute_values(":done", AttributeValue::Bool(true));
            }
        }
        let update = update
            .update_expression(format!("SET {}{remove}", set.join(", ")))
            .condition_expression(conditions.join(" AND "));
        match update.send().await {
            Ok(output) => Ok(Ok(output.attributes.unwrap_or_default())),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => match failed.item() {
                    Some(item) => self.refusal(key, owner, item, now).map(Err),
                    None => Err(LedgerError::Unavailable(format!(
                        "table {:?}: the endpoint does not support ReturnValuesOnConditionCheckFailure",
                        self.settings.table
                    ))),
                },
                _ => Err(self.unavailable(&error)),
            },
        }
    }

    /// Finds which of the conditions the item does not meet.
    fn refusal(
        &self,
        key: &EntryKey,
        owner: &str,
        item: &Item,
        now: SystemTime,
    ) -> Result<Refusal, LedgerError> {
        if item.contains_key("done") {
            return Ok(Refusal::Done);
        }
        let mine = item.get("lease_owner").is_some_and(|value| value.as_s().is_ok_and(|name| name == owner));
        let until = UNIX_EPOCH + Duration::from_millis(self.number(key, item, "lease_until")?);
        match until.duration_since(now) {
            Ok(left) if !mine && item.contains_key("lease_until") => Ok(Refusal::Busy(left)),
            _ => Ok(Refusal::Behind),
        }
    }

    fn update(&self, key: &EntryKey) -> UpdateItemFluentBuilder {
        let show = ReturnValuesOnConditionCheckFailure::AllOld;
        self.client
            .update_item()
            .table_name(&self.settings.table)
            .key("object", AttributeValue::S(key.object.clone()))
            .key("delivery", AttributeValue::S(key.delivery.clone()))
            .return_values_on_condition_check_failure(show)
    }

    /// Reads a number of an entry; 0 where it has none.
    fn number(&self, key: &EntryKey, item: &Item, name: &str) -> Result<u64, LedgerError> {
        let Some(value) = item.get(name) else { return Ok(0) };
        value.as_n().ok().and_then(|digits| digits.parse().ok()).ok_or_else(|| {
            let (table, EntryKey { object, delivery }) = (&self.settings.table, key);
            LedgerError::Unreadable(format!(
                "table {table:?}: {name} of object {object:?}, delivery {delivery:?} is {value:?}, no whole number; \
                 delete the item: the object then starts anew"
            ))
        })
    }

    fn unavailable(&self, error: &SdkError<UpdateItemError, HttpResponse>) -> LedgerError {
        let fix = match error.code() {
            Some("ResourceNotFoundException") => {
                "; create it with the key object (S) + delivery (S), or correct ledger.table or aws.region"
            }
            Some("AccessDeniedException") => "; allow the worker's role dynamodb:UpdateItem on it",
            Some("ValidationException") => "; its key must be object (S) + delivery (S)",
            _ => "",
        };
        LedgerError::Unavailable(format!("table {:?}: {}{fix}", self.settings.table, describe(error)))
    }
}

impl Ledger for DynamoDbLedger {
    async fn begin(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        self.begin_at(key, owner, SystemTime::now()).await
    }

    async fn checkpoint(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        self.checkpoint_at(key, owner, position, SystemTime::now()).await
    }

    async fn renew(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        self.renew_at(key, owner, SystemTime::now()).await
    }

    async fn restart(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        self.restart_at(key, owner, SystemTime::now()).await
    }

    async fn release(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        self.release_at(key, owner, position, SystemTime::now()).await
    }

    async fn finish(&self, key: &EntryKey, owner: &str, position: Position) -> Result<(), LedgerError> {
        self.finish_at(key, owner, position, SystemTime::now()).await
    }
}

fn condition_failed(error: &SdkError<UpdateItemError, HttpResponse>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

fn lost(key: &EntryKey) -> LedgerError {
    LedgerError::Lost(format!("object {:?}, delivery {:?}", key.object, key.delivery))
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn milliseconds(time: SystemTime) -> AttributeValue {
    AttributeValue::N(since_epoch(time).as_millis().to_string())
}

fn seconds(time: SystemTime) -> AttributeValue {
    number(since_epoch(time).as_secs())
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
