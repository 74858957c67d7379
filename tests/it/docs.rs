//! The pages of the repository: no link is broken, the tests that design pages name exist, and `docs/metrics.md` has every
//! metric of a worker.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use openmetrics_parser::{
    MetricsExposition, OpenMetricsType, OpenMetricsValue, openmetrics::parse_openmetrics,
    prometheus::parse_prometheus,
};

use crate::{observability::promtool::accepts, setup::Setup};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with that extension, except build output and hidden files.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let paths = entries.map(|entry| entry.expect("the entry is readable").path());
    paths
        .filter(|path| {
            let name = path.file_name().expect("it is an entry").to_string_lossy();
            !name.starts_with('.') && name != "target"
        })
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is readable")
}

/// The text between each `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let legal = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_matches(['#', ' '])
        .to_lowercase()
        .chars()
        .filter(legal)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn no_link_is_broken() {
    let mut broken = Vec::new();
    for page in files(root(), "md") {
        let text = read(&page);
        for target in between(&text, "](", ")").filter(|target| !target.contains("://")) {
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let found = path.exists()
                && (place.is_empty()
                    || read(&path).lines().any(|line| line.starts_with('#') && anchor(line) == place));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_test_that_a_design_page_names_exists() {
    let code: String = ["src", "tests", "crates", "loadtest"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|path| read(&path))
        .collect();
    for page in files(&root().join("docs/design"), "md") {
        let text = read(&page) + "\n\n";
        for names in between(&text, "Held by:", "\n\n") {
            let quoted = names.split('`').skip(1).step_by(2);
            for name in quoted.filter(|name| !name.contains(['/', ' ', '.'])) {
                assert!(code.contains(&format!("fn {name}(")), "{}: no test is named {name}", page.display());
            }
        }
    }
}

/// The metrics of a worker in `docs/metrics.md`, each as name, labels and type.
fn documented() -> &'static BTreeSet<String> {
    static PAGE: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let page = read(&root().join("docs/metrics.md"));
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        // A worker has none of the metrics of `logferry doctor --watch`.
        let rows = rows.filter(|(metric, _)| metric.contains('_') && !metric.starts_with("logferry_doctor_"));
        rows.map(|(metric, rest)| {
            let (name, labels) = metric.trim_end_matches('}').split_once('{').unwrap_or((metric, ""));
            described(name, labels.split(','), rest.split(' ').next().unwrap_or_default())
        })
        .collect()
    });
    &PAGE
}

fn described<'a>(name: &str, labels: impl Iterator<Item = &'a str>, kind: &str) -> String {
    let labels: BTreeSet<_> = labels.filter(|label| !label.is_empty()).collect();
    format!("{name}{labels:?} {kind}")
}

/// The metrics that have samples in a text of Prometheus, each as name, labels and type.
fn written(text: &str) -> BTreeSet<String> {
    let text = parse_prometheus(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let metrics = text.families.into_values().map(|family| {
        let labels = family.get_label_names().iter().map(String::as_str);
        described(&family.family_name, labels, &format!("{:?}", family.family_type).to_lowercase())
    });
    metrics.collect()
}

/// Checks that each metric of a worker is on the page, with its labels and type. Every test that reads a worker's metrics calls
/// this. A test in `src/app/metrics.rs` shows that each metric of the page is written.
#[track_caller]
pub(crate) fn assert_documented(text: &str) {
    let unknown: Vec<_> = written(text).difference(documented()).cloned().collect();
    assert!(unknown.is_empty(), "docs/metrics.md does not have {unknown:?}");
}

/// Parses a text of OpenMetrics.
pub(crate) fn open_metrics(text: &str) -> MetricsExposition<OpenMetricsType, OpenMetricsValue> {
    // The specification allows units of histograms, but this parser does not. `observability/check` runs one that reads them.
    let without_units: Vec<_> = text.lines().filter(|line| !line.starts_with("# UNIT ")).collect();
    parse_openmetrics(&(without_units.join("\n") + "\n")).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The metrics that a worker without problems does not write, and those of tasks of ECS.
const OF_PROBLEMS: [&str; 16] = [
    "logferry_aws_direct_failures_total",
    "logferry_budget_waits_total",
    "logferry_dead_letters_overdue_total",
    "logferry_dead_letters_total",
    "logferry_failures_total",
    "logferry_group_breaker_changes_total",
    "logferry_ledger_errors_total",
    "logferry_messages_sent_anew_total",
    "logferry_quarantined_total",
    "logferry_queue_errors_total",
    "logferry_role_breaker_changes_total",
    "logferry_skipped_total",
    "logferry_task_protected",
    "logferry_task_protection_calls_total",
    "logferry_tenant_failures_total",
    "logferry_visibility_extensions_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_writes_its_metrics_in_two_formats() {
    let setup = Setup::new("docs").await;
    setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_METRICS__HEARTBEAT_TENANT", "acme")]).await;
    let records = format!(r#"[{{"message":"m","timestamp":"{}"}}]"#, jiff::Timestamp::now());
    setup.upload("acme/prod-1/web/web-0/1.json", records).await;
    setup.acknowledged(&worker, 1).await;
    worker
        .until("the queues are asked", |metrics| {
            let asked = ["logferry_queue_messages{state=\"visible\"}", "logferry_dead_letter_queue_messages"];
            asked.iter().all(|name| metrics.contains(name))
        })
        .await;
    let (kind, text) = worker.http_get_as("/metrics", "text/plain").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let written = written(&text);
    let missing = documented().difference(&written);
    let missing: Vec<_> = missing.filter_map(|metric| metric.split('{').next()).collect();
    assert_eq!(missing, OF_PROBLEMS);
    let (kind, open_metrics) = worker.http_get_as("/metrics", "application/openmetrics-text").await;
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(self::open_metrics(&open_metrics).families.contains_key("logferry_freshness_seconds"));
    accepts(["check", "metrics"], &text);
}
