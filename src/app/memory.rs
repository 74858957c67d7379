//! How much memory a worker can take.

use crate::{config::Config, delivery::MAX_STREAMS, lake, room, status, worker::settle::bodies_bound};

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
            + lake::memory_bound(
                slots,
                u64::from(room::UNITS),
                config.source.max_record.as_u64(),
                config.source.max_object.as_u64(),
            )
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use bytesize::ByteSize;
    use serde_yaml_ng::Value;

    use super::*;

    /// Limits of the templates and manifests that are shipped, whose workers have a quarantine.
    #[test]
    fn containers_have_more_memory_than_the_worst_case() {
        let read = |file: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            fs::read_to_string(path).expect("the file exists")
        };
        let yaml = |file: &str| -> Value { serde_yaml_ng::from_str(&read(file)).expect("YAML") };
        let check = |place: &str, mut config: Config, limit: ByteSize| {
            config.quarantine.bucket = Some("quarantine=111111111111".to_owned());
            let worst = memory_bound(&config).worst;
            // The program, its connections and its stacks.
            let rest = limit.as_u64().saturating_sub(worst);
            assert!(rest > 128 << 20, "{place}: {limit} for {}", ByteSize::b(worst));
        };
        let of_manifests = toml::from_str(&read("k8s/worker/base/logferry.toml")).expect("TOML");
        let pod = &yaml("k8s/worker/base/deployment.yaml")["spec"]["template"]["spec"]["containers"][0];
        let limit = pod["resources"]["limits"]["memory"].as_str().expect("text");
        check("deployment.yaml", of_manifests, limit.parse().expect("a size"));
        let task = &yaml("cloudformation/ecs.yaml")["Resources"]["TaskDefinition"]["Properties"];
        let mebibytes: u64 = task["Memory"].as_str().expect("text").parse().expect("a number");
        check("ecs.yaml", Config::default(), ByteSize::mib(mebibytes));
        let function = &yaml("cloudformation/lambda.yaml")["Resources"]["Function"]["Properties"];
        let mut config = Config::default();
        let concurrency = &function["Environment"]["Variables"]["LOGFERRY_WORKER__CONCURRENCY"];
        config.worker.concurrency = concurrency.as_str().expect("text").parse().expect("a number");
        let mebibytes = function["MemorySize"].as_u64().expect("a number");
        check("lambda.yaml", config, ByteSize::mib(mebibytes));
    }
}
