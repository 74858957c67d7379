use serde_json::{Value, json};

use super::*;
use crate::requests::{calling, json_body, refused, root, session};

pub(super) const ACCOUNT: &str = "111111111111";

pub(super) async fn ask_as(
    cloud: &Arc<Cloud>,
    account: &str,
    operation: &str,
    body: &Value,
) -> Result<Value, AwsError> {
    let call = calling(root(account), operation, body.to_string());
    Ok(json_body(cloud.dynamodb.handle(cloud, &call).await?).await)
}

/// Makes a call on the table `ledger` with these members.
pub(super) async fn ask(cloud: &Arc<Cloud>, operation: &str, members: Value) -> Result<Value, AwsError> {
    let mut body = json!({ "TableName": "ledger" });
    for (name, value) in members.as_object().expect("an object") {
        body[name] = value.clone();
    }
    ask_as(cloud, ACCOUNT, operation, &body).await
}

fn schema() -> Value {
    json!({
        "AttributeDefinitions": [
            { "AttributeName": "object", "AttributeType": "S" },
            { "AttributeName": "delivery", "AttributeType": "S" },
        ],
        "KeySchema": [
            { "AttributeName": "object", "KeyType": "HASH" },
            { "AttributeName": "delivery", "KeyType": "RANGE" },
        ],
        "BillingMode": "PAY_PER_REQUEST",
    })
}

pub(super) async fn cloud_with_table() -> Arc<Cloud> {
    let cloud = Arc::<Cloud>::default();
    ask(&cloud, "CreateTable", schema()).await.expect("a new table");
    cloud
}

pub(super) fn key(object: &str, delivery: &str) -> Value {
    json!({ "object": { "S": object }, "delivery": { "S": delivery } })
}

#[tokio::test]
async fn tables_are_created() {
    let cloud = cloud_with_table().await;
    refused(
        ask(&cloud, "CreateTable", schema()).await,
        "ResourceInUseException",
        "Table already exists: ledger",
    );
    let missing = "ResourceNotFoundException";
    let body = json!({ "TableName": "ledger", "Key": key("o", "d") });
    let elsewhere = ask_as(&cloud, "222222222222", "GetItem", &body).await;
    refused(elsewhere, missing, "Requested resource not found");
}

#[tokio::test]
async fn table_definitions_are_checked() {
    let cloud = Arc::<Cloud>::default();
    let with = |member: &str, value: Value| {
        let mut body = schema();
        body[member] = value;
        body
    };
    let invalid = "ValidationException";
    for (body, message) in [
        (with("TableName", json!("a")), "TableName must be at least 3"),
        (with("TableName", json!("a b c")), "regular expression"),
        (with("KeySchema", json!([])), "Invalid KeySchema"),
        (with("AttributeDefinitions", json!([])), "Number of attributes in KeySchema"),
        (with("BillingMode", json!("FREE")), "enum value set: [PROVISIONED, PAY_PER_REQUEST]"),
    ] {
        refused(ask(&cloud, "CreateTable", body).await, invalid, message);
    }
    for not_covered in [
        with("GlobalSecondaryIndexes", json!([{}])),
        with("BillingMode", Value::Null),
        with(
            "AttributeDefinitions",
            json!([
                { "AttributeName": "object", "AttributeType": "N" },
                { "AttributeName": "delivery", "AttributeType": "S" },
            ]),
        ),
    ] {
        assert_eq!(ask(&cloud, "CreateTable", not_covered).await.expect_err("not covered").status, 501);
    }
    assert_eq!(ask(&cloud, "BatchWriteItem", json!({})).await.expect_err("not covered").status, 501);
}

