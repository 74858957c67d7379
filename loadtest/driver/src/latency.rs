//! Measures the latency under load: the time from an object's event to the acceptance of its last line, for the mix at several
//! shares of what the worker can deliver on this machine.
//!
//! The first phase finds that: it empties a queue that is full of the mix. In the others, events come at random moments that do
//! not depend on the worker. Each phase has a worker and a sandbox of its own.

use std::{
    fmt::Write as _,
    fs, iter,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use crate::{
    curve,
    generate::{Compression, Framing, Shape},
    mix,
    ordinary::{self, Options, RECORDS, Sent, milliseconds, parcel, percentile, wait},
    plan::Shipment,
    run::Through,
    sandbox::SandboxProcess,
    scale::{Part, results},
    stage::{Parcel, Stage},
    worker,
};

/// Bound of the p95 at [`BOUND_AT`] per cent of what the worker can deliver.
const BOUND: Duration = Duration::from_millis(100);
const BOUND_AT: u64 = 50;
/// Largest number of objects of a phase; a phase that would have more is shorter. The sandbox keeps every event, so that it can
/// say when it accepted each object: it needs 110 kB per object, 1.7 GB in all.
const MOST_OBJECTS: u64 = 15_000;
/// Objects that are uploaded together. Each has bytes of its own until it is uploaded.
const CHUNK: usize = 1000;
/// Per cent of the objects whose arrival ends the measurement from a full queue.
const COUNTED: usize = 90;
/// Longest time by which the instrument may publish the last event late.
const LATE: Duration = Duration::from_secs(1);
/// Age of the marks. It is far above the age of all other records, so that one time range has the marks alone.
const MARK_AGE: SignedDuration = SignedDuration::from_mins(60);
/// The picture, beside the file with the tables.
const PICTURE: &str = "latency.svg";

/// What the tenants send.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// Loads to measure, in per cent of the objects per second that the worker can deliver on this machine.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 30, 50, 70, 90], value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) loads: Vec<u64>,
    /// Duration of each load in seconds, as long as that makes no more than 15,000 objects.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Objects in the queue of the first phase.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MOST_OBJECTS))]
    pub(crate) backlog: u64,
    /// Number of tenants.
    #[arg(long, default_value_t = mix::TENANTS, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) tenants: u64,
    /// Messages that the worker works on at once. Default: the worker's own default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Seed of the objects and of the moments of their events.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            loads: vec![10, 30, 50, 70, 90],
            seconds: 30,
            backlog: 10_000,
            tenants: mix::TENANTS,
            concurrency: None,
            seed: 1,
        }
    }
}

/// When the events of a phase are published.
#[derive(Clone, Copy, Debug)]
enum Arrivals {
    /// All at once, while the worker is paused. Their time is the beginning of the phase.
    AtOnce,
    /// At independent random moments (a Poisson process), `rate` of them a second on average.
    Random { rate: f64 },
}

/// Latencies at one load.
#[derive(Debug)]
pub(crate) struct Point {
    /// Per cent of what the worker can deliver.
    load: u64,
    /// Objects per second on average.
    rate: f64,
    latencies: Vec<i64>,
}

/// The latencies of all loads.
#[derive(Debug)]
pub(crate) struct Latencies {
    load: Load,
    /// Objects per second that the worker delivers from a full queue.
    most: f64,
    points: Vec<Point>,
}

/// Measures, prints the table, writes it and the picture, and checks the p95.
///
/// # Errors
/// The measurement failed, a file cannot be written, or the p95 at half load is not below [`BOUND`].
pub(crate) async fn latency(options: Options<Load>) -> anyhow::Result<()> {
    let Options { load, results, through } = options;
    let latencies = measure(&load, &through).await?;
    let text = format!("{}\n\n{}", results::conditions(1.0), latencies.described());
    eprintln!("{text}");
    let picture = results.with_file_name(PICTURE);
    fs::write(&picture, latencies.picture())
        .with_context(|| format!("cannot write {}", picture.display()))?;
    results::replace(&results, Part::Latency, &text)?;
    latencies.check()
}

