//! Manifests: which files of a folder count. No I/O.
//!
//! S3 changes one key at a time, so the compaction cannot replace many files by one at once. It writes the new file, and then
//! one object, the folder's manifest, says that the new file counts and that the old ones do not. The manifest is written under
//! the condition that nobody changed it meanwhile.
//!
//! A manifest is beside the folders of the files: `{bucket_prefix}manifests/{time}/{hash}.json`. `{time}` are the segments of the
//! layout that have a part of the time, for example `year=2026/month=01/day=02/hour=03`. `{hash}` are the first 16 hexadecimal
//! digits of the SHA-256 of the folder's key after `bucket_prefix`, with its slash at the end. A manifest has one JSON object in
//! each line, and at most one line for each file:
//!
//! ```json
//! {"file":"s3://b/logs/dt=2026-01-02/a.parquet","at":"2026-01-02T06:00:09Z","state":"replaced","by":"s3://b/logs/dt=2026-01-02/compacted-2f1e.parquet","records":812,"etag":"\"9bb5\""}
//! {"file":"s3://b/logs/dt=2026-01-02/compacted-2f1e.parquet","at":"2026-01-02T06:00:09Z","state":"merged"}
//! {"file":"s3://b/logs/dt=2026-01-02/compacted-77c0.parquet","at":"2026-01-02T07:00:00Z","state":"merging","merge":"d5a1","sources":["s3://b/logs/dt=2026-01-02/c.parquet"]}
//! {"file":"s3://b/logs/dt=2026-01-02/compacted-09ab.parquet","at":"2026-01-02T06:30:00Z","state":"abandoned"}
//! ```
//!
//! # The reader's rule
//!
//! A file counts
//! - if a line says that it is `merged`;
//! - not if a line says that it is `replaced` by a file that is `merged`;
//! - otherwise, if its name does not begin with `compacted-`, or if a line says that it is `replaced`.
//!
//! The last case would be a damaged manifest: no compaction leaves a file that is `replaced` by one that is not `merged`. Then readers
//! still see the file's records, and the compaction refuses the manifest.
//!
//! [`Manifest::counts`] is this rule. A reader who follows it sees every record exactly once at every moment, also if a
//! compaction was stopped in its middle.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::COMPACTED;
use crate::{digest, name::MANIFESTS};

/// Age from which the line of a replaced or abandoned file may be dropped, if the file does not exist. The worker must not write a
/// replaced file again after that. A dead letter can come back after 17 days: the queue's largest age, and 14 days in the
/// dead-letter queue. A replay writes files again once the entries of the ledger have ended, after 18 days.
const KEPT: SignedDuration = SignedDuration::from_hours(60 * 24);

/// The manifest of one folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    lines: BTreeMap<String, Entry>,
}

/// What a manifest says about a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Entry {
    /// When this became true.
    pub at: Timestamp,
    /// The file's state.
    #[serde(flatten)]
    pub state: State,
}

/// State of a file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// A compaction writes this file.
    Merging {
        /// Id of the compaction's turn at the folder. No two turns have the same.
        merge: String,
        /// URLs of the files that it is written from.
        sources: Vec<String>,
    },
    /// The file counts instead of the files that it replaced.
    Merged,
    /// The file's records are in another one.
    Replaced {
        /// The other file's URL. It is merged.
        by: String,
        /// What the merge read.
        #[serde(flatten)]
        content: Content,
    },
    /// A merge that did not end began to write this file. Nobody will ever count it.
    Abandoned,
}

/// Content of a file. A file that comes back with another number of records must not be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Content {
    /// Number of records.
    pub records: u64,
    /// ETag of the object.
    pub etag: String,
}

/// A line as it is written.
#[derive(Deserialize, Serialize)]
struct Line {
    file: String,
    #[serde(flatten)]
    entry: Entry,
}

/// URL of a file, as manifests and `"$path"` of Athena have it.
pub fn url(bucket: &str, key: &str) -> String {
    format!("s3://{bucket}/{key}")
}

/// Key of a folder's manifest. `time` are the layout's segments with the time, and `folder` is the folder's key after `prefix`.
pub fn key(prefix: &str, time: &str, folder: &str) -> String {
    format!("{prefix}{MANIFESTS}/{time}/{}.json", &digest::sha256(folder.as_bytes())[..16])
}