#[tokio::test]
async fn time_to_live_is_stored() {
    let cloud = cloud_with_table().await;
    let enable = json!({ "TimeToLiveSpecification": { "Enabled": true, "AttributeName": "expires_at" } });
    ask(&cloud, "UpdateTimeToLive", enable.clone()).await.expect("the time to live was off");
    let again = ask(&cloud, "UpdateTimeToLive", enable).await;
    refused(again, "ValidationException", "TimeToLive is already enabled");
    let described = async || ask(&cloud, "DescribeTimeToLive", json!({})).await.expect("the table exists");
    let on = json!({ "TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at" });
    assert_eq!(described().await, json!({ "TimeToLiveDescription": on }));
    let disable = |name| json!({ "TimeToLiveSpecification": { "Enabled": false, "AttributeName": name } });
    let other = ask(&cloud, "UpdateTimeToLive", disable("until")).await;
    refused(other, "ValidationException", "active on a different AttributeName");
    ask(&cloud, "UpdateTimeToLive", disable("expires_at")).await.expect("the time to live was on");
    assert_eq!(described().await, json!({ "TimeToLiveDescription": { "TimeToLiveStatus": "DISABLED" } }));
    refused(
        ask(&cloud, "UpdateTimeToLive", disable("expires_at")).await,
        "ValidationException",
        "already disabled",
    );
}

#[tokio::test]
async fn a_table_is_described_by_its_key() {
    let cloud = cloud_with_table().await;
    let described = ask(&cloud, "DescribeTable", json!({})).await.expect("the table exists");
    let table = &described["Table"];
    assert_eq!(table["KeySchema"], schema()["KeySchema"]);
    assert_eq!(table["AttributeDefinitions"], schema()["AttributeDefinitions"]);
    assert_eq!(
        (&table["TableStatus"], &table["BillingModeSummary"]["BillingMode"]),
        (&json!("ACTIVE"), &json!("PAY_PER_REQUEST"))
    );
    let missing = ask_as(&cloud, ACCOUNT, "DescribeTable", &json!({ "TableName": "missing" })).await;
    refused(missing, "ResourceNotFoundException", "Requested resource not found");
}

#[tokio::test]
async fn items_are_put_read_and_deleted() {
    let cloud = cloud_with_table().await;
    let mut item = key("o", "d");
    item["n"] = json!({ "N": "+01" });
    let put = json!({ "Item": item, "ReturnValues": "ALL_OLD" });
    assert_eq!(ask(&cloud, "PutItem", put.clone()).await.expect("valid"), json!({}));
    item["n"] = json!({ "N": "1" });
    let get = json!({ "Key": key("o", "d"), "ConsistentRead": true });
    assert_eq!(ask(&cloud, "GetItem", get.clone()).await.expect("valid"), json!({ "Item": item }));
    assert_eq!(ask(&cloud, "PutItem", put).await.expect("valid"), json!({ "Attributes": item }));
    let delete = json!({ "Key": key("o", "d"), "ReturnValues": "ALL_OLD" });
    assert_eq!(
        ask(&cloud, "DeleteItem", delete.clone()).await.expect("valid"),
        json!({ "Attributes": item })
    );
    assert_eq!(ask(&cloud, "DeleteItem", delete).await.expect("valid"), json!({}));
    assert_eq!(ask(&cloud, "GetItem", get).await.expect("valid"), json!({}));
}

#[tokio::test]
async fn items_and_keys_are_checked() {
    let cloud = cloud_with_table().await;
    let invalid = "ValidationException";
    for (item, message) in [
        (json!({ "object": { "S": "o" } }), "Missing the key delivery in the item"),
        (
            json!({ "object": { "S": "o" }, "delivery": { "N": "1" } }),
            "Type mismatch for key delivery expected: S actual: N",
        ),
        (key("", "d"), "cannot contain an empty string value. Key: object"),
        (key(&"x".repeat(2049), "d"), "Size of hashkey has exceeded"),
        (key("o", &"x".repeat(1025)), "Size of rangekey has exceeded"),
        (json!({ "object": {} }), "Supplied AttributeValue is empty"),
    ] {
        refused(ask(&cloud, "PutItem", json!({ "Item": item })).await, invalid, message);
    }
    for wrong in
        [json!({ "object": { "S": "o" } }), json!({ "object": { "S": "o" }, "delivery": { "N": "1" } })]
    {
        let answer = ask(&cloud, "GetItem", json!({ "Key": wrong })).await;
        refused(answer, invalid, "The provided key element does not match the schema");
    }
    refused(ask(&cloud, "GetItem", json!({})).await, invalid, "Value null at 'key'");

    // An item's size counts names and values: 6 + 1 + 8 + 1 + 1 bytes besides the text of `b`.
    let mut item = key("o", "d");
    item["b"] = json!({ "S": "x".repeat(400 * 1024 - 17) });
    ask(&cloud, "PutItem", json!({ "Item": item })).await.expect("exactly full");
    let grow = json!({
        "Key": key("o", "d"), "UpdateExpression": "SET c = :c", "ExpressionAttributeValues": { ":c": { "S": "" } },
    });
    refused(ask(&cloud, "UpdateItem", grow).await, invalid, "Item size to update has exceeded");
    item["b"] = json!({ "S": "x".repeat(400 * 1024 - 16) });
    refused(ask(&cloud, "PutItem", json!({ "Item": item })).await, invalid, "Item size has exceeded");
}

