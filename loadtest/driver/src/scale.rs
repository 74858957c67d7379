//! A fixed series of runs, and its tables in `loadtest/RESULTS.md`.
//!
//! A series that compares runs makes the baseline run before and after each of the others, because the machine's speed
//! changes from minute to minute.

mod everyday;
pub(crate) mod results;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::results::Table;
use crate::{
    generate::{Compression, Framing, Shape, Size},
    noisy,
    report::{Report, shown},
    run::{self, Content, Load, Through},
};

const KILO: f64 = 1e3;
const MEGA: f64 = 1e6;
const GIGA: f64 = 1e9;
/// JSON size of an object whose gzip has 10 MB.
const TEN_MB_GZIP: f64 = 61.0 * MEGA;

/// Options of `loadtest scale`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Parts to run; the tables of the other parts stay as they are. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Number of repetitions of each comparison.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Fraction of the number of objects, of their size and of the number of tenants, up to 1. Below 1 the series is a
    /// trial, and its figures mean nothing.
    #[arg(long, default_value_t = 1.0)]
    fraction: f64,
    /// File with the tables.
    #[arg(long, default_value = "loadtest/RESULTS.md")]
    results: PathBuf,
    #[command(flatten)]
    through: Through,
}

/// A part of the series, with one section of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The everyday load: sizes, tenants and applications as in life.
    Mix,
    /// The main result, the yardstick ratio: objects of 10 MB gzip.
    Headline,
    /// Many small objects at once. Only `loadtest/run burst` measures it.
    #[value(skip)]
    Burst,
    /// Latency at several loads. Only `loadtest/run latency` measures it.
    #[value(skip)]
    Latency,
    /// 1 to 64 objects at once.
    Concurrency,
    /// 1 to 10,000 tenants.
    Tenants,
    /// Objects of 1 kB to 1 GB.
    Sizes,
    /// Other formats that Vector can write.
    Formats,
    /// Traces, `/metrics` and the status page.
    Observed,
    /// A throttled tenant's backlog beside ordinary tenants.
    Noisy,
    /// A denied role and a backlog beside ordinary tenants. Only `loadtest/run waiting` measures it.
    #[value(skip)]
    Waiting,
    /// A replay beside ordinary tenants. Only `loadtest/run replay` measures it.
    #[value(skip)]
    Replay,
}

impl Part {
    const ALL: [Self; 12] = [
        Self::Mix,
        Self::Headline,
        Self::Burst,
        Self::Latency,
        Self::Concurrency,
        Self::Tenants,
        Self::Sizes,
        Self::Formats,
        Self::Observed,
        Self::Noisy,
        Self::Waiting,
        Self::Replay,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Mix => "The mix: objects of 1 kB to 20 MB, 500 tenants",
            Self::Headline => "Headline: 10 MB gzip objects, 8 at once",
            Self::Burst => "A burst",
            Self::Latency => "Latency under load",
            Self::Concurrency => "Objects at once",
            Self::Tenants => "Tenants",
            Self::Sizes => "Sizes of objects",
            Self::Formats => "Formats",
            Self::Observed => "Observed",
            Self::Noisy => "Noisy neighbour",
            Self::Waiting => "Messages that wait",
            Self::Replay => "A replay beside live traffic",
        }
    }
}

/// Makes the runs, part by part, and writes each part's table when the part is finished.
///
/// # Errors
/// A run failed, or the file cannot be written. Tables of earlier parts have been written.
pub(crate) async fn scale(options: Options) -> anyhow::Result<()> {
    ensure!(options.fraction > 0.0 && options.fraction <= 1.0, "--fraction must be above 0 and at most 1");
    let conditions = results::conditions(options.fraction);
    for part in Part::ALL {
        if !options.only.is_empty() && !options.only.contains(&part) {
            continue;
        }
        let started = Instant::now();
        let text = match part {
            Part::Mix => options.mix().await,
            Part::Headline => options.headline().await,
            Part::Concurrency => options.concurrency().await,
            Part::Tenants => options.tenants().await,
            Part::Sizes => options.sizes().await,
            Part::Formats => options.formats().await,
            Part::Observed => options.observed().await,
            Part::Noisy => options.noisy().await,
            Part::Burst | Part::Latency | Part::Waiting | Part::Replay => continue,
        };
        let text = text.with_context(|| format!("the part {:?} failed", part.title()))?;
        results::replace(&options.results, part, &format!("{conditions}\n\n{text}"))?;
        eprintln!("{part:?}: written to {} after {:.0?}", options.results.display(), started.elapsed());
    }
    Ok(())
}

