//! Objects that a real Vector wrote, with current timestamps, and the records that must be delivered from them.
//!
//! Reads the records with serde_json instead of the worker's reader, because the demo checks that reader.

use std::io::{Read, Write};

use anyhow::Context;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use jiff::Timestamp;
use serde::Deserialize;

/// An object of a staging bucket: its key and its bytes.
type Sample = (&'static str, &'static [u8]);

macro_rules! sample {
    ($key:literal) => {
        ($key, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/array-gzip/", $key)))
    };
}

const SAMPLES: [Sample; 7] = [
    sample!(
        "acme-corp/prod-cluster-1/payment-app/payment-app-7d9f6c5b8b-x2x9q/1795313284-3fa9d9f8-d9c9-4098-80e0-80aa075ebe1a.json.gz"
    ),
    sample!(
        "acme-corp/prod-cluster-1/web/web-5f7c9d-abcde/1795313284-f4b48343-8a0c-4a54-b167-475503bb946e.json.gz"
    ),
    sample!("globex/hcp-eu-1/etcd/etcd-0/1795313284-54ec93cb-55d4-4d68-9f84-cd2318de8f4a.json.gz"),
    sample!(
        "globex/hcp-eu-1/kube-apiserver/kube-apiserver-0/1795313284-9460a961-4484-40fa-8305-3c2a9ad4a124.json.gz"
    ),
    sample!("initech/dev-1/batch/batch-27-q8w2e/1795313285-f179fefe-a924-4cdf-a5ba-7692dbe48569.json.gz"),
    sample!("initech/dev-1/i18n/i18n-0/1795313284-b0b864f4-5ea3-49c9-98d1-4aa1255f79c0.json.gz"),
    sample!(
        "initech/dev-1/tps-reports/tps-reports-6b8d-zz9pl/1795313284-bb38d750-af91-4167-b0f8-d7a4c95eafaf.json.gz"
    ),
];

/// An object to upload, and the records that must be delivered from it.
#[derive(Debug)]
pub(super) struct Upload {
    /// The key that Vector gave it.
    pub(super) key: &'static str,
    /// The gzipped object, with its timestamps moved.
    pub(super) body: Vec<u8>,
    /// The records that must arrive, in the object's order.
    pub(super) records: Vec<Record>,
    /// Number of records with an empty message. CloudWatch Logs refuses empty events, so they are skipped.
    pub(super) empty: usize,
}

/// The part of a record that CloudWatch Logs keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Record {
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    pub(super) message: String,
}

/// The fields that are read from Vector's records.
#[derive(Deserialize)]
struct Written {
    timestamp: Timestamp,
    message: String,
}

impl Upload {
    /// The tenant, which is the key's first segment.
    pub(super) fn tenant(&self) -> &'static str {
        self.key.split('/').next().unwrap_or_default()
    }
}

/// All samples, moved in time so that the latest record of each has the time `now`.
pub(super) fn uploads(now: Timestamp) -> anyhow::Result<Vec<Upload>> {
    SAMPLES
        .into_iter()
        .map(|sample| upload(sample, now).with_context(|| format!("the sample {} cannot be used", sample.0)))
        .collect()
}

fn upload((key, bytes): Sample, now: Timestamp) -> anyhow::Result<Upload> {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text)?;
    let text = logferry_testbed::samples::shift(&text, now);
    let mut body = GzEncoder::new(Vec::new(), Compression::default());
    body.write_all(text.as_bytes())?;
    let (records, empty) = expected(&text)?;
    Ok(Upload { key, body: body.finish()?, records, empty })
}

/// The records that must arrive from a decompressed object, and the number of records with an empty message.
fn expected(text: &str) -> serde_json::Result<(Vec<Record>, usize)> {
    let written: Vec<Written> = serde_json::from_str(text)?;
    let total = written.len();
    let records: Vec<_> = written
        .into_iter()
        .filter(|written| !written.message.is_empty())
        .map(|Written { timestamp, message }| Record { timestamp: timestamp.as_millisecond(), message })
        .collect();
    let empty = total - records.len();
    Ok((records, empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_its_message_and_its_millisecond() {
        let text = r#"[{"message":"a\u0000\"b\" ☃","timestamp":"2026-11-21T08:00:00.123999999Z","pod_name":"p"},
            {"message":"","timestamp":"2026-11-21T08:00:01Z"},
            {"message":" ","timestamp":"2026-11-21T09:00:01+01:00"}]"#;
        let (records, empty) = expected(text).expect("the text is JSON");
        let at = |timestamp, message: &str| Record { timestamp, message: message.to_owned() };
        assert_eq!(records, [at(1_795_248_000_123, "a\0\"b\" ☃"), at(1_795_248_001_000, " ")]);
        assert_eq!(empty, 1);
        expected(r#"[{"message":1,"timestamp":"2026-11-21T08:00:00Z"}]"#).expect_err("not in any sample");
    }

    #[test]
    fn the_samples_are_complete_and_end_now() {
        let now = Timestamp::new(1_900_000_000, 123_456_789).expect("a time");
        let uploads = uploads(now).expect("the samples can be used");
        let of = |tenant| uploads.iter().filter(|upload| upload.tenant() == tenant).count();
        assert_eq!([of("acme-corp"), of("globex"), of("initech")], [2, 2, 3]);
        for Upload { key, body, records, empty } in &uploads {
            assert_eq!(records.len() + empty, 1500, "{key}");
            let latest = records.iter().map(|record| record.timestamp).max();
            assert_eq!(latest, Some(now.as_millisecond()), "{key}");
            let mut text = String::new();
            GzDecoder::new(&body[..]).read_to_string(&mut text).expect("the body is gzip");
            let (again, _) = expected(&text).expect("the body is JSON");
            assert_eq!(&again, records, "{key}");
        }
    }
}
