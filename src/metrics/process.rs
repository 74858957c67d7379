//! The standard metrics of a process, read from `/proc` at each scrape. Where there is no `/proc`, they are absent. Source:
//! Prometheus's documentation, "Writing client libraries", "Standard and runtime collectors".

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

/// Clock ticks per second in `/proc`: `USER_HZ`, which is 100 on every architecture of our images. Source: proc(5), and the
/// kernel's `include/asm-generic/param.h`.
const TICKS: f64 = 100.0;

/// Registers the metrics, with the prefix `process_` instead of `logferry_`.
pub fn register(registry: &mut Registry) {
    registry.sub_registry_with_prefix("process").register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

#[derive(Debug, PartialEq)]
struct State {
    cpu_seconds: f64,
    /// Unix time.
    started: f64,
    virtual_bytes: i64,
    resident_bytes: i64,
    open_fds: i64,
    /// `None`: no limit.
    max_fds: Option<i64>,
}

impl State {
    fn of_this_process() -> Option<Self> {
        let read = |path| fs::read_to_string(path).ok();
        let open_fds = i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?;
        Self::parse(
            &read("/proc/self/stat")?,
            &read("/proc/self/status")?,
            &read("/proc/self/limits")?,
            &read("/proc/stat")?,
            // One descriptor was open only for this count.
            open_fds - 1,
        )
    }

    /// Source of the forms: proc(5).
    fn parse(stat: &str, status: &str, limits: &str, system: &str, open_fds: i64) -> Option<Self> {
        // The second field is the program's name in parentheses; the name may contain spaces and parentheses. So `fields`
        // begins with the third field.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let after = |text: &str, name: &str| -> Option<String> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_ascii_whitespace().next().map(str::to_owned)
        };
        let bytes = |name| Some(after(status, name)?.parse::<i64>().ok()? * 1024);
        let booted: f64 = after(system, "btime ")?.parse().ok()?;
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            started: booted + field(22)? / TICKS,
            virtual_bytes: bytes("VmSize:")?,
            resident_bytes: bytes("VmRSS:")?,
            open_fds,
            max_fds: after(limits, "Max open files")?.parse().ok(),
        })
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(state) = State::of_this_process() else { return Ok(()) };
        let mut write = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let gauge = |value: i64| ConstGauge::new(value);
        let (seconds, bytes) = (Some(&Unit::Seconds), Some(&Unit::Bytes));
        write("cpu", "User and system CPU time.", seconds, &ConstCounter::new(state.cpu_seconds))?;
        write("start_time", "Unix time of the start.", seconds, &ConstGauge::new(state.started))?;
        write("virtual_memory", "Virtual memory.", bytes, &gauge(state.virtual_bytes))?;
        write("resident_memory", "Resident memory.", bytes, &gauge(state.resident_bytes))?;
        write("open_fds", "Open file descriptors.", None, &gauge(state.open_fds))?;
        if let Some(max_fds) = state.max_fds {
            write("max_fds", "Most open file descriptors.", None, &gauge(max_fds))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        let stat = "7 (a b) c) R 1 7 7 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 9 0 12345 2465792 512 18446744073709551615";
        let status =
            "Name:\ta b) c\nVmPeak:\t 3000 kB\nVmSize:\t 2408 kB\nVmHWM:\t 2100 kB\nVmRSS:\t 2048 kB\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        let system = "cpu  1 2 3 4\nbtime 1700000000\nprocesses 5\n";
        let state = State {
            cpu_seconds: 3.0,
            started: 1_700_000_123.45,
            virtual_bytes: 2408 * 1024,
            resident_bytes: 2048 * 1024,
            open_fds: 9,
            max_fds: Some(1024),
        };
        assert_eq!(State::parse(stat, status, limits, system, 9).as_ref(), Some(&state));
        let unlimited = State::parse(stat, status, "Max open files   unlimited unlimited files", system, 9);
        assert_eq!(unlimited, Some(State { max_fds: None, ..state }));
        assert_eq!(State::parse("", status, limits, system, 9), None);
        assert_eq!(State::parse(stat, "", limits, system, 9), None);
    }

    #[test]
    fn the_numbers_of_this_process_are_plausible() {
        let before = State::of_this_process().expect("there is a /proc");
        let file = fs::File::open("/proc/self/stat").expect("there is a /proc");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let age = now.as_secs_f64() - before.started;
        assert!((-1.0..86_400.0).contains(&age), "the process started {age} s ago");
        assert!(
            before.resident_bytes > 1 << 20 && before.virtual_bytes > before.resident_bytes,
            "{before:?}"
        );
        assert!(
            before.open_fds > 0 && before.max_fds.is_none_or(|most| before.open_fds < most),
            "{before:?}"
        );
        drop(file);
    }
}