/// Finds out what the worker can deliver, and measures the latencies at each load.
///
/// # Errors
/// An event did not arrive, or a phase could not be finished.
pub(crate) async fn measure(load: &Load, through: &Through) -> anyhow::Result<Latencies> {
    let full = load.phase(load.backlog, Arrivals::AtOnce, through).await.context("from a full queue")?;
    let most = rate_of(&full);
    eprintln!("from a full queue: {most:.0} objects a second");
    let mut points = Vec::new();
    for per_cent in &load.loads {
        let rate = most * *per_cent as f64 / 100.0;
        let objects = ((rate * load.seconds as f64).ceil() as u64).clamp(1, MOST_OBJECTS);
        let latencies = load.phase(objects, Arrivals::Random { rate }, through).await;
        let latencies = latencies.with_context(|| format!("at {per_cent} %"))?;
        let [p50, p95, p99] = [50, 95, 99].map(|p| milliseconds(percentile(&latencies, p)));
        eprintln!("{per_cent} %, {rate:.0} objects a second: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms");
        points.push(Point { load: *per_cent, rate, latencies });
    }
    Ok(Latencies { load: load.clone(), most, points })
}

/// Objects per second from a full queue, up to the arrival of the object that completes [`COUNTED`] per cent. The last ones do not
/// count: then the worker only waits for a large object, or for a message that it had given back.
fn rate_of(times: &[i64]) -> f64 {
    let counted = times.len() as f64 * COUNTED as f64 / 100.0;
    counted * 1e6 / percentile(times, COUNTED).max(1) as f64
}

impl Load {
    /// Sends objects. Returns the microseconds from event to acceptance of each.
    async fn phase(&self, objects: u64, arrivals: Arrivals, through: &Through) -> anyhow::Result<Vec<i64>> {
        let plan = mix::plan(objects, self.tenants, self.seed);
        // A line can be appended to NDJSON: each object gets a last line of its own, by which it is found again.
        let shape = Shape { framing: Framing::Ndjson, pods: 1, ..Shape::default() };
        let made = plan.generate(shape, self.seed).await?;
        let mark_at = Timestamp::now() - MARK_AGE;
        let shipment = Shipment::new(&plan, &made, self.tenants, 0, Compression::Gzip)?;
        let expected = shipment.expected.iter().map(|totals| totals.events).sum::<u64>() + objects;

        let mut sandbox = SandboxProcess::start_keeping().await?;
        let stage = Stage::set_up(sandbox.endpoint(), self.tenants).await?;
        // Every tenant's session and every connection is there before the measurement.
        let warm_up: Vec<Parcel> = (0..self.tenants.max(64))
            .map(|number| {
                let tenant = usize::try_from(number % self.tenants)?;
                parcel(tenant, number / self.tenants, objects + number, RECORDS)
            })
            .collect::<anyhow::Result<_>>()?;
        stage.create_streams(&[&warm_up[..], &shipment.parcels].concat()).await?;
        let warm_up_events = warm_up.len() as u64 * RECORDS;
        let warm_up = stage.upload(&warm_up).await?;
        let mut events = Vec::new();
        for parcels in shipment.parcels.chunks(CHUNK) {
            let parcels = parcels.iter().map(|parcel| marked(parcel, mark_at));
            events.extend(stage.upload(&parcels.collect::<anyhow::Result<Vec<_>>>()?).await?);
        }
        let accounts = stage.accounts();

        let mut environment = stage.worker_environment(self.concurrency).await?;
        environment.push(stage.ledger());
        let mut worker = worker::start(&through.program()?, &environment)?;
        let phase = async {
            stage.announce(&warm_up).await?;
            wait(&mut sandbox, &accounts, warm_up_events, through.stall()).await?;
            stage.acknowledged(through.stall()).await?;
            let sent = match arrivals {
                Arrivals::AtOnce => {
                    worker::pause(&worker).await?;
                    let begun = Timestamp::now().as_microsecond();
                    stage.announce(&events).await?;
                    worker.signal("CONT")?;
                    vec![begun; events.len()]
                }
                Arrivals::Random { rate } => {
                    let moments: Vec<_> = moments(rate, self.seed).take(events.len()).collect();
                    let begun = Instant::now();
                    let sent = ordinary::publish(&stage, &events, moments.iter().copied()).await?;
                    let late = begun.elapsed().saturating_sub(moments.last().copied().unwrap_or_default());
                    ensure!(
                        late < LATE,
                        "the last of {rate:.0} events a second was published {late:.1?} late"
                    );
                    sent
                }
            };
            wait(&mut sandbox, &accounts, warm_up_events + expected, through.stall()).await?;
            stage.acknowledged(through.stall()).await?;
            worker::usage(&mut worker)?;
            let sent = iter::zip(&shipment.parcels, sent);
            let sent = sent.map(|(parcel, at)| Sent { tenant: parcel.tenant, number: parcel.number, at });
            Ok(ordinary::latencies(&stage, accounts.len(), sent, Some(mark_at)).await?.concat())
        };
        let latencies = phase.await.map_err(|error| worker::explain(&worker, error))?;
        worker::stop(&mut worker).await?;
        Ok(latencies)
    }
}