/// One row of a comparison, from all repetitions.
#[derive(Default)]
struct Case {
    name: String,
    reports: Vec<Report>,
    /// CPU per event relative to the baseline, for each repetition; empty for the baseline.
    relative: Vec<f64>,
}

impl Options {
    /// A load of `objects` objects with `plain` bytes of JSON each, for one tenant, 8 at once.
    fn load(&self, objects: f64, plain: f64) -> Load {
        let share = |amount: f64| (amount * self.fraction).ceil();
        Load {
            objects: share(objects) as u64,
            content: Content::Alike {
                size: Size::Plain(share(plain) as usize),
                // Four different objects give the same mix of records as more would, and generating large objects takes long.
                distinct: if plain > 100.0 * MEGA { 1 } else { 4 },
            },
            shape: Shape::default(),
            seed: 1,
            tenants: 1,
            concurrency: Some(8),
            ledger: true,
            cold: false,
            observed: None,
            https: false,
            lake: None,
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

    /// Repeats all loads; the baseline, which is the first, runs before and after each of the others.
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
            ("200 pods per object, as in the reference input", Shape::default().pods, TEN_MB_GZIP),
            ("One pod per object, as in the staging bucket's layout", 1, 2.0 * TEN_MB_GZIP),
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
                "{title}. Yardstick ratio: **{middle}** (median; {low} to {high}).\n\n{table}\n\n"
            ));
        }
        Ok(text)
    }

    async fn concurrency(&self) -> anyhow::Result<String> {
        let load = |n: u32| Load { concurrency: Some(n), ..self.load(128.0, TEN_MB_GZIP / 10.0) };
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
        Ok(format!(
            "Objects of 100 kB of JSON, 8 at once, all tenants in the worker's caches.\n\n{}",
            compared(cases)
        ))
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

    async fn observed(&self) -> anyhow::Result<String> {
        let mut text = "`/metrics` is read every 5 s, the status page is open, and the traces of a fraction of the messages are \
                        exported to a collector over HTTP; in the first row of each table, nothing of this. The worker's default \
                        is metrics on, traces off.\n"
            .to_owned();
        for (title, objects, plain) in [
            ("Objects of 10 MB gzip", 40.0, TEN_MB_GZIP),
            ("Objects of 100 kB of JSON", 10.0 * KILO, 100.0 * KILO),
        ] {
            let cases = [
                ("unobserved", None),
                ("no traces", Some(0.0)),
                ("1 % of the traces", Some(0.01)),
                ("all traces", Some(1.0)),
            ];
            let cases = cases.map(|(name, observed)| {
                (format!("{title}: {name}"), Load { observed, ..self.load(objects, plain) })
            });
            text.push_str(&format!(
                "\n{title}, one tenant, 8 at once.\n\n{}\n",
                compared(self.compare(&cases).await?)
            ));
        }
        Ok(text)
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
            "The same records, {:.1} MB of JSON per object, one tenant, 8 at once. The yardstick uses the same \
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

/// CPU per event, relative to the mean of the baseline runs before and after.
fn relative(before: &Report, report: &Report, after: &Report) -> Option<f64> {
    let baseline = f64::midpoint(before.cpu_per_event()?, after.cpu_per_event()?);
    Some(report.cpu_per_event()? / baseline)
}

/// Minimum, median and maximum.
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
    fn a_run_is_compared_with_the_baseline_before_and_after() {
        let run = |cpu| report(cpu, Some(100));
        assert_eq!(relative(&run(400), &run(1000), &run(600)), Some(2.0));
        assert_eq!(relative(&run(400), &run(1000), &run(100)), None, "too short to measure");
    }

    #[test]
    fn the_middle_is_the_median() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (Some(1.0), Some(2.0), Some(3.0)));
        assert_eq!(spread(&[4.0, 1.0]), (Some(1.0), Some(2.5), Some(4.0)));
        assert_eq!(spread(&[]), (None, None, None));
    }
}
