//! Customers' buckets in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};

use super::{FileSpec, LakeAccount, LakeStore, LakeWay, Part, Upload};
use crate::{
    copy::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier},
    credentials::AssumeError,
};

/// Buckets by name, with copies and lakes. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryBuckets {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// The source of each copy, by bucket and key.
    copies: BTreeMap<(String, String), String>,
    lakes: HashMap<String, Files>,
    refusals: HashMap<String, CopyError>,
    closed: HashMap<String, AssumeError>,
    superseding: HashSet<String>,
    calls: usize,
}

/// One bucket.
#[derive(Clone, Debug)]
pub struct MemoryLake {
    buckets: MemoryBuckets,
    bucket: String,
}

/// The lake files of one bucket.
#[derive(Debug, Default)]
pub struct Files {
    /// Contents by key.
    pub files: BTreeMap<String, (FileSpec, Bytes)>,
    /// Uploads that are not complete.
    pub uploads: Vec<(FileSpec, BTreeMap<i32, Bytes>)>,
    /// Number of the part that S3 does not take, once.
    pub fails_at_part: Option<i32>,
}

impl MemoryBuckets {
    /// Makes every write into this bucket fail with `error`, until [`mend`](Self::mend) is called.
    pub fn break_bucket(&self, bucket: &str, error: CopyError) {
        self.state().refusals.insert(bucket.to_owned(), error);
    }

    /// Makes entering the role for this bucket fail with `error`, until [`mend`](Self::mend) is called.
    pub fn close_role(&self, bucket: &str, error: AssumeError) {
        self.state().closed.insert(bucket.to_owned(), error);
    }

    /// Makes every copy into this bucket find a later version of its object.
    pub fn supersede(&self, bucket: &str) {
        self.state().superseding.insert(bucket.to_owned());
    }

    /// Undoes [`break_bucket`](Self::break_bucket) and [`close_role`](Self::close_role).
    pub fn mend(&self, bucket: &str) {
        self.state().refusals.remove(bucket);
        self.state().closed.remove(bucket);
    }

    /// Key and source of every copy in the bucket.
    pub fn copies(&self, bucket: &str) -> Vec<(String, String)> {
        let state = self.state();
        let inside = state.copies.iter().filter(|((name, _), _)| name == bucket);
        inside.map(|((_, key), source)| (key.clone(), source.clone())).collect()
    }

    /// Number of copies that were asked for.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// Looks at the lake files of a bucket.
    pub fn lake<T>(&self, bucket: &str, look: impl FnOnce(&mut Files) -> T) -> T {
        look(self.state().lakes.entry(bucket.to_owned()).or_default())
    }

    fn closed_bucket(&self, bucket: &str) -> Option<CopyError> {
        let held = |error: &CopyError| matches!(error, CopyError::Session(AssumeError::Held { .. }));
        self.enter_bucket(bucket).err().filter(held)
    }

