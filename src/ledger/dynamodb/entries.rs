//! The ledger for operators: finds entries by object or by prefix, and deletes them. The parent module is the ledger for the
//! worker.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::AttributeValue,
};
use jiff::Timestamp;

use super::{EntryKey, Item, Position, words};
use crate::aws::describe;

/// Reads and deletes entries. All reads are consistent.
#[derive(Clone, Debug)]
pub struct LedgerEntries {
    client: Client,
    table: String,
}

/// One entry as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The entry's key.
    pub key: EntryKey,
    /// Whether every record is accounted for.
    pub done: bool,
    /// The last lease, unless it was given back.
    pub lease: Option<EntryLease>,
    /// The delivery's position.
    pub position: Position,
    /// When the table's time to live deletes it.
    pub expires_at: Option<Timestamp>,
    /// All other attributes, as text for people.
    pub others: BTreeMap<String, String>,
}

/// An attempt's lease on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryLease {
    /// End of the lease, unless it is renewed.
    pub until: Timestamp,
    /// The attempt that has the lease.
    pub owner: String,
}

/// One page of a scan.
#[derive(Debug)]
pub struct Page {
    /// The entries that match the prefix.
    pub entries: Vec<Entry>,
    /// Number of entries that DynamoDB looked at.
    pub seen: usize,
    /// Start of the next page. `None` after the last page.
    pub next: Option<PageStart>,
}

/// Start of a page.
#[derive(Clone, Debug)]
pub struct PageStart(HashMap<String, AttributeValue>);

/// Condition for deleting an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The entry has no lease, or its lease ended at this time or before.
    Unleased(Timestamp),
    /// No condition: the entry is deleted in any case.
    None,
}

/// Outcome of deleting an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The entry is no longer in the table.
    Gone,
    /// The entry was kept, because its lease runs, or ended after the time of [`Guard::Unleased`].
    Leased,
}

/// The ledger's table cannot be read or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {action} in the ledger, table {table:?}: {problem}")]
pub struct EntriesError {
    /// The action that failed.
    pub action: &'static str,
    /// The table's name.
    pub table: String,
    /// DynamoDB's error or the entry's defect, and what to do.
    pub problem: String,
}

impl LedgerEntries {
    /// The entries of `table`.
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Reads the entries of one object, as [`EntryKey::object`] names it: one per delivery.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses, or an entry cannot be read.
    pub async fn of(&self, object: &str) -> Result<Vec<Entry>, EntriesError> {
        let query = self.client.query().table_name(&self.table).consistent_read(true);
        let query = query
            .key_condition_expression("#object = :object")
            .expression_attribute_names("#object", "object")
            .expression_attribute_values(":object", AttributeValue::S(object.to_owned()));
        let mut items = query.into_paginator().items().send();
        let mut entries = Vec::new();
        while let Some(item) = items.next().await {
            let item = item.map_err(|error| self.refused("read entries", "dynamodb:Query", &error))?;
            entries.push(self.entry(item)?);
        }
        Ok(entries)
    }