#[tokio::test]
async fn a_lease_is_taken_once() {
    let cloud = cloud_with_table().await;
    let take = |owner: &str, now: u32| {
        json!({
            "Key": key("o", "d"),
            "UpdateExpression": "SET lease_owner = :me, lease_until = :until",
            "ConditionExpression":
                "attribute_not_exists(done) AND (attribute_not_exists(lease_owner) OR lease_owner = :me OR lease_until < :now)",
            "ExpressionAttributeValues": {
                ":me": { "S": owner }, ":now": { "N": now.to_string() },
                ":until": { "N": (now + 60).to_string() },
            },
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        })
    };
    let taken = ask(&cloud, "UpdateItem", take("a", 100)).await.expect("no worker has it");
    assert_eq!(taken["Attributes"]["lease_until"], json!({ "N": "160" }));
    assert_eq!(taken["Attributes"]["object"], json!({ "S": "o" }));
    let error = ask(&cloud, "UpdateItem", take("b", 160)).await.expect_err("a has it");
    assert_eq!(error.code, "ConditionalCheckFailedException");
    assert_eq!(error.message, "The conditional request failed");
    let (member, item) = error.members.first().expect("the item as it is");
    assert_eq!((member.as_str(), &item["lease_owner"]), ("Item", &json!({ "S": "a" })));

    let advance = json!({
        "Key": key("o", "d"), "UpdateExpression": "SET #offset = :n REMOVE lease_until",
        "ExpressionAttributeNames": { "#offset": "offset" },
        "ExpressionAttributeValues": { ":n": { "N": "250" } }, "ReturnValues": "ALL_NEW",
    });
    let advanced = ask(&cloud, "UpdateItem", advance).await.expect("valid");
    assert_eq!(advanced["Attributes"]["offset"], json!({ "N": "250" }));
    assert!(advanced["Attributes"].get("lease_until").is_none());
    // Without lease_until the third alternative does not hold.
    refused(ask(&cloud, "UpdateItem", take("b", 900)).await, "ConditionalCheckFailedException", "");
    let kept = ask(&cloud, "UpdateItem", take("a", 161)).await.expect("a may renew");
    assert_eq!(kept["Attributes"]["offset"], json!({ "N": "250" }));
}

#[tokio::test]
async fn conditions_guard_puts_and_deletes() {
    let cloud = cloud_with_table().await;
    let put = |version: u32| {
        let mut item = key("o", "d");
        item["version"] = json!({ "N": version.to_string() });
        json!({ "Item": item, "ConditionExpression": "attribute_not_exists(delivery)" })
    };
    ask(&cloud, "PutItem", put(1)).await.expect("not there yet");
    let error = ask(&cloud, "PutItem", put(2)).await.expect_err("there by now");
    assert_eq!((error.code.as_str(), error.members.len()), ("ConditionalCheckFailedException", 0));
    let delete = |version: &str| {
        json!({
            "Key": key("o", "d"), "ConditionExpression": "version = :v",
            "ExpressionAttributeValues": { ":v": { "N": version } },
        })
    };
    refused(ask(&cloud, "DeleteItem", delete("2")).await, "ConditionalCheckFailedException", "");
    ask(&cloud, "DeleteItem", delete("01")).await.expect("numbers compare as numbers");
}

