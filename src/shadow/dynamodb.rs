//! The counts in the ledger's table. Each item has what one object adds to one window of a delivery.
//!
//! | Attribute | Type | Meaning |
//! |---|---|---|
//! | `object` | S | `shadow#TENANT/DELIVERY`. No object has such a key, because a bucket's name has no `#` |
//! | `delivery` | S | `WINDOW#HASH`: the start of the window, and a hash of the object; further parts of a large object end in `#PART` |
//! | `place` | S | the log group, or `s3://BUCKET` |
//! | `counts` | S | JSON, `{"STREAM": [EVENTS, BYTES]}` |
//! | `rejected` | N | events that CloudWatch Logs would reject for their age |
//! | `origin` | S | the object: bucket, key, and version or eTag |
//! | `expires_at` | N | the table's time to live, in epoch seconds |

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_sdk_dynamodb::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::UpdateItemError,
    types::AttributeValue,
};

use super::{Count, CountStore, Subject, Window, WindowCounts};
use crate::{aws::describe, digest, ledger::LedgerError};

/// Number of hexadecimal digits of an object's hash. Two of a million objects share a hash with a probability below 10^-26.
const HASH_DIGITS: usize = 32;

/// The counts in DynamoDB.
#[derive(Clone, Debug)]
pub struct DynamoDbCounts {
    client: Client,
    table: String,
    retention: Duration,
}

/// The counts cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the counts of shadow mode cannot be read from table {table:?}: {problem}")]
pub struct ReadError {
    /// The table's name.
    pub table: String,
    /// DynamoDB's error or the item's defect, and what to do.
    pub problem: String,
}

impl DynamoDbCounts {
    /// Keeps counts in the ledger's table for `retention`.
    pub fn new(client: Client, table: String, retention: Duration) -> Self {
        Self { client, table, retention }
    }

    async fn put(&self, subject: &Subject, counts: &WindowCounts) -> Result<(), LedgerError> {
        let WindowCounts { window, part, place, streams, rejected } = counts;
        let streams: BTreeMap<_, _> =
            streams.iter().map(|(stream, Count { events, bytes })| (stream, (events, bytes))).collect();
        let streams = serde_json::to_string(&streams).expect("texts and numbers are always JSON");
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires_at = (since_epoch + self.retention).as_secs();
        // An update, because the worker may already update the items of this table.
        self.client
            .update_item()
            .table_name(&self.table)
            .key("object", text(owner(&subject.tenant_id, &subject.delivery)))
            .key("delivery", text(place_of(*window, &subject.object, *part)))
            .update_expression(
                "SET place = :place, counts = :counts, rejected = :rejected, origin = :origin, expires_at = :expires_at",
            )
            .expression_attribute_values(":place", text(place.clone()))
            .expression_attribute_values(":counts", text(streams))
            .expression_attribute_values(":rejected", AttributeValue::N(rejected.to_string()))
            .expression_attribute_values(":origin", text(subject.object.clone()))
            .expression_attribute_values(":expires_at", AttributeValue::N(expires_at.to_string()))
            .send()
            .await
            .map(drop)
            .map_err(|error| self.unwritten(&error))
    }

    /// Reads all counts of a delivery whose windows begin in `windows`, each with its object. Every read is consistent.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses, or an item cannot be read.
    pub async fn read(
        &self,
        tenant_id: &str,
        delivery: &str,
        windows: Range<Window>,
    ) -> Result<Vec<(Object, WindowCounts)>, ReadError> {
        let owner = owner(tenant_id, delivery);
        let end = windows.end.to_string();
        // Every item of the first window comes after this key.
        let mut from = Some(key(&owner, windows.start.to_string()));
        let mut found = Vec::new();
        while let Some(start) = from {
            let page = self
                .client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#object = :object")
                .expression_attribute_names("#object", "object")
                .expression_attribute_values(":object", text(owner.clone()))
                .set_exclusive_start_key(Some(start))
                .send()
                .await
                .map_err(|error| self.unread(describe(&error) + fix(&error, "dynamodb:Query")))?;
            from = page.last_evaluated_key;
            for item in page.items.unwrap_or_default() {
                let place = string(&item, "delivery").map_or("", String::as_str);
                if *place >= *end {
                    return Ok(found);
                }
                let counts = counts(&item).ok_or_else(|| {
                    self.unread(format!("item {owner:?}, {place:?} is not what logferry writes; delete it"))
                })?;
                found.push(counts);
            }
        }
        Ok(found)
    }

    fn unwritten(&self, error: &SdkError<UpdateItemError, HttpResponse>) -> LedgerError {
        let problem = format!("table {:?}: {}", self.table, describe(error));
        match error.code() {
            Some(
                "ThrottlingException" | "ProvisionedThroughputExceededException" | "RequestLimitExceeded",
            ) => LedgerError::Throttled(problem),
            _ => LedgerError::Unavailable(problem + fix(error, "dynamodb:UpdateItem")),
        }
    }

