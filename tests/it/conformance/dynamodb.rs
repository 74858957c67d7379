//! DynamoDB: a tenant's rows, and a conditional put.

use aws_sdk_dynamodb::{operation::query::QueryOutput, types::AttributeValue};

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
    answers.answer("dynamodb: query for nobody", nobody.send().await, types);
    answers.answer(
        "dynamodb: query one at a time",
        query(table, "tenant_id = :id").limit(1).send().await,
        types,
    );
    answers.answer("dynamodb: query no table", query("missing", "tenant_id = :id").send().await, types);
    answers.answer("dynamodb: query by no key", query(table, "colour = :id").send().await, types);
    answers.answer("dynamodb: query by nonsense", query(table, "tenant_id =").send().await, types);
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
}
