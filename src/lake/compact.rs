//! Merges the small files of closed hours of a customer's lake into larger ones.
//!
//! A run finds the folders of the wanted hours (`folders`) and takes a turn at each (`turn`). A turn has these steps:
//!
//! 1. List the folder, and read its [`Manifest`](super::manifest::Manifest).
//! 2. Write into the manifest which files the turn will write (`merging`). Another compaction then leaves the folder alone. A turn
//!    renews the time of these lines while it works. If it did not for [`Setup::takeover`], the next turn says in the manifest that
//!    its files are `abandoned`. A line's time is no later than S3's for the manifest: a clock that is wrong by years must not keep the
//!    folder.
//! 3. Write the merged files (`merge`). They do not count yet.
//! 4. Write into the manifest that they count (`merged`), and their sources do not (`replaced`), by one request.
//!
//! A turn of a later run deletes the sources, [`Setup::remove_after`] after step 4.
//!
//! Each write of the manifest has the condition that nobody else wrote it since the turn read it. So of two turns at once, one
//! fails before step 4. The names of merged files are unique, also between two turns with the same sources, so whoever was
//! stopped for long cannot delete or replace a file that counts. A file is deleted only if the manifest says `replaced` or
//! `abandoned`. Both are final: a source that a message brings back later does not count, and the next turn deletes it. A delete has
//! the condition that the file still has the eTag of the listing.
//!
//! A query lists files and reads manifests at different moments. Between steps 3 and 4 a turn waits for [`Setup::settle`], for
//! queries that list first: such a query must not read the manifest of step 4 after a listing without the merged file.
//! [`Setup::remove_after`] is for queries that read the manifest first: such a query needs the sources.

mod folders;
mod merge;
mod plan;
mod site;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::folders::Folders;
use super::{
    bucket::{CompactAccount, LakeRow, Listing, ReadObject},
    manifest::url,
};
use crate::{
    copy::CopyError,
    name::LakeLayout,
    route::Route,
    tenant::{Format, Lock},
};

/// Bytes of rows in a row group.
const ROW_GROUP: usize = 64 << 20;
/// Most turns that work at once, or wait for a permit to merge.
const TURNS: usize = 64;
/// Most turns that wait for [`Setup::settle`] at once. Each holds its manifest and the names of its sources.
const SETTLING: usize = 512;

/// Estimate of the memory of one folder whose files are being merged: a source, 32 MiB for the rows that are decoded of it at once,
/// and four row groups, for the open one, its encoded bytes and what the allocator keeps. The parts were not measured one by one. A
/// test of the program measures the peak of one merge, of large sources whose rows have 1 MiB and do not compress: it stays below the
/// estimate. Other rows may take more.
pub fn memory_bound(target: u64) -> u64 {
    target / 2 + (32 << 20) + 4 * ROW_GROUP as u64
}

/// What to merge, and how. All rows of a run share it.
#[derive(Debug)]
pub struct Setup {
    /// Largest merged file, nearly. Files of less than half of it are merged.
    pub target: u64,
    /// The wanted hours begin at or after this time.
    pub since: Timestamp,
    /// The wanted hours end at or before this time.
    pub until: Timestamp,
    /// Age of another run's turn, since it was renewed, at which it is taken over.
    pub takeover: Duration,
    /// Time between the moment at which a merged file is there and the one from which it counts.
    pub settle: Duration,
    /// Time from which on a file does not count, until it is deleted.
    pub remove_after: Duration,
    /// Finds out what would be merged, and changes nothing.
    pub dry_run: bool,
    /// Permits to merge: each is one folder's memory.
    merges: Semaphore,
    turns: Arc<Semaphore>,
    settling: Semaphore,
    now: fn() -> Timestamp,
    /// Cancelled: no turn begins, and turns before step 4 give up.
    pub stop: CancellationToken,
    /// What was done so far.
    pub progress: RunCounts,
}

/// What a run has done so far.
#[derive(Debug, Default)]
pub struct RunCounts {
    /// Folders that were looked at.
    pub folders: AtomicU64,
    /// Files that were merged.
    pub merged: AtomicU64,
    /// Files that were written.
    pub written: AtomicU64,
}

impl Setup {
    /// For hours from `since` to `until`, merging in `folders` folders at once.
    pub fn new(target: u64, since: Timestamp, until: Timestamp, folders: usize) -> Self {
        Self {
            target,
            since,
            until,
            takeover: Duration::from_hours(1),
            settle: Duration::from_mins(1),
            remove_after: Duration::from_hours(1),
            dry_run: false,
            merges: Semaphore::new(folders.max(1)),
            turns: Arc::new(Semaphore::new(TURNS)),
            settling: Semaphore::new(SETTLING),
            now: Timestamp::now,
            stop: CancellationToken::new(),
            progress: RunCounts::default(),
        }
    }
}

/// A folder's place and rules. All folders of a row share the rules.
#[derive(Debug)]
struct Rules {
    bucket: String,
    prefix: String,
    layout: LakeLayout,
    route: Route,
    format: Format,
    lock: Option<Lock>,
}

/// Sums of a row, or of one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Folders of the wanted hours.
    pub folders: u64,
    /// Folders in which files were merged.
    pub merged_folders: u64,
    /// Files that were merged.
    pub merged: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Files that were written in their place.
    pub written: u64,
    /// Their bytes. In a dry run, the bytes of the sources.
    pub bytes_after: u64,
    /// Files that were deleted: an earlier run merged them, or was stopped while it wrote them, or a message brought them back.
    pub removed: u64,
    /// Folders at which another compaction works.
    pub busy: u64,
    /// What failed, with the file or folder. The rest was done.
    pub failures: Vec<String>,
}

