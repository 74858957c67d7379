//! A fixed series of runs, and the tables of it in `loadtest/RESULTS.md`.
//!
//! Where runs are compared, the baseline is run before and after each of the others: the machine is not the same from
//! one minute to the next.

pub(crate) mod results;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::results::Table;
use crate::{
    generate::{Compression, Framing, Shape, Size},
    noisy,
    report::{Report, shown},
    run::{self, Load, Through},
};

const KILO: f64 = 1e3;
const MEGA: f64 = 1e6;
const GIGA: f64 = 1e9;
/// JSON of an object whose gzip has 10 MB.
const TEN_MB_GZIP: f64 = 61.0 * MEGA;

/// What to run, and where the tables go.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these parts; the others' tables stay as they are.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each comparison is made.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Share of the objects, of their size and of the tenants, up to 1. Below that it is a try-out: the figures mean
    /// nothing.
    #[arg(long, default_value_t = 1.0)]
    fraction: f64,
    /// The file with the tables.
    #[arg(long, default_value = "loadtest/RESULTS.md")]
    results: PathBuf,
    #[command(flatten)]
    through: Through,
}

/// A part of the series, a table of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The ratio that is the result: objects of 10 MB gzip.
    Headline,
    /// From 1 object at a time to 64.
    Concurrency,
    /// From 1 tenant to 10,000.
    Tenants,
    /// Objects from 1 kB to 1 GB.
    Sizes,
    /// What else Vector can be told to write.
    Formats,
    /// A throttled tenant's backlog beside ordinary tenants.
    Noisy,
    /// A denied role and a backlog beside ordinary tenants: `loadtest/run waiting` alone makes it.
    #[value(skip)]
    Waiting,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Headline,
        Self::Concurrency,
        Self::Tenants,
        Self::Sizes,
        Self::Formats,
        Self::Noisy,
        Self::Waiting,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Headline => "Headline: 10 MB gzip objects, 8 at once",
            Self::Concurrency => "Objects at once",
            Self::Tenants => "Tenants",
            Self::Sizes => "Sizes of objects",
            Self::Formats => "Formats",
            Self::Noisy => "Noisy neighbour",
            Self::Waiting => "Messages that wait",
        }
    }
}

/// Makes the runs, part by part, and writes each part's table when it is done.
///
/// # Errors
/// The first run that failed, or the file cannot be written.
pub(crate) async fn scale(options: Options) -> anyhow::Result<()> {
    ensure!(options.fraction > 0.0 && options.fraction <= 1.0, "--fraction must be above 0 and up to 1");
    let conditions = results::conditions(options.fraction);
    for part in Part::ALL {
        if !options.only.is_empty() && !options.only.contains(&part) {
            continue;
        }
        let started = Instant::now();
        let text = match part {
            Part::Headline => options.headline().await,
            Part::Concurrency => options.concurrency().await,
            Part::Tenants => options.tenants().await,
            Part::Sizes => options.sizes().await,
            Part::Formats => options.formats().await,
            Part::Noisy => options.noisy().await,
            Part::Waiting => continue,
        };
        let text = text.with_context(|| format!("the part {:?} failed", part.title()))?;
        results::replace(&options.results, part, &format!("{conditions}\n\n{text}"))?;
        eprintln!("{part:?}: written to {} after {:.0?}", options.results.display(), started.elapsed());
    }
    Ok(())
}

/// What a row of a comparison shows, from all rounds.
#[derive(Default)]
struct Case {
    name: String,
    reports: Vec<Report>,
    /// CPU per event in units of the baseline's, round by round; none for the baseline itself.
    relative: Vec<f64>,
}

impl Options {
    /// A load of so many objects with that much JSON each, for one tenant, 8 at once.
    fn load(&self, objects: f64, plain: f64) -> Load {
        let share = |amount: f64| (amount * self.fraction).ceil();
        Load {
            objects: share(objects) as u64,
            size: Size::Plain(share(plain) as usize),
            // More than a few make the same mix again, and the large ones take their time.
            distinct: if plain > 100.0 * MEGA { 1 } else { 4 },
            shape: Shape::default(),
            seed: 1,
            tenants: 1,
            concurrency: 8,
            ledger: true,
            cold: false,
        }
    }

    async fn run(&self, name: &str, load: &Load) -> anyhow::Result<Report> {
        let report = run::measure(load, &self.through).await.with_context(|| format!("run {name:?}"))?;
        eprintln!(
            "{name}: ratio {}, {} µs per event, {:.1} MiB, {:.2} s",
            shown(report.ratio(), "-"),
            shown(report.cpu_per_event(), "-"),
            report.peak_rss(),
            report.wall.as_secs_f64()
        );
        Ok(report)
    }

    /// Runs everything as often as asked for, the baseline (the first) before and after each of the others.
    async fn compare(&self, loads: &[(String, Load)]) -> anyhow::Result<Vec<Case>> {
        let mut cases: Vec<Case> =
            loads.iter().map(|(name, _)| Case { name: name.clone(), ..Case::default() }).collect();
        let (baseline, others) = loads.split_first().context("there is nothing to compare")?;
        for _ in 0..self.repeats {
            let mut before = self.run(&baseline.0, &baseline.1).await?;
            for (case, (name, load)) in (1..).zip(others) {
                let report = self.run(name, load).await?;
                let after = self.run(&baseline.0, &baseline.1).await?;
                cases[case].relative.extend(relative(&before, &report, &after));
                cases[case].reports.push(report);
                cases[0].reports.push(std::mem::replace(&mut before, after));
            }
            cases[0].reports.push(before);
        }
        Ok(cases)
    }

