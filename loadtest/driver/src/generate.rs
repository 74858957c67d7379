//! Generates objects as Vector writes them. The same seed and start give the same bytes.
//!
//! Fields, order and escapes are those of `tests/fixtures/array-gzip`, with the further fields of Vector's
//! `kubernetes_logs` source. The proportions are those of the reference input of the project's goals: 1,360 bytes per
//! record, 16 % of them messages, compressed 6.15:1 by gzip.

mod encode;
mod message;
mod record;

use std::io;

use clap::ValueEnum;
use jiff::{SignedDuration, Timestamp};
use logferry_sandbox::Totals;

use self::{encode::Encoder, record::Pod};

/// Size of an object. The object ends with the record that reaches the size.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// Bytes as stored, without the bytes that the encoder still holds.
    Stored(usize),
    /// Bytes of the JSON.
    Plain(usize),
}

/// Arrangement of the records in the text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Framing {
    /// One JSON array on one line, as Vector writes it.
    #[default]
    Array,
    /// One JSON array, one record per line.
    ArrayLines,
    /// One record per line.
    Ndjson,
}

impl Framing {
    /// Text before the first record, between two records, and after the last one.
    fn marks(self) -> [&'static [u8]; 3] {
        match self {
            Self::Array => [b"[", b",", b"]"],
            Self::ArrayLines => [b"[\n  ", b",\n  ", b"\n]\n"],
            Self::Ndjson => [b"", b"\n", b"\n"],
        }
    }
}

/// Compression of the stored object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Gzip at Vector's default level, 6.
    #[default]
    Gzip,
    /// Zstd at Vector's default level, 3.
    Zstd,
    /// No compression.
    None,
}

/// Properties of an object. Shares are fractions of its records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) framing: Framing,
    pub(crate) compression: Compression,
    /// Number of gzip members or zstd frames, which may end in the middle of a record. An object of very few records
    /// may have fewer.
    pub(crate) members: u32,
    /// Number of pods whose records take turns.
    pub(crate) pods: u32,
    /// Share of messages that are JSON.
    pub(crate) json: f64,
    /// Share of messages with line breaks, tabs, quotes and colours: stack traces.
    pub(crate) escapes: f64,
    /// Share of messages with text that is not ASCII.
    pub(crate) non_ascii: f64,
    /// Share of records that are late by up to two minutes.
    pub(crate) late: f64,
    /// Share of records with an empty message.
    pub(crate) empty: f64,
}

impl Default for Shape {
    /// Defaults of Vector's `aws_s3` sink, and about the shares of the fixtures. An object of one pod, as in the
    /// staging bucket's layout, compresses about 12:1, because gzip finds everything except the message in the
    /// previous record. 200 pods, as many as a node may run, give the 6:1 of the reference.
    fn default() -> Self {
        Self {
            framing: Framing::default(),
            compression: Compression::default(),
            members: 1,
            pods: 200,
            json: 0.35,
            escapes: 0.08,
            non_ascii: 0.05,
            late: 0.01,
            empty: 0.003,
        }
    }
}

/// Size of a generated object, and the totals that CloudWatch Logs must accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Bytes as stored.
    pub(crate) stored: u64,
    /// Bytes of the JSON.
    pub(crate) plain: u64,
    /// Number of records, including those with an empty message.
    pub(crate) records: u64,
    /// Totals that CloudWatch Logs must accept. Records with an empty message do not count, because CloudWatch Logs takes none.
    pub(crate) totals: Totals,
}

