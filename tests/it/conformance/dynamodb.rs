//! DynamoDB: a tenant's rows, a conditional put, and entries of the ledger, one by one and in batches.

use aws_sdk_dynamodb::{
    operation::{
        batch_execute_statement::BatchExecuteStatementOutput,
        query::QueryOutput,
        update_item::{UpdateItemError, UpdateItemOutput},
    },
    types::{AttributeValue, BatchStatementRequest, ReturnValue, ReturnValuesOnConditionCheckFailure},
};

use super::{Answers, nothing};
use crate::setup::{Setup, text};

fn types(output: QueryOutput) -> String {
    let items = output.items.unwrap_or_default();
    let types: Vec<_> = items.iter().filter_map(|item| item.get("type")?.as_s().ok().cloned()).collect();
    format!("{types:?}, more {}", output.last_evaluated_key.is_some())
}

pub(super) async fn ask(setup: &Setup, answers: &mut Answers) {
    let dynamodb = setup.account().dynamodb();
    let table = &setup.provider.tenant_table;
    for name in ["settings", "cloudwatch#b", "cloudwatch", "cloudwatch#a"] {
        let item = [("tenant_id", text("acme")), ("type", text(name))];
        setup.put_row(item.map(|(name, value)| (name.to_owned(), value)).into()).await;
    }
    let query = |table: &str, condition: &str| {
        let query = dynamodb.query().table_name(table).key_condition_expression(condition);
        query.expression_attribute_values(":id", text("acme")).consistent_read(true)
    };
    answers.answer("dynamodb: query", query(table, "tenant_id = :id").send().await, types);
    let nobody = dynamodb.query().table_name(table).key_condition_expression("tenant_id = :id");
    let nobody = nobody.expression_attribute_values(":id", text("nobody"));
    answers.answer("dynamodb: query for an unknown tenant", nobody.send().await, types);
    answers.answer(
        "dynamodb: query one at a time",
        query(table, "tenant_id = :id").limit(1).send().await,
        types,
    );
    answers.answer(
        "dynamodb: query a missing table",
        query("missing", "tenant_id = :id").send().await,
        types,
    );
    answers.answer(
        "dynamodb: query by an attribute that is not the key",
        query(table, "colour = :id").send().await,
        types,
    );
    answers.answer(
        "dynamodb: query with an invalid expression",
        query(table, "tenant_id =").send().await,
        types,
    );
    let put =
        || dynamodb.put_item().table_name(table).item("tenant_id", text("acme")).item("type", text("new"));
    let condition = "attribute_not_exists(tenant_id)";
    answers.answer("dynamodb: put if new", put().condition_expression(condition).send().await, nothing);
    answers.answer(
        "dynamodb: put if new, again",
        put().condition_expression(condition).send().await,
        nothing,
    );
    let wrong = dynamodb.put_item().table_name(table).item("tenant_id", AttributeValue::N("7".to_owned()));
    answers.answer(
        "dynamodb: put a key of the wrong type",
        wrong.item("type", text("x")).send().await,
        nothing,
    );
    let half = dynamodb.put_item().table_name(table).item("tenant_id", text("acme"));
    answers.answer("dynamodb: put half a key", half.send().await, nothing);
    ask_ledger(setup, answers).await;
    ask_batches(setup, answers).await;
    for (question, table) in [("", &setup.provider.ledger_table), (" missing", &"missing".to_owned())] {
        let described = dynamodb.describe_table().table_name(table).send().await;
        answers.answer(&format!("dynamodb: describe a{question} table"), described, |output| {
            let table = output.table.expect("a good answer has it");
            let key: Vec<_> = table.key_schema().iter().map(|of| of.attribute_name()).collect();
            let mode = table.billing_mode_summary().and_then(|summary| summary.billing_mode());
            format!("{key:?} {:?} {mode:?}", table.table_status())
        });
        let life = dynamodb.describe_time_to_live().table_name(table).send().await;
        answers.answer(&format!("dynamodb: time to live of a{question} table"), life, |output| {
            let life = output.time_to_live_description.expect("a good answer has it");
            format!("{:?} {:?}", life.time_to_live_status, life.attribute_name)
        });
    }
}

/// An item's attributes in order, without those of the key.
fn shown(item: Option<&std::collections::HashMap<String, AttributeValue>>) -> String {
    let mut shown: Vec<_> =
        item.into_iter().flatten().map(|(name, value)| format!("{name} {value:?}")).collect();
    shown.retain(|text| !text.starts_with("object") && !text.starts_with("delivery"));
    shown.sort();
    shown.join(", ")
}

