//! Tables: their keys, capacity and time to live.

use aws_sdk_dynamodb::types::{BillingMode, TimeToLiveStatus};

use super::{Unread, Wiring};

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Names and types of the key's attributes: the hash key, then the range key.
    pub key: Vec<(String, String)>,
    /// `ACTIVE`, if the table can be used.
    pub status: String,
    /// Read and write units per second. `None`: the table is on demand.
    pub provisioned: Option<(i64, i64)>,
}

impl Wiring {
    /// Describes a table.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn table(&self, name: &str) -> Result<Table, Unread> {
        let answer = self.dynamodb.describe_table().table_name(name).send().await;
        let table = answer.map_err(|error| Unread::of("dynamodb:DescribeTable", &error))?.table;
        let table = table.ok_or_else(|| Unread::Unavailable("the answer has no table".to_owned()))?;
        let type_of = |name: &str| {
            let definition = table.attribute_definitions().iter().find(|of| of.attribute_name() == name);
            definition.map(|of| of.attribute_type().as_str().to_owned()).unwrap_or_default()
        };
        let key = table.key_schema().iter().map(|of| of.attribute_name());
        let key = key.map(|name| (name.to_owned(), type_of(name))).collect();
        let mode = table.billing_mode_summary().and_then(|summary| summary.billing_mode());
        let units = table.provisioned_throughput().map(|units| {
            (units.read_capacity_units().unwrap_or(0), units.write_capacity_units().unwrap_or(0))
        });
        // An old table without a summary is provisioned.
        let provisioned = units.filter(|_| mode != Some(&BillingMode::PayPerRequest));
        let status = table.table_status().map(|status| status.as_str().to_owned());
        Ok(Table { key, status: status.unwrap_or_default(), provisioned })
    }

    /// The attribute of a table's time to live, if it is on.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn time_to_live(&self, name: &str) -> Result<Option<String>, Unread> {
        let answer = self.dynamodb.describe_time_to_live().table_name(name).send().await;
        let found = answer.map_err(|error| Unread::of("dynamodb:DescribeTimeToLive", &error))?;
        Ok(found.time_to_live_description.and_then(|found| match found.time_to_live_status {
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => found.attribute_name,
            _ => None,
        }))
    }
}
