use std::sync::Arc;

use super::super::tests::{ACCOUNT, ask, ask_as, cloud_with_table, key};
use super::*;
use crate::faults::{ErrorAnswer, Fault};
use crate::requests::{calling, json_body, refused, role_session};

const CONDITION: &str = "WHERE \"object\" = ? AND \"delivery\" = ? AND \"lease_owner\" = ?";

/// The ledger's claim: an entry that must be new.
fn claim(object: &str, owner: &str) -> Value {
    json!({
        "Statement": "INSERT INTO \"ledger\" VALUE {'object': ?, 'delivery': ?, 'lease_owner': ?, 'lease_until': ?}",
        "Parameters": [{ "S": object }, { "S": "d" }, { "S": owner }, { "N": "60" }],
    })
}

/// The ledger's finish: an entry that the owner must have.
fn finish(object: &str, owner: &str) -> Value {
    let changes = "SET \"done\" = ? SET \"records\" = ? REMOVE \"lease_owner\" REMOVE \"lease_until\" REMOVE \"absent\"";
    json!({
        "Statement": format!("UPDATE \"ledger\" {changes} {CONDITION}"),
        "Parameters": [{ "BOOL": true }, { "N": "9" }, { "S": object }, { "S": "d" }, { "S": owner }],
    })
}

fn showing_item(mut statement: Value) -> Value {
    statement["ReturnValuesOnConditionCheckFailure"] = json!("ALL_OLD");
    statement
}

/// Makes the statements in one call and returns their answers.
async fn batch(cloud: &Arc<Cloud>, statements: &[Value]) -> Result<Vec<Value>, AwsError> {
    let answer =
        ask_as(cloud, ACCOUNT, "BatchExecuteStatement", &json!({ "Statements": statements })).await?;
    Ok(answer["Responses"].as_array().expect("a list").clone())
}

/// Makes one statement and returns the code and the message of its error.
async fn error_of(cloud: &Arc<Cloud>, statement: Value) -> (String, String) {
    let answers = batch(cloud, &[statement]).await.expect("only the statement fails");
    let error = &answers[0]["Error"];
    let text = |member: &str| error[member].as_str().expect("every error has it").to_owned();
    (text("Code"), text("Message"))
}

async fn item(cloud: &Arc<Cloud>, object: &str) -> Value {
    ask(cloud, "GetItem", json!({ "Key": key(object, "d") })).await.expect("valid")["Item"].clone()
}

fn made() -> Value {
    json!({ "TableName": "ledger" })
}

fn failed(code: &str, message: &str) -> Value {
    json!({ "Error": { "Code": code, "Message": message }, "TableName": "ledger" })
}

#[tokio::test]
async fn each_statement_has_its_own_answer_in_order() {
    let cloud = cloud_with_table().await;
    let claimed = batch(&cloud, &[claim("1", "me"), claim("2", "me"), claim("3", "other")]).await;
    assert_eq!(claimed.expect("valid"), [made(), made(), made()]);
    let before = item(&cloud, "3").await;
    assert_eq!(before["lease_owner"], json!({ "S": "other" }));

    let unmet = failed("ConditionalCheckFailed", "The conditional request failed");
    let mut unmet_with_item = unmet.clone();
    unmet_with_item["Error"]["Item"] = before.clone();
    let malformed = json!({ "Statement": "UPDATE \"ledger\"" });
    let statements = [
        finish("1", "me"),
        claim("2", "later"),
        finish("3", "me"),
        malformed,
        showing_item(finish("4", "me")),
        claim("5", "me"),
    ];
    let mut answers = batch(&cloud, &statements).await.expect("valid");
    assert_eq!(answers.remove(3)["Error"]["Code"], "ValidationError");
    let duplicate = failed("DuplicateItem", "Duplicate primary key exists in table");
    assert_eq!(answers, [made(), duplicate, unmet.clone(), unmet, made()]);
    assert_eq!(batch(&cloud, &[showing_item(finish("3", "me"))]).await.expect("valid"), [unmet_with_item]);

    let mut finished = key("1", "d");
    (finished["done"], finished["records"]) = (json!({ "BOOL": true }), json!({ "N": "9" }));
    assert_eq!(item(&cloud, "1").await, finished);
    assert_eq!(item(&cloud, "2").await["lease_owner"], json!({ "S": "me" }));
    assert_eq!(item(&cloud, "3").await, before);
    assert_eq!(item(&cloud, "4").await, Value::Null, "an UPDATE creates no item");
    assert_eq!(item(&cloud, "5").await["lease_owner"], json!({ "S": "me" }));
}

