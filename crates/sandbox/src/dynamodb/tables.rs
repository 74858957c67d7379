//! The calls on tables: CreateTable, DescribeTable, DeleteTable, UpdateTimeToLive, DescribeTimeToLive.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;
use serde_json::json;

use super::table::{HASH_KEY_BYTES, KeyAttribute, RANGE_KEY_BYTES, Table};
use super::{DynamoDb, Rest, address, choice, read, refuse_rest, table_arn, validation};
use crate::call::{Answer, AwsError, Call, Reply};
use crate::cloud::Cloud;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateTable {
    #[serde(default)]
    attribute_definitions: Vec<AttributeDefinition>,
    #[serde(default)]
    key_schema: Vec<KeySchemaElement>,
    billing_mode: Option<String>,
    provisioned_throughput: Option<ProvisionedThroughput>,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AttributeDefinition {
    attribute_name: String,
    attribute_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeySchemaElement {
    attribute_name: String,
    key_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProvisionedThroughput {
    read_capacity_units: u64,
    write_capacity_units: u64,
}

#[derive(Deserialize)]
struct NoMembers {
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateTimeToLive {
    time_to_live_specification: TimeToLiveSpecification,
    #[serde(flatten)]
    rest: Rest,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TimeToLiveSpecification {
    enabled: bool,
    attribute_name: String,
}

impl DynamoDb {
    pub(super) fn create_table(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request): (_, CreateTable) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let (hash, range) = key_schema(&request)?;
        let mode =
            choice(request.billing_mode.as_deref(), "billingMode", &["PROVISIONED", "PAY_PER_REQUEST"])?;
        let provisioned = match (mode, request.provisioned_throughput) {
            ("PAY_PER_REQUEST", None) => None,
            ("PAY_PER_REQUEST", Some(_)) => {
                return Err(invalid(
                    "Neither ReadCapacityUnits nor WriteCapacityUnits can be specified when BillingMode is \
                     PAY_PER_REQUEST",
                ));
            }
            (_, Some(units)) => Some((units.read_capacity_units, units.write_capacity_units)),
            (_, None) => {
                return Err(invalid(
                    "ReadCapacityUnits and WriteCapacityUnits must both be specified when BillingMode is \
                     PROVISIONED",
                ));
            }
        };
        let table = Table {
            arn: table_arn(call, &name),
            id: table_id(),
            created: jiff::Timestamp::now().as_millisecond() as f64 / 1000.0,
            hash,
            range,
            provisioned,
            time_to_live: None,
            items: BTreeMap::new(),
        };
        match self.lock().entry(address(call, &name)) {
            Entry::Occupied(_) => {
                Err(AwsError::new(400, "ResourceInUseException", format!("Table already exists: {name}")))
            }
            Entry::Vacant(place) => {
                let table = place.insert(table);
                Ok(Reply::json(&json!({ "TableDescription": table.describe(&name, "ACTIVE") })))
            }
        }
    }

    pub(super) fn describe_table(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request): (_, NoMembers) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let tables = self.lock();
        let table = tables.get(&address(call, &name)).ok_or_else(|| no_such_table(&name))?;
        Ok(Reply::json(&json!({ "Table": table.describe(&name, "ACTIVE") })))
    }

    pub(super) fn delete_table(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request): (_, NoMembers) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let table = self.lock().remove(&address(call, &name)).ok_or_else(|| no_such_table(&name))?;
        Ok(Reply::json(&json!({ "TableDescription": table.describe(&name, "DELETING") })))
    }

    pub(super) fn update_time_to_live(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request): (_, UpdateTimeToLive) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let TimeToLiveSpecification { enabled, attribute_name } = request.time_to_live_specification;
        if !(1..=255).contains(&attribute_name.len()) {
            return Err(validation("TimeToLive attributeName must be 1 to 255 characters long"));
        }
        let mut tables = self.lock();
        let table = tables.get_mut(&address(call, &name)).ok_or_else(|| no_such_table(&name))?;
        match (&table.time_to_live, enabled) {
            (Some(_), true) => return Err(validation("TimeToLive is already enabled")),
            (None, false) => return Err(validation("TimeToLive is already disabled")),
            (Some(present), false) if *present != attribute_name => {
                return Err(validation(format!(
                    "TimeToLive is active on a different AttributeName: current AttributeName is {present}"
                )));
            }
            _ => {}
        }
        table.time_to_live = enabled.then(|| attribute_name.clone());
        Ok(Reply::json(&json!({
            "TimeToLiveSpecification": { "Enabled": enabled, "AttributeName": attribute_name },
        })))
    }

    pub(super) fn describe_time_to_live(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request): (_, NoMembers) = read(cloud, call)?;
        refuse_rest(call, &request.rest)?;
        let tables = self.lock();
        let table = tables.get(&address(call, &name)).ok_or_else(|| no_such_table(&name))?;
        let description = match &table.time_to_live {
            Some(attribute) => json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": attribute }),
            None => json!({ "TimeToLiveStatus": "DISABLED" }),
        };
        Ok(Reply::json(&json!({ "TimeToLiveDescription": description })))
    }
}

fn key_schema(request: &CreateTable) -> Result<(KeyAttribute, Option<KeyAttribute>), AwsError> {
    let (hash, range) = match request.key_schema.as_slice() {
        [hash] if hash.key_type == "HASH" => (hash, None),
        [hash, range] if hash.key_type == "HASH" && range.key_type == "RANGE" => (hash, Some(range)),
        _ => {
            return Err(invalid(
                "Invalid KeySchema: the first element must be of KeyType HASH, a second one of KeyType RANGE",
            ));
        }
    };
    if range.is_some_and(|range| range.attribute_name == hash.attribute_name) {
        return Err(validation(
            "Both the Hash Key and the Range Key element in the KeySchema have the same name",
        ));
    }
    if request.attribute_definitions.len() != request.key_schema.len() {
        return Err(invalid(
            "Number of attributes in KeySchema does not exactly match number of attributes defined in \
             AttributeDefinitions",
        ));
    }
    let attribute = |element: &KeySchemaElement, max_bytes| {
        let name = element.attribute_name.clone();
        let definition =
            request.attribute_definitions.iter().find(|definition| definition.attribute_name == name);
        let definition = definition.ok_or_else(|| {
            invalid(&format!(
                "Some index key attributes are not defined in AttributeDefinitions. Keys: [{name}]"
            ))
        })?;
        let kind = choice(Some(&definition.attribute_type), "attributeType", &["S", "N", "B"])?;
        Ok(KeyAttribute { name, kind, max_bytes })
    };
    Ok((attribute(hash, HASH_KEY_BYTES)?, range.map(|range| attribute(range, RANGE_KEY_BYTES)).transpose()?))
}

fn invalid(message: &str) -> AwsError {
    validation(format!("One or more parameter values were invalid: {message}"))
}

fn no_such_table(name: &str) -> AwsError {
    AwsError::new(
        400,
        "ResourceNotFoundException",
        format!("Requested resource not found: Table: {name} not found"),
    )
}

/// A random id in the form of a UUID.
fn table_id() -> String {
    let hex = format!("{:032x}", fastrand::u128(..));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}
