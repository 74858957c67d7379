//! The ledger in a DynamoDB table, through the AWS SDK. Each call of the port is one conditional UpdateItem, or shares a call
//! with others (`together`).
//!
//! | Attribute | Type | Meaning |
//! |---|---|---|
//! | `object`, `delivery` | S, S | the key: an [`EntryKey`] |
//! | `lease_owner`, `lease_until` | S, N | the attempt that has the lease, and the lease's end in epoch milliseconds; absent without a lease |
//! | `records`, `events` | N, N | a [`Position`] |
//! | `ahead` | S | events after the position that were put too: an [`Ahead`]; absent if there are none |
//! | `owed` | B | records that still have to be written to the quarantine: an [`Owed`]; absent if there are none |
//! | `fingerprints` | S | [`Fingerprint`]s of the stored bytes up to the position: `OFFSET:CRC32`, separated by blanks; absent in entries of old versions |
//! | `done` | BOOL | present, and true, if every record is accounted for |
//! | `expires_at` | N | the table's time to live, in epoch seconds |
//!
//! `lease_until` is a time on the owner's clock. Another worker takes the lease when `lease_until` plus
//! `ledger.max_clock_skew` has passed on its own clock. Then the lease has also ended on the owner's clock, as long as the
//! two clocks differ by no more.

#[cfg(feature = "tools")]
pub mod entries;
mod together;
mod watch;

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::{
    Client,
    config::{
        self,
        http::HttpResponse,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
};

use self::together::Together;
use super::{Begun, DeliveryProgress, EntryKey, Ledger, LedgerError, Position, ahead::Ahead, owed::Owed};
use crate::{
    aws::{Base, describe, direct::json::JsonCalls},
    object::trail::Fingerprint,
};

/// Time limit of one call with all its attempts. A delivery waits this long for one call while DynamoDB is down. Usually, a
/// call takes a few milliseconds.
const LONGEST_CALL: Duration = Duration::from_secs(3);
/// Time limit of a single attempt.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;
/// Base of the pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The entry is not done.
const UNFINISHED: &str = "attribute_not_exists(done)";
/// No other attempt has the lease.
const FREE: &str = "(attribute_not_exists(lease_until) OR lease_owner = :owner OR lease_until < :stale)";
/// The new position is not before the entry's position. Without this condition, a late call would set the position back: a
/// call whose answer nobody waits for can arrive after later calls.
const FORWARD: &str =
    "(attribute_not_exists(records) OR records < :records OR (records = :records AND events <= :events))";

/// Configuration of the ledger's table.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// The table's name.
    pub table: String,
    /// How long a lease lasts unless it is renewed.
    pub lease: Duration,
    /// How far the clocks of two workers may differ.
    pub max_clock_skew: Duration,
    /// How long an entry is kept after its last change.
    pub retention: Duration,
    /// Shortest time between two calls that several objects share and that are not full: see [`pace`].
    pub pace: Duration,
}

/// Time between shared calls in a worker of so many slots: 20 ms, and less if the worker has so few slots that most objects in
/// work would wait for the next call. At 800 objects a second a call then has 17 entries.
pub fn pace(slots: usize) -> Duration {
    const LONGEST: u64 = 20;
    Duration::from_micros((slots as u64).saturating_mul(2_500).clamp(2_000, LONGEST * 1_000))
}

/// A ledger in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoDbLedger {
    client: Client,
    settings: LedgerSettings,
    together: Together,
}

#[derive(Clone, Copy, Debug)]
enum EntryUpdate<'a> {
    Take,
    /// Takes or renews the lease, and records progress.
    Checkpoint(&'a DeliveryProgress),
    /// Gives the lease back, and records the progress, if given.
    Release(Option<&'a DeliveryProgress>),
    /// Gives the lease back, and forgets all progress.
    Restart,
    /// Gives the lease back, and marks the entry as done.
    Finish(Position),
}

/// Which condition an entry did not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UnmetCondition {
    Done,
    Busy(Duration),
    /// The entry's position is beyond the change's.
    Behind,
}