    fn unread(&self, problem: String) -> ReadError {
        ReadError { table: self.table.clone(), problem }
    }
}

impl CountStore for DynamoDbCounts {
    async fn write(&self, subject: &Subject, counts: &[WindowCounts]) -> Result<(), LedgerError> {
        for counts in counts {
            self.put(subject, counts).await?;
        }
        Ok(())
    }
}

/// The name of an object, as [`Subject`] has it.
pub type Object = String;

type Item = HashMap<String, AttributeValue>;

fn text(text: String) -> AttributeValue {
    AttributeValue::S(text)
}

/// Partition key of a delivery's counts. A tenant is a part of a key in the staging bucket, so it has no slash.
fn owner(tenant_id: &str, delivery: &str) -> String {
    format!("shadow#{tenant_id}/{delivery}")
}

/// Sort key of an item.
fn place_of(window: Window, object: &str, part: u32) -> String {
    let hash = digest::sha256(object.as_bytes());
    let hash = &hash[..HASH_DIGITS];
    match part {
        0 => format!("{window}#{hash}"),
        part => format!("{window}#{hash}#{part}"),
    }
}

fn key(owner: &str, delivery: String) -> Item {
    [("object", owner.to_owned()), ("delivery", delivery)]
        .map(|(name, value)| (name.to_owned(), text(value)))
        .into()
}

fn string<'a>(item: &'a Item, name: &str) -> Option<&'a String> {
    item.get(name)?.as_s().ok()
}

/// Reads an item. `None` if it is not what [`DynamoDbCounts::put`] writes.
fn counts(item: &Item) -> Option<(Object, WindowCounts)> {
    let mut parts = string(item, "delivery")?.split('#');
    let start: jiff::Timestamp = parts.next()?.parse().ok()?;
    let part = parts.nth(1).map_or(Some(0), |part| part.parse().ok())?;
    let streams: BTreeMap<String, (u64, u64)> = serde_json::from_str(string(item, "counts")?).ok()?;
    let streams = streams.into_iter().map(|(stream, (events, bytes))| (stream, Count { events, bytes }));
    let counts = WindowCounts {
        window: Window::of(start.as_millisecond()),
        part,
        place: string(item, "place")?.clone(),
        streams: streams.collect(),
        rejected: item.get("rejected")?.as_n().ok()?.parse().ok()?,
    };
    Some((string(item, "origin")?.clone(), counts))
}

fn fix<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>, needed: &str) -> &'static str {
    match (error.code(), needed) {
        (Some("ResourceNotFoundException"), _) => "; correct ledger.table or aws.region",
        (Some("AccessDeniedException"), "dynamodb:Query") => "; allow dynamodb:Query on the table",
        (Some("AccessDeniedException"), _) => "; allow the worker's role dynamodb:UpdateItem on the table",
        (Some("ValidationException"), _) => "; the table's key must be object (S) + delivery (S)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_delivery_do_not_mix_with_others_and_are_in_the_order_of_windows() {
        assert_eq!(owner("acme", "cloudwatch#x"), "shadow#acme/cloudwatch#x");
        let first = place_of(Window::of(1_795_824_000_000), "b/k?eTag=e", 0);
        assert_eq!(first, format!("2026-11-28T00:00:00Z#{}", &digest::sha256(b"b/k?eTag=e")[..32]));
        assert_eq!(place_of(Window::of(1_795_824_299_999), "b/k?eTag=e", 0), first);
        let second = place_of(Window::of(1_795_824_300_000), "b/a?eTag=e", 7);
        assert!(second > first && second.ends_with("#7"), "{second}");
        assert!(*Window::of(1_795_824_000_000).to_string() < *first, "a read begins before the first item");
    }

    #[test]
    fn an_item_of_another_form_is_not_read() {
        let item = |counts: &str| -> Item {
            let texts = [
                ("delivery", "2026-11-28T00:00:00Z#ab"),
                ("place", "/g"),
                ("counts", counts),
                ("origin", "b/k?eTag=e"),
            ];
            let mut item: Item = texts.map(|(name, value)| (name.to_owned(), text(value.to_owned()))).into();
            item.insert("rejected".to_owned(), AttributeValue::N("3".to_owned()));
            item
        };
        let (object, read) = counts(&item(r#"{"s":[2,90]}"#)).expect("this is what logferry writes");
        assert_eq!(object, "b/k?eTag=e");
        assert_eq!((read.part, read.rejected, &*read.place), (0, 3, "/g"));
        assert_eq!(read.streams, BTreeMap::from([("s".to_owned(), Count { events: 2, bytes: 90 })]));
        assert_eq!(counts(&item(r#"{"s":[2]}"#)), None);
        assert_eq!(counts(&Item::new()), None);
    }
}
