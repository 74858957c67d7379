//! A bucket in memory that checks the reader's rule after each call, and that can stop its caller at any call.

use std::{
    collections::{BTreeMap, HashMap},
    io::{Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{read::MultiGzDecoder, write::GzEncoder};
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::{
    copy::CopyError,
    digest,
    lake::{
        FileSpec, LakeAccount, Part, Upload,
        bucket::{CompactAccount, ListedFile, Listing, ReadObject, Unwanted},
        manifest::{Manifest, url},
        parquet::{ParquetReader, ParquetWriter},
        parts::MIN_PART,
        record::LakeRecord,
    },
    tenant::Compression,
};

pub(super) const BUCKET: &str = "theirs";

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The caller is killed before the call has an effect.
    KillBefore,
    /// The caller is killed after the call.
    KillAfter,
    /// The call has an effect, and its answer is lost.
    Lose,
    /// The call has an effect. Its answer is lost, and the SDK calls again: a conditional write then finds its own object.
    Repeat,
}

/// The bucket's objects, which all handles share.
#[derive(Debug, Default)]
pub(super) struct Objects {
    pub(super) objects: BTreeMap<String, Bytes>,
    uploads: Vec<Option<BTreeMap<i32, Bytes>>>,
    /// The records that a reader must see, in order.
    pub(super) records: Vec<String>,
    /// What a reader saw instead.
    pub(super) violations: Vec<String>,
    decoded: HashMap<String, Vec<String>>,
    /// A read of an object that does not exist is denied.
    pub(super) denies: bool,
    /// An object that is written right before it is deleted.
    pub(super) comes_back: Option<(String, Bytes)>,
    /// When all objects were written.
    pub(super) modified: Option<Timestamp>,
    /// An object that listings of its folder still have: it is deleted right after them.
    pub(super) vanishes: Option<String>,
}

/// One process that uses the bucket.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    shared: Arc<Mutex<Objects>>,
    process: Arc<Mutex<Process>>,
}

#[derive(Debug, Default)]
struct Process {
    calls: usize,
    fault: Option<(usize, Fault)>,
    killed: bool,
    /// Lets other processes go on at random.
    random: Option<fastrand::Rng>,
    /// Time that each call takes.
    latency: Duration,
    /// The process stands still before this call until the semaphore has a permit.
    gate: Option<(usize, Arc<Semaphore>)>,
}

impl Handle {
    pub(super) fn new(shared: &Arc<Mutex<Objects>>) -> Self {
        Self { shared: Arc::clone(shared), process: Arc::default() }
    }

    pub(super) fn with_fault(self, at: usize, fault: Fault) -> Self {
        lock(&self.process).fault = Some((at, fault));
        self
    }

    pub(super) fn interleaved(self, seed: u64) -> Self {
        lock(&self.process).random = Some(fastrand::Rng::with_seed(seed));
        self
    }

    pub(super) fn paused_at(self, call: usize, gate: &Arc<Semaphore>) -> Self {
        lock(&self.process).gate = Some((call, Arc::clone(gate)));
        self
    }

    pub(super) fn slow(self, latency: Duration) -> Self {
        lock(&self.process).latency = latency;
        self
    }

    pub(super) fn calls(&self) -> usize {
        lock(&self.process).calls
    }

    /// Whether the fault has happened.
    pub(super) fn struck(&self) -> bool {
        let process = lock(&self.process);
        process.fault.is_some_and(|(at, _)| process.calls > at)
    }

    async fn pause(&self) {
        let pauses = lock(&self.process).random.as_mut().map_or(1, |random| random.usize(0..8));
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        let gate = {
            let process = lock(&self.process);
            process.gate.clone().filter(|(call, _)| *call == process.calls)
        };
        if let Some((_, gate)) = gate {
            drop(gate.acquire().await.expect("it is never closed"));
        }
    }

