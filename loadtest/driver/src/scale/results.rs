//! The file with the tables: Markdown with one section per part. Each section can be replaced alone.

use std::{env, fmt, fs, io, path::Path};

use anyhow::Context;
use jiff::Timestamp;

use super::{Part, spread};
use crate::{
    report::{Report, shown},
    usage,
};

const HEAD: &str = "# Results

`loadtest/run` writes this file; `loadtest/README.md` explains the runs and the columns. The ratios are the result. Times
depend on the machine that each section names. In tables up to 2026-11-27, `release` is a less optimised profile than today's.
";
const NONE: &str = "-";

/// A Markdown table with one row per case.
#[derive(Debug)]
pub(super) struct Table {
    compared: bool,
    text: String,
}

impl Table {
    /// Creates a table without comparisons. `what` is the heading of the first column.
    pub(super) fn new(what: &str) -> Self {
        Self::headed(what, false)
    }

    /// Creates a table whose rows are compared with the first row.
    pub(super) fn compared(what: &str) -> Self {
        Self::headed(what, true)
    }

    fn headed(what: &str, compared: bool) -> Self {
        let mut table = Self { compared, text: String::new() };
        let mut heads =
            vec![what, "objects", "MB of JSON", "yardstick ratio", "MB per CPU s", "µs per event"];
        if compared {
            heads.push("relative to the first");
        }
        heads.extend(["peak RSS, MiB", "PutLogEvents per object", "other calls per object"]);
        table.line(&heads);
        let mut rules = vec!["---"];
        rules.resize(heads.len(), "---:");
        table.line(&rules);
        table
    }

    fn line(&mut self, cells: &[impl AsRef<str>]) {
        let cells: Vec<_> = cells.iter().map(AsRef::as_ref).collect();
        self.text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }

    /// Adds a row: the median of each figure over the runs, and the highest memory.
    pub(super) fn row(&mut self, name: &str, reports: &[Report], relative: &[f64]) {
        let Some(first) = reports.first() else { return };
        let median = |of: fn(&Report) -> Option<f64>| median(reports, of);
        let mut cells = vec![
            name.to_owned(),
            first.load.objects.to_string(),
            format!("{:.1}", first.plain_bytes as f64 / 1e6),
            shown(median(Report::ratio), NONE),
            median(Report::rate).map_or_else(|| NONE.to_owned(), |rate| format!("{rate:.0}")),
            shown(median(Report::cpu_per_event), NONE),
        ];
        if self.compared {
            cells.push(match spread(relative) {
                (Some(low), Some(middle), Some(high)) if relative.len() > 1 => {
                    format!("{middle:.3} ({low:.3} to {high:.3})")
                }
                (_, Some(only), _) => format!("{only:.3}"),
                _ => NONE.to_owned(),
            });
        }
        cells.push(format!("{:.1}", peak_rss(reports)));
        cells.push(shown(median(|report| Some(report.puts())), NONE));
        cells.push(shown(median(|report| Some(report.other_calls())), NONE));
        self.line(&cells);
    }
}

/// Median of a figure over the runs that have it.
pub(crate) fn median(reports: &[Report], of: impl Fn(&Report) -> Option<f64>) -> Option<f64> {
    let figures: Vec<f64> = reports.iter().filter_map(of).collect();
    spread(&figures).1
}

/// Highest memory of all runs, in MiB.
pub(crate) fn peak_rss(reports: &[Report]) -> f64 {
    reports.iter().map(Report::peak_rss).fold(0.0, f64::max)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

/// Machine, profile, commit and day of the figures.
pub(crate) fn conditions(fraction: f64) -> String {
    let told = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let profile = told("LOGFERRY_PROFILE").unwrap_or_else(|| "unknown".to_owned());
    let commit = told("LOGFERRY_COMMIT").map(|commit| format!(", commit {commit}")).unwrap_or_default();
    let machine = usage::machine();
    let day = Timestamp::now().strftime("%Y-%m-%d");
    let fraction = match fraction {
        1.0 => String::new(),
        _ => format!(" **A trial with {fraction} of the load: these figures mean nothing.**"),
    };
    format!("{machine}; profile `{profile}`{commit}; {day}.{fraction}")
}

/// Replaces a part's section in the file, or inserts it in its place. Other sections stay as they are.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn replace(path: &Path, part: Part, text: &str) -> anyhow::Result<()> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read {}", path.display()))?,
    };
    fs::write(path, replaced(&before, part, text)).with_context(|| format!("cannot write {}", path.display()))
}

