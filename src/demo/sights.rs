//! What an operator sees of a worker: the status page, metrics, alerts, log lines and the verdicts of operators' commands.
//!
//! Each function looks, and fails if it does not find what it is asked for.

use std::{
    env,
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use jiff::SignedDuration;
use logferry_testbed::worker::{Samples, WorkerProcess, http_get};
use serde_json::Value;
use tokio::process::Command;

use super::stage::Stage;

/// Time in which the status page shows a change. A worker writes the page anew once per second.
const PAGE_IS_WRITTEN: Duration = Duration::from_secs(5);
/// Longest line of what is seen, without the place.
const COLUMNS: usize = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The alerts that are shipped.
const RULES: &str = include_str!("../../observability/rules.yaml");

/// Something that an operator sees, and where.
#[derive(Debug)]
pub(super) struct Sight {
    place: &'static str,
    text: String,
}

/// A worker's endpoint, and the environment of operators' commands.
#[derive(Debug)]
pub(super) struct Sights<'a> {
    stage: &'a Stage,
    address: SocketAddr,
}

impl<'a> Sights<'a> {
    pub(super) async fn new(stage: &'a Stage, worker: &mut WorkerProcess) -> anyhow::Result<Self> {
        Ok(Self { stage, address: worker.listening().await? })
    }

    pub(super) async fn samples(&self) -> anyhow::Result<Samples> {
        Samples::read(self.address).await.context("cannot read /metrics")
    }

    /// A metric with exactly this value.
    pub(super) async fn metric(&self, name: &str, value: f64) -> anyhow::Result<Sight> {
        let found = self.samples().await?.get(name);
        ensure!(found == value, "{name} is {found} instead of {value}");
        Ok(Sight { place: "metric", text: format!("{name} {found}") })
    }

    /// A metric with a higher value than this.
    pub(super) async fn metric_above(&self, name: &str, value: f64) -> anyhow::Result<Sight> {
        let found = self.samples().await?.get(name);
        ensure!(found > value, "{name} is {found}, and not more than {value}");
        Ok(Sight { place: "metric", text: format!("{name} {found}, rising") })
    }

    /// The status page, with these words in the text about one tenant or in one line of a list.
    pub(super) async fn page(&self, words: &[&str]) -> anyhow::Result<Sight> {
        let started = Instant::now();
        loop {
            let (status, page) = http_get(self.address, "/").await.context("cannot read the status page")?;
            ensure!(status == 200, "the status page answers {status}");
            let entry =
                entries(&page).into_iter().find(|entry| words.iter().all(|word| entry.contains(word)));
            if let Some(entry) = entry {
                return Ok(Sight {
                    place: "status page",
                    text: format!("http://{}/\n{entry}", self.address),
                });
            }
            let wanted = words.join(" and ");
            ensure!(
                started.elapsed() < PAGE_IS_WRITTEN,
                "the status page does not show {wanted}: {}",
                text_of(&page)
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// An alert that is shipped, and when it would fire. The demo ends before it does.
    pub(super) fn alert(&self, name: &str) -> anyhow::Result<Sight> {
        let rule = RULES.split("- alert: ").find(|rule| rule.lines().next() == Some(name));
        let rule = rule.with_context(|| format!("observability/rules.yaml has no alert {name}"))?;
        let place = field(rule, "runbook_url: ").and_then(|url| url.split_once("/docs/"));
        let (_, place) = place.context("the alert has a section in the runbook")?;
        let minutes =
            fires_after(rule).with_context(|| format!("when does {name} fire?"))?.as_secs_f64() / 60.0;
        Ok(Sight { place: "alert", text: format!("{name} would fire after {minutes} min: docs/{place}") })
    }

    /// A command that must end with this code. Its output must contain each of these words; the lines with one of them are
    /// shown.
    pub(super) async fn command(
        &self,
        arguments: &[&str],
        code: i32,
        words: &[&str],
    ) -> anyhow::Result<Sight> {
        let program = env::current_exe().context("cannot find this program's own file")?;
        let environment = self.stage.worker_environment().await?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(environment).stdin(Stdio::null()).kill_on_drop(true);
        let name = format!("logferry {}", arguments.join(" "));
        let ended = command.output().await.with_context(|| format!("cannot run {name}"))?;
        let said =
            [ended.stdout, ended.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        ensure!(
            ended.status.code() == Some(code) && words.iter().all(|word| said.contains(word)),
            "{name} ended with {} and said:\n{said}",
            ended.status
        );
        let shown = said.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        let shown: String = shown.map(|line| format!("\n{}", line.trim())).collect();
        Ok(Sight { place: "command", text: format!("{name}    # exit code {code}{shown}") })
    }
}

/// How long a trouble lasts before its rule fires: the age that the rule compares with, plus the rule's `for`. A comparison is
/// about an age if its left side is a metric in seconds.
fn fires_after(rule: &str) -> anyhow::Result<Duration> {
    let held = field(rule, "for: ").unwrap_or("0s");
    let held = held.parse::<SignedDuration>().with_context(|| format!("{held} is no duration"))?;
    let expression = rule.split("labels:").next().unwrap_or_default();
    let ages = expression.split('>').zip(expression.split('>').skip(1)).filter_map(|(left, right)| {
        let metric = left
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .rfind(|word| word.starts_with("logferry_"))?;
        let number = right.trim_start_matches(['=', ' ', '\n']).split_whitespace().next()?;
        metric.ends_with("_seconds").then(|| number.trim_end_matches(')').parse::<u64>().ok())?
    });
    Ok(Duration::from_secs(ages.max().unwrap_or_default()) + held.unsigned_abs())
}

/// The value of a field of a rule.
fn field<'a>(rule: &'a str, name: &str) -> Option<&'a str> {
    rule.lines().find_map(|line| line.trim().strip_prefix(name))
}

/// The first line of the worker's log with these fields. Shows the values of `shown`.
pub(super) fn log(worker: &WorkerProcess, fields: &[(&str, &str)], shown: &[&str]) -> anyhow::Result<Sight> {
    let log = worker.read_log()?;
    let line = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| fields.iter().all(|(name, value)| line[*name] == *value))
        .with_context(|| format!("the log has no line with {fields:?}"))?;
    let mut text = String::new();
    for name in shown {
        let value = line[*name].as_str().with_context(|| format!("the log line has no {name}: {line}"))?;
        text += &if *name == "message" { value.to_owned() } else { format!("\n{name}: {value}") };
    }
    Ok(Sight { place: "log", text })
}

/// A title, and the sights below it.
pub(super) fn text(title: &str, sights: &[Sight]) -> String {
    let mut text = title.to_owned();
    for Sight { place, text: seen } in sights {
        let mut place = *place;
        for (number, line) in seen.lines().enumerate() {
            let (first, others) = if number == 0 { ("", "    ") } else { ("  ", "      ") };
            for (piece, line) in wrapped(line, COLUMNS).into_iter().enumerate() {
                let indent = if piece == 0 { first } else { others };
                text += &format!("\n  {place:<11}  {indent}{line}");
                place = "";
            }
        }
    }
    text
}

/// Breaks a text into lines at spaces. A word that is longer than a line gets its own. Spaces inside a line stay.
fn wrapped(text: &str, columns: usize) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while rest.chars().count() > columns {
        // One character more than fits, which may be the space.
        let fits = rest.char_indices().nth(columns + 1).map_or(rest.len(), |(at, _)| at);
        let Some(end) = rest[..fits].rfind(' ').or_else(|| rest.find(' ')) else { break };
        lines.push(rest[..end].trim_end());
        rest = rest[end..].trim_start();
    }
    lines.push(rest);
    lines
}