    async fn headline(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let loads = [
            ("200 pods to an object, the reference's proportions", Shape::default().pods, TEN_MB_GZIP),
            ("One pod to an object, as the staging bucket's layout has it", 1, 2.0 * TEN_MB_GZIP),
        ];
        for (title, pods, plain) in loads {
            let mut table = Table::new("run");
            let load = Load { shape: Shape { pods, ..Shape::default() }, ..self.load(40.0, plain) };
            let mut ratios = Vec::new();
            for number in 1..=self.repeats {
                let report = self.run(&format!("headline {number}, {pods} pods"), &load).await?;
                ratios.extend(report.ratio());
                table.row(&number.to_string(), &[report], &[]);
            }
            let (low, middle, high) = spread(&ratios);
            let [low, middle, high] = [low, middle, high].map(|figure| shown(figure, "?"));
            text.push_str(&format!(
                "{title}. Yardstick ratio: **{middle}** in the middle, {low} to {high}.\n\n{table}\n\n"
            ));
        }
        Ok(text)
    }

    async fn concurrency(&self) -> anyhow::Result<String> {
        let load = |concurrency: u32| Load { concurrency, ..self.load(128.0, TEN_MB_GZIP / 10.0) };
        let loads: Vec<_> = [1, 2, 4, 8, 16, 32, 64].map(|n| (format!("concurrency {n}"), load(n))).into();
        Ok(format!("Objects of 1 MB gzip, one tenant.\n\n{}", compared(self.compare(&loads).await?)))
    }

    async fn tenants(&self) -> anyhow::Result<String> {
        let counts = [1.0, 10.0, 100.0, KILO, 10.0 * KILO];
        let mut counts = counts.map(|count| (count * self.fraction).ceil() as u64).to_vec();
        counts.dedup();
        let load = |tenants| Load { tenants, ..self.load(20.0 * KILO, 100.0 * KILO) };
        let loads: Vec<_> = counts.into_iter().map(|n| (format!("{n} tenants"), load(n))).collect();
        let cases = self.compare(&loads).await?;
        Ok(format!("Objects of 100 kB of JSON, 8 at once, every tenant known.\n\n{}", compared(cases)))
    }

    async fn sizes(&self) -> anyhow::Result<String> {
        let sizes = [
            ("1 kB", KILO, 20.0 * KILO),
            ("10 kB", 10.0 * KILO, 20.0 * KILO),
            ("100 kB", 100.0 * KILO, 10.0 * KILO),
            ("1 MB", MEGA, KILO),
            ("10 MB", 10.0 * MEGA, 128.0),
            ("100 MB", 100.0 * MEGA, 16.0),
            ("300 MB", 300.0 * MEGA, 8.0),
            ("1 GB", GIGA, 8.0),
        ];
        let mut table = Table::new("JSON of an object");
        for (name, plain, objects) in sizes {
            table.row(name, &[self.run(name, &self.load(objects, plain)).await?], &[]);
        }
        Ok(format!("One tenant, 8 at once.\n\n{table}"))
    }

    async fn noisy(&self) -> anyhow::Result<String> {
        let load = noisy::Load { rounds: self.repeats, ..noisy::Load::default() };
        Ok(noisy::measure(&load, &self.through).await?.to_string())
    }

    async fn formats(&self) -> anyhow::Result<String> {
        let load = |shape: Shape| Load { shape, ..self.load(16.0, TEN_MB_GZIP) };
        let default = Shape::default();
        let loads = [
            ("array on one line, gzip", default),
            ("NDJSON, gzip", Shape { framing: Framing::Ndjson, ..default }),
            ("array over lines, gzip", Shape { framing: Framing::ArrayLines, ..default }),
            ("array on one line, 8 gzip members", Shape { members: 8, ..default }),
            ("array on one line, zstd", Shape { compression: Compression::Zstd, ..default }),
            ("array on one line, plain", Shape { compression: Compression::None, ..default }),
        ];
        let loads: Vec<_> = loads.map(|(name, shape)| (name.to_owned(), load(shape))).into();
        let cases = self.compare(&loads).await?;
        Ok(format!(
            "The same records, {:.1} MB of JSON an object, one tenant, 8 at once. The yardstick is of the same \
             compression.\n\n{}",
            TEN_MB_GZIP / MEGA,
            compared(cases)
        ))
    }
}

fn compared(cases: Vec<Case>) -> Table {
    let mut table = Table::compared("run");
    for case in cases {
        table.row(&case.name, &case.reports, &case.relative);
    }
    table
}

/// CPU per event in units of the mean of what the baseline took before and after.
fn relative(before: &Report, report: &Report, after: &Report) -> Option<f64> {
    let baseline = f64::midpoint(before.cpu_per_event()?, after.cpu_per_event()?);
    Some(report.cpu_per_event()? / baseline)
}

/// The least, the one in the middle, the most.
fn spread(figures: &[f64]) -> (Option<f64>, Option<f64>, Option<f64>) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let median = match sorted.len() % 2 {
        0 if middle > 0 => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => sorted.get(middle).copied(),
    };
    (sorted.first().copied(), median, sorted.last().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn comparisons_are_with_both_neighbours() {
        let run = |cpu| report(cpu, Some(100));
        assert_eq!(relative(&run(400), &run(1000), &run(600)), Some(2.0));
        assert_eq!(relative(&run(400), &run(1000), &run(100)), None, "too short to tell");
    }

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (Some(1.0), Some(2.0), Some(3.0)));
        assert_eq!(spread(&[4.0, 1.0]), (Some(1.0), Some(2.5), Some(4.0)));
        assert_eq!(spread(&[]), (None, None, None));
    }
}