#[tokio::test]
async fn placeholders_must_be_used_and_defined() {
    let cloud = cloud_with_table().await;
    let update = |more: Value| {
        let mut body = json!({ "Key": key("o", "d") });
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        ask(&cloud, "UpdateItem", body)
    };
    for (members, message) in [
        (
            json!({ "UpdateExpression": "REMOVE a", "ExpressionAttributeValues": { ":a": { "N": "1" } } }),
            "Value provided in ExpressionAttributeValues unused in expressions: keys: {:a}",
        ),
        (
            json!({ "UpdateExpression": "REMOVE a", "ExpressionAttributeNames": { "#a": "a", "#b": "b" } }),
            "Value provided in ExpressionAttributeNames unused in expressions: keys: {#a, #b}",
        ),
        (
            json!({ "ExpressionAttributeNames": { "#a": "a" } }),
            "ExpressionAttributeNames can only be specified when using expressions: \
             UpdateExpression and ConditionExpression are null",
        ),
        (
            json!({ "UpdateExpression": "REMOVE a", "ExpressionAttributeValues": {} }),
            "ExpressionAttributeValues must not be empty",
        ),
        (
            json!({ "UpdateExpression": "REMOVE a", "ExpressionAttributeNames": { "a": "b" } }),
            "ExpressionAttributeNames contains invalid key: Syntax error; key: \"a\"",
        ),
        (
            json!({ "UpdateExpression": "SET a = :a", "ExpressionAttributeValues": { ":a": { "SS": [] } } }),
            "ExpressionAttributeValues contains invalid value: One or more parameter values were invalid: \
             An string set  may not be empty for key :a",
        ),
        (json!({ "UpdateExpression": "REMOVE delivery" }), "Cannot update attribute delivery"),
        (json!({ "ReturnValues": "SOME" }), "'returnValues' failed to satisfy constraint"),
    ] {
        refused(update(members).await, "ValidationException", message);
    }
    let old = json!({ "AttributeUpdates": {} });
    assert_eq!(update(old).await.expect_err("not covered").status, 501);
    assert_eq!(update(json!({})).await.expect("creates the item"), json!({}));
    assert!(
        ask(&cloud, "GetItem", json!({ "Key": key("o", "d") })).await.expect("valid")["Item"].is_object()
    );
}

/// Range keys of the items in an answer, joined.
fn deliveries(answer: &Value) -> String {
    let items = answer["Items"].as_array().expect("items");
    items
        .iter()
        .map(|item| item["delivery"]["S"].as_str().expect("a range key"))
        .collect::<Vec<_>>()
        .join(" ")
}

async fn cloud_with_items() -> Arc<Cloud> {
    let cloud = cloud_with_table().await;
    for (object, delivery) in [("o", "s3#b"), ("o", "cw#a"), ("o", "s3#a"), ("p", "cw#a"), ("n", "z")] {
        let mut item = key(object, delivery);
        item["enabled"] = json!({ "BOOL": delivery != "s3#b" });
        ask(&cloud, "PutItem", json!({ "Item": item })).await.expect("valid");
    }
    cloud
}

