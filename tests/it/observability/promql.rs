//! Checks that a PromQL query parses, and names only metrics and labels that exist.

use std::collections::{BTreeMap, BTreeSet};

use rusty_promql_parser::{BinaryOp, Expr, GroupingAction, VectorSelector, expr};

/// Labels that Prometheus adds to every sample of a target.
const OF_TARGETS: [&str; 4] = ["cluster", "namespace", "job", "instance"];
/// Metrics that are not logferry's, with their labels.
const FOREIGN: [(&str, &[&str]); 3] = [
    // Prometheus's own.
    ("up", &[]),
    // kube-state-metrics.
    ("kube_horizontalpodautoscaler_status_desired_replicas", &["horizontalpodautoscaler"]),
    ("kube_horizontalpodautoscaler_spec_max_replicas", &["horizontalpodautoscaler"]),
];

/// The metrics that exist, with their labels.
pub(super) struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// The metrics that docs/metrics.md documents, and the foreign ones. `tests/it/docs.rs` compares the page with a worker.
    pub(super) fn from_page(page: &str) -> Self {
        let mut metrics = BTreeMap::new();
        for line in page.lines() {
            let mut cells = line.trim_start_matches('|').split(" | ").map(str::trim);
            let (Some(names), Some(kind)) = (cells.next(), cells.next()) else { continue };
            // A row may name several metrics of one kind.
            for name in names.split('`').skip(1).step_by(2) {
                let (name, labels) = name.split_once('{').unwrap_or((name, ""));
                let labels = labels.trim_end_matches('}').split([',', ' ']).filter(|label| !label.is_empty());
                let labels: BTreeSet<_> = labels.map(str::to_owned).collect();
                if kind.starts_with("histogram") {
                    let with_bound = labels.iter().cloned().chain(["le".to_owned()]).collect();
                    metrics.insert(format!("{name}_bucket"), with_bound);
                    metrics.insert(format!("{name}_sum"), labels.clone());
                    metrics.insert(format!("{name}_count"), labels);
                } else if ["counter", "gauge"].iter().any(|known| kind.starts_with(known)) {
                    metrics.insert(name.to_owned(), labels);
                }
            }
        }
        let foreign = FOREIGN.map(|(name, labels)| {
            (name.to_owned(), labels.iter().map(|label| (*label).to_owned()).collect())
        });
        metrics.extend(foreign);
        Self(metrics)
    }

    /// What is wrong with a query. Its result must have the labels `named`.
    pub(super) fn problems(&self, query: &str, named: &[&str]) -> Vec<String> {
        let mut problems = Vec::new();
        let query = without_variables(query);
        match expr(query.trim()) {
            Ok((rest, _)) if !rest.trim().is_empty() => {
                problems.push(format!("cannot be parsed from {rest:?}"))
            }
            Ok((_, expr)) => {
                let labels = self.labels(&expr, &mut problems);
                let missing = named.iter().filter(|label| !labels.contains(**label));
                problems
                    .extend(missing.map(|label| format!("the legend names {label}, which the result lacks")));
            }
            Err(error) => problems.push(format!("cannot be parsed: {error}")),
        }
        problems.iter().map(|problem| format!("{problem}: {}", query.trim())).collect()
    }

    /// The labels that an expression's result may have.
    fn labels(&self, expr: &Expr, problems: &mut Vec<String>) -> BTreeSet<String> {
        match expr {
            Expr::VectorSelector(selector) => self.selected(selector, problems),
            Expr::MatrixSelector(matrix) => self.selected(&matrix.selector, problems),
            Expr::Paren(inner) => self.labels(inner, problems),
            Expr::Unary(unary) => self.labels(&unary.expr, problems),
            Expr::Subquery(subquery) => self.labels(&subquery.expr, problems),
            Expr::Call(call) => {
                let of_arguments = call.args.iter().map(|argument| self.labels(argument, problems));
                let mut labels: BTreeSet<_> = of_arguments.flatten().collect();
                if call.name == "histogram_quantile" && !labels.remove("le") {
                    problems.push("a quantile of no histogram".to_owned());
                }
                labels
            }
            Expr::Aggregation(aggregation) => {
                let labels = self.labels(&aggregation.expr, problems);
                let Some(grouping) = &aggregation.grouping else {
                    // These keep whole samples.
                    let keeps = ["topk", "bottomk"].contains(&aggregation.op.as_str());
                    return if keeps { labels } else { BTreeSet::new() };
                };
                all_exist(&grouping.labels, &labels, problems);
                match grouping.action {
                    GroupingAction::By => grouping.labels.iter().cloned().collect(),
                    GroupingAction::Without => labels,
                }
            }
            Expr::Binary(binary) => {
                let left = self.labels(&binary.lhs, problems);
                let labels = &left | &self.labels(&binary.rhs, problems);
                if let Some(matching) =
                    binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref())
                {
                    all_exist(&matching.labels, &labels, problems);
                }
                // The right side of these only selects among the left side's samples.
                if matches!(binary.op, BinaryOp::And | BinaryOp::Unless) { left } else { labels }
            }
            Expr::Number(_) | Expr::String(_) => BTreeSet::new(),
        }
    }

    fn selected(&self, selector: &VectorSelector, problems: &mut Vec<String>) -> BTreeSet<String> {
        let name = selector.name.clone().unwrap_or_default();
        let Some(own) = self.0.get(&name) else {
            problems.push(format!("no metric is named {name:?}"));
            return BTreeSet::new();
        };
        let of_targets = OF_TARGETS.iter().map(|label| (*label).to_owned());
        let labels: BTreeSet<_> = own.iter().cloned().chain(of_targets).collect();
        for matcher in &selector.matchers {
            if !labels.contains(&matcher.name) {
                problems.push(format!("{name} has no label {}", matcher.name));
            }
        }
        labels
    }
}

