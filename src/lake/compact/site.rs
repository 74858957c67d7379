//! The calls of a turn at its folder.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{CompactError, Rules, Setup, folders::Folder, get, list};
use crate::lake::{
    FileSpec,
    bucket::{CompactAccount, ListedFile, ReadObject, Unwanted},
    manifest::{Manifest, url},
};

/// Shortest time between two renewals of a turn.
const MIN_RENEWAL: Duration = Duration::from_secs(1);

/// A folder, and the way to it.
pub(super) struct Site<'a, A> {
    pub(super) setup: &'a Setup,
    pub(super) account: &'a A,
    pub(super) rules: &'a Rules,
    pub(super) folder: &'a Folder,
}

/// A manifest, and the eTag of its object. `None`: there is no object.
pub(super) struct Read {
    pub(super) manifest: Manifest,
    /// When the object that was read was written, by S3's clock.
    pub(super) written: Option<Timestamp>,
    pub(super) etag: Option<String>,
}

impl<A: CompactAccount> Site<'_, A> {
    /// Lists all files of the folder.
    pub(super) async fn list(&self) -> Result<Vec<ListedFile>, CompactError> {
        Ok(list(self.account, &self.rules.bucket, &self.folder.key).await?.files)
    }

    pub(super) fn url(&self, key: &str) -> String {
        url(&self.rules.bucket, key)
    }

    /// The key of a file that a manifest names, if the file is in the folder.
    pub(super) fn key(&self, file: &str) -> Option<String> {
        let key = file.strip_prefix(&self.url(""))?;
        let name = key.strip_prefix(&self.folder.key)?;
        (!name.contains('/')).then(|| key.to_owned())
    }

    pub(super) async fn read(&self) -> Result<Read, CompactError> {
        let place = || self.url(&self.folder.manifest);
        let found = get(self.account, &self.rules.bucket, &self.folder.manifest, None).await?;
        let Some(ReadObject { etag, modified, body }) = found else {
            return Ok(Read { manifest: Manifest::default(), written: None, etag: None });
        };
        let manifest = Manifest::parse(&body);
        let manifest = manifest.map_err(|problem| CompactError::Manifest { place: place(), problem })?;
        Ok(Read { manifest, written: modified, etag: Some(etag) })
    }

    /// Writes the manifest if the object still has `etag`. `None`: another compaction wrote it.
    pub(super) async fn write(
        &self,
        manifest: &Manifest,
        etag: Option<&str>,
    ) -> Result<Option<String>, CompactError> {
        let spec = FileSpec {
            key: self.folder.manifest.clone(),
            content_type: "application/x-ndjson",
            metadata: Default::default(),
            lock: None,
        };
        let text = Bytes::from(manifest.text());
        let put = self.account.put_if(&spec, text.clone(), etag).await;
        if let Ok(Some(etag)) = put {
            return Ok(Some(etag));
        }
        // If the answer to a first attempt was lost, the second one finds what the first one wrote. No other turn writes the same
        // text, because the names of the files in it are unique.
        if let Ok(Some(ReadObject { etag, body, .. })) = self.account.get(&spec.key, None).await
            && body == text
        {
            return Ok(Some(etag));
        }
        put.map_err(CompactError::of("write", self.url(&spec.key)))
    }

    /// Deletes files, unless they were written again meanwhile. Returns how many were deleted.
    pub(super) async fn delete(&self, files: &[Unwanted]) -> Result<u64, CompactError> {
        if files.is_empty() {
            return Ok(0);
        }
        let stay = self.account.delete(files).await;
        let stay = stay.map_err(CompactError::of("delete files of", self.url(&self.folder.key)))?;
        Ok(files.len().saturating_sub(stay.len()) as u64)
    }

    /// The files of all merges that are under way. Nobody else writes files with their names.
    pub(super) fn unfinished(&self, manifest: &Manifest) -> Vec<Unwanted> {
        let keys = manifest.merging().filter_map(|(file, _)| self.key(file));
        keys.map(|key| Unwanted { key, etag: None }).collect()
    }

    /// Does the work of a turn, and renews the time in the manifest meanwhile, so that no other turn takes the folder over. `None`:
    /// another one did. Then `stop` is cancelled, and the work has ended.
    pub(super) async fn renewing<T>(
        &self,
        read: &mut Read,
        stop: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let every = (self.setup.takeover / 4).max(MIN_RENEWAL);
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = tokio::time::sleep(every) => {}
            }
            read.manifest.renew((self.setup.now)());
            match self.write(&read.manifest, read.etag.as_deref()).await {
                Ok(Some(etag)) => read.etag = Some(etag),
                Ok(None) => {
                    stop.cancel();
                    work.await;
                    return None;
                }
                // The next renewal may succeed. If another turn takes the folder over before, the commit fails.
                Err(_) => {}
            }
        }
    }
}
