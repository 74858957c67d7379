//! Measures how waiting messages change the latency of other tenants. A tenant with a denied role and a tenant with a backlog
//! have more messages than may be in flight in the queue, and ordinary tenants send small objects at the same time.
//!
//! There are three phases, each with a worker and a sandbox of its own: the ordinary tenants alone; all tenants, until the role
//! is allowed again and everything has arrived; and a role that stays denied, until its messages are dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use logferry_sandbox::QueueCounts;
use logferry_testbed::{provision::ProviderSpec, worker::WorkerProcess};

use crate::{
    ordinary::{Options, Ordinary, RECORDS, milliseconds, parcel, percentile, ratio, wait},
    run::Through,
    sandbox::SandboxProcess,
    scale::{Part, results},
    stage::{Parcel, Stage},
    worker,
};

const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Bound of the ordinary tenants' p95, as a multiple of their p95 in the first phase.
const ALLOWED: f64 = 1.25;
/// Duration of each PutLogEvents of the tenant with the backlog. With such slow puts the tenant needs more than its share of
/// the slots for minutes.
const SLOW_PUT: Duration = Duration::from_millis(300);
/// Divisor of the number of the denied tenant's messages in the phase in which they become dead letters.
const FEWER_LETTERS: u64 = 10;
/// Largest number of batches that may arrive again after a kill, for each object in flight.
const REPEATS_PER_OBJECT: u64 = 2;
/// `maxReceiveCount` of the redrive policy. Waits are short here, so many messages wait hidden, and each such wait is a
/// receive.
const MAX_RECEIVE_COUNT: u32 = 1000;
/// Reason in a dead letter about a denied role.
const ROLE_DENIED: &str = "role_denied";
/// Worker settings that shorten waits to the scale of minutes, and fit the number of hidden messages to the quota.
const SETTINGS: [(&str, &str); 8] = [
    ("LOGFERRY_QUEUE__MAX_HIDDEN", "200"),
    ("LOGFERRY_QUEUE__VISIBILITY_TIMEOUT", "30s"),
    ("LOGFERRY_QUEUE__RETRY_DELAY", "5s"),
    ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "60s"),
    ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "5s"),
    ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "60s"),
    ("LOGFERRY_LEDGER__LEASE", "10s"),
    ("LOGFERRY_LEDGER__MAX_CLOCK_SKEW", "1s"),
];

/// What the tenants send.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    #[command(flatten)]
    ordinary: Ordinary,
    /// Seconds until the role is allowed again.
    #[arg(long, default_value_t = 240, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Number of messages of the denied tenant, and of the tenant with the backlog.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Quota of the queue: number of messages that may be in flight.
    #[arg(long, default_value_t = 500)]
    quota: u64,
    /// Largest number of messages in flight that the run accepts. With kills it accepts the whole quota.
    #[arg(long, default_value_t = 400)]
    most: u64,
    /// Seconds after which a message that cannot be delivered becomes a dead letter, in the last phase.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(60..=3600))]
    max_age: u64,
    /// Messages that the worker works on at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// Number of SIGKILLs at random moments, in each of the second and third phases. The next worker starts at once. With
    /// kills the ordinary tenants' latency is not checked, and no table is written.
    #[arg(long, default_value_t = 0)]
    kills: u64,
    /// Seed of the moments of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The ordinary tenants alone.
    Calm,
    /// All tenants: a role that is denied at first, and a backlog.
    Beside,
    /// The ordinary tenants, and a role that stays denied until its messages are dead letters.
    Expiring,
}

#[derive(Debug, Default)]
struct Found {
    /// Microseconds from event to acceptance of each object of the ordinary tenants.
    latencies: Vec<i64>,
    counts: Option<QueueCounts>,
    /// Arrivals of the denied tenant and of the tenant with the backlog.
    arrived: [Arrived; 2],
    /// Number of objects with a dead letter, by reason.
    letters: BTreeMap<String, u64>,
    /// Number of further letters about an object that has one.
    letters_again: u64,
    kills: u64,
}

/// Objects of one tenant that arrived, and how often an object arrived again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Arrived {
    objects: u64,
    again: u64,
}

/// One line of the table: bound, result, and whether the bound holds.
#[derive(Debug)]
struct Line {
    what: &'static str,
    bound: String,
    found: String,
    holds: bool,
}

#[derive(Debug)]
struct Report {
    load: Load,
    lines: Vec<Line>,
}

