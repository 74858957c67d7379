//! DynamoDB: a tenant's rows, a conditional put, and an entry of the ledger.

use aws_sdk_dynamodb::{
    operation::{
        query::QueryOutput,
        update_item::{UpdateItemError, UpdateItemOutput},
    },
    types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure},
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
