//! Rows are read from JSON, written as JSON and shown on a terminal.

use super::*;

const GOOD: &str = r#"{
    "tenant_id": "acme", "type": "cloudwatch", "enabled": true, "target_region": "us-east-1",
    "log_distribution_role_arn": "arn:aws:iam::222222222222:role/customer-logs",
    "log_group_name": "/rosa/acme", "desired_logs": ["web", "api-*"], "retention_days": 30
}"#;

fn reading() -> Reading<'static> {
    Reading::new(None)
}

fn row(change: impl FnOnce(&mut Value)) -> Value {
    let mut row = serde_json::from_str(GOOD).expect("it is JSON");
    change(&mut row);
    row
}

fn only(value: Value) -> CheckedRow {
    let mut entries = parse(&value.to_string(), reading()).expect("rows");
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn fields(entry: &CheckedRow) -> Vec<&str> {
    entry.problems.iter().map(|problem| problem.field.as_str()).collect()
}

#[test]
fn plain_json_and_dynamodb_s_form_give_the_same_row() {
    let plain = only(row(|_| ()));
    let typed = only(json!({
        "tenant_id": { "S": "acme" }, "type": { "S": "cloudwatch" }, "enabled": { "BOOL": true },
        "target_region": { "S": "us-east-1" },
        "log_distribution_role_arn": { "S": "arn:aws:iam::222222222222:role/customer-logs" },
        "log_group_name": { "S": "/rosa/acme" }, "retention_days": { "N": "30" },
        "desired_logs": { "L": [{ "S": "web" }, { "S": "api-*" }] },
    }));
    assert!(plain.is_valid(), "{plain:?}");
    assert_eq!(plain, typed);
    let set = only(row(|row| row["desired_logs"] = json!({ "SS": ["web", "api-*"] })));
    assert_eq!(plain, set);
}

#[test]
fn a_shown_row_can_be_written_again() {
    let entry = only(row(|row| row["owner"] = "team-7".into()));
    let shown = entry.report(Some(false));
    assert_eq!(shown["row"], row(|row| row["owner"] = "team-7".into()));
    assert_eq!(only(shown["row"].clone()), entry);
    assert_eq!(shown["ignored"], json!(["owner"]));
    assert_eq!(shown["problems"], json!([]));
    let target = json!({ "account": "222222222222", "region": "us-east-1", "log_group_name": "/rosa/acme" });
    assert_eq!(shown["target"], target);
}

#[test]
fn rows_with_a_bucket_are_read_and_shown() {
    let bucket = |change: fn(&mut Value)| {
        let mut row = json!({
            "tenant_id": "acme", "type": "s3", "enabled": true, "target_region": "us-east-1",
            "bucket_name": "acme-logs", "bucket_prefix": "logs",
        });
        change(&mut row);
        only(row)
    };
    let plain = bucket(|_| ());
    let with_role = bucket(|row| {
        row["log_distribution_role_arn"] = "arn:aws:iam::222222222222:role/customer-logs".into();
    });
    let bad = bucket(|row| row["bucket_name"] = "192.168.5.4".into());
    let target = |account: Value| json!({ "account": account, "region": "us-east-1", "bucket_name": "acme-logs", "bucket_prefix": "logs/", "format": "copy" });
    assert_eq!(plain.report(None)["target"], target(Value::Null));
    assert_eq!(with_role.report(None)["target"], target("222222222222".into()));
    assert!(plain.is_valid() && plain.ignored().is_empty() && !bad.is_valid());
    let expected = "\
TENANT  TYPE  STATE         TARGET
acme    s3    enabled       us-east-1 s3://acme-logs/logs/
acme    s3    enabled       222222222222 us-east-1 s3://acme-logs/logs/
acme    s3    enabled, BAD  -
  bucket_name: \"192.168.5.4\" is an IP address, which S3 does not allow
";
    assert_eq!(table(&[plain, with_role, bad], &BTreeSet::new()), expected);
}

#[test]
fn bad_fields_are_reported_with_their_value_and_the_rule() {
    let entry = only(row(|row| {
        row["target_region"] = "mars".into();
        row["retention_days"] = 2.into();
        row["log_group_name"].take();
    }));
    let report = entry.report(None);
    assert_eq!(
        (&report["valid"], &report["target"], &report["paused"]),
        (&json!(false), &json!(null), &json!(null))
    );
    let problems = report["problems"].as_array().expect("an array");
    let told: Vec<_> = problems.iter().map(|problem| (&problem["field"], &problem["value"])).collect();
    assert_eq!(
        told,
        [
            (&json!("target_region"), &json!("mars")),
            (&json!("log_group_name"), &json!({ "NULL": null })),
            (&json!("retention_days"), &json!(2)),
        ]
    );
    for (problem, part) in problems.iter().zip(["not a Region", "must be a string", "one of the numbers"]) {
        assert!(problem["problem"].as_str().expect("a string").contains(part), "{problem}");
    }
}

#[test]
fn a_row_needs_a_key_that_an_object_s_key_can_contain() {
    for (tenant_id, legal) in
        [("acme", true), ("a.b_c-d", true), ("", false), ("a/b", false), ("..", false), ("a\nb", false)]
    {
        let entry = only(row(|row| row["tenant_id"] = tenant_id.into()));
        assert_eq!(fields(&entry), ["tenant_id"][..usize::from(!legal)], "{tenant_id:?}");
        assert_eq!(entry.content.is_some(), legal);
    }
    let long = "a".repeat(MAX_KEY_BYTES + 1);
    assert_eq!(fields(&only(row(|row| row["tenant_id"] = long.as_str().into()))), ["tenant_id"]);
    assert_eq!(fields(&only(row(|row| row["type"] = format!("cloudwatch#{long}").into()))), ["type"]);
    assert_eq!(fields(&only(row(|row| row["type"] = "firehose".into()))), ["type"]);
    let keyless = json!({ "type": 7, "target_region": "mars" });
    assert_eq!(fields(&only(keyless)), ["tenant_id", "type", "target_region"]);
}

#[test]
fn only_attributes_that_can_be_written_are_valid_in_a_file() {
    for value in [json!({ "a": 1 }), json!(null), json!(["a", 1]), json!({ "S": 7 }), json!({ "N": "many" })]
    {
        let entry = only(row(|row| row["note"] = value.clone()));
        assert_eq!(fields(&entry), ["note"], "{value}");
        assert_eq!(entry.content, None);
    }
    // In the table, the worker ignores such an attribute.
    let stored =
        Row::from([("paused".into(), Attribute::Bool(true)), ("note".into(), Attribute::Other("M"))]);
    let stored = CheckedRow::new("acme".into(), "settings".into(), stored, reading());
    assert!(stored.is_valid() && stored.pauses());
    assert_eq!(stored.report(None)["row"]["note"], json!({ "M": null }));
}

#[test]
fn files_without_rows_are_refused() {
    for (text, part) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no rows"),
        ("7", "row 1 is not an object"),
        ("[{}, 1]", "row 2"),
    ] {
        let error = parse(text, reading()).expect_err("no rows");
        assert!(error.contains(part), "{text}: {error}");
    }
    let twice = parse(&json!([row(|_| ()), row(|row| row["enabled"] = false.into())]).to_string(), reading());
    let twice = twice.expect("rows");
    assert!(twice[0].is_valid());
    assert!(twice[1].problems[0].problem.contains("twice"), "{twice:?}");
}

