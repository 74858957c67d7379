//! CPU time and memory of processes, as Linux reports them in `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};

/// Ticks per second in `/proc/PID/stat`: `USER_HZ`, which is always 100 in user space.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time and memory of a process since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// User and system time of all threads, in steps of 10 ms.
    pub(crate) cpu: Duration,
    /// Highest resident memory, in bytes.
    pub(crate) peak_rss: u64,
}

/// Reads both figures of a running process.
///
/// # Errors
/// There is no such process, or the system is not Linux.
pub(crate) fn of_process(id: u32) -> anyhow::Result<Usage> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak: u64 = peak.context("no VmHWM: the process has ended")?.parse()?;
    Ok(Usage { cpu: cpu(&format!("/proc/{id}/stat"))?, peak_rss: peak * 1024 })
}

/// CPU time of the calling thread: exact if the kernel keeps scheduler statistics, otherwise in steps of 10 ms.
///
/// # Errors
/// The system is not Linux.
pub(crate) fn of_this_thread() -> anyhow::Result<Duration> {
    // The first field is the time on a processor in nanoseconds. Source: the kernel's Documentation/scheduler/sched-stats.rst.
    let exact = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = exact.as_deref().and_then(|text| text.split(' ').next()?.parse().ok());
    match nanoseconds {
        // Some kernels have the file but keep no statistics.
        Some(nanoseconds) if nanoseconds > 0 => Ok(Duration::from_nanos(nanoseconds)),
        _ => cpu("/proc/thread-self/stat"),
    }
}

/// Returns whether SIGSTOP has stopped the process.
///
/// # Errors
/// There is no such process, or the system is not Linux.
pub(crate) fn is_stopped(id: u32) -> anyhow::Result<bool> {
    let path = format!("/proc/{id}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(state(&stat) == Some('T'))
}

/// Describes the machine in one line: [`processor`], cores and kernel.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", processor(), kernel.trim())
}

/// Describes the processor, and whether it has SHA-256 instructions. Every request is signed over its body. Without these
/// instructions hashing is a large part of the worker's cost, so ratios of processors with and without them are not comparable.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim())
    };
    let model = field("model name").unwrap_or("unknown");
    let features = field("flags").or_else(|| field("Features")).unwrap_or_default();
    let hashes = features.split(' ').any(|feature| matches!(feature, "sha_ni" | "sha2"));
    format!("{model}, {} SHA-256 instructions", if hashes { "with" } else { "WITHOUT" })
}

fn cpu(path: &str) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu(&stat).with_context(|| format!("{path} is not in the format of proc(5)"))
}

/// State of the process: field 3, one letter.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Sum of `utime` and `stime`, fields 14 and 15. Field 2, the name in brackets, may contain any characters.
fn parse_cpu(stat: &str) -> anyhow::Result<Duration> {
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    ensure!(fields.len() > 12, "too few fields");
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "21346 (a) b) R 21337 21337 20855 0 -1 4194304 100 0 0 0 123 7 9 9 20 0 1 0";
        assert_eq!(parse_cpu(stat).expect("the line is well formed"), Duration::from_millis(1300));
        parse_cpu("1 (a) R 1").expect_err("the line is too short");
        assert_eq!(state(stat), Some('R'));
    }

    #[test]
    fn work_adds_cpu_time_to_this_thread() {
        let before = of_this_thread().expect("this is Linux");
        let (started, mut n) = (std::time::Instant::now(), 0_u64);
        // If the kernel reports times in steps of 10 ms, it may take two steps until a change shows.
        while of_this_thread().expect("this is Linux") == before {
            n = std::hint::black_box(n.wrapping_mul(31) + 1);
            assert!(started.elapsed().as_secs() < 60, "a minute of work added no CPU time");
        }
        assert!(!is_stopped(std::process::id()).expect("this is Linux"), "the process runs");
    }

    #[test]
    fn this_process_has_memory() {
        let usage = of_process(std::process::id()).expect("the process runs");
        assert!(usage.peak_rss > 100_000, "{usage:?}");
    }
}