/// Generates one object and its bytes. The first record is at `start`, and about a thousand records follow per second.
///
/// # Errors
/// Only the encoder's errors, which do not happen because it writes to memory.
pub(crate) fn object(
    seed: u64,
    size: Size,
    shape: &Shape,
    start: Timestamp,
) -> io::Result<(Object, Vec<u8>)> {
    let mut generator = Generator { rng: fastrand::Rng::with_seed(seed), shape, now: start };
    let pods = Pod::replicas(&mut generator.rng, shape.pods);
    // Cuts use a random generator of their own, so that the records do not depend on the number of members.
    let mut knife = fastrand::Rng::with_seed(!seed);
    let mut encoder = Encoder::new(shape.compression)?;
    let [mut before, between, after] = shape.framing.marks();
    let (mut plain, mut records, mut totals, mut cuts) = (0, 0, Totals::default(), 0);
    let (mut message, mut record) = (String::new(), Vec::new());
    loop {
        message.clear();
        generator.message(&mut message);
        let timestamp = generator.timestamp();
        record.clear();
        record.extend_from_slice(before);
        before = between;
        let pod = &pods[generator.rng.usize(..pods.len())];
        pod.record(&mut record, &message, generator.rng.u8(..) < 40, timestamp)?;
        records += 1;
        if !message.is_empty() {
            totals.add_event(timestamp.as_millisecond(), &message);
        }
        plain += record.len();
        let (so_far, enough) = match size {
            Size::Stored(bytes) => (encoder.stored(), bytes),
            Size::Plain(bytes) => (plain, bytes),
        };
        let cut = cuts + 1 < shape.members
            && so_far as u64 * u64::from(shape.members) >= enough as u64 * u64::from(cuts + 1);
        if cut {
            let (head, tail) = record.split_at(knife.usize(..record.len()));
            encoder.write(head)?;
            encoder = encoder.next_member()?;
            encoder.write(tail)?;
            cuts += 1;
        } else {
            encoder.write(&record)?;
        }
        let full = match size {
            Size::Stored(bytes) => encoder.stored() >= bytes,
            Size::Plain(bytes) => plain + after.len() >= bytes,
        };
        if full {
            encoder.write(after)?;
            let bytes = encoder.finish()?;
            let (stored, plain) = (bytes.len() as u64, (plain + after.len()) as u64);
            return Ok((Object { stored, plain, records, totals }, bytes));
        }
    }
}

struct Generator<'a> {
    rng: fastrand::Rng,
    shape: &'a Shape,
    now: Timestamp,
}

