//! Objects as Vector writes them, made up from a seed: the same seed and start give the same bytes.
//!
//! The fields, their order and their escapes are those of `tests/fixtures/array-gzip`; lengths and kinds of messages
//! follow [`Shape`]. Vector's `aws_s3` sink writes one JSON array on one line, in one gzip member; so does this.

use std::io::{self, Write};

use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::Totals;

/// How large an object is to be. It ends with the record that reaches the size.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// Bytes of the gzip, give or take what the encoder still holds.
    Gzip(usize),
    /// Bytes of the JSON.
    Plain(usize),
}

/// What the records are like; shares are of 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Messages that are JSON themselves.
    pub(crate) json: f64,
    /// Messages with line breaks, tabs, quotes and colours: stack traces.
    pub(crate) escapes: f64,
    /// Messages with text that is not ASCII.
    pub(crate) non_ascii: f64,
    /// Records that are late by up to two minutes.
    pub(crate) late: f64,
    /// Records whose message is empty.
    pub(crate) empty: f64,
}

impl Default for Shape {
    /// About what the fixtures hold.
    fn default() -> Self {
        Self { json: 0.35, escapes: 0.08, non_ascii: 0.05, late: 0.01, empty: 0.003 }
    }
}

/// What an object holds and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Bytes of the gzip.
    pub(crate) gzip_len: u64,
    /// Bytes of the JSON.
    pub(crate) plain: u64,
    /// Records, those with an empty message too.
    pub(crate) records: u64,
    /// What CloudWatch Logs must accept. It takes no empty message, so those do not count.
    pub(crate) totals: Totals,
}

/// Makes one object, its first record at `start` and about a thousand records a second: what it is, and its gzip.
///
/// # Errors
/// None but those of the encoder, which writes to memory.
pub(crate) fn object(
    seed: u64,
    size: Size,
    shape: &Shape,
    start: Timestamp,
) -> io::Result<(Object, Vec<u8>)> {
    let mut generator = Generator { rng: fastrand::Rng::with_seed(seed), shape, now: start };
    let metadata = generator.metadata();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let (mut plain, mut records, mut totals) = (0, 0, Totals::default());
    let (mut message, mut record) = (String::new(), Vec::new());
    loop {
        message.clear();
        generator.message(&mut message);
        let timestamp = generator.timestamp();
        record.clear();
        record.push(if records == 0 { b'[' } else { b',' });
        metadata.record(&mut record, &message, generator.rng.u8(..) < 40, timestamp)?;
        records += 1;
        if !message.is_empty() {
            totals.add_event(timestamp.as_millisecond(), &message);
        }
        plain += record.len() as u64;
        gzip.write_all(&record)?;
        let full = match size {
            Size::Gzip(bytes) => gzip.get_ref().len() >= bytes,
            Size::Plain(bytes) => plain + 1 >= bytes as u64,
        };
        if full {
            gzip.write_all(b"]")?;
            let gzip = gzip.finish()?;
            return Ok((Object { gzip_len: gzip.len() as u64, plain: plain + 1, records, totals }, gzip));
        }
    }
}

/// Everything of a record that is the same all over its object, as JSON text.
struct Metadata {
    before_message: String,
    after_message: [String; 2],
}

impl Metadata {
    /// Appends one record, keys in Vector's (alphabetical) order.
    fn record(&self, to: &mut Vec<u8>, message: &str, stderr: bool, at: Timestamp) -> io::Result<()> {
        to.extend_from_slice(self.before_message.as_bytes());
        serde_json::to_writer(&mut *to, message)?;
        to.extend_from_slice(self.after_message[usize::from(stderr)].as_bytes());
        write!(to, "{at:.9}\"}}")
    }
}

const WORDS: &[&str] = &[
    "cache",
    "tenant",
    "order",
    "quota",
    "slow",
    "replica",
    "miss",
    "queue",
    "pod",
    "alpha",
    "retry",
    "accepted",
    "connection",
    "from",
    "upstream",
    "handler",
    "payment",
    "declined",
    "for",
    "user",
    "shard",
    "leader",
    "lost",
    "lease",
    "renewed",
    "after",
    "timeout",
    "reading",
    "request",
    "body",
    "the",
    "deadline",
    "was",
    "exceeded",
    "waiting",
    "on",
    "reconciler",
    "applied",
    "compaction",
    "finished",
    "with",
    "snapshot",
    "index",
    "watch",
];
const FOREIGN: &[&str] = &[
    "größe",
    "überlauf",
    "naïve",
    "заказ",
    "ошибка",
    "接続",
    "エラー",
    "주문",
    "🚚",
    "✅",
    "χρόνος",
    "שגיאה",
];
const LEVELS: &[&str] = &["debug", "info", "info", "info", "warn", "error"];
/// Lengths of messages: a weight, and from which length up to which.
const LENGTHS: &[(u32, usize, usize)] = &[
    (100, 24, 64),
    (200, 64, 128),
    (250, 128, 256),
    (200, 256, 512),
    (130, 512, 1024),
    (70, 1024, 2048),
    (35, 2048, 4096),
    (10, 4096, 8192),
    (5, 8192, 20_000),
];