/// Whether a file was written by the compaction, by its key or URL.
pub fn is_compacted(file: &str) -> bool {
    file.rsplit('/').next().is_some_and(|name| name.starts_with(COMPACTED))
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// A line is none of a manifest, or the second one of its file, or its file is replaced by one that is not merged.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let failed = |problem: String| format!("line {}: {problem}", index + 1);
            let Line { file, entry } =
                serde_json::from_slice(line).map_err(|error| failed(error.to_string()))?;
            // Files in these states are deleted, or count, only because a compaction wrote them.
            let written = match &entry.state {
                State::Merging { .. } | State::Merged | State::Abandoned => &file,
                State::Replaced { by, .. } => by,
            };
            if !is_compacted(written) {
                return Err(failed(format!("{written:?} is not the name of a compacted file")));
            }
            if manifest.lines.insert(file.clone(), entry).is_some() {
                return Err(failed(format!("{file:?} has a line already")));
            }
        }
        for (file, entry) in &manifest.lines {
            if let State::Replaced { by, .. } = &entry.state
                && !manifest.is_merged(by)
            {
                return Err(format!(
                    "{file:?} is replaced by {by:?}, and no line says that this one is merged"
                ));
            }
        }
        Ok(manifest)
    }

    /// The manifest's text.
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for (file, entry) in &self.lines {
            let line = Line { file: file.clone(), entry: entry.clone() };
            serde_json::to_writer(&mut text, &line).expect("a line has only texts and numbers");
            text.push(b'\n');
        }
        text
    }

    /// The reader's rule: whether a file of the folder counts, by its URL.
    pub fn counts(&self, file: &str) -> bool {
        match self.state(file) {
            Some(State::Replaced { by, .. }) => !self.is_merged(by),
            Some(State::Merged) => true,
            _ => !is_compacted(file),
        }
    }

    fn is_merged(&self, file: &str) -> bool {
        matches!(self.state(file), Some(State::Merged))
    }

    /// What is known about a file.
    pub fn state(&self, file: &str) -> Option<&State> {
        self.lines.get(file).map(|entry| &entry.state)
    }

    /// Since when a file has its state.
    pub fn since(&self, file: &str) -> Option<Timestamp> {
        self.lines.get(file).map(|entry| entry.at)
    }

    /// All lines, by their files' URLs.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.lines.iter().map(|(file, entry)| (file.as_str(), entry))
    }

    /// The files that a merge writes, and when it began or was renewed.
    pub fn merging(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        let merging = |(_, entry): &(_, &Entry)| matches!(entry.state, State::Merging { .. });
        self.lines().filter(merging).map(|(file, entry)| (file, entry.at))
    }

    /// Begins a merge that writes `file` from `sources`.
    pub fn begin(&mut self, file: String, merge: &str, sources: Vec<String>, at: Timestamp) {
        let state = State::Merging { merge: merge.to_owned(), sources };
        self.lines.insert(file, Entry { at, state });
    }

    /// Renews the times of the merges that are under way.
    pub fn renew(&mut self, at: Timestamp) {
        for entry in self.lines.values_mut() {
            if matches!(entry.state, State::Merging { .. }) {
                entry.at = at;
            }
        }
    }

    /// Gives all merges up that are under way.
    pub fn abandon(&mut self, at: Timestamp) {
        for entry in self.lines.values_mut() {
            if matches!(entry.state, State::Merging { .. }) {
                *entry = Entry { at, state: State::Abandoned };
            }
        }
    }

    /// Ends the merge of `file`: it counts, and `sources` do not.
    pub fn replace(
        &mut self,
        sources: impl IntoIterator<Item = (String, Content)>,
        file: &str,
        at: Timestamp,
    ) {
        for (source, content) in sources {
            // Files that the source had replaced are now in the new file.
            for entry in self.lines.values_mut() {
                if let State::Replaced { by, .. } = &mut entry.state
                    && *by == source
                {
                    file.clone_into(by);
                }
            }
            let state = State::Replaced { by: file.to_owned(), content };
            self.lines.insert(source, Entry { at, state });
        }
        self.lines.insert(file.to_owned(), Entry { at, state: State::Merged });
    }

    /// Drops old lines of files that do not exist.
    pub fn forget(&mut self, now: Timestamp, exists: impl Fn(&str) -> bool) {
        self.lines.retain(|file, Entry { at, state }| {
            let closed = matches!(state, State::Replaced { .. } | State::Abandoned);
            !closed || now.duration_since(*at) < KEPT || exists(file)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    /// A source of a merge.
    fn source(file: &str) -> (String, Content) {
        (format!("s3://b/f/{file}"), Content { records: 7, etag: "\"e\"".to_owned() })
    }

    fn sample() -> Manifest {
        let mut manifest = Manifest::default();
        let begin = |manifest: &mut Manifest, number: u8, source: &str, time: &str| {
            let (file, source) = (format!("s3://b/f/compacted-{number}.gz"), format!("s3://b/f/{source}"));
            manifest.begin(file, &format!("m{number}"), vec![source], at(time));
        };
        begin(&mut manifest, 1, "a", "2026-01-02T00:00:00Z");
        manifest.abandon(at("2026-01-02T01:00:00Z"));
        begin(&mut manifest, 2, "a", "2026-01-02T01:00:00Z");
        manifest.replace([source("a"), source("b")], "s3://b/f/compacted-2.gz", at("2026-01-02T01:10:00Z"));
        begin(&mut manifest, 3, "c", "2026-01-02T02:00:00Z");
        manifest
    }

    #[test]
    fn the_readers_rule() {
        let manifest = sample();
        for (file, counts) in [
            ("a", false),
            ("b", false),
            ("c", true),
            ("d", true),
            ("x-compacted-1.gz", true),
            ("compacted-1.gz", false),
            ("compacted-2.gz", true),
            ("compacted-3.gz", false),
            ("compacted-4.gz", false),
        ] {
            assert_eq!(manifest.counts(&url("b", &format!("f/{file}"))), counts, "{file}");
        }
    }

    #[test]
    fn a_file_counts_until_the_file_that_replaced_it_is_merged() {
        let mut manifest = sample();
        for file in ["s3://b/f/compacted-2.gz", "s3://b/f/a", "s3://b/f/b"] {
            let before = manifest.counts(file);
            assert_eq!(before, is_compacted(file), "{file}");
        }
        manifest.lines.remove("s3://b/f/compacted-2.gz");
        for (file, counts) in [("a", true), ("b", true), ("compacted-2.gz", false)] {
            assert_eq!(manifest.counts(&url("b", &format!("f/{file}"))), counts, "{file}");
        }
    }

    #[test]
    fn a_manifest_is_read_back() {
        let manifest = sample();
        let text = String::from_utf8(manifest.text()).expect("UTF-8");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest.clone()), "{text}");
        let line = r#"{"file":"s3://b/f/a","at":"2026-01-02T01:10:00Z","state":"replaced","by":"s3://b/f/compacted-2.gz","records":7,"etag":"\"e\""}"#;
        assert!(text.lines().any(|found| found == line), "{text}");
        let merging: Vec<_> = manifest.merging().collect();
        assert_eq!(merging, [("s3://b/f/compacted-3.gz", at("2026-01-02T02:00:00Z"))]);
        for (bad, problem) in [
            ("x", "line 1"),
            ("{}\n", "line 1"),
            ("\n{\"file\":\"a\",\"state\":\"new\",\"at\":\"2026-01-02T01:10:00Z\"}", "line 2"),
            ("{\"file\":\"a\",\"state\":\"replaced\",\"at\":\"2026-01-02T01:10:00Z\"}", "missing"),
            (&line.replace("records", "rows"), "missing"),
            (&format!("{line}\n{line}"), "already"),
            (
                "{\"file\":\"s3://b/a\",\"state\":\"abandoned\",\"at\":\"2026-01-02T01:10:00Z\"}",
                "not the name",
            ),
            (&line.replace("/compacted-", "/c-"), "not the name"),
            (line, "no line says that this one is merged"),
            (
                &format!(
                    "{line}\n{}",
                    r#"{"file":"s3://b/f/compacted-2.gz","state":"abandoned","at":"2026-01-02T01:10:00Z"}"#
                ),
                "no line says that this one is merged",
            ),
        ] {
            let error = Manifest::parse(bad.as_bytes()).expect_err(bad);
            assert!(error.contains(problem), "{bad}: {error}");
        }
    }

    #[test]
    fn a_merged_file_that_is_merged_again_passes_its_sources_on() {
        let mut manifest = sample();
        manifest.replace([source("compacted-2.gz")], "s3://b/f/compacted-5.gz", at("2026-01-02T03:00:00Z"));
        for file in ["a", "b", "compacted-2.gz"] {
            let (file, content) = source(file);
            let by = "s3://b/f/compacted-5.gz".to_owned();
            assert_eq!(manifest.state(&file), Some(&State::Replaced { by, content }), "{file}");
        }
    }

    #[test]
    fn old_lines_are_dropped_unless_their_file_exists() {
        let check = |now: &str, exists: &str, left: usize| {
            let mut manifest = sample();
            manifest.forget(at(now), |file| file == exists);
            assert_eq!(manifest.lines().count(), left, "{now}");
            assert!(manifest.counts("s3://b/f/compacted-2.gz"));
            assert_eq!(manifest.merging().count(), 1);
        };
        check("2026-03-02T23:00:00Z", "", 5);
        check("2026-03-03T01:00:00Z", "", 4);
        check("2026-03-03T01:10:00Z", "", 2);
        check("2026-03-03T01:10:00Z", "s3://b/f/a", 3);
    }

    #[test]
    fn a_manifest_is_outside_of_all_folders() {
        let key = key("logs/", "year=2026/month=01", "source=web/year=2026/month=01/");
        assert_eq!(key.split('/').take(4).collect::<Vec<_>>().join("/"), "logs/manifests/year=2026/month=01");
        assert_eq!(key.rsplit('/').next().map(str::len), Some(16 + ".json".len()));
    }
}