/// Measures, prints the table, writes it to the file, and checks the bounds.
///
/// # Errors
/// A phase could not be finished, or a bound is broken.
pub(crate) async fn waiting(options: Options<Load>) -> anyhow::Result<()> {
    let Options { load, results, through } = options;
    let calm = match load.kills {
        0 => load.run(Phase::Calm, &through).await?,
        _ => Found::default(),
    };
    let beside = load.run(Phase::Beside, &through).await?;
    let expiring = load.run(Phase::Expiring, &through).await?;
    let report = Report { lines: load.lines(&calm, &beside, &expiring), load };
    let text = format!("{}\n\n{report}", results::conditions(1.0));
    eprintln!("{text}");
    if report.load.kills == 0 {
        results::replace(&results, Part::Waiting, &text)?;
    }
    let broken: Vec<_> = report.lines.iter().filter(|line| !line.holds).map(|line| line.what).collect();
    ensure!(broken.is_empty(), "these bounds are broken: {}", broken.join("; "));
    Ok(())
}

impl Load {
    async fn run(&self, phase: Phase, through: &Through) -> anyhow::Result<Found> {
        let started = Instant::now();
        let found = self.phase(phase, through).await.with_context(|| format!("phase {phase:?}"))?;
        let by_time = found
            .latencies
            .chunks(self.ordinary.rate as usize * 5)
            .map(|chunk| milliseconds(percentile(chunk, 95)));
        eprintln!("p95 in ms, every 5 s: {:?}", by_time.collect::<Vec<_>>());
        eprintln!(
            "{phase:?}: {:.0?}; p50 {} ms, p95 {} ms, p99 {} ms; {:?}",
            started.elapsed(),
            milliseconds(percentile(&found.latencies, 50)),
            milliseconds(percentile(&found.latencies, 95)),
            milliseconds(percentile(&found.latencies, 99)),
            found.counts
        );
        Ok(found)
    }

    /// Number of objects of the denied tenant and of the tenant with the backlog.
    fn messages(&self, phase: Phase) -> [u64; 2] {
        match phase {
            Phase::Calm => [0, 0],
            Phase::Beside => [self.messages, self.messages],
            Phase::Expiring => [self.messages.div_ceil(FEWER_LETTERS), 0],
        }
    }

    async fn phase(&self, phase: Phase, through: &Through) -> anyhow::Result<Found> {
        let sandbox = SandboxProcess::start_keeping().await?;
        let Ordinary { tenants, rate } = self.ordinary;
        let spec = ProviderSpec { max_receive_count: MAX_RECEIVE_COUNT, ..ProviderSpec::new("load") };
        let stage = Stage::set_up_as(&spec, sandbox.endpoint(), tenants + 2).await?;
        sandbox.set_in_flight_quota(stage.queue_arn(), self.quota).await?;
        let (warm_up, measured) = (self.ordinary.warm_up(), rate * self.seconds);
        let parcels = self.ordinary.parcels(warm_up + measured)?;
        let first = usize::try_from(tenants)?;
        let mut others = Vec::new();
        for (tenant, count) in (first..).zip(self.messages(phase)) {
            let begin = warm_up + measured + others.len() as u64;
            let of_tenant = (0..count).map(|turn| parcel(tenant, turn, begin + turn, 1));
            others.extend(of_tenant.collect::<anyhow::Result<Vec<Parcel>>>()?);
        }
        stage.create_streams(&parcels).await?;
        stage.create_streams(&others).await?;
        let events = stage.upload(&parcels).await?;
        let others = stage.upload(&others).await?;
        stage.deny(first).await?;
        let accounts = stage.accounts();
        sandbox.slow_down(accounts.last().context("there are no tenants")?, SLOW_PUT).await?;

        let mut environment = stage.worker_environment(self.concurrency).await?;
        environment.push(stage.ledger());
        environment.extend(SETTINGS.map(|(name, value)| (name, value.to_owned())));
        if phase == Phase::Expiring {
            environment.push(("LOGFERRY_QUEUE__MAX_AGE", format!("{}s", self.max_age)));
        }
        let program = through.program()?;
        let worker = KillableWorker::start(&program, &environment)?;
        let mut running = RunningPhase { load: self, phase, sandbox, stage, worker, stall: through.stall() };
        running.finish(&events, &others).await
    }

