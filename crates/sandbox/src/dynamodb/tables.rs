//! Calls on tables: CreateTable, DescribeTable, UpdateTimeToLive and DescribeTimeToLive.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use serde::Deserialize;
use serde_json::json;

use super::table::{HASH_KEY_BYTES, KeyAttribute, RANGE_KEY_BYTES, Table};
use super::{DynamoDb, address, choice, read, table_arn, validation};
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
struct UpdateTimeToLive {
    time_to_live_specification: TimeToLiveSpecification,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TimeToLiveSpecification {
    enabled: bool,
    attribute_name: String,
}

impl DynamoDb {
    pub(super) fn create_table(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request, ()): (_, CreateTable, _) = read(cloud, call)?;
        let (hash, range) = key_schema(&request)?;
        let modes = ["PROVISIONED", "PAY_PER_REQUEST"];
        if choice(request.billing_mode.as_deref(), "billingMode", &modes)? == modes[0] {
            return Err(AwsError::not_implemented("dynamodb", "CreateTable with BillingMode PROVISIONED"));
        }
        match self.lock().entry(address(call, &name)) {
            Entry::Occupied(_) => {
                Err(AwsError::new(400, "ResourceInUseException", format!("Table already exists: {name}")))
            }
            Entry::Vacant(place) => {
                place.insert(Table { hash, range, time_to_live: None, items: BTreeMap::new() });
                Ok(Reply::json(&json!({
                    "TableDescription": { "TableName": name, "TableStatus": "ACTIVE" },
                })))
            }
        }
    }

    pub(super) fn update_time_to_live(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, request, ()): (_, UpdateTimeToLive, _) = read(cloud, call)?;
        let TimeToLiveSpecification { enabled, attribute_name } = request.time_to_live_specification;
        if !(1..=255).contains(&attribute_name.len()) {
            return Err(validation("TimeToLive attributeName must be 1 to 255 characters long"));
        }
        self.with_table(call, &name, |table| {
            match (enabled, &table.time_to_live) {
                (true, Some(_)) => return Err(validation("TimeToLive is already enabled")),
                (false, None) => return Err(validation("TimeToLive is already disabled")),
                (false, Some(other)) if *other != attribute_name => {
                    return Err(validation(format!(
                        "TimeToLive is active on a different AttributeName: current AttributeName is {other}"
                    )));
                }
                _ => {}
            }
            table.time_to_live = enabled.then(|| attribute_name.clone());
            Ok(Reply::json(&json!({
                "TimeToLiveSpecification": { "Enabled": enabled, "AttributeName": attribute_name },
            })))
        })
    }

    pub(super) fn describe_table(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, (), ()) = read(cloud, call)?;
        self.with_table(call, &name, |table| {
            let attributes: Vec<_> = table.key_attributes().map(|attribute| &attribute.name).collect();
            let roles = attributes.iter().zip(["HASH", "RANGE"]);
            let schema: Vec<_> =
                roles.map(|(name, role)| json!({ "AttributeName": name, "KeyType": role })).collect();
            let definition = |name| json!({ "AttributeName": name, "AttributeType": "S" });
            Ok(Reply::json(&json!({ "Table": {
                "TableName": name,
                "TableArn": table_arn(call, &name),
                "TableStatus": "ACTIVE",
                "KeySchema": schema,
                "AttributeDefinitions": attributes.into_iter().map(definition).collect::<Vec<_>>(),
                "BillingModeSummary": { "BillingMode": "PAY_PER_REQUEST" },
                "ProvisionedThroughput": { "ReadCapacityUnits": 0, "WriteCapacityUnits": 0 },
                "ItemCount": table.items.len(),
            }})))
        })
    }

    pub(super) fn describe_time_to_live(&self, cloud: &Cloud, call: &Call) -> Answer {
        let (name, (), ()) = read(cloud, call)?;
        self.with_table(call, &name, |table| {
            let description = match &table.time_to_live {
                Some(name) => json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": name }),
                None => json!({ "TimeToLiveStatus": "DISABLED" }),
            };
            Ok(Reply::json(&json!({ "TimeToLiveDescription": description })))
        })
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
        match choice(Some(&definition.attribute_type), "attributeType", &["S", "N", "B"])? {
            "S" => Ok(KeyAttribute { name, max_bytes }),
            _ => Err(AwsError::not_implemented("dynamodb", "a key attribute that is not a string")),
        }
    };
    Ok((attribute(hash, HASH_KEY_BYTES)?, range.map(|range| attribute(range, RANGE_KEY_BYTES)).transpose()?))
}

fn invalid(message: &str) -> AwsError {
    validation(format!("One or more parameter values were invalid: {message}"))
}
