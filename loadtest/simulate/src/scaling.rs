//! The experiments behind docs/scaling.md: what becomes scarce at 1, 10 and 100 times 1,000 clusters, and what helps.

use crate::{
    collector::Collector,
    model::{Phase, Simulation},
    outcome::{Outcome, Scarce},
    settings::{Fleet, Latencies, Load, Place, Quotas, Settings},
};

/// Clusters at the scale 1.
pub(crate) const CLUSTERS: usize = 1000;
/// The scales of docs/scaling.md.
pub(crate) const SCALES: [usize; 3] = [1, 10, 100];
/// Part of KEDA's target that a worker has in flight in the middle of the day.
const USUAL_USE: f64 = 0.9;
/// Seconds that a message is in flight without trouble: the receive's answer, a claim, a session that is cached, a GetObject, a
/// put, the end in the ledger, and the wait of the delete for others.
const USUAL_FLIGHT: f64 = 0.24;
/// Seconds after which a restart counts as endless.
const PATIENCE: u64 = 180;

/// The number of workers and AWS's limits in one experiment.
#[derive(Clone, Debug)]
pub(crate) struct Experiment {
    settings: Settings,
    seed: u64,
}

/// How a restart of all workers after a pause ends.
#[derive(Clone, Debug)]
pub(crate) struct Restart {
    /// Seconds until only as many messages are left as usual; `None` if that takes longer than [`PATIENCE`].
    pub(crate) caught_up_after: Option<u64>,
    pub(crate) outcome: Outcome,
}

impl Experiment {
    /// `fleet` at this number of clusters, in a bucket and with tables that have grown with their load.
    pub(crate) fn of(clusters: usize, fleet: Fleet, seed: u64) -> Self {
        let load = Load::of(clusters);
        let quotas = grown(&load);
        Self {
            settings: Settings { load, fleet, quotas, place: Place::Region(Latencies::in_region(1.0)) },
            seed,
        }
    }

    pub(crate) fn with_quotas(mut self, change: impl FnOnce(&mut Quotas)) -> Self {
        change(&mut self.settings.quotas);
        self
    }

    pub(crate) fn with_latencies(mut self, factor: f64) -> Self {
        self.settings.place = Place::Region(Latencies::in_region(factor));
        self
    }

    /// One of `parts` equal fleets, each with a queue and tenants of its own, that share the quotas of an account.
    pub(crate) fn divided(mut self, parts: usize) -> Self {
        let Settings { load, quotas, .. } = &mut self.settings;
        let part = parts as f64;
        *load = Load::of(load.clusters / parts);
        quotas.assume_roles /= part;
        quotas.sns_publishes /= part;
        quotas.ledger_writes /= part;
        quotas.tenant_reads /= part;
        quotas.s3_partitions = quotas.s3_partitions.div_ceil(parts);
        self
    }

    fn rate(&self) -> f64 {
        Collector::new(&self.settings.load, 1.0).rate
    }

    fn start(&self) -> Simulation {
        let Fleet { queue_length, most_replicas, .. } = self.settings.fleet;
        let messages = self.rate() * USUAL_FLIGHT / USUAL_USE;
        let replicas = ((messages / queue_length as f64).ceil() as usize).clamp(1, most_replicas);
        let mut simulation = Simulation::new(self.settings.clone(), replicas, self.seed);
        simulation.go_live();
        simulation
    }

    /// Some time of an ordinary day.
    pub(crate) fn day(&self, seconds: u64) -> Outcome {
        self.start().run(&Phase::steady(seconds))
    }

    /// The first minutes of a UTC day.
    pub(crate) fn midnight(&self, seconds: u64) -> Outcome {
        let mut simulation = self.start();
        simulation.run(&Phase::steady(20));
        simulation.run(&Phase { midnight: true, ..Phase::steady(seconds) })
    }

    /// The pods write `factor` times as much as usual.
    pub(crate) fn burst(&self, factor: f64, seconds: u64) -> Outcome {
        let mut simulation = self.start();
        simulation.run(&Phase::steady(20));
        simulation.run(&Phase { logs: factor, ..Phase::steady(seconds) })
    }

    /// All workers stop for `seconds`, and start again with empty caches.
    pub(crate) fn restart(&self, seconds: u64) -> Restart {
        let mut simulation = self.start();
        let before = simulation.run(&Phase::steady(20));
        simulation.run(&Phase { workers: false, ..Phase::steady(seconds) });
        let mut outcome = Outcome::new();
        let caught_up_after = (1..=PATIENCE / 10).find_map(|turn| {
            outcome.add(&simulation.run(&Phase::steady(10)));
            (outcome.left < 2 * before.left).then_some(10 * turn)
        });
        Restart { caught_up_after, outcome }
    }
}

