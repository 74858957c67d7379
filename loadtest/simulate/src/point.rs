//! Compares the model with one worker that was measured on a machine.
//!
//! `loadtest/run point` writes the file. Processor times come from two other sizes of objects than the point's, so nothing is
//! fitted to the point itself. The throughput of the larger of these sizes is compared too: neither processors nor the rate of
//! puts bound it, but room and the calls that objects share.

use std::{fs, path::Path};

use serde::Deserialize;

use crate::{
    clock::{MILLISECOND, Time},
    model::Simulation,
    settings::{Fleet, Load, Loopback, Place, Quotas, Settings, Work},
};

/// Largest difference between model and measurement.
pub(crate) const TOLERANCE: f64 = 0.2;
/// How often the instrument looks whether the queue is empty: `LOOK_AGAIN` in loadtest/driver/src/point.rs.
const LOOK_AGAIN: f64 = 0.05;
/// Calls of an object that the sandbox answers while a full queue is emptied, with its parts of the calls that objects share.
/// Source: loadtest/RESULTS.md: 2.28 at 3,832 objects per second ("A burst"), 2.34 at 1,858 ("The mix").
const CALLS: f64 = 2.33;
/// Calls from an event to its acceptance: Publish, ReceiveMessage, the claim (BatchExecuteStatement), GetObject and PutLogEvents.
const CHAIN: u32 = 5;

/// Figures of `loadtest/run point`.
#[derive(Debug, Deserialize)]
struct Measured {
    conditions: String,
    cores: usize,
    concurrency: usize,
    put_rate: u64,
    /// A smaller and a larger size than the point's.
    costs: [Size; 2],
    point: Size,
    /// Events per second while latencies were measured.
    rate: f64,
    latency_of_small: Latency,
    latency: Latency,
}

#[derive(Debug, Deserialize)]
struct Size {
    json_bytes: f64,
    objects: usize,
    objects_per_second: f64,
    worker_cpu_ms: f64,
    sandbox_cpu_ms: f64,
    publish_cpu_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Latency {
    objects: usize,
    p50_ms: f64,
    p95_ms: f64,
}

/// One figure, measured and computed.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) name: &'static str,
    pub(crate) measured: f64,
    pub(crate) computed: f64,
}

impl Compared {
    pub(crate) fn difference(&self) -> f64 {
        self.computed / self.measured - 1.0
    }
}

/// Conditions of the measurement, and each figure.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn compare(file: &Path) -> Result<(String, Vec<Compared>), String> {
    let text =
        fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let measured = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let Measured { conditions, .. } = &measured;
    Ok((conditions.clone(), measured.compare()))
}

impl Measured {
    fn compare(&self) -> Vec<Compared> {
        let Latency { objects, p50_ms, p95_ms } = self.latency;
        let steady = self.simulation().publish_steadily(self.rate, self.point.json_bytes, objects);
        let milliseconds = |per_cent| steady.latency.percentile(per_cent) * 1e3;
        let compared = |name, measured, computed| Compared { name, measured, computed };
        vec![
            compared(
                "objects per second from a backlog",
                self.point.objects_per_second,
                self.empty(&self.point),
            ),
            compared(
                "objects per second from a backlog of larger objects",
                self.costs[1].objects_per_second,
                self.empty(&self.costs[1]),
            ),
            compared("p50 from event to acceptance, ms", p50_ms, milliseconds(50)),
            compared("p95 from event to acceptance, ms", p95_ms, milliseconds(95)),
        ]
    }

    /// Objects per second from a full queue, as the instrument sees them.
    fn empty(&self, size: &Size) -> f64 {
        let mut backlog = self.simulation();
        backlog.add_backlog(size.objects, size.json_bytes);
        let looks = (backlog.drain().seconds / LOOK_AGAIN).ceil();
        size.objects as f64 / (looks * LOOK_AGAIN)
    }

    /// One worker beside sandbox and instrument.
    fn simulation(&self) -> Simulation {
        let [worker, sandbox] =
            [|size: &Size| size.worker_cpu_ms, |size: &Size| size.sandbox_cpu_ms].map(|of| self.line(of));
        let small = &self.costs[0];
        let call_ms = sandbox.object as f64 / CALLS / MILLISECOND as f64;
        // A small object at a steady rate waits for no core. So what is left of its latency is hand-over, and the part of the
        // worker's processor time that objects save by sharing calls.
        let computing = small.publish_cpu_ms + f64::from(CHAIN - 1) * call_ms + small.worker_cpu_ms;
        let handover = ((self.latency_of_small.p50_ms - computing) / f64::from(CHAIN)).max(0.0);
        let nanoseconds = |milliseconds: f64| (milliseconds * MILLISECOND as f64) as Time;
        let loopback = Loopback {
            cores: self.cores,
            call: nanoseconds(call_ms),
            byte: sandbox.byte,
            publish: nanoseconds(small.publish_cpu_ms),
            handover: nanoseconds(handover),
        };
        let fleet = Fleet {
            concurrency: self.concurrency,
            daily_streams: false,
            put_rate: self.put_rate,
            ledger: true,
            work: worker,
            ..Fleet::shipped()
        };
        let load = Load { tenants: 1, ..Load::of(1000) };
        let settings = Settings { load, fleet, quotas: Quotas::none(), place: Place::Loopback(loopback) };
        Simulation::new(settings, 1, 1)
    }