impl Generator<'_> {
    /// Time of the next record. The clock advances by up to two milliseconds; a late record gets an earlier time.
    fn timestamp(&mut self) -> Timestamp {
        self.now += SignedDuration::from_nanos(self.rng.i64(0..2_000_000));
        match self.rng.f64() < self.shape.late {
            true => self.now - SignedDuration::from_nanos(self.rng.i64(0..120_000_000_000)),
            false => self.now,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::{GzDecoder, MultiGzDecoder};
    use serde_json::Value;

    use super::*;

    fn start() -> Timestamp {
        "2026-11-21T08:00:00.123456789Z".parse().expect("a timestamp")
    }

    fn made_as(shape: &Shape, seed: u64, size: Size) -> (Object, Vec<u8>, String) {
        let (object, bytes) = object(seed, size, shape, start()).expect("memory takes everything");
        let mut text = String::new();
        let read = match shape.compression {
            Compression::Gzip => MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text),
            Compression::Zstd => {
                zstd::stream::read::Decoder::new(&bytes[..]).and_then(|mut it| it.read_to_string(&mut text))
            }
            Compression::None => (&bytes[..]).read_to_string(&mut text),
        };
        read.expect("the object is complete and UTF-8");
        (object, bytes, text)
    }

    fn made(seed: u64, size: Size) -> (Object, Vec<u8>, String) {
        made_as(&Shape::default(), seed, size)
    }

    #[test]
    fn the_seed_decides_every_byte() {
        let one = made(7, Size::Plain(300_000));
        assert!(one == made(7, Size::Plain(300_000)), "the same seed gives the same object");
        assert_ne!(one.0.totals.hash, made(8, Size::Plain(300_000)).0.totals.hash);
    }

    #[test]
    fn the_proportions_match_the_reference() {
        for seed in 0..3 {
            let (object, ..) = made(seed, Size::Plain(8_000_000));
            let share = object.totals.bytes as f64 / object.plain as f64;
            let record = object.plain as f64 / object.records as f64;
            let ratio = object.plain as f64 / object.stored as f64;
            let shown = format!("seed {seed}: messages {share:.3}, record {record:.0}, gzip {ratio:.2}");
            assert!((0.15..0.17).contains(&share), "{shown}");
            assert!((1300.0..1420.0).contains(&record), "{shown}");
            assert!((5.8..6.5).contains(&ratio), "{shown}");
        }
    }

    #[test]
    fn the_totals_match_the_records() {
        let compressions = [Compression::Gzip, Compression::Zstd, Compression::None];
        for (framing, compression) in
            [Framing::Array, Framing::ArrayLines, Framing::Ndjson].into_iter().zip(compressions)
        {
            let shape = Shape { framing, compression, ..Shape::default() };
            let (object, bytes, text) = made_as(&shape, 1, Size::Plain(2_000_000));
            assert_eq!((object.plain, object.stored), (text.len() as u64, bytes.len() as u64));
            let records: Vec<Value> = match framing {
                Framing::Ndjson => text
                    .lines()
                    .map(|line| serde_json::from_str(line).expect("one record per line"))
                    .collect(),
                _ => serde_json::from_str(&text).expect("a JSON array"),
            };
            let lines = text.lines().count() as u64;
            let expected = match framing {
                Framing::Array => 1,
                Framing::ArrayLines => object.records + 2,
                Framing::Ndjson => object.records,
            };
            assert_eq!(lines, expected, "{framing:?}");
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
    }

    #[test]
    fn members_may_end_within_a_record() {
        let whole = made(4, Size::Plain(500_000)).2;
        for size in [Size::Plain(500_000), Size::Stored(800_000)] {
            let shape = Shape { members: 8, ..Shape::default() };
            let (_, bytes, text) = made_as(&shape, 4, size);
            let common = text.len().min(whole.len()) - 1;
            assert_eq!(text.get(..common), whole.get(..common), "the same records");
            let (mut rest, mut members, mut within) = (&bytes[..], 0, 0);
            while !rest.is_empty() {
                let mut member = Vec::new();
                // This decoder leaves the bytes after the member in `rest`.
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                decoder.read_to_end(&mut member).expect("a whole member");
                rest = decoder.into_inner();
                members += 1;
                within += u32::from(!rest.is_empty() && !member.ends_with(b"}"));
            }
            assert_eq!(members, 8, "{size:?}");
            assert!(within > 4, "{within} members end within a record");
            let mut first = String::new();
            GzDecoder::new(&bytes[..]).read_to_string(&mut first).expect("UTF-8 up to a cut in ASCII");
            assert!(first.len() < text.len() / 4, "{size:?}");
        }
        let shape = Shape { members: 5, compression: Compression::Zstd, ..Shape::default() };
        let (_, bytes, text) = made_as(&shape, 4, Size::Plain(500_000));
        assert!(text.len() >= 500_000);
        assert!(bytes.windows(4).filter(|magic| *magic == [0x28, 0xb5, 0x2f, 0xfd]).count() >= 5);
    }

    #[test]
    fn records_look_like_those_of_vector() {
        let (.., text) = made(2, Size::Plain(6_000_000));
        let real = include_str!(
            "../../../tests/fixtures/ndjson-plain/globex/hcp-eu-1/etcd/etcd-0/1795313318-ef7356a7-882e-4800-ad6c-720a672b1fda.json"
        );
        let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        let real: Value = serde_json::from_str(real.lines().next().expect("a line")).expect("JSON");
        let records: Vec<Value> = serde_json::from_str(&text).expect("a JSON array");
        for record in &records {
            assert_eq!(keys(record), keys(&real));
            let (ours, theirs) = (keys(&record["kubernetes"]), keys(&real["kubernetes"]));
            assert!(theirs.iter().all(|key| ours.contains(key)), "{ours:?}");
        }
        let messages = || records.iter().filter_map(|record| record["message"].as_str());
        assert!(messages().any(|message| !message.is_ascii()));
        assert!(messages().any(|message| message.contains("\n\tat ")));
        assert!(messages().any(|message| message.len() > 8_000), "the lengths have a tail");
        let short = messages().filter(|message| message.len() < 256).count();
        assert!(short * 10 > records.len() * 7, "{short} of {} are short", records.len());
        assert!(messages().filter(|message| serde_json::from_str::<Value>(message).is_ok()).count() > 100);
        let times: Vec<_> = records.iter().map(|record| record["timestamp"].as_str()).collect();
        assert!(!times.is_sorted(), "some are late");
        assert!(text.starts_with("[{\"application\":") && text.ends_with("Z\"}]") && !text.contains('\n'));
        for part in text[1..].split(r#""kubernetes":{"#).skip(1).take(10) {
            let keys: Vec<_> =
                ["container_id", "container_name", "namespace_labels", "pod_annotations", "pod_uid"]
                    .map(|key| part.find(&format!("\"{key}\":")))
                    .into();
            assert!(keys.is_sorted() && keys[0].is_some(), "Vector sorts keys: {keys:?}");
        }
    }

    #[test]
    fn objects_have_the_requested_size() {
        let (object, ..) = made(3, Size::Stored(500_000));
        assert!((500_000..600_000).contains(&object.stored), "{object:?}");
        let (object, ..) = made(3, Size::Plain(1000));
        assert!((1000..30_000).contains(&object.plain), "{}", object.plain);
        assert_eq!(object.records, 1);
    }
}