/// The text of each tenant and of each list item on the status page.
fn entries(page: &str) -> Vec<String> {
    let of = |tag: &'static str| {
        let (open, close) = (format!("<{tag}"), format!("</{tag}>"));
        let bodies = page.split(&open).skip(1).map(|rest| rest.split(&close).next().unwrap_or_default());
        bodies.map(|body| text_of(&format!("{open}{body}"))).collect::<Vec<_>>()
    };
    [of("tbody"), of("li")].concat()
}

/// The text of HTML without its tags, with one space between words.
fn text_of(html: &str) -> String {
    let mut text = String::new();
    for part in html.split('<') {
        text.push(' ');
        text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
    }
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_fires_after_the_age_and_the_time_of_its_rule() {
        let check = |expression: &str, held: &str, seconds| {
            let rule = format!("X\n  expr: {expression}\n  for: {held}\n  labels:\n    a: b > 7\n");
            assert_eq!(fires_after(&rule).expect("a rule").as_secs(), seconds, "{rule}");
        };
        check("max by (a) (logferry_role_breakers_open) > 0", "5m", 300);
        check("max(logferry_dead_letter_queue_messages{a=\"b\"}) >= 9", "90s", 90);
        check(
            "|\n  (max by (tenant) (logferry_tenant_oldest_waiting_seconds{a!=\"b\"}) > 300)\n  unless",
            "1m",
            360,
        );
        check("logferry_a_seconds > 300 unless logferry_b_timestamp_seconds > time() - 900", "0m", 300);
        assert!(fires_after("X\n  for: soon\n").is_err());
        for rule in RULES.split("- alert: ").skip(1) {
            fires_after(rule).expect("every shipped rule can be read");
        }
    }

    #[test]
    fn html_becomes_text() {
        let check = |html, text: &str| assert_eq!(text_of(html), text);
        check("<tr class=\"a\"><td>acme</td>\n<td><b>refused</b> since 3 s</td>", "acme refused since 3 s");
        check("<td>&lt;script&gt; &amp;amp;</td>", "<script> &amp;");
        check("", "");
    }

    #[test]
    fn the_pages_entries_are_tenants_and_lines() {
        let page = "<table><tbody class=\"ok\"><tr><td>a</td><td>ok</td></tr><tr><td>why</td></tr></tbody></table>\
                    <ul><li class=\"x\"><b>b</b> late</li><li>c</li></ul>";
        assert_eq!(entries(page), ["a ok why", "b late", "c"]);
    }

    #[test]
    fn long_lines_are_broken_at_spaces() {
        let check = |text, lines: &[&str]| assert_eq!(wrapped(text, 7), lines);
        check("", &[""]);
        check("a  b  c", &["a  b  c"]);
        check("a  b  c d", &["a  b  c", "d"]);
        check("arn:aws:iam x", &["arn:aws:iam", "x"]);
        check("ü ü ü ü ü", &["ü ü ü ü", "ü"]);
    }

    #[test]
    fn sights_are_aligned_below_their_title() {
        let sights = [
            Sight { place: "metric", text: "a 1".to_owned() },
            Sight { place: "status page", text: "http://x/\nacme refused".to_owned() },
        ];
        let expected = "T\n  metric       a 1\n  status page  http://x/\n                 acme refused";
        assert_eq!(text("T", &sights), expected);
    }
}
