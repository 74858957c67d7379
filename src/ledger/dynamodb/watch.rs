//! Places of watches in the ledger's table.
//!
//! | Attribute | Type | Meaning |
//! |---|---|---|
//! | `object`, `delivery` | S, S | the key: `logferry/watch`, and the SHA-256 of the watch's name |
//! | `watch` | S | the watch's name |
//! | `place` | N | LastModified in epoch milliseconds: every older object has been dealt with |
//!
//! The items have no `expires_at`, so the table's time to live keeps them. Both calls are UpdateItem, like all calls of the
//! ledger, so a watch needs no further permission.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use jiff::Timestamp;

use super::{DynamoDbLedger, EntryKey, condition_failed, words};
use crate::{
    digest,
    ledger::{
        LedgerError,
        watch::{Watch, WatchPlaces},
    },
};

/// No entry has this object, because an entry's object ends with a version or an eTag.
const OBJECT: &str = "logferry/watch";

fn key(watch: &Watch) -> EntryKey {
    EntryKey { object: OBJECT.to_owned(), delivery: digest::sha256(watch.0.as_bytes()) }
}

impl WatchPlaces for DynamoDbLedger {
    async fn place(&self, watch: &Watch) -> Result<Option<Timestamp>, LedgerError> {
        let key = key(watch);
        let update = self.update(&key).update_expression("SET watch = :watch");
        let update = update.expression_attribute_values(":watch", AttributeValue::S(watch.0.clone()));
        let output = update.return_values(ReturnValue::AllNew).send().await;
        let item = output.map_err(|error| self.failed(&error))?.attributes.unwrap_or_default();
        let Some(value) = item.get("place") else { return Ok(None) };
        let place = value.as_n().ok().and_then(|digits| digits.parse().ok());
        let place = place.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        place.map(Some).ok_or_else(|| {
            let (table, EntryKey { object, delivery }) = (&self.settings.table, key);
            let value = words(value);
            LedgerError::Unreadable(format!(
                "table {table:?}: place of object {object:?}, delivery {delivery:?} is {value}, not a time in milliseconds; delete \
                 the item and start the watch with --since"
            ))
        })
    }

    async fn advance(&self, watch: &Watch, to: Timestamp) -> Result<(), LedgerError> {
        let update = self.update(&key(watch)).update_expression("SET watch = :watch, place = :place");
        let update = update
            .condition_expression("attribute_not_exists(place) OR place < :place")
            .expression_attribute_values(":watch", AttributeValue::S(watch.0.clone()))
            .expression_attribute_values(":place", AttributeValue::N(to.as_millisecond().to_string()));
        match update.send().await {
            Ok(_) => Ok(()),
            Err(error) if condition_failed(&error) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use logferry_sandbox::Sandbox;
    use logferry_testbed::provision::{Aws, Provider, ProviderSpec};

    use super::*;
    use crate::ledger::dynamodb::LedgerSettings;

    #[tokio::test]
    async fn a_place_only_moves_forward() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("w")).await.expect("the provider can be set up");
        let settings = LedgerSettings {
            table: provider.ledger_table.clone(),
            lease: Duration::from_secs(60),
            max_clock_skew: Duration::ZERO,
            retention: Duration::from_secs(3600),
            pace: Duration::from_millis(10),
        };
        let account = aws.account(&provider.account);
        let (client, ledger) =
            (account.dynamodb(), DynamoDbLedger::new(&account.sdk_config().into(), settings));
        let (one, other) = (Watch("one".to_owned()), Watch("other".to_owned()));
        let at = |millis| Timestamp::from_millisecond(millis).expect("a time");
        assert_eq!(ledger.place(&one).await, Ok(None));
        for (to, place) in [(2_000, 2_000), (1_000, 2_000), (2_000, 2_000), (3_500, 3_500)] {
            assert_eq!(ledger.advance(&one, at(to)).await, Ok(()));
            assert_eq!(ledger.place(&one).await, Ok(Some(at(place))));
        }
        assert_eq!(ledger.place(&other).await, Ok(None));
        let key = key(&one);
        let spoilt = client
            .update_item()
            .table_name(&provider.ledger_table)
            .key("object", AttributeValue::S(key.object))
            .key("delivery", AttributeValue::S(key.delivery))
            .update_expression("SET place = :place")
            .expression_attribute_values(":place", AttributeValue::S("soon".to_owned()));
        spoilt.send().await.expect("the item can be changed");
        let error = ledger.place(&one).await.expect_err("no number");
        assert!(matches!(&error, LedgerError::Unreadable(text) if text.contains("place")), "{error}");
    }
}