    /// The line through the costs of both sizes.
    fn line(&self, of: fn(&Size) -> f64) -> Work {
        let [small, large] = &self.costs;
        let byte = (of(large) - of(small)) / (large.json_bytes - small.json_bytes);
        let object = of(small) - byte * small.json_bytes;
        let nanoseconds = MILLISECOND as f64;
        Work { object: (object * nanoseconds) as Time, byte: byte * nanoseconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let size = |json_bytes, worker_cpu_ms, sandbox_cpu_ms| Size {
            json_bytes,
            objects: 2000,
            objects_per_second: 1.0,
            worker_cpu_ms,
            sandbox_cpu_ms,
            publish_cpu_ms: 0.5,
        };
        let latency = |p50_ms| Latency { objects: 2000, p50_ms, p95_ms: 1.0 };
        Measured {
            conditions: String::new(),
            cores: 2,
            concurrency: 16,
            put_rate: 1_000_000,
            costs: [size(5e3, 1.5, 1.0), size(1e6, 4.0, 3.0)],
            point: size(100e3, 0.0, 0.0),
            rate: 100.0,
            latency_of_small: latency(4.5),
            latency: latency(1.0),
        }
    }

    #[test]
    fn costs_lie_on_the_line_through_both_sizes() {
        let Work { object, byte } = measured().line(|size| size.worker_cpu_ms);
        let at = |bytes: f64| (object as f64 + byte * bytes) / MILLISECOND as f64;
        assert!((at(5e3) - 1.5).abs() < 1e-5 && (at(1e6) - 4.0).abs() < 1e-5, "{object} {byte}");
    }

    #[test]
    fn a_backlog_uses_all_cores() {
        // 1.74 ms of the worker and 1.19 ms of the sandbox for each object, on two cores.
        let found = measured().compare()[0].computed;
        let expected = 2000.0 / (1.74 + 1.19);
        assert!((found / expected - 1.0).abs() < 0.05, "{found} instead of {expected}");
    }

    #[test]
    fn without_a_backlog_the_latency_is_work_and_hand_over() {
        // What the small object's 4.5 ms are beside its work, and the work for the point: publishing, the sandbox's calls, the
        // worker, and the put's bytes.
        let call = 0.99 / CALLS;
        let handover = 4.5 - (0.5 + 4.0 * call + 1.5);
        let expected = handover + 0.5 + 4.0 * call + 1.74 + 0.19;
        let found = measured().compare();
        assert!((found[2].computed / expected - 1.0).abs() < 0.03, "{found:?} instead of {expected}");
        // Whole milliseconds add up to half a millisecond.
        assert!((found[3].computed - expected - 0.45).abs() < 0.1, "{found:?} instead of {expected}");
    }

    #[test]
    fn a_rate_of_puts_bounds_the_throughput() {
        let found = Measured { put_rate: 300, ..measured() }.compare()[0].computed;
        assert!((found / 300.0 - 1.0).abs() < 0.05, "{found}");
    }
    #[test]
    fn room_and_shared_calls_bound_the_throughput_of_larger_objects() {
        // An object of 750 kB has four units, so 14 objects share seven of eight slots, and one more has the last slot. Many come,
        // and no call is full, so a claim and an end each wait for the next call: 20 to 40 ms together.
        let size =
            |json_bytes| Size { json_bytes, worker_cpu_ms: 0.1, sandbox_cpu_ms: 0.1, ..measured().point };
        let measured = Measured { concurrency: 8, costs: [size(5e3), size(750e3)], ..measured() };
        let found = measured.empty(&measured.costs[1]);
        assert!((15.0 / 0.045..15.0 / 0.020).contains(&found), "{found}");
    }

    #[test]
    fn objects_of_a_full_queue_share_calls() {
        // Only calls take processor time.
        let size =
            |json_bytes| Size { json_bytes, worker_cpu_ms: 0.0, sandbox_cpu_ms: 0.1, ..measured().point };
        let measured = Measured { costs: [size(5e3), size(1e6)], put_rate: 800, ..measured() };
        let mut backlog = measured.simulation();
        backlog.add_backlog(4000, 5e3);
        backlog.drain();
        let calls = crate::clock::in_seconds(backlog.machine_time()) * 1e3 / (0.1 / CALLS) / 4000.0;
        assert!((calls / CALLS - 1.0).abs() < 0.03, "{calls} calls for an object");
    }
}
