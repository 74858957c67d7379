//! Measures a burst: how long a worker with an empty queue takes for many small objects whose events come all at once.

use anyhow::{Context, ensure};
use clap::Args;

use crate::{
    generate::{Shape, Size},
    ordinary::Options,
    report::{Report, shown},
    run::{self, Content, Load as Run, Through},
    scale::{
        Part,
        results::{self, median, peak_rss},
    },
};

/// Number of different objects.
const DISTINCT: u64 = 4;

/// What comes at once.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Number of objects.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    objects: u64,
    /// Size of an object's JSON in MB of 10^6 bytes.
    #[arg(long, default_value_t = 0.023)]
    plain_mb: f64,
    /// Number of tenants, which get the objects in turn. The worker puts at most `delivery.put_rate` (800) times a second into
    /// one account, so with few tenants this rate is measured.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tenants: u64,
    /// Messages that the worker works on at once. Each number is a row of the table.
    #[arg(long, value_delimiter = ',', default_values_t = [16, 64, 256], value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: Vec<u32>,
    /// Number of repetitions of each row.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Fraction of the number of objects, up to 1. Below 1 the burst is a trial, and its figures mean nothing.
    #[arg(long, default_value_t = 1.0)]
    fraction: f64,
}

/// Measures, prints the table, and writes it to the file.
///
/// # Errors
/// Other events arrived than were sent, a run could not be finished, or the file cannot be written.
pub(crate) async fn burst(options: Options<Load>) -> anyhow::Result<()> {
    let Options { load, results, through } = options;
    ensure!(load.fraction > 0.0 && load.fraction <= 1.0, "--fraction must be above 0 and at most 1");
    ensure!((0.001..=1000.0).contains(&load.plain_mb), "--plain-mb must be from 0.001 to 1000");
    let rows = load.measure(&through).await?;
    let text = format!("{}\n\n{}", results::conditions(load.fraction), load.described(&rows));
    eprintln!("{text}");
    results::replace(&results, Part::Burst, &text)
}

impl Load {
    fn run(&self, concurrency: u32) -> Run {
        Run {
            content: Content::Alike { size: Size::Plain((self.plain_mb * 1e6) as usize), distinct: DISTINCT },
            shape: Shape { pods: 1, ..Shape::default() },
            concurrency: Some(concurrency),
            ..Run::mix((self.objects as f64 * self.fraction).ceil() as u64, self.tenants)
        }
    }

    /// Makes the runs, row after row, and then again, so that changes of the machine's speed affect all rows. Returns the runs
    /// of each row.
    async fn measure(&self, through: &Through) -> anyhow::Result<Vec<Vec<Report>>> {
        let mut rows: Vec<Vec<Report>> = self.concurrency.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.repeats {
            for (row, concurrency) in rows.iter_mut().zip(&self.concurrency) {
                let report = run::measure(&self.run(*concurrency), through).await;
                let report = report.with_context(|| format!("concurrency {concurrency}"))?;
                eprintln!("concurrency {concurrency}: {:.2} s", report.wall.as_secs_f64());
                row.push(report);
            }
        }
        Ok(rows)
    }

    fn described(&self, rows: &[Vec<Report>]) -> String {
        let mut text = format!(
            "The events of {} objects of {:.0} kB of JSON come at once to a warm worker: its sessions are cached, and its connections \
             are open. {} tenants get the objects in turn. Each figure is the median of the runs, {} per row; peak RSS is the highest.\n\n\
             | slots | seconds until the last line is accepted | objects per second | ms CPU per object | PutLogEvents \
             per object | other calls per object | peak RSS, MiB |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
            self.run(1).objects,
            self.plain_mb * 1e3,
            self.tenants,
            self.repeats
        );
        for (concurrency, reports) in self.concurrency.iter().zip(rows) {
            let figure = |of: fn(&Report) -> Option<f64>| shown(median(reports, of), "-");
            text.push_str(&format!(
                "| {concurrency} | {} | {:.0} | {} | {} | {} | {:.1} |\n",
                figure(|report| Some(report.wall.as_secs_f64())),
                median(reports, |report| Some(report.objects_per_second())).unwrap_or_default(),
                figure(Report::cpu_per_object),
                figure(|report| Some(report.puts())),
                figure(|report| Some(report.other_calls())),
                peak_rss(reports)
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn each_concurrency_is_a_row_of_medians() {
        let load = Load {
            objects: 4000,
            plain_mb: 0.023,
            tenants: 100,
            concurrency: vec![16, 64],
            repeats: 3,
            fraction: 0.001,
        };
        let slow = [report(400, None), report(900, None), report(500, None)];
        let text = load.described(&[slow.into(), vec![report(300, None)]]);
        assert!(text.contains("The events of 4 objects of 23 kB of JSON"), "{text}");
        for line in [
            "| 16 | 1.00 | 4 | 125.00 | 2.00 | 1.50 | 48.0 |",
            "| 64 | 1.00 | 4 | 75.00 | 2.00 | 1.50 | 48.0 |",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn a_burst_has_the_objects_of_the_options() {
        let load = Load {
            objects: 20_000,
            plain_mb: 0.023,
            tenants: 100,
            concurrency: vec![16],
            repeats: 1,
            fraction: 0.01,
        };
        let run = load.run(256);
        assert_eq!((run.objects, run.tenants, run.concurrency, run.shape.pods), (200, 100, Some(256), 1));
        assert!(matches!(run.content, Content::Alike { size: Size::Plain(23_000), distinct: 4 }));
        assert!(run.ledger && !run.cold);
    }
}