#[tokio::test]
async fn a_statement_that_the_table_does_not_take_is_refused_alone() {
    let cloud = cloud_with_table().await;
    let statement = |text: &str, parameters: Value| json!({ "Statement": text, "Parameters": parameters });
    let insert = |parameters: Value| {
        statement("INSERT INTO \"ledger\" VALUE {'object': ?, 'delivery': ?, 'blob': ?}", parameters)
    };
    let (o, d) = (json!({ "S": "o" }), json!({ "S": "d" }));
    // 6 + 1 + 8 + 1 + 4 bytes besides the text of `blob`.
    let blob = |bytes: usize| json!([o, d, { "S": "x".repeat(bytes - 20) }]);
    let number = json!({ "N": "1" });
    for (write, code, message) in [
        (
            insert(json!([o, number, d])),
            "ValidationError",
            "Type mismatch for key delivery expected: S actual: N",
        ),
        (
            insert(json!([o, { "S": "" }, d])),
            "ValidationError",
            "cannot contain an empty string value. Key: delivery",
        ),
        (insert(json!([o, d])), "ValidationError", "Number of parameters"),
        (insert(json!([o, d, o, d])), "ValidationError", "Number of parameters"),
        (insert(blob(400 * 1024 + 1)), "ValidationError", "Item size has exceeded"),
        (
            statement("INSERT INTO \"ledger\" VALUE {'object': ?}", json!([o])),
            "ValidationError",
            "Missing the key delivery in the item",
        ),
        (
            statement("INSERT INTO \"absent\" VALUE {'object': ?}", json!([o])),
            "ResourceNotFound",
            "Requested resource not found",
        ),
        (
            statement("INSERT INTO \"a/b\" VALUE {'object': ?}", json!([o])),
            "ValidationError",
            "Table name should be",
        ),
        (
            statement("UPDATE \"ledger\" REMOVE \"a\" WHERE \"object\" = ?", json!([o])),
            "ValidationError",
            "Where clause does not contain a mandatory equality on all key attributes",
        ),
        (
            statement("UPDATE \"ledger\" REMOVE a WHERE \"object\" = ? AND delivery = ?", json!([o, number])),
            "ValidationError",
            "The provided key element does not match the schema",
        ),
        (
            statement(
                "UPDATE \"ledger\" REMOVE a WHERE \"object\" = ? AND delivery = ? AND delivery = ?",
                json!([o, d, d]),
            ),
            "ValidationError",
            "Multiple conditions on same key delivery.",
        ),
        (
            statement(
                "UPDATE \"ledger\" SET delivery = ? WHERE \"object\" = ? AND delivery = ?",
                json!([d, o, d]),
            ),
            "ValidationError",
            "Cannot update attribute delivery. This attribute is part of the key",
        ),
    ] {
        let (found, text) = error_of(&cloud, write).await;
        assert_eq!(found, code, "{message}");
        assert!(text.contains(message), "{text}");
    }

    let full = batch(&cloud, &[insert(blob(400 * 1024))]).await;
    assert_eq!(full.expect("valid"), [made()], "exactly full");
    let grow =
        statement("UPDATE \"ledger\" SET a = ? WHERE \"object\" = ? AND delivery = ?", json!([d, o, d]));
    let (code, message) = error_of(&cloud, grow).await;
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("ValidationError", "Item size to update has exceeded the maximum allowed size")
    );
}

#[tokio::test]
async fn an_invalid_call_changes_nothing() {
    let cloud = cloud_with_table().await;
    let invalid = "ValidationException";
    let numbered =
        |count: usize| (0..count).map(|number| claim(&number.to_string(), "me")).collect::<Vec<_>>();
    let with = |member: &str, value: Value| {
        let mut statement = claim("o", "me");
        statement[member] = value;
        [claim("first", "me"), statement]
    };
    for (statements, message) in [
        (
            &numbered(26)[..],
            "at 'statements' failed to satisfy constraint: Member must have length less than or equal to 25",
        ),
        (&[], "Member must have length greater than or equal to 1"),
        (
            &[claim("o", "me"), claim("p", "me"), claim("o", "other")],
            "Provided list of item keys contains duplicates",
        ),
        (&[claim("o", "me"), finish("o", "me")], "Provided list of item keys contains duplicates"),
        (&with("Statement", Value::Null), "Value null at 'statements.2.member.statement'"),
        (&with("Statement", json!("x".repeat(8193))), "Member must have length less than or equal to 8192"),
        (&with("Parameters", json!([])), "at 'statements.2.member.parameters'"),
        (&with("Parameters", json!([{ "N": "one" }])), "cannot be converted to a numeric value"),
        (&with("ReturnValuesOnConditionCheckFailure", json!("SOME")), "Member must satisfy enum value set"),
    ] {
        refused(batch(&cloud, statements).await.map(Value::from), invalid, message);
    }
    refused(
        ask_as(&cloud, ACCOUNT, "BatchExecuteStatement", &json!({})).await,
        invalid,
        "Value null at 'statements'",
    );
    for (member, value) in [
        ("ConsistentRead", json!(true)),
        ("Statement", json!("SELECT * FROM \"ledger\"")),
        ("Statement", json!("DELETE FROM \"ledger\"")),
    ] {
        let error = batch(&cloud, &with(member, value)).await.expect_err("not covered");
        assert_eq!(error.status, 501, "{}", error.message);
    }
    let capacity = json!({ "Statements": [claim("o", "me")], "ReturnConsumedCapacity": "TOTAL" });
    let error = ask_as(&cloud, ACCOUNT, "BatchExecuteStatement", &capacity).await.expect_err("not covered");
    assert_eq!(error.status, 501);
    assert_eq!(ask(&cloud, "Scan", json!({})).await.expect("valid")["Count"], 0);
    assert_eq!(batch(&cloud, &numbered(25)).await.expect("valid"), vec![made(); 25]);
}