impl Report {
    fn add(&mut self, other: Self) {
        let Self {
            folders,
            merged_folders,
            merged,
            bytes_before,
            written,
            bytes_after,
            removed,
            busy,
            failures,
        } = other;
        self.folders += folders;
        self.merged_folders += merged_folders;
        self.merged += merged;
        self.bytes_before += bytes_before;
        self.written += written;
        self.bytes_after += bytes_after;
        self.removed += removed;
        self.busy += busy;
        self.failures.extend(failures);
    }
}

/// Why a turn ended early, or a row cannot be compacted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// A call to the bucket failed.
    #[error("cannot {action} {place}: {}", told(.source))]
    Bucket {
        /// What the call does.
        action: &'static str,
        /// URL of the file or folder.
        place: String,
        /// The cause.
        source: CopyError,
    },
    /// The folder's manifest is not readable.
    #[error(
        "the manifest {place} cannot be read: {problem}; its folder stays as it is until the object is as logferry wrote it (a \
         bucket with versions has it)"
    )]
    Manifest {
        /// The manifest's URL.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The run was told to stop.
    #[error("interrupted at {0}; the next run goes on")]
    Interrupted(String),
}

/// An error's text. The texts of [`CopyError`] are for deliveries; some would name the wrong remedy here.
fn told(error: &CopyError) -> String {
    match error {
        CopyError::Denied(problem) => format!(
            "denied: {problem}; let the role of the row use s3:ListBucket, s3:GetObject, s3:PutObject, s3:DeleteObject and \
             s3:AbortMultipartUpload below bucket_prefix, and its KMS key"
        ),
        CopyError::Refused(problem) | CopyError::Unavailable(problem) => problem.clone(),
        other => other.to_string(),
    }
}

impl CompactError {
    fn of(action: &'static str, place: String) -> impl FnOnce(CopyError) -> Self {
        move |source| Self::Bucket { action, place, source }
    }
}

/// Compacts one row's lake. Failures are in the report.
pub async fn compact<A: CompactAccount>(setup: &Arc<Setup>, account: A, row: &LakeRow<'_>) -> Report {
    let LakeRow { delivery, destination, lake } = *row;
    let rules = Arc::new(Rules {
        bucket: destination.bucket_name.clone(),
        prefix: destination.bucket_prefix.clone(),
        layout: lake.layout.clone(),
        route: Route { tenant: delivery.tenant_id.clone(), ..Route::default() },
        format: lake.format.clone(),
        lock: lake.lock,
    });
    let account = Arc::new(account);
    let mut report = Report::default();
    let mut folders = Folders::new(&rules, setup.since, setup.until);
    let mut turns = JoinSet::new();
    while !setup.stop.is_cancelled() {
        match folders.next(&*account).await {
            Ok(Some(folder)) => {
                let place = Arc::clone(&setup.turns).acquire_owned().await.expect("it is never closed");
                let (setup, account, rules) = (Arc::clone(setup), Arc::clone(&account), Arc::clone(&rules));
                turns.spawn(async move { turn::take(&setup, &*account, &rules, &folder, place).await });
            }
            Ok(None) => break,
            // Folders beside and above it may be readable, but most causes hold for all.
            Err(error) => {
                report.failures.push(error.to_string());
                break;
            }
        }
        while let Some(ended) = turns.try_join_next() {
            report.add(ended.unwrap_or_else(broken));
        }
    }
    while let Some(ended) = turns.join_next().await {
        report.add(ended.unwrap_or_else(broken));
    }
    report.failures.sort();
    report
}

/// Lists everything directly below `folder`.
async fn list<A: CompactAccount>(account: &A, bucket: &str, folder: &str) -> Result<Listing, CompactError> {
    let mut all = Listing::default();
    loop {
        let page = account.list(folder, all.next).await;
        let page = page.map_err(CompactError::of("list", url(bucket, folder)))?;
        all.files.extend(page.files);
        all.folders.extend(page.folders);
        all.next = page.next;
        if all.next.is_none() {
            return Ok(all);
        }
    }
}

/// Reads an object. With `etag`, only if the object still has it.
async fn get<A: CompactAccount>(
    account: &A,
    bucket: &str,
    key: &str,
    etag: Option<&str>,
) -> Result<Option<ReadObject>, CompactError> {
    match account.get(key, etag).await {
        // A role that may list only some prefixes gets the same answer for an object that does not exist.
        Err(CopyError::Denied(_)) if !exists(account, bucket, key).await? => Ok(None),
        found => found.map_err(CompactError::of("read", url(bucket, key))),
    }
}

/// Whether an object exists.
async fn exists<A: CompactAccount>(account: &A, bucket: &str, key: &str) -> Result<bool, CompactError> {
    // Its key is the first of all that begin with it.
    let listing = account.list(key, None).await.map_err(CompactError::of("find", url(bucket, key)))?;
    Ok(listing.files.first().is_some_and(|file| file.key == key))
}

/// A turn that panicked. Its folder is as after a kill.
fn broken(error: tokio::task::JoinError) -> Report {
    Report { failures: vec![format!("a defect of logferry: {error}")], ..Report::default() }
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
