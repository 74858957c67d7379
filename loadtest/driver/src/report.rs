//! The table that a run ends with.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use crate::{
    sandbox::Calls,
    usage::{self, Usage},
};

/// What a run was and what it cost.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) objects: u64,
    pub(crate) tenants: u64,
    pub(crate) concurrency: u32,
    pub(crate) records: u64,
    pub(crate) events: u64,
    pub(crate) message_bytes: u64,
    pub(crate) gzip_bytes: u64,
    pub(crate) plain_bytes: u64,
    /// From the worker's start to the last event.
    pub(crate) wall: Duration,
    /// Of the worker, from its start to the last acknowledgement.
    pub(crate) usage: Usage,
    /// Calls of the worker.
    pub(crate) calls: Calls,
    /// CPU time of inflating the same bytes.
    pub(crate) inflate: Duration,
}

impl Report {
    /// Prints the table.
    ///
    /// # Errors
    /// Nobody reads it.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        Ok(io::stdout().write_all(self.table().as_bytes())?)
    }

    fn table(&self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let (cpu, inflate) = (self.usage.cpu.as_secs_f64(), self.inflate.as_secs_f64());
        let plain = megabytes(self.plain_bytes);
        let objects = self.objects as f64;
        // Long polls and their like come with time, not with objects; they are counted all the same.
        let puts = self.calls.get("logs:PutLogEvents").copied().unwrap_or_default();
        let others = self.calls.values().sum::<u64>() - puts;
        let rows = [
            ("processor", usage::processor()),
            (
                "objects",
                format!("{} ({} tenants, concurrency {})", self.objects, self.tenants, self.concurrency),
            ),
            ("records", self.records.to_string()),
            ("events", format!("{} ({:.1} MB of messages)", self.events, megabytes(self.message_bytes))),
            ("MB decompressed", format!("{plain:.1} ({:.1} gzip)", megabytes(self.gzip_bytes))),
            ("wall", format!("{:.2} s", self.wall.as_secs_f64())),
            ("worker CPU", format!("{cpu:.2} s (user + system)")),
            ("worker peak RSS", format!("{:.1} MiB", self.usage.peak_rss as f64 / f64::from(1 << 20))),
            ("MB per CPU second", rate(plain, cpu)),
            ("CPU per event", format!("{:.2} µs", cpu * 1e6 / self.events as f64)),
            (
                "AWS calls per object",
                format!("{:.2}, and {:.2} PutLogEvents", others as f64 / objects, puts as f64 / objects),
            ),
            ("yardstick CPU", format!("{inflate:.2} s ({} MB per CPU second)", rate(plain, inflate))),
            ("YARDSTICK RATIO", ratio(cpu, inflate)),
        ];
        let mut table = String::new();
        for (name, value) in rows {
            // Writing to a string cannot fail.
            let _ = writeln!(table, "{name:<21} {value}");
        }
        for (name, count) in &self.calls {
            let _ = writeln!(table, "  {name:<34} {count}");
        }
        table
    }
}

fn rate(amount: f64, seconds: f64) -> String {
    if seconds > 0.0 { format!("{:.1}", amount / seconds) } else { "too short to tell".to_owned() }
}

fn ratio(cpu: f64, inflate: f64) -> String {
    // Both come in steps of 10 ms.
    if inflate >= 0.2 { format!("{:.2}", cpu / inflate) } else { "too short to tell".to_owned() }
}