    fn lines(&self, calm: &Found, beside: &Found, expiring: &Found) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut line =
            |what, bound: String, found: String, holds| lines.push(Line { what, bound, found, holds });
        let (p95, alone) = (percentile(&beside.latencies, 95), percentile(&calm.latencies, 95));
        if self.kills == 0 {
            let ratio = ratio(&calm.latencies, &beside.latencies, 95);
            let bound = format!("below {ALLOWED} times {} ms", milliseconds(alone));
            line(
                "p95 of the ordinary tenants beside the other two",
                bound,
                format!("{} ms: {ratio:.2}", milliseconds(p95)),
                ratio < ALLOWED,
            );
        }
        let [denied, backlog] = self.messages(Phase::Beside);
        let letters = self.messages(Phase::Expiring)[0];
        let objects = [
            (
                "objects of the denied tenant that arrived once its role was allowed",
                denied,
                beside.arrived[0],
            ),
            ("objects of the tenant with the backlog that arrived", backlog, beside.arrived[1]),
        ];
        for (what, sent, arrived) in objects {
            line(what, format!("{sent}"), format!("{}", arrived.objects), arrived.objects == sent);
        }
        let again: u64 = beside.arrived.iter().map(|arrived| arrived.again).sum();
        let excused = REPEATS_PER_OBJECT * u64::from(self.concurrency) * beside.kills;
        line(
            "objects that arrived again",
            format!("at most {excused}"),
            format!("{again}"),
            again <= excused,
        );
        let dead: u64 = beside.letters.values().sum();
        line("dead letters in the second phase", "0".to_owned(), format!("{dead}"), dead == 0);
        let right = expiring.letters.get(ROLE_DENIED).copied().unwrap_or_default();
        let all: u64 = expiring.letters.values().sum();
        let found = format!("{right}, and {} with other reasons", all - right);
        line(
            "dead letters `role_denied` after `queue.max_age`",
            format!("{letters}"),
            found,
            [right, all] == [letters; 2],
        );
        line(
            "further dead letters about the same object",
            "0".to_owned(),
            expiring.letters_again.to_string(),
            expiring.letters_again == 0,
        );
        let of_counts = |figure: fn(&QueueCounts) -> u64| {
            [beside, expiring]
                .iter()
                .filter_map(|found| found.counts.as_ref().map(figure))
                .max()
                .unwrap_or(u64::MAX)
        };
        let most = of_counts(|counts| counts.most_in_flight as u64);
        // Messages that a killed worker hid stay in flight until their visibility ends, and its successor hides as many.
        let most_allowed = if self.kills == 0 { self.most } else { self.quota };
        let bound = format!("at most {most_allowed} of {}", self.quota);
        line("messages in flight at any moment", bound, format!("{most}"), most <= most_allowed);
        let expired = of_counts(|counts| counts.expired);
        line("messages deleted by the queue's retention", "0".to_owned(), format!("{expired}"), expired == 0);
        lines
    }
}

struct RunningPhase<'a> {
    load: &'a Load,
    phase: Phase,
    sandbox: SandboxProcess,
    stage: Arc<Stage>,
    worker: KillableWorker<'a>,
    stall: Duration,
}

