//! Customers' lakes in memory, for tests.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};

use super::{FileSpec, LakeAccount, LakeStore, LakeWay, Part, Upload};
use crate::copy::{Copied, CopyError, CopyJob, CopyWay, ObjectCopier, memory::MemoryCopier};

/// Customers' buckets, with copies and lakes. If a test breaks a bucket of the copier, lakes in the bucket fail too. Clones share
/// the buckets.
#[derive(Clone, Debug, Default)]
pub struct MemoryBuckets {
    copier: MemoryCopier,
    /// By bucket.
    lakes: Arc<Mutex<HashMap<String, Files>>>,
}

impl Deref for MemoryBuckets {
    type Target = MemoryCopier;

    fn deref(&self) -> &MemoryCopier {
        &self.copier
    }
}

/// One bucket.
#[derive(Clone, Debug)]
pub struct MemoryLake {
    buckets: MemoryBuckets,
    bucket: String,
}

/// The files of one bucket.
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
    /// Looks at the files of a bucket.
    pub fn lake<T>(&self, bucket: &str, look: impl FnOnce(&mut Files) -> T) -> T {
        let mut lakes = self.lakes.lock().unwrap_or_else(PoisonError::into_inner);
        look(lakes.entry(bucket.to_owned()).or_default())
    }
}

impl ObjectCopier for MemoryBuckets {
    type Session = ();

    async fn closed(&self, way: &CopyWay<'_>) -> Option<CopyError> {
        self.copier.closed(way).await
    }

    async fn enter(&self, way: &CopyWay<'_>) -> Result<(), CopyError> {
        self.copier.enter(way).await
    }

    async fn copy(&self, (): &(), job: &CopyJob<'_>) -> Result<Copied, CopyError> {
        self.copier.copy(&(), job).await
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
        match self.buckets.refusal(&self.bucket) {
            Some(error) => Err(error),
            None => Ok(self.buckets.lake(&self.bucket, change)),
        }
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
            let (spec, written) = std::mem::replace(
                &mut lake.uploads[index],
                (
                    FileSpec {
                        key: String::new(),
                        content_type: "",
                        metadata: Default::default(),
                        lock: None,
                    },
                    BTreeMap::new(),
                ),
            );
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