/// The quotas of an account in which bucket and tables have had this load for hours: S3 has split the prefix, and DynamoDB takes
/// twice the ledger's load, up to its quota for a table.
fn grown(load: &Load) -> Quotas {
    let rate = Collector::new(load, 1.0).rate;
    let defaults = Quotas::defaults();
    Quotas {
        s3_partitions: (2.0 * rate / defaults.s3_puts).ceil() as usize,
        ledger_writes: (2.0 * 2.0 * rate).clamp(defaults.ledger_writes, Quotas::TABLE),
        tenant_reads: Quotas::TABLE,
        ..defaults
    }
}

/// What a fleet without limits asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) day: Outcome,
    pub(crate) midnight: Outcome,
    pub(crate) restart: Outcome,
}

/// The recommended fleet at a scale, with the default template of streams, when AWS refuses nothing.
pub(crate) fn asked(scale: usize, seed: u64) -> Asked {
    // At 100x, a minute has four million objects.
    let (seconds, stopped) = if scale == 100 { (10, 5) } else { (60, 20) };
    let fleet = match scale {
        1 => Fleet::shipped(),
        10 => Fleet { daily_streams: true, ..Fleet::recommended() },
        _ => Fleet { daily_streams: true, most_replicas: 500, ..Fleet::recommended() },
    };
    let experiment =
        Experiment::of(CLUSTERS * scale, fleet, seed).with_quotas(|quotas| *quotas = Quotas::none());
    let mut simulation = experiment.start();
    simulation.run(&Phase::steady(seconds / 2));
    let day = simulation.run(&Phase::steady(seconds));
    let midnight = simulation.run(&Phase { midnight: true, ..Phase::steady(seconds) });
    simulation.run(&Phase { workers: false, ..Phase::steady(stopped) });
    // Pods start after 20 s.
    let restart = simulation.run(&Phase::steady(25));
    Asked { day, midnight, restart }
}

/// A limit, what is asked of it, and what moves it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) scarce: Scarce,
    pub(crate) name: &'static str,
    pub(crate) quota: f64,
    pub(crate) remedy: &'static str,
    /// How sure quota and load are.
    pub(crate) sure: &'static str,
}

/// The limits, with the values that nobody has raised.
pub(crate) fn limits() -> Vec<Limit> {
    let (quotas, fleet) = (Quotas::defaults(), Fleet::shipped());
    let limit = |scarce, name, quota, remedy, sure| Limit { scarce, name, quota, remedy, sure };
    vec![
        limit(
            Scarce::StreamCreations,
            "CreateLogStream per second, largest tenant",
            quotas.stream_creations,
            "`log_stream_name` without `{date}`; or the customer's quota, then `delivery.create_stream_rate`",
            "sure; the largest tenant's share is assumed",
        ),
        limit(
            Scarce::Workers,
            "workers",
            fleet.most_replicas as f64,
            "`queueLength`, `maxReplicaCount`",
            "within a factor of two: latencies of AWS",
        ),
        limit(
            Scarce::Slots,
            "slots in use",
            (fleet.concurrency * fleet.most_replicas) as f64,
            "`maxReplicaCount`, `worker.concurrency`",
            "within a factor of two: latencies of AWS, sizes of objects",
        ),
        limit(
            Scarce::AssumeRoles,
            "AssumeRole per second",
            quotas.assume_roles,
            "several queues by tenant; fewer and larger workers; `credentials.cache_capacity` above the number of tenants",
            "sure",
        ),
        limit(
            Scarce::LedgerWrites,
            "write units per second, new ledger table",
            quotas.ledger_writes,
            "the table's `WarmThroughput`",
            "sure",
        ),
        limit(
            Scarce::LedgerWrites,
            "write units per second, any table",
            Quotas::TABLE,
            "the account's quota for tables on demand; several accounts",
            "sure",
        ),
        limit(
            Scarce::S3Puts,
            "PutObject per second, new bucket",
            quotas.s3_puts,
            "S3 splits the prefix in 30 to 60 minutes; AWS Support does so beforehand",
            "fairly sure; the time is not documented",
        ),
        limit(
            Scarce::S3Gets,
            "GetObject per second, new bucket",
            quotas.s3_gets,
            "as PutObject",
            "fairly sure; the time is not documented",
        ),
        limit(
            Scarce::SnsPublishes,
            "SNS messages per second",
            quotas.sns_publishes,
            "the account's quota; several topics do not help",
            "differs by Region; not sure that S3's notifications count",
        ),
        limit(
            Scarce::Puts,
            "PutLogEvents per second, largest tenant",
            quotas.puts,
            "the customer's quota, then `delivery.put_rate`",
            "sure; the largest tenant's share is assumed",
        ),
        limit(
            Scarce::TenantReads,
            "read units per second, new table of tenants",
            quotas.tenant_reads,
            "the table's `WarmThroughput`; `tenants.cache_ttl`; `tenants.cache_capacity`",
            "sure",
        ),
        limit(
            Scarce::InFlight,
            "messages in flight",
            quotas.in_flight as f64,
            "several queues; `queue.max_hidden`",
            "sure",
        ),
    ]
}