    fn enter_bucket(&self, bucket: &str) -> Result<(), CopyError> {
        let closed = self.state().closed.get(bucket).cloned();
        closed.map_or(Ok(()), |error| Err(CopyError::Session(error)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ObjectCopier for MemoryBuckets {
    type Session = ();

    async fn closed(&self, way: &CopyWay<'_>) -> Option<CopyError> {
        self.closed_bucket(&way.destination.bucket_name)
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<(), CopyError> {
        way.key()?;
        self.enter_bucket(&way.destination.bucket_name)
    }

    async fn copy(&self, (): &(), job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        // Like a network call, let other tasks run first.
        tokio::task::yield_now().await;
        job.check_size()?;
        let key = job.way.key()?;
        let bucket = &job.way.destination.bucket_name;
        let mut state = self.state();
        state.calls += 1;
        if let Some(error) = state.refusals.get(bucket) {
            return Err(error.clone());
        }
        if state.superseding.contains(bucket) {
            return Ok(Copied::Superseded);
        }
        state.copies.insert((bucket.clone(), key), job.source());
        Ok(Copied::Written)
    }
}

impl LakeStore for MemoryBuckets {
    type Account = MemoryLake;

    async fn lake_closed(&self, way: &LakeWay<'_>) -> Option<CopyError> {
        self.closed_bucket(&way.destination.bucket_name)
    }

    async fn enter_lake(&self, way: &LakeWay<'_>) -> Result<MemoryLake, CopyError> {
        let bucket = way.destination.bucket_name.clone();
        self.enter_bucket(&bucket)?;
        Ok(MemoryLake { buckets: self.clone(), bucket })
    }
}

impl MemoryLake {
    async fn change<T>(&self, change: impl FnOnce(&mut Files) -> T) -> Result<T, CopyError> {
        // Like a network call, let other tasks run first.
        tokio::task::yield_now().await;
        let refusal = self.buckets.state().refusals.get(&self.bucket).cloned();
        refusal.map_or_else(|| Ok(self.buckets.lake(&self.bucket, change)), Err)
    }
}

impl LakeAccount for MemoryLake {
    async fn put(&self, file: &FileSpec, body: Bytes) -> Result<(), CopyError> {
        self.change(|lake| drop(lake.files.insert(file.key.clone(), (file.clone(), body)))).await
    }

    async fn begin(&self, file: &FileSpec) -> Result<String, CopyError> {
        self.change(|lake| {
            lake.uploads.push((file.clone(), BTreeMap::new()));
            (lake.uploads.len() - 1).to_string()
        })
        .await
    }

    async fn part(&self, upload: &Upload, number: i32, body: Bytes) -> Result<Part, CopyError> {
        let index: usize = upload.id.parse().expect("an id of this store");
        let is_taken = self.change(|lake| {
            let is_taken = lake.fails_at_part.take_if(|part| *part == number).is_none();
            if is_taken {
                lake.uploads[index].1.insert(number, body);
            }
            is_taken
        });
        if !is_taken.await? {
            return Err(CopyError::Unavailable("no answer".to_owned()));
        }
        Ok(Part { number, etag: Some(number.to_string()) })
    }

    async fn complete(&self, upload: &Upload, parts: Vec<Part>) -> Result<(), CopyError> {
        let index: usize = upload.id.parse().expect("an id of this store");
        self.change(|lake| {
            let (spec, written) = &mut lake.uploads[index];
            let (spec, written) = (spec.clone(), std::mem::take(written));
            assert!(parts.iter().map(|part| part.number).eq(written.keys().copied()), "{parts:?}");
            let short = |body: &Bytes| body.len() < super::parts::MIN_PART;
            assert!(!written.values().rev().skip(1).any(short), "a part before the last one is too short");
            let mut body = BytesMut::new();
            written.values().for_each(|part| body.extend_from_slice(part));
            lake.files.insert(upload.key.clone(), (spec, body.freeze()));
        })
        .await
    }

    async fn abort(&self, upload: &Upload) {
        let index: usize = upload.id.parse().expect("an id of this store");
        let _ = self.change(|lake| lake.uploads[index].1.clear()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::tests::Order;

    #[tokio::test]
    async fn copies_arrive_unless_the_bucket_is_broken() {
        let copier = MemoryBuckets::default();
        let order = Order::new("a/c/b/p/f", &[("target_region", "us-east-1"), ("bucket_name", "theirs")]);
        copier.break_bucket("theirs", CopyError::Throttled("slow down".into()));
        assert!(matches!(copier.copy(&(), &order.job()).await, Err(CopyError::Throttled(_))));
        assert_eq!(copier.copies("theirs"), []);
        copier.mend("theirs");
        for _ in 0..2 {
            assert_eq!(copier.copy(&(), &order.job()).await, Ok(Copied::Written));
        }
        let copies = [("ROSA/cluster-logs/a/b/p/f".to_owned(), "staging/a/c/b/p/f".to_owned())];
        assert_eq!((copier.copies("theirs"), copier.calls()), (copies.into(), 3));
    }
}