fn replaced(file: &str, part: Part, text: &str) -> String {
    let mut sections: Vec<(&str, &str)> = file
        .split("\n## ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap_or((section, "")))
        .collect();
    let is = |title: &str, part: &Part| title == part.title();
    match sections.iter_mut().find(|(title, _)| is(title, &part)) {
        Some(section) => section.1 = text,
        None => {
            let later = Part::ALL.iter().skip_while(|other| **other != part);
            let later: Vec<_> = later.collect();
            let at = sections.iter().position(|(title, _)| later.iter().any(|part| is(title, part)));
            sections.insert(at.unwrap_or(sections.len()), (part.title(), text));
        }
    }
    let sections = sections.iter().map(|(title, text)| format!("\n## {title}\n\n{}\n", text.trim()));
    HEAD.to_owned() + &sections.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_part_replaces_only_its_own_section() {
        let one = replaced("", Part::Sizes, "sizes\n");
        assert_eq!(one, format!("{HEAD}\n## Sizes of objects\n\nsizes\n"));
        let two = replaced(&one, Part::Headline, "headline\n\n| a |");
        let headline = Part::Headline.title();
        assert_eq!(
            two,
            format!("{HEAD}\n## {headline}\n\nheadline\n\n| a |\n\n## Sizes of objects\n\nsizes\n")
        );
        let again = replaced(&two, Part::Headline, "other");
        assert_eq!(again, format!("{HEAD}\n## {headline}\n\nother\n\n## Sizes of objects\n\nsizes\n"));
        assert_eq!(replaced(&again, Part::Sizes, "sizes"), again);
        // A section that was written by hand stays in its place.
        let foreign = "\n## By hand\n\n| b |\n";
        let by_hand = format!("{HEAD}\n## {headline}\n\nold\n{foreign}\n## Sizes of objects\n\nsizes\n");
        let kept = replaced(&by_hand, Part::Headline, "new");
        assert_eq!(kept, by_hand.replace("old", "new"));
        let added = replaced(&kept, Part::Tenants, "tenants");
        assert_eq!(added, kept.replace("\n## Sizes", "\n## Tenants\n\ntenants\n\n## Sizes"));
    }

    #[test]
    fn a_row_shows_the_median_of_its_runs() {
        let mut table = Table::compared("tenants");
        let reports = [report(400, Some(200)), report(900, Some(300)), report(500, Some(200))];
        table.row("10", &reports, &[1.0, 1.25, 0.75]);
        table.row("1", &reports[..1], &[]);
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[2],
            "| 10 | 4 | 20.0 | 2.50 | 40 | 50.00 | 1.000 (0.750 to 1.250) | 48.0 | 2.00 | 1.50 |"
        );
        assert_eq!(lines[3], "| 1 | 4 | 20.0 | 2.00 | 50 | 40.00 | - | 48.0 | 2.00 | 1.50 |");
        let columns = |line: &str| line.matches('|').count();
        assert!(lines.iter().all(|line| columns(line) == 11), "{text}");
        let mut table = Table::new("size");
        table.row("1 kB", &[report(100, None)], &[]);
        let text = table.to_string();
        assert!(text.lines().all(|line| columns(line) == 10), "{text}");
        assert!(text.ends_with("| 1 kB | 4 | 20.0 | - | - | - | 48.0 | 2.00 | 1.50 |"), "{text}");
    }
}