#[test]
fn numbers_keep_every_digit() {
    for (json, number) in [
        (json!(7), "7"),
        (json!({ "N": "12345678901234567890123" }), "12345678901234567890123"),
        (json!({ "N": "1.50" }), "1.50"),
    ] {
        let attribute = from_json(json.clone());
        assert_eq!(attribute, Attribute::Number(number.into()));
        assert_eq!(to_json(&attribute), json);
    }
}

#[test]
fn tables_show_state_target_and_every_problem() {
    let entries = [
        only(row(|_| ())),
        only(json!({ "tenant_id": "acme", "type": "settings", "paused": true })),
        only(row(|row| {
            row["tenant_id"] = "initech".into();
            row["enabled"] = false.into();
            row["target_region"] = "mars\u{1b}[2J".into();
            row["log_stream_nam"] = "{pod}".into();
        })),
    ];
    let paused = BTreeSet::from(["acme".to_owned()]);
    let expected = "\
TENANT   TYPE        STATE            TARGET
acme     cloudwatch  enabled, paused  222222222222 us-east-1 /rosa/acme
acme     settings    paused           -
initech  cloudwatch  disabled, BAD    -
  target_region: \"mars\\u{1b}[2J\" is not a Region such as \"eu-central-1\"
  log_stream_nam: means nothing to logferry
";
    assert_eq!(table(&entries, &paused), expected);
}

#[test]
fn details_show_every_attribute() {
    let text = only(row(|row| {
        row["target_region"] = "mars".into();
        row["owner"] = "\u{7}bell".into();
    }));
    let expected = "\
acme cloudwatch: enabled, BAD
  desired_logs               [\"web\",\"api-*\"]
  enabled                    true
  log_distribution_role_arn  arn:aws:iam::222222222222:role/customer-logs
  log_group_name             /rosa/acme
  owner                      \\u{7}bell
  retention_days             30
  target_region              mars
  target_region: \"mars\" is not a Region such as \"eu-central-1\"
  owner: means nothing to logferry
";
    assert_eq!(text.details(&BTreeSet::new()), expected);
}
