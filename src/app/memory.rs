//! How much memory a worker can take.

use crate::{config::Config, delivery::MAX_STREAMS, status, worker::settle::bodies_bound};

/// Memory of the worker's buffers in bytes: slots x (window + two batches + read-ahead). See ARCHITECTURE.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBound {
    /// All slots busy with ordinary records: two steps of decompressed text, two batches of 1.5 MiB (an open one and one
    /// being put; sorting needs no third, because it uses the buffer of the batch that was answered), and three reads of the
    /// connection.
    pub ordinary: u64,
    /// All slots busy with the worst records: zstd's window (8 MiB; larger windows count in `source.zstd_windows`), records
    /// of `source.max_record` that must be mended (in the window, plus three times their size if each byte becomes U+FFFD),
    /// batches that consist of escapes (8 MiB with room to grow), and full caches.
    pub worst: u64,
}

/// Computes the bound for one delivery per object.
pub fn memory_bound(config: &Config) -> MemoryBound {
    const KIB: u64 = 1 << 10;
    let slots = config.worker.concurrency as u64;
    let (steps, read_ahead) = (512 * KIB, 1280 * KIB);
    let mended = 4 * config.source.max_record.as_u64();
    // Two quarantine files: one that grows, and one that is being written. Each holds a mebibyte and one record that does not
    // compress, in a buffer that may have doubled.
    let set_aside = if config.quarantine.bucket.is_some() {
        2 * 2 * (1024 * KIB + config.source.max_record.as_u64())
    } else {
        0
    };
    // A body of 1 MiB names 11,000 objects. Each takes 200 bytes, and its result 450; lists have room to double.
    let message = 12 * 1024 * KIB;
    // A request that shadow mode reads back: 10,000 events of 32 bytes, the longest message, and a sheet of counts.
    let counts = 2 * 1024 * KIB;
    let caches =
        config.credentials.cache_capacity * 8 * KIB + config.tenants.cache_capacity * KIB + MAX_STREAMS * KIB;
    MemoryBound {
        ordinary: slots * (steps + read_ahead + 2 * 1536 * KIB),
        worst: slots
            * (steps + read_ahead + 8192 * KIB + mended + 2 * 8192 * KIB + set_aside + message + counts)
            + config.source.zstd_windows.as_u64()
            + status::MOST_BYTES
            + caches
            + bodies_bound(config.worker.concurrency) as u64,
    }
}

/// The memory limit in bytes, if there is one: that of the Lambda function, or of the container (cgroup v2).
pub fn memory_limit(variable: impl Fn(&str) -> Option<String>) -> Option<u64> {
    // Lambda's megabytes are MiB. Source: Lambda developer guide, "Configure Lambda function memory".
    let function = variable("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").and_then(|size| size.parse::<u64>().ok());
    function
        .map(|mib| mib << 20)
        .or_else(|| std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok())
}
