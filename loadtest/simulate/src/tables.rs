//! The tables of docs/scaling.md.

use std::{fmt::Write, thread};

use crate::{
    collector::Collector,
    outcome::{Outcome, Scarce},
    scaling::{Asked, CLUSTERS, Experiment, SCALES, asked, limits as all_limits},
    settings::{Fleet, Load, Quotas},
};

/// What is asked of each limit at each scale.
pub(crate) fn limits(seed: u64) -> String {
    let found = thread::scope(|scope| {
        SCALES
            .map(|scale| scope.spawn(move || asked(scale, seed)))
            .map(|run| run.join().expect("a simulation does not panic"))
    });
    let mut text = String::from(
        "| Limit | default | 1x: day | worst | 10x: day | worst | 100x: day | worst | what moves it | how sure |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---|---|\n",
    );
    let mut row = |name: &str, cell: &dyn Fn(&Asked, f64) -> [String; 2]| {
        let cells = found.iter().zip(SCALES).flat_map(|(asked, scale)| cell(asked, scale as f64));
        let _ = writeln!(text, "| {name} | - | {} | - | - |", cells.collect::<Vec<_>>().join(" | "));
    };
    let one = Load::of(CLUSTERS);
    let usual = Collector::new(&one, 1.0);
    let dash = || "-".to_owned();
    row("objects per second", &|_, scale| [number(scale * usual.rate), dash()]);
    row("MB of JSON per second", &|_, scale| [number(scale * usual.rate * usual.mean_bytes() / 1e6), dash()]);
    row("tenants", &|_, scale| [number(scale * one.tenants as f64), dash()]);
    for limit in all_limits() {
        let mut cells = vec![limit.name.to_owned(), number(limit.quota)];
        for asked in &found {
            let mark = |value: f64| match value > limit.quota {
                true => format!("**{}**", number(value)),
                false => number(value),
            };
            cells.extend([mark(asked.of_day(limit.scarce)), mark(asked.peak(limit.scarce))]);
        }
        cells.extend([limit.remedy, limit.sure].map(str::to_owned));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

struct Row {
    scale: usize,
    name: &'static str,
    outcome: Outcome,
    end: String,
}

/// What becomes of the objects in each case.
pub(crate) fn cases(seed: u64, latencies: f64) -> String {
    let at =
        |scale: usize, fleet: Fleet| Experiment::of(CLUSTERS * scale, fleet, seed).with_latencies(latencies);
    let no_date = Fleet { daily_streams: false, ..Fleet::shipped() };
    type Case<'a> = (usize, &'static str, Box<dyn Fn() -> (Outcome, String) + Send + Sync + 'a>);
    let outcome = |outcome: Outcome| {
        let end = format!("{} left", number(outcome.left as f64));
        (outcome, end)
    };
    let restarted = |experiment: Experiment| {
        let restart = experiment.restart(60);
        let end = match restart.caught_up_after {
            Some(seconds) => format!("caught up after {seconds} s"),
            None => format!("{} left after 180 s", number(restart.outcome.left as f64)),
        };
        (restart.outcome, end)
    };
    let cases: Vec<Case> = vec![
        (
            1,
            "`queueLength` 200: 15 minutes of a day",
            Box::new(|| outcome(at(1, Fleet { queue_length: 200, ..Fleet::shipped() }).day(900))),
        ),
        (1, "a: as shipped, `queueLength` 20", Box::new(|| outcome(at(1, Fleet::shipped()).day(900)))),
        (1, "a after midnight", Box::new(|| outcome(at(1, Fleet::shipped()).midnight(300)))),
        (
            1,
            "b: a, streams without `{date}`, after midnight",
            Box::new(|| outcome(at(1, no_date.clone()).midnight(300))),
        ),
        (
            1,
            "b, ten times the logs for 5 minutes",
            Box::new(|| outcome(at(1, no_date.clone()).burst(10.0, 300))),
        ),
        (1, "b, all workers stop for a minute", Box::new(|| restarted(at(1, no_date.clone())))),
        (10, "a: a minute of a day", Box::new(|| outcome(at(10, Fleet::shipped()).day(60)))),
        (10, "c: b with `queueLength` 64", Box::new(|| outcome(at(10, Fleet::recommended()).day(60)))),
        (
            10,
            "c in a new bucket, with new tables",
            Box::new(|| {
                outcome(
                    at(10, Fleet::recommended()).with_quotas(|quotas| *quotas = Quotas::defaults()).day(60),
                )
            }),
        ),
        (10, "c, all workers stop for a minute", Box::new(|| restarted(at(10, Fleet::recommended())))),
        (
            10,
            "d: ten queues, each like c with `maxReplicaCount` 4; all workers stop for a minute",
            Box::new(|| {
                let fleet = Fleet { most_replicas: 4, ..Fleet::recommended() };
                restarted(at(10, fleet).divided(10))
            }),
        ),
        (100, "a: 20 seconds of a day", Box::new(|| outcome(at(100, Fleet::shipped()).day(20)))),
        (
            100,
            "c, `maxReplicaCount` 400, no limit of SNS: 20 seconds of a day",
            Box::new(|| {
                let fleet = Fleet { most_replicas: 400, ..Fleet::recommended() };
                let experiment = at(100, fleet).with_quotas(|quotas| quotas.sns_publishes = f64::INFINITY);
                outcome(experiment.day(20))
            }),
        ),
        (
            100,
            "e: ten accounts, each like d: a minute of a day of one queue",
            Box::new(|| {
                let fleet = Fleet { most_replicas: 4, ..Fleet::recommended() };
                outcome(at(10, fleet).divided(10).day(60))
            }),
        ),
    ];
    let rows: Vec<Row> = thread::scope(|scope| {
        let running: Vec<_> =
            cases.iter().map(|(scale, name, run)| (*scale, *name, scope.spawn(run))).collect();
        let ended = running.into_iter().map(|(scale, name, run)| {
            let (outcome, end) = run.join().expect("a simulation does not panic");
            Row { scale, name, outcome, end }
        });
        ended.collect()
    });
    let mut text = String::from(
        "| Scale | Case | p95, s | of the largest tenant, s | in a slot, s | workers | come again, % | refused most | messages |\n\
         |---|---|---:|---:|---:|---|---:|---|---|\n",
    );
    for Row { scale, name, outcome, end } in rows {
        let again = 100.0 * outcome.retried as f64 / outcome.written as f64;
        let most = Scarce::ALL.into_iter().max_by_key(|scarce| outcome.meter(*scarce).refused);
        let refused = match most.filter(|scarce| outcome.meter(*scarce).refused > 0) {
            Some(scarce) => {
                format!(
                    "{}: {}",
                    scarce.refuser(),
                    number(outcome.meter(scarce).refused as f64 / outcome.seconds)
                )
            }
            None => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "| {scale}x | {name} | {} | {} | {} | {} to {} | {} | {refused} | {end} |",
            number(outcome.latency.percentile(95)),
            number(outcome.latency_of_largest.percentile(95)),
            number(outcome.slot_time.mean()),
            outcome.least_replicas,
            outcome.most_replicas,
            number(again),
        );
    }
    text
}

/// Two significant digits, with a comma for thousands.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let step = 10_f64.powf(value.abs().log10().floor() - 1.0);
    let rounded = (value / step).round() * step;
    if rounded < 10.0 {
        return format!("{rounded:.2}").trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{rounded:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::point;

    /// Largest difference between a figure of the page and the program's: other machines round logarithms differently.
    const TOLERANCE: f64 = 0.15;

    fn in_repository(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
    }

    #[test]
    fn numbers_have_two_significant_digits() {
        let values = [0.0, 0.344, 7.384, 16.81, 671.0, 14_046.0, 1_937_079.0];
        let texts = values.map(number);
        assert_eq!(texts, ["0", "0.34", "7.4", "17", "670", "14,000", "1,900,000"]);
    }

    /// Compares two rows of a table: numbers nearly, everything else exactly.
    fn same(page: &str, program: &str) -> bool {
        let figure = |word: &str| word.replace(['*', ','], "").parse::<f64>().ok();
        let (page, program): (Vec<_>, Vec<_>) =
            (page.split_whitespace().collect(), program.split_whitespace().collect());
        page.len() == program.len()
            && page.iter().zip(&program).all(|(page, program)| match (figure(page), figure(program)) {
                (Some(one), Some(other)) => (one - other).abs() <= TOLERANCE * one.abs().max(other.abs()),
                _ => page == program,
            })
    }

    #[test]
    fn figures_may_differ_a_little_and_words_not_at_all() {
        assert!(same("| 1x | a | 7,400 |", "| 1x | a | **7,000** |"));
        assert!(!same("| 1x | a | 7,400 |", "| 1x | a | 6,000 |"));
        assert!(!same("| 1x | a | 7,400 |", "| 1x | b | 7,400 |"));
        assert!(!same("| 1x | a | - |", "| 1x | a | 1 |"));
    }

    /// Rows of the table with this head.
    fn table<'a>(page: &'a str, head: &str) -> Vec<&'a str> {
        let lines = page.lines().skip_while(|line| *line != head);
        lines.take_while(|line| line.starts_with('|')).collect()
    }

    fn check(table_of_program: &str) {
        let page = fs::read_to_string(in_repository("docs/scaling.md")).expect("the page exists");
        let program: Vec<&str> = table_of_program.lines().collect();
        let rows = table(&page, program[0]);
        let wrong: Vec<String> = (0..rows.len().max(program.len()))
            .map(|row| (rows.get(row).unwrap_or(&"nothing"), program.get(row).unwrap_or(&"nothing")))
            .filter(|(row, expected)| !same(row, expected))
            .map(|(row, expected)| format!("{row}\ninstead of\n{expected}"))
            .collect();
        assert!(wrong.is_empty(), "docs/scaling.md has\n{}", wrong.join("\n"));
    }

    #[test]
    fn the_limits_of_the_page_are_those_of_the_program() {
        check(&limits(1));
    }

    #[test]
    fn the_cases_of_the_page_are_those_of_the_program() {
        check(&cases(1, 1.0));
    }

    #[test]
    fn the_model_reproduces_the_measured_worker() {
        let file = in_repository("loadtest/simulate/point.json");
        let (conditions, figures) = point::compare(&file).expect("the file can be read");
        assert!(!figures.is_empty() && !conditions.is_empty());
        for figure in figures {
            assert!(figure.difference().abs() <= point::TOLERANCE, "{figure:?}");
        }
    }
}
