//! `logferry tenant`: operators read and change the tenant table, with the worker's own validation.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};

use crate::{
    eventually::eventually,
    operator::{self, Ended},
    samples::{generated, received_events},
    setup::{Setup, text},
    target::unique,
    worker::logferry,
};

/// An operator's surroundings: the provider's side, and an environment with the table and no other setting of logferry.
struct Operator {
    setup: Setup,
    environment: BTreeMap<String, String>,
}

impl Operator {
    async fn new(name: &str) -> Self {
        let setup = Setup::new(name).await;
        let mut environment = setup.environment().await;
        environment.retain(|name, _| name.starts_with("AWS_") || name == "TENANT_CONFIG_TABLE");
        Self { setup, environment }
    }

    async fn tenant(&self, arguments: &[&str]) -> Ended {
        self.tenant_reading(arguments, "").await
    }

    /// Runs `logferry tenant` with this text on standard input.
    async fn tenant_reading(&self, arguments: &[&str], stdin: &str) -> Ended {
        operator::reading(&[&["tenant"], arguments].concat(), &self.environment, stdin).await
    }

    /// A row as stored in the table.
    async fn row(&self, tenant_id: &str, name: &str) -> Option<HashMap<String, AttributeValue>> {
        let get = self.setup.account().dynamodb().get_item().table_name(&self.setup.provider.tenant_table);
        let get = get.key("tenant_id", text(tenant_id)).key("type", text(name)).consistent_read(true);
        get.send().await.expect("the table can be read").item
    }

    async fn rows(&self) -> usize {
        let scan = self.setup.account().dynamodb().scan().table_name(&self.setup.provider.tenant_table);
        scan.send().await.expect("the table can be read").items().len()
    }

    async fn put_stored(&self, tenant_id: &str, name: &str, attributes: &[(&str, AttributeValue)]) {
        let key = [("tenant_id", text(tenant_id)), ("type", text(name))];
        let row = key.into_iter().chain(attributes.iter().cloned());
        self.setup.put_row(row.map(|(name, value)| (name.to_owned(), value)).collect()).await;
    }
}

fn good(tenant_id: &str, name: &str) -> Value {
    json!({
        "tenant_id": tenant_id, "type": name, "enabled": true, "target_region": "us-east-1",
        "log_distribution_role_arn": "arn:aws:iam::222222222222:role/customer-logs",
        "log_group_name": format!("/logferry/{tenant_id}"),
    })
}

fn file(rows: &Value) -> PathBuf {
    let name = format!("rows-{}-{}.json", std::process::id(), unique());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, rows.to_string()).expect("the directory of tests is writable");
    path
}