/// A query of the dashboard with the variable that Grafana replaces by a duration. Its other variables stand in strings.
pub(super) fn without_variables(query: &str) -> String {
    query.replace("$__rate_interval", "5m")
}

/// Checks that the labels that a query groups or matches by exist.
fn all_exist(named: &[String], labels: &BTreeSet<String>, problems: &mut Vec<String>) {
    let missing = named.iter().filter(|label| !labels.contains(*label));
    problems.extend(missing.map(|label| format!("nothing has the label {label}")));
}

#[test]
fn wrong_queries_are_noticed() {
    let page = "| Metric | Type | Counts |\n|---|---|---|\n| `a_total{reason}` | counter | x |\n\
                | `b_seconds{call, outcome}` | histogram | x |\n| `c`, `d{state}` | gauge | x |\n";
    let known = Known::from_page(page);
    let check = |query, named: &[&str], problem: &str| {
        let found = known.problems(query, named);
        match problem {
            "" => assert!(found.is_empty(), "{found:?}"),
            part => assert!(found.len() == 1 && found[0].contains(part), "{query}: {found:?}"),
        }
    };
    check("sum by (reason) (rate(a_total{job=\"x\"}[$__rate_interval]))", &["reason"], "");
    check("histogram_quantile(0.9, sum by (le, call) (rate(b_seconds_bucket[5m])))", &["call"], "");
    check("c > 1 unless ignoring (state) d{state=\"x\"} == 1", &["instance"], "");
    check("up == 0 or absent(c)", &[], "");
    check("c or d", &["state"], "");
    check("d unless ignoring (state) c", &["state"], "");
    check("c and ignoring (state) d", &["state"], "the legend names state");
    check("c unless ignoring (state) d", &["state"], "the legend names state");
    check("sum(rate(a_total[5m])", &[], "cannot be parsed");
    check("rate(a_total[5m]) @", &[], "cannot be parsed");
    check("rate(a[5m])", &[], "no metric is named \"a\"");
    check("b_seconds", &[], "no metric is named \"b_seconds\"");
    check("c{reason=\"x\"}", &[], "c has no label reason");
    check("sum by (tenant) (c)", &[], "nothing has the label tenant");
    check("sum by (reason) (a_total)", &["job"], "the legend names job");
    check("histogram_quantile(0.9, rate(a_total[5m]))", &[], "a quantile of no histogram");
}
