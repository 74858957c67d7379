//! Figures of a run, and the table that `run` prints.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use clap::ValueEnum;

use crate::{run::Load, sandbox::Calls, usage};

/// Shortest CPU time for which figures are computed. CPU time is measured in steps of 10 ms.
const SHORTEST: Duration = Duration::from_millis(200);

/// Load, results and costs of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) load: Load,
    /// Number of log streams.
    pub(crate) streams: usize,
    pub(crate) records: u64,
    pub(crate) events: u64,
    pub(crate) message_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) plain_bytes: u64,
    /// Time from the beginning of the measurement to the last event. A cold start begins the measurement with the worker's
    /// start; after a warm-up it begins when the paused worker continues.
    pub(crate) wall: Duration,
    /// User and system time of the worker, from the beginning of the measurement to the last acknowledgement.
    pub(crate) cpu: Duration,
    /// Highest resident memory of the worker since its start, in bytes.
    pub(crate) peak_rss: u64,
    pub(crate) calls: Calls,
    /// CPU time of decompressing the same bytes; `None` if they are not compressed.
    pub(crate) yardstick: Option<Duration>,
}

impl Report {
    /// CPU time of the worker divided by that of the yardstick.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let yardstick = self.yardstick.filter(|_| self.cpu >= SHORTEST)?;
        Some(self.cpu.as_secs_f64() / yardstick.as_secs_f64())
    }

    /// MB of JSON per CPU second of the worker.
    pub(crate) fn rate(&self) -> Option<f64> {
        (self.cpu >= SHORTEST).then(|| self.plain_bytes as f64 / 1e6 / self.cpu.as_secs_f64())
    }

    /// CPU time of the worker per event, in microseconds.
    pub(crate) fn cpu_per_event(&self) -> Option<f64> {
        (self.cpu >= SHORTEST).then(|| self.cpu.as_secs_f64() * 1e6 / self.events as f64)
    }

    /// CPU time of the worker per object, in milliseconds.
    pub(crate) fn cpu_per_object(&self) -> Option<f64> {
        (self.cpu >= SHORTEST).then(|| self.cpu.as_secs_f64() * 1e3 / self.load.objects as f64)
    }

    /// Objects per second until the last event arrived.
    pub(crate) fn objects_per_second(&self) -> f64 {
        self.load.objects as f64 / self.wall.as_secs_f64()
    }

    /// Highest resident memory in MiB.
    pub(crate) fn peak_rss(&self) -> f64 {
        self.peak_rss as f64 / f64::from(1 << 20)
    }

    /// Calls per object other than PutLogEvents, including long polls, whose number depends on time and not on objects.
    pub(crate) fn other_calls(&self) -> f64 {
        self.calls.values().sum::<u64>() as f64 / self.load.objects as f64 - self.puts()
    }

    /// PutLogEvents calls per object.
    pub(crate) fn puts(&self) -> f64 {
        self.calls.get("logs:PutLogEvents").copied().unwrap_or_default() as f64 / self.load.objects as f64
    }

    /// Prints the table.
    ///
    /// # Errors
    /// The standard output is closed.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        Ok(io::stdout().write_all(self.table().as_bytes())?)
    }

    fn table(&self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
        let figure = |figure: Option<f64>| shown(figure, "too short to measure");
        let load = &self.load;
        let shape = &load.shape;
        let ledger = if load.ledger { "ledger" } else { "no ledger" };
        let scheme = if load.https { "HTTPS" } else { "HTTP" };
        let start = if load.cold { "cold start included" } else { "after a warm-up" };
        let yardstick = match self.yardstick {
            Some(cpu) => {
                format!(
                    "{} ({:.1} MB per CPU second)",
                    seconds(cpu),
                    megabytes(self.plain_bytes) / cpu.as_secs_f64()
                )
            }
            None => "not applicable".to_owned(),
        };
        let concurrency =
            load.concurrency.map_or_else(|| "default concurrency".to_owned(), |n| format!("concurrency {n}"));
        let ratio = if self.yardstick.is_some() { figure(self.ratio()) } else { "not applicable".to_owned() };
        let rows = [
            ("processor", usage::processor()),
            (
                "objects",
                format!(
                    "{} ({} tenants, {} log streams, {concurrency}, {ledger}, {scheme}, {start})",
                    load.objects, load.tenants, self.streams
                ),
            ),
            (
                "format",
                format!(
                    "{}, {}, {} members, {} pods",
                    name(shape.framing),
                    name(shape.compression),
                    shape.members,
                    shape.pods
                ),
            ),
            ("records", self.records.to_string()),
            ("events", format!("{} ({:.1} MB of messages)", self.events, megabytes(self.message_bytes))),
            (
                "MB decompressed",
                format!("{:.1} ({:.1} as stored)", megabytes(self.plain_bytes), megabytes(self.stored_bytes)),
            ),
            ("wall", seconds(self.wall)),
            ("worker CPU", format!("{} (user + system)", seconds(self.cpu))),
            ("worker peak RSS", format!("{:.1} MiB", self.peak_rss())),
            ("MB per CPU second", figure(self.rate())),
            ("µs CPU per event", figure(self.cpu_per_event())),
            ("ms CPU per object", figure(self.cpu_per_object())),
            ("objects per second", format!("{:.1}", self.objects_per_second())),
            (
                "AWS calls per object",
                format!("{:.2}, and {:.2} PutLogEvents", self.other_calls(), self.puts()),
            ),
            ("yardstick CPU", yardstick),
            ("YARDSTICK RATIO", ratio),
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

/// Formats a figure with two decimals, or returns `otherwise`.
pub(crate) fn shown(figure: Option<f64>, otherwise: &str) -> String {
    figure.map_or_else(|| otherwise.to_owned(), |figure| format!("{figure:.2}"))
}

/// Name of a value on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        generate::{Shape, Size},
        run::Content,
    };

    /// A run of 4 objects, 10,000 events and 20 MB of JSON.
    pub(crate) fn report(cpu_ms: u64, yardstick_ms: Option<u64>) -> Report {
        let load = Load {
            objects: 4,
            content: Content::Alike { size: Size::Plain(5_000_000), distinct: 1 },
            shape: Shape::default(),
            seed: 1,
            tenants: 1,
            concurrency: Some(8),
            ledger: true,
            cold: false,
            observed: None,
            https: false,
            lake: None,
        };
        let calls = [("logs:PutLogEvents", 8), ("s3:GetObject", 4), ("sqs:ReceiveMessage", 2)];
        Report {
            load,
            streams: 4,
            records: 10_010,
            events: 10_000,
            message_bytes: 3_000_000,
            stored_bytes: 4_000_000,
            plain_bytes: 20_000_000,
            wall: Duration::from_secs(1),
            cpu: Duration::from_millis(cpu_ms),
            peak_rss: 48 << 20,
            calls: calls.map(|(name, count)| (name.to_owned(), count)).into(),
            yardstick: yardstick_ms.map(Duration::from_millis),
        }
    }

    #[test]
    fn figures_are_printed_in_their_units() {
        let report = report(500, Some(250));
        assert_eq!(report.ratio(), Some(2.0));
        assert_eq!(report.rate(), Some(40.0));
        assert_eq!(report.cpu_per_event(), Some(50.0));
        assert_eq!((report.cpu_per_object(), report.objects_per_second()), (Some(125.0), 4.0));
        assert_eq!((report.other_calls(), report.puts(), report.peak_rss()), (1.5, 2.0, 48.0));
        let table = report.table();
        for line in [
            "format                array, gzip, 1 members, 200 pods",
            "MB decompressed       20.0 (4.0 as stored)",
            "yardstick CPU         0.25 s (80.0 MB per CPU second)",
            "YARDSTICK RATIO       2.00",
        ] {
            assert!(table.lines().any(|it| it == line), "no {line:?} in\n{table}");
        }
    }

    #[test]
    fn a_figure_from_too_short_a_run_is_left_out() {
        assert_eq!(report(190, Some(100)).ratio(), None);
        assert!(report(190, Some(100)).table().ends_with(
            "YARDSTICK RATIO       too short to measure
  logs:PutLogEvents                  8
  s3:GetObject                       4
  sqs:ReceiveMessage                 2
"
        ));
        assert!(report(500, None).table().contains("YARDSTICK RATIO       not applicable\n"));
    }
}