/// The object with a last line of its own, in a gzip member of its own.
fn marked(parcel: &Parcel, at: Timestamp) -> anyhow::Result<Parcel> {
    let mark = ordinary::record(&ordinary::mark(parcel.number), at).to_string() + "\n";
    let member = ordinary::gzip(mark.as_bytes())?;
    Ok(Parcel { body: Bytes::from([&parcel.body[..], &member[..]].concat()), ..parcel.clone() })
}

/// Moments of the events, from the beginning of the phase: the times between them are exponentially distributed.
fn moments(rate: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let (mut rng, mut at) = (fastrand::Rng::with_seed(seed), 0.0);
    iter::repeat_with(move || {
        at -= (1.0 - rng.f64()).ln() / rate;
        Duration::from_secs_f64(at)
    })
}

impl Latencies {
    /// The point of the load whose p95 is bounded.
    pub(crate) fn bounded(&self) -> Option<&Point> {
        self.points.iter().find(|point| point.load == BOUND_AT)
    }

    fn check(&self) -> anyhow::Result<()> {
        let Some(point) = self.bounded() else { return Ok(()) };
        let p95 = percentile(&point.latencies, 95);
        ensure!(
            Duration::from_micros(u64::try_from(p95)?) < BOUND,
            "the p95 at {BOUND_AT} % is {} ms; it must be below {} ms",
            milliseconds(p95),
            BOUND.as_millis()
        );
        Ok(())
    }

    fn described(&self) -> String {
        let Load { tenants, backlog, seconds, concurrency, .. } = &self.load;
        let concurrency = concurrency.map_or_else(|| "its default number of".to_owned(), |n| n.to_string());
        let mut text = format!(
            "{tenants} tenants send the mix. From a queue of {backlog} objects the worker delivers **{:.0}** objects a second on this \
             machine, whose processors it shares with the sandbox and the instrument. The loads are shares of that, {seconds} s of \
             each, with events at random moments. The worker has {concurrency} slots. Figures are milliseconds from an object's event to \
             the acceptance of its last line.\n\n![Latency by load]({PICTURE})\n\n\
             | load | objects per second | objects | p50 | p95 | p99 | highest |\n| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
            self.most
        );
        for Point { load, rate, latencies } in &self.points {
            let figures = [50, 95, 99, 100].map(|p| milliseconds(percentile(latencies, p))).join(" | ");
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {load} % | {rate:.0} | {} | {figures} |", latencies.len());
        }
        text
    }

