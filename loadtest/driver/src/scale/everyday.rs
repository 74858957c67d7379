//! The part `mix`: what the everyday load costs, and its latency at half load.

use std::collections::BTreeSet;

use anyhow::Context;

use super::{
    Options,
    results::{median, peak_rss},
};
use crate::{
    latency, mix,
    report::{Report, shown},
    run::{Load, MIX_OBJECTS},
};

impl Options {
    /// Runs the mix several times, each time from a full queue, and then measures its latency at half load.
    pub(super) async fn mix(&self) -> anyhow::Result<String> {
        let share = |number: u64| (number as f64 * self.fraction).ceil() as u64;
        let load = Load::mix(share(MIX_OBJECTS), share(mix::TENANTS));
        let mut reports = Vec::new();
        for number in 1..=self.repeats {
            reports.push(self.run(&format!("mix {number}"), &load).await?);
        }
        let usual = latency::Load::default();
        let half = latency::Load {
            loads: vec![50],
            seconds: share(usual.seconds),
            backlog: share(usual.backlog),
            tenants: load.tenants,
            ..usual
        };
        let latencies = latency::measure(&half, &self.through).await?;
        let point = latencies.bounded().context("half load was not measured")?;
        let [p50, p95, p99] = [50, 95, 99].map(|per_cent| point.milliseconds(per_cent));
        Ok(format!(
            "{}\nLatency at half of what the worker can deliver, from an object's event to the acceptance of its last line: p50 {p50} ms, \
             p95 **{p95} ms**, p99 {p99} ms.",
            described(&reports)
        ))
    }
}

fn described(reports: &[Report]) -> String {
    let Some(Report { load, streams, .. }) = reports.first() else { return String::new() };
    let figure = |of: fn(&Report) -> Option<f64>| shown(median(reports, of), "?");
    let mut text = format!(
        "{} objects of {} tenants for {streams} log streams, from a full queue, with the worker's default concurrency. MB of JSON \
         per CPU second: **{}**; ms of CPU per object: **{}**; peak RSS: **{:.1} MiB**.\n\n",
        load.objects,
        load.tenants,
        figure(Report::rate),
        figure(Report::cpu_per_object),
        peak_rss(reports)
    );
    text.push_str(
        "| run | MB of JSON | MB per CPU s | ms CPU per object | objects per second | peak RSS, MiB | yardstick ratio |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (number, report) in (1..).zip(reports) {
        text.push_str(&format!(
            "| {number} | {:.1} | {} | {} | {:.0} | {:.1} | {} |\n",
            report.plain_bytes as f64 / 1e6,
            shown(report.rate(), "-"),
            shown(report.cpu_per_object(), "-"),
            report.objects_per_second(),
            report.peak_rss(),
            shown(report.ratio(), "-"),
        ));
    }
    text.push_str(&format!("\n{}", calls(reports)));
    text
}

/// Table of the calls per object by kind: the median of the runs.
fn calls(reports: &[Report]) -> String {
    let mut table = "| call | per object |\n| --- | ---: |\n".to_owned();
    let per_object = |report: &Report, name: &str| {
        let count = report.calls.get(name).copied().unwrap_or_default();
        Some(count as f64 / report.load.objects as f64)
    };
    let names: BTreeSet<&String> = reports.iter().flat_map(|report| report.calls.keys()).collect();
    for name in names {
        let calls = median(reports, |report| per_object(report, name)).unwrap_or_default();
        table.push_str(&format!("| {name} | {calls:.3} |\n"));
    }
    let all = median(reports, |report| Some(report.puts() + report.other_calls())).unwrap_or_default();
    table.push_str(&format!("| all | **{all:.3}** |\n"));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn the_mix_is_described_by_the_medians_of_its_runs() {
        let mut reports = [report(400, Some(200)), report(900, Some(300)), report(500, Some(200))];
        reports[1].calls.insert("s3:GetObject".to_owned(), 6);
        reports[2].calls.insert("s3:GetObject".to_owned(), 5);
        let text = described(&reports);
        let figures =
            "MB of JSON per CPU second: **40.00**; ms of CPU per object: **125.00**; peak RSS: **48.0 MiB**";
        assert!(text.contains(figures), "{text}");
        for line in [
            "| 2 | 20.0 | 22.22 | 225.00 | 4 | 48.0 | 3.00 |",
            "| logs:PutLogEvents | 2.000 |",
            "| s3:GetObject | 1.250 |",
            "| all | **3.750** |",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
        }
    }
}