    /// Scans one page for entries whose [`EntryKey::object`] begins with `prefix`. A page looks at `most` entries, or at 1 MB
    /// of them. DynamoDB charges for the entries that it looks at, not for those that match.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses, or an entry cannot be read.
    pub async fn page(
        &self,
        prefix: &str,
        from: Option<PageStart>,
        most: Option<i32>,
    ) -> Result<Page, EntriesError> {
        let scan = self.client.scan().table_name(&self.table).consistent_read(true);
        let page = scan
            .filter_expression("begins_with(#object, :prefix)")
            .expression_attribute_names("#object", "object")
            .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned()))
            .set_exclusive_start_key(from.map(|PageStart(key)| key))
            .set_limit(most)
            .send()
            .await
            .map_err(|error| self.refused("read entries", "dynamodb:Scan", &error))?;
        let items = page.items.unwrap_or_default();
        Ok(Page {
            entries: items.into_iter().map(|item| self.entry(item)).collect::<Result<_, _>>()?,
            seen: usize::try_from(page.scanned_count).unwrap_or_default(),
            next: page.last_evaluated_key.map(PageStart),
        })
    }

    /// Deletes an entry. Succeeds also if the entry does not exist.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses. If DynamoDB did not answer, the entry may be deleted; otherwise it still
    /// exists.
    pub async fn forget(&self, key: &EntryKey, guard: Guard) -> Result<Forgotten, EntriesError> {
        let mut delete = self.client.delete_item().table_name(&self.table);
        for (name, value) in [("object", &key.object), ("delivery", &key.delivery)] {
            delete = delete.key(name, AttributeValue::S(value.clone()));
        }
        if let Guard::Unleased(now) = guard {
            delete = delete
                .condition_expression("attribute_not_exists(lease_until) OR lease_until <= :now")
                .expression_attribute_values(":now", AttributeValue::N(now.as_millisecond().to_string()));
        }
        match delete.send().await {
            Ok(_) => Ok(Forgotten::Gone),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(Forgotten::Leased),
            Err(error) => Err(self.refused("delete an entry", "dynamodb:DeleteItem", &error)),
        }
    }

    fn entry(&self, mut item: Item) -> Result<Entry, EntriesError> {
        let key = match (item.remove("object"), item.remove("delivery")) {
            (Some(AttributeValue::S(object)), Some(AttributeValue::S(delivery))) => {
                EntryKey { object, delivery }
            }
            _ => {
                return Err(self.failed(
                    "read entries",
                    "the key of an entry is not object (S) and delivery (S)".to_owned(),
                ));
            }
        };
        let mut number = |name: &str| {
            let value = item.remove(name)?;
            let number = value.as_n().ok().and_then(|digits| digits.parse::<u64>().ok());
            Some(number.ok_or_else(|| {
                let EntryKey { object, delivery } = &key;
                let value = words(&value);
                let problem = format!(
                    "{name} of object {object:?}, delivery {delivery:?} is {value}, not a whole number; \
                     delete the item to deliver the object from its start"
                );
                self.failed("read an entry", problem)
            }))
        };
        let [records, events, until, expires_at] =
            ["records", "events", "lease_until", "expires_at"].map(|name| number(name).transpose());
        let position =
            Position { records: records?.unwrap_or_default(), events: events?.unwrap_or_default() };
        let until = until?.and_then(|until| Timestamp::from_millisecond(i64::try_from(until).ok()?).ok());
        let expires_at = expires_at?.and_then(|at| Timestamp::from_second(i64::try_from(at).ok()?).ok());
        let owner = item.remove("lease_owner").map(|owner| words(&owner)).unwrap_or_default();
        Ok(Entry {
            done: item.remove("done").is_some(),
            lease: until.map(|until| EntryLease { until, owner }),
            position,
            expires_at,
            others: item.iter().map(|(name, value)| (name.clone(), words(value))).collect(),
            key,
        })
    }

    fn refused<E>(
        &self,
        action: &'static str,
        needed: &str,
        error: &SdkError<E, HttpResponse>,
    ) -> EntriesError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let fix = match error.code() {
            Some("ResourceNotFoundException") => "; correct ledger.table or aws.region".to_owned(),
            Some("AccessDeniedException") => format!("; allow {needed} on the table"),
            Some("ValidationException") => "; the table's key must be object (S) + delivery (S)".to_owned(),
            _ => String::new(),
        };
        self.failed(action, describe(error) + &fix)
    }

    fn failed(&self, action: &'static str, problem: String) -> EntriesError {
        EntriesError { action, table: self.table.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::primitives::Blob;

    use super::*;

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        let key = [("object", "b/k?eTag=e"), ("delivery", "cloudwatch")];
        let key = key.map(|(name, text)| (name.to_owned(), AttributeValue::S(text.to_owned())));
        let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        key.into_iter().chain(attributes).collect()
    }

    fn entry(attributes: &[(&str, AttributeValue)]) -> Result<Entry, EntriesError> {
        let config = aws_sdk_dynamodb::Config::builder().behavior_version_latest().build();
        LedgerEntries::new(Client::from_conf(config), "ledger".to_owned()).entry(item(attributes))
    }

    #[test]
    fn unknown_attributes_are_shown_as_text() {
        let n = |digits: &str| AttributeValue::N(digits.to_owned());
        let none = entry(&[]).expect("the item is an entry");
        assert_eq!(
            (none.done, none.lease, none.position, none.expires_at),
            (false, None, Position::default(), None)
        );
        let all = entry(&[
            ("done", AttributeValue::Bool(true)),
            ("lease_until", n("1800000000500")),
            ("lease_owner", AttributeValue::S("o".to_owned())),
            ("records", n("7")),
            ("events", n("2")),
            ("expires_at", n("1800000060")),
            ("owed", AttributeValue::B(Blob::new("abc"))),
            ("fingerprints", AttributeValue::S("12:ab".to_owned())),
        ]);
        let all = all.expect("the item is an entry");
        let until = Timestamp::from_millisecond(1_800_000_000_500).expect("a time");
        assert_eq!(all.lease, Some(EntryLease { until, owner: "o".to_owned() }));
        assert_eq!((all.done, all.position), (true, Position { records: 7, events: 2 }));
        assert_eq!(all.expires_at, Timestamp::from_second(1_800_000_060).ok());
        let others = [("fingerprints", "12:ab"), ("owed", "3 bytes")];
        assert_eq!(all.others, others.map(|(name, words)| (name.to_owned(), words.to_owned())).into());
    }

    #[test]
    fn an_unreadable_entry_is_reported_with_the_fix() {
        for (name, value) in [
            ("records", AttributeValue::S("7".to_owned())),
            ("lease_until", AttributeValue::N("1.5".to_owned())),
        ] {
            let error = entry(&[(name, value)]).expect_err("not a whole number").to_string();
            assert!(
                [name, "b/k?eTag=e", "delete the item"].iter().all(|part| error.contains(part)),
                "{error}"
            );
        }
    }
}