    fn picture(&self) -> String {
        let lines = [("p50", 50), ("p95", 95), ("p99", 99)].map(|(name, per_cent)| {
            let point =
                |point: &Point| (point.load as f64, percentile(&point.latencies, per_cent) as f64 / 1e3);
            curve::Line { name, points: self.points.iter().map(point).collect() }
        });
        curve::svg("Latency from event to acceptance by load", &lines, BOUND.as_secs_f64() * 1e3)
    }
}

impl Point {
    /// Milliseconds that this share of the objects did not exceed.
    pub(crate) fn milliseconds(&self, per_cent: usize) -> String {
        milliseconds(percentile(&self.latencies, per_cent))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;

    use super::*;

    fn latencies(p95_at_half: i64) -> Latencies {
        let point = |load, latencies| Point { load, rate: load as f64 * 4.0, latencies };
        let mut half = vec![5_000; 94];
        half.extend([p95_at_half; 6]);
        Latencies {
            load: Load::default(),
            most: 400.4,
            points: vec![point(10, vec![2_000; 10]), point(BOUND_AT, half), point(90, vec![300_000; 10])],
        }
    }

    #[test]
    fn the_p95_at_half_load_is_bounded() {
        latencies(99_999).check().expect("below the bound");
        latencies(100_000).check().expect_err("at the bound");
        let mut without = latencies(100_000);
        without.points.retain(|point| point.load != BOUND_AT);
        without.check().expect("half load was not measured");
    }

    #[test]
    fn each_load_is_a_row_and_a_point_of_each_line() {
        let found = latencies(60_000);
        let text = found.described();
        for words in [
            "delivers **400** objects",
            "| 10 % | 40 | 10 | 2.0 | 2.0 | 2.0 | 2.0 |",
            "| 50 % | 200 | 100 | 5.0 | 60.0 | 60.0 | 60.0 |",
        ] {
            assert!(text.contains(words), "no {words} in\n{text}");
        }
        assert_eq!(found.picture().matches("<circle").count(), 9);
        assert_eq!(found.bounded().expect("half load was measured").milliseconds(95), "60.0");
    }

    #[test]
    fn the_last_arrivals_do_not_change_the_rate() {
        let mut times: Vec<_> = (1..=100).map(|number| number * 10_000).collect();
        assert!((rate_of(&times) - 100.0).abs() < 1e-9);
        times[99] = 60_000_000;
        assert!((rate_of(&times) - 100.0).abs() < 1e-9);
    }

    #[test]
    fn moments_are_random_and_keep_the_rate() {
        let all: Vec<_> = moments(200.0, 1).take(20_000).collect();
        assert!(all.is_sorted() && all == moments(200.0, 1).take(20_000).collect::<Vec<_>>());
        let lasts = all[all.len() - 1].as_secs_f64();
        assert!((98.0..102.0).contains(&lasts), "{lasts} s instead of 100 s");
        // Of a Poisson process's gaps, 1/e are longer than the mean one.
        let long = iter::zip(&all, &all[1..]).filter(|(a, b)| **b - **a > Duration::from_millis(5)).count();
        assert!((0.35..0.39).contains(&(long as f64 / 20e3)), "{long} of 20,000");
    }

    #[test]
    fn a_marked_object_ends_with_its_mark() {
        let body = Bytes::from(ordinary::gzip(b"{\"message\":\"a\"}\n").expect("memory takes everything"));
        let parcel = Parcel { tenant: 3, application: 1, pod: 2, number: 7, extension: ".gz", body };
        let at = "2026-11-28T08:00:00Z".parse().expect("a timestamp");
        let marked = marked(&parcel, at).expect("memory takes everything");
        assert_eq!((marked.tenant, marked.pod, marked.number), (3, 2, 7));
        let mut text = String::new();
        MultiGzDecoder::new(&marked.body[..]).read_to_string(&mut text).expect("two members");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"message\":\"a\"}");
        let last: serde_json::Value = serde_json::from_str(lines[1]).expect("a record");
        assert_eq!(last["message"], "mark of object 7");
        assert_eq!(last["timestamp"], "2026-11-28T08:00:00.000000000Z");
    }
}