    async fn call<T>(&self, effect: impl Fn(&mut Objects) -> T) -> Result<T, CopyError> {
        self.pause().await;
        let latency = lock(&self.process).latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let result = {
            let mut process = lock(&self.process);
            let fault = process.fault.filter(|(at, _)| *at == process.calls).map(|(_, fault)| fault);
            process.calls += 1;
            let lost = || Err(CopyError::Unavailable("no answer".to_owned()));
            if process.killed || fault == Some(Fault::KillBefore) {
                process.killed = true;
                return lost();
            }
            let mut objects = lock(&self.shared);
            let mut result = effect(&mut objects);
            if fault == Some(Fault::Repeat) {
                result = effect(&mut objects);
            }
            objects.look();
            match fault {
                Some(Fault::KillAfter) => {
                    process.killed = true;
                    return lost();
                }
                Some(Fault::Lose) => return lost(),
                _ => result,
            }
        };
        self.pause().await;
        Ok(result)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn etag(body: &[u8]) -> String {
    format!("\"{}\"", digest::sha256(body))
}

impl Objects {
    /// Puts a file with a record for each number.
    pub(super) fn put(&mut self, key: &str, records: &[u32]) {
        let body = file(key, records);
        self.objects.insert(key.to_owned(), body);
        self.records.extend(records.iter().map(u32::to_string));
        self.records.sort();
    }

    /// Reads everything as the reader's rule says, and compares.
    pub(super) fn look(&mut self) {
        let manifests = self.objects.iter().filter(|(key, _)| key.contains("manifests/"));
        let manifests: Vec<_> = manifests.filter_map(|(_, text)| Manifest::parse(text).ok()).collect();
        let mut found = Vec::new();
        for (key, body) in &self.objects {
            let file = url(BUCKET, key);
            // A file's lines are in its folder's manifest alone.
            let known = manifests.iter().find(|manifest| manifest.state(&file).is_some());
            let counts =
                known.map_or_else(|| Manifest::default().counts(&file), |manifest| manifest.counts(&file));
            if key.contains("manifests/") || !counts {
                continue;
            }
            let decoded = self.decoded.entry(etag(body)).or_insert_with(|| records(key, body));
            found.extend(decoded.iter().cloned());
        }
        found.sort();
        if found != self.records && self.violations.len() < 5 {
            self.violations.push(format!("{found:?} in {:?}", self.objects.keys()));
        }
    }
}

/// A file's bytes.
pub(super) fn file(key: &str, records: &[u32]) -> Bytes {
    if key.ends_with(".parquet") {
        let mut writer = ParquetWriter::new(Compression::Zstd).expect("a file");
        for record in records {
            let message = record.to_string();
            let row =
                LakeRecord { message: &message, tenant: "acme", application: "web", ..LakeRecord::default() };
            writer.push(&row);
        }
        return writer.finish().expect("a file").into();
    }
    let lines: Vec<_> = records.iter().map(|record| format!("{{\"message\":\"{record}\"}}")).collect();
    // The last line has no end: some programs write files like this.
    gzip(&lines.join("\n"))
}

pub(super) fn gzip(text: &str) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("a vector takes all");
    encoder.finish().expect("a vector takes all").into()
}

/// The records of a file. An unreadable file has none.
pub(super) fn records(key: &str, body: &Bytes) -> Vec<String> {
    let mut found = Vec::new();
    if key.ends_with(".parquet") {
        let Ok(mut reader) = ParquetReader::new(body.clone()) else { return found };
        while let Ok(Some(row)) = reader.next_row() {
            assert_eq!((row.tenant, row.application), ("acme", "web"));
            found.push(row.message.to_owned());
        }
        return found;
    }
    let mut text = String::new();
    if MultiGzDecoder::new(&body[..]).read_to_string(&mut text).is_err() {
        return found;
    }
    for line in text.lines() {
        let line = serde_json::from_str::<serde_json::Value>(line).ok();
        // A file with another line is not of this lake.
        found.extend(line.and_then(|line| Some(line["message"].as_str()?.to_owned())));
    }
    found
}

impl LakeAccount for Handle {
    async fn put(&self, file: &FileSpec, body: Bytes) -> Result<(), CopyError> {
        self.call(|shared| drop(shared.objects.insert(file.key.clone(), body.clone()))).await
    }

    async fn begin(&self, _: &FileSpec) -> Result<String, CopyError> {
        self.call(|shared| {
            shared.uploads.push(Some(BTreeMap::new()));
            (shared.uploads.len() - 1).to_string()
        })
        .await
    }