impl Asked {
    /// Most that was asked for in a second.
    pub(crate) fn peak(&self, scarce: Scarce) -> f64 {
        [&self.day, &self.midnight, &self.restart]
            .map(|outcome| outcome.meter(scarce).peak)
            .into_iter()
            .fold(0.0, f64::max)
    }

    pub(crate) fn of_day(&self, scarce: Scarce) -> f64 {
        self.day.meter(scarce).peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn a_part_of_the_fleet_has_its_part_of_the_quotas() {
        let whole = Experiment::of(10_000, Fleet::recommended(), 1);
        let part = whole.clone().divided(4);
        assert!((part.rate() * 4.0 / whole.rate() - 1.0).abs() < 1e-9);
        assert_eq!(part.settings.quotas.assume_roles, 150.0);
        assert_eq!(part.settings.load.tenants, 1250);
    }

    #[test]
    fn a_seed_repeats_a_run_and_another_seed_gives_another() {
        let run = |seed| {
            let outcome = Experiment::of(200, Fleet::shipped(), seed).midnight(60);
            (outcome.written, outcome.latency.mean().to_bits(), outcome.retried, outcome.deferred)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn messages_in_work_and_in_flight_obey_littles_law() {
        // Messages in work = rate x time in a slot. The mean of the level is measured by a sample in each second.
        let experiment = Experiment::of(1000, Fleet::shipped(), 1);
        let mut simulation = experiment.start();
        simulation.run(&Phase::steady(20));
        let (mut used, mut flying, mut done, mut time) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..400 {
            let outcome = simulation.run(&Phase { length: SECOND / 4, ..Phase::steady(0) });
            used += simulation.messages_in_work() as f64 / 400.0;
            flying += simulation.messages_in_flight() as f64 / 400.0;
            done += outcome.slot_time.total() as f64 / 100.0;
            time += outcome.slot_time.mean() / 400.0;
        }
        assert!(
            (used / (done * time) - 1.0).abs() < 0.03,
            "{used} messages, {done} objects a second of {time} s"
        );
        let flight = flying / done;
        assert!((flight / USUAL_FLIGHT - 1.0).abs() < 0.05, "{flight} s");
    }

    /// Objects per second of one worker with a full queue of `count` objects.
    fn full_speed(slots: usize, count: usize, add: impl Fn(&mut Simulation)) -> f64 {
        let fleet = Fleet { concurrency: slots, most_replicas: 1, ..Fleet::shipped() };
        let mut worker = Simulation::new(Experiment::of(1000, fleet, 1).settings, 1, 1);
        add(&mut worker);
        count as f64 / worker.drain().seconds
    }

    #[test]
    fn one_receive_at_a_time_bounds_a_worker() {
        // Ten messages in the mean time of a receive: the median times exp(0.5 ^ 2 / 2).
        let bound = 10.0 / (0.020 * 0.125_f64.exp());
        for slots in [16, 64] {
            let found = full_speed(slots, 20_000, |worker| worker.add_backlog(20_000, 40e3));
            assert!((0.93..1.0).contains(&(found / bound)), "{found} of {bound} with {slots} slots");
        }
    }

    #[test]
    fn room_bounds_a_worker_with_large_objects() {
        // Each object has a whole slot, and less than a receive fits.
        let found = full_speed(4, 2000, |worker| worker.add_backlog(2000, 1.5e6));
        let time = 0.175 * 0.125_f64.exp();
        assert!((0.85..1.0).contains(&(found * time / 4.0)), "{found} of {}", 4.0 / time);
    }

    /// docs/scaling.md names these figures.
    #[test]
    fn a_worker_delivers_so_many_objects_of_the_mix() {
        let mix = |worker: &mut Simulation| worker.add_mix(20_000);
        for (slots, expected) in [(16, 290.0), (32, 420.0), (64, 420.0)] {
            let found = full_speed(slots, 20_000, mix);
            assert!((found / expected - 1.0).abs() < 0.05, "{found} with {slots} slots");
        }
    }
}