type Item = HashMap<String, AttributeValue>;

/// The client of a worker for the ledger's table. A call takes three seconds at most, with the SDK's retries.
pub fn client(base: &Base) -> Client {
    Client::from_conf(config(base).build())
}

fn config(base: &Base) -> config::Builder {
    let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_PAUSE);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(LONGEST_ATTEMPT)
        .operation_attempt_timeout(LONGEST_ATTEMPT)
        .operation_timeout(LONGEST_CALL);
    base.dynamodb()
        .retry_config(retries)
        // The tenant table is in DynamoDB too. Failures of the ledger must not use up its retries.
        .retry_partition(RetryPartition::new("ledger"))
        .timeout_config(timeouts.build())
}

impl DynamoDbLedger {
    /// Creates the ledger in `settings.table`. A call takes three seconds at most, with the SDK's retries, so that a lease
    /// can be renewed in time even if one call fails.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(base: &Base, settings: LedgerSettings) -> Self {
        let direct =
            JsonCalls::new(base.calls(), "DynamoDB", "DynamoDB_20120810.BatchExecuteStatement", None);
        let client = Client::from_conf(config(base).interceptor(direct.interceptor()).build());
        Self { together: Together::start(&client, direct, &settings), client, settings }
    }

    /// Writes an entry that belongs to no object, and deletes it again. Returns DynamoDB's error if the entry cannot be
    /// deleted, which only the time to live does then.
    ///
    /// # Errors
    /// The entry cannot be written.
    pub async fn probe_writing(&self) -> Result<Option<String>, LedgerError> {
        let key = EntryKey { object: "logferry-doctor".to_owned(), delivery: "logferry-doctor".to_owned() };
        let update = self.update(&key).update_expression("SET expires_at = :expires_at");
        let update = update.condition_expression(UNFINISHED);
        let soon = AttributeValue::N(seconds(SystemTime::now() + Duration::from_secs(3600)));
        let update = update.expression_attribute_values(":expires_at", soon);
        update.send().await.map_err(|error| self.failed(&error))?;
        let delete = self.client.delete_item().table_name(&self.settings.table);
        let delete = delete.key("object", AttributeValue::S(key.object));
        let delete = delete.key("delivery", AttributeValue::S(key.delivery)).send().await;
        Ok(delete.err().map(|error| describe(&error)))
    }

    async fn begin_at(&self, key: &EntryKey, owner: &str, now: SystemTime) -> Result<Begun, LedgerError> {
        match self.write(key, owner, EntryUpdate::Take, now).await? {
            Ok(item) => Ok(Begun::Ours(DeliveryProgress {
                position: Position {
                    records: self.number(key, &item, "records")?,
                    events: self.number(key, &item, "events")?,
                },
                ahead: self.ahead(key, &item)?,
                owed: self.owed(key, &item)?,
                fingerprints: self.fingerprints(key, &item)?,
            })),
            Err(UnmetCondition::Done) => Ok(Begun::Done),
            Err(UnmetCondition::Busy(left)) => Ok(Begun::Busy(left)),
            // This cannot happen, because taking the lease records no position. If it does nevertheless, the caller may try again
            // at once.
            Err(UnmetCondition::Behind) => Ok(Begun::Busy(Duration::ZERO)),
        }
    }

    async fn checkpoint_at(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        self.write(key, owner, EntryUpdate::Checkpoint(progress), now).await?.map(drop).map_err(|_| lost(key))
    }

    async fn restart_at(&self, key: &EntryKey, owner: &str, now: SystemTime) -> Result<(), LedgerError> {
        self.write(key, owner, EntryUpdate::Restart, now).await?.map(drop).map_err(|_| lost(key))
    }

    async fn release_at(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        let mut answer = self.write(key, owner, EntryUpdate::Release(Some(progress)), now).await?;
        if let Err(UnmetCondition::Behind) = answer {
            answer = self.write(key, owner, EntryUpdate::Release(None), now).await?;
        }
        match answer {
            Err(UnmetCondition::Busy(_)) => Err(lost(key)),
            Err(UnmetCondition::Done | UnmetCondition::Behind) | Ok(_) => Ok(()),
        }
    }

    async fn finish_at(
        &self,
        key: &EntryKey,
        owner: &str,
        position: Position,
        now: SystemTime,
    ) -> Result<(), LedgerError> {
        match self.write(key, owner, EntryUpdate::Finish(position), now).await? {
            Err(UnmetCondition::Busy(_)) => Err(lost(key)),
            // If the entry was already done, an earlier try of this call has finished it, or another worker that went on
            // from this position.
            Ok(_) | Err(UnmetCondition::Done | UnmetCondition::Behind) => Ok(()),
        }
    }

    /// Makes one change if the entry is not done, no other attempt has its lease, and its position is not beyond the
    /// change's.
    async fn write(
        &self,
        key: &EntryKey,
        owner: &str,
        change: EntryUpdate<'_>,
        now: SystemTime,
    ) -> Result<Result<Item, UnmetCondition>, LedgerError> {
        let (mut set, mut conditions) = (vec!["expires_at = :expires_at"], vec![UNFINISHED, FREE]);
        let mut remove = Vec::new();
        let mut update = self
            .update(key)
            .expression_attribute_values(":owner", AttributeValue::S(owner.to_owned()))
            .expression_attribute_values(
                ":stale",
                AttributeValue::N(milliseconds(now - self.settings.max_clock_skew)),
            )
            .expression_attribute_values(
                ":expires_at",
                AttributeValue::N(seconds(now + self.settings.retention)),
            )
            .return_values(ReturnValue::AllNew);
        let (position, progress) = match change {
            EntryUpdate::Checkpoint(progress) | EntryUpdate::Release(Some(progress)) => {
                // `Finish` needs no such condition, because a finished object is ahead of any position.
                conditions.push(FORWARD);
                (Some(progress.position), Some(progress))
            }
            EntryUpdate::Finish(position) => (Some(position), None),
            EntryUpdate::Take | EntryUpdate::Release(None) | EntryUpdate::Restart => (None, None),
        };
        if let Some(position) = position {
            set.extend(["records = :records", "events = :events"]);
            update = update
                .expression_attribute_values(":records", number(position.records))
                .expression_attribute_values(":events", number(position.events));
        }
        if let Some(DeliveryProgress { ahead, owed, fingerprints, .. }) = progress {
            let words: Vec<_> = fingerprints.iter().map(ToString::to_string).collect();
            let ahead = ahead.map(|ahead| AttributeValue::S(ahead.to_string()));
            let owed = (!owed.is_empty()).then(|| AttributeValue::B(owed.encode().into()));
            let fingerprints = (!words.is_empty()).then(|| AttributeValue::S(words.join(" ")));
            for (name, assignment, value) in [
                ("ahead", "ahead = :ahead", ahead),
                ("owed", "owed = :owed", owed),
                ("fingerprints", "fingerprints = :fingerprints", fingerprints),
            ] {
                let Some(value) = value else {
                    remove.push(name);
                    continue;
                };
                set.push(assignment);
                update = update.expression_attribute_values(format!(":{name}"), value);
            }
        }
        match change {
            EntryUpdate::Take | EntryUpdate::Checkpoint(_) => {
                set.extend(["lease_owner = :owner", "lease_until = :until"]);
                let until = AttributeValue::N(milliseconds(now + self.settings.lease));
                update = update.expression_attribute_values(":until", until);
            }
            EntryUpdate::Release(_) => remove.extend(["lease_owner", "lease_until"]),
            EntryUpdate::Restart => {
                remove.extend(["lease_owner", "lease_until", "records", "events"]);
                remove.extend(["ahead", "owed", "fingerprints"]);
            }
            EntryUpdate::Finish(_) => {
                remove.extend(["lease_owner", "lease_until", "ahead", "owed", "fingerprints"]);
                set.push("done = :done");
                update = update.expression_attribute_values(":done", AttributeValue::Bool(true));
            }
        }
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression.push_str(&format!(" REMOVE {}", remove.join(", ")));
        }
        let update = update.update_expression(expression).condition_expression(conditions.join(" AND "));
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
                _ => Err(self.failed(&error)),
            },
        }
    }

    /// Finds the condition that the item does not meet.
    fn refusal(
        &self,
        key: &EntryKey,
        owner: &str,
        item: &Item,
        now: SystemTime,
    ) -> Result<UnmetCondition, LedgerError> {
        if item.contains_key("done") {
            return Ok(UnmetCondition::Done);
        }
        let mine = item.get("lease_owner").is_some_and(|value| value.as_s().is_ok_and(|name| name == owner));
        let until = UNIX_EPOCH + Duration::from_millis(self.number(key, item, "lease_until")?);
        match (until + self.settings.max_clock_skew).duration_since(now) {
            Ok(left) if !mine && item.contains_key("lease_until") => Ok(UnmetCondition::Busy(left)),
            _ => Ok(UnmetCondition::Behind),
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

    /// Reads a number of an entry. 0 if the attribute is absent.
    fn number(&self, key: &EntryKey, item: &Item, name: &str) -> Result<u64, LedgerError> {
        let Some(value) = item.get(name) else { return Ok(0) };
        let number = value.as_n().ok().and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| self.unreadable(key, name, value, "not a whole number"))
    }

    /// Reads the events after the position that were put. `None` if the attribute is absent.
    fn ahead(&self, key: &EntryKey, item: &Item) -> Result<Option<Ahead>, LedgerError> {
        let Some(value) = item.get("ahead") else { return Ok(None) };
        let ahead = value.as_s().ok().and_then(|text| text.parse().ok());
        ahead
            .map(Some)
            .ok_or_else(|| self.unreadable(key, "ahead", value, "not RECORDS:EVENTS TIMESTAMP:RECORD:PIECE"))
    }

    /// Reads the records owed to the quarantine. Empty if the attribute is absent.
    fn owed(&self, key: &EntryKey, item: &Item) -> Result<Owed, LedgerError> {
        let Some(value) = item.get("owed") else { return Ok(Owed::default()) };
        let owed = value.as_b().ok().and_then(|bytes| Owed::decode(bytes.as_ref()));
        owed.ok_or_else(|| self.unreadable(key, "owed", value, "not an encoded list of records"))
    }

    /// Reads an entry's fingerprints. Empty if the attribute is absent.
    fn fingerprints(&self, key: &EntryKey, item: &Item) -> Result<Vec<Fingerprint>, LedgerError> {
        let Some(value) = item.get("fingerprints") else { return Ok(Vec::new()) };
        let words = value.as_s().ok().map(|words| words.split(' ').map(str::parse).collect());
        words
            .and_then(Result::ok)
            .ok_or_else(|| self.unreadable(key, "fingerprints", value, "not a list of OFFSET:CRC32"))
    }

    fn unreadable(&self, key: &EntryKey, name: &str, value: &AttributeValue, why: &str) -> LedgerError {
        let (table, EntryKey { object, delivery }) = (&self.settings.table, key);
        let value = match value {
            AttributeValue::B(bytes) => {
                bytes.as_ref().iter().take(32).map(|byte| format!("{byte:02x}")).collect()
            }
            other => words(other),
        };
        LedgerError::Unreadable(format!(
            "table {table:?}: {name} of object {object:?}, delivery {delivery:?} is {value}, {why}; \
             delete the item to deliver the object from its start"
        ))
    }

    fn failed(&self, error: &SdkError<UpdateItemError, HttpResponse>) -> LedgerError {
        failed(&self.settings.table, error)
    }
}