fn flag(row: &HashMap<String, AttributeValue>, name: &str) -> Option<bool> {
    row.get(name).and_then(|value| value.as_bool().ok()).copied()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_put_listed_and_read() {
    let operator = Operator::new("tenant-rows").await;
    let mut acme = good("acme", "cloudwatch");
    acme["desired_logs"] = json!(["web-*"]);
    acme["retention_days"] = json!(30);
    acme["owner"] = json!("team-7");
    let rows = json!([good("globex", "cloudwatch"), acme, good("acme", "cloudwatch#audit")]);

    let would =
        operator.tenant_reading(&["put", "-", "--dry-run", "--json"], &rows.to_string()).await.with(0);
    let would = would.saying("\"owner\"").json();
    assert!((0..3).all(|index| would[index]["outcome"] == "would be created"), "{would}");
    assert_eq!(operator.rows().await, 0);

    let file = file(&rows);
    let path = file.to_str().expect("UTF-8");
    let put = operator.tenant(&["put", path]).await.with(0).saying("3 rows written");
    assert_eq!(put.stdout.matches("created").count(), 3, "{put:?}");
    let stored = operator.row("acme", "cloudwatch").await.expect("the row was put");
    assert_eq!(stored["desired_logs"], AttributeValue::L(vec![text("web-*")]));
    assert_eq!(stored["retention_days"], AttributeValue::N("30".to_owned()));
    assert_eq!(flag(&stored, "enabled"), Some(true));

    let listed = operator.tenant(&["list", "--json"]).await.with(0).json();
    let listed = listed.as_array().expect("an array");
    let keys: Vec<_> = listed.iter().map(|row| format!("{} {}", row["tenant_id"], row["type"])).collect();
    assert_eq!(keys, [r#""acme" "cloudwatch""#, r#""acme" "cloudwatch#audit""#, r#""globex" "cloudwatch""#]);
    assert!(listed.iter().all(|row| row["valid"] == true && row["paused"] == false), "{listed:?}");
    let table = operator.tenant(&["list"]).await.with(0).stdout;
    assert!(
        table.starts_with("TENANT") && table.contains("222222222222 us-east-1 /logferry/globex"),
        "{table}"
    );

    let got = operator.tenant(&["get", "acme", "--type", "cloudwatch", "--json"]).await.with(0).json();
    assert_eq!(got.as_array().map(Vec::len), Some(1), "{got}");
    assert_eq!(got[0]["row"], rows[1]);
    let got = operator.tenant(&["get", "acme"]).await.with(0).stdout;
    assert!(got.contains("acme cloudwatch#audit: enabled") && got.contains("[\"web-*\"]"), "{got}");

    // The output can be put again unchanged.
    let again = operator.tenant_reading(&["put", "-", "--dry-run"], &rows[1].to_string()).await.with(0);
    assert!(again.stdout.contains("is there already"), "{again:?}");
    let put = operator.tenant_reading(&["put", "-", "--json"], &good("acme", "cloudwatch").to_string()).await;
    assert_eq!(put.with(0).json()[0]["outcome"], "replaced");
    let stored = operator.row("acme", "cloudwatch").await.expect("the row was put");
    assert_eq!(stored["owner"], text("team-7"), "attributes of other programs stay");
    assert!(!stored.contains_key("retention_days"), "logferry's own are replaced: {stored:?}");
    std::fs::remove_file(file).expect("the file exists");
}

/// Attributes of other programs stay in the table, including those of types that logferry's rows do not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attributes_of_other_programs_are_kept() {
    let operator = Operator::new("tenant-foreign").await;
    let number = |number: i64| AttributeValue::N(number.to_string());
    let next_year = number(jiff::Timestamp::now().as_second() + 31_536_000);
    let foreign = [
        ("created_at", text("2025-02-03T04:05:06Z")),
        ("updated_at", number(1_764_244_800)),
        ("groups", AttributeValue::Ss(vec!["sre".into(), "audit".into()])),
        ("ttl", next_year),
        ("contact", AttributeValue::M([("mail".to_owned(), text("a@b"))].into())),
    ];
    let of_ours = [
        ("enabled", AttributeValue::Bool(false)),
        ("target_region", text("us-east-1")),
        ("log_distribution_role_arn", text("arn:aws:iam::222222222222:role/customer-logs")),
        ("log_group_name", text("/logferry/acme")),
        ("retention_days", number(30)),
    ];
    operator.put_stored("acme", "cloudwatch", &[&foreign[..], &of_ours].concat()).await;
    operator.put_stored("acme", "settings", &foreign).await;
    let kept = async |name: &str| {
        let row = operator.row("acme", name).await.expect("the row exists");
        for (name, value) in &foreign {
            match (&row[*name], value) {
                // A set has no order.
                (AttributeValue::Ss(found), AttributeValue::Ss(value)) => {
                    assert_eq!(found.len(), value.len())
                }
                (found, value) => assert_eq!(found, value, "{name}"),
            }
        }
        row
    };
    for arguments in [
        &["enable", "acme", "--type", "cloudwatch"][..],
        &["disable", "acme", "--type", "cloudwatch"],
        &["pause", "acme"],
        &["resume", "acme"],
    ] {
        operator.tenant(arguments).await.with(0);
        kept("cloudwatch").await;
        kept("settings").await;
    }
    let row = good("acme", "cloudwatch").to_string();
    let would = operator.tenant_reading(&["put", "-", "--dry-run"], &row).await.with(0);
    assert!(would.stdout.contains("would be replaced"), "{would:?}");
    operator.tenant_reading(&["put", "-"], &row).await.with(0);
    let stored = kept("cloudwatch").await;
    assert!(flag(&stored, "enabled") == Some(true) && !stored.contains_key("retention_days"), "{stored:?}");
    let again = operator.tenant_reading(&["put", "-", "--dry-run"], &row).await.with(0);
    assert!(again.stdout.contains("is there already"), "{again:?}");
    // Known attributes of other programs give no warning; an unknown attribute does.
    let listed = operator.tenant(&["list"]).await.with(0).stdout;
    assert!(listed.contains("contact: means nothing") && !listed.contains("created_at"), "{listed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_a_past_ttl_is_shown_as_expired_and_replaced() {
    let operator = Operator::new("tenant-expired").await;
    let past = AttributeValue::N((jiff::Timestamp::now().as_second() - 60).to_string());
    let rows = json!([good("acme", "cloudwatch"), good("globex", "cloudwatch")]);
    operator.tenant_reading(&["put", "-"], &rows.to_string()).await.with(0);
    let mut stored = operator.row("acme", "cloudwatch").await.expect("the row was put");
    stored.extend([("ttl".to_owned(), past.clone()), ("owner".to_owned(), text("team-7"))]);
    operator.setup.put_row(stored).await;
    let paused = AttributeValue::Bool(true);
    operator.put_stored("acme", "settings", &[("paused", paused.clone()), ("ttl", past)]).await;

    let listed = operator.tenant(&["list", "--json"]).await.with(0).json();
    let told: Vec<_> =
        listed.as_array().expect("an array").iter().map(|row| row["expired"].clone()).collect();
    assert_eq!(told, [true, true, false]);
    assert_eq!(listed[0]["paused"], false, "the pause has expired too: {listed}");
    let got = operator.tenant(&["get", "acme"]).await.with(0).stdout;
    assert!(got.contains("enabled, expired") && got.contains("ttl: passed at 20"), "{got}");

    // An expired settings row has no effect, so `pause` creates a new one.
    operator.tenant(&["pause", "acme"]).await.with(0);
    let settings = operator.row("acme", "settings").await.expect("the row was created");
    assert_eq!((settings.get("paused"), settings.get("ttl")), (Some(&paused), None));
    operator.tenant_reading(&["put", "-"], &good("acme", "cloudwatch").to_string()).await.with(0);
    let stored = operator.row("acme", "cloudwatch").await.expect("the row was put");
    assert!(!stored.contains_key("ttl") && !stored.contains_key("owner"), "{stored:?}");
    // DynamoDB never deletes items that expired long ago, so such a ttl is ignored.
    let long_ago = AttributeValue::N("0".to_owned());
    let attributes = [("ttl", long_ago.clone()), ("owner", text("team-7"))];
    operator.put_stored("initech", "settings", &attributes).await;
    operator.tenant(&["pause", "initech"]).await.with(0);
    let settings = operator.row("initech", "settings").await.expect("the row exists");
    let kept = (settings.get("paused"), settings.get("ttl"), settings.get("owner"));
    assert_eq!(kept, (Some(&paused), Some(&long_ago), Some(&text("team-7"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_every_partition_can_be_used() {
    let operator = Operator::new("tenant-partitions").await;
    let rows: Vec<_> = [
        ("aws", "eu-central-1"),
        ("aws-cn", "cn-north-1"),
        ("aws-us-gov", "us-gov-west-1"),
        ("aws-iso", "us-iso-east-1"),
        ("aws-iso-b", "us-isob-east-1"),
        ("aws-iso-e", "eu-isoe-west-1"),
        ("aws-iso-f", "us-isof-south-1"),
        ("aws-eusc", "eusc-de-east-1"),
    ]
    .into_iter()
    .map(|(partition, region)| {
        let mut row = good(partition, "cloudwatch");
        row["target_region"] = json!(region);
        row["log_distribution_role_arn"] = json!(format!("arn:{partition}:iam::222222222222:role/a/x"));
        row
    })
    .collect();
    let validated = operator.tenant_reading(&["validate", "-"], &json!(rows).to_string()).await;
    validated.with(0).saying("8 rows can be used");
    let mut row = good("a", "cloudwatch");
    row["log_distribution_role_arn"] = json!("arn:aws-moon:iam::222222222222:role/x");
    let validated = operator.tenant_reading(&["validate", "-"], &row.to_string()).await.with(65);
    assert!(validated.stdout.contains("AWS has no such partition"), "{validated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_row_prevents_the_whole_put() {
    let operator = Operator::new("tenant-bad").await;
    let mut bad = good("initech", "cloudwatch");
    bad["target_region"] = json!("mars");
    bad["log_distribution_role_arn"] = json!("arn:aws:iam::12:role/x");
    let rows = json!([good("acme", "cloudwatch"), bad]).to_string();
    for arguments in [&["put", "-", "--json"][..], &["put", "-", "--json", "--dry-run"]] {
        let refused = operator.tenant_reading(arguments, &rows).await.with(65).saying("nothing was written");
        let report = refused.json();
        assert_eq!((&report[0]["valid"], &report[1]["valid"]), (&json!(true), &json!(false)));
        let problems = report[1]["problems"].as_array().expect("an array");
        let told: Vec<_> = problems.iter().map(|problem| (&problem["field"], &problem["value"])).collect();
        let expected = [
            (json!("target_region"), json!("mars")),
            (json!("log_distribution_role_arn"), json!("arn:aws:iam::12:role/x")),
        ];
        assert_eq!(told, expected.iter().map(|(field, value)| (field, value)).collect::<Vec<_>>());
    }
    let refused = operator.tenant_reading(&["put", "-"], &rows).await.with(65);
    assert!(refused.stdout.contains("target_region: \"mars\" is not a Region"), "{refused:?}");
    operator.tenant_reading(&["put", "-"], "{").await.with(65).saying("not JSON");
    operator.tenant(&["put", "/nowhere/rows.json"]).await.with(66).saying("/nowhere/rows.json");
    assert_eq!(operator.rows().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_is_enabled_disabled_and_deleted() {
    let operator = Operator::new("tenant-switch").await;
    operator.tenant_reading(&["put", "-"], &good("acme", "cloudwatch").to_string()).await.with(0);
    let key = ["acme", "--type", "cloudwatch"];
    let row = async || operator.row("acme", "cloudwatch").await.expect("the row exists");
    for (command, enabled) in [("disable", false), ("disable", false), ("enable", true)] {
        operator.tenant(&[&[command][..], &key].concat()).await.with(0).saying(&format!("is {command}d"));
        assert_eq!(flag(&row().await, "enabled"), Some(enabled), "{command}");
        assert_eq!(row().await["log_group_name"], text("/logferry/acme"));
    }

    operator.put_stored("acme", "cloudwatch#bad", &[("enabled", AttributeValue::Bool(true))]).await;
    let key_of_bad = ["acme", "--type", "cloudwatch#bad"];
    operator.tenant(&[&["disable"][..], &key_of_bad].concat()).await.with(0);
    let refused = operator.tenant(&[&["enable", "--json"][..], &key_of_bad].concat()).await.with(65);
    assert_eq!(refused.json()[0]["problems"].as_array().map(Vec::len), Some(3), "{refused:?}");
    let bad = operator.row("acme", "cloudwatch#bad").await.expect("the row exists");
    assert_eq!(flag(&bad, "enabled"), Some(false));

    operator.tenant(&[&["delete"][..], &key].concat()).await.with(2).saying("--yes");
    row().await;
    let deleted = operator.tenant(&[&["delete", "--yes", "--json"][..], &key].concat()).await.with(0).json();
    assert_eq!(deleted, json!({ "tenant_id": "acme", "type": "cloudwatch", "deleted": true }));
    assert_eq!(operator.row("acme", "cloudwatch").await, None);
    operator.tenant(&[&["delete", "--yes"][..], &key].concat()).await.with(66);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_conflicts_with_the_configuration_gives_a_warning() {
    let operator = Operator::new("tenant-misfit").await;
    let mut row = good("acme", "cloudwatch");
    row["oversize"] = json!("quarantine");
    let warning = "oversize: \"quarantine\" needs the worker's setting quarantine.bucket";
    for arguments in [&["validate", "-"][..], &["put", "-", "--dry-run"], &["put", "-"]] {
        operator.tenant_reading(arguments, &row.to_string()).await.with(0).saying(warning);
    }
    operator.tenant(&["validate", "--table"]).await.with(0).saying(warning);
    operator.tenant(&["enable", "acme", "--type", "cloudwatch"]).await.with(0).saying(warning);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_do_not_create_missing_rows() {
    let operator = Operator::new("tenant-nobody").await;
    for command in [
        &["get", "nobody"][..],
        &["enable", "nobody", "--type", "cloudwatch"],
        &["disable", "nobody", "--type", "cloudwatch"],
        &["pause", "nobody"],
        &["resume", "nobody"],
        &["delete", "nobody", "--type", "cloudwatch", "--yes"],
    ] {
        let ended = operator.tenant(command).await.with(66).saying("nobody");
        assert_eq!(ended.stdout, "", "{command:?}");
    }
    assert_eq!(operator.rows().await, 0);
    operator.tenant_reading(&["put", "-"], &good("acme", "cloudwatch").to_string()).await.with(0);
    operator.tenant(&["get", "acme", "--type", "cloudwatch#2"]).await.with(66).saying("cloudwatch#2");
    operator.tenant(&["enable", "acme", "--type", "cloudwatch#2"]).await.with(66).saying("cloudwatch#2");
    operator.tenant(&["resume", "acme"]).await.with(0).saying("was not paused");
    assert_eq!(operator.rows().await, 1);
}

/// The table has more rows than DynamoDB returns in one answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_table_is_listed_and_checked() {
    let operator = Operator::new("tenant-table").await;
    let note = AttributeValue::S("x".repeat(350_000));
    for index in 0..5 {
        let settings = [("paused", AttributeValue::Bool(index == 0)), ("note", note.clone())];
        operator.put_stored(&format!("tenant-{index}"), "settings", &settings).await;
    }
    let listed = operator.tenant(&["list", "--json"]).await.with(0).json();
    let paused: Vec<_> = listed.as_array().expect("an array").iter().map(|row| &row["paused"]).collect();
    assert_eq!(paused, [&json!(true), &json!(false), &json!(false), &json!(false), &json!(false)]);
    operator.tenant(&["validate", "--table"]).await.with(0).saying("5 rows can be used");
    operator.put_stored("tenant-7", "settings", &[("paused", text("yes"))]).await;
    let checked = operator.tenant(&["validate", "--table"]).await.with(65).saying("1 of 6 rows");
    assert!(checked.stdout.contains("paused: must be BOOL, not the string \"yes\""), "{checked:?}");
    operator.tenant(&["list"]).await.with(0).saying("1 of 6 rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_paused_tenant_wait_until_it_is_resumed() {
    let operator = Operator::new("tenant-pause").await;
    let setup = &operator.setup;
    let customer = setup.customer("acme").await;
    let paused =
        operator.tenant(&["pause", "acme", "--json"]).await.with(0).saying("tenants.cache_ttl").json();
    assert_eq!(paused, json!({ "tenant_id": "acme", "paused": true }));
    let listed = operator.tenant(&["list"]).await.with(0).stdout;
    assert!(listed.contains("enabled, paused"), "{listed}");
    operator.tenant(&["enable", "acme", "--type", "cloudwatch"]).await.with(0).saying("still paused");

    let held = generated("acme/c/app/pod/held.json.gz", 5, 30);
    setup.upload(&held.key, held.bytes).await;
    let _worker = setup.worker().await;
    let letter = setup.dead_letters(1).await.remove(0);
    assert_eq!([letter.get("reason"), letter.get("tenant")], ["tenant_paused", "acme"], "{letter:?}");
    setup.queue_is_empty().await;

    operator.tenant(&["resume", "acme"]).await.with(0);
    let settings = operator.row("acme", "settings").await.expect("the row stays");
    assert_eq!(flag(&settings, "paused"), Some(false));
    // The worker remembers the pause for another second.
    let events = eventually("the tenant is served again", async || {
        let object = generated(&format!("acme/c/app/pod/{}.json.gz", unique()), 5, 30);
        setup.upload(&object.key, object.bytes).await;
        setup.queue_is_empty().await;
        let events = received_events(&setup.aws, &customer).await;
        if events.is_empty() { Err("nothing arrived".to_owned()) } else { Ok(events) }
    })
    .await;
    assert!(events.iter().all(|(_, message)| !message.contains("held")), "{events:?}");

    let deleted = operator.tenant(&["delete", "acme", "--type", "cloudwatch", "--yes"]).await.with(0);
    deleted.saying("only the settings row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_is_a_failure() {
    let mut operator = Operator::new("tenant-failure").await;
    operator.environment.insert("TENANT_CONFIG_TABLE".to_owned(), "no-such-table".to_owned());
    for command in [
        &["list"][..],
        &["get", "acme"],
        &["disable", "acme", "--type", "cloudwatch"],
        &["delete", "acme", "--type", "cloudwatch", "--yes"],
    ] {
        let ended = operator.tenant(command).await.with(1).saying("no-such-table");
        assert!(ended.stderr.contains("ResourceNotFoundException"), "{ended:?}");
    }
    let failed = operator.tenant_reading(&["put", "-"], &good("acme", "cloudwatch").to_string()).await;
    failed.with(1).saying("after 0 rows");
}

/// The check needs neither table nor Region nor credentials, so it can run before a change is merged.
#[test]
fn files_are_checked_without_aws() {
    let check = |rows: &Value| {
        let file = file(rows);
        let output = logferry(&["tenant", "validate", file.to_str().expect("UTF-8")], &[]);
        std::fs::remove_file(file).expect("the file exists");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    };
    let fine = check(&good("acme", "cloudwatch")).with(0).saying("1 row can be used");
    assert_eq!(fine.stdout, "");
    let mut odd = good("acme", "cloudwatch");
    odd["log_stream_nam"] = json!("{pod}");
    assert!(check(&odd).with(0).stdout.contains("log_stream_nam: means nothing to logferry"));
    odd["log_stream_name"] = json!("{namespace}");
    let bad = check(&json!([good("globex", "cloudwatch"), odd])).with(65).saying("1 of 2 rows");
    assert!(bad.stdout.contains("{namespace} is unknown") && !bad.stdout.contains("globex"), "{bad:?}");
}

#[test]
fn each_failure_has_its_exit_code() {
    let table = [("AWS_REGION", "us-east-1"), ("TENANT_CONFIG_TABLE", "tenants")];
    for (arguments, environment, code, words) in [
        (&["list"][..], &table[..1], 64, "TENANT_CONFIG_TABLE"),
        (&["list"], &table[1..], 64, "aws.region"),
        (&["list", "--set", "delivery.attempts=50"], &table[..], 64, "delivery.attempts"),
        (&["list", "--all"], &table[..], 2, "--all"),
        (&["enable", "acme"], &table[..], 2, "--type"),
        (&["enable", "acme", "--type", "settings"], &table[..], 2, "pause and resume"),
        (&["validate"], &table[..], 2, "FILE"),
        (&["validate", "-", "--table"], &table[..], 2, "--table"),
    ] {
        // The command must not call an instance's metadata service.
        let environment = [environment, &[("AWS_EC2_METADATA_DISABLED", "true")]].concat();
        let output = logferry(&[&["tenant"][..], arguments].concat(), &environment);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(words), "{arguments:?} does not say {words}: {told}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    for command in [&["tenant", "--help"][..], &["tenant", "put", "--help"]] {
        let help = logferry(command, &[]);
        assert!(help.status.success());
        let help = String::from_utf8_lossy(&help.stdout);
        assert!(
            ["64 the configuration", "65 rows", "66 the tenant"].iter().all(|code| help.contains(code)),
            "{help}"
        );
    }
}
