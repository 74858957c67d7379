//! What ships for operators (`observability/`, `docs/runbook.md`) is complete, names only what exists, and shows a customer's
//! broken role.

mod outage;
mod promql;
pub(crate) mod promtool;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use logferry::worker::Metrics;
use prometheus_client::{encoding::text, registry::Registry};
use serde::Deserialize;
use serde_json::Value;

use self::promql::Known;
use crate::worker::logferry;

/// The file with the alert rules. Unknown fields are errors, as they are for Prometheus.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(rename = "name")]
    _name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(rename = "for")]
    _held: String,
    #[serde(rename = "keep_firing_for")]
    _kept: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> Vec<Rule> {
    let rules: Rules =
        serde_yaml_ng::from_str(&read("observability/rules.yaml")).expect("the rules are YAML");
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The cases for `promtool test rules`.
fn rule_tests() -> String {
    ["observability/rules_test.yaml", "observability/rules_test_week.yaml"].map(read).concat()
}

/// The sections of a page by heading.
fn sections(page: &str) -> BTreeMap<&str, &str> {
    let sections = page.split("\n## ").skip(1);
    sections.map(|section| section.split_once('\n').expect("a heading is a line")).collect()
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let page = read("docs/runbook.md");
    let sections = sections(&page);
    let rules = rules();
    let alerts: BTreeSet<_> = rules.iter().map(|rule| rule.alert.as_str()).collect();
    assert_eq!(alerts.len(), rules.len(), "no name is used twice");
    assert_eq!(sections.keys().copied().collect::<BTreeSet<_>>(), alerts);
    for (alert, section) in sections {
        for part in ["**Means:**", "**Impact:**", "**Do:**", "\n    ", "**Escalate**"] {
            assert!(section.contains(part), "{alert} has no {part:?}");
        }
    }
}

#[test]
fn every_alert_is_complete() {
    for Rule { alert, labels, annotations, .. } in rules() {
        assert_eq!(labels.keys().collect::<Vec<_>>(), ["severity"], "{alert}");
        assert!(["critical", "warning"].contains(&labels["severity"].as_str()), "{alert}: {labels:?}");
        let names: Vec<_> = annotations.keys().collect();
        assert_eq!(names, ["description", "impact", "runbook_url", "summary"], "{alert}");
        assert!(annotations.values().all(|text| !text.trim().is_empty()), "{alert}");
        let (_, place) =
            annotations["runbook_url"].split_once("/docs/runbook.md#").expect("the runbook's address");
        assert_eq!(place, alert.to_lowercase());
    }
}

/// Every command of the runbook is one that the program has, with options that it has.
#[test]
fn the_program_has_the_commands_of_the_runbook() {
    let page = read("docs/runbook.md");
    let lines = page.lines().filter_map(|line| line.strip_prefix("    logferry ")).collect::<Vec<_>>();
    assert!(lines.len() > 15, "the commands are found: {lines:?}");
    for line in lines {
        let command = line.split(['#', '|', '>']).next().unwrap_or_default();
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let ended = logferry(&arguments, &[]);
        assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn every_alert_has_a_case_that_fires() {
    let tests = rule_tests();
    for Rule { alert, .. } in rules() {
        let fires = tests.lines().any(|line| line.contains("labels: ") && line.contains(&alert))
            || tests.contains(&format!("alertname: {alert}\n"));
        assert!(fires, "no case of the rules' tests expects {alert}");
    }
}

/// A quantile depends on the buckets that exist, so the cases may have only buckets that a worker has.
#[test]
fn the_cases_have_the_buckets_of_a_worker() {
    let mut registry = Registry::default();
    Metrics::default().register(&mut registry);
    let mut worker = String::new();
    text::encode(&mut worker, &registry).expect("text can be written");
    let bounds = |text: &str| -> BTreeSet<_> {
        let series = text.split("message_age_seconds_bucket{").skip(1);
        let bound = |series: &str| series.split("le=\"").nth(1)?.split('"').next().map(str::to_owned);
        series.map(|series| bound(series).expect("a bucket has a bound")).collect()
    };
    let (cases, worker) = (bounds(&rule_tests()), bounds(&worker));
    assert!(cases.len() > 3 && cases.is_subset(&worker), "{cases:?} are not all in {worker:?}");
}

#[test]
fn kubernetes_gets_the_same_rules() {
    let rules = read("observability/rules.yaml");
    let rules = &rules[rules.find("groups:").expect("the file has groups")..];
    let manifest = read("k8s/worker/components/monitoring/prometheus-rule.yaml");
    let (_, spec) = manifest.split_once("\nspec:\n").expect("the manifest has a spec");
    let spec: String =
        spec.lines().map(|line| format!("{}\n", line.strip_prefix("  ").unwrap_or(line))).collect();
    assert_eq!(spec, rules, "run k8s/generate");
}

#[test]
fn every_query_names_metrics_and_labels_that_exist() {
    let known = Known::from_page(&read("docs/metrics.md"));
    let (mut problems, mut queries) = (Vec::new(), Vec::new());
    for Rule { alert, expr, .. } in rules() {
        problems.extend(known.problems(&expr, &[]).into_iter().map(|problem| format!("{alert}: {problem}")));
    }
    let dashboard: Value = serde_json::from_str(&read("observability/dashboard.json")).expect("JSON");
    let panels = panels(&dashboard);
    assert!(panels.len() > 20, "the panels are found");
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().expect("each target has a query");
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let named: Vec<_> =
                legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0.trim())).collect();
            queries.push(promql::without_variables(query));
            let found = known.problems(query, &named).into_iter();
            problems.extend(found.map(|problem| format!("{}: {problem}", panel["title"])));
        }
    }
    for variable in dashboard["templating"]["list"].as_array().expect("the dashboard has variables") {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        if let Some(inner) = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')')) {
            let (query, label) = inner.rsplit_once(',').expect("a query and a label");
            problems.extend(known.problems(query, &[label.trim()]));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    promtool::parses(&queries);
}

/// All panels, including those inside collapsed rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().expect("the dashboard has panels");
    let inner = top.iter().flat_map(|panel| panel["panels"].as_array().into_iter().flatten());
    top.iter().chain(inner).collect()
}

#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: Value = serde_json::from_str(&read("observability/dashboard.json")).expect("JSON");
    assert_eq!(dashboard["id"], Value::Null, "an id would replace another dashboard");
    let variables = dashboard["templating"]["list"].as_array().expect("the dashboard has variables");
    let names: Vec<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "job", "tenant"]);
    let panels = panels(&dashboard);
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().expect("an id")).collect();
    assert_eq!(ids.len(), panels.len(), "no id is used twice");
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .filter_map(|panel| panel["title"].as_str())
        .collect();
    let expected = ["Freshness and lag", "Throughput", "Tenants", "Failures", "Queue", "AWS calls", "Worker"];
    assert_eq!(rows, expected);
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
}