impl RunningPhase<'_> {
    async fn finish(&mut self, events: &[String], others: &[String]) -> anyhow::Result<Found> {
        let found = self.carry_out(events, others).await;
        let counts = self.sandbox.queue_counts(self.stage.queue_arn()).await?;
        match found {
            Ok(found) => {
                worker::stop(&mut self.worker.running).await?;
                Ok(Found { counts: Some(counts), kills: self.worker.kills, ..found })
            }
            Err(error) => {
                Err(worker::explain(&self.worker.running, error).context(format!("the queue has {counts:?}")))
            }
        }
    }

    async fn carry_out(&mut self, events: &[String], others: &[String]) -> anyhow::Result<Found> {
        let Load { ordinary, kills, seed, .. } = self.load;
        let (warm_up, measured) = events.split_at(usize::try_from(ordinary.warm_up())?);
        let accounts = self.stage.accounts();
        let (ordinary_accounts, both) = accounts.split_at(usize::try_from(ordinary.tenants)?);
        let denied = ordinary_accounts.len();
        ordinary.send(&self.stage, warm_up).await?;
        wait(&mut self.sandbox, ordinary_accounts, warm_up.len() as u64 * RECORDS, self.stall).await?;
        // The worker is paused while the messages are published, so that it finds all of them in the queue.
        worker::pause(&self.worker.running).await?;
        self.stage.announce(others).await?;
        self.worker.running.signal("CONT")?;
        let kills = if self.phase == Phase::Calm { 0 } else { *kills };
        let lasts = Duration::from_secs(self.load.seconds);
        let (sent, killed) =
            tokio::join!(ordinary.send(&self.stage, measured), self.worker.kill(kills, *seed, lasts));
        let sent = sent?;
        killed?;
        if kills == 0 {
            wait(&mut self.sandbox, ordinary_accounts, events.len() as u64 * RECORDS, self.stall).await?;
        }
        if self.phase == Phase::Beside {
            let refused = self.sandbox.totals(&both[..1]).await?;
            ensure!(refused.iter().all(|totals| totals.events == 0), "the role was not denied");
            self.stage.mend(denied).await?;
        }
        self.wait_until_empty().await?;
        let latencies = ordinary.latencies(&self.stage, &sent).await?;
        let [denied, backlog] = [self.arrived(denied).await?, self.arrived(denied + 1).await?];
        let (letters, letters_again) = count_letters(self.stage.take_letters().await?);
        Ok(Found {
            latencies: in_order(&latencies),
            arrived: [denied, backlog],
            letters,
            letters_again,
            ..Found::default()
        })
    }

    /// Waits until the queue has no message, visible, hidden or delayed.
    async fn wait_until_empty(&mut self) -> anyhow::Result<()> {
        // Until a message has waited for its longest delay, or for `max_age`, the number of messages may stay the same.
        let patience = self.stall + Duration::from_secs(self.load.max_age);
        let (mut least, mut news) = (u64::MAX, Instant::now());
        loop {
            let (left, _) = self.stage.backlog().await?;
            if left == 0 {
                return Ok(());
            }
            if left < least {
                (least, news) = (left, Instant::now());
            }
            ensure!(news.elapsed() < patience, "{left} messages are left, as many as {patience:?} ago");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn arrived(&self, tenant: usize) -> anyhow::Result<Arrived> {
        let arrivals = self.stage.arrivals(tenant, None).await?;
        let objects = arrivals.len() as u64;
        Ok(Arrived {
            objects,
            again: arrivals.values().map(|times| times.len() as u64).sum::<u64>() - objects,
        })
    }
}

/// Latencies of all tenants in the order in which the objects were sent. The tenants' objects were sent in turn.
fn in_order(latencies: &[Vec<i64>]) -> Vec<i64> {
    let turns = latencies.iter().map(Vec::len).max().unwrap_or_default();
    (0..turns)
        .flat_map(|turn| latencies.iter().filter_map(move |of_tenant| of_tenant.get(turn)).copied())
        .collect()
}

/// Number of objects with a letter, by reason, and number of further letters about such an object.
fn count_letters(letters: Vec<(String, String)>) -> (BTreeMap<String, u64>, u64) {
    let count = letters.len() as u64;
    let (mut keys, mut by_reason) = (BTreeSet::new(), BTreeMap::new());
    for (reason, key) in letters {
        if keys.insert(key) {
            *by_reason.entry(reason).or_default() += 1;
        }
    }
    (by_reason, count - keys.len() as u64)
}

/// A worker that can be killed, and the settings for the next one.
struct KillableWorker<'a> {
    program: &'a Path,
    environment: &'a [(&'static str, String)],
    running: WorkerProcess,
    kills: u64,
}