#[tokio::test]
async fn each_statement_needs_its_permission() {
    let cloud = cloud_with_table().await;
    cloud.iam.record();
    let table = format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/ledger");
    let policy = json!({
        "Statement": { "Effect": "Allow", "Action": "dynamodb:PartiQLInsert", "Resource": table },
    });
    let caller = role_session(&cloud, ACCOUNT, "worker", &policy).await;
    let body = json!({ "Statements": [finish("1", "me"), claim("2", "me"), claim("3", "me")] });
    let call = calling(caller, "BatchExecuteStatement", body.to_string());
    let answer = json_body(cloud.dynamodb.handle(&cloud, &call).await.expect("the call is valid")).await;
    let message = format!(
        "User: arn:aws:sts::{ACCOUNT}:assumed-role/worker/tests is not authorized to perform: \
         dynamodb:PartiQLUpdate on resource: {table}"
    );
    let denied = json!({ "Error": { "Code": "AccessDenied", "Message": message } });
    assert_eq!(answer["Responses"], json!([denied, made(), made()]));
    let needed = cloud.iam.recorded();
    let actions: Vec<_> =
        needed.iter().filter(|needed| needed.resource == table).map(|n| &*n.action).collect();
    assert_eq!(actions, ["dynamodb:PartiQLInsert", "dynamodb:PartiQLUpdate"]);
}

#[tokio::test]
async fn faults_hit_single_statements() {
    let cloud = cloud_with_table().await;
    let error = |code: &str| Effect::Error(ErrorAnswer::new(400, code));
    let statement = |operation: &str, effect: Effect| Fault::new("dynamodb", operation, effect);
    cloud.faults.add(statement("*", error("whole calls")));
    cloud.faults.add(statement("PartiQLInsert", Effect::Reset));
    cloud.faults.add(Fault {
        contains: Some("throttled".to_owned()),
        ..statement("PartiQLInsert", error("ThrottlingError"))
    });
    let lost = Effect::After { error: Some(ErrorAnswer::new(500, "InternalServerError")) };
    cloud.faults.add(Fault { times: Some(2), ..statement("PartiQLUpdate", lost) });
    let injected = |code: &str| json!({ "Code": code, "Message": "injected by the sandbox" });

    let claims = [claim("1", "me"), claim("2 throttled", "me"), claim("3", "me"), claim("4 throttled", "me")];
    let answers = batch(&cloud, &claims).await.expect("the front injects the faults of whole calls");
    let throttled = json!({ "Error": injected("ThrottlingError") });
    assert_eq!(answers, [made(), throttled.clone(), made(), throttled]);
    assert_eq!(item(&cloud, "2 throttled").await, Value::Null);

    let finishes = [finish("1", "me"), finish("unclaimed", "me"), finish("3", "me")];
    let answers = batch(&cloud, &finishes).await.expect("valid");
    let lost = json!({ "Error": injected("InternalServerError"), "TableName": "ledger" });
    assert_eq!(answers, [lost.clone(), lost, made()]);
    assert_eq!(item(&cloud, "1").await["done"], json!({ "BOOL": true }), "only the answer is lost");
    let struck = Vec::from_iter(cloud.faults.struck());
    let name = |text: &str| format!("dynamodb:{text}");
    assert_eq!(struck, [(name("PartiQLInsert ThrottlingError"), 2), (name("PartiQLUpdate after"), 2)]);
}
