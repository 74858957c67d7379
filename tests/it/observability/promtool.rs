//! Runs promtool: evaluates the shipped alert rules on a worker's samples, and parses queries with Prometheus's own parser.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    path::Path,
    process::Command,
};

use serde_json::json;

use crate::{optional::runs, target::unique};

/// Factor by which all times are longer for the rules than in the test. The rules wait for minutes; the test takes seconds.
const DILATION: f64 = 60.0;

/// Samples of a worker by the second in which they were scraped, counted from the beginning.
#[derive(Debug, Default)]
pub(super) struct Recording(BTreeMap<u64, BTreeMap<String, f64>>);

/// Alerts that fire at a time: name and tenant of each. The tenant is empty if the alert has none.
pub(super) struct Firing<'a> {
    pub(super) at_second: u64,
    pub(super) alerts: &'a [(&'a str, &'a str)],
}

impl Recording {
    /// Adds a scrape. `began` is the Unix time of the beginning, in seconds.
    pub(super) fn add(&mut self, second: u64, began: f64, scraped: &str) {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let value = value.parse::<f64>().ok()?;
            let dilated = match name {
                name if name.ends_with("_timestamp_seconds") => (value - began) * DILATION,
                name if name.ends_with("_seconds") => value * DILATION,
                _ => value,
            };
            Some((series.to_owned(), dilated))
        };
        // The bounds of histograms would have to be dilated too. No alert of this test needs one.
        let lines = scraped.lines().filter(|line| !line.starts_with('#') && !line.contains("le=\""));
        self.0.insert(second, lines.filter_map(sample).collect());
    }

    /// Values of one series over time.
    pub(super) fn values(&self, series: &str) -> Vec<f64> {
        self.0.values().filter_map(|samples| samples.get(series).copied()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn last_second(&self) -> u64 {
        self.0.keys().next_back().copied().unwrap_or_default()
    }

    /// A test for `promtool test rules`, in JSON, which is YAML too.
    fn rule_test(&self, expected: &[Firing]) -> String {
        let names: BTreeSet<_> = self.0.values().flat_map(BTreeMap::keys).collect();
        let input: Vec<_> = names
            .into_iter()
            .map(|series| {
                let value = |second| match self.0.get(&second).and_then(|samples| samples.get(series)) {
                    Some(value) => value.to_string(),
                    // Prometheus uses the sample before, if it is not older than five minutes.
                    None => "_".to_owned(),
                };
                let values: Vec<_> = (0..=self.last_second()).map(value).collect();
                json!({ "series": of_target(series), "values": values.join(" ") })
            })
            .collect();
        let queries: Vec<_> = expected
            .iter()
            .map(|Firing { at_second, alerts }| {
                let alert = |(name, tenant): &(&str, &str)| match *tenant {
                    "" => json!({ "labels": format!("{{alertname=\"{name}\"}}"), "value": 1 }),
                    _ => json!({ "labels": format!("{{alertname=\"{name}\", tenant=\"{tenant}\"}}"), "value": 1 }),
                };
                json!({
                    "expr": "count by (alertname, tenant) (ALERTS{alertstate=\"firing\"})",
                    "eval_time": format!("{at_second}m"),
                    "exp_samples": alerts.iter().map(alert).collect::<Vec<_>>(),
                })
            })
            .collect();
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability/rules.yaml");
        json!({
            "rule_files": [rules],
            "evaluation_interval": "1m",
            "tests": [{ "interval": "1m", "input_series": input, "promql_expr_test": queries }],
        })
        .to_string()
    }

    /// Checks which of the shipped alerts fire on the recording, and that no other does.
    pub(super) fn check_alerts(&self, expected: &[Firing]) {
        accepts(["test", "rules"], &self.rule_test(expected));
    }
}

/// Checks that Prometheus's own parser takes these queries.
pub(super) fn parses(queries: &[String]) {
    let rule =
        |(number, query): (usize, &String)| json!({ "record": format!("query:{number}"), "expr": query });
    let rules: Vec<_> = queries.iter().enumerate().map(rule).collect();
    let groups = json!({ "groups": [{ "name": "queries", "rules": rules }] });
    accepts(["check", "rules"], &groups.to_string());
}

/// Checks that promtool succeeds with this text. Without promtool, only prints a notice.
pub(crate) fn accepts(arguments: [&str; 2], text: &str) {
    let promtool = env::var_os("LOGFERRY_PROMTOOL").unwrap_or_else(|| "promtool".into());
    if !runs(&promtool, "LOGFERRY_REQUIRE_PROMTOOL", "observability/check") {
        return;
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("promtool-{}.json", unique()));
    fs::write(&file, text).expect("the file can be written");
    let mut command = Command::new(&promtool);
    command.args(arguments);
    match arguments {
        // Reads nothing but standard input.
        ["check", "metrics"] => command.stdin(File::open(&file).expect("the file was written")),
        _ => command.arg(&file),
    };
    let ended = command.output().expect("promtool ran a moment ago");
    let said = [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(ended.status.success(), "{}: {}", file.display(), said.concat());
    fs::remove_file(&file).expect("the file was written");
}

/// The series with the labels that Prometheus adds.
fn of_target(series: &str) -> String {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let separator = if labels == "}" { "" } else { ", " };
    format!("{name}{{job=\"logferry\", instance=\"worker\"{separator}{labels}")
}

#[test]
fn times_are_dilated_and_gaps_stay_gaps() {
    let mut recording = Recording::default();
    let scrape = |age: &str| {
        format!(
            "# HELP x\na_seconds{{t=\"x\"}} {age}\nb_timestamp_seconds 99\nc_total 7\nd_bucket{{le=\"1\"}} 1\n"
        )
    };
    recording.add(0, 100.0, &scrape("0.5"));
    recording.add(2, 100.0, &scrape("2.5"));
    assert_eq!(recording.values("a_seconds{t=\"x\"}"), [30.0, 150.0]);
    let test = recording.rule_test(&[Firing { at_second: 2, alerts: &[("A", "t"), ("B", "")] }]);
    let test: serde_json::Value = serde_json::from_str(&test).expect("JSON");
    let expected = json!([
        { "series": "a_seconds{job=\"logferry\", instance=\"worker\", t=\"x\"}", "values": "30 _ 150" },
        { "series": "b_timestamp_seconds{job=\"logferry\", instance=\"worker\"}", "values": "-60 _ -60" },
        { "series": "c_total{job=\"logferry\", instance=\"worker\"}", "values": "7 _ 7" },
    ]);
    assert_eq!(test["tests"][0]["input_series"], expected);
    let samples = &test["tests"][0]["promql_expr_test"][0]["exp_samples"];
    assert_eq!(samples[0]["labels"], "{alertname=\"A\", tenant=\"t\"}");
    assert_eq!(samples[1]["labels"], "{alertname=\"B\"}");
}
