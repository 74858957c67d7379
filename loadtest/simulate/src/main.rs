//! Simulates a fleet of workers within AWS's quotas.
mod autoscaler;
mod aws;
mod chance;
mod clock;
mod collector;
mod cpu;
mod limit;
mod model;
mod outcome;
mod queue;
mod settings;
mod worker;

use model::{Phase, Simulation};
use outcome::Scarce;
use settings::*;

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let scale: usize = a[1].parse().unwrap();
    let lifted = a[2] == "none";
    let conc: usize = a[3].parse().unwrap();
    let max: usize = a[4].parse().unwrap();
    let secs: u64 = a[5].parse().unwrap();
    let load = Load::of(1000 * scale);
    let fleet = Fleet { most_replicas: max, ..Fleet::shipped().with_concurrency(conc) };
    let rate = collector::Collector::new(&load, 1.0).rate;
    let mean = collector::Collector::new(&load, 1.0).mean_bytes();
    println!("rate {rate} mean {mean}");
    let replicas = ((rate * 0.19 * 4.0 / fleet.queue_length as f64).ceil() as usize).min(max);
    let settings = Settings { load, fleet, quotas: if lifted { Quotas::none() } else { Quotas::defaults() }, place: Place::Region(Latencies::in_region(1.0)) };
    let mut s = Simulation::new(settings, replicas, 1);
    s.go_live();
    for phase in [
        Phase::steady("warm", secs),
        Phase::steady("steady", secs),
        Phase { midnight: true, ..Phase::steady("midnight", secs) },
        Phase { logs: 10.0, ..Phase::steady("burst", secs) },
        Phase { workers: false, ..Phase::steady("stopped", secs) },
        Phase::steady("after", 2*secs),
    ] {
        let t = std::time::Instant::now();
        let o = s.run(&phase);
        println!("{} written {} done {} p50 {:.2} p95 {:.2} slot {:.3} left {} replicas {} retried {} deferred {} ({:?})", o.name, o.written, o.latency.total(), o.latency.percentile(50), o.latency.percentile(95), o.slot_time.mean(), o.left, o.most_replicas, o.retried, o.deferred, t.elapsed());
        for x in Scarce::ALL { let m = o.meter(x); print!("  {x:?} {:.0}/{:.0}/{}", m.peak, m.asked / o.seconds, m.refused); }
        println!();
    }
}