struct Generator<'a> {
    rng: fastrand::Rng,
    shape: &'a Shape,
    now: Timestamp,
}

impl Generator<'_> {
    fn metadata(&mut self) -> Metadata {
        let rng = &mut self.rng;
        let application = format!("{}-{}", WORDS[rng.usize(..WORDS.len())], WORDS[rng.usize(..WORDS.len())]);
        let hash = format!("{:010x}", rng.u64(..1 << 40));
        let pod = format!("{application}-{hash}-{:05x}", rng.u32(..1 << 20));
        let (host, address) = (rng.u8(1..), rng.u8(1..));
        let uid = format!("{:08x}-{:04x}-4{:03x}", rng.u32(..), rng.u16(..), rng.u16(..4096));
        let uid = format!("{uid}-a{:03x}-{:012x}", rng.u16(..4096), rng.u64(..1 << 48));
        let before_message = format!(
            concat!(
                r#"{{"application":"{application}","cluster_id":"prod-cluster-1","customer_id":"acme-corp","#,
                r#""file":"/var/log/pods/{application}_{pod}/0.log","kubernetes":{{"#,
                r#""container_image":"registry.example/app:1.4.2","container_name":"{application}","#,
                r#""namespace_labels":{{"kubernetes.io/metadata.name":"{application}"}},"#,
                r#""pod_ip":"10.0.12.{address}","pod_labels":{{"app":"{application}","pod-template-hash":"{hash}"}},"#,
                r#""pod_name":"{pod}","pod_namespace":"{application}","#,
                r#""pod_node_name":"ip-10-0-1-{host}.ec2.internal","pod_owner":"ReplicaSet/{application}-{hash}","#,
                r#""pod_uid":"{uid}"}},"message":"#
            ),
            application = application,
            pod = pod,
            hash = hash,
            address = address,
            host = host,
            uid = uid,
        );
        let after = |stream| {
            format!(
                r#","pod_name":"{pod}","source_type":"kubernetes_logs","stream":"{stream}","timestamp":""#
            )
        };
        Metadata { before_message, after_message: [after("stdout"), after("stderr")] }
    }

    /// The next record's time: the clock moves on by up to two milliseconds, and a late record is behind it.
    fn timestamp(&mut self) -> Timestamp {
        self.now += SignedDuration::from_nanos(self.rng.i64(0..2_000_000));
        match self.rng.f64() < self.shape.late {
            true => self.now - SignedDuration::from_nanos(self.rng.i64(0..120_000_000_000)),
            false => self.now,
        }
    }

    fn message(&mut self, to: &mut String) {
        let Shape { json, escapes, non_ascii, empty, .. } = *self.shape;
        let length = self.length();
        let kind = self.rng.f64();
        if kind < empty {
            // Nothing.
        } else if kind < empty + json {
            self.json(to, length);
        } else if kind < empty + json + escapes {
            self.stack_trace(to, length);
        } else {
            let foreign = kind < empty + json + escapes + non_ascii;
            self.line(to, length, foreign);
        }
    }

    fn length(&mut self) -> usize {
        let weights: u32 = LENGTHS.iter().map(|(weight, ..)| weight).sum();
        let mut at = self.rng.u32(..weights);
        for &(weight, from, to) in LENGTHS {
            if at < weight {
                return self.rng.usize(from..to);
            }
            at -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }

    /// Words and values with a space in front of each, up to that length or a little more.
    fn text(&mut self, to: &mut String, length: usize, foreign: bool) {
        let end = to.len() + length;
        while to.len() < end {
            to.push(' ');
            match self.rng.u8(..16) {
                0 => to.push_str(&format!("id={:016x}", self.rng.u64(..))),
                1 => to.push_str(&format!("n={}", self.rng.u32(..))),
                2 => {
                    to.push_str(&format!("10.0.{}.{}:{}", self.rng.u8(..), self.rng.u8(..), self.rng.u16(..)))
                }
                3..7 if foreign => to.push_str(FOREIGN[self.rng.usize(..FOREIGN.len())]),
                _ => to.push_str(WORDS[self.rng.usize(..WORDS.len())]),
            }
        }
    }

    fn level(&mut self) -> &'static str {
        LEVELS[self.rng.usize(..LEVELS.len())]
    }

    fn line(&mut self, to: &mut String, length: usize, foreign: bool) {
        let (level, line) = (self.level(), self.rng.u16(1..2000));
        to.push_str(&format!("{:.6} {level} controller.go:{line}]", self.now));
        self.text(to, length.saturating_sub(50), foreign);
        if self.rng.u16(..500) == 0 {
            to.push('\0');
        }
    }

    fn json(&mut self, to: &mut String, length: usize) {
        let (level, trace, n) = (self.level(), self.rng.u128(..), self.rng.u64(..));
        to.push_str(&format!(r#"{{"level": "{level}", "ts": "{:.6}", "msg": ""#, self.now));
        self.text(to, length.saturating_sub(200), false);
        to.push_str(&format!(
            r#"", "trace_id": "{trace:032x}", "attrs": {{"path": "C:\\tmp\\query", "quote": "he"#
        ));
        to.push_str(r#" said \""#);
        self.text(to, 16, false);
        to.push_str(&format!(r#"\"", "n": {n}}}}}"#));
    }

    fn stack_trace(&mut self, to: &mut String, length: usize) {
        to.push_str("\u{1b}[31mERROR\u{1b}[0m java.lang.IllegalStateException: \"");
        self.text(to, length / 4, false);
        to.push('"');
        while to.len() < length {
            let (class, method) = (self.rng.usize(..WORDS.len()), self.rng.usize(..WORDS.len()));
            let line = self.rng.u16(1..3000);
            let (class, method) = (WORDS[class], WORDS[method]);
            to.push_str(&format!("\n\tat com.example.{class}.Service.{method}(Service.java:{line})"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::MultiGzDecoder;
    use serde_json::Value;

    use super::*;

    fn start() -> Timestamp {
        "2026-11-21T08:00:00.123456789Z".parse().expect("a timestamp")
    }

    fn made(seed: u64, size: Size) -> (Object, Vec<u8>, String) {
        let (object, gzip) = object(seed, size, &Shape::default(), start()).expect("memory takes everything");
        let mut text = String::new();
        MultiGzDecoder::new(&gzip[..]).read_to_string(&mut text).expect("it is gzip of UTF-8");
        (object, gzip, text)
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let one = made(7, Size::Plain(300_000));
        assert!(one == made(7, Size::Plain(300_000)), "the same seed");
        assert_ne!(one.0.totals.hash, made(8, Size::Plain(300_000)).0.totals.hash);
    }

    #[test]
    fn totals_are_those_of_the_records() {
        let (object, gzip, text) = made(1, Size::Plain(2_000_000));
        assert_eq!((object.plain, object.gzip_len), (text.len() as u64, gzip.len() as u64));
        let records: Vec<Value> = serde_json::from_str(&text).expect("a JSON array");
        let mut totals = Totals::default();
        for record in &records {
            let message = record["message"].as_str().expect("a string");
            let at: Timestamp =
                record["timestamp"].as_str().and_then(|at| at.parse().ok()).expect("a timestamp");
            if !message.is_empty() {
                totals.add_event(at.as_millisecond(), message);
            }
        }
        assert_eq!((object.records, object.totals), (records.len() as u64, totals));
        assert!(totals.events < object.records, "some messages are empty");
    }

    #[test]
    fn records_look_as_those_of_vector() {
        let (.., text) = made(2, Size::Plain(2_000_000));
        let real = include_str!(
            "../../../tests/fixtures/ndjson-plain/globex/hcp-eu-1/etcd/etcd-0/1795313318-ef7356a7-882e-4800-ad6c-720a672b1fda.json"
        );
        let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        let real: Value = serde_json::from_str(real.lines().next().expect("a line")).expect("JSON");
        let records: Vec<Value> = serde_json::from_str(&text).expect("a JSON array");
        for record in &records {
            assert_eq!(keys(record), keys(&real));
            assert_eq!(keys(&record["kubernetes"]), keys(&real["kubernetes"]));
        }
        let messages = || records.iter().filter_map(|record| record["message"].as_str());
        assert!(messages().any(|message| !message.is_ascii()));
        assert!(messages().any(|message| message.contains("\n\tat ")));
        assert!(messages().filter(|message| serde_json::from_str::<Value>(message).is_ok()).count() > 100);
        let times: Vec<_> = records.iter().map(|record| record["timestamp"].as_str()).collect();
        assert!(!times.is_sorted(), "some are late");
        assert!(text.starts_with("[{\"application\":") && text.ends_with("Z\"}]") && !text.contains('\n'));
    }

    #[test]
    fn sizes_are_met() {
        let (object, ..) = made(3, Size::Gzip(500_000));
        assert!((500_000..600_000).contains(&object.gzip_len), "{object:?}");
        let (object, ..) = made(3, Size::Plain(1000));
        assert!((1000..30_000).contains(&object.plain), "{}", object.plain);
    }
}