fn query(condition: &str, values: Value, more: Value) -> Value {
    let mut body = json!({
        "KeyConditionExpression": condition, "ExpressionAttributeNames": { "#o": "object" },
        "ExpressionAttributeValues": values,
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn queries_read_one_hash_key_in_order() {
    let cloud = cloud_with_items().await;
    let found = async |hash: &str| {
        let body = query("#o = :o", json!({ ":o": { "S": hash } }), json!({}));
        deliveries(&ask(&cloud, "Query", body).await.expect("valid"))
    };
    assert_eq!(found("o").await, "cw#a s3#a s3#b");
    assert_eq!(found("x").await, "");
}

#[tokio::test]
async fn key_conditions_are_checked() {
    let cloud = cloud_with_items().await;
    for (condition, values, message) in [
        ("#o < :o", json!({ ":o": { "S": "o" } }), "Query key condition not supported"),
        ("#o = :o", json!({ ":o": { "N": "1" } }), "Condition parameter type does not match schema type"),
        ("#o = :o", json!({ ":o": { "S": "" } }), "cannot contain an empty string value. Key: object"),
        ("attribute_exists(#o)", json!({ ":o": { "S": "o" } }), "unused in expressions"),
        ("object = :o", json!({ ":o": { "S": "o" } }), "reserved keyword: object"),
    ] {
        let answer = ask(&cloud, "Query", query(condition, values, json!({}))).await;
        refused(answer, "ValidationException", message);
    }
    let range_alone = json!({
        "KeyConditionExpression": "delivery = :d", "ExpressionAttributeValues": { ":d": { "S": "cw#a" } },
    });
    refused(
        ask(&cloud, "Query", range_alone).await,
        "ValidationException",
        "missed key schema element: object",
    );
    let filter = query("#o = :o", json!({ ":o": { "S": "o" } }), json!({ "FilterExpression": "a = :o" }));
    assert_eq!(ask(&cloud, "Query", filter).await.expect_err("not covered").status, 501);
    let index = query("#o = :o", json!({ ":o": { "S": "o" } }), json!({ "IndexName": "i" }));
    assert_eq!(ask(&cloud, "Query", index).await.expect_err("not covered").status, 501);
    refused(ask(&cloud, "Query", json!({})).await, "ValidationException", "must be specified");
}

#[tokio::test]
async fn the_next_page_begins_after_the_last_key() {
    let cloud = cloud_with_items().await;
    let (mut seen, mut start) = (Vec::new(), Value::Null);
    loop {
        let more = json!({ "Limit": 1, "ExclusiveStartKey": start });
        let body = query("#o = :o", json!({ ":o": { "S": "o" } }), more);
        let page = ask(&cloud, "Query", body).await.expect("valid");
        if page["ScannedCount"] == 0 {
            assert!(page.get("LastEvaluatedKey").is_none());
            break;
        }
        seen.push(deliveries(&page));
        start = page["LastEvaluatedKey"].clone();
        assert_eq!(start, key("o", seen.last().expect("one was pushed")));
    }
    assert_eq!(seen.join(" "), "cw#a s3#a s3#b");
    let outside = json!({ "ExclusiveStartKey": key("p", "cw#a") });
    let answer = ask(&cloud, "Query", query("#o = :o", json!({ ":o": { "S": "o" } }), outside)).await;
    refused(answer, "ValidationException", "outside query boundaries");
    refused(ask(&cloud, "Scan", json!({ "Limit": 0 })).await, "ValidationException", "'limit'");
}

#[tokio::test]
async fn a_page_holds_a_megabyte() {
    let cloud = cloud_with_table().await;
    for delivery in ["1", "2", "3", "4", "5"] {
        let mut item = key("o", delivery);
        item["blob"] = json!({ "S": "x".repeat(300 * 1024) });
        ask(&cloud, "PutItem", json!({ "Item": item })).await.expect("valid");
    }
    let first = ask(&cloud, "Scan", json!({})).await.expect("valid");
    assert_eq!(deliveries(&first), "1 2 3");
    let rest = json!({ "ExclusiveStartKey": first["LastEvaluatedKey"] });
    let second = ask(&cloud, "Scan", rest).await.expect("valid");
    assert_eq!(deliveries(&second), "4 5");
    assert!(second.get("LastEvaluatedKey").is_none());
}

#[tokio::test]
async fn scans_see_every_hash_key() {
    let cloud = cloud_with_items().await;
    let all = ask(&cloud, "Scan", json!({})).await.expect("valid");
    assert_eq!((&all["Count"], &all["ScannedCount"]), (&json!(5), &json!(5)));
    let filter = json!({
        "FilterExpression": "begins_with(delivery, :p) AND NOT enabled = :t",
        "ExpressionAttributeValues": { ":p": { "S": "s3#" }, ":t": { "BOOL": true } },
    });
    let found = ask(&cloud, "Scan", filter).await.expect("valid");
    assert_eq!(
        (deliveries(&found).as_str(), &found["Count"], &found["ScannedCount"]),
        ("s3#b", &json!(1), &json!(5))
    );
}

#[tokio::test]
async fn a_session_without_a_policy_is_denied() {
    let cloud = cloud_with_table().await;
    let call = calling(session(ACCOUNT, "r"), "Scan", r#"{"TableName":"ledger"}"#);
    let error = cloud.dynamodb.handle(&cloud, &call).await.expect_err("nothing allows it");
    assert_eq!((error.status, error.code.as_str()), (403, "AccessDenied"));
    let what = format!("dynamodb:Scan on resource: arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/ledger");
    assert!(error.message.contains(&what), "{}", error.message);
}
