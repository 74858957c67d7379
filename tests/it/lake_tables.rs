//! `logferry lake ddl`: which row it takes, and how it refuses others. tests/lake/ddl executes what it prints.

use std::collections::BTreeMap;

use logferry_testbed::provision::CustomerSpec;
use serde_json::{Value, json};

use crate::{
    operator::{self, Ended, Operator},
    setup::{Setup, text},
};

fn row(name: &str, format: &str) -> Value {
    json!({
        "tenant_id": "acme", "type": name, "enabled": true, "target_region": "us-east-1", "bucket_name": "acme-lake",
        "bucket_owner": "222222222222", "format": format,
    })
}

/// Runs `logferry lake ddl` with these rows, without any variable.
async fn ddl(rows: Value, arguments: &[&str]) -> Ended {
    let arguments = [&["lake", "ddl", "--row", "-"], arguments].concat();
    operator::reading(&arguments, &BTreeMap::new(), &rows.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_chosen_or_refused() {
    ddl(row("s3#lake", "parquet"), &[]).await.with(0);
    ddl(json!([row("s3", "copy"), row("s3#lake", "ndjson")]), &[]).await.with(0);
    let two = json!([row("s3", "parquet"), row("s3#lake", "ndjson")]);
    ddl(two.clone(), &[]).await.with(2).saying("s3 of acme, s3#lake of acme; choose one with --type");
    ddl(two.clone(), &["--type", "s3"]).await.with(0);
    ddl(two, &["--type", "s3#other"]).await.with(66).saying("no row of type \"s3#other\"");
    ddl(row("s3", "copy"), &[]).await.with(65).saying("no row is a lake");
    ddl(row("s3", "orc"), &[]).await.with(65).saying("format: \"orc\" is none of");
    ddl(json!([]), &[]).await.with(65).saying("no rows");
    let missing = operator::run(&["lake", "ddl", "--row", "/no/such/file"], &BTreeMap::new()).await;
    missing.with(66).saying("/no/such/file cannot be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_that_do_not_fit_are_refused() {
    let refused = async |arguments: &[&str], code: i32, words: &str| {
        ddl(row("s3#lake", "parquet"), arguments).await.with(code).saying(words);
    };
    refused(&["--values", "app=web"], 65, "it has source").await;
    refused(&["--values", "source"], 2, "must be PARTITION=VALUE,...").await;
    refused(&["--values", "source=web,,api"], 2, "has an empty value").await;
    refused(&["--table", "Logs"], 2, "must be lower-case letters").await;
    refused(&["--database", "x; DROP"], 2, "must be lower-case letters").await;
    refused(&["--since", "26"], 2, "1970").await;
    operator::run(&["lake", "ddl"], &BTreeMap::new()).await.with(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_row_of_a_tenant_is_read() {
    let operator = Operator::with(Setup::new("lake-tables").await, &["TENANT_CONFIG_TABLE"]).await;
    let customer = operator.setup.customer_without_row(CustomerSpec::new("acme")).await;
    let mut stored = customer.row();
    let more = [("type", "s3#lake"), ("bucket_name", "acme-lake"), ("format", "parquet")];
    stored.extend(more.map(|(name, value)| (name.to_owned(), text(value))));
    operator.setup.put_row(stored).await;
    let run = async |tenant: &str| {
        operator::run(&["lake", "ddl", "--tenant", tenant, "--format", "json"], &operator.environment).await
    };
    let printed = run("acme").await.with(0);
    let statements: Vec<String> = serde_json::from_str(&printed.stdout).expect("JSON");
    assert!(statements[1].contains("LOCATION 's3://acme-lake/ROSA/cluster-logs/'"), "{statements:?}");
    run("nobody").await.with(66).saying("tenant \"nobody\" has no row");
}