impl<'a> KillableWorker<'a> {
    fn start(program: &'a Path, environment: &'a [(&'static str, String)]) -> anyhow::Result<Self> {
        let running = worker::start(program, environment)?;
        Ok(Self { program, environment, running, kills: 0 })
    }

    /// Kills the worker `kills` times within `within`, at random moments. The next worker starts just before each kill.
    async fn kill(&mut self, kills: u64, seed: u64, within: Duration) -> anyhow::Result<()> {
        let (mut rng, begun) = (fastrand::Rng::with_seed(seed), Instant::now());
        let mut moments: Vec<_> = (0..kills).map(|_| within.mul_f64(rng.f64())).collect();
        moments.sort_unstable();
        for moment in moments {
            tokio::time::sleep_until((begun + moment).into()).await;
            let next = worker::start(self.program, self.environment)?;
            worker::kill(std::mem::replace(&mut self.running, next)).await?;
            self.kills += 1;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load {
            ordinary: Ordinary { tenants, rate },
            seconds,
            messages,
            quota,
            max_age,
            concurrency,
            kills,
            ..
        } = &self.load;
        let letters = self.load.messages(Phase::Expiring)[0];
        writeln!(
            f,
            "{tenants} ordinary tenants together send {rate} objects of {RECORDS} records a second for {seconds} s: first alone, \
             then beside a tenant with {messages} messages whose role is denied for those {seconds} s, and a tenant with \
             {messages} messages whose puts take {} ms each. The queue allows {quota} messages in flight; the worker works on \
             {concurrency} at once and is killed {kills} times. In a last phase the role stays denied, {letters} messages wait \
             for it, and `queue.max_age` is {max_age} s.\n",
            SLOW_PUT.as_millis()
        )?;
        writeln!(f, "| what | bound | found |")?;
        writeln!(f, "| --- | ---: | ---: |")?;
        for Line { what, bound, found, holds } in &self.lines {
            let verdict = if *holds { "" } else { " **broken**" };
            writeln!(f, "| {what} | {bound} | {found}{verdict} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(kills: u64) -> Load {
        Load {
            ordinary: Ordinary::default(),
            seconds: 1,
            messages: 50,
            quota: 500,
            most: 400,
            max_age: 60,
            concurrency: 16,
            kills,
            seed: 1,
        }
    }

    fn counts(most_in_flight: usize) -> QueueCounts {
        QueueCounts { visible: 0, in_flight: 0, delayed: 0, most_in_flight, expired: 0 }
    }

    /// Results of the three phases in which every bound holds.
    fn good(kills: u64) -> [Found; 3] {
        let calm = Found { latencies: vec![100; 10], counts: Some(counts(3)), ..Found::default() };
        let all = Arrived { objects: 50, again: 0 };
        let beside = Found {
            latencies: vec![124; 10],
            counts: Some(counts(400)),
            arrived: [all; 2],
            kills,
            ..Found::default()
        };
        let letters = [(ROLE_DENIED.to_owned(), 5)].into();
        let expiring = Found { letters, counts: Some(counts(200)), ..Found::default() };
        [calm, beside, expiring]
    }

    #[track_caller]
    fn check(kills: u64, change: impl FnOnce(&mut [Found; 3]), broken: usize) {
        let mut found = good(kills);
        change(&mut found);
        let [calm, beside, expiring] = &found;
        let lines = load(kills).lines(calm, beside, expiring);
        assert_eq!(lines.iter().filter(|line| !line.holds).count(), broken, "{lines:#?}");
        let report = Report { load: load(kills), lines }.to_string();
        assert_eq!(report.matches("**broken**").count(), broken, "{report}");
    }

    #[test]
    fn every_bound_can_break() {
        check(0, |_| (), 0);
        check(0, |[_, beside, _]| beside.latencies = vec![125; 10], 1);
        check(0, |[_, beside, _]| beside.counts = Some(counts(401)), 1);
        check(0, |[.., expiring]| expiring.counts = Some(counts(401)), 1);
        check(0, |[.., expiring]| expiring.counts = Some(QueueCounts { expired: 1, ..counts(1) }), 1);
        check(0, |[_, beside, _]| beside.arrived[0].objects = 49, 1);
        check(0, |[_, beside, _]| beside.arrived[1].objects = 49, 1);
        check(0, |[_, beside, _]| beside.arrived[1].again = 1, 1);
        check(0, |[_, beside, _]| beside.letters = [("corrupt_object".to_owned(), 1)].into(), 1);
        check(0, |[.., expiring]| expiring.letters = [(ROLE_DENIED.to_owned(), 4)].into(), 1);
        check(0, |[.., expiring]| expiring.letters.extend([("panic".to_owned(), 1)]), 1);
        check(0, |[.., expiring]| expiring.letters_again = 1, 1);
    }

    #[test]
    fn kills_excuse_repeats_of_objects_in_flight_and_latency_is_not_checked() {
        check(1, |[_, beside, _]| beside.arrived[1].again = 32, 0);
        check(1, |[_, beside, _]| beside.arrived[1].again = 33, 1);
        check(1, |[_, beside, _]| beside.latencies = vec![9_999; 10], 0);
        check(1, |[_, beside, _]| beside.arrived[0].objects = 49, 1);
        check(1, |[_, beside, _]| beside.counts = Some(counts(500)), 0);
    }

    #[test]
    fn letters_are_counted_by_object() {
        let letter = |reason: &str, key: &str| (reason.to_owned(), key.to_owned());
        let letters = vec![letter("a", "1"), letter("a", "2"), letter("b", "3"), letter("a", "1")];
        assert_eq!(count_letters(letters), ([("a".to_owned(), 2), ("b".to_owned(), 1)].into(), 1));
    }
}