/// The properties that the ledger relies on: numbers compare as numbers, a condition on a missing attribute, the item
/// after a write, and the item that failed the condition.
async fn ask_ledger(setup: &Setup, answers: &mut Answers) {
    let dynamodb = setup.account().dynamodb();
    let update = |table: &str, records: u32, owner: &str| {
        dynamodb
            .update_item()
            .table_name(table)
            .key("object", text("staging/a b/ü?eTag=e"))
            .key("delivery", text("cloudwatch"))
            .update_expression("SET records = :records, lease_owner = :owner REMOVE lease_until")
            .condition_expression(
                "attribute_not_exists(done) AND (attribute_not_exists(lease_owner) OR lease_owner = :owner) \
                 AND (attribute_not_exists(records) OR records < :records)",
            )
            .expression_attribute_values(":records", AttributeValue::N(records.to_string()))
            .expression_attribute_values(":owner", text(owner))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    };
    let written = |output: UpdateItemOutput| shown(output.attributes());
    let table = &setup.provider.ledger_table;
    let mut ask = async |question: &str, table: &str, records: u32, owner: &str| {
        let answer = update(table, records, owner).send().await;
        if let Err(Some(UpdateItemError::ConditionalCheckFailedException(failed))) =
            answer.as_ref().map_err(|error| error.as_service_error())
        {
            answers.note(&format!("dynamodb: {question}, the item"), shown(failed.item()));
        }
        answers.answer(&format!("dynamodb: {question}"), answer, written);
    };
    ask("update a missing item", table, 9, "one").await;
    ask("update to a number with more digits", table, 10, "one").await;
    ask("update backwards", table, 9, "one").await;
    ask("update as another owner", table, 11, "other").await;
    ask("update a missing table", "missing", 1, "one").await;
    ask("update with the key of another schema", &setup.provider.tenant_table, 1, "one").await;
    let reserved = update(table, 12, "one").update_expression("SET object = :records, lease_owner = :owner");
    answers.answer("dynamodb: update a reserved word", reserved.send().await, written);
    let unused = update(table, 12, "one").expression_attribute_values(":unused", text("x"));
    answers.answer("dynamodb: update with an unused value", unused.send().await, written);
    let absent = update(table, 12, "one").key("object", text("logferry/readiness"));
    let absent =
        absent.condition_expression("attribute_exists(done) AND records < :records AND lease_owner = :owner");
    answers.answer("dynamodb: update a missing item that must exist", absent.send().await, written);
}

/// The code of each statement's error and the item with it, and whether the table is named.
fn codes(output: BatchExecuteStatementOutput) -> String {
    let code = |response: &aws_sdk_dynamodb::types::BatchStatementResponse| {
        let named = if response.table_name().is_some() { " of the table" } else { "" };
        match response.error() {
            None => format!("made{named}"),
            Some(error) => {
                let code = error.code().map_or("without a code", |code| code.as_str());
                format!("{code}{named} {}", shown(error.item())).trim_end().to_owned()
            }
        }
    };
    output.responses().iter().map(code).collect::<Vec<_>>().join("; ")
}

/// A claim of the ledger: an entry that must be new.
fn claim(table: &str, object: &str, owner: &str) -> BatchStatementRequest {
    let statement = format!(
        "INSERT INTO \"{table}\" VALUE {{'object': ?, 'delivery': ?, 'lease_owner': ?, 'lease_until': ?, 'expires_at': ?}}"
    );
    let number = || AttributeValue::N("60".to_owned());
    let parameters = [text(object), text("cloudwatch"), text(owner), number(), number()];
    let request =
        BatchStatementRequest::builder().statement(statement).set_parameters(Some(parameters.into()));
    request.build().expect("it has a statement")
}

/// The end of an entry that the owner must have. `sets` are its SET clauses, with one value each for two attributes.
fn finish_by(table: &str, object: &str, owner: &str, sets: &str) -> BatchStatementRequest {
    let statement = format!(
        "UPDATE \"{table}\" {sets} REMOVE \"lease_owner\" REMOVE \"lease_until\" \
         WHERE \"object\" = ? AND \"delivery\" = ? AND \"lease_owner\" = ?"
    );
    let values = [AttributeValue::Bool(true), AttributeValue::N("9".to_owned())];
    let condition = [text(object), text("cloudwatch"), text(owner)];
    let parameters = values.into_iter().chain(condition).collect();
    let request = BatchStatementRequest::builder().statement(statement).set_parameters(Some(parameters));
    request.build().expect("it has a statement")
}