    async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part, CopyError> {
        let index: usize = upload.id.parse().expect("an id of this bucket");
        self.call(|shared| {
            let parts = shared.uploads[index].as_mut().expect("the upload is open");
            parts.insert(number, body.clone());
        })
        .await?;
        Ok(Part { number, etag: None })
    }

    async fn complete(&self, upload: &Upload, parts: Vec<Part>) -> Result<(), CopyError> {
        let index: usize = upload.id.parse().expect("an id of this bucket");
        self.call(|shared| {
            let Some(written) = shared.uploads[index].take() else { return };
            assert!(parts.iter().map(|part| part.number).eq(written.keys().copied()), "{parts:?}");
            assert!(!written.values().rev().skip(1).any(|part| part.len() < MIN_PART), "a short part");
            let mut body = BytesMut::new();
            written.values().for_each(|part| body.extend_from_slice(part));
            shared.objects.insert(upload.key.clone(), body.freeze());
        })
        .await
    }

    async fn abort(&self, upload: &Upload) {
        let index: usize = upload.id.parse().expect("an id of this bucket");
        let _ = self.call(|shared| drop(shared.uploads[index].take())).await;
    }
}

/// Most entries of a page of a listing: few, so that listings have pages.
const PAGE: usize = 3;

impl CompactAccount for Handle {
    async fn list(&self, prefix: &str, token: Option<String>) -> Result<Listing, CopyError> {
        self.call(|shared| {
            let mut page = Listing::default();
            for (key, body) in shared.objects.range(prefix.to_owned()..) {
                let Some(rest) = key.strip_prefix(prefix) else { break };
                let entry = match rest.find('/') {
                    Some(at) => &key[..prefix.len() + at + 1],
                    None => key,
                };
                if token.as_deref().is_some_and(|token| entry <= token)
                    || page.folders.last().is_some_and(|last| last == entry)
                {
                    continue;
                }
                if page.files.len() + page.folders.len() == PAGE {
                    let last = page.files.last().map(|file| &file.key).max(page.folders.last());
                    page.next = last.cloned();
                    break;
                }
                match entry == key {
                    true => {
                        let size = body.len() as u64;
                        page.files.push(ListedFile { key: key.clone(), size, etag: etag(body) });
                    }
                    false => page.folders.push(entry.to_owned()),
                }
            }
            if let Some(key) = shared.vanishes.clone().filter(|key| key.starts_with(prefix) && key != prefix)
                && page.next.is_none()
                && !key[prefix.len()..].contains('/')
            {
                page.files.push(ListedFile { key, size: 1, etag: "gone".to_owned() });
            }
            page
        })
        .await
    }

    async fn get(&self, key: &str, tag: Option<&str>) -> Result<Option<ReadObject>, CopyError> {
        self.call(|shared| {
            let Some(body) = shared.objects.get(key).cloned() else {
                return if shared.denies {
                    Err(CopyError::Denied("no permission".to_owned()))
                } else {
                    Ok(None)
                };
            };
            let found = etag(&body);
            let modified = shared.modified;
            Ok((tag.is_none_or(|tag| tag == found)).then_some(ReadObject { etag: found, modified, body }))
        })
        .await?
    }

    async fn put_if(
        &self,
        file: &FileSpec,
        body: Bytes,
        tag: Option<&str>,
    ) -> Result<Option<String>, CopyError> {
        self.call(|shared| {
            let there = shared.objects.get(&file.key).map(|body| etag(body));
            if there.as_deref() != tag {
                return None;
            }
            shared.objects.insert(file.key.clone(), body.clone());
            Some(etag(&body))
        })
        .await
    }

    async fn delete(&self, files: &[Unwanted]) -> Result<Vec<String>, CopyError> {
        self.call(|shared| {
            if let Some((key, body)) =
                shared.comes_back.take_if(|(key, _)| files.iter().any(|file| file.key == *key))
            {
                shared.objects.insert(key, body);
            }
            let mut stay = Vec::new();
            for Unwanted { key, etag: wanted } in files {
                let found = shared.objects.get(key).map(|body| etag(body));
                match (wanted, found) {
                    (Some(wanted), Some(found)) if *wanted != found => stay.push(key.clone()),
                    _ => drop(shared.objects.remove(key)),
                }
            }
            stay
        })
        .await
    }
}