impl Ledger for DynamoDbLedger {
    /// Most objects are new, so an entry is created first. If it exists, an UpdateItem takes its lease. A call whose answer was
    /// lost may have created the entry; then the UpdateItem finds the owner's own lease.
    async fn begin(&self, key: &EntryKey, owner: &str) -> Result<Begun, LedgerError> {
        if self.together.insert(key, owner).await? {
            return Ok(Begun::Ours(DeliveryProgress::default()));
        }
        self.begin_at(key, owner, SystemTime::now()).await
    }

    async fn checkpoint(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        self.checkpoint_at(key, owner, progress, SystemTime::now()).await
    }

    async fn restart(&self, key: &EntryKey, owner: &str) -> Result<(), LedgerError> {
        self.restart_at(key, owner, SystemTime::now()).await
    }

    async fn release(
        &self,
        key: &EntryKey,
        owner: &str,
        progress: &DeliveryProgress,
    ) -> Result<(), LedgerError> {
        self.release_at(key, owner, progress, SystemTime::now()).await
    }

    async fn finish(
        &self,
        key: &EntryKey,
        owner: &str,
        recorded: &DeliveryProgress,
        position: Position,
    ) -> Result<(), LedgerError> {
        // An entry with recorded progress has further attributes to remove.
        if *recorded == DeliveryProgress::default() && self.together.finish(key, owner, position).await? {
            return Ok(());
        }
        self.finish_at(key, owner, position, SystemTime::now()).await
    }