fn finish(table: &str, object: &str, owner: &str) -> BatchStatementRequest {
    finish_by(table, object, owner, "SET \"done\" = ? SET \"records\" = ?")
}

fn showing_item(mut statement: BatchStatementRequest) -> BatchStatementRequest {
    statement.return_values_on_condition_check_failure = Some(ReturnValuesOnConditionCheckFailure::AllOld);
    statement
}

/// Entries that are claimed and finished in batches of statements.
async fn ask_batches(setup: &Setup, answers: &mut Answers) {
    let dynamodb = setup.account().dynamodb();
    let table = &setup.provider.ledger_table;
    let mut ask = async |question: &str, statements: Vec<BatchStatementRequest>| {
        let answer = dynamodb.batch_execute_statement().set_statements(Some(statements)).send().await;
        answers.answer(&format!("dynamodb: batch, {question}"), answer, codes);
    };
    let some = |object: u32, owner: &str| claim(table, &format!("batch {object}"), owner);
    ask("insert", vec![some(1, "me"), some(2, "me"), some(3, "other"), some(4, "me")]).await;
    ask("insert again", vec![some(1, "me"), showing_item(some(2, "me")), some(5, "me")]).await;
    ask("update by the owner", vec![finish(table, "batch 1", "me")]).await;
    let sets = "SET \"done\" = ?, \"records\" = ?";
    ask("update with one SET", vec![finish_by(table, "batch 2", "me", sets)]).await;
    ask("update an entry that is finished", vec![showing_item(finish(table, "batch 1", "me"))]).await;
    ask("update by another owner", vec![finish(table, "batch 3", "me")]).await;
    ask("update by another owner, with the item", vec![showing_item(finish(table, "batch 3", "me"))]).await;
    ask("update a missing item", vec![showing_item(finish(table, "batch 0", "me"))]).await;
    ask("remove what is absent", {
        let sets = "SET \"done\" = ? SET \"records\" = ? REMOVE \"absent\"";
        vec![finish_by(table, "batch 4", "me", sets)]
    })
    .await;
    ask("a missing table", vec![claim("missing", "batch 6", "me"), finish("missing", "batch 6", "me")]).await;
    ask("the schema of another table", {
        let other = &setup.provider.tenant_table;
        vec![claim(other, "batch 6", "me"), finish(other, "batch 6", "me")]
    })
    .await;
    let with = |mut statement: BatchStatementRequest, change: fn(&mut Vec<AttributeValue>)| {
        change(statement.parameters.get_or_insert_default());
        statement
    };
    let nothing = |parameters: &mut Vec<AttributeValue>| parameters.clear();
    ask("no parameter", vec![with(some(6, "me"), nothing)]).await;
    let fewer = |parameters: &mut Vec<AttributeValue>| drop(parameters.pop());
    ask(
        "a parameter too few",
        vec![with(some(6, "me"), fewer), with(finish(table, "batch 3", "other"), fewer)],
    )
    .await;
    let more = |parameters: &mut Vec<AttributeValue>| parameters.push(text("more"));
    ask("a parameter too many", vec![with(some(6, "me"), more)]).await;
    let number = |parameters: &mut Vec<AttributeValue>| parameters[1] = AttributeValue::N("1".to_owned());
    ask("a key of the wrong type", vec![with(some(6, "me"), number)]).await;
    let statement =
        |text: String| BatchStatementRequest::builder().statement(text).build().expect("it has a statement");
    ask("statements that are none", {
        let wrong = ["UPSERT", "INSERT INTO 'ledger' VALUE {'object': ?}", "UPDATE \"ledger SET a = ?"];
        wrong.into_iter().map(|text| statement(text.to_owned())).collect()
    })
    .await;
    ask("mixed", {
        let broken = statement(format!("UPDATE \"{table}\" SET"));
        vec![
            some(7, "me"),
            broken,
            finish(table, "batch 3", "other"),
            some(1, "me"),
            finish(table, "batch 5", "other"),
        ]
    })
    .await;
    ask("nothing", Vec::new()).await;
    ask("25 statements", (100..125).map(|object| some(object, "me")).collect()).await;
    ask("26 statements", (200..226).map(|object| some(object, "me")).collect()).await;
    ask("two statements about an item", vec![some(8, "me"), some(8, "other")]).await;
}
