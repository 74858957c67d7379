//! Looks tenants up in DynamoDB and remembers what it found.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use moka::future::Cache;

use super::{Attribute, Directory, LookupError, Row, Tenant};
use crate::aws::describe;

/// The tenant table behind a cache: bounded, each entry for a fixed time, one lookup at a time per tenant. That there
/// is no such tenant is remembered too.
#[derive(Clone, Debug)]
pub struct TenantTable {
    client: Client,
    table: String,
    cache: Cache<String, Option<Arc<Tenant>>>,
}

impl TenantTable {
    /// Looks up in `table`, remembering up to `capacity` tenants for `ttl` each.
    pub fn new(client: Client, table: String, capacity: u64, ttl: Duration) -> Self {
        Self { client, table, cache: Cache::builder().max_capacity(capacity).time_to_live(ttl).build() }
    }

    /// Finds a tenant; `None` when the table has no row of it.
    ///
    /// # Errors
    /// DynamoDB cannot be reached or refuses; nothing is remembered then.
    ///
    /// # Cancel safety
    /// Safe: a lookup that was dropped is begun anew by the next caller.
    pub async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        self.cache
            .try_get_with_by_ref(tenant_id, self.query(tenant_id))
            .await
            .map_err(|error: Arc<LookupError>| (*error).clone())
    }

    /// Asks the table for a tenant that cannot exist: is it there, and may we read it?
    ///
    /// # Errors
    /// As [`TenantTable::find`].
    pub async fn probe(&self) -> Result<(), LookupError> {
        // No segment of a key can be this: it has a slash.
        self.query("logferry/readiness").await.map(drop)
    }

    async fn query(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("tenant_id = :tenant_id")
            .expression_attribute_values(":tenant_id", AttributeValue::S(tenant_id.to_owned()))
            .into_paginator()
            .items()
            .send();
        let mut rows = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| LookupError {
                tenant_id: tenant_id.to_owned(),
                table: self.table.clone(),
                problem: describe(&error),
            })?;
            // The sort key is always a string: the table's schema says so.
            if let Some(AttributeValue::S(name)) = item.get("type") {
                rows.push((name.clone(), row(&item)));
            }
        }
        Ok(Tenant::from_rows(tenant_id, rows).map(Arc::new))
    }
}

impl Directory for TenantTable {
    async fn find(&self, tenant_id: &str) -> Result<Option<Arc<Tenant>>, LookupError> {
        Self::find(self, tenant_id).await
    }
}

fn row(item: &HashMap<String, AttributeValue>) -> Row {
    item.iter().map(|(name, value)| (name.clone(), attribute(value))).collect()
}

fn attribute(value: &AttributeValue) -> Attribute {
    match value {
        AttributeValue::S(text) => Attribute::Text(text.clone()),
        AttributeValue::N(number) => Attribute::Number(number.clone()),
        AttributeValue::Bool(flag) => Attribute::Bool(*flag),
        AttributeValue::Ss(texts) => Attribute::TextList(texts.clone()),
        AttributeValue::L(values) => {
            let texts: Option<Vec<_>> = values.iter().map(|value| value.as_s().ok().cloned()).collect();
            texts.map_or(Attribute::Other("L of other than S"), Attribute::TextList)
        }
        AttributeValue::M(_) => Attribute::Other("M"),
        AttributeValue::Null(_) => Attribute::Other("NULL"),
        AttributeValue::B(_) => Attribute::Other("B"),
        AttributeValue::Bs(_) => Attribute::Other("BS"),
        AttributeValue::Ns(_) => Attribute::Other("NS"),
        _ => Attribute::Other("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_keep_their_types() {
        let s = |text: &str| AttributeValue::S(text.into());
        for (value, expected) in [
            (s("a"), Attribute::Text("a".into())),
            (AttributeValue::N("7".into()), Attribute::Number("7".into())),
            (AttributeValue::Bool(true), Attribute::Bool(true)),
            (AttributeValue::Ss(vec!["a".into()]), Attribute::TextList(vec!["a".into()])),
            (AttributeValue::L(vec![s("a"), s("b")]), Attribute::TextList(vec!["a".into(), "b".into()])),
            (
                AttributeValue::L(vec![s("a"), AttributeValue::Bool(true)]),
                Attribute::Other("L of other than S"),
            ),
            (AttributeValue::Null(true), Attribute::Other("NULL")),
        ] {
            assert_eq!(attribute(&value), expected);
        }
    }
}