    /// Updates an entry that cannot exist, on the condition that it exists. This shows whether the table exists, its key is
    /// right, and the role may write, without a change.
    async fn probe(&self) -> Result<(), LedgerError> {
        // No entry has this key, because an entry's object has a version or an eTag.
        let key = EntryKey { object: "logferry/readiness".to_owned(), delivery: "readiness".to_owned() };
        let update = self.update(&key).update_expression("SET done = :done");
        let update = update.condition_expression("attribute_exists(done)");
        match update.expression_attribute_values(":done", AttributeValue::Bool(true)).send().await {
            Ok(_) => Ok(()),
            Err(error) if condition_failed(&error) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

/// What a failed call to the table means.
fn failed<E>(table: &str, error: &SdkError<E, HttpResponse>) -> LedgerError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let fix = match error.code() {
        Some("ThrottlingException" | "ProvisionedThroughputExceededException" | "RequestLimitExceeded") => {
            let fix = "if this lasts, raise the table's capacity or make it on-demand";
            return LedgerError::Throttled(format!("table {table:?}: {}; {fix}", describe(error)));
        }
        Some("ResourceNotFoundException") => {
            "; create the table with the key object (S) + delivery (S), or correct ledger.table or aws.region"
        }
        Some("AccessDeniedException") => "; allow the worker's role dynamodb:UpdateItem on the table",
        Some("ValidationException") => "; the table's key must be object (S) + delivery (S)",
        _ => "",
    };
    LedgerError::Unavailable(format!("table {table:?}: {}{fix}", describe(error)))
}

fn condition_failed(error: &SdkError<UpdateItemError, HttpResponse>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

fn lost(key: &EntryKey) -> LedgerError {
    LedgerError::Lost(format!("object {:?}, delivery {:?}", key.object, key.delivery))
}

/// Shows an attribute's value to people.
fn words(value: &AttributeValue) -> String {
    match value {
        AttributeValue::S(text) => text.clone(),
        AttributeValue::N(number) => number.clone(),
        AttributeValue::Bool(flag) => flag.to_string(),
        AttributeValue::B(bytes) => format!("{} bytes", bytes.as_ref().len()),
        AttributeValue::Null(_) => "NULL".to_owned(),
        AttributeValue::L(values) => format!("a list of {}", values.len()),
        AttributeValue::M(values) => format!("a map of {}", values.len()),
        AttributeValue::Ss(values) | AttributeValue::Ns(values) => values.join(", "),
        AttributeValue::Bs(values) => format!("a set of {} binary values", values.len()),
        _ => "a value of an unknown type".to_owned(),
    }
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn milliseconds(time: SystemTime) -> String {
    since_epoch(time).as_millis().to_string()
}

fn seconds(time: SystemTime) -> String {
    since_epoch(time).as_secs().to_string()
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
